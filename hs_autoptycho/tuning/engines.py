"""What reconstructs for the tuner: one small interface, and this package's own engine behind it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.solver import FLOOR, Reconstruction, held_out_deviance, predictions
from hs_autoptycho.ptycho.state import State
from hs_autoptycho.tuning.noise_floor import expected_deviance

# patterns that are brought into the order of the kernels at a time: the counts to judge by are not
# worth a second copy
_BLOCK = 256

Monitor = Callable[[int, "Fit"], bool | None]


class Fit(Protocol):
    """A model that was fitted, or is being so.

    Attributes
    ----------
    reconstruction : Reconstruction or None
        None while the fit runs.
    """

    reconstruction: Reconstruction | None

    def deviance(self, test: Experiment, positions: np.ndarray | None = None) -> np.ndarray:
        """Poisson deviance a pixel of counts, for every position.

        The prediction is that for `test.exposure`, plus `FLOOR` of its mean.

        Parameters
        ----------
        test
            Of the same scan and detector. The pixels that its mask leaves are judged; with a
            reduced detector those of its central part.
        positions
            Indices. Default: all.

        Returns
        -------
        float64 array (positions,)
        """

    def expected_deviance(
        self, test: Experiment, positions: np.ndarray | None = None
    ) -> np.ndarray | None:
        """What :meth:`deviance` would be on average if the model were the truth.

        None where the engine cannot tell.
        """


class Engine(Protocol):
    """Fits models to experiments."""

    name: str

    def fit(
        self,
        experiment: Experiment,
        parameters: Mapping[str, Any],
        *,
        n_iterations: int,
        random_state: int,
        positions: np.ndarray | None = None,
        reduction: int = 1,
        monitor: Monitor | None = None,
    ) -> Fit:
        """Reconstruct.

        Parameters
        ----------
        experiment
            Counts and geometry.
        parameters
            Of :data:`.parameters.PARAMETERS`; those that are not given have their defaults.
        n_iterations
            Passes over the positions.
        random_state
            Seed of whatever is random.
        positions
            Indices of the positions that are used. Default: all.
        reduction
            The central 1/reduction of the detector is used in both directions.
        monitor
            Called after every pass with its number (from 1) and the fit. True stops the run, whose
            status is then ``"stopped"``.
        """


class NumbaEngine:
    """This package's engine."""

    name = "numba"

    def fit(
        self,
        experiment: Experiment,
        parameters: Mapping[str, Any],
        *,
        n_iterations: int,
        random_state: int,
        positions: np.ndarray | None = None,
        reduction: int = 1,
        monitor: Monitor | None = None,
    ) -> NumbaFit:
        """Reconstruct; see :class:`Engine`."""
        flip = experiment.complete(parameters)["detector_flip"]
        watch = None
        if monitor is not None:

            def watch(iteration: int, state: State) -> bool | None:
                return monitor(iteration, NumbaFit(state, experiment, flip))

        reconstruction, state = experiment.fit(
            parameters,
            n_iterations=n_iterations,
            random_state=random_state,
            subset=positions,
            reduction=reduction,
            monitor=watch,
        )
        return NumbaFit(state, experiment, flip, reconstruction)


@dataclass
class NumbaFit:
    """A fit of :class:`NumbaEngine`.

    Attributes
    ----------
    state : State
        Of the solver.
    experiment : Experiment
        That was fitted.
    flip : str
        Of the detector.
    reconstruction : Reconstruction or None
        None while it runs.
    """

    state: State
    experiment: Experiment
    flip: str
    reconstruction: Reconstruction | None = None

    def deviance(self, test: Experiment, positions: np.ndarray | None = None) -> np.ndarray:
        """Poisson deviance a pixel; see :class:`Fit`."""
        positions = _all_of(test) if positions is None else np.asarray(positions)
        mean, mask, out = self._mean(test), self._mask(test), np.empty(len(positions))
        for places in test.pieces(positions, _BLOCK):
            some = positions[places]
            patterns = test.cropped_patterns(self.flip, self.state.shape, some)
            out[places] = held_out_deviance(
                self.state, patterns, positions=some, mean=mean, mask=mask
            )
        return out

    def expected_deviance(
        self, test: Experiment, positions: np.ndarray | None = None
    ) -> np.ndarray:
        """What the deviance is on average of counts that the model predicts; see :class:`Fit`."""
        positions = _all_of(test) if positions is None else np.asarray(positions)
        mean, mask, out = self._mean(test), self._mask(test), np.empty(len(positions))
        for places, model in predictions(self.state, positions):
            out[places] = expected_deviance(model, mean, FLOOR * mean, mask)
        return out

    def _mean(self, test: Experiment) -> float:
        """Counts a pixel of `test` that the model's intensity 1 stands for."""
        return float(test.exposure / self.experiment.exposure / self.state.detector.scale)

    def _mask(self, test: Experiment) -> np.ndarray:
        used = np.ones(test.geometry.detector_shape) if test.mask is None else test.mask
        seen = test.on_detector(used, self.flip, self.state.shape)
        # one pattern knows the order of all
        one = test.cropped_patterns(self.flip, self.state.shape, np.zeros(1, int))
        return one.order(seen).astype(np.float32)


# name, module and class; imported where they are used
ENGINES = {
    "numba": ("hs_autoptycho.tuning.engines", "NumbaEngine"),
    "py4dstem": ("hs_autoptycho.tuning.py4dstem_engine", "Py4DSTEMEngine"),
}


def make_engine(engine: str | Engine) -> Engine:
    """The engine of a name; an engine itself is what it is.

    Raises
    ------
    ValueError
        If the name is not known.
    """
    if isinstance(engine, str) and engine in ENGINES:
        module, name = ENGINES[engine]
        return getattr(importlib.import_module(module), name)()
    if not isinstance(engine, str) and callable(getattr(engine, "fit", None)):
        return engine
    raise ValueError(
        f"engine={engine!r} is not known: choose one of {list(ENGINES)}, or give an object with "
        "the methods of hs_autoptycho.tuning.engines.Engine."
    )


def _all_of(experiment: Experiment) -> np.ndarray:
    return np.arange(len(experiment.counts))
