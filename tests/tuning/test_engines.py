"""The engine behind the tuner: what it fits, watches and predicts."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.parts import scan_window
from hs_autoptycho.ptycho.patterns import split_counts
from hs_autoptycho.tuning.engines import NumbaEngine, make_engine

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}


def fit(experiment, parameters=TRUE, n_iterations=3, **options):
    return NumbaEngine().fit(
        experiment, parameters, n_iterations=n_iterations, random_state=0, **options
    )


@pytest.fixture(scope="module")
def halves(experiment):
    return [experiment.with_counts(half) for half in split_counts(experiment.counts, 0.9, 1)]


class TestMonitor:
    def test_sees_every_pass_and_stops(self, experiment):
        seen = []

        def watch(iteration, running):
            assert running.reconstruction is None
            seen.append((iteration, running.deviance(experiment, np.arange(5)).mean()))
            return iteration == 3

        stopped = fit(experiment, n_iterations=9, monitor=watch)
        assert [iteration for iteration, _ in seen] == [1, 2, 3]
        assert seen[2][1] < seen[0][1]
        assert stopped.reconstruction.status == "stopped"
        assert len(stopped.reconstruction.errors) == 3
        # it is shown what the pass has left behind, and changes nothing
        assert stopped.deviance(experiment, np.arange(5)).mean() == seen[2][1]
        short = fit(experiment, n_iterations=3)
        assert short.reconstruction.status == "completed"
        assert np.array_equal(short.reconstruction.object, stopped.reconstruction.object)

    @pytest.mark.parametrize("stop", [1, 2, 3, 99])
    def test_counts_over_both_stages(self, experiment, stop):
        seen = []

        def watch(iteration, running):
            seen.append((iteration, running.state.shape))
            return iteration == stop

        result = fit(
            experiment, {**TRUE, "coarse_iterations": 2}, n_iterations=4, monitor=watch
        ).reconstruction
        passes = min(stop, 4)
        assert [iteration for iteration, _ in seen] == list(range(1, passes + 1))
        assert len(result.errors) == passes
        assert result.status == ("completed" if stop == 99 else "stopped")
        assert all((shape == (48, 64)) == (i > 2) for i, shape in seen)

    def test_comes_after_regularisation(self, experiment):
        def watch(iteration, running):
            objects.append(running.state.object.copy())

        objects = []
        parameters = {**TRUE, "object_type": "phase", "regularization_tv": 0.5}
        fit(experiment, parameters, n_iterations=1, monitor=watch)
        fit(experiment, {**parameters, "regularization_tv": 0.0}, n_iterations=1, monitor=watch)
        smooth, rough = (np.abs(np.diff(o, axis=-1)).sum() for o in objects)
        assert smooth < 0.9 * rough


class TestDeviance:
    def test_is_that_of_the_predicted_counts(self, halves):
        """The formula, from the state's own intensities, at positions in any order."""
        fitted, test = halves
        result = fit(fitted)
        some = np.array([7, 3, 90, 52])
        found = result.deviance(test, some)
        whole = result.deviance(test)
        np.testing.assert_allclose(found, whole[some], rtol=1e-12)
        batch = result.state.batch(np.arange(99))
        order = np.argsort(batch.indices)
        model = result.state.model_intensities(batch)[order].astype(float)
        mean = test.counts.mean()
        mu = (model + 0.01) * mean
        n = test.patterns().counts.astype(float)
        terms = np.where(n > 0, n * np.log(np.where(n > 0, n, 1) / mu), 0) - n + mu
        np.testing.assert_allclose(whole, 2 * terms.mean(1), rtol=1e-4)

    def test_is_a_pixel_that_the_tests_mask_leaves(self, halves):
        fitted, test = halves
        result = fit(fitted)
        mask = np.zeros((48, 64), bool)
        mask[20:30, 25:50] = True
        parts = [result.deviance(test.with_mask(m)) * m.sum() for m in (mask, ~mask)]
        np.testing.assert_allclose(sum(parts) / mask.size, result.deviance(test), rtol=1e-5)
        assert parts[0].sum() / mask.sum() > 1.5 * parts[1].sum() / (~mask).sum()

    @pytest.mark.parametrize("reduction", [1, 2])
    def test_of_a_flipped_detector_is_the_same(self, experiment, halves, reduction):
        """The same pixels of the same counts, whatever the orientation in which they are fitted."""
        fitted, test = halves
        mask = np.ones((48, 64), bool)
        mask[:24] = False  # not symmetric
        expected = fit(fitted, reduction=reduction).deviance(test.with_mask(mask))
        parameters = {**TRUE, "detector_flip": "transpose-columns"}
        flipped = [e.with_counts(e.counts) for e in halves]
        for e in flipped:
            # the recorded patterns, turned so that the engine's flip turns them back
            e.counts = np.ascontiguousarray(np.swapaxes(e.counts, 1, 2)[:, ::-1])
            e.geometry = experiment.geometry.flipped("transpose-rows")
        mask = np.ascontiguousarray(mask.T[::-1])
        for e in flipped:
            e.__dict__.pop("mean_pattern", None)
        found = fit(flipped[0], parameters, reduction=reduction).deviance(
            flipped[1].with_mask(mask)
        )
        np.testing.assert_allclose(found, expected, rtol=2e-2)

    def test_of_the_truth_is_what_counting_leaves(self, experiment):
        """Counts drawn from a model itself: expected and found deviance agree."""
        result = fit(experiment, n_iterations=8)
        batch = result.state.batch(np.arange(99))
        model = result.state.model_intensities(batch)[np.argsort(batch.indices)].astype(float)
        order = experiment.patterns().order(np.arange(48 * 64).reshape(48, 64))
        images = np.empty_like(model)
        images[:, order] = model * experiment.counts.mean()
        generator = np.random.default_rng(5)
        for dose in (0.02, 0.2, 1.0, 5.0):
            drawn = generator.poisson(dose * images).reshape(-1, 48, 64).astype(np.uint16)
            test = experiment.with_counts(drawn)
            test.exposure = dose
            expected, found = result.expected_deviance(test), result.deviance(test)
            assert found.mean() == pytest.approx(expected.mean(), rel=0.01)
            some = np.array([4, 1])
            np.testing.assert_allclose(result.expected_deviance(test, some), expected[some])


class TestFidelity:
    def test_positions(self, experiment):
        """Patterns that are not used do not matter, but for the scan's mean."""
        rows, columns = scan_window((9, 11), 0.5)
        used = np.arange(99).reshape(9, 11)[rows, columns].ravel()
        others = np.setdiff1d(np.arange(99), used)
        counts = experiment.counts.copy()
        counts[others] = counts[others[::-1]]
        results = [
            fit(e, positions=positions).reconstruction.object
            for e in (experiment, experiment.with_counts(counts))
            for positions in (used, None)
        ]
        assert np.array_equal(results[0], results[2])
        assert not np.array_equal(results[1], results[3])

    def test_reduction(self, experiment):
        shapes = {r: experiment.reduced_shape(r) for r in (1, 1.5, 2, 4)}
        assert shapes[1] == (48, 64) and shapes[2][0] < 48 and shapes[2][1] < 64
        assert shapes[4] == experiment.reduced_shape(8)  # the disk is always seen
        assert min(shapes[4]) >= 2 * experiment.geometry.disk_radius
        assert experiment.reduced_shape(2, "transpose-rows") == shapes[2][::-1]
        result = fit(experiment, reduction=2)
        assert result.reconstruction.probe.shape[1:] == shapes[2]
        smaller = np.divide(result.reconstruction.object.shape[1:], (48, 64))
        assert (smaller < 1.6).all()
        assert np.isfinite(result.deviance(experiment)).all()

    def test_patterns_are_kept_for_each_size(self, experiment):
        other = experiment.with_counts(experiment.counts)
        shape = other.reduced_shape(2)
        kept = other.patterns("none"), other.patterns("none", shape)
        assert other.patterns("none") is kept[0] and other.patterns("none", shape) is kept[1]
        turned = other.patterns("transpose")
        assert turned.shape == (64, 48)
        assert len(other._patterns) == 2  # one of each size
        assert other.patterns("none") is not kept[0]
        assert not other.__getstate__()["_patterns"]

    def test_part_of_the_scan(self, experiment):
        part = experiment.part_of_scan(0.7)
        assert part.geometry.scan_shape == (8, 9)
        expected = experiment.counts.reshape(9, 11, 48, 64)[0:8, 1:10].reshape(-1, 48, 64)
        assert np.array_equal(part.counts, expected)
        assert experiment.part_of_scan(1.0) is experiment
        assert experiment.part_of_scan(0.01).geometry.scan_shape == (8, 8)
        for wrong in (0, -1, 1.5):
            with pytest.raises(ValueError, match="above 0 and at most 1"):
                experiment.part_of_scan(wrong)

    def test_window_has_the_scans_shape(self):
        assert scan_window((60, 90), 0.25) == (slice(15, 45), slice(22, 67))
        assert scan_window((5, 40), 0.25) == (slice(0, 5), slice(10, 30))


def test_engines_by_name(experiment):
    engine = NumbaEngine()
    assert make_engine("numba").name == "numba" and make_engine(engine) is engine
    for wrong in ("cuda", None, 3):
        with pytest.raises(ValueError, match="is not known.*numba"):
            make_engine(wrong)
