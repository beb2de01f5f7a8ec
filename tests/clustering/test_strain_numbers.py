"""What strain is made of, of fits that are given: errors, limits, references and averages."""

import numpy as np
import pytest

from hs_autoptycho.clustering import strain as module
from hs_autoptycho.clustering import strain_kernels as kernels
from hs_autoptycho.clustering.deformation import (
    deformation,
    rotation_between,
    strain_components,
)
from hs_autoptycho.clustering.disks import DiskProfile
from hs_autoptycho.clustering.lattice import Lattice, NoLattice
from hs_autoptycho.clustering.strain import (
    NO_LATTICE,
    NOT_CLUSTERED,
    REASONS,
    STRAINED,
    LatticeKernel,
    cluster_statistics,
    fit_strain,
    shared_positions,
    smooth,
)
from hs_autoptycho.clustering.templates import LeafTemplate

FIRST = np.array([[10.0, 1.0], [-2.0, 8.0]])
SECOND = np.array([[2.5, -8.5], [11.0, 1.5]])
COVARIANCE = 1e-4 * np.array([[4, 1, 0, 0], [1, 3, 0.5, 0], [0, 0.5, 2, 1], [0, 0, 1, 5.0]])


def template(basis, place_variance=0.0):
    covariance = np.diag([1e-2, 1e-2, 4e-4, 1e-4, 9e-4, 1e-4])
    lattice = Lattice(np.array([20.0, 23.0]), np.array(basis), covariance, np.zeros((1, 2), int))
    profile, none = DiskProfile(2.5, 0.4, (2.0, 0.5)), np.zeros(1)
    return LeafTemplate(
        lattice, profile, none, none, none, none, 3.0, (none, none), (none, none, none),
        place_variance,
    )  # fmt: skip


# --- components -------------------------------------------------------------------------------


def test_components_and_their_errors():
    F = np.array([[1.02, 0.03], [-0.01, 0.97]])
    moved = (np.linalg.inv(F).T @ FIRST[:, ::-1].T).T[:, ::-1]
    values, errors = strain_components(moved, FIRST, COVARIANCE)
    assert values == pytest.approx([0.02, -0.03, 0.01, np.degrees(-0.02)])
    slopes = np.empty((4, 4))
    for index in range(4):
        step = 1e-6 * np.eye(4)[index].reshape(2, 2)
        up, down = (strain_components(moved + s * step, FIRST, COVARIANCE)[0] for s in (1, -1))
        slopes[:, index] = (up - down) / 2e-6
    assert errors == pytest.approx(np.sqrt(np.diag(slopes @ COVARIANCE @ slopes.T)), rel=1e-6)
    # many at once, each with a reference of its own, one unknown and one flat
    bases = np.array([moved, np.full((2, 2), np.nan), FIRST, [[1.0, 2.0], [2.0, 4.0]]])
    references = np.array([FIRST, FIRST, moved, FIRST])
    several, spread = strain_components(bases, references, np.stack([COVARIANCE] * 4))
    assert several[0] == pytest.approx(values) and spread[0] == pytest.approx(errors)
    assert np.isnan(several[[1, 3]]).all() and np.isnan(spread[[1, 3]]).all()
    assert np.isnan(deformation(FIRST, np.full((2, 2), np.nan))).all()


def test_rotation_between_lattices_and_its_error():
    turn = np.deg2rad(4.0)
    R = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])  # (x, y)
    scale = np.array([0.5, 2.0])
    real = FIRST * scale
    second = ((R @ real[:, ::-1].T).T[:, ::-1]) / scale
    one = Lattice(np.zeros(2), FIRST, np.diag([1, 1, 4e-4, 1e-4, 9e-4, 2e-4]), np.zeros((1, 2)))
    other = Lattice(np.zeros(2), second, 2 * one.covariance, np.zeros((1, 2)))
    angle, error = rotation_between(one, other, scale)
    assert angle == pytest.approx(4.0)
    assert rotation_between(other, one, scale)[0] == pytest.approx(-4.0)
    skew = other.transformed(np.array([[1, 1], [0, 1]]))
    assert rotation_between(one, skew, scale) == pytest.approx((angle, error), rel=1e-4)
    assert error == pytest.approx(0.20163004, rel=1e-4)


def test_reasons_are_named():
    assert "no cluster" in REASONS[NOT_CLUSTERED] and "no lattice" in REASONS[NO_LATTICE]
    assert "max_strain" in REASONS[STRAINED] and REASONS[kernels.FITTED] == "fitted"
    assert "too few" in REASONS[kernels.TOO_FEW_COUNTS]
    assert "not converge" in REASONS[kernels.NOT_CONVERGED]
    assert "no counts" in REASONS[kernels.NO_COUNTS]


# --- patterns of leaves -----------------------------------------------------------------------


def test_kernel_fits_each_pattern_with_its_leaf(monkeypatch):
    calls = []

    def fit_lattices(patterns, chosen, *arguments):
        calls.append((patterns.dtype, chosen.tolist(), len(arguments), arguments[-2]))
        arguments[-1][chosen] = 5.0

    monkeypatch.setattr(module.kernels, "fit_lattices", fit_lattices)
    labels = np.array([[0, 1, 2], [-1, 2, 0]])
    kernel = LatticeKernel(
        (template(FIRST), NoLattice("none"), template(SECOND), template(FIRST)), labels, 7
    )
    patterns = np.ones((5, 4, 6), np.float16)
    out = kernel(patterns, np.array([5, 3, 1, 0, 4]))
    assert out.shape == (5, kernels.N_VALUES)
    assert calls == [(np.float32, [0, 3], 17, 7), (np.float32, [4], 17, 7)]
    assert (out[[0, 3, 4]] == 5).all()
    assert out[1, kernels.STATUS] == NOT_CLUSTERED and out[2, kernels.STATUS] == NO_LATTICE
    assert np.isnan(np.delete(out[[1, 2]], kernels.STATUS, axis=1)).all()


def test_dispersion_is_the_mean_without_what_is_far_off():
    fitted = np.full((2, 6, kernels.N_VALUES), np.nan)
    # of median 1.2 and a spread of 0.14826: four of these are 0.593
    fitted[0, :, kernels.DISPERSION] = [1.0, 1.1, 1.2, 1.3, 1.79, 7.0]
    fitted[1, :, kernels.DISPERSION] = [1.0, 1.1, 1.3, 1.3, 1.3, 9.0]
    labels = np.array([[0] * 6, [1] * 6])
    reasons = np.zeros((2, 6), int)
    reasons[0, 5] = reasons[1, 5] = 3
    found = module._dispersions(fitted, labels, reasons, 3)
    assert found[:2] == pytest.approx([np.mean([1, 1.1, 1.2, 1.3, 1.79]), 1.3])
    assert np.isnan(found[2])
    fitted[0, 4, kernels.DISPERSION] = 1.80
    assert module._dispersions(fitted, labels, reasons, 3)[0] == pytest.approx(1.15)
    fitted[0, :, kernels.DISPERSION] = 0.7 + 1e-10 * np.arange(6)
    assert module._dispersions(fitted, labels, reasons, 1)[0] == pytest.approx(0.7)


def test_too_few_counts_for_the_variance_of_the_places():
    labels = np.array([[0, 0, 0, 1, 2, -1]])
    fitted = np.full((1, 6, kernels.N_VALUES), 9.0)
    leaf = template(FIRST, 0.003)
    assert leaf.resolution == pytest.approx(0.36)
    limit = 0.003 * 2.0 / leaf.resolution**2
    fitted[0, :3, kernels.SCALE] = limit + 1e-6, limit - 1e-6, np.nan
    faint = module._too_faint(fitted, labels, (leaf, NoLattice("")), np.array([2.0, np.nan]))
    assert faint.tolist() == [[False, True, True, False, False, False]]


def test_deviations_in_another_basis():
    fitted = np.zeros((1, 3, kernels.N_VALUES), np.float32)
    fitted[..., 2:6] = [0.1, 0.2, 0.3, 0.4]
    fitted[..., 6:16] = COVARIANCE[np.triu_indices(4)]
    changes = [np.array([[1, 1], [0, 1]]), None]
    deviation, covariance = module._changed(
        fitted, np.array([[0, 1, -1]]), changes, np.array([3.0, np.nan])
    )
    assert deviation[0, 0] == pytest.approx([0.4, 0.6, 0.3, 0.4])
    assert deviation[0, 1] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    whole = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(covariance[0, 0], 3 * whole @ COVARIANCE @ whole.T, rtol=1e-5)
    np.testing.assert_allclose(covariance[0, 2], COVARIANCE, rtol=1e-5)


def test_bases_of_references():
    templates = (template(SECOND), NoLattice("no disks"), template(2 * FIRST), template(FIRST))
    labels = np.array([[0, 0, 1, 1, 1], [2, 2, 2, 3, -1]])

    def reference(what):
        return module._reference_basis(what, templates, labels, np.array([1.0, 2.0]))

    basis, text = reference(None)  # the largest that has one
    assert text == "mean pattern of cluster 2, the largest that has a lattice"
    assert np.abs(basis).tolist() == [[20, 4], [4, 32]]
    basis, text = reference("own")
    assert np.abs(basis).tolist() == [[20, 4], [4, 32]] and "own cluster" in text
    mask = np.array([[1, 0, 1, 1, 1], [0, 0, 0, 0, 1]]) > 0
    basis, text = reference(mask)
    assert text == "mean over a mask of 5 positions"
    assert np.abs(basis).tolist() == [[11, 3], [2.5, 17]]
    with pytest.raises(ValueError, match="holds no position"):
        reference((labels == 1) | (labels == -1))
    basis, text = reference(np.array([[1, 2], [3, 4]]))
    assert basis.tolist() == [[3, 1], [4, 2]] and text == "given lattice vectors"
    assert basis.dtype == float
    assert reference(3)[1] == "mean pattern of cluster 3"
    with pytest.raises(ValueError, match="cluster 1, has no lattice: no disks"):
        reference(1)


# --- all together -----------------------------------------------------------------------------


@pytest.fixture
def fit(monkeypatch):
    """`fit_strain` of a scan of 2 by 4, whose templates and fits are given."""

    def run(deviations, labels=((0, 0, 0, 0), (1, 1, 1, -1)), status=None, **options):
        made, asked = iter((template(FIRST), template(SECOND), NoLattice("none"))), {}

        def make_template(mean, **given):
            asked.update(given)
            return next(made)

        def map_patterns(data, kernel, n, *, dtype, progress, num_workers):
            asked.update(shift=kernel.max_shift, workers=num_workers, type=dtype)
            fitted = np.zeros((2, 4, n), np.float32)
            fitted[..., :2] = 20.0, 23.0
            fitted[..., 2:6] = deviations
            fitted[..., 6:16] = COVARIANCE[np.triu_indices(4)]
            fitted[..., kernels.DISPERSION], fitted[..., kernels.SCALE] = 2.0, 1.0
            fitted[..., kernels.STATUS] = np.where(np.array(labels) < 0, 1, 0)
            if status is not None:
                fitted[..., kernels.STATUS] = status
            return fitted

        monkeypatch.setattr(module, "make_template", make_template)
        monkeypatch.setattr(module, "map_patterns", map_patterns)
        shape = options.pop("shape", (2, 4, 90, 100))
        result = fit_strain(
            np.empty(shape, np.uint8), np.array(labels), np.zeros((2, *shape[2:])), **options
        )
        return result, asked

    return run


def strained(F):
    """The deviation of the first leaf's basis that a deformation makes."""
    F = np.asarray(F, float)
    return ((np.linalg.inv(F).T @ FIRST[:, ::-1].T).T[:, ::-1] - FIRST).ravel()


def test_strain_of_given_fits(fit):
    deviations = np.zeros((2, 4, 4))
    deviations[0, 1] = strained([[1.02, 0.03], [-0.01, 0.97]])
    result, asked = fit(deviations)
    assert result.reasons.tolist() == [[0, 0, 0, 0], [0, 0, 0, NOT_CLUSTERED]]
    assert result.strain.shape == result.errors.shape == (4, 2, 4)
    assert result.strain.dtype == result.errors.dtype == np.float32
    assert result.strain[:, 0, 0] == pytest.approx([0] * 4, abs=1e-6)
    assert result.strain[:, 0, 1] == pytest.approx([0.02, -0.03, 0.01, np.degrees(-0.02)], abs=1e-5)
    # of the counts twice the model's variance
    moved = FIRST + deviations[0, 1].reshape(2, 2)
    _, errors = strain_components(moved, FIRST, 2 * COVARIANCE)
    assert result.errors[:, 0, 1] == pytest.approx(errors, rel=1e-4)
    # the second leaf, in the basis that is nearest to the first one's
    against, _ = strain_components(result.lattices[1].basis, result.reference, COVARIANCE)
    assert result.strain[:, 1, 0] == pytest.approx(against, rel=1e-4)
    assert np.abs(result.lattices[1].basis).tolist() == [[2.5, 8.5], [11, 1.5]]
    assert result.origins[0, 0].tolist() == [20, 23] and np.isnan(result.origins[1, 3]).all()
    assert np.isnan(result.strain[:, 1, 3]).all() and np.isnan(result.errors[:, 1, 3]).all()
    assert np.abs(result.reference).tolist() == [[2, 8], [10, 1]]
    assert result.dispersions.tolist() == [2, 2]
    assert asked["stretch"] == (1, 1) and asked["disk_radius"] is None
    assert (asked["shift"], asked["workers"], asked["type"]) == (11, None, np.float32)


@pytest.mark.parametrize("shape, shift", [((64, 72), 8), ((71, 64), 8), ((400, 300), 32)])
def test_range_of_the_search(fit, shape, shift):
    assert fit(np.zeros((2, 4, 4)), shape=(2, 4, *shape))[1]["shift"] == shift
    assert fit(np.zeros((2, 4, 4)), max_shift=3)[1]["shift"] == 3


def test_pixels_that_are_no_squares(fit):
    F = np.array([[1.02, 0.01], [-0.01, 0.97]])
    scale = np.array([-0.02, 0.05])
    real = FIRST * scale
    moved = (np.linalg.inv(F).T @ real[:, ::-1].T).T[:, ::-1] / scale
    deviations = np.zeros((2, 4, 4))
    deviations[0, 1] = (moved - FIRST).ravel()
    result, asked = fit(deviations, scales=tuple(scale))
    assert asked["stretch"] == pytest.approx((np.sqrt(0.4), np.sqrt(2.5)))
    assert result.strain[:, 0, 1] == pytest.approx([0.02, -0.03, 0, np.degrees(-0.01)], abs=1e-5)
    twice = np.tile(scale, 2)
    _, errors = strain_components(moved * scale, real, 2 * COVARIANCE * np.outer(twice, twice))
    assert result.errors[:, 0, 1] == pytest.approx(errors, rel=1e-4)


def test_largest_strain(fit):
    deviations = np.zeros((2, 4, 4))
    deviations[0] = [strained(np.diag([1 + e, 1])) for e in (0.099, 0.101, 0.04, 0.039)]
    assert fit(deviations)[0].reasons[0].tolist() == [0, STRAINED, 0, 0]
    assert fit(deviations, max_strain=0.0395)[0].reasons[0].tolist() == [STRAINED] * 3 + [0]
    status = np.array([[5, 4, 0, 0], [0, 0, 0, 1]])
    result, _ = fit(deviations, status=status, max_strain=0.0395)
    assert result.reasons.tolist() == [[5, 4, STRAINED, 0], [0, 0, 0, 1]]


def test_references_of_given_fits(fit):
    deviations = np.zeros((2, 4, 4))
    deviations[0, 1:3] = [strained(np.diag([1.02, 1])), strained(np.diag([1.04, 1]))]
    mask = np.array([[0, 1, 1, 0], [0, 0, 0, 1]]) > 0
    result, _ = fit(deviations, reference=mask)
    middle = FIRST + deviations[0, 1:3].mean(0).reshape(2, 2)
    assert np.sort(np.abs(result.reference).ravel()) == pytest.approx(
        np.sort(np.abs(middle.ravel()))
    )
    expected = strain_components(FIRST, middle, COVARIANCE)[0]
    assert result.strain[:, 0, 0] == pytest.approx(expected, abs=1e-5)
    own, _ = fit(deviations, reference="own")
    assert own.strain[:, 1, 0] == pytest.approx([0] * 4, abs=1e-6)
    assert own.strain[0, 0, 1] == pytest.approx(0.02, abs=1e-5)
    with pytest.raises(ValueError, match="no pattern within the reference mask"):
        fit(deviations, reference=mask, status=np.full((2, 4), 4))


def test_smoothed_fits(fit):
    deviations = np.zeros((2, 4, 4))
    deviations[0, 1] = strained(np.diag([1.03, 1]))
    plain, _ = fit(deviations)
    smoothed, _ = fit(deviations, spatial_smoothing=0.5)
    weights = np.exp(-0.5 * (np.arange(4) - 1.0) ** 2 / 0.25)
    moved = FIRST + (weights[1] / weights.sum() * deviations[0, 1]).reshape(2, 2)
    expected = strain_components(moved, FIRST, COVARIANCE)[0]
    assert smoothed.strain[:, 0, 1] == pytest.approx(expected, abs=1e-6)
    ratio = np.sqrt((weights**2).sum()) / weights.sum()
    assert smoothed.errors[:, 0, 1] == pytest.approx(ratio * plain.errors[:, 0, 0], rel=0.05)


# --- averages ---------------------------------------------------------------------------------


def test_average_of_two_neighbours():
    covariance = np.array(
        [[[[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, 4.0]], [[1.0, 0], [0, 1]]]]
    )
    deviation = np.array([[[1.0, 2.0], [3.0, -1.0], [7.0, 7.0]]])
    labels, usable = np.array([[4, 4, 4]]), np.array([[True, True, False]])
    means, spread = smooth(deviation, covariance, labels, usable, 0.8)
    g = np.exp(-0.5 / 0.64)
    information = np.linalg.inv(covariance[0])
    for own, other in ((0, 1), (1, 0)):
        total = np.linalg.inv(information[own] + g * information[other])
        expected = total @ (
            information[own] @ deviation[0, own] + g * information[other] @ deviation[0, other]
        )
        np.testing.assert_allclose(means[0, own], expected)
        squared = total @ (information[own] + g**2 * information[other]) @ total
        np.testing.assert_allclose(spread[0, own], squared)
    np.testing.assert_array_equal(means[0, 2], [7, 7])
    np.testing.assert_array_equal(spread[0, 2], np.eye(2))


def test_gaussian_over_four_standard_deviations():
    weights = module._gaussian(0.6)
    assert weights == pytest.approx(np.exp(-0.5 * (np.arange(-3, 4) / 0.6) ** 2))
    assert len(module._gaussian(1.0)) == 9
    assert shared_positions(0.0) == 1 and shared_positions(2.0) == pytest.approx(
        16 * np.pi, rel=1e-4
    )


def test_mean_basis_is_weighted_with_information():
    bases = np.array([[FIRST, 3 * FIRST, 9 * FIRST]])
    covariance = np.stack([np.diag([1.0, 1, 1, 1]), np.diag([3.0, 1, 3, 1]), np.eye(4)])[None]
    found = module._mean_basis(bases, covariance, np.array([[True, True, False]]))
    np.testing.assert_allclose(found, FIRST * (2 / 3 + 3 * 1 / 3))


def test_statistics_of_small_clusters():
    strain = np.arange(24.0).reshape(4, 2, 3) ** 2
    strain[:, 1, 2] = np.nan
    one, two, three = cluster_statistics(strain, np.array([[0, 0, 1], [0, -1, 0]]), 3)
    assert (one["cluster"], two["cluster"], three["cluster"]) == (0, 1, 2)
    assert (one["n"], two["n"], three["n"]) == (3, 1, 0)
    assert one["e_xx"]["mean"] == pytest.approx(10 / 3)
    deviation = np.std([0, 1, 9], ddof=1)
    assert one["e_xx"]["standard_deviation"] == pytest.approx(deviation)
    assert one["e_xx"]["standard_error"] == pytest.approx(deviation / np.sqrt(3))
    assert one["rotation"]["mean"] == pytest.approx((18**2 + 19**2 + 21**2) / 3)
    assert two["e_yy"]["mean"] == 64 and np.isnan(two["e_yy"]["standard_deviation"])
    # three positions that share their neighbours are one at least
    shared = cluster_statistics(strain, np.zeros((2, 3), int), 1, 0.5)[0]["e_xy"]
    assert shared["standard_error"] == pytest.approx(
        shared["standard_deviation"] / np.sqrt(5 / shared_positions(0.5))
    )
    wide = cluster_statistics(strain, np.zeros((2, 3), int), 1, 2.0)[0]["e_xy"]
    assert wide["standard_error"] == wide["standard_deviation"]
