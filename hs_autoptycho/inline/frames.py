"""The patterns of one scan as they arrive, checked one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.loading import DataError


def is_empty(block: Any) -> bool:
    """Whether there are no patterns in a block."""
    if hasattr(block, "axes_manager"):
        block = block.data
    return hasattr(block, "__len__") and len(block) == 0


class Frames:
    """Patterns of a scan, in the order of the scan, as far as they have arrived.

    Parameters
    ----------
    scan_shape
        (slow, fast) of the whole scan.

    Attributes
    ----------
    n_frames : int
        How many have arrived.
    """

    def __init__(self, scan_shape: tuple[int, int]):
        self.scan_shape = tuple(int(n) for n in scan_shape)
        self.n_frames = 0
        self._patterns: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        """Complete rows."""
        return self.n_frames // self.scan_shape[1]

    @property
    def complete(self) -> bool:
        """Whether the whole scan is there."""
        return self.n_frames == self.scan_shape[0] * self.scan_shape[1]

    @property
    def detector_shape(self) -> tuple[int, int] | None:
        """(k_y, k_x); None before the first pattern."""
        return None if self._patterns is None else self._patterns.shape[1:]

    def rows(self) -> np.ndarray:
        """The complete rows, (rows, fast, k_y, k_x); a view."""
        n, fast = self.n_rows, self.scan_shape[1]
        return self._patterns[: n * fast].reshape(n, fast, *self._patterns.shape[1:])

    def release(self) -> None:
        """Let go of the patterns; their number is remembered."""
        self._patterns = None

    def add(self, block: Any) -> np.ndarray | None:
        """Take patterns in; nothing is taken where one of them is bad.

        Parameters
        ----------
        block
            Array of one pattern (k_y, k_x), of several (n, k_y, k_x), or of whole rows
            (rows, fast, k_y, k_x); a list of these; or a HyperSpy signal. A whole scan in one array
            is not copied: leave it as it is.

        Returns
        -------
        array (n, k_y, k_x) or None
            What is more than the scan needs: the beginning of the next one.

        Raises
        ------
        DataError
            If a pattern is of another shape than the first one, or holds NaN, infinite or negative
            values; the message says which.
        """
        patterns = self._as_patterns(block)
        total = self.scan_shape[0] * self.scan_shape[1]
        self._check(patterns)
        patterns, rest = np.split(patterns, [total - self.n_frames])
        if self._patterns is None and len(patterns) == total:
            self._patterns = patterns  # a whole scan is not copied
            self.n_frames = total
            return rest if len(rest) else None
        if self._patterns is None:
            self._patterns = np.empty((total, *patterns.shape[1:]), patterns.dtype)
        elif np.result_type(self._patterns, patterns) != self._patterns.dtype:
            self._patterns = self._patterns.astype(np.result_type(self._patterns, patterns))
        self._patterns[self.n_frames : self.n_frames + len(patterns)] = patterns
        self.n_frames += len(patterns)
        return rest if len(rest) else None

    def _where(self, place: int) -> str:
        frame = self.n_frames + place
        y, x = divmod(frame, self.scan_shape[1])
        return f"Frame {frame} (scan position x={x}, y={y})"

    def _as_patterns(self, block: Any) -> np.ndarray:
        """The patterns of a block in one row, (n, k_y, k_x)."""
        if hasattr(block, "axes_manager"):
            block = block.data
        if isinstance(block, Sequence):
            arrays = [np.asarray(pattern) for pattern in block]
            wanted = self.detector_shape or arrays[0].shape[-2:]
            for place, pattern in enumerate(arrays):
                self._check_shape(pattern.shape[-2:], wanted, place)
            block = np.concatenate([pattern.reshape(-1, *wanted) for pattern in arrays])
        patterns = np.asarray(block)
        if patterns.ndim == 2:
            patterns = patterns[None]
        if patterns.ndim == 4:
            if patterns.shape[1] != self.scan_shape[1]:
                raise DataError(
                    f"{self._where(0)}: the block has rows of {patterns.shape[1]} patterns, but a "
                    f"row of the scan has {self.scan_shape[1]}. Set `scan_shape`, or hand the "
                    "patterns over as (n, k_y, k_x)."
                )
            patterns = patterns.reshape(-1, *patterns.shape[2:])
        if patterns.ndim != 3:
            raise DataError(
                f"{self._where(0)}: a block is one pattern (k_y, k_x), several (n, k_y, k_x) or "
                f"rows (rows, fast, k_y, k_x), not an array of shape {patterns.shape}."
            )
        self._check_shape(patterns.shape[1:], self.detector_shape or patterns.shape[1:], 0)
        if patterns.dtype.kind not in "buif":
            raise DataError(
                f"{self._where(0)}: patterns have to be real numbers, not {patterns.dtype}."
            )
        return patterns.view(np.uint8) if patterns.dtype.kind == "b" else patterns

    def _check_shape(self, shape, wanted, place: int) -> None:
        if tuple(shape) != tuple(wanted):
            raise DataError(
                f"{self._where(place)} has the shape {tuple(shape)}, the patterns before it have "
                f"{tuple(wanted)} (k_y, k_x). It was not taken in; the scan goes on with the next."
            )

    def _check(self, patterns: np.ndarray) -> None:
        if patterns.dtype.kind == "u":
            return
        with np.errstate(invalid="ignore"):
            bad = ~(np.isfinite(patterns) & (patterns >= 0))
        if bad.any():
            place, row, column = (int(i) for i in np.argwhere(bad)[0])
            value = patterns[place, row, column]
            raise DataError(
                f"{self._where(place)} holds {value} at detector pixel (kx={column}, ky={row}): "
                "counts are finite and not negative. The block was not taken in; mend it, for "
                "example by `numpy.nan_to_num(block).clip(0)`, and hand it over again."
            )
