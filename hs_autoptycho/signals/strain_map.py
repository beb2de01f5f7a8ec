"""Strain and rotation over a scan, as a HyperSpy signal that carries errors and lattices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from hyperspy.api import signals

from hs_autoptycho.clustering.boundaries import profile, signed_distance
from hs_autoptycho.clustering.deformation import COMPONENTS
from hs_autoptycho.clustering.strain import shared_positions
from hs_autoptycho.signals._plain import in_memory, to_json, to_plain
from hs_autoptycho.signals._plain_results import PlainResults
from hs_autoptycho.signals._record import Record, reads
from hs_autoptycho.signals._scan_window import scan_window
from hs_autoptycho.signals._table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXIS_KEYS = ("name", "units", "scale", "offset")


class StrainMap(PlainResults, Record, signals.Signal2D):
    """Strain and rotation of the lattice at every position of a scan.

    Data are float32, ``(component | x, y)``: e_xx, e_yy, e_xy, and the rotation in degrees. x runs
    along the detector's columns (k_x) and y along its rows (k_y); a rotation is positive from x to
    y. Positions without a lattice are NaN, and `reasons` says why.

    Standard errors, reasons, lattices and statistics are stored in ``metadata.Strain``: saved to
    ``.hspy`` or ``.zspy`` they are part of one file, and ``hs.load`` gives them back with this
    class. Cropped with ``isig``, maps are of the part at hand, and lattices and statistics of the
    whole scan. Results of arithmetic and of sums are plain HyperSpy signals.

    See Also
    --------
    from_strain : Build one from arrays.
    """

    _signal_type = "strain_map"
    _entry = "Strain"
    _made_by = "map_strain()"

    @classmethod
    def from_strain(
        cls,
        strain: np.ndarray,
        *,
        scan_axes: Sequence[Mapping[str, Any]],
        standard_errors: np.ndarray,
        reasons: np.ndarray,
        reason_table: Sequence[str],
        leaf_labels: np.ndarray,
        lattices: Sequence[Mapping[str, Any]],
        misorientations: Sequence[Mapping[str, Any]],
        cluster_statistics: Sequence[Mapping[str, Any]],
        reference: Mapping[str, Any],
        units: str,
        settings: Mapping[str, Any],
        notes: Sequence[str] = (),
        original_metadata_general: Mapping[str, Any] | None = None,
    ) -> StrainMap:
        """Build the signal from plain arrays and dictionaries.

        Parameters
        ----------
        strain, standard_errors
            Float arrays (4, y, x).
        scan_axes
            HyperSpy axis dictionaries of the scan, y and x.
        reasons
            Integers (y, x): entries of `reason_table`, 0 where there is a lattice.
        reason_table
            A text a number.
        leaf_labels
            Integers (y, x): the cluster of a position, -1 for none.
        lattices, misorientations, cluster_statistics, reference
            What the attributes of these names return.
        units
            Of the lattices' vectors.
        settings
            Options of the fit; ``spatial_smoothing`` is used by `boundary_profile`.
        notes
            Sentences on whatever was noticed.
        original_metadata_general
            ``metadata.General`` of the result.

        Raises
        ------
        ValueError
            If the shapes do not fit each other.
        """
        data = np.asarray(strain, dtype=np.float32)
        if data.ndim != 3 or len(data) != len(COMPONENTS):
            raise ValueError(f"strain has the shape {data.shape}; (4, y, x) is needed")
        for name, array, shape in (
            ("standard_errors", standard_errors, data.shape),
            ("reasons", reasons, data.shape[1:]),
            ("leaf_labels", leaf_labels, data.shape[1:]),
        ):
            if np.shape(array) != shape:
                raise ValueError(f"{name} has the shape {np.shape(array)}; {shape} is needed")
        axes = [{"name": "component", "size": len(data), "navigate": True}]
        for axis, key, size in zip(scan_axes, "yx", data.shape[1:], strict=True):
            kept = {k: axis[k] for k in _AXIS_KEYS if k in axis}
            kept["name"] = kept["name"] if isinstance(kept.get("name"), str) else key
            kept["units"] = kept["units"] if isinstance(kept.get("units"), str) else ""
            axes.append({"scale": 1.0, "offset": 0.0, **kept, "size": size, "navigate": False})
        entry = {
            "standard_errors": np.array(standard_errors, dtype=np.float32),
            "reasons": np.array(reasons, dtype=np.int8),
            "reason_table": [str(text) for text in reason_table],
            "leaf_labels": np.array(leaf_labels, dtype=np.int32),
            "components": list(COMPONENTS),
            "scan_axes": {
                key: to_plain({k: axis[k] for k in ("name", "scale", "offset", "units")}, key)
                for key, axis in zip("yx", axes[1:], strict=True)
            },
            "lattices_json": to_json(lattices, "lattices"),
            "misorientations_json": to_json(misorientations, "misorientations"),
            "cluster_statistics_json": to_json(cluster_statistics, "cluster_statistics"),
            "reference": to_plain(reference, "reference"),
            "units": str(units),
            "settings_json": to_json(settings, "settings"),
        }
        if notes:
            entry["notes"] = [str(note) for note in notes]
        general = to_plain(original_metadata_general or {}, "General")
        general["title"] = general.get("title") or "Strain"
        metadata = {
            "General": general,
            "Signal": {"quantity": "strain, rotation (°)"},
            "Strain": entry,
        }
        return cls(data, axes=axes, metadata=metadata)

    # --- what was stored ------------------------------------------------------------------------

    @reads("scan_axes", "leaf_labels", "reasons")
    def _window(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the scan that the signal axes show."""
        stored = to_plain(self._stored("scan_axes"))
        shape = self._array("leaf_labels", 2).shape
        return scan_window(self, stored, shape, "mapped", self._can_show)

    def _can_show(self, rows: np.ndarray, columns: np.ndarray) -> bool:
        """Whether there is no value where these rows and columns have none.

        Where they have one, values may still be blank: they are masked by hand.
        """
        blank = self._array("reasons", 2)[np.ix_(rows, columns)] != 0
        return bool(np.isnan(np.asarray(self.data)[..., blank]).all())

    def _map(self, name: str, ndim: int = 2) -> np.ndarray:
        whole, window = self._array(name, ndim), self._window()
        if whole.shape[-2:] != self._array("leaf_labels", 2).shape:
            raise self._damaged((name,), f"its shape is {whole.shape}")
        return whole[(..., *np.ix_(*window))]

    def _axes(self) -> list[dict[str, Any]]:
        return [axis.get_axis_dictionary() for axis in self.axes_manager.signal_axes[::-1]]

    @property
    def components(self) -> list[str]:
        """Names of the four maps in their order."""
        return self._plain("components", list)

    @property
    def standard_errors(self) -> signals.Signal2D:
        """Standard error of each value of all four maps, ``(component | x, y)``."""
        axes = [{"name": "component", "size": len(COMPONENTS), "navigate": True}, *self._axes()]
        metadata = {"General": {"title": f"Standard errors ({self.metadata.General.title})"}}
        return signals.Signal2D(self._map("standard_errors", 3), axes=axes, metadata=metadata)

    @property
    def reasons(self) -> signals.Signal2D:
        """Why a position has no value: int8 ``(|x, y)``, entries of `reason_table`, 0 for none."""
        metadata = {"General": {"title": f"Reasons ({self.metadata.General.title})"}}
        return signals.Signal2D(self._map("reasons"), axes=self._axes(), metadata=metadata)

    @property
    def reason_table(self) -> list[str]:
        """What the numbers of `reasons` mean."""
        return self._plain("reason_table", list)

    @property
    def leaf_labels(self) -> np.ndarray:
        """Cluster of every position, -1 for none; int32 (y, x)."""
        return self._map("leaf_labels").astype(np.int32)

    @property
    def lattices(self) -> list[dict[str, Any]]:
        """Lattice of each cluster's mean pattern, in the basis that is nearest to the reference.

        Shown as a table: ``g1``, ``g2`` and their standard errors as [k_x, k_y] in `units`,
        ``origin`` of the lattice as [column, row] in pixels, number of disks, their radius in
        pixels, and ``dispersion``, the variance of the counts over the model's. A cluster without a
        lattice has a ``reason`` instead.
        """
        return Table(self._json("lattices_json", list))

    @property
    def units(self) -> str:
        """Units of the lattices' vectors: those of the signal's k_x axis."""
        return str(self._stored("units"))

    @property
    def reference(self) -> dict[str, Any]:
        """The lattice without strain: ``description``, ``g1`` and ``g2`` ([k_x, k_y], `units`)."""
        return self._plain("reference", dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Options of `map_strain`, a copy."""
        return self._json("settings_json", dict)

    @property
    def notes(self) -> list[str]:
        """What was noticed, a sentence each: clusters too far from the reference to be strained."""
        self._stored("settings_json")  # says so where there is no record at all
        if not self.metadata.has_item("Strain.notes"):
            return []
        return self._plain("notes", list)

    @property
    def cluster_statistics(self) -> list[dict[str, Any]]:
        """Mean of each component in each cluster, of the whole scan.

        A dictionary a cluster, shown as a table: ``cluster``, the number ``n`` of its positions
        with a value, and for each component ``mean``, ``standard_deviation`` and ``standard_error``
        of the mean, from the scatter over the positions; None where there are too few.
        """
        return Table(self._json("cluster_statistics_json", list))

    @property
    def misorientations(self) -> list[dict[str, Any]]:
        """Rotation between the lattices of each two clusters that touch.

        Shown as a table: ``clusters`` [a, b], ``rotation`` from a to b in degrees, the smallest
        that the symmetry of the lattice allows, its ``standard_error``, and ``boundary_length`` in
        units of the scan.
        """
        return Table(self._json("misorientations_json", list))

    # --- what a user asks of it ---------------------------------------------------------------

    def _component(self, component: str | int) -> int:
        names = self.components
        if component in names:
            return names.index(component)
        if not isinstance(component, str) and component in range(len(names)):
            return int(component)
        raise ValueError(f"component={component!r}: one of {', '.join(names)} is needed")

    def boundary_profile(
        self,
        a: int,
        b: int,
        component: str | int = "e_xx",
        *,
        half_width: float | None = None,
        bin_width: float | None = None,
    ) -> signals.Signal1D:
        """Mean of a component against the distance from the boundary between two clusters.

        Parameters
        ----------
        a, b
            Numbers of two clusters that touch.
        component
            Name or number of the map.
        half_width
            How far the profile reaches to either side, in the units of the scan; by default as far
            as there are values.
        bin_width
            Default: the scan step.

        Returns
        -------
        hyperspy.api.signals.Signal1D
            Distances are negative in `a`, positive in `b`; NaN where there is no value. The squared
            standard errors are in ``metadata.Signal.Noise_properties.variance``, the errors
            themselves in ``metadata.Strain_profile.standard_error``, and the numbers of positions
            in ``metadata.Strain_profile.counts``.

        Raises
        ------
        ValueError
            If the clusters do not exist or do not touch, or a width is not positive.

        Notes
        -----
        A position counts where the shortest way to the other cluster leads across their common
        boundary. Standard errors come from the scatter within a bin; where a bin holds fewer than
        three positions, from the errors of the positions.
        """
        index = self._component(component)
        labels = self.leaf_labels
        for number in (a, b):
            if isinstance(number, bool) or number not in np.unique(labels[labels >= 0]):
                raise ValueError(f"there is no cluster {number!r} on this map")
        axes = self.axes_manager.signal_axes[::-1]
        if axes[0].units != axes[1].units:
            raise ValueError(
                f"the scan axes are in {axes[0].units!r} and {axes[1].units!r}: distances need "
                "the same units on both"
            )
        steps = (abs(axes[0].scale), abs(axes[1].scale))
        width = min(steps) if bin_width is None else float(bin_width)
        for name, value in (("bin_width", width), ("half_width", half_width)):
            if value is not None and not (0 < value < np.inf):
                raise ValueError(f"{name}={value!r}: a positive number is needed")
        distance = signed_distance(labels, a, b, steps)
        if a == b or not np.isfinite(distance).any():
            raise ValueError(f"the clusters {a} and {b} have no common boundary")
        values = self._maps()[index]
        centers, means, errors, counts = profile(
            values,
            distance,
            width=width,
            half_width=half_width,
            errors=self._map("standard_errors", 3)[index],
            shared=shared_positions(self.settings["spatial_smoothing"]),
        )
        name = self.components[index]
        axis = {"name": "distance", "units": axes[1].units, "size": len(centers)}
        axis |= {"scale": width, "offset": float(centers[0]), "navigate": False}
        metadata = {
            "General": {"title": f"{name} across the boundary of clusters {a} and {b}"},
            "Signal": {"quantity": "rotation (°)" if name == "rotation" else name},
            "Strain_profile": {
                "clusters": [int(a), int(b)], "component": name, "standard_error": errors,
                "counts": counts,
            },
        }  # fmt: skip
        result = signals.Signal1D(means, axes=[axis], metadata=metadata)
        result.set_noise_variance(signals.Signal1D(errors**2, axes=[axis]))
        return result

    def _maps(self) -> np.ndarray:
        """All four components in memory; the data may be one of them."""
        data = np.asarray(self.data)
        # an axis that was cut or turned over still counts the components of the whole map
        shown = [axis.axis.tolist() for axis in self.axes_manager.navigation_axes]
        if shown != [list(range(len(COMPONENTS)))]:
            raise ValueError(
                f"these are not the components {', '.join(self.components)}, once each and in this "
                "order; use the whole map, cropped with isig if need be"
            )
        return data

    def plot(self, navigator: Any = "auto", **kwargs: Any) -> None:
        """Plot the components with HyperSpy: blue below zero, red above, white without a lattice.

        Parameters
        ----------
        navigator
            As of :meth:`hyperspy.api.signals.Signal2D.plot`. Default: how much each component
            varies, for HyperSpy's sum knows no positions without a lattice.
        **kwargs
            Of the same, as ``cmap`` or ``vmax``.
        """
        components = self.axes_manager.navigation_axes
        if isinstance(navigator, str) and navigator == "auto" and components:
            spread = np.nanstd(np.asarray(self.data), axis=(-2, -1))
            axis = {**components[0].get_axis_dictionary(), "navigate": False}
            navigator = signals.Signal1D(spread, axes=[axis])
        style = {"cmap": "RdBu_r", "centre_colormap": True}
        super().plot(navigator=navigator, **{**style, **kwargs})

    def plot_summary(self) -> Figure:
        """Draw the four maps, the means of the clusters, the errors, and what could not be fitted.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``savefig``; nothing is shown until ``matplotlib.pyplot.show()``.
        """
        from hs_autoptycho.plotting import strain_figure

        y, x = self.axes_manager.signal_axes[::-1]
        return strain_figure(
            strain=self._maps(),
            standard_errors=self._map("standard_errors", 3),
            reasons=self._map("reasons"),
            reason_table=self.reason_table,
            leaf_labels=self.leaf_labels,
            statistics=self.cluster_statistics,
            reference=self.reference["description"],
            step=(y.scale, x.scale),
            origin=(y.offset, x.offset),
            units=x.units if isinstance(x.units, str) else "",
            title=self.metadata.General.title,
        )


class LazyStrainMap(StrainMap, signals.LazySignal2D):
    """A :class:`StrainMap` whose data are read when needed."""

    def compute(self, close_file=False, show_progressbar=None, **kwargs):
        # a file opened lazily leaves the arrays in the metadata in the file too
        if self.metadata.has_item("Strain"):
            entry = in_memory(self.metadata.Strain.as_dictionary())
            self.metadata.add_dictionary({"Strain": entry})
        super().compute(close_file=close_file, show_progressbar=show_progressbar, **kwargs)

    compute.__doc__ = signals.LazySignal2D.compute.__doc__
