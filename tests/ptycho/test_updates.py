"""What the algorithms and their options do to a result, on scans of a known object."""

from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.ptycho.constraints import probe_support
from hs_autoptycho.ptycho.corrections import Starts
from hs_autoptycho.ptycho.settings import Regularization
from hs_autoptycho.ptycho.solver import Model

pytestmark = pytest.mark.usefixtures("one_thread")

ALGORITHMS = {"lsq-ml": 1.0, "gradient": 1.0, "epie": 0.3, "rpie": 0.3}
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


def steps(algorithm):
    step = ALGORITHMS[algorithm]
    return {"algorithm": algorithm, "step_object": step, "step_probe": step}


@pytest.fixture(scope="module")
def scan(measure):
    return measure()


@pytest.fixture(scope="module")
def noisy(measure):
    return measure(dose=1000)


@pytest.fixture(scope="module")
def guess(scan):
    return scan.make_probe(120.0, radius=7.8)[None]


def distance(scan, found):
    """Of an object from the truth, but for a constant factor of modulus 1."""
    found, truth = scan.scanned(found[0]), scan.scanned(scan.truth[0])
    overlap = np.vdot(found, truth)
    return np.linalg.norm(found * overlap / abs(overlap) - truth) / np.linalg.norm(truth)


class TestLeastSquares:
    @pytest.mark.parametrize("momentum", [0.3, 0.8])
    def test_momentum(self, scan, guess, momentum):
        plain, _ = scan.run(30, probe=guess)
        result, _ = scan.run(30, probe=guess, momentum=momentum)
        assert result.status == "completed"
        assert scan.correlation(result.object[0]) > 0.99
        assert np.any(result.object != plain.object)
        # steps are averaged, not longer: it starts slower, and noise averages out
        assert result.errors[0] > plain.errors[0]
        assert result.errors[-1] < plain.errors[-1]

    def test_compact_batches(self, scan, guess):
        sparse, _ = scan.run(30, probe=guess)
        result, _ = scan.run(30, probe=guess, batch_selection="compact")
        assert result.status == "completed"
        assert scan.correlation(result.object[0]) > 0.99
        assert np.any(result.object != sparse.object)
        assert result.errors[-1] < 1.1 * sparse.errors[-1]

    def test_step_lengths(self, scan, guess):
        none, _ = scan.run(2, probe=guess, step_object=0.0)
        half, _ = scan.run(2, probe=guess, step_object=0.5)
        np.testing.assert_array_equal(none.object, 1)
        whole, _ = scan.run(2, probe=guess)
        assert 0 < np.abs(half.object - 1).mean() < np.abs(whole.object - 1).mean()


class TestConjugateGradients:
    def test_the_order_of_the_batches_is_of_no_account(self, scan, guess):
        one, _ = scan.run(6, probe=guess, algorithm="gradient", random_state=0)
        other, _ = scan.run(6, probe=guess, algorithm="gradient", random_state=1)
        np.testing.assert_allclose(one.object, other.object, atol=1e-3)
        whole, _ = scan.run(6, probe=guess, algorithm="gradient", batch_size=63)
        np.testing.assert_allclose(one.object, whole.object, atol=1e-3)

    def test_it_always_goes_downhill(self, noisy):
        result, _ = noisy.run(60, algorithm="gradient")
        assert np.all(np.diff(result.errors) < 0)

    def test_conjugate_directions_are_worth_it(self, measure, guess, monkeypatch):
        from hs_autoptycho.ptycho.updates import ConjugateGradients

        scan = measure(dose=None)
        result, _ = scan.run(30, probe=guess, algorithm="gradient")
        end_pass = ConjugateGradients.end_pass

        def forget(self, *args, **options):
            self._last = []
            end_pass(self, *args, **options)

        monkeypatch.setattr(ConjugateGradients, "end_pass", forget)
        steepest, _ = scan.run(30, probe=guess, algorithm="gradient")
        assert result.errors[-1] < 0.8 * steepest.errors[-1]


class TestPhaseObject:
    @algorithms
    def test_its_modulus_is_1(self, scan, guess, algorithm):
        result, _ = scan.run(8, probe=guess, object_type="phase", **steps(algorithm))
        np.testing.assert_allclose(np.abs(result.object), 1, atol=1e-6)
        assert scan.correlation(result.object[0]) > 0.8

    def test_it_stays_1_with_regularization(self, scan):
        wanted = Regularization(bandwidth=1.0, total_variation=0.01, positivity=0.5)
        result, _ = scan.run(8, object_type="phase", regularization=wanted)
        np.testing.assert_allclose(np.abs(result.object), 1, atol=1e-5)

    def test_it_is_better_where_it_is_true(self, noisy):
        free, _ = noisy.run(40)
        result, _ = noisy.run(40, object_type="phase")
        assert distance(noisy, result.object) < 0.95 * distance(noisy, free.object)
        assert noisy.correlation(result.object[0]) > noisy.correlation(free.object[0])
        # with fewer numbers to fit
        assert result.errors[-1] > free.errors[-1]

    def test_it_is_worse_where_it_is_not(self, measure):
        scan = measure(absorption=0.5)
        free, _ = scan.run(40)
        result, _ = scan.run(40, object_type="phase")
        assert distance(scan, free.object) < 0.7 * distance(scan, result.object)
        modulus = np.corrcoef(
            np.abs(scan.scanned(free.object[0])).ravel(),
            np.abs(scan.scanned(scan.truth[0])).ravel(),
        )
        assert modulus[0, 1] > 0.9


class TestSlices:
    @pytest.fixture(scope="class")
    @classmethod
    def thick(cls, measure):
        """Two slices that have nothing in common, farther apart than the depth of field."""
        return measure(distance=300.0, defocus=150.0, dose=50000)

    @algorithms
    @pytest.mark.parametrize("noise_model", ["amplitude", "poisson"])
    def test_each_slice_is_its_own(self, thick, algorithm, noise_model):
        options = {**steps(algorithm), "step_probe": 0.0, "noise_model": noise_model}
        result, _ = thick.run(60, **options)
        assert result.status == "completed" and result.object.shape[0] == 2
        for i in (0, 1):
            assert thick.correlation(result.object[i], i) > 0.95
            assert abs(thick.correlation(result.object[i], 1 - i)) < 0.3

    def test_the_probe_too(self, thick):
        result, _ = thick.run(80, probe=thick.make_probe(160.0)[None])
        assert all(thick.correlation(result.object[i], i) > 0.9 for i in (0, 1))
        overlaps = [
            abs(np.vdot(probe, thick.probe)) / np.linalg.norm(probe)
            for probe in (thick.make_probe(160.0), result.probe[0])
        ]
        assert 1 - overlaps[1] < 0.5 * (1 - overlaps[0])

    def test_one_slice_does_not_do(self, thick):
        two, _ = thick.run(40, step_probe=0.0)
        one, _ = thick.run(40, step_probe=0.0, model=Model())
        assert one.object.shape[0] == 1
        assert two.errors[-1] < 0.2 * one.errors[-1]

    def test_slices_the_other_way_round_do_not_do(self, thick):
        right, _ = thick.run(20, step_probe=0.0)
        start = thick.truth[::-1]
        wrong, _ = thick.run(1, step_probe=0.0, start_object=start)
        good, _ = thick.run(1, step_probe=0.0, start_object=thick.truth)
        assert good.errors[0] < 0.1 * wrong.errors[0]
        propagation = replace(thick.propagation, distances=(100.0,))
        model = replace(thick.model(), propagation=propagation)
        nearer, _ = thick.run(20, step_probe=0.0, model=model)
        assert right.errors[-1] < 0.5 * nearer.errors[-1]

    def test_variable_modes_and_own_positions_go_with_slices(self, thick):
        result, _ = thick.run(
            30, step_probe=0.5, n_variable_modes=1, starts=Starts(positions=3), momentum=0.3
        )
        assert result.status == "completed"
        assert all(thick.correlation(result.object[i], i) > 0.8 for i in (0, 1))


class TestRegularization:
    def run(self, scan, n_iterations=10, **wanted):
        return scan.run(n_iterations, regularization=Regularization(**wanted))[0]

    def spectrum(self, scan, object_):
        """Power and frequency in 1/Å of an object's deviation from its mean."""
        power = np.abs(np.fft.fft2(object_ - object_.mean())) ** 2
        k = np.meshgrid(
            *(np.fft.fftfreq(n, p) for n, p in zip(object_.shape, scan.pixel, strict=True)),
            indexing="ij",
        )
        return power, np.hypot(*k)

    def test_bandwidth(self, noisy):
        cutoff = 0.45
        outside = []
        for wanted in ({}, {"bandwidth": cutoff}):
            power, k = self.spectrum(noisy, self.run(noisy, **wanted).object[0])
            outside.append(power[k > 1.2 * cutoff].sum() / power.sum())
        # the object's own edges wrap round in this transform alone
        assert outside[0] > 0.05 and outside[1] < 0.02 * outside[0]
        assert noisy.correlation(self.run(noisy, bandwidth=1.0).object[0]) > 0.9

    def test_probe_support(self, scan):
        plain, result = self.run(scan), self.run(scan, probe_support=0.4)
        # with its edge it ends at 0.6 of half the window
        outside = probe_support(np.ones((1, *scan.window)), 0.61, edge=1e-6)[0] == 0
        assert (np.abs(plain.probe[0][outside]) ** 2).sum() > 1e-4 * (
            np.abs(plain.probe) ** 2
        ).sum()
        np.testing.assert_allclose(
            result.probe[0][outside], 0, atol=1e-6 * np.abs(result.probe).max()
        )
        held = scan.run(3, step_probe=0.0, regularization=Regularization(probe_support=0.2))[0]
        overlap = abs(np.vdot(held.probe[0], scan.probe)) / np.linalg.norm(held.probe)
        assert overlap == pytest.approx(1, abs=1e-6)

    def test_positivity(self, noisy):
        spans = []
        for wanted in ({}, {"positivity": 1.0}, {"positivity": 0.3}):
            object_ = noisy.scanned(self.run(noisy, **wanted).object[0])
            phase = np.angle(object_ / object_.mean())
            spans.append(np.median(phase) - phase.min())
        assert spans[1] < 0.75 * spans[0]
        assert spans[1] < spans[2] < spans[0]

    def test_total_variation(self, noisy):
        def variation(object_):
            phase = np.angle(noisy.scanned(object_))
            return np.abs(np.diff(phase, axis=-1)).mean() + np.abs(np.diff(phase, axis=-2)).mean()

        found = [
            variation(self.run(noisy, total_variation=w).object[0]) for w in (0, 0.01, 0.05, 0.2)
        ]
        assert np.all(np.diff(found) < 0) and found[-1] < 0.7 * found[0]

    def test_depth(self, measure):
        # neighbours within the depth of field: what they differ in is noise
        scan = measure(distance=20.0, dose=2000)
        apart, sums = [], []
        for strength in (0.0, 1.0, 20.0):
            result = self.run(scan, n_iterations=15, depth=strength)
            phases = np.angle(result.object / result.object.mean((1, 2), keepdims=True))
            phases = scan.scanned(phases)
            apart.append((phases[0] - phases[1]).std() / phases.sum(0).std())
            truth = scan.scanned(scan.phases.sum(0))
            sums.append(np.corrcoef(phases.sum(0).ravel(), truth.ravel())[0, 1])
        assert apart[0] > 1.5 * apart[2] and apart[0] > apart[1] > apart[2]
        assert min(sums) > 0.8

    def test_depth_is_of_no_account_with_one_slice(self, scan):
        plain, result = self.run(scan, 3), self.run(scan, 3, depth=3.0)
        np.testing.assert_array_equal(plain.object, result.object)

    def test_nothing_is_the_default(self, scan):
        plain, result = scan.run(3)[0], self.run(scan, 3)
        np.testing.assert_array_equal(plain.object, result.object)


class TestVariableModes:
    def test_they_explain_a_probe_that_changes(self, measure):
        """Every position has another part of a second probe, in phase with the first one."""
        scan = measure(dose=None)
        other = 1j * (scan.make_probe(130.0) - scan.make_probe(70.0))
        other -= scan.probe * np.vdot(scan.probe, other)
        share = 0.3 * np.random.default_rng(1).normal(size=len(scan.positions))
        data = []
        for i, part in enumerate(share):
            probe = scan.probe + part * other / np.linalg.norm(other)
            data.append(scan.intensities(scan.truth, probe, [i])[0])
        data = np.fft.fftshift(data, axes=(1, 2)).astype(np.float32)
        patterns = scan.ordered(data)
        plain, _ = scan.run(40, patterns=patterns)
        result, _ = scan.run(40, patterns=patterns, n_variable_modes=1)
        assert result.status == "completed"
        assert result.errors[-1] < 0.1 * plain.errors[-1]
        assert result.variable_modes.shape == (1, *scan.window)
        assert result.coefficients.shape == (len(share), 1)
        assert abs(np.corrcoef(result.coefficients[:, 0], share)[0, 1]) > 0.99
        assert scan.correlation(result.object[0]) > 0.99
        assert plain.variable_modes is None and plain.coefficients is None

    @pytest.mark.parametrize("algorithm", ["lsq-ml", "epie", "rpie", "gradient"])
    def test_they_run(self, scan, guess, algorithm):
        probes = np.concatenate([guess, 0.2 * np.roll(guess, 3, 2), 0.1 * np.roll(guess, 3, 1)])
        result, _ = scan.run(10, probe=probes, n_variable_modes=2, **steps(algorithm))
        assert result.status == "completed"
        assert np.isfinite(result.variable_modes).all() and np.isfinite(result.coefficients).all()
        assert scan.correlation(result.object[0]) > 0.8

    def test_they_are_held_with_the_probe(self, scan, guess):
        result, _ = scan.run(3, probe=guess, n_variable_modes=2, step_probe=0.0)
        np.testing.assert_array_equal(result.coefficients, 0)


class TestDetector:
    """Masks, background, saturation and blur that are known, and what becomes of them untold."""

    def test_unused_pixels_are_of_no_account(self, scan):
        mask = np.random.default_rng(0).uniform(size=scan.window) > 0.1
        dead = scan.data * mask
        odd = np.where(mask, scan.data, scan.data.mean().astype(int)).astype(np.uint16)
        # the same sum: the scale of the patterns is that of all pixels
        results = []
        for data in (dead, odd):
            patterns = scan.ordered(data)
            object.__setattr__(patterns, "mean_total", float(dead.sum() / len(dead)))
            results.append(scan.run(15, patterns=patterns, detector={"mask": mask})[0])
        np.testing.assert_array_equal(results[0].object, results[1].object)
        assert scan.correlation(results[0].object[0]) > 0.97
        unaware, _ = scan.run(15, patterns=scan.ordered(dead))
        assert scan.correlation(unaware.object[0]) < scan.correlation(results[0].object[0]) - 0.005
        assert results[0].errors[-1] < 0.7 * unaware.errors[-1]

    def test_background(self, measure):
        scan = measure(background=4.0)
        told, _ = scan.run(30, detector={"background": 4.0})
        unaware, _ = scan.run(30)
        assert scan.correlation(told.object[0]) > 0.97
        assert scan.correlation(told.object[0]) > scan.correlation(unaware.object[0]) + 0.01
        assert told.errors[-1] < 0.8 * unaware.errors[-1]
        image = np.full(scan.window, 4.0)
        same, _ = scan.run(30, detector={"background": image})
        np.testing.assert_array_equal(same.object, told.object)
        # and the probe has the power of the beam alone
        beam = scan.data.sum((1, 2)).mean() - 4 * scan.data[0].size
        assert (np.abs(told.probe) ** 2).sum() == pytest.approx(beam, rel=0.02)

    def test_saturation(self, scan):
        limit = int(np.quantile(scan.data[scan.data > 20], 0.7))
        clipped = scan.ordered(np.minimum(scan.data, limit).astype(np.uint16))
        told, _ = scan.run(40, patterns=clipped, detector={"saturation": limit})
        unaware, _ = scan.run(40, patterns=clipped)
        assert scan.correlation(told.object[0]) > 0.995
        assert scan.correlation(told.object[0]) > scan.correlation(unaware.object[0]) + 0.001
        # what was cut off is not missing in the object's modulus
        modulus = [np.abs(scan.scanned(r.object[0])).std() for r in (told, unaware)]
        assert modulus[0] < 0.6 * modulus[1]

    def test_blur(self, measure):
        scan = measure(blur=0.8, dose=None)
        told, _ = scan.run(40, detector={"blur": 0.8})
        unaware, _ = scan.run(40)
        assert told.errors[-1] < 0.2 * unaware.errors[-1]
        assert scan.correlation(told.object[0]) > scan.correlation(unaware.object[0]) + 0.005
        # where there is none it is wrong
        sharp = measure(dose=None)
        right, wrong = (sharp.run(20, detector={"blur": b})[0] for b in (0.0, 0.8))
        assert right.errors[-1] < 0.2 * wrong.errors[-1]
