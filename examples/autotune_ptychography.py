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

if __name__ == "__main__":
    matplotlib.use("Agg")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

    # %%
    # A signal as `hs.load` gives it: calibrated axes, beam energy and convergence angle in the
    # metadata. Neither the scan rotation nor the defocus is in there.
    scan = data.twisted_bilayer_mos2()

    # %%
    # One method. It measures where to search, tries parameters, scores each on counts that were
    # held out, and reconstructs with the best at full length.
    obj = scan.autotune_ptycho(n_trials=30)

    # %%
    # What was found, beside what was put in.
    truth = scan.metadata.Simulation
    sys.stdout.write(f"{'parameter':16}{'tuned':>10}{'true':>10}\n")
    for name, value in obj.best_parameters.items():
        sys.stdout.write(f"{name:16}{value:10.2f}{truth.get_item(name):10.2f}\n")
    correlation = data.phase_correlation(obj, scan)
    sys.stdout.write(f"correlation of the phase with the truth: {correlation:.3f}\n")

    obj.plot_summary().savefig(folder / "autotune_summary.png", dpi=100)
    obj.plot_tuning().savefig(folder / "autotune_trials.png", dpi=100)
    obj.save(folder / "autotune_result.hspy", overwrite=True)
    sys.stdout.write(f"pictures and result are in {folder.resolve()}\n")
