"""The section ``long`` of reliability.py: what many runs in one process leave behind.

Three processes, each with a folder of its own for temporary files, do one kind of work over and
over: trials of one search, clusterings that are plotted, reconstructions. Every so often the
process notes its resident memory, objects, open files, threads, figures and temporary files, after
a collection of garbage. Time is that of the processor, for the machine may have other work. A drift
is the median slope of a line through all pairs of points (Theil and Sen), with its 95 % interval,
from the first to the last. Some objects are kept by others: six a plot by HyperSpy and matplotlib,
hundreds a cluster by distributed, a few a lazy read by dask.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
from reporting import machine, say, table, versions
from scipy.stats import theilslopes

DESCRIPTION = "drift of memory, files, threads and time over long runs in one process"
MIB = 2**20
#: What has to stay as it is once everything has been used: key and head of the column.
COUNTS = {
    "files": "open files",
    "threads": "threads",
    "figures": "figures",
    "temporary": "temporary files",
}
#: What memory may gain from the first sample to the last, beside what the work itself keeps: the
#: heap has gaps, and the machine's allocator hands pages back late. In MiB.
SLACK = 24.0
#: A drift of time from the first to the last counts if it is certain and larger than this part.
TOLERANCE = 0.05
SCAN = {"scan_shape": (12, 14), "detector_shape": (40, 36), "defocus": 120, "scan_rotation": 12}
SPACE = {
    "defocus": (60.0, 180.0),
    "scan_rotation": (2.0, 22.0),
    "scan_scale": (0.95, 1.05),
    "C12a": (-40.0, 40.0),
    "C12b": (-40.0, 40.0),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", action="append", choices=WORK, help="only this; may be repeated")
    parser.add_argument("--trials", type=int, default=500, help="of one search (%(default)s)")
    parser.add_argument("--clusterings", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--reconstructions", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--inside", choices=WORK, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables; returns how many drifts there are."""
    if arguments.inside:
        with tempfile.TemporaryDirectory() as kept:
            WORK[arguments.inside][0](arguments, Path(kept))
        return 0
    packages = ("hs_autoptycho", "hyperspy", "numpy", "numba", "scikit-optimize", "distributed")
    say(f"{machine()}; {versions(*packages)}\n")
    drifts = []
    for name in arguments.work or WORK:
        start = time.perf_counter()
        found = list(_lines_of_process(name, arguments))
        say(f"## {name}: {time.perf_counter() - start:.0f} s\n")
        drifts += [f"{name}: {drift}" for drift in WORK[name][1](found)]
    for drift in drifts:
        say(f"- drifts: {drift}")
    say(f"{len(drifts)} drifts.")
    return len(drifts)


def _lines_of_process(name: str, arguments):
    """What the process that does the work says, as dictionaries."""
    command = [sys.executable, str(Path(__file__).with_name("reliability.py")), "long"]
    for option in ("trials", "clusterings", "reconstructions"):
        command += [f"--{option}", str(getattr(arguments, option))]
    with tempfile.TemporaryDirectory() as temporary:
        environment = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        process = subprocess.Popen(
            [*command, "--inside", name],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, "TMPDIR": temporary},
        )
        for line in process.stdout:
            yield json.loads(line)
        if process.wait():
            raise SystemExit(f"The process of the {name} ended with {process.returncode}.")


def take_sample(number: int, **more) -> dict:
    """What this process holds now."""
    import matplotlib.pyplot as plt
    import psutil

    gc.collect()
    process = psutil.Process()
    return {
        "number": number,
        "memory": process.memory_info().rss / MIB,
        "objects": len(gc.get_objects()),
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "figures": len(plt.get_fignums()),
        # but for the folder that the process itself keeps its work in
        "temporary": sum(1 for _ in Path(tempfile.gettempdir()).iterdir()) - 1,
        **more,
    }


def slope(x, y) -> tuple[float, float, float]:
    """Median slope, and the ends of its 95 % interval."""
    found = theilslopes(y, x)
    return float(found[0]), float(found[2]), float(found[3])


def drift_of_time(x, seconds, of: float) -> tuple[str, bool]:
    """From the first to the last, in words, as a part; and whether it is certain and matters."""
    length = max(x) - min(x)
    parts = [length * value / of for value in slope(x, seconds)]
    text = f"{100 * parts[0]:+.1f} % ({100 * parts[1]:+.1f} to {100 * parts[2]:+.1f})"
    return text, parts[1] > 0 and parts[0] > TOLERANCE


def common_drifts(samples, *, kept: float = 0.0) -> list[str]:
    """Say how memory drifts, and tell what drifts that may not; `kept` MiB are the work's own."""
    numbers = [sample["number"] for sample in samples]
    out = []
    for key, name in COUNTS.items():
        values = [sample[key] for sample in samples]
        if max(values) > values[0]:
            out.append(f"{name} from {values[0]} to {max(values)}")
    length = numbers[-1] - numbers[0]
    low, middle, high = np.array(slope(numbers, [s["memory"] for s in samples]))[[1, 0, 2]] * length
    objects = slope(numbers, [s["objects"] for s in samples])
    say(
        f"Memory from number {numbers[0]} to {numbers[-1]}: {middle:+.1f} MiB ({low:+.1f} to "
        f"{high:+.1f}); Python objects each: {objects[0]:+.1f} ({objects[1]:+.1f} to "
        f"{objects[2]:+.1f})."
    )
    if middle > SLACK + kept:
        out.append(f"memory by {middle:.1f} MiB")
    return out


def print_samples(samples, more: dict[str, str]) -> None:
    heads = ["number", "memory, MiB", "Python objects", *COUNTS.values(), *more.values()]
    rows = [
        [s["number"], f"{s['memory']:.1f}", s["objects"], *(s[key] for key in COUNTS)]
        + [s[key] for key in more]
        for s in samples
    ]
    say(table(heads, rows) + "\n")


# --- trials of one search ---------------------------------------------------------------------


class Meter:
    """Processor time spent within some functions."""

    def __init__(self):
        self.seconds = {"engine": 0.0, "gaussian process": 0.0}

    def metered(self, kind: str, function):
        def call(*arguments, **options):
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[kind] += time.process_time() - start

        return call


def do_trials(arguments, folder: Path) -> None:
    """One search with a model of all its trials, each of the same length."""
    from hs_autoptycho.data import twisted_bilayer_mos2
    from hs_autoptycho.tuning import executor, optimizer

    signal = twisted_bilayer_mos2(**SCAN)
    options = {
        "objective": "held_out",
        "strategy": "full",
        "n_trial_iterations": 4,
        "n_iterations": 4,
        "show_progressbar": False,
    }
    # everything is compiled and imported before the first sample
    signal.autotune_ptycho(SPACE, n_trials=12, **options)
    meter, study = Meter(), folder / "study.jsonl"
    last = {"all": time.process_time(), **meter.seconds}
    number = 0

    def each(trial: dict) -> None:
        nonlocal last, number
        number += 1
        now = {"all": time.process_time(), **meter.seconds}
        spent = {key: now[key] - last[key] for key in now}
        spent["rest"] = spent["all"] - spent["engine"] - spent["gaussian process"]
        line = {"number": number, "spent": spent, "status": trial["status"]}
        if number % 50 == 0:
            line |= take_sample(number, study=study.stat().st_size)
        say(json.dumps(line))
        last = {"all": time.process_time(), **meter.seconds}  # what is measured here left out

    ask = optimizer.GaussianProcessOptimizer.ask
    with ExitStack() as patches:
        patch = mock.patch.object
        engine = meter.metered("engine", executor.run_trial)
        patches.enter_context(patch(executor, "run_trial", engine))
        model = meter.metered("gaussian process", ask)
        patches.enter_context(patch(optimizer.GaussianProcessOptimizer, "ask", model))
        result = signal.autotune_ptycho(
            SPACE, n_trials=arguments.trials, study=study, callback=each, **options
        )
    ending = time.process_time() - last["all"]
    file = folder / "result.hspy"
    result.save(file)
    sizes = {
        "object": result.data.nbytes,
        "trials": len(json.dumps(result.trials)),
        "file": file.stat().st_size,
        "study": study.stat().st_size,
    }
    say(json.dumps({"ending": ending, "sizes": sizes}))


def show_trials(found) -> list[str]:
    *trials, end = found
    kinds = ("engine", "gaussian process", "rest")
    samples = [line for line in trials if "memory" in line]
    for sample in samples:
        lately = [t["spent"] for t in trials if sample["number"] - 50 < t["number"]]
        lately = lately[:50]
        for kind in kinds:
            sample[kind] = f"{1e3 * np.median([spent[kind] for spent in lately]):.1f}"
        sample["kB"] = f"{sample['study'] / 1e3:.0f}"
    heads = {"engine": "engine, ms a trial", "gaussian process": "Gaussian process, ms"}
    print_samples(samples, {**heads, "rest": "rest of the tuner, ms", "kB": "study, kB"})
    numbers = [trial["number"] for trial in trials]
    seconds = {kind: [trial["spent"][kind] for trial in trials] for kind in kinds}
    one = float(np.median(seconds["engine"]))
    out = []
    for kind in kinds:
        text, drifts = drift_of_time(numbers, seconds[kind], of=one)
        say(f"Drift of the {kind} over {len(trials)} trials, of the engine's time: {text}.")
        if drifts and kind != "gaussian process":
            out.append(f"time of the {kind}: {text}")
    # the matrices of the process: squares of distances by columns, and a few more
    n = len(trials)
    kept = (len(SPACE) + 8) * n**2 * 8 / MIB
    say(f"Matrices of a Gaussian process of {n} trials: about {kept:.0f} MiB.")
    out += common_drifts(samples, kept=kept)
    sizes = ", ".join(f"{name} {size / 1e3:.0f} kB" for name, size in end["sizes"].items())
    say(f"The result holds: {sizes}. After the last trial: {end['ending']:.1f} s.\n")
    return out


# --- clusterings and reconstructions -------------------------------------------------------------


def do_clusterings(arguments, folder: Path) -> None:
    """Clusterings, in memory and lazily by turns, each with three plots."""
    import matplotlib.pyplot as plt

    from hs_autoptycho.data import ws2_wse2_junction

    signal = ws2_wse2_junction(scan_shape=(20, 24), detector_shape=(36, 44), electrons=300)
    lazy = signal.as_lazy()
    lazy.data = lazy.data.rechunk((7, 9, 36, 44))
    for number in range(1, arguments.clusterings + 1):
        start = time.process_time()
        chosen = signal if number % 2 else lazy
        result = chosen.cluster_hierarchical(num_workers=2, show_progressbar=False)
        middle = time.process_time()
        result.plot()
        result.plot_tree()
        result.plot_overlay()
        plt.close("all")
        plotted = time.process_time()
        size = result.data.nbytes
        del result
        work = {"work": middle - start, "plots": plotted - middle, "size": size}
        say(json.dumps(take_sample(number, lazily=chosen is lazy, **work)))


def do_reconstructions(arguments, folder: Path) -> None:
    """Reconstructions of a signal in memory, of a lazy one, and with a cluster, by turns."""
    import matplotlib.pyplot as plt
    from distributed import Client, LocalCluster

    from hs_autoptycho.data import twisted_bilayer_mos2

    signal = twisted_bilayer_mos2(**SCAN)
    lazy = signal.as_lazy()
    lazy.data = lazy.data.rechunk((5, 6, 40, 36))
    options = {"defocus": 120.0, "scan_rotation": 12.0, "n_iterations": 10}
    options |= {"n_probe_modes": 2, "show_progressbar": False}
    cluster_options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    for number in range(1, arguments.reconstructions + 1):
        kind = ("in memory", "lazy", "cluster")[(number - 1) % 3]
        start = time.process_time()
        with ExitStack() as opened:
            if kind == "cluster":
                cluster = opened.enter_context(LocalCluster(processes=False, **cluster_options))
                opened.enter_context(Client(cluster))
            chosen = signal if kind == "in memory" else lazy
            result = chosen.reconstruct_ptycho(**options)
        middle = time.process_time()
        result.plot()
        result.plot_summary()
        plt.close("all")
        plotted = time.process_time()
        size = result.data.nbytes
        del result, opened
        work = {"work": middle - start, "plots": plotted - middle, "size": size}
        say(json.dumps(take_sample(number, kind=kind, **work)))


def show_repeated(found) -> list[str]:
    """A table of every tenth; the first turns warm up."""
    every = max(1, len(found) // 10)
    shown = [found[0], *(s for s in found if s["number"] % every == 0 and s["number"] > 1)]
    for sample in found:
        sample["ms"] = f"{1e3 * sample['work']:.0f}"
        sample["ms of plots"] = f"{1e3 * sample['plots']:.0f}"
    print_samples(shown, {"ms": "work, ms", "ms of plots": "plots, ms"})
    settled = found[min(6, len(found) // 3) :]
    out = common_drifts(settled)
    numbers = [sample["number"] for sample in settled]
    for key in ("work", "plots"):
        groups: dict = {}
        for sample in settled:
            groups.setdefault(sample.get("kind", sample.get("lazily")), []).append(sample[key])
        typical = {kind: np.median(values) for kind, values in groups.items()}
        relative = [
            sample[key] / typical[sample.get("kind", sample.get("lazily"))] for sample in settled
        ]
        text, drifts = drift_of_time(numbers, relative, of=1.0)
        say(f"Drift of the time of {key} over {len(settled)}: {text}.")
        if drifts:
            out.append(f"time of {key}: {text}")
    say(f"A result holds {settled[-1]['size'] / 1e3:.0f} kB of data.\n")
    return out


# by name: what the process does, and what shows it
WORK = {
    "trials": (do_trials, show_trials),
    "clusterings": (do_clusterings, show_repeated),
    "reconstructions": (do_reconstructions, show_repeated),
}
