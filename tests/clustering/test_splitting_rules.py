"""Which of the proposed splits is taken, and the rules by which one is refused, to the digit."""

from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.clustering import splitting as module
from hs_autoptycho.clustering.evidence import Evidence
from hs_autoptycho.clustering.features import Features, Half
from hs_autoptycho.clustering.segmentation import Proposal
from hs_autoptycho.clustering.splitting import try_split

CLEAR = {
    "significance": 30.0, "explained": 1.0, "separation": 3.0, "plateaus": 4.0, "step": 1.0,
    "step_error": 0.05, "local": 1.0, "local_error": 0.1,
}  # fmt: skip


def evidence(**changed):
    return Evidence(**{**CLEAR, **changed})


# --- the judgement ----------------------------------------------------------------------------


def refused(stability=0.9, **changed):
    return module._refusal(evidence(**changed), stability)


def test_limits_themselves():
    assert refused(significance=6.0) == refused(stability=0.55) == ""
    far = {"step": 0.0, "plateaus": 5.001}
    assert refused(**far, local=0.3) == ""
    assert "gradient" in refused(**far, local=0.299)
    assert "gradient" in refused(**{**far, "plateaus": 5.0})
    # a step of one half is weak, as is one of 3.5 of its errors
    beside = {"local": 0.4, "local_error": 0.15}
    assert "gradient" in refused(step=0.5, **beside) and refused(step=0.501, **beside) == ""
    assert "gradient" in refused(step=0.875, step_error=0.25, **beside)
    assert refused(step=0.876, step_error=0.25, **beside) == ""
    assert refused(step=0.6, local=0.25, local_error=0.25) == ""
    assert "gradient" in refused(step=0.6, local=0.24, local_error=0.25)


def test_limits_of_a_weak_step():
    alike = {"local": 0.6, "local_error": 0.1}
    assert "gradient" in refused(step=0.2, **alike) and refused(step=0.201, **alike) == ""
    assert "gradient" in refused(step=0.375, step_error=0.25, **alike)
    assert refused(step=0.376, step_error=0.25, **alike) == ""
    weak = {"step": 0.3}
    assert "gradient" in refused(**weak, local=0.5) and refused(**weak, local=0.501) == ""
    assert "gradient" in refused(**weak, local=0.875, local_error=0.25)
    assert refused(**weak, local=0.876, local_error=0.25) == ""
    assert "gradient" in refused(0.75, **weak, **alike) and refused(0.751, **weak, **alike) == ""
    assert "gradient" in refused(0.6, **weak, local=0.9)
    assert refused(0.6, **weak, local=0.901) == ""


def test_agreement_of_small_labellings():
    a = np.array([True, True, False, False, False, True])
    b = np.array([True, False, False, False, True, True])
    # 2 pairs together in both, 6 in either, 15 in all: (2 - 2.4) / (6 - 2.4)
    assert module._agreement(a, b) == pytest.approx(-1 / 9)
    assert module._agreement(a, ~a) == module._agreement(a, a) == 1.0
    assert module._agreement(a[:1], b[:1]) == 1.0


# --- shapes -----------------------------------------------------------------------------------


def shape_refusal(second, *, mixed=True, min_size=3, monkeypatch=None):
    mask = np.ones(second.shape, bool)
    asked = []

    def is_mixture(child, mask, features, window):
        asked.append(np.count_nonzero(child))
        return mixed

    monkeypatch.setattr(module, "_is_mixture", is_mixture)
    return module._shape_refusal(second, mask, min_size, None, None), asked


def strip(first, last, shape=(11, 24)):
    second = np.zeros(shape, bool)
    second[first:last] = True
    return second


def test_smallest_child(monkeypatch):
    second = strip(0, 3)
    assert shape_refusal(second, min_size=72, monkeypatch=monkeypatch)[0] == ""
    refusal, _ = shape_refusal(second, min_size=73, monkeypatch=monkeypatch)
    assert refusal == "a child of fewer than 73 positions"
    refusal, _ = shape_refusal(~second, min_size=73, monkeypatch=monkeypatch)
    assert refusal == "a child of fewer than 73 positions"


def test_thin_child_may_be_a_boundary(monkeypatch):
    # of a strip of five rows three are its inside, of one of four two; nothing is beyond the rim
    assert shape_refusal(strip(3, 8), monkeypatch=monkeypatch) == ("", [])
    refusal, asked = shape_refusal(strip(3, 7), monkeypatch=monkeypatch)
    assert "a boundary" in refusal and asked == [96]
    assert shape_refusal(strip(3, 7), mixed=False, monkeypatch=monkeypatch) == ("", [96])
    assert shape_refusal(~strip(3, 7), mixed=False, monkeypatch=monkeypatch) == ("", [96])
    assert shape_refusal(strip(0, 3), monkeypatch=monkeypatch) == ("", [])
    assert shape_refusal(strip(0, 2), monkeypatch=monkeypatch)[1] == [48]


def test_child_without_an_inside(monkeypatch):
    cross = np.zeros((11, 24), bool)
    cross[4:7, 5] = cross[5, 4:7] = True
    cross[1, 2:12:2] = True  # one position in ten is inside
    assert shape_refusal(cross, mixed=False, monkeypatch=monkeypatch) == ("", [10])
    cross[1, 20] = True
    refusal, asked = shape_refusal(cross, mixed=False, monkeypatch=monkeypatch)
    assert refusal == "a child without an inside" and asked == []


# --- mixtures ---------------------------------------------------------------------------------

SCAN = (23, 27)


def neighbours(child_mean, *, turn=0, window=None, beyond=None, halves=None):
    """A node of ten by eight, its last two columns the child, and others beyond them.

    The node's first columns have the pattern 0, what lies beyond the child the pattern (1, 0).
    """
    rows, columns = window or (slice(6, 16), slice(7, 15))
    place = np.zeros(SCAN, int) - 1
    place[rows, columns] = 0
    place[rows, columns.stop - 2 : columns.stop] = 1
    if beyond is None:
        beyond = np.zeros(SCAN, bool)
        beyond[rows, columns.stop + 1 : columns.stop + 4] = True
    place[beyond & (place < 0)] = 2
    made = []
    for child in halves or (child_mean, child_mean):
        patterns = np.array([[0, 0], child, [1, 0], [-7, 9]], float)
        weights = np.where(place < 0, 50.0, 2.0)
        made.append(Half(weights[..., None] * patterns[place], weights))
    features = Features(tuple(made), place >= 0, "counts")
    window = (rows, columns)
    return place[window] == 1, np.ones((10, 8), bool), features, window


def turned(child, mask, features, window):
    """The same with rows and columns mirrored."""
    halves = tuple(Half(h.sums[::-1, ::-1], h.weights[::-1, ::-1]) for h in features.halves)
    mirrored = tuple(slice(n - s.stop, n - s.start) for n, s in zip(SCAN, window, strict=True))
    features = Features(halves, features.valid[::-1, ::-1], "counts")
    return child[::-1, ::-1], mask[::-1, ::-1], features, mirrored


@pytest.mark.parametrize(
    "window",
    [(slice(6, 16), slice(7, 15)), (slice(0, 10), slice(2, 10)), (slice(13, 23), slice(16, 24))],
)
def test_mixture_lies_between_its_neighbours(window):
    # the square of the cosine to the line between them, six tenths at most, and not its end
    for mean, mixed in (
        ((0.5, 0.5 * np.sqrt(0.66)), True), ((0.5, 0.5 * np.sqrt(0.67)), False),
        ((0.899, 0.1), True), ((0.901, 0.1), False), ((0.01, 0.0), True), ((-0.1, 0.02), False),
        ((0.0, 0.3), False),
    ):  # fmt: skip
        made = neighbours(mean, window=window)
        assert module._is_mixture(*made) == mixed
        assert module._is_mixture(*turned(*made)) == mixed


def test_mixture_is_measured_between_the_halves():
    for halves, mixed in (
        (((0.5, 0.6), (0.5, -0.1)), True),  # noise of the one is not that of the other
        (((0.6, 0.5), (-0.1, 0.5)), False),
        (((0.5, 0.6), (0.5, -0.6)), False),
        (((1.2, 0.0), (0.5, 0.0)), True),
        (((1.2, 0.0), (0.7, 0.0)), False),
    ):
        assert module._is_mixture(*neighbours(None, halves=halves)) == mixed


def test_what_counts_as_beyond():
    """Four positions at least: two to four away, outside of the node and usable."""
    for column, seen in ((15, False), (16, True), (18, True), (19, False)):
        beyond = np.zeros(SCAN, bool)
        beyond[7:11, column] = True
        assert module._is_mixture(*neighbours((0.5, 0), beyond=beyond)) == seen
        beyond[7, column] = False
        assert not module._is_mixture(*neighbours((0.5, 0), beyond=beyond))


def test_sibling_of_four_positions():
    child, mask, features, window = neighbours((0.5, 0))
    for n, mixed in ((4, True), (3, False)):
        mask = child.copy()
        mask[:n, 0] = True
        features.valid[window] = mask
        assert module._is_mixture(child, mask, features, window) == mixed


def test_no_counts_no_mixture():
    child, mask, features, window = neighbours((0.5, 0))
    for half in features.halves:
        half.weights[window] = np.where(child, 0, half.weights[window])
    assert not module._is_mixture(child, mask, features, window)


# --- the choice -------------------------------------------------------------------------------


@pytest.fixture
def choose(monkeypatch):
    """`try_split` with proposals and their evidence given, named by the size of a child."""

    def run(first, second, refusals=(), splitting="counts", dimensions=1, **options):
        mask = np.ones((5, 8), bool)
        asked = SimpleNamespace(widths=[], weighed=[], whole=[])
        halves = tuple(Half(np.full((9, 12, 2), v), np.full((9, 12), 2 * v)) for v in (1.0, 3.0))
        sides = {1.0: first, 3.0: second}

        def node_space(half, mask, random_state):
            assert half.sums[0, 0, 0] == 1 and half.sums.shape == (5, 8, 2)
            assert half.weights.shape == (5, 8)
            return SimpleNamespace(dimensions=dimensions, project=lambda half: half)

        def best_smoothing(fit, test, mask, widths):
            assert {fit.sums[0, 0, 0], test.sums[0, 0, 0]} == {1, 3}
            asked.widths.append(list(widths))
            return 1.25, fit.sums[mask]

        def propose(fit, smooth, mask, random_state):
            sizes = sides[fit.sums[0, 0, 0]]
            return [Proposal((np.arange(40) < n).astype(int), np.array([0, 1]) > 0) for n in sizes]

        def weigh(labels, fit, test, mask, width):
            asked.weighed.append(width)
            changed = sides[fit.sums[0, 0, 0]][int(labels.sum())]
            return None if changed is None else evidence(**changed)

        def settle(proposal, whole, mask):
            asked.whole.append((whole.sums[0, 0, 0], whole.weights[0, 0]))
            return proposal.labels

        def shape_refusal(image, mask, min_size, features, window):
            return "shape" if image.sum() in refusals else ""

        for function in (node_space, best_smoothing, propose, weigh):
            monkeypatch.setattr(module, function.__name__, function)
        monkeypatch.setattr(module, "_settle", settle)
        monkeypatch.setattr(module, "_shape_refusal", shape_refusal)
        features = Features(halves, np.ones((9, 12), bool), splitting)
        window = (slice(2, 7), slice(3, 11))
        return try_split(features, window, mask, min_size=2, **options), asked

    return run


@pytest.mark.parametrize("workers", [None, 1])
def test_halves_are_weighed_together(choose, workers):
    one = {10: {"explained": 4.0, "step": 0.8, "significance": 9.0}}
    other = {10: {"explained": 2.0, "step": 1.0, "significance": 5.0}, 30: {"explained": 9.0}}
    split, asked = choose(one, other, num_workers=workers)
    assert split.refusal == "" and split.second.sum() == 10 and split.stability == 1.0
    assert split.evidence == evidence(**one[10]).combined(evidence(**other[10]))
    assert asked.whole == [(4.0, 8.0)] and asked.weighed == [1.25] * 3
    assert asked.widths == [[0.0, 0.7, 1.0, 1.5, 2.2, 3.2]] * 2


def test_order_of_the_trials(choose):
    """By what is explained as far as it is a step, a twentieth at least and all of it at most."""

    def chosen(sizes, **options):
        return choose(sizes, sizes, **options)[0].second.sum()

    assert chosen({8: {"explained": 2.0}, 12: {"explained": 3.0}}) == 12
    assert chosen({8: {"explained": 2.0, "step": 2.0}, 12: {"explained": 3.0}}) == 12
    assert chosen({8: {"explained": 2.0}, 12: {"explained": 3.0, "step": 0.6}}) == 8
    # none is a step: the strongest says why
    none = {"plateaus": 0.0, "local": 0.0}
    for explained, wanted in ((19.0, 8), (21.0, 12)):
        sizes = {
            8: {"explained": 1.0, "step": 1.0, **none},
            12: {"explained": explained, "step": -1.0, **none},
        }
        split, asked = choose(sizes, sizes)
        assert split.refusal == "a gradient, not a step" and split.second.sum() == wanted
        assert asked.whole == []


def test_first_that_passes_is_taken(choose):
    sizes = {6: {"explained": 3.0}, 9: {"explained": 2.0}, 14: {"explained": 1.0}}
    assert choose(sizes, sizes, refusals=(6,))[0].second.sum() == 9
    split, _ = choose(sizes, sizes, refusals=(6, 9, 14))
    assert split.refusal == "shape" and split.second.sum() == 6
    weak = {**sizes, 6: {"explained": 3.0, "significance": 1.0}}
    assert choose(weak, weak, refusals=(9,))[0].second.sum() == 14


def test_most_alike_proposal_of_the_other_half(choose):
    other = {3: {"explained": 5.0}, 11: {"explained": 7.0}, 25: {"explained": 6.0}}
    split, _ = choose({10: {"explained": 1.0}}, other)
    assert split.evidence.explained == 4.0
    a, b = (np.arange(40) < n for n in (10, 11))
    assert split.stability == pytest.approx(module._agreement(a, b))


def test_nothing_to_choose_from(choose):
    sizes = {10: {}}
    assert choose(sizes, sizes, dimensions=0)[0] is None
    assert choose(sizes, {})[0] is None and choose({}, sizes)[0] is None
    assert choose(sizes, {10: None})[0] is None
    split, _ = choose({10: {}, 20: None}, sizes)
    assert split.second.sum() == 10


@pytest.mark.parametrize(
    "given, counts, checkerboard",
    [
        (None, [0.0, 0.7, 1.0, 1.5, 2.2, 3.2], [0.7, 1.0, 1.5, 2.2, 3.2]),
        (0.0, [0.0], [0.7]),
        (1.8, [1.8], [1.8]),
    ],
)
def test_widths_that_are_tried(choose, given, counts, checkerboard):
    """On a checkerboard each colour is predicted by the other, which takes some width."""
    for splitting, widths in (("counts", counts), ("checkerboard", checkerboard)):
        _, asked = choose({10: {}}, {10: {}}, splitting=splitting, smoothing=given)
        assert asked.widths == [widths] * 2
