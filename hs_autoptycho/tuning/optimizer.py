"""Proposing the next trial (lower scores are better).

Every proposal is a pure function of what was told, what is pending and the seed: a search that was
interrupted goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import special
from scipy.optimize import minimize
from scipy.stats import qmc

from hs_autoptycho.tuning.space import Dimension, all_points, complete_point, size
from hs_autoptycho.tuning.surrogate import (
    Surrogate,
    Warp,
    active_at,
    encode,
    encode_places,
    kernel_parameters,
    quiet_and_repeatable,
)

Point = Mapping[str, Any]
Told = Sequence[tuple[Point, float | None]]

# Spaces with fewer points than this are looked at point by point.
_FEW_POINTS = 4096
# Candidates, as a power of two; as many more differ from the best point in a few parameters only.
_CANDIDATES = 9
_REFINED = 3  # of the best candidates
_REFINE_STEPS = 15
_SMALL = 1e-5  # step of a numerical derivative, as a part of a range
# The trust region of D. Eriksson et al. (2019): its side as a part of the ranges, how many
# improvements in a row double it, and how many failures in a row halve it, at least.
_FIRST_SIDE, _SMALLEST_SIDE, _LARGEST_SIDE = 0.8, 0.02, 1.6
_IMPROVEMENTS = 3
_FAILURES = 4
# What counts as an improvement, relative to the gain that was made already.
_IMPROVEMENT = 1e-3
# Weight of the user's beliefs: as that of so many trials (Hvarfner et al., 2022).
_BELIEF_TRIALS = 5.0


class Sampler(Protocol):
    """What proposes parameters."""

    def ask(self, told: Told, pending: Sequence[Point] = ()) -> dict[str, Any] | None:
        """The next point, in plain Python types; None if every point has been tried.

        Parameters
        ----------
        told
            Points and their scores, in the order in which they ended; None for a failed trial.
        pending
            Points whose scores are not known yet.
        """


class _Base:
    """What all samplers share: the starting points first, and no point twice."""

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        random_state: int = 0,
        start: Sequence[Point] = (),
    ):
        self.dimensions = list(dimensions)
        self.random_state = random_state
        self.start = [complete_point(self.dimensions, point) for point in start]
        self._size = size(self.dimensions)

    def ask(self, told: Told, pending: Sequence[Point] = ()) -> dict[str, Any] | None:
        """See :meth:`Sampler.ask`."""
        points = [complete_point(self.dimensions, point) for point, _ in told]
        waiting = [complete_point(self.dimensions, point) for point in pending]
        tried = {_key(point) for point in (*points, *waiting)}
        if len(tried) >= self._size:
            return None
        for point in self.start:
            if _key(point) not in tried:
                return dict(point)
        random = np.random.default_rng([self.random_state, len(points) + len(waiting)])
        scores = [score for _, score in told]
        point = self._propose(points, scores, waiting, tried, random)
        return self._untried(tried, random) if point is None or _key(point) in tried else point

    def _propose(self, points, scores, waiting, tried, random) -> dict[str, Any] | None:
        raise NotImplementedError

    def _untried(self, tried, random) -> dict[str, Any]:
        """A random point that was not tried."""
        if self._size <= _FEW_POINTS:
            left = [point for point in all_points(self.dimensions) if _key(point) not in tried]
            return left[random.integers(len(left))]
        while True:
            point = self._point(random.random(len(self.dimensions)))
            if _key(point) not in tried:
                return point

    def _point(self, places: np.ndarray) -> dict[str, Any]:
        """The point at places between 0 and 1, one a dimension."""
        values = {d.name: d.value(x) for d, x in zip(self.dimensions, places, strict=True)}
        return complete_point(self.dimensions, values)

    def _sobol(self, number: int) -> np.ndarray:
        """A place of a scrambled Sobol sequence."""
        sequence = qmc.Sobol(len(self.dimensions), seed=np.random.default_rng(self.random_state))
        return sequence.random_base2(max(1, number.bit_length()))[number]


class RandomSampler(_Base):
    """Random points, as a baseline.

    Parameters
    ----------
    dimensions
        The space.
    random_state
        Seed.
    start
        Points that are tried first.
    """

    def _propose(self, points, scores, waiting, tried, random):
        return self._point(random.random(len(self.dimensions)))


class SobolSampler(_Base):
    """Points of a scrambled Sobol sequence, as a baseline; parameters as of `RandomSampler`."""

    def _propose(self, points, scores, waiting, tried, random):
        return self._point(self._sobol(len(points) + len(waiting)))


class GaussianProcessOptimizer(_Base):
    """Bayesian optimisation with a Gaussian process in a trust region.

    After a quasi-random start the point of the greatest expected improvement [1]_ is proposed,
    within a box about the best point that grows with success and shrinks with failure [2]_: in many
    dimensions the edge of the space is everywhere far from the trials, and so uncertain. The scores
    are warped (:class:`.surrogate.Warp`) so that a valley in a plateau is a parabola. Pending
    points count as trials with the score that is expected of them. Failed trials count as being as
    bad as the worst that succeeded. Beliefs weigh the improvement less and less [3]_.

    Parameters
    ----------
    dimensions
        The space.
    n_initial
        Number of quasi-random points before the model is used, starting points included. Every
        second one is drawn from the beliefs, where there are any.
    random_state
        Seed.
    start
        Points that are tried first.

    References
    ----------
    .. [1] S. Ament et al., Advances in Neural Information Processing Systems 36 (2023).
    .. [2] D. Eriksson et al., Advances in Neural Information Processing Systems 32 (2019).
    .. [3] C. Hvarfner et al., International Conference on Learning Representations (2022).
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        n_initial: int,
        random_state: int = 0,
        start: Sequence[Point] = (),
    ):
        super().__init__(dimensions, random_state=random_state, start=start)
        self.n_initial = n_initial
        # the last fit and what it was made from: it saves time and changes nothing
        self._fitted: tuple[bytes, np.ndarray] | None = None

    def _propose(self, points, scores, waiting, tried, random):
        good = np.array([s is not None and math.isfinite(s) for s in scores], bool)
        number = len(points) + len(waiting)
        if number < self.n_initial or good.sum() < 2:
            return self._point(self._believed(self._sobol(number), number))
        scores = np.array([s if g else np.nan for s, g in zip(scores, good, strict=True)], float)
        scores[~good] = scores[good].max()
        with quiet_and_repeatable():
            surrogate = self._surrogate(points, scores, waiting)
            return self._best(surrogate, points, scores, waiting, tried, random)

    def _believed(self, places: np.ndarray, number: int) -> np.ndarray:
        """Every second place as the beliefs have it."""
        if number % 2:
            return places
        places = places.copy()
        for i, d in enumerate(self.dimensions):
            if d.prior is None or d.choices:
                continue
            mean, std = d.prior
            below, above = special.ndtr((np.array([d.low, d.high]) - mean) / std)
            value = mean + std * special.ndtri(below + places[i] * (above - below))
            if math.isfinite(value):  # it is not, where the belief is far outside of the range
                value = min(max(value, d.low), d.high)
                places[i] = d.place(round(value) if d.integer else value)
        return places

    def _surrogate(self, points, scores, waiting) -> Surrogate:
        """Of the warped scores; the kernel is fitted again when there are a tenth more."""
        dimensions = self.dimensions
        places = encode(dimensions, points)
        n = _fitted_number(len(scores))
        first = Warp.of(scores[:n])(scores[:n])
        made_from = places[:n].tobytes() + first.tobytes()
        if self._fitted is None or self._fitted[0] != made_from:
            found = kernel_parameters(places[:n], first, random_state=self.random_state)
            self._fitted = made_from, found
        warped, kernel = Warp.of(scores)(scores), self._fitted[1]
        surrogate = Surrogate(dimensions, places, warped, kernel)
        if not waiting:
            return surrogate
        more = encode(dimensions, waiting)
        warped = np.concatenate([warped, surrogate.predict_places(more)[0]])
        return Surrogate(dimensions, np.vstack([places, more]), warped, kernel)

    def _best(self, surrogate, points, scores, waiting, tried, random) -> dict[str, Any] | None:
        """The point of the greatest expected improvement that was not tried."""
        dimensions = self.dimensions
        known = encode(dimensions, [*points, *waiting])
        lowest = surrogate.predict_places(known)[0].min()
        weight = _BELIEF_TRIALS / len(known)

        def gain(places: np.ndarray) -> np.ndarray:
            mean, std = surrogate.predict_places(encode_places(dimensions, places))
            improvement = np.log(std) + log_expected_improvement((lowest - mean) / std)
            return improvement + weight * self._belief(places)

        if self._size <= _FEW_POINTS:
            left = [point for point in all_points(dimensions) if _key(point) not in tried]
            candidates = self._places(left)
            return left[int(np.argmax(gain(candidates)))]
        center = self._places([points[int(np.argmin(scores))]])[0]
        low, high = self._region(center, points, scores, surrogate)
        candidates = self._candidates(center, low, high, random)
        gains = gain(candidates)
        order = np.argsort(-gains, kind="stable")
        refined = [_climbed(gain, candidates[i], low, high) for i in order[:_REFINED]]
        refined_gains = gain(np.array(refined))
        for i in np.argsort(-refined_gains, kind="stable"):
            point = self._point(refined[i])
            if _key(point) not in tried:
                return point
        for i in order:
            point = self._point(candidates[i])
            if _key(point) not in tried:
                return point
        return None

    def _belief(self, places: np.ndarray) -> np.ndarray:
        """Logarithm of the beliefs' density at places, up to a constant."""
        total = np.zeros(len(places))
        for i, d in enumerate(self.dimensions):
            if d.prior is not None:
                mean, std = d.prior
                values = np.array([d.value(x) for x in places[:, i]])
                away = ((values - mean) / std) ** 2
                # where it does not matter, as much as the belief itself has on average
                total -= np.where(active_at(self.dimensions, places, i), away, 1) / 2
        return total

    def _places(self, points: Sequence[Point]) -> np.ndarray:
        """Places between 0 and 1, 0.5 for parameters that do not matter."""
        return np.array(
            [[d.place(p[d.name]) if d.name in p else 0.5 for d in self.dimensions] for p in points]
        )

    def _region(self, center, points, scores, surrogate) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest places of the trust region; all of them for names and small numbers.

        Its sides are as the length scales, which differ with how much a parameter matters.
        """
        dimensions = self.dimensions
        best = points[int(np.argmin(scores))]
        lengths, column = np.ones(len(dimensions)), 0
        for i, d in enumerate(dimensions):
            lengths[i] = surrogate.lengths[column]
            column += len(d.choices) if d.choices and not d.ordered else 1
        sides = np.clip(lengths / np.exp(np.log(lengths).mean()), 0.2, 5.0)
        sides *= trust_side(scores, self.n_initial, len(dimensions))
        free = np.array([bool(d.choices) or d.count < 20 or d.name not in best for d in dimensions])
        low = np.where(free, 0, np.maximum(center - sides / 2, 0))
        high = np.where(free, 1, np.minimum(center + sides / 2, 1))
        return low, high

    def _candidates(self, center, low, high, random) -> np.ndarray:
        """Places in the trust region, half of them like its centre in most parameters."""
        n = len(center)
        spread = qmc.Sobol(n, seed=random).random_base2(_CANDIDATES)
        spread = low + spread * (high - low)
        # half of them keep the centre's names and numbers
        discrete = np.array([d.count < math.inf for d in self.dimensions])
        keep = np.zeros(len(spread), bool)
        keep[::2] = True
        spread = np.where(keep[:, None] & discrete, center, spread)
        other = low + random.random(spread.shape) * (high - low)
        changed = random.random(spread.shape) < min(1.0, 10 / n) * 0.5
        changed[np.arange(len(other)), random.integers(n, size=len(other))] = True
        return np.vstack([spread, np.where(changed, other, center)])


def _climbed(gain, start: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Uphill from a place, within limits."""

    def loss(place):
        steps = np.where(place + _SMALL > 1, -_SMALL, _SMALL)
        values = -gain(place + np.vstack([np.zeros(len(place)), np.diag(steps)]))
        return values[0], (values[1:] - values[0]) / steps

    found = minimize(
        loss, start, jac=True, bounds=np.column_stack([low, high]), method="L-BFGS-B",
        options={"maxiter": _REFINE_STEPS},
    )  # fmt: skip
    return np.clip(found.x, 0, 1)


def trust_side(scores: np.ndarray, n_initial: int, n_dimensions: int) -> float:
    """Side of the trust region, as a part of the ranges, from the scores in their order.

    Where it has become so small that nothing more can be gained, it begins anew.
    """
    start = max(1, min(n_initial, len(scores)))
    best, reference = scores[:start].min(), np.median(scores[:start])
    side, improvements, failures = _FIRST_SIDE, 0, 0
    patience = max(_FAILURES, n_dimensions)
    for score in scores[start:]:
        if score < best - _IMPROVEMENT * abs(reference - best):
            improvements, failures = improvements + 1, 0
        else:
            improvements, failures = 0, failures + 1
        best = min(best, score)
        if improvements == _IMPROVEMENTS:
            side, improvements = min(2 * side, _LARGEST_SIDE), 0
        elif failures == patience:
            side, failures = side / 2, 0
            if side < _SMALLEST_SIDE:
                side = _FIRST_SIDE
    return side


def log_expected_improvement(z: np.ndarray) -> np.ndarray:
    """Logarithm of φ(z) + z Φ(z), which is far below the smallest number for z of -40."""
    z = np.asarray(z, float)
    out = np.empty_like(z)
    near, far = z > -1, z < -1e5
    density = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    out[near] = np.log(np.exp(density[near]) + z[near] * special.ndtr(z[near]))
    between = ~near & ~far
    x = z[between]
    scaled = special.erfcx(-x / math.sqrt(2)) * math.sqrt(math.pi / 2)
    out[between] = density[between] + np.log(np.maximum(1 + x * scaled, 1e-12))
    out[far] = density[far] - 2 * np.log(-z[far])
    return out


def _fitted_number(n: int) -> int:
    """How many of the first trials the kernel is fitted to: a new fit with every tenth more."""
    fitted = 2
    while True:
        more = max(fitted + 1, math.ceil(1.1 * fitted))
        if more > n:
            return fitted
        fitted = more


def _key(point: Point) -> tuple:
    """What makes a point the same as another."""
    return tuple(sorted(point.items()))
