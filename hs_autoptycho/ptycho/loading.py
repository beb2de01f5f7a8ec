"""Patterns of a scan into memory: from an array or block by block from a lazy one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from hs_autoptycho._quantities import check_size


class DataError(ValueError):
    """The recorded patterns cannot be used; the message says which and why."""


def row_blocks(data) -> Iterator[tuple[int, int]]:
    """Start and stop of the blocks of scan rows in which to read `data`.

    A lazy array is read along its own chunks, so that none is read twice.
    """
    chunks = getattr(data, "chunks", None)
    sizes = chunks[0] if chunks is not None else (len(data),)
    start = 0
    for size in sizes:
        yield start, start + size
        start += size


def load_counts(data, *, progress: Callable[[int], object] | None = None) -> np.ndarray:
    """Read a scan, check every number, and return one array in memory.

    Parameters
    ----------
    data
        Array ``(scan_y, scan_x, k_y, k_x)``, numpy or dask, bool, integer or float.
    progress
        Called with the number of scan rows after each block.

    Returns
    -------
    array (scan_y * scan_x, k_y, k_x)
        In native byte order; a view of `data` where nothing had to be changed. Whole numbers that
        came as floats become integers: they are counts.

    Raises
    ------
    DataError
        For complex or other types, NaN, infinite or negative values, and data without a count.
    """
    _check_type(data.dtype)
    scan_shape = data.shape[:2]
    blocks = []
    for start, stop in row_blocks(data):
        block = np.asarray(data[start:stop])
        _check_type(block.dtype)  # a lazy array may be of another than it says
        _check(block, start)
        blocks.append(block)
        if progress is not None:
            progress(stop - start)
    counts = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    counts = counts.reshape(scan_shape[0] * scan_shape[1], *counts.shape[2:])
    if counts.dtype.kind == "b":
        counts = counts.view(np.uint8)
    if not counts.dtype.isnative:
        counts = counts.astype(counts.dtype.newbyteorder("="))
    if counts.dtype.kind == "f":
        counts = _whole_numbers(counts)
    elif counts.dtype == np.uint64:
        counts = _narrow(counts)
    if not counts.any():
        raise DataError("All patterns are empty: there is not one count in the data.")
    if counts.dtype.kind == "f":
        check_size(float(counts.max()), DataError)
    return counts


def _check_type(dtype: np.dtype) -> None:
    if dtype.kind not in "buif":
        raise DataError(
            f"Diffraction patterns have to be real numbers, not {dtype}. "
            "Take the intensity first, `s.amplitude**2` for a complex signal."
        )


def _check(block: np.ndarray, first_row: int) -> None:
    """Raise a DataError for values that no detector counts."""
    if block.dtype.kind in "bu":
        return
    bad, what = block < 0, "negative"
    remedy = (
        "a background that was subtracted, perhaps. Add it again, or set them to zero, "
        "`s.data = s.data.clip(0)`"
    )
    # summed in double precision: half floats would overflow
    if block.dtype.kind == "f" and not np.isfinite(block.sum(dtype=np.float64)):
        bad, what = ~np.isfinite(block), "NaN or infinite"
        remedy = "set them to zero, `s.data[~np.isfinite(s.data)] = 0`, or crop them away"
    if bad.any():
        y, x, row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{int(bad.sum())} values are {what}; the first is {block[y, x, row, column]} at scan "
            f"position (x={x}, y={y + first_row}), detector pixel (kx={column}, ky={row}): "
            f"{remedy}."
        )


def _whole_numbers(counts: np.ndarray) -> np.ndarray:
    """Floats as the smallest unsigned integers, where all of them are whole."""
    for pattern in counts:
        if not np.array_equal(pattern, np.rint(pattern)):
            return counts
    largest = float(counts.max())
    for dtype in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(dtype).max:
            return counts.astype(dtype)
    return counts


def _narrow(counts: np.ndarray) -> np.ndarray:
    """As 32 bits, or floats where they are too large: NumPy draws no part of an uint64."""
    fits = int(counts.max()) <= np.iinfo(np.uint32).max
    return counts.astype(np.uint32 if fits else np.float64)


def fingerprint(counts: np.ndarray, scan_shape: tuple[int, int]) -> str:
    """SHA-256 of the counts, the same whatever the type or byte order they were stored in."""
    digest = hashlib.sha256(repr((tuple(scan_shape), counts.shape[1:])).encode())
    kind = np.float32 if counts.dtype.kind == "f" else np.uint32
    for pattern in counts:
        digest.update(np.ascontiguousarray(pattern, dtype=kind).data)
    return digest.hexdigest()
