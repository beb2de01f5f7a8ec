"""What is said of a search, and from where on it is said."""

from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.tuning.sentences import (
    about_flat_directions,
    about_parameters,
    about_trials,
    is_wide,
)
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

FULL, CHEAP = Fidelity(20), Fidelity(5)
DEFOCUS = Dimension("defocus", 0.0, 1000.0)
NUMBERS = [DEFOCUS, Dimension("scan_rotation", -180.0, 180.0), Dimension("C12a", -50.0, 50.0)]
SPACE = SimpleNamespace(numbers=NUMBERS)


def direction(along, tied=(True, True, True), start=(0.2, 0.5, 0.5), end=(0.4, 0.75, 0.6)):
    return SimpleNamespace(
        direction=np.array(along), tied=np.array(tied), start=np.array(start), end=np.array(end)
    )


def test_flat_directions():
    (text,) = about_flat_directions(SPACE, [direction([0.9, 0.5, 0.1])], [])
    assert text == (
        "scan_rotation rises with defocus: defocus from 200 Å to 400 Å and scan_rotation from 0° "
        "to 90° together, and the objective stays within its noise. One of them has to be known "
        "from elsewhere."
    )
    # a quarter of the largest share counts, and the first of them rises
    (text,) = about_flat_directions(SPACE, [direction([-0.8, 0.4, 0.2])], [])
    assert text.startswith(
        "scan_rotation falls and C12a falls with defocus: defocus from 400 Å to 200 Å, "
        "scan_rotation from 90° to 0° and C12a from 10 Å to 0 Å together"
    )
    (text,) = about_flat_directions(SPACE, [direction([0.8, 0.4, 0.19])], [])
    assert "C12a" not in text


def test_a_direction_along_one_parameter():
    alone = direction([0.1, 0.0, -1.0], (False, False, False))
    expected = "The objective hardly changes with C12a from 10 Å to 0 Å."
    assert about_flat_directions(SPACE, [alone], []) == [expected]
    # that its interval is wide says the same
    assert about_flat_directions(SPACE, [alone], ["C12a"]) == []
    # of several that are not tied none is named
    assert about_flat_directions(SPACE, [direction([1, 0.5, 0], (True, False, False))], []) == []
    # of those that are only these
    (text,) = about_flat_directions(SPACE, [direction([1, 0.5, 0.4], (True, False, True))], [])
    assert text.startswith("C12a rises with defocus: ")
    twice = [direction([1, 0.5, 0], (True, False, False)), alone]
    assert about_flat_directions(SPACE, twice, []) == [expected]


def some_trials(*statuses):
    return [
        Trial(i, {}, FULL, status=status, message=message)
        for i, (status, message) in enumerate(statuses)
    ]


def test_trials():
    best = Trial(0, {}, FULL)
    assert about_trials([best], [DEFOCUS], best, FULL, 5, 0.1) == []
    assert about_trials([best], [DEFOCUS], best, FULL, 5, np.nan) == []
    (text,) = about_trials([best], [DEFOCUS], best, FULL, 4, 1.0)
    assert text.startswith("Only 4 trials can be used for 1 parameter; ") and "about 5 to" in text
    (text,) = about_trials([best], NUMBERS, best, FULL, 10, 1.0)
    assert text.startswith("Only 10 trials can be used for 3 parameters; ") and "about 11" in text
    (text,) = about_trials([best], [DEFOCUS], Trial(0, {}, CHEAP), FULL, 9, 1.0)
    assert text.startswith("No trial of full length")
    (text,) = about_trials([best], [DEFOCUS], best, FULL, 9, 0.0)
    assert "(correlation 0.00) and were not believed" in text
    trials = some_trials(("failed", "one"), ("diverged", "two"), ("diverged", ""), ("pruned", "x"))
    (text,) = about_trials(trials, [DEFOCUS], best, FULL, 9, 1.0)
    assert text == "3 of 4 trials failed or diverged; the last reason: two."
    trials[0].purpose, trials[3].purpose = "both sides", "halves"
    first, text = about_trials(trials, [DEFOCUS], best, FULL, 9, 1.0)
    assert first.startswith("3 of 4 trials failed") and text.startswith("1 of them was to tell")
    trials[1].purpose = "halves"
    _, text = about_trials(trials, [DEFOCUS], best, FULL, 9, 1.0)
    assert text.startswith("2 of them were to tell where the optimum is")
    (text,) = about_trials(trials[2:], [DEFOCUS], best, FULL, 9, 1.0)
    assert text == "1 of 2 trials failed or diverged."


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ({}, False),
        ({"low": 100.0, "high": 600.0}, False),
        ({"low": 100.0, "high": 601.0}, True),
        ({"choices": [1, 2], "probabilities": [0.5, 0.5]}, False),
        ({"choices": [1, 2, 3], "probabilities": [0.2, 0.31, 0.49]}, True),
        ({"choices": [1, 2, 3], "probabilities": [0.2, 0.3, 0.5]}, False),
    ],
)
def test_wide_intervals(interval, expected):
    assert is_wide(DEFOCUS, interval) is expected


def about(d, value, interval=None, wide=()):
    best = SimpleNamespace(parameters={} if value is None else {d.name: value})
    return about_parameters([d], best, {d.name: interval} if interval else {}, wide)


def test_what_the_trials_do_not_tell():
    modes = Dimension("n_probe_modes", choices=(1, 2, 4))
    intervals = {
        "defocus": {"low": 100.0, "high": 700.0},
        "n_probe_modes": {"choices": [1, 2, 4], "probabilities": [0.4, 0.25, 0.35]},
        "C12a": {"low": -40.0, "high": 40.0},
    }
    best = SimpleNamespace(parameters={"defocus": 0.0, "n_probe_modes": 4, "C12a": 0.0})
    dimensions = [DEFOCUS, modes, NUMBERS[2]]
    assert about_parameters(dimensions, best, intervals, list(intervals)) == [
        "The trials do not tell defocus (68 % interval 100 Å to 700 Å), n_probe_modes (no choice "
        "above 40%) and C12a (68 % interval -40 Å to 40 Å)."
    ]
    (one, other) = about_parameters(dimensions, best, intervals, ["C12a"])[:2]
    assert "optimum of defocus (0 Å)" in one and "optimum of n_probe_modes (4)" in other
    (last,) = about_parameters(dimensions[2:], best, intervals, ["C12a"])
    assert last == "The trials do not tell C12a (68 % interval -40 Å to 40 Å)."


@pytest.mark.parametrize(
    ("value", "interval", "way"),
    [
        (500.0, None, None),
        (19.0, None, "smaller"),
        (21.0, None, None),
        (981.0, None, "larger"),
        (979.0, None, None),
        # an interval that is narrow and ends at a limit
        (100.0, {"low": 10.0, "high": 250.0}, "smaller"),
        (900.0, {"low": 760.0, "high": 985.0}, "larger"),
        # one that reaches it from afar, but for the best itself
        (100.0, {"low": 10.0, "high": 270.0}, None),
        (900.0, {"low": 740.0, "high": 995.0}, None),
        (10.0, {"low": 5.0, "high": 400.0}, "smaller"),
        (None, {"low": 5.0, "high": 40.0}, None),
    ],
)
def test_an_optimum_at_a_limit(value, interval, way):
    limit = {"smaller": "0 Å", "larger": "1000 Å"}.get(way)
    expected = []
    if way:
        expected = [
            f"The optimum of defocus ({value:.4g} Å) is at the limit of its range, {limit}: "
            f"search {way} values too."
        ]
    assert about(DEFOCUS, value, interval) == expected


def test_limits_beyond_which_nothing_is():
    blur = Dimension("detector_blur", 0.0, 1.5)
    assert about(blur, 0.0) == []
    (text,) = about(blur, 1.5)
    assert text.endswith("(1.5) is at the limit of its range, 1.5: search larger values too.")
    modes = Dimension("n_probe_modes", choices=(1, 2, 4))
    assert about(modes, 1) == [] and about(modes, 2) == []
    (text,) = about(modes, 4)
    assert "of n_probe_modes (4) is at the limit of its range, 4: search larger" in text
    (text,) = about(Dimension("n_probe_modes", choices=(2, 3, 4)), 2)
    assert "search smaller" in text
    # a list of two says what is wanted, and names have no limits
    assert about(Dimension("n_probe_modes", choices=(2, 4)), 4) == []
    assert about(Dimension("detector_flip", choices=("none", "rows", "both")), "none") == []
    # small ranges of whole numbers are lists in an interval
    of_range = {"choices": [1, 2, 3], "probabilities": [0.1, 0.1, 0.8]}
    (text,) = about(Dimension("n_probe_modes", 1, 3), 3, of_range)
    assert "search larger" in text


def test_a_whole_turn_has_no_limits():
    turn = NUMBERS[1]
    assert about(turn, 180.0) == []
    (text,) = about(Dimension("scan_rotation", -170.0, 180.0), 180.0)
    assert "of scan_rotation (180°) is at the limit of its range, 180°" in text
    assert len(about(Dimension("scan_rotation", 10.0, 351.0), 351.0)) == 1
    assert len(about(Dimension("C12a", 0.0, 400.0), 400.0)) == 1
