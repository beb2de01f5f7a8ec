"""Faults in the midst of a search or a method: nothing that has ended is lost, nothing is doubled.

A short form of each; ``python benchmarks/reliability.py faults`` injects more of them, more often.
What a torn, damaged or locked file of a study gets is tested with the study, and workers that are
lost again and again with the executor.
"""

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parent))
import faults  # noqa: E402
from faults import Child, Faulty, arm, in_process, lines, results, search, wait_until  # noqa: E402

from hs_autoptycho import load_study  # noqa: E402
from hs_autoptycho.tuning import executor as executor_module  # noqa: E402
from hs_autoptycho.tuning import study as study_module  # noqa: E402
from hs_autoptycho.tuning.executor import Distributed  # noqa: E402
from hs_autoptycho.tuning.study import Study  # noqa: E402
from hs_autoptycho.tuning.study_file import StudyError  # noqa: E402
from hs_autoptycho.tuning.trial import Fidelity, Trial  # noqa: E402
from hs_autoptycho.tuning.tuner import TuningError, tune  # noqa: E402

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="this system has no such signals"
)

N = 9


@pytest.fixture
def study(tmp_path):
    return tmp_path / "study.jsonl"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results of a search that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    in_process(folder, folder / "study.jsonl", N)
    found = results(folder / "study.jsonl")
    assert sorted(found) == list(range(N))
    return found


@pytest.fixture(scope="module")
def client():
    """Of two workers, which are replaced when they are lost."""
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with (
        distributed.LocalCluster(n_workers=2, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def on(client, folder, path, n_trials=N, *, seconds=0.05):
    return search(Distributed(Faulty(str(folder), seconds), {}, client), path, n_trials)


def statuses(path):
    return {t["number"]: t["status"] for t in load_study(path).trials}


# --- kill -9, Ctrl-C, two processes -----------------------------------------------------------


def test_killed_search(tmp_path, study, undisturbed):
    """A second search is refused while the first one runs, and goes on when that is dead."""
    with Child("search", tmp_path, "--trials", N) as child:
        child.heard("trial")
        child.heard("trial")
        arm(tmp_path, "hangs")
        assert faults.victim(tmp_path, "hangs") == child.process.pid
        ended = lines(study)
        with pytest.raises(StudyError, match="is being written by another search. Wait for it"):
            in_process(tmp_path, study, N)
        child.send(signal.SIGKILL)
        child.process.wait()
    assert ended >= 2 and lines(study) == ended
    before = results(study)
    in_process(tmp_path, study, N)
    assert results(study) == undisturbed
    assert before.items() <= undisturbed.items()


def test_ctrl_c_in_a_search(tmp_path, study, undisturbed):
    with Child("search", tmp_path, "--trials", N) as child:
        child.heard("trial")
        arm(tmp_path, "hangs")
        faults.victim(tmp_path, "hangs")
        ended = lines(study)
        child.send(signal.SIGINT)
        warning = child.heard("warning")["warning"]
        assert child.heard("ended") == {"ended": True, "trials": ended, "interrupted": True}
    assert lines(study) == ended
    assert warning == (
        f"The search has ended early: interrupted. {ended} trials are kept in {study}: the same "
        "call goes on after them."
    )
    in_process(tmp_path, study, N)
    assert results(study) == undisturbed


@pytest.mark.parametrize("moment", ["written", "remembered", "synced"])
def test_ctrl_c_while_a_trial_is_written(tmp_path, study, undisturbed, monkeypatch, moment):
    """Wherever it comes, what has ended is in the file, and once."""

    def interrupt_once(function):
        def interrupted(*args):
            returned = function(*args)
            if lines(study) == 3 and not done:
                done.append(1)
                raise KeyboardInterrupt
            return returned

        return interrupted

    done = []
    if moment == "written":

        class File(study_module.FileIO):
            write = interrupt_once(study_module.FileIO.write)

        monkeypatch.setattr(study_module, "open_file", lambda path: File(path, "w+"))
    elif moment == "remembered":
        monkeypatch.setattr(Study, "_write", interrupt_once(Study._write))
    else:
        monkeypatch.setattr(study_module.os, "fsync", interrupt_once(os.fsync))
    found = in_process(tmp_path, study, N)
    monkeypatch.undo()
    assert done and found.interrupted
    assert [t.number for t in found.trials] == sorted(results(study)) == [0, 1, 2]
    in_process(tmp_path, study, N)
    assert results(study) == undisturbed


def test_what_has_ended_when_ctrl_c_comes_is_kept(client, tmp_path):
    executor = Distributed(Faulty(str(tmp_path), 0), {}, client)
    for number in range(2):
        executor.submit(Trial(number, {"defocus": 200.0 + number}, Fidelity(2)))
    wait_until(lambda: {run.future.status for run in executor._running.values()} == {"finished"})
    ended = executor.close()
    assert sorted((t.number, t.status, t.attempts) for t, _ in ended) == [
        (0, "completed", 1), (1, "completed", 1),
    ]  # fmt: skip
    assert executor.close() == []


def test_the_search_writes_down_what_ended_last():
    """A trial that ends between the last look and Ctrl-C is in the study, and is the best."""
    full, trials = Fidelity(3), []

    class Executor:
        capacity, ran = 2, []

        def submit(self, trial, limits=()):
            trial.objective = 1.0 - trial.number
            self.ran.append((trial, f"of {trial.number}"))

        def wait(self):
            raise KeyboardInterrupt

        def close(self):
            ended, self.ran = self.ran, []
            return ended

    strategy = SimpleNamespace(
        propose=lambda done, pending: Trial(len(done) + len(pending), {}, full),
        limits=lambda trial, done: [],
        best=lambda done: min(done, key=lambda t: t.objective, default=None),
    )
    journal = SimpleNamespace(trials=trials, append=trials.append, path=None)
    found = tune(strategy, Executor(), journal)
    assert found.interrupted and [t.number for t in trials] == [0, 1]
    assert (found.best.number, found.reconstruction) == (1, "of 1")


# --- the three methods ------------------------------------------------------------------------

SPACE = {"scan_rotation": [-20, 40], "defocus": [60, 180]}


def test_signals_in_the_midst_of_the_methods(tmp_path):
    from hs_autoptycho.data import twisted_bilayer_mos2

    twisted_bilayer_mos2(
        scan_shape=(9, 11), detector_shape=(48, 64), defocus=120, scan_rotation=12
    ).save(tmp_path / "scan.hspy")
    untouched = faults.digest(tmp_path / "scan.hspy")
    study, temporary = tmp_path / "study.jsonl", tmp_path / "temporary"
    temporary.mkdir()
    with Child("methods", tmp_path, environment={"TMPDIR": str(temporary)}) as child:
        child.heard("ready")

        def interrupted(method, bar, at, **options):
            child.say(method=method, options={"num_workers": 1, **options})
            child.heard("begun")
            said = {}
            while said.get("bar") != bar or said["at"] < at:
                said = child.heard("bar", "ended")
                assert "ended" not in said, said
            child.send(signal.SIGINT)
            said = child.heard("ended")
            assert child.heard("over")["same"]
            return said

        said = interrupted("reconstruct_ptycho", "Reconstruct", 2, n_iterations=10**5, defocus=120)
        assert said["status"] == "interrupted"

        tuning = {"parameters": SPACE, "n_trial_iterations": 2, "study": str(study)}
        said = interrupted("autotune_ptycho", "Tune", 2, n_trials=500, **tuning)
        assert said["status"] == "interrupted" and said["trials"] == lines(study) >= 2
        assert any("Tuning was interrupted" in note for note in said["notes"])
        kept = results(study)

        # before the first pass is over there is nothing that could be kept
        said = interrupted("cluster_hierarchical", "Project", 1)
        assert said.get("error") == "KeyboardInterrupt" or said["status"] != "diverged"

        child.say(method="autotune_ptycho", options={**tuning, "n_trials": len(kept) + 400})
        child.heard("bar")
        wait_until(lambda: lines(study) > len(kept))
        child.send(signal.SIGKILL)
        child.process.wait()
    assert kept.items() < results(study).items()
    assert faults.digest(tmp_path / "scan.hspy") == untouched
    assert not list(temporary.iterdir())


# --- a full disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [70, 2000])
def test_full_disk(tmp_path, study, undisturbed, size):
    """Files of this process cannot grow beyond a size, in the header or in a trial's line."""
    with Child("search", tmp_path, "--trials", N, "--file-size", size, "--seconds", 0) as child:
        said = child.heard("ended")
    ended = lines(study)
    assert (ended > 0) == (size > 1000)
    assert said["error"] == "StudyError"
    assert (
        f"cannot be written: File too large. The {ended} trials before are kept"
        in (said["message"])
    )
    assert study.read_bytes()[-1:] in (b"", b"\n")  # what was begun is taken back
    in_process(tmp_path, study, N)
    assert results(study) == undisturbed


# --- workers and the scheduler ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nothing", "TypeError: the objective returned no score, but None"),
        ("nan", "the objective is nan"),
        ("text", "TypeError: the objective returned '0.5' where a number is needed"),
        ("blocks", "TypeError: the objective returned <object"),
        ("status", "TypeError: the objective returned the status 'fine'"),
    ],
)
def test_garbage_is_a_failed_trial(tmp_path, study, fault, message):
    arm(tmp_path, fault)
    in_process(tmp_path, study, 3)
    first, *others = load_study(study).trials
    assert (first["status"], first["objective"]) == ("failed", None)
    assert first["message"].startswith(message)
    assert [t["status"] for t in others] == ["completed"] * 2


def test_garbage_in_place_of_a_trial(client, tmp_path, caplog, monkeypatch):
    """It is not believed, and the trial runs again."""
    executor = Distributed(Faulty(str(tmp_path), 0), {}, client)
    executor.submit(Trial(4, {"defocus": 200.0}, Fidelity(2)))
    [run] = executor._running.values()
    returned = iter(["a word", (Trial(5, {}, Fidelity(2)), None)])
    true = run.future

    class Future:
        status = "finished"

        def result(self, timeout):
            return next(returned)

        def release(self):
            true.release()

    monkeypatch.setattr(run, "future", Future())
    monkeypatch.setattr(executor._client, "submit", lambda *_, **__: Future())
    executor._collect(client.nthreads())
    executor._place(client.nthreads())
    executor._collect(client.nthreads())
    monkeypatch.undo()
    [(trial, _)] = executor.wait()
    executor.close()
    assert (trial.number, trial.status, trial.attempts) == (4, "completed", 3)
    assert "the worker returned 'a word' for trial 4" in caplog.text
    assert "the worker returned (Trial(number=5" in caplog.text


def test_workers_that_die_and_stop(client, tmp_path, study, undisturbed, caplog):
    """One is killed, one does not answer any more, and one returns what cannot be received."""
    on(client, tmp_path, tmp_path / "before.jsonl", 2)  # all has been imported
    for fault in ("cursed", "dies", "raises", "stops"):
        arm(tmp_path, fault)

    def give_up():
        """As the scheduler does after five minutes of silence."""
        stopped = faults.victim(tmp_path, "stops")
        nannies = client.cluster.workers.values()
        addresses = [n.worker_address for n in nannies if n.pid == stopped]
        client.restart_workers(addresses, timeout=faults.PATIENCE)

    thread = threading.Thread(target=give_up)
    thread.start()
    found = on(client, tmp_path, study)
    thread.join()
    assert sorted(t.number for t in found.trials) == sorted(undisturbed)
    failed = [t for t in found.trials if t.status == "failed"]
    assert [t.message for t in failed] == ["RuntimeError: a fault of this trial"]
    same = {n: r for n, r in results(study).items() if n != failed[0].number}
    assert same.items() <= undisturbed.items()
    again = sum(t.attempts - 1 for t in found.trials)
    assert again == caplog.text.count("is started again:") == 3
    assert caplog.text.count("was lost while it ran") == 2
    assert "could not be fetched: ZeroDivisionError: division by zero." in caplog.text


def test_worker_that_hangs(client, tmp_path, study, undisturbed, caplog, monkeypatch):
    """It is told of, once; Ctrl-C keeps everything, and a kill has the trial started again."""
    monkeypatch.setattr(executor_module, "_LEAST_LATE", 1.0)
    monkeypatch.setattr(executor_module, "_LATE", 3)

    def interrupt():
        wait_until(lambda: "the worker may hang" in caplog.text)
        wait_until(lambda: lines(study) == N - 1)  # all others
        os.kill(os.getpid(), signal.SIGINT)

    on(client, tmp_path, tmp_path / "before.jsonl", 2)  # all has been imported
    arm(tmp_path, "hangs")
    thread = threading.Thread(target=interrupt)
    thread.start()
    found = on(client, tmp_path, study)
    thread.join()
    assert found.interrupted and len(found.trials) == lines(study) == N - 1
    kept = results(study)
    [lost] = set(undisturbed) - set(kept)
    assert caplog.text.count(f"Trial {lost} has been on worker") == 1
    assert f"Under way and given up: trial {lost} (for " in caplog.text
    assert f"{N - 1} trials are kept in {study}" in caplog.text

    os.kill(faults.victim(tmp_path, "hangs"), signal.SIGKILL)  # or it would keep its worker busy
    next(tmp_path.glob("taken-hangs-*")).unlink()
    arm(tmp_path, "hangs")
    thread = threading.Thread(
        target=lambda: os.kill(faults.victim(tmp_path, "hangs"), signal.SIGKILL)
    )
    thread.start()
    found = on(client, tmp_path, study)
    thread.join()
    assert not found.interrupted and len(found.trials) == N
    assert kept.items() < results(study).items()
    assert f"Trial {lost} is started again: worker" in caplog.text


def test_client_restart(client, tmp_path, study, undisturbed, caplog):
    def restart():
        wait_until(lambda: lines(study) >= 2)
        # a nanny whose worker died while it started has given up: not all come back
        client.restart(wait_for_workers=False)

    thread = threading.Thread(target=restart)
    thread.start()
    found = on(client, tmp_path, study, seconds=0.4)
    thread.join()
    assert not found.interrupted and results(study) == undisturbed
    assert "is started again:" in caplog.text


def test_scheduler_killed(tmp_path, study, undisturbed, caplog):
    """The search ends with a word on how to go on, and goes on with a new scheduler."""
    distributed = pytest.importorskip("distributed")
    caplog.set_level(logging.WARNING, "hs_autoptycho")
    cluster = faults.Processes(tmp_path)

    def kill():
        wait_until(lambda: lines(study) >= 2)
        cluster.scheduler.send_signal(signal.SIGKILL)

    try:
        cluster.start_scheduler()
        cluster.start_worker()
        thread = threading.Thread(target=kill)
        thread.start()
        with distributed.Client(cluster.address, set_as_default=False) as client:
            client._timeout = 1.0  # of a new connection; 30 s are dask's default
            found = on(client, tmp_path, study, seconds=0.3)
            thread.join()
            assert found.interrupted and len(found.trials) == lines(study) < N
            with pytest.raises(TuningError, match="No trial could be run: .* a new client is need"):
                on(client, tmp_path, tmp_path / "new.jsonl")
        assert (
            "The search has ended early: the client has lost the scheduler, and a new client is "
            f"needed. {len(found.trials)} trials are kept in {study}: the same call goes on"
        ) in caplog.text
        cluster.scheduler.wait()
        cluster.start_scheduler()
        cluster.start_worker()
        with distributed.Client(cluster.address, set_as_default=False) as client:
            on(client, tmp_path, study)
    finally:
        cluster.close()
    assert results(study) == undisturbed


# --- the clock --------------------------------------------------------------------------------


def test_the_clock_jumps(tmp_path, study, undisturbed, monkeypatch):
    true, jumps = time.time, iter([0, 7, -5, 30, -26, 1] * 10**4)
    monkeypatch.setattr(time, "time", lambda: true() + 3600 * next(jumps))
    start = time.perf_counter()
    in_process(tmp_path, study, N, seconds=0.01)
    taken = time.perf_counter() - start
    monkeypatch.undo()
    durations = [t["duration"] for t in load_study(study).trials]
    assert min(durations) >= 0.01 and sum(durations) <= taken
    assert results(study) == undisturbed
