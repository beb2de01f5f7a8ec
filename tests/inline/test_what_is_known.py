"""What a scan and its trials say, what is held, and what is only expected."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.inline.frames import Frames
from hs_autoptycho.inline.improving import (
    best_parameters,
    gain_of,
    guessed,
    learn,
    offsets_of,
    search_for,
    tuned_names,
)
from hs_autoptycho.inline.offsets import Value, predicted
from hs_autoptycho.inline.proposals import next_settings
from hs_autoptycho.inline.recording import Recording
from hs_autoptycho.inline.search import Search
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.tuning.polish import Optimum
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

RANGE = Dimension("defocus", 100.0, 300.0)


def recording(settings=None, **actual):
    """A scan of which something was measured."""
    values = {name: Value(*pair) for name, pair in actual.items()}
    seen = {f"{name}{end}": v for name, pair in values.items()
            for end, v in (("", pair.value), ("_error", pair.error))}  # fmt: skip
    out = Recording(0, settings or {}, Frames((4, 3)))
    out.actual, out.measured, out.observed = dict(values), dict(values), dict(values)
    out.estimate = SimpleNamespace(**seen)
    return out


def searched(d, value, error=0.01):
    """A search whose parabola has its minimum somewhere, with an error in parts of the range."""
    errors = {} if error is None else {d.name: error}
    best = SimpleNamespace(parameters={d.name: value}, number=0)
    return SimpleNamespace(
        dimensions=[d], best=best, optimum=lambda: Optimum({d.name: value}, errors, {})
    )


def test_what_is_held_is_no_measurement():
    """The setting stays where it is, whatever the parameter is held at."""
    scans, asked = [], 0.0
    for _ in range(4):
        scan = recording({"scan_rotation": asked})
        scan.actual = {"scan_rotation": scan._known("scan_rotation", None, {"scan_rotation": 5.0})}
        scans.append(scan)
        assert scan.actual["scan_rotation"] == Value(5.0, 0.0)
        offset = predicted(offsets_of(scans, "scan_rotation", {"scan_rotation": 0.0}))
        offsets = {} if offset is None else {"scan_rotation": offset}
        found = next_settings({"scan_rotation": 0.0}, scan.settings, offsets, {})
        asked = found.settings["scan_rotation"]
    assert asked == 0


@pytest.mark.parametrize(("drift", "error"), [(2.0, 2.0), (5.0, 2.0)])
def test_expectations_are_not_fed_back(drift, error):
    """What is stated as the error of the next offset is that of what it really is."""
    generator = np.random.default_rng(4)
    missed, stated, kept = [], [], []
    for _ in range(150):
        walk, scans = 100 + np.cumsum(generator.normal(0, drift, 13)), []
        for there in walk[:-1]:
            guess = predicted(offsets_of(scans, "defocus", {"defocus": 0.0}))
            scan = recording({"defocus": 0.0}, defocus=(there + generator.normal(0, error), error))
            scan.expected = {} if guess is None else {"defocus": guess}
            scan.actual["defocus"] = scan._known("defocus", scan.seen("defocus"), {})
            scans.append(scan)
        kept.append(scans[-1].actual["defocus"].error)
        guess = predicted(offsets_of(scans, "defocus", {"defocus": 0.0}))
        missed.append(guess.value - walk[-1])
        stated.append(guess.error)
    rms = np.sqrt(np.mean(np.square(missed)))
    assert 0.85 < np.mean(stated) / rms < 1.4
    assert np.mean(kept) < error  # what was expected is of use for the picture


def test_what_was_not_measured_is_no_offset():
    scan = recording({"defocus": 200.0})
    scan.expected = {"defocus": Value(300.0, 5.0)}
    scan.actual["defocus"] = scan._known("defocus", None, {})
    assert scan.actual["defocus"] == Value(300.0, 5.0)
    assert offsets_of([scan], "defocus", {}) == []


def test_trials_count_where_nothing_was_measured():
    scan = recording(defocus=(150.0, math.inf))
    search = searched(RANGE, 210.0)
    assert best_parameters(search, scan) == {"defocus": 210.0}
    found = search_for([RANGE], [], {}, scan, n_trials=5, random_state=0)
    assert found.start is None and found.dimensions[0].prior is None
    assert guessed([RANGE], scan) == {"defocus": 150.0}
    assert guessed([RANGE], recording()) == {"defocus": 200.0}
    assert guessed([RANGE], recording(defocus=(180.0, 2.0))) == {}


@pytest.mark.parametrize("log", [False, True])
def test_trials_and_measurement_together(log):
    d = Dimension("defocus", 100.0, 300.0, log=log)
    scan = recording(defocus=(205.0, 6.0))
    learn(searched(d, 210.0), scan)
    assert 205 < scan.actual["defocus"].value < 210 and scan.actual["defocus"].error < 6
    assert best_parameters(searched(d, 210.0), scan)["defocus"] == scan.actual["defocus"].value


def test_a_side_that_failed_leaves_the_lowest_score():
    scan, search = recording(defocus=(205.0, 6.0)), searched(RANGE, 230.0, error=None)
    learn(search, scan)
    assert scan.actual["defocus"] == Value(205.0, 6.0)
    assert best_parameters(search, scan) == {"defocus": 230.0}


@pytest.mark.parametrize("measured", [(-205.0, 2.0), (150.0, 2.0)])
def test_contradictions_are_not_averaged(measured):
    """The conjugate side, and what the trials exclude."""
    scan = recording(defocus=measured)
    for _ in range(2):
        learn(searched(RANGE, 210.0), scan)
    assert scan.actual["defocus"] == Value(210.0, pytest.approx(6.0))
    assert scan.observed["defocus"] == scan.actual["defocus"]
    assert len(scan.notes) == 1 and "the trials find 210 ± 6" in scan.notes[0]


def test_rotations_are_taken_in_the_turn_of_the_range():
    d = Dimension("scan_rotation", -10.0, 10.0, prior=(0.0, 3.0))
    scan = recording(scan_rotation=(355.0, 0.2))
    found = search_for([d], [], {}, scan, n_trials=5, random_state=0)
    assert found.start == {"scan_rotation": -5.0} and found.dimensions[0].prior == (0.0, 3.0)


def test_slices_need_a_thickness():
    assert tuned_names([], ["n_slices"], {}) == ["n_slices", "thickness"]
    assert tuned_names([], ["n_slices"], {"thickness": 50.0}) == ["n_slices"]
    assert tuned_names([], [], {"scan_rotation": 5, "defocus": 295}) == []


def test_scores_of_two_kinds_are_kept_apart():
    search = Search([RANGE])
    search.tell({"defocus": 150.0}, 1.0)
    trial = Trial(1, {"defocus": 160.0}, Fidelity(1), objective=0.5)
    with pytest.raises(ParameterError, match="not to be mixed"):
        search.tell({"defocus": 160.0}, 0.5, trial=trial)
    assert len(search.trials) == 1
    search = Search([RANGE])
    search.tell({"defocus": 160.0}, 0.5, trial=trial)
    search.tell({"defocus": 160.0}, 0.5, trial=trial)
    with pytest.raises(ParameterError, match="not to be mixed"):
        search.tell({"defocus": 150.0}, 1.0)


def test_the_gain_needs_no_patterns():
    """They are let go as soon as another scan begins."""
    scans = []
    for asked, score in ((200.0, 0.6), (150.0, 0.5)):
        scan = recording({"defocus": asked}, defocus=(asked + 100, 2.0), scan_rotation=(5.0, 0.0))
        scan.score, scan.scales = score, {"defocus": 90.0, "scan_rotation": 2.0}
        scan.release()
        scans.append(scan)
    target, offsets = {"defocus": 200.0, "scan_rotation": 0.0}, {"defocus": Value(100.0, 2.0)}
    proposal = next_settings(target, scans[-1].settings, offsets, {})
    gain, error = gain_of(proposal, scans, target, offsets)
    # 0.1 between squared distances of 1e4 and 50² Å²; what is held does not get better
    assert gain == pytest.approx(0.1 * 2500 / 7500, rel=0.01) and error < gain
