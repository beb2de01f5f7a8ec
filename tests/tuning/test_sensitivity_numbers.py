"""Shares and lines in numbers: estimators by hand, ends of flat stretches, steps."""

import numpy as np
import pytest

from hs_autoptycho.tuning.cautious import CautiousSurrogate
from hs_autoptycho.tuning.posterior import Coordinates, StatisticalError, sobol
from hs_autoptycho.tuning.sensitivity import _beyond_noise, _line, flat_directions, sobol_indices
from hs_autoptycho.tuning.space import Dimension

NAMES = ("C12a", "C12b")
RANGES = [Dimension(name, 0.0, 1.0) for name in NAMES]
MODES = Dimension("n_probe_modes", choices=(1, 2, 4))
SPACE = Coordinates([*RANGES, MODES])


class Known:
    noise = 0.3

    def __init__(self, mean, std=0.0):
        self.mean, self.std, self.asked = mean, std, []

    def predict(self, points):
        self.asked.append(points)
        return np.array([self.mean(p) for p in points]), np.full(len(points), self.std)


def bent(p):
    return 3 * p["C12a"] ** 2 + p["C12a"] * p["C12b"] + 0.4 * p["n_probe_modes"]


def test_estimators():
    """Of the first order by Saltelli's, of the total by Jansen's, from two mixed sets."""
    low, high, allowed = np.array([0.2, 0.1]), np.array([0.7, 0.9]), [[1, 2]]
    known = Known(bent)
    first, total = sobol_indices(known, SPACE, low, high, allowed, n_points=128, random_state=4)
    cube = sobol(128, 6, np.random.default_rng(4))

    def values(x):
        modes = np.array([2, 4])[(2 * x[:, 2]).astype(int)]
        u = low + (high - low) * x[:, :2]
        return np.array([bent({"C12a": a, "C12b": b, "n_probe_modes": m})
                         for (a, b), m in zip(u, modes, strict=True)])  # fmt: skip

    one, other = cube[:, :3], cube[:, 3:]
    a, b = values(one), values(other)
    mean, variance = np.r_[a, b].mean(), np.r_[a, b].var()
    for i, name in enumerate((*NAMES, "n_probe_modes")):
        mixed = one.copy()
        mixed[:, i] = other[:, i]
        mixed = values(mixed)
        expected = ((mixed - a) ** 2).mean() / 2 / variance
        assert total[name] == pytest.approx(expected)
        alone = ((b - mean) * (mixed - a)).mean() / variance
        assert first[name] == pytest.approx(np.clip(alone, 0, expected))
    assert len(known.asked[0]) == 5 * 128
    # 256 points by default, and the same seed
    sobol_indices(known, SPACE, low, high, allowed)
    assert len(known.asked[1]) == 5 * 256


def test_no_share_is_more_than_all():
    """Of so few points the estimate of the first is 1.24, that of the second 0.782157."""
    total = sobol_indices(
        Known(lambda p: (p["C12a"] - 0.5) * (p["C12b"] - 0.5)),
        SPACE, np.zeros(2), np.ones(2), [[0]], n_points=16,
    )[1]  # fmt: skip
    assert total == pytest.approx({"C12a": 1, "C12b": 0.782157, "n_probe_modes": 0}, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_shares_do_not_depend_on_the_unit(scale):
    expected = sobol_indices(Known(bent), SPACE, np.zeros(2), np.ones(2), [[0, 1, 2]])
    found = sobol_indices(
        Known(lambda p: scale * bent(p)), SPACE, np.zeros(2), np.ones(2), [[0, 1, 2]]
    )
    for a, b in zip(expected, found, strict=True):
        assert a == pytest.approx(b)


def test_what_varies_by_rounding_alone_does_not_vary():
    def shares(size, level=0.0):
        def mean(p):
            return level + size * (p["n_probe_modes"] == 2)

        return sobol_indices(Known(mean), SPACE, np.zeros(2), np.ones(2), [[0, 1]])[1]

    nothing = dict.fromkeys((*NAMES, "n_probe_modes"), 0.0)
    # a standard deviation of half of it, of 1e-12 at least
    assert shares(1.9e-12) == nothing
    assert shares(2.2e-12) == pytest.approx({**nothing, "n_probe_modes": 1}, abs=0.05)
    assert shares(0.0, 3.0) == nothing


def test_points_of_a_line():
    places, here = _line(np.array([0.25, 0.5]), np.array([1.0, 0.0]))
    assert places.shape == (61, 2) and here == 15
    assert places[:, 0] == pytest.approx(np.linspace(0, 1, 61))
    assert (places[:, 1] == 0.5).all()
    # to the first end of a range
    places, here = _line(np.array([0.2, 0.5]), np.array([0.6, -0.8]))
    assert places[0] == pytest.approx([0, 0.5 + 0.2 * 4 / 3])
    assert places[-1] == pytest.approx([0.2 + 0.375, 0])
    assert places[here].tolist() == [0.2, 0.5]
    # from an end
    places, here = _line(np.array([1.0, 0.5]), np.array([1.0, 0.0]))
    assert here == 60 and places[0].tolist() == [0, 0.5] and places[-1].tolist() == [1, 0.5]
    places, here = _line(np.array([0.0, 0.5]), np.array([1.0, 1e-12]))
    assert here == 0 and places[-1] == pytest.approx([1, 0.5])


def test_what_is_beyond_the_noise():
    def mean(p):
        return 10 * p["C12a"] + p["n_probe_modes"]

    u, k = np.array([0.5, 0.5]), np.array([1])
    places = np.array([[0.52, 0.1], [0.54, 0.1], [0.46, 0.1], [0.45, 0.1]])

    def beyond(std=0.0, error=None):
        return _beyond_noise(Known(mean, std), SPACE, u, k, places, error).tolist()

    # 0.2, 0.4, 0.4 and 0.5 beside a noise of 0.3
    assert beyond() == [False, True, True, True]
    assert beyond(std=0.3) == [False, False, False, True]
    # and of an error of 10 times the distance, 0.2 to 0.5
    slopes = np.array([[9.0], [0.0], [0.0], [0.0], [0.0]])
    assert beyond(error=StatisticalError(slopes)) == [False, False, False, False]
    assert beyond(error=StatisticalError(slopes / 3)) == [False, True, True, True]


@pytest.mark.parametrize(("half", "flat"), [(0.245, False), (0.26, True)])
def test_half_of_the_line_has_to_be_flat(half, flat):
    best = {"C12a": 0.5, "C12b": 0.5, "n_probe_modes": 2}

    def mean(p):
        return float(abs(p["C12a"] - 0.5) > half) + 99 * abs(p["C12b"] - 0.5)

    found = flat_directions(Known(mean), SPACE, best, np.diag([0.0, 9.0]))
    assert len(found) == flat
    if flat:
        # up to the last step that is flat
        ends = sorted([found[0].start[0], found[0].end[0]])
        assert ends == pytest.approx([0.25, 0.75])
        assert found[0].tied == (False, False)
    # with a smaller part the same is flat
    both = flat_directions(Known(mean), SPACE, best, np.diag([0.0, 9.0]), fewest=0.4)
    assert len(both) == 1


def test_uneven_ends_of_a_flat_stretch():
    best = {"C12a": 0.2, "C12b": 0.5, "n_probe_modes": 2}

    def mean(p):
        return float(p["C12a"] > 0.76 or p["C12a"] < 0.09) + 99 * abs(p["C12b"] - 0.5)

    (found,) = flat_directions(Known(mean), SPACE, best, np.diag([0.0, 9.0]))
    assert sorted([found.start[0], found.end[0]]) == pytest.approx([0.1, 0.75])

    def wall(p):  # no flat stretch beside the point, however flat it is farther off
        return float(0.15 < abs(p["C12a"] - 0.2) < 0.2) + 99 * abs(p["C12b"] - 0.5)

    assert flat_directions(Known(wall), SPACE, best, np.diag([0.0, 9.0])) == []


def test_columns_of_the_cautious_model():
    space = Coordinates([*RANGES, MODES, Dimension("detector_flip", choices=("none", "rows"))])
    told = [
        ({"C12a": 0.2 * i, "C12b": 0.1, "n_probe_modes": 2, "detector_flip": "none"}, float(i))
        for i in range(4)
    ]
    surrogate = CautiousSurrogate(space, told)
    points = [
        {"C12a": 0.3, "C12b": 0.4, "n_probe_modes": 4, "detector_flip": "rows"},
        {"C12a": 0.3, "C12b": 0.4, "n_probe_modes": 1, "detector_flip": "none"},
    ]
    half = np.sqrt(0.5)
    expected = [[0.3, 0.4, 5 / 6, 0, half], [0.3, 0.4, 1 / 6, half, 0]]
    assert surrogate._columns(points) == pytest.approx(np.array(expected))
    # far from all trials it expects the worst
    far = {"C12a": 1.0, "C12b": 1.0, "n_probe_modes": 1, "detector_flip": "rows"}
    assert surrogate.predict([far])[0][0] > 2
