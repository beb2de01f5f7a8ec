"""The truth behind a simulated scan, and the comparison with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _multislice
from ._score import correlation_with_truth
from ._twisted_bilayer_mos2 import _PADDING, displacements, probe_modes, specimen_in_scan

if TYPE_CHECKING:
    from hyperspy.signals import BaseSignal, ComplexSignal2D, Signal2D

_ANGSTROMS = {"Å": 1.0, "angstrom": 1.0, "nm": 10.0}


def ground_truth(signal: Signal2D, *, like: BaseSignal | None = None) -> Signal2D:
    """The true projected phase of a simulated scan, as a reconstruction would show it.

    Parameters
    ----------
    signal
        What `twisted_bilayer_mos2` returned, or that cropped, saved and loaded, binned in the
        scan.
    like
        An image, e.g. a reconstruction of `signal`, whose pixels the truth is evaluated on. By
        default pixels of ``1 / (N dk)`` that cover all probe windows.

    Returns
    -------
    hyperspy.signals.Signal2D
        float32, axes ``(| x, y)`` in Å, zero at the signal's scan position [0, 0]; phase in
        radians, summed over the planes of atoms, without what is beyond the pixels' Nyquist
        frequency.

    Raises
    ------
    ValueError
        If the signal does not come from a simulation of this package, or an axis has units other
        than Å and nm.
    """
    from hyperspy.signals import Signal2D

    parameters = _simulation(signal)
    positions, zero = _positions(signal, parameters)
    if like is None:
        window = 1 / parameters["reciprocal_pixel"]
        pixel = window / np.array(parameters["detector_shape"])
        first = np.floor((positions.min(axis=0) - window / 2) / pixel)
        last = np.ceil((positions.max(axis=0) + window / 2) / pixel)
        shape, offset = (last - first + 1).astype(int), first * pixel
    else:
        axes = like.axes_manager.signal_axes[::-1]
        scales = np.array([_length_unit(axis) for axis in axes])
        pixel = scales * [axis.scale for axis in axes]
        offset = scales * [axis.offset for axis in axes]
        shape = np.array([axis.size for axis in axes])
    border = np.ceil(_PADDING / pixel).astype(int)
    yx, specimen = specimen_in_scan(parameters)
    potential = _multislice.projected_potential(
        yx - zero,
        specimen.numbers,
        specimen.scattering,
        tuple(shape + 2 * border),
        tuple(pixel),
        offset - border * pixel,
    )[border[0] : border[0] + shape[0], border[1] : border[1] + shape[1]]
    phase = _multislice.interaction_parameter(parameters["beam_energy"]) * potential
    truth = Signal2D(phase.astype(np.float32), axes=_image_axes(shape, pixel, offset))
    truth.metadata.set_item("General.title", "True phase")
    truth.metadata.set_item("Signal.quantity", "Phase (rad)")
    return truth


def ground_truth_probe(signal: Signal2D) -> ComplexSignal2D:
    """The true probe of a simulated scan at the specimen's first plane of atoms.

    Parameters
    ----------
    signal
        See `ground_truth`.

    Returns
    -------
    hyperspy.signals.ComplexSignal2D
        complex64, axes ``(mode | x, y)`` in Å, the probe's centre at zero, pixel
        ``detector_shape // 2``; strongest mode first. The squared moduli sum to the electrons per
        position, or to 1 without noise.
    """
    from hyperspy.signals import ComplexSignal2D

    parameters = _simulation(signal)
    shape = np.array(parameters["detector_shape"])
    pixel = 1 / (shape * parameters["reciprocal_pixel"])
    electrons = 1.0
    if parameters["dose"] is not None:
        electrons = parameters["dose"] * parameters["scan_step"] ** 2
    modes = np.fft.ifft2(probe_modes(parameters, tuple(shape)), norm="ortho") * np.sqrt(electrons)
    modes = np.fft.fftshift(modes, axes=(-2, -1)).astype(np.complex64)
    mode_axis = {"name": "mode", "size": len(modes), "navigate": True}
    axes = [mode_axis, *_image_axes(shape, pixel, -(shape // 2) * pixel)]
    probe = ComplexSignal2D(modes, axes=axes)
    probe.metadata.set_item("General.title", "True probe")
    return probe


def true_positions(signal: Signal2D) -> np.ndarray:
    """Where the probe of a simulated scan was, with the jitter of the positions.

    Parameters
    ----------
    signal
        What `twisted_bilayer_mos2` returned, or a part of it.

    Returns
    -------
    numpy.ndarray
        (row, col) in Å, float64, shape (scan_y, scan_x, 2), in the frame of `ground_truth`: zero is
        the place in the grid of the signal's scan position [0, 0].

    Raises
    ------
    ValueError
        If the signal does not come from a simulation of this package, or its positions are not
        those of the simulation (binned or interpolated).
    """
    parameters = _simulation(signal)
    grid, _ = _positions(signal, parameters)
    axes = signal.axes_manager.navigation_axes[::-1]
    index = []
    for axis, size in zip(axes, parameters["scan_shape"], strict=True):
        steps = (axis.offset + np.arange(axis.size) * axis.scale) * _length_unit(axis)
        steps = steps / parameters["scan_step"]
        if np.abs(steps - np.rint(steps)).max() > 1e-3 or steps.min() < 0 or steps.max() >= size:
            raise ValueError(
                f"axis {axis.name!r} does not lie on the {size} simulated positions with a step of "
                f"{parameters['scan_step']} Å: take the scan as it was simulated, or a part of it"
            )
        index.append(np.rint(steps).astype(int))
    moved = displacements(parameters).reshape(*parameters["scan_shape"], 2)[np.ix_(*index)]
    return grid.reshape(*moved.shape) + moved


def phase_correlation(
    reconstruction: BaseSignal, signal: Signal2D, *, margin: float = 1.0, max_shift: float = 1.5
) -> float:
    """Correlation of a reconstruction's phase with the truth, in the scanned area.

    Parameters
    ----------
    reconstruction
        Calibrated image ``(| x, y)`` or ``(slice | x, y)`` with zero at scan position [0, 0]:
        complex, or the phase in radians. Slices are taken together.
    signal
        The simulated scan it was made from, see `ground_truth`.
    margin
        What is left out along the edges of the scanned area, in Å.
    max_shift
        Largest shift between the two that is tried, in Å. It is half a lattice spacing by
        default: a larger one can only find the neighbouring column of atoms.

    Returns
    -------
    float
        Pearson's correlation, see `correlation_with_truth`.
    """
    parameters = _simulation(signal)
    truth = ground_truth(signal, like=reconstruction)
    axes = truth.axes_manager.signal_axes[::-1]
    data = np.asarray(reconstruction.data)
    data = data.reshape(-1, *data.shape[-2:])
    data = data.prod(axis=0) if np.iscomplexobj(data) else data.sum(axis=0)

    # in the scan's own frame the scanned area is an upright rectangle
    row, col = np.meshgrid(*(axis.axis for axis in axes), indexing="ij")
    rotation = _multislice.rotation_matrix(parameters["scan_rotation"])
    scanned = np.ones(row.shape, bool)
    for index, axis in enumerate(signal.axes_manager.navigation_axes[::-1]):
        along = rotation[0, index] * row + rotation[1, index] * col
        length = (axis.size - 1) * axis.scale * _length_unit(axis)
        scanned &= (along >= margin) & (along <= length - margin)
    shift = tuple(max_shift / axis.scale for axis in axes)
    return correlation_with_truth(data, truth.data, mask=scanned, max_shift=shift)


def _simulation(signal: BaseSignal) -> dict[str, Any]:
    item = signal.metadata.get_item("Simulation")
    if item is None or item.get_item("specimen") != "twisted_bilayer_mos2":
        raise ValueError(
            "the signal's metadata has no Simulation of hs_autoptycho: the truth is known only of "
            "signals made by hs_autoptycho.data"
        )
    parameters = item.as_dictionary()
    for name in ("scan_shape", "detector_shape", "beam_shift"):
        parameters[name] = tuple(np.asarray(parameters[name]).tolist())
    return parameters


def _positions(signal: Signal2D, parameters: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in Å from the signal's own first one, and where that is in the simulation."""
    rotation = _multislice.rotation_matrix(parameters["scan_rotation"])
    axes = signal.axes_manager.navigation_axes[::-1]
    if len(axes) != 2:
        raise ValueError(
            f"the truth needs a scan of two dimensions, the signal has {len(axes)} navigation axes"
        )
    units = [_length_unit(axis) for axis in axes]
    steps = [np.arange(a.size) * a.scale * u for a, u in zip(axes, units, strict=True)]
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    zero = np.array([a.offset * u for a, u in zip(axes, units, strict=True)])
    return grid @ rotation.T, rotation @ zero


def _length_unit(axis: Any) -> float:
    try:
        return _ANGSTROMS[str(axis.units)]
    except KeyError:
        raise ValueError(
            f"axis {axis.name!r} has units {axis.units!r}, not Å or nm: set axis.units and "
            "axis.scale"
        ) from None


def _image_axes(shape: np.ndarray, pixel: np.ndarray, offset: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "units": "Å",
            "scale": float(pixel[i]),
            "offset": float(offset[i]),
            "size": int(shape[i]),
            "navigate": False,
        }
        for i, name in enumerate("yx")
    ]
