"""Disks of a mean pattern: thresholds, windows, and the numbers found in one drawn pattern."""

import numpy as np
import pytest

from hs_autoptycho.clustering import disks as module
from hs_autoptycho.clustering.disks import (
    DiskProfile,
    NoDiskError,
    faulty_pixels,
    find_disks,
    measure_direct_beam,
    mend,
    window_around,
)

PROFILE = DiskProfile(2.5, 0.6, (1.2, 0.8))
ROWS, COLS = np.indices((37, 46))
PLACES = [(17.3, 21.6), (9.2, 13.1), (26.4, 12.7), (15.9, 31.2), (11.4, 34.8), (0.6, 43.2)]
HEIGHTS = [30.0, 4.0, 2.0, 1.5, 1.2, 3.0]


@pytest.fixture(scope="module")
def scene():
    """Six disks, two of them near each other and one at a corner, on a slope with ripples."""
    image = 0.4 + 0.01 * ROWS + 0.02 * COLS + 0.0002 * ROWS * COLS
    for (row, col), height in zip(PLACES, HEIGHTS, strict=True):
        image = image + height * PROFILE(PROFILE.distance(ROWS - row, COLS - col))
    ripples = np.sin(3.7 * ROWS + 0.3 * ROWS**2 + 2.3 * COLS + 0.11 * COLS**2)
    return image + 0.05 * ripples * np.sqrt(image)


def test_profile_is_an_error_function():
    profile = DiskProfile(3.0, 0.5, (2.0, 0.25))
    assert profile.area == pytest.approx(np.pi * 9.25 / 0.5)
    assert DiskProfile(3.0, 0.5).area == pytest.approx(np.pi * 9.25)
    assert profile.reach == pytest.approx(4.25)
    assert profile.distance(3.0, 32.0) == pytest.approx(10.0)
    # one standard deviation inside, on and outside of the edge
    assert profile(np.array([2.5, 3, 3.5])) == pytest.approx([0.8413447, 0.5, 0.1586553])
    slope = [-0.4839414, -0.7978846, -0.4839414]
    assert profile.slope(np.array([2.5, 3, 3.5])) == pytest.approx(slope)


# --- faulty pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [1e-12, 2.0])
def test_hot_is_eight_times_the_brightest_neighbour(monkeypatch, gain):
    monkeypatch.setattr(module, "_gain", lambda pattern: gain)
    for value, hot in ((24 + 20 * gain - 1e-3, False), (24 + 20 * gain + 1e-3, True)):
        for place in ((4, 5), (1, 1), (7, 3)):
            pattern = np.ones((9, 11))
            pattern[place] = value
            # a neighbour across the corner counts as well, one further away does not
            pattern[place[0] - 1, place[1] + 1] = 3.0
            pattern[4, 9] = 7.0
            assert np.argwhere(faulty_pixels(pattern)).tolist() == [list(place)] * hot


@pytest.mark.parametrize("place", [(0, 20), (0, 0), (36, 45), (12, 0)])
def test_a_hot_pixel_on_the_rim_is_found(scene, place):
    spoiled = scene.copy()
    spoiled[place] = 1e4
    mended, bad = mend(spoiled)
    assert np.argwhere(bad).tolist() == [list(place)]
    center, _ = measure_direct_beam(mended, stretch=(1.2, 0.8))
    assert center == pytest.approx([17.3, 21.6], abs=0.05)


@pytest.mark.parametrize("gain", [0.1, 2.0])
def test_dead_is_zero_where_fifteen_counts_are_around(monkeypatch, gain):
    monkeypatch.setattr(module, "_gain", lambda pattern: gain)
    for level, dead in ((15 * gain - 1e-3, False), (15 * gain + 1e-3, True)):
        pattern = np.full((9, 11), level)
        pattern[4, 5], pattern[4, 6] = 0.0, 0.5 * level
        pattern[3, 5] = 1.5 * level
        assert faulty_pixels(pattern)[4, 5] == dead
        # neither is a dark pixel dead that is not zero, nor one of a dark region
        pattern[4, 5] = 1e-9
        assert not faulty_pixels(pattern).any()
        pattern[2:7, 3:8] = 0.0
        assert not faulty_pixels(pattern)[4, 5]


def test_what_is_not_finite_is_dark():
    pattern = np.full((9, 11), 0.1)
    pattern[3, 5], pattern[4, 5] = np.nan, 0.9
    assert np.argwhere(faulty_pixels(pattern)).tolist() == [[3, 5], [4, 5]]


def test_faulty_pixels_get_the_median_around_them():
    pattern = 0.2 + 0.01 * np.add.outer(np.arange(12), 0.1 * np.arange(15))
    spoiled = pattern.copy()
    spoiled[5, 6], spoiled[0, 14], spoiled[9, 2] = 1e4, np.nan, np.inf
    mended, bad = mend(spoiled)
    assert np.argwhere(bad).tolist() == [[0, 14], [5, 6], [9, 2]]
    np.testing.assert_array_equal(mended[~bad], pattern[~bad])
    # of five by five pixels, the faulty one and, if it is not finite, a zero among them
    wide = np.pad(np.where(np.isfinite(spoiled), spoiled, 0), 2, mode="edge")
    for row, col in np.argwhere(bad):
        assert mended[row, col] == np.median(wide[row : row + 5, col : col + 5])
    whole, none = mend(pattern.astype(np.float32))
    assert whole.dtype == float and not none.any()


# --- the direct beam --------------------------------------------------------------------------


def test_direct_beam_of_a_drawn_pattern(scene):
    center, profile = measure_direct_beam(scene, stretch=(1.2, 0.8))
    assert center == pytest.approx([17.303552, 21.612787], rel=1e-5)
    assert (profile.radius, profile.edge) == pytest.approx((2.498942, 0.599253), rel=1e-4)
    assert profile.stretch == (1.2, 0.8)
    center, profile = measure_direct_beam(1e-3 * scene)
    assert center == pytest.approx([17.288647, 21.613734], rel=1e-5)
    assert (profile.radius, profile.edge) == pytest.approx((2.318384, 0.603939), rel=1e-4)
    assert profile.stretch == (1.0, 1.0)
    center, profile = measure_direct_beam(scene, radius=2.2, stretch=(1.2, 0.8))
    assert center == pytest.approx([17.302454, 21.615835], rel=1e-5)
    assert profile.radius == 2.2 and profile.edge == pytest.approx(0.793404, rel=1e-4)


@pytest.fixture
def fits(monkeypatch):
    """What the fits start from and within, and how many pixels they look at."""
    made, real = [], module.optimize.least_squares

    def least_squares(residual, first, *, bounds, **options):
        low, high = bounds
        made.append((np.array(first), np.array(low), np.array(high), len(residual(first))))
        return real(residual, first, bounds=bounds, **options)

    monkeypatch.setattr(module.optimize, "least_squares", least_squares)
    return made


def test_direct_beam_is_fitted_twice_around_where_it_was_found(scene, fits):
    center, profile = measure_direct_beam(scene, stretch=(1.2, 0.8))
    assert len(fits) == 2
    (first, low, high, n), (again, low_again, high_again, n_again) = fits
    # the area above half of the height, less the blur: 20 pixels of 0.96
    start = np.sqrt(20 * 0.96 / np.pi - 1)
    values = scene[np.hypot(1.2 * (ROWS - 17), 0.8 * (COLS - 22)) < 1.5 * start + 2.5]
    assert n == len(values)
    smooth = module.ndimage.gaussian_filter(scene, 1.0)
    assert first[:4] == pytest.approx([17, 22, np.log(start), np.log(0.5)])
    assert first[4:] == pytest.approx([values.max() - np.median(smooth), values.min()])
    assert low.tolist() == [14, 19, np.log(0.3), np.log(0.2), 0, -np.inf]
    assert high == pytest.approx([20, 25, np.log(2 * start + 2), np.log(start + 1), np.inf, np.inf])
    # then from there
    assert np.abs(again[:2] - center).max() < 1e-3
    assert np.exp(again[2]) == pytest.approx(profile.radius, rel=1e-3)
    assert low_again[:2] == pytest.approx(again[:2] - 3)
    assert high_again[:2] == pytest.approx(again[:2] + 3)
    distance = PROFILE.distance(ROWS - again[0], COLS - again[1])
    assert n_again == np.count_nonzero(distance < 1.5 * np.exp(again[2]) + 2.5)


def test_known_radius_sets_the_blur_and_the_start(scene, fits, monkeypatch):
    blurs, real = [], module.ndimage.gaussian_filter

    def gaussian_filter(image, sigma):
        blurs.append(sigma)
        return real(image, sigma)

    monkeypatch.setattr(module.ndimage, "gaussian_filter", gaussian_filter)
    measure_direct_beam(scene, radius=2.2)
    measure_direct_beam(scene, radius=1.1)
    measure_direct_beam(scene)
    assert blurs == pytest.approx([0.6 * 2.2, 0.7, 1.0])
    assert np.exp([fit[0][2] for fit in fits[:4]]) == pytest.approx([2.2, 2.2, 1.1, 1.1])
    assert np.exp(fits[0][2][2:4]) == pytest.approx([6.4, 3.2])


def test_beam_of_one_pixel_is_as_small_as_fits_allow(fits):
    pattern = np.full((21, 24), 0.01)
    pattern[9, 12] = 50.0
    center, profile = measure_direct_beam(pattern)
    assert center == pytest.approx([9, 12], abs=0.3)
    assert profile.radius < 0.7 and profile.edge < 0.5
    assert np.exp(fits[0][0][2]) == pytest.approx(np.sqrt(max(5 / np.pi - 1, 0.49)), rel=1e-6)


def test_beam_outside_of_the_detector_is_none():
    rows, cols = np.indices((30, 34))
    for row, col in ((-1.5, 17.0), (15.0, 34.5), (30.5, 17.0), (15.0, -1.5)):
        disk = DiskProfile(5.0, 0.6)(np.hypot(rows - row, cols - col))
        with pytest.raises(NoDiskError, match="no disk could be fitted"):
            measure_direct_beam(10 * disk + 0.1)
    disk = DiskProfile(5.0, 0.6)(np.hypot(rows - 0.3, cols - 32.8))
    assert measure_direct_beam(10 * disk + 0.1)[0] == pytest.approx([0.3, 32.8], abs=1e-3)


# --- places -----------------------------------------------------------------------------------


def test_window_ends_with_the_image():
    shape = (20, 30)
    assert window_around((7.6, 11.4), (2, 3), shape) == (slice(6, 11), slice(8, 15))
    assert window_around((1.2, 28.9), (2, 3), shape) == (slice(0, 4), slice(26, 30))
    assert window_around((-9.0, 50.0), (2, 3), shape) == (slice(0, 0), slice(47, 30))


def test_response_is_the_height_above_the_ring(scene):
    height, noise = module._response(scene, PROFILE)
    assert height.shape == noise.shape == scene.shape
    at = ([17, 9, 0, 36, 20], [22, 13, 0, 20, 45])
    assert height[at] == pytest.approx(
        [28.9396869, 3.97066324, -0.046336998, 0.0273268519, 0.0612180576], rel=1e-4
    )
    assert noise[at] == pytest.approx(
        [1.351883404, 0.550485101, 0.192466263, 0.338864473, 0.381403168], rel=1e-4
    )
    # a disk at a pixel on a constant ground, and another just out of reach
    exact = 0.7 + 3 * PROFILE(PROFILE.distance(ROWS - 18, COLS - 20))
    outer = PROFILE.distance(ROWS - 18, COLS - 20) >= PROFILE.reach + 1.5
    assert module._response(exact, PROFILE)[0][18, 20] == pytest.approx(3, rel=1e-9)
    assert module._response(exact + 9 * outer, PROFILE)[0][18, 20] == pytest.approx(3, rel=1e-9)


def test_noise_of_a_dark_part_is_no_zero():
    pattern = np.zeros((40, 44))
    pattern[:, :6] = 100.0
    noise = module._response(pattern, DiskProfile(2.0, 0.5))[1]
    assert noise.min() == pytest.approx(noise.max() * np.sqrt(1e-9), rel=1e-6)


def test_gain_of_drawn_patterns(scene):
    assert module._gain(scene) == pytest.approx(7.4089636e-4, rel=1e-4)
    assert module._gain(1e-4 * scene) == pytest.approx(7.4089636e-8, rel=1e-4)
    # sparse counts, most differences of which are zero
    sparse = (ROWS % 4 == 0) + 2.0 * ((ROWS % 5 == 0) & (COLS % 7 == 0))
    assert module._gain(sparse) == pytest.approx(0.06252077, rel=1e-4)
    assert module._gain(np.ones((9, 11))) == 1e-12


def test_disks_of_a_drawn_pattern(scene):
    disks = find_disks(scene, PROFILE)
    assert disks.positions.ravel() == pytest.approx(
        [17.303423, 21.612423, 9.20867, 13.160158, 26.431398, 12.825848, 0.650352, 43.277227,
         15.906795, 31.385714, 11.529512, 34.939729, 35.039565, 44.893842], rel=1e-5,
    )  # fmt: skip
    assert disks.errors == pytest.approx(
        [0.00160349, 0.00551659, 0.00986867, 0.01232208, 0.01583698, 0.01866802, 0.209493], rel=1e-3
    )
    assert disks.heights == pytest.approx(
        [30.00767, 4.019595, 2.025142, 3.003097, 1.280747, 1.078656, 0.173456], rel=1e-4
    )
    assert disks.significances == pytest.approx(
        [786.4586, 264.99566, 157.43674, 115.24479, 96.346276, 87.002327, 7.856657], rel=1e-4
    )
    strongest = find_disks(scene, PROFILE, count=3)
    np.testing.assert_array_equal(strongest.positions, disks.positions[:3])
    faintest = disks.significances[-1]
    assert len(find_disks(scene, PROFILE, significance=faintest - 1e-4)) == 7
    assert len(find_disks(scene, PROFILE, significance=faintest + 1e-4)) == 6


@pytest.mark.parametrize("score, n", [(5.5, 7), (4.9, 6)])
def test_five_standard_deviations_are_significant(scene, monkeypatch, score, n):
    monkeypatch.setattr(module, "_gain", lambda pattern: 7.4089636e-4 * (7.856657 / score) ** 2)
    assert len(find_disks(scene, PROFILE)) == n


def test_peaks_side_by_side_count_once():
    """The stronger one, within 0.8 of the radius; two of them if they are further apart."""
    profile = DiskProfile(4.0, 0.5)
    ground, rows, cols = np.full((40, 44), 1.0), *np.indices((40, 44))
    for apart, n in ((3.5, 1), (6.0, 2)):
        pattern = ground.copy()
        for height, col in ((20.0, 18.0), (15.0, 18.0 + apart)):
            pattern += height * profile(np.hypot(rows - 20, cols - col))
        assert len(find_disks(pattern, profile, significance=50.0)) == n


def test_refined_places_that_are_one(scene, monkeypatch):
    given = iter([(0, 0), None, (0.1, 0.1), (1.5, 0.0), (2.2, 0.0), (2.0, 3.2), None])

    def refine(pattern, place, profile):
        shift = next(given, None)
        return shift and (np.array([17.0, 21.0]) + shift, 0.25, 3.0)

    monkeypatch.setattr(module, "_refine", refine)
    disks = find_disks(scene, PROFILE)
    assert next(given, "all") == "all"
    # nearer than the radius of 2.5 after stretching to one found before, they are the same disk
    np.testing.assert_allclose(disks.positions, [[17, 21], [19.2, 21], [19, 24.2]])
    assert disks.errors == pytest.approx([0.25 * np.sqrt(7.4089636e-4)] * 3, rel=1e-4)


def test_refined_place(scene):
    found = [
        (*center, 1e-3**0.5 * error, 1e3 * height)
        for center, error, height in (
            module._refine(1e-3 * scene, np.array(place), PROFILE)
            for place in ((18, 20), (10, 14), (1, 43))
        )
    ]
    assert found == [
        pytest.approx(expected, rel=1e-4)
        for expected in (
            (17.303423, 21.612423, 0.05890972, 30.007674),
            (9.206701, 13.153558, 0.20885581, 4.0024547),
            (0.650360, 43.277202, 0.45273289, 3.0031094),
        )
    ]


def test_place_that_runs_away_is_none(scene):
    # nothing but a slope or a hole there
    assert module._refine(0.0 * scene, np.array([18, 20]), PROFILE) is None
    assert module._refine(40.0 - scene, np.array([17, 21]), PROFILE) is None
    # nor can a row be told from one row alone
    assert module._refine(scene[17:18], np.array([0, 21]), PROFILE) is None
    # a disk further away than its radius and 1.5
    for place, near in (((17, 25), True), ((17, 26), False)):
        assert (module._refine(scene, np.array(place), PROFILE) is not None) == near


def test_no_disks_have_no_numbers():
    none = find_disks(np.ones((30, 33)), PROFILE)
    assert len(none) == 0 and none.positions.shape == (0, 2)
    assert none.errors.shape == none.heights.shape == none.significances.shape == (0,)
