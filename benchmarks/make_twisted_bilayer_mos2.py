"""Make hs_autoptycho/data/twisted_bilayer_mos2.npz, the specimen of the simulated scans.

    pip install hs_autoptycho[simulate]
    python benchmarks/make_twisted_bilayer_mos2.py [--check-only]

ASE builds two layers of MoS2 twisted by 8 degrees, with 1 % of the sulphur missing and one thermal
snapshot of displacements; abTEM gives the parametrised potentials of the two elements (Lobato and
Van Dyck). The file holds the atoms and those parameters, not a picture of the potential, so that
the potential is exact on whatever grid a scan asks for, and 40 kB are enough for a field of
80 Å. The potential that the package makes of the file is then compared with abTEM's of the same
atoms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import abtem
import numpy as np
from abtem.parametrizations import LobatoParametrization
from ase import Atoms
from ase.build import mx2

from hs_autoptycho.data._multislice import projected_potential
from hs_autoptycho.data._twisted_bilayer_mos2 import SPECIMEN_FILE, load_specimen

FIELD = 80.0  # Å, edge of the square that is filled, centred on (0, 0)
TWIST = 8.0  # degrees
# direction of the first layer (degrees) and the point (x, y) in Å that the layers are turned
# about: off the axes and the middle, for else the picture turned by 180 degrees or mirrored is so
# like itself that a wrong orientation would pass for a right one
DIRECTION = 5.0
PIVOT = (7.0, -5.0)
LAYER_SPACING = 6.15  # Å
VACANCIES = 0.01
DISPLACEMENT = 0.06  # Å, rms along each of the two axes across the beam


def build_atoms(seed: int = 0) -> Atoms:
    """The bilayer; x and y from -FIELD/2 to FIELD/2, z from the first plane down the beam."""
    rng = np.random.default_rng(seed)
    bilayer = Atoms()
    for angle, depth in ((DIRECTION, 0.0), (DIRECTION + TWIST, LAYER_SPACING)):
        layer = mx2("MoS2", a=3.18, thickness=3.19) * (60, 60, 1)
        layer.positions[:, :2] -= layer.positions[:, :2].mean(0)
        layer.rotate(angle, "z", center=(0, 0, 0))
        layer.positions[:, :2] += PIVOT
        layer.positions[:, 2] += depth - layer.positions[:, 2].min()
        layer = layer[np.all(np.abs(layer.positions[:, :2]) < FIELD / 2, axis=1)]
        sulphur = np.nonzero(layer.numbers == 16)[0]
        del layer[rng.choice(sulphur, round(VACANCIES * len(sulphur)), replace=False)]
        bilayer += layer
    bilayer.positions[:, :2] += rng.normal(0, DISPLACEMENT, (len(bilayer), 2))
    return bilayer


def write(path: Path) -> None:
    """Write the specimen: atoms as (row, col, depth), parameters by element."""
    atoms = build_atoms()
    lobato = LobatoParametrization()
    x, y, z = np.round(atoms.positions, 4).T
    order = np.lexsort((x, y, z))
    np.savez_compressed(
        path,
        positions=np.column_stack([y, x, z]).astype(np.float32)[order],
        numbers=atoms.numbers.astype(np.uint8)[order],
        elements=np.array([16, 42], np.uint8),
        scattering=np.stack(
            [lobato.scaled_parameters(s, "projected_scattering_factor") for s in ("S", "Mo")]
        ),
        field=FIELD,
    )


def compare_with_abtem(extent: float = 24.0, pixel: float = 0.025) -> float:
    """Relative rms difference of the package's potential and abTEM's, below 2.5 1/Å.

    abTEM interpolates the atoms' positions linearly between pixels, so the difference falls with
    the square of the pixel.
    """
    specimen = load_specimen()
    yx = specimen.positions[:, :2] + extent / 2
    inside = np.all((yx > 2) & (yx < extent - 2), axis=1)
    n = round(extent / pixel)
    ours = projected_potential(
        yx[inside],
        specimen.numbers[inside],
        specimen.scattering,
        (n, n),
        (pixel, pixel),
        (0.0, 0.0),
    )
    z = specimen.positions[inside, 2] + 1
    atoms = Atoms(specimen.numbers[inside], np.column_stack([yx[inside][:, ::-1], z]))
    atoms.set_cell([extent, extent, z.max() + 1])
    atoms.pbc = True
    potential = abtem.Potential(
        atoms, gpts=n, slice_thickness=100, projection="infinite", parametrization="lobato"
    )
    theirs = np.asarray(potential.build(lazy=False).project().array).T
    k = np.fft.fftfreq(n, pixel)
    band = np.hypot(k[:, None], k) < 2.5
    band[0, 0] = False  # abTEM's potential has another zero
    a, b = np.fft.fft2(ours)[band], np.fft.fft2(theirs)[band]
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check-only", action="store_true", help="leave the file as it is")
    if not parser.parse_args().check_only:
        write(SPECIMEN_FILE)
    size = SPECIMEN_FILE.stat().st_size / 1e3
    print(f"{SPECIMEN_FILE}: {size:.0f} kB, {len(load_specimen().numbers)} atoms")
    print(f"relative difference of the potential from abTEM's: {compare_with_abtem():.1e}")


if __name__ == "__main__":
    main()
