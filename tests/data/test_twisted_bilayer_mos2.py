"""The simulated scan: its physics against abTEM, its signs, its calibration, its truth."""

import hyperspy.api as hs
import numpy as np
import pytest

from hs_autoptycho.data import _multislice as multislice
from hs_autoptycho.data import _twisted_bilayer_mos2 as module
from hs_autoptycho.data import (
    ground_truth,
    ground_truth_probe,
    phase_correlation,
    true_positions,
    twisted_bilayer_mos2,
)

# four different sizes: that is where swapped axes show
SMALL = {"scan_shape": (5, 7), "detector_shape": (48, 64)}
ABERRATIONS = {
    "C12a": 40.0,
    "C12b": -25.0,
    "C21a": 600.0,
    "C21b": 900.0,
    "C23a": -700.0,
    "C23b": 500.0,
    "C30": 1.5e5,
}


@pytest.fixture(scope="module")
def scan():
    return twisted_bilayer_mos2(**SMALL)


def parameters_of(signal):
    return signal.metadata.Simulation.as_dictionary()


def polar(aberrations):
    """abTEM's magnitudes and angles (degrees of freedom in Å and radians)."""
    result = {"C10": -aberrations["defocus"], "C30": aberrations["C30"]}
    for order, fold in ((12, 2), (21, 1), (23, 3)):
        a, b = aberrations[f"C{order}a"], aberrations[f"C{order}b"]
        result[f"C{order}"] = np.hypot(a, b)
        result[f"phi{order}"] = np.arctan2(b, a) / fold
    return result


def abtem_patterns(parameters, positions, single_slice=False):
    """The patterns at (row, col) positions in Å, by abTEM, each in a window of its own.

    abTEM's first axis is x, the column here.
    """
    abtem = pytest.importorskip("abtem")
    n = module._grid_size(parameters)
    pixel = 1 / (n * parameters["reciprocal_pixel"])
    phases, origin = module.phase_slices(parameters, positions, n, pixel)
    sigma = multislice.interaction_parameter(parameters["beam_energy"])
    potential = phases / sigma
    thickness = [*np.diff(module.load_specimen().depths), 1.0]
    if single_slice:
        potential, thickness = potential.sum(axis=0, keepdims=True), [1.0]
    probe = abtem.Probe(
        semiangle_cutoff=parameters["convergence_angle"],
        energy=parameters["beam_energy"] * 1e3,
        extent=n * pixel,
        gpts=n,
        aberrations=polar(parameters),
    )
    vacuum = np.abs(np.fft.fft2(probe.build(lazy=False).array)) ** 2
    patterns = []
    for position in positions:
        start = np.floor((position - origin) / pixel + 0.5).astype(int) - n // 2
        window = potential[:, start[0] : start[0] + n, start[1] : start[1] + n]
        slices = abtem.PotentialArray(
            np.ascontiguousarray(window.transpose(0, 2, 1)).astype(np.float32),
            slice_thickness=tuple(map(float, thickness)),
            extent=n * pixel,
        )
        row, col = position - origin - start * pixel
        waves = probe.multislice(slices, scan=abtem.CustomScan([[col, row]]), lazy=False)
        exit_wave = np.asarray(waves.array).reshape(n, n).T
        pattern = np.fft.fftshift(np.abs(np.fft.fft2(exit_wave)) ** 2 / vacuum.sum())
        rows, cols = (n // 2 - m // 2 + np.arange(m) for m in parameters["detector_shape"])
        patterns.append(pattern[np.ix_(rows, cols)])
    return np.array(patterns)


def amplitude_error(patterns, reference):
    difference = np.sqrt(patterns) - np.sqrt(reference)
    return np.linalg.norm(difference) / np.linalg.norm(np.sqrt(reference))


class TestAgainstAbtem:
    # a wide window, because both are periodic in it and cut the specimen at its edge differently
    settings = {
        "scan_shape": (2, 3),
        "detector_shape": (96, 108),
        "reciprocal_pixel": 0.04,
        "scan_step": 1.3,
        "defocus": 120.0,
        "scan_rotation": 17.0,
        "dose": None,
        **ABERRATIONS,
    }

    @pytest.fixture(scope="class")
    @classmethod
    def simulated(cls):
        signal = twisted_bilayer_mos2(**cls.settings)
        return signal.data.reshape(6, 96, 108), parameters_of(signal)

    @staticmethod
    def positions(step, angle):
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        return np.array(
            [
                [step * (cos * slow - sin * fast), step * (sin * slow + cos * fast)]
                for slow in range(2)
                for fast in range(3)
            ]
        )

    def test_multislice(self, simulated):
        patterns, parameters = simulated
        reference = abtem_patterns(parameters, self.positions(1.3, 17.0))
        assert amplitude_error(patterns, reference) < 1e-3

    def test_single_slice(self, simulated):
        _, parameters = simulated
        positions = self.positions(1.3, 17.0)
        n = module._grid_size(parameters)
        pixel = 1 / (n * parameters["reciprocal_pixel"])
        phases, origin = module.phase_slices(parameters, positions, n, pixel)
        patterns = multislice.diffraction_patterns(
            multislice.transmission_functions(phases.sum(axis=0, keepdims=True), pixel),
            np.array([]),
            module.probe_modes(parameters, (n, n)),
            (positions - origin) / pixel,
            pixel,
            multislice.electron_wavelength(parameters["beam_energy"]),
            parameters["detector_shape"],
        )
        reference = abtem_patterns(parameters, positions, single_slice=True)
        assert amplitude_error(patterns, reference) < 1e-3

    @pytest.mark.parametrize("name", ["defocus", *ABERRATIONS])
    def test_sign_of_each_aberration(self, simulated, name):
        patterns, parameters = simulated
        flipped = {**parameters, name: -parameters[name]}
        reference = abtem_patterns(flipped, self.positions(1.3, 17.0)[:1])
        assert amplitude_error(patterns[:1], reference) > 2e-2

    def test_sign_of_rotation(self, simulated):
        # the last position is off both axes; the specimen stays where it is
        patterns, parameters = simulated
        reference = abtem_patterns(parameters, self.positions(1.3, -17.0)[-2:])
        assert amplitude_error(patterns[-1:], reference[-1:]) > 2e-2

    def test_potential(self):
        abtem, ase = pytest.importorskip("abtem"), pytest.importorskip("ase")
        specimen = module.load_specimen()
        extent, n = 12.0, 480
        yx = specimen.positions[:, :2] + extent / 2
        inside = np.all((yx > 2) & (yx < extent - 2), axis=1)
        yx, numbers = yx[inside], specimen.numbers[inside]
        pixel = extent / n
        ours = multislice.projected_potential(
            yx, numbers, specimen.scattering, (n, n), (pixel, pixel), (0.0, 0.0)
        )
        atoms = ase.Atoms(
            numbers, np.column_stack([yx[:, ::-1], np.full(len(yx), 0.5)]), cell=[extent] * 2 + [1]
        )
        atoms.pbc = True
        potential = abtem.Potential(atoms, gpts=n, slice_thickness=1, projection="infinite")
        theirs = np.asarray(potential.build(lazy=False).array).sum(axis=0).T
        k = np.fft.fftfreq(n, pixel)
        band = np.hypot(k[:, None], k) < 2.5
        band[0, 0] = False  # abTEM's potential has another zero
        a, b = np.fft.fft2(ours)[band], np.fft.fft2(theirs)[band]
        # the rest is abTEM's linear interpolation between pixels; it falls with their square
        assert np.linalg.norm(a - b) < 4e-3 * np.linalg.norm(b)

    @pytest.mark.parametrize("energy", [60.0, 80.0, 300.0])
    def test_constants(self, energy):
        abtem = pytest.importorskip("abtem")
        core = abtem.core.energy
        assert multislice.electron_wavelength(energy) == pytest.approx(
            core.energy2wavelength(energy * 1e3), rel=1e-6
        )
        assert multislice.interaction_parameter(energy) == pytest.approx(
            core.energy2sigma(energy * 1e3), rel=1e-6
        )


class TestSignal:
    def test_shape_and_axes(self, scan):
        assert scan.data.shape == (5, 7, 48, 64)
        axes = {axis.name: axis for axis in scan.axes_manager._axes}
        assert list(axes) == ["y", "x", "ky", "kx"]
        assert [axis.units for axis in axes.values()] == ["Å", "Å", "1/Å", "1/Å"]
        assert [axis.navigate for axis in axes.values()] == [True, True, False, False]
        assert axes["x"].scale == axes["y"].scale == 0.9
        assert axes["kx"].axis[32] == axes["ky"].axis[24] == 0
        assert axes["kx"].scale == axes["ky"].scale == 0.0625

    def test_metadata(self, scan):
        microscope = scan.metadata.Acquisition_instrument.TEM
        assert (microscope.beam_energy, microscope.convergence_angle) == (80, 21.4)
        assert scan.metadata.General.title == "Twisted bilayer MoS2 (simulated)"
        # what is to be found out is not where a reconstruction looks for it
        assert not microscope.has_item("scan_rotation")
        assert parameters_of(scan)["scan_rotation"] == 12
        assert parameters_of(scan)["defocus"] == 200

    def test_counts(self, scan):
        assert scan.data.dtype == np.uint16
        per_position = scan.data.sum(axis=(2, 3)).mean()
        assert per_position == pytest.approx(1e5 * 0.9**2, rel=0.02)
        assert per_position < 1e5 * 0.9**2
        assert twisted_bilayer_mos2(**SMALL, dose=500).data.dtype == np.uint8

    def test_counts_are_poisson(self, scan):
        expected = twisted_bilayer_mos2(**SMALL, dose=None).data.astype(float) * 1e5 * 0.9**2
        bright = expected > 20
        deviation = (scan.data[bright] - expected[bright]) / np.sqrt(expected[bright])
        assert abs(deviation.mean()) < 0.05
        assert deviation.std() == pytest.approx(1, abs=0.05)

    def test_without_noise(self):
        signal = twisted_bilayer_mos2(**SMALL, dose=None)
        assert signal.data.dtype == np.float32
        total = signal.data.sum(axis=(2, 3))
        assert np.all((total > 0.97) & (total < 1))

    def test_seed(self, scan):
        np.testing.assert_array_equal(twisted_bilayer_mos2(**SMALL).data, scan.data)
        other = twisted_bilayer_mos2(**SMALL, random_state=1).data
        assert np.any(other != scan.data)

    @pytest.mark.parametrize("shift", [(3, -5), (1.5, 2.25)])
    def test_beam_shift(self, shift):
        signal = twisted_bilayer_mos2(**SMALL, dose=None, beam_shift=shift)
        centred = twisted_bilayer_mos2(**SMALL, dose=None)

        def centre(data):
            bright = data.mean(axis=(0, 1))
            bright = np.where(bright > bright.max() / 2, 1.0, 0.0)
            return np.array([(bright.sum(1) @ np.arange(48)), (bright.sum(0) @ np.arange(64))]) / (
                bright.sum()
            )

        moved = centre(signal.data) - centre(centred.data)
        np.testing.assert_allclose(moved, shift, atol=0.2)
        if shift == (3, -5):
            expected = centred.data[..., 3:40, 10:60]
            np.testing.assert_allclose(signal.data[..., 6:43, 5:55], expected, atol=2e-7)

    def test_partial_coherence(self):
        signal = twisted_bilayer_mos2(**SMALL, dose=None, source_size=0.8)
        probe = ground_truth_probe(signal)
        power = (np.abs(probe.data) ** 2).sum(axis=(1, 2))
        assert len(power) > 1 and np.all(np.diff(power) <= 1e-6 * power[0])  # pairs are degenerate
        assert power.sum() == pytest.approx(1, rel=1e-5)
        # the disks' interference fades
        coherent = twisted_bilayer_mos2(**SMALL, dose=None)
        assert signal.data.std(axis=(0, 1)).sum() < 0.9 * coherent.data.std(axis=(0, 1)).sum()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"scan_shape": (80, 80), "scan_step": 1.0}, "specimen is 80 Å"),
            ({"reciprocal_pixel": 0.2}, "does not fit its window"),
            ({"defocus": 600}, "does not fit its window"),
            ({"detector_shape": (16, 64)}, "bright-field disk"),
            ({"beam_shift": (0, 28)}, "bright-field disk"),
            ({"scan_step": 0}, "scan_step must be above zero"),
            ({"dose": -1}, "dose must be above zero"),
            ({"defocus": np.nan}, "defocus must be finite"),
            ({"scan_shape": (4, 0)}, "scan_shape must be at least 1"),
            ({"scan_shape": 5}, "scan_shape must be two numbers"),
            ({"detector_shape": (48.5, 64)}, "detector_shape must be two whole numbers"),
            ({"source_size": -1}, "source_size must not be negative"),
            ({"position_jitter": -0.1}, "position_jitter must not be negative"),
        ],
    )
    def test_errors(self, change, message):
        with pytest.raises(ValueError, match=message):
            twisted_bilayer_mos2(**{**SMALL, **change})

    def test_misspelt_option(self):
        with pytest.raises(TypeError, match="defocuss"):
            twisted_bilayer_mos2(defocuss=100)


class TestPositionJitter:
    """Displaced positions, and how the truth tells them."""

    @pytest.fixture(scope="class")
    @classmethod
    def jittered(cls):
        return twisted_bilayer_mos2(**SMALL, position_jitter=0.3)

    def test_without(self, scan):
        expected = module.scan_positions(parameters_of(scan)).reshape(5, 7, 2)
        np.testing.assert_allclose(true_positions(scan), expected, atol=1e-12)

    def test_size(self):
        parameters = {"scan_shape": (90, 70), "position_jitter": 0.3, "random_state": 2}
        moved = module.displacements(parameters)
        np.testing.assert_allclose(moved.std(0), 0.3, rtol=0.05)
        np.testing.assert_allclose(moved.mean(0), 0, atol=0.02)
        assert abs(np.corrcoef(moved.T)[0, 1]) < 0.05

    def test_patterns_belong_to_the_true_positions(self, jittered):
        # noise-free patterns at the places that `true_positions` tells, simulated one by one
        parameters = {**parameters_of(jittered), "position_jitter": 0.0}
        n = module._grid_size(parameters)
        pixel = 1 / (n * parameters["reciprocal_pixel"])
        positions = true_positions(jittered)[[0, 3], [6, 1]]
        phases, origin = module.phase_slices(parameters, positions, n, pixel)
        expected = multislice.diffraction_patterns(
            multislice.transmission_functions(phases, pixel),
            np.diff(module.load_specimen().depths),
            module.probe_modes(parameters, (n, n)),
            (positions - origin) / pixel,
            pixel,
            multislice.electron_wavelength(parameters["beam_energy"]),
            parameters["detector_shape"],
        )
        counts = expected * 1e5 * 0.9**2
        bright = counts > 20
        deviation = (jittered.data[[0, 3], [6, 1]] - counts)[bright] / np.sqrt(counts[bright])
        assert deviation.std() == pytest.approx(1, abs=0.1)

    def test_seed(self, jittered):
        np.testing.assert_array_equal(
            twisted_bilayer_mos2(**SMALL, position_jitter=0.3).data, jittered.data
        )
        other = twisted_bilayer_mos2(**SMALL, position_jitter=0.3, random_state=1)
        assert np.abs(true_positions(other) - true_positions(jittered)).min() > 0

    def test_the_object_stays(self, scan, jittered):
        np.testing.assert_array_equal(ground_truth(jittered).data, ground_truth(scan).data)

    def test_part_of_a_scan(self, jittered):
        whole = true_positions(jittered)
        grid = module.scan_positions(parameters_of(jittered)).reshape(5, 7, 2)
        part = true_positions(jittered.inav[2:, 1:4])
        np.testing.assert_allclose(part, whole[1:4, 2:] - grid[1, 2], atol=1e-12)

    def test_binned(self, jittered):
        with pytest.raises(ValueError, match="does not lie on the 5 simulated positions"):
            true_positions(jittered.inav[:6, :4].rebin(scale=(2, 2, 1, 1)))


class TestTruth:
    def test_grid(self, scan):
        truth = ground_truth(scan)
        x, y = truth.axes_manager.signal_axes
        assert (x.name, y.name, x.units, y.units) == ("x", "y", "Å", "Å")
        assert x.scale == pytest.approx(1 / (64 * 0.0625))
        assert y.scale == pytest.approx(1 / (48 * 0.0625))
        assert x.offset / x.scale == pytest.approx(round(x.offset / x.scale))
        positions = module.scan_positions(parameters_of(scan))
        for axis, values in zip((y, x), positions.T, strict=True):
            assert axis.axis[0] <= values.min() - 8 and axis.axis[-1] >= values.max() + 8

    def test_atoms_are_where_the_truth_is_bright(self, scan):
        truth = ground_truth(scan)
        yx, specimen = module.specimen_in_scan(parameters_of(scan))
        heavy = yx[(specimen.numbers == 42)]
        x, y = truth.axes_manager.signal_axes
        row = np.round((heavy[:, 0] - y.offset) / y.scale).astype(int)
        col = np.round((heavy[:, 1] - x.offset) / x.scale).astype(int)
        inside = (row >= 0) & (row < y.size) & (col >= 0) & (col < x.size)
        assert inside.sum() > 50
        assert np.median(truth.data[row[inside], col[inside]]) > 3 * np.median(truth.data)

    def test_on_another_grid(self, scan):
        truth = ground_truth(scan)
        like = truth.isig[10:40, 5:25]
        np.testing.assert_allclose(
            ground_truth(scan, like=like).data, like.data, atol=1e-2 * truth.data.max()
        )

    def test_cropped_scan(self, scan):
        whole = ground_truth(scan)
        cropped = scan.inav[2:, 1:]
        moved = module.scan_positions(parameters_of(scan)).reshape(5, 7, 2)[1, 2]
        like = ground_truth(cropped)
        shifted = like.deepcopy()
        for axis, value in zip(shifted.axes_manager.signal_axes[::-1], moved, strict=True):
            axis.offset += value
        np.testing.assert_allclose(
            like.data, ground_truth(scan, like=shifted).data, atol=1e-2 * whole.data.max()
        )

    def test_saved(self, scan, tmp_path):
        scan.save(tmp_path / "scan.hspy")
        loaded = hs.load(tmp_path / "scan.hspy", lazy=True)
        np.testing.assert_array_equal(ground_truth(loaded).data, ground_truth(scan).data)
        np.testing.assert_array_equal(
            ground_truth_probe(loaded).data, ground_truth_probe(scan).data
        )

    def test_probe(self, scan):
        probe = ground_truth_probe(scan)
        assert probe.data.shape == (1, 48, 64)
        assert (np.abs(probe.data) ** 2).sum() == pytest.approx(81000)
        intensity = np.abs(probe.data[0]) ** 2
        assert intensity.sum(1) @ np.arange(48) / intensity.sum() == pytest.approx(24, abs=0.2)
        assert intensity.sum(0) @ np.arange(64) / intensity.sum() == pytest.approx(32, abs=0.2)

    def test_other_signals_have_no_truth(self):
        with pytest.raises(ValueError, match="no Simulation"):
            ground_truth(hs.signals.Signal2D(np.zeros((2, 3, 4, 5))))

    def test_units(self, scan):
        nanometres = scan.deepcopy()
        for axis in nanometres.axes_manager.navigation_axes:
            axis.scale, axis.units = axis.scale / 10, "nm"
        np.testing.assert_allclose(ground_truth(nanometres).data, ground_truth(scan).data)
        nanometres.axes_manager[0].units = "furlong"
        with pytest.raises(ValueError, match="'x' has units 'furlong'"):
            ground_truth(nanometres)


class TestPhaseCorrelation:
    def object_from(self, scan, move=(0.0, 0.0), slices=1):
        truth = ground_truth(scan)
        for axis, distance in zip(truth.axes_manager.signal_axes[::-1], move, strict=True):
            axis.offset += distance
        phase = truth.data
        wave = np.exp(1j * np.stack([phase / slices] * slices))
        image = hs.signals.ComplexSignal2D(wave)
        for new, old in zip(
            image.axes_manager.signal_axes, truth.axes_manager.signal_axes, strict=True
        ):
            new.scale, new.offset, new.units = old.scale, old.offset, old.units
        return image

    def test_of_the_truth(self, scan):
        assert phase_correlation(self.object_from(scan, slices=2), scan) > 0.999
        assert phase_correlation(ground_truth(scan), scan) > 0.999

    def test_ramp_and_shift(self, scan):
        image = self.object_from(scan, move=(0.4, -0.7))
        row, col = np.indices(image.data.shape[-2:])
        image.data = image.data * np.exp(1j * (0.3 * row - 0.17 * col + 2))
        assert phase_correlation(image, scan) > 0.98

    def test_flipped_objects_fail(self):
        # a field wide enough that the mirrored lattice does not fit it by chance
        scan = twisted_bilayer_mos2(scan_shape=(20, 18), detector_shape=(24, 24), dose=None)
        image = self.object_from(scan)
        assert phase_correlation(image, scan) > 0.999
        upright = image.data
        turned = upright[:, ::-1, ::-1]
        for flipped in (upright[:, ::-1], upright[:, :, ::-1], turned, upright.conj()):
            image.data = flipped
            assert phase_correlation(image, scan) < 0.6
