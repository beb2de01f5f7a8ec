"""Counts that are left on disk: read block by block, in every pass, with memory that is bounded.

A block is a rectangle of the scan along the chunks of a dask array. Whatever becomes of counts (a
smaller type, a part of the scan, thinning) is done to a block when it is read, so that nothing is
written and no pass needs more than the cache and the few blocks that are being read.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.thinning import look_at, thin

# Bytes of the patterns that are kept in the order of the kernels, at most, and where there is less
# memory than four times this, a quarter of it.
CACHE = 2**30
_SMALLEST_CACHE = 2**25
# Bytes of a block in the type of the file, at most, and threads that read blocks. A block that is
# being read exists up to so many times: as it is stored, unpacked, as dask hands it over, of its
# smaller type, and in the order of the kernels.
BLOCK = 64 * 2**20
READERS = 2
_COPIES = 5
# Chunks of more than so many blocks are read in parts.
_HUGE = 4

Rectangle = tuple[int, int, int, int]  # y0, y1, x0, x1 of the scan
Step = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Facts:
    """What a pass over the counts tells.

    Attributes
    ----------
    total : float64 array (k_y, k_x)
        Sum of all patterns.
    largest : float64 array (k_y, k_x)
        Of all patterns.
    totals : float64 array (positions,)
        Sum of each pattern's used pixels.
    """

    total: np.ndarray
    largest: np.ndarray
    totals: np.ndarray

    def less(self, other: Facts) -> Facts:
        """Of the counts that are not in a part of them; `largest` may be too large."""
        return Facts(self.total - other.total, self.largest, self.totals - other.totals)


class Cache:
    """The blocks that were used last, up to a number of bytes.

    Parameters
    ----------
    n_bytes
        At most; a single block may be larger.
    """

    def __init__(self, n_bytes: int):
        self.n_bytes = n_bytes
        self._blocks: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._taken = 0

    def __getstate__(self):
        return {"n_bytes": self.n_bytes}

    def __setstate__(self, state):
        self.__init__(**state)

    def get(self, key) -> np.ndarray | None:
        """A block, if it is there."""
        if key not in self._blocks:
            return None
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def make_room(self, n_bytes: int) -> None:
        """Forget what was not used for the longest time."""
        while self._blocks and self._taken + n_bytes > self.n_bytes:
            self._taken -= self._blocks.popitem(last=False)[1].nbytes

    def put(self, key, block: np.ndarray) -> None:
        """Keep a block."""
        self.make_room(block.nbytes)
        self._blocks[key] = block
        self._taken += block.nbytes

    def forget(self, owner) -> None:
        """Drop the blocks whose keys begin with `owner`."""
        for key in [key for key in self._blocks if key[0] == owner]:
            self._taken -= self._blocks.pop(key).nbytes


def cache_for(free: int) -> Cache:
    """The cache for so many bytes of free memory.

    A power of two: what is in it decides the order of the positions, which is not to depend on how
    busy a machine is.
    """
    size = CACHE
    while size > max(free // 4, _SMALLEST_CACHE):
        size //= 2
    return Cache(size)


def reading_memory(cache: int, block: int) -> int:
    """Bytes that counts on disk need while they are read, with blocks of so many bytes."""
    return int(cache + READERS * _COPIES * block)


def rectangles(data) -> list[Rectangle]:
    """The blocks of a dask array: small chunks that are neighbours together, huge ones in parts."""
    per_pattern = data.dtype.itemsize * data.shape[2] * data.shape[3]
    capacity = max(1, BLOCK // per_pattern)
    heights, widths = data.chunks[:2]
    widths = _joined(widths, max(max(widths), capacity // max(heights)))
    rows = max(1, capacity // max(widths))
    if max(heights) * max(widths) <= _HUGE * capacity:  # to read a part costs as much as the whole
        rows = max(rows, max(heights))
    heights = _joined(heights, rows)
    out, y = [], 0
    for height in heights:
        x = 0
        for width in widths:
            out.append((y, y + height, x, x + width))
            x += width
        y += height
    return out


def _joined(sizes: Iterable[int], most: int) -> list[int]:
    """Sizes to which neighbours are added up to `most`; those that are larger are divided."""
    out: list[int] = []
    for size in sizes:
        if out and out[-1] + size <= most:
            out[-1] += size
            continue
        parts = -(-size // most)
        out += [size * (i + 1) // parts - size * i // parts for i in range(parts)]
    return out


class StoredCounts:
    """Counts of a scan that stay where they are; an array ``(positions, k_y, k_x)`` to read from.

    Parameters
    ----------
    data
        dask array ``(scan_y, scan_x, k_y, k_x)``.
    dtype
        Of the counts after all steps.
    cache
        Shared by all that is made of the same data.
    window
        Rows and columns of the scan. Default: all.
    steps
        Done to patterns when they are read: functions of them and of their positions in the whole
        scan.
    """

    def __init__(
        self,
        data,
        dtype: np.dtype,
        cache: Cache,
        *,
        window: tuple[slice, slice] | None = None,
        steps: tuple[Step, ...] = (),
    ):
        self._data, self.dtype, self.cache, self._steps = data, np.dtype(dtype), cache, steps
        rows, columns = window or (slice(0, data.shape[0]), slice(0, data.shape[1]))
        self._window = rows, columns
        self.scan_shape = rows.stop - rows.start, columns.stop - columns.start
        inside = [
            (max(y0, rows.start), min(y1, rows.stop), max(x0, columns.start), min(x1, columns.stop))
            for y0, y1, x0, x1 in rectangles(data)
        ]
        self._blocks = [b for b in inside if b[0] < b[1] and b[2] < b[3]]
        self._facts: dict[bytes | None, Facts] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(positions, k_y, k_x)"""
        return (len(self), *self._data.shape[2:])

    @property
    def memory(self) -> int:
        """Bytes that are needed while they are read."""
        return reading_memory(self.cache.n_bytes, largest_block(self._data))

    def __len__(self) -> int:
        return self.scan_shape[0] * self.scan_shape[1]

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """The patterns of some positions; each block is read once."""
        positions = np.asarray(positions)
        out = np.empty((len(positions), *self.shape[1:]), self.dtype)
        for block, places in self.by_block(positions):
            some, counts = self.read_block(block)
            first = np.searchsorted(some, positions[places])
            out[places] = counts[first]
        return out

    def blocks(self):
        """Positions and counts of block after block, read ahead by a few threads."""
        return ahead(self.read_block, range(len(self._blocks)))

    def by_block(self, positions: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Blocks that hold some of these positions, and the places of these in `positions`."""
        numbers, _ = self.places(positions)
        order = np.argsort(numbers, kind="stable")
        used, starts = np.unique(numbers[order], return_index=True)
        return list(zip(used.tolist(), np.split(order, starts[1:]), strict=True))

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The block that each position is in, and its place there."""
        tops = np.unique([b[0] for b in self._blocks])
        lefts = np.unique([b[2] for b in self._blocks])
        widths = np.diff(np.append(lefts, self._window[1].stop))
        y, x = np.divmod(np.asarray(positions), self.scan_shape[1])
        y, x = y + self._window[0].start, x + self._window[1].start
        row = np.searchsorted(tops, y, side="right") - 1
        column = np.searchsorted(lefts, x, side="right") - 1
        place = (y - tops[row]) * widths[column] + x - lefts[column]
        return row * len(lefts) + column, place

    def facts(self, mask: np.ndarray | None = None) -> Facts:
        """What a pass over them tells, remembered; `mask` is True for the pixels to use."""
        key = None if mask is None else mask.tobytes()
        if key not in self._facts:
            self._facts[key] = self._look(mask)
        return self._facts[key]

    def know(self, facts: Facts, mask: np.ndarray | None = None) -> None:
        """Remember what is known without a pass."""
        self._facts[None if mask is None else mask.tobytes()] = facts

    def part(self, rows: slice, columns: slice) -> StoredCounts:
        """A part of the scan."""
        top, left = self._window[0].start, self._window[1].start
        window = (
            slice(top + rows.start, top + rows.stop),
            slice(left + columns.start, left + columns.stop),
        )
        return StoredCounts(self._data, self.dtype, self.cache, window=window, steps=self._steps)

    def after(self, step: Step, dtype: np.dtype) -> StoredCounts:
        """What a further step makes of the counts."""
        steps = (*self._steps, step)
        return StoredCounts(self._data, dtype, self.cache, window=self._window, steps=steps)

    def split(self, fraction: float, random_state: int) -> tuple[StoredCounts, StoredCounts]:
        """Two independent parts, as of :func:`.patterns.split_counts`, but not the same ones."""
        return (
            self.after(Thin(fraction, random_state, True), self.dtype),
            self.after(Thin(fraction, random_state, False), self.dtype),
        )

    def block_size(self, block: int) -> int:
        """Positions in a block."""
        y0, y1, x0, x1 = self._blocks[block]
        return (y1 - y0) * (x1 - x0)

    def read_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in this part of the scan, rising, and their patterns."""
        y0, y1, x0, x1 = self._blocks[block]
        counts = native(self._data[y0:y1, x0:x1])
        counts = counts.reshape(-1, *counts.shape[2:])
        rows, columns = np.arange(y0, y1)[:, None], np.arange(x0, x1)
        everywhere = (rows * self._data.shape[1] + columns).ravel()
        for step in self._steps:
            counts = step(counts, everywhere)
        rows, columns = rows - self._window[0].start, columns - self._window[1].start
        positions = (rows * self.scan_shape[1] + columns).ravel()
        return positions, counts.astype(self.dtype, copy=False)

    def _look(self, mask) -> Facts:
        pixels = self.shape[1] * self.shape[2]
        total, largest = np.zeros(pixels), np.zeros(pixels)
        totals = np.empty(len(self))
        for positions, counts in self.blocks():
            flat, sums = counts.reshape(len(counts), -1), np.empty(len(counts))
            look_at(flat, total, largest, sums)
            totals[positions] = sums if mask is None else flat[:, mask.ravel()].sum(1, dtype=float)
        shape = self.shape[1:]
        return Facts(total.reshape(shape), largest.reshape(shape), totals)


def pattern_blocks(counts, size: int):
    """Positions, as a slice or rising numbers, and their patterns, up to `size` at a time."""
    if not isinstance(counts, StoredCounts):
        for start in range(0, len(counts), size):
            yield slice(start, start + size), counts[start : start + size]
        return
    for positions, block in counts.blocks():
        for start in range(0, len(block), size):
            yield positions[start : start + size], block[start : start + size]


def ahead(function, arguments):
    """Results in the order of the arguments; a few are being made while one is used."""
    with ThreadPoolExecutor(READERS) as pool:
        pending: deque = deque()
        try:
            for argument in arguments:
                if len(pending) >= READERS:
                    yield pending.popleft().result()
                pending.append(pool.submit(function, argument))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def largest_block(data) -> int:
    """Bytes of the largest block of a dask array, or of its largest chunk where that is more."""
    per_pattern = data.dtype.itemsize * data.shape[2] * data.shape[3]
    block = max((y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in rectangles(data))
    return per_pattern * max(block, max(data.chunks[0]) * max(data.chunks[1]))


def part_that_is_read(data, rows: slice, columns: slice) -> float:
    """How much of a dask array is read for a part of the scan: whole blocks."""
    inside = [
        (y1 - y0) * (x1 - x0)
        for y0, y1, x0, x1 in rectangles(data)
        if y0 < rows.stop and y1 > rows.start and x0 < columns.stop and x1 > columns.start
    ]
    return sum(inside) / (data.shape[0] * data.shape[1])


def native(part) -> np.ndarray:
    """A part of a lazy array in memory, in C order and native bytes; bool as integers."""
    if hasattr(part, "compute"):
        part = part.compute(scheduler="synchronous")
    part = np.ascontiguousarray(part)
    if part.dtype.kind == "b":
        part = part.view(np.uint8)
    if part.dtype == np.float16:
        return part.astype(np.float32)
    return part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("="))


@dataclass(frozen=True)
class Thin:
    """A part of the counts, or with `first` False what that leaves."""

    fraction: float
    random_state: int
    first: bool

    def __call__(self, counts: np.ndarray, positions: np.ndarray) -> np.ndarray:
        taken = thin(counts, positions, self.fraction, self.random_state)
        return taken if self.first else counts - taken


@dataclass(frozen=True)
class Convert:
    """Numbers of a smaller type, divided by a gain and rounded if there is one."""

    dtype: np.dtype
    gain: float | None = None
    used: np.ndarray | None = None

    def __call__(self, counts: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if self.gain is not None:
            counts = np.rint(
                counts * (np.float32(1) if self.used is None else self.used) / self.gain
            )
        return counts.astype(self.dtype, copy=False)
