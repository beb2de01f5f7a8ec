"""`map_strain` on clusters, and the signal it returns."""

import re

import hyperspy.api as hs
import matplotlib.figure
import numpy as np
import pytest

from hs_autoptycho.data import (
    domain_purity,
    true_domains,
    true_lattices,
    true_strain,
    ws2_wse2_junction,
)
from hs_autoptycho.signals import HierarchicalClusters, LazyStrainMap, StrainMap
from hs_autoptycho.signals._axes import AxesError

SUBSTRATE, WS2, STRAINED, FLAT, RIPPLED = range(5)


def clusters_of(signal, labels):
    """Clusters with the labels of the truth: a tree that splits off one leaf after the other."""
    n = int(labels.max()) + 1
    sizes = np.bincount(labels[labels >= 0], minlength=n)
    nodes = []

    def grow(leaves, parent):
        index = len(nodes)
        depth = 0 if parent is None else nodes[parent]["depth"] + 1
        node = {"index": index, "parent": parent, "children": [], "depth": depth, "level": depth}
        node |= {"size": int(sizes[leaves].sum()), "stopped": "" if len(leaves) > 1 else "given"}
        keys = ("gain", "significance", "stability", "separation")
        nodes.append(node | dict.fromkeys(keys))
        if len(leaves) > 1:
            node = nodes[index]
            node["children"] = [grow(leaves[:1], index), grow(leaves[1:], index)]
        return index

    grow(list(range(n)), None)
    axes = signal.axes_manager
    return HierarchicalClusters.from_clustering(
        labels.astype(np.int32),
        nodes,
        scan_axes=[axis.get_axis_dictionary() for axis in axes.navigation_axes[::-1]],
        signal_axes=[axis.get_axis_dictionary() for axis in axes.signal_axes[::-1]],
        pattern_signal_type="",
        leaf_sums=np.stack([signal.data[labels == i].sum(axis=0, dtype=float) for i in range(n)]),
        leaf_square_sums=None,
        settings={},
        notes=[],
        versions={},
        status="completed",
        seed=0,
    )


@pytest.fixture(scope="module")
def scan():
    return ws2_wse2_junction(
        scan_shape=(30, 37), detector_shape=(120, 128), electrons=1000, random_state=3
    )


@pytest.fixture(scope="module")
def clusters(scan):
    return clusters_of(scan, true_domains(scan).data[-1])


@pytest.fixture(scope="module")
def strain(clusters, scan):
    return clusters.map_strain(scan, reference=FLAT)


def test_against_the_truth_at_1000_electrons(strain, scan, clusters):
    truth, inside = true_strain(scan).data, domain_purity(scan).data > 0.99
    labels = clusters.leaf_labels
    assert isinstance(strain, StrainMap) and strain.data.dtype == np.float32
    assert strain.data.shape == (4, 30, 37)
    assert strain.axes_manager.signal_axes[0].units == scan.axes_manager[0].units
    for leaf in (WS2, STRAINED, FLAT):
        chosen = inside & (labels == leaf) & np.isfinite(strain.data[0])
        assert chosen.sum() > 0.95 * (inside & (labels == leaf)).sum()
        error = (strain.data - truth)[:, chosen]
        pulls = error / strain.standard_errors.data[:, chosen]
        assert np.all((0.77 < pulls.std(axis=1)) & (pulls.std(axis=1) < 1.3))
        assert np.all(error[:3].std(axis=1) < 3e-3)
        assert np.abs(error[:3].mean(axis=1)).max() < 6e-4


def test_smoothing_reaches_a_tenth_of_a_percent(scan, clusters):
    truth, inside = true_strain(scan).data, domain_purity(scan).data > 0.99
    smoothed = clusters.map_strain(scan, reference=FLAT, spatial_smoothing=0.8)
    labels = clusters.leaf_labels
    for leaf in (STRAINED, FLAT):
        chosen = inside & (labels == leaf) & np.isfinite(smoothed.data[0])
        error = (smoothed.data - truth)[:, chosen]
        assert np.all(error[:3].std(axis=1) < 1e-3)
        pulls = error / smoothed.standard_errors.data[:, chosen]
        assert np.all((0.77 < pulls.std(axis=1)) & (pulls.std(axis=1) < 1.35))


def test_profile_recovers_the_gradient(strain, scan, clusters):
    truth = true_strain(scan).data[0]
    step = scan.axes_manager[0].scale
    profile = strain.boundary_profile(STRAINED, FLAT, "e_xx", half_width=8 * step)
    axis = profile.axes_manager.signal_axes[0]
    assert axis.size == 16 and axis.units == scan.axes_manager[0].units
    assert axis.axis == pytest.approx((np.arange(16) - 7.5) * step)
    errors = profile.metadata.Strain_profile.standard_error
    variance = profile.metadata.Signal.Noise_properties.variance
    assert np.allclose(getattr(variance, "data", variance), errors**2, equal_nan=True)
    exact = StrainMap.from_strain(
        np.where(np.isfinite(strain.data), true_strain(scan).data, np.nan),
        scan_axes=[a.get_axis_dictionary() for a in strain.axes_manager.signal_axes[::-1]],
        standard_errors=strain.standard_errors.data, reasons=strain.reasons.data,
        reason_table=strain.reason_table, leaf_labels=strain.leaf_labels, lattices=[],
        misorientations=[], cluster_statistics=[], reference={}, units="", settings=strain.settings,
    ).boundary_profile(STRAINED, FLAT, half_width=8 * step)  # fmt: skip
    # the two bins at the boundary hold mixed patterns
    pure = np.abs(axis.axis) > step
    pulls = ((profile.data - exact.data) / errors)[pure]
    assert np.abs(pulls).max() < 4.5 and pulls.std() < 1.6
    left, right = pure & (axis.axis < 0), pure & (axis.axis > 0)
    slope, slope_error = slope_of(axis.axis[left], profile.data[left], errors[left])
    expected, _ = slope_of(axis.axis[left], exact.data[left], errors[left])
    assert expected < -3 * slope_error and abs(slope - expected) < 3.5 * slope_error
    assert np.abs(profile.data[right]).max() < 5 * np.median(errors)
    assert np.nanmax(truth) > 0  # the imposed strain is there


def slope_of(x, y, errors):
    weight = 1 / errors**2
    middle = np.average(x, weights=weight)
    spread = (weight * (x - middle) ** 2).sum()
    return (weight * (x - middle) * y).sum() / spread, 1 / np.sqrt(spread)


def test_substrate_has_a_reason_and_no_lattice(strain, clusters):
    substrate = clusters.leaf_labels == SUBSTRATE
    assert np.isnan(strain.data[:, substrate]).all()
    assert (strain.reasons.data[substrate] == 2).all()
    assert "no lattice" in strain.reason_table[2]
    assert strain.lattices[SUBSTRATE]["reason"] and "g1" not in strain.lattices[SUBSTRATE]
    assert strain.cluster_statistics[SUBSTRATE]["n"] == 0


def test_lattices_are_the_true_ones(strain, scan):
    truth = true_lattices(scan)["WSe2 flat"]
    found = strain.lattices[FLAT]
    assert strain.units == scan.axes_manager.signal_axes[0].units
    basis = np.array([found["g1"], found["g2"]]).T
    change = np.linalg.inv(truth) @ basis
    assert np.abs(change - np.rint(change)).max() < 2e-3
    assert 0 < max(found["g1_standard_error"]) < 1e-3


def test_ideal_vectors_and_mask_as_references(strain, scan, clusters):
    ideal = clusters.map_strain(scan, reference=true_lattices(scan)["WSe2 flat"])
    assert ideal.reference["description"] == "given lattice vectors"
    assert np.nanmedian(np.abs(ideal.data - strain.data)[:3]) < 5e-4
    mask = clusters.leaf_labels == FLAT
    for given in (mask, hs.signals.Signal2D(mask)):
        masked = clusters.map_strain(scan, reference=given)
        assert np.abs(np.nanmean(masked.data[:3, mask], axis=1)).max() < 1e-4


def test_another_phase_or_orientation_is_noted(strain, scan, clusters, caplog):
    assert strain.notes == []  # 4 % between WS2 and WSe2 may be strain
    part, own = scan.inav[:, :20], clusters.isig[:, :20]
    phases = own.map_strain(part, reference=FLAT, max_strain=0.03)
    note = "Cluster 1 differs from the reference (mean pattern of cluster 3) by up to 3.9"
    assert len(phases.notes) == 1 and phases.notes[0].startswith(note)
    assert "°" not in phases.notes[0] and "reference='own'" in phases.notes[0]
    assert [r.levelname for r in caplog.records if r.message == phases.notes[0]] == ["WARNING"]
    c, s = np.cos(np.deg2rad(12)), np.sin(np.deg2rad(12))
    turned = np.array([[c, -s], [s, c]]) @ true_lattices(scan)["WSe2 flat"]
    grains = own.map_strain(part, reference=turned)
    assert grains.notes[0].startswith("Clusters 1, 2, 3 and 4 differ from the reference (given")
    assert re.search(r"by up to 12\.?\d?°: another phase or orientation", grains.notes[0])
    assert own.map_strain(part, reference="own", max_strain=0.03).notes == []


def test_notes_are_kept_in_files(tmp_path):
    s = small_map(notes=["one", "two"])
    for suffix in ("hspy", "zspy"):
        s.save(tmp_path / f"strain.{suffix}")
        assert hs.load(tmp_path / f"strain.{suffix}").notes == ["one", "two"]
    assert small_map().notes == []  # and of a file from before there were notes
    with pytest.raises(AttributeError, match="not made by map_strain"):
        StrainMap(np.zeros((4, 5, 6))).notes  # noqa: B018


def test_misorientations(strain, scan):
    pairs = {tuple(entry["clusters"]): entry for entry in strain.misorientations}
    assert {(WS2, STRAINED), (STRAINED, FLAT)} <= set(pairs)
    assert all(SUBSTRATE not in pair for pair in pairs)
    truth = np.nanmedian(true_strain(scan).data[3][strain.leaf_labels == WS2])
    entry = pairs[WS2, STRAINED]
    assert abs(entry["rotation"] + truth) < max(5 * entry["standard_error"], 0.06)
    assert entry["boundary_length"] > 15 * scan.axes_manager[0].scale


@pytest.mark.parametrize("suffix", ["hspy", "zspy"])
def test_saved_and_loaded(strain, tmp_path, suffix):
    strain.save(tmp_path / f"strain.{suffix}")
    for lazy in (False, True):
        loaded = hs.load(tmp_path / f"strain.{suffix}", lazy=lazy)
        assert type(loaded) is (LazyStrainMap if lazy else StrainMap)
        if lazy:
            loaded.compute()
        assert np.array_equal(loaded.data, strain.data, equal_nan=True)
        for name in ("standard_errors", "reasons"):
            one, other = getattr(loaded, name), getattr(strain, name)
            assert np.array_equal(one.data, other.data, equal_nan=True)
            assert one.data.dtype == other.data.dtype
        for name in ("lattices", "misorientations", "cluster_statistics", "reference",
                     "settings", "units", "reason_table", "components"):  # fmt: skip
            assert getattr(loaded, name) == getattr(strain, name)
        assert np.array_equal(loaded.leaf_labels, strain.leaf_labels)
        again, first = (s.boundary_profile(STRAINED, FLAT) for s in (loaded, strain))
        assert np.array_equal(again.data, first.data, equal_nan=True)


def test_cropped_maps(strain):
    part = strain.isig[4:20, 3:25]
    assert isinstance(part, StrainMap)
    assert np.array_equal(part.leaf_labels, strain.leaf_labels[3:25, 4:20])
    expected = strain.standard_errors.data[:, 3:25, 4:20]
    assert np.array_equal(part.standard_errors.data, expected, equal_nan=True)
    assert isinstance(part.plot_summary(), matplotlib.figure.Figure)


def small_map(size=(7, 9), **more):
    """A map of two clusters, left and right, with two blank corners."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.01, size=(4, *size))
    reasons = np.zeros(size, int)
    reasons[:2, :2] = reasons[-1, -2:] = 1
    labels = np.zeros(size, int)
    labels[:, 5:] = 1
    return StrainMap.from_strain(
        np.where(reasons, np.nan, values),
        scan_axes=[{"name": n, "scale": 0.5, "offset": 1.0, "units": "nm"} for n in "yx"],
        standard_errors=rng.uniform(1e-3, 2e-3, size=values.shape), reasons=reasons,
        reason_table=["", "none"], leaf_labels=labels, lattices=[], misorientations=[],
        cluster_statistics=[{"cluster": 0, "n": 0}, {"cluster": 1, "n": 0}],
        reference={"description": "given"}, units="1/nm", settings={"spatial_smoothing": 0.0},
        **more,
    )  # fmt: skip


def test_an_offset_that_leads_to_another_part_of_the_map_is_noticed():
    s = small_map()
    s.axes_manager["x"].offset = 2.5  # 3 steps further, which are columns of the map too
    assert s.standard_errors.data.shape == (4, 7, 9)
    part = s.isig[:6]
    for use in (
        lambda: part.standard_errors,
        lambda: part.inav[0].leaf_labels,
        lambda: part.boundary_profile(0, 1),
        part.plot_summary,
    ):
        with pytest.raises(AxesError, match="the columns 3 to 8.*cannot be told"):
            use()
    masked = small_map()
    masked.data[:, 3:5] = np.nan  # what is blanked by hand is no other part
    assert np.array_equal(masked.isig[:6].leaf_labels, masked.leaf_labels[:, :6])


@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
def test_exchanged_axes_are_refused(size):
    s = small_map(size)
    for turned in (s.swap_axes(1, 2), s.transpose(signal_axes=(2, 1))):
        for use in (turned.plot_summary, lambda t=turned: t.reasons):
            with pytest.raises(AxesError, match=r"exchanged.*signal_axes=\('x', 'y'\)"):
                use()


def test_rebinned_maps_are_plain_and_a_calibrated_crop_is_no_damage():
    s = small_map()
    assert type(s.isig[:8, :6].rebin(scale=(1, 2, 2))) is hs.signals.Signal2D
    s.axes_manager["x"].scale = 0.3
    with pytest.raises(AxesError, match="^the axis 'x' goes from.*cannot be told.*isig alone$"):
        s.isig[2:].plot_summary()


@pytest.mark.parametrize("lazy", [False, True])
def test_results_of_arithmetic_are_plain(lazy):
    s = small_map()
    t = s.as_lazy() if lazy else s
    for result, values in (
        (t * 100, s.data * 100),
        (abs(t), abs(s.data)),
        (t - t, s.data - s.data),
        (t.sum(0), s.data.sum(0)),
        (t.inav[0] + t.inav[1], s.data[0] + s.data[1]),
    ):
        assert not isinstance(result, StrainMap) and not result.metadata.has_item("Strain")
        assert np.array_equal(np.asarray(result.data), values, equal_nan=True)
    assert isinstance(t, StrainMap) and t.standard_errors.data.shape == (4, 7, 9)
    whole = s.data.copy()
    s *= 100
    assert type(s) is hs.signals.Signal2D and not s.metadata.has_item("Strain")
    assert np.array_equal(s.data, 100 * whole, equal_nan=True)


def test_components_in_another_order_are_refused():
    s = small_map()
    for part in (s.inav[::-1], s.inav[:2], s.inav[2], hs.stack([s, s])):
        for use in (part.plot_summary, lambda p=part: p.boundary_profile(0, 1, "e_xx")):
            with pytest.raises(ValueError, match="not the components e_xx, e_yy, e_xy, rotation"):
                use()


def test_a_mirrored_map_is_the_same_mirrored():
    s = small_map()
    mirrored = s.isig[::-1, ::-1]
    assert np.array_equal(mirrored.leaf_labels, s.leaf_labels[::-1, ::-1])
    profile, expected = (m.boundary_profile(0, 1).data for m in (mirrored, s))
    assert np.allclose(profile, expected, equal_nan=True)
    mirrored.plot_summary().canvas.draw()


def test_summary(strain):
    figure = strain.plot_summary()
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.canvas.draw()
    axes = [ax for f in figure.subfigs for ax in f.axes]
    assert [ax.get_title(loc="left") for ax in axes[:4]][3] == "rotation (°)"
    shown = np.asarray(axes[0].images[0].get_array().filled(np.nan))
    assert np.allclose(shown, 100 * strain.data[0], equal_nan=True)


def test_plot_is_centred_at_zero(strain):
    strain.plot()
    image = strain._plot.signal_plot.ax.images[0]
    low, high = image.get_clim()
    assert low == pytest.approx(-high) and high > 0 and image.get_cmap().name == "RdBu_r"
    navigator = strain._plot.navigator_plot.ax.lines[0].get_ydata()
    np.testing.assert_allclose(navigator, np.nanstd(strain.data, axis=(1, 2)))
    strain.inav[0].plot(cmap="gray")  # a single component has no navigator


def test_lazy_is_the_same(strain, scan, clusters):
    lazy = scan.as_lazy()
    lazy.data = lazy.data.rechunk((7, 11, 60, 64))
    mapped = clusters.map_strain(lazy, reference=FLAT, num_workers=2)
    assert np.array_equal(mapped.data, strain.data, equal_nan=True)


def test_wrong_input_is_named(scan, clusters, strain):
    with pytest.raises(ValueError, match="the signal that was clustered"):
        clusters.map_strain(scan.inav[:20])
    with pytest.raises(ValueError, match="the signal that was clustered"):
        clusters.map_strain(scan.isig[:100])
    with pytest.raises(ValueError, match=r"a scan \(x, y | kx, ky\) is needed"):
        clusters.map_strain(scan.transpose(signal_axes=1))
    with pytest.raises(TypeError, match="no option smoothing; its options are reference"):
        clusters.map_strain(scan, smoothing=1)
    for options, message in (
        ({"reference": 7}, "go from 0 to 4"),
        ({"reference": SUBSTRATE}, "cluster 0, has no lattice"),
        ({"reference": np.ones((3, 4), bool)}, "the reference mask has the shape"),
        ({"reference": np.zeros((30, 37), bool)}, "holds no position"),
        ({"reference": [[1, 2], [2, 4]]}, "parallel"),
        ({"reference": "flat"}, "the number of a cluster"),
        ({"spatial_smoothing": -1}, "spatial_smoothing=-1"),
        ({"max_strain": 0}, "max_strain=0"),
        ({"max_shift": 1.5}, "max_shift=1.5"),
        ({"disk_radius": np.nan}, "disk_radius=nan"),
        ({"num_workers": 0}, "num_workers=0"),
    ):
        with pytest.raises(ValueError, match=message):
            clusters.map_strain(scan, **options)
    other = scan.deepcopy()
    other.axes_manager.signal_axes[1].units = "mrad"
    with pytest.raises(ValueError, match="units of one kind"):
        clusters.map_strain(other)
    with pytest.raises(ValueError, match="no common boundary"):
        strain.boundary_profile(WS2, RIPPLED)
    with pytest.raises(ValueError, match="there is no cluster 9"):
        strain.boundary_profile(9, FLAT)
    with pytest.raises(ValueError, match="one of e_xx"):
        strain.boundary_profile(STRAINED, FLAT, "e_zz")
    with pytest.raises(AttributeError, match="not made by map_strain"):
        StrainMap(np.zeros((4, 5, 6))).lattices  # noqa: B018
