"""The tree of clusters as a list of nodes."""

import copy
import re

import numpy as np
import pytest

from hs_autoptycho.clustering import nodes as tree


def build(splits, levels, gains=None):
    """A tree from the nodes that are split, one after the other, and the levels of the splits."""
    gains = gains or [1.0] * len(splits)
    nodes = [{"index": 0, "parent": None, "children": [], "level": 0, "gain": None}]
    for parent, level, gain in zip(splits, levels, gains, strict=True):
        children = [len(nodes), len(nodes) + 1]
        nodes[parent].update(children=children, gain=gain)
        for index in children:
            child = {"index": index, "parent": parent, "children": [], "level": level}
            nodes.append({**child, "gain": None})
    return nodes


#        0
#    1       2        levels: 0 -> 1, 2 -> 1 (three clusters at once), 1 -> 2, 5 -> 4
#  5   6   3   4
# 7 8
NODES = build([0, 2, 1, 5], [1, 1, 2, 4], gains=[0.1, 0.5, 0.9, 0.7])
LABELS = np.array([[0, 1, 2], [3, 4, -1]])  # leaves 7, 8, 6, 3, 4


def random_tree(n_splits, seed):
    rng = np.random.default_rng(seed)
    nodes = build([], [])
    for _ in range(n_splits):
        leaves = [node["index"] for node in nodes if not node["children"]]
        parent = int(rng.choice(leaves))
        children = [len(nodes), len(nodes) + 1]
        nodes[parent].update(children=children, gain=float(rng.choice([0.1, 0.2, 0.3, 0.4])))
        level = max(1, nodes[parent]["level"] + int(rng.integers(2)))
        for index in children:
            child = {"index": index, "parent": parent, "children": [], "level": level}
            nodes.append({**child, "gain": None})
    return nodes


def test_leaves_in_tree_order():
    assert tree.leaf_indices(NODES) == [7, 8, 6, 3, 4]
    assert tree.split_indices(NODES) == [0, 1, 2, 5]
    np.testing.assert_array_equal(
        tree.leaf_ranges(NODES),
        [[0, 5], [0, 3], [3, 5], [3, 4], [4, 5], [0, 2], [2, 3], [0, 1], [1, 2]],
    )


def test_one_leaf():
    nodes = build([], [])
    tree.check_nodes(nodes)
    assert tree.leaf_indices(nodes) == [0] and tree.split_indices(nodes) == []
    assert tree.n_levels(nodes) == 1
    labels = np.array([[0, -1], [0, 0]])
    np.testing.assert_array_equal(tree.level_labels(labels, nodes), labels[np.newaxis])
    assert tree.cut(nodes, 1) == [0]


def test_levels():
    tree.check_nodes(NODES)
    assert tree.n_levels(NODES) == 4
    assert tree.nodes_at_level(NODES, 0) == [0]
    assert tree.nodes_at_level(NODES, 1) == [1, 3, 4]
    assert tree.nodes_at_level(NODES, 2) == tree.nodes_at_level(NODES, 3) == [5, 6, 3, 4]
    assert tree.nodes_at_level(NODES, 4) == [7, 8, 6, 3, 4]
    levels = tree.level_labels(LABELS, NODES)
    assert levels.dtype == np.int32
    np.testing.assert_array_equal(levels[0], [[0, 0, 0], [1, 2, -1]])
    np.testing.assert_array_equal(levels[1], [[0, 0, 1], [2, 3, -1]])
    np.testing.assert_array_equal(levels[2], levels[1])
    np.testing.assert_array_equal(levels[3], LABELS)


def test_cut_applies_the_best_split_whose_parent_was_split():
    cuts = [tree.cut(NODES, n) for n in range(1, 6)]
    # the root's gain is the least and still comes first; 1 (0.9), 5 (0.7), 2 (0.5)
    assert cuts == [[0], [1, 2], [5, 6, 2], [7, 8, 6, 2], [7, 8, 6, 3, 4]]


def test_equal_gains_are_cut_in_the_order_of_the_list():
    nodes = build([0, 1, 2], [1, 2, 2], gains=[0.1, 0.3, 0.3])
    assert tree.cut(nodes, 3) == [3, 4, 2] and tree.cut(nodes, 2.0) == [1, 2]
    # a leaf that stands first in the line is passed over
    nodes[1]["gain"] = nodes[2]["gain"] = None
    assert tree.cut(nodes, 4) == [3, 4, 5, 6]


def test_cut_without_gains():
    nodes = build([0, 1, 2], [1, 2, 2], gains=[None, None, float("nan")])
    assert tree.cut(nodes, 3) == [3, 4, 2]
    nodes[2]["gain"] = 1e-9
    assert tree.cut(nodes, 3) == [1, 5, 6]


@pytest.mark.parametrize("n", [0, 6, -1, 2.5, "a", None, float("nan"), True, [2]])
def test_cut_into_what_is_not_there(n):
    message = re.escape(f"n_clusters is {n!r}, but the tree has 5 leaves: a whole number from 1 to")
    with pytest.raises(ValueError, match=message):
        tree.cut(NODES, n)
    assert tree.cut(NODES, 5.0) == tree.cut(NODES, np.int64(5)) == tree.cut(NODES, 5)


@pytest.mark.parametrize("seed", range(5))
def test_random_trees_are_nested(seed):
    nodes = random_tree(11, seed)
    tree.check_nodes(nodes)
    labels = np.random.default_rng(seed).integers(-1, 12, size=(9, 13))
    levels = list(tree.level_labels(labels, nodes))
    cuts = [tree.merged_labels(labels, nodes, tree.cut(nodes, n)) for n in range(1, 13)]
    for images in (levels, cuts):
        np.testing.assert_array_equal(images[-1], labels)
        for coarse, fine in zip(images, images[1:], strict=False):
            np.testing.assert_array_equal(coarse < 0, labels < 0)
            for label in np.unique(fine[fine >= 0]):
                assert len(np.unique(coarse[fine == label])) == 1
    assert [len(tree.cut(nodes, n)) for n in range(1, 13)] == list(range(1, 13))


def test_merged_labels_with_values_and_without_some_nodes():
    merged = tree.merged_labels(LABELS, NODES, [5, 4], values=[5, 4])
    np.testing.assert_array_equal(merged, [[5, 5, -1], [-1, 4, -1]])


def test_node_sums():
    sums = np.random.default_rng(0).integers(0, 9, size=(5, 2, 3)).astype(float)
    nodes = tree.node_sums(sums, NODES)
    assert nodes.shape == (9, 2, 3)
    np.testing.assert_array_equal(nodes[[7, 8, 6, 3, 4]], sums)
    for node in NODES:
        if node["children"]:
            np.testing.assert_array_equal(nodes[node["index"]], nodes[node["children"]].sum(0))


@pytest.mark.parametrize(
    ("node", "change", "message"),
    [
        (3, {"index": 4}, "node 3 of the list says that its index is 4"),
        (6, {"children": [7]}, "node 6 has 1 children"),
        (6, {"children": [9, 10]}, "node 6 has the child 9, which is not in the list"),
        (6, {"children": [8, 9]}, "node 8 is a child of node 6, but its parent is 5"),
        (6, {"children": [0, 4]}, "node 6 has the child 0, which is not in the list"),
        (6, {"children": [-1, 4]}, "node 6 has the child -1, which is not in the list"),
        (6, {"children": [7, 8, 4]}, "node 6 has 3 children"),
        (3, {"parent": 1}, "node 3 is a child of node 2, but its parent is 1"),
        (5, {"level": 0}, "node 5 has the level 0, lower than that of its parent"),
        (1, {"level": 0}, "node 1 has the level 0, lower than that of its parent"),
        (1, {"level": 3}, "node 5 has the level 2, lower than that of its parent"),
        (0, {"level": 1}, "node 0 is the root"),
        (0, {"parent": 4}, "node 0 is the root"),
        (5, {"children": []}, "9 nodes, but 6 children"),
    ],
)
def test_what_is_no_tree_is_refused(node, change, message):
    nodes = copy.deepcopy(NODES)
    nodes[node].update(change)
    with pytest.raises(ValueError, match=message):
        tree.check_nodes(nodes)


def test_incomplete_lists_are_refused():
    with pytest.raises(ValueError, match="empty"):
        tree.check_nodes([])
    with pytest.raises(ValueError, match="node 0 has no children, level"):
        tree.check_nodes([{"index": 0, "parent": None}])
    # two that are each other's ancestors
    loop = build([0], [1])
    loop += [
        {"index": 3, "parent": 3, "children": [3, 4], "level": 1},
        {"index": 4, "parent": 3, "children": [], "level": 1},
    ]
    with pytest.raises(ValueError, match="hang on no other node"):
        tree.check_nodes(loop)
