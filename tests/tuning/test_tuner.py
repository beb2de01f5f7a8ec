"""The loop by itself, with a strategy, an executor and a study made for the purpose."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hs_autoptycho.tuning.trial import Fidelity, Trial, run_trial
from hs_autoptycho.tuning.tuner import TuningError, tune

FULL = Fidelity(7)


class Given:
    """Proposes given values; the lowest objective is the best."""

    def __init__(self, *values, at_once=100):
        self.values, self.at_once, self.seen = values, at_once, []

    def propose(self, done, pending):
        self.seen.append(([t.number for t in done], [t.number for t in pending]))
        number = len(done) + len(pending)
        if number >= len(self.values) or len(pending) >= self.at_once:
            return None
        return Trial(number, {"defocus": self.values[number]}, FULL, seed=11)

    def limits(self, trial, done):
        return [(3, 10.0 + trial.number)]

    def best(self, done):
        good = [t for t in done if t.objective is not None]
        return min(good, key=lambda t: t.objective) if good else None


class Parabola:
    """(defocus - 3)²; negative values fail in different ways."""

    name = "parabola"

    def __init__(self):
        self.calls = []

    def __call__(self, parameters, *, fidelity, random_state, limits):
        self.calls.append((dict(parameters), fidelity, random_state, list(limits)))
        x, status = parameters["defocus"], "completed"
        value = float((x - 3) ** 2)
        if x == -1:
            raise ValueError("no such object")
        if x == -2:
            value, status = math.inf, "diverged"
        if x == -3:
            value = math.nan
        if x == -4:
            raise KeyboardInterrupt
        if x == -5:
            status = "interrupted"
        if x == -6:
            status = "stopped"
        return SimpleNamespace(
            value=value, metrics={"value": value}, status=status, reconstruction=x, blocks=[value],
            curve=[(7, value)],
        )  # fmt: skip


class Side:
    """Runs up to `capacity` trials, and ends them last in, first out."""

    def __init__(self, capacity=1, held=()):
        self.capacity, self.held, self.objective = capacity, dict(held), Parabola()
        self.waiting, self.closed = [], False

    def submit(self, trial, limits):
        self.waiting.append((trial, limits))

    def wait(self):
        trial, limits = self.waiting.pop()
        return [(trial, run_trial(self.objective, trial, self.held, limits))]

    def close(self):
        self.closed = True
        return []


def run(*values, capacity=1, held=(), done=(), callback=None):
    strategy, executor = Given(*values), Side(capacity, held)
    study = SimpleNamespace(trials=list(done))
    study.append = study.trials.append
    return tune(strategy, executor, study, callback=callback), strategy, executor


def test_the_best_is_kept():
    result, _, executor = run(0.0, 5.0, 2.5, 9.0, held={"C30": 1.0})
    assert [t.objective for t in result.trials] == [9.0, 4.0, 0.25, 36.0]
    assert result.best.number == 2 and result.reconstruction == 2.5
    assert not result.interrupted and executor.closed
    first = executor.objective.calls[0]
    assert first == ({"C30": 1.0, "defocus": 0.0}, FULL, 11, [(3, 10.0)])
    assert executor.objective.calls[2][3] == [(3, 12.0)]


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_every_trial_runs_once_whatever_the_order_they_end_in(capacity):
    result, strategy, _ = run(*range(9), capacity=capacity)
    assert [t.number for t in result.trials] == list(range(9))
    assert result.best.parameters == {"defocus": 3}
    assert max(len(pending) for _, pending in strategy.seen) == capacity - 1
    for done, pending in strategy.seen:
        assert not set(done) & set(pending)


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        (-1, "failed", "ValueError: no such object"),
        (-2, "diverged", "rose"),
        (-3, "failed", "nan"),
    ],
)
def test_a_bad_trial_is_survived(value, status, message):
    result, _, _ = run(0.0, value, 1.0)
    bad = result.trials[1]
    assert (bad.status, bad.objective) == (status, None) and message in bad.message
    assert result.best.number == 2


def test_a_pruned_trial_keeps_its_estimate():
    result, _, _ = run(0.0, -6)
    assert (result.trials[1].status, result.trials[1].objective) == ("pruned", 81.0)


@pytest.mark.parametrize("value", [-4, -5])
def test_an_interrupt_keeps_what_there_is(value):
    result, _, executor = run(0.0, value, 3.0)
    assert result.interrupted and executor.closed
    assert [t.number for t in result.trials] == [0]  # the interrupted one can be run again


def test_an_interrupt_before_the_first_result_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        run(-4, 1.0)


def test_all_failed():
    with pytest.raises(TuningError, match="None of 2 trials.*no such object"):
        run(-1, -1)


def test_the_callback_sees_each_trial_and_can_stop():
    seen = []

    def callback(trial, best):
        seen.append((trial.number, None if best is None else best.number))
        return trial.number == 2

    result, _, _ = run(-1, 5.0, 2.0, 3.0, callback=callback)
    assert seen == [(0, None), (1, 1), (2, 2)]
    assert [t.number for t in result.trials] == [0, 1, 2] and not result.interrupted


def test_it_goes_on_from_what_is_done():
    done = [Trial(0, {"defocus": 2.9}, FULL, objective=0.01), Trial(1, {"defocus": 9}, FULL)]
    result, _, executor = run(0.0, 5.0, 1.0, done=done)
    assert [call[0]["defocus"] for call in executor.objective.calls] == [1.0]
    assert result.best.number == 0 and result.reconstruction is None


def test_a_trial_is_json_and_back():
    import json

    trial = Trial(3, {"defocus": 0.1, "aperture": "disk"}, Fidelity(3, 0.25, 2), "promotion", 5)
    trial.curve, trial.blocks, trial.objective = [(1, 0.1 + 0.2)], [1 / 3], 1e-17
    assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


def test_cost_is_relative_work():
    assert Fidelity(3, 0.25).cost(Fidelity(12)) == pytest.approx(1 / 16)
    assert replace(FULL, reduction=2).cost(FULL) == pytest.approx(1 / 4)


def test_a_part_of_the_scan_is_visited_in_as_many_batches():
    assert Fidelity(3, 0.25).adapted({"batch_size": 100, "C30": 1.0}) == {
        "batch_size": 25,
        "C30": 1.0,
    }
    assert Fidelity(3, 0.25).adapted({"batch_size": 1}) == {"batch_size": 1}
    assert Fidelity(3).adapted({"batch_size": 100}) == {"batch_size": 100}
    executor = Side()
    trial = Trial(0, {"batch_size": 64, "defocus": 1.0}, Fidelity(3, 0.5))
    run_trial(executor.objective, trial, {})
    assert executor.objective.calls[0][0]["batch_size"] == 32
    assert trial.parameters["batch_size"] == 64
