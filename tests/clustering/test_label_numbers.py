"""Labels from means, noise and neighbours: what is proposed, refined and assigned, step by step."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logsumexp

from hs_autoptycho.clustering import assignment, segmentation
from hs_autoptycho.clustering.features import (
    Features,
    Half,
    from_intensities,
    from_thinned,
)
from hs_autoptycho.clustering.segmentation import part_means, propose, segment
from hs_autoptycho.clustering.smoothing import mean_field, potts_field

SHAPE = (7, 9)
Y, X = np.indices(SHAPE)
MASK = (X + 2 * Y) % 7 > 0
TRUTH = (X > 2).astype(int) + (X > 5)


def half(seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(1, 3, SHAPE)
    means = np.array([[0.0, 1.0], [1.0, 0.2], [2.0, -1.0]])[TRUTH]
    return Half(weights[..., None] * (means + noise * rng.normal(size=(*SHAPE, 2))), weights)


# --- smoothing and features -------------------------------------------------------------------


def test_one_step_of_the_mean_field():
    rng = np.random.default_rng(1)
    likelihood, start = rng.normal(size=(*SHAPE, 3)), rng.dirichlet(np.ones(3), SHAPE)
    masked = start * MASK[..., None]
    once = likelihood + 0.7 * potts_field(masked)
    found = mean_field(likelihood, MASK, start, 0.7, 1)
    np.testing.assert_array_equal(found[MASK], once.argmax(-1)[MASK])
    q = np.exp(once) / np.exp(once).sum(-1, keepdims=True) * MASK[..., None]
    twice = likelihood + 0.7 * potts_field(q)
    wanted = twice.argmax(-1)[MASK]
    assert (once.argmax(-1)[MASK] != wanted).any()
    np.testing.assert_array_equal(mean_field(likelihood, MASK, start, 0.7, 2)[MASK], wanted)
    # likelihoods of any size
    large = mean_field(likelihood + 1e4, MASK, start, 0.7, 2)
    np.testing.assert_array_equal(large[MASK], wanted)


def test_halves_of_what_was_thinned():
    values = np.arange(48.0).reshape(2, 3, 8)
    made = from_thinned(values, values[..., 0] > 0)
    first, second = made.halves
    assert made.shape == (2, 3) and made.splitting == "counts"
    assert first.weights[0, 1] == 8 and first.sums[0, 1].tolist() == [9, 10, 11]
    assert second.weights[0, 1] == 12 and second.sums[0, 1].tolist() == [13, 14, 15]
    both = made.together()
    assert both.weights[0, 1] == 20 and both.sums[0, 1].tolist() == [22, 24, 26]


def test_halves_of_a_checkerboard():
    made = from_intensities(np.ones((2, 3, 4)), 2 * np.ones((2, 3)), np.ones((2, 3), bool))
    first, second = made.halves
    assert first.weights.tolist() == [[2, 0, 2], [0, 2, 0]]
    assert second.weights.tolist() == [[0, 2, 0], [2, 0, 2]]
    np.testing.assert_array_equal(first.sums[..., 3], first.weights / 2)
    assert made.splitting == "checkerboard"


# --- proposals --------------------------------------------------------------------------------


def test_means_of_parts():
    sums, weights = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]), np.array([1.0, 3.0, 2.0])
    means = part_means(sums, weights, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(means, [[1, 1.5], [2.5, 4.5]])
    assert part_means(sums, weights, np.array([0, 0, 1]), 3) is None
    assert part_means(sums, np.array([1.0, 3.0, 0.0]), np.array([0, 0, 1]), 2) is None


@pytest.mark.parametrize(
    "n, parts", [(39, []), (40, [2]), (59, [2]), (60, [2, 3]), (79, [2, 3]), (80, [2, 3, 4])]
)
def test_parts_of_twenty_positions_at_least(monkeypatch, n, parts):
    seen = []
    monkeypatch.setattr(segmentation, "_start", lambda smooth, k, seed: np.full(n, k))
    monkeypatch.setattr(segmentation, "segment", lambda half, mask, start, k: start - 1)
    monkeypatch.setattr(
        segmentation, "_groupings", lambda half, mask, found, k: seen.append(k) or [np.eye(k)[0]]
    )
    found = propose(None, np.zeros((n, 2)), None, 0)
    assert seen == parts and [len(p.joined) for p in found] == parts
    # a part that vanishes is no proposal; the others remain
    monkeypatch.setattr(
        segmentation, "segment", lambda half, mask, start, k: None if k == 2 else start - 1
    )
    assert [len(p.joined) for p in propose(None, np.zeros((n, 2)), None, 0)] == parts[1:]


def test_kmeans_is_fitted_to_a_part(monkeypatch):
    asked = []

    class KMeans:
        def __init__(self, k, *, n_init, random_state):
            asked.append((k, n_init, random_state))

        def fit(self, values):
            asked.append(values[:, 0].tolist())
            return self

        def predict(self, values):
            return np.arange(len(values))

    monkeypatch.setattr(segmentation, "KMeans", KMeans)
    smooth = np.arange(25.0)[:, None] * np.ones(2)
    assert len(segmentation._start(smooth, 3, 7)) == 25
    assert asked == [(3, 4, 7), list(range(25))]
    monkeypatch.setattr(segmentation, "_FITTED", 12)
    segmentation._start(smooth, 3, 7)
    assert asked[-1] == list(range(0, 25, 3))
    monkeypatch.setattr(segmentation, "_FITTED", 25)
    segmentation._start(smooth, 3, 7)
    assert len(asked[-1]) == 25


def test_segments_follow_their_likelihood(monkeypatch):
    calls, real = [], segmentation.mean_field

    def watched(log_likelihood, mask, start, coupling, n):
        calls.append((log_likelihood.copy(), start.copy(), coupling, n))
        return real(log_likelihood, mask, start, coupling, n)

    monkeypatch.setattr(segmentation, "mean_field", watched)
    given, start = half(), np.where(np.arange(MASK.sum()) % 5 > 0, TRUTH[MASK], 0)
    found = segment(given, MASK, start, 3)
    np.testing.assert_array_equal(found, TRUTH[MASK])
    assert len(calls) == 3 and {call[2:] for call in calls} == {(0.7, 8)}
    means = part_means(given.sums[MASK], given.weights[MASK], start, 3)
    wanted = np.zeros((*SHAPE, 3))
    for k, mean in enumerate(means):
        wanted[..., k] = given.sums @ mean - given.weights * (mean @ mean) / 2
    np.testing.assert_allclose(calls[0][0], wanted * MASK[..., None])
    np.testing.assert_array_equal(calls[0][1][MASK], np.eye(3)[start])
    assert not calls[0][1][~MASK].any()
    assert segment(given, MASK, start, 4) is None
    # labels that the counts do not bear vanish
    one = Half(np.ones((*SHAPE, 2)), np.ones(SHAPE))
    assert segment(one, MASK, (np.arange(MASK.sum()) == 9).astype(int), 2) is None


def test_ways_to_join_parts():
    def joined(means):
        means = np.array(means, float)[:, None]
        given = Half(means[None], np.ones((1, len(means))))
        mask = np.ones((1, len(means)), bool)
        found = segmentation._groupings(given, mask, np.arange(len(means)), len(means))
        assert not any(group[0] for group in found)  # the first part is in the first child
        return {tuple(np.flatnonzero(group)) for group in found}

    assert joined([3, 1]) == {(1,)}
    assert joined([0, 1, 5]) == {(1, 2), (1,), (2,)}
    # two pairs, and each against the others
    assert joined([0, 5, 1, 6.5]) == {(1, 3), (1, 2, 3), (1,), (2,), (3,)}
    # a chain, which single linkage keeps together where average linkage parts it
    assert joined([0, 2, 4.1, 6.3]) >= {(1, 2, 3), (1,), (2,), (3,), (2, 3)}


# --- assignment -------------------------------------------------------------------------------


def test_noise_within_clusters(monkeypatch):
    given, labels = half(), TRUTH.ravel()
    sums, weights = given.sums.reshape(-1, 2), given.weights.ravel().copy()
    weights[4] = 0
    means = np.array([[0.1, 1.0], [1.0, 0.0], [2.0, -1.1]])
    used = weights > 0
    residual = (sums - weights[:, None] * means[labels])[used] / np.sqrt(weights[used])[:, None]
    wanted = residual.T @ residual / len(labels)
    wanted += 1e-6 * np.trace(wanted) / 2 * np.eye(2)
    np.testing.assert_allclose(assignment._noise(sums, weights, means, labels), wanted)
    many = 2 * 2**16 // len(labels) + 1
    found = assignment._noise(
        np.tile(sums, (many, 1)), np.tile(weights, many), means, np.tile(labels, many)
    )
    np.testing.assert_allclose(found, wanted)
    flat = assignment._noise(0 * sums, 0 * weights, means, labels)
    np.testing.assert_allclose(flat, 1e-36 * np.eye(2))


def test_coupling_is_the_most_likely():
    rng = np.random.default_rng(2)
    labels = np.where(rng.random(SHAPE) < 0.5, rng.integers(0, 3, SHAPE), TRUTH)
    field = potts_field(np.eye(3)[labels])[MASK]
    flat = labels[MASK]
    found = assignment._coupling(field, flat)
    strengths = np.linspace(0.05, 1.5, 1451)
    own = field[np.arange(len(flat)), flat]
    costs = [(logsumexp(s * field, axis=1) - s * own).sum() for s in strengths]
    assert found == pytest.approx(strengths[np.argmin(costs)], abs=2e-3)
    assert 0.1 < found < 1.4
    # labels without noise have none that is too strong; neighbours that are unlike, the weakest
    smooth = potts_field(np.eye(3)[TRUTH])
    smooth = smooth + 9 * np.eye(3)[TRUTH]
    assert assignment._coupling(smooth[MASK], TRUTH[MASK]) == pytest.approx(1.5, abs=1e-3)
    unlike = 9 * np.eye(3)[(TRUTH + 1) % 3]
    assert assignment._coupling(unlike[MASK], TRUTH[MASK]) == pytest.approx(0.05, abs=1e-3)


def test_assignment_takes_all_counts(monkeypatch):
    calls, real = [], assignment.mean_field

    def watched(log_likelihood, mask, start, coupling, n):
        calls.append((log_likelihood.copy(), start.copy(), coupling, n))
        return real(log_likelihood, mask, start, coupling, n)

    monkeypatch.setattr(assignment, "mean_field", watched)
    made = Features((half(3), half(4)), MASK, "counts")
    labels = np.where(MASK, np.where((X + Y) % 4 == 0, 0, TRUTH), -1)
    found = assignment.assign(made, labels, 3)
    np.testing.assert_array_equal(found, np.where(MASK, TRUTH, -1))
    assert found.dtype == np.int32 and {call[3] for call in calls} == {15}
    both, flat = made.together(), labels[MASK]
    sums, weights = both.sums[MASK], both.weights[MASK]
    means = part_means(sums, weights, flat, 3)
    precision = np.linalg.inv(assignment._noise(sums, weights, means, flat))
    wanted = np.stack(
        [sums @ precision @ mean - weights * (mean @ precision @ mean) / 2 for mean in means], 1
    )
    likelihood, start, coupling, _ = calls[0]
    np.testing.assert_allclose(likelihood[MASK], wanted)
    np.testing.assert_array_equal(start[MASK], np.eye(3)[flat])
    assert not likelihood[~MASK].any() and not start[~MASK].any()
    assert coupling == assignment._coupling(potts_field(start)[MASK], flat)


def test_assignment_ends(monkeypatch):
    """After four rounds, where nothing changes, or before a cluster vanishes."""
    made = Features((half(3), half(4)), np.ones(SHAPE, bool), "counts")
    ways = SimpleNamespace(n=0, labels=None)

    def next_labels(*arguments):
        ways.n += 1
        return ways.labels(ways.n)

    monkeypatch.setattr(assignment, "mean_field", next_labels)
    ways.labels = lambda n: np.roll(TRUTH, n, 1)
    found = assignment.assign(made, TRUTH, 3)
    assert ways.n == 4
    np.testing.assert_array_equal(found, np.roll(TRUTH, 4, 1))
    ways.n, ways.labels = 0, lambda n: np.roll(TRUTH, min(n, 2), 1)
    np.testing.assert_array_equal(assignment.assign(made, TRUTH, 3), np.roll(TRUTH, 2, 1))
    assert ways.n == 3
    ways.n, ways.labels = 0, lambda n: np.roll(TRUTH, 1, 1) if n == 1 else np.minimum(TRUTH, 1)
    np.testing.assert_array_equal(assignment.assign(made, TRUTH, 3), np.roll(TRUTH, 1, 1))
    assert ways.n == 2
    # without counts the labels stay
    dark = Features((Half(0 * half().sums, 0 * half().weights),) * 2, made.valid, "counts")
    np.testing.assert_array_equal(assignment.assign(dark, TRUTH, 3), TRUTH)
