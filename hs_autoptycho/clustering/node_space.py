"""The few directions in which the patterns of a node differ by more than noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hs_autoptycho.clustering.features import Half
from hs_autoptycho.clustering.smoothing import blur, neighbour_sum

_MAX_DIMENSIONS = 8
# where there is structure, a few more than stand above the noise: among them labels can turn away
# from a gradient to the step beside it
_LEAST_DIMENSIONS = 3
# width in positions of the Gaussian over which patterns have to agree with their neighbours
_COHERENCE = 1.0
# how far a component has to stand above the largest that noise alone makes
_ABOVE_NOISE = 1.15
# positions on which noise is simulated
_NOISE_POSITIONS = 16384
# rows of the scan worked on at once
_BAND = 64
_HALO = 4


@dataclass(frozen=True)
class NodeSpace:
    """Directions for the patterns of a node, scaled so that noise is 1 a count in all of them.

    Attributes
    ----------
    mean : array (features,)
        Mean pattern of the node, a count.
    directions : array (features, dimensions)
        Strongest first.
    strengths
        Of the components, in units of the largest that noise makes.
    """

    mean: np.ndarray
    directions: np.ndarray
    strengths: np.ndarray

    @property
    def dimensions(self) -> int:
        return self.directions.shape[1]

    def project(self, half: Half) -> Half:
        """The half in these directions, centred."""
        sums = half.sums @ self.directions.astype(half.sums.dtype)
        shift = (self.mean @ self.directions).astype(half.sums.dtype)
        return Half(sums - half.weights[..., None] * shift, half.weights)


def node_space(half: Half, mask: np.ndarray, random_state: int) -> NodeSpace:
    """Principal components of a node, refitted to its own patterns and its own noise.

    Noise is measured by the differences of diagonal neighbours; structure is the covariance of a
    position with its neighbours, to which noise does not contribute. Components that do not stand
    above those of simulated noise are dropped.

    Parameters
    ----------
    half
        To fit.
    mask
        True for the positions of the node.
    random_state
        Of the simulated noise.
    """
    weights = np.where(mask, half.weights, 0)
    mean = np.tensordot(weights > 0, half.sums, 2) / max(float(weights.sum()), 1e-30)
    noise, shared = _covariances(half.sums, weights, mean)
    values, vectors = np.linalg.eigh(noise)
    values = np.maximum(values, 1e-6 * max(values[-1], 1e-30))
    whitening = vectors / np.sqrt(values)
    strengths, rotation = np.linalg.eigh(whitening.T @ shared @ whitening)
    order = np.argsort(-strengths)
    strengths = strengths[order] / _noise_strength(weights, len(mean), random_state)
    dimensions = min(int((strengths > _ABOVE_NOISE).sum()), _MAX_DIMENSIONS)
    if dimensions > 0:
        dimensions = max(dimensions, min(_LEAST_DIMENSIONS, len(mean)))
    return NodeSpace(mean, (whitening @ rotation[:, order])[:, :dimensions], strengths)


def _covariances(sums, weights, mean) -> tuple[np.ndarray, np.ndarray]:
    """Covariance a count of the noise, and of a pattern with the mean of its neighbours."""
    n = len(mean)
    noise, shared = np.zeros((n, n)), np.zeros((n, n))
    pairs, positions = 0, 0
    height = len(weights)
    for top in range(0, height, _BAND):
        first, last = max(top - _HALO, 0), min(top + _BAND + _HALO, height)
        rows = slice(first, last)
        w = weights[rows]
        used = w > 0
        centred = np.where(used[..., None], sums[rows] - w[..., None] * mean, 0).astype(np.float32)
        inner = slice(top - first, min(top + _BAND, height) - first)

        around = neighbour_sum(centred, _COHERENCE)[inner]
        around_weights = neighbour_sum(w, _COHERENCE)[inner]
        here = used[inner] & (around_weights > 1e-3 * w.max(initial=0))
        neighbours = around[here] / around_weights[here][:, None]
        product = centred[inner][here].T.astype(float) @ neighbours
        shared += (product + product.T) / 2
        positions += np.count_nonzero(here)

        # pairs are counted with the lower of their rows, which a band must not share with the next
        low, high = np.s_[inner.start + 1 : inner.stop + 1], np.s_[inner.start : inner.stop]
        for left, right in ((np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])):
            below, above = (low, left), (high, right)
            shape = min(w[below].shape[0], w[above].shape[0])
            wb, wa = w[below][:shape], w[above][:shape]
            both = (wb > 0) & (wa > 0)
            wb, wa = wb[both], wa[both]
            difference = centred[below][:shape][both] / wb[:, None]
            difference -= centred[above][:shape][both] / wa[:, None]
            difference *= np.sqrt(1 / (1 / wb + 1 / wa))[:, None]
            noise += difference.T.astype(float) @ difference
            pairs += len(wb)
    return noise / max(pairs, 1), shared / max(positions, 1)


def _noise_strength(weights: np.ndarray, n: int, random_state: int) -> float:
    """The strongest component of white noise, one a count, on these positions."""
    count = np.count_nonzero(weights)
    per_row = np.cumsum(np.count_nonzero(weights, axis=1))
    rows = int(np.searchsorted(per_row, min(_NOISE_POSITIONS, count))) + 1
    part = weights[:rows]
    generator = np.random.default_rng(random_state)
    strongest = 0.0
    for _ in range(2):
        noise = generator.standard_normal((*part.shape, n)).astype(np.float32)
        noise *= np.sqrt(part)[..., None]
        _, shared = _covariances(noise, part, np.zeros(n))
        strongest = max(strongest, float(np.linalg.eigvalsh(shared)[-1]))
    return strongest * np.sqrt(np.count_nonzero(part) / max(count, 1))


def best_smoothing(fit: Half, test: Half, mask: np.ndarray, widths) -> tuple[float, np.ndarray]:
    """The width of a Gaussian over the scan with which one half best predicts the other.

    Returns
    -------
    The width in positions, and the smoothed means (positions of the mask, dimensions).
    """
    best = None
    sums = fit.sums * mask[..., None]
    weights = fit.weights * mask
    total = test.weights[mask]
    seen = total > 0
    target = test.sums[mask][seen] / total[seen][:, None]
    for width in widths:
        density = blur(weights, width)[mask]
        means = blur(sums, width)[mask] / np.maximum(density, 1e-6 * weights.max())[:, None]
        error = float((total[seen][:, None] * (target - means[seen]) ** 2).sum())
        if best is None or error < best[0]:
            best = (error, width, means)
    return best[1], best[2]
