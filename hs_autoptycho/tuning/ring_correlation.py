"""Do two reconstructions from half the data each show the same? Fourier ring correlation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.fft

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.solver import Reconstruction
from hs_autoptycho.tuning.engines import Engine, NumbaEngine
from hs_autoptycho.tuning.scores import ScanParts, Score, metrics_of, status_of
from hs_autoptycho.tuning.trial import Fidelity


class FourierRingCorrelation:
    """One less the mean Fourier ring correlation of two reconstructions from half the data each.

    Counts are split in halves; data that are no counts are split into the two colours of a
    checkerboard of positions. Both halves can share an artefact, which this score then rewards. A
    trial costs two reconstructions.

    Parameters
    ----------
    experiment
        All data.
    random_state
        Seed of the split.
    engine
        Default: this package's.

    References
    ----------
    M. van Heel, M. Schatz, J. Struct. Biol. 151, 250 (2005).
    """

    name = "frc"

    def __init__(
        self, experiment: Experiment, *, random_state: int = 0, engine: Engine | None = None
    ):
        self.engine = NumbaEngine() if engine is None else engine
        self._counted = experiment.counted
        halves = [experiment, experiment]
        if self._counted:
            halves = list(experiment.split(0.5, random_state))
        self._parts = ScanParts(*halves)

    def __call__(
        self,
        parameters: Mapping[str, Any],
        *,
        fidelity: Fidelity,
        random_state: int,
        limits: Sequence[tuple[int, float]] = (),
    ) -> Score:
        start = time.perf_counter()
        results: list[Reconstruction] = []
        for colour, half in enumerate(self._parts.at(fidelity.part)):
            row, column = np.indices(half.geometry.scan_shape)
            positions = np.flatnonzero((row + column) % 2 == colour)
            if all(status_of(r) == "completed" for r in results):
                fit = self.engine.fit(
                    half,
                    parameters,
                    n_iterations=fidelity.n_iterations,
                    random_state=random_state,
                    positions=None if self._counted else positions,
                    reduction=fidelity.reduction,
                )
                results.append(fit.reconstruction)
        metrics = metrics_of(results[0])
        metrics["seconds_fit"] = time.perf_counter() - start
        worst = next((r for r in results if status_of(r) != "completed"), results[0])
        score = Score(math.inf, metrics, worst, status_of(worst))
        if score.status == "completed":
            centers = results[0].placement.corners + np.array(results[0].probe.shape[-2:]) // 2
            # where positions are corrected, each half has a grid of its own
            origins = [r.placement.origin for r in results]
            shifts = [np.round(origin - origins[0]).astype(int) for origin in origins]
            fields = [
                r.object.prod(0)[_box(centers + shift)]
                for r, shift in zip(results, shifts, strict=True)
            ]
            flip = half.complete(parameters)["detector_flip"]
            pixel = half.geometry.flipped(flip).object_pixel
            metrics["frc"] = float(ring_correlation(*fields, pixel).mean())
            score.value = 1 - metrics["frc"]
        return score


def ring_correlation(
    first: np.ndarray, second: np.ndarray, pixel: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Fourier ring correlation of two images, by ring.

    Parameters
    ----------
    first, second
        Real or complex (Y, X). A Hann window is applied; the mean is taken out.
    pixel
        Size of a pixel along (Y, X). A ring is as wide as the inverse of the image's shorter side.

    Returns
    -------
    float64 array
        From the first ring to the lower one of both Nyquist frequencies.
    """
    shape = first.shape
    window = np.hanning(shape[0])[:, None] * np.hanning(shape[1])[None, :]
    spectra = [scipy.fft.fft2((image - image.mean()) * window) for image in (first, second)]
    frequencies = [np.fft.fftfreq(n, p) for n, p in zip(shape, pixel, strict=True)]
    side = min(n * p for n, p in zip(shape, pixel, strict=True))
    radius = np.hypot(*np.meshgrid(*frequencies, indexing="ij"))
    ring = np.round(radius * side).astype(int).ravel()
    rings = int(side / max(pixel) + 1e-6) // 2

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, values.ravel())[1 : rings + 1]

    cross = total((spectra[0] * spectra[1].conj()).real)
    powers = [total(np.abs(spectrum) ** 2) for spectrum in spectra]
    return cross / np.maximum(np.sqrt(powers[0] * powers[1]), 1e-30)


def _box(centers: np.ndarray) -> tuple[slice, slice]:
    (top, left), (bottom, right) = centers.min(0), centers.max(0) + 1
    return slice(top, bottom), slice(left, right)
