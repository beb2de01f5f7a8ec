"""How accurate strain is at a dose, and whether its standard errors are true.

The simulated junction of WS2 and WSe2 at 1000 electrons a pattern is clustered and its strain
mapped, from nothing but the patterns, and compared with the strain that was put in: single
positions in a scan with small disks (0.6 mrad, 256 × 256 pixels), and averages over a neighbourhood
with the default detector (1.5 mrad, 128 × 128 pixels). One command, two to three minutes:

    python benchmarks/strain.py [--electrons 1000] [--seed 0]
"""

import argparse
import logging

import numpy as np
from reporting import machine, say, table, versions

from hs_autoptycho.data import (
    domain_purity,
    true_domains,
    true_lattices,
    true_strain,
    ws2_wse2_junction,
)

SCANS = {
    "256 × 256, 0.6 mrad, single positions": (
        {"detector_shape": (256, 256), "convergence_angle": 0.6},
        0.0,
    ),
    "128 × 128, 1.5 mrad, single positions": ({}, 0.0),
    "128 × 128, 1.5 mrad, smoothing 0.8": ({}, 0.8),
}
COMPONENTS = ("e_xx", "e_yy", "e_xy")


def measure(electrons: float, seed: int, options: dict, smoothing: float):
    """Rows of the table for one scan, and the profile of its strained against its flat WSe2."""
    scan = ws2_wse2_junction(electrons=electrons, random_state=seed, **options)
    clusters = scan.cluster_hierarchical(random_state=seed, show_progressbar=False)
    truth = true_domains(scan)
    domains, names = truth.data[-1], truth.metadata.Simulation.names[-1]
    inside = domain_purity(scan).data > 0.95
    leaves = clusters.leaf_labels
    found = [np.bincount(leaves[(domains == k) & (leaves >= 0)]).argmax() for k in range(5)]
    flat, strained = (found[_index(names, word)] for word in ("flat", "strained"))
    # against the ideal lattice, so that the error is that of the positions alone
    ideal = next(value for key, value in true_lattices(scan).items() if "flat" in key)
    strain = clusters.map_strain(
        scan, reference=ideal, spatial_smoothing=smoothing, show_progressbar=False
    )
    true = true_strain(scan).data
    rows = []
    for word in ("strained", "flat"):
        k = _index(names, word)
        here = inside & (domains == k) & (leaves == found[k])
        here &= np.isfinite(strain.data[0])
        error = (strain.data - true)[:3, here].astype(float)
        stated = strain.standard_errors.data[:3, here].astype(float)
        rows.append(
            [
                f"WSe2 {word}",
                np.count_nonzero(here),
                *(f"{100 * s:.3f}" for s in error.std(1)),
                *(f"{100 * b:+.3f}" for b in error.mean(1)),
                *(f"{100 * np.sqrt((s**2).mean()):.3f}" for s in stated),
                *(f"{p:.2f}" for p in (error / stated).std(1)),
            ]
        )
    return rows, strain.boundary_profile(int(strained), int(flat), "e_xx"), scan, strain


def _index(names, word: str) -> int:
    return next(k for k, name in enumerate(names) if word in name)


def slopes(profile, scan, strain):
    """Measured and true gradient of e_xx in the strained region, in % a 100 Å."""
    axis = profile.axes_manager.signal_axes[0].axis
    errors = np.asarray(profile.metadata.Strain_profile.standard_error)
    step = scan.axes_manager[0].scale
    true = strain.deepcopy()
    true.data = np.where(np.isfinite(strain.data), true_strain(scan).data, np.nan)
    exact = true.boundary_profile(*_pair(profile), "e_xx").data
    used = (axis < -1.5 * step) & np.isfinite(profile.data) & (errors > 0)
    weights = 1 / errors[used]
    measured = np.polyfit(axis[used], profile.data[used], 1, w=weights, cov="unscaled")
    imposed = np.polyfit(axis[used], exact[used], 1, w=weights)
    return 1e4 * measured[0][0], 1e4 * np.sqrt(measured[1][0, 0]), 1e4 * imposed[0]


def _pair(profile):
    return [int(k) for k in profile.metadata.Strain_profile.clusters]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--electrons", type=float, default=1000.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("hs_autoptycho").setLevel(logging.ERROR)
    say(machine())
    say(versions("hs_autoptycho", "numpy"))
    say(f"{arguments.electrons:g} electrons a pattern; all but the counts and pulls in %")
    head = ["scan", "domain", "positions"]
    for quantity in ("error (1 σ)", "bias", "reported", "pull (1 σ)"):
        head += [f"{quantity} {name}" for name in COMPONENTS]
    rows, lines = [], []
    for name, (options, smoothing) in SCANS.items():
        found, profile, scan, strain = measure(
            arguments.electrons, arguments.seed, options, smoothing
        )
        rows += [[name, *row] for row in found]
        measured, error, imposed = slopes(profile, scan, strain)
        lines.append(
            f"{name}: gradient of e_xx in the strained WSe2 {measured:.3f} ± {error:.3f} % a 100 Å "
            f"(imposed: {imposed:.3f})"
        )
    say(table(head, rows))
    for line in lines:
        say(line)


if __name__ == "__main__":
    main()
