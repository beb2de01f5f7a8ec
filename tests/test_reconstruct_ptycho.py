"""`Signal2D.reconstruct_ptycho` from its front door: any signal in, a calibrated object out."""

import dask.array as da
import hyperspy.api as hs
import numba
import numpy as np
import pytest

from hs_autoptycho.calibration import CalibrationError, Geometry
from hs_autoptycho.data import ground_truth_probe, phase_correlation, twisted_bilayer_mos2
from hs_autoptycho.ptycho.loading import DataError
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError
from hs_autoptycho.signals import PtychographicObject

pytestmark = pytest.mark.usefixtures("one_thread")

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}
RUN = {**TRUE, "n_iterations": 4}
ENERGY = "Acquisition_instrument.TEM.beam_energy"


@pytest.fixture(scope="module")
def simulated():
    return twisted_bilayer_mos2(scan_shape=(9, 11), detector_shape=(48, 64), **TRUE)


@pytest.fixture
def scan(simulated):
    return simulated.deepcopy()


@pytest.fixture(scope="module")
def reference(simulated):
    return simulated.reconstruct_ptycho(**RUN, num_workers=1)


def assert_same(first, second):
    """Two results are equal to the last bit, but for where their titles came from."""
    assert type(first) is type(second) is PtychographicObject
    assert first.data.dtype == second.data.dtype == np.complex64
    assert np.array_equal(first.data, second.data)
    assert np.array_equal(first.probe.data, second.probe.data)
    assert np.array_equal(first.positions, second.positions)
    assert np.array_equal(first.history.data, second.history.data)
    for one, other in zip(
        first.axes_manager._get_axes_dicts(), second.axes_manager._get_axes_dicts(), strict=True
    ):
        assert one == other
    for name in (
        "parameters", "geometry", "status", "seed", "versions", "fingerprint", "notes", "scan_shape"
    ):  # fmt: skip
        assert getattr(first, name) == getattr(second, name), name


# --------------------------------------------------------------------- which signals, and how


def odd_chunks(signal):
    lazy = signal.as_lazy()
    lazy.data = lazy.data.rechunk(((2, 3, 4), (5, 6), (20, 28), (64,)))
    return lazy


def saved(signal, tmp_path, extension):
    path = tmp_path / f"scan.{extension}"
    signal.save(path)
    return hs.load(path)


VARIANTS = {
    "plain": lambda s, path: s,
    "deepcopy": lambda s, path: s.deepcopy(),
    "lazy": lambda s, path: s.as_lazy(),
    "lazy, odd chunks": lambda s, path: odd_chunks(s),
    "float": lambda s, path: hs.signals.Signal2D(
        s.data.astype(float),
        axes=s.axes_manager._get_axes_dicts(),
        metadata=s.metadata.as_dictionary(),
    ),
    "not contiguous": lambda s, path: hs.signals.Signal2D(
        np.asfortranarray(s.data).astype(">u2"),
        axes=s.axes_manager._get_axes_dicts(),
        metadata=s.metadata.as_dictionary(),
    ),
    "hspy": lambda s, path: saved(s, path, "hspy"),
    "zspy": lambda s, path: saved(s, path, "zspy"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_data_give_the_same_object(scan, reference, variant, tmp_path):
    signal = VARIANTS[variant](scan, tmp_path)
    before = signal.metadata.as_dictionary(), signal.axes_manager._get_axes_dicts()
    kind, lazy = type(signal), signal._lazy
    assert_same(signal.reconstruct_ptycho(**RUN), reference)
    assert (type(signal), signal._lazy) == (kind, lazy)
    assert (signal.metadata.as_dictionary(), signal.axes_manager._get_axes_dicts()) == before
    assert np.array_equal(np.asarray(signal.data), scan.data)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_pyxem_signal_is_read_and_stays_one(scan, reference, lazy):
    pytest.importorskip("pyxem")
    scan.set_signal_type("electron_diffraction")
    signal = scan.as_lazy() if lazy else scan
    kind = type(signal)
    assert kind.__name__ == ("Lazy" if lazy else "") + "ElectronDiffraction2D"
    metadata = signal.metadata.as_dictionary()
    result = signal.reconstruct_ptycho(**RUN)
    assert_same(result, reference)
    assert type(signal) is kind and signal._lazy is lazy
    assert signal.metadata.as_dictionary() == metadata
    assert np.array_equal(np.asarray(signal.data), scan.data)


def test_a_part_of_the_scan_is_a_scan(scan):
    part = scan.inav[2:9, 1:7]
    alone = hs.signals.Signal2D(
        scan.data[1:7, 2:9].copy(),
        axes=[
            {**axis, "size": size}
            for axis, size in zip(scan.axes_manager._get_axes_dicts(), (6, 7, 48, 64), strict=True)
        ],
        metadata=scan.metadata.as_dictionary(),
    )
    result = part.reconstruct_ptycho(**RUN)
    assert result.scan_shape == (6, 7)
    assert_same(result, alone.reconstruct_ptycho(**RUN))
    assert_same(result, scan.as_lazy().inav[2:9, 1:7].reconstruct_ptycho(**RUN))
    assert phase_correlation(result, part, margin=0.5) > 0.8


def test_a_part_of_the_detector_is_a_detector(scan):
    part = scan.isig[4:-4, 2:-2]
    result = part.reconstruct_ptycho(**RUN)
    assert result.geometry.detector_shape == (44, 56)
    assert result.axes_manager["x"].scale == pytest.approx(1 / (56 * 0.0625))
    assert phase_correlation(result, scan) > 0.8


@pytest.mark.parametrize(
    "navigation, signal",
    [((0.1, "nm"), (10, "1/nm")), ((1e-4, "µm"), (10, "nm^-1")), ((1, "A"), (1, "$A^{-1}$"))],
)
def test_units_of_the_axes_make_no_difference(scan, reference, navigation, signal):
    for axes, (factor, units) in (
        (scan.axes_manager.navigation_axes, navigation),
        (scan.axes_manager.signal_axes, signal),
    ):
        for axis in axes:
            axis.scale, axis.offset, axis.units = axis.scale * factor, axis.offset * factor, units
    result = scan.reconstruct_ptycho(**RUN)
    assert np.allclose(result.data, reference.data, atol=1e-4)
    assert np.allclose(result.positions, reference.positions)
    for name in ("x", "y"):
        ours, theirs = result.axes_manager[name], reference.axes_manager[name]
        assert ours.units == theirs.units == "Å"
        assert ours.scale == pytest.approx(theirs.scale)
        assert ours.offset == pytest.approx(theirs.offset)


# ----------------------------------------------------------------------------- what comes out


def test_it_is_the_true_object(simulated, reference):
    assert phase_correlation(reference, simulated) > 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"scan_rotation": -12},
        {"scan_rotation": 192},
        {"defocus": -120},
        {"detector_flip": "rows"},
        {"detector_flip": "transpose"},
        {"scan_step": 1.3},
    ],
)
def test_a_wrong_sign_or_frame_gives_another(scan, reference, wrong):
    result = scan.reconstruct_ptycho(**{**RUN, **wrong})
    assert phase_correlation(result, scan) < phase_correlation(reference, scan) - 0.25
    assert result.history.data[-1] > 1.2 * reference.history.data[-1]


def test_axes_and_positions_are_calibrated(reference):
    slices, x, y = (reference.axes_manager[name] for name in ("slice", "x", "y"))
    assert reference.axes_manager.navigation_axes == (slices,)
    assert reference.axes_manager.signal_axes == (x, y)
    assert slices.size == 1
    assert y.scale == pytest.approx(1 / (48 * 0.0625))
    assert x.scale == pytest.approx(1 / (64 * 0.0625))
    assert x.units == y.units == "Å"
    positions = reference.positions
    slow, fast = np.indices((9, 11)).reshape(2, -1)
    cos, sin = np.cos(np.radians(12)), np.sin(np.radians(12))
    expected = 0.9 * np.column_stack([cos * slow - sin * fast, sin * slow + cos * fast])
    assert np.abs(positions - expected).max() < 0.05
    assert np.allclose(positions[0], 0, atol=0.02)
    for axis, column in ((y, 0), (x, 1)):  # every window lies on the object
        half = 0.5 / 0.0625
        assert axis.axis[0] <= positions[:, column].min() - half + axis.scale
        assert axis.axis[-1] >= positions[:, column].max() + half - 2 * axis.scale


def test_the_probe_is_calibrated(simulated, reference):
    probe = reference.probe
    assert probe.data.shape == (1, 48, 64)
    for name, size, pixel in (("y", 48, 1 / 3), ("x", 64, 1 / 4)):
        axis = probe.axes_manager[name]
        assert (axis.size, axis.units) == (size, "Å")
        assert axis.scale == pytest.approx(pixel)
        assert axis.offset == pytest.approx(-(size // 2) * pixel)
    power = (np.abs(probe.data) ** 2).sum()
    counts = simulated.data.sum(axis=(2, 3)).mean()
    assert power == pytest.approx(counts, rel=0.2)
    truth = ground_truth_probe(simulated).data[0]
    overlap = abs(np.vdot(truth, probe.data[0])) / np.linalg.norm(truth) / np.sqrt(power)
    assert overlap > 0.9
    intensity = np.abs(probe.data[0]) ** 2 / power
    for name, across in (("y", 1), ("x", 0)):
        center = (intensity.sum(axis=across) * probe.axes_manager[name].axis).sum()
        assert abs(center) < 0.5


def test_modes_are_orthogonal_and_strongest_first(scan):
    result = scan.reconstruct_ptycho(**RUN, n_probe_modes=3)
    modes = result.probe.data.reshape(3, -1)
    gram = np.abs(modes.conj() @ modes.T)
    powers = np.diag(gram)
    assert np.all(np.diff(powers) <= 0) and powers[-1] > 0
    assert (gram - np.diag(powers)).max() < 1e-3 * powers[-1]
    assert result.probe_powers.sum() == pytest.approx(1)


def test_everything_used_is_recorded(simulated, reference):
    from importlib.metadata import version

    assert set(reference.parameters) == {*PARAMETERS, "n_iterations"}
    assert reference.parameters["defocus"] == 120 and reference.parameters["scan_rotation"] == 12
    assert reference.parameters["scan_step"] == pytest.approx(0.9)
    assert reference.parameters["n_iterations"] == 4
    off = {name for name, value in reference.parameters.items() if value is None}
    assert off == {name for name in PARAMETERS if name.endswith("_correction_start")} | {
        "thickness", "saturation", "early_stopping"
    }  # fmt: skip
    assert reference.parameters["noise_model"] == "poisson"
    assert isinstance(reference.geometry, Geometry)
    assert reference.geometry.scan_shape == reference.scan_shape == (9, 11)
    assert reference.geometry.detector_shape == (48, 64)
    assert reference.history.data.shape == (4,)
    assert np.all(np.diff(reference.history.data) < 0)
    assert (reference.status, reference.seed) == ("completed", 0)
    assert reference.versions["hyperspy"] == version("hyperspy")
    assert "hs_autoptycho" in reference.versions
    assert len(bytes.fromhex(reference.fingerprint)) == 32
    assert reference.metadata.General.title == simulated.metadata.General.title
    with pytest.raises(AttributeError, match="autotune_ptycho"):
        reference.trials  # noqa: B018
    other = simulated.deepcopy()
    other.data[3, 4, 5, 6] += 1
    assert other.reconstruct_ptycho(**{**RUN, "n_iterations": 1}).fingerprint != (
        reference.fingerprint
    )


def test_what_was_assumed_is_noted(scan):
    result = scan.reconstruct_ptycho(defocus=120, n_iterations=1)
    assert any("rotation" in note and "0 degrees" in note for note in result.notes)


def test_metadata_are_read_and_keywords_take_precedence(scan, reference):
    scan.metadata.set_item("Acquisition_instrument.TEM.probe_defocus", 120)
    scan.metadata.set_item("Acquisition_instrument.TEM.scan_rotation", 12)
    result = scan.reconstruct_ptycho(n_iterations=4)
    assert np.array_equal(result.data, reference.data)
    scan.metadata.set_item("Acquisition_instrument.TEM.probe_defocus", 777)
    scan.metadata.set_item("Acquisition_instrument.TEM.scan_rotation", 77)
    scan.metadata.set_item(ENERGY, 300)
    result = scan.reconstruct_ptycho(**RUN, beam_energy=80)
    assert np.array_equal(result.data, reference.data)


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
def test_a_saved_result_comes_back_equal(reference, tmp_path, extension):
    path = tmp_path / f"object.{extension}"
    reference.save(path)
    assert_same(hs.load(path), reference)


# -------------------------------------------------------------------- seeds, threads, silence


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("algorithm", ["lsq-ml", "epie"])
def test_the_number_of_threads_makes_no_difference(scan, algorithm):
    options = {**RUN, "n_iterations": 2, "algorithm": algorithm, "n_probe_modes": 2}
    before = numba.get_num_threads()
    one, two = (scan.reconstruct_ptycho(**options, num_workers=n) for n in (1, 2))
    assert numba.get_num_threads() == before
    assert_same(one, two)


def test_the_seed_decides(scan, reference):
    assert_same(scan.reconstruct_ptycho(**RUN, random_state=0), reference)
    other = scan.reconstruct_ptycho(**RUN, random_state=np.int64(1))
    assert other.seed == 1 and type(other.seed) is int
    assert not np.array_equal(other.data, reference.data)
    assert phase_correlation(other, scan) > 0.9


@pytest.mark.parametrize("random_state", [-1, 0.5, "0", True, None, 2**32])
def test_wrong_seeds(scan, random_state):
    with pytest.raises(ValueError, match="random_state="):
        scan.reconstruct_ptycho(**RUN, random_state=random_state)


def test_silent_unless_asked(scan, capfd):
    from matplotlib import pyplot

    scan.as_lazy().reconstruct_ptycho(**RUN, show_progressbar=False)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert pyplot.get_fignums() == []
    scan.as_lazy().reconstruct_ptycho(**RUN, show_progressbar=True)
    captured = capfd.readouterr()
    assert "Read" in captured.out + captured.err
    assert "Reconstruct" in captured.out + captured.err


def test_ctrl_c_keeps_what_there_is(scan, monkeypatch):
    from hs_autoptycho.ptycho import solver

    calls = []

    class Interrupted(solver.UPDATES["lsq-ml"]):
        def __call__(self, *args, **options):
            calls.append(1)
            if len(calls) == 14:  # six batches a pass: in the third
                raise KeyboardInterrupt
            super().__call__(*args, **options)

    monkeypatch.setitem(solver.UPDATES, "lsq-ml", Interrupted)
    result = scan.reconstruct_ptycho(**RUN)
    assert result.status == "interrupted"
    assert result.parameters["n_iterations"] == len(result.history.data) == 2


def test_a_diverged_run_says_so(scan):
    result = scan.reconstruct_ptycho(**RUN, step_probe=10)
    assert result.status == "diverged"


# --------------------------------------------------------------------------------- bad input


def test_unknown_keyword(scan):
    with pytest.raises(TypeError, match="'defocuss'.*Did you mean 'defocus'.*n_probe_modes"):
        scan.reconstruct_ptycho(defocuss=300)
    with pytest.raises(TypeError, match="'verbose'.*Known: beam_energy"):
        scan.reconstruct_ptycho(defocus=300, verbose=True)
    with pytest.raises(TypeError):
        scan.reconstruct_ptycho(300)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"defocus": "300"}, "defocus='300'.*Å"),
        ({"defocus": np.nan}, "defocus=nan"),
        ({"scan_rotation": 1000}, "scan_rotation=1000.*-360 to 360 degrees"),
        ({"n_probe_modes": 0}, "n_probe_modes=0.*1 to 64"),
        ({"n_probe_modes": 1.5}, "n_probe_modes=1.5.*whole"),
        ({"algorithm": "epi"}, "algorithm='epi'.*'epie'"),
        ({"detector_flip": True}, "detector_flip=True.*'transpose-both'"),
        ({"beam_energy": 200e3}, "beam_energy=200000.*keV"),
        ({"step_object": -1}, "step_object=-1"),
    ],
)
def test_wrong_values_are_named(scan, wrong, message):
    with pytest.raises(ParameterError, match=message):
        scan.reconstruct_ptycho(**{**TRUE, **wrong})


@pytest.mark.parametrize("n_iterations", [0, -3, 2.5, True, "5", None])
def test_wrong_number_of_iterations(scan, n_iterations):
    with pytest.raises(ValueError, match="n_iterations"):
        scan.reconstruct_ptycho(**{**TRUE, "n_iterations": n_iterations})


@pytest.mark.parametrize("num_workers", [0, 1.5])
def test_wrong_number_of_workers(scan, num_workers):
    with pytest.raises(ValueError, match="num_workers"):
        scan.reconstruct_ptycho(**RUN, num_workers=num_workers)


def test_numpy_integers_are_numbers(scan, reference):
    result = scan.reconstruct_ptycho(
        **{**TRUE, "n_iterations": np.int64(4), "n_probe_modes": np.int32(1)},
        num_workers=np.uint8(1),
    )
    assert_same(result, reference)


def test_unknown_defocus_says_how_to_give_it(scan):
    with pytest.raises(ParameterError, match=r"defocus=300.*autotune_ptycho"):
        scan.reconstruct_ptycho()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "value, dtype, message",
    [
        (np.nan, np.float32, r"NaN.*\(x=4, y=3\).*\(kx=6, ky=5\)"),
        (np.inf, np.float64, "infinite"),
        (-2, np.int32, r"negative.*-2.*\(x=4, y=3\)"),
        (1j, np.complex64, "complex64.*amplitude"),
    ],
)
def test_patterns_that_are_no_counts(scan, value, dtype, message, lazy):
    scan.change_dtype(dtype)
    scan.data[3, 4, 5, 6] = value
    signal = scan.as_lazy() if lazy else scan
    with pytest.raises(DataError, match=message):
        hs.signals.Signal2D.reconstruct_ptycho(signal, **RUN)


def test_empty_patterns(scan):
    scan.data[:] = 0
    with pytest.raises(DataError, match="empty"):
        scan.reconstruct_ptycho(**RUN)


def test_wrong_dimensions(scan):
    line = hs.signals.Signal2D(scan.data.reshape(-1, 48, 64))
    with pytest.raises(CalibrationError, match="reshape"):
        line.reconstruct_ptycho(**RUN)
    series = hs.signals.Signal2D(np.stack([scan.data, scan.data]))
    with pytest.raises(CalibrationError, match=r"s\.inav\[:, :, 0\]"):
        series.reconstruct_ptycho(**RUN)
    with pytest.raises(CalibrationError, match=r"even.*ky.*isig"):
        scan.isig[:, :-1].reconstruct_ptycho(**RUN)


class Untouchable:
    """A lazy scan of which not one chunk may be read."""

    def __init__(self):
        self.read = 0

    def signal(self, like):
        def chunk(block_info=None):
            self.read += 1
            raise AssertionError("a chunk was read")

        data = da.map_blocks(
            chunk, chunks=((4, 5), (11,), (48,), (64,)), dtype=like.data.dtype,
            meta=np.empty((0, 0, 0, 0), like.data.dtype),
        )  # fmt: skip
        return hs.signals.Signal2D(
            data, axes=like.axes_manager._get_axes_dicts(), metadata=like.metadata.as_dictionary()
        ).as_lazy()


def no_energy(signal):
    del signal.metadata.Acquisition_instrument.TEM.beam_energy


def no_step(signal):
    signal.axes_manager[0].units = signal.axes_manager[1].units = ""


def no_reciprocal_pixel(signal):
    signal.axes_manager[2].scale = 0


@pytest.mark.parametrize(
    "spoil, message",
    [
        (no_energy, "beam_energy is missing.*set_item"),
        (no_step, "scan_step"),
        (no_reciprocal_pixel, "kx.*scale 0"),
    ],
)
def test_missing_calibration_is_told_before_the_data_are_read(scan, spoil, message):
    untouchable = Untouchable()
    signal = untouchable.signal(scan)
    with pytest.raises(AssertionError, match="a chunk was read"):
        signal.reconstruct_ptycho(**RUN)
    assert untouchable.read
    untouchable.read = 0
    spoil(signal)
    with pytest.raises(CalibrationError, match=message):
        signal.reconstruct_ptycho(**RUN)
    assert untouchable.read == 0
    spoil(scan)
    with pytest.raises(CalibrationError, match=message):
        scan.reconstruct_ptycho(**RUN)


def test_wrong_parameters_and_data_types_are_told_before_the_data_are_read(scan):
    untouchable = Untouchable()
    signal = untouchable.signal(scan)
    with pytest.raises(ParameterError):
        signal.reconstruct_ptycho(defocus="much")
    with pytest.raises(ParameterError, match="defocus is not known"):
        signal.reconstruct_ptycho()
    signal.data = signal.data.astype(complex)
    with pytest.raises(DataError):
        signal.reconstruct_ptycho(**RUN)
    assert untouchable.read == 0


# ------------------------------------------------------------------------ what a result holds


def test_what_was_found_by_position_is_in_the_result(scan):
    obj = scan.reconstruct_ptycho(**RUN, n_variable_modes=2, intensity_correction_start=1)
    found = obj.metadata.Ptychography
    assert found.variable_modes.shape == (2, 48, 64)
    assert found.variable_modes.dtype == np.complex64
    assert found.coefficients.shape == (99, 2)
    assert found.brightness.shape == (99,)
    assert np.mean(found.brightness) == pytest.approx(1, abs=0.05)
    assert np.ptp(found.brightness) > 1e-4
    # in the frame of the probe: what they have in common with it is not in another corner
    probe = np.abs(obj.probe.data[0])
    size = np.abs(found.variable_modes[0])
    assert np.corrcoef(probe.ravel(), size.ravel())[0, 1] > 0.3


def test_what_has_no_effect_is_said(scan):
    obj = scan.reconstruct_ptycho(**TRUE, n_iterations=1, thickness=200, tilt_x=20)
    assert any(note.startswith("Without effect: thickness, tilt_x.") for note in obj.notes)
    obj = scan.reconstruct_ptycho(**TRUE, n_iterations=1, thickness=20, n_slices=2, tilt_x=2)
    assert not any("Without effect" in note for note in obj.notes)
    starts = {"position_correction_start": 2, "intensity_correction_start": 1, "probe_start": 5}
    obj = scan.reconstruct_ptycho(**TRUE, n_iterations=2, **starts)
    late = "Not begun within 2 iterations: probe_start, position_correction_start."
    assert late in obj.notes


def test_a_scan_of_two_steps_as_its_error_advises(scan):
    thinned = scan.inav[::2]
    with pytest.raises(CalibrationError, match="not square") as caught:
        thinned.reconstruct_ptycho(**RUN)
    advice = str(caught.value).rsplit("give `", 1)[1].rstrip("`.")
    step, aspect = (float(part.split("=")[1]) for part in advice.split(", "))
    obj = thinned.reconstruct_ptycho(**TRUE, n_iterations=1, scan_step=step, scan_aspect=aspect)
    grid = obj.positions.reshape(*obj.scan_shape, 2)
    length = scan.axes_manager["x"].scale * {"nm": 10, "Å": 1}[scan.axes_manager["x"].units]
    assert np.linalg.norm(grid[1, 0] - grid[0, 0]) == pytest.approx(length, rel=0.02)
    assert np.linalg.norm(grid[0, 1] - grid[0, 0]) == pytest.approx(2 * length, rel=0.02)


def test_a_detector_without_units_is_told_what_the_disk_implies(scan):
    for axis in scan.axes_manager.signal_axes:
        axis.units, axis.scale, axis.offset = "", 1.0, 0.0
    with pytest.raises(CalibrationError, match="reciprocal_pixel is missing.*would imply"):
        scan.reconstruct_ptycho(**RUN)


def test_a_scan_without_overlap_is_doubted(scan, reference):
    assert not any("have next to nothing in common" in note for note in reference.notes)
    for axis in scan.axes_manager.navigation_axes:
        axis.scale *= 10  # nm for Å
    obj = scan.reconstruct_ptycho(**TRUE, n_iterations=1)
    (note,) = (note for note in obj.notes if "have next to nothing in common" in note)
    width = float(note.split("about ")[1].split(" Å wide")[0])
    # the outermost rays of the measured disk, and Airy's disk
    angle = 1e-3 * reference.geometry.measured_convergence_angle
    airy = 1.22 * reference.geometry.wavelength / angle
    assert "Steps of 9 Å" in note
    assert width == pytest.approx(np.hypot(2 * 120 * angle, airy), rel=2e-3)


def test_a_rotation_that_is_not_known_is_a_warning(scan, caplog):
    scan.reconstruct_ptycho(defocus=120, n_iterations=1)
    assert any("estimate_geometry" in r.message for r in caplog.records if r.levelname == "WARNING")
    caplog.clear()
    scan.reconstruct_ptycho(**TRUE, n_iterations=1)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
