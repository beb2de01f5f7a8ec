"""Iterative ptychography: arrays in, arrays out.

The measured and modelled intensities are scaled so that a pattern has the mean 1 a pixel, and the
object starts as vacuum. Every pass goes once over all positions in batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np

from hs_autoptycho.ptycho import constraints, kernels
from hs_autoptycho.ptycho.batches import compact_batches, default_batch_size, sparse_batches
from hs_autoptycho.ptycho.corrections import Corrections
from hs_autoptycho.ptycho.fft import from_planes, to_planes
from hs_autoptycho.ptycho.holdout import HeldOut
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import Placement
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.settings import Settings
from hs_autoptycho.ptycho.state import State, make_detector
from hs_autoptycho.ptycho.stored_patterns import StoredPatterns
from hs_autoptycho.ptycho.updates import UPDATES, update_variable_modes

_logger = logging.getLogger(__name__)

# A run whose error rises to this multiple of the initial guess's has diverged.
DIVERGED = 2.0
# Part of the mean that is added to every prediction that counts are judged by: a pixel that a model
# leaves dark must not decide over it alone.
FLOOR = 1e-2


@dataclass(frozen=True)
class Model:
    """What is known of beam, specimen and detector, and is not refined unless asked for.

    Attributes
    ----------
    propagation : Propagation or None
        Between slices; None for one slice.
    pixel_size : tuple of float
        Of the object, in Å (rows, columns); for the regularisation.
    beam_offset : tuple of float
        Of the beam from the detector's pixel ``shape // 2``, in pixels (rows, columns).
    defocus_phase : array or None
        Phase of the probe's spectrum by Å of defocus, (rows, columns), in the order of
        ``np.fft.fft2``.
    defocus : float
        Of the initial probe, in Å.
    detector : dict
        Options of :func:`.state.make_detector`: mask, background, saturation, blur.
    """

    propagation: Propagation | None = None
    pixel_size: tuple[float, float] = (1.0, 1.0)
    beam_offset: tuple[float, float] = (0.0, 0.0)
    defocus_phase: np.ndarray | None = None
    defocus: float = 0.0
    detector: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reconstruction:
    """What :func:`reconstruct` returns.

    Attributes
    ----------
    object : complex64 (slices, Y, X)
    probe : complex64 (modes, rows, columns)
        Orthogonal, strongest first; Σ|P|² is the mean number of counts a pattern where the object
        is vacuum.
    placement : Placement
        Where the positions are on the object.
    errors : float64 (passes,)
        Σ(√I_measured − √I)² / Σ I_measured over each pass, as seen when each batch was visited.
    status : str
        ``"completed"``, ``"diverged"``, ``"interrupted"`` or ``"stopped"`` (early, by what was held
        out or by a monitor).
    history : dict
        Further numbers by pass: ``"held_out"``, the corrected parameters.
    corrected : dict
        Last values of the corrected parameters.
    grid : float64 (2, 2)
        Distortion of the grid of positions that was found, in pixels.
    variable_modes : complex64 (variable modes, rows, columns)
        In the unit of `probe`.
    coefficients : float32 (positions, variable modes)
    brightness : float32 (positions,)
    """

    object: np.ndarray
    probe: np.ndarray
    placement: Placement
    errors: np.ndarray
    status: str
    history: dict[str, list[float]] = field(default_factory=dict)
    corrected: dict[str, float] = field(default_factory=dict)
    grid: np.ndarray = field(default_factory=lambda: np.eye(2))
    variable_modes: np.ndarray | None = None
    coefficients: np.ndarray | None = None
    brightness: np.ndarray | None = None


def reconstruct(
    patterns: Patterns | StoredPatterns,
    placement: Placement,
    probe: np.ndarray,
    *,
    n_iterations: int,
    model: Model | None = None,
    random_state: int = 0,
    subset: np.ndarray | None = None,
    start_object: np.ndarray | None = None,
    callback: Callable[[int, float], None] | None = None,
    monitor: Callable[[int, State], bool | None] | None = None,
    settings: Settings | None = None,
    **options: Any,
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
    model
        Of beam, specimen and detector. Default: one slice, an ideal detector.
    random_state
        Seed of the order of the positions, and of whatever else is random.
    subset
        Indices of the positions to use; by default all.
    start_object
        Complex (slices, Y, X) on the grid of `placement`; by default vacuum.
    callback
        Called after every pass with its number (from 1) and error.
    monitor
        Called after every pass with its number (from 1) and the state, corrected and regularised.
        The run stops if it returns True; its status is then ``"stopped"``.
    settings
        Of the algorithm.
    **options
        Fields of :class:`Settings`, instead of `settings`.

    Returns
    -------
    Reconstruction, State
        The second to evaluate the model with (:func:`held_out_deviance`).
    """
    if settings is None:
        settings = Settings(**options)
    elif options:
        raise TypeError(f"Give settings or single options, not both: {', '.join(options)}.")
    model = model or Model()
    run = _Run(patterns, placement, probe, model, settings, random_state, subset, start_object)
    # threads that have no position of a batch to themselves would only wait for each other
    threads = numba.get_num_threads()
    numba.set_num_threads(min(threads, run.batch_size))
    try:
        run.go(n_iterations, callback, monitor)
    finally:
        numba.set_num_threads(threads)
    return run.result(), run.state


class _Run:
    """One reconstruction while it runs."""

    def __init__(
        self, patterns, placement, probe, model, settings, random_state, subset, start_object
    ):
        self.patterns, self.model, self.settings = patterns, model, settings
        n_all = len(placement.corners)
        self.used = np.arange(n_all) if subset is None else np.asarray(subset)
        n_used = len(self.used)
        self.batch_size = settings.batch_size or default_batch_size(settings.algorithm, n_used)
        self.n_batches = max(1, round(n_used / self.batch_size))
        self.total = patterns.plan.rows * patterns.plan.columns * n_used
        poisson = settings.noise_model == "poisson"
        self.state = State.start(
            patterns.plan,
            placement,
            probe,
            make_detector(patterns, poisson=poisson, **model.detector),
            propagation=model.propagation,
            beam_offset=model.beam_offset,
            n_variable_modes=settings.n_variable_modes,
        )
        if isinstance(patterns, StoredPatterns):
            self.state.stored = patterns
        if start_object is not None:
            self.state.object[:] = to_planes(start_object).reshape(self.state.object.shape)
        if settings.n_variable_modes:  # every position has a probe of its own
            self.state.move(self.state.positions)
        self.generator = np.random.default_rng(random_state)
        self.update = UPDATES[settings.algorithm](settings)
        self.corrections = Corrections(
            self.state,
            settings.starts,
            defocus_phase=model.defocus_phase,
            defocus=model.defocus,
            pixel_size=model.pixel_size,
        )
        self.held_out = None
        if settings.patience is not None:
            self.held_out = HeldOut(patterns, self.used, settings.patience, random_state)
        self.errors: list[float] = []
        self.history: dict[str, list[float]] = {}
        self.status = "completed"

    def go(self, n_iterations: int, callback, monitor=None) -> None:
        first_error: float | None = None
        self.n_iterations = n_iterations
        try:
            if self.held_out is not None:
                self.held_out.hide(self.state)
            for iteration in range(1, n_iterations + 1):
                error, first = self._pass(iteration)
                first_error = first if first_error is None else first_error
                self.errors.append(error / self.total)
                if not np.isfinite(error) or error > DIVERGED * first_error:
                    self.status = "diverged"
                    _logger.warning(
                        "The reconstruction diverged in pass %d of %d.", iteration, n_iterations
                    )
                    break
                self._record()
                if callback is not None:
                    callback(iteration, self.errors[-1])
                if monitor is not None and monitor(iteration, self.state):
                    self.status = "stopped"
                    break
                if self.held_out is not None and self.held_out.should_stop(self.state):
                    self.status = "stopped"
                    break
        except KeyboardInterrupt:
            self.status = "interrupted"
            _logger.warning("Interrupted in pass %d of %d.", len(self.errors) + 1, n_iterations)
        finally:
            if self.held_out is not None:
                self.held_out.restore(self.state)

    def _batches(self) -> Iterator[np.ndarray]:
        if self.state.stored is None:
            yield from self._batches_of(self.used, self.n_batches)
            return
        for group in self.state.stored.groups(self.used, self.generator):
            yield from self._batches_of(group, max(1, round(len(group) / self.batch_size)))

    def _batches_of(self, indices: np.ndarray, n_batches: int) -> list[np.ndarray]:
        if self.settings.batch_selection == "compact":
            return compact_batches(indices, n_batches, self.state.positions, self.generator)
        return sparse_batches(indices, n_batches, self.generator)

    def _pass(self, iteration: int) -> tuple[float, float]:
        """Error of a pass, and what it would be if all batches were as the first one."""
        state, settings = self.state, self.settings
        held = iteration <= settings.probe_start or settings.step_probe == 0
        state.measure_illumination()
        self.corrections.begin_pass(iteration)
        error, first = 0.0, None
        for indices in self._batches():
            batch = state.batch(indices)
            gradients = state.gradients(batch)
            part = float(gradients.sums[:, 0].sum())
            error += part
            first = part * len(self.used) / len(indices) if first is None else first
            self.update(state, batch, gradients, probe_held=held)
            if settings.n_variable_modes and not held:
                update_variable_modes(state, batch, gradients)
            if settings.object_type == "phase":
                kernels.keep_phase(state.object)
            self.corrections.collect(batch, gradients)
        if settings.algorithm == "gradient":
            self.update.end_pass(state, probe_held=held)
            if settings.object_type == "phase":
                kernels.keep_phase(state.object)
        state.settle_probe()
        remaining = self.n_iterations - iteration
        if self.corrections.end_pass(probe_held=held, remaining=remaining):
            self.update = UPDATES[settings.algorithm](settings)  # the object starts anew
        self._regularize(held)
        return error, first

    def _regularize(self, probe_held: bool) -> None:
        """Apply the constraints to object and probe."""
        state, wanted = self.state, self.settings.regularization
        if wanted.probe_support > 0 and not probe_held:
            state.probe = constraints.probe_support(state.probe, wanted.probe_support)
        n_slices = len(state.object)
        depth = wanted.depth > 0 and n_slices > 1
        if not (depth or wanted.positivity or wanted.total_variation or wanted.bandwidth):
            return
        object_ = from_planes(state.object.reshape(n_slices, -1), state.object.shape[2:])
        seen = state.illumination
        if depth:
            object_ = constraints.depth_filter(
                object_, state.propagation.distances, self.model.pixel_size, wanted.depth,
                illumination=seen,
            )  # fmt: skip
        if wanted.bandwidth:
            object_ = constraints.limit_bandwidth(object_, self.model.pixel_size, wanted.bandwidth)
        if wanted.total_variation:
            object_ = constraints.total_variation(object_, wanted.total_variation)
        if wanted.positivity:
            object_ = constraints.positive_phase(object_, wanted.positivity, illumination=seen)
        if self.settings.object_type == "phase":
            object_ = constraints.phase_only(object_)
        state.object[:] = to_planes(object_).reshape(state.object.shape)

    def _record(self) -> None:
        values = self.corrections.values()
        if self.held_out is not None:
            values["held_out"] = self.held_out.score(self.state)
        for name, value in values.items():
            self.history.setdefault(name, []).append(float(value))

    def result(self) -> Reconstruction:
        state, settings = self.state, self.settings
        pixels = state.plan.rows * state.plan.columns
        unit = np.sqrt(self.patterns.mean_total / pixels)
        shape = state.object.shape[2:]
        variable = settings.n_variable_modes > 0
        # a pass in which a run ended has an error and no more
        n = len(self.errors)
        history = {k: v + [float("nan")] * (n - len(v)) for k, v in self.history.items()}
        return Reconstruction(
            object=from_planes(state.object.reshape(len(state.object), -1), shape),
            probe=(state.probe * unit).astype(np.complex64),
            placement=state.placement,
            errors=np.array(self.errors),
            status=self.status,
            history=history,
            corrected=self.corrections.values(),
            grid=self.corrections.matrix,
            variable_modes=(state.variable_modes * unit).astype(np.complex64) if variable else None,
            coefficients=state.coefficients.copy() if variable else None,
            brightness=state.brightness.copy() if settings.starts.ever("brightness") else None,
        )


def predictions(
    state: State, positions: np.ndarray, *, batch_size: int = 256
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a model predicts, a batch of positions at a time.

    Parameters
    ----------
    state
        While or after a reconstruction runs.
    positions
        Indices, each of them once.

    Yields
    ------
    int64 array (some,)
        Places in `positions`.
    float32 array (some, pixels)
        Intensities there, in the spectrum's order and of the mean 1 a pixel; overwritten by the
        next batch.
    """
    for start in range(0, len(positions), batch_size):
        some = positions[start : start + batch_size]
        order = np.argsort(some, kind="stable")
        batch = state.batch(some)
        places = start + order[np.searchsorted(some[order], batch.indices)]
        yield places, state.model_intensities(batch)


def held_out_deviance(
    state: State,
    test: Patterns,
    *,
    positions: np.ndarray | None = None,
    mean: float | None = None,
    mask: np.ndarray | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Poisson deviance a pixel of counts that were not used in the fit, for every position.

    Parameters
    ----------
    state
        While or after a reconstruction runs.
    test
        Held-out counts.
    positions
        Which positions the patterns of `test` belong to. Default: all of them, in their order.
    mean
        Counts a pixel of `test` that the model's intensity 1 stands for. Default: the mean.
    mask
        Float32 (pixels,) in the spectrum's order, 1 for the pixels that are judged, else 0.
        Default: those that the fit used.

    Returns
    -------
    float64 array (positions,)
    """
    positions = np.arange(len(test.counts)) if positions is None else positions
    mask = state.detector.mask if mask is None else mask
    mean = test.mean_total / (state.plan.rows * state.plan.columns) if mean is None else mean
    out = np.empty(len(positions))
    for places, model in predictions(state, positions, batch_size=batch_size):
        deviance = np.empty(len(places))
        kernels.poisson_deviance(
            model, test.counts, places, np.float32(mean), np.float32(FLOOR * mean), mask, deviance
        )
        out[places] = deviance
    return out / mask.sum(dtype=float)
