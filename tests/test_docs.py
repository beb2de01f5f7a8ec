"""The documentation: examples of docstrings run, and every public name is on a page."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
from pathlib import Path

import pytest

import hs_autoptycho

DOCS = Path(__file__).parents[1] / "docs"
# Sphinx is not installed with the tests: what is read here does not need it.
REFERENCE = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.rst"))


def _public_names():
    """docs/_extensions/public_names.py, which also makes the pages of the classes."""
    path = DOCS / "_extensions" / "public_names.py"
    spec = importlib.util.spec_from_file_location("public_names_of_docs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


names = _public_names()


def _value(name):
    module, _, short = name.rpartition(".")
    return getattr(importlib.import_module(module), short)


# --- doctests -----------------------------------------------------------------------------------


def _modules_with_examples():
    """Names of the modules whose docstrings have examples; they are found without an import."""
    root = Path(hs_autoptycho.__file__).parent
    for found in pkgutil.walk_packages([str(root)], "hs_autoptycho."):
        path = root.joinpath(*found.name.split(".")[1:])
        path = path / "__init__.py" if found.ispkg else path.with_suffix(".py")
        if ">>> " in path.read_text(encoding="utf-8"):
            yield found.name


EXAMPLES = sorted(_modules_with_examples())


def test_there_are_examples():
    assert {"hs_autoptycho.methods", "hs_autoptycho._geometry"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, monkeypatch, tmp_path):
    import hyperspy.api as hs

    monkeypatch.setattr(hs.preferences.General, "show_progressbar", False)
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0


# --- public names -------------------------------------------------------------------------------


def test_public_names_are_those_of_the_package():
    found = set(names.public_names())
    assert {"hs_autoptycho.design_experiment", "hs_autoptycho.data.snse_domains"} <= found
    assert {"hs_autoptycho.interop.to_py4dstem", "hs_autoptycho.signals.StrainMap"} <= found


@pytest.mark.parametrize("name", names.public_names())
def test_public_name_is_in_the_reference(name):
    assert f"\n   {name.rpartition('.')[2]}\n" in REFERENCE


@pytest.mark.parametrize("name", names.METHODS)
def test_method_is_in_the_reference(name):
    assert f".. automethod:: Signal2D.{name}\n" in REFERENCE


def _has_section(doc, title):
    return f"{title}\n{'-' * len(title)}\n" in doc


def _own_parameters(function):
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


def _check(function, where):
    doc = inspect.getdoc(function) or ""
    assert doc, f"{where} has no docstring"
    if _own_parameters(function):
        assert _has_section(doc, "Parameters"), f"{where} does not explain its parameters"
        for parameter in _own_parameters(function):
            if parameter.name != "unknown":
                explained = any(
                    parameter.name in line.lstrip("*").replace("*", "").split(", ")
                    for line in doc.split("\n")
                )
                assert explained, f"{where} does not explain {parameter.name}"
    returned = inspect.signature(function).return_annotation
    says = _has_section(doc, "Returns") or _has_section(doc, "Yields")
    # of a class method that makes one of its class there is nothing more to say
    made = returned == getattr(getattr(function, "__self__", None), "__name__", None)
    if returned not in (None, "None", inspect.Signature.empty) and not made:
        assert says, f"{where} does not say what it returns"


@pytest.mark.parametrize("name", names.public_names())
def test_public_name_is_documented(name):
    value = _value(name)
    if not inspect.isclass(value):
        _check(value, name)
        return
    assert inspect.getdoc(value)
    attributes, methods = names.members(value)
    for member in attributes:
        assert inspect.getdoc(inspect.getattr_static(value, member)), f"{name}.{member}"
    for member in methods:
        _check(getattr(value, member), f"{name}.{member}")


@pytest.mark.parametrize("name", names.METHODS)
def test_method_is_documented(name):
    from hs_autoptycho import methods

    _check(getattr(methods, name), name)


def test_every_parameter_is_in_the_table():
    from hs_autoptycho.ptycho.parameters import PARAMETERS

    text = (DOCS / "reference" / "parameters.rst").read_text(encoding="utf-8")
    in_tables = set()
    for part in text.split(".. parameter-table::")[1:]:
        in_tables |= set(part.split("\n\n")[0].split())
    assert set(PARAMETERS) <= in_tables
