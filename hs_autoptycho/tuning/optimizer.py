"""Proposing the next trial: an ask/tell interface, and scikit-optimize behind it."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from hs_autoptycho.tuning.space import Dimension, size


class Optimizer(Protocol):
    """What proposes parameters and learns from their scores (lower is better)."""

    def ask(self) -> dict[str, Any] | None:
        """The next point, in plain Python types; None if every point has been tried."""

    def tell(self, point: Mapping[str, Any], score: float | None) -> None:
        """The score of a point; None if the trial failed."""


class GaussianProcessOptimizer:
    """Bayesian optimisation with a Gaussian process.

    A quasi-random start is followed by points of the greatest expected improvement. Failed trials
    are told as being as bad as the worst that succeeded. A point that was tried already is replaced
    by a random one.

    Parameters
    ----------
    dimensions
        The space.
    n_initial
        Number of quasi-random points before the model is used.
    random_state
        Seed.

    References
    ----------
    J. Snoek, H. Larochelle, R. P. Adams, Advances in Neural Information Processing Systems 25
    (2012); implementation: scikit-optimize.
    """

    def __init__(self, dimensions: Sequence[Dimension], *, n_initial: int, random_state: int = 0):
        from skopt import Optimizer as SkoptOptimizer
        from skopt import Space

        self.dimensions = list(dimensions)
        self._space = Space([_skopt_dimension(d) for d in self.dimensions])
        self._optimizer = SkoptOptimizer(
            self._space,
            base_estimator=_gaussian_process(self._space.transformed_n_dims, random_state),
            n_initial_points=n_initial,
            initial_point_generator="lhs",
            acq_func="EI",
            # skopt's own ξ of 0.01 is in units of the score, whose whole range can be less
            acq_func_kwargs={"xi": 0.0},
            random_state=random_state,
        )
        self._random = np.random.RandomState(random_state)
        self._tried: set[tuple] = set()
        self._told: list[tuple[list, float | None]] = []

    def ask(self) -> dict[str, Any] | None:
        if len(self._tried) >= size(self.dimensions):
            return None
        with _quiet_and_repeatable():
            point = self._optimizer.ask()
        while self._plain(point) in self._tried:
            point = self._space.rvs(random_state=self._random)[0]
        return dict(zip((d.name for d in self.dimensions), self._plain(point), strict=True))

    def tell(self, point: Mapping[str, Any], score: float | None) -> None:
        self._tried.add(tuple(point[d.name] for d in self.dimensions))
        values = [_place(d, point[d.name]) for d in self.dimensions]
        if score is not None and not math.isfinite(score):
            score = None
        self._told.append((values, score))
        finite = [s for _, s in self._told if s is not None]
        if not finite:  # nothing to compare with yet: failures are told with the first success
            return
        worst = max(finite)
        if len(finite) == 1 and score is not None:
            news = self._told
        else:
            news = self._told[-1:]
        with _quiet_and_repeatable():
            self._optimizer.tell([v for v, _ in news], [worst if s is None else s for _, s in news])

    def _plain(self, place: Sequence[Any]) -> tuple:
        """scikit-optimize's numbers as values of the parameters, in plain Python types."""
        return tuple(_value(d, x) for d, x in zip(self.dimensions, place, strict=True))


@contextlib.contextmanager
def _quiet_and_repeatable():
    """One BLAS thread: with more, sums round differently and another point can be proposed.

    The matrices are small, so that it is faster, too. Warnings of the kernel's fit and of points
    seen before are left out; both are dealt with here.
    """
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _gaussian_process(n_dimensions: int, random_state: int):
    """A Matérn 5/2 process with noise, whose features are neither pixels nor the whole range.

    With free length scales, few points of a narrow valley on a slope look like noise on the slope.
    """
    from skopt.learning.gaussian_process import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern

    kernel = ConstantKernel(1.0, (0.01, 1000.0)) * Matern(
        length_scale=[0.2] * n_dimensions, length_scale_bounds=[(0.03, 1.0)] * n_dimensions, nu=2.5
    )
    return GaussianProcessRegressor(
        kernel=kernel,
        normalize_y=True,
        noise="gaussian",
        n_restarts_optimizer=2,
        random_state=random_state,
    )


def _skopt_dimension(dimension: Dimension):
    from skopt.space import Categorical, Integer, Real

    if _ordered(dimension):
        return Integer(0, len(dimension.choices) - 1, transform="normalize", name=dimension.name)
    if dimension.choices:
        return Categorical(dimension.choices, transform="onehot", name=dimension.name)
    kind = Integer if dimension.integer else Real
    prior = "log-uniform" if dimension.log else "uniform"
    return kind(
        dimension.low, dimension.high, prior=prior, transform="normalize", name=dimension.name
    )


def _ordered(dimension: Dimension) -> bool:
    """Whether the choices are numbers: neighbours are alike, so they are searched by their rank."""
    return bool(dimension.choices) and not isinstance(dimension.choices[0], str)


def _value(dimension: Dimension, place: Any) -> Any:
    if _ordered(dimension):
        return dimension.choices[int(place)]
    if dimension.choices:
        return str(place)
    return int(place) if dimension.integer else float(place)


def _place(dimension: Dimension, value: Any) -> Any:
    return dimension.choices.index(value) if _ordered(dimension) else value
