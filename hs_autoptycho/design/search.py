"""Which settings to try next: doses one after the other, each from what the last one taught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import qmc

from hs_autoptycho.design.instrument import SETTINGS, DesignError, Instrument
from hs_autoptycho.design.surface import expected_best
from hs_autoptycho.tuning.optimizer import GaussianProcessOptimizer, RandomSampler, SobolSampler
from hs_autoptycho.tuning.schedule import next_number
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Fidelity, Trial

STRATEGIES = ("bayesian", "random", "sobol")

# Standard deviation of the belief that a dose's best settings are those of the one before, as a
# part of the ranges.
_BELIEF = 0.25
# Points of the sequence that possible ones are looked for among, as powers of two.
_FIRST_POWER, _LAST_POWER = 10, 15
# Logarithm of the belief in what is impossible.
_IMPOSSIBLE = -1e9


@dataclass(frozen=True)
class Possible:
    """Which places of the unit cube are experiments that can be done.

    Attributes
    ----------
    dimensions : list of Dimension
    held : dict
        Settings that are not searched.
    instrument : Instrument
    dose : float
        In e/Å².
    """

    dimensions: Sequence[Dimension]
    held: Mapping[str, float]
    instrument: Instrument
    dose: float

    def settings(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """Settings at places (points, dimensions), name to array."""
        out = {name: np.full(len(places), value) for name, value in self.held.items()}
        for i, d in enumerate(self.dimensions):
            out[d.name] = np.array([d.value(x) for x in places[:, i]])
        return out

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Whether each of the places is possible."""
        return self.instrument.possible(self.dose, self.settings(places))

    def candidates(self) -> np.ndarray:
        """Many places (points, dimensions), possible or not; the corners are the last."""
        places = _sequence(len(self.dimensions), _LAST_POWER - 2, 0)
        corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * len(self.dimensions)), -1)
        return np.vstack([places, corners.reshape(-1, len(self.dimensions))])

    def check(self) -> None:
        """Raise a DesignError that says why, if nothing is possible."""
        places = self.candidates()
        if self(places).any():
            return
        settings = self.settings(places[-512:])
        many = [{name: v[i] for name, v in settings.items()} for i in range(len(places[-512:]))]
        reasons = self.instrument.complaints(self.dose, many)
        step = settings["scan_step"].max()
        if "dose" in reasons and self.dose * step**2 < 1:  # whatever else there is
            largest = next(s for s in many if s["scan_step"] == step)
            reasons = {"dose": self.instrument.complaint(self.dose, largest)}
        raise DesignError(
            f"no experiment in the ranges is possible at {self.dose:g} e/Å²: "
            + "; or ".join(reasons.values())
            + "."
        )


def excluded(
    dimensions: Sequence[Dimension],
    held: Mapping[str, float],
    instrument: Instrument,
    dose: float,
) -> dict[str, float]:
    """What part of the ranges each limit makes impossible at a dose, if 1 % or more."""
    possible = Possible(dimensions, held, instrument, dose)
    places = _sequence(len(dimensions), _FIRST_POWER - 1, 0)
    settings = possible.settings(places)
    counts: Counter[str] = Counter()
    for i in np.flatnonzero(~possible(places)):
        counts.update(instrument.faults(dose, {name: v[i] for name, v in settings.items()}))
    parts = {kind: n / len(places) for kind, n in counts.most_common()}
    return {kind: part for kind, part in parts.items() if part >= 0.01}


class _OnlyPossible:
    """What keeps a sampler to possible points; goes before it in the order of inheritance."""

    def __init__(self, possible: Possible, **options: Any):
        super().__init__(possible.dimensions, **options)
        self.possible = possible
        self.start = [p for p in self.start if self._is_possible(p)]

    def _is_possible(self, point: Mapping[str, float]) -> bool:
        settings = {**self.possible.held, **point}
        return self.possible.instrument.complaint(self.possible.dose, settings) is None

    def _sobol(self, number: int) -> np.ndarray:
        """A possible place of a scrambled Sobol sequence; one again where few are possible."""
        for power in range(_FIRST_POWER, _LAST_POWER + 1):
            places = _sequence(len(self.dimensions), power, self.random_state)
            places = places[self.possible(places)]
            if len(places) > number:
                return places[number]
        # what `Possible.check` has found is there
        few = self.possible.candidates()
        places = np.vstack([places, few[self.possible(few)]])
        return places[number % len(places)]

    def _untried(self, tried, random) -> dict[str, Any]:
        return self._point(self._random_place(random))

    def _random_place(self, random: np.random.Generator) -> np.ndarray:
        for _ in range(2 ** (_LAST_POWER - _FIRST_POWER)):
            places = random.random((2**_FIRST_POWER, len(self.dimensions)))
            places = places[self.possible(places)]
            if len(places):
                return places[0]
        return self._sobol(0)


class PossibleRandom(_OnlyPossible, RandomSampler):
    """Random points that are possible."""

    def _propose(self, points, scores, waiting, tried, random):
        return self._point(self._random_place(random))


class PossibleSobol(_OnlyPossible, SobolSampler):
    """Points of a scrambled Sobol sequence that are possible."""


class PossibleOptimizer(_OnlyPossible, GaussianProcessOptimizer):
    """Bayesian optimisation among the possible points."""

    def _propose(self, points, scores, waiting, tried, random):
        point = super()._propose(points, scores, waiting, tried, random)
        return point if point is None or self._is_possible(point) else None

    def _believed(self, places: np.ndarray, number: int) -> np.ndarray:
        believed = super()._believed(places, number)
        return believed if self.possible(believed[None])[0] else places

    def _belief(self, places: np.ndarray) -> np.ndarray:
        return super()._belief(places) + np.where(self.possible(places), 0.0, _IMPOSSIBLE)


def _sequence(n_dimensions: int, power: int, seed: int) -> np.ndarray:
    return qmc.Sobol(n_dimensions, seed=np.random.default_rng(seed)).random_base2(power)


@dataclass(frozen=True)
class DesignStrategy:
    """Proposes trials for several doses, from the highest to the lowest; has no memory.

    A dose begins with the reference, if that lies in the ranges, and with the best settings of the
    doses before, in which the search then believes at first. At its end the best settings and
    the reference are repeated with noise that the search has not seen.

    Attributes
    ----------
    name : str
        One of `STRATEGIES`.
    dimensions : list of Dimension
    held : dict
        Settings that are not searched.
    instrument : Instrument
    doses : tuple of float
        In e/Å², highest first.
    full : Fidelity
    n_trials : int
        A dose, repeats included.
    n_repeats : int
        Of the best and of the reference.
    reference : dict or None
        All settings to compare with.
    random_state : int
    """

    name: str
    dimensions: Sequence[Dimension]
    held: Mapping[str, float]
    instrument: Instrument
    doses: Sequence[float]
    full: Fidelity
    n_trials: int
    n_repeats: int = 3
    reference: Mapping[str, float] | None = None
    random_state: int = 0
    # what was made of the trials at hand: it saves time and changes nothing
    _made: dict = field(default_factory=dict, repr=False, compare=False)

    def propose(self, done: Sequence[Trial], pending: Sequence[Trial]) -> Trial | None:
        """The next trial; None if there is none, or none before a pending one has ended."""
        for dose in self.doses:
            settings, purpose = self._next(dose, done, pending)
            if settings is not None:
                number = next_number(done, pending)
                settings = {"dose": dose, **{name: settings[name] for name in SETTINGS}}
                seed = int(np.random.SeedSequence([self.random_state, number]).generate_state(1)[0])
                return Trial(number, settings, self.full, purpose=purpose, seed=seed)
        return None

    def limits(self, trial: Trial, done: Sequence[Trial]) -> list[tuple[int, float]]:
        """None: trials run to their end."""
        return []

    def best(self, done: Sequence[Trial]) -> Trial | None:
        """The trial with the lowest objective at any dose."""
        good = [t for t in done if t.objective is not None]
        return min(good, key=lambda t: (t.objective, t.number), default=None)

    def optimum(self, done: Sequence[Trial]) -> None:
        """There are no trials about the best point."""
        return None

    @property
    def n_search(self) -> int:
        """Trials of the search at a dose."""
        return self.n_trials - self.n_repeats * (1 if self.reference is None else 2)

    def best_at(self, dose: float, done: Sequence[Trial]) -> Trial | None:
        """The trial of the search to believe in at a dose; None where none was complete.

        Of a Bayesian search the one for which the model of all trials expects the best score, which
        is less a matter of luck than the best score that was seen.
        """
        good = [t for t in searched(done, dose) if t.objective is not None]
        if not good:
            return None
        if self.name != "bayesian":
            return min(good, key=lambda t: (t.objective, t.number))
        key = "best", dose, tuple((t.number, t.objective) for t in good)
        if key not in self._made:
            self._made[key] = expected_best(self.dimensions, good)
        return good[self._made[key]]

    def repeats(self, settings: Mapping[str, float], dose: float, done) -> list[Trial]:
        """Repeats of some settings at a dose."""
        wanted = {"dose": dose, **{name: settings[name] for name in SETTINGS}}
        return [t for t in done if t.purpose == "repeat" and t.parameters == wanted]

    def missing(self, done: Sequence[Trial]) -> int:
        """How many trials are still to be done."""
        total = 0
        for dose in self.doses:
            left = max(0, self.n_search - len(searched(done, dose)))
            # while the search goes on, its best is not known
            best = None if left else self.best_at(dose, done)
            total += left + (self.n_repeats if left else 0)
            total += len(self._to_repeat(dose, best, done))
        return total

    def _to_repeat(self, dose, best, done) -> list[Mapping[str, float]]:
        """Settings of the repeats that a dose lacks."""
        wanted = [] if best is None else [best.parameters]
        wanted += [] if self.reference is None else [self.reference]
        n = self.n_repeats
        if len(wanted) == 2 and all(wanted[0][name] == wanted[1][name] for name in SETTINGS):
            wanted, n = wanted[:1], 2 * n
        return [s for s in wanted for _ in range(n - len(self.repeats(s, dose, done)))]

    def _next(self, dose, done, pending) -> tuple[Mapping[str, float] | None, str]:
        """Settings and purpose of a dose's next trial; None if it has all, or has to wait."""
        search = searched(done, dose)
        waiting = searched(pending, dose)
        if len(search) + len(waiting) < self.n_search:
            told = [(self._point(t), t.objective) for t in sorted(search, key=_number)]
            point = self._sampler(dose, done).ask(told, [self._point(t) for t in waiting])
            if point is not None:
                return {**self.held, **point}, "search"
        if waiting:
            return None, ""
        repeats = self._to_repeat(dose, self.best_at(dose, done), [*done, *pending])
        return (repeats[0], "repeat") if repeats else (None, "")

    def _point(self, trial: Trial) -> dict[str, float]:
        return {d.name: trial.parameters[d.name] for d in self.dimensions}

    def _sampler(self, dose: float, done: Sequence[Trial]):
        """Of a dose; with the best settings of the doses before as its first points."""
        before = [self.best_at(d, done) for d in self.doses[: list(self.doses).index(dose)]]
        known = [self._point(t) for t in reversed(before) if t is not None][:2]
        key = "sampler", dose, repr(known)
        if key not in self._made:
            self._made[key] = self._make_sampler(dose, known)
        return self._made[key]

    def _make_sampler(self, dose: float, known: list[dict[str, float]]):
        start = [] if self.reference is None or not self._in_ranges(self.reference) else [
            {d.name: float(self.reference[d.name]) for d in self.dimensions}
        ]  # fmt: skip
        options: dict[str, Any] = {"random_state": self.random_state + list(self.doses).index(dose)}
        dimensions = list(self.dimensions)
        if self.name == "bayesian":
            start += known
            n_initial = len(dimensions) + 4
            if known:
                dimensions = [_with_belief(d, known[0][d.name]) for d in dimensions]
                n_initial = len(dimensions) + len(start)
            options["n_initial"] = min(n_initial, max(1, self.n_search // 2))
        possible = Possible(dimensions, self.held, self.instrument, dose)
        kind = {"bayesian": PossibleOptimizer, "random": PossibleRandom, "sobol": PossibleSobol}
        return kind[self.name](possible, start=start, **options)

    def _in_ranges(self, settings: Mapping[str, float]) -> bool:
        """Whether the search could have proposed some settings."""
        inside = all(d.low <= settings[d.name] <= d.high for d in self.dimensions)
        return inside and all(settings[name] == value for name, value in self.held.items())


def searched(trials: Sequence[Trial], dose: float) -> list[Trial]:
    """Trials of the search at a dose, without repeats."""
    return [t for t in trials if t.purpose != "repeat" and t.parameters["dose"] == dose]


def _number(trial: Trial) -> int:
    return trial.number


def _with_belief(dimension: Dimension, value: float) -> Dimension:
    if dimension.prior is not None:
        return dimension
    width = _BELIEF * (dimension.high - dimension.low)
    return replace(dimension, prior=(value, width))
