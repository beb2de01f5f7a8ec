"""Two-dimensional Fourier transforms that run inside numba kernels, for any size.

The transforms work on *planes*: one float32 array that holds the real part and then the imaginary
part, each flattened in C order. A spectrum stays transposed and in the order in which the
butterflies leave it; whoever compares a spectrum with measured data brings the data into that order
once (:attr:`Plan.row_order`, :attr:`Plan.column_order`), and no permutation is ever done in a loop.

`LANES` columns are transformed side by side, as one vector register each. The prime factors 2, 3, 5
and the products 4 and 8 have a butterfly of their own (:mod:`.butterflies`); any other prime is a
plain sum.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from hs_autoptycho.ptycho.butterflies import (
    LANES,
    add_turned,
    copy_transposed,
    copy_vector,
    forward_butterfly2,
    forward_butterfly3,
    forward_butterfly4,
    forward_butterfly5,
    forward_butterfly8,
    inverse_butterfly2,
    inverse_butterfly3,
    inverse_butterfly4,
    inverse_butterfly5,
    inverse_butterfly8,
)

_JIT = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}


class Plan(NamedTuple):
    """What a transform of `rows` × `columns` pixels needs; made by :func:`make_plan`."""

    rows: int
    columns: int
    row_factors: np.ndarray  # radices of a transform along axis 0, in the order of application
    column_factors: np.ndarray
    row_twiddles: np.ndarray  # (2, rows): cos and sin of 2πk/rows
    column_twiddles: np.ndarray
    row_order: np.ndarray  # frequency index found at each place of the spectrum
    column_order: np.ndarray


def _radices(size: int) -> list[int]:
    """Factors of `size`: radix 4 first choice, one 8 where the power of two is odd."""
    radices = []
    power = 0
    while size % 2 == 0:
        size //= 2
        power += 1
    if power % 2 and power > 1:
        radices.append(8)
        power -= 3
    radices += [4] * (power // 2) + [2] * (power % 2)
    prime = 3
    while size > 1:
        while size % prime == 0:
            radices.append(prime)
            size //= prime
        prime += 2
    return radices


def _digit_order(size: int, radices: list[int]) -> np.ndarray:
    """Frequency index at each place after the decimation-in-frequency butterflies."""
    order = np.zeros(size, np.int64)
    for place in range(size):
        remaining, block, weight = place, size, 1
        for radix in radices:
            block //= radix
            order[place] += (remaining // block) * weight
            remaining %= block
            weight *= radix
    return order


def _twiddles(size: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(size) / size
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


@lru_cache(maxsize=32)
def make_plan(rows: int, columns: int) -> Plan:
    """Plan the transforms of arrays of `rows` × `columns` pixels.

    Parameters
    ----------
    rows, columns
        Sizes along axis 0 and 1; any positive integer.
    """
    radices = [_radices(size) for size in (rows, columns)]
    return Plan(
        rows,
        columns,
        *(np.array(r, np.int64) for r in radices),
        *(_twiddles(size) for size in (rows, columns)),
        *(_digit_order(size, r) for size, r in zip((rows, columns), radices, strict=True)),
    )


def scratch_size(plan: Plan) -> int:
    """Length of the float32 scratch array that one thread needs."""
    return 4 * LANES * max(plan.rows, plan.columns)


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
def _any_prime(data, real, imaginary, step, twiddles, stride, radix, size, inverse):
    """The butterfly of any other prime: a plain sum, into the upper half of the scratch array."""
    spare_re, spare_im = 2 * size * LANES, 3 * size * LANES
    period = size // radix
    for k in range(radix):
        into = k * LANES
        for v in range(LANES):
            data[spare_re + into + v] = np.float32(0)
            data[spare_im + into + v] = np.float32(0)
        for j in range(radix):
            # the twiddle factor of the input (or output) and the sum's own factor in one
            turn = (((j * k) % radix) * period + (j if inverse else k) * stride) % size
            c, s = twiddles[0, turn], twiddles[1, turn]
            o = j * step
            add_turned(data, spare_re + into, spare_im + into, real + o, imaginary + o, c, s)
    for k in range(radix):
        copy_vector(data, real + k * step, data, spare_re + k * LANES)
        copy_vector(data, imaginary + k * step, data, spare_im + k * LANES)


@njit(**_JIT)
def _transform_lanes(scratch, size, factors, twiddles, inverse):
    """Transform `LANES` columns of length `size` that lie side by side in `scratch`, in place.

    An inverse is a forward transform with the two planes exchanged; its butterflies run in the
    opposite order, so that it takes the order which the forward one leaves back to the natural one.
    """
    real, imaginary = 0, size * LANES
    if inverse:
        real, imaginary = imaginary, real
    block = 1 if inverse else size
    for stage in range(len(factors)):
        radix = factors[len(factors) - 1 - stage] if inverse else factors[stage]
        if inverse:
            block *= radix
        count = block // radix
        step = count * LANES
        for first in range(0, size, block):
            for q in range(count):
                o = (first + q) * LANES
                stride = q * (size // block)
                if radix == 4:
                    if inverse:
                        inverse_butterfly4(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        forward_butterfly4(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 8:
                    if inverse:
                        inverse_butterfly8(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        forward_butterfly8(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 2:
                    if inverse:
                        inverse_butterfly2(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        forward_butterfly2(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 3:
                    if inverse:
                        inverse_butterfly3(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        forward_butterfly3(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 5:
                    if inverse:
                        inverse_butterfly5(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        forward_butterfly5(scratch, real + o, imaginary + o, step, twiddles, stride)
                else:
                    _any_prime(
                        scratch, real + o, imaginary + o, step, twiddles, stride, radix, size,
                        inverse,
                    )  # fmt: skip
        if not inverse:
            block = count


@njit(**_JIT)
def _load_columns(scratch, source, size, width, first, lanes):
    """Copy `lanes` columns of a ``(2, size, width)`` array into the scratch array."""
    for i in range(2 * size):
        if lanes == LANES:
            copy_vector(scratch, i * LANES, source, i * width + first)
        else:
            for v in range(LANES):
                number = source[i * width + first + v] if v < lanes else np.float32(0)
                scratch[i * LANES + v] = number


@njit(**_JIT)
def _store_columns(scratch, target, size, width, first, lanes):
    for i in range(2 * size):
        if lanes == LANES:
            copy_vector(target, i * width + first, scratch, i * LANES)
        else:
            for v in range(lanes):
                target[i * width + first + v] = scratch[i * LANES + v]


@njit(**_JIT)
def _load_rows(scratch, source, count, size, first, lanes):
    """Copy `lanes` rows of a ``(2, count, size)`` array, transposed, into the scratch array."""
    for part in range(2):
        base = part * size * LANES
        start = (part * count + first) * size
        whole = size // LANES * LANES if lanes == LANES else 0
        for i in range(0, whole, LANES):
            copy_transposed(scratch, base + i * LANES, source, start + i, size)
        for i in range(whole, size):
            for v in range(LANES):
                number = source[start + v * size + i] if v < lanes else np.float32(0)
                scratch[base + i * LANES + v] = number


@njit(**_JIT)
def _transform(
    source, target, size0, size1, factors0, factors1, twiddles0, twiddles1, inverse, scratch
):
    """Transform the planes `source` ``(size0, size1)`` into `target` ``(size1, size0)``.

    `source` is overwritten.
    """
    for first in range(0, size1, LANES):
        lanes = min(LANES, size1 - first)
        _load_columns(scratch, source, size0, size1, first, lanes)
        _transform_lanes(scratch, size0, factors0, twiddles0, inverse)
        _store_columns(scratch, source, size0, size1, first, lanes)
    for first in range(0, size0, LANES):
        lanes = min(LANES, size0 - first)
        _load_rows(scratch, source, size0, size1, first, lanes)
        _transform_lanes(scratch, size1, factors1, twiddles1, inverse)
        _store_columns(scratch, target, size1, size0, first, lanes)


@njit(**_JIT)
def forward(source, spectrum, plan, scratch):
    """Unnormalised forward transform of the planes `source`, which are overwritten.

    Parameters
    ----------
    source : float32 (2 * rows * columns,)
    spectrum : float32 (2 * rows * columns,)
        Receives the spectrum, transposed and in the plan's order.
    plan : Plan
    scratch : float32 (scratch_size(plan),)
    """
    _transform(
        source, spectrum, plan.rows, plan.columns, plan.row_factors, plan.column_factors,
        plan.row_twiddles, plan.column_twiddles, False, scratch,
    )  # fmt: skip


@njit(**_JIT)
def inverse(spectrum, target, plan, scratch):
    """Unnormalised inverse of :func:`forward`; `spectrum` is overwritten."""
    _transform(
        spectrum, target, plan.columns, plan.rows, plan.column_factors, plan.row_factors,
        plan.column_twiddles, plan.row_twiddles, True, scratch,
    )  # fmt: skip
