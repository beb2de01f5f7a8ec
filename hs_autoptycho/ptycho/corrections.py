"""What is corrected while an object is reconstructed: positions, scan grid, defocus, slices.

Everything here follows from derivatives that the kernels take on the way
(:class:`~hs_autoptycho.ptycho.kernels.Gradients`): Re⟨χ, ∂ψ/∂p⟩ over the squared length of ∂ψ/∂p is
the change of a parameter p that explains χ best. The object adapts to a wrong parameter and hides
most of the misfit, more or less of it from case to case, so that such steps are far too short. They
are lengthened by a gain that grows as long as they keep their direction and shrinks when they turn
round: no step length has to be known. The scan's grid has a search of its own
(:mod:`.grid_search`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hs_autoptycho.ptycho import curvature, grid_search
from hs_autoptycho.ptycho.fft import spectrum_to_planes
from hs_autoptycho.ptycho.grid_search import Secants
from hs_autoptycho.ptycho.kernels import Gradients
from hs_autoptycho.ptycho.state import Batch, State

# Positions move by at most this many pixels at a time: the derivative holds for small shifts.
LARGEST_SHIFT = 0.5
FIRST_GAIN, LARGEST_GAIN = 2.0, 30.0
FIRST_COMMON_GAIN, LARGEST_COMMON_GAIN = 10.0, 3000.0
# Part of the way that the secant method foresees: the object goes on adapting after a step.
SECANT = 0.5

# The thickness is searched for with objects that start anew: so many passes each, of which the last
# ones are used, and so many objects at most. Steps are those of its logarithm; after one that is
# short enough the search is over.
THICKNESS_PASSES, THICKNESS_USED, THICKNESS_OBJECTS = 6, 3, 6
THICKNESS_FIRST, THICKNESS_LONGEST, THICKNESS_ENOUGH = 0.1, 0.2, 0.01
# By how much the defocus (Å) and the tilts (mrad) change at most in a pass.
LARGEST_STEPS = (50.0, 5.0, 5.0)


@dataclass
class GrowingSteps:
    """Newton steps of a few parameters, each with a gain of its own that adapts.

    Where a step of length p made the next Newton step shorter by d, the whole way to the end is
    p/d times as long: the secant method. From one step to the next a gain grows by half at most and
    falls to a half at most, so that neither the first passes nor noise lead it astray.

    Attributes
    ----------
    largest : float (parameters,)
        By how much each parameter changes at most.
    """

    largest: np.ndarray
    gains: np.ndarray = field(init=False)
    newton: np.ndarray = field(init=False)
    steps: np.ndarray = field(init=False)

    def __post_init__(self):
        self.gains = np.full(len(self.largest), FIRST_COMMON_GAIN)
        self.newton = np.zeros(len(self.largest))
        self.steps = np.zeros(len(self.largest))

    def __call__(self, newton: np.ndarray) -> np.ndarray:
        """The changes of the parameters; a parameter that is not corrected has 0."""
        moved = (self.steps != 0) & (newton != 0)
        shorter = (self.newton - newton) * np.sign(self.newton)
        endless = shorter <= 1e-3 * np.abs(self.newton)
        secant = SECANT * np.abs(self.steps) / np.where(endless, 1.0, shorter)
        secant = np.where(endless, np.inf, secant)
        limited = np.clip(secant, self.gains / 2, self.gains * 1.5)
        self.gains = np.clip(np.where(moved, limited, self.gains), 1.0, LARGEST_COMMON_GAIN)
        self.newton = newton
        self.steps = np.clip(self.gains * newton, -self.largest, self.largest)
        return self.steps


@dataclass(frozen=True)
class Starts:
    """After how many passes each correction begins; None for never."""

    positions: int | None = None
    grid: int | None = None
    defocus: int | None = None
    thickness: int | None = None
    tilt: int | None = None
    brightness: int | None = None

    def active(self, name: str, iteration: int) -> bool:
        """Whether a correction is on in a pass (from 1)."""
        start = getattr(self, name)
        return start is not None and iteration > start

    def ever(self, *names: str) -> bool:
        """Whether one of these corrections is on at all."""
        return any(getattr(self, name) is not None for name in names)


class Corrections:
    """Collects derivatives batch by batch and corrects positions and parameters.

    Parameters
    ----------
    state
        Is changed.
    starts
        What is corrected, and from when on.
    defocus_phase
        Phase of the probe's spectrum, (rows, columns) in the order of ``np.fft.fft2``, by Å of
        defocus.
    defocus
        Of the probe in Å; a distortion of the grid by a scale s is one of the defocus too.
    pixel_size
        Of the object, (rows, columns) in any unit: a rotation is one in the specimen.
    """

    def __init__(
        self,
        state: State,
        starts: Starts,
        *,
        defocus_phase: np.ndarray | None = None,
        defocus: float = 0.0,
        pixel_size: tuple[float, float] = (1.0, 1.0),
    ):
        self._state, self._starts = state, starts
        self._phase, self._defocus = defocus_phase, float(defocus)
        self._grid = state.positions - state.placement.origin  # as given, in pixels
        self._offsets = np.zeros_like(state.positions)
        self._matrix = np.eye(2)
        self._thickness = 1.0
        self._secants = Secants(first=THICKNESS_FIRST, longest=THICKNESS_LONGEST)
        self._thickness_found = False
        self._seen: list[float] = []
        self._grid_search = grid_search.GridSearch(pixel_size)
        self._passes = 0  # over the present object
        self._first_probe = state.probe
        self._gain = FIRST_GAIN
        self._last_shifts: np.ndarray | None = None
        self._steps = GrowingSteps(np.array(LARGEST_STEPS))

    @property
    def matrix(self) -> np.ndarray:
        """Distortion of the positions as they were given, (2, 2)."""
        return self._matrix.copy()

    def values(self) -> dict[str, float]:
        """The corrected parameters but the grid's."""
        out: dict[str, float] = {}
        if self._starts.ever("defocus", "grid") and self._phase is not None:
            out["defocus"] = self._defocus
        if self._starts.ever("thickness"):
            out["thickness_factor"] = self._thickness
        if self._starts.ever("tilt"):
            out["tilt_y"], out["tilt_x"] = self._state.propagation.tilt
        return out

    def begin_pass(self, iteration: int) -> None:
        """Prepare for what is corrected in a pass (from 1)."""
        state, active = self._state, self._starts.active
        self._on = {
            name: active(name, iteration)
            for name in ("positions", "grid", "defocus", "thickness", "tilt", "brightness")
        }
        if self._on["grid"] and not self._grid_search.finished:
            self._on.update(positions=False, thickness=False)  # first things first
        self._on["thickness"] &= not self._thickness_found
        if (self._on["positions"] or self._on["grid"]) and not state.own:
            state.move(state.positions)
        passing = self._on["thickness"] or self._on["tilt"]
        if passing != state.passing:
            state.passing = passing
            state.propagate(state.propagation)
        if state.own:
            self._inverse_curvature = np.linalg.inv(shift_curvature(state))
        self._shifts = np.zeros_like(state.positions)
        self._probe_gradient = np.zeros_like(state.spectra[: state.n_modes], dtype=np.float64)
        self._propagation = np.zeros(3)

    def collect(self, batch: Batch, gradients: Gradients) -> None:
        """Take a batch's derivatives; single positions and intensities change at once."""
        state = self._state
        if state.own:
            newton = 2 * np.pi * gradients.positions @ self._inverse_curvature
            self._shifts[batch.indices] = newton
            if self._on["positions"]:
                step = np.clip(self._gain * newton, -LARGEST_SHIFT, LARGEST_SHIFT)
                self._offsets[batch.indices] += step
                moved = state.positions.copy()
                moved[batch.indices] += step
                state.move(moved)
        if self._on["defocus"]:
            self._probe_gradient += gradients.probes[:, : state.n_modes].sum(0)
        if state.passing:
            self._propagation += gradients.propagation.sum(0)
        if self._on["brightness"]:
            cross, power = gradients.sums[:, 1], gradients.sums[:, 2]
            factor = np.where(power > 0, cross / np.maximum(power, 1e-30), 1) ** 2
            brightness = state.brightness[batch.indices] * np.clip(factor, 0.8, 1.25)
            state.brightness[batch.indices] = np.clip(brightness, 0.05, 20)

    def end_pass(self, *, probe_held: bool, remaining: int) -> bool:
        """Correct what all positions have in common.

        Parameters
        ----------
        probe_held
            A probe that is refined pixel by pixel takes care of its own defocus.
        remaining
            Passes that are still to come: a new object needs some.

        Returns
        -------
        Whether the object starts anew.
        """
        state = self._state
        self._passes += 1
        if self._on["brightness"]:
            state.brightness /= state.brightness.mean()
        newton = np.zeros(3)
        if self._on["defocus"] and self._phase is not None and probe_held:
            newton[0] = self._newton_defocus()
        if state.passing:
            terms = self._propagation / self._propagation_curvature()
            newton[1:] = terms[1:] * self._on["tilt"]
            self._seen.append(float(terms[0]))
        steps = self._steps(newton)
        if self._on["positions"]:
            self._adapt_gain()
            self._settle_positions()
        if steps[0]:
            state.probe = curvature.defocused(state.probe, self._phase, steps[0])
            self._first_probe = curvature.defocused(self._first_probe, self._phase, steps[0])
            self._defocus += steps[0]
        if np.any(steps[1:]):
            tilt = np.array(state.propagation.tilt) + steps[1:]
            state.propagate(state.propagation.tilted(tuple(tilt)))
        anew = False
        if self._on["grid"] and not self._grid_search.finished:
            if remaining < 2 * grid_search.PASSES:
                self._grid_search.finished = True
            elif self._passes >= grid_search.PASSES:
                anew = self._search_grid()
        elif self._on["thickness"] and remaining >= 2 * THICKNESS_PASSES:
            anew = self._search_thickness()
        if anew:
            state.object[:, 0], state.object[:, 1] = 1, 0
            self._passes = 0
        return anew

    def _search_grid(self) -> bool:
        """Look whether the grid is right, or else change it: whether it was changed."""
        state, along = self._state, None
        if self._phase is not None:
            # a scale takes the defocus with it: the probe is as much wider as the steps are longer
            refocus, defocus = curvature.defocus(self._phase), self._defocus

            def along(trial: State, amount: float) -> None:
                refocus(trial, amount * defocus)

        matrix, scale = self._grid_search(state, along)
        if np.array_equal(matrix, np.eye(2)):
            return False
        center = state.positions.mean(0)
        self._matrix = matrix @ self._matrix
        self._offsets = self._offsets @ matrix.T
        state.move(center + (state.positions - center) @ matrix.T)
        if self._phase is not None:
            self._first_probe = curvature.defocused(
                self._first_probe, self._phase, scale * self._defocus
            )
            self._defocus *= 1 + scale
        state.probe = self._first_probe
        return True

    def _search_thickness(self) -> bool:
        """Every few passes another thickness, and a new object: whether it is time for that.

        An object that is fitted with a wrong thickness keeps the memory of it for dozens of passes:
        after a step its misfit asks for the way back. A new object tells the direction and the
        length of the step after a few passes.
        """
        if len(self._seen) < THICKNESS_PASSES:
            return False
        value = float(np.mean(self._seen[-THICKNESS_USED:]))
        step = self._secants.step(np.log(self._thickness), value)
        factor = float(np.exp(step))
        objects = len(self._secants.places)
        near = objects > 1 and abs(step) < THICKNESS_ENOUGH
        self._thickness_found = near or objects >= THICKNESS_OBJECTS
        self._seen = []
        self._thickness *= factor
        self._state.propagate(self._state.propagation.scaled(factor))
        return True

    def _newton_defocus(self) -> float:
        """Å of defocus that the probe's gradient asks for."""
        state = self._state
        spectra = np.fft.fft2(state.probe)
        power = np.abs(spectra) ** 2
        phase = self._phase - (self._phase * power).sum() / power.sum()
        derivative = spectrum_to_planes(1j * phase * spectra, state.plan).astype(np.float64)
        length = len(state.positions) * np.vdot(derivative, derivative)
        return float(np.vdot(derivative, self._probe_gradient) / length)

    def _propagation_curvature(self) -> np.ndarray:
        """‖∂ψ/∂p‖² of thickness and tilts over all positions, as for an empty specimen."""
        state = self._state
        pixels = state.plan.rows * state.plan.columns
        power = (state.spectra[: state.n_modes].reshape(-1, 2, pixels) ** 2).sum((0, 1))
        factors = state.propagation_factors()
        factors = factors - (factors * power).sum(1, keepdims=True) / power.sum()
        return len(state.positions) * (factors**2 * power).sum(1) / pixels

    def _adapt_gain(self) -> None:
        """Lengthen the shifts of positions while those of two passes agree."""
        last, self._last_shifts = self._last_shifts, self._shifts
        if last is None:
            return
        lengths = np.sqrt((last**2).sum() * (self._shifts**2).sum())
        agreement = (last * self._shifts).sum() / lengths if lengths > 0 else 0.0
        self._gain = float(np.clip(self._gain * np.exp(0.7 * (agreement - 0.3)), 0.5, LARGEST_GAIN))

    def _settle_positions(self) -> None:
        """Take out a common shift, which no data tell; of a corrected grid, its distortion."""
        offsets = self._offsets - self._offsets.mean(0)
        if self._on["grid"]:
            centred = self._grid - self._grid.mean(0)
            linear = np.linalg.lstsq(centred, offsets, rcond=None)[0]
            offsets = offsets - centred @ linear
        self._offsets = offsets
        middle = self._grid.mean(0)
        grid = middle + (self._grid - middle) @ self._matrix.T
        self._state.move(self._state.placement.origin + grid + offsets)


def shift_curvature(state: State) -> np.ndarray:
    """‖∂ψ/∂r‖² for a shift r of the probe by pixels, (2, 2), where the object has modulus 1."""
    power = (np.abs(np.fft.fft2(state.probe)) ** 2).sum(0)
    power /= power.size
    frequencies = [np.fft.fftfreq(n) for n in state.shape]
    k = np.stack(np.meshgrid(*frequencies, indexing="ij")).reshape(2, -1)
    weight = power.ravel() / power.sum()
    # from the beam's own direction, round the edge of the spectrum: a constant phase has no effect
    centre = np.angle((weight * np.exp(2j * np.pi * k)).sum(1)) / (2 * np.pi)
    k = (k - centre[:, None] + 0.5) % 1 - 0.5
    return 4 * np.pi**2 * (k * power.ravel()) @ k.T
