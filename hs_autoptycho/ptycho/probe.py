"""The initial probe: aperture, aberrations, modes. Lengths in Å, angles in mrad and radians.

The probe is ``F⁻¹[A(k) exp(−iχ(k))]`` with numpy's sign of the Fourier transform and

    χ(k, φ) = 2π/λ · [α²/2·(C10 + C12 cos 2(φ−φ12)) + α³/3·(C21 cos(φ−φ21) + C23 cos 3(φ−φ23))
              + α⁴/4·C30],     α = λ|k|,  φ = arctan2(k_row, k_column),

in Cartesian form C12a = C12 cos 2φ12, C12b = C12 sin 2φ12, and so on; defocus = −C10, positive for
underfocus. These are abTEM's and py4DSTEM's conventions but for the names of the axes: rows are y
here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike

ABERRATIONS = ("C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30")
# rays of which the outermost tells how wide the probe is: radii and azimuths
_RADII, _AZIMUTHS = 8, 16


def aberration_phase(
    k_row: np.ndarray,
    k_column: np.ndarray,
    wavelength: float,
    *,
    defocus: float = 0.0,
    C12a: float = 0.0,
    C12b: float = 0.0,
    C21a: float = 0.0,
    C21b: float = 0.0,
    C23a: float = 0.0,
    C23b: float = 0.0,
    C30: float = 0.0,
) -> np.ndarray:
    """χ in radians.

    Parameters
    ----------
    k_row, k_column
        Spatial frequencies in 1/Å, of shapes that broadcast.
    wavelength
        In Å.
    defocus, C12a, C12b, C21a, C21b, C23a, C23b, C30
        Aberrations in Å; underfocus is positive.
    """
    y, x = wavelength * k_row, wavelength * k_column
    squared = x**2 + y**2
    second = -defocus * squared + C12a * (x**2 - y**2) + C12b * 2 * x * y
    third = squared * (C21a * x + C21b * y)
    third = third + C23a * (x**3 - 3 * x * y**2) + C23b * (3 * x**2 * y - y**3)
    return 2 * np.pi / wavelength * (second / 2 + third / 3 + C30 * squared**2 / 4)


def probe_width(
    convergence_angle: ArrayLike,
    defocus: ArrayLike,
    wavelength: float,
    aberrations: Mapping[str, float],
) -> np.ndarray:
    """Diameter of the probe in Å: the outermost ray's disk and Airy's disk, added in quadrature.

    Parameters
    ----------
    convergence_angle, defocus
        In mrad and Å, numbers or arrays of one shape.
    wavelength
        In Å.
    aberrations
        In Å, by the names of `ABERRATIONS`; those that are left out are 0.
    """
    angle, defocus = np.broadcast_arrays(
        np.asarray(convergence_angle, float), np.asarray(defocus, float)
    )
    cutoff = angle[..., None] * 1e-3 / wavelength
    if any(aberrations.values()):
        radii = np.linspace(1 / _RADII, 1, _RADII)[:, None]
        azimuths = np.linspace(0, 2 * np.pi, _AZIMUTHS, endpoint=False)
        y = cutoff * (radii * np.sin(azimuths)).ravel()
        x = cutoff * (radii * np.cos(azimuths)).ravel()
        step = 1e-3 * cutoff

        def chi(y, x):
            return aberration_phase(y, x, wavelength, defocus=defocus[..., None], **aberrations)

        slopes = chi(y + step, x) - chi(y - step, x), chi(y, x + step) - chi(y, x - step)
        ray = (np.hypot(*slopes) / (4 * np.pi * step)).max(axis=-1)
    else:
        ray = np.abs(defocus) * angle * 1e-3
    airy = 1.22 * wavelength / (angle * 1e-3)
    return np.hypot(2 * ray, airy)


def beam_frequencies(
    shape: tuple[int, int],
    pixel_size: tuple[float, float],
    beam_offset: tuple[float, float] = (0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Spatial frequencies from the beam's centre, in the order of ``np.fft.fft2``.

    Parameters
    ----------
    shape
        Window in pixels (rows, columns).
    pixel_size
        Object pixel in Å (rows, columns).
    beam_offset
        Where the beam's centre is in the detector's plane relative to pixel ``shape // 2``, in
        pixels (rows, columns).

    Returns
    -------
    Two arrays in 1/Å, (rows, 1) and (1, columns).
    """
    out = []
    for n, d, offset in zip(shape, pixel_size, beam_offset, strict=True):
        pixels = np.fft.fftfreq(n, 1 / n) - offset
        # the far side of an off-centre beam wraps round the edge of the frequency grid
        out.append(((pixels + n / 2) % n - n / 2) / (n * d))
    return out[0][:, None], out[1][None, :]


def disk_aperture(k_row: np.ndarray, k_column: np.ndarray, radius: float) -> np.ndarray:
    """Amplitude of a round aperture whose edge is one pixel wide.

    Parameters
    ----------
    k_row, k_column
        As from :func:`beam_frequencies`.
    radius
        In 1/Å.
    """
    steps = [np.abs(np.diff(k.ravel()[:2]))[0] for k in (k_row, k_column)]
    k = np.hypot(k_row, k_column)
    edge = np.hypot(k_row * steps[0], k_column * steps[1]) / np.maximum(k, 1e-12)
    edge = np.where(k > 0, edge, min(steps))
    return np.sqrt(np.clip((radius - k) / edge + 0.5, 0, 1))


def measured_aperture(
    mean_pattern: np.ndarray, k_row: np.ndarray, k_column: np.ndarray, radius: float
) -> np.ndarray:
    """Amplitude of the aperture as the mean pattern shows it: its square root, near the disk.

    What lies beyond 1.25 radii of the disk is scattered by the specimen, not let through by the
    aperture. What lies between is the disk's blurred edge: a halo which all patterns share has to
    be part of the probe, or else the object answers it with the period of the scan's own grid.

    Parameters
    ----------
    mean_pattern
        (rows, columns), zero frequency at pixel ``shape // 2``.
    k_row, k_column
        As from :func:`beam_frequencies`.
    radius
        Of the bright-field disk, in 1/Å.
    """
    amplitude = np.sqrt(np.fft.ifftshift(mean_pattern))
    return amplitude * disk_aperture(k_row, k_column, 1.25 * radius)


def make_probe(
    aperture: np.ndarray,
    k_row: np.ndarray,
    k_column: np.ndarray,
    wavelength: float,
    **aberrations: float,
) -> np.ndarray:
    """An aberrated probe behind an aperture.

    Where the beam is off the detector's centre the probe carries the phase ramp that this is in
    real space, so that patterns need not be moved; the aberrations are centred on the beam.

    Parameters
    ----------
    aperture
        Amplitudes (rows, columns) in the order of ``np.fft.fft2``: of :func:`disk_aperture`
        or :func:`measured_aperture`.
    k_row, k_column
        As from :func:`beam_frequencies`.
    wavelength
        In Å.
    **aberrations
        As for :func:`aberration_phase`.

    Returns
    -------
    complex128 array
        Centred on pixel ``shape // 2``, with Σ|P|² = 1.
    """
    phase = aberration_phase(k_row, k_column, wavelength, **aberrations)
    probe = scipy.fft.fftshift(scipy.fft.ifft2(aperture * np.exp(-1j * phase)))
    return probe / np.sqrt((np.abs(probe) ** 2).sum())


def make_modes(probe: np.ndarray, n_modes: int, *, minor_power: float | None = None) -> np.ndarray:
    """Start values of a mixed-state probe from one coherent probe.

    The further modes are the probe times low Hermite-like polynomials in its own width, made
    orthogonal. Those of first order are y ± ix: a solver turns a part of the right mode into the
    whole one, but y alone has no part of x.

    Parameters
    ----------
    probe
        Complex (rows, columns).
    n_modes
        Number of modes.
    minor_power
        Share of the total power in each mode but the first. By default 0.15 shared out among them:
        modes that begin far weaker than they are grow slowly, too strong ones fade soon.

    Returns
    -------
    complex128 array of shape (n_modes, rows, columns), with the power of `probe`.
    """
    power = np.abs(probe) ** 2
    total = power.sum()
    axes = [
        np.arange(n) - (power.sum(1 - a) @ np.arange(n)) / total for a, n in enumerate(probe.shape)
    ]
    widths = [np.sqrt((power.sum(1 - a) @ axis**2) / total) for a, axis in enumerate(axes)]
    y, x = axes[0][:, None] / widths[0], axes[1][None, :] / widths[1]
    modes: list[np.ndarray] = []
    order = 0
    while len(modes) < n_modes:
        for i in range(order + 1):
            mode = probe * np.polynomial.hermite_e.hermeval(y, [0] * (order - i) + [1])
            mode = mode * np.polynomial.hermite_e.hermeval(x, [0] * i + [1])
            for other in modes:
                mode = mode - other * np.vdot(other, mode)
            modes.append(mode / np.sqrt((np.abs(mode) ** 2).sum()))
        order += 1
    if len(modes) > 2:
        modes[1:3] = (
            (modes[1] + 1j * modes[2]) / np.sqrt(2),
            (modes[1] - 1j * modes[2]) / np.sqrt(2),
        )
    if minor_power is None:
        minor_power = 0.15 / max(1, n_modes - 1)
    shares = np.full(n_modes, minor_power)
    shares[0] = 1 - minor_power * (n_modes - 1)
    return np.stack(modes[:n_modes]) * np.sqrt(total * shares)[:, None, None]


def orthogonalize(modes: ArrayLike) -> np.ndarray:
    """Orthogonal modes with the same mixed state, strongest first.

    The density matrix Σ P P* does not change: the modes are rotated by the eigenvectors of their
    overlaps (Thibault and Menzel, Nature 494, 68, 2013).

    Parameters
    ----------
    modes
        Complex (modes, rows, columns).
    """
    modes = np.asarray(modes)
    flat = modes.reshape(len(modes), -1)
    overlaps = flat.conj().astype(np.complex128) @ flat.T.astype(np.complex128)
    powers, vectors = np.linalg.eigh(overlaps)
    rotated = vectors[:, ::-1].T @ flat
    return rotated.reshape(modes.shape).astype(modes.dtype)


def center_beam(modes: np.ndarray, beam_offset: ArrayLike) -> np.ndarray:
    """Take the phase ramp of an off-centre beam out of probes; see :func:`make_probe`."""
    rows, columns = modes.shape[-2:]
    y, x = np.arange(rows) - rows // 2, np.arange(columns) - columns // 2
    offset = np.asarray(beam_offset)
    ramp = offset[0] * y[:, None] / rows + offset[1] * x[None, :] / columns
    return (modes * np.exp(-2j * np.pi * ramp)).astype(modes.dtype)
