"""The clusters of a scan, as a HyperSpy signal that carries their tree and their patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from hyperspy.api import signals

from hs_autoptycho.clustering.nodes import (
    check_nodes,
    check_whole,
    cut,
    leaf_indices,
    level_labels,
    merged_labels,
    nodes_at_level,
)
from hs_autoptycho.signals._cluster_figures import ClusterFigures
from hs_autoptycho.signals._cluster_record import ClusterRecord
from hs_autoptycho.signals._plain import in_memory, to_json, to_plain
from hs_autoptycho.signals._plain_results import PlainResults
from hs_autoptycho.signals._record import reads
from hs_autoptycho.signals._scan_window import scan_window

if TYPE_CHECKING:
    from hs_autoptycho.signals.strain_map import StrainMap

_STATUSES = ("completed", "interrupted")
_AXIS_KEYS = ("name", "scale", "offset", "units", "is_binned", "axis")


class HierarchicalClusters(PlainResults, ClusterFigures, ClusterRecord, signals.Signal2D):
    """Labels of the scan at every level of a tree of clusters, with the tree itself.

    Data are int32, ``(level | x, y)``; level n shows every position's deepest node with a level of
    at most n, numbered 0, 1, 2 and on in the order of the tree, and -1 where a position was not
    clustered. The last level shows the leaves.

    The tree, the summed patterns, settings, notes, seed and versions are stored in
    ``metadata.Clustering``: saved to ``.hspy`` or ``.zspy`` they are part of one file, and
    ``hs.load`` gives them back with this class. Sliced with ``inav`` or ``isig``, or copied, it
    remains one: labels and figures are then of the part at hand, tree and patterns of the whole
    scan. Results of arithmetic, comparison and sums are plain HyperSpy signals.

    See Also
    --------
    from_clustering : Build one from arrays.
    """

    _signal_type = "hierarchical_clusters"

    @classmethod
    def from_clustering(
        cls,
        leaf_labels: np.ndarray,
        nodes: Sequence[Mapping[str, Any]],
        *,
        scan_axes: Sequence[Mapping[str, Any]],
        signal_axes: Sequence[Mapping[str, Any]],
        pattern_signal_type: str,
        leaf_sums: np.ndarray | None,
        leaf_square_sums: np.ndarray | None,
        settings: Mapping[str, Any],
        notes: Sequence[str],
        versions: Mapping[str, str],
        status: str,
        seed: int | None,
        original_metadata_general: Mapping[str, Any] | None = None,
        acquisition_instrument: Mapping[str, Any] | None = None,
        virtual_images: Mapping[str, np.ndarray] | None = None,
    ) -> HierarchicalClusters:
        """Build the signal from plain arrays and dictionaries.

        Parameters
        ----------
        leaf_labels
            Integer array (scan_y, scan_x): leaf numbers in tree order, -1 where not clustered.
        nodes
            The tree, root first; see `tree`.
        scan_axes
            HyperSpy axis dictionaries of the scan, y and x.
        signal_axes
            The same of the patterns, ky and kx.
        pattern_signal_type
            Signal type of the clustered signal, e.g. ``"electron_diffraction"`` or ``""``.
        leaf_sums, leaf_square_sums
            Float array (leaves, k_y, k_x): sums over the patterns of every leaf of the counts and
            of their squares. None if there are none; the patterns then raise an error.
        settings, versions
            Nested dictionaries of plain values. Tuples and arrays become lists.
        notes
            Sentences on whatever was assumed or noticed.
        status
            ``"completed"`` or ``"interrupted"``.
        seed
            Seed of the clustering.
        original_metadata_general, acquisition_instrument
            ``metadata.General`` and ``metadata.Acquisition_instrument`` of the clustered signal,
            kept as the result's; the patterns have the latter too.
        virtual_images
            Name to image (scan_y, scan_x), e.g. ``"bright_field"`` and ``"annulus"``: what
            `plot_overlay` can draw on.

        Raises
        ------
        ValueError
            If tree, labels, sums and axes do not fit each other.
        TypeError
            If an entry has no plain form; the message names it.
        """
        nodes = [dict(node) for node in nodes]
        check_nodes(nodes)
        leaf_labels = np.asarray(leaf_labels)
        _check_labels(leaf_labels, nodes)
        labels = level_labels(leaf_labels.astype(np.int32), nodes)
        entry = {
            "leaf_labels": labels[-1].copy(),
            "tree_json": to_json(nodes, "nodes"),
            "scan_axes": _plain_axes(scan_axes, ("y", "x"), "scan_axes"),
            "signal_axes": _plain_axes(signal_axes, ("ky", "kx"), "signal_axes"),
            "pattern_signal_type": str(pattern_signal_type),
            "settings_json": to_json(settings, "settings"),
            "notes": [str(note) for note in notes],
            "versions": to_plain(versions, "versions"),
            "status": str(status),
            "seed": to_plain(seed, "seed"),
        }
        if status not in _STATUSES:
            raise ValueError(f"status is {status!r}; it is one of {', '.join(_STATUSES)}")
        n_leaves = len(leaf_indices(nodes))
        for name, sums in (("leaf_sums", leaf_sums), ("leaf_square_sums", leaf_square_sums)):
            if sums is not None:
                sums = np.array(sums, dtype=float)
                if sums.ndim != 3 or len(sums) != n_leaves:
                    raise ValueError(
                        f"{name} has the shape {sums.shape}; (leaves, k_y, k_x) with the tree's "
                        f"{n_leaves} leaves is needed"
                    )
                entry[name] = sums
        images = {}
        for name, image in (virtual_images or {}).items():
            images[str(name)] = np.array(image, dtype=np.float32)
            if images[str(name)].shape != leaf_labels.shape:
                raise ValueError(
                    f"the virtual image {name!r} has the shape {np.shape(image)}, but the scan "
                    f"{leaf_labels.shape}"
                )
        if images:
            entry["virtual_images"] = images
        axes = [{"name": "level", "scale": 1.0, "offset": 1.0, "units": "", "navigate": True}]
        axes += [{**entry["scan_axes"][key], "navigate": False} for key in ("y", "x")]
        for axis, size in zip(axes, labels.shape, strict=True):
            axis["size"] = size
        general = to_plain(original_metadata_general or {}, "General")
        general["title"] = general.get("title") or "Clusters"
        metadata = {"General": general, "Clustering": entry}
        if acquisition_instrument:
            instrument = to_plain(acquisition_instrument, "Acquisition_instrument")
            metadata["Acquisition_instrument"] = instrument
        return cls(labels, axes=axes, metadata=metadata)

    def __repr__(self) -> str:
        text = super().__repr__()
        try:
            n = self.n_clusters
        except (AttributeError, ValueError):  # without its record it is shown as any signal
            return text
        return f"{text[:-1]}, {n} cluster{'' if n == 1 else 's'}>"

    # --- labels -------------------------------------------------------------------------------

    @reads("scan_axes", "leaf_labels")
    def _window(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the clustered scan that the signal axes show."""
        stored = to_plain(self._stored("scan_axes"))
        shape = self._array("leaf_labels", 2).shape
        return scan_window(self, stored, shape, "clustered", self._can_show)

    def _can_show(self, rows: np.ndarray, columns: np.ndarray) -> bool:
        """Whether every image is that of a level, of these rows and columns."""
        part = self._array("leaf_labels", 2, "iu")[np.ix_(rows, columns)]
        levels = level_labels(part, self.tree)
        images = np.asarray(self.data).reshape(-1, *part.shape)
        return all(any(np.array_equal(image, level) for level in levels) for image in images)

    @property
    def leaf_labels(self) -> np.ndarray:
        """Leaf number of every position, -1 where it was not clustered; int32 (scan_y, scan_x).

        Of the part of the scan that the signal axes show, whatever level is shown.
        """
        labels = self._array("leaf_labels", 2, "iu")
        if labels.size and not -1 <= labels.min() <= labels.max() < self.n_clusters:
            raise self._damaged(("leaf_labels",), "there are labels that the tree has no leaf for")
        return labels.astype(np.int32)[np.ix_(*self._window())]

    def _label_signal(self, shown: Sequence[int], title: str) -> signals.Signal2D:
        labels = merged_labels(self.leaf_labels, self.tree, shown)
        axes = [axis.get_axis_dictionary() for axis in self.axes_manager.signal_axes[::-1]]
        metadata = {
            "General": {"title": f"{title} ({self.metadata.General.title})"},
            "Clusters": {"nodes": list(shown)},
        }
        return signals.Signal2D(labels, axes=axes, metadata=metadata)

    @property
    def leaves(self) -> signals.Signal2D:
        """Leaf numbers as an image ``(|x, y)``, -1 where a position was not clustered."""
        return self._label_signal(leaf_indices(self.tree), "Leaves")

    def level(self, n: int) -> signals.Signal2D:
        """Labels at one level of the tree, as an image.

        Parameters
        ----------
        n
            From 1 to `n_levels`.

        Returns
        -------
        hyperspy.api.signals.Signal2D
            int32 ``(|x, y)``; ``metadata.Clusters.nodes`` has the node of each label.

        Raises
        ------
        ValueError
            If there is no such level.
        """
        last = self.n_levels
        check_whole("level", n, last, f"the tree has the levels 1 to {last}")
        return self._label_signal(nodes_at_level(self.tree, n), f"Level {n}")

    def cut(self, n_clusters: int) -> signals.Signal2D:
        """Labels of the tree cut into a number of clusters, as an image.

        From the root on, the split of the largest gain is applied first, and none before that of
        its parent.

        Parameters
        ----------
        n_clusters
            From 1 to the number of leaves.

        Returns
        -------
        hyperspy.api.signals.Signal2D
            int32 ``(|x, y)``, labels 0 to ``n_clusters - 1`` in the order of the tree, -1 where a
            position was not clustered; ``metadata.Clusters.nodes`` has the node of each label.

        Raises
        ------
        ValueError
            If there are fewer leaves, or `n_clusters` is less than 1.

        See Also
        --------
        mean_patterns_of : Their mean patterns.
        """
        shown = cut(self.tree, n_clusters)
        return self._label_signal(shown, f"{len(shown)} clusters")

    @property
    @reads("virtual_images")
    def virtual_images(self) -> dict[str, signals.Signal2D]:
        """Images of the scan that were made on the way, by name; of the part at hand."""
        self._stored("status")
        if not self.metadata.has_item("Clustering.virtual_images"):
            return {}
        window = np.ix_(*self._window())
        images = {}
        for name, image in sorted(self._stored("virtual_images").items()):
            axes = [axis.get_axis_dictionary() for axis in self.axes_manager.signal_axes[::-1]]
            metadata = {"General": {"title": name.replace("_", " ")}}
            images[name] = signals.Signal2D(np.array(image)[window], axes=axes, metadata=metadata)
        return images

    def map_strain(
        self,
        signal: signals.Signal2D,
        *,
        reference: Any = None,
        spatial_smoothing: float = 0.0,
        max_strain: float = 0.1,
        max_shift: int | None = None,
        disk_radius: float | None = None,
        show_progressbar: bool | None = None,
        num_workers: int | None = None,
        **unknown: Any,
    ) -> StrainMap:
        """Map strain and rotation over a clustered scan.

        A lattice is fitted to the disks of each cluster's mean pattern. From it, the lattice of
        every single pattern of the cluster is found by maximum likelihood for Poisson counts:
        origin and both vectors at once, from all disks, so that disks of a few counts each are
        enough. Positions where this fails are NaN, with a reason.

        Parameters
        ----------
        signal
            The signal that was clustered, ``(x, y | kx, ky)``, lazy or not.
        reference
            What strain is measured against: the number of a cluster (its mean pattern's lattice);
            ``"own"``, each cluster's own, which suits grains that are turned by many degrees; a
            boolean mask of the scan ``(y, x)``, array or signal (the mean lattice of its
            positions); or ideal vectors, an array (2, 2) with the columns g1 and g2 and the rows
            k_x and k_y, in the units of the signal's axes. Default: the largest cluster that has a
            lattice.
        spatial_smoothing
            Standard deviation, in positions, of a Gaussian over which a position's lattice is
            averaged with those of its neighbours in the same cluster, each with the weight of its
            information; the origins stay free, so that descan does no harm. The standard errors
            account for it. Default: 0, none. The error falls by about ``sqrt(4 π) σ``, from σ = 0.5
            on: by 2.5 at 0.7.
        max_strain
            Positions whose lattice differs by more than this fraction from their cluster's are
            dismissed. Clusters that differ by more from the reference, or are turned by more than
            5°, are kept and named in `StrainMap.notes`.
        max_shift
            How far, in pixels, a pattern may be shifted against its cluster's mean pattern.
            Default: an eighth of the detector.
        disk_radius
            Of the disks in pixels. Default: that of the direct beam in each mean pattern.
        show_progressbar
            Default: ``hs.preferences.General.show_progressbar``.
        num_workers
            Number of threads. Default: all cores.

        Returns
        -------
        StrainMap
            ``(component | x, y)``: e_xx, e_yy, e_xy and the rotation in degrees, x along the
            detector's columns, y along its rows.

        Raises
        ------
        ValueError
            If signal and clusters do not fit each other, an option has a wrong value, no cluster
            has a lattice, or the reference has none.
        TypeError
            For an unknown option.

        Notes
        -----
        With the vectors as columns of G and those of the reference in G0, the deformation is
        ``F = (G G0⁻¹)⁻ᵀ``, the strain ``(F + Fᵀ)/2 - 1`` and the rotation ``(F_yx - F_xy)/2``. Of a
        lattice's equivalent bases the one nearest to the reference is compared. These are strain
        and rotation of small deformations: a rotation of 5° alone looks like a strain of -0.4 %.

        Standard errors are those of the Fisher information, times the square root of the scatter of
        the counts around the model in units of a Poisson distribution's (1 for counted electrons,
        the gain for others). The error of the reference is not contained in them.
        """
        from hs_autoptycho._strain import map_strain

        return map_strain(
            self,
            signal,
            reference=reference,
            spatial_smoothing=spatial_smoothing,
            max_strain=max_strain,
            max_shift=max_shift,
            disk_radius=disk_radius,
            show_progressbar=show_progressbar,
            num_workers=num_workers,
            **unknown,
        )


class LazyHierarchicalClusters(HierarchicalClusters, signals.LazySignal2D):
    """A :class:`HierarchicalClusters` whose data are read when needed."""

    def compute(self, close_file=False, show_progressbar=None, **kwargs):
        # a file opened lazily leaves the arrays in the metadata in the file too
        if self.metadata.has_item("Clustering"):
            entry = in_memory(self.metadata.Clustering.as_dictionary())
            self.metadata.add_dictionary({"Clustering": entry})
        super().compute(close_file=close_file, show_progressbar=show_progressbar, **kwargs)

    compute.__doc__ = signals.LazySignal2D.compute.__doc__


def _check_labels(leaf_labels: np.ndarray, nodes: Sequence[Mapping[str, Any]]) -> None:
    if leaf_labels.ndim != 2 or leaf_labels.dtype.kind not in "iu":
        raise ValueError(
            "leaf_labels is an integer array (scan_y, scan_x), but this one has the shape "
            f"{leaf_labels.shape} and the type {leaf_labels.dtype}"
        )
    leaves = leaf_indices(nodes)
    low, high = int(leaf_labels.min(initial=0)), int(leaf_labels.max(initial=-1))
    if low < -1 or high >= len(leaves):
        raise ValueError(
            f"leaf_labels go from {low} to {high}, but the tree has the leaves 0 to "
            f"{len(leaves) - 1} (and -1 stands for not clustered)"
        )
    sizes = np.bincount(leaf_labels[leaf_labels >= 0], minlength=len(leaves))
    for number, (index, size) in enumerate(zip(leaves, sizes, strict=True)):
        if nodes[index]["size"] != size:
            raise ValueError(
                f"leaf {number} (node {index}) has the size {nodes[index]['size']} in the tree, "
                f"but {size} positions of leaf_labels"
            )
    for node in nodes:
        if node["children"] and node["size"] != sum(nodes[c]["size"] for c in node["children"]):
            raise ValueError(f"the size of node {node['index']} is not the sum of its children's")


def _plain_axes(axes, keys: tuple[str, str], name: str) -> dict[str, dict[str, Any]]:
    """Axis dictionaries by key, with what makes up the calibration."""
    if len(axes) != 2:
        raise ValueError(
            f"{name} has {len(axes)} entries; those of {' and '.join(keys)} are needed"
        )
    plain = {}
    for key, axis in zip(keys, axes, strict=True):
        kept = {k: axis[k] for k in _AXIS_KEYS if k in axis}
        for text in ("name", "units"):
            # HyperSpy writes what was never set as an object of its own
            kept[text] = kept[text] if isinstance(kept.get(text), str) else ""
        if "axis" not in kept:
            kept = {"scale": 1.0, "offset": 0.0, **kept}
        plain[key] = to_plain({**kept, "name": kept["name"] or key}, f"{name}.{key}")
    return plain
