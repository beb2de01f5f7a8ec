"""A Gaussian process of the scores as they are, to which what is unknown is bad."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from hs_autoptycho.tuning.posterior import Coordinates

# Beliefs on the logarithms of amplitude squared, length scales (in ranges; they grow with the
# square root of the number of columns, as distances do) and noise squared: mean, deviation.
_AMPLITUDE, _LENGTH, _NOISE = (0.0, 2.0), (math.log(0.4), 0.8), (math.log(1e-3), 2.0)
_STEPS = 60  # of the search for them


class CautiousSurrogate:
    """A model of the objective for what is said about it afterwards.

    The model that proposes trials warps the scores, which shows the way to a valley from far away
    but gives its bottom the noise of the plateau around; and it hopes for the best where no trial
    has been, which in ten dimensions is nearly everywhere. This one is a Matérn 5/2 process of the
    scores as they are, which returns to the worst one away from the trials.

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

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning (2006).
    """

    def __init__(self, coordinates: Coordinates, told: Sequence[tuple[Mapping[str, Any], float]]):
        self._coordinates = coordinates
        scores = np.array([score for _, score in told], dtype=float)
        self._scale = float(scores.std()) or 1.0
        self._level = float(scores.max())
        self._x = self._columns([point for point, _ in told])
        y = (scores - self._level) / self._scale
        # the process' parameters are those of scores about their mean, as the beliefs are
        n = self._x.shape[1]
        centers = np.r_[_AMPLITUDE[0], [_LENGTH[0] + math.log(max(n, 1)) / 2] * n, _NOISE[0]]
        spreads = np.r_[_AMPLITUDE[1], [_LENGTH[1]] * n, _NOISE[1]]
        with threadpool_limits(1, user_api="blas"):
            found = minimize(
                self._loss,
                centers,
                args=(y - y.mean(), centers, spreads),
                jac=True,
                method="L-BFGS-B",
                bounds=list(zip(centers - 4 * spreads, centers + 4 * spreads, strict=True)),
                options={"maxiter": _STEPS},
            )
            self._amplitude, self._lengths = math.exp(found.x[0]), np.exp(found.x[1:-1])
            noise = math.exp(found.x[-1])
            kernel = self._kernel(self._x, self._x) + noise * np.eye(len(y))
            self._root = np.linalg.cholesky(kernel)
            self._weights = cho_solve((self._root, True), y)
        self.noise = self._scale * math.sqrt(noise)

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

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        r = math.sqrt(5) * _distance(a / self._lengths, b / self._lengths)
        return self._amplitude * (1 + r + r**2 / 3) * np.exp(-r)

    def _loss(self, theta, y, centers, spreads) -> tuple[float, np.ndarray]:
        """Negative logarithm of the likelihood and the beliefs, and its slope."""
        amplitude, lengths, noise = math.exp(theta[0]), np.exp(theta[1:-1]), math.exp(theta[-1])
        x = self._x / lengths
        r = math.sqrt(5) * _distance(x, x)
        decay = amplitude * np.exp(-r)
        signal = decay * (1 + r + r**2 / 3)
        root = np.linalg.cholesky(signal + (noise + 1e-10) * np.eye(len(y)))
        inverse = cho_solve((root, True), np.eye(len(y)))
        weights = inverse @ y
        outer = inverse - np.outer(weights, weights)
        bend = outer * decay * (5 / 3) * (1 + r)
        by_length = [(bend * (x[:, [j]] - x[:, j]) ** 2).sum() / 2 for j in range(x.shape[1])]
        slope = np.r_[(outer * signal).sum() / 2, by_length, noise * np.trace(outer) / 2]
        away = (theta - centers) / spreads
        value = y @ weights / 2 + np.log(np.diag(root)).sum() + away @ away / 2
        return float(value), slope + away / spreads

    def predict(self, points: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at points, without the noise, in the objective's unit."""
        with threadpool_limits(1, user_api="blas"):
            across = self._kernel(self._columns(points), self._x)
            whitened = solve_triangular(self._root, across.T, lower=True)
            variance = self._amplitude - (whitened**2).sum(axis=0)
            mean = across @ self._weights
        return self._level + self._scale * mean, self._scale * np.sqrt(np.maximum(variance, 0))

    def draw(
        self, points: Sequence[Mapping[str, Any]], n_draws: int, random_state: int = 0
    ) -> np.ndarray:
        """(n_draws, points): functions that the scores allow, in the objective's unit."""
        x = self._columns(points)
        normal = np.random.default_rng(random_state).standard_normal((n_draws, len(x)))
        with threadpool_limits(1, user_api="blas"):
            across = self._kernel(x, self._x)
            whitened = solve_triangular(self._root, across.T, lower=True)
            covariance = self._kernel(x, x) - whitened.T @ whitened
            # neighbouring points are nearly the same, and a Cholesky factor may not exist
            values, vectors = np.linalg.eigh(covariance)
            root = vectors * np.sqrt(np.maximum(values, 0))
            draws = across @ self._weights + normal @ root.T
        return self._level + self._scale * draws


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = (a**2).sum(axis=1)[:, np.newaxis] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))
