"""Where the optimum may lie: coordinates, parabolas, errors, and draws of known lowest places."""

import numpy as np
import pytest
from scipy import optimize

from hs_autoptycho.tuning.posterior import (
    Coordinates,
    StatisticalError,
    _limited,
    _Parabola,
    draw_optima,
    normal_cloud,
)
from hs_autoptycho.tuning.space import Dimension

DIMENSIONS = [
    Dimension("defocus", 100.0, 300.0),
    Dimension("n_probe_modes", 1, 4),
    Dimension("step_object", 0.01, 1.0, log=True),
    Dimension("object_type", choices=("complex", "phase")),
    Dimension("batch_size", 8, 64),
]


def test_points_as_arrays_and_back():
    coordinates = Coordinates(DIMENSIONS)
    assert [d.name for d in coordinates.numbers] == ["defocus", "step_object", "batch_size"]
    # a short range of whole numbers is a choice, a long one is a range
    assert coordinates.choices == {
        "n_probe_modes": (1, 2, 3, 4),
        "object_type": ("complex", "phase"),
    }
    point = {
        "defocus": 150.0, "n_probe_modes": 3, "step_object": 0.1, "object_type": "phase",
        "batch_size": 22,
    }  # fmt: skip
    u, k = coordinates.split([point, {"defocus": 900.0, "n_probe_modes": 9}])
    assert u.shape == (2, 3) and k.shape == (2, 2)
    assert u[0, :2] == pytest.approx([0.25, 0.5])
    assert k.tolist() == [[2, 1], [0, 0]]
    # outside of the range its end; what is missing is in the middle
    assert u[1].tolist() == [1.0, 0.5, 0.5]
    (back,) = coordinates.join(u[:1], k[:1])
    assert back == pytest.approx({**point, "object_type": back["object_type"]})
    assert back["object_type"] == "phase" and list(back) == [d.name for d in DIMENSIONS]
    assert len(Coordinates([Dimension("probe_start", 0, 11)]).choices["probe_start"]) == 12
    assert not Coordinates([Dimension("probe_start", 0, 12)]).choices


def test_features_are_differences_to_the_best():
    coordinates = Coordinates(DIMENSIONS[:2])
    u, k = np.array([[0.2], [0.7]]), np.array([[0], [3]])
    found = coordinates.features(u, k, np.array([0.5]), np.array([3]))
    assert found == pytest.approx(np.array([[-0.3, 1, 0, 0, 0], [0.2, 0, 0, 0, 0]]))


def quadratic(places, at, curvature, value=0.7):
    away = places - at
    return value + 0.5 * np.einsum("pi,ij,pj->p", away, curvature, away)


@pytest.fixture
def parabola():
    cloud = np.random.default_rng(0).uniform((0.1, 0.3, 0.0), (0.5, 0.6, 0.9), (60, 3))
    return cloud, _Parabola(cloud, np.array([0.2, 0.5, 0.4]), np.diag([0.1, 0.08, 0.3]))


CURVATURE = np.array([[2.0, 0.5, -0.4], [0.5, 1.5, 0.3], [-0.4, 0.3, 1.0]])


def test_lowest_place_inside(parabola):
    cloud, fitted = parabola
    at = np.array([[0.3, 0.45, 0.5], [0.2, 0.4, 0.2]])
    values = np.stack([quadratic(cloud, place, CURVATURE) for place in at])
    lowest, places = fitted.minima(values)
    assert lowest == pytest.approx([0.7, 0.7])
    assert places == pytest.approx(at, abs=1e-9)
    constant, slope, curvature = fitted.fit(values)
    assert curvature == pytest.approx(np.stack([CURVATURE] * 2))
    center = np.array([0.2, 0.5, 0.4])
    assert constant == pytest.approx([quadratic(center[None], a, CURVATURE)[0] for a in at])
    assert slope == pytest.approx((center - at) @ CURVATURE)


@pytest.mark.parametrize("at", [(1.0, 0.45, 0.5), (-0.5, 1.2, 0.3), (2.0, -1.0, 3.0)])
def test_lowest_place_beyond_the_cloud_is_on_its_edge(parabola, at):
    cloud, fitted = parabola
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    expected = optimize.minimize(
        lambda x: quadratic(x[None], np.array(at), CURVATURE)[0],
        cloud.mean(axis=0),
        bounds=list(zip(low, high, strict=True)),
    )
    lowest, places = fitted.minima(quadratic(cloud, np.array(at), CURVATURE)[None])
    assert places[0] == pytest.approx(expected.x, abs=1e-4)
    assert lowest[0] == pytest.approx(expected.fun, abs=1e-6)


def test_a_slope_ends_in_a_corner(parabola):
    cloud, fitted = parabola
    values = np.stack([cloud @ (1, -2, 3), cloud @ (-1, 2, -3)])
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    _, places = fitted.minima(values)
    assert places[0] == pytest.approx([low[0], high[1], low[2]], abs=1e-6)
    assert places[1] == pytest.approx([high[0], low[1], high[2]], abs=1e-6)


def test_a_covariance_is_no_wider_than_another():
    random = np.random.default_rng(3)
    widest = np.diag([0.04, 0.09, 0.01])
    narrow = 0.1 * widest
    assert _limited(narrow, widest) == pytest.approx(narrow, rel=1e-6)
    root = random.normal(size=(3, 3))
    limited = _limited(root @ root.T, widest)
    assert limited == pytest.approx(limited.T)
    assert np.linalg.eigvalsh(widest - limited).min() > -1e-8
    # it is as wide somewhere
    assert np.linalg.eigvalsh(widest - limited).min() < 1e-8


def test_normal_cloud():
    cloud = normal_cloud(200, 2, np.random.default_rng(1))
    assert cloud.shape == (200, 2)
    assert np.abs(cloud).max() == pytest.approx(2.5)
    assert cloud.mean(axis=0) == pytest.approx(0, abs=0.05)
    assert cloud.std(axis=0) == pytest.approx(1, abs=0.06)
    assert abs(np.corrcoef(cloud.T)[0, 1]) < 0.1
    assert normal_cloud(7, 0, np.random.default_rng(1)).shape == (7, 0)


class TestStatisticalError:
    def fit(self, slope=3.0, n_blocks=25, n=40):
        random = np.random.default_rng(2)
        features = np.column_stack([np.linspace(-0.5, 0.5, n), random.uniform(-1, 1, n)])
        blocks = random.normal(size=(2, n_blocks))
        blocks = (blocks - blocks.mean(axis=1, keepdims=True)) / blocks.std(axis=1, keepdims=True)
        differences = features @ (np.array([[slope], [0.5]]) * blocks) + 7.0
        return StatisticalError.fit(features, differences), features, differences

    def test_is_the_standard_error_of_the_blocks(self):
        error, features, differences = self.fit()
        expected = differences.std(axis=1, ddof=1) / 5
        assert error.size(features) == pytest.approx(expected, rel=0.1)

    def test_draws_have_its_size(self):
        error, features, _ = self.fit()
        draws = error.draw(features, 4000, np.random.default_rng(0))
        assert draws.shape == (4000, 40)
        assert draws.std(axis=0) == pytest.approx(error.size(features), rel=0.06)
        assert np.abs(draws.mean(axis=0) / error.size(features)).max() < 0.08

    @pytest.mark.parametrize("n_blocks", [2, 3])
    def test_two_blocks_say_nothing(self, n_blocks):
        features, random = np.eye(5)[:, :2], np.random.default_rng(4)
        error = StatisticalError.fit(features, random.normal(size=(5, n_blocks)))
        assert (error.size(np.ones((1, 2))) > 0).all() == (n_blocks == 3)

    def test_no_scatter_is_no_error(self):
        error = StatisticalError.fit(np.eye(5)[:, :2], np.ones((5, 8)))
        assert not error.size(np.ones((3, 2))).any()


class Known:
    """A stand-in for a surrogate: valleys about places that scatter by a known width."""

    def __init__(self, names, at, width, extra=None):
        self.names, self.at, self.width = names, np.array(at), np.array(width)
        self.extra = extra or (lambda point, random: 0.0)

    def _u(self, points):
        return np.array([[p[name] for name in self.names] for p in points])

    def predict(self, points):
        extra = [self.extra(p, None) for p in points]
        return ((self._u(points) - self.at) ** 2).sum(axis=1) + extra, np.full(len(points), 0.01)

    def draw(self, points, n_draws, random_state=0):
        random = np.random.default_rng(random_state)
        at = self.at + self.width * random.normal(size=(n_draws, len(self.at)))
        chances = random.random(n_draws)
        extra = np.array([[self.extra(p, chance) for p in points] for chance in chances])
        return ((self._u(points) - at[:, None]) ** 2).sum(axis=2) + extra


# told by a grid over the whole range, so that nothing limits the cloud
RANGES = [Dimension("C12a", 0.0, 1.0), Dimension("C12b", 0.0, 1.0)]
TOLD = [({"C12a": x, "C12b": y}, 0.0) for x in np.linspace(0, 1, 9) for y in np.linspace(0, 1, 7)]


def test_optima_of_known_draws():
    known = Known(["C12a", "C12b"], (0.4, 0.65), (0.05, 0.02))
    found = draw_optima(known, Coordinates(RANGES), {"C12a": 0.5, "C12b": 0.5}, TOLD, n_draws=500)
    assert found.u.shape == (500, 2) and found.k.shape == (500, 0)
    assert found.u.mean(axis=0) == pytest.approx([0.4, 0.65], abs=0.006)
    assert found.u.std(axis=0) == pytest.approx([0.05, 0.02], rel=0.1)
    assert found.curvature == pytest.approx(2 * np.eye(2), abs=1e-6)
    again = draw_optima(known, Coordinates(RANGES), {"C12a": 0.5, "C12b": 0.5}, TOLD, n_draws=500)
    np.testing.assert_array_equal(again.u, found.u)


def test_optima_of_choices():
    """The first of three is out of the question, the others are as good as each other."""

    def extra(point, chance):
        if point["n_probe_modes"] == 1:
            return 1.0
        return 0.0 if chance is None else 0.01 * ((point["n_probe_modes"] == 2) == (chance < 0.25))

    dimensions = [*RANGES, Dimension("n_probe_modes", choices=(1, 2, 4))]
    known = Known(["C12a", "C12b"], (0.4, 0.65), (0.03, 0.03), extra)
    best = {"C12a": 0.4, "C12b": 0.6, "n_probe_modes": 4}
    told = [({**p, "n_probe_modes": 4}, s) for p, s in TOLD]
    found = draw_optima(known, Coordinates(dimensions), best, told, n_draws=400)
    shares = np.bincount(found.k[:, 0], minlength=3) / 400
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.75, abs=0.08)


def test_optimum_where_two_choices_are_others_than_those_of_the_best():
    modes = Dimension("n_probe_modes", choices=(1, 2, 4))
    dimensions = [*RANGES, modes, Dimension("n_slices", choices=(1, 2))]

    def extra(point, chance):
        return 0.0 if (point["n_probe_modes"], point["n_slices"]) == (4, 2) else 0.5

    known = Known(["C12a", "C12b"], (0.4, 0.65), (0.03, 0.03), extra)
    best = {"C12a": 0.4, "C12b": 0.6, "n_probe_modes": 1, "n_slices": 1}
    told = [({**best, **p}, s) for p, s in TOLD]
    found = draw_optima(known, Coordinates(dimensions), best, told, n_draws=40)
    assert found.k.tolist() == [[2, 1]] * 40


def test_optima_of_many_choices():
    """More combinations than can be looked at: one choice at a time is changed."""
    names = ["n_probe_modes", "n_slices", "probe_start"]
    many = [Dimension(name, choices=tuple(range(1, 7))) for name in names]

    def extra(point, chance):
        return sum(0.1 * (point[name] != 3) for name in names)

    known = Known(["C12a", "C12b"], (0.4, 0.65), (0.03, 0.03), extra)
    best = {"C12a": 0.4, "C12b": 0.6, "n_probe_modes": 3, "n_slices": 5, "probe_start": 3}
    told = [({**best, **p}, s) for p, s in TOLD]
    found = draw_optima(known, Coordinates([*RANGES, *many]), best, told, n_draws=40)
    assert (found.k == 2).all()
