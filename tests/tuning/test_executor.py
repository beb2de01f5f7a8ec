"""Executors: trials run once each, in this process or on workers that come and go."""

import logging
import operator
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from hs_autoptycho.tuning.executor import Distributed, InProcess
from hs_autoptycho.tuning.trial import Fidelity, Trial

# the workers import the stand-ins from where this process does
sys.path.append(str(Path(__file__).parent))
from stand_ins import Fitting, Sleeping  # noqa: E402

HELD = {"offset": 0.25}


def make_trials(n):
    return [Trial(i, {"x": i / 7}, Fidelity(2), seed=i) for i in range(n)]


def run_all(executor, trials, *, meanwhile=lambda ended: None):
    """Run trials as the tuner does, never more than the capacity; returns them as they end."""
    waiting, pending, ended = list(trials), 0, []
    while waiting or pending:
        while waiting and pending < executor.capacity:
            executor.submit(waiting.pop(0), [(1, 2.0)])
            pending += 1
        for trial, reconstruction in executor.wait():
            pending -= 1
            ended.append((trial, reconstruction))
            meanwhile(ended)
    assert executor.wait() == []
    return ended


def starts(log):
    """How often each x was started."""
    return Counter(float(line.split()[0]) for line in Path(log).read_text().splitlines())


@pytest.fixture(scope="module")
def make_cluster():
    """Clusters of processes, closed at the end; a worker that is lost is replaced."""
    distributed = pytest.importorskip("distributed")
    made = []

    def make(n_workers, **options):
        options = {"processes": True, "threads_per_worker": 1, **options}
        cluster = distributed.LocalCluster(n_workers=n_workers, dashboard_address=":0", **options)
        client = distributed.Client(cluster, set_as_default=False)
        made.extend([client, cluster])
        return client

    yield make
    for closes in made:
        closes.close()


@pytest.fixture(scope="module")
def client(make_cluster):
    return make_cluster(2)


def test_in_process(tmp_path):
    log = tmp_path / "log"
    executor = InProcess(Sleeping(str(log), 0, interrupt=3 / 7), HELD)
    assert executor.capacity == 1
    assert executor.wait() == []
    trials = make_trials(4)
    executor.submit(trials[0])
    assert not log.exists()  # it runs within wait
    [(trial, reconstruction)] = executor.wait()
    assert trial is trials[0]
    assert (trial.objective, trial.status) == (1 / 9 + 0.25, "completed")
    assert reconstruction == "of 0.0"
    statuses = [trial.status for trial, _ in run_all(executor, trials[1:])]
    assert statuses == ["completed", "completed", "interrupted"]
    executor.submit(trials[0])
    executor.close()
    assert executor.wait() == []
    assert starts(log) == {i / 7: 1 for i in range(4)}


def test_all_run_once(client, tmp_path):
    log = tmp_path / "log"
    objective = Sleeping(str(log))
    executor = Distributed(objective, HELD, client)
    assert executor.capacity == 2
    given = make_trials(7)
    ended = run_all(executor, given)
    executor.close()
    assert starts(log) == {i / 7: 1 for i in range(7)}
    assert sorted(trial.number for trial, _ in ended) == list(range(7))
    assert len({trial.metrics["process"] for trial, _ in ended} - {os.getpid()}) == 2
    assert all(r is None for _, r in ended)
    alone = {t.number: t for t, _ in run_all(InProcess(objective, HELD), make_trials(7))}
    for trial, _ in ended:
        same = alone[trial.number]
        assert (trial.objective, trial.curve) == (same.objective, same.curve)  # bit by bit
        assert (trial.parameters, trial.seed, trial.fidelity) == (
            same.parameters, same.seed, same.fidelity,
        )  # fmt: skip
        assert (trial.metrics["limits"], trial.metrics["passes"]) == (1, 2)
        assert (trial.attempts, trial.status) == (1, "completed")
        assert trial.duration >= 0.05
    assert all(trial.objective is None for trial in given)


def test_data_are_sent_once_to_each_worker(client, monkeypatch):
    sent = []
    scatter = client.scatter

    def counted(*args, **options):
        sent.append(options["workers"])
        return scatter(*args, **options)

    monkeypatch.setattr(client, "scatter", counted)
    executor = Distributed(Sleeping(), HELD, client, return_reconstruction=True)
    ended = run_all(executor, make_trials(6))
    assert sorted(sent) == sorted([address] for address in client.nthreads())
    assert {r for _, r in ended} == {f"of {i / 7}" for i in range(6)}
    assert client.who_has()  # the data
    executor.close()
    for _ in range(50):
        if not client.who_has():
            break
        time.sleep(0.1)
    assert not client.who_has()


def test_failed_and_interrupted_trials(client, tmp_path, caplog):
    """What goes wrong in a trial is its result, and no reason to run it again."""
    log = tmp_path / "log"
    executor = Distributed(Sleeping(str(log), 0, interrupt=1 / 7), {}, client)
    trials = make_trials(2)
    trials[1].parameters["offset"] = 0.5
    ended = dict((t.number, t) for t, _ in run_all(executor, trials))
    assert (ended[0].status, ended[0].message) == ("failed", "KeyError: 'offset'")
    assert (ended[1].status, ended[1].attempts) == ("interrupted", 1)
    assert starts(log) == {0.0: 1, 1 / 7: 1}
    assert "Trial 0 failed: KeyError: 'offset'" in caplog.text


class Unfit(Sleeping):
    """An objective that no worker can have."""

    def __reduce__(self):
        return operator.truediv, (1, 0)


def test_objective_that_workers_cannot_have(client, caplog):
    """The reason is told at once: no trial could ever run."""
    executor = Distributed(Unfit(), HELD, client)
    with pytest.raises(Exception, match="division by zero"):
        executor.submit(make_trials(1)[0])
    executor.close()
    assert caplog.text.count("cannot take the data") == 2


def test_close_gives_up_what_is_under_way(client, tmp_path):
    log = tmp_path / "log"
    executor = Distributed(Sleeping(str(log), 0.3), HELD, client)
    for trial in make_trials(6):
        executor.submit(trial)
    executor.wait()
    executor.close()
    assert executor.wait() == []
    other = Distributed(Sleeping(None, 0), HELD, client)  # the workers are free for others
    assert len(run_all(other, make_trials(3))) == 3
    other.close()
    assert sum(starts(log).values()) <= 4


def test_ctrl_c_while_waiting(client, monkeypatch):
    import distributed

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    executor = Distributed(Sleeping(None, 0.5), HELD, client)
    executor.submit(make_trials(1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.wait()
    executor.close()
    assert executor.wait() == []


def test_asynchronous_client():
    class Client:
        asynchronous = True

    with pytest.raises(TypeError, match="asynchronous client"):
        Distributed(Sleeping(), HELD, Client())


def test_threads_of_one_process(make_cluster, tmp_path):
    """One trial at a time in a process, with as many threads as its worker has."""
    client = make_cluster(1, processes=False, threads_per_worker=3)
    executor = Distributed(Sleeping(), HELD, client)
    assert executor.capacity == 1
    given = make_trials(3)
    ended = run_all(executor, given)
    executor.close()
    import numba

    expected = min(3, numba.config.NUMBA_NUM_THREADS)
    assert [trial.metrics["threads"] for trial, _ in ended] == [expected] * 3
    assert all(trial is not own for (trial, _), own in zip(ended, given, strict=True))


@pytest.mark.slow
def test_same_objective_here_and_there(client, experiment):
    trials = [Trial(i, {"defocus": 110.0 + 10 * i}, Fidelity(2), seed=i) for i in range(3)]
    objective = Fitting(experiment)
    here = [t.objective for t, _ in run_all(InProcess(objective, {}), trials)]
    for trial in trials:
        trial.objective = None
    executor = Distributed(objective, {}, client)
    there = {t.number: t.objective for t, _ in run_all(executor, trials)}
    executor.close()
    assert here == [there[i] for i in range(3)]
    assert len(set(here)) == 3


@pytest.mark.slow
def test_worker_killed(make_cluster, tmp_path, caplog):
    """The trial of a worker that is killed runs again, once; the others do not."""
    client = make_cluster(2)
    log = tmp_path / "log"
    killed = []

    def kill(ended):
        if len(ended) in (3, 8) and len(killed) < 2:
            time.sleep(0.3)  # within the next trials
            killed.append(int(log.read_text().split()[-1]))  # of the one started last
            os.kill(killed[-1], signal.SIGKILL)

    executor = Distributed(Sleeping(str(log), 0.6), HELD, client)
    ended = run_all(executor, make_trials(12), meanwhile=kill)
    executor.close()
    assert len(set(killed)) == 2
    assert sorted(trial.number for trial, _ in ended) == list(range(12))
    assert all(trial.status == "completed" for trial, _ in ended)
    again = {trial.parameters["x"]: trial.attempts for trial, _ in ended}
    assert starts(log) == again
    assert sorted(again.values()) == [1] * 10 + [2] * 2
    assert "is started again: worker tcp" in caplog.text


@pytest.mark.slow
def test_poisoned_trial(make_cluster, tmp_path, caplog):
    client = make_cluster(2)
    log = tmp_path / "log"
    caplog.set_level(logging.WARNING)
    executor = Distributed(Sleeping(str(log), poison=2 / 7), HELD, client, n_retries=2)
    ended = {t.number: t for t, _ in run_all(executor, make_trials(9))}
    executor.close()
    assert sorted(ended) == list(range(9))
    poisoned = ended.pop(2)
    assert (poisoned.status, poisoned.attempts) == ("failed", 3)
    assert poisoned.objective is None
    assert poisoned.duration > 0.15
    assert "given up after 3 attempts; the last time worker tcp" in poisoned.message
    assert all(t.status == "completed" and t.attempts == 1 for t in ended.values())
    assert starts(log) == {i / 7: 3 if i == 2 else 1 for i in range(9)}


@pytest.mark.slow
def test_all_workers_gone(make_cluster, caplog):
    client = make_cluster(1)
    executor = Distributed(Sleeping(None, 0.2), HELD, client, patience=20.0)
    trials = make_trials(4)
    executor.submit(trials[0])
    executor.wait()
    client.cluster.scale(0)
    while client.nthreads():
        time.sleep(0.05)
    executor.submit(trials[1])
    threading.Timer(1.0, client.cluster.scale, (1,)).start()
    [trial] = [t for t, _ in executor.wait()]
    assert (trial.number, trial.status) == (1, "completed")
    assert "waiting up to 20 s for one to join" in caplog.text
    executor.close()

    client.cluster.scale(0)
    while client.nthreads():
        time.sleep(0.05)
    executor = Distributed(Sleeping(None, 0.2), HELD, client, patience=0.6)
    assert executor.capacity == 1
    for trial in trials[2:]:
        executor.submit(trial)
    ended = [t for t, _ in executor.wait()]
    assert [t.status for t in ended] == ["interrupted"] * 2
    assert ended[0].message == "no worker could take a trial for 0.6 s"
    executor.close()
