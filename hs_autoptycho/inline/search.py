"""Ask and tell: the next parameters to try, with the tuner's own samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.tuning.optimizer import GaussianProcessOptimizer
from hs_autoptycho.tuning.polish import Optimum, both_sides, parabolas
from hs_autoptycho.tuning.schedule import n_initial, told
from hs_autoptycho.tuning.space import Dimension, complete_point
from hs_autoptycho.tuning.trial import Fidelity, Trial

# Steps to either side of what is known, as parts of a range.
_SMALLEST_STEP, _LARGEST_STEP = 0.01, 0.15
# A belief is this many standard deviations wide to either side.
_REACH = 2.0
# The purpose of what somebody else has tried.
_TOLD = "told"


class Search:
    """Which parameters to try next, from those that were tried.

    Where something is known beforehand it is tried first, then every parameter to both sides of it,
    then the minimum of the parabolas through these (:mod:`hs_autoptycho.tuning.polish`), and from
    then on what a Gaussian process proposes (:class:`.optimizer.GaussianProcessOptimizer`). Where
    nothing is known the Gaussian process begins with quasi-random points.

    Parameters
    ----------
    dimensions
        The space, with beliefs where there are any.
    start
        What is known; None if nothing is.
    n_trials
        About how many there will be.
    random_state
        Seed.

    Attributes
    ----------
    trials : list of Trial
        That were told.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        start: Mapping[str, Any] | None = None,
        n_trials: int = 20,
        random_state: int = 0,
    ):
        self.dimensions = list(dimensions)
        self.trials: list[Trial] = []
        self.steps: dict[str, float] = {}
        self.start = None if start is None else complete_point(dimensions, start)
        self._first: list[dict[str, Any]] = []
        if self.start is not None:
            self.steps = {d.name: s for d in dimensions if (s := _step(d, self.start)) is not None}
            self._first = both_sides(self.dimensions, self.start, self.steps)
        self._asked: list[dict[str, Any]] = []
        self._sampler = GaussianProcessOptimizer(
            self.dimensions,
            n_initial=len(self._first) or n_initial(self.dimensions, n_trials),
            random_state=random_state,
        )

    @property
    def n_first(self) -> int:
        """Trials that the start and both sides of it take."""
        return len(self._first)

    @property
    def best(self) -> Trial | None:
        """The lowest score; None before one was told."""
        good = [t for t in self.trials if t.objective is not None]
        return min(good, key=lambda t: (t.objective, t.number), default=None)

    def ask(self) -> dict[str, Any] | None:
        """The next parameters; None if all have been tried."""
        known = [t.parameters for t in self.trials] + self._asked
        points = list(self._first)
        found = self.optimum()
        if found is not None:
            points.append(found.point)
        point = next((p for p in points if p not in known), None)
        if point is None:
            point = self._sampler.ask(told(self.trials), self._asked)
        if point is not None:
            self._asked.append(dict(point))
        return None if point is None else dict(point)

    def tell(
        self,
        parameters: Mapping[str, Any],
        score: float | None,
        *,
        blocks: Sequence[float] = (),
        trial: Trial | None = None,
    ) -> None:
        """Take in a score; None for a trial that failed.

        Raises
        ------
        ParameterError
            If a parameter is wrong, or some scores are of trials and others are not: they are not
            on the same scale.
        """
        if any((t.purpose == _TOLD) != (trial is None) for t in self.trials):
            raise ParameterError(
                "Scores that are told are not to be mixed with those of short trials: go on with "
                "`ask` and `tell` alone, and set `n_trials=0`, or with `improve` alone."
            )
        point = self.checked(parameters)
        if point in self._asked:
            self._asked.remove(point)
        if trial is None:
            trial = Trial(len(self.trials), point, Fidelity(1), _TOLD, blocks=list(blocks))
            trial.objective = score
            trial.status = "failed" if score is None else "completed"
        self.trials.append(trial)

    def forget(self) -> None:
        """No score will come of what was asked for last."""
        self._asked.clear()

    def checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """A point of the space from parameters that somebody gave.

        Raises
        ------
        ParameterError
            If one is missing, unknown, or outside of its range.
        """
        names = [d.name for d in self.dimensions]
        unknown = [name for name in parameters if name not in names]
        if unknown:
            raise ParameterError(
                f"{unknown[0]} is not among what is tuned here: {', '.join(names)}."
            )
        for d in self.dimensions:
            if not d.active(parameters):
                continue
            if d.name not in parameters:
                raise ParameterError(f"{d.name} is missing: a score is of all tuned parameters.")
            value = parameters[d.name]
            inside = value in d.choices if d.choices else d.low <= value <= d.high
            if not inside:
                limits = list(d.choices) if d.choices else f"{d.low:g} to {d.high:g}"
                raise ParameterError(
                    f"{d.name}={value!r} is outside of what is searched: {limits}."
                )
        return complete_point(self.dimensions, parameters)

    def optimum(self) -> Optimum | None:
        """The minimum of the parabolas about the start; None before they are complete."""
        done = [t.parameters for t in self.trials]
        if not self.steps or any(point not in done for point in self._first):
            return None
        return parabolas(self.dimensions, self.start, self.steps, self.trials)


def _step(d: Dimension, start: Mapping[str, Any]) -> float | None:
    """How far to go to either side, as a part of the range; None where there are no sides."""
    if d.choices or d.integer or d.name not in start:
        return None
    place = d.place(start[d.name])
    step = _LARGEST_STEP
    if d.prior is not None and not d.log:
        step = min(max(_REACH * d.prior[1] / (d.high - d.low), _SMALLEST_STEP), step)
    step = min(step, place, 1 - place)
    return step if step >= _SMALLEST_STEP else None
