"""Strategies: which trial comes next, and how much work it is worth.

A strategy has no memory. What it proposes is a function of the trials that have ended and of those
under way, so that a study goes on after a kill as if nothing had happened, and trials that end in
any order are accounted for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hs_autoptycho.tuning.optimizer import (
    GaussianProcessOptimizer,
    RandomSampler,
    Sampler,
    SobolSampler,
)
from hs_autoptycho.tuning.polish import (
    Optimum,
    both_sides,
    farthest,
    one_side,
    parabolas,
    slopes,
    step_sizes,
)
from hs_autoptycho.tuning.selection import rank_agreement, select_best
from hs_autoptycho.tuning.space import Dimension, complete_point
from hs_autoptycho.tuning.trial import Fidelity, Trial

# Trials at full length, as a part of all, and at least.
FULL_LENGTH = 0.18
FEWEST_FULL_LENGTH = 8
# Of these, so many repeat the best short ones.
PROMOTED = 4
# With fewer trials than this all are at full length.
FEWEST_FOR_SEVERAL = 16
# A cheap trial has this part of the passes, and so many positions where there are more.
CHEAP_ITERATIONS = 0.25
FEWEST_CHEAP_ITERATIONS = 3
CHEAP_POSITIONS = 1024
SMALLEST_PART = 0.25
# Ranks of cheap trials are believed above this correlation with those at full length.
AGREEMENT = 0.0
# Trials about the best point may be this part of all; they see at least this part of the scan.
POLISH = 0.4
POLISH_ITERATIONS, POLISH_PART = 1 / 3, 0.5
# Trials at the best parameters with other seeds.
REPEATS = 2
# Parameters of which a smaller number is a simpler model.
FREEDOMS = ("n_slices", "n_probe_modes", "n_variable_modes")
# Trials of a length that have to be complete before another one of it can be stopped early.
FEWEST_CURVES = 4


class StrategyError(ValueError):
    """A strategy is not known."""


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
class Stage:
    """One step from a good point to the best.

    Attributes
    ----------
    purpose : str
        Of its trials.
    fidelity : Fidelity
    points : list of dict
        To be tried.
    found : Optimum
        What these and the ones before say, if they have all been tried.
    """

    purpose: str
    fidelity: Fidelity
    points: list[dict[str, Any]]
    found: Optimum


@dataclass(frozen=True)
class Multifidelity:
    """Search with short trials on a part of the scan; what is promising is tried at full length.

    1. Short trials search the space.
    2. The best of them, and one from the middle, are repeated at full length. If their ranks
       disagree with those of the short ones, these are not believed any more.
    3. About the best of these each parameter is changed to both sides, and once more about the
       minimum of the parabolas, in trials of medium length (:mod:`.polish`).
    4. What that gives is tried at full length, and so is, to both sides, the parameter that has
       moved farthest and may have farther to go. Further full-length trials, if any are left, are
       proposed by a model that holds all scores, the short ones brought to the scale of the others
       by a straight line.
    5. Where the best has modes or slices that it could do without, it is tried with fewer.
    6. The best is repeated with other orders of the positions, to see how much scores scatter.

    A trial whose learning curve is far worse than those of the better ones is stopped early.

    Attributes
    ----------
    sampler : Sampler
    dimensions : sequence of Dimension
        What the sampler varies.
    cheap, middle, full : Fidelity
    n_trials : int
        All together.
    seed : int
        Of every reconstruction but the repeated ones.

    References
    ----------
    K. Swersky, J. Snoek, R. P. Adams, arXiv:1406.3896 (2014); L. Li et al., J. Mach. Learn. Res. 18
    (185), 1 (2018).
    """

    sampler: Sampler
    dimensions: Sequence[Dimension]
    cheap: Fidelity
    middle: Fidelity
    full: Fidelity
    n_trials: int
    seed: int = 0
    name: str = "multifidelity"

    @property
    def n_full(self) -> int:
        """Trials at full length."""
        return max(FEWEST_FULL_LENGTH, round(FULL_LENGTH * self.n_trials))

    def propose(self, done: Sequence[Trial], pending: Sequence[Trial]) -> Trial | None:
        """The next trial."""
        every = [*done, *pending]
        left = self.n_trials - len(every)
        if left <= 0:
            return None
        n_cheap = sum(t.purpose == "search" for t in every)
        exhausted = False
        if n_cheap < self.n_search and len(every) == n_cheap:
            point = self.sampler.ask(
                told(t for t in done if t.purpose == "search"), [t.parameters for t in pending]
            )
            if point is not None:
                return self._trial(point, self.cheap, "search", every)
            exhausted = True
        if any(t.purpose == "search" for t in pending):
            return None
        promoted = [t for t in every if t.purpose == "promotion"]
        candidates = self._candidates(done)
        if len(promoted) < len(candidates):
            tried = [t.parameters for t in promoted]
            point = next(p for p in candidates if p not in tried)
            return self._trial(point, self.full, "promotion", every)
        if any(t.purpose == "promotion" for t in pending):
            return None
        for stage in self._polishing(done):
            tried = [t.parameters for t in every if t.fidelity == stage.fidelity]
            new = [p for p in stage.points if p not in tried]
            if new:
                return self._trial(new[0], stage.fidelity, stage.purpose, every)
            if any(t.purpose == stage.purpose for t in pending):
                return None
        ends = REPEATS + len(self._simpler(done))
        if left > ends and not exhausted:
            at_full = [t.parameters for t in every if t.fidelity == self.full]
            point = self.sampler.ask(
                self.told_at_full(done),
                # a point that was tried at full length must not be proposed again
                [t.parameters for t in pending],
            )
            if point is not None and point not in at_full:
                return self._trial(point, self.full, "proposal", every)
        if any(t.purpose == "proposal" for t in pending):
            return None
        simpler = [p for p in self._simpler(done) if p not in [t.parameters for t in every]]
        if simpler:
            return self._trial(simpler[0], self.full, "simpler", every)
        if any(t.purpose == "simpler" for t in pending):
            return None
        best = self.best(done)
        repeats = sum(t.purpose == "repeat" for t in every)
        if best is None or repeats >= REPEATS:
            return None
        trial = self._trial(best.parameters, self.full, "repeat", every)
        return replace(trial, seed=self.seed + 1 + repeats)

    @property
    def n_search(self) -> int:
        """Short trials that search."""
        return self.n_trials - self.n_full - sum(self.n_polish)

    @property
    def n_polish(self) -> tuple[int, int]:
        """Trials about the best point, to both sides and to one, as far as there are enough."""
        n = sum(not (d.choices or d.integer) for d in self.dimensions)
        both, one = 2 * n + 1, n + 1
        if n == 0 or both > POLISH * self.n_trials:
            return 0, 0
        return both, one if both + one <= POLISH * self.n_trials else 0

    def optimum(self, done: Sequence[Trial]) -> Optimum | None:
        """What the trials about the best point say; None as long as there are none."""
        found = None
        for stage in self._polishing(done):
            tried = [t.parameters for t in done if t.fidelity == stage.fidelity]
            if any(point not in tried for point in stage.points):
                break
            found = stage.found
        return found

    def limits(self, trial: Trial, done: Sequence[Trial]) -> list[tuple[int, float]]:
        """Where trials stand that are clearly worse than the better third."""
        if trial.purpose not in ("search", "proposal"):
            return []
        return curve_limits([t for t in done if t.fidelity == trial.fidelity])

    def best(self, done: Sequence[Trial]) -> Trial | None:
        """At full length, the simplest within one standard error; else the best short one."""
        return select_best(done, self.full) or select_best(done, self.cheap)

    def agreement(self, done: Sequence[Trial]) -> float:
        """Rank correlation of the promoted trials' two scores; NaN where there are too few."""
        pairs = self._pairs(done)
        if len(pairs) < 3:
            return math.nan
        return rank_agreement(*(list(column) for column in zip(*pairs, strict=True)))

    def told_at_full(self, done: Sequence[Trial]) -> list[tuple[Mapping[str, Any], float | None]]:
        """Scores on the scale of full-length trials, of the short ones too if these are right."""
        full = [t for t in done if t.fidelity == self.full and t.purpose != "repeat"]
        known = [t.parameters for t in full]
        out = []
        pairs = self._pairs(done)
        if len(pairs) >= 3 and not self.agreement(done) <= AGREEMENT:
            slope, offset = _line(pairs)
            for t in done:
                if t.fidelity == self.cheap and t.parameters not in known:
                    score = None if t.objective is None else offset + slope * t.objective
                    out.append((t.parameters, score))
        return out + told(full)

    def _trial(self, point, fidelity, purpose, every) -> Trial:
        number = next_number(every, ())
        return Trial(number, dict(point), fidelity, purpose, seed=self.seed)

    def _candidates(self, done: Sequence[Trial]) -> list[dict[str, Any]]:
        """Parameters to promote, in the order of their short trials, then one from the middle."""
        short = [t for t in done if t.purpose == "search" and t.status == "completed"]
        short = sorted(short, key=lambda t: (t.objective, t.number))
        n = min(PROMOTED, len(short))
        if not n:
            return []
        middle = max(n - 1, len(short) // 3)
        return [t.parameters for t in [*short[: n - 1], short[middle]]]

    def _center(self, done: Sequence[Trial]) -> Trial | None:
        """The best of those that were promoted."""
        promoted = [t for t in done if t.purpose == "promotion" and t.status == "completed"]
        return min(promoted, key=lambda t: (t.objective, t.number), default=None)

    def _polishing(self, done: Sequence[Trial]) -> Iterator[Stage]:
        """The stages of going from the best of the promoted to the optimum, in their order."""
        center = self._center(done)
        if center is None or not self.n_polish[0] or self.agreement(done) <= AGREEMENT:
            return
        short = [t for t in done if t.purpose == "search"]
        dimensions, start = self.dimensions, center.parameters
        steps = step_sizes(dimensions, start, short)
        about = [t for t in done if t.fidelity == self.middle]
        found = parabolas(dimensions, start, steps, about)
        yield Stage("both sides", self.middle, both_sides(dimensions, start, steps), found)
        if self.n_polish[1]:
            points = one_side(dimensions, found.point, steps)
            found = slopes(dimensions, found.point, steps, about, found)
            yield Stage("one side", self.middle, points, found)
        yield Stage("refinement", self.full, [found.point], found)
        name = farthest(dimensions, start, found.point, steps)
        if name is None or self.n_full < PROMOTED + 3 + REPEATS:
            return
        step = {name: steps[name]}
        points = both_sides(dimensions, found.point, step)
        at_full = [t for t in done if t.fidelity == self.full]
        last = parabolas(dimensions, found.point, step, at_full)
        last = replace(last, errors={**found.errors, **last.errors})
        yield Stage("full sides", self.full, points[1:], last)
        yield Stage("refinement", self.full, [last.point], last)

    def _pairs(self, done: Sequence[Trial]) -> list[tuple[float, float]]:
        short = {_key(t): t.objective for t in done if t.purpose == "search"}
        return [
            (short[_key(t)], t.objective)
            for t in done
            if t.purpose == "promotion" and t.status == "completed" and _key(t) in short
        ]

    def _simpler(self, done: Sequence[Trial]) -> list[dict[str, Any]]:
        """The lowest objective's parameters with one freedom less, for each freedom it has."""
        full = [
            t for t in done
            if t.fidelity == self.full and t.status == "completed" and t.purpose != "repeat"
        ]  # fmt: skip
        if not full:
            return []
        best = min(full, key=lambda t: (t.objective, t.number)).parameters
        out = []
        for dimension in self.dimensions:
            if dimension.name not in FREEDOMS or dimension.name not in best:
                continue
            below = [v for v in _values(dimension) if v < best[dimension.name]]
            if below:
                simpler = {**best, dimension.name: max(below)}
                out.append(complete_point(self.dimensions, simpler))
        return out


STRATEGIES = ("multifidelity", "full", "random", "sobol", "default")


def make_strategy(
    name: str,
    dimensions: Sequence[Dimension],
    *,
    full: Fidelity,
    n_positions: int,
    n_trials: int,
    start: Sequence[Mapping[str, Any]] = (),
    random_state: int = 0,
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
    start
        Points that are tried first.
    random_state
        Seed.

    Raises
    ------
    StrategyError
        If the name is not known.
    """
    if name not in STRATEGIES:
        raise StrategyError(f"strategy={name!r} is not known: choose one of {list(STRATEGIES)}.")
    if name == "random":
        sampler = RandomSampler(dimensions, random_state=random_state)
    elif name == "sobol":
        sampler = SobolSampler(dimensions, random_state=random_state)
    elif name == "default":
        middle = complete_point(dimensions, {d.name: d.nearest(None) for d in dimensions})
        points = list(start) or [middle]
        sampler, n_trials = GivenPoints(points), len(points)
    else:
        sampler = GaussianProcessOptimizer(
            dimensions,
            n_initial=n_initial(dimensions, n_trials),
            random_state=random_state,
            start=start,
        )
    cheap = cheap_fidelity(full, n_positions)
    if name != "multifidelity" or n_trials < FEWEST_FOR_SEVERAL or cheap == full:
        return OneFidelity(name, sampler, full, n_trials, random_state)
    middle = middle_fidelity(full, cheap)
    return Multifidelity(sampler, dimensions, cheap, middle, full, n_trials, random_state)


@dataclass(frozen=True)
class GivenPoints:
    """A sampler of points that are known beforehand."""

    points: Sequence[Mapping[str, Any]]

    def ask(self, told, pending=()) -> dict[str, Any] | None:
        """The first that has not been tried."""
        tried = [p for p, _ in told] + list(pending)
        return next((dict(p) for p in self.points if p not in tried), None)


def n_initial(dimensions: Sequence[Dimension], n_trials: int) -> int:
    """Quasi-random points before the Gaussian process is trusted."""
    return min(len(dimensions) + 4, max(1, n_trials // 2))


def told(trials) -> list[tuple[Mapping[str, Any], float | None]]:
    """What a sampler learns from trials, in the order of their numbers."""
    trials = sorted((t for t in trials if t.purpose != "repeat"), key=lambda t: t.number)
    return [(t.parameters, t.objective) for t in trials]


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
    n = max(cheap.n_iterations, round(POLISH_ITERATIONS * full.n_iterations))
    return Fidelity(min(n, full.n_iterations), max(cheap.part, POLISH_PART))


def curve_limits(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """Where the learning curves of the better trials were, with a margin as wide as they spread.

    Parameters
    ----------
    trials
        Of one fidelity. Those that ran to the end are used.
    """
    complete = [t for t in trials if t.status == "completed" and t.curve]
    if len(complete) < FEWEST_CURVES:
        return []
    complete = sorted(complete, key=lambda t: (t.objective, t.number))
    better = complete[: max(FEWEST_CURVES // 2, math.ceil(len(complete) / 3))]
    limits = []
    for iteration, _ in better[0].curve[:-1]:
        values = [v for t in better for i, v in t.curve if i == iteration]
        limits.append((iteration, 2 * max(values) - min(values)))
    return limits


def _key(trial: Trial) -> tuple:
    return tuple(sorted(trial.parameters.items()))


def _values(dimension: Dimension) -> Sequence[Any]:
    return dimension.choices or range(int(dimension.low), int(dimension.high) + 1)


def _line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope, not negative, and offset of the straight line through pairs of scores."""
    x, y = np.array(pairs).T
    spread = np.var(x)
    slope = max(0.0, float(np.mean((x - x.mean()) * (y - y.mean())) / spread)) if spread else 1.0
    return slope, float(y.mean() - slope * x.mean())
