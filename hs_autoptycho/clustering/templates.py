"""What a leaf's mean pattern says of its patterns: lattice, disks and background."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from hs_autoptycho.clustering import strain_kernels as kernels
from hs_autoptycho.clustering.disks import (
    DiskProfile,
    NoDiskError,
    find_disks,
    measure_direct_beam,
    mend,
    window_around,
)
from hs_autoptycho.clustering.lattice import Lattice, NoLattice, find_lattice

_PER_PIXEL = 64.0  # entries of the profile's table in a pixel
_FAINTEST = 3.0  # standard deviations of a disk's height from which it is part of the model
_COARSE_DISKS = 5  # strongest disks, by which a pattern's shift is searched
_FLOOR = 0.005  # of the median disk: below it single counts far from a disk would decide


@dataclass(frozen=True)
class LeafTemplate:
    """The model of a leaf's patterns, as arrays that the compiled fit takes.

    lattice
        Refined on the mean pattern with the model itself.
    profile
        Of the disks.
    indices, heights
        (n, 2) and (n,): the disks that stand out in the mean pattern.
    background
        (k_y, k_x): what is left beside the disks, smoothed.
    usable
        (k_y, k_x) uint8: 0 for faulty pixels.
    window
        Radius around a disk within which counts are looked at.
    tables, coarse
        Profile and slope; pixels and weights of the strongest disks.
    place_variance
        Mean variance of the disks' places in a pattern as bright as the mean, for counts.
    """

    lattice: Lattice
    profile: DiskProfile
    indices: np.ndarray
    heights: np.ndarray
    background: np.ndarray
    usable: np.ndarray
    window: float
    tables: tuple[np.ndarray, np.ndarray]
    coarse: tuple[np.ndarray, np.ndarray, np.ndarray]
    place_variance: float = 0.0

    def arguments(self, max_shift: int) -> tuple:
        """The arguments of `kernels.fit_lattice` between the pattern and the result."""
        return (
            self.usable, self.background, self.lattice.origin, self.lattice.basis,
            self.indices.astype(float), self.heights, *self.tables, _PER_PIXEL,
            np.array(self.profile.stretch), self.window, _mean_radius(self.profile),
            *self.coarse, int(max_shift),
        )  # fmt: skip

    @property
    def resolution(self) -> float:
        """Error of the disks' places, in pixels, up to which their likelihood is nearly a parabola.

        Beyond it standard errors would be too small. The number was found by simulation.
        """
        profile = self.profile
        return 0.36 * float(np.sqrt(profile.radius * profile.edge / np.prod(profile.stretch)))


def _mean_radius(profile: DiskProfile) -> float:
    return profile.radius / float(np.sqrt(np.prod(profile.stretch)))


def make_template(
    mean_pattern: np.ndarray,
    *,
    stretch: tuple[float, float] = (1.0, 1.0),
    disk_radius: float | None = None,
) -> LeafTemplate | NoLattice:
    """Model the patterns of a leaf after their mean.

    Parameters
    ----------
    mean_pattern
        (k_y, k_x), in any unit of intensity.
    stretch
        As for `disks.DiskProfile`.
    disk_radius
        In pixels; by default it is that of the direct beam.

    Returns
    -------
    LeafTemplate or NoLattice
        The latter with the reason, if the pattern has no disks or these no lattice.
    """
    pattern, bad = mend(mean_pattern)
    try:
        center, profile = measure_direct_beam(pattern, radius=disk_radius, stretch=stretch)
    except NoDiskError as error:
        return NoLattice(str(error))
    disks = find_disks(pattern, profile)
    lattice = find_lattice(disks, center, profile.radius, stretch=stretch)
    if isinstance(lattice, NoLattice):
        return lattice
    template = None
    for _ in range(2):
        template = _model(pattern, bad, profile, lattice)
        if isinstance(template, NoLattice):
            return template
        refined = refine(pattern, template)
        if refined is None:
            break
        lattice, variance = refined
        template = replace(template, lattice=lattice, place_variance=variance)
    return template


def refine(pattern: np.ndarray, template: LeafTemplate) -> tuple[Lattice, float] | None:
    """Lattice of a mean pattern by maximum likelihood, and the variance of the disks' places.

    None where the fit fails.
    """
    out = np.empty(kernels.N_VALUES)
    kernels.fit_lattice(np.ascontiguousarray(pattern), *template.arguments(1), out)
    if out[kernels.STATUS] != kernels.FITTED:
        return None
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = template.lattice.covariance[:2, :2]
    covariance[2:, 2:] = unpack(out[6:16]) * out[kernels.DISPERSION]
    basis = template.lattice.basis + out[2:6].reshape(2, 2)
    lattice = Lattice(out[:2].copy(), basis, covariance, template.indices)
    return lattice, float(out[kernels.VARIANCE])


def unpack(triangle: np.ndarray) -> np.ndarray:
    """Symmetric (..., 4, 4) from its upper triangles (..., 10)."""
    index = np.zeros((4, 4), int)
    index[np.triu_indices(4)] = np.arange(10)
    index = np.maximum(index, index.T)
    return triangle[..., index]


def _model(pattern, bad, profile: DiskProfile, lattice: Lattice) -> LeafTemplate | NoLattice:
    indices, centers = _points_on_detector(lattice, pattern.shape)
    spacing = np.hypot(*(lattice.basis * profile.stretch).T).min()
    window = min(profile.reach + 1.0, max(0.5 * spacing, 0.7 * profile.radius))
    heights, errors = _heights(pattern, profile, centers, min(window + 1.0, 0.6 * spacing + 0.5))
    chosen = heights > _FAINTEST * errors
    indices, centers, heights = indices[chosen], centers[chosen], heights[chosen]
    if len(heights) < 3 or np.linalg.matrix_rank(indices) < 2:
        return NoLattice(f"only {len(heights)} disks of the lattice stand out in the mean pattern")
    background = _background(pattern, profile, centers, heights)
    background = np.maximum(background, _FLOOR * np.median(heights))
    order = np.argsort(-heights, kind="stable")
    steps = np.arange(int(profile.reach * _PER_PIXEL * 1.3) + 3) / _PER_PIXEL
    return LeafTemplate(
        lattice,
        profile,
        indices[order],
        heights[order],
        background,
        (~bad).astype(np.uint8),
        float(window),
        (profile(steps), profile.slope(steps)),
        _coarse(background, profile, centers[order], heights[order]),
    )


def _points_on_detector(lattice: Lattice, shape) -> tuple[np.ndarray, np.ndarray]:
    """Indices and places of all lattice points on the detector, nearest to the origin first."""
    corners = np.array([[0, 0], [0, shape[1]], [shape[0], 0], shape]) - lattice.origin
    reach = int(np.ceil(np.abs(corners @ np.linalg.inv(lattice.basis)).max()))
    h, k = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    indices = np.column_stack([h, k])
    places = lattice.points(indices)
    inside = np.all((places >= 0) & (places <= np.array(shape) - 1), axis=1)
    indices, places = indices[inside], places[inside]
    order = np.argsort(((places - lattice.origin) ** 2).sum(axis=1), kind="stable")
    return indices[order], places[order]


def _heights(pattern, profile: DiskProfile, centers, outer) -> tuple[np.ndarray, np.ndarray]:
    """Height of a disk at each place by weighted least squares, and its standard error."""
    heights, errors = np.zeros(len(centers)), np.full(len(centers), np.inf)
    half = [int(np.ceil(outer / s)) + 1 for s in profile.stretch]
    for i, center in enumerate(centers):
        window = window_around(center, half, pattern.shape)
        rows, cols = np.ogrid[window]
        distance = profile.distance(rows - center[0], cols - center[1])
        near = distance < outer
        values = pattern[window][near]
        if values.size < 6 or not values.max() > 0:
            continue
        design = np.column_stack([profile(distance[near]), np.ones(values.size)])
        weight = 1 / np.maximum(values, 0.05 * values.max())
        normal = design.T @ (design * weight[:, None])
        if np.linalg.cond(normal) > 1e8:
            continue
        covariance = np.linalg.inv(normal)
        fit = covariance @ (design.T @ (values * weight))
        chi_squared = (weight * (values - design @ fit) ** 2).sum() / (values.size - 2)
        heights[i], errors[i] = fit[0], np.sqrt(covariance[0, 0] * chi_squared)
    return heights, errors


def _draw_disks(shape, profile: DiskProfile, centers, heights) -> np.ndarray:
    image = np.zeros(shape)
    half = [int(np.ceil((profile.reach + 0.5) / s)) + 1 for s in profile.stretch]
    for center, height in zip(centers, heights, strict=True):
        window = window_around(center, half, shape)
        rows, cols = np.ogrid[window]
        image[window] += height * profile(profile.distance(rows - center[0], cols - center[1]))
    return image


def _background(pattern, profile: DiskProfile, centers, heights) -> np.ndarray:
    """What the disks leave, smoothed; their insides count little, where the model errs most."""
    left = pattern - _draw_disks(pattern.shape, profile, centers, heights)
    beyond = profile.reach + 0.5
    covered = np.zeros(pattern.shape, bool)
    for center in centers:
        rows, cols = np.ogrid[: pattern.shape[0], : pattern.shape[1]]
        covered |= profile.distance(rows - center[0], cols - center[1]) < beyond
    weight = np.where(covered, 0.01, 1.0)
    numerator, denominator = 0.0, 0.0
    # wider blurs fill what the narrow one does not reach
    for widths, share in ((0.7, 1.0), (2.0, 1e-2), (6.0, 1e-4)):
        sigma = [widths * profile.radius / s for s in profile.stretch]
        numerator = numerator + share * ndimage.gaussian_filter(left * weight, sigma)
        denominator = denominator + share * ndimage.gaussian_filter(weight, sigma)
    return numerator / denominator


def _coarse(background, profile: DiskProfile, centers, heights):
    """Pixels of the strongest disks, and the logarithm of how much they raise the background."""
    rows, cols, weights = [], [], []
    area = profile.radius + 0.5 * profile.edge
    for center, height in list(zip(centers, heights, strict=True))[:_COARSE_DISKS]:
        distance = profile.distance(
            *(g - c for g, c in zip(np.indices(background.shape), center, strict=True))
        )
        y, x = np.nonzero(distance < area)
        rows.append(y)
        cols.append(x)
        weights.append(np.log1p(height * profile(distance[y, x]) / background[y, x]))
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(weights)
