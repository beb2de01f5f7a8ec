"""The mutants of `mutation.py`: cosmic-ray's, less those that no test ought to kill."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# the kernels among them are a part of their own: each mutant of those has to be compiled
KERNELS = "kernels"
PARTS = {
    "calibration": "hs_autoptycho/calibration.py",
    "tuning": "hs_autoptycho/tuning/*.py",
    "clustering": "hs_autoptycho/clustering/*.py",
}

# Cosmic-ray replaces an operator by each of the others, most of which fail at once with a
# TypeError and would raise the share of those killed. One that looks right is taken for each.
_BINARY = {
    "Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "FloorDiv": "Mul", "Mod": "Mul",
    "Pow": "Mul", "LShift": "RShift", "RShift": "LShift", "BitAnd": "BitOr", "BitOr": "BitAnd",
    "BitXor": "BitAnd",
}  # fmt: skip
_COMPARISON = {
    "Lt": ("LtE", "GtE"), "LtE": ("Lt", "Gt"), "Gt": ("GtE", "LtE"), "GtE": ("Gt", "Lt"),
    "Eq": ("NotEq",), "NotEq": ("Eq",), "Is": ("IsNot",), "IsNot": ("Is",),
}  # fmt: skip
OPERATORS = (
    "AddNot",
    "ExceptionReplacer",
    "NumberReplacer",
    "ReplaceAndWithOr",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_USub_UAdd",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_Invert",
    "ZeroIterationForLoop",
    *(f"ReplaceBinaryOperator_{old}_{new}" for old, new in _BINARY.items()),
    *(
        f"ReplaceComparisonOperator_{old}_{new}"
        for old, several in _COMPARISON.items()
        for new in several
    ),
)

# options that change how fast or how strictly the same thing is done
_NO_MEANING = {"cache", "nogil", "parallel", "fastmath", "inline", "strict", "stacklevel"}
# any seed is as good as another
_SEEDS = {"random_state", "seed"}
# what is called with a text for a reader
_FOR_A_READER = {"debug", "info", "warning", "error", "exception", "warn", "note"}


@dataclass(frozen=True)
class Mutant:
    """One change to one file; which text it gives is found when it is needed, see `change`."""

    part: str
    file: str
    line: int
    operator: str
    occurrence: int

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.operator}:{self.occurrence}"


def mutants(root: Path) -> list[Mutant]:
    """All mutants of the three parts in a copy of the repository."""
    found = []
    for part, pattern in PARTS.items():
        for path in sorted(root.glob(pattern)):
            found += mutants_of(part, path.relative_to(root).as_posix(), path.read_text())
    return found


def mutants_of(part: str, file: str, text: str) -> Iterator[Mutant]:
    """The mutants of one file whose text is given."""
    from cosmic_ray.ast import ast_nodes, get_ast

    left_out = _spans_left_out(text)
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    # kernels are compiled with the constants of their file
    others = (
        [_lines(f) for f in functions if not is_kernel(f)] if "njit" in text else [range(10**6)]
    )
    kernels = [_lines(f) for f in functions if is_kernel(f)]
    nodes, lines = list(ast_nodes(get_ast(text))), text.splitlines()
    for name in OPERATORS:
        operator = _operator(name)
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(places):
            # of every number twice, for n + 1 and for n - 1: one of them is enough
            if name == "NumberReplacer" and occurrence % 2:
                continue
            # the star of a signature is no product
            star = lines[start[0] - 1][start[1] : start[1] + 2] in ("*,", "*")
            if not star and not any(low <= tuple(start) < high for low, high in left_out):
                line = start[0]
                kernel = any(line in f for f in kernels) or not any(line in f for f in others)
                yield Mutant(KERNELS if kernel else part, file, start[0], name, occurrence)


def mutated(text: str, mutant: Mutant) -> str | None:
    """The text of the file with the mutation; None where it is no Python, or means the same."""
    from cosmic_ray.mutating import mutate_code

    changed = mutate_code(text, _operator(mutant.operator), mutant.occurrence)
    if changed is None:
        return None
    # an exception that exists has to be caught in place of the right one
    changed = changed.replace("CosmicRayTestingException", "ZeroDivisionError")
    try:
        same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(text))
    except SyntaxError:
        return None
    return None if same else changed


def change(text: str, changed: str) -> tuple[str, str]:
    """The changed lines, stripped, before and after."""
    lines = list(difflib.ndiff(text.splitlines(), changed.splitlines()))
    before, after = (
        " ".join(" ".join(line[2:].split()) for line in lines if line.startswith(mark))
        for mark in "-+"
    )
    return before, after


def _lines(node) -> range:
    return range(node.lineno, node.end_lineno + 1)


def is_kernel(function: ast.FunctionDef) -> bool:
    """Whether numba compiles it."""
    return any("njit" in ast.unparse(decorator) for decorator in function.decorator_list)


def _operator(name):
    from cosmic_ray.plugins import get_operator

    return get_operator(f"core/{name}")()


def _spans_left_out(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(line, column) from and to of what is not mutated: annotations, decorators, texts for a
    reader, what only guards or speeds up, seeds.
    """
    spans = []

    def leave_out(node):
        if node is not None:
            # bytes of UTF-8 in `ast`, characters in parso
            start, end = (
                (line, len(lines[line - 1].encode()[:column].decode()))
                for line, column in (
                    (node.lineno, node.col_offset),
                    (node.end_lineno, node.end_col_offset),
                )
            )
            spans.append((start, end))

    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                leave_out(decorator)
        if isinstance(node, ast.FunctionDef):
            leave_out(node.returns)
            named = [*zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
            last = len(node.args.args) - len(node.args.defaults)
            named += zip(node.args.args[last:], node.args.defaults, strict=True)
            for argument, default in named:
                if argument.arg in _SEEDS:
                    leave_out(default)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            leave_out(node.annotation)
            if _name(getattr(node, "target", None)) in _SEEDS:
                leave_out(node.value)
        elif isinstance(node, ast.JoinedStr):
            leave_out(node)
        elif isinstance(node, ast.keyword) and node.arg in _NO_MEANING:
            leave_out(node)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                leave_out(argument)
        elif isinstance(node, ast.Call) and _name(node.func) in _FOR_A_READER:
            for argument in node.args:
                leave_out(argument)
        elif isinstance(node, ast.Assign) and _name(node.targets[0]) == "__all__":
            leave_out(node)
        elif isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            leave_out(node)
    return spans


def _name(node) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))
