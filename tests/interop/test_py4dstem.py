"""To py4DSTEM and back: memory, calibration, and the conventions against a simulated scan."""

import builtins
import contextlib
import io
import itertools
import math
import warnings

import hyperspy.api as hs
import numpy as np
import pytest

from hs_autoptycho._quantities import CalibrationError
from hs_autoptycho.data import phase_correlation, true_positions, twisted_bilayer_mos2
from hs_autoptycho.interop import from_py4dstem, to_py4dstem
from hs_autoptycho.signals import PtychographicObject


def test_py4dstem_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "py4DSTEM":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for function in (to_py4dstem, from_py4dstem):
        with pytest.raises(ImportError, match=r"pip install .*hs_autoptycho\[py4dstem\]"):
            function(object())


@pytest.fixture(scope="module")
def py4dstem():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("py4DSTEM", reason="py4DSTEM is not installed")
        pytest.importorskip("py4DSTEM.process.phase")
    return module


@pytest.fixture
def plain():
    """Four sizes that differ, axes in units that are not py4DSTEM's."""
    signal = hs.signals.Signal2D(np.random.default_rng(0).poisson(3, (3, 4, 5, 6)).astype("u2"))
    for axis, units, scale in zip(signal.axes_manager.navigation_axes, ("nm",) * 2, (0.2,) * 2,
                                  strict=True):  # fmt: skip
        axis.units, axis.scale = units, scale
    for axis, offset in zip(signal.axes_manager.signal_axes, (-0.75, -0.5), strict=True):
        axis.units, axis.scale, axis.offset = "1/nm", 0.25, offset
    signal.metadata.set_item("Acquisition_instrument.TEM.convergence_angle", 21.4)
    signal.metadata.General.title = "A scan"
    return signal


def test_data_cube_and_back(py4dstem, plain):
    cube = to_py4dstem(plain)
    assert isinstance(cube, py4dstem.DataCube)
    assert np.shares_memory(cube.data, plain.data)
    assert cube.data.shape == (3, 4, 5, 6)
    calibration = cube.calibration
    assert calibration.get_R_pixel_size() == pytest.approx(2)
    assert calibration.get_R_pixel_units() == "A"
    assert calibration.get_Q_pixel_size() == pytest.approx(0.025)
    assert calibration.get_Q_pixel_units() == "A^-1"
    assert calibration.get_origin() == pytest.approx((2, 3))  # row, column
    assert calibration.get_convergence_semiangle_mrad() == 21.4
    back = from_py4dstem(cube)
    assert type(back) is hs.signals.Signal2D
    assert np.shares_memory(back.data, plain.data)
    assert back.metadata.General.title == "A scan"
    assert back.metadata.Acquisition_instrument.TEM.convergence_angle == 21.4
    axes = back.axes_manager
    assert [(a.size, a.scale, a.offset, a.units) for a in axes.navigation_axes] == [
        (4, pytest.approx(2), 0, "Å"), (3, pytest.approx(2), 0, "Å")
    ]  # fmt: skip
    assert [(a.size, a.scale, a.units) for a in axes.signal_axes] == [
        (6, pytest.approx(0.025), "1/Å"), (5, pytest.approx(0.025), "1/Å")
    ]  # fmt: skip
    assert [a.offset for a in axes.signal_axes] == pytest.approx([-0.075, -0.05])


def test_data_cube_of_what_is_not_calibrated(py4dstem):
    signal = hs.signals.Signal2D(np.zeros((3, 4, 5, 6), np.uint8))
    cube = to_py4dstem(signal)
    assert cube.calibration.get_R_pixel_units() == "pixels"
    assert cube.calibration.get_Q_pixel_units() == "pixels"
    axes = from_py4dstem(cube).axes_manager._axes
    assert [(a.scale, a.offset, a.units) for a in axes] == [(1, 0, "")] * 4


def test_data_cube_of_angles(py4dstem, plain):
    for axis in plain.axes_manager.signal_axes:
        axis.units, axis.scale = "mrad", 2.0
    with pytest.raises(CalibrationError, match="beam_energy is missing"):
        to_py4dstem(plain)
    plain.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 80.0)
    # the wavelength is 0.041757 Å
    assert to_py4dstem(plain).calibration.get_Q_pixel_size() == pytest.approx(0.0478963, 1e-4)


def test_data_cube_is_refused(py4dstem, plain):
    with pytest.raises(ValueError, match=r"s\.compute\(\)"):
        to_py4dstem(plain.as_lazy())
    with pytest.raises(CalibrationError, match=r"transpose\(signal_axes=2\)"):
        to_py4dstem(plain.transpose(signal_axes=4))
    plain.axes_manager[0].scale = 1.0
    with pytest.raises(CalibrationError, match="not square"):
        to_py4dstem(plain)
    with pytest.raises(TypeError, match="DataCube.*Parallax, not ndarray"):
        from_py4dstem(plain.data)


def test_data_cube_in_a_file_stays_there(py4dstem, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        data = file.create_dataset("data", data=np.arange(360.0).reshape(3, 4, 5, 6))
        signal = from_py4dstem(py4dstem.DataCube(data=data))
        assert signal._lazy
        assert signal.inav[1, 2].isig[3, 4].data.compute() == data[2, 1, 4, 3]


def test_bragg_vectors_of_the_cube(py4dstem):
    rows, columns = np.indices((32, 40))
    spots = [(16, 20), (16, 30), (8, 20)]
    pattern = sum(np.hypot(rows - r, columns - c) < 2.6 for r, c in spots).astype("u2") * 100
    signal = hs.signals.Signal2D(np.tile(pattern, (2, 3, 1, 1)))
    signal.data[0, 0] = 100 * (np.hypot(rows - 16, columns - 20) < 2.6)  # vacuum
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cube = to_py4dstem(signal)
        # not get_vacuum_probe(), which fails on counts that are whole numbers
        probe = py4dstem.Probe(signal.inav[:1, :1].mean().data)
        probe.get_kernel(mode="sigmoid", radii=(0, 8))
        options = {"minRelativeIntensity": 0.2, "edgeBoundary": 2, "minPeakSpacing": 4}
        bragg = cube.find_Bragg_disks(template=probe.kernel, **options)
    found = bragg.raw[1, 2]
    places = sorted(zip(found.qx, found.qy, strict=True), key=lambda p: np.rint(p).tolist())
    assert np.allclose(places, sorted(spots), atol=0.2)


def test_strain_of_the_cube(py4dstem):
    """From a HyperSpy signal to py4DSTEM's strain map, without a copy."""
    scan, shape, middle, radius = (2, 3), (80, 90), (40, 45), 4.0
    rows, columns = np.indices(shape)
    data = np.zeros((*scan, *shape), np.float32)
    # the lattice is larger along the detector's columns from position to position
    stretch = (1.0, 1.01, 1.02)
    for (y, x), (h, k) in itertools.product(np.ndindex(scan), np.ndindex(5, 5)):
        row = middle[0] + 16 * (h - 2) + 3 * (k - 2)
        column = middle[1] + stretch[x] * (17 * (k - 2) - 3 * (h - 2))
        height = 1000.0 if (h, k) == (2, 2) else 300.0
        data[y, x] += height * np.clip(radius + 0.5 - np.hypot(rows - row, columns - column), 0, 1)
    signal = hs.signals.Signal2D(data)
    for axis, scale, units in zip(signal.axes_manager._axes, (2, 2, 0.1, 0.1),
                                  ("nm", "nm", "1/nm", "1/nm"), strict=True):  # fmt: skip
        axis.scale, axis.units = scale, units
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        cube = to_py4dstem(signal)
        assert np.shares_memory(cube.data, signal.data)
        probe = np.clip(radius + 0.5 - np.hypot(rows - middle[0], columns - middle[1]), 0, 1)
        probe = py4dstem.Probe(probe.astype(np.float32))
        probe.get_kernel(mode="sigmoid", origin=middle, radii=(1.2 * radius, 2.5 * radius))
        bragg = cube.find_Bragg_disks(
            template=probe.kernel, minPeakSpacing=10, edgeBoundary=6, subpixel="multicorr",
            upsample_factor=32, minRelativeIntensity=0.02, minAbsoluteIntensity=0.0,
            sigma_cc=0.5,
        )  # fmt: skip
        bragg.measure_origin(center_guess=middle)
        bragg.fit_origin(plot=False)
        bragg.calibrate()
        strain = py4dstem.StrainMap(braggvectors=bragg)
        strain.choose_basis_vectors(minSpacing=10, minRelativeIntensity=0.001, edgeBoundary=6)
        strain.set_max_peak_spacing(max_peak_spacing=4)
        strain.fit_basis_vectors()
        strain.get_strain(layout="square")
    # rows, columns, shear and rotation: larger in reciprocal space is smaller in real space
    along_rows, along_columns, _, _, mask = np.asarray(strain.data)[:5]
    assert mask.all()
    assert np.abs(along_rows - along_rows.mean()).max() < 2e-3
    assert along_columns - along_columns.mean() == pytest.approx(
        np.broadcast_to([0.01, 0.0, -0.01], scan), abs=2e-3
    )


# -- reconstructions --------------------------------------------------------------------------

DEFOCUS, ROTATION = 120.0, 12.0


@pytest.fixture(scope="module")
def scan():
    return twisted_bilayer_mos2(
        scan_shape=(9, 11), detector_shape=(48, 64), defocus=DEFOCUS, scan_rotation=ROTATION,
        dose=1e6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def square_scan():
    return twisted_bilayer_mos2(
        scan_shape=(9, 11), detector_shape=(48, 48), defocus=DEFOCUS, scan_rotation=ROTATION,
        dose=1e6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def reconstruct(py4dstem):
    """py4DSTEM's own way, from the cube that this package made."""

    def make(name, signal, *, transposed=False, n_iterations=6, **options):
        cube = to_py4dstem(signal)
        if transposed:
            cube = to_py4dstem(signal)
            cube.data = np.ascontiguousarray(np.swapaxes(cube.data, 2, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solver = getattr(py4dstem.process.phase, name)(
                datacube=cube, energy=80e3, semiangle_cutoff=21.4, defocus=DEFOCUS,
                verbose=False, **options,
            )  # fmt: skip
            solver.preprocess(
                plot_center_of_mass=False, plot_rotation=False, plot_probe_overlaps=False,
                force_com_rotation=-ROTATION, force_com_transpose=transposed,
            )  # fmt: skip
            state = np.random.get_state()
            several = {"tv_denoise": False} if "Multislice" in name else {}
            solver.reconstruct(
                num_iter=n_iterations, progress_bar=False, reset=True, max_batch_size=16,
                seed_random=0, step_size=0.5, **several,
            )  # fmt: skip
            np.random.set_state(state)
        return solver

    return make


@pytest.fixture(scope="module")
def single(reconstruct, scan):
    return reconstruct("SingleslicePtychography", scan)


def patterns(obj):
    """What an object's own arrays predict, at the nearest pixels: (positions, rows, columns)."""
    object_, probe = obj._transmission(), obj.probe.data
    assert len(object_) == 1
    rows, columns = probe.shape[1:]
    y, x = obj.axes_manager.signal_axes[::-1]
    centres = (obj.positions - (y.offset, x.offset)) / obj._pixel()
    k = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    out = []
    for place in centres:
        whole = np.rint(place).astype(int)
        shift = np.exp(-2j * np.pi * np.tensordot(place - whole, k, 1))
        moved = np.fft.ifft2(np.fft.fft2(probe) * shift)
        # py4DSTEM's object ends where it must, and a window goes on at the other side
        places = (whole[i] + np.arange(n) - n // 2 for i, n in enumerate((rows, columns)))
        seen = np.ix_(*(p % n for p, n in zip(places, object_.shape[1:], strict=True)))
        exit_wave = moved * object_[0][seen]
        spectrum = np.fft.fft2(exit_wave, norm="ortho")
        out.append(np.fft.fftshift((np.abs(spectrum) ** 2).sum(axis=0)))
    return np.array(out)


def test_single_slice(single, scan, one_thread):
    obj = from_py4dstem(single)
    assert isinstance(obj, PtychographicObject)
    ours = scan.reconstruct_ptycho(defocus=DEFOCUS, scan_rotation=ROTATION, n_iterations=6)
    # the same place in the same frame, and the same picture there
    assert np.abs(obj.positions - ours.positions).max() < 0.01
    assert np.abs(obj.positions - true_positions(scan).reshape(-1, 2)).max() < 0.01
    assert phase_correlation(obj, scan, max_shift=0.3) > 0.8
    assert phase_correlation(ours, scan, max_shift=0.3) > 0.8
    turned = obj.deepcopy()
    turned.data = turned.data[:, ::-1, ::-1]
    assert phase_correlation(turned, scan, max_shift=0.3) < 0.5
    assert obj._pixel() == pytest.approx(ours._pixel(), rel=1e-4)
    # counts, in the detector's orientation
    predicted, measured = patterns(obj), scan.data.reshape(-1, 48, 64)
    assert predicted.sum() == pytest.approx(measured.sum(dtype=float), rel=0.1)
    assert np.corrcoef(predicted.ravel(), measured.ravel())[0, 1] > 0.95
    probes = [p.data[0] / np.linalg.norm(p.data[0]) for p in (obj.probe, ours.probe)]
    assert abs(np.vdot(*probes)) > 0.9
    assert np.linalg.norm(obj.probe.data) == pytest.approx(np.linalg.norm(ours.probe.data), rel=0.1)
    values = obj.parameters
    assert values["scan_rotation"] == pytest.approx(ROTATION, abs=1e-3)
    assert values["scan_step"] == pytest.approx(0.9)
    assert [values[f"scan_{n}"] for n in ("scale", "aspect")] == pytest.approx([1, 1], abs=1e-4)
    assert values["defocus"] == DEFOCUS
    assert values["convergence_angle"] == pytest.approx(21.4)
    assert obj.scan_shape == (9, 11)
    assert obj.geometry.detector_shape == (48, 64)
    assert obj.geometry.reciprocal_pixel == pytest.approx(0.0625, rel=1e-4)
    assert len(obj.history.data) == 6


def test_transposed_detector(reconstruct, square_scan):
    solver = reconstruct("SingleslicePtychography", square_scan, transposed=True)
    obj = from_py4dstem(solver)
    assert obj.parameters["detector_flip"] == "transpose"
    assert obj.parameters["scan_rotation"] == pytest.approx(ROTATION, abs=1e-3)
    # in the frame of the detector turned back, which is that of the simulation
    assert np.abs(obj.positions - true_positions(square_scan).reshape(-1, 2)).max() < 0.01
    assert phase_correlation(obj, square_scan, max_shift=0.3) > 0.8
    assert_round_trip(solver, obj)


MODELS = [
    ("MixedstatePtychography", {"num_probes": 2}),
    ("MultislicePtychography", {"num_slices": 3, "slice_thicknesses": 4.0}),
    (
        "MixedstateMultislicePtychography",
        {"num_probes": 2, "num_slices": 3, "slice_thicknesses": 4.0, "object_type": "potential"},
    ),
]


@pytest.mark.parametrize(("name", "options"), MODELS, ids=[name for name, _ in MODELS])
def test_modes_and_slices(reconstruct, scan, name, options):
    solver = reconstruct(name, scan, n_iterations=1, **options)
    obj = from_py4dstem(solver)
    slices, modes = options.get("num_slices", 1), options.get("num_probes", 1)
    assert obj.data.shape[0] == slices
    assert obj.probe.data.shape == (modes, 48, 64)
    assert obj.parameters["n_probe_modes"] == modes
    assert obj.parameters["n_slices"] == slices
    if slices > 1:
        assert obj.parameters["thickness"] == pytest.approx(12)
        assert obj.axes_manager["slice"].scale == pytest.approx(4)
    potential = options.get("object_type") == "potential"
    theirs = np.exp(1j * solver.object) if potential else solver.object
    assert np.allclose(obj._transmission(), theirs.reshape(obj._transmission().shape), atol=1e-5)
    assert_round_trip(solver, obj)


def test_round_trip_and_pictures(single):
    obj = from_py4dstem(single)
    back = assert_round_trip(single, obj)
    assert back.object_cropped.shape == pytest.approx(single.object_cropped.shape, abs=1)
    assert np.abs(back.object_fft).max() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert back.visualize() is back
    again = from_py4dstem(back)
    assert np.allclose(again.data, obj.data)
    assert np.allclose(again.positions, obj.positions, atol=1e-3)
    for name, value in obj.parameters.items():
        if isinstance(value, str):
            assert again.parameters[name] == value
        else:
            assert again.parameters[name] == pytest.approx(value, abs=1e-3), name


def assert_round_trip(solver, obj):
    back = to_py4dstem(obj)
    assert type(back) is type(solver)
    theirs = np.exp(1j * solver.object) if solver._object_type == "potential" else solver.object
    assert np.allclose(back.object, theirs, atol=1e-5)
    order = np.argsort(-(np.abs(solver._probe) ** 2).sum(axis=(-2, -1)).ravel())
    probe = solver._probe if solver._probe.ndim == 2 else solver._probe[order]
    assert np.allclose(back._probe, probe, atol=1e-5 * np.abs(probe).max())
    assert np.allclose(back.positions, solver.positions, atol=1e-3)
    assert back._rotation_best_rad == pytest.approx(solver._rotation_best_rad, abs=1e-4)
    assert bool(back._rotation_best_transpose) == bool(solver._rotation_best_transpose)
    assert back.sampling == pytest.approx(solver.sampling, rel=1e-4)
    assert back.angular_sampling == pytest.approx(solver.angular_sampling, rel=1e-4)
    for name, value in solver._polar_parameters.items():
        if name.startswith("C") and name in ("C10", "C12", "C21", "C23", "C30"):
            assert back._polar_parameters[name] == pytest.approx(value, abs=1e-6), name
    return back


def test_our_reconstruction_in_py4dstem(py4dstem, scan, one_thread):
    obj = scan.reconstruct_ptycho(
        defocus=DEFOCUS, scan_rotation=ROTATION, C12a=15.0, C21b=-200.0, n_iterations=1,
        n_probe_modes=2,
    )  # fmt: skip
    solver = to_py4dstem(obj)
    assert type(solver) is py4dstem.process.phase.MixedstatePtychography
    assert np.allclose(solver.probe_centered * math.sqrt(48 * 64), obj.probe.data, rtol=1e-4)
    origin = np.array([a.offset for a in obj.axes_manager.signal_axes[::-1]])
    assert np.allclose(solver.positions, obj.positions - origin, atol=1e-3)
    back = from_py4dstem(solver).parameters
    # fractions of a pixel are rounded, which a small scan's rotation shows
    assert back["scan_rotation"] == pytest.approx(ROTATION, abs=0.1)
    for name in ("defocus", "C12a", "C12b", "C21a", "C21b"):
        assert back[name] == pytest.approx(obj.parameters[name], abs=1e-3), name


def test_what_py4dstem_does_not_know(py4dstem, scan, one_thread, caplog):
    """An orientation of the detector, and a run that ended before its first pass."""
    options = {"defocus": DEFOCUS, "scan_rotation": ROTATION, "n_iterations": 1}
    obj = scan.reconstruct_ptycho(**options)
    obj.metadata.Ptychography.history = {"error": np.array([])}
    assert math.isnan(to_py4dstem(obj).error)
    assert not caplog.records
    flipped = scan.reconstruct_ptycho(**options, detector_flip="transpose-rows")
    solver = to_py4dstem(flipped)
    assert solver.object.shape == flipped.data.shape[-2:]
    assert "detector_flip='transpose-rows'" in caplog.text and "flip the patterns" in caplog.text


def test_origin_of_a_crop_that_begins_at_the_zero_of_an_axis(py4dstem, plain):
    cube = to_py4dstem(plain.isig[3:, :])
    assert cube.calibration.get_origin() == pytest.approx((2, 0))


def test_positions_left_out_and_a_shape_not_known(single):
    whole = from_py4dstem(single)
    mask = np.ones((9, 11), bool)
    mask[2, 3:5] = False
    before = single._positions_px
    single._positions_px, single._positions_mask = before[mask.ravel()], mask
    try:
        part = from_py4dstem(single)
        assert np.allclose(part.positions, whole.positions, atol=1e-3)
        single._positions_px, single._positions_mask = before, None
        single._grid_scan_shape = None
        with pytest.raises(ValueError, match=r"99 positions.*scan_shape=\(scan_y, scan_x\)"):
            from_py4dstem(single)
        with pytest.raises(ValueError, match="does not fit the 99 positions"):
            from_py4dstem(single, scan_shape=(9, 10))
        assert from_py4dstem(single, scan_shape=(9, 11)).scan_shape == (9, 11)
    finally:
        single._positions_px, single._positions_mask = before, None
        single._grid_scan_shape = (9, 11)


def test_nothing_reconstructed(py4dstem):
    solver = py4dstem.process.phase.SingleslicePtychography(energy=80e3, verbose=False)
    with pytest.raises(ValueError, match=r"preprocess\(\) and reconstruct\(\) first"):
        from_py4dstem(solver)


# -- start values -----------------------------------------------------------------------------


def test_dpc(py4dstem, square_scan):
    phase = py4dstem.process.phase
    for flip in ("none", "transpose"):
        cube = to_py4dstem(square_scan)
        if flip == "transpose":
            cube.data = np.ascontiguousarray(np.swapaxes(cube.data, 2, 3))
        dpc = phase.DPC(datacube=cube, energy=80e3, verbose=False)
        with pytest.raises(ValueError, match=r"preprocess\(\)"):
            from_py4dstem(dpc)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dpc.preprocess(plot_center_of_mass=False, plot_rotation=False)
        start = from_py4dstem(dpc)
        assert start["detector_flip"] == flip
        assert start["scan_rotation"] == pytest.approx(ROTATION, abs=2)


@pytest.mark.parametrize("flip", ["none", "transpose"])
def test_parallax(py4dstem, flip):
    """Shifts of the images as the model of this package has them, fitted by py4DSTEM."""
    rng = np.random.default_rng(1)
    cube = py4dstem.DataCube(data=rng.uniform(1, 1.1, (10, 12, 16, 16)).astype(np.float32))
    # a disk off its detector's axes of symmetry would do as well
    cube.data[:] *= np.hypot(*np.indices((16, 16)) - 8) < 5
    calibration = cube.calibration
    calibration.set_R_pixel_size(2.0)
    calibration.set_R_pixel_units("A")
    calibration.set_Q_pixel_size(0.05)
    calibration.set_Q_pixel_units("A^-1")
    parallax = py4dstem.process.phase.Parallax(
        datacube=cube, energy=80e3, verbose=False, object_padding_px=(2, 2)
    )
    with pytest.raises(ValueError, match=r"aberration_fit\(\)"):
        from_py4dstem(parallax)
    true = {"scan_rotation": 25.0, "defocus": 150.0, "C12a": 30.0, "C12b": -20.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallax.preprocess(plot_average_bf=False, edge_blend=2)
        angles = parallax._probe_angles[:, ::-1] if flip == "transpose" else parallax._probe_angles
        row, column = np.asarray(angles, float).T
        # gradient of the aberrations' phase: how far an image of this direction is displaced
        gradient = np.stack([
            (-true["defocus"] - true["C12a"]) * row + true["C12b"] * column,
            (-true["defocus"] + true["C12a"]) * column + true["C12b"] * row,
        ])  # fmt: skip
        angle = math.radians(true["scan_rotation"])
        turn = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        parallax._xy_shifts = (np.array(turn) @ gradient).T / 2.0
        parallax.aberration_fit(force_transpose=flip == "transpose")
    start = from_py4dstem(parallax)
    assert start.pop("detector_flip") == flip
    assert start == pytest.approx(true, rel=1e-3)
