"""What a user asks of a design, checked."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hs_autoptycho._quantities import QUANTITIES
from hs_autoptycho.design.instrument import LARGEST_PROBE, SETTINGS, DesignError, Instrument
from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.design.search import Possible
from hs_autoptycho.design.simulation import margin as needed_margin
from hs_autoptycho.ptycho.parameters import check_parameters
from hs_autoptycho.ptycho.probe import ABERRATIONS
from hs_autoptycho.tuning.space import Dimension, read_space

#: What is searched where nobody says it.
DEFAULT_PARAMETERS = {
    "scan_step": (0.4, 4.0),
    "defocus": (0.0, 800.0),
    "convergence_angle": (8.0, 30.0),
}
# the finest and the coarsest pixel of a reconstruction, in Å, that the default of the detector's
# pixel makes
_FINEST_PIXEL, _COARSEST_PIXEL = 0.125, 0.25
# what is left out along the edges of the field of view at least, in Å
_MARGIN = 1.0
_ROUND = 1e-6


def read_doses(dose: Any) -> tuple[float, ...]:
    """Highest first."""
    values = list(np.atleast_1d(np.asarray(dose, object)))
    good = all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values)
    if not values or not good or not all(math.isfinite(v) and v > 0 for v in values):
        raise DesignError(f"dose={dose!r}: numbers of electrons per Å² above 0 are needed.")
    doses = sorted({float(v) for v in values}, reverse=True)
    if len(doses) < len(values):
        raise DesignError(f"dose={dose!r}: the same dose is there twice.")
    return tuple(doses)


def choose(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise a DesignError for what is not known."""
    if value not in known:
        raise DesignError(f"{name}={value!r} is not known: choose one of {', '.join(known)}.")


def check_repeats(n_repeats: int, n_trials: int, reference: Any) -> None:
    """Raise a DesignError if the repeats leave no trial for the search."""
    kept = n_repeats * (1 if reference is None else 2)
    if n_trials - kept < 1:
        raise DesignError(
            f"n_trials={n_trials} leaves none for the search after {kept} repeats: more trials, or "
            "fewer n_repeats."
        )


def read_settings(
    parameters: Any, fixed: Any
) -> tuple[list[Dimension], dict[str, float], dict[str, float]]:
    """What is searched, what is held, and the aberrations."""
    parameters = DEFAULT_PARAMETERS if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise DesignError(f"parameters: a dictionary of ranges is needed, not {parameters!r}.")
    if fixed is not None and not isinstance(fixed, Mapping):
        raise DesignError(f"fixed: a dictionary of settings is needed, not {fixed!r}.")
    fixed = dict(fixed or {})
    for where, names, known in (
        ("parameters", parameters, SETTINGS),
        ("fixed", fixed, (*SETTINGS, *ABERRATIONS)),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise TypeError(f"Unknown in `{where}`: {unknown}. Known: {', '.join(known)}.")
    fixed = check_parameters(fixed)
    aberrations = {name: fixed.pop(name) for name in ABERRATIONS if name in fixed}
    dimensions, single, wanted = read_space(parameters)
    defaults = {name: DEFAULT_PARAMETERS[name] for name in wanted}
    dimensions += read_space(defaults)[0]
    for d in dimensions:
        if d.choices:
            raise DesignError(f"{d.name}: a range is needed, (low, high), not a list of choices.")
    held = {**single, **fixed}
    for name in SETTINGS:
        ways = [name in held, any(d.name == name for d in dimensions)]
        if all(ways) or (name in single and name in fixed):
            raise DesignError(f"{name} is both in `parameters` and in `fixed`.")
        if not any(ways):
            raise DesignError(
                f"{name} is neither searched nor held: give a range in `parameters` or a value in "
                "`fixed`."
            )
    if not dimensions:
        raise DesignError("There is nothing to search: give ranges in `parameters`.")
    order = {name: i for i, name in enumerate(SETTINGS)}
    return sorted(dimensions, key=lambda d: order[d.name]), held, aberrations


def read_reconstruction(reconstruction: Any, aberrations: Mapping[str, float]) -> dict[str, Any]:
    """Parameters of the engine."""
    if reconstruction is not None and not isinstance(reconstruction, Mapping):
        raise DesignError(
            f"reconstruction: a dictionary of parameters is needed, not {reconstruction!r}."
        )
    told = check_parameters(dict(reconstruction or {}))
    for name in (*SETTINGS, *aberrations, "beam_energy", "reciprocal_pixel"):
        if name in told:
            raise DesignError(f"{name} is no option of `reconstruction` but of the microscope.")
    return told


def read_reference(reference: Any) -> dict[str, float] | None:
    """All settings of the experiment to compare with."""
    if reference is None:
        return None
    if not isinstance(reference, Mapping) or set(reference) != set(SETTINGS):
        raise DesignError(
            f"reference: a dictionary of {', '.join(SETTINGS)} is needed, not {reference!r}."
        )
    checked = check_parameters(reference)
    return {name: float(checked[name]) for name in SETTINGS}


def read_instrument(**values: Any) -> dict[str, Any]:
    """What the instrument is made of, in plain Python types; field and pixel come later."""
    out = dict(values)
    complaint = QUANTITIES["beam_energy"].complaint(values["beam_energy"])
    if complaint:
        raise DesignError(f"beam_energy: {complaint}.")
    out["beam_energy"] = float(values["beam_energy"])
    shape = values["detector_shape"]
    if np.shape(shape) != (2,) or not all(_is_whole(n) for n in shape):
        raise DesignError(
            f"detector_shape={shape!r}: two even numbers of at least 8 are needed, (ky, kx)."
        )
    out["detector_shape"] = tuple(int(n) for n in shape)
    for name in ("source_size", "focal_spread", "position_jitter"):
        if not _is_number(values[name]):
            raise DesignError(f"{name}={values[name]!r}: a length in Å is needed.")
        out[name] = float(values[name])
    for name in ("dwell_time", "max_scan_time", "max_data_size"):
        value = values[name]
        if value is not None and not _is_number(value):
            raise DesignError(f"{name}={value!r}: a number above 0 is needed, or None.")
        out[name] = None if value is None else float(value)
    limit = values["count_limit"]
    if limit is not None and not (_is_whole(limit) and limit >= 1):
        raise DesignError(f"count_limit={limit!r}: a whole number above 0 is needed, or None.")
    out["count_limit"] = None if limit is None else int(limit)
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()


def default_pixel(common, dimensions, held, reference) -> float:
    """The detector's pixel in 1/Å for which the widest probe fits its window."""
    rows, columns = common["detector_shape"]
    probe = Instrument(reciprocal_pixel=0.01, field_of_view=(1.0, 1.0), **common).probe_width
    limits = {d.name: (d.low, d.high) for d in dimensions}
    limits.update({name: (value,) for name, value in held.items()})
    widths = [
        float(probe(angle, defocus))
        for angle in limits["convergence_angle"]
        for defocus in limits["defocus"]
    ]
    if reference is not None:
        widths.append(float(probe(reference["convergence_angle"], reference["defocus"])))
    window = max(widths) / LARGEST_PROBE * (1 + _ROUND)
    pixels = min(rows, columns)
    return 1 / min(max(window, _FINEST_PIXEL * pixels), _COARSEST_PIXEL * pixels)


def read_field(field: Any, specimen: Specimen, common: Mapping[str, Any]) -> tuple[float, float]:
    """(y, x) in Å."""
    if field is None:
        probe = Instrument(field_of_view=(1.0, 1.0), **common)
        y, x = (float(v) - needed_margin(probe) for v in specimen.extent)
        if min(y, x) <= 0:
            raise DesignError(
                f"the potential is {specimen.extent[0]:.1f} × {specimen.extent[1]:.1f} Å (y, x), "
                f"and the probe's window alone is {probe.window:.1f} Å: give a larger potential (a "
                "crystal can be tiled) or a larger reciprocal_pixel."
            )
        return y, x
    pair = (field, field) if isinstance(field, numbers.Real) else tuple(field)
    if len(pair) != 2 or not all(isinstance(v, numbers.Real) for v in pair):
        raise DesignError(f"field_of_view={field!r}: a number or (y, x) in Å is needed.")
    return float(pair[0]), float(pair[1])


def edge_margin(
    dimensions: Sequence[Dimension],
    held: Mapping[str, float],
    reference: Mapping[str, float] | None,
) -> float:
    """What no scan is sure to reach along the edges of the field of view, in Å."""
    largest = [d.high for d in dimensions if d.name == "scan_step"]
    largest += [s["scan_step"] for s in (held, reference or {}) if "scan_step" in s]
    return max(_MARGIN, max(largest) / 2)


def check_possible(instrument, doses, dimensions, held, reference) -> None:
    """Raise a DesignError for what cannot be done, before anything is computed."""
    for dose in doses:
        if reference is not None:
            complaint = instrument.complaint(dose, reference)
            if complaint:
                raise DesignError(f"the reference is impossible: {complaint}.")
        Possible(dimensions, held, instrument, dose).check()
