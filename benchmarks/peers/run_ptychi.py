"""Reconstruct a scan with pty-chi (LSQ-ML), a pass at a time."""

import numpy as np
import ptychi.api as api
import torch
from ptychi.api.task import PtychographyTask
from scoring import Record, load_scan, read_options, settings


def start_modes(probe: np.ndarray, n_modes: int) -> np.ndarray:
    """The true probe and, weaker, the probe times low polynomials."""
    rows, columns = ((np.arange(n) - n // 2) / (n / 8) for n in probe.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    factors = [np.ones_like(x), y, x, y * x, y**2 - x**2, y**2 + x**2 - 1]
    modes = [probe] + [0.15 * probe * factors[i % len(factors)] for i in range(1, n_modes)]
    return np.array(modes, np.complex64)


def main() -> None:
    options = read_options(__doc__, batch=64)
    chosen = settings(options, step_object=1.0, step_probe=1.0)
    torch.set_num_threads(options.threads)
    patterns, scan = load_scan(options)
    meta = scan.meta
    record = Record("pty-chi", "ptychi", options, scan, settings=chosen)
    patterns = patterns.reshape(-1, meta["N"], meta["N"])
    task_options = api.LSQMLOptions()
    task_options.data_options.data = patterns
    task_options.data_options.wavelength_m = meta["wavelength_A"] * 1e-10
    modes = start_modes(scan.probe, options.modes)
    modes *= np.sqrt(patterns.sum((1, 2)).mean() / (np.abs(modes) ** 2).sum())
    task_options.probe_options.initial_guess = modes[None]
    task_options.probe_options.optimizable = True
    task_options.probe_options.step_size = chosen["step_probe"]
    step = meta["step_A"] / meta["dx_A"]
    positions = meta["scan"][0]
    size = int(np.ceil(positions * step + meta["N"] + 20)) // 2 * 2
    task_options.object_options.initial_guess = np.ones((options.slices, size, size), np.complex64)
    task_options.object_options.pixel_size_m = meta["dx_A"] * 1e-10
    task_options.object_options.step_size = chosen["step_object"]
    if options.slices > 1:
        spacing = meta["thickness_A"] / options.slices * 1e-10
        task_options.object_options.slice_spacings_m = np.full(options.slices - 1, spacing)
    y, x = step * (np.indices((positions, positions)) - (positions - 1) / 2).reshape(2, -1)
    task_options.probe_position_options.position_x_px = x
    task_options.probe_position_options.position_y_px = y
    task_options.probe_position_options.optimizable = options.corrections
    loop = task_options.reconstructor_options
    loop.num_epochs = options.passes
    loop.batch_size = options.batch
    loop.default_device = api.Devices.CPU
    loop.random_seed = 0
    loop.batching_mode = "random"
    loop.noise_model = "gaussian"
    # solved jointly, as pty-chi does by itself, the steps are so small that it takes ten passes to
    # get from r = 0.73 to 0.88 (300 Å, 1e5 e/Å²)
    loop.single_slice_solve_obj_prb_step_size_jointly = False
    task = PtychographyTask(task_options)
    record.ready()
    for _ in range(options.passes):
        task.run(1)
        if record.passed(lambda: np.angle(task.get_data_to_cpu("object", as_numpy=True)).sum(0)):
            break


if __name__ == "__main__":
    main()
