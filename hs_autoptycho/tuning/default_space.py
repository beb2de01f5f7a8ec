"""Which parameters to tune where nobody said so, and in which ranges: measured from the data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.bright_field_shifts import measure_bright_field_shifts
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.tuning.space import Dimension

_logger = logging.getLogger(__name__)

# The probe's disk of confusion may fill this part of its window, in the widest range of defocus.
_LARGEST_PROBE = 0.6
# Half width of the rotation's range about a measured value, in degrees, and of the defocus' range
# relative to it: images of a crystal also align when they are displaced by its period.
_ROTATION_MARGIN = 8.0
_DEFOCUS_MARGIN = 0.6


def largest_defocus(geometry: Geometry) -> float:
    """The defocus in Å at which the probe still fits into its window."""
    radius = _LARGEST_PROBE / geometry.reciprocal_pixel / 2
    return radius / (geometry.measured_convergence_angle * 1e-3)


def default_space(
    experiment: Experiment, held: Mapping[str, Any]
) -> tuple[list[Dimension], list[str]]:
    """Scan rotation and defocus, but for those that are held.

    Parameters
    ----------
    experiment
        The data.
    held
        Parameters that are not to be tuned.

    Returns
    -------
    list of Dimension, list of str
        The space, and sentences on how it was found.
    """
    geometry = experiment.geometry
    limit = largest_defocus(geometry)
    ranges = {"scan_rotation": (-180.0, 180.0), "defocus": (-limit, limit)}
    notes = []
    found = measure_bright_field_shifts(
        experiment.counts.reshape(*geometry.scan_shape, *geometry.detector_shape),
        center=geometry.disk_center,
        radius=geometry.disk_radius,
        defocus_to_shift=geometry.measured_convergence_angle * 1e-3 / geometry.scan_step,
        largest_defocus=limit,
    )
    if found is None:
        notes.append(
            "The bright-field images show no motion from which scan rotation and defocus could be "
            f"told; the whole range is searched (defocus up to {limit:.4g} Å, where the probe "
            "fills its window)."
        )
    else:
        rotation, defocus = found.rotation, found.defocus
        known = held.get("defocus", geometry.defocus)
        turned = known is not None and known * defocus < 0
        stated = held.get("scan_rotation")
        if stated is not None:
            turned = abs((stated - rotation + 180) % 360 - 180) > 90
        if turned:
            # the complex conjugate turned by 180° gives the same patterns
            rotation, defocus = (rotation + 360) % 360 - 180, -defocus
        width = max(_DEFOCUS_MARGIN * abs(defocus), 0.02 * limit)
        ranges = {
            "scan_rotation": (rotation - _ROTATION_MARGIN, rotation + _ROTATION_MARGIN),
            "defocus": (defocus - width, defocus + width),
        }
        notes.append(
            f"The motion of the bright-field images gives a scan rotation of {rotation:.1f} "
            f"degrees and a defocus of {defocus:.4g} Å. The opposite defocus with the scan turned "
            "by 180 degrees fits as well and gives the conjugate object: if matter is dark in the "
            "phase, "
            f'set fixed={{"scan_rotation": {(rotation + 360) % 360 - 180:.1f}}}.'
        )
    for note in notes:
        _logger.info(note)
    return [
        Dimension(name, *(float(f"{limit:.6g}") for limit in limits))
        for name, limits in ranges.items()
        if name not in held
    ], notes
