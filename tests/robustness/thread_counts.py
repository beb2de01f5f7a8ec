"""How many threads are at work within the methods, in a process that may have several.

Prints JSON: by situation, what was seen within the kernels or functions. ``NUMBA_NUM_THREADS`` and
``OMP_NUM_THREADS`` are set by who starts it.
"""

import json
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import numba
import numpy as np

sys.path.append(str(Path(__file__).parent))
from judging import OPTIONS, good  # noqa: E402
from watching import n_threads, pool_sizes, settings  # noqa: E402

from hs_autoptycho.clustering import splitting  # noqa: E402
from hs_autoptycho.ptycho import solver  # noqa: E402
from hs_autoptycho.tuning import optimizer  # noqa: E402

seen: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
_lock = threading.Lock()
_inside: dict[str, int] = defaultdict(int)


@contextmanager
def looking(situation: str):
    """Note what a piece of work may use, and how many do it at once."""
    with _lock:
        _inside[situation] += 1
        now = seen[situation]
        now["at once"].append(_inside[situation])
        now["numba"].append(numba.get_num_threads())
        for kind in ("blas", "openmp"):
            now[kind].append(max(pool_sizes(kind).values(), default=1))
        now["threads"].append(n_threads())
    try:
        yield
    finally:
        with _lock:
            _inside[situation] -= 1


def watched(situation: str, function):
    def call(*arguments, **options):
        with looking(situation):
            return function(*arguments, **options)

    return call


def brightness(patterns: np.ndarray) -> np.ndarray:
    """A user's features; one pattern is tried before, in the main thread."""
    tried = threading.current_thread() is threading.main_thread()
    with nullcontext() if tried else looking(_situation):
        flat = patterns.reshape(len(patterns), -1).astype(float)
        return flat @ np.random.default_rng(0).random((flat.shape[1], 3))


def error_of(reconstruction) -> float:
    """A user's objective; `fit`, which is looked at, has just ended."""
    return float(reconstruction.errors[-1])


def lazily(method: str):
    signal = good(method).as_lazy()
    signal.data = signal.data.rechunk((3, 5, *signal.data.shape[2:]))
    return signal


def reconstruct(signal, **options):
    signal.reconstruct_ptycho(**OPTIONS["reconstruct_ptycho"], **options)


def tune(signal, **options):
    changed = {"strategy": "full", "n_trials": 5, "objective": error_of}
    signal.autotune_ptycho(**{**OPTIONS["autotune_ptycho"], **changed, **options})


def cluster(signal, **options):
    signal.cluster_hierarchical(**{**OPTIONS["cluster_hierarchical"], **options})


def with_cluster(call, *arguments, as_client=False, **options):
    from distributed import Client, LocalCluster

    started = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with LocalCluster(processes=False, **started) as workers, Client(workers) as client:
        call(*arguments, **options, **({"client": client} if as_client else {}))


CALLS = {
    "reconstruct": lambda: reconstruct(good("reconstruct_ptycho"), num_workers=2),
    "reconstruct lazily": lambda: reconstruct(lazily("reconstruct_ptycho"), num_workers=2),
    "tune": lambda: tune(good("autotune_ptycho"), num_workers=2),
    "tune on a cluster": lambda: with_cluster(tune, good("autotune_ptycho"), as_client=True),
    "cluster": lambda: cluster(good("cluster_hierarchical"), num_workers=2),
    "cluster with one": lambda: cluster(good("cluster_hierarchical"), num_workers=1),
    "cluster lazily": lambda: cluster(
        lazily("cluster_hierarchical"), num_workers=2, features=brightness
    ),
    "cluster on a cluster": lambda: with_cluster(
        cluster, lazily("cluster_hierarchical"), features=brightness
    ),
}


def main() -> None:
    global _situation
    before = settings()
    for _situation, call in CALLS.items():
        with (
            mock.patch.object(solver._Run, "_pass", watched(_situation, solver._Run._pass)),
            mock.patch.object(splitting, "propose", watched(_situation, splitting.propose)),
            mock.patch.object(
                optimizer.GaussianProcessOptimizer,
                "_best",
                watched(f"{_situation}: model", optimizer.GaussianProcessOptimizer._best),
            ),
        ):
            call()
        after = settings()
        changed = [name for name in before if before[name] != after[name]]
        for situation in (_situation, f"{_situation}: model"):
            seen[situation] |= {"afterwards": n_threads(), "changed": changed}
        before = after
    out = {
        situation: {
            "at once": max(what["at once"]),
            "numba": sorted(set(what["numba"])),
            "blas": sorted(set(what["blas"])),
            "openmp": sorted(set(what["openmp"])),
            "more threads": max(what["threads"]) - what["afterwards"],
            "changed": what["changed"],
        }
        for situation, what in seen.items()
        if what["at once"]
    }
    sys.stdout.write(json.dumps(out))


if __name__ == "__main__":
    main()
