"""The picture of a strain map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.plotting.style import BLUE, CATEGORIES, GREY, ORANGE, STYLE, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = ("$e_{xx}$", "$e_{yy}$", "$e_{xy}$", "rotation")
_UNITS = ("%", "%", "%", "°")
_COLOURS = (BLUE, VERMILION, ORANGE, GREY)
_FACTORS = (100.0, 100.0, 100.0, 1.0)


def strain_figure(
    *,
    strain: np.ndarray,
    standard_errors: np.ndarray,
    reasons: np.ndarray,
    reason_table: Sequence[str],
    leaf_labels: np.ndarray,
    statistics: Sequence[Mapping[str, Any]],
    reference: str,
    step: tuple[float, float],
    origin: tuple[float, float],
    units: str,
    title: str = "",
) -> Figure:
    """Draw four maps, the means of the clusters, the standard errors, and what was not fitted.

    Parameters
    ----------
    strain, standard_errors
        (4, y, x), NaN where there is none: e_xx, e_yy, e_xy as fractions, rotation in degrees.
    reasons, reason_table
        (y, x), and what its numbers mean; 0 for none.
    leaf_labels
        (y, x): outlined in the maps.
    statistics
        As `StrainMap.cluster_statistics`.
    reference
        What strain is measured against.
    step, origin
        Of the scan, (y, x) in `units`.
    title
        Written above everything.
    """
    import matplotlib.pyplot as plt

    height, width = (abs(n * d) for n, d in zip(reasons.shape, step, strict=True))
    map_height = min(max(2.6 * height / width, 1.6), 5.0)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(13.0, map_height + 3.9), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, hspace=0.04, wspace=0.06)
        figure.suptitle(f"{title}\nagainst {reference}".strip(), fontsize=10)
        top, bottom = figure.subfigures(2, 1, height_ratios=(map_height + 0.6, 2.9))
        rows, cols = reasons.shape
        extent = (
            origin[1] - step[1] / 2,
            origin[1] + (cols - 0.5) * step[1],
            origin[0] + (rows - 0.5) * step[0],
            origin[0] - step[0] / 2,
        )
        for index, ax in enumerate(top.subplots(1, 4)):
            _draw_map(ax, strain[index] * _FACTORS[index], leaf_labels, extent)
            ax.set_title(f"{_NAMES[index]} ({_UNITS[index]})")
            label = f" ({units})" if units else ""
            ax.set(xlabel=f"x{label}", ylabel=f"y{label}" if index == 0 else "")
        left, middle, right = bottom.subplots(1, 3, width_ratios=(1.3, 1, 1))
        _draw_statistics(left, statistics)
        _draw_errors(middle, standard_errors)
        _draw_reasons(right, reasons, reason_table, extent)
    return figure


def _draw_map(ax: Axes, image: np.ndarray, labels: np.ndarray, extent) -> None:
    finite = np.abs(image[np.isfinite(image)])
    limit = float(np.quantile(finite, 0.98)) if finite.size else 1.0
    ax.set_facecolor("0.85")  # where there is no lattice
    shown = ax.imshow(
        image, cmap="RdBu_r", vmin=-(limit or 1.0), vmax=limit or 1.0, extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    for (x0, x1), (y0, y1) in _outlines(labels, extent):
        ax.plot((x0, x1), (y0, y1), color="black", linewidth=0.5, solid_capstyle="butt")
    # its units stand in the title
    ax.figure.colorbar(shown, cax=ax.inset_axes((1.02, 0, 0.04, 1)), extend="both")


def _outlines(labels: np.ndarray, extent):
    """Ends of straight lines between positions of different clusters, ((x0, x1), (y0, y1))."""
    left, right, low, high = extent
    rows, cols = labels.shape
    x, y = np.linspace(left, right, cols + 1), np.linspace(high, low, rows + 1)
    for across in range(1, cols):
        for start, stop in _runs(labels[:, across - 1] != labels[:, across]):
            yield (x[across], x[across]), (y[start], y[stop])
    for down in range(1, rows):
        for start, stop in _runs(labels[down - 1] != labels[down]):
            yield (x[start], x[stop]), (y[down], y[down])


def _runs(flags: np.ndarray):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return edges.reshape(-1, 2)


def _draw_statistics(ax: Axes, statistics) -> None:
    shown = [entry for entry in statistics if entry["n"] > 0]
    names = [name for name in ("e_xx", "e_yy", "e_xy") if all(name in entry for entry in shown)]
    for index, name in enumerate(names):
        places = np.arange(len(shown)) + 0.22 * (index - 1)
        means = [100 * entry[name]["mean"] for entry in shown]
        errors = [100 * (entry[name]["standard_error"] or 0) for entry in shown]
        ax.bar(
            places, means, 0.2, yerr=errors, color=_COLOURS[index], label=_NAMES[index],
            error_kw={"linewidth": 0.8, "capsize": 2},
        )  # fmt: skip
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(range(len(shown)), [f"{e['cluster']}\nn = {e['n']}" for e in shown])
    ax.set(title="Mean strain of the clusters, with standard errors", ylabel="strain (%)")
    ax.set_xlabel("cluster")
    ax.legend(frameon=False, ncols=3)


def _draw_errors(ax: Axes, errors: np.ndarray) -> None:
    drawn = False
    for index in range(3):
        values = 100 * errors[index][np.isfinite(errors[index])]
        if values.size:
            bins = np.linspace(0, np.quantile(values, 0.99) * 1.3 + 1e-12, 50)
            label = f"{_NAMES[index]}, median {np.median(values):.2g} %"
            ax.hist(values, bins, histtype="step", color=_COLOURS[index], label=label)
            drawn = True
    if drawn:
        ax.legend(frameon=False)
    ax.set(title="Standard errors of single positions", xlabel="standard error (%)")
    ax.set_ylabel("positions")


def _draw_reasons(ax: Axes, reasons: np.ndarray, table: Sequence[str], extent) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    ax.set_axis_off()
    colours = ["white", *CATEGORIES][: len(table)]
    inset = ax.inset_axes((0.0, 0.3, 1.0, 0.7))
    inset.imshow(
        reasons, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(table) - 0.5, extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    inset.set(xticks=[], yticks=[])
    for spine in inset.spines.values():
        spine.set(visible=True, linewidth=0.6)
    numbers, counts = np.unique(reasons[reasons != 0], return_counts=True)
    handles = [
        Patch(color=colours[number], label=f"{count}: {table[number]}")
        for number, count in zip(numbers, counts, strict=True)
    ]
    ax.set_title(f"Not fitted: {int(counts.sum())} of {reasons.size} positions")
    if handles:
        ax.legend(handles=handles, frameon=False, loc="lower left", fontsize=7)
