"""A reconstruction as an object of py4DSTEM's classes and as a `PtychographicObject`.

In both the object's pixel is 1/(N dk), a position is that of the window's pixel ``shape // 2`` and
intensities are ``|F[P O]|²``. They differ in the corner that the probe is centred on, in its norm
(py4DSTEM's Fourier transform is not unitary), and where the detector is transposed: py4DSTEM then
turns positions into the frame of the patterns as recorded, this package turns the patterns.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from hs_autoptycho._quantities import electron_wavelength
from hs_autoptycho._running import versions
from hs_autoptycho.calibration import Geometry, object_axes
from hs_autoptycho.ptycho.disk import measure_disk
from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.ptycho.positions import GridDistortion, scan_positions
from hs_autoptycho.signals import PtychographicObject
from hs_autoptycho.tuning.py4dstem_engine import _quiet, polar_parameters

_logger = logging.getLogger(__name__)

_ABERRATIONS = ("C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30")
_NO_DATA = "The data are not known: this was reconstructed by py4DSTEM's {}."


def object_from_solver(solver: Any, scan_shape: tuple[int, int] | None) -> PtychographicObject:
    """See :func:`.from_py4dstem`."""
    if not getattr(solver, "error_iterations", None) or getattr(solver, "_probe", None) is None:
        raise ValueError(
            f"This {type(solver).__name__} has reconstructed nothing: call its preprocess() and "
            "reconstruct() first."
        )
    transposed = bool(getattr(solver, "_rotation_best_transpose", False))
    turn = slice(None, None, -1) if transposed else slice(None)
    object_, probe = (
        np.swapaxes(array, -1, -2) if transposed else array
        for array in (solver._asnumpy(solver._object), solver._asnumpy(solver._probe))
    )
    if not np.iscomplexobj(object_):
        object_ = np.exp(1j * object_)  # its "potential" is a phase
    object_ = object_.reshape(-1, *object_.shape[-2:])
    probe = np.fft.fftshift(probe, axes=(-2, -1)).reshape(-1, *probe.shape[-2:])
    pixel = np.array(solver.sampling)[turn]
    positions = np.array(solver.positions, float)[:, turn]
    positions, scan_shape = _whole_scan(solver, positions, scan_shape)
    matrix, corner = _grid(positions, scan_shape)
    energy = float(solver._energy) / 1e3
    sampling = np.array(solver.angular_sampling)[turn]
    step = getattr(solver, "_scan_sampling", None)
    step = math.sqrt(abs(np.linalg.det(matrix))) if step is None else float(np.mean(step))
    parameters = {
        "beam_energy": energy,
        "scan_step": step,
        **_distortion(matrix / step),
        "detector_flip": "transpose" if transposed else "none",
        **_aberrations(solver._polar_parameters, transposed),
        "n_probe_modes": len(probe),
        "n_slices": len(object_),
        "object_type": "complex" if solver._object_type == "complex" else "phase",
        "n_iterations": len(solver.error_iterations),
    }
    notes = [_NO_DATA.format(type(solver).__name__)]
    spacing = None
    if len(object_) > 1:
        spacings = np.asarray(solver._slice_thicknesses, float)
        spacing = float(spacings.mean())
        parameters["thickness"] = spacing * len(object_)
        if np.ptp(spacings) > 1e-3 * spacing:
            notes.append(
                f"The slices are {spacings.min():g} to {spacings.max():g} Å apart; the axis has "
                "their mean."
            )
    radius = _disk_radius(solver, probe, sampling)
    detector = tuple(int(n) for n in np.array(solver._amplitudes_shape)[turn])
    parameters["convergence_angle"] = float(radius * sampling.mean())
    pixels_k = 1e-3 * sampling / electron_wavelength(energy)
    parameters["reciprocal_pixel"] = float(pixels_k.mean())
    geometry = Geometry(
        beam_energy=energy,
        scan_shape=scan_shape,
        detector_shape=detector,
        scan_step=step,
        reciprocal_pixel=parameters["reciprocal_pixel"],
        convergence_angle=parameters["convergence_angle"],
        disk_center=tuple(n // 2 for n in detector),
        disk_radius=radius,
        scan_rotation=parameters.get("scan_rotation", 0.0),
        defocus=parameters["defocus"],
        notes=tuple(notes),
    )
    axes = object_axes(geometry, object_.shape, -corner, spacing)
    for axis, size in zip(axes[1:], pixel, strict=True):
        axis["scale"] = float(size)
    shape = np.array(probe.shape[1:])
    return PtychographicObject.from_reconstruction(
        object_,
        axes=axes,
        probe=probe * math.sqrt(shape.prod()),
        probe_axes=[
            {"name": name, "scale": float(pixel[i]), "offset": float(-(n // 2) * pixel[i]),
             "units": "Å"}
            for i, (name, n) in enumerate(zip("yx", shape, strict=True))
        ],
        positions=positions - corner,
        scan_shape=scan_shape,
        history={"error": np.array(solver.error_iterations, float)},
        parameters=parameters,
        geometry=geometry.to_dict(),
        status="completed",
        seed=None,
        versions=versions(("hs_autoptycho", "hyperspy", "numpy", "py4DSTEM")),
        fingerprint="",
        notes=notes,
        original_metadata_general={"title": str(solver.name)},
    )  # fmt: skip


def solver_from_object(obj: PtychographicObject, phase: Any) -> Any:
    """See :func:`.to_py4dstem`."""
    parameters, geometry = obj.parameters, obj.geometry
    flip = parameters["detector_flip"]
    transposed = flip == "transpose"
    if flip not in ("none", "transpose"):
        _logger.warning(
            "py4DSTEM knows no detector_flip=%r: object and probe are right, but to go on with "
            "data in py4DSTEM flip the patterns first.",
            flip,
        )
    turn = slice(None, None, -1) if transposed else slice(None)
    object_, probe = obj._transmission(), obj.probe.data
    probe = np.fft.ifftshift(probe, axes=(-2, -1)) / math.sqrt(math.prod(probe.shape[-2:]))
    x, y = obj.axes_manager.signal_axes
    pixel = np.array(obj._pixel())
    zero = -np.array([y.offset / y.scale, x.offset / x.scale])
    positions = (obj.positions / pixel + zero)[:, turn]
    if transposed:
        object_, probe = np.swapaxes(object_, -1, -2), np.swapaxes(probe, -1, -2)
    several, mixed = len(object_) > 1, len(probe) > 1
    values = {name: parameters.get(name) or 0.0 for name in ("defocus", *_ABERRATIONS)}
    options = {
        "energy": 1e3 * geometry.beam_energy,
        "semiangle_cutoff": geometry.convergence_angle,
        "polar_parameters": _turned(polar_parameters(values), transposed),
        "object_type": "complex",
        "initial_object_guess": np.ascontiguousarray(object_ if several else object_[0]),
        "initial_probe_guess": np.ascontiguousarray(probe if mixed else probe[0]),
        "verbose": False,
        "name": obj.metadata.General.title,
    }
    if mixed:
        options["num_probes"] = len(probe)
    if several:
        options["num_slices"] = len(object_)
        options["slice_thicknesses"] = parameters["thickness"] / parameters["n_slices"]
    make = {
        (False, False): phase.SingleslicePtychography,
        (True, False): phase.MixedstatePtychography,
        (False, True): phase.MultislicePtychography,
        (True, True): phase.MixedstateMultislicePtychography,
    }[mixed, several]
    with _quiet():
        solver = make(**options)
    # what its `_populate_instance` sets when it reads a reconstruction from a file
    shape = np.array(probe.shape[-2:])
    wavelength = electron_wavelength(geometry.beam_energy)
    solver._rotation_best_rad = -math.radians(parameters.get("scan_rotation", 0.0))
    solver._rotation_best_transpose = transposed
    solver._positions_px = positions.astype(np.float32)
    solver._positions_px_com = solver._positions_px.mean(axis=0)
    solver._angular_sampling = tuple(1e3 * wavelength / (shape * pixel[turn]))
    solver._region_of_interest_shape = solver._amplitudes_shape = shape
    solver._num_diffraction_patterns = len(positions)
    solver._positions_mask = None
    solver._grid_scan_shape = obj.scan_shape
    solver._scan_sampling = (parameters.get("scan_step") or geometry.scan_step,) * 2
    solver.error_iterations = obj.history.data.tolist()
    solver.error = solver.error_iterations[-1] if solver.error_iterations else math.nan
    solver._exit_waves = None
    solver.object, solver.probe = solver._object, solver.probe_centered
    solver._preprocessed = True
    return solver


def _whole_scan(solver, positions, scan_shape) -> tuple[np.ndarray, tuple[int, int]]:
    """Positions of the whole scan: the grid's, where py4DSTEM was told to leave some out."""
    given = scan_shape
    if scan_shape is None:
        scan_shape = getattr(solver, "_grid_scan_shape", None)
    mask = getattr(solver, "_positions_mask", None)
    if mask is not None and np.ndim(mask) == 2:
        mask = np.asarray(mask, bool)
        scan_shape = mask.shape if given is None else scan_shape
    else:
        mask = None
    if scan_shape is None:
        raise ValueError(
            f"This {type(solver).__name__} does not tell the shape of its scan of {len(positions)} "
            "positions: give it, `from_py4dstem(obj, scan_shape=(scan_y, scan_x))`."
        )
    scan_shape = tuple(int(n) for n in scan_shape)
    if mask is not None and mask.shape == scan_shape and mask.sum() == len(positions):
        index = np.stack(np.nonzero(mask), -1)
        terms = np.column_stack([index, np.ones(len(index))])
        fit = np.linalg.lstsq(terms, positions, rcond=None)[0]
        grid = np.stack(np.mgrid[: scan_shape[0], : scan_shape[1]], -1).reshape(-1, 2)
        whole = np.column_stack([grid, np.ones(len(grid))]) @ fit
        whole[mask.ravel()] = positions
        return whole, scan_shape
    if math.prod(scan_shape) != len(positions):
        raise ValueError(
            f"scan_shape={scan_shape} does not fit the {len(positions)} positions of this "
            f"{type(solver).__name__}."
        )
    return positions, scan_shape


def _grid(positions: np.ndarray, scan_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (2, 2) from (slow, fast) to positions, and where the grid has its [0, 0]."""
    grid = scan_positions(scan_shape, 1.0)
    fit = np.linalg.lstsq(np.column_stack([grid, np.ones(len(grid))]), positions, rcond=None)[0]
    return fit[:2].T, fit[2]


def _distortion(matrix: np.ndarray) -> dict[str, float]:
    """Rotation and so on; nothing where the positions are those of no grid."""
    if not np.linalg.det(matrix) > 1e-6:
        return {}
    found = GridDistortion.of(matrix)
    values = {f"scan_{name}": round(value, 6) for name, value in found._asdict().items()}
    limits = {name: (PARAMETERS[name].low, PARAMETERS[name].high) for name in values}
    inside = all(low <= values[name] <= high for name, (low, high) in limits.items())
    return values if inside else {}


def _aberrations(polar: dict[str, float], transposed: bool) -> dict[str, float]:
    """Cartesian aberrations of py4DSTEM's polar ones: the inverse of `polar_parameters`."""
    polar = _turned(polar, transposed)
    out = {"defocus": -float(polar.get("C10", 0.0))}
    for order in ("12", "21", "23"):
        size, n = float(polar.get(f"C{order}", 0.0)), int(order[1])
        angle = n * (math.pi / 2 - float(polar.get(f"phi{order}", 0.0)))
        # + 0.0: no negative zeros
        out[f"C{order}a"] = size * math.cos(angle) + 0.0
        out[f"C{order}b"] = size * math.sin(angle) + 0.0
    out["C30"] = float(polar.get("C30", 0.0))
    return out


def _turned(polar: dict[str, float], transposed: bool) -> dict[str, float]:
    """py4DSTEM's aberrations in the frame of a transposed detector."""
    if not transposed:
        return polar
    return {
        name: math.pi / 2 - float(value) if name.startswith("phi") else value
        for name, value in polar.items()
    }


def _disk_radius(solver: Any, probe: np.ndarray, sampling: np.ndarray) -> float:
    """In detector pixels: py4DSTEM's aperture, or else the probe's own."""
    cutoff = getattr(solver, "_semiangle_cutoff", None)
    if cutoff is not None and math.isfinite(float(cutoff)):
        return float(cutoff) / float(np.mean(sampling))
    spectrum = np.fft.fftshift(np.abs(np.fft.fft2(probe)) ** 2, axes=(-2, -1)).sum(axis=0)
    return measure_disk(spectrum)[2]
