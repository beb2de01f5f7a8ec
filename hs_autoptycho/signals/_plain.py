"""Plain Python in and out of a signal's metadata.

HyperSpy's files keep ``None``, strings, numbers, nested dictionaries, lists and arrays, but
return numpy scalars for numbers, tuples for tuples or not, dask arrays when a file is opened
lazily, and refuse what they do not know with no more than a message in the log. Everything is
therefore reduced to plain types before it is stored, where an error can still name the entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

_INT64_MAX = 2**63 - 1


def to_plain(value: Any, where: str = "value") -> Any:
    """Reduce a value to ``None``, bool, int, float, str, lists and dictionaries of them.

    Tuples, sets and arrays become lists, numpy scalars the Python number, keys strings, and
    integers too wide for 64 bits (such as the entropy of a seed) strings.

    Parameters
    ----------
    value
        What to reduce.
    where
        Name of the entry, used in the error message.

    Raises
    ------
    TypeError
        If there is no plain form, for example of a function; the message names the entry.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of a string enumeration, the value and not the member
    if isinstance(value, int):
        return int(value) if abs(value) <= _INT64_MAX else str(int(value))
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{where}.{key}") for key, item in value.items()}
    if hasattr(value, "__array__"):
        return to_plain(np.asarray(value).tolist(), where)
    if isinstance(value, list | tuple):
        return [to_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [to_plain(item, f"{where}[{i}]") for i, item in enumerate(sorted(value))]
    if isinstance(value, PathLike):
        return str(value)
    raise TypeError(
        f"{where} is {value!r} of type {type(value).__name__}, which cannot be stored in a "
        "HyperSpy file; give a number, a string, None, or a list or dictionary of these"
    )


def inherited(metadata: Any, branch: str) -> tuple[dict[str, Any], list[str]]:
    """A branch of a signal's metadata as its result keeps it.

    Metadata hold whatever a user or a reader put there. What no file keeps is left out, for a
    result that took long must not be lost to a remark beside the data.

    Parameters
    ----------
    metadata
        Of a signal.
    branch
        Such as ``"General"``.

    Returns
    -------
    dict, list of str
        What can be kept, and a note for each entry that cannot.
    """
    node = metadata.get_item(branch)
    if node is None:
        return {}, []
    if not hasattr(node, "as_dictionary"):
        return {}, [_left_out(branch, node)]
    notes: list[str] = []
    return _kept(node, branch, notes), notes


def _kept(node: Any, where: str, notes: list[str]) -> dict[str, Any]:
    kept = {}
    for key, item in node:
        name = f"{where}.{key}"
        if hasattr(item, "as_dictionary") and hasattr(item, "get_item"):
            kept[key] = _kept(item, name, notes)
            continue
        try:
            if hasattr(item, "axes_manager"):
                raise TypeError("to_plain() would take a signal for an array")
            kept[key] = to_plain(item, name)
        except Exception:  # whatever it is, it is not worth the result
            notes.append(_left_out(name, item))
    return kept


def _left_out(name: str, item: Any) -> str:
    return (
        f"metadata.{name} is of the type {type(item).__name__}, which is not kept in a result: it "
        "was left out."
    )


def to_json(value: Any, where: str = "value") -> str:
    """Write a value as strict JSON; a number that is not finite becomes ``null``."""
    return json.dumps(_finite(to_plain(value, where)), allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def in_memory(value: Any) -> Any:
    """Return the value with every array in it (dask arrays too) as a new numpy array."""
    if isinstance(value, dict):
        return {key: in_memory(item) for key, item in value.items()}
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return np.array(value)
    return value
