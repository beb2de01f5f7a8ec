"""estimate_geometry of HyperSpy signals."""

import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho._scan import read_scan
from hs_autoptycho.data import twisted_bilayer_mos2
from hs_autoptycho.ptycho.geometry_estimate import STEPS, estimate
from hs_autoptycho.ptycho.parameters import ParameterError


@pytest.fixture(scope="module")
def scan():
    return twisted_bilayer_mos2(scan_shape=(20, 24), scan_rotation=33.0, defocus=150.0)


@pytest.fixture(scope="module")
def found(scan):
    return hs_autoptycho.estimate_geometry(scan)


def test_simulated_scan(found):
    assert found.scan_rotation == pytest.approx(33, abs=0.5)
    assert found.defocus == pytest.approx(145, abs=8)
    assert found.detector_flip == "none"


def test_lazy(scan, found):
    assert hs_autoptycho.estimate_geometry(scan.as_lazy(), show_progressbar=False) == found


def test_what_is_known_of_the_recording(scan, found):
    mask = np.ones(scan.data.shape[2:], bool)
    mask[30, 30] = False
    spoilt = scan.deepcopy()
    spoilt.data[:, :, 30, 30] = 200
    other = hs_autoptycho.estimate_geometry(
        spoilt, detector_mask=mask, background=0.0, disk_center=(32, 32), disk_radius=8.2,
        detector_flip="both", num_workers=1,
    )  # fmt: skip
    assert other.detector_flip == "both"
    assert other.scan_rotation == pytest.approx(33 - 180, abs=0.5)
    assert other.defocus == pytest.approx(found.defocus, rel=0.05)


def test_lengths_take_precedence(scan, found):
    other = hs_autoptycho.estimate_geometry(scan, scan_step=0.91)
    assert other.defocus != found.defocus
    assert other.defocus == pytest.approx(found.defocus, rel=0.1)


def test_errors(scan):
    with pytest.raises(ParameterError, match="detector_flip"):
        hs_autoptycho.estimate_geometry(scan, detector_flip="sideways")
    with pytest.raises(TypeError):
        hs_autoptycho.estimate_geometry(scan, defocuss=3)


def test_progress(scan):
    experiment = read_scan(scan, {"scan_rotation": 0.0}, False).experiment
    steps = []
    estimate(experiment, progress=lambda: steps.append(1))
    assert len(steps) == STEPS


def test_the_signal_is_left_as_it_is(scan):
    before = scan.data.copy(), scan.metadata.as_dictionary()
    hs_autoptycho.estimate_geometry(scan)
    assert (scan.data == before[0]).all() and scan.metadata.as_dictionary() == before[1]


def test_real_scan(shared_data):
    """Independent measurements: -120.4 ± 1 degrees, 133 to 139 thousand Å on the two axes."""
    import hyperspy.api as hs

    found = hs_autoptycho.estimate_geometry(hs.load(shared_data / "rotavirus_A.hspy", lazy=True))
    assert found.scan_rotation == pytest.approx(-120.4, abs=1)
    assert found.scan_rotation_error < 1
    assert 130e3 < found.defocus < 140e3 and found.defocus_error < 3e3
    assert np.hypot(found.C12a, found.C12b) < 0.04 * found.defocus
    assert found.detector_flip == "none" and not found.alternatives
    assert found.residual < 0.2
    assert any("centres of mass agree" in note for note in found.notes)
