"""A study at its edges: Ctrl-C between two steps, the best of a part, how it is shown."""

import pytest

from hs_autoptycho.tuning.study import Study, StudyError, _differences, _short, load_study
from hs_autoptycho.tuning.trial import Fidelity, Trial

HEADER = {"fingerprint": "a"}
SHORT, FULL = Fidelity(3, 0.25), Fidelity(12)


def trial(number, objective=1.0, fidelity=FULL, status="completed"):
    return Trial(number, {"x": number / 7, "n": 2}, fidelity, objective=objective, status=status)


class Interrupted(list):
    """A list in which Ctrl-C comes before or after something was appended."""

    def __init__(self, first):
        self.first = first

    def append(self, value):
        if self.first:
            super().append(value)
        raise KeyboardInterrupt


@pytest.mark.parametrize("first", [False, True], ids=["before", "after"])
def test_ctrl_c_while_a_trial_is_remembered(tmp_path, first):
    """It is in the file and in the memory, or in neither."""
    path = tmp_path / "a.study"
    with Study.open(path, HEADER) as study:
        study.append(trial(0))
        before = path.read_bytes()
        study._trials = Interrupted(first)
        with pytest.raises(KeyboardInterrupt):
            study.append(trial(1))
        assert len(study.trials) == first
        assert (path.read_bytes() != before) is first
        study._trials = [trial(0)]
        study.append(trial(2))
    numbers = [t.number for t in _read(path)]
    assert numbers == [0, 1, 2] if first else [0, 2]


def _read(path):
    with Study.open(path, HEADER) as study:
        return study.trials


def test_ctrl_c_while_a_line_is_written(tmp_path):
    path = tmp_path / "a.study"
    with Study.open(path, HEADER) as study:
        before, file = path.read_bytes(), study._file

        class Half:
            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, content):
                file.write(content[:9])
                raise KeyboardInterrupt

        study._file = Half()
        with pytest.raises(KeyboardInterrupt):
            study.append(trial(0))
        assert path.read_bytes() == before and not study.trials
        study._file = file
        study.append(trial(1))
    assert [t.number for t in _read(path)] == [1]


def test_no_trial_twice_and_names():
    study = Study.open(None, HEADER)
    study.append(trial(0))
    study.append(trial(1))
    with pytest.raises(StudyError, match="Trial 0 is in the study in memory already"):
        study.append(trial(0))
    assert repr(study) == "<Study in memory: 2 trials>"
    study.close()
    study.close()


def test_a_line_without_its_end_is_given_one(tmp_path):
    path = tmp_path / "a.study"
    with Study.open(path, HEADER) as study:
        study.append(trial(0))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert [t.number for t in _read(path)] == [0]
    assert path.read_bytes() == whole
    # and only then
    assert [t.number for t in _read(path)] == [0]
    assert path.read_bytes() == whole


def test_the_best_is_that_of_the_longest(tmp_path):
    path = tmp_path / "a.study"
    with Study.open(path, HEADER) as study:
        study.append(trial(0, 0.1, SHORT))
        study.append(trial(1, None, Fidelity(99), status="failed"))
        study.append(trial(2, 0.7))
        study.append(trial(3, 0.5))
        study.append(trial(4, 0.2, status="pruned"))
        study.append(trial(5, 0.3, SHORT))
    assert load_study(path).best["number"] == 3


def test_what_differs():
    there = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": 3}
    assert _differences(there, there) == []
    here = {"a": {"b": 2, "c": {"d": [1]}}, "f": {"g": 1}, "h": None}
    assert _differences(there, here) == [
        "a.b was 1 and is now 2", "a.c.d was [1, 2] and is now [1]",
        "e was None and is now not given", "f was 3 and is now {'g': 1}",
        "h was not given and is now None",
    ]  # fmt: skip


def test_long_values_are_shortened():
    assert _short("x" * 58) == repr("x" * 58)
    assert _short("x" * 59) == "'" + "x" * 56 + "…"
    assert len(_short("x" * 99)) == 58
