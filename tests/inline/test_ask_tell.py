"""Ask and tell without any data: of an own engine, or of the microscope."""

import math

import pytest

import hs_autoptycho
from hs_autoptycho.inline.search import Search
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.tuning.space import Dimension

RANGES = {"defocus": (100, 500), "scan_rotation": (-10, 10)}


def loss(point):
    return ((point["defocus"] - 320) / 100) ** 2 + ((point["scan_rotation"] - 4) / 5) ** 2


def searched(n=24, **options):
    tuner = hs_autoptycho.PtychographyTuner(parameters=RANGES, **options)
    for _ in range(n):
        point = tuner.ask()
        tuner.tell(point, loss(point))
    return tuner


def test_a_known_function():
    tuner = searched()
    parameters, score = tuner.best
    assert abs(parameters["defocus"] - 320) < 20 and abs(parameters["scan_rotation"] - 4) < 1
    assert score == loss(parameters)
    assert "best {" in repr(tuner)


def test_reproducible():
    assert searched(9).best == searched(9).best
    assert searched(9).best != searched(9, random_state=1).best


def test_several_at_a_time():
    tuner = hs_autoptycho.PtychographyTuner(parameters=RANGES)
    points = [tuner.ask() for _ in range(6)]
    assert len({tuple(p.values()) for p in points}) == 6
    assert tuner.best is None
    for point in points:
        tuner.tell(point, loss(point))
    assert tuner.best.score == min(map(loss, points))


def test_failures_are_told():
    tuner = hs_autoptycho.PtychographyTuner(parameters=RANGES)
    for number in range(12):
        point = tuner.ask()
        tuner.tell(point, (None, math.nan, math.inf)[number] if number < 3 else loss(point))
    assert math.isfinite(tuner.best.score)


def test_points_that_nobody_asked_for():
    tuner = hs_autoptycho.PtychographyTuner(parameters={**RANGES, "n_probe_modes": [1, 2]})
    tuner.tell({"defocus": 300, "scan_rotation": 1, "n_probe_modes": 2}, 0.1)
    assert tuner.best.parameters["defocus"] == 300
    for bad, message in (
        ({"defocus": 300}, "scan_rotation is missing"),
        ({"defocus": 600, "scan_rotation": 1, "n_probe_modes": 1}, "outside .* 100 to 500"),
        ({"defocus": 300, "scan_rotation": 1, "n_probe_modes": 3}, r"outside .*\[1, 2\]"),
        ({"defocs": 300}, "defocs is not among"),
    ):
        with pytest.raises(ParameterError, match=message):
            tuner.tell(bad, 0.1)


def test_what_is_known_is_tried_first_and_on_both_sides():
    space = [
        Dimension("defocus", 100.0, 500.0, prior=(300.0, 20.0)),
        Dimension("scan_rotation", -10.0, 10.0, prior=(2.0, 0.5)),
    ]
    search = Search(space, start={"defocus": 300.0, "scan_rotation": 2.0})
    points = []
    for _ in range(6):
        points.append(search.ask())
        search.tell(points[-1], loss(points[-1]))
    assert points[0] == {"defocus": 300.0, "scan_rotation": 2.0}
    assert sorted(p["defocus"] for p in points[:5]) == pytest.approx([260, 300, 300, 300, 340])
    assert sorted(p["scan_rotation"] for p in points[:5]) == pytest.approx([1, 2, 2, 2, 3])
    # the parabola's minimum, as far as it is followed
    assert points[5]["defocus"] == pytest.approx(320)
    assert points[5]["scan_rotation"] == pytest.approx(3.5)


def test_a_finite_space_ends():
    tuner = hs_autoptycho.PtychographyTuner(parameters={"n_probe_modes": [1, 2]})
    for _ in range(2):
        tuner.tell(tuner.ask(), 1.0)
    with pytest.raises(ParameterError, match="has been tried"):
        tuner.ask()


def test_options_are_checked():
    make = hs_autoptycho.PtychographyTuner
    with pytest.raises(ParameterError, match="no data yet"):
        make().ask()
    with pytest.raises(ParameterError, match="no data yet"):
        make(parameters=["defocus"]).ask()
    with pytest.raises(ParameterError, match="both in"):
        make(parameters=RANGES, fixed={"defocus": 3})
    with pytest.raises(TypeError, match="Unknown fixed parameter 'defocs'"):
        make(fixed={"defocs": 3})
    for bad in ({"pictures": (0.5, 0.2)}, {"pictures": (0.0,)}, {"picture_score": "psnr"},
                {"n_trials": -1}, {"n_iterations": 0}, {"random_state": -1}):  # fmt: skip
        with pytest.raises(ValueError):
            make(parameters=RANGES, **bad)
