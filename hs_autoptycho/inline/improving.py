"""Short trials after a scan: from its measured geometry to a better one, and its score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hs_autoptycho.inline.offsets import Value, combined
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
    names = list(given) + list(wanted) or [n for n in _DEFAULT if n not in held]
    out, start = [], {}
    for name in names:
        known = recording.actual.get(name)
        d = given.get(name)
        if d is None:
            d = _about(name, recording, known, held)
        elif known is not None and d.prior is None and not d.choices:
            known = _within(d, known)
            if known is not None and known.error > 0:
                d = Dimension(d.name, d.low, d.high, log=d.log, condition=d.condition, prior=known)
        out.append(d)
        start[name] = d.nearest(None if known is None else known.value)
    if not out:
        raise ParameterError("There is nothing to tune: everything is held.")
    measured = any(d.prior is not None for d in out)
    return Search(out, start=start if measured else None, **options)


def _about(name: str, recording: Recording, known: Value | None, held) -> Dimension:
    """A range about what was measured."""
    if known is None or not math.isfinite(known.error) or known.error == 0:
        return default_range(name, recording.scan.experiment, recording.estimate, held)
    geometry = recording.scan.experiment.geometry
    if name == "scan_rotation":
        smallest = _STEP_DEGREES
    else:
        smallest = _STEP_DEPTH * geometry.wavelength / (1e-3 * geometry.convergence_angle) ** 2
    step = max(_STEP_ERRORS * known.error, smallest)
    reach = _RANGE_STEPS * step
    value = float(f"{known.value:.6g}")
    # twice its width is the step
    return Dimension(name, value - reach, value + reach, prior=(value, step / 2))


def _within(d: Dimension, known: Value) -> Value | None:
    """The value, a rotation in the turn of the range; None if it lies outside."""
    turns = (0, -360, 360) if d.name == "scan_rotation" else (0,)
    for turn in turns:
        if d.low <= known.value + turn <= d.high:
            return Value(known.value + turn, known.error)
    return None


def trial_fidelity(recording: Recording, n_iterations: int) -> Fidelity:
    """Of the trials and of the score."""
    part = min(1.0, _POSITIONS / len(recording.scan.experiment.counts))
    return Fidelity(n_iterations, float(f"{part:.3g}"))


def run_trials(
    search: Search,
    recording: Recording,
    objective: str | Callable[[Any], float],
    held: Mapping[str, Any],
    n_trials: int,
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
    common = recording.parameters(held, {})
    for d in search.dimensions:
        common.pop(d.name, None)
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
    optimum, measured = search.optimum(), recording.measured
    if optimum is None:
        return
    for d in search.dimensions:
        error = _SHORT_TRIALS * optimum.errors.get(d.name, 0.0)
        # no error: a single score says nothing of it
        if d.name not in MEASURED or d.log or error == 0:
            continue
        value, known = optimum.point[d.name], measured.get(d.name)
        if d.name == "scan_rotation" and known is not None:
            value = known.value + wrapped(value - known.value)
        found = Value(value, error * (d.high - d.low))
        recording.actual[d.name] = combined(found, known)


def best_parameters(search: Search | None, recording: Recording) -> dict[str, Any]:
    """What to reconstruct with: the lowest score's; of what was measured, what is known now."""
    if search is None or search.best is None:
        return {}
    known = recording.actual
    return {
        name: known[name].value if name in known and known[name].error else value
        for name, value in search.best.parameters.items()
    }


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

    Rotations are taken in the turn that is nearest to the one before.
    """
    out: list[Value] = []
    for recording in recordings:
        asked = recording.settings.get(name, target.get(name))
        actual = recording.actual.get(name)
        if asked is None or actual is None or not math.isfinite(actual.error):
            continue
        offset = actual.value - asked
        if name == "scan_rotation":
            near = out[-1].value if out else 0.0
            offset = near + wrapped(offset - near)
        out.append(Value(offset, actual.error))
    return out


def scales_of(recording: Recording) -> dict[str, float]:
    """What a large error of a setting is: of lengths the depth of focus λ/α², of the rotation that
    which moves the scan's edge by a step.
    """
    geometry = recording.scan.experiment.geometry
    depth = geometry.wavelength / (1e-3 * geometry.convergence_angle) ** 2
    rotation = math.degrees(2 / max(geometry.scan_shape))
    return {"scan_rotation": rotation, "defocus": depth, "C12a": depth, "C12b": depth}


def gain_of(
    proposal: Proposal,
    recordings: Sequence[Recording],
    target: Mapping[str, Any],
    offsets: Mapping[str, Value],
) -> tuple[float, float]:
    """By how much the score is expected to fall with a proposal, and the standard error of that.

    NaN and infinity where the scans that were judged cannot tell.
    """
    judged = [r for r in recordings if r.score is not None and math.isfinite(r.score)]
    if not judged or judged[-1] is not recordings[-1]:
        return math.nan, math.inf
    scales = scales_of(judged[-1])
    then = {
        name: Value(proposal.settings[name] + offsets[name].value, offsets[name].error)
        for name in target
        if name in offsets
    }
    return expected_gain(
        [distance(r.actual, target, scales) for r in judged],
        [r.score for r in judged],
        distance(then, target, scales),
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
