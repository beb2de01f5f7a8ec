"""What py4DSTEM's direct methods tell of a scan, as parameters of a reconstruction."""

from __future__ import annotations

import math
from typing import Any


def dpc_start_values(dpc: Any) -> dict[str, Any]:
    """Rotation and orientation; see :func:`.from_py4dstem`.

    The angle by which py4DSTEM turns the centres of mass into the scan's frame is the negative of
    the one by which the scan is turned into the detector's.
    """
    rotation = getattr(dpc, "_rotation_best_rad", None)
    if rotation is None:
        raise ValueError("This DPC has not measured the rotation: call its preprocess() first.")
    return _orientation(rotation, getattr(dpc, "_rotation_best_transpose", False))


def parallax_start_values(parallax: Any) -> dict[str, Any]:
    """Rotation, orientation, defocus and astigmatism; see :func:`.from_py4dstem`.

    py4DSTEM's astigmatism is in the scan's frame, its azimuth runs from rows to columns. Its fit of
    higher orders is not read: for a transposed detector they are not consistent with the rotation.
    """
    if getattr(parallax, "aberrations_C1", None) is None:
        raise ValueError(
            "This Parallax has not fitted the aberrations: call its preprocess(), reconstruct() "
            "and aberration_fit() first."
        )
    values = _orientation(parallax.rotation_Q_to_R_rads, parallax.transpose)
    a, b = float(parallax.aberrations_C12a), float(parallax.aberrations_C12b)
    azimuth = math.atan2(b, a) / 2 + math.radians(values["scan_rotation"])
    twice, size = math.pi - 2 * azimuth, math.hypot(a, b)
    return {
        **values,
        "defocus": -float(parallax.aberrations_C1),
        "C12a": size * math.cos(twice),
        "C12b": size * math.sin(twice),
    }


def _orientation(rotation: float, transpose: Any) -> dict[str, Any]:
    degrees = (-math.degrees(float(rotation)) + 180) % 360 - 180
    return {"scan_rotation": degrees, "detector_flip": "transpose" if transpose else "none"}
