"""The ranges that are searched where nobody gave any."""

import dataclasses

import numpy as np
import pytest

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.geometry_estimate import GeometryEstimate
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError
from hs_autoptycho.ptycho.stages import check_together
from hs_autoptycho.tuning.couplings import DEGENERATE_PAIRS
from hs_autoptycho.tuning.default_space import (
    DEFAULT_SET,
    default_range,
    default_space,
    largest_defocus,
)
from hs_autoptycho.tuning.space import read_space

TUNABLE = [name for name, parameter in PARAMETERS.items() if parameter.tunable]


def geometry(**changed):
    return Geometry(
        **{
            "beam_energy": 80,
            "scan_shape": (20, 24),
            "detector_shape": (56, 64),
            "scan_step": 0.9,
            "reciprocal_pixel": 0.0625,
            "convergence_angle": 21.4,
            "disk_center": (28, 32),
            "disk_radius": 8.1,
            **changed,
        }
    )


def an_experiment(**changed):
    g = geometry(**changed)
    shape = (np.prod(g.scan_shape), *g.detector_shape)
    return Experiment(np.broadcast_to(np.ones((1, 1, 1), np.uint8), shape), g)


@pytest.fixture(scope="module")
def experiment():
    return an_experiment()


FOUND = GeometryEstimate(
    scan_rotation=12.0, scan_rotation_error=0.3, defocus=200.0, defocus_error=5.0,
    C12a=30.0, C12a_error=2.0, C12b=-11.0, C12b_error=4.0,
)  # fmt: skip


def ranges(dimensions):
    return {d.name: (d.low, d.high) for d in dimensions if not d.choices}


def middles(dimensions):
    return {name: np.mean(limits) for name, limits in ranges(dimensions).items()}


def test_what_was_measured_is_in_the_middle(experiment):
    dimensions, notes = default_space(experiment, {}, FOUND)
    assert [d.name for d in dimensions] == list(DEFAULT_SET)
    assert middles(dimensions) == pytest.approx(
        {"scan_rotation": 12, "defocus": 200, "C12a": 30, "C12b": -11}
    )
    found = ranges(dimensions)
    assert np.ptp(found["scan_rotation"]) < 30
    assert np.ptp(found["defocus"]) < 300
    assert dimensions[-1].choices == (1, 2, 4)
    assert any("rotation of 12.0" in note and "-168.0" in note for note in notes)


def test_ranges_are_as_wide_as_the_errors_ask_for(experiment):
    wide = GeometryEstimate(
        scan_rotation=0.0, scan_rotation_error=9.0, defocus=200.0, defocus_error=90.0
    )
    found = ranges(default_space(experiment, {}, wide)[0])
    assert np.ptp(found["scan_rotation"]) == pytest.approx(90)
    assert np.ptp(found["defocus"]) == pytest.approx(900)


def test_what_is_held_is_not_tuned_and_decides_the_sign(experiment):
    found = middles(default_space(experiment, {"defocus": -200.0}, FOUND)[0])
    assert found == pytest.approx({"scan_rotation": -168, "C12a": -30, "C12b": 11})
    found = middles(default_space(experiment, {"scan_rotation": -160.0}, FOUND)[0])
    assert found == pytest.approx({"defocus": -200, "C12a": -30, "C12b": 11})
    # and so does a defocus that the metadata state
    found = middles(default_space(an_experiment(defocus=-180.0), {}, FOUND)[0])
    assert (found["scan_rotation"], found["defocus"]) == pytest.approx((-168, -200))


@pytest.mark.parametrize(
    "nothing", [None, GeometryEstimate()], ids=["no estimate", "found nothing"]
)
def test_without_motion_everything_is_searched(experiment, nothing):
    dimensions, notes = default_space(experiment, {}, nothing)
    limit = largest_defocus(experiment.geometry)
    found = ranges(dimensions)
    assert found["scan_rotation"] == (-180, 180)
    assert found["defocus"] == pytest.approx((-limit, limit), rel=1e-4)
    assert found["C12a"][0] == -found["C12a"][1] < 0
    assert any("no motion" in note for note in notes)


def test_a_stated_defocus_is_a_middle_too():
    found = ranges(default_space(an_experiment(defocus=150.0), {}, None)[0])
    assert np.mean(found["defocus"]) == pytest.approx(150)
    assert found["defocus"][0] > 0


def test_one_of_two_that_are_alike_is_held(experiment, monkeypatch):
    names = [d.name for d in default_space(experiment, {}, FOUND)[0]]
    pairs = [{first, second} for first, second, _ in DEGENERATE_PAIRS]
    assert not any(pair <= set(names) for pair in pairs)
    monkeypatch.setitem(DEFAULT_SET, "scan_scale", None)
    assert "scan_scale" not in [d.name for d in default_space(experiment, {}, FOUND)[0]]
    held = {"defocus": 200.0}
    assert "scan_scale" in [d.name for d in default_space(experiment, held, FOUND)[0]]


def test_both_are_tuned_where_both_were_asked_for(experiment):
    dimensions, notes = default_space(experiment, {}, FOUND, ["scan_scale", "defocus"])
    assert [d.name for d in dimensions] == ["scan_scale", "defocus"]
    assert any("scan_scale" in note and "hardly" in note for note in notes)


def test_slices_come_with_their_thickness(experiment):
    dimensions, _ = default_space(experiment, {}, FOUND, ["n_slices"])
    assert [d.name for d in dimensions] == ["n_slices", "thickness"]
    dimensions, _ = default_space(experiment, {"thickness": 40.0}, FOUND, ["n_slices"])
    assert [d.name for d in dimensions] == ["n_slices"]


@pytest.mark.parametrize(
    "changed",
    [{}, {"scan_shape": (2, 3)},
     {"beam_energy": 300, "scan_step": 31.0, "reciprocal_pixel": 3e-4, "disk_radius": 9.0,
      "convergence_angle": 0.06}],
    ids=["usual", "tiny", "large field"],
)  # fmt: skip
@pytest.mark.parametrize("name", TUNABLE)
def test_every_parameter_has_a_range_that_can_be_searched(name, changed):
    experiment = an_experiment(**changed)
    dimension = default_range(name, experiment, FOUND, {})
    if dimension.choices:
        description = list(dimension.choices)
        assert len(description) > 1
    else:
        description = (dimension.low, dimension.high, *(["log"] if dimension.log else []))
    assert read_space({name: description})[0] == [dimension]
    others = {"n_slices": 2, "n_probe_modes": 2, "thickness": 30.0, "aperture": "disk"}
    others.pop(name, None)
    if name == "n_slices":
        others["thickness"] = 30.0
    for place in (0, 0.5, 1):
        values = experiment.complete({"defocus": 200.0, **others, name: dimension.value(place)})
        check_together(values, counted=True)


def test_aberrations_turn_the_phase_at_the_edge_once(experiment):
    """χ = 2π/λ · C αⁿ/n at the aperture's edge, 8.1 pixels from the middle, is 2π."""
    wavelength, angle = 0.0417572, 8.1 * 0.0625 * 0.0417572
    for name, order in (("C21a", 3), ("C23b", 3), ("C30", 4)):
        found = default_range(name, experiment)
        assert found.high * angle**order / order / wavelength == pytest.approx(1, rel=1e-3)
        assert found.low == -found.high
    spread = default_range("focal_spread", experiment)
    assert spread.low == 0
    assert spread.high * angle**2 / 2 / wavelength == pytest.approx(1, rel=1e-3)
    # a small angle has a large depth of focus, but no beam has such a spread
    small = an_experiment(reciprocal_pixel=0.01, scan_step=5.0, convergence_angle=3.4)
    assert default_range("focal_spread", small).high == 500


def test_ranges_follow_what_the_detector_reaches(experiment):
    edge = 28 * 0.0625  # 1/Å along the shorter side
    bandwidth = default_range("regularization_bandwidth", experiment)
    assert (bandwidth.low, bandwidth.high) == pytest.approx((edge / 2, edge), rel=1e-3)
    wide = an_experiment(disk_radius=4.0, convergence_angle=10.4)
    # twice the aperture, as far as interference reaches
    assert default_range("regularization_bandwidth", wide).low == pytest.approx(0.5, rel=1e-3)
    depth = default_range("regularization_depth", experiment)
    assert depth.high == pytest.approx(1 / (8.1 * 0.0625 * 0.0417572), rel=1e-3)
    assert depth.log and depth.low == pytest.approx(0.1)
    # the depth resolution 1 / (λ k²), where it is more than a few Å
    assert default_range("thickness", experiment).low == pytest.approx(
        1 / (0.0417572 * edge**2), rel=1e-3
    )
    coarse = an_experiment(reciprocal_pixel=0.01, scan_step=5.0, convergence_angle=3.4)
    thickness = default_range("thickness", coarse)
    assert thickness.low == pytest.approx(1 / (0.0417572 * 0.28**2), rel=1e-3)
    assert thickness.high == pytest.approx(10 * thickness.low)


# what a search without ranges of its own searches: to change one changes everybody's results
USUAL = {
    "scan_rotation": (-180, 180),
    "scan_scale": (0.95, 1.05),
    "scan_shear": (-3, 3),
    "scan_aspect": (0.95, 1.05),
    "detector_flip": ["none", "transpose"],
    "n_probe_modes": [1, 2, 3, 4, 6],
    "source_size": (0, 0.9),
    "scan_step": (0.855, 0.945),
    "n_variable_modes": [0, 1, 2],
    "n_slices": [1, 2, 4, 8],
    "tilt_x": (-10, 10),
    "tilt_y": (-10, 10),
    "object_type": ["complex", "phase"],
    "detector_blur": (0, 1.5),
    "aperture": ["measured", "disk"],
    "algorithm": ["lsq-ml", "gradient", "epie", "rpie"],
    "noise_model": ["amplitude", "poisson"],
    "step_object": (0.1, 1.5),
    "step_probe": (0.1, 1.5),
    "batch_selection": ["sparse", "compact"],
    "momentum": (0, 0.9),
    "probe_start": (0, 6),
    "regularization_positivity": (0, 1),
    "regularization_tv": (1e-4, 0.1),
    "regularization_probe_support": (0.4, 1.2),
}


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_range(experiment, name):
    found = default_range(name, experiment)
    if found.choices:
        assert list(found.choices) == USUAL[name]
    else:
        assert (found.low, found.high) == pytest.approx(USUAL[name], rel=1e-6)
        assert found.log == (name in ("step_object", "step_probe", "regularization_tv"))


def test_the_usual_range_about_an_estimate(experiment):
    found = ranges(default_space(experiment, {}, FOUND)[0])
    limit = largest_defocus(experiment.geometry)
    # five standard errors or the floor: 8 degrees; 30 % of the defocus, 10 % of it for astigmatism
    assert found["scan_rotation"][1] - found["scan_rotation"][0] == pytest.approx(16)
    assert found["defocus"][1] - found["defocus"][0] == pytest.approx(2 * 60)
    assert found["C12b"][1] - found["C12b"][0] == pytest.approx(2 * max(20, 0.02 * limit))
    sure = dataclasses.replace(FOUND, scan_rotation_error=4.0, defocus_error=20.0, C12a_error=9.0)
    found = ranges(default_space(experiment, {}, sure)[0])
    assert found["scan_rotation"][1] - found["scan_rotation"][0] == pytest.approx(40)
    assert found["defocus"][1] - found["defocus"][0] == pytest.approx(200)
    assert found["C12a"][1] - found["C12a"][0] == pytest.approx(90)
    unknown = ranges(default_space(experiment, {}, None)[0])
    assert unknown["C12a"][1] == pytest.approx(0.2 * limit, rel=1e-3)


@pytest.mark.parametrize(
    ("held", "turned"),
    [(20.0, False), (100.0, False), (104.0, True), (-168.0, True), (-77.0, False), (-79.0, True)],
)
def test_a_rotation_that_is_held_decides_the_sign_of_the_defocus(experiment, held, turned):
    """Found were 12 degrees; what is held may be off by up to 90."""
    found = middles(default_space(experiment, {"scan_rotation": held}, FOUND)[0])
    assert found["defocus"] == pytest.approx(-200 if turned else 200)


def test_batches_about_the_default_size(experiment):
    # of 480 positions 20 a batch, from a quarter to four times as many
    found = default_range("batch_size", experiment)
    assert (found.low, found.high, found.log, found.integer) == (5, 80, True, True)
    tiny = default_range("batch_size", an_experiment(scan_shape=(2, 3)))
    assert (tiny.low, tiny.high) == (4, 6)
    single = default_range("batch_size", experiment, None, {"algorithm": "rpie"})
    assert (single.low, single.high) == (1, 16)


def test_algorithms_with_steps_of_their_own(experiment):
    line_search = default_range("step_object", experiment, None, {})
    other = default_range("step_object", experiment, None, {"algorithm": "epie"})
    assert line_search.low < 1 < line_search.high
    assert other.low < 0.3 < other.high < line_search.high


def test_what_cannot_be_tuned(experiment):
    with pytest.raises(ParameterError, match="beam_energy: .*cannot be tuned"):
        default_space(experiment, {}, FOUND, ["beam_energy"])
    with pytest.raises(ParameterError, match="defocus is to be tuned, but it is held at 3"):
        default_space(experiment, {"defocus": 3}, FOUND, ["defocus"])
    with pytest.raises(TypeError, match="'focus'"):
        default_space(experiment, {}, FOUND, ["focus"])
    with pytest.raises(TypeError, match="'focus'"):
        default_range("focus", experiment)


def test_largest_defocus_still_fits_the_window(experiment):
    limit = largest_defocus(experiment.geometry)
    diameter = 2 * limit * experiment.geometry.measured_convergence_angle * 1e-3
    assert diameter == pytest.approx(0.6 / 0.0625)
