"""Simulated scans and potentials of abTEM as HyperSpy signals."""

from __future__ import annotations

from typing import Any

import numpy as np

from hs_autoptycho._quantities import QUANTITIES


def from_abtem(obj: Any) -> Any:
    """Take a simulated scan or a potential from abTEM.

    Axes of abTEM's arrays run along x and then along y; here they are turned to ``[y, x]``, those
    of the scan as well, so that the scan needs neither a rotation nor a flip of the detector.
    (abTEM's own ``to_hyperspy()`` turns the detector's axes only.)

    Parameters
    ----------
    obj
        ``DiffractionPatterns`` of a ``GridScan``, computed or not; a ``PotentialArray``; or a
        ``Potential``, which is built.

    Returns
    -------
    hyperspy.api.signals.Signal2D
        Of patterns ``(x, y | kx, ky)``, in Å and 1/Å with the energy and the convergence angle in
        the metadata, lazy if they are not computed; without a copy. Of a potential ``(| x, y)``
        or, for several slices, ``(depth | x, y)``, in V Å and Å: as :func:`.design_experiment`
        takes it.

    Raises
    ------
    TypeError
        For an object of another kind.
    ValueError
        If the patterns are not those of one scan on a grid, or the potential has several
        configurations; the message says how to choose.

    Notes
    -----
    Patterns without noise have a sum of about 1: ``patterns.poisson_noise(dose_per_area=1e5)``
    counts electrons. abTEM's ``defocus`` has the sign of ours; it is not in the patterns.

    Examples
    --------
    >>> patterns = probe.scan(  # doctest: +SKIP
    ...     potential, scan=abtem.GridScan(...), detectors=abtem.PixelatedDetector()
    ... )
    >>> s = from_abtem(patterns.poisson_noise(dose_per_area=1e5))  # doctest: +SKIP
    >>> obj = s.reconstruct_ptycho(defocus=100)  # doctest: +SKIP
    """
    if type(obj).__name__ == "DiffractionPatterns":
        return _scan(obj.to_cpu())
    if is_potential(obj):
        return _potential(obj)
    raise TypeError(
        "from_abtem() takes abTEM's DiffractionPatterns, Potential and PotentialArray, not "
        f"{type(obj).__name__}. (A scan without `detectors=abtem.PixelatedDetector()` gives Waves.)"
    )


def is_potential(obj: Any) -> bool:
    """Whether this is a potential of abTEM, without importing it."""
    own = type(obj).__module__.partition(".")[0] == "abtem"
    return own and hasattr(obj, "slice_thickness") and hasattr(obj, "build")


def potential_slices(potential: Any) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """A potential in V Å (slices, y, x), its pixel (y, x) in Å, and the slices' thicknesses."""
    built = potential if hasattr(potential, "array") else potential.build(lazy=False)
    if built.is_lazy:
        built = built.compute(progress_bar=False)
    built = built.to_cpu()
    if built.ensemble_shape:
        raise ValueError(
            f"potential: it has configurations of the shape {tuple(built.ensemble_shape)}, and one "
            "is needed: build it without frozen phonons, or take `potential.build()[0]`."
        )
    values = np.asarray(built.array).swapaxes(1, 2)
    x, y = built.sampling
    return values, (float(y), float(x)), np.asarray(built.slice_thickness, float)


def _scan(patterns: Any) -> Any:
    from hyperspy.signals import LazySignal2D, Signal2D

    axes = patterns.axes_metadata
    labels = [getattr(axis, "label", "") for axis in axes[:-2]]
    if [type(axis).__name__ for axis in axes[:-2]] != ["ScanAxis"] * 2 or labels != ["x", "y"]:
        raise ValueError(
            "The patterns of one scan on a grid are needed, with the axes x, y, kx, ky; these have "
            f"the shape {tuple(patterns.shape)} and the axes {', '.join(map(str, labels))} before "
            "kx, ky. Scan with `abtem.GridScan`, and choose one of an ensemble, `patterns[0]`, or "
            "its mean, `patterns.mean(0)`."
        )
    data = patterns.array.transpose(1, 0, 3, 2)
    shifted = bool(getattr(patterns, "fftshift", True))
    if not shifted:
        data = np.fft.fftshift(data, axes=(2, 3))
    made = []
    for i, name in ((1, "y"), (0, "x"), (3, "ky"), (2, "kx")):
        axis = {"name": name, "size": patterns.shape[i], "navigate": i < 2}
        scale = float(axes[i].sampling)
        offset = float(axes[i].offset) if i < 2 else -(patterns.shape[i] // 2) * scale
        made.append({**axis, "scale": scale, "offset": offset, "units": "Å" if i < 2 else "1/Å"})
    metadata = {"General": {"title": "abTEM"}, "Signal": {"quantity": _quantity(patterns)}}
    make = LazySignal2D if patterns.is_lazy else Signal2D
    signal = make(data, axes=made, metadata=metadata)
    for name, key, factor in (
        ("beam_energy", "energy", 1e-3),
        ("convergence_angle", "semiangle_cutoff", 1.0),
    ):
        value = patterns.metadata.get(key)
        if value is not None and np.isfinite(value):
            signal.metadata.set_item(QUANTITIES[name].item, float(value) * factor)
    return signal


def _quantity(patterns: Any) -> str:
    label = str(patterns.metadata.get("label", "intensity"))
    return "Counts" if label == "electron counts" else label.capitalize()


def _potential(potential: Any) -> Any:
    from hyperspy.signals import Signal2D

    values, pixel, thicknesses = potential_slices(potential)
    axes = [
        {"name": name, "size": size, "scale": scale, "units": "Å", "navigate": False}
        for name, size, scale in zip("yx", values.shape[1:], pixel, strict=True)
    ]
    if len(values) == 1:
        values = values[0]
    else:
        middles = np.cumsum(thicknesses) - thicknesses / 2
        depth = {"name": "depth", "units": "Å", "navigate": True}
        if np.ptp(thicknesses) < 1e-6 * thicknesses.max():
            depth |= {"size": len(values), "scale": thicknesses.mean(), "offset": middles[0]}
        else:
            depth["axis"] = middles
        axes.insert(0, depth)
    metadata = {
        "General": {"title": "abTEM"},
        "Signal": {"quantity": "Projected potential (V Å)"},
    }
    return Signal2D(values, axes=axes, metadata=metadata)
