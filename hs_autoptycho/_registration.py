"""Put the methods of this package on HyperSpy's ``Signal2D``.

HyperSpy has no registry for methods. It does, while it loads its extensions, call ``find_spec`` on
the name of every ``hyperspy.extensions`` entry point, and ``find_spec`` of a dotted name imports
the parent package. The entry point named ``hs_autoptycho._registration`` therefore imports
``hs_autoptycho``, which calls `register`. ``Signal2D`` mostly does not exist yet at that time, so
`register` leaves a finder in ``sys.meta_path`` that adds the methods as soon as the module that
defines ``Signal2D`` has been executed.

Everybody who imports HyperSpy runs this code. It uses the standard library only, raises nothing,
and leaves alone every name that ``Signal2D`` already has.
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
_SIGNAL_CLASS = "Signal2D"


def register() -> None:
    """Add the methods to ``Signal2D``: now, or as soon as HyperSpy has defined it."""
    try:
        if not any(isinstance(finder, _Signal2DFinder) for finder in sys.meta_path):
            # It stays there, so that a HyperSpy that is reloaded gets its methods again.
            sys.meta_path.insert(0, _Signal2DFinder())
        module = sys.modules.get(_SIGNAL_MODULE)
        if module is not None and not attach() and type(module) is ModuleType:
            module.__class__ = _HalfImportedModule
    except Exception:
        _logger.debug("hs_autoptycho could not watch for HyperSpy's import", exc_info=True)


def attach() -> bool:
    """Add the methods to ``Signal2D``, if it exists by now.

    Returns
    -------
    bool
        Whether there is nothing left to wait for: the methods are there, or cannot be had.
    """
    try:
        module = sys.modules.get(_SIGNAL_MODULE)
        signal_class = None if module is None else vars(module).get(_SIGNAL_CLASS)
        if signal_class is None:
            return False
        methods = importlib.import_module(_METHODS_MODULE)
        for name in METHOD_NAMES:
            _attach_one(signal_class, methods, name)
    except Exception:
        _logger.debug("hs_autoptycho could not add its methods to HyperSpy", exc_info=True)
    return True


def _attach_one(signal_class, methods, name):
    method = getattr(methods, name, None)
    existing = getattr(signal_class, name, None)
    if method is None:
        _logger.debug("%s has no function %r to add to HyperSpy", _METHODS_MODULE, name)
    elif existing is None:
        setattr(signal_class, name, method)
    elif existing is not method:
        _logger.debug("%s.%s exists already and is left as it is", _SIGNAL_CLASS, name)


class _Signal2DFinder:
    """Finds what the other finders find, and makes one module call `attach` once it is executed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _SIGNAL_MODULE:
            return None
        try:
            for finder in sys.meta_path:
                if finder is self or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    _call_after_execution(spec.loader, attach)
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
    """The module of ``Signal2D`` when its own import is what makes HyperSpy load extensions.

    ``from hyperspy._signals.signal2d import Signal2D`` as the first import of all does that. The
    module is being executed already, so there is no loader left to hook; instead, the methods are
    added when ``Signal2D`` is first asked for, and the module is an ordinary one from then on.
    """

    def __getattribute__(self, name):
        if name == _SIGNAL_CLASS and attach():
            self.__class__ = ModuleType
        return ModuleType.__getattribute__(self, name)
