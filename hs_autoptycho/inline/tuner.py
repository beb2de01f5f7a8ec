"""Tuning while the microscope runs: the front door."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hs_autoptycho._quantities import CalibrationError
from hs_autoptycho._running import check_count, check_seed, threads
from hs_autoptycho.inline.frames import is_empty
from hs_autoptycho.inline.improving import (
    Best,
    best_parameters,
    guessed,
    judge,
    learn,
    run_trials,
    search_for,
    trial_fidelity,
    tuned_names,
    tuning_record,
)
from hs_autoptycho.inline.options import check_options, read_parameters
from hs_autoptycho.inline.proposals import (
    Proposal,
    read_limits,
    read_target,
    reason_to_stop,
)
from hs_autoptycho.inline.recording import Recording
from hs_autoptycho.inline.search import Search
from hs_autoptycho.inline.session import Session
from hs_autoptycho.inline.sources import begins_a_scan, scans
from hs_autoptycho.ptycho.loading import DataError
from hs_autoptycho.ptycho.parameters import RECORDING, ParameterError, check_parameters
from hs_autoptycho.signals import PtychographicObject

_logger = logging.getLogger(__name__)

_GEOMETRY = ("beam_energy", "convergence_angle", "scan_step", "reciprocal_pixel")


class PtychographyTuner:
    """Ptychography that is tuned while the microscope runs.

    Three things can be done with it, together or alone:

    - :meth:`ask` for parameters and :meth:`tell` a score, from whatever reconstructs or measures;
    - hand over patterns as they arrive, with :meth:`update`, and get pictures of what there is;
    - :meth:`run` it on a source of patterns, or let it acquire: between the scans it measures how
      far the instrument is from what was asked for, and proposes the next settings.

    The geometry of a scan (rotation, defocus, astigmatism) is measured without a reconstruction as
    by :func:`hs_autoptycho.estimate_geometry`; a few short trials, which begin with what the last
    scan has taught, improve it. The difference between what was asked for and what was measured is
    followed from scan to scan as a random walk [1]_, and corrected.

    Parameters
    ----------
    signal
        HyperSpy signal ``(x, y | kx, ky)``: a scan that was recorded already. Its calibration is
        that of the frames to come. Default: none.
    parameters
        What to tune, as for ``autotune_ptycho``: name to ``(low, high)``, a list, None or a single
        value that is held; or a list of names. Default: rotation and defocus, about what was
        measured. Without any data, ranges are needed for :meth:`ask`.
    target
        Settings that the instrument shall have: a dictionary such as ``{"defocus": 300,
        "scan_rotation": 0, "scan_step": 0.8}`` (Å and degrees), or the result of a design study for
        one dose, whose ``best_parameters`` are taken (of several doses choose one,
        ``design.best_parameters[0]``). Default: what the first scan was asked for.
    limits
        Of the instrument: name of a setting to (low, high). Default: none.
    scan_shape
        (slow, fast) of the scans that come as frames. Default: that of `signal` or of the source.
    beam_energy, convergence_angle, scan_step, reciprocal_pixel
        In keV, mrad (semi-angle), Å and 1/Å. Default: from signals, stores and settings.
    disk_center, disk_radius, detector_mask, background
        As for ``reconstruct_ptycho``.
    fixed
        Parameters of all reconstructions, as for ``reconstruct_ptycho``, that are not tuned.
    pictures
        After which parts of a scan, in rising order, a picture is made; at its end there always is
        one.
    objective
        Score of the trials, as for ``autotune_ptycho``.
    picture_score
        Score of a scan, by which the gain of other settings is told; lower is better. ``"frc"``
        (default): one less the Fourier ring correlation of two pictures from half the counts each,
        on the middle of the scan. None: scans are not judged, and no gain is known. Or a function
        that takes a picture and returns a number.
    n_trials
        Short trials after a scan. Default: two a tuned parameter, and two. 0: none.
    n_iterations
        Passes of a picture.
    n_trial_iterations
        Passes of a trial, which sees some 1000 positions in the middle of the scan.
    smallest_gain
        A gain below this part of the score is not worth another scan.
    random_state
        Seed.
    num_workers
        Number of threads. Default: all cores.

    Attributes
    ----------
    recordings : list of Recording
        The scans: what was asked for (``settings``), what was measured (``actual``: value and
        standard error), their ``score``, last ``picture``, ``seconds`` and ``notes``. Only of the
        last one the patterns are kept.

    Raises
    ------
    ParameterError, TypeError, ValueError
        For an option of a wrong value.

    See Also
    --------
    hs_autoptycho.data.SimulatedMicroscope : To try it.

    References
    ----------
    .. [1] R. E. Kalman, J. Basic Eng. 82, 35 (1960).

    Examples
    --------
    >>> import hs_autoptycho
    >>> tuner = hs_autoptycho.PtychographyTuner(parameters={"defocus": (100, 500)})
    >>> for _ in range(12):
    ...     parameters = tuner.ask()
    ...     tuner.tell(parameters, (parameters["defocus"] / 100 - 3.2) ** 2)
    >>> round(tuner.best.parameters["defocus"], -1)
    320.0

    >>> microscope = hs_autoptycho.data.SimulatedMicroscope()
    >>> tuner = hs_autoptycho.PtychographyTuner(target={"defocus": 200, "scan_rotation": 0})
    >>> picture = tuner.run(microscope.acquire, n_scans=3)  # doctest: +SKIP
    """

    def __init__(
        self,
        signal: Any = None,
        parameters: Mapping[str, Any] | Sequence[str] | None = None,
        *,
        target: Any = None,
        limits: Mapping[str, tuple[float, float]] | None = None,
        scan_shape: tuple[int, int] | None = None,
        beam_energy: float | None = None,
        convergence_angle: float | None = None,
        scan_step: float | None = None,
        reciprocal_pixel: float | None = None,
        disk_center: tuple[float, float] | None = None,
        disk_radius: float | None = None,
        detector_mask: Any = None,
        background: Any = None,
        fixed: Mapping[str, Any] | None = None,
        pictures: Sequence[float] = (0.25,),
        objective: str | Callable[[Any], float] = "held_out",
        picture_score: str | Callable[[PtychographicObject], float] | None = "frc",
        n_trials: int | None = None,
        n_iterations: int = 5,
        n_trial_iterations: int = 3,
        smallest_gain: float = 0.01,
        random_state: int = 0,
        num_workers: int | None = None,
    ):
        check_options(n_iterations, n_trial_iterations, n_trials, pictures, picture_score)
        stated = dict(zip(_GEOMETRY, (beam_energy, convergence_angle, scan_step, reciprocal_pixel),
                          strict=True))  # fmt: skip
        options = (disk_center, disk_radius, detector_mask, background)
        self._dimensions, self._wanted, held = read_parameters(parameters, fixed)
        self._session = Session(
            check_parameters(stated),
            dict(zip(RECORDING, options, strict=True)),
            held,
            None if target is None else read_target(target),
            None if scan_shape is None else tuple(int(n) for n in scan_shape),
        )
        self._limits = read_limits(limits, self._session.target)
        self._pictures, self._objective, self._picture_score = pictures, objective, picture_score
        self._n_trials, self._n_iterations = n_trials, n_iterations
        self._n_trial_iterations, self._smallest_gain = n_trial_iterations, smallest_gain
        self._random_state = check_seed(random_state)
        self._num_workers = num_workers
        self._search: Search | None = None
        if signal is not None:
            self._session.take(signal, {})
            with threads(num_workers):
                self._measure()

    @property
    def recordings(self) -> list[Recording]:
        """The scans."""
        return self._session.recordings

    def __repr__(self) -> str:
        best = self.best
        text = "nothing known yet" if best is None else f"best {best.parameters}"
        return f"<PtychographyTuner: {len(self.recordings)} scans, {text}>"

    # --- ask and tell -------------------------------------------------------------------------

    def ask(self) -> dict[str, Any]:
        """The parameters to try next: of a reconstruction, or whatever else is scored.

        Without data in the ranges of `parameters`; with a scan, about what was measured of it. May
        be called several times before a score is told.

        Returns
        -------
        dict
            Name to value, in the units of ``reconstruct_ptycho``.

        Raises
        ------
        ParameterError
            If there are neither ranges nor data, or every point has been tried.
        """
        point = self._the_search().ask()
        if point is None:
            raise ParameterError("Every point of the space has been tried: see `best`.")
        return point

    def tell(self, parameters: Mapping[str, Any], score: float | None) -> None:
        """What came of some parameters, whoever found out.

        Parameters
        ----------
        parameters
            As :meth:`ask` gave them, or others within the ranges.
        score
            Lower is better. None, NaN or infinite: it failed there.

        Raises
        ------
        ParameterError
            If a parameter is missing, unknown, or outside of its range; or if :meth:`improve` has
            tried some already, whose scores are of another kind.
        """
        score = None if score is None or not math.isfinite(score) else float(score)
        self._the_search().tell(parameters, score)

    @property
    def best(self) -> Best | None:
        """The parameters with the lowest score, or after :meth:`improve` what the trials and the
        measurement say together; before any was told those that were measured.

        Returns
        -------
        Best or None
            ``parameters`` (dict) and the lowest ``score`` (None where they were measured); None
            where nothing is known.
        """
        trial = None if self._search is None else self._search.best
        if trial is not None:
            last = self.recordings[-1] if self.recordings else None
            return Best(best_parameters(self._search, last), trial.objective)
        done = self._session.measured
        return Best({k: v.value for k, v in done[-1].actual.items()}, None) if done else None

    # --- frames -------------------------------------------------------------------------------

    def update(
        self,
        frames: Any,
        *,
        settings: Mapping[str, Any] | None = None,
        new_scan: bool = False,
    ) -> PtychographicObject | None:
        """Take patterns in as they arrive.

        Parameters
        ----------
        frames
            One pattern (k_y, k_x), several (n, k_y, k_x), or whole rows (rows, fast, k_y, k_x), in
            the order of the scan; or a whole scan as a HyperSpy signal, which also brings its
            calibration. What is more than the scan needs begins the next one.
        settings
            What the instrument was asked for in this scan; used with its first frames. Default:
            what the last scan was asked for.
        new_scan
            Whether these frames begin a scan although the last one is not complete.

        Returns
        -------
        PtychographicObject or None
            A picture of the rows that there are, where one is due.

        Raises
        ------
        DataError
            If a pattern is of the wrong shape or holds NaN, infinite or negative values: the
            message says which; nothing of the block is taken in, and the scan can go on.
        CalibrationError, ParameterError
            If lengths or energies are not known, as of ``reconstruct_ptycho``.
        """
        if new_scan:
            self._session.close()
        picture, rest = None, None if is_empty(frames) else frames
        while rest is not None:
            later, rest = self._take(rest, settings)
            picture = picture if later is None else later
        if picture is not None and picture.status == "interrupted":
            raise KeyboardInterrupt
        return picture

    def picture(self, n_iterations: int | None = None) -> PtychographicObject:
        """Reconstruct the rows that there are, with the best parameters known.

        Parameters
        ----------
        n_iterations
            Passes. Default: as for all pictures.

        Returns
        -------
        PtychographicObject
            With the trials of this scan, if there were any.

        Raises
        ------
        DataError
            If there are too few rows.
        """
        with threads(self._num_workers):
            recording = self._measured()
            best = best_parameters(self._search, recording)
            record = tuning_record(self._search, recording, self._objective) if best else None
            parameters = self._parameters(recording)
            n = self._n_iterations if n_iterations is None else n_iterations
            return recording.show(parameters, n, self._random_state, record)

    def improve(self, n_trials: int | None = None) -> Best:
        """Improve the last scan's parameters by short trials, and judge its picture.

        Parameters
        ----------
        n_trials
            Default: as given to the class.

        Returns
        -------
        Best

        Raises
        ------
        ParameterError
            If scores of this scan were told, which are not to be mixed with those of trials.
        """
        with threads(self._num_workers):
            recording = self._measured()
            start = time.perf_counter()
            held, n = self._session.held, self._n_trials if n_trials is None else n_trials
            fidelity = trial_fidelity(recording, self._n_trial_iterations)
            if n != 0 and tuned_names(self._dimensions, self._wanted, held):
                run_trials(self._the_search(), recording, self._objective, held, n, fidelity,
                           self._random_state)  # fmt: skip
                learn(self._search, recording)
            recording.seconds["trials"] = time.perf_counter() - start
            start = time.perf_counter()
            parameters = self._parameters(recording)
            recording.score = judge(
                self._picture_score, recording, parameters, fidelity, self._random_state
            )
            recording.seconds["score"] = time.perf_counter() - start
        return self.best

    # --- the loop -----------------------------------------------------------------------------

    def run(
        self,
        source: Any,
        *,
        n_scans: int = 5,
        settings: Mapping[str, Any] | None = None,
        callback: Callable[[PtychographyTuner, PtychographicObject], bool | None] | None = None,
        timeout: float = 60.0,
        poll: float = 0.2,
    ) -> PtychographicObject:
        """Follow one scan or several, and improve the parameters after each.

        Parameters
        ----------
        source
            - a function: it is called with the proposed settings (a dict) and acquires a scan; it
              returns a signal, or an iterator of blocks of patterns as for :meth:`update`. At most
              `n_scans` times, until :meth:`should_stop` has a reason;
            - an iterable of blocks of patterns: of one scan, or of several one after the other. It
              goes on with a scan that Ctrl-C or a bad block has left incomplete;
            - the path of a zarr or zspy store that is being written: of one scan;
            - a signal: one scan.
        n_scans
            How many scans at most.
        settings
            What the instrument was asked for; with a function what the first scan is asked for,
            beside the target's.
        callback
            Called with the tuner and every picture as soon as it is made. The run ends if it
            returns True.
        timeout
            Seconds without a new row after which a store's scan is taken to be over.
        poll
            Seconds between two looks at a store.

        Returns
        -------
        PtychographicObject
            The last scan with the best parameters. After Ctrl-C the last picture there is, with the
            status ``"interrupted"``; what was recorded stays in the tuner. Of a function the same
            as before, where :meth:`should_stop` has a reason from the start.

        Raises
        ------
        DataError
            For bad patterns, or a scan that ended before there was enough for a picture.
        KeyboardInterrupt
            If interrupted before there was enough for a picture.
        """
        check_count("n_scans", n_scans)
        if begins_a_scan(source):
            self._session.close()
        first = sum(recording.closed for recording in self.recordings)
        every = scans(
            source,
            self._session,
            settings=settings or {},
            next_settings=self._next_settings,
            timeout=timeout,
            poll=poll,
        )
        try:
            for blocks, asked in every:
                if self._follow(blocks, asked, first + n_scans, callback):
                    break
            # with a reason to stop before the first scan there is only what was there
            if len(self.recordings) == first and not (callable(source) and self.should_stop()):
                raise DataError("The source had no patterns.")
            last = self._session.last
            done = self._search is None and last.picture is not None
            return last.picture if done else self.picture()
        except KeyboardInterrupt:
            picture = self._session.what_there_is()
            _logger.warning("Interrupted; what was recorded is kept in the tuner.")
            return picture

    def propose(self) -> Proposal:
        """Settings for the next acquisition.

        The target, less what the instrument is off as it was measured in the scans so far, within
        the instrument's limits.

        Returns
        -------
        Proposal
            ``settings``, ``corrections`` and their ``uncertainties``; the expected ``gain``, by
            which the score of the next scan is below that of the last, and ``gain_error``. They are
            NaN and infinite before two scans at different distances from the target were judged.
        """
        return self._session.propose(self._limits)

    def should_stop(self) -> str | None:
        """Why another scan is not worth it: a sentence; None if it is.

        Reasons are an expected gain below the `smallest_gain` part of the score (even with its
        standard error added); or below its uncertainty, with all settings at the target within
        theirs; or limits that keep the instrument from coming closer.

        Returns
        -------
        str or None
            The reason; None while another scan is expected to pay, or where none was measured.
        """
        if not self._session.measured:
            return None
        last = self._session.measured[-1]
        return reason_to_stop(self.propose(), last.score, self._smallest_gain)

    # --- what is behind it --------------------------------------------------------------------

    def _next_settings(self) -> dict[str, Any] | None:
        """Of the next scan; None if another is not worth it."""
        reason = self.should_stop()
        if reason is not None:
            _logger.info(reason)
            return None
        return self.propose().settings

    def _follow(self, blocks, asked, n_scans, callback) -> bool:
        """Take in the blocks of a scan, or of several; True if the run is over."""
        came = False
        for block in blocks:
            block = None if is_empty(block) else block
            while block is not None:
                came = True
                picture, block = self._take(block, asked)
                if picture is not None and self._shown(picture, callback):
                    return True
                if self._session.last.frames.complete:
                    self.improve()
                    if len(self.recordings) >= n_scans:
                        return True
        if not came:
            return True
        last = self._session.last
        if not last.frames.complete:
            if last.frames.n_rows != last.n_rows and self._shown(self.picture(), callback):
                return True
            self.improve()
            self._session.close()
        return len(self.recordings) >= n_scans

    def _shown(self, picture: PtychographicObject, callback) -> bool:
        if picture.status == "interrupted":
            raise KeyboardInterrupt
        return bool(callback is not None and callback(self, picture))

    def _take(self, frames, settings) -> tuple[PtychographicObject | None, Any]:
        """Take in what the scan needs of some frames; a picture where one is due, and the rest."""
        rest = self._session.take(frames, settings)
        if self._session.last.scan is None:
            self._search = None
        if not self._session.due(self._pictures):
            return None, rest
        recording = self._session.last
        with threads(self._num_workers):
            try:
                self._measure()
                if recording.frames.complete or recording.can_be_shown:
                    values, n = self._parameters(recording), self._n_iterations
                    return recording.show(values, n, self._random_state), rest
            except (DataError, CalibrationError) as error:
                if recording.frames.complete:
                    raise
                recording.notes.append(f"No picture of the first rows: {error}")
                _logger.warning(recording.notes[-1])
            return None, rest  # more rows will tell

    def _parameters(self, recording: Recording) -> dict[str, Any]:
        """What to reconstruct a scan with."""
        best = best_parameters(self._search, recording)
        known = {**guessed(self._dimensions, recording), **best}
        return recording.parameters(self._session.held, known)

    def _measured(self) -> Recording:
        """The last scan, with all its rows measured."""
        recording = self._session.last
        if recording.scan is None or recording.frames.n_rows != recording.n_rows:
            self._measure()
        return recording

    def _measure(self) -> None:
        self._session.measure()
        self._search = None  # it was about other rows

    def _the_search(self) -> Search:
        if self._search is None:
            known = [r for r in self.recordings[-1:] if r.scan is not None]
            self._search = search_for(
                self._dimensions,
                self._wanted,
                self._session.held,
                known[0] if known else None,
                n_trials=self._n_trials,
                random_state=self._random_state,
            )
        return self._search
