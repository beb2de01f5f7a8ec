"""The axes of a result, as far as its record depends on them."""

from __future__ import annotations

from hs_autoptycho._units import read_unit


class AxesError(ValueError):
    """A signal's axes are no longer those that its record speaks of; the message says why."""


def check_order(signal, names: tuple[str, str] = ("y", "x")) -> None:
    """Refuse a signal whose axes have changed places.

    Parameters
    ----------
    signal
        Its record has the rows and columns of an image, which the last two axes of the array have
        to be.
    names
        Of the axes of the rows and of the columns. Axes that were given other names pass: what
        they are cannot be told.

    Raises
    ------
    AxesError
        If both are there, but in another order or not as signal axes.
    """
    axes = signal.axes_manager
    found = [axis.name for axis in (*axes.navigation_axes[::-1], *axes.signal_axes[::-1])]
    y, x = names
    if x != y and {x, y} <= set(found) and found[-2:] != [y, x]:
        turned = tuple(axis.name for axis in axes.signal_axes)
        raise AxesError(
            f"the signal axes are {turned}, those of the result were {(x, y)}: axes were "
            f"exchanged, and its record was not. Turn the signal back first, with "
            f"signal.transpose(signal_axes={(x, y)})"
        )


def angstroms(axis) -> float:
    """Å in one unit of the axis."""
    unit = read_unit(axis.units)
    if unit.kind != "length":
        raise ValueError(
            f"the axis {axis.name} has the units {axis.units!r}, which are no length; set "
            f"axes_manager[{axis.name!r}].units to 'Å' or 'nm', and its scale with it"
        )
    return unit.factor
