"""What strategies share: how long trials are, which of them count, when one is hopeless.

A strategy has no memory. What it proposes is a function of the trials that have ended and of those
under way, so that a study goes on after a kill as if nothing had happened, and trials that end in
any order are accounted for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from hs_autoptycho.tuning.optimizer import Sampler
from hs_autoptycho.tuning.polish import Optimum
from hs_autoptycho.tuning.selection import select_best
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

# A cheap trial has this part of the passes, and so many positions where there are more.
CHEAP_ITERATIONS = 0.25
FEWEST_CHEAP_ITERATIONS = 3
CHEAP_POSITIONS = 1024
SMALLEST_PART = 0.25
# Trials about the best point have this part of the passes, on this part of the scan at least.
MIDDLE_ITERATIONS, MIDDLE_PART = 1 / 3, 0.5
# Trials of a length that have to be complete before another one of it can be stopped early.
FEWEST_CURVES = 4


class Strategy(Protocol):
    """Proposes trials."""

    name: str
    full: Fidelity

    def propose(self, done: Sequence[Trial], pending: Sequence[Trial]) -> Trial | None:
        """The next trial; None if there is none, or none before a pending one has ended."""

    def limits(self, trial: Trial, done: Sequence[Trial]) -> list[tuple[int, float]]:
        """(iteration, objective) beyond which a trial is hopeless and stopped."""

    def best(self, done: Sequence[Trial]) -> Trial | None:
        """The trial to believe in; None where none was complete."""

    def optimum(self, done: Sequence[Trial]) -> Optimum | None:
        """What trials about the best point say of it; None where there were none."""


@dataclass(frozen=True)
class OneFidelity:
    """All trials are of the same length.

    Attributes
    ----------
    name : str
    sampler : Sampler
    full : Fidelity
    n_trials : int
    seed : int
        Of every reconstruction: the same for all, so that scores can be compared.
    """

    name: str
    sampler: Sampler
    full: Fidelity
    n_trials: int
    seed: int = 0

    def propose(self, done: Sequence[Trial], pending: Sequence[Trial]) -> Trial | None:
        """The next trial."""
        if len(done) + len(pending) >= self.n_trials:
            return None
        point = self.sampler.ask(told(done), [t.parameters for t in pending])
        if point is None:  # every point has been tried
            return None
        return Trial(next_number(done, pending), point, self.full, seed=self.seed)

    def limits(self, trial: Trial, done: Sequence[Trial]) -> list[tuple[int, float]]:
        """None: a baseline runs its trials to the end."""
        return []

    def best(self, done: Sequence[Trial]) -> Trial | None:
        """The simplest within one standard error of the lowest objective."""
        return select_best(done, self.full)

    def optimum(self, done: Sequence[Trial]) -> None:
        """There are no such trials."""
        return None


@dataclass(frozen=True)
class GivenPoints:
    """A sampler of points that are known beforehand."""

    points: Sequence[Mapping[str, Any]]

    def ask(self, told, pending=()) -> dict[str, Any] | None:
        """The first that has not been tried."""
        tried = [p for p, _ in told] + list(pending)
        return next((dict(p) for p in self.points if p not in tried), None)


def told(trials) -> list[tuple[Mapping[str, Any], float | None]]:
    """What a sampler learns from trials, in the order of their numbers.

    Of a stopped one what it would have ended at, for its last estimate is on another scale: see
    :func:`expected_end`.
    """
    trials = sorted((t for t in trials if t.purpose != "repeat"), key=lambda t: t.number)
    return [
        (t.parameters, expected_end(t, trials) if t.status == "pruned" else t.objective)
        for t in trials
    ]


def expected_end(stopped: Trial, trials: Sequence[Trial]) -> float | None:
    """What the objective of a stopped trial would have become.

    Its learning curve is that of a few positions and of fewer passes. From there to the objective
    it is taken to be as far as for the better ones of the same length, in their median; None where
    there are none.
    """
    if not stopped.curve:
        return None
    passes, value = stopped.curve[-1]
    ways = [
        t.objective - v
        for t in _better(t for t in trials if t.fidelity == stopped.fidelity)
        for i, v in t.curve
        if i == passes
    ]
    return value + median(ways) if ways else None


def next_number(done: Sequence[Trial], pending: Sequence[Trial]) -> int:
    """The lowest number that no trial has; after a kill those under way leave gaps."""
    taken = {t.number for t in (*done, *pending)}
    return next(n for n in range(len(taken) + 1) if n not in taken)


def cheap_fidelity(full: Fidelity, n_positions: int) -> Fidelity:
    """The length of short trials: fewer passes over a part of the scan."""
    n = min(
        full.n_iterations,
        max(FEWEST_CHEAP_ITERATIONS, round(CHEAP_ITERATIONS * full.n_iterations)),
    )
    part = min(1.0, max(SMALLEST_PART, CHEAP_POSITIONS / n_positions))
    return Fidelity(n, float(f"{part:.3g}"))


def middle_fidelity(full: Fidelity, cheap: Fidelity) -> Fidelity:
    """The length of trials about the best point."""
    n = max(cheap.n_iterations, round(MIDDLE_ITERATIONS * full.n_iterations))
    return Fidelity(min(n, full.n_iterations), max(cheap.part, MIDDLE_PART))


def curve_limits(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """Where the learning curves of the better trials were, with a margin as wide as they spread.

    Parameters
    ----------
    trials
        Of one fidelity. Those that ran to the end are used.
    """
    better = _better(trials)
    if not better:
        return []
    limits = []
    for iteration, _ in better[0].curve[:-1]:
        values = [v for t in better for i, v in t.curve if i == iteration]
        limits.append((iteration, 2 * max(values) - min(values)))
    return limits


def _better(trials: Iterable[Trial]) -> list[Trial]:
    """The best third of the trials that ran to the end; none where these are few."""
    complete = [t for t in trials if t.status == "completed" and t.curve]
    if len(complete) < FEWEST_CURVES:
        return []
    complete = sorted(complete, key=lambda t: (t.objective, t.number))
    return complete[: max(FEWEST_CURVES // 2, math.ceil(len(complete) / 3))]


def n_initial(dimensions: Sequence[Dimension], n_trials: int) -> int:
    """Quasi-random points before the Gaussian process is trusted."""
    return min(len(dimensions) + 4, max(1, n_trials // 2))
