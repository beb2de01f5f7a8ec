"""How a design ends, and its notes; with a cheap stand-in for the trials of the search."""

import numpy as np
import pytest

from hs_autoptycho import design_experiment
from hs_autoptycho.design.final import delivered
from hs_autoptycho.design.instrument import Instrument
from hs_autoptycho.design.trial import Outcome, SimulatedExperiment
from hs_autoptycho.ptycho import solver
from hs_autoptycho.tuning.scores import Score
from hs_autoptycho.tuning.study_file import StudyError

RANGES = {"scan_step": (0.7, 2.0), "defocus": (20.0, 120.0), "convergence_angle": (18.0, 32.0)}
REFERENCE = {"scan_step": 0.8, "defocus": 110.0, "convergence_angle": 20.0}
OPTIONS = {
    "field_of_view": (8.5, 9.5),
    "detector_shape": (32, 36),
    "reciprocal_pixel": 1 / 8,
    "n_trials": 4,
    "n_repeats": 1,
    "n_iterations": 2,
    "strategy": "sobol",
}
DOSES = (300.0, 1e4)


class _Done:
    status = "completed"


@pytest.fixture
def stand_in(monkeypatch):
    """Trials and pictures without any computing."""

    def call(self, parameters, *, fidelity, random_state, limits=()):
        value = abs(parameters["scan_step"] - 1) / 2
        return Score(value, {"correlation": 1 - value}, None)

    def run(self, settings, dose, **options):
        return Outcome(_Done, np.ones(self.image_shape), {}, {}, {})

    monkeypatch.setattr(SimulatedExperiment, "__call__", call)
    real = SimulatedExperiment.run
    monkeypatch.setattr(SimulatedExperiment, "run", run)
    return real


def make(potential, dose=DOSES, **options):
    return design_experiment(
        potential, dose, RANGES, **{**OPTIONS, "reference": REFERENCE, **options}
    )


def test_a_study_of_another_specimen(potential, stand_in, tmp_path):
    path = tmp_path / "study.jsonl"
    make(potential, study=path)
    other = potential.deepcopy()
    other.axes_manager.signal_axes[0].offset = 6.0
    with pytest.raises(StudyError, match=r"specimen\.origin was \[-3\.0, 5\.0\]"):
        make(other, study=path)
    for axis in potential.axes_manager.signal_axes:
        axis.scale = 0.25
    with pytest.raises(StudyError, match=r"specimen\.pixel was 0\.2 and is now 0\.25"):
        make(potential, study=path)


def test_a_study_of_other_depths(potential, stand_in, tmp_path):
    from hyperspy.signals import Signal2D

    stack = Signal2D(np.stack([potential.data, potential.data]))
    for axis in stack.axes_manager.signal_axes:
        axis.units, axis.scale = "Å", 0.2
    options = {"quantity": "phase", "study": tmp_path / "study.jsonl"}
    make(stack, slice_thickness=3.0, **options)
    with pytest.raises(StudyError, match=r"specimen\.spacings was \[3\.0\] and is now \[5\.0\]"):
        make(stack, slice_thickness=5.0, **options)


def test_ctrl_c_in_a_final_reconstruction(potential, stand_in, monkeypatch):
    monkeypatch.setattr(SimulatedExperiment, "run", stand_in)
    one_pass, calls = solver._Run._pass, []

    def interrupted(self, iteration):
        calls.append(iteration)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return one_pass(self, iteration)

    monkeypatch.setattr(solver._Run, "_pass", interrupted)
    found = make(potential)
    assert found.status == "interrupted" and len(calls) == 2
    assert found.notes[-1] == "Interrupted: some reconstructions were not made."
    assert np.isnan(found.reconstructions.data).any(axis=(2, 3)).all()
    assert found.doses == list(DOSES)


def test_ctrl_c_before_the_first_trial(potential, stand_in, monkeypatch):
    def interrupted(self, parameters, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(SimulatedExperiment, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(potential)


def test_a_picture_that_fails(potential, stand_in, monkeypatch):
    run, calls = SimulatedExperiment.run, []

    def failing(self, settings, dose, **options):
        calls.append(dose)
        if len(calls) == 4:
            raise MemoryError("no room")
        return run(self, settings, dose, **options)

    monkeypatch.setattr(SimulatedExperiment, "run", failing)
    found = make(potential)
    finite = np.isfinite(found.reconstructions.data).all(axis=(2, 3))
    assert finite.tolist() == [[True, True], [False, True]]  # which, dose
    assert found.status == "completed"
    [note] = [n for n in found.notes if "no picture" in n]
    assert note.startswith("At 300 e/Å² the reference") and "MemoryError: no room" in note


def test_a_dose_of_which_all_trials_fail(potential, stand_in, monkeypatch):
    call = SimulatedExperiment.__call__

    def failing(self, parameters, **options):
        if parameters["dose"] == 300.0:
            raise RuntimeError("nothing to see")
        return call(self, parameters, **options)

    monkeypatch.setattr(SimulatedExperiment, "__call__", failing)
    found = make(potential)
    assert found.doses == [1e4]
    [note] = [n for n in found.notes if "left out" in n]
    assert note.startswith("At 300 e/Å² none of 3 trials gave a score")
    assert "RuntimeError: nothing to see" in note


def test_more_trials_after_a_study(potential, stand_in, tmp_path):
    path, seen = tmp_path / "study.jsonl", []
    make(potential, study=path, reference=None)
    options = {"study": path, "n_trials": 6, "reference": None}
    found = make(potential, callback=lambda t: len(seen) == 1 or seen.append(t), **options)
    assert found.status == "interrupted" and len(found.trials) == 10
    # a new best is to be repeated; two more at the other dose, and a repeat there
    assert "Ended after 10 of 14 trials." in found.notes


def test_limits_are_told(potential, stand_in):
    found = make(potential, dose=1.0, reference=None, max_data_size=12 * 13 * 32 * 36)
    [note] = [n for n in found.notes if "impossible" in n]
    assert note.startswith("At 1 e/Å² parts of the ranges are impossible: ")
    assert "% less than an electron a pattern" in note
    assert "% more data than max_data_size" in note


def test_phases_that_may_wrap_are_told(potential, stand_in):
    assert not any("2π" in note for note in make(potential, 1e4).notes)
    potential.data = potential.data * 5 / np.ptp(potential.data) * 1.3
    assert any("rad. Phases are known but for multiples of 2π" in n
               for n in make(potential, 1e4).notes)  # fmt: skip


def test_a_wide_probe_in_a_small_field_is_told(potential, stand_in):
    notes = [n for n in make(potential).notes if "of the dose" in n]
    assert sum(n.startswith("The reference settings give the compared area") for n in notes) == 1


def test_the_dose_that_is_delivered():
    instrument = Instrument(80.0, (128, 128), 1 / 32, (36.0, 30.0))

    def by_hand(settings, margin):
        # pixels of 0.2 Å: where the probe is, and what is compared
        generator = np.random.default_rng(0)
        radius = settings["defocus"] * settings["convergence_angle"] * 1e-3
        place = (generator.random((200_000, 2)) - 0.5) * (36 - 2 * margin, 30 - 2 * margin)
        length = radius * np.sqrt(generator.random(len(place)))
        angle = 2 * np.pi * generator.random(len(place))
        probe = place + length[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])
        n = np.array(instrument.scan_shape(settings["scan_step"]))
        return np.mean(np.all(np.abs(probe) <= n * settings["scan_step"] / 2, axis=1))

    wide = {"scan_step": 1.0, "defocus": 550.0, "convergence_angle": 21.4}
    narrow = {"scan_step": 1.0, "defocus": 0.0, "convergence_angle": 21.4}
    assert delivered(instrument, wide, 2.0) == pytest.approx(by_hand(wide, 2.0), abs=0.005)
    assert delivered(instrument, narrow, 2.0) == 1.0
    square = Instrument(80.0, (128, 128), 1 / 32, (36.0, 36.0))
    literature = {"scan_step": 0.85, "defocus": 550.0, "convergence_angle": 21.4}
    assert delivered(square, literature, 2.0) == pytest.approx(0.81, abs=0.02)
