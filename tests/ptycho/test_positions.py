"""Scan positions and their place on the object."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.positions import SUBPIXELS, place, scan_positions

SCAN = (5, 7)


def grid(positions):
    """(row, column) by [slow, fast]."""
    return positions.reshape(*SCAN, 2)


class TestScan:
    def test_plain_grid(self):
        positions = grid(scan_positions(SCAN, 2.5))
        slow, fast = np.indices(SCAN)
        np.testing.assert_allclose(positions[..., 0], 2.5 * slow)
        np.testing.assert_allclose(positions[..., 1], 2.5 * fast)

    @pytest.mark.parametrize("angle", [0.0, 13.0, -120.4, 250.0])
    def test_rotation(self, angle):
        positions = grid(scan_positions(SCAN, 0.7, rotation=angle))
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        for slow, fast in [(0, 0), (0, 6), (4, 0), (3, 5)]:
            expected = [0.7 * (cos * slow - sin * fast), 0.7 * (sin * slow + cos * fast)]
            np.testing.assert_allclose(positions[slow, fast], expected, atol=1e-12)

    def test_sign_of_rotation(self):
        # by +90 degrees the fast axis, which ran to the right, runs to smaller rows: up
        positions = grid(scan_positions(SCAN, 1.0, rotation=90.0))
        np.testing.assert_allclose(positions[0, 1], (-1, 0), atol=1e-12)
        np.testing.assert_allclose(positions[1, 0], (0, 1), atol=1e-12)

    @pytest.mark.parametrize("angle", [0.0, 33.0])
    def test_distortion(self, angle):
        positions = grid(
            scan_positions(SCAN, 2.0, rotation=angle, scale=1.1, shear=4.0, aspect=1.3)
        )
        slow, fast = positions[1, 0], positions[0, 1]
        across = abs(slow[0] * fast[1] - slow[1] * fast[0])
        # scale is of lengths; aspect and shear leave the area of a scan pixel alone
        assert across == pytest.approx((2.0 * 1.1) ** 2)
        assert np.linalg.norm(fast) == pytest.approx(2.2 / np.sqrt(1.3))
        lean = np.arctan2(slow @ fast, across)
        assert np.rad2deg(lean) == pytest.approx(4.0)
        height = across / np.linalg.norm(fast)
        assert height / np.linalg.norm(fast) == pytest.approx(1.3)

    def test_distortion_acts_in_the_scan_frame(self):
        turn = np.deg2rad(25)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        straight = scan_positions(SCAN, 1.0, shear=6.0, aspect=0.8)
        turned = scan_positions(SCAN, 1.0, shear=6.0, aspect=0.8, rotation=25.0)
        np.testing.assert_allclose(turned, straight @ matrix.T, atol=1e-12)


class TestPlacement:
    window = (12, 18)

    @pytest.fixture(params=[0.0, 37.0, -160.0])
    def positions(self, request):
        pixel = np.array([0.31, 0.22])
        return scan_positions(SCAN, 0.83, rotation=request.param) / pixel

    def test_positions_are_kept(self, positions):
        placed = place(positions, self.window)
        center = placed.corners + np.array(self.window) // 2 + placed.fractions[placed.classes]
        difference = center - placed.origin - positions
        assert np.abs(difference).max() <= 0.5 / SUBPIXELS + 1e-9
        # as it is here, with many positions, roundings are of either sign
        assert difference.min() < -0.2 / SUBPIXELS and difference.max() > 0.2 / SUBPIXELS

    def test_fractions(self, positions):
        placed = place(positions, self.window)
        assert placed.fractions.min() >= -0.5 and placed.fractions.max() < 0.5
        np.testing.assert_array_equal(placed.fractions * SUBPIXELS % 1, 0)
        assert len(np.unique(placed.fractions, axis=0)) == len(placed.fractions)
        np.testing.assert_array_equal(np.unique(placed.classes), np.arange(len(placed.fractions)))

    @pytest.mark.parametrize("margin", [0, 2, 5])
    def test_windows_are_inside(self, positions, margin):
        placed = place(positions, self.window, margin)
        end = placed.corners + np.array(self.window)
        free = np.array([placed.corners.min(0), placed.object_shape - end.max(0)])
        assert free.min() >= margin
        # and not much larger than needed
        assert free.max() <= margin + 1

    def test_whole_pixels(self):
        placed = place(scan_positions(SCAN, 3.0), self.window)
        np.testing.assert_array_equal(placed.fractions, [[0, 0]])
        np.testing.assert_array_equal(placed.corners[:3], [[2, 2], [2, 5], [2, 8]])
        assert placed.object_shape == (12 + 2 * 2 + 4 * 3, 18 + 2 * 2 + 6 * 3)

    def test_rounding_to_the_nearest_pixel(self):
        placed = place(np.array([[0.0, 0.0], [0.999, 2.4375]]), self.window)
        np.testing.assert_array_equal(placed.corners[1] - placed.corners[0], [1, 2])
        np.testing.assert_array_equal(placed.fractions[placed.classes[1]], [0, 0.4375])
        placed = place(np.array([[0.0, 0.0], [0.01, 2.53125]]), self.window)
        np.testing.assert_array_equal(placed.corners[1] - placed.corners[0], [0, 3])
        np.testing.assert_array_equal(placed.fractions[placed.classes[1]], [0, -0.46875])
