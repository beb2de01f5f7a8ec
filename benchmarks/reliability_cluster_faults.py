"""Faults of workers, of the scheduler and of the client: a part of the section ``faults``.

On a ``LocalCluster``, and on ``dask scheduler`` and ``dask worker`` as processes of their own. A
worker of both counts as lost after 20 s of silence, for which dask's default is 5 min.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faults
from faults import Child, Faulty, Processes, arm, lines, results, search, wait_until
from reliability_faults import N, Row, _clock, _failures, fresh, in_process, undisturbed

from hs_autoptycho.tuning import executor as executor_module
from hs_autoptycho.tuning.executor import Distributed


class _Said(logging.Handler):
    """Keeps the warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def first(self, *words: str) -> str:
        """The first that has one of some words."""
        return next((s for word in words for s in self.lines if word in s), "")


@contextlib.contextmanager
def _listening() -> Iterator[_Said]:
    logger, said = logging.getLogger("hs_autoptycho"), _Said()
    logger.addHandler(said)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield said
    finally:
        logger.removeHandler(said)
        logger.propagate = propagates


def _inject(
    row: Row, client, folder: Path, wanted, inject: Callable[[Path], object], *words
) -> None:
    """A search in the midst of which a fault comes, gone on with if it ended early."""
    study, before = folder / "study.jsonl", {}

    def meanwhile():
        wait_until(lambda: lines(study) >= 3)
        inject(folder)
        before.update(results(study))

    thread = threading.Thread(target=meanwhile)
    thread.start()
    with _listening() as said:
        executor = Distributed(Faulty(str(folder), 0.2), {}, client, patience=60)
        found = search(executor, study, N)
    thread.join()
    row.said = said.first(*words) or _failures(study)
    if found.interrupted:
        (folder / "let-go").touch()
        in_process(folder, study, N)
    row.judge(study, before, wanted, alone=not found.interrupted)


def _worker_faults(client, folder, wanted, where, restart) -> Iterator[Row]:
    """Faults that a cluster survives, whichever it is."""

    def armed(fault):
        return lambda path: (arm(path, fault), faults.victim(path, fault))

    def kill_the_hung(path):
        arm(path, "hangs")
        victim = faults.victim(path, "hangs")
        wait_until(lambda: lines(path / "study.jsonl") == N - 1)
        time.sleep(2)
        os.kill(victim, signal.SIGKILL)

    def interrupt_the_hung(path):
        arm(path, "hangs")
        faults.victim(path, "hangs")
        wait_until(lambda: lines(path / "study.jsonl") == N - 1)
        os.kill(os.getpid(), signal.SIGINT)

    def kill_all(path):
        for pid in {int(line.split()[1]) for line in (path / "starts").read_text().splitlines()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    again = "is started again:"
    for fault, inject, words in (
        ("worker dies", armed("dies"), (again,)),
        ("all workers die", kill_all, (again,)),
        ("worker is stopped", armed("stops"), (again,)),
        ("trial hangs, its worker is killed", kill_the_hung, ("may hang",)),
        ("result cannot be unpickled", armed("cursed"), (again,)),
        ("trial raises", armed("raises"), ("failed",)),
        ("garbage: text for a number", armed("text"), ("failed",)),
        ("`client.restart()`", lambda path: restart(), (again,)),
        ("trial hangs, Ctrl-C", interrupt_the_hung, ("given up", "ended early")),
    ):
        row = Row(fault, where)
        if client.cluster is not None:
            client.cluster.scale(2)  # a nanny gives up where its worker dies while it starts
        client.wait_for_workers(1, timeout=faults.PATIENCE)
        _inject(row, client, fresh(folder), wanted, inject, *words)
        yield row


def local_faults(folder: Path, times: int) -> Iterator[Row]:
    """On a LocalCluster."""
    import dask
    from distributed import Client, LocalCluster

    wanted = undisturbed(folder)
    late = executor_module._LEAST_LATE
    executor_module._LEAST_LATE = 2.0  # a minute, else
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": f"{faults.SILENCE}s"}),
        LocalCluster(n_workers=2, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield from _worker_faults(client, folder, wanted, "LocalCluster", client.restart)
    executor_module._LEAST_LATE = late
    for fault, number in (("kill -9", signal.SIGKILL), ("Ctrl-C, to workers too", signal.SIGINT)):
        row, path = Row(fault, "search on a LocalCluster"), fresh(folder)
        with Child("search", path, "--trials", N, "--seconds", 0.3, "--workers", 2) as child:
            child.heard("trial")
            child.send(number, group=number == signal.SIGINT)
            if number == signal.SIGINT:
                while "ended early" not in row.said:
                    row.said = child.heard("warning")["warning"]
            child.process.wait()
        before = results(path / "study.jsonl")
        in_process(path, path / "study.jsonl", N)
        row.judge(path / "study.jsonl", before, wanted, alone=False)
        row.said = row.said or "(nothing can be said; the same call goes on)"
        yield row
    row, path = Row("clock jumps by up to 30 h", "search on a LocalCluster"), fresh(folder)
    # with twenty jumps a second dask's own cluster, which goes by the clock, comes to no end
    _clock(row, path, wanted, 1, "--workers", 2, "--seconds", 0.5)
    yield row


def process_faults(folder: Path, times: int) -> Iterator[Row]:
    """On a scheduler and workers that are processes of their own."""
    from distributed import Client

    wanted = undisturbed(folder)
    where, cluster = "dask scheduler, dask worker", Processes(folder)
    late = executor_module._LEAST_LATE
    executor_module._LEAST_LATE = 2.0
    try:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker(nanny=True)
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(2)
            yield from _worker_faults(client, folder, wanted, where, client.restart)
        yield _scheduler_killed(cluster, folder, wanted, where)
        yield _scheduler_replaced(cluster, folder, wanted, where)
    finally:
        executor_module._LEAST_LATE = late
        cluster.close()


def _scheduler_killed(cluster, folder, wanted, where) -> Row:
    """For good; the search goes on with another scheduler."""
    from distributed import Client

    row, path = Row("scheduler is killed", where), fresh(folder)
    with Client(cluster.address, set_as_default=False, timeout="2s") as client:
        _inject(row, client, path, wanted, lambda _: cluster.kill_scheduler(), "ended early")
    row.right &= "the same call goes on" in row.said
    return row


def _scheduler_replaced(cluster, folder, wanted, where) -> Row:
    """While the client still tries to find it; workers have to be started again, too."""
    from distributed import Client

    def replace(_):
        cluster.kill_scheduler()
        cluster.start_scheduler()
        cluster.start_worker()

    row = Row("scheduler is killed and started again", where)
    cluster.start_scheduler()
    cluster.start_worker()
    with Client(cluster.address, set_as_default=False) as client:
        _inject(row, client, fresh(folder), wanted, replace, "is started again:", "waiting")
    return row
