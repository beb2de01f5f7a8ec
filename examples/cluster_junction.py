"""
Domains without saying how many
===============================

Nanobeam diffraction of two simulated specimens, clustered into a tree that stops by itself: a
junction of WS2 and WSe2 on a membrane, in which the WSe2 is strained, flat and rippled, and the
four ferroelectric domains of SnSe, as in Shi et al., npj Comput. Mater. 8, 114 (2022). Run it with
``python examples/cluster_junction.py [FOLDER]``; the pictures are written to FOLDER, the current
one by default.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.metrics import adjusted_rand_score

from hs_autoptycho import data


def report(name, clusters, scan):
    """Compare every level with the truth."""
    sys.stdout.write(f"{name}: {clusters.n_clusters} clusters on {clusters.n_levels} levels\n")
    levels = zip(clusters.data, data.true_domains(scan).data, strict=False)
    for level, (found, true) in enumerate(levels, 1):
        score = adjusted_rand_score(true.ravel(), found.ravel())
        sys.stdout.write(
            f"  level {level}: {found.max() + 1} clusters, {true.max() + 1} true domains, adjusted "
            f"Rand index {score:.3f}\n"
        )


def draw_differences(clusters, pairs):
    """Mean patterns of one cluster less another's, in standard errors."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(pairs), figsize=(12, 4), layout="constrained")
    for ax, (a, b) in zip(axes, pairs, strict=True):
        image = clusters.difference(a, b, standard_errors=True).data
        limit = np.percentile(np.abs(image), 99.5)
        shown = ax.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"cluster {a} − cluster {b}")
        ax.set_axis_off()
        figure.colorbar(shown, ax=ax, label="standard errors", shrink=0.8)
    return figure


if __name__ == "__main__":
    matplotlib.use("Agg")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    folder.mkdir(parents=True, exist_ok=True)

    # %%
    # A scan with 300 electrons a pattern, and one method.
    scan = data.ws2_wse2_junction(electrons=300)
    clusters = scan.cluster_hierarchical()
    report("WS2-WSe2 junction", clusters, scan)

    # %%
    # Level 1 separates membrane, WS2 and WSe2, level 2 the strained, flat and rippled WSe2.
    clusters.plot_tree().savefig(folder / "junction_tree.png", dpi=80)
    clusters.plot_overlay().savefig(folder / "junction_overlay.png", dpi=80)
    clusters.save(folder / "junction_clusters.hspy", overwrite=True)

    # %%
    # The lattice of every pattern, seeded by its cluster's, against the flat WSe2, cluster 1. The
    # smoothing averages lattices within a cluster, over a neighbourhood of about nine patterns.
    strain = clusters.map_strain(scan, reference=1, spatial_smoothing=0.8)
    strain.plot_summary().savefig(folder / "junction_strain.png", dpi=80)
    sys.stdout.write(f"  strain in %, against {strain.reference['description']}:\n")
    for row in strain.cluster_statistics:
        if row["n"]:
            values = ", ".join(
                f"{name} {100 * row[name]['mean']:+.2f} ± {100 * row[name]['standard_error']:.2f}"
                for name in ("e_xx", "e_yy", "e_xy")
            )
            sys.stdout.write(f"    cluster {row['cluster']}: {values}\n")

    # %%
    # SnSe: the two super-domains first, then what their domains differ by, the asymmetry of
    # Friedel pairs, in the differences of mean patterns.
    scan = data.snse_domains(electrons=300)
    clusters = scan.cluster_hierarchical()
    report("SnSe", clusters, scan)
    clusters.plot_tree().savefig(folder / "snse_tree.png", dpi=80)
    pairs = [(0, 1), (2, 3), (0, 2)]
    draw_differences(clusters, pairs).savefig(folder / "snse_differences.png", dpi=80)
    sys.stdout.write(f"pictures and clusters are in {folder.resolve()}\n")
