"""The options that all nanobeam scans share: their checks, and the geometry they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._multislice import electron_wavelength

# default field of the detector along its shorter side, 1/Å: third orders of the sheets fit
_DETECTOR_FIELD = 2.5
_NUMBERS = (
    "scan_step",
    "reciprocal_pixel",
    "beam_energy",
    "convergence_angle",
    "probe_size",
    "electrons",
    "direct_beam",
    "diffuse",
    "thickness_ramp",
    "intensity_ramp",
)


def check_common(values: dict[str, Any]) -> dict[str, Any]:
    """Check the options that all nanobeam scans share and bring them into plain types."""
    p = dict(values)
    for name in ("scan_shape", "detector_shape"):
        p[name] = pair(name, p[name], int)
    for name in ("descan", "beam_shift"):
        p[name] = pair(name, p[name], float)
    if p["reciprocal_pixel"] is None:
        p["reciprocal_pixel"] = _DETECTOR_FIELD / min(p["detector_shape"])
    for name in ("hot_pixels", "random_state"):
        value = number(name, p[name])
        if not value.is_integer():
            raise ValueError(f"{name} must be a whole number, got {p[name]!r}")
        p[name] = int(p[name])
    for name in _NUMBERS:
        if name != "electrons" or p[name] is not None:
            p[name] = number(name, p[name])
    for name in ("scan_step", "reciprocal_pixel", "beam_energy", "convergence_angle", "electrons"):
        if p[name] is not None and p[name] <= 0:
            raise ValueError(f"{name} must be above zero, got {p[name]}")
    for name in ("probe_size", "direct_beam", "diffuse", "hot_pixels"):
        if p[name] < 0:
            raise ValueError(f"{name} must not be negative, got {p[name]}")
    for name, least in (("scan_shape", 1), ("detector_shape", 8)):
        if min(p[name]) < least:
            raise ValueError(f"{name} must be at least {least} along each axis, got {p[name]}")
    for name in ("thickness_ramp", "intensity_ramp"):
        if abs(p[name]) >= 2:
            raise ValueError(f"{name} must be between -2 and 2, got {p[name]}")
    if p["direct_beam"] + p["diffuse"] >= 1:
        raise ValueError(
            f"direct_beam={p['direct_beam']} and diffuse={p['diffuse']} leave nothing for Bragg "
            "spots: their sum must be below 1"
        )
    n_pixels = p["detector_shape"][0] * p["detector_shape"][1]
    if p["hot_pixels"] > n_pixels // 10:
        raise ValueError(f"hot_pixels={p['hot_pixels']} are more than a tenth of the detector")
    half = np.array(p["detector_shape"]) / 2 - np.abs(p["beam_shift"]) - np.abs(p["descan"]) / 2
    if disk_radius(p) > half.min():
        raise ValueError(
            f"the direct disk has a radius of {disk_radius(p):.1f} detector pixels and leaves "
            f"detector_shape={p['detector_shape']}: make convergence_angle, beam_shift or descan "
            "smaller, or reciprocal_pixel larger"
        )
    return p


def number(name: str, value: Any) -> float:
    """A finite number, or a clear error."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not np.isfinite(result):
        raise ValueError(f"{name} must be finite, got {value}")
    return result


def pair(name: str, values: Any, kind: type) -> tuple:
    """Two finite numbers, or a clear error."""
    try:
        first, second = values
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers (rows, columns), got {values!r}") from None
    result = number(name, first), number(name, second)
    if kind is int:
        if not all(value.is_integer() for value in result):
            raise ValueError(f"{name} must be two whole numbers, got {values!r}")
        result = int(first), int(second)
    return result


def field_of_view(parameters: dict[str, Any]) -> np.ndarray:
    """Height and width of the scanned area in Å."""
    return np.array(parameters["scan_shape"]) * parameters["scan_step"]


def disk_radius(parameters: dict[str, Any]) -> float:
    """Radius of a disk in detector pixels."""
    angle = parameters["convergence_angle"] * 1e-3
    return angle / electron_wavelength(parameters["beam_energy"]) / parameters["reciprocal_pixel"]


def detector_cutoff(parameters: dict[str, Any]) -> float:
    """Largest spatial frequency in 1/Å that can be on the detector."""
    moved = np.abs(parameters["beam_shift"]) + np.abs(parameters["descan"]) / 2
    half = np.array(parameters["detector_shape"]) / 2 + moved + disk_radius(parameters) + 3
    return float(np.hypot(*half) * parameters["reciprocal_pixel"])
