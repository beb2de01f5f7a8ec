"""What a pass reads at once, and what it makes of patterns that cannot be used."""

import re
import sys
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest

from hs_autoptycho.clustering import pipeline, streaming
from hs_autoptycho.clustering.leaf_sums import LeafSums
from hs_autoptycho.clustering.projection import EMPTY, NEGATIVE, NOT_FINITE
from hs_autoptycho.clustering.streaming import map_patterns, reduce_patterns, scan_blocks

SHAPE = (5, 7, 4, 3)

# --- blocks -----------------------------------------------------------------------------------


def test_largest_blocks():
    """96 MiB of a dask array, 8 MiB in memory."""
    lazy = da.zeros((30, 40, 256, 256), chunks=(30, 40, 256, 256), dtype=np.uint16)
    assert scan_blocks(lazy)[:2] == [(0, 19, 0, 40), (19, 30, 0, 40)]
    memory = SimpleNamespace(shape=(30, 40, 256, 256), dtype=np.dtype(np.uint16))
    assert scan_blocks(memory)[:2] == [(0, 1, 0, 40), (1, 2, 0, 40)]
    memory = SimpleNamespace(shape=(30, 40, 1024, 1024), dtype=np.dtype(np.float64))
    assert len(scan_blocks(memory)) == 1200
    memory = SimpleNamespace(shape=(30, 40, 32, 16), dtype=np.dtype(np.uint8))
    assert scan_blocks(memory) == [(0, 30, 0, 40)]


@pytest.mark.parametrize(
    "patterns, blocks",
    [
        (35, [(0, 5, 0, 7)]),
        (34, [(0, 4, 0, 7), (4, 5, 0, 7)]),
        (13, [(i, i + 1, 0, 7) for i in range(5)]),
        (4, [(i, i + 1, *columns) for i in range(5) for columns in ((0, 4), (4, 7))]),
        (0.9, [(i, i + 1, j, j + 1) for i in range(5) for j in range(7)]),
    ],
)
def test_blocks_of_so_many_patterns(monkeypatch, patterns, blocks):
    monkeypatch.setattr(streaming, "_BLOCK_IN_MEMORY", int(patterns * 48))
    assert scan_blocks(np.zeros(SHAPE, np.float32)) == blocks


def test_blocks_within_chunks(monkeypatch):
    monkeypatch.setattr(streaming, "_LARGEST_BLOCK", 6 * 48)
    lazy = da.zeros(SHAPE, chunks=((3, 2), (4, 3), 4, 3), dtype=np.float32)
    assert scan_blocks(lazy) == [
        (0, 1, 0, 4), (1, 2, 0, 4), (2, 3, 0, 4), (0, 2, 4, 7), (2, 3, 4, 7),
        (3, 4, 0, 4), (4, 5, 0, 4), (3, 5, 4, 7),
    ]  # fmt: skip


def test_blocks_that_wait(monkeypatch):
    """Two more than there are threads are begun before the first is taken."""
    monkeypatch.setattr(streaming, "_BLOCK_IN_MEMORY", 48)
    begun, ahead = [], []

    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def submit(self, work, part, task, block, scan_x):
            begun.append(block)
            return SimpleNamespace(result=lambda: work(part, task, block, scan_x))

    pools = []
    monkeypatch.setattr(streaming, "thread_pool", lambda n: pools.append(n) or Pool())
    for workers in (2, None):
        begun.clear()
        map_patterns(
            np.ones(SHAPE, np.float32), lambda patterns, positions: positions[:, None], 1,
            num_workers=workers, progress=lambda n: ahead.append(len(begun)),
        )  # fmt: skip
    assert pools == [2, streaming.CPU_COUNT]
    assert ahead[:3] == [3, 4, 5] and ahead[34] == 35 and len(ahead) == 70


def test_values_and_progress_of_blocks():
    counted = []
    data = np.arange(420, dtype=np.float32).reshape(SHAPE)
    blocks = [(1, 3, 2, 6), (4, 5, 0, 1)]
    found = map_patterns(
        data, lambda patterns, positions: np.stack([positions, patterns[:, 1, 2]], 1), 2,
        dtype=np.int64, blocks=blocks, progress=counted.append, num_workers=1,
    )  # fmt: skip
    assert counted == [8, 1] and found.dtype == np.int64 and found.shape == (5, 7, 2)
    for y, x in ((1, 2), (2, 5), (4, 0)):
        assert found[y, x].tolist() == [7 * y + x, data[y, x, 1, 2]]
    assert not found[0].any() and not found[4, 1:].any()


def test_arrays_that_kernels_read():
    for dtype, read in (
        ("bool", "u1"), ("float16", "f4"), ("longdouble", "f8"), (">f4", "f4"), (">i2", "i2"),
        ("float64", "f8"), ("uint64", "u8"),
    ):  # fmt: skip
        found = streaming._in_memory(np.asfortranarray(np.ones((2, 3, 4), dtype)))
        assert found.dtype == np.dtype(read) and found.dtype.isnative
        assert found.flags.c_contiguous and (found == 1).all()
    with pytest.raises(TypeError, match="real numbers"):
        streaming._in_memory(np.ones((2, 2), complex))
    lazy = da.ones((4, 6), chunks=(2, 6))
    for part in (lazy, lazy[:2]):
        assert streaming._in_memory(part).tolist() == np.ones(part.shape).tolist()


def test_no_client_without_a_cluster(monkeypatch):
    def get_client():
        raise ValueError("none")

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(get_client=get_client))
    assert streaming._active_client() is None
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(get_client=lambda: "client"))
    assert streaming._active_client() == "client"


def test_sums_of_leaves_are_moved_and_merged():
    data = np.arange(420, dtype=np.uint16).reshape(SHAPE)
    labels = np.full((5, 7), -1, np.int32)
    labels[1, 2], labels[3, 4], labels[3, 5] = 0, 1, 1
    shifts = np.zeros((5, 7, 2), np.int64)
    shifts[3, 4] = 1, -2
    found = reduce_patterns(data, LeafSums(labels, shifts, (2, 4, 3)), num_workers=1)
    np.testing.assert_array_equal(found.sums[0], data[1, 2])
    moved = np.zeros((4, 3))
    moved[1:, :1] = data[3, 4, :3, 2:]
    np.testing.assert_array_equal(found.sums[1], data[3, 5] + moved)
    np.testing.assert_array_equal(found.squares[1], data[3, 5].astype(float) ** 2 + moved**2)


# --- a user's function ------------------------------------------------------------------------


def test_flags_of_a_users_function():
    patterns = np.ones((6, 4, 3))
    patterns[1] = 0
    patterns[2, 0, 0], patterns[3, 1, 1], patterns[4, 2, 2] = -1, np.nan, np.inf
    patterns[5, 0, :2] = np.inf, -np.inf
    kernel = pipeline._Custom(lambda p: np.stack([p[:, 3, 0], p[:, 0, 0]], 1))
    assert kernel.length(patterns[None]) == 2
    found = kernel(patterns, np.arange(6))
    assert found[:, 0].tolist() == [0, EMPTY, NEGATIVE, NOT_FINITE, NOT_FINITE, NOT_FINITE]
    assert found[:, 1:].tolist() == [[1, 1], [0, 0], [1, -1], [1, 1], [1, 1], [1, 0]]
    # a sum of zero of both signs is no pattern, and negative
    signs = np.array([[[1.0, -1.0]], [[2.0, 2.0]]])
    assert pipeline._Custom(lambda p: p[:, 0])(signs, np.arange(2))[:, 0].tolist() == [NEGATIVE, 0]
    small = pipeline._Custom(lambda p: p.sum((1, 2)))(np.array([[[0]], [[-3]]]), np.arange(2))
    assert small.tolist() == [[EMPTY, 0], [NEGATIVE, -3]]
    bits = pipeline._Custom(lambda p: p.sum((1, 2)))(np.ones((2, 3, 3), np.uint8), np.arange(2))
    assert bits.tolist() == [[0, 9], [0, 9]]


@pytest.mark.parametrize(
    "values", [np.ones(3), np.ones((2, 3, 1)), np.ones((3, 2)), np.ones((2, 2), complex), 1.0]
)
def test_what_a_users_function_may_not_return(values):
    kernel = pipeline._Custom(lambda patterns: values)
    with pytest.raises(ValueError, match="real numbers of the shape"):
        kernel(np.ones((2, 4, 3)), np.arange(2))


def test_note_on_what_cannot_be_used():
    flags = np.zeros((3, 4), int)
    flags[1, 2] = flags[2, 0] = flags[0, 3] = NEGATIVE
    wanted = np.ones((3, 4), bool)
    wanted[0] = False
    note = pipeline._flagged(flags, wanted, NEGATIVE)
    assert note.startswith("2 of the positions, the first of them x=2, y=1, have patterns")
    assert pipeline._flagged(flags, wanted, EMPTY) == ""


@pytest.mark.parametrize("n, size, note", [
    (1024, 5000, "1024 positions are fewer than two clusters of min_cluster_size=5000. "),
    (1024, 513, "min_cluster_size=513. "), (1024, 512, ""), (1024, None, ""), (40, None, ""),
    (39, None, r"39 positions are fewer .* of min_cluster_size=20 \(the default\)\. "),
])  # fmt: skip
def test_note_on_positions_too_few_for_a_split(n, size, note):
    found = pipeline._too_few(n, pipeline.Limits(min_cluster_size=size))
    assert re.search(note, found[0]) if note else found == []


# --- the passes together ----------------------------------------------------------------------


@pytest.fixture
def stages(monkeypatch):
    """`cluster` with what its stages find given; what they are asked is kept."""
    asked = SimpleNamespace(progress=[])

    def run(values, n_leaves=2, halves=True, interrupted=False, **options):
        values = np.asarray(values, np.float32)
        scan = values.shape[:2]
        beam = np.zeros((*scan, 2)) + (9.4, 11.6)
        beam[0, 0], beam[1, 2] = (8.6, 13.2), (11.2, 11.0)
        found = SimpleNamespace(
            notes=["a note"], center=(9.5, 11.5), beam=beam, radius=2.5, counts=True
        )
        labels = np.zeros(scan, np.int32)
        labels[0, 0], labels[1] = n_leaves - 1, -1

        def map_patterns(data, kernel, n, *, progress, num_workers):
            asked.n, asked.kernel = n, kernel
            return values.copy()

        def grow(features, limits, **given):
            asked.features, asked.given = features, given
            return SimpleNamespace(nodes=["node"], leaf_labels=labels, interrupted=interrupted)

        def reduce_patterns(data, sums, *, progress, num_workers):
            asked.sums = sums
            return sums

        kernel = SimpleNamespace(n_values=values.shape[2], halves=halves)
        for name, given in (
            ("survey", lambda data, **options: found),
            ("make_projection", lambda survey, **options: (kernel, ["assumed"])),
            ("map_patterns", map_patterns), ("grow", grow), ("reduce_patterns", reduce_patterns),
        ):  # fmt: skip
            monkeypatch.setattr(pipeline, name, given)
        data = np.zeros((*scan, 20, 24), np.uint8)
        return pipeline.cluster(data, pipeline.Options(num_workers=3, **options)), asked

    return run


def first_pass():
    """Flag, then sum and three numbers of each half, of two by three positions."""
    values = np.arange(54.0).reshape(2, 3, 9)
    values[..., 0] = 0
    values[0, 2, 0], values[1, 1, 0] = EMPTY, NOT_FINITE
    return values


def test_features_of_the_first_pass(stages):
    values = first_pass()
    found, asked = stages(values, smoothing=1.5, random_state=4)
    first, second = asked.features.halves
    good = values[..., 0] == 0
    np.testing.assert_array_equal(asked.features.valid, good)
    np.testing.assert_array_equal(first.weights, values[..., 1] * good)
    np.testing.assert_array_equal(second.sums, values[..., 6:] * good[..., None])
    np.testing.assert_array_equal(found.annulus, (values[..., 1] + values[..., 5]) * good)
    assert asked.n == 9 and asked.given == {
        "smoothing": 1.5, "random_state": 4, "num_workers": 3, "progress": None
    }  # fmt: skip
    assert found.notes[:2] == ["a note", "assumed"] and len(found.notes) == 5
    assert "x=2, y=0" in found.notes[2] and "x=1, y=1" in found.notes[3]
    assert not found.interrupted and found.nodes == ["node"]
    whole, asked = stages(values[..., :5], halves=False)
    assert asked.features.splitting == "checkerboard"
    np.testing.assert_array_equal(whole.annulus, values[..., 1] * good)
    np.testing.assert_array_equal(
        asked.features.together().sums, values[..., 2:5] * good[..., None]
    )
    np.testing.assert_array_equal(asked.features.together().weights, values[..., 1] * good)


def test_shifts_and_measures(stages):
    found, asked = stages(first_pass(), n_leaves=3)
    shifts = np.zeros((2, 3, 2), int)
    shifts[0, 0], shifts[1, 2] = (1, -2), (-2, 0)
    np.testing.assert_array_equal(asked.sums.shifts, shifts)
    assert asked.sums.shifts.dtype == np.int64 and asked.sums.shape == (3, 20, 24)
    assert found.sums is asked.sums.sums and found.squares is asked.sums.squares
    assert found.measured == {
        "beam_center": [9.5, 11.5], "beam_radius": 2.5, "descan": pytest.approx([2.6, 2.2]),
        "counts": True, "splitting": "counts", "n_features": 3, "min_cluster_size": 20,
    }  # fmt: skip
    found, _ = stages(first_pass(), interrupted=True)
    assert found.interrupted and "The tree was interrupted" in found.notes[-1]


def test_only_the_positions_wanted(stages):
    mask = np.array([[True, False, False], [True, True, False]])
    found, asked = stages(first_pass(), scan_mask=mask)
    assert asked.features.valid.tolist() == [[True, False, False], [True, False, False]]
    assert len(found.notes) == 4 and "x=1, y=1" in found.notes[2]
    assert found.notes[3].startswith("Nothing could be split: 2 positions are fewer than two")


def test_features_of_a_users_function(stages):
    values = first_pass()[..., :3]
    found, asked = stages(values, features=lambda patterns: patterns[:, 0, :2])
    assert asked.n == 3 and isinstance(asked.kernel, pipeline._Custom)
    good = values[..., 0] == 0
    whole = asked.features.together()
    np.testing.assert_array_equal(whole.sums, values[..., 1:] * good[..., None])
    np.testing.assert_array_equal(whole.weights, good)
    assert found.annulus is None and found.notes[0] == "a note"
