"""The score of a phase against the truth, on arrays."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from hs_autoptycho.data import correlation_with_truth


@pytest.fixture
def truth():
    return gaussian_filter(np.random.default_rng(0).normal(size=(50, 71)), 1.5)


def test_itself(truth):
    assert correlation_with_truth(truth, truth) == pytest.approx(1)
    assert correlation_with_truth(-truth, truth, max_shift=0) == pytest.approx(-1)


def test_constant_and_ramp_do_not_count(truth):
    row, col = np.indices(truth.shape)
    assert correlation_with_truth(3 * truth + 5 - 0.2 * row + col, truth) == pytest.approx(1)


@pytest.mark.parametrize("moved", [(2.0, -3.0), (-1.4, 2.3)])
def test_shift_is_found(truth, moved):
    phase = shift(truth, moved, mode="nearest")
    assert correlation_with_truth(phase, truth, max_shift=4) > 0.995
    assert correlation_with_truth(phase, truth, max_shift=0) < 0.5


def test_shift_has_a_limit(truth):
    phase = shift(truth, (6, 0), mode="nearest")
    assert correlation_with_truth(phase, truth, max_shift=(2, 5)) < 0.5
    assert correlation_with_truth(phase, truth, max_shift=(7, 5)) > 0.99


def test_noise_lowers_it(truth):
    noise = np.random.default_rng(1).normal(size=truth.shape) * truth.std()
    value = correlation_with_truth(truth + noise, truth)
    assert value == pytest.approx(1 / np.sqrt(2), abs=0.05)


def test_complex_with_a_steep_ramp(truth):
    row, col = np.indices(truth.shape)
    wave = 0.7 * np.exp(1j * (3 * truth + 1.3 * row - 0.9 * col))
    assert correlation_with_truth(wave, truth) > 0.99


def test_mask(truth):
    phase = truth.copy()
    phase[:, :20] = 0
    mask = np.zeros(truth.shape, bool)
    mask[8:-8, 28:-8] = True
    assert correlation_with_truth(phase, truth, mask=mask) == pytest.approx(1)


def test_a_diverged_phase_is_nan(truth):
    assert np.isnan(correlation_with_truth(np.full(truth.shape, np.nan), truth))
    assert correlation_with_truth(np.zeros(truth.shape), truth) == 0


def test_errors(truth):
    with pytest.raises(ValueError, match="one shape"):
        correlation_with_truth(truth[1:], truth)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        correlation_with_truth(truth, truth, mask=np.zeros(truth.shape, bool))
