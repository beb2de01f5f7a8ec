"""What the objective depends on: shares of its variation, and directions in which it is flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hs_autoptycho.tuning.cautious import CautiousSurrogate
from hs_autoptycho.tuning.posterior import Coordinates, StatisticalError, sobol

# Steps along a direction.
_STEPS = 61


def sobol_indices(
    surrogate: CautiousSurrogate,
    coordinates: Coordinates,
    low: np.ndarray,
    high: np.ndarray,
    choices: Sequence[Sequence[int]],
    *,
    n_points: int = 256,
    random_state: int = 0,
) -> tuple[dict[str, float], dict[str, float]]:
    """Share of the variation of the surrogate's mean that each parameter is behind.

    Parameters
    ----------
    surrogate, coordinates
        Model of the objective, and its space.
    low, high
        Part of the ranges of the numbers.
    choices
        Indices of those that are allowed, for each choice.
    n_points
        Points of each of the two sets that are mixed.
    random_state
        Seed.

    Returns
    -------
    first, total : dict
        Name to the share that the parameter has alone, and together with others.

    References
    ----------
    A. Saltelli et al., Comput. Phys. Commun. 181, 259 (2010): the first order by their estimator,
    the total by Jansen's.
    """
    names = [d.name for d in coordinates.numbers] + list(coordinates.choices)
    n = len(names)
    rng = np.random.default_rng(random_state)
    cube = sobol(n_points, 2 * n, rng)
    first, second = cube[:, :n], cube[:, n:]
    sets = [first, second]
    for i in range(n):
        mixed = first.copy()
        mixed[:, i] = second[:, i]
        sets.append(mixed)
    x = np.concatenate(sets)
    split = len(coordinates.numbers)
    u = low + (np.asarray(high) - low) * x[:, :split]
    k = [
        np.take(c, (column * len(c)).astype(int))
        for c, column in zip(choices, x[:, split:].T, strict=True)
    ]
    k = np.array(k, dtype=int).reshape(len(choices), len(x)).T
    mean = np.asarray(surrogate.predict(coordinates.join(u, k))[0]).reshape(n + 2, n_points)
    mean = mean - mean[:2].mean()
    variance = mean[:2].var()
    if variance <= 1e-24 * max(1.0, float(np.abs(mean).max()) ** 2):
        return dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    a, b, mixed = mean[0], mean[1], mean[2:]
    total = np.clip(((mixed - a) ** 2).mean(axis=1) / 2 / variance, 0, 1)
    # from so few points the first order scatters about its value more than the total does
    alone = np.clip((b * (mixed - a)).mean(axis=1) / variance, 0, total)
    return (
        {name: float(v) for name, v in zip(names, alone, strict=True)},
        {name: float(v) for name, v in zip(names, total, strict=True)},
    )


@dataclass(frozen=True)
class FlatDirection:
    """A line through the best point along which the objective stays within its noise.

    Attributes
    ----------
    direction : numpy.ndarray
        Unit vector, in parts of the ranges of the numbers.
    start, end : numpy.ndarray
        Where the objective leaves its noise, or the line the searched space.
    tied : tuple of bool
        By number, whether the objective leaves its noise where this number alone goes so far.
    """

    direction: np.ndarray
    start: np.ndarray
    end: np.ndarray
    tied: tuple[bool, ...]


def flat_directions(
    surrogate: CautiousSurrogate,
    coordinates: Coordinates,
    best: Mapping[str, Any],
    curvature: np.ndarray,
    *,
    error: StatisticalError | None = None,
    fewest: float = 0.5,
) -> list[FlatDirection]:
    """Principal directions of the objective's valley in which nothing tells where one is.

    Parameters
    ----------
    surrogate, coordinates
        Model of the objective, and its space.
    best
        The point in question.
    curvature
        Second derivatives by the numbers, in parts of their ranges.
    error
        Statistical error of the objective, which counts beside the surrogate's noise and its own
        uncertainty.
    fewest
        Part of a line that has to be flat.
    """
    u, k = (part[0] for part in coordinates.split([best]))
    active = [i for i, d in enumerate(coordinates.numbers) if d.name in best]
    if not active:
        return []
    _, vectors = np.linalg.eigh(curvature[np.ix_(active, active)])
    found = []
    for vector in vectors.T:
        direction = np.zeros(len(u))
        direction[active] = vector
        line, here = _line(u, direction)
        beyond = _beyond_noise(surrogate, coordinates, u, k, line, error)
        left = here - int(np.argmax(np.r_[beyond[:here][::-1], True]))
        right = here + int(np.argmax(np.r_[beyond[here + 1 :], True]))
        if right - left < fewest * (len(line) - 1):
            continue
        alone = np.tile(u, (2, len(u), 1))
        for end, place in enumerate((line[left], line[right])):
            alone[end][np.diag_indices(len(u))] = place
        beyond = _beyond_noise(surrogate, coordinates, u, k, alone.reshape(-1, len(u)), error)
        tied = beyond.reshape(2, -1).any(axis=0)
        found.append(FlatDirection(direction, line[left], line[right], tuple(tied.tolist())))
    return found


def _beyond_noise(surrogate, coordinates, u, k, places, error) -> np.ndarray:
    """Whether the objective at places differs from that at `u` by more than it is known to."""
    k_places = np.tile(k, (len(places), 1))
    points = coordinates.join(np.concatenate([[u], places]), np.tile(k, (len(places) + 1, 1)))
    mean, std = surrogate.predict(points)
    limit = np.hypot(surrogate.noise, std[1:])
    if error is not None:
        limit = np.hypot(limit, error.size(coordinates.features(places, k_places, u, k)))
    return np.abs(mean[1:] - mean[0]) > limit


def _line(u: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, int]:
    """Points of the unit cube along a direction, and the index of that at `u`."""
    moving = np.abs(direction) > 1e-9
    ends = np.array([-u[moving], 1 - u[moving]]) / direction[moving]
    first, last = ends.min(axis=0).max(), ends.max(axis=0).min()
    steps = np.linspace(min(first, 0), max(last, 0), _STEPS)
    here = int(np.abs(steps).argmin())
    steps[here] = 0
    return np.clip(u + steps[:, np.newaxis] * direction, 0, 1), here
