"""A list of dictionaries that is shown as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_MOST_ROWS = 60
_LONGEST_TEXT = 60


class Table(list):
    """A plain list of dictionaries in all but how it is shown: a row each.

    Numbers are shown to three digits, and of a mean the standard error only; the dictionaries have
    all of it.
    """

    def __repr__(self) -> str:
        if not self or not all(isinstance(row, Mapping) for row in self):
            return super().__repr__()
        names = list(dict.fromkeys(str(name) for row in self for name in row))
        lines = [list(map(_text, names))]
        lines += [[_text(row.get(name)) for name in names] for row in self[:_MOST_ROWS]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        more = "" if len(self) <= _MOST_ROWS else f", the first {_MOST_ROWS} of them shown"
        return "\n".join([*shown, f"({len(self)} dictionaries{more})"])


def _text(value: Any) -> str:
    """A value in a few characters; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        if {"mean", "standard_error"} <= set(value):
            mean, error = _text(value["mean"]), _text(value["standard_error"])
            return f"{mean} ± {error}" if mean and error else mean
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    # what a file holds is not to give a terminal its orders
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
