"""The simulated scan of benchmarks/tuning.py, as it is and as it is told."""

from __future__ import annotations

from typing import Any

import numpy as np

from hs_autoptycho.data import _twisted_bilayer_mos2 as bilayer

SCAN = {
    "scan_shape": (64, 64),
    "detector_shape": (128, 128),
    "scan_step": 0.5,
    "reciprocal_pixel": 1 / 25.6,
    "defocus": 300.0,
    "scan_rotation": 12.0,
    "C12a": 40.0,
    "C12b": -30.0,
    "source_size": 0.8,
    "position_jitter": 0.05,
}
DOSE = 1e5
FULL = {
    **SCAN,
    "beam_energy": 80.0,
    "convergence_angle": 21.4,
    **{name: 0.0 for name in bilayer.ABERRATIONS if name not in SCAN},
    "beam_shift": (0.0, 0.0),
    "dose": DOSE,
    "random_state": 0,
}


class Told:
    """The simulated scan as a user has it: counts, and values that are somewhat wrong."""

    def __init__(self, expected: np.ndarray, seed: int):
        counts = np.random.default_rng(seed).poisson(expected * (DOSE * SCAN["scan_step"] ** 2))
        counts = counts.astype(np.min_scalar_type(int(counts.max())))
        self.truth = bilayer._as_signal(counts, FULL)
        wrong = np.random.default_rng([seed, 1]).uniform(-1, 1, 3)
        self.defocus = SCAN["defocus"] + 200 * wrong[0]
        self.rotation = SCAN["scan_rotation"] + 10 * wrong[1]
        self.scale = 1 + 0.03 * wrong[2]
        self.signal = self.truth.deepcopy()
        for axis in self.signal.axes_manager.navigation_axes:
            axis.scale = SCAN["scan_step"] / self.scale
        del self.signal.metadata.Simulation

    @property
    def space(self) -> dict[str, Any]:
        """What is searched: eight parameters."""
        return {
            "scan_rotation": (self.rotation - 10, self.rotation + 10),
            "defocus": (self.defocus - 200, self.defocus + 200),
            "scan_scale": (0.97, 1.03),
            "C12a": (-100.0, 100.0),
            "C12b": (-100.0, 100.0),
            "n_probe_modes": [1, 2, 3, 4],
            "source_size": (0.0, 1.5),
            "step_object": (0.3, 1.5, "log"),
        }
