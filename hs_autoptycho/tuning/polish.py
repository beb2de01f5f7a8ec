"""From a good point to the best one: parabolas through paired trials.

Trials on the same counts differ by far less noise than the score itself has, so that a parameter's
optimum is told by two trials beside a good point, to a fraction of what a search by single scores
can tell. Every parameter is changed to both sides, and so once more about the minimum of the
parabolas, by as much as the first time has shown to be worth it, which mends what parameters do to
each other and what was no parabola. The scatter over blocks of the scan gives the standard error of
each optimum; how far it has moved since the look before tells how much parameters do to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Trial

# Steps are as wide as the better trials spread, within these limits (parts of a range).
SMALLEST_STEP, LARGEST_STEP = 0.01, 0.15
# They are widened, by so much at most, until the objective rises by so many standard errors of the
# difference between both sides: what the order of the positions does to that difference does not
# grow with the step, and would decide where the rise is small.
_RISE, _WIDER, WIDEST_STEP = 20, 5, 0.3
_BETTER = 1 / 3
_FEWEST_BETTER = 5
# What is best for these depends on how many passes there are: shorter trials say nothing of it.
DEPENDS_ON_LENGTH = ("step_object", "step_probe", "momentum")
_REGULARIZATION = "regularization_"
# A look at an optimum is wrong by so many steps, beside its own standard error, for an object that
# has not converged can follow a scan that is told too large: by an amount that differs from one
# order of the positions to another, and is far smaller after all passes over the whole scan.
_COURSE_SHORT, _COURSE_FULL = 0.2, 0.05
# Beside the end of a range both sides are on the other one, if there is less room than this part
# of a step. With more, an optimum between the point and the end is read between two trials and not
# beyond all of them. Even for so unequal sides this is as exact, and it is less wrong where the
# valley is no parabola.
_ROOM = 0.2
# A parabola is followed so many steps at most, and as far where it has no minimum.
_REACH = 1.5

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Optimum:
    """Where the parabolas have their minima.

    Attributes
    ----------
    point : dict
    errors : dict
        Name to standard error, as a part of the range (of its logarithm, where that is searched).
    curvatures : dict
        Name to second derivative, by the square of the range.
    moves : dict
        Name to the way from the point that was looked about, as a part of the range. All parameters
        have moved at once, and the minimum along one of them is that with the others unmoved: it is
        off by what these do to it, which the scatter over blocks does not show.
    """

    point: dict[str, Any]
    errors: dict[str, float]
    curvatures: dict[str, float]
    moves: dict[str, float] = field(default_factory=dict)

    def uncertainty(self, name: str) -> float:
        """Standard error of a parameter's optimum as a part of the range, moves included."""
        return math.hypot(self.errors[name], self.moves.get(name, 0.0))


def depends_on_length(name: str) -> bool:
    """Whether a parameter's best value is another one where there are more passes."""
    return name in DEPENDS_ON_LENGTH or name.startswith(_REGULARIZATION)


def step_sizes(
    dimensions: Sequence[Dimension], center: Point, trials: Sequence[Trial]
) -> dict[str, float]:
    """How far to go to either side, as a part of each range.

    Parameters
    ----------
    dimensions
        The space.
    center
        A good point. Parameters that are names, whole numbers, or inactive there are left out.
    trials
        Of one fidelity, from which the width of the valley is guessed.
    """
    complete = [t for t in trials if t.status == "completed"]
    complete = sorted(complete, key=lambda t: (t.objective, t.number))
    better = complete[: max(_FEWEST_BETTER, math.ceil(_BETTER * len(complete)))]
    steps = {}
    for d in dimensions:
        if d.choices or d.integer or d.name not in center:
            continue
        places = [d.place(t.parameters[d.name]) for t in better if d.name in t.parameters]
        place = d.place(center[d.name])
        spread = float(np.sqrt(np.mean((np.array(places) - place) ** 2))) if places else 0.0
        steps[d.name] = min(max(spread, SMALLEST_STEP), LARGEST_STEP)
    return steps


def widened(
    dimensions: Sequence[Dimension],
    center: Point,
    steps: Mapping[str, float],
    trials: Sequence[Trial],
) -> dict[str, float]:
    """Steps with which the noise between trials matters less.

    Parameters
    ----------
    dimensions, center, steps, trials
        As for :func:`parabolas`. Where a trial is missing or has failed the step stays as it is.
    """
    wider = {}
    for name, step in steps.items():
        parabola = _parabola(dimensions, center, name, step, trials)
        factor = 1.0
        if parabola is not None:
            slope, curvature = parabola
            error = slope.std(ddof=1) / math.sqrt(len(slope)) if len(slope) > 1 else 0.0
            rise = max(float(curvature.mean()) / 2, 0.0)
            factor = min(_RISE * error / rise if rise else _WIDER, _WIDER)
        wider[name] = max(step, min(factor * step, WIDEST_STEP))
    return wider


def both_sides(
    dimensions: Sequence[Dimension], center: Point, steps: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The point and, for each parameter, one on either side of it.

    Where a range ends beside the point, both are on the other side.
    """
    by_name = {d.name: d for d in dimensions}
    points = [dict(center)]
    for name, step in steps.items():
        offsets = _sides(by_name[name].place(center[name]), step)
        points += [moved(dimensions, center, {name: offset}) for offset in offsets]
    return points


def _sides(place: float, step: float) -> tuple[float, float]:
    """Where to try beside a place: a step away, less if a range ends, unless it does at once.

    On one side alone steps are not the widest, for that would be twice as far away.
    """
    up, down = min(step, 1 - place), -min(step, place)
    short = min(step, LARGEST_STEP)
    if up < _ROOM * step:
        up, down = -2 * short, -short
    elif down > -_ROOM * step:
        up, down = short, 2 * short
    return up, down


def least_known(steps: Mapping[str, float], found: Optimum) -> list[str]:
    """The parameters in the order in which they are worth another look.

    First those that nothing is known of, then those along whose range the objective changes least.
    """
    return sorted(steps, key=lambda name: found.curvatures.get(name, -math.inf))


def moved(dimensions: Sequence[Dimension], point: Point, by: Mapping[str, float]) -> dict[str, Any]:
    """A point with parameters changed by parts of their ranges, within these.

    Places are rounded, so that two ways to the same one meet and it is tried once.
    """
    out = dict(point)
    for d in dimensions:
        if by.get(d.name, 0.0):
            place = round(d.place(point[d.name]) + by[d.name], 12)
            out[d.name] = d.value(min(max(place, 0.0), 1.0))
    return out


def parabolas(
    dimensions: Sequence[Dimension],
    center: Point,
    steps: Mapping[str, float],
    trials: Sequence[Trial],
) -> Optimum:
    """The minimum of the parabola through three trials, for each parameter by itself.

    Parameters
    ----------
    dimensions, center, steps
        As for :func:`both_sides`.
    trials
        What came of its points. Where one has failed the parameter stays as it is. Where they were
        judged by several parts of the counts, all of them have to be.
    """
    shifts, errors, curvatures = {}, {}, {}
    for name, step in steps.items():
        parabola = _parabola(dimensions, center, name, step, trials)
        if parabola is None:
            continue
        slope, curvature = parabola
        shifts[name] = step * _minimum(slope, curvature.mean())
        error = math.hypot(_jackknife(slope, curvature), _beyond(slope, curvature))
        errors[name] = min(step * error, 1.0)
        curvatures[name] = float(curvature.mean()) / step**2
    moves = {name: abs(shift) for name, shift in shifts.items()}
    return Optimum(moved(dimensions, center, shifts), errors, curvatures, moves)


def lowest(
    dimensions: Sequence[Dimension],
    first: Optimum,
    steps: Mapping[str, float],
    trials: Sequence[Trial],
) -> Optimum:
    """The best of three values of each parameter: for those whose valley may be no parabola.

    Parameters
    ----------
    dimensions
        The space.
    first
        What is known of the others.
    steps, trials
        As for :func:`parabolas`.
    """
    looks, known = parabolas(dimensions, first.point, steps, trials), _scores(trials)
    point, errors = dict(first.point), {**first.errors, **looks.errors}
    for name, step in steps.items():
        tried = both_sides(dimensions, first.point, {name: step})
        tried = [p for p in tried if _key(p) in known]
        if tried:
            point[name] = min(tried, key=lambda p: known[_key(p)].mean())[name]
            errors[name] = max(errors.get(name, 0.0), step / 2)
    return Optimum(point, errors, {**first.curvatures, **looks.curvatures}, first.moves)


def combined(
    dimensions: Sequence[Dimension], first: Optimum, second: Optimum, steps: Mapping[str, float]
) -> Optimum:
    """The mean of two looks at the optimum, at trials of different lengths.

    Parameters
    ----------
    dimensions
        The space.
    first
        From shorter trials.
    second
        From those at full length.
    steps
        Of the parameters that both have looked at.
    """
    by_name = {d.name: d for d in dimensions}
    point = dict(second.point)
    errors = {**first.errors, **second.errors}
    moves = {**first.moves, **second.moves}
    for name, step in steps.items():
        if name not in first.errors or name not in second.errors:
            continue
        short = first.errors[name] ** 2 + (_COURSE_SHORT * step) ** 2
        full = second.errors[name] ** 2 + (_COURSE_FULL * step) ** 2
        places = [by_name[name].place(o.point[name]) for o in (first, second)]
        weights = np.array([1 / short, 1 / full])
        point[name] = by_name[name].value(float(np.average(places, weights=weights)))
        errors[name] = float(1 / math.sqrt(weights.sum()))
        moves.pop(name, None)  # nothing else has moved since
    return Optimum(point, errors, {**first.curvatures, **second.curvatures}, moves)


def _parabola(dimensions, center, name, step, trials) -> tuple[np.ndarray, np.ndarray] | None:
    """Slope and curvature at the center in steps, by block; None where a trial is missing."""
    known = _scores(trials)
    middle = known.get(_key(center))
    place = next(d for d in dimensions if d.name == name).place(center[name])
    offsets = _sides(place, step)
    sides = [known.get(_key(moved(dimensions, center, {name: offset}))) for offset in offsets]
    if middle is None or any(side is None for side in sides):
        return None
    above, below = (_difference(side, middle) for side in sides)
    if len(above) != len(below):  # blocks of one side alone tell no error
        above, below = above.mean(keepdims=True), below.mean(keepdims=True)
    a, b = (offset / step for offset in offsets)
    size = a * b * (b - a)
    return (above * b**2 - below * a**2) / size, 2 * (below * a - above * b) / size


def _minimum(slope: np.ndarray, curvature: float) -> float:
    """Where a parabola has its minimum, in steps.

    Where it has none: downhill as far as it is followed, or nowhere if it is flat.
    """
    if curvature > 0:
        return min(max(-slope.mean() / curvature, -_REACH), _REACH)
    error = slope.std(ddof=1) / math.sqrt(len(slope)) if len(slope) > 1 else 0.0
    return -math.copysign(_REACH, slope.mean()) if abs(slope.mean()) > error else 0.0


def _beyond(slope: np.ndarray, curvature: np.ndarray) -> float:
    """By how many steps a minimum is farther than it is followed."""
    if curvature.mean() <= 0:
        return 0.0  # there is none
    return max(abs(slope.mean() / curvature.mean()) - _REACH, 0.0)


def _jackknife(slope: np.ndarray, curvature: np.ndarray) -> float:
    """Standard error of the minimum, in steps."""
    n = len(slope)
    if n < 3:
        return _REACH
    if curvature.mean() <= 0:
        return _REACH
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (slope.sum() - slope) / (curvature.sum() - curvature)
        error = math.sqrt((n - 1) * float(np.var(rest)))
    return min(error, _REACH) if math.isfinite(error) else _REACH


def _scores(trials: Sequence[Trial]) -> dict[tuple, np.ndarray]:
    """Scores by block, or the score alone where there are no blocks, of all completed points.

    Where a point was judged by several parts of the counts, their mean.
    """
    scores: dict[tuple, list[np.ndarray]] = {}
    for t in trials:
        if t.status == "completed":
            scores.setdefault(_key(t.parameters), []).append(
                np.array(t.blocks or [t.objective], float)
            )
    return {key: np.mean(own, axis=0) for key, own in scores.items()}


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if one.shape != other.shape:
        return np.array([one.mean() - other.mean()])
    return one - other


def _key(point: Point) -> tuple:
    return tuple(sorted(point.items()))
