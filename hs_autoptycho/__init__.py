"""Self-tuning ptychography and hierarchical clustering of 4D-STEM data, in HyperSpy.

HyperSpy imports this package while it loads its extensions, so importing it takes milliseconds
and cannot fail for want of another package: only the standard library is used here, and the
public names are imported when they are first asked for. The methods that this package adds to
HyperSpy's signals (``reconstruct_ptycho``, ``autotune_ptycho`` and ``cluster_hierarchical``) need
nothing but ``import hyperspy.api``; ``import hs_autoptycho`` makes sure of them.
"""

# ``lazy_loader.attach_stub``, which the subpackages use, would do for the names below, were it not
# that it imports everything at once when EAGER_IMPORT is set; here that would happen in the
# middle of HyperSpy's own import and break it.

import importlib

from hs_autoptycho import _registration

# public name: the module it is in; None for a subpackage. Kept equal to __init__.pyi by a test.
_PUBLIC_NAMES = {
    "ExperimentDesign": "hs_autoptycho.signals",
    "HierarchicalClusters": "hs_autoptycho.signals",
    "PtychographicObject": "hs_autoptycho.signals",
    "PtychographyTuner": "hs_autoptycho.inline.tuner",
    "data": None,
    "design_experiment": "hs_autoptycho._design",
    "estimate_geometry": "hs_autoptycho._geometry",
    "estimate_memory": "hs_autoptycho._memory",
    "interop": None,
    "load_study": "hs_autoptycho.tuning.study",
}

__all__ = ["__version__", *_PUBLIC_NAMES]


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        value = version("hs_autoptycho")
    elif name in _PUBLIC_NAMES:
        module = _PUBLIC_NAMES[name]
        if module is None:
            value = importlib.import_module(f"hs_autoptycho.{name}")
        else:
            value = getattr(importlib.import_module(module), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


_registration.register()
