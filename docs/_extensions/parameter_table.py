"""``.. parameter-table:: NAME ...``: parameters of a reconstruction, from the package's own table.

Unit, range and default are those that are checked (``hs_autoptycho.ptycho.parameters``), the
meaning is that of the docstring of ``reconstruct_ptycho``. After the last table of a page
``.. parameter-table::`` without names makes sure that no parameter was left out.
"""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

from numpydoc.docscrape import NumpyDocString
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from hs_autoptycho import methods
from hs_autoptycho.ptycho.parameters import PARAMETERS

_logger = logging.getLogger(__name__)
_HEAD = """
.. list-table::
   :header-rows: 1
   :widths: 24 22 54

   * - Parameter
     - Unit, range, default
     - Meaning
"""


def meanings() -> dict[str, tuple[list[str], list[str]]]:
    """Name to the names it is explained with, and the lines of the explanation.

    Marks of references are taken out: the references are below the docstring.
    """
    found = {}
    for entry in NumpyDocString(inspect.getdoc(methods.reconstruct_ptycho))["Parameters"]:
        names = [name.strip() for name in entry.name.split(",")]
        text = [re.sub(r" ?\[\d+\]_", "", line) for line in entry.desc]
        found.update({name: (names, text) for name in names})
    return found


def number(value: float) -> str:
    """As a reader would write it."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-4):
        exponent = math.floor(math.log10(abs(value)))
        factor = value / 10.0**exponent
        sign, factor = ("−" if factor < 0 else ""), f"{abs(factor):g}"
        factor = "" if factor == "1" else f"{factor} · "
        return rf"{sign}{factor}10\ :sup:`{str(exponent).replace('-', '−')}`"
    return f"{value:g}".replace("-", "−")


def facts(name: str) -> str:
    """Unit, range and default of an argument of ``reconstruct_ptycho``, a line each."""
    unit, allowed, default = _facts(name)
    lines = [unit, allowed, "" if default == "→" else f"default {default}"]
    return "\n".join(f"| {line}" for line in lines if line)


def _facts(name: str) -> tuple[str, str, str]:
    if name in PARAMETERS:
        p = PARAMETERS[name]
        if p.kind == "choice":
            allowed = ", ".join(f'``"{choice}"``' for choice in p.choices)
        else:
            whole = "whole, " if p.kind == "integer" else ""
            allowed = f"{whole}{number(p.low)} to {number(p.high)}"
        if p.default is None:
            default = "→"
        else:
            default = f'``"{p.default}"``' if isinstance(p.default, str) else number(p.default)
        return p.unit, allowed, default
    argument = inspect.signature(methods.reconstruct_ptycho).parameters[name]
    default = "→" if argument.default is None else f"``{argument.default!r}``"
    annotation = argument.annotation.removesuffix(" | None")
    return "", "" if annotation == "Any" else f"``{annotation}``", default


def row(name: str, explained: dict[str, tuple[list[str], list[str]]], shown: list[str]) -> str:
    """A row of the table; what is explained together is so at the first of them."""
    fixed = " †" if name in PARAMETERS and not PARAMETERS[name].tunable else ""
    names, text = explained[name]
    earlier = [other for other in names if other in shown]
    if earlier:
        text = [f"with ``{earlier[0]}``"]
    cells = [f".. _parameter-{name}:\n\n``{name}``{fixed}", facts(name) or "–", "\n".join(text)]
    lines = []
    for i, cell in enumerate(cells):
        first, *others = cell.splitlines()
        lines.append(f"   {'* ' if i == 0 else '  '}- {first}")
        lines += [f"       {line}" if line else "" for line in others]
    return "\n".join(lines)


class ParameterTable(SphinxDirective):
    """A table of some arguments of ``reconstruct_ptycho``; without names, a check of all tables."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[Any]:
        shown = self.env.current_document.setdefault("parameters_shown", [])
        explained = meanings()
        if not self.arguments:
            missing = [n for n in (*PARAMETERS, *explained) if n not in shown]
            if missing:
                _logger.warning(
                    "parameters in no table: %s",
                    ", ".join(dict.fromkeys(missing)),
                    location=self.get_location(),
                )
            return []
        rows = []
        for name in self.arguments[0].split():
            if name not in explained:
                _logger.warning("no such parameter: %s", name, location=self.get_location())
                continue
            rows.append(row(name, explained, shown))
            shown.append(name)
        return self.parse_text_to_nodes("\n".join([_HEAD, *rows, ""]))


def setup(app) -> dict[str, Any]:
    app.add_directive("parameter-table", ParameterTable)
    return {"version": "1", "parallel_read_safe": True}
