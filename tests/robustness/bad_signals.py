"""Kinds of signals, one line each: groups of the matrix of bad inputs."""

from __future__ import annotations

import dask
import dask.array as da
import hyperspy.api as hs
import numpy as np
from hyperspy.axes import DataAxis, FunctionalDataAxis, UniformDataAxis
from judging import Kind, either, finished, refused, same

TEM = "Acquisition_instrument.TEM"
NO_NUMBERS = refused("have to be real numbers, not|patterns are real", unread=True)
NO_SCAN = refused("A 4D-STEM scan has 2 navigation and 2 signal dimensions", unread=True)
EXCHANGED = refused(r"`s = s.transpose\(\)`", unread=True)


# --- how an input is made of a good one -------------------------------------------------------


def data(change):
    """The array changed; `change` returns the new one, or None where it worked in place."""

    def make(signal):
        new = change(signal.data)
        if new is not None:
            signal.data = new
        return signal

    return make


def cast(dtype):
    return data(lambda a: a.astype(dtype))


def put(dtype, index, value):
    """One value, or a slice of them, set."""

    def change(array):
        array = array.astype(dtype)
        array[index] = value
        return array

    return data(change)


def anew(shape, dtype=np.uint16, value=7):
    """A signal of another shape, calibrated like the good one as far as it has axes."""

    def make(signal):
        other = hs.signals.Signal2D(np.full(shape, value, dtype))
        for mine, theirs in zip(other.axes_manager._axes, signal.axes_manager._axes, strict=False):
            mine.scale, mine.units, mine.name = theirs.scale, theirs.units, theirs.name
        other.metadata.add_dictionary(
            {"Acquisition_instrument": signal.metadata.Acquisition_instrument.as_dictionary()}
        )
        return other

    return make


def crop(y, x, ky=slice(None), kx=slice(None)):
    """A part of the good one: indices of the array, in its order."""
    return lambda signal: signal.inav[x, y].isig[kx, ky]


def axes(which, **values):
    """Attributes of axes: ``"scan"``, ``"detector"``, or indices in the order of the array."""
    indices = {"scan": (0, 1), "detector": (2, 3)}.get(which, which)

    def make(signal):
        for i in indices:
            for name, value in values.items():
                axis = signal.axes_manager._axes[i]
                setattr(axis, name, value(axis) if callable(value) else value)
        return signal

    return make


def unit(which, units, factor):
    """The same calibration in another unit; `factor` is how many of it are an Å, or 1/Å."""
    in_angstrom = {"nm": 10, "Å": 1, "1/nm": 0.1, "nm$^{-1}$": 0.1, "1/Å": 1, "$A^{-1}$": 1}
    return axes(
        which, scale=lambda axis: axis.scale * in_angstrom[axis.units] * factor, units=units
    )


def other_axis(index, kind):
    """An axis replaced by one of another class with the same values."""

    def make(signal):
        manager = signal.axes_manager
        old = manager._axes[index]
        values = np.asarray(old.axis, float)
        common = {"name": old.name, "units": old.units, "navigate": old.navigate}
        if kind == "data":
            new = DataAxis(axis=values, **common)
        elif kind == "uneven":
            new = DataAxis(axis=values + 0.3 * old.scale * (np.arange(old.size) % 2), **common)
        else:
            x = UniformDataAxis(scale=old.scale, offset=abs(old.offset) + 1, size=old.size)
            new = FunctionalDataAxis(expression="x**2", x=x, **common)
        manager._axes[index] = new
        new.axes_manager = manager
        manager._update_attributes()
        return signal

    return make


def chunked(*chunks):
    def make(signal):
        full = [n if c is None else c for c, n in zip(chunks, signal.data.shape, strict=True)]
        full = [(c[0], n - sum(c)) + c[1:] if isinstance(c, tuple) else c
                for c, n in zip(full, signal.data.shape, strict=True)]  # fmt: skip
        signal.data = da.from_array(signal.data, chunks=tuple(full))
        return signal.as_lazy()

    return make


def blocks(function, dtype=None):
    """A lazy array of which each block is what `function` gives for it."""

    def make(signal):
        lazy = da.from_array(signal.data, chunks=(3, 4, -1, -1))
        signal.data = lazy.map_blocks(function, dtype=dtype or signal.data.dtype)
        return signal.as_lazy()

    return make


def item(name, value):
    def make(signal):
        signal.metadata.set_item(name, value)
        return signal

    return make


def without(*names):
    def make(signal):
        for name in names:
            parent, _, last = name.rpartition(".")
            node = signal.metadata.get_item(parent) if parent else signal.metadata
            if node.has_item(last):
                delattr(node, last)
        return signal

    return make


def cannot_read(block):
    raise OSError("the disk is gone: Input/output error")


def of_unknown_length(signal):
    parts = [dask.delayed(lambda a: a)(row) for row in signal.data]
    shape = (np.nan, *signal.data.shape[1:])
    rows = [da.from_delayed(p, signal.data.shape[1:], signal.data.dtype)[None] for p in parts]
    array = da.concatenate(rows)
    array._chunks = ((np.nan,) * len(rows), *array.chunks[1:])
    assert np.isnan(shape[0])
    signal.data = array
    return signal.as_lazy()


# --- the matrix -------------------------------------------------------------------------------


def types():
    plain = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"]
    for code in plain + [">" + c for c in plain if np.dtype(c).itemsize > 1]:
        yield Kind("types", f"{np.dtype(code)!s} {code}", cast(code), same(), same())
    yield Kind("types", "bool", data(lambda a: a > 1), same("bits"), same("bits"))
    for code in ("c8", "c16", ">c8", "m8[s]", "M8[s]", "U4", "S4"):
        yield Kind("types", code, cast(code), NO_NUMBERS, NO_NUMBERS)
    yield Kind("types", "object", cast(object), NO_NUMBERS, NO_NUMBERS, lazy=False)
    fields = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    yield Kind("types", "rgb", data(lambda a: np.zeros(a.shape, fields)), NO_NUMBERS, NO_NUMBERS)


def layouts():
    def locked(array):
        array.flags.writeable = False

    def strided(array):
        wide = np.zeros((*array.shape[:3], 2 * array.shape[3]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]

    def masked(array):
        return np.ma.MaskedArray(array, np.indices(array.shape)[3] == 5)

    yield Kind("layouts", "read-only", data(locked), same(), same(), lazy=False)
    yield Kind("layouts", "Fortran order", data(np.asfortranarray), same(), same(), lazy=False)
    yield Kind("layouts", "every second column", data(strided), same(), same(), lazy=False)
    yield Kind("layouts", "backwards in memory", data(lambda a: a[::-1].copy()[::-1]), same(),
               same(), lazy=False)  # fmt: skip
    yield Kind("layouts", "masked array", data(masked), refused("masked array"),
               refused("masked array"), lazy=False)  # fmt: skip
    yield Kind("layouts", "masked array without a mask", data(np.ma.MaskedArray), same(), same(),
               lazy=False)  # fmt: skip


def values():
    ends = {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf, "negative": -1.0}
    for name, value in ends.items():
        told = "negative" if name == "negative" else "NaN or infinite"
        no = refused(rf"1 values are {told}.*\(x=4, y=2\).*\(kx=20, ky=15\)")
        noted = finished(rf"1 of the positions, the first of them x=4, y=2.*{told}")
        for dtype in ("f2", "f4", "f8"):
            make = put(dtype, (2, 4, 15, 20), value)
            yield Kind("values", f"one {name} ({dtype})", make, no, noted)
        yield Kind("values", f"all {name}", put("f4", ..., value), refused(told),
                   refused("can be used"))  # fmt: skip
        yield Kind("values", f"a row of {name}", put("f4", 1, value), refused(told),
                   finished(told))  # fmt: skip
    for dtype in ("i1", "i2", "i4", "i8"):
        make = put(dtype, (2, 4, 15, 20), -1)
        yield Kind("values", f"one negative ({dtype})", make, refused("negative.*x=4, y=2"),
                   finished("x=4, y=2.*negative"))  # fmt: skip
    for dtype in ("u1", "i4", "f4"):
        yield Kind("values", f"all zero ({dtype})", put(dtype, ..., 0), refused("empty"),
                   refused("empty"))  # fmt: skip
        yield Kind("values", f"one empty ({dtype})", put(dtype, (2, 4), 0),
                   finished("1 of 42 patterns are empty.*x=4, y=2"),
                   finished("1 of the positions.*x=4, y=2.*empty"))  # fmt: skip
        yield Kind("values", f"constant ({dtype})", put(dtype, ..., 3), refused("disk"),
                   finished())  # fmt: skip
    yield Kind("values", "all but one empty", put("u2", np.s_[1:], 0), finished("empty"),
               finished("empty"))  # fmt: skip
    yield Kind("values", "a single count", data(single_count), refused("disk"),
               either("direct beam"))  # fmt: skip
    for dtype in ("u1", "u2", "i2"):
        top = np.iinfo(dtype).max
        make = data(lambda a, d=dtype, t=top: np.where(a > 20, t, a).astype(d))
        yield Kind("values", f"saturated ({dtype})", make, finished("saturated"), finished())
    yield Kind("values", "a hot pixel", put("u4", (..., 3, 4), 100000), either("disk"),
               finished("far brighter"))  # fmt: skip
    yield Kind("values", "a dead row", put("u2", np.s_[..., 5, :], 0), finished(), finished())
    for scale in (1e-12, 1e-6, 1e-3, 0.37, 1e3, 1e6, 1e10, 1e12):
        make = data(lambda a, s=scale: a * s)
        yield Kind("values", f"times {scale:g}", make, finished(), finished())
    no = refused("The largest value of the patterns is")
    for scale in (1e-300, 1e-40, 1e-18, 1e14, 1e18, 1e30, 1e36, 1e300):
        make = data(lambda a, s=scale: (a * s).astype("f8" if abs(np.log10(s)) > 38 else "f4"))
        yield Kind("values", f"times {scale:g}", make, no, no)


def single_count(array):
    array[...] = 0
    array[1, 2, 3, 4] = 1


def shapes():
    small = refused("at least 2 x 2 positions", unread=True)
    odd = refused("Detector sizes have to be even", unread=True)
    for shape in ((0, 3, 8, 12), (3, 0, 8, 12), (3, 4, 0, 12), (3, 4, 8, 0), (0, 0, 0, 0)):
        yield Kind("shapes", f"empty {shape}", anew(shape), refused("."), refused("."),
                   lazy=False)  # fmt: skip
    yield Kind("shapes", "one position", crop(slice(0, 1), slice(0, 1)), small,
               refused("single pattern", unread=True))  # fmt: skip
    yield Kind("shapes", "one row", crop(slice(0, 1), slice(None)), small, finished())
    yield Kind("shapes", "one column", crop(slice(None), slice(0, 1)), small, finished())
    for y, x in ((2, 2), (2, 7), (6, 2), (3, 5)):
        make = crop(slice(0, y), slice(0, x))
        yield Kind("shapes", f"{y} x {x} positions", make, finished(), finished())
    for rows, columns in ((-1, None), (None, -1), (-1, -1)):
        make = crop(slice(None), slice(None), slice(0, rows), slice(0, columns))
        yield Kind("shapes", f"odd detector {rows} {columns}", make, odd, finished())
    for shape in ((1, 1), (1, 40), (40, 1), (3, 5), (1, 2)):
        no = refused("pixel|even|detector", unread=True)
        yield Kind("shapes", f"detector {shape}", anew((3, 4, *shape)), no, either("."))
    for shape in ((2, 2), (2, 40), (4, 6), (8, 8)):
        yield Kind("shapes", f"detector {shape}", anew((3, 4, *shape)),
                   refused("disk|detector"), either("."))  # fmt: skip
    part = crop(slice(None), slice(None), slice(2, 28), slice(0, -2))
    yield Kind("shapes", "another detector", part, finished(), finished())
    yield Kind(
        "shapes",
        "disk cut off",
        crop(slice(None), slice(None), slice(14, None), slice(0, -4)),
        either("disk|detector"),
        finished(),
    )


def orders():
    yield Kind("orders", "exchanged", lambda s: s.transpose(), EXCHANGED, EXCHANGED)
    yield Kind("orders", "exchanged twice", lambda s: s.transpose().transpose(), same(), same())
    yield Kind("orders", "lazily exchanged twice", lambda s: s.as_lazy().transpose().transpose(),
               same(), same(), lazy=True)  # fmt: skip
    for navigation in (0, 1, 3, 4):
        yield Kind("orders", f"{navigation} navigation dimensions",
                   lambda s, n=navigation: s.transpose(navigation_axes=n), NO_SCAN,
                   NO_SCAN)  # fmt: skip
    for shape in ((8, 12), (3, 8, 12), (2, 3, 4, 8, 12), (2, 2, 2, 2, 8, 12)):
        yield Kind("orders", f"{len(shape)} dimensions", anew(shape), NO_SCAN, NO_SCAN)
    yield Kind("orders", "Signal1D", lambda s: s.as_signal1D(-1), NO_SCAN, NO_SCAN)
    turned = data(lambda a: np.moveaxis(a, 3, 0).copy())
    yield Kind("orders", "array turned, axes not", turned, refused("axes have the sizes"),
               refused("axes have the sizes"), lazy=False)  # fmt: skip
    yield Kind("orders", "axis too long", axes((1,), size=9), refused("axes have the sizes"),
               refused("axes have the sizes"), lazy=False)  # fmt: skip


def units():
    lengths = {"Å": 1, "A": 1, "Angstrom": 1, "angstroms": 1, "\u212b": 1, "nm": 0.1, "pm": 100,
               "um": 1e-4, "µm": 1e-4, "μm": 1e-4, "micrometer": 1e-4, "m": 1e-10,
               " nm ": 0.1, "nanometers": 0.1}  # fmt: skip
    for name, factor in lengths.items():
        yield Kind("units", f"scan {name!r}", unit("scan", name, factor), same(exact=False), same())
    inverse = {"1/Å": 1, "1/A": 1, "A^-1": 1, "$A^{-1}$": 1, "Å⁻¹": 1, "1/nm": 10, "nm-1": 10,
               "nm**-1": 10, "/nm": 10, "$\\mathrm{nm}^{-1}$": 10, "1/pm": 0.01}  # fmt: skip
    for name, factor in inverse.items():
        yield Kind("units", f"detector {name!r}", unit("detector", name, factor),
                   same(exact=False), same())  # fmt: skip
    per_angstrom = 41.757  # mrad, at 80 keV
    for name, factor in {"mrad": 1, "rad": 1e-3, "mRad": 1, "µrad": 1e3}.items():
        make = unit("detector", name, factor * per_angstrom)
        yield Kind("units", f"detector {name!r}", make, same(exact=False), same())
    mixed = unit((2,), "mrad", per_angstrom)
    yield Kind("units", "mixed", mixed, same(exact=False), same())
    yield Kind("units", "scan mixed", unit((1,), "pm", 100), same(exact=False), same())
    missing = ["", "px", "pixels", "<undefined>", "a.u."]
    for which, name in (("scan", "scan_step"), ("detector", "reciprocal_pixel")):
        for units in missing:
            yield Kind("units", f"{which} {units!r}", axes(which, units=units),
                       refused(f"{name} is missing"), same())  # fmt: skip
        for units in ("s", "eV", "furlongish", "%", "K/m", "nm^2", "1/s", "1/", "^-1", "°C", "\x00",
                      "__import__('os')", "nm; import os", "9" * 50, "{" * 300):  # fmt: skip
            yield Kind("units", f"{which} {units!r}"[:40], axes(which, units=units),
                       refused("has the unit|is needed there|is not calibrated"),
                       same())  # fmt: skip
    yield Kind("units", "scan '1/nm'", axes("scan", units="1/nm"), refused("length"), same())
    yield Kind("units", "detector 'nm'", axes("detector", units="nm"), refused("reciprocal"),
               same())  # fmt: skip
    yield Kind("units", "detector 10 times", axes("detector", units="1/nm", scale=0.0625),
               either("disk|mixed up|Set"), same())  # fmt: skip


def scales():
    for which, name in (("scan", "scan_step"), ("detector", "reciprocal_pixel")):
        for value in (0.0, np.nan, np.inf, -np.inf, 1e-300, 1e300):
            for_labels = same() if value in (1e-300, 1e300) else refused("has the scale")
            yield Kind("scales", f"{which} {value}", axes(which, scale=value),
                       refused("scale|plausible"), for_labels)  # fmt: skip
        yield Kind("scales", f"{which} backwards", axes(which, scale=lambda a: -a.scale),
                   same(), same())  # fmt: skip
        for i in (0, 1) if which == "scan" else (2, 3):
            yield Kind("scales", f"axis {i} 10 % longer",
                       axes((i,), scale=lambda a: 1.1 * a.scale),
                       refused(f"not square.*{name}"), same())  # fmt: skip
            for value in (np.nan, 0.0):
                yield Kind("scales", f"axis {i} {value}", axes((i,), scale=value),
                           refused("scale"), refused("has the scale"))  # fmt: skip
        for value in (np.nan, np.inf, 1e300):
            for_labels = same() if value == 1e300 else refused("has the offset")
            yield Kind("scales", f"{which} offset {value}", axes(which, offset=value), same(),
                       for_labels)  # fmt: skip


def axis_kinds():
    for i, where in enumerate(("scan y", "scan x", "detector ky", "detector kx")):
        for kind in ("data", "uneven", "functional"):
            yield Kind("axes", f"{where} {kind}", other_axis(i, kind), refused("is not uniform"),
                       same())  # fmt: skip
    for name in ("", "x", "same", "a.b", "ü\n", "__class__"):
        yield Kind("axes", f"names {name!r}", axes(range(4), name=name), same(), same())


def chunks():
    for name, make in {
        "one block": chunked(-1, -1, -1, -1),
        "one position each": chunked(1, 1, -1, -1),
        "rows": chunked(1, -1, -1, -1),
        "unequal": chunked((1, 2), (2, 1), -1, -1),
        "parts of patterns": chunked(-1, 3, 5, 7),
        "single pixels": chunked(-1, -1, 9, 1),
        "everything unequal": chunked((1, 3), (4, 1), (3, 10), (30, 1)),
    }.items():
        yield Kind("chunks", name, make, same(), same(), lazy=True)
    yield Kind("chunks", "unknown sizes", of_unknown_length, refused("chunk|size", theirs=True),
               refused("chunk|size", theirs=True), lazy=True)  # fmt: skip
    gone = refused("Input/output error", theirs=True)
    yield Kind("chunks", "cannot be read", blocks(cannot_read), gone, gone, lazy=True)
    short = blocks(lambda block: block[:1])
    wrong = refused("shape|broadcast|size", theirs=True)
    yield Kind("chunks", "blocks too short", short, wrong, wrong, lazy=True)
    text = blocks(lambda block: block.astype("U5"))
    no = refused("real numbers|str|U5", theirs=True)
    yield Kind("chunks", "blocks of text", text, no, no, lazy=True)
    secretly = blocks(lambda block: np.where(block > 20, np.nan, block))
    yield Kind("chunks", "blocks of NaN that say they are counts", secretly, refused("NaN"),
               refused("can be used"), lazy=True)  # fmt: skip
    secretly = blocks(lambda block: block.astype(complex))
    yield Kind("chunks", "complex blocks that say they are counts", secretly, no, no, lazy=True)


def metadata():
    wrong = ["80 keV", [80.0], {"value": 80}, True, np.nan, np.inf, -80.0, 0, 80000.0, 1j,
             np.array([80.0, 81.0]), b"80", "__import__('os').system('true')"]  # fmt: skip
    for name in ("beam_energy", "convergence_angle"):
        for value in wrong:
            yield Kind("metadata", f"{name} = {value!r}", item(f"{TEM}.{name}", value),
                       refused(name), same())  # fmt: skip
    yield Kind("metadata", "no energy", without(f"{TEM}.beam_energy"),
               refused("beam_energy is missing"), same())  # fmt: skip
    yield Kind("metadata", "no angle", without(f"{TEM}.convergence_angle"), same(), same())
    yield Kind(
        "metadata", "scan_rotation is text", item(f"{TEM}.scan_rotation", "x"), same(), same()
    )
    yield Kind("metadata", "probe_defocus is text", item(f"{TEM}.probe_defocus", "x"),
               either("probe_defocus: 'x' is not a number"), same())  # fmt: skip
    yield Kind("metadata", "no instrument", without("Acquisition_instrument"),
               refused("beam_energy is missing"), same())  # fmt: skip
    for name in ("Acquisition_instrument", TEM):
        for value in ("text", 3, None, [1, 2]):
            yield Kind("metadata", f"{name} = {value!r}", replaced(name, value),
                       refused("beam_energy"), same())  # fmt: skip
    for value in (None, 3, b"title", ["a"], {"a": 1}, "ü\n", "x" * 10000):
        yield Kind("metadata", f"title = {value!r}"[:40], item("General.title", value), same(),
                   same())  # fmt: skip
    odd = {"a function": print, "a signal": hs.signals.Signal1D([1.0, 2.0]), "an object": object(),
           "a set": {1, "a"}, "a complex number": 1j, "bytes": b"\xff", "a huge integer": 10**40,
           "NaN": np.nan, "an array of objects": np.array([object()])}  # fmt: skip
    for name, value in odd.items():
        for place in ("General.remark", "Acquisition_instrument.remark"):
            yield Kind("metadata", f"{name} in {place}", item(place, value), same(), same())
    for value in ("no such type", "hologram", "ptychographic_object", None, 3):
        yield Kind("metadata", f"signal_type = {value!r}", item("Signal.signal_type", value),
                   same(), same())  # fmt: skip
    yield Kind("metadata", "no General", without("General"), same(), same())
    yield Kind("metadata", "no Signal", without("Signal"), same(), same())


def replaced(name, value):
    """A branch of the metadata replaced by something else."""

    def make(signal):
        parent, _, last = name.rpartition(".")
        node = signal.metadata.get_item(parent) if parent else signal.metadata
        node.__delattr__(last)
        node.set_item(last, value)
        return signal

    return make


GROUPS = {
    "types": types, "layouts": layouts, "values": values, "shapes": shapes, "orders": orders,
    "units": units, "scales": scales, "axes": axis_kinds, "chunks": chunks, "metadata": metadata,
}  # fmt: skip
