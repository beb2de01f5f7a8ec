"""What a HyperSpy signal's axes and metadata say of a scan, and what is wrong with it."""

from __future__ import annotations

import logging
import math

import numpy as np

from hs_autoptycho._quantities import QUANTITIES, CalibrationError, Quantity, electron_wavelength
from hs_autoptycho._units import UnitError, read_unit

_logger = logging.getLogger(__name__)

#: Two sides of a pixel may differ by this much and still be called equal.
SQUARE_TOLERANCE = 0.01
#: Largest half-width of a detector, in mrad.
MAX_DETECTOR_ANGLE = 500.0

# Stated over measured radius of the disk, and the mistake that makes it so.
_RATIOS = (
    (2.0, "the full angle given for the semi-angle"),
    (10.0, "1/Å and 1/nm mixed up"),
    (0.1, "1/Å and 1/nm mixed up"),
    (2 * math.pi, "a factor 2π in the reciprocal units"),
    (0.5 / math.pi, "a factor 2π in the reciprocal units"),
    (1000.0, "rad and mrad mixed up"),
    (0.001, "rad and mrad mixed up"),
)


class SignalReader:
    """Reads a signal's numbers one by one; gathers `problems` and `notes` on the way.

    Parameters
    ----------
    signal
        HyperSpy signal.
    any_size
        Whether a scan too small, or a detector of a size that is odd, will do: it does where
        nothing is reconstructed.

    Raises
    ------
    CalibrationError
        At once, if the signal is no 4D-STEM scan with detector sizes that can be used.
    """

    def __init__(self, signal, *, any_size: bool = False) -> None:
        _check_dimensions(signal)
        self._signal = signal
        # HyperSpy lists x before y; arrays have y first.
        self._navigation = tuple(signal.axes_manager.navigation_axes[::-1])
        self._detector = tuple(signal.axes_manager.signal_axes[::-1])
        self.scan_shape = tuple(int(axis.size) for axis in self._navigation)
        self.detector_shape = tuple(int(axis.size) for axis in self._detector)
        self.problems: list[str] = []
        self.notes: list[str] = []
        if not any_size:
            self._check_sizes()

    def note(self, text: str, level: int = logging.INFO) -> None:
        """Keep a note and log it."""
        self.notes.append(text)
        _logger.log(level, text)

    def number(self, name: str, given, *, needed: bool = False) -> float | None:
        """A number given as a keyword, or else the metadata's; None where it is missing or bad."""
        quantity = QUANTITIES[name]
        value, source = given, f"The keyword {name}"
        if value is None:
            value, source = self._signal.metadata.get_item(quantity.item), quantity.item
        if value is None:
            if needed:
                self.problems.append(
                    f"{name} is missing: metadata has no {quantity.item}. {quantity.remedy()}"
                )
            return None
        complaint = quantity.complaint(value)
        if complaint:
            self.problems.append(f"{source}: {complaint}. {quantity.remedy()}")
            return None
        return float(value)

    def scan_step(self, given) -> float | None:
        """Scan step in Å, from a keyword or the navigation axes."""
        if given is not None:
            return self.number("scan_step", given)
        return self._pixel(QUANTITIES["scan_step"], self._navigation, {"length": 1.0}, "nm")

    def reciprocal_pixel(self, given, energy: float | None) -> float | None:
        """Reciprocal pixel in 1/Å, from a keyword or the signal axes."""
        if given is not None:
            return self.number("reciprocal_pixel", given)
        per_mrad = 1e-3 / electron_wavelength(energy) if energy else None
        factors = {"reciprocal": 1.0, "angle": per_mrad}
        return self._pixel(QUANTITIES["reciprocal_pixel"], self._detector, factors, "1/nm")

    def check_disk(
        self, energy: float, pixel: float, angle: float | None, radius: float | None
    ) -> float | None:
        """Compare the stated with the measured disk; return the angle, measured if not stated."""
        mrad = 1e3 * electron_wavelength(energy) * pixel
        edge = 0.5 * max(self.detector_shape) * mrad
        beside = f"with reciprocal_pixel = {pixel:.5g} 1/Å at {energy:g} keV"
        mends = (
            f"Set what is wrong: `convergence_angle=...` (mrad; {self._item('convergence_angle')}) "
            "or `reciprocal_pixel=...` (1/Å; "
            f"`{self._call(self._detector[0])}.scale` and "
            f"`{self._call(self._detector[1])}.scale`)."
        )
        if edge > MAX_DETECTOR_ANGLE:
            self.problems.append(
                f"The detector would reach out to {edge:.4g} mrad {beside}, which is not "
                f"plausible. {mends}"
            )
            return angle
        if angle is None:
            if radius is None:
                return None
            angle = radius * mrad
            quantity = QUANTITIES["convergence_angle"]
            complaint = quantity.complaint(angle)
            if complaint:
                self.problems.append(
                    f"convergence_angle from the measured disk (radius {radius:.2f} px {beside}): "
                    f"{complaint}. {mends}"
                )
                return None
            self.note(
                "The convergence angle is not known, the measured disk's "
                f"{angle:.4g} mrad is used (radius {radius:.2f} px)."
            )
            return angle
        stated = angle / mrad
        if 2 * stated > min(self.detector_shape):
            measured = "" if radius is None else f" The measured radius is {radius:.2f} px."
            self.problems.append(
                f"convergence_angle = {angle:g} mrad {beside} makes a disk of radius "
                f"{stated:.4g} px, wider than the detector of {self.detector_shape[0]} x "
                f"{self.detector_shape[1]} px.{measured}{self._hint(stated, radius)} {mends}"
            )
        elif radius is not None and abs(radius / stated - 1) > 0.01:
            off = abs(radius / stated - 1)
            text = (
                f"The measured disk has a radius of {radius:.2f} px, {angle:g} mrad {beside} "
                f"makes {stated:.2f} px: {100 * (radius / stated - 1):+.1f} %. The measured radius "
                f"is used (it implies {radius * mrad:.4g} mrad)."
            )
            if off > 0.5:
                text += f" Units may be wrong.{self._hint(stated, radius)} {mends}"
            self.note(text, logging.WARNING if off > 0.05 else logging.INFO)
        return angle

    def zero(self) -> tuple[float, float] | None:
        """(row, column) in pixels where the signal axes are zero, None where they do not say."""
        axes = self._detector
        # Offsets of 0 are HyperSpy's default, and say nothing.
        unset = not any(axis.is_uniform and axis.offset for axis in axes)
        if unset or not all(axis.is_uniform and axis.scale for axis in axes):
            return None
        zero = tuple(-axis.offset / axis.scale for axis in axes)
        return zero if all(math.isfinite(z) for z in zero) else None

    def compare_center(self, center: tuple[float, float]) -> None:
        """Note where the measured centre is not where the signal axes have their zero."""
        zero = self.zero()
        if zero is None:
            return
        off = math.hypot(center[0] - zero[0], center[1] - zero[1])
        if off > 1:
            self.note(
                f"The disk's centre is measured at row {center[0]:.2f}, column {center[1]:.2f}; "
                f"the signal axes have their zero at row {zero[0]:.2f}, column {zero[1]:.2f}, "
                f"{off:.2f} px away. The measured centre is used.",
                logging.WARNING if off > 0.05 * min(self.detector_shape) else logging.INFO,
            )

    # -- axes ---------------------------------------------------------------------------------

    def _pixel(
        self, quantity: Quantity, axes: tuple, factors: dict[str, float | None], example: str
    ) -> float | None:
        """Side of a pixel in Å or 1/Å from a pair of axes, which has to be square."""
        before = len(self.problems)
        sides = [self._side(quantity, axis, factors, example) for axis in axes]
        if len(self.problems) > before or None in sides:
            return None
        slow, fast = sides
        mean = 0.5 * (slow + fast)
        difference = abs(slow - fast) / mean
        if difference > SQUARE_TOLERANCE:
            values = " and ".join(
                f"{self._label(a)} has {v:.6g} {quantity.unit}"
                for a, v in zip(axes, sides, strict=True)
            )
            calls = " or ".join(f"`{self._call(a)}.scale = ...`" for a in axes)
            remedy = f"or give `{quantity.name}=...` ({quantity.unit})"
            if quantity.name == "scan_step":
                step = math.sqrt(slow * fast)
                both = f"scan_step={step:.6g}, scan_aspect={slow / fast:.6g}"
                remedy = f"or, if they are right, give `{both}`"
            self.problems.append(
                f"The pixels are not square: {values} ({100 * difference:.1f} % apart; 1 % is "
                f"allowed). Set {calls}, {remedy}."
            )
            return None
        if difference > 1e-3:
            self.note(
                f"{quantity.name}: the axes have {slow:.6g} and {fast:.6g} {quantity.unit}, their "
                f"mean {mean:.6g} is used."
            )
        return mean

    def _side(
        self, quantity: Quantity, axis, factors: dict[str, float | None], example: str
    ) -> float | None:
        label, call = self._label(axis), self._call(axis)
        instead = f"or give `{quantity.name}={quantity.example}` ({quantity.unit})"
        if not axis.is_uniform:
            self.problems.append(
                f"{label} is not uniform. Use `{call}.convert_to_uniform_axis()` if its steps are "
                f"equal, {instead}."
            )
            return None
        scale, units = float(axis.scale), axis.units
        set_both = f'`{call}.scale = ...` and `{call}.units = "{example}"`'
        try:
            unit = read_unit(units)
        except UnitError as error:
            self.problems.append(
                f"{label} has the unit {units!r}: {error}. Set {set_both}, {instead}."
            )
            return None
        if unit.kind == "none":
            shown = repr(units) if isinstance(units, str) else "none"
            self.problems.append(
                f"{quantity.name} is missing: {label} is not calibrated (unit {shown}, scale "
                f"{scale:g}). Set {set_both}, {instead}."
            )
            return None
        if unit.kind not in factors:
            needed = "a length" if "length" in factors else "a reciprocal length or an angle"
            self.problems.append(
                f"{label} has the scale {scale:g} {units}, and {needed} is needed there. Set "
                f"{set_both}, {instead}."
            )
            return None
        factor = factors[unit.kind]
        if factor is None:  # an angle, and no energy: that is a problem already told
            return None
        value = abs(scale) * unit.factor * factor
        complaint = quantity.complaint(value)
        if complaint:
            self.problems.append(
                f"{label} has the scale {scale:g} {units}: {complaint}. Set "
                f"`{call}.scale = ...`, {instead}."
            )
            return None
        if scale < 0:
            self.note(
                f"{label} runs backwards (scale {scale:g} {units}); its magnitude is used, and "
                "rows and columns are taken in the order of the array."
            )
        return value

    def _call(self, axis) -> str:
        """The expression that gets the axis, by its name where that is not ambiguous."""
        names = [a.name for a in (*self._navigation, *self._detector)]
        if isinstance(axis.name, str) and axis.name and names.count(axis.name) == 1:
            return f's.axes_manager["{axis.name}"]'
        return f"s.axes_manager[{axis.index_in_axes_manager}]"

    def _label(self, axis) -> str:
        kind = "Navigation" if axis.navigate else "Signal"
        name = f'"{axis.name}"' if isinstance(axis.name, str) and axis.name else "(unnamed)"
        return f"{kind} axis {name} (index {axis.index_in_axes_manager})"

    @staticmethod
    def _item(name: str) -> str:
        quantity = QUANTITIES[name]
        return f'`s.metadata.set_item("{quantity.item}", {quantity.example})`'

    @staticmethod
    def _hint(stated: float, measured: float | None) -> str:
        if not measured:
            return ""
        for ratio, mistake in _RATIOS:
            if abs(stated / measured / ratio - 1) < 0.05:
                return f" It looks like {mistake}."
        return ""

    def _check_sizes(self) -> None:
        for axis in self._navigation:
            if axis.size < 2:
                raise CalibrationError(
                    f"{self._label(axis)} has {axis.size} position; ptychography needs a scan of "
                    "at least 2 x 2 positions that overlap. Take more of it with `s.inav[...]`."
                )
        odd = [axis for axis in self._detector if axis.size % 2]
        if odd:
            crop = ", ".join(":-1" if a.size % 2 else ":" for a in self._detector[::-1])
            raise CalibrationError(
                "Detector sizes have to be even: "
                + " and ".join(f"{self._label(a)} has {a.size} pixels" for a in odd)
                + f". Leave out the last with `s = s.isig[{crop}]`."
            )


def _check_dimensions(signal) -> None:
    if getattr(signal, "axes_manager", None) is None:
        raise TypeError(
            f"a HyperSpy signal is needed, not {type(signal).__name__}; make one with "
            "`hs.signals.Signal2D(array)` of an array [scan_y, scan_x, k_y, k_x]"
        )
    problem = not_a_scan(signal)
    if problem:
        raise CalibrationError(problem)


def not_a_scan(signal) -> str:
    """What keeps a signal from being a scan by its dimensions, and what to do; empty if it is."""
    manager = signal.axes_manager
    navigation, detector = manager.navigation_dimension, manager.signal_dimension
    even = (navigation, detector) in ((0, 4), (2, 2), (4, 0))
    exchanged = even and _is_exchanged(signal)
    if (navigation, detector) == (2, 2):
        if not exchanged:
            return ""
        return (
            f"The navigation axes of {signal!r} are those of the detector, and the signal axes are "
            "lengths. Turn it with `s = s.transpose()`."
        )
    if exchanged:
        mend = "Turn it with `s = s.transpose(navigation_axes=(0, 1), signal_axes=(2, 3))`."
    elif navigation + detector == 4:
        mend = "Turn it with `s = s.transpose(signal_axes=2)`."
    elif navigation + detector > 4:
        mend = (
            "Choose one scan of it with `s = s.inav[:, :, 0]`, after "
            "`s = s.transpose(signal_axes=2)` if the detector's axes are not the signal axes."
        )
    elif navigation + detector == 3:
        array = "s.data.reshape(scan_y, scan_x, k_y, k_x)"
        lazy = ".as_lazy()" if signal._lazy else ""
        mend = (
            "If it is a list of patterns, give it the shape of the scan: "
            f"{_load_line(signal)}`s = hs.signals.Signal2D({array}){lazy}`."
        )
    else:
        mend = (
            "One pattern or image is no scan: load the file that holds the pattern of every "
            "position."
        )
    return (
        f"A 4D-STEM scan has 2 navigation and 2 signal dimensions; {signal!r} has {navigation} and "
        f"{detector}. {mend}"
    )


def not_its_data(signal) -> str:
    """What keeps a scan's data from being what its axes say, and what to do; empty if nothing."""
    data = signal.data
    shape = tuple(axis.size for axis in signal.axes_manager._axes)
    if data.shape != shape:
        return (
            f"The axes have the sizes {shape} (scan_y, scan_x, k_y, k_x), but the data have the "
            f"shape {data.shape}. Make the signal anew from its data, "
            "`hs.signals.Signal2D(s.data)`, and set its axes."
        )
    if 0 in shape:
        return f"There is nothing in the data: their shape is {shape} (scan_y, scan_x, k_y, k_x)."
    lazily = getattr(data, "_meta", None)
    if np.ma.is_masked(data) or isinstance(lazily, np.ma.MaskedArray):
        return (
            "The data are a masked array, and what is below its mask would be used. Set it to "
            "zero, `s.data = s.data.filled(0)`, and mask pixels and positions in the call. Of a "
            "lazy signal, `s.data = s.data.map_blocks(np.ma.filled, 0)`."
        )
    return ""


def _is_exchanged(signal) -> bool:
    """Whether the units of four axes say that the detector's are the first two of the array."""
    manager = signal.axes_manager
    kinds = []
    for axis in (*manager.navigation_axes[::-1], *manager.signal_axes[::-1]):
        try:
            kinds.append(read_unit(axis.units).kind)
        except UnitError:
            return False
    return kinds[2:] == ["length"] * 2 and kinds[:2] in (["reciprocal"] * 2, ["angle"] * 2)


# the reader's own word for the shape of the scan, where the file does not hold it
_SHAPE_OPTIONS = {
    ".mib": "navigation_shape=(scan_x, scan_y)",
    ".tvips": "scan_shape=(scan_y, scan_x), scan_start_frame=...",
}


def _load_line(signal) -> str:
    """The line that loads a file anew as a scan, and "or"; empty where its reader has none."""
    file = signal.tmp_parameters
    extension = file.get_item("extension", "")
    option = _SHAPE_OPTIONS.get(extension.lower())
    if option is None:
        return ""
    lazy = ", lazy=True" if signal._lazy else ""
    return f'`s = hs.load("{file.get_item("filename")}{extension}"{lazy}, {option})`, or '
