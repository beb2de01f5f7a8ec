"""Centre and radius of the bright-field disk, on patterns whose disk is known."""

import numpy as np
import pytest
from scipy.special import erf

from hs_autoptycho.ptycho.disk import DiskError, measure_disk

TOLERANCE = 0.2


def disk(shape, center, radius, width=0.7):
    """Disk with a soft edge (error function of the given sigma), averaged over each pixel."""
    sub = (np.arange(5) - 2) / 5
    y = (np.arange(shape[0])[:, None] + sub).ravel() - center[0]
    x = (np.arange(shape[1])[:, None] + sub).ravel() - center[1]
    height = 0.5 * (1 + erf((radius - np.hypot(y[:, None], x)) / (np.sqrt(2) * width)))
    return height.reshape(shape[0], 5, shape[1], 5).mean(axis=(1, 3))


def distance(shape, center):
    y, x = np.indices(shape)
    return np.hypot(y - center[0], x - center[1])


def assert_disk(pattern, center, radius, tolerance=TOLERANCE):
    assert measure_disk(pattern) == pytest.approx((*center, radius), abs=tolerance)


CASES = [
    ((64, 96), (30.3, 50.8), 3.0),
    ((64, 96), (12.7, 80.1), 5.4),
    ((128, 100), (64.0, 49.5), 20.0),
    ((128, 100), (90.6, 31.2), 24.3),
    ((50, 48), (24.4, 23.7), 18.6),
    ((200, 256), (98.2, 131.9), 91.7),
]


@pytest.mark.parametrize(("shape", "center", "radius"), CASES)
@pytest.mark.parametrize("width", [0.4, 1.0])
def test_soft_edged_disk(shape, center, radius, width):
    assert_disk(100 * disk(shape, center, radius, width), center, radius)


@pytest.mark.parametrize(("shape", "center", "radius"), CASES)
def test_counts(shape, center, radius):
    rng = np.random.default_rng(4)
    assert_disk(rng.poisson(200 * disk(shape, center, radius) + 2), center, radius)


@pytest.mark.parametrize(("shape", "center", "radius"), CASES)
def test_hot_and_dead_pixels(shape, center, radius):
    rng = np.random.default_rng(5)
    pattern = disk(shape, center, radius)
    pattern.flat[rng.choice(pattern.size, 8, replace=False)] = [0, 1.5, 2, 50, 1e6, 0, 3, 65535]
    assert_disk(pattern, center, radius)


@pytest.mark.parametrize(("shape", "center", "radius"), CASES)
def test_strong_diffuse_background(shape, center, radius):
    rho = distance(shape, center)
    pattern = disk(shape, center, radius) + 1.0 * np.exp(-0.5 * (rho / (2.5 * radius)) ** 2)
    assert_disk(pattern, center, radius)


@pytest.mark.parametrize(("shape", "center", "radius"), CASES)
def test_bright_uniform_background(shape, center, radius):
    rng = np.random.default_rng(6)
    assert_disk(rng.poisson(2000 * (disk(shape, center, radius) + 2)), center, radius, 0.25)


@pytest.mark.parametrize(("shape", "center", "radius"), CASES[1:])
def test_structure_in_the_disk(shape, center, radius):
    dip = distance(shape, (center[0] + 0.3 * radius, center[1]))
    pattern = disk(shape, center, radius) * (1 - 0.4 * np.exp(-0.5 * (dip / (0.25 * radius)) ** 2))
    assert_disk(pattern, center, radius)


@pytest.mark.parametrize(("shape", "center", "radius"), [((128, 100), (64.3, 49.5), 14.0)])
def test_overlapping_diffraction_disks(shape, center, radius):
    pattern = disk(shape, center, radius)
    for angle in np.arange(6) * np.pi / 3 + 0.3:
        row, col = (
            center[0] + 1.7 * radius * np.sin(angle),
            center[1] + 1.7 * radius * np.cos(angle),
        )
        pattern = pattern + 0.1 * disk(shape, (row, col), radius)
    assert_disk(pattern, center, radius)


def test_integer_counts_and_plain_floats():
    pattern = (200 * disk((40, 56), (20.2, 30.7), 9.1)).astype(np.uint16)
    found = measure_disk(pattern)
    assert all(type(value) is float for value in found)
    assert found == pytest.approx((20.2, 30.7, 9.1), abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_chance_of_counts_is_no_disk(seed):
    rng = np.random.default_rng(seed)
    with pytest.raises(DiskError):
        measure_disk(
            rng.poisson([0.2, 1, 20, 100][seed % 4], [(48, 64), (32, 40), (128, 100)][seed % 3])
        )


WIDE = disk((64, 80), (32, 40), 45)
BAD = {
    "zero": (np.zeros((32, 40)), "uniform"),
    "uniform": (np.full((32, 40), 7.0), "uniform"),
    "not a number": (np.full((32, 40), np.nan), "not finite"),
    "one pixel not finite": (np.where(np.arange(80) == 3, np.inf, WIDE), "not finite"),
    "noise": (np.random.default_rng(1).poisson(100, (48, 64)), None),
    "almost no counts": (np.random.default_rng(3).poisson(0.2, (48, 64)), "too few counts"),
    "few counts": (np.random.default_rng(2).poisson(1, (48, 64)), None),
    "a taper": (np.exp(-0.5 * (distance((64, 80), (30, 44)) / 9) ** 2), "no edge"),
    "an edge taper": (np.outer(np.hanning(64), np.hanning(80)), "no edge"),
    "a ramp": (np.indices((64, 80))[1] * 1.0, None),
    "cut by the detector": (disk((64, 80), (10, 40), 20), "past the detector's first row"),
    "wider than the detector": (WIDE, None),
    "one hot pixel": ((np.arange(40 * 48) == 700).reshape(40, 48) * 1.0, "single bright pixels"),
    "a scan of patterns": (np.zeros((3, 4, 32, 40)), r"shape \(3, 4, 32, 40\)"),
    "tiny": (np.eye(4), "at least 8 x 8"),
    "complex": (np.ones((16, 18), complex), "real numbers"),
}


@pytest.mark.parametrize(("pattern", "reason"), BAD.values(), ids=BAD.keys())
def test_no_disk(pattern, reason):
    with pytest.raises(DiskError, match=reason) as caught:
        measure_disk(pattern)
    assert isinstance(caught.value, ValueError)
    assert "disk_center=(row, column)" in str(caught.value)
    assert "disk_radius=" in str(caught.value)


def test_real_scan(shared_data):
    import hyperspy.api as hs

    signal = hs.load(shared_data / "rotavirus_A.hspy", lazy=True)
    mean = np.asarray(signal.data.mean(axis=(0, 1)))
    assert measure_disk(mean) == pytest.approx((62.7, 63.6, 30.1), abs=0.3)
