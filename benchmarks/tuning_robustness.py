"""What a search survives, and what further workers are worth: with a stand-in for the engine.

The stand-in sleeps instead of reconstructing, so that four workers need no four cores; everything
else is what `autotune_ptycho` runs. Three parts:

workers
    The same search on one worker of a ``LocalCluster`` and on four.
lost
    A worker of four is killed (SIGKILL) every few seconds, if another one is left; its nanny
    starts a new one.
killed
    The whole search, one trial after the other, is killed at random moments and started again
    with the same file, until it is complete; its trials are compared with those of a search that
    nobody disturbed.

    python benchmarks/tuning_robustness.py [workers] [lost] [killed]

One command, about five minutes. Needs ``distributed``.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reporting import machine, say, table, versions

from hs_autoptycho import load_study
from hs_autoptycho.tuning.executor import Distributed, InProcess
from hs_autoptycho.tuning.scores import Score
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.strategies import make_strategy
from hs_autoptycho.tuning.study import Study
from hs_autoptycho.tuning.trial import Fidelity
from hs_autoptycho.tuning.tuner import tune

SPACE = (Dimension("defocus", 100.0, 400.0), Dimension("scan_rotation", -180.0, 180.0))
FULL = Fidelity(12)
# What of a trial is the same whenever it is run.
RESULT = ("parameters", "fidelity", "purpose", "seed", "objective", "blocks", "curve", "status")


@dataclass(frozen=True)
class Sleeping:
    """A smooth score with noise by blocks and a learning curve, after a while.

    Attributes
    ----------
    seconds : float
        For a trial at full length; shorter ones take less.
    """

    seconds: float
    name: str = "sleeping"

    def __call__(self, parameters, *, fidelity, random_state, limits=()):
        defocus = (parameters["defocus"] - 287) / 100
        rotation = np.deg2rad(parameters["scan_rotation"] + 120.4)
        value = 0.5 + 0.01 * defocus**2 + 0.05 * (1 - np.cos(rotation))
        value += 0.05 / fidelity.n_iterations + 1e-4 * random_state
        rng = np.random.default_rng([random_state, int(abs(1e6 * defocus)), fidelity.n_iterations])
        blocks = value + 1e-3 * rng.standard_normal(16)
        curve = [(i, value + 0.1 / i) for i in range(1, fidelity.n_iterations + 1)]
        for number, (iteration, score) in enumerate(curve):
            time.sleep(self.seconds * fidelity.cost(FULL) / len(curve))
            if any(iteration == at and score > limit for at, limit in limits):
                return Score(score, {}, None, "stopped", curve=curve[: number + 1])
        return Score(float(blocks.mean()), {}, None, "completed", blocks.tolist(), curve)


def search(executor, path, *, strategy, n_trials, callback=None):
    """A whole search, or the rest of one."""
    plan = make_strategy(
        strategy, SPACE, full=FULL, n_positions=4096, n_trials=n_trials, random_state=1
    )
    space = {d.name: d.to_dict() for d in SPACE}
    with Study.open(path, {"fingerprint": "none", "strategy": strategy, "space": space}) as study:
        return tune(plan, executor, study, callback=callback)


def make_cluster(n_workers):
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    )
    client = Client(cluster)
    client.wait_for_workers(n_workers)
    return cluster, client


def workers(options) -> None:
    """Seconds on one worker and on four."""
    taken = {}
    for n in (1, 4):
        cluster, client = make_cluster(n)
        with cluster, client:
            executor = Distributed(Sleeping(options.seconds), {}, client)
            start = time.perf_counter()
            result = search(executor, None, strategy="full", n_trials=options.trials)
            taken[n] = time.perf_counter() - start
        assert len(result.trials) == options.trials
    rows = [
        (n, f"{s:.1f}", f"{options.trials * options.seconds / n / s:.2f}") for n, s in taken.items()
    ]
    say(f"\n{options.trials} trials of {options.seconds:g} s, Gaussian process, no barrier:\n")
    say(table(("workers", "seconds", "part of the time that workers work"), rows))
    say(f"\n4 workers are {taken[1] / taken[4]:.2f} times as fast as one (wanted: 3.5).")


def lost(options) -> None:
    """Kill a worker every few seconds."""
    cluster, client = make_cluster(4)
    done, killed, over = [], [], threading.Event()
    rng = random.Random(1)

    def kill():
        while not over.wait(options.every):
            # one that has joined: a nanny whose worker dies while it starts gives up for good
            there = client.nthreads()
            nannies = [n for n in cluster.workers.values() if n.worker_address in there]
            pids = [n.process.pid for n in nannies if n.process and n.process.pid]
            if len(pids) > 1:  # new ones need seconds to start, and trials somewhere to run
                killed.append(rng.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    with cluster, client, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.jsonl"
        executor = Distributed(Sleeping(options.seconds), {}, client)
        thread = threading.Thread(target=kill)
        start = time.perf_counter()
        thread.start()
        try:
            search(
                executor,
                path,
                strategy="full",
                n_trials=options.trials,
                callback=lambda trial, best: done.append(trial.number),
            )
        finally:
            over.set()
            thread.join()
        seconds = time.perf_counter() - start
        trials = load_study(path).trials
    numbers = [t["number"] for t in trials]
    attempts = Counter(t["attempts"] for t in trials)
    say(f"\n{len(killed)} workers killed, {options.every:g} s apart or more, in {seconds:.0f} s:\n")
    rows = [
        ("trials that ended", len(done)),
        ("of them not in the file", len(set(done) - set(numbers))),
        ("trials in the file", len(numbers)),
        ("of them twice", len(numbers) - len(set(numbers))),
        ("wanted", options.trials),
        ("completed, or stopped as hopeless", sum(t["objective"] is not None for t in trials)),
        ("failed", sum(t["status"] == "failed" for t in trials)),
        *((f"started {n} times", attempts[n]) for n in sorted(attempts)),
    ]
    say(table(("", "number"), rows))


def killed(options) -> None:
    """Kill the whole search at random moments, and go on with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "undisturbed.jsonl"
        seconds = run_child(path, options.trials, None)
        wanted = results(path)
        rng, kills, studies, torn = random.Random(1), 0, [], 0
        while kills < options.kills:
            path = Path(folder) / f"killed-{len(studies)}.jsonl"
            after, complete = [], False
            while not complete:
                # when the last kill is done, the rest is left in peace
                moment = rng.uniform(0, seconds / 4) if kills < options.kills else None
                complete = run_child(path, options.trials, moment) is not None
                if not complete:
                    kills += 1
                    torn += not path.exists() or not path.read_bytes().endswith(b"\n")
                    after.append(len(path.read_bytes().splitlines()) - 1 if path.exists() else -1)
            found = results(path)
            numbers = [number for number, _ in found]
            studies.append(
                (
                    len(studies) + 1,
                    len(after),
                    " ".join(map(str, after)),
                    len(numbers),
                    len(set(n for n, _ in wanted) - set(numbers)),
                    len(numbers) - len(set(numbers)),
                    "yes" if found == wanted else "NO",
                )
            )
    say(f"\n{kills} kills of a search of {options.trials} trials ({seconds:.0f} s undisturbed):\n")
    head = ("study", "kills", "trials there", "at the end", "lost", "doubled", "same trials")
    say(table(head, studies))
    say(f"\nFiles that had a torn line, or none, after a kill: {torn}.")


def results(path) -> list[tuple[int, str]]:
    """Number and result of the trials of a file, in its order."""
    trials = load_study(path).trials
    return [(t["number"], json.dumps([t[name] for name in RESULT])) for t in trials]


def run_child(path, n_trials, moment) -> float | None:
    """A search in another process; its seconds, or None if it was killed after `moment`."""
    command = [sys.executable, __file__, "child", str(path), "--trials", str(n_trials)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"  # everything is imported
        start = time.perf_counter()
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        assert code == 0, f"the search ended with {code}"
        return time.perf_counter() - start


def child(path, options) -> None:
    """The search that is killed."""
    say("ready")
    executor = InProcess(Sleeping(0.1), {})
    search(executor, path, strategy="multifidelity", n_trials=options.trials)


PARTS = {"workers": workers, "lost": lost, "killed": killed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a trial at full length")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between lost workers")
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    if options.parts[0] == "child":
        child(options.parts[1], options)
        return
    say(f"{machine()}\n{versions('hs_autoptycho', 'numpy', 'distributed')}")
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"{part!r} is not one of {', '.join(PARTS)}")
        PARTS[part](options)


if __name__ == "__main__":
    main()
