"""Short trials after a scan: from its measured geometry to a better one, and its score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hs_autoptycho.inline.offsets import Value, combined, contradict, known
from hs_autoptycho.inline.proposals import (
    MEASURED,
    Proposal,
    distance,
    expected_gain,
    wrapped,
)
from hs_autoptycho.inline.recording import Recording
from hs_autoptycho.inline.search import Search
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.signals import PtychographicObject
from hs_autoptycho.tuning.answers import Answers
from hs_autoptycho.tuning.default_space import default_range
from hs_autoptycho.tuning.objectives import make_objective
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial, run_trial

# What is tuned where nobody says anything.
_DEFAULT = ("scan_rotation", "defocus")
# Steps to either side of what was measured: so many standard errors, but at least so many degrees,
# and this part of the depth of focus λ/α². A range is so many steps wide to either side.
_STEP_ERRORS, _STEP_DEGREES, _STEP_DEPTH, _RANGE_STEPS = 4.0, 1.0, 0.15, 8.0
# Where short trials put a parameter is believed to so many of their standard errors only: measured
# on simulated scans, whose defocus they find too small by two to three of them.
_SHORT_TRIALS = 3.0
# Positions in the middle of the scan that a trial and the score see, where there are more.
_POSITIONS = 1024


class Best(NamedTuple):
    """The best parameters that are known."""

    parameters: dict[str, Any]
    score: float | None


def search_for(
    dimensions: Sequence[Dimension],
    wanted: Sequence[str],
    held: Mapping[str, Any],
    recording: Recording | None,
    *,
    n_trials: int | None,
    random_state: int,
) -> Search:
    """What to ask, of the data if there are any.

    Raises
    ------
    ParameterError
        If there is nothing to tune.
    """
    options = {"random_state": random_state, "n_trials": n_trials or 20}
    if recording is None:
        if not dimensions or wanted:
            raise ParameterError(
                "There are no data yet from which ranges could be told: give them, "
                '`parameters={"defocus": (100, 500)}`, or hand patterns over first.'
            )
        return Search(dimensions, **options)
    given = {d.name: d for d in dimensions}
    out, start = [], {}
    for name in tuned_names(dimensions, wanted, held):
        value = recording.actual.get(name)
        d = given.get(name)
        if d is None:
            d = _about(name, recording, value, held)
        elif value is not None and not d.choices:
            value = _within(d, value)
            if known(value) and d.prior is None:
                d = Dimension(d.name, d.low, d.high, log=d.log, condition=d.condition, prior=value)
        out.append(d)
        start[name] = d.nearest(None if value is None else value.value)
    if not out:
        raise ParameterError("There is nothing to tune: everything is held.")
    measured = any(d.prior is not None for d in out)
    return Search(out, start=start if measured else None, **options)


def tuned_names(
    dimensions: Sequence[Dimension], wanted: Sequence[str], held: Mapping[str, Any]
) -> list[str]:
    """What is tuned with data; empty where everything is held."""
    names = [*(d.name for d in dimensions), *wanted]
    if "n_slices" in wanted and not {"thickness"} & {*names, *held}:
        names.append("thickness")
    return names or [name for name in _DEFAULT if name not in held]


def _about(name: str, recording: Recording, measured: Value | None, held) -> Dimension:
    """A range about what was measured."""
    if not known(measured):
        return default_range(name, recording.scan.experiment, recording.estimate, held)
    geometry = recording.scan.experiment.geometry
    if name == "scan_rotation":
        smallest = _STEP_DEGREES
    else:
        smallest = _STEP_DEPTH * geometry.wavelength / (1e-3 * geometry.convergence_angle) ** 2
    step = max(_STEP_ERRORS * measured.error, smallest)
    reach = _RANGE_STEPS * step
    value = float(f"{measured.value:.6g}")
    # twice its width is the step
    return Dimension(name, value - reach, value + reach, prior=(value, step / 2))


def _within(d: Dimension, measured: Value) -> Value | None:
    """The value, a rotation in the turn of the range; None if it lies outside."""
    turns = (0, -360, 360) if d.name == "scan_rotation" else (0,)
    for turn in turns:
        if d.low <= measured.value + turn <= d.high:
            return Value(measured.value + turn, measured.error)
    return None


def guessed(dimensions: Sequence[Dimension], recording: Recording) -> dict[str, Any]:
    """Of the geometry that could not be measured what lies in the ranges: their start or middle."""
    out = {}
    for d in dimensions:
        value = recording.actual.get(d.name)
        if d.name in MEASURED and not known(value):
            value = None if value is None else _within(d, value)
            out[d.name] = d.nearest(None if value is None else value.value)
    return out


def trial_fidelity(recording: Recording, n_iterations: int) -> Fidelity:
    """Of the trials and of the score."""
    part = min(1.0, _POSITIONS / len(recording.scan.experiment.counts))
    return Fidelity(n_iterations, float(f"{part:.3g}"))


def run_trials(
    search: Search,
    recording: Recording,
    objective: str | Callable[[Any], float],
    held: Mapping[str, Any],
    n_trials: int | None,
    fidelity: Fidelity,
    random_state: int = 0,
) -> None:
    """Ask, try and tell.

    Raises
    ------
    KeyboardInterrupt
        If interrupted; what was tried before is kept.
    """
    score = make_objective(objective, recording.scan.experiment, random_state=random_state)
    common = recording.parameters(held, guessed(search.dimensions, recording))
    for d in search.dimensions:
        common.pop(d.name, None)
    if n_trials is None:
        n_trials = max(search.n_first + 1, 2 * len(search.dimensions) + 2)
    for _ in range(n_trials):
        point = search.ask()
        if point is None:
            return
        trial = Trial(len(search.trials), point, fidelity, seed=random_state)
        run_trial(score, trial, common)
        if trial.status == "interrupted":
            search.forget()
            raise KeyboardInterrupt
        search.tell(point, trial.objective, trial=trial)


def learn(search: Search, recording: Recording) -> None:
    """Take what the trials say into what is known of the scan, beside what was measured."""
    optimum = search.optimum()
    if optimum is None:
        return
    for d in search.dimensions:
        error = _SHORT_TRIALS * optimum.errors.get(d.name, 0.0)
        # no error: a single score says nothing of it
        if d.name not in MEASURED or error == 0:
            continue
        value, measured = optimum.point[d.name], recording.measured.get(d.name)
        if d.name == "scan_rotation" and measured is not None:
            value = measured.value + wrapped(value - measured.value)
        found = Value(
            value, error * (value * math.log(d.high / d.low) if d.log else d.high - d.low)
        )
        seen = recording.seen(d.name)
        if known(measured) and (_within(d, measured) is None or contradict(found, measured)):
            note = (
                f"{d.name} was measured at {measured.value:.4g} ± {measured.error:.2g}, and the "
                f"trials find {found.value:.4g} ± {found.error:.2g}: that is used."
            )
            recording.notes += [note] if note not in recording.notes else []
            measured = seen = None
        recording.actual[d.name] = combined(found, measured)
        recording.observed[d.name] = combined(found, seen)
        recording.learned.add(d.name)


def best_parameters(search: Search | None, recording: Recording | None) -> dict[str, Any]:
    """What to reconstruct with: the lowest score's, or what the trials have taught in all.

    That is the minimum of parabolas and the measurement together, where there was enough for it.
    """
    if search is None or search.best is None:
        return {}
    out = dict(search.best.parameters)
    for d in search.dimensions:
        learned = recording is not None and d.name in recording.learned
        value = recording.actual[d.name] if learned else None
        value = _within(d, value) if known(value) and d.name in out else None
        if value is not None:
            out[d.name] = value.value
    return out


def judge(
    score: str | Callable[[PtychographicObject], float] | None,
    recording: Recording,
    parameters: Mapping[str, Any],
    fidelity: Fidelity,
    random_state: int = 0,
) -> float | None:
    """The score of a scan's picture; None where it is not judged or cannot be."""
    if score is None:
        return None
    if callable(score):
        return None if recording.picture is None else float(score(recording.picture))
    objective = make_objective(score, recording.scan.experiment, random_state=random_state)
    trial = Trial(0, dict(parameters), fidelity, seed=random_state)
    run_trial(objective, trial, {})
    if trial.status == "interrupted":
        raise KeyboardInterrupt
    return trial.objective


def offsets_of(
    recordings: Sequence[Recording], name: str, target: Mapping[str, Any]
) -> list[Value]:
    """Actual less asked-for values of the scans; what nobody said was asked as the target is.

    Only what a scan has shown by itself counts: what was expected of it comes from the offsets
    before, and would be counted twice; what is held is no measurement.
    Rotations are taken in the turn that is nearest to the one before.
    """
    out: list[Value] = []
    for recording in recordings:
        asked = recording.settings.get(name, target.get(name))
        actual = recording.observed.get(name)
        if asked is None or not known(actual):
            continue
        offset = actual.value - asked
        if name == "scan_rotation":
            near = out[-1].value if out else 0.0
            offset = near + wrapped(offset - near)
        out.append(Value(offset, actual.error))
    return out


def gain_of(
    proposal: Proposal,
    recordings: Sequence[Recording],
    target: Mapping[str, Any],
    offsets: Mapping[str, Value],
) -> tuple[float, float]:
    """By how much the score is expected to fall with a proposal, and the standard error of that.

    NaN and infinity where the scans that were judged cannot tell.
    """
    wanted = {name: value for name, value in target.items() if name in offsets}
    judged = [
        r
        for r in recordings
        if r.score is not None
        and math.isfinite(r.score)
        and all(name in r.actual and math.isfinite(r.actual[name].error) for name in wanted)
    ]
    if not judged or judged[-1] is not recordings[-1]:
        return math.nan, math.inf
    scales = judged[-1].scales
    then = {
        name: Value(proposal.settings[name] + offsets[name].value, offsets[name].error)
        for name in wanted
    }
    return expected_gain(
        [distance(r.actual, wanted, scales) for r in judged],
        [r.score for r in judged],
        distance(then, wanted, scales),
    )


def tuning_record(
    search: Search, recording: Recording, objective: str | Callable[[Any], float]
) -> dict[str, Any]:
    """What a picture remembers of the trials, as the result of ``autotune_ptycho`` does."""
    intervals = {}
    for d in search.dimensions:
        known = recording.actual.get(d.name)
        if known is not None and math.isfinite(known.error):
            intervals[d.name] = {
                "low": known.value - known.error,
                "high": known.value + known.error,
            }
    return {
        "objective": getattr(objective, "__name__", objective),
        "engine": "numba",
        "strategy": "inline",
        "parameters": [d.name for d in search.dimensions],
        "space": {d.name: d.to_dict() for d in search.dimensions},
        "best_trial": search.best.number,
        "trials": [trial.to_dict() for trial in search.trials],
        "estimate": recording.estimate.to_dict(),
        "answers": Answers(intervals=intervals).to_dict(),
    }
