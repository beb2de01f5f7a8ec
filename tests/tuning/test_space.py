"""The description of a search: ranges, lists, single values."""

import json
import math

import numpy as np
import pytest

from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError
from hs_autoptycho.ptycho.stages import check_together
from hs_autoptycho.tuning.couplings import CONDITIONS, DEGENERATE_PAIRS, Condition
from hs_autoptycho.tuning.space import (
    Dimension,
    all_points,
    complete_point,
    degenerate_notes,
    read_space,
    settle,
    size,
    two_values_notes,
)


def test_ranges_lists_and_single_values():
    dimensions, held, wanted = read_space(
        {
            "scan_rotation": (-180, np.float32(0)),
            "defocus": (100, 4e5, "log"),
            "n_probe_modes": [4, 1, 2, 2],
            "batch_size": (8, np.int64(64)),
            "detector_flip": ["transpose", "none"],
            "algorithm": ("epie", "lsq-ml"),
            "C30": np.float64(1e4),
            "noise_model": "poisson",
            "scan_scale": [1.1],
        }
    )
    assert dimensions == [
        Dimension("scan_rotation", -180.0, 0.0),
        Dimension("defocus", 100.0, 4e5, log=True),
        Dimension("n_probe_modes", choices=(1, 2, 4)),
        Dimension("batch_size", 8, 64, condition=CONDITIONS["batch_size"]),
        Dimension("detector_flip", choices=("transpose", "none")),
        Dimension("algorithm", choices=("epie", "lsq-ml")),
    ]
    assert wanted == []
    assert held == {"C30": 1e4, "noise_model": "poisson", "scan_scale": 1.1}
    assert [d.integer for d in dimensions] == [False, False, True, True, False, False]
    assert type(dimensions[3].high) is int and type(dimensions[0].high) is float
    for dimension in dimensions:
        entry = dimension.to_dict()
        assert json.loads(json.dumps(entry)) == entry


def test_arrays_and_ranges_are_lists_of_values():
    dimensions, _, _ = read_space(
        {"n_probe_modes": range(1, 4), "defocus": np.linspace(100, 300, 3), "C30": np.array([2, 1])}
    )
    assert [d.choices for d in dimensions] == [(1, 2, 3), (100.0, 200.0, 300.0), (1.0, 2.0)]
    assert [type(v) for v in dimensions[1].choices] == [float] * 3


def test_nothing_to_tune():
    assert read_space({}) == ([], {}, [])
    assert read_space({"defocus": 300}) == ([], {"defocus": 300.0}, [])


def test_names_ask_for_default_ranges():
    names = ["defocus", "C12a", "defocus"]
    assert read_space(names) == ([], {}, ["defocus", "C12a"])
    dimensions, held, wanted = read_space({"defocus": None, "C12a": (-5, 5), "C30": 1})
    assert wanted == ["defocus"]
    assert [d.name for d in dimensions] == ["C12a"]
    assert held == {"C30": 1.0}


def test_dictionaries_have_a_scale_and_a_belief():
    dimensions, held, _ = read_space(
        {
            "thickness": {"range": (20, 400), "scale": "log", "prior": (90, np.float32(8))},
            "n_slices": {"range": [1, 4, 2], "prior": (2, 1)},
            "defocus": {"range": (100, 200)},
            "C30": {"range": [7]},
        }
    )
    assert dimensions == [
        Dimension("thickness", 20.0, 400.0, (), True, (90.0, 8.0), Condition("n_slices", above=1)),
        Dimension("n_slices", choices=(1, 2, 4), prior=(2.0, 1.0)),
        Dimension("defocus", 100.0, 200.0),
    ]
    assert held == {"C30": 7.0}
    entry = dimensions[0].to_dict()
    assert entry["prior"] == [90.0, 8.0] and entry["condition"] == "n_slices > 1"
    assert json.loads(json.dumps(entry)) == entry


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"scan_rotation": (-1000, 0)}, "scan_rotation=-1000.*-360 to 360 degrees"),
        ({"n_probe_modes": [1, 2, 99]}, "n_probe_modes=99.*1 to 64"),
        ({"n_probe_modes": (1, 2.5)}, "n_probe_modes=2.5.*whole"),
        ({"defocus": (300, 100)}, "defocus=.300, 100.*lower limit"),
        ({"defocus": (300, 300)}, "lower limit"),
        ({"defocus": (-100, 300, "log")}, "logarithmic"),
        ({"defocus": (0, 300, "log")}, "logarithmic"),
        ({"defocus": (100, 200, 300)}, r"a range is \(low, high\).*list"),
        ({"defocus": (100,)}, r"a range is \(low, high\)"),
        ({"defocus": (100, math.nan)}, "defocus=nan"),
        ({"defocus": (100, math.inf)}, "defocus=inf"),
        ({"defocus": ("a", 3)}, "defocus='a'"),
        ({"defocus": []}, "nothing to choose"),
        ({"beam_energy": None}, "beam_energy: .*cannot be tuned"),
        (["defocus", "early_stopping"], "early_stopping: .*cannot be tuned"),
        ({"defocus": {1: 2}}, "defocus=.*1 is unknown.*'range'"),
        ({"defocus": {"range": (1, 2), "step": 2}}, "'step' is unknown"),
        ({"defocus": {"prior": (1, 2)}}, "defocus=.*give the limits"),
        ({"defocus": {"range": (1, 2), "scale": "sqrt"}}, "'linear' or 'log'"),
        ({"defocus": {"range": (-1, 2), "scale": "log"}}, "starts above 0"),
        ({"defocus": {"range": [1, 2], "scale": "log"}}, "only a range"),
        ({"defocus": {"range": (1, 2), "prior": 3}}, "defocus: a prior is .*not 3"),
        ({"defocus": {"range": (1, 2), "prior": (3, 0)}}, "above 0"),
        ({"defocus": {"range": (1, 2), "prior": (math.nan, 1)}}, "finite"),
        ({"detector_flip": {"range": ["none", "rows"], "prior": (1, 2)}}, "of a number"),
        ({"detector_flip": ["none", "sideways"]}, "detector_flip='sideways'.*transpose"),
        ({"beam_energy": (80, 300)}, "beam_energy=.*cannot be tuned"),
        ({"reciprocal_pixel": [0.1, 0.2]}, "reciprocal_pixel=.*cannot be tuned"),
        ([("defocus", (1, 2))], "a dictionary is needed"),
        (3, "a dictionary is needed.*list of names"),
        ("defocus", "a dictionary is needed"),
    ],
    ids=repr,
)
def test_what_makes_no_space_is_named(parameters, message):
    with pytest.raises(ParameterError, match=message):
        read_space(parameters)


def test_unknown_names():
    for parameters in ({"rotation": (0, 1)}, ["rotation"], {"rotation": None}):
        with pytest.raises(TypeError, match="'rotation'.*'scan_rotation'"):
            read_space(parameters)


def test_size():
    def of(parameters):
        return size(read_space(parameters)[0])

    assert of({"n_probe_modes": [1, 2, 4], "detector_flip": ["none", "rows"]}) == 6
    assert of({"n_probe_modes": (1, 4), "aperture": ["disk", "measured"]}) == 8
    assert of({"n_probe_modes": (1, 4), "defocus": (1, 2)}) == math.inf


SLICES = {
    "n_slices": [1, 2, 4],
    "thickness": (20, 400),
    "tilt_x": (-5, 5),
    "regularization_depth": (0.1, 10, "log"),
    "algorithm": ["lsq-ml", "gradient"],
    "momentum": [0, 0.5],
    "batch_size": (8, 64),
}


def test_points_hold_what_matters_alone():
    dimensions, _, _ = read_space(SLICES)
    everything = {
        "n_slices": 2, "thickness": 30.0, "tilt_x": 1.0, "regularization_depth": 1.0,
        "algorithm": "lsq-ml", "momentum": 0.5, "batch_size": 9,
    }  # fmt: skip
    assert complete_point(dimensions, everything) == everything
    assert complete_point(dimensions, {**everything, "n_slices": 1}) == {
        "n_slices": 1, "algorithm": "lsq-ml", "momentum": 0.5, "batch_size": 9,
    }  # fmt: skip
    left = complete_point(dimensions, {**everything, "algorithm": "gradient"})
    assert set(everything) - set(left) == {"momentum", "batch_size"}
    alone = Dimension("thickness", 1.0, 2.0, condition=CONDITIONS["thickness"])
    assert alone.active({})  # the number of slices is held


def test_size_and_points_of_a_space_with_conditions():
    dimensions, _, _ = read_space(
        {"n_slices": [1, 2, 4], "thickness": [20, 30], "tilt_x": [0, 1, 2], "C30": [1, 2, 3, 4, 5]}
    )
    assert size(dimensions) == 5 * (1 + 6 + 6)
    points = all_points(dimensions)
    assert len({tuple(p.items()) for p in points}) == len(points) == 65
    assert size(read_space(SLICES)[0]) == math.inf


def test_no_point_is_refused():
    space = {"n_slices": (1, 3), "thickness": [20, 40], "regularization_depth": [0.5, 1]}
    dimensions, held, _ = read_space(space)
    points = all_points(settle(dimensions, held)[0])
    for point in points:
        check_together({**everything_off(), **point}, counted=True)
    assert sum(p["n_slices"] == 1 for p in points) == 1
    with pytest.raises(ParameterError):  # what the condition is there for
        check_together({**everything_off(), "regularization_depth": 1.0}, counted=True)


def everything_off():
    return {name: parameter.default for name, parameter in PARAMETERS.items()}


def test_what_is_held_is_left_out_where_it_would_be_refused():
    dimensions, held, _ = read_space({"n_slices": [1, 2], "thickness": 30})
    held |= {"regularization_depth": 1.0, "tilt_correction_start": 4, "defocus": 3.0}
    dimensions, left = settle(dimensions, held)
    assert left == {"thickness": 30.0, "defocus": 3.0}
    points = all_points(dimensions)
    assert points == [
        {"n_slices": 1},
        {"n_slices": 2, "regularization_depth": 1.0, "tilt_correction_start": 4},
    ]
    for point in points:
        check_together({**everything_off(), **left, **point}, counted=True)
    assert held["regularization_depth"] == 1.0  # of the caller


@pytest.mark.parametrize(
    "parameters, held, message",
    [
        ({"thickness": (1, 2)}, {}, "thickness is tuned but has no effect: n_slices is 1 and"),
        ({"tilt_x": (1, 2)}, {"n_slices": 1}, "n_slices > 1 is needed"),
        ({"source_size": (0, 2)}, {}, "n_probe_modes > 1"),
        ({"momentum": (0, 0.5)}, {"algorithm": "epie"}, "algorithm = lsq-ml is needed"),
        ({"n_slices": [1, 2]}, {}, "thickness in Å: give its range"),
    ],
    ids=repr,
)
def test_what_is_tuned_in_vain_is_refused(parameters, held, message):
    dimensions, _, _ = read_space(parameters)
    with pytest.raises(ParameterError, match=message):
        settle(dimensions, held)


def test_what_matters_is_not_refused():
    dimensions, _, _ = read_space({"thickness": (1, 2), "convergence_angle": (20, 22)})
    assert settle(dimensions, {"n_slices": 3}) == (dimensions, {"n_slices": 3})


def test_values_and_places_are_inverse():
    dimensions, _, _ = read_space(
        {
            "defocus": (100, 1e5, "log"),
            "batch_size": (8, 64, "log"),
            "n_slices": (1, 5),
            "detector_flip": ["none", "rows", "both"],
            "n_probe_modes": [1, 2, 4, 6],
        }
    )
    places = np.linspace(0, 1, 200)
    for d in dimensions:
        values = [d.value(place) for place in places]
        assert all(d.value(d.place(v)) == pytest.approx(v, rel=1e-12) for v in values[::9] if
                   not isinstance(v, str))  # fmt: skip
        assert all(0 <= d.place(v) <= 1 for v in values)
    log, batch, slices, flips, modes = dimensions
    assert (log.value(0), log.value(1)) == pytest.approx((100, 1e5))
    assert log.value(0.5) == pytest.approx(10**3.5)
    assert (batch.value(0), batch.value(1)) == (8, 64) and type(batch.value(0.3)) is int
    counts = np.unique([slices.value(p) for p in places], return_counts=True)[1]
    assert len(counts) == 5 and np.ptp(counts) <= 2  # the ends are as likely as the others
    assert flips.value(flips.place("rows")) == "rows"
    assert modes.value(0.99) == 6


def test_nearest_values():
    dimensions, _, _ = read_space(
        {"defocus": (10, 30), "n_slices": (1, 6), "n_probe_modes": [1, 2, 4],
         "detector_flip": ["rows", "both"]}
    )  # fmt: skip
    defocus, slices, modes, flip = dimensions
    assert [defocus.nearest(v) for v in (5, 12, 90, None)] == [10, 12, 30, 20]
    assert [slices.nearest(v) for v in (0, 2.2, None)] == [1, 2, 4]
    assert [modes.nearest(v) for v in (4, 7, 1.2, None)] == [4, 4, 1, 2]
    assert [flip.nearest(v) for v in ("both", "none", None)] == ["both", "rows", "rows"]


def test_pairs_that_are_alike_are_named():
    for first, second, reason in DEGENERATE_PAIRS:
        assert {first, second} <= set(PARAMETERS) and reason
        pair = [
            Dimension("scan_rotation", 0.0, 1.0),
            *(Dimension(n, 0, 1) for n in (first, second)),
        ]
        (note,) = degenerate_notes(pair)
        assert first in note and second in note and reason in note
    assert degenerate_notes(read_space({"defocus": (1, 2), "scan_rotation": (0, 1)})[0]) == []


def test_two_numbers_in_a_list_may_be_meant_for_a_range():
    dimensions, *_ = read_space(
        {"defocus": [100, 400], "scan_rotation": (0, 1), "n_probe_modes": [1, 2], "C12a": [0, 1, 2]}
    )
    (note,) = two_values_notes(dimensions)
    assert note.startswith("defocus: only the values 100 and 400 are tried")
    assert "`(100, 400)`" in note


def test_an_array_in_a_dictionary_is_a_list_of_values():
    ((dimension,), _, _) = read_space({"defocus": {"range": np.array([300.0, 100.0, 200.0])}})
    assert dimension.choices == (100.0, 200.0, 300.0)


def test_size_of_a_space_with_conditions():
    modes = Dimension("n_probe_modes", choices=(1, 2, 4))
    slices = Dimension("n_slices", choices=(1, 2, 8))
    thickness = Dimension("thickness", choices=(10.0, 20.0), condition=CONDITIONS["thickness"])
    # one slice has no thickness: 3 · (1 + 2 · 2)
    assert size([modes, slices, thickness]) == 15 == len(all_points([modes, slices, thickness]))
    assert size([modes, Dimension("defocus", 0.0, 100.0)]) == math.inf
    assert size([Dimension("batch_size", 8, 64)]) == 57
