"""Axes and metadata to a geometry: what is read, and what each bad input is answered with."""

import dataclasses
import json
import logging

import hyperspy.api as hs
import numpy as np
import pytest
from scipy.special import erf

from hs_autoptycho.calibration import (
    CalibrationError,
    Geometry,
    check_disk,
    check_signal,
    electron_wavelength,
    geometry_from_signal,
    object_axes,
    scan_step_and_object_pixel,
)
from hs_autoptycho.ptycho.disk import DiskError

SHAPE = (3, 5, 48, 64)  # scan_y, scan_x, k_y, k_x
CENTER, RADIUS = (24.3, 31.6), 10.0
ENERGY = 300.0
WAVELENGTH = 0.0196875
PIXEL = 0.02  # 1/Å
ANGLE = RADIUS * PIXEL * WAVELENGTH * 1e3  # mrad, as the disk has it
TEM = "Acquisition_instrument.TEM"


def mean_pattern(shape=SHAPE[2:], center=CENTER, radius=RADIUS):
    y, x = np.indices(shape)
    rho = np.hypot(y - center[0], x - center[1])
    return 100 * 0.5 * (1 + erf((radius - rho) / (np.sqrt(2) * 0.7)))


def make(shape=SHAPE, scan=(0.5, "Å"), detector=(PIXEL, "1/Å"), names=True, **metadata):
    """A calibrated scan; metadata are the items of TEM, None leaves one out."""
    signal = hs.signals.Signal2D(np.zeros(shape, np.uint8))
    for name, axis in zip(
        ("x", "y", "kx", "ky"), [signal.axes_manager[i] for i in range(4)], strict=True
    ):
        axis.scale, units = scan if len(name) == 1 else detector
        if units is not None:  # None leaves HyperSpy's undefined trait
            axis.units = units
        if names:
            axis.name = name
    tem = {"beam_energy": ENERGY, "convergence_angle": ANGLE, "scan_rotation": -12.5} | metadata
    for key, value in tem.items():
        if value is not None:
            signal.metadata.set_item(f"{TEM}.{key}", value)
    return signal


def read(signal, **overrides):
    return geometry_from_signal(signal, mean_pattern(), **overrides)


def refusal(signal, **overrides):
    with pytest.raises(CalibrationError) as caught:
        read(signal, **overrides)
    return str(caught.value)


def assert_says(message, *parts):
    for part in parts:
        assert part in message


# -- what is read -----------------------------------------------------------------------------


def test_plain_case():
    geometry = read(make())
    assert geometry.scan_shape == (3, 5)
    assert geometry.detector_shape == (48, 64)
    assert geometry.beam_energy == 300
    assert geometry.scan_step == pytest.approx(0.5)
    assert geometry.reciprocal_pixel == pytest.approx(PIXEL)
    assert geometry.convergence_angle == pytest.approx(ANGLE)
    assert geometry.disk_center == pytest.approx(CENTER, abs=0.1)
    assert geometry.disk_radius == pytest.approx(RADIUS, abs=0.1)
    assert geometry.scan_rotation == -12.5
    assert geometry.defocus is None
    assert geometry.object_pixel == pytest.approx((1 / (48 * PIXEL), 1 / (64 * PIXEL)))
    assert geometry.mrad_per_pixel == pytest.approx(PIXEL * WAVELENGTH * 1e3, rel=1e-5)
    assert geometry.measured_convergence_angle == pytest.approx(ANGLE, rel=0.01)
    assert len(geometry.notes) == 1
    assert "-12.5 degrees is the metadata's" in geometry.notes[0]


@pytest.mark.parametrize("lazy", [False, True])
def test_plain_and_lazy_signals(lazy):
    signal = make()
    signal = signal.as_lazy() if lazy else signal
    assert read(signal) == read(make())


@pytest.mark.parametrize(
    ("scale", "units"),
    [
        (0.5, "Å"),
        (0.5, "\u00c5"),
        (0.5, "\u212b"),
        (0.5, "A"),
        (0.5, "angstrom"),
        (0.05, "nm"),
        (50.0, "pm"),
        (5e-5, "um"),
        (5e-5, "\u00b5m"),
        (5e-5, "\u03bcm"),
        (5e-11, "m"),
    ],
)
def test_scan_step_units(scale, units):
    assert read(make(scan=(scale, units))).scan_step == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scale", "units"),
    [(PIXEL, u) for u in ("$A^{-1}$", "A^-1", "1/A", "1/\u00c5", "1/\u212b", "1/angstrom")]
    + [(PIXEL * 10, u) for u in ("1/nm", "nm^-1", "$nm^{-1}$", "nm$^{-1}$", "1 / nm", "nm⁻¹")]
    + [(PIXEL * WAVELENGTH * 1e3, "mrad"), (PIXEL * WAVELENGTH, "rad")],
)
def test_detector_units(scale, units):
    geometry = read(make(detector=(scale, units)))
    assert geometry.reciprocal_pixel == pytest.approx(PIXEL, rel=1e-5)


def test_the_two_axes_may_have_different_units():
    signal = make()
    signal.axes_manager["x"].scale, signal.axes_manager["x"].units = 0.05, "nm"
    assert read(signal).scan_step == pytest.approx(0.5)


def test_keywords_win_and_bad_axes_and_metadata_do_not_matter():
    signal = make(
        scan=(np.nan, "furlongish"),
        detector=(0, "s"),
        beam_energy="high",
        convergence_angle=-1,
        scan_rotation=1e9,
        probe_defocus="much",
    )
    geometry = read(
        signal,
        beam_energy=80,
        convergence_angle=8.4,
        scan_step=0.7,
        reciprocal_pixel=0.021,
        scan_rotation=3,
        defocus=-120,
    )
    assert geometry.beam_energy == 80
    assert geometry.convergence_angle == 8.4
    assert geometry.scan_step == 0.7
    assert geometry.reciprocal_pixel == 0.021
    assert geometry.scan_rotation == 3
    assert geometry.defocus == -120


def test_keyword_for_one_thing_leaves_the_rest_to_the_signal():
    geometry = read(make(), scan_step=0.7)
    assert geometry.scan_step == 0.7
    assert geometry.reciprocal_pixel == pytest.approx(PIXEL)


def test_defocus_from_the_metadata():
    assert read(make(probe_defocus=250)).defocus == 250
    assert read(make(probe_defocus=250), defocus=-3).defocus == -3


def test_defocus_in_an_unknown_unit_is_not_read():
    geometry = read(make(defocus=-1.5e-6))
    assert geometry.defocus is None
    assert any("not read" in note and "probe_defocus" in note for note in geometry.notes)


def test_scan_rotation_is_zero_with_a_note():
    geometry = read(make(scan_rotation=None))
    assert geometry.scan_rotation == 0
    (note,) = geometry.notes
    assert note.startswith("The scan rotation is not known, it is taken as 0 degrees. ")


def test_convergence_angle_from_the_measured_disk():
    geometry = read(make(convergence_angle=None))
    assert geometry.convergence_angle == geometry.measured_convergence_angle
    assert geometry.convergence_angle == pytest.approx(ANGLE, rel=0.01)
    assert any("convergence angle is not known" in note for note in geometry.notes)


def test_disk_that_is_given_is_not_measured():
    flat = np.ones(SHAPE[2:])
    geometry = geometry_from_signal(
        make(), flat, disk_center=(np.float32(20.5), 30), disk_radius=np.float64(9.9)
    )
    assert geometry.disk_center == (20.5, 30.0)
    assert geometry.disk_radius == 9.9
    assert read(make(), disk_radius=9.9).disk_center == pytest.approx(CENTER, abs=0.1)
    with pytest.raises(DiskError, match="disk_radius="):
        geometry_from_signal(make(), flat)


@pytest.mark.parametrize("center", [3, (1,), ("a", 2), (np.nan, 1.0)])
def test_disk_center_that_is_none(center):
    assert_says(refusal(make(), disk_center=center), "disk_center=", "(row, column)")


@pytest.mark.parametrize("radius", [0, -3, np.nan, "wide"])
def test_disk_radius_that_is_none(radius):
    assert_says(refusal(make(), disk_radius=radius), "disk_radius=", "detector pixels")


@pytest.mark.parametrize("center", [[-0.5, 31.5], (47.9, 63.9), np.array([0, 0])])
def test_disk_center_up_to_the_edge(center):
    checked, radius = check_disk(center, None, (48, 64))
    assert checked == tuple(center)
    assert radius is None
    assert all(type(value) is float for value in checked)


@pytest.mark.parametrize(
    "center",
    [(-1, 3), (3, -1), (48, 3), (3, 64), (1, 2, 3), (True, 2), (3, 1j), "ab", {1: 2, 3: 4}],
)
def test_disk_center_off_the_detector(center):
    with pytest.raises(CalibrationError, match="disk_center=.*48 x 64"):
        check_disk(center, None, (48, 64))


def test_disk_radius_up_to_the_larger_side():
    assert check_disk(None, np.int32(32), (48, 64)) == (None, 32.0)
    assert check_disk(None, 32, (64, 48)) == (None, 32.0)
    assert check_disk(None, 1, (2, 2)) == (None, 1.0)
    for radius in (32.01, 0, True, 2j):
        with pytest.raises(CalibrationError, match="disk_radius=.*48 x 64"):
            check_disk(None, radius, (48, 64))


def test_what_is_given_of_the_disk_is_taken_and_the_rest_measured():
    center = (20.5, 30.0)
    geometry = read(make(), disk_center=center)
    assert geometry.disk_center == center
    assert geometry.disk_radius == pytest.approx(RADIUS, abs=0.1)
    # a centre that is given is not compared with the axes' zero
    assert len(geometry.notes) == 1


def test_axis_that_runs_backwards_is_noted():
    signal = make()
    signal.axes_manager["y"].scale = -0.5
    geometry = read(signal)
    assert geometry.scan_step == pytest.approx(0.5)
    assert any('"y" (index 1) runs backwards (scale -0.5 Å)' in n for n in geometry.notes)


def test_pixels_almost_square():
    signal = make()
    signal.axes_manager["y"].scale = 0.504
    geometry = read(signal)
    assert geometry.scan_step == pytest.approx(0.502)
    assert any("0.504 and 0.5 Å" in note for note in geometry.notes)


# -- where the disk contradicts the metadata --------------------------------------------------


def radius_note(geometry):
    (note,) = [note for note in geometry.notes if "measured disk has a radius" in note]
    return note


def test_small_contradiction_of_the_radius(caplog):
    with caplog.at_level(logging.INFO, logger="hs_autoptycho"):
        geometry = read(make(convergence_angle=ANGLE * 1.03))
    assert geometry.disk_radius == pytest.approx(RADIUS, abs=0.1)
    assert geometry.convergence_angle == pytest.approx(ANGLE * 1.03)
    assert_says(radius_note(geometry), "10.30 px", "%", "measured radius is used")
    assert {r.levelname for r in caplog.records if "radius" in r.message} == {"INFO"}


def test_large_contradiction_of_the_radius_is_a_warning(caplog):
    geometry = read(make(convergence_angle=ANGLE * 1.1))
    assert_says(radius_note(geometry), "11.00 px", "-9")
    assert [r.levelname for r in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("ratio", "mistake"),
    [(2, "full angle"), (0.1, "1/Å and 1/nm"), (1 / (2 * np.pi), "2π"), (0.3, "Units may be")],
)
def test_contradiction_which_is_probably_a_unit(ratio, mistake):
    note = radius_note(read(make(convergence_angle=ANGLE * ratio)))
    assert_says(note, mistake, "convergence_angle=...", 's.axes_manager["kx"].scale')


def test_agreement_is_not_noted():
    assert read(make(convergence_angle=ANGLE * 1.005), scan_rotation=0).notes == ()


def test_center_beside_the_zero_of_the_axes(caplog):
    signal = make()
    signal.axes_manager["kx"].offset = -32 * PIXEL
    signal.axes_manager["ky"].offset = -26 * PIXEL
    with caplog.at_level(logging.INFO, logger="hs_autoptycho"):
        geometry = read(signal)
    (note,) = [note for note in geometry.notes if "centre" in note]
    assert_says(note, "row 26.00, column 32.00", "1.7", "measured centre is used")
    assert geometry.disk_center == pytest.approx(CENTER, abs=0.1)
    assert all(record.levelname == "INFO" for record in caplog.records)
    signal.axes_manager["ky"].offset = -36 * PIXEL
    read(signal)
    assert [r.levelname for r in caplog.records if "centre" in r.message][-1] == "WARNING"


def test_an_axis_may_begin_at_its_zero():
    """Of a crop; only where neither has an offset nothing was said."""
    signal = make()
    signal.axes_manager["kx"].offset, signal.axes_manager["ky"].offset = 0.0, -30 * PIXEL
    assert any(
        "zero at row 30.00, column 0.00" in note.replace("-0.00", "0.00")
        for note in read(signal).notes
    )


def test_center_at_the_zero_of_the_axes_is_not_noted():
    signal = make()
    signal.axes_manager["kx"].offset = -32 * PIXEL
    signal.axes_manager["ky"].offset = -24 * PIXEL
    assert not any("centre" in note for note in read(signal).notes)


# -- missing ----------------------------------------------------------------------------------


def test_missing_beam_energy():
    message = refusal(make(beam_energy=None))
    assert_says(
        message,
        "beam_energy is missing",
        "`beam_energy=300` (keV)",
        's.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 300)',
    )


@pytest.mark.parametrize("units", [None, "", "px"])
def test_missing_scan_step(units):
    message = refusal(make(scan=(1.0, units)))
    assert_says(
        message,
        'scan_step is missing: Navigation axis "x" (index 0)',
        'Navigation axis "y" (index 1)',
        "scale 1",
        's.axes_manager["x"].scale',
        's.axes_manager["x"].units = "nm"',
        "`scan_step=0.5` (Å)",
    )


@pytest.mark.parametrize("units", [None, "", "px"])
def test_missing_reciprocal_pixel_with_the_one_that_the_disk_implies(units):
    message = refusal(make(detector=(1.0, units)))
    assert_says(
        message,
        'reciprocal_pixel is missing: Signal axis "kx" (index 2)',
        's.axes_manager["ky"].units = "1/nm"',
        "`reciprocal_pixel=0.02` (1/Å)",
        "The measured disk (radius 9.99 px)",
    )
    implied = float(message.rsplit("`reciprocal_pixel=", 1)[1].rstrip("`."))
    assert implied == pytest.approx(PIXEL, rel=0.01)


def test_all_that_is_missing_is_told_at_once():
    signal = make(
        scan=(1.0, ""),
        detector=(1.0, ""),
        names=False,
        beam_energy=None,
        convergence_angle=None,
    )
    message = refusal(signal)
    assert_says(message, "beam_energy is missing", "scan_step is", "reciprocal_pixel is")
    assert_says(message, "Navigation axis (unnamed) (index 0)", "s.axes_manager[3].scale")


def test_angles_on_the_detector_need_the_energy():
    message = refusal(make(detector=(0.4, "mrad"), beam_energy=None))
    assert "beam_energy is missing" in message
    assert "axis" not in message


def test_ambiguous_names_are_told_by_index():
    signal = make(detector=(0, "1/nm"))
    signal.axes_manager["kx"].name = "x"
    assert_says(refusal(signal), 'Signal axis "x" (index 2)', "`s.axes_manager[2].scale = ...`")


# -- absurd -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "units", "shown"),
    [
        (0.0, "nm", "0 nm: 0 Å"),
        (1e17, "nm", "1e+17 nm: 1e+18 Å"),
        (np.nan, "nm", "nan nm: nan Å"),
        (np.inf, "Å", "inf Å: inf Å"),
        (1e-5, "Å", "1e-05 Å"),
    ],
)
def test_absurd_scan_step(scale, units, shown):
    message = refusal(make(scan=(scale, units)))
    assert_says(message, 'Navigation axis "y" (index 1)', shown, "not plausible")
    assert_says(message, '`s.axes_manager["y"].scale = ...`', "`scan_step=0.5` (Å)")


@pytest.mark.parametrize(
    ("scale", "units", "shown"),
    [
        (0.0, "1/nm", "0 1/nm: 0 1/Å"),
        (np.nan, "1/nm", "nan 1/nm"),
        (1e3, "1/nm", "1000 1/nm: 100 1/Å"),
        (1e-9, "mrad", "1e-09 mrad"),
    ],
)
def test_absurd_reciprocal_pixel(scale, units, shown):
    message = refusal(make(detector=(scale, units)))
    assert_says(message, 'Signal axis "kx" (index 2)', shown, "not plausible")
    assert_says(message, '`s.axes_manager["kx"].scale = ...`', "`reciprocal_pixel=0.02` (1/Å)")


@pytest.mark.parametrize(
    ("where", "units", "needed"),
    [
        ("scan", "1/nm", "a length is needed"),
        ("scan", "mrad", "a length is needed"),
        ("detector", "nm", "a reciprocal length or an angle is needed"),
        ("detector", "cm", "a reciprocal length or an angle is needed"),
    ],
)
def test_unit_of_another_kind(where, units, needed):
    message = refusal(make(**{where: (0.3, units)}))
    assert_says(message, f"the scale 0.3 {units}", needed, ".units = ")


@pytest.mark.parametrize("units", ["s", "furlongish"])
def test_unknown_unit(units):
    message = refusal(make(scan=(0.3, units)))
    assert_says(message, f'"x" (index 0) has the unit {units!r}', "scan_step=0.5", ".units = ")


def test_pixels_not_square():
    signal = make()
    signal.axes_manager["y"].scale = 0.6
    message = refusal(signal)
    assert_says(message, '"y" (index 1) has 0.6 Å', '"x" (index 0) has 0.5 Å', "18.2 %")
    assert_says(
        message, '`s.axes_manager["y"].scale = ...`', "scan_step=0.547723, scan_aspect=1.2`"
    )
    assert read(signal, scan_step=0.5).scan_step == 0.5
    signal = make()
    signal.axes_manager["kx"].scale = 0.0203
    message = refusal(signal)
    assert_says(message, '"kx" (index 2) has 0.0203 1/Å', "`reciprocal_pixel=...` (1/Å)")


def test_axis_that_is_not_uniform():
    signal = make()
    signal.axes_manager["x"].convert_to_non_uniform_axis()
    message = refusal(signal)
    assert_says(message, '"x" (index 0) is not uniform', "scan_step=0.5")
    assert 's.axes_manager["x"].convert_to_uniform_axis()' in message
    assert read(signal, scan_step=0.5).scan_step == 0.5
    signal.axes_manager["x"].convert_to_uniform_axis()
    assert read(signal).scan_step == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (300000, ("electronvolts (eV): 300 keV?",)),
        (0.3, ("megaelectronvolts (MeV): 300 keV?",)),
        (0, ("0 keV is not plausible", "10 to 3000 keV")),
        (np.nan, ("nan keV",)),
        ("300 kV", ("'300 kV' is not a number",)),
        (True, ("True is not a number",)),
    ],
)
def test_absurd_beam_energy(value, parts):
    message = refusal(make(beam_energy=value))
    assert_says(message, f"{TEM}.beam_energy:", *parts, "`beam_energy=300`", "set_item(")
    assert_says(refusal(make(), beam_energy=value), "The keyword beam_energy", *parts)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (0.0214, ("radians (rad): 21.4 mrad?",)),
        (21400, ("microradians (µrad): 21.4 mrad?",)),
        (-3, ("-3 mrad is not plausible",)),
        (0, ("0 mrad",)),
    ],
)
def test_absurd_convergence_angle(value, parts):
    message = refusal(make(convergence_angle=value))
    assert_says(message, f"{TEM}.convergence_angle:", *parts, "`convergence_angle=21.4`")
    assert_says(refusal(make(), convergence_angle=value), *parts)


@pytest.mark.parametrize("value", [np.inf, 4000, "left"])
def test_absurd_scan_rotation(value):
    message = refusal(make(scan_rotation=value))
    assert_says(message, f"{TEM}.scan_rotation:", "`scan_rotation=-12.5` (degrees)", "set_item(")


@pytest.mark.parametrize("value", [np.nan, 1e12, "under"])
def test_absurd_defocus(value):
    message = refusal(make(), defocus=value)
    assert_says(message, "The keyword defocus", "`defocus=300` (Å)", f'"{TEM}.probe_defocus"')


@pytest.mark.parametrize("keyword", ["scan_step", "reciprocal_pixel"])
@pytest.mark.parametrize("value", [0, -1, np.nan, 1e17])
def test_absurd_keywords(keyword, value):
    message = refusal(make(), **{keyword: value})
    assert_says(message, f"The keyword {keyword}", "not plausible", f"`{keyword}=")


def test_disk_wider_than_the_detector():
    message = refusal(make(convergence_angle=ANGLE * 2.5))
    assert_says(
        message,
        "wider than the detector of 48 x 64 px",
        "radius 25 px",
        "The measured radius is 9.99 px",
        "convergence_angle = 9.84375 mrad",
        "reciprocal_pixel = 0.02 1/Å",
        "`convergence_angle=...`",
        's.metadata.set_item("Acquisition_instrument.TEM.convergence_angle", 21.4)',
        '`s.axes_manager["kx"].scale`',
    )


def test_disk_that_fills_the_detector_is_told_from_the_metadata():
    wide = mean_pattern(radius=60)
    with pytest.raises(CalibrationError, match="radius 60 px, wider than the detector"):
        geometry_from_signal(make(convergence_angle=ANGLE * 6), wide)
    with pytest.raises(DiskError):
        geometry_from_signal(make(), wide)


def test_detector_that_would_reach_too_far():
    message = refusal(make(detector=(1.0, "1/Å")))
    assert_says(message, "reach out to 630 mrad", "reciprocal_pixel = 1 1/Å", "not plausible")


def test_measured_convergence_angle_that_is_not_plausible():
    message = refusal(make(detector=(1e-5, "1/Å"), convergence_angle=None))
    assert_says(message, "convergence_angle from the measured disk", "0.0019", '["kx"].scale')


# -- dimensions and sizes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "mend"),
    [
        (hs.signals.BaseSignal(np.zeros((2, 3, 4, 6))), "s.transpose(signal_axes=2)"),
        (hs.signals.Signal1D(np.zeros((2, 3, 4, 6))), "s.transpose(signal_axes=2)"),
        (hs.signals.Signal2D(np.zeros((3, 4, 6))), "reshape(scan_y, scan_x, k_y, k_x)"),
        (hs.signals.Signal2D(np.zeros((4, 6))), "One pattern or image is no scan"),
        (hs.signals.Signal2D(np.zeros((2, 2, 3, 4, 6))), "s.inav[:, :, 0]"),
    ],
)
def test_dimensions(signal, mend):
    message = refusal(signal)
    assert_says(message, "2 navigation and 2 signal dimensions", mend)


def test_the_call_for_dimensions_mends_them():
    signal = make()
    turned = hs.signals.BaseSignal(signal.data).transpose(signal_axes=2)
    for i in range(4):
        turned.axes_manager[i].scale = signal.axes_manager[i].scale
        turned.axes_manager[i].units = signal.axes_manager[i].units
    turned.metadata.add_dictionary(signal.metadata.as_dictionary())
    assert read(turned) == read(signal)


def test_not_a_signal():
    with pytest.raises(TypeError, match="hs.signals.Signal2D"):
        geometry_from_signal(np.zeros(SHAPE), mean_pattern())


@pytest.mark.parametrize(
    ("sizes", "call", "named"),
    [
        ((47, 64), "s.isig[:, :-1]", '"ky" (index 3) has 47'),
        ((48, 63), "s.isig[:-1, :]", '"kx" (index 2) has 63'),
        ((47, 63), "s.isig[:-1, :-1]", '"kx" (index 2) has 63'),
    ],
)
def test_odd_detector(sizes, call, named):
    signal = make((3, 5, *sizes))
    message = refusal(signal)
    assert_says(message, "even", named, call)
    mended = eval(call, {"s": signal})
    pattern = mean_pattern(mended.data.shape[2:])
    assert geometry_from_signal(mended, pattern).detector_shape == pattern.shape


def test_scan_of_one_line():
    assert_says(refusal(make((1, 5, 48, 64))), '"y" (index 1)', "2 x 2", "s.inav[...]")


def test_mean_pattern_of_another_shape():
    with pytest.raises(CalibrationError, match=r"\(64, 48\).*\(48, 64\)"):
        geometry_from_signal(make(), mean_pattern((64, 48)))


# -- before the patterns are read -------------------------------------------------------------


def test_check_signal_passes_what_can_be_read():
    signal = make(convergence_angle=None, scan_rotation=None).as_lazy()
    check_signal(signal)
    check_signal(make(beam_energy=None).as_lazy(), beam_energy=200)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("beam_energy", {"beam_energy": None}),
        ("convergence_angle", {"convergence_angle": -1.0}),
        ("scan_rotation", {"scan_rotation": 1000.0}),
        ("probe_defocus", {"probe_defocus": np.inf}),
        ("scan_step", {"scan": (1.0, "")}),
        ("reciprocal_pixel", {"detector": (1.0, "")}),
    ],
)
def test_check_signal_refuses_a_lazy_signal_alone(name, bad):
    """One in memory is refused later, with what the disk says."""
    check_signal(make(**bad))
    with pytest.raises(CalibrationError, match=name):
        check_signal(make(**bad).as_lazy())


@pytest.mark.parametrize("keyword", ["beam_energy", "scan_step", "reciprocal_pixel", "defocus"])
def test_check_signal_looks_at_keywords(keyword):
    with pytest.raises(CalibrationError, match=f"keyword {keyword}"):
        check_signal(make().as_lazy(), **{keyword: np.nan})


def test_scan_step_and_object_pixel():
    step, pixel = scan_step_and_object_pixel(make())
    assert step == pytest.approx(0.5)
    # one over the detector's whole height and width
    assert pixel == pytest.approx((1 / 0.96, 1 / 1.28))


def test_scan_step_and_object_pixel_need_the_energy_for_angles_alone():
    signal = make(detector=(0.4, "mrad"), beam_energy=None)
    with pytest.raises(CalibrationError, match="beam_energy is missing"):
        scan_step_and_object_pixel(signal)
    step, pixel = scan_step_and_object_pixel(signal, beam_energy=ENERGY)
    assert pixel[0] == pytest.approx(WAVELENGTH / (48 * 0.4e-3), rel=1e-4)
    step, pixel = scan_step_and_object_pixel(signal, reciprocal_pixel=0.01, scan_step=0.7)
    assert (step, *pixel) == pytest.approx((0.7, 1 / 0.48, 1 / 0.64))


# -- Geometry ---------------------------------------------------------------------------------

GEOMETRY = Geometry(
    beam_energy=80,
    scan_shape=(np.int64(3), 5),
    detector_shape=[48, 64],
    scan_step=np.float32(0.5),
    reciprocal_pixel=0.02,
    convergence_angle=21.4,
    disk_center=np.array([24.0, 32.0]),
    disk_radius=10,
    notes=["one", "two"],
)


@pytest.mark.parametrize(
    ("energy", "wavelength"),
    # ase/abTEM and py4DSTEM
    [(80, 0.0417572), (200, 0.0250793), (300, 0.0196875)],
)
def test_wavelength(energy, wavelength):
    assert electron_wavelength(energy) == pytest.approx(wavelength, rel=5e-6)
    assert dataclasses.replace(GEOMETRY, beam_energy=energy).wavelength == pytest.approx(
        wavelength, rel=5e-6
    )


@pytest.mark.parametrize("energy", [30, 80, 300])
def test_wavelength_is_abtems(energy):
    abtem_energy = pytest.importorskip("abtem.core.energy")
    expected = abtem_energy.energy2wavelength(energy * 1e3)
    assert electron_wavelength(energy) == pytest.approx(expected, rel=1e-6)


def test_geometry_is_frozen_and_plain():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GEOMETRY.beam_energy = 300
    assert GEOMETRY.scan_shape == (3, 5)
    assert type(GEOMETRY.scan_step) is float
    assert type(GEOMETRY.scan_shape[0]) is int
    assert GEOMETRY.disk_center == (24.0, 32.0)
    assert isinstance(hash(GEOMETRY), int)


def test_geometry_of_the_smallest_sizes():
    small = dataclasses.replace(
        GEOMETRY, scan_shape=(2, 2), detector_shape=(2, 4), disk_radius=2, disk_center=(0, 0)
    )
    assert (small.scan_shape, small.detector_shape, small.disk_radius) == ((2, 2), (2, 4), 2.0)
    assert dataclasses.replace(GEOMETRY, disk_radius=32).disk_radius == 32


def test_geometry_without_what_need_not_be_known():
    needed = {"beam_energy", "scan_shape", "detector_shape", "scan_step", "reciprocal_pixel"}
    needed |= {"convergence_angle", "disk_center", "disk_radius"}
    geometry = Geometry.from_dict({k: v for k, v in GEOMETRY.to_dict().items() if k in needed})
    assert (geometry.scan_rotation, geometry.defocus, geometry.notes) == (0.0, None, ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        geometry.notes = ("another",)


def test_flipped_geometry():
    # a transposition and a mirrored first axis, by hand
    assert GEOMETRY.flipped("none") == GEOMETRY
    off = dataclasses.replace(GEOMETRY, disk_center=(20.0, 33.0))
    turned = off.flipped("transpose")
    assert (turned.detector_shape, turned.disk_center) == ((64, 48), (33.0, 20.0))


@pytest.mark.parametrize("defocus", [None, 300.0])
def test_to_dict_and_back(defocus):
    geometry = dataclasses.replace(GEOMETRY, defocus=defocus)
    values = geometry.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert None not in values.values()
    assert Geometry.from_dict(values) == geometry


@pytest.mark.parametrize("notes", [(), ("one note",), ("µ and Å", "two")])
@pytest.mark.parametrize("suffix", ["hspy", "zspy"])
def test_to_dict_survives_a_file(tmp_path, suffix, notes):
    geometry = dataclasses.replace(GEOMETRY, notes=notes)
    signal = hs.signals.Signal2D(np.zeros((4, 6)))
    signal.metadata.set_item("Ptychography.geometry", geometry.to_dict())
    signal.save(tmp_path / f"result.{suffix}")
    loaded = hs.load(tmp_path / f"result.{suffix}")
    stored = loaded.metadata.Ptychography.geometry.as_dictionary()
    assert Geometry.from_dict(stored) == geometry


def test_from_dict_refuses_unknown_and_missing():
    values = GEOMETRY.to_dict()
    with pytest.raises(CalibrationError, match="unknown .'detector'"):
        Geometry.from_dict(values | {"detector": 3})
    del values["scan_step"]
    with pytest.raises(CalibrationError, match="missing .'scan_step'"):
        Geometry.from_dict(values)


@pytest.mark.parametrize(
    "bad",
    [
        {"beam_energy": 300000},
        {"scan_step": 0},
        {"reciprocal_pixel": np.nan},
        {"convergence_angle": None},
        {"scan_rotation": 721},
        {"defocus": np.inf},
        {"scan_shape": (1, 5)},
        {"detector_shape": (47, 64)},
        {"detector_shape": (48, 63)},
        {"detector_shape": (0, 64)},
        {"detector_shape": (48,)},
        {"disk_center": (3, np.inf)},
        {"disk_center": (3,)},
        {"detector_shape": (48, 64, 2)},
        {"disk_center": (np.nan, 3)},
        {"disk_radius": 0},
        {"disk_radius": 33},
    ],
)
def test_geometry_refuses(bad):
    (name,) = bad
    with pytest.raises(CalibrationError, match=name):
        dataclasses.replace(GEOMETRY, **bad)


# -- object_axes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("thickness", "units"), [(None, ""), (20.0, "Å")])
def test_object_axes(thickness, units):
    axes = object_axes(GEOMETRY, (2, 70, 90), (-12.0, 4.5), slice_thickness=thickness)
    signal = hs.signals.ComplexSignal2D(np.zeros((2, 70, 90), np.complex64), axes=axes)
    assert signal.axes_manager.navigation_shape == (2,)
    assert signal.axes_manager.signal_shape == (90, 70)
    x, y, z = (signal.axes_manager[name] for name in ("x", "y", "slice"))
    assert (y.scale, x.scale) == pytest.approx(GEOMETRY.object_pixel)
    assert (y.offset, x.offset) == (-12.0, 4.5)
    assert x.units == y.units == "Å"
    assert (z.scale, z.units) == (thickness or 1.0, units)
    assert (z.offset, z.size) == (0.0, 2)


def test_object_axes_of_a_thin_slice():
    assert object_axes(GEOMETRY, (2, 70, 90), (0, 0), slice_thickness=0.5)[0]["scale"] == 0.5


@pytest.mark.parametrize("thickness", [0, -3.0, np.nan, np.inf])
def test_object_axes_refuse_a_thickness(thickness):
    with pytest.raises(CalibrationError, match="slice_thickness"):
        object_axes(GEOMETRY, (2, 70, 90), (0, 0), slice_thickness=thickness)


# -- files as vendors write them --------------------------------------------------------------


def test_real_scan(shared_data):
    signal = hs.load(shared_data / "rotavirus_A.hspy", lazy=True)
    mean = np.asarray(signal.data.mean(axis=(0, 1)))
    geometry = geometry_from_signal(signal, mean)
    assert geometry.scan_shape == (48, 48)
    assert geometry.scan_step == pytest.approx(31.25)
    assert geometry.object_pixel == pytest.approx((4.65, 4.65), abs=0.01)
    assert geometry.disk_center == pytest.approx((62.7, 63.6), abs=0.3)
    assert geometry.disk_radius == pytest.approx(30.1, abs=0.3)
    assert "31.1" in radius_note(geometry)
    assert any("centre" in note and "px away" in note for note in geometry.notes)


def test_merlin_file_is_not_calibrated(shared_data):
    signal = hs.load(shared_data / "vendor_files/merlin/001_4x2_6bit.mib", lazy=True)
    with pytest.raises(CalibrationError) as caught:
        geometry_from_signal(signal, mean_pattern((256, 256)))
    assert_says(str(caught.value), "beam_energy", "scan_step", "reciprocal_pixel", "index 0")
    geometry = geometry_from_signal(
        signal,
        mean_pattern((256, 256)),
        beam_energy=200,
        scan_step=10,
        reciprocal_pixel=0.02,
        convergence_angle=5.0,
    )
    assert geometry.scan_shape == (2, 4)


def test_tia_file_with_an_absurd_detector(shared_data):
    name = "16x16-diffraction_imagel_5x5x256x256_EDS_2.ser"
    signal = hs.load(shared_data / "vendor_files/tia" / name, lazy=True)
    with pytest.raises(CalibrationError, match=r"1\.74353e\+17 nm, and a reciprocal length"):
        geometry_from_signal(signal, mean_pattern((256, 256)))


def test_axes_of_other_sizes_than_the_data():
    """HyperSpy lets the data of a signal be replaced by an array of another shape."""
    signal = make()
    signal.data = signal.data[:, :-1]
    with pytest.raises(CalibrationError, match="axes have the sizes"):
        check_signal(signal)
