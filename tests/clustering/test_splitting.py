"""Which split a node bears, and why another is refused."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hs_autoptycho.clustering import splitting as module
from hs_autoptycho.clustering.evidence import Evidence
from hs_autoptycho.clustering.features import Features, Half
from hs_autoptycho.clustering.segmentation import Proposal
from hs_autoptycho.clustering.splitting import try_split

SHAPE = (36, 45)
Y, X = np.indices(SHAPE)
PATTERNS = np.random.default_rng(11).dirichlet(np.full(12, 20.0), 3)


def draw(shares, seed=0, electrons=300.0):
    """Thinned counts of three patterns mixed by shares (y, x, 3), the last feature left out."""
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(2):
        counts = rng.poisson(0.5 * electrons * (shares @ PATTERNS)).astype(np.float32)
        halves.append(Half(counts[..., :11] / np.sqrt(PATTERNS[0, :11]), counts.sum(-1)))
    return Features(tuple(halves), np.ones(shares.shape[:2], bool), "counts")


def split(shares, mask=None, *, min_size=20, **options):
    features = draw(shares, **options)
    mask = np.ones(SHAPE, bool) if mask is None else mask
    return try_split(features, np.s_[0 : SHAPE[0], 0 : SHAPE[1]], mask, min_size=min_size)


def two(second):
    return np.eye(3)[np.asarray(second, int)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("electrons", [20.0, 2000.0])
def test_structureless(seed, electrons):
    found = split(two(0 * X), seed=seed, electrons=electrons)
    assert found is None or found.refusal


@pytest.mark.parametrize("seed", range(3))
def test_two_domains(seed):
    truth = np.hypot(X - 20, Y - 18) < 11
    found = split(two(truth), seed=seed)
    assert found.refusal == ""
    wrong = min(np.mean(found.second != truth), np.mean(found.second == truth))
    assert wrong < 0.01
    assert found.evidence.significance > 20 and found.stability > 0.9
    assert found.evidence.step == pytest.approx(1, abs=0.15)


def test_three_domains_are_parted_along_a_boundary():
    labels = X * 3 // 45
    found = split(np.eye(3)[labels])
    assert found.refusal == ""
    parts = [labels == k for k in range(3)]
    assert min(np.mean(found.second != p) for p in [*parts, *(~p for p in parts)]) < 0.01


@pytest.mark.parametrize(
    "slope", [X / 44, Y / 35, (X + Y) / 79, np.hypot(X - 22, Y - 18) / 28], ids=list("xydr")
)
def test_gradient(slope):
    found = split(np.stack([slope, 1 - slope, 0 * slope], -1))
    assert found is None or found.refusal == "a gradient, not a step"


@pytest.mark.parametrize("electrons", [300.0, 20_000.0])
def test_rim_of_a_domain_is_no_domain(electrons):
    """Patterns at a boundary are mixtures of those to its two sides."""
    inside = gaussian_filter((np.hypot(X - 22, Y - 18) < 12).astype(float), 1.0)
    shares = np.stack([1 - inside, inside, 0 * inside], -1)
    node = inside < 0.97  # the domain itself was taken out before, and left its rim
    found = split(shares, node, electrons=electrons)
    assert found.refusal == "a boundary: its patterns are mixtures of those to its two sides"
    # while a ring of a third kind, of the same shape, is a domain
    ring = (inside > 0.1) & node
    third = np.eye(3)[np.where(ring, 2, np.where(inside >= 0.97, 1, 0))]
    found = split(third, node, electrons=electrons)
    assert found.refusal == ""
    assert np.mean(found.second[node] == ring[node]) > 0.95


def test_line_of_single_positions_is_no_region():
    found = split(two(X == 20), electrons=5000.0)
    assert found.refusal == "a child without an inside"


def test_too_small():
    truth = np.hypot(X - 20, Y - 18) < 4  # 49 positions
    assert split(two(truth), min_size=40).refusal == ""
    assert split(two(truth), min_size=60).refusal == "a child of fewer than 60 positions"


def test_weak_difference_is_not_significant():
    """Seen in one half perhaps, but not in the other."""
    truth = X > 22
    shares = np.stack([1 - 0.012 * truth, 0.012 * truth, 0 * X], -1)
    found = split(shares, electrons=100.0)
    assert found is None or found.refusal


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 3.0])
def test_smoothing_can_be_given(smoothing):
    truth = X > 22
    features = draw(two(truth))
    window = np.s_[0 : SHAPE[0], 0 : SHAPE[1]]
    found = try_split(
        features, window, np.ones(SHAPE, bool), min_size=20, smoothing=smoothing, random_state=3
    )
    assert found.refusal == ""
    assert min(np.mean(found.second != truth), np.mean(found.second == truth)) < 0.02


def test_node_in_its_window():
    """Only the node's rectangle of the scan is looked at."""
    labels = np.where(X < 15, 2, np.where(Y < 18, 0, 1))
    features = draw(np.eye(3)[labels])
    window = np.s_[0:36, 15:45]
    found = try_split(features, window, np.ones((36, 30), bool), min_size=20)
    assert found.refusal == "" and found.second.shape == (36, 30)
    truth = (Y < 18)[window]
    assert min(np.mean(found.second != truth), np.mean(found.second == truth)) < 0.01
    again = try_split(features, window, np.ones((36, 30), bool), min_size=20)
    np.testing.assert_array_equal(again.second, found.second)


# --- the judgement ----------------------------------------------------------------------------


def judge(stability=0.9, **changed):
    """Evidence of a split into two plateaus, with something changed."""
    clear = {
        "significance": 30.0, "explained": 1.0, "separation": 3.0, "plateaus": 4.0, "step": 1.0,
        "step_error": 0.05, "local": 1.0, "local_error": 0.1,
    }  # fmt: skip
    return module._refusal(Evidence(**{**clear, **changed}), stability)


def test_a_clear_step_is_accepted():
    assert judge() == ""
    # children that do not touch have no boundary to look at
    assert judge(local=np.nan, local_error=np.nan) == ""


def test_what_is_refused_and_why():
    assert "not significant" in judge(significance=5.9) and judge(significance=6.1) == ""
    assert "two halves" in judge(stability=0.54) and judge(stability=0.56) == ""
    gradient = {"step": 0.05, "local": 0.0}
    assert "gradient" in judge(**gradient)
    # a step that is not sure is none, nor one whose boundary is surely smooth
    assert "gradient" in judge(step=0.6, step_error=0.2, local=0.2)
    assert judge(step=0.6, step_error=0.1, local=0.2, local_error=0.35) == ""
    assert "gradient" in judge(step=0.6, step_error=0.1, local=0.2, local_error=0.25)


def test_separated_plateaus_are_no_gradient_unless_the_boundary_says_so():
    far = {"step": 0.05, "step_error": 0.05, "plateaus": 5.2}
    assert judge(**far, local=0.35) == ""
    assert "gradient" in judge(**far, local=0.25)
    assert judge(**far, local=np.nan) == ""
    assert "gradient" in judge(**{**far, "plateaus": 4.9}, local=0.35)


def test_a_weak_step_needs_one_at_the_boundary():
    """As where one of three domains in a row is cut off."""
    weak = {"step": 0.3, "step_error": 0.1}
    assert judge(**weak, local=0.6) == ""
    assert "gradient" in judge(**weak, local=0.45)
    assert "gradient" in judge(**weak, local=0.6, local_error=0.18)
    assert "gradient" in judge(step=0.3, step_error=0.21, local=0.6)
    assert "gradient" in judge(step=0.19, step_error=0.05, local=0.6)
    # halves that draw it less alike want a full one
    assert "gradient" in judge(**weak, local=0.85, stability=0.7)
    assert judge(**weak, local=0.95, stability=0.7) == ""


def test_agreement_is_the_adjusted_rand_index():
    score = pytest.importorskip("sklearn.metrics").adjusted_rand_score
    random = np.random.default_rng(3)
    a = random.random(200) < 0.3
    for b in (a, ~a, a ^ (random.random(200) < 0.1), random.random(200) < 0.6):
        assert module._agreement(a, b) == pytest.approx(score(a, b))
    assert module._agreement(np.zeros(9, bool), np.zeros(9, bool)) == 1


def test_what_passed_is_refined_by_all_counts(monkeypatch):
    parts = np.array([0, 0, 1, 2, 2])
    proposal = Proposal(parts, np.array([False, True, False]))
    monkeypatch.setattr(module, "segment", lambda whole, mask, start, n: None)
    found = module._settle(proposal, None, None)
    np.testing.assert_array_equal(found, [False, False, True, False, False])
    refined = np.array([1, 0, 1, 1, 2])

    def segment(whole, mask, start, n):
        assert start is parts and n == 3
        return refined

    monkeypatch.setattr(module, "segment", segment)
    found = module._settle(proposal, None, None)
    np.testing.assert_array_equal(found, [True, False, True, True, False])
