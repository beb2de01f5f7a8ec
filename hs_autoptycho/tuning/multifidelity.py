"""Many short trials, few long ones: the search that `autotune_ptycho` makes by default."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from hs_autoptycho.tuning.optimizer import Sampler
from hs_autoptycho.tuning.polish import (
    Optimum,
    both_sides,
    combined,
    depends_on_length,
    least_known,
    lowest,
    parabolas,
    step_sizes,
    widened,
)
from hs_autoptycho.tuning.schedule import curve_limits, n_initial, next_number, told
from hs_autoptycho.tuning.selection import (
    agreement,
    complexity,
    select_best,
    straight_line,
    usable,
)
from hs_autoptycho.tuning.space import Dimension, complete_point
from hs_autoptycho.tuning.trial import Fidelity, Trial

# Trials at full length, as a part of all, and at least.
FULL_LENGTH = 0.25
FEWEST_FULL_LENGTH = 8
# Of these, so many repeat the best short ones.
PROMOTED = 4
# Ranks of short trials are believed above this correlation with those at full length.
AGREEMENT = 0.0
# Trials about the best point may be this part of all.
POLISH = 0.45
# A search has so many times the quasi-random trials that it starts with, or nothing is polished.
FEWEST_SEARCH = 1.3
# So many times each parameter is changed to both sides.
ROUNDS = 2
# Trials at the best parameters with other seeds.
REPEATS = 2
# Parameters of which a smaller number is a simpler model.
FREEDOMS = ("n_slices", "n_probe_modes", "n_variable_modes")


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

    def left(self, trials: Sequence[Trial]) -> list[dict[str, Any]]:
        """Points that are not among some trials; the repeats with other seeds do not count."""
        own = [t for t in trials if t.fidelity == self.fidelity and t.purpose != "repeat"]
        tried = [t.parameters for t in own]
        return [point for point in self.points if point not in tried]


@dataclass(frozen=True)
class Multifidelity:
    """Search with short trials on a part of the scan; what is promising is tried at full length.

    1. Short trials search the space.
    2. The best of them, and one from the middle, are repeated at full length. If their ranks
       disagree with those of the short ones, these are not believed any more.
    3. About the best of these each parameter is changed to both sides, and once more and further
       about the minimum of the parabolas, in trials of medium length (:mod:`.polish`). Step sizes
       and the like stay as they are: what is best for them depends on the length.
    4. What that gives is tried at full length. There these are changed to both sides; then, with
       the best of them, so is the flattest along its range once more, as far as there are trials;
       and the weighted mean of what both lengths say of it is tried. More full-length trials, if
       any are left, are proposed by a model that holds all scores, the short ones brought to the
       scale of the others by a straight line.
    5. Where the best has modes or slices that it could do without, it is tried with fewer.
    6. The best is repeated with other orders of the positions, to see how much scores scatter; and
       what polishing ended at, if that is another one. This is taken, for more trials speak for it,
       unless the other one's mean is lower by more than its standard error.

    A trial whose learning curve is far worse than those of the better ones is stopped early.

    Attributes
    ----------
    sampler : Sampler
    dimensions : sequence of Dimension
        What the sampler varies.
    cheap, middle, full : Fidelity
    n_trials : int
        All together.
    planned : int
        How many there were to be when the search began, which decides what they are used for. What
        is more than that is tried at full length.
    late : Sampler
        Proposes what is tried at full length.
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
    planned: int
    late: Sampler
    seed: int = 0
    name: str = "multifidelity"

    @property
    def n_full(self) -> int:
        """Trials at full length."""
        return max(FEWEST_FULL_LENGTH, round(FULL_LENGTH * self.planned))

    def propose(self, done: Sequence[Trial], pending: Sequence[Trial]) -> Trial | None:
        """The next trial."""
        every = [*done, *pending]
        left = self.n_trials - len(every)
        if left <= 0:
            return None
        n_cheap = sum(t.fidelity == self.cheap and t.purpose == "search" for t in every)
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
            new = stage.left(every)
            if new:
                return self._trial(new[0], stage.fidelity, stage.purpose, every)
            if stage.left(done):  # some of it are under way
                return None
        at_full = [t.parameters for t in every if t.fidelity == self.full]
        simpler = [p for p in self._simpler(done) if p not in at_full]
        repeats = self._repeats(done, every)
        if left > len(simpler) + len(repeats) and not exhausted:
            point = self.late.ask(self.told_at_full(done), [t.parameters for t in pending])
            if point is not None:
                return self._trial(point, self.full, "proposal", every)
        if any(t.purpose == "proposal" for t in pending):
            return None
        if simpler:
            return self._trial(simpler[0], self.full, "simpler", every)
        if any(t.purpose == "simpler" for t in pending):
            return None
        if not repeats:
            return None
        point, seed = repeats[0]
        return replace(self._trial(point, self.full, "repeat", every), seed=seed)

    def _repeats(self, done, every) -> list[tuple[dict[str, Any], int]]:
        """Parameters and seeds of what is to be repeated yet, in their order."""
        there = {(_key(t), t.seed) for t in every if t.purpose == "repeat"}
        seeds = range(self.seed + 1, self.seed + 1 + REPEATS)
        return [
            (t.parameters, seed)
            for seed in seeds
            for t in self._finalists(done)
            if (_key(t), seed) not in there
        ]

    @property
    def n_search(self) -> int:
        """Short trials that search."""
        return self.planned - self.n_full - self.n_polish[1]

    @property
    def n_polish(self) -> tuple[int, int]:
        """How often each parameter is changed to both sides, and the trials that this takes."""
        varied = [d for d in self.dimensions if not (d.choices or d.integer)]
        n = sum(not depends_on_length(d.name) for d in varied)
        fewest = FEWEST_SEARCH * n_initial(self.dimensions, self.planned)
        for rounds in range(ROUNDS, 0, -1):
            trials = rounds * (2 * n + 1)
            enough = self.planned - self.n_full - trials >= fewest
            if n and enough and trials <= POLISH * self.planned:
                return rounds, trials
        return 0, 0

    def optimum(self, done: Sequence[Trial]) -> Optimum | None:
        """What the trials about the best point say; None as long as there are none."""
        found = None
        for stage in self._polishing(done):
            if stage.left(done):
                break
            found = stage.found
        return found

    def limits(self, trial: Trial, done: Sequence[Trial]) -> list[tuple[int, float]]:
        """Where trials stand that are clearly worse than the better third."""
        if trial.purpose not in ("search", "proposal"):
            return []
        return curve_limits([t for t in done if t.fidelity == trial.fidelity])

    def best(self, done: Sequence[Trial]) -> Trial | None:
        """At full length, the simplest within one standard error; else the best short one.

        What polishing ended at in its place, unless the mean over orders speaks against it.
        """
        finalists = self._finalists(done)
        if not finalists:
            return select_best(done, self.cheap)
        if len(finalists) == 1:
            return finalists[0]
        lowest, polished = (self._scores(t, done) for t in finalists)
        gain = [polished[seed] - lowest[seed] for seed in lowest if seed in polished]
        error = stdev(gain) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
        return finalists[0] if mean(gain) > error else finalists[1]

    def _finalists(self, done: Sequence[Trial]) -> list[Trial]:
        """What is best by one order of the positions, and what polishing ended at."""
        best = select_best(done, self.full)
        if best is None:
            return []
        polished = [t for t in usable(done, self.full) if t.purpose == "refinement"]
        last = max(polished, key=lambda t: t.number, default=best)
        if last is best or complexity(last.parameters) > complexity(best.parameters):
            return [best]
        return [best, last]

    def _scores(self, trial: Trial, done: Sequence[Trial]) -> dict[int, float]:
        """Objectives of a trial and of its repeats, by seed."""
        repeats = [
            t for t in done
            if t.purpose == "repeat" and t.status == "completed" and _key(t) == _key(trial)
        ]  # fmt: skip
        return {t.seed: t.objective for t in (trial, *repeats)}

    def agreement(self, done: Sequence[Trial]) -> float:
        """Rank correlation of the promoted trials' two scores; NaN where nothing can be told."""
        return agreement(self._pairs(done))

    def told_at_full(self, done: Sequence[Trial]) -> list[tuple[Mapping[str, Any], float | None]]:
        """Scores on the scale of full-length trials, of the short ones too if these are right."""
        full = [t for t in done if t.fidelity == self.full and t.purpose != "repeat"]
        known = {_key(t) for t in full}
        pairs = [(short.objective, long.objective) for short, long in self._pairs(done)]
        believed = len(pairs) >= 3 and self._believed(done)
        slope, offset = straight_line(pairs) if believed else (0.0, 0.0)
        short = []
        searched = [t for t in done if t.purpose == "search" and _key(t) not in known]
        for point, score in told(searched):
            if score is not None and not believed:
                continue  # a failure is one at any length
            short.append((point, None if score is None else offset + slope * score))
        return short + told(full)

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
        middle = max(n - 1, len(short) // 2)
        return [t.parameters for t in [*short[: n - 1], short[middle]]]

    def _center(self, done: Sequence[Trial]) -> Trial | None:
        """The best of those that were promoted."""
        promoted = [t for t in done if t.purpose == "promotion" and t.status == "completed"]
        return min(promoted, key=lambda t: (t.objective, t.number), default=None)

    def _polishing(self, done: Sequence[Trial]) -> Iterator[Stage]:
        """The stages of going from the best of the promoted to the optimum, in their order."""
        center = self._center(done)
        if center is None or not self.n_polish[0]:
            return
        # where short trials mislead, those of medium length may too
        length = self.middle if self._believed(done) else self.full
        short = [t for t in done if t.purpose == "search"]
        dimensions, start = self.dimensions, center.parameters
        steps = step_sizes(dimensions, start, short)
        now = {name: step for name, step in steps.items() if not depends_on_length(name)}
        about = [t for t in done if t.fidelity == length and t.purpose != "repeat"]
        found = Optimum(start, {}, {})
        for _ in range(self.n_polish[0]):
            points = both_sides(dimensions, found.point, now)
            wider = widened(dimensions, found.point, now, about)
            found = parabolas(dimensions, found.point, now, about)
            yield Stage("both sides", length, points, found)
            now = wider
        yield Stage("refinement", self.full, [found.point], found)
        at_full = [t for t in done if t.fidelity == self.full and t.purpose != "repeat"]
        unknown, flattest = self._last_names(steps, found, length)
        if unknown:
            last = {name: steps[name] for name in unknown}
            points = both_sides(dimensions, found.point, last)
            found = lowest(dimensions, found, last, at_full)
            yield Stage("full sides", self.full, points[1:], found)
            yield Stage("refinement", self.full, [found.point], found)
        if flattest:
            last = {name: now[name] for name in flattest}
            points = both_sides(dimensions, found.point, last)
            end = parabolas(dimensions, found.point, last, at_full)
            end = combined(dimensions, found, end, last)
            yield Stage("full sides", self.full, points[1:], end)
            yield Stage("refinement", self.full, [end.point], end)

    def _last_names(self, steps, found: Optimum, length: Fidelity) -> tuple[list[str], list[str]]:
        """Which parameters to change at full length, as many as there are trials for.

        Those that trials about the best point cannot tell, and the flattest of the others, which
        comes first where there are few trials; it has been changed there if these were as long.
        """
        names = least_known(steps, found)
        known = [name for name in names if name in found.curvatures]
        unknown = [name for name in names if name not in found.curvatures]
        flattest = known[:1] if length != self.full else []
        freedoms = sum(d.name in FREEDOMS for d in self.dimensions)
        left = self.n_full - PROMOTED - 2 - freedoms - 2 * REPEATS
        if left < 2:  # one of them is worth all repeats but one
            left = min(left + 2 * REPEATS - 1, 2)
        n = max(0, left // 2)
        return unknown[: max(0, n - len(flattest))], flattest[:n]

    def _believed(self, done: Sequence[Trial]) -> bool:
        return not self.agreement(done) <= AGREEMENT

    def _pairs(self, done: Sequence[Trial]) -> list[tuple[Trial, Trial]]:
        """The promoted, short and at full length."""
        short = {_key(t): t for t in done if t.purpose == "search"}
        return [
            (short[_key(t)], t)
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


def _key(trial: Trial) -> tuple:
    return tuple(sorted(trial.parameters.items()))


def _values(dimension: Dimension) -> Sequence[Any]:
    return dimension.choices or range(int(dimension.low), int(dimension.high) + 1)
