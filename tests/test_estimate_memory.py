"""`estimate_memory` and the refusals of `reconstruct_ptycho`, from their front door."""

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho._scan import read_scan
from hs_autoptycho.data import twisted_bilayer_mos2
from hs_autoptycho.ptycho import memory
from hs_autoptycho.ptycho.loading import DataError
from hs_autoptycho.ptycho.memory import MemoryPlan, NotEnoughMemoryError
from hs_autoptycho.ptycho.parameters import ParameterError, check_parameters

pytestmark = pytest.mark.usefixtures("one_thread")

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}


@pytest.fixture(scope="module")
def scan():
    return twisted_bilayer_mos2(scan_shape=(6, 8), detector_shape=(48, 64), **TRUE)


def unreadable(like, shape=None):
    """A lazy signal that fails when any of it is read."""

    def chunk(block_info=None):
        raise AssertionError("a chunk was read")

    shape = like.data.shape if shape is None else shape
    chunks = tuple((n,) for n in shape)
    data = da.map_blocks(
        chunk, chunks=chunks, dtype=like.data.dtype, meta=np.empty((0,) * 4, like.data.dtype)
    )
    axes = [
        {**axis, "size": n}
        for axis, n in zip(like.axes_manager._get_axes_dicts(), shape, strict=True)
    ]
    return hs.signals.Signal2D(data, axes=axes, metadata=like.metadata.as_dictionary()).as_lazy()


OPTIONS = [
    {},
    {"n_slices": 5, "thickness": 50, "n_probe_modes": 3},
    {"algorithm": "gradient"},
    {"detector_flip": "transpose-rows"},
    {"algorithm": "epie", "n_slices": 2, "thickness": 10.0},
    {"momentum": 0.5, "coarse_iterations": 3, "early_stopping": 2, "n_variable_modes": 2},
    {"scan_step": 3.0, "grid_correction_start": 2, "batch_size": 7, "regularization_tv": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_the_plan_of_the_reconstruction(scan, options):
    estimate = hs_autoptycho.estimate_memory(scan, **TRUE, **options)
    assert isinstance(estimate, MemoryPlan)
    parameters = check_parameters({**TRUE, **options})
    experiment = read_scan(scan, parameters, False).experiment
    assert experiment.plan_memory(experiment.complete(parameters)) == estimate


def test_nothing_is_read(scan):
    lazy = unreadable(scan)
    with pytest.raises(AssertionError, match="a chunk was read"):
        lazy.reconstruct_ptycho(**TRUE)
    assert hs_autoptycho.estimate_memory(lazy, **TRUE) == hs_autoptycho.estimate_memory(
        scan, **TRUE
    )


def test_options_of_a_call_may_all_be_given(scan):
    plain = hs_autoptycho.estimate_memory(scan)
    assert plain == hs_autoptycho.estimate_memory(
        scan, n_iterations=9, random_state=3, show_progressbar=False, num_workers=1,
        disk_radius=8.0, disk_center=(24, 32), background=0.1, defocus=100, scan_rotation=0.0,
    )  # fmt: skip


def test_more_takes_more(scan):
    sizes = [
        hs_autoptycho.estimate_memory(scan, n_slices=n, thickness=10.0 * n).total
        for n in (1, 4, 20)
    ]
    assert sizes == sorted(sizes) and sizes[2] > sizes[0]
    huge = unreadable(scan, (2048, 2048, 48, 64))
    plan = hs_autoptycho.estimate_memory(huge)
    assert plan.patterns >= huge.data.nbytes


def test_wrong_options(scan):
    with pytest.raises(TypeError, match="'n_slice'.*Did you mean 'n_slices'"):
        hs_autoptycho.estimate_memory(scan, n_slice=3)
    with pytest.raises(ParameterError, match="n_slices=0"):
        hs_autoptycho.estimate_memory(scan, n_slices=0)


def test_a_reconstruction_is_refused_before_it_begins(scan, monkeypatch):
    from hs_autoptycho.ptycho import solver

    def never(*args, **options):
        raise AssertionError("it began")

    monkeypatch.setattr(solver._Run, "__init__", never)
    monkeypatch.setattr(memory, "available_memory", lambda: int(20e6))
    with pytest.raises(NotEnoughMemoryError, match=r"needs 0\.\d\d GB.*0\.02 GB are free.*slices"):
        scan.reconstruct_ptycho(**TRUE, n_slices=100, thickness=300.0)
    monkeypatch.setattr(memory, "available_memory", lambda: int(20e9))
    with pytest.raises(AssertionError, match="it began"):
        scan.reconstruct_ptycho(**TRUE, n_slices=100, thickness=300.0)


def test_a_chunk_that_is_too_large_is_not_read(scan, monkeypatch):
    huge = unreadable(scan, (2048, 2048, 48, 64))  # 26 GB, in a single chunk
    monkeypatch.setattr(memory, "available_memory", lambda: int(16e9))
    message = r"have 25\.77 GB.*16\.00 GB are free.*largest chunk has 25\.77 GB.*rechunk.*inav"
    with pytest.raises(NotEnoughMemoryError, match=message):
        huge.reconstruct_ptycho(**TRUE)
    huge.rechunk(nav_chunks=(64, 64))
    with pytest.raises(AssertionError, match="a chunk was read"):
        huge.reconstruct_ptycho(**TRUE)
    # a part of it at a time
    plan = hs_autoptycho.estimate_memory(huge, **TRUE)
    assert plan.patterns < 2e9 and plan.total < 16e9


def test_the_plan_is_logged(scan, caplog):
    with caplog.at_level("INFO", logger="hs_autoptycho"):
        scan.reconstruct_ptycho(**TRUE, n_iterations=1)
    assert str(hs_autoptycho.estimate_memory(scan, **TRUE)) in caplog.text


def test_rotation_of_the_metadata_and_flips_count(scan):
    long = unreadable(scan, (6, 80, 48, 64))
    for turned in ({}, {"detector_flip": "transpose-rows"}):
        expected = hs_autoptycho.estimate_memory(long, defocus=120, scan_rotation=45, **turned)
        assert expected != hs_autoptycho.estimate_memory(long, defocus=120, **turned)
        long.metadata.set_item("Acquisition_instrument.TEM.scan_rotation", 45.0)
        assert hs_autoptycho.estimate_memory(long, defocus=120, **turned) == expected
        long.metadata.Acquisition_instrument.TEM.scan_rotation = 0.0


def test_what_are_no_numbers(scan):
    colours = scan.deepcopy()
    colours.data = np.zeros(scan.data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match="have to be real numbers"):
        hs_autoptycho.estimate_memory(colours, **TRUE)
    with pytest.raises(DataError, match="have to be real numbers"):
        colours.reconstruct_ptycho(**TRUE)
