"""The public names of the package, and the members of its classes that are its own."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

# Where public names are listed: the package itself and its public subpackages.
MODULES = ("hs_autoptycho", "hs_autoptycho.data", "hs_autoptycho.interop", "hs_autoptycho.signals")
# Public names of a subpackage whose others are for the package's own use.
OTHERS = ("hs_autoptycho.plotting.LiveTuning", "hs_autoptycho.plotting.TrialComparison")
# The methods that the package puts on HyperSpy's signals.
METHODS = ("reconstruct_ptycho", "autotune_ptycho", "cluster_hierarchical")
# HyperSpy's own, which the results only adapt
_ADAPTED = ("compute", "deepcopy", "fft", "rebin")


def public_names() -> list[str]:
    """Dotted names of all public functions and classes, each once."""
    names: dict[int, str] = {}
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            if name.startswith("Lazy"):  # the same class, as ``hs.load(lazy=True)`` gives it
                continue
            names.setdefault(id(value), f"{module.__name__}.{name}")
    return [*names.values(), *OTHERS]


def members(cls: type) -> tuple[list[str], list[str]]:
    """Attributes and methods of a class that come from this package, in the order of the code."""
    attributes, methods, makers = [], [], []
    for base in cls.__mro__:
        if not base.__module__.startswith("hs_autoptycho"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in _ADAPTED or name in attributes + methods + makers:
                continue
            if isinstance(value, property):
                attributes.append(name)
            elif inspect.isfunction(value):
                methods.append(name)
            elif isinstance(value, classmethod | staticmethod):
                makers.append(name)
    return attributes, methods + makers


def own_members() -> dict[str, Any]:
    """For the template of a class's page: its dotted name to attributes and methods."""
    out = {}
    for name in public_names():
        module, _, short = name.rpartition(".")
        value = getattr(importlib.import_module(module), short)
        if inspect.isclass(value):
            attributes, methods = members(value)
            out[name] = {"attributes": attributes, "methods": methods}
    return out
