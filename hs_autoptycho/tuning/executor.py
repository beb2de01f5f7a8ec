"""Where trials run: one after the other in this process, or side by side on a cluster."""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numba

from hs_autoptycho._quantities import shortened
from hs_autoptycho.tuning.trial import Fidelity, Trial, run_trial

if TYPE_CHECKING:
    from distributed import Client, Future

    from hs_autoptycho.ptycho.solver import Reconstruction
    from hs_autoptycho.tuning.objectives import Objective

_logger = logging.getLogger(__name__)

Limits = Sequence[tuple[int, float]]

# Seconds: between two looks at which workers are there; for a worker to be ready for the data; for
# it to hand over a trial.
_LOOK, _READY, _TRANSFER = 0.5, 1.0, 60.0
# Seconds for all trials that have ended when the search ends early.
_LAST = 10.0
# A trial that takes so many times as long as any before it, for its size, and so many seconds at
# least, is told of.
_LATE, _LEAST_LATE = 10, 60.0
# How often the scheduler is asked before all workers count as lost.
_ASKED = 3
_ONE_PASS = Fidelity(1)
# Threads of one process share what an objective keeps, and numba's "workqueue" layer cannot be
# entered by two of them: one trial a process at a time, whoever it is for.
_one_at_a_time = threading.Lock()


class Executor(Protocol):
    """Runs trials."""

    @property
    def capacity(self) -> int:
        """How many trials can be under way now; at least 1."""

    def submit(self, trial: Trial, limits: Limits = ()) -> None:
        """Have a trial run; its number tells it from others."""

    def wait(self) -> list[tuple[Trial, Reconstruction | None]]:
        """Trials that have ended, as soon as there is one; perhaps none where `capacity` grew."""

    def close(self) -> list[tuple[Trial, Reconstruction | None]]:
        """Give up what is under way; returns what had ended by then."""


class InProcess:
    """Runs one trial after the other, within `wait`.

    Parameters
    ----------
    objective
        Scores parameters.
    held
        Parameters that all trials share.
    """

    capacity = 1

    def __init__(self, objective: Objective, held: Mapping[str, Any]):
        self._objective, self._held = objective, held
        self._waiting: deque[tuple[Trial, Limits]] = deque()

    def submit(self, trial: Trial, limits: Limits = ()) -> None:
        """Have a trial run at the next `wait`."""
        self._waiting.append((trial, limits))

    def wait(self) -> list[tuple[Trial, Reconstruction | None]]:
        """Run a trial; after Ctrl-C its status is ``"interrupted"``."""
        if not self._waiting:
            return []
        trial, limits = self._waiting.popleft()
        return [(trial, run_trial(self._objective, trial, self._held, limits))]

    def close(self) -> list[tuple[Trial, Reconstruction | None]]:
        """Forget what has not run."""
        self._waiting.clear()
        return []


class Distributed:
    """Runs trials side by side on the workers of a ``distributed`` cluster.

    Every worker runs one trial at a time, with as many threads of the kernels as it has itself, so
    that it needs no more memory than one reconstruction does. It is sent the data once, before its
    first trial. A trial stays on the worker it was given to: data that were sent to a worker die
    with it, and a trial that kills its worker cannot take along those that would wait behind it.

    A trial whose worker was lost, or that could not be sent or fetched, is started again on a
    worker that is there, `n_retries` times; then it has failed. Workers may come and go. A worker
    that hangs is told of, and waited for: whoever kills it has its trial started again.

    Parameters
    ----------
    objective
        Scores parameters. It goes to the workers with the data it holds.
    held
        Parameters that all trials share.
    client
        Of the cluster.
    n_retries
        How often a trial is started again.
    patience
        Seconds to wait for a worker where there is none. After that the trials that wait are
        returned as ``"interrupted"``, which is no result: the search ends and can be continued. So
        it does at once where the client has lost the scheduler for good, which takes a client as
        long as dask's option ``distributed.comm.timeouts.connect`` says.
    return_reconstruction
        Whether the reconstructions of the trials are fetched, too.

    Raises
    ------
    TypeError
        For an asynchronous client.
    Exception
        Of `submit` and `wait`: whatever kept all workers from taking the objective.
    """

    def __init__(
        self,
        objective: Objective,
        held: Mapping[str, Any],
        client: Client,
        *,
        n_retries: int = 2,
        patience: float = 300.0,
        return_reconstruction: bool = False,
    ):
        if getattr(client, "asynchronous", False):
            raise TypeError("An asynchronous client was given: make one with asynchronous=False.")
        self._objective, self._held, self._client = objective, dict(held), client
        self._n_retries, self._patience = n_retries, patience
        self._return_reconstruction = return_reconstruction
        self._id = uuid.uuid4().hex[:12]
        self._waiting: deque[_Run] = deque()
        self._running: dict[str, _Run] = {}  # by the worker's address
        self._data: dict[str, Future] = {}  # the same
        self._ended: list[tuple[Trial, Reconstruction | None]] = []
        self._unfit: set[str] = set()  # workers that cannot take the data
        self._known: set[str] = set()  # workers, as the caller knows them
        self._call: Future | None = None
        self._slowest = math.inf  # seconds for a unit of work
        self._idle_since: float | None = None

    @property
    def capacity(self) -> int:
        """Number of workers that are there now; at least 1."""
        self._known = set(self._workers())
        return max(1, len(self._known - self._unfit))

    def submit(self, trial: Trial, limits: Limits = ()) -> None:
        """Have a trial run as soon as a worker is free."""
        self._waiting.append(_Run(trial, limits, time.perf_counter()))
        workers = self._workers()
        self._known = set(workers)
        self._place(workers)

    def wait(self) -> list[tuple[Trial, Reconstruction | None]]:
        """Trials that have ended, as soon as there is one.

        Also returns, with none, when a worker has joined that could run a further one.
        """
        from distributed import wait
        from distributed.client import CancelledError

        while self._running or self._waiting or self._ended:
            workers = self._workers()
            self._collect(workers)
            self._place(workers)
            self._tell_of_late()
            free = set(workers) - self._known - self._unfit - set(self._running)
            if self._ended or free:
                self._known = set(workers)
                ended, self._ended = self._ended, []
                return ended
            if not self._running:
                self._wait_for_workers()
                continue
            futures = [run.future for run in self._running.values()]
            try:
                with self._client.as_current():  # it need not be the default one
                    wait(futures, timeout=_LOOK, return_when="FIRST_COMPLETED")
            except TimeoutError:
                pass
            except CancelledError:  # with its worker: seen by `_collect`
                time.sleep(_LOOK / 10)
        return []

    def close(self) -> list[tuple[Trial, Reconstruction | None]]:
        """Cancel what is under way, and free the workers of the data.

        A trial that a worker has begun cannot be taken from it and is run to its end there, for
        nobody. Those that have ended by now are returned.
        """
        ended, self._ended = self._ended, []
        lost, end = [], time.perf_counter() + _LAST
        for address, run in self._running.items():
            try:
                if run.future.status == "finished":
                    ended.append(self._fetch(run, max(0.1, end - time.perf_counter())))
                    continue
            except Exception as error:
                _logger.debug("Trial %d could not be fetched: %r", run.trial.number, error)
            lost.append(f"trial {run.trial.number} (for {run.seconds():.0f} s on {address})")
        if lost:
            _logger.warning("Under way and given up: %s.", ", ".join(lost))
        futures = [run.future for run in self._running.values()]
        futures += [f for f in (*self._data.values(), self._call) if f is not None]
        self._waiting.clear()
        self._running.clear()
        self._data.clear()
        self._call = None
        try:
            self._client.cancel(futures)
        except Exception as error:  # the cluster is gone, and all of this with it
            _logger.debug("Nothing could be cancelled: %r", error)
        return ended

    def _workers(self) -> dict[str, int]:
        """Threads by address of the workers that are there."""
        for _ in range(_ASKED):
            if self._client.status != "running":  # asking would be waiting for it
                return {}
            try:
                return dict(self._client.nthreads())
            except Exception as error:  # the scheduler is busy for a moment, or gone
                _logger.debug("The scheduler does not answer: %r", error)
                time.sleep(_LOOK)
        return {}

    def _place(self, workers: Mapping[str, int]) -> None:
        """Start what waits on workers that are free."""
        for address in set(self._data) - set(workers):
            del self._data[address]
        for address, n_threads in workers.items():
            if not self._waiting:
                return
            if address in self._running or address in self._unfit:
                continue
            data = self._data_on(address)
            if data is None:
                continue
            run = self._waiting.popleft()
            run.attempts += 1
            run.started = time.perf_counter()
            run.late = False
            run.future = self._client.submit(
                _run_on_worker,
                data,
                run.trial,
                self._held,
                run.limits,
                n_threads,
                self._return_reconstruction,
                key=f"trial-{run.trial.number}-{run.attempts}-{self._id}",
                workers=[address],
                allow_other_workers=False,
                pure=False,
            )
            self._running[address] = run
            self._idle_since = None

    def _data_on(self, address: str) -> Future | None:
        """The objective on a worker, sent if it is not there; None if the worker is lost."""
        data = self._data.get(address)
        if data is None or data.status != "finished":
            try:
                # a key of its own for each worker: copies of one key are thrown away when idle
                [data] = self._client.scatter(
                    [self._objective], workers=[address], hash=False, timeout=_READY
                )
            except (OSError, TimeoutError, KeyError) as error:  # gone, or short of memory
                _logger.warning("The data could not be sent to worker %s: %r", address, error)
                return None
            except Exception as error:
                self._unfit.add(address)
                _logger.warning("Worker %s cannot take the data: %r", address, error)
                there = self._workers()
                if there and not self._running and self._unfit.issuperset(there):
                    raise
                return None
            self._data[address] = data
        return data

    def _collect(self, workers: Mapping[str, int]) -> None:
        """Take what has ended off its worker; have what was lost run again."""
        for address, run in list(self._running.items()):
            status, lost = run.future.status, None
            if status == "finished":
                try:
                    self._ended.append(self._fetch(run, _TRANSFER))
                except Exception as error:  # the worker was lost with the result
                    lost = f"its result could not be fetched: {_in_a_line(error)}"
            elif status == "error":
                try:
                    error = run.future.exception(timeout=_TRANSFER)
                except Exception as failure:  # with the reason
                    error = failure
                lost = _in_a_line(error)
            elif status != "pending" or address not in workers:
                lost = f"worker {address} was lost while it ran"
            else:
                continue
            del self._running[address]
            run.future.release()
            if lost is not None:
                self._again(run, lost)

    def _fetch(self, run: _Run, timeout: float) -> tuple[Trial, Reconstruction | None]:
        """What a run that is finished has returned."""
        returned = run.future.result(timeout=timeout)
        number = run.trial.number
        try:
            trial, reconstruction = returned
            same = isinstance(trial, Trial) and trial.number == number
        except (TypeError, ValueError):
            same = False
        if not same:
            raise TypeError(f"the worker returned {shortened(returned)} for trial {number}")
        trial.attempts = run.attempts
        if trial.status == "failed":
            _logger.warning("Trial %d failed: %s", number, trial.message)
        if trial.status == "completed":
            seconds = trial.duration / run.work
            self._slowest = seconds if self._slowest == math.inf else max(self._slowest, seconds)
        return trial, reconstruction

    def _tell_of_late(self) -> None:
        """Name, once, the workers whose trials take far longer than any before."""
        for address, run in self._running.items():
            usual = self._slowest * run.work
            if run.late or run.seconds() < max(_LEAST_LATE, _LATE * usual):
                continue
            run.late = True
            _logger.warning(
                "Trial %d has been on worker %s for %.0f s, and no other of its size took longer "
                "than %.3g s: the worker may hang. If you kill it, the trial is started again on "
                "another one. Ctrl-C ends the search and keeps all trials that have ended.",
                run.trial.number,
                address,
                run.seconds(),
                usual,
            )

    def _again(self, run: _Run, reason: str) -> None:
        """Put a trial whose run was lost back, at the front, or give it up."""
        trial = run.trial
        if run.attempts <= self._n_retries:
            _logger.warning("Trial %d is started again: %s.", trial.number, reason)
            self._waiting.appendleft(run)
            return
        trial.status, trial.attempts = "failed", run.attempts
        trial.message = (
            f"given up after {run.attempts} attempts; the last time {reason}. If it always takes "
            "its worker along, it may need more memory than the worker has."
        )
        trial.duration = round(time.perf_counter() - run.submitted, 3)
        _logger.warning("Trial %d failed: %s", trial.number, trial.message)
        self._ended.append((trial, None))

    def _wait_for_workers(self) -> None:
        """Wait a moment; give up what waits when patience is at an end."""
        now = time.perf_counter()
        if self._idle_since is None:
            self._idle_since = now
            _logger.warning(
                "No worker can take a trial: waiting up to %g s for one to join %s.",
                self._patience,
                self._client,
            )
            try:  # an adaptive cluster starts workers when something waits for them
                self._call = self._client.submit(_nothing, pure=False)
            except Exception as error:
                _logger.debug("Nobody to call workers: %r", error)
        gone = self._client.status in ("closing", "closed")
        if not gone and now - self._idle_since < self._patience:
            time.sleep(_LOOK)
            return
        message = f"no worker could take a trial for {self._patience:g} s"
        if gone:
            message = "the client has lost the scheduler, and a new client is needed"
        for run in self._waiting:
            run.trial.status, run.trial.message = "interrupted", message
            self._ended.append((run.trial, None))
        self._waiting.clear()
        self._idle_since = None


@dataclass
class _Run:
    """A trial on its way."""

    trial: Trial
    limits: Limits
    submitted: float
    started: float = 0.0  # the last time
    attempts: int = 0
    future: Future | None = None
    late: bool = False  # and told of

    @property
    def work(self) -> float:
        """Passes over the whole scan."""
        return self.trial.fidelity.cost(_ONE_PASS)

    def seconds(self) -> float:
        """Since it was given to its worker."""
        return time.perf_counter() - self.started


def _run_on_worker(
    objective: Objective,
    trial: Trial,
    held: Mapping[str, Any],
    limits: Limits,
    n_threads: int,
    return_reconstruction: bool,
) -> tuple[Trial, Reconstruction | None]:
    """One trial, in a thread of a worker."""
    trial = copy.deepcopy(trial)  # within one process nothing is sent, and it is the caller's own
    before = numba.get_num_threads()
    with _one_at_a_time:
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
        try:
            reconstruction = run_trial(objective, trial, held, limits)
        finally:
            numba.set_num_threads(before)
    return trial, reconstruction if return_reconstruction else None


def _in_a_line(error: BaseException) -> str:
    """An error within a sentence."""
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")


def _nothing() -> None:
    """Makes an adaptive cluster start a worker."""
