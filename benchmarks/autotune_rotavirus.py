"""Tune scan rotation and defocus of a real defocused-probe scan, from several seeds.

The scan is that of frozen-hydrated rotavirus particles published with Ptycho.jl (Xiaopeng Wu and Yu
Lei; MIT licence), as a HyperSpy file: 48 × 48 positions, 128 × 128 detector pixels, 300 kV.
Measured independently, from bright-field shifts and the centre of mass, its scan rotation is
−120.4° and its defocus 133 to 139 thousand Å.

    python benchmarks/autotune_rotavirus.py rotavirus_A.hspy [--seeds 0 1 2 3 4] [--picture FILE]

prints a line a seed and exits with 1 unless every seed found the rotation within 2.5° and a defocus
of 130 to 150 thousand Å.
"""

import argparse
import sys
import time

import hyperspy.api as hs
import matplotlib

ROTATION, TOLERANCE = -120.4, 2.5
DEFOCUS = 130e3, 150e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--picture", help="where to write the last result's summary")
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    found = 0
    for seed in arguments.seeds:
        scan = hs.load(arguments.file, lazy=True)
        start = time.perf_counter()
        obj = scan.autotune_ptycho(
            parameters={"scan_rotation": (-180, 0), "defocus": (50e3, 250e3)},
            n_trials=40,
            random_state=seed,
        )
        seconds = time.perf_counter() - start
        best = obj.best_parameters
        right = (
            abs(best["scan_rotation"] - ROTATION) <= TOLERANCE
            and DEFOCUS[0] <= best["defocus"] <= DEFOCUS[1]
        )
        found += right
        sys.stdout.write(
            f"seed {seed}: rotation {best['scan_rotation']:.2f} degrees, defocus "
            f"{best['defocus']:.0f} Å, {'right' if right else 'WRONG'}, {seconds:.0f} s\n"
        )
        sys.stdout.flush()
    sys.stdout.write(f"{found} of {len(arguments.seeds)} right\n")
    if arguments.picture:
        obj.plot_summary().savefig(arguments.picture, dpi=100)
    return 0 if found == len(arguments.seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
