"""Objectives that reconstruct nothing, in a module that the workers of a cluster can import."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba


@dataclass
class StandInScore:
    """What :class:`hs_autoptycho.tuning.objectives.Score` has."""

    value: float
    metrics: dict[str, float]
    reconstruction: Any = None
    status: str = "completed"
    blocks: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Sleeping:
    """A parabola of `x` and the held `offset`, after a while; writes down every start.

    Attributes
    ----------
    log : str
        File with a line for each start: x and the process. None: nothing is written.
    seconds : float
    poison : float
        This `x` ends its process, always.
    interrupt : float
        This `x` is interrupted, as by Ctrl-C.
    """

    log: str | None = None
    seconds: float = 0.05
    poison: float | None = None
    interrupt: float | None = None
    name: str = "stand-in"

    def __call__(self, parameters, *, fidelity, random_state, limits=()):
        x = parameters["x"]
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{x} {os.getpid()}\n")
        time.sleep(self.seconds)
        if x == self.poison:
            os._exit(1)
        if x == self.interrupt:
            raise KeyboardInterrupt
        value = (x - 1 / 3) ** 2 + parameters["offset"] + 1e-3 * random_state
        metrics = {
            "process": os.getpid(),
            "threads": numba.get_num_threads(),
            "limits": len(limits),
            "passes": fidelity.n_iterations,
        }
        return StandInScore(value, metrics, reconstruction=f"of {x}", curve=[(1, 2 * value)])


@dataclass
class Fitting:
    """The error of a real fit of an experiment."""

    experiment: Any
    name: str = "fitting"

    def __call__(self, parameters, *, fidelity, random_state, limits=()):
        fit = self.experiment.fit(
            parameters, n_iterations=fidelity.n_iterations, random_state=random_state
        )
        reconstruction = fit[0] if isinstance(fit, tuple) else fit
        return StandInScore(float(reconstruction.errors[-1]), {}, reconstruction)
