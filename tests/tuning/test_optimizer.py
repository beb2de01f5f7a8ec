"""Ask and tell: plain values, inside of the limits, no point twice, and the minimum found."""

import math

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hs_autoptycho.tuning.optimizer import GaussianProcessOptimizer
from hs_autoptycho.tuning.space import read_space, size

MIXED = {
    "scan_rotation": (-180, 0),
    "defocus": (100, 1e5, "log"),
    "n_probe_modes": [1, 2, 4],
    "batch_size": (8, 64),
    "detector_flip": ["none", "transpose", "rows"],
}


def optimizer(parameters, n_initial=10, seed=0):
    return GaussianProcessOptimizer(
        read_space(parameters)[0], n_initial=n_initial, random_state=seed
    )


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


def test_mixed_dimensions_give_plain_values_inside_the_limits():
    search = optimizer(MIXED)
    seen = set()
    for _ in range(12):
        point = search.ask()
        assert list(point) == list(MIXED)
        assert [type(v) for v in point.values()] == [float, float, int, int, str]
        assert inside(point)
        seen.add(tuple(point.values()))
        search.tell(point, mixed_score(point))
    assert len(seen) == 12


def test_the_first_points_cover_the_space():
    search = optimizer({"scan_rotation": (-180, 0), "defocus": (100, 1e5, "log")}, 12)
    points = []
    for _ in range(12):
        points.append(search.ask())
        search.tell(points[-1], 1.0 + 0.1 * len(points))
    rotation = np.array([p["scan_rotation"] for p in points])
    decades = np.log10([p["defocus"] for p in points])
    # a Latin hypercube has one point in each twelfth; be content with each third
    assert np.all(np.histogram(rotation, 3, (-180, 0))[0] >= 2)
    assert np.all(np.histogram(decades, 3, (2, 5))[0] >= 2)


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_probe_modes": [1, 2, 4], "detector_flip": ["none", "rows"]},
        {"n_probe_modes": (1, 3), "aperture": ["disk", "measured"]},
        {"detector_flip": ["none", "rows", "transpose"]},
        {"defocus": [100, 200, 300, 400]},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_initial", [2, 8])
def test_a_small_space_is_exhausted_without_repeating(parameters, n_initial):
    search = optimizer(parameters, n_initial)
    seen = set()
    number = int(size(read_space(parameters)[0]))
    for i in range(number):
        point = search.ask()
        assert point is not None
        seen.add(tuple(point.values()))
        search.tell(point, float(i % 3))
    assert len(seen) == number
    assert search.ask() is None


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_failures_are_survived(bad):
    search = optimizer({"scan_rotation": (-180, 0), "n_probe_modes": [1, 2]}, 4)
    seen = set()
    for i in range(8):  # first only failures, then some, also once the model is used
        point = search.ask()
        assert -180 <= point["scan_rotation"] <= 0
        seen.add(tuple(point.values()))
        search.tell(point, bad if i < 2 or i % 3 == 0 else abs(point["scan_rotation"] + 60))
    assert len(seen) == 8


def test_nothing_but_failures_is_survived():
    search = optimizer({"scan_rotation": (-180, 0)}, 3)
    seen = set()
    for _ in range(8):
        point = search.ask()
        seen.add(point["scan_rotation"])
        search.tell(point, None)
    assert len(seen) == 8


def test_failures_are_avoided():
    search = optimizer({"scan_rotation": (-180, 0)}, 6)
    points = []
    for _ in range(14):
        point = search.ask()
        x = point["scan_rotation"]
        points.append(x)
        search.tell(point, None if x < -90 else ((x + 30) / 90) ** 2)
    assert np.mean(np.array(points[6:]) < -90) < 0.4
    assert min(abs(x + 30) for x in points) < 3


def test_the_seed_decides():
    def points(seed):
        search = optimizer({"scan_rotation": (-180, 0), "n_probe_modes": [1, 2, 4]}, 3, seed)
        result = []
        for _ in range(5):
            result.append(search.ask())
            search.tell(result[-1], abs(result[-1]["scan_rotation"] + 60))
        return result

    assert points(0) == points(0)
    assert points(0) != points(1)


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
    search = optimizer({"scan_rotation": (-180, 0), "defocus": (50e3, 250e3)}, 16, seed)
    center = (-120.4, 140e3)
    near = 0.3 * width
    for _ in range(40):
        point = search.ask()
        if (
            abs(point["scan_rotation"] - center[0]) < near * 180
            and abs(point["defocus"] - center[1]) < near * 200e3
        ):
            return
        search.tell(point, valley(point, center, width))
    pytest.fail("not found in 40 trials")


def test_threads_of_the_linear_algebra_do_not_decide():
    """With two threads sums round differently, and some proposals of this search used to differ."""

    def score(point):
        x = (point["scan_rotation"] + 120.4) / 12.5
        y = (point["defocus"] / 1e3 - 134) / (26 if point["defocus"] > 134e3 else 40)
        slope = point["defocus"] * 0.9e-8
        return slope - 0.0022 / (1 + x * x) / (1 + y * y)

    searches = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            space = {"scan_rotation": (-180, 0), "defocus": (50e3, 250e3)}
            search, points = optimizer(space, seed=3), []
            for _ in range(20):
                points.append(search.ask())
                search.tell(points[-1], score(points[-1]))
            searches.append(points)
    assert searches[0] == searches[1]
