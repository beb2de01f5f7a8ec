"""``.. upcoming-changes::``: news fragments since the last release, as towncrier sorts them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

_logger = logging.getLogger(__name__)
_ROOT = Path(__file__).parents[2]


def fragments(folder: Path, types: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """Text of all fragments by type, and the files whose type is not among `types`."""
    kinds = {kind["directory"]: kind["name"] for kind in types}
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    unknown = []
    for path in sorted(folder.glob("*.rst")):
        if path.name == "README.rst":
            continue
        kind = path.name.split(".")[1]
        if kind in found:
            found[kind].append(path.read_text(encoding="utf-8").strip())
        else:
            unknown.append(path.name)
    parts = []
    for kind, texts in found.items():
        if texts:
            items = ["* " + "\n  ".join(text.splitlines()) for text in texts]
            parts.append(f".. rubric:: {kinds[kind]}\n\n" + "\n\n".join(items))
    return "\n\n".join(parts), unknown


class UpcomingChanges(SphinxDirective):
    """What is in ``docs/upcoming_changes``."""

    def run(self) -> list[Any]:
        settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        towncrier = settings["tool"]["towncrier"]
        text, unknown = fragments(_ROOT / towncrier["directory"], towncrier["type"])
        for name in unknown:
            _logger.warning(
                "%s: towncrier knows no such type of fragment, and would leave it out",
                name,
                location=self.get_location(),
            )
        return self.parse_text_to_nodes(text) if text else []


def setup(app) -> dict[str, Any]:
    app.add_directive("upcoming-changes", UpcomingChanges)
    return {"version": "1", "parallel_read_safe": True}
