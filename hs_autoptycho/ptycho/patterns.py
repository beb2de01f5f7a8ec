"""Measured patterns as the kernels use them, and their splitting into independent counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hs_autoptycho.ptycho.fft import Plan, make_plan

# The eight orientations of a detector, as [transpose first, then flip rows, then flip columns].
DETECTOR_FLIPS = {
    "none": (False, False, False),
    "rows": (False, True, False),
    "columns": (False, False, True),
    "both": (False, True, True),
    "transpose": (True, False, False),
    "transpose-rows": (True, True, False),
    "transpose-columns": (True, False, True),
    "transpose-both": (True, True, True),
}


def flip_detector(patterns: np.ndarray, flip: str) -> np.ndarray:
    """A view of patterns ``(..., rows, columns)`` in another orientation.

    Parameters
    ----------
    patterns
        At least two-dimensional.
    flip
        One of `DETECTOR_FLIPS`: ``"none"``, ``"rows"`` (upside down), ``"columns"``, ``"both"``, or
        the same after a ``"transpose"``.
    """
    transpose, rows, columns = DETECTOR_FLIPS[flip]
    if transpose:
        patterns = np.swapaxes(patterns, -1, -2)
    if rows:
        patterns = patterns[..., ::-1, :]
    if columns:
        patterns = patterns[..., :, ::-1]
    return patterns


def flip_point(point: tuple[float, float], shape: tuple[int, int], flip: str):
    """Where a pixel ``(row, column)`` of a detector of `shape` is after :func:`flip_detector`."""
    transpose, rows, columns = DETECTOR_FLIPS[flip]
    row, column = point[::-1] if transpose else point
    n_rows, n_columns = shape[::-1] if transpose else shape
    return (n_rows - 1 - row if rows else row, n_columns - 1 - column if columns else column)


@dataclass(frozen=True)
class Patterns:
    """Patterns in the order of the kernels' spectra, in the type they came in.

    Attributes
    ----------
    counts : array (positions, pixels)
        Not negative, finite.
    plan : Plan
        Of the detector's shape.
    mean_total : float
        Mean sum of a pattern.
    """

    counts: np.ndarray
    plan: Plan
    mean_total: float

    @classmethod
    def from_blocks(
        cls,
        blocks: Iterable[np.ndarray],
        n_positions: int,
        detector_shape: tuple[int, int],
        *,
        flip: str = "none",
    ) -> Patterns:
        """Order patterns that arrive in blocks ``(some, rows, columns)``.

        Parameters
        ----------
        blocks
            In the order of the scan; together `n_positions` patterns of shape `detector_shape`.
        n_positions
            Number of patterns.
        detector_shape
            (rows, columns) before `flip`.
        flip
            See :func:`flip_detector`.
        """
        shape = detector_shape[::-1] if DETECTOR_FLIPS[flip][0] else detector_shape
        plan = make_plan(*shape)
        # zero frequency is pixel n // 2 of a pattern
        rows = (plan.row_order + shape[0] // 2) % shape[0]
        columns = (plan.column_order + shape[1] // 2) % shape[1]
        counts = None
        done = 0
        for block in blocks:
            ordered = flip_detector(block, flip)[:, rows[None, :], columns[:, None]]
            if counts is None:
                dtype = ordered.dtype.newbyteorder("=")
                dtype = np.dtype(np.float32) if dtype.kind == "f" else dtype
                dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype
                counts = np.empty((n_positions, shape[0] * shape[1]), dtype)
            counts[done : done + len(ordered)] = ordered.reshape(-1, counts.shape[1])
            done += len(ordered)
        if counts is None or done != n_positions:
            raise ValueError(f"Expected {n_positions} patterns, got {done}.")
        return cls(counts, plan, float(counts.sum(dtype=np.float64)) / n_positions)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the detector."""
        return self.plan.rows, self.plan.columns


def split_counts(
    counts: np.ndarray, fraction: float, random_state: int
) -> tuple[np.ndarray, np.ndarray]:
    """Thin counts into two independent parts.

    Each count goes to the first part with probability `fraction`. Where the counts are Poisson
    distributed the parts are so too, and independent of each other: what is fitted to one can be
    judged by the other.

    Parameters
    ----------
    counts
        Whole numbers, of any shape.
    fraction
        Between 0 and 1.
    random_state
        Seed; the same gives the same split.

    Returns
    -------
    Two arrays of the shape and type of `counts`, whose sum it is.
    """
    if counts.dtype.kind not in "ui":
        raise TypeError(f"Only whole counts can be split, not {counts.dtype}.")
    generator = np.random.default_rng(random_state)
    first = np.zeros_like(counts)
    for source, target in zip(counts, first, strict=True):
        some = np.nonzero(source)
        target[some] = generator.binomial(source[some], fraction)
    return first, counts - first
