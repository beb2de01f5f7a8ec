"""Copies of vectors and pointers to them in LLVM's instructions, for :mod:`.transforms`.

As in :mod:`.butterflies`, arrays are bare pointers, and places in them are counted in numbers.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hs_autoptycho.ptycho.butterflies import LANES, VECTOR, argument_types


@intrinsic
def copy_lanes(typingctx, target, into, source, start, lanes):
    """``target[into : into + lanes] = source[start : start + lanes]``, less than ``2 * LANES``."""
    arguments = argument_types(target, into, source, start, lanes)

    def generate(context, builder, signature, args):
        places = [builder.gep(args[i], [args[i + 1]]) for i in (2, 0)]
        lanes = args[4]
        zero = done = ir.Constant(lanes.type, 0)
        width = LANES
        while width:
            # a vector for each binary digit of `lanes`
            vector = ir.VectorType(ir.FloatType(), width).as_pointer()
            digit = builder.and_(lanes, ir.Constant(lanes.type, width))
            with builder.if_then(builder.icmp_signed("!=", digit, zero)):
                a, b = (builder.bitcast(builder.gep(p, [done]), vector) for p in places)
                builder.store(builder.load(a, align=4), b, align=4)
            done = builder.add(done, digit)
            width //= 2
        return context.get_dummy_value()

    return types.void(*arguments), generate


def _copy_transposed(builder, target, into, to_pitch, source, starts):
    """Vectors of `source` that start at `starts` become columns of `target`.

    Vectors are interleaved with the one half the block away, as often as it takes: log2(LANES)
    times.
    """

    def pointer(array, offset):
        return builder.bitcast(builder.gep(array, [offset]), VECTOR.as_pointer())

    def interleave(a, b, first):
        order = [n // 2 + LANES * (n % 2) + first for n in range(LANES)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
        return builder.shuffle_vector(a, b, mask)

    rows = [builder.load(pointer(source, start), align=4) for start in starts]
    half = LANES // 2
    for _ in range(LANES.bit_length() - 1):
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [interleave(a, b, first) for a, b in pairs for first in (0, half)]
    for i, row in enumerate(rows):
        offset = builder.add(into, builder.mul(to_pitch, ir.Constant(into.type, i)))
        builder.store(row, pointer(target, offset), align=4)


@intrinsic
def copy_transposed(typingctx, target, into, to_pitch, source, start, pitch):
    """Transpose a block of ``LANES²`` numbers; the pitches are the distances of its rows."""
    arguments = argument_types(target, into, to_pitch, source, start, pitch)

    def generate(context, builder, signature, args):
        start, pitch = args[4:]
        offsets = [builder.mul(pitch, ir.Constant(pitch.type, i)) for i in range(LANES)]
        _copy_transposed(builder, *args[:4], [builder.add(start, o) for o in offsets])
        return context.get_dummy_value()

    return types.void(*arguments), generate


@intrinsic
def copy_transposed_from(typingctx, target, into, to_pitch, source, start, places, first):
    """The same where row i is the vector number ``places[first + i]`` from `start` on."""
    arguments = argument_types(target, into, to_pitch, source, start, places, first)

    def generate(context, builder, signature, args):
        start, places, first = args[4:]
        here = builder.gep(places, [first])
        starts = []
        for i in range(LANES):
            place = builder.load(builder.gep(here, [ir.Constant(first.type, i)]))
            offset = builder.mul(place, ir.Constant(place.type, LANES))
            starts.append(builder.add(start, offset))
        _copy_transposed(builder, *args[:4], starts)
        return context.get_dummy_value()

    return types.void(*arguments), generate


@intrinsic
def advanced(typingctx, pointer, places):
    """The pointer to ``pointer[places]``."""

    def generate(context, builder, signature, args):
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), generate


@intrinsic
def aligned(typingctx, pointer):
    """The first place from `pointer` on where vectors do not cross cache lines."""

    def generate(context, builder, signature, args):
        integer, size = ir.IntType(64), 4 * LANES
        address = builder.ptrtoint(args[0], integer)
        address = builder.add(address, ir.Constant(integer, size - 1))
        address = builder.and_(address, ir.Constant(integer, -size))
        return builder.inttoptr(address, args[0].type)

    return pointer(pointer), generate
