"""Checks of what is given to the tuner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hs_autoptycho._running import check_count
from hs_autoptycho.ptycho.parameters import ParameterError, check_names, check_parameters
from hs_autoptycho.tuning.space import Dimension, read_space, settle


def read_parameters(
    parameters: Any, fixed: Mapping[str, Any] | None
) -> tuple[list[Dimension], Sequence[str], dict[str, Any]]:
    """Ranges that are searched, names whose ranges are not known yet, and what is held.

    Raises
    ------
    ParameterError, TypeError
        For an unknown name, a wrong value, or a name that is in both.
    """
    held = dict(fixed or {})
    check_names(held, "fixed parameter")
    dimensions, single, wanted = read_space(parameters or {})
    held = {**check_parameters(held), **single}
    for name in (*wanted, *(d.name for d in dimensions)):
        if name in held:
            raise ParameterError(f"{name} is both in `parameters` and in `fixed`.")
    dimensions, held = settle(dimensions, held)
    return dimensions, wanted, held


def check_options(n_iterations, n_trial_iterations, n_trials, pictures, picture_score) -> None:
    """Raise ValueError for a wrong one."""
    check_count("n_iterations", n_iterations)
    check_count("n_trial_iterations", n_trial_iterations)
    if n_trials != 0 and n_trials is not None:
        check_count("n_trials", n_trials)
    if not all(0 < part <= 1 for part in pictures) or sorted(pictures) != list(pictures):
        raise ValueError(f"pictures={pictures!r}: parts of a scan, above 0 and rising to 1.")
    if not (picture_score in ("frc", None) or callable(picture_score)):
        raise ValueError(f"picture_score={picture_score!r}: 'frc', None or a function is needed.")
