"""The numbers of a scan's geometry: their units, plausible ranges, and how a user sets them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import constants

TEM = "Acquisition_instrument.TEM"
#: Limits of the largest value in patterns that are no whole numbers.
LEAST, MOST = 1e-15, 1e15


class CalibrationError(ValueError):
    """A length, an angle or an energy of a scan is missing, absurd or contradicted."""


@dataclass(frozen=True)
class Quantity:
    """A number of the geometry: its unit, its plausible range and how a user sets it."""

    name: str
    unit: str
    low: float
    high: float
    example: str
    item: str | None = None  # where it is in the metadata

    def remedy(self) -> str:
        fixed = f"fixed={{{self.name!r}: {self.example}}}"
        ways = f"Give it in the call, `{self.name}={self.example}` ({self.unit}), or `{fixed}` in "
        ways += "that of a tuning"
        if self.item:
            ways += f', or set it with `s.metadata.set_item("{self.item}", {self.example})`'
        return ways + "."

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        try:
            # float() would take the real part, or the only element of an array
            odd = isinstance(value, str | bytes | bool | np.bool_) or np.iscomplexobj(value)
            if odd or (isinstance(value, np.ndarray) and value.ndim):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return f"{shortened(value)} is not a number"
        if self.low <= number <= self.high:
            return None
        text = (
            f"{number:g} {self.unit} is not plausible (expected {self.low:g} to {self.high:g} "
            f"{self.unit})"
        )
        for factor, mistake in _MISTAKES.get(self.name, ()):
            if self.low <= number * factor <= self.high:
                return f"{text}; it looks like {mistake}: {number * factor:g} {self.unit}?"
        return text


_MISTAKES = {
    "beam_energy": ((1e-3, "electronvolts (eV)"), (1e3, "megaelectronvolts (MeV)")),
    "convergence_angle": ((1e3, "radians (rad)"), (1e-3, "microradians (µrad)")),
}
QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("beam_energy", "keV", 10, 3000, "300", f"{TEM}.beam_energy"),
        Quantity("convergence_angle", "mrad", 0.05, 200, "21.4", f"{TEM}.convergence_angle"),
        Quantity("scan_step", "Å", 1e-3, 1e6, "0.5"),
        Quantity("reciprocal_pixel", "1/Å", 1e-6, 1, "0.02"),
        Quantity("scan_rotation", "degrees", -360, 360, "-12.5", f"{TEM}.scan_rotation"),
        Quantity("defocus", "Å", -1e8, 1e8, "300", f"{TEM}.probe_defocus"),
    )
}


def check_size(largest: float, error: type[ValueError]) -> None:
    """Raise an error for a largest value whose square or inverse cannot be reckoned with."""
    if not LEAST <= largest <= MOST:
        raise error(
            f"The largest value of the patterns is {largest:g}, which is no number of counts: "
            f"{LEAST:g} to {MOST:g} can be reckoned with. Set what is wrong to zero, or bring all "
            "of them to another scale, `s.data = s.data * ...`."
        )


def shortened(value: Any, length: int = 200) -> str:
    """How a value is written in a message, which a long one would drown."""
    try:
        text = repr(value)
    except Exception:  # whatever it is, it is to be named; an integer may have too many digits
        text = f"this {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 1]}…"


def electron_wavelength(beam_energy: float) -> float:
    """Relativistic wavelength of electrons in Å, for their kinetic energy in keV."""
    energy = beam_energy * 1e3 * constants.e
    rest = constants.m_e * constants.c**2
    return 1e10 * constants.h * constants.c / math.sqrt(energy * (energy + 2 * rest))
