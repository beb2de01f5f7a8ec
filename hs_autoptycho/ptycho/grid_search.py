"""The scan's grid from the patterns: rotation, scale, aspect and shear, by their gradient.

An object that is fitted to a wrong grid hides nearly all of the misfit, and moved positions find an
object that wants them back. The gradient is therefore taken with the object distorted together with
the grid, so that every patch stays where its position goes: what is left is the patch's own
rotation or stretch, which no object can make good. It is compared with its own standard error
over the positions, and a parameter moves only when it has to; how far, secants tell. Then a new
object and the initial probe begin on the new grid: adapted ones would remember the old one for
dozens of passes.

Pixels count by how well they are known (:func:`trust`). An object that is fitted to noise scatters
some of it to dark pixels, and more of it nearer to the beam's disk when the object is stretched:
the misfit there asks for another scale, whether the noise is that of the counts compared or not, so
that counts kept from the fit give no better answer. At 1e5 electrons/Å² such pixels, with less
than one count, made the scale 0.2 to 0.3 % too small; without them it has no bias but that of an
object that is not fitted to the end, which is of the other sign, and shrinks with the passes.
Rotation, shear and aspect leave the power at each distance from the beam as it is, on average, and
never had such a bias.

Single positions that are off are noise of another kind, which is not allowed for: where they are by
0.18 Å, a fifth of a step, the scale comes out 0.5 to 0.7 % too small.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import expm
from scipy.stats import poisson

from hs_autoptycho.ptycho import curvature
from hs_autoptycho.ptycho.curvature import amplitudes, derivative
from hs_autoptycho.ptycho.state import State

# Generators of the linear distortions of the scan grid: rotation, scale, aspect, shear.
DISTORTIONS = np.array(
    [[[0, -1], [1, 0]], [[1, 0], [0, 1]], [[1, 0], [0, -1]], [[0, 1], [1, 0]]], float
)
# A gradient of so many standard errors is a reason to move, at first and after the first step.
SIGNIFICANT, WORTHWHILE = 5.0, 1.0
# Passes over a new object before the gradient is taken, and objects at most.
PASSES, OBJECTS = 6, 8
# The object hides the misfit more or less; the first step assumes so many times what is seen.
HIDDEN = 100.0
# Longest first step of a parameter, longest of all, and one that is not worth while.
FIRST_STEP, LONGEST_STEP, SHORTEST_STEP = 0.02, 0.06, 3e-4
# By how many pixels at its rim the grid is distorted for a numerical derivative.
TRIAL = 0.7
# Positions whose patterns are predicted; more would not tell much more.
SAMPLE = 2048


@dataclass
class Secants:
    """The zero of a falling function of one variable, from one measured value after the other.

    Attributes
    ----------
    first, longest : float
        Length of the first step, and of the longest.
    shortest : float
        A shorter step is not believed: a new search begins here. By default every step is.
    hidden : float
        The first step is at most so many times the value.
    """

    first: float
    longest: float
    shortest: float = 0.0
    hidden: float = np.inf
    places: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def step(self, place: float, value: float) -> float:
        """How far to go from a place with this value."""
        self.places.append(place)
        self.values.append(value)
        above = [(x, v) for x, v in zip(self.places, self.values, strict=True) if v > 0]
        below = [(x, v) for x, v in zip(self.places, self.values, strict=True) if v <= 0]
        step = np.copysign(min(self.first, self.hidden * abs(value)), value)
        if above and below:  # the last one on either side
            (x, v), (y, w) = above[-1], below[-1]
        elif len(self.places) > 1:
            (x, v), (y, w) = zip(self.places[-2:], self.values[-2:], strict=True)
        else:
            return float(step)
        if (v - w) * (y - x) > 0:
            step = x + v * (y - x) / (v - w) - place
        elif not (above and below):
            step = 2 * step
        step = float(np.clip(step, -self.longest, self.longest))
        if abs(step) < self.shortest:
            # the value says that this is not the zero: those that were measured while the object
            # still remembered another place mislead, and a new search begins with a shorter step
            self.first = max(self.first / 6, self.shortest)
            self.places, self.values = self.places[-1:], self.values[-1:]
            step = float(np.copysign(self.first, value))
        return step


class GridSearch:
    """Measures how the grid has to be distorted.

    Parameters
    ----------
    pixel_size
        Of the object, (rows, columns) in any unit: a rotation is one in the specimen.
    random_state
        Seed of the sample of positions.
    """

    def __init__(self, pixel_size: tuple[float, float] = (1.0, 1.0), random_state: int = 0):
        size = np.array(pixel_size, float)
        self._generator = np.random.default_rng(random_state)
        self._generators = DISTORTIONS * size / size[:, None]
        self._places = np.zeros(len(DISTORTIONS))
        self._secants = [
            Secants(FIRST_STEP, LONGEST_STEP, SHORTEST_STEP, HIDDEN) for _ in DISTORTIONS
        ]
        self.objects = 0
        self.finished = False

    def measure(self, state: State, along_scale=None) -> tuple[np.ndarray, np.ndarray]:
        """Gradient by each of `DISTORTIONS` over the curvature, and its standard error.

        Parameters
        ----------
        state
            Is left alone.
        along_scale
            Change of a state that goes with a scale: of the defocus.
        """
        count = len(state.positions)
        indices = np.arange(count)
        if count > SAMPLE:
            indices = np.sort(self._generator.choice(indices, SAMPLE, replace=False))
        expected = amplitudes(state, indices)
        weights = trust(state, expected)
        residual = weights * misfit(state, indices, expected)
        trial = TRIAL / np.abs(state.positions - state.positions.mean(0)).max()
        steps, errors = [], []
        for i, generator in enumerate(self._generators):
            change = curvature.distortion(generator)
            if i == 1 and along_scale is not None:
                change = _both(change, along_scale)
            slope = derivative(state, indices, change, trial)
            parts = (residual * slope).sum(1)
            square = (weights * slope**2).sum()
            steps.append(parts.sum() / square)
            errors.append(parts.std() * np.sqrt(len(parts)) / square)
        return np.array(steps), np.array(errors)

    def __call__(self, state: State, along_scale=None) -> tuple[np.ndarray, float]:
        """The distortion (2, 2) that the positions need, and its part that is a scale.

        When none is needed any more the search is `finished`.
        """
        newton, errors = self.measure(state, along_scale)
        moved = np.array([len(secants.places) > 0 for secants in self._secants])
        wanted = np.abs(newton) > np.where(moved, WORTHWHILE, SIGNIFICANT) * errors
        steps = np.zeros(len(DISTORTIONS))
        for i in np.flatnonzero(wanted):
            steps[i] = self._secants[i].step(self._places[i], newton[i])
        self._places += steps
        self.objects += 1
        self.finished = self.objects >= OBJECTS or not steps.any()
        # the exponential: 1 + a rotation's generator would be a scale too, of half its square
        matrix = expm(np.tensordot(steps, self._generators, 1))
        return matrix, float(np.expm1(steps[1]))


def trust(state: State, expected: np.ndarray) -> np.ndarray:
    """Weight of pixels with `expected` amplitudes, of the same shape: μ/(μ + 1) for μ counts.

    Data that are not counted have the weight 1.
    """
    if not state.detector.poisson:
        return np.ones_like(expected)
    return expected**2 / (expected**2 + state.detector.scale)


def misfit(state: State, indices: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """√I_measured less the mean that `expected` amplitudes lead to: (indices, pixels).

    Unused pixels have 0.

    Of counts the mean of √n is less than √μ where they are few. Without regard to that, a model
    that scatters less to dark pixels would seem the better one: the scale would be wrong.
    """
    detector = state.detector
    counts = state.measured(indices)
    if detector.poisson:
        expected = mean_root(expected**2 / detector.scale) * np.sqrt(detector.scale)
    return (np.sqrt(counts * detector.scale) - expected) * detector.mask


def mean_root(mean: np.ndarray) -> np.ndarray:
    """Mean of √n for Poisson numbers n of given means."""
    few = np.interp(mean, _MEANS, _MEAN_ROOTS)
    many = np.maximum(mean, 1.0)
    series = np.sqrt(many) * (1 - 1 / (8 * many) - 7 / (128 * many**2))
    return np.where(mean < _MEANS[-1], few, series)


# exact values to interpolate between, up to where the series in 1/mean is good to 1e-5
_MEANS = np.concatenate([np.linspace(0, 2, 401), np.linspace(2, 30, 561)[1:]])
_MEAN_ROOTS = (poisson.pmf(np.arange(100), _MEANS[:, None]) * np.sqrt(np.arange(100))).sum(1)


def _both(first, second):
    def change(state: State, amount: float) -> None:
        first(state, amount)
        second(state, amount)

    return change
