"""What a method left behind in a signal's metadata; for the result signals to inherit."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from hs_autoptycho.signals._axes import AxesError
from hs_autoptycho.signals._plain import to_plain

T = TypeVar("T")


class RecordError(ValueError):
    """An entry of the metadata is not what the method left there; the message names it."""


class MissingError(AttributeError):
    """An entry of the metadata is not there; the message names it."""


def reads(*names: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Have a function of a `Record` say which entries are damaged if it cannot read them.

    A file is read as it comes, and can have been written by anything. What goes wrong with that
    would be told in the words of NumPy or of a dictionary otherwise.

    Parameters
    ----------
    *names
        Entries that the function makes its answer of.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def read(self, *args, **kwargs):
            try:
                return function(self, *args, **kwargs)
            except (RecordError, MissingError, AxesError):  # they say what is wrong themselves
                raise
            except Exception as error:  # odd contents raise errors of many unrelated types
                raise self._damaged(names, f"{type(error).__name__}: {error}") from error

        return read

    return decorate


class Record:
    """Attributes that read one entry of the metadata.

    Everything is returned as a copy in plain Python or NumPy, whatever the file gave back.
    """

    # name of the entry, and what makes it
    _entry: str
    _made_by: str

    def _stored(self, name: str) -> Any:
        item = f"{self._entry}.{name}"
        if not self.metadata.has_item(item):
            raise MissingError(
                f"this signal has no metadata.{item}: it was not made by {self._made_by}"
            )
        value = self.metadata.get_item(item)
        return value.as_dictionary() if hasattr(value, "as_dictionary") else value

    def _damaged(self, names: tuple[str, ...], why: str) -> RecordError:
        items = " or ".join(f"metadata.{self._entry}.{name}" for name in names)
        why = why if len(why) <= 200 else f"{why[:199]}…"
        return RecordError(
            f"{items} is damaged ({why}): it is not what {self._made_by} left there. Load the "
            "result from another copy of its file, or make it again."
        )

    def _array(self, name: str, ndim: int, kinds: str = "buif") -> np.ndarray:
        """An array of numbers, a copy in memory."""
        try:
            value = np.array(self._stored(name))
        except ValueError as error:  # lists of lists of different lengths
            raise self._damaged((name,), str(error)) from error
        if value.dtype.kind not in kinds or value.ndim != ndim:
            what = f"an array of {value.ndim} dimensions of {value.dtype}"
            raise self._damaged((name,), f"{ndim} dimensions of numbers are needed, not {what}")
        return value

    def _plain(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """A list or a dictionary, or what else is of a kind, in plain Python."""
        value = to_plain(self._stored(name), name)
        return self._of_kind(name, value, kind)

    def _json(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """The same of an entry that is JSON."""
        text = self._stored(name)
        try:
            value = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._damaged((name,), f"no JSON: {error}") from error
        return self._of_kind(name, value, kind)

    def _of_kind(self, name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
        if not isinstance(value, kind):
            raise self._damaged((name,), f"it holds a {type(value).__name__}")
        return value


class RunRecord(Record):
    """The same of a run that has a seed, may have been interrupted, and noted what it assumed."""

    @property
    def status(self) -> str:
        """How the run ended: ``completed``, ``interrupted`` or, of a fit, ``diverged``."""
        return str(self._stored("status"))

    @property
    def seed(self) -> int | None:
        """Seed of the run."""
        seed = self._stored("seed")
        number = isinstance(seed, int | np.integer) or (isinstance(seed, str) and seed.isdigit())
        if seed is not None and not number:
            raise self._damaged(("seed",), f"it holds a {type(seed).__name__}")
        return None if seed is None else int(seed)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that made the result."""
        return self._plain("versions", dict)

    @property
    def notes(self) -> list[str]:
        """What was assumed, noticed or contradicted on the way, a sentence each."""
        return self._plain("notes", list)
