"""Tables and plot of the runs of the benchmark of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from engine_floor import transforms
from matplotlib import pyplot as plt
from reporting import rst_table

OURS = "hs_autoptycho"
START, END = "..\n   results of benchmarks/engine.py\n", "..\n   end of results\n"
COLORS = {
    OURS: "black",
    "py4DSTEM": "tab:blue",
    "PtyRAD": "tab:orange",
    "quantem": "tab:green",
    "pty-chi": "tab:red",
}
NONE = "–"


@dataclass
class Result:
    """What is known of one engine in one case.

    Attributes
    ----------
    pass_seconds
        Of the fastest timed pass; None if it was not timed.
    correlations
        After every pass, of the curve.
    memory, loaded
        Peak in GB, and what it was before the reconstruction.
    setup
        Seconds before the first pass.
    failed
        Why a run ended early.
    """

    pass_seconds: float | None = None
    correlations: list[float] = field(default_factory=list)
    memory: float | None = None
    loaded: float | None = None
    setup: float | None = None
    failed: str = ""

    @property
    def best(self) -> float:
        return max(self.correlations, default=-np.inf)

    def pass_of(self, correlation: float) -> int | None:
        """The first pass after which the correlation is reached."""
        reached = np.nonzero(np.array(self.correlations) >= correlation)[0]
        return int(reached[0]) + 1 if len(reached) else None

    def seconds_to(self, correlation: float) -> float | None:
        passes = self.pass_of(correlation)
        if passes is None or self.pass_seconds is None:
            return None
        return passes * self.pass_seconds


def pass_seconds(record: dict) -> np.ndarray:
    """Seconds of each pass of a run."""
    return np.diff(record.get("seconds", []), prepend=0.0)


def select(records: list[dict], purpose: str, **wanted) -> list[dict]:
    return [
        record
        for record in records
        if record["purpose"] == purpose
        and all(record.get(name) == value for name, value in wanted.items())
    ]


def fields(case) -> dict:
    """What a record of a case has."""
    names = "scan", "dose", "modes", "slices", "corrections"
    return {name: getattr(case, name) for name in names}


def collect(records: list[dict], case, threads: int) -> dict[str, Result]:
    """Results of a case by engine, ours first."""
    results = {}
    for peer in COLORS:
        timed = select(records, "time", peer=peer, threads=threads, **fields(case))
        curves = select(records, "curve", peer=peer, **fields(case))
        if not timed and not curves:
            continue
        result = results[peer] = Result()
        passes = np.concatenate([pass_seconds(record) for record in timed] or [[]])
        if len(passes):
            result.pass_seconds = float(passes.min())
        # where a run compiled, memory and preparation say how much that took: the least counts
        for name, entry in (
            ("memory", "memory_peak"),
            ("loaded", "memory_loaded"),
            ("setup", "setup_seconds"),
        ):
            known = [record[entry] for record in timed or curves if entry in record]
            setattr(result, name, min(known, default=None))
        if curves:
            result.correlations = curves[-1].get("correlations", [])
        failures = [record["failed"] for record in timed + curves if "failed" in record]
        result.failed = failures[0] if failures else ""
    return results


def write_report(records: list[dict], models: dict, scans: dict, out: Path | None) -> str:
    """All tables as reStructuredText, also written between the marks of the file `out`."""
    threads = max((record["threads"] for record in select(records, "time")), default=2)
    floors = select(records, "floor", threads=threads)
    floor = min((record["floor"] for record in floors if "floor" in record), default=None)
    parts = [floor_text(floors, threads)] if floors else []
    for name, case in models.items():
        results = collect(records, case, threads)
        if results:
            pairs = transforms(case.modes, case.slices)
            unit = floor * pairs if floor else None
            parts += [title(name), model_table(results, unit, pairs), remarks(results)]
    parts += quality_table(records, models, scans, threads)
    parts += scaling_table(records, models, threads)
    parts.append(origin(records))
    report = "\n\n".join(part for part in parts if part)
    if out is not None:
        place(report, out)
    return report


def place(report: str, out: Path) -> None:
    """Write a report into a file, between its marks if it has them."""
    text = out.read_text() if out.exists() else ""
    if START in text and END in text:
        before, rest = text.split(START, 1)
        report = before + START + "\n" + report + "\n\n" + END + rest.split(END, 1)[1]
    out.write_text(report if report.endswith("\n") else report + "\n")


def title(name: str) -> str:
    return f"{name}\n{'~' * len(name)}"


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def ratio(value: float | None, unit: float | None) -> str:
    return NONE if value is None or not unit else f"{value / unit:.1f}"


def floor_text(floors: list[dict], threads: int) -> str:
    """What the transforms alone take."""
    least = {
        name: min((r[name] for r in floors if r.get(name)), default=None)
        for name in ("fftw", "scipy", "kernel")
    }
    return (
        "One forward and one inverse transform of 128 × 128 for each of 4096 positions, "
        f"{threads} threads: FFTW {number(least['fftw'], 3)} s, SciPy {number(least['scipy'], 3)} "
        f"s, this package's own {number(least['kernel'], 3)} s. The floor is the faster of the two "
        "libraries."
    )


def model_table(results: dict[str, Result], floor: float | None, pairs: int) -> str:
    """Speed, memory and correlation of all engines in one case."""
    ours = results.get(OURS, Result())
    equal = min((len(r.correlations) for r in results.values() if r.correlations), default=0)
    aim = peers_best(results)
    rows = []
    for peer, result in results.items():
        after = result.correlations[equal - 1] if equal and result.correlations else None
        best = NONE
        if result.correlations:
            best = f"{result.best:.4f} ({result.pass_of(result.best)} of {len(result.correlations)}"
            best += ")"
        rows.append(
            [
                peer,
                number(result.pass_seconds, 3),
                ratio(result.pass_seconds, floor),
                ratio(result.pass_seconds, ours.pass_seconds),
                f"{number(result.memory)} ({number(result.loaded)})",
                number(result.setup, 1),
                number(after, 4),
                best,
                number(result.seconds_to(aim), 1) if aim is not None else NONE,
            ]
        )
    head = ["engine", "s a pass", "× floor", "× ours", "peak GB (loaded)", "setup s"]
    head += [f"r after {equal}", "best r (pass)"]
    head += [f"s to r = {aim:.4f}" if aim is not None else "s to r"]
    text = rst_table(head, rows)
    if floor:
        text += f"\n\nFloor: {pairs} × one pair of transforms a position, {floor:.3f} s."
    return text + race(results)


def race(results: dict[str, Result]) -> str:
    """Ours and the best peer on the way to the peer's best correlation."""
    aim = peers_best(results)
    ours = results.get(OURS)
    if aim is None or ours is None or ours.pass_seconds is None:
        return ""
    peer = next(name for name, r in results.items() if name != OURS and r.best == aim)
    if not ours.correlations:
        return ""
    if ours.pass_of(aim) is None:
        return f"\n\n{OURS} does not reach the r = {aim:.4f} of {peer}."
    theirs = results[peer]
    text = f"\n\n{OURS} reaches r = {aim:.4f} in pass {ours.pass_of(aim)}, "
    text += f"{peer} in pass {theirs.pass_of(aim)}"
    if theirs.pass_seconds is None:
        return text + "."
    gain = theirs.seconds_to(aim) / ours.seconds_to(aim)
    return text + f" and {gain:.1f} times as many seconds."


def peers_best(results: dict[str, Result]) -> float | None:
    """The best correlation that any peer reaches."""
    best = max((r.best for peer, r in results.items() if peer != OURS), default=-np.inf)
    return best if np.isfinite(best) else None


def remarks(results: dict[str, Result]) -> str:
    """What went wrong."""
    lines = [f"* {peer}: {result.failed}" for peer, result in results.items() if result.failed]
    return "\n".join(lines)


def quality_table(records: list[dict], models: dict, scans: dict, threads: int) -> list[str]:
    """Correlation after the last pass, and the best one, with one mode, for every scan."""
    cases = {"300 Å, 1e5 e/Å²": models["1 mode"]} | scans
    found = {name: collect(records, case, threads) for name, case in cases.items()}
    found = {name: results for name, results in found.items() if results}
    peers = [peer for peer in COLORS if any(peer in results for results in found.values())]
    rows = []
    for peer in peers:
        row = [peer]
        for results in found.values():
            result = results.get(peer, Result())
            last = result.correlations[-1] if result.correlations else None
            row.append(f"{number(last, 4)} ({number(result.best, 4)})")
        rows.append(row)
    if not rows:
        return []
    text = (
        "One mode: correlation after the last pass (the best of all passes). Where the head does "
    )
    text += "not say otherwise, the defocus is 300 Å and the dose 1e5 e/Å²."
    return [title("Defocus and dose"), rst_table(["engine", *found], rows), text]


def scaling_table(records: list[dict], models: dict, threads: int) -> list[str]:
    """Ours on one thread and on more."""
    rows = []
    for name, case in models.items():
        seconds = []
        for count in (1, threads):
            timed = select(records, "time", peer=OURS, threads=count, **fields(case))
            passes = np.concatenate([pass_seconds(record) for record in timed] or [[]])
            seconds.append(float(passes.min()) if len(passes) else None)
        if None not in seconds:
            one, more = seconds
            rows.append([name, f"{one:.3f}", f"{more:.3f}", f"{one / more:.2f}"])
    if not rows:
        return []
    head = ["case", "s a pass, 1 thread", f"{threads} threads", "gain"]
    return [title("Threads"), rst_table(head, rows)]


def origin(records: list[dict]) -> str:
    """Where and when the runs were made, and of which versions."""
    parts = []
    for purpose in ("time", "curve"):
        some = select(records, purpose)
        machines = sorted({record["machine"] for record in some if "machine" in record})
        days = sorted({record["when"][:10] for record in some if "when" in record})
        if machines:
            parts.append(f"{purpose}: {'; '.join(machines)}, {' and '.join(days)}")
    known = {record["peer"]: record["version"] for record in records if "version" in record}
    names = ", ".join(f"{peer} {known[peer]}" for peer in COLORS if peer in known)
    return ". ".join([*parts, names]) + "."


def draw(records: list[dict], models: dict, file: Path) -> None:
    """Correlation against seconds, a panel for each case, a curve for each engine."""
    threads = max((record["threads"] for record in select(records, "time")), default=2)
    panels = {}
    for name, case in models.items():
        results = collect(records, case, threads)
        shown = {p: r for p, r in results.items() if r.correlations and r.pass_seconds}
        if len(shown) > 1:
            panels[name] = shown
    if not panels:
        return
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, layout="constrained"
    )
    for ax, (name, results) in zip(axes[0], panels.items(), strict=True):
        for peer, result in results.items():
            seconds = result.pass_seconds * np.arange(1, len(result.correlations) + 1)
            ax.plot(seconds, result.correlations, ".-", color=COLORS[peer], label=peer)
        aim = peers_best(results)
        if aim is not None:
            ax.axhline(aim, color="0.7", linewidth=0.8, zorder=0)
        ax.set(xscale="log", xlabel="seconds of reconstruction", title=name)
    axes[0, 0].set_ylabel("correlation of the phase with the truth")
    axes[0, 0].legend(loc="lower right", fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)
