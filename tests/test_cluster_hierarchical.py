"""`cluster_hierarchical` on signals: options, bad input, decoys, measured and simulated scans."""

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from hs_autoptycho import _clusters
from hs_autoptycho.clustering import pipeline
from hs_autoptycho.clustering.nodes import check_nodes
from hs_autoptycho.clustering.survey import PatternError
from hs_autoptycho.data import true_domains, ws2_wse2_junction
from hs_autoptycho.signals import HierarchicalClusters

SCAN, DETECTOR = (26, 34), (64, 72)
SMALL = {"scan_shape": (18, 26), "detector_shape": (60, 68), "electrons": 1000}


def truth(signal):
    return true_domains(signal).data[-1]


def agreement(clusters, labels, where=None):
    where = clusters.leaf_labels >= 0 if where is None else where
    return adjusted_rand_score(labels[where], clusters.leaf_labels[where])


def like(signal, data):
    result = signal.deepcopy()
    result.data = data
    return result


@pytest.fixture(scope="session")
def junction():
    signal = ws2_wse2_junction(scan_shape=SCAN, detector_shape=DETECTOR, electrons=1000)
    signal.set_signal_type("electron_diffraction")
    return signal


@pytest.fixture(scope="session")
def clusters(junction):
    return junction.cluster_hierarchical(num_workers=1)


@pytest.fixture(scope="session")
def small():
    return ws2_wse2_junction(**SMALL)


@pytest.fixture(scope="session")
def small_clusters(small):
    return small.cluster_hierarchical(num_workers=1)


# --- the result -------------------------------------------------------------------------------


def test_domains_are_found(junction, clusters):
    assert isinstance(clusters, HierarchicalClusters)
    assert clusters.n_clusters == 5
    assert agreement(clusters, truth(junction)) > 0.9
    check_nodes(clusters.tree)
    assert clusters.status == "completed" and clusters.seed == 0
    assert clusters.data.shape == (clusters.n_levels, *SCAN)


def test_patterns_are_those_of_the_signal(junction, clusters):
    patterns = clusters.mean_patterns
    assert patterns.metadata.Signal.signal_type == "electron_diffraction"
    assert type(patterns).__name__ == type(junction).__name__
    for mine, theirs in zip(
        patterns.axes_manager.signal_axes, junction.axes_manager.signal_axes, strict=True
    ):
        assert (mine.name, mine.units, mine.size) == (theirs.name, theirs.units, theirs.size)
        assert (mine.scale, mine.offset) == (theirs.scale, theirs.offset)
    for mine, theirs in zip(
        clusters.axes_manager.signal_axes, junction.axes_manager.navigation_axes, strict=True
    ):
        assert (mine.name, mine.units, mine.scale) == (theirs.name, theirs.units, theirs.scale)
    assert patterns.metadata.Acquisition_instrument.TEM.beam_energy == 80
    for leaf, pattern in enumerate(clusters.leaf_patterns.data):
        mean = junction.data[clusters.leaf_labels == leaf].mean(0)
        np.testing.assert_allclose(pattern, mean, rtol=1e-5, atol=1e-6)


def test_record(clusters):
    settings = clusters.settings
    assert settings["features"] == "default" and settings["spatial_smoothing"] == "auto"
    assert settings["max_clusters"] is None and settings["measured"]["splitting"] == "counts"
    assert {"hs_autoptycho", "hyperspy", "numpy", "numba"} <= set(clusters.versions)
    annulus = clusters.virtual_images["annulus"]
    assert annulus.data.shape == SCAN
    # the sheet scatters more than the bare membrane beyond it
    substrate = clusters.leaf_labels == clusters.leaf_labels[np.unravel_index(
        annulus.data.argmin(), SCAN
    )]  # fmt: skip
    assert annulus.data[substrate].mean() < 0.9 * annulus.data[~substrate].mean()


# --- the same labels, bit by bit --------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks, num_workers",
    [
        (None, 2),
        ((7, 5, 64, 72), 2),
        ((1, 34, 20, 36), 2),
        (((3, 23), (30, 1, 3), 64, 9), 2),
    ],
    ids=str,
)
def test_chunks_and_workers_do_not_matter(junction, clusters, chunks, num_workers):
    signal = junction
    if chunks is not None:
        signal = like(junction, da.from_array(junction.data, chunks=chunks)).as_lazy()
        assert signal._lazy and signal.data.npartitions >= 1
    again = signal.cluster_hierarchical(num_workers=num_workers)
    np.testing.assert_array_equal(again.data, clusters.data)
    np.testing.assert_array_equal(again.leaf_labels, clusters.leaf_labels)
    assert not again._lazy and again.tree == clusters.tree
    # sums of whole numbers are exact in whatever order
    np.testing.assert_array_equal(again.mean_patterns.data, clusters.mean_patterns.data)


def test_distributed_workers_do_not_matter(small, small_clusters):
    distributed = pytest.importorskip("distributed")
    lazy = like(small, da.from_array(small.data, chunks=(7, 9, 30, 68))).as_lazy()
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster, distributed.Client(cluster):
        again = lazy.cluster_hierarchical()
    np.testing.assert_array_equal(again.data, small_clusters.data)
    np.testing.assert_array_equal(again.mean_patterns.data, small_clusters.mean_patterns.data)


@pytest.mark.parametrize("dtype", [np.float32, ">u2"], ids=str)
def test_type_of_the_counts_does_not_matter(small, small_clusters, dtype):
    again = like(small, small.data.astype(dtype)).cluster_hierarchical(num_workers=1)
    np.testing.assert_array_equal(again.data, small_clusters.data)


def test_same_seed_same_labels(small, small_clusters):
    again = small.cluster_hierarchical(random_state=0, num_workers=1)
    np.testing.assert_array_equal(again.data, small_clusters.data)
    other = small.cluster_hierarchical(random_state=np.int64(7), num_workers=1)
    assert other.seed == 7
    # other bits of the thinning, the same domains
    assert agreement(other, small_clusters.leaf_labels) > 0.4


@pytest.mark.parametrize("suffix", ["hspy", "zspy"])
def test_saved_and_loaded(clusters, tmp_path, suffix):
    clusters.save(tmp_path / f"clusters.{suffix}")
    loaded = hs.load(tmp_path / f"clusters.{suffix}")
    assert isinstance(loaded, HierarchicalClusters)
    assert loaded.data.dtype == clusters.data.dtype
    np.testing.assert_array_equal(loaded.data, clusters.data)
    np.testing.assert_array_equal(loaded.leaf_labels, clusters.leaf_labels)
    assert loaded.tree == clusters.tree
    np.testing.assert_array_equal(loaded.mean_patterns.data, clusters.mean_patterns.data)


@pytest.mark.parametrize("suffix", ["hspy", "zspy"])
def test_scan_from_a_file(small, small_clusters, tmp_path, suffix):
    small.save(tmp_path / f"scan.{suffix}", chunks=(5, 7, 60, 34))
    loaded = hs.load(tmp_path / f"scan.{suffix}", lazy=True)
    again = loaded.cluster_hierarchical(num_workers=1)
    np.testing.assert_array_equal(again.data, small_clusters.data)
    assert loaded._lazy  # the scan itself was not read into memory


# --- options ----------------------------------------------------------------------------------


def test_masks_of_one_kind_are_alike(small):
    """(inner, outer), a CircleROI and an array that say the same."""
    ky, kx = (small.axes_manager[name].axis for name in ("ky", "kx"))
    away = np.hypot(ky[:, None], kx)
    array = (away >= 0.25) & (away <= 0.9)
    from_array, from_signal, from_roi = (
        small.cluster_hierarchical(mask=mask, num_workers=1)
        for mask in (
            array,
            hs.signals.Signal2D(array),
            hs.roi.CircleROI(0, 0, 0.9, 0.25),
        )
    )
    np.testing.assert_array_equal(from_roi.data, from_array.data)
    np.testing.assert_array_equal(from_signal.data, from_array.data)
    assert from_array.settings["mask"] == f"array (60, 68) with {array.sum()} True"
    assert "CircleROI" in from_roi.settings["mask"]
    annulus = small.cluster_hierarchical(mask=(0.25, 0.9), num_workers=1)
    assert annulus.settings["mask"] == [0.25, 0.9]
    assert agreement(annulus, from_array.leaf_labels) > 0.6


def test_what_is_masked_is_not_looked_at(small):
    """Structure drawn where the mask is False is not found, nor where it is True is it missed."""
    data = small.data.copy()
    data[:] = ws2_wse2_junction(**SMALL, single_domain="WSe2 flat").data
    data[:9, :, 40:50, 50:60] += np.random.default_rng(0).poisson(
        0.5, (9, 26, 10, 10)
    ).astype(data.dtype)  # fmt: skip
    signal = like(small, data)
    axes = small.axes_manager
    left, right = axes["kx"].axis[[0, 45]]
    top, bottom = axes["ky"].axis[[0, 59]]
    without = hs.roi.RectangularROI(left=left, right=right, top=top, bottom=bottom)
    assert signal.cluster_hierarchical(mask=without, num_workers=1).n_clusters == 1
    assert signal.cluster_hierarchical(num_workers=1).n_clusters == 2
    circle = hs.roi.CircleROI(axes["kx"].axis[55], axes["ky"].axis[45], 0.3)
    found = signal.cluster_hierarchical(mask=circle, num_workers=1)
    assert found.n_clusters == 2
    assert len(np.unique(found.leaf_labels[:8])) == len(np.unique(found.leaf_labels[10:])) == 1


def test_scan_mask(junction):
    mask = truth(junction) < 2
    for given in (mask, hs.signals.Signal2D(mask)):
        found = junction.cluster_hierarchical(scan_mask=given, num_workers=1)
        np.testing.assert_array_equal(found.leaf_labels == -1, ~mask)
        assert (found.data[:, ~mask] == -1).all()
        assert found.n_clusters == 2 and agreement(found, truth(junction), mask) > 0.95
        assert found.tree[0]["size"] == mask.sum()


def test_features_of_the_paper(small):
    found = small.cluster_hierarchical(features="std", num_workers=1)
    assert found.settings["features"] == "std"
    assert found.n_clusters >= 2 and agreement(found, truth(small)) > 0.4


def test_features_of_a_function(small):
    ky, kx = np.ogrid[-30:30, -34:34]
    ring = np.digitize(np.hypot(ky, kx), [5, 10, 14, 18, 24])

    def rings(patterns):
        return np.stack([patterns[:, ring == k].sum(1) for k in range(1, 5)], 1)

    lazy = like(small, da.from_array(small.data, chunks=(5, 9, 60, 20))).as_lazy()
    found, again = (
        signal.cluster_hierarchical(features=rings, num_workers=2) for signal in (small, lazy)
    )
    np.testing.assert_array_equal(found.data, again.data)
    assert found.settings["features"] == "rings" and found.virtual_images == {}
    assert found.n_clusters >= 2


def test_function_of_the_wrong_shape(small):
    with pytest.raises(ValueError, match=r"\(n, features\) for patterns .*\(1, 60, 68\)"):
        small.cluster_hierarchical(features=lambda patterns: patterns[:, :5, :4])


@pytest.mark.parametrize("width", [0, np.float32(0.7)])
def test_spatial_smoothing(junction, width):
    found = junction.cluster_hierarchical(spatial_smoothing=width, num_workers=1)
    assert found.settings["spatial_smoothing"] == pytest.approx(float(width))
    assert found.n_clusters >= 4 and agreement(found, truth(junction)) > 0.7


def test_limits(junction, clusters):
    two = junction.cluster_hierarchical(max_clusters=np.int64(2), num_workers=1)
    assert two.n_clusters == 2 and two.settings["max_clusters"] == 2
    deep = junction.cluster_hierarchical(max_depth=1, num_workers=1)
    np.testing.assert_array_equal(deep.data, two.data)
    large = junction.cluster_hierarchical(min_cluster_size=200, num_workers=1)
    assert large.n_clusters < clusters.n_clusters
    assert large.settings["measured"]["min_cluster_size"] == 200


# --- what is refused --------------------------------------------------------------------------


def test_signals_that_are_no_scan(small):
    for signal, message in (
        (small.inav[0, 0], r"has 0 and 2\. One pattern"),
        (small.inav[0], r"has 1 and 2\. .*reshape"),
        (small.transpose(), "those of the detector.*transpose"),
    ):
        with pytest.raises(PatternError, match=message):
            signal.cluster_hierarchical()
    with pytest.raises(PatternError, match="single pattern"):
        small.inav[:1, :1].cluster_hierarchical()
    with pytest.raises(PatternError, match="real numbers, not complex64.*intensity"):
        like(small, small.data.astype(np.complex64)).cluster_hierarchical()


@pytest.mark.parametrize(
    "fill, kind", [(0, "empty"), (np.nan, "NaN or infinite"), (-1, "negative")], ids=str
)
@pytest.mark.parametrize("lazy", [False, True])
def test_scans_without_a_usable_pattern(small, fill, kind, lazy):
    signal = like(small, np.full(small.data.shape, fill, np.float32))
    signal = signal.as_lazy() if lazy else signal
    with pytest.raises(PatternError, match=f"None of the 468 patterns.*they are {kind}"):
        signal.cluster_hierarchical()


def test_unusable_patterns_are_left_out(small, caplog):
    data = small.data.astype(np.float32)
    data[0, :5] = 0
    data[2, 3, 30, 34] = np.nan
    data[5, 6, 0, 0] = -1
    data[17, 25, 59, 67] = np.inf
    bad = np.zeros((18, 26), bool)
    bad[0, :5] = bad[2, 3] = bad[5, 6] = bad[17, 25] = True
    found = like(small, data).cluster_hierarchical(num_workers=1)
    np.testing.assert_array_equal(found.leaf_labels == -1, bad)
    assert (found.data[:, bad] == -1).all()
    assert found.n_clusters >= 3 and agreement(found, truth(small), ~bad) > 0.4
    assert np.isfinite(found.mean_patterns.data).all()
    notes = [note for note in found.notes if "label -1" in note]
    assert len(notes) == 3
    expected = [(5, "x=0, y=0", "empty"), (2, "x=3, y=2", "NaN"), (1, "x=6, y=5", "negative")]
    for note, (number, place, kind) in zip(notes, expected, strict=True):
        assert note.startswith(f"{number} of") and place in note and f"are {kind}" in note
    assert sum("label -1" in record.message for record in caplog.records) >= 3


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (np.ones((68, 60), bool), ValueError, r"shape \(68, 60\), the detector \(ky, kx\) = \(60"),
        (np.ones((18, 26), bool), ValueError, "scan_mask"),
        (np.ones((60, 68)), TypeError, "array of bool"),
        (np.zeros((60, 68), bool), ValueError, "leaves no detector pixel"),
        (hs.roi.CircleROI(99, 99, 1), ValueError, "leaves no detector pixel"),
        (hs.roi.Line2DROI(0, 0, 1, 1, 1), TypeError, "Line2DROI"),
        ("annulus", TypeError, "'annulus'"),
        (3, TypeError, "CircleROI"),
        ((3, 1), ValueError, "inner < outer"),
        ((-1, 1), ValueError, "inner < outer"),
        ((1, 2, 3), TypeError, "array of bool"),
        ((90.0, 91.0), PatternError, "Nothing is left"),
    ],
    ids=str,
)
def test_masks_that_do_not_fit(small, mask, error, message):
    with pytest.raises(error, match=message):
        small.cluster_hierarchical(mask=mask)


def test_annulus_on_a_detector_of_two_scales(small):
    signal = small.deepcopy()
    signal.axes_manager["kx"].scale *= 1.1
    with pytest.raises(ValueError, match="different scales"):
        signal.cluster_hierarchical(mask=(0.2, 0.9))


@pytest.mark.parametrize(
    "mask", [np.ones((26, 18), bool), np.ones((18, 26)), np.zeros((18, 26), bool), "all"], ids=str
)
def test_scan_masks_that_do_not_fit(small, mask):
    with pytest.raises(ValueError, match="scan_mask"):
        small.cluster_hierarchical(scan_mask=mask)


@pytest.mark.parametrize("name", ["max_clusters", "max_depth", "min_cluster_size", "num_workers"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "2", True])
def test_numbers_that_are_no_counts(small, name, value):
    with pytest.raises(ValueError, match=f"{name}=.*whole number of at least 1"):
        small.cluster_hierarchical(**{name: value})


@pytest.mark.parametrize(
    "option, values",
    [
        ("spatial_smoothing", [-1, np.nan, np.inf, "much", None, True]),
        ("random_state", [-1, None, 0.5, "a", 2**32, True]),
        ("features", [None, "mean", 3, ["std"], np.ones(3)]),
    ],
)
def test_options_of_a_wrong_value(small, option, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{option}="):
            small.cluster_hierarchical(**{option: value})


def test_unknown_options_are_told_the_known_ones(small):
    with pytest.raises(TypeError, match="'n_clusters'.*max_clusters.*scan_mask.*num_workers"):
        small.cluster_hierarchical(n_clusters=5)
    with pytest.raises(TypeError):
        small.cluster_hierarchical(5)


# --- nothing to find --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"electrons": 10},
        {"descan": (3, -2)},
        {"thickness_ramp": 0.5},
        {"intensity_ramp": 0.6},
        {"hot_pixels": 8},
        {"hot_pixels": 8, "descan": (3, -2), "intensity_ramp": 0.4},
    ],
    ids=str,
)
def test_decoys_stay_one_cluster(options):
    signal = ws2_wse2_junction(
        **{"scan_shape": SCAN, "detector_shape": DETECTOR, "electrons": 300, **options},
        single_domain="WSe2 flat",
    )
    found = signal.cluster_hierarchical(num_workers=1)
    assert found.n_clusters == 1 and (found.data == 0).all()
    assert found.n_levels == 1 and found.mean_patterns.data.shape[-2:] == DETECTOR


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_constant_signal_is_one_cluster(small, dtype):
    shape = small.data.shape
    everywhere = np.full(shape, 7, dtype) * (dtype(1) if dtype is np.uint8 else dtype(0.37))
    one_pattern = np.broadcast_to(small.data[3, 4], shape).astype(everywhere.dtype)
    for data in (everywhere, one_pattern):
        found = like(small, data).cluster_hierarchical(num_workers=1)
        assert found.n_clusters == 1 and (found.data == 0).all()


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 30), (30, 1), (3, 4)], ids=str)
def test_tiny_scans_are_one_cluster(shape):
    signal = ws2_wse2_junction(scan_shape=shape, detector_shape=DETECTOR, single_domain="WSe2 flat")
    found = signal.cluster_hierarchical(num_workers=1)
    assert found.n_clusters == 1 and found.leaf_labels.shape == shape


def test_structureless_intensities_stay_one_cluster():
    for seed in range(3):
        signal = ws2_wse2_junction(
            scan_shape=SCAN, detector_shape=DETECTOR, single_domain="WSe2 flat", random_state=seed
        )
        found = like(signal, signal.data * np.float32(0.37)).cluster_hierarchical(num_workers=1)
        assert found.settings["measured"]["splitting"] == "checkerboard"
        assert found.n_clusters == 1


def test_structureless_counts_with_a_gain_stay_one_cluster():
    for seed in (2, 3):
        signal = ws2_wse2_junction(
            scan_shape=SCAN, detector_shape=DETECTOR, single_domain="WSe2 flat", random_state=seed
        )
        found = like(signal, signal.data * np.uint16(3)).cluster_hierarchical(num_workers=1)
        assert found.settings["measured"]["splitting"] == "checkerboard"
        assert found.n_clusters == 1


# --- something to find ------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [3, 0.37])
def test_scaled_counts_still_show_the_domains(junction, factor):
    found = like(junction, junction.data * np.float32(factor)).cluster_hierarchical(num_workers=1)
    assert found.settings["measured"]["splitting"] == "checkerboard"
    assert 4 <= found.n_clusters <= 7 and agreement(found, truth(junction)) > 0.6
    assert any("not electrons" in note for note in found.notes) == (factor == 3)
    assert any("no counts of electrons" in note for note in found.notes) == (factor != 3)


def test_domains_are_found_beside_descan_ramps_and_hot_pixels():
    signal = ws2_wse2_junction(
        scan_shape=(30, 36), detector_shape=DETECTOR, electrons=1000,
        descan=(3, -2), intensity_ramp=0.4, hot_pixels=5,
    )  # fmt: skip
    found = signal.cluster_hierarchical(num_workers=1)
    assert 4 <= found.n_clusters <= 6 and agreement(found, truth(signal)) > 0.8
    assert any(note.endswith("left out: 5.") for note in found.notes)


def test_six_grains(shared_data):
    file = np.load(shared_data / "nbed_six_grains.npz")
    found = hs.signals.Signal2D(file["data"]).cluster_hierarchical(num_workers=1)
    assert found.n_clusters == 6
    assert agreement(found, file["grain_id"]) >= 0.97


def test_rotavirus(shared_data):
    """Defocused probe, no Bragg spots: particles and film scatter, vacuum and ice less."""
    signal = hs.load(shared_data / "rotavirus_A.hspy", lazy=True)
    found = signal.cluster_hierarchical(num_workers=1)
    assert 2 <= found.n_clusters <= 10
    assert not any("negative" in note for note in found.notes)
    # what is bright in the dark field is a region of its own
    total = signal.sum(axis=(2, 3)).data
    total = np.asarray(total, float)
    means = [total[found.leaf_labels == k].mean() for k in range(found.n_clusters)]
    lowest = found.leaf_labels == int(np.argmin(means))
    score = (total[~lowest].mean() - total[lowest].mean()) / total.std()
    assert score > 1
    # regions, and no salt and pepper
    same = np.mean(found.leaf_labels[1:] == found.leaf_labels[:-1])
    assert same > 0.8


# --- Ctrl-C -----------------------------------------------------------------------------------


def test_interrupt_of_the_tree(small, monkeypatch):
    grow = pipeline.grow

    def interrupt(n):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        pipeline, "grow", lambda *args, **options: grow(*args, **{**options, "progress": interrupt})
    )
    found = small.cluster_hierarchical(num_workers=1)
    assert found.status == "interrupted" and found.n_clusters == 2
    assert found.mean_patterns.data.shape[-2:] == (60, 68)


def test_interrupt_of_the_second_pass(small, small_clusters, monkeypatch, tmp_path):
    class Bar:
        """Ctrl-C as soon as the second bar moves."""

        def __init__(self, description):
            self.description = description

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def update(self, n):
            if self.description == "Sum" and n:
                raise KeyboardInterrupt

        def set_postfix(self, **values):
            assert values["clusters"] >= 2

        def close(self):
            pass

    monkeypatch.setattr(_clusters, "progressbar", lambda total, name, show: Bar(name))
    found = small.cluster_hierarchical(num_workers=1)
    assert found.status == "interrupted"
    np.testing.assert_array_equal(found.data, small_clusters.data)
    with pytest.raises(Exception, match="interrupted|pattern"):
        found.mean_patterns  # noqa: B018
    found.save(tmp_path / "interrupted.hspy")
    loaded = hs.load(tmp_path / "interrupted.hspy")
    assert loaded.status == "interrupted"
    np.testing.assert_array_equal(loaded.data, found.data)


def test_progress_bars_add_up(small, monkeypatch):
    totals, counted = {}, {}

    def progressbar(total, name, show):
        import contextlib

        @contextlib.contextmanager
        def bar():
            yield Counter()

        class Counter:
            def update(self, n):
                counted[name] = counted.get(name, 0) + n

            def set_postfix(self, **values):
                counted["clusters"] = values["clusters"]

            def close(self):
                counted["closed"] = name

        totals[name] = total
        return bar()

    monkeypatch.setattr(_clusters, "progressbar", progressbar)
    found = small.cluster_hierarchical(num_workers=2)
    assert counted["Project"] == totals["Project"] == 2 * 468
    assert counted["Sum"] == totals["Sum"] == 468
    assert counted["clusters"] == found.n_clusters and counted["closed"] == "Project"
