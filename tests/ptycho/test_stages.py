"""First coarse, then fine; and parameters that have to fit each other."""

import numpy as np
import pytest

from hs_autoptycho.ptycho import solver
from hs_autoptycho.ptycho.corrections import Starts
from hs_autoptycho.ptycho.parameters import CORRECTIONS, PARAMETERS, ParameterError
from hs_autoptycho.ptycho.settings import Regularization, Settings
from hs_autoptycho.ptycho.stages import _later, check_together, default_probe_start, make_settings

pytestmark = pytest.mark.usefixtures("one_thread")

# of the object's frame in Å: two results show the same
COARSE = (20, 24)


@pytest.fixture(scope="module")
def scan(measure):
    return measure()


@pytest.fixture(scope="module")
def experiment(scan):
    return scan.experiment()


@pytest.fixture
def coarse(monkeypatch):
    """The central part that is used, whatever the patterns hold."""
    from hs_autoptycho.ptycho import experiment

    monkeypatch.setattr(experiment, "detector_cutoff_for", lambda *args, **options: COARSE)


def fit(experiment, n_iterations, callback=None, **parameters):
    return experiment.fit(parameters, n_iterations=n_iterations, callback=callback)[0]


class TestCoarse:
    def test_it_is_the_same_object_in_the_same_frame(self, scan, experiment, coarse):
        plain = fit(experiment, 16)
        result = fit(experiment, 16, coarse_iterations=8)
        assert result.status == "completed" and len(result.errors) == 16
        assert result.object.shape == plain.object.shape
        assert result.probe.shape == plain.probe.shape
        np.testing.assert_array_equal(result.placement.origin, plain.placement.origin)
        np.testing.assert_array_equal(result.placement.corners, plain.placement.corners)
        np.testing.assert_array_equal(result.placement.fractions, plain.placement.fractions)
        assert scan.correlation(plain.object[0]) > 0.97
        assert scan.correlation(result.object[0]) > 0.97
        assert result.errors[-1] < 1.1 * plain.errors[-1]

    def test_the_fine_stage_goes_on_from_the_coarse_one(self, scan, experiment, coarse):
        """Its start is far better than vacuum."""
        plain = fit(experiment, 1)
        result = fit(experiment, 12, coarse_iterations=11)
        assert result.errors[11] < 0.5 * plain.errors[0]
        # with no fine pass it is the coarse object, resampled
        only = fit(experiment, 10, coarse_iterations=10)
        assert only.status == "completed" and len(only.errors) == 10
        assert only.object.shape == plain.object.shape
        assert scan.correlation(only.object[0]) > 0.8
        longer = fit(experiment, 10, coarse_iterations=99)
        np.testing.assert_array_equal(longer.object, only.object)

    def test_callback_counts_on(self, experiment, coarse):
        seen = []
        result = fit(
            experiment, 5, coarse_iterations=2, callback=lambda i, error: seen.append((i, error))
        )
        assert [i for i, _ in seen] == [1, 2, 3, 4, 5]
        np.testing.assert_array_equal([error for _, error in seen], result.errors)

    def test_flipped_detector(self, scan, experiment, coarse, monkeypatch):
        from dataclasses import replace

        from hs_autoptycho.ptycho.experiment import Experiment

        reference = fit(experiment, 6, coarse_iterations=3)
        counts = np.ascontiguousarray(scan.data.transpose(0, 2, 1))
        geometry = replace(
            scan.geometry, detector_shape=scan.window[::-1],
            disk_center=scan.geometry.disk_center[::-1],
        )  # fmt: skip
        turned = Experiment(counts, geometry)
        result = fit(turned, 6, coarse_iterations=3, detector_flip="transpose")
        np.testing.assert_allclose(result.object, reference.object, atol=1e-4)

    def test_nothing_to_be_gained(self, experiment):
        """Where the disk fills the detector its central part is no start."""
        plain, result = (fit(experiment, 3, coarse_iterations=n) for n in (0, 2))
        np.testing.assert_array_equal(plain.object, result.object)

    def test_mask_and_background_are_cut_too(self, measure, coarse):
        from dataclasses import replace

        scan = measure(background=2.0)
        rng = np.random.default_rng(0)
        mask = rng.uniform(size=scan.window) > 0.05
        data = np.where(mask, scan.data, 60000).astype(np.uint16)
        told = replace(scan.experiment(), counts=data, mask=mask, background=2.0)
        result = fit(told, 14, coarse_iterations=7)
        assert scan.correlation(result.object[0]) > 0.95

    def test_slices(self, measure, coarse):
        scan = measure(distance=300.0, defocus=150.0, dose=50000)
        result = fit(
            scan.experiment(), 50, coarse_iterations=25, n_slices=2, thickness=600.0, step_probe=0.0
        )
        assert result.object.shape[0] == 2
        for i in (0, 1):
            assert scan.correlation(result.object[i], i) > 0.9
            assert abs(scan.correlation(result.object[i], 1 - i)) < 0.4

    def test_early_stopping_is_for_the_fine_stage(self, measure, coarse):
        experiment = measure(dose=1000).experiment()
        before = experiment.patterns().counts.copy()
        result = fit(experiment, 80, coarse_iterations=5, early_stopping=3)
        assert result.status == "stopped" and 8 < len(result.errors) < 80
        scores = result.history["held_out"]
        assert len(scores) == len(result.errors)
        assert np.isnan(scores[:5]).all() and np.isfinite(scores[5:]).all()
        np.testing.assert_array_equal(experiment.patterns().counts, before)


class TestCoarseEnds:
    @pytest.mark.parametrize("last", [2, 5])
    def test_ctrl_c(self, experiment, coarse, last):
        def stop(iteration, error):
            if iteration == last:
                raise KeyboardInterrupt

        result = fit(experiment, 8, coarse_iterations=3, callback=stop)
        assert result.status == "interrupted"
        assert len(result.errors) == last
        assert result.object.shape[1:] == experiment.start(experiment.complete({}))[0].object_shape
        assert np.abs(result.object - 1).max() > 0.1

    def test_ctrl_c_within_the_first_pass(self, experiment, coarse, monkeypatch):
        def stop(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setitem(solver.UPDATES, "lsq-ml", lambda settings: stop)
        result = fit(experiment, 8, coarse_iterations=3)
        assert result.status == "interrupted" and len(result.errors) == 0

    def test_divergence(self, experiment, coarse):
        options = {"algorithm": "epie", "step_object": 10.0, "step_probe": 10.0}
        result = fit(experiment, 8, coarse_iterations=3, early_stopping=2, **options)
        assert result.status == "diverged"
        assert len(result.errors) < 3


class TestCorrectionsGoOn:
    def test_positions(self, measure, coarse):
        """What was found with the coarse patterns is not lost."""
        scan = measure(dose=None)
        experiment = scan.experiment()
        jitter = np.random.default_rng(1).uniform(-0.6, 0.6, scan.positions.shape)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "positions", scan.positions + jitter)
            moved = scan.intensities(scan.truth, scan.probe)
        experiment.counts = np.fft.fftshift(moved, axes=(1, 2)).astype(np.float32)

        def left(n, **options):
            result = fit(experiment, n, position_correction_start=3, **options)
            placement = result.placement
            found = placement.corners + placement.fractions[placement.classes]
            found = found + np.array(scan.window) // 2 - placement.origin
            difference = found - (scan.positions + jitter - scan.placement.origin)
            return (difference - difference.mean(0)).std()

        coarse_alone = left(25, coarse_iterations=25)
        assert coarse_alone < 0.6 * jitter.std()
        # a fine pass starts where the coarse ones ended
        assert left(26, coarse_iterations=25) < 1.1 * coarse_alone
        assert left(45, coarse_iterations=25) < 0.8 * coarse_alone

    def test_parameters(self, measure, coarse):
        scan = measure(distance=60.0)
        seen = fit(
            scan.experiment(), 24, coarse_iterations=20, n_slices=2, thickness=100.0,
            thickness_correction_start=0, tilt_correction_start=2, defocus_correction_start=0,
        )  # fmt: skip
        for name, first in (("thickness_factor", 1.0), ("tilt_y", 0.0), ("defocus", 100.0)):
            values = np.array(seen.history[name])
            assert len(values) == 24 and values[19] != first
            assert seen.corrected[name] == pytest.approx(values[-1])
            # it goes on from the coarse value and not from the given one
            allowed = {"thickness_factor": 0.25, "tilt_y": 10.0, "defocus": 60.0}[name]
            assert abs(values[20] - values[19]) < min(
                allowed, abs(values[19] - first) + allowed / 3
            )

    def test_thickness_of_the_fine_stage_is_the_coarse_one(self, measure, coarse, monkeypatch):
        from hs_autoptycho.ptycho import stages

        seen = []
        original = stages.reconstruct

        def spy(*args, model, **options):
            seen.append(model.propagation.distances[0])
            result, state = original(*args, model=model, **options)
            if len(seen) == 1:
                result.corrected["thickness_factor"] = 1.25
            return result, state

        monkeypatch.setattr(stages, "reconstruct", spy)
        scan = measure(distance=60.0)
        result = fit(
            scan.experiment(), 4, coarse_iterations=2, n_slices=2, thickness=100.0,
            thickness_correction_start=3,
        )  # fmt: skip
        assert seen == [50.0, 62.5]
        assert result.corrected["thickness_factor"] == pytest.approx(1.25)

    def test_grid(self, scan, experiment, coarse):
        """In the pixels of the fine stage, which has another shape than the coarse one."""
        result = fit(
            experiment, 30, coarse_iterations=25, grid_correction_start=0,
            scan_rotation=scan.rotation + 3,
        )  # fmt: skip
        values = experiment.complete(
            {"scan_rotation": scan.rotation + 3, "grid_correction_start": 0}
        )
        found, notes = experiment.corrected(values, result)
        assert abs(found["scan_rotation"] - scan.rotation) < 1.5
        assert any(note.startswith("scan_rotation was corrected from 14 to") for note in notes)
        # the same as what the positions say
        placement = result.placement
        positions = placement.corners + placement.fractions[placement.classes]
        fast = (positions[8] - positions[0]) * np.array(scan.pixel)
        angle = np.degrees(np.arctan2(-fast[0], fast[1]))
        assert angle == pytest.approx(found["scan_rotation"], abs=0.3)

    def test_later(self):
        starts = Starts(positions=3, grid=0, tilt=10)
        later = _later(Settings(starts=starts, probe_start=7, patience=4, momentum=0.5), 5)
        assert later.starts == Starts(positions=0, grid=0, tilt=5)
        assert (later.probe_start, later.patience, later.momentum) == (2, 4, 0.5)
        assert _later(later, 5).probe_start == 0


def all_values(**given):
    return {**{name: p.default for name, p in PARAMETERS.items()}, **given}


class TestProbeStart:
    def test_default(self, experiment):
        assert default_probe_start(all_values()) == 0
        for name in ("position", "grid", "tilt", "intensity"):
            assert default_probe_start(all_values(**{f"{name}_correction_start": 4})) == 0
        for name in ("defocus", "thickness"):
            assert default_probe_start(all_values(**{f"{name}_correction_start": 4})) == 40
        assert experiment.complete({"defocus_correction_start": 0})["probe_start"] == 36

    def test_a_given_one_wins(self, experiment):
        given = {"defocus_correction_start": 4, "probe_start": 0}
        assert experiment.complete(given)["probe_start"] == 0


class TestCheckTogether:
    def test_slices_need_a_thickness(self, experiment):
        with pytest.raises(ParameterError, match="n_slices=3.*thickness"):
            experiment.complete({"n_slices": 3})
        experiment.complete({"n_slices": 3, "thickness": 30.0})

    @pytest.mark.parametrize(
        "given",
        [
            {"thickness_correction_start": 0},
            {"thickness_correction_start": 5},
            {"tilt_correction_start": 0},
            {"tilt_correction_start": 7},
            {"regularization_depth": 0.5},
        ],
        ids=str,
    )
    def test_what_is_for_several_slices(self, experiment, given):
        (name,) = given
        with pytest.raises(ParameterError, match=f"^{name}.*n_slices"):
            experiment.complete(given)
        experiment.complete({**given, "n_slices": 2, "thickness": 30.0})

    def test_early_stopping_needs_counts(self, experiment):
        floats = experiment.with_counts(experiment.counts / 3)
        with pytest.raises(ParameterError, match="early_stopping.*whole numbers"):
            floats.complete({"early_stopping": 3})
        experiment.complete({"early_stopping": 3})

    def test_a_thickness_alone_does_no_harm(self):
        check_together(all_values(thickness=30.0), counted=True)


def test_settings_have_every_parameter():
    given = {
        "algorithm": "gradient", "noise_model": "amplitude", "batch_size": 5,
        "batch_selection": "compact", "step_object": 0.7, "step_probe": 0.6, "probe_start": 3,
        "momentum": 0.4, "object_type": "phase", "n_variable_modes": 2, "early_stopping": 9,
        "regularization_depth": 1.0, "regularization_positivity": 0.2, "regularization_tv": 0.3,
        "regularization_bandwidth": 1.4, "regularization_probe_support": 0.5,
    }  # fmt: skip
    starts = {f"{name}_correction_start": i for i, name in enumerate(CORRECTIONS)}
    settings = make_settings(all_values(**given, **starts))
    for name, value in given.items():
        if hasattr(settings, name):
            assert getattr(settings, name) == value
    assert settings.patience == 9
    assert settings.regularization == Regularization(1.0, 0.2, 0.3, 1.4, 0.5)
    assert settings.starts == Starts(
        positions=0, grid=1, defocus=2, thickness=3, tilt=4, brightness=5
    )
