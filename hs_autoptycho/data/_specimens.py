"""Specimens to design experiments for: projected potentials with known atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from hs_autoptycho._units import read_unit

from . import _multislice
from ._twisted_bilayer_mos2 import _PADDING, load_specimen

if TYPE_CHECKING:
    from hyperspy.signals import Signal2D

# MoS2, in Å: lattice constant, half the distance of a layer's planes of sulphur, and that of the
# layers' planes of molybdenum; all as in the specimen of `twisted_bilayer_mos2`
_LATTICE, _HALF_THICKNESS, _LAYER_SPACING = 3.18, 1.595, 6.15
# direction of the first layer in degrees, and the point (x, y) the layers are turned about: off
# the axes and the middle, so that the picture is not like itself turned or mirrored
_DIRECTION, _PIVOT = 5.0, (7.0, -5.0)
# atoms closer than this in projection are one column
_ONE_COLUMN = 0.3


def twisted_bilayer_mos2_potential(
    *,
    field: float = 72.0,
    twist: float = 30.0,
    pixel: float = 0.125,
    slices: bool = False,
    vacancies: float = 0.01,
    displacement: float = 0.06,
    random_state: int = 0,
) -> Signal2D:
    """Electrostatic potential of two layers of MoS2, projected along the beam.

    Parameters
    ----------
    field
        Edge of the square, in Å. A design needs the scanned field and, around it, half a window of
        the probe on every side.
    twist
        Angle between the layers in degrees.
    pixel
        In Å. The potential has no frequency beyond 1 / (2 pixel).
    slices
        Whether the six planes of atoms are told apart; else their potentials are summed up.
    vacancies
        Part of the sulphur that is missing.
    displacement
        Root mean square of the atoms' displacements along each axis, as in one thermal snapshot,
        in Å.
    random_state
        Seed of vacancies and displacements.

    Returns
    -------
    hyperspy.signals.Signal2D
        float32 in V Å, axes ``(| x, y)`` in Å with zero in the middle; with `slices`
        ``(depth | x, y)``. ``metadata.Specimen`` has the ``positions`` (x, y, depth) of the atoms
        in Å, their atomic ``numbers``, and what was put in.

    Raises
    ------
    ValueError
        If a value makes no sense.

    See Also
    --------
    atom_pairs : Which atoms are a given distance apart.

    References
    ----------
    Scattering factors: I. Lobato, D. Van Dyck, Acta Cryst. A70, 636 (2014).

    Examples
    --------
    >>> from hs_autoptycho.data import twisted_bilayer_mos2_potential
    >>> twisted_bilayer_mos2_potential(field=20.0)
    <Signal2D, title: Twisted bilayer MoS2, dimensions: (|160, 160)>
    """
    from hyperspy.signals import Signal2D

    _check(field, twist, pixel, vacancies, displacement)
    xyz, numbers = _bilayer(field, twist, vacancies, displacement, random_state)
    scattering = load_specimen().scattering
    n = round(field / pixel)
    border = int(np.ceil(_PADDING / pixel))
    origin = -(n // 2) * pixel
    depths = np.array([s * _HALF_THICKNESS + layer * _LAYER_SPACING
                       for layer in (0, 1) for s in (-1, 0, 1)]) + _HALF_THICKNESS  # fmt: skip
    planes = [np.abs(xyz[:, 2] - depth) < 0.1 for depth in depths]
    potentials = [
        _multislice.projected_potential(
            xyz[part][:, 1::-1],
            numbers[part],
            scattering,
            (n + 2 * border,) * 2,
            (pixel, pixel),
            (origin - border * pixel,) * 2,
        )[border : border + n, border : border + n]
        for part in (planes if slices else [np.ones(len(xyz), bool)])
    ]
    data = np.array(potentials, np.float32)
    axes = [
        {"name": name, "units": "Å", "scale": pixel, "offset": origin, "size": n, "navigate": False}
        for name in "yx"
    ]
    if slices:
        # the planes are 1.595, 1.595 and 2.96 Å apart
        axes.insert(0, {"name": "depth", "units": "Å", "axis": depths, "navigate": True})
    signal = Signal2D(data if slices else data[0], axes=axes)
    signal.metadata.set_item("General.title", "Twisted bilayer MoS2")
    signal.metadata.set_item("Signal.quantity", "Projected potential (V Å)")
    inside = np.all(np.abs(xyz[:, :2]) <= field / 2, axis=1)
    signal.metadata.set_item(
        "Specimen",
        {
            "name": "twisted_bilayer_mos2",
            "positions": xyz[inside],
            "numbers": numbers[inside],
            "twist": float(twist),
            "vacancies": float(vacancies),
            "displacement": float(displacement),
            "random_state": int(random_state),
        },
    )
    return signal


def atom_pairs(
    potential: Signal2D,
    distance: float = 1.75,
    *,
    tolerance: float = 0.1,
    isolation: float = 1.0,
) -> np.ndarray:
    """Columns of atoms that are a given distance apart, with nothing between them.

    Parameters
    ----------
    potential
        What `twisted_bilayer_mos2_potential` returned, or a crop of it.
    distance, tolerance
        Of the two columns, in projection, in Å.
    isolation
        No third column is closer than this to the middle of the two, in Å.

    Returns
    -------
    numpy.ndarray
        float64 (pairs, 2, 2): pair, atom, (y, x) in Å, in the frame of the signal's axes, whatever
        their units.

    Raises
    ------
    ValueError
        If the signal does not know its atoms, or its axes have no unit of length.
    """
    item = potential.metadata.get_item("Specimen.positions")
    if item is None:
        raise ValueError(
            "the signal's metadata has no Specimen.positions: the atoms are known only of "
            "potentials made by hs_autoptycho.data"
        )
    columns = _columns(np.asarray(item)[:, 1::-1])
    tree = cKDTree(columns)
    pairs = tree.query_pairs(distance + tolerance, output_type="ndarray")
    ends = columns[pairs]
    apart = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    distances, nearest = tree.query(ends.mean(axis=1), k=3)
    # of three columns one at least is not of the pair
    own = (nearest[..., None] == pairs[:, None]).any(axis=-1)
    third = np.where(own, np.inf, distances).min(axis=1)
    kept = (apart >= distance - tolerance) & (third >= isolation)
    x, y = potential.axes_manager.signal_axes
    for axis, values in ((x, ends[..., 1]), (y, ends[..., 0])):
        unit = read_unit(axis.units)
        if unit.kind != "length":
            raise ValueError(f"axis {axis.name} has units {axis.units!r}, and a length is needed")
        low, high = axis.axis[0] * unit.factor, axis.axis[-1] * unit.factor
        kept &= np.all((values >= low) & (values <= high), axis=1)
    return ends[kept]


def _columns(yx: np.ndarray) -> np.ndarray:
    """Mean places of atoms that are one column in projection."""
    tree = cKDTree(yx)
    names = np.arange(len(yx))
    for first, second in sorted(tree.query_pairs(_ONE_COLUMN)):
        names[second] = names[first]
    _, inverse = np.unique(names, return_inverse=True)
    counts = np.bincount(inverse)
    return np.column_stack([np.bincount(inverse, values) / counts for values in yx.T])


def _bilayer(field, twist, vacancies, displacement, random_state):
    """Atoms (x, y, depth) in Å about the middle, and their atomic numbers."""
    generator = np.random.default_rng(random_state)
    reach = field / 2 + _PADDING
    cell = _LATTICE * np.array([[1.0, -0.5], [0.0, np.sqrt(3) / 2]])
    n = int(np.ceil(2 * (reach * np.sqrt(2) + np.hypot(*_PIVOT)) / _LATTICE))
    cells = np.stack(np.mgrid[-n : n + 1, -n : n + 1], -1).reshape(-1, 2)
    basis = [(42, (0.0, 0.0), 0.0)] + [(16, (1 / 3, 2 / 3), s * _HALF_THICKNESS) for s in (-1, 1)]
    xyz, numbers = [], []
    for layer in (0, 1):
        turn = _multislice.rotation_matrix(_DIRECTION + layer * twist)
        for number, place, height in basis:
            xy = (cells + place) @ cell.T @ turn.T + _PIVOT
            xy = xy[np.all(np.abs(xy) < reach, axis=1)]
            if number == 16:
                xy = xy[generator.random(len(xy)) >= vacancies]
            depth = np.full(len(xy), height + layer * _LAYER_SPACING + _HALF_THICKNESS)
            xyz.append(np.column_stack([xy, depth]))
            numbers.append(np.full(len(xy), number))
    atoms = np.concatenate(xyz)
    atoms[:, :2] += generator.normal(0, displacement, (len(atoms), 2))
    return atoms, np.concatenate(numbers)


def _check(field, twist, pixel, vacancies, displacement) -> None:
    for name, value in (("field", field), ("pixel", pixel)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a length in Å above zero, got {value}")
    if round(field / pixel) < 16:
        raise ValueError(
            f"field={field} Å is fewer than 16 pixels of {pixel} Å: make it larger, or the pixel "
            "smaller"
        )
    if not np.isfinite(twist):
        raise ValueError(f"twist must be finite, got {twist}")
    if not 0 <= vacancies < 1:
        raise ValueError(f"vacancies is a part of the sulphur, 0 to below 1, got {vacancies}")
    if not (np.isfinite(displacement) and displacement >= 0):
        raise ValueError(f"displacement must be a length in Å, got {displacement}")
