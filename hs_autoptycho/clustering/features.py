"""The numbers of all patterns in two independent halves: one to fit, the other to test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Half:
    """One half: `sums` (y, x, feature) over the counts, `weights` (y, x) their number."""

    sums: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Features:
    """All patterns as numbers.

    Attributes
    ----------
    halves
        Two, independent of each other.
    valid : bool array (y, x)
        Positions whose pattern can be used.
    splitting
        ``"counts"`` or ``"checkerboard"``.
    """

    halves: tuple[Half, Half]
    valid: np.ndarray
    splitting: str

    @property
    def shape(self) -> tuple[int, int]:
        """(scan_y, scan_x)."""
        return self.valid.shape

    def together(self) -> Half:
        """Both halves as one."""
        first, second = self.halves
        return Half(first.sums + second.sums, first.weights + second.weights)


def from_thinned(values: np.ndarray, valid: np.ndarray) -> Features:
    """Features from counts that were thinned: (y, x, 2 * (1 + n)), see `Projection`."""
    n = values.shape[2] // 2
    first = Half(values[..., 1:n], values[..., 0])
    second = Half(values[..., n + 1 :], values[..., n])
    return Features((first, second), valid, "counts")


def from_intensities(sums: np.ndarray, weights: np.ndarray, valid: np.ndarray) -> Features:
    """Features that cannot be thinned: the halves are the two colours of a checkerboard."""
    odd = np.indices(valid.shape).sum(0) % 2 == 1
    halves = tuple(
        Half(np.where(colour[..., None], sums, 0), np.where(colour, weights, 0))
        for colour in (~odd, odd)
    )
    return Features(halves, valid, "checkerboard")
