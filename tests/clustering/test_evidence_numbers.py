"""What held-out counts say of one drawn split, and where the boundary begins and ends."""

from dataclasses import astuple

import numpy as np
import pytest

from hs_autoptycho.clustering import evidence as module
from hs_autoptycho.clustering.evidence import weigh
from hs_autoptycho.clustering.features import Half

SHAPE = (14, 19)
Y, X = np.indices(SHAPE)
DISK = np.hypot(Y - 6, X - 8) < 5.2


def wave(k, phase):
    return np.sin(1.7 * Y * (k + 1) + 0.9 * X + phase) * np.cos(
        0.6 * X * (k + 2) - 0.31 * Y + 2 * phase
    )


def half(phase):
    """A step and slopes with waves in place of noise; two positions without counts."""
    weights = 20 + 6 * np.sin(Y + 2 * X + phase)
    weights[5, 7] = weights[2, 16] = 0
    signal = np.stack([0.5 * DISK + 0.02 * X, 0.3 * DISK - 0.01 * Y, 0.1 * Y / 14], -1)
    noise = np.stack([wave(k, phase) for k in range(3)], -1)
    return Half(weights[..., None] * (signal + 0.15 * noise), weights)


@pytest.fixture(scope="module")
def drawn():
    mask = np.ones(SHAPE, bool)
    mask[:3, :4] = mask[13, 17:] = False
    return half(0.3), half(1.9), mask


@pytest.mark.parametrize(
    "second, smoothing, expected",
    [
        (DISK, 1.3, (38.43967, 17.83619, 6.467255, 3.370996, 1.03645, 0.03064848, 1.186792,
                     0.06806105)),
        (DISK, 0.2, (38.43967, 17.83619, 6.467255, 4.387499, 1.03645, 0.03064848, 1.186792,
                     0.06806105)),
        (X > 9, 0.7, (6.707522, 0.5826745, 1.215581, 1.211625, -0.08612477, 0.2947534, -0.332893,
                      0.4105324)),
        (Y < 4, 0.7, (4.479455, 0.2268056, 0.852526, 0.895768, 0.164868, 0.3831527, -1.346011,
                      0.5244503)),
    ],
)  # fmt: skip
def test_evidence_of_drawn_splits(drawn, second, smoothing, expected):
    fit, test, mask = drawn
    evidence = weigh(second[mask], fit, test, mask, smoothing)
    assert astuple(evidence) == pytest.approx(expected, rel=1e-4)


def test_significance_is_the_difference_in_standard_errors():
    """Of weighted means, whose errors follow from the scatter of their own child."""
    mask = np.ones((1, 6), bool)
    second = np.array([False, False, False, True, True, True])
    weights = np.array([[1.0, 2.0, 3.0, 2.0, 2.0, 4.0]])
    values = np.array([[1.0, 2.0, 1.0, 5.0, 7.0, 6.0]])
    both = Half((weights * values)[..., None], weights)
    found = weigh(second, both, both, mask, 0.0)
    means = np.array([8 / 6, 48 / 8])
    residual = values[0] - means[second.astype(int)]
    squares = (weights[0] * residual) ** 2
    error = np.sqrt(squares[:3].sum() / 36 + squares[3:].sum() / 64)
    difference = means[1] - means[0]
    assert found.significance == pytest.approx(difference / error)
    assert found.explained == pytest.approx(difference**2 * 9 / 6)
    spread = np.sqrt((weights[0] * residual**2).sum() / 14)
    assert found.separation == pytest.approx(np.sqrt(2) * difference / spread)


# --- the boundary -----------------------------------------------------------------------------


def local(width, rows, values=None):
    """The step at a straight boundary in the middle of so many columns."""
    mask = np.ones((rows, 2 * width), bool)
    labels = np.indices(mask.shape)[1] >= width
    values = np.where(labels, 3.0, 1.0) if values is None else values
    return module._local_step(values[mask], np.ones(mask.sum()), labels[mask], 2.0, mask)


def test_a_boundary_needs_eight_positions_on_either_side():
    # the first column beside the boundary is left out
    assert np.isnan(local(2, 7)).all() and np.isnan(local(8, 1)).all()
    assert np.isfinite(local(2, 8)).all()
    assert local(3, 4)[0] == pytest.approx(1)
    assert local(5, 2)[0] == pytest.approx(1)
    mask = np.ones((8, 9), bool)
    for columns in (2, 7):  # one of the sides alone is too few
        labels = np.indices(mask.shape)[1] >= columns
        mask[0] = False
        found = module._local_step(labels[mask] * 1.0, np.ones(63), labels[mask], 1.0, mask)
        assert np.isnan(found).all()


def test_boundary_reaches_from_the_second_to_the_eighth_position():
    columns = np.indices((4, 24))[1]
    plain = np.where(columns >= 12, 3.0, 1.0) + 0.1 * columns
    assert local(12, 4, plain)[0] == pytest.approx(1)
    for column, seen in ((3, False), (4, True), (10, True), (11, False), (12, False), (13, True),
                         (19, True), (20, False)):  # fmt: skip
        changed = plain + 5 * (columns == column)
        assert (abs(local(12, 4, changed)[0] - 1) > 0.01) == seen


def test_last_coefficient_is_that_of_a_weighted_fit():
    x = np.arange(6.0)
    terms = np.stack([np.ones(6), x, x > 2], -1)
    weights = np.array([1.0, 2.0, 1.0, 3.0, 1.0, 2.0])
    values = 2 + 0.5 * x + 1.5 * (x > 2) + np.array([0.1, -0.2, 0.1, 0.05, -0.1, 0.02])
    step, error = module._last_coefficient(terms, values, weights, 0.5)
    root = np.sqrt(weights)
    fit = np.linalg.lstsq(terms * root[:, None], values * root, rcond=None)[0]
    assert step == pytest.approx(fit[-1] / 0.5)
    inverse = np.linalg.inv((terms * weights[:, None]).T @ terms)
    errors = inverse @ (terms * weights[:, None]).T * (values - terms @ fit)
    assert error == pytest.approx(np.sqrt((errors[-1] ** 2).sum()) / 0.5)
    assert module._last_coefficient(terms, values, weights, -0.5)[1] == pytest.approx(error)
    assert module._last_coefficient(terms, values, weights, 0) == (0, np.inf)


def test_surface_of_third_degree_takes_gradients_away():
    mask = np.hypot(Y - 6, X - 9) < 6.5
    group = (X > 9)[mask].astype(int)
    ones = np.ones(mask.sum())
    for power, found in ((3, 0.0), (4, None)):
        values = ((X + 2 * Y - 9.0) ** power / 6.0**power)[mask]
        step = module._step(values, ones, group, 1.0, mask)[0]
        assert (abs(step) < 1e-9) == (found == 0)
    step, error = module._step(2.0 * group + (X * Y)[mask], ones, group, 2.0, mask)
    assert step == pytest.approx(1) and error < 1e-9


def test_plateaus_are_those_of_smoothed_positions():
    labels = X > 9
    weights = np.ones(SHAPE)
    test = Half((labels + 0.3 * wave(1, 0.4))[..., None], weights)
    mask = np.ones(SHAPE, bool)
    mask[:, :2] = False
    found = module._plateaus(test, np.ones(1), labels[mask], mask, 0.0)
    first, second = (test.sums[..., 0][mask & side] for side in (~labels, labels))
    spread = np.sqrt((first.var() + second.var()) / 2)
    assert found == pytest.approx((second.mean() - first.mean()) / spread)
    blurred = module._plateaus(test, np.ones(1), labels[mask], mask, 1.0)
    outside = Half(np.where(mask[..., None], test.sums, 99.0), np.where(mask, weights, 7.0))
    assert module._plateaus(outside, np.ones(1), labels[mask], mask, 1.0) == pytest.approx(blurred)
