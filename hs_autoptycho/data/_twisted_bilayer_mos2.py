"""A simulated scan of twisted bilayer MoS2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.fft import next_fast_len

from . import _multislice

if TYPE_CHECKING:
    from hyperspy.signals import Signal2D

SPECIMEN_FILE = Path(__file__).with_name("twisted_bilayer_mos2.npz")
ABERRATIONS = ("C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30")
# atoms' potentials reach over the edge of a periodic grid by about this much (Å)
_PADDING = 4.0
# coarsest pixel (Å) on which the multislice runs, however small the detector is
_COARSEST_PIXEL = 0.15
# largest part of the probe that may lie in the outer tenth of its window
_LARGEST_LOSS = 0.02


@dataclass(frozen=True)
class Specimen:
    """Atoms, (row, col, depth) in Å about the middle of the field, and their potentials."""

    positions: np.ndarray
    numbers: np.ndarray
    scattering: dict[int, np.ndarray]
    field: float

    @property
    def depths(self) -> np.ndarray:
        """Depths in Å of the planes of atoms, from the entrance down."""
        return np.unique(self.positions[:, 2])


@lru_cache(maxsize=1)
def load_specimen() -> Specimen:
    """The shipped specimen (benchmarks/make_twisted_bilayer_mos2.py makes the file)."""
    with np.load(SPECIMEN_FILE, allow_pickle=False) as file:
        return Specimen(
            positions=file["positions"].astype(float),
            numbers=file["numbers"],
            scattering=dict(zip(file["elements"].tolist(), file["scattering"], strict=True)),
            field=float(file["field"]),
        )


def twisted_bilayer_mos2(
    *,
    scan_shape: tuple[int, int] = (28, 28),
    detector_shape: tuple[int, int] = (64, 64),
    scan_step: float = 0.9,
    reciprocal_pixel: float = 0.0625,
    beam_energy: float = 80.0,
    convergence_angle: float = 21.4,
    defocus: float = 200.0,
    scan_rotation: float = 12.0,
    C12a: float = 0.0,
    C12b: float = 0.0,
    C21a: float = 0.0,
    C21b: float = 0.0,
    C23a: float = 0.0,
    C23b: float = 0.0,
    C30: float = 0.0,
    source_size: float = 0.0,
    beam_shift: tuple[float, float] = (0.0, 0.0),
    position_jitter: float = 0.0,
    dose: float | None = 1e5,
    random_state: int = 0,
) -> Signal2D:
    """Simulate a 4D-STEM scan of a bilayer of MoS2, twisted by 8 degrees.

    A multislice calculation through the six planes of atoms (1 % of the sulphur is missing, the
    atoms are displaced as in one thermal snapshot), then counting noise. It needs no download and
    no extra; the default scan takes a few seconds.

    Parameters
    ----------
    scan_shape
        Numbers of positions (slow, fast), i.e. (y, x).
    detector_shape
        Detector pixels (k_y, k_x).
    scan_step
        Distance between neighbouring positions, in Å.
    reciprocal_pixel
        Size of a detector pixel in 1/Å. Its inverse is the width of the probe's window; a
        reconstruction's pixel is ``1 / (N * reciprocal_pixel)``.
    beam_energy
        In keV.
    convergence_angle
        Semi-angle in mrad.
    defocus
        In Å, positive for underfocus (C10 = -defocus), at the first plane of atoms. The last
        plane is 9.3 Å below it, so a reconstruction with one slice finds about 5 Å less.
    scan_rotation
        In degrees: in the detector's frame a position is
        ``(row, col) = scan_step * R @ (slow, fast)``, ``R = [[cos, -sin], [sin, cos]]``.
    C12a, C12b, C21a, C21b, C23a, C23b, C30
        Cartesian aberrations in Å: ``C12a = C12 cos(2 φ12)``, ``C12b = C12 sin(2 φ12)`` and so
        on, with abTEM's C12 and φ12 and the azimuth ``arctan2(k_row, k_col)``.
    source_size
        Full width at half maximum in Å of the effective source. Not zero, it makes the probe
        partially coherent (a few modes) and the simulation as many times slower.
    beam_shift
        (row, col), in detector pixels, of the undiffracted beam off the detector's middle, pixel
        ``detector_shape // 2``. The axes still put zero in the middle.
    position_jitter
        Root mean square along each axis, in Å, of a random displacement of every position from its
        place in the grid. The axes know nothing of it; `true_positions` does.
    dose
        Electrons per Å². None gives noise-free intensities, as parts of the incident beam.
    random_state
        Seed of the counting noise and, independently of it, of the displacements.

    Returns
    -------
    hyperspy.signals.Signal2D
        Axes ``(x, y | kx, ky)`` in Å and 1/Å; counts in the smallest unsigned integer type that
        holds them, or float32 without noise. Beam energy and convergence angle are where
        HyperSpy's readers put them. Everything that was put in stands in ``metadata.Simulation``,
        which no reconstruction reads; `ground_truth` and `ground_truth_probe` use it.

    Raises
    ------
    ValueError
        If a value makes no sense, the scan is larger than the specimen (80 Å), or the probe
        does not fit its window or the bright-field disk the detector.

    See Also
    --------
    ground_truth, ground_truth_probe, phase_correlation, true_positions

    Examples
    --------
    >>> from hs_autoptycho.data import twisted_bilayer_mos2
    >>> twisted_bilayer_mos2(scan_shape=(4, 6), detector_shape=(48, 64))
    <Signal2D, title: Twisted bilayer MoS2 (simulated), dimensions: (6, 4|64, 48)>
    """
    parameters = {
        "scan_shape": _pair("scan_shape", scan_shape, int),
        "detector_shape": _pair("detector_shape", detector_shape, int),
        "scan_step": float(scan_step),
        "reciprocal_pixel": float(reciprocal_pixel),
        "beam_energy": float(beam_energy),
        "convergence_angle": float(convergence_angle),
        "defocus": float(defocus),
        "scan_rotation": float(scan_rotation),
        **dict(
            zip(ABERRATIONS, map(float, (C12a, C12b, C21a, C21b, C23a, C23b, C30)), strict=True)
        ),
        "source_size": float(source_size),
        "beam_shift": _pair("beam_shift", beam_shift, float),
        "position_jitter": float(position_jitter),
        "dose": None if dose is None else float(dose),
        "random_state": int(random_state),
    }
    _check(parameters)
    patterns = simulate(parameters)
    if dose is not None:
        expected = patterns * (float(dose) * float(scan_step) ** 2)
        counts = np.random.default_rng(random_state).poisson(expected)
        patterns = counts.astype(np.min_scalar_type(int(counts.max())))
    return _as_signal(patterns, parameters)


def simulate(parameters: dict[str, Any]) -> np.ndarray:
    """Noise-free patterns, float32 (scan_y, scan_x, k_y, k_x), parts of the incident beam."""
    p = parameters
    wavelength = _multislice.electron_wavelength(p["beam_energy"])
    n = _grid_size(p)
    pixel = 1 / (n * p["reciprocal_pixel"])
    probe = probe_modes(p, (n, n))
    positions = scan_positions(p) + displacements(p)
    phases, origin = phase_slices(p, positions, n, pixel)
    patterns = _multislice.diffraction_patterns(
        _multislice.transmission_functions(phases, pixel),
        np.diff(load_specimen().depths),
        probe,
        (positions - origin) / pixel,
        pixel,
        wavelength,
        p["detector_shape"],
        p["beam_shift"],
    )
    return patterns.reshape(*p["scan_shape"], *p["detector_shape"])


def scan_positions(parameters: dict[str, Any]) -> np.ndarray:
    """(row, col) of every position in Å in the detector's frame, shape (J, 2), scan order."""
    slow, fast = np.indices(parameters["scan_shape"]).reshape(2, -1)
    steps = parameters["scan_step"] * np.column_stack([slow, fast])
    return steps @ _multislice.rotation_matrix(parameters["scan_rotation"]).T


def displacements(parameters: dict[str, Any]) -> np.ndarray:
    """(row, col) in Å of every position from its place in the grid, shape (J, 2), scan order."""
    # a stream of its own: with and without jitter the noise is the same
    generator = np.random.default_rng([parameters["random_state"], 1])
    shape = (int(np.prod(parameters["scan_shape"])), 2)
    return parameters.get("position_jitter", 0.0) * generator.normal(size=shape)


def probe_modes(parameters: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Modes of the probe on the reciprocal grid, see `_multislice.probe_transform`."""
    aberrations = {name: parameters[name] for name in ABERRATIONS}
    return _multislice.probe_transform(
        shape,
        parameters["reciprocal_pixel"],
        _multislice.electron_wavelength(parameters["beam_energy"]),
        parameters["convergence_angle"],
        {"C10": -parameters["defocus"], **aberrations},
        parameters["source_size"],
    )


def specimen_in_scan(parameters: dict[str, Any]) -> tuple[np.ndarray, Specimen]:
    """The atoms' (row, col) in Å from scan position [0, 0]; the scan's middle is the field's."""
    specimen = load_specimen()
    middle = scan_positions(parameters).mean(axis=0)
    return specimen.positions[:, :2] + middle, specimen


def phase_slices(
    parameters: dict[str, Any], positions: np.ndarray, n: int, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Phase shift of every plane of atoms around the positions, and the coordinate of its pixel 0.

    Scan position [0, 0], the coordinates' zero, is the centre of a pixel.
    """
    margin = n * pixel / 2 + _PADDING
    first = np.floor((positions.min(axis=0) - margin) / pixel)
    last = np.ceil((positions.max(axis=0) + margin) / pixel)
    shape = tuple((last - first + 1).astype(int))
    origin = first * pixel
    yx, specimen = specimen_in_scan(parameters)
    sigma = _multislice.interaction_parameter(parameters["beam_energy"])
    phases = []
    for depth in specimen.depths:
        plane = specimen.positions[:, 2] == depth
        phases.append(
            sigma
            * _multislice.projected_potential(
                yx[plane],
                specimen.numbers[plane],
                specimen.scattering,
                shape,
                (pixel, pixel),
                origin,
            )
        )
    return np.array(phases), origin


def _grid_size(parameters: dict[str, Any]) -> int:
    """Pixels along the multislice's window: twice the detector's band at least."""
    coarsest = 1 / (parameters["reciprocal_pixel"] * _COARSEST_PIXEL)
    return 2 * next_fast_len(int(np.ceil(max(*parameters["detector_shape"], coarsest / 2))))


def _pair(name: str, values: Any, kind: type) -> tuple:
    try:
        first, second = values
        pair = kind(first), kind(second)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers (rows, columns), got {values!r}") from None
    if pair != (first, second):
        raise ValueError(f"{name} must be two whole numbers, got {values!r}")
    return pair


def _check(parameters: dict[str, Any]) -> None:
    p = parameters
    for name, value in p.items():
        if value is not None and not np.all(np.isfinite(value)):
            raise ValueError(f"{name} must be finite, got {value}")
    for name in ("scan_step", "reciprocal_pixel", "beam_energy", "convergence_angle", "dose"):
        if p[name] is not None and p[name] <= 0:
            raise ValueError(f"{name} must be above zero, got {p[name]}")
    for name in ("source_size", "position_jitter"):
        if p[name] < 0:
            raise ValueError(f"{name} must not be negative, got {p[name]}")
    for name, least in (("scan_shape", 1), ("detector_shape", 8)):
        if min(p[name]) < least:
            raise ValueError(f"{name} must be at least {least} along each axis, got {p[name]}")

    wavelength = _multislice.electron_wavelength(p["beam_energy"])
    radius = p["convergence_angle"] * 1e-3 / wavelength / p["reciprocal_pixel"]
    half = np.array(p["detector_shape"]) / 2 - np.abs(p["beam_shift"])
    if radius > half.min():
        raise ValueError(
            f"the bright-field disk has a radius of {radius:.1f} detector pixels and does not fit "
            f"detector_shape={p['detector_shape']} with beam_shift={p['beam_shift']}: enlarge "
            "detector_shape or reciprocal_pixel, or make convergence_angle smaller"
        )

    window = 1 / p["reciprocal_pixel"]
    positions = scan_positions(p) + displacements(p)
    needed = np.ptp(positions, axis=0).max() + window
    field = load_specimen().field
    if needed > field:
        raise ValueError(
            f"the scan and the probe's window need {needed:.1f} Å but the specimen is {field:g} Å "
            f"wide: make scan_shape={p['scan_shape']} or scan_step={p['scan_step']} smaller, or "
            f"reciprocal_pixel={p['reciprocal_pixel']} larger (the window is its inverse)"
        )

    n = _grid_size(p)
    intensity = (np.abs(np.fft.fftshift(np.fft.ifft2(probe_modes(p, (n, n))))) ** 2).sum(axis=0)
    edge = n // 20
    loss = 1 - intensity[edge : n - edge, edge : n - edge].sum() / intensity.sum()
    if loss > _LARGEST_LOSS:
        raise ValueError(
            f"the probe does not fit its window of {window:.1f} Å (1 / reciprocal_pixel): "
            f"{100 * loss:.0f} % of it lie in the outer tenth; make reciprocal_pixel smaller than "
            f"{p['reciprocal_pixel']}, or defocus={p['defocus']} and the aberrations smaller"
        )


def _as_signal(patterns: np.ndarray, parameters: dict[str, Any]) -> Signal2D:
    from hyperspy.signals import Signal2D

    p = parameters
    axes = [
        {"name": name, "units": "Å", "scale": p["scan_step"], "offset": 0.0, "size": size,
         "navigate": True}
        for name, size in zip("yx", p["scan_shape"], strict=True)
    ] + [
        {"name": name, "units": "1/Å", "scale": p["reciprocal_pixel"],
         "offset": -(size // 2) * p["reciprocal_pixel"], "size": size, "navigate": False}
        for name, size in zip(("ky", "kx"), p["detector_shape"], strict=True)
    ]  # fmt: skip
    signal = Signal2D(patterns, axes=axes)
    signal.metadata.set_item("General.title", "Twisted bilayer MoS2 (simulated)")
    signal.metadata.set_item("Signal.quantity", "Counts" if p["dose"] else "Intensity")
    microscope = "Acquisition_instrument.TEM."
    signal.metadata.set_item(microscope + "acquisition_mode", "STEM")
    signal.metadata.set_item(microscope + "beam_energy", p["beam_energy"])
    signal.metadata.set_item(microscope + "convergence_angle", p["convergence_angle"])
    signal.metadata.set_item("Simulation", {"specimen": "twisted_bilayer_mos2", **p})
    return signal
