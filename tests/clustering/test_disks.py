"""Disks of a mean pattern: profile, places, faulty pixels."""

import numpy as np
import pytest

from hs_autoptycho.clustering.disks import (
    DiskProfile,
    NoDiskError,
    _gain,
    faulty_pixels,
    find_disks,
    measure_direct_beam,
    mend,
)


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0, 10.0])
def test_radius_and_center_of_the_direct_beam(draw_disk, radius):
    center = (33.3, 28.8)
    pattern = 50 * draw_disk((64, 57), center, radius, 0.4) + 0.5
    pattern = np.random.default_rng(1).poisson(pattern * 50) / 50
    found, profile = measure_direct_beam(pattern)
    assert np.abs(found - center).max() < 0.03
    assert profile.radius == pytest.approx(radius, abs=0.06)
    # a pixel has the variance of 1/12 of its width
    assert profile.edge == pytest.approx(np.hypot(0.4, np.sqrt(1 / 12)), abs=0.1)


def test_known_radius_is_kept(draw_disk):
    pattern = draw_disk((40, 44), (20.2, 21.7), 4.0, 0.4)
    assert measure_direct_beam(pattern, radius=3.5)[1].radius == 3.5


def test_round_disks_on_oblong_pixels(draw_disk):
    stretch = (1.25, 0.8)
    pattern = draw_disk((50, 61), (24.6, 30.3), 5.0, 0.4, stretch=stretch)
    center, profile = measure_direct_beam(pattern, stretch=stretch)
    assert np.abs(center - (24.6, 30.3)).max() < 0.02
    assert profile.radius == pytest.approx(5.0, abs=0.05)
    assert profile.area == pytest.approx(pattern.sum(), rel=0.02)


def test_profile_on_oblong_pixels():
    profile = DiskProfile(6.0, 0.8, (1.25, 0.6))
    rows, columns = np.mgrid[-12:13, -20:21]
    image = profile(profile.distance(rows, columns))
    assert image.sum() == pytest.approx(profile.area, rel=1e-3)
    # half its height at the radius, which is less in rows and more in columns
    assert profile(profile.distance(6 / 1.25, 0)) == pytest.approx(0.5)
    assert profile(profile.distance(0, 6 / 0.6)) == pytest.approx(0.5)
    assert profile(profile.reach) < 0.01
    step = 1e-5
    rise = (profile(6.4 + step) - profile(6.4 - step)) / (2 * step)
    assert profile.slope(6.4) == pytest.approx(rise, rel=1e-6)


def test_uniform_pattern_has_no_disk():
    with pytest.raises(NoDiskError, match="uniform"):
        measure_direct_beam(np.ones((20, 24)))


@pytest.mark.parametrize("gain", [1.0, 250.0])
def test_disks_are_found_at_their_places(draw_disk, gain):
    shape, places = (70, 61), np.array([[35.2, 30.1], [12.4, 15.6], [55.5, 48.3], [20.8, 45.2]])
    heights = np.array([30.0, 2.0, 1.0, 0.5])
    pattern = 0.3 + sum(
        h * draw_disk(shape, p, 2.2, 0.4) for h, p in zip(heights, places, strict=True)
    )
    pattern = gain * np.random.default_rng(2).poisson(pattern * 100) / 100
    _, profile = measure_direct_beam(pattern)
    disks = find_disks(pattern, profile)
    # in these pixels chance gives 5 standard deviations once in 500 patterns
    assert len(disks) == 4
    deviation = disks.positions - places
    assert np.abs(deviation).max() < 0.15
    assert np.abs(deviation / disks.errors[:, np.newaxis]).max() < 4
    assert disks.heights / gain == pytest.approx(heights, rel=0.2)


@pytest.mark.parametrize("gain", [0.02, 1.0, 7.0])
def test_gain_from_the_noise_on_a_slope(gain):
    rows, columns = np.indices((90, 110))
    expected = 20 + 0.3 * rows + 0.2 * columns
    counts = np.random.default_rng(4).poisson(expected)
    assert _gain(gain * counts) == pytest.approx(gain, rel=0.06)
    # a plane without noise has none, however steep
    assert _gain(expected) < 1e-9


def test_noise_alone_has_no_disks(draw_disk):
    _, profile = measure_direct_beam(draw_disk((40, 44), (20.2, 21.7), 3.0, 0.4))
    disks = find_disks(np.random.default_rng(5).poisson(9, (60, 66)), profile)
    assert len(disks) == 0 and disks.positions.shape == (0, 2)
    assert disks.errors.size == disks.heights.size == disks.significances.size == 0


def test_faulty_pixels_are_found_and_no_disk_is(draw_disk):
    pattern = 20 * draw_disk((40, 44), (20, 22), 1.5, 0.3) + 1.0
    pattern += 5 * draw_disk((40, 44), (9.5, 30.2), 1.5, 0.3)
    pattern = np.random.default_rng(3).poisson(200 * pattern) / 200
    assert not faulty_pixels(pattern).any()
    spoiled = pattern.copy()
    spoiled[5, 6], spoiled[30, 31], spoiled[12, 12] = 40.0, 0.0, np.nan
    mended, bad = mend(spoiled)
    assert sorted(map(tuple, np.argwhere(bad))) == [(5, 6), (12, 12), (30, 31)]
    assert np.abs(mended - pattern).max() < 0.5
