"""From a signal's axes and metadata to a `Geometry` in Å, 1/Å, mrad, keV and degrees, and back."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from hs_autoptycho._quantities import (
    QUANTITIES,
    TEM,
    CalibrationError,
    electron_wavelength,
    shortened,
)
from hs_autoptycho._signal_reader import SignalReader, not_its_data
from hs_autoptycho.ptycho.disk import DiskError, measure_disk
from hs_autoptycho.ptycho.patterns import DETECTOR_FLIPS, flip_point

__all__ = [
    "CalibrationError",
    "Geometry",
    "check_disk",
    "check_signal",
    "electron_wavelength",
    "geometry_from_signal",
    "object_axes",
    "scan_step_and_object_pixel",
]


@dataclass(frozen=True)
class Geometry:
    """Calibrated geometry of a 4D-STEM scan; shapes and pairs are (row, column) of the array.

    Raises
    ------
    CalibrationError
        If a value is not plausible, names the value.
    """

    beam_energy: float
    """keV."""
    scan_shape: tuple[int, int]
    """(scan_y, scan_x): slow, fast."""
    detector_shape: tuple[int, int]
    """(k_y, k_x), both even."""
    scan_step: float
    """Å; scan pixels are square."""
    reciprocal_pixel: float
    """1/Å per detector pixel; detector pixels are square."""
    convergence_angle: float
    """Semi-angle in mrad, as stated, or from the measured disk where nothing was stated."""
    disk_center: tuple[float, float]
    """(row, column) of the bright-field disk in detector pixels, as measured."""
    disk_radius: float
    """Detector pixels, as measured."""
    scan_rotation: float = 0.0
    """Degrees."""
    defocus: float | None = None
    """Å, underfocus positive; None where it is not known."""
    notes: tuple[str, ...] = ()
    """What was assumed or contradicted, one sentence each."""

    def __post_init__(self) -> None:
        for name, quantity in QUANTITIES.items():
            value = getattr(self, name)
            if name == "defocus" and value is None:
                continue
            complaint = quantity.complaint(value)
            if complaint:
                raise CalibrationError(f"{name}: {complaint}.")
            object.__setattr__(self, name, float(value))
        for name, kind in (("scan_shape", int), ("detector_shape", int), ("disk_center", float)):
            pair = tuple(kind(v) for v in getattr(self, name))
            if len(pair) != 2 or not all(math.isfinite(v) for v in pair):
                raise CalibrationError(f"{name}: two finite numbers are needed, not {pair}.")
            object.__setattr__(self, name, pair)
        object.__setattr__(self, "disk_radius", float(self.disk_radius))
        object.__setattr__(self, "notes", tuple(str(note) for note in self.notes))
        if min(self.scan_shape) < 2:
            raise CalibrationError(f"scan_shape: {self.scan_shape} is not at least (2, 2).")
        if min(self.detector_shape) < 2 or any(n % 2 for n in self.detector_shape):
            raise CalibrationError(f"detector_shape: {self.detector_shape} has to be even.")
        if not 0 < 2 * self.disk_radius <= max(self.detector_shape):
            raise CalibrationError(
                f"disk_radius: {self.disk_radius:g} px does not fit on the detector of "
                f"{self.detector_shape} pixels."
            )

    @property
    def wavelength(self) -> float:
        """Relativistic wavelength in Å."""
        return electron_wavelength(self.beam_energy)

    @property
    def object_pixel(self) -> tuple[float, float]:
        """(dy, dx) in Å: 1 / (size of the detector * reciprocal_pixel)."""
        rows, cols = self.detector_shape
        return 1 / (rows * self.reciprocal_pixel), 1 / (cols * self.reciprocal_pixel)

    @property
    def mrad_per_pixel(self) -> float:
        """Scattering angle of one detector pixel, in mrad."""
        return 1e3 * self.wavelength * self.reciprocal_pixel

    @property
    def measured_convergence_angle(self) -> float:
        """Semi-angle in mrad which the measured disk and the reciprocal pixel imply."""
        return self.disk_radius * self.mrad_per_pixel

    def flipped(self, flip: str) -> Geometry:
        """Geometry of the patterns after `hs_autoptycho.ptycho.patterns.flip_detector`."""
        shape, center = self.detector_shape, flip_point(self.disk_center, self.detector_shape, flip)
        if DETECTOR_FLIPS[flip][0]:
            shape = shape[::-1]
        return replace(self, detector_shape=shape, disk_center=center)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types only; an unknown defocus is left out."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Geometry:
        """Inverse of `to_dict`.

        Raises
        ------
        CalibrationError
            If names are unknown or missing, or a value is not plausible.
        """
        known = {field.name for field in fields(cls)}
        needed = known - {"scan_rotation", "defocus", "notes"}
        if set(values) - known or needed - set(values):
            raise CalibrationError(
                f"not the description of a geometry: unknown {sorted(set(values) - known)}, "
                f"missing {sorted(needed - set(values))}"
            )
        return cls(**values)


def check_signal(signal, **stated: float) -> None:
    """Raise what `geometry_from_signal` would for a lazy signal, before its patterns are read.

    A signal in memory is not looked at beyond its dimensions: with the disk measured, the message
    can say more.

    Parameters
    ----------
    signal
        HyperSpy signal.
    **stated
        As for `geometry_from_signal`.
    """
    reader = SignalReader(signal)
    problem = not_its_data(signal)
    if problem:
        raise CalibrationError(problem)
    if not signal._lazy:
        return
    energy = reader.number("beam_energy", stated.get("beam_energy"), needed=True)
    for name in ("convergence_angle", "scan_rotation", "defocus"):
        reader.number(name, stated.get(name))
    reader.scan_step(stated.get("scan_step"))
    reader.reciprocal_pixel(stated.get("reciprocal_pixel"), energy)
    if reader.problems:
        raise CalibrationError(" ".join(reader.problems))


def scan_step_and_object_pixel(
    signal,
    *,
    beam_energy: float | None = None,
    scan_step: float | None = None,
    reciprocal_pixel: float | None = None,
) -> tuple[float, tuple[float, float]]:
    """Scan step and object pixel (rows, columns) in Å, from the axes alone.

    Parameters and errors as for `geometry_from_signal`.
    """
    reader = SignalReader(signal)
    energy = reader.number("beam_energy", beam_energy, needed=reciprocal_pixel is None)
    step = reader.scan_step(scan_step)
    pixel = reader.reciprocal_pixel(reciprocal_pixel, energy)
    if reader.problems:
        raise CalibrationError(" ".join(reader.problems))
    rows, columns = reader.detector_shape
    return step, (1 / (rows * pixel), 1 / (columns * pixel))


def geometry_from_signal(
    signal,
    mean_pattern,
    *,
    beam_energy: float | None = None,
    convergence_angle: float | None = None,
    scan_step: float | None = None,
    reciprocal_pixel: float | None = None,
    scan_rotation: float | None = None,
    defocus: float | None = None,
    disk_center: tuple[float, float] | None = None,
    disk_radius: float | None = None,
) -> Geometry:
    """Read the geometry of a 4D-STEM scan from its axes, its metadata and its mean pattern.

    What is given as a keyword takes precedence, and what it replaces is not looked at. Two
    quantities are measured: the centre and the radius of the bright-field disk. Where they
    contradict axes and metadata, the geometry's `notes` and the log say by how much.

    Parameters
    ----------
    signal
        HyperSpy signal (scan_x, scan_y | k_x, k_y), lazy or not.
    mean_pattern
        Mean of the diffraction patterns, shape (k_y, k_x).
    beam_energy
        keV. Default: metadata ``Acquisition_instrument.TEM.beam_energy``.
    convergence_angle
        Semi-angle in mrad. Default: metadata ``Acquisition_instrument.TEM.convergence_angle``, or
        what the measured disk implies.
    scan_step
        Å. Default: from the navigation axes, in any unit of length.
    reciprocal_pixel
        1/Å. Default: from the signal axes, in a reciprocal length or an angle.
    scan_rotation
        Degrees. Default: metadata ``Acquisition_instrument.TEM.scan_rotation``, or 0 with a note.
    defocus
        Å, positive for underfocus. Default: metadata
        ``Acquisition_instrument.TEM.probe_defocus``, or None. ``…TEM.defocus`` is not read: files
        have it in different units, and of different lenses.
    disk_center
        (row, column) in detector pixels. Default: measured.
    disk_radius
        Detector pixels. Default: measured.

    Raises
    ------
    CalibrationError
        If the signal has not two and two dimensions, or a quantity is missing, not plausible or
        impossible beside the others. The message lists all of them, each with its axis, its value
        and the call that sets it.
    DiskError
        If no bright-field disk can be measured, and its centre and radius are not given.
    """
    reader = SignalReader(signal)
    pattern_shape = np.shape(mean_pattern)
    if pattern_shape != reader.detector_shape:
        raise CalibrationError(
            f"The mean pattern has the shape {pattern_shape}, the signal's patterns have "
            f"{reader.detector_shape} (k_y, k_x)."
        )
    energy = reader.number("beam_energy", beam_energy, needed=True)
    angle = reader.number("convergence_angle", convergence_angle)
    rotation = reader.number("scan_rotation", scan_rotation)
    stated_defocus = defocus is not None
    defocus = reader.number("defocus", defocus)
    step = reader.scan_step(scan_step)
    pixel = reader.reciprocal_pixel(reciprocal_pixel, energy)

    disk_refusal = None
    try:
        center, radius = _disk(mean_pattern, disk_center, disk_radius)
    except DiskError as error:
        center, radius, disk_refusal = None, None, error
    if pixel is None and radius and angle and energy:
        implied = angle * 1e-3 / electron_wavelength(energy) / radius
        reader.problems.append(
            f"The measured disk (radius {radius:.2f} px) and the convergence angle ({angle:g} "
            f"mrad) would imply `reciprocal_pixel={implied:.5g}`."
        )
    if energy and pixel:
        angle = reader.check_disk(energy, pixel, angle, radius)
    if reader.problems:
        raise CalibrationError(" ".join(reader.problems))
    if disk_refusal is not None:
        raise disk_refusal
    if disk_center is None:
        reader.compare_center(center)
    if rotation is None:
        rotation = 0.0
        reader.note(
            "The scan rotation is not known, it is taken as 0 degrees. "
            "`hs_autoptycho.estimate_geometry(s)` measures it; give `scan_rotation=...` (degrees).",
            logging.WARNING,
        )
    elif scan_rotation is None:
        reader.note(
            f"The scan rotation of {rotation:g} degrees is the metadata's, whose zero and sense "
            "need not be those of the detector."
        )
    if defocus is not None and not stated_defocus:
        reader.note(f"The defocus of {defocus:g} Å is the metadata's.")
    elif defocus is None and signal.metadata.get_item(f"{TEM}.defocus"):
        reader.note(
            f"{TEM}.defocus is in the metadata but not read, its unit is not known; "
            f"{QUANTITIES['defocus'].remedy()}"
        )
    return Geometry(
        beam_energy=energy,
        scan_shape=reader.scan_shape,
        detector_shape=reader.detector_shape,
        scan_step=step,
        reciprocal_pixel=pixel,
        convergence_angle=angle,
        disk_center=center,
        disk_radius=radius,
        scan_rotation=rotation,
        defocus=defocus,
        notes=tuple(reader.notes),
    )


def check_disk(
    center: Any, radius: Any, detector_shape: tuple[int, int]
) -> tuple[tuple[float, float] | None, float | None]:
    """A disk's centre and radius as plain numbers; None remains None.

    Parameters
    ----------
    center
        (row, column) in detector pixels.
    radius
        Detector pixels.
    detector_shape
        (k_y, k_x).

    Raises
    ------
    CalibrationError
        If the centre is no pair of numbers on the detector, or the radius does not fit on it.
    """
    if center is not None:
        pair = center.tolist() if isinstance(center, np.ndarray) else center
        good = isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_real, pair))
        if not (good and all(-1 < v < n for v, n in zip(pair, detector_shape, strict=True))):
            raise CalibrationError(
                f"disk_center={shortened(center)} is not a (row, column) in detector pixels, of "
                f"which there are {detector_shape[0]} x {detector_shape[1]}."
            )
        center = float(pair[0]), float(pair[1])
    if radius is not None:
        if not (_is_real(radius) and 0 < 2 * radius <= max(detector_shape)):
            raise CalibrationError(
                f"disk_radius={shortened(radius)} is not a radius in detector pixels, of which "
                f"there are {detector_shape[0]} x {detector_shape[1]}."
            )
        radius = float(radius)
    return center, radius


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _disk(mean_pattern, center, radius) -> tuple[tuple[float, float], float]:
    """What was given of the disk's centre and radius, and the rest measured."""
    center, radius = check_disk(center, radius, np.shape(mean_pattern))
    if center is None or radius is None:
        row, col, measured = measure_disk(mean_pattern)
        center = (row, col) if center is None else center
        radius = measured if radius is None else radius
    return center, radius


def object_axes(
    geometry: Geometry,
    object_shape: Sequence[int],
    object_origin: Sequence[float],
    slice_thickness: float | None = None,
) -> list[dict[str, Any]]:
    """HyperSpy axes of a reconstructed object, in the order of its array.

    Parameters
    ----------
    geometry
        Geometry it was reconstructed with.
    object_shape
        (slices, Y, X).
    object_origin
        (y, x) of the object's first pixel, in Å.
    slice_thickness
        Å. Default: the slices are only numbered.

    Returns
    -------
    list of dict
        The navigation axis "slice", then the signal axes "y" and "x" in Å.
    """
    slices, rows, cols = (int(n) for n in object_shape)
    dy, dx = geometry.object_pixel
    y, x = (float(v) for v in object_origin)
    if slice_thickness is not None and not 0 < slice_thickness < math.inf:
        raise CalibrationError(f"slice_thickness: {slice_thickness!r} Å is not a positive length.")
    thickness, unit = (1.0, "") if slice_thickness is None else (float(slice_thickness), "Å")
    rows_of_table = (
        ("slice", slices, thickness, 0.0, unit, True),
        ("y", rows, dy, y, "Å", False),
        ("x", cols, dx, x, "Å", False),
    )
    keys = ("name", "size", "scale", "offset", "units", "navigate")
    return [dict(zip(keys, row, strict=True)) for row in rows_of_table]
