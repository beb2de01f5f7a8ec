"""From clusters and their signal to arrays, and from fitted lattices back to a HyperSpy signal."""

from __future__ import annotations

import logging
import math
import numbers
from typing import Any

import numpy as np

from hs_autoptycho._running import check_count, progressbar
from hs_autoptycho._units import UnitError, read_unit
from hs_autoptycho.clustering.boundaries import boundary_lengths
from hs_autoptycho.clustering.deformation import rotation_between, stretch_and_turn
from hs_autoptycho.clustering.lattice import NoLattice
from hs_autoptycho.clustering.strain import (
    REASONS,
    StrainResult,
    cluster_statistics,
    fit_strain,
)
from hs_autoptycho.signals import StrainMap

_logger = logging.getLogger(__name__)

# degrees from the reference beyond which a cluster is another grain rather than a bent one
_LARGEST_TURN = 5.0

_OPTIONS = (
    "reference", "spatial_smoothing", "max_strain", "max_shift", "disk_radius",
    "show_progressbar", "num_workers",
)  # fmt: skip


def map_strain(
    clusters,
    signal,
    *,
    reference: Any,
    spatial_smoothing: float,
    max_strain: float,
    max_shift: int | None,
    disk_radius: float | None,
    show_progressbar: bool | None,
    num_workers: int | None,
    **unknown: Any,
) -> StrainMap:
    """See `HierarchicalClusters.map_strain`; `clusters` is what it is a method of."""
    if unknown:
        raise TypeError(
            f"map_strain() has no option {', '.join(sorted(unknown))}; its options are "
            f"{', '.join(_OPTIONS)}"
        )
    labels = clusters.leaf_labels
    patterns = clusters.leaf_patterns
    _check_signal(signal, labels.shape, patterns.data.shape[1:])
    scales, units = _scales(signal)
    _check_number("spatial_smoothing", spatial_smoothing, 0, 100)
    _check_number("max_strain", max_strain, 0, 0.5, above=True)
    if max_shift is not None and (
        isinstance(max_shift, bool) or not isinstance(max_shift, numbers.Integral) or max_shift < 0
    ):
        raise ValueError(f"max_shift={max_shift!r}: a whole number of pixels from 0 is needed.")
    if disk_radius is not None:
        _check_number("disk_radius", disk_radius, 0, math.inf, above=True)
    if num_workers is not None:
        check_count("num_workers", num_workers)
    reference = _reference(reference, labels.shape, len(patterns.data))
    with progressbar(labels.size, "Strain", show_progressbar) as bar:
        result = fit_strain(
            signal.data,
            labels,
            np.asarray(patterns.data, dtype=float),
            scales=scales,
            reference=reference,
            spatial_smoothing=float(spatial_smoothing),
            max_strain=float(max_strain),
            max_shift=max_shift,
            disk_radius=disk_radius,
            progress=bar.update,
            num_workers=num_workers,
        )
    notes = []
    if not isinstance(reference, str):  # with "own" no cluster is far from its reference
        notes = _far_from_reference(result, labels, scales, float(max_strain))
    for note in notes:
        _logger.warning(note)
    settings = {
        "spatial_smoothing": float(spatial_smoothing),
        "max_strain": float(max_strain),
        "max_shift": max_shift,
        "disk_radius": disk_radius,
    }
    return _wrap(result, clusters, labels, scales, units, settings, notes)


def _check_signal(signal, scan: tuple[int, ...], detector: tuple[int, ...]) -> None:
    manager = signal.axes_manager
    if (manager.navigation_dimension, manager.signal_dimension) != (2, 2):
        raise ValueError(
            f"the signal is {manager._get_dimension_str()}; a scan (x, y | kx, ky) is needed. "
            "signal.transpose(signal_axes=2) may set its axes right"
        )
    shape = signal.data.shape
    if tuple(shape[:2]) != tuple(scan) or tuple(shape[2:]) != tuple(detector):
        raise ValueError(
            f"the signal has the shape {tuple(shape)} (y, x, ky, kx), but the clusters are those "
            f"of a scan {tuple(scan)} with patterns {tuple(detector)}: give the signal that was "
            "clustered, and crop both alike"
        )
    if signal.data.dtype.kind not in "buif":
        raise ValueError(f"the patterns are {signal.data.dtype}; real numbers are needed")


def _scales(signal) -> tuple[tuple[float, float], str]:
    """Size of a pixel (k_y, k_x) in the units of the k_x axis, and these."""
    x, y = signal.axes_manager.signal_axes
    for axis in (x, y):
        if not axis.is_uniform or not np.isfinite(axis.scale) or axis.scale == 0:
            raise ValueError(
                f"the signal axis {axis.name} has no uniform scale; a lattice needs detector "
                "pixels of one size"
            )
    try:
        unit_x, unit_y = read_unit(x.units), read_unit(y.units)
    except UnitError as error:
        if x.units != y.units:
            raise ValueError(f"the units of the signal axes cannot be compared: {error}") from error
        return (float(y.scale), float(x.scale)), str(x.units)
    if unit_x.kind != unit_y.kind:
        raise ValueError(
            f"the signal axes are in {x.units!r} and {y.units!r}: set both to units of one kind, "
            "such as '1/Å', and their scales with them"
        )
    factor = unit_y.factor / unit_x.factor
    units = "px" if unit_x.kind == "none" else str(x.units)
    return (float(y.scale) * factor, float(x.scale)), units


def _check_number(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not low <= value <= high or (above and value <= low) or value == math.inf:
        start = f"above {low:g}" if above else f"from {low:g}"
        end = "" if high == math.inf else f" to {high:g}"
        raise ValueError(f"{name}={value!r}: a number {start}{end} is needed.")


def _reference(reference: Any, scan: tuple[int, ...], n_leaves: int) -> Any:
    """The reference as None, "own", an int, a boolean mask or a float array (2, 2)."""
    if reference is None or (isinstance(reference, str) and reference == "own"):
        return reference
    if isinstance(reference, numbers.Integral) and not isinstance(reference, bool):
        if not 0 <= reference < n_leaves:
            raise ValueError(
                f"reference={reference}: there is no such cluster; they go from 0 to {n_leaves - 1}"
            )
        return int(reference)
    try:
        array = np.asarray(getattr(reference, "data", reference))
    except ValueError:
        array = np.empty(0)
    if array.dtype == bool:
        if array.shape != tuple(scan):
            raise ValueError(
                f"the reference mask has the shape {array.shape}, the scan {tuple(scan)} (y, x)"
            )
        return array
    if array.shape == (2, 2) and array.dtype.kind in "iuf":
        array = array.astype(float)
        size = np.prod(np.hypot(*array))
        if np.isfinite(array).all() and abs(np.linalg.det(array)) > 1e-3 * size:
            return array
        raise ValueError(
            f"reference={reference!r}: the columns g1 and g2 are parallel or not finite"
        )
    raise ValueError(
        f"reference={reference!r}: the number of a cluster, 'own', a boolean mask (y, x) of the "
        "scan, or lattice vectors (2, 2) as columns g1 and g2 are needed"
    )


def _far_from_reference(
    result: StrainResult, labels: np.ndarray, scales: tuple[float, float], max_strain: float
) -> list[str]:
    """A sentence on the clusters whose lattice is so far from the reference's that it is no strain.

    `max_strain` dismisses positions by the lattice of their own cluster alone: without this, the
    difference between two phases would be shown as a strain.
    """
    shown = np.unique(labels[(result.reasons == 0) & (labels >= 0)])
    far = {}
    for leaf in shown.tolist():
        strain, turn = stretch_and_turn(result.lattices[leaf].basis, result.reference, scales)
        if strain > max_strain or abs(turn) > _LARGEST_TURN:
            far[leaf] = strain, abs(turn)
    if not far:
        return []
    *others, last = map(str, far)
    which = f"Cluster {last} differs"
    if others:
        which = f"Clusters {', '.join(others)} and {last} differ"
    strain, turn = np.max(list(far.values()), axis=0)
    amounts = [f"{100 * strain:.3g} %"] if strain > max_strain else []
    amounts += [f"{turn:.3g}°"] if turn > _LARGEST_TURN else []
    return [
        f"{which} from the reference ({result.reference_text}) by up to {' and '.join(amounts)}: "
        "another phase or orientation rather than strain; reference='own' compares each cluster "
        "with itself."
    ]


def _wrap(
    result: StrainResult,
    clusters,
    labels,
    scales,
    units: str,
    settings: dict[str, Any],
    notes: list[str],
) -> StrainMap:
    """The lattices found, as a HyperSpy signal."""
    axes = [axis.get_axis_dictionary() for axis in clusters.axes_manager.signal_axes[::-1]]
    steps = [abs(float(axis.get("scale", 1.0))) for axis in axes]
    swap = np.array(scales)
    lattices, misorientations = [], []
    for leaf, lattice in enumerate(result.lattices):
        if isinstance(lattice, NoLattice):
            lattices.append({"cluster": leaf, "reason": lattice.reason})
            continue
        vectors, errors = lattice.basis * swap, lattice.errors * np.abs(swap)
        lattices.append(
            {
                "cluster": leaf,
                "g1": vectors[0, ::-1],
                "g2": vectors[1, ::-1],
                "g1_standard_error": errors[0, ::-1],
                "g2_standard_error": errors[1, ::-1],
                "origin": lattice.origin[::-1],
                "n_disks": len(lattice.indices),
                "disk_radius": result.templates[leaf].profile.radius,
                "dispersion": result.dispersions[leaf],
            }
        )
    for (a, b), length in sorted(boundary_lengths(labels, tuple(steps)).items()):
        pair = result.lattices[a], result.lattices[b]
        if any(isinstance(lattice, NoLattice) for lattice in pair):
            continue
        rotation, error = rotation_between(*pair, scales)
        misorientations.append(
            {
                "clusters": (a, b),
                "rotation": rotation,
                "standard_error": error,
                "boundary_length": length,
            }
        )
    return StrainMap.from_strain(
        result.strain,
        scan_axes=axes,
        standard_errors=result.errors,
        reasons=result.reasons,
        reason_table=REASONS,
        leaf_labels=labels,
        lattices=lattices,
        misorientations=misorientations,
        cluster_statistics=cluster_statistics(
            result.strain, labels, len(result.lattices), settings["spatial_smoothing"]
        ),
        reference={
            "description": result.reference_text,
            "g1": result.reference[0, ::-1],
            "g2": result.reference[1, ::-1],
        },
        units=units,
        settings=settings,
        notes=notes,
        original_metadata_general={
            "title": f"Strain ({clusters.metadata.General.title})",
        },
    )
