"""What an objective is and what it returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.tuning.trial import Fidelity


class ObjectiveError(ValueError):
    """An objective cannot be used on these data, or is not known."""


@dataclass
class Score:
    """What one trial achieved.

    Attributes
    ----------
    value : float
        To be minimised; not finite where the reconstruction failed. Of a stopped trial the last
        estimate.
    metrics : dict
        Everything that was measured, name to number.
    reconstruction : Reconstruction
    status : str
        ``"completed"``, ``"stopped"`` (hopeless by the given limits), ``"diverged"`` or
        ``"interrupted"``.
    blocks : list of float
        Means of the objective over tiles of the scan, where it is a mean over positions: the same
        tiles for all trials of a fidelity.
    curve : list of (int, float)
        Passes done, and the objective of a few positions then.
    """

    value: float
    metrics: dict[str, float]
    reconstruction: Reconstruction
    status: str = "completed"
    blocks: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)


class Objective(Protocol):
    """Scores sets of parameters on one experiment.

    Attributes
    ----------
    name : str
    splits : bool
        Whether halves of the counts can judge each other: `Fidelity.split`.
    """

    name: str
    splits: bool

    def __call__(
        self,
        parameters: Mapping[str, Any],
        *,
        fidelity: Fidelity,
        random_state: int,
        limits: Sequence[tuple[int, float]] = (),
    ) -> Score:
        """Reconstruct with `parameters` and score the result.

        Parameters
        ----------
        parameters
            Of :data:`.parameters.PARAMETERS`.
        fidelity
            Passes, part of the scan, reduction of the detector, and by what it is judged.
        random_state
            Seed of the reconstruction.
        limits
            (iteration, value): a trial that is worse after so many passes is stopped. Objectives
            without a `curve` leave them alone.
        """


class ScanParts:
    """Experiments on a part of the scan; the last part is kept.

    Parameters
    ----------
    *experiments
        Of the same scan.
    """

    def __init__(self, *experiments: Experiment):
        self._experiments = experiments
        self._kept: tuple[float, tuple[Experiment, ...]] = (1.0, experiments)

    def __getstate__(self):
        return {**self.__dict__, "_kept": (1.0, self._experiments)}

    def at(self, part: float) -> tuple[Experiment, ...]:
        """The experiments on a part of the scan."""
        kept = self._kept  # another thread may change it
        if kept[0] != part:
            kept = self._kept = part, tuple(e.part_of_scan(part) for e in self._experiments)
        return kept[1]


def status_of(reconstruction: Reconstruction) -> str:
    """Of a score: a run that its own early stopping ended is complete."""
    status = reconstruction.status
    return status if status in ("diverged", "interrupted") else "completed"


def metrics_of(reconstruction: Reconstruction) -> dict[str, float]:
    """What every reconstruction tells."""
    errors = reconstruction.errors
    metrics: dict[str, float] = {"n_iterations": len(errors)}
    if len(errors) and math.isfinite(errors[-1]):
        metrics["data_error"] = float(errors[-1])
    # of all slices together: alone each of n shows an nth of the specimen
    phase = np.angle(reconstruction.object).sum(0)
    if np.all(np.isfinite(phase)):
        metrics["phase_contrast"] = float(phase.std())
    return metrics
