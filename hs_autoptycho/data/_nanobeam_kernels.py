"""Numba kernels of the nanobeam simulator: one pattern at a time, noise from a counter.

The random numbers of a position depend on the seed and on the position's number alone, so that a
scan is the same however it is cut into blocks, and the state of nobody else's generator changes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# no fastmath: a pattern must not depend on how the compiler groups what it adds
_JIT = {"cache": True, "nogil": True, "error_model": "numpy"}

# with fewer electrons than this part of the pixels, drawing electron by electron is faster
_FEW_ELECTRONS = 0.125


@njit(**_JIT)
def _mix(z):
    """Finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(**_JIT)
def _uniform(state):
    """Next random number, above 0 and below 1."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return (np.float64(_mix(state[0]) >> np.uint64(12)) + 0.5) * 2.0**-52


@njit(**_JIT)
def _poisson(state, mean):
    """Poisson's distribution: products of uniforms, or W. Hörmann's PTRS (1993) above 12."""
    if mean <= 0:
        return 0
    if mean < 12:
        limit, product, count = math.exp(-mean), _uniform(state), 0
        while product > limit:
            product *= _uniform(state)
            count += 1
        return count
    slope = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * slope
    inverse = 1.1239 + 1.1328 / (slope - 3.4)
    bound = 0.9277 - 3.6224 / (slope - 2)
    while True:
        u, v = _uniform(state) - 0.5, _uniform(state)
        us = 0.5 - abs(u)
        count = int(math.floor((2 * a / us + slope) * u + mean + 0.43))
        if us >= 0.07 and v <= bound:
            return count
        if count < 0 or (us < 0.013 and v > us):
            continue
        accept = math.log(v * inverse / (a / (us * us) + slope))
        if accept <= count * math.log(mean) - mean - math.lgamma(count + 1.0):
            return count


@njit(**_JIT)
def _add_disk(image, row, col, intensity, profile, reach):
    """Add a disk; `profile` is its density at squared distances from 0 to reach²."""
    per_square = (len(profile) - 1) / (reach * reach)
    first_row = max(0, int(math.ceil(row - reach)))
    last_row = min(image.shape[0] - 1, int(math.floor(row + reach)))
    first_col = max(0, int(math.ceil(col - reach)))
    last_col = min(image.shape[1] - 1, int(math.floor(col + reach)))
    for i in range(first_row, last_row + 1):
        for j in range(first_col, last_col + 1):
            at = ((i - row) ** 2 + (j - col) ** 2) * per_square
            n = int(at)
            if n < len(profile) - 1:
                part = at - n
                image[i, j] += intensity * ((1 - part) * profile[n] + part * profile[n + 1])


@njit(**_JIT)
def _add_diffuse(image, row, col, membrane, sheet, table, per_square):
    """Add what is spread over the detector; `table` (2, n) at squared distances from the beam."""
    last = table.shape[1] - 2
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            at = ((i - row) ** 2 + (j - col) ** 2) * per_square
            n = min(int(at), last)
            part = at - n
            image[i, j] += membrane * ((1 - part) * table[0, n] + part * table[0, n + 1]) + (
                sheet * ((1 - part) * table[1, n] + part * table[1, n + 1])
            )


@njit(**_JIT)
def draw_patterns(
    out,
    numbers,
    weights,
    deformations,
    centers,
    thickness,
    electrons,
    spots,
    intensities,
    exponents,
    recorded,
    starts,
    diffuse,
    profile,
    reach,
    diffuse_table,
    per_square,
    pixel,
    hot,
    hot_counts,
    noise,
    seed,
):
    """Draw the patterns of some positions.

    Parameters
    ----------
    out
        Filled, (n, k_y, k_x): counts, or without `noise` parts of the incident electrons.
    numbers
        int64 (n,), the positions' numbers in the whole scan.
    weights, deformations
        Each domain's share in each pattern, (n, domains); what its reciprocal vectors (x, y) are
        multiplied by there, (n, domains, 2, 2).
    centers
        (row, col) of the direct beam in pixels, (n, 2).
    thickness, electrons
        Relative thickness and mean number of electrons, (n,).
    spots, intensities, exponents, recorded, starts
        Reflections of all domains: (k_x, k_y) in 1/Å (s, 2), parts of the electrons (s,), with
        which power of the thickness these go (s,), 1 for those on a centred detector and 0 for
        others (s,), and where each domain's begin (domains + 1,).
    diffuse
        Share of the membrane's and the sheet's diffuse scattering in each domain, (domains, 2).
    profile, reach, diffuse_table, per_square
        See `_add_disk` and `_add_diffuse`.
    pixel
        Detector pixel in 1/Å.
    hot, hot_counts
        (row, col) of the hot pixels (h, 2) and what they add to every pattern (h,).
    noise, seed
        Whether to count electrons, and the seed, uint64.
    """
    shape = out.shape[1:]
    image = np.empty(shape)
    cumulative = np.empty(image.size)
    state = np.empty(1, np.uint64)
    ceiling = 0
    if noise:
        ceiling = 2 ** min(8 * out.itemsize, 32) - 1
    for p in range(len(out)):
        image[:] = 0
        row, col = centers[p]
        direct = membrane = sheet = 0.0
        for d in range(weights.shape[1]):
            weight = weights[p, d]
            if weight == 0:
                continue
            m = deformations[p, d]
            rings, halo = diffuse[d, 0] * thickness[p], diffuse[d, 1] * thickness[p]
            bragg = 0.0
            for s in range(starts[d], starts[d + 1]):
                bragg += recorded[s] * intensities[s] * thickness[p] ** exponents[s]
            # what is not scattered stays in the direct beam; no more can be scattered than came
            scale = weight / max(1.0, rings + halo + bragg)
            for s in range(starts[d], starts[d + 1]):
                k_x = m[0, 0] * spots[s, 0] + m[0, 1] * spots[s, 1]
                k_y = m[1, 0] * spots[s, 0] + m[1, 1] * spots[s, 1]
                intensity = scale * intensities[s] * thickness[p] ** exponents[s]
                _add_disk(image, row + k_y / pixel, col + k_x / pixel, intensity, profile, reach)
            direct += weight - scale * (rings + halo + bragg)
            membrane += scale * rings
            sheet += scale * halo
        _add_disk(image, row, col, direct, profile, reach)
        _add_diffuse(image, row, col, membrane, sheet, diffuse_table, per_square)
        if not noise:
            for i in range(shape[0]):
                for j in range(shape[1]):
                    out[p, i, j] = electrons[p] * image[i, j]
            for h in range(len(hot)):
                out[p, hot[h, 0], hot[h, 1]] += hot_counts[h]
            continue

        state[0] = _mix(_mix(np.uint64(numbers[p]) + np.uint64(0x632BE59BD9B4E019)) ^ seed)
        total = 0.0
        n = 0
        for i in range(shape[0]):
            for j in range(shape[1]):
                total += image[i, j]
                cumulative[n] = total
                n += 1
        if total * electrons[p] < _FEW_ELECTRONS * image.size:
            image[:] = 0
            for _ in range(_poisson(state, total * electrons[p])):
                n = np.searchsorted(cumulative, _uniform(state) * total)
                n = min(n, image.size - 1)
                image[n // shape[1], n % shape[1]] += 1
        else:
            for i in range(shape[0]):
                for j in range(shape[1]):
                    image[i, j] = _poisson(state, image[i, j] * electrons[p])
        for h in range(len(hot)):
            image[hot[h, 0], hot[h, 1]] += hot_counts[h]
        for i in range(shape[0]):
            for j in range(shape[1]):
                out[p, i, j] = min(image[i, j], ceiling)
