"""py4DSTEM as the engine of the tuner, for those who stay with it.

Its classes are given this package's patterns, positions, initial probe and propagators, and what
they find is kept in this package's :class:`~hs_autoptycho.ptycho.state.State`, whose model is the
same: geometry, units and every score agree between the engines. py4DSTEM's own preprocessing, which
moves each pattern by a fitted centre of mass, is left out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.fft import from_planes, make_plan, to_planes
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import Placement
from hs_autoptycho.ptycho.probe import orthogonalize
from hs_autoptycho.ptycho.propagation import propagators
from hs_autoptycho.ptycho.solver import DIVERGED, Model, Reconstruction
from hs_autoptycho.ptycho.state import State, make_detector
from hs_autoptycho.tuning.engines import Monitor, NumbaFit

_logger = logging.getLogger(__name__)

# py4DSTEM's own step, which step_object is a multiple of. It is divided by the root of the number
# of slices: each of them answers the whole misfit, and with it 12 slices overshoot, 24 diverge.
STEP = 0.5
# Object pixels by which a position may be corrected; the object is so much larger then, as
# positions that leave it come back in on its other side.
LARGEST_CORRECTION = 8

# patterns that are prepared at a time
_BLOCK = 256
# instead of 0 for a pixel that is not used: with several modes 0 makes the error infinite
_UNUSED = 1e-6

#: What py4DSTEM has no exact counterpart of: these have to have their defaults.
WITHOUT_COUNTERPART = (
    "n_variable_modes", "detector_blur", "saturation", "algorithm", "batch_selection", "momentum",
    "grid_correction_start", "defocus_correction_start", "thickness_correction_start",
    "tilt_correction_start", "intensity_correction_start", "regularization_depth",
    "regularization_positivity", "regularization_tv", "regularization_bandwidth",
    "regularization_probe_support", "coarse_iterations", "early_stopping",
)  # fmt: skip

_MISSING = (
    'engine="py4dstem" needs py4DSTEM: pip install "hs_autoptycho[py4dstem]" (Python up to 3.12, '
    'numpy below 2), or use engine="numba".'
)


class Py4DSTEMEngine:
    """py4DSTEM's gradient descent on the processor.

    Raises
    ------
    ImportError
        If py4DSTEM is not installed.
    """

    name = "py4dstem"

    def __init__(self) -> None:
        _phase()

    def check(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """Raise if py4DSTEM has no counterpart of a parameter's value.

        Parameters
        ----------
        experiment
            The data.
        values
            What :meth:`.Experiment.complete` returns.

        Raises
        ------
        ParameterError
            Names all such parameters.
        """
        refused = [n for n in WITHOUT_COUNTERPART if values[n] != PARAMETERS[n].default]
        # its noise model is that of amplitudes; another one is meant only where it is no default
        if values["noise_model"] == "poisson" and not experiment.counted:
            refused.append("noise_model")
        if refused:
            what = ", ".join(f"{name}={values[name]!r}" for name in refused)
            raise ParameterError(
                f'py4DSTEM has no counterpart of {what}: leave that out, or use engine="numba".'
            )
        step, step_probe = values["step_object"], values["step_probe"]
        if step == 0 or step_probe not in (0, 1, step):
            raise ParameterError(
                f"step_object={step:g}, step_probe={step_probe:g}: py4DSTEM has one step for both. "
                'Give step_object alone, or step_probe=0 to hold the probe, or use engine="numba".'
            )
        if values["position_correction_start"] is not None and experiment.mask is not None:
            raise ParameterError(
                "position_correction_start: py4DSTEM corrects positions with all detector pixels, "
                'but some are masked. Leave it out, or use engine="numba".'
            )

    def fit(
        self,
        experiment: Experiment,
        parameters: Mapping[str, Any],
        *,
        n_iterations: int,
        random_state: int,
        positions: np.ndarray | None = None,
        reduction: int = 1,
        monitor: Monitor | None = None,
    ) -> NumbaFit:
        """Reconstruct; see :class:`.engines.Engine`.

        Raises
        ------
        ParameterError
            As :meth:`check`, and :meth:`.Experiment.complete`.
        """
        values = experiment.complete(parameters)
        self.check(experiment, values)
        flip = values["detector_flip"]
        run = _Run(experiment, values, experiment.reduced_shape(reduction, flip), positions)
        fit = NumbaFit(run.state, experiment, flip)
        errors: list[float] = []
        status = "completed"
        try:
            for iteration in range(1, n_iterations + 1):
                errors.append(run.do_pass(iteration, random_state))
                # at 1 a model of no beam at all would be as good
                if not errors[-1] <= min(DIVERGED * errors[0], 1.0):
                    status = "diverged"
                    _logger.warning("py4DSTEM diverged in pass %d of %d.", iteration, n_iterations)
                    break
                if monitor is not None and monitor(iteration, fit):
                    status = "stopped"
                    break
        except KeyboardInterrupt:
            status = "interrupted"
            _logger.warning("Interrupted in pass %d of %d.", len(errors) + 1, n_iterations)
        fit.reconstruction = run.result(errors, status)
        return fit


class _Run:
    """One reconstruction: py4DSTEM's solver, and the state that follows it.

    Attributes
    ----------
    state : State
        As after the last pass.
    solver
        One of py4DSTEM's classes.
    """

    def __init__(self, experiment, values, shape, positions):
        self.values = values
        used = np.flatnonzero(experiment.totals > 0)
        self.used = used if positions is None else np.intersect1d(positions, used)
        self.corrects = values["position_correction_start"] is not None
        placement, modes = experiment.start(values, shape)
        placement = _rounded(placement, shape, LARGEST_CORRECTION if self.corrects else 0)
        model = experiment.model(values, shape)
        self.mean_total = _mean_total(experiment, values["detector_flip"], shape)
        self.state = _state(model, placement, modes, shape, self.mean_total)
        self.solver = self._make_solver(experiment, model)
        self.mask = None
        if experiment.mask is not None:
            mask = np.fft.ifftshift(model.detector["mask"])
            self.mask = np.where(mask, 1, _UNUSED).astype(np.float32)

    def _make_solver(self, experiment: Experiment, model: Model):
        values, state, geometry = self.values, self.state, experiment.geometry
        phase, pixels = _phase(), math.prod(state.shape)
        # corner-centred; Σ|P|² = 1 belongs to a mean intensity of 1 a pixel
        probe = np.fft.ifftshift(state.probe, axes=(1, 2)) / math.sqrt(pixels)
        mixed, several = len(probe) > 1, model.propagation is not None
        complex_ = values["object_type"] == "complex"
        object_ = np.full((len(state.object), *state.object.shape[2:]), float(complex_), np.float32)
        options = {
            "energy": geometry.beam_energy * 1e3,
            "polar_parameters": polar_parameters(values),
            # its "potential" is the phase of an object of modulus 1
            "object_type": "complex" if complex_ else "potential",
            "verbose": False,
        }
        if mixed:
            options["num_probes"] = len(probe)
        if several:
            options["num_slices"] = len(object_)
            options["slice_thicknesses"] = model.propagation.distances
        make = {
            (False, False): phase.SingleslicePtychography,
            (True, False): phase.MixedstatePtychography,
            (False, True): phase.MultislicePtychography,
            (True, True): phase.MixedstateMultislicePtychography,
        }[mixed, several]
        half = np.array(state.shape) // 2
        with _quiet():
            solver = make(**options).slim_preprocess(
                amplitudes=_amplitudes(
                    experiment, values["detector_flip"], state, self.used, self.mean_total
                ),
                probe_array=probe if mixed else probe[0],
                object_array=object_ if several else object_[0],
                positions_px=_positions(state.placement, half)[self.used],
                reciprocal_sampling=(geometry.reciprocal_pixel,) * 2,
                store_initial_arrays=False,
            )
        if several:
            # its own know neither that the beam is off the detector's centre nor our sign of tilts
            solver._propagator_arrays = propagators(
                model.propagation, state.shape, beam_offset=model.beam_offset
            ).astype(np.complex64)
        return solver

    def do_pass(self, iteration: int, random_state: int) -> float:
        """Visit all positions once, bring the state up to date; the error of the pass."""
        values, start = self.values, self.values["position_correction_start"]
        options: dict[str, Any] = {"tv_denoise": False}
        if values["n_slices"] > 1:
            options.update(kz_regularization_filter=False, tv_denoise_chambolle=False)
        if self.corrects:
            diagonal = math.hypot(*self.solver.sampling)  # what it takes for a pixel's length
            options["max_position_total_distance"] = (LARGEST_CORRECTION - 1) * diagonal
        seed = np.random.SeedSequence([random_state, iteration]).generate_state(1)[0]
        with _quiet():
            self.solver.reconstruct(
                num_iter=1,
                reset=False,
                max_batch_size=values["batch_size"],
                seed_random=int(seed),
                step_size=STEP * values["step_object"] / math.sqrt(values["n_slices"]),
                fix_probe=iteration <= values["probe_start"] or values["step_probe"] == 0,
                fix_positions=start is None or iteration <= start,
                # the object is not moved with the probe, so that they would no longer belong
                # together; nor is there a reason to, as positions are known
                fix_probe_com=False,
                gaussian_filter=False,
                butterworth_filter=False,
                object_positivity=False,
                fix_potential_baseline=False,
                detector_fourier_mask=self.mask,
                progress_bar=False,
                **options,
            )
        error = float(self.solver.error)
        if math.isfinite(error):
            self._update()
        return error

    def _update(self) -> None:
        """Bring what py4DSTEM has found into the state."""
        state, solver = self.state, self.solver
        probe = np.asarray(solver.probe).reshape(-1, *state.shape)
        state.probe = probe * math.sqrt(math.prod(state.shape))
        if self.corrects:
            positions = state.positions.copy()
            positions[self.used] = solver._positions_px
            state.move(positions)
        object_ = np.asarray(solver.object).reshape(len(state.object), *state.object.shape[2:])
        if not np.iscomplexobj(object_):
            object_ = np.exp(1j * object_)
        state.object[:] = to_planes(object_).reshape(state.object.shape)

    def result(self, errors: list[float], status: str) -> Reconstruction:
        """In the conventions of :func:`.solver.reconstruct`."""
        state = self.state
        counts = self.mean_total / math.prod(state.shape)
        probe = orthogonalize(state.probe) * math.sqrt(counts)
        object_ = from_planes(state.object.reshape(len(state.object), -1), state.object.shape[2:])
        return Reconstruction(
            object=object_,
            probe=probe.astype(np.complex64),
            placement=state.placement,
            errors=np.array(errors),
            status=status,
        )


def polar_parameters(values: Mapping[str, float]) -> dict[str, float]:
    """Aberrations as py4DSTEM names them: C10, and lengths and angles of those with a direction.

    Its azimuth is ``arctan2(k_column, k_row)``, that of this package ``arctan2(k_row, k_column)``.

    Parameters
    ----------
    values
        ``defocus``, ``C12a``, ``C12b`` and so on up to ``C30``, in Å.

    Returns
    -------
    dict
        Å and radians.
    """
    out = {"C10": -values["defocus"], "C30": values["C30"]}
    for order in ("12", "21", "23"):
        a, b = values[f"C{order}a"], values[f"C{order}b"]
        out[f"C{order}"] = math.hypot(a, b)
        out[f"phi{order}"] = math.pi / 2 - math.atan2(b, a) / int(order[1])
    return out


def _phase():
    """py4DSTEM's module of solvers."""
    try:
        with _quiet():
            import py4DSTEM.process.phase as phase
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return phase


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of py4DSTEM, and numpy's common random numbers as they were."""
    state = np.random.get_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)


def _positions(placement: Placement, half: np.ndarray) -> np.ndarray:
    """Object pixels of the window's centre, (positions, 2)."""
    return placement.corners + half + placement.fractions[placement.classes]


def _rounded(placement: Placement, window: tuple[int, int], margin: int) -> Placement:
    """The same positions on an object with a margin, rounded to pixels as py4DSTEM does.

    A position half-way between two pixels belongs to the even one: with the other one the window
    would end a pixel further on.
    """
    half = np.array(window) // 2
    positions = _positions(placement, half) + margin
    corners = np.round(positions).astype(np.int64) - half
    fractions, classes = np.unique(positions - half - corners, axis=0, return_inverse=True)
    rows, columns = placement.object_shape
    return Placement(
        np.ascontiguousarray(corners),
        classes.ravel().astype(np.int64),
        fractions,
        (rows + 2 * margin, columns + 2 * margin),
        placement.origin + margin,
    )


def _mean_total(experiment: Experiment, flip: str, shape: tuple[int, int]) -> float:
    """Mean sum of a pattern's central part, without what is masked."""
    total = experiment.counts.sum(0, dtype=float)
    if experiment.mask is not None:
        total = total * experiment.mask
    return float(experiment.on_detector(total, flip, shape).sum()) / len(experiment.counts)


def _state(
    model: Model,
    placement: Placement,
    modes: np.ndarray,
    shape: tuple[int, int],
    mean_total: float,
) -> State:
    """This package's model of the experiment, without the counts: they are py4DSTEM's."""
    none = Patterns(np.zeros((1, math.prod(shape)), np.uint8), make_plan(*shape), mean_total)
    return State.start(
        none.plan,
        placement,
        modes,
        make_detector(none, **model.detector),
        propagation=model.propagation,
        beam_offset=model.beam_offset,
    )


def _amplitudes(
    experiment: Experiment, flip: str, state: State, used: np.ndarray, mean_total: float
) -> np.ndarray:
    """Square roots of patterns of mean 1 a pixel, zero frequency at [0, 0], float32.

    What is there without the beam is taken off, as py4DSTEM knows no background.
    """
    out = np.empty((len(used), *state.shape), np.float32)
    scale = math.prod(state.shape) / mean_total
    background = np.asarray(experiment.background, np.float32)
    for start in range(0, len(used), _BLOCK):
        block = experiment.counts[used[start : start + _BLOCK]].astype(np.float32)
        block = np.maximum(block - background, 0)
        if experiment.mask is not None:
            block *= experiment.mask
        for target, pattern in zip(out[start : start + _BLOCK], block, strict=True):
            seen = experiment.on_detector(pattern, flip, state.shape)
            target[:] = np.sqrt(np.fft.ifftshift(seen) * np.float32(scale))
    return out
