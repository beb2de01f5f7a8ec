"""Simulate the scans of the benchmark of the engine.

    pip install hs_autoptycho[simulate]
    python benchmarks/engine_scans.py FOLDER [--only main_df300]

The specimen is a bilayer of MoS2 twisted by 8 degrees with 1 % of the sulphur missing and one
thermal snapshot of displacements, seen at 80 kV with 21.4 mrad in steps of 0.5 Å. Atoms and
potential (Lobato and Van Dyck, slices of 1 Å) are ASE's and abTEM's; the beam is propagated by a
few lines here, on half the reconstruction's pixel, so that the scan is made by none of the engines
that are to be compared.

Each scan is one file of NumPy, ``FOLDER/<name>.npz``, with

``dp``
    float32 [scan_y, scan_x, k_y, k_x], expected intensities: they sum to 1 where nothing is
    scattered beyond the detector. Zero frequency is pixel ``shape // 2``.
``probe``
    complex64, centred, on the reconstruction's pixels, Σ|P|² = 1.
``truth``
    float32, projected phase in radians, on the reconstruction's pixels.
``pos_A``
    float32 (positions, 2), row and column in Å from the first pixel of ``truth``.
``meta``
    What else is known, as JSON: lengths in Å, angles in mrad and the energy in eV.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import abtem
import numpy as np
import scipy.fft
from abtem.core.energy import energy2sigma, energy2wavelength
from ase import Atoms
from ase.build import mx2
from reporting import say

ENERGY = 80e3  # eV
SEMI_ANGLE = 21.4  # mrad
STEP = 0.5  # Å
TWIST = 8.0  # degrees
LAYER_SPACING = 6.15  # Å
THICKNESS = 12.0  # Å, of the cell
SLICE = 1.0  # Å
VACANCIES = 0.01
DISPLACEMENT = 0.06  # Å, rms along each of the two axes across the beam
OVERSAMPLING = 2  # of the reconstruction's pixel
BAND = 2 / 3  # part of the highest frequency that is kept, against aliasing
BATCH = 32
WAVELENGTH = energy2wavelength(ENERGY)


@dataclass(frozen=True)
class Geometry:
    """Of a scan; lengths in Å.

    Attributes
    ----------
    detector
        Pixels along an edge.
    pixel
        Of the reconstruction.
    positions
        Along an edge of the scan.
    defocus
        Negative for a beam that is focused before the specimen, as in all of these scans.
    """

    detector: int
    pixel: float
    positions: int
    defocus: float

    @property
    def field(self) -> float:
        """Edge of the specimen: what is scanned and a window around it."""
        unit = 4 * self.pixel  # so that the specimen has a good number of pixels
        need = self.positions * STEP + self.detector * self.pixel + 2
        return float(np.ceil(need / unit) * unit)

    @property
    def origin(self) -> float:
        """Distance of the first position from the specimen's corner, along both axes."""
        return (self.field - self.positions * STEP) / 2


SCANS = {
    "small_df150": Geometry(64, 0.25, 32, -150.0),
    "main_df100": Geometry(128, 0.2, 64, -100.0),
    "main_df300": Geometry(128, 0.2, 64, -300.0),
    "main_df550": Geometry(128, 0.2, 64, -550.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=SCANS, default=list(SCANS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    abtem.config.set({"precision": "float32", "device": "cpu"})
    for name in arguments.only:
        start = time.perf_counter()
        file = arguments.folder / f"{name}.npz"
        np.savez(file, **simulate(name, SCANS[name]))
        say(f"{file}: {time.perf_counter() - start:.0f} s")


def simulate(name: str, geometry: Geometry) -> dict[str, np.ndarray]:
    """All arrays of a file."""
    fine = geometry.pixel / OVERSAMPLING
    potential = abtem.Potential(
        build_atoms(geometry.field), sampling=fine, slice_thickness=SLICE, projection="infinite"
    ).build(lazy=False)
    phases = energy2sigma(ENERGY) * np.asarray(potential.array, np.float32)
    aperture = aperture_amplitude(geometry)
    axis = geometry.origin + np.arange(geometry.positions) * STEP
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    patterns = propagate(phases, aperture, positions, geometry)
    scan = [geometry.positions, geometry.positions]
    dk = 1 / (geometry.detector * geometry.pixel)
    meta = {
        "name": name,
        "energy_eV": ENERGY,
        "semiangle_mrad": SEMI_ANGLE,
        "defocus_A": geometry.defocus,
        "C10_A": -geometry.defocus,
        "wavelength_A": float(WAVELENGTH),
        "N": geometry.detector,
        "dx_A": geometry.pixel,
        "dk_invA": dk,
        "dk_mrad": float(WAVELENGTH * dk * 1e3),
        "scan": scan,
        "step_A": STEP,
        "rotation_deg": 0.0,
        "n_sim_slices": len(phases),
        "thickness_A": THICKNESS,
        "truth_px_A": geometry.pixel,
        "scan_origin_px": geometry.origin / geometry.pixel,
        "rbf_px": SEMI_ANGLE / float(WAVELENGTH * dk * 1e3),
        "frac_int_on_det": float(patterns.sum((1, 2)).mean()),
        "sim": f"abTEM {version('abtem')} potential",
    }
    return {
        "dp": patterns.reshape(*scan, *patterns.shape[1:]),
        "probe": probe_on_detector_grid(aperture, geometry),
        "truth": binned_phase(phases.sum(0)),
        "pos_A": positions.astype(np.float32),
        "meta": json.dumps(meta),
    }


def build_atoms(field: float, *, seed: int = 0) -> Atoms:
    """The bilayer in a cell of `field` × `field` × `THICKNESS` Å."""
    rng = np.random.default_rng(seed)
    bilayer = Atoms()
    for angle, depth in ((0.0, 0.0), (TWIST, LAYER_SPACING)):
        layer = mx2("MoS2", a=3.18, thickness=3.19) * (60, 60, 1)
        layer.positions[:, :2] -= layer.positions[:, :2].mean(0)
        layer.rotate(angle, "z", center=(0, 0, 0))
        layer.positions[:, :2] += field / 2
        # the order of these sums decides in which slice an atom on the edge of two of them falls
        layer.positions[:, 2] = layer.positions[:, 2] - layer.positions[:, 2].min() + depth + 1.0
        inside = (layer.positions[:, :2] > 1) & (layer.positions[:, :2] < field - 1)
        layer = layer[inside.all(1)]
        sulphur = np.nonzero(layer.numbers == 16)[0]
        del layer[rng.choice(sulphur, int(VACANCIES * len(sulphur)), replace=False)]
        bilayer += layer
    bilayer.set_cell([field, field, THICKNESS])
    bilayer.pbc = True
    bilayer.positions[:, :2] += rng.normal(0, DISPLACEMENT, (len(bilayer), 2))
    return bilayer


def aperture_amplitude(geometry: Geometry) -> np.ndarray:
    """abTEM's soft aperture on the fine grid, in the order of ``np.fft.fft2``, Σ|A|² = 1."""
    pixels = geometry.detector * OVERSAMPLING
    probe = abtem.Probe(
        semiangle_cutoff=SEMI_ANGLE,
        energy=ENERGY,
        extent=geometry.detector * geometry.pixel,
        gpts=pixels,
        defocus=geometry.defocus,
        soft=True,
    ).build(lazy=False)
    amplitude = np.abs(np.fft.fft2(np.asarray(probe.array).reshape(pixels, pixels)))
    return amplitude / np.sqrt((amplitude**2).sum())


def squared_frequencies(pixels: int, pixel: float) -> np.ndarray:
    k = np.fft.fftfreq(pixels, pixel)
    return k[:, None] ** 2 + k**2


def defocused(aperture: np.ndarray, pixel: float, defocus: float) -> np.ndarray:
    """Spectrum of the probe, exp(-iχ) with χ = π λ C10 k²."""
    phase = np.pi * WAVELENGTH * -defocus * squared_frequencies(len(aperture), pixel)
    return aperture * np.exp(-1j * phase)


def propagate(
    phases: np.ndarray, aperture: np.ndarray, positions: np.ndarray, geometry: Geometry
) -> np.ndarray:
    """Intensities on the detector, by multislice in a window around each position.

    Parameters
    ----------
    phases
        Of the slices, in radians, (slices, rows, columns).
    aperture
        From :func:`aperture_amplitude`.
    positions
        In Å, (positions, 2).
    geometry
        Of the scan.
    """
    fine = geometry.pixel / OVERSAMPLING
    pixels = len(aperture)
    half = pixels // 2
    spectrum = defocused(aperture, fine, geometry.defocus)
    keep = squared_frequencies(phases.shape[-1], fine) < (BAND * 0.5 / fine) ** 2
    transmitted = np.stack(
        [np.fft.ifft2(np.fft.fft2(np.exp(1j * phase)) * keep) for phase in phases]
    ).astype(np.complex64)
    k2 = squared_frequencies(pixels, fine)
    step = np.exp(-1j * np.pi * WAVELENGTH * THICKNESS / len(phases) * k2)
    step = (step * (k2 < (BAND * 0.5 / fine) ** 2)).astype(np.complex64)
    k = np.fft.fftfreq(pixels, fine)
    edge = (pixels - geometry.detector) // 2
    shown = slice(edge, edge + geometry.detector)
    out = np.empty((len(positions), geometry.detector, geometry.detector), np.float32)
    for start in range(0, len(positions), BATCH):
        batch = positions[start : start + BATCH] / fine
        whole = np.round(batch).astype(int)
        shift = (batch - whole + half) * fine
        ramps = np.exp(-2j * np.pi * k * shift[..., None])
        waves = scipy.fft.ifft2(spectrum * ramps[:, 0, :, None] * ramps[:, 1, None], norm="ortho")
        waves = waves.astype(np.complex64)
        for depth, slice_ in enumerate(transmitted):
            for wave, (row, column) in zip(waves, whole - half, strict=True):
                wave *= slice_[row : row + pixels, column : column + pixels]
            if depth < len(transmitted) - 1:
                waves = scipy.fft.ifft2(scipy.fft.fft2(waves) * step)
        patterns = np.abs(scipy.fft.fft2(waves, norm="ortho")) ** 2
        out[start : start + BATCH] = np.fft.fftshift(patterns, axes=(1, 2))[:, shown, shown]
    return out


def probe_on_detector_grid(aperture: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The probe on the reconstruction's pixels, centred on ``shape // 2``, Σ|P|² = 1."""
    edge = (len(aperture) - geometry.detector) // 2
    shown = slice(edge, edge + geometry.detector)
    inner = np.fft.ifftshift(np.fft.fftshift(aperture)[shown, shown])
    spectrum = defocused(inner, geometry.pixel, geometry.defocus)
    spectrum /= np.sqrt((np.abs(spectrum) ** 2).sum())
    return np.fft.fftshift(np.fft.ifft2(spectrum, norm="ortho")).astype(np.complex64)


def binned_phase(phase: np.ndarray) -> np.ndarray:
    """A projected phase on pixels `OVERSAMPLING` times as large, cut off in Fourier space."""
    size = len(phase) // OVERSAMPLING
    edge = (len(phase) - size) // 2
    inner = np.fft.fftshift(np.fft.fft2(phase))[edge : edge + size, edge : edge + size]
    small = np.fft.ifft2(np.fft.ifftshift(inner)).real / OVERSAMPLING**2
    return small.astype(np.float32)


if __name__ == "__main__":
    main()
