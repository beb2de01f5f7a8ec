"""Where the optimum may lie, in numbers: sizes of clouds, limits, weights, and recorded draws."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.tuning.posterior import (
    Coordinates,
    StatisticalError,
    _better_half,
    _combinations,
    _limited,
    _lowest,
    _Parabola,
    _spread,
    draw_optima,
    normal_cloud,
    sobol,
)
from hs_autoptycho.tuning.space import SLICES, Dimension

RANGES = [Dimension("C12a", 0.0, 1.0), Dimension("C12b", 0.0, 1.0)]


def test_places_in_a_range_and_at_its_ends():
    coordinates = Coordinates([Dimension("defocus", 100.0, 300.0), Dimension("tilt_x", -4.0, 4.0)])
    points = [{"defocus": 90.0}, {"defocus": 310.0}, {"defocus": 240.0, "tilt_x": -2.0}, {}]
    u, k = coordinates.split(points)
    assert u == pytest.approx(np.array([[0, 0.5], [1, 0.5], [0.7, 0.25], [0.5, 0.5]]))
    assert k.shape == (4, 0)


def test_what_has_no_effect_is_left_out_of_the_points():
    dimensions = [
        Dimension("n_slices", choices=(1, 2, 4)),
        Dimension("thickness", 20.0, 200.0, condition=SLICES),
    ]
    points = Coordinates(dimensions).join(np.array([[0.5], [0.5]]), np.array([[0], [2]]))
    assert points == [{"n_slices": 1}, {"n_slices": 4, "thickness": 110.0}]


def test_features_of_several_choices():
    modes, slices = Dimension("n_probe_modes", 2, 4), Dimension("n_slices", choices=(1, 2))
    coordinates = Coordinates([*RANGES, modes, slices])
    u, k = np.array([[0.2, 0.4], [0.7, 0.1]]), np.array([[1, 0], [2, 1]])
    found = coordinates.features(u, k, np.array([0.5, 0.3]), np.array([2, 0]))
    expected = [[-0.3, 0.1, 0, 1, 0, 0, 0], [0.2, -0.2, 0, 0, 0, 0, 1]]
    assert found == pytest.approx(np.array(expected))


def test_evenly_spread_points():
    random = np.random.default_rng(8)
    for size in (1, 2, 4, 5, 9, 16):
        assert sobol(size, 3, random).shape == (size, 3)
    found = sobol(4, 2, np.random.default_rng(9))
    offset = np.random.default_rng(9).random(2)
    expected = (np.array([[0, 0], [0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]) + offset) % 1
    assert found == pytest.approx(expected)
    assert np.ptp(found, axis=0) == pytest.approx([0.75, 0.75])


def test_the_tails_of_the_cloud_are_cut_off_at_both_sides():
    cloud = normal_cloud(512, 2, np.random.default_rng(1))
    assert cloud.min(axis=0) == pytest.approx([-2.5, -2.5])
    assert cloud.max(axis=0) == pytest.approx([2.5, 2.5])
    # 0.62 % of a normal distribution lie beyond either
    assert (np.abs(cloud) == 2.5).mean(axis=0) == pytest.approx(0.0124, abs=0.002)
    assert normal_cloud(3, 0, np.random.default_rng(1)).shape == (3, 0)


def test_covariance_of_the_better_half():
    random = np.random.default_rng(10)
    u = random.random((24, 2))
    scores = random.permutation(24)
    better = np.cov(u[scores < 12].T)
    # of twelve in two dimensions a third of the ties are taken back
    expected = 2 / 3 * better + 1 / 3 * np.diag(np.diag(better)) + 0.01 * np.eye(2)
    assert _better_half(u, scores) == pytest.approx(expected)
    # of few trials four, and no ties
    few = np.diag(np.var(u[:6][scores[:6] <= np.sort(scores[:6])[3]], axis=0, ddof=1))
    assert _better_half(u[:6], scores[:6]) == pytest.approx(few + 0.01 * np.eye(2))
    assert _better_half(u[:2], scores[:2]) == pytest.approx(
        np.diag((u[0] - u[1]) ** 2 / 2) + 0.01 * np.eye(2)
    )
    assert _better_half(u[:1], scores[:1]) == pytest.approx(0.01 * np.eye(2))


def test_limits_of_a_covariance():
    widest = np.array([[0.04, 0.01], [0.01, 0.09]])
    assert _limited(7 * widest, widest) == pytest.approx(widest)
    assert _limited(0.9 * widest, widest) == pytest.approx(0.9 * widest)
    # it does not collapse
    nothing = _limited(np.zeros((2, 2)), widest)
    assert nothing == pytest.approx(1e-10 * (widest + np.eye(2)), rel=1e-3, abs=1e-16)


def test_far_off_optima_are_drawn_in():
    # 68 % of them are within 0.0068 and 0.00068
    away = np.linspace(0, 0.01, 101)[:, np.newaxis] * [1, -0.1, 1e-5]
    low, high = _spread(away)
    assert high == pytest.approx([0.0204, 0.00204, 3e-4])
    assert low == pytest.approx(-high)


def cloud_of(size, n, seed=11):
    return np.random.default_rng(seed).uniform(-0.3, 0.5, (size, n)) + 0.4


def test_what_bends_downwards_is_taken_to_bend_a_little_upwards():
    cloud, center = cloud_of(60, 2), np.array([0.4, 0.5])
    root = np.diag([0.1, 0.2])
    z = (cloud - center) / [0.1, 0.2]
    values = 0.003 * (2 * z[:, 0] ** 2 - z[:, 1] ** 2) + 0.01 * z[:, 0]
    constant, slope, curvature = _Parabola(cloud, center, root).fit(values[np.newaxis])
    assert constant == pytest.approx([0], abs=1e-12)
    assert slope == pytest.approx(np.array([[0.1, 0]]), abs=1e-10)
    # in units of the root 0.012 and -0.006, of which 0.02 of the larger is left
    assert curvature[0] == pytest.approx(np.diag([0.012 / 0.01, 0.02 * 0.012 / 0.04]), abs=1e-9)
    # twice as much below as above: the larger of them is that below
    _, _, curvature = _Parabola(cloud, center, root).fit(-values[np.newaxis])
    assert curvature[0] == pytest.approx(np.diag([0.02 * 0.012 / 0.01, 0.006 / 0.04]), abs=1e-9)


def test_no_curvature_at_all():
    cloud, center = cloud_of(40, 2), np.array([0.4, 0.5])
    parabola = _Parabola(cloud, center, 0.1 * np.eye(2))
    lowest, places = parabola.minima(np.zeros((3, 40)))
    assert lowest == pytest.approx([0, 0, 0])
    assert places == pytest.approx(np.array([cloud[0]] * 3))
    # and with a slope: its lowest corner
    slopes = np.array([[1.0, -2.0], [-1.0, 2.0], [0.5, 0.5]])
    parabola.fit = lambda values: (np.array([7.0, 8.0, 9.0]), slopes, np.zeros((3, 2, 2)))
    lowest, places = parabola.minima(np.zeros((3, 40)))
    (x0, y0), (x1, y1) = cloud.min(axis=0), cloud.max(axis=0)
    expected = np.array([[x0, y1], [x1, y0], [x0, y0]])
    assert places == pytest.approx(expected)
    heights = [7, 8, 9] + ((expected - center) * slopes).sum(axis=1)
    assert lowest == pytest.approx(heights)


def test_bottom_of_a_narrow_oblique_valley():
    """Where going along one coordinate after the other would take hundreds of rounds."""
    cloud = cloud_of(80, 2)
    curvature = 0.01 * np.array([[1.0, 0.96], [0.96, 1.0]])
    at = np.array([0.45, 0.35])
    values = 0.5 * np.einsum("pi,ij,pj->p", cloud - at, curvature, cloud - at) + 2.0
    parabola = _Parabola(cloud, np.array([0.3, 0.6]), 0.2 * np.eye(2))
    lowest, places = parabola.minima(np.stack([values, values + 1]))
    assert places == pytest.approx(np.stack([at, at]), abs=1e-9)
    assert lowest == pytest.approx([2, 3], abs=1e-12)


def test_lowest_of_several_combinations():
    cloud = cloud_of(30, 1)
    combinations = np.array([[0, 1], [2, 0]])
    at = np.array([[0.3, 0.6], [0.35, 0.5], [0.2, 0.45]])
    value = np.array([[1.0, 2.0], [2.0, 1.5], [3.0, 3.1]])
    draws = value[:, :, np.newaxis] + (cloud[:, 0] - at[:, :, np.newaxis]) ** 2
    draws = draws.reshape(3, 60)
    u, k = _lowest(draws, cloud, np.array([0.4]), 0.1 * np.eye(1), combinations)
    assert u[:, 0] == pytest.approx([0.3, 0.5, 0.2])
    assert k.tolist() == [[0, 1], [2, 0], [0, 1]]
    # nothing but choices
    draws = np.array([[5, 4, 6, 7], [3, 2, 1, 9.0]])
    u, k = _lowest(draws, np.zeros((2, 0)), np.zeros(0), np.zeros((0, 0)), combinations)
    assert u.shape == (2, 0)
    assert k.tolist() == [[0, 1], [2, 0]]


class Promise:
    """A surrogate that expects a number of each combination, with an error."""

    def __init__(self, expected):
        self.expected, self.points = expected, []

    def predict(self, points):
        self.points = points
        mean, std = np.array([self.expected(p["n_probe_modes"], p["batch_size"]) for p in points]).T
        return mean, std


def combinations(counts, expected):
    names = ("n_probe_modes", "batch_size")
    choices = [
        Dimension(name, choices=tuple(range(n))) for name, n in zip(names, counts, strict=True)
    ]
    surrogate = Promise(expected)
    coordinates = Coordinates([*RANGES, *choices])
    found = _combinations(surrogate, coordinates, np.array([0.2, 0.7]), np.array([3, 2]))
    assert {(p["C12a"], p["C12b"]) for p in surrogate.points} == {(0.2, 0.7)}
    return found.tolist(), len(surrogate.points)


def test_combinations_that_promise_most():
    def expected(i, j):
        return abs(i - 6) + abs(j - 5) + 10.0, (1.6 if (i, j) == (1, 5) else 0.1)

    # the best point's own first; two standard deviations are 3.2, as good as a distance of 1.9
    found, looked_at = combinations((8, 8), expected)
    assert looked_at == 64
    assert found[:2] == [[3, 2], [6, 5]]
    assert sorted(found[2:]) == [[5, 5], [6, 4], [6, 6]]
    # of more than 64 only those that change one choice
    found, looked_at = combinations((13, 5), expected)
    assert looked_at == 13 + 5 - 1
    assert found[:2] == [[3, 2], [6, 2]]
    assert sorted(found[2:]) == [[3, 4], [5, 2], [7, 2]]


class Curved:
    """Draws that are no parabolas, so that it counts where they are looked at."""

    def __init__(self, at, width, choice=None):
        self.at, self.width, self.choice, self.asked = np.array(at), width, choice, []

    def _heights(self, points, at):
        u = np.array([[p["C12a"], p["C12b"]] for p in points])
        away = u - at[:, np.newaxis]
        along = away @ [1.0, 0.6]
        bowl = 3 * along**2 + 0.4 * (away @ [0.5, -1.0]) ** 2 + along**3
        other = [0.02 * abs(p[self.choice] - 2) if self.choice else 0 for p in points]
        return np.log1p(4 * bowl) + other

    def predict(self, points):
        return self._heights(points, self.at[np.newaxis])[0], np.full(len(points), 0.02)

    def draw(self, points, n_draws, random_state=0):
        self.asked.append((len(points), n_draws))
        random = np.random.default_rng(random_state)
        at = self.at + random.normal(size=(n_draws, 2)) * self.width
        return self._heights(points, at) + 0.03 * random.random((n_draws, 1))


BEST = {"C12a": 0.45, "C12b": 0.6}
TOLD = [
    ({"C12a": x, "C12b": y}, (x - 0.4) ** 2 + (y - 0.7) ** 2)
    for x in np.linspace(0.1, 0.8, 5)
    for y in np.linspace(0.2, 0.9, 7)
]


def approx(rows):
    return pytest.approx(np.array(rows), rel=1e-4)


def summary(found):
    """Mean, spread and some single ones of the optima."""
    rows = [found.u.mean(axis=0), found.u.std(axis=0), *found.u[[0, 7, -1]], *found.curvature]
    return np.array(rows)


def test_seven_rounds_of_draws():
    surrogate = Curved((0.4, 0.7), (0.06, 0.1))
    found = draw_optima(surrogate, Coordinates(RANGES), BEST, TOLD)
    # a parabola of two numbers has six terms
    assert surrogate.asked == [(76, 96)] * 6 + [(76, 400)]
    assert found.u.shape == (400, 2)
    assert summary(found) == approx(RECORDED["seven rounds"])


def test_draws_with_the_error_of_the_counts():
    error = StatisticalError(np.array([[0.05, 0.02], [-0.03, 0.04]]))
    found = draw_optima(
        Curved((0.4, 0.7), (0.06, 0.1)), Coordinates(RANGES), BEST, TOLD, error=error, n_draws=50
    )
    assert summary(found) == approx(RECORDED["with an error"])


def test_an_optimum_at_the_edge_of_the_range():
    surrogate = Curved((-0.05, 1.02), (0.03, 0.02))
    best = {"C12a": 0.1, "C12b": 0.8}
    found = draw_optima(surrogate, Coordinates(RANGES), best, TOLD, n_draws=30, random_state=3)
    assert found.u.min() >= 0 and found.u.max() <= 1
    assert summary(found) == approx(RECORDED["at an edge"])


def test_the_cloud_is_smaller_with_many_combinations():
    modes = Dimension("n_probe_modes", 1, 9)
    surrogate = Curved((0.4, 0.7), (0.06, 0.1), "n_probe_modes")
    told = [({**p, "n_probe_modes": 2}, score) for p, score in TOLD]
    best = {**BEST, "n_probe_modes": 2}
    found = draw_optima(surrogate, Coordinates([*RANGES, modes]), best, told, n_draws=30)
    # five of nine, with 76 points each
    assert surrogate.asked == [(380, 96)] * 6 + [(380, 30)]
    assert np.bincount(found.k[:, 0]).tolist() == [0, 30]


class Asked(Exception):
    """Enough is known."""


def of_many(n, choices):
    """How many points are looked at with `n` numbers and a choice of so many values."""

    class Counting:
        def predict(self, points):
            return np.zeros(len(points)), np.ones(len(points))

        def draw(self, points, n_draws, random_state):
            raise Asked(len(points))

    names = [name for name, p in PARAMETERS.items() if p.kind == "number" and p.tunable][:n]
    dimensions = [Dimension(name, 0.0, 1.0) for name in names]
    dimensions.append(Dimension("n_probe_modes", choices=tuple(range(choices))))
    best = {**dict.fromkeys(names, 0.5), "n_probe_modes": 0}
    with pytest.raises(Asked) as asked:
        draw_optima(Counting(), Coordinates(dimensions), best, [(best, 1.0)] * 6)
    return asked.value.args[0]


def test_number_of_points():
    # 10 and 45 terms of a parabola of 3 and 8 numbers
    assert of_many(3, 2) == 2 * (6 * 10 + 40)
    assert of_many(8, 2) == 2 * (6 * 45 + 40)
    # 640 points of all combinations
    assert of_many(8, 3) == 3 * (640 // 3)
    assert of_many(8, 14) == 5 * (640 // 5)
    assert of_many(13, 1) == 640
    # but eight more than the terms at least
    assert of_many(15, 5) == 5 * (136 + 8)


def test_nothing_but_choices():
    class Chosen:
        asked = 0

        def predict(self, points):
            return np.array([p["n_probe_modes"] for p in points]), np.ones(len(points))

        def draw(self, points, n_draws, random_state=0):
            self.asked += 1
            return np.tile([(p["n_probe_modes"] - 2) ** 2 for p in points], (n_draws, 1))

    surrogate, best = Chosen(), {"n_probe_modes": 3}
    coordinates = Coordinates([Dimension("n_probe_modes", choices=(1, 2, 3))])
    found = draw_optima(surrogate, coordinates, best, [(best, 1.0)] * 3, n_draws=5)
    assert surrogate.asked == 1
    assert found.k.tolist() == [[1]] * 5
    assert found.u.shape == (5, 0) and found.curvature.shape == (0, 0)


# what these functions gave
RECORDED = {
    "seven rounds": [
        [0.397483, 0.709162], [0.0684726, 0.135023], [0.527778, 1.0], [0.348262, 0.786268],
        [0.53564, 0.608478], [14.9112, 6.98684], [6.98684, 6.90254],
    ],
    "with an error": [
        [0.38911, 0.709909], [0.0719179, 0.124083], [0.26594, 0.646467], [0.356901, 0.7074],
        [0.383626, 0.628811], [15.8462, 7.30575], [7.30575, 7.16528],
    ],
    "at an edge": [
        [0.000212358, 0.963162], [0.00052328, 0.0308201], [0.0, 0.964973], [0.0, 0.987504],
        [0.0, 0.961574], [442.145, 10.8041], [10.8041, 10.7151],
    ],
}  # fmt: skip
