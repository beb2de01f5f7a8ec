"""The front door: from a potential to a design, saved and loaded."""

import logging

import hyperspy.api as hs
import matplotlib.figure
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho import ExperimentDesign, design_experiment
from hs_autoptycho.design.instrument import DesignError
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.tuning.study import load_study
from hs_autoptycho.tuning.study_file import StudyError

RANGES = {"scan_step": (0.7, 2.0), "defocus": (20.0, 120.0), "convergence_angle": (18.0, 32.0)}
REFERENCE = {"scan_step": 0.8, "defocus": 110.0, "convergence_angle": 20.0}
OPTIONS = {
    "field_of_view": (8.5, 9.5),
    "detector_shape": (32, 36),
    "reciprocal_pixel": 1 / 8,
    "n_trials": 7,
    "n_repeats": 1,
    "n_iterations": 3,
}


@pytest.fixture(scope="module")
def design(phase):
    return make(phase)


def make(phase, dose=(300.0, 1e4), **options):
    return design_experiment(
        signal_of(phase), dose, RANGES, **{**OPTIONS, "reference": REFERENCE, **options}
    )


def signal_of(phase, quantity="Phase (rad)"):
    axes = [
        {"name": n, "units": "Å", "scale": 0.2, "offset": o, "size": s, "navigate": False}
        for n, o, s in zip("yx", (-3.0, 5.0), phase.shape, strict=True)
    ]
    signal = hs.signals.Signal2D(phase, axes=axes)
    signal.metadata.set_item("Signal.quantity", quantity)
    return signal


def no_computing(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something was computed")

    monkeypatch.setattr("hs_autoptycho.design.simulation.Simulation.experiment", refuse)


def test_what_comes_out(design):
    assert isinstance(design, ExperimentDesign)
    assert design.doses == [300.0, 1e4] and design.status == "completed"
    assert [t["number"] for t in design.trials] == list(range(14))
    for trial in design.trials:
        metrics = trial["metrics"]
        assert trial["status"] == "completed"
        assert trial["objective"] == pytest.approx(1 - metrics["correlation"])
        p = trial["parameters"]
        assert metrics["electrons"] == pytest.approx(p["dose"] * p["scan_step"] ** 2)
    assert [b["dose"] for b in design.best_parameters] == design.doses
    assert design.reference_parameters == REFERENCE
    # more dose, a better picture
    assert design.best_scores[1]["mean"] > design.best_scores[0]["mean"] > 0
    assert design.reference_scores[0]["n"] == 1 and np.isnan(design.reference_scores[0]["std"])
    assert design.axes_manager.navigation_axes[0].axis.tolist() == design.doses
    x, y = design.axes_manager.signal_axes
    assert (x.name, x.units, y.name, y.units) == ("defocus", "Å", "scan_step", "Å")
    assert (x.axis[0], x.axis[-1]) == pytest.approx((20, 120))


def test_reconstructions_are_in_register_with_the_truth(design):
    stack, truth = design.reconstructions, design.truth
    assert stack.data.shape == (2, 2, *truth.data.shape)  # which, dose
    assert [a.name for a in stack.axes_manager.navigation_axes] == ["dose", "which"]
    for i, scores in enumerate(design.best_scores):
        image = stack.data[0, i]
        assert np.corrcoef(image.ravel(), truth.data.ravel())[0, 1] == pytest.approx(
            scores["correlation"], abs=0.02
        )
    # in the frame of the potential
    phase_there = truth.axes_manager.signal_axes[0]
    assert phase_there.offset > 5.0 and phase_there.units == "Å"


def test_truth_is_the_potential(design, phase):
    truth = design.truth
    x, y = (axis.axis for axis in truth.axes_manager.signal_axes)
    rows = np.rint((y + 3) / 0.2).astype(int)
    columns = np.rint((x - 5) / 0.2).astype(int)
    assert np.corrcoef(truth.data.ravel(), phase[np.ix_(rows, columns)].ravel())[0, 1] > 0.95


def test_response(design):
    mean, std = design.response(1e4, "defocus", "scan_step")
    np.testing.assert_array_equal(mean.data, design.data[1])
    np.testing.assert_array_equal(std.data, design.uncertainty.data[1])
    row, _ = design.response(300.0, "convergence_angle", n_points=9)
    assert row.data.shape == (1, 9)
    np.testing.assert_allclose(row.axes_manager.signal_axes[0].axis, np.linspace(18, 32, 9))
    with pytest.raises(ValueError, match="300, 10000"):
        design.response(1e3, "defocus")
    with pytest.raises(ValueError, match="'energy' was not searched"):
        design.response(1e4, "energy")
    with pytest.raises(ValueError, match="both"):
        design.response(1e4, "defocus", "defocus")
    with pytest.raises(ValueError, match="n_points=1"):
        design.response(1e4, "defocus", n_points=1)


@pytest.mark.slow
def test_the_surface_is_empty_where_nothing_is_possible(phase):
    ranges = {**RANGES, "defocus": (20.0, 400.0)}
    found = design_experiment(signal_of(phase), 1e4, ranges, **OPTIONS)
    empty = np.isnan(found.data[0])
    assert empty.any() and not empty.all()
    # too wide a probe, whatever the step
    assert empty[:, -1].all() and not empty[0, 5]


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
@pytest.mark.parametrize("lazy", [False, True])
def test_one_file(design, tmp_path, extension, lazy):
    path = tmp_path / f"design.{extension}"
    design.save(path)
    loaded = hs.load(path, lazy=lazy)
    if lazy:
        assert type(loaded).__name__ == "LazyExperimentDesign"
        loaded.compute(close_file=True, show_progressbar=False)
    assert type(loaded) is ExperimentDesign
    np.testing.assert_array_equal(loaded.data, design.data)
    names = "doses best_parameters reference_parameters trials best_scores instrument notes"
    for name in (names + " status seed versions settings score").split():
        np.testing.assert_equal(getattr(loaded, name), getattr(design, name))
    for name in ("uncertainty", "reconstructions", "truth"):
        np.testing.assert_array_equal(getattr(loaded, name).data, getattr(design, name).data)
    np.testing.assert_array_equal(
        loaded.response(1e4, "scan_step")[0].data, design.response(1e4, "scan_step")[0].data
    )


def test_pairs_on_the_pixels_of_the_images(design):
    # drawn where they are: the object's pixels are 0.25 × 0.222 Å
    drawn = design.deepcopy()
    x, y = (axis.axis for axis in design.truth.axes_manager.signal_axes)
    middles = [(y[5], x[8]), (y[5], x[-9]), (y[-6], x[8]), (y[-6], x[-9])]
    pairs = np.array([[(q, p - 0.7), (q, p + 0.7)] for q, p in middles])
    image = sum(
        np.exp(-((y[:, None] - q) ** 2 + (x - p) ** 2) / (2 * 0.3**2))
        for q, p in pairs.reshape(-1, 2)
    )
    images = np.broadcast_to(image, (2, 2, *image.shape)).astype(np.float32).copy()
    images[0, 1, 3, 4] = np.nan  # the reference at the lowest dose was not made
    drawn.metadata.Design.images = images
    low, high = drawn.resolved_pairs(pairs)
    assert list(low) == ["best"] and list(high) == ["best", "reference"]
    assert high["reference"].n_pairs == 4 and high["reference"].fraction == 1.0


def test_figure(design):
    figure = design.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    labels = [ax.get_xlabel() for sub in figure.subfigs for ax in sub.axes]
    assert "scan step (Å)" in labels and "convergence angle (mrad)" in labels
    titles = [ax.get_title(loc="left") for sub in figure.subfigs for ax in sub.axes]
    assert "truth" in titles
    assert any(t.startswith("reference ") for t in titles)
    assert design.plot(navigator=None) is None  # HyperSpy's own


def test_the_same_seed_gives_the_same_design(design, phase):
    again = make(phase)
    assert [t["objective"] for t in again.trials] == [t["objective"] for t in design.trials]
    np.testing.assert_array_equal(again.data, design.data)
    np.testing.assert_array_equal(again.reconstructions.data, design.reconstructions.data)
    other = make(phase, dose=1e4, random_state=1, n_trials=3)
    assert other.trials[0]["objective"] != design.trials[0]["objective"]


def test_a_study_goes_on(phase, tmp_path, design):
    path, seen = tmp_path / "study.jsonl", []
    stopped = make(phase, study=path, callback=lambda t: len(seen) == 9 or seen.append(t))
    assert stopped.status == "interrupted" and len(stopped.trials) == 10
    assert any("10 of 14 trials" in note for note in stopped.notes)
    assert len(load_study(path).trials) == 10
    after = []
    whole = make(phase, study=path, callback=after.append)
    assert len(after) == 4 and whole.status == "completed"
    assert [t["objective"] for t in whole.trials] == [t["objective"] for t in design.trials]
    with pytest.raises(StudyError, match="position_jitter was 0.0 and is now 0.1"):
        make(phase, study=path, position_jitter=0.1)


def test_ctrl_c_keeps_what_there_is(phase, monkeypatch):
    from hs_autoptycho.design.simulation import Simulation

    simulate, calls = Simulation.experiment, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return simulate(self, *arguments)

    monkeypatch.setattr(Simulation, "experiment", interrupted)
    found = make(phase)
    assert found.status == "interrupted" and len(found.trials) == 3
    assert found.doses == [1e4]  # the highest comes first
    assert np.isfinite(found.reconstructions.data[0]).all()


def test_a_cluster_gives_the_same(phase):
    distributed = pytest.importorskip("distributed")
    options = {"dose": 1e4, "n_trials": 4, "reference": None, "strategy": "sobol"}
    alone = make(phase, **options)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = make(phase, client=client, **options)
    assert [t["objective"] for t in found.trials] == [t["objective"] for t in alone.trials]


@pytest.mark.slow
def test_one_setting_and_an_imperfect_microscope(phase):
    found = design_experiment(
        signal_of(phase),
        1e4,
        {"scan_step": (0.7, 2.0)},
        fixed={"defocus": 60.0, "convergence_angle": 25.0, "C30": 1e4},
        source_size=0.5,
        focal_spread=20.0,
        position_jitter=0.05,
        count_limit=200,
        score="ssim",
        strategy="sobol",
        **{**OPTIONS, "n_trials": 5},
    )
    assert found.data.shape == (1, 1, 41)
    assert found.score == "ssim"
    assert all(t["objective"] == 1 - t["metrics"]["ssim"] for t in found.trials)
    assert found.instrument["aberrations"] == {"C30": 1e4}
    assert found.reconstructions.data.shape[0] == 1
    assert isinstance(found.plot(), matplotlib.figure.Figure)


def test_more_passes_that_change_the_score_are_told(phase, monkeypatch):
    monkeypatch.setattr("hs_autoptycho.design.final._SETTLED", 0.0)
    found = make(phase, dose=1e5, n_iterations=1, n_trials=3)
    told = [note for note in found.notes if "twice the passes change the correlation" in note]
    assert len(told) == 2
    assert "of the best settings from 0." in told[0] and "n_iterations=1 is" in told[0]


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dose", "options", "message"),
    [
        (0.1, {"reference": None}, r"at 0\.1 e/Å².*smallest step that would do is 3\.16 Å"),
        ([1e4, 0.1], {"reference": None}, r"at 0\.1 e/Å²"),
        (1.2, {}, r"the reference is impossible: .* 0\.77 electrons a pattern"),
        (1e4, {"reference": {**REFERENCE, "defocus": 500.0}}, "reference is impossible: .* window"),
        (1e4, {"reciprocal_pixel": 1 / 2.5, "reference": None}, "more than 80% of its window"),
        (1e4, {"max_data_size": 1e3, "reference": None}, "more than max_data_size=1e"),
        (1e4, {"dwell_time": 1.0, "max_scan_time": 3.0, "reference": None}, "max_scan_time=3 s"),
        (1e4, {"field_of_view": 30.0}, r"potential is 20\.0 × 21\.4 Å .* need 38\.0 × 38\.0 Å"),
        (1e4, {"field_of_view": (4.0, 9.0)}, "a larger field_of_view"),
        ([], {}, "above 0"),
        (-3.0, {}, "above 0"),
        ([1e4, 1e4], {}, "twice"),
        (1e4, {"score": "ssmi"}, "correlation, ssim, frc"),
        (1e4, {"strategy": "grid"}, "bayesian, random, sobol"),
        (1e4, {"n_trials": 2}, "leaves none for the search"),
        (1e4, {"reference": {"defocus": 100.0}}, "scan_step, defocus, convergence_angle"),
        (1e4, {"reconstruction": {"defocus": 3.0}}, "of the microscope"),
        (1e4, {"fixed": {"defocus": 3.0}}, "both in"),
        (1e4, {"detector_shape": (32, 35)}, "two even numbers"),
        (1e4, {"position_jitter": -1.0}, "position_jitter"),
        (None, {}, "dose=None"),
        (1e4, {"detector_shape": 32}, "detector_shape=32: two even numbers"),
        (1e4, {"source_size": None}, "source_size=None"),
        (1e4, {"fixed": ["C30"]}, "fixed: a dictionary"),
        (1e4, {"reconstruction": "complex"}, "reconstruction: a dictionary"),
        (1e4, {"count_limit": 0.5}, "count_limit=0.5: a whole number"),
        (1e4, {"count_limit": 255.7}, "count_limit=255.7: a whole number"),
        (1e4, {"beam_energy": 0}, "beam_energy: 0 keV"),
    ],
)
def test_refused_before_any_computing(phase, monkeypatch, dose, options, message):
    no_computing(monkeypatch)
    with pytest.raises(DesignError, match=message):
        make(phase, dose, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"callback": 3}, TypeError, "callback=3"),
        ({"client": "tcp://localhost:8786"}, TypeError, r"distributed\.Client\(address\)"),
        ({"reconstruction": {"n_slices": 2}}, ParameterError, "needs the specimen's thickness"),
        ({"reconstruction": {"tilt_correction_start": 2}}, ParameterError, "several slices only"),
    ],
)
def test_refused_for_other_reasons(phase, monkeypatch, options, error, message):
    no_computing(monkeypatch)
    with pytest.raises(error, match=message):
        make(phase, **options)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"scan_stp": (1.0, 2.0)}, TypeError, "scan_stp"),
        ({"scan_step": (2.0, 1.0)}, ParameterError, "lower limit"),
        ({"scan_step": [1.0, 2.0]}, DesignError, "a range is needed"),
        ({"scan_step": (1.0, 2.0)}, DesignError, "defocus is neither searched nor held"),
        ({"scan_step": 1.0, "defocus": 50.0, "convergence_angle": 20.0}, DesignError, "nothing"),
        ("defocus", DesignError, "dictionary"),
    ],
)
def test_parameters_that_make_no_sense(phase, parameters, error, message):
    with pytest.raises(error, match=message):
        design_experiment(signal_of(phase), 1e4, parameters, **OPTIONS)


def test_defaults_are_told(phase, caplog):
    big = np.tile(phase, (2, 2))
    with caplog.at_level(logging.INFO, "hs_autoptycho"):
        found = design_experiment(
            signal_of(big),
            1e4,
            RANGES,
            detector_shape=(32, 36),
            n_trials=3,
            n_iterations=1,
            n_repeats=1,
        )
    # the widest probe in the ranges is 8 Å wide; but no pixel is coarser than 0.25 Å
    assert found.instrument["reciprocal_pixel"] == pytest.approx(1 / 8)
    assert found.instrument["field_of_view"] == pytest.approx([201 * 0.2 - 8, 215 * 0.2 - 8])
    assert "a window of 8.0 Å" in caplog.text and "field_of_view was chosen" in caplog.text


def test_it_is_public():
    assert hs_autoptycho.design_experiment is design_experiment
