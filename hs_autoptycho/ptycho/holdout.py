"""Counts that are held out while a reconstruction runs, to stop it before it fits the noise."""

from __future__ import annotations

import numpy as np

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.patterns import Patterns, split_counts
from hs_autoptycho.ptycho.state import State
from hs_autoptycho.ptycho.stored_patterns import StoredPatterns

# Part of the counts that is held out, of at most so many positions: few enough to cost nothing.
HELD_OUT = 0.1
POSITIONS = 256


class HeldOut:
    """A tenth of the counts of some positions, hidden from the fit and then predicted.

    While it is hidden, the fit of these positions has two small faults: their background is that of
    whole counts, and a saturated pixel, thinned, passes for a measured one.

    Parameters
    ----------
    patterns
        Whole counts; those of some positions are thinned while the fit runs (:meth:`hide`) and
        put back afterwards (:meth:`restore`).
    used
        Indices of the positions that are fitted.
    patience
        Passes without progress.
    random_state
        Seed of the split.
    """

    def __init__(
        self,
        patterns: Patterns | StoredPatterns,
        used: np.ndarray,
        patience: int,
        random_state: int,
    ):
        self._stored = isinstance(patterns, StoredPatterns)
        dtype = patterns.dtype if self._stored else patterns.counts.dtype
        if dtype.kind not in "ui":
            raise TypeError(
                f"Counts are held out by splitting them, but the data are {dtype} "
                "and not whole numbers."
            )
        self._patterns, self._patience = patterns, patience
        generator = np.random.default_rng(random_state)
        count = min(POSITIONS, len(used))
        self._indices = np.sort(generator.choice(used, count, replace=False))
        if self._stored:
            self._original = patterns.rows(self._indices)
        else:
            self._original = patterns.counts[self._indices].copy()
        _, self._hidden = split_counts(self._original, 1 - HELD_OUT, random_state)
        self._best, self._since = np.inf, 0

    def hide(self, state: State) -> None:
        """Take the held-out counts away from the patterns."""
        if self._stored:
            self._patterns.replace(self._indices, self._original - self._hidden)
        else:
            self._patterns.counts[self._indices] = self._original - self._hidden
        state.brightness[self._indices] *= 1 - HELD_OUT

    def restore(self, state: State) -> None:
        """Give them back."""
        if self._stored:
            self._patterns.replace(self._indices, None)
        else:
            self._patterns.counts[self._indices] = self._original
        state.brightness[self._indices] /= 1 - HELD_OUT

    def score(self, state: State) -> float:
        """Poisson deviance a pixel of the hidden counts."""
        batch = state.batch(self._indices)
        model = state.model_intensities(batch)
        pixels = model.shape[1]
        place = np.searchsorted(self._indices, batch.indices)
        # the model is that of what is fitted, the brightness of these positions included, but with
        # the background of whole counts
        model = model - np.float32(HELD_OUT) * state.detector.background
        mean = self._patterns.mean_total / pixels * HELD_OUT / (1 - HELD_OUT)
        out = np.empty(len(place))
        kernels.poisson_deviance(
            model, self._hidden, place, np.float32(mean), np.float32(1e-2 * mean),
            state.detector.mask, out,
        )  # fmt: skip
        self._last = float(out.mean() / pixels)
        return self._last

    def should_stop(self, state: State) -> bool:
        """Whether the last scores were no better than the best one."""
        if self._last < self._best * (1 - 1e-4):
            self._best, self._since = self._last, 0
        else:
            self._since += 1
        return self._since >= self._patience
