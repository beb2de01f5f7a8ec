"""The float32 kernels against the same formulas in complex128; threads, groups, types of counts.

That the formulas are the loss's gradients is shown by finite differences in test_gradients.
"""

import numba
import numpy as np
import pytest

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.detector import COUNT_TYPES
from hs_autoptycho.ptycho.fft import make_plan
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.state import make_detector

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-5

CASES = {
    "one slice": {"window": (24, 40), "rotation": 21.0, "step": 2.37, "scan": (5, 7)},
    "three modes, detector": {
        "n_modes": 3,
        "blur": 0.9,
        "masked": True,
        "background": True,
        "fluctuation": 0.1,
    },
    "poisson": {"poisson": True, "n_modes": 2, "step": 3.0, "window": (30, 36)},
    "three slices": {
        "distances": (40.0, 15.0),
        "tilt": (9.0, -4.0),
        "n_modes": 2,
        "fluctuation": 0.1,
        "window": (27, 35),
    },
    "a class each": {"own": True, "distances": (25.0,), "n_modes": 2},
}


def relative_error(result, reference):
    return np.linalg.norm(result - reference) / np.linalg.norm(reference)


@pytest.fixture(scope="module", params=CASES)
def scan(request, make_scan):
    return make_scan(**CASES[request.param])


class TestVisit:
    def test_gradients(self, scan):
        _, by_object, by_probe = scan.gradients()
        expected = scan.model.gradients(scan.chosen)
        for s in range(len(by_object)):
            assert relative_error(by_object[s], expected[0][s]) < TOLERANCE
        for m in range(scan.n_modes):
            assert relative_error(by_probe[m], expected[1][m]) < TOLERANCE

    def test_nothing_beyond_the_windows(self, scan):
        _, by_object, _ = scan.gradients()
        expected, _ = scan.model.gradients(scan.chosen)
        assert not by_object[expected == 0].any()
        assert (expected == 0).any()

    def test_sums(self, scan):
        found, _, _ = scan.gradients()
        expected = []
        for n in scan.batch.indices:
            a, measured = np.sqrt(scan.model.intensity(n)), scan.model.amplitudes[n]
            mask = scan.model.mask
            terms = [(measured - a) ** 2, measured * a, a**2]
            expected.append([(mask * term).sum() for term in terms])
        np.testing.assert_allclose(found.sums, expected, rtol=TOLERANCE)

    def test_prediction(self, scan):
        model = scan.natural(scan.state.model_intensities(scan.batch))
        expected = np.stack([scan.model.intensity(n) for n in scan.batch.indices])
        assert relative_error(model, expected) < TOLERANCE
        # vacuum would have the mean 1
        assert 0.7 < model.mean() < 2

    def test_prediction_leaves_the_state_alone(self, scan):
        first, by_object, by_probe = scan.gradients()
        sums = first.sums.copy()
        scan.state.model_intensities(scan.batch)
        second, again, probe_again = scan.gradients()
        np.testing.assert_array_equal(by_object, again)
        np.testing.assert_array_equal(by_probe, probe_again)
        np.testing.assert_array_equal(sums, second.sums)

    def test_variable_modes(self, make_scan):
        scan = make_scan(own=True, n_variable=2, n_modes=2, distances=(20.0,))
        _, by_object, by_probe = scan.gradients()
        expected = scan.model.gradients(scan.chosen)
        assert relative_error(by_object, expected[0]) < TOLERANCE
        assert relative_error(by_probe[:2], expected[1]) < TOLERANCE
        model = scan.natural(scan.state.model_intensities(scan.batch))
        intensities = np.stack([scan.model.intensity(n) for n in scan.batch.indices])
        assert relative_error(model, intensities) < TOLERANCE

    def test_working_memory_for_derivatives_is_optional(self, make_scan):
        scan = make_scan(**CASES["three slices"])
        with_it, by_object, by_probe = scan.gradients()
        assert with_it.propagation.all()
        scan.state.passing = False
        scan.state.propagate(scan.state.propagation)
        without, object_again, probe_again = scan.gradients()
        assert not without.propagation.any()
        np.testing.assert_array_equal(by_object, object_again)
        np.testing.assert_array_equal(by_probe, probe_again)

    @pytest.mark.parametrize("own", [False, True])
    def test_one_position(self, make_scan, own):
        scan = make_scan(own=own, scan=(1, 1), n_modes=2)
        _, by_object, by_probe = scan.gradients()
        expected = scan.model.gradients(scan.chosen)
        assert relative_error(by_object, expected[0]) < TOLERANCE
        assert relative_error(by_probe, expected[1]) < TOLERANCE

    def test_dark_model(self, make_scan):
        # no exit wave, no phase to give the measured amplitudes
        scan = make_scan(seed=4)
        scan.state.object[:] = 0
        found, by_object, by_probe = scan.gradients()
        assert np.isfinite(by_object).all() and not by_object.any()
        assert np.isfinite(by_probe).all() and not by_probe.any()
        expected = [(scan.model.amplitudes[n] ** 2).sum() for n in scan.batch.indices]
        np.testing.assert_allclose(found.sums[:, 0], expected, rtol=TOLERANCE)
        assert not found.sums[:, 1:].any()


class TestReproducible:
    @pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="only one thread here")
    def test_any_number_of_threads(self, scan):
        results = []
        for threads in (1, 2):
            numba.set_num_threads(threads)
            found, by_object, by_probe = scan.gradients()
            sums, positions, propagation = found.sums, found.positions, found.propagation
            model = scan.state.model_intensities(scan.batch).copy()
            batch = scan.state.batch(scan.chosen)  # the groups are no matter of threads either
            for field in ("indices", "starts", "bands", "classes"):
                np.testing.assert_array_equal(
                    getattr(batch.visit, field), getattr(scan.batch.visit, field)
                )
            results.append((by_object, by_probe, sums, positions, propagation, model))
        assert scan.state.space().waves.shape[0] == 2
        for one, two in zip(*results, strict=True):
            np.testing.assert_array_equal(one, two)

    def test_more_threads_than_groups(self, scan):
        # as working memory says it, which needs no threads of this machine
        from hs_autoptycho.ptycho import state

        _, by_object, by_probe = scan.gradients()
        expected = by_object.copy(), by_probe.copy()
        groups = len(scan.batch.visit.bands)
        space = scan.state.space()
        many = groups + 3
        large = type(space)(*(state.aligned((many, *part.shape[1:])) for part in space))
        scan.state._space = large
        try:
            assert scan.state.space() is large
            _, by_object, by_probe = scan.gradients()
        finally:
            scan.state._space = space
        np.testing.assert_array_equal(by_object, expected[0])
        np.testing.assert_array_equal(by_probe, expected[1])

    def test_order_of_the_indices(self, scan):
        # a batch is sorted: what it is given in any order is the same batch but for ties
        found, by_object, by_probe = scan.gradients()
        sums = dict(zip(scan.batch.indices, found.sums, strict=True))
        before, scan.batch = scan.batch, scan.state.batch(scan.chosen[::-1])
        try:
            found, object_again, probe_again = scan.gradients()
            again = dict(zip(scan.batch.indices, found.sums, strict=True))
        finally:
            scan.batch = before
        assert relative_error(object_again, by_object) < TOLERANCE
        assert relative_error(probe_again, by_probe) < TOLERANCE
        for n in scan.chosen:
            np.testing.assert_array_equal(sums[n], again[n])


class TestTypesOfCounts:
    def test_all_give_the_same(self, make_scan):
        scan = make_scan(n_modes=2)
        counts = np.random.default_rng(3).integers(0, 200, (15, *scan.window))
        results = []
        for dtype in COUNT_TYPES:
            patterns = Patterns.from_blocks([counts.astype(dtype)], len(counts), scan.window)
            assert patterns.counts.dtype == dtype
            scan.state.detector = make_detector(patterns)
            found, by_object, by_probe = scan.gradients()
            results.append((found.sums, by_object, by_probe))
        for other in results[1:]:
            for one, two in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(one, two)
        assert np.ptp(results[0][0][:, 0]) > 0

    @pytest.mark.parametrize("dtype", COUNT_TYPES)
    def test_no_other_byte(self, make_scan, dtype):
        # numbers that need all of their bytes
        scan = make_scan(scan=(2, 3))
        rng = np.random.default_rng(8)
        largest = 2**24 if dtype in ("uint32", "float32") else np.iinfo(dtype).max
        counts = rng.integers(0, largest, (6, *scan.window)).astype(dtype)
        patterns = Patterns.from_blocks([counts], 6, scan.window)
        scan.state.detector = make_detector(patterns)
        found, _, _ = scan.gradients()
        scale = counts[0].size / counts.sum((1, 2), dtype=float).mean()
        for n, sums in zip(scan.batch.indices, found.sums, strict=True):
            measured = np.sqrt(np.fft.ifftshift(counts[n].astype(float)) * scale)
            a = np.sqrt(scan.model.intensity(n))
            np.testing.assert_allclose(sums[1], (measured * a).sum(), rtol=TOLERANCE)


def random_planes(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def as_complex(planes):
    """(…, 2, Y, X) to complex128."""
    return planes[..., 0, :, :].astype(float) + 1j * planes[..., 1, :, :]


class TestGroups:
    def test_add_groups(self):
        rng = np.random.default_rng(1)
        groups = random_planes(rng, 3, 2, 2, 9, 14)
        bands = np.array([[0, 4], [2, 9], [5, 5]])
        # what is outside of the bands is left over from another batch
        for g, (first, last) in enumerate(bands):
            groups[g, :, :, :first] = groups[g, :, :, last:] = np.nan
        out = np.full(groups.shape[1:], np.nan, np.float32)
        kernels.add_groups(groups, bands, out)
        np.testing.assert_allclose(out, np.nansum(groups, 0), rtol=1e-6, atol=1e-6)
        assert not np.isnan(out).any()

    def test_rows_that_no_group_sees(self):
        out = np.full((1, 2, 9, 14), np.nan, np.float32)
        kernels.add_groups(np.ones((2, 1, 2, 9, 14), np.float32), np.array([[1, 3], [5, 8]]), out)
        np.testing.assert_array_equal(out[0, 0, :, 3], [0, 1, 1, 0, 0, 1, 1, 1, 0])

    @pytest.mark.parametrize("count", [1, 2, 7])
    def test_sharing_out(self, make_scan, monkeypatch, count):
        # however the positions are shared out, the sum is the same but for rounding
        from hs_autoptycho.ptycho import state

        scan = make_scan(n_modes=2, distances=(15.0,))
        _, by_object, by_probe = scan.gradients()
        monkeypatch.setattr(state, "group_count", lambda *args: count)
        scan.batch = scan.state.batch(scan.chosen)
        assert len(scan.batch.visit.bands) == count
        _, object_again, probe_again = scan.gradients()
        assert relative_error(object_again, by_object) < 1e-6
        assert relative_error(probe_again, by_probe) < 1e-6


class TestSteps:
    def test_object_direction(self):
        rng = np.random.default_rng(1)
        gradient = random_planes(rng, 3, 2, 9, 14)
        weight = rng.uniform(0, 2, (9, 14)).astype(np.float32)
        expected = gradient / (weight + 0.25)
        along = (expected * gradient).sum((1, 3))
        products = np.full((3, 9), np.nan)
        kernels.object_direction(gradient, weight, np.float32(0.25), products)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)
        np.testing.assert_allclose(products, along, rtol=1e-5)

    def test_add_scaled(self):
        rng = np.random.default_rng(2)
        array, direction = random_planes(rng, 3, 2, 9, 14), random_planes(rng, 3, 2, 9, 14)
        moved = array.copy()
        kernels.add_scaled(moved, direction, np.float32(-0.7))
        np.testing.assert_allclose(moved, array - 0.7 * direction, rtol=1e-5, atol=1e-6)

    def test_keep_phase(self):
        array = random_planes(np.random.default_rng(4), 3, 2, 9, 14)
        array[0, :, 2, 3] = 0  # has no phase: it stays
        expected = as_complex(array)
        expected /= np.where(expected == 0, 1, np.abs(expected))
        kernels.keep_phase(array)
        np.testing.assert_allclose(as_complex(array), expected, atol=1e-6)

    def test_add_windows(self):
        rng = np.random.default_rng(3)
        windows = random_planes(rng, 4, 5, 6)
        # touching every edge, one of them twice
        corners = np.array([[0, 0], [4, 8], [2, 3], [0, 8], [2, 3]])
        expected = np.zeros((4, 9, 14))
        for y, x in corners:
            expected[:, y : y + 5, x : x + 6] += windows
        out = np.full((4, 9, 14), np.nan, np.float32)
        kernels.add_windows(windows, corners, out)
        np.testing.assert_allclose(out, expected, atol=1e-5)


class TestLineSearch:
    """Against ‖a ΔO P + b ΔP O‖², taken position by position."""

    corners = np.array([[0, 0], [3, 7], [2, 3], [1, 5]])

    def terms(self, object_, direction, probe, change):
        planes = [
            (np.abs(probe) ** 2).sum(0),
            (probe.conj() * change).sum(0).real,
            (probe.conj() * change).sum(0).imag,
            (np.abs(change) ** 2).sum(0),
        ]
        windows = np.empty((4, *object_.shape[2:]), np.float32)
        kernels.add_windows(np.stack(planes).astype(np.float32), self.corners, windows)
        terms = np.full((object_.shape[2], 3), np.nan)
        kernels.line_search_terms(object_, direction, windows, terms)
        return terms.sum(0)

    def expected(self, object_, direction, probe, change):
        """By definition, without space between the slices."""
        sums = np.zeros(3)
        rows, columns = probe.shape[1:]
        slices, steps = as_complex(object_), as_complex(direction)
        for y, x in self.corners:
            window = (..., slice(y, y + rows), slice(x, x + columns))
            o, d = slices[window], steps[window]
            whole = o.prod(0)
            turned = sum(d[s] * np.delete(o, s, 0).prod(0) for s in range(len(o)))
            u, v = turned * probe, whole * change
            sums += np.vdot(u, u).real, np.vdot(u, v).real, np.vdot(v, v).real
        return sums

    def make(self, n_slices, modulus, seed=4):
        rng = np.random.default_rng(seed)
        planes = random_planes(rng, n_slices, 2, 9, 14)
        if modulus == 1:
            planes /= np.hypot(planes[:, :1], planes[:, 1:])
        parts = [rng.normal(size=(3, 5, 6)) + 1j * rng.normal(size=(3, 5, 6)) for _ in range(2)]
        # alike, so that the mixed term is no small difference
        probe, change = parts[0], parts[1] + parts[0]
        direction = random_planes(rng, n_slices, 2, 9, 14) + planes
        return planes, direction, probe, change

    def test_one_slice(self):
        arrays = self.make(1, modulus=None)
        np.testing.assert_allclose(self.terms(*arrays), self.expected(*arrays), rtol=1e-5)

    def test_slices_of_modulus_one(self):
        arrays = self.make(3, modulus=1)
        np.testing.assert_allclose(self.terms(*arrays), self.expected(*arrays), rtol=1e-5)

    def test_square_along_both(self):
        arrays = self.make(1, modulus=None, seed=5)
        oo, op, pp = self.terms(*arrays)
        object_, direction, probe, change = arrays
        a, b = 0.7, -1.3
        total = 0.0
        for y, x in self.corners:
            window = (0, slice(y, y + 5), slice(x, x + 6))
            step = a * as_complex(direction)[window] * probe
            total += np.sum(np.abs(step + b * as_complex(object_)[window] * change) ** 2)
        assert a * a * oo + 2 * a * b * op + b * b * pp == pytest.approx(total, rel=1e-5)

    def test_dark_object(self):
        object_, direction, probe, change = self.make(1, modulus=None)
        object_[:] = 0
        terms = self.terms(object_, direction, probe, change)
        assert np.isfinite(terms).all()


class TestPoissonDeviance:
    @pytest.mark.parametrize("dtype", COUNT_TYPES)
    def test_formula(self, dtype):
        rng = np.random.default_rng(2)
        counts = rng.poisson(1.5, (7, 60)).astype(dtype)
        model = rng.uniform(0, 3, (4, 60)).astype(np.float32)
        mask = (rng.uniform(size=60) > 0.3).astype(np.float32)
        indices = np.array([6, 0, 3, 2])
        out = np.empty(4)
        scale, floor = np.float32(1.5), np.float32(0.02)
        kernels.poisson_deviance(model, counts, indices, scale, floor, mask, out)
        mean, n = model * 1.5 + 0.02, counts[indices].astype(float)
        logarithm = np.where(n > 0, n * np.log(np.where(n > 0, n, 1) / mean), 0)
        expected = 2 * (mask * (logarithm - n + mean)).sum(1)
        np.testing.assert_allclose(out, expected, rtol=1e-5)

    def test_perfect_model(self):
        counts = np.random.default_rng(3).poisson(5.0, (2, 60)).astype(np.uint16)
        out, mask = np.empty(2), np.ones(60, np.float32)
        model, scale, floor = counts.astype(np.float32) / 4, np.float32(4), np.float32(0)
        kernels.poisson_deviance(model, counts, np.arange(2), scale, floor, mask, out)
        np.testing.assert_allclose(out, 0, atol=1e-4)


def test_illumination(make_scan):
    scan = make_scan(n_modes=2)
    scan.state.measure_illumination()
    expected = np.zeros(scan.state.object.shape[2:])
    for n in range(len(scan.model.corners)):
        # the fraction of a pixel is of no account here
        scan.model.view(expected, n)[:] += (np.abs(scan.model.modes) ** 2).sum(0)
    assert relative_error(scan.state.illumination, expected) < TOLERANCE


def test_plan_of_the_scan(make_scan):
    assert make_scan(window=(24, 40)).state.plan is make_plan(24, 40)
