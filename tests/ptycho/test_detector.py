"""What a measured pattern asks of the model, pixel by pixel, through the whole kernel.

The object is vacuum, so that a position's gradient of the probe is the factor f on the exit wave's
spectrum, and its model the probe's intensity.
"""

import numpy as np
import pytest
from scipy.ndimage import convolve1d, gaussian_filter
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from hs_autoptycho.ptycho.detector import AMPLITUDE_FLOOR, CHUNK, COUNT_TYPES
from hs_autoptycho.ptycho.fft import make_plan, planes_to_spectrum, spectrum_to_planes
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import place
from hs_autoptycho.ptycho.state import State, make_detector

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = (28, 40)
FLOOR = float(AMPLITUDE_FLOOR)
RHO = 8.0


class Pattern:
    """One measured pattern, and a model of the given intensities of mean 1 a pixel.

    All arrays (rows, columns), zero frequency at pixel shape // 2.
    """

    def __init__(self, counts, intensity, **options):
        self.patterns = Patterns.from_blocks([counts[None]], 1, WINDOW)
        self.scale = counts.size / counts.sum(dtype=float)
        self.measured = np.sqrt(counts.astype(float) * self.scale)
        self.plan = make_plan(*WINDOW)
        placement = place(np.zeros((1, 2)), WINDOW)
        self.state = State.start(
            self.plan, placement, np.ones((1, *WINDOW)), make_detector(self.patterns, **options)
        )
        phase = np.random.default_rng(0).uniform(-3, 3, WINDOW)
        self.wave = np.sqrt(intensity * counts.size) * np.exp(1j * phase)
        spectrum = np.fft.ifftshift(self.wave)[None]
        self.state.spectra[:] = spectrum_to_planes(spectrum, self.plan)
        self.batch = self.state.batch(np.array([0]))

    @property
    def prediction(self):
        ordered = self.state.model_intensities(self.batch)[0]
        spectrum = planes_to_spectrum(np.concatenate([ordered, 0 * ordered]), self.plan)
        return np.fft.fftshift(spectrum.real.astype(float))

    def change(self):
        """f Ψ, and Σ(A − a)², Σ A a, Σ a²."""
        found = self.state.gradients(self.batch)
        change = np.fft.fftshift(planes_to_spectrum(found.probes.sum(0)[0], self.plan))
        return change.astype(complex), found.sums[0]

    def factor(self):
        """f, and the sums."""
        change, sums = self.change()
        factor = change / self.wave
        np.testing.assert_allclose(factor.imag, 0, atol=1e-4)
        return factor.real, sums


@pytest.fixture
def counts():
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.uniform(0, 60, WINDOW)).astype(np.uint16)
    counts[5:8, 3:20] = 0
    return counts


@pytest.fixture
def intensity():
    return np.random.default_rng(2).uniform(0.1, 3, WINDOW)


def test_amplitude(counts, intensity):
    assert counts.size % CHUNK  # the last piece of a pattern is shorter
    pattern = Pattern(counts, intensity)
    factor, sums = pattern.factor()
    measured, a = pattern.measured, np.sqrt(intensity)
    np.testing.assert_allclose(factor, (measured - a) / (a + FLOOR), atol=2e-5)
    terms = (measured - a) ** 2, measured * a, a**2
    np.testing.assert_allclose(sums, [term.sum() for term in terms], rtol=1e-5)


def test_dark_pixels_fade_out(counts, intensity):
    intensity[10:20] = 1e-9  # an amplitude far below the floor
    pattern = Pattern(counts, intensity)
    change, _ = pattern.change()
    asked = np.abs(change[10:20]) / np.sqrt(counts.size)
    assert asked.max() < 0.01 * pattern.measured[10:20].max()


class TestPoisson:
    def target(self, pattern, intensity):
        """The amplitude that the kernel's step goes to, taken back from f."""
        factor, _ = pattern.factor()
        a = np.sqrt(intensity)
        return a + factor * (a + FLOOR) / (1 + RHO / 2)

    def test_is_the_proximal_operator(self, counts, intensity):
        pattern = Pattern(counts, intensity, poisson=True)
        target, start = self.target(pattern, intensity), np.sqrt(intensity)
        for y, x in [(0, 0), (3, 30), (6, 10), (14, 20), (27, 39), (22, 5)]:
            square, a0 = pattern.measured[y, x] ** 2, start[y, x]

            def penalty(a, square=square, a0=a0):
                likelihood = a**2 - (2 * square * np.log(a) if square else 0)
                return likelihood + RHO * (a - a0) ** 2

            bounds = (1e-6, a0 + pattern.measured[y, x] + 1)
            best = minimize_scalar(
                penalty, bounds=bounds, method="bounded", options={"xatol": 1e-9}
            )
            assert target[y, x] == pytest.approx(best.x, rel=1e-5)

    def test_by_bisection(self, counts, intensity, poisson_target):
        pattern = Pattern(counts, intensity, poisson=True)
        factor, _ = pattern.factor()
        a = np.sqrt(intensity)
        expected = (poisson_target(pattern.measured, a) - a) / (a + FLOOR)
        np.testing.assert_allclose(factor, expected, atol=2e-5)

    def test_whole_way_near_the_minimum(self, counts):
        # and there it is a step of Newton's method on the likelihood, as that of the amplitudes
        counts = counts + np.uint16(20)
        intensity = counts * (counts.size / counts.sum()) * 1.002
        poisson, _ = Pattern(counts, intensity, poisson=True).factor()
        amplitude, _ = Pattern(counts, intensity).factor()
        np.testing.assert_allclose(poisson, amplitude, rtol=5e-3)

    def test_sign_is_that_of_the_likelihood(self, counts, intensity):
        pattern = Pattern(counts, intensity, poisson=True)
        factor, _ = pattern.factor()
        slope = pattern.measured**2 / intensity - 1
        clear = np.abs(slope) > 1e-3
        np.testing.assert_array_equal(np.sign(factor)[clear], np.sign(slope)[clear])


@pytest.mark.parametrize("poisson", [False, True])
class TestMask:
    def test_asks_for_nothing(self, counts, intensity, poisson):
        mask = np.ones(WINDOW, bool)
        mask[2, 5] = mask[20:25, 30:] = mask[14, 20] = False
        plain, _ = Pattern(counts, intensity, poisson=poisson).factor()
        factor, sums = Pattern(counts, intensity, poisson=poisson, mask=mask).factor()
        np.testing.assert_allclose(factor, plain * mask, atol=2e-6)
        np.testing.assert_allclose(factor[~mask], 0, atol=1e-6)  # what the transforms round
        a = np.sqrt(intensity)
        assert sums[2] == pytest.approx((mask * a**2).sum(), rel=1e-5)

    def test_broken_pixels_are_of_no_account(self, counts, intensity, poisson):
        mask = np.ones(WINDOW, bool)
        mask[9, 3:7] = False
        expected = Pattern(counts, intensity, poisson=poisson, mask=mask)
        shuffled = counts.copy()
        shuffled[9, 3:7] = shuffled[9, 6:2:-1]  # of the same sum: the scale stays
        found = Pattern(shuffled, intensity, poisson=poisson, mask=mask)
        assert np.any(counts != shuffled)
        for one, two in zip(expected.factor(), found.factor(), strict=True):
            np.testing.assert_array_equal(one, two)


class TestBackground:
    def test_by_pixel(self, counts, intensity):
        background = np.random.default_rng(3).uniform(0, 20, WINDOW)  # counts
        pattern = Pattern(counts, intensity, background=background)
        a = np.sqrt(intensity + background * pattern.scale)
        factor, sums = pattern.factor()
        np.testing.assert_allclose(factor, (pattern.measured - a) / (a + FLOOR), atol=2e-5)
        assert sums[1] == pytest.approx((pattern.measured * a).sum(), rel=1e-5)
        np.testing.assert_allclose(pattern.prediction, a**2, rtol=1e-5)

    def test_number(self, counts, intensity):
        pattern = Pattern(counts, intensity, background=4.0)
        np.testing.assert_allclose(pattern.prediction, intensity + 4 * pattern.scale, rtol=1e-5)

    def test_is_not_multiplied_by_the_brightness(self, counts, intensity):
        pattern = Pattern(counts, intensity, background=4.0)
        pattern.state.brightness[:] = 1.7
        pattern.batch = pattern.state.batch(np.array([0]))
        a = np.sqrt(1.7 * intensity + 4 * pattern.scale)
        np.testing.assert_allclose(pattern.prediction, a**2, rtol=1e-5)
        factor, _ = pattern.factor()
        # the gradient: a brighter beam says more about the wave
        expected = 1.7 * (pattern.measured - a) / (a + FLOOR)
        np.testing.assert_allclose(factor, expected, atol=3e-5)

    def test_explains_a_dark_model(self, counts, intensity):
        # counts that the background explains ask for nothing where there is no wave
        pattern = Pattern(np.full(WINDOW, 7, np.uint8), 1e-8 * intensity, background=7.0)
        factor, sums = pattern.factor()
        np.testing.assert_allclose(factor, 0, atol=1e-5)
        assert sums[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("poisson", [False, True])
class TestSaturation:
    def test_says_at_least(self, counts, intensity, poisson):
        limit = 30
        counts = np.minimum(counts, limit).astype(np.uint16)
        saturated = counts == limit
        pattern = Pattern(counts, intensity, poisson=poisson, saturation=limit)
        plain, _ = Pattern(counts, intensity, poisson=poisson).factor()
        factor, sums = pattern.factor()
        a = np.sqrt(intensity)
        brighter = saturated & (a >= pattern.measured)
        assert brighter.sum() > 50 and (saturated & ~brighter).sum() > 50
        # at least as bright: nothing to mend; dimmer: pulled up as any other pixel
        np.testing.assert_allclose(factor[brighter], 0, atol=1e-6)
        assert np.all(plain[brighter & (a > 1.01 * pattern.measured)] < 0)
        np.testing.assert_allclose(factor[~brighter], plain[~brighter], atol=2e-6)
        assert np.all(factor[saturated & (a < 0.99 * pattern.measured)] > 0)
        # nor are they an error
        right = np.where(brighter, pattern.measured, a)
        terms = (pattern.measured - right) ** 2, pattern.measured * right, right**2
        np.testing.assert_allclose(sums, [term.sum() for term in terms], rtol=1e-5)

    @pytest.mark.parametrize("dtype", COUNT_TYPES)
    def test_limit_is_saturated(self, dtype, poisson):
        # at any scale: rounding must not make a saturated count one that is just below
        rng = np.random.default_rng(5)
        for limit in (7, 61, 100, 199, 255):
            counts = rng.integers(limit // 2, limit + 1, WINDOW).astype(dtype)
            counts[counts == limit - 1] = limit - 2
            pattern = Pattern(counts, np.full(WINDOW, 9.0), poisson=poisson, saturation=limit)
            factor, _ = pattern.factor()
            np.testing.assert_allclose(factor[counts == limit], 0, atol=1e-6)
            assert np.all(factor[counts < limit] < -0.1)


class TestBlur:
    @pytest.mark.parametrize("sigma", [0.6, 1.5])
    def test_against_scipy(self, counts, intensity, sigma):
        intensity = intensity + 5 * (np.indices(WINDOW).sum(0) == 20)
        found = Pattern(counts, intensity, blur=sigma).prediction
        reach = int(np.ceil(9 * sigma))
        weights = np.diff(norm.cdf(np.arange(-reach, reach + 2) - 0.5, scale=sigma))
        exact = convolve1d(
            convolve1d(intensity, weights, axis=0, mode="wrap"), weights, mode="wrap"
        )
        np.testing.assert_allclose(found, exact, rtol=1e-5)
        assert np.abs(found - intensity).max() > 0.3
        if sigma > 1:  # a pixel's own width adds to the Gaussian's
            scipys = gaussian_filter(intensity, np.sqrt(sigma**2 + 1 / 12), mode="wrap", truncate=8)
            np.testing.assert_allclose(found, scipys, rtol=1e-3)

    def test_keeps_the_counts(self, counts, intensity):
        found = Pattern(counts, intensity, blur=2.0).prediction
        assert found.sum() == pytest.approx(intensity.sum(), rel=1e-5)

    def test_bright_pixel_spreads_the_same_way_along_both_axes(self, counts):
        spot = np.zeros(WINDOW)
        spot[14, 20] = 100
        found = Pattern(counts, spot, blur=1.6).prediction
        for distance in range(1, 6):
            around = [(14 - distance, 20), (14 + distance, 20), (14, 20 - distance)]
            expected = found[14, 20] * np.exp(-(distance**2) / 2 / (1.6**2 + 1 / 12))
            np.testing.assert_allclose(
                [found[place] for place in around], expected, rtol=0.01, atol=1e-4
            )
        assert (found >= 0).all()

    def test_is_its_own_adjoint(self, counts, intensity):
        # with one pixel used, f is that pixel's, spread by the adjoint
        for place_ in [(3, 4), (14, 20), (27, 0)]:
            mask = np.zeros(WINDOW, bool)
            mask[place_] = True
            pattern = Pattern(counts, intensity, mask=mask, blur=1.3)
            factor, _ = pattern.factor()
            spot = np.zeros(WINDOW)
            spot[place_] = 1
            spread = Pattern(counts, spot, blur=1.3).prediction
            a = np.sqrt(pattern.prediction[place_])
            asked = (pattern.measured[place_] - a) / (a + FLOOR)
            assert abs(asked) > 0.03
            np.testing.assert_allclose(factor, asked * spread, atol=2e-5)

    def test_no_blur_is_no_blur(self, counts, intensity):
        assert make_detector(Pattern(counts, intensity).patterns, blur=0.0).transfer.size == 0
        np.testing.assert_allclose(Pattern(counts, intensity).prediction, intensity, rtol=1e-5)


class TestMakeDetector:
    @pytest.mark.parametrize("dtype", ["int32", "float64", "uint64"])
    def test_types(self, dtype):
        # as no loader makes them
        patterns = Patterns(np.ones((2, 6), dtype), make_plan(2, 3), 6.0)
        with pytest.raises(TypeError, match=f"uint8, uint16, uint32, float32, not {dtype}"):
            make_detector(patterns)

    def test_shapes(self, counts):
        patterns = Patterns.from_blocks([counts[None]], 1, WINDOW)
        for options in ({"mask": np.ones((28, 41), bool)}, {"background": np.ones((40, 28))}):
            with pytest.raises(ValueError):  # numpy's own words
                make_detector(patterns, **options)

    def test_counts_are_not_copied(self, counts):
        patterns = Patterns.from_blocks([counts[None]], 1, WINDOW)
        assert np.shares_memory(make_detector(patterns).counts, patterns.counts)

    def test_scale(self, counts):
        patterns = Patterns.from_blocks([np.stack([counts, 3 * counts])], 2, WINDOW)
        detector = make_detector(patterns, background=2.0, saturation=50)
        assert detector.scale * counts.mean() == pytest.approx(0.5, rel=1e-6)
        np.testing.assert_allclose(detector.background, 2 * detector.scale, rtol=1e-6)
        assert detector.saturation == pytest.approx(50 * detector.scale, rel=1e-6)
