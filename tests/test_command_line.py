"""The command line: the methods' results in files, exit codes, messages."""

import functools
import importlib
import inspect
import logging
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import hyperspy.api as hs
import numpy as np
import pytest

from hs_autoptycho import _command_line, _command_options, _running
from hs_autoptycho._command_line import main
from hs_autoptycho._command_options import COMMANDS, parse
from hs_autoptycho.data import twisted_bilayer_mos2, ws2_wse2_junction
from hs_autoptycho.ptycho.parameters import PARAMETERS
from hs_autoptycho.signals import HierarchicalClusters, PtychographicObject

pytestmark = pytest.mark.usefixtures("one_thread")

KNOWN = ["--defocus", "120", "--scan-rotation", "12"]
TRUE = {"defocus": 120.0, "scan_rotation": 12.0}
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "scan.v2 [1].hspy"
    twisted_bilayer_mos2(scan_shape=(9, 11), detector_shape=(48, 64), **TRUE).save(path)
    return path


@pytest.fixture(scope="module")
def junction_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "junction.zspy"
    ws2_wse2_junction(scan_shape=(18, 26), detector_shape=(60, 68), electrons=1000).save(path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(path, **options):
    return hs.load(path, escape_square_brackets=True, **options)


def run(*words):
    return main([str(word) for word in words])


def interrupt_at(monkeypatch, count):
    """Have the batch system send SIGTERM at an update of a progress bar."""
    made = _running.progressbar

    def progressbar(total, description, show):
        bar = made(total, description, show)
        update = bar.update

        def counted(n=1):
            counted.calls += 1
            if counted.calls == count:
                signal.raise_signal(signal.SIGTERM)
            return update(n)

        counted.calls = 0
        bar.update = counted
        return bar

    monkeypatch.setattr(_running, "progressbar", progressbar)


# --- each command -------------------------------------------------------------------------------


def test_reconstruct(scan_file, folder, capsys):
    assert run("reconstruct", scan_file, *KNOWN, "--n_iterations=3", "--random-state", 4) == 0
    path, picture = Path("scan.v2 [1]_object.hspy"), Path("scan.v2 [1]_object.png")
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(path), str(picture)]
    assert "completed. Error " in said.err and "Traceback" not in said.err
    assert picture.read_bytes().startswith(PNG)
    assert sorted(folder.iterdir()) == [folder / path, folder / picture]

    got = load(path)
    expected = load(scan_file).reconstruct_ptycho(**TRUE, n_iterations=3, random_state=4)
    assert type(got) is PtychographicObject
    assert np.array_equal(got.data, expected.data)
    assert np.array_equal(got.probe.data, expected.probe.data)
    for name in ("parameters", "seed", "status", "fingerprint", "notes"):
        assert getattr(got, name) == getattr(expected, name)
    assert got.metadata.General.title == expected.metadata.General.title


def test_masks_and_counts_from_files(scan_file, folder):
    mask = np.ones((48, 64), bool)
    mask[5, 7:20] = False
    np.save("mask.npy", mask)
    hs.signals.Signal2D(np.full((48, 64), 0.125)).save("dark.hspy")
    options = ["--detector-mask", "mask.npy", "--background=dark.hspy", "--n-iterations", 2]
    options += ["--disk-center", "23.5,31.5", "--no-picture", "--no-lazy"]
    assert run("reconstruct", scan_file, *KNOWN, *options, "--out", "results/new") == 0
    assert [path.name for path in (folder / "results" / "new").iterdir()] == [
        "scan.v2 [1]_object.hspy"
    ]
    got = load("results/new/scan.v2 [1]_object.hspy")
    expected = load(scan_file).reconstruct_ptycho(
        **TRUE,
        n_iterations=2,
        detector_mask=mask,
        background=np.full((48, 64), 0.125),
        disk_center=(23.5, 31.5),
    )
    assert np.array_equal(got.data, expected.data)


def test_autotune(scan_file, folder, capsys):
    words = ["--tune", "defocus=60:180", "--tune=scan-rotation=-20:40", "--fixed", "C30=1e4"]
    words += ["--n-trials", 4, "--n-trial-iterations", 2, "--n-iterations", 2, "--strategy", "full"]
    assert run("autotune", scan_file, *words, "--study", "s.jsonl", "--out", "best.zspy") == 0
    said = capsys.readouterr()
    assert said.out.split() == ["best.zspy", "best.png"]
    got = load("best.zspy")
    expected = load(scan_file).autotune_ptycho(
        {"defocus": (60, 180), "scan_rotation": (-20, 40)},
        fixed={"C30": 1e4},
        n_trials=4,
        n_trial_iterations=2,
        n_iterations=2,
        strategy="full",
    )
    assert f"defocus = {got.best_parameters['defocus']:.6g} Å" in said.err
    assert np.array_equal(got.data, expected.data)
    assert got.best_parameters == expected.best_parameters
    assert [t["objective"] for t in got.trials] == [t["objective"] for t in expected.trials]
    assert got.parameters["C30"] == 1e4
    assert len(Path("s.jsonl").read_text().splitlines()) == 5


def test_cluster(junction_file, folder, capsys):
    words = [
        "--max-clusters",
        3,
        "--spatial_smoothing",
        "1.5",
        "--num-workers",
        1,
        "--mask",
        "0.4,2",
    ]
    assert run("cluster", junction_file, *words, "--quiet") == 0
    said = capsys.readouterr()
    assert said.out.split() == ["junction_clusters.hspy", "junction_clusters.png"]
    assert said.err == ""
    got = load("junction_clusters.hspy")
    expected = load(junction_file).cluster_hierarchical(
        max_clusters=3, spatial_smoothing=1.5, num_workers=1, mask=(0.4, 2)
    )
    assert type(got) is HierarchicalClusters
    assert got.n_clusters > 1 and np.array_equal(got.data, expected.data)
    assert got.settings == expected.settings


def test_a_scheduler_in_the_network(junction_file, folder, capsys):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster:
        address = cluster.scheduler_address
        words = ["--max-clusters", 2, "--no-picture", "--scheduler", address]
        assert run("cluster", junction_file, *words) == 0
    assert load("junction_clusters.hspy").n_clusters == 2


def test_no_scheduler(junction_file, folder, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed")
    asked = []

    def client(**where):
        asked.append(where)
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", client)
    Path("there.json").write_text("{}")
    assert run("autotune", junction_file, "--scheduler", "tcp://nowhere:1") == 2
    assert "No scheduler answers at tcp://nowhere:1: timed out" in capsys.readouterr().err
    assert run("autotune", junction_file, "--scheduler", "there.json") == 2
    assert asked == [{"address": "tcp://nowhere:1"}, {"scheduler_file": "there.json"}]


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_with_its_unit(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    assert run(command, "--help") == 0
    told = re.sub(r"\n {20,}", "  ", capsys.readouterr().out)  # below a long name
    lines = [line.strip() for line in told.splitlines()]
    others = {"parameters": "--tune ", "client": "--scheduler ", "show_progressbar": "--quiet "}
    for name in inspect.signature(COMMANDS[command].method).parameters:
        if name in ("self", "unknown", "callback"):
            continue
        option = others.get(name, f"--{name.replace('_', '-')} ")
        line = next(line for line in lines if line.startswith(option))
        assert len(line.split()) > 3, line  # there is an explanation
        assert "``" not in line and ":meth:" not in line
        if command == "reconstruct" and name in PARAMETERS:
            assert PARAMETERS[name].unit in line


def test_every_parameter_by_either_name():
    for name, parameter in PARAMETERS.items():
        value = parameter.choices[-1] if parameter.kind == "choice" else parameter.high
        word, expected = str(value), {name: parameter.check(value)}
        for option in (f"--{name}", f"--{name.replace('_', '-')}"):
            assert parse(["reconstruct", "f", option, word])[1] == expected
            assert parse(["reconstruct", f"{option}={word}", "f"])[1] == expected


@pytest.mark.parametrize("word, value", [("-12.5", -12.5), ("-1e2", -100.0), ("-.5", -0.5)])
def test_negative_numbers(word, value):
    args, options = parse(["reconstruct", "--scan_rotation", word, "f"])
    assert options == {"scan_rotation": value} and args.file == Path("f")


def test_what_is_tuned():
    words = ["defocus=-100:500", "C30", "n-probe-modes=1,2,4", "thickness=2e1:300:log"]
    words += ["detector_flip=none,transpose", "scan_step=0.5"]
    _, options = parse(["autotune", "f", *(w for word in words for w in ("--tune", word))])
    assert options["parameters"] == {
        "defocus": (-100, 500),
        "C30": None,
        "n_probe_modes": [1, 2, 4],
        "thickness": (20.0, 300, "log"),
        "detector_flip": ["none", "transpose"],
        "scan_step": 0.5,
    }
    assert parse(["autotune", "f"])[1] == {}
    _, options = parse(
        ["autotune", "f", "--fixed", "disk-center=3,4.5", "--fixed", "aperture=disk"]
    )
    assert options == {"fixed": {"disk_center": (3, 4.5), "aperture": "disk"}}


# --- what cannot be used ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, told",
    [
        ("", "required: COMMAND"),
        ("tune SCAN", "invalid choice: 'tune'"),
        ("reconstruct", "required: FILE"),
        ("reconstruct SCAN SCAN", "one word too many"),
        ("reconstruct SCAN --defocuss 3", "did you mean --defocus?"),
        ("reconstruct SCAN --defocus abc", "'abc' is not a number in Å"),
        ("reconstruct SCAN --n-slices 2.5", "is not a whole number"),
        ("reconstruct SCAN --beam-energy 2", "out of range: 10 to 3000 keV"),
        ("reconstruct SCAN --n-iterations few", "'few' is not a whole number"),
        ("reconstruct SCAN --n-iterations 0 --defocus 3", "n_iterations=0"),
        ("reconstruct SCAN --disk-radius 1,2", "'1,2' is not a number"),
        ("reconstruct SCAN --disk-center 12", "is not two numbers"),
        ("reconstruct SCAN --detector-mask gone.npy", "There is no file gone.npy"),
        ("reconstruct SCAN --background BAD", "cannot be read"),
        ("reconstruct SCAN --n-slices 4 --defocus 3", "thickness"),
        ("reconstruct gone.hspy", "There is no file gone.hspy"),
        ("reconstruct BAD", "cannot be read"),
        ("reconstruct SCAN --load lazy", "write NAME=VALUE"),
        ("reconstruct SCAN --out result.tif", "give such a name, or a folder"),
        ("reconstruct SCAN --out BAD/results", "cannot be made"),
        ("autotune SCAN --defocus 300", "--fixed defocus=VALUE"),
        ("autotune SCAN --tune defocus=500:100", "the lower limit has to come first"),
        ("autotune SCAN --tune defocus=1:5:lin", "NAME=LOW:HIGH:log"),
        ("autotune SCAN --tune defocus=a:b", "NAME=LOW:HIGH"),
        ("autotune SCAN --tune defocs", "did you mean 'defocus'"),
        ("autotune SCAN --tune beam_energy=80:90", "cannot be tuned"),
        ("autotune SCAN --tune defocus --tune defocus=1:3", "--tune defocus is given twice"),
        ("autotune SCAN --tune defocus --fixed defocus=1", "both in `parameters` and in `fixed`"),
        ("autotune SCAN --fixed defocus", "write NAME=VALUE"),
        ("autotune SCAN --fixed C31=3", "there is no parameter 'C31'"),
        ("autotune SCAN --fixed beam_energy=2", "out of range: 10 to 3000 keV"),
        ("autotune SCAN --strategy best", "strategy"),
        ("autotune SCAN --study none/s.jsonl --n-trials 1 --fixed defocus=120", "folder"),
        ("cluster SCAN --max-clusters 0", "max_clusters=0"),
        ("cluster SCAN --mask 3,1", "0 <= inner < outer"),
        ("cluster SCAN --features all", "features='all'"),
    ],
)  # fmt: skip
def test_bad_usage_ends_with_2_and_a_sentence(words, told, scan_file, folder, capsys):
    Path("bad.hspy").write_text("not HDF5")
    names = {"SCAN": str(scan_file), "BAD": "bad.hspy", "BAD/results": "bad.hspy/results"}
    assert run(*(names.get(word, word) for word in words.split())) == 2
    said = capsys.readouterr()
    assert told in said.err and "Traceback" not in said.err and said.out == ""
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("hs-autoptycho: ") and len(last) > 30
    assert not list(folder.glob("*_*.hspy"))


def test_unknown_defocus(folder, capsys):
    scan = hs.signals.Signal2D(np.ones((3, 4, 8, 10)))
    scan.save("plain.hspy")
    assert run("reconstruct", "plain.hspy", "--defocus", 3) == 2
    error = capsys.readouterr().err
    assert "scan_step is missing" in error and "beam_energy is missing" in error


def test_no_scan(folder, capsys):
    hs.signals.Signal2D(np.ones((3, 4, 8))).save("stack.hspy")
    for command in (["reconstruct", "--defocus", 3], ["autotune"], ["cluster"]):
        assert run(*command, "stack.hspy") == 2
        assert "two navigation" in capsys.readouterr().err.replace("2 navigation", "two navigation")


def test_the_scan_among_several_signals(scan_file, folder, capsys, monkeypatch):
    image, scan = hs.signals.Signal2D(np.ones((3, 4))), load(scan_file)
    words = ["reconstruct", scan_file, *KNOWN, "--n-iterations", 1, "--no-picture"]
    monkeypatch.setattr(hs, "load", lambda *_, **__: [image, scan])
    assert run(*words) == 0
    monkeypatch.setattr(hs, "load", lambda *_, **__: [scan, scan])
    assert run(*words, "--overwrite") == 2
    assert "holds 2 signals, 2 of them with four dimensions" in capsys.readouterr().err


def test_options_of_the_reader(scan_file, folder, monkeypatch):
    heard = {}

    def reader(path, **options):
        heard.update(options, path=path)
        raise NotImplementedError

    monkeypatch.setattr(hs, "load", reader)
    words = ["--load", "navigation_shape=9,11", "--load", "file_format=EMD", "--load", "mmap=false"]
    assert run("cluster", scan_file, *words) == 2
    assert heard == {
        "path": scan_file,
        "lazy": True,
        "escape_square_brackets": True,
        "navigation_shape": (9, 11),
        "file_format": "EMD",
        "mmap": False,
    }


@pytest.mark.parametrize("name", ["r.hspy", "r.zspy"])
def test_a_result_is_replaced_only_when_asked(name, scan_file, folder, capsys):
    words = ["reconstruct", scan_file, *KNOWN, "--out", name, "--no-picture", "--n-iterations"]
    assert run(*words, 1) == 0
    before = load(name).data
    assert run(*words, 2) == 2
    assert f"{name} exists already" in capsys.readouterr().err
    assert np.array_equal(load(name).data, before)
    assert run(*words, 2, "--overwrite") == 0
    assert len(load(name).history.data) == 2
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_picture_is_not_replaced_either(scan_file, folder, capsys):
    Path("r.png").write_text("mine")
    assert run("reconstruct", scan_file, *KNOWN, "--out", "r.hspy") == 2
    assert "r.png exists already" in capsys.readouterr().err
    assert Path("r.png").read_text() == "mine"


def test_the_scan_is_never_replaced(scan_file, folder, capsys):
    before = scan_file.read_bytes()
    assert run("reconstruct", scan_file, *KNOWN, "--out", scan_file, "--overwrite") == 2
    assert "is the scan itself" in capsys.readouterr().err
    assert scan_file.read_bytes() == before


# --- what fails, and what is interrupted --------------------------------------------------------


@pytest.mark.parametrize(
    "error, code",
    [(RuntimeError, 1), (np.linalg.LinAlgError, 1), (MemoryError, 1), (ValueError, 2)],
)
def test_failures(error, code, scan_file, folder, capsys, monkeypatch):
    command = COMMANDS["cluster"]

    @functools.wraps(command.method)
    def fail(*_, **__):
        raise error("it broke")

    broken = _command_options.Command(fail, command.ending, command.picture, command.summary)
    monkeypatch.setitem(COMMANDS, "cluster", broken)
    assert run("cluster", scan_file) == code
    said = capsys.readouterr().err
    assert "it broke" in said and "Traceback" not in said
    assert ("--debug" in said) == (error is not ValueError)
    assert run("cluster", scan_file, "--debug") == code
    assert "Traceback" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_divergence_is_saved_and_a_failure(scan_file, folder, capsys):
    words = ["--algorithm", "epie", "--step-object", 10, "--step-probe", 10, "--no-picture"]
    assert run("reconstruct", scan_file, *KNOWN, *words) == 1
    assert "diverged" in capsys.readouterr().err
    assert load("scan.v2 [1]_object.hspy").status == "diverged"


def test_a_picture_that_fails_costs_no_result(scan_file, folder, capsys, monkeypatch):
    def fail(_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(PtychographicObject, "plot_summary", fail)
    assert run("reconstruct", scan_file, *KNOWN, "--n-iterations", 1, "--out", "r.hspy") == 1
    assert "The result is in r.hspy, but its picture" in capsys.readouterr().err
    assert load("r.hspy").status == "completed"


def test_an_interrupted_reconstruction_is_saved(scan_file, folder, capsys, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    interrupt_at(monkeypatch, 2)
    assert run("reconstruct", scan_file, *KNOWN, "--n-iterations", 5, "--out", "r.hspy") == 130
    said = capsys.readouterr()
    assert "Interrupted: what there was by then is in r.hspy." in said.err
    assert said.out.split() == ["r.hspy", "r.png"]
    result = load("r.hspy")
    assert result.status == "interrupted" and len(result.history.data) == 2
    assert signal.getsignal(signal.SIGTERM) is handler


def test_interrupted_while_nothing_is_there(scan_file, folder, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(hs, "load", interrupted)
    assert run("cluster", scan_file) == 130
    assert "Interrupted, and no result was written" in capsys.readouterr().err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "error, code", [(OSError(28, "No space left"), 1), (KeyboardInterrupt, 130)]
)
def test_a_result_is_written_whole_or_not_at_all(
    error, code, scan_file, folder, capsys, monkeypatch
):
    def full(self, filename, overwrite):
        Path(filename).write_text("half of")
        raise error

    monkeypatch.setattr(PtychographicObject, "save", full)
    Path("r.hspy").write_text("of yesterday")
    words = ["--n-iterations", 1, "--out", "r.hspy", "--overwrite"]
    assert run("reconstruct", scan_file, *KNOWN, *words) == code
    assert [path.name for path in folder.iterdir()] == ["r.hspy"]
    assert Path("r.hspy").read_text() == "of yesterday"
    assert logging.getLogger("hs_autoptycho").handlers == []


# --- as it is installed -------------------------------------------------------------------------


def test_the_entry_point_is_there():
    project = Path(__file__).parents[1] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["hs-autoptycho"].partition(":")
    assert getattr(importlib.import_module(module), name) is _command_line.main


def test_in_a_process_of_its_own():
    command = [sys.executable, "-m", "hs_autoptycho", "reconstruct", "gone.zspy"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr == "hs-autoptycho: There is no file gone.zspy.\n"


def test_importing_the_package_does_not_import_the_command_line():
    code = "import sys, hs_autoptycho; sys.exit('hs_autoptycho._command_line' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
