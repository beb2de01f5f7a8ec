"""What py4DSTEM's solver is told in a pass, and what becomes of it; without py4DSTEM itself."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.ptycho.positions import Placement
from hs_autoptycho.tuning import py4dstem_engine as module
from hs_autoptycho.tuning.py4dstem_engine import (
    Py4DSTEMEngine,
    _amplitudes,
    _mean_total,
    _positions,
    _rounded,
    _Run,
    polar_parameters,
)

VALUES = {
    "position_correction_start": None, "n_slices": 1, "batch_size": 7, "step_object": 1.0,
    "step_probe": 1.0, "probe_start": 0,
}  # fmt: skip


def told(iteration=1, error=0.5, random_state=3, **values):
    """Options of one pass."""
    run, calls = _Run.__new__(_Run), []
    run.values = {**VALUES, **values}
    run.corrects = run.values["position_correction_start"] is not None
    run.mask, updates = "mask", []
    run.solver = SimpleNamespace(
        error=error, sampling=(0.3, 0.4), reconstruct=lambda **options: calls.append(options)
    )
    run._update = lambda: updates.append(1)
    assert run.do_pass(iteration, random_state) == pytest.approx(error, nan_ok=True)
    assert len(updates) == math.isfinite(error)
    return calls[0]


def test_a_pass():
    options = told()
    assert options.pop("seed_random") == np.random.SeedSequence([3, 1]).generate_state(1)[0]
    assert options == {
        "num_iter": 1, "reset": False, "max_batch_size": 7, "step_size": 0.5, "fix_probe": False,
        "fix_positions": True, "fix_probe_com": False, "gaussian_filter": False,
        "butterworth_filter": False, "object_positivity": False, "fix_potential_baseline": False,
        "detector_fourier_mask": "mask", "progress_bar": False, "tv_denoise": False,
    }  # fmt: skip
    assert told(2)["seed_random"] != told(1)["seed_random"] != told(random_state=4)["seed_random"]
    for error in (math.nan, math.inf):
        told(error=error)


def test_steps_of_slices():
    assert told(step_object=0.6)["step_size"] == pytest.approx(0.3)
    several = told(step_object=0.6, n_slices=4)
    assert several["step_size"] == pytest.approx(0.15)
    assert several["kz_regularization_filter"] is several["tv_denoise_chambolle"] is False
    assert "tv_denoise_chambolle" in told(n_slices=2)


def test_a_probe_that_is_held():
    assert [told(i, probe_start=2)["fix_probe"] for i in (1, 2, 3)] == [True, True, False]
    assert told(step_probe=0)["fix_probe"] and told(9, step_probe=0)["fix_probe"]


def test_positions_that_are_corrected():
    fixed = [told(i, position_correction_start=2)["fix_positions"] for i in (1, 2, 3)]
    assert fixed == [True, True, False]
    # seven of the eight pixels by which the object is larger, in lengths of their diagonal
    options = told(position_correction_start=0)
    assert options["max_position_total_distance"] == pytest.approx(7 * 0.5)
    assert not options["fix_positions"]


def placement():
    return Placement(
        np.array([[2, 3], [4, 3], [4, 7]]), np.array([1, 0, 1]),
        np.array([[0.0, 0.25], [-0.5, 0.5]]), (40, 50), np.array([1.5, 2.0]),
    )  # fmt: skip


def test_places_of_windows():
    found = _positions(placement(), np.array([6, 8]))
    assert found == pytest.approx(np.array([[7.5, 11.5], [10, 11.25], [9.5, 15.5]]))


@pytest.mark.parametrize("margin", [0, 5])
def test_positions_are_rounded_to_even_pixels(margin):
    given, half = placement(), np.array([6, 8])
    found = _rounded(given, (12, 17), margin)
    expected = _positions(given, half) + margin
    assert _positions(found, half) == pytest.approx(expected)
    assert np.array_equal(found.corners, np.round(expected).astype(int) - half)
    assert np.abs(found.fractions).max() <= 0.5
    assert found.object_shape == (40 + 2 * margin, 50 + 2 * margin)
    assert found.origin == pytest.approx([1.5 + margin, 2 + margin])
    assert found.classes.shape == (3,) and len(found.fractions) <= 3


def an_experiment(counts, mask=None, background=0.0):
    return SimpleNamespace(
        counts=counts, mask=mask, background=background,
        on_detector=lambda pattern, flip, shape: np.asarray(pattern)[: shape[0], : shape[1]],
    )  # fmt: skip


def test_patterns_of_mean_one():
    counts = np.random.default_rng(0).poisson(5.0, (300, 6, 9))
    mask = np.random.default_rng(1).random((6, 9)) < 0.8
    shape, used = (4, 7), np.array([0, *range(3, 299)])
    central = counts[:, :4, :7]
    plain = an_experiment(counts)
    assert _mean_total(plain, "none", shape) == pytest.approx(central.sum() / 300)
    masked = an_experiment(counts, mask, 1.5)
    total = (central * mask[:4, :7]).sum() / 300
    assert _mean_total(masked, "none", shape) == pytest.approx(total)
    state = SimpleNamespace(shape=shape)
    found = _amplitudes(plain, "none", state, used, 140.0)
    # more than are prepared at a time
    assert found.shape == (297, 4, 7) and found.dtype == np.float32
    expected = np.fft.ifftshift(central[used], axes=(1, 2)) * 28 / 140
    assert found**2 == pytest.approx(expected, rel=1e-5)
    found = _amplitudes(masked, "none", state, used, 140.0)
    expected = np.maximum(central[used] - 1.5, 0) * mask[:4, :7] * 28 / 140
    assert found**2 == pytest.approx(np.fft.ifftshift(expected, axes=(1, 2)), rel=1e-5)


def test_aberrations_by_length_and_angle():
    values = dict.fromkeys(("C21a", "C21b", "C23a", "C23b"), 0.0)
    values |= {"defocus": 120.0, "C30": 7.0, "C12a": 3.0, "C12b": 4.0, "C23a": 0.0, "C23b": -2.0}
    found = polar_parameters(values)
    assert (found["C10"], found["C30"], found["C12"], found["C23"]) == (-120, 7, 5, 2)
    assert found["phi12"] == pytest.approx(math.pi / 2 - math.atan2(4, 3) / 2)
    assert found["phi23"] == pytest.approx(math.pi / 2 + math.pi / 6)
    assert found["C21"] == 0 and len(found) == 8


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(module, "_phase", lambda: None)
    return Py4DSTEMEngine()


def fit(engine, monkeypatch, errors, n_iterations, monitor=None):
    """Passes with these errors, without any reconstruction."""
    monkeypatch.setattr(Py4DSTEMEngine, "check", lambda self, experiment, values: None)
    monkeypatch.setattr(module, "NumbaFit", lambda *given: SimpleNamespace())
    passes = []

    class Run:
        state = None

        def __init__(self, *given):
            pass

        def do_pass(self, iteration, random_state):
            passes.append((iteration, random_state))
            return errors[iteration - 1]

        def result(self, errors, status):
            return errors, status

    monkeypatch.setattr(module, "_Run", Run)
    experiment = SimpleNamespace(
        complete=lambda parameters: {"detector_flip": "none"},
        reduced_shape=lambda reduction, flip: reduction,
    )
    fitted = engine.fit(experiment, {}, n_iterations=n_iterations, random_state=4, monitor=monitor)
    errors, status = fitted.reconstruction
    assert passes == [(i, 4) for i in range(1, len(errors) + 1)]
    return len(errors), status


def test_when_a_run_has_diverged(engine, monkeypatch):
    for errors, expected in (
        ([0.2, 0.1, 0.1], (3, "completed")),
        ([0.2, 0.2 * module.DIVERGED, 0.1], (3, "completed")),
        ([0.2, 0.201 * module.DIVERGED, 0.1], (2, "diverged")),
        ([0.9, 1.0, 0.9], (3, "completed")),
        ([0.9, 1.001, 0.9], (2, "diverged")),
        ([1.001, 0.9, 0.9], (1, "diverged")),
        ([0.2, math.nan, 0.1], (2, "diverged")),
    ):
        assert fit(engine, monkeypatch, errors, 3) == expected
    assert fit(engine, monkeypatch, [], 0) == (0, "completed")


def test_when_a_run_is_stopped(engine, monkeypatch):
    errors = [0.5, 0.4, 0.3, 0.2]
    assert fit(engine, monkeypatch, errors, 4, lambda i, fit: i == 2) == (2, "stopped")
    assert fit(engine, monkeypatch, errors, 4, lambda i, fit: None) == (4, "completed")

    def interrupted(iteration, fit):
        if iteration == 3:
            raise KeyboardInterrupt

    assert fit(engine, monkeypatch, errors, 4, interrupted) == (3, "interrupted")


def test_what_is_refused(engine):
    values = {name: module.PARAMETERS[name].default for name in module.WITHOUT_COUNTERPART}
    values |= {**VALUES, "noise_model": "amplitude"}

    def check(counted=True, mask=None, **changed):
        experiment = SimpleNamespace(counted=counted, mask=mask)
        engine.check(experiment, {**values, **changed})

    check()
    check(noise_model="poisson")
    check(counted=False)
    with pytest.raises(ParameterError, match="noise_model='poisson'"):
        check(noise_model="poisson", counted=False)
    for object_, probe in ((1.0, 0.0), (0.3, 1.0), (0.3, 0.3), (0.3, 0.0)):
        check(step_object=object_, step_probe=probe)
    for object_, probe in ((0.0, 1.0), (0.3, 2.0), (1.0, 0.3), (0.0, 0.0)):
        with pytest.raises(ParameterError, match="one step for both"):
            check(step_object=object_, step_probe=probe)
    check(position_correction_start=0)
    check(mask=np.ones(3))
    with pytest.raises(ParameterError, match="position_correction_start"):
        check(position_correction_start=0, mask=np.ones(3))
