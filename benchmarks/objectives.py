"""Which objective finds the truth: the optimum of each along one parameter at a time.

    python benchmarks/objectives.py --json FILE.jsonl [--real rotavirus_A.hspy] [--out FILE.rst]

Real is the scan of frozen-hydrated rotavirus particles published with Ptycho.jl (Xiaopeng Wu and Yu
Lei; MIT licence): 48 × 48 positions, 128 × 128 detector pixels, 300 kV. Its rotation and underfocus
were measured independently, from bright-field shifts and the centre of mass. Simulated are scans of
twisted bilayer MoS2 (20 × 22 positions, 64 × 64 pixels, 1e5 electrons/Å²): one whose six planes of
atoms lie in one, one with a second mode of a quarter of the probe's power, and one with two layers
40 Å apart.

Every setting is reconstructed once for each objective (twice for the Fourier ring correlation), in
12 passes. The optimum is that of the parabola through the lowest value and its neighbours, or the
lowest of the whole numbers of modes and slices. Every reconstruction leaves a line in the JSON
file; with --resume, those that are there are not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from hs_autoptycho.tuning.trial import Fidelity

# what is reconstructed for, and what can be read from each
FITS = {
    "held_out": ["held_out"],
    "data_error": ["data_error", "contrast"],
    "held_out_positions": ["held_out_positions"],
    "held_out_pixels": ["held_out_pixels"],
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


@dataclass(frozen=True)
class Axis:
    """One parameter, the values that are tried, and the true one."""

    name: str
    values: tuple[float, ...]
    truth: float
    tolerance: float = 0.0  # 0: a whole number
    unit: str = ""


@dataclass(frozen=True)
class Case:
    """A scan, the parameters that are held, and the axes."""

    load: Callable[[str | None], Experiment]  # given the file of the real scan
    held: dict[str, float]
    axes: tuple[Axis, ...]


def rotavirus(file: str) -> Experiment:
    """The real scan."""
    import hyperspy.api as hs

    signal = hs.load(file)
    counts = load_counts(signal.data)
    return Experiment(counts, geometry_from_signal(signal, counts.mean(0)))


def simulated(*, layers: float = 0.0, second_mode: float = 0.0):
    """A loader of a scan of two layers of three planes each, and of a probe of one or two modes."""
    scan = {**SCAN, "scan_shape": (20, 22), "position_jitter": 0.0, "random_state": 0}

    def load(_: str | None) -> Experiment:
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
        expected = patterns * scan["dose"] * scan["scan_step"] ** 2
        counts = np.random.default_rng(0).poisson(expected).astype(np.uint16)
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


WHOLE = (1, 2, 3)  # numbers of modes and slices
GEOMETRY = (
    Axis("defocus", (160.0, 185.0, 200.0, 215.0, 240.0), 200.0, 6.0, "Å"),
    Axis("scan_rotation", (9.0, 11.0, 12.0, 13.0, 15.0), 12.0, 0.5, "°"),
    Axis("scan_step", (0.87, 0.89, 0.9, 0.91, 0.93), 0.9, 0.009, "Å"),
)
CASES = {
    "real": Case(
        rotavirus,
        {"defocus": 136e3, "scan_rotation": -120.4},
        (
            Axis("defocus", (100e3, 128e3, 136e3, 144e3, 180e3), 136e3, 5e3, "Å"),
            Axis("scan_rotation", (-130.0, -123.0, -120.4, -118.0, -111.0), -120.4, 2.0, "°"),
            Axis("scan_step", (28.0, 30.0, 31.25, 32.5, 34.5), 31.25, 0.5, "Å"),
        ),
    ),
    "one plane": Case(
        simulated(),
        {},
        (*GEOMETRY, Axis("n_probe_modes", WHOLE, 1), Axis("n_slices", WHOLE, 1)),
    ),
    "two modes": Case(
        simulated(second_mode=0.25),
        {"n_probe_modes": 2},
        (GEOMETRY[0], Axis("n_probe_modes", WHOLE, 2)),
    ),
    "two layers": Case(
        simulated(layers=LAYERS),
        {"n_slices": 2, "thickness": 2 * LAYERS},
        (GEOMETRY[0], Axis("n_slices", WHOLE, 2)),
    ),
}


@cache
def experiment_of(name: str, real: str | None) -> Experiment:
    """The scan of a case."""
    return CASES[name].load(real)


def settings(case: Case, axis: Axis, value: float, experiment: Experiment) -> dict[str, float]:
    """All parameters for a value on an axis."""
    values = {**case.held, axis.name: value}
    if axis.name == "n_slices":
        thickness = case.held.get("thickness", 10.0)
        true = case.held.get("n_slices", 1)
        # the middle of the slices stays where it is: a number of slices is no other defocus
        middle = thickness / 2 * ((true - 1) / true - (value - 1) / value)
        values["defocus"] = experiment.geometry.defocus - middle
        values["thickness"] = thickness
    return values


def key_of(record: dict) -> str:
    """What tells a reconstruction from others."""
    parts = record["case"], record["fit"], record["passes"], record["parameters"]
    return json.dumps(parts, sort_keys=True)


def run(arguments: argparse.Namespace) -> dict[str, dict]:
    """Reconstruct what is not in the file; all records by key."""
    known: dict[str, dict] = {}
    if arguments.json.exists():
        known = {key_of(r): r for r in map(json.loads, arguments.json.read_text().splitlines())}
    for name in arguments.cases:
        case = CASES[name]
        experiment = experiment_of(name, arguments.real)
        for fit in arguments.fits:
            objective = make_objective(fit, experiment)
            start = time.perf_counter()
            for axis in case.axes:
                for value in axis.values:
                    parameters = settings(case, axis, value, experiment)
                    record = {"case": name, "fit": fit, "passes": arguments.passes,
                              "parameters": parameters}  # fmt: skip
                    if key_of(record) in known:
                        continue
                    score = objective(
                        parameters, fidelity=Fidelity(arguments.passes), random_state=0
                    )
                    metrics = {**score.metrics, objective.name: score.value}
                    metrics["contrast"] = -metrics.get("phase_contrast", np.nan)
                    record |= {"status": score.status, "metrics": metrics}
                    known[key_of(record)] = record
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(record) + "\n")
            say(f"{name}, {fit}: {time.perf_counter() - start:.0f} s")
    return known


def optimum(axis: Axis, scores: list[float]) -> float:
    """Where the lowest value is, between the values that were tried."""
    values, scores = np.array(axis.values, float), np.array(scores, float)
    lowest = int(np.nanargmin(scores))
    if axis.tolerance == 0 or lowest in (0, len(values) - 1):
        return float(values[lowest])
    three = slice(lowest - 1, lowest + 2)
    a, b, _ = np.polyfit(values[three] - values[lowest], scores[three], 2)
    return float(values[lowest] - b / (2 * a))


def report(arguments: argparse.Namespace, known: dict[str, dict]) -> str:
    """The table, and how often each objective is right."""
    rows, right, axes = [], dict.fromkeys(OBJECTIVES, 0), 0
    for name in arguments.cases:
        case = CASES[name]
        experiment = experiment_of(name, arguments.real)
        for axis in case.axes:
            found = {}
            for fit, names in FITS.items():
                records = [
                    known.get(key_of({"case": name, "fit": fit, "passes": arguments.passes,
                                      "parameters": settings(case, axis, value, experiment)}))
                    for value in axis.values
                ]  # fmt: skip
                if all(records):
                    found |= {
                        n: optimum(axis, [r["metrics"].get(n, np.nan) for r in records])
                        for n in names
                    }
            axes += 1
            cells = []
            for objective in OBJECTIVES:
                if objective not in found:
                    cells.append("not run")
                    continue
                value = found[objective]
                good = abs(value - axis.truth) <= axis.tolerance
                right[objective] += good
                at_edge = axis.tolerance > 0 and value in (axis.values[0], axis.values[-1])
                text = f"{value:.6g}" if axis.tolerance == 0 else f"{value:.4g}"
                cells.append(f"**{text}**" if good else f"{text} (bound)" if at_edge else text)
            truth = f"{axis.truth:.6g}" + (f" ± {axis.tolerance:g}" if axis.tolerance else "")
            rows.append([f"{name}: {axis.name}", f"{truth} {axis.unit}".strip(), *cells])
    rows.append(["right", f"of {axes}", *(str(right[o]) for o in OBJECTIVES)])
    return rst_table(["scan and parameter", "truth", *OBJECTIVES.values()], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="lines of all reconstructions")
    parser.add_argument("--real", help="the real scan, rotavirus_A.hspy")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS))
    parser.add_argument("--passes", type=int, default=12)
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
        arguments.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
