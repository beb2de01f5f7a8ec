"""The picture of a tree of clusters, with its patterns and its map."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.clustering.nodes import leaf_indices
from hs_autoptycho.plotting.cluster_colors import node_colors
from hs_autoptycho.plotting.clusters import FAINT, INK, MapFrame, draw_map, readable_on
from hs_autoptycho.plotting.style import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND = "#F3F3F1"


def tree_figure(
    *,
    leaf_labels: np.ndarray,
    nodes: Sequence[Mapping[str, Any]],
    patterns: np.ndarray | None,
    frame: MapFrame,
    pattern_aspect: float = 1.0,
    title: str = "",
) -> Figure:
    """Draw the tree from the root on the left to its leaves on the right, and the map beside it.

    Every split stands in the band of its level. The lines are as wide as the share of the
    positions that goes there, and have the colours of the map.

    Parameters
    ----------
    leaf_labels
        Integer array (y, x): leaf numbers, or -1.
    nodes
        The tree, root first.
    patterns
        Mean pattern of every node (nodes, k_y, k_x), or None if there are none. All are shown on
        one scale, the counts to the power of 0.35.
    frame
        Calibration of the map.
    pattern_aspect
        Height of a pattern over its width.
    title
        Written above everything.
    """
    import matplotlib.pyplot as plt

    layout = _TreeLayout.of(nodes, pattern_aspect, patterns is not None)
    aspect = min(max(frame.aspect(leaf_labels.shape), 0.25), 4.0)
    above, left = 0.62, 0.75
    height = max(layout.height, 2.6)
    map_height = min(max(height - 0.15, 2.6), 4.4 * aspect, 7.0)
    map_width = map_height / aspect
    below = 0.9 if map_height > height - 0.5 else 0.45
    width = left + map_width + 0.35 + layout.width + 0.1
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width, above + height + below))
        total = above + height + below

        def inches(x, y_from_top, w, h):
            return (x / width, 1 - (y_from_top + h) / total, w / width, h / total)

        if title:
            figure.text(left / width, 1 - 0.12 / total, title, fontsize=11, va="top")
        top = above + 0.08
        map_axes = figure.add_axes(inches(left, top, map_width, map_height))
        draw_map(map_axes, leaf_labels, nodes, frame)
        tree_top = above + (height - layout.height) / 2
        place = (left + map_width + 0.35, tree_top, layout.width, layout.height)
        tree_axes = figure.add_axes(inches(*place), label="tree")
        tree_axes.set(xlim=(0, layout.width), ylim=(layout.height, 0))
        tree_axes.set_axis_off()
        _draw_tree(tree_axes, nodes, patterns, layout)
        notes = []
        if nodes[0]["children"]:
            notes += ["At a split: positions; gain, significance (standard errors) and stability."]
        if patterns is not None:
            notes += ["Mean patterns: (counts)$^{0.35}$, one scale."]
        note = "\n".join(textwrap.wrap(" ".join(notes), int(16 * (width - left))))
        figure.text(left / width, 0.1 / total, note, fontsize=7.5, color=FAINT, va="bottom")
    return figure


@dataclass(frozen=True)
class _TreeLayout:
    """Places in inches, from the left and from the top."""

    x: dict[int, float]  # left edge of each node's picture
    y: dict[int, float]  # its middle
    bands: list[tuple[int, float, float]]  # level, from, to
    picture: tuple[float, float]  # height and width of a pattern
    column: float
    width: float
    height: float
    leaf_x: float

    @classmethod
    def of(cls, nodes, pattern_aspect: float, has_patterns: bool) -> _TreeLayout:
        leaves = leaf_indices(nodes)
        row = 1.0 if len(leaves) <= 10 else 0.84
        tall = row - 0.2
        aspect = min(max(pattern_aspect, 0.4), 2.5)
        picture = (tall, tall / aspect) if aspect >= 1 else (tall * aspect, tall)
        if not has_patterns:
            picture = (0.16, 0.16)
        # splits of one level that follow each other stand in columns of their own
        step: dict[int, tuple[int, int]] = {}
        for node in nodes:
            if node["children"]:
                level = nodes[node["children"][0]]["level"]
                before = step.get(node["parent"], (0, 0))
                step[node["index"]] = (level, before[1] + 1 if before[0] == level else 0)
        columns = sorted(set(step.values()))
        # the caption of a split is wider than its picture
        column = max(picture[1] + 0.72, 1.45)
        x = {index: 0.12 + columns.index(key) * column for index, key in step.items()}
        leaf_x = 0.12 + len(columns) * column + 0.34
        y = {}
        head = 0.3
        for number, index in enumerate(leaves):
            x[index], y[index] = leaf_x, head + (number + 0.5) * row
        for node in reversed(_children_last(nodes)):
            if node["children"]:
                y[node["index"]] = sum(y[child] for child in node["children"]) / 2
        bands = []
        for level in sorted({key[0] for key in columns}):
            inside = [i for i, key in enumerate(columns) if key[0] == level]
            bands.append((level, inside[0] * column, (inside[-1] + 1) * column))
        width = leaf_x + picture[1] + 1.75
        return cls(x, y, bands, picture, column, width, head + len(leaves) * row + 0.12, leaf_x)


def _children_last(nodes) -> list[Mapping[str, Any]]:
    """The nodes, each before its children."""
    order, waiting = [], [0]
    while waiting:
        order.append(nodes[waiting.pop()])
        waiting.extend(order[-1]["children"])
    return order


def _draw_tree(ax: Axes, nodes, patterns, layout: _TreeLayout) -> None:
    from matplotlib.patches import Rectangle

    colors = node_colors(nodes)
    leaves = leaf_indices(nodes)
    tall, wide = layout.picture
    total = max(nodes[0]["size"], 1)
    for number, (level, start, stop) in enumerate(layout.bands):
        if number % 2 == 0:
            ax.add_patch(
                Rectangle((start, 0), stop - start, layout.height, color=_BAND, linewidth=0)
            )
        ax.text(start + 0.12, 0.1, f"level {level}", fontsize=8, color=FAINT, va="center")
    word = "leaf" if len(leaves) == 1 else "leaves"
    heading = f"{len(leaves)} {word}"
    ax.text(layout.leaf_x - 0.3, 0.1, heading, fontsize=8, color=FAINT, va="center")
    for node in nodes:
        x, y = layout.x[node["index"]], layout.y[node["index"]]
        # the corner stands right of the caption under the picture
        corner = x + layout.column - 0.2
        if node["children"]:
            stem = {"color": colors[node["index"]] if node["parent"] is not None else FAINT}
            stem["linewidth"] = _line_width(node, total)
            ax.plot([x + wide, corner], [y, y], solid_capstyle="butt", zorder=1, **stem)
        for child in node["children"]:
            end = layout.x[child] - (0.3 if not nodes[child]["children"] else 0)
            ax.plot(
                [corner, corner, end],
                [y, layout.y[child], layout.y[child]],
                color=colors[child],
                linewidth=_line_width(nodes[child], total),
                solid_capstyle="butt",
                solid_joinstyle="miter",
                zorder=2,
            )
    scaled = _scaled(patterns)
    for node in nodes:
        index = node["index"]
        x, y = layout.x[index], layout.y[index]
        box = (x, x + wide, y + tall / 2, y - tall / 2)
        if scaled is None:
            ax.add_patch(Rectangle((x, y - tall / 2), wide, tall, color=colors[index], zorder=4))
        else:
            ax.imshow(
                scaled[index], cmap="magma", vmin=0, vmax=1, extent=box, aspect="auto", zorder=3,
                interpolation="antialiased",
            )  # fmt: skip
            edge = colors[index] if not node["children"] else FAINT
            line = 2.2 if not node["children"] else 0.7
            ax.add_patch(
                Rectangle(
                    (x, y - tall / 2), wide, tall, fill=False, edgecolor=edge, lw=line, zorder=4
                )
            )
        if node["children"]:
            lines = [f"{node['size']:,}", *_numbers(node)]
            # beside a leaf's row a caption of two lines under the picture is free of all branches
            ax.text(
                x, y + tall / 2 + 0.03, "\n".join(lines), fontsize=7, color=INK, va="top",
                linespacing=1.1, zorder=5,
            )  # fmt: skip
        else:
            _draw_leaf(ax, node, leaves.index(index), colors[index], x, y, wide, total)
    ax.set(xlim=(0, layout.width), ylim=(layout.height, 0))


def _line_width(node, total: int) -> float:
    return 1.2 + 4 * math.sqrt(node["size"] / total)


def _draw_leaf(ax, node, number: int, color, x, y, wide: float, total: int) -> None:
    ax.text(
        x - 0.18, y, str(number), ha="center", va="center", fontsize=9, weight="bold", zorder=6,
        color=readable_on(color),
        bbox={"boxstyle": "circle,pad=0.25", "facecolor": color, "edgecolor": "white"},
    )  # fmt: skip
    share = 100 * node["size"] / total
    ax.text(
        x + wide + 0.1, y - 0.02, f"{node['size']:,} ({share:.3g} %)", fontsize=8, color=INK,
        va="bottom",
    )  # fmt: skip
    reason = textwrap.wrap(str(node.get("stopped") or ""), 34, max_lines=3, placeholder=" …")
    ax.text(
        x + wide + 0.1, y + 0.02, "\n".join(reason), fontsize=7, color=FAINT, va="top",
        linespacing=1.15,
    )  # fmt: skip


def _numbers(node) -> list[str]:
    """What is known of a split, in one line or none."""
    parts = []
    for name, unit in (("gain", ""), ("significance", " s.e."), ("stability", "")):
        value = node.get(name)
        if value is not None:
            digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
            parts.append(digits + unit)
    return [", ".join(parts)] if parts else []


def _scaled(patterns: np.ndarray | None) -> np.ndarray | None:
    """Patterns between 0 and 1 on one scale, weak spots beside the direct beam made visible."""
    if patterns is None:
        return None
    values = np.nan_to_num(np.clip(patterns, 0, None)) ** 0.35
    low, top = np.percentile(values, [2, 99.8])
    top = top if top > low else max(values.max(), low + 1.0)
    return np.clip((values - low) / (top - low), 0, 1)
