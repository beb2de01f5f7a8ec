"""What a search found out: how well each parameter is known, what matters, and what to doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.tuning.cautious import CautiousSurrogate
from hs_autoptycho.tuning.posterior import (
    Coordinates,
    Optima,
    StatisticalError,
    draw_optima,
)
from hs_autoptycho.tuning.selection import difference, rank_agreement, usable
from hs_autoptycho.tuning.sensitivity import flat_directions, sobol_indices
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

# Part of the optima that an interval holds, in its middle.
_INSIDE = 0.68
# A name with a smaller probability is out of the question.
_HOPELESS = 0.02
# So near to a limit of its range (as a part of it) an optimum counts as being at the limit.
_AT_LIMIT = 0.02
# An interval wider than this part of the range, or a choice less probable, says nothing.
_WIDE, _UNDECIDED = 0.5, 0.5
# Half of the region about the best that the local importance is of, as a part of each range.
_REGION = 0.1
# A direction is flat if the objective stays within its noise along this part of its length; names
# of parameters with a smaller share of it, relative to the largest, are left out.
_FLAT, _SHARE = 0.5, 0.25
# Scores this many times as far above the median as the lowest is below are cut off: how bad the bad
# ones are says nothing about where the optimum is.
_FAR = 5.0
# Ranks of short trials that agree less with those at full length are warned of.
_AGREEMENT = 0.5
# Full-length or short trials that a parameter needs, about.
_TRIALS_A_PARAMETER = 3
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
    random_state
        Seed.

    Notes
    -----
    An interval is that of the places of the lowest values of functions drawn from a Gaussian
    process, which fits all trials: short ones brought to the scale of full-length ones by a
    straight line, if their ranks agree. The objective's own statistical error is drawn with it.
    Importance is a share of variance of the mean of the same process (Sobol's indices).
    """
    reference = best.fidelity
    pairs = _pairs(trials, reference)
    agreement = rank_agreement([p[0] for p in pairs], [p[1] for p in pairs])
    told = _told(trials, reference, pairs, agreement)
    n_scores = sum(score is not None for _, score in told)
    repeat_noise = _repeat_noise(trials, best)
    equals, standard_error = _equals(trials, best, repeat_noise)
    warnings = _about_trials(trials, dimensions, best, full, n_scores, agreement)
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
    wide = [d.name for d in dimensions if _is_wide(d, intervals.get(d.name, {}))]
    flat = flat_directions(
        near.surrogate,
        near.coordinates,
        best.parameters,
        near.optima.curvature,
        error=near.error,
        fewest=_FLAT,
    )
    return Answers(
        intervals=intervals,
        importance=_importance(model, near, best, random_state),
        flat_directions=_flat_sentences(near.coordinates, flat, wide),
        warnings=_about_parameters(dimensions, best, intervals, wide) + warnings,
        noise=near.surrogate.noise,
        **common,
    )


# --- what the model is told -----------------------------------------------------------------------


def _key(trial: Trial) -> tuple:
    return tuple(sorted(trial.parameters.items()))


def _pairs(trials: Sequence[Trial], reference: Fidelity) -> list[tuple[float, float, Fidelity]]:
    """Objectives of the same parameters: short, at the reference's fidelity, and which short."""
    at_full = {_key(t): t.objective for t in usable(trials, reference)}
    others = dict.fromkeys(t.fidelity for t in trials if t.fidelity != reference)
    return [
        (t.objective, at_full[_key(t)], fidelity)
        for fidelity in others
        for t in usable(trials, fidelity)
        if _key(t) in at_full
    ]


def _told(trials, reference, pairs, agreement) -> list[tuple[Mapping[str, Any], float | None]]:
    """Points and scores on the scale of the reference's fidelity.

    What was stopped early is taken to be as bad as the worst that was completed, so
    that the model knows there is no optimum there, and no steep wall either.
    """
    completed = usable(trials, reference)
    told = {_key(t): (t.parameters, t.objective) for t in completed}
    for fidelity in dict.fromkeys(p[2] for p in pairs):
        own = [p[:2] for p in pairs if p[2] == fidelity]
        if agreement <= 0 or len(own) < 3:
            continue
        slope, offset = _line(own)
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


def _line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope, between a third and three, and offset of a straight line through pairs."""
    x, y = np.array(pairs).T
    spread = x.var()
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread else 1.0
    slope = min(max(slope, 1 / 3), 3.0)
    return slope, float(y.mean() - slope * x.mean())


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
            if d.name in best.parameters:  # the lowest of all trials is not to be ruled out
                place = d.place(best.parameters[d.name])
                low, high = min(low, place), max(high, place)
            out[d.name] = {"low": _short(d.value(low)), "high": _short(d.value(high))}
    return out


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


def _flat_sentences(coordinates, directions, wide) -> list[str]:
    sentences = []
    for found in directions:
        shares = np.abs(found.direction) / np.abs(found.direction).max()
        names = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= _SHARE]
        tied = [i for i in names if found.tied[i]]
        if len(tied) > 1:
            names = tied
        elif len(names) > 1 or coordinates.numbers[names[0]].name in wide:
            continue  # each is flat by itself: the warnings of their intervals say it
        sentences.append(
            _flat_sentence(coordinates, names, found.direction, found.start, found.end)
        )
    return sentences


def _flat_sentence(coordinates, names, direction, start, end) -> str:
    if direction[names[0]] < 0:
        direction, start, end = -direction, end, start
    spans = [
        f"{d.name} from {_text(d, d.value(start[i]))} to {_text(d, d.value(end[i]))}"
        for i in names
        for d in [coordinates.numbers[i]]
    ]
    if len(names) == 1:
        return f"The objective hardly changes with {spans[0]}."
    ways = ["rises" if direction[i] > 0 else "falls" for i in names[1:]]
    others = [
        f"{coordinates.numbers[i].name} {way}" for i, way in zip(names[1:], ways, strict=True)
    ]
    first = coordinates.numbers[names[0]].name
    return (
        f"{_listed(others)} with {first}: {_listed(spans)} together, and the objective stays "
        "within its noise. One of them has to be known from elsewhere."
    )


# --- sentences ------------------------------------------------------------------------------------


def _about_trials(trials, dimensions, best, full, n_scores, agreement) -> list[str]:
    out = []
    needed = _TRIALS_A_PARAMETER * len(dimensions) + 2
    if best.fidelity != full:
        out.append(
            "No trial of full length was completed: the best parameters are those of a short one."
        )
    if n_scores < needed:
        out.append(
            f"Only {n_scores} trials can be used for {len(dimensions)} "
            f"parameter{'s' * (len(dimensions) > 1)}; intervals and importance need about "
            f"{needed} to be believed."
        )
    if agreement < _AGREEMENT:
        out.append(
            f"Short trials rank the parameters differently from full-length ones (correlation "
            f"{agreement:.2f}): make the short ones longer, or use one length for all."
        )
    failed = [t for t in trials if t.status in ("failed", "diverged")]
    if failed:
        reasons = [t.message for t in failed if t.message]
        reason = f"; the last reason: {reasons[-1]}" if reasons else ""
        out.append(f"{len(failed)} of {len(trials)} trials failed or diverged{reason}.")
    return out


def _is_wide(d: Dimension, interval: Mapping[str, Any]) -> bool:
    if "choices" in interval:
        return max(interval["probabilities"]) < _UNDECIDED
    return bool(interval) and d.place(interval["high"]) - d.place(interval["low"]) > _WIDE


def _about_parameters(dimensions, best, intervals, wide) -> list[str]:
    sentences, unknown = [], []
    for d in dimensions:
        interval = intervals.get(d.name, {})
        if d.name in wide and "choices" in interval:
            unknown.append(f"{d.name} (no choice above {max(interval['probabilities']):.0%})")
        elif d.name in wide:
            span = f"{_text(d, interval['low'])} to {_text(d, interval['high'])}"
            unknown.append(f"{d.name} ({span})")
        elif d.name in best.parameters:
            sentences += _at_limit(d, best.parameters[d.name], interval)
    if unknown:
        sentences.append(f"The trials do not tell {_listed(unknown)}.")
    return sentences


def _at_limit(d: Dimension, value: Any, interval: Mapping[str, Any]) -> list[str]:
    """A sentence where the optimum is at a limit that the search could go beyond."""
    values = d.choices or interval.get("choices")
    known = PARAMETERS[d.name]
    if isinstance(value, str) or (values and len(values) < 3):
        return []
    low, high = (values[0], values[-1]) if values else (d.low, d.high)
    if d.name == "scan_rotation" and high - low >= 360:
        return []
    if values:
        at_low, at_high = value == low, value == high
    else:
        places = [d.place(v) for v in (value, *interval.values())]
        at_low, at_high = min(places) < _AT_LIMIT, max(places) > 1 - _AT_LIMIT
    out = []
    for at, limit, beyond, way in (
        (at_low, low, known.low, "smaller"),
        (at_high, high, known.high, "larger"),
    ):
        if at and limit != beyond:  # there is nothing below one mode
            out.append(
                f"The optimum of {d.name} ({_text(d, value)}) is at the limit of its range, "
                f"{_text(d, limit)}: search {way} values too."
            )
    return out


def _text(d: Dimension, value: Any) -> str:
    unit = PARAMETERS[d.name].unit
    unit = {"degrees": "°"}.get(unit, f" {unit}" if unit in ("Å", "1/Å", "mrad", "keV") else "")
    return f"{value:.4g}{unit}" if isinstance(value, (int, float)) else str(value)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _short(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
