"""One simulated experiment: where the probe was, what the detector counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.fft import next_fast_len

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.data import _multislice
from hs_autoptycho.design.instrument import DesignError, Instrument
from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.ptycho.experiment import Experiment

# the multislice runs on pixels of at most this size, in Å
_COARSEST_PIXEL = 0.15
# standard deviations of the jitter for which there is specimen
_REACH = 5.0
# modes of a partially coherent probe hold this part of its intensity
_KEPT_INTENSITY = 0.999
_FOCI = 5
# positions at a time: the patterns of all as float32 would be twice the counts
_BLOCK = 512


@dataclass(frozen=True)
class Simulation:
    """Simulates scans of a specimen with an instrument.

    Attributes
    ----------
    specimen : Specimen
    instrument : Instrument

    Raises
    ------
    DesignError
        If the specimen is smaller than the field of view and the probe's window.
    """

    specimen: Specimen
    instrument: Instrument

    def __post_init__(self) -> None:
        needed = np.array(self.instrument.field_of_view) + margin(self.instrument)
        if np.any(needed > np.array(self.specimen.extent) + 1e-6):
            y, x = self.specimen.extent
            raise DesignError(
                f"the potential is {y:.1f} × {x:.1f} Å (y, x), but the field of view and the "
                f"probe's window of {self.instrument.window:.1f} Å need {needed[0]:.1f} × "
                f"{needed[1]:.1f} Å: give a smaller field_of_view, a larger potential (a crystal "
                "can be tiled) or a larger reciprocal_pixel"
            )

    def __getstate__(self):
        # what is made of these two is made again where it is needed
        return {"specimen": self.specimen, "instrument": self.instrument}

    def __setstate__(self, state):
        self.__dict__.update(state)

    def positions(self, scan_step: float) -> np.ndarray:
        """Where the probe is meant to be: (row, col) in Å in the specimen's frame, (J, 2).

        The middle of the scan is that of the specimen.
        """
        shape = self.instrument.scan_shape(scan_step)
        grid = np.stack(np.mgrid[: shape[0], : shape[1]], -1).reshape(-1, 2) * scan_step
        return grid - grid.mean(axis=0) + self.specimen.middle

    def expected(
        self, settings: Mapping[str, float], positions: np.ndarray | None = None
    ) -> np.ndarray:
        """Patterns without noise, as parts of the incident electrons.

        Parameters
        ----------
        settings
            ``scan_step`` (Å), ``defocus`` (Å) and ``convergence_angle`` (mrad).
        positions
            (row, col) in Å in the specimen's frame, (J, 2). Default: as they are meant to be.

        Returns
        -------
        float32 array (J, k_y, k_x)
        """
        if positions is None:
            positions = self.positions(settings["scan_step"])
        transmission, origin, pixel = self._transmission
        return _multislice.diffraction_patterns(
            transmission,
            np.array(self.specimen.spacings),
            self.probe(settings),
            (positions - origin) / pixel,
            pixel,
            self.instrument.wavelength,
            self.instrument.detector_shape,
        )

    def counts(
        self, settings: Mapping[str, float], dose: float, random_state: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts of a scan at a dose, and where the probe was.

        The electrons a pattern are ``dose * scan_step**2``: at a fixed dose a larger step means
        fewer patterns with more electrons each.

        Parameters
        ----------
        settings
            As for `expected`.
        dose
            In e/Å².
        random_state
            Seed of the counting noise and of the jitter, which are independent of each other.

        Returns
        -------
        unsigned integers (J, k_y, k_x), float64 array (J, 2)
            Counts of at most the instrument's limit; (row, col) in Å in the specimen's frame.
        """
        positions = self.positions(settings["scan_step"])
        moved = np.random.default_rng([random_state, 1]).normal(size=positions.shape)
        moved = np.clip(moved, -_REACH, _REACH)
        positions = positions + self.instrument.position_jitter * moved
        noise = np.random.default_rng(random_state)
        electrons = dose * settings["scan_step"] ** 2
        limit = self.instrument.count_limit
        blocks = []
        for start in range(0, len(positions), _BLOCK):
            expected = self.expected(settings, positions[start : start + _BLOCK])
            counts = noise.poisson(expected * np.float64(electrons))
            counts = counts if limit is None else np.minimum(counts, limit)
            # without a limit the largest number of a type must not occur: it means saturation
            largest = int(counts.max()) + (limit is None)
            blocks.append(counts.astype(np.min_scalar_type(largest)))
        return np.concatenate(blocks), positions

    def experiment(
        self, settings: Mapping[str, float], dose: float, random_state: int
    ) -> Experiment:
        """A scan at a dose as the engine takes it; arguments as for `counts`."""
        counts, _ = self.counts(settings, dose, random_state)
        return Experiment(counts, self.geometry(settings))

    def geometry(self, settings: Mapping[str, float]) -> Geometry:
        """What the engine knows of a scan; `settings` as for `expected`."""
        instrument = self.instrument
        angle = float(settings["convergence_angle"])
        radius = angle * 1e-3 / instrument.wavelength / instrument.reciprocal_pixel
        return Geometry(
            beam_energy=instrument.beam_energy,
            scan_shape=instrument.scan_shape(settings["scan_step"]),
            detector_shape=instrument.detector_shape,
            scan_step=float(settings["scan_step"]),
            reciprocal_pixel=instrument.reciprocal_pixel,
            convergence_angle=angle,
            disk_center=tuple(n // 2 for n in instrument.detector_shape),
            disk_radius=radius,
            defocus=float(settings["defocus"]),
        )

    def probe(self, settings: Mapping[str, float]) -> np.ndarray:
        """The probe's modes in reciprocal space, complex (modes, n, n), as the multislice has them.

        The intensities of all sum to 1; strongest mode first.
        """
        instrument = self.instrument

        def modes(defocus):
            return _multislice.probe_transform(
                (self._size,) * 2,
                instrument.reciprocal_pixel,
                instrument.wavelength,
                settings["convergence_angle"],
                {"C10": -defocus, **instrument.aberrations},
                instrument.source_size,
            )

        if instrument.focal_spread == 0:
            return modes(settings["defocus"])
        nodes, weights = np.polynomial.hermite_e.hermegauss(_FOCI)
        foci = settings["defocus"] + instrument.focal_spread * nodes
        weights = np.sqrt(weights / weights.sum())
        stack = np.concatenate([w * modes(f) for f, w in zip(foci, weights, strict=True)])
        return principal_modes(stack)

    @property
    def _size(self) -> int:
        """Pixels along the multislice's window: twice the detector's band at least."""
        coarsest = self.instrument.window / _COARSEST_PIXEL
        return 2 * next_fast_len(int(np.ceil(max(*self.instrument.detector_shape, coarsest / 2))))

    @cached_property
    def _transmission(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The slices' transmission functions, where their pixel [0, 0] is, and its size in Å."""
        pixel = self.instrument.window / self._size
        half = (np.array(self.instrument.field_of_view) + margin(self.instrument)) / 2
        origin = self.specimen.middle - half - pixel
        shape = tuple((np.ceil(2 * half / pixel) + 3).astype(int))
        phases = self.specimen.on_grid(shape, (pixel, pixel), tuple(origin))
        return _multislice.transmission_functions(phases, pixel), origin, pixel


def margin(instrument: Instrument) -> float:
    """What a specimen has to be larger than the field of view, in Å: for window and jitter."""
    return instrument.window + 2 * _REACH * instrument.position_jitter


def principal_modes(stack: np.ndarray) -> np.ndarray:
    """Few orthogonal modes with almost the mixed state of many, strongest first.

    Parameters
    ----------
    stack
        Complex (modes, rows, columns).
    """
    flat = stack.reshape(len(stack), -1)
    power, vectors = np.linalg.eigh(flat @ flat.conj().T)
    power, vectors = power[::-1], vectors[:, ::-1]
    n = 1 + int(np.searchsorted(np.cumsum(power), _KEPT_INTENSITY * power.sum()))
    modes = (vectors[:, :n].conj().T @ flat).reshape(n, *stack.shape[1:])
    return modes / np.sqrt(np.sum(np.abs(modes) ** 2))
