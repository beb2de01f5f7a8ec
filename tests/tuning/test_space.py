"""The description of a search: ranges, lists, single values."""

import json
import math

import numpy as np
import pytest

from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.tuning.space import Dimension, read_space, size


def test_ranges_lists_and_single_values():
    dimensions, held = read_space(
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
        Dimension("batch_size", 8, 64),
        Dimension("detector_flip", choices=("transpose", "none")),
        Dimension("algorithm", choices=("epie", "lsq-ml")),
    ]
    assert held == {"C30": 1e4, "noise_model": "poisson", "scan_scale": 1.1}
    assert [d.integer for d in dimensions] == [False, False, True, True, False, False]
    assert type(dimensions[3].high) is int and type(dimensions[0].high) is float
    for dimension in dimensions:
        entry = dimension.to_dict()
        assert json.loads(json.dumps(entry)) == entry


def test_arrays_and_ranges_are_lists_of_values():
    dimensions, _ = read_space(
        {"n_probe_modes": range(1, 4), "defocus": np.linspace(100, 300, 3), "C30": np.array([2, 1])}
    )
    assert [d.choices for d in dimensions] == [(1, 2, 3), (100.0, 200.0, 300.0), (1.0, 2.0)]
    assert [type(v) for v in dimensions[1].choices] == [float] * 3


def test_nothing_to_tune():
    assert read_space({}) == ([], {})
    assert read_space({"defocus": 300}) == ([], {"defocus": 300.0})


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
        ({"defocus": None}, "defocus=None"),
        ({"defocus": {1: 2}}, "defocus="),
        ({"detector_flip": ["none", "sideways"]}, "detector_flip='sideways'.*transpose"),
        ({"beam_energy": (80, 300)}, "beam_energy=.*cannot be tuned"),
        ({"reciprocal_pixel": [0.1, 0.2]}, "reciprocal_pixel=.*cannot be tuned"),
        ([("defocus", (1, 2))], "a dictionary is needed"),
        ("defocus", "a dictionary is needed"),
    ],
    ids=repr,
)
def test_what_makes_no_space_is_named(parameters, message):
    with pytest.raises(ParameterError, match=message):
        read_space(parameters)


def test_unknown_names():
    with pytest.raises(TypeError, match="'rotation'.*'scan_rotation'"):
        read_space({"rotation": (0, 1)})


def test_size():
    def of(parameters):
        return size(read_space(parameters)[0])

    assert of({"n_probe_modes": [1, 2, 4], "detector_flip": ["none", "rows"]}) == 6
    assert of({"n_probe_modes": (1, 4), "aperture": ["disk", "measured"]}) == 8
    assert of({"n_probe_modes": (1, 4), "defocus": (1, 2)}) == math.inf
