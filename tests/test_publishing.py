"""What is published: archives with all files and no others, of the tag's version; their citation.

The archives are built from a copy of the checkout, with a tag of its own, by the setuptools that
is installed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("these tests are not beside their project", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAME = PROJECT["project"]["name"]
VERSION = "9.8.7"

# the two steps of `python -m build`: an archive of the sources, and from that alone the wheel
BUILD = """
import os, sys, tarfile
from setuptools import build_meta

checkout, out = sys.argv[1:]
os.chdir(checkout)
sources = build_meta.build_sdist(out)
unpacked = os.path.join(out, "unpacked")
with tarfile.open(os.path.join(out, sources)) as archive:
    archive.extractall(unpacked, filter="data")
os.chdir(os.path.join(unpacked, sources.removesuffix(".tar.gz")))
build_meta.build_wheel(out)
"""

# in an interpreter that sees the wheel's files before any other installation
TRY = """
import contextlib, importlib.metadata, io, json

import hyperspy.api as hs
from hyperspy.extensions import ALL_EXTENSIONS

report = {"methods": [n for n in sys.argv[1:] if callable(getattr(hs.signals.Signal2D, n, None))]}
with contextlib.redirect_stdout(io.StringIO()) as table:
    hs.print_known_signal_types()
report["signal types"] = table.getvalue()
report["classes"] = [n for n, e in ALL_EXTENSIONS["signals"].items() if "autoptycho" in e["module"]]

import hs_autoptycho

report["file"] = hs_autoptycho.__file__
report["version"] = hs_autoptycho.__version__
(script,) = importlib.metadata.entry_points(group="console_scripts", name="hs-autoptycho")
with contextlib.redirect_stdout(io.StringIO()) as text:
    report["code"] = script.load()(["--help"])
report["help"] = text.getvalue()
print(json.dumps(report))
"""


def git(*words: str, folder: Path) -> str:
    """What a git command says that knows nothing of this machine's settings."""
    settings = ["user.name=nobody", "user.email=nobody@example.org", "safe.directory=*"]
    settings = [word for setting in settings for word in ("-c", setting)]
    nothing = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    # a hook of git runs tests with variables that would lead to its own repository
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", *settings, *words],
        cwd=folder,
        env=kept | nothing,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Files of the checkout that belong to the project."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout, or git is not installed")
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT)
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


@pytest.fixture(scope="module")
def archives(files, tmp_path_factory) -> tuple[Path, Path]:
    """Archive of the sources, and wheel."""
    for package, wanted in (("setuptools", 77), ("setuptools-scm", 8)):
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            found = "0"
        if int(found.split(".")[0]) < wanted:
            pytest.skip(f"{package} {wanted} or later is not installed")
    checkout = tmp_path_factory.mktemp("checkout")
    for name in files:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    git("init", "--quiet", "--template=", folder=checkout)
    git("add", "--all", "--force", folder=checkout)
    git("commit", "--quiet", "--message=all", folder=checkout)
    git("tag", f"v{VERSION}", folder=checkout)
    out = tmp_path_factory.mktemp("archives")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "SETUPTOOLS_"))}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(checkout), str(out)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (sources,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sources, wheel


# ---------------------------------------------------------------------------------- the archives


def test_version_is_the_tags(archives):
    sources, wheel = archives
    assert sources.name == f"{NAME}-{VERSION}.tar.gz"
    assert wheel.name == f"{NAME}-{VERSION}-py3-none-any.whl"


def test_wheel_holds_the_files_of_the_package_and_no_others(archives, files):
    with zipfile.ZipFile(archives[1]) as wheel:
        held = set(wheel.namelist())
    own = {name for name in held if not name.startswith(f"{NAME}-{VERSION}.dist-info/")}
    assert own == {name for name in files if name.startswith(f"{NAME}/")}
    suffixes = {Path(name).suffix for name in own}
    assert suffixes == {".py", ".pyi", ".yaml", ".npz"}  # no caches of Python or numba


def test_sources_hold_the_files_of_the_project_and_no_others(archives, files):
    with tarfile.open(archives[0]) as sources:
        members = [member for member in sources.getmembers() if member.isfile()]
    held = {member.name.partition("/")[2] for member in members}
    added = {name for name in held - set(files) if not name.startswith(f"{NAME}.egg-info/")}
    assert added == {"PKG-INFO", "setup.cfg"}
    assert set(files) <= held
    large = [m.name for m in members if m.size > 2_000_000]
    assert not large, f"These are too large for an archive of sources: {large}"


def test_metadata_of_the_wheel(archives):
    info = f"{NAME}-{VERSION}.dist-info"
    with zipfile.ZipFile(archives[1]) as wheel:
        told = message_from_string(wheel.read(f"{info}/METADATA").decode("utf-8"))
        licence = wheel.read(f"{info}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    project = PROJECT["project"]
    assert told["License-Expression"] == project["license"] == "GPL-3.0-or-later"
    assert told["Summary"] == project["description"]
    assert told["Requires-Python"] == project["requires-python"]
    assert set(told.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert told.get_payload().lstrip().startswith(f"# {NAME}")  # the README


def test_wheel_works_where_it_is_installed(archives, tmp_path):
    """A wheel without compiled code is installed by unpacking it."""
    from hs_autoptycho._registration import METHOD_NAMES

    with zipfile.ZipFile(archives[1]) as wheel:
        wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    start = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", start + TRY, *METHOD_NAMES],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert Path(report["file"]).is_relative_to(tmp_path / "site")
    assert report["version"] == VERSION
    assert report["methods"] == list(METHOD_NAMES)
    registered = yaml.safe_load((ROOT / NAME / "hyperspy_extension.yaml").read_text())["signals"]
    assert set(report["classes"]) == set(registered)
    for name in ("PtychographicObject", "HierarchicalClusters", "StrainMap", "ExperimentDesign"):
        assert name in report["signal types"]
    assert report["code"] == 0
    assert all(word in report["help"] for word in ("reconstruct", "autotune", "cluster"))


# --------------------------------------------------------------- what is said about the package


def test_citation_agrees_with_the_project():
    citation = yaml.safe_load((ROOT / "docs/CITATION.cff").read_text(encoding="utf-8"))
    project = PROJECT["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["message"]
    assert citation["title"] == project["name"]
    assert citation["abstract"] == project["description"]
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in project["authors"]]
    # a release adds both, and the changes that it brings (docs/contributing.rst)
    assert ("version" in citation) == ("date-released" in citation)
    if "version" in citation:
        changes = (ROOT / "docs/changes.rst").read_text(encoding="utf-8")
        assert f"{citation['version']} ({citation['date-released']})" in changes


def test_papers_to_cite_are_those_of_the_page():
    citation = yaml.safe_load((ROOT / "docs/CITATION.cff").read_text(encoding="utf-8"))
    page = (ROOT / "docs/citation.rst").read_text(encoding="utf-8")
    for paper in citation["references"]:
        assert re.fullmatch(r"10\.\d{4,5}/\S+", paper["doi"])
        assert f"https://doi.org/{paper['doi']}" in page
        assert all(paper[key] for key in ("type", "title", "authors", "journal", "year"))


def test_entry_for_the_list_of_extensions():
    text = (ROOT / "docs/hyperspy_extension_entry.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \|$", text, re.MULTILINE)
    # the table's columns, and the one row
    assert rows[0] == ("Package name", "Brief description")
    ((package, description),) = rows[1:]
    assert re.fullmatch(rf"\[{NAME}\]\(\S+\)", package)
    assert PROJECT["project"]["description"].startswith(description)
    assert len(description) < 90  # as the longest there
    assert re.findall(r"^    (\S+)$", text, re.MULTILINE) == [NAME]


def test_news_fragments_have_a_type_that_is_published():
    """towncrier passes over the others without a word."""
    types = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    fragments = ROOT / PROJECT["tool"]["towncrier"]["directory"]
    names = [path.name for path in fragments.glob("*.rst") if path.name != "README.rst"]
    unknown = [name for name in names if name.split(".")[1] not in types]
    assert not unknown, f"{unknown}: the type has to be one of {sorted(types)}"
    table = (fragments / "README.rst").read_text(encoding="utf-8")
    assert all(re.search(rf"^{kind} +\w", table, re.MULTILINE) for kind in types)
