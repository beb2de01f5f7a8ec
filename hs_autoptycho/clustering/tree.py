"""The tree of domains: grown by splits that held-out counts accept, until there are none."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hs_autoptycho.clustering.assignment import assign
from hs_autoptycho.clustering.features import Features
from hs_autoptycho.clustering.segmentation import part_means
from hs_autoptycho.clustering.smoothing import blur
from hs_autoptycho.clustering.splitting import NOTHING, Split, try_split

# a split is of the same level as the one above it if it is at least this part as strong
_SAME_LEVEL = 0.5


@dataclass(frozen=True)
class Limits:
    """What ends the tree besides the data; None is no limit."""

    max_clusters: int | None = None
    max_depth: int | None = None
    min_cluster_size: int | None = None

    def smallest(self, n_positions: int) -> int:
        """Positions of a cluster, at least: by default half the root of all, or 20."""
        if self.min_cluster_size is not None:
            return self.min_cluster_size
        return max(20, round(0.5 * n_positions**0.5))


@dataclass(frozen=True)
class Tree:
    """The result of `grow`.

    Attributes
    ----------
    nodes
        One dictionary a node, in the order in which they were made, see `nodes.check_nodes`.
    leaf_labels : int32 array (y, x)
        Leaf number, in tree order, or -1.
    interrupted
        Whether it was ended by Ctrl-C.
    """

    nodes: list[dict[str, Any]]
    leaf_labels: np.ndarray
    interrupted: bool


def grow(
    features: Features,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    *,
    smoothing: float | None = None,
    random_state: int = 0,
    num_workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tree:
    """Split nodes as long as a split is accepted, the strongest first.

    Parameters
    ----------
    features
        Of all positions.
    limits
        Of the tree.
    smoothing
        Width in positions of the Gaussian over the scan; by default what predicts best.
    random_state
        Seed.
    num_workers
        As for `try_split`.
    progress
        Called with the number of leaves after each split.
    """
    min_size = limits.smallest(int(np.count_nonzero(features.valid)))
    labels = np.where(features.valid, 0, -1).astype(np.int32)  # index of the node
    nodes: list[dict[str, Any]] = [_node(0, None, 0)]
    structure = _structure(features)
    waiting: list[tuple[float, int, Split]] = []
    interrupted = False

    def examine(index: int) -> None:
        node = nodes[index]
        window, mask = _rectangle(labels == index)
        node["size"] = int(np.count_nonzero(mask))
        if limits.max_depth is not None and node["depth"] >= limits.max_depth:
            node["stopped"] = "max_depth"
        elif node["size"] < 2 * min_size:
            node["stopped"] = f"fewer than {2 * min_size} positions"
        else:
            split = try_split(
                features, window, mask,
                min_size=min_size, smoothing=smoothing, random_state=random_state,
                num_workers=num_workers,
            )  # fmt: skip
            if split is None:
                node["stopped"] = NOTHING
                return
            contrast, gain = _strength(features, window, mask, split.second, structure)
            node |= {
                "gain": gain,
                "significance": split.evidence.significance,
                "stability": split.stability,
                "separation": split.evidence.separation,
                "contrast": contrast,
                "stopped": split.refusal,
            }
            if not split.refusal:
                heapq.heappush(waiting, (-gain, index, split))

    n_leaves = 1
    try:
        examine(0)
        while waiting:
            if limits.max_clusters is not None and n_leaves >= limits.max_clusters:
                break
            _, index, split = heapq.heappop(waiting)
            window, mask = _rectangle(labels == index)
            children = [len(nodes), len(nodes) + 1]
            nodes += [_node(child, index, nodes[index]["depth"] + 1) for child in children]
            nodes[index]["children"] = children
            labels[window][mask & ~split.second] = children[0]
            labels[window][mask & split.second] = children[1]
            n_leaves += 1
            if progress is not None:
                progress(n_leaves)
            for child in children:
                examine(child)
    except KeyboardInterrupt:
        interrupted = True
    for node in nodes:
        if not node["children"] and not node["stopped"]:
            node["stopped"] = "interrupted" if interrupted else "max_clusters"
    leaves = _leaves_in_order(nodes)
    number = np.full(len(nodes) + 1, -1, np.int32)
    number[leaves] = np.arange(len(leaves))
    leaf_labels = assign(features, number[labels], len(leaves))
    _count(nodes, leaves, leaf_labels)
    _set_levels(nodes)
    return Tree(nodes, leaf_labels, interrupted)


def _node(index: int, parent: int | None, depth: int) -> dict[str, Any]:
    return {
        "index": index, "parent": parent, "children": [], "depth": depth, "level": 0, "size": 0,
        "gain": None, "significance": None, "stability": None, "separation": None,
        "contrast": None, "stopped": "",
    }  # fmt: skip


def _rectangle(mask: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return window, mask[window]


def _structure(features: Features) -> float:
    """Variance between positions that is not noise: the product of two independent halves."""
    means = []
    for half in features.halves:
        mean = half.sums.sum((0, 1), dtype=float) / max(half.weights.sum(dtype=float), 1e-30)
        centred = half.sums - half.weights[..., None] * mean.astype(half.sums.dtype)
        total = np.maximum(blur(half.weights, 1.0), 1e-9)
        means.append(blur(centred, 1.0) / total[..., None])
    product = np.einsum("yxk,yxk->yx", *means)
    return max(float(product[features.valid].mean()), 1e-30)


def _strength(features: Features, window, mask, second, structure) -> tuple[float, float]:
    """Contrast between the children's mean patterns, and the structure the split accounts for.

    The contrast is their distance in patterns that are normalised and scaled as Poisson counts: it
    does not depend on dose. The gain is its square times the children's sizes, as a part of all
    structure in the scan.
    """
    differences = []
    group = second[mask].astype(int)
    for half in features.halves:
        means = part_means(half.sums[window][mask], half.weights[window][mask], group, 2)
        if means is None:
            return 0.0, 0.0
        differences.append(means[1] - means[0])
    square = max(float(differences[0] @ differences[1]), 0.0)
    n = np.bincount(group, minlength=2)
    share = n[0] * n[1] / n.sum() / np.count_nonzero(features.valid)
    return square**0.5, float(square * share / structure)


def _leaves_in_order(nodes: list[dict[str, Any]]) -> list[int]:
    """Leaves from left to right."""
    order, stack = [], [0]
    while stack:
        index = stack.pop()
        children = nodes[index]["children"]
        if children:
            stack += children[::-1]
        else:
            order.append(index)
    return order


def _count(nodes, leaves, leaf_labels) -> None:
    """Sizes from the leaves up; children are behind their parents."""
    for node in nodes:
        node["size"] = 0
    for number, index in enumerate(leaves):
        nodes[index]["size"] = int(np.count_nonzero(leaf_labels == number))
    for node in reversed(nodes):
        if node["parent"] is not None:
            nodes[node["parent"]]["size"] += node["size"]


def _set_levels(nodes) -> None:
    """Splits nearly as strong as the one above them are of its level, weaker ones of the next."""
    for node in nodes:
        if node["parent"] is None:
            continue
        parent = nodes[node["parent"]]
        above = None if parent["parent"] is None else nodes[parent["parent"]]
        same = above is not None and parent["contrast"] >= _SAME_LEVEL * above["contrast"]
        node["level"] = parent["level"] + (not same)
