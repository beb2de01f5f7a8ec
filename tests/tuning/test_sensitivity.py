"""Shares of known functions, and valleys that are flat in known directions."""

import numpy as np
import pytest

from hs_autoptycho.tuning.posterior import Coordinates
from hs_autoptycho.tuning.sensitivity import flat_directions, sobol_indices
from hs_autoptycho.tuning.space import Dimension

NAMES = ["C12a", "C12b", "tilt_x"]
RANGES = [Dimension(name, 0.0, 1.0) for name in NAMES]
MODES = Dimension("n_probe_modes", choices=(1, 2, 4))


class Known:
    """A stand-in for a surrogate whose mean is a function of the point."""

    def __init__(self, mean, std=0.0, noise=0.1):
        self.mean, self.std, self.noise = mean, std, noise

    def predict(self, points):
        return np.array([self.mean(p) for p in points]), np.full(len(points), self.std)


def shares(mean, dimensions=RANGES, low=None, high=None, choices=(), n_points=1024):
    coordinates = Coordinates(dimensions)
    n = len(coordinates.numbers)
    low, high = np.zeros(n) if low is None else low, np.ones(n) if high is None else high
    return sobol_indices(Known(mean), coordinates, low, high, choices, n_points=n_points)


def test_shares_of_a_sum_are_those_of_the_variances():
    first, total = shares(lambda p: 7 + 3 * p["C12a"] - p["C12b"])
    assert list(first) == NAMES
    assert total == pytest.approx({"C12a": 0.9, "C12b": 0.1, "tilt_x": 0.0}, abs=0.02)
    assert first == pytest.approx(total, abs=0.05)


def test_a_part_of_the_ranges():
    # over a third of the range a slope has a ninth of the variance
    _, total = shares(lambda p: p["C12a"] + p["C12b"], low=[0.3, 0, 0], high=[0.3 + 1 / 3, 1, 1])
    assert total == pytest.approx({"C12a": 0.1, "C12b": 0.9, "tilt_x": 0.0}, abs=0.02)


def test_what_two_do_together_is_in_the_total_alone():
    first, total = shares(lambda p: (p["C12a"] - 0.5) * (p["C12b"] - 0.5))
    for name in ("C12a", "C12b"):
        assert first[name] == pytest.approx(0, abs=0.08)
        assert total[name] == pytest.approx(1, abs=0.08)
    assert total["tilt_x"] == 0


def test_choices_that_are_allowed():
    def mean(point):
        return {1: 5.0, 2: 0.0, 4: 1.0}[point["n_probe_modes"]] + point["C12a"]

    # two values 1 apart have the variance 1/4, a range of 1 has 1/12
    _, total = shares(mean, [*RANGES, MODES], choices=[[1, 2]])
    assert total["n_probe_modes"] == pytest.approx(0.75, abs=0.03)
    assert total["C12a"] == pytest.approx(0.25, abs=0.03)
    _, total = shares(mean, [*RANGES, MODES], choices=[[2]])
    assert total["n_probe_modes"] == 0 and total["C12a"] == pytest.approx(1, abs=0.03)


def test_nothing_varies():
    first, total = shares(lambda p: 3.0)
    assert set(first.values()) == set(total.values()) == {0.0}


BEST = {"C12a": 0.5, "C12b": 0.4, "tilt_x": 0.6}


def flat(mean, curvature, best=BEST, **options):
    known = Known(mean, **options)
    return flat_directions(known, Coordinates(RANGES), best, np.array(curvature, dtype=float))


def test_a_steep_valley_has_no_flat_direction():
    def mean(p):
        return 100 * sum((p[name] - BEST[name]) ** 2 for name in NAMES)

    assert flat(mean, 200 * np.eye(3)) == []
    # nor one that is flat over less than half of the line
    assert flat(lambda p: mean(p) / 60, 200 * np.eye(3) / 60) == []
    # within a wide noise, or where nothing was measured, it is
    assert len(flat(mean, 200 * np.eye(3), noise=100.0)) == 3
    assert len(flat(mean, 200 * np.eye(3), std=100.0)) == 3


def test_a_number_without_effect():
    def mean(p):
        return 100 * ((p["C12a"] - 0.5) ** 2 + (p["C12b"] - 0.4) ** 2)

    (found,) = flat(mean, np.diag([200, 150, 0]))
    assert np.abs(found.direction) == pytest.approx([0, 0, 1])
    assert sorted([found.start[2], found.end[2]]) == [0, 1]
    assert found.start[:2] == pytest.approx([0.5, 0.4])
    # alone it goes as far: it is not tied to another
    assert found.tied == (False, False, False)


def test_two_numbers_that_make_up_for_each_other():
    def mean(p):
        return 100 * ((p["C12a"] + p["C12b"] - 0.9) ** 2 + (p["tilt_x"] - 0.6) ** 2)

    (found,) = flat(mean, [[200, 200, 0], [200, 200, 0], [0, 0, 200]])
    assert np.abs(found.direction) == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert found.direction[0] * found.direction[1] < 0
    ends = sorted([found.start.tolist(), found.end.tolist()])
    # to the ends of the range of the one or the other
    assert ends[0] == pytest.approx([0.0, 0.9, 0.6]) and ends[1] == pytest.approx([0.9, 0.0, 0.6])
    assert found.tied == (True, True, False)


def test_numbers_that_the_best_point_has_not():
    best = {"C12a": 0.5, "C12b": 0.4}
    found = flat(lambda p: 0.0, np.zeros((3, 3)), best)
    assert len(found) == 2
    assert all(one.direction[2] == 0 for one in found)
    assert flat(lambda p: 0.0, np.zeros((3, 3)), {}) == []
