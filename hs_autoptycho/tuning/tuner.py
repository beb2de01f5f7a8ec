"""The tuning loop: ask for parameters, reconstruct, score, tell, remember."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.tuning.objectives import Objective
from hs_autoptycho.tuning.optimizer import Optimizer

_logger = logging.getLogger(__name__)


class TuningError(RuntimeError):
    """No trial succeeded."""


@dataclass
class Trial:
    """One set of parameters and what came of it.

    Attributes
    ----------
    number : int
        From 0.
    parameters : dict
        The tuned parameters only.
    objective : float or None
        None where the trial failed.
    metrics : dict
    status : str
        ``"completed"``, ``"diverged"``, ``"failed"`` or ``"interrupted"``.
    seed : int
    duration : float
        In seconds.
    message : str
        Why it failed.
    """

    number: int
    parameters: dict[str, Any]
    objective: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    status: str = "completed"
    seed: int = 0
    duration: float = 0.0
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types."""
        return asdict(self)


@dataclass
class Tuning:
    """What :func:`tune` returns.

    Attributes
    ----------
    trials : list of Trial
        In the order in which they ran.
    best : Trial
    reconstruction : Reconstruction
        Of the best trial, as it was scored.
    interrupted : bool
    """

    trials: list[Trial]
    best: Trial
    reconstruction: Reconstruction
    interrupted: bool


def tune(
    objective: Objective,
    optimizer: Optimizer,
    *,
    n_trials: int,
    n_iterations: int,
    held: Mapping[str, Any] | None = None,
    random_state: int = 0,
    callback: Callable[[Trial, Trial | None], bool | None] | None = None,
) -> Tuning:
    """Search for the parameters with the lowest objective.

    A trial that fails or diverges is recorded, told to the optimizer as a bad one, and survived.
    Ctrl-C ends the search and keeps what it has.

    Parameters
    ----------
    objective
        Scores parameters.
    optimizer
        Proposes them.
    n_trials
        Number of trials; fewer are run where every point of the space has been tried.
    n_iterations
        Passes of each trial's reconstruction.
    held
        Parameters that all trials share.
    random_state
        Seed of each reconstruction: the same for all, so that scores can be compared.
    callback
        Called after every trial with it and the best so far. The search ends if it returns True.

    Raises
    ------
    TuningError
        If all trials failed; the message has the last reason.
    KeyboardInterrupt
        If interrupted before the first trial was complete.
    """
    trials: list[Trial] = []
    best: Trial | None = None
    reconstruction: Reconstruction | None = None
    interrupted = False
    for number in range(n_trials):
        try:
            parameters = optimizer.ask()
            if parameters is None:
                _logger.info("Every point of the space has been tried after %d trials.", number)
                break
            trial = Trial(number, dict(parameters), seed=random_state)
            result = _run(trial, objective, {**(held or {}), **parameters}, n_iterations)
            trials.append(trial)
            if trial.status == "interrupted":
                interrupted = True
                break
            if trial.objective is not None and (best is None or trial.objective < best.objective):
                best, reconstruction = trial, result
            optimizer.tell(parameters, trial.objective)
            if callback is not None and callback(trial, best):
                break
        except KeyboardInterrupt:
            interrupted = True
            break
    if best is None:
        if interrupted:
            raise KeyboardInterrupt
        reasons = [t.message for t in trials if t.message] or ["all reconstructions diverged"]
        raise TuningError(
            f"None of {len(trials)} trials gave a reconstruction. The last reason: {reasons[-1]}"
        )
    return Tuning(trials, best, reconstruction, interrupted)


def _run(
    trial: Trial, objective: Objective, parameters: dict[str, Any], n_iterations: int
) -> Reconstruction | None:
    """Fill in a trial; returns its reconstruction, if there is one."""
    start = time.perf_counter()
    reconstruction = None
    try:
        score = objective(parameters, n_iterations=n_iterations, random_state=trial.seed)
        reconstruction = score.reconstruction
        trial.metrics, trial.status = score.metrics, reconstruction.status
        if trial.status == "completed" and np.isfinite(score.value):
            trial.objective = score.value
        elif trial.status == "completed":
            trial.status, trial.message = "failed", f"the objective is {score.value}"
        elif trial.status == "diverged":
            trial.message = f"the error rose in iteration {len(reconstruction.errors)}"
    except KeyboardInterrupt:
        trial.status, trial.message = "interrupted", "interrupted"
    except Exception as error:  # a trial that fails, whatever the reason, costs that trial only
        trial.status, trial.message = "failed", f"{type(error).__name__}: {error}"
        _logger.warning("Trial %d failed: %s", trial.number, trial.message)
    trial.duration = round(time.perf_counter() - start, 3)
    return reconstruction
