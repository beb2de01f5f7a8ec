"""Options of wrong names, types and values, generated from the methods' signatures."""

from __future__ import annotations

import inspect
import os
import tempfile
from pathlib import Path

import hyperspy.api as hs
import numpy as np
from judging import METHODS, OPTIONS, Kind, refused

from hs_autoptycho.ptycho.parameters import PARAMETERS

# of this process alone, and taken away at its end
_FOLDER = tempfile.TemporaryDirectory(prefix="hs_autoptycho_")

NO_NUMBERS = ["much", "", b"3", True, 1j, [1, 2], (1.0,), {}, {"value": 1}, object(), print,
              np.array([1.0, 2.0]), np.datetime64(0, "s")]  # fmt: skip
NOT_FINITE = [np.nan, np.inf, -np.inf, np.float32("nan")]
NO_COUNTS = [*NO_NUMBERS, *NOT_FINITE, 0, -1, 1.5, "2"]
# what `None` stands for, None is allowed
WRONG = {
    "number": [*NO_NUMBERS, *NOT_FINITE, 1e300, 10**400],
    "integer": [*NO_NUMBERS, *NOT_FINITE, 1.5, -1, 2**70],
    "choice": ["nonsense", "", b"none", 1, 1.0, np.nan, True, ["disk"], {}, object()],
}
OTHERS = {
    "n_iterations": [*NO_COUNTS, None],
    "n_trials": [*NO_COUNTS, None],
    "n_trial_iterations": [*NO_COUNTS, None],
    "random_state": [*NO_NUMBERS, *NOT_FINITE, -1, 1.5, 2**32, None, np.random.default_rng(0)],
    "num_workers": NO_COUNTS,
    "max_clusters": NO_COUNTS,
    "max_depth": NO_COUNTS,
    "min_cluster_size": NO_COUNTS,
    "detector_mask": [
        "all",
        3,
        1.5,
        {},
        object(),
        [[True]],
        np.ones((3, 4), bool),
        [1, 2],
        np.ones((32, 40)),
        np.zeros((32, 40), bool),
        np.ones((1, 32, 40), bool),
    ],
    "background": [
        "dark",
        True,
        {},
        object(),
        -1,
        np.nan,
        np.inf,
        1j,
        [1, 2],
        np.ones((3, 4)),
        np.full((32, 40), np.nan),
        np.full((32, 40), -1),
    ],
    "disk_center": [
        "middle",
        3,
        True,
        {},
        object(),
        (1,),
        (1, "b"),
        (np.nan, 2),
        (1j, 2),
        (1, 2, 3),
        (1e300, 2),
        (-5, 3),
        [[1, 2], [3, 4]],
    ],
    "disk_radius": [*NO_NUMBERS, *NOT_FINITE, 0, -3, 1e300, 10**400],
    "mask": [
        "all",
        3,
        True,
        {},
        object(),
        [[True]],
        np.ones((3, 4), bool),
        np.ones((36, 44)),
        np.zeros((36, 44), bool),
        (2, 1),
        (np.nan, 1),
        ("a", "b"),
        (-1, 2),
        (1j, 2),
        (0, np.nan),
        hs.roi.CircleROI(1e6, 1e6, 1),
        hs.roi.SpanROI(1, 2),
    ],
    "scan_mask": [
        "all",
        3,
        True,
        {},
        object(),
        [[True]],
        np.ones((3, 4), bool),
        np.ones((12, 16)),
        np.zeros((12, 16), bool),
    ],
    "features": ["nonsense", "", b"std", 3, None, {}, ["std"], np.ones(3)],
    "spatial_smoothing": [v for v in [*NO_NUMBERS, *NOT_FINITE, -1, None]],
    "strategy": ["nonsense", "", 3, None, ["full"], {}, object(), print],
    "objective": ["nonsense", "", 3, None, ["frc"], {}, object()],
    "engine": ["nonsense", "", 3, None, ["numba"], {}, object()],
    "callback": ["print", 3, [], {}, object()],
    "client": ["127.0.0.1:8786", 3, [], {}, object()],
    "parameters": [
        "defocus",
        3,
        True,
        object(),
        [1, 2],
        [["defocus"]],
        b"defocus",
        {"defocus"} ^ {"defocus", 3},
        np.ones(3),
    ],
    "fixed": ["defocus", 3, True, object(), [1, 2], b"defocus", np.ones(3)],
}
DESCRIPTIONS = [
    "much",
    (1,),
    (2, 1),
    (np.nan, 2),
    (1, np.inf),
    ("a", "b"),
    (1, 2, 3),
    (1, 2, "log2"),
    [],
    ["a", None],
    [np.nan],
    {},
    {"range": 3},
    {"what": (1, 2)},
    object(),
    print,
    {"range": (1, 2), "prior": (0, 0)},
    {"range": (1, 2), "scale": 3},
    b"12",
    np.array([[1, 2]]),
]
# not checked: anything is true or false, as everywhere in HyperSpy; and what is tested elsewhere
LEFT_OUT = {"self", "unknown", "show_progressbar", "study"}


def as_is(signal):
    return signal


def option(method, name, value, words=None, label=None):
    """A cell: one option of one method, on a lazy signal, of which nothing may be read."""
    rule = refused(words or rf"\b{name}\b", unread=True)
    label = label or f"{name}={_short(value)}"
    return Kind("options", label, as_is, rule, rule, {name: value}, lazy=True, methods=(method,))


def _short(value) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {value.ravel()[:1]}"
    text = repr(value)
    if not isinstance(value, str | int | float | bool | None):
        text = f"{type(value).__name__} {text}"
    return text.split(" at 0x")[0].replace("\n", "")[:50]


def names_of(method):
    function = getattr(hs.signals.Signal2D, method)
    return [name for name in inspect.signature(function).parameters if name not in LEFT_OUT]


def options():
    """Every option of every method with every value that is wrong for it."""
    for method in METHODS:
        known = set(names_of(method))
        for name in names_of(method):
            wrong = OTHERS[name] if name in OTHERS else WRONG[PARAMETERS[name].kind]
            for value in wrong:
                yield option(method, name, value)
            for misspelt in (name + "s", name.upper(), name[:-1], "n" + name):
                if misspelt not in known:
                    known.add(misspelt)
                    yield option(method, misspelt, 1, rf"\b{misspelt}\b", f"{misspelt}=1")
        for misspelt in ("__class__", "self_", "metadata", "s p a c e", "ü", ""):
            yield option(method, misspelt, 1, "argument|parameter")


def searches():
    """Every parameter with every description that is no range of it, and held at wrong values."""
    method = "autotune_ptycho"
    for name, parameter in PARAMETERS.items():
        for value in DESCRIPTIONS:
            label = f"parameters={{{name!r}: {_short(value)}}}"
            yield option(method, "parameters", {name: value}, rf"\b{name}\b", label)
        for value in WRONG[parameter.kind]:
            label = f"fixed={{{name!r}: {_short(value)}}}"
            options = {"parameters": None, "fixed": {name: value}}
            rule = refused(rf"\b{name}\b", unread=True)
            yield Kind("searches", label, as_is, rule, rule, options, lazy=True, methods=(method,))
        yield option(method, "parameters", {name + "x": (1, 2)}, f"Unknown.*{name}x",
                     f"parameters={{{name}x}}")  # fmt: skip
    for name in ("detector_mask", "background", "disk_center", "disk_radius"):
        for value in OTHERS[name]:
            options = {"fixed": {**OPTIONS[method]["fixed"], name: value}}
            rule = refused(rf"\b{name}\b", unread=True)
            label = f"fixed={{{name!r}: {_short(value)}}}"
            yield Kind("searches", label, as_is, rule, rule, options, lazy=True, methods=(method,))


def folders():
    """Files of a study where none can be."""
    places = {
        "a missing folder": ("missing/study.jsonl", "folder of the study.*does not exist"),
        "a folder": (".", "is no ordinary file"),
        "no name": ("", "is no ordinary file"),
        "below a file": (Path(__file__) / "study.jsonl", "does not exist|cannot be opened"),
        "a device": ("/dev/full", "is no ordinary file"),
        "a name too long": ("n" * 300, "cannot be opened"),
        "a name with a zero": ("a\0b", "study"),
        "a number": (3, "study"),
        "bytes": (b"study", "study"),
        "a list": (["study"], "study"),
        "another file": (Path(__file__), "is not a study"),
    }
    for name, (place, words) in places.items():
        rule = refused(words, unread=True)
        yield Kind("folders", f"study in {name}", as_is, rule, rule, {"study": place}, lazy=True,
                   methods=("autotune_ptycho",))  # fmt: skip
    if hasattr(os, "mkfifo"):
        # made where the call works; it would wait for ever for somebody to write to it
        pipe = Path(_FOLDER.name) / "pipe"

        def with_pipe(signal):
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe)
            return signal

        rule = refused("ordinary file", unread=True)
        yield Kind("folders", "study in a pipe", with_pipe, rule, rule,
                   {"study": str(pipe)}, lazy=True,
                   methods=("autotune_ptycho",))  # fmt: skip


GROUPS = {"options": options, "searches": searches, "folders": folders}
