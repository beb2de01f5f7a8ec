"""Small scans from a simulated microscope; all four sizes differ."""

import pytest

from hs_autoptycho.data import SimulatedMicroscope

SETTINGS = {"scan_shape": (20, 22), "scan_step": 0.9, "dose": 1e5}


def _microscope(**options):
    options = {"random_state": 0, "detector_shape": (44, 48), **options}
    return SimulatedMicroscope(settings={**SETTINGS, **options.pop("settings", {})}, **options)


@pytest.fixture(scope="session")
def microscope():
    """Makes a microscope that is 100 Å and 5 degrees wrong, unless told otherwise."""
    return _microscope


@pytest.fixture(scope="session")
def known():
    """What has to be told of scans that come as frames."""
    return {"scan_shape": (20, 22), "beam_energy": 80, "reciprocal_pixel": 0.0625, "scan_step": 0.9}


@pytest.fixture(scope="session")
def scan():
    """The first scan of it."""
    return _microscope().acquire()
