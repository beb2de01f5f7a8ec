"""From clusters to the ptychography of one domain, and markers and ROIs of clusters."""

import hyperspy.api as hs
import numpy as np
import pytest

from hs_autoptycho.data import phase_correlation, true_positions, twisted_bilayer_mos2
from hs_autoptycho.signals import HierarchicalClusters

SCAN = (12, 17)


@pytest.fixture(scope="module")
def signal():
    return twisted_bilayer_mos2(
        scan_shape=SCAN, detector_shape=(48, 64), defocus=120.0, scan_rotation=12.0, dose=1e6
    )


@pytest.fixture(scope="module")
def clusters(signal):
    """What clustering a scan of two domains would give: the second is the scan's lower right."""
    y, x = np.indices(SCAN)
    labels = ((x > 5) & (y > 3) & (x + y < 25)).astype(int)
    sizes = np.bincount(labels.ravel())
    nodes = [
        {"index": 0, "parent": None, "children": [1, 2], "depth": 0, "level": 0,
         "size": labels.size, "gain": 0.9},
        {"index": 1, "parent": 0, "children": [], "depth": 1, "level": 1, "size": sizes[0]},
        {"index": 2, "parent": 0, "children": [], "depth": 1, "level": 1, "size": sizes[1]},
    ]  # fmt: skip
    axes = signal.axes_manager
    return HierarchicalClusters.from_clustering(
        labels, nodes,
        scan_axes=[a.get_axis_dictionary() for a in axes.navigation_axes[::-1]],
        signal_axes=[a.get_axis_dictionary() for a in axes.signal_axes[::-1]],
        pattern_signal_type="", leaf_sums=None, leaf_square_sums=None, settings={}, notes=[],
        versions={}, status="completed", seed=0,
    )  # fmt: skip


def test_roi_of_a_cluster(signal, clusters):
    part = clusters.cluster_roi(1)(signal)
    assert part.axes_manager.navigation_shape == (11, 8)
    np.testing.assert_array_equal(part.data, signal.data[4:, 6:])
    np.testing.assert_array_equal(clusters.cluster_roi(0)(signal).data, signal.data)
    # of a part of the map, in the same units
    corner = clusters.isig[2:12, 5:9]
    part = corner.cluster_roi(1)(signal)
    np.testing.assert_array_equal(part.data, signal.data[5:9, 6:12])
    with pytest.raises(ValueError, match=r"cluster=2: the map shows \[0, 1\]"):
        clusters.cluster_roi(2)


def test_ptychography_of_one_domain(signal, clusters, one_thread):
    part = clusters.cluster_roi(1)(signal)
    obj = part.reconstruct_ptycho(defocus=120, scan_rotation=12, n_iterations=8)
    assert obj.scan_shape == (8, 11)
    assert phase_correlation(obj, part, max_shift=0.3) > 0.8
    assert phase_correlation(obj, signal.inav[:11, :8], max_shift=0.3) < 0.6
    # scan positions of the domain alone, to look at what was reconstructed there
    inside = clusters.cluster_roi(1)(clusters.leaves == 1).data.ravel()
    places = obj.positions[inside]
    assert len(places) == (clusters.leaf_labels == 1).sum()
    truth = true_positions(part).reshape(-1, 2)
    np.testing.assert_allclose(places, truth[inside], atol=0.01)


def test_tuned_on_one_domain(signal, clusters, one_thread):
    part = clusters.cluster_roi(1)(signal)
    tuned = part.autotune_ptycho(
        {"defocus": (90, 150)}, fixed={"scan_rotation": 12}, n_trials=3, n_iterations=3,
        n_trial_iterations=2, strategy="sobol",
    )  # fmt: skip
    assert 90 <= tuned.best_parameters["defocus"] <= 150
    # and the whole scan with what was found there
    found = {**tuned.best_parameters, "detector_flip": tuned.parameters["detector_flip"]}
    whole = signal.reconstruct_ptycho(**found, scan_rotation=12, n_iterations=1)
    assert whole.scan_shape == SCAN


def test_boundary_markers(signal, clusters):
    image = signal.sum((2, 3))
    markers = clusters.boundary_markers(color="white", linewidth=2)
    segments = np.asarray(markers.kwargs["segments"])
    step = 0.9
    # the left edge of the second domain lies between columns 5 and 6, from row 4 down
    left = segments[np.isclose(segments[:, :, 0], 5.5 * step).all(axis=1)]
    assert left[:, :, 1].min() == pytest.approx(3.5 * step)
    assert left[:, :, 1].max() == pytest.approx(11.5 * step)
    image.T.add_marker(markers)
    with pytest.raises(ValueError, match="both given"):
        clusters.boundary_markers(level=1, n_clusters=2)
    assert isinstance(markers, hs.plot.markers.Lines)
