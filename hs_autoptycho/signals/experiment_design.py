"""A designed experiment, as a HyperSpy signal that carries its whole search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from hyperspy.api import signals

from hs_autoptycho.design.instrument import SETTINGS, Instrument
from hs_autoptycho.design.resolution import RAYLEIGH_DIP, Resolved, resolved_pairs
from hs_autoptycho.design.search import searched
from hs_autoptycho.design.surface import predict
from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.signals._plain import in_memory, to_json, to_plain
from hs_autoptycho.signals._record import RunRecord, reads
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# points along each axis of a response surface
_POINTS = 41
_WHICH = ("best", "reference")


class ExperimentDesign(RunRecord, signals.Signal2D):
    """Expected scores of the settings of a microscope, by dose, with the search they come from.

    Data are float32, ``(dose | x, y)``, the doses rising: the score that a Gaussian process through
    all trials expects, over two of the settings that were searched, with the third at its best
    value. NaN where an experiment is impossible. Where one setting alone was searched, y has a
    single row.

    Trials, settings, reconstructions and the truth are stored in ``metadata.Design``: saved to
    ``.hspy`` or ``.zspy`` they are part of one file, and ``hs.load`` gives them back with this
    class. Attributes are of all doses, also of a design that was cropped with ``inav``.
    """

    _signal_type = "experiment_design"
    _entry = "Design"
    _made_by = "design_experiment()"

    @classmethod
    def from_search(
        cls,
        *,
        doses: Sequence[float],
        dimensions: Sequence[Dimension],
        held: Mapping[str, float],
        best: Sequence[Mapping[str, float]],
        reference: Mapping[str, float] | None,
        trials: Sequence[Mapping[str, Any]],
        score: str,
        instrument: Instrument,
        images: np.ndarray,
        truth: np.ndarray,
        pixel: tuple[float, float],
        origin: tuple[float, float],
        settings: Mapping[str, Any],
        status: str,
        seed: int,
        versions: Mapping[str, str],
        notes: Sequence[str],
    ) -> ExperimentDesign:
        """Build the signal from plain arrays and dictionaries.

        Parameters
        ----------
        doses
            In e/Å², in any order.
        dimensions, held
            Settings that were searched, and those that were not.
        best
            The best settings by dose.
        reference
            What they are compared with.
        trials
            As :meth:`hs_autoptycho.tuning.trial.Trial.to_dict` gives them.
        score
            Name of the score; the trials' objective is 1 less it.
        instrument
            What all experiments have in common.
        images
            Phases of best and reference, float (doses, 2, Y, X), in rad; NaN where there is none.
        truth
            The true phase, float (Y, X).
        pixel, origin
            Of the images: (y, x) in Å.
        settings
            Of the search, plain.
        status
            ``"completed"`` or ``"interrupted"``.
        seed
            Of the search.
        versions
            Of packages.
        notes
            Sentences on what was assumed or is to be doubted.
        """
        order = np.argsort(doses)
        doses = [float(doses[i]) for i in order]
        best = [{n: float(best[i][n]) for n in SETTINGS} for i in order]
        images = np.asarray(images, np.float32)[order]
        objects = [Trial.from_dict(t) for t in trials]
        # defocus along x where it was searched, for the surface is read like the published ones
        names = [d.name for d in dimensions]
        x, y = (names[1], names[0]) if len(names) > 1 else (names[0], None)
        search = (list(dimensions), held, instrument)
        surfaces = [
            _surface(search, objects, dose, chosen, x, y)
            for dose, chosen in zip(doses, best, strict=True)
        ]
        entry = {
            "doses": doses,
            "space_json": to_json({d.name: d.to_dict() for d in dimensions}),
            "held": to_plain(held, "held"),
            "best_json": to_json(best),
            "reference_json": to_json(reference),
            "trials_json": to_json(trials, "trials"),
            "score": str(score),
            "instrument_json": to_json(instrument.to_dict()),
            "uncertainty": np.array([std for _, std in surfaces], np.float32),
            "images": images,
            "truth": np.array(truth, np.float32),
            "pixel": [float(v) for v in pixel],
            "origin": [float(v) for v in origin],
            "settings_json": to_json(settings, "settings"),
            "status": str(status),
            "seed": to_plain(seed, "seed"),
            "versions": to_plain(versions, "versions"),
            "notes": [str(note) for note in notes],
        }
        axes = [_dose_axis(doses), *_surface_axes(dimensions, x, y)]
        metadata = {
            "General": {"title": "Experiment design"},
            "Signal": {"quantity": score},
            "Design": entry,
        }
        return cls(np.array([m for m, _ in surfaces], np.float32), axes=axes, metadata=metadata)

    # --- what was stored ------------------------------------------------------------------------

    @property
    @reads("doses")
    def doses(self) -> list[float]:
        """In e/Å², rising."""
        return [float(v) for v in np.asarray(self._stored("doses"))]

    @property
    def score(self) -> str:
        """Name of the score that was made as high as possible."""
        return str(self._stored("score"))

    @property
    @reads("best_json")
    def best_parameters(self) -> list[dict[str, float]]:
        """Best settings by dose: ``dose``, ``scan_step``, ``defocus``, ``convergence_angle``."""
        found = self._json("best_json", list)
        return [{"dose": d, **b} for d, b in zip(self.doses, found, strict=True)]

    @property
    def reference_parameters(self) -> dict[str, float] | None:
        """Settings of the reference; None if there was none."""
        return self._json("reference_json", (dict, type(None)))

    @property
    @reads("trials_json")
    def best_scores(self) -> list[dict[str, float]]:
        """Scores of the best settings by dose, see `reference_scores`."""
        return [self._scores(d, b) for d, b in zip(self.doses, self.best_parameters, strict=True)]

    @property
    @reads("trials_json")
    def reference_scores(self) -> list[dict[str, float]]:
        """Scores of the reference by dose, of experiments with noise that the search never saw.

        ``mean`` and ``std`` (of one experiment, NaN for less than two) of the score, their number
        ``n``, and the means of all scores by their names. Empty if there was no reference.
        """
        reference = self.reference_parameters
        return [] if reference is None else [self._scores(d, reference) for d in self.doses]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Every trial in order: a new list of dictionaries.

        ``parameters`` with the dose, ``objective`` (1 less the score), ``metrics`` with all scores,
        ``n_positions``, ``electrons`` a pattern and seconds, ``purpose`` (``"search"`` or
        ``"repeat"``), ``status``.
        """
        return self._json("trials_json", list)

    @property
    def instrument(self) -> dict[str, Any]:
        """What all experiments had in common."""
        return self._json("instrument_json", dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Strategy, passes and further parameters of the reconstructions."""
        return self._json("settings_json", dict)

    @property
    @reads("uncertainty")
    def uncertainty(self) -> signals.Signal2D:
        """Standard deviation of the expected scores, on the axes of this signal."""
        axes = [_dose_axis(self.doses), *_surface_axes(self._space(), *self._xy())]
        metadata = {"General": {"title": f"Uncertainty ({self.metadata.General.title})"}}
        return signals.Signal2D(self._array("uncertainty", 3), axes=axes, metadata=metadata)

    @property
    @reads("images")
    def reconstructions(self) -> signals.Signal2D:
        """Phases in rad, ``(dose, which | x, y)``: best and, where there is one, reference.

        All on the same pixels, in register with `truth`, after the shift and the ramp that
        ptychography cannot know were taken out; the field of view without its edges.
        """
        images = self._array("images", 4)
        which = _WHICH[: 1 if self.reference_parameters is None else 2]
        axes = [
            {"name": "which", "size": len(which), "navigate": True},
            _dose_axis(self.doses),
            *self._image_axes(),
        ]
        data = np.ascontiguousarray(images[:, : len(which)].swapaxes(0, 1))
        title = f"Reconstructions: {', '.join(which)}"
        metadata = {"General": {"title": title}, "Signal": {"quantity": "Phase (rad)"}}
        return signals.Signal2D(data, axes=axes, metadata=metadata)

    @property
    @reads("truth")
    def truth(self) -> signals.Signal2D:
        """The true phase in rad, on the pixels of `reconstructions`."""
        metadata = {"General": {"title": "True phase"}, "Signal": {"quantity": "Phase (rad)"}}
        return signals.Signal2D(self._array("truth", 2), axes=self._image_axes(), metadata=metadata)

    # --- what a user asks of it ---------------------------------------------------------------

    def response(
        self, dose: float, x: str, y: str | None = None, *, n_points: int = _POINTS
    ) -> tuple[signals.Signal2D, signals.Signal2D]:
        """Expected score over one or two settings at a dose, the others at their best values.

        Parameters
        ----------
        dose
            One of `doses`.
        x, y
            Names of settings that were searched; without `y` there is a single row.
        n_points
            Along each axis, at least 2.

        Returns
        -------
        Two hyperspy.api.signals.Signal2D
            Expected score and its standard deviation, NaN where an experiment is impossible.

        Raises
        ------
        ValueError
            For another dose, a setting that was not searched, or fewer points.
        """
        if n_points < 2:
            raise ValueError(f"n_points={n_points}: at least 2 are needed along an axis")
        known = {d.name for d in self._space()}
        for name in (x, y):
            if name is not None and name not in known:
                raise ValueError(f"{name!r} was not searched; {', '.join(sorted(known))} were")
        if x == y:
            raise ValueError(f"x and y are both {x!r}")
        index = self._dose_index(dose)
        chosen = self.best_parameters[index]
        surfaces = _surface(
            self._search(), self._trials(), self.doses[index], chosen, x, y, n_points
        )
        axes = _surface_axes(self._space(), x, y, n_points)
        titles = (f"Expected {self.score} at {dose:g} e/Å²", "Its standard deviation")
        return tuple(
            signals.Signal2D(
                data.astype(np.float32), axes=axes, metadata={"General": {"title": title}}
            )
            for data, title in zip(surfaces, titles, strict=True)
        )

    def resolved_pairs(
        self, pairs: np.ndarray, *, dip: float = RAYLEIGH_DIP, blur: float = 0.0
    ) -> list[dict[str, Resolved]]:
        """How many pairs of atoms best and reference resolve, by dose.

        Parameters
        ----------
        pairs
            (pairs, 2, 2): pair, atom, (y, x) in Å in the frame of the potential, as
            :func:`hs_autoptycho.data.atom_pairs` gives them.
        dip, blur
            See :func:`hs_autoptycho.design.resolution.resolved_pairs`.

        Returns
        -------
        list of dict
            A dose each: ``best`` and ``reference`` to what that function returns, without those
            whose reconstruction was not made.
        """
        options = {"pixel": self._stored("pixel"), "origin": self._stored("origin")}
        stack = self.reconstructions.data
        return [
            {
                name: resolved_pairs(image, pairs, dip=dip, blur=blur, **options)
                for name, image in zip(_WHICH, stack[:, i], strict=False)
                if np.isfinite(image).all()
            }
            for i in range(len(self.doses))
        ]

    def plot(self, *args: Any, **kwargs: Any) -> Figure | None:
        """Draw the design, as `plot_summary`; with any argument, HyperSpy's plot of the surfaces.

        Parameters
        ----------
        *args, **kwargs
            Of :meth:`hyperspy.api.signals.Signal2D.plot`.

        Returns
        -------
        matplotlib.figure.Figure or None
            None from HyperSpy's plot.
        """
        if args or kwargs:
            return super().plot(*args, **kwargs)
        return self.plot_summary()

    def plot_summary(self) -> Figure:
        """Draw scores by dose and by setting, and the reconstructions of best and reference.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``savefig``; nothing is shown until ``matplotlib.pyplot.show()``.
        """
        from hs_autoptycho.plotting import design_figure

        reference = self.reference_scores
        return design_figure(
            doses=self.doses,
            trials=self.trials,
            names=[d.name for d in self._space()],
            units={name: PARAMETERS[name].unit for name in SETTINGS},
            score=self.score,
            best=self.best_parameters,
            best_scores=self.best_scores,
            reference=self.reference_parameters,
            reference_scores=reference,
            images=self.reconstructions.data,
            truth=self.truth.data,
            pixel=tuple(self._stored("pixel")),
        )

    def _dose_index(self, dose: float) -> int:
        for i, known in enumerate(self.doses):
            if np.isclose(known, dose, rtol=1e-9):
                return i
        raise ValueError(f"dose={dose!r}: one of {', '.join(f'{d:g}' for d in self.doses)}")

    def _scores(self, dose: float, settings: Mapping[str, float]) -> dict[str, float]:
        wanted = {name: settings[name] for name in SETTINGS}
        made = [
            t
            for t in self.trials
            if t["purpose"] == "repeat"
            and t["objective"] is not None
            and t["parameters"] == {"dose": dose, **wanted}
        ]
        values = [1 - t["objective"] for t in made]
        out = {
            "mean": float(np.mean(values)) if values else np.nan,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
            "n": len(values),
        }
        for name in ("correlation", "ssim", "frc"):
            some = [t["metrics"][name] for t in made if t["metrics"].get(name) is not None]
            out[name] = float(np.mean(some)) if some else np.nan
        return out

    @reads("space_json")
    def _space(self) -> list[Dimension]:
        space = self._json("space_json", dict)
        return [Dimension(name, v["low"], v["high"], log=v["log"]) for name, v in space.items()]

    @reads("space_json")
    def _xy(self) -> tuple[str, str | None]:
        names = [d.name for d in self._space()]
        return (names[1], names[0]) if len(names) > 1 else (names[0], None)

    @reads("instrument_json", "held")
    def _search(self) -> tuple[list[Dimension], dict[str, float], Instrument]:
        values = self.instrument
        for name in ("detector_shape", "field_of_view"):
            values[name] = tuple(values[name])
        return self._space(), to_plain(self._stored("held")), Instrument(**values)

    @reads("trials_json")
    def _trials(self) -> list[Trial]:
        return [Trial.from_dict(t) for t in self.trials]

    @reads("truth", "pixel", "origin")
    def _image_axes(self) -> list[dict[str, Any]]:
        shape = self._array("truth", 2).shape
        pixel, origin = self._stored("pixel"), self._stored("origin")
        return [
            {"name": name, "units": "Å", "scale": float(pixel[i]), "offset": float(origin[i]),
             "size": shape[i], "navigate": False}
            for i, name in enumerate("yx")
        ]  # fmt: skip


def _surface(search, trials, dose, chosen, x, y, n_points=_POINTS):
    """Expected score and standard deviation, float64 (y, x)."""
    dimensions, held, instrument = search
    known = {d.name: d for d in dimensions}
    along = {n: np.linspace(known[n].low, known[n].high, n_points) for n in (x, y) if n}
    grid = np.meshgrid(along[x], along[y] if y else [0.0])
    settings = {n: np.full(grid[0].shape, float(chosen[n])) for n in SETTINGS}
    settings.update({n: values for n, values in zip((x, y), grid, strict=True) if n})
    mean, std = predict(dimensions, searched(trials, dose), {n: settings[n] for n in known})
    possible = instrument.possible(dose, settings)
    return np.where(possible, mean, np.nan), np.where(possible, std, np.nan)


def _surface_axes(dimensions, x, y, n_points=_POINTS) -> list[dict[str, Any]]:
    """HyperSpy's axes, y and x."""
    known = {d.name: d for d in dimensions}
    axes = []
    for name in (y, x):
        if name is None:
            axes.append({"name": "none", "size": 1, "navigate": False})
            continue
        d = known[name]
        axes.append(
            {"name": name, "units": PARAMETERS[name].unit, "offset": float(d.low),
             "scale": float(d.high - d.low) / (n_points - 1), "size": n_points, "navigate": False}
        )  # fmt: skip
    return axes


def _dose_axis(doses: Sequence[float]) -> dict[str, Any]:
    if len(doses) == 1:  # an axis of values needs two of them
        axis = {"size": 1, "offset": float(doses[0]), "scale": 1.0}
    else:
        axis = {"axis": np.array(doses, float)}
    return {"name": "dose", "units": "e/Å²", "navigate": True, **axis}


class LazyExperimentDesign(ExperimentDesign, signals.LazySignal2D):
    """An :class:`ExperimentDesign` whose data are read when needed."""

    def compute(self, close_file=False, show_progressbar=None, **kwargs):
        # a file opened lazily leaves the arrays in the metadata in the file too
        if self.metadata.has_item("Design"):
            entry = in_memory(self.metadata.Design.as_dictionary())
            self.metadata.add_dictionary({"Design": entry})
        super().compute(close_file=close_file, show_progressbar=show_progressbar, **kwargs)

    compute.__doc__ = signals.LazySignal2D.compute.__doc__
