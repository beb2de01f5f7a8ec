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


def kernel_type(dtype: np.dtype) -> np.dtype:
    """The type in which the kernels keep numbers of another one: unsigned integers or float32."""
    if dtype.kind == "f":
        return np.dtype(np.float32)
    return np.dtype(f"u{min(dtype.itemsize, 4)}")


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
        rows, columns = _spectrum_places(plan)
        counts = None
        done = 0
        for block in blocks:
            ordered = flip_detector(block, flip)[:, rows[None, :], columns[:, None]]
            if counts is None:
                counts = np.empty((n_positions, shape[0] * shape[1]), kernel_type(ordered.dtype))
            if ordered.dtype.itemsize > 4 and counts.dtype.kind == "u" and ordered.size:
                if ordered.max() > np.iinfo(np.uint32).max:
                    raise ValueError(
                        f"A pixel has {ordered.max()} counts, more than 32 bits can hold."
                    )
            counts[done : done + len(ordered)] = ordered.reshape(-1, counts.shape[1])
            done += len(ordered)
        if counts is None or done != n_positions:
            raise ValueError(f"Expected {n_positions} patterns, got {done}.")
        return cls(counts, plan, float(counts.sum(dtype=np.float64)) / n_positions)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the detector."""
        return self.plan.rows, self.plan.columns

    def order(self, image: np.ndarray) -> np.ndarray:
        """Bring an image (rows, columns) of the detector into the order of `counts`."""
        return in_spectrum_order(image, self.plan)


def in_spectrum_order(image: np.ndarray, plan: Plan) -> np.ndarray:
    """Bring an image (rows, columns) of the detector into the order of the kernels."""
    rows, columns = _spectrum_places(plan)
    return image[rows[None, :], columns[:, None]].ravel()


def _spectrum_places(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of a pattern for each place of the spectrum; zero frequency is at n // 2."""
    rows = (plan.row_order + plan.rows // 2) % plan.rows
    columns = (plan.column_order + plan.columns // 2) % plan.columns
    return rows, columns


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
