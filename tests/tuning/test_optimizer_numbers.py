"""Proposals in numbers: sides of the trust region, candidates, beliefs, and what is tried when."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import qmc

from hs_autoptycho.tuning import optimizer as module
from hs_autoptycho.tuning.optimizer import (
    GaussianProcessOptimizer,
    RandomSampler,
    SobolSampler,
    _climbed,
    _fitted_number,
    log_expected_improvement,
    trust_side,
)
from hs_autoptycho.tuning.space import SLICES, Dimension, read_space


def make(parameters, n_initial=4, seed=0):
    dimensions = read_space(parameters)[0] if isinstance(parameters, dict) else parameters
    return GaussianProcessOptimizer(dimensions, n_initial=n_initial, random_state=seed)


RANGES = {"defocus": (0, 1), "C12a": (0, 2)}


def test_a_random_point_is_drawn_for_its_number_pending_ones_included():
    sampler = RandomSampler(read_space(RANGES)[0], random_state=7)
    told = [({"defocus": 0.1, "C12a": 0.2}, 1.0), ({"defocus": 0.3, "C12a": 0.2}, None)]
    place = np.random.default_rng([7, 3]).random(2)
    assert sampler.ask(told, [{"defocus": 0.5, "C12a": 1.5}]) == pytest.approx(
        {"defocus": place[0], "C12a": 2 * place[1]}
    )


def test_points_of_the_sobol_sequence_in_their_order():
    sampler = SobolSampler(read_space(RANGES)[0], random_state=7)
    places = qmc.Sobol(2, seed=np.random.default_rng(7)).random_base2(3)
    told, pending = [], []
    for i, place in enumerate(places):
        point = sampler.ask(told, pending)
        assert point == pytest.approx({"defocus": place[0], "C12a": 2 * place[1]})
        (pending if i % 3 == 2 else told).append(point if i % 3 == 2 else (point, 1.0))


def test_small_spaces_are_looked_at_point_by_point():
    random = np.random.default_rng
    few, many = make({"batch_size": (1, 4096)}), make({"batch_size": (1, 4097)})
    assert few._untried(set(), random(3)) == {"batch_size": 1 + random(3).integers(4096)}
    assert many._untried(set(), random(3)) == {
        "batch_size": 1 + math.floor(4097 * random(3).random(1)[0])
    }


class Stand:
    """A model: scores are the distance from a place, known by a constant error."""

    def __init__(self, columns, at=0.3, error=0.1, lengths=None):
        self.at, self.error = np.full(columns, at), error
        self.lengths = np.ones(columns) if lengths is None else np.array(lengths)
        self.asked = []

    def predict_places(self, places):
        self.asked.append(len(places))
        distance = np.linalg.norm(places - self.at, axis=1)
        return distance, np.full(len(places), self.error)


def best_of(sampler, surrogate, points, scores, waiting=()):
    tried = {module._key(p) for p in (*points, *waiting)}
    random = np.random.default_rng(0)
    return sampler._best(surrogate, list(points), np.array(scores), list(waiting), tried, random)


def test_number_of_candidates():
    surrogate = Stand(1)
    point = best_of(make({"batch_size": (1, 4096)}), surrogate, [{"batch_size": 9}], [1.0])
    # the trial itself, then all others
    assert surrogate.asked == [1, 4095]
    assert point == {"batch_size": round(0.3 * 4096 + 0.5)}
    surrogate = Stand(1)
    points = [{"batch_size": 9}, {"batch_size": 99}]
    point = best_of(make({"batch_size": (1, 4097)}), surrogate, points[:1], [1.0], points[1:])
    # two with that which is waiting; 512 that fill the region, 512 like the best; some steps
    # uphill with a derivative; and three of them are compared
    assert surrogate.asked[:2] == [2, 1024]
    assert set(surrogate.asked[2:-1]) == {2}
    assert surrogate.asked[-1] == 3
    assert abs(point["batch_size"] - 0.3 * 4097) < 3


def test_candidates_that_were_tried_are_passed_over(monkeypatch):
    monkeypatch.setattr(module, "_climbed", lambda gain, start, low, high: np.array([0.25]))
    sampler = make({"batch_size": (1, 4097)})
    points = [sampler._point(np.array([x])) for x in (0.25, 0.3)]
    found = best_of(sampler, Stand(1), points, [1.0, 2.0])
    assert found not in points
    assert abs(found["batch_size"] - points[1]["batch_size"]) < 10


def test_the_greatest_expected_improvement_is_proposed():
    """Far from the lowest, where the error is large, or close to it."""
    dimensions = [Dimension("n_probe_modes", choices=(1, 2, 3, 4, 5))]
    mean = np.array([1.0, 0.5, 0.2, 0.4, 1.0])
    error = np.array([0.1, 0.5, 0.02, 0.3, 0.9])

    class Known:
        def predict_places(self, places):
            i = np.rint(places[:, 0] * 5 - 0.5).astype(int)
            return mean[i], error[i]

    points = [{"n_probe_modes": 3}, {"n_probe_modes": 1}]
    gain = [
        (0.2 - m) * stats.norm.cdf((0.2 - m) / s) + s * stats.norm.pdf((0.2 - m) / s)
        for m, s in zip(mean, error, strict=True)
    ]
    assert np.argsort(gain)[-1] == 4 and gain[4] < 1.3 * gain[1]
    assert best_of(make(dimensions), Known(), points, [0.2, 1.0]) == {"n_probe_modes": 5}
    error[4] = 0.8
    assert best_of(make(dimensions), Known(), points, [0.2, 1.0]) == {"n_probe_modes": 2}


@pytest.mark.parametrize(("share", "expected"), [(0.9, 2), (1.1, 5)])
def test_beliefs_weigh_as_five_trials(share, expected):
    """One is worse by the logarithm of its improvement, the other by the belief."""
    dimensions = [Dimension("n_probe_modes", 1, 5, prior=(2.0, 1.5))]
    # densities differ by 3**2 / 1.5**2 / 2 = 2 in their logarithm; there are four trials
    ratio = math.exp(share * 2 * 5 / 4)

    class Known:
        def predict_places(self, places):
            value = np.rint(places[:, 0] * 5 + 0.5)
            return np.zeros(len(places)), np.where(value == 5, ratio, 1.0)

    points = [{"n_probe_modes": i} for i in (1, 3, 4, 3)]
    found = best_of(make(dimensions), Known(), points, [1.0, 2.0, 3.0, 4.0])
    assert found == {"n_probe_modes": expected}


def test_logarithm_of_the_beliefs():
    dimensions = [
        Dimension("C12a", -10.0, 10.0),
        Dimension("defocus", 100.0, 300.0, prior=(220.0, 20.0)),
        Dimension("n_slices", choices=(1, 2)),
        Dimension("thickness", 20.0, 200.0, prior=(50.0, 15.0), condition=SLICES),
    ]
    places = np.array([[0.1, 0.5, 0.2, 0.5], [0.1, 0.5, 0.8, 0.5], [0.4, 0.6, 0.8, 30 / 180]])
    expected = [-0.5 - 0.5, -0.5 - 8.0, 0.0]
    assert make(dimensions)._belief(places) == pytest.approx(expected)


def test_every_second_trial_of_the_start_is_drawn_from_the_beliefs():
    dimensions = [
        Dimension("C12a", -10.0, 10.0),
        Dimension("n_probe_modes", choices=(1, 2, 4), prior=(2.0, 1.0)),
        Dimension("defocus", 100.0, 300.0, prior=(260.0, 40.0)),
        Dimension("batch_size", 8, 64, prior=(16.0, 8.0)),
        Dimension("tilt_x", -5.0, 5.0, prior=(1e6, 1.0)),
    ]
    sampler, places = make(dimensions), np.array([0.2, 0.3, 0.7, 0.6, 0.9])
    for number in (1, 3):
        assert sampler._believed(places, number) is places
    belief = stats.truncnorm(-160 / 40, 40 / 40, 260, 40)
    batches = stats.truncnorm(-8 / 8, 48 / 8, 16, 8)
    defocus = (belief.ppf(0.7) - 100) / 200
    batch = (round(batches.ppf(0.6)) - 8 + 0.5) / 57
    for number in (0, 2, 4):
        believed = sampler._believed(places, number)
        assert believed == pytest.approx([0.2, 0.3, defocus, batch, 0.9])
    assert places.tolist() == [0.2, 0.3, 0.7, 0.6, 0.9]


def test_when_the_model_is_used(monkeypatch):
    """After the quasi-random start, and as soon as two trials have a score."""
    used = []
    monkeypatch.setattr(GaussianProcessOptimizer, "_surrogate", lambda self, *a: used.append(a))
    monkeypatch.setattr(GaussianProcessOptimizer, "_best", lambda self, *a: None)
    points = [{"defocus": 0.1 * i, "C12a": 0.3} for i in range(7)]

    def uses(scores, waiting=0):
        used.clear()
        told = list(zip(points[: len(scores)], scores, strict=True))
        make(RANGES).ask(told, points[len(scores) :][:waiting])
        return bool(used)

    assert not uses([1.0, 2.0, 3.0])
    assert uses([1.0, 2.0, 3.0, 4.0])
    assert uses([1.0, 2.0], waiting=2)
    assert not uses([1.0, None, None, None, math.nan])
    assert uses([1.0, None, None, 2.0, math.nan])
    # failures are as bad as the worst that succeeded
    assert used[0][1].tolist() == [1, 2, 2, 2, 2]


def test_the_kernel_is_fitted_again_with_every_tenth_trial(monkeypatch):
    assert [_fitted_number(n) for n in (2, 3, 9, 10, 11, 12, 13, 14, 15)] == [
        2, 3, 9, 10, 11, 11, 13, 13, 15,
    ]  # fmt: skip
    assert [_fitted_number(n) for n in (16, 17, 18, 19, 20, 21, 24)] == [
        15, 17, 17, 19, 19, 21, 24,
    ]  # fmt: skip
    fits = []

    def parameters(places, scores, **options):
        fits.append(len(scores))
        return np.array([0.0, -1.0, -1.0, -7.0])

    monkeypatch.setattr(module, "kernel_parameters", parameters)
    random = np.random.default_rng(1)
    points = [dict(zip(RANGES, row, strict=True)) for row in random.random((18, 2))]
    sampler = make(RANGES)
    for n in (11, 12, 13, 14, 15, 16, 17, 17):
        sampler._surrogate(points[:n], np.arange(1.0 * n), [])
    assert fits == [11, 13, 15, 17]


def test_what_is_waiting_counts_with_the_score_that_is_expected(monkeypatch):
    monkeypatch.setattr(
        module, "kernel_parameters", lambda *a, **k: np.array([0.0, -1.0, -1.0, -7.0])
    )
    random = np.random.default_rng(2)
    points = [dict(zip(RANGES, row, strict=True)) for row in random.random((8, 2))]
    scores = random.random(6)
    new = random.random((5, 2))
    without = make(RANGES)._surrogate(points[:6], scores, [])
    beside = make(RANGES)._surrogate(points[:6], scores, points[6:])
    at = np.array([[p["defocus"], p["C12a"] / 2] for p in points[6:]])
    assert beside.predict_places(at)[0] == pytest.approx(without.predict_places(at)[0], abs=0.02)
    assert (beside.predict_places(new)[1] < without.predict_places(new)[1]).all()
    assert beside.predict_places(at)[1].max() < 0.2 * without.predict_places(at)[1].min()


def test_sides_of_the_trust_region():
    dimensions = [
        Dimension("detector_flip", choices=("none", "rows", "both")),
        Dimension("defocus", 100.0, 300.0),
        Dimension("n_probe_modes", choices=(1, 2, 4)),
        Dimension("C12a", 0.0, 1.0),
        Dimension("batch_size", 1, 19),
        Dimension("probe_start", 1, 20),
        Dimension("thickness", 20.0, 200.0, condition=SLICES),
    ]
    lengths = np.array([9, 9, 9, 0.3, 9, 0.7, 9, 0.8, 9])
    # of the first of its columns: names have three
    mean = np.exp(np.log([9, 0.3, 9, 0.7, 9, 0.8, 9]).mean())
    side = 0.8 * np.clip([0.3 / mean, 0.7 / mean, 0.8 / mean], 0.2, 5)
    assert side[0] == pytest.approx(0.16) and side[1] > 0.17
    best = {name: 1 for name in ("detector_flip", "defocus", "n_probe_modes", "C12a")}
    best |= {"batch_size": 1, "probe_start": 1}
    center = np.array([0.5, 0.6, 0.5, 0.05, 0.2, 0.95, 0.5])
    low, high = make(dimensions)._region(
        center, [{}, best], np.array([2.0, 1.0]), Stand(9, lengths=lengths)
    )
    expected_low = [0, 0.6 - side[0] / 2, 0, 0, 0, 0.95 - side[2] / 2, 0]
    expected_high = [1, 0.6 + side[0] / 2, 1, 0.05 + side[1] / 2, 1, 1, 1]
    assert low == pytest.approx(expected_low)
    assert high == pytest.approx(expected_high)


def test_no_side_is_more_than_five_times_the_mean():
    names = ("C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30", "tilt_x")
    dimensions = [Dimension(name, 0.0, 1.0) for name in names]
    best = dict.fromkeys(names, 0.5)
    sampler, scores = make(dimensions), np.array([1.0, *[2.0] * 31])
    assert trust_side(scores, 4, 8) == pytest.approx(0.1)
    lengths = [20.0, *[0.1] * 7]
    low, high = sampler._region(np.full(8, 0.5), [best] * 32, scores, Stand(8, lengths=lengths))
    others = 0.1 * 0.1 / (0.1 * 200 ** (1 / 8))
    assert high - low == pytest.approx([0.5, *[others] * 7])


@pytest.mark.parametrize(("n", "expected"), [(2, 0.75), (20, 0.25 + 0.75 / 20)])
def test_half_of_the_candidates_are_like_the_centre_in_most(n, expected):
    sampler = make([Dimension("C12a", 0.0, 1.0)] * n)
    low, high = np.full(n, 0.3), np.full(n, 0.5)
    center = np.full(n, 0.35)
    found = sampler._candidates(center, low, high, np.random.default_rng(0))
    assert found.shape == (1024, n)
    other = found[512:]
    assert (other != center).mean() == pytest.approx(expected, abs=0.02)
    changed = other[other != center]
    assert (changed.min(), changed.max()) == pytest.approx((0.3, 0.5), abs=0.003)
    assert changed.mean() == pytest.approx(0.4, abs=0.01)
    spread = qmc.Sobol(n, seed=np.random.default_rng(0)).random_base2(9)
    assert found[:512] == pytest.approx(0.3 + 0.2 * spread)


def test_every_second_candidate_keeps_names_and_whole_numbers():
    dimensions = [
        Dimension("C12a", 0.0, 1.0),
        Dimension("detector_flip", choices=("none", "rows")),
        Dimension("batch_size", 1, 40),
    ]
    center = np.array([0.4, 0.25, 0.7])
    found = make(dimensions)._candidates(center, np.zeros(3), np.ones(3), np.random.default_rng(1))[
        :512
    ]
    assert (found[::2, 1:] == center[1:]).all()
    assert (found[1::2] != center).all()
    assert (found[:, 0] != center[0]).all()


def test_uphill_within_limits():
    low, high = np.array([0.1, 0.2, 0.0]), np.array([0.9, 0.5, 1.0])

    def gain(places):
        assert places.max() <= 1 and places.shape == (4, 3)
        x, y, z = places.T
        return 2.0 - (x - 0.3) ** 2 - 2 * (y - 0.7) ** 2 - (z - 0.6) ** 4 - (z - 0.6) ** 2

    found = _climbed(gain, np.array([0.8, 0.3, 0.9]), low, high)
    assert found == pytest.approx([0.3, 0.5, 0.6], abs=1e-3)
    at_one = _climbed(lambda p: p.sum(axis=1), np.full(2, 0.5), np.zeros(2), np.ones(2))
    assert at_one.tolist() == [1, 1]
    # and back from there
    start, low = np.array([1.0, 1.0, 0.2]), np.zeros(3)
    assert _climbed(gain, start, low, np.ones(3)) == pytest.approx([0.3, 0.7, 0.6], abs=1e-3)


class TestTrustSide:
    """0.8 of the ranges at first."""

    start = (1.0, 0.9, 0.8)  # the lowest is 0.1 below the median

    def side(self, *scores, start=None, n_dimensions=2):
        start = self.start if start is None else start
        return trust_side(np.array([*start, *scores]), len(start), n_dimensions)

    def test_three_improvements_double_it(self):
        assert self.side() == pytest.approx(0.8)
        assert self.side(0.7, 0.6) == pytest.approx(0.8)
        assert self.side(0.7, 0.6, 0.5) == pytest.approx(1.6)
        assert self.side(0.7, 0.6, 0.9, 0.5, 0.4) == pytest.approx(0.8)
        assert self.side(0.7, 0.6, 0.5, 0.4, 0.3, 0.2) == pytest.approx(1.6)  # at most

    def test_four_failures_halve_it(self):
        assert self.side(*[0.9] * 3) == pytest.approx(0.8)
        assert self.side(*[0.9] * 4) == pytest.approx(0.4)
        assert self.side(*[0.9] * 7) == pytest.approx(0.4)
        assert self.side(*[0.9] * 8) == pytest.approx(0.2)
        assert self.side(0.9, 0.9, 0.9, 0.7, 0.9, 0.9, 0.9) == pytest.approx(0.8)
        assert self.side(*[0.9] * 4, n_dimensions=5) == pytest.approx(0.8)
        assert self.side(*[0.9] * 5, n_dimensions=5) == pytest.approx(0.4)

    def test_both(self):
        halved = (*[0.9] * 4, 0.7, 0.6, 0.5)
        assert self.side(*halved) == pytest.approx(0.8)
        assert self.side(*halved, 0.4, 0.3) == pytest.approx(0.8)
        assert self.side(*halved, 0.4, 0.3, 0.2) == pytest.approx(1.6)

    def test_below_a_fiftieth_it_begins_anew(self):
        assert self.side(*[0.9] * 20) == pytest.approx(0.025)
        assert self.side(*[0.9] * 24) == pytest.approx(0.8)

    def test_what_counts_as_an_improvement(self):
        start = (3.0, 2.0, 1.0)
        for step, expected in ((0.9e-3, 0.8), (1.1e-3, 1.6)):
            scores = 1.0 - step * np.arange(1, 4)
            scores[1:] -= 3 * step * 1e-3 * np.arange(1, 3)
            assert self.side(*scores, start=start) == pytest.approx(expected)
        # a thousandth of the gain itself does not
        assert self.side(1 - 1e-3, 0.5, 0.2, start=start) == pytest.approx(0.8)

    def test_with_a_start_of_one_trial(self):
        assert self.side(0.9, 0.8, 0.7, start=(1.0,)) == pytest.approx(1.6)
        assert trust_side(np.array([1.0, 0.9, 0.8, 0.7]), 0, 2) == pytest.approx(1.6)
        assert trust_side(np.array([1.0, 0.9, 0.8, 0.7]), 9, 2) == pytest.approx(0.8)


def test_expected_improvement_far_away():
    z = np.array([-2e5, -1e5, -0.99e5])
    density = -(z**2) / 2 - math.log(2 * math.pi) / 2
    # φ(z) / z² is what is left of it
    assert log_expected_improvement(z) - density == pytest.approx(-2 * np.log(-z), abs=1e-2)
