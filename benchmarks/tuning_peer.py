"""py4DSTEM's own optimiser on the simulated scan of benchmarks/tuning.py."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from typing import Any

import numpy as np
from scipy.signal import fftconvolve
from tuning_scan import FULL, SCAN, Told

from hs_autoptycho.data import _twisted_bilayer_mos2 as bilayer

#: Of a trial of py4DSTEM's optimiser; a pass of it takes much longer than one of ours.
PEER_PASSES = 4


def py4dstem_optimizer(told: Told, seed: int, seconds: float) -> dict[str, Any]:
    """py4DSTEM's own optimiser, stopped when its time is over.

    Its object is compared with the truth in all eight orientations, and the best counts.
    """
    import py4DSTEM
    from py4DSTEM.process.phase import (
        OptimizationParameter,
        PtychographyOptimizer,
        SingleslicePtychography,
    )

    signal = told.signal
    cube = py4DSTEM.DataCube(np.asarray(signal.data, np.float32))
    cube.calibration.set_R_pixel_size(signal.axes_manager[0].scale)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(SCAN["reciprocal_pixel"])
    cube.calibration.set_Q_pixel_units("A^-1")
    vary = OptimizationParameter
    start, evaluations = time.perf_counter(), []

    class TimeIsOver(Exception):
        pass

    def error(solver) -> float:
        elapsed = time.perf_counter() - start
        value = float(np.log(solver.error))
        evaluations.append(
            {"seconds": elapsed, "error": value, "correlation": best_match(solver, told.truth)}
        )
        # at least the first guess and one more
        if elapsed > seconds and len(evaluations) > 1:
            raise TimeIsOver
        return value

    search = PtychographyOptimizer(
        SingleslicePtychography,
        init_args={
            "datacube": cube,
            "energy": FULL["beam_energy"] * 1e3,
            "semiangle_cutoff": FULL["convergence_angle"],
            "object_type": "complex",
            "device": "cpu",
            "defocus": vary(told.defocus, told.defocus - 200, told.defocus + 200),
            "C12": vary(0.0, 0.0, 140.0),
            "phi12": vary(0.0, -np.pi / 2, np.pi / 2),
        },
        affine_args={"dilation": vary(1.0, 0.97, 1.03)},
        preprocess_args={
            "force_com_rotation": vary(told.rotation, told.rotation - 10, told.rotation + 10),
            "force_com_transpose": False,
        },
        reconstruction_args={
            "num_iter": PEER_PASSES,
            "max_batch_size": 128,
            "step_size": vary(0.5, 0.1, 1.0),
            "gaussian_filter": False,
            "butterworth_filter": False,
            "tv_denoise": False,
        },
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with contextlib.suppress(TimeIsOver):
            search.optimize(
                n_calls=1000, n_initial_points=10, error_metric=error, random_state=seed
            )
    best = min(evaluations, key=lambda e: e["error"])
    return {
        "seconds": time.perf_counter() - start,
        "evaluations": evaluations,
        "n_iterations": PEER_PASSES,
        "correlation": best["correlation"],
    }


def best_match(solver, truth) -> float:
    """Correlation of py4DSTEM's phase with the true one, in its best orientation and place."""
    phase = np.angle(solver.object_cropped)
    rows, columns = phase.shape
    phase = phase[rows // 5 : -(rows // 5), columns // 5 : -(columns // 5)]
    pixel = 1 / (SCAN["reciprocal_pixel"] * SCAN["detector_shape"][0])
    whole = true_phase(truth, pixel)
    return max(
        template_correlation(turned, whole)
        for flipped in (phase, phase.T)
        for turned in (np.rot90(flipped, k) for k in range(4))
    )


def true_phase(truth, pixel: float) -> np.ndarray:
    """The specimen's projected phase, on pixels of a reconstruction that sees the whole scan."""
    positions = bilayer.scan_positions(FULL)
    n = round(1 / (FULL["reciprocal_pixel"] * pixel))
    return bilayer.phase_slices(FULL, positions, n, pixel)[0].sum(0)


def template_correlation(template: np.ndarray, image: np.ndarray) -> float:
    """The highest Pearson correlation of a template with any part of an image."""
    template = template - template.mean()
    norm = np.linalg.norm(template)
    if not np.isfinite(norm) or norm == 0:
        return 0.0
    ones = np.ones_like(template)
    cross = fftconvolve(image, template[::-1, ::-1], "valid")
    total = fftconvolve(image, ones, "valid")
    squares = fftconvolve(image**2, ones, "valid")
    spread = np.sqrt(np.maximum(squares - total**2 / template.size, 1e-12))
    return float((cross / spread / norm).max())
