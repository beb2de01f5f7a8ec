"""The parameters of a reconstruction: names, units, limits, defaults. One table for all methods."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hs_autoptycho.ptycho.patterns import DETECTOR_FLIPS
from hs_autoptycho.ptycho.settings import (
    ALGORITHMS,
    BATCH_SELECTIONS,
    NOISE_MODELS,
    OBJECT_TYPES,
)


class ParameterError(ValueError):
    """A parameter of a reconstruction has a wrong name, type or value."""


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes
    ----------
    kind
        ``"number"``, ``"integer"`` or ``"choice"``.
    unit
        As it is given; empty where it has none.
    low, high
        Limits of a number, both allowed.
    choices
        Values of a choice.
    default
        None where it comes from the calibration, the data or another parameter.
    tunable
        Whether a search may vary it.
    """

    name: str
    kind: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    default: Any = None
    tunable: bool = True

    def check(self, value: Any) -> Any:
        """The value as a plain Python type.

        Raises
        ------
        ParameterError
            If it has another type or lies outside of the limits.
        """
        if self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return str(value)
            raise ParameterError(f"{self.name}={value!r}: choose one of {list(self.choices)}.")
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            unit = f" in {self.unit}" if self.unit else ""
            raise ParameterError(f"{self.name}={value!r} is not a number{unit}.")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf if value > 0 else -math.inf
            value = number  # in the message, for it has hundreds of digits
        if self.kind == "integer" and not number.is_integer():
            raise ParameterError(f"{self.name}={value!r} is not a whole number.")
        if not self.low <= number <= self.high:
            unit = f" {self.unit}" if self.unit else ""
            raise ParameterError(
                f"{self.name}={value!r} is out of range: {self.low:g} to {self.high:g}{unit}."
            )
        return int(number) if self.kind == "integer" else number


def _aberration(name: str) -> Parameter:
    return Parameter(name, "number", "Å", -1e9, 1e9, default=0.0)


def _start(name: str) -> Parameter:
    """When a correction begins; never, by default."""
    return Parameter(f"{name}_correction_start", "integer", "iterations", 0, 1e6, tunable=False)


# what can be corrected during a reconstruction, by the names of their parameters
CORRECTIONS = ("position", "grid", "defocus", "thickness", "tilt", "intensity")

# what a user can tell of the recording that is no parameter of a reconstruction
RECORDING = ("disk_center", "disk_radius", "detector_mask", "background")

# arguments of reconstruct_ptycho that are neither, and those of autotune_ptycho
CALL = ("n_iterations", "random_state", "show_progressbar", "num_workers")
OPTIONS = (*CALL, "n_trials", "n_trial_iterations", "objective", "strategy", "study", "client",
           "engine", "callback")  # fmt: skip
# names that other packages give to some of them
_SYNONYMS = {"seed": "random_state", "n_jobs": "num_workers"}

PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter("beam_energy", "number", "keV", 10, 3000, tunable=False),
        Parameter("reciprocal_pixel", "number", "1/Å", 1e-6, 1, tunable=False),
        Parameter("convergence_angle", "number", "mrad", 0.05, 200),
        Parameter("scan_step", "number", "Å", 1e-3, 1e6),
        Parameter("scan_rotation", "number", "degrees", -360, 360),
        Parameter("scan_scale", "number", "", 0.1, 10, default=1.0),
        Parameter("scan_shear", "number", "degrees", -45, 45, default=0.0),
        Parameter("scan_aspect", "number", "", 0.1, 10, default=1.0),
        Parameter("detector_flip", "choice", choices=tuple(DETECTOR_FLIPS), default="none"),
        Parameter("defocus", "number", "Å", -1e8, 1e8),
        *(_aberration(name) for name in ("C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30")),
        Parameter("n_probe_modes", "integer", "", 1, 64, default=1),
        Parameter("source_size", "number", "Å", 0, 1e3, default=0.0),
        Parameter("focal_spread", "number", "Å", 0, 1e5, default=0.0),
        Parameter("n_variable_modes", "integer", "", 0, 16, default=0),
        Parameter("n_slices", "integer", "", 1, 1000, default=1),
        Parameter("thickness", "number", "Å", 1e-3, 1e6),
        Parameter("tilt_x", "number", "mrad", -1000, 1000, default=0.0),
        Parameter("tilt_y", "number", "mrad", -1000, 1000, default=0.0),
        Parameter("object_type", "choice", choices=OBJECT_TYPES, default="complex"),
        Parameter("detector_blur", "number", "pixels", 0, 100, default=0.0),
        Parameter("saturation", "number", "counts", 1, 1e12, tunable=False),
        Parameter("aperture", "choice", choices=("measured", "disk")),
        Parameter("algorithm", "choice", choices=ALGORITHMS, default="lsq-ml"),
        Parameter("noise_model", "choice", choices=NOISE_MODELS),
        Parameter("batch_size", "integer", "positions", 1, 1e6),
        Parameter("step_object", "number", "", 0, 10),
        Parameter("step_probe", "number", "", 0, 10),
        Parameter("batch_selection", "choice", choices=BATCH_SELECTIONS, default="sparse"),
        Parameter("momentum", "number", "", 0, 0.99, default=0.0),
        Parameter("probe_start", "integer", "iterations", 0, 1e6),
        *(_start(name) for name in CORRECTIONS),
        Parameter("regularization_depth", "number", "", 0, 1e6, default=0.0),
        Parameter("regularization_positivity", "number", "", 0, 1, default=0.0),
        Parameter("regularization_tv", "number", "", 0, 1e3, default=0.0),
        Parameter("regularization_bandwidth", "number", "1/Å", 0, 1e3, default=0.0),
        Parameter("regularization_probe_support", "number", "", 0, 1.5, default=0.0),
        Parameter("coarse_iterations", "integer", "iterations", 0, 1e6, default=0, tunable=False),
        Parameter("early_stopping", "integer", "iterations", 1, 1e6, tunable=False),
    )
}


def check_names(
    names: Iterable[str], what: str = "parameter", options: Sequence[str] = CALL
) -> None:
    """Raise a TypeError that lists the known parameters if one of `names` is not among them.

    Parameters
    ----------
    names
        To be checked.
    what
        They are, for the message.
    options
        Of the call beside the parameters: one of them may have been meant.
    """
    for name in names:
        if name in options:
            raise TypeError(f"{name!r} is no {what} but an argument of the call itself.")
        if name not in PARAMETERS:
            hint = closest(name, [*PARAMETERS, *options])
            raise TypeError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(PARAMETERS)}.")


def closest(name: Any, known: Iterable[str]) -> str:
    """`` Did you mean …?``, or nothing where no name is like it."""
    close = difflib.get_close_matches(_SYNONYMS.get(name, str(name)), known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check names and values; those that are None are left out.

    Raises
    ------
    TypeError
        For an unknown name; the message lists the known ones.
    ParameterError
        For a wrong type or value.
    """
    check_names(values)
    return {
        name: PARAMETERS[name].check(value) for name, value in values.items() if value is not None
    }
