"""From a pattern to a few numbers: numba kernels of the first pass.

A pattern is summed in boxes, thinned into two independent halves where it holds counts, put on a
coarse grid that moves with the direct beam, and projected on a basis. Each pattern is worked on
alone and in a fixed order, so that its numbers are the same bit by bit in whatever block it comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, uint64

# how a pattern can be unusable; 0 is fine
EMPTY, NOT_FINITE, NEGATIVE = 1, 2, 3
FLAGS = {EMPTY: "empty", NOT_FINITE: "NaN or infinite", NEGATIVE: "negative"}


@dataclass(frozen=True)
class Grid:
    """A coarse grid over the detector, centred at the direct beam.

    Attributes
    ----------
    box
        Detector pixels along the side of a box.
    spacing
        Boxes from node to node.
    shape
        Nodes (rows, columns); node ``shape // 2`` is at the beam's centre.
    """

    box: int
    spacing: float
    shape: tuple[int, int]

    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, column) of every node relative to the beam's centre, in detector pixels."""
        rows, columns = (np.arange(n) - n // 2 for n in self.shape)
        step = self.box * self.spacing
        return np.meshgrid(rows * step, columns * step, indexing="ij")


@njit(cache=True, nogil=True)
def sum_boxes(pattern, box, out):
    """Sum a pattern in square boxes; returns 0 or what is wrong with it (`FLAGS`).

    Sums are kept by column and negative values counted, so that the loops over columns run in
    vector registers.
    """
    rows, columns = out.shape
    width = columns * box
    line, column_sums = np.empty(width), np.zeros(columns)
    negative = 0
    for i in range(rows):
        line[:] = 0.0
        for y in range(i * box, (i + 1) * box):
            source = pattern[y]
            for x in range(width):
                line[x] += source[x]
                negative += source[x] < 0
        row = out[i]
        for j in range(columns):
            s = line[j * box]
            for x in range(j * box + 1, (j + 1) * box):
                s += line[x]
            row[j] = s
            column_sums[j] += s
    total = column_sums.sum()
    if not np.isfinite(total):
        return NOT_FINITE
    if negative > 0:
        return NEGATIVE
    if total == 0:
        return EMPTY
    return 0


@njit(cache=True, nogil=True, inline="always")
def _mix(x):
    """The finalizer of SplitMix64: 64 bits that look random, from a counter."""
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@njit(cache=True, nogil=True, inline="always")
def _ones(x):
    """Number of bits set."""
    x = x - ((x >> uint64(1)) & uint64(0x5555555555555555))
    x = (x & uint64(0x3333333333333333)) + ((x >> uint64(2)) & uint64(0x3333333333333333))
    x = (x + (x >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
    return (x * uint64(0x0101010101010101)) >> uint64(56)


# counts above this are halved by their normal limit: 2^14 draws are Gaussian to a part in 10^4
_MANY = 16384.0


@njit(cache=True, nogil=True)
def thin(counts, position, seed, out):
    """Each count goes to `out` with probability one half: exactly binomial, from one bit a count.

    The bits depend on seed, position and box alone.
    """
    key = _mix(uint64(seed) * uint64(0x9E3779B97F4A7C15) + uint64(position))
    rows, columns = counts.shape
    for i in range(rows):
        for j in range(columns):
            count = counts[i, j]
            if count == 0.0:
                out[i, j] = 0.0
                continue
            counter = _mix(key + uint64(i * columns + j) * uint64(0xD1342543DE82EF95))
            if count > _MANY:
                # Box and Muller
                u = (np.float64(_mix(counter + uint64(1)) >> uint64(11)) + 0.5) / 9007199254740992.0
                v = np.float64(_mix(counter + uint64(2)) >> uint64(11)) / 9007199254740992.0
                normal = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
                out[i, j] = np.rint(0.5 * count + 0.5 * np.sqrt(count) * normal)
                continue
            left = np.int64(count)
            kept = uint64(0)
            while left >= 64:
                counter += uint64(0x9E3779B97F4A7C15)
                kept += _ones(_mix(counter))
                left -= 64
            if left > 0:
                counter += uint64(0x9E3779B97F4A7C15)
                kept += _ones(_mix(counter) >> uint64(64 - left))
            out[i, j] = np.float64(kept)


@njit(cache=True, nogil=True)
def spread(boxes, weights, center_row, center_col, spacing, line, out):
    """Put boxes on the nodes of a coarse grid by quadratic B-splines.

    The beam's centre, in boxes, comes to node ``shape // 2``. A B-spline keeps sum and first moment
    of what it spreads, wherever that lies between the nodes: a pattern that moves by a fraction of
    a node changes smoothly, and moving the grid with the beam needs no interpolated copy of it.
    """
    n_rows, n_columns = boxes.shape
    out[:] = 0.0
    middle_row, middle_col = out.shape[0] // 2, out.shape[1] // 2
    for i in range(n_rows):
        u = (i - center_row) / spacing + middle_row
        node = int(np.floor(u + 0.5))
        if node < 1 or node > out.shape[0] - 2:
            continue
        line[:] = 0.0
        filled = False
        for j in range(n_columns):
            value = boxes[i, j] * weights[i, j]
            if value == 0.0:
                continue
            v = (j - center_col) / spacing + middle_col
            column = int(np.floor(v + 0.5))
            if column < 1 or column > out.shape[1] - 2:
                continue
            t = v - column
            line[column - 1] += 0.5 * (0.5 - t) ** 2 * value
            line[column] += (0.75 - t * t) * value
            line[column + 1] += 0.5 * (0.5 + t) ** 2 * value
            filled = True
        if not filled:
            continue
        t = u - node
        below, at, above = 0.5 * (0.5 - t) ** 2, 0.75 - t * t, 0.5 * (0.5 + t) ** 2
        for j in range(line.shape[0]):
            value = line[j]
            if value != 0.0:
                out[node - 1, j] += below * value
                out[node, j] += at * value
                out[node + 1, j] += above * value


@njit(cache=True, nogil=True)
def moments(boxes, mask, centers, window):
    """Centre of mass and content of a round window about a centre, for every pattern."""
    result, weight = np.empty((len(boxes), 2)), np.empty(len(boxes))
    n_rows, n_columns = boxes.shape[1:]
    for p in range(len(boxes)):
        row, column = centers[p]
        total, first, second = 0.0, 0.0, 0.0
        for i in range(max(0, int(row - window - 1)), min(n_rows, int(row + window + 2))):
            for j in range(
                max(0, int(column - window - 1)), min(n_columns, int(column + window + 2))
            ):
                inside = window + 0.5 - np.hypot(i - row, j - column)
                if inside > 0:
                    value = min(inside, 1.0) * mask[i, j] * boxes[p, i, j]
                    total += value
                    first += value * (i - row)
                    second += value * (j - column)
        weight[p] = total
        result[p, 0] = row + (first / total if total > 0 else 0.0)
        result[p, 1] = column + (second / total if total > 0 else 0.0)
    return result, weight


@njit(cache=True, nogil=True)
def on_grid(boxes, weights, centers, spacing, shape, positions, seed, halves):
    """Patterns in boxes on the coarse grid, (n, nodes); with `halves`, the second half of each."""
    out = np.empty((len(boxes), shape[0] * shape[1]), np.float32)
    whole, half = np.empty(boxes.shape[1:]), np.empty(boxes.shape[1:])
    nodes, line = np.empty(shape), np.empty(shape[1])
    for p in range(len(boxes)):
        whole[:] = boxes[p]
        if halves:
            thin(whole, positions[p], seed, half)
            whole -= half
        spread(whole, weights, centers[p, 0], centers[p, 1], spacing, line, nodes)
        out[p] = nodes.ravel()
    return out


@njit(cache=True, nogil=True)
def _project(nodes, selected, basis, values):
    """Sum of the selected nodes into ``values[0]``, their projections behind it."""
    n_features = basis.shape[1]
    total = 0.0
    accumulated = np.zeros(n_features, np.float32)
    for s in range(selected.shape[0]):
        value = nodes[selected[s]]
        if value != 0.0:
            total += value
            single = np.float32(value)
            for k in range(n_features):
                accumulated[k] += single * basis[s, k]
    values[0] = total
    for k in range(n_features):
        values[1 + k] = accumulated[k]


@njit(cache=True, nogil=True)
def _project_all(
    patterns, positions, centers, box, spacing, weights, shape, selected, basis, seed, halves, out
):
    rows, columns = patterns.shape[1] // box, patterns.shape[2] // box
    boxes, half = np.empty((rows, columns)), np.empty((rows, columns))
    nodes, line = np.empty(shape), np.empty(shape[1])
    n = 1 + basis.shape[1]
    for p in range(len(patterns)):
        out[p, :] = 0.0
        flag = sum_boxes(patterns[p], box, boxes)
        out[p, 0] = flag
        if flag != 0:
            continue
        row, column = centers[p]
        if halves:
            thin(boxes, positions[p], seed, half)
            spread(half, weights, row, column, spacing, line, nodes)
            _project(nodes.ravel(), selected, basis, out[p, 1 : 1 + n])
            for i in range(rows):
                for j in range(columns):
                    boxes[i, j] -= half[i, j]
            spread(boxes, weights, row, column, spacing, line, nodes)
            _project(nodes.ravel(), selected, basis, out[p, 1 + n :])
        else:
            spread(boxes, weights, row, column, spacing, line, nodes)
            _project(nodes.ravel(), selected, basis, out[p, 1:])


@dataclass(frozen=True)
class Projection:
    """The first pass: flag, then sum and projections of one half of the counts, then of the other.

    Attributes
    ----------
    grid
        Coarse grid.
    weights : array (rows, columns) of boxes
        0 where a box is not used.
    selected : int64 array
        Nodes of the grid (flat) that are used.
    basis : float32 array (nodes, features)
        What they are projected on.
    beam : array (scan_y, scan_x, 2)
        Centre of the direct beam for every position, (row, column) in detector pixels.
    halves
        Whether the patterns hold counts, to be thinned; otherwise there is one set of numbers.
    seed
        Of the thinning.
    """

    grid: Grid
    weights: np.ndarray
    selected: np.ndarray
    basis: np.ndarray
    beam: np.ndarray
    halves: bool
    seed: int

    @property
    def n_values(self) -> int:
        """Numbers a pattern."""
        return 1 + (1 + self.halves) * (1 + self.basis.shape[1])

    def __call__(self, patterns: np.ndarray, positions: np.ndarray) -> np.ndarray:
        out = np.empty((len(patterns), self.n_values), np.float32)
        box = self.grid.box
        centers = (self.beam.reshape(-1, 2)[positions] - (box - 1) / 2) / box
        _project_all(
            patterns, positions, centers, box, self.grid.spacing, self.weights, self.grid.shape,
            self.selected, self.basis, self.seed, self.halves, out,
        )  # fmt: skip
        return out
