"""An experiment: what is filled in, what is refused, and the detector's orientation."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.parameters import CORRECTIONS, PARAMETERS, ParameterError
from hs_autoptycho.ptycho.patterns import DETECTOR_FLIPS, flip_detector, flip_point
from hs_autoptycho.ptycho.remarks import probe_spill

pytestmark = pytest.mark.usefixtures("one_thread")

SCAN = (6, 8)
DETECTOR = (32, 40)
DK = 0.05
INVERSE = {"transpose-rows": "transpose-columns", "transpose-columns": "transpose-rows"}


def geometry(**changes):
    values = {
        "beam_energy": 80.0,
        "scan_shape": SCAN,
        "detector_shape": DETECTOR,
        "scan_step": 1.2,
        "reciprocal_pixel": DK,
        "convergence_angle": 17.0,
        "disk_center": (16.0, 20.0),
        "disk_radius": 8.0,
        "scan_rotation": 14.0,
        "defocus": 90.0,
    }
    return Geometry(**{**values, **changes})


def simulate(beam=(0, 0), dtype=np.uint16):
    """Patterns (positions, rows, columns) in plain numpy, the beam moved by whole pixels."""
    g = geometry()
    rng = np.random.default_rng(0)
    pixel = np.array(g.object_pixel)
    cos, sin = np.cos(np.deg2rad(g.scan_rotation)), np.sin(np.deg2rad(g.scan_rotation))
    slow, fast = (i.ravel() for i in np.indices(SCAN))
    positions = (
        g.scan_step * np.stack([cos * slow - sin * fast, sin * slow + cos * fast], 1) / pixel
    )
    positions += 20 - positions.min(0)
    shape = np.ceil(positions.max(0) + 24).astype(int)
    phase = gaussian_filter(rng.normal(size=shape), 1.6)
    object_ = np.exp(0.4j * phase / phase.std())
    frequency = np.meshgrid(*(np.fft.fftfreq(n) for n in DETECTOR), indexing="ij")
    squared = (frequency[0] / pixel[0]) ** 2 + (frequency[1] / pixel[1]) ** 2
    aperture = np.clip(8.5 - np.sqrt(squared) / DK, 0, 1)
    spectrum = aperture * np.exp(1j * np.pi * g.wavelength * g.defocus * squared)
    patterns = []
    for position in positions:
        whole = np.floor(position).astype(int)
        dy, dx = position - whole
        ramp = np.exp(-2j * np.pi * (dy * frequency[0] + dx * frequency[1]))
        probe = np.fft.fftshift(np.fft.ifft2(spectrum * ramp))
        y, x = whole - np.array(DETECTOR) // 2
        view = object_[y : y + DETECTOR[0], x : x + DETECTOR[1]]
        patterns.append(np.fft.fftshift(np.abs(np.fft.fft2(probe * view)) ** 2))
    patterns = np.roll(patterns, beam, axis=(1, 2))
    counts = rng.poisson(patterns / patterns.sum((1, 2)).mean() * 50000)
    return counts.astype(dtype)


@pytest.fixture(scope="module")
def experiment():
    return Experiment(simulate(), geometry())


def fit(experiment, n_iterations=15, **parameters):
    result, _ = experiment.fit(parameters, n_iterations=n_iterations)
    return result


def similarity(one, other):
    """Of the phases of two objects, where the beam was, apart from a constant."""
    inside = np.s_[0, 18:-18, 22:-22]
    phases = [np.angle(o[inside] / o[inside].mean()).ravel() for o in (one, other)]
    return np.corrcoef(*phases)[0, 1]


class TestComplete:
    def test_from_the_geometry(self, experiment):
        values = experiment.complete({})
        assert set(values) == set(PARAMETERS)
        g = experiment.geometry
        for name in ("beam_energy", "reciprocal_pixel", "scan_step", "scan_rotation", "defocus"):
            assert values[name] == getattr(g, name)
        # the disk as it was measured, not as it was stated
        assert values["convergence_angle"] == pytest.approx(8 * DK * 1e3 * g.wavelength)
        assert values["convergence_angle"] != g.convergence_angle

    def test_defaults(self, experiment):
        values = experiment.complete({})
        off = {name for name, value in values.items() if value is None}
        assert off == {"thickness", "saturation", "early_stopping"} | {
            f"{name}_correction_start" for name in CORRECTIONS
        }
        assert (values["detector_flip"], values["n_probe_modes"]) == ("none", 1)
        assert (values["algorithm"], values["aperture"]) == ("lsq-ml", "measured")
        assert (values["scan_scale"], values["scan_shear"], values["scan_aspect"]) == (1, 0, 1)
        assert (values["step_object"], values["step_probe"]) == (1, 1)
        assert values["batch_size"] == 16

    def test_defaults_that_depend(self, experiment):
        values = experiment.complete({"algorithm": "epie", "convergence_angle": 16.0})
        assert (values["batch_size"], values["step_object"], values["step_probe"]) == (1, 0.3, 0.3)
        assert values["aperture"] == "disk" and values["convergence_angle"] == 16
        both = {"convergence_angle": 16.0, "aperture": "measured"}
        assert experiment.complete(both)["aperture"] == "measured"

    def test_noise_model(self, experiment):
        floats = experiment.with_counts(experiment.counts / 3)
        assert experiment.counted and not floats.counted
        assert experiment.complete({})["noise_model"] == "poisson"
        assert floats.complete({})["noise_model"] == "amplitude"

    def test_given_values_win(self, experiment):
        given = {"defocus": -30.0, "scan_step": 2.0, "batch_size": 5, "noise_model": "amplitude"}
        assert given.items() <= experiment.complete(given).items()
        assert given == {
            "defocus": -30.0, "scan_step": 2.0, "batch_size": 5, "noise_model": "amplitude"
        }  # fmt: skip

    def test_unknown_defocus(self, experiment):
        unknown = Experiment(experiment.counts, geometry(defocus=None))
        with pytest.raises(ParameterError, match="defocus=300.*autotune_ptycho"):
            unknown.complete({})
        assert unknown.complete({"defocus": 0.0})["defocus"] == 0


class TestStart:
    def test_absurd_size(self, experiment):
        with pytest.raises(ParameterError) as error:
            experiment.start(experiment.complete({"scan_step": 1e5}))
        message = str(error.value)
        assert "scan step (100000 Å)" in message and "0.05 1/Å" in message and "pixels" in message

    def test_probe(self, experiment):
        placement, modes = experiment.start(experiment.complete({"n_probe_modes": 3}))
        assert modes.shape == (3, *DETECTOR) and len(placement.corners) == 48
        strongest = np.abs(modes[0]) ** 2
        row, column = np.indices(DETECTOR)
        center = [(strongest * i).sum() / strongest.sum() for i in (row, column)]
        np.testing.assert_allclose(center, (16, 20), atol=0.3)

    @pytest.mark.parametrize(
        "change", [{"defocus": 150.0}, {"C12a": 30.0}, {"C30": 1e6}, {"convergence_angle": 12.0}]
    )
    def test_parameters_reach_the_probe(self, experiment, change):
        one, other = (experiment.start(experiment.complete(c))[1] for c in ({}, change))
        assert np.abs(np.vdot(one, other)) < 0.98

    @pytest.mark.parametrize(
        "change",
        [
            {"scan_step": 1.3},
            {"scan_rotation": -14.0},
            {"scan_scale": 1.1},
            {"scan_shear": 3.0},
            {"scan_aspect": 1.1},
        ],
    )
    def test_parameters_reach_the_positions(self, experiment, change):
        one, other = (experiment.start(experiment.complete(c))[0] for c in ({}, change))
        assert np.any(one.corners - one.corners[0] != other.corners - other.corners[0])

    def test_spill(self):
        wave = np.zeros((2, 20, 40))
        wave[0, 10, 20], wave[1, 10, 3] = 3, 1
        assert probe_spill(wave) == pytest.approx(0.1)
        assert probe_spill(np.ones((20, 40))) == pytest.approx(1 - 0.8 * 0.8)


class TestFit:
    def test_patterns_are_kept(self, experiment):
        first = experiment.patterns("none")
        assert experiment.patterns("none") is first
        assert experiment.patterns("rows") is not first

    def test_counts_by_another_name(self, experiment):
        one = fit(experiment, 3)
        other = fit(experiment.with_counts(experiment.counts.astype(np.int32)), 3)
        np.testing.assert_array_equal(one.object, other.object)

    def test_callback_and_seed(self, experiment):
        seen = []
        results = [
            experiment.fit({}, n_iterations=3, random_state=s, callback=lambda *a: seen.append(a))[
                0
            ]
            for s in (1, 1, 2)
        ]
        assert len(seen) == 9
        np.testing.assert_array_equal(results[0].object, results[1].object)
        assert np.any(results[0].object != results[2].object)

    def test_right_geometry_fits_best(self, experiment):
        right = fit(experiment, 30).errors[-1]
        for wrong in ({"scan_rotation": -14.0}, {"defocus": -90.0}, {"detector_flip": "rows"}):
            held = fit(experiment, 30, **wrong).errors[-1]
            assert held > 1.3 * right, wrong

    @pytest.mark.parametrize("flip", DETECTOR_FLIPS)
    def test_flipped_detector(self, experiment, flip):
        """A detector mounted otherwise, and told so, gives the same object."""
        reference = fit(experiment)
        counts = np.ascontiguousarray(flip_detector(experiment.counts, flip))
        center = flip_point(experiment.geometry.disk_center, DETECTOR, flip)
        mounted = Experiment(counts, geometry(detector_shape=counts.shape[1:], disk_center=center))
        result = fit(mounted, detector_flip=INVERSE.get(flip, flip))
        np.testing.assert_allclose(result.object, reference.object, atol=1e-5)
        np.testing.assert_allclose(result.errors, reference.errors, rtol=1e-5)
        if flip != "none":
            untold = fit(mounted)
            assert untold.errors[-1] > 1.1 * reference.errors[-1]

    def test_off_centre_beam(self, experiment):
        beam = (3, -4)
        moved = Experiment(simulate(beam), geometry(disk_center=(19.0, 16.0)))
        reference, result = fit(experiment), fit(moved)
        assert similarity(result.object, reference.object) > 0.98
        # a beam centre that is not the true one puts a ramp on the object
        unaware = fit(Experiment(simulate(beam), geometry()))
        assert unaware.errors[-1] > 1.1 * result.errors[-1]


class TestDetector:
    @pytest.fixture
    def hot(self, experiment):
        """Some pixels that count much too much, and the mask that knows of them."""
        mask = np.ones(DETECTOR, bool)
        mask[14, 18:21] = mask[3, 5] = mask[:, 33] = False
        counts = np.where(mask, experiment.counts, 60000).astype(np.uint16)
        return Experiment(counts, geometry(), mask)

    def test_unused_pixels_are_no_part_of_anything(self, experiment, hot):
        used = np.where(hot.mask, experiment.counts, 0)
        np.testing.assert_array_equal(hot.totals, used.sum((1, 2)))
        assert hot.patterns().mean_total == pytest.approx(used.sum((1, 2)).mean())
        part = hot.cropped_patterns("none", (20, 24))
        assert part.counts.max() <= experiment.counts.max()
        dead = Experiment(used.astype(np.uint16), geometry(), hot.mask)
        np.testing.assert_array_equal(fit(hot).object, fit(dead).object)
        assert similarity(fit(hot).object, fit(experiment).object) > 0.95
        unaware = Experiment(hot.counts, geometry())
        assert similarity(fit(unaware).object, fit(experiment).object) < 0.7

    def test_mean_pattern(self, experiment, hot):
        """That of which the aperture is made: gaps are closed, the background is off."""
        expected = experiment.mean_pattern
        np.testing.assert_allclose(expected, experiment.counts.mean(0))
        found = hot.mean_pattern
        np.testing.assert_array_equal(found[hot.mask], expected[hot.mask])
        assert abs(found[14, 19] - expected[14, 19]) < 0.3 * expected[14, 19]
        lifted = Experiment(experiment.counts + np.uint16(7), geometry(), background=7.0)
        np.testing.assert_allclose(lifted.mean_pattern, expected, atol=1e-9)

    def test_a_part_of_the_counts_has_a_part_of_the_background(self, hot):
        hot.background = 4.0
        half = hot.with_counts(np.where(hot.mask, hot.counts // 2, 12345).astype(np.uint16))
        assert half.background == pytest.approx(2.0, rel=0.05)
        assert half.mask is hot.mask

    def test_saturation(self, experiment, hot):
        assert experiment.saturation == np.inf
        eight = Experiment(np.minimum(experiment.counts, 255).astype(np.uint8), geometry())
        assert eight.saturation == 255
        hot.counts = np.where(hot.mask, hot.counts, 65535).astype(np.uint16)
        assert hot.saturation == np.inf
        assert Experiment(hot.counts, geometry()).saturation == 65535
        model = eight.model(eight.complete({"saturation": 99}))
        assert model.detector["saturation"] == 99
        assert eight.model(eight.complete({})).detector["saturation"] == 255
