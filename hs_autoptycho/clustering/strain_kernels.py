"""Maximum-likelihood fit of a lattice to single patterns, compiled.

A pattern is modelled as ``scale * sum_d f_d H_d D(|q - t - h_d g1 - k_d g2|) + b B(q)``: disks of
one profile D and of heights H, on a background B, all known from a mean pattern. Fitted are the
origin t, the two vectors g1 and g2, the two scales, and the factors f of the single disks, which
are held near 1 by a gamma distribution. Only windows around the disks are looked at.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# what became of a pattern; the numbers are stored in results
FITTED = 0
TOO_FEW_COUNTS = 3
NOT_CONVERGED = 4
DISPLACED = 5
NO_COUNTS = 7

#: Columns of the result of a pattern: origin (2), basis minus the seed's (4), upper triangle of the
#: covariance of the basis (10), scale, dispersion, mean variance of the disks' places, status.
N_VALUES = 20
SCALE, DISPERSION, VARIANCE, STATUS = 16, 17, 18, 19

_MAX_ITERATIONS = 60
_PRIOR = 16.0  # counts of the gamma distribution of a disk's factor: 25 % of scatter is expected


@njit(cache=True, nogil=True)
def _coarse_shift(pattern, rows, cols, weights, usable, max_shift):
    """Whole-pixel shift at which the weighted counts of the strongest disks are largest."""
    n_rows, n_cols = pattern.shape
    best = -1.0
    best_row = 0
    best_col = 0
    for step_row in range(-max_shift, max_shift + 1):
        for step_col in range(-max_shift, max_shift + 1):
            total = 0.0
            for i in range(len(rows)):
                y = rows[i] + step_row
                x = cols[i] + step_col
                if 0 <= y < n_rows and 0 <= x < n_cols and usable[y, x]:
                    total += weights[i] * pattern[y, x]
            # between equals the smallest shift
            nearer = step_row**2 + step_col**2 < best_row**2 + best_col**2
            if total > best or (total == best and nearer):
                best = total
                best_row = step_row
                best_col = step_col
    return best_row, best_col


@njit(cache=True, nogil=True)
def disk_terms(
    pattern, usable, background, shift_row, shift_col, middle_row, middle_col, window,
    row, col, height, ground, profile, slope, per_pixel, stretch_row, stretch_col, out,
):  # fmt: skip
    """Likelihood terms of one disk within its window.

    Parameters
    ----------
    pattern, usable, background
        Counts, 1 where a pixel works, and the background, (k_y, k_x) each.
    shift_row, shift_col
        Whole pixels by which the background is shifted.
    middle_row, middle_col, window
        Centre and radius of the window.
    row, col, height, ground
        The disk's centre and height, and the scale of the background.
    profile, slope, per_pixel
        Table of the disk's profile and its derivative, and its entries in a pixel.
    stretch_row, stretch_col
        As in `disks.DiskProfile`.
    out
        Filled with the score (row, column, log height, ground), the upper triangle of their
        Fisher matrix (10), the disk's share of the counts, the counts the disk is expected to have,
        Pearson's chi-squared and the number of pixels.
    """
    n_rows, n_cols = pattern.shape
    out[:] = 0.0
    reach_row = window / stretch_row
    reach_col = window / stretch_col
    y0 = max(0, int(math.ceil(middle_row - reach_row)))
    y1 = min(n_rows - 1, int(math.floor(middle_row + reach_row)))
    x0 = max(0, int(math.ceil(middle_col - reach_col)))
    x1 = min(n_cols - 1, int(math.floor(middle_col + reach_col)))
    last = len(profile) - 2
    for y in range(y0, y1 + 1):
        from_middle = stretch_row * (y - middle_row)
        dy = stretch_row * (y - row)
        by = min(max(y - shift_row, 0), n_rows - 1)
        for x in range(x0, x1 + 1):
            if not usable[y, x]:
                continue
            across = stretch_col * (x - middle_col)
            if from_middle * from_middle + across * across > window * window:
                continue
            dx = stretch_col * (x - col)
            distance = math.sqrt(dy * dy + dx * dx)
            at = distance * per_pixel
            i = int(at)
            if i >= last:
                disk = 0.0
                fall = 0.0
            else:
                part = at - i
                disk = profile[i] + part * (profile[i + 1] - profile[i])
                fall = slope[i] + part * (slope[i + 1] - slope[i])
            bx = min(max(x - shift_col, 0), n_cols - 1)
            under = ground * background[by, bx]
            above = height * disk
            expected = above + under
            counts = pattern[y, x]
            radial = -height * fall / max(distance, 1e-9)
            g_row = radial * dy * stretch_row
            g_col = radial * dx * stretch_col
            g_ground = background[by, bx]
            inverse = 1.0 / expected
            excess = counts * inverse - 1.0
            out[0] += excess * g_row
            out[1] += excess * g_col
            out[2] += excess * above
            out[3] += excess * g_ground
            out[4] += g_row * g_row * inverse
            out[5] += g_row * g_col * inverse
            out[6] += g_row * above * inverse
            out[7] += g_row * g_ground * inverse
            out[8] += g_col * g_col * inverse
            out[9] += g_col * above * inverse
            out[10] += g_col * g_ground * inverse
            out[11] += above * above * inverse
            out[12] += above * g_ground * inverse
            out[13] += g_ground * g_ground * inverse
            out[14] += counts * above * inverse
            out[15] += above
            out[16] += (counts - expected) * (counts - expected) * inverse
            out[17] += 1.0


@njit(cache=True, nogil=True)
def _assemble(terms, h, k, score, fisher):
    """Add a disk's terms to score and Fisher matrix of (origin, g1, g2, log scale, ground)."""
    local = np.empty((4, 4))
    index = 4
    for i in range(4):
        for j in range(i, 4):
            local[i, j] = terms[index]
            local[j, i] = terms[index]
            index += 1
    factor = (1.0, h, k)
    for m in range(3):
        for i in range(2):
            p = 2 * m + i
            score[p] += factor[m] * terms[i]
            for n in range(3):
                for j in range(2):
                    fisher[p, 2 * n + j] += factor[m] * factor[n] * local[i, j]
            for j in range(2):
                value = factor[m] * local[i, 2 + j]
                fisher[p, 6 + j] += value
                fisher[6 + j, p] += value
    for i in range(2):
        score[6 + i] += terms[2 + i]
        for j in range(2):
            fisher[6 + i, 6 + j] += local[2 + i, 2 + j]


@njit(cache=True, nogil=True)
def fit_lattice(
    pattern, usable, background, origin, basis, indices, heights, profile, slope, per_pixel,
    stretch, window, radius,
    coarse_rows, coarse_cols, coarse_weights, max_shift, out,
):  # fmt: skip
    """Fit origin and basis of the lattice of one pattern; see the module for the model.

    Parameters
    ----------
    pattern, usable, background
        (k_y, k_x) each: counts, 1 where a pixel works, background.
    origin, basis
        (2,) and (2, 2) in pixels: the lattice to start from, vectors as rows.
    indices, heights
        (n, 2) and (n,): the disks of the model.
    profile, slope, per_pixel, stretch, window
        As for `disk_terms`.
    radius
        Of a disk in pixels.
    coarse_rows, coarse_cols, coarse_weights, max_shift
        Pixels and weights of the search for the shift of the whole pattern, and its range.
    out
        (N_VALUES,), filled.
    """
    n_disks = len(heights)
    out[:] = np.nan
    total = 0.0
    for y in range(pattern.shape[0]):
        for x in range(pattern.shape[1]):
            total += pattern[y, x]
    if not (total > 0 and total < np.inf):
        out[STATUS] = NO_COUNTS
        return
    shift_row, shift_col = _coarse_shift(
        pattern, coarse_rows, coarse_cols, coarse_weights, usable, max_shift
    )
    p = np.empty(8)
    p[0] = origin[0] + shift_row
    p[1] = origin[1] + shift_col
    p[2:6] = basis.ravel()
    # the scale of all from the counts where disks are strong
    seen = 0.0
    wanted = 0.0
    for i in range(len(coarse_rows)):
        y = coarse_rows[i] + shift_row
        x = coarse_cols[i] + shift_col
        if 0 <= y < pattern.shape[0] and 0 <= x < pattern.shape[1] and usable[y, x]:
            seen += pattern[y, x]
            # the weight is log(1 + height * profile / background)
            level = background[coarse_rows[i], coarse_cols[i]]
            wanted += level * math.exp(coarse_weights[i])
    if not (seen > 0 and wanted > 0):
        out[STATUS] = TOO_FEW_COUNTS
        return
    p[6] = math.log(seen / wanted)
    p[7] = seen / wanted
    start_row = p[0]
    start_col = p[1]
    first_ground = p[7]
    middles = np.empty((n_disks, 2))
    factors = np.ones(n_disks)
    terms = np.empty(18)
    score = np.empty(8)
    fisher = np.empty((8, 8))
    dispersion = 1.0
    longest = 1.0
    for d in range(n_disks):
        longest = max(longest, abs(indices[d, 0]), abs(indices[d, 1]))
    converged = False
    counted = 0.0
    for iteration in range(_MAX_ITERATIONS):
        score[:] = 0.0
        fisher[:] = 0.0
        chi_squared = 0.0
        n_pixels = 0.0
        counted = 0.0
        change = 0.0
        for d in range(n_disks):
            h = indices[d, 0]
            k = indices[d, 1]
            row = p[0] + h * p[2] + k * p[4]
            col = p[1] + h * p[3] + k * p[5]
            if iteration < 3:
                # later the windows stay, so that the likelihood is that of the same pixels
                middles[d, 0] = row
                middles[d, 1] = col
            height = heights[d] * math.exp(p[6]) * factors[d]
            disk_terms(
                pattern, usable, background, shift_row, shift_col, middles[d, 0], middles[d, 1],
                window, row, col, height, p[7], profile, slope, per_pixel,
                stretch[0], stretch[1], terms,
            )  # fmt: skip
            _assemble(terms, h, k, score, fisher)
            chi_squared += terms[16]
            n_pixels += terms[17]
            counted += terms[14]
            prior = _PRIOR * dispersion
            factor = (prior + terms[14]) / (prior + terms[15] / factors[d])
            if iteration > 0:
                change = max(change, abs(math.log(factor / factors[d])) * (terms[15] > 0))
                factors[d] = factor
        if n_pixels < 20:
            break
        dispersion = chi_squared / n_pixels
        # a background of nothing, or disks of nothing, leave their scales free
        hold = _PRIOR * max(dispersion, 1e-12)
        fisher[7, 7] += hold / first_ground**2
        score[7] -= hold / first_ground**2 * (p[7] - first_ground)
        for i in range(8):
            fisher[i, i] *= 1 + 1e-10
            if not fisher[i, i] > 0:
                out[STATUS] = TOO_FEW_COUNTS
                return
        step = np.linalg.solve(fisher, score)
        length = max(abs(step[0]), abs(step[1]))
        stretchy = 0.0
        for i in range(2, 6):
            stretchy = max(stretchy, abs(step[i]))
        length = max(length, stretchy * longest)
        if not length < np.inf:
            break
        limit = min(1.0, 0.5 * radius / max(length, 1e-12))
        limit = min(limit, 1.0 / max(abs(step[6]), 1e-12))
        if iteration > 6:
            # few counts make the likelihood rough, and full steps may go to and fro
            limit *= 0.6
        if iteration > 20:
            limit *= 0.5
        for i in range(7):
            p[i] += limit * step[i]
        p[7] = max(p[7] + limit * step[7], 0.1 * p[7])
        if iteration > 3 and length < 1e-3 and change < 0.05:
            converged = True
            break
    out[SCALE] = math.exp(p[6])
    out[DISPERSION] = dispersion
    if not counted > 0:
        out[STATUS] = TOO_FEW_COUNTS
        return
    covariance = np.linalg.inv(fisher)
    out[0] = p[0]
    out[1] = p[1]
    variance_of_places = 0.0
    for d in range(n_disks):
        # how well a disk's place is known, on average over rows and columns
        h = indices[d, 0]
        k = indices[d, 1]
        variance = 0.0
        for i in range(2):
            variance += 0.5 * (
                h * h * covariance[2 + i, 2 + i]
                + k * k * covariance[4 + i, 4 + i]
                + 2 * h * k * covariance[2 + i, 4 + i]
            )
        variance_of_places += variance / n_disks
    out[VARIANCE] = variance_of_places
    for i in range(4):
        out[2 + i] = p[2 + i] - basis[i // 2, i % 2]
    index = 6
    for i in range(4):
        for j in range(i, 4):
            out[index] = covariance[2 + i, 2 + j]
            index += 1
    if not converged:
        out[STATUS] = NOT_CONVERGED
    elif math.hypot(stretch[0] * (p[0] - start_row), stretch[1] * (p[1] - start_col)) > max(
        1.0, radius
    ):
        out[STATUS] = DISPLACED
    else:
        out[STATUS] = FITTED


@njit(cache=True, nogil=True)
def fit_lattices(
    patterns, chosen, usable, background, origin, basis, indices, heights, profile, slope,
    per_pixel, stretch, window, radius,
    coarse_rows, coarse_cols, coarse_weights, max_shift, out,
):  # fmt: skip
    """`fit_lattice` for the patterns ``patterns[chosen]``, into ``out[chosen]``."""
    row = np.empty(N_VALUES)
    for i in chosen:
        fit_lattice(
            patterns[i], usable, background, origin, basis, indices, heights, profile, slope,
            per_pixel, stretch, window, radius,
            coarse_rows, coarse_cols, coarse_weights, max_shift, row,
        )  # fmt: skip
        out[i] = row
