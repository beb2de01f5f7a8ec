"""Patterns of a scan, checked: in memory, or left on disk and read block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from hs_autoptycho._quantities import check_size
from hs_autoptycho.ptycho.stored import (
    Cache,
    Convert,
    Facts,
    StoredCounts,
    ahead,
    native,
    rectangles,
)
from hs_autoptycho.ptycho.thinning import look_at


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
    check_type(data.dtype)
    scan_shape = data.shape[:2]
    counts = None
    for start, stop in row_blocks(data):
        block = np.asarray(data[start:stop])
        check_type(block.dtype)  # a lazy array may be of another than it says
        _check_shape(block, (stop - start, *data.shape[1:]), start)
        _check(block, start)
        if counts is None and stop == len(data):
            counts = block
        elif counts is None:
            counts = np.empty(data.shape, block.dtype)
        elif not np.can_cast(block.dtype, counts.dtype):
            counts = counts.astype(np.result_type(counts, block))
        if counts is not block:
            counts[start:stop] = block
        if progress is not None:
            progress(stop - start)
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


def check_type(dtype: np.dtype) -> None:
    """Raise a DataError for what are no real numbers."""
    if dtype.kind not in "buif":
        raise DataError(
            f"Diffraction patterns have to be real numbers, not {dtype}. "
            "Take the intensity first, `s.amplitude**2` for a complex signal."
        )


def _check_shape(block: np.ndarray, shape: tuple, first_row: int, first_column: int = 0) -> None:
    """Raise a DataError for a block of a lazy array that is not as large as the array says."""
    if block.shape != shape:
        raise DataError(
            f"The block of the data that begins at scan position (x={first_column}, "
            f"y={first_row}) has the shape {block.shape}, and {shape} was announced: what makes "
            "or reads the lazy data gives less or more than it says."
        )


def _check(block: np.ndarray, first_row: int, first_column: int = 0) -> None:
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
            f"position (x={x + first_column}, y={y + first_row}), detector pixel (kx={column}, "
            f"ky={row}): {remedy}."
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
    """SHA-256 of the patterns' own, the same whatever the type or byte order they were stored in.

    Patterns are compared in single precision.
    """
    return _joint_digest(_digests(counts), scan_shape, counts.shape[1:])


def _digests(patterns: np.ndarray) -> list[bytes]:
    return [
        hashlib.sha256(np.ascontiguousarray(pattern, dtype=np.float32).data).digest()
        for pattern in patterns
    ]


def _joint_digest(digests, scan_shape, detector_shape) -> str:
    digest = hashlib.sha256(repr((tuple(scan_shape), tuple(detector_shape))).encode())
    for one in digests:
        digest.update(one)
    return digest.hexdigest()


def leave_counts(
    data,
    cache: Cache,
    *,
    mask: np.ndarray | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[StoredCounts, str]:
    """Read a scan once, check every number, and leave it where it is.

    Parameters
    ----------
    data
        dask array ``(scan_y, scan_x, k_y, k_x)``, as for `load_counts`.
    cache
        For what is read later.
    mask
        Bool (k_y, k_x): pixels that the sums of patterns are of.
    progress
        Called with the number of positions after each block.

    Returns
    -------
    StoredCounts, str
        Of the type that `load_counts` would give them, and their fingerprint.

    Raises
    ------
    DataError
        As `load_counts`.
    """
    check_type(data.dtype)
    scan_shape, shape = data.shape[:2], data.shape[2:]
    pixels = shape[0] * shape[1]
    total, largest = np.zeros(pixels), np.zeros(pixels)
    totals, digests = np.empty(scan_shape), np.empty((*scan_shape, 32), np.uint8)
    whole = True

    def look(rectangle):
        y0, y1, x0, x1 = rectangle
        block = native(data[y0:y1, x0:x1])
        check_type(block.dtype)
        _check_shape(block, (y1 - y0, x1 - x0, *shape), y0, x0)
        flat = block.reshape(-1, pixels)
        parts, sums = np.zeros((2, pixels)), np.empty(len(flat))
        all_whole, negative = look_at(flat, parts[0], parts[1], sums)
        if negative or not np.isfinite(sums).all():
            _check(block, y0, x0)
        if mask is not None:
            sums = flat[:, mask.ravel()].sum(1, dtype=float)
        found = np.frombuffer(b"".join(_digests(flat)), np.uint8)
        return rectangle, parts, sums, all_whole, found

    for (y0, y1, x0, x1), parts, sums, all_whole, found in ahead(look, rectangles(data)):
        total += parts[0]
        np.maximum(largest, parts[1], out=largest)
        totals[y0:y1, x0:x1] = sums.reshape(y1 - y0, x1 - x0)
        digests[y0:y1, x0:x1] = found.reshape(y1 - y0, x1 - x0, -1)
        whole &= bool(all_whole)
        if progress is not None:
            progress((y1 - y0) * (x1 - x0))
    if not largest.any():
        raise DataError("All patterns are empty: there is not one count in the data.")
    dtype = _type_for(data.dtype, whole, float(largest.max()))
    counts = StoredCounts(data, dtype, cache, steps=(Convert(dtype),))
    if dtype.kind == "f":
        check_size(float(largest.max()), DataError)
    images = total.reshape(shape), largest.reshape(shape)
    counts.know(Facts(*images, totals.ravel()), mask)
    one = digests.reshape(-1, 32).tobytes()
    return counts, _joint_digest([one], scan_shape, shape)


def _type_for(dtype: np.dtype, whole: bool, largest: float) -> np.dtype:
    """The type of counts that `load_counts` gives."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and whole:
        for integer in (np.uint8, np.uint16, np.uint32):
            if largest <= np.iinfo(integer).max:
                return np.dtype(integer)
    if dtype.kind == "u" and dtype.itemsize == 8:
        return np.dtype(np.uint32 if largest <= np.iinfo(np.uint32).max else np.float64)
    if dtype == np.float16:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")
