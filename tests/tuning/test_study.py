"""The study: what is written, what is read back, and what a kill leaves behind."""

import errno
import json
import logging
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho.tuning import study as study_module
from hs_autoptycho.tuning.study import Study, load_study
from hs_autoptycho.tuning.study_file import StudyError
from hs_autoptycho.tuning.trial import Fidelity, Trial

HEADER = {
    "fingerprint": "0123abcd",
    "objective": "held_out",
    "strategy": "multifidelity",
    "space": {"defocus": {"low": 100.0, "high": 300.0}},
    "held": {"scan_rotation": -120.4, "disk_center": (63.5, 64.0)},
    "random_state": 3,
    "versions": {"hs_autoptycho": "0.1", "numpy": "2.0"},
}
FULL = Fidelity(12)


def make_trial(number, objective=0.5, **options):
    options = {"parameters": {"defocus": 100 / 3 + number, "n_probe_modes": 2}, **options}
    return Trial(number, fidelity=options.pop("fidelity", FULL), objective=objective, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.jsonl"


@pytest.fixture
def three(path):
    """A file with three trials."""
    with Study.open(path, HEADER) as study:
        for number in (0, 2, 1):
            study.append(make_trial(number, 0.1 * number + 0.3))
    return path


@pytest.mark.parametrize("in_file", [True, False])
def test_round_trip(path, in_file):
    trial = make_trial(
        4,
        math.nextafter(0.1, 1),
        parameters={"defocus": 1e-300 / 3, "flip": "rows", "start": None, "n": 2, "on": True},
        fidelity=Fidelity(3, 0.273, 2),
        purpose="promotion",
        seed=2**32 - 1,
        metrics={"data_error": float(np.float32(0.1)), "frc": 5e-324},
        blocks=[0.1 + 0.2, 1 / 3],
        curve=[(1, 2 / 3), (2, 1e22)],
        status="completed",
        duration=12.345,
        message='Ångström, "quotes", \n two lines, \udc80 and \u2028',
        attempts=2,
    )
    with Study.open(path if in_file else None, HEADER) as study:
        study.append(trial)
        assert study.trials == [trial]
    if in_file:
        with Study.open(path, HEADER) as study:
            assert study.trials == [trial]
            assert type(study.trials[0].curve[0]) is tuple
    else:
        assert not path.exists()


def test_numbers_of_numpy_are_plain(path):
    parameters = {"defocus": np.float32(0.1), "n_slices": np.int64(3), "on": np.bool_(True)}
    with Study.open(path, HEADER) as study:
        study.append(make_trial(0, np.float64(0.25), parameters=parameters))
        read = study.trials[0]
    assert read.parameters == {"defocus": float(np.float32(0.1)), "n_slices": 3, "on": True}
    assert [type(v) for v in read.parameters.values()] == [float, int, bool]
    assert type(read.objective) is float


def test_what_is_not_finite_is_null(path):
    trial = make_trial(
        0,
        None,
        status="diverged",
        metrics={"data_error": math.inf},
        blocks=[1.0, -math.inf],
        curve=[(1, 0.5), (2, math.nan)],
    )
    with Study.open(path, HEADER) as study:
        study.append(trial)
        remembered = study.trials[0]
    line = json.loads(path.read_text().splitlines()[1], parse_constant=pytest.fail)
    assert line["metrics"]["data_error"] is line["blocks"][1] is line["curve"][1][1] is None
    with Study.open(path, HEADER) as study:
        read = study.trials[0]
    for either in (remembered, read):
        assert math.isnan(either.metrics["data_error"])
        assert np.array_equal(either.blocks, [1.0, math.nan], equal_nan=True)
        assert np.array_equal(either.curve, [(1, 0.5), (2, math.nan)], equal_nan=True)
        assert either.objective is None


def test_order_is_that_of_the_file(three):
    with Study.open(three, HEADER) as study:
        assert [t.number for t in study.trials] == [0, 2, 1]
        study.append(make_trial(3))
    assert [t["number"] for t in load_study(three).trials] == [0, 2, 1, 3]


@pytest.mark.parametrize("in_file", [True, False])
def test_no_trial_twice(path, in_file):
    with Study.open(path if in_file else None, HEADER) as study:
        study.append(make_trial(7))
        with pytest.raises(StudyError, match="Trial 7 is in the study .* already"):
            study.append(make_trial(7, 0.1))
        assert [t.objective for t in study.trials] == [0.5]
    if in_file:
        assert len(path.read_text().splitlines()) == 2


def test_on_the_disk_when_append_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(study_module.os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with Study.open(path, HEADER) as study:
        for number in range(3):
            study.append(make_trial(number))
            assert synced[-1] == path.stat().st_size
            assert len(load_study(path).trials) == number + 1  # and others can read it


def test_read_without_the_package(three):
    program = (
        "import json, sys\n"
        "header, *trials = [json.loads(line) for line in open(sys.argv[1], encoding='utf-8')]\n"
        "assert not any('hs_autoptycho' in name for name in sys.modules)\n"
        "print(header['format'], header['version'], header['objective'], header['held'])\n"
        "print([t['number'] for t in trials], trials[0]['parameters']['defocus'])\n"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(three)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert out[0].startswith("hs_autoptycho study 1 held_out {'scan_rotation': -120.4")
    assert out[1] == f"[0, 2, 1] {100 / 3!r}"


# what a kill leaves behind


def test_torn_anywhere(three, caplog):
    """Whatever a kill has cut off, what is whole is there, and the file is whole again."""
    content = three.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    some = sorted(
        {*range(0, len(content), 61), *ends, *(e - 1 for e in ends), *(e - 2 for e in ends)}
    )
    for size in some:
        three.write_bytes(content[:size])
        caplog.clear()
        whole = sum(end - 1 <= size for end in ends)  # without its end a line is whole, too
        with Study.open(three, HEADER) as study:
            assert [t.number for t in study.trials] == [0, 2, 1][: max(0, whole - 1)]
            torn = size > 0 and size not in ends and size + 1 not in ends
            assert ("cut off by a kill" in caplog.text) == torn
            study.append(make_trial(9))
        lines = [json.loads(line) for line in three.read_bytes().splitlines()]
        assert lines[0]["fingerprint"] == "0123abcd"
        assert [line["number"] for line in lines[1:]] == [0, 2, 1][: max(0, whole - 1)] + [9]


def test_zeros_after_a_power_cut(three, caplog):
    content = three.read_bytes()
    three.write_bytes(content + bytes(50))
    with Study.open(three, HEADER) as study:
        assert len(study.trials) == 3
    assert "The last 50 bytes" in caplog.text
    assert three.read_bytes() == content


def test_torn_file_is_read_and_left_alone(three):
    content = three.read_bytes()[:-20]
    three.write_bytes(content)
    assert [t["number"] for t in load_study(three).trials] == [0, 2]
    assert three.read_bytes() == content


def test_damaged_line(three):
    lines = three.read_bytes().splitlines(keepends=True)
    for damage in (b'{"number": 0, "par\n', b"[1, 2]\n", b"\xff\xfe\n", b'{"number": 0}\n'):
        content = b"".join([*lines[:2], damage, *lines[3:]])
        three.write_bytes(content)
        for reader in (load_study, lambda path: Study.open(path, HEADER)):
            with pytest.raises(StudyError, match=r"Line 3 of .*study\.jsonl is damaged"):
                reader(three)
        assert three.read_bytes() == content
    three.write_bytes(b"".join([*lines[:2], b"\n", *lines[3:]]))  # taken out, as the message says
    with Study.open(three, HEADER) as study:
        assert [t.number for t in study.trials] == [0, 1]


def test_doubled_line(three):
    lines = three.read_bytes().splitlines(keepends=True)
    three.write_bytes(b"".join([*lines, lines[2]]))
    with pytest.raises(StudyError, match="Line 5 of .* trial 2 a second time, after line 3"):
        load_study(three)


@pytest.mark.parametrize(
    "content", [b"precious", b"precious\n", b'{"format": "csv"}\n', b'{"format": "other', b"\n\n"]
)
def test_other_files_are_left_alone(path, content):
    path.write_bytes(content)
    for reader in (load_study, lambda path: Study.open(path, HEADER)):
        with pytest.raises(StudyError, match="is not a study"):
            reader(path)
    assert path.read_bytes() == content


def test_newer_format(three):
    three.write_bytes(three.read_bytes().replace(b'"version": 1', b'"version": 2', 1))
    with pytest.raises(StudyError, match="version 2 of the format, .* reads version 1"):
        Study.open(three, HEADER)


# what binds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "9999"}, "fingerprint was '0123abcd' and is now '9999'"),
        ({"random_state": 4}, "random_state was 3 and is now 4"),
        (
            {"space": {"defocus": {"low": 100.0, "high": 300.0 + 1e-9}}},
            r"space\.defocus\.high was 300\.0 and is now 300\.000000001",
        ),
        (
            {"held": {"scan_rotation": -120.4}},
            r"held\.disk_center was \[63\.5, 64\.0\] and is now not given",
        ),
        ({"engine": None}, "engine was not given and is now None"),
    ],
)
def test_another_search(three, change, message):
    content = three.read_bytes()[:-9]  # torn, too
    three.write_bytes(content)
    with pytest.raises(StudyError, match=f"{message}. Give another file name"):
        Study.open(three, {**HEADER, **change})
    assert three.read_bytes() == content


def test_same_search(three, caplog):
    header = {**HEADER, "n_trials": 99, "held": {**HEADER["held"], "disk_center": [63.5, 64]}}
    with Study.open(three, header) as study:
        assert study.header["created"] == load_study(three).header["created"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    versions = {"hs_autoptycho": "0.1", "numpy": "2.5"}
    Study.open(three, {**header, "versions": versions}).close()
    assert "scores may differ: numpy was '2.0' and is now '2.5'" in caplog.text


# others, and the disk


def test_two_writers_in_one_process(three):
    with Study.open(three, HEADER) as study:
        with pytest.raises(StudyError, match="is being written by another search"):
            Study.open(three, HEADER)
        study.append(make_trial(5))  # nothing has happened to the first
    Study.open(three, HEADER).close()


def test_lock_ends_with_its_process(path):
    program = (
        "import sys, time\n"
        "from hs_autoptycho.tuning.study import Study\n"
        "from hs_autoptycho.tuning.trial import Fidelity, Trial\n"
        "study = Study.open(sys.argv[1], {'fingerprint': 'a'})\n"
        "study.append(Trial(0, {'x': 0.1}, Fidelity(1), objective=0.3))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(StudyError, match="is being written by another search"):
                Study.open(path, {"fingerprint": "a"})
            assert len(load_study(path).trials) == 1
        finally:
            process.kill()
    with Study.open(path, {"fingerprint": "a"}) as study:
        assert [t.objective for t in study.trials] == [0.3]


def test_somebody_else_writes(three):
    with Study.open(three, HEADER) as study:
        with three.open("ab") as file:
            file.write(b"hello\n")
        with pytest.raises(StudyError, match="was changed while this search had it open"):
            study.append(make_trial(5))


def test_full_disk(three, monkeypatch):
    class Full:
        """A file that takes ten bytes and no more."""

        def __init__(self, file):
            self._file, self._left = file, 10

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, content):
            if not self._left:
                raise OSError(errno.ENOSPC, "No space left on device")
            n = self._file.write(content[: self._left])
            self._left -= n
            return n

    content = three.read_bytes()
    with Study.open(three, HEADER) as study:
        file, study._file = study._file, Full(study._file)
        with pytest.raises(StudyError, match="cannot be written: No space left on device"):
            study.append(make_trial(5))
        assert three.read_bytes() == content
        assert len(study.trials) == 3
        study._file = file
        study.append(make_trial(5))
    assert len(load_study(three).trials) == 4


def test_closed(three):
    study = Study.open(three, HEADER)
    study.close()
    with pytest.raises(StudyError, match="is closed"):
        study.append(make_trial(5))


def test_no_folder(tmp_path):
    with pytest.raises(StudyError, match="folder of the study, .*none, does not exist"):
        Study.open(tmp_path / "none" / "study.jsonl", HEADER)
    with pytest.raises(StudyError, match="cannot be opened"):
        Study.open(tmp_path, HEADER)


# inspection


def test_load_study(path):
    assert hs_autoptycho.load_study is load_study
    with Study.open(path, HEADER) as study:
        assert repr(load_study(path)) == "<StoredStudy: no trials>"
        assert load_study(path).best is None
        study.append(make_trial(0, 0.2, fidelity=Fidelity(3, 0.25)))  # short: not to be compared
        study.append(make_trial(1, 0.4))
        study.append(make_trial(2, 0.3))
        study.append(make_trial(3, None, status="failed", message="why"))
        study.append(make_trial(4, 0.1, status="pruned"))
    stored = load_study(str(path))
    assert stored.header["objective"] == "held_out"
    assert stored.best is stored.trials[2]
    assert repr(stored) == (
        "<StoredStudy: 5 trials (3 completed, 1 failed, 1 pruned); best: trial 2, held_out 0.3 "
        "(defocus=35.3333, n_probe_modes=2)>"
    )


def test_best_of_a_single_trial(path):
    with Study.open(path, HEADER) as study:
        study.append(make_trial(0))
    stored = load_study(path)
    assert stored.best is stored.trials[0]


def test_to_dataframe(three):
    pytest.importorskip("pandas")
    frame = load_study(three).to_dataframe()
    assert list(frame["number"]) == [0, 2, 1]
    assert list(frame["parameters.defocus"]) == [100 / 3 + n for n in (0, 2, 1)]
    assert list(frame["fidelity.n_iterations"]) == [12, 12, 12]


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        load_study(path)
    path.touch()
    with pytest.raises(StudyError, match="is empty"):
        load_study(path)
