"""Tune a simulated scan with many faults, and a real one, against what users have otherwise.

    pip install "hs_autoptycho[py4dstem]"
    python benchmarks/tuning.py simulate expected.npy
    python benchmarks/tuning.py run --json tuning.jsonl --expected expected.npy \\
        --real rotavirus_A.hspy
    python benchmarks/tuning.py report --json tuning.jsonl --out docs/tuning.rst \\
        --plot docs/pictures/tuning.png

The simulated scan is twisted bilayer MoS2, 64 × 64 positions in steps of 0.5 Å, 128 × 128 pixels,
80 kV, 1e5 electrons/Å²; with astigmatism, an effective source of 0.8 Å and a jitter of the
positions of 0.05 Å. Defocus, rotation and scale of the scan are told wrongly, by up to ±200 Å, ±10
degrees and ±3 %, otherwise for every seed, and searched for in these ranges about what was told;
with them astigmatism, modes, source size and step: eight parameters.

`run` appends a record a run to the file of JSON lines and skips those that are there: interrupt it
and go on whenever you like. Beside the objective every trial at full length has the correlation
with the truth, which takes no part in the search and whose time is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import hyperspy.api as hs
import numpy as np
from reporting import machine, say
from scipy.signal import fftconvolve

from hs_autoptycho import data
from hs_autoptycho._scan import read_scan, wrap_reconstruction
from hs_autoptycho.data import _twisted_bilayer_mos2 as bilayer
from hs_autoptycho.tuning.engines import NumbaEngine
from hs_autoptycho.tuning.objectives import make_objective
from hs_autoptycho.tuning.trial import Fidelity

SCAN = {
    "scan_shape": (64, 64),
    "detector_shape": (128, 128),
    "scan_step": 0.5,
    "reciprocal_pixel": 1 / 25.6,
    "defocus": 300.0,
    "scan_rotation": 12.0,
    "C12a": 40.0,
    "C12b": -30.0,
    "source_size": 0.8,
    "position_jitter": 0.05,
}
DOSE = 1e5
FULL = {
    **SCAN,
    "beam_energy": 80.0,
    "convergence_angle": 21.4,
    **{name: 0.0 for name in bilayer.ABERRATIONS if name not in SCAN},
    "beam_shift": (0.0, 0.0),
    "dose": DOSE,
    "random_state": 0,
}
#: What an expert would choose who knows the truth; one slice in the middle of the planes of atoms
#: has 5 Å less defocus than the first plane.
EXPERT = {
    "defocus": 295.0,
    "scan_rotation": 12.0,
    "C12a": 40.0,
    "C12b": -30.0,
    "n_probe_modes": 3,
    "source_size": 0.8,
}
TRIAL_PASSES = 12
FINAL_PASSES = 20
N_TRIALS = 72
#: Seeds below it were looked at while the search was made.
FIRST_SEED = 13
RANDOM_TRIALS = 300
#: The real scan: the published expert's parameters, and what was measured independently.
REAL_EXPERT = {"defocus": 135e3, "scan_rotation": -126.0, "n_probe_modes": 1}
REAL_ROTATION = -120.4


class Told:
    """The simulated scan as a user has it: counts, and values that are somewhat wrong."""

    def __init__(self, expected: np.ndarray, seed: int):
        counts = np.random.default_rng(seed).poisson(expected * (DOSE * SCAN["scan_step"] ** 2))
        counts = counts.astype(np.min_scalar_type(int(counts.max())))
        self.truth = bilayer._as_signal(counts, FULL)
        wrong = np.random.default_rng([seed, 1]).uniform(-1, 1, 3)
        self.defocus = SCAN["defocus"] + 200 * wrong[0]
        self.rotation = SCAN["scan_rotation"] + 10 * wrong[1]
        self.scale = 1 + 0.03 * wrong[2]
        self.signal = self.truth.deepcopy()
        for axis in self.signal.axes_manager.navigation_axes:
            axis.scale = SCAN["scan_step"] / self.scale
        del self.signal.metadata.Simulation

    @property
    def space(self) -> dict[str, Any]:
        """What is searched: eight parameters."""
        return {
            "scan_rotation": (self.rotation - 10, self.rotation + 10),
            "defocus": (self.defocus - 200, self.defocus + 200),
            "scan_scale": (0.97, 1.03),
            "C12a": (-100.0, 100.0),
            "C12b": (-100.0, 100.0),
            "n_probe_modes": [1, 2, 3, 4],
            "source_size": (0.0, 1.5),
            "step_object": (0.3, 1.5, "log"),
        }


class Watched:
    """This package's engine; every fit of the whole scan is compared with the truth.

    The time for that is not counted: `seconds` has it.
    """

    name = "numba"

    def __init__(self, told: Told):
        self.told, self.engine = told, NumbaEngine()
        self.scan = read_scan(told.signal, {}, False)
        self.correlations: list[float | None] = []
        self.seconds: list[float] = []

    def fit(self, experiment, parameters, **options):
        fit = self.engine.fit(experiment, parameters, **options)
        start = time.perf_counter()
        correlation = None
        whole = experiment.geometry.scan_shape == SCAN["scan_shape"]
        if whole and fit.reconstruction.status == "completed":
            values = self.scan.experiment.complete(parameters)
            obj = wrap_reconstruction(self.scan, values, fit.reconstruction, 0)
            correlation = data.phase_correlation(obj, self.told.truth)
        self.correlations.append(correlation)
        self.seconds.append(time.perf_counter() - start)
        return fit


def tune(told: Told, seed: int, strategy: str, n_trials: int) -> dict[str, Any]:
    """One tuning, trial by trial, and the correlation of its final object with the truth."""
    engine = Watched(told)
    start = time.perf_counter()
    obj = told.signal.autotune_ptycho(
        told.space,
        n_trials=n_trials,
        strategy=strategy,
        engine=engine,
        n_iterations=FINAL_PASSES,
        n_trial_iterations=TRIAL_PASSES,
        random_state=seed,
        show_progressbar=False,
    )
    seconds = time.perf_counter() - start - sum(engine.seconds)
    trials = []
    for trial, correlation, watching in zip(
        obj.trials, engine.correlations, engine.seconds, strict=False
    ):
        cost = Fidelity(**trial["fidelity"]).cost(Fidelity(TRIAL_PASSES))
        done = trial["metrics"].get("n_iterations", 0) / trial["fidelity"]["n_iterations"]
        keys = ("number", "parameters", "purpose", "status", "objective", "fidelity", "curve")
        trials.append(
            {
                **{key: trial[key] for key in keys},
                "seconds": trial["duration"] - watching,
                "engine_seconds": trial["metrics"].get("seconds_fit", 0.0) - watching,
                "full_lengths": cost * done,
                "correlation": correlation,
            }
        )
    return {
        "seconds": seconds,
        "trials": trials,
        "best_trial": int(obj.metadata.Ptychography.tuning.best_trial),
        "best_parameters": obj.best_parameters,
        "intervals": obj.parameter_intervals,
        "notes": obj.tuning_notes,
        "correlation": data.phase_correlation(obj, told.truth),
    }


def expert(told: Told) -> dict[str, Any]:
    """What the true parameters give, with the same number of passes."""
    truth = {**EXPERT, "scan_scale": told.scale}
    obj = told.signal.reconstruct_ptycho(**truth, n_iterations=FINAL_PASSES, show_progressbar=False)
    return {"correlation": data.phase_correlation(obj, told.truth)}


def tune_real(path: str, seed: int) -> dict[str, Any]:
    """Tune the real scan with nothing said, and score the expert's parameters beside it."""
    signal = hs.load(path)
    start = time.perf_counter()
    obj = signal.autotune_ptycho(random_state=seed, show_progressbar=False)
    seconds = time.perf_counter() - start
    scan = read_scan(signal, {}, False)
    score = make_objective("held_out", scan.experiment, random_state=seed)
    found = next(
        t for t in obj.trials if t["number"] == obj.metadata.Ptychography.tuning.best_trial
    )
    full = Fidelity(TRIAL_PASSES)
    expert_score = score(REAL_EXPERT, fidelity=full, random_state=seed)
    return {
        "seconds": seconds,
        "objective": found["objective"],
        "expert": expert_score.value,
        "best_parameters": obj.best_parameters,
        "intervals": obj.parameter_intervals,
        "n_trials": len(obj.trials),
    }


def py4dstem_optimizer(told: Told, seed: int, seconds: float, n_iterations: int) -> dict[str, Any]:
    """py4DSTEM's own optimiser, stopped when its time is over.

    Its object is compared with the truth in all eight orientations, and the best counts.
    """
    import py4DSTEM
    from py4DSTEM.process.phase import (
        OptimizationParameter,
        PtychographyOptimizer,
        SingleslicePtychography,
    )

    signal = told.signal
    cube = py4DSTEM.DataCube(np.asarray(signal.data, np.float32))
    cube.calibration.set_R_pixel_size(signal.axes_manager[0].scale)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(SCAN["reciprocal_pixel"])
    cube.calibration.set_Q_pixel_units("A^-1")
    vary = OptimizationParameter
    start, evaluations = time.perf_counter(), []

    class TimeIsOver(Exception):
        pass

    def error(solver) -> float:
        elapsed = time.perf_counter() - start
        value = float(np.log(solver.error))
        evaluations.append(
            {"seconds": elapsed, "error": value, "correlation": best_match(solver, told.truth)}
        )
        # at least the first guess and one more
        if elapsed > seconds and len(evaluations) > 1:
            raise TimeIsOver
        return value

    search = PtychographyOptimizer(
        SingleslicePtychography,
        init_args={
            "datacube": cube,
            "energy": FULL["beam_energy"] * 1e3,
            "semiangle_cutoff": FULL["convergence_angle"],
            "object_type": "complex",
            "device": "cpu",
            "defocus": vary(told.defocus, told.defocus - 200, told.defocus + 200),
            "C12": vary(0.0, 0.0, 140.0),
            "phi12": vary(0.0, -np.pi / 2, np.pi / 2),
        },
        affine_args={"dilation": vary(1.0, 0.97, 1.03)},
        preprocess_args={
            "force_com_rotation": vary(told.rotation, told.rotation - 10, told.rotation + 10),
            "force_com_transpose": False,
        },
        reconstruction_args={
            "num_iter": n_iterations,
            "max_batch_size": 128,
            "step_size": vary(0.5, 0.1, 1.0),
            "gaussian_filter": False,
            "butterworth_filter": False,
            "tv_denoise": False,
        },
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.suppress(TimeIsOver):
            search.optimize(
                n_calls=1000, n_initial_points=10, error_metric=error, random_state=seed
            )
    best = min(evaluations, key=lambda e: e["error"])
    return {
        "seconds": time.perf_counter() - start,
        "evaluations": evaluations,
        "n_iterations": n_iterations,
        "correlation": best["correlation"],
    }


def best_match(solver, truth) -> float:
    """Correlation of py4DSTEM's phase with the true one, in its best orientation and place."""
    phase = np.angle(solver.object_cropped)
    rows, columns = phase.shape
    phase = phase[rows // 5 : -(rows // 5), columns // 5 : -(columns // 5)]
    pixel = 1 / (SCAN["reciprocal_pixel"] * SCAN["detector_shape"][0])
    whole = true_phase(truth, pixel)
    return max(
        template_correlation(turned, whole)
        for flipped in (phase, phase.T)
        for turned in (np.rot90(flipped, k) for k in range(4))
    )


def true_phase(truth, pixel: float) -> np.ndarray:
    """The specimen's projected phase, on pixels of a reconstruction that sees the whole scan."""
    positions = bilayer.scan_positions(FULL)
    n = round(1 / (FULL["reciprocal_pixel"] * pixel))
    return bilayer.phase_slices(FULL, positions, n, pixel)[0].sum(0)


def template_correlation(template: np.ndarray, image: np.ndarray) -> float:
    """The highest Pearson correlation of a template with any part of an image."""
    template = template - template.mean()
    norm = np.linalg.norm(template)
    if not np.isfinite(norm) or norm == 0:
        return 0.0
    ones = np.ones_like(template)
    cross = fftconvolve(image, template[::-1, ::-1], "valid")
    total = fftconvolve(image, ones, "valid")
    squares = fftconvolve(image**2, ones, "valid")
    spread = np.sqrt(np.maximum(squares - total**2 / template.size, 1e-12))
    return float((cross / spread / norm).max())


def run(arguments) -> None:
    """Do whatever has no record yet."""
    path = Path(arguments.json)
    known = {(r["case"], r["seed"]) for r in read(path)}

    def wanted(case: str, seed: int) -> bool:
        return case in arguments.only and (case, seed) not in known

    def keep(case: str, seed: int, record: dict[str, Any]) -> None:
        stamp = {
            "case": case,
            "seed": seed,
            "machine": machine(),
            "date": str(date.today()),
        }
        with path.open("a") as file:
            file.write(json.dumps({**stamp, **record}) + "\n")
        brief = {k: v for k, v in record.items() if isinstance(v, float)}
        say(f"{case} {seed}: " + ", ".join(f"{k} {v:.5g}" for k, v in brief.items()))

    expected = None
    if arguments.expected:
        expected = np.load(arguments.expected, mmap_mode="r")
    for n, seed in enumerate(range(arguments.first, arguments.first + arguments.seeds)):
        cases = [c for c in SIMULATED if expected is not None and wanted(c, seed)]
        cases = [c for c in cases if n < SEEDS.get(c, arguments.seeds)]
        told = Told(expected, seed) if cases else None
        for case in cases:
            keep(case, seed, SIMULATED[case](told, seed))
        if arguments.real and wanted("real", n) and n < SEEDS["real"]:
            keep("real", n, tune_real(arguments.real, n))


SIMULATED = {
    "expert": lambda told, seed: expert(told),
    "multifidelity": lambda told, seed: tune(told, seed, "multifidelity", N_TRIALS),
    "full": lambda told, seed: tune(told, seed, "full", N_TRIALS),
    "random": lambda told, seed: tune(told, seed, "random", RANDOM_TRIALS),
    "py4DSTEM": lambda told, seed: py4dstem_optimizer(told, seed, 200.0, 4),
    "py4DSTEM, ten times as long": lambda told, seed: py4dstem_optimizer(told, seed, 1000.0, 8),
}
#: Seeds of the cases that take long.
SEEDS = {"full": 3, "random": 1, "py4DSTEM": 3, "py4DSTEM, ten times as long": 1, "real": 5}


def read(path: Path) -> list[dict[str, Any]]:
    """All records."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def simulate(path: str) -> None:
    """Patterns without noise, for `run`: a minute or two."""
    scan = data.twisted_bilayer_mos2(**SCAN, dose=None)
    np.save(path, scan.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("simulate")
    command.add_argument("file")
    command = commands.add_parser("run")
    command.add_argument("--expected", help="file that `simulate` wrote")
    command.add_argument("--real", help="the real scan, a file that hs.load reads")
    command.add_argument("--json", required=True)
    command.add_argument("--seeds", type=int, default=10)
    command.add_argument("--first", type=int, default=FIRST_SEED, help="the first seed")
    command.add_argument("--only", nargs="+", default=[*SIMULATED, "real"])
    command = commands.add_parser("report")
    command.add_argument("--json", required=True)
    command.add_argument("--out", required=True)
    command.add_argument("--plot", required=True)
    arguments = parser.parse_args()
    if arguments.command == "simulate":
        simulate(arguments.file)
    elif arguments.command == "run":
        run(arguments)
    else:
        from tuning_report import report

        report(read(Path(arguments.json)), arguments.out, arguments.plot)


if __name__ == "__main__":
    main()
