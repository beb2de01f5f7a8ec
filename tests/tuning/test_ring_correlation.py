"""The Fourier ring correlation, ring by ring, against a loop over its frequencies."""

import numpy as np
import pytest

from hs_autoptycho.tuning.ring_correlation import _box, ring_correlation


@pytest.mark.parametrize(
    ("shape", "pixel", "n"),
    [((12, 17), (1.0, 1.0), 6), ((12, 17), (0.5, 0.25), 4), ((15, 10), (0.3, 0.3), 5)],
)
def test_by_a_loop(shape, pixel, n):
    random = np.random.default_rng(2)
    first, second = (random.normal(size=shape) + 1j * random.normal(size=shape) for _ in range(2))
    second += first
    window = np.outer(np.hanning(shape[0]), np.hanning(shape[1]))
    a, b = (np.fft.fft2((image - image.mean()) * window) for image in (first, second))
    side = min(shape[0] * pixel[0], shape[1] * pixel[1])
    sums = {}
    for i, y in enumerate(np.fft.fftfreq(shape[0], pixel[0])):
        for j, x in enumerate(np.fft.fftfreq(shape[1], pixel[1])):
            ring = sums.setdefault(round(float(np.hypot(x, y)) * side), np.zeros(3))
            product = a[i, j] * np.conj(b[i, j])
            ring += [product.real, abs(a[i, j]) ** 2, abs(b[i, j]) ** 2]
    expected = [sums[k][0] / np.sqrt(sums[k][1] * sums[k][2]) for k in range(1, n + 1)]
    found = ring_correlation(first, second, pixel)
    assert len(found) == n
    assert found == pytest.approx(expected, rel=1e-9)
    # whatever the unit of the images
    assert ring_correlation(1e-6 * first, second, pixel) == pytest.approx(expected, rel=1e-9)


def test_images_without_contrast():
    flat = np.ones((8, 10))
    assert ring_correlation(flat, flat) == pytest.approx(np.zeros(4))


def test_the_field_that_was_scanned():
    centers = np.array([[3, 9], [7, 4], [5, 6]])
    assert np.zeros((20, 20))[_box(centers)].shape == (5, 6)
    image = np.arange(400).reshape(20, 20)
    assert image[_box(centers)][0, 0] == 3 * 20 + 4 and image[_box(centers)][-1, -1] == 7 * 20 + 9


def test_rings_are_round_where_pixels_are_not_square():
    """Two images that agree up to 0.5 / Å: the rings change from 1 to 0 there and nowhere else."""
    pixel, shape, cutoff = (0.4, 0.7), (180, 130), 0.5
    generator = np.random.default_rng(0)
    same, *others = (np.fft.fft2(generator.normal(size=shape)) for _ in range(3))
    frequencies = [np.fft.fftfreq(n, p) for n, p in zip(shape, pixel, strict=True)]
    inside = np.hypot(*np.meshgrid(*frequencies, indexing="ij")) < cutoff
    images = [np.fft.ifft2(np.where(inside, same, other)).real for other in others]
    rings = ring_correlation(*images, pixel)
    side = 180 * 0.4  # Å, the shorter one
    assert len(rings) == 51  # half of 72 Å / 0.7 Å
    change = round(cutoff * side)
    assert rings[: change - 3].min() > 0.99
    assert np.abs(rings[change + 3 :]).max() < 0.4
    square = ring_correlation(*images)
    assert 0.1 < square[28:43].mean() < 0.9  # 0.2 cycles a pixel in y, 0.35 in x
