"""Where the probe is: scan positions on the object's grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Fractions of a pixel are rounded to 1/32: an error of at most 1/64 pixel, below what any
# microscope's scan repeats, and positions with the same fraction can share a shifted probe.
SUBPIXELS = 32


def scan_positions(
    scan_shape: tuple[int, int],
    step: float,
    *,
    rotation: float = 0.0,
    scale: float = 1.0,
    shear: float = 0.0,
    aspect: float = 1.0,
) -> np.ndarray:
    """Positions of a raster scan in the detector's frame.

    ``(row, column) = step · R(θ) · S · (slow, fast)``, ``R = [[cos θ, −sin θ], [sin θ, cos θ]]``.
    The scan's own distortion S acts first: the slow axis is `aspect` times as long as the fast one
    (their product is kept) and the slow axis leans by `shear`.

    Parameters
    ----------
    scan_shape
        (slow, fast), that is (scan_y, scan_x).
    step
        Length; the positions come in the same unit.
    rotation, shear
        In degrees.
    scale, aspect
        Ratios.

    Returns
    -------
    float64 array of shape (slow * fast, 2); the first position is (0, 0).
    """
    matrix = GridDistortion(rotation, scale, shear, aspect).matrix
    grid = np.stack(np.mgrid[: scan_shape[0], : scan_shape[1]], -1).reshape(-1, 2)
    return step * grid @ matrix.T


class GridDistortion(NamedTuple):
    """What makes a scan's grid of (slow, fast) the positions: see :func:`scan_positions`."""

    rotation: float = 0.0
    scale: float = 1.0
    shear: float = 0.0
    aspect: float = 1.0

    @property
    def matrix(self) -> np.ndarray:
        """``scale · R(θ) · S``, (2, 2)."""
        angle, lean, root = np.radians(self.rotation), np.radians(self.shear), np.sqrt(self.aspect)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return self.scale * turn @ np.array([[root, 0], [np.tan(lean) * root, 1 / root]])

    @classmethod
    def of(cls, matrix: np.ndarray) -> GridDistortion:
        """The distortion of a matrix with a positive determinant."""
        rotation = np.arctan2(-matrix[0, 1], matrix[1, 1])
        turn = np.array(
            [[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]]
        )
        stretch = turn.T @ matrix
        return cls(
            float(np.degrees(rotation)),
            float(np.sqrt(stretch[0, 0] * stretch[1, 1])),
            float(np.degrees(np.arctan2(stretch[1, 0], stretch[0, 0]))),
            float(stretch[0, 0] / stretch[1, 1]),
        )


class Placement(NamedTuple):
    """Positions as the kernels use them; made by :func:`place`."""

    corners: np.ndarray  # int64 (positions, 2): the object pixel at the window's corner
    classes: np.ndarray  # int64 (positions,): which fraction of a pixel
    fractions: np.ndarray  # float64 (classes, 2): the fractions, in pixels
    object_shape: tuple[int, int]
    origin: np.ndarray  # float64 (2,): object pixel of the position (0, 0)


def place(positions: np.ndarray, window: tuple[int, int], margin: int = 2) -> Placement:
    """Put positions on an object grid just large enough for every window.

    Parameters
    ----------
    positions
        In pixels, (positions, 2).
    window
        Shape of the window; its centre is pixel ``window // 2``.
    margin
        Object pixels left free on every side.
    """
    positions = np.asarray(positions, float)
    half = np.array(window) // 2
    origin = np.ceil(half + margin - positions.min(0)) + 0.0
    rounded = np.round((positions + origin) * SUBPIXELS).astype(np.int64)
    whole = (rounded + SUBPIXELS // 2) // SUBPIXELS
    fractions, classes = np.unique(rounded - whole * SUBPIXELS, axis=0, return_inverse=True)
    corners = whole - half
    shape = corners.max(0) + np.array(window) + margin
    return Placement(
        np.ascontiguousarray(corners),
        classes.ravel().astype(np.int64),
        fractions / SUBPIXELS,
        (int(shape[0]), int(shape[1])),
        origin,
    )
