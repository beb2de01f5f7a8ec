"""Labels of all positions once the clusters are known."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from hs_autoptycho.clustering.features import Features
from hs_autoptycho.clustering.segmentation import part_means
from hs_autoptycho.clustering.smoothing import mean_field, potts_field

_ROUNDS = 4
_ITERATIONS = 15
_LARGEST_COUPLING = 1.5


def assign(features: Features, labels: np.ndarray, n: int) -> np.ndarray:
    """Give every position to the cluster that its counts and its neighbours make most probable.

    The splits were made one after the other, each with the counts of one half or the patterns of
    one node; now all counts decide between all clusters: linear discriminants with the noise
    covariance within clusters, and a Potts prior whose strength is fitted to the labels.

    Parameters
    ----------
    features
        Of all positions.
    labels
        (y, x), from 0 to n - 1, or -1.
    n
        Number of clusters.

    Returns
    -------
    int32 array (y, x). No cluster vanishes: if one would, the labels before are kept.
    """
    labels = labels.astype(np.int32)
    if n == 1:
        return labels
    mask = features.valid
    half = features.together()
    sums, weights = half.sums[mask], half.weights[mask].astype(float)
    for _ in range(_ROUNDS):
        flat = labels[mask]
        means = part_means(sums, weights, flat, n)
        if means is None:
            return labels
        precision = np.linalg.inv(_noise(sums, weights, means, flat))
        discriminants = means @ precision
        constant = 0.5 * (discriminants * means).sum(1)
        log_likelihood = np.zeros((*mask.shape, n))
        log_likelihood[mask] = sums @ discriminants.T - weights[:, None] * constant
        indicator = np.zeros_like(log_likelihood)
        indicator[mask] = np.eye(n)[flat]
        coupling = _coupling(potts_field(indicator)[mask], flat)
        new = mean_field(log_likelihood, mask, indicator, coupling, _ITERATIONS)
        new = np.where(mask, new, -1).astype(np.int32)
        if np.array_equal(new, labels) or len(np.unique(new[mask])) < n:
            break
        labels = new
    return labels


def _noise(sums, weights, means, labels) -> np.ndarray:
    """Covariance a count, within clusters."""
    n = sums.shape[1]
    covariance = np.zeros((n, n))
    for start in range(0, len(labels), 2**16):
        part = slice(start, start + 2**16)
        some = weights[part] > 0
        w = weights[part][some][:, None]
        residual = (sums[part][some] - w * means[labels[part][some]]) / np.sqrt(w)
        covariance += residual.T @ residual
    covariance /= max(len(labels), 1)
    return covariance + 1e-6 * max(np.trace(covariance) / n, 1e-30) * np.eye(n)


def _coupling(field: np.ndarray, labels: np.ndarray) -> float:
    """The strength of a Potts prior, by maximum pseudo-likelihood."""
    own = np.take_along_axis(field, labels[:, None], 1)[:, 0]

    def cost(strength: float) -> float:
        return float((logsumexp(strength * field, axis=1) - strength * own).sum())

    return minimize_scalar(cost, bounds=(0.05, _LARGEST_COUPLING), method="bounded").x
