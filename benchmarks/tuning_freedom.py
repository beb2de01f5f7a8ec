"""How many probe modes and slices: what the tuner chooses, and what the training error would.

Scans of twisted bilayer MoS2 (24 × 26 positions, 64 × 64 pixels, 1e5 electrons/Å²) are simulated
with a probe of one mode or two (a quarter of the power in the second), and with an object that is
one slice or two, 60 Å apart. The geometry is told; the tuner chooses among 1, 2 and 4. One command,
a few minutes:

    python benchmarks/tuning_freedom.py [--seeds 10] [--doses 1e4 1e5 1e6]
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
from recoveries import with_second_mode
from reporting import machine, say, table, versions

from hs_autoptycho.data import _multislice as multislice
from hs_autoptycho.data import _twisted_bilayer_mos2 as bilayer

SCAN = {
    "scan_shape": (24, 26),
    "detector_shape": (64, 64),
    "scan_step": 0.9,
    "reciprocal_pixel": 0.0625,
    "beam_energy": 80.0,
    "convergence_angle": 21.4,
    "defocus": 150.0,
    "scan_rotation": 12.0,
    "source_size": 0.0,
    "beam_shift": (0.0, 0.0),
    "position_jitter": 0.0,
    **dict.fromkeys(bilayer.ABERRATIONS, 0.0),
}
SPACING = 60.0  # Å
SECOND_MODE = 0.25
CHOICES = [1, 2, 4]


def expected(n_modes: int, n_slices: int) -> np.ndarray:
    """Patterns without noise."""
    n = bilayer._grid_size(SCAN)
    pixel = 1 / (n * SCAN["reciprocal_pixel"])
    positions = bilayer.scan_positions(SCAN)
    phases, origin = bilayer.phase_slices(SCAN, positions, n, pixel)
    # the lower layer's planes of atoms in one slice, the upper layer's in the other
    phases = np.array([part.sum(0) for part in np.array_split(phases, n_slices)])
    probe = bilayer.probe_modes(SCAN, (n, n))
    if n_modes == 2:
        probe = with_second_mode(probe[0], SECOND_MODE)
    patterns = multislice.diffraction_patterns(
        multislice.transmission_functions(phases, pixel),
        np.full(n_slices - 1, SPACING),
        probe,
        (positions - origin) / pixel,
        pixel,
        multislice.electron_wavelength(SCAN["beam_energy"]),
        SCAN["detector_shape"],
    )
    return patterns.reshape(*SCAN["scan_shape"], *SCAN["detector_shape"])


def chosen(patterns: np.ndarray, dose: float, seed: int, name: str) -> tuple[int, int]:
    """What the tuner chooses on counts of this seed, and what fits them best."""
    counts = np.random.default_rng(seed).poisson(patterns * (dose * SCAN["scan_step"] ** 2))
    parameters = {**SCAN, "dose": dose, "random_state": seed}
    signal = bilayer._as_signal(counts.astype(np.uint16), parameters)
    fixed = {"defocus": SCAN["defocus"], "scan_rotation": SCAN["scan_rotation"]}
    if name == "n_slices":
        # n slices stand for n distances
        fixed["thickness"] = 2 * SPACING
    obj = signal.autotune_ptycho(
        {name: CHOICES},
        fixed=fixed,
        strategy="full",
        n_trials=len(CHOICES),
        n_iterations=1,
        n_trial_iterations=20,
        random_state=seed,
        show_progressbar=False,
    )
    by_error = min(obj.trials, key=lambda trial: trial["metrics"]["data_error"])
    return obj.best_parameters[name], by_error["parameters"][name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--doses", type=float, nargs="+", default=[1e4, 1e5, 1e6])
    arguments = parser.parse_args()
    logging.getLogger("hs_autoptycho").setLevel(logging.ERROR)
    rows = []
    for name in ("n_probe_modes", "n_slices"):
        for truth in (1, 2):
            numbers = {"n_modes": 1, "n_slices": 1}
            numbers["n_modes" if name == "n_probe_modes" else "n_slices"] = truth
            patterns = expected(**numbers)
            for dose in arguments.doses:
                found = [chosen(patterns, dose, seed, name) for seed in range(arguments.seeds)]
                right = [sum(n == truth for n in column) for column in zip(*found, strict=True)]
                kinds = [sorted(set(column)) for column in zip(*found, strict=True)]
                rows.append(
                    [name, truth, f"{dose:g}", f"{right[0]} of {len(found)} {kinds[0]}",
                     f"{right[1]} of {len(found)} {kinds[1]}"]
                )  # fmt: skip
                say(" ".join(map(str, rows[-1])))
    head = ["parameter", "truth", "dose e/Å²", "tuner right", "training error right"]
    say(table(head, rows))
    say(f"{machine()}; {versions('hs_autoptycho', 'numpy')}")


if __name__ == "__main__":
    main()
