"""The tree: grown by splits, numbered, cut off by limits."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from hs_autoptycho.clustering import tree as module
from hs_autoptycho.clustering.features import Features, Half, from_intensities
from hs_autoptycho.clustering.nodes import check_nodes, leaf_indices, level_labels, nodes_at_level
from hs_autoptycho.clustering.tree import Limits, grow

SHAPE = (36, 45)
Y, X = np.indices(SHAPE)
FOUR = 2 * (X > 22) + (Y > 17)
# two pairs: the members of a pair are four times as alike as the pairs
_BASE = np.random.default_rng(11).dirichlet(np.full(12, 20.0), 3)
_APART = 0.12 * (_BASE[1] - _BASE[0])
PATTERNS = np.stack([_BASE[0], _BASE[0] + _APART, _BASE[2], _BASE[2] + _APART])


def draw(labels, seed=0, electrons=4000.0, valid=None, patterns=PATTERNS):
    rng = np.random.default_rng(seed)
    valid = np.ones(labels.shape, bool) if valid is None else valid
    halves = []
    for _ in range(2):
        counts = rng.poisson(0.5 * electrons * patterns[labels]).astype(np.float32)
        counts[~valid] = 0
        halves.append(Half(counts[..., :11] / np.sqrt(patterns[0, :11]), counts.sum(-1)))
    return Features(tuple(halves), valid, "counts")


@pytest.fixture(scope="module")
def four():
    return draw(FOUR)


@pytest.fixture(scope="module")
def grown(four):
    return grow(four)


@pytest.mark.parametrize("seed", range(6))
def test_structureless_scan_is_one_leaf(seed):
    tree = grow(draw(0 * X, seed))
    assert len(tree.nodes) == 1 and not tree.interrupted
    assert (tree.leaf_labels == 0).all()
    assert tree.nodes[0]["stopped"] and tree.nodes[0]["size"] == 36 * 45
    check_nodes(tree.nodes)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [2, 3])
def test_domains_are_found(n, seed):
    labels = np.where(np.hypot(X - 13, Y - 14) < 9, 1, 0)
    labels[:, 32:] = n - 1
    tree = grow(draw(labels, seed, patterns=_BASE, electrons=300.0))
    assert tree.leaf_labels.max() == n - 1
    assert adjusted_rand_score(labels.ravel(), tree.leaf_labels.ravel()) > 0.97


@pytest.mark.parametrize("ramp", [X / 44, Y / 35], ids=["x", "y"])
def test_gradient_is_one_leaf(ramp):
    rng = np.random.default_rng(0)
    expected = 2000 * (ramp[..., None] * _BASE[0] + (1 - ramp[..., None]) * _BASE[1])
    halves = []
    for _ in range(2):
        counts = rng.poisson(expected).astype(np.float32)
        halves.append(Half(counts[..., :11], counts.sum(-1)))
    tree = grow(Features(tuple(halves), np.ones(SHAPE, bool), "counts"))
    assert len(tree.nodes) == 1 and tree.nodes[0]["stopped"] == "a gradient, not a step"
    assert tree.nodes[0]["significance"] > 6  # of the split that was refused


def test_nested_domains(grown):
    check_nodes(grown.nodes)
    assert adjusted_rand_score(FOUR.ravel(), grown.leaf_labels.ravel()) > 0.97
    assert grown.leaf_labels.dtype == np.int32
    levels = level_labels(grown.leaf_labels, grown.nodes)
    assert len(levels) == 2  # the pairs first, as the difference between them is the largest
    assert adjusted_rand_score((FOUR // 2).ravel(), levels[0].ravel()) > 0.97
    np.testing.assert_array_equal(levels[1], grown.leaf_labels)


def test_what_nodes_say(grown):
    nodes = grown.nodes
    assert [node["index"] for node in nodes] == list(range(7))
    for node in nodes:
        children = node["children"]
        if children:
            assert node["stopped"] == "" and node["size"] == sum(nodes[c]["size"] for c in children)
            assert node["gain"] > 0 and node["significance"] > 6 and node["separation"] > 0
            assert 0.25 < node["stability"] <= 1
            assert all(nodes[c]["depth"] == node["depth"] + 1 for c in children)
        else:
            assert node["stopped"]
    for number, index in enumerate(leaf_indices(nodes)):
        assert nodes[index]["size"] == np.count_nonzero(grown.leaf_labels == number)
    inner = [node for node in nodes if node["children"]]
    assert nodes[0]["gain"] == max(node["gain"] for node in inner)
    assert 0.8 < sum(node["gain"] for node in inner) < 1.1  # all of the structure
    assert nodes[0]["contrast"] > 2 * max(node["contrast"] for node in inner[1:])


def test_alike_splits_share_a_level():
    """Three domains as unlike as each other are one level, not two."""
    labels = np.where(X < 15, 0, np.where(X < 30, 1, 2))
    tree = grow(draw(labels, patterns=np.eye(3, 12) * 0.05 + 0.95 / 12))
    check_nodes(tree.nodes)
    assert tree.leaf_labels.max() == 2
    assert len(nodes_at_level(tree.nodes, 1)) == 3


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_max_clusters(four, n):
    tree = grow(four, Limits(max_clusters=n))
    check_nodes(tree.nodes)
    assert tree.leaf_labels.max() + 1 == min(n, 4) and not tree.interrupted
    stopped = [node["stopped"] for node in tree.nodes if not node["children"]]
    assert ("max_clusters" in stopped) == (n < 4)
    if n == 2:  # the strongest split
        assert adjusted_rand_score((FOUR // 2).ravel(), tree.leaf_labels.ravel()) > 0.97


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_max_depth(four, depth):
    tree = grow(four, Limits(max_depth=depth))
    assert max(node["depth"] for node in tree.nodes) == min(depth, 2)
    assert tree.leaf_labels.max() + 1 == {1: 2, 2: 4, 5: 4}[depth]
    if depth < 3:
        leaves = [tree.nodes[index] for index in leaf_indices(tree.nodes)]
        assert {leaf["stopped"] for leaf in leaves} == {"max_depth"}


def test_min_cluster_size(four):
    tree = grow(four, Limits(min_cluster_size=500))  # the four have about 400
    assert tree.leaf_labels.max() + 1 == 2
    assert min(node["size"] for node in tree.nodes) >= 500
    none = grow(four, Limits(min_cluster_size=1000))
    assert none.leaf_labels.max() == 0
    assert none.nodes[0]["stopped"] == "fewer than 2000 positions"
    assert Limits().smallest(10) == 20 and Limits().smallest(10_000) == 50
    assert Limits(min_cluster_size=7).smallest(10_000) == 7


def test_positions_that_are_not_valid():
    valid = (X + Y) % 11 > 0
    tree = grow(draw(FOUR, valid=valid))
    np.testing.assert_array_equal(tree.leaf_labels == -1, ~valid)
    assert tree.nodes[0]["size"] == valid.sum()
    assert adjusted_rand_score(FOUR[valid], tree.leaf_labels[valid]) > 0.95


def test_domain_in_two_places():
    labels = np.where((X < 10) | (X > 34), 1, 0)
    tree = grow(draw(labels, patterns=_BASE))
    assert tree.leaf_labels.max() == 1
    assert adjusted_rand_score(labels.ravel(), tree.leaf_labels.ravel()) > 0.97


def test_same_seed_same_tree(four, grown):
    again = grow(four)
    np.testing.assert_array_equal(again.leaf_labels, grown.leaf_labels)
    assert again.nodes == grown.nodes


def test_intensities_on_a_checkerboard():
    whole = draw(FOUR).together()
    features = from_intensities(0.3 * whole.sums, 0.3 * whole.weights, np.ones(SHAPE, bool))
    tree = grow(features)
    assert adjusted_rand_score(FOUR.ravel(), tree.leaf_labels.ravel()) > 0.95


def test_progress_tells_the_leaves(four):
    told = []
    grow(four, progress=told.append)
    assert told == [2, 3, 4]


@pytest.mark.parametrize("at, leaves", [(2, 2), (3, 3), (4, 4)])
def test_interrupt_keeps_what_there_is(four, at, leaves):
    def interrupt(n):
        if n == at:
            raise KeyboardInterrupt

    tree = grow(four, progress=interrupt)
    assert tree.interrupted
    check_nodes(tree.nodes)
    assert tree.leaf_labels.max() + 1 == leaves and tree.leaf_labels.min() == 0
    stopped = [tree.nodes[index]["stopped"] for index in leaf_indices(tree.nodes)]
    assert all(stopped) and "interrupted" in stopped
    assert sum(node["size"] for node in tree.nodes if not node["children"]) == 36 * 45


def test_interrupt_before_the_first_split(four, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "try_split", interrupt)
    tree = grow(four)
    assert tree.interrupted and len(tree.nodes) == 1 and (tree.leaf_labels == 0).all()
    assert tree.nodes[0]["stopped"] == "interrupted" and tree.nodes[0]["size"] == 36 * 45
