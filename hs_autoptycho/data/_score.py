"""How like the truth a reconstructed phase is."""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import minimize


def correlation_with_truth(
    phase: np.ndarray,
    truth: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    max_shift: float | tuple[float, float] = 6.0,
) -> float:
    """Pearson correlation of a reconstructed phase with the true one, after registration.

    A constant, a ramp of the phase and a shift are what ptychography cannot know, and they are
    taken out: the shift that correlates best is searched for, to a fraction of a pixel. No flips,
    rotations or scales are tried: with those wrong the reconstruction is wrong.

    Parameters
    ----------
    phase
        Reconstructed phase in radians, unwrapped, shape (Y, X); or the complex transmission
        function, whose ramp is then removed before its phase is taken.
    truth
        True phase on the same grid of pixels, shape (Y, X).
    mask
        Where to compare, bool, shape (Y, X); by default everything but a border of `max_shift`.
    max_shift
        Largest shift tried along either axis, in pixels, or (rows, columns).

    Returns
    -------
    float
        Between -1 and 1.

    Raises
    ------
    ValueError
        If the shapes differ or the mask leaves fewer than 16 pixels.
    """
    phase, truth = np.asarray(phase), np.asarray(truth, float)
    if phase.ndim != 2 or phase.shape != truth.shape:
        raise ValueError(
            f"phase and truth must be images of one shape, got {phase.shape} and {truth.shape}; "
            "ground_truth(signal, like=reconstruction) gives the truth on a reconstruction's grid"
        )
    reach = np.broadcast_to(np.asarray(max_shift, float), (2,))
    if mask is None:
        border = np.ceil(reach).astype(int)
        mask = np.zeros(truth.shape, bool)
        mask[border[0] : truth.shape[0] - border[0], border[1] : truth.shape[1] - border[1]] = True
    mask = np.asarray(mask, bool)
    if mask.shape != truth.shape or mask.sum() < 16:
        raise ValueError(
            f"mask must have the images' shape {truth.shape} and at least 16 pixels set, "
            f"got {mask.shape} with {mask.sum()}"
        )
    if np.iscomplexobj(phase):
        phase = _phase_without_ramp(phase, mask)
    if not np.all(np.isfinite(phase)):
        return float("nan")

    points = np.array(np.nonzero(mask), float)
    plane, _ = np.linalg.qr(np.column_stack([np.ones(points.shape[1]), *points]))

    def flat(values: np.ndarray) -> np.ndarray:
        values = values - plane @ (plane.T @ values)
        norm = np.linalg.norm(values)
        return values / norm if norm > 0 else values

    target = flat(truth[mask])
    coefficients = spline_filter(np.asarray(phase, float), order=3, mode="nearest")

    def score(shift: np.ndarray) -> float:
        moved = map_coordinates(
            coefficients, points + np.reshape(shift, (2, 1)), prefilter=False, mode="nearest"
        )
        return float(target @ flat(moved))

    steps = [np.arange(-np.floor(r), np.floor(r) + 1) for r in reach]
    grid = [np.array([y, x]) for y in steps[0] for x in steps[1]]
    scores = [score(shift) for shift in grid]
    best = grid[int(np.argmax(scores))]
    simplex = best + np.array([[0, 0], [0.4, 0.1], [-0.1, 0.4]])
    found = minimize(
        lambda shift: -score(np.clip(shift, -reach, reach)),
        best,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-5, "maxiter": 60},
    )
    return float(max(-found.fun, max(scores)))


def _phase_without_ramp(wave: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Phase of `wave` less the ramp (found as the peak of its transform) and its mean in `mask`."""
    wave = wave / np.maximum(np.abs(wave), np.finfo(np.float32).tiny)
    padded = tuple(scipy.fft.next_fast_len(4 * n) for n in wave.shape)
    spectrum = np.abs(scipy.fft.fft2(np.where(mask, wave, 0), s=padded))
    peak = np.unravel_index(np.argmax(spectrum), padded)
    ramp = [np.fft.fftfreq(p)[i] * np.arange(n)
            for p, i, n in zip(padded, peak, wave.shape, strict=True)]  # fmt: skip
    wave = wave * np.exp(-2j * np.pi * (ramp[0][:, None] + ramp[1]))
    return np.angle(wave * np.exp(-1j * np.angle(wave[mask].mean())))
