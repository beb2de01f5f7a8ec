"""Colours of clusters, and the lines between them on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hs_autoptycho.clustering.nodes import leaf_indices, leaf_ranges
from hs_autoptycho.plotting.style import oklab_to_linear, screen_values

UNCLUSTERED = "#DCDCDC"

# in the Oklab space, hues in degrees of the darkest and the lightest: from brown over orange to
# yellow, and from violet over blue to cyan; the root is green
_ROOT, _HALVES, _LIGHTNESSES = 153.0, ((35.0, 105.0), (280.0, 190.0)), (0.38, 0.92)
_MOST_CHROMA = 0.155


def node_colors(nodes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A colour for every node; a node's descendants have colours near its own.

    The first split is of hue: orange and blue, which colour-blind readers tell apart. All others
    are of lightness, of which every leaf has the same share, for hues nearer to each other than
    these two are the same to one or another reader, and lightness is seen by all; a little of hue
    goes with it. A node has the middle of what its leaves have.

    Parameters
    ----------
    nodes
        The tree, root first.

    Returns
    -------
    numpy.ndarray
        Float array (nodes, 3), sRGB between 0 and 1.
    """
    leaves = np.ptp(leaf_ranges(nodes), axis=1)
    share = {0: (None, *_LIGHTNESSES)}  # half of the hues, and lightnesses from and to
    waiting = [0]
    while waiting:
        index = waiting.pop()
        children = nodes[index]["children"]
        if not children:
            continue
        half, dark, light = share[index]
        middle = dark + leaves[children[0]] / leaves[index] * (light - dark)
        if index == 0:
            parts = [(0, dark, light), (1, dark, light)]
        else:
            parts = [(half, dark, middle), (half, middle, light)]
        share.update(zip(children, parts, strict=True))
        waiting.extend(children)
    colors = []
    for half, dark, light in (share[index] for index in range(len(nodes))):
        lightness = (dark + light) / 2
        hue = _ROOT if half is None else np.interp(lightness, _LIGHTNESSES, _HALVES[half])
        colors.append(_srgb(lightness, np.radians(hue)))
    return np.array(colors)


def leaf_colors(nodes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Colours of the leaves, in the order of their numbers: float array (leaves, 3)."""
    return node_colors(nodes)[leaf_indices(nodes)]


def _srgb(lightness: float, hue: float) -> np.ndarray:
    """The most vivid colour of a lightness and hue in the Oklab space that a screen can show."""
    linear = oklab_to_linear(lightness, np.linspace(_MOST_CHROMA, 0, 64), hue)
    shown = linear[np.argmax(((linear >= 0) & (linear <= 1)).all(axis=1))]
    return screen_values(np.clip(shown, 0, 1))


def boundary_segments(labels: np.ndarray) -> np.ndarray:
    """The edges between pixels of different labels.

    Parameters
    ----------
    labels
        Integer array (y, x).

    Returns
    -------
    numpy.ndarray
        Float array (edges, 2, 2): the two ends of each edge as (x, y) in pixels, the middle of
        the first pixel at 0. Edges in a row are one.
    """
    segments = []
    # an edge between rows runs along x, one between columns along y
    for axis, grid in enumerate((labels, labels.T)):
        differs = grid[1:] != grid[:-1]
        padded = np.pad(differs, ((0, 0), (1, 1))).astype(np.int8)
        steps = np.diff(padded, axis=1)
        row, start = np.nonzero(steps == 1)
        stop = np.nonzero(steps == -1)[1]
        across = row + 0.5
        ends = np.stack([[start - 0.5, across], [stop - 0.5, across]], axis=0)
        ends = np.moveaxis(ends, -1, 0)
        segments.append(ends if axis == 0 else ends[..., ::-1])
    return np.concatenate(segments)


def label_places(labels: np.ndarray) -> dict[int, tuple[float, float]]:
    """For every label but -1 a pixel (y, x) in the middle of its widest region."""
    from scipy.ndimage import distance_transform_edt

    places = {}
    for label in np.unique(labels[labels >= 0]).tolist():
        # the border counts as outside, so that a number is not cut off by it
        inside = np.pad(labels == label, 1)
        depth = distance_transform_edt(inside)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), labels.shape)
        places[label] = (int(y), int(x))
    return places
