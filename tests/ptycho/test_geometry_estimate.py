"""Geometry of a scan without a reconstruction: against simulated scans whose truth is known."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.center_of_mass import mass_centers, rotation_without_curl
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.geometry_estimate import GeometryEstimate, estimate, flip_matrix
from hs_autoptycho.ptycho.geometry_search import jackknife, refine_with_windows
from hs_autoptycho.ptycho.patterns import DETECTOR_FLIPS, flip_detector, flip_point
from hs_autoptycho.ptycho.positions import scan_positions
from hs_autoptycho.ptycho.probe import beam_frequencies, disk_aperture, make_probe
from hs_autoptycho.ptycho.sidebands import Stack, bright_field_stack, displacement_matrix

SCAN, WINDOW, STEP, DK, ENERGY, ANGLE = (22, 26), (40, 44), 2.0, 0.034, 80.0, 20.0
INVERSE = {"transpose-rows": "transpose-columns", "transpose-columns": "transpose-rows"}
TRUTH = {"scan_rotation": 12.0, "defocus": 400.0, "C12a": 20.0, "C12b": -30.0}


def simulate(*, scan=SCAN, step=STEP, dose=1e4, strength=0.3, seed=0, flip="none", **values):
    """Counts of a random phase object, as recorded by a detector that needs `flip`."""
    rng = np.random.default_rng(seed)
    values = {**TRUTH, **values}
    rotation = values.pop("scan_rotation")
    geometry = Geometry(
        beam_energy=ENERGY, scan_shape=scan, detector_shape=WINDOW, scan_step=step,
        reciprocal_pixel=DK, convergence_angle=ANGLE, disk_radius=ANGLE * 1e-3 / 0.041757 / DK,
        disk_center=tuple(n // 2 for n in WINDOW),
    )  # fmt: skip
    pixel = np.array(geometry.object_pixel)
    positions = scan_positions(scan, step, rotation=rotation) / pixel
    positions -= positions.min(0)
    shape = np.ceil(positions.max(0)).astype(int) + np.array(WINDOW) + 1
    f = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    phase = scipy.fft.fft2(rng.normal(size=shape)) * np.exp(-50 * (f[0] ** 2 + f[1] ** 2))
    phase = scipy.fft.ifft2(phase).real
    views = np.lib.stride_tricks.sliding_window_view(
        np.exp(1j * strength * phase / phase.std()), WINDOW
    )
    k = beam_frequencies(WINDOW, tuple(pixel))
    aperture = disk_aperture(*k, ANGLE * 1e-3 / geometry.wavelength)
    probe = scipy.fft.fft2(make_probe(aperture, *k, geometry.wavelength, **values))
    whole = np.floor(positions).astype(int)
    y, x = (positions - whole).T[:, :, None, None]
    f = np.fft.fftfreq(WINDOW[0])[:, None], np.fft.fftfreq(WINDOW[1])
    probes = scipy.fft.ifft2(probe * np.exp(-2j * np.pi * (y * f[0] + x * f[1])))
    patterns = np.abs(scipy.fft.fft2(probes * views[whole[:, 0], whole[:, 1]])) ** 2
    patterns = scipy.fft.fftshift(patterns / patterns.sum((1, 2)).mean(), axes=(1, 2))
    counts = rng.poisson(patterns * dose).astype(np.uint16)
    back = INVERSE.get(flip, flip)
    return Experiment(np.ascontiguousarray(flip_detector(counts, back)), geometry.flipped(back))


@pytest.fixture(scope="module")
def experiment():
    return simulate()


@pytest.fixture(scope="module")
def found(experiment):
    return estimate(experiment)


def assert_right(found, *, errors=5.0, **truth):
    """Within so many standard errors of the truth, and standard errors that say something."""
    for name, value in {**TRUTH, **truth}.items():
        error = getattr(found, f"{name}_error")
        apart = getattr(found, name) - value
        if name == "scan_rotation":
            apart = (apart + 180) % 360 - 180
        assert abs(apart) < errors * error, name
        assert error < (2 if name == "scan_rotation" else 12), name


def matrix(values, flip):
    """What displaces the images of the detector as it is, in Å."""
    point = [values[name] for name in ("defocus", "C12a", "C12b")]
    return displacement_matrix(np.radians(values["scan_rotation"]), *point) @ flip_matrix(flip)


class TestSimulated:
    def test_all_values(self, found):
        assert_right(found)
        assert found.detector_flip == "none" and found.alternatives == ()
        assert found.residual < 0.15

    @pytest.mark.parametrize(
        "truth",
        [
            {"scan_rotation": -100.0, "defocus": 250.0, "C12a": -25.0, "C12b": 10.0},
            {"scan_rotation": 171.0, "defocus": 600.0, "C12a": 60.0, "C12b": 60.0},
        ],
    )
    def test_other_values(self, truth):
        assert_right(estimate(simulate(**truth)), **truth)

    @pytest.mark.parametrize("flip", list(DETECTOR_FLIPS))
    def test_flips(self, flip):
        experiment = simulate(flip=flip, dose=3e3)
        found = estimate(experiment)
        mirrored = np.linalg.det(flip_matrix(flip)) < 0
        assert found.detector_flip == ("transpose" if mirrored else "none")
        expected = matrix(TRUTH, flip)
        assert np.abs(matrix(found.to_dict(), found.detector_flip) - expected).max() < 12

    @pytest.mark.parametrize("flip", ["columns", "transpose-rows"])
    def test_flip_that_is_known(self, flip):
        found = estimate(simulate(flip=flip), held={"detector_flip": flip})
        assert_right(found)
        assert found.detector_flip == flip

    def test_errors_are_as_large_as_they_say(self):
        squares = []
        for seed in range(5):
            found = estimate(simulate(seed=seed, dose=1e3), held={"detector_flip": "none"})
            squares.append(
                [((getattr(found, n) - v) / getattr(found, f"{n}_error")) ** 2
                 for n, v in TRUTH.items()]
            )  # fmt: skip
        assert 0.5 < np.sqrt(np.mean(squares)) < 2

    def test_fewer_counts_larger_errors(self, found):
        few = estimate(simulate(dose=300), held={"detector_flip": "none"})
        assert_right_or_unknown(few)
        assert few.scan_rotation_error > 2 * found.scan_rotation_error

    def test_overfocus_is_the_conjugate_solution(self):
        found = estimate(simulate(scan_rotation=20.0, defocus=-400.0))
        assert_right(found, scan_rotation=-160.0, C12a=-20.0, C12b=30.0)
        assert f"{found.scan_rotation + 180:.1f} degrees" in found.notes[0]

    def test_in_focus(self):
        found = estimate(simulate(step=0.7, defocus=0.0, C12a=0.0, C12b=0.0))
        assert abs(found.defocus) < 5 * found.defocus_error < 20
        assert abs(np.sin(np.radians(found.scan_rotation - 12))) < 0.1
        (turned,) = found.alternatives
        assert abs(turned["scan_rotation"] - found.scan_rotation) == pytest.approx(180)

    def test_is_the_same_every_time(self, experiment, found):
        assert estimate(experiment) == found


def assert_right_or_unknown(found):
    if found.defocus is not None:
        assert_right(found)


class TestHeld:
    def test_rotation_gives_the_sign(self, experiment):
        found = estimate(experiment, held={"scan_rotation": -168.0})
        assert (found.scan_rotation, found.scan_rotation_error) == (pytest.approx(-168), 0)
        assert_close = {"defocus": -400.0, "C12a": -20.0, "C12b": 30.0}
        for name, value in assert_close.items():
            assert getattr(found, name) == pytest.approx(value, abs=12)
        assert not any("assumed" in note for note in found.notes)

    def test_defocus_gives_the_sign(self, experiment):
        found = estimate(experiment, held={"defocus": -400.0, "n_slices": 2})
        assert (found.defocus, found.defocus_error) == (pytest.approx(-400), 0)
        assert found.scan_rotation == pytest.approx(-168, abs=1)

    def test_metadata_gives_the_sign(self, experiment):
        known = replace(experiment.geometry, defocus=-100.0)
        found = estimate(Experiment(experiment.counts, known))
        assert found.defocus == pytest.approx(-400, abs=10)
        assert found.scan_rotation == pytest.approx(-168, abs=1)

    def test_scan_step(self, experiment):
        found = estimate(experiment, held={"scan_step": 2 * STEP, "detector_flip": "none"})
        # not twice as much: the diffracted disks would overlap elsewhere
        assert found.defocus is None or found.defocus == pytest.approx(800, rel=0.1)

    def test_everything(self, experiment):
        found = estimate(experiment, held={**TRUTH, "detector_flip": "none"})
        assert {n: getattr(found, n) for n in TRUTH} == pytest.approx(TRUTH)
        assert all(getattr(found, f"{n}_error") == 0 for n in TRUTH)


class TestRecording:
    def test_dead_and_hot_pixels_and_background(self, experiment):
        counts = experiment.counts.copy()
        rng = np.random.default_rng(1)
        dark = np.full(counts.shape[1:], 2.0)
        counts += rng.poisson(dark, counts.shape).astype(counts.dtype)
        mask = rng.random(counts.shape[1:]) > 0.06
        counts[:, ~mask] = rng.integers(0, 2, (len(counts), (~mask).sum())) * 5000
        assert_right(estimate(Experiment(counts, experiment.geometry, mask, dark)))

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_types(self, experiment, found, dtype):
        other = estimate(Experiment(experiment.counts.astype(dtype), experiment.geometry))
        assert experiment.counts.max() < 256
        assert other.defocus == pytest.approx(found.defocus, rel=1e-4)

    def test_off_centre_beam(self, experiment):
        moved = np.roll(experiment.counts, (2, -3), axis=(1, 2))
        center = tuple(np.array(experiment.geometry.disk_center) + (2, -3))
        assert_right(estimate(Experiment(moved, replace(experiment.geometry, disk_center=center))))


class TestNothingToTell:
    def test_no_structure(self):
        found = estimate(simulate(strength=0.0))
        assert (found.scan_rotation, found.defocus, found.C12a, found.detector_flip) == (None,) * 4
        assert "bright-field images do not show the motion" in found.notes[0]
        assert "not found" in str(found)

    def test_no_noise_either(self):
        experiment = simulate(strength=0.0)
        flat = np.repeat(experiment.counts[:1], len(experiment.counts), 0).astype(np.float32)
        assert estimate(Experiment(flat, experiment.geometry)).defocus is None

    def test_small_disk(self, experiment):
        small = replace(experiment.geometry, disk_radius=0.8)
        assert estimate(Experiment(experiment.counts, small)).defocus is None

    def test_small_scan(self):
        assert estimate(simulate(scan=(6, 9))).defocus is None

    def test_what_is_held_stays(self):
        found = estimate(simulate(strength=0.0), held={"scan_rotation": 5.0, "defocus": 30.0})
        assert (found.scan_rotation, found.defocus, found.C12a) == (5, 30, None)
        assert (found.scan_rotation_error, found.defocus_error) == (0, 0)


def test_a_fine_scan_is_not_taken_for_a_coarse_one(found):
    assert not any("coarser" in note for note in found.notes)


def test_noise_is_no_lattice_finer_than_the_scan():
    found = estimate(simulate(strength=0.0, step=4.0, dose=1e3, scan=(14, 17)))
    assert found.defocus is None and found.scan_rotation is None


def test_crystal():
    """Two layers, whose middle is 4.7 Å below the plane of the stated defocus."""
    from hs_autoptycho._scan import read_scan
    from hs_autoptycho.data import twisted_bilayer_mos2

    scan = twisted_bilayer_mos2(scan_rotation=-100.0, defocus=200.0, C12a=10.0)
    found = estimate(read_scan(scan, {}, False).experiment)
    assert found.scan_rotation == pytest.approx(-100, abs=0.5)
    assert found.defocus is None or abs(found.defocus - 195.3) < 5 * found.defocus_error
    assert found.C12a is None or abs(found.C12a - 10) < 5 * found.C12a_error


class TestResult:
    def test_dictionary(self, found):
        values = found.to_dict()
        assert set(values) == {f.name for f in dataclasses.fields(GeometryEstimate)}
        assert json.loads(json.dumps(values)) == values

    def test_table(self, found):
        text = str(found)
        assert repr(found) == text
        assert f"{found.scan_rotation:.1f}" in text and "±" in text and "Å" in text

    def test_frozen(self, found):
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.defocus = 3.0


@pytest.mark.parametrize("flip", list(DETECTOR_FLIPS))
def test_flip_matrix(flip):
    point, center = (3.0, 9.0), (19.5, 21.5)  # the middle of a detector of 40 × 44
    moved = np.array(flip_point(point, WINDOW, flip)) - flip_point(center, WINDOW, flip)
    assert moved == pytest.approx(flip_matrix(flip) @ (np.array(point) - center))


class TestDisplacedImages:
    """One image, displaced by a known matrix: as where the disks at ±Q are all but that at 0."""

    POINT = np.array([np.radians(33.0), 3.0, 0.3, -0.4])

    def stack(self, noise=0.3, seed=0):
        rng = np.random.default_rng(seed)
        shape = (30, 36)
        q = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
        spectrum = np.fft.fft2(rng.normal(size=shape)) * np.exp(-((np.hypot(*q) / 0.2) ** 2))
        places = np.stack(np.meshgrid(*[np.arange(-4, 5) / 5] * 2, indexing="ij"), -1)
        places = places.reshape(-1, 2)[np.hypot(*places.reshape(-1, 2).T) < 0.9]
        shifts = places @ displacement_matrix(*self.POINT).T
        images = [np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (q[0] * a + q[1] * b))).real
                  for a, b in shifts]  # fmt: skip
        images = np.array(images) / np.std(images) + noise * rng.normal(size=(len(shifts), *shape))
        return Stack(images.astype(np.float32), places, np.ones(len(places)), 1e-3, 0.1)

    def test_matrix(self):
        free = np.ones(4, bool)
        start = self.POINT + (0.1, 0.3, -0.2, 0.2)
        images, point = refine_with_windows(self.stack(), start, free)
        expected = displacement_matrix(*self.POINT)
        assert displacement_matrix(*point) == pytest.approx(expected, abs=0.04)
        assert np.median(np.linalg.norm(images.residuals(point), axis=1)) < 0.1

    def test_conjugate_has_the_same_merit(self):
        images = self.stack().transform()
        turned = np.array([self.POINT[0] + np.pi, *-self.POINT[1:]])
        one, other = images.merits(self.POINT), images.merits(turned)
        assert one == pytest.approx(other, rel=1e-3)
        assert one.sum() > 1.5 * images.merits(self.POINT + (0, 3, 0, 0)).sum()

    def test_held_parameters_have_no_error(self):
        images = self.stack().transform()
        free = np.array([True, False, True, False])
        point, covariance = jackknife(images, self.POINT, free)
        assert (point[[1, 3]] == self.POINT[[1, 3]]).all()
        assert (np.diag(covariance) > 0).tolist() == free.tolist()


def test_residual_finds_the_image_that_moved():
    experiment = simulate()
    g = experiment.geometry
    stack = bright_field_stack(
        experiment.counts, g.scan_shape, center=g.disk_center, radius=g.disk_radius,
        reach=1 / (g.scan_step * g.disk_radius * g.reciprocal_pixel),
    )  # fmt: skip
    scale = ANGLE * 1e-3 / STEP
    point = np.array([np.radians(12), *(scale * TRUTH[n] for n in ("defocus", "C12a", "C12b"))])
    before = stack.transform(stack.places @ displacement_matrix(*point).T).residuals(point)
    moved = scipy.ndimage.fourier_shift(scipy.fft.fft2(stack.images[70]), (0, 0.3))
    stack.images[70] = scipy.fft.ifft2(moved).real
    after = stack.transform(stack.places @ displacement_matrix(*point).T).residuals(point)
    assert after[70] - before[70] == pytest.approx([0, 0.3], abs=0.12)
    assert np.abs(np.delete(after - before, 70, 0)).max() < 0.05


class TestCenterOfMass:
    def field(self, rotation, mirrored=False, noise=0.0):
        """Gradient of a random phase over the scan, in the detector's frame."""
        rng = np.random.default_rng(3)
        shape = (30, 38)
        q = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
        spectrum = np.fft.fft2(rng.normal(size=shape)) * np.exp(-((np.hypot(*q) / 0.15) ** 2))
        gradient = np.stack([np.fft.ifft2(2j * np.pi * f * spectrum).real for f in q], -1)
        cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
        field = gradient @ np.array([[cos, -sin], [sin, cos]]).T
        field = field / field.std() + noise * rng.normal(size=field.shape)
        return field[..., ::-1] if mirrored else field

    @pytest.mark.parametrize("rotation", [-80.0, -10.0, 0.0, 45.0, 120.0])
    def test_rotation(self, rotation):
        found = rotation_without_curl(self.field(rotation, noise=0.2))
        apart = (found.rotation - rotation + 90) % 180 - 90
        assert abs(apart) < max(4 * found.error, 0.5) < 6
        assert found.curl.sum() < 0.1

    def test_handedness(self):
        right, wrong = (rotation_without_curl(self.field(30.0, mirrored)) for mirrored in (0, 1))
        assert wrong.curl.sum() > 10 * right.curl.sum()

    def test_nothing(self):
        assert rotation_without_curl(np.ones((12, 14, 2))) is None
        assert rotation_without_curl(self.field(0.0)[:5]) is None

    def test_mass_centers(self):
        rng = np.random.default_rng(0)
        counts = rng.poisson(4.0, (7, 10, 12)).astype(np.uint8)
        counts[3, 8, 2] += 100
        found = mass_centers(counts, (4.0, 5.0))
        row, column = np.indices((10, 12))
        moments = np.array([[(c * (row - 4.0)).sum(), (c * (column - 5.0)).sum()] for c in counts])
        expected = (moments - moments.mean(0)) / counts.mean(0).sum()
        assert found == pytest.approx(expected, rel=1e-4)
        mask = np.ones((10, 12), bool)
        mask[8, 2] = False
        assert abs(mass_centers(counts, (4.0, 5.0), mask)[3, 0]) < abs(found[3, 0]) / 3

    def test_of_patterns(self):
        """A phase object's: no curl with the scan's rotation, whatever the defocus."""
        experiment = simulate(defocus=60.0, step=0.8)
        field = mass_centers(experiment.counts, experiment.geometry.disk_center)
        found = rotation_without_curl(field.reshape(*SCAN, 2))
        assert abs((found.rotation - 12 + 90) % 180 - 90) < max(4 * found.error, 2) < 20


@pytest.mark.parametrize("scan", [(8, 11), (10, 30)])
def test_a_few_rows_are_survived(scan):
    # the shifts of outer images are as large as the scan: their windows hold nothing
    found = estimate(simulate(scan=scan, defocus=900.0))
    assert found.defocus is None or np.isfinite(found.defocus_error)
