"""One trial of a design: simulate an experiment, reconstruct it, score it against the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from hs_autoptycho.design.instrument import SETTINGS, DesignError
from hs_autoptycho.design.scores import all_scores, registered
from hs_autoptycho.design.simulation import Simulation
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.fft import from_planes
from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.ptycho.stages import make_settings
from hs_autoptycho.tuning.scores import Score, metrics_of, status_of
from hs_autoptycho.tuning.trial import Fidelity

# Batches a pass for which a number of passes is meant. A scan of other numbers gets as many
# updates: with as many passes, scans of few positions would be judged by how far they have come.
_BATCHES = 24
# largest shift in Å that registration takes out; half a lattice spacing finds no other column
_REACH = 1.0
_FEWEST_PIXELS = 24  # of the compared area, along each axis
_MOST_MODES = 4  # of the probe, in a reconstruction


class Outcome(NamedTuple):
    """Of one experiment."""

    reconstruction: Reconstruction
    phase: np.ndarray  # float64 (Y, X), on the grid of the truth
    scores: dict[str, float]
    later: dict[str, float]  # scores after twice the passes, where they were asked for
    seconds: dict[str, float]


@dataclass(frozen=True)
class SimulatedExperiment:
    """Scores settings of the microscope; what :func:`hs_autoptycho.tuning.tuner.tune` calls.

    Attributes
    ----------
    simulation : Simulation
    score : str
        One of :data:`.scores.SCORES`; the objective is 1 less the score.
    reconstruction : dict
        Parameters of the engine beside those that the settings and the instrument imply.
    margin : float
        What is left out of the field of view along its edges, in Å.

    Raises
    ------
    DesignError
        If too little of the field of view is left.
    """

    simulation: Simulation
    score: str = "correlation"
    reconstruction: Mapping[str, Any] = field(default_factory=dict)
    margin: float = 1.0

    def __post_init__(self) -> None:
        if min(self.image_shape) < _FEWEST_PIXELS:
            y, x = self.simulation.instrument.field_of_view
            raise DesignError(
                f"of the field of view of {y:g} × {x:g} Å only {self.image_shape[0]} × "
                f"{self.image_shape[1]} pixels are {self.margin:g} Å or more from the edges, and "
                f"{_FEWEST_PIXELS} × {_FEWEST_PIXELS} are needed to compare with the truth: take a "
                "larger field_of_view, or smaller steps at the most"
            )

    def __getstate__(self):
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state):
        self.__dict__.update(state)

    @property
    def name(self) -> str:
        """Of the objective."""
        return f"1 - {self.score}"

    @property
    def image_shape(self) -> tuple[int, int]:
        """(rows, columns) of what is compared."""
        instrument = self.simulation.instrument
        size = (np.array(instrument.field_of_view) - 2 * self.margin) / instrument.object_pixel
        return tuple(int(n) for n in np.maximum(np.floor(size + 1e-6), 0))

    @property
    def image_origin(self) -> np.ndarray:
        """(row, column) in Å of the first pixel of what is compared, in the specimen's frame."""
        pixel = np.array(self.simulation.instrument.object_pixel)
        return self.simulation.specimen.middle - (np.array(self.image_shape) - 1) / 2 * pixel

    @cached_property
    def truth(self) -> np.ndarray:
        """The true phase in rad of what is compared, float64 (Y, X)."""
        pixel = self.simulation.instrument.object_pixel
        with _one_thread():
            return self.simulation.specimen.sum_of_slices.on_grid(
                self.image_shape, pixel, tuple(self.image_origin)
            )[0]

    def __call__(
        self,
        parameters: Mapping[str, Any],
        *,
        fidelity: Fidelity,
        random_state: int,
        limits: Sequence[tuple[int, float]] = (),
    ) -> Score:
        """Simulate, reconstruct, score; `parameters` are the settings and the ``dose``."""
        outcome = self.run(
            parameters,
            parameters["dose"],
            n_iterations=fidelity.n_iterations,
            random_state=random_state,
        )
        reconstruction = outcome.reconstruction
        status = status_of(reconstruction)
        metrics = {**metrics_of(reconstruction), **outcome.scores, **outcome.seconds}
        metrics["n_positions"] = len(reconstruction.placement.corners)
        metrics["electrons"] = float(parameters["dose"] * parameters["scan_step"] ** 2)
        value = 1 - outcome.scores.get(self.score, math.nan)
        return Score(value if status == "completed" else math.inf, metrics, None, status)

    def run(
        self,
        settings: Mapping[str, float],
        dose: float,
        *,
        n_iterations: int,
        random_state: int,
        twice: bool = False,
    ) -> Outcome:
        """One experiment.

        Parameters
        ----------
        settings
            ``scan_step`` (Å), ``defocus`` (Å) and ``convergence_angle`` (mrad); more is ignored.
        dose
            In e/Å².
        n_iterations
            Passes of a scan of 24 batches; others make as many updates.
        random_state
            Seed of noise, jitter and reconstruction.
        twice
            Whether to go on for as many passes again, and to score the object then as well.
        """
        settings = {name: float(settings[name]) for name in SETTINGS}
        with _one_thread():
            return self._run(settings, dose, n_iterations, random_state, twice)

    def _run(self, settings, dose, n_iterations, random_state, twice) -> Outcome:
        start = time.perf_counter()
        experiment = self.simulation.experiment(settings, dose, random_state)
        simulated = time.perf_counter()
        parameters = self.parameters(settings)
        passes = n_passes(experiment, parameters, n_iterations)
        first = self.simulation.positions(settings["scan_step"])[0]
        images = []

        def monitor(iteration, state):
            if iteration == passes:
                planes = state.object.reshape(len(state.object), -1)
                object_ = from_planes(planes, state.object.shape[2:])
                images.append(self._image(object_, state.placement, first))

        reconstruction, _ = experiment.fit(
            parameters,
            n_iterations=2 * passes if twice else passes,
            random_state=random_state,
            monitor=monitor if twice else None,
        )
        fitted = time.perf_counter()
        if status_of(reconstruction) == "completed":
            images.append(self._image(reconstruction.object, reconstruction.placement, first))
        pixel = self.simulation.instrument.object_pixel
        scores = [all_scores(i, self.truth, pixel) if np.isfinite(i).all() else {} for i in images]
        phase = images[0] if images else np.full(self.truth.shape, np.nan)
        seconds = {
            "seconds_simulation": simulated - start,
            "seconds_fit": fitted - simulated,
            "seconds_score": time.perf_counter() - fitted,
        }
        now, later = (*scores, {}, {})[:2]
        return Outcome(reconstruction, phase, now, later, seconds)

    def check(self, settings: Mapping[str, float]) -> None:
        """Raise a ParameterError if the engine cannot do what it is told; nothing is computed."""
        geometry = self.simulation.geometry(settings)
        shape = (math.prod(geometry.scan_shape), *geometry.detector_shape)
        experiment = Experiment(np.broadcast_to(np.uint8(0), shape), geometry)
        make_settings(experiment.complete(self.parameters(settings)))

    def parameters(self, settings: Mapping[str, float]) -> dict[str, Any]:
        """What the engine is told: what is known of a real experiment."""
        instrument = self.simulation.instrument
        known: dict[str, Any] = {
            "convergence_angle": settings["convergence_angle"],
            **instrument.aberrations,
        }
        known["object_type"] = "phase"  # specimens are given as phase shifts
        if instrument.source_size > 0 or instrument.focal_spread > 0:
            known["source_size"] = instrument.source_size
            known["focal_spread"] = instrument.focal_spread
            known["n_probe_modes"] = min(_MOST_MODES, len(self.simulation.probe(settings)))
        if instrument.count_limit is not None:
            known["saturation"] = instrument.count_limit
        known.update(self.reconstruction)
        # the middle of the engine's slices is where that of the specimen is; its first one is less
        # deep, by the distances of :meth:`.Propagation.even`
        n, thickness = known.get("n_slices", 1), known.get("thickness") or 0.0
        below = self.simulation.specimen.thickness / 2 - (n - 1) / 2 * thickness / n
        return {"defocus": settings["defocus"] - below, **known}

    def _image(self, object_: np.ndarray, placement, first: np.ndarray) -> np.ndarray:
        """Phase of an object (slices, Y, X) in register with the truth."""
        pixel = np.array(self.simulation.instrument.object_pixel)
        border = np.ceil(_REACH / pixel).astype(int)
        # the fraction of a pixel that is left is part of the shift which registration finds
        corner = (self.image_origin - first) / pixel + placement.origin
        corner = np.rint(corner).astype(int) - border
        end = corner + self.image_shape + 2 * border
        if np.any(corner < 0) or np.any(end > object_.shape[1:]):
            raise DesignError("the compared area is not within the reconstruction: larger margins")
        return registered(object_[:, corner[0] : end[0], corner[1] : end[1]], self.truth)


def _one_thread():
    """Of the matrix products, whose sums round differently with more."""
    return threadpool_limits(1, user_api="blas")


def n_passes(experiment: Experiment, parameters: Mapping[str, Any], n_iterations: int) -> int:
    """Passes that make as many updates as `n_iterations` do with 24 batches a pass."""
    values = experiment.complete(parameters)
    batches = max(1, round(len(experiment.counts) / values["batch_size"]))
    return max(1, math.ceil(n_iterations * _BATCHES / batches))
