"""What a method would need for a signal, without reading its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hs_autoptycho._quantities import QUANTITIES
from hs_autoptycho.calibration import scan_step_and_object_pixel
from hs_autoptycho.ptycho import memory as limits
from hs_autoptycho.ptycho.batches import default_batch_size
from hs_autoptycho.ptycho.geometry_estimate import GEOMETRY_PASSES, images_memory, looked_at
from hs_autoptycho.ptycho.loading import check_type
from hs_autoptycho.ptycho.memory import MemoryPlan, NotEnoughMemoryError, ReadingPlan, plan_for
from hs_autoptycho.ptycho.parameters import (
    CALL,
    PARAMETERS,
    RECORDING,
    check_names,
    check_parameters,
)
from hs_autoptycho.ptycho.patterns import DETECTOR_FLIPS
from hs_autoptycho.ptycho.stored import (
    Cache,
    cache_for,
    largest_block,
    part_that_is_read,
    reading_memory,
)

# What clustering needs, as it was measured: of a block, of the sample summed in boxes, and of the
# numbers that are kept of all patterns, so many copies at a time; and the program, in bytes.
_COPIES_OF_BLOCK, _COPIES_OF_SAMPLE, _COPIES_OF_VALUES = 2, 3, 3
_PROGRAM_OF_CLUSTERING = 0.35e9


@dataclass(frozen=True)
class Work:
    """What a method does with a scan, as far as memory is concerned.

    Attributes
    ----------
    passes : float
        Over all patterns, where they stay on disk; those of an estimate of the geometry come on
        top.
    copies : float
        Arrays as large as the data, where they are in memory. Of a reconstruction: the counts, and
        those in the order of the kernels.
    geometry, reconstruction : bool
        Whether the geometry is estimated, and whether anything is reconstructed.
    """

    passes: float = 1.0
    copies: float = 2.0
    geometry: bool = False
    reconstruction: bool = True


def estimate_memory(signal: Any, **parameters: Any) -> MemoryPlan:
    """How much memory ``signal.reconstruct_ptycho(**parameters)`` would need.

    Nothing is read but axes and metadata. The estimate is for the present number of numba threads;
    a reconstruction logs its own plan before it starts, and refuses to start where that is more
    than there is.

    Parameters
    ----------
    signal
        HyperSpy signal ``(x, y | kx, ky)``, lazy or not.
    **parameters
        As for ``reconstruct_ptycho``.

    Returns
    -------
    MemoryPlan
        Bytes by purpose, and their ``total``; as a string, the same in GB. The signal's own data
        are not among them. A lazy signal that fits into memory twice is read into it, which comes
        on top (``signal.data.nbytes``). Of a larger one a part is kept at a time.

    Raises
    ------
    CalibrationError, DataError
        If a length or energy is missing; for complex and other types.
    ParameterError, TypeError
        For a parameter of a wrong value, or an unknown one.

    Examples
    --------
    >>> import hs_autoptycho
    >>> from hs_autoptycho.data import twisted_bilayer_mos2
    >>> plan = hs_autoptycho.estimate_memory(twisted_bilayer_mos2(), n_probe_modes=4)
    >>> print(plan)  # doctest: +ELLIPSIS
    0.3... GB (patterns 0.01, object 0.00, groups 0.00, probes 0.0..., threads 0.0..., program 0.35)
    """
    for name in (*RECORDING, *CALL):
        parameters.pop(name, None)
    check_names(parameters)
    return _plan(signal, parameters, stored=stays_on_disk(signal, Work().copies))


def _plan(signal: Any, parameters: Mapping[str, Any], *, stored: bool) -> MemoryPlan:
    """The plan of a reconstruction, of patterns on disk or in memory."""
    checked = check_parameters(parameters)
    names = ("beam_energy", "scan_step", "reciprocal_pixel")
    stated = {name: checked[name] for name in names if name in checked}
    check_type(signal.data.dtype)
    step, pixel = scan_step_and_object_pixel(signal, **stated)
    values = {name: p.default for name, p in PARAMETERS.items()}
    stated = signal.metadata.get_item(QUANTITIES["scan_rotation"].item)
    known = stated is not None and not QUANTITIES["scan_rotation"].complaint(stated)
    values["scan_rotation"] = float(stated) if known else 0.0
    values["algorithm"] = checked.get("algorithm", values["algorithm"])
    scan_shape, window = signal.data.shape[:2], signal.data.shape[2:]
    values["batch_size"] = default_batch_size(values["algorithm"], scan_shape[0] * scan_shape[1])
    values["scan_step"] = step
    values.update(checked)
    if DETECTOR_FLIPS[values["detector_flip"]][0]:
        window, pixel = window[::-1], pixel[::-1]
    needed = stored_memory(signal.data) if stored else None
    return plan_for(values, scan_shape, window, pixel, signal.data.dtype, stored=needed)


def stays_on_disk(signal: Any, copies: float) -> bool:
    """Whether a signal is lazy and too large to be read into memory."""
    return bool(signal._lazy) and not limits.fits(signal.data.nbytes, copies)


def make_cache() -> Cache:
    """A cache of a size that fits into memory."""
    return cache_for(limits.available_memory())


def stored_memory(data: Any, *, cached: bool = True) -> int:
    """Bytes that a dask array needs while its patterns are read, with what is kept of them."""
    return reading_memory(make_cache().n_bytes if cached else 0, largest_block(data))


def plan_reading(
    signal: Any, parameters: Mapping[str, Any], work: Work | None = None
) -> ReadingPlan:
    """How a signal will be read.

    Parameters
    ----------
    signal
        HyperSpy signal ``(x, y | kx, ky)``.
    parameters
        Checked parameters of a reconstruction; others than these have their defaults.
    work
        What will be done. Default: something that needs all patterns in memory.

    Raises
    ------
    NotEnoughMemoryError
        If they have to be read into memory and cannot, or not even chunk by chunk.
    """
    data = signal.data
    stored = work is not None and stays_on_disk(signal, work.copies)
    if signal._lazy and not stored:
        limits.check_reading(data.nbytes)
    work = work or Work()
    plan = _plan(signal, parameters, stored=stored)
    reading = stored_memory(data, cached=work.reconstruction) if stored else data.nbytes
    then = plan.total - plan.program - (plan.patterns if stored else 0)
    # one after the other
    most = max(images_memory(data.shape) * work.geometry, then * work.reconstruction)
    memory = plan.program + reading + most
    if not stored:
        return ReadingPlan(data.nbytes, float(signal._lazy), False, memory)
    check_blocks(reading, data)
    passes = work.passes
    if work.geometry:
        passes += GEOMETRY_PASSES * part_that_is_read(data, *looked_at(data.shape[:2]))
    return ReadingPlan(data.nbytes, passes, True, memory)


def check_blocks(needed: int, data: Any) -> None:
    """Raise a NotEnoughMemoryError if a dask array cannot even be read chunk by chunk."""
    free = limits.available_memory()
    if needed > free:
        raise NotEnoughMemoryError(
            f"The patterns have {data.nbytes / 1e9:.2f} GB. To read them part by part takes "
            f"{needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free; their largest chunk has "
            f"{largest_block(data) / 1e9:.2f} GB. Store them in chunks of some 32 to 128 MB that "
            "hold whole patterns, `s.rechunk(nav_chunks=(32, 32))` and `s.save('scan.zspy')`, or "
            "take a part of the scan, `s.inav[:256, :256]`."
        )


def plan_clustering(data: Any, num_workers: int | None = None) -> ReadingPlan:
    """How `cluster_hierarchical` will read data: a sample, and all of them twice.

    Parameters
    ----------
    data
        Array ``(scan_y, scan_x, k_y, k_x)``, numpy or dask.
    num_workers
        Threads. Default: all cores.
    """
    from dask.system import CPU_COUNT

    from hs_autoptycho.clustering.basis import n_features
    from hs_autoptycho.clustering.streaming import scan_blocks
    from hs_autoptycho.clustering.survey import boxes_along, sample_blocks

    scan_shape, shape = data.shape[:2], data.shape[2:]
    n_positions, pixels = math.prod(scan_shape), math.prod(shape)
    per_pattern = data.dtype.itemsize * pixels
    stored = hasattr(data, "chunks")
    blocks, sample = scan_blocks(data), sample_blocks(scan_shape)

    def area(block):
        return (block[1] - block[0]) * (block[3] - block[2])

    n_sampled = sum(area(block) for block in sample)
    values = 4 * n_positions * (3 + 2 * n_features(n_positions))
    boxes = 4 * n_sampled * math.prod(boxes_along(shape))
    reading = (num_workers or CPU_COUNT) * _COPIES_OF_BLOCK * max(map(area, blocks)) * per_pattern
    memory = _PROGRAM_OF_CLUSTERING + max(
        reading + _COPIES_OF_SAMPLE * boxes, reading + values, _COPIES_OF_VALUES * values
    )
    if not stored:
        return ReadingPlan(data.nbytes, 0.0, False, int(memory + data.nbytes))
    # a square of the sample is as a rule in one chunk, which is read as a whole
    chunks = len(data.chunks[0]) * len(data.chunks[1])
    passes = 2 + min(1.0, max(len(sample) / chunks, n_sampled / n_positions))
    return ReadingPlan(data.nbytes, passes, True, int(memory))
