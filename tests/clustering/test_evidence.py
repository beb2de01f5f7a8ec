"""What held-out counts say of a split: steps, gradients and noise."""

import numpy as np
import pytest

from hs_autoptycho.clustering.evidence import Evidence, weigh
from hs_autoptycho.clustering.features import Half

SHAPE = (34, 41)
Y, X = np.indices(SHAPE)
MASK = np.ones(SHAPE, bool)


def halves(signal, seed=0, weight=100.0):
    """Two halves of a signal (y, x) along a direction in three, with noise of one a count."""
    rng = np.random.default_rng(seed)
    direction = np.array([0.6, 0.0, 0.8])
    result = []
    for _ in range(2):
        weights = rng.poisson(weight, SHAPE).astype(float)
        noise = rng.standard_normal((*SHAPE, 3)) * np.sqrt(weights)[..., None]
        result.append(Half(weights[..., None] * signal[..., None] * direction + noise, weights))
    return result


def test_step():
    second = X > 17 + 3 * np.sin(Y / 5)
    evidence = weigh(second[MASK], *halves(0.4 * second), MASK, 1.0)
    # of a difference of 0.4 with a noise of 0.1 at a position
    n = np.array([np.count_nonzero(~second), np.count_nonzero(second)])
    assert evidence.significance == pytest.approx(4 / np.sqrt((1 / n).sum()), rel=0.05)
    assert evidence.explained == pytest.approx(0.16 * n[0] * n[1] / n.sum(), rel=0.05)
    assert evidence.step == pytest.approx(1, abs=5 * evidence.step_error)
    assert evidence.local == pytest.approx(1, abs=5 * evidence.local_error)
    assert evidence.step_error < 0.06 and evidence.local_error < 0.08
    assert evidence.separation == pytest.approx(4 * np.sqrt(2), rel=0.1)
    assert evidence.plateaus > 5


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(
    "ramp",
    [X / 40, Y / 33, (X + 2 * Y) / 106, (X / 40) ** 2, ((X - 20) / 20) ** 2, X * Y / 1320,
     (X / 40) ** 3 - X / 40],
    ids=["x", "y", "oblique", "square", "valley", "saddle", "cubic"],
)  # fmt: skip
def test_gradients_are_no_steps(ramp, cut):
    second = ramp > np.quantile(ramp, cut)
    evidence = weigh(second[MASK], *halves(0.5 * ramp), MASK, 1.0)
    assert evidence.significance > 6
    assert abs(evidence.step) < 4.5 * evidence.step_error + 0.02
    assert abs(evidence.step) < 0.35
    assert abs(evidence.local) < 0.5


def test_step_on_a_gradient():
    second = X > 20
    evidence = weigh(second[MASK], *halves(0.2 * second + 0.4 * Y / 33), MASK, 1.0)
    assert evidence.step == pytest.approx(1, abs=0.1)
    assert evidence.local == pytest.approx(1, abs=0.1)
    half = weigh(second[MASK], *halves(0.2 * second + 0.4 * X / 40), MASK, 1.0)
    assert half.step == pytest.approx(0.5, abs=0.12)  # the rest of the difference is gradient


def test_standard_errors_are_true():
    second = X > 20
    steps, errors, locals_, local_errors = [], [], [], []
    for seed in range(60):
        evidence = weigh(second[MASK], *halves(0.1 * second, seed, 50.0), MASK, 1.0)
        steps.append(evidence.step)
        errors.append(evidence.step_error)
        locals_.append(evidence.local)
        local_errors.append(evidence.local_error)
    # of 60 draws the spread is known to 9 %
    assert np.std(steps) / np.mean(errors) == pytest.approx(1, abs=0.35)
    assert np.std(locals_) / np.mean(local_errors) == pytest.approx(1, abs=0.35)


def test_significance_of_noise_is_normal():
    values = []
    rng = np.random.default_rng(7)
    for seed in range(100):
        fit, test = halves(0 * X, seed, 30.0)
        # the worst that can be done to one half: cut where it is largest
        second = fit.sums[..., 0] / fit.weights > rng.normal(0, 0.1)
        values.append(weigh(second[MASK], fit, test, MASK, 0.7).significance)
    assert 0.7 < np.std(values) < 1.4
    assert abs(np.mean(values)) < 0.4
    assert np.abs(values).max() < 4.5


def test_children_that_do_not_touch():
    mask = (X < 15) | (X > 35)
    second = X > 20
    evidence = weigh(second[mask], *halves(0.4 * second), mask, 1.0)
    assert np.isnan(evidence.local) and np.isnan(evidence.local_error)
    assert evidence.significance > 20


def test_only_the_mask_counts():
    mask = np.hypot(X - 20, Y - 17) < 14
    second = X > 20
    fit, test = halves(0.4 * second)
    evidence = weigh(second[mask], fit, test, mask, 1.0)
    changed = Half(np.where(mask[..., None], test.sums, 1e3), np.where(mask, test.weights, 7.0))
    assert weigh(second[mask], fit, changed, mask, 1.0) == evidence


def test_nothing_to_compare():
    fit, test = halves(0.4 * (X > 20))
    assert weigh(np.zeros(MASK.sum(), bool), fit, test, MASK, 1.0) is None
    second = (X > 20)[MASK]
    empty = Half(np.where(X[..., None] > 20, 0, test.sums), np.where(X > 20, 0, test.weights))
    assert weigh(second, fit, empty, MASK, 1.0) is None
    assert weigh(second, Half(0 * fit.sums, fit.weights), test, MASK, 1.0) is None


def test_constant_patterns_have_no_infinities():
    """No noise at all, as in a simulation."""
    second = X > 20
    half = Half(np.where(second, 2.0, 1.0)[..., None], np.ones(SHAPE))
    evidence = weigh(second[MASK], half, half, MASK, 0.0)
    assert evidence.significance > 1e6
    assert evidence.step == pytest.approx(1) and evidence.local == pytest.approx(1)
    assert np.isfinite(evidence.plateaus) and np.isfinite(evidence.separation)


def test_two_tests_are_combined():
    one = Evidence(6.0, 2.0, 3.0, 4.0, 0.8, 0.3, 0.6, 0.4)
    two = Evidence(8.0, 4.0, 1.0, 7.0, 0.6, 0.4, 1.0, 0.3)
    both = one.combined(two)
    assert both.significance == pytest.approx(14 / np.sqrt(2))  # of independent normal numbers
    assert (both.explained, both.separation, both.plateaus) == (3, 2, 4)
    assert (both.step, both.step_error) == (pytest.approx(0.7), pytest.approx(0.25))
    assert (both.local, both.local_error) == (pytest.approx(0.8), pytest.approx(0.25))
    apart = Evidence(8.0, 4.0, 1.0, 7.0, 0.6, 0.4, np.nan, np.nan)
    for mixed in (one.combined(apart), apart.combined(one)):
        assert (mixed.local, mixed.local_error) == (0.6, 0.4)
    assert np.isnan(apart.combined(apart).local)
