"""Two-dimensional Fourier transforms that run inside numba kernels, for any size.

The transforms work on *planes*: one float32 array that holds the real part and then the imaginary
part, each flattened in C order. A spectrum stays transposed; whoever compares a spectrum with
measured data brings the data into that order once (:attr:`Plan.row_order`,
:attr:`Plan.column_order`), and nothing is transposed or permuted for it in a loop.

`LANES` columns are transformed side by side, as one vector register each, in as few stages as pay:
factors up to 13 and some of their products up to 16 have a butterfly of their own, and so has any
larger prime (:mod:`.butterflies`). The transform itself is compiled once, in :mod:`.transforms`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from hs_autoptycho.ptycho.butterflies import LANES, RADICES, TOGETHER
from hs_autoptycho.ptycho.transforms import call_transform, transform_address

_JIT = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}

# What a stage costs a number: loads and stores, the arithmetic of its radix (measured; 16 fills
# more registers than there are), and more where its inputs crowd in a few sets of the cache.
_STAGE, _CROWDED = 10.0, 10.0
_ARITHMETIC = {1: 0, 2: 3, 3: 3.5, 4: 4, 5: 5, 6: 6, 7: 8, 8: 7, 9: 8, 10: 9, 11: 13, 12: 8.5,
               13: 15, 16: 16}  # fmt: skip


class Plan(NamedTuple):
    """What a transform of `rows` × `columns` pixels needs; made by :func:`make_plan`."""

    rows: int
    columns: int
    row_steps: np.ndarray  # number of radices, the radices, the place where each frequency is left
    column_steps: np.ndarray
    row_turns: np.ndarray  # constants of the stages, one after the other
    column_turns: np.ndarray
    row_order: np.ndarray  # frequency index found at each place of the spectrum
    column_order: np.ndarray
    address: int  # of the compiled transform, in this process alone

    def __reduce__(self):
        return make_plan, (self.rows, self.columns)


def _products(size: int, least: int = 2) -> Iterator[tuple[int, ...]]:
    """All ways to write `size` as a product of radices from `least` on, in ascending order."""
    if size == 1:
        yield ()
    for radix in range(least, size + 1):
        known = radix in RADICES
        prime = radix > max(RADICES) and all(radix % n for n in range(2, int(radix**0.5) + 1))
        if size % radix == 0 and (known or prime):
            for others in _products(size // radix, radix):
                yield radix, *others


def _cost(size: int, radices: tuple[int, ...]) -> float:
    cost, count = 0.0, size
    for radix in radices:
        count //= radix
        cost += _STAGE + _ARITHMETIC.get(radix, 10 + radix / 2)
        # vectors of 64 bytes, multiples of 4096 bytes apart, share the 8 to 12 lines of a set
        if radix in RADICES and 2 * radix > 12 and count % 64 == 0:
            cost += _CROWDED
    return cost


@lru_cache(maxsize=64)
def radices(size: int) -> tuple[int, ...]:
    """Radices of a transform of `size` numbers, in the order of the stages.

    Small radices first, since the first stage reads numbers that are far apart, but large primes
    before all others.
    """
    choices = _products(size) if size > 1 else [(1,)]
    ordered = (sorted(choice, key=lambda radix: (radix in RADICES, radix)) for choice in choices)
    return min((_cost(size, choice), tuple(choice)) for choice in ordered)[1]


def _places(size: int, radices: tuple[int, ...]) -> np.ndarray:
    """Place of each frequency after the decimation-in-frequency butterflies."""
    order = np.zeros(size, np.int64)
    for place in range(size):
        remaining, block, weight = place, size, 1
        for radix in radices:
            block //= radix
            order[place] += (remaining // block) * weight
            remaining %= block
            weight *= radix
    return np.argsort(order)


def _turns(size: int, radices: tuple[int, ...]) -> np.ndarray:
    """Constants of the butterflies, in the order in which the stages read them.

    A large prime has the cosines and sines of its sums. A stage that is not the last one, or is a
    large prime's, has the twiddle factors exp(-2πi kq/block) for each q and each output k > 0.
    """
    parts, block = [np.zeros(0)], size
    for stage, radix in enumerate(radices):
        count = block // radix
        large = radix not in RADICES
        if large:
            half = radix // 2
            first = np.minimum(np.arange(0, half, TOGETHER), half - TOGETHER)
            k = first[:, None, None] + np.arange(1, TOGETHER + 1)
            angle = 2 * np.pi * (np.arange(1, half + 1)[:, None] * k % radix) / radix
            parts.append(np.stack([np.cos(angle), np.sin(angle)], axis=2).ravel())
        if large or stage < len(radices) - 1:
            angle = 2 * np.pi * np.outer(np.arange(count), np.arange(1, radix)) / block
            parts.append(np.stack([np.cos(angle), -np.sin(angle)], axis=-1).ravel())
        block = count
    return np.concatenate(parts).astype(np.float32)


@lru_cache(maxsize=32)
def make_plan(rows: int, columns: int) -> Plan:
    """Plan the transforms of arrays of `rows` × `columns` pixels.

    The first plan of all compiles the transform (seconds), unless numba's cache has it.

    Parameters
    ----------
    rows, columns
        Sizes along axis 0 and 1; any positive integer.
    """
    sizes = [(size, radices(size)) for size in (rows, columns)]
    return Plan(
        rows,
        columns,
        *(np.concatenate([[len(r)], r, _places(size, r)]).astype(np.int64) for size, r in sizes),
        *(_turns(size, r) for size, r in sizes),
        *(np.arange(size) for size, _ in sizes),
        transform_address(),
    )


def scratch_size(plan: Plan) -> int:
    """Length of the float32 scratch array that one thread needs."""
    # the columns, as much again for a large prime, and what alignment takes
    return 4 * LANES * max(plan.rows, plan.columns) + LANES


def to_planes(array: np.ndarray) -> np.ndarray:
    """Complex ``(..., rows, columns)`` to float32 planes ``(..., 2 * rows * columns)``."""
    flat = array.reshape(*array.shape[:-2], -1)
    return np.concatenate([flat.real, flat.imag], axis=-1).astype(np.float32)


def from_planes(planes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Inverse of :func:`to_planes`, as complex64."""
    half = planes.shape[-1] // 2
    flat = np.empty((*planes.shape[:-1], half), np.complex64)
    flat.real = planes[..., :half]
    flat.imag = planes[..., half:]
    return flat.reshape(*planes.shape[:-1], *shape)


def spectrum_to_planes(spectrum: np.ndarray, plan: Plan) -> np.ndarray:
    """Bring ``np.fft.fft2`` output ``(..., rows, columns)`` into the order of the kernels."""
    ordered = spectrum[..., plan.row_order, :][..., plan.column_order]
    return to_planes(np.swapaxes(ordered, -1, -2))


def planes_to_spectrum(planes: np.ndarray, plan: Plan) -> np.ndarray:
    """Inverse of :func:`spectrum_to_planes`."""
    ordered = np.swapaxes(from_planes(planes, (plan.columns, plan.rows)), -1, -2)
    spectrum = np.empty_like(ordered)
    spectrum[..., plan.row_order[:, None], plan.column_order[None, :]] = ordered
    return spectrum


@njit(**_JIT)
def forward(source, spectrum, plan, scratch):
    """Unnormalised forward transform of the planes `source`, which may be overwritten.

    Parameters
    ----------
    source : float32 (2 * rows * columns,)
    spectrum : float32 (2 * rows * columns,)
        Receives the spectrum, transposed and in the plan's order. Not the array of `source`.
    plan : Plan
    scratch : float32 (scratch_size(plan),)
    """
    pixels = plan.rows * plan.columns
    call_transform(
        plan.address, source, 0, pixels, spectrum, 0, pixels,
        plan.rows, plan.row_steps, plan.row_turns,
        plan.columns, plan.column_steps, plan.column_turns, scratch,
    )  # fmt: skip


@njit(**_JIT)
def inverse(spectrum, target, plan, scratch):
    """Unnormalised inverse of :func:`forward`; `spectrum` may be overwritten."""
    pixels = plan.rows * plan.columns
    call_transform(
        plan.address, spectrum, pixels, 0, target, pixels, 0,
        plan.columns, plan.column_steps, plan.column_turns,
        plan.rows, plan.row_steps, plan.row_turns, scratch,
    )  # fmt: skip
