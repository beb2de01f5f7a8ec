"""Where the optimum may lie: draws of it from a surrogate of the objective, and what they share.

A point of a search has two parts here: ``u``, its numbers as parts of their ranges (0 to 1, on a
logarithmic scale where the search has one), and ``k``, the index of each choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from hs_autoptycho.tuning.cautious import CautiousSurrogate
from hs_autoptycho.tuning.space import Dimension

# A range of more whole numbers than this is taken as one of real numbers.
MAX_CHOICES = 12
# The cloud of points in which the optimum is looked for: its standard deviation at the start (of
# the range), that of the optima found in it times this in each further round, and how far it goes.
_FIRST_WIDTH, _WIDER, _REACH = 0.08, 1.6, 2.5
_ROUNDS, _DRAWS_A_ROUND = 7, 96
# Part of the cloud's covariance that stays for the next round.
_SLOWLY = 0.06
# Points of all clouds together, and combinations of choices that get one.
_MAX_POINTS, _MAX_COMBINATIONS = 640, 5


@dataclass(frozen=True)
class Coordinates:
    """Points of a search as arrays, and back.

    Attributes
    ----------
    dimensions : sequence of Dimension
    numbers : list of Dimension
        Ranges.
    choices : dict
        Name to values of everything else, small ranges of whole numbers included.
    """

    dimensions: Sequence[Dimension]
    numbers: list[Dimension] = field(init=False)
    choices: dict[str, tuple] = field(init=False)

    def __post_init__(self):
        choices = {d.name: values for d in self.dimensions if (values := _values(d))}
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "numbers", [d for d in self.dimensions if d.name not in choices])

    def split(self, points: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Arrays (points, numbers) and (points, choices); what a point lacks is in the middle."""
        u = [[_place(d, p) for d in self.numbers] for p in points]
        k = [
            [values.index(p[name]) if p.get(name) in values else 0 for name, values in
             self.choices.items()]
            for p in points
        ]  # fmt: skip
        u = np.array(u, dtype=float).reshape(len(points), len(self.numbers))
        return u, np.array(k, dtype=int).reshape(len(points), len(self.choices))

    def join(self, u: np.ndarray, k: np.ndarray) -> list[dict[str, Any]]:
        """Points as a search has them: without the parameters that have no effect there."""
        columns: dict[str, Sequence] = {
            d.name: [d.value(place) for place in column]
            for d, column in zip(self.numbers, u.T, strict=True)
        }
        for (name, values), column in zip(self.choices.items(), k.T, strict=True):
            columns[name] = [values[i] for i in column]
        points = [{d.name: columns[d.name][i] for d in self.dimensions} for i in range(len(u))]
        if any(d.condition is not None for d in self.dimensions):
            points = [{d.name: p[d.name] for d in self.dimensions if d.active(p)} for p in points]
        return points

    def features(self, u, k, u_best, k_best) -> np.ndarray:
        """(points, features): distance from the best by number, and whether a choice is another."""
        other = [
            (k[:, i] == j) & (j != k_best[i])
            for i, values in enumerate(self.choices.values())
            for j in range(len(values))
        ]
        return np.column_stack([u - u_best, *other])


def _values(dimension: Dimension) -> tuple:
    if dimension.choices:
        return tuple(dimension.choices)
    if dimension.integer and dimension.high - dimension.low < MAX_CHOICES:
        return tuple(range(int(dimension.low), int(dimension.high) + 1))
    return ()


def _place(dimension: Dimension, point: Mapping[str, Any]) -> float:
    value = point.get(dimension.name)
    return 0.5 if value is None else min(max(dimension.place(value), 0.0), 1.0)


@dataclass(frozen=True)
class StatisticalError:
    """Error of the objective from the finite number of counts, relative to the best point.

    Another measurement of the same specimen would tilt the objective's valley a little. The slope
    of that tilt is drawn: its covariance comes from the scatter between blocks of the scan.

    Attributes
    ----------
    slopes : numpy.ndarray
        (features, blocks): a slope drawn is this times standard normal numbers.
    """

    slopes: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, differences: np.ndarray) -> StatisticalError:
        """From trials' differences to the best.

        Parameters
        ----------
        features
            (trials, features) of `Coordinates.features`.
        differences
            (trials, blocks): objective by block less that of the best.
        """
        n = differences.shape[1]
        scatter = differences - differences.mean(axis=1, keepdims=True)
        errors = np.sqrt((scatter**2).sum(axis=1) / (n * (n - 1)))
        # what differs by rounding alone is the best point itself
        apart = errors > 1e-9 * errors.max(initial=0.0)
        apart &= np.abs(features).sum(axis=1) > 0
        if n < 3 or not apart.any():
            return cls(np.zeros((features.shape[1], 1)))
        features, scatter, errors = features[apart], scatter[apart], errors[apart]
        # relative errors count: what is near the best has the small ones, and is what matters
        weights = 1 / np.maximum(errors, 0.1 * np.median(errors))
        weighted = features * weights[:, np.newaxis]
        gram = weighted.T @ weighted
        gram += 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
        slopes = np.linalg.solve(gram, weighted.T @ (scatter * weights[:, np.newaxis]))
        slopes /= math.sqrt(n * (n - 1))
        # straight lines explain a part of the scatter; the rest is not to be forgotten
        explained = np.sqrt(((features @ slopes) ** 2).sum(axis=1))
        near = errors <= np.median(errors)
        ratio = np.median(errors[near] / np.maximum(explained[near], 1e-12 * errors[near]))
        return cls(slopes * np.clip(ratio, 0.5, 3.0))

    def draw(self, features: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """(n_draws, points) in the objective's unit."""
        slopes = rng.standard_normal((n_draws, self.slopes.shape[1])) @ self.slopes.T
        return slopes @ features.T

    def size(self, features: np.ndarray) -> np.ndarray:
        """Standard error of each point's difference to the best."""
        return np.sqrt(((features @ self.slopes) ** 2).sum(axis=1))


@dataclass(frozen=True)
class Optima:
    """Where the optimum may lie.

    Attributes
    ----------
    u : numpy.ndarray
        (draws, numbers).
    k : numpy.ndarray
        (draws, choices).
    curvature : numpy.ndarray
        (numbers, numbers): second derivatives of the surrogate's mean about the optimum, the
        choices being those of the best point.
    """

    u: np.ndarray
    k: np.ndarray
    curvature: np.ndarray


def draw_optima(
    surrogate: CautiousSurrogate,
    coordinates: Coordinates,
    best: Mapping[str, Any],
    told: Sequence[tuple[Mapping[str, Any], float]],
    *,
    error: StatisticalError | None = None,
    n_draws: int = 400,
    random_state: int = 0,
) -> Optima:
    """Draw objectives that fit the trials, and find the lowest place of each.

    The draws are made on a cloud of points. A parabola through it finds the bottom of a valley
    between the points. The cloud moves and grows or shrinks until it covers where the optima lie.

    Parameters
    ----------
    surrogate
        Model of the objective.
    coordinates
        Of the search.
    best
        Where the first cloud lies.
    told
        Parameters and objective of all trials. The cloud does not grow beyond where the better
        half of them lie: where a process of ten dimensions has seen little it expects anything,
        and draws have their lowest values there.
    error
        Statistical error of the objective, added to the draws.
    n_draws
        Number of optima.
    random_state
        Seed.
    """
    u_best, k_best = (part[0] for part in coordinates.split([best]))
    u_told, _ = coordinates.split([point for point, _ in told])
    n = len(u_best)
    widest = _better_half(u_told, np.array([score for _, score in told]))
    combinations = _combinations(surrogate, coordinates, u_best, k_best)
    n_terms = 1 + n + n * (n + 1) // 2
    size = max(n_terms + 8, min(6 * n_terms + 40, _MAX_POINTS // len(combinations)))
    rng = np.random.default_rng(random_state)
    normal = normal_cloud(size, n, rng)
    center, root = u_best, _FIRST_WIDTH * np.eye(n)
    k_cloud = np.repeat(combinations, size, axis=0)
    for step in range(_ROUNDS if n else 1):
        last = step == _ROUNDS - 1 or not n
        cloud = np.clip(center + normal @ root.T, 0, 1)
        u = np.tile(cloud, (len(combinations), 1))
        n_now = n_draws if last else _DRAWS_A_ROUND
        points = coordinates.join(u, k_cloud)
        draws = surrogate.draw(points, n_now, int(rng.integers(2**31)))
        if error is not None:
            draws = draws + error.draw(coordinates.features(u, k_cloud, u_best, k_best), n_now, rng)
        u_found, k_found = _lowest(draws, cloud, center, root, combinations)
        if n and not last:
            width = np.sqrt(np.diag(root @ root.T))
            before = center
            center = center + np.clip(np.median(u_found, axis=0) - center, -width, width)
            # far-off optima count, but do not stretch the cloud beyond use
            away = np.clip(u_found - center, *_spread(u_found - center))
            covariance = away.T @ away / len(away)
            # optima at the edge of the cloud are close together: the way to them counts too, and
            # it does not collapse at once
            covariance += np.diag((center - before) ** 2) + _SLOWLY * root @ root.T
            root = np.linalg.cholesky(_limited(_WIDER**2 * covariance, widest))
    mean = surrogate.predict(coordinates.join(cloud, np.tile(k_best, (size, 1))))[0]
    return Optima(u_found, k_found, _Parabola(cloud, center, root).fit(mean[np.newaxis])[2][0])


def _combinations(surrogate, coordinates, u_best, k_best) -> np.ndarray:
    """(combinations, choices): the best point's, and those that promise most beside it."""
    counts = [len(values) for values in coordinates.choices.values()]
    if math.prod(counts) <= 64:
        every = np.array(list(itertools.product(*map(range, counts))), dtype=int)
    else:  # one choice changed at a time
        every = [k_best]
        for i, count in enumerate(counts):
            every += [np.r_[k_best[:i], j, k_best[i + 1 :]] for j in range(count)]
        every = np.unique(np.array(every, dtype=int), axis=0)
    every = every.reshape(len(every), len(counts))
    points = coordinates.join(np.tile(u_best, (len(every), 1)), every)
    mean, std = surrogate.predict(points)
    promise = np.where((every == k_best).all(axis=1), -np.inf, np.subtract(mean, 2 * std))
    return every[np.argsort(promise, kind="stable")[:_MAX_COMBINATIONS]]


def normal_cloud(size: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """(size, n) evenly spread points of a normal distribution, its tails cut off."""
    if not n:
        return np.zeros((size, 0))
    return np.clip(ndtri(sobol(size, n, rng)), -_REACH, _REACH)


def sobol(size: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """(size, n) evenly spread points of the unit cube, displaced as a whole by chance."""
    sequence = qmc.Sobol(n, scramble=False).random_base2(max(size - 1, 1).bit_length())[:size]
    return (sequence + rng.random(n)) % 1.0


def _better_half(u: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(numbers, numbers): covariance of the places of the better half of the trials."""
    n = u.shape[1]
    better = u[np.argsort(scores, kind="stable")[: max(len(u) // 2, 4)]]
    away = better - better.mean(axis=0)
    own = away.T @ away / max(len(better) - 1, 1)
    # few trials in many dimensions: ties between parameters by chance are taken back
    shrink = min(1.0, (n + 2) / len(better))
    return (1 - shrink) * own + shrink * np.diag(np.diag(own)) + 0.01 * np.eye(n)


def _limited(covariance: np.ndarray, widest: np.ndarray) -> np.ndarray:
    """A covariance that is in no direction wider than another one."""
    root = np.linalg.cholesky(widest)
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ covariance @ inverse.T)
    out = root @ (vectors * np.clip(values, 1e-10, 1.0)) @ vectors.T @ root.T
    return (out + out.T) / 2 + 1e-10 * np.eye(len(out))


def _spread(away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits, three times as far as the middle two thirds reach."""
    reach = 3 * np.maximum(np.percentile(np.abs(away), 68, axis=0), 1e-4)
    return -reach, reach


def _lowest(draws, cloud, center, root, combinations):
    """Place of the lowest value of each draw, and its choices."""
    n_draws, (size, n) = len(draws), cloud.shape
    parabola = _Parabola(cloud, center, root)
    values, places = [], []
    for i in range(len(combinations)):
        part = draws[:, i * size : (i + 1) * size]
        value, place = parabola.minima(part) if n else (part.min(axis=1), np.zeros((n_draws, 0)))
        values.append(value)
        places.append(place)
    first = np.argmin(values, axis=0)
    return np.array(places)[first, np.arange(n_draws)], combinations[first]


class _Parabola:
    """Parabolas through values on a cloud, by least squares, and their lowest places."""

    def __init__(self, cloud: np.ndarray, center: np.ndarray, root: np.ndarray):
        self._cloud, self._center = cloud, center
        self._inverse = np.linalg.inv(root)
        z = (cloud - center) @ self._inverse.T
        self._pairs = np.triu_indices(z.shape[1])
        terms = np.column_stack([np.ones(len(z)), z, z[:, self._pairs[0]] * z[:, self._pairs[1]]])
        # what the cloud, cut off at a limit of the range, cannot tell is left at nought
        self._solve = np.linalg.pinv(terms, rcond=1e-8)

    def fit(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Constant, slope and curvature about the centre, from values (fits, points)."""
        terms = values @ self._solve.T
        n = self._cloud.shape[1]
        half = np.zeros((len(values), n, n))
        half[:, self._pairs[0], self._pairs[1]] = terms[:, 1 + n :]
        # rough draws on a wide cloud may bend downwards, with their lowest places in corners where
        # no trial has been; a valley does not
        values, vectors = np.linalg.eigh(half + half.transpose(0, 2, 1))
        values = np.maximum(values, 0.02 * np.abs(values).max(axis=1, keepdims=True, initial=0.0))
        curvature = (vectors * values[:, np.newaxis]) @ vectors.transpose(0, 2, 1)
        slope = terms[:, 1 : 1 + n] @ self._inverse
        return terms[:, 0], slope, self._inverse.T @ curvature @ self._inverse

    def minima(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest value and its place in the box that the cloud fills, of each row."""
        constant, slope, curvature = self.fit(values)
        low, high = self._cloud.min(axis=0) - self._center, self._cloud.max(axis=0) - self._center
        rows = np.arange(len(values))
        away = self._cloud - self._center

        def height(place):
            bent = np.einsum("ij,ijk,ik->i", place, curvature, place) / 2
            return constant + np.einsum("ij,ij->i", slope, place) + bent

        at_cloud = constant[:, np.newaxis] + slope @ away.T
        at_cloud += np.einsum("pj,ijk,pk->ip", away, curvature, away, optimize=True) / 2
        start = away[at_cloud.argmin(axis=1)]
        # Newton's place where it lies in the box, else one coordinate after the other
        place = start.copy()
        for _ in range(60):
            for j in range(place.shape[1]):
                bend = curvature[:, j, j]
                tilt = slope[:, j] + np.einsum("ij,ij->i", curvature[:, j], place)
                rest = tilt - bend * place[:, j]
                with np.errstate(divide="ignore", invalid="ignore"):
                    bottom = np.clip(-rest / bend, low[j], high[j])
                edge = np.where(rest < 0, high[j], low[j])
                place[:, j] = np.where(bend > 0, bottom, edge)
        definite = np.linalg.eigvalsh(curvature)[:, 0] > 0
        newton = start.copy()
        if definite.any():
            solved = np.linalg.solve(curvature[definite], -slope[definite][..., np.newaxis])
            newton[definite] = solved[..., 0]
        inside = definite & (newton >= low).all(axis=1) & (newton <= high).all(axis=1)
        place = np.where(inside[:, np.newaxis], newton, place)
        both = np.stack([start, place])
        heights = np.stack([height(start), height(place)])
        lower = heights.argmin(axis=0)
        return heights[lower, rows], both[lower, rows] + self._center
