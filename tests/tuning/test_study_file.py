"""Lines of a study's file: what is a trial and what is none, to the last number."""

import json
import math
import os
import stat

import numpy as np
import pytest

from hs_autoptycho.tuning import study_file
from hs_autoptycho.tuning.study_file import (
    StudyError,
    check_path,
    is_ordinary,
    lock,
    make_line,
    open_file,
    read,
    read_trial,
)
from hs_autoptycho.tuning.trial import Fidelity, Trial

HEADER = {"format": "hs_autoptycho study", "version": 1}
GOOD = Trial(
    0, {"defocus": 1.5, "aperture": "disk", "n_slices": 2, "thickness": None}, Fidelity(1),
    objective=2.0, metrics={"frc": 1}, blocks=[1.0, 2], curve=[(1, 0.5)],
).to_dict()  # fmt: skip


def contents(*lines, end=b"\n"):
    return b"\n".join(json.dumps(line).encode() if line else b"" for line in lines) + end


def test_a_header_alone_and_nothing(tmp_path):
    found = read(contents(HEADER), tmp_path)
    assert (found.header, found.values, found.trials, found.torn) == (HEADER, [], [], False)
    assert found.size == len(contents(HEADER))
    nothing = read(b"", tmp_path)
    assert (nothing.header, nothing.size, nothing.torn) == (None, 0, False)
    beginning = read(b'{"format": "hs_au', tmp_path)
    assert (beginning.header, beginning.size, beginning.torn) == (None, 0, True)
    for other in (b"{", b'{"form'):
        assert read(other, tmp_path).torn
    for other in (b"x", b'{"formula": 3', b"\xff\xfe"):
        with pytest.raises(StudyError, match="is not a study"):
            read(other, tmp_path)


def test_an_end_that_was_cut_off(tmp_path):
    whole = contents(HEADER, GOOD, {**GOOD, "number": 4})
    # whole but for its end
    found = read(whole[:-1], tmp_path)
    assert [t.number for t in found.trials] == [0, 4]
    assert (found.size, found.torn) == (len(whole) - 1, False)
    # cut off within the last trial
    found = read(whole[:-2], tmp_path)
    assert [t.number for t in found.trials] == [0]
    assert (found.size, found.torn) == (len(contents(HEADER, GOOD)), True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "is not a study"),
        ({"version": 2}, r"has version 2 of the format, and this release .* reads version 1\."),
        ({"n_trials": 0}, "first line .* is damaged"),
        ({"n_trials": 2.0}, "first line .* is damaged"),
        ({"n_trials": True}, "first line .* is damaged"),
        ({"versions": []}, "first line .* is damaged"),
    ],
)
def test_other_headers(tmp_path, change, message):
    with pytest.raises(StudyError, match=message):
        read(contents({**HEADER, **change}), tmp_path)
    with pytest.raises(StudyError, match="is not a study"):
        read(contents([1, 2]), tmp_path)


def test_a_header_with_few_trials(tmp_path):
    header = {**HEADER, "n_trials": 1, "versions": {"numpy": "2"}}
    assert read(contents(header), tmp_path).header == header


@pytest.mark.parametrize(
    "line", [b"[1]", b"nothing", b"\xff", b"3", b"[" * 100_000, b'{"number": 3}'], ids=range(6)
)
def test_a_damaged_line_is_named(tmp_path, line):
    content = contents(HEADER, None, GOOD) + line + b"\n" + contents({**GOOD, "number": 2})
    with pytest.raises(StudyError, match="Line 4 of .* is damaged"):
        read(content, tmp_path)


def test_a_number_twice(tmp_path):
    content = contents(HEADER, {**GOOD, "number": 3}, None, GOOD, {**GOOD, "number": 3})
    with pytest.raises(StudyError, match="Line 5 of .* has trial 3 a second time, after line 2"):
        read(content, tmp_path)


def test_what_a_trial_may_do_without(tmp_path):
    few = {"number": 0, "parameters": {}, "fidelity": {"n_iterations": 1}}
    (trial,) = read(contents(HEADER, few), tmp_path).trials
    assert trial == Trial(0, {}, Fidelity(1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", -1), ("number", 1.0), ("number", True), ("number", 2**63), ("number", None),
        ("parameters", {"defocus": [1]}), ("parameters", {"defocus": math.inf}), ("parameters", 3),
        ("fidelity", {"n_iterations": 0}), ("fidelity", {"n_iterations": 2, "part": 0.0}),
        ("fidelity", {"n_iterations": 2, "part": 1.01}), ("fidelity", {"n_iterations": 2.5}),
        ("fidelity", {"n_iterations": 2, "part": -0.5}),
        ("fidelity", {"n_iterations": 2, "part": "1"}),
        ("fidelity", {"n_iterations": 2, "reduction": 0}), ("fidelity", {"part": 0.5}),
        ("fidelity", {"n_iterations": 2, "part": math.nan}), ("fidelity", 3),
        ("fidelity", {"n_iterations": 2, "split": -1}),
        ("fidelity", {"n_iterations": 2, "split": 0.5}),
        ("purpose", 3), ("seed", -1), ("seed", 1.5), ("objective", "3"), ("objective", math.inf),
        ("metrics", {"frc": "1"}), ("metrics", {"frc": True}), ("metrics", [1]),
        ("blocks", ["1"]), ("blocks", 3), ("status", "fine"), ("status", ["failed"]),
        ("duration", None), ("duration", math.inf), ("message", None),
        ("attempts", -1), ("attempts", 1.5), ("curve", [[1]]), ("curve", [["one", 2]]),
        ("curve", [[math.inf, 2]]), ("unknown", 1),
    ],
)  # fmt: skip
def test_no_trial(tmp_path, name, value):
    with pytest.raises(StudyError, match="Line 2 of .* is damaged: it is not a trial"):
        read(contents(HEADER, {**GOOD, name: value}), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 2**63 - 1), ("seed", 0), ("objective", None), ("attempts", 0), ("duration", 0),
        ("parameters", {"a": True, "b": "x", "c": None, "d": 2, "e": -1.5}),
        ("fidelity", {"n_iterations": 1, "part": 1, "reduction": 1}),
        ("fidelity", {"n_iterations": 3, "part": 0.001, "reduction": 2}),
        ("fidelity", {"n_iterations": 3, "part": 1.0, "reduction": 1, "split": 2}),
        ("status", "pruned"), ("status", "interrupted"), ("metrics", {}), ("blocks", []),
    ],
)  # fmt: skip
def test_a_trial(name, value):
    trial = read_trial({**GOOD, name: value})
    expected = Fidelity(**value) if name == "fidelity" else value
    assert getattr(trial, name) == expected


def test_what_was_not_finite_is_read_as_nan():
    values = {**GOOD, "metrics": {"a": None, "b": 2}, "blocks": [None, 1.0], "curve": [[3, None]]}
    trial = read_trial(values)
    assert math.isnan(trial.metrics["a"]) and trial.metrics["b"] == 2
    assert math.isnan(trial.blocks[0]) and trial.blocks[1] == 1
    assert trial.curve[0][0] == 3 and math.isnan(trial.curve[0][1])


def test_a_line():
    values = {
        "unit": "Å", "half": "\ud800", "array": np.arange(3), "number": np.float32(0.5),
        "infinite": [math.inf, np.nan], "deep": {1: (True, None)},
    }  # fmt: skip
    line = make_line(values)
    assert line.startswith('{"unit": "Å", "half": "\\ud800", "array": [0, 1, 2]'.encode())
    assert line.endswith(b'"number": 0.5, "infinite": [null, null], "deep": {"1": [true, null]}}\n')


def test_paths(tmp_path):
    assert check_path(str(tmp_path / "a.study")) == tmp_path / "a.study"
    assert not is_ordinary(tmp_path / "a.study")
    (tmp_path / "b.study").write_bytes(contents(HEADER))
    assert is_ordinary(tmp_path / "b.study") and check_path(tmp_path / "b.study")
    (tmp_path / "c.study").write_bytes(b"no study")
    with pytest.raises(StudyError, match="is not a study"):
        check_path(tmp_path / "c.study")
    assert not is_ordinary(tmp_path / "b.study" / "under a file")
    with pytest.raises(StudyError, match="does not exist"):
        check_path(tmp_path / "nowhere" / "a.study")
    for other in ("x" * 5000, "with\0zero"):
        with pytest.raises(StudyError, match="cannot be opened"):
            check_path(tmp_path / other)
    with pytest.raises(StudyError, match="no ordinary file"):
        check_path(tmp_path)
    with pytest.raises(TypeError, match="the name of a file is needed"):
        check_path(3)


def test_read_only(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda place, mode: asked.append((place, mode)))
    with pytest.raises(StudyError, match="is read-only"):
        check_path(tmp_path / "a.study")
    assert asked == [(tmp_path, os.W_OK)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_new_file_can_be_read_and_written(tmp_path):
    before = os.umask(0)
    try:
        with open_file(tmp_path / "a.study") as file:
            file.write(b"some")
            file.seek(0)
            assert file.read() == b"some"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.study").stat().st_mode) == 0o666
    with open_file(tmp_path / "a.study") as file:
        assert file.read() == b"some"
    with pytest.raises(StudyError, match="cannot be opened: No such file"):
        open_file(tmp_path / "nowhere" / "a.study")


def test_locks(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.study"
    with open_file(path) as first, open_file(path) as second:
        lock(first, path)
        with pytest.raises(StudyError, match="being written by another search"):
            lock(second, path)

    def no_locks(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(study_file, "_take", no_locks)
    lock(None, path)
    assert "has no locks (Operation not supported)" in caplog.text
