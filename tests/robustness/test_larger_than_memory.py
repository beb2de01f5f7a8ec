"""Scans that are larger than memory: what is read, how often, and how much memory that takes."""

import json
import os
import pickle
import subprocess
import sys
import textwrap

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho._memory import Work, plan_clustering
from hs_autoptycho._scan import read_scan
from hs_autoptycho.data import twisted_bilayer_mos2
from hs_autoptycho.ptycho import memory, stored
from hs_autoptycho.ptycho.loading import DataError, fingerprint, leave_counts, load_counts
from hs_autoptycho.ptycho.parameters import check_parameters
from hs_autoptycho.ptycho.patterns import DETECTOR_FLIPS
from hs_autoptycho.ptycho.stored import Cache, StoredCounts, rectangles

pytestmark = pytest.mark.usefixtures("one_thread")

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}
SHAPE = (11, 14, 24, 32)
CHUNKS = (4, 5, 24, 32)


@pytest.fixture(scope="module")
def scan():
    return twisted_bilayer_mos2(scan_shape=SHAPE[:2], detector_shape=SHAPE[2:], **TRUE)


class Reads:
    """A lazy signal that counts the patterns that are read of it."""

    def __init__(self, signal, chunks=CHUNKS):
        self.patterns = 0
        values = signal.data

        def chunk(block_info=None):
            where = block_info[None]["array-location"]
            part = values[tuple(slice(*some) for some in where)]
            self.patterns += part.shape[0] * part.shape[1]
            return part

        sizes = da.empty(values.shape, chunks=chunks).chunks
        data = da.map_blocks(
            chunk, chunks=sizes, dtype=values.dtype, meta=np.empty((0,) * 4, values.dtype)
        )
        axes = signal.axes_manager._get_axes_dicts()
        metadata = signal.metadata.as_dictionary()
        self.signal = hs.signals.Signal2D(data, axes=axes, metadata=metadata).as_lazy()
        self.n = values.shape[0] * values.shape[1]

    @property
    def passes(self):
        return self.patterns / self.n


@pytest.fixture
def no_memory(monkeypatch):
    """Nothing fits, and the cache holds a few blocks: a third of the scan."""
    monkeypatch.setattr(memory, "fits", lambda *_: False)
    pattern = SHAPE[2] * SHAPE[3]
    monkeypatch.setattr(stored, "BLOCK", 2 * 20 * pattern)  # a chunk of uint16
    size = 2 ** int(np.log2(2 * pattern * SHAPE[0] * SHAPE[1] / 3))
    monkeypatch.setattr(stored, "CACHE", size)
    monkeypatch.setattr(stored, "_SMALLEST_CACHE", size)


def test_blocks_cover_the_scan_once(monkeypatch):
    monkeypatch.setattr(stored, "BLOCK", 20 * 24 * 32)
    for chunks in ((4, 5, 24, 32), (1, 1, 24, 32), (11, 14, 24, 32), (2, 14, 12, 8)):
        data = da.zeros(SHAPE, dtype="u1", chunks=chunks)
        seen = np.zeros(SHAPE[:2], int)
        for y0, y1, x0, x1 in rectangles(data):
            seen[y0:y1, x0:x1] += 1
        assert (seen == 1).all()
        assert len(rectangles(data)) <= data.numblocks[0] * data.numblocks[1] + 11
    # chunks of one pattern are read together
    assert len(rectangles(da.zeros(SHAPE, dtype="u1", chunks=(1, 1, 24, 32)))) < 20


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4", "f8", "bool", "i4"])
def test_stored_counts_are_what_is_loaded(scan, dtype):
    values = (scan.data > 1) if dtype == "bool" else scan.data.astype(dtype)
    counts, digest = leave_counts(da.from_array(values, chunks=CHUNKS), Cache(2**20))
    loaded = load_counts(values)
    assert counts.dtype == loaded.dtype and counts.shape == loaded.shape
    some = np.array([153, 0, 17, 17, 80])
    np.testing.assert_array_equal(counts[some], loaded[some])
    for positions, block in counts.blocks():
        np.testing.assert_array_equal(block, loaded[positions])
    facts = counts.facts()
    np.testing.assert_array_equal(facts.total, loaded.sum(0, dtype=float))
    np.testing.assert_array_equal(facts.largest, loaded.max(0))
    np.testing.assert_array_equal(facts.totals, loaded.sum((1, 2), dtype=float))
    part = counts.part(slice(3, 9), slice(2, 12))
    expected = loaded.reshape(values.shape)[3:9, 2:12].reshape(60, *SHAPE[2:])
    np.testing.assert_array_equal(part[np.arange(60)], expected)
    assert digest == fingerprint(loaded, SHAPE[:2])


@pytest.mark.parametrize("flip", DETECTOR_FLIPS)
def test_stored_patterns_are_those_in_memory(scan, no_memory, flip):
    mask = np.ones(SHAPE[2:], bool)
    mask[3, 4:20] = False
    stated = check_parameters(TRUE)
    shape = (20, 16)
    lazy = Reads(scan).signal
    kinds = (scan, None), (lazy, Work())
    here, there = (
        read_scan(s, stated, False, detector_mask=mask, work=work).experiment for s, work in kinds
    )
    assert there.stored and not here.stored
    one, other = (e.patterns(flip, shape) for e in (here, there))
    some = np.array([140, 3, 99, 3])
    rows = other.rows(some)
    assert rows.dtype == one.counts.dtype
    np.testing.assert_array_equal(rows, one.counts[some])
    assert other.mean_total == pytest.approx(one.mean_total, rel=1e-12)
    groups = list(other.groups(np.arange(0, 154, 2), np.random.default_rng(0)))
    assert len(groups) > 1
    assert sorted(np.concatenate(groups)) == list(range(0, 154, 2))


def test_the_cache_is_bounded():
    cache = Cache(1000)
    for number in range(9):
        cache.put((0, number), np.zeros(300, np.uint8))
        assert cache._taken <= 1000
    assert cache.get((0, 8)) is not None and cache.get((0, 0)) is None
    cache.forget(0)
    assert cache._taken == 0 and cache.get((0, 8)) is None


def test_thinning_does_not_depend_on_blocks(scan):
    counts, _ = leave_counts(da.from_array(scan.data, chunks=CHUNKS), Cache(2**20))
    again, _ = leave_counts(da.from_array(scan.data, chunks=(3, 14, 24, 32)), Cache(2**20))
    everywhere = np.arange(len(counts))
    first, rest = (part[everywhere] for part in counts.split(0.9, 5))
    np.testing.assert_array_equal(first + rest, counts[everywhere])
    np.testing.assert_array_equal(first, again.split(0.9, 5)[0][everywhere])
    assert not np.array_equal(first, counts.split(0.9, 6)[0][everywhere])
    # a part of the scan has the same split
    part = counts.split(0.9, 5)[0].part(slice(2, 5), slice(1, 4))
    expected = first.reshape(SHAPE)[2:5, 1:4].reshape(9, *SHAPE[2:])
    np.testing.assert_array_equal(part[np.arange(9)], expected)


def test_stored_counts_can_be_sent_to_a_worker(scan):
    counts, _ = leave_counts(da.from_array(scan.data, chunks=CHUNKS), Cache(2**20))
    one = counts.split(0.9, 5)[1].part(slice(2, 7), slice(3, 9))
    other = pickle.loads(pickle.dumps(one))
    some = np.array([3, 29, 0])
    np.testing.assert_array_equal(one[some], other[some])
    assert other.dtype == one.dtype and other.cache.n_bytes == 2**20


@pytest.mark.parametrize("mean", [0.2, 5.0, 60000.0])
def test_thinning_is_binomial(mean):
    counts = np.random.default_rng(1).poisson(mean, (50, 40, 60)).astype(np.uint32)
    first, rest = StoredCounts(
        da.from_array(counts.reshape(5, 10, 40, 60), chunks=(2, 10, 40, 60)), np.uint32, Cache(1)
    ).split(0.9, 0)
    first, rest = first[np.arange(50)].astype(float), rest[np.arange(50)].astype(float)
    n = first.size
    assert first.mean() == pytest.approx(0.9 * mean, abs=5 * np.sqrt(mean / n))
    # of Poisson counts both parts are, and they are independent
    assert rest.var() / rest.mean() == pytest.approx(1, abs=8 / np.sqrt(n))
    correlation = np.corrcoef(first.ravel(), rest.ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(n)


def test_a_bad_pattern_is_named(scan):
    values = scan.data.astype("f4")
    values[6, 9, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"\(x=9, y=6\), detector pixel \(kx=3, ky=2\)"):
        leave_counts(da.from_array(values, chunks=CHUNKS), Cache(2**20))
    values[6, 9, 2, 3] = -2
    with pytest.raises(DataError, match=r"negative.*\(x=9, y=6\)"):
        leave_counts(da.from_array(values, chunks=CHUNKS), Cache(2**20))
    with pytest.raises(DataError, match="empty"):
        leave_counts(da.zeros(SHAPE, chunks=CHUNKS), Cache(2**20))


def logged(caplog):
    (plan,) = (r.getMessage() for r in caplog.records if r.getMessage().startswith("Plan: "))
    return plan


def test_a_reconstruction_reads_once_a_pass(scan, no_memory, caplog):
    reads = Reads(scan)
    with caplog.at_level("INFO", logger="hs_autoptycho"):
        lazily = reads.signal.reconstruct_ptycho(**TRUE, n_iterations=4)
    assert 4 < reads.passes <= 5  # what is still in the cache is not read again
    assert "stay where they are stored and are read in at most 5 passes" in logged(caplog)
    assert any("left where they are stored" in note for note in lazily.notes)
    again = Reads(scan).signal.reconstruct_ptycho(**TRUE, n_iterations=4)
    np.testing.assert_array_equal(lazily.data, again.data)
    in_memory = scan.reconstruct_ptycho(**TRUE, n_iterations=4)
    errors = [r.history.data for r in (lazily, in_memory)]
    # a group of so few positions that the last ones fit best: slower, but to the same end
    assert errors[0][-1] < 0.5 * errors[0][0] and errors[0][-1] < 1.5 * errors[1][-1]


def test_options_that_touch_the_patterns(scan, no_memory):
    reads = Reads(scan)
    result = reads.signal.reconstruct_ptycho(
        **TRUE, n_iterations=5, early_stopping=1, coarse_iterations=2, batch_selection="compact",
        batch_size=9, grid_correction_start=1, detector_flip="columns",
    )  # fmt: skip
    assert result.status in ("completed", "stopped")
    # what was held out is read by itself, and judged by the model alone
    assert reads.passes <= 1 + 5 + 3


def test_the_geometry_is_that_of_the_data_in_memory(scan, no_memory, caplog):
    reads = Reads(scan)
    with caplog.at_level("INFO", logger="hs_autoptycho"):
        lazily = hs_autoptycho.estimate_geometry(reads.signal)
    assert 2 < reads.passes <= 3
    assert "at most 3 passes" in logged(caplog)
    assert lazily == hs_autoptycho.estimate_geometry(scan)


TUNING = {
    "parameters": {"defocus": (90, 150)}, "n_trials": 2, "n_trial_iterations": 2,
    "n_iterations": 2, "fixed": {"scan_rotation": 12.0, "detector_flip": "none"},
}  # fmt: skip


@pytest.mark.parametrize("gain", [1, 3.7])
def test_tuning_reads_no_more_than_was_planned(scan, no_memory, caplog, gain):
    # of scaled data the gain is found
    values = scan.data if gain == 1 else (scan.data * gain).astype("f4")
    reads = Reads(scan._deepcopy_with_new_data(values))
    with caplog.at_level("INFO", logger="hs_autoptycho"):
        result = reads.signal.autotune_ptycho(**TUNING)
    planned = float(logged(caplog).split("at most ")[1].split(" passes")[0])
    assert 5 < reads.passes <= planned
    assert [trial["status"] for trial in result.trials] == ["completed"] * 2


def test_the_objective_is_that_of_the_data_in_memory(scan, no_memory, monkeypatch):
    # all blocks in one group: batches from all over the scan, as in memory
    monkeypatch.setattr(stored, "CACHE", 2**22)
    monkeypatch.setattr(stored, "_SMALLEST_CACHE", 2**22)
    found = [s.autotune_ptycho(**TUNING).trials for s in (Reads(scan).signal, scan)]
    for one, other in zip(*found, strict=True):
        assert one["objective"] == pytest.approx(other["objective"], rel=0.01)
        assert one["parameters"] == other["parameters"]


def test_an_engine_that_needs_all_in_memory_is_refused(scan, no_memory, monkeypatch):
    class Other:
        name = "other"

        def fit(self, *args, **options):
            raise AssertionError("it began")

    reads = Reads(scan)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(memory.NotEnoughMemoryError, match="GB are free; all of them have to be"):
        reads.signal.autotune_ptycho(n_trials=1, engine=Other())
    assert reads.patterns == 0


def test_clustering_reads_twice_and_says_so(scan, caplog):
    reads = Reads(scan)
    with caplog.at_level("INFO", logger="hs_autoptycho"):
        reads.signal.cluster_hierarchical()
    plan = logged(caplog)
    assert plan == f"Plan: {plan_clustering(reads.signal.data)}."
    planned = float(plan.split("at most ")[1].split(" passes")[0])
    assert 2 < reads.passes <= planned == 3


# What the whole is about: a child process whose data are larger than what it may grow by.
CHILD = """
    import json, resource, sys
    import dask.array as da, numpy as np, hyperspy.api as hs
    import hs_autoptycho
    from hs_autoptycho.ptycho import stored
    hs.preferences.General.show_progressbar = False

    SIDE, PIXELS, CHUNK = {side}, {pixels}, 16
    stored.BLOCK, stored._SMALLEST_CACHE = 2**20, 2**23

    def resident(name):
        for line in open("/proc/self/status"):
            if line.startswith(name):
                return int(line.split()[1]) * 1024

    def signal(side):
        rows = np.arange(PIXELS)
        disk = np.hypot(rows[:, None] - PIXELS // 2, rows - PIXELS // 2) < 8
        def chunk(block_info=None):
            y, x = block_info[None]["chunk-location"][:2]
            generator = np.random.default_rng([int(y), int(x)])
            out = generator.poisson(20.0, (4, CHUNK, PIXELS, PIXELS))
            # faster than all of them, and as good here
            return np.tile(out, (CHUNK // 4, 1, 1, 1)).astype("f4") * disk
        n = side // CHUNK
        data = da.map_blocks(
            chunk, chunks=((CHUNK,) * n,) * 2 + ((PIXELS,),) * 2, dtype="f4",
            meta=np.empty((0,) * 4, "f4"),
        )
        s = hs.signals.Signal2D(data).as_lazy()
        for axis, scale, units in zip(
            s.axes_manager._axes, [1.0, 1.0, 0.06, 0.06], ["Å", "Å", "1/Å", "1/Å"]
        ):
            axis.scale, axis.units = scale, units
        s.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 80.0)
        return s

    def work(s):
        {work}

    work(signal(32))  # compiles
    before = resident("VmRSS")
    s = signal(SIDE)
    if {limited}:
        # what is free is less than the data
        resource.setrlimit(resource.RLIMIT_DATA, (before + s.data.nbytes // 2, -1))
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    work(s)
    print(json.dumps([s.data.nbytes, resident("VmHWM") - before]))
"""
WORK = {
    "ptychography": "hs_autoptycho.estimate_geometry(s); "
    "s.reconstruct_ptycho(defocus=100, n_iterations=1)",
    "clustering": "s.cluster_hierarchical(num_workers=1)",
}


def grown(work, *, side, pixels, limited=True):
    code = textwrap.dedent(CHILD).format(side=side, pixels=pixels, work=WORK[work], limited=limited)
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are those of Linux")
@pytest.mark.parametrize(
    ("work", "side", "pixels", "most"),
    [("ptychography", 160, 64, 150e6), ("clustering", 320, 32, 250e6)],
)
def test_memory_does_not_grow_with_the_scan(work, side, pixels, most):
    size, growth = grown(work, side=side, pixels=pixels)
    assert size > 400e6
    assert growth < most, f"{work} grew by {growth / 1e6:.0f} MB"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are those of Linux")
def test_what_is_in_memory_would_be_noticed():
    size, growth = grown("ptychography", side=160, pixels=64, limited=False)
    assert growth > 0.8 * size
