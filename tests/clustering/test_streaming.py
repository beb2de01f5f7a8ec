"""Passes over a scan: each pattern once, in one order, whatever the chunks and the workers."""

import pickle
import threading
from dataclasses import dataclass

import dask.array as da
import numpy as np
import pytest

from hs_autoptycho.clustering import streaming
from hs_autoptycho.clustering.leaf_sums import LeafSums
from hs_autoptycho.clustering.projection import Grid, Projection
from hs_autoptycho.clustering.streaming import map_patterns, reduce_patterns

SHAPE = (9, 14, 6, 5)
CHUNKS = [
    (9, 14, 6, 5),
    (4, 5, 6, 5),
    (1, 14, 6, 5),
    ((2, 7), (1, 1, 12), (6,), (5,)),
    (3, 14, 2, 5),
    (5, 3, 4, 2),
]


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).integers(0, 200, SHAPE, dtype=np.uint16)


@dataclass(frozen=True)
class Corner:
    """A kernel: the pattern's position, its first pixel, and its sum."""

    def __call__(self, patterns, positions):
        return np.column_stack([positions, patterns[:, 0, 0], patterns.sum((1, 2))])


class Order:
    """A statistic that remembers the positions in the order they were merged, and a rounded sum."""

    def __init__(self):
        self.positions = []
        self.total = np.float32(0)

    def empty(self):
        return Order()

    def process(self, patterns, positions):
        self.positions += positions.tolist()
        self.total += np.float32(patterns.sum() / 7)

    def merge(self, other):
        self.positions += other.positions
        self.total += other.total


class CountingArray:
    """An array that counts how often each of its elements is read."""

    def __init__(self, array):
        self.array, self.dtype, self.shape, self.ndim = array, array.dtype, array.shape, array.ndim
        self.reads = np.zeros(array.shape, int)
        self.lock = threading.Lock()

    def __getitem__(self, key):
        with self.lock:
            self.reads[key] += 1
        return self.array[key]


def expected(data):
    n = data.shape[0] * data.shape[1]
    values = [np.arange(n), data.reshape(n, -1)[:, 0], data.reshape(n, -1).sum(1)]
    return np.stack(values, 1).reshape(*data.shape[:2], 3)


@pytest.mark.parametrize("chunks", [None, *CHUNKS], ids=str)
@pytest.mark.parametrize("limit", [None, 3 * 60, 20], ids=["", "3 patterns", "less than one"])
def test_every_position_once(data, chunks, limit, monkeypatch):
    if limit is not None:
        monkeypatch.setattr(streaming, "_LARGEST_BLOCK", limit)
        monkeypatch.setattr(streaming, "_BLOCK_IN_MEMORY", limit)
    used = data if chunks is None else da.from_array(data, chunks=chunks)
    seen = np.zeros(SHAPE[:2], int)
    for y0, y1, x0, x1 in streaming.scan_blocks(used):
        seen[y0:y1, x0:x1] += 1
        assert limit is None or (y1 - y0) * (x1 - x0) * 60 <= max(limit, 60)
    assert (seen == 1).all()
    counted = []
    result = map_patterns(
        used, Corner(), 3, dtype=np.float64, num_workers=2, progress=counted.append
    )
    np.testing.assert_array_equal(result, expected(data))
    assert sum(counted) == SHAPE[0] * SHAPE[1] and len(counted) == len(streaming.scan_blocks(used))
    statistic = reduce_patterns(used, Order(), num_workers=2)
    assert sorted(statistic.positions) == list(range(SHAPE[0] * SHAPE[1]))


def test_blocks_lie_in_chunks(data):
    lazy = da.from_array(data, chunks=((2, 7), (1, 1, 12), (3, 3), (5,)))
    assert streaming.scan_blocks(lazy) == [
        (0, 2, 0, 1), (0, 2, 1, 2), (0, 2, 2, 14), (2, 9, 0, 1), (2, 9, 1, 2), (2, 9, 2, 14),
    ]  # fmt: skip


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_each_chunk_is_read_once(data, chunks):
    counting = CountingArray(data)
    map_patterns(da.from_array(counting, chunks=chunks, name=False), Corner(), 3, num_workers=3)
    assert counting.reads.max() == counting.reads.min() == 1


def test_only_the_blocks_asked_for(data):
    blocks = [(0, 2, 3, 5), (6, 9, 0, 14)]
    counting = CountingArray(data)
    counted = []
    lazy = da.from_array(counting, chunks=(1, 1, 6, 5), name=False)
    result = map_patterns(lazy, Corner(), 3, blocks=blocks, progress=counted.append)
    wanted = np.zeros(SHAPE[:2], bool)
    wanted[:2, 3:5] = wanted[6:] = True
    np.testing.assert_array_equal(result[wanted], expected(data)[wanted])
    assert (result[~wanted] == 0).all()
    assert (counting.reads[~wanted] == 0).all() and counted == [4, 42]
    assert result.dtype == np.float32


@pytest.mark.parametrize("chunks", [None, *CHUNKS], ids=str)
def test_merged_in_one_order_whatever_the_workers(data, chunks, monkeypatch):
    monkeypatch.setattr(streaming, "_LARGEST_BLOCK", 600)
    monkeypatch.setattr(streaming, "_BLOCK_IN_MEMORY", 600)
    used = data if chunks is None else da.from_array(data, chunks=chunks)

    class Slow(Order):
        """The first blocks take longest."""

        def empty(self):
            return Slow()

        def process(self, patterns, positions):
            threading.Event().wait(0.004 if positions[0] < 30 else 0)
            super().process(patterns, positions)

    one, three = (reduce_patterns(used, Slow(), num_workers=n) for n in (1, 3))
    assert one.positions == three.positions
    assert one.total == three.total  # of float32, which does not add up alike in another order


@pytest.mark.parametrize(
    "dtype",
    [">u2", ">f4", "<i8", "float64", "uint8", "bool", "float16", "longdouble"],
    ids=lambda dtype: str(dtype),
)
def test_kernels_get_native_contiguous_arrays(data, dtype):
    stored = np.asfortranarray(data.astype(dtype))
    seen = []

    def kernel(patterns, positions):
        seen.append((patterns.flags.c_contiguous, patterns.dtype))
        return np.column_stack([positions, patterns[:, 0, 0], patterns.sum((1, 2))])

    result = map_patterns(stored, kernel, 3, dtype=np.float64)
    np.testing.assert_array_equal(result, expected(data if dtype != "bool" else stored))
    numba = [np.dtype(t) for t in ("u1", "u2", "i8", "f4", "f8")]
    assert all(contiguous and dtype in numba for contiguous, dtype in seen)


@pytest.mark.parametrize("lazy", [False, True])
def test_what_a_kernel_raises_comes_out(data, lazy, monkeypatch):
    monkeypatch.setattr(streaming, "_BLOCK_IN_MEMORY", 600)
    used = da.from_array(data, chunks=(2, 5, 6, 5)) if lazy else data

    def kernel(patterns, positions):
        if 50 in positions:
            raise ZeroDivisionError("at position 50")
        return np.zeros((len(patterns), 1))

    with pytest.raises(ZeroDivisionError, match="at position 50"):
        map_patterns(used, kernel, 1, num_workers=2)


def test_what_reading_raises_comes_out(data):
    class Broken(CountingArray):
        def __getitem__(self, key):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        map_patterns(da.from_array(Broken(data), chunks=(3, 5, 6, 5)), Corner(), 3)


def test_interrupt_cancels_what_waits(data, monkeypatch):
    monkeypatch.setattr(streaming, "_BLOCK_IN_MEMORY", 60)  # 126 blocks of a pattern
    worked = []

    def kernel(patterns, positions):
        worked.append(positions[0])
        return np.zeros((len(patterns), 1))

    def interrupt(patterns):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        map_patterns(data, kernel, 1, num_workers=2, progress=interrupt)
    assert 1 <= len(worked) <= 6
    assert threading.active_count() == before


def kernels():
    """The real ones, of both passes."""
    rng = np.random.default_rng(1)
    beam = np.stack([np.full(SHAPE[:2], 2.4), np.full(SHAPE[:2], 2.1)], -1)
    beam += rng.normal(0, 0.2, beam.shape)
    basis = rng.normal(size=(20, 3)).astype(np.float32)
    project = Projection(
        Grid(1, 1.0, (9, 9)), np.ones(SHAPE[2:]), np.arange(30, 50), basis, beam, True, 3
    )
    labels = rng.integers(-1, 3, SHAPE[:2]).astype(np.int32)
    shifts = rng.integers(-2, 3, (*SHAPE[:2], 2))
    return project, LeafSums(labels, shifts, (3, *SHAPE[2:]))


def test_objects_of_the_passes_are_picklable(data):
    project, sums = kernels()
    again, sums_again = pickle.loads(pickle.dumps((project, sums)))
    patterns, positions = data.reshape(-1, 6, 5), np.arange(126)
    np.testing.assert_array_equal(project(patterns, positions), again(patterns, positions))
    for statistic in (sums, sums_again):
        statistic.process(patterns, positions)
    assert sums.sums.any()
    np.testing.assert_array_equal(sums.sums, sums_again.sums)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_distributed_gives_the_same_bits(data):
    distributed = pytest.importorskip("distributed")
    project, sums = kernels()
    lazy = da.from_array(data, chunks=(4, 5, 3, 5))
    counted = []
    values = map_patterns(data, project, project.n_values, num_workers=2)
    total = reduce_patterns(lazy, sums, num_workers=2)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        assert streaming._active_client() is client
        theirs = map_patterns(lazy, project, project.n_values, progress=counted.append)
        np.testing.assert_array_equal(theirs, values)
        their_total = reduce_patterns(lazy, sums)
        with pytest.raises(ZeroDivisionError):
            map_patterns(lazy, lambda patterns, positions: 1 / 0, 1)
        # numpy arrays are not sent around
        np.testing.assert_array_equal(map_patterns(data, Corner(), 3), expected(data))
    assert streaming._active_client() is None
    np.testing.assert_array_equal(their_total.sums, total.sums)
    np.testing.assert_array_equal(their_total.squares, total.squares)
    assert sum(counted) == 126
