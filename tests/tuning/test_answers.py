"""What a search says about its parameters, against valleys whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.tuning.answers import answer
from hs_autoptycho.tuning.cautious import CautiousSurrogate
from hs_autoptycho.tuning.polish import Optimum
from hs_autoptycho.tuning.posterior import Coordinates, StatisticalError, draw_optima
from hs_autoptycho.tuning.selection import select_best
from hs_autoptycho.tuning.sensitivity import flat_directions, sobol_indices
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

FULL, CHEAP = Fidelity(20), Fidelity(5, part=0.25)
NAMES = ("defocus", "scan_rotation", "scan_scale", "C12a", "C12b", "thickness")


def dimensions(n):
    return [Dimension(name, -1.0, 1.0) for name in NAMES[:n]]


def told_of(function, n, count, seed, noise=0.0):
    """Half of the points anywhere, half of them nearer to a place near the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-0.4, 0.4, n)
    x = rng.uniform(-1, 1, (count // 2, n))
    near = truth + 0.1 * rng.normal(size=n) + 0.25 * rng.normal(size=(count - count // 2, n))
    x = np.concatenate([x, np.clip(near, -1, 1)])
    y = function(x, truth) + noise * rng.normal(size=count)
    points = [dict(zip(NAMES, map(float, row), strict=False)) for row in x]
    return list(zip(points, map(float, y), strict=True)), truth


def trials_of(told, **more):
    return [Trial(i, p, FULL, objective=v, **more) for i, (p, v) in enumerate(told)]


def square(x, truth):
    widths = np.linspace(0.3, 1.0, x.shape[1])
    return (((x - truth) / widths) ** 2).sum(axis=1)


def saturating(x, truth):
    return 1 - np.exp(-square(x, truth))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "n", "count", "noise"),
    [(square, 2, 25, 0.02), (saturating, 2, 25, 0.02), (square, 6, 60, 0.05),
     (saturating, 6, 60, 0.02)],
)  # fmt: skip
def test_two_thirds_of_the_intervals_hold_the_truth(function, n, count, noise):
    inside, widths = [], []
    for seed in range(16):
        told, truth = told_of(function, n, count, seed, noise)
        coordinates = Coordinates(dimensions(n))
        best = min(told, key=lambda pair: pair[1])[0]
        optima = draw_optima(CautiousSurrogate(coordinates, told), coordinates, best, told)
        low, high = 2 * np.quantile(optima.u, [0.16, 0.84], axis=0) - 1
        inside.append((low <= truth) & (truth <= high))
        widths.append(high - low)
    assert 0.5 <= np.mean(inside) <= 0.92
    # the steep parameters are known better than the shallow ones, and all better than the range
    widths = np.median(widths, axis=0)
    assert widths[0] < 0.1 and widths[0] < widths[-1] < 0.6


def test_an_interval_holds_the_optimum_of_a_smooth_valley():
    told, truth = told_of(square, 2, 24, 3)
    trials = trials_of(told)
    found = answer(dimensions(2), trials, select_best(trials, FULL), full=FULL)
    for name, value in zip(NAMES, truth, strict=False):
        interval = found.intervals[name]
        assert interval["low"] - 0.02 < value < interval["high"] + 0.02
        assert interval["high"] - interval["low"] < 0.3
    assert not found.warnings and not found.flat_directions
    again = answer(dimensions(2), trials, select_best(trials, FULL), full=FULL)
    assert again == found


def blocks_of(x, truth, seed, size):
    """Blocks whose optimum lies elsewhere, by `size` in the first number."""
    shifts = size * np.random.default_rng(seed).normal(size=25)
    shifts -= shifts.mean()
    return [list(map(float, (x[0] - truth[0] - s) ** 2 + 0.5 * (x[1] - truth[1]) ** 2))
            for s in [shifts]][0]  # fmt: skip


def test_the_scatter_over_the_scan_widens_the_interval():
    told, truth = told_of(lambda x, t: (x - t)[:, 0] ** 2 + 0.5 * (x - t)[:, 1] ** 2, 2, 24, 5)
    widths = {}
    for size in (0.0, 1.0):
        trials = trials_of(told)
        for trial in trials:
            x = np.array([trial.parameters[name] for name in NAMES[:2]])
            trial.blocks = blocks_of(x, truth, 1, size)
        best = min(trials, key=lambda t: t.objective)
        found = answer(dimensions(2), trials, best, full=FULL)
        widths[size] = [i["high"] - i["low"] for i in found.intervals.values()]
    # optima of blocks that scatter by 1 scatter by 1 / sqrt(25) as a mean: 68 % is ± that
    assert widths[1.0][0] == pytest.approx(0.4, rel=0.35)
    assert widths[0.0][0] < 0.2 and widths[1.0][1] < 0.2


def test_a_statistical_error_is_that_of_the_differences():
    rng = np.random.default_rng(0)
    features = rng.uniform(-0.3, 0.3, (30, 2))
    gradient = rng.normal(size=(2, 16)) * np.array([[3.0], [1.0]])
    error = StatisticalError.fit(features, features @ gradient)
    centred = gradient - gradient.mean(axis=1, keepdims=True)
    expected = np.sqrt((centred**2).sum(axis=1) / (16 * 15))
    np.testing.assert_allclose(error.size(np.eye(2)), expected, rtol=0.03)
    draws = error.draw(np.eye(2), 4000, rng)
    np.testing.assert_allclose(draws.std(axis=0), expected, rtol=0.06)


def test_choices_have_probabilities_and_hopeless_names_do_not_matter():
    flip = Dimension("detector_flip", choices=("none", "rows", "columns"))
    modes = Dimension("n_probe_modes", 1, 4)
    space = [*dimensions(2), flip, modes]
    told, truth = told_of(square, 2, 48, 2)
    trials = []
    for i, (point, value) in enumerate(told):
        point = {**point, "detector_flip": flip.choices[i % 4 % 3], "n_probe_modes": 1 + i // 3 % 4}
        value += 0.2 * (point["n_probe_modes"] - 2) ** 2
        value += 40.0 * (point["detector_flip"] != "none")
        trials.append(Trial(i, point, FULL, objective=value))
    found = answer(space, trials, min(trials, key=lambda t: t.objective), full=FULL)
    assert found.intervals["detector_flip"] == {
        "choices": ["none", "rows", "columns"],
        "probabilities": [1.0, 0.0, 0.0],
    }
    shares = found.intervals["n_probe_modes"]
    assert shares["choices"] == [1, 2, 3, 4]
    assert sum(shares["probabilities"]) == pytest.approx(1) and shares["probabilities"][1] > 0.6
    defocus = found.intervals["defocus"]
    assert defocus["low"] - 0.05 < truth[0] < defocus["high"] + 0.05
    assert defocus["high"] - defocus["low"] < 0.5
    # over the whole space the flip decides; near the best it is what it is
    assert found.importance["detector_flip"]["total"] > 0.7
    assert found.importance["detector_flip"]["local_total"] == 0
    assert found.importance["defocus"]["local_total"] > 0.3
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_a_parameter_without_effect_has_no_interval():
    slices = Dimension("n_slices", choices=(1, 2))
    from hs_autoptycho.tuning.space import CONDITIONS

    thickness = Dimension("thickness", 10.0, 60.0, condition=CONDITIONS["thickness"])
    told, _ = told_of(square, 1, 30, 4)
    trials = []
    for i, (point, value) in enumerate(told):
        point = {**point, "n_slices": 1 + i % 2}
        if i % 2:
            point["thickness"] = 10.0 + 50 * (i / 30)
        trials.append(Trial(i, point, FULL, objective=value + 5.0 * (i % 2)))
    best = min(trials, key=lambda t: t.objective)
    found = answer([*dimensions(1), slices, thickness], trials, best, full=FULL)
    assert found.intervals["n_slices"]["probabilities"][0] > 0.95
    assert "thickness" not in found.intervals


class Known:
    """A surrogate that is a function."""

    def __init__(self, coordinates, function, noise=0.0):
        self.coordinates, self.function, self.noise = coordinates, function, noise

    def predict(self, points):
        mean = self.function(self.coordinates.split(points)[0])
        return mean, np.zeros(len(mean))


def test_shares_of_variation():
    coordinates = Coordinates(dimensions(3))
    # of independent uniform numbers: variances a² / 12, and 1 / 144 of the product about the means
    known = Known(coordinates, lambda u: 2 * u[:, 0] + (u[:, 1] - 0.5) * (u[:, 2] - 0.5))
    first, total = sobol_indices(known, coordinates, np.zeros(3), np.ones(3), [], n_points=1024)
    whole = 4 / 12 + 1 / 144
    np.testing.assert_allclose(list(first.values()), [4 / 12 / whole, 0, 0], atol=0.02)
    np.testing.assert_allclose(
        list(total.values()), np.array([4 / 12, 1 / 144, 1 / 144]) / whole, atol=0.01
    )
    flat = Known(coordinates, lambda u: np.full(len(u), 3.0))
    assert set(sobol_indices(flat, coordinates, np.zeros(3), np.ones(3), [])[1].values()) == {0}


def test_flat_directions():
    coordinates = Coordinates(dimensions(3))
    best = dict.fromkeys(NAMES[:3], 0.0)

    def trench(u):
        return (u[:, 0] - u[:, 1]) ** 2 + (u[:, 2] - 0.5) ** 2

    curvature = np.array([[2.0, -2, 0], [-2, 2, 0], [0, 0, 2]])
    known = Known(coordinates, trench, noise=0.01)
    (found,) = flat_directions(known, coordinates, best, curvature)
    np.testing.assert_allclose(np.abs(found.direction), [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-9)
    assert found.direction[0] * found.direction[1] > 0
    assert {tuple(np.round(found.start, 3)), tuple(np.round(found.end, 3))} == {
        (0, 0, 0.5),
        (1, 1, 0.5),
    }
    assert found.tied == (True, True, False)
    assert len(flat_directions(replace_noise(known, 10.0), coordinates, best, curvature)) == 3


def replace_noise(known, noise):
    return Known(known.coordinates, known.function, noise)


def test_a_trench_is_named():
    def trench(x, truth):
        return 4 * (x[:, 0] + x[:, 1]) ** 2 + x[:, 2] ** 2

    told, _ = told_of(trench, 3, 60, 1, noise=0.02)
    trials = trials_of(told)
    found = answer(dimensions(3), trials, min(trials, key=lambda t: t.objective), full=FULL)
    (sentence,) = found.flat_directions
    assert "falls with" in sentence and "defocus" in sentence and "scan_rotation" in sentence
    assert "scan_scale" not in sentence and "°" in sentence


def test_warnings_of_limits_and_of_what_is_not_told():
    space = [
        Dimension("defocus", -1.0, 1.0),
        Dimension("thickness", 10.0, 50.0),
        Dimension("n_probe_modes", choices=(1, 2, 4)),
    ]
    rng = np.random.default_rng(0)
    trials = []
    for i in range(40):
        point = {
            "defocus": float(rng.uniform(-1, 1)),
            "thickness": float(rng.uniform(10, 50)),
            "n_probe_modes": (1, 2, 4)[i % 3],
        }
        value = -point["defocus"] + 0.3 * point["n_probe_modes"] + 0.01 * rng.normal()
        trials.append(Trial(i, point, FULL, objective=float(value)))
    trials[7] = replace(trials[7], objective=None, status="failed", message="RuntimeError: no disk")
    trials[8] = replace(trials[8], objective=None, status="diverged")
    found = answer(space, trials, min(trials[9:], key=lambda t: t.objective), full=FULL)
    text = "\n".join(found.warnings)
    assert "The optimum of defocus" in text and "limit of its range, 1 Å: search larger" in text
    assert "The trials do not tell thickness (" in text
    # one mode is the least there is
    assert "n_probe_modes" not in text
    assert "2 of 40 trials failed or diverged; the last reason: RuntimeError: no disk." in text


def test_short_trials_help_where_their_ranks_agree():
    told, truth = told_of(square, 2, 40, 6)
    short = [Trial(i, p, CHEAP, objective=0.1 + 0.8 * v) for i, (p, v) in enumerate(told)]
    order = sorted(short, key=lambda t: t.objective)
    full = [
        Trial(40 + i, t.parameters, FULL, "promotion", objective=told[t.number][1])
        for i, t in enumerate([*order[:4], order[20]])
    ]
    found = answer(dimensions(2), [*short, *full], full[0], full=FULL)
    assert not found.warnings
    interval = found.intervals["defocus"]
    assert interval["low"] - 0.02 < truth[0] < interval["high"] + 0.02
    assert interval["high"] - interval["low"] < 0.2
    # the same with scores of full trials that fall where those of the short ones rise
    for trial in full:
        trial.objective = 3.0 - trial.objective
    found = answer(dimensions(2), [*short, *full], full[-1], full=FULL)
    assert any("Short trials rank the parameters differently" in w for w in found.warnings)
    assert any("Only 5 trials can be used for 2 parameters" in w for w in found.warnings)


def test_too_few_trials_and_no_full_ones():
    told, _ = told_of(square, 2, 3, 0)
    trials = trials_of(told)
    found = answer(dimensions(2), trials, trials[0], full=FULL)
    assert found.intervals == {} and found.importance == {}
    assert found.warnings[0].startswith("Only 3 trials can be used for 2 parameters")
    short = [replace(t, fidelity=CHEAP) for t in trials]
    found = answer(dimensions(2), short, short[0], full=FULL)
    assert found.warnings[0].startswith("No trial of full length was completed")


def test_repeats_and_what_cannot_be_told_from_the_best():
    told, _ = told_of(square, 2, 3, 0)
    trials = trials_of(told)
    best = trials[1]
    best.objective = 1.0
    trials[0].objective, trials[2].objective = 1.01, 1.5
    repeats = [replace(best, number=3 + i, purpose="repeat", objective=v)
               for i, v in enumerate((1.0, 1.02))]  # fmt: skip
    found = answer(dimensions(2), [*trials, *repeats], best, full=FULL)
    assert found.repeat_noise == pytest.approx(np.std([1.0, 1.02], ddof=1))
    assert found.equals == [0] and found.standard_error is None
    common = np.array([0.0, 1.0, 2.0, 3.0])
    for trial, spread in zip(trials, (0.4, 0.0, 0.4), strict=True):
        trial.blocks = list(trial.objective + common + spread * np.array([1, -1, 1, -1]))
    found = answer(dimensions(2), trials, best, full=FULL)
    assert found.repeat_noise is None and found.equals == [0]
    assert found.standard_error == pytest.approx(0.4 * np.sqrt(4 / 3) / 2)


def test_a_space_of_choices_alone():
    space = [Dimension("detector_flip", choices=("none", "rows")), Dimension("n_slices", 1, 3)]
    trials = [
        Trial(i, {"detector_flip": space[0].choices[i % 2], "n_slices": 1 + i // 2}, FULL,
              objective=float(i % 2) + 0.1 * (i // 2))
        for i in range(6)
    ]  # fmt: skip
    found = answer(space, trials, trials[0], full=FULL)
    assert found.intervals["n_slices"]["probabilities"][0] > 0.6
    assert found.intervals["detector_flip"]["probabilities"][0] > 0.9
    assert found.importance["detector_flip"]["total"] > found.importance["n_slices"]["total"]


def test_scores_that_are_all_the_same_tell_nothing():
    space = [Dimension("defocus", 1.0, 100.0)]
    trials = [Trial(i, {"defocus": 1.0 + 12 * i}, FULL, objective=1.0) for i in range(9)]
    found = answer(space, trials, trials[0], full=FULL)
    assert found.equals == list(range(1, 9))
    assert found.importance["defocus"]["total"] < 0.1


def test_what_paired_trials_have_measured_is_not_called_flat():
    space = [Dimension("defocus", -1.0, 1.0), Dimension("scan_scale", 0.9, 1.1)]
    generator = np.random.default_rng(4)
    trials = []
    for i in range(30):
        point = {d.name: d.value(generator.random()) for d in space}
        value = (10 * (point["scan_scale"] - 1)) ** 2 + 0.02 * generator.normal()
        trials.append(Trial(i, point, FULL, objective=float(value)))
    best = min(trials, key=lambda t: t.objective)
    alone = answer(space, trials, best, full=FULL)
    assert any("defocus" in sentence for sentence in alone.flat_directions)
    optimum = Optimum(best.parameters, {"defocus": 0.005}, {"defocus": 1.0})
    both = answer(space, trials, best, full=FULL, optimum=optimum)
    assert not any("defocus" in sentence for sentence in both.flat_directions)
