"""Patterns in the order of the kernels, made of counts on disk as they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from hs_autoptycho.ptycho.fft import Plan, make_plan
from hs_autoptycho.ptycho.patterns import Patterns, flip_detector, in_spectrum_order, kernel_type
from hs_autoptycho.ptycho.resampling import crop_patterns
from hs_autoptycho.ptycho.stored import StoredCounts, ahead

# of what is in a cache
_keys = itertools.count()


class StoredPatterns:
    """Patterns in the order of the kernels, made of stored counts as they are needed.

    The counterpart of :class:`.patterns.Patterns`.

    Parameters
    ----------
    source
        The counts.
    flip, shape
        Of the detector, and of its central part after the flip.
    mask
        True for the detector's pixels to use; others are 0.

    Attributes
    ----------
    dtype : dtype
        Of the kernels' numbers.
    plan : Plan
    """

    def __init__(
        self, source: StoredCounts, flip: str, shape: tuple[int, int], mask: np.ndarray | None
    ):
        self._source, self._key = source, next(_keys)
        self.plan: Plan = make_plan(*shape)
        self.dtype = kernel_type(source.dtype)
        self._pixels = self.order(
            crop_patterns(
                flip_detector(np.arange(np.prod(source.shape[1:])).reshape(source.shape[1:]), flip),
                shape,
            )
        )
        self._used = None if mask is None else mask.ravel()[self._pixels].astype(self.dtype)
        self._mask = mask
        self._replaced: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._source)

    @cached_property
    def mean_total(self) -> float:
        """Mean sum of a pattern; it may take a pass."""
        facts = self._source.facts(self._mask)
        if self.dtype.kind == "u" and facts.largest.max() > np.iinfo(np.uint32).max:
            raise ValueError(
                f"A pixel has {facts.largest.max():.0f} counts, more than 32 bits can hold."
            )
        total = facts.total.ravel()[self._pixels]
        if self._used is not None:
            total = total * (self._used > 0)
        return float(total.sum()) / len(self)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the detector."""
        return self.plan.rows, self.plan.columns

    def order(self, image: np.ndarray) -> np.ndarray:
        """Bring an image (rows, columns) of the detector into the order of the kernels."""
        return in_spectrum_order(image, self.plan)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Patterns of some positions, (some, pixels); blocks are read where they are not kept."""
        positions = np.asarray(positions)
        out = np.empty((len(positions), len(self._pixels)), self.dtype)
        _, local = self._source.places(positions)
        needed = self._source.by_block(positions)
        missing = []
        for block, places in needed:
            kept = self._source.cache.get((self._key, block))
            if kept is None:
                missing.append((block, places))
            else:
                out[places] = kept[local[places]]
        for (block, places), kept in zip(
            missing, ahead(self._prepare, (block for block, _ in missing)), strict=True
        ):
            self._source.cache.put((self._key, block), kept)
            out[places] = kept[local[places]]
        if self._replaced is not None:
            which, values = self._replaced
            place = np.minimum(np.searchsorted(which, positions), len(which) - 1)
            same = which[place] == positions
            out[same] = values[place[same]]
        return out

    def some(self, positions: np.ndarray) -> Patterns:
        """Those of some positions, in memory."""
        rows = self.rows(positions)
        return Patterns(rows, self.plan, float(rows.sum(dtype=np.float64)) / max(len(rows), 1))

    def replace(self, positions: np.ndarray, values: np.ndarray | None) -> None:
        """Use other patterns at some positions, in rising order; the stored ones for None."""
        self._replaced = None if values is None else (positions, values)

    def groups(self, used: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """All of some positions, in groups that the cache holds.

        The blocks are in random order: those of a group lie all over the scan.
        """
        row = len(self._pixels) * self.dtype.itemsize
        by_block = self._source.by_block(used)
        group: list[np.ndarray] = []
        taken = 0
        for i in generator.permutation(len(by_block)):
            block, places = by_block[i]
            size = self._source.block_size(block) * row
            if group and taken + size > self._source.cache.n_bytes:
                yield used[np.concatenate(group)]
                group, taken = [], 0
            group.append(places)
            taken += size
        if group:
            yield used[np.concatenate(group)]

    def _prepare(self, block: int) -> np.ndarray:
        _, counts = self._source.read_block(block)
        flat = counts.reshape(len(counts), -1).astype(self.dtype, copy=False)
        rows = np.take(flat, self._pixels, axis=1)
        if self._used is not None:
            rows *= self._used
        return rows

    def __del__(self):
        self._source.cache.forget(self._key)
