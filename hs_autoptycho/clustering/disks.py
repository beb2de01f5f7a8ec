"""The disks of a mean diffraction pattern: their common profile, and where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, optimize, special

#: A mean pattern's pixel this much brighter than each of its neighbours is a detector's fault. The
#: sharpest of beams, narrower than a pixel, still has neighbours brighter than that.
_HOT = 8.0


class NoDiskError(ValueError):
    """The pattern has no direct beam with an edge that could be measured."""


@dataclass(frozen=True)
class DiskProfile:
    """Intensity of a disk against the distance from its centre, 1 in the middle.

    A disk of uniform intensity whose edge is an error function:
    ``erfc((r - radius) / (sqrt(2) edge)) / 2``. Distances are in pixels, those along rows and
    columns multiplied by `stretch` first, so that a disk stays round where pixels are no squares.
    """

    radius: float
    edge: float
    stretch: tuple[float, float] = (1.0, 1.0)

    @property
    def area(self) -> float:
        """Integral of the profile in pixels."""
        return float(np.pi * (self.radius**2 + self.edge**2) / np.prod(self.stretch))

    @property
    def reach(self) -> float:
        """Distance beyond which the profile is practically zero."""
        return self.radius + 2.5 * self.edge

    def distance(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Distance from the centre of the points (`rows`, `cols`) relative to it."""
        return np.hypot(self.stretch[0] * rows, self.stretch[1] * cols)

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        return 0.5 * special.erfc((distance - self.radius) / (np.sqrt(2) * self.edge))

    def slope(self, distance: np.ndarray) -> np.ndarray:
        """Derivative of the profile with respect to the distance."""
        u = (distance - self.radius) / self.edge
        return -np.exp(-0.5 * u**2) / (np.sqrt(2 * np.pi) * self.edge)


@dataclass(frozen=True)
class Disks:
    """Disks that were found in a pattern, the strongest first.

    positions
        (n, 2): row and column.
    errors
        (n,): standard error of a coordinate in pixels.
    heights
        (n,): intensity in the middle of a disk above what surrounds it.
    significances
        (n,): height in standard deviations of the pattern's noise.
    """

    positions: np.ndarray
    errors: np.ndarray
    heights: np.ndarray
    significances: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)


def faulty_pixels(mean_pattern: np.ndarray) -> np.ndarray:
    """Boolean image of the hot and the dead pixels of a mean pattern.

    Hot is a pixel more than eight times brighter than each of its eight neighbours, dead one that
    is zero where 15 counts are expected. What is not finite is faulty too.
    """
    pattern = np.asarray(mean_pattern, dtype=float)
    bad = ~np.isfinite(pattern)
    pattern = np.where(bad, 0.0, pattern)
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    # on the rim a pixel is not to be its own neighbour
    brightest = ndimage.maximum_filter(pattern, footprint=ring, mode="constant")
    around = ndimage.convolve(pattern, ring / 8.0, mode="nearest")
    gain = _gain(pattern)
    # the margins are those of a few counts, which are nothing unusual
    hot = pattern > _HOT * brightest + 20 * gain
    return bad | hot | ((pattern == 0) & (around > 15 * gain))


def mend(mean_pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pattern with its faulty pixels replaced by the median around them, and their mask."""
    bad = faulty_pixels(mean_pattern)
    pattern = np.where(np.isfinite(mean_pattern), mean_pattern, 0.0).astype(float)
    if bad.any():
        # faulty pixels side by side are nearer to a median of a wider surrounding
        pattern = np.where(bad, ndimage.median_filter(pattern, 5, mode="nearest"), pattern)
    return pattern, bad


def measure_direct_beam(
    mean_pattern: np.ndarray,
    *,
    radius: float | None = None,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> tuple[np.ndarray, DiskProfile]:
    """Fit a soft-edged disk to the brightest disk of a mean pattern.

    Parameters
    ----------
    mean_pattern
        Image (k_y, k_x) without faulty pixels.
    radius
        Radius of the disks in pixels where it is known; by default it is fitted. A known one is
        kept.
    stretch
        As for `DiskProfile`.

    Returns
    -------
    center
        (row, column).
    profile
        Radius and edge; the edge includes the blur by the pixels.

    Raises
    ------
    NoDiskError
        If nothing stands above its surroundings, or the fit leaves the detector.
    """
    pattern = np.asarray(mean_pattern, dtype=float)
    smooth = ndimage.gaussian_filter(pattern, 1.0 if radius is None else max(0.6 * radius, 0.7))
    peak = np.array(np.unravel_index(np.argmax(smooth), smooth.shape))
    low, high = float(np.median(smooth)), float(smooth[tuple(peak)])
    if not high > low:
        raise NoDiskError("the pattern is uniform: there is no direct beam")
    start = radius
    if start is None:
        labels, _ = ndimage.label(smooth > 0.5 * (low + high))
        area = (labels == labels[tuple(peak)]).sum() * np.prod(stretch)
        # half-height of a blurred small disk: the blur of 1 px widens it
        start = max(np.sqrt(max(area / np.pi - 1.0, 0.25)), 0.7)
    center = peak.astype(float)
    for _ in range(2):
        rows, cols = np.indices(pattern.shape)
        distance = np.hypot(stretch[0] * (rows - center[0]), stretch[1] * (cols - center[1]))
        near = distance < 1.5 * start + 2.5
        rows, cols, values = rows[near], cols[near], pattern[near]
        weight = 1 / np.sqrt(np.maximum(values, 0.02 * values.max()))

        def model(p, rows=rows, cols=cols, start=start):
            width = start if radius is not None else np.exp(p[2])
            profile = DiskProfile(width, np.exp(p[3]), stretch)
            return p[4] * profile(profile.distance(rows - p[0], cols - p[1])) + p[5]

        first = [*center, np.log(start), np.log(0.5), values.max() - low, values.min()]
        fit = optimize.least_squares(
            lambda p, model=model, values=values, weight=weight: (model(p) - values) * weight,
            first,
            x_scale=[1, 1, 0.2, 0.3, high, high],
            bounds=(
                [*(center - 3), np.log(0.3), np.log(0.2), 0, -np.inf],
                [*(center + 3), np.log(2 * start + 2), np.log(start + 1), np.inf, np.inf],
            ),
        )
        center = fit.x[:2]
        start = start if radius is not None else float(np.exp(fit.x[2]))
    if not fit.x[4] > 0 or not np.all((center >= 0) & (center <= np.array(pattern.shape) - 1)):
        raise NoDiskError("no disk could be fitted to the brightest part of the pattern")
    return center, DiskProfile(start, float(np.exp(fit.x[3])), tuple(map(float, stretch)))


def window_around(center, half, shape) -> tuple[slice, slice]:
    """The part of an image of `shape` within `half` pixels (rows, columns) of a place."""
    middle = [int(round(float(c))) for c in center]
    return tuple(
        slice(max(m - h, 0), max(min(m + h + 1, n), 0))
        for m, h, n in zip(middle, half, shape, strict=True)
    )


def _response(pattern: np.ndarray, profile: DiskProfile) -> tuple[np.ndarray, np.ndarray]:
    """Height of a disk centred at each pixel above the ring around it, and its noise.

    The noise supposes a variance proportional to the intensity, of unit gain.
    """
    outer = profile.reach + 1.5
    half = [int(np.ceil(outer / s)) for s in profile.stretch]
    rows, cols = np.ogrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1]
    distance = profile.distance(rows, cols)
    disk = np.where(distance < outer, profile(distance), 0.0)
    inside = distance < outer
    # least squares of height * disk + constant: the constant is projected out of the template
    template = np.where(inside, disk - disk[inside].mean(), 0.0)
    template /= (template * disk).sum()
    padded = np.pad(pattern, [(h, h) for h in half], mode="edge")
    shape = [fft.next_fast_len(n + 2 * h) for n, h in zip(padded.shape, half, strict=True)]

    def correlate(image, kernel):
        product = fft.rfft2(image, shape) * np.conj(fft.rfft2(kernel, shape))
        full = fft.irfft2(product, shape)
        return full[: pattern.shape[0], : pattern.shape[1]]

    variance = correlate(np.maximum(padded, 0), template**2)
    return correlate(padded, template), np.sqrt(np.maximum(variance, variance.max() * 1e-9))


def _gain(pattern: np.ndarray) -> float:
    """Variance of a pattern's noise over its intensity, from differences of adjacent pixels.

    Kernel of J. Immerkaer, Comput. Vis. Image Underst. 64, 300 (1996), which planes and slopes do
    not touch; the median leaves out the edges of the disks.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=float)
    variance = ndimage.convolve(np.maximum(pattern, 0), kernel**2)
    lit = variance > 0
    ratio = ndimage.convolve(pattern, kernel)[lit] ** 2 / variance[lit]
    # 0.455: the median of a chi-squared of one degree of freedom
    gain = float(np.median(ratio)) / 0.455
    # sparse counts: more than half of the differences are zero
    return max(gain, 0.25 * float(np.mean(np.minimum(ratio, np.quantile(ratio, 0.9)))), 1e-12)


def find_disks(
    mean_pattern: np.ndarray, profile: DiskProfile, *, significance: float = 5.0, count: int = 120
) -> Disks:
    """Find the disks of a pattern by correlation with a soft-edged disk, and refine them.

    The correlation is that of a least-squares fit of a disk on a constant ground. A disk counts if
    its height exceeds `significance` times the noise. That is taken to grow with the square root of
    the intensity, its scale from differences of adjacent pixels, so that averages and scaled data
    need no gain.

    Parameters
    ----------
    mean_pattern
        Image (k_y, k_x) without faulty pixels.
    profile
        Of the disks.
    significance
        Smallest height of a disk in standard deviations.
    count
        At most this many, the strongest.
    """
    pattern = np.asarray(mean_pattern, dtype=float)
    height, noise = _response(pattern, profile)
    score = height / noise
    spread = np.sqrt(_gain(pattern))
    score = score / spread
    size = [max(3, 2 * int(round(0.8 * profile.radius / s)) + 1) for s in profile.stretch]
    peaks = (score == ndimage.maximum_filter(score, size, mode="nearest")) & (score > significance)
    places = np.argwhere(peaks)
    places = places[np.argsort(-height[peaks], kind="stable")][:count]
    found = []
    for place in places:
        refined = _refine(pattern, place, profile)
        if refined is None:
            continue
        center, error, top = refined
        if all(profile.distance(*(center - other[0])) > profile.radius for other in found):
            found.append((center, error * spread, top, score[tuple(place)]))
    if not found:
        return Disks(np.empty((0, 2)), np.empty(0), np.empty(0), np.empty(0))
    return Disks(*(np.array(column) for column in zip(*found, strict=True)))


def _refine(pattern, place, profile: DiskProfile):
    """Least squares for (row, column, height, ground) around a pixel; None if it runs away."""
    outer = profile.reach + 1.5
    half = [int(np.ceil(outer / s)) + 1 for s in profile.stretch]
    window = window_around(place, half, pattern.shape)
    values = pattern[window]
    rows, cols = np.ogrid[window]
    weight = np.maximum(values, 0.05 * max(values.max(), 1e-300))
    center = np.array(place, dtype=float)
    for _ in range(12):
        dy, dx = rows - center[0], cols - center[1]
        distance = profile.distance(dy, dx)
        inside = distance < outer
        disk = profile(distance)
        radial = -profile.slope(distance) / np.maximum(distance, 1e-9)
        ones = np.ones_like(values)
        shape = [ones, disk]
        w = np.where(inside, 1 / weight, 0.0)
        linear = np.stack([s.ravel() for s in shape], axis=1)
        normal = linear.T @ (linear * w.ravel()[:, None])
        ground, height = np.linalg.solve(
            normal + 1e-12 * np.trace(normal) * np.eye(2), linear.T @ (values * w).ravel()
        )
        if not height > 0:
            return None
        f_row, f_col = profile.stretch
        slopes = height * radial * f_row**2 * dy, height * radial * f_col**2 * dx
        design = np.stack([s.ravel() for s in (*slopes, disk, ones)], axis=1)
        residual = (values - ground - height * disk).ravel()
        normal = design.T @ (design * w.ravel()[:, None])
        try:
            step = np.linalg.solve(normal, design.T @ (residual * w.ravel()))[:2]
        except np.linalg.LinAlgError:
            return None
        length = np.abs(step).max()
        center = center + step * min(1.0, 0.5 * profile.radius / max(length, 1e-12))
        if np.hypot(*(center - place)) > profile.radius + 1.5:
            return None
        if length < 1e-3:
            break
    # variance proportional to the intensity, in units in which the gain is one
    covariance = np.linalg.inv(normal)
    if not np.all(np.isfinite(covariance)) or covariance[0, 0] <= 0 or covariance[1, 1] <= 0:
        return None
    return center, float(np.sqrt(0.5 * (covariance[0, 0] + covariance[1, 1]))), float(height)
