"""Patterns into memory: types, chunks, and numbers that no detector counts."""

import dask.array as da
import numpy as np
import pytest

from hs_autoptycho.ptycho.loading import (
    DataError,
    fingerprint,
    leave_counts,
    load_counts,
    row_blocks,
)
from hs_autoptycho.ptycho.stored import Cache

SHAPE = (5, 7, 4, 6)


@pytest.fixture
def data():
    return np.random.default_rng(0).poisson(2, SHAPE).astype(np.uint16)


def chunked(data, rows=(2, 1, 2)):
    return da.from_array(data, chunks=(rows, (3, 4), (4,), (1, 5)))


class TestChunks:
    @pytest.mark.parametrize("rows", [(5,), (2, 1, 2), (1, 4), (1,) * 5])
    def test_same_as_numpy(self, data, rows):
        counts = load_counts(chunked(data, rows))
        assert counts.dtype == np.uint16
        np.testing.assert_array_equal(counts, data.reshape(35, 4, 6))
        np.testing.assert_array_equal(counts, load_counts(data))

    @pytest.mark.parametrize("read", [load_counts, lambda data: leave_counts(data, Cache(10**6))])
    def test_blocks_smaller_than_they_say(self, data, read):
        lying = chunked(data).map_blocks(lambda block: block[:1], dtype=data.dtype)
        with pytest.raises((DataError, ValueError), match="shape|dimensions|broadcast"):
            read(lying)
        # a single one would be repeated over all the rows
        one = da.from_array(data, chunks=-1).map_blocks(lambda block: block[:1], dtype=data.dtype)
        with pytest.raises(DataError, match=r"has the shape \(1, 7, 4, 6\), and \(5, 7, 4, 6\)"):
            read(one)

    def test_progress(self, data):
        seen = []
        load_counts(chunked(data), progress=seen.append)
        assert seen == [2, 1, 2]
        assert list(row_blocks(chunked(data))) == [(0, 2), (2, 3), (3, 5)]
        assert list(row_blocks(data)) == [(0, 5)]

    def test_each_chunk_is_read_once(self, data):
        reads = []

        def read(block, block_info=None):
            reads.append(tuple(block_info[0]["chunk-location"]))
            return block

        lazy = chunked(data).map_blocks(read, dtype=data.dtype, meta=np.empty((0,) * 4, data.dtype))
        load_counts(lazy)
        assert len(reads) == len(set(reads)) == 3 * 2 * 2

    def test_no_copy_where_none_is_needed(self, data):
        assert np.shares_memory(load_counts(data), data)


class TestTypes:
    @pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i8", ">u2", ">i4"])
    def test_integers_stay(self, data, dtype):
        counts = load_counts(data.astype(dtype))
        assert counts.dtype == np.dtype(dtype).newbyteorder("=") and counts.dtype.isnative
        np.testing.assert_array_equal(counts, data.reshape(35, 4, 6))

    def test_bool(self, data):
        counts = load_counts(data > 1)
        assert counts.dtype == np.uint8
        np.testing.assert_array_equal(counts, (data > 1).reshape(35, 4, 6))

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
    @pytest.mark.parametrize(("largest", "kept"), [(255, "u1"), (256, "u2")])
    def test_whole_floats_become_counts(self, data, dtype, largest, kept):
        data[4, 6, 3, 5] = largest
        counts = load_counts(chunked(data.astype(dtype)))
        assert counts.dtype == np.dtype(kept)
        np.testing.assert_array_equal(counts, data.reshape(35, 4, 6))

    def test_large_whole_floats(self, data):
        large = data * 1e5
        assert load_counts(large).dtype == np.uint32
        large[0, 0, 0, 0] = 1e10
        counts = load_counts(large)
        assert counts.dtype == np.float64
        assert counts[0, 0, 0] == 1e10

    @pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
    def test_other_floats_stay(self, data, dtype):
        fractions = data.astype(dtype)
        fractions[4, 6, 3, 5] = 0.5
        counts = load_counts(fractions)
        assert counts.dtype == np.dtype(dtype).newbyteorder("=") and counts.dtype.isnative
        np.testing.assert_array_equal(counts, fractions.reshape(35, 4, 6))


class TestBadNumbers:
    # y=3 is in the last of three chunks: positions count from the scan's corner, not the chunk's
    @pytest.mark.parametrize("make", [np.asarray, chunked])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, data, value, make):
        floats = data.astype(np.float32)
        floats[3, 5, 2, 1] = value
        floats[4, 0, 0, 0] = np.nan
        with pytest.raises(DataError) as error:
            load_counts(make(floats))
        message = str(error.value)
        assert "2 values are NaN or infinite" in message
        assert f"the first is {value}" in message
        assert "(x=5, y=3)" in message and "(kx=1, ky=2)" in message
        assert "s.data[~np.isfinite(s.data)] = 0" in message

    @pytest.mark.parametrize("make", [np.asarray, chunked])
    @pytest.mark.parametrize("dtype", ["i2", "f2", "f4", ">f8"])
    def test_negative(self, data, dtype, make):
        numbers = data.astype(dtype)
        numbers[3, 5, 2, 1] = -2
        with pytest.raises(DataError) as error:
            load_counts(make(numbers))
        message = str(error.value)
        assert "1 values are negative" in message and "-2" in message
        assert "(x=5, y=3)" in message and "(kx=1, ky=2)" in message
        assert "s.data.clip(0)" in message

    def test_negative_where_the_sum_overflows(self, data):
        # half floats end at 65504: their sum is infinite though none of them is
        numbers = (data * 100).astype(np.float16)
        numbers[0, 0, 0, 0] = -2
        with pytest.raises(DataError, match="1 values are negative"):
            load_counts(numbers)

    def test_the_remedies_work(self, data):
        floats = data.astype(np.float32)
        floats[3, 5, 2, 1], floats[0, 1, 2, 3] = np.nan, -1
        floats[~np.isfinite(floats)] = 0
        assert load_counts(floats.clip(0)).dtype == np.uint8

    @pytest.mark.parametrize("make", [np.asarray, chunked])
    def test_complex(self, data, make):
        with pytest.raises(DataError, match=r"complex64.*s\.amplitude\*\*2"):
            load_counts(make(data.astype(np.complex64)))

    @pytest.mark.parametrize("dtype", [object, "M8[s]", "U3"])
    def test_other_types(self, data, dtype):
        with pytest.raises(DataError, match="real numbers"):
            load_counts(data.astype("i8").astype(dtype))

    @pytest.mark.parametrize("dtype", ["?", "u2", "f4"])
    def test_empty(self, data, dtype):
        with pytest.raises(DataError, match="not one count"):
            load_counts(np.zeros_like(data, dtype=dtype))


class TestFingerprint:
    def test_independent_of_type_and_chunks(self, data):
        prints = {
            fingerprint(load_counts(make(data.astype(dtype))), SHAPE[:2])
            for dtype in ("u1", "u2", ">u2", "i8", "f4", ">f8")
            for make in (np.asarray, chunked, np.asfortranarray)
        }
        assert len(prints) == 1
        assert len(prints.pop()) == 64

    def test_independent_of_the_precision_of_floats(self, data):
        fractions = data / 4
        one, other = (
            fingerprint(load_counts(fractions.astype(t)), SHAPE[:2]) for t in ("f4", ">f8")
        )
        assert one == other

    def test_depends_on_everything_else(self, data):
        counts = load_counts(data)
        changed = counts.copy()
        changed[30, 3, 5] += 1
        prints = {
            fingerprint(counts, (5, 7)),
            fingerprint(counts, (7, 5)),
            fingerprint(changed, (5, 7)),
            fingerprint(counts.reshape(35, 6, 4), (5, 7)),
            fingerprint(counts[::-1], (5, 7)),
        }
        assert len(prints) == 5
