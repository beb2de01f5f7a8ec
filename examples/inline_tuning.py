"""
Tuning while the microscope runs
================================

A simulated microscope (twisted bilayer MoS2 at 80 kV, 1 ms a pattern) is 100 Å of defocus and 5
degrees of scan rotation away from what it is asked for, and drifts from scan to scan. The tuner
gets the patterns row by row, shows a picture before a scan is over, and corrects the settings of
the next one until there is nothing left to gain. Run it with ``python examples/inline_tuning.py
[FOLDER]``; the pictures are written to FOLDER, the current one by default.
"""

import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

import hs_autoptycho

matplotlib.use("Agg")  # pictures are written, and no window is opened
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
folder.mkdir(parents=True, exist_ok=True)

# %%
# The microscope
# --------------
# What would be the instrument: a function that takes settings and acquires. Here it gives one row
# of patterns after the other, no sooner than they would come from a detector.
shape = (32, 32)
microscope = hs_autoptycho.data.SimulatedMicroscope(settings={"scan_shape": shape})


def acquire(settings):
    """Rows of patterns of one scan."""
    return microscope.frames(settings, real_time=True)


# %%
# The tuner
# ---------
# The settings that are wanted, for example ``design.best_parameters`` of a design study. Frames
# bring no calibration, so that energy, detector pixel and step are told.
tuner = hs_autoptycho.PtychographyTuner(
    target={"defocus": 200, "scan_rotation": 0, "scan_step": 0.7},
    limits={"defocus": (-1000, 1000)},
    scan_shape=shape,
    beam_energy=80,
    reciprocal_pixel=0.0625,
    pictures=(0.4,),
)

# %%
# Every picture is shown as soon as it is made: here it is kept.
shown = []


def keep(tuner, picture):
    """Remember a picture and what it is of."""
    recording = tuner.recordings[-1]
    shown.append((f"scan {recording.number + 1}, {recording.n_rows} rows", picture))


obj = tuner.run(acquire, n_scans=5, callback=keep)
print(tuner)

# %%
# What was asked for, what was measured, and what the microscope did in truth (one slice in the
# middle of the bilayer has 5 Å less defocus than its first plane of atoms).
print(f"{'':8}{'asked for':>20}{'measured':>32}{'true':>20}")
for recording in tuner.recordings:
    asked, actual = recording.settings, recording.actual
    true = {
        name: asked[name] + microscope.offset(name, recording.number)
        for name in ("defocus", "scan_rotation")
    }
    defocus, rotation = actual["defocus"], actual["scan_rotation"]
    text = [
        f"{asked['defocus']:.1f} Å, {asked['scan_rotation']:.2f}°",
        f"{defocus.value:.1f} ± {defocus.error:.1f} Å, "
        f"{rotation.value:.2f} ± {rotation.error:.2f}°",
        f"{true['defocus'] - 4.7:.1f} Å, {true['scan_rotation']:.2f}°",
    ]
    line = "".join(f"{t:>{w}}" for t, w in zip(text, (20, 32, 20), strict=True))
    print(f"scan {recording.number + 1:<3}{line}")

# %%
# Settings of the next scan, what they would gain, and why it stopped.
print(tuner.propose())
print(f"stop: {tuner.should_stop()}")

# %%
# The pictures, as they came
# --------------------------
size = (3 * len(shown), 3.4)
figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
for axis, (title, picture) in zip(axes[0], shown, strict=True):
    axis.imshow(picture.crop_to_scan().phase.data[0], cmap="gray")
    axis.set_title(title)
    axis.set_axis_off()
figure.savefig(folder / "inline_pictures.png", dpi=100)

# %%
# The last one is a result like that of ``autotune_ptycho``.
obj.plot_summary().savefig(folder / "inline_summary.png", dpi=100)
obj.save(folder / "inline_result.hspy", overwrite=True)
