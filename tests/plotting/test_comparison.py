"""Trials beside each other, and trials chosen with the mouse."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backend_bases import MouseEvent

from hs_autoptycho.plotting import compare_trials, tuning_figure
from hs_autoptycho.plotting.comparison import with_error


def click(figure, ax, x, y):
    """Press the left button on a place of the data."""
    place = ax.transData.transform((x, y))
    event = MouseEvent("button_press_event", figure.canvas, *place, button=1)
    figure.canvas.callbacks.process("button_press_event", event)


def rings(ax):
    """Places of the rings about picked trials."""
    (drawn,) = (c for c in ax.collections if c.get_label() == "_picked")
    return np.asarray(drawn.get_offsets())


# --------------------------------------------------------------------------------- comparison


def test_differences_are_paired_by_block(trials):
    comparison = compare_trials(trials, [17, 21, 15], objective="held_out")
    assert [t["number"] for t in comparison.trials] == [17, 21, 15]
    assert comparison.differences[0] == (0.0, 0.0)
    by_block = np.subtract(trials[21]["blocks"], trials[17]["blocks"])
    mean, error = comparison.differences[1]
    assert mean == pytest.approx(trials[21]["objective"] - trials[17]["objective"])
    assert error == pytest.approx(by_block.std(ddof=1) / math.sqrt(12))
    # what the blocks have in common drops out
    assert error < 0.1 * np.std(trials[21]["blocks"]) / math.sqrt(12)


def test_what_cannot_be_compared_is_said(trials):
    comparison = compare_trials(trials, [17, 2, 5])
    assert all(math.isnan(v) for pair in comparison.differences[1:] for v in pair)
    assert repr(comparison).count("not comparable") == 2
    no_blocks = [{k: v for k, v in t.items() if k != "blocks"} for t in trials]
    mean, error = compare_trials(no_blocks, [17, 21]).differences[1]
    assert mean < 0 and math.isnan(error)
    comparison.plot().canvas.draw()


def test_the_table_has_parameters_with_units(trials):
    comparison = compare_trials(trials, [17, 21], objective="held_out", units={"defocus": "Å"})
    lines = repr(comparison).splitlines()
    assert lines[0].split() == ["trial", "17", "trial", "21"]
    assert lines[1].split() == ["held_out", "0.530347", "0.511534"]
    assert lines[2].split() == ["less", "that", "of", "17", "-0.01881", "±", "0.00044"]
    assert any(line.split() == ["defocus", "(Å)", "310.329", "333.936"] for line in lines)
    assert comparison.parameters["n_probe_modes"] == [4, 1]
    del trials[21]["parameters"]["defocus"]
    assert compare_trials(trials, [17, 21]).parameters["defocus"][1] is None


@pytest.mark.parametrize(
    ("numbers", "match"),
    [([3], "at least two"), ([3, 3], "different"), ([3, 99], "no trial 99; .* 0 to 22")],
)
def test_wrong_numbers_are_named(trials, numbers, match):
    with pytest.raises(ValueError, match=match):
        compare_trials(trials, numbers)


def test_errors_are_written_to_two_digits():
    assert with_error(-0.01881, 0.00044) == "-0.01881 ± 0.00044"
    assert with_error(12.3, 0.96) == "+12.30 ± 0.96"
    assert with_error(1234.5, 210.0) == "+1.23e+03 ± 2.1e+02"
    assert with_error(0.5, math.nan) == "+0.5"
    assert with_error(0.0, 0.0) == "+0 ± 0"
    assert with_error(math.nan, math.nan) == "not comparable"


def test_the_figure(obj):
    comparison = obj.compare_trials([17, 21, 15])
    figure = comparison.plot()
    figure.canvas.draw()
    curves, blocks = figure.axes[:2]
    assert (curves.get_xlabel(), curves.get_ylabel()) == ("iteration", "held_out")
    assert [len(line.get_xdata()) for line in curves.lines] == [12, 12, 12]
    levels = [line.get_ydata()[0] for line in blocks.lines if len(line.get_ydata()) == 2]
    expected = [comparison.differences[1][0], comparison.differences[2][0], 0]
    np.testing.assert_allclose(levels, expected)
    figure = replace(comparison, objects=[obj, obj, obj]).plot()
    pictures = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title("left") for ax in pictures] == ["trial 17", "trial 21", "trial 15"]
    assert [text.get_text() for text in pictures[0].texts] == ["2 Å"]


def test_trials_are_made_again_on_request(tuned, scan):
    obj = tuned[0]
    best = obj._tuning()["best_trial"]
    numbers = [best, (best + 1) % 4]
    assert obj.compare_trials(numbers).objects == []
    comparison = obj.compare_trials(numbers, signal=scan)
    for trial, again in zip(comparison.trials, comparison.objects, strict=True):
        assert again.parameters["defocus"] == trial["parameters"]["defocus"]
        assert again.parameters["scan_rotation"] == 12
        assert again.parameters["n_iterations"] == 2 and again.seed == trial["seed"]
    np.testing.assert_array_equal(comparison.objects[0].data, obj.data)  # as many passes, one seed
    assert comparison.objects[1].data.shape != obj.data.shape or not np.array_equal(
        comparison.objects[1].data, obj.data
    )
    assert len([ax for ax in comparison.plot().axes if ax.images]) == 2
    with pytest.raises(ValueError, match="not the scan that was tuned"):
        obj.compare_trials(numbers, signal=scan * 2)


def test_trials_of_another_engine_are_not_made_again(obj):
    obj.metadata.Ptychography.tuning.engine = "py4dstem"
    assert len(obj.compare_trials([15, 17]).trials) == 2
    with pytest.raises(ValueError, match="reconstructed by py4dstem"):
        obj.compare_trials([15, 17], signal=object())


# ------------------------------------------------------------------------------------ picking


def test_trials_are_picked_with_the_mouse(obj):
    figure = obj.plot_tuning()
    figure.canvas.draw()
    trials = obj.trials
    convergence, defocus = figure.axes[:2]
    title = convergence.get_title("left")
    assert figure.picked_trials == []
    click(figure, convergence, 17, trials[17]["objective"])
    assert figure.picked_trials == [17]
    assert convergence.get_title("left") == "Trial 17: 0.530347"
    # in any panel, and short trials where they are drawn
    click(figure, defocus, trials[15]["parameters"]["defocus"], trials[15]["objective"])
    assert figure.picked_trials == [17, 15]
    assert convergence.get_title("left") == "Trials 15 - 17 = -0.01999 ± 0.00056"
    np.testing.assert_allclose(rings(convergence)[:, 0], [17, 15])
    expected = [trials[n]["parameters"]["defocus"] for n in (17, 15)]
    np.testing.assert_allclose(rings(defocus)[:, 0], expected)
    click(figure, convergence, 8.5, 0.515)  # nothing is there
    assert figure.picked_trials == [17, 15]
    comparison = obj.compare_trials(figure.picked_trials)
    assert [t["number"] for t in comparison.trials] == [17, 15]
    click(figure, convergence, 17, trials[17]["objective"])
    click(figure, convergence, 15, trials[15]["objective"])
    assert figure.picked_trials == [] and len(rings(defocus)) == 0
    assert convergence.get_title("left") == title


def test_the_nearest_of_two_is_picked(trials):
    near, far = trials[15], trials[16]
    near["objective"], far["objective"] = 0.51, 0.5101
    near["parameters"]["defocus"], far["parameters"]["defocus"] = 300.0, 300.3
    figure = tuning_figure(trials)
    figure.canvas.draw()
    click(figure, figure.axes[1], 300.0, 0.51)
    assert figure.picked_trials == [15]


def test_picks_outlive_another_drawing_of_the_figure(trials):
    figure = tuning_figure(trials)
    figure.canvas.draw()
    click(figure, figure.axes[0], 17, trials[17]["objective"])
    assert tuning_figure(trials, figure=figure) is figure
    assert figure.picked_trials == [17]
    np.testing.assert_allclose(rings(figure.axes[0])[:, 0], [17])
    click(figure, figure.axes[0], 17, trials[17]["objective"])
    assert figure.picked_trials == []


def test_nothing_to_pick(trials):
    figure = tuning_figure([{**t, "objective": None, "status": "failed"} for t in trials])
    assert not hasattr(figure, "picked_trials")
