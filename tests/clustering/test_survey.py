"""What a sample of the patterns tells: beam, descan, bad pixels, counts."""

import dask.array as da
import numpy as np
import pytest
from scipy import ndimage

from hs_autoptycho.clustering import survey as module
from hs_autoptycho.clustering.survey import PatternError, sample_blocks, survey
from hs_autoptycho.data import ws2_wse2_junction

SCAN, DETECTOR = (26, 34), (64, 72)


def junction(**options):
    options = {"scan_shape": SCAN, "detector_shape": DETECTOR, "electrons": 300, **options}
    return ws2_wse2_junction(**options).data


@pytest.fixture(scope="module")
def plain():
    return junction()


# --- which positions --------------------------------------------------------------------------


def covered(scan_shape):
    seen = np.zeros(scan_shape, int)
    for y0, y1, x0, x1 in sample_blocks(scan_shape):
        assert 0 <= y0 < y1 <= scan_shape[0] and 0 <= x0 < x1 <= scan_shape[1]
        seen[y0:y1, x0:x1] += 1
    return seen


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (26, 34), (17, 200), (64, 64)], ids=str)
def test_small_scans_are_sampled_whole(shape):
    assert (covered(shape) == 1).all()


@pytest.mark.parametrize("shape", [(256, 260), (70, 1000), (1030, 1024)], ids=str)
def test_samples_of_large_scans_are_spread_evenly(shape):
    seen = covered(shape)
    n = shape[0] * shape[1]
    assert seen.max() == 1
    assert min(4096, n) * 0.9 <= seen.sum() <= 8192 + 256
    # no hole is much larger than an even spread leaves
    per_square = n / seen.sum() * 256
    assert ndimage.distance_transform_cdt(seen == 0).max() < 2 * np.sqrt(per_square)
    for part in np.array_split(seen, 2, 0) + np.array_split(seen, 2, 1):
        assert part.sum() / seen.sum() == pytest.approx(0.5, abs=0.15)


def test_sample_does_not_depend_on_chunks(plain, monkeypatch):
    monkeypatch.setattr(module, "_LEAST_SAMPLE", 300)
    blocks = sample_blocks(SCAN)
    assert 0 < sum((y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in blocks) < 26 * 34
    whole = survey(plain, num_workers=2)
    for chunks in ((5, 7, 64, 72), (26, 1, 20, 72)):
        lazy = survey(da.from_array(plain, chunks=chunks), num_workers=2)
        for name in ("positions", "boxes", "weights", "beam"):
            np.testing.assert_array_equal(getattr(lazy, name), getattr(whole, name))


# --- the beam ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(0.0, 0.0), (-5.3, 7.6)], ids=str)
@pytest.mark.parametrize("angle", [1.5, 3.0])
def test_beam_is_found(shift, angle):
    found = survey(junction(beam_shift=shift, convergence_angle=angle))
    assert found.nanobeam and found.box == 1
    np.testing.assert_allclose(found.center, np.add((32, 36), shift), atol=0.1)
    # at half height: of a disk smaller than the survey's blur, that of the blur
    pixel = 2.5 / 64
    radius = angle * 1e-3 / 0.04176 / pixel
    assert 0.85 * radius < found.radius < max(1.2 * radius, 1.75)
    assert abs(found.beam - found.center).max() < 0.35


@pytest.mark.parametrize("shape", [(130, 144), (300, 260)], ids=str)
def test_large_detectors_are_summed_in_boxes(shape):
    scan = {"scan_shape": (8, 9), "detector_shape": shape, "electrons": 3000}
    found = survey(junction(**scan, beam_shift=(6.5, -9.25)))
    assert found.box == -(-max(shape) // 128)
    rows, columns = (n // found.box for n in shape)
    assert found.weights.shape == (rows, columns) and found.boxes.shape == (72, rows, columns)
    expected = np.add([n // 2 for n in shape], (6.5, -9.25))
    np.testing.assert_allclose(found.center, expected, atol=0.15)
    # centres in boxes: a box's middle is at whole numbers
    boxes = (expected - (found.box - 1) / 2) / found.box
    np.testing.assert_allclose(found.centers(np.arange(72)).mean(0), boxes, atol=0.1)


def test_descan_is_followed():
    found = survey(junction(descan=(3, -2)))
    rows, columns = np.meshgrid(np.linspace(-1.5, 1.5, 26), np.linspace(1, -1, 34), indexing="ij")
    wanted = np.stack([32 + rows, 36 + columns], -1)
    assert np.abs(found.beam - wanted).max() < 0.3
    assert np.sqrt(((found.beam - wanted) ** 2).mean()) < 0.1
    np.testing.assert_allclose(found.center, (32, 36), atol=0.1)
    at = [0, 33, 26 * 34 - 1]
    np.testing.assert_array_equal(found.centers(np.array(at)), found.beam.reshape(-1, 2)[at])


def test_wide_disk_is_no_nanobeam(draw_disk):
    disk = draw_disk((40, 44), (19.4, 21.2), 12.0, 0.4)
    data = np.random.default_rng(0).poisson(3 * disk + 0.01, (12, 14, 40, 44)).astype(np.uint8)
    found = survey(data)
    assert not found.nanobeam
    assert found.radius == pytest.approx(12, abs=0.5)
    np.testing.assert_allclose(found.center, (19.4, 21.2), atol=0.1)
    np.testing.assert_allclose(found.beam, np.broadcast_to(found.center, (12, 14, 2)))


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (1, 30), (30, 1), (3, 4)], ids=str)
def test_tiny_scans(shape):
    found = survey(junction(scan_shape=shape, electrons=3000))
    assert found.beam.shape == (*shape, 2)
    assert np.abs(found.beam - (32, 36)).max() < 0.5
    assert found.notes == ["The scan has too few positions to measure how the beam moves over it."]


# --- pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("electrons", [30, 300])
def test_hot_pixels_and_only_those(seed, electrons):
    options = {"electrons": electrons, "random_state": seed}
    clean, hot = junction(**options), junction(**options, hot_pixels=6)
    where = (hot.astype(int) - clean).min((0, 1)) > 0
    assert where.sum() == 6
    found = survey(hot)
    np.testing.assert_array_equal(found.weights == 0, where)
    assert len(found.notes) == 1 and found.notes[0].endswith("left out: 6.")
    assert survey(clean).notes == [] and (survey(clean).weights == 1).all()


def test_weights_pass_on_what_bad_pixels_lose(plain):
    data = plain.copy()
    data[..., 10, 20] += 60
    data[..., 0, 0] += 60
    weights = survey(data).weights
    assert weights[10, 20] == weights[0, 0] == 0
    np.testing.assert_allclose(weights[9, 19:22], 1.125)
    np.testing.assert_allclose(weights[[0, 1, 1], [1, 0, 1]], 4 / 3)
    assert weights.sum() == pytest.approx(weights.size)


def test_detector_mask(plain):
    mask = np.ones(DETECTOR, bool)
    mask[:, 40:] = False
    np.testing.assert_array_equal(survey(plain, detector_mask=mask).weights == 1, mask)
    # a box is used if all of its pixels are
    large = junction(scan_shape=(3, 4), detector_shape=(131, 150))
    mask = np.ones((131, 150), bool)
    mask[7, 12] = False
    found = survey(large, detector_mask=mask)
    assert found.box == 2
    np.testing.assert_array_equal(np.argwhere(found.weights == 0), [[3, 6]])


# --- the patterns -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, counts",
    [
        (lambda data: data, True),
        (lambda data: data.astype(np.float32), True),
        (lambda data: data.astype(np.float64) * 3, True),  # shared noise tells these
        (lambda data: data * np.float32(0.7), False),
        (lambda data: data.astype(bool), True),
    ],
)
def test_counts_are_whole_numbers(plain, change, counts):
    assert survey(change(plain)).counts is counts


def test_one_fraction_is_enough_to_be_no_counts(plain):
    data = plain.astype(np.float32)
    data[20, 30, 5, 6] += 0.5
    assert survey(data).counts is False


def test_unusable_patterns_are_not_in_the_sample(plain):
    data = plain.astype(np.float32)
    data[0, 1], data[2, 3, 0, 0], data[4, 5, 1, 1], data[25, 33, 9, 9] = 0, np.nan, -1, np.inf
    found = survey(data)
    bad = [1, 2 * 34 + 3, 4 * 34 + 5, 25 * 34 + 33]
    np.testing.assert_array_equal(found.positions, np.setdiff1d(np.arange(26 * 34), bad))
    np.testing.assert_array_equal(found.boxes, plain.reshape(-1, 64, 72)[found.positions])


def test_nothing_usable_is_an_error():
    data = np.zeros((4, 5, 16, 18), np.float32)
    with pytest.raises(PatternError, match="None of the 20 patterns.*empty"):
        survey(data)
    data[:2] = np.nan
    with pytest.raises(PatternError, match="they are empty, NaN or infinite"):
        survey(data)


def test_progress_counts_the_sample(plain):
    counted = []
    survey(plain, progress=counted.append)
    assert sum(counted) == 26 * 34
