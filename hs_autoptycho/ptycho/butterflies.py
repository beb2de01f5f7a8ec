"""Fourier butterflies in LLVM's vector instructions, for :mod:`.transforms`.

LLVM does not vectorise such loops by itself: it would have to check too many pointers for overlap.
Each intrinsic works on vectors of `LANES` float32 numbers; LLVM maps them to whatever registers the
processor has. Arrays are bare pointers here, and places in them are counted in numbers.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _constant(number) -> ir.Constant:
    """A vector of one number, known while code is being generated."""
    return ir.Constant(VECTOR, [float(np.float32(number))] * LANES)


class _Complex:
    """A complex vector of `LANES` numbers while code is being generated."""

    def __init__(self, builder, re, im):
        self.builder, self.re, self.im = builder, re, im

    def _op(self, name, a, b):
        return getattr(self.builder, name)(a, b, flags=("fast",))

    def _like(self, re, im):
        return _Complex(self.builder, re, im)

    def __add__(self, other):
        return self._like(self._op("fadd", self.re, other.re), self._op("fadd", self.im, other.im))

    def __sub__(self, other):
        return self._like(self._op("fsub", self.re, other.re), self._op("fsub", self.im, other.im))

    def scaled(self, factor):
        """Product with a real vector."""
        return self._like(self._op("fmul", self.re, factor), self._op("fmul", self.im, factor))

    def times(self, re, im):
        """Product with the complex vector `re` + i `im`."""
        return self._like(
            self._op("fsub", self._op("fmul", self.re, re), self._op("fmul", self.im, im)),
            self._op("fadd", self._op("fmul", self.re, im), self._op("fmul", self.im, re)),
        )

    def times_minus_i(self):
        return self._like(self.im, self._op("fsub", _constant(0), self.re))

    def turned(self, turn, period):
        """Product with exp(-2πi turn/period), a constant: multiples of an eighth are cheaper."""
        quarters, rest = divmod(4 * turn, period)
        x = self
        if 2 * rest == period:
            x = (self + self.times_minus_i()).scaled(_constant(np.sqrt(0.5)))
        elif rest:
            angle = 2 * np.pi * turn / period
            return self.times(_constant(np.cos(angle)), _constant(-np.sin(angle)))
        for _ in range(quarters):
            x = x.times_minus_i()
        return x


# ---------------------------------------------------------------------------------------------
# Transforms of a few numbers


def _dft2(x):
    return [x[0] + x[1], x[0] - x[1]]


def _dft4(x):
    even, odd = _dft2([x[0], x[2]]), _dft2([x[1], x[3]])
    turned = odd[1].times_minus_i()
    return [even[0] + odd[0], even[1] + turned, even[0] - odd[0], even[1] - turned]


def _dft_odd(x):
    """Of an odd number of inputs: j and n - j share their products."""
    n = len(x)
    half = range(1, n // 2 + 1)
    sums = {j: x[j] + x[n - j] for j in half}
    differences = {j: (x[j] - x[n - j]).times_minus_i() for j in half}
    y = [x[0]] * n
    for j in half:
        y[0] = y[0] + sums[j]
    for k in half:
        angles = {j: 2 * np.pi * (j * k % n) / n for j in half}
        even, odd = x[0], differences[1].scaled(_constant(np.sin(angles[1])))
        for j in half:
            even = even + sums[j].scaled(_constant(np.cos(angles[j])))
        for j in half[1:]:
            odd = odd + differences[j].scaled(_constant(np.sin(angles[j])))
        y[k], y[n - k] = even + odd, even - odd
    return y


def _dft_composite(x, a, b):
    """Of ``a * b`` numbers, `a` before `b`."""
    n = a * b
    y = [None] * n
    inner = [_DFT[a]([x[b * i + j] for i in range(a)]) for j in range(b)]
    for k in range(a):
        outer = _DFT[b]([inner[j][k].turned(j * k, n) for j in range(b)])
        for m in range(b):
            y[k + a * m] = outer[m]
    return y


def _dft_coprime(x, a, b):
    """Of ``a * b`` numbers without a common factor: no turns (I. J. Good, 1958)."""
    n = a * b
    y = [None] * n
    inner = [_DFT[a]([x[(i * b + j * a) % n] for i in range(a)]) for j in range(b)]
    to_a, to_b = b * pow(b, -1, a), a * pow(a, -1, b)
    for k in range(a):
        outer = _DFT[b]([inner[j][k] for j in range(b)])
        for m in range(b):
            y[(k * to_a + m * to_b) % n] = outer[m]
    return y


# None for 15: with more than 16 numbers and their like in registers, two stages are faster.
_DFT = {1: list, 2: _dft2, 4: _dft4}
_DFT |= dict.fromkeys((3, 5, 7, 11, 13), _dft_odd)
_DFT |= {n: partial(_dft_composite, a=a, b=b) for n, a, b in ((8, 2, 4), (9, 3, 3), (16, 4, 4))}
_DFT |= {n: partial(_dft_coprime, a=a, b=b) for n, a, b in ((6, 2, 3), (10, 2, 5), (12, 4, 3))}
RADICES = tuple(sorted(_DFT))

# ---------------------------------------------------------------------------------------------
# Loading and storing while code is being generated


def _splat(builder, number):
    """The vector whose every lane is `number`."""
    first = ir.Constant(ir.IntType(32), 0)
    single = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, first)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(single, single, mask)


def _splat_at(builder, pointer, place):
    """The vector whose every lane is the number at a place (an int: known now)."""
    place = ir.Constant(ir.IntType(64), place) if isinstance(place, int) else place
    return _splat(builder, builder.load(builder.gep(pointer, [place])))


class _Vectors:
    """Complex vectors `step` apart; their parts start at two places of an array."""

    def __init__(self, builder, pointer, re, im, step):
        self.builder, self.step = builder, step
        self.re, self.im = builder.gep(pointer, [re]), builder.gep(pointer, [im])

    def _pointers(self, k):
        k = ir.Constant(self.step.type, k) if isinstance(k, int) else k
        offset = self.builder.mul(self.step, k)
        for part in (self.re, self.im):
            yield self.builder.bitcast(self.builder.gep(part, [offset]), VECTOR.as_pointer())

    def __getitem__(self, k):
        parts = [self.builder.load(pointer, align=4) for pointer in self._pointers(k)]
        return _Complex(self.builder, *parts)

    def __setitem__(self, k, x):
        for part, pointer in zip((x.re, x.im), self._pointers(k), strict=True):
            self.builder.store(part, pointer, align=4)


def argument_types(*arguments):
    """The types that an intrinsic takes: pointers as they are, all else as integers."""
    return [a if isinstance(a, types.CPointer) else types.int64 for a in arguments]


# ---------------------------------------------------------------------------------------------
# Butterflies


def _butterfly(turned: bool):
    @intrinsic
    def butterfly(
        typingctx, radix, source, re, im, step, target, to_re, to_im, to_step, table, turns
    ):
        """Transform `radix` complex vectors, one of `RADICES`.

        The parts of the inputs start at ``source[re + k * step]`` and ``source[im + k * step]``,
        those of the outputs likewise in `target`; both may be the same. Where `turned`, output k is
        multiplied by the k-th complex number of ``table[turns:]``, which starts with the one for
        k = 1.
        """
        arguments = argument_types(
            radix, source, re, im, step, target, to_re, to_im, to_step, table, turns
        )

        def generate(context, builder, signature, args):
            inputs, outputs = _Vectors(builder, *args[1:5]), _Vectors(builder, *args[5:9])
            turns = builder.gep(args[9], [args[10]])
            end = builder.append_basic_block("end")
            switch = builder.switch(args[0], end)
            for radix in RADICES:
                case = builder.append_basic_block(f"radix{radix}")
                switch.add_case(ir.Constant(args[0].type, radix), case)
                builder.position_at_end(case)
                y = _DFT[radix]([inputs[k] for k in range(radix)])
                for k in range(radix):
                    if turned and k:
                        turn = [_splat_at(builder, turns, 2 * (k - 1) + part) for part in (0, 1)]
                        y[k] = y[k].times(*turn)
                    outputs[k] = y[k]
                builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*arguments), generate

    return butterfly


butterfly = _butterfly(turned=False)
turned_butterfly = _butterfly(turned=True)

# Outputs of a prime's butterfly that are summed up side by side, in registers.
TOGETHER = 5


class _Sum:
    """A complex vector that grows in a loop while code is being generated."""

    def __init__(self, builder):
        self.builder = builder
        self.parts = [cgutils.alloca_once(builder, VECTOR) for _ in range(2)]

    def set(self, x):
        for part, pointer in zip((x.re, x.im), self.parts, strict=True):
            self.builder.store(part, pointer)

    def get(self):
        return _Complex(self.builder, *[self.builder.load(pointer) for pointer in self.parts])

    def add(self, x):
        self.set(self.get() + x)


@intrinsic
def prime_butterfly(
    typingctx, radix, source, re, im, step, target, to_re, to_im, to_step, table, sums, turns, space
):
    """As the turned butterfly, for an odd `radix` of any size (at least ``2 * TOGETHER + 1``).

    The inputs j and radix - j are folded into their sum and difference, which are kept in `space`;
    the outputs k and radix - k are Σ cos(2πjk/radix) sum_j ∓ i Σ sin(2πjk/radix) difference_j.
    ``table[sums:]`` has the cosines and sines of `TOGETHER` k's for each j, and so on for the next
    k's. The last block of k's overlaps the one before.
    """
    arguments = argument_types(
        radix, source, re, im, step, target, to_re, to_im, to_step, table, sums, turns, space
    )

    def generate(context, builder, signature, args):
        radix = args[0]
        inputs, outputs = _Vectors(builder, *args[1:5]), _Vectors(builder, *args[5:9])
        sums, turns = (builder.gep(args[9], [args[i]]) for i in (10, 11))

        def constant(number):
            return ir.Constant(radix.type, number)

        def scaled(index, factor):
            return builder.mul(index, constant(factor))

        folded = _Vectors(builder, args[12], constant(0), constant(LANES), constant(2 * LANES))
        half = builder.lshr(radix, constant(1))
        zeroth, total = inputs[0], _Sum(builder)
        total.set(zeroth)
        with cgutils.for_range(builder, half, intp=radix.type) as loop:
            j = builder.add(loop.index, constant(1))
            a, b = inputs[j], inputs[builder.sub(radix, j)]
            place = scaled(loop.index, 2)
            folded[place] = a + b
            folded[builder.add(place, constant(1))] = a - b
            total.add(a + b)
        outputs[0] = total.get()

        even, odd = ([_Sum(builder) for _ in range(TOGETHER)] for _ in range(2))
        blocks = builder.udiv(builder.add(half, constant(TOGETHER - 1)), constant(TOGETHER))
        with cgutils.for_range(builder, blocks, intp=radix.type) as block:
            for i in range(TOGETHER):
                even[i].set(zeroth)
                odd[i].set(_Complex(builder, _constant(0), _constant(0)))
            row = builder.gep(sums, [builder.mul(scaled(block.index, 2 * TOGETHER), half)])
            with cgutils.for_range(builder, half, intp=radix.type) as loop:
                place = scaled(loop.index, 2)
                a, b = folded[place], folded[builder.add(place, constant(1))]
                factors = builder.gep(row, [scaled(loop.index, 2 * TOGETHER)])
                for i in range(TOGETHER):
                    even[i].add(a.scaled(_splat_at(builder, factors, i)))
                    odd[i].add(b.scaled(_splat_at(builder, factors, TOGETHER + i)))
            first, last = scaled(block.index, TOGETHER), builder.sub(half, constant(TOGETHER))
            first = builder.select(builder.icmp_signed("<", first, last), first, last)
            for i in range(TOGETHER):
                k = builder.add(first, constant(i + 1))
                a, b = even[i].get(), odd[i].get().times_minus_i()
                for place, y in ((k, a + b), (builder.sub(radix, k), a - b)):
                    turn = builder.gep(turns, [scaled(builder.sub(place, constant(1)), 2)])
                    outputs[place] = y.times(*[_splat_at(builder, turn, part) for part in (0, 1)])
        return context.get_dummy_value()

    return types.void(*arguments), generate
