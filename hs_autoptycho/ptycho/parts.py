"""Less work than all of a scan: its centre, or the centre of the detector."""

from __future__ import annotations

import math

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.resampling import coarse_shape

# A part of the scan has at least so many positions along each axis, if there are.
LEAST_SIDE = 8
# A reduced detector shows at least so many radii of the bright-field disk on every side of it.
LEAST_HALF_WIDTH = 1.25


def scan_window(scan_shape: tuple[int, int], part: float) -> tuple[slice, slice]:
    """Rows and columns of a scan's centre, of the scan's aspect ratio.

    Parameters
    ----------
    scan_shape
        (slow, fast).
    part
        Of the positions, above 0 and at most 1; a side has at least `LEAST_SIDE` positions, if
        there are.
    """
    if not 0 < part <= 1:
        raise ValueError(f"part={part!r} of the scan: it must be above 0 and at most 1.")
    sides = [min(n, max(LEAST_SIDE, round(n * math.sqrt(part)))) for n in scan_shape]
    starts = [(n - side) // 2 for n, side in zip(scan_shape, sides, strict=True)]
    return tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True))


def reduced_shape(geometry: Geometry, reduction: float) -> tuple[int, int]:
    """The central 1/reduction of a detector in both directions.

    Its sizes suit Fourier transforms, and the bright-field disk is always seen.
    """
    if not reduction >= 1:
        raise ValueError(f"A detector can be reduced by a factor of 1 or more, not {reduction}.")
    shape = []
    for n, center in zip(geometry.detector_shape, geometry.disk_center, strict=True):
        # from the middle between two pixels, which stays where it is when the detector is flipped
        least = 2 * (LEAST_HALF_WIDTH * geometry.disk_radius + abs(center - (n - 1) / 2))
        shape += coarse_shape((n,), n / min(n, max(n / reduction, least)))
    return tuple(shape)
