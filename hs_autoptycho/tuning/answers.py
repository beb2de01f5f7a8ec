"""What a search found out: how well each parameter is known, what matters, and what to doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hs_autoptycho.tuning.cautious import CautiousSurrogate
from hs_autoptycho.tuning.polish import Optimum
from hs_autoptycho.tuning.posterior import (
    Coordinates,
    Optima,
    StatisticalError,
    draw_optima,
)
from hs_autoptycho.tuning.selection import (
    agreement,
    difference,
    straight_line,
    usable,
)
from hs_autoptycho.tuning.sensitivity import flat_directions, sobol_indices
from hs_autoptycho.tuning.sentences import (
    about_flat_directions,
    about_parameters,
    about_trials,
    is_wide,
)
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

# Part of the optima that an interval holds, in its middle.
_INSIDE = 0.68
# A name with a smaller probability is out of the question.
_HOPELESS = 0.02
# Half of the region about the best that the local importance is of, as a part of each range.
_REGION = 0.1
# A direction is flat if the objective stays within its noise along this part of its length.
_FLAT = 0.5
# Scores this many times as far above the median as the lowest is below are cut off: how bad the bad
# ones are says nothing about where the optimum is.
_FAR = 5.0
# A parameter without effect in more than this part of the draws gets no interval.
_FEWEST_ACTIVE = 0.1


@dataclass(frozen=True)
class Answers:
    """What a search found out beside the best parameters.

    Attributes
    ----------
    intervals : dict
        Name to ``{"low": …, "high": …}``, which holds the optimum with a probability of 68 % and
        the best trial, or to ``{"choices": […], "probabilities": […]}``. Empty where the trials are
        too few.
    importance : dict
        Name to ``first`` and ``total``: shares of the objective's variation over the searched
        space that the parameter is behind alone, and together with others; ``local_first`` and
        ``local_total``: the same within a tenth of each range about the best, where names stay
        what they are.
    flat_directions : list of str
        Sentences on parameters that can be changed together and the objective hardly changes.
    warnings : list of str
        Sentences on what to doubt.
    repeat_noise : float or None
        Standard deviation of the objective of the best parameters with other seeds.
    standard_error : float or None
        Of the difference between the best trial and the next ones, from its scatter over the scan.
    noise : float or None
        Scatter of the trials about the smooth model of the objective.
    equals : list of int
        Numbers of the trials that cannot be told from the best one.
    """

    intervals: dict[str, dict[str, Any]] = field(default_factory=dict)
    importance: dict[str, dict[str, float]] = field(default_factory=dict)
    flat_directions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    repeat_noise: float | None = None
    standard_error: float | None = None
    noise: float | None = None
    equals: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, as JSON and HyperSpy's metadata have them."""
        return asdict(self)


def answer(
    dimensions: Sequence[Dimension],
    trials: Sequence[Trial],
    best: Trial,
    *,
    full: Fidelity,
    optimum: Optimum | None = None,
    random_state: int = 0,
) -> Answers:
    """Find out how far the best parameters can be trusted.

    Parameters
    ----------
    dimensions
        What was searched.
    trials
        All of them.
    best
        The chosen one.
    full
        Fidelity of full-length trials.
    optimum
        What paired trials about the best point say; None where there were none.
    random_state
        Seed.

    Notes
    -----
    Where paired trials tell where the optimum is, the interval is one standard error to either
    side of it, in which is how far it has moved at last (`Optimum.moves`), together with what was
    known of the parameter before (`Dimension.prior`); and the best is within. Otherwise an interval
    is that of the places of the lowest values of functions drawn from a Gaussian process, which
    fits all trials: short ones brought to the scale of full-length ones by a straight line, if
    their ranks agree. The objective's own statistical error is drawn with it.
    Importance is a share of variance of the mean of the same process (Sobol's indices).
    """
    reference = best.fidelity
    pairs = _pairs(trials, reference)
    ranks = _agreement(pairs)
    told = _told(trials, reference, pairs, ranks)
    n_scores = sum(score is not None for _, score in told)
    repeat_noise = _repeat_noise(trials, best)
    equals, standard_error = _equals(trials, best, repeat_noise)
    warnings = about_trials(trials, dimensions, best, full, n_scores, ranks)
    common = {
        "repeat_noise": repeat_noise,
        "standard_error": standard_error,
        "equals": equals,
    }
    if n_scores < 4 or not dimensions:
        return Answers(warnings=warnings, **common)
    model = _model(dimensions, told, trials, best, random_state)
    near = _without_hopeless_names(model, told, trials, best, random_state)
    intervals = _intervals(dimensions, near, best)
    paired = _paired_intervals(dimensions, best, optimum)
    intervals.update(paired)
    wide = [d.name for d in dimensions if is_wide(d, intervals.get(d.name, {}))]
    flat = flat_directions(
        near.surrogate,
        near.coordinates,
        best.parameters,
        near.optima.curvature,
        error=near.error,
        fewest=_FLAT,
    )
    flat = [direction for direction in flat if not _told_by_pairs(direction, near, paired)]
    return Answers(
        intervals=intervals,
        importance=_importance(model, near, best, random_state),
        flat_directions=about_flat_directions(near.coordinates, flat, wide),
        warnings=about_parameters(dimensions, best, intervals, wide) + warnings,
        noise=near.surrogate.noise,
        **common,
    )


# --- what the model is told -----------------------------------------------------------------------


def _key(trial: Trial) -> tuple:
    return tuple(sorted(trial.parameters.items()))


def _pairs(trials: Sequence[Trial], reference: Fidelity) -> list[tuple[Trial, Trial]]:
    """Trials of the same parameters, short and at the reference's fidelity."""
    at_full = {_key(t): t for t in usable(trials, reference)}
    others = dict.fromkeys(t.fidelity for t in trials if t.fidelity != reference)
    return [
        (t, at_full[_key(t)])
        for fidelity in others
        for t in usable(trials, fidelity)
        if _key(t) in at_full
    ]


def _agreement(pairs: Sequence[tuple[Trial, Trial]]) -> float:
    """Of the short trials of which most were repeated at the reference's fidelity."""
    kinds = [short.fidelity for short, _ in pairs if not short.fidelity.split]
    most = max(dict.fromkeys(kinds), key=kinds.count, default=None)
    return agreement([pair for pair in pairs if pair[0].fidelity == most])


def _told(trials, reference, pairs, ranks) -> list[tuple[Mapping[str, Any], float | None]]:
    """Points and scores on the scale of the reference's fidelity.

    What was stopped early is taken to be as bad as the worst that was completed, so
    that the model knows there is no optimum there, and no steep wall either.
    """
    completed = usable(trials, reference)
    told = {_key(t): (t.parameters, t.objective) for t in completed}
    for fidelity in dict.fromkeys(short.fidelity for short, _ in pairs):
        own = [(a.objective, b.objective) for a, b in pairs if a.fidelity == fidelity]
        if ranks <= 0 or len(own) < 3:
            continue
        slope, offset = straight_line(own)
        for t in usable(trials, fidelity):
            told.setdefault(_key(t), (t.parameters, offset + slope * t.objective))
    scores = [score for _, score in told.values()]
    if scores:
        lowest, middle = min(scores), float(np.median(scores))
        worst = min(max(scores), middle + _FAR * (middle - lowest))
        told = {key: (point, min(score, worst)) for key, (point, score) in told.items()}
    else:
        worst = None
    for t in trials:
        if t.status in ("pruned", "diverged") and t.purpose != "repeat":
            told.setdefault(_key(t), (t.parameters, worst))
    return list(told.values())


def _statistical_error(
    coordinates: Coordinates, trials: Sequence[Trial], best: Trial
) -> StatisticalError | None:
    """From the trials with blocks at the best's fidelity, or at that with the most of them."""
    k_best = coordinates.split([best.parameters])
    groups = {}
    for fidelity in dict.fromkeys(t.fidelity for t in (best, *trials)):
        group = [t for t in usable(trials, fidelity) if len(t.blocks) > 2]
        if not group:
            continue
        # the same parameters where they were tried at this fidelity, else the lowest
        first = min(group, key=lambda t: (_key(t) != _key(best), t.objective, t.number))
        groups[fidelity] = [(t, first) for t in group if len(t.blocks) == len(first.blocks)]
    if not groups:
        return None
    own = groups.get(best.fidelity, [])
    if len(own) < 2 + len(coordinates.dimensions):
        own = max(groups.values(), key=len)
    first = own[0][1]
    u, k = coordinates.split([t.parameters for t, _ in own])
    u_first, k_first = coordinates.split([first.parameters])
    features = coordinates.features(u, k, u_first[0], k_first[0])
    # a choice that the first of a short group has and the best has not: rare, and left out
    if not np.array_equal(k_first, k_best[1]):
        features[:, u.shape[1] :] = 0
    return StatisticalError.fit(features, np.array([np.subtract(t.blocks, first.blocks)
                                                    for t, _ in own]))  # fmt: skip


def _repeat_noise(trials: Sequence[Trial], best: Trial) -> float | None:
    values = [
        t.objective
        for t in trials
        if t.purpose == "repeat"
        and t.status == "completed"
        and t.fidelity == best.fidelity
        and _key(t) == _key(best)
        and t.objective is not None
    ]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _equals(trials, best, repeat_noise) -> tuple[list[int], float | None]:
    """Trials that cannot be told from the best, and the standard error of the nearest few."""
    equals, errors = [], []
    others = [t for t in usable(trials, best.fidelity) if _key(t) != _key(best)]
    for t in sorted(others, key=lambda t: (abs(t.objective - best.objective), t.number)):
        mean, error = difference(t, best)
        if math.isfinite(error):
            errors.append(error)
        # the best may be the simplest and not the lowest
        limit = np.nanmax([error, math.sqrt(2) * (repeat_noise or 0.0)])
        if abs(mean) <= limit:
            equals.append(t.number)
    return sorted(equals), float(np.median(errors[:5])) if errors else None


# --- what the model says --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """A surrogate, and where it says that the optimum may lie."""

    surrogate: CautiousSurrogate
    coordinates: Coordinates
    error: StatisticalError | None
    optima: Optima


def _model(dimensions, told, trials, best, random_state) -> _Model:
    coordinates = Coordinates(dimensions)
    surrogate = CautiousSurrogate(coordinates, told)
    error = _statistical_error(coordinates, trials, best)
    optima = draw_optima(
        surrogate, coordinates, best.parameters, told, error=error, random_state=random_state
    )
    return _Model(surrogate, coordinates, error, optima)


def _without_hopeless_names(model, told, trials, best, random_state) -> _Model:
    """The model of the trials that could be the best by their names, such as the detector's flip.

    A wrong name ruins a reconstruction, and a model of such differences has no eye for the rest.
    """
    dimensions, fixed, kept = [], {}, {}
    for d in model.coordinates.dimensions:
        if not (d.choices and isinstance(d.choices[0], str)) or d.name not in best.parameters:
            dimensions.append(d)
            continue
        column = model.optima.k[:, list(model.coordinates.choices).index(d.name)]
        shares = np.bincount(column, minlength=len(d.choices)) / len(column)
        kept[d.name] = tuple(
            choice
            for choice, share in zip(d.choices, shares, strict=True)
            if share >= _HOPELESS or choice == best.parameters[d.name]
        )
        if len(kept[d.name]) > 1:
            dimensions.append(replace(d, choices=kept[d.name]))
        else:
            fixed[d.name] = kept[d.name][0]
    dimensions = [d for d in dimensions if d.active(fixed)]

    def possible(point: Mapping[str, Any]) -> bool:
        return all(point.get(name) in choices for name, choices in kept.items())

    left = [(point, score) for point, score in told if possible(point)]
    if len(left) == len(told) or len(left) < 2 + len(dimensions) or not dimensions:
        return model
    own = [t for t in trials if possible(t.parameters)]
    return _model(dimensions, left, own, best, random_state)


def _intervals(dimensions, model: _Model, best: Trial) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    coordinates, optima = model.coordinates, model.optima
    names = [d.name for d in coordinates.dimensions]
    # a parameter without effect at an optimum says nothing there
    points = coordinates.join(optima.u, optima.k)
    tail = (1 - _INSIDE) / 2
    for d in dimensions:
        values = d.choices or coordinates.choices.get(d.name)
        if d.name in names:
            found = [p[d.name] for p in points if d.name in p]
            if len(found) < _FEWEST_ACTIVE * len(points):
                continue
        elif isinstance(best.parameters.get(d.name), str):  # no other was possible
            found = [best.parameters[d.name]]
        else:  # it has no effect with these
            continue
        if values:
            shares = [found.count(value) / len(found) for value in values]
            out[d.name] = {"choices": list(values), "probabilities": shares}
        else:
            active = [d.name in p for p in points]
            places = optima.u[active, coordinates.numbers.index(d)]
            low, high = np.quantile(places, [tail, 1 - tail])
            out[d.name] = _with_best(d, low, high, best)
    return out


def _paired_intervals(dimensions, best, optimum: Optimum | None) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for d in dimensions:
        if optimum is None or d.name not in optimum.errors or d.name not in best.parameters:
            continue
        place, error = _with_prior(d, d.place(optimum.point[d.name]), optimum.uncertainty(d.name))
        out[d.name] = _with_best(d, place - error, place + error, best)
    return out


def _with_prior(d: Dimension, place: float, error: float) -> tuple[float, float]:
    """What two independent measurements say together: where few trials tell little, they add."""
    if d.prior is None or d.log:
        return place, error
    mean, std = d.place(d.prior[0]), d.prior[1] / (d.high - d.low)
    both = math.hypot(error, std)
    return (place * std**2 + mean * error**2) / both**2, error * std / both


def _told_by_pairs(flat, model: _Model, paired) -> bool:
    """Whether paired trials know the parameter that a flat direction is mostly along.

    The model of few trials may see no valley where these have measured one.
    """
    main = int(np.argmax(np.abs(flat.direction)))
    d = model.coordinates.numbers[main]
    if d.name not in paired:
        return False
    low, high = (d.place(paired[d.name][end]) for end in ("low", "high"))
    return high - low < abs(flat.end[main] - flat.start[main]) / 2


def _with_best(d: Dimension, low: float, high: float, best: Trial) -> dict[str, float]:
    """An interval between two places; the best of all trials is not to be ruled out."""
    ends = [_short(d.value(low)), _short(d.value(high))]
    if d.name in best.parameters:  # exactly: rounded ends could leave it out
        ends.append(best.parameters[d.name])
    return {"low": min(ends), "high": max(ends)}


def _importance(model: _Model, near: _Model, best, random_state) -> dict[str, dict[str, float]]:
    options = {"random_state": random_state}
    coordinates = model.coordinates
    n = len(coordinates.numbers)
    every = [range(len(values)) for values in coordinates.choices.values()]
    first, total = sobol_indices(
        model.surrogate, coordinates, np.zeros(n), np.ones(n), every, **options
    )
    coordinates = near.coordinates
    u, k = (part[0] for part in coordinates.split([best.parameters]))
    # the region is moved into the range where the best is near a limit
    low = np.clip(u - _REGION, 0, 1 - 2 * _REGION)
    # names have no neighbours: near the best they are what they are
    neighbours = [
        [i] if isinstance(values[0], str) else range(max(i - 1, 0), min(i + 2, len(values)))
        for i, values in zip(k, coordinates.choices.values(), strict=True)
    ]
    local = sobol_indices(
        near.surrogate, coordinates, low, low + 2 * _REGION, neighbours, **options
    )
    columns = {"first": first, "total": total, "local_first": local[0], "local_total": local[1]}
    return {
        name: {key: round(shares.get(name, 0.0), 4) for key, shares in columns.items()}
        for name in first
    }


def _short(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
