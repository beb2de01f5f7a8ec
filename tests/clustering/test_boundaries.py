"""Boundaries: lengths, signed distances and profiles."""

import numpy as np
import pytest

from hs_autoptycho.clustering.boundaries import boundary_lengths, profile, signed_distance


@pytest.mark.parametrize("angle", [0, 20, 45, 70, 90])
def test_length_of_a_straight_boundary_in_any_direction(angle):
    rows, cols = np.mgrid[:61, :83]
    normal = np.deg2rad(angle)
    along = np.cos(normal) * (cols - 41.2) + np.sin(normal) * (rows - 30.3)
    labels = (along > 0).astype(int)
    found = boundary_lengths(labels, (2.0, 2.0))
    # the longest chord of the scan in that direction
    t = np.linspace(-200, 200, 400001)
    x, y = 41.2 - t * np.sin(normal), 30.3 + t * np.cos(normal)
    inside = (x > -0.5) & (x < 82.5) & (y > -0.5) & (y < 60.5)
    assert list(found) == [(0, 1)]
    assert found[0, 1] == pytest.approx(2 * inside.sum() * 0.001, rel=0.03)


def test_only_clusters_that_touch():
    labels = np.zeros((12, 15), int)
    labels[:, 5:9], labels[:, 9:] = 1, 2
    labels[:6, 8] = -1
    found = boundary_lengths(labels, (0.5, 2.0))
    assert set(found) == {(0, 1), (1, 2)}
    assert found[0, 1] == pytest.approx(6.0, rel=0.05)
    assert found[1, 2] == pytest.approx(3.0, rel=0.25)


def test_distance_is_negative_on_the_first_side():
    labels = np.zeros((6, 9), int)
    labels[:, 4:] = 3
    distance = signed_distance(labels, 0, 3, (1.0, 2.5))
    assert distance[2] == pytest.approx(2.5 * (np.arange(9) - 3.5))
    assert np.allclose(signed_distance(labels, 3, 0, (1.0, 2.5)), -distance)


def test_distance_does_not_cross_a_third_cluster():
    labels = np.zeros((5, 12), int)
    labels[:, 4:6], labels[:, 6:] = 1, 2
    assert np.isnan(signed_distance(labels, 0, 2)).all()
    labels[0, 4:6] = 0
    distance = signed_distance(labels, 0, 2)
    assert np.isfinite(distance[0, :6]).all() and np.isnan(distance[4, :4]).all()


def test_profile_and_its_errors():
    rng = np.random.default_rng(0)
    labels = np.zeros((400, 20), int)
    labels[:, 8:] = 1
    distance = signed_distance(labels, 0, 1)
    values = np.where(labels == 0, 0.02 + 0.001 * distance, 0.0)
    noisy = values + 0.004 * rng.standard_normal(labels.shape)
    noisy[:, 3] = np.nan
    centers, means, errors, counts = profile(noisy, distance, width=1.0, half_width=6.0)
    assert centers == pytest.approx(np.arange(12) - 5.5)
    truth = np.where(centers < 0, 0.02 + 0.001 * centers, 0.0)
    empty = centers == -4.5
    assert np.isnan(means[empty]) and np.isnan(errors[empty]) and counts[empty] == 0
    assert errors[~empty] == pytest.approx(0.004 / 20, rel=0.15)
    assert np.abs((means - truth)[~empty] / errors[~empty]).max() < 3.5


def test_few_positions_take_the_stated_errors():
    distance = np.array([[-0.5, 0.5], [-0.5, 0.5]])
    values, stated = np.array([[1.0, 2.0], [3.0, 2.0]]), np.full((2, 2), 0.2)
    _, means, errors, counts = profile(values, distance, width=1.0, errors=stated)
    assert means == pytest.approx([2.0, 2.0]) and list(counts) == [2, 2]
    assert errors == pytest.approx([0.2 / np.sqrt(2)] * 2)
