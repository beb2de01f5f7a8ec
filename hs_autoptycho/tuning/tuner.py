"""The tuning loop: ask for trials, run them, remember what came of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.tuning.executor import Executor
from hs_autoptycho.tuning.schedule import Strategy
from hs_autoptycho.tuning.trial import INTERRUPTED, Trial

_logger = logging.getLogger(__name__)


class TuningError(RuntimeError):
    """No trial succeeded."""


class Journal(Protocol):
    """What remembers the trials that have ended; see :class:`hs_autoptycho.tuning.study.Study`."""

    trials: Sequence[Trial]
    path: Path | None

    def append(self, trial: Trial) -> None:
        """Remember one more."""


@dataclass
class Tuning:
    """What :func:`tune` returns.

    Attributes
    ----------
    trials : list of Trial
        In the order of their numbers.
    best : Trial
    reconstruction : Reconstruction or None
        Of the best trial, as it was scored; None where another process has it, or an earlier one.
    interrupted : bool
    """

    trials: list[Trial]
    best: Trial
    reconstruction: Reconstruction | None
    interrupted: bool


def tune(
    strategy: Strategy,
    executor: Executor,
    study: Journal,
    *,
    callback: Callable[[Trial, Trial | None], Any] | None = None,
) -> Tuning:
    """Search for the parameters with the lowest objective.

    A trial that fails or diverges is recorded, told to the strategy as a bad one, and survived.
    Ctrl-C ends the search and keeps what it has: all trials that have ended by then. The strategy
    decides from the trials that have ended and those under way alone, so that a search that is
    continued goes on as if it had never been stopped.

    Parameters
    ----------
    strategy
        Proposes trials.
    executor
        Runs them.
    study
        Remembers them; may hold some from the start.
    callback
        Called after every trial with it and the best so far. The search ends if it returns True.

    Raises
    ------
    TuningError
        If all trials failed, or none could be run; the message has the last reason.
    KeyboardInterrupt
        If interrupted by the user before the first trial was complete.
    """
    pending: dict[int, Trial] = {}
    kept: dict[int, Reconstruction] = {}
    ended: list[tuple[Trial, Reconstruction | None]] = []
    interrupted, stopped, reason = False, False, ""

    def remember() -> None:
        """Write down what has ended, once, however often Ctrl-C comes between."""
        for trial, reconstruction in ended:
            pending.pop(trial.number, None)
            known = {t.number for t in study.trials}
            if trial.status != "interrupted" and trial.number not in known:
                study.append(trial)
            if reconstruction is not None:
                kept[trial.number] = reconstruction

    try:
        while not interrupted and not stopped:
            while len(pending) < executor.capacity:
                trial = strategy.propose(study.trials, list(pending.values()))
                if trial is None:
                    break
                pending[trial.number] = trial
                executor.submit(trial, strategy.limits(trial, study.trials))
            if not pending:
                break
            ended = executor.wait()
            remember()
            for trial, _ in ended:
                if trial.status == "interrupted":
                    interrupted, reason = True, trial.message
                    continue
                best = strategy.best(study.trials)
                kept = {n: r for n, r in kept.items() if best is not None and n == best.number}
                # it hears of those too that ended together with the one that made it say stop
                stopped = (callback is not None and bool(callback(trial, best))) or stopped
    except KeyboardInterrupt:
        interrupted = True
    finally:
        ended = [*ended, *executor.close()]
    remember()  # what ended before the search could look
    if interrupted:
        _logger.warning("The search has ended early: %s. %s", reason or INTERRUPTED, _kept(study))
    return _result(strategy, study, kept, interrupted, reason)


def _kept(study: Journal) -> str:
    """What there is, and how to go on."""
    path = getattr(study, "path", None)
    if path is None:
        return "It has no file: another call begins anew."
    return f"{len(study.trials)} trials are kept in {path}: the same call goes on after them."


def _result(
    strategy: Strategy, study: Journal, kept: dict, interrupted: bool, reason: str
) -> Tuning:
    trials = sorted(study.trials, key=lambda trial: trial.number)
    best = strategy.best(trials)
    if best is None:
        if interrupted and reason in ("", INTERRUPTED):
            raise KeyboardInterrupt
        if interrupted:
            raise TuningError(f"No trial could be run: {reason}. {_kept(study)}")
        reasons = [t.message for t in trials if t.message] or ["all reconstructions diverged"]
        raise TuningError(
            f"None of {len(trials)} trials gave a reconstruction. The last reason: {reasons[-1]}"
        )
    return Tuning(trials, best, kept.get(best.number), interrupted)
