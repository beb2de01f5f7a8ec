"""Strategies by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hs_autoptycho.tuning.multifidelity import Multifidelity
from hs_autoptycho.tuning.optimizer import GaussianProcessOptimizer, RandomSampler, SobolSampler
from hs_autoptycho.tuning.schedule import (
    GivenPoints,
    OneFidelity,
    Strategy,
    cheap_fidelity,
    middle_fidelity,
    n_initial,
)
from hs_autoptycho.tuning.space import Dimension, complete_point
from hs_autoptycho.tuning.trial import Fidelity

# With fewer trials than this all are at full length.
FEWEST_FOR_SEVERAL = 16

STRATEGIES = ("multifidelity", "full", "random", "sobol", "default")


class StrategyError(ValueError):
    """A strategy is not known."""


def check_strategy(name: str) -> None:
    """Raise a StrategyError if there is no strategy of this name."""
    if not isinstance(name, str) or name not in STRATEGIES:
        raise StrategyError(f"strategy={name!r} is not known: choose one of {list(STRATEGIES)}.")


def make_strategy(
    name: str,
    dimensions: Sequence[Dimension],
    *,
    full: Fidelity,
    n_positions: int,
    n_trials: int,
    planned: int | None = None,
    start: Sequence[Mapping[str, Any]] = (),
    random_state: int = 0,
    splits: bool = False,
) -> Strategy:
    """The strategy of a name.

    Parameters
    ----------
    name
        ``"multifidelity"``: Gaussian process on short trials, then on long ones. ``"full"``:
        Gaussian process, all trials at full length. ``"random"``, ``"sobol"``: no model.
        ``"default"``: `start` alone, or the middle of all ranges.
    dimensions
        The space.
    full
        Full length.
    n_positions
        Of the scan.
    n_trials
        All together.
    planned
        How many there were to be when a study began that goes on. Default: `n_trials`.
    start
        Points that are tried first.
    random_state
        Seed.
    splits
        Whether the objective can let halves of the counts judge each other: see `Fidelity.split`.

    Raises
    ------
    StrategyError
        If the name is not known.
    """
    check_strategy(name)
    if name == "random":
        sampler = RandomSampler(dimensions, random_state=random_state)
    elif name == "sobol":
        sampler = SobolSampler(dimensions, random_state=random_state)
    elif name == "default":
        middle = complete_point(dimensions, {d.name: d.nearest(None) for d in dimensions})
        points = list(start) or [middle]
        sampler, n_trials = GivenPoints(points), len(points)
    planned = n_trials if planned is None else planned
    options = {"random_state": random_state, "start": start}
    first = n_initial(dimensions, planned)
    if name in ("full", "multifidelity"):
        sampler = GaussianProcessOptimizer(dimensions, n_initial=first, **options)
    cheap = cheap_fidelity(full, n_positions)
    if name != "multifidelity" or planned < FEWEST_FOR_SEVERAL or cheap == full:
        return OneFidelity(name, sampler, full, n_trials, random_state)
    # what is tried at full length comes after trials enough for a model
    late = GaussianProcessOptimizer(dimensions, n_initial=2, **options)
    middle = middle_fidelity(full, cheap)
    return Multifidelity(
        sampler, dimensions, cheap, middle, full, n_trials, planned, late, random_state, splits
    )
