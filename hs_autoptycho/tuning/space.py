"""The space of a search: which parameters vary, and between which limits."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError, check_names
from hs_autoptycho.tuning.couplings import CONDITIONS, DEGENERATE_PAIRS, SLICES, Condition


@dataclass(frozen=True)
class Dimension:
    """One parameter of a search.

    Attributes
    ----------
    name : str
    low, high : float or int
        Limits of a range, both included; None for a list of choices.
    choices : tuple
        Empty for a range. Numbers in rising order, or names.
    log : bool
        Whether the range is searched on a logarithmic scale.
    prior : (float, float) or None
        Mean and standard deviation of a Gaussian belief, in the parameter's unit.
    condition : Condition or None
        When the parameter matters; always, if the other parameter is not tuned.
    """

    name: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    log: bool = False
    prior: tuple[float, float] | None = None
    condition: Condition | None = None

    @property
    def integer(self) -> bool:
        """Whether the range holds whole numbers only."""
        return PARAMETERS[self.name].kind == "integer"

    @property
    def ordered(self) -> bool:
        """Whether the choices are numbers: neighbours are alike, so they are told by their rank."""
        return bool(self.choices) and not isinstance(self.choices[0], str)

    @property
    def count(self) -> float:
        """How many values there are; infinite for a range of real numbers."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.integer else math.inf

    def active(self, point: Mapping[str, Any]) -> bool:
        """Whether the parameter matters at a point."""
        condition = self.condition
        if condition is None or condition.name not in point:
            return True
        return condition.holds(point[condition.name])

    def value(self, place: float) -> Any:
        """The value at a place between 0 and 1, in plain Python types; every one has its share."""
        place = min(max(float(place), 0.0), 1.0)
        if self.choices:
            return self.choices[min(int(place * len(self.choices)), len(self.choices) - 1)]
        if self.integer:  # the ends have a whole share, too
            low, high = self._scaled(self.low - 0.5), self._scaled(self.high + 0.5)
            value = round(self._unscaled(low + place * (high - low)))
        else:
            low, high = self._scaled(self.low), self._scaled(self.high)
            value = self._unscaled(low + place * (high - low))
        value = min(max(value, self.low), self.high)
        return int(value) if self.integer else float(value)

    def place(self, value: Any) -> float:
        """Where a value lies between 0 and 1: the middle of its share."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        margin = 0.5 if self.integer else 0.0
        low, high = self._scaled(self.low - margin), self._scaled(self.high + margin)
        return (self._scaled(value) - low) / (high - low)

    def nearest(self, value: Any) -> Any:
        """The value closest to another one; the middle one where that is None or no number here."""
        if value in self.choices:
            return value
        if value is None or isinstance(value, str) or (self.choices and not self.ordered):
            return self.choices[0] if self.choices and not self.ordered else self.value(0.5)
        if self.choices:
            return min(self.choices, key=lambda choice: abs(choice - value))
        value = min(max(value, self.low), self.high)
        return round(value) if self.integer else float(value)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else float(value)

    def _unscaled(self, value: float) -> float:
        return math.exp(value) if self.log else value

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types."""
        if self.choices:
            out = {"choices": list(self.choices)}
        else:
            out = {"low": self.low, "high": self.high, "log": self.log}
        if self.prior is not None:
            out["prior"] = list(self.prior)
        if self.condition is not None:
            out["condition"] = str(self.condition)
        return out


def read_space(
    parameters: Mapping[str, Any] | Iterable[str],
) -> tuple[list[Dimension], dict[str, Any], list[str]]:
    """Understand a user's description of a search.

    Parameters
    ----------
    parameters
        Name to ``(low, high)``, ``(low, high, "log")``, a list of values, a single value that is
        held, None for the default range, or a dictionary ``{"range": (low, high), "scale": "log",
        "prior": (mean, std)}``, of which only the range is needed; its standard deviation is in the
        parameter's unit, also with a logarithmic scale. Or a list of names, all of them to be tuned
        in their default ranges.

    Returns
    -------
    list of Dimension, dict, list of str
        What varies, what is held, and the names that are to be tuned in their default ranges.

    Raises
    ------
    TypeError
        For an unknown name.
    ParameterError
        For anything that is no range, list or value of its parameter.
    """
    if not isinstance(parameters, Mapping):
        names = [] if isinstance(parameters, (str, bytes)) else _listed(parameters)
        if names is None or isinstance(parameters, (str, bytes)):
            raise ParameterError(
                "parameters: a dictionary is needed, such as "
                f'{{"defocus": (low, high), "n_probe_modes": [1, 2, 4]}}, or a list of names, not '
                f"{parameters!r}."
            )
        parameters = dict.fromkeys(names)
    check_names(parameters)
    dimensions, held, wanted = [], {}, []
    for name, description in parameters.items():
        if description is None:
            _check_tunable(name, description)
            wanted.append(name)
            continue
        result = _read(name, description)
        if isinstance(result, Dimension):
            dimensions.append(result)
        else:
            held[name] = result
    return dimensions, held, wanted


def _listed(parameters: Any) -> list[str] | None:
    """The names in a list; None if it is none."""
    if not isinstance(parameters, Iterable):
        return None
    names = list(parameters)
    return names if all(isinstance(name, str) for name in names) else None


def _check_tunable(name: str, description: Any) -> None:
    if not PARAMETERS[name].tunable:
        what = name if description is None else f"{name}={description!r}"
        raise ParameterError(
            f"{what}: the data say nothing about it, so it cannot be tuned. Give one value."
        )


def _read(name: str, description: Any) -> Any:
    """A `Dimension`, or the checked value of a parameter that is held."""
    parameter = PARAMETERS[name]
    if isinstance(description, np.ndarray):
        description = description.tolist()
    if isinstance(description, Mapping):
        return _read_dictionary(name, description)
    single = isinstance(description, (str, bytes, bytearray, numbers.Number))
    if single or not isinstance(description, Sequence):
        return parameter.check(description)
    _check_tunable(name, description)
    condition = CONDITIONS.get(name)
    if isinstance(description, tuple) and parameter.kind != "choice":
        log = len(description) == 3 and isinstance(description[2], str) and description[2] == "log"
        if not (len(description) == 2 or log):
            raise ParameterError(
                f'{name}={description!r}: a range is (low, high) or (low, high, "log"); give a '
                "list, [a, b, c], to choose among values."
            )
        low, high = (parameter.check(limit) for limit in description[:2])
        if not low < high:
            raise ParameterError(f"{name}={description!r}: the lower limit has to come first.")
        if log and low <= 0:
            raise ParameterError(f"{name}={description!r}: a logarithmic range starts above 0.")
        return Dimension(name, low, high, log=log, condition=condition)
    choices = tuple(dict.fromkeys(parameter.check(value) for value in description))
    if not choices:
        raise ParameterError(f"{name}={description!r}: there is nothing to choose from.")
    if len(choices) == 1:
        return choices[0]
    choices = choices if parameter.kind == "choice" else tuple(sorted(choices))
    return Dimension(name, choices=choices, condition=condition)


def _read_dictionary(name: str, description: Mapping[str, Any]) -> Any:
    """``{"range": …, "scale": …, "prior": …}``."""
    known = ("range", "scale", "prior")
    for key in description:
        if key not in known:
            raise ParameterError(
                f"{name}={description!r}: {key!r} is unknown; a dictionary has 'range' and, if "
                "wanted, 'scale' and 'prior'."
            )
    limits = description.get("range")
    if isinstance(limits, np.ndarray):
        limits = limits.tolist()
    if not isinstance(limits, (tuple, list)):
        raise ParameterError(
            f'{name}={description!r}: give the limits, {{"range": (low, high)}}, or a list of '
            "values."
        )
    scale = description.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise ParameterError(f"{name}={description!r}: the scale is 'linear' or 'log'.")
    if scale == "log":
        if not (isinstance(limits, tuple) and len(limits) == 2):
            raise ParameterError(
                f"{name}={description!r}: only a range, (low, high), has a logarithmic scale."
            )
        limits = (*limits, "log")
    result = _read(name, limits)
    prior = description.get("prior")
    if prior is None or not isinstance(result, Dimension):
        return result
    return replace(result, prior=_read_prior(name, prior))


def _read_prior(name: str, prior: Any) -> tuple[float, float]:
    parameter = PARAMETERS[name]
    good = isinstance(prior, (tuple, list)) and len(prior) == 2 and parameter.kind != "choice"
    if not good or any(isinstance(v, bool) or not isinstance(v, numbers.Real) for v in prior):
        raise ParameterError(
            f"{name}: a prior is (mean, standard deviation) of a number, not {prior!r}."
        )
    mean, std = (float(v) for v in prior)
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ParameterError(
            f"{name}: the prior's mean has to be finite and its standard deviation above 0, not "
            f"{prior!r}."
        )
    return mean, std


def settle(
    dimensions: Sequence[Dimension], held: Mapping[str, Any]
) -> tuple[list[Dimension], dict[str, Any]]:
    """See that every point of a search can be reconstructed, and that nothing is tuned in vain.

    A held parameter that is refused at some of the points becomes a dimension with a single
    choice, so that it is left out there.

    Parameters
    ----------
    dimensions, held
        What varies, and what does not.

    Returns
    -------
    list of Dimension, dict
        The same, settled.

    Raises
    ------
    ParameterError
        If a parameter is tuned that has no effect with those that are held, or the thickness of
        several slices is not known.
    """
    dimensions, held = list(dimensions), dict(held)
    tuned = {dimension.name: dimension for dimension in dimensions}
    for dimension in dimensions:
        condition = dimension.condition
        if condition is None or condition.name in tuned:
            continue
        other = held.get(condition.name, PARAMETERS[condition.name].default)
        if other is not None and not condition.holds(other):
            raise ParameterError(
                f"{dimension.name} is tuned but has no effect: {condition.name} is {other!r} and "
                f"{condition} is needed. Hold or tune {condition.name}, or leave "
                f"{dimension.name} out."
            )
    slices = tuned.get("n_slices")
    if slices is not None:
        if "thickness" not in tuned and "thickness" not in held:
            raise ParameterError(
                "n_slices is tuned, which needs the specimen's thickness in Å: give its range in "
                "`parameters`, thickness=(20, 200), or its value."
            )
        for name, condition in CONDITIONS.items():
            if condition is SLICES and name != "thickness" and name in held:
                dimensions.append(Dimension(name, choices=(held.pop(name),), condition=condition))
    return dimensions, held


def degenerate_notes(dimensions: Sequence[Dimension]) -> list[str]:
    """A sentence on each pair of tuned parameters that can hardly be told apart."""
    names = {dimension.name for dimension in dimensions}
    return [
        f"{first} and {second} are tuned together, but the data hardly tell them apart: {reason}. "
        "The sum of their effects is found, single values may be far off; hold one of them if it "
        "is known."
        for first, second, reason in DEGENERATE_PAIRS
        if first in names and second in names
    ]


def two_values_notes(dimensions: Sequence[Dimension]) -> list[str]:
    """A sentence on each list of two numbers, which may have been meant for a range."""
    return [
        f"{d.name}: only the values {d.choices[0]:g} and {d.choices[1]:g} are tried; the range "
        f"between them is `({d.choices[0]:g}, {d.choices[1]:g})`, in round brackets."
        for d in dimensions
        if d.choices and len(d.choices) == 2 and PARAMETERS[d.name].kind == "number"
    ]


def complete_point(dimensions: Sequence[Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """The active parameters alone, in the order of the dimensions."""
    return {d.name: values[d.name] for d in dimensions if d.active(values)}


def size(dimensions: Sequence[Dimension]) -> float:
    """Number of different points; infinite with a range of real numbers."""
    parents = _parents(dimensions)
    if any(d.count == math.inf for d in parents):
        return math.inf
    total = 0.0
    for some in _combinations(parents):
        rest = (d for d in dimensions if d.name not in some and d.active(some))
        total += math.prod(d.count for d in rest)
    return total


def all_points(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Every point of a finite space."""
    points = []
    parents = _parents(dimensions)
    for some in _combinations(parents):
        rest = [d for d in dimensions if d.name not in some and d.active(some)]
        for others in _combinations(rest):
            points.append(complete_point(dimensions, {**some, **others}))
    return points


def _parents(dimensions: Sequence[Dimension]) -> list[Dimension]:
    """Those on which others depend."""
    needed = {d.condition.name for d in dimensions if d.condition is not None}
    return [d for d in dimensions if d.name in needed]


def _combinations(dimensions: Sequence[Dimension]) -> Iterable[dict[str, Any]]:
    values = [d.choices or range(d.low, d.high + 1) for d in dimensions]
    for combination in itertools.product(*values):
        yield {d.name: value for d, value in zip(dimensions, combination, strict=True)}
