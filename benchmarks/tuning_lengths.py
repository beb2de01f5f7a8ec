"""How well trials of several lengths know the scale of the scan.

    python benchmarks/tuning.py simulate expected.npy
    python benchmarks/tuning_lengths.py expected.npy --seeds 2 --orders 4

On the simulated scan of benchmarks/tuning.py, with the true parameters, the scale is changed by
0.9 % to both sides of the truth, in trials of the same order of the positions; the parabola through
the three held-out deviances gives its optimum. For every length: by how much the optima are off,
and how they scatter over orders of the positions.
"""

from __future__ import annotations

import argparse

import numpy as np
from reporting import machine, rst_table, say
from tuning import EXPERT, TRIAL_PASSES
from tuning_scan import Told

from hs_autoptycho._scan import read_scan
from hs_autoptycho.tuning.objectives import make_objective
from hs_autoptycho.tuning.trial import Fidelity

STEP = 0.009
FULL = Fidelity(TRIAL_PASSES)
LENGTHS = (
    Fidelity(TRIAL_PASSES // 3, 0.5),
    Fidelity(TRIAL_PASSES, 0.5),
    Fidelity(TRIAL_PASSES // 2),
    FULL,
    Fidelity(TRIAL_PASSES, reduction=2),
)


def optimum(score, told: Told, length: Fidelity, order: int) -> float:
    """Where the parabola has its minimum, in per cent of the scale."""
    below, middle, above = (
        score(
            {**EXPERT, "scan_scale": told.scale + shift},
            fidelity=length,
            random_state=order,
        ).value
        for shift in (-STEP, 0.0, STEP)
    )
    return 100 * STEP * (below - above) / (2 * (below + above - 2 * middle))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expected", help="file that `tuning.py simulate` wrote")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--orders", type=int, default=4)
    arguments = parser.parse_args()
    expected = np.load(arguments.expected, mmap_mode="r")
    found: dict[Fidelity, list[list[float]]] = {length: [] for length in LENGTHS}
    for seed in range(arguments.seeds):
        told = Told(expected, seed)
        scan = read_scan(told.signal, EXPERT, False)
        score = make_objective("held_out", scan.experiment, random_state=seed)
        for length in LENGTHS:
            optima = [optimum(score, told, length, order) for order in range(arguments.orders)]
            found[length].append(optima)
            say(f"seed {seed}, {length}: " + ", ".join(f"{o:+.2f} %" for o in optima))
    rows = []
    for length, optima in found.items():
        scatter = np.sqrt(np.mean(np.var(optima, axis=1, ddof=1)))
        part = "whole" if length.part == 1 else f"{length.part:g} of it"
        rows.append([length.n_iterations, part, length.reduction, f"{3 * length.cost(FULL):.2f}",
                     f"{np.mean(optima):+.2f}", f"{scatter:.2f}"])  # fmt: skip
    head = ["passes", "scan", "reduction", "full lengths", "off by %", "scatter %"]
    say(rst_table(head, rows))
    say(f"{arguments.seeds} seeds with {arguments.orders} orders each. {machine()}.")


if __name__ == "__main__":
    main()
