"""One trial of a search: parameters, how much work was put in, and what came of it."""

from __future__ import annotations

import logging
import math
import numbers
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hs_autoptycho._quantities import shortened

if TYPE_CHECKING:
    from hs_autoptycho.ptycho.solver import Reconstruction
    from hs_autoptycho.tuning.objectives import Objective

_logger = logging.getLogger(__name__)

# what a trial's status can be; a pruned one was stopped early because others were far better
STATUSES = ("completed", "pruned", "diverged", "failed", "interrupted")
# those that a score calls otherwise
_STATUS_OF = {"stopped": "pruned"}
# the message of one that the user interrupted
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Fidelity:
    """How much work a trial is, and by which counts it is judged: what makes scores comparable.

    Attributes
    ----------
    n_iterations : int
        Passes over the positions that are used.
    part : float
        Part of the scan that is used, 0 to 1: a window in its centre.
    reduction : int
        The central 1/reduction of the detector is used in both directions; the object's pixels
        are as many times larger, and the window of the probe stays as wide as it is.
    split : int
        Which counts are fitted and which judge: 0 for most of them and the rest, as in the search;
        1 for one half and the other, 2 the other way round; and so on with other halves. Objectives
        that have no such choice leave it alone.
    """

    n_iterations: int
    part: float = 1.0
    reduction: int = 1
    split: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types."""
        return asdict(self)

    def adapted(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a whole scan as a part of it needs them: as many batches make a pass."""
        parameters = dict(parameters)
        if self.part < 1 and parameters.get("batch_size") is not None:
            parameters["batch_size"] = max(1, round(self.part * parameters["batch_size"]))
        return parameters

    def cost(self, full: Fidelity) -> float:
        """Work relative to that at another fidelity with the same parameters."""
        work = self.n_iterations * self.part / self.reduction**2
        return work / (full.n_iterations * full.part / full.reduction**2)


@dataclass
class Trial:
    """One set of parameters and what came of it.

    Attributes
    ----------
    number : int
        From 0, in the order in which they were proposed.
    parameters : dict
        The tuned parameters only.
    fidelity : Fidelity
    purpose : str
        Why it was proposed: ``"search"``, ``"promotion"``, ``"repeat"``, ``"simpler"``, ….
    seed : int
        Of the reconstruction.
    objective : float or None
        None where the trial failed.
    metrics : dict
        Everything else that was measured, name to number.
    blocks : list of float
        The objective by block of scan positions, where it is a mean over positions: the standard
        error of a difference between two trials comes from the differences by block.
    curve : list of (int, float)
        Iteration and objective, estimated while the trial ran.
    status : str
        One of `STATUSES`.
    duration : float
        In seconds.
    message : str
        Why it failed.
    attempts : int
        How often it was started: more than once where a worker was lost.
    """

    number: int
    parameters: dict[str, Any]
    fidelity: Fidelity
    purpose: str = "search"
    seed: int = 0
    objective: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    blocks: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    status: str = "completed"
    duration: float = 0.0
    message: str = ""
    attempts: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, as JSON has them."""
        return {**asdict(self), "curve": [list(point) for point in self.curve]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """What `to_dict` was made from."""
        values = dict(values)
        values["fidelity"] = Fidelity(**values["fidelity"])
        values["curve"] = [(int(i), float(v)) for i, v in values.get("curve", [])]
        return cls(**values)


def run_trial(
    objective: Objective,
    trial: Trial,
    held: Mapping[str, Any],
    limits: Sequence[tuple[int, float]] = (),
) -> Reconstruction | None:
    """Fill in what came of a trial; returns its reconstruction, if there is one.

    Parameters
    ----------
    objective
        Scores parameters.
    trial
        Its number, parameters, fidelity and seed say what to do; the rest is filled in.
    held
        Parameters that all trials share.
    limits
        (iteration, objective): where the trial is worse after so many passes, it is hopeless and
        stopped.
    """
    start = time.perf_counter()
    reconstruction = None
    try:
        score = objective(
            trial.fidelity.adapted({**held, **trial.parameters}),
            fidelity=trial.fidelity,
            random_state=trial.seed,
            limits=limits,
        )
        _check_score(score)
        reconstruction = score.reconstruction
        trial.metrics, trial.blocks, trial.curve = score.metrics, score.blocks, score.curve
        trial.status = _STATUS_OF.get(score.status, score.status)
        if trial.status in ("completed", "pruned") and math.isfinite(score.value):
            trial.objective = score.value
        elif trial.status in ("completed", "pruned"):
            trial.status, trial.message = "failed", f"the objective is {score.value}"
        elif trial.status == "diverged":
            trial.message = "the error of the reconstruction rose"
    except KeyboardInterrupt:
        trial.status, trial.message = "interrupted", INTERRUPTED
    except Exception as error:  # a trial that fails, whatever the reason, costs that trial only
        trial.status, trial.message = "failed", f"{type(error).__name__}: {error}"
        _logger.warning("Trial %d failed: %s", trial.number, trial.message)
    trial.duration = round(time.perf_counter() - start, 3)
    return reconstruction


def _check_score(score: Any) -> None:
    """Raise a TypeError for what is no score: it would not fit into the study."""
    try:
        values = [score.value, *score.metrics.values(), *score.blocks, *(v for _, v in score.curve)]
        status = _STATUS_OF.get(score.status, score.status)
    except Exception as error:
        raise TypeError(f"the objective returned no score, but {shortened(score)}") from error
    for value in values:
        if not isinstance(value, numbers.Real):
            raise TypeError(f"the objective returned {shortened(value)} where a number is needed")
    if status not in STATUSES:
        raise TypeError(f"the objective returned the status {shortened(status)}")
