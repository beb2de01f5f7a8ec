"""What a sample of the patterns tells before the first pass: counts, bad pixels, beam, descan."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from hs_autoptycho._quantities import check_size
from hs_autoptycho.clustering.projection import FLAGS, moments, sum_boxes
from hs_autoptycho.clustering.streaming import Block, reduce_patterns

# side of the squares of the scan that are sampled, and how many positions at least, if there are
_TILE = 16
_LEAST_SAMPLE = 4096
_SAMPLED_PART = 1 / 16
_LARGEST_SAMPLE = 8192
# boxes along a side of a pattern, at most
_LARGEST_BOXED = 128
# a beam wider than this part of the detector is a bright-field disk, which holds the information
_NANOBEAM = 0.25


class PatternError(ValueError):
    """The patterns cannot be clustered; the message says why."""


def sample_blocks(scan_shape: tuple[int, int]) -> list[Block]:
    """Squares spread evenly over the scan; all of it where it is small.

    They depend on the scan's shape alone, so that the result does not depend on chunks.
    """
    ny, nx = scan_shape
    rows, columns = -(-ny // _TILE), -(-nx // _TILE)
    squares = [(i, j) for i in range(rows) for j in range(columns)]
    wanted = min(max(_LEAST_SAMPLE, ny * nx * _SAMPLED_PART), _LARGEST_SAMPLE)
    n = int(np.ceil(wanted * len(squares) / (ny * nx)))
    if n < len(squares):
        # Roberts' R2 sequence leaves no large hole in either direction
        chosen: set[tuple[int, int]] = set()
        k = 0
        while len(chosen) < n:
            k += 1
            u, v = (0.5 + k * 0.7548776662) % 1, (0.5 + k * 0.5698402910) % 1
            chosen.add((int(u * rows), int(v * columns)))
        squares = sorted(chosen)
    return [
        (i * _TILE, min((i + 1) * _TILE, ny), j * _TILE, min((j + 1) * _TILE, nx))
        for i, j in squares
    ]


def box_size(detector_shape: tuple[int, int]) -> int:
    """Detector pixels along the side of the boxes in which the sample is summed."""
    return -(-max(detector_shape) // _LARGEST_BOXED)


def boxes_along(detector_shape: tuple[int, int]) -> tuple[int, int]:
    """Boxes along the sides of a pattern."""
    box = box_size(detector_shape)
    return detector_shape[0] // box, detector_shape[1] // box


class Sample:
    """Patterns of a sample, summed in boxes; a statistic for `reduce_patterns`.

    Attributes
    ----------
    box
        Detector pixels along the side of a box.
    """

    def __init__(self, box: int):
        self.box = box
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.whole = True

    def empty(self) -> Sample:
        return Sample(self.box)

    def process(self, patterns: np.ndarray, positions: np.ndarray) -> None:
        n, rows, columns = patterns.shape
        boxes = np.zeros((n, rows // self.box, columns // self.box), np.float32)
        flags = np.zeros(n, np.int8)
        scratch = np.empty(boxes.shape[1:])
        for i in range(n):
            flags[i] = sum_boxes(patterns[i], self.box, scratch)
            if flags[i] == 0:
                with np.errstate(over="ignore"):  # it is infinite then, and refused
                    boxes[i] = scratch
        if patterns.dtype.kind == "f":
            self.whole = bool(np.array_equal(boxes, np.rint(boxes)))
        self.parts.append((positions, boxes, flags))

    def merge(self, other: Sample) -> None:
        self.parts += other.parts
        self.whole = self.whole and other.whole

    def collected(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, boxes and flags, in the order of the scan."""
        positions = np.concatenate([part[0] for part in self.parts])
        order = np.argsort(positions)
        boxes = np.concatenate([part[1] for part in self.parts])
        flags = np.concatenate([part[2] for part in self.parts])
        return positions[order], boxes[order], flags[order]


@dataclass(frozen=True)
class Survey:
    """What the sample told.

    Attributes
    ----------
    box
        Detector pixels along the side of a box.
    positions, boxes
        The usable patterns of the sample, summed in boxes.
    counts
        Whether the patterns hold whole numbers.
    weights : array (rows, columns) of boxes
        0 where a box is bad or masked; what a bad box would have held is given to its neighbours.
    center
        Of the direct beam, (row, column) in detector pixels, in the middle of the scan.
    radius
        Of the direct beam, in detector pixels.
    nanobeam
        Whether the beam is so small that what is diffracted lies beside it.
    beam : array (scan_y, scan_x, 2)
        Centre of the direct beam for every position.
    notes
        What was assumed, a sentence each.
    """

    box: int
    positions: np.ndarray
    boxes: np.ndarray
    counts: bool
    weights: np.ndarray
    center: tuple[float, float]
    radius: float
    nanobeam: bool
    beam: np.ndarray
    notes: list[str] = field(default_factory=list)

    def centers(self, positions: np.ndarray) -> np.ndarray:
        """Centre of the beam in boxes, (n, 2)."""
        return (self.beam.reshape(-1, 2)[positions] - (self.box - 1) / 2) / self.box


def survey(
    data,
    *,
    detector_mask: np.ndarray | None = None,
    scan_mask: np.ndarray | None = None,
    progress=None,
    num_workers: int | None = None,
) -> Survey:
    """Look at a sample of the patterns.

    Parameters
    ----------
    data
        Array ``(scan_y, scan_x, k_y, k_x)``, numpy or dask.
    detector_mask
        True for the detector pixels to use.
    scan_mask
        True for the positions to cluster; the others are looked at only if the sample has none of
        these.
    progress, num_workers
        As for `map_patterns`.

    Raises
    ------
    PatternError
        If not one pattern of the sample can be used.
    """
    scan_shape, detector_shape = data.shape[:2], data.shape[2:]
    box = box_size(detector_shape)
    blocks = sample_blocks(scan_shape)
    if sum((y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in blocks) == scan_shape[0] * scan_shape[1]:
        blocks = None  # all of it, then along its own chunks
    sample = reduce_patterns(
        data, Sample(box), blocks=blocks, progress=progress, num_workers=num_workers
    )
    positions, boxes, flags = sample.collected()
    if (flags != 0).all():
        kinds = ", ".join(FLAGS[flag] for flag in np.unique(flags))
        raise PatternError(
            f"None of the {len(flags)} patterns looked at can be used: they are {kinds}. Check "
            "how the data were loaded; NaN and negative values can be set to zero."
        )
    usable = flags == 0
    if scan_mask is not None and (usable & scan_mask.ravel()[positions]).any():
        usable &= scan_mask.ravel()[positions]
    positions, boxes = positions[usable], boxes[usable]
    notes = []
    check_size(float(boxes.max()) / box**2, PatternError)
    total = boxes.sum(0, dtype=float)
    bad = _bad_boxes(total)
    if bad.any():
        notes.append(
            f"Detector {'pixels' if box == 1 else 'boxes of pixels'} far brighter than their "
            f"surroundings were left out: {int(bad.sum())}."
        )
    used = np.ones(total.shape, bool)
    if detector_mask is not None:
        rows, columns = (box * n for n in total.shape)
        used = detector_mask[:rows, :columns].reshape(-1, box, total.shape[1], box).all((1, 3))
    center, radius = _find_beam(np.where(bad, ndimage.median_filter(total, 5), total))
    nanobeam = 2 * radius <= _NANOBEAM * min(total.shape)
    beam = np.broadcast_to(center, (*scan_shape, 2)).copy()
    if nanobeam:
        beam, note = _descan(positions, boxes, bad, center, radius, scan_shape)
        notes += note
    middle = beam.reshape(-1, 2).mean(0)
    in_pixels = beam * box + (box - 1) / 2
    return Survey(
        box=box,
        positions=positions,
        boxes=boxes,
        counts=data.dtype.kind in "bui" or sample.whole,
        weights=_box_weights(bad) * used,
        center=tuple(float(c) for c in middle * box + (box - 1) / 2),
        radius=float(radius * box),
        nanobeam=bool(nanobeam),
        beam=in_pixels,
        notes=notes,
    )


def _bad_boxes(total: np.ndarray) -> np.ndarray:
    """Boxes that stand alone, far above their surroundings."""
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    surroundings = ndimage.median_filter(total, 5)
    # nothing lies beyond the edge: mirrored, a pixel there would be its own neighbour
    brightest = ndimage.maximum_filter(total, footprint=ring, mode="constant")
    scale = total.sum() / max(np.count_nonzero(total), 1)
    bad = total > 4 * surroundings + 8 * np.sqrt(np.maximum(surroundings, 0)) + 0.2 * scale + 10
    bad &= total > 2.5 * np.minimum(brightest, ndimage.median_filter(brightest, 3))
    # even the smallest beam spills over to its neighbours, a bad pixel does not
    beam = total == total.max()
    bad &= ~beam | (brightest < 3 * surroundings + 8 * np.sqrt(np.maximum(surroundings, 0)) + 10)
    # spots of a single pixel look the same: many of them are no defects
    return bad if bad.mean() < 0.005 else np.zeros_like(bad)


def _box_weights(bad: np.ndarray) -> np.ndarray:
    """1, but 0 for bad boxes, whose share goes to the good ones beside them."""
    weights = np.where(bad, 0.0, 1.0)
    for row, column in np.argwhere(bad):
        beside = (slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
        good = ~bad[beside]
        if good.any():
            weights[beside][good] += 1 / good.sum()
    return weights


def _find_beam(total: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and radius, in boxes, of the brightest spot: the pixels above half its height."""
    smooth = ndimage.gaussian_filter(total, 1.0)
    peak = np.unravel_index(smooth.argmax(), smooth.shape)
    regions, _ = ndimage.label(smooth > 0.5 * smooth[peak])
    region = regions == regions[peak]
    radius = max(float(np.sqrt(region.sum() / np.pi)), 0.5)
    center = np.array(ndimage.center_of_mass(np.where(region, smooth, 0)))
    return center, radius


def _descan(positions, boxes, bad, center, radius, scan_shape):
    """The beam's centre for every position: a smooth surface through what the sample shows.

    Its centre of mass in a window that moves with it, found anew a few times; a quadratic in the
    scan's coordinates where there are positions enough for one, as scan coils are smooth.
    """
    rows, columns = np.divmod(np.arange(scan_shape[0] * scan_shape[1]), scan_shape[1])
    surfaces = _polynomial(rows, columns, scan_shape, 2)
    at = surfaces[positions]
    if len(positions) < 8 * at.shape[1] or np.linalg.matrix_rank(at) < at.shape[1]:
        return np.broadcast_to(center, (*scan_shape, 2)).copy(), [
            "The scan has too few positions to measure how the beam moves over it."
        ]
    window = max(2.0 * radius, radius + 2)
    beam = np.broadcast_to(center, (len(positions), 2)).copy()
    mask = (~bad).astype(float)
    for _ in range(4):
        measured, weight = moments(boxes, mask, beam, window)
        root = np.sqrt(weight)[:, None]
        fit = np.linalg.lstsq(at * root, measured * root, rcond=None)[0]
        beam = at @ fit
    everywhere = (surfaces @ fit).reshape(*scan_shape, 2)
    size = np.array(boxes.shape[1:])
    if not (np.abs(everywhere - center) < size / 4).all():
        return np.broadcast_to(center, (*scan_shape, 2)).copy(), [
            "The beam could not be followed over the scan; it was taken to stand still."
        ]
    return everywhere, []


def _polynomial(rows, columns, scan_shape, degree: int) -> np.ndarray:
    u = 2 * rows / max(scan_shape[0] - 1, 1) - 1
    v = 2 * columns / max(scan_shape[1] - 1, 1) - 1
    return np.stack([u**i * v**j for i in range(degree + 1) for j in range(degree + 1 - i)], -1)
