"""The second pass: sums of the patterns of every leaf."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _add(patterns, labels, shifts, sums, squares):
    n_rows, n_columns = sums.shape[1:]
    for p in range(len(patterns)):
        label = labels[p]
        if label < 0:
            continue
        down, right = shifts[p]
        for row in range(max(0, down), min(n_rows, n_rows + down)):
            for column in range(max(0, right), min(n_columns, n_columns + right)):
                value = np.float64(patterns[p, row - down, column - right])
                sums[label, row, column] += value
                squares[label, row, column] += value * value


class LeafSums:
    """Sums over the patterns of each leaf, and over their squares; for `reduce_patterns`.

    Attributes
    ----------
    labels : int32 array (y, x)
        Leaf numbers, or -1.
    shifts : int array (y, x, 2)
        (rows, columns) by which a pattern is moved so that its beam comes to where the others' is.
    sums, squares : float64 array (leaves, k_y, k_x)
        Pixels that nothing was moved to stay at what the other patterns give them.
    """

    def __init__(self, labels: np.ndarray, shifts: np.ndarray, shape: tuple[int, int, int]):
        self.labels = labels
        self.shifts = shifts
        self.shape = shape
        self.sums = np.zeros(shape)
        self.squares = np.zeros(shape)

    def empty(self) -> LeafSums:
        return LeafSums(self.labels, self.shifts, self.shape)

    def process(self, patterns: np.ndarray, positions: np.ndarray) -> None:
        labels = self.labels.ravel()[positions]
        shifts = self.shifts.reshape(-1, 2)[positions]
        _add(patterns, labels, shifts, self.sums, self.squares)

    def merge(self, other: LeafSums) -> None:
        self.sums += other.sums
        self.squares += other.squares
