"""What HyperSpy's own `plot` shows of the results; and no figure that nobody asked for."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho.data import ws2_wse2_junction


def image(signal):
    return np.ma.getdata(signal._plot.signal_plot.ax.images[0].get_array())


@pytest.mark.parametrize("lazy", [False, True])
def test_an_object_shows_its_phase(obj, lazy):
    expected = np.angle(obj.data)
    obj = obj.as_lazy() if lazy else obj
    obj.plot()
    ax = obj._plot.signal_plot.ax
    np.testing.assert_allclose(image(obj), expected[0], atol=1e-6)
    assert len(plt.get_fignums()) == 2  # the navigator, too
    assert ax.get_xlabel() == "x axis (Å)" and ax.get_ylabel() == "y axis (Å)"
    assert obj._plot.signal_plot._colorbar.ax.get_ylabel() == "phase (rad)"
    obj.axes_manager.indices = (1,)
    np.testing.assert_allclose(image(obj), expected[1], atol=1e-6)


def test_an_object_of_square_pixels_has_a_scale_bar(obj):
    obj.axes_manager["y"].scale = obj.axes_manager["x"].scale
    obj.plot(navigator=None)
    bar = obj._plot.signal_plot.ax.scalebar
    assert bar.units == "Å" and bar.length > 1


def test_other_representations_are_hyperspys(obj):
    obj = obj.inav[0]
    obj.plot("polar")
    assert len(plt.get_fignums()) == 2  # amplitude and phase
    plt.close("all")
    obj.plot(representation="cartesian")
    assert len(plt.get_fignums()) == 2
    with pytest.raises(ValueError, match="cylindrical"):
        obj.plot("cylindrical")
    with pytest.raises(ValueError, match='representation="phase"'):
        obj.plot("polar", positions=True)


def test_positions_are_marked(obj):
    obj.plot(positions=True, navigator=None)
    (drawn,) = obj._plot.signal_plot.ax.collections
    np.testing.assert_allclose(drawn.get_offsets(), obj.positions[:, ::-1])


def test_markers_are_in_the_units_of_the_axes(obj):
    for axis in obj.axes_manager.signal_axes:
        axis.scale, axis.offset, axis.units = axis.scale / 10, axis.offset / 10, "nm"
    markers = obj.position_markers(color="red", sizes=(3,))
    np.testing.assert_allclose(markers.kwargs["offsets"], obj.positions[:, ::-1] / 10)
    assert markers.kwargs["sizes"] == (3,)
    amplitude = obj.inav[0].amplitude
    amplitude.plot()
    amplitude.add_marker(markers)
    assert len(amplitude._plot.signal_plot.ax.collections) == 1


def test_a_phase_that_wraps_has_cyclic_colours(obj):
    figure = obj.plot_summary()
    assert figure.axes[0].images[0].get_cmap().name == "gray"
    obj.data = obj.data**12
    figure = obj.plot_summary()
    phase = figure.axes[0]
    assert phase.images[0].get_cmap().name == "twilight"
    assert phase.images[0].get_clim() == pytest.approx((-np.pi, np.pi))
    assert phase.get_title("left") == "Phase (cyclic colours)"


def test_no_figure_without_being_asked(tuned, scan):
    obj, open_then = tuned
    assert open_then == []
    one = scan.reconstruct_ptycho(defocus=120, scan_rotation=12, n_iterations=2)
    for result in (one, obj):
        result.crop_to_scan().fourier_magnitude()
        assert result.resolution() != 0 and result.probe.data.size and result.history.data.size
    assert repr(obj.compare_trials([0, 1])) and obj.position_markers()
    hs_autoptycho.estimate_geometry(scan)
    hs_autoptycho.estimate_memory(scan)
    junction = ws2_wse2_junction(
        scan_shape=(20, 24), detector_shape=(60, 64), electrons=1000, random_state=3
    )
    clusters = junction.cluster_hierarchical()
    for result in (clusters.leaves, clusters.mean_patterns, clusters.difference_patterns):
        assert result.data.size
    clusters.map_strain(junction)
    assert plt.get_fignums() == []
