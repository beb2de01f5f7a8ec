"""Iterative ptychography: arrays in, arrays out.

The measured and modelled intensities are scaled so that a pattern has the mean 1 a pixel, and the
object starts as vacuum. Every pass goes once over all positions in batches of random order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numba
import numpy as np
import scipy.fft

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.fft import (
    Plan,
    from_planes,
    planes_to_spectrum,
    scratch_size,
    spectrum_to_planes,
)
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import Placement
from hs_autoptycho.ptycho.probe import orthogonalize

_logger = logging.getLogger(__name__)

ALGORITHMS = ("lsq-ml", "epie")
NOISE_MODELS = ("amplitude", "poisson")

# The line search makes each batch fit best by itself, noise included: the steps shrink, so that the
# noise of the batches averages out. After this many updates of an object pixel they are half as
# long.
SETTLING_UPDATES = 60

# A run whose error rises to this multiple of the first pass's has diverged.
DIVERGED = 2.0


@dataclass
class Reconstruction:
    """What :func:`reconstruct` returns.

    Attributes
    ----------
    object : complex64 (1, Y, X)
    probe : complex64 (modes, rows, columns)
        Orthogonal, strongest first; Σ|P|² is the mean number of counts a pattern where the object
        is vacuum.
    placement : Placement
        Where the positions are on the object.
    errors : float64 (passes,)
        Σ(√I_measured − √I)² / Σ I_measured over each pass, as seen when each batch was visited.
    status : str
        ``"completed"``, ``"diverged"`` or ``"interrupted"``.
    """

    object: np.ndarray
    probe: np.ndarray
    placement: Placement
    errors: np.ndarray
    status: str


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, that start on a cache line: vector loads then never straddle two."""
    size = int(np.prod(shape))
    buffer = np.zeros(size + 16, np.float32)
    offset = (-buffer.ctypes.data) % 64 // 4
    return buffer[offset : offset + size].reshape(shape)


@dataclass
class Space:
    """Working memory of the kernels."""

    waves: np.ndarray
    spectra: np.ndarray
    intensities: np.ndarray
    scratch: np.ndarray

    @classmethod
    def allocate(cls, plan: Plan, n_modes: int) -> Space:
        threads = numba.get_num_threads()
        pixels = plan.rows * plan.columns
        return cls(
            aligned((threads, 2 * pixels)),
            aligned((threads, n_modes, 2 * pixels)),
            aligned((threads, pixels)),
            aligned((threads, scratch_size(plan))),
        )


@dataclass
class Batch:
    """Some positions, sorted by their fraction of a pixel."""

    indices: np.ndarray
    corners: np.ndarray
    classes: np.ndarray
    starts: np.ndarray
    ramps_rows: np.ndarray
    ramps_columns: np.ndarray


@dataclass
class State:
    """Everything that a solver changes, and what it needs to do so."""

    plan: Plan
    placement: Placement
    object: np.ndarray
    spectra: np.ndarray
    space: Space
    ramps: tuple[np.ndarray, np.ndarray]
    visits: np.ndarray
    illumination: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    coverage: float = 1.0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def start(cls, plan: Plan, placement: Placement, probe: np.ndarray) -> State:
        pixels = plan.rows * plan.columns
        probe = probe * np.sqrt(pixels / (np.abs(probe) ** 2).sum())
        object_ = aligned((2, *placement.object_shape))
        object_[0] = 1
        ramps = []
        for axis, (size, order) in enumerate(
            [(plan.rows, plan.row_order), (plan.columns, plan.column_order)]
        ):
            frequency = np.fft.fftfreq(size)[order]
            angle = -2 * np.pi * placement.fractions[:, axis, None] * frequency
            ramps.append(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32))
        visits = np.zeros(placement.object_shape, np.float32)
        np.add.at(visits, tuple(placement.corners.T), 1)
        state = cls(
            plan, placement, object_, np.empty(0), Space.allocate(plan, len(probe)), tuple(ramps),
            scipy.fft.rfft2(visits),
        )  # fmt: skip
        state.probe = probe
        return state

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the window."""
        return self.plan.rows, self.plan.columns

    @property
    def probe(self) -> np.ndarray:
        """Complex modes, centred in the window."""
        return scipy.fft.ifft2(planes_to_spectrum(self.spectra, self.plan))

    @probe.setter
    def probe(self, probe: np.ndarray):
        self.spectra = spectrum_to_planes(scipy.fft.fft2(probe), self.plan)

    def measure_illumination(self) -> None:
        """Set `illumination`, Σ|P|² of all positions on the object's grid."""
        power = np.zeros(self.placement.object_shape, np.float32)
        power[: self.plan.rows, : self.plan.columns] = (np.abs(self.probe) ** 2).sum(0)
        # windows never cross the object's edge, so that a periodic convolution is exact
        total = scipy.fft.irfft2(scipy.fft.rfft2(power) * self.visits, s=power.shape)
        self.illumination = np.maximum(total, 0)
        self.coverage = self.illumination.max() / power.max()

    def settle_probe(self) -> None:
        """Make the modes orthogonal, and give the probe the power of the mean pattern.

        Object and probe could exchange a factor without end; only their product is measured.
        """
        modes = orthogonalize(self.probe)
        power = np.sum(np.abs(modes) ** 2) / (self.plan.rows * self.plan.columns)
        if np.isfinite(power) and not 0.5 < power < 2:
            modes /= np.sqrt(power)
            self.object *= np.float32(np.sqrt(power))
        self.probe = modes

    def overlap(self, batch_size: int) -> float:
        """How many positions of a batch see the best seen object pixel, on average."""
        return float(self.coverage * batch_size / len(self.placement.corners))

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Working memory under a name, kept from batch to batch; its content is undefined."""
        size = int(np.prod(shape))
        if name not in self.arrays or self.arrays[name].size < size:
            self.arrays[name] = aligned((size,))
        return self.arrays[name][:size].reshape(shape)

    def batch(self, indices: np.ndarray) -> Batch:
        classes = self.placement.classes[indices]
        order = np.argsort(classes, kind="stable")
        indices = indices[order]
        used, starts, local = np.unique(classes[order], return_index=True, return_inverse=True)
        return Batch(
            indices,
            self.placement.corners[indices],
            local.ravel().astype(np.int64),
            np.append(starts, len(indices)).astype(np.int64),
            self.ramps[0][used],
            self.ramps[1][used],
        )

    def shifted(self, spectra: np.ndarray, batch: Batch, name: str) -> np.ndarray:
        """Probes (or probe directions) moved to each class of the batch."""
        out = self.array(name, (len(batch.ramps_rows), *spectra.shape))
        kernels.shift_probes(
            spectra, batch.ramps_rows, batch.ramps_columns, self.plan, self.space.waves,
            self.space.scratch, out,
        )  # fmt: skip
        return out

    def changes(self, batch: Batch, patterns: Patterns, poisson: bool):
        """Shifted probes, χ of every position, and the sum of the squared amplitude errors."""
        pixels = self.plan.rows * self.plan.columns
        probes = self.shifted(self.spectra, batch, "probes")
        amplitudes = self.array("amplitudes", (len(batch.indices), pixels))
        scale = np.float32(pixels / patterns.mean_total)
        kernels.batch_amplitudes(patterns.counts, batch.indices, scale, amplitudes)
        changes = self.array("changes", (len(batch.indices), *self.spectra.shape))
        errors = self.array("errors", (len(batch.indices),))
        space = self.space
        kernels.exit_wave_changes(
            self.object, probes, batch.classes, batch.corners, amplitudes, poisson, self.plan,
            space.waves, space.spectra, space.intensities, space.scratch, changes, errors,
        )  # fmt: skip
        return probes, changes, float(errors.sum(dtype=np.float64))

    def object_gradient(self, batch: Batch, probes: np.ndarray, changes: np.ndarray):
        """Σ conj(P) χ on the object's grid."""
        gradient = self.array("gradient", self.object.shape)
        kernels.object_gradient(changes, probes, batch.classes, batch.corners, self.plan, gradient)
        return gradient

    def probe_gradient(self, batch: Batch, changes: np.ndarray) -> np.ndarray:
        """Spectrum of Σ conj(O) χ."""
        out = self.array("probe gradient", self.spectra.shape)
        by_class = self.array("by class", (len(batch.ramps_rows), *self.spectra.shape))
        space = self.space
        kernels.probe_gradient(
            changes, self.object, batch.starts, batch.corners, batch.ramps_rows,
            batch.ramps_columns, self.plan, space.waves, space.spectra, space.scratch, by_class,
            out,
        )  # fmt: skip
        return out

    def model_intensities(self, batch: Batch) -> np.ndarray:
        """What the model predicts for a batch, mean 1 a pixel, in the spectrum's order."""
        probes = self.shifted(self.spectra, batch, "probes")
        out = self.array("model", (len(batch.indices), self.plan.rows * self.plan.columns))
        space = self.space
        kernels.model_intensities(
            self.object, probes, batch.classes, batch.corners, self.plan, space.waves,
            space.spectra, space.scratch, out,
        )  # fmt: skip
        return out


def least_squares_update(
    state: State, batch: Batch, probes, changes, step_object: float, step_probe: float
) -> None:
    """One step of least-squares maximum likelihood, its length from a joint line search.

    The directions are the preconditioned gradients of the batch,

        ΔO = Σ conj(P) χ / (w + 0.1 max w),   ΔP ∝ Σ conj(O) χ,

    with w the illumination that a batch of this size has on average, and the step along both solves
    min Σ ‖χ − a·ΔO·P − b·ΔP·O‖² exactly: no step size is asked for.

    References
    ----------
    M. Odstrčil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26, 3108 (2018).
    """
    direction = state.object_gradient(batch, probes, changes)
    expected = state.illumination * np.float32(len(batch.indices) / len(state.placement.corners))
    kernels.divide_by_illumination(direction, expected, np.float32(0.1 * expected.max()))
    probe_direction, probe_directions = None, np.empty((0, 1, 1), np.float32)
    if step_probe > 0:
        probe_direction = state.probe_gradient(batch, changes)
        probe_direction /= np.float32(len(batch.indices))
        probe_directions = state.shifted(probe_direction, batch, "probe directions")
    terms = np.empty((len(batch.indices), 5))
    kernels.line_search_terms(
        changes, state.object, direction, probes, probe_directions, batch.classes, batch.corners,
        state.plan, state.space.waves, terms,
    )  # fmt: skip
    oo, pp, op, o, p = terms.sum(0)
    a, b = (o / oo if oo > 0 else 0.0), 0.0
    if step_probe > 0 and pp > 0:
        # a little damping: where the two directions do the same the problem is singular
        matrix = np.array([[oo * 1.001, op], [op, pp * 1.001]])
        joint = np.linalg.lstsq(matrix, np.array([o, p]), rcond=None)[0]
        if np.all(joint > 0):
            a, b = joint
        elif o * a < p * p / pp:  # the directions fight each other: take the better one alone
            a, b = 0.0, p / pp
        state.spectra += np.float32(step_probe * b) * probe_direction
    kernels.add_scaled(state.object, direction, np.float32(step_object * a))


def epie_update(
    state: State, batch: Batch, probes, changes, step_object: float, step_probe: float
) -> None:
    """One step of the extended ptychographical iterative engine.

    ``O += β conj(P) χ / max |P|²`` and ``P += β conj(O) χ / max |O|²``; in a batch of more than one
    position (the original has one) the mean over overlapping positions.

    References
    ----------
    A. M. Maiden, J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009).
    """
    gradient = state.object_gradient(batch, probes, changes)
    brightest = (
        state.illumination.max() / state.coverage * max(1, state.overlap(len(batch.indices)))
    )
    if step_probe > 0:
        (top, left), (bottom, right) = batch.corners.min(0), batch.corners.max(0) + state.shape
        strongest = (state.object[:, top:bottom, left:right] ** 2).sum(0).max()
        step = step_probe / (strongest * len(batch.indices))
        state.spectra += np.float32(step) * state.probe_gradient(batch, changes)
    kernels.add_scaled(state.object, gradient, np.float32(step_object / brightest))


_UPDATES = {"lsq-ml": least_squares_update, "epie": epie_update}


def default_batch_size(algorithm: str, n_positions: int) -> int:
    """Positions a batch where nothing else was asked for."""
    if algorithm == "epie":
        return 1
    return int(np.clip(n_positions // 32, 16, 128))


def reconstruct(
    patterns: Patterns,
    placement: Placement,
    probe: np.ndarray,
    *,
    n_iterations: int,
    algorithm: str = "lsq-ml",
    noise_model: str = "amplitude",
    batch_size: int | None = None,
    step_object: float = 1.0,
    step_probe: float = 1.0,
    probe_start: int = 0,
    random_state: int = 0,
    subset: np.ndarray | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> tuple[Reconstruction, State]:
    """Reconstruct object and probe.

    Parameters
    ----------
    patterns
        Measured.
    placement
        Of the scan positions.
    probe
        Start values, complex (modes, rows, columns), centred in the window; any power.
    n_iterations
        Passes over all positions.
    algorithm
        ``"lsq-ml"`` or ``"epie"``.
    noise_model
        ``"amplitude"`` or ``"poisson"``.
    batch_size
        Positions a batch; by default from the number of positions, 1 for ``"epie"``.
    step_object, step_probe
        Multiples of the step that the line search finds (``"lsq-ml"``), or β (``"epie"``). With
        ``step_probe=0`` the probe is held.
    probe_start
        Passes before the probe is refined.
    random_state
        Seed of the order of the positions.
    subset
        Indices of the positions to use; by default all.
    callback
        Called after every pass with its number (from 1) and error.

    Returns
    -------
    Reconstruction, State
        The second to evaluate the model with (:func:`held_out_deviance`).
    """
    state = State.start(patterns.plan, placement, probe)
    update = _UPDATES[algorithm]
    used = np.arange(len(placement.corners)) if subset is None else np.asarray(subset)
    n_positions = len(used)
    batch_size = batch_size or default_batch_size(algorithm, n_positions)
    n_batches = max(1, round(n_positions / batch_size))
    total = patterns.plan.rows * patterns.plan.columns * n_positions
    generator = np.random.default_rng(random_state)
    errors: list[float] = []
    updates = 0.0
    status = "completed"
    try:
        for iteration in range(1, n_iterations + 1):
            error = 0.0
            state.measure_illumination()
            held = iteration <= probe_start
            for indices in np.array_split(generator.permutation(used), n_batches):
                batch = state.batch(indices)
                probes, changes, part = state.changes(batch, patterns, noise_model == "poisson")
                error += part
                settled = 1 / (1 + updates / SETTLING_UPDATES) if algorithm == "lsq-ml" else 1.0
                updates += min(1.0, state.overlap(len(indices)))
                steps = settled * step_object, 0.0 if held else settled * step_probe
                update(state, batch, probes, changes, *steps)
            state.settle_probe()
            errors.append(error / total)
            if not np.isfinite(error) or errors[-1] > DIVERGED * errors[0]:
                status = "diverged"
                break
            if callback is not None:
                callback(iteration, errors[-1])
    except KeyboardInterrupt:
        status = "interrupted"
        _logger.warning("Interrupted in pass %d of %d.", len(errors) + 1, n_iterations)
    if status == "diverged":
        _logger.warning("The reconstruction diverged in pass %d of %d.", len(errors), n_iterations)
    modes = state.probe
    pixels = patterns.plan.rows * patterns.plan.columns
    result = Reconstruction(
        from_planes(state.object.reshape(-1), placement.object_shape)[None],
        (modes * np.sqrt(patterns.mean_total / pixels)).astype(np.complex64),
        placement,
        np.array(errors),
        status,
    )
    return result, state


def held_out_deviance(state: State, test: Patterns, *, batch_size: int = 64) -> np.ndarray:
    """Poisson deviance a pixel of counts that were not used in the fit, for every position.

    Parameters
    ----------
    state
        After a reconstruction.
    test
        Held-out counts.

    Returns
    -------
    float64 array (positions,)
    """
    pixels = state.plan.rows * state.plan.columns
    out = np.empty(len(test.counts))
    mean = test.mean_total / pixels
    for start in range(0, len(out), batch_size):
        batch = state.batch(np.arange(start, min(start + batch_size, len(out))))
        model = state.model_intensities(batch)
        deviance = np.empty(len(batch.indices))
        kernels.poisson_deviance(
            model, test.counts, batch.indices, np.float32(mean), np.float32(1e-2 * mean), deviance
        )
        out[batch.indices] = deviance / pixels
    return out
