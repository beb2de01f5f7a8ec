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
from matplotlib import pyplot as plt
from sklearn.metrics import adjusted_rand_score

from hs_autoptycho import data

matplotlib.use("Agg")  # pictures are written, and no window is opened
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
folder.mkdir(parents=True, exist_ok=True)

# %%
# A junction of WS2 and WSe2
# --------------------------
# A scan with 300 electrons a pattern, and one method.
scan = data.ws2_wse2_junction(electrons=300)
clusters = scan.cluster_hierarchical(show_progressbar=False)
print(clusters)


# %%
# Every level beside the truth: level 1 separates membrane, WS2 and WSe2, level 2 the strained, flat
# and rippled WSe2.
def report(name, clusters, scan):
    """Compare every level with the truth."""
    print(f"{name}: {clusters.n_clusters} clusters on {clusters.n_levels} levels")
    levels = zip(clusters.data, data.true_domains(scan).data, strict=False)
    for level, (found, true) in enumerate(levels, 1):
        score = adjusted_rand_score(true.ravel(), found.ravel())
        print(
            f"  level {level}: {found.max() + 1} clusters, {true.max() + 1} true domains, adjusted "
            f"Rand index {score:.3f}"
        )


report("WS2-WSe2 junction", clusters, scan)

# %%
# Under each split stand the number of positions, the part of the scan's structure that it accounts
# for (gain), its significance in standard errors, and the agreement between what two halves of the
# counts propose (stability). Beside each leaf stands why it was not split further.
clusters.plot_tree().savefig(folder / "junction_tree.png", dpi=80)

# %%
# The same clusters over an image of the scan.

# sphinx_gallery_thumbnail_number = 2
clusters.plot_overlay().savefig(folder / "junction_overlay.png", dpi=80)
clusters.save(folder / "junction_clusters.hspy", overwrite=True)

# %%
# Strain
# ------
# The lattice of every pattern, seeded by its cluster's, against the flat WSe2, cluster 1. The
# smoothing averages lattices within a cluster, over a neighbourhood of about nine patterns.
strain = clusters.map_strain(scan, reference=1, spatial_smoothing=0.8, show_progressbar=False)
strain.plot_summary().savefig(folder / "junction_strain.png", dpi=80)

# %%
# Means of the clusters, with standard errors.
print(f"strain in %, against {strain.reference['description']}:")
for row in strain.cluster_statistics:
    if row["n"]:
        values = ", ".join(
            f"{name} {100 * row[name]['mean']:+.2f} ± {100 * row[name]['standard_error']:.2f}"
            for name in ("e_xx", "e_yy", "e_xy")
        )
        print(f"  cluster {row['cluster']}: {values}")

# %%
# The four domains of SnSe
# ------------------------
# The two super-domains first, in which the axes of the crystal are exchanged, then domains of
# opposite polarisation.
scan = data.snse_domains(electrons=300)
clusters = scan.cluster_hierarchical(show_progressbar=False)
report("SnSe", clusters, scan)
clusters.plot_tree().savefig(folder / "snse_tree.png", dpi=80)


# %%
# Domains of one super-domain have the same lattice. The asymmetry of Friedel pairs tells them
# apart, as the differences of mean patterns show (left and middle); between super-domains the
# reflections move (right).
def draw_differences(clusters, pairs):
    """Mean patterns of one cluster less another's, in standard errors."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(12, 4), layout="constrained")
    for ax, (a, b) in zip(axes, pairs, strict=True):
        image = clusters.difference(a, b, standard_errors=True).data
        limit = np.percentile(np.abs(image), 99.5)
        shown = ax.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"cluster {a} − cluster {b}")
        ax.set_axis_off()
        figure.colorbar(shown, ax=ax, label="standard errors", shrink=0.8)
    return figure


pairs = [(0, 1), (2, 3), (0, 2)]
draw_differences(clusters, pairs).savefig(folder / "snse_differences.png", dpi=80)
