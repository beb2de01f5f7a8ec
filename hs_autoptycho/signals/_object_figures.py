"""Figures of an object and of its tuning, and the scan as markers over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.signals._axes import angstroms, check_order
from hs_autoptycho.signals._plain import to_plain

if TYPE_CHECKING:
    from hyperspy.drawing.markers import Markers
    from matplotlib.figure import Figure

    from hs_autoptycho.plotting import TrialComparison

_MARKER_COLOR = "#E69F00"  # stands out from grey, for colour-blind readers too


class ObjectFigures:
    """Plots of a ``PtychographicObject``."""

    def plot(
        self, representation: str = "phase", *, positions: bool = False, **kwargs: Any
    ) -> None:
        """Plot with HyperSpy; the navigator goes through the slices.

        Parameters
        ----------
        representation
            ``"phase"``, between -π and π; ``"polar"``, amplitude and phase; ``"cartesian"``, real
            and imaginary part, as HyperSpy plots other complex signals.
        positions
            Mark where the probe's centre was; for the phase.
        **kwargs
            Of :meth:`hyperspy.api.signals.ComplexSignal2D.plot`, as ``navigator="slider"`` or
            ``cmap``. By default the map is HyperSpy's, grey; one that is the same at both ends,
            ``cmap="twilight"``, suits phases that wrap.

        Raises
        ------
        ValueError
            For another representation, or positions with one that is not the phase.
        """
        if representation != "phase" or kwargs.get("power_spectrum"):
            if positions:
                raise ValueError('positions are marked with representation="phase"')
            options = {} if representation == "phase" else {"representation": representation}
            super().plot(**options, **kwargs)
            return
        if self._plot is not None:
            self._plot.close()
        phase = self.phase
        # one navigation for both, so that axes_manager.indices moves the picture
        phase.axes_manager = self.axes_manager
        phase.metadata.Signal.quantity = "phase (rad)"
        phase.plot(**kwargs)
        self._plot = phase._plot
        if positions:
            phase.add_marker(self.position_markers())

    def position_markers(self, **style: Any) -> Markers:
        """The scan as markers: the probe's centre at every position.

        Parameters
        ----------
        **style
            Of ``hyperspy.api.plot.markers.Points``, as ``sizes``, ``color``.

        Returns
        -------
        hyperspy.api.plot.markers.Points
            In the units of the signal axes, for ``add_marker`` of any image of the object.

        Examples
        --------
        >>> amplitude = obj.amplitude  # doctest: +SKIP
        >>> amplitude.plot()  # doctest: +SKIP
        >>> amplitude.add_marker(obj.position_markers(color="red"))  # doctest: +SKIP
        """
        import hyperspy.api as hs

        check_order(self)
        factors = [angstroms(axis) for axis in self.axes_manager.signal_axes]
        places = self.positions[:, ::-1] / np.array(factors)
        return hs.plot.markers.Points(places, **{"sizes": 2, "color": _MARKER_COLOR, **style})

    def plot_summary(self) -> Figure:
        """Draw phase, its Fourier magnitude, the probe's modes and the error by iteration.

        The phase is that of the scanned field, summed over the slices, its median removed.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``savefig``; nothing is shown until ``matplotlib.pyplot.show()``.
        """
        from hs_autoptycho.plotting import summary_figure

        # drawn along rising axes, and then turned over to look as the object does
        mirrored = [axis.scale < 0 for axis in self.axes_manager.signal_axes]
        rising = self
        if any(mirrored):
            rising = self.isig[tuple(slice(None, None, -1 if each else 1) for each in mirrored)]
        field, phase = rising._scanned_phase()
        x, y = field.axes_manager.signal_axes
        probe_x, probe_y = self.probe.axes_manager.signal_axes
        figure = summary_figure(
            phase=phase,
            pixel=field._pixel(),
            origin=(y.offset * angstroms(y), x.offset * angstroms(x)),
            fourier_magnitude=rising.fourier_magnitude().data,
            probe=np.array(self._stored("probe")),
            probe_pixel=(
                probe_y.scale * angstroms(probe_y),
                probe_x.scale * angstroms(probe_x),
            ),
            error=self.history.data,
            status=self.status,
            title=self.metadata.General.title,
        )
        for panel in figure.axes[:2]:  # the phase and its spectrum
            if mirrored[0]:
                panel.invert_xaxis()
            if mirrored[1]:
                panel.invert_yaxis()
        return figure

    def plot_tuning(self, *, against: str = "trial") -> Figure:
        """Draw the objective of every trial, and each tuned parameter against the objective.

        Shaded are the interval in which each parameter lies with a probability of 68 %, and the
        noise of the objective; a parameter's importance is its share of the objective's variation
        near the best (of names, over all that was searched). Short trials are grey, on the scale
        of the full-length ones. Trials that are clicked on are compared in the title, and their
        numbers are in the figure's ``picked_trials``, for `compare_trials`.

        Parameters
        ----------
        against
            What the objective is drawn against: ``"trial"``, or ``"seconds"`` of all trials so far.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``savefig``; nothing is shown until ``matplotlib.pyplot.show()``.
        """
        from hs_autoptycho.plotting import tuning_figure
        from hs_autoptycho.plotting.live import parameter_units

        tuning = self._tuning()
        tuning = to_plain({k: v for k, v in tuning.items() if not k.endswith("_json")})
        answers, intervals = self._answers(), self.parameter_intervals
        noises = [answers.get("standard_error"), answers.get("repeat_noise")]
        space = tuning.get("space") or {}
        logarithmic = {name: bool(entry["log"]) for name, entry in space.items() if "log" in entry}
        return tuning_figure(
            self.trials,
            names=tuning.get("parameters"),
            objective=tuning.get("objective", "objective"),
            best_trial=tuning.get("best_trial"),
            logarithmic=logarithmic,
            against=against,
            intervals=intervals,
            importance={
                name: shares["total" if _is_named(intervals.get(name)) else "local_total"]
                for name, shares in self.parameter_importance.items()
            },
            noise=max((noise for noise in noises if noise is not None), default=None),
            units=parameter_units(),
        )

    def compare_trials(self, numbers: Sequence[int], *, signal: Any = None) -> TrialComparison:
        """Put trials of the tuning beside each other; the result is shown as a table.

        Its ``differences`` have standard errors from paired blocks of the scan; ``plot()`` draws
        learning curves, blocks and parameters. The trials that were clicked on in the figure of
        `plot_tuning` are in its attribute ``picked_trials``.

        Parameters
        ----------
        numbers
            Of the trials, two at least; the others are compared with the first.
        signal
            The scan: the trials are then reconstructed again, from all counts of the whole scan,
            with the trials' passes and seeds. They are in ``objects``, and ``plot()`` shows their
            phases. Takes as long as so many calls of ``reconstruct_ptycho``. By default nothing
            is reconstructed.

        Returns
        -------
        TrialComparison
            With ``differences``, ``objects`` and ``plot()``.

        Raises
        ------
        AttributeError
            If the object was not tuned.
        ValueError
            If there is no trial of a number, the signal is another scan, or another engine
            reconstructed the trials.

        Examples
        --------
        >>> obj.compare_trials([3, 17])  # doctest: +SKIP
        >>> obj.compare_trials([3, 17], signal=s).plot()  # doctest: +SKIP
        """
        from hs_autoptycho.plotting import compare_trials
        from hs_autoptycho.plotting.live import parameter_units

        tuning = self._tuning()
        options = {"objective": str(tuning.get("objective", "objective"))}
        options["units"] = parameter_units()
        comparison = compare_trials(self.trials, numbers, **options)
        if signal is None:
            return comparison
        if tuning.get("engine", "numba") != "numba":
            raise ValueError(
                f"the trials were reconstructed by {tuning['engine']}, and only those of this "
                "package's own engine can be made again; leave out `signal`"
            )
        objects = [self._again(trial, signal) for trial in comparison.trials]
        return compare_trials(self.trials, numbers, **options, objects=objects)

    def _again(self, trial: dict[str, Any], signal):
        """A trial's reconstruction, from all counts."""
        tuned = to_plain(self._tuning()["parameters"])
        held = {k: v for k, v in self.parameters.items() if k in PARAMETERS and k not in tuned}
        result = signal.reconstruct_ptycho(
            **{**held, **self.recording, **trial["parameters"]},
            n_iterations=trial["fidelity"]["n_iterations"],
            random_state=trial["seed"],
        )
        if result.fingerprint != self.fingerprint:
            raise ValueError(
                "the signal is not the scan that was tuned: its counts differ. Load that one, with "
                "the same crop and binning"
            )
        return result


def _is_named(interval: Any) -> bool:
    """Whether an interval is that of names, which have no neighbours near the best."""
    return isinstance(interval, Mapping) and any(isinstance(choice, str) for choice in interval)
