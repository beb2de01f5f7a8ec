"""Fourier analysis of a reconstructed object: arrays in, arrays out."""

from __future__ import annotations

import numpy as np

_FLOOR_BAND = 0.8  # the floor is read between this fraction of the Nyquist frequency and 1
_DYNAMIC_RANGE = 1e-6  # of the strongest ring: weaker than this is floor, whatever its origin
# Power that the window puts 1, 2 and 3 rings beyond a ring, as a share of that ring's: the squared
# transform sinc(x) / (1 - x**2) of Hann's window, for a spot up to half a ring off the middle.
_HANN_SPREAD = (0.5, 0.05, 0.001)


def object_phase(transmission: np.ndarray) -> np.ndarray:
    """Phase of a transmission function, with its median at zero.

    A reconstruction fixes the phase only up to a constant. Each slice is turned by its mean
    phase before the angle is taken, so that this constant never wraps the picture.

    Parameters
    ----------
    transmission
        Complex array of shape (slices, y, x).

    Returns
    -------
    numpy.ndarray
        Float array (y, x) in rad: the phase summed over the slices, less its median.
    """
    phase = np.zeros(transmission.shape[-2:])
    for layer in transmission:
        mean = layer[np.isfinite(layer)].sum(dtype=complex)
        turn = np.conj(mean) / abs(mean) if abs(mean) > 0 else 1.0
        phase += np.angle(layer * turn)
    finite = phase[np.isfinite(phase)]
    return phase - (np.median(finite) if finite.size else 0.0)


def hann(shape: tuple[int, int]) -> np.ndarray:
    """Two-dimensional Hann window, sampled at the centres of the pixels."""
    rows, columns = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n) for n in shape)
    return np.outer(rows, columns)


def magnitude_spectrum(image: np.ndarray, window: bool = True) -> np.ndarray:
    """Magnitude of the Fourier transform, zero frequency at ``(ny // 2, nx // 2)``.

    The (weighted) mean is removed, then a Hann window is applied if asked for, and the result
    is divided by the sum of the weights: a wave of amplitude ``a`` gives two peaks of ``a / 2``.
    """
    weight = hann(image.shape) if window else np.ones(image.shape)
    weight = weight / weight.sum()
    centred = image - (image * weight).sum()
    return np.abs(np.fft.fftshift(np.fft.fft2(centred * weight)))


def _radius(shape: tuple[int, int], pixel: tuple[float, float]) -> np.ndarray:
    fy, fx = (np.fft.fftshift(np.fft.fftfreq(n, d)) for n, d in zip(shape, pixel, strict=True))
    return np.hypot(fy[:, None], fx)


def radial_power(
    image: np.ndarray, pixel: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Azimuthal average of the power spectrum and the level of its noise.

    Parameters
    ----------
    image
        Float array (y, x).
    pixel
        Its pixel size (y, x) in Å.

    Returns
    -------
    frequency, power, floor
        Radius (1/Å) and mean power of each ring up to the Nyquist frequency, and the mean
        power of the noise, from the median power between 0.8 and 1 of the Nyquist frequency. The
        power of noise is exponentially distributed, so its mean is the median / ln 2; a few
        Bragg spots in the band do not move it.
    """
    power = magnitude_spectrum(image) ** 2
    radius = _radius(image.shape, pixel)
    nyquist = 0.5 / max(pixel)
    step = max(1 / (n * d) for n, d in zip(image.shape, pixel, strict=True))
    ring = np.rint(radius / step).astype(int)
    inside = radius <= nyquist
    counts = np.bincount(ring[inside])
    sums = np.bincount(ring[inside], power[inside])
    band = power[inside & (radius >= _FLOOR_BAND * nyquist)]
    floor = float(np.median(band) / np.log(2)) if band.size else 0.0
    return np.arange(len(counts)) * step, sums / np.maximum(counts, 1), floor


def information_limit(image: np.ndarray, pixel: tuple[float, float]) -> float:
    """Highest frequency (1/Å) whose ring carries more signal than noise; nan when none does.

    A ring counts when its mean power is at least twice the floor of :func:`radial_power` (a
    signal-to-noise ratio of one) and more than the Hann window can spread there from the three
    rings within it; the first two rings do not count. A floor under 1e-6 of the strongest ring
    is raised to that.
    """
    frequency, power, floor = radial_power(image, pixel)
    floor = max(floor, _DYNAMIC_RANGE * float(power[1:].max(initial=0.0)))
    excess = power - 2 * floor
    spread = np.zeros_like(power)
    for offset, share in enumerate(_HANN_SPREAD, start=1):
        spread[offset:] = np.maximum(spread[offset:], share * power[:-offset])
    signal = np.flatnonzero((excess > 0) & (power > spread))
    if floor <= 0 or signal.size == 0 or signal[-1] < 2:
        return float("nan")
    last = int(signal[-1])
    if last + 1 == len(power) or excess[last + 1] > 0:
        return float(frequency[last])
    # the crossing lies between two rings; interpolate where the excess changes sign
    share = excess[last] / (excess[last] - excess[last + 1])
    return float(frequency[last] + share * (frequency[last + 1] - frequency[last]))


def half_bit_limit(frequency: np.ndarray, correlation: np.ndarray) -> float:
    """Frequency at which a Fourier ring correlation falls below the 1/2-bit threshold.

    The threshold (van Heel and Schatz, J. Struct. Biol. 151, 250, 2005) needs the number of
    pixels of a ring, taken as ``2 pi f / df`` for rings ``df`` apart. Counted is the first fall
    after the first ring above. A curve that stays above gives its last frequency, one that never
    rises above gives nan.
    """
    frequency = np.asarray(frequency, dtype=float)
    correlation = np.asarray(correlation, dtype=float)
    keep = (frequency > 0) & np.isfinite(correlation)
    frequency, correlation = frequency[keep], correlation[keep]
    if frequency.size < 2:
        return float("nan")
    root = np.sqrt(2 * np.pi * frequency / np.median(np.diff(frequency)))
    excess = correlation - (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    above = np.flatnonzero(excess >= 0)
    if above.size == 0:
        return float("nan")
    # a ptychographic object carries its lowest frequencies badly: count from the first good ring
    below = np.flatnonzero(excess[above[0] :] < 0)
    if below.size == 0:
        return float(frequency[-1])
    first = int(above[0] + below[0])
    share = excess[first - 1] / (excess[first - 1] - excess[first])
    return float(frequency[first - 1] + share * (frequency[first] - frequency[first - 1]))
