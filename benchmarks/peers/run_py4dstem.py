"""Reconstruct a scan with py4DSTEM, a pass at a time."""

import warnings

import numpy as np
import py4DSTEM
from py4DSTEM.process.phase import (
    MixedstatePtychography,
    MultislicePtychography,
    SingleslicePtychography,
)
from scoring import Record, load_scan, read_options, settings
from threadpoolctl import threadpool_limits


def main() -> None:
    options = read_options(__doc__, batch=64)
    multislice = options.slices > 1
    # py4DSTEM's own 0.5, with which many thin slices diverge
    chosen = settings(options, step=0.05 if multislice else 0.5)
    threadpool_limits(options.threads)
    warnings.filterwarnings("ignore")
    patterns, scan = load_scan(options)
    meta = scan.meta
    record = Record("py4DSTEM", "py4DSTEM", options, scan, settings=chosen)
    cube = py4DSTEM.DataCube(patterns)
    del patterns
    cube.calibration.set_R_pixel_size(meta["step_A"])
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(meta["dk_invA"])
    cube.calibration.set_Q_pixel_units("A^-1")
    common = {
        "energy": meta["energy_eV"],
        "datacube": cube,
        "semiangle_cutoff": meta["semiangle_mrad"],
        "polar_parameters": {"C10": meta["C10_A"]},
        "object_type": "complex",
        "verbose": False,
        "device": "cpu",
    }
    more = {}
    if multislice:
        spacing = meta["thickness_A"] / options.slices
        solver = MultislicePtychography(
            num_slices=options.slices, slice_thicknesses=spacing, **common
        )
        more = {"kz_regularization_filter": False}
    elif options.modes > 1:
        solver = MixedstatePtychography(num_probes=options.modes, **common)
    else:
        solver = SingleslicePtychography(**common)
    solver.preprocess(
        plot_center_of_mass=False,
        plot_rotation=False,
        plot_probe_overlaps=False,
        force_com_rotation=0,
        force_com_transpose=False,
    )

    def phase() -> np.ndarray:
        angle = np.angle(solver.object)
        return angle.sum(0) if angle.ndim == 3 else angle

    record.ready()
    for done in range(options.passes):
        solver.reconstruct(
            num_iter=1,
            reset=True if done == 0 else None,
            max_batch_size=options.batch,
            step_size=chosen["step"],
            seed_random=done,
            fix_positions=not options.corrections,
            progress_bar=False,
            store_iterations=False,
            # filters take detail and time: without them py4DSTEM looks better here
            gaussian_filter=False,
            butterworth_filter=False,
            tv_denoise=False,
            **more,
        )
        if record.passed(phase):
            break


if __name__ == "__main__":
    main()
