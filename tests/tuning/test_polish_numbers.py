"""Steps, sides and parabolas in numbers."""

import math

import numpy as np
import pytest

from hs_autoptycho.tuning.polish import (
    Optimum,
    _jackknife,
    _minimum,
    _sides,
    both_sides,
    combined,
    depends_on_length,
    least_known,
    lowest,
    moved,
    parabolas,
    step_sizes,
    widened,
)
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

DIMENSIONS = [
    Dimension("n_probe_modes", choices=(1, 2, 4)),
    Dimension("batch_size", 8, 64),
    Dimension("defocus", 0.0, 1.0),
    Dimension("C12a", 0.0, 2.0),
    Dimension("step_object", 0.1, 10.0, log=True),
]
CENTER = {"n_probe_modes": 2, "batch_size": 16, "defocus": 0.5, "C12a": 0.4}


def trials(points, blocks, status="completed"):
    return [
        Trial(i, dict(p), Fidelity(4), objective=float(np.mean(b)), blocks=list(b), status=status)
        for i, (p, b) in enumerate(zip(points, blocks, strict=True))
    ]


def test_what_depends_on_the_number_of_passes():
    names = ("step_object", "step_probe", "momentum", "regularization_tv", "defocus", "tilt_x")
    assert [depends_on_length(name) for name in names] == [True] * 4 + [False] * 2


def test_a_third_of_the_trials_tells_the_step():
    # places 0.01, 0.02, … of the range from the centre, the better the closer
    points = [{**CENTER, "defocus": 0.5 + 0.01 * i, "C12a": 0.4} for i in range(1, 31)]
    values = np.arange(30.0)[:, np.newaxis]
    done = trials(points, values) + trials(points[:2], values[:2] - 9, "failed")
    steps = step_sizes(DIMENSIONS, CENTER, done[::-1])
    assert steps == {"defocus": pytest.approx(0.01 * math.sqrt(38.5)), "C12a": 0.01}
    # of few trials five
    few = step_sizes(DIMENSIONS, CENTER, done[:6])
    assert few["defocus"] == pytest.approx(0.01 * math.sqrt(11))
    sixteen = step_sizes(DIMENSIONS, CENTER, done[:16])
    assert sixteen["defocus"] == pytest.approx(0.01 * math.sqrt(91 / 6))
    # limits
    wide = [{**CENTER, "defocus": 0.5 + 0.1 * i, "C12a": 0.45} for i in range(-5, 6)]
    steps = step_sizes(DIMENSIONS, {**CENTER, "step_object": 1.0}, trials(wide, values[:11]))
    assert steps == {"defocus": 0.15, "C12a": pytest.approx(0.025), "step_object": 0.01}


@pytest.mark.parametrize(
    ("place", "sides"),
    [
        (0.5, (0.1, -0.1)),
        (0.93, (0.07, -0.1)),
        (0.97, (0.03, -0.1)),
        (0.981, (-0.2, -0.1)),
        (1.0, (-0.2, -0.1)),
        (0.07, (0.1, -0.07)),
        (0.03, (0.1, -0.03)),
        (0.019, (0.1, 0.2)),
        (0.0, (0.1, 0.2)),
    ],
)
def test_sides(place, sides):
    assert _sides(place, 0.1) == pytest.approx(sides)


def test_the_widest_steps_are_not_taken_twice():
    assert _sides(0.95, 0.3) == pytest.approx((-0.3, -0.15))
    assert _sides(0.05, 0.3) == pytest.approx((0.15, 0.3))
    assert _sides(0.8, 0.3) == pytest.approx((0.2, -0.3))


def test_a_fifth_of_a_step_is_room_enough():
    assert _sides(0.875, 0.625) == (0.125, -0.625)
    assert _sides(0.125, 0.625) == (0.625, -0.125)
    assert _sides(0.876, 0.625) == pytest.approx((-0.3, -0.15))


def test_points_on_both_sides():
    points = both_sides(DIMENSIONS, CENTER, {"C12a": 0.1, "defocus": 0.2})
    assert points[0] == CENTER
    assert [p["C12a"] for p in points] == pytest.approx([0.4, 0.6, 0.2, 0.4, 0.4])
    assert [p["defocus"] for p in points] == pytest.approx([0.5, 0.5, 0.5, 0.7, 0.3])
    by = {"C12a": -0.3, "defocus": 0.7}
    assert moved(DIMENSIONS, CENTER, by) == {**CENTER, "C12a": 0.0, "defocus": 1.0}


def test_known_least():
    found = Optimum({}, {}, {"defocus": 2.0, "C12a": -1.0})
    assert least_known({"defocus": 1, "step_object": 1, "C12a": 1}, found) == [
        "step_object", "C12a", "defocus",
    ]  # fmt: skip


STEPS = {"defocus": 0.1, "C12a": 0.2}
# curvature and slope in steps, by block; sides are 0.1 and -0.1, 0.2 and -0.2 of the ranges
CURVATURE, SLOPE = np.array([4.0, 5.0, 6.0, 5.0]), np.array([-2.0, -1.0, -3.0, -4.0])


def looks(bend=CURVATURE, slope=SLOPE, common=(7.0, 3.0, 1.0, 2.0)):
    """Trials about the centre whose scores are parabolas of the defocus; the rest is flat."""
    points = both_sides(DIMENSIONS, CENTER, STEPS)
    offsets = np.array([0, 1, -1, 0, 0])[:, np.newaxis]
    blocks = np.array(common)[: len(bend)] + slope * offsets + bend * offsets**2 / 2
    return trials(points, blocks)


def test_a_parabola_by_block():
    found = parabolas(DIMENSIONS, CENTER, STEPS, looks())
    assert found.point["defocus"] == pytest.approx(0.5 + 0.1 * 2.5 / 5)
    assert found.point["C12a"] == pytest.approx(0.4)
    assert found.curvatures == pytest.approx({"defocus": 5 / 0.01, "C12a": 0})
    rest = np.array([8 / 16, 9 / 15, 7 / 14, 6 / 15])
    assert found.errors["defocus"] == pytest.approx(0.1 * math.sqrt(3 * np.var(rest)))
    assert found.errors["C12a"] == pytest.approx(0.2 * 1.5)


def test_how_far_a_minimum_has_moved_is_uncertain():
    found = parabolas(DIMENSIONS, CENTER, STEPS, looks(slope=-SLOPE))
    assert found.point["defocus"] == pytest.approx(0.45)
    assert found.moves == pytest.approx({"defocus": 0.05, "C12a": 0})
    assert found.uncertainty("defocus") == pytest.approx(math.hypot(found.errors["defocus"], 0.05))
    assert found.uncertainty("C12a") == found.errors["C12a"]
    # nothing has moved with it where one was looked at by itself
    first = Optimum(found.point, {"defocus": 0.1, "C12a": 0.1}, {}, {"defocus": 0.2, "C12a": 0.3})
    alone = combined(DIMENSIONS, first, found, {"C12a": 0.1})
    assert alone.moves == {"defocus": pytest.approx(0.05)}
    # the best of three is a look for what shorter trials know nothing of: the others stay
    assert lowest(DIMENSIONS, first, {"defocus": 0.1}, []).moves == first.moves


def test_the_mean_of_several_parts_of_the_counts():
    one, other = looks(), looks(2 * CURVATURE, SLOPE + 6, common=(1.0, 2.0, 3.0, 4.0))
    found = parabolas(DIMENSIONS, CENTER, STEPS, [*one, *other])
    mean = looks(1.5 * CURVATURE, SLOPE + 3)
    assert found == parabolas(DIMENSIONS, CENTER, STEPS, mean)
    # of a failed one the other alone is known
    for t in other:
        t.status = "failed"
    assert parabolas(DIMENSIONS, CENTER, STEPS, [*one, *other]) == parabolas(
        DIMENSIONS, CENTER, STEPS, one
    )


def test_blocks_of_one_side_alone_tell_no_error():
    found = looks()
    whole = parabolas(DIMENSIONS, CENTER, STEPS, found)
    found[2].blocks = []
    found[2].objective = float(np.mean(looks()[2].blocks))
    some = parabolas(DIMENSIONS, CENTER, STEPS, found)
    assert some.point["defocus"] == pytest.approx(whole.point["defocus"])
    assert whole.errors["defocus"] < 0.1 * 1.5
    assert some.errors["defocus"] == pytest.approx(0.1 * 1.5)  # as far as a parabola is followed


def test_a_parabola_of_unequal_sides():
    """Both are on the same side of a centre beside the end of its range."""
    for place, sides in ((0.99, (-0.2, -0.1)), (0.01, (0.1, 0.2)), (0.94, (0.06, -0.1))):
        center = {**CENTER, "defocus": place}
        points = both_sides(DIMENSIONS, center, {"defocus": 0.1})
        assert [p["defocus"] - place for p in points[1:]] == pytest.approx(sides)
        x = np.array([0.0, *sides])[:, np.newaxis] / 0.1
        scores = 3.0 + np.array([-2.0, 1.0, 0.5]) * x + np.array([5.0, 4.0, 3.0]) * x**2 / 2
        found = parabolas(DIMENSIONS, center, {"defocus": 0.1}, trials(points, scores))
        expected = min(place + 0.1 * (0.5 / 3) / 4, 1.0)
        assert found.point["defocus"] == pytest.approx(expected)
        assert found.curvatures["defocus"] == pytest.approx(4 / 0.01)


def test_a_trial_that_is_missing():
    some = looks()
    assert "defocus" not in parabolas(DIMENSIONS, CENTER, STEPS, some[:2] + some[3:]).errors
    assert parabolas(DIMENSIONS, CENTER, STEPS, some[1:]) == Optimum(CENTER, {}, {})
    # where blocks do not pair the objectives are compared
    some[0].blocks = []
    found = parabolas(DIMENSIONS, CENTER, STEPS, some)
    assert found.point["defocus"] == pytest.approx(0.55)
    assert found.errors["defocus"] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("slope", "curvature", "expected"),
    [
        ([-2.0, -4.0], 6.0, 0.5),
        ([-2.0, -4.0], 0.5, 1.5),
        ([2.0, 4.0], 0.5, -1.5),
        # no minimum: a slope of 3 has an error of 1, one of 0.5 that of 0.5, 0.4 that of 0.5
        ([-2.0, -4.0], 0.0, 1.5),
        ([2.0, 4.0], -1.0, -1.5),
        ([0.0, 1.0], 0.0, 0.0),
        ([0.1, 1.1], 0.0, -1.5),
        ([-0.1, 0.9], 0.0, 0.0),
        ([0.3], 0.0, -1.5),
        ([0.0], -1.0, 0.0),
        ([0.3, 0.4, 1.1], 0.0, -1.5),
        ([0.0, 0.1, 0.8], 0.0, -1.5),
        ([-0.1, 0.0, 0.6], 0.0, 0.0),
    ],
)
def test_minimum_of_a_parabola(slope, curvature, expected):
    assert _minimum(np.array(slope), curvature) == pytest.approx(expected)


def test_error_of_the_minimum():
    three = np.array([4.0, 5.0, 6.0])
    rest = np.array([3 / 11, 4 / 10, 3 / 9])
    error = math.sqrt(2 * np.var(rest))
    assert _jackknife(np.array([2.0, 1.0, 2.0]), three) == pytest.approx(error)
    assert _jackknife(np.array([2.0, 1.0]), three[:2]) == 1.5
    assert _jackknife(np.array([20.0, -30.0, 20.0]), three) == 1.5
    assert _jackknife(np.array([2.0, 1.0, 2.0]), -three) == 1.5
    assert _jackknife(np.array([2.0, 1.0, 2.0]), np.array([1.0, -2.0, 1.0])) == 1.5
    assert _jackknife(np.array([0.02, 0.01, 0.02]), three / 100) == pytest.approx(error)
    # of one block everything comes
    assert _jackknife(np.array([2.0, 0.0, 0.0]), np.array([4.0, 0.0, 0.0])) == 1.5


@pytest.mark.parametrize(
    ("slope", "found", "error"),
    [
        (-1.4, 0.54, 0.0),  # 1.4 steps of 0.1, and a bit less
        (-1.5, 0.55, 0.0),
        (-4.0, 0.55, 0.25),  # it is said to be 2.5 steps farther than it is followed
        (4.0, 0.45, 0.25),
        (400.0, 0.45, 1.0),  # no more than the whole range
    ],
)
def test_a_minimum_that_is_not_reached_is_not_known(slope, found, error):
    center = {**CENTER, "defocus": 0.4 if slope < 0 else 0.6}
    points = both_sides(DIMENSIONS, center, {"defocus": 0.1})
    offsets = np.array([0, 1, -1])[:, np.newaxis]
    common = np.array([7.0, 3.0, 1.0, 2.0])
    done = trials(points, common + slope * offsets + offsets**2 / 2)
    optimum = parabolas(DIMENSIONS, center, {"defocus": 0.1}, done)
    assert optimum.point["defocus"] == pytest.approx(found)
    assert optimum.errors["defocus"] == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize(
    ("bend", "scatter", "expected"),
    [
        (50.0, 1.0, 0.1),  # it rises by 25 standard errors
        (20.0, 1.0, 0.2),  # by 10
        (-1.0, 1.0, 0.3),  # it does not rise: five times as much, but not more than 0.3
        (16.0, 2.0, 0.3),  # 0.5 would be
        (0.0, 0.0, 0.3),
    ],
)
def test_steps_are_widened_until_the_rise_is_clear(bend, scatter, expected):
    slope = -1 + scatter * np.array([1.0, -1.0, 1.0, -1.0, 0.0]) * math.sqrt(5)
    done = looks(np.full(5, bend), slope, common=(7.0, 3.0, 1.0, 2.0, 2.0))
    # nothing is known of what has not been tried
    found = widened(DIMENSIONS, CENTER, STEPS, done[:3])
    assert found == {"defocus": pytest.approx(expected), "C12a": 0.2}


def test_one_score_tells_no_error():
    points = both_sides(DIMENSIONS, CENTER, {"defocus": 0.1})
    rising, flat = ([[1.0], [y], [y]] for y in (2.0, 1.0))
    for blocks, expected in ((rising, 0.1), (flat, 0.3)):
        found = widened(DIMENSIONS, CENTER, {"defocus": 0.1}, trials(points, blocks))
        assert found == {"defocus": pytest.approx(expected)}
    small = {"defocus": 0.02}
    points = both_sides(DIMENSIONS, CENTER, small)
    found = widened(DIMENSIONS, CENTER, small, trials(points, flat))
    assert found == {"defocus": pytest.approx(0.1)}  # five times as much


def test_the_lowest_of_three():
    first = Optimum({**CENTER, "step_object": 1.0}, {"C12a": 0.01}, {"C12a": 9.0})
    steps = {"defocus": 0.1, "C12a": 0.2, "step_object": 0.1, "batch_size": 0.1}
    points = both_sides(DIMENSIONS, first.point, steps)[:7]
    # defocus has its best value above, C12a where it is, of the step one trial is missing
    done = trials(points, [[5.0], [4.0], [4.5], [5.5], [5.2], [4.9], [9.0]])[:6]
    found = lowest(DIMENSIONS, first, steps, done)
    assert found.point == pytest.approx(
        {**CENTER, "defocus": 0.6, "step_object": points[5]["step_object"]}
    )
    assert found.errors["step_object"] == found.errors["batch_size"] == 0.05
    # one block tells no error of the parabolas: one and a half steps
    assert found.errors["C12a"] == pytest.approx(0.3)
    assert found.errors["defocus"] == pytest.approx(0.15)
    assert found.curvatures["C12a"] == pytest.approx((5.5 + 5.2 - 10) / 0.2**2)
    # as good: the value stays
    same = lowest(DIMENSIONS, first, {"defocus": 0.1}, trials(points[:3], [[5.0]] * 3))
    assert same.point == first.point
    # nothing was tried: nothing is known
    assert lowest(DIMENSIONS, first, {"defocus": 0.1}, []) == first


def test_the_mean_of_two_lengths():
    names = {"step_object": 0.1, "batch_size": 0.1, "defocus": 0.04, "C12a": 0.04}
    errors = {"defocus": 0.01, "C12a": 0.02}
    first = Optimum({**CENTER, "step_object": 1.0}, errors, {"defocus": 1.0})
    other = {"n_probe_modes": 2, "batch_size": 32, "step_object": 2.0, "defocus": 0.6, "C12a": 0.6}
    later = {"step_object": 0.1, "batch_size": 0.3}
    second = Optimum(other, {**errors, **later, "defocus": 0.02}, {"C12a": 2.0})
    found = combined(DIMENSIONS, first, second, names)
    # a fifth and a twentieth of a step, 0.008 and 0.002, are added to the errors
    weights = np.array([1 / (0.01**2 + 0.008**2), 1 / (0.02**2 + 0.002**2)])
    expected = np.average([0.5, 0.6], weights=weights)
    both = np.array([1 / (0.02**2 + 0.008**2), 1 / (0.02**2 + 0.002**2)])
    same = np.average([0.4, 0.6], weights=both)
    assert found.point == pytest.approx({**other, "defocus": expected, "C12a": same})
    means = {"defocus": weights.sum() ** -0.5, "C12a": both.sum() ** -0.5}
    assert found.errors == pytest.approx({**later, **means})
    assert found.curvatures == {"defocus": 1.0, "C12a": 2.0}
