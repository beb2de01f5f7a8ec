"""The geometry that explains bright-field images best: search, refinement, standard errors.

A point is an array of scan rotation in radians and of defocus, C12a and C12b as displacement at the
bright-field disk's edge in pixels of the scan; see :mod:`hs_autoptycho.ptycho.sidebands`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from hs_autoptycho.ptycho.sidebands import (
    Images,
    Stack,
    displacement_matrix,
    gram,
    solve_pair,
    turn,
)

# Frequencies for the search on a grid
_FREQUENCIES = 160
# and where each may come from several others; the images are then thinned out to so many
_FOLDED, _FEW_IMAGES = 24, 180
# Of a crystal so many of the frequencies have so much of the power above the noise's: 0.32 to 0.7
# of simulated ones at 30 to 1e5 electrons/Å², and of a real scan of viruses 0.14 to 0.21
_STRONGEST, _THEIR_POWER = 1 / 12, 0.25
# Rotations on the grid, at least and at most, and where frequencies are folded
_ROTATIONS, _FOLDED_ROTATIONS = (48, 180), (48, 360)
# Distance of the grid's points times the highest frequency used: half a side lobe
_SPACING = 0.4
# Local maxima of the grid that are refined
_MAXIMA = 3
# Frequencies that the window makes one, on the average
_CORRELATED = 3
# Steps of the differences, in scan pixels at the disk's edge
_STEP = 0.08


@dataclass(frozen=True)
class Candidate:
    """A local maximum of the merit.

    Attributes
    ----------
    point : float64 (4,)
    merit : float
        Explained power.
    turned : float
        The same with the rotation wrong by 90°: what chance explains.
    noise : float
        Standard deviation of the difference of two merits that are chance.
    flip : str
        Of the detector.
    folded : bool
        Whether it takes frequencies for others, which the scan's steps make the same.
    """

    point: np.ndarray
    merit: float
    turned: float
    noise: float
    flip: str
    folded: bool = False

    @property
    def astigmatic(self) -> bool:
        """Whether the astigmatism displaces images more than the defocus, by half a pixel."""
        return bool(np.hypot(self.point[2], self.point[3]) > abs(self.point[1]) + 0.5)


def candidates(
    stack: Stack, farthest: float, known: Sequence[float | None], flip: str, folded: bool = False
) -> list[Candidate]:
    """The best local maxima of the merit, refined with the strongest frequencies only.

    Parameters
    ----------
    stack
        The images, flipped.
    farthest
        Largest defocus, as displacement at the disk's edge in scan pixels.
    known
        Values of a point that are known, None for the others.
    flip
        Name of the flip, for the candidates.
    folded
        Whether the specimen may be finer than the scan.
    """
    measured = stack.transform(folded=folded)
    if measured is None:
        return []
    measured = measured.strongest(_FOLDED if folded else _FREQUENCIES)
    images = measured.unfolded() if folded else measured
    free = np.array([value is None for value in known])
    out: list[Candidate] = []
    power = _power(measured)
    for point in search(images, farthest, rotation=known[0], defocus=known[1]):
        point[2:] = [0.0 if value is None else value for value in known[2:]]
        for _ in range(2 if folded else 1):
            settled = measured.settled(point) if folded else measured
            point = refine(settled, point, free, tolerance=1e-2)
        if any(_alike(point, other.point) for other in out):
            continue
        merit = float(images.merits(point).sum())
        turned = float(images.merits(point + np.array([np.pi / 2, 0, 0, 0])).sum())
        # two amplitudes a frequency, of which the window correlates neighbours; in units of what
        # the fit leaves over
        left = (power - merit) / measured.spectra.size
        noise = left * np.sqrt(2 * 2 * _CORRELATED * measured.spectra.shape[1])
        out.append(Candidate(point, merit, turned, noise, flip, folded))
    return out


def stands_out(stack: Stack) -> bool:
    """Whether a few frequencies have much of the power, as those of a crystal have.

    Only of these can it be told that they are others' which the scan's steps fold over; to look for
    it takes several times as long as all the rest.
    """
    images = stack.transform(folded=True)
    if images is None:
        return False
    power = np.maximum((np.abs(images.spectra) ** 2).sum(0) - len(images.spectra), 0)
    few = np.sort(power)[-int(np.ceil(_STRONGEST * len(power))) :]
    return bool(few.sum() > _THEIR_POWER * power.sum())


def strongest_explained(stack: Stack, point: np.ndarray) -> tuple[float, float]:
    """What a geometry explains of the strongest frequencies.

    Returns
    -------
    share : float
        Of their power above the noise's, each taken for what it seems to be.
    merit : float
        Explained power if each may come from others.
    """
    images = stack.transform(folded=True)
    if images is None:
        return 1.0, 0.0
    images = images.strongest(_FOLDED)
    n_images, n = images.spectra.shape
    # noise has a power of one an image, and two amplitudes explain two of that
    share = (images.merits(point).sum() - 2 * n) / max(_power(images) - n_images * n, 1e-30)
    return float(share), float(images.unfolded().merits(point).sum())


def _power(images: Images) -> float:
    return float((np.abs(images.spectra) ** 2).sum(dtype=float))


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two points, or one and the conjugate of the other, are the same maximum."""
    moved = displacement_matrix(*one) - displacement_matrix(*other)
    return np.abs(moved).max() < 0.7 and abs(np.sin(one[0] - other[0])) < 0.3


def search(
    images: Images, farthest: float, *, rotation: float | None = None, defocus: float | None = None
) -> list[np.ndarray]:
    """The best local maxima on a grid of rotation and defocus, without astigmatism.

    Parameters
    ----------
    images
        With a few hundred frequencies at most.
    farthest
        Largest defocus, as displacement at the disk's edge.
    rotation, defocus
        Where they are known. Without either only defoci from 0 up are searched, for the opposite
        ones with the scan turned by 180° have the same merits.

    Returns
    -------
    list of float64 (4,)
        The best first.
    """
    if images.first is not None:
        every = slice(None, None, -(-len(images.places) // _FEW_IMAGES))
        images = replace(
            images,
            spectra=images.spectra[every],
            places=images.places[every],
            weights=images.weights[every],
        )
    highest = np.hypot(*images.frequencies.T).max()
    spacing = _SPACING / highest
    if defocus is not None:
        stretches = np.array([defocus])
    else:
        n = int(np.ceil(farthest / spacing))
        stretches = farthest / n * np.arange(-n if rotation is not None else 0, n + 1)
    if rotation is not None:
        angles = np.array([rotation])
    else:
        # as far apart along the largest circle as the defoci; in focus the disks' overlaps count
        limits = _ROTATIONS if images.first is None else _FOLDED_ROTATIONS
        n = int(np.clip(2 * np.pi * np.abs(stretches).max() / spacing, *limits))
        angles = 2 * np.pi / n * np.arange(n) - np.pi
    merits = np.array([_along_defocus(images, angle, stretches) for angle in angles])
    # the rotation is periodic, the defocus is not
    padded = np.pad(merits, ((1, 1), (0, 0)), mode="wrap" if len(angles) > 2 else "constant")
    padded = np.pad(padded, ((0, 0), (1, 1)), constant_values=-np.inf)
    rows, columns = merits.shape
    around = [
        padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i or j) and not (len(angles) <= 2 and i)
    ]
    peaks = np.argwhere((merits >= np.max(around, axis=0)) if around else merits >= merits.max())
    peaks = sorted(peaks.tolist(), key=lambda peak: -merits[tuple(peak)])[:_MAXIMA]
    return [np.array([angles[i], stretches[j], 0.0, 0.0]) for i, j in peaks]


def _along_defocus(images, angle, stretches):
    """Merits of one rotation and evenly spaced defoci."""
    overlaps = images.overlaps(angle)
    weights = images.weights.astype(np.float32)[:, None]
    parts = [weights * overlap * images.spectra for overlap in overlaps]
    products = gram(images.weights, overlaps)
    one = 2j * np.pi * ((images.places @ turn(angle)) @ images.frequencies.T)
    aligned = np.exp(stretches[0] * one).astype(np.complex64)
    step = (
        np.exp((stretches[1] - stretches[0]) * one).astype(np.complex64)
        if len(stretches) > 1
        else 1
    )
    merits = np.empty(len(stretches))
    for i in range(len(stretches)):
        if i:
            aligned = aligned * step
        projections = np.array([np.einsum("kq,kq->q", part, aligned) for part in parts])
        amplitudes = solve_pair(products, projections)
        explained = (np.conj(projections) * amplitudes).sum(0).real
        merits[i] = images.best(explained).sum()
    return merits


def refine(
    images: Images, point: np.ndarray, free: np.ndarray, tolerance: float = 3e-3
) -> np.ndarray:
    """The local maximum next to a point; only `free` parameters, bool (4,), are changed.

    It is found when the merit's relative slope, a scan pixel at the disk's edge, is `tolerance`.
    """
    units, free = _units(point), np.flatnonzero(free)
    if not len(free):
        return np.array(point, float)
    start = max(images.merits(point).sum(), 1e-30)

    def at(x):
        changed = np.array(point, float)
        changed[free] += x * units[free]
        return changed

    def cost(x):
        return -images.merits(at(x)).sum() / start

    def slope(x):
        steps = _STEP * np.eye(len(free))
        return np.array([cost(x + step) - cost(x - step) for step in steps]) / (2 * _STEP)

    found = minimize(
        cost,
        np.zeros(len(free)),
        jac=slope,
        method="BFGS",
        options={"gtol": tolerance, "maxiter": 20},
    )
    return at(found.x)


def refine_with_windows(
    stack: Stack, point: np.ndarray, free: np.ndarray, passes: int = 2, folded: bool = False
) -> tuple[Images, np.ndarray]:
    """Refine while the images' windows move with them; the last images and point."""
    images = stack.transform(folded=folded)
    if folded:
        images = images.settled(point)
    for _ in range(passes):
        moved = stack.transform(stack.places @ displacement_matrix(*point).T, folded)
        if moved is None:  # of a small scan too little is left
            break
        if folded:
            moved = moved.settled(point)
        images, point = moved, refine(moved, point, free)
    return images, point


def jackknife(images: Images, point: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A maximum's parameters and their covariance, by a jackknife over blocks of frequencies.

    What the model leaves out differs from one frequency to another just as the noise does, and both
    are in it. Every block is left out in one Newton step.

    Returns
    -------
    point : float64 (4,)
        After one more Newton step.
    covariance : float64 (4, 4)
        Zero for parameters that are not free; infinite where the merit has no maximum.
    """
    units, free = _units(point), np.flatnonzero(free)
    n = len(free)
    steps = [_STEP * units[i] * np.eye(4)[i] for i in free]

    def at(change):
        return images.by_block(images.merits(point + change))

    middle = at(0)
    slopes = np.empty((n, len(middle)))
    curvatures = np.empty((n, n, len(middle)))
    for i in range(n):
        above, below = at(steps[i]), at(-steps[i])
        slopes[i] = (above - below) / (2 * _STEP)
        curvatures[i, i] = (above - 2 * middle + below) / _STEP**2
        for j in range(i):
            mixed = at(steps[i] + steps[j]) - at(steps[i] - steps[j])
            mixed += at(-steps[i] - steps[j]) - at(-steps[i] + steps[j])
            curvatures[i, j] = curvatures[j, i] = mixed / (4 * _STEP**2)
    out = np.zeros((4, 4))
    if not n:
        return point, out
    remaining = curvatures.sum(2)[None] - np.moveaxis(curvatures, 2, 0)
    if np.linalg.eigvalsh(remaining).max() >= 0:
        out[np.ix_(free, free)] = np.inf
        return point, out
    # the gradient without a block, where that of all is nearly zero
    left = slopes.sum(1)[None] - slopes.T
    changes = -np.linalg.solve(remaining, left[:, :, None])[:, :, 0]
    better = np.array(point, float)
    better[free] -= np.linalg.solve(curvatures.sum(2), slopes.sum(1)) * units[free]
    changes = changes - changes.mean(0)
    # the parameters were fitted to these very blocks
    scaled = (len(middle) - 1) / max(1, len(middle) - n) * changes.T @ changes
    out[np.ix_(free, free)] = scaled * np.outer(units[free], units[free])
    return better, out


def _units(point):
    """Changes that displace the image at the disk's edge by a pixel of the scan or so."""
    return np.array([1 / max(1.0, np.linalg.norm(point[1:])), 1.0, 1.0, 1.0])
