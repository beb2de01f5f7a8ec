"""The reconstructed object: what it holds, keeps, and gives back from a file."""

import math
import subprocess
import sys

import hyperspy.api as hs
import matplotlib.figure
import numpy as np
import pytest

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.signals import LazyPtychographicObject, PtychographicObject
from hs_autoptycho.signals._axes import AxesError

PIXEL = (0.25, 0.2)  # Å; y and x
ORIGIN = (-3.0, -4.0)
SCAN_SHAPE = (5, 7)
GEOMETRY = Geometry(
    beam_energy=80.0,
    scan_shape=SCAN_SHAPE,
    detector_shape=(16, 20),
    scan_step=1.5,
    reciprocal_pixel=0.25,
    convergence_angle=21.4,
    disk_center=(7.5, 9.25),
    disk_radius=2.5,
)
PARAMETERS = {
    "defocus": 300.0,
    "n_probe_modes": np.int64(2),
    "position_correction_start": None,
    "detector_flip": "transpose",
    "object_padding": (3, 4.5),
    "windows": [[1, 2], [3]],
    "empty": [],
    "nothing": {},
    "nested": {"deeper": {"flag": np.bool_(True), "none": None, "array": np.arange(3)}},
}
PLAIN_PARAMETERS = {
    **PARAMETERS,
    "n_probe_modes": 2,
    "object_padding": [3, 4.5],
    "nested": {"deeper": {"flag": True, "none": None, "array": [0, 1, 2]}},
}
TRIALS = [
    {
        "number": number,
        "parameters": {"defocus": 100.0 * number, "n_probe_modes": 1 + number % 3},
        "objective": None if number % 10 == 3 else (number - 12.0) ** 2,
        "metrics": {"data_error": np.float32(0.5), "frc": math.nan},
        "status": "failed" if number % 10 == 3 else "completed",
        "seed": number,
        "duration": 0.25,
        "message": "Å is not ASCII; " * 20,
    }
    for number in range(40)
]
TUNING = {
    "objective": "held_out",
    "parameters": ["defocus", "n_probe_modes"],
    "best_trial": np.int64(12),
    "space": {"defocus": {"low": 1.0, "high": 4000.0, "log": True}},
    "noise": None,
    "trials": TRIALS,
}


def build(phase=None, slices=2, **changes):
    """An object of 44 x 60 pixels (or of the phase given), and a probe of 16 x 20 pixels."""
    rng = np.random.default_rng(1)
    if phase is None:
        phase = 0.1 * rng.normal(size=(slices, 44, 60))
    probe = rng.normal(size=(3, 16, 20)) + 1j * rng.normal(size=(3, 16, 20))
    probe *= np.array([1.0, 3.0, 2.0])[:, None, None]
    ends = [
        (0.0, origin + step * (size - 1) - 3.0)
        for origin, step, size in zip(ORIGIN, PIXEL, phase.shape[-2:], strict=True)
    ]
    grid = [np.linspace(*end, n) for end, n in zip(ends, SCAN_SHAPE, strict=True)]
    positions = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, 2)
    frame = zip("yx", PIXEL, ORIGIN, strict=True)
    kwargs = {
        "axes": [{"name": n, "scale": s, "offset": o, "units": "Å"} for n, s, o in frame],
        "probe": probe,
        "probe_axes": [
            {"name": "y", "scale": PIXEL[0], "offset": -8 * PIXEL[0], "units": "Å"},
            {"name": "x", "scale": PIXEL[1], "offset": -10 * PIXEL[1], "units": "Å"},
        ],
        "positions": positions,
        "scan_shape": SCAN_SHAPE,
        "history": {"error": 0.5 * 0.9 ** np.arange(11), "step": [1, 2]},
        "parameters": PARAMETERS,
        "geometry": GEOMETRY.to_dict(),
        "status": "completed",
        "seed": 7,
        "versions": {"hs_autoptycho": "0.1", "numpy": np.__version__},
        "fingerprint": "9f" * 32,
        "notes": ["The disk contradicts the metadata by 3 %."],
        "original_metadata_general": {"title": "MoS2", "date": "2026-11-20"},
    }
    return PtychographicObject.from_reconstruction(np.exp(1j * phase), **{**kwargs, **changes})


def assert_same(left, right):
    """Everything that an object holds is equal."""
    np.testing.assert_array_equal(left.data, right.data)
    assert left.data.dtype == right.data.dtype == np.complex64
    for ours, theirs in zip(left.axes_manager._axes, right.axes_manager._axes, strict=True):
        assert ours.get_axis_dictionary() == theirs.get_axis_dictionary()
    np.testing.assert_array_equal(left.probe.data, right.probe.data)
    assert left.probe.data.dtype == right.probe.data.dtype
    assert left.probe.axes_manager.as_dictionary() == right.probe.axes_manager.as_dictionary()
    np.testing.assert_array_equal(left.positions, right.positions)
    np.testing.assert_array_equal(left.history.data, right.history.data)
    names = "scan_shape parameters geometry status seed versions fingerprint notes trials"
    for name in (*names.split(), "best_parameters"):
        assert getattr(left, name) == getattr(right, name), name
        assert type(getattr(left, name)) is type(getattr(right, name)), name
    assert left.metadata.General.title == right.metadata.General.title


def plain_types(value):
    """The types in a nested value."""
    if isinstance(value, dict):
        return set().union({type(value)}, *map(plain_types, value.values()))
    if isinstance(value, list):
        return set().union({type(value)}, *map(plain_types, value))
    return {type(value)}


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.filterwarnings("ignore:.*NestedDirectoryStore:FutureWarning")
def test_file_gives_everything_back(tmp_path, extension, lazy):
    original = build(tuning=TUNING)
    path = tmp_path / f"object.{extension}"
    original.save(path)
    loaded = hs.load(path, lazy=lazy)
    if lazy:
        assert type(loaded) is LazyPtychographicObject
        assert_same(loaded_copy := loaded.deepcopy(), original)
        assert loaded_copy.resolution() == pytest.approx(original.resolution(), nan_ok=True)
        loaded.compute(close_file=extension == "hspy")
        # nothing is left in the file, which may have gone
        assert type(loaded.metadata.Ptychography.probe) is np.ndarray
        assert type(loaded.metadata.Ptychography.history.error) is np.ndarray
    assert type(loaded) is PtychographicObject
    assert_same(loaded, original)
    types = plain_types(loaded.parameters) | plain_types(loaded.trials)
    assert types <= {dict, list, str, int, float, bool, type(None)}
    loaded.save(tmp_path / f"again.{extension}")
    assert_same(hs.load(tmp_path / f"again.{extension}"), original)


def test_class_is_found_in_a_new_process(tmp_path):
    build().save(tmp_path / "object.hspy")
    code = (
        "import sys, hyperspy.api as hs\n"
        f"print(type(hs.load({str(tmp_path / 'object.hspy')!r})).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PtychographicObject"


def test_shape_and_axes():
    s = build()
    assert s.data.shape == (2, 44, 60)
    assert s.axes_manager.navigation_axes[0].name == "slice"
    x, y = s.axes_manager.signal_axes
    assert (y.name, y.size, y.scale, y.offset, y.units) == ("y", 44, 0.25, -3.0, "Å")
    assert (x.name, x.size, x.scale, x.offset, x.units) == ("x", 60, 0.2, -4.0, "Å")
    assert s.metadata.General.title == "MoS2" and s.metadata.General.date == "2026-11-20"


def test_one_slice_has_a_navigation_axis_of_one():
    s = build(phase=np.zeros((44, 60)))
    assert s.data.shape == (1, 44, 60)
    assert s.axes_manager.navigation_shape == (1,)


def test_axis_of_the_slices_is_kept():
    names = (("slice", 12.5), ("y", 0.25), ("x", 0.2))
    axes = [{"name": n, "scale": s, "offset": 0.0, "units": "Å"} for n, s in names]
    assert build(axes=axes).axes_manager["slice"].scale == 12.5


def test_parameters_are_plain_and_copies():
    s = build()
    assert s.parameters == PLAIN_PARAMETERS
    s.parameters["nested"]["deeper"]["flag"] = False
    assert s.parameters == PLAIN_PARAMETERS


def test_probe():
    probe = build().probe
    assert type(probe) is hs.signals.ComplexSignal2D
    assert probe.axes_manager.navigation_axes[0].name == "mode"
    assert probe.data.shape == (3, 16, 20)
    x, y = probe.axes_manager.signal_axes
    assert (y.name, y.scale, y.offset, y.units) == ("y", 0.25, -2.0, "Å")
    assert (x.name, x.scale, x.offset, x.units) == ("x", 0.2, -2.0, "Å")


def test_probe_powers_strongest_first():
    s = build()
    powers = s.probe_powers
    assert np.all(np.diff(powers) < 0)
    assert powers.sum() == pytest.approx(1)
    direct = (np.abs(s.probe.data) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(powers, direct / direct.sum(), rtol=1e-6)


def test_history():
    history = build().history
    assert type(history) is hs.signals.Signal1D
    assert history.axes_manager.navigation_dimension == 0
    axis = history.axes_manager.signal_axes[0]
    assert (axis.name, axis.size, axis.offset, axis.scale) == ("iteration", 11, 0, 1)
    np.testing.assert_allclose(history.data, 0.5 * 0.9 ** np.arange(11))


def test_plain_attributes():
    s = build()
    assert s.scan_shape == SCAN_SHAPE
    assert s.positions.shape == (35, 2) and s.positions.dtype == float
    assert (s.status, s.seed, s.fingerprint) == ("completed", 7, "9f" * 32)
    assert s.versions["hs_autoptycho"] == "0.1"
    assert s.notes == ["The disk contradicts the metadata by 3 %."]
    assert s.geometry == GEOMETRY
    assert build(seed=None).seed is None
    assert build(seed=2**100).seed == 2**100


def test_trials():
    s = build(tuning=TUNING)
    trials = s.trials
    assert [t["number"] for t in trials] == list(range(40))
    assert trials[3]["objective"] is None and trials[3]["status"] == "failed"
    assert trials[0]["metrics"] == {"data_error": 0.5, "frc": None}
    trials[0]["parameters"].clear()
    assert s.trials[0]["parameters"]


def test_best_parameters_are_the_tuned_ones_alone():
    assert build(tuning=TUNING).best_parameters == {"defocus": 1200.0, "n_probe_modes": 1}


def test_best_parameters_without_a_usable_trial():
    tuning = {**TUNING, "trials": [], "best_trial": None}
    assert build(tuning=tuning).best_parameters == {"defocus": 300.0, "n_probe_modes": 2}


ANSWERS = {
    "intervals": {
        "defocus": {"low": 1150.0, "high": 1260.5},
        "n_probe_modes": {"choices": [1, 2, 3], "probabilities": [0.75, 0.25, 0.0]},
        "detector_flip": {"choices": ["none", "rows"], "probabilities": [1.0, 0.0]},
    },
    "importance": {
        "defocus": {"first": 0.75, "total": 0.8125, "local_first": 0.5, "local_total": 0.625}
    },
    "flat_directions": ["defocus rises with thickness: …"],
    "warnings": ["Only 36 trials can be used.", "2 of 40 trials failed."],
    "standard_error": 0.5,
    "repeat_noise": np.float64(2.0),
    "noise": math.nan,
    "equals": [3, 4],
}


def test_answers_are_kept_in_one_file(tmp_path):
    expected = {
        "defocus": (1150.0, 1260.5),
        "n_probe_modes": {1: 0.75, 2: 0.25, 3: 0.0},
        "detector_flip": {"none": 1.0, "rows": 0.0},
    }
    tuned = build(tuning={**TUNING, "answers": ANSWERS})
    signals = [tuned, tuned.inav[0]]
    for suffix in ("hspy", "zspy"):
        tuned.save(tmp_path / f"tuned.{suffix}")
        signals += [hs.load(tmp_path / f"tuned.{suffix}", lazy=lazy) for lazy in (False, True)]
    for s in signals:
        assert s.parameter_intervals == expected
        assert s.parameter_importance == ANSWERS["importance"]
        assert s.tuning_notes == [*ANSWERS["warnings"], *ANSWERS["flat_directions"]]
    panel = tuned.plot_tuning().axes[1]
    assert panel.get_title("right") == "matters 62%"
    assert any(p.get_x() == 1150.0 for p in panel.patches)
    # the larger one of the errors, about the best objective, 0
    assert any((p.get_y(), p.get_height()) == (-2.0, 4.0) for p in panel.patches)
    assert tuned.plot_tuning(against="seconds").axes[0].get_xlabel() == "seconds, all trials"


@pytest.mark.parametrize("answers", [{}, {"answers": None}, {"answers": {}}])
def test_a_tuning_without_answers_has_none(answers):
    s = build(tuning={**TUNING, **answers})
    assert s.parameter_intervals == {} and s.parameter_importance == {} and s.tuning_notes == []
    assert len(s.plot_tuning().axes) == 3
    with pytest.raises(AttributeError, match="not tuned"):
        _ = build().tuning_notes


@pytest.mark.parametrize("name", ["best_parameters", "trials"])
def test_an_object_that_was_not_tuned_says_so(name):
    with pytest.raises(AttributeError, match="not tuned.*autotune_ptycho"):
        getattr(build(), name)
    assert not hasattr(build(), name)
    with pytest.raises(AttributeError, match="not tuned"):
        build().plot_tuning()


def test_an_object_from_elsewhere_says_so():
    s = PtychographicObject(np.ones((1, 5, 7), dtype=complex))
    with pytest.raises(AttributeError, match="no metadata.Ptychography.probe.*reconstruct_ptycho"):
        _ = s.probe


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scan_shape": (5, 8)}, ValueError, r"positions of shape \(35, 2\).*\(5, 8\)"),
        ({"probe": np.ones(5)}, ValueError, r"\(modes, y, x\).*\(5,\)"),
        ({"axes": [{"name": "y"}]}, ValueError, "axes has 1 entries"),
        ({"parameters": {"a": {"b": [len]}}}, TypeError, r"parameters\.a\.b\[0\].*builtin"),
        ({"parameters": {"a": 1j}}, TypeError, r"parameters\.a is 1j"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        build(**changes)


def test_crop_to_scan():
    s = build(tuning=TUNING)
    field = s.crop_to_scan()
    assert type(field) is PtychographicObject
    # the first pixel of the scan is 3.0 Å = 12 pixels down and 4.0 Å = 20 pixels in
    np.testing.assert_array_equal(field.data, s.data[:, 12 : 44 - 12, 20 : 60 - 15])
    x, y = field.axes_manager.signal_axes
    assert (y.offset, x.offset) == pytest.approx((0, 0))
    assert field.parameters == s.parameters and field.trials == s.trials
    np.testing.assert_array_equal(field.positions, s.positions)
    again = field.crop_to_scan()
    np.testing.assert_array_equal(again.data, field.data)


def test_crop_to_scan_with_a_margin_and_in_other_units():
    s = build()
    np.testing.assert_array_equal(s.crop_to_scan(1.0).data, s.data[:, 8:36, 15:50])
    np.testing.assert_array_equal(s.crop_to_scan(100).data, s.data)
    for axis in s.axes_manager.signal_axes:
        axis.scale, axis.offset, axis.units = axis.scale / 10, axis.offset / 10, "nm"
    assert s.crop_to_scan(1.0).data.shape == (2, 28, 35)
    with pytest.raises(ValueError, match="less than two pixels of the axis y"):
        s.crop_to_scan(-10)
    s.axes_manager["x"].units = "1/nm"
    with pytest.raises(ValueError, match="axis x has the units '1/nm'"):
        s.crop_to_scan()


def test_exchanged_axes_are_refused():
    s = build()
    for turned in (s.swap_axes(1, 2), s.transpose(signal_axes=(2, 1))):
        for use in (
            turned.crop_to_scan,
            turned.plot_summary,
            turned.resolution,
            turned.fourier_magnitude,
            turned.position_markers,
        ):
            with pytest.raises(AxesError, match=r"exchanged.*signal_axes=\('x', 'y'\)"):
                use()
        back = turned.transpose(signal_axes=("x", "y"))
        np.testing.assert_array_equal(back.crop_to_scan().data, s.crop_to_scan().data)
    renamed = s.deepcopy()
    renamed.axes_manager["x"].name = "fast"
    np.testing.assert_array_equal(renamed.crop_to_scan().data, s.crop_to_scan().data)


def test_several_objects_are_not_taken_for_slices():
    s = build()
    several = hs.stack([s, s * np.exp(0.5j)])
    for use in (several.plot_summary, several.fourier_magnitude, several.resolution):
        with pytest.raises(ValueError, match=r"several objects.*choose one, as obj.inav\[:, 0\]"):
            use()
    np.testing.assert_array_equal(several.inav[:, 0].data, s.data)
    assert several.inav[:, 0].resolution() == pytest.approx(s.resolution(), nan_ok=True)


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_a_mirrored_object_is_the_same_mirrored(axes):
    s = build(phase=_band_limited(0.8, 0.1))
    steps = [-1 if axis in axes else 1 for axis in (-1, -2)]
    mirrored = s.isig[:: steps[0], :: steps[1]]
    for margin in (0, 1.0, -0.5):
        field, expected = (o.crop_to_scan(margin) for o in (mirrored, s))
        np.testing.assert_array_equal(field.data, np.flip(expected.data, axes))
        for ours, other, step in zip(
            field.axes_manager.signal_axes, expected.axes_manager.signal_axes, steps, strict=True
        ):
            np.testing.assert_allclose(ours.axis, other.axis[::step], atol=1e-9)
    assert mirrored.resolution() == pytest.approx(s.resolution())
    # at every frequency what is there without the mirror
    magnitude, expected = mirrored.fourier_magnitude(), s.fourier_magnitude()
    data = np.flip(expected.data, axes)
    even = [axis for axis in axes if data.shape[axis] % 2 == 0]  # they have one frequency alone
    np.testing.assert_allclose(magnitude.data, np.roll(data, [1] * len(even), even), atol=1e-6)
    for axis, step in zip(magnitude.axes_manager.signal_axes, steps, strict=True):
        assert axis.scale * step > 0 and axis.index2value(axis.size // 2) == pytest.approx(0)
    panels, others = (o.plot_summary().axes for o in (mirrored, s))
    for panel, other in zip(panels[:2], others[:2], strict=True):
        shown, there = panel.images[0], other.images[0]
        np.testing.assert_allclose(shown.get_array(), there.get_array(), atol=1e-6)
        assert shown.get_extent() == pytest.approx(there.get_extent())
        assert panel.get_xlim() == pytest.approx(other.get_xlim()[:: steps[0]])
        assert panel.get_ylim() == pytest.approx(other.get_ylim()[:: steps[1]])


def test_corners_that_a_rotated_scan_leaves_out_are_not_looked_at():
    """What the probe's centre never reached is noise: blank in the picture, not in the spectrum."""
    shape, angle = (120, 140), np.radians(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    grid = np.stack(np.mgrid[:5, :7], -1).reshape(-1, 2) * 1.5
    positions = grid @ turn.T
    positions += -positions.min(0) + 0.5
    wave = 0.1 * np.sin(np.arange(shape[1]) * 0.9)[None] * np.ones(shape)
    pixel = 0.1
    axes = [{"name": n, "scale": pixel, "offset": 0.0, "units": "Å"} for n in "yx"]
    quiet = build(wave[None], axes=axes, positions=positions)
    y, x = np.mgrid[: shape[0], : shape[1]] * pixel
    back = np.stack([y, x], -1) - positions[0]
    slow, fast = np.moveaxis(back @ turn, -1, 0)
    far = (slow < -2) | (slow > 8) | (fast < -2) | (fast > 11)
    noisy = build(np.where(far, 3.0, wave)[None], axes=axes, positions=positions)
    assert far[quiet_window(quiet)].any()
    np.testing.assert_allclose(
        noisy.fourier_magnitude().data, quiet.fourier_magnitude().data, atol=1e-6
    )
    picture = noisy.plot_summary().axes[0].images[0].get_array()
    assert np.ma.masked_invalid(picture).mask.any()
    assert np.nanmax(np.ma.masked_invalid(picture).filled(np.nan)) < 0.3


def quiet_window(signal):
    """Slices of the array that `crop_to_scan` keeps."""
    cropped = signal.crop_to_scan()
    starts = [
        int(round((new.offset - old.offset) / old.scale))
        for new, old in zip(
            cropped.axes_manager.signal_axes[::-1],
            signal.axes_manager.signal_axes[::-1],
            strict=True,
        )
    ]
    return tuple(
        slice(start, start + size)
        for start, size in zip(starts, cropped.data.shape[-2:], strict=True)
    )


@pytest.mark.parametrize("window", [True, False])
def test_fourier_magnitude_finds_a_wave(window):
    # a field of 40 x 50 pixels in an object of 64 x 85; 4 waves down it, 10 across
    phase = np.zeros((1, 64, 85))
    y, x = np.mgrid[:40, :50]
    phase[0, 12:52, 20:70] = 0.2 * np.cos(2 * np.pi * (4 * y / 40 + 10 * x / 50))
    s = build(phase=phase + 3.0)  # near pi, where a global phase wraps
    magnitude = s.fourier_magnitude(window=window)
    assert type(magnitude) is hs.signals.Signal2D
    assert magnitude.data.shape == (40, 50)
    kx, ky = magnitude.axes_manager.signal_axes
    assert (ky.name, kx.name, ky.units, kx.units) == ("ky", "kx", "1/Å", "1/Å")
    row, column = np.unravel_index(magnitude.data.argmax(), magnitude.data.shape)
    found = np.array([ky.index2value(row), kx.index2value(column)])
    np.testing.assert_allclose(abs(found), [4 / 10, 10 / 10], atol=1e-9)
    assert magnitude.data.max() == pytest.approx(0.1, rel=0.02)
    assert magnitude.data[20, 25] < 1e-3


def test_fourier_magnitude_of_one_slice():
    phase = np.zeros((2, 44, 60))
    phase[1] = 0.1 * np.random.default_rng(0).normal(size=(44, 60))
    s = build(phase=phase)
    assert s.fourier_magnitude(0).data.max() < 1e-6
    np.testing.assert_allclose(
        s.fourier_magnitude(-1).data, s.fourier_magnitude().data, rtol=1e-4, atol=1e-7
    )
    with pytest.raises(IndexError, match="slice 2 was asked for, but the object has 2"):
        s.fourier_magnitude(2)


def _band_limited(limit, noise, shape=(150, 190), seed=0):
    rng = np.random.default_rng(seed)
    # drawn on a larger grid, so that the field is not periodic
    fy, fx = (np.fft.fftfreq(2 * n, d) for n, d in zip(shape, PIXEL, strict=True))
    inside = np.hypot(fy[:, None], fx) < limit
    wave = np.fft.ifft2(np.fft.fft2(rng.normal(size=inside.shape)) * inside).real
    wave = wave[: shape[0], : shape[1]]
    return 0.1 * wave / wave.std() + 0.1 * noise * rng.normal(size=shape)


@pytest.mark.parametrize("limit", [0.4, 0.8, 1.3])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_resolution_of_a_known_band_limit(limit, noise):
    assert build(phase=_band_limited(limit, noise)).resolution() == pytest.approx(
        1 / limit, rel=0.15
    )


def test_resolution_of_a_crystal_is_its_last_spot():
    y, x = np.mgrid[:150, :190]
    y, x = y * PIXEL[0], x * PIXEL[1]
    waves = ((0.3, 0.1), (-0.2, 0.4), (0.6, 0.35), (0.1, -0.9))
    phase = sum(0.02 * np.cos(2 * np.pi * (a * y + b * x)) for a, b in waves)
    phase = phase + 0.01 * np.random.default_rng(0).normal(size=phase.shape)
    assert build(phase=phase).resolution() == pytest.approx(1 / np.hypot(0.1, 0.9), rel=0.1)


def test_resolution_of_noise_is_nan():
    assert math.isnan(build(phase=_band_limited(0.4, 1e4)).resolution())
    assert math.isnan(build(phase=np.zeros((44, 60))).resolution())


def test_resolution_from_a_ring_correlation():
    s = build()
    freq = np.linspace(0, 2.0, 101)
    s.metadata.Ptychography.frc = {"freq": freq, "values": np.clip(2 - 2 * freq, 0, 1)}
    # the threshold comes down to 0.1716 for rings of many pixels: 2 - 2 f = T near f = 0.9
    n = np.sqrt(2 * np.pi * 0.88 / 0.02)
    threshold = (0.2071 + 1.9102 / n) / (1.2071 + 0.9102 / n)
    assert s.resolution() == pytest.approx(1 / (1 - threshold / 2), rel=0.01)
    s.metadata.Ptychography.frc = {"freq": freq, "values": np.ones(101)}
    assert s.resolution() == pytest.approx(0.5)
    s.metadata.Ptychography.frc = {"freq": freq, "values": np.zeros(101)}
    assert math.isnan(s.resolution())


@pytest.mark.parametrize("lazy", [False, True])
def test_magnitude_by_abs_is_a_plain_image(lazy):
    s = build()
    magnitude = abs(s.as_lazy() if lazy else s)
    assert isinstance(magnitude, hs.signals.Signal2D) and not magnitude.metadata.Signal.signal_type
    np.testing.assert_array_equal(np.asarray(magnitude.data), abs(s.data))
    assert type(-s) is PtychographicObject


def test_class_is_kept_where_the_data_stay_complex_images():
    s = build(tuning=TUNING)
    image = s.deepcopy().inav[0]
    kept = (s * 2, s - s, s * np.exp(0.3j), s.isig[3:20, 0.0:5.0], s.inav[1:], s.deepcopy())
    for result in (*kept, s.sum("slice"), image, image.isig[2:30, 4:]):
        assert type(result) is PtychographicObject
        assert result.trials == s.trials
        assert result.probe.data.shape == (3, 16, 20)
    assert image.crop_to_scan().data.shape == (20, 25)
    lazy = s.as_lazy()
    assert type(lazy) is LazyPtychographicObject
    assert type(lazy.isig[2:, 3:] * 2) is LazyPtychographicObject
    assert lazy.crop_to_scan().data.shape == (2, 20, 25)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", ["real", "imag", "amplitude", "phase"])
def test_real_parts_are_plain_images(name, lazy):
    s = build()
    part = getattr(s.as_lazy() if lazy else s, name)
    assert isinstance(part, hs.signals.Signal2D)
    assert part.metadata.Signal.signal_type == ""
    assert part.axes_manager["x"].scale == 0.2
    part = part.deepcopy()
    part.change_dtype("complex64")
    assert not isinstance(part, PtychographicObject)
    assert s.metadata.Signal.signal_type == "ptychographic_object"


def test_real_parts_can_be_set_and_unwrapped():
    s = build()
    s.phase = np.full(s.data.shape, 0.5)
    np.testing.assert_allclose(np.angle(s.data), 0.5, rtol=1e-6)
    unwrapped = s.unwrapped_phase(show_progressbar=False)
    assert type(unwrapped) is hs.signals.Signal2D
    assert type(s.angle()) is hs.signals.Signal2D
    transform = s.fft()
    assert type(transform) is hs.signals.ComplexSignal2D
    assert transform.axes_manager["x"].scale == pytest.approx(1 / 12)


@pytest.mark.parametrize("lazy", [False, True])
def test_plots_come_as_figures(lazy):
    s = build(tuning=TUNING)
    s = s.as_lazy() if lazy else s
    summary, tuning = s.plot_summary(), s.plot_tuning()
    assert isinstance(summary, matplotlib.figure.Figure)
    titles = [ax.get_title(loc) for ax in summary.axes for loc in ("left", "center")]
    for start in ("Phase", "Fourier magnitude", "mode 1: ", "mode 3: ", "Error by iteration"):
        assert any(title.startswith(start) for title in titles), start
    phase = summary.axes[0].images[0]
    assert phase.get_array().shape == (20, 25)
    # half a pixel around the first and the last, from the offset of the axes
    assert phase.get_extent() == pytest.approx((-0.1, 4.9, 4.875, -0.125))
    assert [ax.get_xlabel() for ax in tuning.axes] == ["trial", "defocus", "n_probe_modes"]
    assert tuning.axes[1].get_xscale() == "log"  # as the space says


def test_summary_survives_a_diverged_run():
    phase = np.zeros((1, 44, 60))
    s = build(phase=phase, status="diverged", history={"error": [1.0, np.nan]})
    s.data[:] = np.nan
    figure = s.plot_summary()
    figure.canvas.draw()
    assert any("diverged" in ax.get_title("left") for ax in figure.axes)
    assert math.isnan(s.resolution())
