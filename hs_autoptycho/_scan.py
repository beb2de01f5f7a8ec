"""From a HyperSpy signal to arrays, and from a reconstruction back to a HyperSpy signal."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hs_autoptycho._memory import Work, make_cache, plan_reading
from hs_autoptycho._quantities import QUANTITIES
from hs_autoptycho._running import progressbar, versions
from hs_autoptycho.calibration import (
    CalibrationError,
    check_disk,
    check_signal,
    geometry_from_signal,
    object_axes,
)
from hs_autoptycho.ptycho.experiment import UNKNOWN_DEFOCUS, Experiment
from hs_autoptycho.ptycho.loading import DataError, fingerprint, leave_counts, load_counts
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.ptycho.probe import center_beam
from hs_autoptycho.ptycho.remarks import remarks
from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.signals import PtychographicObject
from hs_autoptycho.signals._plain import inherited

_logger = logging.getLogger(__name__)

# what the numbers in a result depend on
VERSIONS = ("hs_autoptycho", "hyperspy", "numpy", "scipy", "numba", "scikit-optimize")


@dataclass
class Scan:
    """A scan that was read from a signal, and what its results remember of the signal."""

    experiment: Experiment
    fingerprint: str
    general: dict[str, Any]
    recording: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_scan(
    signal,
    parameters: Mapping[str, Any],
    show_progressbar: bool | None,
    *,
    disk_center: tuple[float, float] | None = None,
    disk_radius: float | None = None,
    detector_mask: Any = None,
    background: Any = None,
    needs_defocus: bool = False,
    work: Work | None = None,
) -> Scan:
    """Read a signal's geometry and counts.

    A lazy signal that is too large for memory is read once and stays where it is stored.

    Parameters
    ----------
    signal
        HyperSpy signal ``(x, y | kx, ky)``.
    parameters
        Checked parameters; what they state of the geometry takes precedence.
    show_progressbar
        While a lazy signal is read.
    disk_center, disk_radius
        As for `geometry_from_signal`.
    detector_mask, background
        As for `Experiment`.
    needs_defocus
        Whether it is an error if the defocus is not known.
    work
        What will be done with patterns that stay on disk. Default: they have to be in memory.
    """
    names = ("beam_energy", "convergence_angle", "scan_step", "reciprocal_pixel",
             "scan_rotation", "defocus")  # fmt: skip
    stated = {name: parameters[name] for name in names if name in parameters}
    check_signal(signal, **stated)
    if needs_defocus and "defocus" not in stated:
        # what can be known before the data are read, which may take long, is told before
        if signal.metadata.get_item(QUANTITIES["defocus"].item) is None:
            raise ParameterError(UNKNOWN_DEFOCUS)
    disk_center, disk_radius = check_disk(disk_center, disk_radius, signal.data.shape[-2:])
    mask = _detector_image("detector_mask", detector_mask, signal, bool)
    background = _detector_image("background", background, signal, float)
    recording = {
        "disk_center": disk_center,
        "disk_radius": disk_radius,
        "detector_mask": mask,
        "background": background,
    }
    data = signal.data
    stored, missing = False, None
    try:
        plan = plan_reading(signal, parameters, work)
        stored = plan.stored
        _logger.info("Plan: %s.", plan)
    except CalibrationError as error:
        if signal._lazy:
            raise
        missing = error  # in memory: said below, with what the measured disk implies
    notes = []
    show = show_progressbar if signal._lazy else False
    if stored:
        with progressbar(math.prod(data.shape[:2]), "Look", show) as bar:
            cache = make_cache()
            counts, digest = leave_counts(data, cache, mask=mask, progress=bar.update)
        mean = counts.facts(mask).total / len(counts)
        notes.append(
            f"The patterns, {data.nbytes / 1e9:.2f} GB, were left where they are stored and read "
            "in each pass; positions that lie together were visited together."
        )
    else:
        try:
            with progressbar(data.shape[0], "Read", show) as bar:
                counts = load_counts(data, progress=bar.update)
        except DataError:
            if missing is None:
                raise
            raise missing from None
        digest = fingerprint(counts, data.shape[:2])
        mean = counts.mean(0, dtype=float)
    if background is not None:
        mean = np.maximum(mean - background, 0)
    if mask is not None:
        mean = np.where(mask, mean, 0)
    geometry = geometry_from_signal(
        signal, mean, disk_center=disk_center, disk_radius=disk_radius, **stated
    )
    general, left_out = inherited(signal.metadata, "General")
    return Scan(
        Experiment(counts, geometry, mask, 0.0 if background is None else background),
        digest,
        general,
        {name: value for name, value in recording.items() if value is not None},
        [*geometry.notes, *notes, *left_out],
    )


def _detector_image(name: str, value, signal, kind: type):
    """A number or an image of the detector that a user gave, checked."""
    if value is None:
        return None
    image = np.asarray(getattr(value, "data", value) if hasattr(value, "axes_manager") else value)
    shape = signal.data.shape[-2:]
    if kind is bool and (image.dtype.kind != "b" or image.shape != shape):
        raise ParameterError(
            f"{name} is an array of bool with the detector's shape (ky, kx) = {shape}, True for "
            f"the pixels to use; got {image.dtype} of shape {image.shape}."
        )
    if kind is bool:
        if not image.any():
            raise ParameterError(f"{name} leaves no pixel to use: True is for the pixels to use.")
        return image
    if image.dtype.kind not in "uif" or image.shape not in ((), shape):
        raise ParameterError(
            f"{name} is a number of counts or an array with the detector's shape (ky, kx) = "
            f"{shape}; got {image.dtype} of shape {image.shape}."
        )
    if not (np.isfinite(image).all() and (image >= 0).all()):
        raise ParameterError(f"{name} must be finite and not negative.")
    return image.astype(float) if image.ndim else float(image)


def wrap_reconstruction(
    scan: Scan,
    parameters: Mapping[str, Any],
    reconstruction: Reconstruction,
    seed: int,
    tuning: Mapping[str, Any] | None = None,
) -> PtychographicObject:
    """A reconstruction as a HyperSpy signal.

    Parameters
    ----------
    scan
        What was reconstructed.
    parameters
        All of them, as from `Experiment.complete`.
    reconstruction
        The result.
    seed
        Of the reconstruction.
    tuning
        As for `PtychographicObject.from_reconstruction`.
    """
    parameters, corrections = scan.experiment.corrected(parameters, reconstruction)
    n_iterations = len(reconstruction.errors)
    said = remarks(scan.experiment, parameters)
    starts = {name: start for name, start in parameters.items() if name.endswith("_start")}
    late = [name for name, start in starts.items() if start is not None and start >= n_iterations]
    if late and reconstruction.status == "completed":
        said.append(f"Not begun within {n_iterations} iterations: {', '.join(late)}.")
    for remark in said:
        _logger.warning(remark)
    for correction in corrections:
        _logger.info(correction)
    notes = [*scan.notes, *said, *corrections]
    geometry = scan.experiment.geometry.flipped(parameters["detector_flip"])
    pixel = np.array(geometry.object_pixel)
    placement = reconstruction.placement
    shape = np.array(geometry.detector_shape)
    to_middle = np.array(geometry.disk_center) - shape // 2
    found = {"coefficients": reconstruction.coefficients, "brightness": reconstruction.brightness}
    if reconstruction.variable_modes is not None:
        found["variable_modes"] = center_beam(reconstruction.variable_modes, to_middle)
    positions = placement.corners + shape // 2 + placement.fractions[placement.classes]
    several = parameters["n_slices"] > 1
    spacing = parameters["thickness"] / parameters["n_slices"] if several else None
    probe_axes = [
        {"name": name, "scale": pixel[i], "offset": -(shape[i] // 2) * pixel[i], "units": "Å"}
        for i, name in enumerate("yx")
    ]
    return PtychographicObject.from_reconstruction(
        reconstruction.object,
        axes=object_axes(geometry, reconstruction.object.shape, -placement.origin * pixel, spacing),
        probe=center_beam(reconstruction.probe, to_middle),
        probe_axes=probe_axes,
        positions=(positions - placement.origin) * pixel,
        scan_shape=geometry.scan_shape,
        found={name: values for name, values in found.items() if values is not None},
        history={"error": reconstruction.errors, **reconstruction.history},
        parameters={**parameters, "n_iterations": n_iterations},
        geometry=geometry.to_dict(),
        recording=scan.recording,
        status=reconstruction.status,
        seed=seed,
        versions=versions(VERSIONS),
        fingerprint=scan.fingerprint,
        notes=notes,
        tuning=tuning,
        original_metadata_general=scan.general,
    )
