"""The way from a good point to the best: what is tried, in which order, and what that says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hs_autoptycho.tuning.polish import (
    WIDEST_STEP,
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
from hs_autoptycho.tuning.selection import usable
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

# Looks, at most, at the flattest parameter with one half of the counts, judged by the other: five
# times as many counts as in the search, so that its optimum is known better, and these decide.
HALVES = 2


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


class LastLooks(NamedTuple):
    """What is changed to both sides at full length.

    Attributes
    ----------
    unknown : list of str
        Parameters that shorter trials say nothing of.
    rounds : int
        How often these are.
    flattest : list of str
        The one along whose range the objective changes least, if it is.
    halves : int
        How many looks at that one there are with one half of the counts.
    """

    unknown: list[str]
    rounds: int
    flattest: list[str]
    halves: int


@dataclass(frozen=True)
class Way:
    """Changes every parameter to both sides, again and again, with ever more work.

    Attributes
    ----------
    dimensions : sequence of Dimension
        The space.
    rounds : int
        How often each parameter is changed in trials of `length`.
    length, full : Fidelity
        Of these, and of the last ones; the same where short trials are not believed.
    spare : int
        Trials at full length that there are for the last looks.
    splits : bool
        Whether halves of the counts can judge each other: see `Fidelity.split`.
    """

    dimensions: Sequence[Dimension]
    rounds: int
    length: Fidelity
    full: Fidelity
    spare: int
    splits: bool

    def stages(self, start: Mapping[str, Any], done: Sequence[Trial]) -> Iterator[Stage]:
        """What is to be tried, in its order, given what has been.

        Parameters
        ----------
        start
            A good point.
        done
            All trials of the search: the short ones tell how far to go at first.
        """
        dimensions, full = self.dimensions, self.full
        steps = step_sizes(dimensions, start, [t for t in done if t.purpose == "search"])
        now = {name: step for name, step in steps.items() if not depends_on_length(name)}
        about = usable(done, self.length)
        found = Optimum(dict(start), {}, {})
        for _ in range(self.rounds):
            points = both_sides(dimensions, found.point, now)
            wider = widened(dimensions, found.point, now, about)
            found = parabolas(dimensions, found.point, now, about)
            yield Stage("both sides", self.length, points, found)
            now = wider
        yield Stage("refinement", full, [found.point], found)
        looks, at_full = self.last_looks(steps, found), usable(done, full)
        width = WIDEST_STEP  # how far the better short trials spread says nothing of these either
        for _ in range(looks.rounds):
            last = dict.fromkeys(looks.unknown, width)
            points = both_sides(dimensions, found.point, last)
            found = lowest(dimensions, found, last, at_full)
            yield Stage("full sides", full, points[1:], found)
            yield Stage("refinement", full, [found.point], found)
            width /= 2
        if looks.flattest:
            last = {name: now[name] for name in looks.flattest}
            yield from self._look_again(found, last, looks.halves, done)

    def _look_again(self, found: Optimum, steps, n_halves: int, done) -> Iterator[Stage]:
        """Both sides at full length, then with halves of the counts; of all scores the mean."""
        dimensions, full = self.dimensions, self.full
        points = both_sides(dimensions, found.point, steps)
        judged: list[Trial] = []
        for split in range(n_halves + 1):
            own = usable(done, replace(full, split=split))
            # counts that have not judged all points would tip the mean
            if all(any(t.parameters == p for t in own) for p in points):
                judged += own
            end = parabolas(dimensions, found.point, steps, judged)
            end = combined(dimensions, found, end, steps)
            if split:
                yield Stage("halves", replace(full, split=split), points, end)
            else:
                yield Stage("full sides", full, points[1:], end)
        yield Stage("refinement", full, [end.point], end)

    def last_looks(self, steps: Mapping[str, float], found: Optimum) -> LastLooks:
        """What there are trials for, two for each parameter of a round.

        Those that trials about the best point cannot tell are changed, and the flattest of the
        others, which comes first where there are few trials; it has been changed there if these
        were as long.

        Parameters
        ----------
        steps
            Of all parameters that can be changed a little.
        found
            What is known of them.
        """
        names = least_known(steps, found)
        flattest = [name for name in names if name in found.curvatures][:1]
        if self.length == self.full or self.spare < 2:
            flattest = []
        left = self.spare - 2 * len(flattest)
        unknown = [name for name in names if name not in found.curvatures][: left // 2]
        left -= 2 * len(unknown)
        rounds = min(1, len(unknown))
        if unknown and left >= 2 * len(unknown):
            rounds, left = 2, left - 2 * len(unknown)
        # one for what the flattest ends at
        halves = min(HALVES, max(0, left - 1) // 3) if flattest and self.splits else 0
        return LastLooks(unknown, rounds, flattest, halves)
