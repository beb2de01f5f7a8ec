"""The matrix of bad inputs: every kind on the three methods, judged by rules.

Kinds and rules stand in `bad_signals`, `bad_options` and `bad_files`, what is common to all cells
in `judging`. Here a part of the matrix is run, which takes a share of each group;
``python benchmarks/reliability.py inputs`` or ``pytest -m slow`` runs all of it.
"""

import faulthandler
import itertools
import sys
import zlib
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import bad_files  # noqa: E402
import bad_options  # noqa: E402
import bad_signals  # noqa: E402
from judging import METHODS, judge, reference  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

GROUPS = {**bad_signals.GROUPS, **bad_options.GROUPS, **bad_files.GROUPS}
# the fast tests take one in so many of a group; what is not refused at once costs most
SHARES = {
    "layouts": 3,
    "types": 24,
    "values": 24,
    "units": 72,
    "scales": 24,
    "metadata": 72,
    "options": 36,
    "searches": 72,
    "files": 36,
    "axes": 24,
    "shapes": 18,
    "orders": 9,
    "chunks": 9,
}
# what once got wrong is run always, by the beginnings of the names
MENDED = {
    "types": ["uint64 u8"],
    "orders": ["axis too long", "array turned"],
    "shapes": ["empty (3, 4, 0, 12)"],
    "values": ["times 1e+36", "times 1e-40"],
    "scales": ["scan nan", "detector offset nan"],
    "metadata": ["a function in General", "Acquisition_instrument = 'text'", "no General"],
    "options": [
        "callback=3", "client=3", "fixed=3", "objective=3", "strategy=list",
        "disk_center=tuple (1, 2, 3)", "disk_radius=True", "defocus=1000",
    ],
    "searches": ["parameters={'defocus': bytes", "fixed={'disk_center': 3"],
}  # fmt: skip
# seconds after which a cell hangs
PATIENCE = 300


def cells(group, share=1):
    """Kind, method, lazy or not; of a share of them, the same ones on every machine."""
    for kind in GROUPS[group]():
        for method, lazy in itertools.product(kind.methods, kind.laziness()):
            name = f"{kind.name} {method} {lazy}"
            always = kind.name.startswith(tuple(MENDED.get(group, ())))
            if always or zlib.crc32(name.encode()) % share == 0:
                yield kind, method, lazy


def run(group, method, share, folder):
    wrong = []
    for kind, of, lazy in cells(group, share):
        if of != method:
            continue
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            verdict = judge(kind, method, lazy, folder)
        finally:
            faulthandler.cancel_dump_traceback_later()
            bad_files.clean()
        if verdict.complaints:
            wrong.append(str(verdict))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", GROUPS)
def test_a_share_of_the_matrix(group, method, tmp_path):
    run(group, method, SHARES.get(group, 1), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", GROUPS)
def test_the_matrix(group, method, tmp_path):
    run(group, method, 1, tmp_path)


def test_the_matrix_is_what_it_seems():
    """No kind twice, every method with kinds of every outcome, and a share of every group."""
    for group in GROUPS:
        names = [(kind.name, method, lazy) for kind, method, lazy in cells(group)]
        assert len(names) == len(set(names)), group
        assert any(cells(group, SHARES.get(group, 1)))
        for start in MENDED.get(group, ()):
            assert any(name.startswith(start) for name, _, _ in names), start
    everything = [cell for group in GROUPS for cell in cells(group)]
    assert len(everything) > 2000
    for method in METHODS:
        outcomes = {kind.rule(of).outcome for kind, of, _ in everything if of == method}
        assert outcomes >= {"refused", "same", "finished"}


def test_the_good_scan_has_clusters():
    """Labels that are all the same would be the same whatever was done to the input."""
    labels = reference("cluster_hierarchical", "good")["labels"]
    assert set(labels.ravel()) == {0, 1}


def test_the_judge_sees_what_is_wrong(tmp_path):
    """Each rule is broken once, by an input that is good."""
    from judging import Kind, either, finished, refused, same

    def verdict(make, rule, options=None, lazy=True):
        kind = Kind("made up", "made up", make, rule, rule, options or {})
        return " ".join(judge(kind, "cluster_hierarchical", lazy, tmp_path).complaints)

    def as_is(signal):
        return signal

    assert verdict(as_is, same()) == "" and verdict(as_is, either("x")) == ""
    assert "should have been refused" in verdict(as_is, refused("x"))
    assert "no note says so" in verdict(as_is, finished("no such note"))
    rolled = bad_signals.data(lambda array: array[::-1].copy())
    assert "are not those of the good input" in verdict(rolled, same())
    assert "does not name it" in verdict(as_is, refused("no such words"), {"max_depth": "deep"})
    assert "should have same" in verdict(as_is, same(), {"max_depth": "deep"})
    empty = bad_signals.put("u2", ..., 0)
    assert "patterns had been read" in verdict(empty, refused("empty", unread=True))

    def features(patterns):
        (tmp_path / "left").write_text("")
        raise KeyError("no")

    complaints = verdict(as_is, refused("no"), {"features": features})
    for text in ("files were left", "not this package", "no sentence", "no type"):
        assert text in complaints

    def ruin(patterns):
        signals[-1].metadata.General.title = "another"
        return patterns.reshape(len(patterns), -1)[:, :3]

    signals = []
    complaints = verdict(
        lambda s: signals.append(s) or s, finished(), {"features": ruin}, lazy=False
    )
    assert "the input was changed" in complaints
