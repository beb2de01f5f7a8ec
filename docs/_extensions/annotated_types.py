"""Types of parameters, which stand in the annotations, for docstrings that do not repeat them.

``defocus`` in a section of a numpydoc docstring becomes ``defocus : float | None``, with the
annotation as it is written in the code, before numpydoc reads the docstring.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

_SECTIONS = ("Parameters", "Other Parameters", "Attributes")


def annotations(obj: Any) -> dict[str, str]:
    """Name of a parameter, or of a field of a class, to its type as it is written."""
    found: dict[str, Any] = {}
    if inspect.isclass(obj):
        for base in reversed(obj.__mro__):
            found.update(vars(base).get("__annotations__", {}))
        obj = obj.__init__
    try:
        parameters = inspect.signature(obj).parameters.values()
    except (TypeError, ValueError):
        return {}
    found.update({p.name: p.annotation for p in parameters if p.annotation is not p.empty})
    return {name: inspect.formatannotation(a) if not isinstance(a, str) else a
            for name, a in found.items() if a not in ("Any", Any)}  # fmt: skip


def with_types(lines: list[str], types: dict[str, str]) -> list[str]:
    """The lines of a docstring, with types behind the names of its parameters."""
    out, section = [], None
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if re.fullmatch(r"-{3,}", following.strip()):
            section = line.strip()
        names = [name.strip().lstrip("*") for name in line.split(",")]
        if (
            section in _SECTIONS
            and line.strip()
            and not line[0].isspace()
            and " : " not in line
            and all(name in types for name in names)
        ):
            line = f"{line} : {'; '.join(dict.fromkeys(types[name] for name in names))}"
        out.append(line)
    return out


def _process(app, what, name, obj, options, lines) -> None:
    if what in ("class", "function", "method", "property", "exception"):
        lines[:] = with_types(lines, annotations(obj))


def _signature(app, what, name, obj, options, signature, returned):
    # that of a HyperSpy signal says nothing
    if what == "class" and re.fullmatch(r"\(\*args, \*\*kw\w*\)", signature or ""):
        return "", returned
    if signature and signature.endswith(", **unknown)"):  # is there to be refused with a hint
        return signature.replace(", **unknown)", ")"), returned
    return None


def setup(app) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-process-signature", _signature)
    return {"version": "1", "parallel_read_safe": True}
