"""What a solver works on: how it starts, batches, moved positions, distances between slices."""

from dataclasses import replace

import numba
import numpy as np
import pytest

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.fft import make_plan, planes_to_spectrum
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.state import MOST_GROUPS, State, aligned, group_count, make_detector

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = (26, 36)
SCAN = (4, 7)


@pytest.fixture
def patterns():
    counts = np.random.default_rng(0).poisson(5.0, (28, *WINDOW)).astype(np.uint8)
    return Patterns.from_blocks([counts], 28, WINDOW)


@pytest.fixture
def probe():
    rng = np.random.default_rng(1)
    return rng.normal(size=(3, *WINDOW)) + 1j * rng.normal(size=(3, *WINDOW))


def start(patterns, probe, step=2.3, **options):
    placement = place(scan_positions(SCAN, step, rotation=12.0), WINDOW)
    return State.start(patterns.plan, placement, probe, make_detector(patterns), **options)


def not_between(state):
    """Positions that are not exactly between two pixels, where either is as near."""
    return (np.abs(state.placement.fractions[state.placement.classes]) < 0.5).all(1)


def predictions(state):
    """Of all positions, in the order of the scan."""
    batch = state.batch(np.arange(len(state.positions)))
    out = np.empty((len(batch.indices), state.plan.rows * state.plan.columns))
    out[batch.indices] = state.model_intensities(batch)
    return out


class TestStart:
    def test_vacuum_has_the_power_of_the_mean_pattern(self, patterns, probe):
        state = start(patterns, 7.3 * probe)
        np.testing.assert_array_equal(state.object[:, 0], 1)
        np.testing.assert_array_equal(state.object[:, 1], 0)
        np.testing.assert_allclose(predictions(state).mean(1), 1, rtol=1e-5)
        scaled = patterns.counts * state.detector.scale
        assert scaled.mean() == pytest.approx(1, rel=1e-6)

    def test_probe_keeps_its_form(self, patterns, probe):
        before = probe.copy()
        state = start(patterns, probe)
        np.testing.assert_array_equal(probe, before)
        factor = state.probe[0, 3, 4] / probe[0, 3, 4]
        assert abs(factor.imag) < 1e-5 * factor.real
        np.testing.assert_allclose(state.probe, factor.real * probe, rtol=1e-3, atol=1e-5)

    def test_shapes(self, patterns, probe):
        propagation = Propagation((10.0, 20.0), 0.04, (0.2, 0.3))
        state = start(patterns, probe, propagation=propagation, n_variable_modes=2)
        assert state.object.shape == (3, 2, *state.placement.object_shape)
        assert state.spectra.shape == (5, 2 * WINDOW[0] * WINDOW[1])
        assert state.n_modes == 3 and state.shape == WINDOW
        assert state.coefficients.shape == (28, 2) and not state.coefficients.any()
        np.testing.assert_array_equal(state.brightness, np.ones(28))
        assert not state.own and not state.passing

    def test_variable_modes(self, patterns, probe):
        state = start(patterns, probe, n_variable_modes=2)
        powers = (np.abs(state.variable_modes) ** 2).sum((1, 2)) / (WINDOW[0] * WINDOW[1])
        np.testing.assert_allclose(powers, 1, rtol=1e-4)
        # no part of them yet: the model is the same as without
        np.testing.assert_allclose(
            predictions(state), predictions(start(patterns, probe)), rtol=1e-6
        )

    def test_positions(self, patterns, probe):
        state = start(patterns, probe)
        asked = scan_positions(SCAN, 2.3, rotation=12.0)
        # rounded to 1/32 pixel
        np.testing.assert_allclose(
            state.positions - state.placement.origin, asked, rtol=0, atol=1 / 64 + 1e-9
        )

    def test_probe_can_be_set(self, patterns, probe):
        state = start(patterns, probe, n_variable_modes=1)
        state.spectra[3:] = 5
        state.probe = probe
        np.testing.assert_allclose(state.probe, probe, atol=1e-5)
        np.testing.assert_array_equal(state.spectra[3:], 5)

    def test_memory_is_aligned(self):
        for shape in ((3, 5), (2, 2, 7), (0, 4), (1,)):
            array = aligned(shape)
            assert array.shape == shape and array.dtype == np.float32 and not array.any()
            assert array.ctypes.data % 64 == 0 or not array.size


class TestBatch:
    @pytest.fixture(params=["shared", "own"])
    def state(self, request, patterns, probe):
        state = start(patterns, probe, step=2.5, n_variable_modes=2)
        rng = np.random.default_rng(2)
        state.coefficients[:] = rng.normal(size=state.coefficients.shape)
        state.brightness[:] = rng.uniform(0.5, 1.5, 28)
        if request.param == "own":
            state.move(state.positions + rng.uniform(-0.4, 0.4, (28, 2)))
        return state

    @pytest.fixture
    def chosen(self):
        return np.random.default_rng(3).permutation(28)[:19]

    def test_every_position_once(self, state, chosen):
        batch = state.batch(chosen)
        np.testing.assert_array_equal(np.sort(batch.indices), np.sort(chosen))
        np.testing.assert_array_equal(batch.indices, batch.visit.indices)

    def test_belongs_together(self, state, chosen):
        batch = state.batch(chosen)
        visit, placement = batch.visit, state.placement
        np.testing.assert_array_equal(visit.corners, placement.corners[batch.indices])
        np.testing.assert_array_equal(visit.coefficients, state.coefficients[batch.indices])
        np.testing.assert_array_equal(visit.brightness, state.brightness[batch.indices])
        fractions = placement.fractions[placement.classes[batch.indices]]
        half = np.array(WINDOW) // 2
        np.testing.assert_allclose(
            visit.corners + half + fractions, state.positions[batch.indices], atol=1e-9
        )
        for axis, (ramps, size, order) in enumerate(
            [
                (visit.ramps_rows, WINDOW[0], state.plan.row_order),
                (visit.ramps_columns, WINDOW[1], state.plan.column_order),
            ]
        ):
            ramp = (ramps[:, 0] + 1j * ramps[:, 1])[visit.classes] * size
            frequency = np.fft.fftfreq(size)[order]
            expected = np.exp(-2j * np.pi * fractions[:, axis, None] * frequency)
            np.testing.assert_allclose(ramp, expected, atol=1e-6)

    def test_classes_lie_together(self, state, chosen):
        classes = state.batch(chosen).visit.classes
        assert (np.diff(classes) >= 0).all()
        np.testing.assert_array_equal(np.unique(classes), np.arange(classes.max() + 1))
        if state.own:
            assert len(np.unique(classes)) == len(chosen)

    def test_groups_cover_it(self, state, chosen):
        visit = state.batch(chosen).visit
        assert visit.starts[0] == 0 and visit.starts[-1] == len(chosen)
        assert (np.diff(visit.starts) > 0).all()
        assert len(visit.bands) == len(visit.starts) - 1 > 1
        for g, (first, last) in enumerate(visit.bands):
            rows = visit.corners[visit.starts[g] : visit.starts[g + 1], 0]
            assert first == rows.min() and last == rows.max() + WINDOW[0]
            assert 0 <= first and last <= state.object.shape[2]

    def test_types_are_the_kernels(self, state, chosen):
        # another type or order of memory would be another compilation of many seconds
        visit = state.batch(chosen).visit
        for name, array in visit._asdict().items():
            assert array.flags.c_contiguous, name
            floats = ("ramps_rows", "ramps_columns", "coefficients", "brightness")
            assert array.dtype == (np.float32 if name in floats else np.int64), name

    def test_one_position(self, state):
        visit = state.batch(np.array([5])).visit
        assert len(visit.bands) == 1
        np.testing.assert_array_equal(visit.starts, [0, 1])


class TestGroupCount:
    def test_no_more_than_positions(self):
        assert group_count(1, (32, 32), (40, 40)) == 1
        assert group_count(3, (512, 512), (520, 520)) <= 3

    def test_at_least_two(self):
        # whatever it costs: else a second thread would have nothing to do
        assert group_count(16, (16, 16), (2000, 2000)) == 2

    def test_grows_with_the_work(self):
        counts = [group_count(n, (128, 128), (300, 300)) for n in (16, 64, 256, 4096)]
        assert counts == sorted(counts) and counts[0] < counts[-1] <= MOST_GROUPS

    def test_threads_are_of_no_account(self):
        many = group_count(200, (128, 128), (300, 300))
        if numba.config.NUMBA_NUM_THREADS > 1:
            numba.set_num_threads(2)
        assert group_count(200, (128, 128), (300, 300)) == many


class TestMove:
    def with_object(self, patterns, probe, **options):
        state = start(patterns, probe, **options)
        rng = np.random.default_rng(6)
        state.object[:] += 0.3 * rng.normal(size=state.object.shape).astype(np.float32)
        return state

    def test_nowhere(self, patterns, probe):
        state = self.with_object(patterns, probe)
        before, object_, origin = predictions(state), state.object.copy(), state.placement.origin
        clear = not_between(state)
        assert clear.sum() > 20
        state.move(state.positions.copy())
        assert state.own
        np.testing.assert_array_equal(state.object, object_)
        np.testing.assert_array_equal(state.placement.origin, origin)
        found = predictions(state)
        np.testing.assert_allclose(found[clear], before[clear], rtol=1e-3, atol=1e-4)

    def test_inside(self, patterns, probe):
        state = self.with_object(patterns, probe)
        object_ = state.object
        target = state.positions + np.random.default_rng(7).uniform(-0.9, 0.9, (28, 2))
        state.move(target)
        assert state.object is object_
        np.testing.assert_array_equal(state.positions, target)
        placement = state.placement
        np.testing.assert_array_equal(placement.classes, np.arange(28))
        assert np.abs(placement.fractions).max() <= 0.5
        centers = placement.corners + np.array(WINDOW) // 2 + placement.fractions
        np.testing.assert_allclose(centers, target, atol=1e-12)
        assert placement.object_shape == state.object.shape[2:]

    @pytest.mark.parametrize(
        "offset", [(-7.3, 0.0), (9.1, 0.0), (0.0, -12.2), (0.0, 5.6), (-30.0, 41.7)]
    )
    def test_object_grows(self, patterns, probe, offset):
        state = self.with_object(patterns, probe, propagation=Propagation((9.0,), 0.04, (0.2, 0.3)))
        old, origin, positions = state.object.copy(), state.placement.origin, state.positions
        # one position leaves the object, the others stay
        target = positions.copy()
        farthest = np.argmax(positions @ offset)
        target[farthest] += offset
        before = predictions(state)
        stayed = not_between(state)
        stayed[farthest] = False
        state.move(target)
        moved = state.placement.origin - origin
        np.testing.assert_allclose(state.positions, target + moved)
        # only at the side where it was left
        assert ((moved > 0) == (np.array(offset) < 0)).all()
        shift = moved.astype(int)
        y, x = slice(shift[0], shift[0] + old.shape[2]), slice(shift[1], shift[1] + old.shape[3])
        np.testing.assert_array_equal(state.object[:, :, y, x], old)
        rest = np.ones(state.object.shape[2:], bool)
        rest[y, x] = False
        assert rest.any()
        np.testing.assert_array_equal(state.object[:, 0, rest], 1)
        np.testing.assert_array_equal(state.object[:, 1, rest], 0)
        # every window is inside, and what did not move sees what it saw
        corners, shape = state.placement.corners, np.array(state.object.shape[2:])
        assert (corners >= 0).all() and (corners + WINDOW <= shape).all()
        assert stayed.sum() > 20
        after = predictions(state)
        np.testing.assert_allclose(after[stayed], before[stayed], rtol=1e-3, atol=1e-4)
        assert state.object.ctypes.data % 64 == 0

    def test_moving_on(self, patterns, probe):
        # positions wander by steps, and never leave the memory
        state = self.with_object(patterns, probe)
        rng = np.random.default_rng(8)
        scan = state.positions - state.placement.origin
        for _ in range(5):
            step = rng.normal(size=(28, 2)) * 4
            scan = scan + step
            state.move(state.positions + step)
            np.testing.assert_allclose(state.positions - state.placement.origin, scan, atol=1e-9)
            corners, shape = state.placement.corners, np.array(state.object.shape[2:])
            assert (corners >= 0).all() and (corners + WINDOW <= shape).all()
            assert state.placement.object_shape == tuple(shape)
            state.measure_illumination()
            assert state.illumination.shape == tuple(shape)

    def test_against_numpy(self, make_scan):
        scan = make_scan(own=True, scan=(2, 3))
        state, rng = scan.state, np.random.default_rng(9)
        state.move(state.positions + rng.uniform(-0.3, 0.3, (6, 2)))
        model = replace(
            scan.model, corners=state.placement.corners, shifts=state.placement.fractions
        )
        batch = state.batch(np.arange(6))
        found = scan.natural(state.model_intensities(batch))
        expected = np.stack([model.intensity(n) for n in batch.indices])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


class TestSettleProbe:
    @pytest.mark.parametrize("power", [1.0, 1.9, 3.0, 0.2])
    @pytest.mark.parametrize("distances", [(), (30.0, 12.0)])
    def test_keeps_the_intensities(self, make_scan, power, distances):
        scan = make_scan(n_modes=3, distances=distances, scan=(2, 3))
        scan.state.spectra *= np.float32(np.sqrt(power))
        before = predictions(scan.state)
        scan.state.settle_probe()
        np.testing.assert_allclose(predictions(scan.state), before, rtol=1e-3, atol=1e-4)
        settled = (np.abs(scan.state.probe) ** 2).sum() / np.prod(scan.window)
        assert settled == pytest.approx(power if 0.5 < power < 2 else 1, rel=1e-3)
        flat = scan.state.probe.reshape(3, -1)
        overlaps = flat.conj() @ flat.T
        powers = np.diag(overlaps).real
        assert np.abs(overlaps - np.diag(powers)).max() < 1e-4 * powers[0]
        assert (np.diff(powers) <= 0).all()

    @pytest.mark.parametrize(("n_modes", "power"), [(1, 3.0), (2, 1.0), (2, 0.2)])
    def test_keeps_the_intensities_with_variable_modes(self, make_scan, n_modes, power):
        scan = make_scan(n_modes=n_modes, n_variable=2, own=True, scan=(2, 3))
        # orthogonal before: the variable modes belong to the first mode, whichever that is
        scan.state.settle_probe()
        scan.state.spectra *= np.float32(np.sqrt(power))
        before = predictions(scan.state)
        scan.state.settle_probe()
        np.testing.assert_allclose(predictions(scan.state), before, rtol=1e-3, atol=1e-3)

    def test_a_diverged_probe_is_left_to_others(self, patterns, probe):
        state = start(patterns, probe[:1])
        state.probe = 1e25 * state.probe
        with np.errstate(over="ignore"):
            state.settle_probe()
        np.testing.assert_array_equal(state.object[:, 1], 0)


class TestPropagate:
    distances = (30.0, 12.0, 30.0)

    def intensities(self, scan):
        return scan.natural(scan.state.model_intensities(scan.batch))

    def expected(self, scan, **changes):
        model = replace(scan.model, **changes)
        return np.stack([model.intensity(n) for n in scan.batch.indices])

    @pytest.fixture
    def scan(self, make_scan):
        return make_scan(distances=self.distances, tilt=(8.0, -3.0), scan=(2, 3))

    def error(self, scan, **changes):
        expected = self.expected(scan, **changes)
        return np.linalg.norm(self.intensities(scan) - expected) / np.linalg.norm(expected)

    def test_each_distance_in_its_place(self, scan):
        assert self.error(scan) < 1e-5
        for wrong in ((12.0, 30.0, 30.0), (30.0, 30.0, 12.0), (30.0, 12.0, 12.0), (12.0, 30.0, 12)):
            assert self.error(scan, distances=wrong) > 0.05

    def test_equal_distances_share_a_propagator(self, scan):
        scene = scan.state.scene()
        assert len(scene.propagators) == len(scene.propagator_factors) == 2
        assert scene.distances[0] == scene.distances[2] != scene.distances[1]

    def test_other_distances_and_tilts(self, scan):
        propagation = scan.state.propagation
        scan.state.propagate(propagation.scaled(1.2))
        assert self.error(scan) > 0.05
        assert self.error(scan, distances=tuple(1.2 * d for d in self.distances)) < 1e-5
        scan.state.propagate(propagation.tilted((-3.0, 8.0)))
        assert self.error(scan) > 0.05
        assert self.error(scan, tilt=(-3.0, 8.0)) < 1e-5
        assert scan.state.propagation.tilt == (-3.0, 8.0)

    def test_off_centre_beam(self, make_scan):
        scan = make_scan(distances=self.distances, beam_offset=(2.5, -4.0), scan=(2, 3))
        assert self.error(scan) < 1e-5
        assert self.error(scan, beam_offset=(-4.0, 2.5)) > 0.05

    @pytest.mark.parametrize("propagation", [None, Propagation((), 0.04, (0.2, 0.3))])
    def test_one_slice(self, patterns, probe, propagation):
        state = start(patterns, probe, propagation=propagation)
        scene = state.scene()
        assert len(state.object) == 1
        assert len(scene.propagators) == len(scene.distances) == len(scene.propagator_factors) == 0
        np.testing.assert_allclose(predictions(state).mean(1), 1, rtol=1e-5)

    @pytest.mark.parametrize("passing", [False, True])
    def test_types_are_the_kernels(self, scan, passing):
        # another order of memory would be another compilation, and strides in the inner loop
        scan.state.passing = passing
        scan.state.propagate(scan.state.propagation)
        for name, array in scan.state.scene()._asdict().items():
            if name != "n_modes":
                assert array.flags.c_contiguous, name
                assert array.dtype == (np.int64 if name == "distances" else np.float32), name

    def test_one_compilation(self, make_scan):
        make_scan(scan=(1, 2)).gradients()
        before = len(kernels.visit_positions.signatures)
        for options in (
            {"distances": (30.0, 12.0)},
            {"own": True, "n_variable": 1, "blur": 0.7, "masked": True},
        ):
            make_scan(scan=(1, 2), **options).gradients()
        assert len(kernels.visit_positions.signatures) == before


class TestSpace:
    def test_is_kept(self, patterns, probe):
        state = start(patterns, probe)
        assert state.space() is state.space()
        assert state.space().passing.shape[2] == 0

    def test_grows_with_what_is_asked_for(self, patterns, probe):
        state = start(patterns, probe, propagation=Propagation((9.0,), 0.04, (0.2, 0.3)))
        before = state.space()
        state.passing = True
        assert state.space().passing.shape == before.incoming.shape == (1, 3, 1, 1872)

    @pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="only one thread here")
    def test_a_part_for_each_thread(self, patterns, probe):
        state = start(patterns, probe)
        assert len(state.space().waves) == 1
        numba.set_num_threads(2)
        assert {len(part) for part in state.space()} == {2}

    def test_blur_needs_more(self, patterns, probe):
        state = start(patterns, probe)
        state.detector = make_detector(patterns, blur=1.0)
        assert state.space().spare.shape[1] == 1872


def test_overlap(patterns, probe):
    # all positions in one place: each of a batch sees the same pixels
    placement = place(np.zeros((28, 2)), WINDOW)
    state = State.start(patterns.plan, placement, probe, make_detector(patterns))
    state.measure_illumination()
    assert state.overlap(7) == pytest.approx(7, rel=1e-4)
    assert state.overlap(28) == pytest.approx(28, rel=1e-4)


def test_probe_planes(patterns, probe):
    state = start(patterns, probe)
    planes = state.probe_planes(state.spectra[:2])
    pixels = WINDOW[0] * WINDOW[1]
    found = (planes[:, :pixels] + 1j * planes[:, pixels:]).reshape(2, *WINDOW)
    np.testing.assert_allclose(found, state.probe[:2], atol=1e-5)
    spectrum = planes_to_spectrum(state.spectra, make_plan(*WINDOW))
    np.testing.assert_allclose(np.fft.ifft2(spectrum)[:2], found, atol=1e-5)
