"""The section ``inputs`` of reliability.py: the whole matrix of bad inputs.

The matrix is that of ``tests/robustness``, of which the tests run a share: kinds of input ×
methods, lazily and not. A process of its own runs the cells. Where one takes longer than
`PATIENCE`, it is stopped with the lines it hung at, and the cell counts as hung; one at which the
process ends otherwise counts as crashed. A new process goes on with the next cell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from reporting import machine, say, table, versions

DESCRIPTION = "bad inputs tried on the three methods, and what each got"
TESTS = Path(__file__).resolve().parents[1] / "tests" / "robustness"
# seconds for a cell; the first ones compile
PATIENCE = 300
OUTCOMES = ("refused", "a result", "no signal", "wrong", "hung", "crashed")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", action="append", help="only these groups of kinds")
    parser.add_argument("--method", action="append", help="only these methods")
    parser.add_argument("--cells", action="store_true", help="a line for every kind")
    parser.add_argument("--from-cell", type=int, default=None, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables; returns how many cells got what they should not."""
    if arguments.from_cell is not None:
        _work(arguments)
        return 0
    start = time.perf_counter()
    found = list(_cells_of_workers(arguments))
    say(f"{machine()}; {versions('hs_autoptycho', 'hyperspy', 'numpy', 'numba')}\n")
    if arguments.cells:
        say(_by_kind(found) + "\n")
    say(_by_group(found) + "\n")
    wrong = [cell for cell in found if cell["outcome"] in ("wrong", "hung", "crashed")]
    for cell in wrong:
        say(f"- {cell['group']}: {cell['name']} × {cell['method']}: {cell['what']}")
    say(f"{len(found)} bad inputs in {time.perf_counter() - start:.0f} s, {len(wrong)} got wrong.")
    return len(wrong)


def _by_group(found) -> str:
    counts: dict[str, Counter] = defaultdict(Counter)
    for cell in found:
        counts[cell["group"]][cell["outcome"]] += 1
        counts["all"][cell["outcome"]] += 1
    order = [*dict.fromkeys(cell["group"] for cell in found), "all"]
    rows = [
        [name, sum(counts[name].values()), *(counts[name][outcome] for outcome in OUTCOMES)]
        for name in order
    ]
    return table(["inputs", "tried", *OUTCOMES], rows)


def _by_kind(found) -> str:
    """What each kind got, lazily and not, by method."""
    methods = list(dict.fromkeys(cell["method"] for cell in found))
    got: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in found:
        short = cell["what"].replace("|", "/").replace("\n", " ")[:90]
        if short not in got[cell["group"], cell["name"]][cell["method"]]:
            got[cell["group"], cell["name"]][cell["method"]].append(short)
    rows = [
        [f"{group}: {name}".replace("|", "/"), *("; ".join(by[m]) for m in methods)]
        for (group, name), by in got.items()
    ]
    return table(["input", *methods], rows)


# --- the process that runs the cells, and the one that watches it -----------------------------


def _chosen(arguments) -> Iterator[tuple]:
    """Cells by their numbers."""
    import bad_files
    import bad_options
    import bad_signals

    groups = {**bad_signals.GROUPS, **bad_options.GROUPS, **bad_files.GROUPS}
    for name in arguments.group or groups:
        if name not in groups:
            raise SystemExit(f"There is no group {name!r}: {', '.join(groups)}.")
        for kind in groups[name]():
            for method, lazy in itertools.product(kind.methods, kind.laziness()):
                if not arguments.method or method in arguments.method:
                    yield kind, method, lazy


def _work(arguments) -> None:
    """Run the cells from a number on, a line of JSON each before and after."""
    import faulthandler
    import logging

    import hyperspy.api as hs

    hs.preferences.General.show_progressbar = False
    logging.disable(logging.CRITICAL)
    sys.path.append(str(TESTS))
    cells = itertools.islice(_chosen(arguments), arguments.from_cell, None)
    import bad_files
    from judging import judge

    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, method, lazy) in enumerate(cells, start=arguments.from_cell):
            cell = {"number": number, "group": kind.group, "name": kind.name, "lazy": lazy}
            cell["method"] = method
            say(json.dumps(cell))
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            verdict = judge(kind, method, lazy, Path(folder))
            faulthandler.cancel_dump_traceback_later()
            bad_files.clean()
            if verdict.complaints:
                outcome, what = "wrong", f"{'; '.join(verdict.complaints)}. {verdict.got}"
            elif verdict.got.startswith("HyperSpy cannot"):
                outcome, what = "no signal", verdict.got
            elif verdict.got.startswith("a result"):
                outcome, what = "a result", verdict.got
            else:
                outcome, what = "refused", verdict.got
            say(json.dumps({**cell, "outcome": outcome, "what": what}))


def _cells_of_workers(arguments) -> Iterator[dict]:
    command = [sys.executable, str(Path(__file__).with_name("reliability.py")), "inputs"]
    for option in ("group", "method"):
        for value in getattr(arguments, option) or ():
            command += [f"--{option}", value]
    environment = {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    first = 0
    while True:
        begun = None
        with tempfile.TemporaryFile("w+") as said:
            worker = subprocess.Popen(
                [*command, "--from-cell", str(first)],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**os.environ, **environment},
            )
            for line in worker.stdout:
                cell = json.loads(line)
                if "outcome" in cell:
                    begun = None
                    yield cell
                else:
                    begun, first = cell, cell["number"] + 1
            worker.wait()
            said.seek(0)
            last = said.read()[-300:]
        if begun is None:
            if worker.returncode:
                raise SystemExit(f"The process of the cells ended early: {last}")
            return
        outcome = "hung" if "Timeout" in last else "crashed"
        yield {**begun, "outcome": outcome, "what": last}
