"""How fast the Fourier transforms inside the kernels are, against the libraries.

Forward transforms of complex float32 arrays on one thread with warm caches, as the engine meets
them: a few arrays that fit the second-level cache together, transformed over and over. A library
gets the arrays as one batch, and the best it offers: FFTW its plan of `FFTW_MEASURE`, in place and
out of place; pocketfft (scipy) and ducc with leave to overwrite. All take turns and the fastest
turn of each counts. pyfftw and ducc0 are left out where they are not installed. One command, about
a minute:

    python benchmarks/fft.py [--sizes 64 96 128] [--repetitions 30]
"""

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter

for _library in ("NUMBA", "OMP"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import numpy as np  # noqa: E402  (numba reads the number of threads when it is imported)
import scipy.fft  # noqa: E402
from numba import njit  # noqa: E402
from reporting import machine, say, table, versions  # noqa: E402

from hs_autoptycho.ptycho.fft import forward, make_plan, radices, scratch_size  # noqa: E402

SIZES = (32, 48, 60, 64, 80, 96, 100, 120, 122, 124, 126, 127, 128, 130, 144, 160, 192, 200, 240,
         250, 256, 512, 514)  # fmt: skip
CACHE = 512 * 1024  # bytes of the arrays of one batch
# Transforms without a norm in between: the numbers grow, yet stay far from the ends of float32.
CALLS = 8
START = 1e-10


@njit
def _forward_all(sources, spectrum, plan, scratch, calls):
    for _ in range(calls):
        for n in range(len(sources)):
            forward(sources[n], spectrum, plan, scratch)


def _aligned(shape, dtype) -> np.ndarray:
    """An array that starts where a cache line does."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def _ours(waves: np.ndarray):
    """A function that refills the arrays and one that transforms them `CALLS` times."""
    plan = make_plan(*waves.shape[1:])
    pixels = plan.rows * plan.columns
    sources = _aligned((len(waves), 2 * pixels), np.float32)
    spectrum = _aligned(2 * pixels, np.float32)
    scratch = _aligned(scratch_size(plan), np.float32)

    def fill():
        sources[:, :pixels] = waves.real.reshape(len(waves), -1)
        sources[:, pixels:] = waves.imag.reshape(len(waves), -1)

    return fill, lambda: _forward_all(sources, spectrum, plan, scratch, CALLS)


def _repeated(source: np.ndarray, waves: np.ndarray, transform: Callable[[], object]):
    def fill():
        source[:] = waves

    def run():
        for _ in range(CALLS):
            transform()

    return fill, run


def _scipy(waves: np.ndarray):
    source = _aligned(waves.shape, np.complex64)
    return _repeated(source, waves, lambda: scipy.fft.fft2(source, workers=1, overwrite_x=True))


def _ducc(waves: np.ndarray):
    import ducc0

    source = _aligned(waves.shape, np.complex64)
    return _repeated(
        source, waves, lambda: ducc0.fft.c2c(source, axes=(1, 2), out=source, nthreads=1)
    )


def _fftw(waves: np.ndarray, in_place: bool):
    import pyfftw

    source = _aligned(waves.shape, np.complex64)
    target = source if in_place else _aligned(waves.shape, np.complex64)
    plan = pyfftw.FFTW(source, target, axes=(1, 2), flags=("FFTW_MEASURE",), threads=1)
    return _repeated(source, waves, plan.execute)


def contestants(waves: np.ndarray) -> dict:
    """What takes part: the engine's transforms first."""
    found = {"here": [_ours(waves)], "scipy": [_scipy(waves)]}
    if find_spec("ducc0"):
        found["ducc"] = [_ducc(waves)]
    if find_spec("pyfftw"):
        found["FFTW"] = [_fftw(waves, in_place) for in_place in (True, False)]
    return found


def measure(size: int, repetitions: int, seed: int) -> dict[str, float]:
    """Microseconds of one transform of `size` × `size` by each contestant."""
    rng = np.random.default_rng(seed)
    batch = max(1, CACHE // (8 * size**2))
    waves = rng.normal(size=(2, batch, size, size)) * START
    waves = (waves[0] + 1j * waves[1]).astype(np.complex64)
    names = contestants(waves)
    best = dict.fromkeys(names, np.inf)
    for _ in range(repetitions):
        for name, ways in names.items():
            for fill, run in ways:
                fill()
                start = perf_counter()
                run()
                best[name] = min(best[name], perf_counter() - start)
    return {name: 1e6 * seconds / (CALLS * batch) for name, seconds in best.items()}


def _factors(size: int) -> str:
    return " · ".join(str(radix) for radix in radices(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    say(machine())
    libraries = [name for name in ("ducc0", "pyfftw") if find_spec(name)]
    say(versions("numpy", "scipy", "numba", *libraries))
    say("Microseconds of one transform; ratio: the fastest library over the engine's own")
    rows, names = [], []
    for size in arguments.sizes:
        times = measure(size, arguments.repetitions, arguments.seed)
        names = list(times)
        ratio = min(times[name] for name in names[1:]) / times[names[0]]
        rows.append(
            [f"{size}²", _factors(size), *(f"{t:.1f}" for t in times.values()), f"{ratio:.2f}"]
        )
    say(table(["size", "radices", *names, "ratio"], rows))


if __name__ == "__main__":
    main()
