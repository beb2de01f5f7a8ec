"""The loop where several trials end at once, some of them interrupted, and how it ends."""

from types import SimpleNamespace

import pytest

from hs_autoptycho.tuning.trial import Fidelity, Trial
from hs_autoptycho.tuning.tuner import TuningError, tune

FULL = Fidelity(7)


class Strategy:
    def __init__(self, n):
        self.n = n

    def propose(self, done, pending):
        number = len(done) + len(pending)
        return Trial(number, {"x": number}, FULL) if number < self.n else None

    def limits(self, trial, done):
        return []

    def best(self, done):
        good = [t for t in done if t.status == "completed"]
        return min(good, key=lambda t: t.objective, default=None)


class AllAtOnce:
    """Ends all that is under way at once, as it is told: an objective, or a message."""

    def __init__(self, *results, capacity=3, late=()):
        self.results, self.capacity, self.late = dict(enumerate(results)), capacity, late
        self.under_way, self.most = [], 0

    def submit(self, trial, limits):
        self.under_way.append(trial)
        self.most = max(self.most, len(self.under_way))

    def _end(self, trial):
        result = self.results[trial.number]
        if isinstance(result, str):
            trial.status, trial.message = "interrupted", result
            return trial, None
        trial.objective = result
        return trial, f"of {trial.number}"

    def wait(self):
        ended, self.under_way = [self._end(t) for t in self.under_way], []
        return ended

    def close(self):
        return [self._end(t) for t in self.late]


def run(executor, n=3, callback=None, path=None):
    study = SimpleNamespace(trials=[], path=path)
    study.append = study.trials.append
    return tune(Strategy(n), executor, study, callback=callback), study


def test_what_ends_with_an_interrupted_trial_counts():
    called = []
    result, study = run(
        AllAtOnce("no worker", 2.0, 1.0), 9, lambda trial, best: called.append(best.number)
    )
    assert result.interrupted and [t.number for t in study.trials] == [1, 2]
    assert (result.best.number, result.reconstruction) == (2, "of 2")
    assert len(called) == 2


def test_three_at_once():
    executor = AllAtOnce(5.0, 3.0, 4.0, 2.0, 9.0)
    result, study = run(executor, 5)
    assert executor.most == 3 and len(study.trials) == 5
    assert not result.interrupted and (result.best.number, result.reconstruction) == (3, "of 3")


def test_what_ended_by_the_end_is_remembered_once():
    first, second = Trial(0, {"x": 0}, FULL), Trial(7, {"x": 7}, FULL)
    executor = AllAtOnce(2.0, "stop", 3.0, late=[first, second])
    executor.results[7] = 1.0
    result, study = run(executor)
    assert [t.number for t in study.trials] == [0, 2, 7]
    assert (result.best.number, result.reconstruction) == (7, "of 7")


def test_a_callback_ends_the_search():
    for stops, expected in ((lambda t, best: t.number == 1, 3), (lambda t, best: None, 6)):
        result, study = run(AllAtOnce(*[1.0] * 6), 6, stops)
        assert len(study.trials) == expected and not result.interrupted
    # once it has said so
    result, study = run(AllAtOnce(*[1.0] * 6), 6, lambda t, best: t.number == 0)
    assert len(study.trials) == 3


def test_the_callback_hears_of_all_that_ended_together():
    called = []
    run(AllAtOnce(*[1.0] * 6), 6, lambda t, best: called.append(t.number) or t.number == 0)
    assert called == [0, 1, 2]


def test_nothing_could_be_run(caplog):
    with pytest.raises(TuningError, match="No trial could be run: no worker. It has no file"):
        run(AllAtOnce(*["no worker"] * 3))
    assert "The search has ended early: no worker. It has no file" in caplog.text
    with pytest.raises(TuningError, match="0 trials are kept in a.study: the same call goes on"):
        run(AllAtOnce(*["no worker"] * 3), path="a.study")
    with pytest.raises(KeyboardInterrupt):
        run(AllAtOnce(*["interrupted"] * 3))
    with pytest.raises(KeyboardInterrupt):
        run(AllAtOnce(*[""] * 3))
