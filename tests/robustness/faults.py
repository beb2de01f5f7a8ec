"""What can go wrong around a search, made to happen: for the tests and for ``reliability.py``.

Most of it runs a stand-in for the engine that sleeps instead of reconstructing; a fault is armed by
a file in a folder, and the next trial that finds it there has it. As a program, ``python faults.py
search FOLDER`` is a search that another process can kill, ``python faults.py methods FOLDER`` runs
the three methods as they are called for on stdin.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import operator
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

# seconds after which a scheduler takes a silent worker for lost; much less, and on a busy machine
# it loses those that are only slow to import
SILENCE = 20
# seconds in which whatever is awaited has happened, unless something hangs
PATIENCE = 120
ENVIRONMENT = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
# what of a trial is the same whenever and wherever it is run
RESULT = ("parameters", "fidelity", "purpose", "seed", "objective", "blocks", "curve", "status")


# --- the stand-in, and the search with it -----------------------------------------------------


class Cursed(float):
    """A number that can be sent but not received."""

    def __reduce__(self):
        return operator.truediv, (1, 0)


@dataclass
class Faulty:
    """A parabola after a while; takes a fault that is armed in its folder.

    Attributes
    ----------
    folder : str
        Every start is written to its file ``starts``.
    seconds : float
    """

    folder: str
    seconds: float = 0.05
    name: str = "stand-in"

    def __call__(self, parameters, *, fidelity, random_state, limits=()):
        folder, x = Path(self.folder), parameters["defocus"]
        with (folder / "starts").open("a") as file:
            file.write(f"{x!r} {os.getpid()}\n")
        fault = _taken(folder)
        if fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "hangs":
            wait_until((folder / "let-go").exists, 10 * PATIENCE)
        if fault == "raises":
            raise RuntimeError("a fault of this trial")
        if fault == "nothing":
            return None
        time.sleep(self.seconds)
        value = (x / 100 - 2.7) ** 2
        score = SimpleNamespace(  # a `Score`, without the time to import it on every worker
            value=value,
            metrics={"process": os.getpid()},
            reconstruction=None,
            status="completed",
            blocks=[value, 2 * value],
            curve=[(1, 3 * value)],
        )
        if fault == "nan":
            score.value = float("nan")
        if fault == "text":
            score.value = "0.5"
        if fault == "blocks":
            score.blocks = [object()]
        if fault == "status":
            score.status = "fine"
        if fault == "cursed":
            score.metrics["cursed"] = Cursed(1)
        return score


def arm(folder, fault: str) -> Path:
    """Have the next trial take a fault; returns the file that is gone when it has."""
    path = Path(folder) / f"armed-{fault}"
    path.touch()
    return path


def _taken(folder: Path) -> str | None:
    for path in sorted(folder.glob("armed-*")):
        with contextlib.suppress(FileNotFoundError):  # another worker has it
            path.rename(folder / f"taken-{path.name.removeprefix('armed-')}-{os.getpid()}")
            return path.name.removeprefix("armed-")
    return None


def victim(folder, fault: str) -> int:
    """The process that has taken a fault."""
    wait_until(lambda: list(Path(folder).glob(f"taken-{fault}-*")))
    [path] = Path(folder).glob(f"taken-{fault}-*")
    return int(path.name.rpartition("-")[2])


def wait_until(condition, seconds: float = PATIENCE) -> None:
    """Wait for something; raises a TimeoutError where it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.02)


def search(executor, path, n_trials: int, *, callback=None):
    """A whole search with the stand-in, or the rest of one."""
    from hs_autoptycho.tuning.space import Dimension
    from hs_autoptycho.tuning.strategies import make_strategy
    from hs_autoptycho.tuning.study import Study
    from hs_autoptycho.tuning.trial import Fidelity
    from hs_autoptycho.tuning.tuner import tune

    space = [Dimension("defocus", 100.0, 400.0)]
    plan = make_strategy(
        "random", space, full=Fidelity(12), n_positions=99, n_trials=n_trials, random_state=1
    )
    with Study.open(path, {"fingerprint": "none"}) as study:
        return tune(plan, executor, study, callback=callback)


def in_process(folder, path, n_trials: int, *, seconds: float = 0.0, callback=None):
    """The same, one trial after the other."""
    from hs_autoptycho.tuning.executor import InProcess

    return search(InProcess(Faulty(str(folder), seconds), {}), path, n_trials, callback=callback)


def results(path) -> dict[int, str]:
    """Result by number of the trials of a file."""
    from hs_autoptycho import load_study

    trials = load_study(path).trials
    return {t["number"]: json.dumps([t[name] for name in RESULT]) for t in trials}


def lines(path) -> int:
    """Whole lines of trials in a file, read without the package."""
    return max(0, Path(path).read_bytes().count(b"\n") - 1) if Path(path).exists() else 0


def digest(path) -> str:
    """Of a file, or of all that is in a folder."""
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        whole.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return whole.hexdigest()


# --- other processes --------------------------------------------------------------------------


class Child:
    """Another process, of which each line on stdout is a dictionary.

    Parameters
    ----------
    *words
        Command line of this file.
    around
        Command that runs it.
    environment
        Further variables.
    """

    def __init__(self, *words, around=(), environment=None):
        self.process = subprocess.Popen(
            [*around, sys.executable, __file__, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            start_new_session=True,  # Ctrl-C in a terminal goes to all processes of a group
        )
        self._said: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._said.put(line)
        self._said.put("")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()

    def say(self, **words) -> None:
        """Send it a line."""
        self.process.stdin.write(json.dumps(words) + "\n")

    def heard(self, *keys: str, seconds: float = PATIENCE) -> dict:
        """The next line that has one of some entries, those before it forgotten."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._said.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"no {keys} within {seconds} s") from None
            if not line:
                raise EOFError(f"the process ended with {self.process.wait()} before {keys}")
            said = json.loads(line)
            if any(key in said for key in keys):
                return said

    def send(self, number, *, group: bool = False) -> None:
        """A signal, to it or to all processes of its group."""
        (os.killpg if group else os.kill)(self.process.pid, number)


class Processes:
    """A cluster of separate processes: ``dask scheduler`` and ``dask worker`` on loopback.

    Parameters
    ----------
    folder
        For their files.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.scheduler: subprocess.Popen | None = None
        self.workers: list[subprocess.Popen] = []
        self.address = ""

    def start_scheduler(self) -> None:
        """Start one, where the last one was if there was one."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] or "0"
        options = ["--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-jupyter"]
        self.scheduler = self._start("scheduler", *options, "--scheduler-file", str(file))
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]

    def kill_scheduler(self) -> None:
        """End it, as a power cut does."""
        self.scheduler.kill()
        self.scheduler.wait()

    def start_worker(self, *, nanny: bool = False) -> None:
        """Start one more, of one thread; with a nanny it is replaced when it is lost."""
        options = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
        options += ["--local-directory", str(self.folder), "--nanny" if nanny else "--no-nanny"]
        self.workers.append(self._start("worker", self.address, *options))

    def _start(self, *words) -> subprocess.Popen:
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        ttl = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{SILENCE}s"}
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"{words[0]}.log").open("a"),
            env={**os.environ, **ENVIRONMENT, **ttl, "PYTHONPATH": path},
            start_new_session=True,
        )

    def close(self) -> None:
        """End them all."""
        for process in (*self.workers, self.scheduler):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):  # those of a nanny, too
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


# --- the programs -----------------------------------------------------------------------------


def _say(**words) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class _Heard(logging.Handler):
    """Hands warnings on."""

    def emit(self, record):
        _say(warning=record.getMessage())


def _outcome(function) -> None:
    """Say what a call has returned, or which exception it raised."""
    try:
        _say(ended=True, **function())
    except KeyboardInterrupt:
        _say(ended=True, error="KeyboardInterrupt")
    except Exception as error:
        _say(ended=True, error=type(error).__name__, message=str(error))


def _search(options) -> None:
    """A search that another process can kill; says every trial that is in the file."""
    _limit_files(options.file_size)
    if options.clock:
        _turn_the_clock(options.clock)
    logging.getLogger("hs_autoptycho").addHandler(_Heard(logging.WARNING))
    folder, executor = Path(options.folder), None
    if options.workers or options.scheduler:
        from distributed import Client, LocalCluster

        from hs_autoptycho.tuning.executor import Distributed

        sys.path.append(str(Path(__file__).parent))
        from faults import Faulty as Objective  # not of __main__, which workers have not

        client = Client(
            options.scheduler
            or LocalCluster(
                n_workers=options.workers, threads_per_worker=1, dashboard_address=":0",
                silence_logs=50,
            )
        )  # fmt: skip
        executor = Distributed(Objective(str(folder), options.seconds), {}, client)
    else:
        from hs_autoptycho.tuning.executor import InProcess

        executor = InProcess(Faulty(str(folder), options.seconds), {})

    def run():
        _say(ready=True)
        found = search(
            executor,
            folder / "study.jsonl",
            options.trials,
            callback=lambda trial, best: _say(trial=trial.number),
        )
        return {"trials": len(found.trials), "interrupted": found.interrupted}

    _outcome(run)


def _limit_files(size: int | None) -> None:
    """Have every write beyond so many bytes of a file fail, as on a full disk."""
    if size is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _turn_the_clock(every: float) -> None:
    """Have the wall clock jump back and forth by hours every so many seconds, for this process."""
    true, hours = time.time, (0, 7, -5, 30, -26, 1)
    time.time = lambda: true() + 3600 * hours[int(time.monotonic() / every) % len(hours)]


class _Bar:
    """Instead of a progress bar: says how far a method is, and waits there where it is told to."""

    pause: tuple[str, int, float] | None = None

    def __init__(self, total, desc, **_):
        self.total, self.desc, self.n = total, desc, 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def update(self, n=1):
        self.n += n
        _say(bar=self.desc, at=self.n)

    def set_postfix(self, **words):
        _say(bar=f"{self.desc} {' '.join(words)}", at=self.n)

    def close(self):
        pass


def _methods(options) -> None:
    """The three methods on a small scan, as they are called for on stdin.

    A line is ``{"method": name, "options": {...}, "lazy": bool}``; the scan is the file ``scan.*``
    of the folder.
    """
    import hyperspy.api as hs

    from hs_autoptycho import _running

    logging.getLogger("hs_autoptycho").addHandler(_Heard(logging.WARNING))
    _running.hyperspy_progressbar = _Bar
    [path] = Path(options.folder).glob("scan.*")
    whole = hs.load(path)
    _limit_files(options.file_size)
    _say(ready=True)
    for line in _lines():
        call = json.loads(line)
        scan = hs.load(path, lazy=True) if call.get("lazy") else whole
        before = hashlib.sha256(whole.data).hexdigest()

        # JSON has no tuples; of a list of two, these two values would be tried
        space = call["options"].get("parameters", {})
        space.update({name: tuple(limits) for name, limits in space.items()})

        def run(call=call, scan=scan):
            result = getattr(scan, call["method"])(**call["options"])
            said = {"status": result.status, "notes": result.notes}
            if hasattr(result, "history"):
                said["passes"] = len(result.history.data)
            if "save" in call:
                result.save(call["save"], overwrite=True)
            if hasattr(result, "trials"):
                said["trials"] = len(result.trials or ())
            if hasattr(result, "n_clusters"):
                said["clusters"] = result.n_clusters
            return said

        with contextlib.suppress(KeyboardInterrupt):  # one that came too late
            _say(begun=call["method"], threads=threading.active_count())
            _outcome(run)
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say(
            over=True,
            same=before == hashlib.sha256(whole.data).hexdigest(),
            threads=threading.active_count(),
        )


def _lines():
    while True:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it would take the line along
        line = sys.stdin.readline()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not line:
            return
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=("search", "methods"))
    parser.add_argument("folder")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--scheduler")
    parser.add_argument("--file-size", type=int)
    parser.add_argument("--clock", type=float, help="seconds between two jumps of the clock")
    options = parser.parse_args()
    # a shell starts jobs in the background with Ctrl-C ignored, and so would all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    {"search": _search, "methods": _methods}[options.program](options)


if __name__ == "__main__":
    main()
