"""Objectives that judge a fit by data it has not seen: counts, positions or detector pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.parts import scan_window
from hs_autoptycho.tuning.engines import Engine, Fit, NumbaEngine
from hs_autoptycho.tuning.gain import as_counts
from hs_autoptycho.tuning.scores import ScanParts, Score, metrics_of, status_of
from hs_autoptycho.tuning.trial import Fidelity

# Part of the counts that is fitted; the rest judges the fit.
FITTED = 0.9
# Part of the positions, or of the detector, that is held out.
HELD_OUT = 0.08
# Side in pixels of the blocks of the detector that are held out: larger than what a pixel's own
# charge or the window's finite width couple.
BLOCK_SIDE = 4
# Tiles of the scan along each axis, at most, of which the means are kept.
TILES = 8
# Positions by which the objective is estimated while a trial runs: at most so many, and no more
# than this part of all, so that it costs a hundredth of the trial. The noise floor is that of as
# many: it hardly depends on the position.
SAMPLE, SAMPLED_PART = 256, 1 / 8
# parts of the passes after which the objective is estimated; at the end it is known
CHECKPOINTS = (1 / 4, 1 / 2)


@dataclass(frozen=True)
class _Part:
    """What is fitted and judged on a part of the scan."""

    fitted: Experiment
    test: Experiment
    positions: np.ndarray | None  # that are fitted
    scored: np.ndarray
    sample: np.ndarray  # places in `scored`
    tiles: np.ndarray  # of each of `scored`


class HeldOut:
    """A fit to one part of the data, judged by another: what these objectives share.

    The score is the Poisson deviance a recorded detector pixel, a mean over positions. All trials
    have the same parts, and are judged by the same pixels whatever the parameters.

    Parameters
    ----------
    fitted, test
        Data for either.
    held
        Bool (positions,): positions that are not fitted, and alone judged. Default: all are both.
    counted
        Whether the data are independent counts, so that the noise floor is known.
    engine
        Default: this package's.

    Attributes
    ----------
    notes : list of str
        What was assumed of the data, a sentence each.
    """

    name = "held_out"
    splits = False

    def __init__(
        self,
        fitted: Experiment,
        test: Experiment,
        *,
        held: np.ndarray | None = None,
        counted: bool = True,
        engine: Engine | None = None,
    ):
        self.engine = NumbaEngine() if engine is None else engine
        self.notes: list[str] = []
        self._scan_shape = fitted.geometry.scan_shape
        self._held = np.ones(self._scan_shape, bool) if held is None else held
        self._all_fitted = held is None
        self._counted = counted
        self._facts: dict[str, float] = {}
        self._kept: tuple[int, ScanParts] | None = 0, ScanParts(fitted, test)
        # a pattern without any counts was not recorded
        self._recorded = (fitted.totals + test.totals > 0).reshape(self._scan_shape)

    def __call__(
        self,
        parameters: Mapping[str, Any],
        *,
        fidelity: Fidelity,
        random_state: int,
        limits: Sequence[tuple[int, float]] = (),
    ) -> Score:
        part = self._part(fidelity)
        watch = _Watch(part, limits, fidelity.n_iterations)
        start = time.perf_counter()
        fit = self.engine.fit(
            part.fitted,
            parameters,
            n_iterations=fidelity.n_iterations,
            random_state=random_state,
            positions=part.positions,
            reduction=fidelity.reduction,
            monitor=watch,
        )
        fitted = time.perf_counter()
        reconstruction = fit.reconstruction
        metrics = {**metrics_of(reconstruction), **self._facts}
        score = Score(math.inf, metrics, reconstruction, status_of(reconstruction))
        score.curve = watch.curve
        if watch.hopeless and score.status == "completed":
            score.status, score.value = "stopped", watch.curve[-1][1]
        elif score.status == "completed":
            self._judge(score, fit, part)
        metrics["seconds_fit"] = fitted - start - watch.seconds
        metrics["seconds_score"] = time.perf_counter() - fitted + watch.seconds
        return score

    def _judge(self, score: Score, fit: Fit, part: _Part) -> None:
        deviance = fit.deviance(part.test, part.scored)
        n, metrics = len(deviance), score.metrics
        score.value = metrics[self.name] = float(deviance.mean())
        metrics[f"{self.name}_standard_error"] = float(deviance.std(ddof=1) / math.sqrt(n))
        tiles = np.bincount(part.tiles, deviance) / np.bincount(part.tiles)
        score.blocks = [float(mean) for mean in tiles]
        passes, last = metrics["n_iterations"], float(deviance[part.sample].mean())
        score.curve = [point for point in score.curve if point[0] < passes] + [(passes, last)]
        if self._counted:
            expect = getattr(fit, "expected_deviance", None)
            expected = expect(part.test, part.scored[part.sample]) if expect else None
            if expected is not None:
                metrics["noise_floor"] = float(expected.mean())
                metrics["excess"] = score.value - metrics["noise_floor"]

    def _part(self, fidelity: Fidelity) -> _Part:
        window = scan_window(self._scan_shape, fidelity.part)
        held, recorded = self._held[window], self._recorded[window]
        scored = np.flatnonzero(held & recorded)
        count = min(SAMPLE, max(min(16, len(scored)), int(SAMPLED_PART * held.size)))
        return _Part(
            *self._split(fidelity.split).at(fidelity.part),
            positions=None if self._all_fitted else np.flatnonzero(~held),
            scored=scored,
            sample=_evenly(len(scored), count),
            tiles=np.unique(_tiles(held.shape)[scored], return_inverse=True)[1],
        )

    def _split(self, split: int) -> ScanParts:
        """What is fitted and what judges: of these data one split alone is made."""
        return self._kept[1]


class HeldOutCounts(HeldOut):
    """Poisson deviance of counts that the reconstruction has not seen.

    Each count is held out with a probability of 10 %, once for all trials. All positions stay, so
    overlap and position correction are untouched, and the score is taken on the detector's own
    pixels whatever the parameters. It does not fall with overfitting, as the training error does.

    Halves of the counts can judge each other instead (`Fidelity.split`). The reconstruction is
    poorer then, but by how much one set of parameters is better than another is known better. 1 and
    2 fit the one half and the other, 3 and 4 those of another pair. The last split is kept.

    Data that are no whole numbers are divided by their gain and rounded, if they show that they
    were counted: see :func:`.gain.as_counts`.

    Parameters
    ----------
    experiment
        With counts.
    random_state
        Seed of the split. Another one shows how far a score depends on it.
    engine
        Default: this package's.

    Raises
    ------
    ObjectiveError
        If the data are no counts, whatever the gain.
    """

    name = "held_out"
    splits = True

    def __init__(
        self, experiment: Experiment, *, random_state: int = 0, engine: Engine | None = None
    ):
        counted, gain = as_counts(experiment)
        counted, note = _without_saturated(counted)
        self._whole, self._random_state = counted, random_state
        super().__init__(*self._divided(0), engine=engine)
        self.notes += note
        if gain is not None:
            self._facts["gain"] = gain
            self.notes.append(
                f"The data are no whole numbers; a gain of {gain:.5g} a count was found, by which "
                "they were divided before they were rounded and split."
            )

    def __getstate__(self):
        """Counts in memory travel once, and are split where they arrive."""
        if self._whole.stored:
            return self.__dict__
        return {**self.__dict__, "_kept": None}

    def _split(self, split: int) -> ScanParts:
        kept = self._kept  # another thread may change it
        if kept is None or kept[0] != split:
            self._kept = None  # two would be too much for memory
            kept = self._kept = split, ScanParts(*self._divided(split))
        return kept[1]

    def _divided(self, split: int) -> tuple[Experiment, Experiment]:
        """What is fitted, and what judges; of two splits that follow each other, the other way."""
        if not split:
            return self._whole.split(FITTED, self._random_state)
        seed = np.random.SeedSequence([self._random_state, (split + 1) // 2])
        halves = self._whole.split(0.5, int(seed.generate_state(1)[0]))
        return halves if split % 2 else halves[::-1]


def _without_saturated(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """The experiment without pixels that are saturated anywhere, and a sentence if there are any.

    Of saturated counts a tenth cannot be split off.
    """
    if not math.isfinite(experiment.saturation):
        return experiment, []
    saturated = experiment.largest >= experiment.saturation
    note = f"{saturated.sum()} pixels of the detector that are saturated somewhere are not used."
    used = ~saturated if experiment.mask is None else experiment.mask & ~saturated
    return experiment.with_mask(used), [note]


class HeldOutPositions(HeldOut):
    """Poisson deviance of the patterns of 8 % of the positions, which are not fitted.

    It needs no counts, but takes overlap away and leaves few positions to judge by.

    Parameters
    ----------
    experiment
        All data.
    random_state
        Seed of the choice of positions.
    engine
        Default: this package's.
    """

    name = "held_out_positions"

    def __init__(
        self, experiment: Experiment, *, random_state: int = 0, engine: Engine | None = None
    ):
        shape = experiment.geometry.scan_shape
        # one of each stretch of the scan, so that every part of it has some
        n = math.prod(shape)
        edges = np.linspace(0, n, max(2, round(HELD_OUT * n)) + 1).astype(int)
        generator = np.random.default_rng(random_state)
        held = np.zeros(n, bool)
        held[generator.integers(edges[:-1], edges[1:])] = True
        super().__init__(
            experiment,
            experiment,
            held=held.reshape(shape),
            counted=experiment.counted,
            engine=engine,
        )


class HeldOutPixels(HeldOut):
    """Poisson deviance of blocks of detector pixels that are not fitted, 8 % of the detector.

    It needs no counts. The blocks are the same for all positions.

    Parameters
    ----------
    experiment
        All data.
    random_state
        Seed of the choice of blocks.
    engine
        Default: this package's.
    """

    name = "held_out_pixels"

    def __init__(
        self, experiment: Experiment, *, random_state: int = 0, engine: Engine | None = None
    ):
        used = experiment.mask
        shape = experiment.geometry.detector_shape
        used = np.ones(shape, bool) if used is None else used
        blocks = [-(-n // BLOCK_SIDE) for n in shape]
        # one of each few blocks that are neighbours, so that every ring of the detector has some
        every = round(1 / HELD_OUT)
        generator = np.random.default_rng(random_state)
        chosen = np.zeros(-(-math.prod(blocks) // every) * every, bool)
        first = np.arange(0, len(chosen), every)
        chosen[first + generator.integers(0, every, len(first))] = True
        chosen = chosen[: math.prod(blocks)].reshape(blocks)
        held = np.kron(chosen, np.ones((BLOCK_SIDE, BLOCK_SIDE), bool))[: shape[0], : shape[1]]
        super().__init__(
            experiment.with_mask(used & ~held),
            experiment.with_mask(used & held),
            counted=experiment.counted,
            engine=engine,
        )


class _Watch:
    """Estimates the objective while a trial runs, and stops it where it is hopeless."""

    def __init__(self, part: _Part, limits: Sequence[tuple[int, float]], n_iterations: int):
        self._part, self._positions = part, part.scored[part.sample]
        self._limits = dict(limits)
        due = {max(1, round(c * n_iterations)) for c in CHECKPOINTS} | set(self._limits)
        self._due = {iteration for iteration in due if iteration < n_iterations}
        self.curve: list[tuple[int, float]] = []
        self.hopeless = False
        self.seconds = 0.0

    def __call__(self, iteration: int, fit: Fit) -> bool:
        if iteration in self._due:
            start = time.perf_counter()
            value = float(fit.deviance(self._part.test, self._positions).mean())
            self.seconds += time.perf_counter() - start
            if math.isfinite(value):  # else it diverges
                self.curve.append((iteration, value))
                self.hopeless = value > self._limits.get(iteration, math.inf)
        return self.hopeless


def _evenly(n: int, count: int) -> np.ndarray:
    """At most `count` of n indices, spread evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))


def _tiles(scan_shape: tuple[int, int]) -> np.ndarray:
    """Which tile each position belongs to."""
    row, column = (np.arange(n) * min(n, TILES) // n for n in scan_shape)
    return (row[:, None] * (column[-1] + 1) + column).ravel()
