"""Figures of clusters, for a HyperSpy signal class to inherit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hyperspy.api import signals

from hs_autoptycho.clustering.nodes import level_labels, merged_labels, nodes_at_level
from hs_autoptycho.signals._plain import to_plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClusterFigures:
    """Plots of a ``HierarchicalClusters``, of the part of the scan that it shows."""

    def _map_frame(self):
        from hs_autoptycho.plotting import MapFrame

        pixels, origins, units = [], [], []
        for axis in self.axes_manager.signal_axes[::-1]:
            uniform = axis.is_uniform
            pixels.append(float(axis.scale) if uniform else 1.0)
            origins.append(float(axis.offset) if uniform else 0.0)
            units.append(axis.units if uniform and isinstance(axis.units, str) else "")
        return MapFrame(tuple(pixels), tuple(origins), tuple(units))

    def plot(self, navigator: Any = "auto", **kwargs: Any) -> None:
        """Plot the levels with HyperSpy, in the colours of the tree.

        A node has the same colour at every level and in every figure, and its parts have colours
        near to it; positions without a cluster are grey. The values shown, in the colour bar too,
        are indices of nodes in `tree`. The navigator is the number of clusters by level.

        Parameters
        ----------
        navigator
            As in :meth:`hyperspy.api.signals.Signal2D.plot`.
        **kwargs
            Passed on to it.
        """
        from hs_autoptycho.plotting import label_style

        if self._plot is not None:
            self._plot.close()
        nodes, leaf_labels = self.tree, self.leaf_labels
        levels = self._levels_shown(nodes, leaf_labels)
        shown = [nodes_at_level(nodes, level) for level in levels]
        images = np.stack([merged_labels(leaf_labels, nodes, each, each) for each in shown])
        signal = signals.Signal2D(images.reshape(self.data.shape))
        # one navigation for both, so that axes_manager.indices moves the picture
        signal.axes_manager = self.axes_manager
        signal.metadata.General.title = self.metadata.General.title
        signal.metadata.Signal.quantity = "node"
        counted = False
        if isinstance(navigator, str) and navigator == "auto":
            navigator = None
            counted = self.axes_manager.navigation_dimension == 1 and len(levels) > 1
            if counted:
                axis = self.axes_manager.navigation_axes[0].get_axis_dictionary()
                counts = np.array([len(each) for each in shown])
                navigator = signals.Signal1D(counts, axes=[{**axis, "navigate": False}])
        options = {**label_style(nodes), "autoscale": "", "scalebar_color": "black", **kwargs}
        signal.plot(navigator=navigator, **options)
        self._plot = signal._plot
        navigation = self._plot.navigator_plot
        if counted and navigation is not None:
            navigation.ax.set_ylabel("clusters")  # HyperSpy takes any navigator for a sum

    def _levels_shown(self, nodes, leaf_labels: np.ndarray) -> list[int]:
        """The level of every image in the data."""
        available = range(1, self.n_levels + 1)
        if self.axes_manager.navigation_dimension == 1:
            levels = np.rint(self.axes_manager.navigation_axes[0].axis).astype(int).tolist()
            if set(levels) <= set(available):
                return levels
        # of one image alone the level is not written anywhere
        images = np.asarray(self.data).reshape(-1, *leaf_labels.shape)
        expected = level_labels(leaf_labels, nodes)
        levels = [
            next((n for n in available if np.array_equal(expected[n - 1], image)), None)
            for image in images
        ]
        if None in levels:
            raise ValueError(
                "the labels of this signal are those of no level of its tree: they were changed. "
                "leaves, level() and cut() give them anew"
            )
        return levels

    def plot_tree(self) -> Figure:
        """Draw the tree, its mean patterns beside the nodes, and the map of its leaves.

        The root is on the left. Every split stands in the band of its level, with the number of
        positions, its gain, significance and stability; leaves have their number on the map, their
        size, and why they were not split. Patterns are shown if there are any.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``savefig``; nothing is shown until ``matplotlib.pyplot.show()``.
        """
        from hs_autoptycho.plotting import tree_figure

        patterns, aspect = None, 1.0
        if self.metadata.has_item("Clustering.leaf_sums"):
            signal = self.mean_patterns
            patterns = np.asarray(signal.data)
            kx, ky = signal.axes_manager.signal_axes
            aspect = ky.size / kx.size
            if kx.is_uniform and ky.is_uniform and kx.units == ky.units:
                aspect *= abs(ky.scale / kx.scale)
        return tree_figure(
            leaf_labels=self.leaf_labels,
            nodes=self.tree,
            patterns=patterns,
            frame=self._map_frame(),
            pattern_aspect=aspect,
            title=self.metadata.General.title,
        )

    def plot_overlay(
        self,
        image: signals.Signal2D | np.ndarray | str | None = None,
        *,
        level: int | None = None,
        n_clusters: int | None = None,
        opacity: float = 0.75,
    ) -> Figure:
        """Draw the clusters and their boundaries over an image of the scan.

        Parameters
        ----------
        image
            Signal or array of the shape of the map, or of the whole scan, or a name in
            `virtual_images`. By default the one called ``"annulus"``, or the first; without any,
            the colours alone are drawn.
        level
            Show this level; by default the leaves.
        n_clusters
            Show the tree cut into so many clusters instead.
        opacity
            Of the colours over the image, from 0 (boundaries alone) to 1.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``savefig``; nothing is shown until ``matplotlib.pyplot.show()``.

        Raises
        ------
        ValueError
            If the image does not fit the map, or both `level` and `n_clusters` are given.
        """
        from hs_autoptycho.plotting import overlay_figure

        labels = self._chosen_labels(level, n_clusters)
        picture, name = self._overlay_image(image)
        return overlay_figure(
            labels=labels.data,
            shown=to_plain(labels.metadata.Clusters.nodes),
            nodes=self.tree,
            frame=self._map_frame(),
            image=picture,
            image_name=name,
            opacity=opacity,
            title=labels.metadata.General.title,
        )

    def boundary_markers(
        self, *, level: int | None = None, n_clusters: int | None = None, **style: Any
    ) -> Any:
        """Boundaries between clusters as HyperSpy markers, for any image of the scan.

        Parameters
        ----------
        level
            Of this level; by default of the leaves.
        n_clusters
            Of the tree cut into so many clusters instead.
        **style
            Passed on to the markers, such as ``color`` (default red) and ``linewidth``.

        Returns
        -------
        hyperspy.api.plot.markers.Lines
            In the units of the scan's axes.

        Raises
        ------
        ValueError
            If both `level` and `n_clusters` are given.

        Examples
        --------
        >>> image.add_marker(clusters.boundary_markers(color="white"))  # doctest: +SKIP
        >>> s.plot()  # doctest: +SKIP
        >>> s.add_marker(clusters.boundary_markers(), plot_on_signal=False)  # doctest: +SKIP
        """
        from hyperspy.api import plot

        from hs_autoptycho.plotting.cluster_colors import boundary_segments

        labels = self._chosen_labels(level, n_clusters).data
        frame = self._map_frame()
        segments = boundary_segments(labels) * frame.pixel[::-1] + frame.origin[::-1]
        return plot.markers.Lines(segments, **{"color": "red", **style})

    def cluster_roi(self, cluster: int) -> Any:
        """The smallest rectangle that holds a cluster, to crop a signal of the scan with.

        Parameters
        ----------
        cluster
            Number of a leaf.

        Returns
        -------
        hyperspy.api.roi.RectangularROI
            In the units of the scan's axes; ``roi(s)`` is the part of a scan ``s``.

        Raises
        ------
        ValueError
            If no position shown has this number.

        Examples
        --------
        >>> obj = clusters.cluster_roi(2)(s).reconstruct_ptycho(defocus=100)  # doctest: +SKIP
        """
        from hyperspy.api import roi

        labels = self.leaf_labels
        places = np.nonzero(labels == cluster)
        if not len(places[0]):
            raise ValueError(f"cluster={cluster!r}: the map shows {np.unique(labels).tolist()}.")
        edges = []
        for index, axis in zip(places, self.axes_manager.signal_axes[::-1], strict=True):
            low, high = sorted(axis.index2value(int(end)) for end in (index.min(), index.max()))
            # HyperSpy's slices leave out the position at the far edge
            edges.append((low, high + abs(axis.scale)))
        (top, bottom), (left, right) = edges
        return roi.RectangularROI(left=left, top=top, right=right, bottom=bottom)

    def _chosen_labels(self, level: int | None, n_clusters: int | None) -> signals.Signal2D:
        if level is not None and n_clusters is not None:
            raise ValueError("level and n_clusters were both given; give one of them")
        if n_clusters is not None:
            return self.cut(n_clusters)
        return self.leaves if level is None else self.level(level)

    def _overlay_image(self, image) -> tuple[np.ndarray | None, str]:
        """An image of the part of the scan at hand, and what it is called."""
        if image is None:
            known = self.virtual_images
            if not known:
                return None, ""
            image = "annulus" if "annulus" in known else next(iter(known))
        if isinstance(image, str):
            known = self.virtual_images
            if image not in known:
                raise ValueError(
                    f"there is no virtual image {image!r}; known: {', '.join(known) or 'none'}"
                )
            return known[image].data, image.replace("_", " ")
        name = ""
        if isinstance(image, signals.BaseSignal):
            name, image = image.metadata.General.title, image.data
        image = np.asarray(image)
        window = self._window()
        shape = tuple(map(len, window))
        if image.shape == self._stored("leaf_labels").shape:
            image = image[np.ix_(*window)]
        if image.shape != shape:
            raise ValueError(f"the image has the shape {image.shape}, but the map {shape} (y, x)")
        return image.astype(float), name
