"""What a method may answer to an input, and whether it did.

A `Kind` of input comes with a `Rule` for ptychography and one for clustering, and `judge` runs one
cell of the matrix, an input on a method, and says what it got. Common to all cells: the input is
what it was, byte by byte; no figure, file or open file is left; an error is typed, comes from a
line of this package, names what is wrong in words, and comes before anything is reconstructed or
clustered; a result is whole and finite.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import dask.array as da
import numpy as np

import hs_autoptycho._tuning
from hs_autoptycho.clustering import pipeline
from hs_autoptycho.data import twisted_bilayer_mos2, ws2_wse2_junction
from hs_autoptycho.ptycho.experiment import Experiment

METHODS = ("reconstruct_ptycho", "autotune_ptycho", "cluster_hierarchical")
PACKAGE = str(Path(hs_autoptycho.__file__).parent)

# what a call needs to do as little as it can
OPTIONS = {
    "reconstruct_ptycho": {"defocus": 120.0, "scan_rotation": 12.0, "n_iterations": 2},
    "autotune_ptycho": {
        "parameters": {"defocus": (60.0, 180.0)},
        "fixed": {"scan_rotation": 12.0},
        "strategy": "sobol",
        "n_trials": 2,
        "n_trial_iterations": 1,
        "n_iterations": 1,
    },
    "cluster_hierarchical": {"max_clusters": 2, "spatial_smoothing": 1.0},
}


@dataclass(frozen=True)
class Rule:
    """What is right.

    Attributes
    ----------
    outcome
        ``"refused"``; ``"same"``, the result is that of the good input; ``"finished"``, there is a
        result; ``"either"``, refused or finished.
    words
        Regular expression that the error, or a note of the result, matches.
    unread
        Whether it is refused before a lazy array is read.
    like
        Name of the good input that the result is compared with.
    exact
        Whether all numbers have to be the same, or nearly so.
    theirs
        Whether the error may be HyperSpy's or the reader's own, whatever its type.
    """

    outcome: str
    words: str = ""
    unread: bool = False
    like: str = "good"
    exact: bool = True
    theirs: bool = False


def refused(words: str, *, unread: bool = False, theirs: bool = False) -> Rule:
    return Rule("refused", words, unread=unread, theirs=theirs)


def same(like: str = "good", *, exact: bool = True) -> Rule:
    return Rule("same", like=like, exact=exact)


def finished(note: str = "") -> Rule:
    return Rule("finished", note)


def either(words: str = "") -> Rule:
    return Rule("either", words)


@dataclass(frozen=True)
class Kind:
    """A kind of input: how to make it of a good one, and what is right.

    Attributes
    ----------
    make
        Takes a good signal, which it may change, and returns the input.
    options
        Changed options of the call, or a function of the method's name that gives them.
    lazy
        True or False where only a lazy signal or one in memory can be of this kind.
    methods
        That it is tried on.
    """

    group: str
    name: str
    make: Callable[[Any], Any]
    ptycho: Rule
    cluster: Rule
    options: Any = field(default_factory=dict)
    lazy: bool | None = None
    methods: tuple[str, ...] = METHODS

    def rule(self, method: str) -> Rule:
        return self.cluster if method == "cluster_hierarchical" else self.ptycho

    def laziness(self) -> tuple[bool, ...]:
        return (False, True) if self.lazy is None else (self.lazy,)


@dataclass(frozen=True)
class Verdict:
    """What a cell got, and what is wrong with that."""

    kind: Kind
    method: str
    lazy: bool
    got: str
    complaints: tuple[str, ...]

    def __str__(self) -> str:
        where = f"{self.kind.group}: {self.kind.name} × {self.method}{' (lazy)' * self.lazy}"
        return f"{where}: {'; '.join(self.complaints)}. It got: {self.got}"


# --- good inputs ------------------------------------------------------------------------------

_goods: dict[bool, Any] = {}


def good(method: str, name: str = "good"):
    """A small scan that suits the method, counts below 128 in it; a new signal at every call."""
    clustered = method == "cluster_hierarchical"
    if clustered not in _goods:
        if clustered:
            signal = ws2_wse2_junction(scan_shape=(12, 16), detector_shape=(36, 44), electrons=300)
        else:
            signal = twisted_bilayer_mos2(
                scan_shape=(6, 7), detector_shape=(32, 40), defocus=120, dose=1.2e4
            )
        signal.data = np.minimum(signal.data, 120).astype(np.uint16)
        _goods[clustered] = signal
    signal = _goods[clustered].deepcopy()
    if name == "bits":
        signal.data = (signal.data > 1).astype(np.uint8)
    elif name != "good":
        raise ValueError(name)
    return signal


_references: dict[tuple[str, str], dict[str, np.ndarray]] = {}


def reference(method: str, name: str) -> dict[str, np.ndarray]:
    """Numbers of the good input's result."""
    if (method, name) not in _references:
        result = getattr(good(method, name), method)(**OPTIONS[method])
        _references[method, name] = numbers(result)
    return _references[method, name]


def numbers(result) -> dict[str, np.ndarray]:
    """All numbers of a result that depend on the patterns."""
    if hasattr(result, "probe"):
        found = {"object": result.data, "probe": result.probe.data, "positions": result.positions}
        if result.metadata.has_item("Ptychography.tuning"):
            found["objectives"] = np.array([t["objective"] for t in result.trials], float)
        return found
    return {"labels": result.data, "mean patterns": result.mean_patterns.data}


# a signal that is no real Signal2D has no such method, and says so with an AttributeError
_CAUGHT = ValueError | TypeError | MemoryError | OSError | AttributeError

# --- the judge --------------------------------------------------------------------------------


class Watched:
    """An array that counts how often it was read; dask takes it for one on disk."""

    def __init__(self, array: np.ndarray):
        self._array, self.reads = array, 0
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key):
        self.reads += 1
        return self._array[key]


def judge(kind: Kind, method: str, lazy: bool, folder: Path) -> Verdict:
    """Run one cell of the matrix.

    Parameters
    ----------
    kind, method, lazy
        The cell.
    folder
        Empty one, the working directory of the call.
    """
    rule = kind.rule(method)
    signal = good(method)
    options = kind.options(method) if callable(kind.options) else kind.options
    options = {**OPTIONS[method], **options}
    watched = None
    try:
        signal = kind.make(signal)
        if lazy and not signal._lazy:
            if isinstance(signal.data, np.ndarray) and signal.data.ndim == 4 and signal.data.size:
                watched = Watched(signal.data)
                chunks = tuple(max(1, -(-n // 2)) for n in signal.data.shape)
                signal.data = da.from_array(watched, chunks=chunks)
            signal = signal.as_lazy()
    except Exception as error:
        return Verdict(kind, method, lazy, f"HyperSpy cannot make it: {_short(error)}", ())
    lazy = bool(signal._lazy)
    before = _state(signal)
    here = set(os.listdir(folder))
    figures, opened = _figures(), _opened(folder)
    if watched is not None:
        watched.reads = 0
    error = result = None
    with _working(folder), _counted() as started, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module=r"hs_autoptycho")
        try:
            result = getattr(signal, method)(**options)
        except Exception as raised:
            error = raised
        complaints = []
        if error is not None:
            reads = 0 if watched is None else watched.reads
            complaints += _check_error(error, rule, started, reads, lazy)
            got = f"{type(error).__name__}: {error}"
        else:
            try:
                complaints += _check_result(result, rule, method, signal)
                got = _described(result)
            except Exception as raised:
                got = _short(raised)
                complaints.append("the result cannot be read")
    if _state(signal) != before:
        complaints.append("the input was changed")
    if _figures() != figures:
        complaints.append("a figure was left")
    if set(os.listdir(folder)) != here:
        complaints.append(f"files were left: {set(os.listdir(folder)) - here}")
    error = None  # its traceback holds on to the frames and what they have open
    if _opened(folder) != opened:
        complaints.append("a file was left open")
    return Verdict(kind, method, lazy, got, tuple(complaints))


def _check_error(error, rule: Rule, started: list[str], reads: int, lazy: bool) -> list[str]:
    complaints = []
    text = str(error)
    if rule.outcome not in ("refused", "either"):
        complaints.append(f"should have {rule.outcome}")
    if rule.words and not re.search(rule.words, text):
        complaints.append(f"the message does not name it ({rule.words})")
    if started:
        complaints.append(f"{started[0]} had begun")
    if rule.unread and lazy and reads:
        complaints.append(f"the patterns had been read ({reads} blocks)")
    if rule.theirs:
        return complaints
    if not isinstance(error, _CAUGHT):
        complaints.append("the error has no type that one would catch")
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not last.filename.startswith(PACKAGE):
        complaints.append(
            f"it was not this package that noticed, but {last.filename}:{last.lineno}"
        )
    if len(text.split()) < 5:
        complaints.append("the message is no sentence")
    return complaints


def _check_result(result, rule: Rule, method: str, signal) -> list[str]:
    if rule.outcome == "refused":
        return ["should have been refused"]
    complaints = []
    shape = signal.axes_manager.navigation_shape[::-1]
    found = numbers(result)
    if method == "cluster_hierarchical":
        labels = result.leaf_labels
        if labels.shape != shape or result.sizes.sum() != (labels >= 0).sum():
            complaints.append("the labels do not fit the scan")
        if result.status != "completed":
            complaints.append(f"its status is {result.status}")
    else:
        if result.scan_shape != shape or len(result.positions) != np.prod(shape):
            complaints.append("the positions do not fit the scan")
        if result.status not in ("completed", "stopped"):
            complaints.append(f"its status is {result.status}")
    for name, values in found.items():
        if not np.isfinite(values).all():
            complaints.append(f"its {name} are not finite")
    if (
        rule.outcome == "finished"
        and rule.words
        and not any(re.search(rule.words, note) for note in result.notes)
    ):
        complaints.append(f"no note says so ({rule.words}): {result.notes}")
    if rule.outcome == "same":
        wanted = reference(method, rule.like)
        for name, values in wanted.items():
            got = found[name]
            alike = np.array_equal(got, values) if rule.exact else _close(got, values)
            if not alike:
                complaints.append(f"its {name} are not those of the good input")
    return complaints


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-3 * np.abs(b).max())


def _described(result) -> str:
    notes = " ".join(result.notes)
    what = f"{result.n_clusters} clusters" if hasattr(result, "n_clusters") else "an object"
    return f"a result, {what}. {notes}"


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


@contextlib.contextmanager
def _counted() -> Iterator[list[str]]:
    """Names of the expensive functions that were entered."""
    entered: list[str] = []

    def wrapped(function, name):
        def count(*args, **kwargs):
            entered.append(name)
            return function(*args, **kwargs)

        return count

    places = (
        (Experiment, "fit", "a reconstruction"),
        (hs_autoptycho._tuning, "estimate", "the measurement of the geometry"),
        (pipeline, "grow", "the growth of the tree"),
    )
    with contextlib.ExitStack() as stack:
        for place, attribute, name in places:
            new = wrapped(getattr(place, attribute), name)
            stack.enter_context(mock.patch.object(place, attribute, new))
        yield entered


@contextlib.contextmanager
def _working(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _state(signal) -> list[Any]:
    """All of a signal: data, axes, metadata, type."""
    data = signal.data
    if isinstance(data, da.Array):
        content: Any = (data.name, data.chunks, str(data.dtype))
    elif data.dtype.hasobject:
        content = repr(data)
    else:
        digest = hashlib.sha256(np.ascontiguousarray(data).view(np.uint8).data).hexdigest()
        content = (id(data), data.shape, data.strides, str(data.dtype), digest)
    axes = [
        {k: repr(v) for k, v in axis.get_axis_dictionary().items()}
        for axis in signal.axes_manager._axes
    ]
    metadata = (repr(signal.metadata.as_dictionary()), repr(signal.original_metadata))
    return [type(signal), content, axes, metadata]


def _figures() -> list[int]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else pyplot.get_fignums()


def _opened(folder: Path) -> list[str]:
    """Files below a folder that this process has open; none where the system does not tell."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            name = os.readlink(entry)
            if name.startswith(str(folder)):
                found.append(name)
    return sorted(found)
