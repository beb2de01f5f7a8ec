"""Thinning of counts that are read in pieces: the same for a pattern in whatever piece it comes."""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from hs_autoptycho.ptycho.arithmetic import EXACT

# Counts above this are thinned by their normal limit: of so many draws it is good to a part in
# a thousand.
_MANY = 4096


@njit(**EXACT)
def _mix(x):
    """The finalizer of SplitMix64: 64 bits that look random, from a counter."""
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@njit(**EXACT)
def _draw(count, fraction, counter):
    """How many of `count` are taken, each with the probability `fraction`."""
    if count > _MANY:
        # Box and Muller
        u = (np.float64(_mix(counter + uint64(1)) >> uint64(11)) + 0.5) / 9007199254740992.0
        v = np.float64(_mix(counter + uint64(2)) >> uint64(11)) / 9007199254740992.0
        normal = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
        taken = np.rint(count * fraction + normal * np.sqrt(count * fraction * (1 - fraction)))
        return np.int64(min(max(taken, 0.0), np.float64(count)))
    limit = uint64(fraction * 4294967296.0)
    taken = np.int64(0)
    bits = uint64(0)
    for i in range(count):
        if i & 1 == 0:
            bits = _mix(counter + uint64(i + 3))
        taken += (bits & uint64(0xFFFFFFFF)) < limit
        bits = bits >> uint64(32)
    return taken


@njit(**EXACT)
def _thin(counts, positions, fraction, seed, out):
    start = _mix(uint64(seed) * uint64(0x9E3779B97F4A7C15) + uint64(1))
    for p in range(counts.shape[0]):
        key = _mix(start + uint64(positions[p]))
        for k in range(counts.shape[1]):
            count = np.int64(counts[p, k])
            if count == 0:
                out[p, k] = 0
            else:
                counter = _mix(key + uint64(k) * uint64(0xD1342543DE82EF95))
                out[p, k] = _draw(count, fraction, counter)


def thin(
    counts: np.ndarray, positions: np.ndarray, fraction: float, random_state: int
) -> np.ndarray:
    """The part of counts that is taken, each with the probability `fraction`.

    Parameters
    ----------
    counts
        Whole numbers (patterns, rows, columns).
    positions
        Which positions of the scan they are of: the draw depends on these, the pixel and the seed
        alone.
    fraction
        Between 0 and 1.
    random_state
        Seed.
    """
    out = np.empty_like(counts)
    flat = counts.reshape(len(counts), -1)
    _thin(flat, positions, float(fraction), random_state, out.reshape(flat.shape))
    return out


# sums are vectorised, but NaN has to stay what it is
@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def look_at(patterns, total, largest, sums):
    """Add patterns up; returns whether all numbers are whole, and whether one is negative.

    Parameters
    ----------
    patterns
        (positions, pixels), any real type.
    total, largest
        float64 (pixels,): sums over the positions are added, the largest number is kept.
    sums
        float64 (positions,): receives the sum of each pattern.
    """
    fractions, negative = 0, 0
    for p in range(patterns.shape[0]):
        row = patterns[p]
        some = 0.0
        for k in range(len(row)):
            value = np.float64(row[k])
            some += value
            total[k] += value
            largest[k] = max(largest[k], value)
            fractions += value != np.rint(value)
            negative += value < 0
        sums[p] = some
    return fractions == 0, negative > 0
