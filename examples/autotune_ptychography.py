"""
Ptychography that tunes itself
==============================

From a 4D-STEM scan to a calibrated phase image, with the parameters found from the data. The scan
is simulated (a twisted bilayer of MoS2 at 80 kV, Poisson noise), so that what was found can be
compared with what was put in. Run it with ``python examples/autotune_ptychography.py [FOLDER]``;
the pictures are written to FOLDER, the current one by default.
"""

import sys
from pathlib import Path

import matplotlib

from hs_autoptycho import data

matplotlib.use("Agg")  # pictures are written, and no window is opened
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
folder.mkdir(parents=True, exist_ok=True)

# %%
# The scan
# --------
# A signal as ``hs.load`` gives it: calibrated axes, beam energy and convergence angle in the
# metadata. Neither the scan rotation nor the defocus is in there.
scan = data.twisted_bilayer_mos2()
print(scan)
print(scan.metadata.Acquisition_instrument)

# %%
# Tuning
# ------
# One method. It measures the geometry, tries parameters, scores each on counts that were held out,
# polishes the best, and reconstructs with them at full length.
obj = scan.autotune_ptycho(n_trials=30, show_progressbar=False)
print(obj)

# %%
# What was found, and how sure it is, beside what was put in. One slice in the middle of the bilayer
# has 5 Å less defocus than its first plane of atoms.
truth = scan.metadata.Simulation
print(f"{'parameter':16}{'tuned':>10}{'68 % interval':>24}{'true':>10}")
for name, value in obj.best_parameters.items():
    interval, true = obj.parameter_intervals.get(name), truth.get_item(name)
    text = ""
    if isinstance(interval, tuple):
        text = f"{interval[0]:.2f} to {interval[1]:.2f}"
    known = "" if true is None else f"{true:.2f}"
    print(f"{name:16}{value:10.2f}{text:>24}{known:>10}")
for note in obj.tuning_notes:
    print(f"note: {note}")

# %%
# Is it right? Here the truth is known; of a measured scan :doc:`/howto/trust` tells what to look
# at.
print(f"correlation of the phase with the truth: {data.phase_correlation(obj, scan):.3f}")

# %%
# The pictures
# ------------
# The phase, its Fourier magnitude, the modes of the probe, and the error by iteration.
obj.plot_summary().savefig(folder / "autotune_summary.png", dpi=100)

# %%
# Every trial, and every parameter against the objective.
obj.plot_tuning().savefig(folder / "autotune_trials.png", dpi=100)

# %%
# One file holds the object, the probe, the positions, all trials, the seed and the versions;
# ``hs.load`` gives it back.
obj.save(folder / "autotune_result.hspy", overwrite=True)
