"""Reconstructions of known objects, simulated by a forward model in plain numpy."""

import logging

import numba
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hs_autoptycho.ptycho.batches import default_batch_size
from hs_autoptycho.ptycho.corrections import Starts
from hs_autoptycho.ptycho.patterns import Patterns, split_counts
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.probe import make_modes
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.solver import Model, held_out_deviance, reconstruct

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = (32, 40)
SCAN = (7, 9)
WAVELENGTH = 0.04
DK = 0.05  # 1/Å
PIXEL = (1 / (WINDOW[0] * DK), 1 / (WINDOW[1] * DK))


def aberrated_probe(defocus=0.0, radius=8.2, astigmatism=0.0):
    """Complex (rows, columns), centred, of power 1, straight from the formula."""
    k_row, k_column = np.meshgrid(
        *(np.fft.fftfreq(n, d) for n, d in zip(WINDOW, PIXEL, strict=True)), indexing="ij"
    )
    squared = k_row**2 + k_column**2
    aperture = np.clip(radius - np.sqrt(squared) / DK + 0.5, 0, 1)
    phase = np.pi * WAVELENGTH * (-defocus * squared + astigmatism * 2 * k_row * k_column)
    probe = np.fft.fftshift(np.fft.ifft2(aperture * np.exp(-1j * phase)))
    return probe / np.linalg.norm(probe)


class Scan:
    """A simulated measurement and its truth."""

    def __init__(self, probes, step, *, dose=None, seed=0, strength=0.4, rotation=11.0):
        rng = np.random.default_rng(seed)
        probes = probes.reshape(-1, *WINDOW)
        positions = scan_positions(SCAN, step, rotation=rotation) / np.array(PIXEL)
        self.placement = place(positions, WINDOW)
        phase = gaussian_filter(rng.normal(size=self.placement.object_shape), 1.6)
        self.phase = strength * phase / phase.std()
        self.intensities = self.simulate(np.exp(1j * self.phase), probes, positions)
        self.probes = probes
        data = self.intensities.astype(np.float32)
        if dose is not None:
            data = rng.poisson(self.intensities * dose).astype(np.uint16)
        self.data = np.fft.fftshift(data, axes=(1, 2))
        self.patterns = Patterns.from_blocks([self.data], len(data), WINDOW)
        self.positions = positions

    def simulate(self, object_, probes, positions):
        """Intensities, zero frequency first; here the object moves and the probes stay."""
        frequency = np.meshgrid(*(np.fft.fftfreq(n) for n in WINDOW), indexing="ij")
        half = np.array(WINDOW) // 2
        out = []
        for position in positions:
            corner = position + self.placement.origin - half
            whole = np.floor(corner + 0.5).astype(int)
            dy, dx = corner - whole
            ramp = np.exp(-2j * np.pi * (dy * frequency[0] + dx * frequency[1]))
            view = object_[whole[0] : whole[0] + WINDOW[0], whole[1] : whole[1] + WINDOW[1]]
            waves = np.fft.ifft2(np.fft.fft2(probes) * ramp) * view
            out.append((np.abs(np.fft.fft2(waves)) ** 2).sum(0) / np.prod(WINDOW))
        return np.array(out)

    def correlation(self, object_):
        """Of the phase with the truth where the scan was, apart from a constant and a ramp."""
        center = self.placement.corners + np.array(WINDOW) // 2
        (top, left), (bottom, right) = center.min(0), center.max(0) + 1
        found = object_.reshape(self.phase.shape)[top:bottom, left:right]
        found = np.angle(found / found.mean())
        truth = self.phase[top:bottom, left:right]
        row, column = (i.ravel() for i in np.indices(truth.shape))
        plane = np.stack([np.ones(row.size), row, column], 1)
        flat = [a.ravel() - plane @ np.linalg.lstsq(plane, a.ravel(), rcond=None)[0]
                for a in (found, truth)]  # fmt: skip
        return np.corrcoef(*flat)[0, 1]

    def run(self, *, probe=None, n_iterations=40, **options):
        probe = self.probes if probe is None else probe
        result, state = reconstruct(
            options.pop("patterns", self.patterns), self.placement, probe,
            n_iterations=n_iterations, **options,
        )  # fmt: skip
        return result, state


@pytest.fixture(scope="module")
def scan():
    # overlapping, moderately out of focus
    return Scan(aberrated_probe(100.0), 1.2, dose=20000)


@pytest.fixture(scope="module")
def guess():
    """Not quite the probe of the scan."""
    return aberrated_probe(120.0, radius=7.8)[None]


METHODS = {
    f"{algorithm}, {noise_model}": {"algorithm": algorithm, "noise_model": noise_model, **steps}
    for algorithm, steps in (
        ("lsq-ml", {}),
        ("gradient", {}),
        ("epie", {"step_object": 0.3, "step_probe": 0.3}),
        ("rpie", {"step_object": 0.3, "step_probe": 0.3}),
    )
    for noise_model in ("amplitude", "poisson")
}
methods = pytest.mark.parametrize("method", METHODS)
# where the noise model is of no account
algorithms = pytest.mark.parametrize("method", [m for m in METHODS if m.endswith("amplitude")])


class TestRecovery:
    @methods
    def test_object_and_probe(self, scan, guess, method):
        result, _ = scan.run(probe=guess, **METHODS[method])
        assert result.status == "completed"
        assert result.object.shape == (1, *scan.placement.object_shape)
        assert result.object.dtype == result.probe.dtype == np.complex64
        assert result.placement is scan.placement
        assert scan.correlation(result.object) > 0.95
        # the truth turned about and its negative are far
        assert abs(scan.correlation(result.object[0, ::-1])) < 0.5
        assert scan.correlation(result.object.conj()) < -0.9
        # the probe comes closer to the true one than the guess was
        true = scan.probes[0]
        before = np.abs(np.vdot(guess[0], true))
        after = np.abs(np.vdot(result.probe[0], true)) / np.linalg.norm(result.probe[0])
        assert 1 - after < 0.6 * (1 - before)

    @methods
    def test_error_falls(self, scan, guess, method):
        result, _ = scan.run(probe=guess, **METHODS[method])
        errors = result.errors
        assert errors.shape == (40,) and np.all(errors > 0)
        assert errors[-1] < 0.5 * errors[0]
        # nearly always: a pass sees the batches in a new order, and the engines never settle
        assert np.mean(np.diff(errors) < 0) > (0.6 if "pie" in method else 0.8)
        assert errors[-1] < 1.1 * errors.min()

    @methods
    def test_noise_is_what_remains(self, scan, method):
        # Σ(√n − √μ)² of Poisson numbers is 1/4 where there are counts; ePIE never settles
        result, _ = scan.run(n_iterations=60, **METHODS[method])
        counts = scan.data.sum((1, 2)).mean()
        lit = (scan.data.mean(0) > 3).sum()
        assert 0.4 < result.errors[-1] * counts / (lit / 4) < (4 if "pie" in method else 3)

    def test_without_noise(self):
        scan = Scan(aberrated_probe(100.0), 1.2)
        result, _ = scan.run(n_iterations=100)
        assert scan.correlation(result.object) > 0.99
        assert result.errors[-1] < 6e-3 * result.errors[0]

    @pytest.mark.parametrize("batch_size", [2, 7, 63, 1000])
    def test_any_batch_size(self, scan, guess, batch_size):
        result, _ = scan.run(probe=guess, batch_size=batch_size, n_iterations=60)
        assert result.status == "completed"
        assert scan.correlation(result.object) > 0.9

    def test_one_position_a_batch(self, scan, guess):
        # slow with a line search, but not astray
        result, _ = scan.run(probe=guess, batch_size=1, n_iterations=60)
        assert result.status == "completed"
        assert result.errors[-1] < 0.5 * result.errors[0]

    @pytest.mark.parametrize("noise_model", ["amplitude", "poisson"])
    @pytest.mark.parametrize(("defocus", "step"), [(0.0, 0.5), (15.0, 0.6), (170.0, 1.6)])
    def test_stable_in_and_out_of_focus(self, defocus, step, noise_model):
        scan = Scan(aberrated_probe(defocus), step, dose=5000, strength=0.6, seed=2)
        wrong = aberrated_probe(1.15 * defocus + 5, astigmatism=5.0)[None]
        result, _ = scan.run(probe=wrong, noise_model=noise_model, n_iterations=60)
        assert result.status == "completed"
        assert np.all(np.isfinite(result.object)) and np.all(np.isfinite(result.probe))
        assert result.errors[-1] == pytest.approx(result.errors.min(), rel=0.02)
        assert np.abs(result.object).max() < 10
        assert scan.correlation(result.object) > 0.85

    def test_wrong_defocus_fits_worse(self, scan):
        # held, so that it cannot be mended
        errors = [
            scan.run(probe=aberrated_probe(defocus)[None], step_probe=0)[0].errors[-1]
            for defocus in (-100.0, 60.0, 100.0, 140.0)
        ]
        assert np.argmin(errors) == 2
        assert min(errors[:2] + errors[3:]) > 1.1 * errors[2]


class TestMixedState:
    @pytest.fixture(scope="class")
    @classmethod
    def mixed(cls):
        first = aberrated_probe(100.0)
        # the second mode is the first, moved about: what vibration does
        second = np.roll(first, 2, 0) - np.roll(first, -2, 0)
        second -= first * np.vdot(first, second)
        modes = np.stack([0.8 * first, 0.6 * second / np.linalg.norm(second)])
        return Scan(modes, 1.2)

    @algorithms
    def test_two_modes_fit_better(self, mixed, method):
        coherent = aberrated_probe(100.0)
        starts = {"one": coherent[None], "two": make_modes(coherent, 2), "true": mixed.probes}
        results = {
            # a step for all positions at once is only one: a weak mode needs more of them
            name: mixed.run(
                probe=probe, n_iterations=200 if "grad" in method else 60, **METHODS[method]
            )[0]
            for name, probe in starts.items()
        }
        errors = {name: result.errors[-1] for name, result in results.items()}
        assert errors["two"] < (0.9 if "grad" in method else 0.8) * errors["one"]
        assert errors["true"] < 0.5 * errors["one"]
        for name, result in results.items():
            assert result.probe.shape == (len(starts[name]), *WINDOW)
            assert mixed.correlation(result.object) > 0.95
        share = (np.abs(results["two"].probe[1]) ** 2).sum() / (
            np.abs(results["two"].probe) ** 2
        ).sum()
        assert share > 0.025  # it was 0.02 and the true one is 0.36

    def test_modes(self, mixed):
        result, _ = mixed.run(n_iterations=60)
        flat = result.probe.reshape(2, -1).astype(complex)
        overlaps = flat.conj() @ flat.T
        power = np.diag(overlaps).real
        assert abs(overlaps[0, 1]) < 1e-3 * power[1]
        assert power[0] > power[1]
        # in counts: the simulated object takes nothing away
        assert power.sum() == pytest.approx(mixed.data.sum((1, 2)).mean(), rel=0.02)
        assert power[0] / power.sum() == pytest.approx(0.64, abs=0.05)


class TestPower:
    @pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
    def test_power_of_the_start_is_of_no_account(self, scan, guess, factor):
        reference, _ = scan.run(probe=guess, n_iterations=3)
        result, _ = scan.run(probe=factor * guess, n_iterations=3)
        np.testing.assert_allclose(result.object, reference.object, atol=1e-4)
        np.testing.assert_allclose(
            result.probe, reference.probe, atol=1e-4 * np.abs(result.probe).max()
        )

    def test_scale_of_the_data(self, scan, guess):
        tenfold = Patterns.from_blocks([scan.data.astype(np.float32) * 10], len(scan.data), WINDOW)
        plain = Patterns.from_blocks([scan.data.astype(np.float32)], len(scan.data), WINDOW)
        one, ten = (scan.run(probe=guess, n_iterations=3, patterns=p)[0] for p in (plain, tenfold))
        np.testing.assert_allclose(ten.object, one.object, atol=1e-4)
        np.testing.assert_allclose(ten.errors, one.errors, rtol=1e-4)
        np.testing.assert_allclose(
            np.linalg.norm(ten.probe), np.sqrt(10) * np.linalg.norm(one.probe), rtol=1e-4
        )


class TestReproducible:
    @pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="only one thread here")
    @methods
    def test_any_number_of_threads(self, scan, guess, method):
        probes = np.concatenate([guess, 0.2 * np.roll(guess, 3, 2)])
        results = []
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append(scan.run(probe=probes, n_iterations=4, **METHODS[method])[0])
        for name in ("object", "probe", "errors"):
            np.testing.assert_array_equal(*(getattr(result, name) for result in results))

    @pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="only one thread here")
    @pytest.mark.parametrize(
        "options",
        [
            {"starts": Starts(positions=0)},
            {"starts": Starts(positions=1), "n_variable_modes": 2},
            {"n_variable_modes": 2},
            {"slices": 3},
            {"slices": 2, "starts": Starts(positions=0, grid=0, thickness=0, tilt=1)},
            {"slices": 2, "algorithm": "gradient"},
            {"momentum": 0.5, "batch_selection": "compact"},
            {"starts": Starts(brightness=0), "patience": 2},
        ],
        ids=str,
    )
    def test_any_number_of_threads_with(self, scan, guess, options):
        options = dict(options)
        n_slices = options.pop("slices", 1)
        propagation = Propagation.even(n_slices, 30.0 * n_slices, WAVELENGTH, PIXEL)
        model = Model(propagation=propagation if n_slices > 1 else None, pixel_size=PIXEL)
        probes = np.concatenate([guess, 0.2 * np.roll(guess, 3, 2), 0.1 * np.roll(guess, 3, 1)])
        results = []
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append(scan.run(probe=probes, n_iterations=4, model=model, **options)[0])
        names = ["object", "probe", "errors"]
        names += ["variable_modes", "coefficients"] * ("n_variable_modes" in options)
        for name in names:
            np.testing.assert_array_equal(*(getattr(result, name) for result in results))
        for one, other in zip(*(result.placement for result in results), strict=True):
            np.testing.assert_array_equal(one, other)
        assert results[0].corrected == results[1].corrected
        assert results[0].history == results[1].history

    @methods
    def test_seed(self, scan, guess, method):
        one, same, other = (
            scan.run(probe=guess, n_iterations=4, random_state=seed, **METHODS[method])[0]
            for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(one.object, same.object)
        np.testing.assert_array_equal(one.probe, same.probe)
        assert np.any(one.object != other.object)

    def test_inputs_are_left_alone(self, scan, guess):
        copies = guess.copy(), scan.patterns.counts.copy(), scan.placement.corners.copy()
        scan.run(probe=guess, n_iterations=2)
        after = guess, scan.patterns.counts, scan.placement.corners
        for old, new in zip(copies, after, strict=True):
            np.testing.assert_array_equal(old, new)


class TestEnd:
    def test_divergence_within_the_first_pass(self, scan, guess):
        """The first pass's own error is no measure of what a good start is."""
        result, _ = scan.run(
            probe=guess, algorithm="epie", step_object=20.0, step_probe=0.3, n_iterations=4
        )
        assert result.status == "diverged"
        assert len(result.errors) == 1

    def test_divergence_is_reported(self, scan, guess, caplog):
        with caplog.at_level(logging.WARNING):
            result, _ = scan.run(probe=guess, algorithm="epie", step_object=50.0, step_probe=50.0)
        assert result.status == "diverged"
        assert 1 <= len(result.errors) < 40
        assert "diverged" in caplog.text

    def test_callback(self, scan, guess):
        seen = []
        result, _ = scan.run(probe=guess, n_iterations=4, callback=lambda *args: seen.append(args))
        assert [number for number, _ in seen] == [1, 2, 3, 4]
        np.testing.assert_array_equal([error for _, error in seen], result.errors)

    def test_interrupted(self, scan, guess):
        def stop(iteration, error):
            if iteration == 3:
                raise KeyboardInterrupt

        result, state = scan.run(probe=guess, callback=stop)
        assert result.status == "interrupted"
        reference, _ = scan.run(probe=guess, n_iterations=3)
        np.testing.assert_array_equal(result.errors, reference.errors)
        np.testing.assert_array_equal(result.object, reference.object)
        np.testing.assert_array_equal(result.probe, reference.probe)
        assert held_out_deviance(state, scan.patterns).shape == (63,)

    def test_interrupted_at_once(self, scan, guess, monkeypatch):
        from hs_autoptycho.ptycho import solver

        def stop(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setitem(solver.UPDATES, "lsq-ml", lambda settings: stop)
        result, _ = scan.run(probe=guess)
        assert result.status == "interrupted" and result.errors.shape == (0,)
        np.testing.assert_array_equal(result.object, 1)


class TestHeldProbe:
    def same_mode(self, probe, guess):
        overlap = np.abs(np.vdot(probe[0], guess[0]))
        return overlap / np.linalg.norm(probe[0]) / np.linalg.norm(guess[0])

    @methods
    @pytest.mark.parametrize("held", [{"step_probe": 0.0}, {"probe_start": 6}])
    def test_held(self, scan, guess, method, held):
        result, _ = scan.run(probe=guess, n_iterations=6, **{**METHODS[method], **held})
        assert self.same_mode(result.probe, guess) == pytest.approx(1, abs=1e-6)
        assert np.abs(result.object - 1).max() > 0.1
        refined, _ = scan.run(probe=guess, n_iterations=6, **METHODS[method])
        assert self.same_mode(refined.probe, guess) < 1 - 1e-4

    def test_start(self, scan, guess):
        probes = []
        for n_iterations in (4, 5):
            result, _ = scan.run(probe=guess, n_iterations=n_iterations, probe_start=4)
            probes.append(result.probe)
        assert self.same_mode(probes[0], guess) == pytest.approx(1, abs=1e-6)
        assert self.same_mode(probes[1], guess) < 1 - 1e-5


class TestSubset:
    def test_only_these_positions(self, scan, guess):
        subset = np.arange(1, 63, 2)
        rest = np.arange(0, 63, 2)
        # the others' patterns change places: the mean, which scales the data, stays
        shuffled = scan.data.copy()
        shuffled[rest] = shuffled[rest[::-1]]
        changed = Patterns.from_blocks([shuffled], 63, WINDOW)
        options = {"probe": guess, "n_iterations": 5, "subset": subset}
        one, _ = scan.run(**options)
        other, _ = scan.run(patterns=changed, **options)
        np.testing.assert_array_equal(one.object, other.object)
        np.testing.assert_array_equal(one.errors, other.errors)
        everything, _ = scan.run(probe=guess, n_iterations=5, patterns=changed)
        assert np.any(everything.object != one.object)

    def test_object_stays_vacuum_elsewhere(self, scan, guess):
        subset = np.flatnonzero(np.arange(63) // 9 < 3)  # the first scan rows
        result, _ = scan.run(probe=guess, n_iterations=3, subset=subset)
        last = (scan.placement.corners[subset] + WINDOW).max(0)
        beyond = result.object[0, last[0] :]
        assert len(beyond) > 3
        np.testing.assert_allclose(beyond, beyond[0, 0], atol=1e-6)


class TestHeldOut:
    def test_formula(self, scan, guess):
        fitted, test = (
            Patterns.from_blocks([half], 63, WINDOW) for half in split_counts(scan.data, 0.8, 1)
        )
        probes = np.concatenate([guess, 0.3 * np.roll(guess, 3, 2)])
        result, state = scan.run(probe=probes, patterns=fitted, n_iterations=8)
        rounded = scan.placement.fractions[scan.placement.classes] + scan.placement.corners
        rounded = rounded + np.array(WINDOW) // 2 - scan.placement.origin
        model = scan.simulate(
            result.object[0].astype(complex), result.probe.astype(complex), rounded
        )
        mean = test.mean_total / np.prod(WINDOW)
        model = model * test.mean_total / fitted.mean_total + 0.01 * mean
        n = np.fft.ifftshift(split_counts(scan.data, 0.8, 1)[1], axes=(1, 2)).astype(float)
        logarithm = np.where(n > 0, n * np.log(np.where(n > 0, n, 1) / model), 0)
        expected = (2 * (logarithm - n + model)).mean((1, 2))
        for batch_size in (64, 10):
            found = held_out_deviance(state, test, batch_size=batch_size)
            np.testing.assert_allclose(found, expected, rtol=2e-4)

    def test_of_the_truth_is_lower(self, scan):
        fitted, test = (
            Patterns.from_blocks([half], 63, WINDOW) for half in split_counts(scan.data, 0.9, 1)
        )
        values = []
        for defocus in (60.0, 100.0, 140.0):
            _, state = scan.run(probe=aberrated_probe(defocus)[None], patterns=fitted, step_probe=0)
            values.append(held_out_deviance(state, test).mean())
        assert np.argmin(values) == 1


def test_default_batch_size():
    assert default_batch_size("epie", 10000) == 1
    sizes = [default_batch_size("lsq-ml", n) for n in (10, 63, 1000, 10000, 10**6)]
    assert sizes == sorted(sizes) and sizes[0] >= 1
