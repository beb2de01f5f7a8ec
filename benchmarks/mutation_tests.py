"""Which tests a mutant of `mutation.py` is tried with, from what `code_coverage.py` measured."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from functools import cache
from pathlib import Path

from mutation_mutants import is_kernel

# seconds of tests a mutant at most, as measured without it; the others are left out
MOST_SECONDS = 40.0


class TestsByLine:
    """The tests that run a line, the fastest first.

    Parameters
    ----------
    root
        Copy of the repository in which the coverage was measured.
    folder
        What `code_coverage.py` wrote: ``.coverage`` and ``tests.json``.
    """

    __test__ = False

    def __init__(self, root: Path, folder: Path):
        import coverage

        self.root = root
        self.data = coverage.CoverageData(basename=str(folder / ".coverage"))
        self.data.read()
        self.measured = defaultdict(list)
        for name in self.data.measured_files():
            self.measured[f"hs_autoptycho/{name.rpartition('/hs_autoptycho/')[2]}"].append(name)
        tests = json.loads((folder / "tests.json").read_text())
        self.seconds = {
            name: test["seconds"] for name, test in tests.items() if test["outcome"] == "passed"
        }
        self.failed = sorted(name for name, test in tests.items() if test["outcome"] == "failed")
        self.lines_of = cache(self._lines_of)
        self.tree_of = cache(lambda file: ast.parse((root / file).read_text()))

    def of(self, file: str, line: int) -> list[str]:
        """Names of the tests to run for a change of this line, in this order."""
        wanted = self._of(file, line, set()) & self.seconds.keys()
        by_file = defaultdict(list)
        for name in wanted:
            by_file[name.split("::")[0]].append(name)
        stem = Path(file).stem
        # a file's tests remain together, or its fixtures would be made again and again
        files = sorted(
            by_file,
            key=lambda path: (
                stem not in Path(path).stem,
                sum(self.seconds[name] for name in by_file[path]) / len(by_file[path]),
            ),
        )
        chosen, total = [], 0.0
        for path in files:
            for name in sorted(by_file[path], key=self.seconds.get):
                if total + self.seconds[name] <= MOST_SECONDS:
                    chosen.append(name)
                    total += self.seconds[name]
        return chosen

    def _lines_of(self, file):
        """{line: names of the tests that run it}."""
        found = defaultdict(set)
        for path in self.measured.get(file, ()):
            for line, names in self.data.contexts_by_lineno(path).items():
                found[line] |= {name.rpartition("|")[0] for name in names if "|" in name}
        return found

    def _of(self, file, line, seen) -> set[str]:
        """A line in a function: who runs it. A constant or a kernel, which is no traced line: who
        runs the lines that name it.
        """
        path = _path_to(self.tree_of(file), line)
        functions = [node for node in path if isinstance(node, ast.FunctionDef)]
        kernel = any(is_kernel(node) for node in functions)
        lines = self.lines_of(file)
        if functions and not kernel:
            function = functions[-1]
            if line < function.body[0].lineno:
                span = range(function.body[0].lineno, function.end_lineno + 1)
            else:
                span = _span(path[-1])
            return set().union(*(lines.get(n, ()) for n in span))
        found = set()
        for name in _defined(functions[0] if functions else path[-1], path):
            if (file, name) in seen:
                continue
            seen.add((file, name))
            for other, number in self._uses(file, name):
                if not (other == file and number in _span(path[0], whole=True)):
                    found |= self._of(other, number, seen)
        return found

    def _uses(self, file, name):
        """(file, line) of every place that names it, in this file and in those that import it."""
        stem = Path(file).stem
        for path in sorted(self.root.glob("hs_autoptycho/**/*.py")):
            other = path.relative_to(self.root).as_posix()
            if other == file or stem in path.read_text():
                for node in ast.walk(self.tree_of(other)):
                    if name in (getattr(node, "id", None), getattr(node, "attr", None)):
                        yield other, node.lineno


def _path_to(tree, line):
    """The statements around a line, from the outermost to the innermost."""
    path, inner = [], tree
    while inner is not None:
        children = [
            node for node in ast.walk(inner) if isinstance(node, ast.stmt | ast.excepthandler)
        ]
        inner = next(
            (
                node
                for node in children
                if node is not inner and node.lineno <= line <= node.end_lineno
            ),
            None,
        )
        if inner is not None:
            path.append(inner)
    return path


def _span(node, whole=False) -> range:
    """Lines of a statement, without what it contains."""
    body = getattr(node, "body", None)
    last = node.end_lineno if whole or not body else max(body[0].lineno - 1, node.lineno)
    return range(node.lineno, last + 1)


def _defined(node, path) -> list[str]:
    """Names that a definition outside of functions gives; a field's class is one of them."""
    names = [parent.name for parent in path if isinstance(parent, ast.ClassDef)]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        names.append(node.name)
    for target in getattr(node, "targets", [getattr(node, "target", None)]):
        names += (
            [part.id for part in ast.walk(target) if isinstance(part, ast.Name)] if target else []
        )
    return names
