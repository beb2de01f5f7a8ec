"""A scan as py4DSTEM's DataCube and as a HyperSpy signal, the same array in both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hs_autoptycho._quantities import QUANTITIES, CalibrationError
from hs_autoptycho._signal_reader import SignalReader
from hs_autoptycho._units import UnitError, read_unit

_ANGLE = QUANTITIES["convergence_angle"].item


def datacube_from_signal(signal: Any, make: type) -> Any:
    """A calibrated DataCube that shares the signal's memory; see :func:`.to_py4dstem`."""
    reader = SignalReader(signal, any_size=True)
    if signal._lazy:
        raise ValueError(
            "py4DSTEM works on an array in memory, and the signal is lazy. Load it with "
            "`s.compute()`, or a part of it: `s = s.inav[:64, :64]`, then `s.compute()`."
        )
    manager = signal.axes_manager
    scan, detector = (_kinds(axes) for axes in (manager.navigation_axes, manager.signal_axes))
    energy = reader.number("beam_energy", None, needed="angle" in detector)
    step = reader.scan_step(None) if scan != {"none"} else None
    pixel = reader.reciprocal_pixel(None, energy) if detector != {"none"} else None
    angle = reader.number("convergence_angle", None)
    if reader.problems:
        raise CalibrationError(" ".join(reader.problems))
    cube = make(data=signal.data, name=signal.metadata.General.title or "datacube")
    calibration = cube.calibration
    if step is not None:
        calibration.set_R_pixel_units("A")
        calibration.set_R_pixel_size(step)
    if pixel is not None:
        calibration.set_Q_pixel_units("A^-1")
        calibration.set_Q_pixel_size(pixel)
    zero = reader.zero()
    if zero is not None:
        calibration.set_origin(zero)
    if angle is not None:
        calibration.set_convergence_semiangle_mrad(angle)
    return cube


def signal_from_datacube(cube: Any) -> Any:
    """A calibrated signal that shares the cube's memory; see :func:`.from_py4dstem`."""
    from hyperspy.signals import LazySignal2D, Signal2D

    calibration = cube.calibration
    step = _size(calibration.get_R_pixel_size(), calibration.get_R_pixel_units())
    pixel = _size(calibration.get_Q_pixel_size(), calibration.get_Q_pixel_units())
    zero = calibration.get_origin_mean()
    if zero is None or any(z is None for z in zero):
        zero = (0.0, 0.0)
    axes = []
    for name, size, origin, (scale, units) in zip(
        ("y", "x", "ky", "kx"), cube.data.shape, (0, 0, *zero), (step, step, pixel, pixel),
        strict=True,
    ):  # fmt: skip
        axis = {"name": name, "size": size, "scale": scale, "offset": -float(origin) * scale + 0.0}
        axes.append({**axis, "units": units, "navigate": name in ("y", "x")})
    metadata = {"General": {"title": str(cube.name)}}
    if isinstance(cube.data, np.ndarray):
        signal = Signal2D(cube.data, axes=axes, metadata=metadata)
    else:
        import dask.array as da

        signal = LazySignal2D(da.from_array(cube.data), axes=axes, metadata=metadata)
    angle = calibration.get_convergence_semiangle_mrad()
    if angle is not None:
        signal.metadata.set_item(_ANGLE, float(angle))
    return signal


def _kinds(axes) -> set[str]:
    """What the axes measure; what is wrong with a unit is the reader's to say."""
    kinds = set()
    for axis in axes:
        try:
            kinds.add(read_unit(axis.units).kind)
        except UnitError:
            kinds.add("unknown")
    return kinds


def _size(size: Any, units: Any) -> tuple[float, str]:
    """A pixel's size with a unit of ours; 1 without one where py4DSTEM counts pixels."""
    unit = read_unit(units)
    if unit.kind == "none" or size is None or not math.isfinite(float(size)):
        return 1.0, ""
    return float(size) * unit.factor, unit.base
