"""The truth behind a simulated nanobeam scan: domains, lattices, strain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _nanobeam, _snse_domains, _ws2_wse2_junction
from ._truth import _length_unit

if TYPE_CHECKING:
    from hyperspy.signals import BaseSignal, Signal2D

_SPECIMENS = {
    "ws2_wse2_junction": _ws2_wse2_junction.make_specimen,
    "snse_domains": _snse_domains.make_specimen,
}
COMPONENTS = ("e_xx", "e_yy", "e_xy", "rotation")


def true_domains(signal: Signal2D) -> Signal2D:
    """The domain at every position of a simulated nanobeam scan, at each level of detail.

    Parameters
    ----------
    signal
        What `ws2_wse2_junction` or `snse_domains` returned, or that cropped in the scan, saved and
        loaded. Positions are found by the navigation axes.

    Returns
    -------
    hyperspy.signals.Signal2D
        int32, axes ``(level | x, y)``, levels from 1. A label is that of the domain with the
        largest share of the probe. Levels are nested: positions with one label have one label at
        every level above. ``metadata.Simulation.names`` has for each level the list of names.

    Raises
    ------
    ValueError
        If the signal does not come from a nanobeam simulation of this package, or a navigation axis
        has units other than Å and nm.
    """
    specimen, shares, _ = _truth(signal)
    labels = specimen.parents[:, np.argmax(shares, axis=-1)].astype(np.int32)
    level = {"name": "level", "size": len(labels), "offset": 1, "scale": 1, "navigate": True}
    result = _image(signal, labels, "True domains", level)
    result.metadata.set_item("Simulation.names", [list(names) for names in specimen.levels])
    return result


def domain_purity(signal: Signal2D) -> Signal2D:
    """Share of the probe on the domain that `true_domains` names; 1 in a domain's interior.

    Parameters
    ----------
    signal
        See `true_domains`.

    Returns
    -------
    hyperspy.signals.Signal2D
        float32, axes ``(| x, y)``.
    """
    _, shares, _ = _truth(signal)
    return _image(signal, shares.max(axis=-1).astype(np.float32), "Domain purity")


def true_strain(signal: Signal2D, *, reference: str | np.ndarray | None = None) -> Signal2D:
    """Strain and rotation at every position, of the domain that `true_domains` names.

    With the reciprocal vectors as columns of G, and G0 those of the reference, the deformation is
    ``F = (G G0⁻¹)⁻ᵀ``, the strain ``(F + Fᵀ)/2 - 1``, and the rotation ``(F_yx - F_xy)/2``.

    Parameters
    ----------
    signal
        See `true_domains`.
    reference
        Name of the domain whose undeformed lattice strain is measured from, or reciprocal vectors
        as columns, rows k_x and k_y, shape (2, 2), in 1/Å; or "own", each domain from its own
        undeformed lattice. By default flat WSe2 of the junction, and "SnSe 0". Of the equivalent
        bases of a lattice the one nearest to the reference is compared, so that a twin whose a and
        b axes are exchanged has their ratio as strain and a small rotation.

    Returns
    -------
    hyperspy.signals.Signal2D
        float32, axes ``(component | x, y)``: e_xx, e_yy, e_xy, and the rotation in degrees from x
        towards y, with x along k_x and y along k_y. NaN where there is no lattice.
        ``metadata.Simulation.components`` has the names.

    Raises
    ------
    ValueError
        As `true_domains`, or if there is no such domain, or it has no lattice.
    """
    specimen, shares, deformations = _truth(signal)
    domain = np.argmax(shares, axis=-1)
    chosen = np.take_along_axis(deformations, domain[..., None, None, None], axis=2)[:, :, 0]
    references = _references(specimen, reference)
    lattices = np.array(list(map(_alike, specimen.lattices, references)))
    lattice, references = chosen @ lattices[domain], references[domain]
    transposed = np.swapaxes(lattice @ np.linalg.inv(references), -1, -2)
    known = np.isfinite(transposed).all(axis=(-2, -1))
    f = np.full(lattice.shape, np.nan)
    f[known] = np.linalg.inv(transposed[known])
    values = [
        f[..., 0, 0] - 1,
        f[..., 1, 1] - 1,
        (f[..., 0, 1] + f[..., 1, 0]) / 2,
        np.rad2deg((f[..., 1, 0] - f[..., 0, 1]) / 2),
    ]
    component = {"name": "component", "size": len(values), "navigate": True}
    result = _image(signal, np.array(values, np.float32), "True strain", component)
    result.metadata.set_item("Simulation.components", list(COMPONENTS))
    return result


def true_lattices(signal: Signal2D) -> dict[str, np.ndarray]:
    """Undeformed reciprocal vectors of every domain that has a lattice.

    Parameters
    ----------
    signal
        See `true_domains`.

    Returns
    -------
    dict
        From the domain's name to its reciprocal vectors as columns, rows k_x and k_y, float64
        (2, 2), in 1/Å. Of rippled WSe2 it is the mean over the tilts. SnSe has the columns a* and
        b* of its rectangular cell, which is centred: only spots with h + k even are seen.
    """
    specimen = _specimen(signal)[0]
    pairs = zip(specimen.domains, specimen.lattices, strict=True)
    return {name: lattice.copy() for name, lattice in pairs if np.isfinite(lattice).all()}


def _references(specimen: _nanobeam.Specimen, reference: Any) -> np.ndarray:
    """The lattice that each domain is compared with, (domains, 2, 2)."""
    if reference is None:
        reference = specimen.reference
    if isinstance(reference, str):
        if reference == "own":
            return specimen.lattices
        lattice = specimen.lattices[_nanobeam.check_domain(specimen, reference)]
        if not np.isfinite(lattice).all():
            raise ValueError(
                f"domain {reference!r} has no lattice that strain could be measured from"
            )
    else:
        lattice = np.array(reference, float)
        if lattice.shape != (2, 2) or not np.isfinite(lattice).all() or not np.linalg.det(lattice):
            raise ValueError(
                "reference must be a domain's name, or two reciprocal vectors as the columns of "
                f"an invertible (2, 2) array, got {reference!r}"
            )
    return np.broadcast_to(lattice, specimen.lattices.shape)


def _alike(lattice: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The basis of a lattice that is nearest to a reference."""
    if not np.isfinite(lattice).all():
        return lattice
    entries = np.array(list(np.ndindex(3, 3, 3, 3))).reshape(-1, 2, 2) - 1
    entries = entries[np.abs(np.linalg.det(entries) - 1) < 0.5]
    # the identity comes first, so that it wins where bases are equally near
    entries = np.concatenate([np.eye(2, dtype=int)[None], entries])
    change = lattice @ entries @ np.linalg.inv(reference) - np.eye(2)
    distance = np.round(np.linalg.norm(change, axis=(1, 2)), 9)
    return lattice @ entries[np.argmin(distance)]


def _specimen(signal: BaseSignal) -> tuple[_nanobeam.Specimen, dict[str, Any]]:
    item = signal.metadata.get_item("Simulation")
    name = None if item is None else item.get_item("specimen")
    if name not in _SPECIMENS:
        raise ValueError(
            "the signal's metadata has no nanobeam Simulation of hs_autoptycho: domains are known "
            f"only of signals made by {' or '.join(_SPECIMENS)} in hs_autoptycho.data"
        )
    parameters = item.as_dictionary()
    for key, value in parameters.items():
        if isinstance(value, list | tuple | np.ndarray):
            parameters[key] = tuple(np.asarray(value).tolist())
    return _SPECIMENS[name](parameters), parameters


def _truth(signal: Signal2D) -> tuple[_nanobeam.Specimen, np.ndarray, np.ndarray]:
    """Specimen; shares (y, x, domains) and deformations (y, x, domains, 2, 2) at the positions."""
    specimen, parameters = _specimen(signal)
    axes = signal.axes_manager.navigation_axes[::-1]
    if len(axes) != 2:
        raise ValueError(
            f"the truth needs a scan of two dimensions, the signal has {len(axes)} navigation axes"
        )
    y, x = (axis.axis * _length_unit(axis) for axis in axes)
    rows = [
        _nanobeam.mixtures(specimen, parameters["probe_size"], np.full(len(x), value), x)
        for value in y
    ]
    return specimen, np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def _image(
    signal: Signal2D, data: np.ndarray, title: str, stack: dict[str, Any] | None = None
) -> Signal2D:
    """Image or stack of images on the scan's own axes."""
    from hyperspy.signals import Signal2D

    names = ("name", "units", "scale", "offset", "size")
    axes = [
        {**{key: getattr(axis, key) for key in names}, "navigate": False}
        for axis in signal.axes_manager.navigation_axes[::-1]
    ]
    result = Signal2D(data, axes=axes if stack is None else [stack, *axes])
    result.metadata.set_item("General.title", title)
    return result
