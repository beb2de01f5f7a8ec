"""The Gaussian process through the scores: encoding, calibration, draws, noise."""

import math

import numpy as np
import pytest

from hs_autoptycho.tuning.space import complete_point, read_space
from hs_autoptycho.tuning.surrogate import (
    Surrogate,
    Warp,
    encode,
    encode_places,
)

SPACE = {"scan_rotation": (-10, 10), "defocus": (100, 1000, "log"), "C12a": (-50, 50)}
MIXED = {
    "defocus": (100, 400),
    "n_slices": [1, 2, 4],
    "thickness": (20, 200, "log"),
    "batch_size": (8, 64, "log"),
    "detector_flip": ["none", "rows", "both"],
}


def points_of(parameters, n, seed=0):
    dimensions = read_space(parameters)[0]
    places = np.random.default_rng(seed).random((n, len(dimensions)))
    names = [d.name for d in dimensions]
    points = []
    for row in places:
        values = [d.value(x) for d, x in zip(dimensions, row, strict=True)]
        points.append(complete_point(dimensions, dict(zip(names, values, strict=True))))
    return dimensions, points, places


def score(point):
    return 0.56 + 0.002 * (
        (point["scan_rotation"] / 12) ** 2
        + np.log(point["defocus"] / 300) ** 2
        + 0.3 * math.sin(point["C12a"] / 25)
    )


def test_rows_of_numbers():
    dimensions, _, _ = points_of(MIXED, 1)
    points = [
        {"defocus": 250.0, "n_slices": 4, "thickness": 20.0, "batch_size": 8,
         "detector_flip": "rows"},
        {"defocus": 400.0, "n_slices": 1, "batch_size": 64, "detector_flip": "both"},
    ]  # fmt: skip
    rows = encode(dimensions, points)
    half = math.sqrt(0.5)
    assert rows[:, :3] == pytest.approx(np.array([[0.5, 5 / 6, 0], [1, 1 / 6, 0.5]]))
    assert rows[:, 4:] == pytest.approx(np.array([[0, half, 0], [0, 0, half]]))
    assert np.linalg.norm(rows[0, 4:] - rows[1, 4:]) == pytest.approx(1)
    assert np.all((rows >= 0) & (rows <= 1))
    assert encode(dimensions, []).shape == (0, 7)


def test_places_are_encoded_as_their_points_are():
    dimensions, points, places = points_of(MIXED, 60)
    assert any("thickness" not in p for p in points)
    expected = encode(dimensions, points)
    assert encode_places(dimensions, places) == pytest.approx(expected, abs=1e-12)


def test_values_between_the_trials_are_predicted_with_honest_errors():
    dimensions, points, _ = points_of(SPACE, 60)
    surrogate = Surrogate.fit(dimensions, [(p, score(p)) for p in points])
    _, others, _ = points_of(SPACE, 200, seed=1)
    truth = np.array([score(p) for p in others])
    mean, std = surrogate.predict(others)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.15 * truth.std()
    within = np.abs(mean - truth) / np.hypot(std, surrogate.noise)
    assert np.mean(within < 1) > 0.5
    assert np.mean(within < 3) > 0.95
    # less is known between few trials
    few = Surrogate.fit(dimensions, [(p, score(p)) for p in points[:15]])
    assert np.median(few.predict(others)[1]) > 2 * np.median(std)


def test_the_noise_is_found_in_the_objectives_unit():
    dimensions, points, _ = points_of({"scan_rotation": (-10, 10)}, 80)
    random = np.random.default_rng(3)
    for sigma in (3e-5, 1e-4):
        told = [
            (p, 0.5 + 2e-3 * (p["scan_rotation"] / 10) ** 2 + random.normal(0, sigma))
            for p in points
        ]
        assert 0.4 * sigma < Surrogate.fit(dimensions, told).noise < 2.5 * sigma


def test_draws_scatter_as_the_errors_say_and_agree_at_the_trials():
    dimensions, points, _ = points_of(SPACE, 25)
    told = [(p, score(p)) for p in points]
    surrogate = Surrogate.fit(dimensions, told)
    others = points_of(SPACE, 12, seed=5)[1]
    mean, std = surrogate.predict(others)
    draws = surrogate.draw(others, 4000, random_state=2)
    assert draws.shape == (4000, 12)
    assert np.median(draws, axis=0) == pytest.approx(mean, abs=0.1 * std.max())
    spread = np.diff(np.quantile(draws, [0.159, 0.841], axis=0), axis=0)[0] / 2
    assert spread == pytest.approx(std, rel=0.15)
    assert np.array_equal(surrogate.draw(others, 7, 2), surrogate.draw(others, 7, 2))
    assert not np.array_equal(surrogate.draw(others, 7, 2), surrogate.draw(others, 7, 3))
    at_trials = surrogate.draw(points[:4], 50)
    assert at_trials.std(0).max() < 0.2 * np.std([s for _, s in told])


def test_neighbouring_points_are_drawn_together():
    dimensions, points, _ = points_of(SPACE, 12)
    surrogate = Surrogate.fit(dimensions, [(p, score(p)) for p in points])
    point = points_of(SPACE, 1, seed=9)[1][0]
    beside = {**point, "C12a": point["C12a"] + 0.01}
    draws = surrogate.draw([point, beside, point], 300)
    assert np.corrcoef(draws[:, 0], draws[:, 1])[0, 1] > 0.999
    assert draws[:, 0] == pytest.approx(draws[:, 2], abs=1e-6)


def test_failed_trials_are_left_out():
    dimensions, points, _ = points_of(SPACE, 20)
    told = [(p, score(p)) for p in points]
    failed = [(p, bad) for p, bad in zip(points_of(SPACE, 3, 8)[1], (None, math.nan, math.inf),
                                         strict=True)]  # fmt: skip
    one, other = (Surrogate.fit(dimensions, t) for t in (told, [*failed, *told]))
    assert np.array_equal(one.predict(points)[0], other.predict(points)[0])
    with pytest.raises(ValueError, match="at least two scores, not 1"):
        Surrogate.fit(dimensions, [told[0], *failed])


def test_equal_scores():
    dimensions, points, _ = points_of(SPACE, 6)
    mean, std = Surrogate.fit(dimensions, [(p, 0.7) for p in points]).predict(points)
    assert mean == pytest.approx(0.7)
    assert np.all(np.isfinite(std))


def test_a_plateau_is_warped_into_a_parabola_and_back():
    q = np.linspace(0, 5, 40) ** 2
    scores = 3 + 0.01 * q / (1 + q)
    warp = Warp.of(scores)
    warped = warp(scores)
    assert np.all(np.diff(warped) >= 0)
    not_flat = scores < warp.best + warp.reach
    assert warp.back(warped)[not_flat] == pytest.approx(scores[not_flat], rel=1e-12)
    straight = np.corrcoef(warped[not_flat], q[not_flat])[0, 1]
    assert straight > np.corrcoef(scores[not_flat], q[not_flat])[0, 1] + 0.2
    rise = (warp.back(warped[:5] + 1e-6) - scores[:5]) / 1e-6
    assert 1 / rise == pytest.approx(warp.slopes(warped[:5]), rel=1e-4)
    assert np.array_equal(Warp()(scores), scores) and np.array_equal(Warp().back(scores), scores)
