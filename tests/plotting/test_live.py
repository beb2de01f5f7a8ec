"""A tuning that is watched while it runs, by the process itself and by another."""

import itertools
import logging
import sys
import threading
import types

import matplotlib
import matplotlib.pyplot as plt
import pytest

from hs_autoptycho import load_study
from hs_autoptycho.plotting import LiveTuning
from hs_autoptycho.plotting.live import growing
from hs_autoptycho.tuning.study import Study
from hs_autoptycho.tuning.trial import Trial

N_PLANNED = 23  # as many as in the example
HEADER = {
    "objective": "held_out",
    "space": {"defocus": {"low": 100.0, "high": 500.0, "log": True}},
    "n_trials": N_PLANNED,
}


@pytest.fixture
def path(tmp_path, trials):
    """A study with the first three trials."""
    path = tmp_path / "scan.jsonl"
    append(path, trials[:3])
    return path


def append(path, trials):
    with Study.open(path, HEADER) as study:
        for trial in trials:
            study.append(Trial.from_dict(trial))


def writes(path, *batches):
    """Something to wait with: each time it is called it writes more to the study."""
    batches = iter(batches)

    def wait(seconds):
        append(path, next(batches, ()))

    return wait


def heights(figure):
    """Number of trials in the panel of the convergence."""
    crosses = [line for line in figure.axes[0].lines if line.get_marker() in "x+"]
    dots = figure.axes[0].collections
    return sum(len(c.get_offsets()) for c in dots if c.get_label() != "_picked") + sum(
        len(line.get_xdata()) for line in crosses
    )


# ------------------------------------------------------------------------------ while it runs


def told(result):
    """All that a tuning says but the seconds."""
    trials = result.trials
    for trial in trials:
        del trial["duration"]
        trial["metrics"] = {k: v for k, v in trial["metrics"].items() if "seconds" not in k}
    return trials, result.best_parameters, result.parameter_intervals, result.data.tobytes()


def test_it_changes_nothing(tuned, scan, tuning_options, tmp_path):
    live, path = LiveTuning(), tmp_path / "scan.jsonl"
    result = scan.autotune_ptycho(**tuning_options, callback=live, study=path)
    assert told(result) == told(tuned[0])
    assert [t["number"] for t in live.trials] == [0, 1, 2, 3]
    live.update()
    assert heights(live.figure) == 4
    # the reader of the file sees the same
    assert load_study(path).plot_tuning().axes[1].get_title("left").endswith("Å")


def test_drawing_takes_a_twentieth_of_the_time(trials, monkeypatch):
    now = itertools.count(step=1.0)  # each look at the clock is a second later
    monkeypatch.setattr("hs_autoptycho.plotting.live.time.perf_counter", lambda: float(next(now)))
    drawn = []
    live = LiveTuning()
    monkeypatch.setattr(live, "update", lambda: drawn.append(len(live.trials)))
    for trial in trials + trials:
        assert live(trial) is None  # True would end the tuning
    assert drawn == [1, 20, 39]


def test_a_figure_that_fails_costs_no_tuning(trials, monkeypatch, caplog):
    live = LiveTuning()
    monkeypatch.setattr(live, "update", lambda: 1 / 0)
    with caplog.at_level(logging.WARNING):
        for trial in trials:
            live(trial)
    assert len(live.trials) == len(trials)
    assert [r.message for r in caplog.records] == [
        "The live figure is not drawn any more: division by zero"
    ]


def test_the_same_figure_grows(trials):
    live = LiveTuning(against="seconds")
    live.update(trials[:2])
    figure, size = live.figure, tuple(live.figure.get_size_inches())
    assert heights(figure) == 2
    live.update(trials)
    assert live.figure is figure and heights(figure) == len(trials)
    assert tuple(figure.get_size_inches()) == size
    assert figure.axes[0].get_xlabel() == "seconds, all trials"
    assert plt.get_fignums() == [figure.number]


def test_a_closed_window_stays_closed(trials):
    live = LiveTuning()
    live.update(trials[:2])
    plt.close(live.figure)
    assert live.closed
    live.update(trials)
    assert plt.get_fignums() == []


def test_a_notebook_has_one_picture_that_is_replaced(trials, monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(("update", heights(figure)))

    def display(figure, display_id):
        shown.append(("display", heights(figure)))
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline.backend")
    live = LiveTuning()
    for some in (trials[:2], trials[:3], trials):
        live.update(some)
        assert plt.get_fignums() == []  # or the notebook would show it again
    assert shown == [("display", 2), ("update", 3), ("update", len(trials))]


# ---------------------------------------------------------------------- from another process


def test_a_study_is_read_as_it_grows(path, trials):
    study = load_study(path)
    wait = writes(path, trials[3:5], (), trials[5:6], trials[6:])
    seen = [len(s.trials) for s in growing(study, interval=1, timeout=None, wait=wait)]
    assert seen == [5, 6, N_PLANNED]  # and all that were planned end it
    assert len(study.trials) == 3 and len(study.reload().trials) == N_PLANNED


def test_it_is_read_again_only_when_it_has_grown(path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "hs_autoptycho.tuning.study.StoredStudy.reload", lambda self: read.append(1) or self
    )
    waits = iter(range(6))

    def wait(seconds):
        if next(waits) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(growing(load_study(path), interval=1, timeout=None, wait=wait))
    assert len(read) == 1


def test_looking_ends_without_news(path, monkeypatch):
    seconds = itertools.count(step=10.0)
    monkeypatch.setattr("hs_autoptycho.plotting.live.time.monotonic", lambda: next(seconds))
    waited = []
    later = growing(load_study(path), interval=7, timeout=35, wait=waited.append)
    assert list(later) == []
    assert waited == [7, 7, 7]
    with pytest.raises(ValueError, match="interval=0"):
        list(growing(load_study(path), interval=0, timeout=None, wait=waited.append))


def test_plot_live(path, trials):
    writer = threading.Timer(0.2, append, (path, trials[3:]))
    writer.start()
    study = load_study(path)
    figure = study.plot_live(interval=0.05, timeout=60)
    writer.join()
    assert heights(figure) == N_PLANNED
    assert figure.axes[1].get_xscale() == "log"  # as the space says
    assert figure.axes[0].get_ylabel() == "held_out"
    assert figure.axes[1].get_title("left").endswith("Å")
    assert plt.get_fignums() == [figure.number]


def test_follow(path, trials, capfd):
    writer = threading.Timer(0.2, append, (path, trials[3:]))
    writer.start()
    study = load_study(path).follow(interval=0.05, timeout=60)
    writer.join()
    assert len(study.trials) == N_PLANNED
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("trial")]
    best = study.best
    assert lines[0].startswith("trial 1: held_out 0.5") and " Å, " in lines[0]
    assert lines[-1].startswith(f"trial {best['number']}: held_out {best['objective']:.6g} (")
    assert f"{N_PLANNED}/{N_PLANNED}" in err and f"best={best['objective']:.6g}" in err


def test_a_study_that_is_complete_is_shown_at_once(path, trials):
    append(path, trials[3:])
    study = load_study(path)
    assert study.follow().trials == study.trials
    assert heights(study.plot_live()) == N_PLANNED


def test_ctrl_c_ends_the_looking(path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("hs_autoptycho.plotting.live.time.sleep", interrupt)
    study = load_study(path)
    assert study.follow().trials == study.trials
    monkeypatch.setattr("matplotlib.backend_bases.FigureCanvasBase.start_event_loop", interrupt)
    assert heights(study.plot_live()) == 3


def test_trials_of_a_study_are_compared(path):
    comparison = load_study(path).compare_trials([0, 2])
    assert comparison.objective == "held_out"
    assert any(line.startswith("defocus (Å)") for line in repr(comparison).splitlines())
