"""What a measured pattern asks of the model: the factor by which the exit wave's spectrum changes.

With `I` the model's intensity on the detector (blur and background included), `A` the square root
of the measured one and a = √I, the change of the spectrum Ψ is χ̂ = f Ψ with f = b (A − a)/a, b the
beam's brightness: the (negative) gradient of ½ Σ (A − a)² with respect to Ψ. Pixels that are masked
have f = 0. Saturated ones that the model makes at least as bright count as right: there a = A.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from hs_autoptycho.ptycho.arithmetic import JIT, clear, copy
from hs_autoptycho.ptycho.fft import forward, inverse

# A dark pixel has no phase of its own: below this amplitude (in units of the mean) the modulus
# constraint fades out, else float32 rounding noise would be amplified.
AMPLITUDE_FLOOR = np.float32(1e-2)

# Pixels at a time: what is made of them in between stays in the first cache.
CHUNK = 512

# Types of counts that the kernels read, in the order of their code.
COUNT_TYPES = ("uint8", "uint16", "uint32", "float32")


class Detector(NamedTuple):
    """Measured patterns as the kernels read them, and what the detector does to a pattern.

    Attributes
    ----------
    counts : uint8 (positions, pixels * bytes of a number)
        The numbers' bytes, in the order of the spectrum.
    code : int
        Place of their type in `COUNT_TYPES`.
    scale : float32
        Counts times this have mean 1 a pixel.
    mask : float32 (pixels,)
        1 where a pixel is used, else 0.
    background : float32 (pixels,)
        Scaled intensity that is there without the specimen's scattering: dark counts.
    saturation : float32
        Scaled intensity from which on a pixel is saturated; infinite if there is none.
    transfer : float32 (pixels,) or (0,)
        Fourier transform of the point spread, divided by the number of pixels, in the natural
        order of pixels of a window whose corner is the zero lag; empty without blur.
    poisson : bool
        The noise model.
    """

    counts: np.ndarray
    code: int
    scale: np.float32
    mask: np.ndarray
    background: np.ndarray
    saturation: np.float32
    transfer: np.ndarray
    poisson: bool


@njit(**JIT)
def _square_roots(counts, scale, out):
    for k in range(len(out)):
        out[k] = np.sqrt(np.float32(counts[k]) * scale)


@njit(**JIT)
def _amplitudes(row, code, start, stop, scale, out):
    """Square roots of some scaled counts of a pattern whose bytes are `row`."""
    if code == 0:
        _square_roots(row[start:stop], scale, out)
    elif code == 1:
        _square_roots(row.view(np.uint16)[start:stop], scale, out)
    elif code == 2:
        _square_roots(row.view(np.uint32)[start:stop], scale, out)
    else:
        _square_roots(row.view(np.float32)[start:stop], scale, out)


@njit(**JIT)
def _model_amplitudes(intensity, background, norm, out):
    for k in range(len(out)):
        out[k] = np.sqrt(intensity[k] * norm + background[k])


@njit(**JIT)
def _amplitude_factor(measured, model, out):
    for k in range(len(out)):
        out[k] = (measured[k] - model[k]) / (model[k] + AMPLITUDE_FLOOR)


@njit(**JIT)
def _poisson_factor(measured, model, out):
    """The factor for Poisson statistics: a proximal step on the negative log-likelihood.

    The likelihood's own gradient, Ψ(1 − A²/I), has no bound where the model is dark. Its proximal
    operator has: the amplitude that minimises a² − 2 A² log a + ρ(a − a₀)² is
    (ρa₀ + √(ρ²a₀² + 4(1 + ρ) A²)) / 2(1 + ρ). Near the minimum it goes 2/(2 + ρ) of the way, which
    is made good. See H. Chang et al., SIAM J. Imaging Sci. 11, 24 (2018).
    """
    rho = np.float32(8)
    for k in range(len(out)):
        a = model[k]
        square = rho * rho * a * a + 4 * (1 + rho) * measured[k] * measured[k]
        target = (rho * a + np.sqrt(square)) / (2 * (1 + rho))
        out[k] = (1 + rho / 2) * (target - a) / (a + AMPLITUDE_FLOOR)


@njit(**JIT)
def _hold_saturated(measured, limit, model):
    """Where a pixel is saturated and the model at least as bright, they agree."""
    for k in range(len(model)):
        if measured[k] >= limit and model[k] > measured[k]:
            model[k] = measured[k]


@njit(**JIT)
def _sums(measured, model, mask, out):
    """Σ(A − a)², Σ A a, Σ a² of the pixels used, added to `out`."""
    error, cross, power = np.float32(0), np.float32(0), np.float32(0)
    for k in range(len(mask)):
        m, a = measured[k], model[k]
        error += mask[k] * (m - a) * (m - a)
        cross += mask[k] * m * a
        power += mask[k] * a * a
    out[0] += error
    out[1] += cross
    out[2] += power


@njit(**JIT)
def _masked(factor, mask, norm):
    for k in range(len(factor)):
        factor[k] *= mask[k] * norm


@njit(**JIT)
def blur(values, transfer, plan, wave, spectrum, scratch):
    """Convolve values in the order of the spectrum with the point spread, in place.

    Spectrum and wave change places: the inverse transform of the values is their distribution over
    lags, in natural order, where the convolution is a product.
    """
    pixels = len(values)
    copy(spectrum[:pixels], values)
    clear(spectrum[pixels:])
    inverse(spectrum, wave, plan, scratch)
    for part in range(2):
        half = wave[part * pixels : (part + 1) * pixels]
        for k in range(pixels):
            half[k] *= transfer[k]
    forward(wave, spectrum, plan, scratch)
    copy(values, spectrum[:pixels])


@njit(**JIT)
def pattern_factor(
    intensity, detector, index, brightness, plan, wave, spare, scratch, chunk, sums
):  # fmt: skip
    """Turn the model's intensity, in place, into f times 1/pixels: χ = F⁻¹[f Ψ].

    Parameters
    ----------
    intensity : float32 (pixels,)
        Σ|Ψ|² over modes.
    detector : Detector
    index : int
        Which pattern.
    brightness : float32
        Of this pattern, relative to the mean: a fluctuation of the beam.
    wave, spare : float32 (2 * pixels,)
        Space, used with blur only.
    chunk : float32 (2, CHUNK)
        Space.
    sums : float64 (3,)
        Receives Σ(A − a)², Σ A a, Σ a².
    """
    pixels = len(intensity)
    norm = np.float32(1.0 / pixels)
    if len(detector.transfer) > 0:
        blur(intensity, detector.transfer, plan, wave, spare, scratch)
        for k in range(pixels):  # rounding must not leave a negative intensity
            intensity[k] = max(intensity[k], np.float32(0))
    row = detector.counts[index]
    # a little lower: rounding must not take a saturated count for one just below
    limit = np.sqrt(detector.saturation) * np.float32(1 - 1e-6)
    clear(sums)
    for start in range(0, pixels, CHUNK):
        stop = min(start + CHUNK, pixels)
        measured, model = chunk[0, : stop - start], chunk[1, : stop - start]
        part, mask = intensity[start:stop], detector.mask[start:stop]
        _amplitudes(row, detector.code, start, stop, detector.scale, measured)
        _model_amplitudes(part, detector.background[start:stop], norm * brightness, model)
        if limit < np.float32(1e30):
            _hold_saturated(measured, limit, model)
        if detector.poisson:
            _poisson_factor(measured, model, part)
        else:
            _amplitude_factor(measured, model, part)
        _sums(measured, model, mask, sums)
        _masked(part, mask, norm * brightness)
    if len(detector.transfer) > 0:
        blur(intensity, detector.transfer, plan, wave, spare, scratch)
