"""How a method runs: its seed, its cluster, its threads, its progress bar, its versions."""

from __future__ import annotations

import contextlib
import numbers
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import hyperspy.api as hs
import numba
from hyperspy.external.progressbar import progressbar as hyperspy_progressbar
from threadpoolctl import threadpool_limits


def check_count(name: str, value: Any) -> None:
    """Raise a ValueError for anything but a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name}={value!r}: a whole number of at least 1 is needed.")


def check_seed(random_state: Any) -> int:
    """The seed as a plain number, for it is recorded."""
    whole = isinstance(random_state, numbers.Integral) and not isinstance(random_state, bool)
    if whole and 0 <= random_state < 2**32:
        return int(random_state)
    raise ValueError(f"random_state={random_state!r}: a whole number from 0 to 2³² - 1 is needed.")


def check_running(callback: Any, client: Any) -> None:
    """Raise a TypeError for what cannot be called, and for what is no client."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback={callback!r}: a function of a trial's dictionary is needed.")
    if client is not None and not callable(getattr(client, "submit", None)):
        raise TypeError(
            f"client={client!r}: a client is needed, distributed.Client(address) makes one."
        )


@contextlib.contextmanager
def threads(num_workers: int | None) -> Iterator[None]:
    """Run with a number of threads, of numba and of the linear algebra."""
    if num_workers is None:
        yield
        return
    check_count("num_workers", num_workers)
    before = numba.get_num_threads()
    numba.set_num_threads(min(num_workers, numba.config.NUMBA_NUM_THREADS))
    try:
        with threadpool_limits(int(num_workers), user_api="blas"):
            yield
    finally:
        numba.set_num_threads(before)


def progressbar(total: int, description: str, show: bool | None):
    """HyperSpy's progress bar, or one that shows nothing."""
    if show is None:
        show = hs.preferences.General.show_progressbar
    return hyperspy_progressbar(total=total, desc=description, disable=not show, leave=True)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
