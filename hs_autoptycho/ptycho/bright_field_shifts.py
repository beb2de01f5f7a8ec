"""Scan rotation and defocus from the motion of bright-field images, without a reconstruction.

Every pixel inside the bright-field disk gives an image of the specimen. With defocus these images
are displaced against each other: the part of the probe that goes into direction k meets the
specimen at λ·C10·k from the probe's centre. In pixels of the scan the image of k is displaced by

    u(k) = λ·defocus/step · R(−θ)·k,

with the scan rotation θ. The displacement that brings all images together is found for all of them
at once, as the one that makes their sum richest in contrast; no single image needs to be clear.

The complex conjugate of object and probe, turned by 180°, gives the same patterns: (θ, defocus) and
(θ + 180°, −defocus) are the same to them. The solution with underfocus is returned.

References
----------
G. Varnavides et al., arXiv:2309.05250 (2023).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy.optimize import minimize

# At most this many images, of detector pixels taken together
_IMAGES = 120
# Two halves of the images have to agree on the displacement at the disk's edge, in scan pixels
_AGREEMENT = 1.0


class BrightFieldShifts(NamedTuple):
    """What :func:`measure_bright_field_shifts` finds."""

    rotation: float
    """Degrees."""
    defocus: float
    """Å, positive."""


def measure_bright_field_shifts(
    counts: np.ndarray,
    *,
    center: tuple[float, float],
    radius: float,
    defocus_to_shift: float,
    largest_defocus: float,
) -> BrightFieldShifts | None:
    """Measure scan rotation and defocus.

    Parameters
    ----------
    counts
        (scan_y, scan_x, k_y, k_x).
    center, radius
        Of the bright-field disk, in pixels.
    defocus_to_shift
        Displacement, in pixels of the scan, of the image at the disk's edge for a defocus of 1 Å.
    largest_defocus
        In Å.

    Returns
    -------
    BrightFieldShifts or None
        None where the images do not move together.
    """
    images, places = _bright_field_images(counts, center, radius)
    if len(images) < 6:
        return None
    spectra = scipy.fft.fft2(images)
    spectra[:, 0, 0] = 0
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in images.shape[1:]), indexing="ij")
    # half of the frequencies say it all; the highest are noise
    use = (frequencies[1] >= 0) & (np.hypot(*frequencies) < 0.4)
    spectra = spectra[:, use]
    rows, columns = (f[use] for f in frequencies)

    def contrast(shift: tuple[float, float], some: slice = slice(None)) -> float:
        """Power of the sum of images, displaced back by the linear map of a rotated disk."""
        along = places[some, 0] * shift[0] - places[some, 1] * shift[1]
        across = places[some, 0] * shift[1] + places[some, 1] * shift[0]
        phase = 2j * np.pi * (along[:, None] * rows + across[:, None] * columns)
        return float((np.abs((spectra[some] * np.exp(phase)).sum(0)) ** 2).sum())

    reach = min(largest_defocus * defocus_to_shift, min(images.shape[1:]) / 3)
    steps = np.linspace(-reach, reach, 2 * int(min(np.ceil(2 * reach), 16)) + 1)
    grid = np.array([(y, x) for y in steps for x in steps if np.hypot(y, x) <= reach])
    # chance makes one half of the images line up somewhere, but not the other half there too
    halves = [
        grid[np.argmax([contrast(point, half) for point in grid])]
        for half in (slice(0, None, 2), slice(1, None, 2))
    ]
    if np.hypot(*(halves[0] - halves[1])) > max(_AGREEMENT, 1.5 * (steps[1] - steps[0])):
        return None
    best = max(halves, key=contrast)
    found = minimize(
        lambda shift: -contrast(shift), best, method="Nelder-Mead", options={"xatol": 1e-3}
    )
    shift_row, shift_column = found.x
    rotation = float(np.degrees(np.arctan2(-shift_column, shift_row)))
    defocus = float(np.hypot(shift_row, shift_column) / defocus_to_shift)
    return BrightFieldShifts(rotation, defocus)


def _bright_field_images(counts, center, radius) -> tuple[np.ndarray, np.ndarray]:
    """Images of groups of pixels inside the disk, and where they are in units of its radius."""
    shape = counts.shape[2:]
    size = max(1, int(np.floor(radius * np.sqrt(np.pi / _IMAGES))))
    images, places = [], []
    for top in range(0, shape[0] - size + 1, size):
        for left in range(0, shape[1] - size + 1, size):
            place = (np.array([top, left]) + (size - 1) / 2 - center) / radius
            if np.hypot(*place) > 0.9:
                continue
            image = counts[:, :, top : top + size, left : left + size].sum((2, 3), dtype=float)
            images.append(image / max(image.mean(), 1e-12) - 1)
            places.append(place)
    if not images:
        return np.empty((0, 1, 1)), np.empty((0, 2))
    images = np.array(images)
    # without a window the field's edges would be what aligns best: they do not move
    rows, columns = (np.hanning(n + 2)[1:-1] for n in images.shape[1:])
    return images * rows[:, None] * columns, np.array(places)
