"""What was measured, as beliefs and a starting point."""

from dataclasses import replace

import pytest

from hs_autoptycho.ptycho.geometry_estimate import GeometryEstimate
from hs_autoptycho.tuning.beliefs import oriented, with_beliefs
from hs_autoptycho.tuning.space import Dimension

MEASURED = GeometryEstimate(
    scan_rotation=-120.0,
    scan_rotation_error=0.1,
    defocus=300.0,
    defocus_error=2.0,
    C12a=20.0,
    C12a_error=3.0,
    C12b=-10.0,
    C12b_error=3.0,
    detector_flip="none",
    residual=0.1,
    alternatives=(),
    notes=(),
)


def space(rotation=(-180.0, 180.0), defocus=(-500.0, 500.0)):
    return [
        Dimension("scan_rotation", *rotation),
        Dimension("defocus", *defocus),
        Dimension("C12a", -50.0, 50.0),
        Dimension("scan_scale", 0.97, 1.03),
        Dimension("n_probe_modes", choices=(1, 2, 4)),
    ]


def test_the_start_is_what_was_measured_and_the_middle_of_the_rest():
    dimensions, [start], notes = with_beliefs(space(), MEASURED)
    assert start == {
        "scan_rotation": -120.0,
        "defocus": 300.0,
        "C12a": 20.0,
        "scan_scale": pytest.approx(1.0),
        "n_probe_modes": 2,
    }
    assert not notes
    priors = {d.name: d.prior for d in dimensions}
    assert priors["scan_rotation"] == (-120.0, 0.5)
    # the scan's length is known to 3 %, and so is what is measured in its steps
    assert priors["defocus"] == (300.0, pytest.approx((6**2 + 6**2 + 9**2) ** 0.5, rel=1e-3))
    assert priors["scan_scale"] is None and priors["n_probe_modes"] is None


def width(name, estimate, dimensions=None):
    dimensions = with_beliefs(dimensions or space(), estimate)[0]
    return next(d.prior[1] for d in dimensions if d.name == name)


def test_widths_are_standard_errors_or_floors():
    sure = replace(MEASURED, scan_rotation_error=1.0, defocus_error=50.0, C12a_error=30.0)
    assert width("scan_rotation", sure) == pytest.approx(3)
    # beside 2 % of the defocus, 4 % of it for the astigmatism, and 3 % of each by the scan's length
    assert width("defocus", sure) == pytest.approx((150**2 + 6**2 + 9**2) ** 0.5, rel=1e-5)
    assert width("C12a", sure) == pytest.approx((90**2 + 12**2 + 0.6**2) ** 0.5, rel=1e-5)
    for unknown in (None, float("inf")):
        vague = replace(MEASURED, defocus_error=unknown, scan_rotation_error=unknown)
        assert width("scan_rotation", vague) == 0.5
        assert width("defocus", vague) == pytest.approx((6**2 + 9**2) ** 0.5, rel=1e-5)


def test_the_length_of_the_scan_counts_where_it_is_tuned():
    without = [d for d in space() if d.name != "scan_scale"]
    assert width("defocus", MEASURED, without) == pytest.approx(72**0.5, rel=1e-5)
    step = [*without, Dimension("scan_step", 0.4, 0.6)]
    assert width("defocus", MEASURED, step) == pytest.approx((72 + 60**2) ** 0.5, rel=1e-5)
    # a defocus of nothing, exactly: still no belief without a width
    nought = replace(MEASURED, defocus=0.0, defocus_error=None)
    assert width("defocus", nought) == 1


def test_a_users_belief_stays():
    dimensions = [replace(space()[0], prior=(-90.0, 9.0)), *space()[1:]]
    dimensions, [start], _ = with_beliefs(dimensions, MEASURED)
    assert dimensions[0].prior == (-90.0, 9.0) and start["scan_rotation"] == -120.0


@pytest.mark.parametrize(
    "ranges, rotation, sign",
    [
        ({}, -120.0, 1),
        ({"rotation": (0.0, 180.0)}, 60.0, -1),
        ({"defocus": (-500.0, 0.0)}, 60.0, -1),
        ({"rotation": (200.0, 300.0)}, -120.0, 1),  # the same as -120 is within
    ],
)
def test_the_conjugate_is_taken_where_only_it_fits(ranges, rotation, sign):
    found = oriented(MEASURED, space(**ranges))
    assert (found.scan_rotation, found.defocus) == (rotation, sign * 300.0)
    assert (found.C12a, found.C12b) == (sign * 20.0, -sign * 10.0)


def test_a_range_beyond_180_degrees():
    dimensions, [start], _ = with_beliefs(space(rotation=(200.0, 300.0)), MEASURED)
    assert start["scan_rotation"] == 240.0 and dimensions[0].prior[0] == 240.0


def test_what_lies_outside_is_said_and_not_used():
    ranges = space(rotation=(-20.0, 20.0))
    assert oriented(MEASURED, ranges) == MEASURED
    dimensions, start, notes = with_beliefs(ranges, MEASURED)
    assert dimensions == ranges and start == [] and "outside" in notes[0]


def test_nothing_was_measured():
    nothing = replace(MEASURED, **{n: None for n in ("scan_rotation", "defocus", "C12a", "C12b")})
    dimensions, start, notes = with_beliefs(space(), nothing)
    assert dimensions == space() and start == [] and notes == []
