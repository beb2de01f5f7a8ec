"""What a solver works on: object, probe, batches of positions, and the kernels' working memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np
import scipy.fft

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.fft import (
    Plan,
    planes_to_spectrum,
    scratch_size,
    spectrum_to_planes,
)
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import Placement
from hs_autoptycho.ptycho.probe import orthogonalize


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, that start on a cache line: vector loads then never straddle two."""
    size = int(np.prod(shape))
    buffer = np.zeros(size + 16, np.float32)
    offset = (-buffer.ctypes.data) % 64 // 4
    return buffer[offset : offset + size].reshape(shape)


@dataclass
class Space:
    """Working memory of the kernels."""

    waves: np.ndarray
    spectra: np.ndarray
    intensities: np.ndarray
    scratch: np.ndarray

    @classmethod
    def allocate(cls, plan: Plan, n_modes: int) -> Space:
        threads = numba.get_num_threads()
        pixels = plan.rows * plan.columns
        return cls(
            aligned((threads, 2 * pixels)),
            aligned((threads, n_modes, 2 * pixels)),
            aligned((threads, pixels)),
            aligned((threads, scratch_size(plan))),
        )


@dataclass
class Batch:
    """Some positions, sorted by their fraction of a pixel."""

    indices: np.ndarray
    corners: np.ndarray
    classes: np.ndarray
    starts: np.ndarray
    ramps_rows: np.ndarray
    ramps_columns: np.ndarray


@dataclass
class State:
    """Everything that a solver changes, and what it needs to do so."""

    plan: Plan
    placement: Placement
    object: np.ndarray
    spectra: np.ndarray
    space: Space
    ramps: tuple[np.ndarray, np.ndarray]
    visits: np.ndarray
    illumination: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    coverage: float = 1.0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def start(cls, plan: Plan, placement: Placement, probe: np.ndarray) -> State:
        pixels = plan.rows * plan.columns
        probe = probe * np.sqrt(pixels / (np.abs(probe) ** 2).sum())
        object_ = aligned((2, *placement.object_shape))
        object_[0] = 1
        ramps = []
        for axis, (size, order) in enumerate(
            [(plan.rows, plan.row_order), (plan.columns, plan.column_order)]
        ):
            frequency = np.fft.fftfreq(size)[order]
            angle = -2 * np.pi * placement.fractions[:, axis, None] * frequency
            ramps.append(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32))
        visits = np.zeros(placement.object_shape, np.float32)
        np.add.at(visits, tuple(placement.corners.T), 1)
        state = cls(
            plan, placement, object_, np.empty(0), Space.allocate(plan, len(probe)), tuple(ramps),
            scipy.fft.rfft2(visits),
        )  # fmt: skip
        state.probe = probe
        return state

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the window."""
        return self.plan.rows, self.plan.columns

    @property
    def probe(self) -> np.ndarray:
        """Complex modes, centred in the window."""
        return scipy.fft.ifft2(planes_to_spectrum(self.spectra, self.plan))

    @probe.setter
    def probe(self, probe: np.ndarray):
        self.spectra = spectrum_to_planes(scipy.fft.fft2(probe), self.plan)

    def measure_illumination(self) -> None:
        """Set `illumination`, Σ|P|² of all positions on the object's grid."""
        power = np.zeros(self.placement.object_shape, np.float32)
        power[: self.plan.rows, : self.plan.columns] = (np.abs(self.probe) ** 2).sum(0)
        # windows never cross the object's edge, so that a periodic convolution is exact
        total = scipy.fft.irfft2(scipy.fft.rfft2(power) * self.visits, s=power.shape)
        self.illumination = np.maximum(total, 0)
        self.coverage = self.illumination.max() / power.max()

    def settle_probe(self) -> None:
        """Make the modes orthogonal, and undo a drift of power between probe and object.

        Only their product is measured, so that they could exchange a factor without end. Within a
        factor of two of the mean pattern's power the probe is left as it is.
        """
        modes = orthogonalize(self.probe)
        power = np.sum(np.abs(modes) ** 2) / (self.plan.rows * self.plan.columns)
        if np.isfinite(power) and not 0.5 < power < 2:
            modes /= np.sqrt(power)
            self.object *= np.float32(np.sqrt(power))
        self.probe = modes

    def overlap(self, batch_size: int) -> float:
        """How many positions of a batch see the best seen object pixel, on average."""
        return float(self.coverage * batch_size / len(self.placement.corners))

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Working memory under a name, kept from batch to batch; its content is undefined."""
        size = int(np.prod(shape))
        if name not in self.arrays or self.arrays[name].size < size:
            self.arrays[name] = aligned((size,))
        return self.arrays[name][:size].reshape(shape)

    def batch(self, indices: np.ndarray) -> Batch:
        classes = self.placement.classes[indices]
        order = np.argsort(classes, kind="stable")
        indices = indices[order]
        used, starts, local = np.unique(classes[order], return_index=True, return_inverse=True)
        return Batch(
            indices,
            self.placement.corners[indices],
            local.ravel().astype(np.int64),
            np.append(starts, len(indices)).astype(np.int64),
            self.ramps[0][used],
            self.ramps[1][used],
        )

    def shifted(self, spectra: np.ndarray, batch: Batch, name: str) -> np.ndarray:
        """Probes (or probe directions) moved to each class of the batch."""
        out = self.array(name, (len(batch.ramps_rows), *spectra.shape))
        kernels.shift_probes(
            spectra, batch.ramps_rows, batch.ramps_columns, self.plan, self.space.waves,
            self.space.scratch, out,
        )  # fmt: skip
        return out

    def changes(self, batch: Batch, patterns: Patterns, poisson: bool):
        """Shifted probes, χ of every position, and the sum of the squared amplitude errors."""
        pixels = self.plan.rows * self.plan.columns
        probes = self.shifted(self.spectra, batch, "probes")
        amplitudes = self.array("amplitudes", (len(batch.indices), pixels))
        scale = np.float32(pixels / patterns.mean_total)
        kernels.batch_amplitudes(patterns.counts, batch.indices, scale, amplitudes)
        changes = self.array("changes", (len(batch.indices), *self.spectra.shape))
        errors = self.array("errors", (len(batch.indices),))
        space = self.space
        kernels.exit_wave_changes(
            self.object, probes, batch.classes, batch.corners, amplitudes, poisson, self.plan,
            space.waves, space.spectra, space.intensities, space.scratch, changes, errors,
        )  # fmt: skip
        return probes, changes, float(errors.sum(dtype=np.float64))

    def object_gradient(self, batch: Batch, probes: np.ndarray, changes: np.ndarray):
        """Σ conj(P) χ on the object's grid."""
        gradient = self.array("gradient", self.object.shape)
        kernels.object_gradient(changes, probes, batch.classes, batch.corners, self.plan, gradient)
        return gradient

    def probe_gradient(self, batch: Batch, changes: np.ndarray) -> np.ndarray:
        """Spectrum of Σ conj(O) χ."""
        out = self.array("probe gradient", self.spectra.shape)
        by_class = self.array("by class", (len(batch.ramps_rows), *self.spectra.shape))
        space = self.space
        kernels.probe_gradient(
            changes, self.object, batch.starts, batch.corners, batch.ramps_rows,
            batch.ramps_columns, self.plan, space.waves, space.spectra, space.scratch, by_class,
            out,
        )  # fmt: skip
        return out

    def model_intensities(self, batch: Batch) -> np.ndarray:
        """What the model predicts for a batch, mean 1 a pixel, in the spectrum's order."""
        probes = self.shifted(self.spectra, batch, "probes")
        out = self.array("model", (len(batch.indices), self.plan.rows * self.plan.columns))
        space = self.space
        kernels.model_intensities(
            self.object, probes, batch.classes, batch.corners, self.plan, space.waves,
            space.spectra, space.scratch, out,
        )  # fmt: skip
        return out
