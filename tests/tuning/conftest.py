"""A small scan for all tests of tuning."""

import pytest

from hs_autoptycho.calibration import geometry_from_signal
from hs_autoptycho.data import twisted_bilayer_mos2
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.loading import load_counts


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test of tuning reconstructs something small."""


@pytest.fixture(scope="session")
def simulate():
    """An experiment with four different sizes; and the signal, for the truth."""

    def make(**options):
        signal = twisted_bilayer_mos2(
            **{
                "scan_shape": (9, 11),
                "detector_shape": (48, 64),
                "defocus": 120,
                "scan_rotation": 12,
                **options,
            }
        )
        counts = load_counts(signal.data)
        geometry = geometry_from_signal(signal, counts.mean(0), scan_rotation=12, defocus=120)
        return Experiment(counts, geometry), signal

    return make


@pytest.fixture(scope="session")
def experiment(simulate):
    return simulate()[0]
