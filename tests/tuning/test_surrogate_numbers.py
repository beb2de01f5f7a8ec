"""The Gaussian process in numbers: against the formulas of the textbook and other libraries."""

import math
import warnings

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.gaussian_process.kernels import Matern
from threadpoolctl import threadpool_info, threadpool_limits

from hs_autoptycho.tuning import surrogate as module
from hs_autoptycho.tuning.space import SLICES, Dimension, complete_point, read_space
from hs_autoptycho.tuning.surrogate import (
    Surrogate,
    Warp,
    _level,
    _likelihood,
    active_at,
    encode,
    encode_places,
    kernel_parameters,
    quiet_and_repeatable,
)

DIMENSIONS = read_space(
    {
        "defocus": (100, 400),
        "n_slices": [1, 2, 4],
        "thickness": (20, 200, "log"),
        "batch_size": (8, 12),
        "aperture": ["disk", "measured"],
    }
)[0]


def test_one_thread_and_no_warnings():
    with threadpool_limits(2), warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_and_repeatable():
            warnings.warn("nobody sees this", stacklevel=1)
            threads = [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]
        assert threads and set(threads) == {1}


def test_the_ends_of_the_ranges_are_encoded_as_their_points_are():
    places = np.array(
        [[0.0] * 5, [1.0] * 5, [0.999] * 5, [0.5] * 5, [1 / 3, 2 / 3, 0.4, 0.8, 0.49]]
    )
    names = [d.name for d in DIMENSIONS]
    points = [
        {n: d.value(x) for n, d, x in zip(names, DIMENSIONS, row, strict=True)} for row in places
    ]
    points = [complete_point(DIMENSIONS, point) for point in points]
    assert "thickness" not in points[0] and points[1]["thickness"] == pytest.approx(200)
    expected = encode(DIMENSIONS, points)
    assert encode_places(DIMENSIONS, places) == pytest.approx(expected, abs=1e-12)
    # a column for each name, and one for anything else
    assert expected.shape == (5, 6)
    assert expected[1] == pytest.approx([1, 5 / 6, 1, 0.9, 0, math.sqrt(0.5)])


def test_what_lacks_is_in_the_middle():
    assert encode(DIMENSIONS, [{"n_slices": 2}]) == pytest.approx(np.full((1, 6), 0.5))


def test_names_that_do_not_matter_are_in_the_middle_too():
    slices = Dimension("n_slices", choices=(1, 2))
    names = Dimension("aperture", choices=("disk", "measured"), condition=SLICES)
    rows = encode_places([slices, names], np.array([[0.2, 0.9], [0.8, 0.9]]))
    assert rows == pytest.approx(np.array([[0.25, 0.5, 0.5], [0.75, 0, math.sqrt(0.5)]]))


def test_where_a_parameter_matters():
    places = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.7, 0.3, 0.4, 0.5]])
    assert active_at(DIMENSIONS, places, 2).tolist() == [False, True]
    for i in (0, 1, 3, 4):
        assert active_at(DIMENSIONS, places, i).tolist() == [True, True]
    # it is not known how many slices there are
    assert active_at(DIMENSIONS[2:], places[:, 2:], 0).tolist() == [True, True]


def test_warped_scores():
    scores = np.array([0.3, 0.31, 0.34, 0.4, 0.5, 0.32, 0.36, 0.33, 0.37, 0.38, 0.9])
    warp = Warp.of(scores)
    # the second highest of eleven is on the plateau
    assert (warp.best, warp.reach, warp.gap) == pytest.approx((0.3, 0.2, 1.15))
    assert warp(np.array([0.3, 0.4, 0.5, 0.9])) == pytest.approx(
        [1 / 1.15, 1 / 0.65, 1 / 0.15, 1 / 0.15]
    )
    assert Warp.of(scores, plateau=1.0, gap=1.5)(scores).max() == pytest.approx(2)
    assert np.array_equal(Warp(0.1)(scores), scores)
    same = np.full(4, 0.2)
    assert np.array_equal(Warp.of(same)(same), same)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 1.2], (1.1, 0.1)),
        ([0.7] * 9, (0.7, 1.0)),
        ([0.0] * 3, (0.0, 1.0)),
        ([2e-14, 4e-14], (3e-14, 1e-14)),
        ([1e6, 1e6 + 2e-9], (1e6, 1.0)),
    ],
)
def test_mean_and_standard_deviation(scores, expected):
    assert _level(np.array(scores)) == pytest.approx(expected, rel=1e-9, abs=1e-20)


THETA = np.array([0.4, math.log(0.5), math.log(0.8), math.log(0.02)])


@pytest.fixture
def trials():
    random = np.random.default_rng(0)
    return random.random((9, 2)), random.normal(3.0, 0.25, 9)


def by_hand(places, scores, new, level):
    """Mean and covariance of the textbook's process, with scikit-learn's kernel."""
    scale = scores.std()
    kernel = Matern([0.5, 0.8], nu=2.5)
    amplitude = math.exp(0.4)
    inverse = np.linalg.inv(amplitude * kernel(places) + 0.02 * np.eye(len(places)))
    across = amplitude * kernel(new, places)
    mean = level + across @ inverse @ (scores - level)
    return mean, scale**2 * (amplitude * kernel(new) - across @ inverse @ across.T)


@pytest.mark.parametrize("level", [None, 4.5])
def test_predictions_and_draws(trials, level):
    places, scores = trials
    new = np.array([[0.1, 0.2], [0.15, 0.3], [0.9, 0.5], [3.0, -2.0]])
    dimensions = read_space({"C12a": (0, 1), "C12b": (0, 1)})[0]
    surrogate = Surrogate(dimensions, places, scores, THETA, level=level)
    assert surrogate.lengths == pytest.approx([0.5, 0.8])
    assert surrogate.noise == pytest.approx(scores.std() * math.sqrt(0.02))
    expected, covariance = by_hand(places, scores, new, scores.mean() if level is None else level)
    mean, std = surrogate.predict_places(new)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert std == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-6)
    draws = surrogate.draw_places(new, 20000, random_state=1)
    assert draws.shape == (20000, 4)
    assert draws.mean(axis=0) == pytest.approx(expected, abs=0.03 * std.max())
    assert np.cov(draws.T) == pytest.approx(covariance, abs=0.05 * covariance.max())
    # where it is known they hardly scatter
    assert np.var(draws[:, 0]) == pytest.approx(covariance[0, 0], rel=0.05)


def test_what_is_known_well_has_no_error():
    places = np.linspace(0, 1, 5)[:, np.newaxis]
    theta = np.array([0.0, math.log(0.3), math.log(1e-12)])
    dimensions = read_space({"C12a": (0, 1)})[0]
    scores = np.array([1.0, 3.0, 2.0, 0.0, 1.0])
    surrogate = Surrogate(dimensions, places, scores, theta)
    mean, std = surrogate.predict_places(places)
    assert mean == pytest.approx(scores, abs=1e-8)
    assert 0 < std.min() and std.max() < 1e-4


def test_likelihood_and_its_gradient(trials):
    places, scores = trials
    scores = scores - 2.8
    function = _likelihood(places, scores)

    def expected(theta):
        covariance = math.exp(theta[0]) * Matern(np.exp(theta[1:-1]), nu=2.5)(places)
        covariance += math.exp(theta[-1]) * np.eye(9)
        return -stats.multivariate_normal(np.zeros(9), covariance).logpdf(scores)

    value, slope = function(THETA)
    assert value == pytest.approx(expected(THETA), rel=1e-9)
    assert slope == pytest.approx(optimize.approx_fprime(THETA, expected, 1e-6), rel=1e-3, abs=1e-5)


def test_the_most_likely_parameters(trials):
    """The highest place of the likelihood times the beliefs, found in another way."""
    places, _ = trials
    random = np.random.default_rng(3)
    scores = 5 + 3 * np.sin(6 * places[:, 0]) + places[:, 1] + 0.3 * random.normal(size=9)
    likelihood = _likelihood(places, (scores - scores.mean()) / scores.std())
    mean = np.array([0, *[math.log(0.3) + math.log(2) / 2] * 2, math.log(1e-3)])
    std = np.array([3.0, 0.8, 0.8, 2.0])

    def loss(theta):
        return likelihood(theta)[0] + np.sum(((theta - mean) / std) ** 2) / 2

    expected = optimize.minimize(
        loss, mean, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000}
    )
    assert expected.success
    theta = kernel_parameters(places, scores)
    assert theta == pytest.approx(expected.x, abs=3e-3)
    # it does not depend on the scores' unit
    assert kernel_parameters(places, 100 * scores - 7) == pytest.approx(theta, abs=3e-3)


def searched(monkeypatch, values):
    """What the search for three columns' parameters begins with, and which of its ends is taken."""
    calls, ends = [], iter(values)

    def minimize(loss, start, **options):
        calls.append((start, options))
        return optimize.OptimizeResult(x=np.full(5, len(calls)), fun=next(ends))

    monkeypatch.setattr(module, "minimize", minimize)
    taken = kernel_parameters(np.eye(4)[:, :3], np.arange(4.0), random_state=5)
    return calls, taken[0]


def test_limits_and_starts_of_the_search_for_the_parameters(monkeypatch):
    calls, _ = searched(monkeypatch, (1.0, 0.0))
    middle = np.array([0, *[math.log(0.3) + 0.5 * math.log(3)] * 3, math.log(1e-3)])
    aside = np.random.default_rng(5).normal(size=5) * [3, 0.8, 0.8, 0.8, 2] / 2
    assert len(calls) == 2
    assert calls[0][0] == pytest.approx(middle)
    assert calls[1][0] == pytest.approx(middle + aside)
    limits = np.array([(1e-3, 1e3), *[(0.02, 20)] * 3, (1e-6, 1)])
    for _, options in calls:
        assert np.exp(options["bounds"]) == pytest.approx(limits)
        assert options["options"] == {"maxiter": 40}
        assert options["jac"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1.0, 0.5), 2), ((0.5, 1.0), 1), ((0.0, -5e-7), 1), ((0.0, -1e-6), 1), ((0.0, -2e-6), 2)],
)
def test_the_second_end_has_to_be_lower(monkeypatch, values, expected):
    assert searched(monkeypatch, values)[1] == expected
