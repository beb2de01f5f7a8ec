"""The second pass: sums of the patterns of every leaf."""

import numpy as np
import pytest

from hs_autoptycho.clustering.leaf_sums import LeafSums
from hs_autoptycho.clustering.streaming import reduce_patterns

SHAPE = (6, 7, 9, 11)


@pytest.fixture(scope="module", params=[np.uint8, np.uint16, np.float32, np.int64])
def scan(request):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, SHAPE).astype(request.param)
    labels = rng.integers(-1, 3, SHAPE[:2]).astype(np.int32)
    shifts = rng.integers(-4, 5, (*SHAPE[:2], 2))
    shifts[0, 0] = -9, 3  # off the detector
    labels[0, 0] = 1
    return data, labels, shifts


def moved(pattern, shift):
    """A pattern moved by whole pixels, by another road: zeros come in at the sides."""
    wide = np.pad(pattern.astype(float), 11)
    return np.roll(wide, shift, (0, 1))[11:-11, 11:-11]


def test_sums_of_moved_patterns_and_of_their_squares(scan):
    data, labels, shifts = scan
    result = reduce_patterns(data, LeafSums(labels, shifts, (3, *SHAPE[2:])), num_workers=2)
    wanted, squares = np.zeros((2, 3, *SHAPE[2:]))
    for y, x in np.argwhere(labels >= 0):
        pattern = moved(data[y, x], shifts[y, x])
        wanted[labels[y, x]] += pattern
        squares[labels[y, x]] += pattern**2
    np.testing.assert_array_equal(result.sums, wanted)
    np.testing.assert_array_equal(result.squares, squares)


def test_merge_adds(scan):
    data, labels, shifts = scan
    patterns, positions = data.reshape(-1, *SHAPE[2:]), np.arange(42)
    whole = LeafSums(labels, shifts, (3, *SHAPE[2:]))
    whole.process(patterns, positions)
    merged = whole.empty()
    assert not merged.sums.any() and not merged.squares.any()
    for part in (np.s_[:5], np.s_[5:29], np.s_[29:]):
        other = whole.empty()
        other.process(patterns[part], positions[part])
        merged.merge(other)
    np.testing.assert_array_equal(merged.sums, whole.sums)
    np.testing.assert_array_equal(merged.squares, whole.squares)


def test_what_is_not_clustered_is_not_looked_at():
    data = np.full(SHAPE, np.nan)
    data[2, 3] = 5
    labels = np.full(SHAPE[:2], -1, np.int32)
    labels[2, 3] = 0
    sums = LeafSums(labels, np.zeros((*SHAPE[:2], 2), int), (1, *SHAPE[2:]))
    result = reduce_patterns(data, sums)
    assert (result.sums == 5).all() and (result.squares == 25).all()
