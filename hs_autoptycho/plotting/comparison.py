"""Trials side by side: parameters, differences of the objective, learning curves, pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.plotting.style import (
    CATEGORIES,
    GREY,
    NOWHERE,
    STYLE,
    draw_scale_bar,
    hide_ticks,
    robust_limits,
    whole_numbers,
)
from hs_autoptycho.tuning.selection import difference
from hs_autoptycho.tuning.study_file import read_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# what a trial that was written by hand or long ago may lack
_ABSENT = {"fidelity": {"n_iterations": 1}, "metrics": {}, "blocks": [], "curve": []}


@dataclass(frozen=True)
class TrialComparison:
    """Some trials of a tuning beside each other; shown as a table.

    Attributes
    ----------
    trials : list of dict
        Those that were chosen, in the order in which they were named.
    differences : list of (float, float)
        By trial: its objective less that of the first, and the standard error of that. Both saw
        the same counts, so that the difference is known far better than either objective. The error
        comes from the scatter over blocks of the scan; NaN where there are no blocks. Both are NaN
        for trials of different lengths, which cannot be compared.
    objective : str
        Its name.
    units : dict
        Of the parameters.
    objects : list
        The reconstructions, if they were made again: `PtychographicObject`.
    """

    trials: list[dict[str, Any]]
    differences: list[tuple[float, float]]
    objective: str
    units: dict[str, str]
    objects: list[Any]

    @property
    def parameters(self) -> dict[str, list[Any]]:
        """Name to value by trial; None where a parameter was without effect."""
        names = dict.fromkeys(name for trial in self.trials for name in trial["parameters"])
        return {name: [trial["parameters"].get(name) for trial in self.trials] for name in names}

    def plot(self) -> Figure:
        """Draw learning curves, differences by block of the scan, parameters and any pictures.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``savefig``; nothing is shown until ``matplotlib.pyplot.show()``.
        """
        images = [
            (phase, field._pixel()) for field, phase in (o._scanned_phase() for o in self.objects)
        ]
        return comparison_figure(self, images)

    def rows(self) -> list[tuple[str, list[str]]]:
        """What the table says.

        Returns
        -------
        list of (str, list of str)
            Name of a row, and its texts by trial.
        """
        rows = [
            (self.objective, [_number(t.get("objective")) for t in self.trials]),
            (
                f"less that of {self.trials[0]['number']}",
                ["", *(with_error(*pair) for pair in self.differences[1:])],
            ),
            ("length", [_length(t) for t in self.trials]),
            ("purpose", [str(t.get("purpose", "")) for t in self.trials]),
            ("status", [str(t.get("status", "")) for t in self.trials]),
        ]
        for name, values in self.parameters.items():
            unit = self.units.get(name, "")
            rows.append((f"{name} ({unit})" if unit else name, [_number(v) for v in values]))
        return rows

    def __repr__(self) -> str:
        table = [("", [f"trial {t['number']}" for t in self.trials]), *self.rows()]
        first = max(len(name) for name, _ in table)
        widths = [max(len(texts[i]) for _, texts in table) for i in range(len(self.trials))]
        return "\n".join(
            f"{name:<{first}}  "
            + "  ".join(f"{t:>{w}}" for t, w in zip(texts, widths, strict=True)).rstrip()
            for name, texts in table
        )


def compare_trials(
    trials: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    *,
    objective: str = "objective",
    units: Mapping[str, str] | None = None,
    objects: Sequence[Any] = (),
) -> TrialComparison:
    """Put some trials beside each other.

    Parameters
    ----------
    trials
        All of a search, as :meth:`hs_autoptycho.tuning.trial.Trial.to_dict` gives them.
    numbers
        Of those to compare, two at least; the others are compared with the first.
    objective
        Its name.
    units
        Name of a parameter to its unit.
    objects
        Their reconstructions.

    Raises
    ------
    ValueError
        If there is no trial of a number, or too few or equal numbers were given.
    """
    known = {trial["number"]: dict(trial) for trial in trials}
    numbers = [int(number) for number in numbers]
    absent = [number for number in numbers if number not in known]
    if absent:
        span = f"they are numbered {min(known)} to {max(known)}" if known else "there are none"
        raise ValueError(f"There is no trial {absent[0]}; {span}.")
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise ValueError(f"numbers={numbers}: at least two different trials are needed to compare.")
    chosen = [known[number] for number in numbers]
    differences = [difference_of(trial, chosen[0]) for trial in chosen]
    return TrialComparison(chosen, differences, objective, dict(units or {}), list(objects))


def difference_of(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[float, float]:
    """How much worse one trial is than another, and its standard error; NaN where unknown."""
    a, b = (read_trial({**_ABSENT, **trial}) for trial in (a, b))
    return difference(a, b) if a.fidelity == b.fidelity else (math.nan, math.nan)


def with_error(mean: float, error: float) -> str:
    """A difference and its standard error, to two digits of the error."""
    if not math.isfinite(mean):
        return "not comparable"
    if not math.isfinite(error):
        return f"{mean:+.3g}"
    if error == 0:
        return f"{mean:+.3g} ± 0"
    digits = 1 - math.floor(math.log10(error))
    if 0 <= digits <= 8:
        return f"{mean:+.{digits}f} ± {error:.{digits}f}"
    return f"{mean:+.3g} ± {error:.2g}"


def comparison_figure(
    comparison: TrialComparison,
    images: Sequence[tuple[np.ndarray, tuple[float, float]]] = (),
) -> Figure:
    """Draw learning curves, differences by block, a table of all else, and phases.

    Parameters
    ----------
    comparison
        What to draw, a colour a trial.
    images
        Phase in rad (y, x) and pixel size (y, x) in Å of each trial, or nothing. All are grey, on
        one scale.
    """
    import matplotlib.pyplot as plt

    rows, n_trials = comparison.rows(), len(comparison.trials)
    heights = [2.6, 0.24 * (len(rows) + 1)] + [2.4] * bool(len(images))
    width = max(8.0, 2.4 + 1.7 * n_trials)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights)
        left, right = parts[0].subplots(1, 2)
        _draw_curves(left, comparison)
        _draw_blocks(right, comparison)
        _draw_table(parts[1].subplots(), comparison, rows)
        if len(images):
            axes = parts[2].subplots(1, n_trials, squeeze=False)[0]
            limits = robust_limits(np.concatenate([phase.ravel() for phase, _ in images]))
            for ax, (phase, pixel), trial in zip(axes, images, comparison.trials, strict=True):
                ax.set_facecolor(NOWHERE)
                drawn = ax.imshow(phase, cmap="gray", vmin=limits[0], vmax=limits[1],
                                  aspect=pixel[0] / pixel[1])  # fmt: skip
                ax.set_title(f"trial {trial['number']}")
                hide_ticks(ax)
            draw_scale_bar(axes[0], images[0][0].shape, images[0][1][1])
            bar = axes[-1].inset_axes((1.03, 0, 0.04, 1))
            parts[2].colorbar(drawn, cax=bar, label="phase (rad)", extend="both")
    return figure


def _color(index: int) -> str:
    return CATEGORIES[index % len(CATEGORIES)]


def _draw_curves(ax: Axes, comparison: TrialComparison) -> None:
    for index, trial in enumerate(comparison.trials):
        curve = [(i, math.nan if v is None else v) for i, v in trial.get("curve", [])]
        if curve:
            ax.plot(*zip(*curve, strict=True), marker="o", markersize=3, linewidth=1.2,
                    color=_color(index), label=f"trial {trial['number']}")  # fmt: skip
    ax.set(title="While they ran", xlabel="iteration", ylabel=comparison.objective)
    whole_numbers(ax)
    ax.grid(alpha=0.3, linewidth=0.5)
    if ax.lines:
        ax.legend(frameon=False)


def _draw_blocks(ax: Axes, comparison: TrialComparison) -> None:
    """Differences from the first trial by block of the scan, their mean and its standard error."""
    first = comparison.trials[0]
    pairs = list(zip(comparison.trials, comparison.differences, strict=True))
    for index, (trial, (mean, error)) in enumerate(pairs):
        if index == 0 or not math.isfinite(error):
            continue
        both = (np.array(t["blocks"], float) for t in (trial, first))
        by_block = np.subtract(*both)
        ax.plot(by_block, ".", color=_color(index), alpha=0.5, markersize=5)
        ax.axhline(mean, color=_color(index), linewidth=1.2)
        ax.axhspan(mean - error, mean + error, color=_color(index), alpha=0.2, linewidth=0)
    ax.axhline(0, color=_color(0), linewidth=0.8)
    ax.set(title=f"Less trial {first['number']}, with standard errors")
    ax.set(xlabel="block of the scan", ylabel=f"difference of {comparison.objective}")
    whole_numbers(ax)
    ax.grid(alpha=0.3, linewidth=0.5)


def _draw_table(ax: Axes, comparison: TrialComparison, rows) -> None:
    ax.set_axis_off()
    table = ax.table(
        cellText=[texts for _, texts in rows],
        rowLabels=[name for name, _ in rows],
        colLabels=[f"trial {trial['number']}" for trial in comparison.trials],
        bbox=(0.25, 0, 0.75, 1),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, column), cell in table.get_celld().items():
        cell.set(linewidth=0.3, edgecolor=GREY)
        if row == 0 and column >= 0:
            cell.set_text_props(color=_color(column), weight="bold")
        elif row > 5 and len(set(rows[row - 1][1])) > 1:  # parameters that differ
            cell.set_text_props(weight="bold")


def _length(trial: Mapping[str, Any]) -> str:
    fidelity = trial.get("fidelity") or {}
    text = f"{fidelity.get('n_iterations', '?')} passes"
    if fidelity.get("part", 1.0) < 1:
        text += f", {100 * fidelity['part']:.3g} % of the scan"
    if fidelity.get("reduction", 1) > 1:
        text += f", detector / {fidelity['reduction']}"
    if fidelity.get("split", 0):
        text += f", half of the counts ({fidelity['split']})"
    return text


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
