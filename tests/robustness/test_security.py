"""Nothing that a file holds is executed, and a file that was tampered with says what is wrong."""

import ast
import json
import os
import pickle
from pathlib import Path

import hyperspy.api as hs
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho import load_study
from hs_autoptycho.calibration import CalibrationError
from hs_autoptycho.tuning.study_file import StudyError, make_line

PACKAGE = Path(hs_autoptycho.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# --- what the package does not use ------------------------------------------------------------

# modules that run what they are given, or give it to a shell
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess",
           "code", "codeop", "runpy", "pty", "xmlrpc", "xml", "ctypes"}  # fmt: skip
# functions that do, by their names as they are called
CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint", "literal_eval"}
METHODS = {("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"),
           ("yaml", "full_load"), ("pandas", "eval"), ("pd", "eval"), ("sympy", "sympify"),
           ("pandas", "read_pickle"), ("tempfile", "mktemp"), ("np", "fromregex")}  # fmt: skip
STARTS = ("exec", "spawn")  # of functions in os


def forbidden(source: str) -> list[str]:
    """What of the above a program uses, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node, a.name) for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if (node.module or "").split(".")[0] in MODULES:
                found.append((node, node.module))
            names = {(node.module, a.name) for a in node.names}
            found += [(node, ".".join(n)) for n in names & METHODS]
        elif isinstance(node, ast.Name) and node.id in CALLS:
            found.append((node, node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, name = node.value.id, node.attr
            risky = (module, name) in METHODS or (module == "os" and name.startswith(STARTS))
            # parse_units() reads a unit; Quantity("...") and registry("...") evaluate an expression
            if risky or name in ("literal_eval", "parse_expression"):
                found.append((node, f"{module}.{name}"))
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                found.append((node.value, node.arg))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load":
            of_numpy = getattr(getattr(node.func, "value", None), "id", "") in ("np", "numpy")
            if of_numpy and not any(k.arg == "allow_pickle" for k in node.keywords):
                found.append((node, "np.load without allow_pickle=False"))
    return [f"line {node.lineno}: {name}" for node, name in found]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_source_executes_what_it_is_given(path):
    assert forbidden(path.read_text(encoding="utf-8")) == []


def test_the_search_finds_what_it_looks_for():
    for line in (
        "import pickle",
        "from cloudpickle import loads",
        "eval('1')",
        "os.system('ls')",
        "exec(text)",
        "x = __import__('os')",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "os.execv('a', [])",
        "run(c, shell=True)",
        "import subprocess as s",
        "from os import system",
        "ast.literal_eval(x)",
        "import xml.etree.ElementTree",
    ):
        assert forbidden(line), line
    for line in (
        "np.load(f, allow_pickle=False)",
        "yaml.safe_load(f)",
        "json.loads(f)",
        "re.compile('a')",
        "x.execute()",
        "from . import code",
    ):
        assert not forbidden(line), line
    assert len(SOURCES) > 100


# --- something that would leave a trace -------------------------------------------------------


class Bomb:
    """What is unpickled makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def trace(tmp_path):
    """A folder that is made by whatever is executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "what the file held was executed"


def codes(trace) -> list:
    """Texts and bytes that make the folder, for all ways of executing them."""
    command = f"__import__('os').mkdir({str(trace)!r})"
    pickled = pickle.dumps(Bomb(trace))
    return [
        command,
        f"!!python/object/apply:os.mkdir [{str(trace)!r}]",
        f"$(mkdir {trace})",
        f"{{{{{command}}}}}",
        np.frombuffer(pickled, np.uint8),
        pickled.decode("latin1").replace("\0", ""),
    ]


def test_the_bomb_is_one(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "made")))
    eval(codes(tmp_path / "too")[0])
    assert (tmp_path / "made").is_dir() and (tmp_path / "too").is_dir()


# --- results ----------------------------------------------------------------------------------


def saved_object():
    from hs_autoptycho.data import twisted_bilayer_mos2

    signal = twisted_bilayer_mos2(scan_shape=(4, 5), detector_shape=(32, 40), defocus=120)
    return signal.autotune_ptycho(
        {"defocus": (60, 180)}, fixed={"scan_rotation": 12}, strategy="sobol", n_trials=2,
        n_trial_iterations=1, n_iterations=1,
    )  # fmt: skip


def saved_clusters():
    from hs_autoptycho.data import ws2_wse2_junction

    signal = ws2_wse2_junction(scan_shape=(12, 16), detector_shape=(36, 44), electrons=300)
    return signal.cluster_hierarchical(max_clusters=2, spatial_smoothing=1.0)


@pytest.fixture(scope="module")
def results():
    """A result of each class that needs no long run."""
    from hs_autoptycho.signals import StrainMap

    rng = np.random.default_rng(0)
    axes = [{"name": n, "scale": 1.0, "offset": 0.0, "units": "nm"} for n in "yx"]
    shape = (4, 5, 6)
    strain_map = StrainMap.from_strain(
        rng.normal(size=shape), standard_errors=np.ones(shape), scan_axes=axes,
        reasons=np.zeros(shape[1:], int), reason_table=["", "too dark"],
        leaf_labels=np.zeros(shape[1:], int), lattices=[{"g1": [1.0, 0.0]}], misorientations=[],
        cluster_statistics=[], reference={"description": "all", "g1": [1.0, 0.0], "g2": [0.0, 1.0]},
        units="1/nm", settings={"spatial_smoothing": 0},
    )  # fmt: skip
    return {"object": saved_object(), "clusters": saved_clusters(), "strain": strain_map}


ENTRIES = {"object": "Ptychography", "clusters": "Clustering", "strain": "Strain"}
# what a user asks of a result; attributes, and methods without an argument
ASKED = {
    "object": [
        "probe",
        "probe_powers",
        "positions",
        "scan_shape",
        "history",
        "parameters",
        "geometry",
        "fingerprint",
        "trials",
        "best_parameters",
        "parameter_intervals",
        "parameter_importance",
        "tuning_notes",
        "status",
        "seed",
        "versions",
        "notes",
        "crop_to_scan",
        "fourier_magnitude",
        "resolution",
    ],
    "clusters": [
        "tree",
        "n_clusters",
        "n_levels",
        "sizes",
        "settings",
        "mean_patterns",
        "leaf_patterns",
        "difference_patterns",
        "difference_significances",
        "leaves",
        "leaf_labels",
        "virtual_images",
        "status",
        "seed",
        "versions",
        "notes",
    ],
    "strain": [
        "components",
        "standard_errors",
        "reasons",
        "reason_table",
        "leaf_labels",
        "lattices",
        "units",
        "reference",
        "settings",
        "cluster_statistics",
        "misorientations",
    ],
}
# how a clear refusal can be typed: what is missing, and what is damaged
CLEAR = (AttributeError, ValueError, TypeError)


def ask(kind, signal) -> dict[str, Exception]:
    """What a signal answers with an error."""
    errors = {}
    for name in ASKED[kind]:
        try:
            answer = getattr(signal, name)
            if callable(answer) and not isinstance(answer, hs.signals.BaseSignal):
                answer()
        except Exception as error:
            errors[name] = error
    return errors


def entries(kind, signal) -> list[str]:
    return sorted(signal.metadata.get_item(ENTRIES[kind]).as_dictionary())


def named(errors, entry):
    """Every error is clear and names the entry of the metadata."""
    for name, error in errors.items():
        assert isinstance(error, CLEAR), f".{name}: {type(error).__name__}: {error}"
        text = str(error)
        assert entry.removesuffix("_json") in text and "metadata" in text, f".{name}: {text}"


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_whole_result_answers_everything(results, kind):
    assert ask(kind, results[kind]) == {}


# an attribute of all results, or entries that others do without
OPTIONAL = {"virtual_images", "tuning"}


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_that_is_missing_is_named(results, kind):
    for entry in entries(kind, results[kind]):
        signal = results[kind].deepcopy()
        delattr(signal.metadata.get_item(ENTRIES[kind]), entry)
        errors = ask(kind, signal)
        assert errors or entry in OPTIONAL | UNASKED, entry
        for name, error in errors.items():
            assert isinstance(error, AttributeError), f".{name}: {error!r}"
            assert entry in str(error), f".{name}: {error}"


# what no attribute of the list above is made of
UNASKED = {"tuning"}
TEXT = "__import__('os').getcwd()"
WRONG = [TEXT, 3.5, None, {"os": "system"}, [TEXT], np.zeros((2, 3, 4, 5)), "[1, 2]", "{}",
         "[" * 100_000, '{"a": NaN}', "1e999", [[1], [1, 2]], 10**30]  # fmt: skip


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_of_a_wrong_type_is_named(results, kind):
    """Whatever stands in an entry, an answer is one, or an error that names the entry."""
    for entry in entries(kind, results[kind]):
        for value in WRONG:
            signal = results[kind].deepcopy()
            node = signal.metadata.get_item(ENTRIES[kind])
            delattr(node, entry)
            node.set_item(entry, value)
            named(ask(kind, signal), entry)


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
@pytest.mark.parametrize("kind", ENTRIES)
def test_code_in_a_saved_result_is_text(results, kind, extension, trace, tmp_path):
    """What would be code elsewhere is saved, loaded and asked for; none of it is executed."""
    signal = results[kind].deepcopy()
    names = entries(kind, signal)
    for i, entry in enumerate(names):
        node = signal.metadata.get_item(ENTRIES[kind])
        delattr(node, entry)
        node.set_item(entry, codes(trace)[i % 6])
    signal.metadata.set_item("General.remark", codes(trace)[0])
    path = tmp_path / f"result.{extension}"
    signal.save(path)
    for lazy in (False, True):
        loaded = hs.load(path, lazy=lazy)
        errors = ask(kind, loaded)
        assert errors and all(isinstance(error, CLEAR) for error in errors.values())
        repr(loaded), str(loaded.metadata)


def test_a_pickle_in_a_store_is_refused(trace, tmp_path):
    """Zarr unpickles what a store says is pickled; a growing store is not asked to."""
    from hs_autoptycho.inline.store import find_patterns
    from hs_autoptycho.ptycho.loading import DataError

    store = tmp_path / "scan.zarr"
    (store / "data").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    description = {
        "zarr_format": 2, "shape": [1, 1, 2, 2], "chunks": [1, 1, 2, 2], "dtype": "|u1",
        "compressor": None, "fill_value": 0, "order": "C", "filters": [{"id": "pickle"}],
    }  # fmt: skip
    (store / "data" / ".zarray").write_text(json.dumps(description))
    (store / "data" / "0.0.0.0").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(DataError, match="pickle"):
        np.asarray(find_patterns(store)[:])


@pytest.mark.parametrize(
    "method, options",
    [
        ("cluster_hierarchical", {}),
        ("reconstruct_ptycho", {"defocus": 120, "scan_rotation": 12}),
        ("autotune_ptycho", {"n_trials": 2}),
    ],
)
def test_a_pickle_in_a_lazy_signal_is_refused(method, options, trace, tmp_path):
    """HyperSpy opens the file without looking at the patterns; a method comes to read them."""
    from hs_autoptycho.data import twisted_bilayer_mos2

    signal = twisted_bilayer_mos2(scan_shape=(4, 5), detector_shape=(32, 40), defocus=120)
    path = tmp_path / "scan.zspy"
    signal.save(path, chunks=signal.data.shape)
    (stored,) = path.glob("**/data/.zarray")
    description = json.loads(stored.read_text())
    description |= {"compressor": None, "filters": [{"id": "pickle", "protocol": 4}]}
    stored.write_text(json.dumps(description))
    (path / ".zmetadata").unlink()  # where the description is once more
    (stored.parent / "0" / "0" / "0" / "0").write_bytes(pickle.dumps(Bomb(trace)))
    lazy = hs.load(path, lazy=True)
    assert lazy.data.shape == signal.data.shape
    with pytest.raises(Exception, match="[Pp]ickle"):
        getattr(lazy, method)(**options)


# --- studies ----------------------------------------------------------------------------------

HEADER = {"format": "hs_autoptycho study", "version": 1, "objective": "held_out", "versions": {}}
TRIAL = {
    "number": 0, "parameters": {"defocus": 120.0}, "fidelity": {"n_iterations": 3, "part": 1.0,
    "reduction": 1}, "purpose": "search", "seed": 0, "objective": 0.5, "metrics": {"held_out": 0.5},
    "blocks": [0.5], "curve": [[1, 0.6]], "status": "completed", "duration": 0.1, "message": "",
    "attempts": 1,
}  # fmt: skip


def written(path, header, *trials):
    path.write_bytes(make_line(header) + b"".join(
        t if isinstance(t, bytes) else json.dumps(t).encode() + b"\n" for t in trials
    ))  # fmt: skip
    return path


def test_code_in_a_study_is_text(trace, tmp_path):
    command = codes(trace)[0]
    trial = {
        **TRIAL,
        "message": command,
        "purpose": command,
        "parameters": {"detector_flip": command},
    }
    study = load_study(written(tmp_path / "s.jsonl", {**HEADER, "objective": command}, trial))
    assert study.best["message"] == command and command in repr(study)


NUMBERS = ["__import__('os')", True, None, [1], {}, float("nan"), float("inf"), 10**400, -1, 1.5]
ODD = {
    "number": NUMBERS,
    "seed": NUMBERS,
    "attempts": NUMBERS,
    "fidelity": ["x", None, [], {}, {"a": 1}],
    "parameters": ["x", None, [1], {"defocus": [1]}, {"defocus": float("nan")}, {"a": {"b": 1}}],
    "objective": ["x", True, [1], {}, float("nan"), float("inf"), 10**400],
    "metrics": ["x", None, [1], {"a": "x"}, {"a": [1]}, {"a": {}}],
    "blocks": ["xy", None, 3, {"a": 1}, ["x"], [[1]], [True]],
    "curve": ["xy", None, 3, {"a": 1}, [1], [[1]], [["x", 1]], [[1, "x"]], [[1, 2, 3]]],
    "status": ["done", "", None, 3, []],
    "duration": ["x", None, True, [], float("nan")],
    "message": [None, 3, [], {}],
    "purpose": [None, 3, [], {}],
}


@pytest.mark.parametrize("entry", ODD)
def test_an_odd_entry_of_a_study_is_refused(entry, tmp_path):
    path = tmp_path / "s.jsonl"
    values = [{**TRIAL, entry: value} for value in ODD[entry]]
    if entry == "fidelity":
        good = TRIAL["fidelity"]
        values += [{**TRIAL, entry: {**good, name: value}} for name in good
                   for value in ("x", None, True, -1, 0, 10**400, float("nan"))]  # fmt: skip
    for trial in values:
        written(path, HEADER, TRIAL | {"number": 7}, trial)
        with pytest.raises(StudyError, match="Line 3 of .*damaged"):
            load_study(path)


@pytest.mark.parametrize(
    "trial",
    [{"__class__": "os.system"}, {"path": "/etc/passwd"}, {"__dict__": {}}, {"self": 1}],
    ids=str,
)
def test_an_unknown_entry_of_a_study_is_refused(trial, tmp_path):
    path = written(tmp_path / "s.jsonl", HEADER, {**TRIAL, **trial})
    with pytest.raises(StudyError, match="Line 2 of .*damaged"):
        load_study(path)


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000 + b"\n", b'{"a":' * 100_000 + b"\n", b'{"number": ' + b"9" * 10_000 + b"}\n",
     b"\x00" * 10_000 + b"\n", b"\xff\xfe\n", b"null\n", b"[]\n", b"NaN\n"],
    ids=lambda line: str(line[:6]),
)  # fmt: skip
def test_a_line_that_is_no_trial_is_refused(line, tmp_path):
    path = written(tmp_path / "s.jsonl", HEADER, line, TRIAL)
    with pytest.raises(StudyError, match="Line 2 of .*damaged"):
        load_study(path)
    path.write_bytes(line)
    with pytest.raises(StudyError, match="not a study"):
        load_study(path)


@pytest.mark.parametrize(
    "header",
    [{"n_trials": "60"}, {"n_trials": -1}, {"n_trials": None}, {"versions": "1"}, {"versions": []},
     {"version": "1"}, {"version": [1]}, {"format": None}],
    ids=str,
)  # fmt: skip
def test_an_odd_header_of_a_study_is_refused(header, tmp_path):
    path = written(tmp_path / "s.jsonl", {**HEADER, **header}, TRIAL)
    with pytest.raises(StudyError, match="damaged|not a study|version"):
        load_study(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes by name")
def test_a_pipe_is_no_study(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StudyError, match="no ordinary file"):
            load_study(path)


def test_a_geometry_of_a_file_is_checked():
    from hs_autoptycho.calibration import Geometry

    for values in ({"__class__": 1}, {"scan_shape": TEXT}, {}):
        with pytest.raises(CalibrationError):
            Geometry.from_dict(values)
