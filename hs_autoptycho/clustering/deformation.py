"""Strain and rotation from two lattices.

Vectors of a lattice are the columns of ``G = (g1, g2)``, their rows k_x and k_y: x runs along the
detector's columns and y along its rows. A deformation F of the specimen, ``r' = F r``, turns the
reciprocal lattice G0 into ``G = F^-T G0``, hence ``F = (G G0^-1)^-T``. Strain is
``e = (F + F^T) / 2 - 1``, positive where the specimen's lattice is longer than the reference's. The
rotation ``(F_yx - F_xy) / 2``, in degrees, is positive from x to y.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hs_autoptycho.clustering.lattice import Lattice, nearest_basis

COMPONENTS = ("e_xx", "e_yy", "e_xy", "rotation")


def deformation(basis: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """F (..., 2, 2) in (x, y) of bases (..., 2, 2) with rows g1, g2 in (k_y, k_x)."""
    columns = np.swapaxes(basis[..., ::-1], -1, -2)
    standard = np.swapaxes(np.asarray(reference)[..., ::-1], -1, -2)
    columns, standard = np.broadcast_arrays(columns, standard)
    known = np.isfinite(columns).all(axis=(-2, -1)) & np.isfinite(standard).all(axis=(-2, -1))
    sound = np.where(known[..., None, None], columns, np.eye(2))
    known &= np.abs(np.linalg.det(sound)) > 0
    F = np.full(columns.shape, np.nan)
    ratio = columns[known] @ np.linalg.inv(standard[known])
    F[known] = np.swapaxes(np.linalg.inv(ratio), -1, -2)
    return F


def strain_components(
    basis: np.ndarray, reference: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Strain and rotation, and their standard errors.

    Parameters
    ----------
    basis
        (..., 2, 2): rows g1 and g2, each (k_y, k_x).
    reference
        (2, 2), or (..., 2, 2): likewise, of no strain and taken as exact.
    covariance
        (..., 4, 4): of g1_y, g1_x, g2_y, g2_x.

    Returns
    -------
    values, errors
        (..., 4) each: e_xx, e_yy, e_xy and the rotation in degrees.
    """
    F = deformation(basis, reference)
    values = _components(F)
    columns = np.swapaxes(basis[..., ::-1], -1, -2)
    inverse = np.swapaxes(np.linalg.inv(np.where(np.isnan(F), np.eye(2), columns)), -1, -2)
    jacobian = np.empty((*F.shape[:-2], 4, 4))
    for index in range(4):
        change = np.zeros((2, 2))
        # index counts g1_y, g1_x, g2_y, g2_x; the columns of G are (k_x, k_y)
        change[1 - index % 2, index // 2] = 1.0
        jacobian[..., index] = _components(-inverse @ change.T @ F, offset=0.0)
    variance = np.einsum("...ci,...ij,...cj->...c", jacobian, covariance, jacobian)
    with np.errstate(invalid="ignore"):
        return values, np.sqrt(variance)


def _components(F: np.ndarray, offset: float = 1.0) -> np.ndarray:
    return np.stack(
        [
            F[..., 0, 0] - offset,
            F[..., 1, 1] - offset,
            0.5 * (F[..., 0, 1] + F[..., 1, 0]),
            np.degrees(0.5 * (F[..., 1, 0] - F[..., 0, 1])),
        ],
        axis=-1,
    )


def stretch_and_turn(
    basis: np.ndarray, reference: np.ndarray, scale: Sequence[float]
) -> tuple[float, float]:
    """Largest strain, of any sign, and the rotation in degrees between two bases as they are given.

    The polar decomposition keeps them apart: what was only turned has no strain.

    Parameters
    ----------
    basis
        (2, 2): rows g1 and g2, each (k_y, k_x), in detector pixels.
    reference
        (2, 2): likewise, in the units of `scale`.
    scale
        Size of a pixel (k_y, k_x).
    """
    F = deformation(basis * np.asarray(scale, dtype=float), reference)
    strain = np.abs(np.linalg.svd(F, compute_uv=False) - 1).max()
    return float(strain), _polar_angle(F)


def _polar_angle(F: np.ndarray) -> float:
    return float(np.degrees(np.arctan2(F[1, 0] - F[0, 1], F[0, 0] + F[1, 1])))


def rotation_between(first: Lattice, second: Lattice, scale: Sequence[float]) -> tuple:
    """Smallest rotation in degrees that turns one lattice into another, and its standard error.

    Any equivalent basis of the second may be taken; strain between the two is left out by the polar
    decomposition. Positive from x to y.

    Parameters
    ----------
    first, second
        In detector pixels.
    scale
        Size of a pixel (k_y, k_x).
    """
    scale = np.asarray(scale, dtype=float)
    change = nearest_basis(second.basis * scale, first.basis * scale)
    second = second.transformed(change)

    def angle(a, b):
        return _polar_angle(deformation(b * scale, a * scale))

    variance = 0.0
    for own, covariance in ((0, first.covariance), (1, second.covariance)):
        bases = [first.basis, second.basis]
        step = 1e-5 * np.abs(bases[own]).max()
        gradient = np.empty(4)
        for index in range(4):
            shifted = [b.copy() for b in bases]
            shifted[own][index // 2, index % 2] += step
            gradient[index] = (angle(*shifted) - angle(*bases)) / step
        variance += gradient @ covariance[2:, 2:] @ gradient
    return float(angle(first.basis, second.basis)), float(np.sqrt(variance))
