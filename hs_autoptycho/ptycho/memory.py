"""How much memory a reconstruction needs, before it begins."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import psutil

from hs_autoptycho.ptycho.holdout import POSITIONS
from hs_autoptycho.ptycho.patterns import kernel_type
from hs_autoptycho.ptycho.positions import GridDistortion
from hs_autoptycho.ptycho.state import group_count

# Arrays that a pass makes and drops again on the object's grid, in float32 numbers a pixel:
# illumination, windows of the line search, transforms.
_PASSING_PLANES = 14
# Patterns that are brought into the order of the kernels at a time.
_BLOCK = 256
# Numbers of each position: sums, places on the object's grid, brightness; bytes.
_BY_POSITION = 160
# Interpreter, libraries and compiled kernels, beside the data.
_PROGRAM = 0.35e9
# What is left beside data that are read into memory.
_SPARE = 0.5e9


class NotEnoughMemoryError(MemoryError):
    """A reconstruction would need more memory than there is; the message says how much and why."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a reconstruction needs beside the signal itself.

    Attributes
    ----------
    patterns : int
        Counts in the order of the kernels, in their own type; with coarse passes the central parts
        too, and with early stopping what is held out.
    object : int
        Object, its gradient, and what a pass needs on its grid.
    groups : int
        Gradients of the groups that share out a batch.
    probes : int
        Modes, their gradients and transforms.
    threads : int
        Working memory of all threads.
    program : int
        Interpreter and libraries.
    """

    patterns: int
    object: int
    groups: int
    probes: int
    threads: int
    program: int = int(_PROGRAM)

    @property
    def total(self) -> int:
        """Sum of all."""
        return self.patterns + self.object + self.groups + self.probes + self.threads + self.program

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {getattr(self, name) / 1e9:.2f}"
            for name in ("patterns", "object", "groups", "probes", "threads", "program")
        )
        return f"{self.total / 1e9:.2f} GB ({parts})"


def plan_memory(
    *,
    n_positions: int,
    window: tuple[int, int],
    object_shape: tuple[int, int, int],
    n_modes: int,
    n_variable_modes: int,
    count_type: np.dtype,
    batch_size: int,
    n_threads: int,
    derivatives: bool,
    copies: int,
    coarse: bool,
    held_out: bool,
) -> MemoryPlan:
    """What a reconstruction needs.

    Parameters
    ----------
    n_positions
        Of the scan.
    window
        Detector pixels (rows, columns).
    object_shape
        (slices, Y, X).
    n_modes, n_variable_modes
        Of the probe.
    count_type
        Of the data.
    batch_size
        Positions a batch.
    n_threads
        Of the kernels.
    derivatives
        Whether thickness or tilt are corrected.
    copies
        How many arrays as large as the object there are at a time, the object among them.
    coarse
        Whether coarse patterns come first.
    held_out
        Whether counts are held out for early stopping.
    """
    pixels = math.prod(window)
    n_slices = object_shape[0]
    plane = math.prod(object_shape[1:])
    groups = group_count(batch_size, window, object_shape[1:])
    modes = n_modes + n_variable_modes
    between = n_modes * (n_slices - 1) * 2 * pixels * (2 if derivatives else 1)
    thread = 2 * pixels * (3 * n_modes + 2) + between + pixels
    counts = pixels * kernel_type(count_type).itemsize
    patterns = n_positions * counts * (1.5 if coarse else 1) + min(_BLOCK, n_positions) * counts
    if held_out:  # the counts, both parts of them, and what the model says
        some = min(POSITIONS, n_positions)
        patterns += some * (3 * counts + 4 * pixels)
        groups = max(groups, group_count(some, window, object_shape[1:]))
    return MemoryPlan(
        patterns=int(patterns),
        object=4 * plane * (2 * n_slices * copies + _PASSING_PLANES),
        groups=4 * groups * (2 * n_slices * plane + 2 * pixels * modes),
        probes=4 * 2 * pixels * modes * 12,
        threads=4 * n_threads * thread,
    )


def plan_for(
    values: Mapping[str, Any],
    scan_shape: tuple[int, int],
    window: tuple[int, int],
    pixel_size: tuple[float, float],
    count_type: np.dtype,
    *,
    stored: int | None = None,
) -> MemoryPlan:
    """The plan for a scan and all parameters of a reconstruction.

    Parameters
    ----------
    values
        All parameters.
    scan_shape
        (slow, fast).
    window
        Detector pixels (rows, columns), after its flip.
    pixel_size
        Of the object, in Å (rows, columns).
    count_type
        Of the data.
    stored
        Bytes with which patterns are read that stay on disk. Default: they are in memory.
    """
    corners = np.array([[0, 0], [scan_shape[0] - 1, 0], [0, scan_shape[1] - 1],
                        [scan_shape[0] - 1, scan_shape[1] - 1]])  # fmt: skip
    distortion = GridDistortion(
        values["scan_rotation"], values["scan_scale"], values["scan_shear"], values["scan_aspect"]
    )
    positions = values["scan_step"] * corners @ distortion.matrix.T / np.array(pixel_size)
    extent = np.ptp(positions, axis=0) + np.array(window) + 4
    growing = any(values[f"{name}_correction_start"] is not None for name in ("grid", "position"))
    if growing:
        extent = 1.1 * extent
    correcting = [values[f"{name}_correction_start"] for name in ("thickness", "tilt")]
    plan = plan_memory(
        n_positions=math.prod(scan_shape),
        window=window,
        object_shape=(values["n_slices"], *(int(n) for n in np.ceil(extent))),
        n_modes=values["n_probe_modes"],
        n_variable_modes=values["n_variable_modes"],
        count_type=count_type,
        batch_size=values["batch_size"],
        n_threads=min(numba.get_num_threads(), values["batch_size"]),
        derivatives=any(start is not None for start in correcting),
        copies=_copies(values, growing),
        coarse=values["coarse_iterations"] > 0,
        held_out=values["early_stopping"] is not None,
    )
    if stored is None:
        return plan
    # of each position: sums, start and corrected values, what the object's grid needs to know
    by_position = _BY_POSITION * math.prod(scan_shape)
    return replace(plan, patterns=stored, probes=plan.probes + by_position)


def _copies(values: Mapping[str, Any], growing: bool) -> int:
    """Arrays as large as the object, as they were counted."""
    kept = 2  # the object and its gradient
    if values["algorithm"] == "gradient":
        kept += 4  # the last gradient and direction, the sum, and what becomes of them
    elif values["momentum"] > 0:
        kept += 1
    passing = 2 if growing else 1  # at least that of the result
    if values["regularization_depth"]:
        passing = 6
    elif any(values[f"regularization_{name}"] for name in ("positivity", "tv", "bandwidth")):
        passing = 4
    return kept + passing


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, or of its own limits."""
    free = psutil.virtual_memory().available
    if sys.platform == "linux":
        import resource

        used = psutil.Process().memory_info()
        for kind, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, used.rss)):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                free = min(free, soft - taken)
    return int(max(0, free))


def check_memory(plan: MemoryPlan) -> None:
    """Raise a NotEnoughMemoryError if a plan cannot be kept."""
    free = available_memory()
    needed = plan.total - plan.program  # this program runs already
    if needed > free:
        names = ("patterns", "object", "groups", "probes", "threads")
        largest = max(names, key=lambda name: getattr(plan, name))
        remedy = {
            "patterns": "crop or bin the detector, or take a part of the scan",
            "object": "crop the detector or scan a smaller field; fewer slices",
            "groups": "a smaller batch_size, or fewer slices",
            "probes": "fewer probe modes, or crop the detector",
            "threads": "fewer threads (num_workers), slices or probe modes",
        }[largest]
        raise NotEnoughMemoryError(
            f"The reconstruction needs {needed / 1e9:.2f} GB beside the data and "
            f"{free / 1e9:.2f} GB are free. Needed: {plan}. What would help: {remedy}."
        )


def fits(n_bytes: int, copies: float) -> bool:
    """Whether data of so many bytes, and what is made of them, leave some memory free."""
    return copies * n_bytes + _SPARE <= available_memory()


def check_reading(n_bytes: int) -> None:
    """Raise a NotEnoughMemoryError if a lazy signal of so many bytes cannot be in memory."""
    free = available_memory()
    if n_bytes > free:
        raise NotEnoughMemoryError(
            f"The patterns have {n_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; all of "
            "them have to be in memory here. Take a part of the scan, "
            "`s.inav[:256, :256]`, crop or bin the detector, `s.isig[...]`, `s.rebin(...)`, or "
            "convert counts to a smaller type, `s.change_dtype('uint16')`."
        )


@dataclass(frozen=True)
class ReadingPlan:
    """What a method reads, needs and writes, before it starts.

    Attributes
    ----------
    n_bytes : int
        Of the data, in the type of the file.
    passes : float
        How often they are read, at most. 0 for data that are in memory.
    stored : bool
        Whether they stay where they are stored; else they are read into memory.
    memory : int
        Bytes that are needed at most, the data among them where they are in memory.
    """

    n_bytes: int
    passes: float
    stored: bool
    memory: int

    def __str__(self) -> str:
        size = f"{self.n_bytes / 1e9:.2f} GB"
        if self.stored:
            data = (
                f"{size} stay where they are stored and are read in at most {self.passes:.4g} "
                f"passes, {self.passes * self.n_bytes / 1e9:.4g} GB in all"
            )
        else:
            data = f"{size} are {'read into' if self.passes else 'in'} memory"
        return f"{data}; memory up to {self.memory / 1e9:.2f} GB; temporary disk 0 GB"
