"""The bright-field disk of a mean diffraction pattern: its centre and its radius."""

from __future__ import annotations

import logging

import numpy as np
from scipy import ndimage

_logger = logging.getLogger(__name__)

#: Smallest radius, in pixels, which can be told from a few hot pixels.
MIN_RADIUS = 1.5

_REMEDY = (
    "Pass what you know of it with `disk_center=(row, column)` and `disk_radius=...`, both in "
    "detector pixels, or check that the signal's last two axes are the detector's "
    "(`s.transpose(signal_axes=2)`) and that the bright-field disk lies inside it."
)


class DiskError(ValueError):
    """No bright-field disk could be measured in a diffraction pattern."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The bright-field disk could not be measured: {reason}. {_REMEDY}")


def measure_disk(mean_pattern) -> tuple[float, float, float]:
    """Measure the bright-field disk of a mean diffraction pattern.

    A sweep of thresholds finds the compact regions with the steepest rims. The rim is then followed
    along rays from the centre: on each ray it is where the intensity passes half-way between the
    levels just inside and just outside, and a robust circle is put through these points, so that
    structure in the disk, a diffuse background and single hot or dead pixels have little say.

    Parameters
    ----------
    mean_pattern
        Mean of many diffraction patterns, shape (k_y, k_x), in any unit of intensity. The two
        sizes may differ, and the disk may be anywhere in the pattern.

    Returns
    -------
    center_row, center_col, radius
        In detector pixels; (0, 0) is the centre of the first pixel. The radius is that of the
        half-height of the rim.

    Raises
    ------
    DiskError
        If the pattern is not a finite two-dimensional image, is empty or uniform, has no region
        with a sharp, circular rim, or if the disk reaches past the edge of the detector.

    Notes
    -----
    That the radius which hardly depends on the threshold is the disk's is the idea of
    ``get_probe_size`` of py4DSTEM (B. H. Savitzky et al., Microsc. Microanal. 27, 712, 2021).
    """
    pattern = _checked(mean_pattern)
    pattern, smooth = _without_spikes(pattern)
    refusal = None
    for candidate in _candidates(smooth):
        try:
            row, col, radius, share = _refine(pattern, *candidate)
            _check_result(pattern, smooth, row, col, radius, share)
        except DiskError as error:
            _logger.debug("candidate %s refused: %s", candidate, error)
            refusal = refusal or error
        else:
            return float(row), float(col), float(radius)
    raise refusal or DiskError("no region of the pattern stands out of its surroundings")


def _checked(mean_pattern) -> np.ndarray:
    pattern = np.asarray(mean_pattern)
    if pattern.ndim != 2 or min(pattern.shape) < 8:
        raise DiskError(
            f"an image of at least 8 x 8 pixels is needed, this one has the shape {pattern.shape}"
        )
    if pattern.dtype.kind not in "biuf":
        raise DiskError(f"intensities must be real numbers, these are of the type {pattern.dtype}")
    pattern = pattern.astype(np.float64)
    n_bad = int(pattern.size - np.isfinite(pattern).sum())
    if n_bad:
        raise DiskError(f"{n_bad} of the mean pattern's {pattern.size} pixels are not finite")
    if np.ptp(pattern) <= 1e-9 * np.abs(pattern).max():
        raise DiskError(f"the mean pattern is uniform (all pixels are {pattern.flat[0]:.4g})")
    return pattern


def _without_spikes(pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pattern with single hot and dead pixels mended, and its 3x3 median."""
    smooth = ndimage.median_filter(pattern, 3, mode="nearest")
    height = np.ptp(smooth)
    if height <= 0:
        raise DiskError("nothing but single bright pixels stands out of the mean pattern")
    spikes = np.abs(pattern - smooth) > 0.75 * height
    if spikes.mean() > 0.03:
        raise DiskError("there are too few counts in the mean pattern")
    return np.where(spikes, smooth, pattern), smooth


def _candidates(smooth: np.ndarray, count: int = 4) -> list[tuple[float, float, float]]:
    """Find compact regions with a steep and long rim in a sweep of thresholds, best first.

    A candidate is (row, column, radius); candidates differ by a quarter of the radius or more.
    """
    low, high = smooth.min(), smooth.max()
    # Even steps of intensity find a disk on a dark ground, even steps of area one on a bright one.
    levels = np.linspace(low, high, 32)[1:-1]
    ordered = np.sort(smooth, axis=None)[::-1]
    areas = np.geomspace(6, 0.8 * smooth.size, 32).astype(int)
    levels = np.unique(np.concatenate([levels, ordered[areas]]))
    slope = ndimage.gaussian_gradient_magnitude(smooth, 1.0)
    found = []
    for level in levels[levels > low]:
        labels, n_labels = ndimage.label(smooth >= level)
        excess = (smooth - level).ravel() + 1e-12 * (high - low)
        weight = np.bincount(labels.ravel(), weights=excess, minlength=n_labels + 1)
        weight[0] = -1.0
        region = ndimage.binary_fill_holes(labels == int(np.argmax(weight)))
        area = int(region.sum())
        if area < 5 or area > 0.9 * smooth.size:
            continue
        rim = region & ~ndimage.binary_erosion(region, border_value=1)
        rows, cols = np.nonzero(region)
        spread = np.cov(np.stack([rows, cols])) + np.eye(2) / 12
        small, large = np.linalg.eigvalsh(spread)
        # 1 for a full circle, less for a ragged or an elongated region.
        roundness = area / (4 * np.pi * np.sqrt(small * large)) * np.sqrt(small / large)
        score = slope[rim].mean() * np.sqrt(area) * min(roundness, 1.0) ** 2
        radius = max(np.sqrt(area / np.pi), MIN_RADIUS)
        found.append((score, float(rows.mean()), float(cols.mean()), float(radius)))
    chosen: list[tuple[float, float, float]] = []
    for _, row, col, radius in sorted(found, reverse=True):
        if len(chosen) < count and all(
            max(np.hypot(row - r, col - c), abs(radius - s)) > 0.25 * max(radius, s)
            for r, c, s in chosen
        ):
            chosen.append((row, col, radius))
    return chosen


def _refine(
    pattern: np.ndarray, row: float, col: float, radius: float
) -> tuple[float, float, float, float]:
    """Follow the rim and fit a circle until it stays where it is.

    Returns row, column, radius and the share of the rays whose edge lies on the circle.
    """
    for _ in range(25):
        angles, rims = _rim(pattern, row, col, radius)
        found = np.isfinite(rims)
        if found.sum() < max(8, 0.5 * angles.size):
            raise DiskError("no region of the pattern has an edge all around it")
        shift_row, shift_col, new_radius, kept = _fit_circle(angles[found], rims[found])
        step = max(abs(shift_row), abs(shift_col), abs(new_radius - radius))
        row, col, radius = row + shift_row, col + shift_col, new_radius
        if not (MIN_RADIUS <= radius < max(pattern.shape)):
            raise DiskError(f"the only bright region has a radius of {radius:.3g} px")
        if step < 5e-3:
            break
    return row, col, radius, kept / angles.size


def _profiles(
    pattern: np.ndarray, row: float, col: float, angles: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sample rays from a centre: intensities (angle, radius), and where they are on the image."""
    rows = row + np.sin(angles)[:, None] * radii
    cols = col + np.cos(angles)[:, None] * radii
    inside = (rows >= -0.5) & (rows <= pattern.shape[0] - 0.5)
    inside &= (cols >= -0.5) & (cols <= pattern.shape[1] - 0.5)
    values = ndimage.map_coordinates(pattern, [rows, cols], order=1, mode="nearest")
    return values, inside


def _rim(
    pattern: np.ndarray, row: float, col: float, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the centre to the half-height of the edge on rays all around.

    Returns the angles and the distances, NaN where a ray shows no edge on the detector.
    """
    gap, width = _windows(radius)
    angles = np.arange(int(np.clip(4 * np.pi * radius, 48, 360)))
    angles = angles * (2 * np.pi / angles.size)
    radii = np.arange(0.0, radius + gap + width + 0.05, 0.1)
    values, on_image = _profiles(pattern, row, col, angles, radii)

    inner = (radii >= radius - gap - width) & (radii <= radius - gap)
    outer = (radii >= radius + gap) & (radii <= radius + gap + width)
    # Levels come from a sector, not from one ray, so that noise does not move the half-height.
    sector = max(1, angles.size // 12)
    inside = _around(np.median(values[:, inner], axis=1), sector)
    outside = np.where(on_image, values, np.nan)[:, outer]
    seen = np.isfinite(outside).sum(axis=1) > 0.3 * outer.sum()
    outside = np.array(
        [np.nanmedian(o) if ok else np.nan for o, ok in zip(outside, seen, strict=True)]
    )
    if not seen.any():
        raise DiskError("the bright region fills the detector")
    # Rays which leave the detector early borrow the level of the others.
    outside = _around(np.where(seen, outside, np.nanmedian(outside)), sector)
    half = 0.5 * (inside + outside)

    search = (radii >= max(0.0, radius - gap - 0.5 * width)) & (radii <= radius + gap + 0.5 * width)
    there, values, on_image = radii[search], values[:, search], on_image[:, search]
    high = (values - half[:, None]) * np.sign(inside - outside)[:, None]
    falls = (high[:, :-1] > 0) & (high[:, 1:] <= 0) & on_image[:, 1:]
    rims = np.full(angles.size, np.nan)
    for i in np.flatnonzero(falls.any(axis=1) & (inside > outside)):
        at = np.flatnonzero(falls[i])
        part = high[i, at] / (high[i, at] - high[i, at + 1])
        rims[i] = np.mean((there[at] + 0.1 * part)[[0, -1]])
    return angles, rims


def _windows(radius: float) -> tuple[float, float]:
    """Distance of the inner and outer level from the rim, and the width each is taken over."""
    return max(0.2 * radius, min(0.5 * radius, 2.0)), max(0.3 * radius, 1.5)


def _around(values: np.ndarray, size: int) -> np.ndarray:
    return ndimage.median_filter(values, size, mode="wrap")


def _fit_circle(angles: np.ndarray, rims: np.ndarray) -> tuple[float, float, float, int]:
    """Robust circle through points around the present centre (Tukey's biweight).

    Returns the centre's shift (row, column), the radius and the number of points which agree.
    """
    design = np.stack([np.sin(angles), np.cos(angles), np.ones_like(angles)], axis=1)
    solution = np.array([0.0, 0.0, np.median(rims)])
    weights = np.ones_like(rims)
    for _ in range(20):
        residual = rims - design @ solution
        scale = max(1.4826 * np.median(np.abs(residual)), 0.05)
        weights = np.clip(1 - (residual / (4.7 * scale)) ** 2, 0, None) ** 2
        root = np.sqrt(weights)
        new, *_ = np.linalg.lstsq(design * root[:, None], rims * root, rcond=None)
        moved = np.abs(new - solution).max()
        solution = new
        if moved < 1e-3:
            break
    residual = np.abs(rims - design @ solution)
    kept = int((residual < max(0.15 * solution[2], 1.0)).sum())
    return solution[0], solution[1], solution[2], kept


def _check_result(
    pattern: np.ndarray, smooth: np.ndarray, row: float, col: float, radius: float, share: float
) -> None:
    """Refuse a circle which is not a disk's rim, or a disk which is not all on the detector."""
    rows, cols = pattern.shape
    beyond = {
        "first row": radius - row - 0.5,
        "last row": row + radius - rows + 0.5,
        "first column": radius - col - 0.5,
        "last column": col + radius - cols + 0.5,
    }
    side = max(beyond, key=beyond.get)
    if beyond[side] > 0.5:
        raise DiskError(
            f"it seems to have a radius of {radius:.1f} px around row {row:.1f}, column {col:.1f}, "
            f"and so to reach {beyond[side]:.1f} px past the detector's {side}"
        )
    if share < 0.6:
        raise DiskError(
            f"only {100 * share:.0f} % of the edge of the brightest region lies on a circle"
        )
    angles = np.arange(360) * (np.pi / 180)
    reach = max(0.2 * radius, min(0.6 * radius, 2.0))
    # Fall of the ray-averaged intensity: near the rim, and from well inside to well outside.
    near = np.array([radius - reach, radius + reach])
    far = np.array([max(0.0, min(0.5 * radius, radius - 2 * reach)), radius + 3 * reach])
    values, on_image = _profiles(pattern, row, col, angles, np.concatenate([near, far]))
    if not on_image[:, 3].any():
        on_image[:, 3] = on_image[:, 1]
    mean = [
        np.median(v[ok]) if ok.any() else np.nan for v, ok in zip(values.T, on_image.T, strict=True)
    ]
    fall, whole = mean[0] - mean[1], mean[2] - mean[3]
    # Chance clusters of counts have edges too: ask for a disk far above the noise around it.
    distance = np.hypot(*(np.indices(pattern.shape) - np.array([row, col])[:, None, None]))
    within = distance <= radius
    around = (distance > radius + reach) & (distance < 2 * radius + reach + 2)
    noise = np.std((pattern - smooth)[distance > radius + reach])
    excess = pattern[within].mean() - pattern[around].mean() if around.any() else fall
    if not (fall > 0.02 * abs(mean[0]) and excess > 10 * noise / np.sqrt(within.sum())):
        raise DiskError(f"the edge at a radius of {radius:.1f} px is too faint to be trusted")
    if fall < 0.55 * whole:
        raise DiskError(
            f"the intensity falls gradually, only {100 * fall / whole:.0f} % of it within "
            f"{reach:.1f} px of the radius {radius:.1f} px; there is no edge"
        )
