"""Strain and rotation at every position of a scan, from lattices seeded by its leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from hs_autoptycho.clustering import strain_kernels as kernels
from hs_autoptycho.clustering.deformation import COMPONENTS, deformation, strain_components
from hs_autoptycho.clustering.lattice import Lattice, NoLattice, nearest_basis, reduce_basis
from hs_autoptycho.clustering.streaming import map_patterns
from hs_autoptycho.clustering.templates import LeafTemplate, make_template, unpack

NOT_CLUSTERED, NO_LATTICE, STRAINED = 1, 2, 6
#: What the numbers in a map of reasons mean.
REASONS = (
    "fitted",
    "the position belongs to no cluster",
    "the cluster's mean pattern has no lattice",
    "too few counts in the disks",
    "the fit did not converge",
    "the pattern is displaced by more than a disk's radius from where it was found",
    "the lattice differs from the cluster's by more than max_strain",
    "the pattern has no counts, or counts that are no numbers",
)


@dataclass(frozen=True)
class StrainResult:
    """What `fit_strain` found; arrays follow the scan (y, x).

    strain, errors
        float32 (4, y, x): the `COMPONENTS` and their standard errors, NaN where `reasons` is not 0.
    reasons
        int8 (y, x): index into `REASONS`.
    lattices
        A `Lattice` a leaf, in detector pixels and in the basis that is equivalent to the
        reference's, or a `NoLattice`.
    templates
        The model of each leaf's patterns.
    reference
        (2, 2): the lattice of no strain, rows g1 and g2, each (k_y, k_x), in the axes' units; the
        largest leaf's where each has its own.
    reference_text
        What it is.
    origins
        float32 (y, x, 2): row and column of the direct beam in pixels.
    dispersions
        One a leaf: variance of the counts over the model's, 1 for counted electrons.
    """

    strain: np.ndarray
    errors: np.ndarray
    reasons: np.ndarray
    lattices: tuple[Lattice | NoLattice, ...]
    templates: tuple[LeafTemplate | NoLattice, ...]
    reference: np.ndarray
    reference_text: str
    origins: np.ndarray
    dispersions: np.ndarray


@dataclass(frozen=True)
class LatticeKernel:
    """Fits each pattern with its leaf's template; for `streaming.map_patterns`."""

    templates: tuple[LeafTemplate | NoLattice, ...]
    leaf_labels: np.ndarray
    max_shift: int

    def __call__(self, patterns: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if patterns.dtype == np.float16:  # which compiled code does not know
            patterns = patterns.astype(np.float32)
        out = np.full((len(patterns), kernels.N_VALUES), np.nan)
        leaves = self.leaf_labels.ravel()[positions]
        out[leaves < 0, kernels.STATUS] = NOT_CLUSTERED
        for leaf, template in enumerate(self.templates):
            chosen = np.flatnonzero(leaves == leaf)
            if isinstance(template, NoLattice):
                out[chosen, kernels.STATUS] = NO_LATTICE
            elif chosen.size:
                kernels.fit_lattices(patterns, chosen, *template.arguments(self.max_shift), out)
        return out


def fit_strain(
    data,
    leaf_labels: np.ndarray,
    leaf_means: np.ndarray,
    *,
    scales: tuple[float, float] = (1.0, 1.0),
    reference: Any = None,
    spatial_smoothing: float = 0.0,
    max_strain: float = 0.1,
    max_shift: int | None = None,
    disk_radius: float | None = None,
    progress: Callable[[int], object] | None = None,
    num_workers: int | None = None,
) -> StrainResult:
    """Fit the lattice of every pattern, seeded by the lattice of its leaf's mean pattern.

    Parameters
    ----------
    data
        Array (scan_y, scan_x, k_y, k_x), numpy or dask.
    leaf_labels
        Integers (scan_y, scan_x): the leaf of each position, -1 for none.
    leaf_means
        (leaves, k_y, k_x): mean patterns, the patterns of a leaf aligned.
    scales
        Size of a pixel (k_y, k_x) in the units in which the lattice is stated.
    reference
        None for the largest leaf with a lattice, the number of a leaf, ``"own"`` for each leaf's
        own mean pattern, a boolean mask of the scan, or a float array (2, 2): columns g1 and g2,
        rows k_x and k_y, in the units of `scales`.
    spatial_smoothing
        Standard deviation in positions of a Gaussian, over which the lattices of neighbours of the
        same leaf are averaged with the weight of their information.
    max_strain
        Largest accepted deviation of a position's lattice from its leaf's, as a fraction.
    max_shift
        Range in pixels of the search for a pattern's shift against its leaf's mean; by default an
        eighth of the detector.
    disk_radius
        In pixels; by default measured on the direct beam of each mean pattern.
    progress, num_workers
        As for `streaming.map_patterns`.

    Raises
    ------
    ValueError
        If no leaf has a lattice, or the reference has none.
    """
    leaf_labels = np.asarray(leaf_labels)
    scale = np.asarray(scales, dtype=float)
    stretch = tuple(float(s) for s in np.abs(scale) / np.sqrt(np.abs(np.prod(scale))))
    templates = tuple(
        make_template(mean, stretch=stretch, disk_radius=disk_radius) for mean in leaf_means
    )
    if all(isinstance(t, NoLattice) for t in templates):
        listed = "; ".join(f"{i}: {t.reason}" for i, t in enumerate(templates))
        raise ValueError(
            f"no cluster's mean pattern has a lattice ({listed}); where disks are visible, pass "
            "`disk_radius=` in detector pixels"
        )
    if max_shift is None:
        max_shift = min(min(data.shape[2:]) // 8, 32)
    fitted = map_patterns(
        data,
        LatticeKernel(templates, leaf_labels, int(max_shift)),
        kernels.N_VALUES,
        dtype=np.float32,
        progress=progress,
        num_workers=num_workers,
    )
    reasons = fitted[..., kernels.STATUS].astype(np.int8)
    dispersions = _dispersions(fitted, leaf_labels, reasons, len(templates))
    faint = _too_faint(fitted, leaf_labels, templates, dispersions)
    lacking = (reasons == kernels.FITTED) | (reasons == kernels.NOT_CONVERGED)
    reasons[faint & lacking] = kernels.TOO_FEW_COUNTS
    first, text = _reference_basis(reference, templates, leaf_labels, scale)
    changes = [
        None if isinstance(t, NoLattice) else nearest_basis(t.lattice.basis * scale, first)
        for t in templates
    ]
    deviation, covariance = _changed(fitted, leaf_labels, changes, dispersions)
    failed = reasons != kernels.FITTED
    lattices = tuple(
        t if isinstance(t, NoLattice) else t.lattice.transformed(change)
        for t, change in zip(templates, changes, strict=True)
    )
    seeds = np.full((*leaf_labels.shape, 2, 2), np.nan)
    for leaf, lattice in enumerate(lattices):
        if isinstance(lattice, Lattice):
            seeds[leaf_labels == leaf] = lattice.basis
    basis = (seeds + deviation.reshape(seeds.shape)) * scale
    with np.errstate(invalid="ignore"):
        against_leaf = deformation(basis, seeds * scale) - np.eye(2)
        too_far = np.linalg.norm(np.nan_to_num(against_leaf), ord=2, axis=(-2, -1)) > max_strain
    reasons[~failed & too_far] = STRAINED
    failed = reasons != kernels.FITTED
    if spatial_smoothing:
        deviation, covariance = smooth(
            deviation, covariance, leaf_labels, ~failed, float(spatial_smoothing)
        )
        basis = (seeds + deviation.reshape(seeds.shape)) * scale
    if isinstance(reference, np.ndarray) and reference.dtype == bool:
        first = _mean_basis(basis, covariance, reference & ~failed)
    twice = np.tile(scale, 2)
    covariance = covariance * np.outer(twice, twice)
    own = isinstance(reference, str)
    values, errors = strain_components(basis, seeds * scale if own else first, covariance)
    values[failed], errors[failed] = np.nan, np.nan
    return StrainResult(
        np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32),
        np.ascontiguousarray(np.moveaxis(errors, -1, 0), dtype=np.float32),
        reasons,
        lattices,
        templates,
        first,
        text,
        np.where(failed[..., None], np.nan, fitted[..., :2]).astype(np.float32),
        dispersions,
    )


def _reference_basis(reference, templates, leaf_labels, scale) -> tuple[np.ndarray, str]:
    """Basis, rows (k_y, k_x), that leaves are brought near to, and what it is."""
    sizes = np.bincount(leaf_labels[leaf_labels >= 0].ravel(), minlength=len(templates))
    have = [i for i, t in enumerate(templates) if not isinstance(t, NoLattice)]
    if reference is None or isinstance(reference, str):
        leaf = max(have, key=lambda i: sizes[i])
        if reference is not None:
            text = "the mean pattern of each position's own cluster"
            return reduce_basis(templates[leaf].lattice.basis * scale), text
        text = f"mean pattern of cluster {leaf}, the largest that has a lattice"
    elif isinstance(reference, np.ndarray) and reference.dtype == bool:
        counts = np.bincount(leaf_labels[reference & (leaf_labels >= 0)], minlength=len(templates))
        leaf = max(have, key=lambda i: counts[i])
        if counts[leaf] == 0:
            raise ValueError("the reference mask holds no position of a cluster with a lattice")
        text = f"mean over a mask of {int(reference.sum())} positions"
    elif isinstance(reference, np.ndarray):
        return reference.T[:, ::-1].astype(float), "given lattice vectors"
    else:
        leaf = int(reference)
        if isinstance(templates[leaf], NoLattice):
            raise ValueError(
                f"the reference, cluster {leaf}, has no lattice: {templates[leaf].reason}. "
                f"Clusters with one: {have}"
            )
        text = f"mean pattern of cluster {leaf}"
    return reduce_basis(templates[leaf].lattice.basis * scale), text


def _dispersions(fitted, leaf_labels, reasons, n_leaves) -> np.ndarray:
    """Variance of the counts over the model's in each leaf: what errors are multiplied with.

    The mean of Pearson's chi-squared over its positions, those far off left out.
    """
    found = np.full(n_leaves, np.nan)
    for leaf in range(n_leaves):
        values = fitted[..., kernels.DISPERSION][(leaf_labels == leaf) & (reasons == 0)]
        if values.size:
            middle = np.median(values)
            spread = 1.4826 * np.median(np.abs(values - middle))
            found[leaf] = values[np.abs(values - middle) <= 4 * spread + 1e-9 * middle].mean()
    return found


def _too_faint(fitted, leaf_labels, templates, dispersions) -> np.ndarray:
    """Where there are too few counts for standard errors to be true.

    The variance of the leaf's mean pattern is compared, for a pattern's counts. Its own estimate of
    the variance is not: that would choose the patterns in which it is too small.
    """
    faint = np.zeros(leaf_labels.shape, bool)
    for leaf, template in enumerate(templates):
        if isinstance(template, LeafTemplate):
            here = leaf_labels == leaf
            variance = template.place_variance * dispersions[leaf]
            with np.errstate(invalid="ignore"):
                faint[here] = ~(fitted[here, kernels.SCALE] > variance / template.resolution**2)
    return faint


def _changed(fitted, leaf_labels, changes, dispersions) -> tuple[np.ndarray, np.ndarray]:
    """Deviations (y, x, 4) from the leaf's basis and covariances, in the changed basis."""
    deviation = fitted[..., 2:6].astype(float)
    covariance = unpack(fitted[..., 6:16].astype(float))
    for leaf, change in enumerate(changes):
        here = leaf_labels == leaf
        if change is None or not here.any():
            continue
        whole = np.kron(change, np.eye(2))
        deviation[here] = deviation[here] @ whole.T
        covariance[here] = whole @ covariance[here] @ whole.T * dispersions[leaf]
    return deviation, covariance


def smooth(
    deviation: np.ndarray,
    covariance: np.ndarray,
    leaf_labels: np.ndarray,
    usable: np.ndarray,
    sigma: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Average deviations over neighbours of the same leaf, weighted by information and distance.

    To first order this is the maximum of the neighbours' likelihoods, weighted with a Gaussian and
    summed, each pattern with an origin of its own: what a fit to the sum of the patterns would give
    if they were aligned for their shifts.

    Parameters
    ----------
    deviation, covariance
        (y, x, n) and (y, x, n, n).
    leaf_labels, usable
        (y, x): leaves, and where there is a fit.
    sigma
        In positions.

    Returns
    -------
    deviation, covariance
        Of the averages, unchanged where `usable` is not set. Averages of neighbours are correlated.
    """
    n = deviation.shape[-1]
    averaged, spread = deviation.copy(), covariance.copy()

    weights = _gaussian(sigma)

    def blur(values, weights):
        for axis in (0, 1):
            values = ndimage.correlate1d(values, weights, axis=axis, mode="constant")
        return values

    for leaf in np.unique(leaf_labels[usable]):
        here = usable & (leaf_labels == leaf)
        rows, cols = (slice(a.min(), a.max() + 1) for a in np.nonzero(here))
        inside = here[rows, cols]
        information = np.zeros((*inside.shape, n, n))
        information[inside] = np.linalg.inv(covariance[rows, cols][inside])
        weighted = np.zeros((*inside.shape, n))
        weighted[inside] = np.einsum(
            "...ij,...j->...i", information[inside], deviation[rows, cols][inside]
        )
        inverse = np.linalg.inv(blur(information, weights)[inside])
        squared = blur(information, weights**2)[inside]
        averaged[here] = np.einsum("...ij,...j->...i", inverse, blur(weighted, weights)[inside])
        spread[here] = inverse @ squared @ inverse
    return averaged, spread


def _mean_basis(basis, covariance, chosen) -> np.ndarray:
    """Mean of the bases of the `chosen` positions, weighted with their inverse variances."""
    if not chosen.any():
        raise ValueError("no pattern within the reference mask could be fitted")
    weight = 1 / np.trace(covariance[chosen], axis1=1, axis2=2)
    return np.average(basis[chosen], axis=0, weights=weight)


def cluster_statistics(
    strain: np.ndarray, leaf_labels: np.ndarray, n_leaves: int, spatial_smoothing: float = 0.0
) -> list[dict[str, Any]]:
    """Mean, scatter and standard error of the mean of each component in each leaf.

    The standard error comes from the scatter over the positions; after smoothing, the positions
    that share their neighbours are counted once.

    Returns
    -------
    list of dict
        A leaf each: ``cluster``, ``n`` positions with a lattice, and for every component
        ``{"mean", "standard_deviation", "standard_error"}``, NaN where there are too few.
    """
    shared = shared_positions(spatial_smoothing)
    table = []
    for leaf in range(n_leaves):
        values = strain[:, (leaf_labels == leaf) & np.isfinite(strain[0])].astype(float)
        n = values.shape[1]
        entry: dict[str, Any] = {"cluster": leaf, "n": n}
        for name, row in zip(COMPONENTS, values, strict=True):
            deviation = float(row.std(ddof=1)) if n > 1 else float("nan")
            entry[name] = {
                "mean": float(row.mean()) if n else float("nan"),
                "standard_deviation": deviation,
                "standard_error": deviation / np.sqrt(max(n / shared, 1.0)),
            }
        table.append(entry)
    return table


def shared_positions(spatial_smoothing: float) -> float:
    """Number of positions that a Gaussian average makes into one."""
    if not spatial_smoothing:
        return 1.0
    weights = _gaussian(spatial_smoothing)
    return float(weights.sum() ** 2 / (weights**2).sum()) ** 2


def _gaussian(sigma: float) -> np.ndarray:
    """Weights of neighbours along one axis, 1 in the middle."""
    reach = int(np.ceil(4 * sigma))
    return np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
