"""The study: every trial of a search on disk as it ends, one line of JSON each.

The first line says what the search is of, every other line is a trial that has ended. A line is
on the disk before the next trial is proposed, so a kill at any moment costs no more than the trials
under way. Any program that knows JSON can read the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hs_autoptycho.tuning.selection import select_best
from hs_autoptycho.tuning.study_file import (
    FORMAT,
    VERSION,
    StudyError,
    check_path,
    is_ordinary,
    lock,
    make_line,
    open_file,
    read,
    read_trial,
    sync_folder,
)
from hs_autoptycho.tuning.trial import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hs_autoptycho.plotting.comparison import TrialComparison

_logger = logging.getLogger(__name__)

# What may differ when a study is continued.
_FREE = ("format", "version", "created", "versions", "n_trials")


class Study:
    """The trials of a search that have ended, in memory and in a file.

    Make one with :meth:`open`, close it or use it in a ``with`` statement. One process at a time
    can have a file open; the lock ends with the process.

    Attributes
    ----------
    header : dict
        What the search is of; as it was when the file was made.
    path : Path or None
        None for a study that is kept in memory alone.
    """

    def __init__(self, header: Mapping[str, Any], path: Path | None = None):
        self.header, self.path = dict(header), path
        self._trials: list[Trial] = []
        self._file: FileIO | None = None
        self._size = 0  # of the file, as far as it is ours

    @classmethod
    def open(cls, path: str | PathLike | None, header: Mapping[str, Any]) -> Study:
        """Begin a study, or go on with one.

        A line that a kill has cut off is taken away, and a warning logged.

        Parameters
        ----------
        path
            File, made where it does not exist. None: nothing is written.
        header
            What the search is of: fingerprint of the data, objective, space, …. All of it has to
            be the same when a study is continued, but ``versions`` (of packages; a difference is
            logged) and ``n_trials``.

        Raises
        ------
        StudyError
            If the file is of another search, open elsewhere, damaged, or no study at all.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        # what is compared and remembered is what would be read back
        header = json.loads(
            make_line({"format": FORMAT, "version": VERSION, "created": now, **header})
        )
        if path is None:
            return cls(header)
        path = check_path(path)
        study = cls(header, path)
        study._file = open_file(path)
        try:
            lock(study._file, path)
            study._resume()
        except BaseException:
            study.close()
            raise
        return study

    @property
    def trials(self) -> list[Trial]:
        """In the order in which they ended."""
        return list(self._trials)

    def append(self, trial: Trial) -> None:
        """Remember a trial that has ended; it is on the disk when this returns.

        Numbers that are not finite become NaN, as which they are read back.

        Raises
        ------
        StudyError
            If a trial of this number is there already, or the file cannot be written.
        """
        if any(trial.number == known.number for known in self._trials):
            raise StudyError(f"Trial {trial.number} is in the study {self._name} already.")
        line = make_line(trial.to_dict())
        remembered = read_trial(json.loads(line))
        size = self._size
        try:
            self._write(line)
            self._trials.append(remembered)  # before the wait for the disk, which Ctrl-C can end
        except BaseException:
            # Ctrl-C between the two: it is in both or in neither
            if self._size > size and not any(known is remembered for known in self._trials):
                self._cut(size)
            raise
        self._sync()

    def close(self) -> None:
        """Close the file, and let others have it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Study {self._name}: {len(self._trials)} trials>"

    @property
    def _name(self) -> str:
        return "in memory" if self.path is None else str(self.path)

    def _resume(self) -> None:
        """Read what is there, and make the file end with a whole line."""
        content = self._file.readall()
        found = read(content, self.path)
        if found.header is not None:
            _check_same(found.header, self.header, self.path)
        if found.torn:
            _logger.warning(
                "The last %d bytes of the study %s were cut off by a kill, and are taken away.",
                len(content) - found.size,
                self.path,
            )
            self._file.truncate(found.size)
        self._size = found.size
        if found.header is None:
            self._write(make_line(self.header))
            sync_folder(self.path)
        else:
            self.header, self._trials = found.header, found.trials
            if not content[: found.size].endswith(b"\n"):  # killed between a line and its end
                self._write(b"\n")
            _logger.info("The study %s goes on after %d trials.", self.path, len(self._trials))
        self._sync()

    def _write(self, line: bytes) -> None:
        """Put bytes at the end of the file, all or nothing."""
        if self.path is None:
            return
        if self._file is None:
            raise StudyError(f"The study {self.path} is closed.")
        if os.fstat(self._file.fileno()).st_size != self._size:
            raise StudyError(
                f"{self.path} was changed while this search had it open; nothing more is written "
                "to it."
            )
        size = self._size
        try:
            self._file.seek(size)
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            self._size = size + written
        except BaseException as error:  # Ctrl-C, too
            self._cut(size)
            if isinstance(error, OSError):
                raise self._not_written(error) from error
            raise

    def _cut(self, size: int) -> None:
        """Take back what was written beyond a size."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is left is cut off when it is read again
                self._file.truncate(size)
            self._size = size

    def _sync(self) -> None:
        """Wait until the file is on the disk."""
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> StudyError:
        return StudyError(
            f"The study {self.path} cannot be written: {error.strerror}. The "
            f"{len(self._trials)} trials before are kept in it: when there is room again, the "
            "same call goes on after them."
        )


@dataclass(frozen=True)
class StoredStudy:
    """What is in the file of a study.

    Attributes
    ----------
    header : dict
        What the search is of, when it began, and with which versions of packages.
    trials : list of dict
        In the order in which they ended; what their entries are is told at
        :class:`hs_autoptycho.tuning.trial.Trial`.
    path : Path or None
        The file, which may have grown since; see `reload`.
    """

    header: dict[str, Any]
    trials: list[dict[str, Any]]
    path: Path | None = None

    @property
    def best(self) -> dict[str, Any] | None:
        """The simplest trial within one standard error of the lowest objective.

        Of those with the most work, for objectives of shorter trials cannot be compared with
        theirs; None where none was completed. What `autotune_ptycho` ends with can be another one:
        it prefers the point that most trials speak for, if this is as good.
        """
        trials = [read_trial(values) for values in self.trials]
        done = [t for t in trials if t.status == "completed" and t.objective is not None]
        if not done:
            return None
        longest = max(done, key=lambda t: t.fidelity.cost(done[0].fidelity)).fidelity
        best = select_best(done, longest)
        return next((v for v in self.trials if best and v["number"] == best.number), None)

    def to_dataframe(self):
        """A ``pandas.DataFrame`` with a row for each trial.

        Columns of what is nested are named ``parameters.defocus``, ``metrics.data_error``,
        ``fidelity.n_iterations``. Needs pandas, which is not installed with this package.
        """
        import pandas

        return pandas.json_normalize(self.trials)

    def reload(self) -> StoredStudy:
        """What is in the file now."""
        return load_study(self.path)

    def plot_tuning(self, *, against: str = "trial") -> Figure:
        """Draw the objective of every trial, and each parameter against it.

        Parameters
        ----------
        against
            ``"trial"``, or ``"seconds"`` of all trials so far.
        """
        from hs_autoptycho.plotting.live import parameter_units, study_options
        from hs_autoptycho.plotting.tuning import tuning_figure

        options = {"units": parameter_units(), "against": against, **study_options(self)}
        return tuning_figure(self.trials, **options)

    def plot_live(self, *, interval: float = 2.0, timeout: float | None = None) -> Figure:
        """Draw the trials, and draw them anew as the file grows.

        Another process may write the file, on another machine, too; it is only read. This returns
        when all trials that were planned have ended, when the window is closed, and with Ctrl-C
        (the stop button of a notebook). A search that ended before, by a callback or because there
        was nothing left to try, is waited for until the `timeout`.

        Parameters
        ----------
        interval
            Seconds between two looks at the file.
        timeout
            Seconds without a new trial after which it returns. Default: never.
        """
        from hs_autoptycho.plotting.live import plot_live

        return plot_live(self, interval=interval, timeout=timeout)

    def follow(self, *, interval: float = 2.0, timeout: float | None = None) -> StoredStudy:
        """Show on stderr how the search goes on: a progress bar, and a line for every new best.

        For a terminal; options and end are those of `plot_live`.

        Returns
        -------
        StoredStudy
            What was in the file at the end.
        """
        from hs_autoptycho.plotting.live import follow

        return follow(self, interval=interval, timeout=timeout)

    def compare_trials(self, numbers: Sequence[int]) -> TrialComparison:
        """Put trials beside each other: parameters, and differences with standard errors.

        Parameters
        ----------
        numbers
            Of the trials, two at least; the others are compared with the first.
        """
        from hs_autoptycho.plotting.comparison import compare_trials
        from hs_autoptycho.plotting.live import parameter_units

        objective = self.header.get("objective", "objective")
        return compare_trials(self.trials, numbers, objective=objective, units=parameter_units())

    def __repr__(self) -> str:
        counts = Counter(values["status"] for values in self.trials)
        statuses = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        text = f"{len(self.trials)} trials ({statuses})" if self.trials else "no trials"
        best = self.best
        if best is not None:
            what = ", ".join(
                f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}"
                for k, v in best["parameters"].items()
            )
            objective = self.header.get("objective", "objective")
            text += f"; best: trial {best['number']}, {objective} {best['objective']:.6g} ({what})"
        return f"<StoredStudy: {text}>"


def load_study(path: str | PathLike) -> StoredStudy:
    """Read the file that ``autotune_ptycho(study=...)`` writes, also while it is being written.

    Nothing is changed and nothing locked. To go on with a study, call ``autotune_ptycho`` with the
    same data, arguments and file again.

    Parameters
    ----------
    path
        Of the file.

    Returns
    -------
    StoredStudy
        With ``header``, ``trials``, ``best``, ``plot_tuning()``, ``compare_trials([3, 17])``,
        ``to_dataframe()``; ``follow()`` and ``plot_live()`` watch a search that goes on.

    Raises
    ------
    StudyError
        If the file is damaged, or is no study.
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> from hs_autoptycho import load_study
    >>> study = load_study("study.jsonl")  # doctest: +SKIP
    >>> study.best["parameters"]  # doctest: +SKIP
    {'scan_rotation': -121.3, 'defocus': 312.0}
    """
    path = Path(path)
    is_ordinary(path)
    found = read(path.read_bytes(), path)
    if found.header is None:
        raise StudyError(f"{path} is empty: no study was begun in it.")
    return StoredStudy(found.header, found.values, path)


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    """Raise a StudyError that names what differs between two headers."""
    differences = _differences(
        {k: v for k, v in there.items() if k not in _FREE},
        {k: v for k, v in here.items() if k not in _FREE},
    )
    if differences:
        raise StudyError(
            f"{path} is a study of other data or of another search: {'; '.join(differences)}. "
            "Give another file name for a new study, or what it was made with to go on with it."
        )
    changed = _differences(there.get("versions", {}), here.get("versions", {}))
    if changed:
        _logger.warning(
            "The study %s was begun with other versions, with which scores may differ: %s.",
            path,
            "; ".join(changed),
        )


def _differences(there: Mapping, here: Mapping, prefix: str = "") -> list[str]:
    out = []
    for name in [*there, *(name for name in here if name not in there)]:
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            out += _differences(old, new, f"{prefix}{name}.")
        elif old != new or (name in there) != (name in here):
            was = _short(old) if name in there else "not given"
            now = _short(new) if name in here else "not given"
            out.append(f"{prefix}{name} was {was} and is now {now}")
    return out


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
