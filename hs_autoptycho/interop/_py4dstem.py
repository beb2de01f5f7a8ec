"""The two functions that everything of py4DSTEM goes through."""

from __future__ import annotations

from typing import Any

from hs_autoptycho.interop._datacube import datacube_from_signal, signal_from_datacube
from hs_autoptycho.interop._reconstruction import object_from_solver, solver_from_object
from hs_autoptycho.interop._start_values import dpc_start_values, parallax_start_values
from hs_autoptycho.signals import PtychographicObject
from hs_autoptycho.tuning.py4dstem_engine import _quiet

_MISSING = (
    'py4DSTEM is not installed: pip install "hs_autoptycho[py4dstem]" (Python up to 3.12, numpy '
    "below 2)."
)


def to_py4dstem(signal: Any) -> Any:
    """Give a scan or a reconstruction to py4DSTEM.

    Parameters
    ----------
    signal
        A scan ``(x, y | kx, ky)`` in memory, or a
        :class:`~hs_autoptycho.signals.PtychographicObject`.

    Returns
    -------
    py4DSTEM.DataCube
        Of a scan. It shares its memory: what one of them changes, changes in the other. Pixel
        sizes are in Å and in 1/Å ("pixels" where the axes are not calibrated); the origin and the
        convergence semi-angle are set where the signal states them.
    SingleslicePtychography, MixedstatePtychography, MultislicePtychography or \
MixedstateMultislicePtychography
        Of a reconstruction, in the state in which py4DSTEM reads one from a file: ``visualize()``,
        ``object_cropped``, ``object_fft``, ``probe_centered``, ``positions`` and
        ``error_iterations`` work. It has no data, and needs some to go on with ``reconstruct()``.

    Raises
    ------
    ImportError
        If py4DSTEM is not installed.
    CalibrationError
        If the signal is no scan, or its axes state what makes no sense or not one pixel size for
        both directions; the message says how to mend it.
    ValueError
        If the scan is lazy.

    See Also
    --------
    from_py4dstem

    Examples
    --------
    >>> from hs_autoptycho.data import twisted_bilayer_mos2
    >>> from hs_autoptycho.interop import to_py4dstem
    >>> cube = to_py4dstem(twisted_bilayer_mos2())  # doctest: +SKIP
    >>> cube.calibration.get_R_pixel_size(), cube.calibration.get_R_pixel_units()  # doctest: +SKIP
    (0.9, 'A')
    """
    module = _py4dstem()
    if isinstance(signal, PtychographicObject):
        return solver_from_object(signal, module.process.phase)
    return datacube_from_signal(signal, module.DataCube)


def from_py4dstem(obj: Any, *, scan_shape: tuple[int, int] | None = None) -> Any:
    """Take a scan, a reconstruction or a first estimate from py4DSTEM.

    Rotations and orientations are turned into those of :meth:`reconstruct_ptycho`: py4DSTEM's
    angle is that of the patterns against the scan, and the negative of ``scan_rotation``; where it
    transposes, ``detector_flip`` is ``"transpose"`` and object, probe and positions are those of
    the transposed detector.

    Parameters
    ----------
    obj
        A ``DataCube``; a ``SingleslicePtychography``, ``MixedstatePtychography``,
        ``MultislicePtychography`` or ``MixedstateMultislicePtychography`` that was reconstructed;
        a ``DPC`` after ``preprocess()``; or a ``Parallax`` after ``aberration_fit()``.
    scan_shape
        (scan_y, scan_x) of a reconstruction. It is needed for one that was read from a file only,
        which does not hold it.

    Returns
    -------
    hyperspy.api.signals.Signal2D
        Of a ``DataCube``, which shares its memory (lazy, if the cube's data are in a file). Axes
        in Å and 1/Å or mrad, without units where they are not calibrated. The beam energy is not
        in a ``DataCube``.
    PtychographicObject
        Of a reconstruction, with its probe, positions and errors. Its probe holds the electrons of
        a pattern, as that of ``reconstruct_ptycho`` does, and its parameters are those that
        py4DSTEM has too. A rotation or distortion of the scan is that of the positions.
    dict
        Of ``DPC``: ``scan_rotation`` (degrees) and ``detector_flip``. Of ``Parallax``: these, and
        ``defocus``, ``C12a`` and ``C12b`` in Å. Parameters to begin a search with.

    Raises
    ------
    ImportError
        If py4DSTEM is not installed.
    TypeError
        For an object of another class.
    ValueError
        If the object has not got as far as it has to, or does not tell the scan's shape.

    See Also
    --------
    to_py4dstem

    Examples
    --------
    >>> start = from_py4dstem(parallax)  # doctest: +SKIP
    >>> start  # doctest: +SKIP
    {'scan_rotation': 11.8, 'detector_flip': 'none', 'defocus': 196.0, 'C12a': 3.1, 'C12b': -1.2}
    >>> obj = s.reconstruct_ptycho(**start)  # doctest: +SKIP
    """
    module = _py4dstem()
    phase = module.process.phase
    if isinstance(obj, module.DataCube):
        return signal_from_datacube(obj)
    # exactly these: what derives from them (magnetic, tomographic) has objects of another kind
    if type(obj).__name__ in SOLVERS and type(obj) is getattr(phase, type(obj).__name__):
        return object_from_solver(obj, scan_shape)
    if isinstance(obj, phase.DPC):
        return dpc_start_values(obj)
    if isinstance(obj, phase.Parallax):
        return parallax_start_values(obj)
    raise TypeError(
        f"from_py4dstem() takes py4DSTEM's DataCube, {', '.join(SOLVERS)}, DPC and Parallax, not "
        f"{type(obj).__name__}."
    )


SOLVERS = (
    "SingleslicePtychography",
    "MixedstatePtychography",
    "MultislicePtychography",
    "MixedstateMultislicePtychography",
)


def _py4dstem():
    try:
        with _quiet():
            import py4DSTEM
            import py4DSTEM.process.phase
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return py4DSTEM
