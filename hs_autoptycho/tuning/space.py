"""The space of a search: which parameters vary, and between which limits."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError, check_names


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
    """

    name: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    log: bool = False

    @property
    def integer(self) -> bool:
        """Whether the range holds whole numbers only."""
        return PARAMETERS[self.name].kind == "integer"

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log}


def read_space(parameters: Mapping[str, Any]) -> tuple[list[Dimension], dict[str, Any]]:
    """Understand a user's description of a search.

    Parameters
    ----------
    parameters
        Name to ``(low, high)``, ``(low, high, "log")``, a list of values, or a single value that is
        held.

    Returns
    -------
    list of Dimension, dict
        What varies, and what is held.

    Raises
    ------
    TypeError
        For an unknown name.
    ParameterError
        For anything that is no range, list or value of its parameter.
    """
    if not isinstance(parameters, Mapping):
        raise ParameterError(
            "parameters: a dictionary is needed, such as "
            f'{{"defocus": (low, high), "n_probe_modes": [1, 2, 4]}}, not {parameters!r}.'
        )
    check_names(parameters)
    dimensions, held = [], {}
    for name, description in parameters.items():
        result = _read(name, description)
        if isinstance(result, Dimension):
            dimensions.append(result)
        else:
            held[name] = result
    return dimensions, held


def _read(name: str, description: Any) -> Any:
    """A `Dimension`, or the checked value of a parameter that is held."""
    parameter = PARAMETERS[name]
    if isinstance(description, np.ndarray):
        description = description.tolist()
    if isinstance(description, (str, numbers.Number)) or not isinstance(description, Sequence):
        return parameter.check(description)
    if not parameter.tunable:
        raise ParameterError(
            f"{name}={description!r}: the data say nothing about it, so it cannot be tuned. Give "
            "one value."
        )
    if isinstance(description, tuple) and parameter.kind != "choice":
        log = len(description) == 3 and description[2] == "log"
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
        return Dimension(name, low, high, log=log)
    choices = tuple(dict.fromkeys(parameter.check(value) for value in description))
    if not choices:
        raise ParameterError(f"{name}={description!r}: there is nothing to choose from.")
    if len(choices) == 1:
        return choices[0]
    return Dimension(
        name, choices=choices if parameter.kind == "choice" else tuple(sorted(choices))
    )


def size(dimensions: Sequence[Dimension]) -> float:
    """Number of different points; infinite with a range of real numbers."""
    total = 1.0
    for dimension in dimensions:
        if dimension.choices:
            total *= len(dimension.choices)
        elif dimension.integer:
            total *= dimension.high - dimension.low + 1
        else:
            return math.inf
    return total
