"""A simulated microscope: it scans on demand, and not quite with what it was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _multislice
from ._twisted_bilayer_mos2 import (
    ABERRATIONS,
    _as_signal,
    _check,
    _grid_size,
    _pair,
    displacements,
    load_specimen,
    phase_slices,
    probe_modes,
    scan_positions,
)

if TYPE_CHECKING:
    from hyperspy.signals import Signal2D

# what can be asked for; all but the last three can be off
SETTINGS = {
    "defocus": 200.0,
    "scan_rotation": 0.0,
    "scan_step": 0.7,
    **dict.fromkeys(ABERRATIONS, 0.0),
    "convergence_angle": 21.4,
    "scan_shape": (64, 64),
    "dose": 1e4,
}
_EXACT = ("convergence_angle", "scan_shape", "dose")
OFFSETS = {"defocus": 100.0, "scan_rotation": 5.0}
DRIFT = {"defocus": 5.0, "scan_rotation": 0.1}


class SimulatedMicroscope:
    """A scanning transmission electron microscope whose settings are off, and drift.

    It scans the bilayer of MoS2 of `twisted_bilayer_mos2`. The actual defocus, rotation and so on
    are what was asked for plus offsets that nobody knows; from scan to scan the offsets go a random
    step, and during a scan the stage drifts at a constant speed.

    Parameters
    ----------
    settings
        Defaults of what can be asked for: ``defocus`` (200 Å, positive for underfocus),
        ``scan_rotation`` (0 degrees), ``scan_step`` (0.7 Å), ``C12a``, ``C12b``, ``C21a``,
        ``C21b``, ``C23a``, ``C23b``, ``C30`` (0 Å), ``convergence_angle`` (21.4 mrad),
        ``scan_shape`` ((64, 64), slow and fast), ``dose`` (1e4 electrons per Å²).
    offsets
        Actual less asked-for value at the first scan, by name of the setting and in its unit.
        Default: 100 Å of defocus and 5 degrees of rotation; 0 for what is not named.
    drift
        Standard deviation of the random step that an offset goes between two scans. Default: 5 Å
        of defocus and 0.1 degrees of rotation; 0 for what is not named.
    stage_drift
        Speed of the stage in Å per second; its direction differs from scan to scan. Between scans
        the field is found again.
    dwell_time
        Time in seconds that a pattern takes.
    detector_shape
        (k_y, k_x).
    reciprocal_pixel
        Size of a detector pixel in 1/Å; its inverse is the width of the probe's window, into which
        the probe at the actual defocus has to fit.
    beam_energy
        In keV.
    random_state
        Seed of drift and counting noise. The scans of a microscope are reproducible in their order.

    Attributes
    ----------
    n_scans : int
        How many were begun.

    Examples
    --------
    >>> from hs_autoptycho.data import SimulatedMicroscope
    >>> microscope = SimulatedMicroscope(settings={"scan_shape": (12, 14)})
    >>> scan = microscope.acquire(defocus=150)
    >>> scan
    <Signal2D, title: Scan 0 (simulated microscope), dimensions: (14, 12|64, 64)>
    >>> scan.metadata.Simulation.defocus
    250.0
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any] | None = None,
        offsets: Mapping[str, float] | None = None,
        drift: Mapping[str, float] | None = None,
        stage_drift: float = 0.05,
        dwell_time: float = 1e-3,
        detector_shape: tuple[int, int] = (64, 64),
        reciprocal_pixel: float = 0.0625,
        beam_energy: float = 80.0,
        random_state: int = 0,
    ):
        self.settings = {**SETTINGS, **_known("settings", settings or {}, SETTINGS)}
        inexact = [name for name in SETTINGS if name not in _EXACT]
        self._offsets = dict(_known("offsets", OFFSETS if offsets is None else offsets, inexact))
        self._drift = dict(_known("drift", DRIFT if drift is None else drift, inexact))
        if dwell_time <= 0:
            raise ValueError(f"dwell_time must be above zero, got {dwell_time}")
        if stage_drift < 0:
            raise ValueError(f"stage_drift must not be negative, got {stage_drift}")
        self.stage_drift, self.dwell_time = float(stage_drift), float(dwell_time)
        self._fixed = {
            "detector_shape": _pair("detector_shape", detector_shape, int),
            "reciprocal_pixel": float(reciprocal_pixel),
            "beam_energy": float(beam_energy),
            "source_size": 0.0,
            "beam_shift": (0.0, 0.0),
            "position_jitter": 0.0,
        }
        self.random_state = int(random_state)
        self.n_scans = 0

    def __repr__(self) -> str:
        return f"<SimulatedMicroscope: {self.n_scans} scans, seed {self.random_state}>"

    def acquire(self, settings: Mapping[str, Any] | None = None, /, **more: Any) -> Signal2D:
        """Scan, and return all patterns.

        Parameters
        ----------
        settings, **more
            What is asked for, as a dictionary or by keywords: names and units are those of
            `settings` above.

        Returns
        -------
        hyperspy.signals.Signal2D
            Counts ``(x, y | kx, ky)``; axes and ``metadata.Acquisition_instrument.TEM`` have what
            was asked for, also ``probe_defocus`` and ``scan_rotation``. The truth is in
            ``metadata.Simulation``, as that of `twisted_bilayer_mos2`, with ``asked``,
            ``stage_drift`` ((row, column) in Å per second), ``dwell_time`` and ``scan``.

        Raises
        ------
        TypeError
            For a setting that is not known.
        ValueError
            If a value makes no sense, the field is larger than the specimen (80 Å), or the actual
            probe does not fit its window.
        """
        asked = {**self.settings, **_known("setting", {**(settings or {}), **more}, SETTINGS)}
        asked["scan_shape"] = _pair("scan_shape", asked["scan_shape"], int)
        number = self.n_scans
        actual = {
            name: value if name in _EXACT else float(value) + self.offset(name, number)
            for name, value in asked.items()
        }
        parameters = {**self._fixed, **actual, "random_state": self.random_state}
        _check(parameters)
        self.n_scans += 1
        angle = 2 * np.pi * self._generator(number, 1).random()
        speed = self.stage_drift * np.array([np.sin(angle), np.cos(angle)])
        patterns = self._patterns(parameters, speed)
        electrons = actual["dose"] * actual["scan_step"] ** 2
        counts = self._generator(number, 2).poisson(patterns * electrons)
        counts = counts.astype(np.min_scalar_type(int(counts.max())))
        signal = _as_signal(counts, parameters)
        for axis in signal.axes_manager.navigation_axes:
            axis.scale = float(asked["scan_step"])
        signal.metadata.set_item("General.title", f"Scan {number} (simulated microscope)")
        microscope = "Acquisition_instrument.TEM."
        signal.metadata.set_item(microscope + "probe_defocus", float(asked["defocus"]))
        signal.metadata.set_item(microscope + "scan_rotation", float(asked["scan_rotation"]))
        signal.metadata.add_dictionary(
            {
                "Simulation": {
                    "asked": asked,
                    "stage_drift": tuple(speed.tolist()),
                    "dwell_time": self.dwell_time,
                    "scan": number,
                }
            }
        )
        return signal

    def frames(
        self, settings: Mapping[str, Any] | None = None, /, *, real_time: bool = False, **more: Any
    ) -> Iterator[np.ndarray]:
        """Scan, and hand over one row of patterns after the other.

        Parameters
        ----------
        settings, **more
            As for `acquire`, by which the whole scan is simulated at the first row.
        real_time
            Whether a row comes no sooner than it would from an instrument with this dwell time,
            counted from when the simulation is done. Who is late finds the rows waiting.

        Yields
        ------
        numpy.ndarray
            Counts, (fast, k_y, k_x).
        """
        rows = self.acquire(settings, **more).data
        start = time.monotonic()
        for number, row in enumerate(rows, 1):
            wait = start + number * len(row) * self.dwell_time - time.monotonic()
            if real_time and wait > 0:
                time.sleep(wait)
            yield row

    def offset(self, name: str, scan: int) -> float:
        """How far the microscope is from what it is asked for.

        Parameters
        ----------
        name
            Of a setting.
        scan
            Number of the scan, from 0.

        Returns
        -------
        float
            Actual less asked-for value, in the unit of the setting.
        """
        step = self._drift.get(name, 0.0)
        place = list(SETTINGS).index(name)
        walk = [self._generator(n, 3, place).normal() for n in range(1, scan + 1)] if step else []
        return float(self._offsets.get(name, 0.0) + step * sum(walk))

    def _generator(self, scan: int, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.random_state, scan, *purpose])

    def _patterns(self, parameters: dict[str, Any], speed: np.ndarray) -> np.ndarray:
        """Noise-free patterns, (scan_y, scan_x, k_y, k_x), parts of the incident beam."""
        p = parameters
        n = _grid_size(p)
        pixel = 1 / (n * p["reciprocal_pixel"])
        positions = scan_positions(p) + displacements(p)
        seconds = self.dwell_time * np.arange(len(positions))
        positions = positions + np.outer(seconds - seconds.mean(), speed)
        phases, origin = phase_slices(p, positions, n, pixel)
        patterns = _multislice.diffraction_patterns(
            _multislice.transmission_functions(phases, pixel),
            np.diff(load_specimen().depths),
            probe_modes(p, (n, n)),
            (positions - origin) / pixel,
            pixel,
            _multislice.electron_wavelength(p["beam_energy"]),
            p["detector_shape"],
            p["beam_shift"],
        )
        return patterns.reshape(*p["scan_shape"], *p["detector_shape"])


def _known(what: str, values: Mapping[str, Any], names) -> Mapping[str, Any]:
    for name in values:
        if name not in names:
            raise TypeError(f"unknown {what} {name!r}; known are {', '.join(names)}")
    return values
