"""Scores: what each measures, and that counts held out do not reward overfitting."""

import functools
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.data import correlation_with_truth
from hs_autoptycho.ptycho.parts import scan_window
from hs_autoptycho.ptycho.patterns import split_counts
from hs_autoptycho.tuning.engines import NumbaEngine
from hs_autoptycho.tuning.gain import as_counts, estimate_gain
from hs_autoptycho.tuning.objectives import (
    OBJECTIVES,
    ObjectiveError,
    make_objective,
    ring_correlation,
)
from hs_autoptycho.tuning.scores import metrics_of
from hs_autoptycho.tuning.trial import Fidelity

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}
HELD_OUT = [name for name in OBJECTIVES if name.startswith("held_out")]


def score(objective, parameters=TRUE, n_iterations=4, random_state=0, limits=(), **fidelity):
    return objective(
        parameters,
        fidelity=Fidelity(n_iterations, **fidelity),
        random_state=random_state,
        limits=limits,
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_prefers_the_truth(experiment, name):
    objective = make_objective(name, experiment, random_state=3)
    assert objective.name == name
    best = score(objective)
    assert type(best.value) is float and math.isfinite(best.value)
    measured = {"frc": lambda m: 1 - m["frc"], "contrast": lambda m: -m["phase_contrast"]}
    measured = measured.get(name, lambda m: m[name])(best.metrics)
    assert measured == pytest.approx(best.value)
    assert {"n_iterations", "data_error", "phase_contrast", "seconds_fit"} <= set(best.metrics)
    assert all(type(value) in (int, float) for value in best.metrics.values())
    assert best.status == best.reconstruction.status == "completed"
    for wrong in ({"scan_rotation": -12}, {"defocus": -120}, {"detector_flip": "rows"}):
        assert score(objective, {**TRUE, **wrong}).value > best.value
    assert score(objective).value == best.value  # no state is left behind


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("fidelity", [{"part": 0.7}, {"reduction": 2}])
def test_each_objective_prefers_the_truth_at_less_work(experiment, name, fidelity):
    objective = make_objective(name, experiment, random_state=3)
    best = score(objective, **fidelity)
    assert math.isfinite(best.value)
    if name != "frc" or "part" in fidelity:  # few rings are left of a small detector
        wrong = score(objective, {**TRUE, "defocus": -120}, **fidelity)
        assert wrong.value > best.value
    assert score(objective, **fidelity).value == best.value
    assert score(objective).value != best.value


def test_contrast_is_that_of_all_slices_together():
    phase = np.linspace(-1.3, 1.7, 30).reshape(5, 6)
    errors = np.array([0.2, 0.1])
    one, three = (
        metrics_of(SimpleNamespace(object=np.exp(1j * np.stack(phases)), errors=errors))
        for phases in ([phase], [0.5 * phase, 0.2 * phase, 0.3 * phase])
    )
    assert one["phase_contrast"] == pytest.approx(phase.std())
    assert three == pytest.approx(one)


def test_saturated_pixels_are_left_out(experiment):
    """A tenth of a count that was cut off cannot be split off."""
    clipped = np.minimum(experiment.counts, 254).astype(np.uint8)
    clipped[3, 20, 30] = clipped[:, 25, 33] = 255
    saturated = (clipped == 255).any(0)
    bright = experiment.with_counts(clipped)
    objective = make_objective("held_out", bright)
    assert "2 pixels" in objective.notes[-1]
    known = bright.with_mask(~saturated)
    assert not make_objective("held_out", known).notes
    assert score(objective).value == score(make_objective("held_out", known)).value


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_diverged_run_has_no_score(experiment, name):
    result = score(make_objective(name, experiment), {**TRUE, "step_probe": 10.0})
    assert result.value == math.inf
    assert result.status == result.reconstruction.status == "diverged"
    assert result.blocks == []


@pytest.mark.parametrize("name", [*HELD_OUT, "frc"])
def test_the_split_belongs_to_the_seed(experiment, name):
    values = [score(make_objective(name, experiment, random_state=r)).value for r in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_halves_of_the_counts_judge_each_other(experiment):
    objective = make_objective("held_out", experiment, random_state=3)
    assert objective.splits
    values = [score(objective, split=k).value for k in (0, 1, 2, 1, 0)]
    assert values[0] == values[4] and values[1] == values[3]
    assert len(set(values)) == 3
    pairs = [objective._divided(split) for split in (1, 2, 3, 4)]
    for pair in pairs:
        fitted, test = (e.counts.astype(int) for e in pair)
        assert np.array_equal(fitted + test, experiment.counts)
        assert fitted.sum() / experiment.counts.sum() == pytest.approx(0.5, abs=0.01)
    # the same the other way round, and other halves
    firsts, seconds = zip(*pairs, strict=True)
    for one, other in ((0, 1), (2, 3)):
        assert np.array_equal(firsts[one].counts, seconds[other].counts)
    assert not np.array_equal(firsts[0].counts, firsts[2].counts)
    other = make_objective("held_out", experiment, random_state=4)
    assert not np.array_equal(firsts[0].counts, other._divided(1)[0].counts)
    # on a part of the scan, and where it was sent to
    part = score(objective, split=1, part=0.7).value
    assert score(pickle.loads(pickle.dumps(objective)), split=1, part=0.7).value == part
    assert part not in values


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "held_out"])
def test_objectives_that_always_judge_by_the_same(experiment, name):
    objective = make_objective(name, experiment)
    assert not getattr(objective, "splits", False)


def test_scores_do_not_depend_on_threads(experiment):
    import numba

    values = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        values.append(score(make_objective("held_out", experiment)).value)
    assert values[0] == values[1]


@pytest.mark.parametrize("name", HELD_OUT)
def test_an_objective_can_be_sent_to_another_process(experiment, name):
    objective = make_objective(name, experiment, random_state=3)
    expected = score(objective, part=0.7)
    sent = pickle.dumps(objective)
    # no copies of what can be made again
    copies = 1.2 if name == "held_out" else 2.5
    assert len(sent) < copies * experiment.counts.nbytes
    again = score(pickle.loads(sent), part=0.7)
    assert again.value == expected.value and again.blocks == expected.blocks


@pytest.fixture(scope="module")
def parts(experiment):
    return [experiment.with_counts(c) for c in split_counts(experiment.counts, 0.9, 3)]


class TestHeldOutCounts:
    @pytest.mark.parametrize("part, reduction", [(1.0, 1), (0.7, 1), (1.0, 2), (0.7, 2)])
    def test_is_the_mean_deviance_of_the_right_positions(self, experiment, parts, part, reduction):
        objective = make_objective("held_out", experiment, random_state=3)
        result = score(objective, part=part, reduction=reduction)
        rows, columns = scan_window((9, 11), part)
        shape = rows.stop - rows.start, columns.stop - columns.start
        fitted, test = (e.part_of_scan(part) for e in parts)
        assert test.geometry.scan_shape == shape
        fit = NumbaEngine().fit(fitted, TRUE, n_iterations=4, random_state=0, reduction=reduction)
        deviance = fit.deviance(test)
        assert result.value == pytest.approx(deviance.mean(), rel=1e-6)
        error = deviance.std(ddof=1) / np.sqrt(len(deviance))
        assert result.metrics["held_out_standard_error"] == pytest.approx(error, rel=1e-4)

    def test_blocks_are_means_over_tiles(self, experiment, parts):
        objective = make_objective("held_out", experiment, random_state=3)
        result = score(objective)
        fit = NumbaEngine().fit(parts[0], TRUE, n_iterations=4, random_state=0)
        deviance = fit.deviance(parts[1]).reshape(9, 11)
        rows, columns = (np.arange(n) * 8 // n for n in (9, 11))
        expected = [
            deviance[np.ix_(rows == i, columns == j)].mean() for i in range(8) for j in range(8)
        ]
        np.testing.assert_allclose(result.blocks, expected, rtol=1e-6)
        sizes = np.outer(np.bincount(rows), np.bincount(columns)).ravel()
        assert np.average(result.blocks, weights=sizes) == pytest.approx(result.value)
        other = score(objective, {**TRUE, "defocus": 100.0})
        # tile by tile the difference is known far better than either
        difference = np.subtract(other.blocks, result.blocks)
        assert difference.std() < 0.5 * np.std(result.blocks)

    def test_a_pattern_without_counts_is_not_judged(self, experiment):
        counts = experiment.counts.copy()
        counts[[4, 50]] = 0
        objective = make_objective("held_out", experiment.with_counts(counts), random_state=3)
        result = score(objective)
        assert len(result.blocks) == 63  # one of the two was alone in its tile
        whole = score(make_objective("held_out", experiment, random_state=3))
        assert result.value == pytest.approx(whole.value, rel=0.02)

    def test_curve(self, experiment):
        objective = make_objective("held_out", experiment, random_state=3)
        result = score(objective, n_iterations=12)
        assert [iteration for iteration, _ in result.curve] == [3, 6, 12]
        values = [value for _, value in result.curve]
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(result.value, rel=0.05)
        # on the way it is what a shorter trial ends with
        short = score(objective, n_iterations=6)
        assert short.curve[-1] == pytest.approx(result.curve[1])
        assert [i for i, _ in score(objective, n_iterations=1).curve] == [1]

    def test_limits_stop_a_hopeless_trial(self, experiment):
        objective = make_objective("held_out", experiment, random_state=3)
        good = score(objective, n_iterations=12)
        limits = [(iteration, 1.02 * value) for iteration, value in good.curve[:2]]
        assert score(objective, n_iterations=12, limits=limits).value == good.value
        wrong = {**TRUE, "defocus": -120.0}
        hopeless = score(objective, wrong, n_iterations=12, limits=limits)
        assert hopeless.status == "stopped" and hopeless.metrics["n_iterations"] == 3
        assert [hopeless.curve[-1]] == hopeless.curve == [(3, hopeless.value)]
        assert hopeless.blocks == [] and "held_out" not in hopeless.metrics
        # limits count where they are, checkpoint or not
        hopeless = score(objective, wrong, n_iterations=12, limits=[(3, 9.0), (5, limits[1][1])])
        assert [iteration for iteration, _ in hopeless.curve] == [3, 5]

    def test_early_stopping_is_no_pruning(self, experiment):
        objective = make_objective("held_out", experiment, random_state=3)
        result = score(objective, {**TRUE, "early_stopping": 1}, n_iterations=200)
        assert result.reconstruction.status == "stopped"
        assert result.status == "completed" and math.isfinite(result.value)
        assert result.curve[-1][0] == result.metrics["n_iterations"] < 200

    def test_coarse_passes_are_watched_too(self, experiment):
        objective = make_objective("held_out", experiment, random_state=3)
        parameters = {**TRUE, "coarse_iterations": 4}
        result = score(objective, parameters, n_iterations=12)
        assert [iteration for iteration, _ in result.curve] == [3, 6, 12]
        assert result.value == pytest.approx(score(objective, n_iterations=12).value, rel=0.02)

    def test_noise_floor(self, experiment):
        """Counts drawn from a model that is known: what it leaves is the noise floor."""
        fit = NumbaEngine().fit(experiment, TRUE, n_iterations=6, random_state=0)
        batch = fit.state.batch(np.arange(99))
        model = fit.state.model_intensities(batch)[np.argsort(batch.indices)].astype(float)
        images = np.empty_like(model)
        order = experiment.patterns().order(np.arange(48 * 64).reshape(48, 64))
        images[:, order] = 10 * model * experiment.counts.mean()
        drawn = np.random.default_rng(2).poisson(images).reshape(99, 48, 64).astype(np.uint16)
        metrics = score(
            make_objective("held_out", experiment.with_counts(drawn)), n_iterations=40
        ).metrics
        assert metrics["noise_floor"] == pytest.approx(metrics["held_out"], rel=0.01)
        excess = metrics["held_out"] - metrics["noise_floor"]
        assert metrics["excess"] == pytest.approx(excess)
        wrong = {**TRUE, "defocus": 60.0}
        worse = score(make_objective("held_out", experiment.with_counts(drawn)), wrong).metrics
        assert worse["excess"] > 10 * abs(excess)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_sees_overfitting_and_the_data_error_does_not(self, simulate, seed):
        # few counts: a long fit describes their noise, and the object leaves the truth
        experiment, _ = simulate(dose=100, random_state=seed)
        error = make_objective("data_error", experiment)
        held_out = make_objective("held_out", experiment, random_state=seed)
        noise_free, _ = simulate(dose=None)
        exact = np.angle(noise_free.fit(TRUE, n_iterations=40)[0].object[0, 24:-24, 32:-32])

        def all_of(n_iterations):
            judged = score(held_out, n_iterations=n_iterations)
            phase = np.angle(judged.reconstruction.object[0, 24:-24, 32:-32])
            return (
                score(error, n_iterations=n_iterations).value,
                judged.value,
                correlation_with_truth(phase, exact, max_shift=2),
            )

        short, long = all_of(4), all_of(60)
        assert long[0] < 0.95 * short[0]  # the error of the fit falls
        assert long[1] > 1.005 * short[1]  # that of the counts it has not seen rises
        assert long[2] < short[2]  # and these are right


class TestScaledData:
    @pytest.mark.parametrize("gain, noise, dose", [(37.0, 0.0, 1e4), (0.013, 0.12, 1e5)])
    def test_the_gain_is_found(self, simulate, gain, noise, dose):
        experiment, _ = simulate(dose=dose)
        scaled = read_out(experiment, gain, noise)
        counted, found = as_counts(scaled)
        assert found == pytest.approx(gain, rel=0.01)
        assert (counted.counts != experiment.counts).mean() < 1e-4
        assert as_counts(experiment) == (experiment, None)

    def test_the_optimum_is_that_of_the_counts(self, experiment):
        scaled = read_out(experiment, 0.013, 0.15)
        objectives = [make_objective("held_out", e, random_state=3) for e in (experiment, scaled)]
        values = (80.0, 110.0, 120.0, 130.0, 160.0)
        curves = np.array(
            [[score(o, {**TRUE, "defocus": d}).value for d in values] for o in objectives]
        )
        assert curves[0].argmin() == curves[1].argmin()
        np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)
        result = score(objectives[1])
        assert result.metrics["gain"] == pytest.approx(0.013, rel=0.05)
        assert "gain of 0.01" in objectives[1].notes[0] and not objectives[0].notes
        assert "noise_floor" in result.metrics

    def test_pixels_that_are_not_used(self, experiment):
        scaled = read_out(experiment, 5.0, 0.1)
        mask = np.ones((48, 64), bool)
        mask[20, 30] = False
        scaled.counts[:, 20, 30] = 1e9
        counted, found = as_counts(scaled.with_mask(mask))
        assert found == pytest.approx(5.0, rel=0.01)
        assert not counted.counts[:, 20, 30].any() and counted.counts.dtype == np.uint16

    @pytest.mark.parametrize("noise", [0.6, None])
    def test_no_counts_at_any_gain(self, simulate, noise):
        experiment, _ = simulate(dose=None if noise is None else 1e5)
        if noise is not None:
            experiment = read_out(experiment, 2.0, noise)
        assert estimate_gain(experiment) is None
        with pytest.raises(ObjectiveError, match="float32.*change_dtype.*held_out_pixels.*frc"):
            make_objective("held_out", experiment)
        for name in set(OBJECTIVES) - {"held_out"}:
            result = score(make_objective(name, experiment))
            assert math.isfinite(result.value) and "noise_floor" not in result.metrics


def read_out(experiment, gain, noise):
    """The experiment as an analogue detector shows it, with read noise in counts."""
    generator = np.random.default_rng(1)
    counts = experiment.counts + noise * generator.normal(size=experiment.counts.shape)
    return experiment.with_counts((gain * counts).clip(0).astype(np.float32))


class TestHeldOutPositions:
    def test_they_are_not_fitted(self, experiment):
        """Other patterns there change the score and not the fit."""
        held = make_objective("held_out_positions", experiment, random_state=3)._held
        assert held.shape == (9, 11) and held.sum() == 8
        counts = experiment.counts.copy()
        where = np.flatnonzero(held)
        counts[where] = counts[where[::-1]]  # the mean pattern stays
        results = [
            score(make_objective("held_out_positions", e, random_state=3))
            for e in (experiment, experiment.with_counts(counts))
        ]
        first, second = (r.reconstruction.object for r in results)
        assert np.array_equal(first, second)
        assert results[1].value > results[0].value

    def test_blocks(self, experiment):
        result = score(make_objective("held_out_positions", experiment), part=0.7)
        assert 1 <= len(result.blocks) <= 8 and np.isfinite(result.blocks).all()


class TestHeldOutPixels:
    def test_they_are_not_fitted(self, experiment):
        objective = make_objective("held_out_pixels", experiment, random_state=3)
        fitted, test = objective._kept[1].at(1.0)
        assert not (fitted.mask & test.mask).any() and (fitted.mask | test.mask).all()
        assert test.mask.mean() == pytest.approx(0.08, abs=0.01)
        blocks = test.mask.reshape(12, 4, 16, 4).any((1, 3))
        assert blocks.sum() * 16 == test.mask.sum()  # whole blocks
        counts = experiment.counts.copy()
        counts[:, test.mask] = 7
        other = make_objective("held_out_pixels", experiment.with_counts(counts), random_state=3)
        results = [score(o) for o in (objective, other)]
        assert results[0].metrics["data_error"] == results[1].metrics["data_error"]
        assert results[0].value < results[1].value

    def test_a_mask_is_kept(self, experiment):
        mask = np.ones((48, 64), bool)
        mask[10:20] = False
        objective = make_objective("held_out_pixels", experiment.with_mask(mask))
        assert not any(e.mask[10:20].any() for e in objective._kept[1].at(1.0))
        assert math.isfinite(score(objective).value)


def test_contrast_is_no_guide(simulate):
    """Noise makes contrast too."""
    values = []
    for dose in (1e5, 1e3):
        values.append(score(make_objective("contrast", simulate(dose=dose)[0])).value)
    assert values[1] < values[0]


def test_unknown_objectives(experiment):
    for name in ("psnr", None, 3, ["held_out"]):
        with pytest.raises(ObjectiveError, match="is not known.*held_out"):
            make_objective(name, experiment)


def test_a_function(experiment):
    seen = []

    def contrast(reconstruction, sign):
        seen.append(reconstruction)
        return sign * np.abs(reconstruction.object).max()

    objective = make_objective(functools.partial(contrast, sign=-1), experiment)
    result = score(objective)
    assert objective.name == "callable"
    assert type(result.value) is float and result.value < 0
    assert seen == [result.reconstruction]
    assert score(objective, {**TRUE, "step_probe": 10.0}).value == math.inf
    assert len(seen) == 1  # a diverged reconstruction is not shown to it


def test_ring_correlation():
    generator = np.random.default_rng(0)

    def noise():
        return generator.normal(size=(44, 60)) + 1j * generator.normal(size=(44, 60))

    image = noise()
    assert np.allclose(ring_correlation(image, image), 1)
    assert np.allclose(ring_correlation(image, 3 - 2 * image), -1)
    independent = ring_correlation(image, noise())
    assert independent.shape == (22,)
    assert abs(independent.mean()) < 0.1
    half = ring_correlation(image + noise(), image + noise())
    assert half.mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["frc", "held_out"])
def test_an_interrupted_reconstruction_ends_the_trial(experiment, monkeypatch, name):
    """Ctrl-C in the first of two reconstructions does not start the second."""
    from hs_autoptycho.ptycho import solver

    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setitem(solver.UPDATES, "lsq-ml", lambda settings: interrupted)
    result = score(make_objective(name, experiment), {}, n_iterations=2)
    assert result.status == result.reconstruction.status == "interrupted"
    assert len(calls) == 1
