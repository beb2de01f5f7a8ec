"""The file of a study: JSON lines, read whole or torn by a kill, and locked against others."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from hs_autoptycho._quantities import shortened
from hs_autoptycho.tuning.trial import STATUSES, Fidelity, Trial

_logger = logging.getLogger(__name__)

FORMAT = "hs_autoptycho study"
VERSION = 1
# What the header begins with: tells a header that was torn by a kill from a file of another kind.
_BEGINNING = f'{{"format": "{FORMAT}"'.encode()
# The byte that is locked lies behind any content, for Windows does not let others read a locked
# one; it has to be within 31 bits.
_LOCKED_BYTE = 2**30

# what a trial may do without
_DEFAULTS = {
    name: value
    for name, value in Trial(0, {}, Fidelity(1)).to_dict().items()
    if name not in ("number", "parameters", "fidelity")
}


class StudyError(ValueError):
    """The file of a study is of another search, in use, damaged, or cannot be written."""


@dataclass(frozen=True)
class Content:
    """Whole lines of a file, and how many bytes they are."""

    header: dict[str, Any] | None
    values: list[dict[str, Any]]
    trials: list[Trial]
    size: int
    torn: bool


def read(content: bytes, path: Path) -> Content:
    """Lines of a study; raises a StudyError that names a damaged one."""
    lines = content.split(b"\n")
    rest = lines.pop()  # what has no end: empty, or cut off, or whole but for its end
    size = len(content) - len(rest)
    if rest and _parsed(rest) is not None:
        lines.append(rest)
        size, rest = len(content), b""
    if not lines:
        if content and content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
            raise StudyError(f"{path} is not a study; nothing was changed. Give another file name.")
        return Content(None, [], [], 0, bool(content))
    header = _parsed(lines[0])
    if header is None or header.get("format") != FORMAT:
        raise StudyError(f"{path} is not a study; nothing was changed. Give another file name.")
    if header.get("version") != VERSION:
        raise StudyError(
            f"{path} has version {header.get('version')} of the format, and this release of "
            f"hs_autoptycho reads version {VERSION}. Use the release that wrote it "
            f"({header.get('versions')}), or give another file name."
        )
    n_trials = header.get("n_trials", 1)
    if not _is_whole(n_trials, 1) or not isinstance(header.get("versions", {}), dict):
        raise StudyError(
            f"The first line of {path} is damaged: n_trials is a whole number, and versions is an "
            "object. Mend it, or give another file name."
        )
    values, trials, numbers = [], [], {}
    for i, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            value = {**_DEFAULTS, **_parsed(line)}
            trial = read_trial(value)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise StudyError(
                f"Line {i} of {path} is damaged: it is not a trial ({shortened(error)}). Take the "
                "line out and its trial is done again, or give another file name."
            ) from error
        if trial.number in numbers:
            raise StudyError(
                f"Line {i} of {path} has trial {trial.number} a second time, after line "
                f"{numbers[trial.number]}. Take one of them out, or give another file name."
            )
        numbers[trial.number] = i
        values.append(value)
        trials.append(trial)
    return Content(header, values, trials, size, bool(rest))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object that a line holds; None where it holds none."""
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # no JSON, or no UTF-8, or nested for mischief
        return None
    return value if isinstance(value, dict) else None


def read_trial(values: Mapping[str, Any]) -> Trial:
    """A trial as it is read back: what was not finite is NaN."""

    def number(value):
        return math.nan if value is None else value

    values = {
        **values,
        "metrics": {k: number(v) for k, v in values["metrics"].items()},
        "blocks": [number(v) for v in values["blocks"]],
        "curve": [(i, number(v)) for i, v in values["curve"]],
    }
    trial = Trial.from_dict(values)
    _check_trial(trial)
    return trial


def _check_trial(trial: Trial) -> None:
    """Raise a ValueError that names an entry of a wrong type, as only a strange hand writes it."""
    fidelity = trial.fidelity
    good = {
        "number": _is_whole(trial.number, 0),
        "parameters": isinstance(trial.parameters, dict)
        and all(map(_is_setting, trial.parameters.values())),
        "fidelity": _is_whole(fidelity.n_iterations, 1)
        and _is_whole(fidelity.reduction, 1)
        and _is_whole(fidelity.split, 0)
        and _is_finite(fidelity.part)
        and 0 < fidelity.part <= 1,
        "purpose": isinstance(trial.purpose, str),
        "seed": _is_whole(trial.seed, 0),
        "objective": trial.objective is None or _is_finite(trial.objective),
        "metrics": all(map(_is_number, trial.metrics.values())),
        "blocks": all(map(_is_number, trial.blocks)),
        "status": isinstance(trial.status, str) and trial.status in STATUSES,
        "duration": _is_finite(trial.duration),
        "message": isinstance(trial.message, str),
        "attempts": _is_whole(trial.attempts, 0),
    }
    for name, is_good in good.items():
        if not is_good:
            raise ValueError(f"{name} is {shortened(getattr(trial, name), 60)}")


def _is_setting(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is_finite(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def make_line(values: Mapping[str, Any]) -> bytes:
    """Strict JSON in UTF-8; numbers that are not finite become null."""
    text = json.dumps(_plain(values), ensure_ascii=False, allow_nan=False)
    # a character that UTF-8 does not have becomes the escape that JSON has for it
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """The same in JSON's types; numbers that are not finite are None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if sys.platform == "win32":
    import msvcrt

    def _take(file: FileIO) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

    def sync_folder(path: Path) -> None:
        """Windows needs none."""

else:
    import fcntl

    def _take(file: FileIO) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync_folder(path: Path) -> None:
        """Make sure that the name of a new file is on the disk, too."""
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError:  # not every file system can
            pass
        finally:
            os.close(folder)


def check_path(path: Any) -> Path:
    """The file of a study, which is one or can become one.

    Raises
    ------
    StudyError
        If it cannot be written there, or is something else; nothing is changed.
    TypeError
        If it is no path.
    """
    try:
        path = Path(path)
    except TypeError as error:
        raise TypeError(f"study={path!r}: the name of a file is needed.") from error
    if is_ordinary(path):
        read(path.read_bytes(), path)
        place = path
    else:
        place = path.parent
        if not place.is_dir():
            raise StudyError(f"The folder of the study, {place}, does not exist.")
    if not os.access(place, os.W_OK):
        raise StudyError(f"The study {path} cannot be written: {place} is read-only.")
    return path


def is_ordinary(path: Path) -> bool:
    """Whether there is a file, False if there is nothing.

    Raises
    ------
    StudyError
        If there is something else, such as a pipe, whose end would be waited for, or there
        cannot be a file of this name.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # too long a name, or a zero in it
        raise StudyError(f"The study {str(path)!r} cannot be opened: {error}.") from error
    if not stat.S_ISREG(mode):
        raise StudyError(
            f"The study {path} cannot be opened: it is no ordinary file, but a folder, a device or "
            "a pipe. Give the name of a file."
        )
    return True


def open_file(path: Path) -> FileIO:
    """Open for reading and writing, made where there is none."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    try:
        return FileIO(os.open(path, flags, 0o666), "r+")
    except OSError as error:
        raise StudyError(f"{path} cannot be opened: {error.strerror}.") from error


def lock(file: FileIO, path: Path) -> None:
    """Keep others from writing as long as the file is open; raises a StudyError if one does."""
    try:
        _take(file)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise StudyError(
                f"The study {path} is being written by another search. Wait for it, stop it, or "
                "give another file name; `hs_autoptycho.load_study` can read it meanwhile."
            ) from None
        _logger.warning(
            "The file system of the study %s has no locks (%s): see to it that no other search "
            "writes to it.",
            path,
            error.strerror,
        )
