"""What was measured without a reconstruction, as the beliefs that a search starts with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def with_beliefs(
    dimensions: Sequence[Dimension], estimate: GeometryEstimate | None, held: Mapping[str, Any]
) -> tuple[list[Dimension], list[dict[str, Any]], list[str]]:
    """Give the dimensions beliefs where somebody has not, and find where to start.

    Parameters
    ----------
    dimensions
        The space.
    estimate
        What was measured; None where nothing was.
    held
        Parameters that all trials share.

    Returns
    -------
    list of Dimension, list of dict, list of str
        The space; the point to try first, with the middle of every range that was not measured,
        or none; and what a user should know.
    """
    values = None if estimate is None else _in_space(dimensions, estimate, held)
    if values is None:
        notes = []
        if estimate is not None and estimate.scan_rotation is not None:
            notes = ["What was measured lies outside of the ranges and is not used."]
        return list(dimensions), [], notes
    out = []
    for dimension in dimensions:
        value = values.get(dimension.name)
        if value is not None and dimension.prior is None and not dimension.choices:
            width = _width(dimension.name, values, estimate, dimensions)
            dimension = replace(dimension, prior=(value, width))
        out.append(dimension)
    if not any(d.name in values for d in dimensions):
        return out, [], []
    start = {d.name: d.nearest(values.get(d.name)) for d in dimensions}
    return out, [complete_point(dimensions, start)], []


def _in_space(dimensions, estimate, held) -> dict[str, float] | None:
    """The measured values, or those of the conjugate turned by 180°, which fit as well.

    None where neither lies within the ranges.
    """
    measured = {name: getattr(estimate, name) for name in MEASURED}
    measured = {name: v for name, v in measured.items() if v is not None}
    turned = {name: -v for name, v in measured.items()}
    if "scan_rotation" in measured:
        turned["scan_rotation"] = (measured["scan_rotation"] + 360) % 360 - 180
    ranges = {d.name: (d.low, d.high) for d in dimensions if not d.choices}
    for values in (measured, turned):
        if "scan_rotation" in values and "scan_rotation" in ranges:
            low, high = ranges["scan_rotation"]
            value = values["scan_rotation"]
            # a range may be given about 180° as well as about -180°
            near = [v for v in (value - 360, value, value + 360) if low <= v <= high]
            if not near:
                continue
            values["scan_rotation"] = near[0]
        stated = {**values, **{n: held[n] for n in ("scan_rotation", "defocus") if n in held}}
        rotation = stated.get("scan_rotation", 0) - values.get("scan_rotation", 0)
        if (
            abs((rotation + 180) % 360 - 180) > 90
            or stated.get("defocus", 0) * values.get("defocus", 0) < 0
        ):
            continue
        inside = (
            ranges[n][0] <= v <= ranges[n][1]
            for n, v in values.items()
            if n in ranges and n in ("scan_rotation", "defocus")
        )
        if all(inside):
            return values
    return None


def _width(name, values, estimate, dimensions) -> float:
    """Standard deviation of the belief in a measured value."""
    error = getattr(estimate, f"{name}_error") or 0.0
    error = _STANDARD_ERRORS * error if math.isfinite(error) else 0.0
    if name == "scan_rotation":
        return max(error, _ROTATION_FLOOR)
    defocus = abs(values.get("defocus", 0.0))
    floor = _DEFOCUS_FLOOR if name == "defocus" else _ASTIGMATISM_FLOOR
    # displacements are measured in steps of the scan, so that their length carries over
    scale = max(
        (d.high - d.low) / (d.high + d.low) if d.name in ("scan_scale", "scan_step") else 0.0
        for d in dimensions
        if not d.choices
    )
    return math.hypot(error, floor * defocus, scale * abs(values[name])) or 1.0
