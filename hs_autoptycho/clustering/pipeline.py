"""From a scan to its clusters: sample, first pass, tree, second pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from hs_autoptycho.clustering.basis import make_projection
from hs_autoptycho.clustering.features import from_intensities, from_thinned
from hs_autoptycho.clustering.leaf_sums import LeafSums
from hs_autoptycho.clustering.projection import EMPTY, FLAGS, NEGATIVE, NOT_FINITE
from hs_autoptycho.clustering.streaming import map_patterns, reduce_patterns
from hs_autoptycho.clustering.survey import PatternError, Survey, survey
from hs_autoptycho.clustering.tree import Limits, grow

_logger = logging.getLogger(__name__)

FeatureFunction = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Options:
    """How to cluster, checked.

    Attributes
    ----------
    limits
        Of the tree.
    detector_mask : bool array (k_y, k_x)
        True for the pixels to use.
    annulus
        (inner, outer) distance from the direct beam in pixels.
    scan_mask : bool array (y, x)
        True for the positions to cluster.
    features
        ``"default"``, ``"std"``, or a function of patterns ``(n, k_y, k_x)``.
    smoothing
        Width in positions of the Gaussian over the scan; None finds it.
    random_state
        Seed.
    num_workers
        Number of threads.
    """

    limits: Limits = Limits()
    detector_mask: np.ndarray | None = None
    annulus: tuple[float, float] | None = None
    scan_mask: np.ndarray | None = None
    features: str | FeatureFunction = "default"
    smoothing: float | None = None
    random_state: int = 0
    num_workers: int | None = None


@dataclass
class Clustering:
    """Clusters of a scan.

    Attributes
    ----------
    nodes, leaf_labels
        The tree, see `tree.Tree`.
    sums, squares : float64 array (leaves, k_y, k_x)
        See `LeafSums`; None if the second pass was interrupted.
    annulus : float32 array (y, x)
        Sum of each pattern over what was clustered by; None with a feature function.
    measured
        What was found out about the patterns.
    notes
        What was assumed, a sentence each.
    interrupted
        Whether Ctrl-C ended it.
    """

    nodes: list[dict[str, Any]]
    leaf_labels: np.ndarray
    sums: np.ndarray | None
    squares: np.ndarray | None
    annulus: np.ndarray | None
    measured: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


def cluster(
    data,
    options: Options,
    *,
    progress_first: Progress | None = None,
    progress_tree: Progress | None = None,
    progress_second: Progress | None = None,
) -> Clustering:
    """Cluster the patterns of a scan.

    Parameters
    ----------
    data
        Array ``(scan_y, scan_x, k_y, k_x)``, numpy or dask, of real numbers.
    options
        How.
    progress_first, progress_second
        Called with numbers of patterns during the passes; the first includes the sample.
    progress_tree
        Called with the number of leaves.

    Raises
    ------
    PatternError
        If there is no pattern to cluster.
    """
    found = survey(
        data,
        detector_mask=options.detector_mask,
        scan_mask=options.scan_mask,
        progress=progress_first,
        num_workers=options.num_workers,
    )
    notes = list(found.notes)
    features, annulus = _first_pass(data, found, options, progress_first, notes)
    notes += _too_few(int(features.valid.sum()), options.limits)
    # sums by several threads of the linear algebra would depend on their number
    with threadpool_limits(1):
        tree = grow(
            features,
            options.limits,
            smoothing=options.smoothing,
            random_state=options.random_state,
            num_workers=options.num_workers,
            progress=progress_tree,
        )
    if tree.interrupted:
        notes.append("The tree was interrupted: more splits may be there.")
    shifts = np.rint(np.asarray(found.center) - found.beam).astype(np.int64)
    n_leaves = int(tree.leaf_labels.max()) + 1
    sums: LeafSums | None = LeafSums(tree.leaf_labels, shifts, (n_leaves, *data.shape[2:]))
    interrupted = tree.interrupted
    try:
        sums = reduce_patterns(
            data, sums, progress=progress_second, num_workers=options.num_workers
        )
    except KeyboardInterrupt:
        sums, interrupted = None, True
        notes.append("The second pass was interrupted: there are labels, but no mean patterns.")
    measured = {
        "beam_center": list(found.center),
        "beam_radius": found.radius,
        "descan": [float(v) for v in np.ptp(found.beam, axis=(0, 1))],
        "counts": found.counts,
        "splitting": features.splitting,
        "n_features": int(features.halves[0].sums.shape[2]),
        "min_cluster_size": options.limits.smallest(int(features.valid.sum())),
    }
    return Clustering(
        nodes=tree.nodes,
        leaf_labels=tree.leaf_labels,
        sums=None if sums is None else sums.sums,
        squares=None if sums is None else sums.squares,
        annulus=annulus,
        measured=measured,
        notes=notes,
        interrupted=interrupted,
    )


def _first_pass(data, found: Survey, options: Options, progress, notes):
    """Features of all patterns, and the sum of each in the annulus."""
    if callable(options.features):
        kernel = _Custom(options.features)
        n_values = 1 + kernel.length(data)
    else:
        with threadpool_limits(1):
            kernel, assumed = make_projection(
                found,
                annulus=options.annulus,
                features=options.features,
                random_state=options.random_state,
            )
        notes += assumed
        n_values = kernel.n_values
    values = map_patterns(
        data, kernel, n_values, progress=progress, num_workers=options.num_workers
    )
    flags = values[..., 0].astype(int)
    wanted = np.ones(flags.shape, bool) if options.scan_mask is None else options.scan_mask
    for flag in (EMPTY, NOT_FINITE, NEGATIVE):
        note = _flagged(flags, wanted, flag)
        if note:
            _logger.warning(note)
            notes.append(note)
    valid = wanted & (flags == 0)
    if not valid.any():
        raise PatternError("Not one of the positions to cluster has a pattern that can be used.")
    values = values[..., 1:]
    values[~valid] = 0
    if callable(options.features):
        return from_intensities(values, valid.astype(np.float32), valid), None
    if kernel.halves:
        n = values.shape[2] // 2
        return from_thinned(values, valid), values[..., 0] + values[..., n]
    return from_intensities(values[..., 1:], values[..., 0], valid), values[..., 0].copy()


def _too_few(n_positions: int, limits: Limits) -> list[str]:
    """That a tree of so few positions is one leaf whatever the patterns are, if it is so."""
    smallest = limits.smallest(n_positions)
    if n_positions >= 2 * smallest:
        return []
    chosen = "" if limits.min_cluster_size is not None else " (the default)"
    return [
        f"Nothing could be split: {n_positions} positions are fewer than two clusters of "
        f"min_cluster_size={smallest}{chosen}. Give a smaller min_cluster_size to have them tried."
    ]


def _flagged(flags, wanted, flag: int) -> str:
    bad = np.argwhere(wanted & (flags == flag))
    if not len(bad):
        return ""
    y, x = (int(i) for i in bad[0])
    return (
        f"{len(bad)} of the positions, the first of them x={x}, y={y}, have patterns or pixels "
        f"that are {FLAGS[flag]}; they are not clustered and have the label -1."
    )


@dataclass(frozen=True)
class _Custom:
    """A user's function as a kernel: flag, then features."""

    function: FeatureFunction

    def length(self, data) -> int:
        """Number of features, from a call with one pattern."""
        one = np.asarray(data[:1, :1]).reshape(1, *data.shape[2:])
        return self._call(one).shape[1]

    def __call__(self, patterns: np.ndarray, positions: np.ndarray) -> np.ndarray:
        flat = patterns.reshape(len(patterns), -1)
        with np.errstate(invalid="ignore"):  # of infinities of both signs
            total = flat.sum(1, dtype=float)
        flags = np.where(total == 0, EMPTY, 0)
        if patterns.dtype.kind in "if":
            flags = np.where(flat.min(1) < 0, NEGATIVE, flags)
        flags = np.where(np.isfinite(total), flags, NOT_FINITE)
        values = self._call(patterns)
        return np.column_stack([flags, np.where(np.isfinite(values), values, 0)])

    def _call(self, patterns: np.ndarray) -> np.ndarray:
        values = np.asarray(self.function(patterns))
        if values.ndim == 1 and len(values) == len(patterns):
            values = values[:, None]
        if values.ndim != 2 or len(values) != len(patterns) or values.dtype.kind not in "buif":
            raise ValueError(
                "the function given as `features` has to return real numbers of the shape "
                f"(n, features) for patterns (n, k_y, k_x) = {patterns.shape}; it returned "
                f"{values.dtype} of the shape {values.shape}"
            )
        return values
