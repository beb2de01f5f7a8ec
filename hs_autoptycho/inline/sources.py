"""Where patterns come from: functions that acquire, iterables, stores, signals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

from hs_autoptycho.inline.recording import Calibration
from hs_autoptycho.inline.session import Session
from hs_autoptycho.inline.store import follow, shape_of_scan, wait_for_scan
from hs_autoptycho.ptycho.loading import DataError


def begins_a_scan(source: Any) -> bool:
    """Whether the first patterns of a source cannot belong to a scan that is open."""
    return (
        callable(source) or isinstance(source, (str, PathLike)) or hasattr(source, "axes_manager")
    )


def scans(
    source: Any,
    session: Session,
    *,
    settings: Mapping[str, Any],
    next_settings: Callable[[], Mapping[str, Any] | None],
    timeout: float,
    poll: float,
) -> Iterator[tuple[Iterable[Any], dict[str, Any]]]:
    """Blocks of patterns, and what was asked for, of one scan after the other.

    Parameters
    ----------
    source
        As for :meth:`.tuner.PtychographyTuner.run`.
    session
        Gets the calibration of a store.
    settings
        What was asked for, or with a function what the first scan is asked for.
    next_settings
        What to ask a function for; None if no more scans are wanted.
    timeout, poll
        In seconds, of a store.
    """
    given = dict(settings)
    if isinstance(source, (str, PathLike)):
        signal = wait_for_scan(source, timeout=timeout, poll=poll)
        if signal is not None and signal.axes_manager.navigation_dimension == 2:
            session.calibration = Calibration.of(signal)
        session.found_shape = shape_of_scan(source) or session.found_shape
        shape = given.get("scan_shape") or session.scan_shape or session.found_shape
        yield follow(source, scan_shape=shape, timeout=timeout, poll=poll), given
    elif hasattr(source, "axes_manager"):
        yield [source], given
    elif callable(source):
        while (wanted := next_settings()) is not None:
            # what was said of the first scan is a start, not a target
            asked = {**wanted, **given}
            given = {}
            acquired = source(dict(asked))
            if acquired is None:
                raise DataError(
                    "The function returned None: a signal or an iterator of patterns is needed."
                )
            yield [acquired] if hasattr(acquired, "axes_manager") else acquired, asked
    else:
        yield source, given
