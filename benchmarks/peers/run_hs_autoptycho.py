"""Reconstruct a scan with the engine of this package, a pass at a time."""

import numba
import numpy as np
from scoring import Record, load_scan, read_options, settings

from hs_autoptycho.ptycho import solver
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.probe import make_modes
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.settings import Settings, Starts

WARM_UP = 64  # positions of the passes that load or compile the kernels


class SeenState(solver.State):
    """The engine's state, kept where the callback can see the object that is being made."""

    latest: "SeenState"

    @classmethod
    def start(cls, *arguments, **keywords):
        cls.latest = super().start(*arguments, **keywords)
        return cls.latest


def current_phase() -> np.ndarray:
    """Sum of the slices' phases."""
    real, imaginary = np.moveaxis(SeenState.latest.object, 1, 0)
    return np.arctan2(imaginary, real).sum(0)


def main() -> None:
    options = read_options(__doc__, batch=256)
    chosen = settings(options, step_object=1.0, step_probe=1.0, momentum=0.0)
    numba.set_num_threads(options.threads)
    solver.State = SeenState
    counts, scan = load_scan(options, np.uint16)
    meta = scan.meta
    record = Record("hs_autoptycho", "hs_autoptycho", options, scan, settings=chosen)
    shape = (meta["N"], meta["N"])
    patterns = Patterns.from_blocks(counts, meta["scan"][0] * meta["scan"][1], shape)
    del counts
    placement = place(scan_positions(meta["scan"], meta["step_A"]) / meta["dx_A"], shape)
    modes = make_modes(scan.probe.astype(complex), options.modes)
    pixel_size = (meta["dx_A"], meta["dx_A"])
    propagation = None
    if options.slices > 1:
        propagation = Propagation.even(
            options.slices, meta["thickness_A"], meta["wavelength_A"], pixel_size
        )
    model = solver.Model(propagation, pixel_size)
    engine_settings = Settings(
        batch_size=options.batch,
        noise_model="poisson",  # the default of the signal method for counts
        starts=Starts(positions=0) if options.corrections else Starts(),
        **chosen,
    )

    def run(n_iterations: int, **more):
        return solver.reconstruct(
            patterns,
            placement,
            modes,
            n_iterations=n_iterations,
            model=model,
            settings=engine_settings,
            **more,
        )

    run(2, subset=np.arange(WARM_UP))
    record.ready()

    def after_pass(iteration: int, error: float) -> None:
        if record.passed(current_phase):
            raise KeyboardInterrupt  # ends the engine as a user would

    run(options.passes, callback=after_pass)


if __name__ == "__main__":
    main()
