"""Colours of clusters, and the lines between them on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hs_autoptycho.clustering.nodes import leaf_indices, leaf_ranges
from hs_autoptycho.plotting.style import oklab_to_linear, screen_values

UNCLUSTERED = "#DCDCDC"

# in the Oklab space, hue in degrees: the two halves of the circle are around orange and blue
_HUES, _LIGHTNESSES = (-12.0, 318.0), (0.38, 0.92)
_MOST_CHROMA = 0.155
# length of an arc of hues, to be compared with a step of lightness
_HUE_WEIGHT = 0.15 * np.pi / 180


def node_colors(nodes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A colour for every node; a node's descendants have colours near its own.

    The root has all hues and lightnesses. A split divides what its node has along the wider of the
    two, the parts as the square roots of the numbers of leaves, and every node takes the middle of
    its share. So no two nodes side by side are alike, the first split is of hue (orange and blue,
    which colour-blind readers tell apart) and the next ones of lightness.

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
    share = {0: (_HUES, _LIGHTNESSES)}
    waiting = [0]
    while waiting:
        index = waiting.pop()
        children = nodes[index]["children"]
        if not children:
            continue
        hues, lightnesses = share[index]
        weights = np.sqrt(leaves[list(children)])
        part = weights[0] / weights.sum()
        if _HUE_WEIGHT * (hues[1] - hues[0]) >= lightnesses[1] - lightnesses[0] or index == 0:
            middle = hues[0] + part * (hues[1] - hues[0])
            halves = [((hues[0], middle), lightnesses), ((middle, hues[1]), lightnesses)]
        else:
            middle = lightnesses[0] + part * (lightnesses[1] - lightnesses[0])
            halves = [(hues, (lightnesses[0], middle)), (hues, (middle, lightnesses[1]))]
        share.update(zip(children, halves, strict=True))
        waiting.extend(children)
    middles = [np.mean(share[index], axis=1) for index in range(len(nodes))]
    return np.array([_srgb(lightness, np.radians(hue)) for hue, lightness in middles])


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
