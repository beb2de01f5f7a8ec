"""The initial probe: signs and factors of the aberrations, apertures, modes."""

import numpy as np
import pytest

from hs_autoptycho.ptycho import probe as module

SHAPE = (48, 64)
DK = 0.04  # 1/Å a detector pixel
PIXEL = (1 / (SHAPE[0] * DK), 1 / (SHAPE[1] * DK))
WAVELENGTH = 0.0418
ABERRATIONS = {
    "defocus": 90.0,
    "C12a": 40.0,
    "C12b": -25.0,
    "C21a": 600.0,
    "C21b": 900.0,
    "C23a": -700.0,
    "C23b": 500.0,
    "C30": 1.5e5,
}


def polar_phase(k_row, k_column, aberrations):
    """The formula of the module's docstring, in magnitudes and angles."""
    alpha, phi = WAVELENGTH * np.hypot(k_row, k_column), np.arctan2(k_row, k_column)
    size, angle = {}, {}
    for name, fold in (("C12", 2), ("C21", 1), ("C23", 3)):
        a, b = aberrations.get(f"{name}a", 0), aberrations.get(f"{name}b", 0)
        size[name], angle[name] = np.hypot(a, b), np.arctan2(b, a) / fold
    second = -aberrations.get("defocus", 0) + size["C12"] * np.cos(2 * (phi - angle["C12"]))
    third = size["C21"] * np.cos(phi - angle["C21"]) + size["C23"] * np.cos(
        3 * (phi - angle["C23"])
    )
    fourth = aberrations.get("C30", 0)
    chi = alpha**2 / 2 * second + alpha**3 / 3 * third + alpha**4 / 4 * fourth
    return 2 * np.pi / WAVELENGTH * chi


def frequencies(offset=(0.0, 0.0)):
    return module.beam_frequencies(SHAPE, PIXEL, offset)


def disk_probe(radius=8.0, offset=(0.0, 0.0), **aberrations):
    k = frequencies(offset)
    return module.make_probe(module.disk_aperture(*k, radius * DK), *k, WAVELENGTH, **aberrations)


def center_of_mass(pattern):
    row, column = np.indices(pattern.shape)
    return np.array([(pattern * row).sum(), (pattern * column).sum()]) / pattern.sum()


def detector(wave):
    """Diffraction pattern with zero frequency at pixel shape // 2."""
    return np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2)


class TestAberrations:
    @pytest.mark.parametrize("name", [*ABERRATIONS, "all"])
    def test_against_polar_form(self, name):
        given = ABERRATIONS if name == "all" else {name: ABERRATIONS[name]}
        k = frequencies()
        phase = module.aberration_phase(*k, WAVELENGTH, **given)
        assert np.abs(phase).max() > 1
        np.testing.assert_allclose(phase, polar_phase(*k, given), rtol=1e-9, atol=1e-9)

    def test_names(self):
        assert set(module.ABERRATIONS) == set(ABERRATIONS) - {"defocus"}
        with pytest.raises(TypeError, match="C45a"):
            module.aberration_phase(*frequencies(), WAVELENGTH, C45a=1.0)

    def test_underfocus_converges_behind_the_specimen(self):
        # propagating an underfocused probe by its defocus brings it to focus
        defocused, focused = disk_probe(defocus=150.0), disk_probe()
        k_row, k_column = frequencies()
        propagator = np.exp(-1j * np.pi * WAVELENGTH * (k_row**2 + k_column**2) * 150.0)
        moved = np.fft.ifft2(np.fft.fft2(np.fft.ifftshift(defocused)) * propagator)
        assert np.abs(np.vdot(np.fft.fftshift(moved), focused)) == pytest.approx(1, abs=1e-9)
        assert np.abs(np.vdot(defocused, focused)) < 0.9


class TestFrequencies:
    def test_numpy_order(self):
        k_row, k_column = frequencies()
        np.testing.assert_allclose(k_row[:, 0], np.fft.fftfreq(SHAPE[0], PIXEL[0]))
        np.testing.assert_allclose(k_column[0], np.fft.fftfreq(SHAPE[1], PIXEL[1]))
        assert k_row.shape == (48, 1) and k_column.shape == (1, 64)

    def test_offset(self):
        k_row, k_column = frequencies((2.25, -5.5))
        # zero where the beam is, and inside the band everywhere
        assert k_row[2, 0] == pytest.approx(-0.25 * DK) and k_row[3, 0] == pytest.approx(0.75 * DK)
        assert k_column[0, -5] == pytest.approx(0.5 * DK)
        assert np.abs(k_row).max() <= 24 * DK * (1 + 1e-9)
        assert np.abs(k_column).max() <= 32 * DK * (1 + 1e-9)


class TestAperture:
    @pytest.mark.parametrize("radius", [3.3, 8.0, 15.7])
    @pytest.mark.parametrize("offset", [(0.0, 0.0), (1.4, -2.7)])
    def test_area(self, radius, offset):
        aperture = module.disk_aperture(*frequencies(offset), radius * DK)
        assert (aperture**2).sum() == pytest.approx(np.pi * radius**2, rel=0.02)

    def test_edge(self):
        k_row, k_column = frequencies()
        aperture = module.disk_aperture(k_row, k_column, 8.0 * DK)
        k = np.hypot(k_row, k_column) / DK
        assert np.all(aperture[k < 7.49] == 1) and np.all(aperture[k > 8.51] == 0)
        assert aperture[8, 0] ** 2 == pytest.approx(0.5)

    def test_measured(self):
        rng = np.random.default_rng(3)
        mean = rng.uniform(1, 2, SHAPE)
        k_row, k_column = frequencies()
        aperture = module.measured_aperture(mean, k_row, k_column, 8.0 * DK)
        k = np.fft.fftshift(np.hypot(k_row, k_column)) / DK
        pattern = np.fft.fftshift(aperture) ** 2
        np.testing.assert_allclose(pattern[k < 9], mean[k < 9])
        assert np.all(pattern[k > 10.6] == 0)


class TestProbe:
    def test_centred_and_normalised(self):
        probe = disk_probe()
        assert np.unravel_index(np.abs(probe).argmax(), SHAPE) == (24, 32)
        assert (np.abs(probe) ** 2).sum() == pytest.approx(1)
        # without aberrations a probe is real and its own mirror image
        assert np.abs(probe.imag).max() < 1e-12
        np.testing.assert_allclose(probe[1:, 1:], probe[:0:-1, :0:-1], atol=1e-12)

    @pytest.mark.parametrize("offset", [(0.0, 0.0), (2.3, -4.6), (-1.5, 3.0), (0.25, 7.75)])
    def test_off_centre_beam(self, offset):
        pattern = detector(disk_probe(offset=offset, **ABERRATIONS))
        expected = np.array(SHAPE) // 2 + offset
        np.testing.assert_allclose(center_of_mass(pattern), expected, atol=0.02)

    def test_off_centre_beam_is_the_centred_probe_with_a_ramp(self):
        offset = (3.0, -5.0)
        moved = disk_probe(offset=offset, **ABERRATIONS)
        centred = disk_probe(**ABERRATIONS)
        assert np.abs(np.vdot(moved, centred)) < 0.9
        np.testing.assert_allclose(module.center_beam(moved, offset), centred, atol=1e-12)

    def test_center_beam_by_a_fraction(self):
        offset = (1.3, -2.6)
        modes = np.stack([disk_probe(offset=offset), disk_probe(offset=offset, defocus=30.0)])
        centred = module.center_beam(modes.astype(np.complex64), offset)
        assert centred.dtype == np.complex64
        for mode in centred:
            np.testing.assert_allclose(center_of_mass(detector(mode)), (24, 32), atol=0.1)
        assert np.abs(np.vdot(centred[0], disk_probe())) > 0.99

    def test_same_aberrations_whatever_the_offset(self):
        radius = [
            np.sqrt((np.abs(p) ** 2 * np.hypot(*np.ogrid[-24:24, -32:32]) ** 2).sum())
            for p in (disk_probe(defocus=200.0), disk_probe(defocus=200.0, offset=(3.0, -5.0)))
        ]
        assert radius[0] == pytest.approx(radius[1], rel=1e-9)


class TestModes:
    @pytest.mark.parametrize("n_modes", [1, 2, 3, 6, 7])
    def test_orthogonal_with_given_powers(self, n_modes):
        probe = 3 * disk_probe(defocus=100.0, C21b=900.0)
        modes = module.make_modes(probe, n_modes)
        assert modes.shape == (n_modes, *SHAPE)
        flat = modes.reshape(n_modes, -1)
        overlaps = flat.conj() @ flat.T
        shares = np.full(n_modes, 0.15 / max(1, n_modes - 1))
        shares[0] = 0.85 if n_modes > 1 else 1
        np.testing.assert_allclose(overlaps, np.diag(9 * shares), atol=1e-9)
        # the first is the probe itself
        assert np.abs(np.vdot(modes[0], probe)) == pytest.approx(9 * np.sqrt(shares[0]))

    def test_orthogonalize(self):
        rng = np.random.default_rng(5)
        modes = rng.normal(size=(3, 6, 10)) + 1j * rng.normal(size=(3, 6, 10))
        modes[1] += 2 * modes[0]
        result = module.orthogonalize(modes)
        flat, before = result.reshape(3, -1), modes.reshape(3, -1)
        overlaps = flat.conj() @ flat.T
        np.testing.assert_allclose(overlaps, np.diag(np.diag(overlaps)), atol=1e-9)
        assert np.all(np.diff(np.diag(overlaps).real) < 0)
        np.testing.assert_allclose(
            (np.abs(result) ** 2).sum(0), (np.abs(modes) ** 2).sum(0), rtol=1e-9
        )
        np.testing.assert_allclose(flat.T @ flat.conj(), before.T @ before.conj(), atol=1e-9)
        # it is not the identity here
        before_overlaps = before.conj() @ before.T
        assert np.abs(before_overlaps[0, 1]) > 1

    def test_orthogonalize_keeps_the_type(self):
        assert module.orthogonalize(np.ones((1, 4, 6), np.complex64)).dtype == np.complex64
