"""The engine against others: seconds a pass, memory, and seconds to a given correlation.

    python benchmarks/engine_scans.py FOLDER
    python benchmarks/engine.py --data FOLDER --json FILE.jsonl --peers \\
        py4DSTEM=PYTHON PtyRAD=PYTHON quantem=PYTHON pty-chi=PYTHON

with the Python interpreter of an environment for each peer. Every engine reconstructs the same
simulated scans with the same noise, from the true probe or its exactly known aberrations, a pass
over all positions at a time (benchmarks/peers has a small driver for each). After each pass the
clock is stopped and the phase compared with the truth.

Runs have one of two purposes. "time" takes a few passes, in turns: the floor of Fourier transforms,
this package, each peer, and from the beginning again; the fastest pass of all of them counts.
"curve" is a long run for the correlation, of which the seconds do not matter: seconds to a
correlation are the passes of the curve times the seconds a pass.

Every run ends in a line of the JSON file. A run that crashes, is killed or takes too long leaves a
line that says so, with the passes that it did. With --resume, runs that are in the file are not
done again; with --fresh-times besides, only the curves are kept, with --retry all but those that
failed. --report-only makes tables and plot of a file that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engine_report import draw, write_report
from reporting import machine, say

HERE = Path(__file__).parent
OURS = "hs_autoptycho"
PURPOSES = "time", "curve"
DRIVERS = {
    OURS: "run_hs_autoptycho.py",
    "py4DSTEM": "run_py4dstem.py",
    "PtyRAD": "run_ptyrad.py",
    "quantem": "run_quantem.py",
    "pty-chi": "run_ptychi.py",
}
# what may be waited for beyond the time limit: imports, preprocessing, scoring, and one more pass
GRACE = 600
TAIL = 300  # characters of a crashed run's last words


@dataclass(frozen=True)
class Case:
    """What is reconstructed, and in how many passes at most."""

    scan: str = "main_df300"
    dose: float = 1e5
    modes: int = 1
    slices: int = 1
    corrections: bool = False
    passes: int = 20


# those that are timed
MODELS = {
    "1 mode": Case(),
    "4 modes": Case(modes=4, passes=10),
    "10 slices": Case(slices=10, passes=12),
    "1 mode, positions corrected": Case(corrections=True, passes=10),
}
# those whose correlation alone is of interest; the others have 300 Å and 1e5 e/Å²
SCANS = {
    "dose 1e6": Case(dose=1e6),
    "dose 1e4": Case(dose=1e4),
    "defocus 100": Case(scan="main_df100"),
    "defocus 550": Case(scan="main_df550"),
}
CASES = MODELS | SCANS


@dataclass(frozen=True)
class Run:
    """One line of the file."""

    purpose: str  # "floor", "time" or "curve"
    peer: str
    case: Case
    passes: int
    threads: int
    round: int = 0

    @property
    def key(self) -> tuple:
        """What tells it from other runs; a curve is the same on any number of threads."""
        fixed = self.purpose, self.peer
        if self.purpose == "floor":
            return *fixed, self.threads, self.round
        case = self.case
        fixed += case.scan, case.dose, case.modes, case.slices, case.corrections
        return fixed if self.purpose == "curve" else (*fixed, self.threads, self.round)


def key_of(record: dict) -> tuple:
    """The key of the run that left a record."""
    names = {field: record[field] for field in Case.__dataclass_fields__ if field in record}
    case = Case(**names | {"passes": 0})
    run = Run(record["purpose"], record["peer"], case, 0, record["threads"], record.get("round", 0))
    return run.key


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of engine_scans.py")
    parser.add_argument("--json", type=Path, required=True, help="lines of all runs")
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--purposes", nargs="+", choices=["time", "curve"], default=["time", "curve"]
    )
    parser.add_argument("--passes", type=int, help="of a curve, where the case has more")
    parser.add_argument("--time-limit", type=float, default=600, help="seconds of passes of a run")
    parser.add_argument("--rounds", type=int, default=2, help="of the timed runs")
    parser.add_argument("--timed-passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--fresh-times", action="store_true")
    parser.add_argument("--retry", action="store_true")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--out", type=Path, help="reStructuredText to write the tables into")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    arguments = parser.parse_args()
    if arguments.report_only:
        records = read(arguments.json)
    else:
        if arguments.data is None:
            parser.error("--data is needed, the folder that engine_scans.py has filled")
        if arguments.json.exists() and not arguments.resume:
            parser.error(f"{arguments.json} is there: go on with --resume, or name another file")
        records = run_all(arguments, interpreters(parser, arguments.peers))
    report = write_report(records, MODELS, SCANS, arguments.out)
    say("\n" + report)
    if arguments.plot:
        draw(records, MODELS, arguments.plot)
    return 0


def interpreters(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, str]:
    """Python interpreter of every engine, ours first."""
    found = {OURS: sys.executable}
    for item in given:
        name, _, python = item.partition("=")
        if name not in DRIVERS or not python:
            parser.error(f"--peers {item}: NAME is one of {', '.join(DRIVERS)}, then =PYTHON")
        found[name] = python
    return found


def read(file: Path) -> list[dict]:
    """Records of a file; a last line that was cut off is passed over."""
    records = []
    for line in file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            say(f"{file}: a line that is no JSON is passed over")
    return records


def run_all(arguments: argparse.Namespace, pythons: dict[str, str]) -> list[dict]:
    """Do all runs that are not in the file, and append them to it."""
    file: Path = arguments.json
    records = read(file) if file.exists() else []
    if arguments.fresh_times:
        records = [record for record in records if record["purpose"] == "curve"]
    if arguments.retry:
        records = [record for record in records if "failed" not in record]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    for run in plan(arguments, list(pythons)):
        if run.key in {key_of(record) for record in records}:
            continue
        record = do(run, pythons[run.peer], arguments)
        records.append(record)
        with file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        say(summary(record))
    return records


def plan(arguments: argparse.Namespace, peers: list[str]) -> Iterator[Run]:
    """All runs in their order: what is timed in turns, then the curves."""
    threads = arguments.threads
    cases = {name: CASES[name] for name in arguments.only}
    timed = [case for name, case in cases.items() if name in MODELS]
    if "time" in arguments.purposes:
        for round_ in range(arguments.rounds):
            for case in timed:
                few = arguments.timed_passes
                yield Run("floor", OURS, case, 0, threads, round_)
                for peer in peers:
                    yield Run("time", peer, case, few, threads, round_)
                for other in {1, threads} - {threads}:
                    yield Run("time", OURS, case, few, other, round_)
    if "curve" in arguments.purposes:
        for case in cases.values():
            passes = min(case.passes, arguments.passes or case.passes)
            for peer in peers:
                yield Run("curve", peer, case, passes, threads)


def do(run: Run, python: str, arguments: argparse.Namespace) -> dict:
    """Start a run in a process of its own and wait for its record."""
    if run.purpose == "floor":
        command = [python, str(HERE / "engine_floor.py"), "--threads", str(run.threads)]
    else:
        command = [python, str(HERE / "peers" / DRIVERS[run.peer])]
        command += ["--data", str(arguments.data), "--time-limit", str(arguments.time_limit)]
        command += ["--threads", str(run.threads), "--passes", str(run.passes)]
        for name in ("scan", "dose", "modes", "slices"):
            command += [f"--{name}", str(getattr(run.case, name))]
        command += ["--corrections"] * run.case.corrections
    names = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"
    # no peer is to find an accelerator: the comparison is of processors
    surroundings = os.environ | {name: str(run.threads) for name in names}
    surroundings |= {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
    failed = None
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=surroundings,
            timeout=arguments.time_limit + GRACE,
        )
        output = ended.stdout
        if ended.returncode:
            failed = reason(ended.returncode, ended.stderr)
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if error.stdout else ""
        failed = "ended by the time limit"
    asked = asdict(run.case) | {"peer": run.peer, "threads": run.threads}
    record = asked | last_record(output) | {"purpose": run.purpose, "round": run.round}
    record |= {"asked_passes": run.passes, "machine": machine()}
    record["when"] = time.strftime("%Y-%m-%d %H:%M")
    return record | ({"failed": failed} if failed else {})


def last_record(output: str) -> dict:
    """The last whole line of JSON of a driver; others print what they like around it."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return {}


def reason(status: int, errors: str) -> str:
    """Why a run ended, in a few words."""
    if status == -9:
        return "killed, most likely as memory ran out"
    if status < 0:
        return f"ended by signal {-status}"
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1][-TAIL:] if lines else f"ended with status {status}"


def summary(record: dict) -> str:
    """A line for whoever watches."""
    if record["purpose"] == "floor":
        found = {name: record.get(name) for name in ("fftw", "scipy", "kernel", "failed")}
        return "floor: " + ", ".join(f"{name} {value}" for name, value in found.items() if value)
    parts = [record["purpose"], record["peer"], record["scan"], f"{record['dose']:.0e} e/Å²"]
    parts += [f"{record['modes']} modes, {record['slices']} slices"]
    parts += ["corrections"] * record["corrections"] + [f"{record['threads']} threads"]
    seconds, correlations = record.get("seconds", []), record.get("correlations", [])
    if seconds:
        steps = [b - a for a, b in zip([0, *seconds[:-1]], seconds, strict=True)]
        parts.append(f"{len(steps)} passes, fastest {min(steps):.3f} s")
        parts.append(f"correlation {correlations[-1]:.4f}, best {max(correlations):.4f}")
        parts.append(f"{record['memory_peak']:.2f} GB")
    return ", ".join(parts + [record[name] for name in ("failed",) if name in record])


if __name__ == "__main__":
    sys.exit(main())
