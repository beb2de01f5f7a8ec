"""A zarr store that another program is writing a scan to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.loading import DataError

_logger = logging.getLogger(__name__)


def follow(
    path: str | PathLike,
    *,
    scan_shape: tuple[int, int] | None = None,
    timeout: float = 60.0,
    poll: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[np.ndarray]:
    """Rows of a scan as they are written to a zarr store.

    The array of patterns may have the size of the whole scan from the start, or grow along its
    first axis. A row is there as soon as its last pattern, or one of a later row, has a count:
    that can be told of any store, whatever its chunks.

    Parameters
    ----------
    path
        Of a zarr array or group, or a zspy file; it need not exist yet.
    scan_shape
        (slow, fast). Default: the array's, if it has four dimensions; of one that grows it is
        needed, since what there is first is taken for the whole scan otherwise.
    timeout
        Seconds without a new row after which no more are waited for.
    poll
        Seconds between two looks.
    clock, sleep
        Time in seconds, and what waits.

    Yields
    ------
    array (rows, fast, k_y, k_x)
        Of one row or more.

    Raises
    ------
    DataError
        If nothing has come in time, the store holds no patterns, or they do not fit `scan_shape`.
    """
    done, total, last = 0, None if scan_shape is None else scan_shape[0], clock()
    trouble: Exception | None = None
    while total is None or done < total:
        try:
            array = find_patterns(path)
            _check_shape(path, array, scan_shape)
            rows = array if array.ndim == 4 else _Rows(array, scan_shape)
            total = rows.shape[0] if total is None else total
            there = _rows_there(rows, done, total)
            block = np.asarray(rows[done:there]) if there > done else None
            trouble = None
        except DataError:
            raise
        except Exception as error:  # what is being written can be read in part only: look again
            block, trouble = None, error
        if block is not None:
            yield block
            done, last = done + len(block), clock()
        elif clock() - last > timeout:
            if not done:
                reason = f" Last error: {trouble}." if trouble is not None else ""
                raise DataError(f"No row of a scan came to {path} in {timeout:g} s.{reason}")
            _logger.warning(
                "No row came to %s in %g s: the scan ends after %d rows.%s",
                path, timeout, done, f" Last error: {trouble}." if trouble is not None else "",
            )  # fmt: skip
            return
        else:
            sleep(poll)


def wait_for_scan(
    path: str | PathLike,
    *,
    timeout: float = 60.0,
    poll: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """The zspy file at a path as a lazy signal, as soon as it can be opened.

    Returns
    -------
    Signal2D or None
        For its axes and metadata; None if the store is not HyperSpy's.

    Raises
    ------
    DataError
        If there is nothing in time.
    """
    import hyperspy.api as hs

    last = clock()
    while True:
        try:
            find_patterns(path)
            if Path(path).suffix != ".zspy":
                return None
            return hs.load(path, lazy=True)
        except DataError:
            raise
        except Exception as error:  # not there yet, or half of it
            if clock() - last > timeout:
                raise DataError(f"{path} could not be opened in {timeout:g} s: {error}.") from error
        sleep(poll)


def find_patterns(path: str | PathLike):
    """The largest array of three or four dimensions in a zarr store.

    Raises
    ------
    DataError
        If there is none in a store that has arrays.
    """
    import zarr

    found = list(_arrays(zarr.open(str(path), mode="r")))
    if any(_is_pickled(array) for array in found):
        raise DataError(
            f"{path} has arrays that are pickled, which could run a program: it is not read. A "
            "file that a microscope or HyperSpy wrote has none."
        )
    fitting = [array for array in found if array.ndim in (3, 4)]
    if fitting:
        return max(fitting, key=lambda array: array.size)
    if found:
        raise DataError(
            f"{path} has no array of patterns: (scan_y, scan_x, k_y, k_x) or (n, k_y, k_x) is "
            f"needed, its arrays have the shapes {[array.shape for array in found]}."
        )
    raise FileNotFoundError(f"no array in {path} yet")


def shape_of_scan(path: str | PathLike) -> tuple[int, int] | None:
    """(slow, fast) of the patterns in a store; None where they come one after the other."""
    array = find_patterns(path)
    return tuple(array.shape[:2]) if array.ndim == 4 else None


def _check_shape(path, array, scan_shape: tuple[int, int] | None) -> None:
    if array.ndim == 4 and scan_shape is not None:
        slow, fast = array.shape[:2]
        if fast != scan_shape[1] or slow > scan_shape[0]:
            raise DataError(
                f"{path} has {slow} rows of {fast} patterns, but `scan_shape` says "
                f"{scan_shape[0]} rows of {scan_shape[1]}."
            )


def _is_pickled(array) -> bool:
    """Whether zarr would unpickle what it reads."""
    codecs = [*(getattr(array, "filters", None) or ()), getattr(array, "compressor", None)]
    return any(getattr(codec, "codec_id", "") == "pickle" for codec in codecs)


def _arrays(item) -> Iterator[Any]:
    if hasattr(item, "ndim"):
        yield item
        return
    for _, array in item.arrays():
        yield array
    for _, group in item.groups():
        yield from _arrays(group)


def _rows_there(rows, done: int, total: int) -> int:
    """How many rows there are."""
    there = done
    for row in range(done, min(total, rows.shape[0])):
        if np.nan_to_num(np.asarray(rows[row, -1])).any():
            there = row + 1
    return there


class _Rows:
    """An array of single patterns (n, k_y, k_x) by whole rows of a scan."""

    def __init__(self, array, scan_shape: tuple[int, int] | None):
        if scan_shape is None:
            raise DataError(
                f"The store has patterns of shape {array.shape}, one after the other: give "
                "`scan_shape` (slow, fast)."
            )
        self._array, self._fast = array, scan_shape[1]
        self.shape = (array.shape[0] // self._fast, self._fast, *array.shape[1:])

    def __getitem__(self, index):
        fast = self._fast
        if isinstance(index, tuple):  # the last pattern of a row
            return self._array[index[0] * fast + fast - 1]
        some = self._array[index.start * fast : index.stop * fast]
        return some.reshape(-1, fast, *some.shape[1:])
