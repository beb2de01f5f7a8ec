"""What a process holds, and the settings that all code in it shares; on Linux."""

import gc
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from pathlib import Path

import dask
import distributed  # noqa: F401  (adds its own to dask's settings)
import hyperspy.api as hs
import matplotlib
import matplotlib.pyplot as plt
import numba
import numpy as np
from threadpoolctl import threadpool_info

# of the arrays' memory, as numpy tells tracemalloc
ARRAYS = tracemalloc.Filter(True, "*", domain=np.lib.tracemalloc_domain)


def n_threads() -> int:
    """Threads of the process, those of compiled libraries too."""
    return len(os.listdir("/proc/self/task"))


def holdings() -> dict[str, int]:
    """What must not become more."""
    gc.collect()
    return {
        "threads": n_threads(),
        "Python threads": threading.active_count(),
        # of these, the one that the list is read through
        "open files": len(os.listdir("/proc/self/fd")) - 1,
        "figures": len(plt.get_fignums()),
        "temporary files": sum(1 for _ in Path(tempfile.gettempdir()).rglob("*")),
    }


def settled_holdings(target: dict[str, int], seconds: float = 5.0) -> dict[str, int]:
    """`holdings`, as soon as they are those; a thread that has ended may be listed for a moment."""
    end = time.monotonic() + seconds
    while (now := holdings()) != target and time.monotonic() < end:
        time.sleep(0.05)
    return now


def array_bytes() -> int:
    """Memory of all arrays that are alive; needs tracemalloc."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces([ARRAYS])
    return sum(trace.size for trace in snapshot.traces)


def pool_sizes(*kinds: str) -> dict[str, int]:
    """Threads that each library of these kinds, ``"blas"`` or ``"openmp"``, would use here now."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] in kinds]
    return {pool["filepath"]: pool["num_threads"] for pool in pools}


def settings() -> dict[str, object]:
    """What a method may change while it runs, and has to put back."""
    state = np.random.get_state()
    return {
        "numba threads": numba.get_num_threads(),
        "BLAS threads": pool_sizes("blas"),
        "OpenMP threads": pool_sizes("openmp"),
        "dask": repr(dask.config.config),
        "floating-point errors": (np.geterr(), np.geterrcall()),
        "print options": np.get_printoptions(),
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "matplotlib": dict(matplotlib.rcParams),
        "backend": matplotlib.get_backend(),
        "numpy's random numbers": (state[0], state[1].tolist(), *state[2:]),
        "Python's random numbers": random.getstate(),
        "signal handlers": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "logging": [
            (logger.level, list(logger.handlers), logger.propagate)
            for logger in (logging.getLogger(), logging.getLogger("hs_autoptycho"))
        ],
        "progress bars": hs.preferences.General.show_progressbar,
    }
