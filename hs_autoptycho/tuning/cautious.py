"""A Gaussian process of the scores as they are, to which what is unknown is bad."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.tuning.surrogate import Surrogate, kernel_parameters, quiet_and_repeatable

if TYPE_CHECKING:
    from hs_autoptycho.tuning.posterior import Coordinates


class CautiousSurrogate:
    """A model of the objective for what is said about it afterwards.

    The model that proposes trials warps the scores, which shows the way to a valley from far away
    but gives its bottom the noise of the plateau around; and it hopes for the best where no trial
    has been, which in ten dimensions is nearly everywhere. This one is a process of the scores as
    they are, which returns to the worst one away from the trials.

    Parameters
    ----------
    coordinates
        Of the search.
    told
        Points and scores, two at least.

    Attributes
    ----------
    noise : float
        Scatter of the trials about the model, in the objective's unit.
    """

    def __init__(self, coordinates: Coordinates, told: Sequence[tuple[Mapping[str, Any], float]]):
        self._coordinates = coordinates
        scores = np.array([score for _, score in told], dtype=float)
        places = self._columns([point for point, _ in told])
        theta = kernel_parameters(places, scores)
        self._model = Surrogate(
            coordinates.dimensions, places, scores, theta, level=float(scores.max())
        )
        self.noise = self._model.noise

    def _columns(self, points: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(points, columns): numbers between 0 and 1, and a column a name, 1 apart."""
        u, k = self._coordinates.split(points)
        columns = [u]
        for i, values in enumerate(self._coordinates.choices.values()):
            if isinstance(values[0], str):
                columns.append(math.sqrt(0.5) * (k[:, [i]] == np.arange(len(values))))
            else:
                columns.append((k[:, [i]] + 0.5) / len(values))
        return np.column_stack(columns)

    def predict(self, points: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at points, without the noise, in the objective's unit."""
        with quiet_and_repeatable():
            return self._model.predict_places(self._columns(points))

    def draw(
        self, points: Sequence[Mapping[str, Any]], n_draws: int, random_state: int = 0
    ) -> np.ndarray:
        """(n_draws, points): functions that the scores allow, in the objective's unit."""
        return self._model.draw_places(self._columns(points), n_draws, random_state)
