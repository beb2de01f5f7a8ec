"""The gain of data that were counted: classes of brightness, single counts, and the noise."""

from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.tuning import gain as module
from hs_autoptycho.tuning.gain import _range_of_ratios, _resolution, as_counts, estimate_gain
from hs_autoptycho.tuning.scores import ObjectiveError


def test_noise_by_class_of_brightness():
    # 40 limits between a millionth of the brightest and itself: 0.705 and 0.71 are in one class
    mean = np.repeat([1.0, 0.705, 0.71, 0.1, 0.01, 0.0], [1, 250, 249, 500, 499, 600])
    variance = np.repeat([0.5, 0.1, 0.2, 0.03, 0.5, 0.5], [1, 250, 249, 500, 499, 600])
    bright = (0.5 + 250 * 0.1 + 249 * 0.2) / (1 + 250 * 0.705 + 249 * 0.71)
    assert _range_of_ratios(variance, mean) == pytest.approx((bright, 0.3))
    assert _range_of_ratios(1e-4 * variance, 1e-4 * mean) == pytest.approx((bright, 0.3))
    # one pixel less says nothing
    assert _range_of_ratios(variance[1:], mean[1:]) == pytest.approx((0.3, 0.3))
    assert _range_of_ratios(variance[1:400], mean[1:400]) == (np.inf, 0)


def test_how_well_single_counts_are_resolved():
    gain = 0.3
    # a tenth of a count beside whole ones; half a count at either end does not belong to them
    values = gain * np.sort(np.concatenate([np.repeat(np.arange(1, 9), 100) + 0.1, [0.49, 8.51]]))
    assert _resolution(values, gain) == pytest.approx(np.cos(0.2 * np.pi))
    assert _resolution(np.full(500, gain), gain) == pytest.approx(1)
    assert _resolution(np.full(499, gain), gain) == 0
    ends = np.repeat([0.51, 8.49], 300)
    assert _resolution(gain * ends, gain) == pytest.approx(np.cos(1.02 * np.pi))
    # of very many at least 30 000 are looked at
    many = np.sort(np.random.default_rng(0).uniform(0.6, 8.4, 100_000))
    assert _resolution(many, 1.0) == pytest.approx(np.cos(2 * np.pi * many[::3]).mean(), abs=1e-12)


def an_experiment(counts, scan_shape=(30, 3), **changed):
    """What `gain` needs of an experiment."""
    return SimpleNamespace(
        **{
            "counts": counts,
            "geometry": SimpleNamespace(scan_shape=scan_shape),
            "mask": None,
            "counted": False,
            "stored": False,
            "largest": np.max(counts, axis=0) if isinstance(counts, np.ndarray) else None,
            "with_counts": lambda counts: counts,
            **changed,
        }
    )


def readings(gain, spread=None, spikes=0.0, noise=0.0):
    """Dark and brighter pixels, of binomial numbers with a variance of `spread` times their mean.

    Of some of the brighter ones the middle of three neighbours reads 8 counts, the others none.
    """
    random = np.random.default_rng(0)
    dark = random.poisson(0.1, (90, 14, 8))
    few = random.poisson(1.2, dark.shape)
    if spread is not None:
        few = random.binomial(round(1.5 / (1 - spread)), 1 - spread, dark.shape)
    chosen = random.random(dark.shape[1:]) < spikes
    few[1::3, chosen], few[::3, chosen], few[2::3, chosen] = 8, 0, 0
    counts = np.concatenate([dark, few], axis=2)
    counts = counts + noise * random.normal(size=counts.shape)
    return (gain * counts).clip(0).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"spread": 0.43}, False),  # half of the noise of counting and a little less
        ({"spread": 0.48}, True),
        ({}, True),
        ({"spikes": 0.12}, True),
        ({"spikes": 0.15}, False),
    ],
)
def test_the_noise_has_to_be_about_that_of_counting(options, found):
    estimate = estimate_gain(an_experiment(readings(2.5, **options)))
    assert estimate == (pytest.approx(2.5, rel=1e-6) if found else None)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [(0.05, 0.0199952490), (0.15, 0.0199795135), (0.24, 0.0197676689), (0.27, None)],
)
def test_with_read_noise(noise, expected):
    """In counts; the readings are those of 0.02 a count, and what is below 0 reads 0."""
    found = estimate_gain(an_experiment(readings(0.02, noise=noise)))
    assert found == (expected and pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize(
    ("low", "high", "last"),
    [(1.0, 1.2, 0.5), (1e-6, 2.0, 3e-3), (0.7, 0.7, 0.35), (0.0, 1.0, None), (1.0, 0.9, None)],
)
def test_gains_that_are_tried(monkeypatch, low, high, last):
    """Half a percent apart, from half of the smallest noise to one and a half of the largest."""
    tried, read = [], []

    def resolution(values, gain):
        tried.append(gain)
        read.append(values)
        return 0.0

    monkeypatch.setattr(module, "_range_of_ratios", lambda variance, mean: (low, high))
    monkeypatch.setattr(module, "_resolution", resolution)
    counts = readings(2.5)
    assert estimate_gain(an_experiment(counts)) is None
    if last is None:
        assert not tried
        return
    assert (tried[0], tried[-1]) == pytest.approx((1.5 * high, last))
    steps = np.divide(tried[:-1], tried[1:])
    assert steps == pytest.approx(steps[0]) and 1.004 < steps[0] <= 1.005
    assert len(tried) == int(np.log(tried[0] / tried[-1]) / np.log(1.005)) + 2
    # of the positions in the middle all that is above nought
    middle = counts[1::3]
    assert np.array_equal(read[0], np.sort(middle[middle > 0]))


@pytest.mark.parametrize(("best", "found"), [(0.3, True), (0.299, False)])
def test_single_counts_have_to_be_resolved(monkeypatch, best, found):
    monkeypatch.setattr(module, "_resolution", lambda values, gain: best * (2.4 < gain < 2.6))
    estimate = estimate_gain(an_experiment(readings(2.5)))
    assert estimate == (pytest.approx(2.5) if found else None)


def test_the_largest_of_the_gains_that_fit_as_well(monkeypatch):
    """Parts of the gain fit the better, the less read noise there is."""

    def resolution(values, gain):
        near = abs(gain / 2.5 - 1) < 0.02, abs(gain / 1.25 - 1) < 0.02
        return 0.81 * near[0] + 1.0 * near[1]

    monkeypatch.setattr(module, "_resolution", resolution)
    assert estimate_gain(an_experiment(readings(2.5))) == pytest.approx(2.5)
    monkeypatch.setattr(
        module, "_resolution", lambda values, gain: resolution(values, gain) - 0.02 * (gain > 2)
    )
    assert estimate_gain(an_experiment(readings(2.5))) == pytest.approx(2.5 / 2)


def test_masked_pixels_are_not_looked_at():
    counts = readings(2.5)
    mask = np.ones(counts.shape[1:], bool)
    mask[3:9, 2:12] = False
    counts[:, ~mask] = np.random.default_rng(1).uniform(0, 9, (90, np.count_nonzero(~mask)))
    assert estimate_gain(an_experiment(counts, mask=mask)) == pytest.approx(2.5, rel=1e-6)
    assert estimate_gain(an_experiment(counts)) != pytest.approx(2.5, rel=1e-3)


def test_neighbours_along_a_row_of_the_scan():
    """At least three positions a row; what changes steadily along it is no noise."""
    counts = readings(2.5)
    assert estimate_gain(an_experiment(counts, scan_shape=(45, 2))) is None
    assert estimate_gain(an_experiment(counts, scan_shape=(15, 6))) == pytest.approx(2.5, rel=1e-6)
    asked = []

    class Counts:
        def __getitem__(self, positions):
            asked.append(positions)
            raise KeyError

    with pytest.raises(KeyError):
        estimate_gain(an_experiment(Counts(), (4, 9)))
    before, middle, after = np.split(asked[0], 3)
    inner = [9 * row + column for row in range(4) for column in range(1, 8)]
    assert middle.tolist() == inner
    assert before.tolist() == [i - 1 for i in inner]
    assert after.tolist() == [i + 1 for i in inner]
    with pytest.raises(KeyError):
        estimate_gain(an_experiment(Counts(), (50, 60)))
    middle = np.split(asked[1], 3)[1]
    assert (len(middle), middle[0], middle[-1]) == (256, 1, 50 * 60 - 2)


def test_counts_of_readings(monkeypatch):
    monkeypatch.setattr(module, "estimate_gain", lambda experiment: 0.5)
    readings = np.array([[[0.1, 0.6], [1.3, 40.0]], [[0.0, 0.7], [0.8, 20.0]]], np.float32)
    counts, gain = as_counts(an_experiment(readings))
    assert gain == 0.5 and counts.dtype == np.uint16
    assert counts.tolist() == [[[0, 1], [3, 80]], [[0, 1], [2, 40]]]
    mask = np.array([[True, True], [True, False]])
    counts, _ = as_counts(an_experiment(readings, mask=mask))
    assert counts.tolist() == [[[0, 1], [3, 0]], [[0, 1], [2, 0]]]
    # the largest that is used decides how many bits are needed
    for largest, expected in ((32767.0, np.uint16), (32767.5, np.uint32)):
        readings[0, 1, 1] = largest
        assert as_counts(an_experiment(readings))[0].dtype == expected
        assert as_counts(an_experiment(readings, mask=mask))[0].dtype == np.uint16


def test_nothing_to_do_or_nothing_found(monkeypatch):
    whole = an_experiment(np.ones((4, 2, 3), np.uint8), counted=True)
    assert as_counts(whole) == (whole, None)
    monkeypatch.setattr(module, "estimate_gain", lambda experiment: None)
    with pytest.raises(ObjectiveError, match="no gain makes counts"):
        as_counts(an_experiment(np.ones((4, 2, 3), np.float32)))
