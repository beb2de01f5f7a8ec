"""The methods are on every loaded signal, however HyperSpy came to be imported.

What depends on the order of imports runs in an interpreter of its own, one for each order.
"""

import importlib
import inspect
import json
import os
import pydoc
import subprocess
import sys
import types

import pytest

from hs_autoptycho import _registration

METHODS = _registration.METHOD_NAMES

# the start of each script: `report` is printed as JSON, and is what `run` returns
PREAMBLE = """
import json, sys
METHODS = {methods!r}
report = {{}}

def has_methods(signal):
    return all(callable(getattr(signal, name, None)) for name in METHODS)
"""


def run(script: str, **environment: str) -> dict:
    """Run a script in a fresh interpreter, whose stderr may not speak of this package."""
    source = PREAMBLE.format(methods=METHODS) + script + "\nprint(json.dumps(report))\n"
    result = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "autoptycho" not in result.stderr, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


# ------------------------------------------------------------- nothing but hyperspy.api imported

API_ONLY = """
import hyperspy.api as hs

heavy = ("numba", "skopt", "sklearn", "hs_autoptycho.ptycho", "hs_autoptycho.tuning")
hs.signals.Signal2D
report["imported too early"] = [name for name in heavy if name in sys.modules]

import pathlib, tempfile
import numpy as np

s = hs.signals.Signal2D(np.ones((3, 4, 5, 6), dtype="uint16"))
lazy = s.as_lazy()
report["plain"] = has_methods(s)
report["dir"] = set(METHODS) <= set(dir(s))
report["lazy"] = has_methods(lazy)
report["compute"] = has_methods(lazy.compute() or lazy)
report["inav"] = has_methods(s.inav[:2, 1:])
report["isig"] = has_methods(s.isig[1:4, :3])
report["deepcopy"] = has_methods(s.deepcopy())
report["transpose"] = has_methods(s.transpose(signal_axes=2))

with tempfile.TemporaryDirectory() as folder:
    for extension in ("hspy", "zspy"):
        path = pathlib.Path(folder) / f"scan.{extension}"
        s.save(path)
        report[extension] = has_methods(hs.load(path))
        report[f"lazy {extension}"] = has_methods(hs.load(path, lazy=True))

report["not on spectra"] = not has_methods(hs.signals.Signal1D(np.ones((2, 3))))
"""


@pytest.fixture(scope="module")
def api_only():
    return run(API_ONLY)


@pytest.mark.parametrize(
    "way",
    [
        "plain",
        "dir",
        "lazy",
        "compute",
        "inav",
        "isig",
        "deepcopy",
        "transpose",
        "hspy",
        "lazy hspy",
        "zspy",
        "lazy zspy",
        "not on spectra",
    ],
)
def test_only_hyperspy_api_is_imported(api_only, way):
    assert api_only[way] is True


def test_importing_hyperspy_imports_nothing_heavy_of_ours(api_only):
    assert api_only["imported too early"] == []


# ----------------------------------------------------------------------------------------- pyxem

HYPERSPY_THEN_PYXEM = """
import hyperspy.api as hs
import numpy as np

def is_diffraction(signal):
    return "ElectronDiffraction2D" in type(signal).__name__

for name, s in (
    ("plain", hs.signals.Signal2D(np.ones((3, 4, 5, 6)))),
    ("lazy", hs.signals.Signal2D(np.ones((3, 4, 5, 6))).as_lazy()),
):
    s.set_signal_type("electron_diffraction")
    report[f"{name} to pyxem"] = is_diffraction(s) and has_methods(s)
    report[f"{name} pyxem inav"] = is_diffraction(s.inav[1:]) and has_methods(s.inav[1:])
    report[f"{name} pyxem deepcopy"] = is_diffraction(s.deepcopy()) and has_methods(s.deepcopy())
    s.set_signal_type("")
    report[f"{name} from pyxem"] = type(s).__name__.endswith("Signal2D") and has_methods(s)
"""

PYXEM_FIRST = """
import pyxem
import numpy as np

s = pyxem.signals.ElectronDiffraction2D(np.ones((3, 4, 5, 6)))
report["pyxem first"] = has_methods(s)
report["pyxem first, lazy"] = has_methods(s.as_lazy())
"""


@pytest.fixture(scope="module")
def hyperspy_then_pyxem():
    pytest.importorskip("pyxem")
    return run(HYPERSPY_THEN_PYXEM)


@pytest.mark.parametrize("kind", ["plain", "lazy"])
@pytest.mark.parametrize("way", ["to pyxem", "pyxem inav", "pyxem deepcopy", "from pyxem"])
def test_signals_of_pyxem(hyperspy_then_pyxem, kind, way):
    assert hyperspy_then_pyxem[f"{kind} {way}"] is True


def test_pyxem_is_imported_first():
    pytest.importorskip("pyxem")
    assert run(PYXEM_FIRST) == {"pyxem first": True, "pyxem first, lazy": True}


# ------------------------------------------------------------------------ other orders of import


def test_importing_hs_autoptycho_is_light_and_registers():
    report = run("""
import hs_autoptycho

heavy = ("numpy", "scipy", "numba", "dask", "matplotlib", "hyperspy", "lazy_loader", "yaml")
report["heavy"] = [name for name in heavy if name in sys.modules]

import hyperspy.api as hs
report["methods"] = has_methods(hs.signals.Signal2D) and has_methods(hs.signals.LazySignal2D)
""")
    assert report == {"heavy": [], "methods": True}


def test_importing_hs_autoptycho_after_a_hyperspy_that_does_not_know_it():
    report = run("""
import importlib.metadata
find = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **keywords: [
    entry for entry in find(**keywords) if not entry.name.startswith("hs_autoptycho")
]
import hyperspy.api as hs

s = hs.signals.Signal2D([[[[1.0]]]])
report["before"] = has_methods(s)
import hs_autoptycho
report["after"] = has_methods(s)
""")
    assert report == {"before": False, "after": True}


def test_module_of_signal2d_is_the_first_import():
    """Then HyperSpy loads its extensions while that module is half imported."""
    report = run("""
from hyperspy._signals.signal2d import Signal2D

report["methods"] = has_methods(Signal2D)
report["module"] = type(sys.modules["hyperspy._signals.signal2d"]).__name__
""")
    assert report == {"methods": True, "module": "module"}


def test_eager_import_of_lazy_names_does_not_break_hyperspy():
    report = run(
        """
import hyperspy.api as hs
report["methods"] = has_methods(hs.signals.Signal2D)
""",
        EAGER_IMPORT="1",
    )
    assert report == {"methods": True}


# ------------------------------------------------- what signals without the methods say of them

SIGNPOSTS = """
import copy, inspect, pathlib, pickle, pydoc, tempfile
{first}
import numpy as np
import hyperspy.api as hs

def said(signal):
    try:
        signal.cluster_hierarchical
    except AttributeError as error:
        return str(error)

with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "scan.npy"
    np.save(path, np.zeros((3, 4, 6, 8)))
    for name, lazy in (("plain", False), ("lazy", True)):
        s = hs.load(path, lazy=lazy)
        report[name] = said(s)
        report[f"{{name}} has"] = hasattr(s, "reconstruct_ptycho")
        report[f"{{name}} class has"] = hasattr(type(s), "reconstruct_ptycho")
        report[f"{{name}} turned"] = has_methods(s.transpose(signal_axes=2))
        report[f"{{name}} copied"] = said(s.deepcopy())

spectrum = hs.signals.Signal1D(np.ones((2, 3)))
report["spectrum"] = said(spectrum)
report["waves"] = said(hs.signals.ComplexSignal2D(np.ones((2, 3, 4, 6), complex)))
report["no axes"] = said(object.__new__(hs.signals.BaseSignal))
report["help"] = "decomposition" in pydoc.render_doc(hs.signals.BaseSignal)
report["members"] = "decomposition" in dict(inspect.getmembers(spectrum))
report["class"] = pickle.loads(pickle.dumps(hs.signals.BaseSignal)) is hs.signals.BaseSignal
"""


@pytest.mark.parametrize(
    "first",
    [
        "",
        "from hyperspy.signals import BaseSignal",
        "from hyperspy._signals.lazy import LazySignal",
    ],
)
def test_signals_without_the_methods_say_what_to_do(first):
    report = run(SIGNPOSTS.format(first=first))
    for name in ("plain", "lazy"):
        kind = "LazySignal" if name == "lazy" else "BaseSignal"
        start = f"'{kind}' object has no attribute 'cluster_hierarchical'. "
        assert report[name].startswith(start)
        assert "`s = s.transpose(signal_axes=2)`" in report[name]
        assert report[f"{name} copied"] == report[name]
        assert report[f"{name} turned"] is True
        assert report[f"{name} has"] is report[f"{name} class has"] is False
    assert "One pattern or image is no scan" in report["spectrum"]
    assert "`s = s.amplitude**2`" in report["waves"]
    assert report["no axes"] == "'BaseSignal' object has no attribute 'cluster_hierarchical'"
    assert report["help"] is report["members"] is report["class"] is True


# --------------------------------------------------------------------- it cannot break HyperSpy


@pytest.mark.parametrize("error", ["SyntaxError", "ImportError", "RuntimeError"])
def test_broken_methods_do_not_break_hyperspy(error):
    report = run(f"""
class Poison:
    def find_spec(self, name, path=None, target=None):
        if name == "hs_autoptycho.methods":
            report["asked for"] = True
            raise {error}("poisoned")

sys.meta_path.insert(0, Poison())

import hyperspy.api as hs
import numpy as np

report["shape"] = hs.signals.Signal2D(np.ones((3, 4, 5, 6))).data.shape
report["methods"] = has_methods(hs.signals.Signal2D)
""")
    assert report == {"asked for": True, "shape": [3, 4, 5, 6], "methods": False}


@pytest.fixture
def fake_hyperspy(monkeypatch):
    """A class in the place of HyperSpy's Signal2D."""
    module = types.ModuleType(_registration._SIGNAL_MODULE)
    module.Signal2D = type("Signal2D", (), {})
    monkeypatch.setitem(sys.modules, _registration._SIGNAL_MODULE, module)
    return module


def test_a_name_that_exists_is_left_alone(fake_hyperspy):
    theirs = lambda self: "theirs"  # noqa: E731
    fake_hyperspy.Signal2D.autotune_ptycho = theirs
    assert _registration.attach()
    assert fake_hyperspy.Signal2D.autotune_ptycho is theirs
    assert callable(fake_hyperspy.Signal2D.reconstruct_ptycho)


def test_a_class_that_refuses_attributes_raises_nothing(fake_hyperspy):
    fake_hyperspy.Signal2D = int
    assert _registration.attach()
    _registration.register()


def test_a_module_without_signal2d_is_watched(fake_hyperspy):
    signal_class = fake_hyperspy.Signal2D
    del fake_hyperspy.Signal2D
    assert not _registration.attach()
    _registration.register()
    assert not hasattr(fake_hyperspy, "Signal2D")
    fake_hyperspy.Signal2D = signal_class
    assert callable(fake_hyperspy.Signal2D.autotune_ptycho)
    assert type(fake_hyperspy) is types.ModuleType


def test_a_name_that_basesignal_has_is_left_alone(monkeypatch):
    theirs = lambda self: "theirs"  # noqa: E731
    module = types.ModuleType(_registration._BASE_MODULE)
    module.BaseSignal = type("BaseSignal", (), {"autotune_ptycho": theirs})
    monkeypatch.setitem(sys.modules, _registration._BASE_MODULE, module)
    assert _registration.attach(_registration._BASE_MODULE)
    assert module.BaseSignal.autotune_ptycho is theirs
    with pytest.raises(AttributeError, match="'BaseSignal' object has no attribute"):
        _ = module.BaseSignal().reconstruct_ptycho


def test_registering_twice_leaves_one_finder():
    _registration.register()
    _registration.register()
    finders = [f for f in sys.meta_path if type(f).__name__ == "_SignalFinder"]
    assert len(finders) == 1


# ------------------------------------------------------------------- what a user sees of a method


@pytest.mark.parametrize("name", METHODS)
def test_help_shows_docstring_and_signature(name):
    import hyperspy.api as hs

    method = getattr(hs.signals.Signal2D, name)
    function = getattr(importlib.import_module("hs_autoptycho.methods"), name)
    assert method is function
    assert method.__doc__
    text = pydoc.render_doc(hs.signals.Signal2D([[[[1.0]]]]).__getattribute__(name))
    assert method.__doc__.strip().splitlines()[0] in text
    parameters = list(inspect.signature(method).parameters.values())
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters[2:])


# -------------------------------------------------------------------------------- signal classes


@pytest.mark.parametrize("lazy", [False, True])
def test_signal_classes_are_registered(lazy):
    from hyperspy.extensions import ALL_EXTENSIONS

    name = "LazyPtychographicObject" if lazy else "PtychographicObject"
    entry = ALL_EXTENSIONS["signals"][name]
    signal_class = getattr(importlib.import_module(entry["module"]), name)
    assert entry["signal_type"] == signal_class._signal_type == "ptychographic_object"
    assert entry["signal_dimension"] == signal_class._signal_dimension == 2
    assert entry["dtype"] == signal_class._dtype == "complex"
    assert entry["lazy"] is signal_class._lazy is lazy
