"""How well trials of several lengths know the scale of the scan.

    python benchmarks/tuning.py simulate expected.npy
    python benchmarks/tuning_lengths.py expected.npy --seeds 2 --looks 4

On the simulated scan of benchmarks/tuning.py, with the true parameters, the scale is changed by
1.8 % to both sides of the truth, in trials of the same order of the positions; the parabola through
the three held-out deviances gives its optimum. For every length: by how much the optima are off,
how they scatter over orders of the positions, at full length over halves of the counts that judge
each other too, and the standard error that the scatter over blocks of the scan gives, which is that
of the counts that were held out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from reporting import machine, rst_table, say
from tuning import EXPERT, TRIAL_PASSES
from tuning_scan import Told

from hs_autoptycho._scan import read_scan
from hs_autoptycho.tuning.objectives import make_objective
from hs_autoptycho.tuning.trial import Fidelity

STEP = 0.018
FULL = Fidelity(TRIAL_PASSES)
LENGTHS = (
    Fidelity(TRIAL_PASSES // 3, 0.5),
    Fidelity(TRIAL_PASSES, 0.5),
    Fidelity(TRIAL_PASSES // 2),
    FULL,
    Fidelity(TRIAL_PASSES, reduction=2),
)


def optimum(score, told: Told, length: Fidelity, order: int) -> tuple[float, float]:
    """Where the parabola has its minimum, and its standard error, in per cent of the scale."""
    below, middle, above = (
        np.array(
            score(
                {**EXPERT, "scan_scale": told.scale + shift}, fidelity=length, random_state=order
            ).blocks
        )
        for shift in (-STEP, 0.0, STEP)
    )
    shifts = (below - above) / (2 * (below + above - 2 * middle).mean())
    return 100 * STEP * shifts.mean(), 100 * STEP * shifts.std(ddof=1) / np.sqrt(len(shifts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expected", help="file that `tuning.py simulate` wrote")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--looks", type=int, default=4, help="orders of the positions, and halves")
    arguments = parser.parse_args()
    expected = np.load(arguments.expected, mmap_mode="r")
    n = arguments.looks
    kinds = [(length, "orders") for length in LENGTHS] + [(FULL, "halves")]
    found: dict[tuple, list[list[tuple[float, float]]]] = {kind: [] for kind in kinds}
    for seed in range(arguments.seeds):
        told = Told(expected, seed)
        scan = read_scan(told.signal, EXPERT, False)
        score = make_objective("held_out", scan.experiment, random_state=seed)
        for length, others in kinds:
            if others == "orders":
                optima = [optimum(score, told, length, order) for order in range(n)]
            else:
                halves = [replace(length, split=1 + split) for split in range(n)]
                optima = [optimum(score, told, half, 0) for half in halves]
            found[length, others].append(optima)
            looks = ", ".join(f"{o:+.2f} ± {e:.2f} %" for o, e in optima)
            say(f"seed {seed}, {length}, {others}: {looks}")
    rows = []
    for (length, others), looks in found.items():
        optima, errors = np.moveaxis(np.array(looks), -1, 0)
        scatter = np.sqrt(np.mean(np.var(optima, axis=1, ddof=1)))
        part = "whole" if length.part == 1 else f"{length.part:g} of it"
        work = f"{3 * length.cost(FULL):.2f}"
        numbers = (f"{optima.mean():+.2f}", f"{scatter:.2f}", f"{errors.mean():.2f}")
        rows.append([length.n_iterations, part, length.reduction, work, others, *numbers])
    head = ["passes", "scan", "reduction", "full lengths", "over", "off by %", "scatter", "error"]
    say(rst_table(head, rows))
    say(f"{arguments.seeds} seeds with {n} looks each. {machine()}.")


if __name__ == "__main__":
    main()
