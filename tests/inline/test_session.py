"""Which scan the patterns belong to, and runs that end early: without any reconstruction."""

import hyperspy.api as hs
import numpy as np
import pytest
import zarr

import hs_autoptycho
from hs_autoptycho.inline.offsets import Value
from hs_autoptycho.inline.session import Session
from hs_autoptycho.inline.sources import scans
from hs_autoptycho.ptycho.loading import DataError

ROWS = np.ones((7, 3, 4, 6), np.uint8)
FEW = {"n_trials": 0, "picture_score": None, "pictures": ()}


def session(**options):
    return Session({}, {}, {}, **options)


def test_rows_as_signals():
    of = session(scan_shape=(7, 3))
    of.take(hs.signals.Signal2D(ROWS[:2]), None)
    of.take(hs.signals.Signal2D(ROWS[:4]), None)
    assert [r.frames.n_rows for r in of.recordings] == [6]
    # a whole scan; the other one was not complete
    of.take(hs.signals.Signal2D(ROWS), None)
    assert [r.frames.n_rows for r in of.recordings] == [6, 7]
    assert "ended before" in of.recordings[0].notes[-1]


def test_the_shape_somebody_gave_stays():
    of = session(scan_shape=(5, 2))
    of.take(hs.signals.Signal2D(ROWS), None)
    of.take(ROWS[:2, :2], None)
    assert [r.frames.scan_shape for r in of.recordings] == [(7, 3), (5, 2)]
    of = session()
    of.take(ROWS, {"scan_shape": (7, 3)})
    of.take(ROWS[:2], None)
    assert [r.frames.n_rows for r in of.recordings] == [7, 2]


def test_the_shape_of_a_plain_store(tmp_path):
    zarr.save(str(tmp_path / "plain.zarr"), ROWS)
    of = session()
    for blocks, asked in scans(tmp_path / "plain.zarr", of, settings={}, next_settings=None,
                               timeout=1, poll=0.1):  # fmt: skip
        for block in blocks:
            of.take(block, asked)
    assert of.last.frames.complete


def test_nothing_in_a_block():
    tuner = hs_autoptycho.PtychographyTuner(scan_shape=(7, 3), **FEW)
    assert tuner.update([]) is None and tuner.update(ROWS[:0]) is None
    assert tuner.recordings == []
    with pytest.raises(DataError, match="returned None"):
        tuner.run(lambda settings: None)


def test_a_run_goes_on_with_an_incomplete_scan():
    def blocks(n):
        yield ROWS[:n]
        raise KeyboardInterrupt

    tuner = hs_autoptycho.PtychographyTuner(scan_shape=(7, 3), **FEW)
    for n in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            tuner.run(blocks(n))
    assert [r.frames.n_rows for r in tuner.recordings] == [5]


def begun(**options):
    """A tuner whose second scan has only begun."""
    tuner = hs_autoptycho.PtychographyTuner(
        target={"defocus": 200.0}, scan_shape=(7, 3), **FEW, **options
    )
    tuner._session.take(ROWS, {"defocus": 200.0})
    first = tuner.recordings[0]
    first.actual = first.observed = {"defocus": Value(300.0, 2.0)}
    first.score, first.scales, first.picture = 0.5, {"defocus": 90.0}, "the picture"
    tuner.update(ROWS[:1])
    return tuner


def test_a_proposal_while_a_scan_is_recorded():
    tuner = begun()
    assert tuner.propose().settings["defocus"] == pytest.approx(100)
    assert tuner.should_stop() is None
    assert tuner.best.parameters == {"defocus": 300.0}


def test_a_reason_to_stop_before_the_first_scan():
    tuner = begun(limits={"defocus": (200, 300)})
    assert "cannot come closer" in tuner.should_stop()
    tuner.recordings.pop()
    assert tuner.run(lambda settings: pytest.fail("was asked")) == "the picture"


def test_rows_of_which_nothing_can_be_told(monkeypatch):
    """The scan goes on; only at its end it is an error."""
    tuner = hs_autoptycho.PtychographyTuner(scan_shape=(14, 3), **{**FEW, "pictures": (0.9,)})

    def nothing():
        raise DataError("the patterns are empty")

    monkeypatch.setattr(tuner._session, "measure", nothing)
    rows = np.concatenate([ROWS, ROWS])
    assert tuner.update(rows[:13]) is None
    assert tuner.recordings[0].notes == ["No picture of the first rows: the patterns are empty"]
    with pytest.raises(DataError, match="are empty"):
        tuner.update(rows[13:])


def test_everything_is_held(monkeypatch):
    tuner = hs_autoptycho.PtychographyTuner(
        scan_shape=(7, 3), fixed={"scan_rotation": 5, "defocus": 295}, picture_score=None
    )
    tuner._session.take(ROWS, {})
    last = tuner.recordings[0]
    last.actual = {"scan_rotation": Value(5.0, 0.0), "defocus": Value(295.0, 0.0)}
    monkeypatch.setattr(tuner, "_measured", lambda: last)
    monkeypatch.setattr("hs_autoptycho.inline.tuner.trial_fidelity", lambda *_: None)
    assert tuner.improve().parameters == {"scan_rotation": 5.0, "defocus": 295.0}


def test_trials_are_of_all_the_rows(monkeypatch):
    """Rows that came after the last picture are measured first."""
    tuner = hs_autoptycho.PtychographyTuner(scan_shape=(7, 3), **FEW)
    tuner.update(ROWS[:5])
    tuner.recordings[0].scan, tuner.recordings[0].n_rows = "of fewer rows", 4
    monkeypatch.setattr(tuner, "_measure", lambda: (_ for _ in ()).throw(DataError("measured")))
    with pytest.raises(DataError, match="measured"):
        tuner.improve()


def test_the_best_is_what_pictures_are_made_with():
    tuner = hs_autoptycho.PtychographyTuner(
        parameters={"defocus": (100, 300)}, fixed={"scan_rotation": 5}, scan_shape=(7, 3), **FEW
    )
    tuner._session.take(ROWS, {})
    last = tuner.recordings[0]
    last.actual = {"defocus": Value(205.0, 2.0)}
    last.scan = "patterns"
    for value, score in ((150.0, 1.0), (250.0, 0.5)):
        tuner.tell({"defocus": value}, score)
    assert tuner.best == ({"defocus": 250.0}, 0.5)
    assert tuner._parameters(last)["defocus"] == tuner.best.parameters["defocus"]
