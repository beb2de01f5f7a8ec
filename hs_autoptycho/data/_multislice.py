"""A small multislice simulator, numpy and scipy only: arrays in, arrays out.

It shares no line with the reconstruction engine on purpose, so that each tests the other. The
geometry is the package's: axis 0 of an image is the row (y), axis 1 the column (x); numpy's sign
of the Fourier transform; a wave going through a potential V is multiplied by exp(+i σ V); free
space of length z multiplies its transform by exp(-i π λ z k²).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.constants as constants
import scipy.fft

# the probe's modes kept together carry this part of its intensity
_KEPT_INTENSITY = 0.999
_BATCH = 32


def electron_wavelength(beam_energy: float) -> float:
    """Relativistic wavelength in Å of electrons of `beam_energy` keV."""
    energy = beam_energy * 1e3 * constants.e
    rest = constants.m_e * constants.c**2
    return constants.h * constants.c / np.sqrt(energy * (energy + 2 * rest)) * 1e10


def interaction_parameter(beam_energy: float) -> float:
    """Phase per projected potential, rad/(V Å), of electrons of `beam_energy` keV."""
    volts = beam_energy * 1e3
    rest = constants.m_e * constants.c**2 / constants.e
    ratio = (rest + volts) / (2 * rest + volts)
    return 2 * np.pi / (electron_wavelength(beam_energy) * volts) * ratio


def rotation_matrix(angle: float) -> np.ndarray:
    """R of ``(row, col) = R @ (slow, fast)`` for a scan rotation in degrees."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[cos, -sin], [sin, cos]])


def projected_potential(
    positions: np.ndarray,
    elements: np.ndarray,
    scattering: Mapping[int, np.ndarray],
    shape: tuple[int, int],
    pixel: tuple[float, float],
    origin: tuple[float, float],
) -> np.ndarray:
    """Sum of the atoms' projected potentials, band-limited at the grid's Nyquist frequency.

    Every atom's transform is evaluated on the grid's frequencies, so that its position is exact
    on any grid and there is no interpolation.

    Parameters
    ----------
    positions
        (row, col) of the atoms in Å, shape (n, 2).
    elements
        Atomic numbers, shape (n,).
    scattering
        For each atomic number the parameters of Lobato and Van Dyck, shape (2, 5), in the scaling
        that abTEM uses for projected potentials (V, Å).
    shape, pixel, origin
        Grid: numbers of pixels, pixel sizes in Å, and the coordinate in Å of pixel (0, 0).

    Returns
    -------
    numpy.ndarray
        float64, in V Å. The grid is periodic: the tail of an atom at one edge reaches into the
        other, so take a grid a few Å larger than what is needed.

    References
    ----------
    I. Lobato, D. Van Dyck, Acta Cryst. A70, 636 (2014).
    """
    k_row = np.fft.fftfreq(shape[0], pixel[0])
    k_col = np.fft.fftfreq(shape[1], pixel[1])
    q2 = 4 * np.pi**2 * (k_row[:, None] ** 2 + k_col[None] ** 2)
    extent = np.array(shape) * pixel
    relative = positions - np.asarray(origin)
    inside = np.all((relative >= 0) & (relative < extent), axis=1)
    total = np.zeros(shape, complex)
    for number, (a, b) in scattering.items():
        r = relative[inside & (elements == number)]
        rows = np.exp(-2j * np.pi * k_row[:, None] * r[:, 0])
        cols = np.exp(-2j * np.pi * r[:, 1][:, None] * k_col)
        factor = np.zeros(shape)
        for a_i, b_i in zip(a, b, strict=True):
            factor += a_i / b_i / (q2 + b_i**2) + a_i * b_i / (q2 + b_i**2) ** 2
        total += 8 * np.pi * factor * (rows @ cols)
    return scipy.fft.ifft2(total).real / (pixel[0] * pixel[1])


def aberration_phase(
    k_row: np.ndarray, k_col: np.ndarray, wavelength: float, aberrations: Mapping[str, float]
) -> np.ndarray:
    """χ of the probe's transform A(k)·exp(-iχ(k)), in radians.

    With α = λ|k| and φ = arctan2(k_row, k_col)::

        χ = 2π/λ [ α²/2 (C10 + C12a cos 2φ + C12b sin 2φ)
                 + α³/3 (C21a cos φ + C21b sin φ + C23a cos 3φ + C23b sin 3φ) + α⁴/4 C30 ]

    which is abTEM's with C12a = C12 cos 2φ12, C12b = C12 sin 2φ12 and so on; abTEM's first axis
    (x) is the column here and its second (y) the row. C10 = -defocus, all in Å.
    """
    c = dict.fromkeys(("C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30"), 0.0)
    unknown = set(aberrations) - set(c)
    if unknown:
        raise ValueError(f"unknown aberrations {sorted(unknown)}; known are {sorted(c)}")
    c.update(aberrations)
    alpha = wavelength * np.hypot(k_row, k_col)
    phi = np.arctan2(k_row, k_col)
    second = c["C10"] + c["C12a"] * np.cos(2 * phi) + c["C12b"] * np.sin(2 * phi)
    third = (
        c["C21a"] * np.cos(phi)
        + c["C21b"] * np.sin(phi)
        + c["C23a"] * np.cos(3 * phi)
        + c["C23b"] * np.sin(3 * phi)
    )
    chi = alpha**2 / 2 * second + alpha**3 / 3 * third + alpha**4 / 4 * c["C30"]
    return 2 * np.pi / wavelength * chi


def probe_transform(
    shape: tuple[int, int],
    reciprocal_pixel: float,
    wavelength: float,
    convergence_angle: float,
    aberrations: Mapping[str, float],
    source_size: float = 0.0,
) -> np.ndarray:
    """The probe's modes in reciprocal space.

    Parameters
    ----------
    shape, reciprocal_pixel
        Numbers of pixels and pixel size (1/Å) of the square-pixelled reciprocal grid.
    wavelength, convergence_angle
        In Å, and the semi-angle in mrad. The aperture's edge is one pixel soft.
    aberrations
        See `aberration_phase`.
    source_size
        Full width at half maximum in Å of the Gaussian effective source. The modes are the
        principal components of the probes from its points.

    Returns
    -------
    numpy.ndarray
        complex128, shape (modes, *shape), zero frequency at [0, 0], strongest mode first, the
        sum of all intensities 1. In real space the probe is centred on pixel [0, 0].
    """
    k_row = np.fft.fftfreq(shape[0], 1 / (shape[0] * reciprocal_pixel))[:, None]
    k_col = np.fft.fftfreq(shape[1], 1 / (shape[1] * reciprocal_pixel))[None]
    cutoff = convergence_angle * 1e-3 / wavelength
    aperture = np.clip((cutoff - np.hypot(k_row, k_col)) / reciprocal_pixel + 0.5, 0, 1)
    probe = aperture * np.exp(-1j * aberration_phase(k_row, k_col, wavelength, aberrations))
    probe /= np.sqrt(np.sum(np.abs(probe) ** 2))
    if source_size == 0:
        return probe[None]
    sigma = source_size / (2 * np.sqrt(2 * np.log(2)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    line = list(zip(sigma * nodes, weights / weights.sum(), strict=True))
    points = [(y, x, v * w) for y, v in line for x, w in line]
    stack = np.array(
        [np.sqrt(w) * probe * np.exp(-2j * np.pi * (k_row * y + k_col * x)) for y, x, w in points]
    ).reshape(len(points), -1)
    power, vectors = np.linalg.eigh(stack @ stack.conj().T)
    power, vectors = power[::-1], vectors[:, ::-1]
    n_modes = 1 + int(np.searchsorted(np.cumsum(power), _KEPT_INTENSITY * power.sum()))
    modes = (vectors[:, :n_modes].conj().T @ stack).reshape(n_modes, *shape)
    return modes / np.sqrt(np.sum(np.abs(modes) ** 2))


def low_pass(k_row: np.ndarray, k_col: np.ndarray, pixel: float) -> np.ndarray:
    """Antialiasing aperture: 2/3 of the Nyquist frequency with a narrow cosine edge, as abTEM's."""
    cutoff, taper = 1 / (3 * pixel), 0.01 / pixel
    radius = np.hypot(k_row[:, None], k_col)
    return 0.5 * (1 + np.cos(np.pi * np.clip((radius - cutoff + taper) / taper, 0, 1)))


def transmission_functions(phases: np.ndarray, pixel: float) -> np.ndarray:
    """exp(i phase) of every slice, low-passed so that its product with a wave does not alias."""
    k_row, k_col = (np.fft.fftfreq(size, pixel) for size in phases.shape[-2:])
    waves = scipy.fft.fft2(np.exp(1j * phases)) * low_pass(k_row, k_col, pixel)
    waves = scipy.fft.ifft2(waves)
    return waves.astype(np.complex64)


def diffraction_patterns(
    transmission: np.ndarray,
    spacings: np.ndarray,
    probe: np.ndarray,
    positions: np.ndarray,
    pixel: float,
    wavelength: float,
    detector_shape: tuple[int, int],
    beam_shift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Multislice of a scanned probe.

    Parameters
    ----------
    transmission
        complex64, shape (slices, Y, X), see `transmission_functions`.
    spacings
        Distances in Å from each slice to the next, shape (slices - 1,).
    probe
        See `probe_transform`, shape (modes, n, n).
    positions
        (row, col) of the probe's centre in pixels of `transmission`, any fraction, shape (J, 2).
        The window of n pixels about each must lie inside.
    pixel, wavelength
        In Å.
    detector_shape
        (rows, columns) of the detector, at most n; its pixel is 1/(n·pixel).
    beam_shift
        (row, col), in detector pixels, of the pattern's centre off pixel
        ``detector_shape // 2``.

    Returns
    -------
    numpy.ndarray
        float32, shape (J, *detector_shape), the part of the incident electrons in each pixel.
    """
    n = probe.shape[-1]
    centre = n // 2
    k = np.fft.fftfreq(n)
    k2 = (k[:, None] ** 2 + k[None] ** 2) / pixel**2
    band = low_pass(k / pixel, k / pixel, pixel)
    propagators = [
        (band * np.exp(-1j * np.pi * wavelength * z * k2)).astype(np.complex64) for z in spacings
    ]
    index = np.arange(n) / n
    tilt = np.exp(2j * np.pi * (beam_shift[0] * index[:, None] + beam_shift[1] * index))
    tilt = tilt.astype(np.complex64)
    nearest = np.floor(positions + 0.5).astype(int)
    start = nearest - centre
    if np.any(start < 0) or np.any(start + n > transmission.shape[-2:]):
        raise ValueError("a probe window reaches beyond the transmission function")
    # the probe's centre goes to pixel n//2 of the window plus the rest of the position
    shift = positions - nearest + centre
    rows = np.exp(-2j * np.pi * k * shift[:, :1])
    cols = np.exp(-2j * np.pi * k * shift[:, 1:])
    keep = [(np.arange(m) - m // 2) % n for m in detector_shape]
    out = np.zeros((len(positions), *detector_shape), np.float32)
    workers = {"workers": -1, "overwrite_x": True}
    for first in range(0, len(positions), _BATCH):
        batch = slice(first, first + _BATCH)
        for mode in probe:
            wave = (mode * rows[batch, :, None] * cols[batch, None]).astype(np.complex64)
            wave = scipy.fft.ifft2(wave, norm="ortho", **workers)
            for propagator, layer in zip(propagators, transmission, strict=False):
                _transmit(wave, layer, start[batch])
                wave = scipy.fft.fft2(wave, **workers)
                wave *= propagator
                wave = scipy.fft.ifft2(wave, **workers)
            _transmit(wave, transmission[-1], start[batch])
            wave *= tilt
            wave = scipy.fft.fft2(wave, norm="ortho", **workers)
            wave = wave[:, keep[0][:, None], keep[1]]
            out[batch] += wave.real**2 + wave.imag**2
    # the low pass of the exit wave is centred on the beam, so it moves with it
    k_row, k_col = (
        (np.arange(m) - m // 2 - s) / (n * pixel)
        for m, s in zip(detector_shape, beam_shift, strict=True)
    )
    out *= low_pass(k_row, k_col, pixel) ** 2
    return out


def _transmit(waves: np.ndarray, layer: np.ndarray, start: np.ndarray) -> None:
    n = waves.shape[-1]
    for wave, (row, col) in zip(waves, start, strict=True):
        wave *= layer[row : row + n, col : col + n]
