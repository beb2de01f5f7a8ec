"""Kernels of the first pass: boxes, thinning, the coarse grid, projections."""

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.stats import binom, chi2

from hs_autoptycho.clustering import projection
from hs_autoptycho.clustering.projection import (
    EMPTY,
    NEGATIVE,
    NOT_FINITE,
    Grid,
    Projection,
    moments,
    on_grid,
    spread,
    sum_boxes,
    thin,
)


def thinned(counts, position=0, seed=0):
    out = np.full(counts.shape, np.nan)
    thin(counts, position, seed, out)
    return out


# --- boxes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int32, np.uint64, np.float32, np.float64, np.int64]
)
@pytest.mark.parametrize("box", [1, 2, 3])
def test_boxes_are_sums(dtype, box):
    pattern = np.random.default_rng(0).integers(0, 120, (11, 14)).astype(dtype)
    rows, columns = 11 // box, 14 // box
    out = np.full((rows, columns), np.nan)
    assert sum_boxes(pattern, box, out) == 0
    whole = pattern[: rows * box, : columns * box].astype(float)
    np.testing.assert_array_equal(out, whole.reshape(rows, box, columns, box).sum((1, 3)))


@pytest.mark.parametrize("box", [1, 2])
def test_unusable_patterns_are_flagged(box):
    out = np.empty((4 // box, 6 // box))
    assert sum_boxes(np.zeros((4, 6), np.uint16), box, out) == EMPTY
    for flag, value in (
        (NOT_FINITE, np.nan),
        (NOT_FINITE, np.inf),
        (NOT_FINITE, -np.inf),
        (NEGATIVE, -1),
    ):
        pattern = np.ones((4, 6), np.float32)
        pattern[2, 3] = value
        assert sum_boxes(pattern, box, out) == flag
    # a negative value that others make up for, also to nothing at all
    pattern = np.zeros((4, 6), np.int16)
    pattern[0, 0], pattern[0, 1] = -3, 3
    assert sum_boxes(pattern, box, out) == NEGATIVE
    pattern[0, 0] = 0
    assert sum_boxes(pattern, box, out) == 0


# --- thinning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 17, 63, 64, 65, 200, 16384, 16385, 400_000])
def test_thinning_is_binomial(count):
    n = 200_000 if count < 1000 else 20_000
    counts = np.full((n // 100, 100), float(count))
    half = thinned(counts, seed=count)
    other = counts - half
    assert np.array_equal(half, np.rint(half)) and half.min() >= 0 and other.min() >= 0
    error = np.sqrt(count / 4 / n)
    assert abs(half.mean() - count / 2) < 4.5 * error
    assert half.var() / (count / 4) == pytest.approx(1, abs=4.5 * np.sqrt(2 / n))
    if count < 100:  # the whole distribution
        seen = np.bincount(half.ravel().astype(int), minlength=count + 1)
        wanted = n * binom.pmf(np.arange(count + 1), count, 0.5)
        frequent = wanted > 10
        square = ((seen - wanted)[frequent] ** 2 / wanted[frequent]).sum()
        assert square < chi2.ppf(1 - 1e-5, frequent.sum() - 1)


@pytest.mark.parametrize("mean", [0.05, 3.0, 90.0, 30_000.0])
def test_halves_of_poisson_counts_are_independent(mean):
    n = 200_000
    counts = np.random.default_rng(1).poisson(mean, (n // 100, 100)).astype(float)
    half = thinned(counts)
    other = counts - half
    correlation = np.corrcoef(half.ravel(), other.ravel())[0, 1]
    assert abs(correlation) < 4.5 / np.sqrt(n)
    for part in (half, other):
        assert part.var() / (mean / 2) == pytest.approx(1, abs=4.5 * np.sqrt((2 + 2 / mean) / n))


def test_neighbouring_pixels_patterns_and_seeds_get_other_bits():
    counts = np.full((300, 100), 20.0)
    n = counts.size
    half = thinned(counts)
    near = 4.5 / np.sqrt(n)
    for other in (
        thinned(counts, position=1),
        thinned(counts, seed=1),
        np.roll(half, 1, 0),
        np.roll(half, 1, 1),
    ):
        assert abs(np.corrcoef(half.ravel(), other.ravel())[0, 1]) < near
    np.testing.assert_array_equal(thinned(counts), half)


# --- the coarse grid --------------------------------------------------------------------------


def spline_matrix(n_boxes, center, spacing, n_nodes):
    """What a box gives to each node, (boxes, nodes), by scipy's quadratic B-spline."""
    element = BSpline.basis_element(np.arange(4) - 1.5, extrapolate=False)
    u = (np.arange(n_boxes) - center) / spacing + n_nodes // 2
    return np.nan_to_num(element(u[:, None] - np.arange(n_nodes)))


def kept(matrix):
    """Boxes that are on the grid with all three of their nodes."""
    return matrix * (np.abs(matrix.sum(1, keepdims=True) - 1) < 1e-12)


def spreaded(boxes, weights, center, spacing, shape):
    out = np.full(shape, np.nan)
    spread(boxes, weights, *center, spacing, np.empty(shape[1]), out)
    return out


CENTERS = [(9.0, 11.0), (9.31, 10.77), (8.5, 11.5), (9.999, 10.001)]


@pytest.mark.parametrize("spacing", [1.0, 1.7, 2.5])
@pytest.mark.parametrize("center", CENTERS, ids=str)
def test_spreading_keeps_sum_and_first_moment(center, spacing):
    boxes = np.zeros((19, 23))
    boxes[5:14, 6:17] = np.random.default_rng(2).poisson(5, (9, 11))
    shape = (25, 27)
    nodes = spreaded(boxes, np.ones(boxes.shape), center, spacing, shape)
    assert nodes.sum() == pytest.approx(boxes.sum(), rel=1e-13)
    for axis in (0, 1):
        other = 1 - axis
        mine = nodes.sum(other) @ (np.arange(shape[axis]) - shape[axis] // 2) * spacing
        wanted = boxes.sum(other) @ (np.arange(boxes.shape[axis]) - center[axis])
        assert mine == pytest.approx(wanted, abs=1e-10 * boxes.sum())


@pytest.mark.parametrize("spacing", [1.0, 1.7])
@pytest.mark.parametrize("center", [*CENTERS, (3.2, 15.4)], ids=str)
def test_spreading_is_what_the_splines_say(center, spacing):
    rng = np.random.default_rng(3)
    boxes = rng.poisson(2, (19, 23)).astype(float)
    weights = rng.choice([0.0, 1.0, 1.25], boxes.shape)
    shape = (31, 33)
    nodes = spreaded(boxes, weights, center, spacing, shape)
    by_rows = kept(spline_matrix(19, center[0], spacing, 31))
    by_columns = kept(spline_matrix(23, center[1], spacing, 33))
    np.testing.assert_allclose(nodes, by_rows.T @ (weights * boxes) @ by_columns, atol=1e-12)


def test_boxes_beyond_the_grid_are_left_out():
    boxes = np.ones((19, 23))
    nodes = spreaded(boxes, boxes, (9.2, 10.9), 1.0, (9, 11))
    assert nodes.sum() == pytest.approx(7 * 9)  # those of which all three nodes are on the grid
    np.testing.assert_allclose(nodes[3:6, 3:8], 1)


def test_grid_nodes_are_centred_at_the_beam():
    grid = Grid(2, 1.5, (5, 6))
    row, column = grid.nodes()
    assert row.shape == column.shape == (5, 6)
    assert row[2, 3] == column[2, 3] == 0
    assert row[4, 0] == 6 and column[0, 5] == 6


def test_moments_of_a_window():
    rng = np.random.default_rng(4)
    boxes = rng.poisson(3, (2, 15, 18)).astype(np.float32)
    mask = np.ones((15, 18))
    mask[6, 9] = 0
    centers = np.array([[6.3, 8.8], [7.0, 9.0]])
    found, weight = moments(boxes, mask, centers, 3.0)
    y, x = np.indices((15, 18))
    for p, (row, column) in enumerate(centers):
        window = mask * np.clip(3.5 - np.hypot(y - row, x - column), 0, 1) * boxes[p]
        assert weight[p] == pytest.approx(window.sum())
        assert found[p, 0] == pytest.approx((window * y).sum() / window.sum())
        assert found[p, 1] == pytest.approx((window * x).sum() / window.sum())
    found, weight = moments(0 * boxes, mask, centers, 3.0)
    np.testing.assert_array_equal(found, centers)
    assert (weight == 0).all()


# --- the whole kernel -------------------------------------------------------------------------


def make(halves, box=1, seed=5):
    rng = np.random.default_rng(6)
    beam = np.stack(np.broadcast_arrays(*np.ogrid[7:9:4j, 8:9:5j]), -1)  # descan, (4, 5, 2)
    shape = (14, 14)
    selected = np.arange(40, 150, 3)
    basis = rng.normal(size=(len(selected), 6)).astype(np.float32)
    weights = rng.choice([0.0, 1.0, 1.2], (16 // box, 18 // box), p=[0.1, 0.8, 0.1])
    return Projection(Grid(box, 1.4, shape), weights, selected, basis, beam, halves, seed)


@pytest.fixture(scope="module")
def patterns():
    return np.random.default_rng(7).poisson(3, (20, 16, 18)).astype(np.uint16)


@pytest.mark.parametrize("box", [1, 2])
def test_projection_is_a_product_of_matrices(patterns, box):
    kernel = make(False, box)
    values = kernel(patterns, np.arange(20))
    assert values.shape == (20, kernel.n_values) == (20, 8) and values.dtype == np.float32
    assert (values[:, 0] == 0).all()
    boxes = patterns.reshape(20, 16 // box, box, 18 // box, box).sum((2, 4))
    for p in range(20):
        # the centre of box 0 is at pixel (box - 1) / 2
        row, column = (kernel.beam.reshape(-1, 2)[p] - (box - 1) / 2) / box
        left = kept(spline_matrix(16 // box, row, 1.4, 14))
        right = kept(spline_matrix(18 // box, column, 1.4, 14))
        nodes = (left.T @ (kernel.weights * boxes[p]) @ right).ravel()[kernel.selected]
        assert values[p, 1] == pytest.approx(nodes.sum(), rel=1e-5)
        np.testing.assert_allclose(values[p, 2:], nodes @ kernel.basis, rtol=1e-4, atol=1e-3)


def test_halves_add_up_to_the_whole(patterns):
    together, halves = make(False), make(True)
    positions = np.arange(20)
    whole, two = together(patterns, positions), halves(patterns, positions)
    assert two.shape == (20, 15) and halves.n_values == 15
    np.testing.assert_allclose(two[:, 1:8] + two[:, 8:], whole[:, 1:], rtol=1e-4, atol=2e-3)
    assert abs(two[:, 1].sum() / two[:, 8].sum() - 1) < 0.1
    # the first is what `on_grid` gives for the second half, and the other way round: the basis
    # is made from the latter
    boxes = patterns.astype(np.float32)
    other = on_grid(
        boxes, halves.weights, halves.beam.reshape(-1, 2), 1.4, (14, 14), positions, 5, True
    )[:, halves.selected]
    np.testing.assert_allclose(two[:, 8], other.sum(1), rtol=1e-5)
    np.testing.assert_allclose(two[:, 9:], other @ halves.basis, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("halves", [True, False])
def test_same_bits_whatever_the_block(patterns, halves):
    kernel = make(halves)
    positions = np.arange(20)
    whole = kernel(patterns, positions)
    for size in (1, 3, 7):
        parts = [
            kernel(patterns[i : i + size], positions[i : i + size]) for i in range(0, 20, size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(kernel(patterns[::-1].copy(), positions[::-1])[::-1], whole)
    for dtype in (np.float32, np.float64, np.int64, np.uint32):
        np.testing.assert_array_equal(kernel(patterns.astype(dtype), positions), whole)


def test_unusable_patterns_have_a_flag_and_zeros(patterns):
    bad = patterns.astype(np.float32)
    bad[3], bad[5, 2, 2], bad[6, 0, 0], bad[8, 15, 17] = 0, np.nan, -1, np.inf
    for kernel in (make(True), make(False)):
        values = kernel(bad, np.arange(20))
        flags = {3: EMPTY, 5: NOT_FINITE, 6: NEGATIVE, 8: NOT_FINITE}
        for p in range(20):
            assert values[p, 0] == flags.get(p, 0)
            assert (values[p, 1:] == 0).all() == (p in flags)
    assert set(projection.FLAGS) == {EMPTY, NOT_FINITE, NEGATIVE}
