"""Which objective finds the truth: the optimum of each along one parameter at a time.

    python benchmarks/objectives.py --json FILE.jsonl [--real rotavirus_A.hspy] [--out FILE.rst]

Real is the scan of frozen-hydrated rotavirus particles published with Ptycho.jl (Xiaopeng Wu and Yu
Lei; MIT licence): 48 × 48 positions, 128 × 128 detector pixels, 300 kV. Simulated are scans of
twisted bilayer MoS2 (20 × 22 positions, 64 × 64 pixels, 1e5 electrons/Å²): one whose six planes of
atoms lie in one, one with a second mode of a quarter of the probe's power, and one with two layers
40 Å apart.

A seed is that of the counts of a simulated scan, of what is held out, and of the order of the
positions. Every setting is reconstructed once for each seed and objective (twice for the Fourier
ring correlation; the contrast is that of the fit for the training error). The values that are tried
are evenly spaced and shifted with the seed, so that the truth is at no special place among them.
The optimum is that of the parabola that fits all five best. Of the numbers of modes and slices it
is the one that the tuner would choose: the simplest within one standard error of the lowest, where
the objective is a mean over positions, else the lowest.

Every reconstruction leaves a line in the JSON file; with --resume, those that are there are not
done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from recoveries import SCAN, with_second_mode
from reporting import machine, rst_table, say

from hs_autoptycho.calibration import Geometry, geometry_from_signal
from hs_autoptycho.data import _multislice as multislice
from hs_autoptycho.data import _twisted_bilayer_mos2 as bilayer
from hs_autoptycho.ptycho.disk import measure_disk
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.loading import load_counts
from hs_autoptycho.tuning.objectives import make_objective
from hs_autoptycho.tuning.selection import select_best
from hs_autoptycho.tuning.trial import Fidelity, Trial

MARK = "..\n   results of benchmarks/objectives.py\n"
# what can be read from the reconstructions for each objective
FITS = {
    "held_out": ["held_out"],
    "held_out_positions": ["held_out_positions"],
    "held_out_pixels": ["held_out_pixels"],
    "data_error": ["data_error", "contrast"],
    "frc": ["frc"],
}
OBJECTIVES = {
    "held_out": "held-out counts",
    "held_out_positions": "held-out positions",
    "held_out_pixels": "held-out pixels",
    "data_error": "training error",
    "frc": "ring correlation",
    "contrast": "contrast",
}
LAYERS = 40.0  # Å between the two layers
# Passes of trials as a search makes them, and of those that compare models: a second mode that
# begins with another shape than it has is not there in fewer.
FEW, MANY = 12, 36


@dataclass(frozen=True)
class Axis:
    """One parameter and its true value.

    The tolerance and the spacing are 0 for whole numbers.
    """

    name: str
    truth: float
    tolerance: float = 0.0
    spacing: float = 0.0
    unit: str = ""
    passes: int = FEW
    note: str = ""
    held: dict[str, float] = field(default_factory=dict)

    def values(self, seed: int) -> list[float]:
        """Five that are evenly spaced, or the numbers 1 to 3."""
        if not self.tolerance:
            return [1, 2, 3]
        # the golden ratio shares out the seeds evenly between -1/2 and 1/2
        steps = np.arange(-2, 3) + (seed + 0.5) * 0.618034 % 1 - 0.5
        return [round(float(v), 6) for v in self.truth + self.spacing * steps]


@dataclass(frozen=True)
class Case:
    """A scan, the parameters that are held, and the axes."""

    load: Callable[[int, str | None], Experiment]  # given a seed and the file of the real scan
    held: dict[str, float]
    axes: tuple[Axis, ...]
    seeds: int = 3


@cache
def rotavirus(_: int, file: str) -> Experiment:
    """The real scan."""
    import hyperspy.api as hs

    signal = hs.load(file)
    counts = load_counts(signal.data)
    return Experiment(counts, geometry_from_signal(signal, counts.mean(0)))


def simulated(*, layers: float = 0.0, second_mode: float = 0.0):
    """A loader of a scan of two layers of three planes each, and of a probe of one or two modes."""
    scan = {**SCAN, "scan_shape": (20, 22), "position_jitter": 0.0, "random_state": 0}

    @cache
    def expected() -> np.ndarray:
        positions = bilayer.scan_positions(scan)
        n = bilayer._grid_size(scan)
        pixel = 1 / (n * scan["reciprocal_pixel"])
        wavelength = multislice.electron_wavelength(scan["beam_energy"])
        phases, origin = bilayer.phase_slices(scan, positions, n, pixel)
        probe = bilayer.probe_modes(scan, (n, n))
        if second_mode:
            probe = with_second_mode(probe[0], second_mode)
        # planes at the same depth are one
        planes = np.array([phases[:3].sum(0), phases[3:].sum(0)])
        planes, distances = (planes, [layers]) if layers else (planes.sum(0)[None], [])
        patterns = multislice.diffraction_patterns(
            multislice.transmission_functions(planes, pixel),
            np.array(distances),
            probe,
            (positions - origin) / pixel,
            pixel,
            wavelength,
            scan["detector_shape"],
        )
        return patterns * scan["dose"] * scan["scan_step"] ** 2

    def load(seed: int, _: str | None) -> Experiment:
        counts = np.random.default_rng(seed).poisson(expected()).astype(np.uint16)
        *center, radius = measure_disk(counts.mean(0))
        geometry = Geometry(
            disk_center=tuple(center),
            disk_radius=radius,
            **{name: scan[name] for name in (
                "beam_energy", "scan_shape", "detector_shape", "scan_step", "reciprocal_pixel",
                "convergence_angle", "scan_rotation", "defocus",
            )},
        )  # fmt: skip
        return Experiment(counts, geometry)

    return load


# the outermost positions are off by a tenth of a step; a tenth of the depth of focus, λ/α²
DEFOCUS = Axis("defocus", 200.0, 9.0, 20.0, "Å")
FIXED = Axis("defocus", 200.0, 9.0, 20.0, "Å", note="probe held", held={"probe_start": FEW})
ROTATION = Axis("scan_rotation", 12.0, 0.5, 1.0, "°")
STEP = Axis("scan_step", 0.9, 0.009, 0.015, "Å")
CASES = {
    "real": Case(
        rotavirus,
        {"defocus": 136e3, "scan_rotation": -120.4},
        # with what the truth is uncertain by: 0.3 µm, 1°, and 3 %
        (
            Axis("defocus", 136e3, 5e3, 12e3, "Å"),
            Axis("scan_rotation", -120.4, 1.2, 4.0, "°"),
            Axis("scan_step", 31.25, 1.0, 1.5, "Å"),
        ),
        seeds=2,  # the counts are the same, and a seed takes as long as one of all others
    ),
    "one plane": Case(
        simulated(),
        {},
        (
            FIXED, DEFOCUS, ROTATION, STEP, Axis("n_probe_modes", 1, passes=MANY),
            Axis("n_slices", 1, passes=MANY),
        ),
    ),
    "two modes": Case(
        simulated(second_mode=0.25),
        {"n_probe_modes": 2},
        (
            FIXED, DEFOCUS, Axis("defocus", 200.0, 9.0, 20.0, "Å", MANY),
            Axis("n_probe_modes", 2, passes=MANY),
        ),
    ),
    "two layers": Case(
        simulated(layers=LAYERS),
        {"n_slices": 2, "thickness": 2 * LAYERS},
        (FIXED, DEFOCUS, Axis("n_slices", 2, passes=MANY)),
    ),
}  # fmt: skip


def settings(case: Case, axis: Axis, value: float) -> dict[str, float]:
    """All parameters for a value on an axis."""
    values = {**case.held, **axis.held, axis.name: value}
    if axis.name == "n_slices":
        thickness = case.held.get("thickness", 10.0)
        true = case.held.get("n_slices", 1)
        # the middle of the slices stays where it is: a number of slices is no other defocus
        middle = thickness / 2 * ((true - 1) / true - (value - 1) / value)
        values["defocus"] = SCAN["defocus"] - middle
        values["thickness"] = thickness
    return values


def key_of(record: dict) -> str:
    """What tells a reconstruction from others."""
    names = "case", "fit", "seed", "passes", "parameters"
    return json.dumps([record[name] for name in names], sort_keys=True)


def wanted(case: str, axis: Axis, fit: str, seed: int) -> Iterator[dict]:
    """Records of an axis, with nothing in them yet."""
    for value in axis.values(seed):
        parameters = settings(CASES[case], axis, value)
        yield {
            "case": case, "fit": fit, "seed": seed, "passes": axis.passes, "parameters": parameters
        }  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, dict]:
    """Reconstruct what is not in the file; all records by key."""
    known: dict[str, dict] = {}
    if arguments.json.exists():
        known = {key_of(r): r for r in map(json.loads, arguments.json.read_text().splitlines())}
    for seed in range(max(CASES[name].seeds for name in arguments.cases)):
        for name in arguments.cases:
            case, experiment = CASES[name], None
            for fit in arguments.fits if seed < case.seeds else ():
                todo = [r for axis in case.axes for r in wanted(name, axis, fit, seed)]
                todo = [r for r in todo if key_of(r) not in known]
                if not todo:
                    continue
                experiment = experiment or case.load(seed, arguments.real)
                objective = make_objective(fit, experiment, random_state=seed)
                for record in todo:
                    known[key_of(record)] = record
                    reconstruct(objective, record)
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                say(f"{name}, seed {seed}, {fit}: {sum(r['seconds'] for r in todo):.0f} s")
    return known


def reconstruct(objective, record: dict) -> None:
    """Fill in what came of it."""
    start = time.perf_counter()
    score = objective(
        record["parameters"], fidelity=Fidelity(record["passes"]), random_state=record["seed"]
    )
    record["seconds"] = round(time.perf_counter() - start, 2)
    record["status"] = score.status
    record["values"] = {objective.name: score.value}
    if objective.name == "data_error":
        record["values"]["contrast"] = -score.metrics.get("phase_contrast", np.nan)
    record["blocks"] = [round(block, 7) for block in score.blocks]


def optimum(axis: Axis, records: list[dict], name: str) -> float:
    """Where an objective is lowest."""
    scores = np.array([r["values"][name] for r in records], float)
    values = np.array([r["parameters"][axis.name] for r in records], float)
    if not axis.tolerance:
        fidelity = Fidelity(axis.passes)
        trials = [
            Trial(i, r["parameters"], fidelity, objective=scores[i], blocks=r["blocks"])
            for i, r in enumerate(records)
        ]
        return select_best(trials, fidelity).parameters[axis.name]
    middle = values[len(values) // 2]
    a, b, _ = np.polyfit(values - middle, scores, 2)
    if not a > 0:  # no minimum between them
        return float(values[np.nanargmin(scores)])
    return float(np.clip(middle - b / (2 * a), values[0], values[-1]))


def found(known: dict[str, dict], case: str, axis: Axis) -> dict[str, list[float]]:
    """Optima of all seeds that were done, by objective."""
    optima: dict[str, list[float]] = {name: [] for name in OBJECTIVES}
    for fit, names in FITS.items():
        for seed in range(CASES[case].seeds):
            records = [known.get(key_of(r)) for r in wanted(case, axis, fit, seed)]
            if all(records):
                for name in names:
                    optima[name].append(optimum(axis, records, name))
    return optima


def report(arguments: argparse.Namespace, known: dict[str, dict]) -> str:
    """How often each objective is right, and by how much it is wrong."""
    rows = []
    totals: dict[str, dict[str, list[bool]]] = {}  # by kind of scan and objective
    for case in arguments.cases:
        kind = totals.setdefault("real scan" if case == "real" else "simulated", {})
        for axis in CASES[case].axes:
            cells = []
            for name, optima in found(known, case, axis).items():
                errors = np.abs(np.array(optima) - axis.truth)
                right = list(errors <= axis.tolerance)
                kind.setdefault(name, []).extend(right)
                star = "**" if right and all(right) else ""
                cell = f"{star}{sum(right)}/{len(right)}{star} ({np.mean(errors):.2g})"
                cells.append(cell if right else "not run")
            truth = f"{axis.truth:.6g}" + (f" ± {axis.tolerance:g}" if axis.tolerance else "")
            label = ", ".join(filter(None, [f"{case}: {axis.name}", axis.note]))
            rows.append([label, f"{truth} {axis.unit}".strip(), axis.passes, *cells])
    for kind, rights in totals.items():
        cells = [f"{sum(rights[name])} of {len(rights[name])}" for name in OBJECTIVES]
        rows.append([f"right, {kind}", "all", "", *cells])
    everything = {n: [right for kind in totals.values() for right in kind[n]] for n in OBJECTIVES}
    cells = [f"{np.mean(right):.0%}" if right else "" for right in everything.values()]
    rows.append(["right", "all", "", *cells])
    head = ["scan and parameter", "truth", "passes", *OBJECTIVES.values()]
    stamp = f"{len(known)} scores. {machine()}. {time.strftime('%Y-%m-%d')}."
    return f"{rst_table(head, rows)}\n\n{stamp}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="lines of all reconstructions")
    parser.add_argument("--real", help="the real scan, rotavirus_A.hspy")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, help="reStructuredText to write the table into")
    arguments = parser.parse_args()
    if arguments.json.exists() and not arguments.resume:
        parser.error(f"{arguments.json} is there: go on with --resume, or name another file")
    if arguments.real is None:
        arguments.cases = [name for name in arguments.cases if name != "real"]
    say(machine())
    text = report(arguments, run(arguments))
    say("\n" + text)
    if arguments.out:
        head = arguments.out.read_text().split(MARK)[0] if arguments.out.exists() else ""
        arguments.out.write_text(f"{head}{MARK}\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
