"""The picture of a designed experiment: scores by dose and by setting, and what they look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.plotting.style import (
    BLUE,
    GREY,
    STYLE,
    VERMILION,
    draw_scale_bar,
    hide_ticks,
    robust_limits,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {
    "scan_step": "scan step",
    "defocus": "defocus",
    "convergence_angle": "convergence angle",
}
_MOST_DOSES = 6  # whose images are shown


def design_figure(
    *,
    doses: Sequence[float],
    trials: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    units: Mapping[str, str],
    score: str,
    best: Sequence[Mapping[str, float]],
    best_scores: Sequence[Mapping[str, float]],
    reference: Mapping[str, float] | None,
    reference_scores: Sequence[Mapping[str, float]],
    images: np.ndarray,
    truth: np.ndarray,
    pixel: tuple[float, float],
) -> Figure:
    """Draw scores by dose and by setting, and the reconstructions of best and reference.

    Parameters
    ----------
    doses
        In e/Å², rising.
    trials
        Dictionaries with ``parameters`` (and in them the ``dose``), ``objective`` (1 less the
        score, or None) and ``purpose``.
    names
        Settings that were searched.
    units
        Of the settings, by name.
    score
        Its name.
    best, best_scores
        Settings, and ``mean`` and ``std`` of their score, by dose.
    reference, reference_scores
        The same of the reference; None and empty if there was none.
    images
        Phases in rad, (best and reference, doses, Y, X).
    truth
        True phase, (Y, X).
    pixel
        (y, x) in Å.
    """
    import matplotlib.pyplot as plt

    shown = np.unique(np.linspace(0, len(doses) - 1, min(len(doses), _MOST_DOSES)).round())
    shown = shown.astype(int)
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(doses)))
    rows = len(images)
    top = 1 + len(names)
    with plt.rc_context(STYLE):
        width = max(2.6 * top, 2.0 * (len(shown) + 1))
        figure = plt.figure(figsize=(width, 2.8 + 2.1 * rows), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=[2.8, 2.1 * rows])
        axes = upper.subplots(1, top)
        _draw_doses(np.atleast_1d(axes)[0], doses, best_scores, reference_scores, score)
        for ax, name in zip(axes[1:], names, strict=True):
            _draw_setting(ax, name, units[name], doses, trials, best, reference, colors)
            ax.set_ylabel(score)
        if len(doses) > 1:
            style = {"frameon": False, "markerscale": 1.5, "handletextpad": 0.1}
            place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0}
            axes[-1].legend(title="e/Å²", title_fontsize=8, **style, **place)
        panels = lower.subplots(rows, len(shown) + 1, squeeze=False)
        limits = robust_limits(truth)
        labels = ("best", "reference")[:rows]
        scores = (best_scores, reference_scores)
        for row, label in enumerate(labels):
            for column, i in enumerate(shown):
                ax = panels[row, column]
                _draw_image(ax, images[row, i], pixel, limits)
                title = f"{_dose(doses[i])} e/Å²\n" if row == 0 else ""
                mean = scores[row][i]["mean"]  # nan where there was no repeat
                ax.set_title(f"{title}{label} {mean:.3f}" if mean == mean else f"{title}{label}")
                if row == 0:
                    ax.set_xlabel(_in_words(best[i], names, units), fontsize=7)
            last = panels[row, -1]
            if row == 0:
                shown_truth = _draw_image(last, truth, pixel, limits)
                last.set_title("truth")
                bar = last.inset_axes((1.03, 0, 0.06, 1))
                figure.colorbar(shown_truth, cax=bar, label="phase (rad)", extend="both")
                draw_scale_bar(last, truth.shape, pixel[1])
            else:
                last.set_axis_off()
        if reference is not None:
            panels[1, 0].set_xlabel(_in_words(reference, names, units), fontsize=7)
    return figure


def _draw_doses(ax: Axes, doses, best_scores, reference_scores, score: str) -> None:
    for scores, color, marker, label in (
        (best_scores, BLUE, "o", "best"),
        (reference_scores, VERMILION, "s", "reference"),
    ):
        if scores:
            mean = np.array([s["mean"] for s in scores], float)
            std = np.nan_to_num([s["std"] for s in scores])
            style = {"color": color, "marker": marker, "markersize": 4, "capsize": 2}
            ax.errorbar(doses, mean, std, label=label, linewidth=1.2, **style)
    ax.set_xscale("log")
    ax.set_xlabel("dose (e/Å²)")
    ax.set_ylabel(score)
    ax.legend(frameon=False)


def _draw_setting(ax: Axes, name, unit, doses, trials, best, reference, colors) -> None:
    """Scores of all trials of the search against one setting, a colour a dose."""
    for dose, color, chosen in zip(doses, colors, best, strict=True):
        some = [
            t
            for t in trials
            if t["purpose"] != "repeat"
            and t["parameters"]["dose"] == dose
            and t["objective"] is not None
        ]
        x = [t["parameters"][name] for t in some]
        y = [1 - t["objective"] for t in some]
        ax.scatter(x, y, s=9, color=color, linewidths=0, alpha=0.75, label=_dose(dose))
        ax.axvline(chosen[name], ymax=0.04, color=color, linewidth=2)
    if reference is not None:
        ax.axvline(reference[name], color=GREY, linewidth=0.8, linestyle=":")
    ax.set_xlabel(f"{_NAMES[name]} ({unit})")


def _draw_image(ax: Axes, image: np.ndarray, pixel, limits):
    """The image as matplotlib has it."""
    drawn = ax.imshow(
        image, cmap="magma", vmin=limits[0], vmax=limits[1], aspect=pixel[0] / pixel[1],
        interpolation="nearest",
    )  # fmt: skip
    hide_ticks(ax)
    return drawn


def _dose(dose: float) -> str:
    """Three digits, as one writes them: 500, 2×10⁴."""
    if dose < 1e4:
        return f"{dose:.3g}" if dose < 1e3 else f"{dose:.0f}"
    digits, power = f"{dose:.2e}".split("e")
    digits = digits.rstrip("0").rstrip(".")
    return ("" if digits == "1" else f"{digits}×") + f"$10^{{{int(power)}}}$"


def _in_words(settings: Mapping[str, float], names, units) -> str:
    return ", ".join(f"{settings[name]:.3g} {units[name]}" for name in names)
