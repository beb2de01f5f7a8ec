"""From a HyperSpy signal to arrays, and from a reconstruction back to a HyperSpy signal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hs_autoptycho._quantities import QUANTITIES
from hs_autoptycho._running import progressbar, versions
from hs_autoptycho.calibration import check_signal, geometry_from_signal, object_axes
from hs_autoptycho.ptycho.experiment import UNKNOWN_DEFOCUS, Experiment
from hs_autoptycho.ptycho.loading import fingerprint, load_counts
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.ptycho.probe import center_beam
from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.signals import PtychographicObject

_logger = logging.getLogger(__name__)

# what the numbers in a result depend on
_VERSIONS = ("hs_autoptycho", "hyperspy", "numpy", "scipy", "numba", "scikit-optimize")


@dataclass
class Scan:
    """A scan that was read from a signal, and what its results remember of the signal."""

    experiment: Experiment
    fingerprint: str
    general: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_scan(
    signal,
    parameters: Mapping[str, Any],
    show_progressbar: bool | None,
    *,
    disk_center: tuple[float, float] | None = None,
    disk_radius: float | None = None,
    needs_defocus: bool = False,
) -> Scan:
    """Read a signal's geometry and counts.

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
    needs_defocus
        Whether it is an error if the defocus is not known.
    """
    names = ("beam_energy", "convergence_angle", "scan_step", "reciprocal_pixel",
             "scan_rotation", "defocus")  # fmt: skip
    stated = {name: parameters[name] for name in names if name in parameters}
    check_signal(signal, **stated)
    if needs_defocus and "defocus" not in stated:
        # what can be known before the data are read, which may take long, is told before
        if signal.metadata.get_item(QUANTITIES["defocus"].item) is None:
            raise ParameterError(UNKNOWN_DEFOCUS)
    data = signal.data
    show = show_progressbar if signal._lazy else False
    with progressbar(data.shape[0], "Read", show) as bar:
        counts = load_counts(data, progress=bar.update)
    mean = counts.mean(0, dtype=float)
    geometry = geometry_from_signal(
        signal, mean, disk_center=disk_center, disk_radius=disk_radius, **stated
    )
    return Scan(
        Experiment(counts, geometry),
        fingerprint(counts, geometry.scan_shape),
        signal.metadata.General.as_dictionary(),
        list(geometry.notes),
    )


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
    remarks = scan.experiment.remarks(parameters)
    for remark in remarks:
        _logger.warning(remark)
    notes = [*scan.notes, *remarks]
    geometry = scan.experiment.geometry.flipped(parameters["detector_flip"])
    pixel = np.array(geometry.object_pixel)
    placement = reconstruction.placement
    shape = np.array(geometry.detector_shape)
    positions = placement.corners + shape // 2 + placement.fractions[placement.classes]
    probe_axes = [
        {"name": name, "scale": pixel[i], "offset": -(shape[i] // 2) * pixel[i], "units": "Å"}
        for i, name in enumerate("yx")
    ]
    return PtychographicObject.from_reconstruction(
        reconstruction.object,
        axes=object_axes(geometry, reconstruction.object.shape, -placement.origin * pixel),
        probe=center_beam(reconstruction.probe, np.array(geometry.disk_center) - shape // 2),
        probe_axes=probe_axes,
        positions=(positions - placement.origin) * pixel,
        scan_shape=geometry.scan_shape,
        history={"error": reconstruction.errors},
        parameters={**parameters, "n_iterations": len(reconstruction.errors)},
        geometry=geometry.to_dict(),
        status=reconstruction.status,
        seed=seed,
        versions=versions(_VERSIONS),
        fingerprint=scan.fingerprint,
        notes=notes,
        tuning=tuning,
        original_metadata_general=scan.general,
    )
