"""The section ``faults`` of reliability.py: faults in the midst of a search or a method.

Searches run a stand-in for the engine that sleeps (``tests/robustness/faults.py``): everything else
is what `autotune_ptycho` runs. After each fault the search goes on with the same file, and the end
is compared with that of a search that nobody disturbed: a result is lost that was in the file when
the fault came and is not, or not the same, at the end; it is doubled if its number is there twice.
Methods run on a small simulated scan. Faults of workers and schedulers stand in
``reliability_cluster_faults.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reporting import machine, say, table, versions

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "robustness"))
import faults  # noqa: E402
from faults import Child, arm, in_process, lines, results  # noqa: E402

DESCRIPTION = "kills, full disks, lost workers, clocks: what is lost, and what is said"
PARTS = ("search", "methods", "local", "processes")
HEAD = ("fault", "where", "times", "ended before", "lost", "doubled", "right in the end", "said")
N = 12
SPACE = {"scan_rotation": [-20, 40], "defocus": [60, 180]}


@dataclass
class Row:
    """What came of a fault.

    Attributes
    ----------
    before : int
        Trials (or passes) that had ended when it came, all times together.
    right : bool
        Whether the end was as it would have been without the fault, all of the input as it was,
        and nothing left behind.
    """

    fault: str
    where: str
    times: int = 0
    before: int = 0
    lost: int = 0
    doubled: int = 0
    right: bool = True
    said: str = ""

    def cells(self) -> list[str]:
        said = " ".join(self.said.replace("|", "/").split())
        said = re.sub(r"(?<![/\w:])/\S+/", "", said)  # folders
        right = "yes" if self.right else "NO"
        return [
            *(self.fault, self.where, self.times, self.before, self.lost, self.doubled, right),
            said if len(said) <= 230 else f"{said[:229]}…",
        ]

    @property
    def wrong(self) -> bool:
        return bool(self.lost or self.doubled or not self.right or not self.times)

    def judge(self, path: Path, before: dict, wanted: dict, *, alone: bool = True) -> None:
        """Add what is in the file of a search that is complete.

        Where trials ran side by side, one that did not come back before the search ended is
        proposed anew, with other parameters.
        """
        numbers = [json.loads(line)["number"] for line in path.read_bytes().splitlines()[1:]]
        self.doubled += len(numbers) - len(set(numbers))
        after = results(path)
        self.lost += sum(after.get(n) != result for n, result in before.items())
        failed = [n for n, result in after.items() if '"failed"' in result]
        self.right &= set(after) == set(wanted)
        self.right &= not alone or {**after, **{n: wanted[n] for n in failed}} == wanted
        self.times += 1
        self.before += len(before)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--times", type=int, default=4, help="that a fault at random is injected")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; returns how many faults ended as they should not."""
    import reliability_cluster_faults as cluster

    parts = {
        "search": search_faults,
        "methods": method_faults,
        "local": cluster.local_faults,
        "processes": cluster.process_faults,
    }
    # a job in a shell's background ignores it, and one of the faults is sent to this process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start, rows = time.perf_counter(), []
    say(f"{machine()}; {versions('hs_autoptycho', 'numpy', 'distributed')}\n")
    say(table(HEAD, []))
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.part or PARTS:
            path = Path(folder) / part
            path.mkdir()
            for row in parts[part](path, arguments.times):
                rows.append(row)
                say(f"| {' | '.join(map(str, row.cells()))} |")
    wrong = sum(row.wrong for row in rows)
    say(
        f"\n{sum(row.times for row in rows)} faults injected in "
        f"{time.perf_counter() - start:.0f} s, after {sum(row.before for row in rows)} trials or "
        f"passes had ended: {sum(row.lost for row in rows)} results lost, "
        f"{sum(row.doubled for row in rows)} doubled, {wrong} kinds of faults ended wrong."
    )
    return wrong


def undisturbed(folder: Path) -> dict[int, str]:
    """Results of the search without a fault."""
    path = folder / "undisturbed.jsonl"
    if not path.exists():
        in_process(folder, path, N)
    return results(path)


def fresh(folder: Path) -> Path:
    """A new folder in a folder."""
    return Path(tempfile.mkdtemp(dir=folder))


# --- a search in one process ------------------------------------------------------------------


def search_faults(folder: Path, times: int) -> Iterator[Row]:
    """Faults of the process, the disk, the clock, the objective; two processes on one file."""
    wanted, rng = undisturbed(folder), random.Random(1)
    for fault, number in (("kill -9", signal.SIGKILL), ("Ctrl-C", signal.SIGINT)):
        row = Row(fault, "search in a process")
        for _ in range(times):
            _one_signal(row, fresh(folder), number, rng, wanted)
        if not row.said:
            row.said = "(nothing can be said; the same call goes on)"
        yield row
    yield _full_disk(folder, wanted)
    yield _two_processes(folder, wanted)
    row = Row("clock jumps by up to 30 h", "search in a process")
    _clock(row, fresh(folder), wanted, 0.05)
    yield row
    for fault in ("nothing", "nan", "text", "blocks", "status", "raises"):
        row = Row(f"garbage: {fault}", "search in a process")
        _garbage(row, fresh(folder), fault, wanted)
        yield row


def _one_signal(row, folder, number, rng, wanted) -> None:
    study = folder / "study.jsonl"
    with Child("search", folder, "--trials", N, "--seconds", 0.15) as child:
        child.heard("trial")
        time.sleep(rng.uniform(0, 0.15 * (N - 2)))
        child.send(number)
        if number == signal.SIGINT:
            said = child.heard("warning", "ended")
            row.said = said.get("warning", row.said)
        child.process.wait()
    before = results(study)
    in_process(folder, study, N)
    row.judge(study, before, wanted)


def _garbage(row, folder, fault, wanted) -> None:
    study, before = folder / "study.jsonl", {}

    def callback(trial, best):
        if trial.number == 3:
            before.update(results(study))
            arm(folder, fault)

    in_process(folder, study, N, callback=callback)
    row.judge(study, before, wanted)
    row.said = _failures(study)


def _full_disk(folder, wanted) -> Row:
    """A disk of its own that is full: mounted where that is allowed, or else a limit of files."""
    row, path = Row("full disk", "search in a process"), fresh(folder)
    study, disk = path / "study.jsonl", path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=8k none {disk} && ln -s {disk}/study.jsonl {study}"
    keep = f"cp {disk}/study.jsonl {path}/kept.jsonl"
    mounts = ["unshare", "-Urm", "sh", "-c", f'{mount} && "$@"; {keep}', "sh"]
    words, options = ["search", path, "--trials", 40, "--seconds", 0], {"around": mounts}
    try:
        subprocess.run([*mounts[:4], f"{mount}; rm {study}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        words += ["--file-size", 4000]
        options, row.fault = {}, "full disk (a file's limit)"
    with Child(*words, **options) as child:
        row.said = child.heard("ended").get("message", "no error")
        child.process.wait()
    if options:
        study.unlink()
        (path / "kept.jsonl").rename(study)
    row.right = "cannot be written" in row.said
    before = results(study)
    in_process(path, study, 40)
    more = fresh(folder)
    in_process(more, more / "study.jsonl", 40)
    row.judge(study, before, results(more / "study.jsonl"))
    return row


def _two_processes(folder, wanted) -> Row:
    row, path = Row("second process on the file", "search in a process"), fresh(folder)
    with Child("search", path, "--trials", N, "--seconds", 0.3) as child:
        child.heard("trial")
        arm(path, "hangs")
        faults.victim(path, "hangs")
        for _ in range(3):
            with Child("search", path, "--trials", N) as other:
                said = other.heard("ended")
            row.right &= said.get("error") == "StudyError"
            row.said = said.get("message", "not refused")
        before = results(path / "study.jsonl")
        child.send(signal.SIGKILL)
        child.process.wait()
    in_process(path, path / "study.jsonl", N)  # the lock of a dead process holds nobody up
    row.judge(path / "study.jsonl", before, wanted)
    row.times = 3
    return row


def _clock(row, path, wanted, every, *words) -> None:
    from hs_autoptycho import load_study

    start = time.perf_counter()
    with Child("search", path, "--trials", N, "--clock", every, *words) as child:
        try:
            said = child.heard("ended")
        except TimeoutError as error:  # it is killed, and goes on with a clock that does not jump
            said = {"error": f"did not end: {error}"}
    taken = time.perf_counter() - start
    before = results(path / "study.jsonl")
    in_process(path, path / "study.jsonl", N)
    row.judge(path / "study.jsonl", before, wanted, alone=not words)
    durations = [t["duration"] for t in load_study(path / "study.jsonl").trials]
    row.right &= min(durations) >= 0 and max(durations) < taken and not said.get("error")
    took = f"{min(durations):.2f} to {max(durations):.2f} s"
    row.said = f"{said.get('error', '')} (a jump every {every:g} s; trials took {took})"


def _failures(path) -> str:
    from hs_autoptycho import load_study

    return "; ".join(t["message"] for t in load_study(path).trials if t["status"] == "failed")


# --- the three methods ------------------------------------------------------------------------


def method_faults(folder: Path, times: int) -> Iterator[Row]:
    """Signals at random in the three methods, and no room for temporary files."""
    from hs_autoptycho.data import twisted_bilayer_mos2

    twisted_bilayer_mos2(
        scan_shape=(9, 11), detector_shape=(48, 64), defocus=120, scan_rotation=12
    ).save(folder / "scan.hspy")
    untouched, study = faults.digest(folder / "scan.hspy"), folder / "study.jsonl"
    temporary, rng = folder / "temporary", random.Random(2)
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    calls = {
        "reconstruct_ptycho": ("Reconstruct", {"defocus": 120, "n_iterations": 10**5}),
        "autotune_ptycho": (
            "Tune",
            {"parameters": SPACE, "study": str(study), "n_trial_iterations": 2, "n_trials": 999},
        ),
        "cluster_hierarchical": ("Project", {}),
    }

    def begin(child, method, lazy=False):
        bar, options = calls[method]
        child.say(method=method, options={"num_workers": 1, **options}, lazy=lazy)
        child.heard("begun")
        said = {}
        while said.get("bar") != bar:
            said = child.heard("bar", "ended")
            if "ended" in said:
                raise RuntimeError(f"{method} ended before the fault: {said}")
        if bar == "Tune":
            there = said["at"]
            faults.wait_until(lambda: lines(study) > there)
        # a clustering is over in a moment
        time.sleep(rng.uniform(0, 0.03 if bar == "Project" else 1.5))

    def is_clean(row):
        row.right &= faults.digest(folder / "scan.hspy") == untouched
        row.right &= not list(temporary.iterdir())

    with Child("methods", folder, environment=environment) as child:
        child.heard("ready")
        for method in calls:
            row, got = Row("Ctrl-C", method), []
            for _ in range(times):
                begin(child, method)
                ended = lines(study)
                child.send(signal.SIGINT)
                said = child.heard("ended")
                row.right &= child.heard("over")["same"]
                row.times += 1
                got.append(said.get("status") or said["error"])
                row.right &= got[-1] in ("interrupted", "completed", "KeyboardInterrupt")
                if method == "autotune_ptycho":
                    row.before += ended
                    row.lost += max(0, ended - lines(study))
                    row.right &= said.get("trials", lines(study)) == lines(study)
                if method == "reconstruct_ptycho":
                    row.before += said.get("passes", 0)
            is_clean(row)
            row.said = f"({', '.join(sorted(set(got)))})"
            yield row
    for method in calls:
        row = Row("kill -9", method, said="(the study alone remains)")
        for i in range(max(1, times // 2)):
            before = results(study) if study.exists() else {}
            with Child("methods", folder, environment=environment) as child:
                child.heard("ready")
                begin(child, method, lazy=i % 2 == 1)
                child.send(signal.SIGKILL)
                child.process.wait()
            row.times += 1
            row.before += len(before)
            row.lost += not before.items() <= results(study).items()
        is_clean(row)
        yield row
    yield _no_room(folder, temporary, untouched)


def _no_room(folder, temporary, untouched) -> Row:
    """A lazy scan is read, and results are written, where nothing can be written."""
    row = Row("full disk", "lazy reading, saving")
    out = folder / "result.hspy"
    shutil.copy(folder / "scan.hspy", out)
    call = {"method": "reconstruct_ptycho", "options": {"defocus": 120, "n_iterations": 2}}
    with Child(
        "methods", folder, "--file-size", 1000, environment={"TMPDIR": str(temporary)}
    ) as child:
        child.heard("ready")
        child.say(**call, lazy=True)
        said = child.heard("ended")
        row.right = said.get("status") == "completed"  # nothing temporary is needed
        child.say(**call, lazy=True, save=str(folder / "new.hspy"))
        row.said = f"(read); {child.heard('ended').get('message', 'NO ERROR')}"
        row.right &= "NO ERROR" not in row.said
    row.times = 2
    row.right &= faults.digest(folder / "scan.hspy") == untouched and not list(temporary.iterdir())
    return row
