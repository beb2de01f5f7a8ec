"""The model of one drawn mean pattern: its places, heights, background and strongest disks."""

from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.clustering import strain_kernels as kernels
from hs_autoptycho.clustering import templates as module
from hs_autoptycho.clustering.disks import DiskProfile
from hs_autoptycho.clustering.lattice import Lattice, NoLattice
from hs_autoptycho.clustering.templates import LeafTemplate, make_template, refine, unpack

SHAPE = (44, 53)
ROWS, COLS = np.indices(SHAPE)
PROFILE = DiskProfile(2.5, 0.6, (1.2, 0.8))
INDICES = np.mgrid[-5:6, -5:6].reshape(2, -1).T
LATTICE = Lattice(
    np.array([21.3, 27.6]), np.array([[7.2, 1.5], [-2.0, 10.3]]), 0.01 * np.eye(6), INDICES
)
GOOD = np.zeros(SHAPE, bool)


@pytest.fixture(scope="module")
def scene():
    """Disks of a lattice on a ground that falls off, with ripples of 3 %."""
    image = 0.3 + 0.004 * ROWS + 0.002 * COLS + 0.3 * np.exp(-np.hypot(ROWS - 21, COLS - 27) / 10)
    for place, (h, k) in zip(LATTICE.points(INDICES), INDICES, strict=True):
        height = 40 * np.exp(-np.hypot(h, k)) * (1 + 0.3 * np.sin(2 * h + k))
        image = image + height * PROFILE(PROFILE.distance(ROWS - place[0], COLS - place[1]))
    ripples = np.sin(3.7 * ROWS + 0.3 * ROWS**2 + 2.3 * COLS + 0.11 * COLS**2)
    return image * (1 + 0.03 * ripples)


@pytest.fixture(scope="module")
def model(scene):
    bad = GOOD.copy()
    bad[5, 6] = True
    return module._model(scene, bad, PROFILE, LATTICE)


def test_points_on_the_detector():
    indices, places = module._points_on_detector(LATTICE, SHAPE)
    all_places = LATTICE.points(INDICES)
    inside = np.all((all_places >= 0) & (all_places <= (43, 52)), axis=1)
    assert len(indices) == inside.sum() == 29
    assert {tuple(i) for i in indices} == {tuple(i) for i in INDICES[inside]}
    assert indices[:4].tolist() == [[0, 0], [-1, 0], [1, 0], [0, -1]]
    assert (np.diff(np.hypot(*(places - LATTICE.origin).T)) > -1e-9).all()
    np.testing.assert_allclose(places, LATTICE.points(indices))
    # pixels of the rim are on it
    square = Lattice(np.array([4.0, 4.0]), 4.0 * np.eye(2), np.eye(6), INDICES)
    for shape, n in (((9, 9), 9), ((9, 13), 12), ((8, 13), 8), ((9, 12), 9)):
        assert len(module._points_on_detector(square, shape)[0]) == n
    far = replace(square, origin=np.array([-11.0, 20.0]))
    places = module._points_on_detector(far, (10, 13))[1]
    assert sorted(map(tuple, places)) == [(r, c) for r in (1, 5, 9) for c in (0, 4, 8, 12)]


def test_heights_of_a_drawn_pattern(scene):
    _, places = module._points_on_detector(LATTICE, SHAPE)
    heights, errors = module._heights(scene, PROFILE, places, 4.0)
    assert heights[[0, 1, 2, 3, -3, -2, -1]] == pytest.approx(
        [40.09145806, 10.67212053, 18.7323200, 11.0458140, 2.56287099, 2.14234225, 0.75904951],
        rel=1e-5,
    )
    assert errors[[0, 1, 2, 3, -3, -2, -1]] == pytest.approx(
        [0.14212359, 0.04648173, 0.06740975, 0.0464225, 0.01306938, 0.01553988, 0.00724174],
        rel=1e-4,
    )
    dark, unknown = module._heights(0 * scene, PROFILE, places[:2], 4.0)
    assert dark.tolist() == [0, 0] and np.isinf(unknown).all()


@pytest.mark.parametrize("n, fitted", [(5, False), (6, True)])
def test_six_pixels_for_a_height(n, fitted):
    pattern = 0.2 + np.arange(float(n))[None] ** 2
    heights, errors = module._heights(pattern, DiskProfile(2.0, 0.8), [(0.0, 0.0)], 20.0)
    assert (heights[0] != 0) == np.isfinite(errors[0]) == fitted


def test_height_that_is_not_determined():
    """All of the pixels inside the disk: its height and the ground are one number."""
    heights, errors = module._heights(np.ones((9, 11)), DiskProfile(30.0, 0.5), [(4, 5)], 4.0)
    assert heights[0] == 0 and np.isinf(errors[0])


def test_error_of_a_height_is_that_of_the_fit():
    rng = np.random.default_rng(0)
    rows, cols = np.indices((13, 15))
    disk = DiskProfile(2.0, 0.5)(np.hypot(rows - 6.2, cols - 7.1))
    found = [
        module._heights(5 + 4 * disk + 0.2 * rng.standard_normal(disk.shape),
                        DiskProfile(2.0, 0.5), [(6.2, 7.1)], 5.0)
        for _ in range(200)
    ]  # fmt: skip
    heights, errors = np.array(found)[..., 0].T
    assert heights.mean() == pytest.approx(4, abs=0.02)
    assert errors.mean() == pytest.approx(heights.std(), rel=0.15)


def test_drawn_disks():
    image = module._draw_disks(SHAPE, PROFILE, [(10.2, 11.3), (43.0, 52.0)], [2.0, 3.0])
    expected = 2 * PROFILE(PROFILE.distance(ROWS - 10.2, COLS - 11.3))
    expected += 3 * PROFILE(PROFILE.distance(ROWS - 43, COLS - 52))
    assert np.abs(image - expected).max() < 2e-3 and image.sum() == pytest.approx(
        68.05124568, rel=1e-9
    )
    assert image[[10, 43, 10, 13], [11, 52, 15, 11]] == pytest.approx(
        [1.99968298, 2.99995364, 0.43371149, 0.14772870], rel=1e-6
    )


def test_model_of_a_drawn_pattern(model):
    assert len(model.heights) == len(model.indices) == 29
    assert model.indices[:4].tolist() == [[0, 0], [1, 0], [0, 1], [1, -1]]
    assert model.indices[-2:].tolist() == [[-3, -1], [-3, -2]]
    assert model.heights[[0, 1, 5, -1]] == pytest.approx(
        [40.03427571, 18.67728056, 10.64582667, 0.74994984], rel=1e-5
    )
    assert model.window == pytest.approx(4.291200298)  # half of the shorter vector
    assert model.resolution == pytest.approx(0.36 * np.sqrt(2.5 * 0.6 / 0.96))
    assert model.place_variance == 0
    assert np.argwhere(model.usable == 0).tolist() == [[5, 6]] and model.usable.dtype == np.uint8
    steps = np.arange(int(4.0 * 64 * 1.3) + 3) / 64
    np.testing.assert_allclose(model.tables[0], PROFILE(steps))
    np.testing.assert_allclose(model.tables[1], PROFILE.slope(steps))


def test_background_of_a_drawn_pattern(model):
    background = model.background
    assert background.shape == SHAPE and background.mean() == pytest.approx(0.5402774504, rel=1e-7)
    assert background[[0, 21, 21, 30, 43], [0, 27, 20, 40, 52]] == pytest.approx(
        [0.315509600, 0.627280053, 0.588161024, 0.559202562, 0.683950302], rel=1e-6
    )


def test_background_below_a_wide_cover():
    """What lies below the disks is filled from farther and farther away."""
    profile = DiskProfile(1.0, 0.3)
    rows, cols = np.indices((41, 47))
    pattern = 1.0 + 0.1 * rows + np.where(np.hypot(rows - 20, cols - 20) < 11, 3.0, 0.0)
    places = [(r, c) for r in range(10, 31, 2) for c in range(10, 31, 2)]
    found = module._background(pattern, profile, places, np.zeros(len(places)))
    assert found[[20, 12, 20, 38], [20, 20, 8, 45]] == pytest.approx(
        [5.997801703, 5.148387126, 3.001575516, 4.799760224], rel=1e-7
    )


def test_coarse_model_has_the_five_strongest_disks(model):
    rows, cols, weights = model.coarse
    assert len(rows) == len(cols) == len(weights) == 124
    assert weights[[0, 1, 20, -1]] == pytest.approx(
        [3.09482232, 3.39419683, 3.58991415, 2.38499616], rel=1e-5
    )
    assert weights.sum() == pytest.approx(392.190010, rel=1e-5)
    image = np.zeros(SHAPE)
    image[rows, cols] = 1
    expected = np.zeros(SHAPE)
    for place in LATTICE.points(model.indices[:5]):
        expected += PROFILE.distance(ROWS - place[0], COLS - place[1]) < 2.5 + 0.3
    np.testing.assert_array_equal(image, expected)


@pytest.fixture
def given_heights(monkeypatch):
    """`_model` with heights in units of their errors given for the first disks, 1 for others."""

    def run(pattern, heights, lattice=LATTICE, profile=PROFILE):
        asked = []

        def heights_and_errors(pattern, profile, centers, outer):
            asked.append(outer)
            found = np.ones(len(centers))
            found[: len(heights)] = heights
            return 0.1 * found, np.full(len(centers), 0.1)

        monkeypatch.setattr(module, "_heights", heights_and_errors)
        return module._model(pattern, GOOD, profile, lattice), asked[0]

    return run


def test_disks_that_stand_out(scene, given_heights):
    """By three standard errors; three disks of them at least, not all in one row."""
    found, _ = given_heights(scene, [9.0, 3.01, 2.99, 4.0])
    # in the order of their heights
    assert found.indices.tolist() == [[0, 0], [0, -1], [-1, 0]]
    found, _ = given_heights(scene, [9.0, 2.99, 2.99, 4.0])
    assert isinstance(found, NoLattice) and "only 2 disks" in found.reason
    found, _ = given_heights(scene, [9.0, 4.0, 5.0])
    assert isinstance(found, NoLattice) and "only 3 disks" in found.reason


def test_background_is_above_a_part_of_the_disks(scene, given_heights, monkeypatch):
    monkeypatch.setattr(module, "_background", lambda *arguments: np.zeros(SHAPE))
    found, _ = given_heights(scene, [9.0, 6.0, 8.0, 4.0])
    np.testing.assert_allclose(found.background, 0.005 * 0.7)


@pytest.mark.parametrize(
    "spacing, window, outer",
    [
        (12.0, 5.0, 6.0),  # as far as the profile reaches, and one pixel
        (8.0, 4.0, 5.0),  # half way to the next disk
        (5.0, 2.5, 3.5),
        (3.0, 1.75, 2.3),  # 0.7 of the radius at least
    ],
)
def test_window_around_a_disk(scene, given_heights, spacing, window, outer):
    basis = np.array([[0.0, spacing / 0.8], [1.5 * spacing / 1.2, 0.0]])
    lattice = replace(LATTICE, basis=basis)
    found, asked = given_heights(scene, [9.0] * 5, lattice)
    assert (found.window, asked) == pytest.approx((window, outer))


# --- refined ----------------------------------------------------------------------------------


def test_arguments_of_the_fit(model):
    arguments = model.arguments(7)
    assert len(arguments) == 16
    for one, other in zip(
        arguments[:8],
        (model.usable, model.background, LATTICE.origin, LATTICE.basis, model.indices,
         model.heights, *model.tables), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, other)
    per_pixel, stretch, window, radius, *coarse, shift = arguments[8:]
    assert (per_pixel, window, shift) == (64.0, model.window, 7)
    assert stretch.tolist() == [1.2, 0.8] and radius == pytest.approx(2.5 / np.sqrt(0.96))
    assert all(one is other for one, other in zip(coarse, model.coarse, strict=True))


def test_symmetric_from_its_triangle():
    found = unpack(np.arange(20.0).reshape(2, 10))
    expected = [[0, 1, 2, 3], [1, 4, 5, 6], [2, 5, 7, 8], [3, 6, 8, 9]]
    assert found[0].tolist() == expected and (found[1] == found[0] + 10).all()


def test_refined_lattice(scene, model):
    lattice, variance = refine(scene, model)
    assert lattice.origin == pytest.approx([21.29967411, 27.59714156], rel=1e-6)
    assert lattice.basis.ravel() == pytest.approx(
        [7.19735619, 1.50284427, -1.99807685, 10.29990391], rel=1e-6
    )
    assert np.diag(lattice.covariance) == pytest.approx(
        [0.01, 0.01, 8.77443878e-07, 1.97174292e-06, 9.57587005e-07, 2.20530999e-06], rel=1e-3
    )
    assert not lattice.covariance[:2, 2:].any() and not lattice.covariance[2:, :2].any()
    assert variance == pytest.approx(0.00250754942, rel=1e-3)
    assert refine(np.zeros(SHAPE), model) is None


def test_refined_by_the_kernel(model, monkeypatch):
    """Within a pixel of where it is; the covariance grows with the dispersion."""
    pattern = np.asfortranarray(np.ones(SHAPE))

    def fit_lattice(image, *arguments):
        assert image.flags.c_contiguous and arguments[-2] == 1
        out = arguments[-1]
        out[:] = 0.0
        out[:6] = [21.0, 27.0, 0.1, 0.2, 0.3, 0.4]
        out[6:16] = np.arange(1.0, 11)
        out[kernels.DISPERSION], out[kernels.VARIANCE] = 2.0, 0.7
        out[kernels.STATUS] = status

    monkeypatch.setattr(module.kernels, "fit_lattice", fit_lattice)
    status = kernels.FITTED
    lattice, variance = refine(pattern, model)
    assert lattice.origin.tolist() == [21, 27] and variance == 0.7
    assert lattice.basis.ravel() == pytest.approx([7.3, 1.7, -1.7, 10.7])
    np.testing.assert_allclose(lattice.covariance[2:, 2:], 2 * unpack(np.arange(1.0, 11)))
    np.testing.assert_allclose(lattice.covariance[:2, :2], 0.01 * np.eye(2))
    status = kernels.TOO_FEW_COUNTS
    assert refine(pattern, model) is None


def test_template_of_a_drawn_pattern(scene):
    found = make_template(scene, stretch=(1.2, 0.8))
    assert isinstance(found, LeafTemplate) and len(found.heights) == 29
    assert found.lattice.basis.ravel() == pytest.approx(
        [1.9981389, -10.30053854, 7.19781791, 1.50312284], rel=1e-5
    )
    assert found.place_variance == pytest.approx(0.00247087985, rel=1e-3)
    assert (found.profile.radius, found.window) == pytest.approx((2.513245, 4.291044), rel=1e-5)
    known = make_template(scene, stretch=(1.2, 0.8), disk_radius=2.3)
    assert (known.profile.radius, known.window) == pytest.approx((2.3, 4.290608), rel=1e-5)
    assert make_template(scene).profile.stretch == (1.0, 1.0)


def test_template_is_made_twice(scene, monkeypatch):
    """The second time on the lattice that was refined; once only, if that fails."""
    seen, real = [], module._model

    def model(pattern, bad, profile, lattice):
        seen.append(lattice)
        return real(pattern, bad, profile, lattice)

    monkeypatch.setattr(module, "_model", model)
    found = make_template(scene, stretch=(1.2, 0.8))
    assert len(seen) == 2 and seen[1] is not seen[0] and found.lattice is not seen[1]
    monkeypatch.setattr(module, "refine", lambda pattern, template: None)
    found = make_template(scene, stretch=(1.2, 0.8))
    assert len(seen) == 3 and found.lattice is seen[2] and found.place_variance == 0
    monkeypatch.setattr(module, "_model", lambda *arguments: NoLattice("none"))
    assert make_template(scene, stretch=(1.2, 0.8)).reason == "none"


def test_no_template_without_a_beam():
    found = make_template(np.ones((20, 24)))
    assert isinstance(found, NoLattice) and "uniform" in found.reason
    assert kernels.N_VALUES == 20
