"""How often the truth is within the intervals that the tuner tells.

Scans of twisted bilayer MoS2 (28 × 28 positions, 64 × 64 pixels, 1e5 electrons/Å²) are simulated,
each with another noise and with rotation, defocus and astigmatism drawn at random, and tuned with
nothing said. An interval holds 68 % of the probability. The one command, some two minutes a scan:

    python benchmarks/tuning_intervals.py [--scans 12] [--trials 60]
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
from reporting import machine, say, table, versions

from hs_autoptycho import data

#: What is drawn, between these. The probe has to fit its window.
RANGES = {
    "scan_rotation": (-30.0, 30.0),
    "defocus": (120.0, 210.0),
    "C12a": (-25.0, 25.0),
    "C12b": (-25.0, 25.0),
}
#: One slice in the middle of the planes of atoms has less defocus than the first plane, in Å.
MIDDLE = 5.0


def tuned(seed: int, n_trials: int) -> dict[str, tuple[float, float, float]]:
    """What was found, less the truth, by parameter: the value, and both ends of its interval."""
    generator = np.random.default_rng(seed)
    truth = {name: float(generator.uniform(*limits)) for name, limits in RANGES.items()}
    scan = data.twisted_bilayer_mos2(**truth, random_state=seed)
    obj = scan.autotune_ptycho(n_trials=n_trials, random_state=seed, show_progressbar=False)
    truth["defocus"] -= MIDDLE
    return {
        name: tuple(
            float(x) - true for x in (obj.best_parameters[name], *obj.parameter_intervals[name])
        )
        for name, true in truth.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--trials", type=int, default=60)
    arguments = parser.parse_args()
    logging.getLogger("hs_autoptycho").setLevel(logging.ERROR)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in RANGES}
    for seed in range(arguments.first, arguments.first + arguments.scans):
        for name, values in tuned(seed, arguments.trials).items():
            found[name].append(values)
        parts = [
            f"{name} {v[-1][0]:+.3g} ({v[-1][1]:+.3g} to {v[-1][2]:+.3g})"
            for name, v in found.items()
        ]
        say(f"seed {seed}, less the truth: {', '.join(parts)}")
    rows = []
    for name, values in found.items():
        value, low, high = np.array(values).T
        inside = int(((low <= 0) & (high >= 0)).sum())
        ratio = (low + high) / (high - low)
        rows.append(
            [name, f"{np.sqrt(np.mean(value**2)):.3g}", f"{np.median(high - low) / 2:.3g}",
             f"{inside} of {len(value)}", f"{np.sqrt(np.mean(ratio**2)):.2f}"]
        )  # fmt: skip
    head = ["parameter", "rms error", "half an interval", "truth within", "rms distance, half ones"]
    say(table(head, rows))
    say(f"{machine()}; {versions('hs_autoptycho', 'numpy')}")


if __name__ == "__main__":
    main()
