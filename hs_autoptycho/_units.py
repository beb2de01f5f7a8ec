"""Reading the units of a signal's axes, in all the spellings that files come with."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Kind = Literal["length", "reciprocal", "angle", "none"]

#: What a factor of each kind leads to.
BASE_UNITS = {"length": "Å", "reciprocal": "1/Å", "angle": "mrad", "none": ""}

# Names that pint does not know, or reads as something else ("A" as ampere, "px" as a length).
_ANGSTROM = {"A", "AA", "Å", "Ang", "ang", "Angstrom", "angstrom", "Ångström", "ångström"}
_ANGSTROM |= {name + "s" for name in _ANGSTROM if len(name) > 2}
_RADIAN_FACTORS = {"mRad": 1.0, "MRAD": 1.0, "mrads": 1.0, "Rad": 1e3, "rads": 1e3, "urad": 1e-3}
_UNCALIBRATED = {"", "px", "pix", "pixel", "pixels", "<undefined>", "undefined", "none", "channel"}
_UNCALIBRATED |= {"channels", "a.u.", "arb", "arb.u."}


class UnitError(ValueError):
    """A unit which is not that of a length, of a reciprocal length or of an angle."""


@dataclass(frozen=True)
class Unit:
    """What an axis's unit measures, and what one of it is worth in Å, 1/Å or mrad."""

    kind: Kind
    factor: float = 1.0

    @property
    def base(self) -> str:
        """Unit that values times `factor` are in."""
        return BASE_UNITS[self.kind]


def read_unit(units) -> Unit:
    """Read a unit as it stands on a HyperSpy axis.

    Parameters
    ----------
    units
        The axis's `units`: text such as ``"nm"``, ``"$A^{-1}$"``, ``"1/Å"``, ``"nm$^{-1}$"`` or
        ``"mrad"``. None, an empty text, ``"px"`` and anything that is not text (HyperSpy's
        undefined trait) mean that the axis is not calibrated.

    Returns
    -------
    Unit
        Its `kind` is "length", "reciprocal", "angle" or "none", its `factor` turns values into
        Å, 1/Å or mrad.

    Raises
    ------
    UnitError
        If it is a unit of something else, or no unit that is known.

    Notes
    -----
    ``A`` is read as angstrom: no axis of a scan is in amperes, and pyxem and py4DSTEM write
    ``$A^{-1}$`` and ``A^-1``.
    """
    if not isinstance(units, str):
        return Unit("none")
    text = _plain(units)
    if text.lower() in _UNCALIBRATED:
        return Unit("none")
    name, reciprocal = _split_reciprocal(text)
    if not re.fullmatch(r"[^\W\d]+|°", name):
        raise UnitError(f"{units!r} is not a known unit")
    if name.lower() in _UNCALIBRATED:  # "1/px"
        return Unit("none")
    unit = _read_name(name)
    if not reciprocal:
        return unit
    if unit.kind == "length":
        return Unit("reciprocal", 1.0 / unit.factor)
    raise UnitError(f"{units!r} is neither a length, nor a reciprocal length, nor an angle")


def _plain(text: str) -> str:
    """Strip TeX and typography: ``$\\mathrm{nm}^{-1}$``, ``nm⁻¹`` and ``nm^-1`` become one."""
    text = re.sub(r"\\(mathrm|text|rm|mathregular)\b", "", text)
    text = re.sub(r"\\mu\b", "μ", text)
    text = re.sub(r"\\(AA|angstrom)\b", "Å", text)
    text = text.replace("⁻¹", "^-1")
    # NFKC makes one Å of U+212B, U+00C5 and A with a combining ring, and one µ of two.
    text = unicodedata.normalize("NFKC", text)
    text = text.replace("−", "-").replace("–", "-").replace("**", "^")
    return re.sub(r"[\s${}\\()]", "", text)


def _split_reciprocal(text: str) -> tuple[str, bool]:
    """Split ``1/nm``, ``/nm``, ``nm^-1`` and ``nm-1`` into the name and True."""
    for pattern in (r"1?/(?P<name>[^/^]+)", r"(?P<name>[^/^]+?)\^?-1(\.0)?"):
        match = re.fullmatch(pattern, text)
        if match:
            return match["name"], True
    return text, False


def _read_name(name: str) -> Unit:
    if name in _ANGSTROM:
        return Unit("length", 1.0)
    if name in _RADIAN_FACTORS:
        return Unit("angle", _RADIAN_FACTORS[name])
    import pint  # here, because importing it takes longer than the rest of the package

    registry = pint.get_application_registry()
    try:
        quantity = registry.Quantity(1.0, registry.parse_units(name))
    except Exception as error:  # pint raises errors of many unrelated types for odd text
        raise UnitError(f"{name!r} is not a known unit") from error
    dimension = dict(quantity.dimensionality)
    if dimension == {"[length]": 1}:
        return Unit("length", float(quantity.to("angstrom").magnitude))
    # "count" and "%" are without dimension too, but only angles come down to radians.
    if not dimension and str(quantity.to_base_units().units) == "radian":
        return Unit("angle", float(quantity.to("mrad").magnitude))
    raise UnitError(f"{name!r} is neither a length, nor a reciprocal length, nor an angle")
