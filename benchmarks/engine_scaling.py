"""What bounds the engine on many cores: its parts timed on one thread, shared out on paper.

    python benchmarks/engine_scaling.py [--batch-sizes 256 1024 4096]

A batch is shared out in groups of positions, whose number depends on batch, window and object alone
(so that results do not depend on threads); the object's rows are shared out in other steps; the
rest runs on one thread. All three are timed on one thread, and the time for T threads is

    serial + rows / T + positions · (largest share of the positions that one thread of T gets).

Memory traffic beyond the caches is not in it: what a position writes that other threads read are
its group's gradients, once a batch. The scan is that of benchmarks/engine.py in size: 64 × 64
positions in steps of 2.5 pixels, 128 × 128 detector pixels, random counts.
"""

import argparse
import os
import time

os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402 (threads are set before)
from reporting import machine, say, table, versions  # noqa: E402

from hs_autoptycho.ptycho import kernels, updates  # noqa: E402
from hs_autoptycho.ptycho.patterns import Patterns  # noqa: E402
from hs_autoptycho.ptycho.positions import place, scan_positions  # noqa: E402
from hs_autoptycho.ptycho.settings import Settings  # noqa: E402
from hs_autoptycho.ptycho.state import State, make_detector  # noqa: E402

WINDOW, SCAN, STEP = (128, 128), (64, 64), 2.5
THREADS = (1, 2, 4, 8, 16, 32, 64)


def fastest(function, repetitions: int = 5) -> float:
    """Seconds, the shortest of a few."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def parts(state: State, batch_size: int) -> tuple[int, dict[str, float]]:
    """Number of groups, and seconds of the parts of a batch's step on one thread."""
    generator = np.random.default_rng(0)
    indices = generator.choice(len(state.positions), batch_size, replace=False)
    batch = state.batch(indices)
    gradients = state.gradients(batch)
    update = updates.LeastSquares(Settings(step_object=1e-6, step_probe=1e-6))
    rows = {"add_groups": 0.0, "object_direction": 0.0, "add_windows": 0.0,
            "line_search_terms": 0.0, "add_scaled": 0.0}  # fmt: skip
    originals = {name: getattr(kernels, name) for name in rows}

    def timed(name):
        def run(*arguments):
            start = time.perf_counter()
            originals[name](*arguments)
            rows[name] += time.perf_counter() - start

        return run

    repetitions = 5
    step = fastest(lambda: update(state, batch, gradients, probe_held=False), repetitions)
    for name in rows:
        setattr(kernels, name, timed(name))
    for _ in range(repetitions):
        update(state, batch, gradients, probe_held=False)
    for name, original in originals.items():
        setattr(kernels, name, original)
    in_rows = sum(rows.values()) / repetitions
    return len(batch.visit.bands), {
        "positions": fastest(lambda: state.gradients(batch)),
        "rows": in_rows,
        "serial": max(0.0, step - in_rows) + fastest(lambda: state.batch(indices)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 1024, 4096])
    arguments = parser.parse_args()
    say(machine())
    say(versions("hs_autoptycho", "numpy", "numba"))
    generator = np.random.default_rng(0)
    n = SCAN[0] * SCAN[1]
    blocks = (generator.poisson(2.0, (256, *WINDOW)).astype(np.uint8) for _ in range(n // 256))
    patterns = Patterns.from_blocks(blocks, n, WINDOW)
    y, x = np.indices(WINDOW) - 64
    probe = np.exp(-(y**2 + x**2) / 2 / 20**2 * (1 - 2j))
    placement = place(scan_positions(SCAN, STEP), WINDOW)
    state = State.start(patterns.plan, placement, probe[None], make_detector(patterns))
    state.measure_illumination()
    rows = []
    for batch_size in arguments.batch_sizes:
        groups, seconds = parts(state, batch_size)
        whole = sum(seconds.values())
        speedups = []
        for threads in THREADS:
            share = -(-groups // threads) / groups  # the thread with the most groups
            speedups.append(
                whole
                / (seconds["serial"] + seconds["rows"] / threads + seconds["positions"] * share)
            )
        shares = [
            f"{100 * seconds[name] / whole:.1f} %" for name in ("positions", "rows", "serial")
        ]
        rows.append([batch_size, groups, *shares, *(f"{s:.1f}" for s in speedups)])
    head = ["batch", "groups", "positions", "rows", "serial", *(f"{t} threads" for t in THREADS)]
    say(table(head, rows))


if __name__ == "__main__":
    main()
