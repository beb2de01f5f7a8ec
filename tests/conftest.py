"""What all tests share."""

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ["MPLBACKEND"] = "Agg"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """A shell starts jobs in the background with Ctrl-C ignored, and so would all they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_progress_bars():
    import hyperspy.api as hs

    hs.preferences.General.show_progressbar = False


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def one_thread():
    """Small arrays: threads that wait for each other on a busy machine cost more than they save."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of measured data that is too large for the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"measured data are not here: no folder {SHARED_DATA}")
    return SHARED_DATA
