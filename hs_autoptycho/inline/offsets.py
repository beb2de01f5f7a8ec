"""How far the instrument is from what it was asked for, and where it will be at the next scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# The drift that is taken for granted, in units of the first measurement's standard error.
_FIRST_DRIFT = 2.0
# Two values contradict each other where they are farther apart, in standard errors.
_SURPRISE = 4.0


class Value(NamedTuple):
    """A number and its standard error, in the unit of the parameter."""

    value: float
    error: float


def known(value: Value | None) -> bool:
    """Whether a value was measured: one that is held has no error, a mere sign an infinite one."""
    return value is not None and 0 < value.error < math.inf


def contradict(one: Value, other: Value) -> bool:
    """Whether two independent values cannot be of the same thing."""
    return abs(one.value - other.value) > _SURPRISE * math.hypot(one.error, other.error)


def combined(one: Value | None, other: Value | None) -> Value | None:
    """The mean of two independent values, weighted with their errors."""
    if one is None or other is None:
        return other if one is None else one
    if not math.isfinite(one.error) or other.error == 0:
        return other
    if not math.isfinite(other.error) or one.error == 0:
        return one
    weight = one.error**-2 / (one.error**-2 + other.error**-2)
    value = weight * one.value + (1 - weight) * other.value
    return Value(value, math.hypot(weight * one.error, (1 - weight) * other.error))


def drift_variance(measured: Sequence[Value]) -> float:
    """Mean square of an offset's change from scan to scan, less what is error of measurement.

    The first scans tell little: as much as `_FIRST_DRIFT` standard errors counts as one more.
    """
    if not measured:
        return 0.0
    changes = [
        max(0.0, (b.value - a.value) ** 2 - a.error**2 - b.error**2)
        for a, b in zip(measured, measured[1:], strict=False)
    ]
    return (sum(changes) + (_FIRST_DRIFT * measured[0].error) ** 2) / (len(changes) + 1)


def predicted(measured: Sequence[Value]) -> Value | None:
    """The offset at the next scan, of one that goes random steps and is measured with error.

    Parameters
    ----------
    measured
        Offsets of the scans so far, in their order.

    Returns
    -------
    Value or None
        None where nothing was measured.

    References
    ----------
    R. E. Kalman, J. Basic Eng. 82, 35 (1960), for a level that goes a random walk.
    """
    variance = drift_variance(measured)
    level: Value | None = None
    for value in measured:
        if level is not None:
            level = Value(level.value, math.hypot(level.error, math.sqrt(variance)))
        level = combined(level, value)
    return None if level is None else Value(level.value, math.sqrt(level.error**2 + variance))
