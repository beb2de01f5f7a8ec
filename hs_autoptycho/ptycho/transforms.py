"""The two-dimensional transform of :mod:`.fft`, compiled once for all kernels.

Kernels call it through its address, which a plan brings along: a transform that is compiled into
each kernel costs seconds a kernel.
"""

from __future__ import annotations

from threading import Lock

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from hs_autoptycho.ptycho.butterflies import (
    LANES,
    RADICES,
    TOGETHER,
    butterfly,
    prime_butterfly,
    turned_butterfly,
)
from hs_autoptycho.ptycho.copies import (
    advanced,
    aligned,
    copy_lanes,
    copy_transposed,
    copy_transposed_from,
)

_OPTIONS = {"fastmath": True, "error_model": "numpy"}
# Numba optimises a function anew in everything that calls it, so these go into their only caller.
_INLINE = {**_OPTIONS, "inline": "always"}
_LARGEST = max(RADICES)
# The smallest first-level caches have 64 sets of lines. Where an array's columns put more than this
# many lines into each set that they meet, none stays there from its first use to its second.
_SETS = 64
_WAYS = 16


@njit(**_OPTIONS)
def _prime(radix, source, re, im, step, target, to_re, to_im, to_step, table, sums, turns, space):
    # a function of its own, so that the code is not there twice
    prime_butterfly(
        radix, source, re, im, step, target, to_re, to_im, to_step, table, sums, turns, space
    )


@njit(**_INLINE)
def _sums_length(radix):
    """Length of the table of a prime's cosines and sines; 0 for a radix with its own butterfly."""
    half = radix // 2
    blocks = (half + TOGETHER - 1) // TOGETHER
    return 2 * TOGETHER * blocks * half if radix > _LARGEST else 0


@njit(**_OPTIONS)
def _transform_lanes(
    source, re, im, pitch, target, to_re, to_im, to_pitch, natural, size, steps, table, scratch
):
    """Transform `LANES` columns that lie side by side, by decimation in frequency.

    The first stage reads them from `source`, the last one writes them to `target`, both of which
    may be `scratch`; what is between stays in `scratch`. The outputs are in natural order where
    `natural`, else in the order in which the butterflies leave them, which `scratch` needs.
    """
    space = advanced(scratch, 2 * size * LANES)
    stages = steps[0]
    places = advanced(steps, 1 + stages)
    half = size * LANES
    block = size
    turns = 0
    for stage in range(1, stages):
        radix = steps[stage]
        count = block // radix
        sums = turns
        turns += _sums_length(radix)
        for first in range(0, size, block):
            for q in range(count):
                a, b = (first + q) * pitch, (first + q) * LANES
                turn = turns + q * 2 * (radix - 1)
                if radix > _LARGEST:
                    _prime(
                        radix, source, re + a, im + a, count * pitch, scratch, b, half + b,
                        count * LANES, table, sums, turn, space,
                    )  # fmt: skip
                else:
                    turned_butterfly(
                        radix, source, re + a, im + a, count * pitch, scratch, b, half + b,
                        count * LANES, table, turn,
                    )  # fmt: skip
        turns += count * 2 * (radix - 1)
        source, re, im, pitch = scratch, 0, half, LANES
        block = count
    radix = steps[stages]
    count = size // radix
    to_step = count * to_pitch if natural else to_pitch
    for f in range(count):
        a = places[f] * pitch
        b = (f if natural else places[f]) * to_pitch
        if radix > _LARGEST:
            _prime(
                radix, source, re + a, im + a, pitch, target, to_re + b, to_im + b, to_step,
                table, turns, turns + _sums_length(radix), space,
            )  # fmt: skip
        else:
            butterfly(
                radix, source, re + a, im + a, pitch, target, to_re + b, to_im + b, to_step,
                table, 0,
            )  # fmt: skip


@njit(**_OPTIONS)
def _store_transposed(target, into, scratch, start, size, lanes, steps):
    """Columns in `scratch`, as the butterflies leave them, become rows of `target`."""
    places = advanced(steps, 1 + steps[0])
    if lanes == LANES and size >= LANES:
        for i in range(0, size, LANES):
            k = min(i, size - LANES)
            copy_transposed_from(target, into + k, size, scratch, start, places, k)
    else:
        for k in range(size):
            for v in range(lanes):
                target[into + v * size + k] = scratch[start + places[k] * LANES + v]


@njit(**_INLINE)
def _transform_direct(
    source, re, im, target, to_re, to_im, size0, steps0, turns0, size1, steps1, turns1, scratch
):
    """Columns first: out of `source`, and transposed into `target`; there the others in place."""
    half = size0 * LANES
    lanes = min(LANES, size1)
    for start in range(0, size1, LANES):
        first = min(start, size1 - lanes)  # the last columns overlap those before
        if lanes == LANES:
            _transform_lanes(
                source, re + first, im + first, size1, scratch, 0, half, LANES, False,
                size0, steps0, turns0, scratch,
            )  # fmt: skip
        else:
            for i in range(size0):
                copy_lanes(scratch, i * LANES, source, re + i * size1, lanes)
                copy_lanes(scratch, half + i * LANES, source, im + i * size1, lanes)
            _transform_lanes(
                scratch, 0, half, LANES, scratch, 0, half, LANES, False,
                size0, steps0, turns0, scratch,
            )  # fmt: skip
        for into, part in ((to_re, 0), (to_im, half)):
            _store_transposed(target, into + first * size0, scratch, part, size0, lanes, steps0)

    half = size1 * LANES
    places = advanced(steps1, 1 + steps1[0])
    for first in range(0, size0, LANES):
        lanes = min(LANES, size0 - first)
        a, b = to_re + first, to_im + first
        if lanes == LANES:
            _transform_lanes(
                target, a, b, size0, target, a, b, size0, True, size1, steps1, turns1, scratch
            )
        else:
            for i in range(size1):
                copy_lanes(scratch, i * LANES, target, a + i * size0, lanes)
                copy_lanes(scratch, half + i * LANES, target, b + i * size0, lanes)
            _transform_lanes(
                scratch, 0, half, LANES, scratch, 0, half, LANES, False,
                size1, steps1, turns1, scratch,
            )  # fmt: skip
            for i in range(size1):
                place = places[i] * LANES
                copy_lanes(target, a + i * size0, scratch, place, lanes)
                copy_lanes(target, b + i * size0, scratch, half + place, lanes)


@njit(**_INLINE)
def _transform_in_strips(
    source, re, im, target, to_re, to_im, size0, steps0, turns0, size1, steps1, turns1, scratch
):
    """Rows first, `LANES` at a time: each such strip of `source` makes room for its transform.

    Whatever is read or written lies together, at the price of three transpositions in place of one.
    Both sizes are multiples of `LANES`.
    """
    half = size1 * LANES
    for first in range(0, size0, LANES):
        a, b = re + first * size1, im + first * size1
        for i in range(0, size1, LANES):
            copy_transposed(scratch, i * LANES, LANES, source, a + i, size1)
            copy_transposed(scratch, half + i * LANES, LANES, source, b + i, size1)
        _transform_lanes(
            scratch, 0, half, LANES, source, a, b, LANES, True, size1, steps1, turns1, scratch
        )
    half = size0 * LANES
    for first in range(0, size1, LANES):
        for i in range(0, size0, LANES):
            a = i * size1 + first * LANES
            copy_transposed(scratch, i * LANES, LANES, source, re + a, LANES)
            copy_transposed(scratch, half + i * LANES, LANES, source, im + a, LANES)
        _transform_lanes(
            scratch, 0, half, LANES, scratch, 0, half, LANES, False, size0, steps0, turns0, scratch
        )
        for into, part in ((to_re, 0), (to_im, half)):
            _store_transposed(target, into + first * size0, scratch, part, size0, LANES, steps0)


_FLOATS, _INTEGERS = types.CPointer(types.float32), types.CPointer(types.int64)
_PLANES = (_FLOATS, types.int64, types.int64)
_AXIS = (types.int64, _INTEGERS, _FLOATS)
_SIGNATURE = types.void(*_PLANES, *_PLANES, *_AXIS, *_AXIS, _FLOATS)


def _transform(
    source, re, im, target, to_re, to_im, size0, steps0, turns0, size1, steps1, turns1, scratch
):
    """Transform planes ``(size0, size1)`` into planes ``(size1, size0)``.

    The parts of `source` start at `re` and `im`, those of `target` at `to_re` and `to_im`. An
    inverse transform is a forward one with the parts exchanged.
    """
    scratch = aligned(scratch)
    strips = False
    if size0 % LANES == 0 and size1 % LANES == 0:
        pitch = size0 // LANES  # in lines
        stride = min(pitch & -pitch, _SETS)  # only each such set is met
        strips = 2 * size1 * stride > _WAYS * _SETS
    if strips:
        _transform_in_strips(
            source, re, im, target, to_re, to_im, size0, steps0, turns0, size1, steps1, turns1,
            scratch,
        )  # fmt: skip
    else:
        _transform_direct(
            source, re, im, target, to_re, to_im, size0, steps0, turns0, size1, steps1, turns1,
            scratch,
        )  # fmt: skip


_compiled = []
_compiling = Lock()


def transform_address() -> int:
    """Address of the compiled transform; compiles it, or loads it from numba's cache, once."""
    with _compiling:
        if not _compiled:
            _compiled.append(cfunc(_SIGNATURE, cache=True, **_OPTIONS)(_transform))
    return _compiled[0].address


@intrinsic
def call_transform(
    typingctx, address, source, re, im, target, to_re, to_im, size0, steps0, turns0, size1, steps1,
    turns1, scratch,
):  # fmt: skip
    """Call the transform at `address`: its own arguments, but arrays in place of pointers."""
    given = (
        source, re, im, target, to_re, to_im, size0, steps0, turns0, size1, steps1, turns1, scratch,
    )  # fmt: skip
    for kind, wanted in zip(given, _SIGNATURE.args, strict=True):
        if not isinstance(wanted, types.CPointer):
            continue
        if not isinstance(kind, types.Array) or kind.dtype != wanted.dtype:
            raise TypingError(f"A Fourier transform takes arrays of {wanted.dtype}, not {kind}")
    arguments = [kind if isinstance(kind, types.Array) else types.int64 for kind in given]

    def generate(context, builder, signature, args):
        values = []
        for kind, value in zip(signature.args[1:], args[1:], strict=True):
            if isinstance(kind, types.Array):
                value = context.make_array(kind)(context, builder, value).data
            values.append(value)
        function = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, *arguments), generate
