"""The section ``memory`` of reliability.py: a scan that is larger than memory, through all methods.

The scan is made on disk, not compressed, in float32: a specimen of two domains, phase gratings
whose period is a whole number of scan steps, so that the patterns of one chunk are those of every
other chunk of the same domain, and ptychography and clustering have something to find. Each method
runs in a process of its own, which is held to the limit: RLIMIT_DATA and RLIMIT_AS, where the
kernel keeps them (Linux), and the peak of its resident memory is measured. What was planned is read
from the log. The file is deleted at the end, also where a method fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from reporting import machine, say, table, versions

DESCRIPTION = "a scan larger than memory through all methods, in processes held to a limit"
METHODS = ("cluster_hierarchical", "estimate_geometry", "reconstruct_ptycho", "autotune_ptycho")
# Sides of a chunk in positions and of the detector in pixels; the specimen's period in positions.
CHUNK, DETECTOR, PERIOD = 32, 128, 32
# Realisations of the noise of a chunk that take turns.
DRAWS = 2
# What is left free on the disk beside the file, in bytes.
SPARE_DISK = 4e9
OPTICS = {"beam_energy": 80.0, "convergence_angle": 21.0}
# in Å, Å, pixels, electrons a pattern
STEP, DEFOCUS, RADIUS, ELECTRONS = 0.5, 250.0, 16.0, 3000
# Waves of a domain's phase: cycles a period (y, x), and the amplitude in radians. The last one
# scatters beyond the bright-field disk, into one that tells the domains apart at every position.
DOMAINS = {
    0: [(5, 0, 0.2), (0, 5, 0.2), (18, 0, 0.3)],
    1: [(4, 3, 0.2), (-3, 4, 0.2), (0, 18, 0.3)],
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gb", type=float, default=32.0, help="of the scan, on disk")
    parser.add_argument("--limit", type=float, default=6.0, help="of a process, in GB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all")
    parser.add_argument("--task", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)


def run(arguments) -> int:
    if arguments.task:
        _task(arguments.task, arguments.file, arguments.limit * 1e9)
        return 0
    side = CHUNK * 2 * max(1, round(np.sqrt(arguments.gb * 1e9 / 4) / DETECTOR / CHUNK / 2))
    size = 4 * (side * DETECTOR) ** 2
    arguments.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(arguments.folder).free
    if size + SPARE_DISK > free:
        raise SystemExit(
            f"The scan takes {size / 1e9:.1f} GB and {SPARE_DISK / 1e9:.0f} GB have to be left, "
            f"but {arguments.folder} has {free / 1e9:.1f} GB: choose another --folder, or less "
            "with --gb."
        )
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="larger_than_memory_") as folder:
        start = time.perf_counter()
        file = make_scan(Path(folder), side)
        say(f"made {size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s")
        rows = [_measure(method, file, arguments) for method in arguments.method or METHODS]
    report(rows, size, arguments.limit)
    return sum(not row["right"] for row in rows)


# --- the scan -----------------------------------------------------------------------------------


def _wavelength() -> float:
    volts = OPTICS["beam_energy"] * 1e3
    return 12.2643 / np.sqrt(volts * (1 + 0.978476e-6 * volts))


def _reciprocal_pixel() -> float:
    return 1e-3 * OPTICS["convergence_angle"] / _wavelength() / RADIUS


def phase_of(domain: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Phase of a domain in radians at places in Å from the first position."""
    period = PERIOD * STEP
    return sum(a * np.cos(2 * np.pi * (h * y + k * x) / period) for h, k, a in DOMAINS[domain])


def domain_of(side: int) -> np.ndarray:
    """Which domain each position belongs to, (y, x): two of each, like a chessboard."""
    half = np.arange(side) >= side // 2
    return (half[:, None] ^ half).astype(int)


def chunk_intensities(domain: int) -> np.ndarray:
    """Expected counts of the patterns of a chunk, (CHUNK, CHUNK, DETECTOR, DETECTOR)."""
    k = np.fft.fftfreq(DETECTOR, 1 / DETECTOR) * _reciprocal_pixel()
    squared = k[:, None] ** 2 + k**2
    aperture = squared <= (RADIUS * _reciprocal_pixel()) ** 2
    # C10 = -defocus
    chi = -np.pi * _wavelength() * DEFOCUS * squared
    probe = np.fft.fftshift(np.fft.ifft2(aperture * np.exp(-1j * chi)))
    pixel = 1 / (DETECTOR * _reciprocal_pixel())
    grid = (np.arange(DETECTOR) - DETECTOR // 2) * pixel
    out = np.empty((CHUNK, CHUNK, DETECTOR, DETECTOR))
    for row in range(CHUNK):
        for column in range(CHUNK):
            phase = phase_of(domain, grid[:, None] + row * STEP, grid + column * STEP)
            wave = np.fft.fft2(np.fft.ifftshift(probe * np.exp(1j * phase)))
            out[row, column] = np.fft.fftshift(np.abs(wave) ** 2)
    return out * (ELECTRONS / out[0, 0].sum())


def make_scan(folder: Path, side: int) -> Path:
    """The scan as HyperSpy saves a lazy signal, without compression."""
    import dask.array as da
    import hyperspy.api as hs
    import numcodecs

    generator = np.random.default_rng(0)
    draws = []
    for domain in DOMAINS:
        expected = chunk_intensities(domain)
        draws.append([generator.poisson(expected).astype(np.float32) for _ in range(DRAWS)])
    n = side // CHUNK

    def chunk(block_info=None):
        row, column = block_info[None]["chunk-location"][:2]
        which = (row * 7 + column * 3) % DRAWS
        return draws[int((row >= n // 2) ^ (column >= n // 2))][which]

    chunks = ((CHUNK,) * n, (CHUNK,) * n, (DETECTOR,), (DETECTOR,))
    data = da.map_blocks(chunk, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * 4, "f4"))
    pixel = _reciprocal_pixel()
    axes = [
        *({"name": a, "size": side, "scale": STEP, "units": "Å", "navigate": True} for a in "yx"),
        *(
            {"name": a, "size": DETECTOR, "scale": pixel, "units": "1/Å", "navigate": False}
            for a in ("ky", "kx")
        ),
    ]
    signal = hs.signals.Signal2D(data, axes=axes).as_lazy()
    for name in OPTICS:
        signal.metadata.set_item(f"Acquisition_instrument.TEM.{name}", OPTICS[name])
    file = folder / "scan.zspy"
    # HyperSpy takes no compressor for its default one; this one copies
    store = numcodecs.Blosc(cname="lz4", clevel=0, shuffle=numcodecs.Blosc.NOSHUFFLE)
    signal.save(file, compressor=store, show_progressbar=False)
    return file


# --- a method in a process of its own -----------------------------------------------------------


def _status(name: str, process: int | str = "self") -> float:
    """A number of /proc/PID/status in bytes; 0 where the process is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(x.split()[1]) * 1024 for x in lines if x.startswith(name + ":")), 0.0)


def _read() -> int:
    """Bytes that this process has read."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _task(method: str, file: Path, limit: float) -> None:
    """Run a method under the limit; a line of JSON of what came of it."""
    import logging

    import hyperspy.api as hs

    import hs_autoptycho

    hs.preferences.General.show_progressbar = False
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        resource.setrlimit(kind, (int(limit), int(limit)))
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    hs.set_log_level("WARNING")
    logging.getLogger("hs_autoptycho").setLevel("INFO")
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("hs_autoptycho").addHandler(handler)
    signal = hs.load(file, lazy=True)
    start, read = time.perf_counter(), _read()
    result: dict = {}
    if method == "cluster_hierarchical":
        clusters = signal.cluster_hierarchical()
        result |= _judge_clusters(clusters, signal.data.shape[0])
    elif method == "estimate_geometry":
        found = hs_autoptycho.estimate_geometry(signal)
        defocus = np.nan if found.defocus is None else found.defocus
        result["found"] = f"defocus {defocus:.1f} Å (true: {DEFOCUS:g})"
        result["right"] = bool(abs(defocus - DEFOCUS) < 0.1 * DEFOCUS)
    elif method == "reconstruct_ptycho":
        object_ = signal.reconstruct_ptycho(defocus=DEFOCUS, scan_rotation=0.0, n_iterations=2)
        result |= _judge_object(object_, signal.data.shape[0])
    else:
        object_ = signal.autotune_ptycho(
            {"defocus": (0.7 * DEFOCUS, 1.3 * DEFOCUS)},
            fixed={"scan_rotation": 0.0, "detector_flip": "none"},
            n_trials=3,
            n_trial_iterations=1,
            n_iterations=2,
        )
        result |= _judge_object(object_, signal.data.shape[0])
        result["found"] += f", defocus {object_.best_parameters['defocus']:.0f} Å"
    result["seconds"] = time.perf_counter() - start
    result["read"] = _read() - read
    plan = next((line for line in said if line.startswith("Plan: ")), "")
    result["plan"] = plan
    result["resident"] = _status("VmHWM")
    result["address_space"] = _status("VmPeak")
    say(json.dumps(result))


def _judge_clusters(clusters, side: int) -> dict:
    from sklearn.metrics import adjusted_rand_score

    agreement = adjusted_rand_score(domain_of(side).ravel(), clusters.leaves.data.ravel())
    return {
        "found": f"{clusters.n_clusters} clusters, ARI {agreement:.3f}",
        "right": bool(agreement > 0.9),
    }


def _judge_object(object_, side: int) -> dict:
    """Correlation of the phase with the truth within each domain; the lower one counts."""
    phase = np.angle(object_.data.squeeze())
    x, y = (object_.axes_manager[name].axis for name in ("x", "y"))
    length = side * STEP
    worst = 1.0
    for domain, (top, left) in {0: (0.15, 0.15), 1: (0.15, 0.65)}.items():
        rows = np.flatnonzero((y > top * length) & (y < (top + 0.2) * length))[:1024]
        columns = np.flatnonzero((x > left * length) & (x < (left + 0.2) * length))[:1024]
        seen = phase[np.ix_(rows, columns)]
        # the probe may have moved a little, and the object the other way
        best = max(
            np.corrcoef(
                seen.ravel(), phase_of(domain, y[rows][:, None] + dy, x[columns] + dx).ravel()
            )[0, 1]
            for dy in np.linspace(-0.6, 0.6, 7)
            for dx in np.linspace(-0.6, 0.6, 7)
        )
        worst = min(worst, float(best))
    return {"found": f"correlation {worst:.3f}, {object_.status}", "right": worst > 0.8}


# --- the process that watches it ------------------------------------------------------------------


def _measure(method: str, file: Path, arguments) -> dict:
    command = [sys.executable, str(Path(__file__).with_name("reliability.py")), "memory"]
    command += ["--task", method, "--file", str(file), "--limit", str(arguments.limit)]
    scratch = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="temporary_"))
    environment = {**os.environ, "TMPDIR": str(scratch), "MPLBACKEND": "Agg"}
    start = time.perf_counter()
    row = {"method": method, "peak": 0.0, "temporary": 0, "right": False, "found": ""}
    try:
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
            )
            watcher = threading.Thread(target=_watch, args=(process, scratch, row), daemon=True)
            watcher.start()
            out, _ = process.communicate()
            watcher.join()
            said.seek(0)
            text = said.read()
        if process.returncode:
            row["found"] = f"ended with {process.returncode}: {text.strip().splitlines()[-1]}"
            row["seconds"] = time.perf_counter() - start
        else:
            row |= json.loads(out.splitlines()[-1])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    say(text[-6000:])
    say(json.dumps(row))
    return row


def _watch(process, scratch: Path, row: dict) -> None:
    """Peaks of the resident memory of a process with its children, and of its temporary files."""
    while process.poll() is None:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except OSError:
            children = []
        row["peak"] = max(row["peak"], sum(_status("VmRSS", p) for p in (process.pid, *children)))
        used = 0
        for found in scratch.rglob("*"):
            try:
                used += found.stat().st_size
            except OSError:
                continue
        row["temporary"] = max(row["temporary"], used)
        time.sleep(0.2)


def report(rows: list[dict], size: float, limit: float) -> None:
    lines = []
    for row in rows:
        plan = row.get("plan", "")
        planned = re.search(r"memory up to ([\d.]+) GB", plan)
        passes = re.search(r"at most ([\d.]+) passes", plan)
        lines.append(
            [
                f"`{row['method']}`",
                f"{size / 1e9:.1f}",
                f"{limit:.1f}",
                f"{max(row['peak'], row.get('resident', 0)) / 1e9:.2f}",
                planned[1] if planned else "not logged",
                f"{row.get('address_space', 0) / 1e9:.2f}",
                f"{row['temporary'] / 1e9:.3f}",
                f"{row.get('read', 0) / size:.2f}",
                passes[1] if passes else "not logged",
                f"{row.get('seconds', 0):.0f}",
                ("right: " if row["right"] else "WRONG: ") + row["found"],
            ]
        )
    head = [
        "method", "GB on disk", "limit, GB", "peak resident, GB", "planned, GB",
        "address space, GB", "temporary disk, GB", "passes read", "planned at most", "s", "result",
    ]  # fmt: skip
    say(table(head, lines))
    threads = {name: os.environ.get(name) for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")}
    say(f"\n{machine()}; {threads}")
    say(versions("hs_autoptycho", "hyperspy", "dask", "zarr", "numpy", "numba"))
