"""The package as a whole: its public names, its files, who imports what."""

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

import hs_autoptycho

PACKAGE = Path(hs_autoptycho.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# the parts that know HyperSpy; what is not named here works on arrays
KNOW_HYPERSPY = (
    "methods.py",
    "calibration.py",
    "signals/",
    "data/",
    "interop/",
    "_running.py",
    "_scan.py",
    "_geometry.py",
    "_memory.py",
    "_clusters.py",
    "_strain.py",
    "_tuning.py",
    "inline/",
    "_command_line.py",
)
# what only an extra installs
OPTIONAL = {"py4DSTEM", "pyxem", "abtem", "ase", "distributed"}


def imported(path: Path, *, anywhere: bool) -> set[str]:
    """Top-level packages that a module imports, anywhere or when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if anywhere or not (is_function or is_for_types):
            waiting.extend(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("name", hs_autoptycho.__all__)
def test_public_names_resolve(name):
    assert getattr(hs_autoptycho, name) is not None
    assert name in dir(hs_autoptycho)


def test_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'autotune'"):
        _ = hs_autoptycho.autotune


def test_version():
    assert hs_autoptycho.__version__ == version("hs_autoptycho")


def test_stub_declares_the_public_names():
    declared = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name  # type checkers take only these as public
                declared[alias.name] = f"hs_autoptycho.{node.module}" if node.module else None
    assert declared == hs_autoptycho._PUBLIC_NAMES


@pytest.mark.parametrize("name", ["hyperspy_extension.yaml", "__init__.pyi"])
def test_files_that_are_not_python_are_installed(name):
    assert (PACKAGE / name).is_file()


@pytest.mark.parametrize("module", MODULES)
def test_optional_packages_are_imported_when_needed(module):
    assert not imported(PACKAGE / module, anywhere=False) & OPTIONAL


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith(KNOW_HYPERSPY)])
def test_numerical_code_does_not_know_hyperspy(module):
    assert "hyperspy" not in imported(PACKAGE / module, anywhere=True)
