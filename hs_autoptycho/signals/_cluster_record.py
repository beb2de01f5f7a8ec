"""What a clustering left behind, read back from a signal's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyperspy.api import signals

from hs_autoptycho.clustering.nodes import (
    check_nodes,
    leaf_indices,
    leaf_ranges,
    n_levels,
    node_sums,
    split_indices,
)
from hs_autoptycho.signals._plain import to_plain
from hs_autoptycho.signals._record import MissingError, RunRecord, reads
from hs_autoptycho.signals._table import Table


class ClusterRecord(RunRecord):
    """Attributes that read ``metadata.Clustering``; for a HyperSpy signal class to inherit.

    They describe the whole scan, also of a signal that was cropped. Everything is returned as a
    copy in plain Python or NumPy, whatever the file gave back.
    """

    _entry = "Clustering"
    _made_by = "cluster_hierarchical()"

    @property
    @reads("tree_json")
    def tree(self) -> list[dict[str, Any]]:
        """The nodes, root first, a new list of dictionaries; shown as a table.

        ``index`` (in this list), ``parent`` (None for the root), ``children`` (two indices, or
        none), ``depth`` (splits from the root), ``level`` (that shows the node first), ``size``
        (positions), and of a node's split, or of the best one that was refused:

        * ``gain``, the part of all structure in the scan, i.e. of the variance between positions
          that is not noise, that the split accounts for;
        * ``significance``, the difference of the children on held-out counts in standard errors;
        * ``stability``, the adjusted Rand index between what two halves of the counts propose;
        * ``separation``, the difference in standard deviations of single positions;
        * ``contrast``, the distance of the children's mean patterns, normalised and scaled as
          Poisson counts, which does not depend on the dose.

        ``stopped`` says why a leaf was not split. A leaf also has its number on the maps, ``leaf``;
        of other nodes it is None.
        """
        nodes = self._json("tree_json", list)
        check_nodes(nodes)
        numbers = {index: number for number, index in enumerate(leaf_indices(nodes))}
        return Table({**node, "leaf": numbers.get(node["index"])} for node in nodes)

    @property
    def n_clusters(self) -> int:
        """Number of leaves of the tree."""
        return len(leaf_indices(self.tree))

    @property
    def n_levels(self) -> int:
        """Number of levels of the tree."""
        return n_levels(self.tree)

    @property
    @reads("tree_json")
    def sizes(self) -> np.ndarray:
        """Number of positions in each leaf, of the whole scan; int64."""
        nodes = self.tree
        return np.array([nodes[index]["size"] for index in leaf_indices(nodes)], dtype=np.int64)

    @property
    def settings(self) -> dict[str, Any]:
        """What the clustering was asked for and what it found out first, a copy."""
        return self._json("settings_json", dict)

    # --- patterns -----------------------------------------------------------------------------

    def _leaf_sums(self, name: str = "leaf_sums") -> np.ndarray:
        stored = self._stored("status")  # says so where there is no record at all
        if not self.metadata.has_item(f"Clustering.{name}"):
            reason = "was interrupted before its patterns were summed"
            if stored != "interrupted":
                reason = "was made without the sums of its patterns"
            raise MissingError(
                f"there are no patterns: this clustering {reason} (metadata.Clustering has no "
                f"{name}). The labels and the tree are complete; cluster again for the patterns"
            )
        sums = self._array(name, 3).astype(float)
        if len(sums) != self.n_clusters:
            raise self._damaged((name,), f"its shape is {sums.shape}, of {self.n_clusters} leaves")
        return sums

    @reads("signal_axes", "pattern_signal_type")
    def _patterns(self, stack: np.ndarray, title: str, described: Mapping[str, Any]):
        """Patterns as a signal of the input's type, with an axis "node" and what its steps are."""
        axes = [{"name": "node", "size": len(stack), "scale": 1.0, "offset": 0.0, "units": ""}]
        axes[0]["navigate"] = True
        stored = self._stored("signal_axes")
        for key, size in zip(("ky", "kx"), stack.shape[1:], strict=True):
            axes.append({**to_plain(stored[key]), "size": size, "navigate": False})
        metadata = {
            "General": {"title": f"{title} ({self.metadata.General.title})"},
            "Clusters": to_plain(described),
        }
        if self.metadata.has_item("Acquisition_instrument"):
            instrument = self.metadata.Acquisition_instrument.as_dictionary()
            metadata["Acquisition_instrument"] = instrument
        signal = signals.Signal2D(stack, axes=axes, metadata=metadata)
        kind = str(self._stored("pattern_signal_type"))
        if kind:
            signal.set_signal_type(kind)
        return signal

    @property
    def mean_patterns(self) -> signals.Signal2D:
        """Mean pattern of every node, ``(node | kx, ky)``, in the order of `tree`.

        Counts a pattern, float64, of the signal type and calibration of the clustered signal. The
        sum over an inner node is exactly that over its leaves. ``metadata.Clusters`` has the
        ``nodes`` (indices in `tree`), the ``leaves`` below each, and their ``sizes``.
        """
        nodes = self.tree
        return self._mean_patterns(range(len(nodes)), "Mean patterns")

    @property
    def leaf_patterns(self) -> signals.Signal2D:
        """Mean pattern of every leaf, in the order of the leaf numbers; as `mean_patterns`."""
        return self._mean_patterns(leaf_indices(self.tree), "Mean patterns of the leaves")

    def mean_patterns_of(self, labels: signals.BaseSignal | Sequence[int]) -> signals.Signal2D:
        """Mean pattern of every cluster of an image of labels; as `mean_patterns`.

        Parameters
        ----------
        labels
            What `cut`, `level` or `leaves` gave, or indices of nodes in `tree`.

        Returns
        -------
        hyperspy.api.signals.Signal2D
            ``(node | kx, ky)``, in the order of the labels.

        Raises
        ------
        ValueError
            If these are no labels or no nodes of the tree.

        Examples
        --------
        >>> clusters.mean_patterns_of(clusters.cut(3)).plot()  # doctest: +SKIP
        """
        shown = labels
        if hasattr(labels, "metadata"):
            shown = labels.metadata.get_item("Clusters.nodes")
        n_nodes = len(self.tree)
        try:
            nodes = np.array(shown)
        except ValueError:  # lists of different lengths
            nodes = np.array(None)
        if nodes.dtype.kind not in "iu" or nodes.ndim != 1 or nodes.size == 0:
            raise ValueError(
                f"labels is {labels!r}; give an image of labels that .cut(n), .level(n) or .leaves "
                "gave, or a list of indices of nodes in .tree"
            )
        if nodes.min() < 0 or nodes.max() >= n_nodes:
            raise ValueError(
                f"labels has the nodes {nodes.tolist()}, but those of this tree are 0 to "
                f"{n_nodes - 1}: are the labels of other clusters?"
            )
        return self._mean_patterns(nodes.tolist(), "Mean patterns")

    def _mean_patterns(self, shown: Sequence[int], title: str):
        nodes = self.tree
        shown = list(shown)
        sizes = np.array([nodes[index]["size"] for index in shown])
        sums = node_sums(self._leaf_sums(), nodes)[shown]
        means = sums / np.maximum(sizes, 1)[:, np.newaxis, np.newaxis]
        ranges = leaf_ranges(nodes)
        leaves = [list(range(*ranges[index])) for index in shown]
        return self._patterns(means, title, {"nodes": shown, "leaves": leaves, "sizes": sizes})

    @property
    def difference_patterns(self) -> signals.Signal2D:
        """Difference of the two means of every split, ``(node | kx, ky)``: what tells them apart.

        Mean pattern of ``children[0]`` minus that of ``children[1]``, in counts a pattern. One a
        node that was split, in the order of `tree`: ``metadata.Clusters`` has the ``nodes``, the
        leaves of the ``minuends`` and of the ``subtrahends``.
        """
        return self._differences(False)

    @property
    def difference_significances(self) -> signals.Signal2D:
        """The `difference_patterns` in standard errors.

        The variance of a mean is that of its patterns, found from the sums of the squares, divided
        by their number; where neither part varies, the result is 0. By chance alone 4 of 65,000
        pixels lie beyond ±4.
        """
        return self._differences(True)

    def _differences(self, standard_errors: bool):
        nodes, splits = self.tree, split_indices(self.tree)
        if not splits:
            raise ValueError("the tree is one leaf: there are no two parts to compare")
        ranges = leaf_ranges(nodes)
        pairs = [
            [list(range(*ranges[child])) for child in nodes[index]["children"]] for index in splits
        ]
        sums = self._sums_and_squares(standard_errors)
        stack = [self._difference(*sums, *pair) for pair in pairs]
        minuends, subtrahends = zip(*pairs, strict=True)
        described = {"nodes": splits, "minuends": minuends, "subtrahends": subtrahends}
        title = "Differences in standard errors" if standard_errors else "Differences"
        return self._patterns(np.stack(stack), title, described)

    def difference(
        self,
        a: int | Sequence[int] | Mapping[str, Any],
        b: int | Sequence[int] | Mapping[str, Any],
        *,
        standard_errors: bool = False,
    ) -> signals.Signal2D:
        """Mean pattern of `a` minus that of `b`.

        Parameters
        ----------
        a, b
            A leaf number, several of them taken together, or a node of `tree`.
        standard_errors
            Divide by the standard error of the difference, as in `difference_significances`.

        Returns
        -------
        hyperspy.api.signals.Signal2D
            One pattern ``(|kx, ky)``, of the signal type and calibration of the clustered signal.

        Raises
        ------
        ValueError
            If there is no such leaf, or `a` and `b` have a leaf in common.

        Examples
        --------
        >>> clusters.difference(2, 0)  # doctest: +SKIP
        >>> clusters.difference([0, 1], clusters.tree[4], standard_errors=True)  # doctest: +SKIP
        """
        first, second = self._leaves_of(a, "a"), self._leaves_of(b, "b")
        if set(first) & set(second):
            raise ValueError(
                f"a (leaves {first}) and b (leaves {second}) have leaves in common; the standard "
                "error and the difference are of two separate parts"
            )
        stack = self._difference(*self._sums_and_squares(standard_errors), first, second)
        described = {"nodes": [], "minuends": [first], "subtrahends": [second]}
        title = f"{_written(first)} minus {_written(second)}"
        if standard_errors:
            title += " in standard errors"
        signal = self._patterns(stack[np.newaxis], title, described)
        return signal.inav[0]

    def _leaves_of(self, which, name: str) -> list[int]:
        n_leaves = self.n_clusters
        if isinstance(which, Mapping):
            index = which.get("index")
            ranges = leaf_ranges(self.tree)
            if not isinstance(index, int) or not 0 <= index < len(ranges):
                raise ValueError(f"{name} is no node of this tree: its index is {index!r}")
            return list(range(*ranges[index].tolist()))
        try:
            leaves = sorted({int(leaf) for leaf in np.atleast_1d(which)})
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} is {which!r}; give a leaf number, a list of them, or a node of .tree"
            ) from None
        if not leaves or leaves[0] < 0 or leaves[-1] >= n_leaves:
            raise ValueError(f"{name} is {which!r}, but the leaves are 0 to {n_leaves - 1}")
        return leaves

    def _sums_and_squares(self, squares: bool) -> tuple[np.ndarray, np.ndarray | None]:
        return self._leaf_sums(), self._leaf_sums("leaf_square_sums") if squares else None

    def _difference(self, sums, squares, first: list[int], second: list[int]) -> np.ndarray:
        """Difference of means, in standard errors if there are squares."""
        sizes = self.sizes
        difference = variance = 0.0
        for leaves, sign in ((first, 1), (second, -1)):
            number = max(int(sizes[leaves].sum()), 1)
            mean = sums[leaves].sum(axis=0) / number
            difference = difference + sign * mean
            if squares is not None:
                spread = squares[leaves].sum(axis=0) / number - mean**2
                # rounding leaves a little of the squares where nothing varies
                spread[spread < 1e-12 * mean**2] = 0
                variance = variance + spread / number
        if squares is None:
            return difference
        return np.divide(
            difference, np.sqrt(variance), out=np.zeros_like(difference), where=variance > 0
        )


def _written(leaves: list[int]) -> str:
    word = "leaf" if len(leaves) == 1 else "leaves"
    return f"{word} {', '.join(map(str, leaves))}"
