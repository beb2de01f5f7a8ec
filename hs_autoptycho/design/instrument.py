"""The microscope of a simulated experiment, and what it cannot do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hs_autoptycho._quantities import QUANTITIES, electron_wavelength
from hs_autoptycho.ptycho.probe import ABERRATIONS, probe_width

#: What a design can search.
SETTINGS = ("scan_step", "defocus", "convergence_angle")
# largest width of the probe, as a part of its window
LARGEST_PROBE = 0.8
# bytes of a recorded pixel where the detector has no count limit
_BYTES = 2
# kinds of complaints
_FAULTS = {
    "dose": "less than an electron a pattern",
    "disk": "a disk beyond the detector",
    "window": "a probe wider than its window allows",
    "overlap": "no overlap of probes",
    "field": "fewer than 2 × 2 positions",
    "size": "more data than max_data_size",
    "time": "longer than max_scan_time",
}


class DesignError(ValueError):
    """An experiment that is asked for is impossible, or its description makes no sense."""


@dataclass(frozen=True)
class Instrument:
    """What all experiments of a design have in common.

    Attributes
    ----------
    beam_energy : float
        In keV.
    detector_shape : (int, int)
        (k_y, k_x), even.
    reciprocal_pixel : float
        In 1/Å. Its inverse is the window of the probe.
    field_of_view : (float, float)
        (y, x) in Å; scans fill it as far as their step allows.
    aberrations : dict
        Cartesian, name to Å, without the defocus.
    source_size : float
        Full width at half maximum of the effective source, in Å.
    focal_spread : float
        Standard deviation of the defocus, in Å.
    position_jitter : float
        Root mean square displacement of a position along each axis, in Å.
    count_limit : int or None
        The largest number of counts that a detector pixel can tell.
    dwell_time : float or None
        Seconds a position.
    max_scan_time : float or None
        Seconds.
    max_data_size : float or None
        Bytes.

    Raises
    ------
    DesignError
        If a value makes no sense.
    """

    beam_energy: float
    detector_shape: tuple[int, int]
    reciprocal_pixel: float
    field_of_view: tuple[float, float]
    aberrations: Mapping[str, float] = field(default_factory=dict)
    source_size: float = 0.0
    focal_spread: float = 0.0
    position_jitter: float = 0.0
    count_limit: int | None = None
    dwell_time: float | None = None
    max_scan_time: float | None = None
    max_data_size: float | None = None

    def __post_init__(self) -> None:
        for name in ("beam_energy", "reciprocal_pixel"):
            complaint = QUANTITIES[name].complaint(getattr(self, name))
            if complaint:
                raise DesignError(f"{name}: {complaint}.")
        shape = tuple(self.detector_shape)
        if len(shape) != 2 or any(n % 2 or n < 8 for n in shape):
            raise DesignError(
                f"detector_shape={shape}: two even numbers of at least 8 are needed, (ky, kx)."
            )
        if len(self.field_of_view) != 2 or not all(v > 0 for v in self.field_of_view):
            raise DesignError(f"field_of_view={self.field_of_view}: (y, x) in Å above 0 is needed.")
        for name in ("source_size", "focal_spread", "position_jitter"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise DesignError(f"{name}={value}: a length in Å of at least 0 is needed.")
        for name in ("count_limit", "dwell_time", "max_scan_time", "max_data_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise DesignError(f"{name}={value}: a number above 0 is needed, or None.")
        if self.max_scan_time is not None and self.dwell_time is None:
            raise DesignError("max_scan_time needs the dwell_time of a position, in seconds.")
        unknown = set(self.aberrations) - set(ABERRATIONS)
        if unknown:
            raise DesignError(
                f"unknown aberrations {sorted(unknown)}; known are {', '.join(ABERRATIONS)}."
            )

    @property
    def wavelength(self) -> float:
        """In Å."""
        return electron_wavelength(self.beam_energy)

    @property
    def window(self) -> float:
        """Width of the probe's window, in Å."""
        return 1 / self.reciprocal_pixel

    @property
    def object_pixel(self) -> tuple[float, float]:
        """(rows, columns) of a reconstruction, in Å."""
        rows, columns = self.detector_shape
        return self.window / rows, self.window / columns

    def scan_shape(self, scan_step: float) -> tuple[int, int]:
        """Numbers of positions (slow, fast) that fit the field of view."""
        rows, columns = (int(v / scan_step + 1e-6) + 1 for v in self.field_of_view)
        return rows, columns

    def probe_width(self, convergence_angle, defocus) -> np.ndarray:
        """Diameter of the probe in Å.

        Of the outermost ray's disk and Airy's disk, added in quadrature.

        Parameters
        ----------
        convergence_angle, defocus
            In mrad and Å, numbers or arrays of one shape.
        """
        return probe_width(convergence_angle, defocus, self.wavelength, self.aberrations)

    def data_size(self, scan_step: float) -> float:
        """Bytes of the recorded counts."""
        limit = self.count_limit
        size = _BYTES if limit is None else np.min_scalar_type(int(limit)).itemsize
        return float(math.prod(self.scan_shape(scan_step)) * math.prod(self.detector_shape) * size)

    def scan_time(self, scan_step: float) -> float:
        """Seconds."""
        return math.prod(self.scan_shape(scan_step)) * (self.dwell_time or 0.0)

    def complaint(self, dose: float, settings: Mapping[str, float]) -> str | None:
        """Why an experiment is impossible, a sentence; None if it is possible.

        Parameters
        ----------
        dose
            In e/Å².
        settings
            ``scan_step`` (Å), ``defocus`` (Å) and ``convergence_angle`` (mrad).
        """
        return next((text for _, text in self._complaints(dose, settings)), None)

    def faults(self, dose: float, settings: Mapping[str, float]) -> list[str]:
        """What is wrong with an experiment, in short; arguments as for `complaint`."""
        return [_FAULTS[kind] for kind, _ in self._complaints(dose, settings)]

    def _complaints(self, dose: float, settings: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """What is wrong, the kind of the fault and a sentence; one after the other."""
        step, defocus, angle = (float(settings[name]) for name in SETTINGS)
        electrons = dose * step**2
        if electrons < 1 - 1e-9:
            text = (
                f"a dose of {dose:g} e/Å² with a scan_step of {step:.4g} Å is {electrons:.2g} "
                "electrons a pattern, and one at least is needed: the smallest step that would "
                f"do is {1 / math.sqrt(dose):.3g} Å"
            )
            yield "dose", text
        radius = angle * 1e-3 / self.wavelength / self.reciprocal_pixel
        if radius > min(self.detector_shape) / 2 - 1:
            text = (
                f"the bright-field disk of {angle:.4g} mrad has a radius of {radius:.1f} "
                f"detector pixels and does not fit detector_shape={self.detector_shape}: make "
                f"reciprocal_pixel={self.reciprocal_pixel:.4g} 1/Å or the detector larger"
            )
            yield "disk", text
        width = float(self.probe_width(angle, defocus))
        probe = f"{angle:.4g} mrad and a defocus of {defocus:.4g} Å"
        if width > LARGEST_PROBE * self.window:
            text = (
                f"with {probe} the probe is {width:.1f} Å wide, more than {LARGEST_PROBE:.0%} of "
                f"its window of {self.window:.1f} Å (1 / reciprocal_pixel): less defocus is "
                "needed, or a smaller reciprocal_pixel with more detector pixels"
            )
            yield "window", text
        if step >= width:
            text = (
                f"a scan_step of {step:.4g} Å leaves no overlap of probes that are {width:.3g} Å "
                f"wide, with {probe}"
            )
            yield "overlap", text
        shape = self.scan_shape(step)
        scan = f"{shape[0]} × {shape[1]} positions with a scan_step of {step:.4g} Å"
        if min(shape) < 2:
            y, x = self.field_of_view
            yield "field", f"{scan} in a field of view of {y:g} × {x:g} Å are no scan"
        if self.max_data_size is not None and self.data_size(step) > self.max_data_size:
            text = (
                f"{scan} are {self.data_size(step):.2g} bytes, more than "
                f"max_data_size={self.max_data_size:.2g}"
            )
            yield "size", text
        if self.max_scan_time is not None and self.scan_time(step) > self.max_scan_time:
            text = (
                f"{scan} take {self.scan_time(step):.3g} s at a dwell_time of "
                f"{self.dwell_time:g} s, more than max_scan_time={self.max_scan_time:g} s"
            )
            yield "time", text

    def complaints(self, dose: float, many: Iterable[Mapping[str, float]]) -> dict[str, str]:
        """What is wrong with many experiments: an example of the first fault of each, by kind."""
        out: dict[str, str] = {}
        for settings in many:
            kind, text = next(self._complaints(dose, settings), (None, ""))
            if kind is not None:
                out.setdefault(kind, text)
        return out

    def possible(self, dose: float, settings: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether experiments are possible; as `complaint`, of arrays of settings of one shape."""
        step, defocus, angle = (np.asarray(settings[name], float) for name in SETTINGS)
        width = self.probe_width(angle, defocus)
        rows, columns = ((v / step + 1e-6).astype(int) + 1 for v in self.field_of_view)
        good = dose * step**2 >= 1 - 1e-9
        radius = angle * 1e-3 / self.wavelength / self.reciprocal_pixel
        good &= radius <= min(self.detector_shape) / 2 - 1
        good &= (width <= LARGEST_PROBE * self.window) & (step < width)
        good &= np.minimum(rows, columns) >= 2
        positions = rows * columns
        if self.max_data_size is not None:
            one = self.data_size(1.0) / math.prod(self.scan_shape(1.0))
            good &= positions * one <= self.max_data_size
        if self.max_scan_time is not None:
            good &= positions * self.dwell_time <= self.max_scan_time
        return good

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types."""
        out = {name: getattr(self, name) for name in self.__dataclass_fields__}
        out["aberrations"] = dict(self.aberrations)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in out.items()}
