"""Parabolas through trials about a good point, on surfaces whose minimum is known."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.tuning import polish
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

DIMENSIONS = [
    Dimension("defocus", 100.0, 300.0),
    Dimension("scan_scale", 0.9, 1.1),
    Dimension("step_object", 0.1, 1.6, log=True),
    Dimension("n_probe_modes", choices=(1, 2, 4)),
]
TRUTH = {"defocus": 210.0, "scan_scale": 1.01, "step_object": 0.5}
CENTER = {"defocus": 200.0, "scan_scale": 1.0, "step_object": 0.4, "n_probe_modes": 2}
STEPS = {"defocus": 0.1, "scan_scale": 0.1, "step_object": 0.1}


def places(point):
    return np.array([d.place(point[d.name]) for d in DIMENSIONS[:3]])


def run(points, *, coupling=0.0, noise=0.0, blocks=49, seed=0):
    """Trials of a quadratic surface, whose blocks have noise in common and of their own."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=blocks)
    hessian = np.diag([3.0, 2.0, 1.0]) + coupling * (1 - np.eye(3))
    trials = []
    for number, point in enumerate(points):
        off = places(point) - places({**CENTER, **TRUTH})
        values = 5 + off @ hessian @ off + common + noise * generator.normal(size=blocks)
        trial = Trial(number, dict(point), Fidelity(4, 0.5), objective=float(values.mean()))
        trial.blocks = values.tolist()
        trials.append(trial)
    return trials


def both(**options):
    trials = run(polish.both_sides(DIMENSIONS, CENTER, STEPS), **options)
    return polish.parabolas(DIMENSIONS, CENTER, STEPS, trials)


def test_a_parabola_is_found_exactly():
    points = polish.both_sides(DIMENSIONS, CENTER, STEPS)
    assert len(points) == 7 and points[0] == CENTER
    found = both()
    for name, value in TRUTH.items():
        assert found.point[name] == pytest.approx(value, rel=1e-9)
    assert found.point["n_probe_modes"] == 2
    assert found.curvatures["defocus"] == pytest.approx(6.0)
    assert max(found.errors.values()) < 1e-6


def test_the_second_round_mends_couplings():
    options = {"coupling": 0.4}
    first = both(**options)
    trials = run(polish.both_sides(DIMENSIONS, first.point, STEPS), **options)
    second = polish.parabolas(DIMENSIONS, first.point, STEPS, trials)
    truth = places({**CENTER, **TRUTH})
    off = [np.abs(places(p) - truth).max() for p in (CENTER, first.point, second.point)]
    assert off[1] < off[0] and off[2] < 0.5 * off[1]


def test_the_flattest_along_its_range_is_known_least():
    found = polish.Optimum(CENTER, {}, {"defocus": 3.0, "scan_scale": 0.1})
    assert polish.least_known(STEPS, found) == ["step_object", "scan_scale", "defocus"]


def test_what_depends_on_the_number_of_passes():
    names = {"step_object", "step_probe", "momentum", "regularization_tv"}
    assert {n for n in PARAMETERS if polish.depends_on_length(n)} >= names
    assert not any(polish.depends_on_length(n) for n in ("defocus", "source_size", "thickness"))


@pytest.mark.parametrize("place", [0.0, 0.015, 0.985, 1.0])
def test_where_a_range_ends_both_sides_are_on_the_other(place):
    center = {**CENTER, "scan_scale": DIMENSIONS[1].value(place)}
    points = polish.both_sides(DIMENSIONS, center, STEPS)
    scales = [points[i]["scan_scale"] for i in (0, 3, 4)]
    assert len(set(scales)) == 3 and all(0.9 <= scale <= 1.1 for scale in scales)
    found = polish.parabolas(DIMENSIONS, center, STEPS, run(points))
    toward = DIMENSIONS[1].place(found.point["scan_scale"]) - place
    # the minimum at 0.55 is followed for one and a half steps
    assert toward == pytest.approx(0.15 if place < 0.5 else -0.15)


def test_an_optimum_near_the_end_of_a_range_is_read_between_two_trials():
    # a valley that is no parabola, with its minimum between the point and the end
    dimension = DIMENSIONS[1]
    center = {**CENTER, "scan_scale": dimension.value(0.86)}
    points = polish.both_sides(DIMENSIONS, center, {"scan_scale": 0.3})
    assert sorted(round(dimension.place(p["scan_scale"]), 6) for p in points) == [0.56, 0.86, 1]
    trials = run(points)
    for trial in trials:
        off = dimension.place(trial.parameters["scan_scale"]) - 0.985
        trial.blocks = [off**2 - 0.5 * off**3] * 9
    found = polish.parabolas(DIMENSIONS, center, {"scan_scale": 0.3}, trials)
    assert dimension.place(found.point["scan_scale"]) == pytest.approx(0.985, abs=0.015)


def test_a_parabola_is_exact_with_unequal_sides():
    center = {**CENTER, "scan_scale": 1.0 + 0.86 * 0.1, "defocus": 297.0}
    truth = {"scan_scale": 1.08, "defocus": 290.0}
    points = polish.both_sides(DIMENSIONS, center, STEPS)
    trials = run(points)
    goal = np.array([DIMENSIONS[0].place(290.0), DIMENSIONS[1].place(1.08), places(CENTER)[2]])
    for trial in trials:
        off = places(trial.parameters) - goal
        trial.blocks = [float(off @ np.diag([3.0, 2.0, 1.0]) @ off)] * 9
    found = polish.parabolas(DIMENSIONS, center, STEPS, trials)
    for name, value in truth.items():
        assert found.point[name] == pytest.approx(value, rel=1e-9)


def test_two_looks_at_an_optimum():
    first = polish.Optimum({**CENTER}, {"defocus": 0.01, "scan_scale": 0.01}, {"defocus": 6.0})
    point = {**CENTER, "defocus": 210.0, "scan_scale": 1.01, "step_object": 0.7}
    second = polish.Optimum(point, {"defocus": 0.01, "scan_scale": 0.2, "step_object": 0.1}, {})
    found = polish.combined(DIMENSIONS, first, second, STEPS)
    # the errors are 0.01, and a fifth and a twentieth of a step of 0.1
    weights = 1 / (0.01**2 + (0.1 * np.array([0.2, 0.05])) ** 2)
    assert found.point["defocus"] == pytest.approx(200 + 10 * weights[1] / weights.sum())
    assert found.point["scan_scale"] < 1.001  # the second look is poor
    assert found.point["step_object"] == 0.7  # short trials say nothing of it
    assert found.errors["defocus"] < 0.05 < found.errors["step_object"]
    alone = polish.Optimum({**CENTER}, {}, {})
    assert polish.combined(DIMENSIONS, alone, second, STEPS).point == point


def test_standard_errors_are_right():
    pulls = []
    for seed in range(60):
        found = both(noise=0.005, seed=seed)
        off = places(found.point) - places({**CENTER, **TRUTH})
        pulls.append(off / [found.errors[name] for name in STEPS])
    assert 0.8 < np.std(pulls) < 1.3
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.5)


def test_downhill_where_there_is_no_minimum():
    trials = run(polish.both_sides(DIMENSIONS, CENTER, STEPS))
    for trial in trials:  # upside down
        trial.blocks = list(-np.array(trial.blocks))
    found = polish.parabolas(DIMENSIONS, CENTER, STEPS, trials)
    assert places(found.point)[0] == pytest.approx(places(CENTER)[0] - 0.15)
    assert found.errors["defocus"] == pytest.approx(0.15)


def test_a_failed_side_leaves_the_parameter_alone():
    trials = run(polish.both_sides(DIMENSIONS, CENTER, STEPS))
    trials[1].status = "diverged"
    found = polish.parabolas(DIMENSIONS, CENTER, STEPS, trials)
    assert found.point["defocus"] == 200.0 and "defocus" not in found.errors
    assert found.point["scan_scale"] == pytest.approx(1.01)
    trials[0].status = "failed"
    assert polish.parabolas(DIMENSIONS, CENTER, STEPS, trials).point == CENTER


def test_steps_are_as_wide_as_the_better_trials_spread():
    generator = np.random.default_rng(3)
    points = [
        {**CENTER, "defocus": float(200 + w * generator.normal()), "step_object": 0.4}
        for w in [6.0] * 30 + [60.0] * 60
    ]
    trials = [Trial(i, p, Fidelity(3), objective=float(i)) for i, p in enumerate(points)]
    steps = polish.step_sizes(DIMENSIONS, CENTER, trials)
    assert steps["defocus"] == pytest.approx(0.03, rel=0.3)
    assert steps["scan_scale"] == polish.SMALLEST_STEP
    assert "n_probe_modes" not in steps
    # the end of a range is no reason to leave a parameter as it is
    at_end = polish.step_sizes(DIMENSIONS, {**CENTER, "scan_scale": 1.1}, trials)
    assert polish.SMALLEST_STEP < at_end["scan_scale"] <= polish.LARGEST_STEP
    inactive = {k: v for k, v in CENTER.items() if k != "step_object"}
    assert "step_object" not in polish.step_sizes(DIMENSIONS, inactive, trials)


def test_points_stay_within_their_ranges():
    near = {**CENTER, "defocus": 299.0}
    point = polish.moved(DIMENSIONS, near, {"defocus": 0.1})
    assert point["defocus"] == 300.0
