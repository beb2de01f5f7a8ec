"""How like the true object a reconstruction is: registration, then three scores."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from scipy.signal import fftconvolve

from hs_autoptycho.data._score import _phase_without_ramp
from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.tuning.ring_correlation import ring_correlation

#: The names of the scores; all are 1 for the truth itself.
SCORES = ("correlation", "ssim", "frc")

# of structural similarity: the window's standard deviation in pixels, where it ends, the constants
_SIGMA, _RADIUS, _K1, _K2 = 1.5, 5, 0.01, 0.03
# phases are taken from this percentile on, less so many radians for what scatters
_MOST, _BELOW = 5.0, 1.5


def registered(wave: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The phase of a reconstruction, in register with the truth.

    What ptychography cannot know is taken out: a constant, a ramp of the phase, and a shift, which
    is found to a fraction of a pixel by the correlation. Contrast is left as it is.

    Parameters
    ----------
    wave
        Transmission function, complex (Y + 2 by, X + 2 bx) or (slices, …): the area of `truth` and
        a border of (by, bx) pixels around it, which is as far as a shift is looked for. Slices'
        phases are summed up: those of their product would wrap earlier.
    truth
        True phase in rad, float (Y, X).

    Returns
    -------
    float64 array (Y, X)
        In rad; NaN where the reconstruction is not finite.

    Raises
    ------
    ValueError
        If the shapes do not fit each other.
    """
    borders = np.subtract(wave.shape[-2:], truth.shape)
    if wave.ndim not in (2, 3) or truth.ndim != 2 or np.any(borders < 0) or np.any(borders % 2):
        raise ValueError(
            f"wave {wave.shape} has to be truth {truth.shape} and the same border on both sides"
        )
    if not np.all(np.isfinite(wave)):
        return np.full(truth.shape, np.nan)
    reach = borders // 2
    slices = wave.reshape(-1, *wave.shape[-2:])
    inside = np.pad(np.ones(truth.shape, bool), [(n, n) for n in reach])
    phase = sum(_above_most(_phase_without_ramp(w, inside)) for w in slices)
    target = without_plane(truth)
    # the nearest whole pixel: all shifts at once
    flat = without_plane(phase)
    cross = fftconvolve(flat, target[::-1, ::-1], mode="valid")
    power = fftconvolve(flat**2, np.ones(truth.shape), mode="valid")
    start = np.unravel_index(np.argmax(cross / np.sqrt(np.maximum(power, 1e-12))), cross.shape)
    start = np.array(start, float)
    # cosines, for splines lose what is near the Nyquist frequency, the more between the pixels
    image = Specimen(phase[None], 1.0)

    def moved(shift: np.ndarray) -> np.ndarray:
        return image.on_grid(truth.shape, (1.0, 1.0), tuple(shift))[0]

    def loss(shift: np.ndarray) -> float:
        return -correlation(moved(np.clip(shift, 0, 2 * reach)), truth)

    simplex = start + np.array([[0, 0], [0.4, 0.1], [-0.1, 0.4]])
    options = {"initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-5, "maxiter": 60}
    found = minimize(loss, start, method="Nelder-Mead", options=options)
    best = moved(np.clip(found.x, 0, 2 * reach))
    return truth + without_plane(best - truth)


def _above_most(phase: np.ndarray) -> np.ndarray:
    """Phases within 2π above a bit less than almost all of them.

    Atoms raise the phase over a wide background: the strongest can be more than π above the mean,
    and would be dark in a phase between -π and π.
    """
    low = np.percentile(phase, _MOST) - _BELOW
    return low + (phase - low) % (2 * np.pi)


def without_plane(image: np.ndarray) -> np.ndarray:
    """An image less the plane that fits it best."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in image.shape)
    image = image - image.mean()
    image = image - (image.mean(axis=1) @ y / (y @ y)) * y[:, None]
    return image - (image.mean(axis=0) @ x / (x @ x)) * x


def correlation(phase: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's correlation of two images less their planes."""
    a, b = without_plane(phase), without_plane(truth)
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def structural_similarity(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean structural similarity of an image and the truth.

    A Gaussian window of a standard deviation of 1.5 pixels, cut off after 5; windows lie within the
    images. The dynamic range is that of `truth`. The phase's zero is arbitrary, so both images
    are measured from the lowest value of `truth`.

    Parameters
    ----------
    image, truth
        Float (Y, X), of 11 pixels along each axis at least.

    References
    ----------
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, IEEE Trans. Image Process. 13, 600 (2004).
    """
    span = float(np.ptp(truth))
    if span == 0:
        raise ValueError("the true image is constant: there is nothing to compare")
    a, b = image - truth.min(), truth - truth.min()

    def mean(values: np.ndarray) -> np.ndarray:
        blurred = gaussian_filter(values, _SIGMA, truncate=_RADIUS / _SIGMA)
        return blurred[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float(similarity.mean())


def fourier_ring_correlation(
    image: np.ndarray, truth: np.ndarray, pixel: tuple[float, float] = (1.0, 1.0)
) -> float:
    """Mean over all rings, up to the pixels' Nyquist frequency, of the correlation with the truth.

    Parameters
    ----------
    image, truth
        Float (Y, X).
    pixel
        Size of a pixel along (Y, X).

    References
    ----------
    M. van Heel, M. Schatz, J. Struct. Biol. 151, 250 (2005).
    """
    return float(ring_correlation(image, truth, pixel).mean())


def all_scores(
    phase: np.ndarray, truth: np.ndarray, pixel: tuple[float, float] = (1.0, 1.0)
) -> dict[str, float]:
    """Every score of an image in register with the truth, name to number."""
    return {
        "correlation": correlation(phase, truth),
        "ssim": structural_similarity(phase, truth),
        "frc": fourier_ring_correlation(phase, truth, pixel),
    }
