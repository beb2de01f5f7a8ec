"""Lattices: what is looked for, what is fitted and how sure it has to be, in one drawn pattern."""

import numpy as np
import pytest

from hs_autoptycho.clustering import lattice as module
from hs_autoptycho.clustering.disks import Disks
from hs_autoptycho.clustering.lattice import (
    Lattice,
    NoLattice,
    find_lattice,
    nearest_basis,
    reduce_basis,
)

BASIS = np.array([[7.0, 1.5], [-2.0, 9.0]])
CENTER = np.array([31.3, 38.6])
STRETCH = (1.25, 0.8)


@pytest.fixture(scope="module")
def disks():
    """42 disks near points of a lattice, the direct beam the strongest, and three astray."""
    h, k = np.mgrid[-3:4, -3:4].reshape(2, -1)
    shifts = np.stack([np.sin(1 + 3 * h + 5 * k + h * k), np.cos(2 + 4 * h - 3 * k + h**2)], 1)
    places = CENTER + np.stack([h, k], 1) @ BASIS + 0.08 * shifts
    keep = ((5 * h + 3 * k) % 7 != 1) | ((h == 0) & (k == 0))
    heights = np.exp(-np.hypot(h, k) / 2) * (1 + 0.3 * np.sin(h + 2 * k))
    errors = 0.02 + 0.03 * np.abs(np.sin(h - k))
    places = np.vstack([places[keep], [[12.0, 20.5], [50.2, 55.1], [20.0, 61.7]]])
    heights = np.append(heights[keep], [0.5, 0.3, 0.2])
    errors = np.append(errors[keep], [0.1, 0.1, 0.1])
    order = np.argsort(-heights)
    return Disks(places[order], errors[order], heights[order], 100 * heights[order])


# --- bases ------------------------------------------------------------------------------------


def test_lattice_in_another_basis_has_the_same_points():
    whole = np.arange(36.0).reshape(6, 6)
    covariance = whole @ whole.T
    indices = np.array([[0, 0], [2, -1], [-3, 5], [1, 4]])
    lattice = Lattice(CENTER, BASIS, covariance, indices)
    assert lattice.points([[1, 0], [2, -1]]).ravel() == pytest.approx([38.3, 40.1, 47.3, 32.6])
    assert lattice.errors.ravel() == pytest.approx(np.sqrt(np.diag(covariance)[2:]))
    change = np.array([[1, 1], [1, 2]])
    other = lattice.transformed(change)
    assert other.basis.ravel() == pytest.approx([5, 10.5, 3, 19.5])
    assert other.indices.dtype.kind == "i"
    assert other.points(other.indices) == pytest.approx(lattice.points(indices))
    # g1 + g2 and g1 + 2 g2: variances of sums
    c = covariance
    assert other.covariance[2, 2] == pytest.approx(c[2, 2] + 2 * c[2, 4] + c[4, 4])
    assert other.covariance[5, 5] == pytest.approx(c[3, 3] + 4 * c[3, 5] + 4 * c[5, 5])
    assert other.covariance[2, 4] == pytest.approx(c[2, 2] + 3 * c[2, 4] + 2 * c[4, 4])
    assert other.covariance[0, 2] == pytest.approx(c[0, 2] + c[0, 4])
    np.testing.assert_allclose(other.covariance[:2, :2], c[:2, :2])


@pytest.mark.parametrize(
    "basis, reduced",
    [
        ([[5, 1], [13, 9]], [[5, 1], [-2, 6]]),
        ([[3, 0], [0, 2]], [[0, 2], [-3, 0]]),
        ([[0, -2], [-3, 0]], [[0, 2], [-3, 0]]),
        ([[-4, 1], [1, 6]], [[4, -1], [1, 6]]),
        ([[1, -6], [4, 1]], [[4, 1], [-1, 6]]),
        ([[2, 0], [1001, 2]], [[2, 0], [1, 2]]),
        ([[2, 0], [999, 2]], [[2, 0], [-1, 2]]),
    ],
)
def test_reduced_basis(basis, reduced):
    found = reduce_basis(basis)
    # half a vector more or less is as short
    assert np.abs(found).tolist() == np.abs(reduced).tolist()
    assert abs(found[0] @ found[1]) <= found[0] @ found[0] / 2 <= found[1] @ found[1] / 2
    assert np.linalg.det(found) > 0 and tuple(found[0]) > (0, 0)


def test_changes_of_basis_are_all_that_keep_the_turning_sense():
    assert len(module._CHANGES) == len({tuple(m.ravel()) for m in module._CHANGES}) == 20
    for change in module._CHANGES:
        assert np.abs(change).max() == 1 and round(np.linalg.det(change)) == 1


def test_nearest_basis_of_a_skew_lattice():
    reference = [[9.0, 1.0], [20.0, 14.0]]
    for turned in ([[1, 2], [0, 1]], [[0, -1], [1, 3]], [[-1, 0], [-4, -1]], [[2, 1], [5, 3]]):
        basis = np.array(turned) @ (np.array(reference) + [[0.2, -0.1], [0.1, 0.3]])
        change = nearest_basis(basis, np.array(reference))
        assert change.dtype.kind == "i"
        np.testing.assert_array_equal(change @ turned, np.eye(2))


# --- vectors, scores and fits -----------------------------------------------------------------


def test_frequent_vectors(disks):
    points = (disks.positions - CENTER)[1:]
    vectors = module._frequent_vectors(points, np.sqrt(disks.heights[1:]), 3.2, 0.3)
    assert len(vectors) == 191
    assert np.ravel(vectors[:6]) == pytest.approx(
        [7.0093299, 1.5040450, 1.9954386, -9.0035918, 5.0014502, 10.5056777, 15.9885180,
         -5.9963374, 3.9988441, -17.9976427, 8.9807837, -7.4999610], rel=1e-5,
    )  # fmt: skip
    assert np.ravel(vectors[-2:]) == pytest.approx(
        [16.1215752, 60.0225790, 31.9994008, 53.9882460], rel=1e-5
    )
    longer = module._frequent_vectors(points, np.sqrt(disks.heights[1:]), 8.0, 0.3)
    assert np.hypot(*np.transpose(longer)).min() > 8 and len(longer) < 191


def test_vectors_of_four_disks():
    """From the direct beam too, which weighs as much as the strongest."""
    points = np.array([[5.0, 0.0], [10.1, 0.0], [0.0, 6.0], [1.0, 0.0]])
    vectors = module._frequent_vectors(points, np.array([4.0, 1.0, 1.0, 0.01]), 2.0, 0.2)
    # (5, 0) twice: of weight 4 from the beam, and of 2 between the first two
    assert vectors[0] == pytest.approx([(4 * 5 + 2 * 5.1) / 6, 0])
    assert np.hypot(*np.transpose(vectors)).min() > 2
    others = {tuple(np.round(np.abs(vector), 6)) for vector in vectors[1:]}
    expected = {(10.1, 0), (0, 6), (5, 6), (10.1, 6), (4, 0), (9.1, 0), (1, 6)}
    assert others == expected and len(vectors) == 8


def test_score_of_a_drawn_pattern(disks):
    points = disks.positions - CENTER
    score = module._score(points, np.sqrt(disks.heights), BASIS, 0.3)
    assert score == pytest.approx(97.8676127, rel=1e-6)
    # far from all points only strays are left
    middle = BASIS.sum(0)[None] / 2
    assert module._score(middle, np.ones(1), BASIS, 0.1) == pytest.approx(np.log(0.1))


def test_fit_of_a_drawn_pattern(disks):
    points = disks.positions - CENTER
    origin, basis, covariance, indices, member = module._fit(
        points, disks.errors, BASIS + 0.02, 0.15
    )
    assert origin == pytest.approx([-0.002180683, 0.001209163], rel=1e-5)
    assert basis.ravel() == pytest.approx(
        [7.002949173, 1.503167805, -1.990478505, 9.000618261], rel=1e-6
    )
    assert np.diag(covariance)[::2] == pytest.approx(
        [6.434043377e-05, 1.706829755e-05, 1.639907367e-05], rel=1e-5
    )
    assert covariance[0, [2, 4]] == pytest.approx([6.207847e-08, 2.599864e-06], rel=1e-4)
    assert covariance[2, [3, 4]] == pytest.approx([0, -4.638954e-06], rel=1e-5, abs=1e-15)
    assert member.sum() == 42 and not member[[4, 15, 31]].any()
    residual = points[member] - origin - indices[member] @ basis
    assert np.abs(residual).max() < 0.2
    # errors larger than the scatter are believed, smaller ones are not
    wide = module._fit(points, 10 * disks.errors, BASIS, 0.15)[2]
    narrow = module._fit(points, disks.errors / 10, BASIS, 0.15)[2]
    assert narrow == pytest.approx(covariance, rel=1e-6, abs=1e-15)
    assert wide[0, 0] == pytest.approx(2.4921848e-3, rel=1e-5)


def test_fit_comes_back_reduced(disks):
    points = disks.positions - CENTER
    plain = module._fit(points, disks.errors, BASIS, 0.15)
    skew = module._fit(points, disks.errors, np.array([[1, 1], [-1, 0]]) @ BASIS, 0.15)
    for one, other in zip(plain, skew, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-7, atol=1e-12)


def test_one_sure_disk_is_not_everything(disks):
    """Its weight is at most 25 times the median's."""
    points, errors = disks.positions - CENTER, np.full(len(disks), 0.5)
    fits = []
    for error in (0.1, 0.01):
        errors[0] = error
        fits.append(module._fit(points, errors, BASIS, 0.15)[2][0, 0])
    assert fits[1] == pytest.approx(fits[0], rel=1e-9)
    # with 42 others of weight 1 the origin would have 1 / 41, with 25 of one 1 / 66
    assert fits[0] == pytest.approx(0.25 / 66, rel=0.02)


def test_too_few_for_a_fit():
    basis = np.array([[8.0, 0.0], [0.0, 10.0]])
    places = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 10.0], [8.0, 10.1]])
    errors = np.full(4, 0.1)
    origin, found, covariance, indices, member = module._fit(places, errors, basis, 0.15)
    # a plane through four corners misses each by a quarter of what the last is off
    assert origin == pytest.approx([0, -0.025]) and member.all()
    assert found.ravel() == pytest.approx([8, 0.05, 0, 10.05])
    np.testing.assert_array_equal(indices, [[0, 0], [1, 0], [0, 1], [1, 1]])
    assert np.diag(covariance)[::2] == pytest.approx([0.0075, 0.01, 0.01])
    small = module._fit(places, errors / 100, basis, 0.15)[2]
    # sum of squares 0.0025 of two degrees of freedom
    assert small == pytest.approx(covariance * 0.00125 / 0.01, abs=1e-12)
    assert module._fit(places[:3], errors[:3], basis, 0.15) is None
    row = np.array([[0.0, 0.0], [8.0, 0.0], [16.0, 0.0], [24.0, 0.0]])
    assert module._fit(row, errors, basis, 0.15) is None
    # the fourth is three sigma of 0.15 away, or further
    for away, taken in ((0.44, True), (0.46, False)):
        off = np.array([*places[:3], [-8.0, away]])
        assert (module._fit(off, errors, basis, 0.15) is not None) == taken


# --- all together -----------------------------------------------------------------------------


def test_lattice_of_a_drawn_pattern(disks):
    lattice = find_lattice(disks, CENTER, 2.0, stretch=STRETCH)
    assert lattice.origin == pytest.approx([31.297819317, 38.601209163], rel=1e-6)
    assert lattice.basis.ravel() == pytest.approx(
        [1.990478505, -9.000618261, 7.002949173, 1.503167805], rel=1e-6
    )
    assert np.diag(lattice.covariance) == pytest.approx(
        [5.237397e-05, 1.278661e-04, 1.334906e-05, 3.259049e-05, 1.389382e-05, 3.392046e-05],
        rel=1e-5,
    )
    assert lattice.covariance[2, 4] == pytest.approx(3.776170e-06, rel=1e-5)
    assert len(lattice.indices) == 42
    away = lattice.points(lattice.indices) - np.delete(disks.positions, [4, 15, 31], axis=0)
    assert np.abs(away).max() < 0.2


@pytest.fixture
def watched(monkeypatch):
    """What the steps of a search are asked for."""
    asked = {"vectors": [], "scores": [], "fits": [], "chances": []}
    frequent, score, fit = module._frequent_vectors, module._score, module._fit
    logsf = module.stats.binom.logsf

    def watched_vectors(points, weights, shortest, tolerance):
        asked["vectors"].append((len(points), shortest, tolerance, np.array(weights)))
        return frequent(points, weights, shortest, tolerance)

    def watched_score(points, weights, basis, sigma):
        asked["scores"].append((sigma, basis))
        return score(points, weights, basis, sigma)

    def watched_fit(points, errors, basis, sigma):
        asked["fits"].append((sigma, errors, basis))
        return fit(points, errors, basis, sigma)

    def watched_logsf(*arguments):
        asked["chances"].append(arguments)
        return asked.get("tail", logsf(*arguments))

    monkeypatch.setattr(module, "_frequent_vectors", watched_vectors)
    monkeypatch.setattr(module, "_score", watched_score)
    monkeypatch.setattr(module, "_fit", watched_fit)
    monkeypatch.setattr(module.stats.binom, "logsf", watched_logsf)
    return asked


def test_widths_follow_errors_and_radius(disks, watched):
    def sigma(error, radius=2.0):
        given = Disks(
            disks.positions, np.full(len(disks), error), disks.heights, disks.significances
        )
        find_lattice(given, CENTER, radius, max_candidates=6)
        n, shortest, tolerance, weights = watched["vectors"][-1]
        assert n == len(weights) == 44 and shortest == pytest.approx(1.6 * radius)
        assert weights == pytest.approx(44 * np.sqrt(disks.heights)[1:] / weights_sum)
        errors = watched["fits"][-1][1]
        assert errors == pytest.approx([max(error, 0.02)] * 45)
        assert watched["fits"][-1][0] == pytest.approx(tolerance / 2)
        return tolerance / 2

    weights_sum = np.sqrt(disks.heights)[1:].sum()
    assert sigma(0.01) == pytest.approx(0.15) and sigma(0.3) == pytest.approx(0.3)
    assert sigma(2.0) == pytest.approx(0.8) and sigma(2.0, 2.5) == pytest.approx(0.95)


def test_pairs_that_are_tried(disks, watched):
    lattice = find_lattice(disks, CENTER, 2.0)
    # first all different bases with twice the width, then the twelve best of them
    widths = np.array([sigma for sigma, _ in watched["scores"]])
    n = np.count_nonzero(widths == 0.3)
    assert n == 147 and (widths[:n] == 0.3).all()
    assert len(watched["fits"]) == 12 and (widths[n:] == 0.15).all()
    bases = np.array([basis for _, basis in watched["scores"][:n]])
    assert np.hypot(*bases[:, 0].T).min() >= 3.2
    lengths = np.hypot(*bases.transpose(2, 0, 1))
    assert (np.abs(np.linalg.det(bases)) >= 0.2 * lengths.prod(1)).all()
    apart = np.abs(bases[:, None] - bases).max(axis=(2, 3)) + np.eye(n)
    assert apart.min() >= 0.5 * 0.15
    [(hits, others, chance)] = watched["chances"]
    assert (hits, others) == (41 - 3, 44 - 2)
    assert chance == pytest.approx(np.pi * 0.45**2 / abs(np.linalg.det(lattice.basis)), rel=1e-4)
    watched["scores"].clear()
    assert isinstance(find_lattice(disks, CENTER, 2.0, max_candidates=1), NoLattice)
    assert not watched["scores"]


def test_chance_is_one_in_a_thousand_of_all_that_were_tried(disks, watched):
    find_lattice(disks, CENTER, 2.0, max_candidates=6)
    tried = [sigma for sigma, _ in watched["scores"]].count(0.3)
    for margin, found in ((-1e-6, True), (1e-6, False)):
        watched["tail"] = np.log(1e-3) - np.log(tried) + margin
        lattice = find_lattice(disks, CENTER, 2.0, max_candidates=6)
        assert isinstance(lattice, Lattice) == found
    assert "41 of 44 disks" in lattice.reason


def test_direct_beam_is_within_its_radius():
    beside = CENTER + [1.99, 0.0], CENTER + [0.0, 2.01]
    for place, n in zip(beside, (3, 4), strict=True):
        three = CENTER + np.array([[7.0, 1.5], [-2.0, 9.0], [5.0, 10.5]])
        four = Disks(np.vstack([three, place]), *np.ones((3, 4)))
        found = find_lattice(four, CENTER, 2.0)
        assert isinstance(found, NoLattice)
        assert ("lattice needs 4" in found.reason) == (n == 3)
    none = find_lattice(Disks(np.empty((0, 2)), *np.empty((3, 0))), CENTER, 2.0)
    assert "0 disks were found" in none.reason


def test_disks_in_one_row_have_no_lattice():
    places = CENTER + np.outer(np.arange(-4, 5), [0.0, 7.0])
    found = find_lattice(Disks(places, np.full(9, 0.05), *np.ones((2, 9))), CENTER, 2.0)
    assert found.reason == "the disks are on no two-dimensional lattice"
