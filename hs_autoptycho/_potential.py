"""The specimen of a design, from a HyperSpy signal, ase's atoms or abTEM's potential."""

from __future__ import annotations

import math
import numbers
import unicodedata
from typing import Any

import numpy as np

from hs_autoptycho._units import UnitError, read_unit
from hs_autoptycho.data._multislice import interaction_parameter
from hs_autoptycho.design.instrument import DesignError
from hs_autoptycho.design.options import choose
from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.interop._abtem import is_potential, potential_slices

# sampling in Å at which abTEM makes a potential of atoms
_ATOMS_PIXEL = 0.1


def read_potential(
    potential: Any,
    beam_energy: float,
    *,
    quantity: str | None = None,
    slice_thickness: float | None = None,
) -> Specimen:
    """A specimen from a signal, ase's atoms or abTEM's potential; see `design_experiment`."""
    if hasattr(potential, "get_positions") and hasattr(potential, "get_cell"):
        if quantity is not None:
            raise DesignError("quantity is that of a signal's values, and atoms have none.")
        return _from_atoms(potential, beam_energy, slice_thickness)
    if is_potential(potential):
        for name, value in (("quantity", quantity), ("slice_thickness", slice_thickness)):
            if value is not None:
                raise DesignError(f"{name} is known of abTEM's potential: leave it out.")
        return _from_abtem(potential, beam_energy)
    if not hasattr(potential, "axes_manager"):
        message = (
            "potential is a HyperSpy Signal2D, an ase Atoms or an abTEM Potential, not "
            f"{type(potential).__name__}."
        )
        if isinstance(potential, np.ndarray):
            message += (
                " Make a signal of an array (y, x) or (slice, y, x), "
                "`s = hs.signals.Signal2D(array)`, with the scale and the units of its axes, and "
                "say what its values are, `quantity=...`."
            )
        raise TypeError(message)
    axes = potential.axes_manager
    if axes.signal_dimension != 2 or axes.navigation_dimension > 1:
        raise DesignError(
            "potential: two signal axes (x, y) and at most one navigation axis, the depth of the "
            f"slices, are needed, not {axes.navigation_dimension} navigation and "
            f"{axes.signal_dimension} signal axes."
        )
    data = np.asarray(potential.data)
    if np.iscomplexobj(data) or not np.all(np.isfinite(data)):
        raise DesignError("potential: the values have to be real and finite.")
    pixels, origin = [], []
    for axis in axes.signal_axes[::-1]:
        factor = _length_factor(axis)
        if not axis.scale > 0:
            raise DesignError(f"potential: the scale of axis {axis.name} has to be above 0.")
        pixels.append(axis.scale * factor)
        origin.append(axis.offset * factor)
    _check_square(pixels, "interpolate the signal (`rebin`, `interpolate_on_axis`)")
    spacings: tuple[float, ...] = ()
    if axes.navigation_dimension:
        spacings = _spacings(axes.navigation_axes[0], slice_thickness)
    data = data.reshape(-1, *data.shape[-2:]).astype(float)
    if _quantity(potential, quantity) == "potential":
        data = data * interaction_parameter(beam_energy)
    return Specimen(data, float(np.mean(pixels)), spacings, (float(origin[0]), float(origin[1])))


def depth_note(potential: Any, specimen: Specimen, wavelength: float, angle: float) -> list[str]:
    """A sentence if atoms in one slice are thicker than the depth of focus at an angle in mrad."""
    if not hasattr(potential, "get_positions") or specimen.spacings:
        return []
    thickness = float(np.ptp(np.asarray(potential.get_positions())[:, 2]))
    depth = wavelength / (angle * 1e-3) ** 2
    if thickness <= depth:
        return []
    return [
        f"The atoms are {thickness:.0f} Å thick, more than the depth of focus of {depth:.0f} Å at "
        f"{angle:.4g} mrad, and were projected onto one slice: give slice_thickness."
    ]


def _length_factor(axis: Any) -> float:
    """Å a unit of an axis of the signal."""
    if not axis.is_uniform:
        raise DesignError(f"potential: axis {axis.name} is not uniform: interpolate the signal.")
    try:
        unit = read_unit(axis.units)
    except UnitError as error:
        raise DesignError(f"potential: axis {axis.name}: {error}.") from error
    if unit.kind != "length":
        raise DesignError(
            f"potential: axis {axis.name} has units {axis.units!r}, and a length is needed: set "
            'axis.units = "Å" and axis.scale to the size of a pixel.'
        )
    return unit.factor


def _spacings(axis: Any, slice_thickness: float | None) -> tuple[float, ...]:
    """Distances of the slices in Å."""
    if axis.size == 1:
        return ()
    if slice_thickness is not None:
        _check_thickness(slice_thickness)
    given = None if slice_thickness is None else (float(slice_thickness),) * (axis.size - 1)
    try:
        unit = read_unit(axis.units)
    except UnitError as error:
        raise DesignError(f"potential: axis {axis.name}: {error}.") from error
    if unit.kind != "length":
        if given is not None:
            return given
        raise DesignError(
            f"potential: the slices' axis {axis.name} has units {axis.units!r}: set axis.units = "
            '"Å" and axis.scale to their distance, or give slice_thickness.'
        )
    steps = np.diff(axis.axis) * unit.factor
    if np.any(steps <= 0):
        raise DesignError("potential: the depths of the slices have to rise, along the beam.")
    if given is not None and not np.allclose(steps, given, rtol=1e-3):
        raise DesignError(
            f"slice_thickness={slice_thickness:g} Å, but the slices' axis {axis.name} says "
            f"{min(steps):.4g} to {max(steps):.4g} Å: leave one of the two out."
        )
    return tuple(float(v) for v in steps)


def _check_thickness(value: Any) -> None:
    if not (isinstance(value, numbers.Real) and math.isfinite(value) and value > 0):
        raise DesignError(f"slice_thickness={value!r}: a length in Å is needed.")


def _quantity(potential: Any, quantity: str | None) -> str:
    if quantity is not None:
        choose("quantity", quantity, ("phase", "potential"))
        return quantity
    text = str(potential.metadata.get_item("Signal.quantity", default=""))
    # one letter for all three of Unicode's Å
    unit = unicodedata.normalize("NFKC", text).rpartition("(")[2].rstrip(") ")
    if unit in ("rad", "radian", "radians"):
        return "phase"
    if unit.replace("·", " ").replace("*", " ").split() in (["V", "Å"], ["V", "A"]):
        return "potential"
    raise DesignError(
        f"potential: what its values are is not known (metadata.Signal.quantity is {text!r}). Give "
        'quantity="phase" for radians or quantity="potential" for V Å.'
    )


def _from_atoms(atoms: Any, beam_energy: float, slice_thickness: float | None) -> Specimen:
    """The potential of ase's atoms by abTEM, in slices of this thickness at most or in one."""
    if slice_thickness is not None:
        _check_thickness(slice_thickness)
    try:
        import abtem
    except ImportError as error:
        raise ImportError(
            "A potential of atoms needs abTEM: pip install hs_autoptycho[simulate]"
        ) from error
    cell = np.asarray(atoms.get_cell())
    if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-3 or np.diag(cell).min() <= 0:
        raise DesignError(
            "potential: the cell of the atoms has to be a box with edges along x, y and z "
            "(abtem.orthogonalize_cell makes one)."
        )
    size = np.diag(cell)[:2]
    # as many pixels as make them square, on the longer side exactly
    pixel = size.max() / math.ceil(size.max() / _ATOMS_PIXEL)
    gpts = [max(1, round(v / pixel)) for v in size]
    if np.abs(size / gpts / pixel - 1).max() > 1e-3:
        pixel = min(size) / math.ceil(min(size) / (_ATOMS_PIXEL / 4))
        gpts = [max(1, round(v / pixel)) for v in size]
    potential = abtem.Potential(
        atoms,
        gpts=tuple(gpts),
        slice_thickness=min(float(slice_thickness or math.inf), float(cell[2, 2])),
        projection="infinite",
    )
    return _from_abtem(potential, beam_energy)


def _from_abtem(potential: Any, beam_energy: float) -> Specimen:
    """A potential that abTEM has built, or builds now."""
    try:
        values, pixel, thicknesses = potential_slices(potential)
    except ValueError as error:
        raise DesignError(str(error)) from error
    _check_square(pixel, "give it `sampling=...` or `gpts=...` that make them square")
    spacings = tuple(float(v) for v in (thicknesses[1:] + thicknesses[:-1]) / 2)
    phases = values.astype(float) * interaction_parameter(beam_energy)
    return Specimen(phases, float(np.mean(pixel)), spacings)


def _check_square(pixel: Any, mend: str) -> None:
    if abs(pixel[0] / pixel[1] - 1) > 1e-3:
        raise DesignError(
            f"potential: the pixels are {pixel[0]:.4g} × {pixel[1]:.4g} Å (y, x) and have to be "
            f"square: {mend}."
        )
