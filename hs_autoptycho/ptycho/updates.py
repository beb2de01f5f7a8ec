"""How one batch of positions changes object and probe: a class for each algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.settings import Settings
from hs_autoptycho.ptycho.state import Batch, State

# The line search makes each batch fit best by itself, noise included: the steps shrink, so that the
# noise of the batches averages out. After this many updates of an object pixel they are half as
# long.
SETTLING_UPDATES = 60
# While the probe is held, and other things are found, they become no shorter than after so many:
# the object has to follow what changes.
SETTLING_WHILE_HELD = 180

# A weak mode grows by a part of itself in each update: steps that become shorter before it has its
# share would stop it on the way. Those of several modes begin to shrink after so many updates.
SETTLING_MODES = 720

# A variable mode that no position has yet must not take a step without a limit.
VARIABLE_DAMPING = 0.05

# Where less than this part of the largest illumination falls the object's steps are shortened.
DAMPING = 0.1

# rPIE's α: between ePIE's constant (1) and division by the illumination itself (0).
RPIE_ALPHA = 0.1


@dataclass
class Downhill:
    """Gradients of a batch, its groups added up.

    Attributes
    ----------
    object : float32 (slices, 2, Y, X)
        Σ conj(incoming wave) χ.
    probe : float32 (modes, 2 * pixels)
        Spectrum of Σ conj(O) χ.
    """

    object: np.ndarray
    probe: np.ndarray

    @classmethod
    def of(cls, state: State, batch: Batch, gradients: kernels.Gradients) -> Downhill:
        object_ = state.array("gradient", state.object.shape)
        kernels.add_groups(gradients.object, batch.visit.bands, object_)
        return cls(object_, gradients.probes[:, : state.n_modes].sum(0))


def _window_sums(state: State, corners: np.ndarray, probe, direction) -> np.ndarray:
    """Σ|P|², Re and Im of Σ conj(P) ΔP, Σ|ΔP|² of all modes at all positions of a batch."""
    pixels = state.plan.rows * state.plan.columns
    p, d = (a[:, :pixels] + 1j * a[:, pixels:] for a in (probe, direction))
    cross = (p.conj() * d).sum(0)
    planes = [(np.abs(p) ** 2).sum(0), cross.real, cross.imag, (np.abs(d) ** 2).sum(0)]
    windows = np.stack(planes).astype(np.float32).reshape(4, *state.shape)
    out = state.array("windows", (4, *state.object.shape[2:]))
    kernels.add_windows(windows, corners, out)
    return out


def _illumination(state: State, batch: Batch, compact: bool) -> np.ndarray:
    """Σ|P|² of a batch: of these very positions, or as it is on average."""
    if compact:
        power = (np.abs(state.probe) ** 2).sum(0).astype(np.float32)[None]
        out = state.array("illumination", (1, *state.object.shape[2:]))
        kernels.add_windows(power, batch.visit.corners, out)
        return out[0]
    return state.illumination * np.float32(len(batch.indices) / len(state.placement.corners))


def _line_search(
    state: State, corners, direction, probe_direction, object_product, probe_product
) -> tuple[float, float]:
    """Lengths a and b of the steps along both directions, by least squares.

    They minimise Σ ‖χ − a·ΔO·P − b·ΔP·O‖² over the positions. The sums are taken on the object's
    grid, where Σ⟨ΔO P, χ⟩ is ⟨ΔO, Σ conj(P) χ⟩ (`object_product`): no χ need be kept.
    """
    windows = _window_sums(
        state, corners, state.probe_planes(state.spectra[: state.n_modes]),
        state.probe_planes(probe_direction),
    )  # fmt: skip
    terms = np.empty((state.object.shape[2], 3))
    kernels.line_search_terms(state.object, direction, windows, terms)
    oo, op, pp = terms.sum(0)
    o, p = object_product, probe_product
    if not np.isfinite([oo, op, pp, o, p]).all():
        return np.nan, np.nan  # diverged, which the error of the next batch tells
    alone = o / oo if oo > 0 else 0.0
    if pp <= 0:
        return alone, 0.0
    # a little damping: where the two directions do the same the problem is singular
    matrix = np.array([[oo * 1.001, op], [op, pp * 1.001]])
    joint = np.linalg.lstsq(matrix, np.array([o, p]), rcond=None)[0]
    if np.all(joint > 0):
        return float(joint[0]), float(joint[1])
    # the directions fight each other: take the better one alone
    return (0.0, p / pp) if o * alone < p * p / pp else (alone, 0.0)


@dataclass
class LeastSquares:
    """Least-squares maximum likelihood in batches, the step lengths from a joint line search.

    The directions are the preconditioned gradients of the batch,

        ΔO = Σ conj(P) χ / (w + 0.1 max w),   ΔP ∝ Σ conj(O) χ,

    with w the illumination that a batch of this size has on average (compact batches: their own);
    no step size is asked for.

    References
    ----------
    M. Odstrčil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26, 3108 (2018).
    """

    settings: Settings
    updates: float = 0.0
    velocity: list[np.ndarray] = field(default_factory=list)

    def __call__(self, state: State, batch: Batch, gradients, *, probe_held: bool) -> None:
        """One step."""
        unsettled = SETTLING_MODES if state.n_modes > 1 else 0
        settled = 1 / (1 + max(0.0, self.updates - unsettled) / SETTLING_UPDATES)
        settings = self.settings
        self.updates += min(1.0, state.overlap(len(batch.indices)))
        if probe_held and settings.step_probe > 0:
            self.updates = min(self.updates, SETTLING_WHILE_HELD)
        downhill = Downhill.of(state, batch, gradients)
        pixels = state.plan.rows * state.plan.columns
        weight = _illumination(state, batch, settings.batch_selection == "compact")
        products = np.empty((len(state.object), state.object.shape[2]))
        direction = downhill.object
        kernels.object_direction(direction, weight, np.float32(DAMPING * weight.max()), products)
        probe_direction = downhill.probe / np.float32(len(batch.indices))
        if probe_held:
            probe_direction = np.zeros_like(probe_direction)
        p = float(np.vdot(probe_direction, downhill.probe)) / pixels
        a, b = _line_search(
            state, batch.visit.corners, direction, probe_direction, products.sum(), p
        )
        a *= settled * settings.step_object
        b *= settled * settings.step_probe
        if settings.momentum > 0:
            self._with_momentum(state, a, direction, b, probe_direction)
            return
        kernels.add_scaled(state.object, direction, np.float32(a))
        state.spectra[: state.n_modes] += np.float32(b) * probe_direction

    def _with_momentum(self, state: State, a, direction, b, probe_direction) -> None:
        if not self.velocity or self.velocity[0].shape != state.object.shape:
            self.velocity = [np.zeros_like(state.object), np.zeros_like(probe_direction)]
        momentum = np.float32(self.settings.momentum)
        new = np.float32((1 - momentum) * a), np.float32((1 - momentum) * b)
        for velocity, step, change in zip(
            self.velocity, new, (direction, probe_direction), strict=True
        ):
            velocity *= momentum
            velocity += step * change
        kernels.add_scaled(state.object, self.velocity[0], np.float32(1))
        state.spectra[: state.n_modes] += self.velocity[1]


@dataclass
class ConjugateGradients:
    """The full gradient of all positions, accelerated: one step a pass.

    Preconditioned conjugate gradients (Polak and Ribière), which restart where they would go
    uphill; the step from the line search of :class:`LeastSquares`. A pass makes less progress than
    in batches, but what it ends in does not depend on their order.

    References
    ----------
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), chapter 5.
    """

    settings: Settings
    _sum: list[np.ndarray] = field(default_factory=list)
    _last: list[np.ndarray] = field(default_factory=list)
    _corners: list[np.ndarray] = field(default_factory=list)

    def __call__(self, state: State, batch: Batch, gradients, *, probe_held: bool) -> None:
        """Add a batch's gradient."""
        downhill = Downhill.of(state, batch, gradients)
        if not self._sum or self._sum[0].shape != state.object.shape:
            self._sum = [np.zeros_like(state.object), np.zeros_like(downhill.probe)]
            self._last, self._corners = [], []
        kernels.add_scaled(self._sum[0], downhill.object, np.float32(1))
        self._sum[1] += downhill.probe
        self._corners.append(batch.visit.corners)

    def end_pass(self, state: State, *, probe_held: bool) -> None:
        """The step."""
        pixels = state.plan.rows * state.plan.columns
        corners = np.concatenate(self._corners)
        weight = state.illumination * np.float32(len(corners) / len(state.placement.corners))
        gradient = self._sum
        direction = gradient[0].copy()
        products = np.empty((len(direction), direction.shape[2]))
        kernels.object_direction(direction, weight, np.float32(DAMPING * weight.max()), products)
        probe_direction = gradient[1] / np.float32(len(corners))
        if probe_held:
            probe_direction[:] = 0
        norm = products.sum() + float(np.vdot(probe_direction, gradient[1])) / pixels
        if self._last:
            old_gradient, old_norm, old = self._last[:2], self._last[2], self._last[3:]
            change = np.vdot(direction, old_gradient[0]) + (
                np.vdot(probe_direction, old_gradient[1]) / pixels
            )
            # Polak and Ribière's, at most Fletcher and Reeves', and nothing that lets it only grow
            beta = (norm - float(change)) / max(old_norm, 1e-30)
            beta = np.float32(np.clip(beta, 0.0, min(1.0, norm / max(old_norm, 1e-30))))
            ahead = [d + beta * o for d, o in zip((direction, probe_direction), old, strict=True)]
            slopes = [float(np.vdot(a, g)) for a, g in zip(ahead, gradient, strict=True)]
            if slopes[0] > 0 and slopes[1] >= 0:
                direction, probe_direction = ahead
        slopes = [float(np.vdot(direction, gradient[0])),
                  float(np.vdot(probe_direction, gradient[1])) / pixels]  # fmt: skip
        a, b = _line_search(state, corners, direction, probe_direction, *slopes)
        a, b = np.float32(a * self.settings.step_object), np.float32(b * self.settings.step_probe)
        kernels.add_scaled(state.object, direction, a)
        state.spectra[: state.n_modes] += b * probe_direction
        # where one of both stood still its direction would only grow: they begin anew
        moved = a > 0 and (b > 0 or probe_held)
        self._last = [*gradient, norm, direction, probe_direction] if moved else []
        self._sum, self._corners = [np.zeros_like(g) for g in gradient], []


@dataclass
class Epie:
    """The extended ptychographical iterative engine, or its regularised variant.

    ePIE: ``O += β conj(P) χ / max |P|²`` and ``P += β conj(O) χ / max |O|²``. rPIE divides the
    object's by ``(1 − α)|P|² + α max |P|²`` instead, with α = 0.1. In a batch of more than one
    position (the original has one) the mean over overlapping positions.

    References
    ----------
    A. M. Maiden, J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009); A. Maiden, D. Johnson, P. Li,
    Optica 4, 736 (2017).
    """

    settings: Settings

    def __call__(self, state: State, batch: Batch, gradients, *, probe_held: bool) -> None:
        """One step."""
        downhill = Downhill.of(state, batch, gradients)
        if not probe_held:
            corners = batch.visit.corners
            (top, left), (bottom, right) = corners.min(0), corners.max(0) + state.shape
            strongest = (state.object[:, :, top:bottom, left:right] ** 2).sum(1).prod(0).max()
            step = self.settings.step_probe / (strongest * len(batch.indices))
            state.spectra[: state.n_modes] += np.float32(step) * downhill.probe
        if self.settings.algorithm == "rpie":
            weight = _illumination(state, batch, compact=True) * np.float32(1 - RPIE_ALPHA)
            largest = np.float32(RPIE_ALPHA / (1 - RPIE_ALPHA) * weight.max())
            products = np.empty((len(state.object), state.object.shape[2]))
            kernels.object_direction(downhill.object, weight, largest, products)
            step = self.settings.step_object
        else:
            overlap = max(1, state.overlap(len(batch.indices)))
            step = self.settings.step_object * state.coverage
            step /= state.illumination.max() * overlap
        kernels.add_scaled(state.object, downhill.object, np.float32(step / len(state.object)))


UPDATES = {"lsq-ml": LeastSquares, "gradient": ConjugateGradients, "epie": Epie, "rpie": Epie}


def update_variable_modes(state: State, batch: Batch, gradients) -> None:
    """Let the probe's variable modes and each position's share of them follow the gradient.

    The first mode at position j is P + Σ c_jv V_v with real c. Both steps are the least-squares
    ones for an object of modulus 1: Δc = Re⟨V O, χ⟩/‖V‖² and ΔV = Σ c_j conj(O) χ_j / Σ c_j².

    References
    ----------
    M. Odstrčil et al., Opt. Express 24, 8360 (2016).
    """
    modes = state.spectra[state.n_modes :]
    pixels = state.plan.rows * state.plan.columns
    powers = (modes**2).sum(1, dtype=float) / pixels
    coefficients = state.coefficients[batch.indices]
    squares = (coefficients.astype(float) ** 2).sum(0)
    gradient = gradients.probes[:, state.n_modes :].sum(0)
    limit = squares + VARIABLE_DAMPING * len(batch.indices)
    modes += gradient / limit[:, None].astype(np.float32)
    state.coefficients[batch.indices] += gradients.coefficients / np.maximum(powers, 1e-30)
