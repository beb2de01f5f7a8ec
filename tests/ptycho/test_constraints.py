"""Regularisers of objects and probes against analytic cases."""

import numpy as np
import pytest

from hs_autoptycho.ptycho import constraints as module
from hs_autoptycho.ptycho.probe import beam_frequencies, disk_aperture, make_modes, make_probe

SHAPE = (40, 54)
PIXEL = (0.3, 0.25)
DISTANCES = (20.0,) * 4
WINDOW = (36, 48)


def noisy_object(dtype=np.complex64, n_slices=5, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    phase = rng.normal(0.2, 0.3, (n_slices, *shape))
    return (rng.normal(1, 0.05, phase.shape) * np.exp(1j * phase)).astype(dtype)


def wave(row, column, shape=SHAPE):
    """cos of whole periods in the window, and its frequency in 1/Å."""
    y, x = np.indices(shape)
    value = np.cos(2 * np.pi * (row * y / shape[0] + column * x / shape[1]))
    return value, np.hypot(row / (shape[0] * PIXEL[0]), column / (shape[1] * PIXEL[1]))


def probe_modes(dtype=np.complex64):
    k = beam_frequencies(WINDOW, (0.2, 0.15))
    probe = make_probe(disk_aperture(*k, 0.9), *k, 0.025, defocus=60.0)
    return make_modes(probe, 3, minor_power=0.1).astype(dtype) * np.float32(2)


ILLUMINATION = np.hypot(*np.ogrid[-20:20, -27:27]) < 18
OBJECT_FUNCTIONS = {
    "depth": lambda o, s: module.depth_filter(o, DISTANCES, PIXEL, s),
    "depth of phase": lambda o, s: module.depth_filter(o, DISTANCES, PIXEL, s, of="phase"),
    "positive": lambda o, s: module.positive_phase(o, s, illumination=ILLUMINATION),
    "variation": module.total_variation,
    "bandwidth": lambda o, s: module.limit_bandwidth(o, PIXEL, 0.5 / s if s else np.inf),
    "phase only": lambda o, s: module.phase_only(o) if s else o,
}
MODE_FUNCTIONS = {
    "support": lambda m, s: module.probe_support(m, 0.4, strength=s),
}


class TestAll:
    @pytest.mark.parametrize("name", [*OBJECT_FUNCTIONS, *MODE_FUNCTIONS])
    @pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
    def test_pure(self, name, dtype):
        function = {**OBJECT_FUNCTIONS, **MODE_FUNCTIONS}[name]
        before = noisy_object(dtype) if name in OBJECT_FUNCTIONS else probe_modes(dtype)
        kept = before.copy()
        after = function(before, 0.7)
        assert after.dtype == dtype and after.shape == before.shape
        assert np.abs(after - before).max() > 1e-3
        assert not np.shares_memory(after, before)
        np.testing.assert_array_equal(before, kept)
        np.testing.assert_array_equal(function(before, 0.0), before)

    @pytest.mark.parametrize("name", OBJECT_FUNCTIONS)
    def test_one_slice_of_any_size(self, name):
        # 37 and 53 are primes
        before = noisy_object(n_slices=1, shape=(37, 53))
        if name == "positive":
            after = module.positive_phase(before, 0.7)
        elif name.startswith("depth"):
            after = module.depth_filter(before, (), PIXEL, 0.7)
        else:
            after = OBJECT_FUNCTIONS[name](before, 0.7)
        assert after.shape == before.shape and np.isfinite(after).all()
        if name.startswith("depth"):
            np.testing.assert_array_equal(after, before)

    @pytest.mark.parametrize("name", ["depth", "positive", "variation"])
    @pytest.mark.parametrize("strength", [-0.1, np.nan])
    def test_strength_is_checked(self, name, strength):
        with pytest.raises(ValueError, match="at least 0"):
            OBJECT_FUNCTIONS[name](noisy_object(), strength)


class TestDepthFilter:
    @pytest.mark.parametrize("periods", [(3, 0), (0, 4), (5, 2)])
    @pytest.mark.parametrize("half_periods", [1, 2, 4])
    def test_weight(self, periods, half_periods):
        # a standing wave in depth that has its antinodes on both faces
        lateral, k = wave(*periods)
        depth = np.cos(np.pi * half_periods * (np.arange(5) + 0.5) / 5)
        change = 0.1 * depth[:, None, None] * lateral
        k_z = half_periods / (2 * 100.0)
        strength = k / k_z / 1.3  # in the middle of the filter's fall
        after = module.depth_filter(1 + change + 0j, DISTANCES, PIXEL, strength)
        weight = 1 - 2 / np.pi * np.arctan((strength * k_z / k) ** 2)
        assert 0.3 < weight < 0.8
        np.testing.assert_allclose(after, 1 + weight * change, atol=1e-12)

    @pytest.mark.parametrize("shape", [SHAPE, (37, 53)])
    def test_sum_of_slices_is_kept(self, shape):
        before = noisy_object(np.complex128, shape=shape)
        before *= np.exp(-1j * np.angle(before.mean((1, 2))))[:, None, None]
        after = module.depth_filter(before, DISTANCES, PIXEL, 30.0)
        assert np.abs(after - before).max() > 0.1
        np.testing.assert_allclose(after.sum(0), before.sum(0), atol=1e-12)

    @pytest.mark.parametrize("distances", [DISTANCES, (10.0, 30.0, 15.0, 40.0)])
    def test_sum_of_phases_is_kept(self, distances):
        before = noisy_object(np.complex128)
        after = module.depth_filter(before, distances, PIXEL, 30.0, of="phase")
        np.testing.assert_allclose(np.abs(after), np.abs(before))
        np.testing.assert_allclose(np.angle(after.prod(0) / before.prod(0)), 0, atol=1e-9)

    def test_weak_phase_both_ways(self):
        before = np.exp(0.01j * np.angle(noisy_object(np.complex128)))
        by_wave = module.depth_filter(before, DISTANCES, PIXEL, 30.0)
        by_phase = module.depth_filter(before, DISTANCES, PIXEL, 30.0, of="phase")
        assert np.abs(by_phase - before).max() > 1.5e-3
        np.testing.assert_allclose(by_wave, by_phase, atol=5e-5)

    def test_no_wrap_in_depth(self):
        # a detail in the first slice does not come out in the last one
        detail = np.zeros((8, *SHAPE))
        detail[0] = 0.1 * wave(4, 3)[0]
        after = module.depth_filter(1 + detail + 0j, (20.0,) * 7, PIXEL, 30.0)
        size = np.abs(after - 1).max((1, 2))
        assert size[0] > 2 * size[7] and np.all(np.diff(size[:4]) < 0)
        assert size[7] < 0.5 * size[1]

    @pytest.mark.parametrize("phases", [(1, 0, 2, -1.5, 0.3), (3, -3, 1, 0, 2)])
    def test_constant_phases_of_slices(self, phases):
        # they are not measured, and must not make slices cancel each other
        before = noisy_object(np.complex128)
        phases = np.array(phases)
        turned = before * np.exp(1j * phases)[:, None, None]
        after = [module.depth_filter(o, DISTANCES, PIXEL, 10.0) for o in (before, turned)]
        np.testing.assert_allclose(after[1].prod(0), after[0].prod(0) * np.exp(1j * phases.sum()))

    def test_uneven_distances(self):
        # one material, cut into slices of different thickness, is left alone
        distances = (10.0, 30.0, 15.0, 40.0)
        padded = np.array([10.0, *distances, 40.0])
        thickness = (padded[1:] + padded[:-1]) / 2
        phase = 0.002 * thickness[:, None, None] * (2 + wave(3, 1)[0])
        even = np.exp(1j * phase)
        after = module.depth_filter(even, distances, PIXEL, 30.0, of="phase")
        np.testing.assert_allclose(after, even, atol=1e-12)
        # and what changes with depth is damped
        uneven = np.exp(1j * phase * np.array([2, 0, 2, 0, 2])[:, None, None])
        after = module.depth_filter(uneven, distances, PIXEL, 300.0, of="phase")
        by_thickness = np.angle(after)[:, 20, 30] / thickness
        assert np.ptp(by_thickness) < 0.2 * 0.004 * (2 + wave(3, 1)[0][20, 30])

    def test_many_distances(self):
        with pytest.raises(ValueError, match="5 slices have 4 distances"):
            module.depth_filter(noisy_object(), DISTANCES[1:], PIXEL, 1.0)
        with pytest.raises(ValueError, match="'complex' or 'phase'"):
            module.depth_filter(noisy_object(), DISTANCES, PIXEL, 1.0, of="amplitude")


class TestPositivePhase:
    def phase(self):
        """Atoms on vacuum, of which a third of the pixels is empty but for noise; two holes."""
        y, x = np.indices(SHAPE)
        phase = np.maximum(np.sin(y / 2.5) * np.sin(x / 3), 0)
        holes = np.zeros(SHAPE, bool)
        holes[15:17, 20:22] = holes[25:27, 30:33] = True
        return np.where(holes, -0.4, phase), holes

    @pytest.mark.parametrize("constant", [0.0, 2.0, -3.1])
    @pytest.mark.parametrize("strength", [0.4, 1.0])
    def test_whatever_the_constant(self, constant, strength):
        phase, holes = self.phase()
        before = 0.9 * np.exp(1j * (phase + constant))[None]
        after = module.positive_phase(before, strength)
        expected = np.where(holes, -0.4 * (1 - strength), phase)
        np.testing.assert_allclose(after[0], 0.9 * np.exp(1j * (expected + constant)), atol=1e-9)

    def test_each_slice_has_its_own_level(self):
        phase, holes = self.phase()
        before = np.exp(1j * (phase + np.array([0.0, 1.0, -2.0])[:, None, None]))
        after = module.positive_phase(before, 1.0)
        for a, b in zip(after, before, strict=True):
            np.testing.assert_allclose(a[~holes], b[~holes])
            np.testing.assert_allclose(np.angle(a / b)[holes], 0.4)

    def test_strong_phases_are_not_holes(self):
        phase = 4.2 * self.phase()[0].clip(0)
        before = np.exp(1j * phase)[None]
        np.testing.assert_allclose(module.positive_phase(before, 1.0), before, atol=1e-9)

    def test_only_where_illuminated(self):
        phase, _ = self.phase()
        dark = ~ILLUMINATION
        before = np.exp(1j * np.where(dark, -2.0, phase))[None]
        after = module.positive_phase(before, 1.0, illumination=ILLUMINATION * 7.0)
        np.testing.assert_array_equal(after[0][dark], before[0][dark])
        np.testing.assert_allclose(np.angle(after[0][~dark]), phase.clip(0)[~dark], atol=1e-9)

    def test_level_stays(self):
        before = noisy_object(np.complex128, 1)
        once = module.positive_phase(before, 0.5)
        level = np.percentile(np.angle(before), 10, method="lower")
        for _ in range(20):
            once = module.positive_phase(once, 0.5)
        np.testing.assert_allclose(np.angle(once), np.angle(before).clip(level), atol=1e-4)


class TestTotalVariation:
    def test_against_scikit_image(self):
        restoration = pytest.importorskip("skimage.restoration")
        image = noisy_object(np.complex128, 1).real
        weight = 0.1
        scale = np.sqrt((image**2).mean())
        ours = module.total_variation(image + 0j, weight / scale, n_iterations=50)
        theirs = restoration.denoise_tv_chambolle(image[0], weight, eps=0, max_num_iter=51)
        assert np.abs(theirs - image[0]).max() > 0.05
        np.testing.assert_allclose(ours[0].real, theirs, atol=1e-6)
        np.testing.assert_array_equal(ours.imag, 0)

    def test_constant_phase_and_scale(self):
        before = noisy_object(np.complex128)
        factor = 3 * np.exp(2.5j)
        np.testing.assert_allclose(
            module.total_variation(factor * before, 0.1),
            factor * module.total_variation(before, 0.1),
        )

    def test_edges_stay_and_noise_goes(self):
        rng = np.random.default_rng(2)
        phase = np.where(np.arange(54) < 27, 0, 0.8) + np.zeros((2, *SHAPE))
        noise = 0.1 * (rng.normal(size=phase.shape) + 1j * rng.normal(size=phase.shape))
        after = module.total_variation(np.exp(1j * phase) + noise, 0.15, n_iterations=100)
        assert np.std(np.angle(after[..., :20])) < 0.03
        assert np.angle(after[..., 28]).mean() - np.angle(after[..., 25]).mean() > 0.65
        np.testing.assert_allclose(
            after.mean((1, 2)), (np.exp(1j * phase) + noise).mean((1, 2)), atol=1e-12
        )


class TestLimitBandwidth:
    @pytest.mark.parametrize(
        ("ratio", "weight"), [(0.5, 1), (0.89, 1), (0.95, None), (1, 0.5), (1.05, None), (1.11, 0)]
    )
    def test_weight(self, ratio, weight):
        lateral, k = wave(4, 5)
        after = module.limit_bandwidth(1 + 0.1j * lateral[None], PIXEL, k / ratio)
        if weight is None:
            weight = 0.5 + 0.5 * np.cos(np.pi * ((ratio - 1) / 0.2 + 0.5))
        np.testing.assert_allclose(after[0], 1 + weight * 0.1j * lateral, atol=1e-12)

    def test_refused(self):
        with pytest.raises(ValueError, match="positive"):
            module.limit_bandwidth(noisy_object(), PIXEL, 0.0)


class TestAmplitudes:
    def test_phase_only(self):
        before = noisy_object()
        before[0, 3, 4] = 0
        after = module.phase_only(before)
        np.testing.assert_allclose(np.abs(after), 1, rtol=1e-6)
        assert after[0, 3, 4] == 1
        some = before != 0
        np.testing.assert_allclose(np.angle(after[some]), np.angle(before[some]), atol=1e-6)


class TestSupports:
    def test_real_space(self):
        before = probe_modes(np.complex128)
        after = module.probe_support(before, 0.4, edge=0.2)
        y, x = (np.arange(36) - 18) / 18, (np.arange(48) - 24) / 24
        place = np.hypot(y[:, None], x[None, :])
        inside, outside = place < 0.4, place > 0.6
        factor = after[:, inside] / before[:, inside]
        # the power that was outside comes back evenly
        np.testing.assert_allclose(factor, factor[0, 0])
        assert factor[0, 0].real > 1.001
        assert np.all(after[:, outside] == 0)
        ratio = np.abs(after[0] / before[0])[~inside & ~outside] / factor[0, 0].real
        assert 0 < ratio.min() < 0.2 and 0.8 < ratio.max() < 1
        assert (np.abs(after) ** 2).sum() == pytest.approx(4)

    def test_real_space_half_way(self):
        before = probe_modes(np.complex128)
        after = module.probe_support(before, 0.4, strength=0.25)
        ratio = np.abs(after[0] / before[0])
        assert ratio[0, 0] / ratio[18, 24] == pytest.approx(0.75)

    def test_nothing_left(self):
        far = np.zeros((1, *WINDOW), np.complex64)
        far[0, 2, 3] = 1
        with pytest.raises(ValueError, match="enlarge the support"):
            module.probe_support(far, 0.3)
        with pytest.raises(ValueError, match="Radius and edge"):
            module.probe_support(far, 0.0)
