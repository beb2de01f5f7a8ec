"""Beliefs in numbers: widths, turns and limits."""

import math

import pytest

from hs_autoptycho.ptycho.geometry_estimate import GeometryEstimate
from hs_autoptycho.tuning.beliefs import oriented, with_beliefs
from hs_autoptycho.tuning.space import Dimension

ROTATION = Dimension("scan_rotation", -180.0, 180.0)
DEFOCUS = Dimension("defocus", -500.0, 500.0)
ASTIGMATISM = Dimension("C12a", -50.0, 50.0)


def belief(d, others=(), **found):
    dimensions, _, _ = with_beliefs([d, *others], GeometryEstimate(**found))
    return dimensions[0].prior


def test_three_standard_errors_and_a_floor():
    assert belief(ROTATION, scan_rotation=10.0, scan_rotation_error=0.2) == (10.0, 0.6)
    for error in (0.1, None, math.nan, math.inf):
        assert belief(ROTATION, scan_rotation=10.0, scan_rotation_error=error) == (10.0, 0.5)
    width = math.hypot(3 * 4, 0.02 * 300)
    assert belief(DEFOCUS, defocus=-300.0, defocus_error=4.0) == pytest.approx((-300, width))
    assert belief(DEFOCUS, defocus=300.0) == pytest.approx((300, 6))
    width = math.hypot(3 * 2, 0.04 * 300)
    assert belief(ASTIGMATISM, C12a=7.0, C12a_error=2.0, defocus=300.0) == pytest.approx(
        (7, width), rel=1e-5
    )
    # nothing at all is known of the width
    assert belief(ASTIGMATISM, C12a=7.0) == (7.0, 1.0)


def test_lengths_are_known_as_well_as_the_step_of_the_scan():
    scale, modes = Dimension("scan_scale", 0.9, 1.1), Dimension("n_probe_modes", choices=(1, 2))
    found = belief(DEFOCUS, [scale, modes], defocus=300.0)
    assert found == pytest.approx((300, math.hypot(6, 0.1 * 300)), rel=1e-5)
    step = Dimension("scan_step", 1.0, 3.0)
    assert belief(DEFOCUS, [scale, step], defocus=300.0)[1] == pytest.approx(
        math.hypot(6, 0.5 * 300), rel=1e-5
    )
    shear = Dimension("scan_shear", 1.0, 3.0)
    assert belief(DEFOCUS, [shear], defocus=300.0)[1] == pytest.approx(6)
    assert belief(ROTATION, [scale], scan_rotation=10.0)[1] == 0.5


@pytest.mark.parametrize(
    ("low", "high", "value", "expected"),
    [
        (0.0, 360.0, -20.0, 340.0), (-360.0, 0.0, 20.0, -340.0), (-180.0, 180.0, 20.0, 20.0),
        (20.0, 60.0, 20.0, 20.0), (-60.0, 20.0, 20.0, 20.0), (300.0, 340.0, -20.0, 340.0),
    ],
)  # fmt: skip
def test_whole_turns(low, high, value, expected):
    d = Dimension("scan_rotation", low, high)
    assert belief(d, scan_rotation=value) == (expected, 0.5)
    _, (start,), notes = with_beliefs([d], GeometryEstimate(scan_rotation=value))
    assert start == {"scan_rotation": expected} and not notes


def test_the_start():
    modes = Dimension("n_probe_modes", choices=(1, 2, 4))
    listed = Dimension("scan_rotation", choices=(0.0, 10.0, 20.0))
    own = Dimension("C12a", -50.0, 50.0, prior=(3.0, 4.0))
    shear = Dimension("scan_shear", -3.0, 3.0)
    estimate = GeometryEstimate(scan_rotation=12.0, C12a=20.0, defocus=1234.5678)
    dimensions, (start,), _ = with_beliefs(
        [modes, listed, own, shear, Dimension("defocus", 0.0, 2000.0)], estimate
    )
    # a list has no belief, and somebody's own belief stays
    assert [d.prior for d in dimensions[:4]] == [None, None, (3.0, 4.0), None]
    assert dimensions[4].prior == (1234.57, pytest.approx(0.02 * 1234.5678, rel=1e-5))
    assert start == {
        "n_probe_modes": 2, "scan_rotation": 10.0, "C12a": 20.0, "scan_shear": 0.0,
        "defocus": 1234.57,
    }  # fmt: skip
    assert with_beliefs([modes, shear], estimate) == ([modes, shear], [], [])
    outside = [Dimension("defocus", 0.0, 100.0)]
    assert with_beliefs(outside, estimate)[:2] == (outside, [])
    # at a limit it is inside
    for low, high in ((1234.57, 2000.0), (0.0, 1234.57)):
        assert with_beliefs([Dimension("defocus", low, high)], estimate)[1]


def test_the_conjugate():
    estimate = GeometryEstimate(scan_rotation=30.0, defocus=100.0, C12a=5.0)
    negative = Dimension("defocus", -500.0, 0.0)
    found = oriented(estimate, [negative])
    assert (found.scan_rotation, found.defocus, found.C12a) == (-150.0, -100.0, -5.0)
    assert found.C12b is None
    assert oriented(estimate, [DEFOCUS]) is estimate
    # neither fits
    assert oriented(estimate, [negative, Dimension("scan_rotation", 0.0, 90.0)]) is estimate
    # a list is no range
    assert oriented(estimate, [Dimension("defocus", choices=(-100.0, -50.0))]) is estimate
    for rotation, turned in ((-30.0, 150.0), (180.0, 0.0), (0.0, -180.0)):
        found = oriented(GeometryEstimate(scan_rotation=rotation, defocus=9.0), [negative])
        assert found.scan_rotation == turned
    assert oriented(GeometryEstimate(defocus=9.0), [negative]).scan_rotation is None
