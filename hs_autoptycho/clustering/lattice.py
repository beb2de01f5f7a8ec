"""A two-dimensional lattice through the disks of a pattern."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy import stats

from hs_autoptycho.clustering.disks import Disks

_STRAY = 0.1  # share of the disks expected to belong to no lattice
_MIN_DISKS = 4  # beside the direct beam
_CHANCE = 1e-3  # largest probability that disks without order give the lattice


@dataclass(frozen=True)
class Lattice:
    """A lattice in detector pixels.

    origin
        (2,): row and column of the direct beam.
    basis
        (2, 2): rows g1 and g2, each (row, column). Reduced: the two shortest vectors.
    covariance
        (6, 6): of origin, g1 and g2 in this order.
    indices
        (n, 2): integers (h, k) of the disks it was fitted to, the direct beam among them.
    """

    origin: np.ndarray
    basis: np.ndarray
    covariance: np.ndarray
    indices: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """(2, 2): standard errors of `basis`."""
        return np.sqrt(np.diag(self.covariance)[2:]).reshape(2, 2)

    def points(self, indices: np.ndarray) -> np.ndarray:
        """Positions (n, 2) of the disks `indices` (n, 2)."""
        return self.origin + np.asarray(indices) @ self.basis

    def transformed(self, change: np.ndarray) -> Lattice:
        """The same lattice with the basis ``change @ basis``; `change` is an integer matrix."""
        whole = np.eye(6)
        whole[2:, 2:] = np.kron(change, np.eye(2))
        back = np.rint(np.linalg.inv(change)).astype(int)
        return Lattice(
            self.origin, change @ self.basis, whole @ self.covariance @ whole.T, self.indices @ back
        )


@dataclass(frozen=True)
class NoLattice:
    """Why a pattern has no lattice."""

    reason: str


def reduce_basis(basis: np.ndarray) -> np.ndarray:
    """Two shortest vectors of a lattice (rows), at 60° to 120° of each other (Gauss)."""
    a, b = np.array(basis, dtype=float)
    for _ in range(100):
        if a @ a > b @ b:
            a, b = b, a
        multiple = np.rint(a @ b / (a @ a))
        if multiple == 0:
            break
        b = b - multiple * a
    # one turning sense for all, the first vector in the upper half-plane
    if a[0] * b[1] - a[1] * b[0] < 0:
        b = -b
    if (a[0], a[1]) < (0, 0):
        a, b = -a, -b
    return np.array([a, b])


#: All changes of basis with entries of -1, 0 and 1 that keep the turning sense.
_CHANGES = [
    np.array(m).reshape(2, 2)
    for m in product((-1, 0, 1), repeat=4)
    if m[0] * m[3] - m[1] * m[2] == 1
]


def nearest_basis(basis: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Integer change of basis that brings `basis` nearest to `reference`.

    Both have vectors as rows, in one metric. The distance is that of the whole basis, so a lattice
    that was turned comes back turned by the smallest angle that its symmetry allows.

    Returns
    -------
    numpy.ndarray
        (2, 2) integers `m`: ``m @ basis`` is the equivalent basis.
    """
    short = reduce_basis(basis)
    first = np.rint(short @ np.linalg.inv(basis)).astype(int)
    goal = reduce_basis(reference)
    last = np.rint(reference @ np.linalg.inv(goal)).astype(int)
    distances = [np.sum((change @ short - goal) ** 2) for change in _CHANGES]
    return last @ _CHANGES[int(np.argmin(distances))] @ first


def find_lattice(
    disks: Disks,
    center: np.ndarray,
    radius: float,
    *,
    stretch: tuple[float, float] = (1.0, 1.0),
    max_candidates: int = 36,
) -> Lattice | NoLattice:
    """Find the lattice that explains most of a pattern's disks.

    Vectors between disks that occur often are combined in pairs. A pair's score is the logarithm
    of the likelihood of the disks' places, weighted with the square root of their intensities,
    against places without order; a share of disks may be astray. A lattice finer than necessary
    would put any place near one of its points, and scores less; a lattice that misses disks does
    too. The best pairs are refined by weighted least squares.

    Parameters
    ----------
    disks
        What was found in the pattern.
    center
        (row, column) of the direct beam.
    radius
        Of the disks in pixels: vectors shorter than their diameter are not considered.
    stretch
        As for `disks.DiskProfile`.
    max_candidates
        Number of different vectors that are combined.

    Returns
    -------
    Lattice or NoLattice
        None that disks without order would give with a probability above 0.001, all combinations
        that were tried considered.
    """
    stretch = np.asarray(stretch, dtype=float)
    points = (disks.positions - center) * stretch
    beam = np.hypot(*points.T) < radius if len(points) else np.zeros(0, bool)
    errors = np.maximum(disks.errors, 0.02)
    others, weights = points[~beam], np.sqrt(np.maximum(disks.heights[~beam], 0))
    if len(others) < _MIN_DISKS:
        return NoLattice(
            f"{len(others)} disks were found beside the direct beam, and a lattice needs "
            f"{_MIN_DISKS}"
        )
    weights = weights / weights.sum() * len(weights)
    sigma = float(np.clip(np.median(errors[~beam]), 0.15, 0.3 * radius + 0.2))
    vectors = _frequent_vectors(others, weights, 1.6 * radius, 2 * sigma)[:max_candidates]
    candidates = []
    seen: list[np.ndarray] = []
    for a, b in combinations(vectors, 2):
        area = abs(a[0] * b[1] - a[1] * b[0])
        if area < 0.2 * np.hypot(*a) * np.hypot(*b):
            continue
        basis = reduce_basis([a, b])
        if np.hypot(*basis[0]) < 1.6 * radius:
            continue
        if any(np.abs(basis - other).max() < 0.5 * sigma for other in seen):
            continue
        seen.append(basis)
        candidates.append((_score(others, weights, basis, 2 * sigma), len(candidates), basis))
    best, best_score = None, -np.inf
    for _, _, basis in sorted(candidates, key=lambda c: -c[0])[:12]:
        fitted = _fit(points, errors, basis, sigma)
        if fitted is None:
            continue
        score = _score(others - fitted[0], weights, fitted[1], sigma)
        if score > best_score:
            best, best_score = fitted, score
    if best is None:
        return NoLattice("the disks are on no two-dimensional lattice")
    origin, basis, covariance, indices, member = best
    n_hits = int((member & ~beam).sum())
    tolerance = 3 * sigma
    area = abs(np.linalg.det(basis))
    chance = min(np.pi * tolerance**2 / area, 1.0)
    # two disks are always on the lattice that they define
    tail = stats.binom.logsf(n_hits - 3, max(len(others) - 2, 1), chance)
    if n_hits < _MIN_DISKS or tail + np.log(max(len(seen), 1)) > np.log(_CHANCE):
        return NoLattice(
            f"{n_hits} of {len(others)} disks are on the best lattice, which disks without order "
            "would give by chance"
        )
    scale = np.tile(1 / stretch, 3)
    reduced = Lattice(origin, basis, covariance, indices[member])
    return Lattice(
        center + reduced.origin / stretch,
        reduced.basis / stretch,
        covariance * np.outer(scale, scale),
        reduced.indices,
    )


def _frequent_vectors(points, weights, shortest: float, tolerance: float) -> list[np.ndarray]:
    """Vectors between disks (and from the direct beam), the best supported first."""
    strongest = np.argsort(-weights, kind="stable")[:40]
    points = np.vstack([[0.0, 0.0], points[strongest]])
    weights = np.concatenate([[weights.max()], weights[strongest]])
    first, second = np.triu_indices(len(points), 1)
    vectors = points[second] - points[first]
    support = np.sqrt(weights[first] * weights[second])
    flip = (vectors[:, 0] < 0) | ((vectors[:, 0] == 0) & (vectors[:, 1] < 0))
    vectors[flip] *= -1
    long_enough = np.hypot(*vectors.T) > shortest
    vectors, support = vectors[long_enough], support[long_enough]
    chosen: list[tuple[float, np.ndarray]] = []
    # short vectors are the ones wanted, and many disks repeat them
    free = np.ones(len(vectors), bool)
    distance = np.hypot(*(vectors[:, None] - vectors[None]).transpose(2, 0, 1))
    distance = np.minimum(
        distance, np.hypot(*(vectors[:, None] + vectors[None]).transpose(2, 0, 1))
    )
    close = distance < tolerance
    total = close @ support
    for index in np.argsort(-total, kind="stable"):
        if free[index]:
            members = close[index]
            same = np.sign(vectors[members] @ vectors[index])[:, None]
            mean = np.average(vectors[members] * same, axis=0, weights=support[members])
            chosen.append((float(total[index]), mean))
            free &= ~members
    return [vector for _, vector in chosen]


def _nearest(points, basis) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the lattice points nearest to `points`, and the squared distances."""
    indices = np.rint(points @ np.linalg.inv(basis))
    return indices.astype(int), ((points - indices @ basis) ** 2).sum(axis=1)


def _score(points, weights, basis, sigma: float) -> float:
    """Weighted log-likelihood of places on a lattice against places anywhere."""
    _, squared = _nearest(points, basis)
    area = abs(np.linalg.det(basis))
    gain = (1 - _STRAY) * area / (2 * np.pi * sigma**2) * np.exp(-squared / (2 * sigma**2))
    return float((weights * np.log(_STRAY + gain)).sum())


def _fit(points, errors, basis, sigma: float):
    """Weighted least squares for origin and basis, from the inner disks outwards.

    Returns origin, basis, covariance, indices and which disks belong to it; None where fewer than
    four do.
    """
    origin = np.zeros(2)
    # the basis is known to about sigma: first only the disks that this still tells apart
    for order in (1, 2, 3, 5, 8, 100, 100):
        indices, squared = _nearest(points - origin, basis)
        within = np.abs(indices).max(axis=1) <= order
        member = within & (squared < (3 * sigma) ** 2)
        # the direct beam and two disks in one row leave the basis undetermined
        design = np.column_stack([np.ones(member.sum()), indices[member]])
        if member.sum() < 3 or np.linalg.matrix_rank(design) < 3:
            if order < 100:
                continue
            return None
        weight = 1 / errors[member] ** 2
        weight = np.minimum(weight, 25 * np.median(weight))  # the direct beam is not everything
        normal = np.linalg.inv(design.T @ (design * weight[:, None]))
        solution = normal @ (design.T @ (points[member] * weight[:, None]))
        origin, basis = solution[0], solution[1:]
        if abs(np.linalg.det(basis)) < 1e-6:
            return None
    short = reduce_basis(basis)
    change = np.rint(short @ np.linalg.inv(basis)).astype(int)
    indices = indices @ np.rint(np.linalg.inv(change)).astype(int)
    if member.sum() < 4:
        return None
    residual = points[member] - origin - indices[member] @ short
    freedom = max(2 * member.sum() - 6, 1)
    variance = max(float((weight[:, None] * residual**2).sum() / freedom), 1.0)
    whole = np.eye(3)
    whole[1:, 1:] = change
    # of (origin, g1, g2), rows and columns alike: kron with the identity of (row, column)
    covariance = np.kron(whole @ normal @ whole.T, np.eye(2)) * variance
    return origin, short, covariance, indices, member
