"""The tuning loop: ask for trials, run them, remember what came of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    Ctrl-C ends the search and keeps what it has. The strategy decides from the trials that have
    ended and those under way alone, so that a search that is continued goes on as if it had never
    been stopped.

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
    interrupted, reason = False, ""
    try:
        while not interrupted:
            while len(pending) < executor.capacity:
                trial = strategy.propose(study.trials, list(pending.values()))
                if trial is None:
                    break
                pending[trial.number] = trial
                executor.submit(trial, strategy.limits(trial, study.trials))
            if not pending:
                break
            ended = executor.wait()
            for trial, _ in ended:
                del pending[trial.number]
                if trial.status != "interrupted":
                    study.append(trial)
            for trial, reconstruction in ended:
                if trial.status == "interrupted":
                    interrupted, reason = True, trial.message
                    continue
                best = strategy.best(study.trials)
                if reconstruction is not None:
                    kept[trial.number] = reconstruction
                kept = {n: r for n, r in kept.items() if best is not None and n == best.number}
                if callback is not None and callback(trial, best):
                    return _result(strategy, study, kept, interrupted, reason)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        executor.close()
    return _result(strategy, study, kept, interrupted, reason)


def _result(
    strategy: Strategy, study: Journal, kept: dict, interrupted: bool, reason: str
) -> Tuning:
    trials = sorted(study.trials, key=lambda trial: trial.number)
    best = strategy.best(trials)
    if best is None:
        if interrupted and reason in ("", INTERRUPTED):
            raise KeyboardInterrupt
        if interrupted:
            raise TuningError(f"No trial could be run: {reason}")
        reasons = [t.message for t in trials if t.message] or ["all reconstructions diverged"]
        raise TuningError(
            f"None of {len(trials)} trials gave a reconstruction. The last reason: {reasons[-1]}"
        )
    return Tuning(trials, best, kept.get(best.number), interrupted)
