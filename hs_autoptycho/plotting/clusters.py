"""Maps of clusters, alone and over an image of the scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.clustering.nodes import leaf_indices
from hs_autoptycho.plotting.cluster_colors import (
    UNCLUSTERED,
    boundary_segments,
    label_places,
    node_colors,
)
from hs_autoptycho.plotting.style import STYLE, robust_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#6B6B6B"  # of writing


@dataclass(frozen=True)
class MapFrame:
    """Where a map lies: pixel size, middle of its first pixel, and units, each as (y, x)."""

    pixel: tuple[float, float] = (1.0, 1.0)
    origin: tuple[float, float] = (0.0, 0.0)
    units: tuple[str, str] = ("", "")

    def extent(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of an image that is drawn from the top down."""
        (dy, dx), (y, x) = self.pixel, self.origin
        left, top = x - dx / 2, y - dy / 2
        return left, left + shape[1] * dx, top + shape[0] * dy, top

    def aspect(self, shape: tuple[int, int]) -> float:
        """Height over width; pixels are square where the units differ."""
        square = self.units[0] != self.units[1]
        ratio = 1.0 if square else abs(self.pixel[0] / self.pixel[1])
        return shape[0] / shape[1] * ratio


def readable_on(color) -> str:
    """Ink that can be read on a colour."""
    return INK if np.dot(color, (0.299, 0.587, 0.114)) > 0.55 else "white"


def draw_map(ax: Axes, leaf_labels, nodes, frame: MapFrame) -> None:
    """Draw the leaves in their colours, with their numbers."""
    colors = node_colors(nodes)[leaf_indices(nodes)]
    picture = np.concatenate([colors, [_rgb(UNCLUSTERED)]])[leaf_labels]
    ax.imshow(picture, extent=frame.extent(leaf_labels.shape), aspect="auto",
              interpolation="nearest")  # fmt: skip
    _write_numbers(ax, leaf_labels, colors, frame)
    _frame(ax, frame)
    ax.set_title("Leaves")


def _write_numbers(ax: Axes, labels, colors, frame: MapFrame) -> None:
    from matplotlib.patheffects import withStroke

    for label, (y, x) in label_places(labels).items():
        ink = readable_on(colors[label])
        around = "white" if ink == INK else INK
        ax.text(
            frame.origin[1] + x * frame.pixel[1], frame.origin[0] + y * frame.pixel[0], str(label),
            ha="center", va="center", fontsize=8.5, weight="bold", color=ink,
            path_effects=[withStroke(linewidth=1.4, foreground=around, alpha=0.7)],
        )  # fmt: skip


def _frame(ax: Axes, frame: MapFrame) -> None:
    names = [f"{n} ({u})" if u else n for n, u in zip("yx", frame.units, strict=True)]
    ax.set(ylabel=names[0], xlabel=names[1])
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.6)


def _rgb(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(color)


def overlay_figure(
    *,
    labels: np.ndarray,
    shown: Sequence[int],
    nodes: Sequence[Mapping[str, Any]],
    frame: MapFrame,
    image: np.ndarray | None = None,
    image_name: str = "",
    opacity: float = 0.75,
    title: str = "",
) -> Figure:
    """Draw clusters and the boundaries between them over an image of the scan.

    Parameters
    ----------
    labels
        Integer array (y, x): labels, or -1.
    shown
        The node of each label.
    nodes
        The tree, root first.
    frame
        Calibration of the map.
    image
        Float array (y, x), drawn in grey below the colours; None for colours alone.
    image_name
        What the image is; written below.
    opacity
        Of the colours over the image, from 0 (boundaries alone) to 1.
    title
        Written above.
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Patch

    aspect = min(max(frame.aspect(labels.shape), 0.25), 4.0)
    width = min(5.6, 6.5 / aspect)
    colors = node_colors(nodes)[list(shown)]
    rows = math.ceil(len(shown) / max(1, math.ceil(len(shown) / 18)))
    left, below, above = 0.75, 0.6, 0.45
    right = 1.35 * math.ceil(len(shown) / rows) + 0.1
    height = max(width * aspect, 0.23 * rows + 0.3)
    size = (left + width + right, below + height + above)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=size)
        box = (left / size[0], below / size[1], width / size[0], height / size[1])
        ax = figure.add_axes(box)
        ax.set_box_aspect(aspect)
        ax.set_anchor("NW")
        extent = frame.extent(labels.shape)
        picture = np.concatenate([colors, [_rgb(UNCLUSTERED)]])[labels]
        if image is not None:
            picture = _tinted(image, picture, np.where(labels < 0, 0.0, opacity))
        ax.imshow(picture, extent=extent, aspect="auto", interpolation="nearest")
        edges = boundary_segments(labels) * frame.pixel[::-1] + frame.origin[::-1]
        for line, color in ((2.0, INK), (0.9, "white")):
            ax.add_collection(
                LineCollection(edges, colors=color, linewidths=line, capstyle="round"),
                autolim=False,
            )
        if len(shown) > 1:
            _write_numbers(ax, labels, colors, frame)
        ax.set(xlim=extent[:2], ylim=extent[2:])
        _frame(ax, frame)
        ax.set_title(title)
        if image is not None and image_name:
            ax.text(1, 1.01, image_name, transform=ax.transAxes, ha="right", va="bottom",
                    fontsize=8, color=FAINT)  # fmt: skip
        counts = np.bincount(labels[labels >= 0], minlength=len(shown))
        handles = [
            Patch(facecolor=color, label=f"{number}:  {100 * count / labels.size:.3g} %")
            for number, (color, count) in enumerate(zip(colors, counts, strict=True))
        ]
        rest = labels.size - counts.sum()
        if rest:
            face = UNCLUSTERED if image is None else "none"
            label = f"none:  {100 * rest / labels.size:.3g} %"
            handles.append(Patch(facecolor=face, edgecolor=FAINT, linewidth=0.5, label=label))
        ax.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False,
            borderaxespad=0, ncols=math.ceil(len(handles) / (rows + 1)), handlelength=1.2,
        )  # fmt: skip
    return figure


def _tinted(image: np.ndarray, colors: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """A grey image as through a coloured glass, which keeps the colours purer than a blend."""
    low, high = robust_limits(image)
    grey = np.clip((np.nan_to_num(image, nan=low) - low) / (high - low), 0, 1)
    # black has no colour: the darkest is a dark grey
    grey, opacity = 0.45 + 0.55 * grey[..., np.newaxis], opacity[..., np.newaxis]
    return grey * (1 - opacity + opacity * colors)


def label_style(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Options for an image whose values are node indices, or -1: colour map and its limits.

    Every node has its own colour, and what is below 0 is grey.
    """
    from matplotlib.colors import ListedColormap

    colormap = ListedColormap(node_colors(nodes), name="clusters")
    colormap = colormap.with_extremes(under=UNCLUSTERED, bad=UNCLUSTERED)
    return {"cmap": colormap, "vmin": -0.5, "vmax": len(nodes) - 0.5}
