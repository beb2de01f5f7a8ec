"""What makes a reconstruction good: scores of a set of parameters, lower is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.fft

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.patterns import split_counts
from hs_autoptycho.ptycho.solver import Reconstruction, held_out_deviance

# Part of the counts that is fitted; the rest judges the fit.
FITTED = 0.9


class ObjectiveError(ValueError):
    """An objective cannot be used on these data, or is not known."""


@dataclass
class Score:
    """What one trial achieved.

    Attributes
    ----------
    value : float
        To be minimised; not finite where the reconstruction failed.
    metrics : dict
        Everything that was measured, name to number.
    reconstruction : Reconstruction
    """

    value: float
    metrics: dict[str, float]
    reconstruction: Reconstruction


class Objective(Protocol):
    """Scores sets of parameters on one experiment."""

    name: str

    def __call__(
        self, parameters: Mapping[str, Any], *, n_iterations: int, random_state: int
    ) -> Score:
        """Reconstruct with `parameters` and score the result."""


class HeldOutCounts:
    """Poisson deviance of counts that the reconstruction has not seen.

    Each count is held out with a probability of 10 %, once for all trials. All positions stay, so
    overlap and position correction are untouched, and the score is taken on the detector's own
    pixels whatever the parameters. It does not fall with overfitting, as the training error does.

    Parameters
    ----------
    experiment
        With whole counts.
    random_state
        Seed of the split.
    """

    name = "held_out"

    def __init__(self, experiment: Experiment, *, random_state: int = 0):
        if not experiment.counted:
            raise ObjectiveError(
                "objective='held_out' splits counts, but the data are "
                f"{experiment.counts.dtype} and not whole numbers. Convert them to counts "
                "(divide by the gain and round, `s.change_dtype('uint16')`), or choose "
                "objective='frc' or 'data_error'."
            )
        fitted, held_out = split_counts(experiment.counts, FITTED, random_state)
        self._fitted = experiment.with_counts(fitted)
        self._held_out = experiment.with_counts(held_out)

    def __call__(
        self, parameters: Mapping[str, Any], *, n_iterations: int, random_state: int
    ) -> Score:
        reconstruction, state = self._fitted.fit(
            parameters, n_iterations=n_iterations, random_state=random_state
        )
        metrics = _metrics(reconstruction)
        value = math.inf
        if reconstruction.status != "diverged":
            flip = self._fitted.complete(parameters)["detector_flip"]
            deviance = held_out_deviance(state, self._held_out.patterns(flip))
            value = float(deviance.mean())
            metrics["held_out"] = value
            metrics["held_out_standard_error"] = float(deviance.std() / np.sqrt(len(deviance)))
        return Score(value, metrics, reconstruction)


class DataError:
    """The error of the fit itself: falls with every freedom that the model is given.

    Use it to compare values of parameters that are no freedom of the model, or to compare with
    other programs.
    """

    name = "data_error"

    def __init__(self, experiment: Experiment, *, random_state: int = 0):
        self._experiment = experiment

    def __call__(
        self, parameters: Mapping[str, Any], *, n_iterations: int, random_state: int
    ) -> Score:
        reconstruction, _ = self._experiment.fit(
            parameters, n_iterations=n_iterations, random_state=random_state
        )
        metrics = _metrics(reconstruction)
        failed = reconstruction.status == "diverged"
        return Score(math.inf if failed else metrics["data_error"], metrics, reconstruction)


class FourierRingCorrelation:
    """One less the mean Fourier ring correlation of two reconstructions from half the data each.

    Counts are split in halves; data that are no counts are split into the two colours of a
    checkerboard of positions. Both halves can share an artefact, which this score then rewards.

    References
    ----------
    M. van Heel, M. Schatz, J. Struct. Biol. 151, 250 (2005).
    """

    name = "frc"

    def __init__(self, experiment: Experiment, *, random_state: int = 0):
        self._geometry = experiment.geometry
        if experiment.counted:
            halves = split_counts(experiment.counts, 0.5, random_state)
            self._halves = [experiment.with_counts(half) for half in halves]
            self._subsets = [None, None]
        else:
            row, column = np.indices(experiment.geometry.scan_shape)
            colour = ((row + column) % 2).ravel()
            self._halves = [experiment, experiment]
            self._subsets = [np.flatnonzero(colour == c) for c in (0, 1)]

    def __call__(
        self, parameters: Mapping[str, Any], *, n_iterations: int, random_state: int
    ) -> Score:
        results: list[Reconstruction] = []
        for half, subset in zip(self._halves, self._subsets, strict=True):
            if all(r.status == "completed" for r in results):
                results.append(
                    half.fit(
                        parameters,
                        n_iterations=n_iterations,
                        random_state=random_state,
                        subset=subset,
                    )[0]
                )
        metrics = _metrics(results[0])
        worst = next((r for r in results if r.status != "completed"), results[0])
        value = math.inf
        if worst.status == "completed":
            centers = results[0].placement.corners + np.array(results[0].probe.shape[-2:]) // 2
            fields = [r.object[0][_box(centers)] for r in results]
            metrics["frc"] = float(ring_correlation(*fields).mean())
            value = 1 - metrics["frc"]
        return Score(value, metrics, worst)


class CallableObjective:
    """A user's own function of the reconstruction.

    Parameters
    ----------
    experiment
        All data are fitted.
    function
        Takes a :class:`~hs_autoptycho.ptycho.solver.Reconstruction`, returns a number to be
        minimised.
    """

    def __init__(self, experiment: Experiment, function: Callable[[Reconstruction], float]):
        self.name = getattr(function, "__name__", "callable")
        self._experiment = experiment
        self._function = function

    def __call__(
        self, parameters: Mapping[str, Any], *, n_iterations: int, random_state: int
    ) -> Score:
        reconstruction, _ = self._experiment.fit(
            parameters, n_iterations=n_iterations, random_state=random_state
        )
        value = math.inf
        if reconstruction.status == "completed":
            value = float(self._function(reconstruction))
        return Score(value, _metrics(reconstruction), reconstruction)


OBJECTIVES = {o.name: o for o in (HeldOutCounts, DataError, FourierRingCorrelation)}


def make_objective(
    objective: str | Callable[[Reconstruction], float],
    experiment: Experiment,
    *,
    random_state: int = 0,
) -> Objective:
    """The objective of a name or function.

    Raises
    ------
    ObjectiveError
        If the name is not known, or the objective cannot be used on these data.
    """
    if callable(objective):
        return CallableObjective(experiment, objective)
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise ObjectiveError(
            f"objective={objective!r} is not known: choose one of {list(OBJECTIVES)}, or give a "
            "function that takes a reconstruction and returns a number."
        )
    return OBJECTIVES[objective](experiment, random_state=random_state)


def ring_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier ring correlation of two complex images, by ring of one pixel's width.

    Parameters
    ----------
    first, second
        Complex (Y, X). A Hann window is applied; the mean is taken out.

    Returns
    -------
    float64 array, from the first ring to the Nyquist frequency.
    """
    shape = first.shape
    window = np.hanning(shape[0])[:, None] * np.hanning(shape[1])[None, :]
    spectra = [scipy.fft.fft2((image - image.mean()) * window) for image in (first, second)]
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    ring = np.round(radius * min(shape)).astype(int).ravel()
    rings = min(shape) // 2

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, values.ravel())[1 : rings + 1]

    cross = total((spectra[0] * spectra[1].conj()).real)
    powers = [total(np.abs(spectrum) ** 2) for spectrum in spectra]
    return cross / np.maximum(np.sqrt(powers[0] * powers[1]), 1e-30)


def _box(centers: np.ndarray) -> tuple[slice, slice]:
    (top, left), (bottom, right) = centers.min(0), centers.max(0) + 1
    return slice(top, bottom), slice(left, right)


def _metrics(reconstruction: Reconstruction) -> dict[str, float]:
    errors = reconstruction.errors
    metrics = {"n_iterations": len(errors)}
    if len(errors) and np.isfinite(errors[-1]):
        metrics["data_error"] = float(errors[-1])
    phase = np.angle(reconstruction.object)
    if np.all(np.isfinite(phase)):
        metrics["phase_contrast"] = float(phase.std())
    return metrics
