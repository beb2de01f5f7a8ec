"""Dimensions in numbers: places, shares, limits, and what a description may be."""

import math

import numpy as np
import pytest

from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.tuning.space import SLICES, Dimension, all_points, read_space, settle, size


def test_a_range_of_real_numbers():
    d = Dimension("defocus", 100.0, 300.0)
    assert (d.log, d.choices, d.integer, d.ordered, d.count) == (False, (), False, False, math.inf)
    assert [d.value(x) for x in (-1, 0, 0.25, 1, 2)] == [100, 100, 150, 300, 300]
    assert [d.place(v) for v in (100, 150, 300)] == pytest.approx([0, 0.25, 1])
    log = Dimension("defocus", 1.0, 100.0, log=True)
    assert log.value(0.5) == pytest.approx(10) and log.place(10.0) == pytest.approx(0.5)


def test_a_range_of_whole_numbers():
    d = Dimension("n_slices", 1, 4)
    assert (d.integer, d.ordered, d.count) == (True, False, 4)
    # each has a quarter
    places = (0, 0.249, 0.251, 0.499, 0.501, 0.749, 0.751, 1)
    assert [d.value(x) for x in places] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [d.place(v) for v in (1, 2, 4)] == pytest.approx([0.125, 0.375, 0.875])
    log = Dimension("batch_size", 8, 64, log=True)
    low, high = math.log(7.5), math.log(64.5)
    assert log.place(16) == pytest.approx((math.log(16) - low) / (high - low))
    assert log.value(log.place(16)) == 16 and type(log.value(0.5)) is int


def test_choices():
    numbers = Dimension("n_probe_modes", choices=(1, 2, 4))
    names = Dimension("detector_flip", choices=("none", "rows", "both"))
    assert (numbers.ordered, names.ordered, numbers.count, names.count) == (True, False, 3, 3)
    assert [numbers.value(x) for x in (-0.1, 0, 0.33, 0.34, 0.99, 1, 1.1)] == [1, 1, 1, 2, 4, 4, 4]
    assert [names.place(v) for v in ("none", "rows", "both")] == pytest.approx([1 / 6, 0.5, 5 / 6])
    assert [numbers.nearest(v) for v in (-5, 1.4, 1.6, 2.9, 3.2, "2")] == [1, 1, 2, 2, 4, 2]
    assert [names.nearest(v) for v in ("both", "x", 3, None)] == ["both", "none", "none", "none"]


def test_nearest_in_a_range():
    d, whole = Dimension("defocus", 10.0, 30.0), Dimension("n_slices", 1, 6)
    assert [d.nearest(v) for v in (None, "x", 3, 12, 99)] == [20, 20, 10, 12, 30]
    assert type(d.nearest(12)) is float
    assert [whole.nearest(v) for v in (None, 2.6, 9)] == [4, 3, 6]
    assert type(whole.nearest(2.6)) is int


def test_as_a_dictionary():
    d = Dimension("thickness", 20.0, 200.0, log=True, prior=(50.0, 10.0), condition=SLICES)
    assert d.to_dict() == {
        "low": 20.0, "high": 200.0, "log": True, "prior": [50.0, 10.0], "condition": str(SLICES),
    }  # fmt: skip
    assert Dimension("n_slices", choices=(1, 2)).to_dict() == {"choices": [1, 2]}
    assert Dimension("defocus", 1.0, 2.0).to_dict() == {"low": 1.0, "high": 2.0, "log": False}


def test_when_a_parameter_matters():
    d = Dimension("thickness", 20.0, 200.0, condition=SLICES)
    assert d.active({"n_slices": 2}) and d.active({}) and not d.active({"n_slices": 1})
    assert Dimension("defocus", 1.0, 2.0).active({"n_slices": 1})


@pytest.mark.parametrize(
    ("name", "description", "expected"),
    [
        ("defocus", (1, 2), Dimension("defocus", 1.0, 2.0)),
        ("defocus", (0.5, 2, "log"), Dimension("defocus", 0.5, 2.0, log=True)),
        ("defocus", [3, 1, 3, 2], Dimension("defocus", choices=(1.0, 2.0, 3.0))),
        ("defocus", [3, 3], 3.0),
        ("n_slices", (2, 3), Dimension("n_slices", 2, 3)),
        ("detector_flip", ("rows", "none"), Dimension("detector_flip", choices=("rows", "none"))),
        ("detector_flip", ["rows", "rows"], "rows"),
        ("defocus", np.array([2.0, 1.0]), Dimension("defocus", choices=(1.0, 2.0))),
        ("defocus", {"range": (1, 2)}, Dimension("defocus", 1.0, 2.0)),
        ("defocus", {"range": (1, 2), "scale": "log"}, Dimension("defocus", 1.0, 2.0, log=True)),
        ("defocus", {"range": (1, 2), "prior": (5, 0.5)},
         Dimension("defocus", 1.0, 2.0, prior=(5.0, 0.5))),
        ("defocus", {"range": [4], "prior": (5, 0.5)}, 4.0),
        ("defocus", 7, 7.0),
    ],
)  # fmt: skip
def test_descriptions(name, description, expected):
    dimensions, held, wanted = read_space({name: description})
    assert wanted == []
    if isinstance(expected, Dimension):
        assert (dimensions, held) == ([expected], {})
    else:
        assert (dimensions, held) == ([], {name: expected})


@pytest.mark.parametrize(
    "description",
    [
        (2, 1), (1, 1), (1,), (1, 2, 3), (1, 2, "LOG"), (1, 2, "log", 4), (0, 2, "log"), (), [],
        (-1, 2, "log"), {"range": 3}, {"range": (1, 2), "scale": "ln"}, {"ranges": (1, 2)},
        {"range": [1, 2], "scale": "log"}, {"range": (1, 2, 3), "scale": "log"}, {},
        {"range": (1, 2), "prior": (1, 0)}, {"range": (1, 2), "prior": (1, -1)},
        {"range": (1, 2), "prior": (1, math.inf)}, {"range": (1, 2), "prior": (math.nan, 1)},
        {"range": (1, 2), "prior": (1, 2, 3)}, {"range": (1, 2), "prior": 1},
        {"range": (1, 2), "prior": (True, 1)}, {"range": (1, 2), "prior": ("1", 1)},
    ],
    ids=str,
)  # fmt: skip
def test_what_describes_nothing(description):
    with pytest.raises(ParameterError, match="defocus"):
        read_space({"defocus": description})


def test_names_alone():
    assert read_space(["defocus", "C12a"]) == ([], {}, ["defocus", "C12a"])
    assert read_space({"defocus": None, "C12a": 3}) == ([], {"C12a": 3.0}, ["defocus"])
    for other in ("defocus", b"defocus", 3, [1, 2], ["defocus", 3]):
        with pytest.raises(ParameterError, match="a dictionary is needed"):
            read_space(other)
    # one value of what cannot be tuned
    assert read_space({"beam_energy": 80})[1] == {"beam_energy": 80.0}
    for description in (None, (60, 80), [60, 80]):
        with pytest.raises(ParameterError, match="beam_energy.*cannot be tuned"):
            read_space({"beam_energy": description})


def test_what_is_held_beside_slices():
    slices, thickness = Dimension("n_slices", choices=(1, 2)), Dimension("thickness", 20.0, 90.0)
    held = {"thickness": 40.0, "tilt_x": 3.0, "defocus": 9.0}
    dimensions, left = settle([slices], held)
    assert left == {"thickness": 40.0, "defocus": 9.0}
    assert dimensions == [slices, Dimension("tilt_x", choices=(3.0,), condition=SLICES)]
    assert settle([slices, thickness], {"defocus": 9.0}) == ([slices, thickness], {"defocus": 9.0})
    assert held == {"thickness": 40.0, "tilt_x": 3.0, "defocus": 9.0}
    with pytest.raises(ParameterError, match="needs the specimen's thickness"):
        settle([slices], {})
    with pytest.raises(ParameterError, match="is tuned but has no effect: n_slices is 1"):
        settle([Dimension("thickness", 20.0, 90.0, condition=SLICES)], {"defocus": 1.0})


def test_number_of_points():
    slices = Dimension("n_slices", 1, 3)
    thickness = Dimension("thickness", choices=(20.0, 40.0), condition=SLICES)
    modes = Dimension("n_probe_modes", 2, 5)
    assert size([slices, thickness, modes]) == len(all_points([slices, thickness, modes])) == 20
    assert size([modes]) == 4 and [p["n_probe_modes"] for p in all_points([modes])] == [2, 3, 4, 5]
    assert size([slices, thickness, Dimension("defocus", 1.0, 2.0)]) == math.inf
    points = all_points([slices, thickness])
    assert points == [
        {"n_slices": 1}, {"n_slices": 2, "thickness": 20.0}, {"n_slices": 2, "thickness": 40.0},
        {"n_slices": 3, "thickness": 20.0}, {"n_slices": 3, "thickness": 40.0},
    ]  # fmt: skip
