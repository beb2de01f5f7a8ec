"""Trials that are chosen with the mouse in the picture of a tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.plotting.comparison import difference_of, with_error
from hs_autoptycho.plotting.style import STYLE, VERMILION

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REACH = 6.0  # points about a mark in which a click counts


@dataclass(frozen=True)
class Panel:
    """One panel: the place of every trial along its x axis, and which trials each artist has."""

    ax: Axes
    x: np.ndarray
    rows: Mapping[Artist, np.ndarray] = field(default_factory=dict)


class TrialPicker:
    """Rings about the trials that were clicked on, and what they differ in.

    A click on a mark chooses its trial in all panels, a second one lets it go. The title of the
    first panel tells the objective, or from two trials on what they are worse than the first one,
    with its standard error. The numbers are in ``figure.picked_trials``, for ``compare_trials``.

    Parameters
    ----------
    figure
        Its attribute ``picked_trials`` is made, or taken over from an earlier drawing.
    trials
        As for `tuning_figure`.
    panels
        The first is that of the convergence.
    values
        Of the trials, as they are drawn.
    """

    def __init__(
        self,
        figure: Figure,
        trials: Sequence[Mapping[str, Any]],
        panels: Sequence[Panel],
        values: np.ndarray,
    ):
        self._figure, self._panels, self._values = figure, list(panels), values
        self._trials = {trial.get("number", row): trial for row, trial in enumerate(trials)}
        self._row_of = {number: row for row, number in enumerate(self._trials)}
        self._rings: list[Artist] = []
        self._title = self._panels[0].ax.get_title("left")
        self._seen = None  # a click that hits two artists is one
        before = getattr(figure, "picked_trials", [])
        figure.picked_trials = [number for number in before if number in self._row_of]
        for panel in self._panels:
            for artist in panel.rows:
                artist.set_picker(_REACH)
        figure.canvas.mpl_connect("pick_event", self._on_pick)
        if figure.picked_trials:
            self._draw()

    def _on_pick(self, event) -> None:
        panel = next((panel for panel in self._panels if event.artist in panel.rows), None)
        if panel is None or event.mouseevent is self._seen:
            return
        self._seen = event.mouseevent
        rows = panel.rows[event.artist][event.ind]
        places = panel.ax.transData.transform(np.stack([panel.x[rows], self._values[rows]], 1))
        away = np.hypot(*(places - (event.mouseevent.x, event.mouseevent.y)).T)
        number = list(self._trials)[rows[away.argmin()]]
        picked = self._figure.picked_trials
        if number in picked:
            picked.remove(number)
        else:
            picked.append(number)
        self._draw()
        self._figure.canvas.draw_idle()

    def _draw(self) -> None:
        for ring in self._rings:
            ring.remove()
        rows = [self._row_of[number] for number in self._figure.picked_trials]
        style = {"s": 90, "facecolors": "none", "edgecolors": VERMILION, "linewidths": 1.6}
        self._rings = [
            panel.ax.scatter(panel.x[rows], self._values[rows], **style, zorder=6, label="_picked")
            for panel in self._panels
        ]
        size = STYLE["axes.titlesize"]
        self._panels[0].ax.set_title(self._sentence() or self._title, loc="left", fontsize=size)

    def _sentence(self) -> str:
        picked = [self._trials[number] for number in self._figure.picked_trials]
        if len(picked) < 2:
            return "".join(f"Trial {t['number']}: {t['objective']:.6g}" for t in picked)
        first = picked[0]
        told = (
            f"{trial['number']} - {first['number']} = {with_error(*difference_of(trial, first))}"
            for trial in picked[1:4]
        )
        return f"Trials {'; '.join(told)}" + ("; …" if len(picked) > 4 else "")


def attach_picker(figure: Figure, trials, panels: Sequence[Panel | None], values) -> None:
    """Make the trials of a figure to be chosen with the mouse; nothing if none has an objective."""
    if panels[0] is not None:
        # matplotlib keeps no object alive for the sake of its callback: the figure has to
        figure._trial_picker = TrialPicker(figure, trials, panels, values)
