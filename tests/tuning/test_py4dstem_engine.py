"""py4DSTEM as an engine: the same geometry, model and score as this package's own."""

import builtins
import math
import warnings

import numpy as np
import pytest
from scipy.stats import spearmanr

from hs_autoptycho.calibration import object_axes
from hs_autoptycho.data import phase_correlation, true_positions
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.ptycho.patterns import Patterns, flip_detector, flip_point, split_counts
from hs_autoptycho.ptycho.probe import beam_frequencies, make_probe
from hs_autoptycho.ptycho.solver import predictions
from hs_autoptycho.tuning import py4dstem_engine
from hs_autoptycho.tuning.engines import NumbaEngine
from hs_autoptycho.tuning.held_out import HeldOutCounts
from hs_autoptycho.tuning.py4dstem_engine import (
    WITHOUT_COUNTERPART,
    Py4DSTEMEngine,
    polar_parameters,
)
from hs_autoptycho.tuning.trial import Fidelity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("py4DSTEM")
    from py4DSTEM.process.phase.utils import ComplexProbe

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}
SEVERAL = {"n_slices": 3, "thickness": 12.0}


def fit(experiment, parameters=TRUE, n_iterations=4, **options):
    return Py4DSTEMEngine().fit(
        experiment, parameters, n_iterations=n_iterations, random_state=0, **options
    )


def mean_deviance(experiment, parameters, n_iterations=4):
    return fit(experiment, parameters, n_iterations).deviance(experiment).mean()


@pytest.fixture(scope="module")
def off_centre(simulate):
    return simulate(beam_shift=(1.3, -2.2))[0]


@pytest.fixture
def run_of():
    """What :meth:`Py4DSTEMEngine.fit` does, with py4DSTEM's solver at hand."""

    def make(experiment, parameters, n_passes=2, positions=None):
        values = experiment.complete(parameters)
        shape = experiment.reduced_shape(1, values["detector_flip"])
        run = py4dstem_engine._Run(experiment, values, shape, positions)
        for iteration in range(1, n_passes + 1):
            run.do_pass(iteration, 0)
        return run

    return make


def predicted_by_py4dstem(run):
    """Its own forward model, (positions, rows, columns), zero frequency in the middle."""
    solver = run.solver
    positions = solver._positions_px
    rows, columns = solver._extract_vectorized_patch_indices(positions)
    probes = solver._return_shifted_probes(solver._probe, positions - np.round(positions))
    exit_waves = solver._overlap_projection(solver._object, rows, columns, probes)[-1]
    intensity = solver._return_farfield_amplitudes(np.fft.fft2(exit_waves)) ** 2
    return np.fft.fftshift(intensity, axes=(1, 2))


MODELS = [
    {},
    {"n_probe_modes": 2},
    {"object_type": "phase"},
    {**SEVERAL, "tilt_x": 20.0, "tilt_y": -11.0},
    {**SEVERAL, "n_probe_modes": 2, "tilt_y": 15.0},
    {"position_correction_start": 0},
]


@pytest.mark.parametrize("parameters", MODELS, ids=lambda p: ",".join(p) or "default")
def test_predictions_are_those_of_py4dstem(off_centre, run_of, parameters):
    run = run_of(off_centre, {**TRUE, **parameters})
    assert_same_predictions(run)


def test_positions_half_way_between_pixels(experiment, run_of):
    # 2.5 object pixels from row to row: every second one is a tie
    step = 2.5 * experiment.geometry.object_pixel[0]
    run = run_of(experiment, {**TRUE, "scan_rotation": 0.0, "scan_step": step}, 1)
    assert (np.abs(run.state.placement.fractions) == 0.5).any()
    assert_same_predictions(run)


def assert_same_predictions(run):
    theirs = predicted_by_py4dstem(run)
    ours = np.empty(theirs.shape, np.float32)
    pixel = np.arange(theirs[0].size).reshape(run.state.shape)
    empty = Patterns(np.zeros((1, pixel.size), np.uint8), run.state.plan, 1.0)
    for places, model in predictions(run.state, np.arange(len(theirs))):
        ours.reshape(len(ours), -1)[places[:, None], empty.order(pixel)] = model
    assert np.abs(ours - theirs).max() < 1e-4 * theirs.max()
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
    assert theirs.mean() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("flip", ["none", "rows", "transpose-columns"])
def test_patterns_are_neither_moved_nor_scaled_one_by_one(off_centre, run_of, flip):
    mask = np.ones((48, 64), bool)
    mask[5, 7:9] = False
    background = np.linspace(0, 20, 48 * 64).reshape(48, 64)
    experiment = Experiment(off_centre.counts, off_centre.geometry, mask, background)
    run = run_of(experiment, {**TRUE, "detector_flip": flip}, 0, np.array([3, 50, 98]))
    seen = np.fft.fftshift(run.solver._amplitudes, axes=(1, 2)) ** 2
    counts = np.maximum(experiment.counts[[3, 50, 98]] - background, 0) * mask
    counts = flip_detector(counts, flip)
    assert seen.shape == counts.shape
    assert np.allclose(seen, counts * seen.sum() / counts.sum(), rtol=1e-4, atol=1e-6)
    assert run.state.beam_offset == pytest.approx(
        np.array(flip_point(experiment.geometry.disk_center, (48, 64), flip))
        - np.array(counts.shape[1:]) // 2
    )


def test_both_make_the_same_probe():
    generator = np.random.default_rng(0)
    shape, pixel, energy = (48, 64), (0.25, 0.1875), 80.0
    # each of them turns the phase at the aperture's edge by about a radian
    sizes = {"defocus": 100, "C30": 3e5} | {f"C12{part}": 40 for part in "ab"}
    sizes |= {f"{name}{part}": 3000 for name in ("C21", "C23") for part in "ab"}
    for _ in range(3):
        signs = generator.choice([-1, 1], len(sizes)) * generator.uniform(0.5, 1.5, len(sizes))
        values = {
            name: size * sign for (name, size), sign in zip(sizes.items(), signs, strict=True)
        }
        theirs = ComplexProbe(
            energy=1e3 * energy, gpts=shape, sampling=pixel, semiangle_cutoff=21.4, rolloff=0.0,
            parameters=polar_parameters(values),
        ).build()._array  # fmt: skip
        aperture = np.abs(np.fft.fft2(theirs))
        wavelength = ComplexProbe(energy=1e3 * energy, gpts=shape, sampling=pixel)._wavelength
        ours = make_probe(aperture, *beam_frequencies(shape, pixel), wavelength, **values)
        theirs = np.fft.fftshift(theirs)

        def agreement(a, b):
            return abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b)

        assert agreement(ours, theirs) > 0.9999
        for name in values:  # every one of them matters
            other = {**values, name: -values[name]}
            wrong = make_probe(aperture, *beam_frequencies(shape, pixel), wavelength, **other)
            assert agreement(wrong, theirs) < 0.995


def test_a_fit_agrees_with_the_truth(simulate):
    experiment, signal = simulate()
    for engine, least in ((Py4DSTEMEngine(), 0.92), (NumbaEngine(), 0.94)):
        result = engine.fit(experiment, TRUE, n_iterations=12, random_state=0).reconstruction
        assert result.status == "completed" and len(result.errors) == 12
        assert result.errors[-1] < 0.6 * result.errors[0]
        assert _correlation(result, experiment, signal) > least
        assert result.object.shape == (1, *result.placement.object_shape)
        assert result.object.dtype == result.probe.dtype == np.complex64
        # the unit of the probe is counts
        power = (np.abs(result.probe) ** 2).sum()
        assert power == pytest.approx(experiment.totals.mean(), rel=0.1)


def _correlation(result, experiment, signal):
    from hyperspy.signals import ComplexSignal2D

    pixel = np.array(experiment.geometry.object_pixel)
    axes = object_axes(experiment.geometry, result.object.shape, -result.placement.origin * pixel)
    return phase_correlation(ComplexSignal2D(result.object, axes=axes), signal)


def test_the_right_parameters_are_the_best(simulate):
    experiment, _ = simulate(C12a=20, C12b=-15)
    true = {**TRUE, "C12a": 20.0, "C12b": -15.0}
    # no more passes than needed, with twice the usual step
    true["step_object"] = 2.0
    best = mean_deviance(experiment, true, 5)
    for wrong in (
        {"defocus": 90.0}, {"defocus": -120.0}, {"scan_rotation": -12.0}, {"scan_step": 1.0},
        {"C12a": -20.0}, {"C12b": 15.0}, {"detector_flip": "rows"}, {"detector_flip": "transpose"},
    ):  # fmt: skip
        assert mean_deviance(experiment, {**true, **wrong}, 5) > 1.03 * best, wrong


@pytest.mark.parametrize("flip", ["columns", "transpose-rows"])
def test_a_flipped_detector(experiment, flip):
    # the flips are their own inverses, or that of a transpose with the other flip
    back = {"columns": "columns", "transpose-rows": "transpose-columns"}[flip]
    geometry = experiment.geometry.flipped(back)
    flipped = Experiment(np.ascontiguousarray(flip_detector(experiment.counts, back)), geometry)
    assert mean_deviance(flipped, {**TRUE, "detector_flip": flip}, 2) == pytest.approx(
        mean_deviance(experiment, TRUE, 2), rel=1e-4
    )


def test_modes_describe_a_source_that_is_not_a_point(simulate):
    experiment, _ = simulate(source_size=0.8)
    several = fit(experiment, {**TRUE, "n_probe_modes": 3}, 6)
    assert several.deviance(experiment).mean() < 0.9 * mean_deviance(experiment, TRUE, 6)
    modes = several.reconstruction.probe
    flat = modes.reshape(3, -1)
    overlaps = flat.conj() @ flat.T
    powers = np.diag(overlaps).real
    assert (np.diff(powers) < 0).all()
    assert np.abs(overlaps - np.diag(powers)).max() < 1e-4 * powers[0]


def test_slices(experiment):
    result = fit(experiment, {**TRUE, **SEVERAL})
    assert result.reconstruction.object.shape[0] == 3
    assert np.angle(result.reconstruction.object).std((1, 2)).min() > 0.01
    assert result.deviance(experiment).mean() < 1.3


def test_an_object_of_phase_alone(experiment):
    result = fit(experiment, {**TRUE, "object_type": "phase"}).reconstruction
    assert np.allclose(np.abs(result.object), 1, atol=1e-5)
    assert np.angle(result.object).std() > 0.02


def test_a_subset_of_the_positions(experiment):
    some = np.setdiff1d(np.arange(99), [0, 17, 18, 60])
    fitted = fit(experiment, positions=some)
    others = experiment.counts.copy()
    others[[0, 17, 18, 60]] = others[[60, 18, 17, 0]]  # the mean pattern stays what it is
    other = fit(experiment.with_counts(others), positions=some)
    a, b = fitted.reconstruction.object, other.reconstruction.object
    assert np.abs(a - b).max() < 1e-4
    all_of_them = fit(experiment.with_counts(others))
    assert np.abs(a - all_of_them.reconstruction.object).max() > 0.01
    # also positions that were not fitted are predicted
    deviance = fitted.deviance(experiment, np.array([60, 3]))
    assert deviance.shape == (2,) and np.isfinite(deviance).all()
    assert np.allclose(deviance, fitted.deviance(experiment)[[60, 3]], rtol=1e-5)


def test_masked_pixels_are_not_fitted(experiment):
    mask = np.ones((48, 64), bool)
    mask[20:24, 30:33] = False
    hot = experiment.counts.copy()
    hot[:, 20:24, 30:33] = 60000
    for parameters in (TRUE, {**TRUE, "n_probe_modes": 2}):
        cold, with_hot = (
            fit(Experiment(counts, experiment.geometry, mask), parameters, 2)
            for counts in (experiment.counts, hot)
        )
        assert np.isfinite(cold.reconstruction.errors).all()
        assert np.allclose(cold.reconstruction.object, with_hot.reconstruction.object)


def test_a_background_is_no_part_of_the_beam(experiment):
    counts = experiment.counts + np.random.default_rng(0).poisson(3.0, experiment.counts.shape)
    counts = counts.astype(np.uint16)
    plain = Experiment(counts, experiment.geometry)
    known = Experiment(counts, experiment.geometry, background=3.0)
    assert mean_deviance(known, TRUE) < mean_deviance(plain, TRUE)


def test_a_reduced_detector(experiment):
    result = fit(experiment, reduction=1.4)
    rows, columns = result.reconstruction.probe.shape[1:]
    assert rows < 48 and columns < 64
    assert result.deviance(experiment).mean() < 2.5


def test_positions_are_corrected(simulate):
    experiment, signal = simulate(position_jitter=0.25)
    true = true_positions(signal).reshape(-1, 2)

    def error(found):
        difference = (found - true) - (found - true).mean(0)
        return np.sqrt((difference**2).mean())

    result = fit(experiment, {**TRUE, "position_correction_start": 2}, 14)
    pixel = np.array(experiment.geometry.object_pixel)
    found = (result.state.positions - result.reconstruction.placement.origin) * pixel
    assert error(found) < 0.3 * 0.25
    assert result.deviance(experiment).mean() < 0.8 * mean_deviance(experiment, TRUE, 14)


def test_a_held_probe(experiment):
    start = experiment.start(experiment.complete(TRUE))[1][0]

    def change(**parameters):
        probe = fit(experiment, {**TRUE, **parameters}, 2).reconstruction.probe[0]
        return 1 - abs(np.vdot(probe, start)) / np.linalg.norm(probe) / np.linalg.norm(start)

    assert change(step_probe=0.0) < 1e-5
    assert change(probe_start=2) < 1e-5
    assert change(probe_start=1) > 1e-4


def test_the_same_seed_gives_the_same(experiment):
    np.random.seed(5)
    expected = np.random.get_state()[1].copy()
    first, second = (fit(experiment, n_iterations=2).reconstruction for _ in range(2))
    assert np.array_equal(first.object, second.object)
    # numpy's common random numbers go on as if nothing had been
    assert np.array_equal(np.random.get_state()[1], expected)
    other = Py4DSTEMEngine().fit(experiment, TRUE, n_iterations=2, random_state=1).reconstruction
    assert not np.array_equal(first.object, other.object)


def test_a_monitor_sees_every_pass_and_stops(experiment):
    seen = []

    def monitor(iteration, running):
        assert running.reconstruction is None
        seen.append((iteration, running.deviance(experiment, np.arange(20)).mean()))
        return iteration == 3

    result = fit(experiment, n_iterations=6, monitor=monitor)
    assert [iteration for iteration, _ in seen] == [1, 2, 3]
    assert result.reconstruction.status == "stopped" and len(result.reconstruction.errors) == 3
    values = [value for _, value in seen]
    assert values == sorted(values, reverse=True)
    last = result.deviance(experiment, np.arange(20)).mean()
    assert last == pytest.approx(values[-1], rel=1e-6)


def test_a_run_that_diverges(experiment):
    result = fit(experiment, {**TRUE, "step_object": 10.0}, 4).reconstruction
    assert result.status == "diverged"


def test_interrupted(experiment):
    def monitor(iteration, _):
        if iteration == 2:
            raise KeyboardInterrupt

    result = fit(experiment, n_iterations=5, monitor=monitor).reconstruction
    assert result.status == "interrupted" and len(result.errors) == 2


def test_all_parameters_at_once_are_those_that_were_given(experiment):
    given = {**TRUE, "step_object": 0.7}
    first, second = (
        fit(experiment, parameters, 2).reconstruction.object
        for parameters in (given, experiment.complete(given))
    )
    assert np.array_equal(first, second)


OTHERS = {
    "n_variable_modes": 1, "detector_blur": 0.5, "saturation": 200.0, "algorithm": "epie",
    "batch_selection": "compact", "momentum": 0.5, "coarse_iterations": 2, "early_stopping": 3,
    "grid_correction_start": 0, "defocus_correction_start": 1, "intensity_correction_start": 0,
    "thickness_correction_start": 1, "tilt_correction_start": 0, "regularization_depth": 1.0,
    "regularization_positivity": 0.1, "regularization_tv": 0.01, "regularization_bandwidth": 1.0,
    "regularization_probe_support": 0.8,
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_COUNTERPART)
def test_parameters_without_a_counterpart_are_refused(experiment, name):
    with pytest.raises(ParameterError, match=f'{name}=.*leave that out.*engine="numba"'):
        fit(experiment, {**TRUE, **SEVERAL, name: OTHERS[name]})


def test_one_step_for_object_and_probe(experiment):
    for steps in ({"step_probe": 0.5}, {"step_object": 0.0}):
        with pytest.raises(ParameterError, match="one step for both"):
            fit(experiment, {**TRUE, **steps})
    masked = experiment.with_mask(np.arange(48 * 64).reshape(48, 64) > 3)
    with pytest.raises(ParameterError, match="position_correction_start"):
        fit(masked, {**TRUE, "position_correction_start": 1})


def test_nothing_is_printed_or_plotted(experiment, capfd):
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for parameters in (TRUE, {**TRUE, **SEVERAL, "n_probe_modes": 2}):
            fit(experiment, parameters, 2)
    assert capfd.readouterr() == ("", "")
    assert not plt.get_fignums()


def test_without_py4dstem(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("py4DSTEM"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'pip install "hs_autoptycho\[py4dstem\]"'):
        Py4DSTEMEngine()


@pytest.mark.slow
def test_both_engines_rank_settings_alike(simulate):
    experiment, _ = simulate(scan_shape=(12, 14), C12a=10.0)
    # a probe that is refined adapts to wrong aberrations, and sooner in one engine than the other
    held = {**TRUE, "C12a": 10.0, "step_probe": 0.0}
    wrong = [
        {"C12a": 0.0}, {"C12a": -20.0}, {"defocus": 105.0}, {"defocus": 150.0},
        {"scan_rotation": 9.0}, {"scan_rotation": 20.0}, {"detector_flip": "rows"},
    ]  # fmt: skip
    settings = [held, *({**held, **change} for change in wrong)]
    values = []
    for engine in (NumbaEngine(), Py4DSTEMEngine()):
        objective = HeldOutCounts(experiment, random_state=0, engine=engine)
        scores = [objective(p, fidelity=Fidelity(10), random_state=0) for p in settings]
        assert all(score.status == "completed" for score in scores)
        assert all(math.isfinite(score.metrics["noise_floor"]) for score in scores)
        values.append([score.value for score in scores])
    assert np.argmin(values[0]) == np.argmin(values[1]) == 0
    assert spearmanr(*values).statistic > 0.9


def test_the_statistic_is_that_of_the_other_engine(experiment):
    # the same object and probe have the same deviance, whichever engine keeps them
    fitted, held_out = split_counts(experiment.counts, 0.9, 0)
    train, test = experiment.with_counts(fitted), experiment.with_counts(held_out)
    theirs = fit(train)
    ours = NumbaEngine().fit(train, TRUE, n_iterations=1, random_state=0)
    ours.state.object[:] = theirs.state.object
    ours.state.probe = theirs.state.probe
    assert np.allclose(ours.state.positions, theirs.state.positions)
    assert np.allclose(ours.deviance(test), theirs.deviance(test), rtol=1e-3)
