"""Initial modes of a probe that is only partially coherent. Lengths in Å.

A source of finite size and a spread of focus make the probe a mixture of coherent ones: shifted by
where an electron leaves the source, and defocused by its energy and the current of the lens. With
the probe's spectrum A(k), a Gaussian source of the standard deviation σ and a spread of focus δ,
the mixture's density matrix is

    ρ(k, k') = A(k) A*(k') exp(−2π²σ² |k − k'|²) exp(−(π λ δ)² (|k|² − |k'|²)² / 2),

and its eigenvectors are the modes (P. Thibault and A. Menzel, Nature 494, 68, 2013).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import scipy.sparse.linalg

from hs_autoptycho.ptycho.probe import make_probe

_MOST_POINTS = 64  # of the quadrature over the focus
_ACCURACY = 1e-6  # of the coherence between any two points of the aperture
_REACH = 5.0  # standard deviations: what is beyond weighs less than the accuracy
_NO_POWER = 1e-12  # part of the beam that rounding may give to modes that do not exist


def coherence_modes(
    aperture: np.ndarray,
    k_row: np.ndarray,
    k_column: np.ndarray,
    wavelength: float,
    n_modes: int,
    *,
    source_size: float = 0.0,
    focal_spread: float = 0.0,
    renormalize: bool = True,
    **aberrations: float,
) -> np.ndarray:
    """The strongest modes of a probe from a round Gaussian source with a Gaussian spread of focus.

    Parameters
    ----------
    aperture, k_row, k_column, wavelength
        As for :func:`~hs_autoptycho.ptycho.probe.make_probe`.
    n_modes
        Number of modes.
    source_size
        Full width at half maximum of the source's image in the specimen, in Å. The standard
        deviation is 1 / 2.355 of it.
    focal_spread
        Standard deviation of the defocus, in Å. The 1/e half-width of other programs is √2 times
        as large, the full width at half maximum 2.355 times.
    renormalize
        Whether the modes get the power of those that are left out, so that the sum of Σ|P|² over
        all modes is 1. Otherwise it is the part of the beam that the modes hold, and 1 less this
        sum is what a larger `n_modes` could add.
    **aberrations
        As for :func:`~hs_autoptycho.ptycho.probe.aberration_phase`; `defocus` is the mean one.

    Returns
    -------
    complex128 array (n_modes, rows, columns)
        Orthogonal, strongest first, centred on pixel ``shape // 2``. The first one has the phase of
        the coherent probe. A beam that has fewer modes gives zeros for the others: no solver finds
        a mode that begins at zero, see :func:`~hs_autoptycho.ptycho.probe.make_modes` for others.

    Raises
    ------
    ValueError
        If a length is negative or not finite, or the spread of focus far too large for the
        aperture.
    """
    if n_modes < 1:
        raise ValueError(f"A probe has at least one mode, not {n_modes}.")
    for name, value in (("source_size", source_size), ("focal_spread", focal_spread)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"`{name}` must be a length in Å of at least 0, not {value}.")
    coherent = make_probe(aperture, k_row, k_column, wavelength, **aberrations)
    modes = np.zeros((n_modes, *coherent.shape), complex)
    if source_size == focal_spread == 0:
        modes[0] = coherent
        return modes
    spectrum = scipy.fft.fft2(scipy.fft.ifftshift(coherent), norm="ortho")
    inside = np.abs(aperture) > 0
    sigma = source_size / math.sqrt(8 * math.log(2))
    density = _Density(spectrum, inside, k_row, k_column, wavelength, sigma, focal_spread)
    powers, vectors = _strongest(density, n_modes)
    powers = np.where(powers > _NO_POWER, powers, 0)
    if renormalize:
        powers = powers / powers.sum()
    # ρ is real but for the phases of A; a mode's sign is that of its overlap with the probe
    signs = np.where(np.abs(spectrum[inside]) @ vectors < 0, -1, 1)
    found = np.exp(1j * np.angle(spectrum[inside])) * (vectors * signs * np.sqrt(powers)).T
    modes[: len(found), inside] = found
    return scipy.fft.fftshift(scipy.fft.ifft2(modes, norm="ortho"), axes=(1, 2))


class _Density(scipy.sparse.linalg.LinearOperator):
    """|A| K |A| with the real kernel K of ρ, on the pixels of the aperture.

    The source's kernel is a convolution, and each focus of a quadrature a phase before and after
    it: the matrix itself, which has the squared number of the aperture's pixels, is never made.
    """

    def __init__(self, spectrum, inside, k_row, k_column, wavelength, sigma, focal_spread):
        self.amplitude = np.abs(spectrum[inside])
        super().__init__(np.float64, (self.amplitude.size,) * 2)
        squared = np.broadcast_to(k_row**2 + k_column**2, inside.shape)[inside]
        phase = np.pi * wavelength * focal_spread * squared
        places, weights = _quadrature(np.ptp(phase))
        self.foci = [(w, np.exp(1j * x * phase)) for x, w in zip(places, weights, strict=True)]
        self.pixels, kernel = [], []
        for k in (k_row, k_column):
            step = np.abs(np.diff(k.ravel()[:2]))[0]
            k = np.broadcast_to(k, inside.shape)[inside]
            # the beam may be between two pixels
            index = np.rint((k - k.min()) / step).astype(int)
            # room enough that the convolution does not meet itself
            size = scipy.fft.next_fast_len(int(2 * index.max() + 1))
            difference = scipy.fft.fftfreq(size, 1 / size) * step
            self.pixels.append(index)
            kernel.append(np.exp(-2 * (np.pi * sigma * difference) ** 2))
        self.pixels = tuple(self.pixels)
        self.kernel = scipy.fft.fft2(kernel[0][:, None] * kernel[1])

    def _matvec(self, x):
        weighted = self.amplitude * x.ravel()
        total = np.zeros(len(weighted))
        for weight, phase in self.foci:
            grid = np.zeros(self.kernel.shape, complex)
            grid[self.pixels] = weighted * phase.conj()
            grid = scipy.fft.ifft2(scipy.fft.fft2(grid) * self.kernel)
            # the imaginary parts of a focus and its mirror image cancel
            total += weight * (grid[self.pixels] * phase).real
        return self.amplitude * total

    def _adjoint(self):
        return self


def _strongest(density: _Density, n_modes: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues, in falling order, and their eigenvectors (pixels, modes)."""
    size = density.shape[0]
    if size <= 4 * n_modes + 40:
        powers, vectors = np.linalg.eigh(density @ np.eye(size))
    else:
        # a fixed start, for the same result every time, that no symmetry is orthogonal to
        start = np.random.default_rng(0).normal(size=size)
        powers, vectors = scipy.sparse.linalg.eigsh(
            density, n_modes, v0=start, ncv=2 * n_modes + 20, tol=1e-10
        )
    order = np.argsort(powers)[::-1][:n_modes]
    return powers[order], vectors[:, order]


def _quadrature(largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights for the mean over a normal distribution.

    There are enough of them for exp(i b x) with b up to `largest`, whose mean is exp(-b² / 2).
    Gauss and Hermite's points are few where b is small, even steps where it is large.
    """
    frequencies = np.linspace(0, largest, 100)
    expected = np.exp(-(frequencies**2) / 2)
    for n in range(1, _MOST_POINTS + 1):
        even = np.linspace(-_REACH, _REACH, n)
        rules = [(even, np.exp(-(even**2) / 2))]
        if n < 20:
            rules.insert(0, np.polynomial.hermite_e.hermegauss(n))
        for places, weights in rules:
            weights = weights / weights.sum()
            means = weights @ np.cos(places[:, None] * frequencies)
            if np.abs(means - expected).max() < _ACCURACY:
                return places, weights
    raise ValueError(
        "`focal_spread` is so large that the centre of the aperture and its edge have nothing to "
        "do with each other. Check its value and unit, Å, and the convergence angle."
    )
