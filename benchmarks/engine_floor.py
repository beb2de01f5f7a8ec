"""The least time that a pass of ptychography can take: that of its Fourier transforms.

    python benchmarks/engine_floor.py [--threads 2] [--size 128] [--positions 4096]

prints seconds as JSON, for one forward and one inverse transform of every position's window in
single precision: with FFTW (planned with FFTW_MEASURE, if pyFFTW is installed), with SciPy, and
with the transform inside this package's kernels. The fastest batch size counts for the two
libraries. The floor is the faster of them. All transform zeros, which take the time that all
numbers take and do not grow.

A pass over an object of S slices with M modes needs :func:`transforms` times that much.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import scipy.fft
from reporting import say

from hs_autoptycho.ptycho import fft

BATCHES = 1, 4, 16, 64
REPEATS = 3


def transforms(modes: int, slices: int) -> int:
    """Pairs of a forward and an inverse transform for each position of a pass.

    The wave of a mode goes to the next slice by a forward and an inverse transform, S - 1 times,
    and from the last slice to the detector by a forward one: 2 (S - 1) + 1 transforms. The gradient
    goes the same way back. Together these are 2 (2 S - 1) transforms a mode, half as many pairs.
    Line search, position correction and the like need more; they are not in the floor.
    """
    return modes * (2 * slices - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--positions", type=int, default=4096)
    arguments = parser.parse_args()
    given = arguments.size, arguments.positions, arguments.threads
    say(json.dumps(measure(*given)))


def measure(size: int, positions: int, threads: int) -> dict[str, float | None]:
    """Seconds of a pair of transforms for all positions, by what does them."""
    libraries = {"fftw": with_fftw(size, positions, threads), "scipy": {}}
    for batch in BATCHES:
        count = batch * threads
        libraries["scipy"][batch] = fastest(scipy_pairs(size, count, positions // count, threads))
    seconds = {name: min(found.values(), default=None) for name, found in libraries.items()}
    seconds["kernel"] = fastest(kernel_pairs(size, positions, threads))
    known = [seconds[name] for name in libraries if seconds[name] is not None]
    return seconds | {"floor": min(known), "threads": threads, "size": size}


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few repetitions, after one that does not count."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def with_fftw(size: int, positions: int, threads: int) -> dict[int, float]:
    """Seconds by batch size, every thread with a plan and memory of its own."""
    try:
        import pyfftw
    except ImportError:
        return {}
    seconds = {}
    with ThreadPoolExecutor(threads) as pool:
        for batch in BATCHES:
            pairs = []
            for _ in range(threads):
                waves = pyfftw.empty_aligned((batch, size, size), np.complex64)
                pairs.append(
                    [
                        pyfftw.FFTW(
                            waves, waves, (1, 2), direction=direction, flags=["FFTW_MEASURE"]
                        )
                        for direction in ("FFTW_FORWARD", "FFTW_BACKWARD")
                    ]
                )
                waves[:] = 0
            repetitions = positions // (batch * threads)

            def work(pair, repetitions=repetitions):
                for _ in range(repetitions):
                    for transform in pair:
                        transform.execute()

            seconds[batch] = fastest(lambda pairs=pairs, work=work: list(pool.map(work, pairs)))
    return seconds


def scipy_pairs(size: int, count: int, repetitions: int, threads: int) -> Callable[[], object]:
    """Pairs of transforms by SciPy, `count` windows at a time."""
    waves = np.zeros((count, size, size), np.complex64)

    def run():
        for _ in range(repetitions):
            spectra = scipy.fft.fft2(waves, workers=threads)
            scipy.fft.ifft2(spectra, workers=threads, overwrite_x=True)

    return run


def kernel_pairs(size: int, positions: int, threads: int) -> Callable[[], object]:
    """Pairs of transforms by this package, from one thread's memory to the same."""
    plan = fft.make_plan(size, size)
    waves = np.zeros((threads, 2 * size * size), np.float32)
    spectra = np.empty_like(waves)
    scratch = np.empty((threads, fft.scratch_size(plan)), np.float32)
    repetitions = positions // threads

    def run():
        numba.set_num_threads(threads)
        _kernel_pairs(waves, spectra, scratch, plan, repetitions)

    return run


@numba.njit(parallel=True, fastmath=True, error_model="numpy")
def _kernel_pairs(waves, spectra, scratch, plan, repetitions):
    for thread in numba.prange(len(waves)):
        for _ in range(repetitions):
            fft.forward(waves[thread], spectra[thread], plan, scratch[thread])
            fft.inverse(spectra[thread], waves[thread], plan, scratch[thread])


if __name__ == "__main__":
    main()
