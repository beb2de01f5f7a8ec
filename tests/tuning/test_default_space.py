"""The ranges that are searched where nobody gave any."""

import numpy as np
import pytest

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.data import twisted_bilayer_mos2
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.tuning.default_space import default_space, largest_defocus


@pytest.fixture(scope="module")
def experiment():
    scan = twisted_bilayer_mos2(scan_shape=(20, 24), detector_shape=(56, 64))
    geometry = Geometry(
        beam_energy=80,
        scan_shape=(20, 24),
        detector_shape=(56, 64),
        scan_step=0.9,
        reciprocal_pixel=0.0625,
        convergence_angle=21.4,
        disk_center=(28, 32),
        disk_radius=8.1,
    )
    return Experiment(scan.data.reshape(-1, 56, 64), geometry)


def ranges(dimensions):
    return {d.name: (d.low, d.high) for d in dimensions}


def test_ranges_hold_the_truth_and_are_narrow(experiment):
    dimensions, notes = default_space(experiment, {})
    found = ranges(dimensions)
    assert found["scan_rotation"][0] < 12 < found["scan_rotation"][1]
    assert np.ptp(found["scan_rotation"]) < 30
    assert found["defocus"][0] < 200 < found["defocus"][1]
    assert any("rotation" in note for note in notes)


def test_what_is_held_is_not_tuned_and_decides_the_sign(experiment):
    dimensions, _ = default_space(experiment, {"defocus": -200.0})
    found = ranges(dimensions)
    assert set(found) == {"scan_rotation"}
    assert found["scan_rotation"][0] < -168 < found["scan_rotation"][1]
    dimensions, _ = default_space(experiment, {"scan_rotation": -168.0})
    found = ranges(dimensions)
    assert set(found) == {"defocus"}
    assert found["defocus"][0] < -200 < found["defocus"][1] < 0


def test_without_motion_everything_is_searched(experiment):
    noise = np.random.default_rng(0).poisson(3, size=experiment.counts.shape).astype(np.uint8)
    dimensions, notes = default_space(experiment.with_counts(noise), {})
    limit = largest_defocus(experiment.geometry)
    assert ranges(dimensions) == {
        "scan_rotation": (-180, 180),
        "defocus": pytest.approx((-limit, limit), rel=1e-4),
    }
    assert any("no motion" in note for note in notes)


def test_largest_defocus_still_fits_the_window(experiment):
    limit = largest_defocus(experiment.geometry)
    diameter = 2 * limit * experiment.geometry.measured_convergence_angle * 1e-3
    assert diameter == pytest.approx(0.6 / 0.0625)
