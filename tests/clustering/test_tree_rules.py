"""How a tree grows when the splits are given: their order, limits, sizes, gains and levels."""

import numpy as np
import pytest

from hs_autoptycho.clustering import tree as module
from hs_autoptycho.clustering.evidence import Evidence
from hs_autoptycho.clustering.features import Features, Half
from hs_autoptycho.clustering.smoothing import blur
from hs_autoptycho.clustering.splitting import NOTHING, Split
from hs_autoptycho.clustering.tree import Limits, grow

Y, X = np.indices((12, 20))
EVIDENCE = Evidence(9.0, 1.0, 2.0, 3.0, 0.9, 0.1, 0.8, 0.2)


def test_smallest_cluster():
    # half of the root, rounded, or 20
    sizes = {1600: 20, 1681: 20, 1764: 21, 10_000: 50, 9: 20}
    assert {n: Limits().smallest(n) for n in sizes} == sizes
    assert Limits(min_cluster_size=3).smallest(10_000) == 3


def features(levels):
    """Two halves without noise, one feature a level, the second half twice as bright."""
    sums = np.asarray(levels, float)[..., None] * 10.0
    weights = np.full(sums.shape[:2], 10.0)
    return Features((Half(sums, weights), Half(2 * sums, 2 * weights)), weights > 0, "counts")


@pytest.fixture
def growing(monkeypatch):
    """`grow` with the cuts given: {(first column, last column): column of the cut, refusal}."""
    asked = []

    def run(levels, cuts, limits=Limits(min_cluster_size=4), valid=None, **options):  # noqa: B008
        def try_split(features, window, mask, **given):
            first, last = window[1].start, window[1].stop
            asked.append(((first, last), given))
            assert mask.shape == (window[0].stop - window[0].start, last - first)
            if (first, last) not in cuts:
                return None
            column, refusal = cuts[first, last]
            second = mask & (np.arange(first, last) >= column)
            return Split(second, EVIDENCE, 0.75, refusal)

        monkeypatch.setattr(module, "try_split", try_split)
        monkeypatch.setattr(module, "assign", lambda features, labels, n: labels)
        made = features(levels)
        if valid is not None:
            made.valid[...] = valid
        asked.clear()
        return grow(made, limits, **options), asked

    return run


LEVELS = np.select([X < 4, X < 8, X < 14], [0.0, 1.0, 5.0], 5.5)
CUTS = {(0, 20): (8, ""), (0, 8): (4, ""), (8, 20): (14, "")}


def test_strongest_split_first(growing):
    tree, asked = growing(LEVELS, CUTS, smoothing=1.5, random_state=3, num_workers=1)
    assert [window for window, _ in asked] == [
        (0, 20), (0, 8), (8, 20), (0, 4), (4, 8), (8, 14), (14, 20)
    ]  # fmt: skip
    given = {"min_size": 4, "smoothing": 1.5, "random_state": 3, "num_workers": 1}
    assert all(options == given for _, options in asked)
    assert [node["children"] for node in tree.nodes] == [[1, 2], [3, 4], [5, 6], [], [], [], []]
    assert [node["parent"] for node in tree.nodes] == [None, 0, 0, 1, 1, 2, 2]
    assert [node["depth"] for node in tree.nodes] == [0, 1, 1, 2, 2, 2, 2]
    assert [node["size"] for node in tree.nodes] == [240, 96, 144, 48, 48, 72, 72]
    assert [node["index"] for node in tree.nodes] == list(range(7))
    assert [node["stopped"] for node in tree.nodes] == [""] * 3 + [NOTHING] * 4
    np.testing.assert_array_equal(tree.leaf_labels, np.select([X < 4, X < 8, X < 14], [0, 1, 2], 3))
    assert tree.leaf_labels.dtype == np.int32 and not tree.interrupted
    inner, leaf = tree.nodes[1], tree.nodes[3]
    assert (inner["significance"], inner["stability"], inner["separation"]) == (9.0, 0.75, 2.0)
    # the difference of the means, and its square as a part of the structure
    assert [node["contrast"] for node in tree.nodes[:3]] == pytest.approx([4.75, 1.0, 0.5])
    structure = module._structure(features(LEVELS))
    assert [node["gain"] for node in tree.nodes[:3]] == pytest.approx(
        np.array([4.75**2 * 96 * 144 / 240, 48 * 48 / 96, 0.25 * 72 * 72 / 144]) / 240 / structure
    )
    assert leaf["gain"] is leaf["contrast"] is leaf["significance"] is None
    # 1 is less than half of 4.75
    assert [node["level"] for node in tree.nodes] == [0, 1, 1, 2, 2, 2, 2]


def test_limit_takes_the_strongest(growing):
    tree, _ = growing(LEVELS, CUTS, Limits(max_clusters=3, min_cluster_size=4))
    assert [node["stopped"] for node in tree.nodes] == [
        "", "", "max_clusters", NOTHING, NOTHING
    ]  # fmt: skip
    assert tree.nodes[2]["gain"] > 0
    np.testing.assert_array_equal(tree.leaf_labels, np.select([X < 4, X < 8], [0, 1], 2))
    tree, _ = growing(LEVELS, CUTS, Limits(max_clusters=1, min_cluster_size=4))
    assert tree.nodes[0]["stopped"] == "max_clusters" and (tree.leaf_labels == 0).all()
    # a depth of none is no limit, one of nothing is
    tree, asked = growing(LEVELS, CUTS, Limits(max_depth=0, min_cluster_size=4))
    assert tree.nodes[0]["stopped"] == "max_depth" and asked == []
    tree, _ = growing(LEVELS, CUTS, Limits(max_depth=1, min_cluster_size=4))
    assert [node["stopped"] for node in tree.nodes] == ["", "max_depth", "max_depth"]


def test_nodes_too_small_to_be_split(growing):
    tree, asked = growing(LEVELS, CUTS, Limits(min_cluster_size=48))
    assert [window for window, _ in asked] == [(0, 20), (0, 8), (8, 20)]
    assert [node["stopped"] for node in tree.nodes] == [""] * 3 + ["fewer than 96 positions"] * 4
    tree, _ = growing(LEVELS, CUTS, Limits(min_cluster_size=49))
    assert tree.nodes[1]["stopped"] == "fewer than 98 positions"
    # those that can be used count
    valid = (X != 2) | (Y > 1)
    tree, _ = growing(LEVELS, CUTS, Limits(min_cluster_size=48), valid)
    assert tree.nodes[1]["size"] == 94 and tree.nodes[1]["stopped"] == "fewer than 96 positions"
    np.testing.assert_array_equal(tree.leaf_labels == -1, ~valid)


def test_refused_split_says_why(growing):
    cuts = {**CUTS, (8, 20): (14, "a gradient, not a step")}
    tree, _ = growing(LEVELS, cuts)
    assert tree.nodes[2]["stopped"] == "a gradient, not a step" and not tree.nodes[2]["children"]
    assert tree.nodes[2]["contrast"] == pytest.approx(0.5)
    assert tree.leaf_labels.max() == 2


def test_progress_and_interruption(growing):
    told = []

    def stop(n):
        told.append(n)
        if n == 3:
            raise KeyboardInterrupt

    tree, _ = growing(LEVELS, CUTS, progress=stop)
    assert told == [2, 3] and tree.interrupted
    assert [node["stopped"] for node in tree.nodes] == ["", "", *["interrupted"] * 3]
    assert [node["size"] for node in tree.nodes] == [240, 96, 144, 48, 48]


# --- numbers ----------------------------------------------------------------------------------


def test_structure_is_shared_by_the_halves():
    rng = np.random.default_rng(0)
    sums, weights = rng.normal(size=(2, 12, 20, 3)), rng.uniform(1, 2, (2, 12, 20))
    valid = rng.random((12, 20)) > 0.2
    halves = [Half(s, w) for s, w in zip(sums, weights, strict=True)]
    blurred = []
    for half in halves:
        mean = half.sums.sum((0, 1)) / half.weights.sum()
        centred = half.sums - half.weights[..., None] * mean
        blurred.append(blur(centred, 1.0) / blur(half.weights, 1.0)[..., None])
    wanted = (blurred[0] * blurred[1]).sum(2)[valid].mean()
    assert module._structure(Features(tuple(halves), valid, "counts")) == pytest.approx(wanted)
    opposite = (halves[0], Half(-halves[0].sums, halves[0].weights))
    assert module._structure(Features(opposite, valid, "counts")) == 1e-30
    dark = Half(0 * sums[0], 0 * weights[0])
    assert module._structure(Features((dark, dark), valid, "counts")) == 1e-30


def test_strength_of_a_split():
    made = features(np.where(X < 8, 1.0, 3.0))
    made.valid[0] = False
    window, mask = np.s_[2:10, 4:16], np.ones((8, 12), bool)
    mask[0, :3] = False
    contrast, gain = module._strength(made, window, mask, mask & (X[window] >= 8), 0.5)
    # 29 of 1, 64 of 3, in 220 positions
    assert contrast == pytest.approx(2) and gain == pytest.approx(4 * 29 * 64 / 93 / 220 / 0.5)
    nothing = module._strength(made, window, mask, np.zeros((8, 12), bool), 0.5)
    assert nothing == (0.0, 0.0)
    first, second = made.halves
    made = Features((first, Half(-second.sums, second.weights)), made.valid, "counts")
    assert module._strength(made, window, mask, X[window] >= 8, 0.5) == (0.0, 0.0)


def test_rectangle_around_a_node():
    mask = np.zeros((7, 9), bool)
    mask[2, 3:5] = mask[5, 7] = True
    window, inside = module._rectangle(mask)
    assert window == np.s_[2:6, 3:8] and inside.shape == (4, 5) and inside.sum() == 3


def test_levels_follow_the_contrast():
    def levels(contrasts):
        """Of a tree that is split again and again at its first child."""
        nodes = [module._node(0, None, 0)]
        for depth, contrast in enumerate(contrasts):
            parent = 2 * depth - 1 if depth else 0
            nodes[parent] |= {"contrast": contrast}
            nodes += [module._node(len(nodes) + i, parent, depth + 1) for i in (0, 1)]
        module._set_levels(nodes)
        return [node["level"] for node in nodes]

    assert levels([4.0]) == [0, 1, 1]
    # half as strong as the one above is of its level
    assert levels([4.0, 2.0, 1.0, 0.49]) == [0, 1, 1, 1, 1, 1, 1, 2, 2]
    assert levels([4.0, 1.9, 3.0]) == [0, 1, 1, 2, 2, 2, 2]


def test_sizes_are_those_of_the_leaves():
    nodes = [module._node(i, p, 0) for i, p in enumerate((None, 0, 0, 1, 1))]
    nodes[0]["children"], nodes[1]["children"] = [1, 2], [3, 4]
    nodes[3]["size"] = 77
    leaves = module._leaves_in_order(nodes)
    assert leaves == [3, 4, 2]
    module._count(nodes, leaves, np.array([[0, 0, 1], [2, 2, 2], [-1, -1, 2]]))
    assert [node["size"] for node in nodes] == [7, 3, 4, 2, 1]
