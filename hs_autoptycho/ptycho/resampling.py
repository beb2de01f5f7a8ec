"""From coarse grids to fine ones: detectors cut to their centre, waves and objects resampled.

A detector that is cut to its central part sees the same window of the specimen with larger pixels:
the window keeps its extent in Å, and pixel ``shape // 2`` stays its centre. Lengths in pixels go
with the ratio of the windows' shapes.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from scipy import ndimage

from hs_autoptycho.ptycho.positions import Placement


def coarse_shape(shape: tuple[int, int], reduction: float) -> tuple[int, int]:
    """A smaller shape with sizes of which Fourier transforms are fast.

    Sizes are even and have no factors but 2, 3 and 5. Within 15 % above the exact size a power of
    two is taken, or else a multiple of 16, or else the smallest size.

    Parameters
    ----------
    shape
        Of the whole detector (rows, columns).
    reduction
        By how much at most the sizes shrink; 1 or more.
    """
    if not (np.isfinite(reduction) and reduction >= 1):
        raise ValueError(f"A detector can be reduced by a factor of 1 or more, not {reduction}.")
    return tuple(_good_size(n / reduction, n) for n in shape)


def detector_cutoff_for(
    mean_pattern: np.ndarray,
    radius_pixels: float,
    *,
    center: tuple[float, float] | None = None,
    half_width: float = 2.2,
    least_counts: float = 0.8,
    least_reduction: float = 1.5,
) -> tuple[int, int] | None:
    """The smallest central part of a detector with which a first reconstruction makes sense.

    Parameters
    ----------
    mean_pattern
        (rows, columns), zero frequency at pixel ``shape // 2``.
    radius_pixels
        Of the bright-field disk, in detector pixels.
    center
        Of the disk, (row, column) in pixels; by default ``shape // 2``.
    half_width
        What has to be seen on every side of the disk's centre, in radii of the disk. Two disks that
        overlap reach to 2 radii.
    least_counts
        Part of the mean pattern's sum that the part has to hold.
    least_reduction
        By how much, as the geometric mean over both axes, the detector has to shrink for it to be
        worth while.

    Returns
    -------
    (rows, columns), or None where no reduction is possible.
    """
    shape = mean_pattern.shape
    if not (np.isfinite(radius_pixels) and radius_pixels > 0):
        raise ValueError(f"The disk's radius must be positive (in pixels), not {radius_pixels}.")
    center = tuple(n // 2 for n in shape) if center is None else center
    needed = [
        2 * (half_width * radius_pixels + abs(c - n // 2))
        for n, c in zip(shape, center, strict=True)
    ]
    total = np.sum(mean_pattern, dtype=np.float64)
    while True:
        small = tuple(_good_size(m, n) for m, n in zip(needed, shape, strict=True))
        if math.prod(shape) < least_reduction**2 * math.prod(small):
            return None
        seen = np.sum(crop_patterns(mean_pattern, small), dtype=np.float64)
        if seen >= least_counts * total:
            return small
        needed = [m + 1 for m in small]


def crop_patterns(patterns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The central part of patterns: pixel ``n // 2`` becomes pixel ``m // 2``.

    Parameters
    ----------
    patterns
        (..., rows, columns), zero frequency at pixel ``n // 2``.
    shape
        (rows, columns), at most those of the patterns.

    Returns
    -------
    A view of the patterns.
    """
    cuts = []
    for n, m in zip(patterns.shape[-2:], shape, strict=True):
        if not 0 < m <= n:
            raise ValueError(f"Patterns of {patterns.shape[-2:]} pixels cannot be cut to {shape}.")
        cuts.append(slice(n // 2 - m // 2, n // 2 - m // 2 + m))
    return patterns[..., cuts[0], cuts[1]]


def resample_waves(waves: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Waves in the same window with another number of pixels.

    Their spectra are cut, or padded with zeros. Power (Σ|P|²) within the smaller band is kept.

    Parameters
    ----------
    waves
        Complex (..., rows, columns), centred on pixel ``n // 2``.
    shape
        (rows, columns).

    Returns
    -------
    Complex array (..., `shape`) of the same type, centred on pixel ``m // 2``.
    """
    axes = (-2, -1)
    spectra = scipy.fft.fft2(scipy.fft.ifftshift(waves, axes=axes), norm="ortho")
    spectra = scipy.fft.fftshift(spectra, axes=axes)
    common = tuple(min(n, m) for n, m in zip(waves.shape[-2:], shape, strict=True))
    resampled = np.zeros((*waves.shape[:-2], *shape), spectra.dtype)
    crop_patterns(resampled, common)[...] = crop_patterns(spectra, common)
    resampled = scipy.fft.ifft2(scipy.fft.ifftshift(resampled, axes=axes), norm="ortho")
    return scipy.fft.fftshift(resampled, axes=axes)


def refine_object(
    object: np.ndarray,
    placement_coarse: Placement,
    placement_fine: Placement,
    factor: tuple[float, float],
    *,
    order: int = 3,
) -> np.ndarray:
    """An object on the grid of another placement of the same positions.

    The complex transmission function is interpolated, so that no phase needs to be unwrapped.
    Beyond the coarse object's edge its outermost pixels go on.

    Parameters
    ----------
    object
        Complex (slices, rows, columns), on the grid of `placement_coarse`.
    placement_coarse, placement_fine
        Of the positions in pixels of either grid.
    factor
        Fine pixels in a coarse one (rows, columns): the ratio of the windows' shapes. It may be
        less than 1.
    order
        Of the spline.

    Returns
    -------
    Complex array (slices, *placement_fine.object_shape) of the same type.
    """
    factor = np.asarray(factor, float)
    if object.shape[1:] != tuple(placement_coarse.object_shape):
        raise ValueError(
            f"The object has {object.shape[1:]} pixels a slice, its placement "
            f"{tuple(placement_coarse.object_shape)}."
        )
    # a fine pixel p shows the position (p - origin_fine) / factor in coarse pixels
    offset = placement_coarse.origin - placement_fine.origin / factor
    return _interpolated(object, 1 / factor, offset, placement_fine.object_shape, order, "nearest")


def warp_object(
    object: np.ndarray,
    matrix: np.ndarray,
    center: tuple[float, float],
    *,
    order: int = 3,
    outside: str = "nearest",
) -> np.ndarray:
    """Move what an object shows by an affine map about a pixel.

    What was at r is at c + M (r − c) afterwards: new(r) = old(c + M⁻¹ (r − c)).

    Parameters
    ----------
    object
        Complex (slices, rows, columns).
    matrix
        M, 2 × 2, of (row, column) in pixels.
    center
        c, the pixel that stays where it is (row, column).
    order
        Of the spline: 1 or 3.
    outside
        What comes in over the edge: ``"nearest"``, the outermost pixels, or ``"vacuum"``, ones.
    """
    if outside not in ("nearest", "vacuum"):
        raise ValueError(f"`outside` must be 'nearest' or 'vacuum', not {outside!r}.")
    inverse = np.linalg.inv(np.asarray(matrix, float))
    offset = np.asarray(center, float) - inverse @ np.asarray(center, float)
    mode = "nearest" if outside == "nearest" else "constant"
    return _interpolated(object, inverse, offset, object.shape[1:], order, mode)


def _interpolated(object, matrix, offset, shape, order, mode) -> np.ndarray:
    """object(matrix · r + offset) at all pixels r of a shape, slice by slice."""
    out = np.empty((len(object), *shape), object.dtype)
    for before, after in zip(object, out, strict=True):
        # what is constant is vacuum, which is 1 and not 0
        after[:] = 1 + ndimage.affine_transform(
            before - 1, matrix, offset, output_shape=tuple(shape), order=order, mode=mode
        )
    return out


def _good_size(minimum: float, whole: int) -> int:
    """A size with a fast transform of `minimum` pixels or little more, at most `whole`."""
    # the tolerance is for what division leaves of a whole number
    first = max(math.ceil(minimum - 1e-9), 2)
    sizes = [
        n for n in range(first + first % 2, whole + 1, 2) if scipy.fft.next_fast_len(n, True) == n
    ]
    if not sizes:
        return whole
    near = [n for n in sizes if n <= 1.15 * minimum]
    powers = [n for n in near if n & (n - 1) == 0]
    sixteens = [n for n in near if n % 16 == 0]
    return (powers or sixteens or sizes)[0]
