"""Labels of all positions once the clusters are known."""

import numpy as np
import pytest

from hs_autoptycho.clustering.assignment import assign
from hs_autoptycho.clustering.features import Features, Half, from_intensities

SHAPE = (28, 37)
Y, X = np.indices(SHAPE)
TRUTH = np.where(np.hypot(X - 12, Y - 13) < 9, 1, np.where(X > 27, 2, 0))
MEANS = np.random.default_rng(3).dirichlet(np.full(8, 5.0), 3)


def features(electrons=60.0, seed=0, valid=None):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(electrons * MEANS[TRUTH]).astype(np.float32)
    first = rng.binomial(counts.astype(int), 0.5).astype(np.float32)
    valid = np.ones(SHAPE, bool) if valid is None else valid
    counts[~valid] = first[~valid] = 0
    parts = [Half(part[..., :7], part.sum(-1)) for part in (first, counts - first)]
    return Features(tuple(parts), valid, "counts")


@pytest.mark.parametrize("seed", range(3))
def test_frayed_labels_become_the_truth(seed):
    rng = np.random.default_rng(seed)
    frayed = np.where(rng.random(SHAPE) < 0.2, rng.integers(0, 3, SHAPE), TRUTH)
    found = assign(features(seed=seed), frayed, 3)
    assert found.dtype == np.int32
    assert np.mean(found != TRUTH) < 0.02 < 0.1 < np.mean(frayed != TRUTH)


def test_neighbours_count_where_counts_are_few():
    frayed = np.where(np.random.default_rng(5).random(SHAPE) < 0.1, 0, TRUTH)
    few = features(electrons=12.0)
    found = assign(few, frayed, 3)
    assert np.mean(found != TRUTH) < 0.05


def test_what_is_not_valid_stays_out():
    valid = np.random.default_rng(6).random(SHAPE) > 0.2
    labels = np.where(valid, TRUTH, -1)
    found = assign(features(valid=valid), labels, 3)
    np.testing.assert_array_equal(found == -1, ~valid)
    assert np.mean(found[valid] != TRUTH[valid]) < 0.02


def test_one_cluster_is_left_alone():
    valid = X != 3
    labels = np.where(valid, 0, -1)
    np.testing.assert_array_equal(assign(features(valid=valid), labels, 1), labels)


def test_no_cluster_vanishes():
    # a cluster without anything of its own, scattered over another
    labels = TRUTH.copy()
    labels[::7, ::7] = 3
    found = assign(features(), labels, 4)
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_labels_given_are_not_changed():
    labels = np.where(X > 20, 1, 0).astype(np.int32)
    before = labels.copy()
    assign(features(), labels, 2)
    np.testing.assert_array_equal(labels, before)


def test_intensities_on_a_checkerboard():
    whole = features(electrons=300.0).together()
    split = from_intensities(1.7 * whole.sums, 1.7 * whole.weights, np.ones(SHAPE, bool))
    frayed = np.where(np.random.default_rng(7).random(SHAPE) < 0.2, 0, TRUTH)
    assert np.mean(assign(split, frayed, 3) != TRUTH) < 0.02


def test_noise_of_different_sizes_in_the_features():
    """A feature that is all noise, and large, tells nothing and does no harm."""
    good = features(electrons=200.0)
    rng = np.random.default_rng(8)
    halves = [
        Half(np.dstack([h.sums, h.weights[..., None] * rng.normal(0, 50, (*SHAPE, 1))]), h.weights)
        for h in good.halves
    ]
    frayed = np.where(rng.random(SHAPE) < 0.2, 0, TRUTH)
    found = assign(Features(tuple(halves), good.valid, "counts"), frayed, 3)
    assert np.mean(found != TRUTH) < 0.02
