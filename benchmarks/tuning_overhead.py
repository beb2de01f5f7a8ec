"""What the tuner itself takes, against a trial: an ask and a tell after so many trials.

    python benchmarks/tuning_overhead.py rotavirus_A.hspy

Ten parameters. Scores are of a smooth function with noise, so that there can be many trials in
little time; asking (:meth:`Strategy.propose`) and telling (:meth:`Study.append`, on disk) are what
`autotune_ptycho` does. Trials of its three lengths are timed on the scan of the file, in the same
run, with the parameters that its metadata and :func:`estimate_geometry` give.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import hyperspy.api as hs
import numpy as np
from reporting import machine, say, table, versions

import hs_autoptycho
from hs_autoptycho._scan import read_scan
from hs_autoptycho.tuning.objectives import make_objective
from hs_autoptycho.tuning.schedule import cheap_fidelity, middle_fidelity
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.strategies import make_strategy
from hs_autoptycho.tuning.study import Study
from hs_autoptycho.tuning.trial import Fidelity, Trial

FULL = Fidelity(12)
SPACE = (
    Dimension("scan_rotation", -180.0, 0.0),
    Dimension("defocus", 5e4, 2.5e5),
    Dimension("scan_scale", 0.95, 1.05),
    *(Dimension(name, -5e3, 5e3) for name in ("C12a", "C12b", "C21a", "C21b")),
    Dimension("n_probe_modes", choices=(1, 2, 4)),
    Dimension("source_size", 0.0, 20.0),
    Dimension("step_object", 0.1, 1.5, log=True),
)
BLOCKS = 49
#: Trials all together; of each kind the asks within so many of these numbers are taken together.
N_TRIALS, SHOWN = 280, ((10, 40), (80, 120), (180, 220))


def score(trial: Trial, generator: np.random.Generator) -> None:
    """A valley, and noise."""
    off = [d.place(trial.parameters[d.name]) - 0.6 for d in SPACE if d.name in trial.parameters]
    blocks = np.dot(off, off) + 1e-3 * generator.normal(size=BLOCKS)
    trial.objective, trial.blocks = float(blocks.mean()), blocks.tolist()
    trial.curve = [(trial.fidelity.n_iterations, trial.objective)]


def overhead(strategy: str, file: Path) -> list[tuple[int, float]]:
    """Number of trials told, and seconds of the ask and the tell that followed."""
    plan = make_strategy(strategy, SPACE, full=FULL, n_positions=2304, n_trials=N_TRIALS)
    generator, out = np.random.default_rng(0), []
    with Study.open(file, {"n_trials": N_TRIALS}) as study:
        for number in range(SHOWN[-1][1]):
            start = time.perf_counter()
            trial = plan.propose(study.trials, [])
            asked = time.perf_counter() - start
            score(trial, generator)
            start = time.perf_counter()
            study.append(trial)
            plan.best(study.trials)
            out.append((number, asked + time.perf_counter() - start))
    return out


def trials(path: str) -> dict[str, float]:
    """Seconds of a trial of each length on the scan of a file; the best of three."""
    signal = hs.load(path)
    scan = read_scan(signal, {}, False)
    found = hs_autoptycho.estimate_geometry(signal)
    parameters = {"defocus": found.defocus, "scan_rotation": found.scan_rotation}
    cheap = cheap_fidelity(FULL, int(np.prod(scan.experiment.geometry.scan_shape)))
    lengths = {"short": cheap, "medium": middle_fidelity(FULL, cheap), "full": FULL}
    objective = make_objective("held_out", scan.experiment, random_state=0)
    seconds = {}
    for name, fidelity in lengths.items():
        objective({**parameters, "n_probe_modes": 2}, fidelity=fidelity, random_state=0)
        times = []
        for seed in range(3):
            start = time.perf_counter()
            objective({**parameters, "n_probe_modes": 2}, fidelity=fidelity, random_state=seed)
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    return seconds


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lengths = trials(sys.argv[1])
    say(f"{machine()}; {versions('numpy', 'scikit-optimize', 'hs_autoptycho')}\n")
    say("A trial takes " + ", ".join(f"{s:.2f} s ({name})" for name, s in lengths.items()) + "\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for strategy in ("multifidelity", "full"):
            asks = overhead(strategy, Path(folder) / f"{strategy}.jsonl")
            for first, last in SHOWN:
                own = np.mean([s for number, s in asks if first <= number < last])
                shares = [f"{100 * own / s:.1f} %" for s in lengths.values()]
                rows.append([strategy, f"{first} to {last}", f"{own:.3f}", *shares])
    heads = [f"of a {name} trial" for name in lengths]
    say(table(["strategy", "trials told", "ask + tell, s", *heads], rows))


if __name__ == "__main__":
    main()
