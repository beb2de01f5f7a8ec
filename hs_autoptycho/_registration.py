"""Put the methods of this package on HyperSpy's ``Signal2D``.

HyperSpy has no registry for methods. It does, while it loads its extensions, call ``find_spec`` on
the name of every ``hyperspy.extensions`` entry point, and ``find_spec`` of a dotted name imports
the parent package. The entry point named ``hs_autoptycho._registration`` therefore imports
``hs_autoptycho``, which calls `register`. ``Signal2D`` mostly does not exist yet at that time, so
`register` leaves a finder in ``sys.meta_path`` that adds the methods as soon as the module that
defines ``Signal2D`` has been executed.

A file of which the axes of the scan are not known is loaded as a ``BaseSignal``, which is no
``Signal2D``. For its sake ``BaseSignal`` gets a `Signpost` for each method: asking for the method
is an ``AttributeError`` still, of which the text says how to make a scan of the signal.

Everybody who imports HyperSpy runs this code. It uses the standard library only, raises nothing,
and leaves alone every name that is there already.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType

_logger = logging.getLogger(__name__)

# what is added to Signal2D: the functions of these names in hs_autoptycho.methods
METHOD_NAMES = ("reconstruct_ptycho", "autotune_ptycho", "cluster_hierarchical")

_METHODS_MODULE = "hs_autoptycho.methods"
_SIGNAL_MODULE = "hyperspy._signals.signal2d"
_BASE_MODULE = "hyperspy.signal"
# the class that each module defines
_CLASSES = {_SIGNAL_MODULE: "Signal2D", _BASE_MODULE: "BaseSignal"}


def register() -> None:
    """Add the methods to ``Signal2D``: now, or as soon as HyperSpy has defined it."""
    try:
        if not any(isinstance(finder, _SignalFinder) for finder in sys.meta_path):
            # It stays there, so that a HyperSpy that is reloaded gets its methods again.
            sys.meta_path.insert(0, _SignalFinder())
        for name in _CLASSES:
            module = sys.modules.get(name)
            if module is not None and not attach(name) and type(module) is ModuleType:
                module.__class__ = _HalfImportedModule
    except Exception:
        _logger.debug("hs_autoptycho could not watch for HyperSpy's import", exc_info=True)


def attach(module_name: str = _SIGNAL_MODULE) -> bool:
    """Add the methods to ``Signal2D``, or signposts to ``BaseSignal``, if it exists by now.

    Parameters
    ----------
    module_name
        Of the module that defines the class.

    Returns
    -------
    bool
        Whether there is nothing left to wait for: they are there, or cannot be had.
    """
    try:
        module = sys.modules.get(module_name)
        class_name = _CLASSES[module_name]
        signal_class = None if module is None else vars(module).get(class_name)
        if signal_class is None:
            return False
        if module_name == _SIGNAL_MODULE:
            methods = importlib.import_module(_METHODS_MODULE)
            added = {name: getattr(methods, name, None) for name in METHOD_NAMES}
        else:
            added = {name: Signpost(name) for name in METHOD_NAMES}
        for name, value in added.items():
            _attach_one(signal_class, name, value)
    except Exception:
        _logger.debug("hs_autoptycho could not add its methods to HyperSpy", exc_info=True)
    return True


def _attach_one(signal_class, name, value):
    existing = getattr(signal_class, name, None)  # a signpost is none
    if value is None:
        _logger.debug("%s has no function %r to add to HyperSpy", _METHODS_MODULE, name)
    elif existing is not None:
        if existing is not value:
            _logger.debug("%s.%s exists and is left as it is", signal_class.__name__, name)
    else:
        setattr(signal_class, name, value)


class Signpost:
    """In the place of a method on signals that are no scans: says how to make one of them.

    Neither such a signal nor its class has the attribute: ``hasattr`` is False, and ``getattr``
    raises an ``AttributeError``.

    Parameters
    ----------
    name
        Of the method.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, signal, owner=None):
        kind = (owner or type(signal)).__name__
        if signal is None:
            raise AttributeError(f"type object {kind!r} has no attribute {self._name!r}")
        try:
            reason = _what_is_no_scan(signal)
        except Exception:  # a signal that is being made has no axes yet
            reason = ""
        raise AttributeError(f"{kind!r} object has no attribute {self._name!r}{reason}")


def _what_is_no_scan(signal) -> str:
    """What to do that a signal be one that has the methods."""
    from hs_autoptycho._signal_reader import not_a_scan

    problem = not_a_scan(signal)
    if problem:
        return f". {problem}"
    if signal.data.dtype.kind == "c":
        return ". Diffraction patterns are real: `s = s.amplitude**2` if it holds their waves."
    return ""


class _SignalFinder:
    """Finds what the other finders find; makes two modules call `attach` once executed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _CLASSES:
            return None
        try:
            for finder in sys.meta_path:
                if finder is self or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    _call_after_execution(spec.loader, lambda: attach(fullname))
                    return spec
        except Exception:
            _logger.debug("hs_autoptycho could not hook %s", fullname, exc_info=True)
        return None


def _call_after_execution(loader, function):
    # The loader is changed in place, not wrapped, so that inspect, pickle and importlib.resources
    # meet the class of loader that they know.
    execute = loader.exec_module

    def exec_module(module):
        execute(module)
        function()

    loader.exec_module = exec_module


class _HalfImportedModule(ModuleType):
    """The module of a signal class when its own import is what makes HyperSpy load extensions.

    ``from hyperspy._signals.signal2d import Signal2D`` as the first import of all does that. The
    module is being executed already, so there is no loader left to hook; instead, the methods are
    added when the class is first asked for, and the module is an ordinary one from then on.
    """

    def __getattribute__(self, name):
        own = ModuleType.__getattribute__(self, "__name__")
        if name == _CLASSES.get(own) and attach(own):
            self.__class__ = ModuleType
        return ModuleType.__getattribute__(self, name)
