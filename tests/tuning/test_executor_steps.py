"""Each step of running trials on a cluster, with stand-ins for the cluster and the clock."""

import contextlib
import math

import pytest

from hs_autoptycho.tuning import executor as module
from hs_autoptycho.tuning.executor import Distributed, _in_a_line, _run_on_worker
from hs_autoptycho.tuning.trial import Fidelity, Trial


class Clock:
    def __init__(self):
        self.now, self.slept = 1000.0, []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Future:
    def __init__(self, status="pending", result=None, error=None):
        self.status, self.value, self.error = status, result, error
        self.released, self.timeouts = False, []

    def result(self, timeout):
        self.timeouts.append(timeout)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def exception(self, timeout):
        self.timeouts.append(timeout)
        if isinstance(self.error, Exception) and self.error.args == ("lost",):
            raise self.error
        return self.error

    def release(self):
        self.released = True


class Client:
    """A cluster of workers a, b, …; what is submitted stays pending."""

    def __init__(self, n_workers=2):
        self.workers = {name: 3 for name in "abcde"[:n_workers]}
        self.status, self.submitted, self.sent, self.cancelled = "running", [], [], []
        self.asked, self.fails, self.refuses = 0, 0, {}

    def nthreads(self):
        self.asked += 1
        if self.asked <= self.fails:
            raise OSError("busy")
        return self.workers

    def scatter(self, data, *, workers, hash, timeout):
        self.sent.append((workers, hash, timeout))
        if workers[0] in self.refuses:
            raise self.refuses[workers[0]]
        return [Future("finished")]

    def submit(self, function, *given, **options):
        future = Future()
        self.submitted.append((function, given, options, future))
        return future

    def cancel(self, futures):
        self.cancelled += futures


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def client():
    return Client()


def trial(number=0, n_iterations=4):
    return Trial(number, {"x": number / 7}, Fidelity(n_iterations, 0.5))


def make(client, **options):
    return Distributed("objective", {"offset": 1}, client, **options)


def ended(number=0, **options):
    """What a worker returns."""
    out = Trial(number, {"x": number / 7}, Fidelity(4, 0.5), objective=2.0, **options)
    return out, "reconstruction"


def test_defaults(clock, client):
    executor = make(client)
    assert (executor._n_retries, executor._patience) == (2, 300.0)
    assert executor._return_reconstruction is False
    assert len(executor._id) == 12 and make(client)._id != executor._id


def test_a_trial_is_placed_on_each_free_worker(clock, client):
    executor = make(client, return_reconstruction=True)
    for number in range(3):
        executor.submit(trial(number), [(1, 2.0)])
    assert [options["workers"] for _, _, options, _ in client.submitted] == [["a"], ["b"]]
    function, (data, first, held, limits, n_threads, wanted), options, _ = client.submitted[0]
    assert function is _run_on_worker and data.status == "finished"
    assert (first.number, held, limits, n_threads, wanted) == (
        0, {"offset": 1}, [(1, 2.0)], 3, True,
    )  # fmt: skip
    assert not options["allow_other_workers"] and not options["pure"]
    assert options["key"] == f"trial-0-1-{executor._id}"
    # the data are sent once, each worker's under a key of its own
    assert client.sent == [(["a"], False, 1.0), (["b"], False, 1.0)]
    runs = executor._running
    assert [(run.attempts, run.started, run.late) for run in runs.values()] == [
        (1, 1000, False)
    ] * 2
    assert [run.trial.number for run in executor._waiting] == [2]
    assert executor.capacity == 2


def test_a_worker_that_is_gone_loses_its_data(clock, client):
    executor = make(client)
    executor.submit(trial(0))
    executor.submit(trial(1))
    executor._running.clear()
    executor._place({"b": 3})
    assert list(executor._data) == ["b"]
    # data that are lost are sent again
    executor._data["b"].status = "lost"
    executor.submit(trial(2))
    assert client.sent[2:] == [(["a"], False, 1.0)]
    executor.submit(trial(3))
    assert client.sent[3:] == [(["b"], False, 1.0)]


@pytest.mark.parametrize("error", [OSError("gone"), TimeoutError(), KeyError("a")])
def test_a_worker_that_is_not_ready_is_passed_over(clock, client, error, caplog):
    client.refuses = {"a": error}
    executor = make(client)
    executor.submit(trial())
    assert list(executor._running) == ["b"] and not executor._unfit
    assert "could not be sent to worker a" in caplog.text
    assert executor.capacity == 2


def test_a_worker_that_cannot_take_the_data(clock, client):
    client.refuses = {"a": ValueError("too large"), "b": ValueError("too large")}
    executor = make(client)
    del client.workers["b"]
    client.workers["c"] = 1
    executor.submit(trial(0))
    assert executor._unfit == {"a"} and list(executor._running) == ["c"]
    assert executor.capacity == 1
    # with what is running it goes on; where there is no other worker it cannot
    client.workers = {"b": 1}
    executor.submit(trial(1))
    assert executor._unfit == {"a", "b"}
    executor._running.clear()
    client.workers = {"d": 1, "b": 1}
    client.refuses = {"d": ValueError("too large"), "b": ValueError("too large")}
    with pytest.raises(ValueError, match="too large"):
        executor._place(client.workers)
    assert executor.capacity == 1


def test_the_scheduler_is_asked_three_times(clock, client):
    executor = make(client)
    client.fails = 2
    assert executor._workers() == {"a": 3, "b": 3}
    assert clock.slept == [0.5, 0.5]
    client.asked, client.fails = 0, 3
    assert executor._workers() == {} and client.asked == 3
    client.status = "connecting"
    assert executor._workers() == {} and client.asked == 3
    assert executor.capacity == 1


def running(client, clock, *futures, **options):
    executor = make(client, **options)
    for number, future in enumerate(futures):
        executor.submit(trial(number))
        executor._running["ab"[number]].future = future
    return executor


def test_what_has_ended_is_taken_off_its_worker(clock, client):
    good = Future("finished", ended(1, duration=3.0))
    executor = running(client, clock, Future(), good)
    executor._collect(client.workers)
    assert list(executor._running) == ["a"]
    [(got, reconstruction)] = executor._ended
    assert (got.number, got.attempts, reconstruction) == (1, 1, "reconstruction")
    assert good.released and good.timeouts == [60.0]
    # four passes over half of the scan
    assert executor._slowest == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("future", "reason"),
    [
        (Future("finished", OSError("lost")), "its result could not be fetched: OSError: lost"),
        (Future("finished", ended(5)), "its result could not be fetched: TypeError: the worker"),
        (Future("finished", 3), "its result could not be fetched: TypeError: the worker"),
        (Future("finished", (1, 2, 3)), "its result could not be fetched: TypeError: the worker"),
        (Future("finished", ("no", None)), "its result could not be fetched: TypeError: the work"),
        (Future("error", error=MemoryError("full.\nat line 3")), "MemoryError: full"),
        (Future("error", error=RuntimeError("lost")), "RuntimeError: lost"),
        (Future("cancelled"), "worker a was lost while it ran"),
        (Future("lost"), "worker a was lost while it ran"),
    ],
)
def test_what_was_lost_is_started_again(clock, client, future, reason, caplog):
    executor = running(client, clock, future, n_retries=1)
    executor._collect(client.workers)
    assert not executor._running and not executor._ended and future.released
    [run] = executor._waiting
    assert run.trial.number == 0
    assert f"Trial 0 is started again: {reason}" in caplog.text
    # at the front, and twice at most
    executor.submit(trial(7))
    assert [r.trial.number for r in executor._running.values()] == [0, 7]
    executor._running["a"].future = future
    clock.now += 2.34567
    executor._collect(client.workers)
    [(failed, _)] = executor._ended
    assert (failed.number, failed.status, failed.attempts) == (0, "failed", 2)
    assert failed.duration == 2.346
    assert failed.message.startswith(f"given up after 2 attempts; the last time {reason}")


def test_a_worker_that_left_takes_its_trial_along(clock, client):
    executor = running(client, clock, Future(), Future())
    executor._collect({"b": 3})
    assert list(executor._running) == ["b"] and len(executor._waiting) == 1


def test_the_slowest_trial_of_its_size(clock, client):
    executor = make(client)
    for seconds, n_iterations, status in (
        (4.0, 4, "completed"), (9.0, 18, "completed"), (99.0, 4, "pruned"), (99.0, 4, "failed"),
        (6.0, 4, "completed"), (1.0, 4, "completed"),
    ):  # fmt: skip
        run = module._Run(trial(0, n_iterations), [], 0.0)
        run.future = Future("finished", ended(duration=seconds, status=status))
        executor._fetch(run, 1.0)
    assert executor._slowest == 3.0


def test_late_trials_are_told_of_once(clock, client, caplog):
    executor = running(client, clock, Future(), Future())
    clock.now += 1e6
    executor._tell_of_late()
    assert not caplog.text  # nothing is known yet
    executor._slowest = 4.0  # 8 s for trials of this size
    executor._running["a"].started = clock.now - 79.9
    executor._running["b"].started = clock.now - 80.1
    for _ in range(2):
        executor._tell_of_late()
    assert caplog.text.count("Trial 1 has been on worker b for 80 s") == 1
    assert "Trial 0" not in caplog.text and "took longer than 8 s" in caplog.text
    # a minute at least
    executor._slowest, executor._running["a"].started = 0.1, clock.now - 59.9
    executor._tell_of_late()
    assert "Trial 0" not in caplog.text
    clock.now += 0.2
    executor._tell_of_late()
    assert "Trial 0 has been on worker a for 60 s" in caplog.text


def test_patience_where_there_is_no_worker(clock, client, caplog):
    client.workers = {}
    executor = make(client, patience=2.0)
    executor.submit(trial(0))
    executor.submit(trial(1))
    for _ in range(4):
        executor._wait_for_workers()
    assert clock.slept == [0.5] * 4 and not executor._ended
    assert caplog.text.count("waiting up to 2 s for one to join") == 1
    # one call for workers
    [(function, _, options, future)] = client.submitted
    assert function is module._nothing and not options["pure"] and executor._call is future
    executor._wait_for_workers()
    assert [(t.status, t.message) for t, _ in executor._ended] == [
        ("interrupted", "no worker could take a trial for 2 s")
    ] * 2
    assert not executor._waiting and executor._idle_since is None


@pytest.mark.parametrize("status", ["closing", "closed"])
def test_a_client_that_has_lost_the_scheduler(clock, client, status):
    client.workers = {}
    executor = make(client)
    executor.submit(trial(0))
    client.status = status
    client.submit = None  # whoever calls it fails
    executor._wait_for_workers()
    [(lost, _)] = executor._ended
    assert lost.message == "the client has lost the scheduler, and a new client is needed"
    assert not clock.slept


def test_the_end(clock, client, caplog):
    good, bad = Future("finished", ended(0)), Future("finished", OSError("lost"))
    executor = running(client, clock, good, bad)
    data, call = list(executor._data.values()), Future()
    executor._call = call
    executor._ended = [(trial(9), None)]
    executor.submit(trial(3))
    clock.now += 12.3
    found = executor.close()
    assert [t.number for t, _ in found] == [9, 0]
    assert good.timeouts == [10.0]
    assert "Under way and given up: trial 1 (for 12 s on b)." in caplog.text
    assert client.cancelled == [good, bad, *data, call]
    assert executor._call is None
    assert not (executor._waiting or executor._running or executor._data or executor._ended)
    assert executor.close() == [] and caplog.text.count("given up") == 1


def test_the_end_takes_ten_seconds_at_most(clock, client):
    class Slow(Future):
        def result(self, timeout):
            clock.now += 9.95
            return super().result(timeout)

    first, second = Slow("finished", ended(0)), Slow("finished", ended(1))
    executor = running(client, clock, first, second)
    assert [t.number for t, _ in executor.close()] == [0, 1]
    assert first.timeouts == [10.0] and second.timeouts == pytest.approx([0.1])
    # nor does a cluster that is gone keep it from ending
    executor = running(client, clock, Future())
    client.cancel = None
    assert executor.close() == []


def test_waiting_returns_what_has_ended(clock, client):
    pytest.importorskip("distributed")
    executor = make(client)
    assert executor.wait() == []
    executor._ended = [(trial(4), None)]
    [(got, _)] = executor.wait()
    assert got.number == 4 and not executor._ended
    # a worker that has joined is news, even without a trial that has ended
    executor = running(client, clock, Future(), Future())
    client.workers = {**client.workers, "c": 1}
    assert executor.wait() == []
    assert executor._known == {"a", "b", "c"}


def test_waiting_looks_again_every_half_second(clock, client, monkeypatch):
    distributed = pytest.importorskip("distributed")
    from distributed.client import CancelledError

    future = Future()
    executor = running(client, clock, future)
    del client.workers["b"]
    executor._known = {"a"}
    errors = iter([TimeoutError(), CancelledError()])
    waited = []

    def wait(futures, timeout, return_when):
        waited.append((futures, timeout, return_when))
        error = next(errors, None)
        if error is None:
            future.status, future.value = "finished", ended(0)
            return
        raise error

    client.as_current = contextlib.nullcontext
    monkeypatch.setattr(distributed, "wait", wait)
    [(got, _)] = executor.wait()
    assert got.number == 0
    assert waited == [([future], 0.5, "FIRST_COMPLETED")] * 3
    assert clock.slept == pytest.approx([0.05])  # after the one that was cancelled


def test_work_and_time_of_a_run(clock):
    run = module._Run(trial(n_iterations=6), [], 5.0)
    assert run.work == pytest.approx(3.0)
    assert (run.started, run.attempts, run.late) == (0.0, 0, False)
    run.started = 990.0
    assert run.seconds() == 10.0
    assert make(Client())._slowest == math.inf


def test_errors_in_a_line():
    assert _in_a_line(ValueError("first.\nsecond")) == "ValueError: first"
