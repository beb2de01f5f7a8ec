"""Mutation testing of `calibration`, `tuning` and `clustering`: do the tests notice a wrong line?

    pip install -e ".[tests]" cosmic-ray
    python benchmarks/mutation.py [--sample 60] [--seed 0] [--part PART] [--file NAME] [--all]

changes one place of a copy of the package at a time (an operator, a comparison, a condition, a
number, a loop, ...), runs the tests that reach it until one fails, and prints how many mutants were
killed, with the share's 95 % interval, and those that survived. It goes on where it was stopped;
``--again`` tries the survivors once more, with the tests as they are now.

* cosmic-ray makes the mutants; `mutation_mutants.py` says which of them, and what is left out by
  rule. ``mutation_equivalent.txt`` has those that change nothing, with the reason: they do not
  count.
* `code_coverage.py` measures once, in the copy, which tests reach which line (``--measure`` with
  test files measures these again). A mutant gets at most 40 s of tests, the fastest of the file
  that is named after it first; what more tests would kill counts as survived.
* Every mutant runs in a process of its own, forked from one that has imported what does not
  change. A mutant that hangs is killed after a time and counts as killed, as one that crashes
  does. Kernels are compiled anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from mutation_mutants import KERNELS, PARTS, change, mutants, mutated  # noqa: E402
from mutation_tests import TestsByLine  # noqa: E402
from reporting import say, table  # noqa: E402

OUTPUT = Path(__file__).parent / "output" / "mutation"
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.txt")
# no part of the package that is mutated may be among these, nor what imports one
PRELOADED = (
    "hyperspy.api",
    "skopt",
    "sklearn.cluster",
    "scipy.optimize",
    "hypothesis",
    "dask.array",
)
MEMORY = 12 * 2**30


def copy(to: Path) -> None:
    """A copy of the working tree, with the kernels that are compiled already."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    kernels = [
        path.relative_to(REPOSITORY) for path in REPOSITORY.glob("hs_autoptycho/**/*.nb[ic]")
    ]
    for name in [*filter(None, names.stdout.split("\0")), *kernels]:
        if (REPOSITORY / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, to / name)


def measure(root: Path, folder: Path, tests: list[str]) -> None:
    """Which tests reach which line, in the copy."""
    shutil.copytree(REPOSITORY / "tests", root / "tests", dirs_exist_ok=True)
    command = [sys.executable, "benchmarks/code_coverage.py", "--output", str(folder)]
    more = ["--cov-append"] if tests else []
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with open(folder / "log.txt", "w") as log:
        subprocess.run([*command, *more, *tests], cwd=root, env=environment, stdout=log)


@contextlib.contextmanager
def written(path: Path, changed: str):
    """The changed text in place of a file, which `restore` would bring back."""
    shutil.copy2(path, path.with_suffix(".original"))
    try:
        path.write_text(changed)
        # another time than the original's, or its compiled form would be taken
        os.utime(path, (0, random.randrange(10**9)))
        yield
    finally:
        path.with_suffix(".original").replace(path)


def restore(root: Path) -> None:
    """Undo the mutation that a run left behind which was killed."""
    for path in root.glob("hs_autoptycho/**/*.original"):
        path.replace(path.with_suffix(".py"))


@contextlib.contextmanager
def kernels_hidden(path: Path):
    """Nothing is compiled yet of a file's kernels; what is there comes back unchanged."""
    folder, pattern = path.parent / "__pycache__", f"{path.stem}.*.nb[ic]"
    with tempfile.TemporaryDirectory(dir=folder) as hidden:
        for kernel in folder.glob(pattern):
            shutil.move(kernel, hidden)
        try:
            yield
        finally:
            for kernel in folder.glob(pattern):
                kernel.unlink()
            for kernel in Path(hidden).iterdir():
                shutil.move(kernel, folder)


def keep_kernels(path: Path) -> None:
    """Let numba take the kernels of a changed file as they are compiled: no kernel was changed."""
    from numba.core.caching import _SourceFileBackedLocatorMixin as Locator

    stamp, original = Locator.get_source_stamp, path.with_suffix(".original")

    def stamp_of_original(self):
        if self._py_file != str(path):
            return stamp(self)
        self._py_file = str(original)
        try:
            return stamp(self)
        finally:
            self._py_file = str(path)

    Locator.get_source_stamp = stamp_of_original


def run_tests(path: Path, kernel: bool, names: list[str], limit: float, log: Path) -> str:
    """``survived``, ``killed``, ``killed by time`` or ``error``: the tests in a forked process."""
    process = os.fork()
    if process == 0:
        _in_the_fork(path, kernel, names, log)
    end, done = time.monotonic() + limit, False
    try:
        while not done and time.monotonic() < end:
            time.sleep(0.02)
            done, status = os.waitpid(process, os.WNOHANG)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # itself, and processes that it left running
        if not done:
            os.waitpid(process, 0)
    if not done:
        return "killed by time"
    if os.WIFSIGNALED(status):
        return "killed"
    text, code = log.read_text(errors="replace"), os.WEXITSTATUS(status)
    # pytest's status 1 is a failed test; files that could not be imported have others
    if code in (1, 2) or "ERROR collecting" in text or "while loading conftest" in text:
        return "killed"
    return "survived" if code == 0 else "error"


def _in_the_fork(path, kernel, names, log):
    import resource

    import numba
    import pytest

    code = 99
    try:
        os.setsid()
        with open(log, "w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        if kernel:  # it runs once and need not be fast
            os.environ["NUMBA_OPT"] = "0"
            numba.config.reload_config()
        else:
            keep_kernels(path)

        plugins = [
            option for name in ("xdist", "cacheprovider", "cov") for option in ("-p", "no:" + name)
        ]
        code = int(pytest.main(["-x", "-q", "--tb=line", *plugins, *names]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def try_mutant(root: Path, mutant, tests: TestsByLine, log: Path) -> dict:
    """The mutant's fate, with the test that killed it."""
    path = root / mutant.file
    text = path.read_text()
    changed = mutated(text, mutant)
    result = {"name": mutant.name, "part": mutant.part, "file": mutant.file, "line": mutant.line}
    if changed is None:
        return {**result, "fate": "no mutant"}
    old, new = change(text, changed)
    result |= {"old": old, "new": new}
    if (mutant.file, old, new) in equivalent_mutants():
        return {**result, "fate": "equivalent"}
    names = tests.of(mutant.file, mutant.line)
    if not names:
        return {**result, "fate": "survived", "tests": 0}
    kernel = mutant.part == KERNELS
    limit = 30 + 3 * sum(map(tests.seconds.get, names)) + 300 * kernel
    start = time.monotonic()
    with kernels_hidden(path) if kernel else contextlib.nullcontext(), written(path, changed):
        fate = run_tests(path, kernel, names, limit, log)
    lines = log.read_text(errors="replace").splitlines()
    by = next((line.split(" ")[1] for line in lines if line.startswith(("FAILED", "ERROR"))), "")
    seconds = round(time.monotonic() - start, 1)
    if fate == "error":
        shutil.copy(log, log.with_name(f"error_{mutant.name.replace('/', '.')}.txt"))
    return {**result, "fate": fate, "by": by, "tests": len(names), "seconds": seconds}


def equivalent_mutants() -> dict[tuple[str, str, str], str]:
    """{(file, line before, line after): reason}."""
    entries = {}
    for block in EQUIVALENT.read_text().split("\n\n") if EQUIVALENT.exists() else ():
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            file, old, new, *reason = (line.strip() for line in lines)
            entries[file, old.removeprefix("- "), new.removeprefix("+ ")] = " ".join(reason)
    return entries


def interval(killed: int, n: int) -> str:
    """Wilson's interval of 95 % of a share."""
    if not n:
        return ""
    z, share = 1.96, killed / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{100 * (middle - half):.0f} to {100 * (middle + half):.0f} %"


def report(found: list, results: list[dict]) -> None:
    """Print the table and the survivors."""
    rows, all_killed, all_counted = [], 0, 0
    for part in (*PARTS, KERNELS):
        fates = [r["fate"] for r in results if r["part"] == part]
        killed = sum(fate.startswith("killed") for fate in fates)
        survived, same = fates.count("survived"), fates.count("equivalent")
        n = killed + survived
        places = sum(mutant.part == part for mutant in found)
        share = f"{100 * killed / n:.0f} %" if n else ""
        rows.append([part, places, n + same, same, killed, survived, share, interval(killed, n)])
        all_killed, all_counted = all_killed + killed, all_counted + n
    head = ["part", "mutants", "sampled", "equivalent", "killed", "survived", "share", "95 %"]
    say(table(head, rows))
    say(f"\nOf all sampled: {all_killed} of {all_counted}, {interval(all_killed, all_counted)}.\n")
    for result in results:
        if result["fate"] in ("survived", "error"):
            place = f"{result['file']}:{result['line']}"
            say(f"{result['fate']} {place} ({result['tests']} tests)")
            say(f"    - {result['old']}\n    + {result['new']}")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=60, help="mutants a part (%(default)s)")
    parser.add_argument("--all", action="store_true", help="all mutants, which takes days")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (%(default)s)")
    parser.add_argument("--part", nargs="+", choices=[*PARTS, KERNELS], default=[*PARTS, KERNELS])
    parser.add_argument("--file", nargs="+", default=[], help="of files so named")
    parser.add_argument("--again", action="store_true", help="try survivors once more")
    parser.add_argument("--report", action="store_true", help="run nothing, print what there is")
    parser.add_argument("--measure", nargs="+", default=[], help="test files to measure again")
    parser.add_argument("--work", type=Path, default=OUTPUT, help="(%(default)s)")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    work = arguments.work.resolve()
    root, folder, kept = work / "copy", work / "coverage", work / "results.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if not root.exists():
        copy(root)
    restore(root)
    if arguments.measure or not (folder / "tests.json").exists():
        measure(root, folder, arguments.measure)
    shutil.copytree(REPOSITORY / "tests", root / "tests", dirs_exist_ok=True)
    known = {}
    if kept.exists():
        known = {r["name"]: r for r in map(json.loads, kept.read_text().splitlines())}

    found = mutants(root)
    drawn = []
    for part in arguments.part:
        those = [m for m in found if m.part == part]
        if arguments.file:
            those = [m for m in those if Path(m.file).name in arguments.file]
        random.Random(f"{arguments.seed} {part}").shuffle(those)
        drawn += those if arguments.all else those[: arguments.sample]
    again = ("survived", "error") if arguments.again else ()
    todo = [m for m in drawn if m.name not in known or known[m.name]["fate"] in again]
    if todo and not arguments.report:
        known |= try_all(root, todo, TestsByLine(root, folder), kept)
    report(found, [known[m.name] for m in drawn if m.name in known])


def try_all(root, todo, tests, kept: Path) -> dict:
    """{name: result}, each written to the file as soon as it is known."""
    import importlib

    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1", MPLBACKEND="Agg")
    os.chdir(root)
    sys.path[:] = [str(root), *(p for p in sys.path if Path(p).name != "benchmarks")]
    for name in PRELOADED:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if name.startswith(tuple(f"hs_autoptycho.{part}" for part in PARTS)):
            raise SystemExit(f"{name} is imported before it is mutated, from {module.__file__}")
    results = {}
    with open(kept, "a") as stream:
        for i, mutant in enumerate(todo):
            result = try_mutant(root, mutant, tests, kept.with_name("log.txt"))
            results[mutant.name] = result
            stream.write(json.dumps(result) + "\n")
            stream.flush()
            say(f"{i + 1}/{len(todo)} {result['fate']} {mutant.name} {result.get('by', '')}")
    return results


if __name__ == "__main__":
    main()
