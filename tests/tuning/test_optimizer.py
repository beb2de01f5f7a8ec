"""Asking for points: plain values inside the limits, none twice, pure, and the minimum found."""

import math

import numpy as np
import pytest
from scipy import special, stats
from threadpoolctl import threadpool_limits

from hs_autoptycho.tuning.optimizer import (
    GaussianProcessOptimizer,
    RandomSampler,
    SobolSampler,
    log_expected_improvement,
    trust_side,
)
from hs_autoptycho.tuning.space import Dimension, read_space, size

MIXED = {
    "scan_rotation": (-180, 0),
    "defocus": (100, 1e5, "log"),
    "n_probe_modes": [1, 2, 4],
    "batch_size": (8, 64),
    "detector_flip": ["none", "transpose", "rows"],
}
SLICES = {"defocus": (100, 400), "n_slices": [1, 2, 4], "thickness": (20, 200), "tilt_x": (-5, 5)}


def optimizer(parameters, n_initial=10, seed=0, start=()):
    return GaussianProcessOptimizer(
        read_space(parameters)[0], n_initial=n_initial, random_state=seed, start=start
    )


def search(sampler, score, n, told=()):
    """What was told after n more trials."""
    told = list(told)
    for _ in range(n):
        point = sampler.ask(told)
        if point is None:
            break
        told.append((point, score(point)))
    return told


def key(point):
    return tuple(sorted(point.items()))


def inside(point):
    return (
        -180 <= point["scan_rotation"] <= 0
        and 100 <= point["defocus"] <= 1e5
        and point["n_probe_modes"] in (1, 2, 4)
        and 8 <= point["batch_size"] <= 64
        and point["detector_flip"] in MIXED["detector_flip"]
    )


def mixed_score(point):
    return (
        (point["scan_rotation"] / 180 + 0.7) ** 2
        + (math.log10(point["defocus"]) - 3) ** 2
        + 0.1 * point["n_probe_modes"]
        + (point["detector_flip"] != "rows")
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda d: RandomSampler(d, random_state=1),
        lambda d: SobolSampler(d, random_state=1),
        lambda d: GaussianProcessOptimizer(d, n_initial=6, random_state=1),
    ],
    ids=["random", "Sobol", "Gaussian process"],
)
def test_all_samplers_give_plain_values_inside_the_limits(make):
    told = search(make(read_space(MIXED)[0]), mixed_score, 14)
    for point, _ in told:
        assert list(point) == list(MIXED)
        assert [type(v) for v in point.values()] == [float, float, int, int, str]
        assert inside(point)
    assert len({key(p) for p, _ in told}) == 14


def test_a_mixed_space_is_searched():
    told = search(optimizer(MIXED, 8), mixed_score, 40)
    best = min(told, key=lambda t: t[1])[0]
    assert (best["detector_flip"], best["n_probe_modes"]) == ("rows", 1)
    assert abs(best["scan_rotation"] + 126) < 6
    assert abs(math.log10(best["defocus"]) - 3) < 0.05


def test_what_does_not_matter_is_not_in_a_point():
    def score(point):
        away = ((point["defocus"] - 300) / 100) ** 2
        if point["n_slices"] == 1:
            return 1 + away
        return abs(point["n_slices"] - 2) / 4 + away + ((point["thickness"] - 90) / 60) ** 2

    told = search(optimizer(SLICES, 8), score, 36)
    for point, _ in told:
        several = {"thickness", "tilt_x"} if point["n_slices"] > 1 else set()
        assert set(point) == {"defocus", "n_slices", *several}
    assert {p["n_slices"] for p, _ in told} == {1, 2, 4}
    best = min(told, key=lambda t: t[1])[0]
    assert best["n_slices"] == 2
    assert abs(best["thickness"] - 90) < 15 and abs(best["defocus"] - 300) < 25


def test_the_first_points_cover_the_space():
    space = {"scan_rotation": (-180, 0), "defocus": (100, 1e5, "log")}
    told = search(optimizer(space, 16), lambda p: p["scan_rotation"], 16)
    rotation = np.array([p["scan_rotation"] for p, _ in told])
    decades = np.log10([p["defocus"] for p, _ in told])
    # a Sobol sequence has two points in each eighth
    assert np.all(np.histogram(rotation, 8, (-180, 0))[0] == 2)
    assert np.all(np.histogram(decades, 8, (2, 5))[0] == 2)


def test_starting_points_come_first():
    start = [{"defocus": 111.0, "n_slices": 1, "thickness": 30.0, "tilt_x": 0.0},
             {"defocus": 222.0, "n_slices": 4, "thickness": 50.0, "tilt_x": 1.0}]  # fmt: skip
    sampler = optimizer(SLICES, 4, start=start)
    first = sampler.ask([])
    assert first == {"defocus": 111.0, "n_slices": 1}
    assert sampler.ask([], [first]) == start[1]
    told = search(sampler, lambda p: p["defocus"], 5)
    assert [p for p, _ in told[:2]] == [first, start[1]]
    assert all(p not in start and p != first for p, _ in told[2:])


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_probe_modes": [1, 2, 4], "detector_flip": ["none", "rows"]},
        {"n_probe_modes": (1, 3), "aperture": ["disk", "measured"]},
        {"detector_flip": ["none", "rows", "transpose"]},
        {"defocus": [100, 200, 300, 400]},
        {"n_slices": [1, 2, 3], "thickness": [20, 30]},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_initial", [2, 8])
def test_a_small_space_is_exhausted_without_repeating(parameters, n_initial):
    sampler = optimizer(parameters, n_initial)
    number = int(size(read_space(parameters)[0]))
    numbers = iter(range(100))
    told = search(sampler, lambda p: float(next(numbers) % 3), number + 3)
    assert len(told) == len({key(p) for p, _ in told}) == number
    assert sampler.ask(told) is None
    # and the last one is not asked for while it is pending
    assert sampler.ask(told[:-1], [told[-1][0]]) is None


def test_the_next_point_depends_on_what_was_told_alone():
    told = search(optimizer(MIXED, 6), mixed_score, 24)
    for n in (0, 3, 6, 13, 23):
        assert optimizer(MIXED, 6).ask(told[:n]) == told[n][0]
    used = optimizer(MIXED, 6)
    used.ask(told[:20])  # what it keeps of this must not matter
    assert used.ask(told[:13]) == told[13][0]


def test_the_seed_decides():
    def points(seed):
        return [p for p, _ in search(optimizer(MIXED, 3, seed), mixed_score, 6)]

    assert points(0) == points(0)
    first, second = points(0), points(1)
    assert all(a != b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("n", [3, 16], ids=["at the start", "with a model"])
def test_pending_points_are_not_proposed_again(n):
    told = search(optimizer(MIXED, 8), mixed_score, n)
    sampler, pending = optimizer(MIXED, 8), []
    for _ in range(4):
        pending.append(sampler.ask(told, pending))
    assert len({key(p) for p in pending}) == 4
    places = np.array([[p["scan_rotation"] / 180, math.log10(p["defocus"]) / 3] for p in pending])
    nearest = min(np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i])
    assert nearest > 1e-3  # nor its neighbour


def test_a_pending_point_stands_for_what_is_expected_of_it():
    space = {"scan_rotation": (-180, 0)}

    def score(point):
        return ((point["scan_rotation"] + 100) / 40) ** 2

    told = search(optimizer(space, 4), score, 6)
    alone = optimizer(space, 4).ask(told)["scan_rotation"]
    beside = optimizer(space, 4).ask(told, [{"scan_rotation": alone}])["scan_rotation"]
    assert abs(alone - beside) > 0.5


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_failures_are_survived(bad):
    space = {"scan_rotation": (-180, 0), "n_probe_modes": [1, 2]}
    numbers = iter(range(100))

    def score(point):  # first only failures, then some, also once the model is used
        i = next(numbers)
        return bad if i < 2 or i % 3 == 0 else abs(point["scan_rotation"] + 60)

    told = search(optimizer(space, 4), score, 10)
    assert len({key(p) for p, _ in told}) == 10
    assert all(-180 <= p["scan_rotation"] <= 0 for p, _ in told)


def test_nothing_but_failures_is_survived():
    told = search(optimizer({"scan_rotation": (-180, 0)}, 3), lambda p: None, 8)
    assert len({p["scan_rotation"] for p, _ in told}) == 8


def test_the_same_score_everywhere_is_survived():
    told = search(optimizer(MIXED, 4), lambda p: 0.5, 12)
    assert len({key(p) for p, _ in told}) == 12


def test_failures_are_avoided():
    def score(point):
        x = point["scan_rotation"]
        return None if x < -90 else ((x + 30) / 90) ** 2

    told = search(optimizer({"scan_rotation": (-180, 0)}, 6), score, 14)
    points = np.array([p["scan_rotation"] for p, _ in told])
    assert np.mean(points[6:] < -90) < 0.4
    assert np.abs(points + 30).min() < 3


def test_repeated_points_are_survived():
    told = search(optimizer(MIXED, 4), mixed_score, 8)
    point, score = min(told, key=lambda t: t[1])
    told += [(point, score + 1e-4), (point, score - 1e-4)]
    assert key(optimizer(MIXED, 4).ask(told)) not in {key(p) for p, _ in told}


def test_beliefs_draw_trials_and_give_way():
    def nearby(prior, n, score):
        space = {"defocus": {"range": (0, 1000), "prior": prior}, "C12a": (-50, 50)}
        told = search(optimizer(space, 6, 2), score, n)
        return np.array([p["defocus"] for p, _ in told])

    def flat(point):
        return 1.0 + 1e-3 * math.sin(point["defocus"] * point["C12a"])

    believed, not_believed = (nearby((mean, 40), 10, flat) for mean in (700, 200))
    assert np.mean(np.abs(believed - 700) < 120) > 0.5
    assert np.mean(np.abs(not_believed - 700) < 120) < 0.3

    def valley_at_250(point):
        return ((point["defocus"] - 250) / 300) ** 2 + (point["C12a"] / 80) ** 2

    wrong = nearby((700, 80), 30, valley_at_250)
    assert np.abs(wrong - 250).min() < 20


def test_beliefs_on_what_does_not_matter_say_nothing():
    space = {**SLICES, "thickness": {"range": (20, 200), "prior": (50, 15)}}
    told = search(optimizer(space, 6), lambda p: (p["defocus"] - 200) ** 2, 16)
    several = np.array([p["n_slices"] > 1 for p, _ in told])
    assert 4 < several.sum() < 16
    thickness = np.array([p["thickness"] for p, _ in told if "thickness" in p])
    assert np.mean(np.abs(thickness - 50) < 45) > 0.6


def valley(point, center, width):
    """A Lorentzian valley on a gentle slope, as the error of a reconstruction has."""
    rotation, defocus = point["scan_rotation"], point["defocus"]
    square = ((rotation - center[0]) / (180 * width)) ** 2
    square += ((defocus - center[1]) / (200e3 * width)) ** 2
    return 0.02 - 0.003 / (1 + square) + 1e-4 * rotation / 180


@pytest.mark.parametrize(
    "width",
    [pytest.param(0.05, marks=pytest.mark.slow), pytest.param(0.08)],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_narrow_valley_is_found(seed, width):
    sampler = optimizer({"scan_rotation": (-180, 0), "defocus": (50e3, 250e3)}, 16, seed)
    center = (-120.4, 140e3)
    near = 0.3 * width
    told = search(sampler, lambda p: valley(p, center, width), 40)
    assert any(
        abs(p["scan_rotation"] - center[0]) < near * 180
        and abs(p["defocus"] - center[1]) < near * 200e3
        for p, _ in told
    )


EIGHT = {
    "scan_rotation": (0, 1), "defocus": (0, 1), "C12a": (0, 1), "C12b": (0, 1), "C21a": (0, 1),
    "C21b": (0, 1), "scan_shear": (0, 1), "C30": (0, 1),
}  # fmt: skip
MIDDLE = np.array([0.35, 0.6, 0.7, 0.3, 0.55, 0.45, 0.25, 0.65])


def in_eight_dimensions(point):
    """Squared distance from the middle of a valley whose first two axes are correlated."""
    away = (np.array(list(point.values())) - MIDDLE) / 0.15
    sum_, difference = away[0] + away[1], away[0] - away[1]
    return sum_**2 + 0.25 * difference**2 + away[2:] @ away[2:]


def saturating(point):
    return 0.56 - 0.003 / (1 + in_eight_dimensions(point))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_eight_dimensions_in_sixty_trials(seed):
    told = search(optimizer(EIGHT, 10, seed), saturating, 60)
    reached = min(in_eight_dimensions(p) for p, _ in told)
    dimensions = read_space(EIGHT)[0]
    at_random = search(RandomSampler(dimensions, random_state=seed), saturating, 300)
    of_random = min(in_eight_dimensions(p) for p, _ in at_random)
    assert reached < 0.5
    assert of_random > 5


def test_threads_of_the_linear_algebra_do_not_decide():
    """With two threads sums round differently, and another point may be proposed."""

    def score(point):
        x = (point["scan_rotation"] + 120.4) / 12.5
        y = (point["defocus"] / 1e3 - 134) / (26 if point["defocus"] > 134e3 else 40)
        slope = point["defocus"] * 0.9e-8
        return slope - 0.0022 / (1 + x * x) / (1 + y * y)

    space = {"scan_rotation": (-180, 0), "defocus": (50e3, 250e3)}
    searches = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            searches.append(search(optimizer(space, seed=3), score, 20))
    assert searches[0] == searches[1]


def test_the_trust_region_grows_with_success_and_shrinks_with_failure():
    start = np.array([1.0, 0.9, 0.8])
    better = np.concatenate([start, 0.8 - 0.1 * np.arange(1, 4)])
    worse = np.concatenate([start, np.ones(4)])
    side = trust_side(start, 3, 2)
    assert trust_side(better, 3, 2) == 2 * side
    assert trust_side(worse, 3, 2) == side / 2
    assert trust_side(worse, 3, 8) == side  # more dimensions need more patience
    assert trust_side(np.concatenate([start, np.ones(400)]), 3, 2) > 0.02


def test_log_of_the_expected_improvement():
    z = np.array([-5.0, -1.001, -0.999, 0.0, 3.0])
    expected = np.log(stats.norm.pdf(z) + z * stats.norm.cdf(z))
    assert log_expected_improvement(z) == pytest.approx(expected, rel=1e-6)
    far = log_expected_improvement(np.array([-30.0, -300.0, -3e4, -3e6]))
    assert np.all(np.isfinite(far)) and np.all(np.diff(far) < 0)
    # φ(z) / z² is its leading term
    assert far[0] == pytest.approx(
        -450 - special.log1p(2 * np.pi - 1) / 2 - 2 * np.log(30), rel=1e-4
    )


def test_candidates_lie_in_the_trust_region():
    dimensions = [
        Dimension("defocus", 0.0, 1.0),
        Dimension("C12a", 0.0, 1.0),
        Dimension("n_probe_modes", choices=(1, 2, 4)),
    ]
    optimizer = GaussianProcessOptimizer(dimensions, n_initial=4)
    center, low, high = np.array([0.3, 0.6, 0.5]), np.array([0.2, 0.5, 0]), np.array([0.45, 0.7, 1])
    found = optimizer._candidates(center, low, high, np.random.default_rng(0))
    assert (found >= low).all() and (found <= high).all()
    # it is filled to its limits, and names stay as they are in some and change in others
    assert found.min(axis=0) == pytest.approx(low, abs=0.02)
    assert found.max(axis=0) == pytest.approx(high, abs=0.02)
    same = (found[:, 2] == 0.5).mean()
    assert 0.3 < same < 0.9
    # every candidate of the second half differs from the centre in something
    assert (found[len(found) // 2 :] != center).any(axis=1).all()
