"""Two-dimensional Fourier transforms that run inside numba kernels, for any size.

The transforms work on *planes*: one float32 array that holds the real part and then the imaginary
part, each flattened in C order. A spectrum stays transposed and in the order in which the
butterflies leave it; whoever compares a spectrum with measured data brings the data into that order
once (:attr:`Plan.row_order`, :attr:`Plan.column_order`), and no permutation is ever done in a loop.

`LANES` columns are transformed side by side, as one vector register each. The butterflies are
written in LLVM's vector instructions (:func:`_butterfly`), because LLVM does not vectorise such
loops by itself: it would have to check too many pointers for overlap. The prime factors 2, 3, 5 and
the products 4 and 8 have a butterfly of their own; any other prime is a plain sum.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LANES = 16
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


# ---------------------------------------------------------------------------------------------
# Butterflies, in LLVM's vector instructions


class _Complex:
    """A complex vector of `LANES` numbers while code is being generated."""

    def __init__(self, builder, re, im):
        self.builder, self.re, self.im = builder, re, im

    def _op(self, name, a, b):
        return getattr(self.builder, name)(a, b, flags=("fast",))

    def __add__(self, other):
        return _Complex(
            self.builder,
            self._op("fadd", self.re, other.re),
            self._op("fadd", self.im, other.im),
        )

    def __sub__(self, other):
        return _Complex(
            self.builder,
            self._op("fsub", self.re, other.re),
            self._op("fsub", self.im, other.im),
        )

    def scaled(self, constant):
        factor = ir.Constant(self.re.type, [float(np.float32(constant))] * LANES)
        return _Complex(
            self.builder, self._op("fmul", self.re, factor), self._op("fmul", self.im, factor)
        )

    def times(self, re, im):
        """Product with the (splat) complex number `re` + i `im`."""
        return _Complex(
            self.builder,
            self._op("fsub", self._op("fmul", self.re, re), self._op("fmul", self.im, im)),
            self._op("fadd", self._op("fmul", self.re, im), self._op("fmul", self.im, re)),
        )

    def times_minus_i(self):
        zero = ir.Constant(self.re.type, [0.0] * LANES)
        return _Complex(self.builder, self.im, self._op("fsub", zero, self.re))


def _dft2(x):
    return [x[0] + x[1], x[0] - x[1]]


def _dft3(x):
    total, difference = x[1] + x[2], (x[1] - x[2]).scaled(np.sqrt(0.75)).times_minus_i()
    middle = x[0] - total.scaled(0.5)
    return [x[0] + total, middle + difference, middle - difference]


def _dft4(x):
    even, odd = _dft2([x[0], x[2]]), _dft2([x[1], x[3]])
    turned = odd[1].times_minus_i()
    return [even[0] + odd[0], even[1] + turned, even[0] - odd[0], even[1] - turned]


def _dft5(x):
    c1, c2 = np.cos(2 * np.pi / 5), np.cos(4 * np.pi / 5)
    s1, s2 = np.sin(2 * np.pi / 5), np.sin(4 * np.pi / 5)
    a, b = x[1] + x[4], x[2] + x[3]
    c, d = (x[1] - x[4]).times_minus_i(), (x[2] - x[3]).times_minus_i()
    first, second = x[0] + a.scaled(c1) + b.scaled(c2), x[0] + a.scaled(c2) + b.scaled(c1)
    third, fourth = c.scaled(s1) + d.scaled(s2), c.scaled(s2) - d.scaled(s1)
    return [x[0] + a + b, first + third, second + fourth, second - fourth, first - third]


def _dft8(x):
    even, odd = _dft4(x[0::2]), _dft4(x[1::2])
    half = np.sqrt(0.5)
    odd[1] = (odd[1] + odd[1].times_minus_i()).scaled(half)
    odd[3] = (odd[3].times_minus_i() - odd[3]).scaled(half)
    odd[2] = odd[2].times_minus_i()
    return [e + o for e, o in zip(even, odd, strict=True)] + [
        e - o for e, o in zip(even, odd, strict=True)
    ]


_DFT = {2: _dft2, 3: _dft3, 4: _dft4, 5: _dft5, 8: _dft8}


def _splat(builder, number):
    """The vector whose every lane is `number`."""
    vector = ir.VectorType(ir.FloatType(), LANES)
    first = ir.Constant(ir.IntType(32), 0)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), number, first)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(single, single, mask)


def _butterfly(radix: int, twiddles_first: bool):
    """Make the intrinsic ``butterfly(data, real, imaginary, step, twiddles, stride)``.

    It transforms in place the `radix` complex vectors whose real parts start at
    ``data[real + k * step]`` and whose imaginary parts start at ``data[imaginary + k * step]``, and
    multiplies vector ``k`` by the twiddle factor ``twiddles[:, k * stride]`` (conjugated) after the
    transform, or before it where `twiddles_first`.
    """

    @intrinsic
    def butterfly(typingctx, data, real, imaginary, step, twiddles, stride):
        def generate(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            table = context.make_array(signature.args[4])(context, builder, args[4])
            row = builder.extract_value(table.shape, 1)
            vector = ir.VectorType(ir.FloatType(), LANES)

            def place(offset, k):
                index = builder.add(offset, builder.mul(args[3], ir.Constant(args[3].type, k)))
                pointer = builder.gep(array.data, [index])
                return builder.bitcast(pointer, vector.as_pointer())

            def load(k):
                parts = [builder.load(place(args[i], k), align=4) for i in (1, 2)]
                return _Complex(builder, *parts)

            def twiddled(x, k):
                index = builder.mul(args[5], ir.Constant(args[5].type, k))
                re = builder.load(builder.gep(table.data, [index]))
                im = builder.load(builder.gep(table.data, [builder.add(index, row)]))
                negative = builder.fsub(ir.Constant(im.type, 0.0), im, flags=("fast",))
                return x.times(_splat(builder, re), _splat(builder, negative))

            x = [load(k) for k in range(radix)]
            if twiddles_first:
                x = [x[0]] + [twiddled(x[k], k) for k in range(1, radix)]
            y = _DFT[radix](x)
            if not twiddles_first:
                y = [y[0]] + [twiddled(y[k], k) for k in range(1, radix)]
            for k in range(radix):
                builder.store(y[k].re, place(args[1], k), align=4)
                builder.store(y[k].im, place(args[2], k), align=4)
            return context.get_dummy_value()

        return types.void(data, real, imaginary, step, twiddles, stride), generate

    return butterfly


_forward2, _inverse2 = _butterfly(2, False), _butterfly(2, True)
_forward3, _inverse3 = _butterfly(3, False), _butterfly(3, True)
_forward4, _inverse4 = _butterfly(4, False), _butterfly(4, True)
_forward5, _inverse5 = _butterfly(5, False), _butterfly(5, True)
_forward8, _inverse8 = _butterfly(8, False), _butterfly(8, True)


@intrinsic
def _copy_vector(typingctx, target, into, source, start):
    """``target[into : into + LANES] = source[start : start + LANES]`` as one vector."""

    def generate(context, builder, signature, args):
        vector = ir.VectorType(ir.FloatType(), LANES).as_pointer()

        def pointer(which):
            array = context.make_array(signature.args[which])(context, builder, args[which])
            return builder.bitcast(builder.gep(array.data, [args[which + 1]]), vector)

        builder.store(builder.load(pointer(2), align=4), pointer(0), align=4)
        return context.get_dummy_value()

    return types.void(target, into, source, start), generate


@intrinsic
def _add_turned(typingctx, data, into_re, into_im, from_re, from_im, c, s):
    """``into += from * (c - i s)`` for one complex vector of the scratch array."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        vector = ir.VectorType(ir.FloatType(), LANES)
        place = [
            builder.bitcast(builder.gep(array.data, [offset]), vector.as_pointer())
            for offset in args[1:5]
        ]
        total, x = (
            _Complex(builder, *[builder.load(p, align=4) for p in pair])
            for pair in (place[:2], place[2:])
        )
        negative = builder.fsub(ir.Constant(args[6].type, 0.0), args[6], flags=("fast",))
        total = total + x.times(*[_splat(builder, n) for n in (args[5], negative)])
        builder.store(total.re, place[0], align=4)
        builder.store(total.im, place[1], align=4)
        return context.get_dummy_value()

    return types.void(data, into_re, into_im, from_re, from_im, c, s), generate


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
            _add_turned(data, spare_re + into, spare_im + into, real + o, imaginary + o, c, s)
    for k in range(radix):
        _copy_vector(data, real + k * step, data, spare_re + k * LANES)
        _copy_vector(data, imaginary + k * step, data, spare_im + k * LANES)


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
                        _inverse4(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        _forward4(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 8:
                    if inverse:
                        _inverse8(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        _forward8(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 2:
                    if inverse:
                        _inverse2(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        _forward2(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 3:
                    if inverse:
                        _inverse3(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        _forward3(scratch, real + o, imaginary + o, step, twiddles, stride)
                elif radix == 5:
                    if inverse:
                        _inverse5(scratch, real + o, imaginary + o, step, twiddles, stride)
                    else:
                        _forward5(scratch, real + o, imaginary + o, step, twiddles, stride)
                else:
                    _any_prime(
                        scratch, real + o, imaginary + o, step, twiddles, stride, radix, size,
                        inverse,
                    )  # fmt: skip
        if not inverse:
            block = count


@intrinsic
def _copy_transposed(typingctx, target, into, source, start, pitch):
    """Transpose the `LANES` × `LANES` block of `source` whose rows are `pitch` apart.

    Its columns become the consecutive vectors of `target` from ``into`` on. Vectors are interleaved
    with the one half the block away, as often as it takes: log2(LANES) times.
    """

    def generate(context, builder, signature, args):
        vector = ir.VectorType(ir.FloatType(), LANES)
        arrays = [context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2)]
        integer = args[1].type

        def pointer(array, offset):
            return builder.bitcast(builder.gep(array.data, [offset]), vector.as_pointer())

        def interleave(a, b, first):
            order = [n // 2 + LANES * (n % 2) + first for n in range(LANES)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
            return builder.shuffle_vector(a, b, mask)

        rows = []
        for i in range(LANES):
            offset = builder.add(args[3], builder.mul(args[4], ir.Constant(integer, i)))
            rows.append(builder.load(pointer(arrays[1], offset), align=4))
        half = LANES // 2
        for _ in range(LANES.bit_length() - 1):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [interleave(a, b, first) for a, b in pairs for first in (0, half)]
        for i in range(LANES):
            offset = builder.add(args[1], ir.Constant(integer, i * LANES))
            builder.store(rows[i], pointer(arrays[0], offset), align=4)
        return context.get_dummy_value()

    return types.void(target, into, source, start, pitch), generate


@njit(**_JIT)
def _load_columns(scratch, source, size, width, first, lanes):
    """Copy `lanes` columns of a ``(2, size, width)`` array into the scratch array."""
    for i in range(2 * size):
        if lanes == LANES:
            _copy_vector(scratch, i * LANES, source, i * width + first)
        else:
            for v in range(LANES):
                number = source[i * width + first + v] if v < lanes else np.float32(0)
                scratch[i * LANES + v] = number


@njit(**_JIT)
def _store_columns(scratch, target, size, width, first, lanes):
    for i in range(2 * size):
        if lanes == LANES:
            _copy_vector(target, i * width + first, scratch, i * LANES)
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
            _copy_transposed(scratch, base + i * LANES, source, start + i, size)
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
