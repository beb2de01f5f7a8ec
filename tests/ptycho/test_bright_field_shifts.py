"""Scan rotation and defocus from bright-field images: against the truth of simulated scans."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.bright_field_shifts import measure_bright_field_shifts

STEP, RADIUS, SHAPE = 1.0, 7.0, (26, 30, 20, 22)
CENTER = (9.6, 11.2)


def moving_images(rotation, defocus, random_state=0, noise=0.02):
    """A scan whose bright-field images are one random image, displaced as the physics says.

    The image of direction k is displaced by ``defocus/step * R(-rotation) k``.
    """
    generator = np.random.default_rng(random_state)
    ny, nx, ky, kx = SHAPE
    q = np.hypot(*np.meshgrid(np.fft.fftfreq(ny), np.fft.fftfreq(nx), indexing="ij"))
    spectrum = np.fft.fft2(generator.normal(size=(ny, nx))) * np.exp(-((q / 0.2) ** 2))
    image = np.fft.ifft2(spectrum).real
    spectrum = spectrum / image.std()
    angle = np.radians(rotation)
    counts = np.zeros(SHAPE)
    for i in range(ky):
        for j in range(kx):
            row, column = (i - CENTER[0]) / RADIUS, (j - CENTER[1]) / RADIUS
            if np.hypot(row, column) > 1:
                continue
            # R(-rotation) applied to (row, column) of the detector
            slow = defocus * (np.cos(angle) * row + np.sin(angle) * column)
            fast = defocus * (-np.sin(angle) * row + np.cos(angle) * column)
            phase = np.fft.fftfreq(ny)[:, None] * slow + np.fft.fftfreq(nx)[None] * fast
            counts[:, :, i, j] = 1 + 0.1 * np.fft.ifft2(spectrum * np.exp(-2j * np.pi * phase)).real
    return counts + noise * generator.normal(size=SHAPE)


def measure(counts, largest=6.0):
    return measure_bright_field_shifts(
        counts, center=CENTER, radius=RADIUS, defocus_to_shift=1.0, largest_defocus=largest
    )


@pytest.mark.parametrize("rotation", [-170.0, -95.0, 0.0, 33.0, 120.0])
def test_rotation_and_defocus_are_those_of_the_motion(rotation):
    found = measure(moving_images(rotation, 3.0))
    assert (found.rotation - rotation + 180) % 360 - 180 == pytest.approx(0, abs=2)
    assert found.defocus == pytest.approx(3.0, abs=0.15)


def test_overfocus_is_returned_as_the_conjugate_solution():
    found = measure(moving_images(20.0, -3.0))
    assert found.rotation == pytest.approx(-160, abs=2)
    assert found.defocus == pytest.approx(3.0, abs=0.15)


def test_noise_alone_moves_nowhere():
    counts = np.random.default_rng(1).poisson(5.0, size=SHAPE)
    assert measure(counts) is None


def test_too_small_a_disk_says_nothing():
    counts = moving_images(0.0, 2.0)
    found = measure_bright_field_shifts(
        counts, center=CENTER, radius=0.8, defocus_to_shift=1.0, largest_defocus=6.0
    )
    assert found is None


@pytest.mark.parametrize(("rotation", "defocus"), [(12.0, 200.0), (-100.0, 200.0)])
def test_simulated_crystal_gives_the_rotation(rotation, defocus):
    """Of a crystal the defocus is only known up to the lattice's period."""
    from hs_autoptycho.data import twisted_bilayer_mos2

    scan = twisted_bilayer_mos2(scan_rotation=rotation, defocus=defocus)
    found = measure_bright_field_shifts(
        scan.data, center=(32, 32), radius=8.0, defocus_to_shift=0.0214 / 0.9, largest_defocus=230
    )
    assert found.rotation == pytest.approx(rotation, abs=1.5)
    assert found.defocus == pytest.approx(defocus, rel=0.4)


def test_real_scan(shared_data):
    """Independent measurements: -120.4 ± 1 degrees, 133 to 139 thousand Å."""
    import hyperspy.api as hs

    scan = hs.load(shared_data / "rotavirus_A.hspy")
    found = measure_bright_field_shifts(
        scan.data,
        center=(62.7, 63.6),
        radius=30.3,
        defocus_to_shift=30.3 / (128 * 4.65) * 0.0196875 / 31.25,
        largest_defocus=180e3,
    )
    assert found.rotation == pytest.approx(-120.4, abs=1.5)
    assert 130e3 < found.defocus < 142e3
