"""All of it on arrays: sample, first pass, tree, second pass."""

import dask.array as da
import numpy as np
import pytest

from hs_autoptycho.clustering import pipeline
from hs_autoptycho.clustering.nodes import check_nodes
from hs_autoptycho.clustering.pipeline import Options, cluster
from hs_autoptycho.clustering.survey import PatternError
from hs_autoptycho.clustering.tree import Limits
from hs_autoptycho.data import ws2_wse2_junction

SCAN, DETECTOR = (18, 26), (48, 56)


@pytest.fixture(scope="module")
def data():
    return ws2_wse2_junction(
        scan_shape=SCAN, detector_shape=DETECTOR, electrons=1000, descan=(3, -2)
    ).data


@pytest.fixture(scope="module")
def clustering(data):
    return cluster(data, Options(num_workers=1))


def test_result(data, clustering):
    check_nodes(clustering.nodes)
    n = clustering.leaf_labels.max() + 1
    assert n >= 3 and not clustering.interrupted
    assert clustering.sums.shape == clustering.squares.shape == (n, *DETECTOR)
    assert clustering.sums.dtype == np.float64
    measured = clustering.measured
    np.testing.assert_allclose(measured["beam_center"], (24, 28), atol=0.2)
    np.testing.assert_allclose(measured["descan"], (3, 2), atol=0.6)
    assert measured["counts"] is True and measured["splitting"] == "counts"
    assert measured["n_features"] == 64 and measured["min_cluster_size"] == 20
    assert clustering.annulus.shape == SCAN and clustering.annulus.dtype == np.float32
    # of what is outside of the direct beam
    assert (clustering.annulus <= data.sum((2, 3))).all() and clustering.annulus.min() > 0


def test_sums_are_aligned(data, clustering):
    """Without alignment a beam that moves by 3 pixels is smeared."""
    total = clustering.sums.sum(0)
    y, x = np.indices(DETECTOR)
    near = np.hypot(y - 24, x - 28) < 6

    def width(image):
        image = image * near
        cy, cx = (image * y).sum() / image.sum(), (image * x).sum() / image.sum()
        return (image * ((y - cy) ** 2 + (x - cx) ** 2)).sum() / image.sum()

    assert width(total) < 0.8 * width(data.sum((0, 1), dtype=float))
    assert np.unravel_index(total.argmax(), DETECTOR) == (24, 28)
    assert data.sum() * 0.99 < total.sum() <= data.sum()


def test_sums_without_descan_are_plain_sums():
    data = ws2_wse2_junction(scan_shape=SCAN, detector_shape=DETECTOR, electrons=1000).data
    result = cluster(data, Options(num_workers=1))
    for leaf, total in enumerate(result.sums):
        patterns = data[result.leaf_labels == leaf].astype(float)
        np.testing.assert_array_equal(total, patterns.sum(0))
        np.testing.assert_array_equal(result.squares[leaf], (patterns**2).sum(0))


def test_passes_over_the_data(data):
    """The sample of a small scan is all of it: three passes here, and never more."""
    counts = {"first": [], "tree": [], "second": []}
    options = Options(limits=Limits(max_clusters=3))
    result = cluster(
        da.from_array(data, chunks=(5, 7, 24, 56)),
        options,
        progress_first=counts["first"].append,
        progress_tree=counts["tree"].append,
        progress_second=counts["second"].append,
    )
    assert sum(counts["first"]) == 2 * 18 * 26 and sum(counts["second"]) == 18 * 26
    assert counts["tree"] == [2, 3] and result.leaf_labels.max() == 2


def test_interrupt_of_the_first_pass_comes_out(data):
    def interrupt(n):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster(data, Options(), progress_first=interrupt)


def test_interrupt_of_the_tree_still_sums(data):
    def interrupt(leaves):
        raise KeyboardInterrupt

    result = cluster(data, Options(), progress_tree=interrupt)
    assert result.interrupted and result.sums.shape == (2, *DETECTOR)
    assert "The tree was interrupted: more splits may be there." in result.notes


def test_interrupt_of_the_second_pass_keeps_the_labels(data, clustering):
    def interrupt(n):
        raise KeyboardInterrupt

    result = cluster(data, Options(), progress_second=interrupt)
    assert result.interrupted and result.sums is result.squares is None
    np.testing.assert_array_equal(result.leaf_labels, clustering.leaf_labels)
    assert any("no mean patterns" in note for note in result.notes)


def test_error_of_the_second_pass_comes_out(data, monkeypatch):
    def fail(*args, **options):
        raise OSError("the disk is gone")

    monkeypatch.setattr(pipeline, "reduce_patterns", fail)
    with pytest.raises(OSError, match="gone"):
        cluster(data, Options())


# --- a user's features ------------------------------------------------------------------------


def test_feature_function_makes_the_features(data):
    def ring(patterns):
        """Two numbers a pattern, of which one is noise."""
        y, x = np.indices(patterns.shape[1:])
        away = np.hypot(y - 24, x - 28)
        return np.stack([patterns[:, away > 5].sum(1), patterns[:, 0, :3].sum(1)], 1)

    result = cluster(data, Options(features=ring))
    assert result.annulus is None
    assert result.measured["splitting"] == "checkerboard" and result.measured["n_features"] == 2
    assert result.leaf_labels.max() >= 1  # substrate and sheet
    one = cluster(data, Options(features=lambda patterns: patterns[:, :3, :3].sum((1, 2))))
    assert one.leaf_labels.max() == 0 and one.measured["n_features"] == 1


def test_what_is_masked_in_the_scan_says_nothing(data):
    mask = np.indices(SCAN)[1] < 20
    changed = data.copy()
    changed[~mask] = 9

    def rows(patterns):
        return patterns[:, :12].sum(2)

    one, two = (cluster(d, Options(scan_mask=mask, features=rows)) for d in (data, changed))
    assert one.nodes == two.nodes
    np.testing.assert_array_equal(one.leaf_labels == -1, ~mask)
    np.testing.assert_array_equal(one.leaf_labels, two.leaf_labels)


@pytest.mark.parametrize(
    "function, got",
    [
        (lambda p: p.sum(), "float64|uint64|int64"),
        (lambda p: p.reshape(len(p), -1)[:-1], "shape"),
        (lambda p: p[:, :3, :3].astype(float), r"shape \(1, 3, 3\)"),
        (lambda p: p[:, 0].astype(complex), "complex128"),
        (lambda p: None, "object"),
    ],
)
def test_feature_function_of_the_wrong_shape(data, function, got):
    with pytest.raises(ValueError, match="has to return real numbers of the shape.*" + got):
        cluster(data, Options(features=function))


def test_feature_function_that_raises(data):
    def broken(patterns):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        cluster(data, Options(features=broken))


def test_feature_function_flags(data):
    bad = data.astype(np.float32)
    bad[0, 0], bad[1, 1, 2, 2], bad[2, 2, 0, 0], bad[3, 3, 1, 1] = 0, np.nan, -1, np.inf
    bad[4, 4, 0, :2] = np.inf, -np.inf
    result = cluster(bad, Options(features=lambda p: p[:, :, 20:30].sum(2)))
    assert (result.leaf_labels == -1).sum() == 5
    assert all(result.leaf_labels[i, i] == -1 for i in range(5))


# --- what cannot be clustered -----------------------------------------------------------------


def test_scan_mask_without_a_usable_pattern(data):
    bad = data.copy()
    bad[:4] = 0
    mask = np.zeros(SCAN, bool)
    mask[:4] = True
    with pytest.raises(PatternError, match="Not one of the positions to cluster"):
        cluster(bad, Options(scan_mask=mask))
