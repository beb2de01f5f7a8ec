"""The Gaussian process through the scores: encoding, calibration, noise, warps."""

import math

import numpy as np
import pytest

from hs_autoptycho.tuning.space import complete_point, read_space
from hs_autoptycho.tuning.surrogate import (
    Surrogate,
    Warp,
    encode,
    encode_places,
    kernel_parameters,
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


def fitted(dimensions, points, scores):
    places = encode(dimensions, points)
    theta = kernel_parameters(places, scores)
    return Surrogate(dimensions, places, scores, theta)


def predict(surrogate, points):
    return surrogate.predict_places(encode(surrogate.dimensions, points))


def test_values_between_the_trials_are_predicted_with_honest_errors():
    dimensions, points, _ = points_of(SPACE, 60)
    surrogate = fitted(dimensions, points, np.array([score(p) for p in points]))
    _, others, _ = points_of(SPACE, 200, seed=1)
    truth = np.array([score(p) for p in others])
    mean, std = predict(surrogate, others)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.15 * truth.std()
    within = np.abs(mean - truth) / std
    assert np.mean(within < 1) > 0.5
    assert np.mean(within < 3) > 0.95
    # less is known between few trials
    few = fitted(dimensions, points[:15], np.array([score(p) for p in points[:15]]))
    assert np.median(predict(few, others)[1]) > 2 * np.median(std)


def test_noise_is_taken_for_noise():
    dimensions, points, _ = points_of({"scan_rotation": (-10, 10)}, 80)
    valley = np.array([(p["scan_rotation"] / 10) ** 2 for p in points])
    noisy = valley + np.random.default_rng(3).normal(0, 0.05, len(valley))
    mean, _ = predict(fitted(dimensions, points, noisy), points)
    assert np.sqrt(np.mean((mean - valley) ** 2)) < 0.02


def test_what_does_not_matter_has_a_long_scale():
    dimensions, points, _ = points_of(SPACE, 60)
    scores = np.array([(p["scan_rotation"] / 5) ** 2 for p in points])
    lengths = fitted(dimensions, points, scores).lengths
    assert lengths[1:].min() > 3 * lengths[0]


def test_equal_scores():
    dimensions, points, _ = points_of(SPACE, 9)
    mean, std = predict(fitted(dimensions, points, np.full(9, 0.7)), points)
    assert mean == pytest.approx(0.7) and np.all(np.isfinite(std))


def test_a_plateau_is_warped_into_a_parabola():
    q = np.linspace(0, 30, 200)
    scores = 0.5 + 2e-3 * q / (1 + q)
    warp = Warp.of(scores, plateau=1.0, gap=1 + 1 / 30)
    warped = warp(scores)
    assert np.all(np.diff(warped) > 0)
    # linear in the quadratic form
    assert np.corrcoef(warped[:150], q[:150])[0, 1] > 0.995
    assert np.corrcoef(scores[:150], q[:150])[0, 1] < 0.8
    assert np.array_equal(Warp()(scores), scores)
