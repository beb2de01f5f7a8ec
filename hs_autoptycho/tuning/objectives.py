"""What makes a reconstruction good: scores of a set of parameters, lower is better.

The default is counts that are held out. The others are there for data without counts and to compare
with: ``benchmarks/objectives.py`` shows where the optimum of each lies against the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.tuning.engines import Engine, make_engine
from hs_autoptycho.tuning.held_out import HeldOutCounts, HeldOutPixels, HeldOutPositions
from hs_autoptycho.tuning.ring_correlation import FourierRingCorrelation, ring_correlation
from hs_autoptycho.tuning.scores import (
    Objective,
    ObjectiveError,
    ScanParts,
    Score,
    metrics_of,
    status_of,
)
from hs_autoptycho.tuning.trial import Fidelity

__all__ = [
    "OBJECTIVES",
    "CallableObjective",
    "Contrast",
    "DataError",
    "FourierRingCorrelation",
    "HeldOutCounts",
    "HeldOutPixels",
    "HeldOutPositions",
    "Objective",
    "ObjectiveError",
    "Score",
    "make_objective",
    "ring_correlation",
]


class CallableObjective:
    """A user's own function of the reconstruction.

    Parameters
    ----------
    experiment
        All data are fitted.
    function
        Takes a :class:`~hs_autoptycho.ptycho.solver.Reconstruction`, returns a number to be
        minimised.
    engine
        Default: this package's.
    """

    def __init__(
        self,
        experiment: Experiment,
        function: Callable[[Reconstruction], float],
        *,
        engine: Engine | str = "numba",
    ):
        self.name = getattr(function, "__name__", "callable")
        self.engine = make_engine(engine)
        self._parts = ScanParts(experiment)
        self._function = function

    def __call__(
        self,
        parameters: Mapping[str, Any],
        *,
        fidelity: Fidelity,
        random_state: int,
        limits: Sequence[tuple[int, float]] = (),
    ) -> Score:
        start = time.perf_counter()
        reconstruction = self.engine.fit(
            *self._parts.at(fidelity.part),
            parameters,
            n_iterations=fidelity.n_iterations,
            random_state=random_state,
            reduction=fidelity.reduction,
        ).reconstruction
        metrics = {**metrics_of(reconstruction), "seconds_fit": time.perf_counter() - start}
        score = Score(math.inf, metrics, reconstruction, status_of(reconstruction))
        if score.status == "completed":
            score.value = float(self._function(reconstruction))
        return score


class DataError(CallableObjective):
    """The error of the fit itself: falls with every freedom that the model is given.

    Use it to compare values of parameters that are no freedom of the model, or to compare with
    other programs.
    """

    def __init__(
        self, experiment: Experiment, *, random_state: int = 0, engine: Engine | str = "numba"
    ):
        super().__init__(experiment, lambda result: float(result.errors[-1]), engine=engine)
        self.name = "data_error"


class Contrast(CallableObjective):
    """Less the standard deviation of the object's phase.

    It is reported and there to compare with, but never recommended: noise and wrong parameters make
    contrast too.
    """

    def __init__(
        self, experiment: Experiment, *, random_state: int = 0, engine: Engine | str = "numba"
    ):
        super().__init__(
            experiment, lambda result: -metrics_of(result)["phase_contrast"], engine=engine
        )
        self.name = "contrast"


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "held_out": HeldOutCounts,
    "held_out_positions": HeldOutPositions,
    "held_out_pixels": HeldOutPixels,
    "data_error": DataError,
    "frc": FourierRingCorrelation,
    "contrast": Contrast,
}


def check_objective(objective: Any) -> None:
    """Raise an ObjectiveError for what is neither a name nor a function."""
    if callable(objective) or (isinstance(objective, str) and objective in OBJECTIVES):
        return
    raise ObjectiveError(
        f"objective={objective!r} is not known: choose one of {list(OBJECTIVES)}, or give a "
        "function that takes a reconstruction and returns a number."
    )


def make_objective(
    objective: str | Callable[[Reconstruction], float],
    experiment: Experiment,
    *,
    random_state: int = 0,
    engine: Engine | str = "numba",
) -> Objective:
    """The objective of a name or function.

    Parameters
    ----------
    objective
        One of `OBJECTIVES`, or a function of a reconstruction.
    experiment
        All data.
    random_state
        Seed of how the data are split; that of a reconstruction is given with each call.
    engine
        By name, or what implements :class:`.engines.Engine`.

    Raises
    ------
    ObjectiveError
        If the name is not known, or the objective cannot be used on these data.
    """
    engine = make_engine(engine)
    check_objective(objective)
    if callable(objective):
        return CallableObjective(experiment, objective, engine=engine)
    return OBJECTIVES[objective](experiment, random_state=random_state, engine=engine)
