"""The response surface: what the trials of a dose say about all other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.surrogate import (
    Surrogate,
    encode,
    encode_places,
    kernel_parameters,
    quiet_and_repeatable,
)
from hs_autoptycho.tuning.trial import Trial

# With fewer trials nothing is said.
FEWEST_TRIALS = 4


def fit_surface(dimensions: Sequence[Dimension], trials: Sequence[Trial]) -> Surrogate | None:
    """A Gaussian process through the objectives of trials; None where they are too few."""
    good = [t for t in trials if t.objective is not None]
    if len(good) < FEWEST_TRIALS:
        return None
    places = encode(dimensions, [t.parameters for t in good])
    values = np.array([t.objective for t in good])
    with quiet_and_repeatable():
        return Surrogate(dimensions, places, values, kernel_parameters(places, values))


def expected_best(dimensions: Sequence[Dimension], trials: Sequence[Trial]) -> int:
    """Index of the trial of the lowest expected objective; all of them have one."""
    values = np.array([t.objective for t in trials])
    surface = fit_surface(dimensions, trials)
    if surface is not None:
        with quiet_and_repeatable():
            values = surface.predict_places(encode(dimensions, [t.parameters for t in trials]))[0]
    return int(np.argmin(values))


def predict(
    dimensions: Sequence[Dimension], trials: Sequence[Trial], settings: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Expected score and its standard deviation, without the noise of a single experiment.

    Parameters
    ----------
    dimensions
        The space.
    trials
        Of one dose.
    settings
        Name to array, all of one shape, within the ranges; one a dimension.

    Returns
    -------
    Two float64 arrays of that shape
        NaN where there are too few trials.
    """
    shape = np.shape(settings[dimensions[0].name])
    surface = fit_surface(dimensions, trials)
    if surface is None:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    columns = [
        np.array([d.place(d.nearest(v)) for v in np.ravel(settings[d.name])]) for d in dimensions
    ]
    with quiet_and_repeatable():
        mean, std = surface.predict_places(encode_places(dimensions, np.column_stack(columns)))
    return 1 - mean.reshape(shape), std.reshape(shape)
