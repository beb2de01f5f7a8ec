"""Ranges in numbers: floors of widths, signs, and what each limit follows."""

import math

import numpy as np
import pytest

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.geometry_estimate import GeometryEstimate
from hs_autoptycho.tuning.default_space import default_range, default_space, largest_defocus


def an_experiment(**changed):
    geometry = Geometry(
        **{
            "beam_energy": 80, "scan_shape": (20, 24), "detector_shape": (56, 64),
            "scan_step": 0.9, "reciprocal_pixel": 0.0625, "convergence_angle": 21.4,
            "disk_center": (28, 32), "disk_radius": 8.1, **changed,
        }
    )  # fmt: skip
    shape = (np.prod(geometry.scan_shape), *geometry.detector_shape)
    return Experiment(np.broadcast_to(np.ones((1, 1, 1), np.uint8), shape), geometry)


EXPERIMENT = an_experiment()
LIMIT = 0.6 / 0.0625 / 2 / (8.1 * 0.0625 * 0.0417572)  # Å, about 227
FLOOR = 0.02 * LIMIT  # of all lengths


def span(name, estimate=None, held=None, experiment=EXPERIMENT):
    found = default_range(name, experiment, estimate, held)
    return found.low, found.high


def about(middle, width):
    return pytest.approx((middle - width, middle + width), rel=1e-4)


def test_largest_defocus():
    assert largest_defocus(EXPERIMENT.geometry) == pytest.approx(LIMIT, rel=1e-5)
    assert span("defocus") == about(0, LIMIT)
    assert span("scan_rotation") == (-180, 180)


def test_widths_about_what_is_known_of_the_defocus():
    # three tenths of it, and of a small one the floor
    assert span("defocus", held={"defocus": 150.0}) == about(150, 45)
    assert span("defocus", held={"defocus": -150.0}) == about(-150, 45)
    assert span("defocus", held={"defocus": 5.0}) == about(5, FLOOR)
    # none is stated, or it is said to be in focus
    assert span("defocus", held={"defocus": 0.0}) == about(0, LIMIT)
    assert span("defocus", experiment=an_experiment(defocus=150.0)) == about(150, 45)


def test_widths_about_an_estimated_defocus():
    def found(defocus, error):
        return GeometryEstimate(defocus=defocus, defocus_error=error)

    assert span("defocus", found(120.0, 1.0)) == about(120, 36)
    assert span("defocus", found(120.0, 10.0)) == about(120, 50)
    assert span("defocus", found(-10.0, 0.5)) == about(-10, FLOOR)
    assert span("defocus", found(120.0, None)) == about(120, 36)
    assert span("defocus", found(120.0, math.nan)) == about(120, 36)
    assert span("defocus", found(120.0, math.inf)) == about(120, 36)
    assert span("defocus", found(math.nan, 1.0)) == about(0, LIMIT)


def test_widths_of_astigmatism():
    def found(value, error, defocus):
        return GeometryEstimate(defocus=defocus, defocus_error=1.0, C12a=value, C12a_error=error)

    assert span("C12a") == about(0, 0.2 * LIMIT)
    assert span("C12a", held={"defocus": 100.0}) == about(0, 20)
    assert span("C12a", held={"defocus": 10.0}) == about(0, FLOOR)
    assert span("C12a", found(7.0, 1.0, 150.0)) == about(7, 15)
    assert span("C12a", found(7.0, 4.0, 150.0)) == about(7, 20)
    assert span("C12a", found(7.0, 0.1, 20.0)) == about(7, FLOOR)
    assert span("C12b", found(7.0, 0.1, -150.0)) == about(0, 30)


def test_widths_of_the_rotation():
    def found(rotation, error):
        return GeometryEstimate(scan_rotation=rotation, scan_rotation_error=error)

    assert span("scan_rotation", found(20.0, 0.1)) == about(20, 8)
    assert span("scan_rotation", found(20.0, 2.0)) == about(20, 10)
    assert span("scan_rotation", found(None, 2.0)) == (-180, 180)


@pytest.mark.parametrize(
    ("rotation", "turned"), [(12.0, -168.0), (-12.0, 168.0), (150.0, -30.0), (0.0, -180.0)]
)
def test_the_opposite_defocus_turns_the_scan(rotation, turned):
    estimate = GeometryEstimate(
        scan_rotation=rotation, scan_rotation_error=0.1, defocus=100.0, defocus_error=1.0,
        C12a=5.0, C12a_error=1.0, C12b=-6.0, C12b_error=1.0,
    )  # fmt: skip
    for known, sign, middle in ((-100.0, -1, turned), (100.0, 1, rotation), (0.0, 1, rotation)):
        held = {"defocus": known}
        assert span("scan_rotation", estimate, held) == about(middle, 8)
        assert span("C12a", estimate, held) == about(5 * sign, 10)
        assert span("C12b", estimate, held) == about(-6 * sign, 10)
        assert span("defocus", estimate, held) == about(100 * sign, 30)


@pytest.mark.parametrize(
    ("stated", "sign"), [(102.0, 1), (102.5, -1), (-78.0, 1), (-78.5, -1), (372.0, 1), (191.0, -1)]
)
def test_a_stated_rotation_is_believed_before_a_stated_defocus(stated, sign):
    """Found were 12 degrees; a quarter of a turn is as near as the opposite."""
    estimate = GeometryEstimate(
        scan_rotation=12.0, scan_rotation_error=0.1, defocus=100.0, defocus_error=1.0
    )
    held = {"scan_rotation": stated, "defocus": -100.0 * sign}
    assert span("defocus", estimate, held) == about(100 * sign, 30)
    # a rotation alone says nothing where none was found
    nothing = GeometryEstimate(defocus=100.0, defocus_error=1.0)
    assert span("defocus", nothing, {"scan_rotation": stated}) == about(100, 30)


def test_slices_and_thickness():
    def names(held, wanted):
        return [d.name for d in default_space(EXPERIMENT, held, None, wanted)[0]]

    assert names({"n_slices": 1}, ["tilt_x"]) == ["tilt_x"]
    assert names({"n_slices": 2}, ["tilt_x"]) == ["tilt_x", "thickness"]
    assert names({"n_slices": 2, "thickness": 30.0}, ["tilt_x"]) == ["tilt_x"]
    assert names({}, ["tilt_x"]) == ["tilt_x"]
    assert names({}, ["thickness", "n_slices"]) == ["thickness", "n_slices"]


def test_the_usual_set_without_what_is_held():
    def names(held):
        return [d.name for d in default_space(EXPERIMENT, held)[0]]

    assert names({}) == ["scan_rotation", "defocus", "C12a", "C12b", "n_probe_modes"]
    assert names({"scan_rotation": 3.0, "C12a": 0.0}) == ["defocus", "C12b", "n_probe_modes"]
    assert names({"n_probe_modes": 2}) == ["scan_rotation", "defocus", "C12a", "C12b"]


def test_calibrations_within_five_percent():
    angle = 8.1 * 0.0625 * 41.7572
    assert span("convergence_angle") == pytest.approx((0.95 * angle, 1.05 * angle), rel=1e-4)
    assert span("scan_step", held={"scan_step": 2.0}) == pytest.approx((1.9, 2.1))
    assert span("source_size", held={"scan_step": 2.0}) == (0, 2)


def test_thickness_where_the_detector_reaches_far():
    """Never below 5 Å, and up to 500 Å or ten times the depth resolution."""
    edge = 28 * 0.0625
    assert span("thickness") == pytest.approx((1 / (0.0417572 * edge**2), 500), rel=1e-4)
    wide = an_experiment(reciprocal_pixel=0.125, convergence_angle=42.3)
    assert span("thickness", experiment=wide) == (5, 500)
    narrow = an_experiment(reciprocal_pixel=0.01, scan_step=5.0, convergence_angle=3.4)
    thinnest = 1 / (0.0417572 * 0.28**2)
    assert span("thickness", experiment=narrow) == pytest.approx(
        (thinnest, 10 * thinnest), rel=1e-4
    )


def test_steps_of_algorithms():
    assert span("step_object", held={"algorithm": "gradient"}) == (0.1, 1.5)
    assert span("step_probe", held={"algorithm": "epie"}) == (0.03, 1.0)
    assert default_range("step_object", EXPERIMENT, None, {"algorithm": "rpie"}).log


def test_batches():
    assert span("batch_size") == (5, 80)
    assert span("batch_size", held={"algorithm": "rpie"}) == (1, 16)
    assert span("batch_size", experiment=an_experiment(scan_shape=(2, 2)))[1] == 4


def test_notes_on_rotation_and_defocus():
    def notes(estimate=None, held=None, wanted=()):
        return default_space(EXPERIMENT, held or {}, estimate, wanted)[1]

    (note,) = notes()
    assert f"(defocus up to {LIMIT:.4g} Å, where" in note
    (note,) = notes(held={"defocus": 100.0})
    assert note.endswith("the whole range is searched.")
    assert notes(wanted=["n_probe_modes"]) == []
    found = GeometryEstimate(scan_rotation=12.0, defocus=150.0)
    (note,) = notes(found)
    assert "rotation of 12.0 degrees and a defocus of 150 Å" in note
    assert '"scan_rotation": -168.0' in note
    # one of the two alone
    assert notes(GeometryEstimate(scan_rotation=12.0)) == []
    assert notes(GeometryEstimate(defocus=150.0)) == []
