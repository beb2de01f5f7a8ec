"""
An experiment designed by simulation
====================================

How should a dose be spent? A specimen is given (a bilayer of MoS2, twisted by 30 degrees), and
scan step, defocus and convergence angle are searched for which the reconstruction is closest to
the truth, at two doses. Run it with ``python examples/design_experiment.py [FOLDER]``; it takes a
minute or two, and the pictures are written to FOLDER, the current one by default.
"""

import sys
from pathlib import Path

import matplotlib

from hs_autoptycho import data, design_experiment

matplotlib.use("Agg")  # pictures are written, and no window is opened
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
folder.mkdir(parents=True, exist_ok=True)

# %%
# The specimen
# ------------
# A potential as a HyperSpy signal, calibrated in Å. It is larger than the field that is scanned by
# the window of the probe.
potential = data.twisted_bilayer_mos2_potential(field=36.0)
print(potential)

# %%
# The search
# ----------
# Doses in electrons per Å², ranges, and settings to compare with. This is a small field, small
# patterns and few trials; the defaults are 128 × 128 pixels and 60 trials a dose.
design = design_experiment(
    potential,
    [500, 1e5],
    {
        "scan_step": (0.6, 3.0),
        "defocus": (0, 300),
        "convergence_angle": (12, 30),
    },
    reference={"scan_step": 0.85, "defocus": 250, "convergence_angle": 21.4},
    field_of_view=18.0,
    detector_shape=(64, 64),
    n_trials=16,
    n_repeats=2,
    show_progressbar=False,
)

# %%
# Best settings, and scores over noise that the search has not seen.
print(f"{'e/Å²':>8}{'step Å':>8}{'defocus Å':>11}{'mrad':>6}{'best':>8}{'ref.':>8}")
for best, score, reference in zip(
    design.best_parameters, design.best_scores, design.reference_scores, strict=True
):
    print(
        f"{best['dose']:8g}{best['scan_step']:8.2f}{best['defocus']:11.0f}"
        f"{best['convergence_angle']:6.1f}{score['mean']:8.3f}{reference['mean']:8.3f}"
    )
for note in design.notes:
    print(f"note: {note}")

# %%
# What is seen
# ------------
# How many of the atoms that are 1.75 Å apart are seen as two.
pairs = data.atom_pairs(potential, 1.75)
for dose, seen in zip(design.doses, design.resolved_pairs(pairs), strict=True):
    parts = ", ".join(f"{name} {pair.fraction:.0%}" for name, pair in seen.items())
    chance = seen["best"].chance
    print(f"pairs resolved at {dose:g} e/Å²: {parts} (chance {chance:.0%})")

# %%
# Scores by dose and by setting, and the reconstructions.
design.plot().savefig(folder / "design.png", dpi=100)

# %%
# The response surface at the lower dose with its uncertainty, as HyperSpy signals; and all of it in
# one file.
expected, uncertainty = design.response(500, "scan_step", "convergence_angle")
print(expected, uncertainty, sep="\n")
design.save(folder / "design_result.hspy", overwrite=True)
