"""All patterns in two independent halves."""

import numpy as np

from hs_autoptycho.clustering.features import from_intensities, from_thinned

SHAPE, N = (30, 37), 6


def thinned_values(factor=1, seed=0, mean=20.0):
    """As from a projection: counts times a factor, in N + 1 columns for each half."""
    rng = np.random.default_rng(seed)
    counts = factor * rng.poisson(np.linspace(mean, 2 * mean, N), (*SHAPE, N))
    first = rng.binomial(counts, 0.5)
    halves = [np.dstack([part.sum(-1), part]) for part in (first, counts - first)]
    return np.dstack(halves).astype(np.float32), counts


def test_poisson_counts_are_split_by_counts():
    values, counts = thinned_values()
    valid = np.ones(SHAPE, bool)
    features = from_thinned(values, valid)
    assert features.splitting == "counts"
    first, second = features.halves
    assert first.sums.shape == (*SHAPE, N) and first.weights.shape == SHAPE
    np.testing.assert_array_equal(first.sums + second.sums, counts)
    np.testing.assert_array_equal(first.weights, values[..., 0])
    np.testing.assert_array_equal(second.weights, values[..., 7])
    assert features.shape == SHAPE
    both = features.together()
    np.testing.assert_array_equal(both.sums, counts)
    np.testing.assert_array_equal(both.weights, counts.sum(-1))


def test_halves_of_a_checkerboard_are_disjoint():
    rng = np.random.default_rng(6)
    sums, weights = rng.random((5, 8, 3)) + 1, rng.random((5, 8)) + 1
    features = from_intensities(sums, weights, np.ones((5, 8), bool))
    first, second = features.halves
    assert not ((first.weights > 0) & (second.weights > 0)).any()
    assert (first.weights > 0).sum() == (second.weights > 0).sum() == 20
    np.testing.assert_array_equal(first.weights > 0, first.sums.all(-1))
    np.testing.assert_array_equal(features.together().sums, sums)
    np.testing.assert_array_equal(features.together().weights, weights)
    for axis in (0, 1):  # neighbours are never in the same half
        side = first.weights > 0
        assert (np.diff(side.astype(int), axis=axis) != 0).all()
