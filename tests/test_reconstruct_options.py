"""The options of `reconstruct_ptycho`, one by one: taken, refused, recorded and saved."""

import hyperspy.api as hs
import numpy as np
import pytest

from hs_autoptycho.data import phase_correlation, twisted_bilayer_mos2
from hs_autoptycho.ptycho.parameters import CORRECTIONS, PARAMETERS, ParameterError

pytestmark = pytest.mark.usefixtures("one_thread")

TRUE = {"defocus": 120.0, "scan_rotation": 12.0}
SLICES = {"n_slices": 2, "thickness": 12.0}


@pytest.fixture(scope="module")
def simulated():
    return twisted_bilayer_mos2(scan_shape=(7, 9), detector_shape=(48, 64), **TRUE)


@pytest.fixture
def scan(simulated):
    return simulated.deepcopy()


@pytest.fixture(scope="module")
def reference(simulated):
    return simulated.reconstruct_ptycho(**TRUE, n_iterations=3, num_workers=1)


def run(signal, n_iterations=3, **options):
    return signal.reconstruct_ptycho(**{**TRUE, **options}, n_iterations=n_iterations)


TAKEN = {
    "n_slices": (2, {"thickness": 12}),
    "thickness": (12.0, {"n_slices": 2}),
    "tilt_x": (5.0, SLICES),
    "tilt_y": (-5.0, SLICES),
    "source_size": (0.5, {"n_probe_modes": 2}),
    "focal_spread": (20.0, {"n_probe_modes": 2}),
    "n_variable_modes": (1, {}),
    "object_type": ("phase", {}),
    "algorithm": ("rpie", {}),
    "noise_model": ("amplitude", {}),
    "batch_size": (9, {}),
    "batch_selection": ("compact", {}),
    "step_object": (0.5, {}),
    "step_probe": (0.5, {}),
    "momentum": (0.5, {}),
    "probe_start": (2, {}),
    "position_correction_start": (1, {}),
    "grid_correction_start": (1, {}),
    "defocus_correction_start": (1, {}),
    "thickness_correction_start": (1, SLICES),
    "tilt_correction_start": (1, SLICES),
    "intensity_correction_start": (1, {}),
    "regularization_depth": (1.0, SLICES),
    "regularization_positivity": (0.5, {}),
    "regularization_tv": (0.05, {}),
    "regularization_bandwidth": (0.8, {}),
    "regularization_probe_support": (0.4, {}),
    "coarse_iterations": (2, {}),
    "early_stopping": (2, {}),
    "detector_blur": (0.5, {}),
    "saturation": (20.0, {}),
    "aperture": ("disk", {}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_an_option_does_something_and_is_recorded(scan, reference, name):
    value, needed = TAKEN[name]
    before = scan.data.copy()
    result = run(scan, **{name: value}, **needed)
    assert result.status in ("completed", "stopped")
    assert np.isfinite(result.data).all() and np.isfinite(result.probe.data).all()
    recorded = result.parameters[name]
    if name != "thickness":  # a correction may have changed it
        assert recorded == value and type(recorded) is type(value)
    if name == "thickness":
        needed = {**needed, "thickness": 60.0}
    without = run(scan, **needed) if needed and name != "n_slices" else reference
    if name != "n_slices":
        assert result.data.shape != without.data.shape or np.any(result.data != without.data)
    np.testing.assert_array_equal(scan.data, before)


def test_every_parameter_is_an_option():
    import inspect

    options = set(inspect.signature(hs.signals.Signal2D.reconstruct_ptycho).parameters)
    assert set(PARAMETERS) <= options


WRONG = {"number": ["much", True, [1, 2], np.nan, np.inf, 1j], "integer": ["2", 1.5, True, -1]}


@pytest.mark.parametrize("name", TAKEN)
def test_wrong_values_are_named(scan, name):
    kind = PARAMETERS[name].kind
    for value in WRONG.get(kind, ["nonsense", 1, True, ["disk"]]):
        with pytest.raises((ParameterError, TypeError), match=name):
            run(scan, **{name: value})
    if kind == "number":
        with pytest.raises(ParameterError, match=f"{name}=.*out of range"):
            run(scan, **{name: PARAMETERS[name].high * 2})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_slices": 2}, "n_slices=2.*thickness=200"),
        ({"thickness_correction_start": 0}, "thickness_correction_start.*n_slices"),
        ({"tilt_correction_start": 0}, "tilt_correction_start.*n_slices"),
        ({"regularization_depth": 1.0}, "regularization_depth.*n_slices"),
    ],
    ids=str,
)
def test_what_does_not_fit_together(scan, options, message):
    with pytest.raises(ParameterError, match=message):
        run(scan, **options)


def test_early_stopping_needs_counts(scan):
    scan.change_dtype(float)
    scan.data *= 0.37
    with pytest.raises(ParameterError, match="early_stopping.*not whole numbers"):
        run(scan, early_stopping=2)


# ------------------------------------------------------------------------- mask and background


@pytest.fixture(scope="module")
def mask():
    used = np.ones((48, 64), bool)
    for place in ((20, 30), (24, 33), (5, 50), (40, 3)):
        used[place] = False
    used[:, 41] = False
    return used


@pytest.mark.parametrize("lazy", [False, True])
def test_hot_pixels(scan, mask, lazy):
    dead = scan.deepcopy()
    dead.data = np.where(mask, scan.data, 0).astype(scan.data.dtype)
    hot = scan.deepcopy()
    hot.data = np.where(mask, scan.data, 50000).astype(np.uint16)
    hot = hot.as_lazy() if lazy else hot
    without = run(dead, 8, detector_mask=mask)
    masked = run(hot, 8, detector_mask=mask)
    # they are of no account at all
    np.testing.assert_array_equal(masked.data, without.data)
    assert phase_correlation(masked, scan) > 0.9
    assert phase_correlation(masked, scan) > phase_correlation(run(scan, 8), scan) - 0.02
    unmasked = run(hot, 8, disk_center=masked.geometry.disk_center, disk_radius=8.0)
    assert phase_correlation(unmasked, scan) < phase_correlation(masked, scan) - 0.1


def test_a_missing_frame_with_a_hot_pixel_is_missing(scan, mask):
    scan.data[2, 3] = 0
    scan.data[..., ~mask] = 5000
    result = run(scan, detector_mask=mask)
    assert any("1 of 63 patterns are empty" in note and "x=3, y=2" in note for note in result.notes)


def test_a_hot_pixel_at_the_end_of_its_type_is_not_saturated(scan, mask):
    scan.change_dtype("uint16")
    scan.data[..., ~mask] = 65535
    result = run(scan, detector_mask=mask)
    assert not any("saturated" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["array", "signal", "list"])
def test_background_and_mask_of_any_kind(scan, mask, kind):
    rng = np.random.default_rng(0)
    dark = np.full((48, 64), 2.0)
    dark[:, 30:] = 4.0
    clear = scan.deepcopy()
    scan.data = scan.data + rng.poisson(dark, scan.data.shape).astype(scan.data.dtype)
    wrap = {
        "array": lambda a: a,
        "signal": lambda a: hs.signals.Signal2D(a),
        "list": lambda a: a.tolist(),
    }[kind]
    told = run(scan, 8, background=wrap(dark), detector_mask=wrap(mask))
    unaware = run(scan, 8)
    assert phase_correlation(told, clear) > 0.88
    assert phase_correlation(told, clear) > phase_correlation(unaware, clear) + 0.05
    plain = run(scan, 3, background=dark, detector_mask=mask)
    np.testing.assert_array_equal(
        plain.data, run(scan, 3, background=wrap(dark), detector_mask=wrap(mask)).data
    )


@pytest.mark.parametrize("wrap", [np.asarray, hs.signals.Signal2D], ids=["array", "signal"])
@pytest.mark.parametrize(
    "name, image",
    [
        ("detector_mask", np.ones((64, 48), bool)),
        ("detector_mask", np.ones((48, 64), int)),
        ("detector_mask", np.zeros((48, 64), bool)),
        ("background", np.zeros((64, 48))),
        ("background", np.full((48, 64), np.nan)),
        ("background", np.full((48, 64), -1.0)),
        ("background", np.zeros((48, 64), complex)),
    ],
)
def test_wrong_images(scan, name, image, wrap):
    with pytest.raises(ParameterError, match=name):
        run(scan, **{name: wrap(image)})


@pytest.mark.parametrize("value", [-1, np.inf, "dark", True])
def test_wrong_background(scan, value):
    with pytest.raises(ParameterError, match="background"):
        run(scan, background=value)


# --------------------------------------------------------------------- what the notes tell


def test_missing_frames_are_left_out(scan):
    whole = run(scan, 8)
    scan.data[2, 3] = scan.data[5, 6] = 0
    result = run(scan, 8)
    (note,) = [note for note in result.notes if "empty" in note]
    assert note.startswith("2 of 63 patterns are empty and were left out")
    assert "(x=3, y=2)" in note
    assert result.positions.shape == (63, 2)
    assert phase_correlation(result, scan) > phase_correlation(whole, scan) - 0.05
    assert not any("empty" in note for note in whole.notes)


def test_saturated_counts_are_noted(scan, reference):
    assert not any("saturated" in note for note in reference.notes)
    scan.data = (scan.data.astype(int) * 255 // np.quantile(scan.data, 0.98).astype(int)).clip(
        0, 255
    ).astype(np.uint8)  # fmt: skip
    result = run(scan)
    assert any("255 counts" in note and "saturated" in note for note in result.notes)
    # who knows better is not told
    stated = run(scan, saturation=255)
    assert not any("saturated" in note for note in stated.notes)
    np.testing.assert_array_equal(result.data, stated.data)
    assert np.any(run(scan, saturation=1e9).data != result.data)


def test_corrected_values_are_in_the_result(scan):
    result = run(
        scan, 24, **SLICES, scan_rotation=17.0, grid_correction_start=0,
        defocus_correction_start=0, tilt_correction_start=0,
    )  # fmt: skip
    given = {"scan_rotation": 17, "defocus": 120, "tilt_x": 0, "tilt_y": 0}
    for name, before in given.items():
        after = result.parameters[name]
        assert after != before and np.isfinite(after)
        (note,) = [note for note in result.notes if note.startswith(f"{name} was corrected")]
        unit = PARAMETERS[name].unit
        text = f"{name} was corrected from {before:g} to {after:.6g}{' ' + unit if unit else ''}."
        assert note == text
    # a result's geometry is what was given
    assert result.geometry.scan_rotation == 17 and result.geometry.defocus == 120


# --------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
def test_saved_and_loaded(scan, tmp_path, extension):
    result = run(
        scan, 6, n_slices=3, thickness=24.0, position_correction_start=2, n_variable_modes=1,
        tilt_correction_start=1, early_stopping=5, coarse_iterations=2, n_probe_modes=2,
    )  # fmt: skip
    path = tmp_path / f"object.{extension}"
    result.save(path)
    loaded = hs.load(path)
    assert type(loaded) is type(result)
    assert loaded.parameters == result.parameters
    off = {name for name, value in loaded.parameters.items() if value is None}
    on = {"position_correction_start", "tilt_correction_start"}
    assert off == {f"{name}_correction_start" for name in CORRECTIONS} - on | {"saturation"}
    for record in (result, loaded):
        axis = record.axes_manager["slice"]
        assert (axis.size, axis.scale, axis.units) == (3, pytest.approx(8.0), "Å")
    np.testing.assert_array_equal(loaded.data, result.data)
    histories = [dict(r.metadata.Ptychography.history.as_dictionary()) for r in (result, loaded)]
    assert set(histories[0]) == set(histories[1]) >= {"error", "held_out", "tilt_x", "tilt_y"}
    for name, values in histories[0].items():
        assert len(values) == len(result.history.data)
        np.testing.assert_array_equal(values, histories[1][name])
    assert loaded.notes == result.notes and loaded.status == result.status
