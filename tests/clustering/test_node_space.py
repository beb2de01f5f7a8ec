"""The directions in which the patterns of a node differ by more than noise."""

import numpy as np
import pytest

from hs_autoptycho.clustering.features import Half
from hs_autoptycho.clustering.node_space import best_smoothing, node_space
from hs_autoptycho.clustering.smoothing import blur, neighbour_sum

N = 12  # features; what is left of the counts lies in no feature


def draw(shares, seed=0, electrons=200.0, shape=(30, 41)):
    """Poisson counts of patterns that are mixed by shares (y, x, domain)."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).dirichlet(np.full(N + 1, 8.0), shares.shape[-1])
    counts = rng.poisson(electrons * (shares @ patterns)).astype(np.float32)
    return Half(counts[..., :N], counts.sum(-1))


def domains(n, shape=(30, 41)):
    labels = np.arange(shape[1]) * n // shape[1]
    return np.broadcast_to(np.eye(n)[labels], (*shape, n))


@pytest.mark.parametrize("electrons", [10.0, 1000.0])
def test_noise_is_as_strong_as_simulated_noise(electrons):
    mask = np.ones((30, 41), bool)
    spaces = [
        node_space(draw(np.ones((30, 41, 1)), seed, electrons), mask, seed) for seed in range(24)
    ]
    strongest = np.array([space.strengths[0] for space in spaces])
    assert 0.75 < strongest.mean() < 1.15 and strongest.max() < 1.8
    # what is no stronger is dropped; the little that is left is for the held-out counts to refuse
    assert sum(space.dimensions == 0 for space in spaces) >= 16
    for space in spaces:
        assert space.directions.shape == (N, space.dimensions)
        assert (np.diff(space.strengths) <= 0).all()


@pytest.mark.parametrize("electrons", [30.0, 1000.0])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_domains_have_a_component_less_than_they_are(n, electrons):
    mask = np.ones((30, 41), bool)
    mask[:4, :9] = False
    half = draw(domains(n), 0, electrons)
    space = node_space(half, mask, 0)
    assert space.strengths[n - 2] > 2 > 1.8 > space.strengths[n - 1]
    assert n - 1 <= space.dimensions <= 8
    np.testing.assert_allclose(
        space.mean, half.sums[mask].sum(0) / half.weights[mask].sum(), rtol=1e-5
    )


@pytest.mark.parametrize("electrons", [50.0, 500.0])
def test_noise_is_one_a_count_in_all_directions(electrons):
    slope = np.broadcast_to(np.linspace(0, 1, 41)[:, None], (30, 41, 1))
    half = draw(np.concatenate([slope, 1 - slope], 2), 1, electrons)
    mask = np.ones((30, 41), bool)
    space = node_space(half, mask, 0)
    projected = space.project(half)
    np.testing.assert_array_equal(projected.weights, half.weights)
    noise = projected.sums - projected.sums.mean(0)
    covariance = np.einsum("yxi,yxj->ij", noise, noise) / half.weights.sum() * 30 / 29
    np.testing.assert_allclose(covariance, np.eye(space.dimensions), atol=0.15)
    # centred
    assert np.abs(projected.sums.sum((0, 1))).max() < 1e-3 * np.abs(projected.sums).sum()


def test_a_node_is_judged_by_its_own_positions():
    half = draw(domains(3), 2)
    one = np.zeros((30, 41), bool)
    one[:, :13] = True
    two = np.zeros((30, 41), bool)
    two[:, :27] = True
    for mask, n in ((one, 0), (two, 1), (np.ones((30, 41), bool), 2)):
        assert (node_space(half, mask, 0).strengths > 2).sum() == n


def test_node_taller_than_a_band():
    """Worked on in bands of rows, the sums are those over all."""
    half = draw(domains(2, (150, 20)), 3, 80.0)
    mask = np.random.default_rng(0).random((150, 20)) > 0.1
    from hs_autoptycho.clustering import node_space as module

    whole = {}
    for band in (64, 1000, 37):
        before, module._BAND = module._BAND, band
        try:
            weights = np.where(mask, half.weights, 0)
            whole[band] = module._covariances(half.sums, weights, np.full(N, 1 / N))
        finally:
            module._BAND = before
    for band in (64, 37):
        for mine, wanted in zip(whole[band], whole[1000], strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("electrons, least, most", [(3.0, 1.5, 3.2), (20_000.0, 0.0, 0.7)])
def test_smoothing_that_predicts_the_other_half(electrons, least, most):
    rng = np.random.default_rng(4)
    shares = domains(2)
    fit, test = (draw(shares, seed, electrons) for seed in (5, 6))
    mask = rng.random((30, 41)) > 0.05
    space = node_space(fit, mask, 0)
    fit, test = space.project(fit), space.project(test)
    width, means = best_smoothing(fit, test, mask, (0.0, 0.7, 1.5, 2.2, 3.2))
    assert least <= width <= most
    assert means.shape == (mask.sum(), space.dimensions)
    again = best_smoothing(fit, test, mask, (width,))
    assert again[0] == width
    np.testing.assert_array_equal(again[1], means)
    one = best_smoothing(fit, test, mask, (1.5,))[1][:, 0]
    wanted = blur(fit.sums[..., 0] * mask, 1.5) / blur(fit.weights * mask, 1.5)
    np.testing.assert_allclose(one, wanted[mask], rtol=1e-4, atol=1e-6)


def test_neighbour_sum_leaves_out_the_position():
    image = np.zeros((25, 31))
    image[12, 15] = 1
    around = neighbour_sum(image, 1.5)
    assert abs(around[12, 15]) < 1e-15
    np.testing.assert_allclose(around[12, 16], blur(image, 1.5)[12, 16])
    assert blur(image, 0) is image
    # a third axis is not smoothed over
    stack = np.stack([image, 0 * image], -1)
    assert not neighbour_sum(stack, 1.5)[..., 1].any()
    np.testing.assert_allclose(neighbour_sum(stack, 1.5)[..., 0], around)
