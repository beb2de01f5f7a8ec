"""Ways to part a node that one half of the counts proposes."""

import numpy as np
import pytest

from hs_autoptycho.clustering.features import Half
from hs_autoptycho.clustering.segmentation import (
    Proposal,
    part_means,
    propose,
    segment,
)
from hs_autoptycho.clustering.smoothing import mean_field, potts_field

SHAPE = (24, 33)
Y, X = np.indices(SHAPE)


def draw(means, labels, seed=0, weight=100.0):
    """Half with the means (parts, dimensions) at labels (y, x), noise of one a count."""
    rng = np.random.default_rng(seed)
    weights = rng.poisson(weight, SHAPE).astype(float)
    sums = weights[..., None] * np.asarray(means, float)[labels]
    return Half(sums + rng.standard_normal(sums.shape) * np.sqrt(weights)[..., None], weights)


def test_labels_of_a_proposal():
    proposal = Proposal(np.array([0, 1, 2, 1]), np.array([False, True, True]))
    np.testing.assert_array_equal(proposal.labels, [False, True, True, True])


def test_part_means_weigh_counts():
    sums, weights = np.array([[2.0, 4], [6, 0], [9, 9]]), np.array([1.0, 3, 4])
    means = part_means(sums, weights, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(means, [[2, 1], [9 / 4, 9 / 4]])
    assert part_means(sums, weights, np.array([0, 0, 0]), 2) is None


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_settle_what_counts_leave_open(seed):
    labels = (np.hypot(X - 15, Y - 11) < 8).astype(int)
    half = draw([[0, 0], [0.18, 0]], labels, seed)  # 0.9 standard deviations to either side
    mask = np.ones(SHAPE, bool)
    mask[:3, 20:] = False
    alone = (half.sums[..., 0] / half.weights > 0.09).astype(int)
    wrong = np.mean(alone != labels)
    assert wrong > 0.1
    found = segment(half, mask, alone[mask], 2)
    assert found.shape == (mask.sum(),)
    assert np.mean(found != labels[mask]) < 0.25 * wrong
    # the strength of the neighbours is no tyranny: a domain of nine positions stays
    labels = ((abs(X - 15) < 2) & (abs(Y - 11) < 2)).astype(int)
    half = draw([[0, 0], [0.6, 0]], labels, seed)
    found = segment(half, np.ones(SHAPE, bool), labels.ravel(), 2)
    assert np.count_nonzero(found != labels.ravel()) <= 2


def test_part_that_vanishes():
    labels = np.zeros(SHAPE, int)
    half = draw([[0.0, 0]], labels)
    start = np.zeros(SHAPE[0] * SHAPE[1], int)
    assert segment(half, np.ones(SHAPE, bool), start, 2) is None


def test_three_domains_are_cut_along_their_boundaries():
    labels = (X * 3) // SHAPE[1]
    half = draw([[0, 0], [0.5, 0], [1.0, 0]], labels)
    mask = np.ones(SHAPE, bool)
    smooth = (half.sums / half.weights[..., None]).reshape(-1, 2)
    proposals = propose(half, smooth, mask, 0)
    wanted = {(labels == k).tobytes() for k in (0, 2)}
    found = set()
    for proposal in proposals:
        assert proposal.labels.any() and not proposal.labels.all()
        assert not proposal.joined[0]  # the same partition is not there twice the other way round
        for second in (proposal.labels, ~proposal.labels):
            found.add(second.reshape(SHAPE).tobytes())
    assert wanted <= found
    keys = [(p.parts.max() + 1, tuple(p.joined)) for p in proposals]
    assert len(keys) == len(set(keys))


def test_proposals_do_not_depend_on_when_they_are_asked_for():
    labels = (X > 16).astype(int)
    half = draw([[0, 0], [0.3, 0.1]], labels)
    smooth = (half.sums / half.weights[..., None]).reshape(-1, 2)
    one, two = (propose(half, smooth, np.ones(SHAPE, bool), 5) for _ in range(2))
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)


def test_few_positions_are_not_cut_in_many():
    mask = np.zeros(SHAPE, bool)
    mask[5:10, 5:14] = True  # 45 positions
    half = draw([[0.0, 0], [1, 0]], (X > 9).astype(int))
    smooth = (half.sums / half.weights[..., None])[mask]
    proposals = propose(half, smooth, mask, 0)
    assert len(proposals) == 1 and proposals[0].parts.max() == 1
    assert propose(half, smooth[:39], mask, 0) == []


def test_potts_field_counts_neighbours():
    one = np.zeros((5, 6, 2))
    one[2, 3, 1] = 1
    field = potts_field(one)
    assert not field[..., 0].any() and field[2, 3, 1] == 0
    assert field[2, 2, 1] == field[1, 3, 1] == 1 and field[1, 2, 1] == field[3, 4, 1] == 0.7
    assert field.sum() == pytest.approx(4 + 2.8)


def test_mean_field_without_coupling_takes_the_likelihood():
    rng = np.random.default_rng(0)
    likelihood = rng.normal(size=(5, 6, 3))
    start = np.eye(3)[rng.integers(0, 3, (5, 6))]
    mask = np.ones((5, 6), bool)
    np.testing.assert_array_equal(
        mean_field(likelihood, mask, start, 0.0, 3), likelihood.argmax(-1)
    )
    # nor do positions outside of the mask speak
    likelihood[:] = 0
    likelihood[2, 2] = 0, 0.1, 0
    start = np.broadcast_to(np.eye(3)[2], (5, 6, 3))
    alone = np.zeros((5, 6), bool)
    alone[2, 2] = True
    assert mean_field(likelihood, alone, start, 1.0, 5)[2, 2] == 1
    assert mean_field(likelihood, mask, start, 1.0, 5)[2, 2] == 2
