"""What all drivers share: options, the scan, the score and the record.

The environments of the peers need nothing for it but NumPy and SciPy.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

MARGIN = 40  # pixels: how far a reconstruction may be shifted from the truth
SCORED = 0.8  # part of the scanned square that is compared


def read_options(description: str, *, batch: int) -> argparse.Namespace:
    """Options of the command line, the same for every driver.

    Parameters
    ----------
    description
        First words of the help.
    batch
        Positions a batch where nothing else is asked for.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of engine_scans.py")
    parser.add_argument("--scan", default="main_df300")
    parser.add_argument("--dose", type=float, default=1e5, help="electrons per square angstrom")
    parser.add_argument("--modes", type=int, default=1)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-limit", type=float, default=np.inf, help="seconds of passes")
    parser.add_argument("--corrections", action="store_true", help="correct positions too")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("NAME", "NUMBER"),
        help="another value for one of the driver's settings",
    )  # fmt: skip
    return parser.parse_args()


def settings(options: argparse.Namespace, **values: float) -> dict[str, float]:
    """The driver's settings `values`, with what ``--set`` replaces."""
    for name, number in options.set:
        if name not in values:
            raise SystemExit(f"There is no setting {name!r}; there are {', '.join(values)}.")
        values[name] = float(number)
    return values


@dataclass(frozen=True)
class Scan:
    """What is known of a simulated scan.

    Attributes
    ----------
    probe
        The true one, complex (rows, columns), centred, Σ|P|² = 1.
    truth
        Projected phase in radians, on the object's pixels.
    meta
        Lengths in Å, the convergence angle in mrad, the energy in eV.
    """

    probe: np.ndarray
    truth: np.ndarray
    meta: dict


def load_scan(
    options: argparse.Namespace, dtype=np.float32, *, seed: int = 1
) -> tuple[np.ndarray, Scan]:
    """Read a scan and draw its counts, a row at a time, so that no second copy is in memory.

    Parameters
    ----------
    options
        ``data``, ``scan`` and ``dose`` are used.
    dtype
        Of the counts.
    seed
        Of the noise.

    Returns
    -------
    Counts [scan_y, scan_x, k_y, k_x], zero frequency at pixel ``shape // 2``, and what is known of
    the scan.
    """
    file = options.data / f"{options.scan}.npz"
    with np.load(file) as arrays:
        probe, truth = arrays["probe"], arrays["truth"]
        meta = json.loads(str(arrays["meta"]))
    electrons = options.dose * meta["step_A"] ** 2
    generator = np.random.default_rng(seed)
    with zipfile.ZipFile(file) as archive, archive.open("dp.npy") as stream:
        np.lib.format.read_magic(stream)
        shape, _, kind = np.lib.format.read_array_header_1_0(stream)
        patterns = np.empty(shape, dtype)
        for row in patterns:
            expected = np.frombuffer(stream.read(row.size * kind.itemsize), kind)
            row[...] = generator.poisson(expected * electrons).reshape(row.shape)
    return patterns, Scan(probe, truth, meta)


def phase_correlation(phase: np.ndarray, scan: Scan) -> float:
    """Pearson correlation of a reconstructed phase with the truth.

    Compared is the inner part of the scanned square, where both have been freed of a plane. The
    largest value over all shifts by whole pixels and the eight orientations counts, as engines
    differ in where the object's corner is and in the order of its axes.

    Parameters
    ----------
    phase
        In radians, (Y, X), with the truth's pixels and the scan in its middle.
    scan
        Its `truth` and `meta` are used.
    """
    step = scan.meta["step_A"] / scan.meta["dx_A"]
    positions = scan.meta["scan"][0]
    size = int(positions * step * SCORED) // 2 * 2
    start = round(scan.meta["scan_origin_px"] + (positions - 1) * step / 2) - size // 2
    truth = without_plane(scan.truth[start : start + size, start : start + size].astype(float))
    best, found = -np.inf, np.zeros_like(truth)
    phase = np.nan_to_num(phase).astype(float)
    for orientation in range(8):
        turned = np.rot90(phase, orientation % 4)
        turned = middle(turned.T if orientation > 3 else turned, size + 2 * MARGIN)
        turned = turned - turned.mean()
        covariance = fftconvolve(turned, truth[::-1, ::-1], mode="valid")
        sums = fftconvolve(turned, np.ones_like(truth), mode="valid")
        squares = fftconvolve(turned**2, np.ones_like(truth), mode="valid")
        variance = np.maximum(squares - sums**2 / truth.size, 1e-12)
        correlation = covariance / np.sqrt(variance * (truth**2).sum())
        y, x = np.unravel_index(correlation.argmax(), correlation.shape)
        if correlation[y, x] > best:
            best, found = correlation[y, x], turned[y : y + size, x : x + size]
    found = without_plane(found)
    power = (found**2).sum() * (truth**2).sum()
    return float((found * truth).sum() / np.sqrt(power)) if power > 0 else 0.0


def middle(image: np.ndarray, size: int) -> np.ndarray:
    """The square in the middle of an image, of even edge, `size` pixels at most."""
    half = min(*image.shape, size) // 2
    y, x = (n // 2 for n in image.shape)
    return image[y - half : y + half, x - half : x + half]


def without_plane(image: np.ndarray) -> np.ndarray:
    """Subtract the plane of least squares, which the data of a scan leave open."""
    y, x = np.indices(image.shape)
    basis = np.column_stack([np.ones(image.size), x.ravel(), y.ravel()])
    plane = basis @ np.linalg.lstsq(basis, image.ravel(), rcond=None)[0]
    return image - plane.reshape(image.shape)


class Record:
    """Times the passes of a reconstruction, scores each, and prints where it stands as JSON.

    Parameters
    ----------
    peer
        Name in the tables.
    package
        Whose version is told.
    options
        Of the command line.
    scan
        To score with.
    **more
        Further entries, such as the settings.
    """

    def __init__(self, peer: str, package: str, options: argparse.Namespace, scan: Scan, **more):
        self.scan = scan
        self.time_limit = options.time_limit
        names = "scan", "dose", "modes", "slices", "batch", "corrections", "threads"
        self.entries = {"peer": peer, "version": version(package)}
        self.entries |= {name: getattr(options, name) for name in names}
        self.entries |= more | {"memory_loaded": peak_memory()}
        self.seconds: list[float] = []
        self.correlations: list[float] = []
        self.clock = time.perf_counter()

    def ready(self) -> None:
        """Preparations are over: what comes next is the first pass."""
        self.entries["setup_seconds"] = time.perf_counter() - self.clock
        self.clock = time.perf_counter()

    def passed(self, phase: Callable[[], np.ndarray]) -> bool:
        """A pass is over. The clock stands still while the phase is fetched and scored.

        Returns
        -------
        True if the time is up.
        """
        so_far = self.seconds[-1] if self.seconds else 0.0
        self.seconds.append(so_far + time.perf_counter() - self.clock)
        self.entries["memory_peak"] = peak_memory()
        self.correlations.append(phase_correlation(phase(), self.scan))
        line = self.entries | {"seconds": self.seconds, "correlations": self.correlations}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        self.clock = time.perf_counter()
        return self.seconds[-1] > self.time_limit


def peak_memory() -> float:
    """Most memory that this process has held so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
