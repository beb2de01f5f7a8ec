"""The statistical error of the objective, in numbers."""

import numpy as np
import pytest

from hs_autoptycho.tuning.posterior import StatisticalError


class TestStatisticalError:
    """One feature: the slope is a weighted mean of the trials' scatter over their features."""

    blocks = np.array([1.0, -2.0, 0.5, 0.5])  # of mean 0; squares add up to 5.5

    def fit(self, features, errors):
        """Trials whose scatter between blocks is `errors` times the same."""
        errors = np.array(errors, dtype=float)
        features = np.array(features, dtype=float)[:, np.newaxis]
        return StatisticalError.fit(features, errors[:, np.newaxis] * self.blocks - 3.0)

    def slopes(self, value):
        """Of a line through trials with this scatter; the ridge takes a thousandth of it."""
        return value * self.blocks / np.sqrt(4 * 3) / 1.001

    def test_of_a_straight_line(self):
        error = self.fit([-1, 0.5, 1, 2], [-3, 1.5, 3, 6])
        assert error.slopes == pytest.approx(self.slopes(3 * 1.001)[np.newaxis])
        assert error.size(np.array([[2.0]])) == pytest.approx(6 * np.sqrt(5.5 / 12))

    def test_trials_count_by_their_relative_error(self):
        # features over errors are 1, 1/2, 1, 1/2: the slope that fits best is 3 / 2.5; both
        # trials up to the median have 1 and 4 of error, of which it explains 1.2 and 2.4
        error = self.fit([1, 2, 3, 4], [1, 4, 3, 8])
        expected = (1 + 0.5 + 1 + 0.5) / (1 + 0.25 + 1 + 0.25)
        near = np.median([1 / expected, 3 / (3 * expected)])
        assert error.slopes == pytest.approx(self.slopes(expected * near * 1.001)[np.newaxis])

    def test_no_trial_has_more_than_ten_times_the_weight_of_the_median(self):
        # 0.001 counts as a tenth of 1; so close to nought that the rest is taken by half at most
        features, errors = [1] * 11, [1e-3] * 4 + [1] * 2 + [1.2] * 5
        weights = 1 / np.maximum(errors, 0.1) ** 2
        expected = 0.5 * np.sum(weights * errors) / np.sum(weights)
        assert self.fit(features, errors).slopes == pytest.approx(self.slopes(expected)[None])

    def test_the_slope_is_made_three_times_as_steep_at_most(self):
        # signs that no line explains
        signs = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1, 1])
        error = self.fit([1] * 10, signs)
        assert error.slopes == pytest.approx(self.slopes(3 * 0.2)[np.newaxis])

    def test_of_two_features(self):
        random = np.random.default_rng(5)
        features = random.uniform(-1, 1, (9, 2))
        differences = features @ random.normal(size=(2, 6)) + 0.3 * random.normal(size=(9, 6))
        error = StatisticalError.fit(features, differences)
        assert error.slopes.shape == (2, 6)
        assert error.size(np.eye(2)) == pytest.approx([0.168143, 0.360943], rel=1e-4)
        # trials that scatter by rounding alone, or at the best point itself, say nothing
        more = np.vstack([features, np.zeros((3, 2)), random.uniform(-1, 1, (4, 2))])
        said = np.vstack([differences, random.normal(size=(3, 6)), np.full((4, 6), 0.1)])
        assert StatisticalError.fit(more, said).slopes == pytest.approx(error.slopes)

    def test_two_blocks_or_no_trial_are_no_error(self):
        differences = np.random.default_rng(6).normal(size=(4, 5))
        for some, features in (
            (differences[:, :2], np.ones((4, 3))),
            (differences, 0 * np.ones((4, 3))),
        ):
            assert np.array_equal(StatisticalError.fit(features, some).slopes, np.zeros((3, 1)))
        assert StatisticalError.fit(np.ones((4, 3)), differences[:, :3]).slopes.shape == (3, 3)

    def test_draws(self):
        slopes = np.array([[1.0, 0.0, 2.0], [0.5, -1.0, 0.0]])
        features = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0], [0.0, 0.0]])
        draws = StatisticalError(slopes).draw(features, 5, np.random.default_rng(7))
        normal = np.random.default_rng(7).standard_normal((5, 3))
        assert draws == pytest.approx(normal @ (features @ slopes).T)
