"""Comparing trials and choosing one of them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.tuning.selection import (
    agreement,
    complexity,
    difference,
    select_best,
    straight_line,
)
from hs_autoptycho.tuning.trial import Fidelity, Trial

FULL, CHEAP = Fidelity(20), Fidelity(5, part=0.25)


def trial(number, objective, *, spread=None, fidelity=FULL, **more):
    """A trial; its blocks are those of all trials, displaced by `spread` up and down in turn."""
    blocks = []
    if spread is not None:
        common = np.array([3.0, -1.0, 4.0, -6.0])
        blocks = list(objective + common + spread * np.array([1, -1, 1, -1]))
    parameters = more.pop("parameters", {"n_probe_modes": 2})
    more = {"blocks": blocks, "fidelity": fidelity, **more}
    return Trial(number, parameters, objective=objective, **more)


def test_what_blocks_have_in_common_drops_out():
    mean, error = difference(trial(0, 1.5, spread=0.3), trial(1, 1.0, spread=0.0))
    assert mean == pytest.approx(0.5)
    # four differences of ±0.3 about their mean
    assert error == pytest.approx(0.3 * math.sqrt(4 / 3) / 2)
    assert difference(trial(0, 1.5, spread=0.3), trial(1, 1.0, spread=0.3))[1] == pytest.approx(0)


@pytest.mark.parametrize("blocks", [[], [1.0], [1.0, 2.0, 3.0]])
def test_blocks_that_do_not_pair_give_no_error(blocks):
    a, b = trial(0, 1.5, blocks=blocks), trial(1, 1.0, spread=0.3)
    mean, error = difference(a, b)
    assert mean == pytest.approx(0.5) and math.isnan(error)


def test_a_failed_trial_has_no_difference():
    a, b = trial(0, None, status="failed"), trial(1, 1.0, spread=0.3)
    assert all(map(math.isnan, difference(a, b) + difference(b, a)))


def test_fidelities_are_not_compared():
    with pytest.raises(ValueError, match="trials 0 and 1 have the fidelities.*same fidelity"):
        difference(trial(0, 1.0), trial(1, 1.0, fidelity=CHEAP))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, 1),
        ({"n_probe_modes": 3}, 3),
        ({"n_slices": 4}, 7),
        ({"n_probe_modes": 3, "n_slices": 2, "n_variable_modes": 1, "defocus": 99.0}, 10),
        ({"n_probe_modes": None, "n_slices": 2}, 3),
    ],
)
def test_complexity(parameters, expected):
    assert complexity(parameters) == expected


def test_the_simplest_within_one_standard_error_is_best():
    lowest = trial(0, 1.0, spread=0.0, parameters={"n_probe_modes": 4})
    # 0.3 of scatter is an error of 0.173
    close = trial(1, 1.17, spread=0.3, parameters={"n_probe_modes": 2})
    closer = trial(2, 1.16, spread=0.3, parameters={"n_probe_modes": 2})
    simpler = trial(3, 1.18, spread=0.3, parameters={"n_probe_modes": 1})
    more = trial(4, 1.01, spread=0.3, parameters={"n_probe_modes": 6})
    trials = [lowest, close, simpler, more]
    assert select_best(trials, FULL) is close
    assert select_best(trials[::-1], FULL) is close
    assert select_best([*trials, closer], FULL) is closer
    for one in trials:
        one.blocks = []
    assert select_best(trials, FULL) is lowest


def test_what_cannot_be_the_best():
    good = trial(5, 2.0)
    others = [
        trial(0, 1.0, fidelity=CHEAP),
        trial(1, 1.0, status="pruned"),
        trial(2, None, status="failed"),
        trial(3, 1.0, purpose="repeat"),
        trial(4, math.nan),
    ]
    assert select_best([*others, good], FULL) is good
    assert select_best(others, FULL) is None
    assert select_best(others, CHEAP) is others[0]


def test_ties_go_to_the_first():
    trials = [trial(n, 1.0, spread=0.2) for n in (3, 1, 2)]
    assert select_best(trials, FULL).number == 1


def pairs_of(short, full, noise=0.0):
    """Trials with these objectives, whose blocks scatter."""
    scatter = np.random.default_rng(0).normal(0, noise, (2, len(short), 64))
    scatter -= scatter.mean(2, keepdims=True)
    out = []
    for i, values in enumerate(zip(short, full, strict=True)):
        out.append(tuple(
            Trial(i, {}, fidelity, objective=value, blocks=list(value + scatter[k, i]))
            for k, (value, fidelity) in enumerate(zip(values, (Fidelity(3), FULL), strict=True))
        ))  # fmt: skip
    return out


def test_agreement():
    assert agreement(pairs_of([1, 2, 3, 10], [5, 6, 60, 61])) == 1
    assert agreement(pairs_of([1, 2, 3, 10], [4, 3, 2, 1])) == -1
    assert agreement(pairs_of([1, 2, 3], [1, 3, 2])) == pytest.approx(1 / 3)
    assert math.isnan(agreement(pairs_of([1], [2]))) and math.isnan(agreement([]))
    bare = [tuple(replace(t, blocks=[]) for t in pair) for pair in pairs_of([1, 2], [2, 3])]
    assert agreement(bare) == 1


def test_what_cannot_be_told_apart_does_not_disagree():
    # the first three are equal but for noise, in one order and in the other
    short, full = [1.00, 1.01, 1.02, 2.0], [5.02, 5.01, 5.00, 9.0]
    assert agreement(pairs_of(short, full)) == 0
    assert agreement(pairs_of(short, full, noise=0.3)) == 1
    assert math.isnan(agreement(pairs_of(short, full, noise=30.0)))


def test_a_line_from_short_to_full():
    assert straight_line([(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]) == pytest.approx((2.0, 3.0))
    slope, offset = straight_line([(1.0, 5.0), (2.0, 4.0)])  # ranks that disagree
    assert slope == pytest.approx(1 / 3) and slope * 1.5 + offset == pytest.approx(4.5)
    assert straight_line([(2.0, 5.0), (2.0, 7.0)]) == pytest.approx((1.0, 4.0))
