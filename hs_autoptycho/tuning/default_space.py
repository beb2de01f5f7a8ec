"""Which parameters to tune where nobody said so, and in which ranges: derived from the data."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.batches import default_batch_size
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError, check_names
from hs_autoptycho.tuning.couplings import CONDITIONS, DEGENERATE_PAIRS
from hs_autoptycho.tuning.space import Dimension, degenerate_notes

_logger = logging.getLogger(__name__)

# What is tuned where nobody says anything; a list of values takes the place of the default range.
DEFAULT_SET: dict[str, tuple[Any, ...] | None] = {
    "scan_rotation": None,
    "defocus": None,
    "C12a": None,
    "C12b": None,
    "n_probe_modes": (1, 2, 4),
}

# The probe's disk of confusion may fill this part of its window, in the widest range of defocus.
_LARGEST_PROBE = 0.6
# A range about an estimate has a half width of so many standard errors, but at least the floor:
# images of a crystal also align when they are displaced by its period, of which the standard error
# knows nothing. Rotation in degrees, defocus and astigmatism relative to the defocus.
_STANDARD_ERRORS = 5.0
_ROTATION_FLOOR = 8.0
_DEFOCUS_FLOOR = 0.3
_ASTIGMATISM_FLOOR = 0.1
# The same of lengths, relative to the largest defocus.
_LENGTH_FLOOR = 0.02
# Half width of the range of astigmatism where it was not measured, relative to the largest defocus.
_UNKNOWN_ASTIGMATISM = 0.2
_TYPICAL_THICKNESS = (5.0, 500.0)


class Estimate(Protocol):
    """What was measured without a reconstruction: values with standard errors, None if not found.

    Angles in degrees, lengths in Å.
    """

    scan_rotation: float | None
    scan_rotation_error: float | None
    defocus: float | None
    defocus_error: float | None
    C12a: float | None
    C12a_error: float | None
    C12b: float | None
    C12b_error: float | None


def largest_defocus(geometry: Geometry) -> float:
    """The defocus in Å at which the probe still fits into its window."""
    radius = _LARGEST_PROBE / geometry.reciprocal_pixel / 2
    return radius / (geometry.measured_convergence_angle * 1e-3)


def default_space(
    experiment: Experiment,
    held: Mapping[str, Any],
    estimate: Estimate | None = None,
    wanted: Iterable[str] = (),
) -> tuple[list[Dimension], list[str]]:
    """What to tune, in ranges derived from the data.

    Parameters
    ----------
    experiment
        The data.
    held
        Parameters that are not to be tuned.
    estimate
        What was measured without a reconstruction. Default: nothing.
    wanted
        Names of what to tune. Default: those of `DEFAULT_SET` that are not held; of two that can
        hardly be told apart the first one.

    Returns
    -------
    list of Dimension, list of str
        The space, and sentences on how it was found.

    Raises
    ------
    TypeError, ParameterError
        For a name that is unknown, held, or cannot be tuned.
    """
    wanted = list(dict.fromkeys(wanted))
    check_names(wanted)
    for name in wanted:
        if name in held:
            raise ParameterError(f"{name} is to be tuned, but it is held at {held[name]!r}.")
    if wanted:
        dimensions = [default_range(name, experiment, estimate, held) for name in wanted]
        names = {*wanted, *held}
        if "n_slices" in names and "thickness" not in names and held.get("n_slices") != 1:
            dimensions.append(default_range("thickness", experiment, estimate, held))
    else:
        dimensions = []
        for name, choices in DEFAULT_SET.items():
            if name in held or _has_partner(name, dimensions):
                continue
            if choices:
                condition = CONDITIONS.get(name)
                dimensions.append(Dimension(name, choices=choices, condition=condition))
            else:
                dimensions.append(default_range(name, experiment, estimate, held))
    notes = _notes(experiment, held, estimate, dimensions) + degenerate_notes(dimensions)
    for note in notes:
        _logger.info(note)
    return dimensions, notes


def default_range(
    name: str,
    experiment: Experiment,
    estimate: Estimate | None = None,
    held: Mapping[str, Any] | None = None,
) -> Dimension:
    """The range of a parameter where nobody gave one.

    Parameters
    ----------
    name
        Of the parameter.
    experiment
        The data.
    estimate
        What was measured without a reconstruction. Default: nothing.
    held
        Parameters that are not tuned: the signs of an estimate follow them.

    Raises
    ------
    TypeError, ParameterError
        For a name that is unknown or cannot be tuned.
    """
    check_names([name])
    parameter = PARAMETERS[name]
    if not parameter.tunable:
        raise ParameterError(
            f"{name}: the data say nothing about it, so it cannot be tuned. Give one value."
        )
    range_ = _ranges(experiment, _Center.of(experiment, estimate, held or {}), held or {})[name]
    condition = CONDITIONS.get(name)
    if isinstance(range_, list):
        return Dimension(name, choices=tuple(range_), condition=condition)
    low, high = (_rounded(parameter, limit) for limit in range_[:2])
    return Dimension(name, low, high, log=len(range_) == 3, condition=condition)


def _rounded(parameter, limit: float) -> float | int:
    """A limit with six digits, within what the parameter allows."""
    limit = min(max(float(f"{limit:.6g}"), parameter.low), parameter.high)
    return round(limit) if parameter.kind == "integer" else limit


@dataclass(frozen=True)
class _Center:
    """Values about which ranges lie, with half widths; None where a value is not known."""

    rotation: tuple[float, float] | None
    defocus: tuple[float, float] | None
    C12a: tuple[float, float]
    C12b: tuple[float, float]
    turned: bool

    @classmethod
    def of(
        cls, experiment: Experiment, estimate: Estimate | None, held: Mapping[str, Any]
    ) -> _Center:
        geometry = experiment.geometry
        limit = largest_defocus(geometry)
        floor = _LENGTH_FLOOR * limit
        rotation, rotation_width = _found(estimate, "scan_rotation")
        defocus, defocus_width = _found(estimate, "defocus")
        known = held.get("defocus", geometry.defocus)
        turned = known is not None and defocus is not None and known * defocus < 0
        stated = held.get("scan_rotation")
        if stated is not None and rotation is not None:
            turned = abs((stated - rotation + 180) % 360 - 180) > 90
        sign = -1 if turned else 1
        if rotation is not None:
            if turned:  # the complex conjugate turned by 180° gives the same patterns
                rotation = (rotation + 360) % 360 - 180
            rotation = rotation, max(rotation_width, _ROTATION_FLOOR)
        if defocus is not None:
            width = max(defocus_width, _DEFOCUS_FLOOR * abs(defocus), floor)
            defocus = sign * defocus, width
        elif known:
            defocus = float(known), max(_DEFOCUS_FLOOR * abs(known), floor)
        size = abs(defocus[0]) if defocus is not None else limit
        astigmatism = []
        for name in ("C12a", "C12b"):
            value, width = _found(estimate, name)
            if value is None:
                astigmatism.append((0.0, max(_UNKNOWN_ASTIGMATISM * size, floor)))
            else:
                width = max(width, _ASTIGMATISM_FLOOR * size, floor)
                astigmatism.append((sign * value, width))
        return cls(rotation, defocus, *astigmatism, turned)


def _found(estimate: Estimate | None, name: str) -> tuple[float | None, float]:
    """An estimated value, and the half width that its standard error asks for."""
    value = None if estimate is None else getattr(estimate, name)
    if value is None or not math.isfinite(value):
        return None, 0.0
    error = getattr(estimate, f"{name}_error")
    error = 0.0 if error is None or not math.isfinite(error) else error
    return float(value), _STANDARD_ERRORS * error


def _ranges(
    experiment: Experiment, center: _Center, held: Mapping[str, Any]
) -> dict[str, tuple | list]:
    """Of each parameter (low, high) or (low, high, "log"), or a list of values."""
    geometry = experiment.geometry
    angle = geometry.measured_convergence_angle * 1e-3
    wavelength, step = geometry.wavelength, held.get("scan_step", geometry.scan_step)
    limit = largest_defocus(geometry)
    # the smallest distance from the beam to the detector's edge, as a spatial frequency
    edge = 0.5 * min(geometry.detector_shape) * geometry.reciprocal_pixel
    # aberrations of third and fourth order in the angle that turn the phase at the aperture's edge
    # by 2π
    third, fourth = 3 * wavelength / angle**3, 4 * wavelength / angle**4
    # a defocus that turns this phase by 2π: one with a much larger spread is no beam of its kind
    spread = min(2 * wavelength / angle**2, 500.0)
    # slices closer than the depth resolution of the whole detector cannot be told apart
    thinnest = max(_TYPICAL_THICKNESS[0], wavelength / (edge * wavelength) ** 2)
    algorithm = held.get("algorithm", PARAMETERS["algorithm"].default)
    line_search = algorithm in ("lsq-ml", "gradient")
    n_positions = math.prod(geometry.scan_shape)
    batch = max(default_batch_size(algorithm, n_positions), 4)
    steps = (0.1, 1.5, "log") if line_search else (0.03, 1.0, "log")
    ranges: dict[str, tuple | list] = {
        "convergence_angle": (0.95e3 * angle, 1.05e3 * angle),
        "scan_step": (0.95 * step, 1.05 * step),
        "scan_rotation": (-180.0, 180.0),
        "scan_scale": (0.95, 1.05),
        "scan_shear": (-3.0, 3.0),
        "scan_aspect": (0.95, 1.05),
        "detector_flip": ["none", "transpose"],  # the others are these, turned: scan_rotation
        "defocus": (-limit, limit),
        "C12a": _about(center.C12a),
        "C12b": _about(center.C12b),
        "C21a": (-third, third),
        "C21b": (-third, third),
        "C23a": (-third, third),
        "C23b": (-third, third),
        "C30": (-fourth, fourth),
        "n_probe_modes": [1, 2, 3, 4, 6],
        "source_size": (0.0, step),
        "focal_spread": (0.0, spread),
        "n_variable_modes": [0, 1, 2],
        "n_slices": [1, 2, 4, 8],
        "thickness": (thinnest, max(_TYPICAL_THICKNESS[1], 10 * thinnest), "log"),
        "tilt_x": (-10.0, 10.0),
        "tilt_y": (-10.0, 10.0),
        "object_type": ["complex", "phase"],
        "detector_blur": (0.0, 1.5),
        "aperture": ["measured", "disk"],
        "algorithm": ["lsq-ml", "gradient", "epie", "rpie"],
        "noise_model": ["amplitude", "poisson"],
        "batch_size": (max(1, batch / 4), max(2, min(4 * batch, n_positions)), "log"),
        "step_object": steps,
        "step_probe": steps,
        "batch_selection": ["sparse", "compact"],
        "momentum": (0.0, 0.9),
        "probe_start": (0, 6),
        "regularization_depth": (0.1, 1 / angle, "log"),
        "regularization_positivity": (0.0, 1.0),
        "regularization_tv": (1e-4, 0.1, "log"),
        "regularization_bandwidth": (min(2 * angle / wavelength, edge / 2), edge),
        "regularization_probe_support": (0.4, 1.2),
    }
    if center.rotation is not None:
        ranges["scan_rotation"] = _about(center.rotation)
    if center.defocus is not None:
        ranges["defocus"] = _about(center.defocus)
    return ranges


def _about(center: tuple[float, float]) -> tuple[float, float]:
    value, width = center
    return value - width, value + width


def _has_partner(name: str, dimensions: list[Dimension]) -> bool:
    """Whether a parameter that can hardly be told from this one is tuned already."""
    pairs = [{name, d.name} for d in dimensions]
    return any({first, second} in pairs for first, second, _ in DEGENERATE_PAIRS)


def _notes(experiment, held, estimate, dimensions) -> list[str]:
    """How the ranges of rotation and defocus were found."""
    names = {d.name for d in dimensions}
    if not names & {"scan_rotation", "defocus"}:
        return []
    center = _Center.of(experiment, estimate, held)
    if center.rotation is None and _found(estimate, "defocus")[0] is None:
        limit = largest_defocus(experiment.geometry)
        whole = center.defocus is None
        reach = f"defocus up to {limit:.4g} Å, where the probe fills its window" if whole else ""
        return [
            "The patterns show no motion from which scan rotation and defocus could be told; the "
            f"whole range is searched{f' ({reach})' if reach else ''}."
        ]
    if center.rotation is None or center.defocus is None:
        return []
    rotation, defocus = center.rotation[0], center.defocus[0]
    return [
        f"The motion of the bright-field images gives a scan rotation of {rotation:.1f} degrees "
        f"and a defocus of {defocus:.4g} Å. The opposite defocus with the scan turned by 180 "
        "degrees fits as well and gives the conjugate object: if matter is dark in the phase, set "
        f'fixed={{"scan_rotation": {(rotation + 360) % 360 - 180:.1f}}}.'
    ]
