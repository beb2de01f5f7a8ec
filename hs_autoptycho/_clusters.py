"""From a HyperSpy signal to its clusters, and from clusters back to a HyperSpy signal."""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
from typing import Any

import hyperspy.api as hs
import numpy as np

from hs_autoptycho._memory import plan_clustering
from hs_autoptycho._running import check_count, check_seed, progressbar, versions
from hs_autoptycho._signal_reader import not_a_scan, not_its_data
from hs_autoptycho.clustering.pipeline import Clustering, Options, cluster
from hs_autoptycho.clustering.survey import PatternError, sample_blocks
from hs_autoptycho.clustering.tree import Limits
from hs_autoptycho.signals import HierarchicalClusters
from hs_autoptycho.signals._plain import inherited

_logger = logging.getLogger(__name__)

_VERSIONS = ("hs_autoptycho", "hyperspy", "numpy", "scipy", "numba", "scikit-learn")


def cluster_signal(
    signal,
    *,
    max_clusters: int | None,
    max_depth: int | None,
    min_cluster_size: int | None,
    mask: Any,
    scan_mask: Any,
    features: Any,
    spatial_smoothing: Any,
    random_state: int,
    show_progressbar: bool | None,
    num_workers: int | None,
) -> HierarchicalClusters:
    """Cluster a signal; see `methods.cluster_hierarchical` for the options."""
    _check_dimensions(signal)
    data = signal.data
    for name, value in (
        ("max_clusters", max_clusters),
        ("max_depth", max_depth),
        ("min_cluster_size", min_cluster_size),
        ("num_workers", num_workers),
    ):
        if value is not None:
            check_count(name, value)
    if callable(features) and mask is not None:
        raise ValueError(
            "mask does nothing where features is a function: apply it in the function."
        )
    detector_mask, annulus = read_mask(mask, signal)
    options = Options(
        limits=Limits(max_clusters, max_depth, min_cluster_size),
        detector_mask=detector_mask,
        annulus=annulus,
        scan_mask=_read_scan_mask(scan_mask, data.shape[:2]),
        features=_read_features(features),
        smoothing=_read_smoothing(spatial_smoothing),
        random_state=check_seed(random_state),
        num_workers=num_workers,
    )
    _logger.info("Plan: %s.", plan_clustering(data, num_workers))
    n = data.shape[0] * data.shape[1]
    sampled = sum((y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in sample_blocks(data.shape[:2]))
    with contextlib.ExitStack() as bars:
        first = bars.enter_context(progressbar(sampled + n, "Project", show_progressbar))
        second = None

        def update_second(patterns: int) -> None:
            nonlocal second
            if second is None:
                first.close()
                second = bars.enter_context(progressbar(n, "Sum", show_progressbar))
            second.update(patterns)

        result = cluster(
            data,
            options,
            progress_first=first.update,
            progress_tree=lambda leaves: first.set_postfix(clusters=leaves),
            progress_second=update_second,
        )
    for note in result.notes:
        _logger.info(note)
    settings = {
        "max_clusters": max_clusters,
        "max_depth": max_depth,
        "min_cluster_size": min_cluster_size,
        "mask": _described(mask),
        "scan_mask": _described(scan_mask),
        "features": features if isinstance(features, str) else _described(features),
        "spatial_smoothing": spatial_smoothing,
        "measured": result.measured,
    }
    return _wrap(signal, result, settings, options.random_state)


def _wrap(signal, result: Clustering, settings, seed: int) -> HierarchicalClusters:
    manager = signal.axes_manager
    metadata = signal.metadata
    general, notes = inherited(metadata, "General")
    instrument, more = inherited(metadata, "Acquisition_instrument")
    return HierarchicalClusters.from_clustering(
        result.leaf_labels,
        result.nodes,
        scan_axes=[axis.get_axis_dictionary() for axis in manager.navigation_axes[::-1]],
        signal_axes=[axis.get_axis_dictionary() for axis in manager.signal_axes[::-1]],
        pattern_signal_type=metadata.get_item("Signal.signal_type") or "",
        leaf_sums=result.sums,
        leaf_square_sums=result.squares,
        settings=settings,
        notes=[*result.notes, *notes, *more],
        versions=versions(_VERSIONS),
        status="interrupted" if result.interrupted else "completed",
        seed=seed,
        original_metadata_general=general,
        acquisition_instrument=instrument,
        virtual_images=None if result.annulus is None else {"annulus": result.annulus},
    )


def _check_dimensions(signal) -> None:
    problem = not_a_scan(signal) or not_its_data(signal)
    if problem:
        raise PatternError(problem)
    for axis in signal.axes_manager._axes:
        for name, unknown in (("scale", 1), ("offset", 0)):
            value = float(getattr(axis, name, 1.0))  # an axis that is not uniform has none
            if not math.isfinite(value) or (name == "scale" and value == 0):
                raise PatternError(
                    f'The axis "{axis.name}" has the {name} {value:g}. Set it with '
                    f"`s.axes_manager[{axis.index_in_axes_manager}].{name} = ...`; where it is not "
                    f"known, {unknown} will do."
                )
    if signal.axes_manager.navigation_size < 2:
        raise PatternError("There is a single pattern, and nothing to tell it from.")
    if signal.data.dtype.kind not in "buif":
        raise PatternError(
            f"Diffraction patterns have to be real numbers, not {signal.data.dtype}. "
            "Take the intensity first, `s.amplitude**2` for a complex signal."
        )


def read_mask(mask: Any, signal) -> tuple[np.ndarray | None, tuple[float, float] | None]:
    """A detector mask from an array, a signal or a ROI; or an annulus, in pixels.

    Raises
    ------
    ValueError, TypeError
        For a mask that does not fit the detector, or nothing that is one.
    """
    if mask is None:
        return None, None
    axes = signal.axes_manager.signal_axes  # (kx, ky)
    shape = (axes[1].size, axes[0].size)
    if isinstance(mask, hs.roi.CircleROI | hs.roi.RectangularROI):
        used = _roi_mask(mask, axes)
    elif isinstance(mask, tuple | list) and len(mask) == 2 and np.ndim(mask) == 1:
        return None, _annulus(mask, axes)
    else:
        used = np.asarray(getattr(mask, "data", mask))
        if used.dtype.kind != "b":
            raise TypeError(
                "mask has to be an array of bool (True where the detector is used), a CircleROI, a "
                f"RectangularROI, or (inner, outer) distances from the direct beam; got {mask!r}."
            )
        if used.shape != shape:
            raise ValueError(
                f"mask has the shape {used.shape}, the detector (ky, kx) = {shape}. "
                "Positions of the scan are chosen with `scan_mask`."
            )
    if not used.any():
        raise ValueError("mask leaves no detector pixel to use.")
    return np.asarray(used), None


def _roi_mask(roi, axes) -> np.ndarray:
    x, y = np.meshgrid(axes[0].axis, axes[1].axis)
    if isinstance(roi, hs.roi.CircleROI):
        distance = np.hypot(x - roi.cx, y - roi.cy)
        inner = roi.r_inner if isinstance(roi.r_inner, numbers.Real) else 0
        return (distance <= roi.r) & (distance >= inner)
    return (x >= roi.left) & (x < roi.right) & (y >= roi.top) & (y < roi.bottom)


def _annulus(mask, axes) -> tuple[float, float]:
    scales = [abs(axis.scale) for axis in axes]
    if not all(isinstance(value, numbers.Real) for value in mask):
        raise TypeError(f"mask={mask!r}: an annulus is two numbers, (inner, outer).")
    inner, outer = (float(value) for value in mask)
    if not 0 <= inner < outer:
        raise ValueError(f"mask={mask!r}: an annulus is (inner, outer) with 0 <= inner < outer.")
    if abs(scales[0] - scales[1]) > 0.01 * max(scales):
        raise ValueError(
            f"The detector's axes have different scales, {scales[0]:g} and {scales[1]:g}: give "
            "the mask as an array instead of an annulus."
        )
    return inner / scales[0], outer / scales[0]


def _read_scan_mask(mask: Any, shape: tuple[int, int]) -> np.ndarray | None:
    if mask is None:
        return None
    used = np.asarray(getattr(mask, "data", mask))
    if used.dtype.kind != "b" or used.shape != shape:
        raise ValueError(
            f"scan_mask has to be an array of bool, True for the positions to cluster, of the "
            f"scan's shape (y, x) = {shape}; got {used.dtype} of the shape {used.shape}."
        )
    if np.count_nonzero(used) < 2:
        raise ValueError("scan_mask leaves fewer than two positions to cluster.")
    return used


def _read_features(features: Any):
    if callable(features) or (isinstance(features, str) and features in ("default", "std")):
        return features
    raise ValueError(
        f"features={features!r}: 'default', 'std', or a function of patterns (n, k_y, k_x) that "
        "returns (n, features) is needed."
    )


def _read_smoothing(value: Any) -> float | None:
    if isinstance(value, str) and value == "auto":
        return None
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and 0 <= value < np.inf:
        return float(value)
    raise ValueError(
        f"spatial_smoothing={value!r}: 'auto', or a width in positions of at least 0, is needed."
    )


def _described(value: Any) -> Any:
    """A mask or a function as it can be stored."""
    if value is None or isinstance(value, str | numbers.Real):
        return value
    if isinstance(value, tuple | list) and len(value) == 2:
        return [float(v) for v in value]
    if isinstance(value, hs.roi.CircleROI | hs.roi.RectangularROI):
        return repr(value)
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    used = np.asarray(getattr(value, "data", value))
    return f"array {used.shape} with {int(np.count_nonzero(used))} True"
