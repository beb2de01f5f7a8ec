"""The specimen of a simulated experiment: phase shifts on whatever grid of pixels is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft


@dataclass(frozen=True)
class Specimen:
    """Phase shifts of a specimen's slices.

    Attributes
    ----------
    phases : float array (slices, Y, X)
        In rad.
    pixel : float
        In Å; pixels are square.
    spacings : tuple of float
        From each slice to the next, in Å.
    origin : (float, float)
        (row, column) of pixel [0, 0] in Å, in the frame of whoever made the specimen.
    """

    phases: np.ndarray
    pixel: float
    spacings: tuple[float, ...] = ()
    origin: tuple[float, float] = (0.0, 0.0)

    @property
    def extent(self) -> tuple[float, float]:
        """(rows, columns) in Å, from the first pixel's centre to the last one's."""
        rows, columns = self.phases.shape[-2:]
        return (rows - 1) * self.pixel, (columns - 1) * self.pixel

    @property
    def middle(self) -> np.ndarray:
        """(row, column) in Å."""
        return np.array(self.origin) + np.array(self.extent) / 2

    @property
    def thickness(self) -> float:
        """From the first slice to the last one, in Å."""
        return float(sum(self.spacings))

    @property
    def sum_of_slices(self) -> Specimen:
        """The specimen in one slice."""
        total = self.phases.sum(axis=0, keepdims=True)
        return Specimen(total, self.pixel, (), self.origin)

    def on_grid(
        self, shape: tuple[int, int], pixel: tuple[float, float], origin: tuple[float, float]
    ) -> np.ndarray:
        """Phase shifts on another grid, without what is beyond its Nyquist frequency.

        The slices are continued by their mirror images and written as sums of cosines, which are
        exact between the pixels and have no step at the edges.

        Parameters
        ----------
        shape
            (rows, columns).
        pixel
            (rows, columns), in Å.
        origin
            (row, column) of pixel [0, 0] in Å, in the specimen's frame.

        Returns
        -------
        float64 array (slices, rows, columns)
        """
        first, second = (
            self._cosines(axis, shape[axis], pixel[axis], origin[axis]) for axis in (0, 1)
        )
        kept = self._coefficients[:, : first.shape[1], : second.shape[1]]
        return first @ kept @ second.T

    @cached_property
    def _coefficients(self) -> np.ndarray:
        """Amplitudes of the cosines."""
        norm = 4.0 * np.prod(self.phases.shape[-2:])
        coefficients = scipy.fft.dctn(self.phases.astype(float), axes=(1, 2)) / norm
        coefficients[:, 1:] *= 2
        coefficients[:, :, 1:] *= 2
        return coefficients

    def _cosines(self, axis: int, size: int, pixel: float, origin: float) -> np.ndarray:
        """Values of the cosines (pixels, frequencies) along an axis of a grid."""
        n = self.phases.shape[1 + axis]
        place = (origin + np.arange(size) * pixel - self.origin[axis]) / self.pixel
        # the cosine of number m has the frequency m / (2 n) of a pixel
        highest = min(n, 1 + int(np.floor(n * self.pixel / pixel + 1e-6)))
        return np.cos(np.pi * np.outer(place + 0.5, np.arange(highest)) / n)
