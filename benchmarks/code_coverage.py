"""Which lines and branches of the package the tests run, and which test runs which line.

    pip install -e ".[tests]"
    python benchmarks/code_coverage.py [--output FOLDER] [pytest's options and tests]

runs the tests, those marked slow left out as always, and prints a table by file with the lines and
branches that none of them runs; ``docs/coverage.rst`` has the reasons. ``--report`` prints it of
the run before. What is measured stands in pyproject.toml: functions that numba compiles are left
out, for compiled code cannot be traced.

Written to the folder: ``.coverage``, in which every line has the names of the tests that run it,
and ``tests.json`` with the outcome and the duration of each test. `mutation.py` uses both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

from reporting import say, table

OUTPUT = Path(__file__).parent / "output" / "coverage"


class Durations:
    """A plugin of pytest which notes how each test ended and how long it took."""

    def __init__(self, path: Path, before: dict[str, dict]):
        self.path = path
        self.tests = before

    def pytest_runtest_logreport(self, report):
        if report.when == "setup":
            self.tests[report.nodeid] = {"outcome": "passed", "seconds": 0.0}
        test = self.tests[report.nodeid]
        test["seconds"] = round(test["seconds"] + report.duration, 4)
        if report.outcome != "passed":
            test["outcome"] = report.outcome

    def pytest_sessionfinish(self):
        self.path.write_text(json.dumps(self.tests, indent=0))


def measure(folder: Path, options: list[str]) -> int:
    """Run the tests; pytest's exit status."""
    import pytest

    folder.mkdir(parents=True, exist_ok=True)
    os.environ["COVERAGE_FILE"] = str(folder / ".coverage")
    kept = folder / "tests.json"
    more = "--cov-append" in options and kept.exists()
    before = json.loads(kept.read_text()) if more else {}
    arguments = ["--cov=hs_autoptycho", "--cov-context=test", "--cov-report=", "-q"]
    return int(pytest.main(arguments + options, plugins=[Durations(kept, before)]))


def ranges(numbers: list[int]) -> str:
    """``1-3, 7`` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def report(folder: Path) -> None:
    """Print the table of what is not covered, by file."""
    import coverage

    measured = coverage.Coverage(data_file=folder / ".coverage")
    measured.load()
    target = folder / "coverage.json"
    measured.json_report(outfile=str(target), pretty_print=False)
    result = json.loads(target.read_text())
    folders: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    rows = []
    for name, file in sorted(result["files"].items()):
        counts = [
            file["summary"][key]
            for key in ("num_statements", "covered_lines", "num_branches", "covered_branches")
        ]
        part = "/".join(Path(name).parts[:-1][:2])
        for key in (part, "all"):
            folders[key] = [a + b for a, b in zip(folders[key], counts, strict=True)]
        missing = file["missing_lines"]
        # a branch out of or into a line that is not run itself says nothing new
        branches = [
            f"{a}→{'exit' if b < 0 else b}"
            for a, b in file["missing_branches"]
            if a not in missing and b not in missing
        ]
        if missing or branches:
            rows.append([name.removeprefix("hs_autoptycho/"), ranges(missing), ", ".join(branches)])
    head = ["folder", "lines", "run", "share", "branches", "taken", "share"]
    say(
        table(
            head,
            (
                [key, n, run, f"{run / max(n, 1):.1%}", b, taken, f"{taken / max(b, 1):.1%}"]
                for key, (n, run, b, taken) in sorted(folders.items())
            ),
        )
    )
    say("")
    say(table(["file", "lines not run", "branches not taken"], rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help="print the run before")
    arguments, options = parser.parse_known_args()
    status = 0
    if not arguments.report:
        status = measure(arguments.output.resolve(), options)
    report(arguments.output.resolve())
    return status


if __name__ == "__main__":
    sys.exit(main())
