"""The geometry of a scan that is a HyperSpy signal."""

from __future__ import annotations

from typing import Any

from hs_autoptycho._memory import Work
from hs_autoptycho._running import progressbar, threads
from hs_autoptycho._scan import read_scan
from hs_autoptycho.ptycho.geometry_estimate import STEPS, GeometryEstimate, estimate
from hs_autoptycho.ptycho.parameters import check_parameters


def estimate_geometry(
    signal: Any,
    *,
    beam_energy: float | None = None,
    convergence_angle: float | None = None,
    scan_step: float | None = None,
    reciprocal_pixel: float | None = None,
    disk_center: tuple[float, float] | None = None,
    disk_radius: float | None = None,
    detector_mask: Any = None,
    background: Any = None,
    detector_flip: str | None = None,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
) -> GeometryEstimate:
    """Detector flip, scan rotation, defocus and astigmatism, without a reconstruction.

    Every pixel of the bright-field disk gives an image of the specimen, and defocus and astigmatism
    displace these images against each other [1]_, [2]_. The geometry with which interference of the
    direct with the scattered beam explains all images best is searched for; nothing is assumed of
    the specimen but that it is thin. The patterns' centres of mass, which have no curl in the
    scan's frame [3]_, decide where that is ambiguous. Of a crystal that is scanned in steps longer
    than half a period of its lattice, the true frequencies are found together with the geometry.

    Two things cannot be told by any such measurement. A detector that is turned by 90 degrees is
    the same as a scan that is, so that the flip is ``"none"`` or ``"transpose"`` and the rotation
    goes with it. And the opposite defocus and astigmatism, with the scan turned by 180 degrees,
    give the same patterns for the conjugate object: underfocus is assumed, or the sign of the
    metadata's defocus taken.

    Parameters
    ----------
    signal
        HyperSpy signal ``(x, y | kx, ky)``, lazy or not.
    beam_energy
        In keV. Default: from metadata.
    convergence_angle
        Semi-angle in mrad. It only helps to calibrate the detector where its axes do not; the
        measured disk's is used. Default: from metadata.
    scan_step
        In Å. Default: from the navigation axes.
    reciprocal_pixel
        Size of a detector pixel in 1/Å. Default: from the signal axes.
    disk_center, disk_radius
        Of the bright-field disk, (row, column) and radius in detector pixels. Default: measured.
    detector_mask
        Array of bool (ky, kx), True for the pixels to use: False for dead ones. Default: all.
    background
        Dark counts a pixel: a number, or an array (ky, kx). Default: 0.
    detector_flip
        One of the eight orientations of ``reconstruct_ptycho``, where it is known. Default:
        ``"none"`` or ``"transpose"``, as is found.
    show_progressbar
        Default: ``hs.preferences.General.show_progressbar``.
    num_workers
        Number of threads. Default: all cores.

    Returns
    -------
    GeometryEstimate
        ``scan_rotation`` in degrees, ``defocus``, ``C12a`` and ``C12b`` in Å, each with its
        standard error (``defocus_error`` and so on), and ``detector_flip``; None for what could not
        be told. ``residual`` in scan pixels, ``alternatives`` that fit as well, and ``notes``. The
        defocus is that of the specimen's middle, and a scan whose axes differ in length shows as
        astigmatism.

    Raises
    ------
    CalibrationError, DataError, DiskError, ParameterError
        As ``reconstruct_ptycho``.

    References
    ----------
    .. [1] G. Varnavides et al., arXiv:2309.05250 (2023).
    .. [2] J. M. Rodenburg, B. C. McCallum, P. D. Nellist, Ultramicroscopy 48, 304 (1993).
    .. [3] B. H. Savitzky et al., Microsc. Microanal. 27, 712 (2021).

    Examples
    --------
    >>> import hs_autoptycho
    >>> from hs_autoptycho.data import twisted_bilayer_mos2
    >>> s = twisted_bilayer_mos2(scan_rotation=12, defocus=200)
    >>> geometry = hs_autoptycho.estimate_geometry(s)
    >>> round(geometry.scan_rotation), geometry.detector_flip
    (12, 'none')
    """
    names = ("beam_energy", "convergence_angle", "scan_step", "reciprocal_pixel", "detector_flip")
    values = (beam_energy, convergence_angle, scan_step, reciprocal_pixel, detector_flip)
    stated = {n: v for n, v in zip(names, values, strict=True) if v is not None}
    parameters = check_parameters(stated)
    with threads(num_workers):
        scan = read_scan(
            signal,
            {"scan_rotation": 0.0, **parameters},  # it is about to be found
            show_progressbar,
            disk_center=disk_center,
            disk_radius=disk_radius,
            detector_mask=detector_mask,
            background=background,
            work=Work(copies=1.0, geometry=True, reconstruction=False),
        )
        with progressbar(STEPS, "Geometry", show_progressbar) as bar:
            return estimate(scan.experiment, held=parameters, progress=bar.update)
