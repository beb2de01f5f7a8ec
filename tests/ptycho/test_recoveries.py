"""What the engine corrects while it reconstructs: small scans with a fault, nominal values told.

benchmarks/recoveries.py has the full sizes and several seeds.
"""

import numpy as np
import pytest

from hs_autoptycho.data import _multislice as multislice
from hs_autoptycho.data import _twisted_bilayer_mos2 as bilayer
from hs_autoptycho.ptycho.corrections import Starts
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import GridDistortion, place, scan_positions
from hs_autoptycho.ptycho.probe import beam_frequencies, make_modes, make_probe, measured_aperture
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.solver import Model, reconstruct

pytestmark = pytest.mark.usefixtures("one_thread")

DEFOCUS, STEP, WAVELENGTH = 200.0, 0.9, multislice.electron_wavelength(80.0)


class Scan:
    """A simulated scan of 18 × 20 positions, reconstructed with values that may be wrong."""

    def __init__(self, *, jitter=0.0, spacing=None, second_mode=0.0, beam=0.0):
        p = {
            "scan_shape": (18, 20),
            "detector_shape": (48, 64),
            "scan_step": STEP,
            "reciprocal_pixel": 0.0625,
            "beam_energy": 80.0,
            "convergence_angle": 21.4,
            "defocus": DEFOCUS,
            "scan_rotation": 12.0,
            "source_size": 0.0,
            "position_jitter": jitter,
            "random_state": 3,
            **dict.fromkeys(bilayer.ABERRATIONS, 0.0),
        }
        self.parameters = p
        self.positions = bilayer.scan_positions(p) + bilayer.displacements(p)
        n = bilayer._grid_size(p)
        pixel = 1 / (n * p["reciprocal_pixel"])
        phases, origin = bilayer.phase_slices(p, self.positions, n, pixel)
        self.spacings = np.diff(bilayer.load_specimen().depths)
        if spacing is not None:
            self.spacings = np.full(5, float(spacing))
        probe = bilayer.probe_modes(p, (n, n))
        if second_mode:
            other = probe[0] * np.fft.fftfreq(n)
            other /= np.linalg.norm(other)
            weights = np.sqrt([1 - second_mode, second_mode])
            probe = np.stack([probe[0], other]) * weights[:, None, None]
        patterns = multislice.diffraction_patterns(
            multislice.transmission_functions(phases, pixel),
            self.spacings,
            probe,
            (self.positions - origin) / pixel,
            pixel,
            WAVELENGTH,
            p["detector_shape"],
        )
        generator = np.random.default_rng(3)
        self.beam = 1 + beam * generator.uniform(-1, 1, len(patterns))
        counts = generator.poisson(patterns * (1e5 * STEP**2 * self.beam)[:, None, None])
        self.mean = counts.mean(0)
        self.patterns = Patterns.from_blocks(
            [counts.astype(np.uint16)], len(counts), p["detector_shape"]
        )

    def reconstruct(
        self, passes, *, rotation=0.0, scale=1.0, defocus=0.0, thickness=None, modes=1, **settings
    ):
        p, shape = self.parameters, self.parameters["detector_shape"]
        pixel = tuple(1 / (n * p["reciprocal_pixel"]) for n in shape)
        k = beam_frequencies(shape, pixel)
        aperture = measured_aperture(self.mean, *k, 21.4e-3 / WAVELENGTH)
        probe = make_probe(aperture, *k, WAVELENGTH, defocus=DEFOCUS + defocus)
        grid = scan_positions(p["scan_shape"], STEP * scale, rotation=12.0 + rotation)
        propagation = None
        if thickness is not None:
            propagation = Propagation(tuple(self.spacings * thickness), WAVELENGTH, pixel)
        result, state = reconstruct(
            self.patterns,
            place(grid / np.array(pixel), shape),
            make_modes(probe, modes),
            n_iterations=passes,
            model=Model(
                propagation=propagation,
                pixel_size=pixel,
                defocus_phase=np.pi * WAVELENGTH * (k[0] ** 2 + k[1] ** 2),
                defocus=DEFOCUS + defocus,
            ),
            noise_model="poisson",
            **settings,
        )
        self.found = (state.positions - state.placement.origin) * pixel
        return result

    def linear(self):
        """Distortion of the positions that were found against the true ones."""
        true, found = (q - q.mean(0) for q in (self.positions, self.found))
        return GridDistortion.of(np.linalg.lstsq(true, found, rcond=None)[0].T)

    def jitter_left(self):
        true, found = (q - q.mean(0) for q in (self.positions, self.found))
        return np.sqrt(((true - found @ np.linalg.lstsq(found, true, rcond=None)[0]) ** 2).mean())


@pytest.fixture(scope="module")
def scan():
    return Scan()


def test_jitter():
    scan = Scan(jitter=0.18)
    scan.reconstruct(20, starts=Starts(positions=3))
    assert scan.jitter_left() < 0.02


@pytest.mark.parametrize("angle", [2.0, -5.0])
def test_rotation(scan, angle):
    scan.reconstruct(50, rotation=angle, starts=Starts(grid=0))
    assert abs(scan.linear().rotation) < 0.1
    assert scan.linear().scale == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("factor", [1.02, 0.98])
def test_scale(scan, factor):
    scan.reconstruct(50, scale=factor, starts=Starts(grid=0))
    assert scan.linear().scale == pytest.approx(1, abs=2e-3)
    assert abs(scan.linear().rotation) < 0.1


@pytest.mark.parametrize("error", [100.0, -100.0])
def test_defocus(scan, error):
    result = scan.reconstruct(30, defocus=error, starts=Starts(defocus=3), probe_start=30)
    # one slice stands for the specimen's middle, 4.7 Å below its first plane of atoms
    assert result.corrected["defocus"] == pytest.approx(DEFOCUS - 4.7, abs=10)


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_thickness(factor):
    scan = Scan(spacing=25)
    result = scan.reconstruct(36, thickness=factor, starts=Starts(thickness=0), probe_start=36)
    assert factor * result.corrected["thickness_factor"] == pytest.approx(1, abs=0.05)


def test_two_modes(scan):
    def share(of):
        power = (np.abs(of.reconstruct(60, modes=2).probe) ** 2).sum((1, 2))
        return power[1] / power.sum()

    assert share(Scan(second_mode=0.36)) == pytest.approx(0.36, rel=0.08)
    assert share(scan) < 0.03


def test_brightness():
    scan = Scan(beam=0.2)
    result = scan.reconstruct(20, starts=Starts(brightness=3))
    assert np.corrcoef(result.brightness, scan.beam)[0, 1] > 0.99
