"""How well a geometry explains the bright-field images of a scan, without a reconstruction.

Every detector pixel k inside the bright-field disk gives an image of the specimen. To first order
in the object its Fourier coefficient at the frequency Q has two parts, the interference of the
direct beam with what was scattered by Q and by −Q:

    I_k(Q) = exp(−2πi u(k)·q) · [A(k − Q)·a(Q) + A(k + Q)·b(Q)],     u(k) = −∇χ(k) / (2π step),

with the aperture A, u in pixels of the scan and q = Q in cycles a pixel of the scan. For defocus
and astigmatism u is linear in k: the image of k is displaced by u(k). In (row, column)

    u(k) = λ/step · R(−θ) · H · k,    H = [[defocus + C12a, −C12b], [−C12b, defocus − C12a]],

and in the detector's frame Q = R(θ)·q/step, with the scan rotation θ. The two amplitudes a and b
are free at every Q, so that nothing is assumed of the object but that it is thin: a phase object,
an absorbing one, a crystal or not. The merit of a geometry is the power of all images that this
model explains, each image weighted by its counts: the likelihood, for Poisson counts.

The complex conjugate of object and probe, turned by 180°, gives the same images: (θ, H) and
(θ + 180°, −H) have the same merit.

In a scan whose steps are more than half a period of the specimen, Q is seen at another q, a whole
number n of cycles a pixel away: q = step·R(−θ)·Q − n. Both the displacement, u(k)·(q + n), and the
overlaps of the disks tell n, so that it can be left free, too, at the strongest frequencies
(:meth:`Images.unfolded`) or at all once the geometry is known (:meth:`Images.settled`).

References
----------
J. M. Rodenburg, B. C. McCallum, P. D. Nellist, Ultramicroscopy 48, 304 (1993).
G. Varnavides et al., arXiv:2309.05250 (2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
import scipy.sparse

from hs_autoptycho.ptycho.stored import StoredCounts, pattern_blocks

# The disk is cut into at most this many images: within one the displacement should not vary much
MOST_IMAGES = 500
# The disk's rim, whose pixels see less of the beam, is left out
_INNER = 0.93
# Frequencies in cycles a scan pixel; beyond, what was sampled too coarsely folds over
_HIGHEST = 0.45
# and of these at most so many, the strongest
_FREQUENCIES = 1200
# Two disks at Q and −Q have to cover something of the disk at 0
_FARTHEST = 1.8
# Cycles a scan pixel up to which it is looked for where frequencies come from
_HIGHEST_UNFOLDED = 2.6
# What another order has to explain more, in units of the noise's power: chance rarely does
_CLEARLY_MORE = 12.0
# Where A(k − Q) and A(k + Q) are all but the same their difference would be mostly noise
_RIDGE = 0.02
# Frequencies are counted as independent by blocks of so many samples of the scan's transform: the
# window correlates neighbours
_BLOCK = 4
# A window is at least this part of the scan
_NARROWEST = 0.6


@dataclass(frozen=True)
class Images:
    """Bright-field images of a scan, transformed.

    Attributes
    ----------
    spectra : complex64 (images, frequencies)
        Of the images relative to their means, in units of their counting noise.
    places : float64 (images, 2)
        (row, column) in radii of the disk, from its centre.
    weights : float64 (images,)
        Square roots of the counts a position.
    frequencies : float64 (frequencies, 2)
        (slow, fast), cycles a pixel of the scan.
    blocks : int (frequencies,)
        Numbers of the groups of neighbouring frequencies, from 0.
    reach : float
        |Q| in radii of the disk for one cycle a scan pixel: 1 / (step · radius in 1/Å).
    edge : float
        Width of the disk's edge, in radii.
    first : int (measured frequencies,) or None
        Where several frequencies can be what was measured at one: the first of them. The others
        follow, and the one that explains most counts.
    """

    spectra: np.ndarray
    places: np.ndarray
    weights: np.ndarray
    frequencies: np.ndarray
    blocks: np.ndarray
    reach: float
    edge: float
    first: np.ndarray | None = None

    def strongest(self, count: int) -> Images:
        """Only the frequencies with most power."""
        power = (np.abs(self.spectra) ** 2).sum(0)
        chosen = np.sort(np.argsort(-power, kind="stable")[:count])
        return replace(
            self,
            spectra=np.ascontiguousarray(self.spectra[:, chosen]),
            frequencies=self.frequencies[chosen],
            blocks=np.unique(self.blocks[chosen], return_inverse=True)[1].ravel(),
        )

    def unfolded(self) -> Images:
        """Every frequency together with all that the scan's steps make the same."""
        orders = [self.frequencies + n for n in self._orders()]
        near = [np.hypot(*q.T) < self._limit for q in orders]
        near[0][:] = True
        order, number = np.nonzero(near)
        sort = np.argsort(number, kind="stable")
        order, number = order[sort], number[sort]
        return replace(
            self,
            spectra=np.ascontiguousarray(self.spectra[:, number]),
            frequencies=np.array(orders)[order, number],
            blocks=self.blocks[number],
            first=np.flatnonzero(np.diff(number, prepend=-1)),
        )

    def settled(self, point: np.ndarray) -> Images:
        """Every frequency as the one that explains most with a geometry, as of `merits`."""
        frequencies = self.frequencies.copy()
        most = self.merits(point) + _CLEARLY_MORE
        for n in self._orders()[1:]:
            moved = replace(self, frequencies=self.frequencies + n)
            merits = moved.merits(point)
            better = (merits > most) & (np.hypot(*moved.frequencies.T) < self._limit)
            frequencies[better], most[better] = moved.frequencies[better], merits[better]
        return replace(self, frequencies=frequencies)

    @property
    def _limit(self) -> float:
        return min(_HIGHEST_UNFOLDED, _FARTHEST / self.reach)

    def _orders(self) -> np.ndarray:
        """Whole numbers of cycles (orders, 2), none first."""
        most = int(np.ceil(self._limit + 0.5))
        orders = np.stack(np.mgrid[-most : most + 1, -most : most + 1], -1).reshape(-1, 2)
        near = np.hypot(*orders.T) < self._limit + np.sqrt(0.5)
        return orders[near][np.argsort(np.abs(orders[near]).sum(1), kind="stable")]

    def best(self, values: np.ndarray) -> np.ndarray:
        """Of the columns that can be what was measured at one frequency the largest value."""
        return values if self.first is None else np.maximum.reduceat(values, self.first)

    def overlaps(self, rotation: float) -> tuple[np.ndarray, np.ndarray]:
        """A(k − Q) and A(k + Q) of all images and frequencies, float32; the rotation in radians."""
        q = self.reach * self.frequencies @ turn(rotation).T
        k = self.places.astype(np.float32)
        both = (k**2).sum(1)[:, None] + (q**2).sum(1).astype(np.float32)
        mixed = 2 * k @ q.T.astype(np.float32)

        def inside(squared):
            distance = np.sqrt(np.maximum(squared, 0))
            return np.clip((1 - distance) / np.float32(self.edge) + np.float32(0.5), 0, 1)

        return inside(both - mixed), inside(both + mixed)

    def merits(self, point: np.ndarray) -> np.ndarray:
        """Explained power of each frequency, (frequencies,), in units of the noise's.

        Parameters
        ----------
        point
            Scan rotation in radians; defocus, C12a and C12b as displacement at the disk's edge,
            in scan pixels.
        """
        fit = self._fit(point)
        return self.best((np.conj(fit.projections) * fit.amplitudes).sum(0).real)

    def by_block(self, values: np.ndarray) -> np.ndarray:
        """Sums over the blocks of frequencies."""
        return np.bincount(self.blocks, values, self.blocks.max() + 1)

    def residuals(self, point: np.ndarray) -> np.ndarray:
        """Displacement of each image against the model, (images, 2) in scan pixels."""
        fit = self._fit(point)
        weighted = self.weights[:, None] * (
            fit.overlaps[0] * fit.amplitudes[0] + fit.overlaps[1] * fit.amplitudes[1]
        )
        alike = np.conj(weighted) * self.spectra * fit.aligned
        slope = -2 * np.pi * alike.imag @ self.frequencies
        pairs = self.frequencies[:, :, None] * self.frequencies[:, None, :]
        curvature = (2 * np.pi) ** 2 * (np.abs(weighted) ** 2) @ pairs.reshape(-1, 4)
        curvature = curvature.reshape(-1, 2, 2) + 1e-12 * np.eye(2)
        return np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]

    def _fit(self, point):
        rotation, *stretch = point
        shifts = self.places @ displacement_matrix(rotation, *stretch).T
        aligned = np.exp(2j * np.pi * (shifts @ self.frequencies.T)).astype(np.complex64)
        overlaps = self.overlaps(rotation)
        weighted = self.weights.astype(np.float32)[:, None] * self.spectra * aligned
        projections = np.array([np.einsum("kq,kq->q", a, weighted) for a in overlaps])
        amplitudes = solve_pair(gram(self.weights, overlaps), projections)
        return _Fit(aligned, overlaps, projections.astype(complex), amplitudes)


@dataclass(frozen=True)
class _Fit:
    aligned: np.ndarray  # exp(2πi u·q)
    overlaps: tuple[np.ndarray, np.ndarray]
    projections: np.ndarray  # (2, frequencies)
    amplitudes: np.ndarray  # (2, frequencies)


def turn(angle: float) -> np.ndarray:
    """R(angle) for (row, column), the angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def displacement_matrix(rotation: float, defocus: float, C12a: float, C12b: float) -> np.ndarray:
    """R(−θ) · H of u(k); the rotation in radians."""
    stretch = np.array([[defocus + C12a, -C12b], [-C12b, defocus - C12a]])
    return turn(-rotation) @ stretch


def gram(weights: np.ndarray, overlaps) -> np.ndarray:
    """Scalar products of the two parts at each frequency, (3, frequencies): −−, ++, −+."""
    minus, plus = overlaps
    squared = (weights**2).astype(np.float32)
    pairs = ((minus, minus), (plus, plus), (minus, plus))
    return np.array([np.einsum("k,kq,kq->q", squared, a, b) for a, b in pairs], float)


def solve_pair(products: np.ndarray, projections: np.ndarray) -> np.ndarray:
    """Amplitudes (2, frequencies) of the two parts by least squares."""
    tiny = 1e-9 * products.max() + 1e-30
    first, second = products[:2] * (1 + _RIDGE) + tiny
    mixed = products[2]
    determinant = first * second - mixed**2
    one, other = projections
    return np.array([second * one - mixed * other, first * other - mixed * one]) / determinant


@dataclass(frozen=True)
class Stack:
    """Bright-field images of a scan, relative to their means; made by :func:`bright_field_stack`.

    Attributes
    ----------
    images : float32 (images, slow, fast)
    places, weights, reach, edge
        As of :class:`Images`.
    """

    images: np.ndarray
    places: np.ndarray
    weights: np.ndarray
    reach: float
    edge: float

    def transform(self, shifts: np.ndarray | None = None, folded: bool = False) -> Images | None:
        """Window the images and transform them.

        A window that stays where it is while the image under it moves lets every frequency leak
        into its neighbours with the phase of its own displacement, and displacements come out some
        per cent too small. A window that moves with the image does not.

        Parameters
        ----------
        shifts
            How far each image is displaced, as far as that is known: (images, 2) in scan pixels.
        folded
            Whether all frequencies are of use, as they may come from others.

        Returns
        -------
        Images or None
            None where hardly any frequency is left.
        """
        shape = np.array(self.images.shape[1:])
        shifts = np.zeros_like(self.places) if shifts is None else shifts
        half = np.maximum((shape + 1) / 2 - np.abs(shifts).max(0), shape * _NARROWEST / 2)
        windows = [
            np.cos(np.pi / 2 * np.clip((np.arange(n) - (n - 1) / 2 - u[:, None]) / h, -1, 1)) ** 2
            for n, h, u in zip(shape, half, shifts.T, strict=True)
        ]
        slow, fast = (window.astype(np.float32) for window in windows)
        spectra = scipy.fft.rfft2(self.images * slow[:, :, None] * fast[:, None, :])
        power = (slow**2).sum(1) * (fast**2).sum(1)
        # an image that is shifted by as much as a small scan is wide is not seen through its window
        weights = np.where(power > 0, self.weights / np.sqrt(np.maximum(power, 1e-30)), 0)
        spectra *= weights[:, None, None].astype(np.float32)
        q = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1]), indexing="ij")
        length = np.hypot(*q)
        # half of the plane says it all; the lowest are the window's
        highest = np.inf if folded else min(_HIGHEST, _FARTHEST / self.reach)
        use = (length > 0.75 / half.min()) & (length < highest)
        use &= (q[1] > 0) | (q[0] > 0)
        if use.sum() < 8:
            return None
        frequencies = np.stack([q[0][use], q[1][use]], 1)
        cells = np.floor(frequencies * 2 * half / _BLOCK + 0.5).astype(int)
        blocks = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
        found = Images(
            spectra[:, use], self.places, self.weights, frequencies, blocks, self.reach, self.edge
        )
        return found.strongest(_FREQUENCIES)

    def flipped(self, matrix: np.ndarray) -> Stack:
        """The same images with the detector flipped by a (2, 2) matrix."""
        return replace(self, places=self.places @ matrix.T)


def bright_field_stack(
    counts: np.ndarray | StoredCounts,
    scan_shape: tuple[int, int],
    *,
    center: tuple[float, float],
    radius: float,
    reach: float,
    mask: np.ndarray | None = None,
    background: float | np.ndarray = 0.0,
) -> Stack | None:
    """Sum the counts to bright-field images.

    Parameters
    ----------
    counts
        (positions, k_y, k_x), in the order of the scan; in memory or stored.
    scan_shape
        (slow, fast).
    center, radius
        Of the bright-field disk, in detector pixels.
    reach
        As of :class:`Images`.
    mask
        True for the pixels to use.
    background
        Counts a pixel without the beam: a number or (k_y, k_x).

    Returns
    -------
    Stack or None
        None with fewer than six images, or a scan of fewer than 8 positions along an axis.
    """
    used = np.ones(counts.shape[1:], bool) if mask is None else mask
    labels, places, size = _cut_disk(used, center, radius)
    if len(places) < 6 or min(scan_shape) < 8:
        return None
    inside = np.flatnonzero(labels.ravel() >= 0)
    # 0/1 matrix that sums pixels to images
    member = scipy.sparse.csr_matrix(
        (np.ones(len(inside), np.float32), (np.arange(len(inside)), labels.ravel()[inside])),
        shape=(len(inside), len(places)),
    )
    images = np.empty((len(counts), len(places)), np.float32)
    for positions, block in pattern_blocks(counts, 512):
        flat = block.reshape(len(block), -1)
        images[positions] = flat[:, inside].astype(np.float32) @ member
    dark = member.T @ np.broadcast_to(background, counts.shape[1:]).ravel()[inside]
    empty = images.sum(1) == 0
    mean = images[~empty].mean(0, dtype=float) if not empty.all() else images.mean(0, dtype=float)
    signal = np.maximum(mean - dark, 1e-6 * mean + 1e-12)
    # the noise is that of all counts, the signal that of the beam alone
    weights = signal / np.sqrt(np.maximum(mean, 1e-12))
    images -= mean.astype(np.float32)
    images /= signal.astype(np.float32)
    images[empty] = 0  # a position that was not recorded is as the others are on average
    images = np.ascontiguousarray(images.T).reshape(-1, *scan_shape)
    return Stack(images, places, weights, reach, max(size, 1.0) / radius)


def _cut_disk(used, center, radius):
    """Number of its image for each pixel or -1, places of the images, and their width in pixels."""
    size = max(1, int(np.ceil(radius * _INNER * np.sqrt(np.pi / MOST_IMAGES))))
    row, column = np.indices(used.shape, dtype=float)
    row, column = row - center[0], column - center[1]
    inside = used & (np.hypot(row, column) <= _INNER * radius)
    if not inside.any():
        return np.full(used.shape, -1), np.empty((0, 2)), size
    cells = np.stack([np.floor(row[inside] / size + 0.5), np.floor(column[inside] / size + 0.5)], 1)
    number = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    labels = np.full(used.shape, -1)
    labels[inside] = number
    share = np.bincount(number)
    places = [np.bincount(number, x[inside]) / share / radius for x in (row, column)]
    return labels, np.stack(places, 1), size
