"""Scan rotation and handedness of the detector from the patterns' centre of mass.

The centre of mass of a thin phase object's patterns is the gradient of its phase, blurred by the
probe, whatever the aberrations: turned into the scan's frame it has no curl. That holds for one
rotation and the one opposite, and, but for chance, for only one handedness of the detector.

References
----------
I. Lazić, E. G. T. Bosch, S. Lazar, Ultramicroscopy 160, 265 (2016).
B. H. Savitzky et al., Microsc. Microanal. 27, 712 (2021).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.fft

from hs_autoptycho.ptycho.stored import StoredCounts, pattern_blocks

# Frequencies in cycles a scan pixel; beyond there is mostly noise
_HIGHEST = 0.4
# Neighbouring frequencies, which the window correlates, count as one
_BLOCK = 4


class CurlFree(NamedTuple):
    """What :func:`rotation_without_curl` finds for one handedness."""

    rotation: float
    """Degrees, from −90 to 90; the opposite fits as well."""
    error: float
    """Standard error in degrees."""
    curl: np.ndarray
    """Smallest curl's part of the field's power, (blocks of frequencies,); the sum is at most ½."""


def mass_centers(
    counts: np.ndarray | StoredCounts,
    center: tuple[float, float],
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Centre of mass of each pattern in detector pixels from `center`, (positions, 2).

    Parameters
    ----------
    counts
        (positions, k_y, k_x), in memory or stored.
    center
        (row, column).
    mask
        True for the pixels to use. Those that are not used are taken for their mean.
    """
    shape, stored = counts.shape[1:], isinstance(counts, StoredCounts)
    used = np.ones(shape, bool) if mask is None else mask
    row, column = np.indices(shape)
    lever = np.stack([row - center[0], column - center[1]], -1) * used[..., None]
    lever = lever.reshape(-1, 2).astype(np.float32)
    moments = np.empty((len(counts), 2), np.float32)
    total = np.zeros(shape)
    for positions, block in pattern_blocks(counts, 256):
        moments[positions] = block.reshape(len(block), -1).astype(np.float32) @ lever
        if stored:
            total += block.sum(0, dtype=float)
    moments = moments.astype(float)
    mean = total / len(counts) if stored else counts.mean(0, dtype=float)
    total = (mean * used).sum()
    return (moments - moments.mean(0)) / max(total, 1e-30)


def rotation_without_curl(field: np.ndarray) -> CurlFree | None:
    """The scan rotation with which a field has the least curl.

    Parameters
    ----------
    field
        (slow, fast, 2): (row, column) in the detector's frame at each position.

    Returns
    -------
    CurlFree or None
        None for a field that is the same everywhere, or fewer than 8 positions along an axis.
    """
    shape = field.shape[:2]
    if min(shape) < 8 or not np.ptp(field):
        return None
    window = np.multiply.outer(*(np.hanning(n + 2)[1:-1] for n in shape))
    spectra = scipy.fft.rfft2((field - field.mean((0, 1))) * window[..., None], axes=(0, 1))
    slow, fast = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1]), indexing="ij")
    length = np.hypot(slow, fast)
    use = (length > 1.5 / min(shape)) & (length < _HIGHEST) & ((fast > 0) | (slow > 0))
    slow, fast, length = slow[use], fast[use], length[use]
    row, column = spectra[use].T
    divergence = (slow * row + fast * column) / length
    curl = (slow * column - fast * row) / length
    cells = np.stack([slow * shape[0], fast * shape[1]], 1) / _BLOCK
    blocks = np.unique(np.floor(cells + 0.5), axis=0, return_inverse=True)[1].ravel()
    # with the rotation θ the curl is cos θ · curl − sin θ · divergence
    powers = np.array(
        [
            np.bincount(blocks, values)
            for values in (
                np.abs(curl) ** 2, np.abs(divergence) ** 2, (np.conj(curl) * divergence).real
            )
        ]
    )  # fmt: skip
    powers /= powers[:2].sum()

    def angle(sums):
        return np.arctan2(2 * sums[2], sums[1] - sums[0]) / 2

    best = angle(powers.sum(1))
    without = angle(powers.sum(1)[:, None] - powers)
    changes = (without - best + np.pi / 2) % np.pi - np.pi / 2
    n = len(changes)
    cos, sin = np.cos(best), np.sin(best)
    least = cos**2 * powers[0] + sin**2 * powers[1] - 2 * sin * cos * powers[2]
    error = np.sqrt((n - 1) / n * (changes**2).sum())
    return CurlFree(float(np.degrees(best)), float(np.degrees(error)), least)
