"""Reconstruct a scan with PtyRAD, a pass at a time."""

import logging
import os

os.environ.setdefault("MPLBACKEND", "Agg")  # PtyRAD draws its batches whether asked to or not

import numpy as np
import torch
from ptyrad.params.ptyrad_params import PtyRADParams
from ptyrad.solver import PtyRADSolver, reconstruction
from scoring import Record, load_scan, read_options, settings


class TimeIsUp(Exception):
    """Ends PtyRAD's own loop."""


def parameters(options, chosen: dict[str, float], patterns: np.ndarray, meta: dict) -> dict:
    """What PtyRAD reads from a file, with its own defaults for the rest."""
    held = {"start_iter": None, "lr": 0.0, "end_iter": None}

    def learnt(rate: float) -> dict:
        return {"start_iter": 1, "lr": rate, "end_iter": None}

    moved = learnt(chosen["lr_object"]) if options.corrections else held
    return {
        "init_params": {
            "probe_kv": meta["energy_eV"] / 1e3,
            "probe_conv_angle": meta["semiangle_mrad"],
            "probe_aberrations": {"C10": meta["C10_A"]},
            "probe_pmode_max": options.modes,
            "meas_Npix": meta["N"],
            "meas_calibration": {"mode": "dx", "value": meta["dx_A"]},
            "meas_flipT": None,
            "meas_source": "custom",
            "meas_params": patterns.reshape(-1, meta["N"], meta["N"]),
            "pos_N_scan_slow": meta["scan"][0],
            "pos_N_scan_fast": meta["scan"][1],
            "pos_N_scans": meta["scan"][0] * meta["scan"][1],
            "pos_scan_step_size": meta["step_A"],
            "pos_scan_rand_std": None,  # the positions are known
            "obj_Nlayer": options.slices,
            "obj_slice_thickness": meta["thickness_A"] / options.slices,
        },
        "model_params": {
            "update_params": {
                "obja": learnt(chosen["lr_object"]),
                "objp": learnt(chosen["lr_object"]),
                "probe": learnt(chosen["lr_probe"]),
                "probe_pos_shifts": moved,
                "obj_tilts": held,
                "slice_thickness": held,
            }
        },
        "constraint_params": {
            "obj_rblur": {"start_iter": 1 if chosen["blur"] else None, "std": chosen["blur"]},
            "obj_zblur": {"start_iter": 1 if chosen["blur_z"] else None, "std": chosen["blur_z"]},
        },
        "recon_params": {
            "NITER": options.passes,
            "BATCH_SIZE": {"size": options.batch, "grad_accumulation": 1},
            "SAVE_ITERS": None,
            "output_dir": "",
            "copy_params": False,
            "selected_figs": [],
            "save_result": [],
            "compiler_configs": {"enable": False},
        },
    }


def main() -> None:
    options = read_options(__doc__, batch=32)
    # PtyRAD's own 5e-4, 1e-4 and 0.4 px reach r = 0.851 in ten passes (300 Å, 1e5 e/Å²), these
    # 0.894; 1e-2 reaches less
    chosen = settings(options, lr_object=5e-3, lr_probe=1e-3, blur=0.0, blur_z=1.0)
    torch.set_num_threads(options.threads)
    patterns, scan = load_scan(options)
    record = Record("PtyRAD", "ptyrad", options, scan, settings=chosen)
    checked = PtyRADParams(**parameters(options, chosen, patterns, scan.meta)).model_dump()
    del patterns
    logging.getLogger("ptyrad").setLevel("WARNING")
    solver = PtyRADSolver(checked, device=torch.device("cpu"), seed=0)
    own_pass = reconstruction.recon_step
    done = []

    def timed_pass(batches, accumulation, model, *arguments, **keywords):
        """A pass of PtyRAD's loop, in its place."""
        if not done:
            record.ready()
        done.append(own_pass(batches, accumulation, model, *arguments, **keywords))
        if record.passed(lambda: model.opt_objp.detach().numpy()[0].sum(0).astype(np.float32)):
            raise TimeIsUp
        return done[-1]

    reconstruction.recon_step = timed_pass
    try:
        solver.run()
    except TimeIsUp:
        pass


if __name__ == "__main__":
    main()
