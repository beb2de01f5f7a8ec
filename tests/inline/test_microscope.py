"""The simulated microscope: what was asked for, what was done, what is remembered."""

import numpy as np
import pytest

from hs_autoptycho.data import SimulatedMicroscope, ground_truth, twisted_bilayer_mos2


def test_a_scan_is_off_and_says_what_was_asked(scan):
    truth = scan.metadata.Simulation
    assert scan.data.shape == (20, 22, 44, 48)
    assert truth.defocus == 300 and truth.scan_rotation == 5
    assert truth.asked.defocus == 200 and truth.asked.scan_rotation == 0
    microscope_ = scan.metadata.Acquisition_instrument.TEM
    assert (microscope_.probe_defocus, microscope_.scan_rotation) == (200, 0)
    assert scan.axes_manager[0].scale == 0.9
    assert ground_truth(scan).data.std() > 0


def test_without_faults_it_is_the_scan_simulation(microscope):
    settings = {"scan_shape": (4, 5), "dose": 1e9}
    exact = microscope(settings=settings, offsets={}, drift={}, stage_drift=0).acquire()
    other = twisted_bilayer_mos2(
        scan_shape=(4, 5), detector_shape=(44, 48), scan_step=0.9, scan_rotation=0, dose=None
    )
    expected = other.data * 1e9 * 0.81
    np.testing.assert_allclose(exact.data.sum(), expected.sum(), rtol=1e-4)
    assert np.corrcoef(exact.data.ravel(), expected.ravel())[0, 1] > 0.99999


def test_drift_from_scan_to_scan_is_that_of_the_seed(microscope):
    a, b, c = (microscope(drift={"defocus": 5}, random_state=s) for s in (1, 1, 2))
    walk = [a.offset("defocus", n) for n in range(6)]
    assert walk[0] == 100 and len(set(walk)) == 6
    assert walk == [b.offset("defocus", n) for n in range(6)]
    assert walk[1:] != [c.offset("defocus", n) for n in range(1, 6)]
    assert [a.offset("scan_rotation", n) for n in range(3)] == [5] * 3
    steps = np.diff([microscope(random_state=3).offset("defocus", n) for n in range(60)])
    assert 3.5 < steps.std() < 6.5


def test_scans_are_reproducible_in_their_order(microscope):
    settings = {"scan_shape": (4, 5)}
    one, other = (microscope(settings=settings) for _ in range(2))
    first, second = one.acquire(), one.acquire()
    np.testing.assert_array_equal(first.data, other.acquire().data)
    np.testing.assert_array_equal(second.data, other.acquire({"defocus": 200}).data)
    assert not np.array_equal(first.data, second.data)


def test_the_stage_drifts_during_a_scan(microscope):
    settings = {"scan_shape": (4, 5), "dose": 1e9}
    still = microscope(settings=settings, stage_drift=0).acquire().data.astype(float)
    fast = microscope(settings=settings, stage_drift=30.0).acquire().data.astype(float)
    change = np.abs(fast - still).sum((2, 3)).ravel()
    middle = len(change) // 2
    assert change[0] > 3 * change[middle] and change[-1] > 3 * change[middle]


def test_frames_are_rows_of_the_same_scan(microscope):
    settings = {"scan_shape": (4, 5)}
    rows = list(microscope(settings=settings).frames(defocus=150, real_time=True))
    scan = microscope(settings=settings).acquire(defocus=150)
    np.testing.assert_array_equal(np.array(rows), scan.data)


def test_errors():
    with pytest.raises(TypeError, match="unknown setting 'focus'"):
        SimulatedMicroscope().acquire(focus=3)
    with pytest.raises(TypeError, match="unknown offsets 'dose'"):
        SimulatedMicroscope(offsets={"dose": 1})
    with pytest.raises(ValueError, match="does not fit its window"):
        SimulatedMicroscope().acquire(defocus=900)
    with pytest.raises(ValueError, match="dwell_time"):
        SimulatedMicroscope(dwell_time=0)
    with pytest.raises(ValueError, match="stage_drift"):
        SimulatedMicroscope(stage_drift=-1)
