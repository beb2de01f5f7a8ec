"""One scan and its geometry, reconstructed with one set of parameters or another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError
from hs_autoptycho.ptycho.patterns import Patterns, flip_detector
from hs_autoptycho.ptycho.positions import Placement, place, scan_positions
from hs_autoptycho.ptycho.probe import (
    ABERRATIONS,
    beam_frequencies,
    disk_aperture,
    make_modes,
    make_probe,
    measured_aperture,
)
from hs_autoptycho.ptycho.solver import Reconstruction, State, default_batch_size, reconstruct

# A larger object than this is a mistake in the scan step or the detector's calibration.
LARGEST_OBJECT = 400e6
# largest part of the probe's intensity that may lie in the outer tenth of its window
LARGEST_SPILL = 0.25

UNKNOWN_DEFOCUS = (
    "The defocus is not known. Give it in the call, `defocus=300` (Å, positive for underfocus), or "
    "let `autotune_ptycho` find it."
)


@dataclass
class Experiment:
    """Counts of a scan and what is known of how they were recorded.

    Attributes
    ----------
    counts : array (positions, k_y, k_x)
        As they were recorded, in the order of the scan.
    geometry : Geometry
    """

    counts: np.ndarray
    geometry: Geometry
    _patterns: dict[str, Patterns] = field(default_factory=dict, repr=False)

    @property
    def counted(self) -> bool:
        """Whether the data are whole counts."""
        return self.counts.dtype.kind in "ui"

    @cached_property
    def mean_pattern(self) -> np.ndarray:
        """Mean of all patterns, (k_y, k_x)."""
        return self.counts.mean(0, dtype=float)

    def with_counts(self, counts: np.ndarray) -> Experiment:
        """The same experiment with other counts."""
        return Experiment(counts, self.geometry)

    def patterns(self, flip: str = "none") -> Patterns:
        """The counts in the kernels' order; the last orientation is kept."""
        if flip not in self._patterns:
            self._patterns.clear()
            some = 256  # at a time, so that no second copy of everything is made
            blocks = (self.counts[i : i + some] for i in range(0, len(self.counts), some))
            self._patterns[flip] = Patterns.from_blocks(
                blocks, len(self.counts), self.counts.shape[1:], flip=flip
            )
        return self._patterns[flip]

    def complete(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter: the given ones, else the geometry's, else the defaults.

        Raises
        ------
        ParameterError
            If the defocus is neither given nor in the geometry.
        """
        geometry = self.geometry
        values: dict[str, Any] = {name: p.default for name, p in PARAMETERS.items()}
        for name in ("beam_energy", "reciprocal_pixel", "scan_step", "scan_rotation", "defocus"):
            values[name] = getattr(geometry, name)
        values["convergence_angle"] = geometry.measured_convergence_angle
        values.update(parameters)
        if values["defocus"] is None:
            raise ParameterError(UNKNOWN_DEFOCUS)
        least_squares = values["algorithm"] == "lsq-ml"
        defaults = {
            # a convergence angle that somebody gave is meant to be used
            "aperture": "disk" if "convergence_angle" in parameters else "measured",
            "noise_model": "poisson" if self.counted else "amplitude",
            "batch_size": default_batch_size(values["algorithm"], len(self.counts)),
            "step_object": 1.0 if least_squares else 0.3,
            "step_probe": 1.0 if least_squares else 0.3,
        }
        return {k: defaults.get(k) if v is None else v for k, v in values.items()}

    def start(self, values: Mapping[str, Any]) -> tuple[Placement, np.ndarray]:
        """Positions on the object, and the modes of the initial probe.

        Parameters
        ----------
        values
            What :meth:`complete` returns.
        """
        geometry = self.geometry.flipped(values["detector_flip"])
        shape, pixel = geometry.detector_shape, geometry.object_pixel
        offset = np.array(geometry.disk_center) - np.array(shape) // 2
        k = beam_frequencies(shape, pixel, tuple(offset))
        mrad = 1e-3 / geometry.wavelength
        if values["aperture"] == "measured":
            mean = flip_detector(self.mean_pattern, values["detector_flip"])
            aperture = measured_aperture(mean, *k, geometry.measured_convergence_angle * mrad)
        else:
            aperture = disk_aperture(*k, values["convergence_angle"] * mrad)
        aberrations = {name: values[name] for name in ("defocus", *ABERRATIONS)}
        probe = make_probe(aperture, *k, geometry.wavelength, **aberrations)
        positions = scan_positions(
            geometry.scan_shape,
            values["scan_step"],
            rotation=values["scan_rotation"],
            scale=values["scan_scale"],
            shear=values["scan_shear"],
            aspect=values["scan_aspect"],
        )
        extent = np.ptp(positions, axis=0) / pixel + np.array(shape) + 4
        if math.prod(extent) > LARGEST_OBJECT:
            raise ParameterError(
                f"The object would have {extent[0]:.0f} × {extent[1]:.0f} pixels. Are the scan "
                f"step ({values['scan_step']:g} Å) and the object pixel ({pixel[0]:.4g} Å, from "
                f"the detector's {geometry.reciprocal_pixel:g} 1/Å) right?"
            )
        placement = place(positions / np.array(pixel), shape)
        return placement, make_modes(probe, values["n_probe_modes"])

    def remarks(self, values: Mapping[str, Any]) -> list[str]:
        """What a user should know of a set of parameters, one sentence each."""
        spill = probe_spill(self.start(values)[1])
        if spill < LARGEST_SPILL:
            return []
        window = 1 / self.geometry.reciprocal_pixel
        return [
            f"{100 * spill:.0f} % of the initial probe lie in the outer tenth of its window of "
            f"{window:.4g} Å: with this defocus the detector's pixels are too coarse."
        ]

    def fit(
        self,
        parameters: Mapping[str, Any],
        *,
        n_iterations: int,
        random_state: int = 0,
        subset: np.ndarray | None = None,
        callback: Callable[[int, float], None] | None = None,
    ) -> tuple[Reconstruction, State]:
        """Reconstruct with some parameters; see :func:`hs_autoptycho.ptycho.solver.reconstruct`."""
        values = self.complete(parameters)
        placement, modes = self.start(values)
        return reconstruct(
            self.patterns(values["detector_flip"]),
            placement,
            modes,
            n_iterations=n_iterations,
            algorithm=values["algorithm"],
            noise_model=values["noise_model"],
            batch_size=values["batch_size"],
            step_object=values["step_object"],
            step_probe=values["step_probe"],
            probe_start=values["probe_start"],
            random_state=random_state,
            subset=subset,
            callback=callback,
        )


def probe_spill(probe: np.ndarray) -> float:
    """Part of a probe's intensity in the outer tenth of its window, on every side."""
    power = (np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(0)
    rows, columns = (max(1, n // 10) for n in power.shape)
    return float(1 - power[rows:-rows, columns:-columns].sum() / power.sum())
