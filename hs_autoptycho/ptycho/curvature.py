"""How much the patterns change with a parameter: Gauss-Newton curvatures, measured on the model.

The gradients of parameters are cheap (:mod:`.kernels`), but say nothing of how far to go. The
squared length of ∂ψ/∂p would be an answer that is far too large where the specimen is weak: moving
a probe in vacuum changes the phase of its spectrum and not one count. What counts is the change of
the amplitudes on the detector, Σ (∂√I/∂p)², and that is measured by predicting some patterns with
the parameter changed to either side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from hs_autoptycho.ptycho.fft import from_planes, to_planes
from hs_autoptycho.ptycho.resampling import warp_object
from hs_autoptycho.ptycho.state import State


def amplitudes(state: State, indices: np.ndarray) -> np.ndarray:
    """Square roots of the model's intensities, those of unused pixels 0: (indices, pixels)."""
    batch = state.batch(indices)
    predicted = state.model_intensities(batch)
    out = np.empty((len(indices), predicted.shape[1]))
    place = np.searchsorted(indices, batch.indices)
    out[place] = np.sqrt(predicted) * state.detector.mask
    return out


def derivative(
    state: State, indices: np.ndarray, change: Callable[[State, float], None], step: float
) -> np.ndarray:
    """∂√I/∂p by central differences.

    Parameters
    ----------
    state
        Is left alone.
    indices
        Of some positions, in rising order.
    change
        Changes a shallow copy of the state by an amount of the parameter: it has to replace arrays,
        not write into them.
    step
        Amount.
    """
    sides = []
    for sign in (1, -1):
        trial = copy.copy(state)
        change(trial, sign * step)
        sides.append(amplitudes(trial, indices))
    return (sides[0] - sides[1]) / (2 * step)


def distortion(generator: np.ndarray) -> Callable[[State, float], None]:
    """A linear distortion of grid and object together, (2, 2), times an amount."""

    def change(state: State, amount: float) -> None:
        matrix = np.eye(2) + amount * generator
        center = state.positions.mean(0)
        planes = state.object.reshape(len(state.object), -1)
        warped = warp_object(from_planes(planes, state.object.shape[2:]), matrix, tuple(center))
        state.object = to_planes(warped).reshape(state.object.shape)
        moved = center + (state.positions - center) @ matrix.T
        fractions = moved - np.array(state.shape) // 2 - state.placement.corners
        state.placement = state.placement._replace(
            fractions=fractions, classes=np.arange(len(moved))
        )

    return change


def defocused(probe: np.ndarray, phase: np.ndarray, amount: float) -> np.ndarray:
    """A probe with another defocus, by Å; `phase` is its spectrum's by Å."""
    return np.fft.ifft2(np.fft.fft2(probe) * np.exp(1j * amount * phase))


def defocus(phase: np.ndarray) -> Callable[[State, float], None]:
    """A change of the probe's defocus; `phase` is its spectrum's by Å."""

    def change(state: State, amount: float) -> None:
        state.spectra = state.spectra.copy()
        state.probe = defocused(state.probe, phase, amount)

    return change
