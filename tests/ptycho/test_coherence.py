"""Modes of partially coherent probes against the Gaussian Schell model, and sums of intensities."""

import numpy as np
import pytest
from scipy.ndimage import fourier_gaussian

from hs_autoptycho.ptycho.coherence import coherence_modes
from hs_autoptycho.ptycho.probe import beam_frequencies, disk_aperture, make_probe

SHAPE = (48, 60)
PIXEL = (0.25, 0.2)
WAVELENGTH = 0.025
FWHM = 2 * np.sqrt(2 * np.log(2))  # in standard deviations
K = beam_frequencies(SHAPE, PIXEL)
APERTURE = disk_aperture(*K, 0.75)
ABERRATIONS = {"defocus": 60.0, "C12a": 15.0, "C21b": 300.0}


def make(n_modes, aperture=APERTURE, k=K, **options):
    return coherence_modes(aperture, *k, WAVELENGTH, n_modes, **options)


def powers(modes):
    return (np.abs(modes) ** 2).sum((1, 2))


class TestCoherent:
    @pytest.mark.parametrize("offset", [(0.0, 0.0), (2.3, -1.6)])
    def test_point_source(self, offset):
        k = beam_frequencies(SHAPE, PIXEL, offset)
        aperture = disk_aperture(*k, 0.75)
        modes = make(1, aperture, k, **ABERRATIONS)
        expected = make_probe(aperture, *k, WAVELENGTH, **ABERRATIONS)
        assert modes.shape == (1, *SHAPE)
        np.testing.assert_allclose(modes[0], expected, atol=1e-14)

    def test_a_coherent_beam_has_one_mode(self):
        modes = make(3, **ABERRATIONS)
        np.testing.assert_allclose(powers(modes), [1, 0, 0])

    def test_nearly_coherent(self):
        modes = make(4, source_size=1e-5, focal_spread=1e-4, **ABERRATIONS)
        np.testing.assert_allclose(modes[0], make(1, **ABERRATIONS)[0], atol=1e-6)
        assert np.all(powers(modes)[1:] < 1e-6)


class TestGaussianSchell:
    """A Gaussian probe from a Gaussian source, whose modes are Hermite's functions.

    E. Wolf and G. S. Agarwal (1984), A. Starikov and E. Wolf (J. Opt. Soc. Am. 72, 923, 1982).
    """

    width = 0.6  # Å, standard deviation of the coherent probe's intensity

    def aperture(self):
        return np.exp(-((2 * np.pi * self.width) ** 2) * (K[0] ** 2 + K[1] ** 2))

    def ratio(self, sigma):
        """Of one eigenvalue to the one before, along one axis."""
        width = np.sqrt(self.width**2 + sigma**2)
        by_coherence = 1 / (8 * self.width**2) - 1 / (8 * width**2)  # 1 / (2 σ_g²)
        a, b = 1 / (4 * width**2), by_coherence
        return b / (a + b + np.sqrt(a**2 + 2 * a * b))

    @pytest.mark.parametrize("sigma", [0.15, 0.5])
    def test_powers(self, sigma):
        q = self.ratio(sigma)
        orders = np.array([0, 1, 1, 2, 2, 2])
        expected = (1 - q) ** 2 * q**orders
        options = {"source_size": sigma * FWHM}
        honest = powers(make(6, self.aperture(), renormalize=False, **options))
        np.testing.assert_allclose(honest, expected, rtol=1e-3)
        full = powers(make(6, self.aperture(), **options))
        np.testing.assert_allclose(full, expected / expected.sum(), rtol=1e-3)

    def test_first_mode(self):
        # a Gaussian, narrower than the mixture and wider than the probe
        sigma = 0.5
        q = self.ratio(sigma)
        first = make(1, self.aperture(), source_size=sigma * FWHM)[0]
        x = (np.arange(SHAPE[1]) - SHAPE[1] // 2) * PIXEL[1]
        power = (np.abs(first) ** 2).sum(0)
        variance = (self.width**2 + sigma**2) * (1 - q) / (1 + q)
        assert (power * x**2).sum() / power.sum() == pytest.approx(variance, rel=1e-3)


def density_matrix(aperture, k, sigma, focal_spread, **aberrations):
    """The formula of the module's docstring, and where the aperture is."""
    probe = make_probe(aperture, *k, WAVELENGTH, **aberrations)
    inside = aperture > 0
    spectrum = np.fft.fft2(np.fft.ifftshift(probe), norm="ortho")[inside]
    k_row, k_column = (np.broadcast_to(k_, SHAPE)[inside] for k_ in k)
    squared = k_row**2 + k_column**2
    source = np.subtract.outer(k_row, k_row) ** 2 + np.subtract.outer(k_column, k_column) ** 2
    focus = (np.pi * WAVELENGTH * focal_spread * np.subtract.outer(squared, squared)) ** 2
    kernel = np.exp(-2 * np.pi**2 * sigma**2 * source - focus / 2)
    return np.outer(spectrum, spectrum.conj()) * kernel, inside


class TestMixture:
    @pytest.mark.parametrize("radius", [0.25, 0.75])
    @pytest.mark.parametrize("offset", [(0.0, 0.0), (2.25, -10.5)])
    @pytest.mark.parametrize(("sigma", "spread"), [(0.2, 0.0), (0.0, 50.0), (0.5, 80.0), (5, 10)])
    def test_density_matrix(self, radius, offset, sigma, spread):
        k = beam_frequencies(SHAPE, PIXEL, offset)
        aperture = disk_aperture(*k, radius)
        expected, inside = density_matrix(aperture, k, sigma, spread, **ABERRATIONS)
        options = {"source_size": sigma * FWHM, "focal_spread": spread, "renormalize": False}
        modes = make(7, aperture, k, **options, **ABERRATIONS)
        spectra = np.fft.fft2(np.fft.ifftshift(modes, axes=(1, 2)), norm="ortho")[:, inside]
        held = powers(modes)
        np.testing.assert_allclose(held, np.linalg.eigvalsh(expected)[:-8:-1], atol=1e-6)
        # each mode is an eigenvector
        np.testing.assert_allclose(expected @ spectra.T, spectra.T * held, atol=3e-6)

    def test_source_blurs_the_intensity(self):
        sigma = 0.3
        modes = make(40, source_size=sigma * FWHM, renormalize=False, **ABERRATIONS)
        coherent = np.abs(make_probe(APERTURE, *K, WAVELENGTH, **ABERRATIONS)) ** 2
        blurred = np.fft.ifft2(fourier_gaussian(np.fft.fft2(coherent), sigma / np.array(PIXEL)))
        mixed = (np.abs(modes) ** 2).sum(0)
        assert mixed.sum() > 0.999
        assert np.abs(coherent - blurred).max() > 0.1 * coherent.max()
        np.testing.assert_allclose(mixed, blurred.real, atol=2e-3 * coherent.max())

    def test_focal_spread(self):
        spread = 40.0
        modes = make(12, focal_spread=spread, **ABERRATIONS)
        steps = np.linspace(-5, 5, 41)
        weights = np.exp(-(steps**2) / 2)
        expected = 0
        for step, weight in zip(steps, weights / weights.sum(), strict=True):
            moved = {**ABERRATIONS, "defocus": ABERRATIONS["defocus"] + step * spread}
            probe = make_probe(APERTURE, *K, WAVELENGTH, **moved)
            expected = expected + weight * np.abs(probe) ** 2
        mixed = (np.abs(modes) ** 2).sum(0)
        coherent = np.abs(make(1, **ABERRATIONS)[0]) ** 2
        assert np.abs(coherent - expected).max() > 0.05 * expected.max()
        np.testing.assert_allclose(mixed, expected, atol=1e-4 * expected.max())

    def test_orthogonal(self):
        modes = make(5, source_size=0.6, focal_spread=30.0, **ABERRATIONS)
        flat = modes.reshape(5, -1)
        overlaps = flat.conj() @ flat.T
        np.testing.assert_allclose(overlaps, np.diag(np.diag(overlaps)), atol=1e-12)
        assert np.all(np.diff(np.diag(overlaps).real) < 1e-9) and overlaps[4, 4].real > 1e-3
        assert powers(modes).sum() == pytest.approx(1)
        # the first has the phase of the coherent probe
        overlap = np.vdot(make(1, **ABERRATIONS)[0], modes[0])
        assert overlap.real > 0.6 and abs(overlap.imag) < 1e-9

    def test_far_field_is_the_aperture(self):
        # neither source nor focus change how much passes the aperture where
        modes = make(60, source_size=0.7, focal_spread=20.0, renormalize=False, **ABERRATIONS)
        pattern = (np.abs(np.fft.fft2(modes)) ** 2).sum(0)
        np.testing.assert_allclose(
            pattern / pattern.max(), APERTURE**2, atol=5e-3 + (1 - powers(modes).sum())
        )
        assert np.all(pattern[APERTURE == 0] < 1e-9)

    def test_more_modes_hold_more(self):
        options = {"source_size": 0.6, "focal_spread": 30.0, "renormalize": False}
        held = [powers(make(n, **options)).sum() for n in (1, 2, 5, 20)]
        assert np.all(np.diff(held) > 0.01) and 0.9 < held[-1] < 1


class TestRefused:
    @pytest.mark.parametrize("options", [{"source_size": -1.0}, {"focal_spread": np.nan}])
    def test_lengths(self, options):
        with pytest.raises(ValueError, match="at least 0"):
            make(2, **options)

    def test_numbers(self):
        with pytest.raises(ValueError, match="at least one mode"):
            make(0)
        with pytest.raises(ValueError, match="focal_spread.*so large"):
            make(2, focal_spread=1e5)
        with pytest.raises(TypeError, match="C45a"):
            make(2, C45a=1.0)
