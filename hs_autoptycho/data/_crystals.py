"""Two-dimensional crystals and their diffraction: lattices, atoms, intensities of reflections.

A lattice is a (2, 2) array whose columns are vectors and whose rows are their x (along the columns
of the detector) and y (along its rows). Reciprocal vectors are in 1/Å, without 2π.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._multislice import electron_wavelength, interaction_parameter

# parameters a, b of I. Lobato, D. Van Dyck, Acta Cryst. A70, 636 (2014):
# f(g) = Σ a (2 + b g²) / (1 + b g²)², in Å
_SCATTERING = {
    "S": (
        (2.67971, -0.474252, 0.514836, -0.095836, 0.00248872),
        (3.06889, 0.378217, 0.188722, 0.0923371, 0.0111921),
    ),
    "Se": (
        (3.64905, -43.6852, 43.6920, 0.00844902, 3.78611e-05),
        (3.25043, 0.609666, 0.596971, 0.0148555, 0.00133626),
    ),
    "Sn": (
        (5.14222, -25.4945, 25.7414, 0.111778, 0.000293647),
        (5.27273, 1.53195, 1.40258, 0.0611685, 0.00107560),
    ),
    "W": (
        (3.97630, 1.52293, 0.797706, 0.0213667, 0.000103079),
        (6.29686, 1.11290, 0.231057, 0.0151014, 0.000474682),
    ),
}
# mean inner potential of one scattering length per area: h² / (2π m e), in V Å²
_POTENTIAL = 47.8780
# points along each side of the cell on which the phase grating is evaluated
_CELL_POINTS = 64


@dataclass(frozen=True)
class Crystal:
    """A sheet of atoms, periodic in two dimensions.

    Attributes
    ----------
    cell
        Direct lattice vectors in Å, as columns, shape (2, 2).
    atoms
        Element, fractional coordinates (u, v), height in Å over the sheet's middle and the
        Debye-Waller B in Å² of every atom of the cell.
    layers
        Sheets stacked on top of each other without a shift.
    """

    cell: np.ndarray
    atoms: tuple[tuple[str, float, float, float, float], ...]
    layers: int = 1

    def lattice(self, angle: float = 0.0) -> np.ndarray:
        """Reciprocal vectors as columns, (2, 2) in 1/Å, the crystal turned by `angle` degrees."""
        return rotation(angle) @ np.linalg.inv(self.cell).T


def rotation(angle: float) -> np.ndarray:
    """Rotation by `angle` degrees from x towards y (clockwise where rows count downwards)."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[cos, -sin], [sin, cos]])


def two_h_monolayer(metal: str, chalcogen: str, a: float, height: float) -> Crystal:
    """A 2H monolayer MX2 of lattice constant `a`, the chalcogen `height` Å off the metal."""
    cell = np.array([[a, -a / 2], [0.0, a * np.sqrt(3) / 2]])
    third = 1 / 3
    return Crystal(
        cell,
        (
            (metal, 0.0, 0.0, 0.0, 0.35),
            (chalcogen, third, 2 * third, height, 0.55),
            (chalcogen, third, 2 * third, -height, 0.55),
        ),
    )


def scattering_factor(element: str, g2: np.ndarray) -> np.ndarray:
    """Electron scattering factor in Å at the squared spatial frequencies `g2` in 1/Å²."""
    a, b = (np.array(row) for row in _SCATTERING[element])
    g2 = np.asarray(g2, float)[..., None]
    return np.sum(a * (2 + b * g2) / (1 + b * g2) ** 2, axis=-1)


def structure_factor(crystal: Crystal, indices: np.ndarray, k_z: np.ndarray | float = 0.0):
    """Kinematic structure factor of one sheet in Å at (h, k), and at `k_z` (1/Å) off the sheet."""
    g = indices @ crystal.lattice().T
    g2 = np.sum(g**2, axis=-1)
    total = np.zeros(np.broadcast_shapes(g2.shape, np.shape(k_z)), complex)
    for element, u, v, z, b in crystal.atoms:
        phase = indices[..., 0] * u + indices[..., 1] * v + k_z * z
        amplitude = scattering_factor(element, g2) * np.exp(-b * g2 / 4)
        total += amplitude * np.exp(-2j * np.pi * phase)
    return total


def reflections(
    crystal: Crystal, beam_energy: float, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reflections of a crystal and the part of the incident electrons in each.

    The phase grating exp(iσV) of the cell's projected potential, damped by Debye-Waller factors.
    Other than the kinematic intensities |F|², it tells a crystal without inversion centre from its
    inverse: Friedel's pairs differ (J. M. Cowley, *Diffraction Physics*, ch. 11).

    Parameters
    ----------
    crystal
        See `Crystal`.
    beam_energy
        In keV.
    cutoff
        Largest spatial frequency kept, in 1/Å.

    Returns
    -------
    indices, intensities
        (h, k), int, shape (n, 2), without (0, 0); and float64, shape (n,).
    """
    n = _CELL_POINTS
    index = np.fft.fftfreq(n, 1 / n).astype(int)
    hk = np.stack(np.meshgrid(index, index, indexing="ij"), axis=-1)
    area = abs(np.linalg.det(crystal.cell))
    potential = crystal.layers * _POTENTIAL / area * structure_factor(crystal, hk)
    # an equal number of positive and negative frequencies keeps the potential real
    potential[n // 2] = potential[:, n // 2] = 0
    phase = interaction_parameter(beam_energy) * np.fft.ifft2(potential).real * n**2
    intensity = np.abs(np.fft.fft2(np.exp(1j * phase)) / n**2) ** 2
    g = np.linalg.norm(hk @ crystal.lattice().T, axis=-1)
    kept = (g <= cutoff) & (g > 0) & np.all(np.abs(hk) < n // 4, axis=-1)
    # of sums of reflections that a symmetry extinguishes only rounding is left
    kept &= intensity > 1e-9 * intensity[g > 0].max()
    return hk[kept], intensity[kept]


def rippled(
    crystal: Crystal,
    indices: np.ndarray,
    intensities: np.ndarray,
    angle: float,
    direction: np.ndarray,
    tilts: np.ndarray,
    beam_energy: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Reflections of a sheet that is tilted back and forth, averaged over the tilts.

    The rods of a tilted sheet are tilted too. They meet Ewald's sphere farther out along
    `direction` (the projected lattice is foreshortened by the cosine), to one side for each
    sign of the tilt (a streak that grows with g²), and off the sheet's plane, where planes
    of atoms at different heights are out of phase (the intensities change).

    Parameters
    ----------
    crystal, indices, intensities
        The flat sheet, see `reflections`.
    angle
        Of the crystal, in degrees.
    direction
        Unit vector (x, y) along which the sheet goes up and down.
    tilts
        Tilts in degrees, all equally frequent.
    beam_energy
        In keV.

    Returns
    -------
    spots, intensities
        (k_x, k_y) in 1/Å, shape (n * tilts, 2); and shape (n * tilts,).
    """
    flat = indices @ crystal.lattice(angle).T
    sphere = -electron_wavelength(beam_energy) / 2 * np.sum(flat**2, axis=1)
    reference = np.abs(structure_factor(crystal, indices, sphere)) ** 2
    along = flat @ direction
    spots, parts = [], []
    for tilt in np.deg2rad(tilts):
        moved = (along + sphere * np.sin(tilt)) / np.cos(tilt)
        off_sheet = moved * np.sin(tilt) + sphere * np.cos(tilt)
        factor = np.abs(structure_factor(crystal, indices, off_sheet)) ** 2
        spots.append(flat + np.outer(moved - along, direction))
        parts.append(intensities * factor / np.maximum(reference, 1e-9) / len(tilts))
    return np.concatenate(spots), np.concatenate(parts)
