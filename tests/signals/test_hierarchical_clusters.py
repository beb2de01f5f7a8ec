"""The clusters of a scan: what the signal holds, keeps, and gives back from a file."""

import copy

import hyperspy.api as hs
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import pytest

from hs_autoptycho.clustering.nodes import leaf_indices, level_labels, split_indices
from hs_autoptycho.plotting import node_colors
from hs_autoptycho.signals import HierarchicalClusters, LazyHierarchicalClusters
from hs_autoptycho.signals._axes import AxesError

SCAN, DETECTOR = (9, 13), (6, 8)
#        0                gains: 0: 0.9, 1: 0.2, 2: 0.5
#    1       2            levels: 0 -> 1, 2 -> 1, 1 -> 2
#  5   6   3   4          leaves 0, 1, 2, 3 are the nodes 5, 6, 3, 4
CHILDREN = {0: [1, 2], 2: [3, 4], 1: [5, 6]}
PARENTS = {child: parent for parent, pair in CHILDREN.items() for child in pair}
LEVELS = {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2}
GAINS = {0: 0.9, 1: 0.2, 2: 0.5}
SCAN_AXES = [
    {"name": "y", "scale": 0.5, "offset": 1.0, "units": "nm", "navigate": True, "size": 9},
    {"name": "x", "scale": 0.4, "offset": -2.0, "units": "nm", "navigate": True, "size": 13},
]
SIGNAL_AXES = [
    {"name": "ky", "scale": 0.02, "offset": -0.06, "units": "1/Å"},
    {"name": "kx", "scale": 0.03, "offset": -0.12, "units": "1/Å"},
]
SETTINGS = {
    "max_clusters": None,
    "scales": [{"sigma": np.float32(0.5)}, {"sigma": 2}],
    "mask": {"center": (2.5, 3.5), "empty": []},
}
PLAIN_SETTINGS = {
    "max_clusters": None,
    "scales": [{"sigma": 0.5}, {"sigma": 2}],
    "mask": {"center": [2.5, 3.5], "empty": []},
}


def scan():
    """Labels, the patterns behind them, and the tree."""
    y, x = np.mgrid[: SCAN[0], : SCAN[1]]
    labels = 2 * (x > 5) + (y + x // 3 > 6)
    labels[0, :3] = -1
    rng = np.random.default_rng(0)
    means = rng.uniform(0.5, 6, size=(4, *DETECTOR))
    patterns = rng.poisson(means[labels]).astype(float)
    sizes = {index: int((labels == leaf).sum()) for leaf, index in enumerate((5, 6, 3, 4))}
    for parent in (1, 2, 0):
        sizes[parent] = sum(sizes[child] for child in CHILDREN[parent])
    nodes = [
        {
            "index": index,
            "parent": PARENTS.get(index),
            "children": CHILDREN.get(index, []),
            "depth": 0 if index == 0 else 1 + (index > 2),
            "level": LEVELS.get(index, 0),
            "size": np.int64(sizes[index]),
            "gain": GAINS.get(index),
            "significance": np.float64(40.0) if index in CHILDREN else None,
            "stability": 0.9 if index in CHILDREN else None,
            "separation": 4.5 if index in CHILDREN else np.nan,
            "stopped": "" if index in CHILDREN else "too small",
        }
        for index in range(7)
    ]
    return labels, patterns, nodes


def build(**changes):
    labels, patterns, nodes = scan()
    stacks = [patterns[labels == leaf] for leaf in range(4)]
    kwargs = {
        "leaf_labels": labels,
        "nodes": nodes,
        "scan_axes": SCAN_AXES,
        "signal_axes": SIGNAL_AXES,
        "pattern_signal_type": "electron_diffraction",
        "leaf_sums": np.array([stack.sum(0) for stack in stacks]),
        "leaf_square_sums": np.array([(stack**2).sum(0) for stack in stacks]),
        "settings": SETTINGS,
        "notes": ["No descan was found."],
        "versions": {"scikit-learn": "1.4", "numpy": np.__version__},
        "status": "completed",
        "seed": 7,
        "original_metadata_general": {"title": "Junction", "date": "2026-11-20"},
        "acquisition_instrument": {"TEM": {"beam_energy": 80.0}},
        "virtual_images": {"bright_field": patterns.sum((2, 3)), "annulus": patterns[..., 1, 2]},
    }
    return HierarchicalClusters.from_clustering(**{**kwargs, **changes})


def build_one_leaf(**changes):
    """A scan that stayed one cluster."""
    root = {"index": 0, "parent": None, "children": [], "depth": 0, "level": 0, "size": 117}
    sums = np.ones((1, *DETECTOR))
    kwargs = {"leaf_sums": sums, "leaf_square_sums": sums, **changes}
    return build(leaf_labels=np.zeros(SCAN, int), nodes=[root], **kwargs)


def assert_same(left, right):
    """Everything that two results hold is equal."""
    np.testing.assert_array_equal(left.data, right.data)
    assert left.data.dtype == right.data.dtype == np.int32
    for ours, theirs in zip(left.axes_manager._axes, right.axes_manager._axes, strict=True):
        assert ours.get_axis_dictionary() == theirs.get_axis_dictionary()
    np.testing.assert_array_equal(left.leaf_labels, right.leaf_labels)
    np.testing.assert_array_equal(left.sizes, right.sizes)
    for name in "tree settings notes status seed versions n_clusters n_levels".split():
        assert getattr(left, name) == getattr(right, name), name
        assert type(getattr(left, name)) is type(getattr(right, name)), name
    for name in "mean_patterns leaf_patterns difference_patterns difference_significances".split():
        ours, theirs = getattr(left, name), getattr(right, name)
        assert type(ours) is type(theirs) and type(ours.data) is np.ndarray
        np.testing.assert_array_equal(ours.data, theirs.data)
        assert ours.metadata.as_dictionary() == theirs.metadata.as_dictionary()
        assert ours.axes_manager.as_dictionary() == theirs.axes_manager.as_dictionary()
    assert list(left.virtual_images) == list(right.virtual_images)
    for name, image in left.virtual_images.items():
        np.testing.assert_array_equal(image.data, right.virtual_images[name].data)
        assert type(image.data) is np.ndarray
    general = [s.metadata.General.as_dictionary() for s in (left, right)]
    assert [(g["title"], g["date"]) for g in general] == [("Junction", "2026-11-20")] * 2


def stored_types(value):
    """The types in a nested value."""
    if isinstance(value, dict):
        return set().union(*map(stored_types, value.values()))
    if isinstance(value, list):
        return set().union({list}, *map(stored_types, value))
    return {type(value)}


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.filterwarnings("ignore:.*NestedDirectoryStore:FutureWarning")
def test_file_gives_everything_back(tmp_path, extension, lazy):
    original = build()
    path = tmp_path / f"clusters.{extension}"
    original.save(path)
    loaded = hs.load(path, lazy=lazy)
    if lazy:
        assert type(loaded) is LazyHierarchicalClusters
        assert_same(loaded.deepcopy(), original)
        np.testing.assert_array_equal(
            loaded.isig[3:, 2:7].leaves.data, original.leaves.data[2:7, 3:]
        )
        loaded.compute(close_file=extension == "hspy")
        # nothing is left in the file, which may have gone
        assert type(loaded.metadata.Clustering.leaf_sums) is np.ndarray
        assert type(loaded.metadata.Clustering.virtual_images.annulus) is np.ndarray
    assert type(loaded) is HierarchicalClusters
    assert_same(loaded, original)


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
@pytest.mark.filterwarnings("ignore:.*NestedDirectoryStore:FutureWarning")
def test_file_of_one_leaf_without_patterns(tmp_path, extension):
    path = tmp_path / f"clusters.{extension}"
    absent = {"leaf_sums": None, "leaf_square_sums": None, "virtual_images": None}
    build_one_leaf(**absent, status="interrupted", seed=None, notes=[]).save(path)
    loaded = hs.load(path)
    assert (loaded.status, loaded.seed, loaded.notes) == ("interrupted", None, [])
    assert loaded.tree[0]["leaf"] == 0 and loaded.data.shape == (1, *SCAN)


def test_what_is_stored_is_plain():
    types = stored_types(build().metadata.Clustering.as_dictionary())
    assert types <= {str, int, float, bool, type(None), list, np.ndarray}


def test_levels():
    s = build()
    labels, _, nodes = scan()
    assert s.data.shape == (2, *SCAN) and s.data.dtype == np.int32
    np.testing.assert_array_equal(s.data, level_labels(labels, nodes))
    np.testing.assert_array_equal(s.data[1], labels)
    np.testing.assert_array_equal(s.data[0] == 0, (labels == 0) | (labels == 1))
    assert s.metadata.Signal.signal_type == "hierarchical_clusters"
    level, x, y = s.axes_manager.navigation_axes + s.axes_manager.signal_axes
    assert (level.name, level.size, level.scale, level.offset) == ("level", 2, 1, 1)
    assert (y.name, y.size, y.scale, y.offset, y.units) == ("y", 9, 0.5, 1.0, "nm")
    assert (x.name, x.size, x.scale, x.offset, x.units) == ("x", 13, 0.4, -2.0, "nm")
    assert s.metadata.General.title == "Junction" and s.metadata.General.date == "2026-11-20"
    assert (s.n_levels, s.n_clusters) == (2, 4)
    np.testing.assert_array_equal(s.sizes, [(labels == leaf).sum() for leaf in range(4)])


def test_label_images():
    s = build()
    for image, expected, nodes in (
        (s.leaves, s.data[1], [5, 6, 3, 4]),
        (s.level(1), s.data[0], [1, 3, 4]),
        (s.level(2), s.data[1], [5, 6, 3, 4]),
        (s.cut(1), np.where(s.data[0] < 0, -1, 0), [0]),
        (s.cut(2), np.where(s.data[1] < 0, -1, s.data[1] // 2), [1, 2]),
        (s.cut(3), s.data[0], [1, 3, 4]),
        (s.cut(4), s.data[1], [5, 6, 3, 4]),
    ):
        assert type(image) is hs.signals.Signal2D
        assert image.data.dtype == np.int32
        np.testing.assert_array_equal(image.data, expected)
        assert image.metadata.Clusters.nodes == nodes
        x, y = image.axes_manager.signal_axes
        assert (y.scale, x.scale, y.offset, x.offset) == (0.5, 0.4, 1.0, -2.0)
        assert image.axes_manager.navigation_dimension == 0
    assert s.leaf_labels.dtype == np.int32


@pytest.mark.parametrize("n", [0, 3, -1, 1.5, "a", None])
def test_level_that_is_not_there(n):
    message = f"level is {n!r}, but the tree has the levels 1 to 2: a whole number from 1 to 2 is"
    with pytest.raises(ValueError, match=message):
        build().level(n)


@pytest.mark.parametrize("n", [0, 5, "a"])
def test_cut_into_more_than_there_is(n):
    with pytest.raises(ValueError, match=f"n_clusters is {n!r}.*4 leaves.*whole number"):
        build().cut(n)


def test_tree_is_a_plain_copy():
    s = build()
    tree = s.tree
    assert [node["leaf"] for node in tree] == [None, None, None, 2, 3, 0, 1]
    expected = [{**node, "leaf": None} for node in scan()[2]]
    for node, other in zip(tree, expected, strict=True):
        for name in ("index", "parent", "children", "level", "size", "gain", "stopped"):
            assert node[name] == other[name]
    assert tree[0]["separation"] == 4.5 and tree[5]["separation"] is None
    tree[0]["children"].clear()
    assert s.tree[0]["children"] == [1, 2]


def test_plain_attributes():
    s = build()
    assert s.settings == PLAIN_SETTINGS
    assert (s.notes, s.status, s.seed) == (["No descan was found."], "completed", 7)
    assert s.versions["scikit-learn"] == "1.4"
    assert build(seed=None).seed is None
    assert build(seed=2**100).seed == 2**100


@pytest.mark.parametrize("kind", ["electron_diffraction", ""])
def test_mean_patterns(kind):
    labels, patterns, nodes = scan()
    if kind:
        pytest.importorskip("pyxem")
    s = build(pattern_signal_type=kind)
    means = s.mean_patterns
    assert means.metadata.Signal.signal_type == kind
    assert isinstance(means, hs.signals.Signal2D)
    assert means.data.shape == (7, *DETECTOR)
    assert means.axes_manager.navigation_axes[0].name == "node"
    kx, ky = means.axes_manager.signal_axes
    assert (ky.name, ky.scale, ky.offset, ky.units) == ("ky", 0.02, -0.06, "1/Å")
    assert (kx.name, kx.scale, kx.offset, kx.units) == ("kx", 0.03, -0.12, "1/Å")
    assert means.metadata.Acquisition_instrument.TEM.beam_energy == 80.0
    described = means.metadata.Clusters
    assert described.nodes == list(range(7))
    assert described.leaves == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [0], [1]]
    for index, leaves in enumerate(described.leaves):
        chosen = patterns[np.isin(labels, leaves)]
        np.testing.assert_allclose(means.data[index], chosen.mean(0), rtol=1e-13)
        assert described.sizes[index] == len(chosen)
    sums = means.data * np.array(described.sizes)[:, None, None]
    for parent, children in CHILDREN.items():
        np.testing.assert_allclose(sums[parent], sums[children].sum(0), rtol=1e-13)
    leaves = s.leaf_patterns
    np.testing.assert_array_equal(leaves.data, means.data[[5, 6, 3, 4]])
    assert leaves.metadata.Clusters.nodes == leaf_indices(nodes)


def test_mean_patterns_of_an_image_of_labels(tmp_path):
    s, patterns = build(), scan()[1]
    three = s.cut(3)
    three.save(tmp_path / "three.hspy")
    for given in (three, s.level(1), hs.load(tmp_path / "three.hspy"), [1, 3, 4], (1, 3, 4)):
        means = s.mean_patterns_of(given)
        assert type(means) is type(s.mean_patterns)
        assert means.metadata.Clusters.nodes == [1, 3, 4]
        assert means.axes_manager["kx"].scale == 0.03
        for mean, label in zip(means.data, range(3), strict=True):
            np.testing.assert_allclose(mean, patterns[three.data == label].mean(0))
    for wrong in (3, [], [[1], [2, 3]], None, "leaves", three.data, s.virtual_images["annulus"]):
        with pytest.raises(ValueError, match=r"give an image of labels that \.cut\(n\)"):
            s.mean_patterns_of(wrong)
    for wrong in ([0, 7], [-1, 2]):
        with pytest.raises(ValueError, match="those of this tree are 0 to 6"):
            s.mean_patterns_of(wrong)


def test_differences_of_every_split():
    labels, patterns, nodes = scan()
    s = build()
    plain, significant = s.difference_patterns, s.difference_significances
    assert type(plain) is type(significant) is type(s.mean_patterns)
    for signal in (plain, significant):
        assert signal.metadata.Clusters.nodes == split_indices(nodes) == [0, 1, 2]
        assert signal.metadata.Clusters.minuends == [[0, 1], [0], [2]]
        assert signal.metadata.Clusters.subtrahends == [[2, 3], [1], [3]]
        assert signal.axes_manager.navigation_axes[0].name == "node"
        assert signal.axes_manager["kx"].scale == 0.03
    for index in range(3):
        first, second = (
            patterns[np.isin(labels, part[index])]
            for part in (plain.metadata.Clusters.minuends, plain.metadata.Clusters.subtrahends)
        )
        difference = first.mean(0) - second.mean(0)
        np.testing.assert_allclose(plain.data[index], difference, atol=1e-12)
        error = np.sqrt(first.var(0) / len(first) + second.var(0) / len(second))
        np.testing.assert_allclose(significant.data[index], difference / error, rtol=1e-9)


def test_difference_of_any_two_parts():
    labels, patterns, _ = scan()
    s = build()

    def mean(*leaves):
        return patterns[np.isin(labels, leaves)].mean(0)

    np.testing.assert_allclose(s.difference(2, 0).data, mean(2) - mean(0), atol=1e-12)
    np.testing.assert_allclose(s.difference(0, [3, 1]).data, mean(0) - mean(1, 3), atol=1e-12)
    by_node = s.difference(s.tree[1], s.tree[2])
    np.testing.assert_allclose(by_node.data, mean(0, 1) - mean(2, 3), atol=1e-12)
    assert by_node.axes_manager.navigation_dimension == 0
    assert by_node.metadata.Signal.signal_type == "electron_diffraction"
    assert by_node.axes_manager["ky"].offset == -0.06
    np.testing.assert_array_equal(
        s.difference(0, 1, standard_errors=True).data, s.difference_significances.data[1]
    )


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (4, 0, "a is 4, but the leaves are 0 to 3"),
        (0, -1, "b is -1, but the leaves are 0 to 3"),
        (0, [], r"b is \[\]"),
        ("yellow", 0, "a is 'yellow'; give a leaf number"),
        ([0, 1], [1, 2], "have leaves in common"),
        ({"index": 7}, 0, "a is no node of this tree"),
    ],
)
def test_difference_of_what_is_not_there(a, b, message):
    with pytest.raises(ValueError, match=message):
        build().difference(a, b)


def test_pixels_that_do_not_vary_are_not_significant():
    s = build()
    sizes = s.sizes.astype(float)[:, None, None]
    value = np.array([0.0, 3.1, 0.1, 0.1])[:, None, None] * np.ones((4, *DETECTOR))
    s.metadata.Clustering.leaf_sums = sizes * value
    s.metadata.Clustering.leaf_square_sums = sizes * value**2
    significant = s.difference_significances.data
    assert np.all(significant[1:] == 0)
    assert np.all(np.isfinite(significant))


@pytest.mark.parametrize(
    "name", ["mean_patterns", "leaf_patterns", "difference_patterns", "difference_significances"]
)
def test_without_patterns(name):
    s = build(leaf_sums=None, leaf_square_sums=None, status="interrupted")
    with pytest.raises(AttributeError, match="interrupted before its patterns were summed"):
        getattr(s, name)
    assert not hasattr(s, name)
    assert s.leaves.data.shape == SCAN
    assert isinstance(s.plot_tree(), matplotlib.figure.Figure)


def test_without_squares_the_differences_are_there():
    s = build(leaf_square_sums=None)
    assert s.difference_patterns.data.shape == (3, *DETECTOR)
    with pytest.raises(AttributeError, match="leaf_square_sums"):
        s.difference(0, 1, standard_errors=True)


def test_one_leaf():
    s = build_one_leaf()
    assert s.data.shape == (1, *SCAN) and not s.data.any()
    assert (s.n_levels, s.n_clusters) == (1, 1)
    assert s.mean_patterns.data.shape == (1, *DETECTOR)
    assert not s.cut(1).data.any() and not s.level(1).data.any()
    with pytest.raises(ValueError, match="one leaf: there are no two parts"):
        _ = s.difference_patterns
    s.plot()
    for figure in (s.plot_tree(), s.plot_overlay()):
        figure.canvas.draw()


def test_a_signal_from_elsewhere_says_so():
    s = HierarchicalClusters(np.zeros((2, 5, 7), np.int32))
    with pytest.raises(AttributeError, match="no metadata.Clustering.tree_json.*cluster_hier"):
        _ = s.tree
    with pytest.raises(AttributeError, match="cluster_hierarchical"):
        _ = s.mean_patterns


def test_shown_with_the_number_of_clusters():
    s = build()
    for shown, sizes in ((s, "2|13, 9"), (s.inav[1], "|13, 9"), (s.isig[2:], "2|11, 9")):
        expected = f"<HierarchicalClusters, title: Junction, dimensions: ({sizes}), 4 clusters>"
        assert repr(shown) == str(shown) == expected
    assert repr(s.as_lazy()) == repr(s).replace("<", "<Lazy")
    assert repr(build_one_leaf()).endswith(", 1 cluster>")
    # HyperSpy's own where the record is damaged or missing
    s.metadata.Clustering.tree_json = "[{"
    assert repr(s) == "<HierarchicalClusters, title: Junction, dimensions: (2|13, 9)>"
    del s.metadata.Clustering
    assert repr(s).endswith("dimensions: (2|13, 9)>")


def test_crops_are_of_the_part_at_hand():
    s = build()
    labels, patterns, _ = scan()
    for part, rows, columns in (
        (s.isig[3:9, 2:], slice(2, None), slice(3, 9)),
        (s.inav[0].isig[3:9, 2:], slice(2, None), slice(3, 9)),
        (s.isig[3:9, 2:].isig[1:, :-1], slice(2, -1), slice(4, 9)),
        (s.isig[-0.8:1.2, 2.0:], slice(2, None), slice(3, 8)),
        (s.isig[::2, ::3], slice(None, None, 3), slice(None, None, 2)),
        (s.as_lazy().isig[3:9, 2:], slice(2, None), slice(3, 9)),
        (s.inav[-1], slice(None), slice(None)),
    ):
        assert isinstance(part, HierarchicalClusters)
        np.testing.assert_array_equal(part.leaf_labels, labels[rows, columns])
        assert part.leaves.data.shape == labels[rows, columns].shape
        x = part.axes_manager.signal_axes[0]
        assert part.cut(2).axes_manager.signal_axes[0].offset == x.offset
        image = part.virtual_images["bright_field"].data
        np.testing.assert_array_equal(image, patterns.sum((2, 3))[rows, columns])
        # the tree and the patterns are of the whole scan
        assert part.tree == s.tree
        np.testing.assert_array_equal(part.mean_patterns.data, s.mean_patterns.data)
    part = s.deepcopy()
    part.crop("x", 2, 9)
    np.testing.assert_array_equal(part.leaf_labels, labels[:, 2:9])


def test_calibration_may_change_unless_it_is_cropped_then():
    s = build()
    labels = scan()[0]
    s.axes_manager.signal_axes[0].convert_to_units("Å")
    assert s.axes_manager.signal_axes[0].scale == pytest.approx(4)
    # ten times the numbers, of which the first lie on the grid of the scan too
    np.testing.assert_array_equal(s.isig[2:].leaf_labels, labels[:, 2:])
    np.testing.assert_array_equal(s.isig[:2].leaf_labels, labels[:, :2])
    for axis in s.axes_manager.signal_axes:
        axis.scale, axis.offset, axis.units = 0.3, 0.7, "px"
    np.testing.assert_array_equal(s.leaf_labels, labels)
    np.testing.assert_array_equal(s.isig[:, :].cut(4).data, labels)
    # in words of its own, whole, and not as a damaged file
    message = "^the axis 'x' goes from 1.6 to 4.3 in 10 steps.*cannot be told.*with isig alone$"
    with pytest.raises(AxesError, match=message):
        _ = s.isig[3:].leaf_labels


def test_an_offset_that_leads_to_another_part_of_the_scan_is_noticed():
    s = build()
    labels = scan()[0]
    s.axes_manager["x"].offset = 0.0  # 5 steps further, which are columns of the scan too
    np.testing.assert_array_equal(s.leaf_labels, labels)
    part = s.isig[:7]
    for use in (
        lambda: part.leaf_labels,
        lambda: part.inav[0].leaves,
        lambda: part.cut(2),
        lambda: part.virtual_images,
        lambda: part.cluster_roi(0),
        part.plot,
    ):
        with pytest.raises(AxesError, match="the columns 5 to 11.*cannot be told"):
            use()


def test_exchanged_axes_are_refused(monkeypatch):
    for shape in (SCAN, (9, 9)):  # the labels of a square would be those before the exchange
        monkeypatch.setitem(globals(), "SCAN", shape)
        s = build()
        for each in (
            s.swap_axes(1, 2),
            s.transpose(signal_axes=(2, 1)),
            s.transpose(signal_axes=("level", "x")),
        ):
            for name in ("leaf_labels", "leaves", "virtual_images"):
                with pytest.raises(AxesError, match=r"exchanged.*signal_axes=\('x', 'y'\)"):
                    getattr(each, name)
            back = each.transpose(signal_axes=("x", "y"))
            np.testing.assert_array_equal(back.leaf_labels, s.data[-1])
        renamed = s.deepcopy()
        renamed.axes_manager["y"].name, renamed.axes_manager["x"].name = "x", "fast"
        np.testing.assert_array_equal(renamed.leaf_labels, s.data[-1])


def test_roi_of_a_mirrored_map():
    s = build()
    for leaf in range(4):
        roi = s.cluster_roi(leaf)
        expected = roi(s).data
        for part in (s.isig[::-1], s.isig[:, ::-1], s.isig[::-1, ::-1]):
            mirrored = part.cluster_roi(leaf)
            np.testing.assert_array_equal(mirrored(s).data, expected)
            assert tuple(mirrored) == pytest.approx(tuple(roi))


def test_class_is_kept_where_the_data_stay_labels():
    s = build()
    for kept in (s.deepcopy(), s.inav[:1], s.isig[2:, 1:], s.inav[1], s.isig[:3.0]):
        assert type(kept) is HierarchicalClusters
        assert kept.tree == s.tree
    lazy = s.as_lazy()
    assert type(lazy) is LazyHierarchicalClusters
    assert type(lazy.isig[2:]) is LazyHierarchicalClusters
    assert_same(lazy.deepcopy(), s)
    lazy.compute()
    assert type(lazy) is HierarchicalClusters
    assert_same(lazy, s)


@pytest.mark.parametrize("lazy", [False, True])
def test_results_of_arithmetic_are_plain(lazy):
    s = build()
    labels = s.data.copy()
    t = s.as_lazy() if lazy else s
    expected = {
        "==": (t == 2, labels == 2),
        "*": (t * 1.0, labels * 1.0),
        "-": (-t, -labels),
        "s+s": (t + t, labels + labels),
        "abs": (abs(t), abs(labels)),
        "sum": (t.sum("level"), labels.sum(0)),
        "max": (t.max(), labels.max(0)),
        "rebin": (
            t.isig[:12].rebin(scale=(1, 3, 3)),
            labels[..., :12].reshape(2, 3, 3, 4, 3).sum((2, 4)),
        ),
    }
    for name, (result, values) in expected.items():
        assert not isinstance(result, HierarchicalClusters), name
        assert result.metadata.Signal.signal_type == "", name
        assert not result.metadata.has_item("Clustering"), name
        np.testing.assert_array_equal(np.squeeze(np.asarray(result.data)), values, name)
    assert t.metadata.has_item("Clustering") and isinstance(t.tree, list)
    np.testing.assert_array_equal(s.data, labels)
    if not lazy:
        t *= 2
        assert type(t) is hs.signals.Signal2D and not t.metadata.has_item("Clustering")
        np.testing.assert_array_equal(t.data, 2 * labels)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"leaf_labels": np.zeros(SCAN)}, ValueError, "integer array.*float64"),
        ({"leaf_labels": np.zeros(9, int)}, ValueError, r"integer array.*\(9,\)"),
        ({"leaf_labels": np.full(SCAN, 4)}, ValueError, "go from 0 to 4, but.*0 to 3"),
        ({"leaf_labels": np.full(SCAN, -2)}, ValueError, "go from -2 to"),
        ({"leaf_labels": np.zeros(SCAN, int)}, ValueError, r"leaf 0 \(node 5\) has the size"),
        ({"nodes": []}, ValueError, "empty"),
        ({"leaf_sums": np.ones((3, 6, 8))}, ValueError, r"leaf_sums has the shape \(3, 6, 8\)"),
        ({"leaf_square_sums": np.ones((6, 8))}, ValueError, "leaf_square_sums has the shape"),
        ({"status": "done"}, ValueError, "status is 'done'"),
        ({"scan_axes": SCAN_AXES[:1]}, ValueError, "scan_axes has 1 entries; those of y and x"),
        ({"settings": {"a": [len]}}, TypeError, r"settings\.a\[0\].*builtin"),
        ({"virtual_images": {"a": np.ones(3)}}, ValueError, r"'a' has the shape \(3,\).*\(9, 13\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        build(**changes)


def test_sizes_that_do_not_add_up_are_refused():
    nodes = copy.deepcopy(scan()[2])
    nodes[0]["size"] += 1
    with pytest.raises(ValueError, match="size of node 0 is not the sum of its children's"):
        build(nodes=nodes)


def shown_picture(s):
    return np.ma.getdata(s._plot.signal_plot.ax.images[0].get_array())


@pytest.mark.parametrize("lazy", [False, True])
def test_plot_shows_the_nodes_in_their_colors(lazy):
    s = build()
    s = s.as_lazy() if lazy else s
    s.plot()
    labels = scan()[0]
    first = np.array([1, 1, 3, 4, -1])[labels]
    np.testing.assert_array_equal(shown_picture(s), first)
    s.axes_manager.indices = (1,)
    last = np.array([5, 6, 3, 4, -1])[labels]
    np.testing.assert_array_equal(shown_picture(s), last)
    image = s._plot.signal_plot.ax.images[0]
    rgba = image.cmap(image.norm(np.arange(-1, 7)))
    np.testing.assert_allclose(rgba[1:, :3], node_colors(s.tree))
    assert np.ptp(rgba[0, :3]) < 1e-9  # grey
    navigator = s._plot.navigator_plot.ax
    assert list(navigator.lines[0].get_ydata()) == [3, 4]
    assert navigator.get_ylabel() == "clusters"
    s.plot(navigator=None, colorbar=False)
    assert s._plot.navigator_plot is None


def test_plot_of_slices():
    s = build()
    labels = scan()[0]
    for part in (s.inav[0], s.inav[0].isig[2:9, 1:], s.inav[:1]):
        part.plot()
        rows, columns = part.data.shape[-2:]
        expected = np.array([1, 1, 3, 4, -1])[labels]
        expected = expected if rows == 9 else expected[1:, 2:9]
        np.testing.assert_array_equal(shown_picture(part), expected)
    changed = s.inav[0]
    changed.data = np.where(changed.data == 0, 3, changed.data)
    with pytest.raises(ValueError, match="those of no level of its tree"):
        changed.plot()


def test_figures_are_returned_and_not_shown():
    s = build()
    plt.close("all")
    for figure in (s.plot_tree(), s.plot_overlay(), s.isig[3:, 2:].plot_tree()):
        assert isinstance(figure, matplotlib.figure.Figure)
        figure.canvas.draw()


def test_overlay_images():
    s = build()
    _, patterns, _ = scan()
    part = s.isig[3:9, 2:]
    other = hs.signals.Signal2D(np.ones(SCAN), metadata={"General": {"title": "thickness"}})
    for image, name in (
        (None, "annulus"),
        ("bright_field", "bright field"),
        (other, "thickness"),
    ):
        texts = [text.get_text() for text in part.plot_overlay(image).axes[0].texts]
        assert name in texts
    whole, cropped = (part.plot_overlay(i) for i in (patterns[..., 0, 0], patterns[2:, 3:9, 0, 0]))
    np.testing.assert_array_equal(*(f.axes[0].images[0].get_array() for f in (whole, cropped)))
    assert s.plot_overlay(level=1).axes[0].get_title("left") == "Level 1 (Junction)"
    assert s.plot_overlay(n_clusters=2).axes[0].get_title("left") == "2 clusters (Junction)"
    build(virtual_images=None).plot_overlay()
    with pytest.raises(ValueError, match="no virtual image 'dark'; known: annulus, bright_field"):
        s.plot_overlay("dark")
    with pytest.raises(ValueError, match=r"shape \(3, 4\), but the map \(9, 13\)"):
        s.plot_overlay(np.ones((3, 4)))
    with pytest.raises(ValueError, match="level and n_clusters were both given"):
        s.plot_overlay(level=1, n_clusters=2)
