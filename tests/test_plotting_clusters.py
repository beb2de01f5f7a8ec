"""The figures of clusters: their colours, and what is in their panels."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hs_autoptycho.clustering.nodes import leaf_indices, leaf_ranges, nodes_at_level
from hs_autoptycho.plotting import MapFrame, leaf_colors, node_colors, overlay_figure, tree_figure
from hs_autoptycho.plotting.cluster_colors import boundary_segments, label_places

TREES = {
    "one leaf": [],
    "two": [0],
    "three": [0, 1],
    "five": [0, 1, 4, 2],
    "nine": [0, 1, 2, 3, 4, 5, 8, 11],
    "chain": [0, 2, 4, 6, 8, 10, 12, 14],
    "sixteen": list(range(15)),
}


def build(splits, levels=None):
    """Nodes and a map of (20, 33) positions, a stripe for every leaf and a corner without any."""
    node = {"children": [], "depth": 0, "level": 0, "gain": None, "stability": None}
    nodes = [{**node, "index": 0, "parent": None}]
    for number, parent in enumerate(splits):
        level = levels[number] if levels else nodes[parent]["level"] + 1
        nodes[parent].update(
            children=[len(nodes), len(nodes) + 1],
            gain=1 / (number + 1),
            significance=12.3,
            stability=0.97,
        )
        for index in nodes[parent]["children"]:
            nodes.append({**node, "children": [], "index": index, "parent": parent, "level": level})
    leaves = leaf_indices(nodes)
    labels = np.tile(np.arange(33) * len(leaves) // 33, (20, 1))
    labels[:3, :2] = -1
    ranges = leaf_ranges(nodes)
    for one, (start, stop) in zip(nodes, ranges, strict=True):
        one["size"] = int(((labels >= start) & (labels < stop)).sum())
        if not one["children"]:
            one["stopped"] = "not significant on held-out counts"
    return nodes, labels


def draw_tree(nodes, labels, **changes):
    patterns = np.random.default_rng(0).poisson(5, size=(len(nodes), 6, 8)).astype(float)
    frame = MapFrame(pixel=(0.5, 0.4), origin=(1.0, -2.0), units=("nm", "nm"))
    kwargs = {"leaf_labels": labels, "nodes": nodes, "patterns": patterns, "frame": frame}
    figure = tree_figure(**{**kwargs, "title": "a sample", **changes})
    figure.canvas.draw()
    return figure


def texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("name", TREES)
def test_colors_differ_wherever_nodes_are_shown_together(name):
    nodes, _ = build(TREES[name])
    colors = node_colors(nodes)
    assert colors.shape == (len(nodes), 3) and colors.min() >= 0 and colors.max() <= 1
    np.testing.assert_array_equal(leaf_colors(nodes), colors[leaf_indices(nodes)])
    for level in range(1, 1 + max(node["level"] for node in nodes)):
        shown = colors[nodes_at_level(nodes, level)]
        distances = np.linalg.norm(shown[:, None] - shown, axis=-1)
        assert distances[~np.eye(len(shown), dtype=bool)].min() > 0.1
    # none is the grey of what was not clustered
    assert np.all(np.ptp(colors, axis=1) > 0.1)


def test_colors_are_nested():
    nodes, _ = build(TREES["sixteen"])
    colors = leaf_colors(nodes)
    # red over blue in the one half of the tree, blue over red in the other
    warmth = colors[:, 0] - colors[:, 2]
    assert warmth[:8].min() > 0 > warmth[8:].max()


# linear light as it is seen without one kind of cones (Machado et al., IEEE Trans. Vis. Comput.
# Graph. 15, 1291, 2009)
SIGHT = {
    "all cones": np.eye(3),
    "no long ones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no medium ones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no short ones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def oklab(linear):
    """Coordinates in which distances are those that are seen (Ottosson 2020)."""
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(np.clip(linear, 0, 1) @ np.array(to_lms).T) @ np.array(to_lab).T


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    ("name", "least"),
    [("two", 0.2), ("three", 0.2), ("five", 0.13), ("nine", 0.08), ("chain", 0.04)],
)
def test_leaves_are_told_apart_by_colour_blind_readers(name, least, sight):
    colors = leaf_colors(build(TREES[name])[0])
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = oklab(linear @ np.array(SIGHT[sight]).T)
    distances = np.linalg.norm(seen[:, None] - seen, axis=-1)
    # a difference of about 0.02 is just seen
    assert distances[~np.eye(len(seen), dtype=bool)].min() > least


def test_boundaries_are_the_edges_between_labels():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    segments = {tuple(map(tuple, ends)) for ends in boundary_segments(labels).tolist()}
    assert segments == {((-0.5, 1.5), (2.5, 1.5)), ((1.5, -0.5), (1.5, 1.5))}
    labels = np.random.default_rng(0).integers(-1, 3, size=(7, 9))
    segments = boundary_segments(labels)
    lengths = np.abs(segments[:, 1] - segments[:, 0]).sum()
    assert lengths == (np.diff(labels, axis=0) != 0).sum() + (np.diff(labels, axis=1) != 0).sum()
    assert boundary_segments(np.zeros((3, 4), int)).shape == (0, 2, 2)


def test_numbers_stand_in_their_regions():
    labels = np.full((9, 12), -1)
    labels[2:7, 3:8] = 4
    labels[0, :] = 1
    places = label_places(labels)
    assert places[4] == (4, 5)
    assert set(places) == {1, 4} and places[1][0] == 0


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("has_patterns", [True, False])
def test_tree_shows_every_node(name, has_patterns):
    nodes, labels = build(TREES[name])
    figure = draw_tree(nodes, labels, **({} if has_patterns else {"patterns": None}))
    leaves_map, tree = figure.axes
    assert len(tree.images) == (len(nodes) if has_patterns else 0)
    written = texts(tree)
    n_leaves = len(leaf_indices(nodes))
    assert [text for text in written if text.isdigit()] != []
    assert {str(number) for number in range(n_leaves)} <= set(written)
    for node in nodes:
        starts = [text for text in written if text.startswith(f"{node['size']:,}")]
        assert starts, node["index"]
    if len(nodes) > 1:
        assert any("1, 12 s.e., 0.97" in text for text in written)
    assert leaves_map.get_title("left") == "Leaves"
    assert leaves_map.images[0].get_extent() == pytest.approx((-2.2, 11.0, 10.75, 0.75))
    assert (leaves_map.get_xlabel(), leaves_map.get_ylabel()) == ("x (nm)", "y (nm)")
    assert "a sample" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_nothing_in_the_tree_overlaps(name, aspect):
    nodes, labels = build(TREES[name])
    for node in nodes:
        node["size"] *= 1234
        if node["children"]:
            node.update(gain=0.0123, significance=2345.6, stability=0.987)
        else:
            node["stopped"] = "a smooth gradient and no step: " + "two populations overlap " * 6
    figure = draw_tree(nodes, labels, pattern_aspect=aspect)
    tree = figure.axes[1]
    renderer = figure.canvas.get_renderer()
    boxes = [image.get_window_extent(renderer) for image in tree.images]
    boxes += [text.get_window_extent(renderer) for text in tree.texts if text.get_text()]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    boxes.append(figure.axes[0].get_tightbbox(renderer))
    inside = figure.bbox
    for number, box in enumerate(boxes):
        assert box.x0 >= inside.x0 - 1 and box.x1 <= inside.x1 + 1
        assert box.y0 >= inside.y0 - 1 and box.y1 <= inside.y1 + 1
        for other in boxes[number + 1 :]:
            # a pixel of slack, for the white around letters
            overlap = [
                min(box.x1, other.x1) - max(box.x0, other.x0),
                min(box.y1, other.y1) - max(box.y0, other.y0),
            ]
            assert min(overlap) < 1.5


def test_map_and_tree_have_the_same_colors():
    nodes, labels = build(TREES["nine"])
    figure = draw_tree(nodes, labels)
    picture = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(picture[labels >= 0], leaf_colors(nodes)[labels[labels >= 0]])
    circles = [t.get_bbox_patch() for t in figure.axes[1].texts if t.get_bbox_patch()]
    faces = [circle.get_facecolor()[:3] for circle in circles]
    order = [t.get_text() for t in figure.axes[1].texts if t.get_bbox_patch()]
    expected = leaf_colors(nodes)[[int(number) for number in order]]
    np.testing.assert_allclose(faces, expected)


def test_splits_of_one_level_stand_in_its_band():
    nodes, labels = build([0, 1, 2, 3], levels=[1, 1, 1, 3])
    tree = draw_tree(nodes, labels).axes[1]
    assert [t for t in texts(tree) if t.startswith("level")] == ["level 1", "level 3"]
    bands = [patch for patch in tree.patches if patch.get_height() > 3]
    assert len(bands) == 1  # the other is white
    start, stop = bands[0].get_x(), bands[0].get_x() + bands[0].get_width()
    left = np.array([image.get_extent()[0] for image in tree.images])
    split = [node["index"] for node in nodes if node["children"]]
    inside = {index for index in split if start <= left[index] < stop}
    assert inside == {0, 1, 2}
    assert left[1] == left[2] > left[0]


def draw_overlay(nodes, labels, **changes):
    frame = MapFrame(pixel=(0.5, 0.4), origin=(1.0, -2.0), units=("nm", "Å"))
    shown = leaf_indices(nodes)
    kwargs = {"labels": labels, "shown": shown, "nodes": nodes, "frame": frame, **changes}
    figure = overlay_figure(**kwargs)
    figure.canvas.draw()
    return figure.axes[0]


def test_overlay_without_an_image_is_the_colors():
    nodes, labels = build(TREES["five"])
    ax = draw_overlay(nodes, labels, title="Leaves")
    picture = ax.images[0].get_array()
    np.testing.assert_allclose(picture[labels >= 0], leaf_colors(nodes)[labels[labels >= 0]])
    assert np.ptp(picture[0, 0]) == 0
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(legend) == 6 and legend[-1] == "none:  0.909 %"
    assert legend[1].startswith("1:  ")
    assert {"0", "1", "2", "3", "4"} <= set(texts(ax))
    assert ax.get_xlabel() == "x (Å)" and ax.get_title("left") == "Leaves"
    # boundaries in the units of the axes: the first stripe ends behind its 7 positions
    ends = np.concatenate([line for line in ax.collections[0].get_segments()])
    assert np.isclose(ends[:, 0], -2.2 + 7 * 0.4).any()


@pytest.mark.parametrize("opacity", [0.0, 0.75, 1.0])
def test_overlay_keeps_the_image_as_lightness(opacity):
    nodes, labels = build(TREES["three"])
    image = np.broadcast_to(np.linspace(0, 1, 20)[:, None], labels.shape).copy()
    image[7, 8] = np.nan
    ax = draw_overlay(nodes, labels, image=image, image_name="annulus", opacity=opacity)
    picture = ax.images[0].get_array()
    assert "annulus" in texts(ax)
    assert np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1
    assert np.all(np.diff(picture[8:, 20].sum(-1)) > 0)
    # where there is no cluster, and without opacity, the image is grey
    assert np.ptp(picture[0, 0]) < 1e-9
    assert (np.ptp(picture[12, 20]) < 1e-9) == (opacity == 0)


@pytest.mark.parametrize("shape", [(5, 60), (60, 5), (1, 7)])
def test_maps_of_any_shape(shape):
    nodes, _ = build(TREES["two"])
    labels = (np.arange(shape[0] * shape[1]).reshape(shape) % shape[1] > shape[1] // 2).astype(int)
    draw_overlay(nodes, labels)
    figure = draw_tree(nodes, labels)
    assert max(figure.get_size_inches()) < 20
    assert figure.axes[0].get_window_extent().width > 40


def test_nothing_is_shown_and_pyplot_keeps_its_settings():
    before = dict(plt.rcParams)
    nodes, labels = build(TREES["two"])
    draw_tree(nodes, labels)
    assert dict(plt.rcParams) == before
