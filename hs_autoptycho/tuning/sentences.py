"""What a search found out, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.tuning.space import Dimension

# So near to a limit of its range (as a part of it) an optimum counts as being at the limit.
_AT_LIMIT = 0.02
# The end of an interval counts too, if it is narrower than this part of the range.
_NEAR = 0.25
# An interval wider than this part of the range, or a choice less probable, says nothing.
_WIDE, _UNDECIDED = 0.5, 0.5
# Parameters with a smaller share of a flat direction, relative to the largest, are left out.
_SHARE = 0.25
# Trials of these purposes are worth something together with others alone.
_PAIRED = ("both sides", "full sides", "halves")
# Full-length or short trials that a parameter needs, about.
_TRIALS_A_PARAMETER = 3


def about_flat_directions(coordinates, directions, wide) -> list[str]:
    """Sentences on parameters that can be changed together and the objective hardly changes."""
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


def about_trials(trials, dimensions, best, full, n_scores, agreement) -> list[str]:
    """Sentences on trials that failed, are too few, or contradict each other."""
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
    if agreement <= 0:
        out.append(
            f"Short trials rank the parameters differently from full-length ones (correlation "
            f"{agreement:.2f}) and were not believed: give trials more iterations, or use one "
            'length for all, strategy="full".'
        )
    failed = [t for t in trials if t.status in ("failed", "diverged")]
    if failed:
        reasons = [t.message for t in failed if t.message]
        reason = f"; the last reason: {reasons[-1]}" if reasons else ""
        out.append(f"{len(failed)} of {len(trials)} trials failed or diverged{reason}.")
    paired = [t for t in failed if t.purpose in _PAIRED]
    if paired:
        out.append(
            f"{len(paired)} of them {'was' if len(paired) == 1 else 'were'} to tell where the "
            "optimum is, together with others, and some parameters are known less well for it."
        )
    return out


def is_wide(d: Dimension, interval: Mapping[str, Any]) -> bool:
    """Whether an interval says next to nothing."""
    if "choices" in interval:
        return max(interval["probabilities"]) < _UNDECIDED
    return bool(interval) and d.place(interval["high"]) - d.place(interval["low"]) > _WIDE


def about_parameters(dimensions, best, intervals, wide) -> list[str]:
    """Sentences on parameters at a limit of their range, or that the trials do not tell."""
    sentences, unknown = [], []
    for d in dimensions:
        interval = intervals.get(d.name, {})
        if d.name in wide and "choices" in interval:
            unknown.append(f"{d.name} (no choice above {max(interval['probabilities']):.0%})")
        elif d.name in wide:
            span = f"{_text(d, interval['low'])} to {_text(d, interval['high'])}"
            unknown.append(f"{d.name} (68 % interval {span})")
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
        # an interval that reaches a limit from afar says that little is known, not where to go
        places = [d.place(v) for v in (value, *interval.values())]
        near = max(places) - min(places) < _NEAR
        at_low = min(places if near else places[:1]) < _AT_LIMIT
        at_high = max(places if near else places[:1]) > 1 - _AT_LIMIT
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
