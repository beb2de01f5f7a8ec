"""Every spelling of a unit that files of 4D-STEM scans come with."""

import pytest

from hs_autoptycho._units import UnitError, read_unit

LENGTHS = {
    "A": 1.0,
    "\u00c5": 1.0,
    "\u212b": 1.0,
    "A\u030a": 1.0,
    "angstrom": 1.0,
    "Angstrom": 1.0,
    "angstroms": 1.0,
    "Ang": 1.0,
    r"$\AA$": 1.0,
    "pm": 0.01,
    "nm": 10.0,
    " nm ": 10.0,
    "nanometer": 10.0,
    "um": 1e4,
    "\u00b5m": 1e4,
    "\u03bcm": 1e4,
    r"$\mu$m": 1e4,
    "micron": 1e4,
    "mm": 1e7,
    "m": 1e10,
}
RECIPROCALS = {
    "$A^{-1}$": 1.0,
    "A^-1": 1.0,
    "A$^{-1}$": 1.0,
    "1/A": 1.0,
    "1/\u00c5": 1.0,
    "1/\u212b": 1.0,
    "1/A\u030a": 1.0,
    "1 / Å": 1.0,
    "Å^-1": 1.0,
    "Å⁻¹": 1.0,
    r"$\AA^{-1}$": 1.0,
    r"$\mathrm{\AA}^{-1}$": 1.0,
    "1/angstrom": 1.0,
    "angstrom^-1": 1.0,
    "angstrom**-1": 1.0,
    "1/nm": 0.1,
    "1 / nm": 0.1,
    "nm^-1": 0.1,
    "nm-1": 0.1,
    "nm⁻¹": 0.1,
    "$nm^{-1}$": 0.1,
    "nm$^{-1}$": 0.1,
    r"$\mathrm{nm}^{-1}$": 0.1,
    "nm^(-1)": 0.1,
    "1/um": 1e-4,
    "1/pm": 100.0,
    "1/m": 1e-10,
}
ANGLES = {
    "mrad": 1.0,
    "mRad": 1.0,
    "milliradian": 1.0,
    "rad": 1e3,
    "µrad": 1e-3,
    "deg": 17.453292519943297,
    "°": 17.453292519943297,
}


@pytest.mark.parametrize(("text", "factor"), LENGTHS.items())
def test_length(text, factor):
    unit = read_unit(text)
    assert (unit.kind, unit.base) == ("length", "Å")
    assert unit.factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(("text", "factor"), RECIPROCALS.items())
def test_reciprocal_length(text, factor):
    unit = read_unit(text)
    assert (unit.kind, unit.base) == ("reciprocal", "1/Å")
    assert unit.factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(("text", "factor"), ANGLES.items())
def test_angle(text, factor):
    unit = read_unit(text)
    assert (unit.kind, unit.base) == ("angle", "mrad")
    assert unit.factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("text", [None, "", "  ", "px", "pixels", "1/px", "a.u.", "<undefined>"])
def test_uncalibrated(text):
    assert read_unit(text).kind == "none"


def test_undefined_trait_is_uncalibrated():
    from traits.api import Undefined

    assert read_unit(Undefined).kind == "none"


@pytest.mark.parametrize(
    "text", ["s", "eV", "%", "count", "K", "furlongish", "1/nm^2", "nm*mrad", "2/nm", "^-1", "1/s"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(UnitError):
        read_unit(text)
