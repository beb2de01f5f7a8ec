"""The figures: what is in their panels."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hs_autoptycho.plotting import complex_to_rgb, robust_limits, summary_figure, tuning_figure


def oklab_lightness(rgb):
    """Lightness of sRGB in the Oklab space (Ottosson 2020)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    lms = np.cbrt(linear @ np.array(to_lms).T)
    return lms @ np.array([0.2104542553, 0.7936177850, -0.0040720468])


def test_rgb_lightness_is_the_amplitude_and_the_same_for_all_phases():
    phase = np.linspace(-np.pi, np.pi, 73)
    for amplitude in (1.0, 0.5, 0.2):
        rgb = complex_to_rgb(amplitude * np.exp(1j * phase), maximum=1.0)
        assert rgb.shape == (73, 3) and rgb.min() >= 0 and rgb.max() <= 1
        np.testing.assert_allclose(oklab_lightness(rgb), 0.76 * amplitude, atol=0.01)


def test_rgb_hue_is_cyclic_and_tells_phases_apart():
    turn = complex_to_rgb(np.exp(1j * np.linspace(0, 2 * np.pi, 37)))
    np.testing.assert_allclose(turn[0], turn[-1], atol=1e-9)
    steps = np.linalg.norm(np.diff(turn, axis=0), axis=1)
    assert steps.min() > 0.02
    assert np.linalg.norm(turn[0] - turn[18]) > 0.4


def test_rgb_of_nothing_is_black():
    assert complex_to_rgb(np.zeros((3, 4), complex)).max() == 0
    field = np.full((3, 4), np.nan + 0j)
    field[1, 2] = 2j
    rgb = complex_to_rgb(field)
    assert rgb.shape == (3, 4, 3) and rgb[0, 0].max() == 0 and rgb[1, 2].max() > 0.5


def test_robust_limits():
    image = np.linspace(0, 1, 1001)
    image[500] = 1e9
    low, high = robust_limits(image, percentile=1)
    assert (low, high) == pytest.approx((0.01, 0.99), abs=0.005)
    assert robust_limits(np.full((3, 3), np.nan)) == (0.0, 1.0)
    assert robust_limits(np.full((3, 3), 2.0)) == (1.5, 2.5)


def summary(**changes):
    rng = np.random.default_rng(0)
    kwargs = {
        "phase": rng.normal(size=(30, 40)),
        "pixel": (0.5, 0.4),
        "origin": (2.0, -1.0),
        "fourier_magnitude": rng.uniform(0.1, 1, size=(30, 40)),
        "probe": rng.normal(size=(2, 12, 14)) + 1j * rng.normal(size=(2, 12, 14)),
        "probe_pixel": (0.5, 0.4),
        "error": np.array([1.0, 0.5, 0.2, 0.1]),
        "status": "completed",
        "title": "a sample",
    }
    figure = summary_figure(**{**kwargs, **changes})
    figure.canvas.draw()
    return figure


def panel(figure, start):
    """The axes whose title begins so."""
    axes = [
        ax
        for ax in figure.axes
        if ax.get_title("left").startswith(start) or ax.get_title().startswith(start)
    ]
    assert len(axes) == 1, start
    return axes[0]


def test_summary_panels_are_calibrated():
    figure = summary()
    assert len(figure.axes) == 2 + 2 + 1
    assert figure.get_suptitle() == "a sample"
    phase = panel(figure, "Phase")
    assert (phase.get_xlabel(), phase.get_ylabel()) == ("x (Å)", "y (Å)")
    assert phase.images[0].get_extent() == pytest.approx((-1.2, 14.8, 16.75, 1.75))
    fourier = panel(figure, "Fourier magnitude")
    assert (fourier.get_xlabel(), fourier.get_ylabel()) == ("$k_x$ (1/Å)", "$k_y$ (1/Å)")
    left, right, bottom, top = fourier.images[0].get_extent()
    # even sizes: the pixel of zero is the middle one, and its centre is at zero
    step_x, step_y = 1 / 16, 1 / 15
    assert (left, right) == pytest.approx((-20.5 * step_x, 19.5 * step_x))
    assert (top, bottom) == pytest.approx((-15.5 * step_y, 14.5 * step_y))
    error = panel(figure, "Error by iteration: completed, last 0.1")
    assert (error.get_xlabel(), error.get_ylabel()) == ("iteration", "error")
    np.testing.assert_array_equal(error.lines[0].get_xdata(), range(4))
    np.testing.assert_array_equal(error.lines[0].get_ydata(), [1.0, 0.5, 0.2, 0.1])
    assert error.get_yscale() == "log"


def test_summary_names_the_power_of_each_mode():
    probe = np.ones((3, 12, 14), complex) * np.sqrt([0.7, 0.2, 0.1])[:, None, None]
    figure = summary(probe=probe)
    for start in ("mode 1: 70 %", "mode 2: 20 %", "mode 3: 10 %"):
        assert panel(figure, start).images[0].get_array().shape == (12, 14, 3)
    texts = [text.get_text() for text in panel(figure, "mode 1").texts]
    assert texts == ["1 Å"]  # of a probe 5.6 Å wide
    assert len(panel(figure, "mode 1").child_axes) == 1  # the colour wheel


def test_summary_adds_up_the_modes_it_does_not_show():
    figure = summary(probe=np.ones((8, 12, 14), complex))
    assert len(figure.axes) == 2 + 6 + 1
    texts = [t.get_text() for sub in figure.findobj(plt.Text) for t in [sub]]
    assert any("2 weaker modes hold 25 %" in text for text in texts)


@pytest.mark.parametrize(
    ("pixel", "unit", "right"),
    [((0.5, 0.4), "Å", 14.8), ((5.0, 4.0), "nm", 15.7), ((5e3, 4e3), "µm", 15.8)],
)
def test_summary_takes_a_unit_that_reads_well(pixel, unit, right):
    phase = panel(summary(pixel=pixel), "Phase")
    assert phase.get_xlabel() == f"x ({unit})"
    assert phase.images[0].get_extent()[1] == pytest.approx(right, abs=0.01)


@pytest.mark.parametrize("error", [[np.nan, np.nan], [0.3], [], [-1.0, -2.0, -3.0]])
def test_summary_of_odd_errors(error):
    assert panel(summary(error=np.array(error)), "Error").get_yscale() == "linear"


def trials_of(count, parameters, failed=()):
    """Trials whose objective falls, with the parameters as functions of the number."""
    return [
        {
            "number": i,
            "parameters": {name: value(i) for name, value in parameters.items()},
            "objective": None if i in failed else 1.0 + (i - 6) ** 2 / 100,
            "status": "diverged" if i in failed else "completed",
        }
        for i in range(count)
    ]


def crosses(ax):
    """x of the marks on the top edge."""
    lines = [line for line in ax.lines if line.get_marker() == "x"]
    return np.concatenate([line.get_xdata() for line in lines]) if lines else np.array([])


def star(ax):
    (line,) = (line for line in ax.lines if line.get_marker() == "*")
    return float(line.get_xdata()[0]), float(line.get_ydata()[0])


def test_tuning_convergence():
    figure = tuning_figure(
        trials_of(10, {"defocus": lambda i: 100.0 + 7 * i}, failed=(0, 3)), objective="held_out"
    )
    figure.canvas.draw()
    convergence, defocus = figure.axes
    assert (convergence.get_xlabel(), convergence.get_ylabel()) == ("trial", "held_out")
    values = np.array([np.nan, 1.25, 1.16, np.nan, 1.04, 1.01, 1.0, 1.01, 1.04, 1.09])
    points = convergence.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], np.flatnonzero(np.isfinite(values)))
    np.testing.assert_allclose(points[:, 1], values[np.isfinite(values)])
    (steps,) = (ln for ln in convergence.lines if ln.get_drawstyle() == "steps-post")
    np.testing.assert_allclose(steps.get_ydata(), np.fmin.accumulate(values))
    np.testing.assert_array_equal(crosses(convergence), [0, 3])
    assert star(convergence) == (6, 1.0)
    assert (defocus.get_xlabel(), defocus.get_ylabel()) == ("defocus", "held_out")
    np.testing.assert_array_equal(crosses(defocus), [100, 121])
    assert star(defocus) == (142, 1.0)
    assert defocus.get_title("left") == "best: 142"
    labels = [text.get_text() for text in convergence.get_legend().get_texts()]
    assert labels == ["trial", "best so far", "best", "failed or diverged"]


def test_tuning_marks_the_trial_it_is_told():
    figure = tuning_figure(trials_of(9, {"defocus": float}), best_trial=8)
    assert star(figure.axes[0]) == (8, 1.04)
    figure = tuning_figure(trials_of(9, {"defocus": float}, failed=(8,)), best_trial=8)
    assert star(figure.axes[0]) == (6, 1.0)


def test_tuning_axes_follow_the_kind_of_parameter():
    parameters = {
        "step_object": lambda i: 10.0 ** (-4 + i / 3),
        "defocus": lambda i: 1.0 + 300.0 * i,
        "n_probe_modes": lambda i: [1, 2, 4][i % 3],
        "n_slices": lambda i: i + 1,
        "detector_flip": lambda i: ["none", "flip_x"][i % 2],
        "position_correction_start": lambda i: [None, 20, 5][i % 3],
        "fixed": lambda i: True,
    }
    figure = tuning_figure(trials_of(12, parameters))
    figure.canvas.draw()
    axes = {ax.get_xlabel(): ax for ax in figure.axes}
    assert set(axes) == {"trial", *parameters}
    assert axes["step_object"].get_xscale() == "log"
    assert axes["defocus"].get_xscale() == "linear"
    assert list(axes["n_probe_modes"].get_xticks()) == [1, 2, 4]
    assert all(float(tick).is_integer() for tick in axes["n_slices"].get_xticks())

    def ticks(name):
        return [text.get_text() for text in axes[name].get_xticklabels()]

    assert ticks("detector_flip") == ["flip_x", "none"]
    assert ticks("position_correction_start") == ["5", "20", "None"]
    assert ticks("fixed") == ["True"]
    assert axes["detector_flip"].get_title("left") == "best: none"
    offsets = axes["detector_flip"].collections[0].get_offsets()[:, 0]
    np.testing.assert_array_equal(np.rint(offsets), [1, 0] * 6)


def test_tuning_scale_is_what_the_range_says():
    parameters = {"step": lambda i: 10.0 ** (-4 + i / 3), "defocus": lambda i: 100.0 + i}
    figure = tuning_figure(trials_of(12, parameters), logarithmic={"step": False, "defocus": True})
    assert [ax.get_xscale() for ax in figure.axes[1:]] == ["linear", "log"]


@pytest.mark.parametrize("count", range(1, 13))
def test_tuning_has_a_panel_for_every_parameter(count):
    names = [f"p{i}" for i in range(count)]
    figure = tuning_figure(trials_of(4, dict.fromkeys([*names, "other"], float)), names=names)
    figure.canvas.draw()
    assert [ax.get_xlabel() for ax in figure.axes] == ["trial", *names]
    boxes = [ax.get_window_extent() for ax in figure.axes]
    for i, box in enumerate(boxes):
        assert box.width > 60 and box.height > 60
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


@pytest.mark.parametrize("objective", [None, math.nan, math.inf])
def test_tuning_when_everything_failed(objective):
    trials = trials_of(5, {"defocus": float, "flip": str})
    for trial in trials:
        trial.update(objective=objective)
    figure = tuning_figure(trials, best_trial=2)
    figure.canvas.draw()
    assert figure.axes[0].get_title("left") == "No trial gave an objective"
    for ax in figure.axes:
        assert len(crosses(ax)) == 5


def test_tuning_of_no_trials_and_of_one():
    assert len(tuning_figure([], names=["defocus"]).axes) == 2
    assert len(tuning_figure([]).axes) == 1
    figure = tuning_figure(trials_of(1, {"defocus": float}))
    figure.canvas.draw()
    assert star(figure.axes[1]) == pytest.approx((0, 1.36))


def test_tuning_without_a_parameter_in_some_trials():
    trials = trials_of(4, {"defocus": float})
    trials[1]["parameters"] = {}
    figure = tuning_figure(trials)
    figure.canvas.draw()
    ticks = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert ticks == ["0", "2", "3", "None"]


def test_tuning_draws_outliers_on_a_logarithmic_axis():
    trials = trials_of(5, {"defocus": float})
    trials[0]["objective"] = 1e4
    assert tuning_figure(trials).axes[0].get_yscale() == "log"
    for trial in trials:
        trial["objective"] *= -1
    assert tuning_figure(trials).axes[0].get_yscale() == "linear"


def study():
    """Six short trials, three full ones of which two repeat short ones, and a repeat."""
    short = {"n_iterations": 5, "part": 0.25, "reduction": 1}
    full = {"n_iterations": 20, "part": 1.0, "reduction": 1}
    trials = []
    for i, value in enumerate([5.0, 4.0, 3.0, 2.5, None, 3.5]):
        trials.append({"number": i, "parameters": {"defocus": 10.0 * i}, "objective": value})
        trials[-1].update(fidelity=short, status="pruned" if value is None else "completed")
    for i, (place, value) in enumerate([(30.0, 1.5), (20.0, 1.8), (25.0, 1.4), (25.0, 1.3)]):
        trials.append({"number": 6 + i, "parameters": {"defocus": place}, "objective": value})
        trials[-1].update(fidelity=full, purpose="repeat" if i == 3 else "search")
    for trial in trials:
        trial["duration"] = 4.0 * trial["fidelity"]["part"]
    return trials


def test_tuning_of_several_fidelities():
    figure = tuning_figure(study(), objective="held_out", best_trial=8)
    figure.canvas.draw()
    convergence, panel = figure.axes
    full, short, repeat = convergence.collections[:3]
    np.testing.assert_allclose(full.get_offsets(), [[6, 1.5], [7, 1.8], [8, 1.4]])
    # the same parameters differ by -1.0 and -1.2
    np.testing.assert_allclose(
        short.get_offsets(), [[0, 3.9], [1, 2.9], [2, 1.9], [3, 1.4], [5, 2.4]]
    )
    np.testing.assert_allclose(repeat.get_offsets(), [[9, 1.3]])
    (steps,) = (ln for ln in convergence.lines if ln.get_drawstyle() == "steps-post")
    assert np.isnan(steps.get_ydata()[:6]).all()
    np.testing.assert_allclose(steps.get_ydata()[6:], [1.5, 1.5, 1.4, 1.4])
    assert star(convergence) == (8, 1.4) and star(panel) == (25, 1.4)
    assert not len(crosses(convergence))
    labels = [text.get_text() for text in convergence.get_legend().get_texts()]
    expected = ["full length", "short", "repeated", "best so far", "best", "stopped early"]
    assert labels == expected


def test_tuning_with_halves_of_the_counts():
    """They are of another scale each, and never the best so far."""
    trials = study()
    for i, (place, value, split) in enumerate([(20.0, 0.8, 1), (25.0, 0.1, 1), (20.0, 2.8, 2)]):
        fidelity = {"n_iterations": 20, "part": 1.0, "reduction": 1, "split": split}
        trials.append({"number": 10 + i, "parameters": {"defocus": place}, "objective": value})
        trials[-1].update(fidelity=fidelity, duration=4.0)
    figure = tuning_figure(trials, objective="held_out")
    convergence = figure.axes[0]
    full, short = convergence.collections[:2]
    np.testing.assert_allclose(full.get_offsets(), [[6, 1.5], [7, 1.8], [8, 1.4]])
    # 1.0 and 1.3 below what the same parameters have at full length, and 1.0 above
    np.testing.assert_allclose(short.get_offsets()[5:], [[10, 1.95], [11, 1.25], [12, 1.8]])
    assert star(convergence) == (8, 1.4)
    labels = [text.get_text() for text in convergence.get_legend().get_texts()]
    assert labels[:2] == ["full length", "short, half of the counts"]


def test_tuning_against_seconds():
    convergence = tuning_figure(study(), against="seconds").axes[0]
    assert convergence.get_xlabel() == "seconds, all trials"
    np.testing.assert_allclose(convergence.collections[0].get_offsets()[:, 0], [10, 14, 18])
    with pytest.raises(ValueError, match="against=\"hours\"|against='hours'"):
        tuning_figure(study(), against="hours")


def test_tuning_shows_what_is_known():
    trials = study()
    for i, trial in enumerate(trials):
        trial["parameters"].update(n_probe_modes=1 + i % 2, detector_flip=["none", "rows"][i % 2])
    figure = tuning_figure(
        trials,
        intervals={
            "defocus": (21.0, 27.0),
            "n_probe_modes": {1: 0.25, 2: 0.75},
            "detector_flip": {"none": 0.98, "rows": 0.02},
        },
        importance={"defocus": 0.62},
        noise=0.05,
    )
    figure.canvas.draw()
    axes = {ax.get_xlabel(): ax for ax in figure.axes}
    (interval,) = (p for p in axes["defocus"].patches if p.get_height() == 1)
    assert (interval.get_x(), interval.get_width()) == pytest.approx((21, 6))
    for ax in figure.axes:
        (band,) = (p for p in ax.patches if p.get_width() == 1)
        assert (band.get_y(), band.get_height()) == pytest.approx((1.35, 0.1))
    assert axes["defocus"].get_title("right") == "matters 62%"
    assert axes["n_probe_modes"].get_title("right") == ""

    def ticks(name):
        return [text.get_text() for text in axes[name].get_xticklabels()]

    assert ticks("n_probe_modes") == ["1\n25%", "2\n75%"]
    assert ticks("detector_flip") == ["none\n98%", "rows\n2%"]


def test_tuning_leaves_out_trials_in_which_a_parameter_has_no_effect():
    trials = trials_of(20, {"thickness": lambda i: 10.0 + i})
    for trial in trials[::2]:
        trial["parameters"] = {}
    figure = tuning_figure(trials)
    figure.canvas.draw()
    x = figure.axes[1].collections[0].get_offsets()[:, 0]
    np.testing.assert_allclose(np.ma.filled(x, np.nan)[1::2], 11.0 + 2 * np.arange(10))
    assert figure.axes[1].get_title("left") == "best: None"
