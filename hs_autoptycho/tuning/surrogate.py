"""A Gaussian process through the scores of a search."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from hs_autoptycho.tuning.space import Dimension

# Beliefs on the kernel's parameters, as normal distributions of their logarithms (mean, standard
# deviation), for scores of standard deviation 1. With few trials in many dimensions the likelihood
# alone takes what varies for noise, or noise for what varies. Length scales are in units of the
# ranges and grow with the square root of the number of columns, as distances do.
_LENGTH_BELIEF = (math.log(0.3), 0.8)
_AMPLITUDE_BELIEF = (0.0, 1.5)
_NOISE_BELIEF = (math.log(1e-3), 2.0)
_AMPLITUDE_BOUNDS = (1e-3, 1e3)
_LENGTH_BOUNDS = (0.02, 20.0)
_NOISE_BOUNDS = (1e-6, 1.0)
_MOST_STEPS = 40  # of the search for the kernel's parameters


@contextlib.contextmanager
def quiet_and_repeatable():
    """One BLAS thread: with more, sums round differently and another point can be proposed.

    The matrices are small, so that it is faster, too. Warnings of the kernel's fit are left out.
    """
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def encode(dimensions: Sequence[Dimension], points: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Points as rows of numbers between 0 and 1.

    Returns
    -------
    float64 array (points, columns)
        One column a dimension, and one a choice where these are names, whose distance is 1. A
        parameter that is not in a point is at 0.5.
    """
    columns = []
    for d in dimensions:
        if d.choices and not d.ordered:
            for choice in d.choices:
                columns.append(
                    [math.sqrt(0.5) * (p[d.name] == choice) if d.name in p else 0.5 for p in points]
                )
        else:
            columns.append([d.place(p[d.name]) if d.name in p else 0.5 for p in points])
    return np.array(columns, float).T


def active_at(dimensions: Sequence[Dimension], places: np.ndarray, i: int) -> np.ndarray:
    """Whether dimension `i` matters at places of the unit cube (points, dimensions)."""
    condition = dimensions[i].condition
    for j, other in enumerate(dimensions):
        if condition is not None and other.name == condition.name:
            return np.array([condition.holds(other.value(x)) for x in places[:, j]], bool)
    return np.ones(len(places), bool)


def encode_places(dimensions: Sequence[Dimension], places: np.ndarray) -> np.ndarray:
    """:func:`encode` of the points at places of the unit cube, without making the points.

    Parameters
    ----------
    dimensions
        The space.
    places
        (points, dimensions), as for :meth:`Dimension.value`.
    """
    count = np.array([d.count for d in dimensions])
    discrete = np.isfinite(count)
    share = np.where(discrete, count, 1)
    # log ranges of integers are few: their exact rounding is that of `Dimension.value`
    rank = np.minimum((places * share).astype(int), share.astype(int) - 1)
    columns = []
    for i, d in enumerate(dimensions):
        column = places[:, i]
        if d.integer and not d.choices:
            column = np.array([d.place(d.value(x)) for x in column])
        elif d.ordered:
            column = (rank[:, i] + 0.5) / count[i]
        active = active_at(dimensions, places, i)
        if d.choices and not d.ordered:
            for j in range(len(d.choices)):
                columns.append(np.where(active, math.sqrt(0.5) * (rank[:, i] == j), 0.5))
        else:
            columns.append(np.where(active, column, 0.5))
    return np.column_stack(columns)


@dataclass(frozen=True)
class Warp:
    """A monotone function that makes a parabola of a valley in a plateau.

    Scores whose excess e over the best saturates as q / (1 + q), with a quadratic form q of the
    parameters, become 1 / (gap − e / reach), which for a gap of 1 is linear in q where the reach is
    the depth of the valley. What the plateau hides of the way to the valley is seen again, and a
    stationary process fits both. The noise on the plateau grows with it, the more the smaller the
    gap.

    Attributes
    ----------
    best : float
        Lowest score.
    reach : float
        Excess of the plateau; 0 leaves scores as they are.
    gap : float
        Above 1.
    """

    best: float = 0.0
    reach: float = 0.0
    gap: float = 1.15

    @classmethod
    def of(cls, scores: np.ndarray, plateau: float = 0.9, gap: float = 1.15) -> Warp:
        """For some scores, of which the part beyond the quantile `plateau` is on the plateau."""
        best = float(np.min(scores))
        return cls(best, float(np.quantile(scores, plateau)) - best, gap)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Warped scores; those beyond the plateau as if they were on it."""
        if self.reach <= 0:
            return np.array(scores, float)
        return 1 / (self.gap - np.minimum((scores - self.best) / self.reach, 1))


class Surrogate:
    """What the scores of a search say about all other points.

    A Matérn 5/2 process of warped scores with a length scale for each column and noise.

    Parameters
    ----------
    dimensions
        The space.
    places
        Rows of :func:`encode`.
    warped
        As many scores, as :class:`Warp` gives them.
    theta
        What :func:`kernel_parameters` finds.
    level
        The score far from all trials. Default: their mean.

    Attributes
    ----------
    dimensions : list of Dimension
    lengths : float64 array
        Length scales of the columns.
    noise : float
        Scatter of the scores about the model.

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning (2006); warped
    scores: E. Snelson et al., Advances in Neural Information Processing Systems 16 (2003);
    implementation: scikit-optimize.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        places: np.ndarray,
        warped: np.ndarray,
        theta: np.ndarray,
        *,
        level: float | None = None,
    ):
        self.dimensions = list(dimensions)
        self.lengths = np.exp(theta[1:-1])
        self._places = places
        self._mean, self._scale = _level(warped)
        if level is not None:
            self._mean = level
        self.noise = self._scale * math.sqrt(np.exp(theta[-1]))
        self._amplitude = float(np.exp(theta[0]))
        self._process = _process(theta)
        with quiet_and_repeatable():
            self._process.fit(places, (warped - self._mean) / self._scale)

    def predict_places(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, without the noise, of the warped score at rows of `encode`.

        For callers that are :func:`quiet_and_repeatable`.
        """
        across = self._covariance(places, self._places)
        mean = across @ self._process.alpha_
        whitened = solve_triangular(self._process.L_, across.T, lower=True, check_finite=False)
        variance = self._amplitude - np.einsum("ij,ij->j", whitened, whitened)
        std = np.sqrt(np.maximum(variance, 1e-12))  # rounding
        return self._mean + self._scale * mean, self._scale * std

    def draw_places(self, places: np.ndarray, n_draws: int, random_state: int = 0) -> np.ndarray:
        """(n_draws, points): functions that the scores allow, at rows of `encode`."""
        normal = np.random.default_rng(random_state).standard_normal((n_draws, len(places)))
        with quiet_and_repeatable():
            across = self._covariance(places, self._places)
            whitened = solve_triangular(self._process.L_, across.T, lower=True, check_finite=False)
            covariance = self._covariance(places, places) - whitened.T @ whitened
            # neighbouring points are nearly the same, and a Cholesky factor may not exist
            values, vectors = np.linalg.eigh(covariance)
            root = vectors * np.sqrt(np.maximum(values, 0))
            draws = across @ self._process.alpha_ + normal @ root.T
        return self._mean + self._scale * draws

    def _covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Matérn 5/2 between two sets of places; scikit-learn's own takes longer."""
        r = cdist(a / self.lengths, b / self.lengths) * math.sqrt(5)
        return self._amplitude * (1 + r + r**2 / 3) * np.exp(-r)


def kernel_parameters(
    places: np.ndarray, scores: np.ndarray, *, random_state: int = 0
) -> np.ndarray:
    """The most likely parameters of the kernel, as logarithms.

    Parameters
    ----------
    places
        Rows of :func:`encode`.
    scores
        As many numbers.
    random_state
        Seed of the second start.

    Returns
    -------
    float64 array
        Logarithms of the amplitude squared, the length scales, and the noise squared, of scores of
        standard deviation 1.
    """
    mean, scale = _level(scores)
    columns = places.shape[1]
    growth = 0.5 * math.log(max(columns, 1))
    centers = np.array(
        [2 * _AMPLITUDE_BELIEF[0], *[_LENGTH_BELIEF[0] + growth] * columns, _NOISE_BELIEF[0]]
    )
    spreads = np.array([2 * _AMPLITUDE_BELIEF[1], *[_LENGTH_BELIEF[1]] * columns, _NOISE_BELIEF[1]])
    other = centers + spreads * np.random.default_rng(random_state).normal(size=len(centers)) / 2
    limits = [_AMPLITUDE_BOUNDS, *[_LENGTH_BOUNDS] * columns, _NOISE_BOUNDS]
    bounds = np.log(limits)
    likelihood = _likelihood(places, (scores - mean) / scale)

    def loss(theta):
        value, slope = likelihood(theta)
        away = (theta - centers) / spreads
        return value + away @ away / 2, slope + away / spreads

    best = None
    with quiet_and_repeatable():
        for start in (centers, other):
            found = minimize(
                loss, np.clip(start, *bounds.T), jac=True, bounds=bounds, method="L-BFGS-B",
                options={"maxiter": _MOST_STEPS},
            )  # fmt: skip
            if best is None or found.fun < best.fun - 1e-6:
                best = found
    return best.x


def _likelihood(places: np.ndarray, scores: np.ndarray):
    """Negative logarithm of the scores' likelihood, and its gradient, by the kernel's parameters.

    scikit-learn's own takes several times as long.
    """
    n, columns = places.shape
    squares = ((places[:, None] - places) ** 2).reshape(n * n, columns).T.copy()

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        amplitude, weights, noise = np.exp(theta[0]), np.exp(-2 * theta[1:-1]), np.exp(theta[-1])
        r = np.sqrt(5 * (weights @ squares)).reshape(n, n)
        decay = amplitude * np.exp(-r)
        smooth = (1 + r + r**2 / 3) * decay
        factor = cholesky(smooth + noise * np.eye(n), lower=True, check_finite=False)
        alpha = cho_solve((factor, True), scores, check_finite=False)
        value = scores @ alpha / 2 + np.log(np.diag(factor)).sum() + n / 2 * math.log(2 * math.pi)
        inverse = cho_solve((factor, True), np.eye(n), check_finite=False)
        rest = inverse - np.outer(alpha, alpha)
        lengths = weights * (squares @ (rest * (1 + r) * decay).ravel()) * (5 / 3)
        slope = [np.sum(rest * smooth), *lengths, noise * np.trace(rest)]
        return float(value), np.array(slope) / 2

    return function


def _level(scores: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, 1 where all are the same."""
    scale = float(np.std(scores))
    return float(np.mean(scores)), scale if scale > 1e-12 * np.abs(scores).max() else 1.0


def _process(theta: np.ndarray):
    """scikit-optimize's process with these parameters of the kernel."""
    from skopt.learning.gaussian_process import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern

    amplitude, noise = np.exp(theta[[0, -1]])
    kernel = ConstantKernel(amplitude) * Matern(np.exp(theta[1:-1]), nu=2.5)
    return GaussianProcessRegressor(
        kernel=kernel, alpha=1e-10, noise=float(noise), optimizer=None, normalize_y=False
    )
