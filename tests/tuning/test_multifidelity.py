"""How many trials go where, and what is made of them, in numbers."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest

from hs_autoptycho.tuning.multifidelity import Multifidelity
from hs_autoptycho.tuning.optimizer import RandomSampler
from hs_autoptycho.tuning.polish import Optimum
from hs_autoptycho.tuning.space import SLICES, Dimension
from hs_autoptycho.tuning.stages import Way
from hs_autoptycho.tuning.trial import Fidelity, Trial

CHEAP, MIDDLE, FULL = Fidelity(3, 0.25), Fidelity(4, 0.5), Fidelity(12)
NAMES = ("defocus", "scan_rotation", "C12a", "C12b", "C21a", "C21b")
MODES = Dimension("n_probe_modes", choices=(1, 2, 4))


def make(dimensions, n_trials=40, planned=None, seed=0):
    if isinstance(dimensions, int):
        dimensions = [Dimension(name, 0.0, 1.0) for name in NAMES[:dimensions]]
    return Multifidelity(
        RandomSampler(dimensions, random_state=1), dimensions, CHEAP, MIDDLE, FULL,
        n_trials, planned or n_trials, RandomSampler(dimensions, random_state=2), seed,
    )  # fmt: skip


def trial(number, objective=1.0, purpose="search", fidelity=None, seed=0, blocks=(), **parameters):
    lengths = {"search": CHEAP, "both sides": MIDDLE}
    status = "failed" if objective is None else "completed"
    return Trial(
        number, parameters or {"defocus": number / 10}, fidelity or lengths.get(purpose, FULL),
        purpose, seed, objective, blocks=list(blocks), status=status,
    )  # fmt: skip


# -- how many trials ---------------------------------------------------------------------------


def test_a_quarter_of_the_trials_and_at_least_eight_are_at_full_length():
    found = [make(2, n).n_full for n in (10, 33, 35, 36, 40, 100)]
    assert found == [8, 8, 9, 9, 10, 25]
    assert make(2, 60, planned=40).n_full == 10


@pytest.mark.parametrize(
    ("n", "modes", "one", "two"),
    [
        (1, False, 18, 21),
        (1, True, 19, 22),
        (2, False, 21, 26),
        (2, True, 23, 28),
        (4, False, 28, 40),
        (6, False, 34, 58),
        (6, True, 37, 58),
    ],
)
def test_from_how_many_trials_on_the_best_is_polished(n, modes, one, two):
    """In one round, in two."""
    dimensions = [*make(n).dimensions, *([MODES] if modes else [])]
    strategies = [make(dimensions, planned) for planned in range(8, 80)]

    def first(condition):
        return next(s.planned for s in strategies if condition(s))

    assert first(lambda s: s.n_polish[0] == 1) == one
    assert first(lambda s: s.n_polish[0] == 2) == two
    assert {s.n_polish for s in strategies} == {(0, 0), (1, 2 * n + 1), (2, 4 * n + 2)}
    for s in strategies:
        assert s.n_search == s.planned - s.n_full - s.n_polish[1]
    # two rounds of four parameters are 18 trials, which is 0.45 of 40
    assert make(4, 39).n_polish == (1, 9)


def test_what_cannot_be_polished():
    """Names, whole numbers, and what is another one where there are more passes."""
    dimensions = [MODES, Dimension("batch_size", 8, 64), Dimension("step_object", 0.1, 1.0)]
    strategy = make(dimensions, 60)
    assert (strategy.n_polish, strategy.n_search) == ((0, 0), 45)
    assert make([*dimensions, Dimension("defocus", 0.0, 1.0)], 60).n_polish == (2, 6)


# -- what is proposed --------------------------------------------------------------------------

DIMENSIONS = [Dimension("defocus", 0.0, 100.0), Dimension("scan_rotation", -10.0, 10.0), MODES]


def score(t):
    p = t.parameters
    full = t.fidelity == FULL
    value = ((p["defocus"] - (63 if full else 62)) / 100) ** 2
    value += 0.3 * ((p["scan_rotation"] - (3.5 if full else 3)) / 20) ** 2
    value += {1: 0.02, 2: 0.0, 4: -1e-3}[p["n_probe_modes"]]
    return (1.0 if t.fidelity == FULL else 3.0) + value


def play(strategy, at_once=1, score=score):
    done, pending = [], []
    while True:
        while len(pending) < at_once and (new := strategy.propose(done, pending)) is not None:
            pending.append(new)
        if not pending:
            return done
        t = pending.pop(0)
        t.objective = score(t)
        t.blocks = [t.objective + e for e in (-2e-6, 0.0, 1e-6, 1e-6)]
        done.append(t)


def phases(done):
    """Purposes of trials and how many follow each other."""
    return [(p, len(list(some))) for p, some in groupby(done, key=lambda t: t.purpose)]


# one parameter is changed at full length once more
PHASES = [
    ("search", 42), ("promotion", 4), ("both sides", 10), ("refinement", 1), ("full sides", 2),
    ("refinement", 1), ("proposal", 7), ("simpler", 1), ("repeat", 2),
]  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_phases_in_their_order(at_once):
    done = play(make(DIMENSIONS, 70), at_once)
    assert phases(done) == PHASES
    assert [t.number for t in done] == list(range(70))


def test_a_phase_waits_for_the_last_trial_of_the_one_before():
    strategy = make(DIMENSIONS, 70)
    done = play(strategy)
    for i, (t, following) in enumerate(zip(done, done[1:], strict=False)):
        new = strategy.propose(done[:i], [t])
        # two rounds of five trials to both sides
        if t.purpose != following.purpose or i + 1 == 42 + 4 + 5:
            assert new is None
        else:
            assert (new.number, new.purpose, new.seed) == (i + 1, t.purpose, following.seed)


def test_the_phases_of_fewer_trials():
    few, more = (phases(play(make(DIMENSIONS, n))) for n in (16, 26))
    assert few == [("search", 8), ("promotion", 4), ("proposal", 1), ("simpler", 1), ("repeat", 2)]
    assert more[:3] == [("search", 13), ("promotion", 4), ("both sides", 5)]
    assert more[3:] == [("refinement", 1), ("simpler", 1), ("repeat", 2)]


def test_more_trials_than_were_planned_are_at_full_length():
    done = play(make(DIMENSIONS, 44, planned=40))
    assert phases(done) == [
        ("search", 20), ("promotion", 4), ("both sides", 10), ("refinement", 1), ("full sides", 2),
        ("refinement", 1), ("proposal", 3), ("simpler", 1), ("repeat", 2),
    ]  # fmt: skip


def by_halves(t):
    """What halves of the counts say of the rotation: a degree more, and two and a half less."""
    shift = {0: 0.0, 1: 1.0, 2: -2.5}[t.fidelity.split]
    p = {**t.parameters, "scan_rotation": t.parameters["scan_rotation"] - shift}
    return score(replace(t, parameters=p, fidelity=replace(t.fidelity, split=0)))


def test_halves_of_the_counts_are_asked_as_far_as_there_are_trials():
    with_splits = [replace(make(DIMENSIONS, n), splits=True) for n in (60, 70, 82, 120)]
    counts = [sum(t.purpose == "halves" for t in play(s, 1, by_halves)) for s in with_splits]
    assert counts == [0, 3, 6, 6]
    assert "halves" not in dict(phases(play(make(DIMENSIONS, 120))))


@pytest.mark.parametrize("at_once", [1, 4])
def test_what_halves_of_the_counts_say(at_once):
    strategy = replace(make(DIMENSIONS, 82), splits=True)
    done = play(strategy, at_once, by_halves)
    assert phases(done)[4:7] == [("full sides", 2), ("halves", 6), ("refinement", 1)]
    own = [t for t in done if t.purpose == "halves"]
    assert [t.fidelity for t in own] == [replace(FULL, split=k) for k in (1, 1, 1, 2, 2, 2)]
    sides = [t.parameters for t in done if t.purpose == "full sides"]
    first, last = (t for t in done if t.purpose == "refinement")
    for look in (own[:3], own[3:]):
        assert [t.parameters for t in look] == [first.parameters, *sides]
    # 3.5, 4.5 and 1 degree: 3 in the mean, as shorter trials say
    assert last.parameters["scan_rotation"] == pytest.approx(3.0, abs=1e-3)
    # what a half judged is no candidate, and nobody is told of it
    for t in own:
        t.objective = 0.0
    assert strategy.best(done).fidelity == FULL
    assert all(value > 0.5 for _, value in strategy.told_at_full(done))


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_a_half_of_the_counts_that_not_all_points_have(failed):
    strategy, done = replace(make(DIMENSIONS, 82), splits=True), []
    while (t := strategy.propose(done, [])) is not None:
        t.objective = by_halves(t)
        t.blocks = [t.objective + e for e in (-2e-6, 0.0, 1e-6, 1e-6)]
        if t.fidelity.split == 1 and sum(o.fidelity.split == 1 for o in done) == failed:
            t.objective, t.status, t.blocks = None, "failed", []
        done.append(t)
    last = [t for t in done if t.purpose == "refinement"][-1].parameters
    # 3.5 and 1 at full length, 16 times as much as 3 of shorter ones
    assert last["scan_rotation"] == pytest.approx((3 + 16 * 2.25) / 17, abs=0.02)


def test_a_side_that_failed_with_most_counts():
    strategy, done = replace(make(DIMENSIONS, 82), splits=True), []
    while (t := strategy.propose(done, [])) is not None:
        t.objective = by_halves(t)
        t.blocks = [t.objective + e for e in (-2e-6, 0.0, 1e-6, 1e-6)]
        if t.purpose == "full sides" and "full sides" not in {o.purpose for o in done}:
            t.objective, t.status, t.blocks = None, "failed", []
        done.append(t)
    last = [t for t in done if t.purpose == "refinement"][-1].parameters
    # halves say 4.5 and 1
    assert last["scan_rotation"] == pytest.approx((3 + 16 * 2.75) / 17, abs=0.02)


def test_where_short_trials_mislead_there_are_no_other_lengths():
    done = play(make(DIMENSIONS, 70), 1, lambda t: score(t) * (1 if t.fidelity == FULL else -1))
    assert phases(done)[2:5] == [("both sides", 9), ("refinement", 1), ("proposal", 11)]
    assert {t.fidelity for t in done[42:]} == {FULL}


def test_the_way_to_the_optimum():
    """Its points, as defocus and rotation; the first parabolas find 62 and 3 at once."""
    near = [Dimension("defocus", 52.0, 80.0), Dimension("scan_rotation", 1.5, 4.5), MODES]
    strategy = make(DIMENSIONS, 70)
    strategy = replace(strategy, sampler=RandomSampler(near, random_state=1))
    done = play(strategy)
    way = [(t.purpose, t.parameters["defocus"], t.parameters["scan_rotation"]) for t in done]
    x, y, dx, dy = 63.0551, 4.0508, 3.0037, 1.1965  # the best, and how the better ones spread
    # at full length the rotation, the flattest
    expected = [
        (x, y), (x + dx, y), (x - dx, y), (x, y + dy), (x, y - dy),
        (62, 3), (62 + dx, 3), (62 - dx, 3), (62, 3 + dy), (62, 3 - dy),
        (62, 3), (62, 3 + dy), (62, 3 - dy),
    ]  # fmt: skip
    # 3.5 at full length, which counts 16 times as much
    end = (62, 3 + 0.5 * 16 / 17)
    purposes = ["both sides"] * 10 + ["refinement"] + ["full sides"] * 2 + ["refinement"]
    assert [w[0] for w in way[46:60]] == purposes
    for found, point in zip(way[46:60], [*expected, end], strict=True):
        assert found[1:] == pytest.approx(point, abs=1e-3)
    optimum = strategy.optimum(done)
    assert optimum.point == pytest.approx(
        {"defocus": 62, "scan_rotation": end[1], "n_probe_modes": 4}, abs=1e-3
    )
    assert optimum.curvatures == pytest.approx({"defocus": 2.0, "scan_rotation": 0.6})
    # a twentieth and a fifth of a step, of a range of 20
    expected = dy / 20 * (0.05**-2 + 0.2**-2) ** -0.5
    assert optimum.errors == pytest.approx({"defocus": 0, "scan_rotation": expected}, abs=1e-6)
    assert strategy.optimum(done[:50]) is None
    assert strategy.optimum(done[:51]).point["scan_rotation"] == pytest.approx(3)
    assert strategy.optimum(done[:58]).point["scan_rotation"] == pytest.approx(3)
    assert strategy.optimum(done[:59]).point["scan_rotation"] == pytest.approx(end[1])
    assert {t.parameters["n_probe_modes"] for t in done if t.purpose == "simpler"} == {2}
    repeats = [t for t in done if t.purpose == "repeat"]
    assert [t.seed for t in repeats] == [1, 2]
    assert all(t.parameters == optimum.point for t in repeats)


def test_a_repeat_does_not_stand_for_what_it_repeats():
    strategy = make(DIMENSIONS, 70)
    done = play(strategy)
    last = [t for t in done if t.purpose == "refinement"][-1]
    assert any(t.purpose == "repeat" and t.parameters == last.parameters for t in done)
    # it was under way when the run was killed
    again = strategy.propose([t for t in done if t is not last], [])
    assert (again.purpose, again.seed, again.parameters) == ("refinement", 0, last.parameters)


def test_the_second_time_and_at_full_length_steps_are_wider():
    """Where the objective rises by less than the scatter between blocks tells."""
    generator = np.random.default_rng(1)

    def noisy(t):
        t.blocks = [score(t) + e for e in generator.normal(scale=2e-4, size=16)]
        return float(np.mean(t.blocks))

    def widths(done, purpose, name):
        places = sorted(t.parameters[name] for t in done if t.purpose == purpose)
        return round(places[-1] - places[0], 3)

    near = [Dimension("defocus", 55.0, 70.0), Dimension("scan_rotation", 2.0, 4.0), MODES]
    strategy = replace(make(DIMENSIONS, 70), sampler=RandomSampler(near, random_state=1))
    done = []
    while (t := strategy.propose(done, [])) is not None:
        t.objective = noisy(t)
        done.append(t)
    first, second = done[46:51], done[51:56]
    for name in ("defocus", "scan_rotation"):
        before, after = (widths(part, "both sides", name) for part in (first, second))
        assert after > 1.5 * before
    assert widths(done, "full sides", "scan_rotation") == pytest.approx(after, abs=1e-2)


# -- what is made of them ----------------------------------------------------------------------


def test_candidates_are_the_best_three_and_one_from_the_middle():
    strategy = make(1)

    def candidates(n):
        # the best have the highest numbers
        done = [trial(i, float(n - i)) for i in range(n)] + [trial(n, None), trial(n + 1, 0.0, "x")]
        return [round(10 * p["defocus"]) for p in strategy._candidates(done)]

    assert candidates(0) == []
    assert candidates(1) == [0]
    assert candidates(2) == [1, 0]
    assert candidates(4) == [3, 2, 1, 0]
    assert candidates(7) == [6, 5, 4, 3]
    assert candidates(9) == [8, 7, 6, 4]
    assert candidates(12) == [11, 10, 9, 5]


PROMOTED = [
    trial(i, value, purpose, defocus=i % 4 / 10)
    for i, value, purpose in [
        (0, 2.0, "search"), (1, 2.2, "search"), (2, 2.8, "search"), (3, 2.5, "search"),
        (4, 1.0, "promotion"), (5, 1.4, "promotion"), (6, 2.6, "promotion"),
    ]
]  # fmt: skip


def test_scores_of_short_trials_on_the_scale_of_full_length():
    strategy = make(1)
    told = strategy.told_at_full(PROMOTED)
    # the line through (2, 1), (2.2, 1.4), (2.8, 2.6) has a slope of 2
    assert told[0] == ({"defocus": 0.3}, pytest.approx(2.0))
    assert told[1:] == [({"defocus": 0.0}, 1.0), ({"defocus": 0.1}, 1.4), ({"defocus": 0.2}, 2.6)]
    # two are not enough to believe in; failures count
    failed = trial(7, None, defocus=0.7)
    assert strategy.told_at_full([*PROMOTED[:6], failed]) == [
        ({"defocus": 0.7}, None), ({"defocus": 0.0}, 1.0), ({"defocus": 0.1}, 1.4),
    ]  # fmt: skip
    # neither repeats nor what was polished at another length are told
    more = [
        trial(8, 0.5, "repeat", seed=1, defocus=0.0),
        trial(9, 0.9, "both sides", defocus=0.05),
    ]
    assert strategy.told_at_full([*PROMOTED, failed, *more]) == [
        told[0], ({"defocus": 0.7}, None), *told[1:],
    ]  # fmt: skip


def test_short_trials_are_believed_unless_their_order_is_another_one():
    strategy = make(1)
    assert strategy.agreement(PROMOTED) == 1
    assert strategy._believed(PROMOTED) and strategy._believed([])
    swapped = [replace(t, objective=-t.objective) if t.purpose == "search" else t for t in PROMOTED]
    assert strategy.agreement(swapped) == -1
    assert not strategy._believed(swapped)
    # of four trials three pairs are alike and three not
    undecided = [*PROMOTED, trial(7, 0.5, "promotion", defocus=0.3)]
    assert strategy.agreement(undecided) == pytest.approx(1 / 3)
    assert strategy._believed(undecided)
    even = [trial(i, v, p, defocus=i % 4 / 10) for i, v, p in [
        (0, 1.0, "search"), (1, 2.0, "search"), (2, 3.0, "search"), (3, 4.0, "search"),
        (4, 3.0, "promotion"), (5, 1.0, "promotion"), (6, 4.0, "promotion"), (7, 2.0, "promotion"),
    ]]  # fmt: skip
    assert strategy.agreement(even) == 0
    assert not strategy._believed(even)


def test_limits_of_trials_that_search():
    def curve(number, fidelity, shift):
        t = trial(number, 1 + number / 10, "search", fidelity)
        t.curve = [(1, 2 + shift + number / 10), (3, 1.0)]
        return t

    done = [curve(i, CHEAP, 0) for i in range(6)] + [curve(i, FULL, 1) for i in range(6, 12)]
    strategy = make(1)
    assert strategy.limits(trial(20), done) == [(1, pytest.approx(2.2))]
    assert strategy.limits(trial(20, purpose="proposal"), done) == [(1, pytest.approx(3.8))]
    assert strategy.limits(trial(20, purpose="promotion"), done) == []


class TestBest:
    """The lowest by one order of the positions, or what polishing ended at."""

    strategy = make(1)

    def done(self, lowest, polished):
        """Scores of both with the seeds 0, 1, …"""
        trials = [trial(0, 3.0), trial(1, lowest[0], "promotion", defocus=0.1)]
        trials += [trial(2, 2.9, "refinement", defocus=0.7)]
        trials += [trial(3, polished[0], "refinement", defocus=0.2)]
        for place, scores in ((0.1, lowest), (0.2, polished)):
            for seed, value in enumerate(scores[1:], 1):
                trials.append(trial(len(trials), value, "repeat", seed=seed, defocus=place))
        return trials

    def best(self, lowest, polished):
        return self.strategy.best(self.done(lowest, polished)).parameters["defocus"]

    def test_without_repeats(self):
        assert self.best([1.0], [1.1]) == 0.1
        assert self.best([1.0], [0.9]) == 0.2

    def test_the_mean_decides_if_it_is_certain(self):
        # 0.1, -0.01, -0.04 in the mean 0.0167 of an error of 0.0426
        assert self.best([1.0, 1.0, 1.0], [1.1, 0.99, 0.96]) == 0.2
        # 0.1, 0.04, 0.01: 0.05 of 0.0265
        assert self.best([1.0, 1.0, 1.0], [1.1, 1.04, 1.01]) == 0.1
        # 0.1, 0.02, 0.0: 0.04 of 0.0306
        assert self.best([1.0, 1.0, 1.0], [1.1, 1.02, 1.0]) == 0.1
        # 0.1, 0.0, -0.01: 0.03 of 0.0351
        assert self.best([1.0, 1.0, 1.0], [1.1, 1.0, 0.99]) == 0.2
        # of two: 0.1 and 0.05 are 0.075 of 0.025, 0.1 and -0.05 are 0.025 of 0.075
        assert self.best([1.0, 1.0], [1.1, 1.05]) == 0.1
        assert self.best([1.0, 1.0], [1.1, 0.95]) == 0.2
        # the scores of a seed are compared, those that one alone has are not
        assert self.best([1.0, 2.0, 0.0], [1.1, 2.05]) == 0.1

    def test_as_good_as_the_other(self):
        """More trials speak for what was polished."""
        assert self.best([1.0], [1.0]) == 0.2
        assert self.best([1.0, 1.0], [1.0, 1.0]) == 0.2
        assert self.best([1.0, 1.5], [1.25, 1.25]) == 0.2

    def test_failed_repeats_do_not_count(self):
        done = self.done([1.0, 1.0], [1.1, 0.5])
        done[-1].status, done[-1].objective = "failed", None
        assert self.strategy.best(done).parameters == {"defocus": 0.1}

    def test_what_was_polished_is_taken_with_as_few_modes_as_do(self):
        dimensions = [Dimension("defocus", 0.0, 1.0), MODES]
        scatter = 0.1 * np.array([1, -1, 1, -1])

        def done(*values):
            """A promoted one with one mode, a polished one with four, the same with two and one."""
            simple = trial(0, 1.0, "promotion", defocus=0.1, n_probe_modes=1)
            last = trial(1, values[0], "refinement", defocus=0.2, n_probe_modes=4)
            fewer = [
                trial(2 + i, value, "simpler", defocus=0.2, n_probe_modes=modes)
                for i, (value, modes) in enumerate(zip(values[1:], (2, 1), strict=False))
            ]
            trials = [simple, last, *fewer]
            for t in trials:  # standard errors of differences from the last one's are 0.058
                t.blocks = list(t.objective + scatter * (t is not last))
            return trials

        finalists = make(dimensions)._finalists
        assert [t.number for t in finalists(done(0.9))] == [1]
        assert [t.number for t in finalists(done(0.97))] == [0, 1]
        assert [t.number for t in finalists(done(0.97, 1.0))] == [0, 2]
        assert [t.number for t in finalists(done(0.97, 1.1))] == [0, 1]
        assert [t.number for t in finalists(done(0.97, 1.0, 1.02))] == [0, 3]
        # a simpler one of something else
        trials = done(0.97, 1.0)
        trials[2].parameters["defocus"] = 0.21
        assert [t.number for t in finalists(trials)] == [0, 1]

    def test_nothing_at_full_length(self):
        assert self.strategy.best([trial(0, 3.0), trial(1, 2.0)]).number == 1
        assert self.strategy.best([trial(0, 1.0), trial(1, 2.0, "promotion")]).number == 1


def test_repeats_of_both():
    done = TestBest().done([1.0], [1.1])
    strategy = make(1, seed=3)
    lowest, last = {"defocus": 0.1}, {"defocus": 0.2}
    every = strategy._repeats(done, done)
    assert every == [(lowest, 4), (last, 4), (lowest, 5), (last, 5)]
    there = [trial(9, 1.0, "repeat", seed=4, defocus=0.2), trial(10, 1, "search", defocus=0.1)]
    assert strategy._repeats(done, [*done, *there]) == [every[0], *every[2:]]


def test_simpler_models():
    dimensions = [
        Dimension("defocus", 0.0, 1.0),
        Dimension("n_slices", 1, 4),
        Dimension("thickness", 20.0, 200.0, condition=SLICES),
        MODES,
    ]
    strategy = make(dimensions)

    def simpler(**best):
        done = [
            trial(0, 0.5, "search", defocus=0.3, n_slices=4, n_probe_modes=4),
            trial(1, 1.0, "promotion", **best),
            trial(2, 1.1, "promotion", defocus=0.2, n_slices=3, n_probe_modes=2),
            trial(3, 0.1, "repeat", defocus=0.2, n_slices=3, n_probe_modes=2),
            trial(4, None, "proposal", defocus=0.2, n_slices=3, n_probe_modes=2),
        ]
        return strategy._simpler(done)

    best = {"defocus": 0.1, "n_slices": 2, "thickness": 50.0, "n_probe_modes": 4}
    assert simpler(**best) == [
        {"defocus": 0.1, "n_slices": 1, "n_probe_modes": 4},
        {"defocus": 0.1, "n_slices": 2, "thickness": 50.0, "n_probe_modes": 2},
    ]
    assert simpler(**{**best, "n_slices": 4, "n_probe_modes": 1}) == [
        {"defocus": 0.1, "n_slices": 3, "thickness": 50.0, "n_probe_modes": 1}
    ]
    assert simpler(defocus=0.1, n_slices=1, n_probe_modes=1) == []
    assert strategy._simpler([trial(0)]) == []


@pytest.mark.parametrize(
    ("planned", "n", "rounds"),
    [(37, 0, 0), (38, 1, 0), (58, 1, 0), (59, 2, 1), (66, 2, 1), (67, 3, 1), (74, 3, 1),
     (75, 3, 1), (76, 3, 1), (82, 3, 1), (83, 3, 2)],
)  # fmt: skip
def test_how_many_parameters_are_changed_at_full_length(planned, n, rounds):
    """Two trials each, of those that are not for promotion, modes and repeats; one at the least."""
    strategy = make([*make(4).dimensions, MODES], planned)
    found = Optimum({}, {}, {"C12a": 3.0, "defocus": 1.0, "C12b": 2.0, "scan_rotation": 4.0})
    steps = dict.fromkeys([*found.curvatures, "step_object", "momentum"], 0.1)
    # the flattest of those that shorter trials can tell, and what these say nothing of
    names = ["step_object", "momentum"][: max(0, n - 1)]
    looks = way(strategy).last_looks(steps, found)
    assert looks == (names, rounds, ["defocus"][:n], 0)
    # where these were as long, the flattest has been changed there
    looks = way(strategy, FULL).last_looks(steps, found)
    assert (looks.unknown, looks.flattest) == (["step_object", "momentum"][:n], [])


def test_how_often_halves_of_the_counts_are_asked():
    """Three trials each, after those that shorter ones say nothing of were changed twice."""
    found = Optimum({}, {}, {"defocus": 1.0})
    strategies = [replace(make([*make(4).dimensions, MODES], n), splits=True) for n in (70, 82, 94)]

    def others(names, length, strategies):
        steps = dict.fromkeys(names, 0.1)
        return [way(s, length).last_looks(steps, found).halves for s in strategies]

    for names, expected in ((["defocus"], [1, 2, 2]), (["defocus", "momentum"], [0, 0, 2])):
        assert others(names, MIDDLE, strategies) == expected
        assert others(names, FULL, strategies) == [0, 0, 0]
        blind = [replace(s, splits=False) for s in strategies]
        assert others(names, MIDDLE, blind) == [0, 0, 0]


def way(strategy, length=MIDDLE):
    return Way(strategy.dimensions, 2, length, strategy.full, strategy._n_spare, strategy.splits)
