"""The loop by itself, with an optimizer and an objective made for the purpose."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.tuning.objectives import Score
from hs_autoptycho.tuning.tuner import TuningError, tune


class Sequence:
    """Proposes given values, and remembers what it is told."""

    def __init__(self, *values):
        self.values = list(values)
        self.told = []

    def ask(self):
        return {"defocus": self.values.pop(0)} if self.values else None

    def tell(self, point, score):
        self.told.append((point["defocus"], score))


class Parabola:
    """(defocus - 3)²; negative values fail in different ways."""

    name = "parabola"

    def __init__(self):
        self.calls = []

    def __call__(self, parameters, *, n_iterations, random_state):
        self.calls.append((dict(parameters), n_iterations, random_state))
        x, status = parameters["defocus"], "completed"
        value = float((x - 3) ** 2)
        if x == -1:
            raise ValueError("no such object")
        if x == -2:
            value, status = np.inf, "diverged"
        if x == -3:
            value = np.nan
        if x == -4:
            raise KeyboardInterrupt
        if x == -5:
            status = "interrupted"
        result = SimpleNamespace(status=status, errors=np.ones(2), x=x)
        return Score(value, {"value": value}, result)


def run(*values, **options):
    search, objective = Sequence(*values), Parabola()
    options = {"n_trials": len(values), "n_iterations": 7, **options}
    return tune(objective, search, **options), search, objective


def test_the_best_is_kept():
    result, search, objective = run(0.0, 5.0, 2.5, 9.0, held={"C30": 1.0}, random_state=11)
    assert result.best is result.trials[2]
    assert result.best.parameters == {"defocus": 2.5} and result.best.objective == 0.25
    assert result.reconstruction.x == 2.5
    assert not result.interrupted
    assert search.told == [(0.0, 9.0), (5.0, 4.0), (2.5, 0.25), (9.0, 36.0)]
    assert objective.calls[1] == ({"C30": 1.0, "defocus": 5.0}, 7, 11)
    records = [trial.to_dict() for trial in result.trials]
    assert json.loads(json.dumps(records)) == records
    assert [record["number"] for record in records] == [0, 1, 2, 3]
    assert all(record["seed"] == 11 for record in records)


def test_of_equals_the_first_is_kept():
    assert run(2.0, 4.0)[0].best.number == 0


def test_failures_are_recorded_and_told():
    result, search, _ = run(-1, 5.0, -2, -3)
    assert [t.status for t in result.trials] == ["failed", "completed", "diverged", "failed"]
    assert [s for _, s in search.told] == [None, 4.0, None, None]
    assert result.trials[0].message == "ValueError: no such object"
    assert "iteration 2" in result.trials[2].message
    assert "nan" in result.trials[3].message
    assert all(t.objective is None for t in result.trials if t.status != "completed")


@pytest.mark.parametrize("values, reason", [((-2, -1), "no such object"), ((-2,), "rose")])
def test_nothing_but_failures(values, reason):
    with pytest.raises(TuningError, match=f"None of {len(values)} trials.*{reason}"):
        run(*values)


@pytest.mark.parametrize("interrupt", [-4, -5])
def test_ctrl_c_in_a_trial(interrupt):
    result, search, _ = run(5.0, interrupt, 3.0)
    assert result.interrupted
    assert [t.status for t in result.trials] == ["completed", "interrupted"]
    assert result.best.number == 0 and result.reconstruction.x == 5.0
    assert search.told == [(5.0, 4.0)]
    with pytest.raises(KeyboardInterrupt):
        run(interrupt, 3.0)


def test_ctrl_c_between_trials():
    def stop(trial, best):
        raise KeyboardInterrupt

    result, search, _ = run(5.0, 3.0, callback=stop)
    assert result.interrupted and len(result.trials) == 1
    assert search.told == [(5.0, 4.0)]
    with pytest.raises(KeyboardInterrupt):
        run(-1, 3.0, callback=stop)


def test_the_callback_sees_all_and_can_stop():
    seen = []

    def watch(trial, best):
        seen.append((trial.number, best.number if best else None))
        return trial.number == 2

    result, *_ = run(-1, 5.0, 9.0, 3.0, callback=watch)
    assert seen == [(0, None), (1, 1), (2, 1)]
    assert len(result.trials) == 3 and not result.interrupted


def test_an_exhausted_space_ends_the_search():
    result, *_ = run(1.0, 2.0, n_trials=50)
    assert len(result.trials) == 2 and not result.interrupted
