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

import hs_autoptycho

if __name__ == "__main__":
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    folder.mkdir(parents=True, exist_ok=True)
    shape = (32, 32)

    # %%
    # What would be the instrument: a function that takes settings and acquires. Here it gives one
    # row of patterns after the other, no sooner than they would come from a detector.
    microscope = hs_autoptycho.data.SimulatedMicroscope(settings={"scan_shape": shape})

    def acquire(settings):
        return microscope.frames(settings, real_time=True)

    # %%
    # The settings that are wanted, for example `design.best_parameters` of a design study. Frames
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
        recording = tuner.recordings[-1]
        shown.append((f"scan {recording.number + 1}, {recording.n_rows} rows", picture))

    obj = tuner.run(acquire, n_scans=5, callback=keep)

    # %%
    # What was asked for, what was measured, and what the microscope did in truth (one slice in the
    # middle of the bilayer has 5 Å less defocus than its first plane of atoms).
    sys.stdout.write(f"{'':8}{'asked for':>20}{'measured':>32}{'true':>20}\n")
    for recording in tuner.recordings:
        asked, actual = recording.settings, recording.actual
        true = {
            name: asked[name] + microscope.offset(name, recording.number)
            for name in ("defocus", "scan_rotation")
        }
        text = [f"{asked['defocus']:.1f} Å, {asked['scan_rotation']:.2f}°"]
        defocus, rotation = actual["defocus"], actual["scan_rotation"]
        text.append(
            f"{defocus.value:.1f} ± {defocus.error:.1f} Å, "
            f"{rotation.value:.2f} ± {rotation.error:.2f}°"
        )
        text.append(f"{true['defocus'] - 4.7:.1f} Å, {true['scan_rotation']:.2f}°")
        line = "".join(f"{t:>{w}}" for t, w in zip(text, (20, 32, 20), strict=True))
        sys.stdout.write(f"scan {recording.number + 1:<3}{line}\n")
    sys.stdout.write(f"{tuner.propose()}\n")
    sys.stdout.write(f"stop: {tuner.should_stop()}\n")

    size = (3 * len(shown), 3.4)
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    for axis, (title, picture) in zip(axes[0], shown, strict=True):
        phase = picture.crop_to_scan().phase.data[0]
        axis.imshow(phase, cmap="gray")
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(folder / "inline_pictures.png", dpi=100)
    obj.plot_summary().savefig(folder / "inline_summary.png", dpi=100)
    obj.save(folder / "inline_result.hspy", overwrite=True)
    sys.stdout.write(f"pictures and result are in {folder.resolve()}\n")
