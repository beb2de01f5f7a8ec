"""The command line, ``hs-autoptycho``: the methods of the signals for batch work.

A thin layer: read a file, call a method, write its result and a picture. The options are the
methods' own, see `_command_options`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hs_autoptycho._command_options import COMMANDS, UsageError, parse

DONE, FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
_RESULTS = (".hspy", ".zspy")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    words
        The command line after the program's name. Default: ``sys.argv``.

    Returns
    -------
    int
        The exit code: 0 done, 1 the computation failed, 2 bad usage or input, 130 interrupted.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # units are not ASCII, and a terminal may be
    words = sys.argv[1:] if words is None else words
    with _stopped_by_sigterm():
        try:
            args, options = parse(words)
            with _notes(quiet=args.quiet):
                return _run(args, options)
        except SystemExit as end:  # after --help or --version
            return int(end.code or DONE)
        except KeyboardInterrupt:
            _say("Interrupted, and no result was written; a study keeps the trials that had ended.")
            return INTERRUPTED
        except Exception as error:
            if "--debug" in words:
                traceback.print_exc()
            _say(_sentence(error))
            # what a method refuses; a matrix that cannot be inverted is a ValueError, too
            refused = isinstance(error, (ValueError, TypeError))
            return UNUSABLE if refused and "LinAlg" not in type(error).__name__ else FAILED


def _run(args: Namespace, options: dict[str, Any]) -> int:
    command = COMMANDS[args.command]
    path, picture = _paths(args, command.ending)
    options = {name: _loaded(value) for name, value in options.items()}
    if "fixed" in options:
        options["fixed"] = {name: _loaded(value) for name, value in options["fixed"].items()}
    scan = _load_scan(args)
    with _client(getattr(args, "scheduler", None)) as client:
        if args.command == "autotune":
            options["client"] = client
        result = command.method(scan, **options, show_progressbar=False if args.quiet else None)
    status = result.status
    if not args.quiet:
        _say(f"{status}. {_in_short(result, args.command)}")
    _write(result, path)
    sys.stdout.write(f"{path}\n")
    if status == "interrupted":
        _say(f"Interrupted: what there was by then is in {path}.")
    elif status == "diverged":
        _say(f"The reconstruction diverged, try other parameters; what there is is in {path}.")
    code = {"interrupted": INTERRUPTED, "diverged": FAILED}.get(status, DONE)
    if picture is None:
        return code
    try:
        _draw(result, command.picture, picture)
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        _say(f"The result is in {path}, but its picture could not be made: {_sentence(error)}")
        return code or FAILED
    sys.stdout.write(f"{picture}\n")
    return code


def _in_short(result, command: str) -> str:
    """What came out, in a line for a job's log."""
    from hs_autoptycho.ptycho.parameters import PARAMETERS

    if command == "cluster":
        return f"{result.n_clusters} clusters on {result.n_levels} levels."
    if command == "autotune":
        best = result.best_parameters.items()
        told = (
            f"{name} = {value if isinstance(value, str) else f'{value:.6g}'} "
            f"{PARAMETERS[name].unit}".rstrip()
            for name, value in best
        )
        return f"{', '.join(told)}."
    errors = result.history.data
    return f"Error {errors[-1]:.6g} after {len(errors)} iterations." if len(errors) else "No pass."


# --- files ------------------------------------------------------------------------------------


def _paths(args: Namespace, ending: str) -> tuple[Path, Path | None]:
    """Where the result and its picture go; they can be written, and nothing is in the way."""
    out = args.out
    if not args.file.exists():
        raise UsageError(f"There is no file {args.file}.")
    if out.suffix.lower() in _RESULTS:
        path = out
    elif out.is_dir() or not out.suffix:
        path = out / f"{args.file.stem}_{ending}.hspy"
    else:
        raise UsageError(
            f"--out {out}: a result is written as .hspy or .zspy; give such a name, or a folder."
        )
    picture = path.with_suffix(".png") if args.picture else None
    for each in (path, picture):
        if each is None or not each.exists():
            continue
        if each.samefile(args.file):
            raise UsageError(f"{each} is the scan itself; give another name with --out.")
        if not args.overwrite:
            raise UsageError(
                f"{each} exists already; give another name with --out, or --overwrite."
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"The folder {path.parent} cannot be written to; give one with --out.")
    return path, picture


def _load_scan(args: Namespace):
    import hyperspy.api as hs

    options = dict(args.load)
    try:
        loaded = hs.load(args.file, lazy=args.lazy, escape_square_brackets=True, **options)
    except NotImplementedError as error:
        raise UsageError(f"{args.file} cannot be read lazily; give --no-lazy.") from error
    except Exception as error:
        raise UsageError(f"{args.file} cannot be read: {error}") from error
    if not isinstance(loaded, list):
        return loaded
    scans = [each for each in loaded if each.data.ndim == 4]
    if len(scans) != 1:
        raise UsageError(
            f"{args.file} holds {len(loaded)} signals, {len(scans)} of them with four dimensions; "
            "save the scan alone to a file of its own."
        )
    return scans[0]


def _loaded(value: Any) -> Any:
    """The array or signal in a file that an option names; other values as they are."""
    if not isinstance(value, Path):
        return value
    if not value.exists():
        raise UsageError(f"There is no file {value}.")
    try:
        if value.suffix == ".npy":
            import numpy as np

            return np.load(value, allow_pickle=False)
        import hyperspy.api as hs

        return hs.load(value, escape_square_brackets=True).data
    except Exception as error:
        raise UsageError(f"{value} cannot be read: {error}") from error


def _write(result, path: Path) -> None:
    """Save under another name first, so that whatever has the name is complete."""
    part = path.with_name(f"{path.stem}.part-{os.getpid()}{path.suffix}")
    try:
        result.save(part, overwrite=True)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def _draw(result, method: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # the nodes of a cluster have no screen
    import matplotlib.pyplot as plt

    figure = getattr(result, method)()
    try:
        figure.savefig(path, dpi=150)
    finally:
        plt.close(figure)


# --- around a run -----------------------------------------------------------------------------


@contextlib.contextmanager
def _client(scheduler: str | None) -> Iterator[Any]:
    """A client of a scheduler; None where there is none."""
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            "--scheduler needs the package distributed: pip install hs_autoptycho[distributed]"
        ) from error
    where = {"scheduler_file" if Path(scheduler).is_file() else "address": scheduler}
    try:
        client = Client(**where)
    except (OSError, ValueError) as error:
        raise UsageError(f"No scheduler answers at {scheduler}: {error}") from error
    with client:
        yield client


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """What a batch system sends before it kills is taken as Ctrl-C, which saves what there is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _notes(*, quiet: bool) -> Iterator[None]:
    """Send what the package notes to stderr."""
    logger = logging.getLogger("hs_autoptycho")
    handler, level = logging.StreamHandler(sys.stderr), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _sentence(error: BaseException) -> str:
    ours = type(error).__module__.startswith("hs_autoptycho")
    text = str(error) or "no reason was given"
    if ours or type(error) in (ValueError, TypeError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _say(text: str) -> None:
    sys.stderr.write(f"hs-autoptycho: {text}\n")
