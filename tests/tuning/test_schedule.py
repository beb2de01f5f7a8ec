"""Strategies: what they propose, from nothing but the trials that there are."""

from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.tuning.multifidelity import Multifidelity
from hs_autoptycho.tuning.optimizer import GaussianProcessOptimizer, RandomSampler
from hs_autoptycho.tuning.schedule import (
    cheap_fidelity,
    curve_limits,
    expected_end,
    middle_fidelity,
    next_number,
    told,
)
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.strategies import STRATEGIES, StrategyError, make_strategy
from hs_autoptycho.tuning.trial import Fidelity, Trial

FULL = Fidelity(12)
DIMENSIONS = [
    Dimension("defocus", 0.0, 100.0),
    Dimension("scan_rotation", -10.0, 10.0),
    Dimension("n_probe_modes", choices=(1, 2, 4)),
]


def landscape(trial, *, inverted=False):
    """A valley; short trials see it on another scale, or upside down."""
    p = trial.parameters
    value = ((p["defocus"] - 62) / 100) ** 2 + ((p["scan_rotation"] - 3) / 20) ** 2
    value += 0.02 * (p["n_probe_modes"] == 1)
    short = trial.fidelity != FULL
    if short and inverted:
        return -value
    return 3 + 2 * value if short else 1 + value


def play(strategy, *, at_once=1, known=(), score=landscape, stop=None):
    """Run a strategy to its end; trials end in the order in which they began."""
    done, pending = list(known), []
    while True:
        while len(pending) < at_once:
            trial = strategy.propose(done, pending)
            if trial is None:
                break
            pending.append(trial)
        if not pending or (stop is not None and len(done) == stop):
            return done
        trial = pending.pop(0)
        trial.objective = score(trial)
        scatter = np.random.default_rng(trial.number).normal(size=16)
        trial.blocks = list(trial.objective + 1e-6 * (scatter - scatter.mean()))
        trial.curve = [(trial.fidelity.n_iterations, trial.objective)]
        done.append(trial)


def make(name="multifidelity", n_trials=40, *, model=False, **options):
    """A strategy; what does not hang on a Gaussian process is tested with random points."""
    options = {"full": FULL, "n_positions": 4096, **options}
    strategy = make_strategy(name, DIMENSIONS, n_trials=n_trials, **options)
    if isinstance(strategy.sampler, GaussianProcessOptimizer) and not model:
        sampler = RandomSampler(DIMENSIONS, start=options.get("start", ()))
        strategy = replace(strategy, sampler=sampler)
    return strategy


def test_the_phases_of_several_fidelities():
    done = play(make())
    purposes = [t.purpose for t in done]
    assert len(done) == 40 and [t.number for t in done] == list(range(40))
    order = list(dict.fromkeys(purposes))
    assert order[:5] == ["search", "promotion", "both sides", "refinement", "full sides"]
    assert order[-1] == "repeat"
    assert {t.fidelity for t in done if t.purpose == "search"} == {cheap_fidelity(FULL, 4096)}
    assert {t.fidelity for t in done if t.purpose == "both sides"} == {Fidelity(4, 0.5)}
    at_full = {"promotion", "refinement", "full sides", "proposal", "simpler", "repeat"}
    assert {t.fidelity for t in done if t.purpose in at_full} == {FULL}
    assert [purposes.count(p) for p in ("search", "both sides", "full sides")] == [20, 10, 2]
    looks = [t for t in done if t.purpose == "full sides"]
    varied = [len({t.parameters[name] for t in looks}) for name in ("defocus", "scan_rotation")]
    assert sorted(varied) == [1, 2]
    # of few trials one is left for that
    assert [t.seed for t in done if t.purpose == "repeat"] == [1]


def test_it_finds_the_valley():
    strategy = make(model=True)
    best = strategy.best(play(strategy))
    assert abs(best.parameters["defocus"] - 62) < 1
    assert abs(best.parameters["scan_rotation"] - 3) < 0.2
    assert best.parameters["n_probe_modes"] in (2, 4)


def test_a_simpler_model_is_tried_and_wins_where_it_is_as_good():
    def score(trial):
        # four modes are better by less than the scatter of the blocks
        return landscape(trial) - 1e-9 * trial.parameters["n_probe_modes"]

    strategy = make()
    done = play(strategy, score=score)
    lowest = min((t for t in done if t.fidelity == FULL), key=lambda t: t.objective)
    if lowest.parameters["n_probe_modes"] == 4:
        assert any(t.purpose == "simpler" for t in done)
    assert strategy.best(done).parameters["n_probe_modes"] == 2


def test_short_trials_that_mislead_are_not_believed():
    strategy = make()
    done = play(strategy, score=lambda t: landscape(t, inverted=True))
    assert strategy.agreement(done) < 0
    told = strategy.told_at_full(done)
    assert len(told) == sum(t.fidelity == FULL and t.purpose != "repeat" for t in done)


def test_short_trials_are_brought_to_the_scale_of_long_ones():
    strategy = make()
    done = play(strategy)
    told = strategy.told_at_full(done)
    assert len(told) > 15
    for point, value in told:
        trial = Trial(0, dict(point), FULL)
        assert value == pytest.approx(landscape(trial), abs=1e-6)


def curved(number, curve, objective, fidelity=FULL, status="completed", **options):
    trial = Trial(number, {"defocus": float(number)}, fidelity, status=status, **options)
    trial.curve, trial.objective = curve, objective
    return trial


def test_a_stopped_trial_is_told_as_what_it_would_have_ended_at():
    # the estimates of a few positions are lower by 10 than the objectives
    complete = [
        curved(0, [(2, 99.0), (5, 94.0), (12, 93.0)], 103.0),
        curved(1, [(2, 95.0), (5, 92.0), (12, 91.0)], 101.0),
        curved(2, [(2, 94.0), (5, 90.5), (12, 90.0)], 100.0),
        curved(3, [(2, 98.0), (5, 93.0), (12, 92.0)], 102.0),
    ]
    stopped = curved(4, [(2, 120.0)], 120.0, status="pruned")
    later = curved(5, [(2, 98.0), (5, 97.0)], 97.0, status="pruned")
    others = [
        curved(6, [(2, 0.0)], 50.0, Fidelity(6)),  # of another length
        curved(7, [(2, 0.0)], None, status="failed"),
        curved(8, [(2, 0.0)], 0.0, status="pruned"),
    ]
    trials = [*complete, stopped, later, *others]
    # the better third is two at least: 1 and 2
    assert expected_end(stopped, trials) == 120 + 6
    assert expected_end(later, trials) == 97 + 9.25
    few = [*complete[1:], stopped, later, *others]
    assert expected_end(later, few) is None
    assert expected_end(curved(8, [], 7.0, status="pruned"), trials) is None
    scores = [(p["defocus"], score) for p, score in told(reversed(trials))]
    assert scores == list(enumerate([103, 101, 100, 102, 126, 106.25, 50, None, 6]))


def test_a_stopped_short_trial_is_on_the_scale_of_long_ones_as_the_others_are():
    strategy = make()
    done = play(strategy)
    short = [t for t in done if t.purpose == "search"]
    pairs = {tuple(t.parameters.values()) for t in done if t.purpose == "promotion"}
    for t in short:  # what a few positions tell is far below
        t.curve = [(1, t.objective - 1.5), (t.fidelity.n_iterations, t.objective - 2)]
    stopped = next(t for t in short if tuple(t.parameters.values()) not in pairs)
    true = landscape(Trial(0, stopped.parameters, FULL))
    stopped.status, stopped.curve = "pruned", stopped.curve[:1]
    stopped.objective = stopped.curve[-1][1]
    scores = [score for p, score in strategy.told_at_full(done) if p == stopped.parameters]
    assert scores == [pytest.approx(true, abs=1e-6)]


@pytest.fixture(scope="module")
def undisturbed():
    return {name: play(make(name, 26, model=True)) for name in ("multifidelity", "full")}


@pytest.mark.parametrize("name", ["multifidelity", "full"])
@pytest.mark.parametrize("kept", [1, 19, 23])
def test_it_goes_on_after_a_kill_as_if_nothing_had_happened(undisturbed, name, kept):
    whole = undisturbed[name]
    resumed = play(make(name, 26, model=True), known=whole[:kept])
    assert [t.to_dict() for t in resumed] == [t.to_dict() for t in whole]


@pytest.mark.parametrize("name", ["multifidelity", "full", "sobol"])
def test_side_by_side_all_trials_differ_and_are_as_many(name):
    done = play(make(name), at_once=4)
    assert sorted(t.number for t in done) == list(range(40))
    keys = [(t.fidelity, t.seed, *sorted(t.parameters.items())) for t in done]
    assert len(set(keys)) == 40


def test_a_phase_waits_for_the_one_before_and_not_for_itself():
    strategy = make()
    done = play(strategy)
    purposes = [t.purpose for t in done]
    first = purposes.index("promotion")
    assert strategy.propose(done[: first - 1], done[first - 1 : first]) is None
    second = strategy.propose(done[:first], done[first : first + 1])
    assert second.purpose == "promotion" and second.parameters != done[first].parameters
    after = first + purposes.count("promotion")
    assert strategy.propose(done[: after - 1], done[after - 1 : after]) is None
    assert strategy.propose(done[:after], []).purpose == "both sides"


def test_failed_trials_are_survived():
    def play_with_failures(strategy):
        done = []
        while (trial := strategy.propose(done, [])) is not None:
            if trial.number % 3 == 0:
                trial.status, trial.objective = "failed", None
            else:
                trial.objective, trial.blocks = landscape(trial), [1.0, 2.0]
            done.append(trial)
        return done

    strategy = make()
    done = play_with_failures(strategy)
    assert len(done) == 40 and strategy.best(done).status == "completed"


def test_all_short_trials_failed():
    strategy, done = make(), []
    while (trial := strategy.propose(done, [])) is not None:
        trial.status = "failed"
        done.append(trial)
        assert len(done) <= 40
    assert strategy.best(done) is None


def test_few_trials_are_all_at_full_length():
    assert {t.fidelity for t in play(make(n_trials=6))} == {FULL}


def test_the_start_is_tried_first():
    start = [{"defocus": 12.0, "scan_rotation": 1.0, "n_probe_modes": 2}]
    for name in ("multifidelity", "full", "default"):
        done = play(make(name, start=start))
        assert done[0].parameters == start[0]
    assert len(done) == 1  # of "default"


def test_a_small_space_is_exhausted():
    dimensions = [Dimension("n_probe_modes", choices=(1, 2, 4))]
    strategy = make_strategy("multifidelity", dimensions, full=FULL, n_positions=4096, n_trials=40)
    assert isinstance(strategy, Multifidelity)
    done = play(strategy, score=lambda t: 1 / t.parameters["n_probe_modes"])
    assert sum(t.purpose == "search" for t in done) == 3
    assert sum(t.purpose == "promotion" for t in done) == 3
    assert strategy.best(done).parameters == {"n_probe_modes": 4}
    full = [t for t in done if t.fidelity == FULL and t.purpose != "repeat"]
    assert len(full) == 3


def test_all_of_a_small_space_is_tried_at_full_length_while_there_are_trials():
    dimensions = [
        Dimension("n_probe_modes", choices=(1, 2, 4)), Dimension("n_slices", choices=(1, 2, 3)),
    ]  # fmt: skip
    options = {"full": FULL, "n_positions": 4096, "n_trials": 40}
    strategy = make_strategy("multifidelity", dimensions, **options)
    # short trials are right, but for which is the very best
    gain = {(2, 2): 0.5, (4, 3): 0.3}

    def score(trial):
        p = trial.parameters
        value = 9.0 - p["n_probe_modes"] - p["n_slices"] / 4
        there = gain.get((p["n_probe_modes"], p["n_slices"]), 0)
        return value - 4 * there * (trial.fidelity == FULL)

    done = play(strategy, score=score)
    assert sum(t.purpose == "search" for t in done) == 9
    full = [t for t in done if t.fidelity == FULL and t.purpose != "repeat"]
    assert len(full) == 9 and any(t.purpose == "proposal" for t in full)
    assert strategy.best(done).parameters == {"n_probe_modes": 4, "n_slices": 3}
    # what is more promising comes first
    late = [t for t in full if t.purpose == "proposal"]
    short = {tuple(t.parameters.values()): t.objective for t in done if t.purpose == "search"}
    order = [short[tuple(t.parameters.values())] for t in late]
    assert order == sorted(order)


def test_an_unknown_strategy():
    with pytest.raises(StrategyError, match="multifidelity"):
        make("hyperband")
    assert "random" in STRATEGIES


def test_limits_are_where_the_better_ones_were():
    def trial(number, early, final):
        return Trial(number, {}, FULL, objective=final, curve=[(3, early), (6, final), (12, final)])

    trials = [trial(i, 1.0 + 0.1 * i, 0.5 + 0.1 * i) for i in range(6)]
    assert curve_limits(trials[:3]) == []
    assert curve_limits(trials) == [(3, pytest.approx(1.2)), (6, pytest.approx(0.7))]
    strategy = make()
    assert strategy.limits(Trial(9, {}, FULL, "promotion"), trials) == []
    assert strategy.limits(Trial(9, {}, FULL, "proposal"), trials) != []


def test_numbers_fill_gaps():
    trials = [Trial(n, {}, FULL) for n in (0, 1, 3)]
    assert next_number(trials, []) == 2
    assert next_number(trials, [Trial(2, {}, FULL)]) == 4


def test_the_cheap_fidelity():
    assert cheap_fidelity(Fidelity(12), 4096) == Fidelity(3, 0.25)
    assert cheap_fidelity(Fidelity(12), 800) == Fidelity(3, 1.0)
    assert middle_fidelity(FULL, Fidelity(3, 0.25)) == Fidelity(4, 0.5)
    assert middle_fidelity(Fidelity(6), Fidelity(3, 1.0)) == Fidelity(3, 1.0)
    assert cheap_fidelity(Fidelity(2), 2304) == Fidelity(2, pytest.approx(0.444))
    assert np.isclose(cheap_fidelity(Fidelity(50), 1e6).part, 0.25)


def test_a_study_that_goes_on_with_more_trials():
    whole = play(make())
    strategy = make(n_trials=46, planned=40)
    more = play(strategy, known=whole)
    assert [t.to_dict() for t in more[:40]] == [t.to_dict() for t in whole]
    assert len(more) == 46
    assert {t.purpose for t in more[40:]} <= {"proposal", "simpler", "repeat"}
    assert {t.fidelity for t in more[40:]} == {FULL}


def test_one_side_of_what_is_left_is_polished_at_full_length_where_short_trials_mislead():
    done = play(make(), score=lambda t: landscape(t, inverted=True))
    about = [t for t in done if t.purpose == "both sides"]
    assert about and {t.fidelity for t in about} == {FULL}


def test_repeats_have_seeds_of_their_own_whatever_was_lost():
    whole = play(make(n_trials=60))
    repeats = [t for t in whole if t.purpose == "repeat"]
    assert sorted({t.seed for t in repeats}) == [1, 2]
    # the first was under way when the run was killed, the others had ended
    kept = [t for t in whole if t is not repeats[0]]
    last = play(make(n_trials=60), known=kept)[-1]
    assert (last.purpose, last.seed, last.number) == ("repeat", 1, repeats[0].number)
    assert last.parameters == repeats[0].parameters


def test_the_mean_over_orders_decides_between_the_last_two():
    def score(trial, favoured):
        # with the first order of the positions, one that was promoted is better by chance
        luck = trial.purpose == "promotion" and trial.number == favoured
        return landscape(trial) - 0.04 * luck

    plain = play(make(n_trials=60))
    favoured = min((t for t in plain if t.purpose == "promotion"), key=lambda t: t.objective)
    strategy = make(n_trials=60)
    done = play(strategy, score=lambda t: score(t, favoured.number))
    lowest = min((t for t in done if t.fidelity == FULL), key=lambda t: t.objective)
    assert lowest.number == favoured.number
    repeats = [t for t in done if t.purpose == "repeat"]
    # what was polished does with fewer modes, which took one
    assert [t.seed for t in repeats] == [1, 1, 2]
    best = strategy.best(done)
    last = [t for t in done if t.purpose == "refinement"][-1].parameters
    assert best.purpose == "simpler"
    assert best.parameters == {**last, "n_probe_modes": best.parameters["n_probe_modes"]}
    assert strategy.best(done[:-3]) is lowest


def test_what_is_known_least_is_polished_at_full_length():
    def score(trial):
        # rotation is flat, and the optima are others at full length
        p, full = trial.parameters, trial.fidelity == FULL
        value = ((p["defocus"] - (64 if full else 62)) / 100) ** 2
        value += 0.01 * ((p["scan_rotation"] - (2 if full else 1)) / 20) ** 2
        return value + 0.02 * (p["n_probe_modes"] == 1) + full

    strategy = make(n_trials=70)
    done = play(strategy, score=score)
    sides = [t for t in done if t.purpose == "full sides"]
    assert len(sides) == 2 and {t.fidelity for t in sides} == {FULL}
    assert len({t.parameters["scan_rotation"] for t in sides}) == 2
    assert len({t.parameters["defocus"] for t in sides}) == 1
    last = [t for t in done if t.purpose == "refinement"][-1].parameters
    # what was seen at full length counts 16 times as much
    assert last["scan_rotation"] == pytest.approx(1 + 16 / 17, abs=0.02)
    assert last["defocus"] == pytest.approx(62, abs=0.1)


def test_steps_of_the_engine_are_not_polished_in_short_trials():
    dimensions = [*DIMENSIONS, Dimension("step_object", 0.1, 1.5, log=True)]
    strategy = make_strategy("multifidelity", dimensions, full=FULL, n_positions=4096, n_trials=70)
    strategy = replace(strategy, sampler=RandomSampler(dimensions))

    def score(trial):
        sign = 1 if trial.fidelity == FULL else -1
        return landscape(trial) + sign * 0.1 * trial.parameters["step_object"]

    done = play(strategy, score=score)
    about = [t for t in done if t.purpose == "both sides"]
    assert len(about) > 5 and len({t.parameters["step_object"] for t in about}) == 1
    # at full length they are, and the flattest of the others where the best of them is
    sides = [t for t in done if t.purpose == "full sides"]
    of_step, of_flattest = sides[:4], sides[4:]
    first = next(t for t in done if t.purpose == "refinement")
    best = min([first, *of_step], key=lambda t: t.objective).parameters
    for t in of_step:
        assert {**t.parameters, "step_object": 0} == {**first.parameters, "step_object": 0}
    # first far, then half as far about the best of these
    places = [dimensions[-1].place(t.parameters["step_object"]) for t in [first, *of_step]]
    middle = places[0] - 0.3
    # as far as the range goes on the one side
    assert places[1:] == pytest.approx([1.0, middle, middle + 0.15, middle - 0.15])
    assert best["step_object"] == pytest.approx(dimensions[-1].value(middle - 0.15))
    assert len(of_flattest) == 2
    for t in of_flattest:
        others = [name for name, value in best.items() if t.parameters[name] != value]
        assert others in (["defocus"], ["scan_rotation"])


# -- all trials of one length ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "sobol", "full"])
def test_strategies_of_one_fidelity(name):
    strategy = make(name, n_trials=12)
    done = play(strategy)
    assert [t.number for t in done] == list(range(12))
    assert {t.fidelity for t in done} == {FULL}
    assert len({tuple(t.parameters.values()) for t in done}) == 12
    assert {t.seed for t in done} == {0}
    assert strategy.limits(done[0], done) == []
    assert strategy.optimum(done) is None
    assert strategy.best(done).objective == min(t.objective for t in done)
    # what is under way counts, and what was done before
    assert make(name, n_trials=12).propose(done[:9], done[9:]) is None


def test_the_middle_alone():
    (trial,) = play(make("default", n_trials=12))
    assert trial.parameters == {"defocus": 50.0, "scan_rotation": 0.0, "n_probe_modes": 2}


def test_a_space_without_points_left_ends_the_search():
    modes = [Dimension("n_probe_modes", choices=(1, 2, 4))]
    strategy = make_strategy("random", modes, n_trials=8, full=FULL, n_positions=4096)
    points = []
    while (trial := strategy.propose(points, [])) is not None:
        trial.objective = float(trial.parameters["n_probe_modes"])
        trial.blocks, trial.curve = [trial.objective] * 16, [(12, trial.objective)]
        points.append(trial)
    assert sorted(t.parameters["n_probe_modes"] for t in points) == [1, 2, 4]
