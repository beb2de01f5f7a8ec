"""Scores against the truth, and what they do not see."""

import numpy as np
import pytest

from hs_autoptycho.design import scores


def picture(shift=(0.0, 0.0)) -> np.ndarray:
    """Waves of all directions, moved by any fraction of a pixel; (44, 57)."""
    generator = np.random.default_rng(0)
    angle, place = generator.uniform(0, 2 * np.pi, (2, 300))
    k = 0.49 * np.sqrt(generator.random(300))
    y, x = np.indices((44, 57)) - np.reshape(shift, (2, 1, 1))
    waves = [
        np.cos(2 * np.pi * q * (y * np.sin(a) + x * np.cos(a)) + p) / (1 + 20 * q)
        for q, a, p in zip(k, angle, place, strict=True)
    ]
    return 0.06 * np.sum(waves, axis=0)


@pytest.fixture
def truth() -> np.ndarray:
    """With a border of (4, 5)."""
    return picture()


INNER = np.s_[4:-4, 5:-5]


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, -3.0), (0.5, 1.5), (-2.3, 3.7)])
def test_the_truth_itself_scores_one_wherever_it_is(truth, shift):
    # with splines half a pixel costs several per cent
    y, x = np.indices(truth.shape)
    image = picture(shift) + 0.8 + 0.05 * y - 0.08 * x
    phase = scores.registered(np.exp(1j * image), truth[INNER])
    found = scores.all_scores(phase, truth[INNER])
    assert list(found) == list(scores.SCORES)
    assert min(found.values()) > 0.975
    assert found["correlation"] > 0.99


def test_registered_is_in_radians(truth):
    phase = scores.registered(np.exp(0.5j * truth), truth[INNER])
    flat = scores.without_plane(0.5 * truth[INNER])
    assert np.polyfit(flat.ravel(), phase.ravel(), 1)[0] == pytest.approx(1, abs=0.02)


def test_noise_lowers_every_score(truth):
    generator = np.random.default_rng(1)
    noise = generator.normal(size=truth.shape)
    some, more = (
        scores.all_scores(
            scores.registered(np.exp(1j * (truth + s * noise)), truth[INNER]), truth[INNER]
        )
        for s in (0.1, 0.4)
    )
    for name in scores.SCORES:
        assert 1 > some[name] > more[name] > 0


def test_contrast_counts_for_similarity_alone(truth):
    phase = scores.registered(np.exp(0.5j * truth), truth[INNER])
    found = scores.all_scores(phase, truth[INNER])
    assert found["correlation"] > 0.999 and found["frc"] > 0.98
    assert found["ssim"] < 0.9


def test_structural_similarity_by_hand():
    # constant images: (2 a b + C1) / (a² + b² + C1), with the range of the truth
    truth = np.zeros((15, 17))
    truth[0, 0] = 1.0  # gives the range; beyond the windows' centres but within their reach
    image = truth + 0.25
    generator = np.random.default_rng(3)
    a, b = generator.random((2, 14, 16))
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    span, values = np.ptp(b), []
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    x, y = a - b.min(), b - b.min()
    for i in range(4):
        for j in range(6):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    assert scores.structural_similarity(a, b) == pytest.approx(np.mean(values), rel=1e-9)
    assert scores.structural_similarity(image, truth) < 1
    with pytest.raises(ValueError, match="constant"):
        scores.structural_similarity(a, np.ones_like(a))


def test_strong_atoms_do_not_wrap(truth):
    # phases from 0 up to 3.6 rad, most of them near 0
    strong = np.exp(2 * truth / truth.std())
    strong *= 3.6 / strong.max()
    phase = scores.registered(np.exp(1j * strong), strong[INNER])
    assert np.ptp(phase) > 3.3
    assert scores.correlation(phase, strong[INNER]) > 0.9999


def test_phases_of_slices_add_up_beyond_two_pi(truth):
    # either slice covers 4 rad, both together 8: their product would wrap
    strong = np.exp(2 * truth / truth.std())
    strong *= 8 / np.ptp(strong)
    waves = np.exp(0.5j * np.stack([strong, strong]))
    phase = scores.registered(waves, strong[INNER])
    assert scores.correlation(phase, strong[INNER]) > 0.9999
    wrapped = scores.registered(waves.prod(axis=0), strong[INNER])
    assert scores.correlation(wrapped, strong[INNER]) < 0.99


def test_what_is_not_finite(truth):
    wave = np.exp(1j * truth)
    wave[3, 4] = np.nan
    assert np.isnan(scores.registered(wave, truth[INNER])).all()


def test_shapes(truth):
    with pytest.raises(ValueError, match="the same border on both sides"):
        scores.registered(np.exp(1j * truth), truth[3:-4, 5:-5])


def test_plane(truth):
    y, x = np.indices((7, 10))
    np.testing.assert_allclose(scores.without_plane(3.0 + 2 * y - x), 0, atol=1e-12)
