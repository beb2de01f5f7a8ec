"""Passes over all patterns of a scan, in blocks that fit in memory.

The data are a numpy or a dask array ``(scan_y, scan_x, k_y, k_x)``. A pass reads every block once,
hands its patterns to a small object, and forgets them. Blocks follow the chunks of a dask array, so
that no chunk is read twice; a chunk too large for that is read in parts. Blocks are read and worked
on by threads, or by the workers of a ``distributed`` cluster where a client is active.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
from dask.system import CPU_COUNT
from threadpoolctl import threadpool_limits

# bytes of a block read from a dask array, of which every worker holds one or two, and of a block
# of an array in memory, which is only work to be shared
_LARGEST_BLOCK = 96 * 2**20
_BLOCK_IN_MEMORY = 8 * 2**20

# y0, y1, x0, x1: a rectangle of the scan
Block = tuple[int, int, int, int]


class Kernel(Protocol):
    """Turns patterns into a few numbers each. Picklable, and safe to call from several threads."""

    def __call__(self, patterns: np.ndarray, positions: np.ndarray) -> np.ndarray: ...


class Statistic(Protocol):
    """What is accumulated over patterns, in the manner of LiberTEM's user-defined functions."""

    def process(self, patterns: np.ndarray, positions: np.ndarray) -> None:
        """Take in patterns ``(n, k_y, k_x)`` of the scan's positions ``y * scan_x + x``."""

    def merge(self, other: Any) -> None:
        """Take in what another object of this kind has accumulated."""

    def empty(self) -> Any:
        """Another object of this kind that has seen nothing."""


S = TypeVar("S", bound=Statistic)


def scan_blocks(data) -> list[Block]:
    """The rectangles of the scan in which to read `data`, along the chunks of a dask array."""
    per_pattern = data.dtype.itemsize * data.shape[2] * data.shape[3]
    chunks = getattr(data, "chunks", None)
    capacity = (_BLOCK_IN_MEMORY if chunks is None else _LARGEST_BLOCK) // per_pattern
    capacity = max(1, capacity)
    heights, widths = chunks[:2] if chunks is not None else ((data.shape[0],), (data.shape[1],))
    blocks = []
    y = 0
    for height in heights:
        x = 0
        for width in widths:
            columns = min(width, capacity)
            rows = max(1, capacity // columns)
            for y0 in range(y, y + height, rows):
                for x0 in range(x, x + width, columns):
                    blocks.append(
                        (y0, min(y0 + rows, y + height), x0, min(x0 + columns, x + width))
                    )
            x += width
        y += height
    return blocks


def map_patterns(
    data,
    kernel: Kernel,
    n_values: int,
    *,
    dtype: Any = np.float32,
    blocks: list[Block] | None = None,
    progress: Callable[[int], object] | None = None,
    num_workers: int | None = None,
) -> np.ndarray:
    """A few numbers for every pattern.

    Parameters
    ----------
    data
        Array ``(scan_y, scan_x, k_y, k_x)``, numpy or dask.
    kernel
        Called with patterns ``(n, k_y, k_x)`` and their positions ``y * scan_x + x``; returns
        ``(n, n_values)``.
    n_values
        Numbers a pattern.
    dtype
        Of the result.
    blocks
        Rectangles to read, by default all of the scan. What is not read stays zero.
    progress
        Called with the number of patterns after each block.
    num_workers
        Number of threads. Default: all cores.

    Returns
    -------
    array (scan_y, scan_x, n_values)
    """
    result = np.zeros((*data.shape[:2], n_values), dtype)

    def store(block: Block, values: np.ndarray) -> None:
        y0, y1, x0, x1 = block
        result[y0:y1, x0:x1] = values.reshape(y1 - y0, x1 - x0, n_values)

    _run(data, _Map(kernel), blocks, store, progress, num_workers)
    return result


def reduce_patterns(
    data,
    statistic: S,
    *,
    blocks: list[Block] | None = None,
    progress: Callable[[int], object] | None = None,
    num_workers: int | None = None,
) -> S:
    """Accumulate a statistic over all patterns.

    Parameters are those of `map_patterns`. Blocks are merged in the order of the scan, so that the
    result does not depend on the number of workers.
    """
    total = statistic.empty()

    def store(block: Block, part: S) -> None:
        total.merge(part)

    _run(data, _Reduce(statistic), blocks, store, progress, num_workers)
    return total


class _Map:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel

    def __call__(self, patterns, positions):
        return self.kernel(patterns, positions)


class _Reduce:
    def __init__(self, statistic: Statistic):
        self.statistic = statistic

    def __call__(self, patterns, positions):
        part = self.statistic.empty()
        part.process(patterns, positions)
        return part


def _run(data, task, blocks, store, progress, num_workers) -> None:
    blocks = scan_blocks(data) if blocks is None else blocks
    client = _active_client() if hasattr(data, "chunks") else None
    run = _run_distributed if client is not None else _run_threads
    for block, values in run(data, task, blocks, client or num_workers):
        store(block, values)
        if progress is not None:
            progress((block[1] - block[0]) * (block[3] - block[2]))


def thread_pool(n: int) -> ThreadPoolExecutor:
    """So many threads, none of which starts further ones in OpenMP, as scikit-learn would.

    A limit of OpenMP's threads counts in the thread that sets it, and not in those that it starts.
    """
    return ThreadPoolExecutor(n, initializer=threadpool_limits, initargs=(1, "openmp"))


def _run_threads(data, task, blocks, num_workers):
    workers = num_workers or CPU_COUNT
    # the threads are ours: those of the linear algebra would only be in their way
    with threadpool_limits(1), thread_pool(workers) as pool:
        pending: deque = deque()
        try:
            for block in blocks:
                if len(pending) > workers:
                    yield _result(pending)
                y0, y1, x0, x1 = block
                part = data[y0:y1, x0:x1]
                pending.append((block, pool.submit(_work, part, task, block, data.shape[1])))
            while pending:
                yield _result(pending)
        finally:
            for _, future in pending:
                future.cancel()


def _run_distributed(data, task, blocks, client):
    import dask

    task = client.scatter(task, broadcast=True)
    window = 2 * sum(client.nthreads().values())
    pending: deque = deque()
    try:
        for block in blocks:
            if len(pending) >= window:
                yield _result(pending)
            y0, y1, x0, x1 = block
            part = dask.delayed(_work)(data[y0:y1, x0:x1], task, block, data.shape[1])
            pending.append((block, client.compute(part)))
        while pending:
            yield _result(pending)
    finally:
        client.cancel([future for _, future in pending])


def _result(pending):
    block, future = pending.popleft()
    return block, future.result()


def _work(part, task, block: Block, scan_x: int):
    y0, y1, x0, x1 = block
    patterns = _in_memory(part)
    patterns = patterns.reshape(-1, *patterns.shape[2:])
    positions = (np.arange(y0, y1)[:, None] * scan_x + np.arange(x0, x1)).ravel()
    return task(patterns, positions)


def _in_memory(part) -> np.ndarray:
    """A block as numba can read it: C order, native bytes, no bool, floats of 4 or 8 bytes."""
    if hasattr(part, "compute"):
        if part.npartitions == 1:
            # as an array, a single chunk would be copied once more
            part = part.to_delayed().item()
        part = part.compute(scheduler="synchronous")
    part = np.ascontiguousarray(part)
    if part.dtype.kind not in "buif":  # a lazy array may be of another type than it says
        raise TypeError(
            f"Diffraction patterns have to be real numbers; a block of the data is {part.dtype}."
        )
    if part.dtype.kind == "b":
        return part.view(np.uint8)
    if part.dtype.kind == "f" and part.dtype.itemsize not in (4, 8):
        return part.astype(np.float32 if part.dtype.itemsize == 2 else np.float64)
    return part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("="))


def _active_client():
    """The client of a ``distributed`` cluster that dask would use now, or None."""
    import sys

    if "distributed" not in sys.modules:
        return None
    try:
        return sys.modules["distributed"].get_client()
    except ValueError:
        return None
