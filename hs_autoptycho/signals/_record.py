"""What a method left behind in a signal's metadata; for the result signals to inherit."""

from __future__ import annotations

from typing import Any

from hs_autoptycho.signals._plain import to_plain


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
            raise AttributeError(
                f"this signal has no metadata.{item}: it was not made by {self._made_by}"
            )
        value = self.metadata.get_item(item)
        return value.as_dictionary() if hasattr(value, "as_dictionary") else value


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
        return None if seed is None else int(seed)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that made the result."""
        return to_plain(self._stored("versions"), "versions")

    @property
    def notes(self) -> list[str]:
        """What was assumed, noticed or contradicted on the way, a sentence each."""
        return to_plain(self._stored("notes"), "notes")
