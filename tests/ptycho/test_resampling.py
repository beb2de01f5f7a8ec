"""Coarse and fine grids: sizes, centres, powers, and where things are on either grid."""

import numpy as np
import pytest

from hs_autoptycho.ptycho import resampling as module
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.probe import beam_frequencies, disk_aperture, make_probe

FINE, COARSE = (72, 90), (48, 40)
FACTOR = np.array(FINE) / np.array(COARSE)  # 1.5 and 2.25
EXTENT = 18.0  # Å, of the window along both axes


def specimen(y, x):
    """A smooth transmission function of places in Å, with phases of more than ±π."""
    phase = 1.5 * np.sin(0.9 * y + 0.3) * np.cos(0.7 * x) + 0.6 * np.sin(0.5 * y - 0.8 * x) + 3
    return (1 + 0.1 * np.cos(0.6 * x + 0.2 * y)) * np.exp(1j * phase)


def placed(window):
    """A turned scan of five by seven positions on the grid of a window, and its object."""
    pixel = EXTENT / np.array(window)
    placement = place(scan_positions((5, 7), 1.37, rotation=23.0) / pixel, window)
    y, x = (
        (np.arange(n) - o) * d
        for n, o, d in zip(placement.object_shape, placement.origin, pixel, strict=True)
    )
    slices = [specimen(y[:, None], x[None, :]), specimen(y[:, None] + 1, x[None, :] - 2)]
    return placement, np.stack(slices)


def probe(window, offset=(0.0, 0.0)):
    k = beam_frequencies(window, tuple(EXTENT / np.array(window)), offset)
    return make_probe(disk_aperture(*k, 0.6), *k, 0.03, defocus=80.0, C21b=700.0)


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "reduction", "expected"),
        [
            ((128, 128), 2, (64, 64)),
            ((128, 256), 2.1, (64, 128)),  # powers of two
            ((192, 124), 2, (96, 64)),
            ((256, 96), 1.6, (160, 64)),
            ((160, 150), 2, (80, 80)),  # multiples of 16
            ((100, 60), 4, (30, 16)),  # 26 and 28 have other factors
            ((128, 96), 1, (128, 96)),
        ],
    )
    def test_coarse_shape(self, shape, reduction, expected):
        assert module.coarse_shape(shape, reduction) == expected

    @pytest.mark.parametrize("n", [24, 61, 96, 124, 128, 192, 251, 256])
    def test_every_reduction(self, n):
        for reduction in np.linspace(1, 8, 40):
            size = module.coarse_shape((n, n), reduction)[0]
            assert n / reduction - 1e-9 <= size <= n
            if size < n:
                assert size % 2 == 0 and np.gcd(size, 30**8) == size
                assert size <= 1.2 * n / reduction + 2

    @pytest.mark.parametrize("reduction", [0.9, np.nan])
    def test_refused(self, reduction):
        with pytest.raises(ValueError, match="factor of 1 or more"):
            module.coarse_shape((64, 64), reduction)


class TestDetectorCutoff:
    shape = (128, 192)

    def pattern(self, radius, spread=0.0, center=(64, 96)):
        r = np.hypot(*(np.ogrid[:128, :192][i] - center[i] for i in (0, 1)))
        return np.where(r < radius, 1.0, 0.0) + spread

    def test_size(self):
        # 2 · 2.2 · 10 = 44: 48 is near
        assert module.detector_cutoff_for(self.pattern(10), 10.0) == (48, 48)
        assert module.detector_cutoff_for(self.pattern(10), 10.0, half_width=3) == (64, 64)

    def test_no_reduction(self):
        wide = self.pattern(29)
        assert module.detector_cutoff_for(wide, 29.0) is None
        assert module.detector_cutoff_for(wide, 29.0, least_reduction=1.2) == (128, 128)
        square = self.pattern(20)[:, 32:160]
        assert module.detector_cutoff_for(square, 20.0) is None
        assert module.detector_cutoff_for(square, 20.0, least_reduction=1.3) == (96, 96)

    def test_counts_outside(self):
        # much of what is scattered to high angles makes the part larger
        pattern = self.pattern(10, spread=0.004)
        shape = module.detector_cutoff_for(pattern, 10.0)
        seen = module.crop_patterns(pattern, shape).sum() / pattern.sum()
        assert shape[0] > 48 and 0.8 <= seen < 0.95
        assert module.detector_cutoff_for(pattern, 10.0, least_counts=0.0) == (48, 48)
        assert module.detector_cutoff_for(pattern, 10.0, least_counts=1.0) is None

    def test_off_centre(self):
        center = (58.0, 106.5)
        pattern = self.pattern(10, center=center)
        rows, columns = module.detector_cutoff_for(pattern, 10.0, center=center)
        assert rows >= 44 + 12 and columns >= 44 + 21

    def test_refused(self):
        with pytest.raises(ValueError, match="radius must be positive"):
            module.detector_cutoff_for(self.pattern(10), 0.0)


class TestCrop:
    @pytest.mark.parametrize("shape", [(9, 12), (8, 12), (9, 11), (8, 7), (1, 2)])
    @pytest.mark.parametrize("full", [(9, 12), (10, 13)])
    def test_centre(self, shape, full):
        patterns = np.random.default_rng(0).integers(0, 9, (3, 2, *full)).astype(np.uint16)
        cut = module.crop_patterns(patterns, shape)
        assert cut.shape == (3, 2, *shape) and cut.dtype == np.uint16
        assert np.shares_memory(cut, patterns)
        row, column = full[0] // 2, full[1] // 2
        np.testing.assert_array_equal(
            cut[..., shape[0] // 2, shape[1] // 2], patterns[..., row, column]
        )

    def test_refused(self):
        with pytest.raises(ValueError, match="cannot be cut to"):
            module.crop_patterns(np.ones((3, 8, 9)), (8, 10))

    def test_pattern_of_a_resampled_wave(self):
        # cutting the detector is what resampling does to the wave
        wave = np.random.default_rng(1).normal(size=(2, *FINE)) + 0j
        patterns = np.abs(np.fft.fftshift(np.fft.fft2(wave), axes=(1, 2))) ** 2
        small = np.fft.fft2(module.resample_waves(wave, COARSE))
        np.testing.assert_allclose(
            np.abs(np.fft.fftshift(small, axes=(1, 2))) ** 2 * np.prod(FINE) / np.prod(COARSE),
            module.crop_patterns(patterns, COARSE),
        )


class TestWaves:
    @pytest.mark.parametrize("shape", [COARSE, (47, 41), (81, 100), (75, 96), (60, 96)])
    def test_probe_of_the_other_grid(self, shape):
        # the aperture is sampled at the same frequencies, so that nothing is approximate
        resampled = module.resample_waves(probe(FINE), shape)
        np.testing.assert_allclose(resampled, probe(shape), atol=1e-12)
        assert (np.abs(resampled) ** 2).sum() == pytest.approx(1)

    def test_there_and_back(self):
        waves = np.stack([probe(COARSE), probe(COARSE, (1.0, -2.0))]).astype(np.complex64)
        there = module.resample_waves(waves, FINE)
        assert there.dtype == np.complex64 and there.shape == (2, *FINE)
        np.testing.assert_allclose(module.resample_waves(there, COARSE), waves, atol=1e-7)


class TestRefine:
    @pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
    def test_known_object(self, dtype):
        coarse, object_ = placed(COARSE)
        fine, expected = placed(FINE)
        result = module.refine_object(object_.astype(dtype), coarse, fine, FACTOR)
        assert result.dtype == dtype and result.shape == expected.shape
        # at the edge the fine grid may reach beyond the coarse one
        inside = (slice(None), slice(6, -6), slice(6, -6))
        assert np.abs(result - expected)[inside].max() < 4e-3
        assert np.abs(result - expected).max() < 0.6
        # half a pixel would be seen
        row, column = np.gradient(expected, axis=(1, 2))
        assert 0.5 * np.abs(row).max() > 0.1 and 0.5 * np.abs(column).max() > 0.1

    def test_to_a_coarser_grid(self):
        fine, object_ = placed(FINE)
        coarse, expected = placed(COARSE)
        result = module.refine_object(object_, fine, coarse, 1 / FACTOR)
        assert np.abs(result - expected)[:, 6:-6, 6:-6].max() < 2e-3

    def test_same_grid(self):
        placement, object_ = placed(COARSE)
        result = module.refine_object(object_, placement, placement, (1.0, 1.0))
        np.testing.assert_allclose(result, object_, atol=1e-9)

    def test_whole_factor_hits_the_pixels(self):
        # every other fine pixel is a coarse one, wherever the two objects begin
        small, large = (24, 20), (48, 40)
        coarse, object_ = placed(small)
        fine, _ = placed(large)
        rng = np.random.default_rng(3)
        object_ = object_ + 0.3 * rng.normal(size=object_.shape)
        result = module.refine_object(object_, coarse, fine, (2.0, 2.0))
        for position in [(0, 0), (2, 3), (-3, 4)]:
            row, column = (2 * np.array(position) + fine.origin).astype(int)
            y, x = (np.array(position) + coarse.origin).astype(int)
            np.testing.assert_allclose(result[:, row, column], object_[:, y, x], atol=1e-9)

    def test_refused(self):
        coarse, object_ = placed(COARSE)
        with pytest.raises(ValueError, match="its placement"):
            module.refine_object(object_[:, 1:], coarse, coarse, (1.0, 1.0))


class TestWarp:
    shape = (50, 66)
    center = (21.5, 30.0)
    matrix = np.array([[1.1, 0.12], [-0.2, 0.95]])

    def grid(self):
        return np.indices(self.shape).astype(float)

    def bump(self, place):
        y, x = self.grid()
        return 1 + 1j * np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / 18)[None]

    @pytest.mark.parametrize("outside", ["nearest", "vacuum"])
    def test_direction(self, outside):
        # what was at r comes to c + M (r - c)
        place = np.array([28.0, 41.0])
        warped = module.warp_object(self.bump(place), self.matrix, self.center, outside=outside)
        target = self.center + self.matrix @ (place - self.center)
        peak = np.unravel_index(warped[0].imag.argmax(), self.shape)
        np.testing.assert_allclose(peak, target, atol=0.8)
        weight = warped[0].imag
        mean = (self.grid() * weight).sum((1, 2)) / weight.sum()
        np.testing.assert_allclose(mean, target, atol=0.02)

    @pytest.mark.parametrize(("order", "tolerance"), [(1, 5e-2), (3, 1e-3)])
    def test_analytic(self, order, tolerance):
        y, x = self.grid() * 0.3
        before = np.stack([specimen(y, x), specimen(x, y)]).astype(np.complex64)
        kept = before.copy()
        warped = module.warp_object(before, self.matrix, self.center, order=order)
        assert warped.dtype == np.complex64
        c = np.reshape(self.center, (2, 1, 1))
        source = c + np.tensordot(np.linalg.inv(self.matrix), self.grid() - c, 1)
        inside = np.all((source > 6) & (source < np.reshape(self.shape, (2, 1, 1)) - 7), axis=0)
        assert inside.mean() > 0.4
        y, x = source * 0.3
        expected = np.stack([specimen(y, x), specimen(x, y)])
        assert np.abs(warped - expected)[:, inside].max() < tolerance
        assert np.abs(warped - before)[:, inside].max() > 0.5
        np.testing.assert_array_equal(before, kept)

    def test_outside(self):
        before = np.full((1, *self.shape), 0.5 + 0.2j)
        shrink = 0.5 * np.eye(2)
        vacuum = module.warp_object(before, shrink, self.center, outside="vacuum")
        nearest = module.warp_object(before, shrink, self.center)
        np.testing.assert_allclose(nearest, before)
        assert vacuum[0, 0, 0] == 1 and vacuum[0, 22, 30] == pytest.approx(0.5 + 0.2j)
        with pytest.raises(ValueError, match="'nearest' or 'vacuum'"):
            module.warp_object(before, shrink, self.center, outside="zero")
