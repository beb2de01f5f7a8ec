"""The picture of a tuning: its convergence, and each parameter against the objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.plotting.style import GREY, ORANGE, STYLE, VERMILION, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPAN_OF_LOG = 20.0  # an axis that spans more than this ratio is drawn logarithmically
_MAX_TICKED = 6  # whole numbers of at most this many values are ticked where they are


def tuning_figure(
    trials: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str] | None = None,
    objective: str = "objective",
    best_trial: int | None = None,
    logarithmic: Mapping[str, bool] | None = None,
) -> Figure:
    """Draw the objective of every trial, and each parameter against it.

    Parameters
    ----------
    trials
        Dictionaries with ``number``, ``parameters``, ``objective`` (lower is better, or None)
        and ``status``. Those without an objective, or not ``"completed"``, are drawn as crosses
        on the top edge.
    names
        Parameters to draw; by default all that the trials name.
    objective
        Its name.
    best_trial
        Number of the trial to mark; by default that of the lowest objective.
    logarithmic
        Whether the axis of a parameter is logarithmic; where it is not said, it is so if the
        values are positive, span more than a factor of 20 and lie evenly in their logarithm.
    """
    import matplotlib.pyplot as plt

    trials = list(trials)
    if names is None:
        names = list(dict.fromkeys(name for trial in trials for name in trial["parameters"]))
    values = np.array([_objective(trial) for trial in trials])
    numbers = np.array([trial.get("number", i) for i, trial in enumerate(trials)])
    valid = np.isfinite(values)
    best = None
    if valid.any():
        best = int(np.nanargmin(values))
        known = np.flatnonzero((numbers == best_trial) & valid)
        best = int(known[0]) if known.size else best

    # four panels a row at most, and rows as even as can be
    rows = math.ceil(len(names) / 4)
    columns = math.ceil(len(names) / rows) if rows else 1
    with plt.rc_context(STYLE):
        size = (max(8.0, 2.9 * columns), 2.9 + 2.4 * rows)
        figure = plt.figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.1] + [1] * rows)
        ax = figure.add_subplot(grid[0, :])
        _draw_convergence(ax, numbers, values, best, objective)
        for index, name in enumerate(names):
            panel = figure.add_subplot(grid[1 + index // columns, index % columns], sharey=ax)
            column = [trial["parameters"].get(name) for trial in trials]
            log = (logarithmic or {}).get(name)
            _draw_parameter(panel, name, column, values, numbers, best, log)
            if index % columns == 0:
                panel.set_ylabel(objective)
            else:
                panel.tick_params(labelleft=False)
    return figure


def _objective(trial: Mapping[str, Any]) -> float:
    value = trial.get("objective")
    usable = value is not None and trial.get("status", "completed") == "completed"
    return float(value) if usable and math.isfinite(value) else math.nan


def _scatter(ax: Axes, x, numbers, values, label: str | None = None) -> None:
    """Points coloured by the number of their trial, from dark (first) to light (last)."""
    valid = np.isfinite(values)
    style = {"s": 18, "linewidths": 0.3, "edgecolors": GREY, "zorder": 3, "label": label}
    ax.scatter(x[valid], values[valid], c=numbers[valid], cmap="cividis", **style)


def _top_edge(ax: Axes, x, label: str | None = None) -> None:
    ax.plot(
        x,
        np.full(len(x), 0.97),
        "x",
        color=VERMILION,
        markersize=5,
        transform=ax.get_xaxis_transform(),
        label=label,
    )


def _mark_best(ax: Axes, x, y, label: str | None = None) -> None:
    ax.plot(
        [x],
        [y],
        "*",
        color=ORANGE,
        markeredgecolor="black",
        markeredgewidth=0.6,
        markersize=12,
        zorder=5,
        label=label,
    )


def _draw_convergence(ax: Axes, numbers, values, best, objective: str) -> None:
    valid = np.isfinite(values)
    if best is not None:
        _scatter(ax, numbers, numbers, values, label="trial")
        so_far = np.fmin.accumulate(values)
        ax.step(numbers, so_far, where="post", color="black", linewidth=1.3, label="best so far")
        _mark_best(ax, numbers[best], values[best], "best")
        _set_objective_scale(ax, values[valid])
    if not valid.all():
        _top_edge(ax, numbers[~valid], "failed or diverged")
    ax.set(xlabel="trial", ylabel=objective)
    if best is None:
        ax.set_title("No trial gave an objective")
        ax.set_yticks([])
    else:
        ax.set_title(f"Convergence: best {values[best]:.5g} in trial {numbers[best]}")
    if len(numbers):
        ax.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    whole_numbers(ax)
    ax.grid(alpha=0.3, linewidth=0.5)


def _set_objective_scale(ax: Axes, values) -> None:
    low, high = values.min(), values.max()
    if low > 0 and high / low > _SPAN_OF_LOG:
        ax.set_yscale("log")
        ax.set_ylim(low * (low / high) ** 0.08, high * (high / low) ** 0.15)
    elif high > low:  # room for the crosses on the top edge
        ax.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))


def _draw_parameter(ax: Axes, name, column, values, numbers, best, log) -> None:
    valid = np.isfinite(values)
    present = [value for value in column if value is not None]
    numeric = len(present) == len(column) and all(_is_number(value) for value in present)
    if numeric:
        x = np.array(column, dtype=float)
        if log if log is not None else _looks_logarithmic(x):
            ax.set_xscale("log")
        elif not all(isinstance(value, int) for value in column):
            ax.locator_params(axis="x", nbins=5)
        elif len(set(column)) <= _MAX_TICKED:
            ax.set_xticks(sorted(set(column)))
        else:
            whole_numbers(ax)
    else:
        categories = sorted(set(map(_category, column)), key=_category_order)
        x = np.array([float(categories.index(_category(value))) for value in column])
        # apart enough to be told from each other, the same in every drawing
        x += 0.3 * (np.modf(0.618034 * np.arange(len(x)))[0] - 0.5)
        wide = sum(map(len, categories)) > 24
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if wide else {}
        ax.set_xticks(range(len(categories)), categories, **turned)
        ax.set_xlim(-0.6, len(categories) - 0.4)
    _scatter(ax, x, numbers, values)
    if not valid.all():
        _top_edge(ax, x[~valid])
    if best is not None:
        _mark_best(ax, x[best], values[best])
        ax.set_title(f"best: {_category(column[best])}")
    ax.set_xlabel(name)
    ax.grid(alpha=0.3, linewidth=0.5)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _category(value: Any) -> str:
    if not _is_number(value):
        return str(value)
    rounded = float(f"{value:.4g}")
    plain = 1e-3 <= abs(rounded) < 1e7 or rounded == 0
    return np.format_float_positional(rounded, trim="-") if plain else f"{rounded:g}"


def _category_order(category: str) -> tuple[bool, float, str]:
    try:
        return False, float(category), category
    except ValueError:
        return True, 0.0, category


def _looks_logarithmic(values: np.ndarray) -> bool:
    """Whether positive values over a wide range lie more evenly in their logarithm."""
    if values.size == 0 or values.min() <= 0 or values.max() < _SPAN_OF_LOG * values.min():
        return False
    low, middle, high = values.min(), np.median(values), values.max()
    linear = abs((middle - low) / (high - low) - 0.5)
    return bool(linear > abs(np.log(middle / low) / np.log(high / low) - 0.5))
