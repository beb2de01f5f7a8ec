"""What is made of trials and of draws, in numbers: scores, errors, intervals, regions."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.tuning import answers
from hs_autoptycho.tuning.answers import Answers, _Model, answer
from hs_autoptycho.tuning.polish import Optimum
from hs_autoptycho.tuning.posterior import Coordinates, Optima
from hs_autoptycho.tuning.space import SLICES, Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

CHEAP, MIDDLE, FULL = Fidelity(5, 0.25), Fidelity(8, 0.5), Fidelity(20)


def trial(number, x, objective, fidelity=FULL, *, status="completed", blocks=(), **more):
    parameters = {"defocus": x} if not isinstance(x, dict) else x
    return Trial(
        number, parameters, fidelity, objective=objective, status=status, blocks=list(blocks),
        **more,
    )  # fmt: skip


# -- what the model is told --------------------------------------------------------------------


def test_pairs_of_short_and_long_trials():
    trials = [
        trial(0, 0.1, 5.0, CHEAP), trial(1, 0.2, 6.0, CHEAP), trial(2, 0.3, 7.0, MIDDLE),
        trial(3, 0.1, 1.0), trial(4, 0.3, 2.0), trial(5, 0.4, 3.0),
    ]  # fmt: skip
    trials.append(trial(6, 0.2, None, status="failed"))
    pairs = answers._pairs(trials, FULL)
    assert [(a.number, b.number) for a, b in pairs] == [(0, 3), (2, 4)]


def test_ranks_of_the_length_that_was_repeated_most():
    def pairs(fidelity, values):
        return [
            (trial(i, i / 10, a, fidelity), trial(20 + i, i / 10, b))
            for i, (a, b) in enumerate(values)
        ]

    alike, opposite = [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0)], [(1.0, 7.0), (2.0, 6.0)]
    assert answers._agreement(pairs(CHEAP, alike) + pairs(MIDDLE, opposite)) == 1
    assert answers._agreement(pairs(CHEAP, opposite) + pairs(MIDDLE, alike)) == 1
    assert answers._agreement(pairs(CHEAP, opposite)) == -1
    assert math.isnan(answers._agreement([]))
    # what halves of the counts say is no other length
    half = replace(FULL, split=1)
    assert answers._agreement(pairs(CHEAP, opposite) + pairs(half, alike)) == -1


class TestTold:
    long = [trial(10 + i, i / 10, v) for i, v in enumerate((1.0, 2.0, 4.0))]
    short = [trial(i, i / 10, v, CHEAP) for i, v in enumerate((3.0, 3.5, 4.5, 5.5))]

    def told(self, trials, ranks=1.0):
        told = answers._told(trials, FULL, answers._pairs(trials, FULL), ranks)
        return [(point["defocus"], score) for point, score in told]

    def test_short_trials_on_the_scale_of_long_ones(self):
        # long are twice short less 5
        expected = [(0.0, 1.0), (0.1, 2.0), (0.2, 4.0), (0.3, pytest.approx(6.0))]
        assert self.told([*self.short, *self.long]) == expected
        # ranks that were not compared are no reason to doubt
        assert self.told([*self.short, *self.long], math.nan) == expected
        assert self.told([*self.short, *self.long], 0.1) == expected
        assert self.told([*self.short, *self.long], 0.0) == expected[:3]
        # two are too few for a line
        assert self.told([*self.short, *self.long[:2]]) == expected[:2]

    def test_lengths_are_told_one_by_one(self):
        other = [trial(20 + i, i / 10, v, MIDDLE) for i, v in enumerate((7.0, 8.0, 10.0))]
        other.append(trial(29, 0.7, 9.0, MIDDLE))
        few = [trial(30, 0.0, 2.0, Fidelity(6)), trial(31, 0.9, 2.0, Fidelity(6))]
        told = self.told([*few, *other, *self.short, *self.long])
        assert dict(told) == pytest.approx({0.0: 1, 0.1: 2, 0.2: 4, 0.7: 3, 0.3: 6})

    def test_how_bad_the_bad_ones_are_does_not_count(self):
        # the median is 2 above the lowest, and 5 times as much is enough
        values = (1.0, 2.0, 3.0, 12.9, 50.0)
        told = self.told([trial(i, i / 10, v) for i, v in enumerate(values)])
        assert [score for _, score in told] == [1, 2, 3, 12.9, 13]
        told = self.told([trial(i, i / 10, v) for i, v in enumerate((1.0, 2.0, 3.0, 4.0, 9.0))])
        assert [score for _, score in told] == [1, 2, 3, 4, 9]

    def test_what_was_stopped_is_as_bad_as_the_worst(self):
        stopped = [
            trial(20, 0.5, 1.5, status="pruned"), trial(21, 0.6, None, status="diverged"),
            trial(22, 0.7, None, status="failed"), trial(23, 0.8, None, CHEAP, status="pruned"),
            trial(24, 0.9, 2.0, status="pruned", purpose="repeat"),
            trial(25, 0.0, 9.0, status="pruned"),
        ]  # fmt: skip
        told = self.told([*stopped, *self.long])
        assert told == [(0, 1), (0.1, 2), (0.2, 4), (0.5, 4), (0.6, 4), (0.8, 4)]
        assert self.told(stopped[:2]) == [(0.5, None), (0.6, None)]


def test_scatter_of_repeats():
    best = trial(0, 0.1, 1.0)
    repeats = [trial(1, 0.1, 1.1, purpose="repeat"), trial(2, 0.1, 1.4, purpose="repeat")]
    others = [
        trial(3, 0.1, 9.0, CHEAP, purpose="repeat"), trial(4, 0.2, 9.0, purpose="repeat"),
        trial(5, 0.1, 9.0, purpose="search"), trial(6, 0.1, 9.0, purpose="repeat", status="pruned"),
        trial(7, 0.1, None, purpose="repeat"),
    ]  # fmt: skip
    noise = answers._repeat_noise([best, *repeats, *others], best)
    assert noise == pytest.approx(0.3 / math.sqrt(2))
    assert answers._repeat_noise([best, *repeats[:1], *others], best) is None


def test_what_is_as_good_as_the_best():
    wave = np.array([1.0, -1.0, 1.0, -1.0])  # of a standard error of 1 / sqrt(3)

    def other(number, x, mean, error):
        return trial(number, x, 1.0 + mean, blocks=1.0 + mean + error * math.sqrt(3) * wave)

    best = trial(0, 0.0, 1.0, blocks=np.ones(4))
    trials = [
        best, other(1, 0.1, 0.1, 0.05), other(2, 0.2, 0.04, 0.05), other(3, 0.3, -0.02, 0.03),
        other(4, 0.4, 0.3, 0.4), other(5, 0.5, 0.5, 0.1), other(6, 0.6, 0.9, 0.7),
    ]  # fmt: skip
    # the five nearest have errors of 0.03, 0.05, 0.05, 0.4 and 0.1
    equals, error = answers._equals(trials, best, None)
    assert equals == [2, 3, 4] and error == pytest.approx(0.05)
    # with a scatter between seeds of 0.08 a difference of it has 0.113
    assert answers._equals(trials, best, 0.08)[0] == [1, 2, 3, 4]
    assert answers._equals(trials, best, 0.06)[0] == [2, 3, 4]
    assert answers._equals([best, replace(best, number=9)], best, None) == ([], None)
    # without blocks only what is the same is as good
    alone = [trial(i, i / 10, v) for i, v in enumerate((1.0, 1.0, 1.05))]
    assert answers._equals(alone, alone[0], None) == ([1], None)


class TestStatisticalError:
    coordinates = Coordinates([Dimension("defocus", 0.0, 1.0)])
    wave = np.array([1.0, -2.0, 0.5, 0.5])

    def trials(self, fidelity, xs, size, number=0):
        return [
            trial(number + i, x, 1 + x, fidelity, blocks=1 + x + size * x * self.wave)
            for i, x in enumerate(xs)
        ]

    def size(self, trials, best):
        error = answers._statistical_error(self.coordinates, trials, best)
        return error and error.size(np.array([[1.0]]))[0]

    def test_of_the_length_of_the_best(self):
        own = self.trials(FULL, (0.1, 0.3, 0.5), 0.2)
        short = self.trials(CHEAP, (0.1, 0.2, 0.3, 0.4, 0.5), 0.7)
        unit = math.sqrt(5.5 / 12)
        assert self.size(own, own[0]) == pytest.approx(0.2 * unit, rel=2e-3)
        assert self.size([*short, *own], own[0]) == pytest.approx(0.2 * unit, rel=2e-3)
        # of two trials nothing is told: those of the length with most of them
        assert self.size([*short, *own[:2]], own[0]) == pytest.approx(0.7 * unit, rel=2e-3)

    def test_blocks_are_needed(self):
        own = self.trials(FULL, (0.1, 0.3, 0.5, 0.7), 0.2)
        for t in own:
            t.blocks = t.blocks[:2]
        assert answers._statistical_error(self.coordinates, own, own[0]) is None
        for t in own:
            t.blocks = [*t.blocks, t.objective]
        assert self.size(own, own[0]) > 0
        # those with other blocks are left out
        odd = trial(9, 0.9, 2.0, blocks=(0.0, 9.0, 5.0, 7.0))
        assert self.size([*own, odd], own[0]) == pytest.approx(self.size(own, own[0]))

    def test_a_choice_of_the_first_alone_is_left_out(self):
        space = [Dimension("defocus", 0.0, 1.0), Dimension("n_probe_modes", choices=(1, 2))]
        coordinates = Coordinates(space)

        def make(i, x, modes, fidelity=CHEAP):
            blocks = 1 + x + 0.2 * x * self.wave + 0.1 * (modes - 1) * self.wave
            point = {"defocus": x, "n_probe_modes": modes}
            return trial(i, point, 1 + x - 0.5 * (modes == 2), fidelity, blocks=blocks)

        short = [make(i, x, 1 + i % 2) for i, x in enumerate((0.1, 0.2, 0.4, 0.6, 0.9))]
        of_first = answers._statistical_error(coordinates, short, make(9, 0.95, 2))
        assert (of_first.slopes[1:] != 0).any()
        other = answers._statistical_error(coordinates, short, make(9, 0.95, 1))
        assert (other.slopes[1:] == 0).all() and (other.slopes[0] != 0).any()


# -- what the model says -----------------------------------------------------------------------

SPACE = [
    Dimension("defocus", 0.0, 100.0),
    Dimension("n_slices", choices=(1, 2, 4)),
    Dimension("thickness", 20.0, 220.0, condition=SLICES),
    Dimension("detector_flip", choices=("none", "rows", "both")),
]
BEST = trial(0, {"defocus": 30.0, "n_slices": 1, "detector_flip": "none"}, 1.0)


def model(u, k, dimensions=SPACE):
    coordinates = Coordinates(dimensions)
    n = len(coordinates.numbers)
    return _Model(None, coordinates, None, Optima(np.array(u), np.array(k), np.eye(n)))


def draws(several):
    """101 optima along the ranges, of which so many have several slices."""
    line = np.linspace(0, 1, 101)
    k = np.zeros((101, 2), int)
    k[:several, 0] = 1 + np.arange(several) % 2
    k[90:, 1] = 2
    return np.stack([line, line], axis=1), k


def test_intervals_hold_two_thirds_of_the_optima():
    found = answers._intervals(SPACE, model(*draws(50)), BEST)
    assert found["defocus"] == pytest.approx({"low": 16.0, "high": 84.0})
    assert found["thickness"] == pytest.approx(
        {"low": 20 + 2 * 0.16 * 49, "high": 20 + 2 * 0.84 * 49}
    )
    assert found["n_slices"] == {
        "choices": [1, 2, 4], "probabilities": pytest.approx([51 / 101, 25 / 101, 25 / 101]),
    }  # fmt: skip
    flips = found["detector_flip"]["probabilities"]
    assert flips == pytest.approx([90 / 101, 0, 11 / 101])
    # the best trial is within, exactly
    outside = replace(BEST, parameters={**BEST.parameters, "defocus": 7.123456789})
    assert answers._intervals(SPACE, model(*draws(50)), outside)["defocus"]["low"] == 7.123456789


def test_a_parameter_that_hardly_ever_matters_has_no_interval():
    for several, expected in ((11, True), (10, False), (0, False)):
        found = answers._intervals(SPACE, model(*draws(several)), BEST)
        assert ("thickness" in found) is expected
        assert list(found)[-1] == "detector_flip"


def test_a_name_that_is_the_only_one_is_certain():
    left = [SPACE[0], SPACE[1]]
    u, k = draws(3)
    found = answers._intervals(SPACE, model(u[:, :1], k[:, :1], left), BEST)
    assert found["detector_flip"] == {
        "choices": ["none", "rows", "both"], "probabilities": [1.0, 0.0, 0.0],
    }  # fmt: skip
    assert list(found) == ["defocus", "n_slices", "detector_flip"]


def test_names_out_of_the_question_are_left_out(monkeypatch):
    made = []
    monkeypatch.setattr(answers, "_model", lambda *given: made.append(given) or "another")
    u, k = np.full((100, 2), 0.5), np.zeros((100, 2), int)
    k[:3, 1], k[3:4, 1] = 1, 2  # three in a hundred, one in a hundred

    def left(told, k=k, best=BEST):
        made.clear()
        told = [({**BEST.parameters, "defocus": float(i), "detector_flip": flip}, 1.0)
                for i, flip in enumerate(told)]  # fmt: skip
        trials = [trial(i, point, score) for i, (point, score) in enumerate(told)]
        found = answers._without_hopeless_names(model(u, k), told, trials, best, 5)
        if found != "another":
            return None
        dimensions, some, own, given, seed = made[0]
        assert (given, seed) == (best, 5) and len(some) == len(own)
        return [d.choices for d in dimensions if d.name == "detector_flip"], len(some)

    # four numbers or names need six trials
    names = ["none"] * 4 + ["rows"] * 2
    assert left([*names, "both"]) == ([("none", "rows")], 6)
    assert left([*names[1:], "both"]) is None
    assert left(names) is None  # nothing is left out
    # what is the best's stays
    both = replace(BEST, parameters={**BEST.parameters, "detector_flip": "both"})
    assert left([*names, "both"], best=both) is None
    # two in a hundred are enough, and one name alone is no dimension
    k2 = k.copy()
    k2[2, 1] = 0
    assert left([*names, "both"], k2) == ([("none", "rows")], 6)
    k2[1, 1] = 0
    assert left(["none"] * 5 + ["both"], k2) == ([], 5)
    assert left(["none"] * 4 + ["both"], k2) is None


def test_intervals_from_paired_trials():
    best = trial(0, {"defocus": 33.0, "n_slices": 2, "thickness": 60.0, "detector_flip": "none"}, 1)
    point = {**best.parameters, "defocus": 40.0}
    optimum = Optimum(point, {"defocus": 0.1, "thickness": 0.05, "C12a": 0.1}, {})
    found = answers._paired_intervals(SPACE, best, optimum)
    assert found == {
        "defocus": pytest.approx({"low": 30.0, "high": 50.0}),
        "thickness": pytest.approx({"low": 50.0, "high": 70.0}),
    }
    assert answers._paired_intervals(SPACE, best, None) == {}
    # the best is within, and what is not in it has no interval
    found = answers._paired_intervals(SPACE, BEST, replace(optimum, errors={"thickness": 0.1}))
    assert found == {}
    low = answers._paired_intervals(SPACE, BEST, Optimum(point, {"defocus": 0.02}, {}))
    assert low["defocus"] == pytest.approx({"low": 30.0, "high": 42.0})
    far = answers._paired_intervals(SPACE, best, replace(optimum, moves={"defocus": 0.24}))
    assert far["defocus"] == pytest.approx({"low": 14.0, "high": 66.0})


def test_what_was_known_before_adds_to_paired_trials():
    """Weighted by the inverse of the variances, in the unit of the parameter."""
    best = trial(0, {"defocus": 41.0, "step_object": 1.0}, 1)
    space = [
        Dimension("defocus", 0.0, 100.0, prior=(50.0, 5.0)),
        Dimension("step_object", 0.1, 10.0, log=True, prior=(1.0, 0.1)),
    ]

    def interval(name, value, error):
        found = Optimum({**best.parameters, name: value}, {name: error}, {})
        return answers._paired_intervals(space, best, found)[name]

    # 40 with 20, 50 with 5
    mean, error = (40 / 400 + 50 / 25) / (1 / 400 + 1 / 25), (1 / 400 + 1 / 25) ** -0.5
    low, high = min(mean - error, 41.0), mean + error
    found = interval("defocus", 40.0, 0.2)
    assert found == pytest.approx({"low": low, "high": high}, rel=1e-5)
    # trials that know better, or exactly, are left as they are
    assert interval("defocus", 41.5, 1e-3) == pytest.approx({"low": 41.0, "high": 41.6}, abs=0.01)
    assert interval("defocus", 41.5, 0.0) == {"low": 41.0, "high": 41.5}
    # a Gaussian is none on a logarithmic scale
    assert interval("step_object", 1.0, 0.1) == pytest.approx(
        {"low": 10**-0.2, "high": 10**0.2}, rel=1e-5
    )


@pytest.mark.parametrize(("width", "told"), [(19.0, True), (21.0, False)])
def test_a_flat_direction_that_paired_trials_have_told(width, told):
    """Their interval is narrower than half of the way along the direction."""
    flat = SimpleNamespace(
        direction=np.array([-0.9, 0.3]), start=np.array([0.6, 0.2]), end=np.array([0.2, 0.4])
    )
    paired = {"defocus": {"low": 50.0, "high": 50.0 + width}}
    assert answers._told_by_pairs(flat, model(*draws(9)), paired) == told
    paired = {"thickness": {"low": 50.0, "high": 51.0}}
    assert not answers._told_by_pairs(flat, model(*draws(9)), paired)


@pytest.mark.parametrize(
    ("place", "modes", "low", "allowed"),
    [(0.5, 2, 0.4, [1, 2, 3]), (0.03, 0, 0.0, [0, 1]), (0.98, 4, 0.8, [3, 4])],
)
def test_importance_near_the_best(monkeypatch, place, modes, low, allowed):
    space = [
        Dimension("defocus", 0.0, 100.0),
        Dimension("n_probe_modes", choices=(1, 2, 3, 4, 5)),
        Dimension("detector_flip", choices=("none", "rows", "both")),
    ]
    asked = []

    def indices(surrogate, coordinates, low, high, choices, *, random_state):
        asked.append((low.tolist(), high.tolist(), [list(c) for c in choices], random_state))
        return {"defocus": 0.123456, "n_probe_modes": 0.5}, {"defocus": len(asked) / 3}

    monkeypatch.setattr(answers, "sobol_indices", indices)
    point = {"defocus": 100 * place, "n_probe_modes": modes + 1, "detector_flip": "rows"}
    some = model(np.zeros((2, 1)), np.zeros((2, 2), int), space)
    found = answers._importance(some, some, trial(0, point, 1.0), 7)
    assert asked[0] == ([0.0], [1.0], [[0, 1, 2, 3, 4], [0, 1, 2]], 7)
    assert asked[1][0] == pytest.approx([low]) and asked[1][1] == pytest.approx([low + 0.2])
    assert asked[1][2:] == ([allowed, [1]], 7)
    assert found == {
        "defocus": {
            "first": 0.1235, "total": 0.3333, "local_first": 0.1235, "local_total": 0.6667,
        },
        "n_probe_modes": {"first": 0.5, "total": 0.0, "local_first": 0.5, "local_total": 0.0},
    }  # fmt: skip


@pytest.mark.parametrize(("n", "modelled"), [(3, False), (4, True)])
def test_four_scores_are_enough_for_a_model(n, modelled):
    space = [Dimension("defocus", 0.0, 1.0)]
    trials = [trial(i, i / 5, 1.0 + (i - 1) ** 2) for i in range(n)]
    trials.append(trial(9, 0.9, None, status="failed"))
    found = answer(space, trials, trials[1], full=FULL)
    assert isinstance(found, Answers) and bool(found.intervals) is modelled
    assert (found.noise is not None) is modelled
    assert answer([], trials, trials[1], full=FULL).intervals == {}
