"""Boundaries of a small map: lengths, distances and profiles, to the digit."""

import numpy as np
import pytest

from hs_autoptycho.clustering.boundaries import boundary_lengths, profile, signed_distance

ROWS, COLS = np.indices((17, 23))


def drawn():
    """Three clusters, a disk and two sides of a slope, with a hole and a strip of none."""
    labels = np.where(COLS + 0.6 * ROWS < 14.3, 0, 2)
    labels[np.hypot(ROWS - 9.2, COLS - 11.4) < 4.6] = 5
    labels[3, 4], labels[15:, 10:] = -1, -1
    return labels


def test_lengths_of_drawn_boundaries():
    found = boundary_lengths(drawn(), (1.3, 0.7))
    assert found == {
        (0, 2): pytest.approx(12.446879618, rel=1e-6),
        (0, 5): pytest.approx(11.792288557, rel=1e-6),
        (2, 5): pytest.approx(17.110410796, rel=1e-6),
    }
    assert all(isinstance(key, tuple) and type(key[0]) is int for key in found)
    plain = boundary_lengths(drawn())
    assert plain == {
        (0, 2): pytest.approx(10.822156064, rel=1e-6),
        (0, 5): pytest.approx(10.808086789, rel=1e-6),
        (2, 5): pytest.approx(17.694709964, rel=1e-6),
    }


def test_length_of_a_line_along_an_axis():
    labels = (ROWS > 7) * 3
    assert boundary_lengths(labels) == {(0, 3): pytest.approx(23)}
    assert boundary_lengths(labels, (1.3, 0.7)) == {(0, 3): pytest.approx(23 * 0.7)}
    assert boundary_lengths((COLS > 7) * 3, (1.3, 0.7)) == {(0, 3): pytest.approx(17 * 1.3)}
    assert boundary_lengths(0 * labels) == boundary_lengths(labels - 3) == {}


def test_distance_from_a_slanted_boundary():
    labels = drawn()
    distance = signed_distance(labels, 0, 2, (1.3, 0.7))
    reverse = signed_distance(labels, 2, 0, (1.3, 0.7))
    np.testing.assert_array_equal(reverse, -distance)
    assert np.isnan(distance[labels == 5]).all() and np.isnan(distance[labels == -1]).all()
    assert not (distance[labels == 0] > 0).any() and not (distance[labels == 2] < 0).any()
    at = ([0, 0, 0, 2, 5, 1, 0], [14, 13, 22, 0, 3, 20, 0])
    assert distance[at] == pytest.approx(
        [-0.35, -1.05, 5.25, -8.266634690, -5.958590997, 3.870045102, -9.239547927], rel=1e-6
    )
    plain = signed_distance(labels, 0, 2)
    assert plain[at] == pytest.approx(
        [-0.5, -0.707106781, 7.5, -11.590128605, -8.273451517, 5.507366075, -12.016655109],
        rel=1e-6,
    )


def test_distance_across_a_corner():
    """Half of the way between two positions lies on either side, in any direction."""
    labels = np.zeros((6, 7), int)
    labels[3:, 4:] = 1
    distance = signed_distance(labels, 0, 1)
    assert distance[3, :4] == pytest.approx([-3.5, -2.5, -1.5, -0.5])
    assert distance[:3, 5] == pytest.approx([-2.5, -1.5, -0.5])
    # (1, 1) is nearest to (3, 4) by two rows and three columns, a step of 5 / sqrt(13) wide
    root = np.sqrt(13)
    assert distance[1, 1] == pytest.approx(-(root - 2.5 / root))
    assert distance[2, 3] == pytest.approx(-(np.sqrt(2) - 1 / np.sqrt(2)))
    assert distance[5, 6] == pytest.approx(2.5) and distance[3, 4] == pytest.approx(0.5)
    fine = signed_distance(labels, 0, 1, (0.5, 2.0))
    size = np.hypot(2 * 0.5, 3 * 2.0)
    assert fine[1, 1] == pytest.approx(-(size - 0.5 * (1.0 * 0.5 + 6.0 * 2.0) / size))
    assert fine[0, 6] == pytest.approx(-1.25)


def test_distance_between_clusters_that_do_not_touch():
    labels = np.zeros((5, 9), int)
    labels[:, 3:6], labels[:, 6:] = 1, 2
    for a, b in ((0, 2), (0, 7), (7, 0)):
        assert np.isnan(signed_distance(labels, a, b)).all()
    assert signed_distance(labels, 0, 1)[2, :6] == pytest.approx([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    # by a corner alone they do not touch
    labels = np.full((4, 5), -1)
    labels[:2, :2], labels[2:, 2:] = 0, 1
    assert np.isnan(signed_distance(labels, 0, 1)).all()


# --- profiles ---------------------------------------------------------------------------------

DISTANCE = np.array([[-2.5, -1.5, -0.5, 0.5], [-1.0, 0.0, 1.0, 2.4], [0.7, 0.9, -0.1, np.nan]])
VALUES = np.array([[1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 6.0, np.nan], [7.0, 9.0, 2.0, 1.0]])


def test_profile_in_bins():
    centers, means, errors, counts = profile(VALUES, DISTANCE, width=1.0)
    assert centers.tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
    assert counts.tolist() == [1, 1, 3, 4, 1, 0]
    assert means[:5] == pytest.approx([1, 2, 3, 7.25, 6]) and np.isnan(means[5])
    scatter = [np.sqrt(2 / 2 / 3), np.sqrt(8.75 / 3 / 4)]
    assert errors[2:4] == pytest.approx(scatter) and np.isnan(errors[[0, 1, 4, 5]]).all()
    # shared by two positions, three are one and a half
    found = profile(VALUES, DISTANCE, width=1.0, shared=2.0)[2]
    assert found[2:4] == pytest.approx([np.sqrt(2 / 2 / 1.5), np.sqrt(8.75 / 3 / 2)])
    found = profile(VALUES, DISTANCE, width=1.0, shared=8.0)[2]
    assert found[2:4] == pytest.approx([1.0, np.sqrt(8.75 / 3)])


def test_profile_up_to_a_distance():
    centers, means, _, counts = profile(VALUES, DISTANCE, width=0.8, half_width=1.6)
    assert centers == pytest.approx([-1.2, -0.4, 0.4, 1.2])
    # 0.0, 0.5 and 0.7 on the inner side, 0.9 and 1.0 beyond
    assert counts.tolist() == [2, 2, 3, 2] and means == pytest.approx([2.5, 3, 20 / 3, 7.5])
    assert len(profile(VALUES, DISTANCE, width=0.8, half_width=1.7)[0]) == 6
    assert len(profile(VALUES, DISTANCE, width=0.8, half_width=0.1)[0]) == 2
    # nothing at all: one bin on either side
    nothing = profile(np.full((2, 3), np.nan), np.zeros((2, 3)), width=0.5)
    assert nothing[0].tolist() == [-0.25, 0.25] and nothing[3].tolist() == [0, 0]
    assert np.isnan(nothing[1]).all() and np.isnan(nothing[2]).all()


def test_stated_errors_of_few_positions():
    errors = np.arange(1.0, 13).reshape(3, 4)
    found = profile(VALUES, DISTANCE, width=1.0, errors=errors)[2]
    scatter = [np.sqrt(2 / 2 / 3), np.sqrt(8.75 / 3 / 4)]
    assert found[:5] == pytest.approx([1, 2, *scatter, 7]) and np.isnan(found[5])
    two = profile(VALUES, DISTANCE, width=0.8, half_width=1.6, errors=errors)[2]
    # of -1.5 and -1.0, and of -0.5 and -0.1
    assert two[:2] == pytest.approx([np.hypot(2, 5) / 2, np.hypot(3, 11) / 2])
    assert two[2] == pytest.approx(np.std([8, 5, 7], ddof=1) / np.sqrt(3))
