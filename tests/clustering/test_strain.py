"""Strain of single patterns: the kernel's derivatives, truth, efficiency, errors, failures."""

import dask.array as da
import numpy as np
import pytest

from hs_autoptycho.clustering import strain_kernels as kernels
from hs_autoptycho.clustering.deformation import (
    deformation,
    rotation_between,
    strain_components,
    stretch_and_turn,
)
from hs_autoptycho.clustering.lattice import Lattice, NoLattice
from hs_autoptycho.clustering.strain import (
    NO_LATTICE,
    NOT_CLUSTERED,
    STRAINED,
    cluster_statistics,
    fit_strain,
    shared_positions,
    smooth,
)
from hs_autoptycho.clustering.templates import make_template, unpack

SHAPE, CENTER = (64, 72), np.array([31.3, 36.6])
TURN = np.deg2rad(1.0)
# e_xx, e_yy, e_xy, and the rotation from x to y in degrees
STRAINS = {
    "none": (np.eye(2), (0, 0, 0, 0)),
    "x": ([[1.02, 0], [0, 1]], (0.02, 0, 0, 0)),
    "y": ([[1, 0], [0, 0.985]], (0, -0.015, 0, 0)),
    "shear": ([[1, 0.01], [0.01, 1]], (0, 0, 0.01, 0)),
    "turn": (
        [[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]],
        (np.cos(TURN) - 1, np.cos(TURN) - 1, 0, np.degrees(np.sin(TURN))),
    ),
}


def hexagonal(length, angle=7.0):
    angles = np.deg2rad(angle + np.array([0, 60]))
    return length * np.column_stack([np.sin(angles), np.cos(angles)])


def mean_of(expected, seed=0, patterns=400):
    return np.random.default_rng(seed).poisson(expected * patterns) / patterns


def test_score_is_the_derivative_of_the_likelihood(draw_disk):
    """And the Fisher matrix the mean of its square; against finite differences."""
    rng = np.random.default_rng(4)
    background = rng.uniform(0.2, 0.4, (19, 22))
    center, height, ground, stretch = np.array([9.3, 10.8]), 3.0, 1.2, (1.1, 0.9)
    radius, edge, per_pixel = 2.6, 0.55, 512.0
    steps = np.arange(int(8 * per_pixel)) / per_pixel
    from scipy.special import erfc

    table = 0.5 * erfc((steps - radius) / (np.sqrt(2) * edge))
    slope = -np.exp(-0.5 * ((steps - radius) / edge) ** 2) / (np.sqrt(2 * np.pi) * edge)
    rows, cols = np.indices(background.shape)
    window = np.hypot(stretch[0] * (rows - 9), stretch[1] * (cols - 11)) <= 5.0
    usable = np.ones(background.shape, np.uint8)
    usable[7, 9] = 0
    window &= usable > 0

    def model(p):
        distance = np.hypot(stretch[0] * (rows - p[0]), stretch[1] * (cols - p[1]))
        disk = 0.5 * erfc((distance - radius) / (np.sqrt(2) * edge))
        return (np.exp(p[2]) * disk + p[3] * background)[window]

    truth = np.array([*center, np.log(height), ground])
    counts = rng.poisson(1.5, background.shape).astype(np.float32)
    terms = np.empty(18)
    kernels.disk_terms(
        counts, usable, background, 0, 0, 9.0, 11.0, 5.0, *center, height, ground, table, slope,
        per_pixel, *stretch, terms,
    )  # fmt: skip
    step, slopes = 1e-4, []
    for i in range(4):
        change = np.eye(4)[i] * step
        slopes.append((model(truth + change) - model(truth - change)) / (2 * step))
    slopes, expected, seen = np.array(slopes), model(truth), counts[window]
    score = slopes @ (seen / expected - 1)
    fisher = (slopes / expected) @ slopes.T
    assert terms[:4] == pytest.approx(score, rel=2e-3, abs=2e-3)
    assert terms[4:14] == pytest.approx(fisher[np.triu_indices(4)], rel=2e-3, abs=2e-3)
    assert terms[16] == pytest.approx(((seen - expected) ** 2 / expected).sum(), rel=1e-4)
    assert terms[17] == window.sum()


@pytest.mark.parametrize("name", STRAINS)
def test_strain_and_rotation_with_their_signs(draw_lattice, name):
    F, truth = STRAINS[name]
    basis = hexagonal(12.0)
    expected = draw_lattice(SHAPE, CENTER, basis, deformation=F)
    mean = mean_of(draw_lattice(SHAPE, CENTER, basis))
    # a scan of one pattern without noise, and one of the reference
    data = np.stack([expected, draw_lattice(SHAPE, CENTER, basis)])[:, None]
    result = fit_strain(data, np.zeros((2, 1), int), mean[None])
    assert (result.reasons == 0).all()
    assert result.strain[:3, 0, 0] - result.strain[:3, 1, 0] == pytest.approx(truth[:3], abs=2e-4)
    assert result.strain[3, 0, 0] - result.strain[3, 1, 0] == pytest.approx(truth[3], abs=0.015)


def test_oblong_pixels_and_mirrored_axes(draw_lattice):
    sizes, F = (0.025, 0.02), [[1.01, 0.004], [0.002, 0.99]]
    basis = hexagonal(0.27) / sizes  # (row, column) pixels
    mean = mean_of(draw_lattice(SHAPE, CENTER, basis, sizes=sizes))
    data = draw_lattice(SHAPE, CENTER, basis, sizes=sizes, deformation=F)[None, None]
    label = np.zeros((1, 1), int)
    truth = [0.01, -0.01, 0.003, np.degrees(-0.001)]
    result = fit_strain(data, label, mean[None], scales=sizes)
    assert result.strain[:3, 0, 0] == pytest.approx(truth[:3], abs=4e-4)
    assert result.strain[3, 0, 0] == pytest.approx(truth[3], abs=0.025)
    mirrored = fit_strain(data, label, mean[None], scales=(-sizes[0], sizes[1]))
    assert mirrored.strain[:, 0, 0] == pytest.approx(
        result.strain[:, 0, 0] * [1, 1, -1, -1], abs=1e-5
    )
    # in the units of the scales, whatever basis was found
    lattice = result.lattices[0]
    assert np.hypot(*(lattice.basis * sizes).T) == pytest.approx([0.27, 0.27], rel=2e-3)


def cramer_rao(draw_lattice, basis, window, **options):
    """Bound on the standard deviation of g1_y, g1_x, g2_y, g2_x, from finite differences."""
    step, slopes = 1e-3, []
    for i in range(6):
        images = []
        for sign in (1, -1):
            center, moved = CENTER.copy(), basis.copy()
            target = center if i < 2 else moved[(i - 2) // 2]
            target[i % 2] += sign * step
            images.append(draw_lattice(SHAPE, center, moved, **options))
        slopes.append(((images[0] - images[1]) / (2 * step)).ravel())
    expected = draw_lattice(SHAPE, CENTER, basis, **options).ravel()
    seen = expected > 1e-9
    slopes = np.array(slopes)[:, seen]
    return np.sqrt(np.diag(np.linalg.inv((slopes / expected[seen]) @ slopes.T))[2:])


@pytest.mark.slow
def test_efficiency_and_true_errors_at_1000_electrons(draw_lattice):
    basis = hexagonal(12.0)
    expected = draw_lattice(SHAPE, CENTER, basis)
    template = make_template(mean_of(expected))
    shape = (20, 30)
    data = np.random.default_rng(1).poisson(expected, (*shape, *SHAPE)).astype(np.uint16)
    result = fit_strain(data, np.zeros(shape, int), mean_of(expected)[None])
    assert (result.reasons == 0).mean() > 0.99
    pulls = (result.strain / result.errors).reshape(4, -1)
    assert np.all((0.85 < np.nanstd(pulls, axis=1)) & (np.nanstd(pulls, axis=1) < 1.15))
    assert np.abs(np.nanmean(pulls, axis=1)).max() < 0.25
    assert result.dispersions[0] == pytest.approx(1.0, abs=0.06)

    values = np.empty((300, kernels.N_VALUES))
    patterns = data.reshape(-1, *SHAPE)[:300]
    kernels.fit_lattices(patterns, np.arange(300), *template.arguments(4), values)
    values = values[values[:, kernels.STATUS] == kernels.FITTED]
    # the bound is for known intensities; the template's basis may be another
    change = np.rint(template.lattice.basis @ np.linalg.inv(basis))
    bound = cramer_rao(draw_lattice, change @ basis, template.window)
    assert np.all(values[:, 2:6].std(axis=0) < 1.25 * bound)
    assert np.all(values[:, 2:6].std(axis=0) > 0.85 * bound)


def test_disks_of_other_intensities_than_the_mean(draw_lattice):
    rng = np.random.default_rng(7)
    basis, shape = hexagonal(12.0), (6, 15)
    mean = mean_of(draw_lattice(SHAPE, CENTER, basis))
    data = np.empty((*shape, *SHAPE), np.float32)
    for index in np.ndindex(shape):
        factors = rng.gamma(4.0, 0.25, (15, 15))  # as when the specimen's tilt changes
        data[index] = rng.poisson(draw_lattice(SHAPE, CENTER, basis, factors=factors))
    result = fit_strain(data, np.zeros(data.shape[:2], int), mean[None])
    pulls = (result.strain / result.errors).reshape(4, -1)
    assert np.nanmean(np.isfinite(pulls)) > 0.98
    assert np.nanstd(pulls) < 1.3 and np.abs(np.nanmean(pulls, axis=1)).max() < 0.4


def test_scaled_counts_have_the_same_strain_and_errors(draw_lattice):
    basis, gain = hexagonal(12.0), 37.0
    expected = draw_lattice(SHAPE, CENTER, basis)
    counts = np.random.default_rng(2).poisson(expected, (8, 9, *SHAPE)).astype(np.float32)
    labels = np.zeros((8, 9), int)
    plain = fit_strain(counts, labels, mean_of(expected)[None])
    scaled = fit_strain(gain * counts, labels, gain * mean_of(expected)[None])
    assert scaled.dispersions == pytest.approx(gain * plain.dispersions, rel=0.02)
    good = (plain.reasons == 0) & (scaled.reasons == 0)
    assert good.mean() > 0.98
    difference = (plain.strain - scaled.strain)[:, good] / plain.errors[:, good]
    assert np.abs(difference).max() < 0.2
    assert scaled.errors[:, good] == pytest.approx(plain.errors[:, good], rel=0.05)


def test_descan_faulty_pixels_and_chunks(draw_lattice):
    basis, shape = hexagonal(12.0), (7, 6)
    rng = np.random.default_rng(3)
    data = np.empty((*shape, *SHAPE), np.uint8)
    for y, x in np.ndindex(shape):
        moved = CENTER + (1.1 * (y - 3), -1.3 * (x - 2.5))
        data[y, x] = np.minimum(rng.poisson(draw_lattice(SHAPE, moved, basis)), 255)
    mean = mean_of(draw_lattice(SHAPE, CENTER, basis))
    labels = np.zeros(shape, int)
    plain = fit_strain(data, labels, mean[None])
    assert (plain.reasons == 0).all()
    assert np.abs(plain.strain / plain.errors).max() < 4.5
    assert plain.origins[6, 0] == pytest.approx(CENTER + (3.3, 3.25), abs=0.3)
    chunked = fit_strain(
        da.from_array(data, chunks=(3, 4, 32, 50)), labels, mean[None], num_workers=2
    )
    assert np.array_equal(chunked.strain, plain.strain)
    data[:, :, 20, 33], mean[20, 33] = 200, 200
    hot = fit_strain(data, labels, mean[None])
    assert np.abs(hot.strain / hot.errors).max() < 4.5


def test_reasons(draw_lattice):
    basis = hexagonal(12.0)
    expected = draw_lattice(SHAPE, CENTER, basis)
    distance = np.hypot(*(np.indices(SHAPE) - CENTER[:, None, None]))
    amorphous = 5 * np.exp(-((distance / 12 - 1.5) ** 2)) + 60 * (distance < 1.8) + 0.1
    data = np.random.default_rng(0).poisson(expected, (2, 4, *SHAPE)).astype(np.float32)
    labels = np.zeros((2, 4), int)
    labels[0, 1], labels[0, 2] = -1, 1
    data[0, 3] = np.random.default_rng(1).poisson(expected / 100)
    data[1, 0], data[1, 1, 4, 5] = 0, np.nan
    data[1, 2] = draw_lattice(SHAPE, CENTER, basis, deformation=[[1.06, 0], [0, 1]])
    means = np.stack([mean_of(expected), mean_of(amorphous)])
    result = fit_strain(data, labels, means, max_strain=0.04)
    expected_reasons = [
        [0, NOT_CLUSTERED, NO_LATTICE, kernels.TOO_FEW_COUNTS],
        [kernels.NO_COUNTS, kernels.NO_COUNTS, STRAINED, 0],
    ]
    assert result.reasons.tolist() == expected_reasons
    assert np.array_equal(np.isfinite(result.strain[0]), result.reasons == 0)
    assert np.array_equal(np.isfinite(result.errors[3]), result.reasons == 0)
    assert isinstance(result.lattices[1], NoLattice) and result.lattices[1].reason
    assert fit_strain(data, labels, means, max_strain=0.1).reasons[1, 2] == 0
    with pytest.raises(ValueError, match="no cluster's mean pattern has a lattice"):
        fit_strain(data, labels, means[[1, 1]])
    with pytest.raises(ValueError, match="cluster 1, has no lattice"):
        fit_strain(data, labels, means, reference=1)


def test_references(draw_lattice):
    one, two = hexagonal(12.0), hexagonal(12.0 / 1.03, angle=7.0 + 62.0)
    patterns = [draw_lattice(SHAPE, CENTER, b) for b in (one, two)]
    data = np.stack([[patterns[0]] * 3, [patterns[1]] * 3, [patterns[1]] * 3])
    labels = np.repeat([[0], [1], [1]], 3, axis=1)
    means = np.stack([mean_of(p) for p in patterns])
    # a hexagonal lattice turned by 62° is one turned by 2°
    wide, turn = 1.03 * np.cos(np.deg2rad(2)) - 1, np.degrees(1.03 * np.sin(np.deg2rad(2)))
    first = fit_strain(data, labels, means, reference=0)
    assert first.strain[:3, 1, 1] == pytest.approx([wide, wide, 0], abs=6e-4)
    assert first.strain[3, 1, 1] == pytest.approx(turn, abs=0.03)
    assert first.strain[:3, 0, 0] == pytest.approx([0, 0, 0], abs=3e-4)
    given = fit_strain(data, labels, means, reference=one[:, ::-1].T)
    assert given.strain[:3, 1, 1] == pytest.approx([wide, wide, 0], abs=6e-4)
    assert given.strain[3, 1, 1] == pytest.approx(turn, abs=0.03)
    assert given.reference == pytest.approx(one)
    mask = labels == 0
    masked = fit_strain(data, labels, means, reference=mask)
    assert np.abs(masked.strain[:, mask].mean(axis=1)).max() < 1e-6
    largest = fit_strain(data, labels, means)
    assert "cluster 1" in largest.reference_text
    assert largest.strain[:3, 0, 0] == pytest.approx([-wide, -wide, 0], abs=3e-3)
    assert largest.strain[3, 0, 0] < -1.8
    own = fit_strain(data, labels, means, reference="own")
    assert np.abs(own.strain[:3]).max() < 5e-4 and np.abs(own.strain[3]).max() < 0.03
    angle, error = rotation_between(*first.lattices, (1.0, 1.0))
    assert abs(angle - 2.0) < 4 * error + 0.01 and 0 < error < 0.1


def test_errors_follow_the_covariance():
    rng = np.random.default_rng(0)
    reference, basis = hexagonal(10.0), hexagonal(10.3, angle=9.0)
    root = 0.01 * rng.standard_normal((4, 4))
    covariance = root @ root.T
    draws = basis + (rng.standard_normal((20000, 4)) @ root.T).reshape(-1, 2, 2)
    many = np.broadcast_to(covariance, (20000, 4, 4))
    values, errors = strain_components(draws, reference, many)
    assert values.std(axis=0) == pytest.approx(errors.mean(axis=0), rel=0.03)


def test_deformation_is_that_of_the_specimen():
    F = np.array([[1.02, 0.01], [-0.005, 0.97]])
    reference = hexagonal(10.0)
    moved = (np.linalg.inv(F).T @ reference[:, ::-1].T).T[:, ::-1]
    assert deformation(moved, reference) == pytest.approx(F)
    unknown = deformation(np.array([moved, np.full((2, 2), np.nan)]), reference)
    assert np.isnan(unknown[1]).all() and np.isfinite(unknown[0]).all()


@pytest.mark.parametrize("turn", [0.0, 17.0, -30.0])
def test_strain_and_turn_are_kept_apart(turn):
    sizes, c, s = (0.025, 0.02), np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    reference = hexagonal(0.27)
    for stretches, strain in (((1.46, 1.02), 0.46), ((0.9, 1.02), 0.1)):
        F = np.array([[c, -s], [s, c]]) @ np.diag(stretches)
        moved = (np.linalg.inv(F).T @ reference[:, ::-1].T).T[:, ::-1]
        found = stretch_and_turn(moved / sizes, reference, sizes)
        assert found == pytest.approx((strain, turn))


def test_smoothing_stays_within_leaves_and_states_its_errors():
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 70), int)
    labels[:, 35:] = 1
    sizes = rng.uniform(0.5, 2.0, labels.shape)
    covariance = (sizes**2)[..., None, None] * np.array([[2.0, 0.5], [0.5, 1.0]])
    noise = np.einsum(
        "...ij,...j->...i", np.linalg.cholesky(covariance), rng.standard_normal((60, 70, 2))
    )
    truth = np.where(labels[..., None] == 1, 100.0, 0.0)
    usable = rng.random(labels.shape) > 0.1
    noise[~usable] = np.nan
    means, spread = smooth(truth + noise, covariance, labels, usable, 1.0)
    error = (means - truth)[usable]
    pulls = error / np.sqrt(np.diagonal(spread, axis1=2, axis2=3)[usable])
    assert pulls.std(axis=0) == pytest.approx([1, 1], abs=0.12)
    assert np.std(error[:, 0]) < 0.4 * np.nanstd(noise[..., 0])
    assert shared_positions(1.0) == pytest.approx(4 * np.pi, rel=1e-3)


def test_statistics_of_clusters():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (40, 50))
    strain = 0.01 * rng.standard_normal((4, 40, 50)) + np.arange(4)[:, None, None]
    strain[:, 0] = np.nan
    table = cluster_statistics(strain, labels, 3)
    inside = (labels == 1) & np.isfinite(strain[0])
    assert table[1]["n"] == inside.sum()
    assert table[1]["rotation"]["mean"] == pytest.approx(strain[3][inside].mean())
    assert table[1]["e_xx"]["standard_error"] == pytest.approx(
        0.01 / np.sqrt(inside.sum()), rel=0.1
    )
    assert table[2]["n"] == 0 and np.isnan(table[2]["e_xx"]["mean"])
    smoothed = cluster_statistics(strain, labels, 3, 1.0)
    ratio = smoothed[1]["e_xx"]["standard_error"] / table[1]["e_xx"]["standard_error"]
    assert ratio == pytest.approx(np.sqrt(4 * np.pi), rel=0.01)


@pytest.mark.parametrize(("radius", "length"), [(1.5, 9.0), (4.0, 14.0), (7.0, 20.0)])
def test_disks_of_many_sizes(draw_lattice, radius, length):
    basis = hexagonal(length)
    expected = draw_lattice(SHAPE, CENTER, basis, radius=radius, electrons=4000.0)
    template = make_template(mean_of(expected))
    assert isinstance(template.lattice, Lattice)
    change = np.rint(template.lattice.basis @ np.linalg.inv(basis))
    # large disks leave little of the background to be seen, which shifts them all a little
    assert np.abs(template.lattice.basis - change @ basis).max() < 2.5e-3 * length
    patterns = np.random.default_rng(0).poisson(expected, (60, *SHAPE)).astype(np.int32)
    values = np.empty((60, kernels.N_VALUES))
    kernels.fit_lattices(patterns, np.arange(60), *template.arguments(4), values)
    good = values[:, kernels.STATUS] == kernels.FITTED
    variance = np.diagonal(unpack(values[good, 6:16]), axis1=1, axis2=2)
    pulls = (values[good, 2:6] - values[good, 2:6].mean(axis=0)) / np.sqrt(variance)
    assert good.mean() > 0.95 and 0.8 < pulls.std() < 1.25
