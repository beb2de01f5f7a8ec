"""A tree of clusters as a list of nodes: checks, order of the leaves, cuts and levels.

A node is a dictionary with its ``index`` in the list, its ``parent`` (None for the root, which is
node 0), its ``children`` (none, or two), and a ``level``; the other entries describe it and are
not looked at here, but for the ``gain`` of its split, by which `cut` orders the splits.
"""

from __future__ import annotations

import heapq
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Nodes = Sequence[Mapping[str, Any]]


def check_nodes(nodes: Nodes) -> None:
    """Refuse a list that is no binary tree.

    Raises
    ------
    ValueError
        If an index, a parent, a child or a level contradicts the others; the message names the
        node.
    """
    if not nodes:
        raise ValueError("the list of nodes is empty; a tree has at least its root")
    for index, node in enumerate(nodes):
        missing = {"index", "parent", "children", "level"} - set(node)
        if missing:
            raise ValueError(f"node {index} has no {', '.join(sorted(missing))}")
        if node["index"] != index:
            raise ValueError(f"node {index} of the list says that its index is {node['index']}")
        if len(node["children"]) not in (0, 2):
            raise ValueError(f"node {index} has {len(node['children'])} children, not 0 or 2")
        for child in node["children"]:
            if not 0 < child < len(nodes):
                raise ValueError(f"node {index} has the child {child}, which is not in the list")
            if nodes[child]["parent"] != index:
                raise ValueError(
                    f"node {child} is a child of node {index}, but its parent is "
                    f"{nodes[child]['parent']}"
                )
            if nodes[child]["level"] < max(node["level"], 1):
                raise ValueError(
                    f"node {child} has the level {nodes[child]['level']}, lower than that of its "
                    f"parent (node {index}, level {node['level']}) or than 1"
                )
    if nodes[0]["parent"] is not None or nodes[0]["level"] != 0:
        raise ValueError("node 0 is the root: its parent is None, and its level 0")
    linked = sum(len(node["children"]) for node in nodes)
    if linked != len(nodes) - 1 or len(_depth_first(nodes)) != len(nodes):
        raise ValueError(f"{len(nodes)} nodes, but {linked} children: some hang on no other node")


def _depth_first(nodes: Nodes) -> list[int]:
    """Indices of all nodes, each before its children, children[0] first."""
    order, waiting = [], [0]
    while waiting and len(order) <= len(nodes):
        order.append(waiting.pop())
        waiting.extend(reversed(nodes[order[-1]]["children"]))
    return order


def leaf_indices(nodes: Nodes) -> list[int]:
    """Node index of every leaf, in the order of the leaf numbers: depth first, children[0] first.

    Examples
    --------
    >>> root = {"children": [1, 2]}
    >>> leaf_indices([root, {"children": [3, 4]}, *3 * [{"children": []}]])
    [3, 4, 2]
    """
    return [index for index in _depth_first(nodes) if not nodes[index]["children"]]


def split_indices(nodes: Nodes) -> list[int]:
    """Node index of every node that was split, in the order of the list."""
    return [index for index, node in enumerate(nodes) if node["children"]]


def leaf_ranges(nodes: Nodes) -> np.ndarray:
    """First and last plus one of the leaf numbers below each node.

    In tree order the leaves of a node are consecutive.

    Returns
    -------
    numpy.ndarray
        int64 (nodes, 2).
    """
    ranges = np.zeros((len(nodes), 2), dtype=np.int64)
    order = _depth_first(nodes)
    number = 0
    for index in order:
        if not nodes[index]["children"]:
            ranges[index] = number, number + 1
            number += 1
    for index in reversed(order):
        if nodes[index]["children"]:
            first, second = nodes[index]["children"]
            ranges[index] = ranges[first, 0], ranges[second, 1]
    return ranges


def check_whole(name: str, value: Any, last: int, why: str) -> None:
    """Refuse what is not a whole number from 1 to `last`.

    Raises
    ------
    ValueError
        That says so, and why there are no more.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not float(value).is_integer() or not 1 <= value <= last:
        raise ValueError(
            f"{name} is {value!r}, but {why}: a whole number from 1 to {last} is needed"
        )


def cut(nodes: Nodes, n_clusters: int) -> list[int]:
    """Nodes that the tree shows when it is cut into so many clusters, in tree order.

    From the root on, the split of the largest gain is applied first, and none before that of its
    parent. A split without a gain comes after all others, and of equal gains the earlier node
    comes first.

    Raises
    ------
    ValueError
        If the tree has fewer leaves, or `n_clusters` is less than 1.
    """
    n_leaves = len(leaf_indices(nodes))
    check_whole("n_clusters", n_clusters, n_leaves, f"the tree has {n_leaves} leaves")
    shown = {0}
    waiting = [(_loss(nodes[0]), 0)]
    while len(shown) < n_clusters:
        _, index = heapq.heappop(waiting)
        if nodes[index]["children"]:
            shown.remove(index)
            for child in nodes[index]["children"]:
                shown.add(child)
                heapq.heappush(waiting, (_loss(nodes[child]), child))
    return [index for index in _depth_first(nodes) if index in shown]


def _loss(node: Mapping[str, Any]) -> float:
    gain = node.get("gain")
    return math.inf if gain is None or math.isnan(gain) else -float(gain)


def n_levels(nodes: Nodes) -> int:
    """Number of levels: at least one, of a tree that is one leaf too."""
    return max(1, *(int(node["level"]) for node in nodes))


def nodes_at_level(nodes: Nodes, level: int) -> list[int]:
    """The deepest nodes with at most this level, in tree order."""

    def is_shown(index: int) -> bool:
        node = nodes[index]
        is_last = all(nodes[child]["level"] > level for child in node["children"])
        return node["level"] <= level and is_last

    return [index for index in _depth_first(nodes) if is_shown(index)]


def merged_labels(
    leaf_labels: np.ndarray, nodes: Nodes, shown: Iterable[int], values: Iterable[int] | None = None
) -> np.ndarray:
    """Labels of nodes in place of those of their leaves.

    Parameters
    ----------
    leaf_labels
        Integer array of any shape: leaf numbers, or -1.
    nodes
        The tree.
    shown
        Indices of nodes that share no leaf.
    values
        Label of each of them; by default 0, 1, 2 and on.

    Returns
    -------
    numpy.ndarray
        int32, of the shape of `leaf_labels`; -1 where that is -1, or its leaf below no node shown.
    """
    shown = list(shown)
    ranges = leaf_ranges(nodes)
    # one entry more, which the label -1 finds
    table = np.full(ranges[0, 1] + 1, -1, dtype=np.int32)
    for value, index in zip(range(len(shown)) if values is None else values, shown, strict=True):
        table[slice(*ranges[index])] = value
    return table[leaf_labels]


def level_labels(leaf_labels: np.ndarray, nodes: Nodes) -> np.ndarray:
    """Labels at every level.

    Returns
    -------
    numpy.ndarray
        int32 (levels, ...): level n (index n - 1) has 0, 1, 2 and on for its clusters in tree
        order. The last level has the leaf numbers.
    """
    levels = range(1, n_levels(nodes) + 1)
    return np.stack([merged_labels(leaf_labels, nodes, nodes_at_level(nodes, n)) for n in levels])


def node_sums(leaf_sums: np.ndarray, nodes: Nodes) -> np.ndarray:
    """Sum over the leaves of every node.

    Parameters
    ----------
    leaf_sums
        (leaves, ...), in the order of the leaf numbers.

    Returns
    -------
    numpy.ndarray
        (nodes, ...), in the order of the list, of the type of `leaf_sums`.
    """
    return np.stack([leaf_sums[slice(*limits)].sum(axis=0) for limits in leaf_ranges(nodes)])
