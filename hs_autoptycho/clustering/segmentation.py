"""Two-means in a node: ways to part it that one half of the counts proposes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans

from hs_autoptycho.clustering.features import Half
from hs_autoptycho.clustering.smoothing import mean_field

# the say of neighbours in the Potts model, in units of log likelihood
COUPLING = 0.7
# parts into which a node is cut before they are joined to two
_PARTS = (2, 3, 4)
# positions that k-means is fitted to, at most
_FITTED = 20000
_STARTS = 4
_ROUNDS = 3
_ITERATIONS = 8


@dataclass(frozen=True)
class Proposal:
    """A way to part a node in two.

    Attributes
    ----------
    parts : int array (positions,)
        Labels 0..k-1 of the positions of the node.
    joined : bool array (k,)
        Which of the parts make the second child.
    """

    parts: np.ndarray
    joined: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """True for the positions of the second child."""
        return self.joined[self.parts]


def propose(half: Half, smooth: np.ndarray, mask: np.ndarray, random_state: int) -> list[Proposal]:
    """Cut a node in two, three and four parts, and join them to two in several ways.

    2-means alone puts the cut between three domains, or a large and a small one, through a domain.

    Parameters
    ----------
    half
        In the directions of the node.
    smooth : array (positions, dimensions)
        Smoothed means, which k-means starts from.
    mask
        True for the positions of the node.
    random_state
        Of k-means.
    """
    proposals = []
    for k in _PARTS:
        if len(smooth) < 20 * k:
            continue
        parts = segment(half, mask, _start(smooth, k, random_state), k)
        if parts is None:
            continue
        for joined in _groupings(half, mask, parts, k):
            proposals.append(Proposal(parts, joined))
    return proposals


def _start(smooth: np.ndarray, k: int, random_state: int) -> np.ndarray:
    every = -(-len(smooth) // _FITTED)
    model = KMeans(k, n_init=_STARTS, random_state=random_state).fit(smooth[::every])
    return model.predict(np.ascontiguousarray(smooth))


def segment(half: Half, mask: np.ndarray, start: np.ndarray, k: int) -> np.ndarray | None:
    """Refine labels by the likelihood of every position's own counts and a Potts prior.

    Returns None where a part vanishes.
    """
    weights = half.weights[mask]
    sums = half.sums[mask]
    labels = start
    for _ in range(_ROUNDS):
        means = part_means(sums, weights, labels, k)
        if means is None:
            return None
        gain = sums @ means.T - weights[:, None] * (0.5 * (means**2).sum(1))
        log_likelihood = np.zeros((*mask.shape, k))
        log_likelihood[mask] = gain
        probabilities = np.zeros_like(log_likelihood)
        probabilities[mask] = np.eye(k)[labels]
        field = mean_field(log_likelihood, mask, probabilities, COUPLING, _ITERATIONS)
        labels = field[mask]
    return labels if len(np.unique(labels)) == k else None


def part_means(sums, weights, labels, k: int) -> np.ndarray | None:
    """Mean of each part, a count; None where a part is empty."""
    totals = np.bincount(labels, weights, minlength=k)
    if not (totals > 0).all():
        return None
    means = [np.bincount(labels, column, minlength=k) for column in sums.T]
    return np.stack(means, axis=1) / totals[:, None]


def _groupings(half: Half, mask: np.ndarray, parts: np.ndarray, k: int) -> list[np.ndarray]:
    """Ways to join k parts to two: as trees of their means do, and each against the others."""
    if k == 2:
        return [np.array([False, True])]
    means = part_means(half.sums[mask], half.weights[mask], parts, k)
    found = {}
    for method in ("average", "single"):
        second = fcluster(linkage(means, method), 2, "maxclust") == 2
        found[tuple(second ^ second[0])] = None
    for alone in np.eye(k, dtype=bool):
        found[tuple(alone ^ alone[0])] = None
    return [np.array(second) for second in found if any(second)]
