"""Trials in numbers: their work, what becomes of a score, and their time."""

import math
from types import SimpleNamespace

import pytest

from hs_autoptycho.tuning import trial as module
from hs_autoptycho.tuning.schedule import (
    cheap_fidelity,
    curve_limits,
    middle_fidelity,
    n_initial,
    next_number,
    told,
)
from hs_autoptycho.tuning.selection import CERTAIN, agreement, difference, straight_line
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial, run_trial

FULL = Fidelity(20)


def test_work():
    some, other = Fidelity(6, 0.5, 3), Fidelity(10, 0.4, 2)
    assert some.cost(Fidelity(1)) == pytest.approx(3 / 9)
    assert some.cost(other) == pytest.approx((3 / 9) / (4 / 4))
    assert other.cost(some) == pytest.approx(3.0)
    assert (FULL.part, FULL.reduction) == (1.0, 1)


def test_batches_of_a_part_of_the_scan():
    half = Fidelity(3, 0.5)
    assert half.adapted({"batch_size": 5, "x": 1}) == {"batch_size": 2, "x": 1}
    assert half.adapted({"batch_size": 1}) == {"batch_size": 1}
    assert half.adapted({"batch_size": None}) == {"batch_size": None}
    assert half.adapted({}) == {}
    assert FULL.adapted({"batch_size": 5}) == {"batch_size": 5}


def test_a_new_trial():
    new = Trial(3, {"x": 1}, FULL)
    assert (new.purpose, new.seed, new.objective, new.status) == ("search", 0, None, "completed")
    assert (new.duration, new.message, new.attempts) == (0.0, "", 1)


def run(monkeypatch, result, **changed):
    """A trial whose objective gives this, or raises it, after 1.23456 s."""
    clock = SimpleNamespace(now=50.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(module, "time", clock)
    new = Trial(3, {"x": 1, "batch_size": 8}, Fidelity(4, 0.25), seed=6)

    def objective(parameters, *, fidelity, random_state, limits):
        assert parameters == {"x": 1, "y": 2, "batch_size": 2}
        assert (fidelity, random_state, limits) == (new.fidelity, 6, [(1, 2.0)])
        clock.now += 1.23456
        if isinstance(result, BaseException):
            raise result
        return result

    reconstruction = run_trial(objective, new, {"y": 2, "x": 9}, [(1, 2.0)])
    assert new.duration == 1.235
    return new, reconstruction


def a_score(value, status="completed", **changed):
    return SimpleNamespace(
        **{"value": value, "status": status, "metrics": {"m": 1}, "blocks": [1.0, 2.0],
           "curve": [(1, 3.0)], "reconstruction": "r", **changed}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "status", "expected"),
    [
        (2.5, "completed", ("completed", 2.5, "")),
        (2.5, "stopped", ("pruned", 2.5, "")),
        (math.inf, "completed", ("failed", None, "the objective is inf")),
        (math.nan, "stopped", ("failed", None, "the objective is nan")),
        (2.5, "diverged", ("diverged", None, "the error of the reconstruction rose")),
        (2.5, "interrupted", ("interrupted", None, "")),
    ],
)
def test_what_becomes_of_a_score(monkeypatch, value, status, expected):
    new, reconstruction = run(monkeypatch, a_score(value, status))
    assert (new.status, new.objective, new.message) == expected
    assert reconstruction == "r"
    assert (new.metrics, new.blocks, new.curve) == ({"m": 1}, [1.0, 2.0], [(1, 3.0)])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (RuntimeError("no disk"), "RuntimeError: no disk"),
        (3, "TypeError: the objective returned no score, but 3"),
        (a_score(1.0, "fine"), "TypeError: the objective returned the status 'fine'"),
        (a_score("1"), "TypeError: the objective returned '1' where a number is needed"),
        (a_score(1.0, metrics={"m": "1"}), "TypeError: the objective returned '1' where"),
        (a_score(1.0, blocks=[None]), "TypeError: the objective returned None where"),
        (a_score(1.0, curve=[(1, "2")]), "TypeError: the objective returned '2' where"),
    ],
)
def test_a_trial_that_fails(monkeypatch, caplog, result, message):
    new, reconstruction = run(monkeypatch, result)
    assert (new.status, new.objective, reconstruction) == ("failed", None, None)
    assert new.message.startswith(message)
    assert "Trial 3 failed: " + message in caplog.text


def test_ctrl_c(monkeypatch):
    new, _ = run(monkeypatch, KeyboardInterrupt())
    assert (new.status, new.message) == ("interrupted", "interrupted")


# -- what strategies share ---------------------------------------------------------------------


def test_lengths():
    assert cheap_fidelity(Fidelity(40), 2048) == Fidelity(10, 0.5)
    assert cheap_fidelity(Fidelity(8), 1024) == Fidelity(3, 1.0)
    assert cheap_fidelity(Fidelity(2), 10**6) == Fidelity(2, 0.25)
    assert cheap_fidelity(Fidelity(40), 3000) == Fidelity(10, 0.341)
    assert middle_fidelity(Fidelity(40), Fidelity(10, 0.25)) == Fidelity(13, 0.5)
    assert middle_fidelity(Fidelity(12), Fidelity(5, 0.8)) == Fidelity(5, 0.8)
    assert middle_fidelity(Fidelity(2), Fidelity(3, 0.25)) == Fidelity(2, 0.5)


def test_number_of_quasi_random_points():
    dimensions = [Dimension("defocus", 0.0, 1.0)] * 3
    assert [n_initial(dimensions, n) for n in (1, 2, 3, 6, 13, 14, 99)] == [1, 1, 1, 3, 6, 7, 7]


def test_limits_of_learning_curves():
    def make(number, objective, *values, status="completed"):
        curve = [(2 * i + 1, v) for i, v in enumerate(values)]
        return Trial(number, {}, FULL, objective=objective, curve=curve, status=status)

    trials = [make(i, 10.0 - i, 9.0 - i, 5.0 - 0.1 * i, 10.0 - i) for i in range(7)]
    # the better three of seven, 4 to 6: 3, 4, 5 after one pass and 4.4 to 4.6 after three
    expected = [(1, pytest.approx(2 * 5 - 3)), (3, pytest.approx(2 * 4.6 - 4.4))]
    odd = [make(8, 0.0, 1.0, 1.0, 1.0, status="pruned"), Trial(9, {}, FULL, objective=0.0)]
    assert curve_limits(odd + trials) == expected
    # of four two, of fewer none
    assert curve_limits(trials[:4]) == [(1, pytest.approx(8.0)), (3, pytest.approx(4.9))]
    assert curve_limits(trials[:3]) == []


def test_what_samplers_are_told():
    trials = [
        Trial(2, {"x": 2}, FULL, objective=1.0), Trial(0, {"x": 0}, FULL, status="failed"),
        Trial(1, {"x": 1}, FULL, "repeat", objective=3.0),
    ]  # fmt: skip
    assert told(trials) == [({"x": 0}, None), ({"x": 2}, 1.0)]
    assert next_number([], []) == 0
    assert next_number(trials[:2], []) == 1 and next_number(trials, []) == 3


# -- comparisons -------------------------------------------------------------------------------


def test_two_blocks_are_enough_for_an_error():
    a, b = (Trial(i, {}, FULL, objective=v, blocks=[v, v + i]) for i, v in enumerate((1.0, 3.0)))
    mean, error = difference(b, a)
    assert (mean, error) == (2.0, pytest.approx(math.sqrt(0.5) / math.sqrt(2)))
    a.objective = None
    assert all(map(math.isnan, difference(b, a)))
    assert all(map(math.isnan, difference(a, b)))


@pytest.mark.parametrize(("times", "told_apart"), [(0.99, False), (1.01, True)])
def test_two_standard_errors_tell_trials_apart(times, told_apart):
    assert CERTAIN == 2
    wave = [1.0, -1.0, 1.0, -1.0]  # of a standard error of 1 / sqrt(3)

    def make(number, value, fidelity, scatter):
        blocks = [value + scatter * math.sqrt(3) * w for w in wave]
        return Trial(number, {}, fidelity, objective=value, blocks=blocks)

    short = make(0, 1.0, Fidelity(3), 0.0), make(1, 1.0 + 2 * times, Fidelity(3), 1.0)
    full = make(2, 5.0, FULL, 0.0), make(3, 9.0, FULL, 0.1)
    found = agreement(list(zip(short, full, strict=True)))
    assert (found == 1) if told_apart else math.isnan(found)


def test_equal_scores_have_no_order():
    short = [Trial(i, {}, Fidelity(3), objective=1.0) for i in range(2)]
    full = [Trial(i, {}, FULL, objective=float(i)) for i in range(2)]
    assert math.isnan(agreement(list(zip(short, full, strict=True))))


def test_a_line_between_a_third_and_three():
    assert straight_line([(1.0, 1.0), (2.0, 1.4), (3.0, 1.8)]) == pytest.approx((0.4, 0.6))
    assert straight_line([(1.0, 1.0), (2.0, 1.2)]) == pytest.approx((1 / 3, 0.6))
    assert straight_line([(1.0, 1.0), (2.0, 4.9)]) == pytest.approx((3.0, -1.55))
