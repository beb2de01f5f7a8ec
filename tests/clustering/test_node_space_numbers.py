"""Directions of a node from covariances that are known, and the covariances of a small scan."""

import numpy as np
import pytest

from hs_autoptycho.clustering import node_space as module
from hs_autoptycho.clustering.features import Half
from hs_autoptycho.clustering.node_space import NodeSpace, best_smoothing, node_space
from hs_autoptycho.clustering.smoothing import blur, neighbour_sum, potts_field

Y, X = np.indices((9, 13))


def small():
    """Three features of waves on uneven weights, with holes."""
    weights = 5.0 + 3 * np.sin(Y + 2 * X)
    weights[2, 3] = weights[8, 12] = weights[4, 8:10] = 0
    waves = [np.sin(1.3 * Y * (k + 1) + 0.7 * X * (3 - k) + k) for k in range(3)]
    return weights, weights[..., None] * np.stack(waves, -1)


# --- covariances ------------------------------------------------------------------------------


@pytest.mark.parametrize("band", [64, 3])
def test_covariances_of_pairs_one_by_one(monkeypatch, band):
    monkeypatch.setattr(module, "_BAND", band)
    weights, sums = small()
    mean = np.array([0.2, -0.1, 0.05])
    noise, shared = module._covariances(sums, weights, mean)
    centred = np.where(weights[..., None] > 0, sums - weights[..., None] * mean, 0)
    # diagonal neighbours along both diagonals
    pairs = [((y, x), (y + 1, x + s)) for y in range(8) for x in range(13) for s in (-1, 1)]
    wanted, n = np.zeros((3, 3)), 0
    for a, b in pairs:
        if 0 <= b[1] < 13 and weights[a] > 0 and weights[b] > 0:
            apart = centred[b] / weights[b] - centred[a] / weights[a]
            wanted += np.outer(apart, apart) / (1 / weights[a] + 1 / weights[b])
            n += 1
    np.testing.assert_allclose(noise, wanted / n, rtol=1e-4)
    around = neighbour_sum(centred, 1.0) / neighbour_sum(weights, 1.0)[..., None]
    used = weights > 0
    product = centred[used].T @ around[used] / used.sum()
    np.testing.assert_allclose(shared, (product + product.T) / 2, rtol=1e-4, atol=1e-6)


def test_neighbours_too_far_away_do_not_count():
    """Only those with a thousandth of the largest weight around them."""
    weights = np.zeros((30, 40))
    weights[5, 5] = weights[8, 6] = 1.0  # three rows and one column away
    sums = weights[..., None] * 2.0
    shared = module._covariances(sums, weights, np.zeros(1))[1]
    assert shared[0, 0] == pytest.approx(4, rel=1e-5)
    weights[20, 20] = weights[23, 22] = 1.0  # two columns: too far
    weights[20, 35] = 1.0
    shared = module._covariances(weights[..., None] * 2.0, weights, np.zeros(1))[1]
    assert shared[0, 0] == pytest.approx(4, rel=1e-5)
    alone = np.zeros((6, 7))
    alone[2, 2] = 1.0
    noise, shared = module._covariances(alone[..., None], alone, np.zeros(1))
    assert noise.tolist() == shared.tolist() == [[0.0]]
    # and no pairs without weights
    assert not np.any(module._covariances(0 * sums, 0 * weights, np.zeros(1)))


def test_noise_is_simulated_on_a_part_of_a_large_node(monkeypatch):
    weights = np.ones((10, 8))
    weights[1, 4:] = 0
    parts = []

    def covariances(sums, part, mean):
        parts.append(part.shape)
        assert sums.shape == (*part.shape, 5) and sums.dtype == np.float32
        np.testing.assert_array_equal(mean, np.zeros(5))
        return None, np.diag([1.0, 2.0, 3.0, 4.0, 4.5 + len(parts) % 2])

    monkeypatch.setattr(module, "_covariances", covariances)
    assert module._NOISE_POSITIONS == 2**14
    assert module._noise_strength(weights, 5, 0) == 5.5 and parts == [(10, 8)] * 2
    # twenty positions are in three rows, of the 76 that there are
    monkeypatch.setattr(module, "_NOISE_POSITIONS", 20)
    strength = module._noise_strength(weights, 5, 0)
    assert parts[2:] == [(3, 8)] * 2
    assert strength == pytest.approx(5.5 * np.sqrt(20 / 76))
    assert module._noise_strength(0 * weights, 5, 0) == 0


def test_strength_of_noise_on_a_small_scan():
    weights, _ = small()
    assert module._noise_strength(weights, 3, 7) == pytest.approx(0.1109815, rel=1e-4)


# --- directions -------------------------------------------------------------------------------


def space_of(monkeypatch, strengths, noise=None, weights=None):
    """The space of a node whose noise is 4 in all features, of components so strong."""
    n = len(strengths)
    noise = np.full(n, 4.0) if noise is None else np.asarray(noise, float)
    covariances = np.diag(noise), np.diag(2.5 * noise * strengths)
    monkeypatch.setattr(module, "_covariances", lambda *arguments: covariances)
    monkeypatch.setattr(module, "_noise_strength", lambda *arguments: 2.5)
    weights = np.ones((4, 6)) if weights is None else weights
    half = Half(np.ones((4, 6, n)) * np.arange(n), weights)
    return node_space(half, np.arange(24).reshape(4, 6) < 20, 0)


@pytest.mark.parametrize(
    "strengths, dimensions",
    [
        ([0.2, 1.14, 0.3, 0.1], 0),
        ([0.2, 1.16, 0.3, 0.1], 3),  # a few more than stand out
        ([1.2, 0.3], 2),
        ([1.2, 1.3, 1.4, 1.5, 0.9], 4),
        ([2.0] * 9, 8),
    ],
)
def test_components_above_the_noise(monkeypatch, strengths, dimensions):
    space = space_of(monkeypatch, strengths)
    assert space.dimensions == dimensions and space.directions.shape == (len(strengths), dimensions)
    assert space.strengths == pytest.approx(sorted(strengths, reverse=True))


def test_directions_have_noise_of_one(monkeypatch):
    space = space_of(monkeypatch, [0.5, 3.0, 2.0, 1.0], noise=[4.0, 9.0, 16.0, 1.0])
    expected = np.zeros((4, 3))
    expected[1, 0], expected[2, 1], expected[3, 2] = 1 / 3, 1 / 4, 1.0
    np.testing.assert_allclose(np.abs(space.directions), expected, atol=1e-12)
    # a feature without noise is taken to have a millionth of the strongest
    space = space_of(monkeypatch, [2.0, 1.0, 3.0], noise=[1e-12, 4.0, 1.0])
    assert np.abs(space.directions).max() == pytest.approx(1 / np.sqrt(4e-6))


def test_mean_is_that_of_the_node(monkeypatch):
    weights = np.full((4, 6), 1e-3)
    weights[1, 2] = 0.0
    space = space_of(monkeypatch, [2.0, 1.0, 3.0], weights=weights)
    # nineteen positions have counts, and the sums of all are 0, 1 and 2
    assert space.mean == pytest.approx([0.0, 1000.0, 2000.0])
    nothing = node_space(Half(np.zeros((4, 6, 3)), 0 * weights), np.ones((4, 6), bool), 0)
    assert nothing.mean.tolist() == [0, 0, 0]


def test_projected_half_is_centred():
    directions = np.array([[1.0, 0.5], [0.0, 2.0], [-1.0, 0.25]])
    space = NodeSpace(np.array([0.5, 0.25, 1.0]), directions, np.ones(3))
    weights, sums = small()
    found = space.project(Half(sums.astype(np.float32), weights))
    assert found.weights is weights
    wanted = (sums - weights[..., None] * space.mean) @ directions
    np.testing.assert_allclose(found.sums, wanted, rtol=1e-4, atol=1e-4)


# --- smoothing --------------------------------------------------------------------------------


def test_smoothing_that_predicts_best():
    weights, sums = small()
    fit, test = Half(sums, weights), Half(np.roll(sums, 1, 2), weights[:, ::-1].copy())
    mask = (X + Y) % 5 > 0
    errors = []
    for width in (0.0, 0.7, 1.5, 3.0):
        density = blur(weights * mask, width)
        means = blur(sums * mask[..., None], width) / np.maximum(density, 8e-6)[..., None]
        seen = mask & (test.weights > 0)
        target = test.sums[seen] / test.weights[seen][:, None]
        errors.append((test.weights[seen] * ((target - means[seen]) ** 2).sum(1)).sum())
    for widths in ((0.0, 0.7, 1.5, 3.0), (1.5, 0.0), (0.7, 0.0, 1.5), (0.0, 0.7)):
        taken = {0.0: errors[0], 0.7: errors[1], 1.5: errors[2], 3.0: errors[3]}
        found, means = best_smoothing(fit, test, mask, widths)
        assert found == min(widths, key=taken.get)
        assert means.shape == (mask.sum(), 3) and np.isfinite(means).all()
    # of equal widths the first
    flat = Half(np.ones((9, 13, 1)), np.ones((9, 13)))
    assert best_smoothing(flat, flat, mask, (0.0, 0.0))[0] == 0.0
    # where there is nothing, nothing is predicted
    one = Half(np.where(weights[..., None] > 0, 3.0 * weights[..., None], 0), weights)
    means = best_smoothing(one, one, np.ones((9, 13), bool), (0.0,))[1]
    assert means[weights.ravel() > 0] == pytest.approx(3) and means.min() == 0


def test_neighbours_of_the_potts_model():
    image = np.zeros((4, 5, 2))
    image[1, 2, 0] = image[3, 4, 1] = 1
    field = potts_field(image)
    expected = np.zeros((4, 5))
    expected[0:3, 1:4] = [[0.7, 1, 0.7], [1, 0, 1], [0.7, 1, 0.7]]
    np.testing.assert_allclose(field[..., 0], expected)
    np.testing.assert_allclose(field[2:, 3:, 1], [[0.7, 1], [1, 0]])
    assert field[..., 1].sum() == pytest.approx(2.7)
