"""pyxem before, beside and after: centring, virtual images, calibration, clusters back."""

import hyperspy.api as hs
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from hs_autoptycho._signal_reader import SignalReader
from hs_autoptycho.data import true_domains, twisted_bilayer_mos2, ws2_wse2_junction
from hs_autoptycho.ptycho.parameters import ParameterError

pytest.importorskip("pyxem", reason="pyxem is not installed")

SCAN, DETECTOR = (18, 26), (60, 68)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """What is clustered is small."""


@pytest.fixture(scope="module")
def plain():
    return ws2_wse2_junction(
        scan_shape=SCAN, detector_shape=DETECTOR, electrons=1000, descan=(1.5, -2.0),
        beam_shift=(4.0, -3.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def signal(plain):
    signal = plain.deepcopy()
    signal.set_signal_type("electron_diffraction")
    return signal


@pytest.fixture(scope="module")
def clusters(signal):
    return signal.cluster_hierarchical(num_workers=1)


def agreement(clusters, signal):
    """Of the first level: membrane, WS2 and WSe2."""
    truth, labels = true_domains(signal).data[0], clusters.level(1).data
    return adjusted_rand_score(truth.ravel(), labels.ravel())


# -- centre, then cluster ---------------------------------------------------------------------


def beam(signal):
    """(kx, ky) of the direct beam in pixels, averaged over the scan."""
    shifts = signal.get_direct_beam_position(method="blur", sigma=2, half_square_width=12)
    shifts = np.asarray(shifts.data)
    return np.array(DETECTOR[::-1]) / 2 - shifts.mean((0, 1))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", ["electron_diffraction", "diffraction"])
def test_centred_then_clustered(plain, kind, lazy):
    s = plain.deepcopy()
    s.set_signal_type(kind)
    s = s.as_lazy() if lazy else s
    name = ("Lazy" if lazy else "") + kind.title().replace("_", "") + "2D"
    assert type(s).__name__ == name
    assert np.abs(beam(s) - np.array(DETECTOR[::-1]) / 2).max() > 2
    # whole pixels: counts stay counts
    s.center_direct_beam(method="blur", sigma=2, half_square_width=12, subpixel=False)
    assert type(s).__name__ == name
    assert np.abs(beam(s) - np.array(DETECTOR[::-1]) / 2).max() < 0.2
    clusters = s.cluster_hierarchical(num_workers=1)
    assert clusters.settings["measured"]["counts"]
    assert agreement(clusters, plain) > 0.9
    patterns = clusters.mean_patterns
    assert type(patterns).__name__ == name.removeprefix("Lazy")
    # the means are centred too, and can be worked with by pyxem
    assert np.hypot(*(np.array(beam(patterns.inav[:2])) - (34, 30))) < 0.5


def test_centring_is_not_needed(signal, clusters):
    assert agreement(clusters, signal) > 0.9
    moved = np.ptp(signal.get_direct_beam_position(method="blur", sigma=2).data, axis=(0, 1))
    assert moved.min() >= 1


# -- virtual images as masks ------------------------------------------------------------------


def test_virtual_image_as_a_mask_of_the_scan(signal):
    dark_field = signal.get_integrated_intensity(hs.roi.CircleROI(cx=0, cy=0, r=1.2, r_inner=0.2))
    sheet = dark_field > float(np.median(dark_field.data))
    clusters = signal.cluster_hierarchical(scan_mask=sheet, num_workers=1)
    np.testing.assert_array_equal(clusters.leaf_labels >= 0, sheet.data)
    assert clusters.virtual_images["annulus"].data.shape == sheet.data.shape


def test_mask_of_the_detector(signal):
    hot = signal.mean((0, 1)) > 1e9
    hot.data[3, 5] = True
    clusters = signal.cluster_hierarchical(mask=~hot, max_clusters=2, num_workers=1)
    assert clusters.settings["mask"] == f"array {DETECTOR} with {60 * 68 - 1} True"


def test_dead_pixels_as_a_mask_for_ptychography():
    scan = twisted_bilayer_mos2(scan_shape=(5, 6), detector_shape=(48, 64), dose=1e6)
    scan.data[:, :, 20, 30] = 0
    scan.set_signal_type("electron_diffraction")
    dead = scan.find_dead_pixels()
    assert dead.data[20, 30]
    obj = scan.reconstruct_ptycho(
        defocus=200, scan_rotation=12, detector_mask=~dead, n_iterations=1
    )
    assert np.isfinite(obj.data).all()
    with pytest.raises(ParameterError, match="detector_mask is an array of bool"):
        scan.reconstruct_ptycho(defocus=200, detector_mask=dead.isig[:10, :10])


# -- pyxem's calibration ----------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["mrad", "nm^-1", "A^-1"])
def test_calibration(signal, unit):
    s = signal.inav[:3, :4].deepcopy()
    s.calibration(beam_energy=200, convergence_angle=1.5, scale=0.4, units="nm^-1")
    s.calibration.center = None  # the middle of the detector
    s.calibration.convert_signal_units(unit)
    reader = SignalReader(s)
    energy = reader.number("beam_energy", None)
    assert energy == 200
    assert reader.number("convergence_angle", None) == 1.5
    assert reader.reciprocal_pixel(None, energy) == pytest.approx(0.04, rel=1e-4)
    assert reader.zero() == pytest.approx(((60 - 1) / 2, (68 - 1) / 2))
    assert not reader.problems


def test_calibration_in_pixels_is_none(signal):
    s = signal.inav[:3, :4].deepcopy()
    s.calibration.units = "px"
    reader = SignalReader(s)
    assert reader.reciprocal_pixel(None, 200.0) is None
    assert "reciprocal_pixel is missing" in reader.problems[0]


# -- clusters back ----------------------------------------------------------------------------


def test_virtual_dark_field_of_what_tells_a_cluster(signal, clusters):
    patterns = clusters.leaf_patterns
    assert type(patterns) is type(signal)
    own = int(np.argmax(clusters.sizes))
    others = np.delete(patterns.data, own, axis=0).max(axis=0)
    row, column = np.unravel_index(np.argmax(patterns.data[own] - others), DETECTOR)
    kx, ky = signal.axes_manager.signal_axes
    spot = hs.roi.CircleROI(cx=kx.axis[column], cy=ky.axis[row], r=2.5 * kx.scale)
    image = signal.get_integrated_intensity(spot)
    inside = clusters.leaf_labels == own
    assert image.data[inside].mean() > 1.2 * image.data[~inside].mean()


def test_cluster_as_a_mask_and_as_a_part_of_the_scan(signal, clusters):
    inside = clusters.leaves == 1
    assert inside.data.dtype == bool
    np.testing.assert_array_equal(inside.data, clusters.leaf_labels == 1)
    again = signal.cluster_hierarchical(scan_mask=inside, num_workers=1)
    assert (again.leaf_labels >= 0).sum() == clusters.sizes[1]
    part = clusters.cluster_roi(1)(signal)
    assert type(part) is type(signal)
    rows, columns = np.nonzero(inside.data)
    np.testing.assert_array_equal(
        part.data, signal.data[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    )


def test_clusters_as_markers(signal, clusters):
    image = signal.get_integrated_intensity(hs.roi.CircleROI(cx=0, cy=0, r=1.2, r_inner=0.2))
    image.add_marker(clusters.boundary_markers(color="white"), permanent=True)
    image.plot()
    assert "Markers" in image.metadata
    signal.plot()
    signal.add_marker(clusters.boundary_markers(n_clusters=2), plot_on_signal=False)
    figure = signal._plot.navigator_plot.figure
    drawn = [c for c in figure.axes[0].collections if len(c.get_paths()) > 10]
    assert len(drawn) == 1
    signal._plot.close()
