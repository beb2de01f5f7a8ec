"""Reconstruct a scan with quantem, a pass at a time."""

import numpy as np
import torch
from quantem.core.datastructures import Dataset4dstem
from quantem.diffractive_imaging.dataset_models import PtychographyDatasetRaster
from quantem.diffractive_imaging.ptychography_lite import PtychoLite
from scoring import Record, load_scan, read_options, settings


def main() -> None:
    options = read_options(__doc__, batch=64)
    chosen = settings(options, lr_object=5e-3, lr_probe=1e-3)
    torch.set_num_threads(options.threads)
    patterns, scan = load_scan(options)
    meta = scan.meta
    record = Record("quantem", "quantem", options, scan, settings=chosen)
    dataset = Dataset4dstem.from_array(
        patterns,
        sampling=[meta["step_A"]] * 2 + [meta["dk_invA"]] * 2,
        units=["A", "A", "A^-1", "A^-1"],
    )
    del patterns
    raster = PtychographyDatasetRaster.from_dataset4dstem(dataset)
    raster.preprocess(
        com_fit_function="constant",
        force_com_rotation=0,
        force_com_transpose=False,
        plot_rotation=False,
        plot_com=False,
    )
    multislice = options.slices > 1
    solver = PtychoLite.from_dataset(
        raster,
        num_slices=options.slices,
        slice_thicknesses=meta["thickness_A"] / options.slices if multislice else None,
        num_probes=options.modes,
        energy=meta["energy_eV"],
        defocus=meta["defocus_A"],
        semiangle_cutoff=meta["semiangle_mrad"],
        obj_type="complex",
        obj_padding_px=(32, 32),
        device="cpu",
        verbose=False,
        rng=0,
    )

    def phase() -> np.ndarray:
        found = solver.obj
        found = found if isinstance(found, np.ndarray) else found.detach().cpu().numpy()
        return np.angle(found).sum(0)

    record.ready()
    for done in range(options.passes):
        solver.reconstruct(
            num_iters=1,
            reset=done == 0,
            lr_obj=chosen["lr_object"],
            lr_probe=chosen["lr_probe"],
            lr_scan_positions=chosen["lr_object"] if options.corrections else 0.0,
            batch_size=options.batch,
            device="cpu",
            verbose=False,
        )
        if record.passed(phase):
            break


if __name__ == "__main__":
    main()
