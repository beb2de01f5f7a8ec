"""Orientation of the detector, the kernels' order, splitting of counts."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.patterns import (
    DETECTOR_FLIPS,
    Patterns,
    flip_detector,
    flip_point,
    split_counts,
)

EXPECTED = {
    "none": lambda a: a,
    "rows": np.flipud,
    "columns": np.fliplr,
    "both": lambda a: np.rot90(a, 2),
    "transpose": np.transpose,
    "transpose-rows": lambda a: np.flipud(a.T),
    "transpose-columns": lambda a: np.fliplr(a.T),
    "transpose-both": lambda a: np.rot90(a.T, 2),
}
INVERSE = {name: name for name in EXPECTED} | {
    "transpose-rows": "transpose-columns",
    "transpose-columns": "transpose-rows",
}
flips = pytest.mark.parametrize("flip", DETECTOR_FLIPS)


def counts(shape, seed=0, mean=3.0, dtype=np.uint16):
    return np.random.default_rng(seed).poisson(mean, shape).astype(dtype)


class TestFlips:
    def test_there_are_eight(self):
        assert set(DETECTOR_FLIPS) == set(EXPECTED)
        square = np.arange(16).reshape(4, 4)
        assert len({flip_detector(square, flip).tobytes() for flip in DETECTOR_FLIPS}) == 8

    @flips
    def test_meaning(self, flip):
        patterns = counts((3, 5, 4, 6))
        flipped = flip_detector(patterns, flip)
        np.testing.assert_array_equal(flipped[2, 4], EXPECTED[flip](patterns[2, 4]))
        assert np.shares_memory(flipped, patterns)

    @flips
    def test_inverse(self, flip):
        patterns = counts((3, 4, 6))
        back = flip_detector(flip_detector(patterns, flip), INVERSE[flip])
        np.testing.assert_array_equal(back, patterns)

    @flips
    @pytest.mark.parametrize("point", [(0, 0), (1, 4), (3, 0), (2, 5)])
    def test_point(self, flip, point):
        image = np.zeros((4, 6))
        image[point] = 1
        flipped = flip_detector(image, flip)
        moved = flip_point(point, (4, 6), flip)
        assert flipped[moved] == 1
        assert flip_point(moved, flipped.shape, INVERSE[flip]) == point

    def test_point_between_pixels(self):
        assert flip_point((1.25, 4.5), (4, 6), "rows") == (1.75, 4.5)
        assert flip_point((1.25, 4.5), (4, 6), "transpose-columns") == (4.5, 1.75)


class TestOrder:
    @flips
    @pytest.mark.parametrize("shape", [(12, 10), (6, 22)])
    def test_order(self, shape, flip):
        patterns = counts((7, *shape))
        ordered = Patterns.from_blocks([patterns], 7, shape, flip=flip)
        expected = np.fft.ifftshift(EXPECTED[flip](patterns[4]))
        assert ordered.shape == expected.shape
        plan = ordered.plan
        found = ordered.counts[4].reshape(expected.shape[::-1]).T
        np.testing.assert_array_equal(found, expected[plan.row_order][:, plan.column_order])
        assert ordered.mean_total == pytest.approx(patterns.sum() / 7)

    def test_zero_frequency(self):
        patterns = np.zeros((2, 6, 10), np.uint8)
        patterns[1, 3, 5] = 9
        ordered = Patterns.from_blocks([patterns], 2, (6, 10))
        plan = ordered.plan
        place = (
            np.flatnonzero(plan.column_order == 0)[0] * 6 + np.flatnonzero(plan.row_order == 0)[0]
        )
        assert ordered.counts[1, place] == 9

    @pytest.mark.parametrize("sizes", [(7,), (1, 4, 2), (3, 0, 4), (1,) * 7])
    def test_blocks(self, sizes):
        patterns = counts((7, 6, 10))
        whole = Patterns.from_blocks([patterns], 7, (6, 10))
        blocks = np.split(patterns, np.cumsum(sizes)[:-1])
        ordered = Patterns.from_blocks(iter(blocks), 7, (6, 10))
        np.testing.assert_array_equal(ordered.counts, whole.counts)

    @pytest.mark.parametrize(
        ("dtype", "kept"),
        [
            ("u1", "u1"),
            (">u2", "=u2"),
            ("i4", "u4"),
            ("f8", "f4"),
            (">f4", "=f4"),
            ("f2", "f4"),
            ("?", "u1"),
        ],
    )
    def test_types(self, dtype, kept):
        patterns = counts((7, 6, 10)).clip(0, 1).astype(dtype)
        ordered = Patterns.from_blocks([patterns], 7, (6, 10))
        assert ordered.counts.dtype == np.dtype(kept)
        reference = Patterns.from_blocks([patterns.astype(np.uint16)], 7, (6, 10))
        np.testing.assert_array_equal(ordered.counts, reference.counts)

    @pytest.mark.parametrize("number", [6, 0])
    def test_missing_patterns(self, number):
        blocks = [counts((number, 6, 10))] if number else []
        with pytest.raises(ValueError, match=f"Expected 7 patterns, got {number}"):
            Patterns.from_blocks(blocks, 7, (6, 10))


class TestSplit:
    def test_sum_and_type(self):
        for dtype in (np.uint8, np.uint16, np.int32):
            whole = counts((5, 6, 10), dtype=dtype)
            whole[2, 3, 4] = 120
            first, second = split_counts(whole, 0.9, 1)
            assert first.dtype == second.dtype == dtype
            np.testing.assert_array_equal(first + second, whole)
            assert np.all(first >= 0) and np.all(first <= whole)

    @pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
    def test_binomial(self, fraction):
        whole = np.full((50, 40, 60), 10, np.uint8)
        first, _ = split_counts(whole, fraction, 2)
        # 120 000 draws: standard error of the mean 0.005
        assert first.mean() == pytest.approx(10 * fraction, abs=0.03)
        assert first.var() == pytest.approx(10 * fraction * (1 - fraction), rel=0.03)
        # and every pattern has its own
        assert len(np.unique(first, axis=0)) == 50

    def test_independent(self):
        whole = counts((50, 40, 60), seed=7)
        first, second = split_counts(whole, 0.5, 3)
        # 120 000 pixels: standard error 0.003; dependent parts would have 1
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.012
        assert first.var() == pytest.approx(first.mean(), rel=0.03)
        assert second.var() == pytest.approx(second.mean(), rel=0.03)

    def test_seed(self):
        whole = counts((5, 6, 10), mean=20)
        one, same, other = (split_counts(whole, 0.5, seed)[0] for seed in (4, 4, 5))
        np.testing.assert_array_equal(one, same)
        assert np.any(one != other)

    def test_all_or_nothing(self):
        whole = counts((5, 6, 10))
        np.testing.assert_array_equal(split_counts(whole, 1.0, 0)[0], whole)
        assert not split_counts(whole, 0.0, 0)[0].any()

    def test_floats(self):
        with pytest.raises(TypeError, match="float32"):
            split_counts(np.ones((5, 6, 10), np.float32), 0.5, 0)
