"""Which settings are tried, on a cheap stand-in for the simulated experiment."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.design.instrument import DesignError
from hs_autoptycho.design.search import DesignStrategy, Possible, excluded
from hs_autoptycho.design.surface import predict
from hs_autoptycho.tuning.executor import InProcess
from hs_autoptycho.tuning.scores import Score
from hs_autoptycho.tuning.space import read_space
from hs_autoptycho.tuning.study import Study
from hs_autoptycho.tuning.trial import Fidelity
from hs_autoptycho.tuning.tuner import tune

RANGES = {"scan_step": (0.5, 3.0), "defocus": (0.0, 150.0), "convergence_angle": (15.0, 35.0)}
REFERENCE = {"scan_step": 0.7, "defocus": 20.0, "convergence_angle": 20.0}


def optimum(dose):
    """Larger steps and less defocus at low dose; possible everywhere."""
    step = 1.2 + 0.2 * (6 - math.log10(dose))
    return {"scan_step": step, "defocus": 90 - 10 * (6 - math.log10(dose)), "angle": 24.0}


class StandIn:
    """A smooth score with a little noise; counts what it was asked."""

    name = "1 - stand-in"

    def __init__(self, noise=2e-3, interrupt=None):
        self.noise, self.interrupt, self.asked = noise, interrupt, []

    def __call__(self, parameters, *, fidelity, random_state, limits=()):
        self.asked.append(dict(parameters))
        if self.interrupt == len(self.asked):
            raise KeyboardInterrupt
        best = optimum(parameters["dose"])
        away = [
            math.log(parameters["scan_step"] / best["scan_step"]) / 0.5,
            (parameters["defocus"] - best["defocus"]) / 50,
            (parameters["convergence_angle"] - best["angle"]) / 8,
        ]
        value = 1 - math.exp(-sum(a**2 for a in away) / 2)
        noise = np.random.default_rng(random_state).normal() * self.noise
        return Score(value + noise, {"value": value}, None)


def strategy(instrument, name="bayesian", doses=(1e5, 1e3), n_trials=30, **options):
    options = {"n_repeats": 2, "reference": REFERENCE, "random_state": 0, **options}
    dimensions = sorted(read_space(RANGES)[0], key=lambda d: list(RANGES).index(d.name))
    return DesignStrategy(name, dimensions, {}, instrument, doses, Fidelity(7), n_trials, **options)


def run(plan, objective=None, study=None):
    objective = StandIn() if objective is None else objective
    with Study.open(study, {"objective": "stand-in", "n_trials": plan.n_trials}) as journal:
        return tune(plan, InProcess(objective, {}), journal)


def best_values(plan, trials):
    """How far from the optimum the best of each dose are."""
    return [plan.best_at(d, trials).metrics["value"] for d in plan.doses]


def test_every_dose_gets_its_trials(instrument):
    plan = strategy(instrument, n_trials=16)
    trials = run(plan).trials
    assert [t.number for t in trials] == list(range(32))
    assert len({t.seed for t in trials}) == 32
    for i, dose in enumerate(plan.doses):
        some = [t for t in trials if t.parameters["dose"] == dose]
        assert [t.number for t in some] == list(range(16 * i, 16 * (i + 1)))
        assert [t.purpose for t in some] == ["search"] * 12 + ["repeat"] * 4
        best, reference = plan.best_at(dose, trials).parameters, {"dose": dose, **REFERENCE}
        assert [t.parameters for t in some[-4:]] == [best, best, reference, reference]
        assert some[0].parameters == reference
    # the second dose begins with what was best at the first one
    assert trials[17].parameters == {**plan.best_at(1e5, trials).parameters, "dose": 1e3}


def test_what_is_impossible_is_never_tried(instrument):
    for name in ("bayesian", "random", "sobol"):
        # at 2 e/Å² steps below 0.707 Å are less than an electron a pattern
        plan = strategy(instrument, name, doses=(2.0,), n_trials=24, reference=None)
        trials = run(plan).trials
        for trial in trials:
            assert instrument.complaint(2.0, trial.parameters) is None
        assert len({tuple(t.parameters.values()) for t in trials if t.purpose == "search"}) == 22


def test_it_finds_the_optimum_and_random_search_does_not(instrument):
    found, by_chance = [], []
    for seed in range(2):
        options = {"doses": (1e4,), "random_state": seed}
        plan = strategy(instrument, **options)
        found += best_values(plan, run(plan).trials)
        plan = strategy(instrument, "random", **options)
        by_chance += best_values(plan, run(plan).trials)
    assert np.mean(found) < 0.02
    assert np.mean(found) < 0.3 * np.mean(by_chance)


def test_a_dose_begins_where_the_one_before_was_best(instrument):
    options = {"reference": None, "n_repeats": 1}
    helped, alone = [], []
    for seed in range(2):
        plan = strategy(instrument, n_trials=18, doses=(2e3, 1e3), random_state=seed, **options)
        trials = [t for t in run(plan).trials if t.number < 18 + 5]
        helped.append(min(t.metrics["value"] for t in trials if t.number >= 18))
        plan = strategy(instrument, n_trials=6, doses=(1e3,), random_state=seed, **options)
        trials = [t for t in run(plan).trials if t.number < 5]
        alone.append(min(t.metrics["value"] for t in trials))
    assert np.mean(helped) < 0.5 * np.mean(alone)


def test_the_same_seed_gives_the_same_search(instrument):
    first, second = (run(strategy(instrument, n_trials=12)).trials for _ in range(2))
    assert [t.parameters for t in first] == [t.parameters for t in second]
    other = run(strategy(instrument, n_trials=12, random_state=1)).trials
    assert [t.parameters for t in first][1:] != [t.parameters for t in other][1:]


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(instrument, tmp_path):
    path, whole = tmp_path / "study.jsonl", run(strategy(instrument, n_trials=12)).trials
    stopped = run(strategy(instrument, n_trials=12), StandIn(interrupt=16), path)
    assert stopped.interrupted and len(stopped.trials) == 15
    objective = StandIn()
    trials = run(strategy(instrument, n_trials=12), objective, path).trials
    assert len(objective.asked) == 24 - 15
    assert [t.parameters for t in trials] == [t.parameters for t in whole]


def test_a_reference_outside_of_the_ranges_is_repeated_only(instrument):
    outside = {**REFERENCE, "scan_step": 0.4}
    trials = run(strategy(instrument, doses=(1e4,), n_trials=14, reference=outside)).trials
    assert [t.purpose for t in trials if t.parameters["scan_step"] == 0.4] == ["repeat"] * 2


def test_failed_trials_are_survived(instrument):
    class Failing(StandIn):
        def __call__(self, parameters, **options):
            if parameters["scan_step"] > 2:
                raise RuntimeError("nothing to see")
            return super().__call__(parameters, **options)

    plan = strategy(instrument, doses=(1e4,), n_trials=20)
    trials = run(plan, Failing()).trials
    assert len(trials) == 20
    assert any(t.status == "failed" for t in trials)
    assert plan.best_at(1e4, trials).parameters["scan_step"] <= 2


def test_trials_under_way_are_counted(instrument):
    plan, pending = strategy(instrument, n_trials=8, doses=(1e4,), n_repeats=1), []
    while (trial := plan.propose([], pending)) is not None:
        pending.append(trial)
    assert len(pending) == 6  # repeats wait for the best
    assert len({tuple(t.parameters.values()) for t in pending}) == 6


def test_nothing_is_possible(instrument):
    dimensions = read_space(RANGES)[0]
    with pytest.raises(DesignError, match=r"at 0\.05 e/Å².*smallest step .* is 4\.47 Å"):
        Possible(dimensions, {}, instrument, 0.05).check()
    dimensions = read_space({"scan_step": (0.5, 3.0), "defocus": (400.0, 800.0)})[0]
    with pytest.raises(DesignError, match="more than 80% of its window"):
        Possible(dimensions, {"convergence_angle": 25.0}, instrument, 1e4).check()
    dimensions = read_space({"scan_step": (5.0, 8.0), "defocus": (0.0, 100.0)})[0]
    with pytest.raises(DesignError, match="no overlap"):
        Possible(dimensions, {"convergence_angle": 20.0}, instrument, 1e4).check()


@pytest.mark.parametrize("name", ["bayesian", "random", "sobol"])
def test_little_that_is_possible_is_tried_again(instrument, name):
    # the largest step alone has an electron a pattern
    doses = (1e4, 1 / 3.0**2)
    for dose in doses:
        Possible(strategy(instrument).dimensions, {}, instrument, dose).check()
    plan = strategy(instrument, name, doses=doses, n_trials=4, reference=None, n_repeats=1)
    trials = run(plan).trials
    assert len(trials) == 8
    assert {t.parameters["scan_step"] for t in trials[4:]} == {3.0}


def test_trials_that_are_missing(instrument):
    plan = strategy(instrument, doses=(1e4, 1e3), n_trials=8, n_repeats=1)
    assert plan.missing([]) == 16
    trials = run(plan).trials
    assert [plan.missing(trials[:n]) for n in (3, 7, 16)] == [13, 9, 0]
    more = strategy(instrument, doses=(1e4, 1e3), n_trials=10, n_repeats=1)
    # a new best is repeated too, which is not known before
    assert more.missing(trials) == 2 * 3


def test_what_excludes_how_much(instrument):
    # half of the steps have less than an electron; data below 2 Å are too many
    dimensions = read_space({"scan_step": (1.0, 3.0)})[0]
    held = {"defocus": 60.0, "convergence_angle": 25.0}
    parts = excluded(dimensions, held, instrument, 1 / 1.5**2)
    assert parts == {"less than an electron a pattern": pytest.approx(0.25, abs=0.02)}
    limited = replace(instrument, max_data_size=7 * 6 * 32 * 36 * 2)
    parts = excluded(dimensions, held, limited, 1e4)
    assert list(parts) == ["more data than max_data_size"]
    assert 0.1 < parts["more data than max_data_size"] < 0.4


def test_the_surface(instrument):
    plan = strategy(instrument, doses=(1e4,), n_trials=32, n_repeats=1, reference=None)
    trials = run(plan).trials
    best = optimum(1e4)
    at = {
        "scan_step": np.array([[best["scan_step"], 0.6, 3.0]]),
        "defocus": np.array([[best["defocus"], 10.0, 150.0]]),
        "convergence_angle": np.array([[24.0, 34.0, 15.0]]),
    }
    mean, std = predict(plan.dimensions, trials, at)
    assert mean.shape == std.shape == (1, 3)
    assert mean[0, 0] == pytest.approx(1, abs=0.03)
    assert mean[0, 0] > mean[0, 1:].max() + 0.3
    assert std[0, 0] < 0.3 * std[0, 1:].min()
    assert np.isnan(predict(plan.dimensions, trials[:3], at)[0]).all()
