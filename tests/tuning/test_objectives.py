"""Scores: what each measures, and that counts held out do not reward overfitting."""

import functools
import math

import numpy as np
import pytest

from hs_autoptycho.data import correlation_with_truth
from hs_autoptycho.tuning.objectives import (
    OBJECTIVES,
    ObjectiveError,
    make_objective,
    ring_correlation,
)

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}


def score(objective, parameters=TRUE, n_iterations=4):
    return objective(parameters, n_iterations=n_iterations, random_state=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_prefers_the_truth(experiment, name):
    objective = make_objective(name, experiment, random_state=3)
    assert objective.name == name
    best = score(objective)
    assert type(best.value) is float and math.isfinite(best.value)
    assert best.metrics[name] == pytest.approx(1 - best.value if name == "frc" else best.value)
    assert {"n_iterations", "data_error", "phase_contrast"} <= set(best.metrics)
    assert all(type(value) in (int, float) for value in best.metrics.values())
    assert best.reconstruction.status == "completed"
    for wrong in ({"scan_rotation": -12}, {"defocus": -120}, {"detector_flip": "rows"}):
        assert score(objective, {**TRUE, **wrong}).value > best.value
    assert score(objective).value == best.value  # no state is left behind


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_diverged_run_has_no_score(experiment, name):
    result = score(make_objective(name, experiment), {**TRUE, "step_probe": 10.0})
    assert result.value == math.inf
    assert result.reconstruction.status == "diverged"


def test_the_split_belongs_to_the_seed(experiment):
    values = [
        score(make_objective("held_out", experiment, random_state=r)).value for r in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_held_out_has_an_error_bar(experiment):
    metrics = score(make_objective("held_out", experiment)).metrics
    assert 0 < metrics["held_out_standard_error"] < 0.1 * metrics["held_out"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_counts_see_overfitting_and_the_data_error_does_not(simulate, seed):
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


def test_a_scan_of_floats_has_no_counts_to_hold_out(simulate):
    experiment, _ = simulate(dose=None)
    with pytest.raises(ObjectiveError, match="float32.*change_dtype.*frc"):
        make_objective("held_out", experiment)
    for name in ("frc", "data_error"):
        assert math.isfinite(score(make_objective(name, experiment)).value)


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


def test_an_interrupted_half_ends_the_trial(experiment, monkeypatch):
    """Ctrl-C in the first of two reconstructions does not start the second."""
    from hs_autoptycho.ptycho import solver

    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setitem(solver.UPDATES, "lsq-ml", lambda settings: interrupted)
    objective = make_objective("frc", experiment)
    score = objective({}, n_iterations=2, random_state=0)
    assert score.reconstruction.status == "interrupted"
    assert len(calls) == 1
