"""From a HyperSpy signal to tuned parameters and the reconstruction made with them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hs_autoptycho._memory import Work
from hs_autoptycho._running import (
    check_count,
    check_running,
    check_seed,
    progressbar,
    threads,
    versions,
)
from hs_autoptycho._scan import VERSIONS, Scan, read_scan, wrap_reconstruction
from hs_autoptycho.ptycho.geometry_estimate import STEPS, GeometryEstimate, estimate
from hs_autoptycho.ptycho.parameters import (
    OPTIONS,
    PARAMETERS,
    RECORDING,
    ParameterError,
    check_names,
    check_parameters,
)
from hs_autoptycho.signals import PtychographicObject
from hs_autoptycho.tuning.answers import answer
from hs_autoptycho.tuning.beliefs import oriented, with_beliefs
from hs_autoptycho.tuning.default_space import default_space
from hs_autoptycho.tuning.engines import Engine, make_engine
from hs_autoptycho.tuning.executor import Distributed, Executor, InProcess
from hs_autoptycho.tuning.gain import as_counts
from hs_autoptycho.tuning.objectives import check_objective, make_objective
from hs_autoptycho.tuning.schedule import Strategy
from hs_autoptycho.tuning.space import (
    Dimension,
    complete_point,
    degenerate_notes,
    read_space,
    settle,
    two_values_notes,
)
from hs_autoptycho.tuning.strategies import check_strategy, make_strategy
from hs_autoptycho.tuning.study import Study
from hs_autoptycho.tuning.study_file import check_path
from hs_autoptycho.tuning.trial import Fidelity
from hs_autoptycho.tuning.tuner import Tuning, tune

_logger = logging.getLogger(__name__)

# Arrays as large as the data, where they are in memory: the counts, both parts of them, and those
# that are fitted in the order of the kernels.
_COPIES = 4.0
# Passes over stored data beside those of the fits. To look at them, to split them, and to leave
# out saturated pixels; of scaled data also to find the gain, and twice to divide by it. Of a trial:
# to sum up its part of the scan, to judge it twice on the way, and in the end.
_PASSES, _PASSES_OF_SCALED, _PASSES_OF_TRIAL = 3, 4, 4


class Wanted(NamedTuple):
    """What a user said of the parameters.

    Attributes
    ----------
    dimensions : list of Dimension
        With the ranges that were given.
    names : list of str
        Of what is to be tuned in ranges from the data.
    held : dict
        What all trials share.
    recording : dict
        How the data were taken, by the names of `RECORDING`; None where nothing was said.
    """

    dimensions: list[Dimension]
    names: list[str]
    held: dict[str, Any]
    recording: dict[str, Any]


class Search(NamedTuple):
    """What is searched, and what is not."""

    dimensions: list[Dimension]
    held: dict[str, Any]
    start: list[dict[str, Any]]
    estimate: GeometryEstimate


def tune_signal(
    signal,
    *,
    parameters: Any,
    n_trials: int,
    objective: str | Callable[[Any], float],
    strategy: str,
    fixed: Mapping[str, Any] | None,
    study: Any,
    client: Any,
    engine: str,
    n_iterations: int,
    n_trial_iterations: int,
    callback: Callable[[dict[str, Any]], bool | None] | None,
    random_state: int,
    show_progressbar: bool | None,
    num_workers: int | None,
) -> PtychographicObject:
    """Tune a signal's reconstruction; see `methods.autotune_ptycho` for the options."""
    for name, value in (
        ("n_trials", n_trials),
        ("n_iterations", n_iterations),
        ("n_trial_iterations", n_trial_iterations),
    ):
        check_count(name, value)
    random_state = check_seed(random_state)
    check_strategy(strategy)
    engine = make_engine(engine)
    check_objective(objective)
    check_running(callback, client)
    if study is not None:
        study = check_path(study)
    wanted = _read_wanted(parameters, fixed)
    with threads(num_workers):
        # the rotation is about to be found
        stated = {"scan_rotation": 0.0, **wanted.held}
        scan = read_scan(
            signal, stated, show_progressbar, **wanted.recording,
            work=_work(signal, engine, n_trials, n_trial_iterations, n_iterations),
        )  # fmt: skip
        search = _search_space(scan, wanted, engine, show_progressbar)
        score = make_objective(objective, scan.experiment, random_state=random_state, engine=engine)
        scan.notes += getattr(score, "notes", [])
        if objective == "held_out":  # scaled counts are reconstructed as they were judged
            scan.experiment, _ = as_counts(scan.experiment)
        header = {
            "fingerprint": scan.fingerprint,
            "objective": score.name,
            "engine": engine.name,
            "strategy": strategy,
            "space": {d.name: d.to_dict() for d in search.dimensions},
            "held": {**search.held, **_in_words(wanted.recording)},
            "n_trials": n_trials,
            "n_trial_iterations": n_trial_iterations,
            "random_state": random_state,
            "versions": versions(VERSIONS),
        }
        if scan.experiment.stored:  # other counts are held out then, in another order
            header["patterns"] = "left on disk"
        if client is None:
            executor = InProcess(score, search.held)
        else:
            executor = Distributed(score, search.held, client)
        n_positions = len(scan.experiment.counts)
        splits = getattr(score, "splits", False)
        plan, tuning = _search(
            search, executor, study, header, n_positions, splits, callback, show_progressbar
        )
        values = scan.experiment.complete({**search.held, **tuning.best.parameters})
        if tuning.interrupted:
            reconstruction = _as_it_was(tuning, scan, values, engine)
            scan.notes.append(
                f"Tuning was interrupted after {len(tuning.trials)} of {n_trials} trials; the "
                f"object is that of trial {tuning.best.number}, not refined."
            )
        else:
            with progressbar(n_iterations, "Refine", show_progressbar) as bar:
                reconstruction = engine.fit(
                    scan.experiment,
                    values,
                    n_iterations=n_iterations,
                    random_state=random_state,
                    monitor=lambda *_: bar.update() and None,
                ).reconstruction
    record = _record(plan, search, tuning, score, header)
    return wrap_reconstruction(scan, values, reconstruction, random_state, record)


def _read_wanted(parameters: Any, fixed: Any) -> Wanted:
    """What a user said of the parameters, checked."""
    if not isinstance(fixed, Mapping | None):
        raise TypeError(
            f"fixed={fixed!r}: a dictionary is needed, such as {{'scan_rotation': -12.5}}."
        )
    held = dict(fixed or {})
    recording = {name: held.pop(name, None) for name in RECORDING}
    check_names(held, "fixed parameter", OPTIONS)
    held = check_parameters(held)
    dimensions, single, names = read_space(parameters if parameters is not None else {})
    for name in [*single, *names, *(d.name for d in dimensions)]:
        if name in held:
            raise ParameterError(f"{name} is both in `parameters` and in `fixed`.")
    return Wanted(dimensions, names, {**held, **single}, recording)


def _search(
    search: Search,
    executor: Executor,
    study: Any,
    header: Mapping[str, Any],
    n_positions: int,
    splits: bool,
    callback: Callable[[dict[str, Any]], bool | None] | None,
    show_progressbar: bool | None,
) -> tuple[Strategy, Tuning]:
    """All trials that the study does not have yet, and the strategy that proposed them."""
    n_trials = header["n_trials"]
    with (
        Study.open(study, header) as journal,
        progressbar(n_trials, "Tune", show_progressbar) as bar,
    ):
        plan = make_strategy(
            header["strategy"],
            search.dimensions,
            full=Fidelity(header["n_trial_iterations"]),
            n_positions=n_positions,
            n_trials=n_trials,
            planned=journal.header["n_trials"],
            start=search.start,
            random_state=header["random_state"],
            splits=splits,
        )
        bar.update(len(journal.trials))

        def update(trial, best) -> bool | None:
            if best is not None:
                bar.set_postfix(best=f"{best.objective:.6g}", trial=best.number)
            bar.update()
            return callback(trial.to_dict()) if callback is not None else None

        return plan, tune(plan, executor, journal, callback=update)


def _work(
    signal, engine: Engine, n_trials: int, n_trial_iterations: int, n_iterations: int
) -> Work | None:
    """What will be done, at most; None where the engine needs all patterns in memory."""
    if engine.name != "numba":
        return None
    before = _PASSES + (_PASSES_OF_SCALED if signal.data.dtype.kind == "f" else 0)
    passes = before + n_trials * (n_trial_iterations + _PASSES_OF_TRIAL) + n_iterations
    return Work(passes, _COPIES, geometry=True)


def _search_space(
    scan: Scan, wanted: Wanted, engine: Engine, show_progressbar: bool | None
) -> Search:
    """What varies, in ranges that are measured where nobody gave any; the scan gets the notes."""
    experiment, dimensions, held = scan.experiment, wanted.dimensions, dict(wanted.held)
    given = {d.name for d in dimensions}
    known = given | set(held) | set(wanted.names)
    notes = []
    with progressbar(STEPS, "Geometry", show_progressbar) as bar:
        found = estimate(experiment, held=held, progress=bar.update)
    found = oriented(found, dimensions)
    notes += found.notes
    if "detector_flip" not in known:
        held["detector_flip"] = found.detector_flip or "none"
        if found.detector_flip is None:
            notes.append(
                "The handedness of the detector could not be told and was assumed; to have it "
                'found, add "detector_flip": ["none", "transpose"] to `parameters`.'
            )
    if wanted.names or not dimensions:
        more, said = default_space(experiment, held, found, wanted.names)
        dimensions = [*dimensions, *(d for d in more if d.name not in given)]
        notes += said
    for name in ("scan_rotation", "defocus"):
        if name in held or any(d.name == name for d in dimensions):
            continue
        stated = experiment.geometry.defocus if name == "defocus" else None
        value = getattr(found, name) if stated is None else stated
        if value is None:
            raise ParameterError(
                f"The {name} is neither known nor to be told from the data. Give a range for it in "
                "`parameters`, or its value in `fixed`."
            )
        held[name] = float(f"{value:.6g}")
        notes.append(f"{name} was held at {held[name]:g} {PARAMETERS[name].unit}.")
    dimensions, held = settle(dimensions, held)
    if not dimensions:
        raise ParameterError(
            "There is nothing to tune: everything is held. Give ranges in `parameters`, or call "
            "reconstruct_ptycho."
        )
    said = [*two_values_notes(wanted.dimensions), *degenerate_notes(dimensions)]
    notes = list(dict.fromkeys([*notes, *said]))
    dimensions, start, said = with_beliefs(dimensions, found)
    notes += said
    scan.notes += notes
    for note in notes:
        _logger.info(note)
    # what cannot work for any trial is said before the first
    some = complete_point(dimensions, {d.name: d.nearest(None) for d in dimensions})
    values = experiment.complete({**held, **some})
    experiment.check_memory(values)
    if hasattr(engine, "check"):
        engine.check(experiment, values)
    return Search(dimensions, held, start, found)


def _as_it_was(tuning: Tuning, scan: Scan, values: Mapping[str, Any], engine: Engine):
    """The best trial's reconstruction, made again where it is not at hand or of a part only."""
    reconstruction, fidelity = tuning.reconstruction, tuning.best.fidelity
    if reconstruction is None or fidelity.part < 1 or fidelity.reduction > 1:
        reconstruction = engine.fit(
            scan.experiment,
            values,
            n_iterations=fidelity.n_iterations,
            random_state=tuning.best.seed,
        ).reconstruction
    reconstruction.status = "interrupted"
    return reconstruction


def _record(plan: Strategy, search: Search, tuning: Tuning, score, header) -> dict[str, Any]:
    """What the result remembers of the tuning."""
    answers = answer(
        search.dimensions,
        tuning.trials,
        tuning.best,
        full=plan.full,
        optimum=plan.optimum(tuning.trials),
        random_state=header["random_state"],
    )
    for sentence in answers.warnings:
        _logger.warning(sentence)
    return {
        "objective": score.name,
        "engine": header["engine"],
        "strategy": header["strategy"],
        "parameters": [d.name for d in search.dimensions],
        "space": header["space"],
        "best_trial": tuning.best.number,
        "trials": [trial.to_dict() for trial in tuning.trials],
        "n_trial_iterations": header["n_trial_iterations"],
        "estimate": search.estimate.to_dict(),
        "answers": answers.to_dict(),
    }


def _in_words(recording: Mapping[str, Any]) -> dict[str, Any]:
    """What a user said of the recording, an array by its digest."""
    words = {}
    for name, value in recording.items():
        if value is None:
            continue
        array = np.asarray(
            getattr(value, "data", value) if hasattr(value, "axes_manager") else value
        )
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        words[name] = array.tolist() if array.size <= 2 else f"{array.shape} {digest}"
    return words
