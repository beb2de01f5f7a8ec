"""The picture of a tuning: its convergence, and each parameter against the objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.plotting.picking import Panel, attach_picker
from hs_autoptycho.plotting.style import BLUE, GREY, ORANGE, STYLE, VERMILION, whole_numbers

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
    against: str = "trial",
    intervals: Mapping[str, Any] | None = None,
    importance: Mapping[str, float] | None = None,
    noise: float | None = None,
    units: Mapping[str, str] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw the objective of every trial, and each parameter against it.

    In a window, or a notebook with ``%matplotlib widget``, trials can be clicked on: see
    :class:`hs_autoptycho.plotting.picking.TrialPicker`.

    Parameters
    ----------
    trials
        Dictionaries with ``number``, ``parameters``, ``objective`` (lower is better, or None)
        and ``status``, and optionally ``fidelity``, ``purpose`` and ``duration``. Those without an
        objective, or not ``"completed"``, are drawn on the top edge: as crosses, or grey if they
        were ``"pruned"``. Trials of less than the full fidelity, or with half of the counts, are
        small and grey, displaced by what full trials of the same parameters differ from them.
    names
        Parameters to draw; by default all that the trials name.
    objective
        Its name.
    best_trial
        Number of the trial to mark; by default that of the lowest objective.
    logarithmic
        Whether the axis of a parameter is logarithmic; where it is not said, it is so if the
        values are positive, span more than a factor of 20 and lie evenly in their logarithm.
    against
        What the objective is drawn against: ``"trial"``, or ``"seconds"`` of all trials so far.
    intervals
        Name to ``(low, high)``, which is shaded, or to the probabilities of choices, which are
        written below them.
    importance
        Name to a share of 1.
    noise
        Of the objective: a band of it about the best is shaded.
    units
        Name to unit, written after the best value.
    figure
        To draw into, and to clear before; by default a new one.

    Raises
    ------
    ValueError
        For another `against`.
    """
    import matplotlib.pyplot as plt

    if against not in ("trial", "seconds"):
        raise ValueError(f'against={against!r}: choose "trial" or "seconds".')
    trials = list(trials)
    if names is None:
        names = list(dict.fromkeys(name for trial in trials for name in trial["parameters"]))
    points = _Points.of(trials, best_trial)
    places = points.numbers
    if against == "seconds":
        places = np.cumsum([float(trial.get("duration") or 0.0) for trial in trials])

    # four panels a row at most, and rows as even as can be
    rows = math.ceil(len(names) / 4)
    columns = math.ceil(len(names) / rows) if rows else 1
    with plt.rc_context(STYLE):
        size = (max(8.0, 2.9 * columns), 2.9 + 2.4 * rows)
        if figure is None:
            figure = plt.figure(figsize=size, layout="constrained")
        elif len(figure.axes) != 1 + len(names):
            figure.set_size_inches(size)
        figure.clear()
        grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.1] + [1] * rows)
        ax = figure.add_subplot(grid[0, :])
        drawn = [_draw_convergence(ax, points, places, objective, against, noise)]
        for index, name in enumerate(names):
            panel = figure.add_subplot(grid[1 + index // columns, index % columns], sharey=ax)
            column = [trial["parameters"].get(name) for trial in trials]
            log = (logarithmic or {}).get(name)
            interval = (intervals or {}).get(name)
            unit = (units or {}).get(name, "")
            drawn.append(_draw_parameter(panel, name, column, points, log, interval, noise, unit))
            if name in (importance or {}):
                panel.set_title(f"matters {importance[name]:.0%}", loc="right", color=GREY)
            if index % columns == 0:
                panel.set_ylabel(objective)
            else:
                panel.tick_params(labelleft=False)
    attach_picker(figure, trials, drawn, points.values)
    return figure


@dataclass(frozen=True)
class _Points:
    """The trials as arrays: what is drawn of each, and how."""

    numbers: np.ndarray
    values: np.ndarray  # objective, nan where there is none
    full: np.ndarray  # of the full fidelity
    halves: bool  # whether some have half of the counts
    repeat: np.ndarray
    pruned: np.ndarray
    best: int | None

    @classmethod
    def of(cls, trials: Sequence[Mapping[str, Any]], best_trial: int | None) -> _Points:
        numbers = np.array([trial.get("number", i) for i, trial in enumerate(trials)])
        values = np.array([_objective(trial) for trial in trials], dtype=float)
        work = np.array([_work(trial) for trial in trials])
        split = np.array([(trial.get("fidelity") or {}).get("split", 0) for trial in trials], int)
        full = (work == work.max()) & (split == 0) if len(work) else np.zeros(0, bool)
        if not np.isfinite(values[full]).any():  # all that there is is short
            full = np.ones(len(trials), bool)
        repeat = np.array([trial.get("purpose") == "repeat" for trial in trials], dtype=bool)
        pruned = np.array([trial.get("status") == "pruned" for trial in trials], dtype=bool)
        keys = [tuple(sorted(map(str, trial["parameters"].items()))) for trial in trials]
        _align(values, full, repeat, list(zip(work, split, strict=True)), keys)
        best, usable = None, np.isfinite(values) & full & ~repeat
        if usable.any():
            best = int(np.argmin(np.where(usable, values, np.inf)))
            known = np.flatnonzero((numbers == best_trial) & np.isfinite(values))
            best = int(known[0]) if known.size else best
        return cls(numbers, values, full, bool(split.any()), repeat, pruned, best)


def _objective(trial: Mapping[str, Any]) -> float:
    value = trial.get("objective")
    usable = value is not None and trial.get("status", "completed") == "completed"
    return float(value) if usable and math.isfinite(value) else math.nan


def _work(trial: Mapping[str, Any]) -> float:
    fidelity = trial.get("fidelity") or {}
    passes, part = fidelity.get("n_iterations", 1), fidelity.get("part", 1.0)
    return passes * part / fidelity.get("reduction", 1) ** 2


def _align(values, full, repeat, kinds, keys) -> None:
    """Bring other kinds of trials to the scale of full ones, in place: by what pairs differ."""
    at_full = {keys[i]: values[i] for i in np.flatnonzero(full & ~repeat & np.isfinite(values))}
    for kind in sorted({kinds[i] for i in np.flatnonzero(~full)}):
        alike = np.array([other == kind for other in kinds])
        own = np.flatnonzero(~full & alike & np.isfinite(values))
        steps = [at_full[keys[i]] - values[i] for i in own if keys[i] in at_full]
        if own.size and not steps:
            steps = [min(at_full.values(), default=0.0) - values[own].min()]
        values[own] += np.median(steps) if steps else 0.0


def _scatter(ax: Axes, x, points: _Points, label: bool = False) -> Panel:
    """Full trials coloured by their number, from dark (first) to light (last); short ones grey."""
    rows = {}
    valid = np.isfinite(points.values)
    main = valid & points.full & ~points.repeat
    style = {"s": 18, "linewidths": 0.3, "edgecolors": GREY, "zorder": 3}
    rest = "short, half of the counts" if points.halves else "short"
    names = ("trial" if points.full.all() else "full length", rest, "repeated")
    names = names if label else (None, None, None)
    full = ax.scatter(
        x[main], points.values[main], c=points.numbers[main], cmap="cividis", label=names[0],
        **style,
    )  # fmt: skip
    rows[full] = np.flatnonzero(main)
    short, repeat = valid & ~points.full, valid & points.full & points.repeat
    if short.any():
        style = {"s": 7, "color": GREY, "alpha": 0.55, "linewidths": 0, "zorder": 2}
        dots = ax.scatter(x[short], points.values[short], label=names[1], **style)
        rows[dots] = np.flatnonzero(short)
    if repeat.any():
        style = {"s": 34, "facecolors": "none", "edgecolors": BLUE, "linewidths": 0.9, "zorder": 4}
        rings = ax.scatter(x[repeat], points.values[repeat], label=names[2], **style)
        rows[rings] = np.flatnonzero(repeat)
    return Panel(ax, np.asarray(x, float), rows)


def _draw_failures(ax: Axes, x, points: _Points, label: bool = False) -> None:
    """Marks on the top edge."""
    failed = ~np.isfinite(points.values)
    for chosen, marker, color, name in (
        (failed & points.pruned, "+", GREY, "stopped early"),
        (failed & ~points.pruned, "x", VERMILION, "failed or diverged"),
    ):
        if chosen.any():
            ax.plot(
                x[chosen],
                np.full(chosen.sum(), 0.97),
                marker,
                color=color,
                markersize=5,
                transform=ax.get_xaxis_transform(),
                label=name if label else None,
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


def _draw_noise(ax: Axes, value: float, noise: float | None, label: str | None = None) -> None:
    if noise is not None and math.isfinite(noise) and noise > 0:
        style = {"color": ORANGE, "alpha": 0.25, "linewidth": 0, "zorder": 0}
        ax.axhspan(value - noise, value + noise, label=label, **style)


def _draw_convergence(ax: Axes, points: _Points, places, objective, against, noise) -> Panel | None:
    values, best, drawn = points.values, points.best, None
    if best is not None:
        drawn = _scatter(ax, places, points, label=True)
        counted = points.full & ~points.repeat
        so_far = np.fmin.accumulate(np.where(counted, values, np.nan))
        ax.step(places, so_far, where="post", color="black", linewidth=1.3, label="best so far")
        _mark_best(ax, places[best], values[best], "best")
        _set_objective_scale(ax, values[np.isfinite(values)])
        _draw_noise(ax, values[best], noise, "noise")
    _draw_failures(ax, places, points, label=True)
    ax.set(xlabel="trial" if against == "trial" else "seconds, all trials", ylabel=objective)
    if best is None:
        ax.set_title("No trial gave an objective")
        ax.set_yticks([])
    else:
        ax.set_title(f"Convergence: best {values[best]:.5g} in trial {points.numbers[best]}")
    if len(values):
        ax.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    if against == "trial":
        whole_numbers(ax)
    ax.grid(alpha=0.3, linewidth=0.5)
    return drawn


def _set_objective_scale(ax: Axes, values) -> None:
    low, high = values.min(), values.max()
    if low > 0 and high / low > _SPAN_OF_LOG:
        ax.set_yscale("log")
        ax.set_ylim(low * (low / high) ** 0.08, high * (high / low) ** 0.15)
    elif high > low:  # room for the crosses on the top edge
        ax.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))


def _draw_parameter(ax: Axes, name, column, points, log, interval, noise, unit) -> Panel:
    present = [value for value in column if value is not None]
    numeric = bool(present) and all(_is_number(value) for value in present)
    if len(present) < len(column):  # without effect in some trials, which are then left out
        numeric &= len(set(present)) > _MAX_TICKED
    shares = interval if isinstance(interval, Mapping) else {}
    if numeric:
        x = np.array([math.nan if value is None else value for value in column], dtype=float)
        if log if log is not None else _looks_logarithmic(x[np.isfinite(x)]):
            ax.set_xscale("log")
        elif not all(isinstance(value, int) for value in present):
            ax.locator_params(axis="x", nbins=5)
        elif len(set(present)) <= _MAX_TICKED:
            ticks = sorted(set(present))
            ax.set_xticks(ticks, [_with_share(str(v), v, shares) for v in ticks])
        else:
            whole_numbers(ax)
    else:
        categories = sorted(set(map(_category, column)), key=_category_order)
        x = np.array([float(categories.index(_category(value))) for value in column])
        # apart enough to be told from each other, the same in every drawing
        x += 0.3 * (np.modf(0.618034 * np.arange(len(x)))[0] - 0.5)
        wide = sum(map(len, categories)) > 24
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if wide else {}
        labels = [_with_share(category, category, shares) for category in categories]
        ax.set_xticks(range(len(categories)), labels, **turned)
        ax.set_xlim(-0.6, len(categories) - 0.4)
    drawn = _scatter(ax, x, points)
    _draw_failures(ax, x, points)
    if interval is not None and not shares and numeric:
        ax.axvspan(*interval, color=BLUE, alpha=0.13, linewidth=0, zorder=0)
    if points.best is not None:
        best = points.best
        _mark_best(ax, x[best], points.values[best])
        _draw_noise(ax, points.values[best], noise)
        known = numeric and column[best] is not None
        ax.set_title(f"best: {_category(column[best])} {unit if known else ''}".rstrip())
    ax.set_xlabel(name)
    ax.grid(alpha=0.3, linewidth=0.5)
    return drawn


def _with_share(label: str, value: Any, shares: Mapping[Any, float]) -> str:
    """A label with the probability of its choice below."""
    shares = {_category(choice): share for choice, share in shares.items()}
    share = shares.get(_category(value))
    return label if share is None else f"{label}\n{share:.0%}"


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
