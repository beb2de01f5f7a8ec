"""Propagators: analytic beams, signs of the tilt, derivatives, and abTEM's."""

import numpy as np
import pytest

from hs_autoptycho.calibration import electron_wavelength
from hs_autoptycho.ptycho.probe import beam_frequencies, center_beam, disk_aperture, make_probe
from hs_autoptycho.ptycho.propagation import (
    PROPAGATION_PARAMETERS,
    Propagation,
    propagator_derivatives,
    propagators,
)

SHAPE = (60, 80)
PIXEL = (0.25, 0.2)
WAVELENGTH = 0.037
DISTANCES = (40.0, 75.0, 25.0)


def make(distances=DISTANCES, tilt=(0.0, 0.0)):
    return Propagation(distances, WAVELENGTH, PIXEL, tilt)


def coordinates(shape=SHAPE, pixel=PIXEL):
    y, x = ((np.arange(n) - n // 2) * d for n, d in zip(shape, pixel, strict=True))
    return y[:, None], x[None, :]


def gaussian_beam(waist, z, center=(0.0, 0.0)):
    """exp(−r²/w²) after a distance z, with the phase of a wave of zero frequency taken out."""
    y, x = coordinates()
    spread = 1 + 1j * z * WAVELENGTH / (np.pi * waist**2)
    return np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (waist**2 * spread)) / spread


def propagate(wave, propagator):
    # a convolution: it does not matter where the window's centre is
    return np.fft.ifft2(np.fft.fft2(wave) * propagator)


class TestPropagation:
    def test_even(self):
        even = Propagation.even(4, 120.0, WAVELENGTH, PIXEL, tilt=(1, 2))
        assert even == Propagation((30.0,) * 3, WAVELENGTH, PIXEL, (1.0, 2.0))
        assert even.n_slices == 4
        assert even.thickness == pytest.approx(120)
        np.testing.assert_allclose(even.slice_thicknesses, 30)

    def test_uneven(self):
        uneven = make()
        assert uneven.n_slices == 4
        np.testing.assert_allclose(uneven.slice_thicknesses, [40, 57.5, 50, 25])
        assert uneven.thickness == pytest.approx(172.5)

    def test_one_slice(self):
        single = Propagation.even(1, 120.0, WAVELENGTH, PIXEL)
        assert single.n_slices == 1 and single.thickness == 0
        assert propagators(single, SHAPE).shape == (0, *SHAPE)
        assert propagator_derivatives(single, SHAPE).shape == (0, 3, *SHAPE)

    def test_changed_copies(self):
        before = make(tilt=(1.0, 2.0))
        after = before.scaled(1.1).tilted((3, 4))
        assert after == make(tuple(1.1 * d for d in DISTANCES), (3.0, 4.0))
        assert before == make(tilt=(1.0, 2.0))
        assert after.thickness == pytest.approx(1.1 * before.thickness)

    @pytest.mark.parametrize(
        "values",
        [
            {"distances": (10.0, -1.0)},
            {"distances": (np.nan,)},
            {"wavelength": 0.0},
            {"pixel_size": (0.2, np.inf)},
            {"pixel_size": (0.2,)},
            {"tilt": (0.0, 1600.0)},
            {"tilt": (0.0, np.nan)},
        ],
    )
    def test_refused(self, values):
        good = {"distances": DISTANCES, "wavelength": WAVELENGTH, "pixel_size": PIXEL}
        with pytest.raises(ValueError, match="must be|two values"):
            Propagation(**{**good, **values})

    def test_no_slices(self):
        with pytest.raises(ValueError, match="at least one slice"):
            Propagation.even(0, 120.0, WAVELENGTH, PIXEL)


class TestPropagators:
    def test_gaussian_beam(self):
        # over the three distances, one after the other
        wave, z = gaussian_beam(1.5, 0.0), 0.0
        for h, distance in zip(propagators(make(), SHAPE), DISTANCES, strict=True):
            wave, z = propagate(wave, h), z + distance
            expected = gaussian_beam(1.5, z)
            np.testing.assert_allclose(wave, expected, atol=1e-6)
        # it did spread, and the other sign of the distance would not do
        assert np.abs(wave - gaussian_beam(1.5, 0.0)).max() > 0.1
        assert np.abs(wave - gaussian_beam(1.5, -z)).max() > 0.1

    def test_tilt_moves_the_wave(self):
        tilt = (9.0, -5.0)
        h = propagators(make(tilt=tilt), SHAPE)
        for propagator, distance in zip(h, DISTANCES, strict=True):
            moved = propagate(gaussian_beam(1.5, 0.0), propagator)
            # against the lean of the specimen, in whose frame the slices are
            center = -distance * np.tan(1e-3 * np.array(tilt))
            np.testing.assert_allclose(moved, gaussian_beam(1.5, distance, center), atol=1e-6)

    def test_leaning_column(self):
        # the shadow of a column that leans stays in the pixels of its slices: in the frame of the
        # laboratory the beam goes straight on and slice s is at +s·dz·tan(tilt)
        tilt, dz = 40.0, 25.0
        y, x = coordinates()
        probe = gaussian_beam(3.0, 0.0)
        column = np.exp(0.8j * np.exp(-(y**2 + x**2) / 1.0))
        shift = dz * np.tan(1e-3 * tilt)
        leaning = np.exp(0.8j * np.exp(-((y - shift) ** 2 + x**2) / 1.0))
        free = propagators(make((dz,)), SHAPE)[0]
        tilted = propagators(make((dz,), (tilt, 0.0)), SHAPE)[0]
        laboratory = propagate(probe * column, free) * leaning
        specimen = propagate(probe * column, tilted) * column
        np.testing.assert_allclose(
            np.abs(np.fft.fft2(specimen)), np.abs(np.fft.fft2(laboratory)), atol=1e-5
        )
        untilted = np.abs(np.fft.fft2(propagate(probe * column, free) * column))
        assert np.abs(untilted - np.abs(np.fft.fft2(laboratory))).max() > 1

    def test_unitary(self):
        rng = np.random.default_rng(1)
        wave = rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)
        for h in propagators(make(tilt=(3.0, 4.0)), SHAPE):
            assert h.dtype == np.complex128
            np.testing.assert_allclose(np.abs(h), 1, rtol=1e-12)
            np.testing.assert_allclose(propagate(propagate(wave, h), h.conj()), wave)

    def test_distances_add_up(self):
        h = propagators(make(tilt=(3.0, 4.0)), SHAPE)
        whole = propagators(make((sum(DISTANCES),), (3.0, 4.0)), SHAPE)[0]
        np.testing.assert_allclose(np.prod(h, axis=0), whole, atol=1e-9)

    def test_bandlimit(self):
        h = propagators(make(), SHAPE, bandlimit=0.6)
        k = np.hypot(*beam_frequencies(SHAPE, PIXEL))
        cut, pixel = 0.6 * 0.5 / max(PIXEL), 1 / (SHAPE[0] * PIXEL[0])
        assert np.all(h[:, k > cut + pixel] == 0)
        np.testing.assert_array_equal(
            h[:, k < cut - pixel], propagators(make(), SHAPE)[:, k < cut - pixel]
        )

    def test_off_centre_beam(self):
        # the ramp that the detector's offset puts on the waves is no tilt of the beam
        offset, radius = (2.3, -3.6), 0.6
        waves = []
        for shift in ((0.0, 0.0), offset):
            k = beam_frequencies(SHAPE, PIXEL, shift)
            probe = make_probe(disk_aperture(*k, radius), *k, WAVELENGTH, defocus=50.0)
            h = propagators(make(tilt=(2.0, 5.0)), SHAPE, beam_offset=shift)[1]
            waves.append(np.fft.fftshift(propagate(np.fft.ifftshift(probe), h)))
        overlap = np.vdot(waves[0], center_beam(waves[1], offset))
        assert overlap == pytest.approx(1, abs=0.02)  # the disk's edge falls on other pixels
        wrong = propagate(probe, propagators(make(tilt=(2.0, 5.0)), SHAPE)[1])
        assert np.abs(np.vdot(waves[0], center_beam(wrong, offset))) < 0.95


class TestDerivatives:
    @pytest.mark.parametrize("offset", [(0.0, 0.0), (1.5, -4.25)])
    def test_finite_differences(self, offset):
        tilt = np.array([80.0, -150.0])  # large, so that tan t is not t
        here = make(tilt=tilt)
        h = propagators(here, SHAPE, beam_offset=offset)
        factors = propagator_derivatives(here, SHAPE, beam_offset=offset)
        assert PROPAGATION_PARAMETERS == ("scale", "tilt_y", "tilt_x")
        assert factors.shape == (3, 3, *SHAPE) and factors.dtype == np.float64
        step = 1e-5
        changes = [
            lambda s: here.scaled(1 + s),
            lambda s: here.tilted((tilt[0] + s, tilt[1])),
            lambda s: here.tilted((tilt[0], tilt[1] + s)),
        ]
        for i, changed in enumerate(changes):
            ends = [propagators(changed(s), SHAPE, beam_offset=offset) for s in (step, -step)]
            numerical = (ends[0] - ends[1]) / (2 * step)
            analytic = 1j * factors[:, i] * h
            assert np.abs(analytic).max() > 0.1
            np.testing.assert_allclose(numerical, analytic, atol=2e-6 * np.abs(analytic).max())


class TestAgainstAbtem:
    """abTEM's axis 0 is x, our columns; its tilt is the beam's, ours the specimen's."""

    energy, semiangle, distance = 80.0, 20.0, 60.0
    window, extent = (72, 96), 18.0

    def compare(self, tilt):
        abtem = pytest.importorskip("abtem")
        from abtem.multislice import FresnelPropagator

        probe = abtem.Probe(
            energy=self.energy * 1e3,
            semiangle_cutoff=self.semiangle,
            extent=(self.extent, self.extent),
            gpts=self.window[::-1],
            defocus=30.0,
            C12=40.0,
            phi12=0.3,
            tilt=(-tilt[1], -tilt[0]),
        )
        before = probe.build(lazy=False)
        start = np.asarray(before.array).T.astype(complex)
        theirs = np.asarray(FresnelPropagator().propagate(before, self.distance).array).T
        propagation = Propagation(
            (self.distance,),
            electron_wavelength(self.energy),
            tuple(self.extent / n for n in self.window),
            tilt,
        )
        # abTEM cuts at 2/3 of the Nyquist frequency, far outside of this probe's aperture
        ours = propagate(start, propagators(propagation, self.window)[0])
        other = propagate(start, propagators(propagation.tilted(tilt[::-1]), self.window)[0])
        scale = np.linalg.norm(theirs)
        return np.linalg.norm(ours - theirs) / scale, np.linalg.norm(other - theirs) / scale

    def test_propagator(self):
        assert self.compare((0.0, 0.0))[0] < 1e-5

    def test_tilt(self):
        same, swapped = self.compare((9.0, -14.0))
        assert same < 1e-5
        assert swapped > 0.1
