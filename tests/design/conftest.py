"""A small specimen and a small microscope: one experiment takes some hundredths of a second."""

import numpy as np
import pytest

from hs_autoptycho.design.instrument import Instrument
from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.design.simulation import Simulation

PIXEL = 0.2
RANGES = {"scan_step": (0.5, 3.0), "defocus": (0.0, 150.0), "convergence_angle": (15.0, 35.0)}


def dots(shape: tuple[int, int], pixel: float, seed: int = 0) -> np.ndarray:
    """Phases of round atoms at random places, in rad."""
    generator = np.random.default_rng(seed)
    y, x = (np.arange(n) * pixel for n in shape)
    image = np.zeros(shape)
    for _ in range(int(0.35 * shape[0] * shape[1] * pixel**2)):
        r, c = generator.random(2) * np.array(shape) * pixel
        image += 0.4 * np.exp(-((y[:, None] - r) ** 2 + (x - c) ** 2) / (2 * 0.35**2))
    return image


@pytest.fixture(scope="session")
def phase() -> np.ndarray:
    """Of a potential of 20 × 21.4 Å."""
    return dots((101, 108), PIXEL)


@pytest.fixture(scope="session")
def specimen(phase) -> Specimen:
    return Specimen(phase[None], PIXEL, (), (-3.0, 5.0))


@pytest.fixture
def instrument() -> Instrument:
    """A window of 8 Å, and a field of view of 8.5 × 9.5 Å."""
    return Instrument(80.0, (32, 36), 1 / 8, (8.5, 9.5))


@pytest.fixture
def simulation(specimen, instrument) -> Simulation:
    return Simulation(specimen, instrument)


@pytest.fixture
def potential(phase):
    """The specimen as a HyperSpy signal."""
    from hyperspy.signals import Signal2D

    axes = [
        {"name": n, "units": "Å", "scale": PIXEL, "offset": o, "size": s, "navigate": False}
        for n, o, s in zip("yx", (-3.0, 5.0), phase.shape, strict=True)
    ]
    signal = Signal2D(phase, axes=axes)
    signal.metadata.set_item("Signal.quantity", "Phase (rad)")
    return signal
