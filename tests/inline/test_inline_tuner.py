"""The tuner on a simulated microscope: pictures of parts, corrections, and what goes wrong."""

import logging
from types import SimpleNamespace

import hyperspy.api as hs
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho.data import phase_correlation
from hs_autoptycho.ptycho.loading import DataError
from hs_autoptycho.ptycho.parameters import ParameterError

pytestmark = pytest.mark.usefixtures("one_thread")
TARGET = {"defocus": 200.0, "scan_rotation": 0.0}
# one slice in the middle of the bilayer has so much less defocus than its first plane of atoms
MIDDLE = 4.65


@pytest.fixture(scope="module")
def session(microscope):
    """Three scans, with a note of what they really were."""
    instrument, truths = microscope(), []

    def acquire(settings):
        signal = instrument.acquire(settings)
        truths.append(signal.metadata.Simulation)
        return signal

    tuner = hs_autoptycho.PtychographyTuner(target=TARGET)
    return tuner, tuner.run(acquire, n_scans=3), truths


def test_settings_converge(session):
    tuner, _, truths = session
    assert truths[0].defocus == 300 and truths[0].scan_rotation == 5
    assert abs(truths[1].defocus - MIDDLE - 200) < 15 and abs(truths[1].scan_rotation) < 0.6
    assert len(truths) == len(tuner.recordings) >= 2
    for recording, truth in zip(tuner.recordings, truths, strict=True):
        actual = recording.actual
        assert abs(actual["defocus"].value + MIDDLE - truth.defocus) < 8
        assert abs(actual["scan_rotation"].value - truth.scan_rotation) < 0.5
        assert recording.score is not None
    # rightly signed, and smaller
    asked = [r.settings["defocus"] for r in tuner.recordings]
    assert asked[0] == 200 and 90 < asked[1] < 115
    proposal = tuner.propose()
    assert abs(proposal.corrections["defocus"]) < 15 < abs(asked[1] - asked[0])
    assert np.isfinite(proposal.gain) and 0 < proposal.uncertainties["defocus"] < 15


@pytest.mark.slow
def test_settings_of_a_design_with_steps_longer_than_the_lattice():
    """The planes of MoS2 are 2.7 Å apart; at a low dose the best step is longer."""
    best = {"dose": 1e3, "scan_step": 2.5, "defocus": 180.0, "convergence_angle": 21.4}
    settings = {"scan_shape": (18, 20)}
    microscope = hs_autoptycho.data.SimulatedMicroscope(settings=settings, random_state=0)
    tuner = hs_autoptycho.PtychographyTuner(
        target=SimpleNamespace(best_parameters=[best]), n_trials=0, picture_score=None
    )
    tuner.run(microscope.acquire, n_scans=2)
    first, second = (r.actual["defocus"].value + MIDDLE for r in tuner.recordings)
    assert first == pytest.approx(280, abs=6) and second == pytest.approx(180, abs=15)
    asked = tuner.recordings[1].settings
    assert {k: asked[k] for k in ("dose", "scan_step", "convergence_angle")} == {
        k: best[k] for k in ("dose", "scan_step", "convergence_angle")
    }


def test_it_stops_when_nothing_is_left_to_gain(session):
    tuner, _, truths = session
    assert len(truths) == 2  # of three
    assert "expected gain" in tuner.should_stop()
    assert hs_autoptycho.PtychographyTuner(target=TARGET).should_stop() is None


def test_the_result_is_a_native_signal(session, tmp_path):
    tuner, picture, _ = session
    assert isinstance(picture, hs_autoptycho.PtychographicObject)
    assert picture.status == "completed" and len(picture.trials) == 6
    assert set(picture.best_parameters) == {"scan_rotation", "defocus"}
    low, high = picture.parameter_intervals["defocus"]
    assert low < tuner.recordings[-1].actual["defocus"].value < high
    picture.plot_tuning()
    picture.save(tmp_path / "picture.hspy")
    again = hs.load(tmp_path / "picture.hspy")
    assert type(again) is hs_autoptycho.PtychographicObject
    assert again.best_parameters == picture.best_parameters


def test_rows_give_a_picture_before_the_scan_is_over(scan, known):
    tuner = hs_autoptycho.PtychographyTuner(**known, picture_score=None, n_trials=0)
    seen = []

    def shown(_, picture):
        rows = tuner.recordings[-1].n_rows
        seen.append((rows, phase_correlation(picture, scan.inav[:, :rows])))

    # blocks of patterns that are no whole rows
    frames = scan.data.reshape(-1, 44, 48)
    blocks = np.split(frames, range(50, len(frames), 50))
    picture = tuner.run(blocks, settings={"defocus": 200}, callback=shown)
    assert [rows for rows, _ in seen] == [13, 20]
    assert all(correlation > 0.8 for _, correlation in seen)
    assert picture is tuner.recordings[-1].picture
    assert not any("The picture is of the first" in note for note in picture.notes)


def test_partial_pictures_say_so(scan, known):
    tuner = hs_autoptycho.PtychographyTuner(**known)
    assert tuner.update(scan.data[:11]) is None
    with pytest.raises(DataError, match="11 of 20 rows so far: 12 are needed"):
        tuner.picture()
    picture = tuner.update(scan.data[11:14])
    assert "The picture is of the first 14 of 20 rows." in picture.notes
    assert picture.scan_shape == (14, 22)
    assert tuner.update(scan.data[14:16]) is None
    assert tuner.picture(n_iterations=2).scan_shape == (16, 22)
    # the scan is given up, and another begins
    assert tuner.update(scan.data[:3], new_scan=True) is None
    assert len(tuner.recordings) == 2 and tuner.recordings[0].ended


def test_scans_one_after_the_other(scan, known):
    tuner = hs_autoptycho.PtychographyTuner(
        **known, picture_score=None, n_trials=0, n_iterations=1, pictures=()
    )
    rows = np.concatenate([scan.data] * 2)
    tuner.run(iter([rows[:25], rows[25:]]), n_scans=2)
    assert [r.frames.complete for r in tuner.recordings] == [True, True]
    assert tuner.recordings[0].scan is None  # its patterns are let go
    tuner.update(scan)
    assert len(tuner.recordings) == 3 and tuner.recordings[-1].settings["defocus"] == 200


def test_a_growing_zspy_store(scan, tmp_path):
    part = scan.deepcopy()
    part.data[14:] = 0  # not written yet, and never will be
    part.save(tmp_path / "scan.zspy")
    tuner = hs_autoptycho.PtychographyTuner(picture_score=None, n_trials=0)
    picture = tuner.run(tmp_path / "scan.zspy", timeout=0.1, poll=0.05)
    assert picture.scan_shape == (14, 22)
    assert "The scan ended before it was complete." in tuner.recordings[0].notes
    assert tuner.recordings[0].n_rows == 14
    assert phase_correlation(picture, scan.inav[:, :14]) > 0.8


def test_bad_frames_are_named_and_the_rest_is_kept(scan, known):
    tuner = hs_autoptycho.PtychographyTuner(**known)
    bad = scan.data[12:14].astype(float)
    bad[1, 3, 5, 6] = np.nan
    with pytest.raises(DataError, match=r"Frame 289 \(scan position x=3, y=13\) holds nan"):
        tuner.run([scan.data[:12], bad])
    with pytest.raises(DataError, match="Frame 264 .* has the shape"):
        tuner.update(scan.data[12:13, :, :-2])
    assert tuner.recordings[0].frames.n_rows == 12
    tuner.update(scan.data[12:14])
    assert tuner.picture().scan_shape == (14, 22)


def test_ctrl_c_keeps_what_there_is(scan, known, caplog):
    def blocks(n):
        yield scan.data[:n]
        raise KeyboardInterrupt

    tuner = hs_autoptycho.PtychographyTuner(**known)
    with caplog.at_level(logging.WARNING):
        picture = tuner.run(blocks(14))
    assert picture.status == "interrupted" and picture.scan_shape == (14, 22)
    assert "kept in the tuner" in caplog.text
    assert tuner.recordings[0].frames.n_rows == 14
    tuner = hs_autoptycho.PtychographyTuner(**known)
    with pytest.raises(KeyboardInterrupt):
        tuner.run(blocks(5))
    assert tuner.recordings[0].frames.n_rows == 5


def test_ctrl_c_between_trials(scan, monkeypatch):
    import hs_autoptycho.inline.improving as improving

    run_trial, calls = improving.run_trial, []

    def interrupted(objective, trial, held):
        calls.append(trial.number)
        if trial.number == 2:
            trial.status = "interrupted"
            return None
        return run_trial(objective, trial, held)

    monkeypatch.setattr(improving, "run_trial", interrupted)
    tuner = hs_autoptycho.PtychographyTuner()
    picture = tuner.run(scan)
    assert calls == [0, 1, 2] and picture.status == "interrupted"
    assert len(tuner._session.recordings) == 1 and tuner.best.score is not None


def test_trials_count_once(scan):
    tuner = hs_autoptycho.PtychographyTuner(scan, n_trials=5, picture_score=None)
    measured = tuner.recordings[0].actual["scan_rotation"]
    tuner.improve()
    once = tuner.recordings[0].actual["scan_rotation"]
    tuner.improve(0)
    assert 0 < once.error < measured.error
    tuner.improve(1)
    assert tuner.recordings[0].actual["scan_rotation"] == once


def test_reproducible(scan):
    pictures = []
    for _ in range(2):
        tuner = hs_autoptycho.PtychographyTuner(random_state=3, n_trials=1, picture_score=None)
        pictures.append(tuner.run(scan))
    np.testing.assert_array_equal(pictures[0].data, pictures[1].data)


def test_own_engine_on_a_scan(scan):
    """The tuner asks about what was measured, and anything may score."""
    tuner = hs_autoptycho.PtychographyTuner(scan, ["defocus", "C12a"])
    measured = tuner.best
    assert measured.score is None and abs(measured.parameters["defocus"] + MIDDLE - 300) < 10
    first = tuner.ask()
    assert set(first) == {"defocus", "C12a"}
    assert first["defocus"] == pytest.approx(measured.parameters["defocus"], rel=1e-4)
    tuner.tell(first, 1.0)
    for _ in range(10):
        point = tuner.ask()
        tuner.tell(point, ((point["defocus"] - first["defocus"] - 20) / 100) ** 2)
    assert tuner.best.parameters["defocus"] - first["defocus"] == pytest.approx(20, abs=4)


def test_the_opposite_defocus_is_followed(microscope):
    """Overfocus, and a scan that is upside down: told by what was asked."""
    offsets = {"defocus": 40.0, "scan_rotation": 3.0}
    instrument = microscope(offsets=offsets, drift={})
    target = {"defocus": -250.0, "scan_rotation": 170.0}
    tuner = hs_autoptycho.PtychographyTuner(target=target, n_trials=0, picture_score=None)
    tuner.run(instrument.acquire, n_scans=2)
    first, second = (r.actual for r in tuner.recordings)
    assert abs(first["defocus"].value + MIDDLE + 210) < 10
    assert abs(first["scan_rotation"].value - 173) < 0.7
    assert abs(second["defocus"].value + 250) < 10
    assert abs(tuner.recordings[1].settings["scan_rotation"] - 167) < 0.7


def test_what_is_missing_is_said(scan):
    tuner = hs_autoptycho.PtychographyTuner()
    with pytest.raises(ParameterError, match="scan_shape"):
        tuner.update(scan.data[:2])
    with pytest.raises(DataError, match="no patterns yet"):
        tuner.picture()
    with pytest.raises(DataError, match="The source had no patterns"):
        hs_autoptycho.PtychographyTuner(scan_shape=(3, 4)).run([])
    with pytest.raises(DataError, match="The source had no patterns"):
        hs_autoptycho.PtychographyTuner(scan_shape=(3, 4)).run(lambda settings: iter([]))
    tuner = hs_autoptycho.PtychographyTuner(scan_shape=(20, 22))
    with pytest.raises(ValueError, match="beam_energy is missing"):
        tuner.update(scan.data)
