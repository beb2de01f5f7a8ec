"""Batches: every position once, from all over the scan or from one place."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.batches import compact_batches, default_batch_size, sparse_batches

SCAN = (24, 31)


@pytest.fixture
def positions():
    rng = np.random.default_rng(3)
    grid = np.stack(np.mgrid[: SCAN[0], : SCAN[1]], -1).reshape(-1, 2)
    return 2.5 * grid + rng.normal(size=(grid.shape[0], 2))


def make(kind, indices, n_batches, positions, seed=0):
    generator = np.random.default_rng(seed)
    if kind == "compact":
        return compact_batches(indices, n_batches, positions, generator)
    return sparse_batches(indices, n_batches, generator)


def extents(batches, positions):
    """Root mean square distance from the batch's middle."""
    return np.array([np.sqrt(positions[b].var(0).sum()) for b in batches])


kinds = pytest.mark.parametrize("kind", ["sparse", "compact"])


@kinds
@pytest.mark.parametrize("n_batches", [1, 2, 7, 31, 744])
def test_every_position_once(positions, kind, n_batches):
    batches = make(kind, np.arange(len(positions)), n_batches, positions)
    assert len(batches) == n_batches
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(len(positions)))
    sizes = [len(b) for b in batches]
    assert min(sizes) >= 1
    # even sizes, but for what halving rounds off
    assert max(sizes) - min(sizes) <= (1 if kind == "sparse" else 2)


@kinds
def test_only_what_is_to_be_visited(positions, kind):
    indices = np.flatnonzero(np.arange(len(positions)) % 5 == 2)
    before = indices.copy()
    batches = make(kind, indices, 6, positions)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), before)
    np.testing.assert_array_equal(indices, before)


@kinds
def test_the_generator_decides(positions, kind):
    indices = np.arange(len(positions))
    one, same, other = (make(kind, indices, 9, positions, seed) for seed in (1, 1, 2))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(len(a) != len(b) or np.any(a != b) for a, b in zip(one, other, strict=True))


@kinds
def test_another_order_in_every_pass(positions, kind):
    generator = np.random.default_rng(0)
    indices = np.arange(len(positions))
    passes = [
        compact_batches(indices, 9, positions, generator)
        if kind == "compact"
        else sparse_batches(indices, 9, generator)
        for _ in range(2)
    ]
    assert {frozenset(b.tolist()) for b in passes[0]} != {frozenset(b.tolist()) for b in passes[1]}


def test_compact_ones_are_compact(positions):
    indices = np.arange(len(positions))
    compact = extents(make("compact", indices, 31, positions), positions)
    sparse = extents(make("sparse", indices, 31, positions), positions)
    whole = np.sqrt(positions.var(0).sum())
    # a disk with the area of a batch is the most compact shape
    area = np.prod(2.5 * np.array(SCAN)) / 31
    assert compact.mean() < 1.5 * np.sqrt(area / (2 * np.pi))
    assert compact.max() < 0.4 * whole
    assert sparse.min() > 0.7 * whole


def test_compact_ones_are_not_visited_from_one_side_to_the_other(positions):
    batches = make("compact", np.arange(len(positions)), 31, positions)
    middles = np.array([positions[b].mean(0) for b in batches])
    steps = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    nearest = np.sqrt(np.prod(2.5 * np.array(SCAN)) / 31)
    assert steps.mean() > 1.5 * nearest


@pytest.mark.parametrize("algorithm", ["epie", "rpie"])
def test_the_engines_visit_one_position_at_a_time(algorithm):
    assert default_batch_size(algorithm, 10**5) == 1


@pytest.mark.parametrize("algorithm", ["lsq-ml", "gradient"])
def test_default_size(algorithm):
    sizes = [default_batch_size(algorithm, n) for n in (4, 500, 2400, 10**6)]
    assert sizes == [16, 20, 100, 256]
    assert all(type(size) is int for size in sizes)
