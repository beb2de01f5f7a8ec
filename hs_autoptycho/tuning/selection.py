"""Which of the trials to believe in: differences with their errors, and the simplest good one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hs_autoptycho.tuning.trial import Fidelity, Trial

# Standard errors from which on two trials are surely different.
CERTAIN = 2.0


def difference(a: Trial, b: Trial) -> tuple[float, float]:
    """How much worse one trial is than another, and how well that is known.

    Both saw the same counts at the same places, so that what the places have in common drops out:
    the difference is known far better than either objective.

    Parameters
    ----------
    a, b
        Trials of the same fidelity.

    Returns
    -------
    mean : float
        Objective of `a` less that of `b`; NaN where one of them has none.
    standard_error : float
        From the scatter of the differences by block of scan positions; NaN where the blocks of the
        two do not pair, or are fewer than two.

    Raises
    ------
    ValueError
        For trials of different fidelities, whose objectives cannot be compared.
    """
    if a.fidelity != b.fidelity:
        raise ValueError(
            f"trials {a.number} and {b.number} have the fidelities {a.fidelity} and {b.fidelity}; "
            "only trials of the same fidelity can be compared"
        )
    if a.objective is None or b.objective is None:
        return math.nan, math.nan
    mean = a.objective - b.objective
    if len(a.blocks) != len(b.blocks) or len(a.blocks) < 2:
        return mean, math.nan
    by_block = np.subtract(a.blocks, b.blocks)
    return mean, float(by_block.std(ddof=1) / math.sqrt(by_block.size))


def complexity(parameters: Mapping[str, Any]) -> float:
    """Freedom of a model, and about the work of a pass, relative to one mode and one slice.

    A wave is propagated through each slice and between them, once for each mode; a variable mode
    of the probe adds numbers to fit but no wave.
    """
    modes = parameters.get("n_probe_modes") or 1
    slices = parameters.get("n_slices") or 1
    variable = parameters.get("n_variable_modes") or 0
    return float(modes * (2 * slices - 1) + variable)


def usable(trials: Sequence[Trial], fidelity: Fidelity) -> list[Trial]:
    """Trials that can be the best: completed at this fidelity, and no repeats of another."""
    return [
        trial
        for trial in trials
        if trial.status == "completed"
        and trial.fidelity == fidelity
        and trial.purpose != "repeat"
        and trial.objective is not None
        and math.isfinite(trial.objective)
    ]


def select_best(trials: Sequence[Trial], fidelity: Fidelity) -> Trial | None:
    """The simplest trial within one standard error of the lowest objective.

    Parameters
    ----------
    trials
        All of a search. Those that were not completed, of another fidelity, or repeats with
        another seed are passed over.
    fidelity
        That at which trials are compared, as a rule the full one.

    Returns
    -------
    Trial or None
        None where no trial can be used. Among equally simple ones that with the lowest objective
        is taken, then that with the lowest number.

    References
    ----------
    L. Breiman, J. Friedman, R. Olshen, C. Stone, Classification and Regression Trees (1984): the
    rule of one standard error, here with that of the paired difference.
    """
    candidates = usable(trials, fidelity)
    if not candidates:
        return None
    lowest = min(candidates, key=lambda trial: (trial.objective, trial.number))

    def close(trial: Trial) -> bool:
        mean, standard_error = difference(trial, lowest)
        return trial is lowest or mean <= standard_error  # never so where the error is NaN

    # the first that is close, for the comparison of all would take longer with every trial
    candidates.sort(key=lambda t: (complexity(t.parameters), t.objective, t.number))
    return next(filter(close, candidates))


def agreement(pairs: Sequence[tuple[Trial, Trial]]) -> float:
    """Whether two fidelities order parameters alike, where both can tell them apart.

    Trials that are promising are close together, and the order of what is equal but for noise says
    nothing: two of them are compared where both differences are larger than `CERTAIN` standard
    errors.

    Parameters
    ----------
    pairs
        Trials of the same parameters, short and at full length.

    Returns
    -------
    float
        Kendall's rank correlation of those, -1 to 1; NaN where there are none to compare.
    """
    alike = []
    for (short, full), (other_short, other_full) in itertools.combinations(pairs, 2):
        differences = difference(short, other_short), difference(full, other_full)
        # without blocks an order is all there is
        if all(abs(mean) > CERTAIN * np.nan_to_num(error) for mean, error in differences):
            alike.append(math.copysign(1, differences[0][0]) == math.copysign(1, differences[1][0]))
    return 2 * sum(alike) / len(alike) - 1 if alike else math.nan


def straight_line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The line that brings scores of short trials to the scale of full-length ones.

    Parameters
    ----------
    pairs
        Scores of the same parameters, short and at full length.

    Returns
    -------
    slope : float
        Of a least-squares fit, but between a third and three: it is told by a few trials.
    offset : float
    """
    x, y = np.array(pairs, float).T
    spread = x.var()
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread else 1.0
    slope = min(max(slope, 1 / 3), 3.0)
    return slope, float(y.mean() - slope * x.mean())
