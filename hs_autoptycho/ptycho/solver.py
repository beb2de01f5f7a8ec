"""Iterative ptychography: arrays in, arrays out.

The measured and modelled intensities are scaled so that a pattern has the mean 1 a pixel, and the
object starts as vacuum. Every pass goes once over all positions in batches of random order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.fft import from_planes
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import Placement
from hs_autoptycho.ptycho.state import State
from hs_autoptycho.ptycho.updates import UPDATES

_logger = logging.getLogger(__name__)

ALGORITHMS = tuple(UPDATES)
NOISE_MODELS = ("amplitude", "poisson")

# The line search makes each batch fit best by itself, noise included: the steps shrink, so that the
# noise of the batches averages out. After this many updates of an object pixel they are half as
# long.
SETTLING_UPDATES = 60

# A run whose error rises to this multiple of the initial guess's has diverged.
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
    update = UPDATES[algorithm]
    used = np.arange(len(placement.corners)) if subset is None else np.asarray(subset)
    n_positions = len(used)
    batch_size = batch_size or default_batch_size(algorithm, n_positions)
    n_batches = max(1, round(n_positions / batch_size))
    total = patterns.plan.rows * patterns.plan.columns * n_positions
    # threads that have no position of a batch to themselves would only wait for each other
    threads = numba.get_num_threads()
    numba.set_num_threads(min(threads, batch_size))
    state = State.start(patterns.plan, placement, probe)
    generator = np.random.default_rng(random_state)
    errors: list[float] = []
    start: float | None = None
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
                if start is None:
                    start = part * n_positions / len(indices)
                settled = 1 / (1 + updates / SETTLING_UPDATES) if algorithm == "lsq-ml" else 1.0
                updates += min(1.0, state.overlap(len(indices)))
                steps = settled * step_object, 0.0 if held else settled * step_probe
                update(state, batch, probes, changes, *steps)
            state.settle_probe()
            errors.append(error / total)
            if not np.isfinite(error) or error > DIVERGED * start:
                status = "diverged"
                break
            if callback is not None:
                callback(iteration, errors[-1])
    except KeyboardInterrupt:
        status = "interrupted"
        _logger.warning("Interrupted in pass %d of %d.", len(errors) + 1, n_iterations)
    finally:
        numba.set_num_threads(threads)
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
