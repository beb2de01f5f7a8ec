"""A zarr store that grows while it is read; the writer works whenever the reader sleeps."""

import numpy as np
import pytest
import zarr

from hs_autoptycho.inline.store import find_patterns, follow, shape_of_scan, wait_for_scan
from hs_autoptycho.ptycho.loading import DataError

ROWS = np.random.default_rng(0).poisson(1.0, (7, 3, 4, 6)).astype(np.uint8) + 1


class Writer:
    """Time that passes as the reader sleeps, and what is written then."""

    def __init__(self, *steps):
        self.steps, self.now = list(steps), 0.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.steps:
            self.steps.pop(0)()


def collected(path, writer, **options):
    options = {"timeout": 1.0, "poll": 0.3, **options}
    return [*follow(path, clock=writer.clock, sleep=writer.sleep, **options)]


def test_a_store_of_the_whole_size(tmp_path):
    path = tmp_path / "scan.zarr"
    array = zarr.open(str(path), mode="w", shape=ROWS.shape, chunks=(2, 3, 4, 6), dtype="u1")

    def write(rows):
        def step():
            array[rows] = ROWS[rows]

        return step

    array[:1] = ROWS[:1]
    # a chunk of two rows is half written in between; a pause is shorter than the time out
    writer = Writer(write(slice(1, 3)), lambda: None, write(slice(3, 4)), write(slice(4, 7)))
    blocks = collected(path, writer)
    assert [len(b) for b in blocks] == [1, 2, 1, 3]
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS)


def test_a_store_that_grows_and_is_not_there_yet(tmp_path):
    path = tmp_path / "scan.zarr"

    def begin():
        group = zarr.open_group(str(path), mode="w")
        group.create_dataset("other", data=np.zeros(3))
        group.create_dataset("patterns", data=ROWS[:2], chunks=(1, 3, 4, 6))

    def append():
        zarr.open_group(str(path), mode="a")["patterns"].append(ROWS[2:])

    blocks = collected(path, Writer(lambda: None, begin, append), scan_shape=(7, 3))
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS)


def test_single_patterns(tmp_path):
    path = tmp_path / "scan.zarr"
    frames = ROWS.reshape(-1, 4, 6)
    zarr.save(str(path), frames[:8])  # two rows and two patterns of the next

    def append():
        zarr.open(str(path), mode="a").append(frames[8:])

    blocks = collected(path, Writer(append), scan_shape=(7, 3))
    assert [len(b) for b in blocks] == [2, 5]
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS)
    with pytest.raises(DataError, match="give `scan_shape`"):
        collected(path, Writer())


def test_a_timeout_ends_with_what_is_there(tmp_path, caplog):
    path = tmp_path / "scan.zarr"
    array = zarr.open(str(path), mode="w", shape=ROWS.shape, chunks=(1, 3, 4, 6), dtype="u1")
    array[:3] = ROWS[:3]
    writer = Writer()
    blocks = collected(path, writer, timeout=2.0)
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS[:3])
    assert "ends after 3 rows" in caplog.text and 2.0 < writer.now < 3.0


def test_an_empty_last_pattern_waits_for_the_next_row(tmp_path):
    path = tmp_path / "scan.zarr"
    rows = ROWS.copy()
    rows[1, -1] = 0
    array = zarr.open(str(path), mode="w", shape=ROWS.shape, chunks=(1, 3, 4, 6), dtype="u1")
    array[:2] = rows[:2]

    def more():
        array[2:] = rows[2:]

    blocks = collected(path, Writer(more))
    assert [len(b) for b in blocks] == [1, 6]
    np.testing.assert_array_equal(np.concatenate(blocks), rows)


def test_nothing_comes(tmp_path):
    with pytest.raises(DataError, match=r"No row of a scan came to .* in 1 s\. Last error"):
        collected(tmp_path / "none.zarr", Writer())
    path = tmp_path / "empty.zarr"
    zarr.open(str(path), mode="w", shape=ROWS.shape, dtype="u1")
    with pytest.raises(DataError, match=r"No row of a scan came to .* in 1 s\.$"):
        collected(path, Writer())
    zarr.save(str(tmp_path / "flat.zarr"), np.zeros((3, 4)))
    with pytest.raises(DataError, match="no array of patterns"):
        collected(tmp_path / "flat.zarr", Writer())
    writer = Writer()
    with pytest.raises(DataError, match="could not be opened in 1 s"):
        wait_for_scan(
            tmp_path / "none.zspy", timeout=1, poll=0.4, clock=writer.clock, sleep=writer.sleep
        )


def test_a_zspy_file_brings_its_calibration(tmp_path):
    hs = pytest.importorskip("hyperspy.api")
    signal = hs.signals.Signal2D(ROWS)
    signal.axes_manager[0].scale = 0.7
    signal.save(tmp_path / "scan.zspy")
    found = wait_for_scan(tmp_path / "scan.zspy")
    assert found.axes_manager[0].scale == 0.7 and found.data.shape == ROWS.shape
    assert find_patterns(tmp_path / "scan.zspy").shape == ROWS.shape
    zarr.save(str(tmp_path / "plain.zarr"), ROWS)
    assert wait_for_scan(tmp_path / "plain.zarr") is None
    assert shape_of_scan(tmp_path / "plain.zarr") == (7, 3)


def test_a_store_of_another_shape(tmp_path):
    zarr.save(str(tmp_path / "plain.zarr"), ROWS)
    for shape in ((7, 5), (6, 3)):
        with pytest.raises(DataError, match="7 rows of 3 patterns, but `scan_shape` says"):
            collected(tmp_path / "plain.zarr", Writer(), scan_shape=shape)
