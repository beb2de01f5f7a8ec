"""Many short trials, few long ones: the search that `autotune_ptycho` makes by default."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from hs_autoptycho.tuning.optimizer import Sampler
from hs_autoptycho.tuning.polish import Optimum, depends_on_length
from hs_autoptycho.tuning.schedule import curve_limits, n_initial, next_number, told
from hs_autoptycho.tuning.selection import (
    agreement,
    select_best,
    straight_line,
    usable,
)
from hs_autoptycho.tuning.space import Dimension, complete_point
from hs_autoptycho.tuning.stages import Stage, Way
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
class Multifidelity:
    """Search with short trials on a part of the scan; what is promising is tried at full length.

    1. Short trials search the space.
    2. The best of them, and one from the middle, are repeated at full length. If their ranks
       disagree with those of the short ones, these are not believed any more.
    3. About the best of these each parameter is changed to both sides, and once more and further
       about the minimum of the parabolas, in trials of medium length (:mod:`.polish`). Step sizes
       and the like stay as they are: what is best for them depends on the length.
    4. What that gives is tried at full length. There these are changed to both sides, far, and then
       half as far about the best of them; then so is the flattest along its range once more, also
       with halves of the counts that judge each other; all this as far as there are trials. The
       weighted mean of what both lengths say of the flattest is tried. More full-length trials, if
       any are left, are proposed by a model that holds all scores, the short ones brought to the
       scale of the others by a straight line.
    5. Where the best has modes or slices that it could do without, it is tried with fewer; and so
       is what polishing ended at, if that is another one.
    6. Both are repeated with other orders of the positions, to see how much scores scatter. The
       polished one is taken, for more trials speak for it, unless the other one's mean is lower by
       more than its standard error.

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
    splits : bool
        Whether halves of the counts can judge each other: see `Fidelity.split`.

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
    splits: bool = False
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
            if point is None:  # all have been tried, if some in a short trial alone
                short = (t.parameters for t in self._short(done))
                point = next((p for p in short if p not in at_full), None)
            if point is not None:
                return self._trial(point, self.full, "proposal", every)
        if any(t.purpose == "proposal" for t in pending):
            return None
        # one repeat is worth more than the second of these
        first = not any(t.purpose == "simpler" for t in every)
        if simpler and (first or left > min(1, len(repeats))):
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
        best, polished = select_best(done, self.full), self._polished(done)
        if best is None:
            return []
        return [best] if polished is None or polished is best else [best, polished]

    def _polished(self, done: Sequence[Trial]) -> Trial | None:
        """Where polishing ended, with as few modes and slices as do."""
        at_full, optimum = usable(done, self.full), self.optimum(done)
        end = None if optimum is None else optimum.point
        refined = [t for t in at_full if t.purpose == "refinement" or t.parameters == end]
        if not refined:
            return None
        last = max(refined, key=lambda t: t.number)
        alike = [t for t in at_full if _rest(t).items() <= _rest(last).items()]
        return select_best(alike, self.full)

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
        for point, score in told(t for t in done if t.purpose == "search"):
            if _point_key(point) in known or (score is not None and not believed):
                continue  # a failure is one at any length
            short.append((point, None if score is None else offset + slope * score))
        return short + told(full)

    def _trial(self, point, fidelity, purpose, every) -> Trial:
        number = next_number(every, ())
        return Trial(number, dict(point), fidelity, purpose, seed=self.seed)

    def _candidates(self, done: Sequence[Trial]) -> list[dict[str, Any]]:
        """Parameters to promote, in the order of their short trials, then one from the middle."""
        short = self._short(done)
        n = min(PROMOTED, len(short))
        if not n:
            return []
        middle = max(n - 1, len(short) // 2)
        return [t.parameters for t in [*short[: n - 1], short[middle]]]

    def _short(self, done: Sequence[Trial]) -> list[Trial]:
        """The short trials that ran to the end, in their order."""
        short = [t for t in done if t.purpose == "search" and t.status == "completed"]
        return sorted(short, key=lambda t: (t.objective, t.number))

    def _center(self, done: Sequence[Trial]) -> Trial | None:
        """The best of those that were promoted."""
        promoted = [t for t in done if t.purpose == "promotion" and t.status == "completed"]
        return min(promoted, key=lambda t: (t.objective, t.number), default=None)

    def _polishing(self, done: Sequence[Trial]) -> Iterator[Stage]:
        """The stages of going from the best of the promoted to the optimum, in their order."""
        center = self._center(done)
        if center is None or not self.n_polish[0]:
            return iter(())
        # where short trials mislead, those of medium length may too
        length = self.middle if self._believed(done) else self.full
        way = Way(self.dimensions, self.n_polish[0], length, self.full, self._n_spare, self.splits)
        return way.stages(center.parameters, done)

    @property
    def _n_spare(self) -> int:
        """Trials at full length that neither the way there nor the end of a search needs."""
        freedoms = sum(d.name in FREEDOMS for d in self.dimensions)
        left = self.n_full - PROMOTED - 2 - freedoms - 2 * REPEATS
        # two on the way are worth all repeats but one
        return left if left >= 2 else max(0, min(left + 2 * REPEATS - 1, 2))

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
        """What polishing ended at, and what is lowest, with one freedom less for each they have."""
        full = usable(done, self.full)
        if not full:
            return []
        bases = [self._polished(done), min(full, key=lambda t: (t.objective, t.number))]
        out = []
        for base in bases:
            for dimension in self.dimensions:
                if base is None or dimension.name not in FREEDOMS:
                    continue
                least = base.parameters.get(dimension.name, -math.inf)
                below = [v for v in _values(dimension) if v < least]
                if below:
                    simpler = {**base.parameters, dimension.name: max(below)}
                    simpler = complete_point(self.dimensions, simpler)
                    out += [simpler] if simpler not in out else []
        return out


def _rest(trial: Trial) -> dict[str, Any]:
    """What stays as it is in a simpler model, but for what that does not have."""
    return {name: v for name, v in trial.parameters.items() if name not in FREEDOMS}


def _key(trial: Trial) -> tuple:
    return _point_key(trial.parameters)


def _point_key(point: Mapping[str, Any]) -> tuple:
    return tuple(sorted(point.items()))


def _values(dimension: Dimension) -> Sequence[Any]:
    return dimension.choices or range(int(dimension.low), int(dimension.high) + 1)
