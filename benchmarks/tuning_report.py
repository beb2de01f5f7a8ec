"""The table and the plot of benchmarks/tuning.py, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reporting import rst_table

Record = dict[str, Any]

MARK = "..\n   results of benchmarks/tuning.py\n"
#: Draws with replacement of as many trials as a random search has.
DRAWS = 1000
#: How much worse than the expert's a picture may be.
MARGIN = 0.005
EVERY = "random, all to the end"
COLOURS = {"multifidelity": "#0072B2", "full": "#009E73", EVERY: "#999999"}
NAMES = {
    "multifidelity": "several fidelities",
    "full": "full length only",
    EVERY: "random search",
}


def report(records: Sequence[Record], out: str, plot: str) -> None:
    """Put the tables after the mark in the file of the docs, and draw the plot."""
    sections = [simulated(records), real(records)]
    path = Path(out)
    head = path.read_text().split(MARK)[0] if path.exists() else ""
    text = "\n\n".join(section for section in sections if section)
    path.write_text(f"{head}{MARK}\n{text}\n\n{stamp(records)}\n")
    draw(records, plot)


def stamp(records: Sequence[Record]) -> str:
    """Where and when."""
    machines = sorted({r["machine"] for r in records})
    dates = sorted({r["date"] for r in records})
    return f"{'; '.join(machines)}. {dates[0]} to {dates[-1]}."


def by_case(records: Sequence[Record], case: str) -> list[Record]:
    """Records of a case, by seed."""
    return sorted((r for r in records if r["case"] == case), key=lambda r: r["seed"])


def simulated(records: Sequence[Record]) -> str:
    """The simulated scan: all ways of searching against the expert."""
    experts = {r["seed"]: r["correlation"] for r in by_case(records, "expert")}
    if not experts:
        return ""
    rows = []
    for case in ("multifidelity", "full"):
        for r in by_case(records, case):
            lead = r["correlation"] - experts[r["seed"]]
            rows.append(
                [
                    NAMES[case],
                    r["seed"],
                    len(r["trials"]),
                    f"{sum(t['full_lengths'] for t in r['trials']):.1f}",
                    f"{sum(t['engine_seconds'] for t in r['trials']):.0f}",
                    f"{r['seconds']:.0f}",
                    f"{r['correlation']:.4f}",
                    f"{lead:+.4f}",
                    "yes" if lead >= -MARGIN else "no",
                ]
            )
    head = ["search", "seed", "trials", "full lengths", "engine s", "all s", "r", "r − expert's",
            "within 0.005"]  # fmt: skip
    lines = [rst_table(head, rows)]
    several, alone = by_case(records, "multifidelity"), by_case(records, "full")
    good = sum(r["correlation"] >= experts[r["seed"]] - MARGIN for r in several)
    lines.append(
        f"Several fidelities: {good} of {len(several)} seeds within {MARGIN} of the expert, whose "
        f"r is {np.mean(list(experts.values())):.4f} on average. "
        f"{sum(len(r['trials']) for r in several) / len(several):.0f} points of the grid of ten "
        "values a parameter (four of the number of modes) that has 4 × 10⁷: "
        f"{100 * len(several[0]['trials']) / 4e7:.1e} % of it."
    )
    scatter = repeat_scatter(several)
    lines += [sooner(r, s, scatter) for r in alone for s in several if r["seed"] == s["seed"]]
    lines += random_halved(by_case(records, "random"), several)
    lines += [random_to_the_end(r, several) for r in by_case(records, EVERY)]
    peers = by_case(records, "py4DSTEM")
    if peers:
        head = ["seed", "s", "evaluations", "passes", "r of its best", "ours"]
        ours = {r["seed"]: r["correlation"] for r in several}
        rows = [
            [r["seed"], f"{r['seconds']:.0f}", len(r["evaluations"]), r["n_iterations"],
             f"{r['correlation']:.3f}", f"{ours[r['seed']]:.3f}" if r["seed"] in ours else ""]
            for r in peers
        ]  # fmt: skip
        lines += ["py4DSTEM's `PtychographyOptimizer`, for as many seconds as ours took:",
                  rst_table(head, rows)]  # fmt: skip
    return "\n\n".join(lines)


def random_halved(searches: Sequence[Record], ours: Sequence[Record]) -> list[str]:
    """Random searches of which the best after one pass were run to the end."""
    if not searches:
        return []
    found = {r["seed"]: r for r in ours}
    rows, worse = [], 0
    for r in searches:
        trials = r["kept"]
        best = min(trials, key=lambda t: t["objective"])
        highest = max(t["correlation"] for t in trials)
        row = [r["seed"], len(trials), best["rank_after_one_pass"] + 1, f"{highest:.4f}",
               f"{r['correlation']:.4f}"]  # fmt: skip
        if r["seed"] in found:
            several = found[r["seed"]]
            worse += r["correlation"] < several["correlation"]
            lowest = next(t for t in several["trials"] if t["number"] == several["best_trial"])
            row += [f"{1e6 * (best['objective'] - lowest['objective']):.0f}",
                    f"{several['correlation']:.4f}"]  # fmt: skip
        rows.append(row + [""] * (7 - len(row)))
    head = ["seed", "to the end", "best's rank after 1 pass", "highest r of these", "r of the best",
            "its deviance above ours, 1e-6", "ours"]  # fmt: skip
    compared = sum(r["seed"] in found for r in searches)
    return [
        f"Random search, {searches[0]['n_trials']} trials, five times 60; only those that were "
        f"best after one pass were run to the end. It is worse on {worse} of {compared} seeds.",
        rst_table(head, rows),
    ]


def random_to_the_end(record: Record, ours: Sequence[Record]) -> str:
    """One random search without shortcuts, and what others like it would find."""
    trials = [t for t in record["trials"] if t["objective"] is not None]
    trials = [t for t in trials if t["correlation"] is not None]
    objective = np.array([t["objective"] for t in trials])
    correlation = np.array([t["correlation"] for t in trials])
    generator = np.random.default_rng(0)
    draws = generator.integers(len(trials), size=(DRAWS, len(trials)))
    chosen = correlation[draws[np.arange(DRAWS), objective[draws].argmin(1)]]
    # the trial's r is of fewer passes and 90 % of the counts: ours is taken alike
    alike = [next(t for t in r["trials"] if t["number"] == r["best_trial"]) for r in ours]
    alike = [t["correlation"] for t in alike if t["correlation"] is not None]
    worse = np.mean([chosen.max() < value for value in alike])
    first = np.array([t["curve"][0][1] for t in trials])
    rank = int((first < first[objective.argmin()]).sum()) + 1
    return (
        f"A random search with all its {len(record['trials'])} trials run to the end (seed "
        f"{record['seed']}): its best by the objective was number {rank} after one pass and has "
        f"r = {correlation[objective.argmin()]:.4f}; the highest r of all its trials, whatever "
        f"their objective, is {correlation.max():.4f}. "
        f"Drawn again {DRAWS} times from these trials, r of the best by the objective is "
        f"{np.quantile(chosen, 0.05):.4f} to {np.quantile(chosen, 0.95):.4f} (5 to 95 %). The "
        f"trials that several fidelities choose have {min(alike):.4f} to {max(alike):.4f}; "
        f"{100 * worse:.0f} % of the seeds are better than all of these draws."
    )


def sooner(alone: Record, several: Record, scatter: float) -> str:
    """How much work several fidelities need for what full-length trials alone end with.

    The deviance counts as reached to within what another order of the positions does to it.
    """
    work, objective, quality = best_so_far(alone, "full_lengths")
    found = work[np.flatnonzero(objective == objective[-1])[0]]
    text = (
        f"Seed {alone['seed']}: the best of {len(alone['trials'])} trials of full length alone has "
        f"r = {quality[-1]:.4f} in the trial, and was found after {found:.0f}. For good, several "
        "fidelities have "
    )
    ours, ours_objective, ours_quality = best_so_far(several, "full_lengths")
    parts = []
    for what, there in (
        ("its r", ours_quality >= quality[-1]),
        (f"its deviance to within {scatter:.0e}", ours_objective <= objective[-1] + scatter),
    ):
        start = np.flatnonzero(np.minimum.accumulate(there[::-1])[::-1])
        if not len(start):
            parts.append(f"{what} not at all")
            continue
        needed = ours[start[0]]
        parts.append(
            f"{what} after {needed:.1f} full lengths ({needed / work[-1]:.2f} of all its work, "
            f"{needed / found:.2f} of that until then)"
        )
    return f"{text}{', and '.join(parts)}."


def repeat_scatter(several: Sequence[Record]) -> float:
    """Standard deviation of the objective over orders of the positions, of all repeated points."""
    squares, free = 0.0, 0
    for record in several:
        points: dict[tuple, list[float]] = {}
        for t in record["trials"]:
            if t["correlation"] is not None and not t["fidelity"].get("split", 0):
                key = tuple(sorted(t["parameters"].items()))
                points.setdefault(key, []).append(t["objective"])
        for own in points.values():
            squares += np.var(own) * len(own)
            free += len(own) - 1
    return float(np.sqrt(squares / free)) if free else 0.0


def real(records: Sequence[Record]) -> str:
    """The real scan with nothing said."""
    found = by_case(records, "real")
    if not found:
        return ""
    rows = []
    for r in found:
        best = r["best_parameters"]
        low, high = r["intervals"].get("scan_rotation", (float("nan"),) * 2)
        rows.append(
            [
                r["seed"],
                f"{best['scan_rotation']:.2f} ({low:.2f} to {high:.2f})",
                f"{best['defocus'] / 1e4:.3f}",
                best.get("n_probe_modes", ""),
                f"{r['objective']:.6f}",
                f"{r['expert']:.6f}",
                f"{r['seconds']:.0f}",
            ]
        )
    head = ["seed", "rotation (68 %)", "defocus µm", "modes", "held-out deviance", "expert's", "s"]
    return "Real scan\n~~~~~~~~~\n\n" + rst_table(head, rows)


def draw(records: Sequence[Record], file: str) -> None:
    """Objective and truth against full lengths and against seconds, every seed a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, axes = plt.subplots(
        2, 2, figsize=(9, 6.5), sharex="col", sharey="row", layout="constrained"
    )
    floors = lowest_by_seed(records)
    several = {r["seed"] for r in by_case(records, "multifidelity")}
    for case in (EVERY, "full", "multifidelity"):
        for i, record in enumerate(by_case(records, case)):
            for column, unit in enumerate(("full_lengths", "seconds")):
                x, objective, correlation = best_so_far(record, unit)
                label = NAMES[case] if i == 0 and column == 0 else None
                options = {"color": COLOURS[case], "lw": 1.2, "alpha": 0.8, "where": "post"}
                if record["seed"] in several:  # or it would be above its own lowest
                    above = objective - floors[record["seed"]] + 1e-6
                    axes[0, column].step(x, above, **options)
                axes[1, column].step(x, correlation, label=label, **options)
    experts = [r["correlation"] for r in by_case(records, "expert")]
    for ax, name in zip(axes[1], ("work in full-length trials", "seconds"), strict=True):
        if experts:
            ax.axhline(np.mean(experts), color="k", lw=0.8, ls=":")
        ax.set(xlabel=name)
    for ax in axes.flat:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].set(yscale="log", ylabel="held-out deviance − lowest of the seed")
    axes[1, 0].set(ylabel="correlation with the truth", ylim=(0.4, 1))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(file, dpi=110)


def compared(trial: dict[str, Any]) -> bool:
    """Whether a trial is of full length, with the counts and the order that most have."""
    halved = trial["fidelity"].get("split", 0) != 0
    return trial["correlation"] is not None and trial["purpose"] != "repeat" and not halved


def lowest_by_seed(records: Sequence[Record]) -> dict[int, float]:
    """The lowest objective at full length that any search found; every seed has its own counts."""
    floors: dict[int, float] = {}
    for record in records:
        for trial in record.get("trials", []):
            if trial["objective"] is not None and compared(trial):
                seed = record["seed"]
                floors[seed] = min(floors.get(seed, trial["objective"]), trial["objective"])
    return floors


def best_so_far(record: Record, unit: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Work or time, and objective and correlation of the best full-length trial till then."""
    x, objective, correlation, spent = [], [], [], 0.0
    best = None
    for trial in record["trials"]:
        spent += trial[unit]
        if not compared(trial):
            continue
        if best is None or trial["objective"] < best["objective"]:
            best = trial
        x.append(spent)
        objective.append(best["objective"])
        correlation.append(best["correlation"])
    return np.array(x), np.array(objective), np.array(correlation)
