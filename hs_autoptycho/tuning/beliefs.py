"""What was measured without a reconstruction, as the beliefs that a search starts with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hs_autoptycho.ptycho.geometry_estimate import GeometryEstimate
from hs_autoptycho.tuning.space import Dimension, complete_point

# How many standard errors the beliefs are wide, and how wide they are at least: in degrees, and
# relative to the defocus. What a reconstruction calls best differs from what was measured by that.
_STANDARD_ERRORS = 3.0
_ROTATION_FLOOR = 0.5
_DEFOCUS_FLOOR, _ASTIGMATISM_FLOOR = 0.02, 0.04
MEASURED = ("scan_rotation", "defocus", "C12a", "C12b")


def oriented(estimate: GeometryEstimate, dimensions: Sequence[Dimension]) -> GeometryEstimate:
    """The estimate, or its conjugate where only that lies within the ranges.

    The complex conjugate of object and probe, turned by 180 degrees, fits the data as well.
    """
    if _inside(estimate, dimensions):
        return estimate
    turned: dict[str, Any] = {}
    for name in MEASURED:
        value = getattr(estimate, name)
        if value is not None:
            turned[name] = -value
    if estimate.scan_rotation is not None:
        turned["scan_rotation"] = (estimate.scan_rotation + 360) % 360 - 180
    conjugate = replace(estimate, **turned)
    return conjugate if _inside(conjugate, dimensions) else estimate


def with_beliefs(
    dimensions: Sequence[Dimension], estimate: GeometryEstimate
) -> tuple[list[Dimension], list[dict[str, Any]], list[str]]:
    """Give the dimensions beliefs where somebody has not, and find where to start.

    Parameters
    ----------
    dimensions
        The space.
    estimate
        What was measured, as :func:`oriented` gives it.

    Returns
    -------
    list of Dimension, list of dict, list of str
        The space; the point to try first, with the middle of every range that was not measured,
        or none; and what a user should know.
    """
    if not _inside(estimate, dimensions):
        return list(dimensions), [], ["What was measured lies outside of the ranges: not used."]
    values = {d.name: _value(estimate, d) for d in dimensions}
    values = {name: value for name, value in values.items() if value is not None}
    if not values:
        return list(dimensions), [], []
    out = []
    for d in dimensions:
        if d.name in values and d.prior is None and not d.choices:
            # six digits: the last bits may differ with the version of a library
            width = float(f"{_width(d.name, estimate, dimensions):.6g}")
            d = replace(d, prior=(values[d.name], width))
        out.append(d)
    start = {d.name: d.nearest(values.get(d.name)) for d in out}
    return out, [complete_point(out, start)], []


def _value(estimate: GeometryEstimate, dimension: Dimension) -> float | None:
    """The measured value; a rotation by 360 degrees more or less where that is in the range."""
    if dimension.name not in MEASURED:
        return None
    value = getattr(estimate, dimension.name)
    if value is None:
        return None
    if dimension.name == "scan_rotation" and not dimension.choices:
        turns = (value, value - 360, value + 360)
        value = next((v for v in turns if dimension.low <= v <= dimension.high), value)
    return float(f"{value:.6g}")


def _inside(estimate: GeometryEstimate, dimensions: Sequence[Dimension]) -> bool:
    """Whether rotation and defocus lie within the ranges, as far as both are known."""
    for d in dimensions:
        if d.name in ("scan_rotation", "defocus") and not d.choices:
            value = _value(estimate, d)
            if value is not None and not d.low <= value <= d.high:
                return False
    return True


def _width(name: str, estimate: GeometryEstimate, dimensions: Sequence[Dimension]) -> float:
    """Standard deviation of the belief in a measured value."""
    error = getattr(estimate, f"{name}_error") or 0.0
    error = _STANDARD_ERRORS * error if math.isfinite(error) else 0.0
    if name == "scan_rotation":
        return max(error, _ROTATION_FLOOR)
    defocus = abs(estimate.defocus or 0.0)
    floor = _DEFOCUS_FLOOR if name == "defocus" else _ASTIGMATISM_FLOOR
    # displacements are measured in steps of the scan, so that their length carries over
    scale = max(
        (d.high - d.low) / (d.high + d.low) if d.name in ("scan_scale", "scan_step") else 0.0
        for d in dimensions
        if not d.choices
    )
    return math.hypot(error, floor * defocus, scale * abs(getattr(estimate, name))) or 1.0
