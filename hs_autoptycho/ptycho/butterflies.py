"""Fourier butterflies and copies in LLVM's vector instructions, for :mod:`.fft`.

LLVM does not vectorise such loops by itself: it would have to check too many pointers for overlap.
Each intrinsic works on vectors of `LANES` float32 numbers; LLVM maps them to whatever registers the
processor has.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16


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


forward_butterfly2, inverse_butterfly2 = _butterfly(2, False), _butterfly(2, True)
forward_butterfly3, inverse_butterfly3 = _butterfly(3, False), _butterfly(3, True)
forward_butterfly4, inverse_butterfly4 = _butterfly(4, False), _butterfly(4, True)
forward_butterfly5, inverse_butterfly5 = _butterfly(5, False), _butterfly(5, True)
forward_butterfly8, inverse_butterfly8 = _butterfly(8, False), _butterfly(8, True)


@intrinsic
def copy_vector(typingctx, target, into, source, start):
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
def add_turned(typingctx, data, into_re, into_im, from_re, from_im, c, s):
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


@intrinsic
def copy_transposed(typingctx, target, into, source, start, pitch):
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
