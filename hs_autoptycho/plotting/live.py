"""Looking at a tuning while it runs: from within, or from any process that can read its file."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hs_autoptycho.plotting.tuning import tuning_figure
from hs_autoptycho.ptycho.parameters import PARAMETERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hs_autoptycho.tuning.study import StoredStudy

_logger = logging.getLogger(__name__)

_SHARE = 0.05  # of the time that drawing may take from a tuning


def parameter_units() -> dict[str, str]:
    """Name to unit of all parameters that have one."""
    return {name: parameter.unit for name, parameter in PARAMETERS.items() if parameter.unit}


class LiveTuning:
    """A figure of a tuning that grows with it: a callback for ``autotune_ptycho``.

    In a notebook it is one picture below the cell that is replaced, in a window one that is drawn
    anew. Drawing takes at most a twentieth of the time, so that of many short trials not each is
    drawn by itself, and it changes nothing in the tuning; a figure that cannot be drawn or was
    closed is left alone. A study can be watched from another process at no cost at all:
    :meth:`hs_autoptycho.tuning.study.StoredStudy.plot_live`.

    Parameters
    ----------
    **options
        Of :func:`hs_autoptycho.plotting.tuning_figure`, as ``against="seconds"``.

    Attributes
    ----------
    trials : list of dict
        Heard of so far.
    figure : matplotlib.figure.Figure or None

    Examples
    --------
    >>> from hs_autoptycho.plotting import LiveTuning
    >>> live = LiveTuning()
    >>> obj = s.autotune_ptycho(callback=live)  # doctest: +SKIP
    >>> live.update()  # the last trials, too  # doctest: +SKIP
    """

    def __init__(self, **options: Any):
        self.trials: list[dict[str, Any]] = []
        self.figure: Figure | None = None
        self._options = {"units": parameter_units(), **options}
        self._handle: Any = None  # of a picture in a notebook
        self._next = -math.inf

    def __call__(self, trial: Mapping[str, Any]) -> None:
        """Hear of a trial, and draw it if it is time to.

        Parameters
        ----------
        trial
            As ``autotune_ptycho`` gives it to its `callback`.
        """
        self.trials.append(dict(trial))
        start = time.perf_counter()
        if start < self._next:
            return
        try:
            self.update()
        except Exception as error:  # a tuning of hours is not lost for a picture
            _logger.warning("The live figure is not drawn any more: %s", error)
            self._next = math.inf
            return
        end = time.perf_counter()
        self._next = end + (end - start) * (1 / _SHARE - 1)

    def update(self, trials: Sequence[Mapping[str, Any]] | None = None, **options: Any) -> None:
        """Draw now, unless the window was closed.

        Parameters
        ----------
        trials
            All of them; by default those heard of.
        **options
            Of this drawing, besides those given at the beginning.
        """
        if self.closed:
            return
        if trials is not None:
            self.trials = list(trials)
        # short trials are drawn where those of full length put them, so that all is drawn anew
        options = {**self._options, **options}
        self.figure = tuning_figure(self.trials, figure=self.figure, **options)
        self._show()

    @property
    def closed(self) -> bool:
        """Whether the user has closed the window."""
        import matplotlib.pyplot as plt

        if self.figure is None or self._handle is not None:
            return False
        return not plt.fignum_exists(self.figure.number)

    def _show(self) -> None:
        import matplotlib.pyplot as plt

        canvas = self.figure.canvas
        if self._handle is not None:
            self._handle.update(self.figure)
        elif still_pictures():
            from IPython.display import display

            self._handle = display(self.figure, display_id=True)
            plt.close(self.figure)  # or the notebook shows it again at the end of the cell
        else:
            if canvas.required_interactive_framework and not plt.isinteractive():
                plt.show(block=False)
            canvas.draw_idle()
            canvas.flush_events()


def still_pictures() -> bool:
    """Whether figures are shown as pictures in a notebook."""
    import matplotlib

    return "inline" in matplotlib.get_backend().lower()


def plot_live(study: StoredStudy, *, interval: float, timeout: float | None) -> Figure:
    """See :meth:`hs_autoptycho.tuning.study.StoredStudy.plot_live`."""
    import matplotlib

    live = LiveTuning()
    live.update(study.trials, **study_options(study))
    canvas = live.figure.canvas
    if matplotlib.get_backend().lower() == "agg":
        _logger.warning("This matplotlib has no window to show a figure in: see follow().")
    # in a notebook or without a window this only waits
    wait = time.sleep if still_pictures() else canvas.start_event_loop
    with contextlib.suppress(KeyboardInterrupt):  # it ends the looking, as it is meant to
        for later in growing(study, interval=interval, timeout=timeout, wait=wait):
            if live.closed:
                break
            live.update(later.trials, **study_options(later))
    return live.figure


def follow(study: StoredStudy, *, interval: float, timeout: float | None) -> StoredStudy:
    """See :meth:`hs_autoptycho.tuning.study.StoredStudy.follow`."""
    from tqdm import tqdm

    study, best = study.reload(), None
    with (
        tqdm(
            total=study.header.get("n_trials"),
            initial=len(study.trials),
            desc="Tune",
            file=sys.stderr,
        ) as bar,
        contextlib.suppress(KeyboardInterrupt),
    ):
        later = growing(study, interval=interval, timeout=timeout, wait=time.sleep)
        for now in itertools.chain([study], later):
            study, found = now, now.best
            bar.n = len(now.trials)
            if found is not None and found["number"] != best:
                best = found["number"]
                tqdm.write(_line(now, found), file=sys.stderr)
            if found is not None:
                bar.set_postfix(best=f"{found['objective']:.6g}", trial=best, refresh=False)
            bar.refresh()
    return study


def growing(
    study: StoredStudy,
    *,
    interval: float,
    timeout: float | None,
    wait: Callable[[float], Any],
) -> Iterator[StoredStudy]:
    """The study again each time there are more trials in its file.

    It ends when all trials that were planned are there, and when none came for `timeout` seconds.

    Parameters
    ----------
    study
        What was read of the file.
    interval
        Seconds between two looks at the file.
    timeout
        In seconds. None: never.
    wait
        Lets seconds pass.
    """
    if not interval > 0:
        raise ValueError(f"interval={interval!r}: seconds between two looks, more than 0.")
    last, size = time.monotonic(), -1
    while len(study.trials) < study.header.get("n_trials", math.inf):
        if timeout is not None and time.monotonic() - last > timeout:
            return
        wait(interval)
        size, before = study.path.stat().st_size, size
        if size == before:
            continue
        later = study.reload()
        if len(later.trials) > len(study.trials):
            study, last = later, time.monotonic()
            yield study


def study_options(study: StoredStudy) -> dict[str, Any]:
    """What :func:`hs_autoptycho.plotting.tuning_figure` can know from a study."""
    space, best = study.header.get("space") or {}, study.best
    return {
        "names": list(space) or None,
        "objective": study.header.get("objective", "objective"),
        "best_trial": best["number"] if best else None,
        "logarithmic": {name: entry["log"] for name, entry in space.items() if "log" in entry},
    }


def _line(study: StoredStudy, trial: Mapping[str, Any]) -> str:
    """What is told of a new best trial."""
    units = parameter_units()
    values = (
        f"{name}={value:.6g} {units.get(name, '')}".rstrip()
        if isinstance(value, float)
        else f"{name}={value}"
        for name, value in trial["parameters"].items()
    )
    objective = study.header.get("objective", "objective")
    return f"trial {trial['number']}: {objective} {trial['objective']:.6g} ({', '.join(values)})"
