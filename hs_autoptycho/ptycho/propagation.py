"""Free space between the slices of a multislice object. Lengths in Å, tilts in mrad.

Over a distance dz a wave's spectrum is multiplied by

    H(k) = exp(−iπ λ dz |k|²) · exp(2πi dz (k_y tan t_y + k_x tan t_x)),

with numpy's sign of the Fourier transform: the Fresnel propagator of J. M. Cowley and A. F. Moodie
(Acta Cryst. 10, 609, 1957) and the shear of a tilted specimen. The slices are drawn in the frame
of the specimen: a column that leans by t_y, so that at a depth z it is at y = z tan t_y, stays in
the same pixels of all slices, and the wave moves by −dz tan(t) from one slice to the next. abTEM
and py4DSTEM tilt the beam: their tilts have the opposite sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hs_autoptycho.ptycho.probe import beam_frequencies, disk_aperture

#: What :func:`propagator_derivatives` are derivatives by, in the order of its second axis.
PROPAGATION_PARAMETERS = ("scale", "tilt_y", "tilt_x")


@dataclass(frozen=True)
class Propagation:
    """Where the slices of an object are, and with what the space between them is crossed.

    Attributes
    ----------
    distances : tuple of float
        From each slice to the next one, in Å; one less than there are slices.
    wavelength : float
        In Å.
    pixel_size : tuple of float
        Of the object, in Å (rows, columns).
    tilt : tuple of float
        Of the specimen, in mrad (y, x); see the module.

    Raises
    ------
    ValueError
        If a length is not positive, or anything is not finite.
    """

    distances: tuple[float, ...]
    wavelength: float
    pixel_size: tuple[float, float]
    tilt: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        for name in ("distances", "pixel_size", "tilt"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        object.__setattr__(self, "wavelength", float(self.wavelength))
        for name, values in (
            ("Distances between slices", self.distances),
            ("The wavelength", (self.wavelength,)),
            ("Pixel sizes", self.pixel_size),
        ):
            if not all(math.isfinite(v) and v > 0 for v in values):
                raise ValueError(f"{name} must be positive and finite, not {values}.")
        if len(self.pixel_size) != 2 or len(self.tilt) != 2:
            raise ValueError(
                "Pixel size and tilt have two values each, (rows, columns) and (y, x), not "
                f"{self.pixel_size} and {self.tilt}."
            )
        # from 1571 mrad the specimen stands on its edge
        if not all(abs(t) < 1500 for t in self.tilt):
            raise ValueError(f"Tilts are in mrad and must be smaller than 1500, not {self.tilt}.")

    @classmethod
    def even(
        cls,
        n_slices: int,
        thickness: float,
        wavelength: float,
        pixel_size: tuple[float, float],
        *,
        tilt: tuple[float, float] = (0.0, 0.0),
    ) -> Propagation:
        """Slices at even distances.

        Each of the `n_slices` slices stands for thickness / n_slices of the specimen, which is
        also the distance from one to the next: from the first to the last it is less than the
        thickness, as in abTEM and py4DSTEM.

        Parameters
        ----------
        n_slices
            At least 1; with 1 there is nothing to propagate and the thickness has no effect.
        thickness
            Of the specimen, in Å.
        wavelength, pixel_size, tilt
            As in :class:`Propagation`.
        """
        if n_slices < 1:
            raise ValueError(f"An object has at least one slice, not {n_slices}.")
        distances = (float(thickness) / n_slices,) * (n_slices - 1)
        return cls(distances, wavelength, pixel_size, tilt)

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.distances) + 1

    @property
    def slice_thicknesses(self) -> np.ndarray:
        """Å of the specimen that each slice stands for: half-way to its neighbours.

        The outer slices reach as far outwards as inwards. With one slice it is not known, and 0.
        """
        if not self.distances:
            return np.zeros(1)
        padded = np.array([self.distances[0], *self.distances, self.distances[-1]])
        return (padded[:-1] + padded[1:]) / 2

    @property
    def thickness(self) -> float:
        """Å, the sum of the slices' thicknesses; 0 with one slice, where it is not known."""
        return float(self.slice_thicknesses.sum())

    def scaled(self, factor: float) -> Propagation:
        """The same with all distances, and so the thickness, times a factor."""
        return replace(self, distances=tuple(d * factor for d in self.distances))

    def tilted(self, tilt: tuple[float, float]) -> Propagation:
        """The same with another tilt, in mrad (y, x)."""
        return replace(self, tilt=tilt)


def propagators(
    propagation: Propagation,
    shape: tuple[int, int],
    *,
    beam_offset: tuple[float, float] = (0.0, 0.0),
    bandlimit: float | None = None,
) -> np.ndarray:
    """Factors on a wave's spectrum from each slice to the next.

    Parameters
    ----------
    propagation
        Of the object.
    shape
        Window in pixels (rows, columns).
    beam_offset
        Where the beam's centre is on the detector, as for
        :func:`~hs_autoptycho.ptycho.probe.beam_frequencies`. A probe that carries the phase ramp of
        an off-centre beam would else be propagated as if the beam were tilted.
    bandlimit
        Frequencies beyond this fraction of the smaller Nyquist frequency are removed. Simulations
        cut at 2/3 lest products of a wave and a slice wrap round the edge of the spectrum. Here the
        window is the detector and every frequency of the spectrum is a measured pixel: a limit
        would forbid the model to reach the outer ones, so that by default there is none and the
        propagators keep every wave's power.

    Returns
    -------
    complex128 array of shape (slices − 1, rows, columns), in the order of ``np.fft.fft2``.
    """
    angles = _angles(propagation, shape, beam_offset)
    unit = np.exp(1j * angles)
    if bandlimit is not None:
        k = beam_frequencies(shape, propagation.pixel_size)
        nyquist = 0.5 / max(propagation.pixel_size)
        unit *= disk_aperture(*k, bandlimit * nyquist)
    return unit


def propagator_derivatives(
    propagation: Propagation,
    shape: tuple[int, int],
    *,
    beam_offset: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Real factors f with dH/dp = i f H, for each of `PROPAGATION_PARAMETERS` p.

    They are the logarithm of the thickness (``scaled(1 + p)`` at p = 0), and the tilts along y and
    x, by mrad.

    Parameters
    ----------
    propagation, shape, beam_offset
        As for :func:`propagators`.

    Returns
    -------
    float64 array of shape (slices − 1, 3, rows, columns), in the order of ``np.fft.fft2``.
    """
    k_row, k_column = beam_frequencies(shape, propagation.pixel_size, beam_offset)
    out = np.empty((len(propagation.distances), 3, *shape))
    out[:, 0] = _angles(propagation, shape, beam_offset)
    distances = np.array(propagation.distances)[:, None, None]
    for i, (k, tilt) in enumerate(zip((k_row, k_column), propagation.tilt, strict=True), start=1):
        slope = 1e-3 / math.cos(1e-3 * tilt) ** 2
        out[:, i] = 2 * np.pi * slope * distances * k
    return out


def _angles(propagation, shape, beam_offset):
    """Arguments of the propagators in radians, (slices − 1, rows, columns)."""
    k_row, k_column = beam_frequencies(shape, propagation.pixel_size, beam_offset)
    slopes = [math.tan(1e-3 * tilt) for tilt in propagation.tilt]
    by_length = 2 * np.pi * (slopes[0] * k_row + slopes[1] * k_column)
    by_length = by_length - np.pi * propagation.wavelength * (k_row**2 + k_column**2)
    return np.array(propagation.distances)[:, None, None] * by_length
