"""Offsets from scan to scan, and what is proposed: signs, limits, gain, and when to stop."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.inline.offsets import Value, combined, drift_variance, predicted
from hs_autoptycho.inline.proposals import (
    Proposal,
    distance,
    expected_gain,
    next_settings,
    read_limits,
    read_target,
    reason_to_stop,
)
from hs_autoptycho.ptycho.parameters import ParameterError


def test_combined():
    assert combined(None, None) is None
    assert combined(Value(3, 1), None) == Value(3, 1)
    assert combined(Value(1, math.inf), Value(2, 0.5)) == Value(2, 0.5)
    assert combined(Value(1, 0.0), Value(2, 0.5)) == Value(1, 0.0)
    both = combined(Value(0, 1), Value(5, 2))
    assert both.value == pytest.approx(1) and both.error == pytest.approx(2 / math.sqrt(5))


def test_an_offset_is_followed():
    """The error of what is predicted is that of a random walk that is measured with error."""
    generator = np.random.default_rng(1)
    missed, errors = [], []
    for _ in range(300):
        walk = 100 + np.cumsum(generator.normal(0, 5, 9))
        seen = [Value(v + generator.normal(0, 2), 2.0) for v in walk[:-1]]
        guess = predicted(seen)
        missed.append(guess.value - walk[-1])
        errors.append(guess.error)
    rms = np.sqrt(np.mean(np.square(missed)))
    assert 5.0 < rms < 6.5
    assert 0.7 < np.mean(errors) / rms < 1.3


def test_a_constant_offset_is_known_better_and_better():
    guesses = [predicted([Value(100.0, 2.0)] * n) for n in (1, 2, 8)]
    assert all(g.value == 100 for g in guesses)
    assert guesses[0].error > guesses[1].error > guesses[2].error
    assert predicted([]) is None and drift_variance([]) == 0


def test_the_correction_has_the_right_sign():
    target, asked = {"defocus": 200.0, "scan_rotation": 0.0}, {"defocus": 200.0, "dose": 1e4}
    offsets = {"defocus": Value(97.0, 3.0), "scan_rotation": Value(5.0, 0.1)}
    found = next_settings(target, asked, offsets, {})
    assert found.settings == {"defocus": 103.0, "scan_rotation": -5.0, "dose": 1e4}
    assert found.corrections == {"defocus": -97.0}  # nobody had asked for a rotation
    assert found.uncertainties["defocus"] == 3
    assert found.significant == ["defocus"]
    assert "103" in str(found) and "not known yet" in str(found)


def test_rotations_are_wrapped():
    offsets = {"scan_rotation": Value(-170.0, 0.1)}
    found = next_settings({"scan_rotation": 20.0}, {"scan_rotation": 175.0}, offsets, {})
    assert found.settings["scan_rotation"] == -170
    assert found.corrections["scan_rotation"] == 15


def test_limits_of_the_instrument():
    limits = read_limits({"defocus": (150, 400)})
    offsets = {"defocus": Value(97.0, 3.0)}
    found = next_settings({"defocus": 200.0}, {"defocus": 200.0}, offsets, limits)
    assert found.settings["defocus"] == 150 and "beyond the instrument's limits" in found.notes[0]
    again = next_settings({"defocus": 200.0}, found.settings, offsets, limits)
    assert "cannot come closer" in reason_to_stop(again, 0.5, 0.01)
    for bad in ((3, 1), 5, ("a", "b")):
        with pytest.raises(ParameterError, match="limits: defocus"):
            read_limits({"defocus": bad})


def test_limits_of_a_rotation_of_a_whole_turn():
    offsets = {"scan_rotation": Value(5.0, 0.1)}
    found = next_settings({"scan_rotation": 0.0}, {}, offsets, {"scan_rotation": (0, 360)})
    assert found.settings["scan_rotation"] == 355 and not found.notes
    found = next_settings({"scan_rotation": 0.0}, {}, offsets, {"scan_rotation": (20, 358)})
    assert found.settings["scan_rotation"] == 355 and not found.notes
    found = next_settings({"scan_rotation": 0.0}, {}, offsets, {"scan_rotation": (20, 340)})
    assert found.settings["scan_rotation"] == 340 and found.notes


def test_one_setting_at_its_limit_and_another_done():
    offsets = {"defocus": Value(97.0, 3.0), "scan_rotation": Value(0.05, 0.1)}
    target = {"defocus": 200.0, "scan_rotation": 0.0}
    asked = {"defocus": np.float32(150), "scan_rotation": 0.0}
    found = next_settings(target, asked, offsets, {"defocus": (150, 400)})
    assert set(found.corrections) == {"defocus", "scan_rotation"}
    assert "cannot come closer" in reason_to_stop(found, None, 0.01)


def test_target_from_a_design_study():
    best = {"dose": 1e4, "defocus": 300, "scan_step": 0.8}
    assert read_target(SimpleNamespace(best_parameters=[best])) == best
    assert read_target(SimpleNamespace(best_parameters=best)) == best
    with pytest.raises(ParameterError, match="settings for 2 doses"):
        read_target(SimpleNamespace(best_parameters=[best, best]))
    with pytest.raises(ParameterError, match="defocus='300' is not a number"):
        read_target({"defocus": "300"})
    with pytest.raises(ParameterError, match="no setting 'defocs'"):
        read_limits({"defocs": (0, 1)})
    with pytest.raises(ParameterError, match="dictionary of settings"):
        read_target(300)


def test_gain():
    """A parabola of the defocus, with noise; distances in units of 100 Å."""
    scales, target = {"defocus": 100.0}, {"defocus": 200.0}

    def away(defocus, error=1.0):
        return distance({"defocus": Value(defocus, error)}, target, scales)

    assert away(300).value == pytest.approx(1) and away(300).error == pytest.approx(0.02, abs=1e-3)
    distances = [away(300), away(260), away(240)]
    scores = [0.5 + 0.1 * d.value for d in distances]
    gain, error = expected_gain(distances, scores, away(200, 2.0))
    assert gain == pytest.approx(0.1 * 0.16, rel=0.05)
    assert 0 < error < gain
    # with less data, or none that differ, nothing is known
    for one in ([away(300)], [away(300)] * 3):
        gain, error = expected_gain(one, [0.6] * len(one), away(200))
        assert math.isnan(gain) and math.isinf(error)
    worse, _ = expected_gain([away(300), away(200)], [0.4, 0.5], away(200))
    assert worse == 0


def proposal(change, uncertainty, gain=math.nan, error=math.inf):
    return Proposal({"defocus": 100.0}, {"defocus": change}, {"defocus": uncertainty}, gain, error)


def test_when_to_stop():
    assert reason_to_stop(Proposal({}), 0.5, 0.01) is None
    assert reason_to_stop(proposal(90, 3), 0.5, 0.01) is None
    assert "within their uncertainty" in reason_to_stop(proposal(4, 3), 0.5, 0.01)
    assert "below 1 % of the score" in reason_to_stop(proposal(90, 3, 1e-3, 2e-3), 0.5, 0.01)
    assert "below its uncertainty" in reason_to_stop(proposal(4, 3, 0.01, 0.02), 0.5, 0.01)
    # a gain that is not known well is no reason against a correction that is
    assert reason_to_stop(proposal(90, 3, 0.01, 0.02), 0.5, 0.01) is None
    assert reason_to_stop(proposal(4, 3, 0.04, 0.02), 0.5, 0.01) is None
