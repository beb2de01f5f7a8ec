"""Sums over neighbouring positions of the scan."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# weight in the Potts model of the neighbours across a corner, which are further away
_ACROSS_A_CORNER = 0.7


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian sum over the first two axes; nothing lies beyond the edges."""
    if sigma == 0:
        return image
    sigmas = (sigma, sigma) + (0,) * (image.ndim - 2)
    return ndimage.gaussian_filter(image, sigmas, mode="constant", truncate=3.0)


def neighbour_sum(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian sum over a position's neighbours, without the position itself."""
    return blur(image, sigma) - blur(_UNIT, sigma)[_REACH, _REACH] * image


_REACH = 12
_UNIT = np.zeros((2 * _REACH + 1, 2 * _REACH + 1))
_UNIT[_REACH, _REACH] = 1.0


def potts_field(probabilities: np.ndarray) -> np.ndarray:
    """What the eight neighbours say: for every position (y, x, class)."""
    padded = np.pad(probabilities, ((1, 1), (1, 1), (0, 0)))
    vertical = padded[:-2] + padded[2:]
    across = vertical[:, :-2] + vertical[:, 2:]
    beside = vertical[:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return beside + _ACROSS_A_CORNER * across


def mean_field(
    log_likelihood: np.ndarray, mask: np.ndarray, start: np.ndarray, coupling: float, n: int
) -> np.ndarray:
    """Most probable labels of a Potts model in the mean-field approximation.

    Parameters
    ----------
    log_likelihood
        (y, x, class).
    mask
        True where there is a position.
    start
        Probabilities to start from, (y, x, class).
    coupling
        Strength of the neighbours' say.
    n
        Iterations.

    Returns
    -------
    int array (y, x); meaningless outside of the mask.
    """
    q = start * mask[..., None]
    for _ in range(n):
        q = log_likelihood + coupling * potts_field(q)
        q -= q.max(-1, keepdims=True)
        np.exp(q, out=q)
        q /= q.sum(-1, keepdims=True)
        q *= mask[..., None]
    return q.argmax(-1)
