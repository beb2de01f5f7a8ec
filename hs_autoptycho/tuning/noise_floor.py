"""The deviance that counting alone leaves: what no model can go below on average."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit, prange
from scipy import stats

from hs_autoptycho.ptycho.arithmetic import JIT

# natural logarithms of the first and last mean of the table; below it only the first count matters,
# above it the deviance is 1 to a part in a thousand
_FIRST, _LAST, _STEPS = -18.0, 5.0, 2300


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """E[dev] / m at the logarithms of means m from `_FIRST` to `_LAST`."""
    logarithms = np.linspace(_FIRST, _LAST, _STEPS + 1)
    means = np.exp(logarithms)
    counts = np.arange(1, 400)
    parts = counts * np.log(counts)
    out = np.empty(len(means))
    for i, mean in enumerate(means):
        # E[n - m] is 0, so that E[dev] = 2 (E[n log n] - m log m)
        out[i] = 2 * (stats.poisson.pmf(counts, mean) @ parts / mean - logarithms[i])
    return out


def expected_deviance(
    predicted: np.ndarray, scale: float, floor: float, mask: np.ndarray
) -> np.ndarray:
    """Mean Poisson deviance a pixel of counts that were drawn from a prediction.

    The counts are judged by prediction plus floor, as :func:`.kernels.poisson_deviance` does:
    E[dev(n, μ + f)] = E[dev(n, μ)] + 2 [f − μ log(1 + f/μ)].

    Parameters
    ----------
    predicted
        Float32 (patterns, pixels).
    scale
        Counts that a prediction of 1 stands for.
    floor
        Counts that are added to the prediction.
    mask
        Float32 (pixels,): 1 where a pixel is used, else 0.

    Returns
    -------
    float64 array (patterns,)
    """
    out = np.empty(len(predicted))
    _expected(predicted, float(scale), float(floor), mask, _table(), out)
    return out / mask.sum(dtype=float)


@njit(parallel=True, **JIT)
def _expected(predicted, scale, floor, mask, table, out):
    steps = _STEPS / (_LAST - _FIRST)
    for n in prange(len(out)):
        total = 0.0
        for k in range(len(mask)):
            mean = predicted[n, k] * scale
            if mask[k] == 0 or not mean > 0:
                total += mask[k] * 2 * floor
                continue
            logarithm = np.log(mean)
            place = (logarithm - _FIRST) * steps
            if place < 0:
                part = -2 * logarithm * mean
            elif place >= _STEPS:
                part = 1 + 1 / (6 * mean)
            else:
                i = int(place)
                part = mean * (table[i] + (place - i) * (table[i + 1] - table[i]))
            total += mask[k] * (part + 2 * (floor - mean * np.log(1 + floor / mean)))
        out[n] = total
