"""Which part of a scan a result that was cropped still shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hs_autoptycho._units import UnitError, read_unit
from hs_autoptycho.signals._axes import AxesError, check_order


def scan_window(
    signal: Any,
    stored: Mapping[str, Mapping[str, Any]],
    shape: tuple[int, int],
    what: str,
    can_show: Callable[[np.ndarray, np.ndarray], bool],
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a scan that the axes of a signal show.

    Parameters
    ----------
    signal
        Its signal axes are x and y.
    stored
        Axis dictionaries of the whole scan, ``"y"`` and ``"x"``.
    shape
        (scan_y, scan_x) of the whole scan.
    what
        What the scan is the scan of, for the message: "clustered".
    can_show
        Whether the values of the signal can be those of given rows and columns. Asked for a part
        of a scan, of values in memory: an offset that was set leads to another part.

    Raises
    ------
    AxesError
        If axes changed places, or were calibrated anew and cropped, so that the part cannot be
        told.
    """
    check_order(signal, tuple(stored[key].get("name") or key for key in ("y", "x")))
    axes, window = signal.axes_manager.signal_axes[::-1], []
    for axis, key, size in zip(axes, ("y", "x"), shape, strict=True):
        grid = _grid(stored[key], size)
        step = np.abs(np.diff(grid)).min() if size > 1 else abs(stored[key].get("scale", 1.0))
        values = np.asarray(axis.axis, dtype=float) * _unit_ratio(axis, stored[key]["units"])
        distances = np.abs(values[:, np.newaxis] - grid)
        whole = distances.argmin(axis=1)
        fits = distances.min(axis=1).max() < 1e-3 * step  # not so for values that are nan
        if not fits or len(np.unique(whole)) != len(whole):
            # the axes were calibrated anew: as long as nothing was cut off, that is no matter
            if axis.size != size:
                raise AxesError(
                    f"the axis {axis.name!r} goes from {axis.axis[0]:g} to {axis.axis[-1]:g} in "
                    f"{axis.size} steps, that of the {what} scan from {grid[0]:g} to {grid[-1]:g} "
                    f"in {size}: what part of the scan this is cannot be told. Calibrate before "
                    "the scan is used, or crop with isig alone"
                )
            whole = np.arange(size)
        window.append(whole)
    rows, columns = window
    is_part = any(list(part) != list(range(n)) for part, n in zip(window, shape, strict=True))
    if is_part and not signal._lazy and not can_show(rows, columns):
        raise AxesError(
            f"the axes name the rows {rows[0]} to {rows[-1]} and the columns {columns[0]} to "
            f"{columns[-1]} of the {what} scan, but the values are others: they were changed, or "
            "the axes calibrated anew and cropped, and what part of the scan this is cannot be "
            "told. Calibrate before the scan is used, or crop with isig alone"
        )
    return rows, columns


def _grid(axis: Mapping[str, Any], size: int) -> np.ndarray:
    """Values of an axis from its dictionary."""
    if "axis" in axis:
        return np.array(axis["axis"], dtype=float)
    return axis["offset"] + axis["scale"] * np.arange(size)


def _unit_ratio(axis, units: str) -> float:
    """What to multiply an axis' values with to have them in `units`; nan if that is unknown."""
    if axis.units == units or not (isinstance(axis.units, str) or units):
        return 1.0
    try:
        ours, theirs = read_unit(axis.units), read_unit(units)
    except UnitError:
        return np.nan
    return ours.factor / theirs.factor if ours.kind == theirs.kind else np.nan
