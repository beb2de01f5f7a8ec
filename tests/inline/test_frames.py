"""Patterns as they arrive: bad ones are named, and nothing of their block is taken in."""

import numpy as np
import pytest

from hs_autoptycho.inline.frames import Frames
from hs_autoptycho.ptycho.loading import DataError


def block(*shape, dtype=np.uint8):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_rows_frames_and_signals():
    hs = pytest.importorskip("hyperspy.api")
    patterns = block(6, 3, 4, 5)
    frames = Frames((6, 3))
    assert frames.add(patterns[:2]) is None  # rows
    assert frames.add(patterns[2, 0]) is None  # one pattern
    assert (frames.n_frames, frames.n_rows, frames.complete) == (7, 2, False)
    assert frames.add(list(patterns[2, 1:])) is None  # a list
    assert frames.add(hs.signals.Signal2D(patterns[3])) is None  # a signal of a row
    rest = frames.add(np.concatenate([*patterns[4:], patterns[0]]))
    assert frames.complete and frames.n_rows == 6
    np.testing.assert_array_equal(frames.rows(), patterns)
    np.testing.assert_array_equal(rest, patterns[0])


def test_a_larger_type_is_made_room_for():
    frames = Frames((2, 3))
    frames.add(block(3, 4, 5))
    frames.add(np.full((3, 4, 5), 1000, np.uint16))
    assert frames.rows()[0, 0, 0, 1] == 1 and frames.rows()[1].max() == 1000
    assert frames.add(np.zeros((2, 4, 5), bool)).dtype == np.uint8


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_no_detector_counts(value):
    frames = Frames((6, 3))
    frames.add(block(4, 4, 5, dtype=float))
    bad = block(3, 4, 5, dtype=float)
    bad[1, 2, 3] = value
    with pytest.raises(DataError, match=r"Frame 5 \(scan position x=2, y=1\).*kx=3, ky=2"):
        frames.add(bad)
    assert frames.n_frames == 4
    frames.add(np.nan_to_num(bad, posinf=0).clip(0))
    assert frames.n_frames == 7


def test_shapes_that_do_not_fit():
    frames = Frames((6, 3))
    frames.add(block(4, 4, 5))
    with pytest.raises(DataError, match=r"Frame 4 .*shape \(5, 4\).*\(4, 5\)"):
        frames.add(block(2, 5, 4))
    with pytest.raises(DataError, match=r"Frame 5 .*shape \(4, 6\)"):
        frames.add([block(4, 5), block(4, 6)])
    with pytest.raises(DataError, match="rows of 2 patterns.*has 3"):
        frames.add(block(1, 2, 4, 5))
    with pytest.raises(DataError, match="not an array of shape"):
        frames.add(block(4))
    with pytest.raises(DataError, match="real numbers, not complex"):
        frames.add(block(1, 4, 5, dtype=complex))
    assert frames.n_frames == 4


def test_a_bad_frame_of_the_next_scan_leaves_this_one_as_it_was():
    frames = Frames((2, 3))
    frames.add(block(4, 4, 5, dtype=float))
    bad = block(4, 4, 5, dtype=float)
    bad[3, 0, 0] = np.nan
    with pytest.raises(DataError, match="Frame 7"):
        frames.add(bad)
    assert frames.n_frames == 4
    assert frames.add(np.nan_to_num(bad)).shape == (2, 4, 5)


def test_lists_of_rows():
    frames = Frames((4, 3))
    frames.add([block(3, 4, 5), block(3, 4, 5)])
    frames.add([block(3, 4, 5)])
    assert frames.n_rows == 3
