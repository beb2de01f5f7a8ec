"""HyperSpy's plot of an object, the scan over it, and trials of its tuning beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho._units import read_unit
from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.signals._plain import to_plain

if TYPE_CHECKING:
    from hyperspy.drawing.markers import Markers

    from hs_autoptycho.plotting import TrialComparison

_MARKER_COLOR = "#E69F00"  # stands out from grey, for colour-blind readers too


class ObjectFigures:
    """What a ``PtychographicObject`` shows of itself with HyperSpy's own plots."""

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

        factors = [read_unit(axis.units).factor for axis in self.axes_manager.signal_axes]
        places = self.positions[:, ::-1] / np.array(factors)
        return hs.plot.markers.Points(places, **{"sizes": 2, "color": _MARKER_COLOR, **style})

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
            **{**held, **trial["parameters"]},
            n_iterations=trial["fidelity"]["n_iterations"],
            random_state=trial["seed"],
        )
        if result.fingerprint != self.fingerprint:
            raise ValueError(
                "the signal is not the scan that was tuned: its counts differ. Load that one, with "
                "the same crop and binning"
            )
        return result
