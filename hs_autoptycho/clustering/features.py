"""The numbers of all patterns in two independent halves: one to fit, the other to test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# noise shared by the two halves of the counts, as a part of all, above which they are no counts
_LARGEST_SHARED_NOISE = 0.1


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
    notes
        What was assumed, a sentence each.
    """

    halves: tuple[Half, Half]
    valid: np.ndarray
    splitting: str
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(scan_y, scan_x)."""
        return self.valid.shape

    def together(self, window=np.s_[:, :]) -> Half:
        """Both halves as one, in a rectangle of the scan."""
        first, second = self.halves
        return Half(
            first.sums[window] + second.sums[window], first.weights[window] + second.weights[window]
        )


def from_thinned(values: np.ndarray, valid: np.ndarray) -> Features:
    """Features from counts that were thinned: (y, x, 2 * (1 + n)), see `Projection`.

    Where the two halves share noise the counts are not Poisson distributed (a gain, a charge that
    spreads over pixels): they are put together again and split by position.
    """
    n = values.shape[2] // 2
    first = Half(values[..., 1:n], values[..., 0])
    second = Half(values[..., n + 1 :], values[..., n])
    shared = shared_noise(first, second, valid)
    if shared <= _LARGEST_SHARED_NOISE:
        return Features((first, second), valid, "counts")
    note = (
        f"The patterns hold whole numbers but not electrons ({shared:.0%} of the noise is shared "
        "by two halves of the counts); they were split by position, as on a checkerboard."
    )
    sums, weights = first.sums + second.sums, first.weights + second.weights
    return from_intensities(sums, weights, valid, (note,))


def from_intensities(
    sums: np.ndarray, weights: np.ndarray, valid: np.ndarray, notes: tuple[str, ...] = ()
) -> Features:
    """Features that cannot be thinned: the halves are the two colours of a checkerboard."""
    odd = np.indices(valid.shape).sum(0) % 2 == 1
    halves = tuple(
        Half(np.where(colour[..., None], sums, 0), np.where(colour, weights, 0))
        for colour in (~odd, odd)
    )
    return Features(halves, valid, "checkerboard", notes)


def shared_noise(first: Half, second: Half, valid: np.ndarray) -> float:
    """Correlation of the noise in two halves, from the differences of diagonal neighbours."""
    both = valid[1:, 1:] & valid[:-1, :-1]
    if np.count_nonzero(both) < 64:
        return 0.0
    differences = []
    for half in (first, second):
        means = half.sums / np.maximum(half.weights, 1e-9)[..., None]
        differences.append((means[1:, 1:] - means[:-1, :-1])[both])
    covariance = (differences[0] * differences[1]).mean(0)
    variance = 0.5 * ((differences[0] ** 2).mean(0) + (differences[1] ** 2).mean(0))
    # of the median feature, which no boundary between domains moves much
    return float(np.median(covariance / np.maximum(variance, 1e-30)))
