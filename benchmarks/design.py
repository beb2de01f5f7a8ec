"""Design an experiment at several doses, against fixed settings and a random search.

    python benchmarks/design.py run --json design.jsonl --folder studies
    python benchmarks/design.py report --json design.jsonl --folder studies \\
        --out docs/design.rst --plot docs/pictures/design.png

Bilayer MoS2 with a twist of 30 degrees, 80 kV, a scanned field of 36 Å, 128 × 128 pixels. Scan
step, defocus and convergence angle are searched, with 36 simulated experiments a dose; the fixed
settings are those of the literature: 21.4 mrad, 550 Å underfocus, 0.85 Å.

Best and fixed settings are then compared over five noise seeds that the search has not seen: by
score, and by whether pairs of atoms that are 1.75 Å apart in projection are seen as two.

`run` appends a record a search and dose to the file of JSON lines and skips those that are there;
searches themselves go on from their studies in the folder: interrupt it whenever you like.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import hyperspy.api as hs
import numpy as np
from reporting import machine, rst_table, say

from hs_autoptycho import data, design_experiment
from hs_autoptycho._potential import read_potential
from hs_autoptycho.design.instrument import Instrument
from hs_autoptycho.design.resolution import resolved_pairs
from hs_autoptycho.design.simulation import Simulation
from hs_autoptycho.design.trial import SimulatedExperiment

#: At 20 the settings of the literature resolve nothing any more.
DOSES = (1e6, 1e5, 1e4, 1e3, 100.0, 20.0)
FIELD = 36.0
BEAM_ENERGY = 80.0
RANGES = {"scan_step": (0.4, 4.0), "defocus": (0.0, 800.0), "convergence_angle": (8.0, 30.0)}
LITERATURE = {"scan_step": 0.85, "defocus": 550.0, "convergence_angle": 21.4}
DISTANCE = 1.75  # Å, of the pairs of atoms
#: How deep the phase between two atoms has to dip for them to count as two, as a part of the lower
#: one's height: Rayleigh's criterion, and a stricter one.
DIPS = {"resolved": 0.265, "half": 0.5}
N_TRIALS = 36
PASSES = 20
SEEDS = 5
STRATEGIES = ("bayesian", "random")
MARK = "..\n   results of benchmarks/design.py\n"


def search(arguments, strategy: str):
    """The design; from its file where it is complete."""
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{strategy}_{arguments.score}"
    path = folder / f"{name}.hspy"
    if path.exists():
        return hs.load(path)
    design = design_experiment(
        data.twisted_bilayer_mos2_potential(),
        arguments.doses,
        RANGES,
        reference=LITERATURE,
        beam_energy=BEAM_ENERGY,
        field_of_view=FIELD,
        score=arguments.score,
        n_trials=arguments.trials,
        n_repeats=1,
        strategy=strategy,
        n_iterations=PASSES,
        study=folder / f"{name}.jsonl",
        callback=lambda trial: say(
            f"{trial['number']} {trial['purpose']} "
            + " ".join(f"{v:.4g}" for v in trial["parameters"].values())
            + f": {trial['objective']} in {trial['duration']:.1f} s"
        ),
        show_progressbar=False,
    )
    if design.status != "completed":
        raise SystemExit("interrupted: the same command goes on")
    design.save(path)
    return design


def judge(design, settings: dict[str, float], dose: float, pairs) -> dict[str, list[float]]:
    """Scores and resolved pairs over noise seeds that no search has seen."""
    values = design.instrument
    for name in ("detector_shape", "field_of_view"):
        values[name] = tuple(values[name])
    specimen = read_potential(data.twisted_bilayer_mos2_potential(), BEAM_ENERGY)
    experiment = SimulatedExperiment(
        Simulation(specimen, Instrument(**values)), design.score, {}, RANGES["scan_step"][1] / 2
    )
    out: dict[str, Any] = {}
    for seed in range(SEEDS):
        result = experiment.run(settings, dose, n_iterations=PASSES, random_state=1000 + seed)
        for name, value in result.scores.items():
            out.setdefault(name, []).append(value)
        for name, dip in DIPS.items():
            seen = resolved_pairs(
                result.phase,
                pairs,
                pixel=experiment.simulation.instrument.object_pixel,
                origin=tuple(experiment.image_origin),
                dip=dip,
            )
            out.setdefault(name, []).append(seen.fraction)
            out.setdefault(f"{name}_chance", []).append(seen.chance)
            out["n_pairs"] = seen.n_pairs
    return out


def run(arguments) -> None:
    """Do whatever has no record yet."""
    path = Path(arguments.json)
    pairs = data.atom_pairs(data.twisted_bilayer_mos2_potential(), DISTANCE)
    for strategy in arguments.only:
        design = search(arguments, strategy)
        for dose, best in zip(design.doses, design.best_parameters, strict=True):
            cases = [(strategy, best)]
            cases += [("literature", LITERATURE)] if strategy == STRATEGIES[0] else []
            for case, settings in cases:
                known = {(r["case"], r["dose"], r["score"]) for r in read(path)}
                if (case, dose, design.score) in known:
                    continue
                trials = [t for t in design.trials if t["parameters"]["dose"] == dose]
                record = {
                    "case": case,
                    "dose": dose,
                    "score": design.score,
                    "machine": machine(),
                    "date": str(date.today()),
                    "settings": {name: settings[name] for name in LITERATURE},
                    "n_trials": len(trials),
                    "seconds": sum(t["duration"] for t in trials),
                    **judge(design, settings, dose, pairs),
                }
                with path.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                say(
                    f"{case} {dose:g}: {design.score} {np.mean(record[design.score]):.4f}, "
                    f"resolved {beyond_chance(record, 'resolved'):.2f}, with a dip of a half "
                    f"{beyond_chance(record, 'half'):.2f}"
                )


def read(path: Path) -> list[dict[str, Any]]:
    """All records."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def beyond_chance(record: dict[str, Any], name: str) -> float:
    """Part of the pairs that chance leaves which is resolved, the mean over the seeds."""
    seen, chance = np.array(record[name]), np.array(record[f"{name}_chance"])
    return float(np.mean((seen - chance) / (1 - chance)))


def tables(records: list[dict[str, Any]]) -> str:
    """What was found, as reStructuredText."""
    records = [r for r in records if r["score"] == records[0]["score"]]
    found = {(r["case"], r["dose"]): r for r in records}
    score = records[0]["score"]
    lines = []
    for dose in sorted({r["dose"] for r in records}):
        for case in ("bayesian", "random", "literature"):
            r = found.get((case, dose))
            if r is None:
                continue
            s = r["settings"]
            searched = case != "literature"
            lines.append(
                [
                    f"{dose:g}",
                    case,
                    f"{s['convergence_angle']:.1f} / {s['defocus']:.0f} / {s['scan_step']:.2f}",
                    f"{np.mean(r[score]):.4f} ± {np.std(r[score], ddof=1):.4f}",
                    f"{np.mean(r['ssim']):.3f}",
                    f"{np.mean(r['frc']):.3f}",
                    f"{beyond_chance(r, 'resolved'):.0%}",
                    f"{beyond_chance(r, 'half'):.0%}",
                    f"{r['n_trials']}" if searched else "–",
                    f"{r['seconds']:.0f}" if searched else "–",
                ]
            )
    head = ["dose e/Å²", "settings", "mrad / Å / Å", score, "SSIM", "FRC",
            "pairs resolved", "dip of a half", "trials", "s"]  # fmt: skip
    dates = sorted(r["date"] for r in records)
    return (
        f"{rst_table(head, lines)}\n\n"
        f"Means over {SEEDS} noise seeds, with the standard deviation of one; "
        f"{records[0]['n_pairs']} pairs of atoms {DISTANCE} Å apart; the parts of them that are "
        "resolved are beyond what chance would: 0 % for noise.\n\n"
        f"{records[0]['machine']}. {dates[0]} to {dates[-1]}.\n"
    )


def report(arguments) -> None:
    """Put the tables at the end of a page, and draw the figure."""
    import matplotlib

    matplotlib.use("Agg")
    text = tables(read(Path(arguments.json)))
    say(text)
    if arguments.out:
        page = Path(arguments.out)
        before = page.read_text(encoding="utf-8").partition(MARK)[0]
        page.write_text(f"{before}{MARK}\n{text}", encoding="utf-8")
    if arguments.plot:
        design = hs.load(Path(arguments.folder) / f"{STRATEGIES[0]}_{arguments.score}.hspy")
        Path(arguments.plot).parent.mkdir(parents=True, exist_ok=True)
        design.plot().savefig(arguments.plot, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "report"):
        command = commands.add_parser(name)
        command.add_argument("--json", required=True)
        command.add_argument("--folder", default="design_studies")
        command.add_argument("--score", default="correlation", choices=("correlation", "ssim"))
        if name == "run":
            command.add_argument("--doses", type=float, nargs="+", default=DOSES)
            command.add_argument("--trials", type=int, default=N_TRIALS)
            command.add_argument("--only", nargs="+", default=STRATEGIES, choices=STRATEGIES)
        else:
            command.add_argument("--out", help="page whose results are replaced")
            command.add_argument("--plot")
    arguments = parser.parse_args()
    run(arguments) if arguments.command == "run" else report(arguments)


if __name__ == "__main__":
    main()
