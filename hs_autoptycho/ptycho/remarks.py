"""What is likely to be a mistake in a reconstruction's parameters, or has no effect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hs_autoptycho._quantities import electron_wavelength
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.probe import ABERRATIONS, probe_width

# largest part of the probe's intensity that may lie in the outer tenth of its window
_LARGEST_SPILL = 0.25
# smallest overlap of neighbouring probes, as a part of their width
_SMALLEST_OVERLAP = 0.15


def remarks(experiment: Experiment, values: Mapping[str, Any]) -> list[str]:
    """What a user should know of a set of parameters, one sentence each.

    Parameters
    ----------
    experiment
        What is reconstructed with them.
    values
        All of them, as from `Experiment.complete`.
    """
    out = []
    spill = probe_spill(experiment.start(values)[1])
    if spill >= _LARGEST_SPILL:
        window = 1 / experiment.geometry.reciprocal_pixel
        out.append(
            f"{100 * spill:.0f} % of the initial probe lie in the outer tenth of its window of "
            f"{window:.4g} Å: with this defocus the detector's pixels are too coarse."
        )
    aberrations = {name: values[name] for name in ABERRATIONS}
    width = probe_width(
        values["convergence_angle"],
        values["defocus"],
        electron_wavelength(values["beam_energy"]),
        aberrations,
    )
    step = values["scan_step"] * values["scan_scale"]
    if step > (1 - _SMALLEST_OVERLAP) * width:
        out.append(
            f"Steps of {step:.4g} Å are long for a probe that is about {width:.3g} Å wide with "
            "this defocus: neighbouring patterns have next to nothing in common. Are the units "
            "of the scan's axes right?"
        )
    empty = np.flatnonzero(experiment.totals == 0)
    if len(empty):
        y, x = divmod(int(empty[0]), experiment.geometry.scan_shape[1])
        out.append(
            f"{len(empty)} of {len(experiment.totals)} patterns are empty and were left out; the "
            f"first is at scan position (x={x}, y={y})."
        )
    idle = [name for name in ("thickness", "tilt_x", "tilt_y") if values[name]]
    if values["n_slices"] == 1 and idle:
        out.append(
            f"Without effect: {', '.join(idle)}. Of an object of one slice they change "
            "nothing; `n_slices=2` or more takes them into account."
        )
    if values["saturation"] is None and math.isfinite(experiment.saturation):
        out.append(
            f"Pixels with {experiment.saturation:.0f} counts, the largest number of their type, "
            "were taken for saturated: they tell only that there are at least so many."
        )
    return out


def probe_spill(probe: np.ndarray) -> float:
    """Part of a probe's intensity in the outer tenth of its window, on every side."""
    power = (np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(0)
    rows, columns = (max(1, n // 10) for n in power.shape)
    return float(1 - power[rows:-rows, columns:-columns].sum() / power.sum())
