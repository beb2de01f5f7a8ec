"""Tuning in line on the simulated microscope: do the settings converge, and is the picture in time?

The microscope starts 100 Å and 5 degrees wrong and drifts from scan to scan. The tuner gets its
rows no sooner than an instrument with a dwell time of 1 ms has them, makes a picture after a
quarter of each scan and one at its end, and proposes the settings of the next. Printed are, for
every seed and scan, how far the actual settings are from the target, and how long after the last
row the picture was there, against the duration of the scan: by the clock, and in processor time,
which is what a clock shows with one thread on a machine that does nothing else.

    python benchmarks/inline.py --seeds 5 --json inline.jsonl
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
from reporting import machine, say

import hs_autoptycho
from hs_autoptycho.data import SimulatedMicroscope, phase_correlation

TARGET = {"defocus": 200.0, "scan_rotation": 0.0, "scan_step": 0.7}
# one slice in the middle of the bilayer has so much less defocus than its first plane of atoms
MIDDLE = 4.65
# Converged: Å and degrees.
CLOSE = {"defocus": 10.0, "scan_rotation": 0.5}


class Instrument:
    """The microscope as the tuner sees it, with a clock and the truth beside it."""

    def __init__(self, microscope: SimulatedMicroscope):
        self.microscope = microscope
        self.last = None  # the last scan as a signal: the tuner never sees it
        self.over = 0.0  # when its last row was there
        self.worked = 0.0  # processor seconds until it was handed over

    def __call__(self, settings: dict) -> Iterator[np.ndarray]:
        self.last = self.microscope.acquire(settings)
        rows = self.last.data
        start = time.perf_counter()
        row_time = rows.shape[1] * self.microscope.dwell_time
        self.over = start + len(rows) * row_time
        for number, row in enumerate(rows, 1):
            time.sleep(max(0.0, start + number * row_time - time.perf_counter()))
            self.worked = time.process_time()
            yield row

    @property
    def truth(self):
        return self.last.metadata.Simulation


def one_seed(seed: int, side: int, n_scans: int) -> list[dict]:
    """Scans of one microscope; the stop rule is noted but not followed."""
    settings = {"scan_shape": (side, side)}
    instrument = Instrument(SimulatedMicroscope(settings=settings, random_state=seed))
    tuner = hs_autoptycho.PtychographyTuner(
        target=TARGET, scan_shape=(side, side), beam_energy=80, reciprocal_pixel=0.0625
    )
    pictures: list[tuple[float, float]] = []

    def shown(*_) -> None:
        after = time.perf_counter() - instrument.over
        pictures.append((after, time.process_time() - instrument.worked))

    out = []
    for number in range(n_scans):
        pictures.clear()
        asked = tuner.propose().settings
        tuner.run(instrument(asked), settings=asked, n_scans=1, callback=shown)
        ready = time.perf_counter(), time.process_time()
        recording, truth = tuner.recordings[-1], instrument.truth
        proposal = tuner.propose()
        out.append(
            {
                "seed": seed,
                "scan": number + 1,
                "defocus": truth.defocus - MIDDLE - TARGET["defocus"],
                "scan_rotation": truth.scan_rotation - TARGET["scan_rotation"],
                "measured": {k: [v.value, v.error] for k, v in recording.actual.items()},
                "score": recording.score,
                "correlation": phase_correlation(recording.picture, instrument.last),
                "gain": proposal.gain,
                "gain_error": proposal.gain_error,
                "stop": tuner.should_stop(),
                "scan_seconds": side * side * instrument.microscope.dwell_time,
                "first_picture": pictures[0][0],
                "picture": pictures[-1][0],
                "picture_cpu": pictures[-1][1],
                "everything": ready[0] - instrument.over,
                "everything_cpu": ready[1] - instrument.worked,
                "seconds": recording.seconds,
            }
        )
        say(json.dumps(out[-1]))
    return out


def report(results: list[dict]) -> str:
    """Tables of what was measured."""
    lines = [
        "How far the actual settings are from the target (defocus in Å, rotation in degrees):",
        "",
    ]
    seeds = sorted({r["seed"] for r in results})
    n_scans = max(r["scan"] for r in results)
    lines.append("seed  " + "".join(f"{f'scan {n + 1}':>16}" for n in range(n_scans)) + "  stops")
    for seed in seeds:
        own = [r for r in results if r["seed"] == seed]
        cells = [f"{r['defocus']:+.1f} / {r['scan_rotation']:+.2f}" for r in own]
        stop = next((r["scan"] for r in own if r["stop"]), None)
        when = "not" if stop is None else f"after {stop}"
        lines.append(f"{seed:<6}" + "".join(f"{cell:>16}" for cell in cells) + f"  {when}")

    def close(r: dict) -> bool:
        return all(abs(r[name]) <= limit for name, limit in CLOSE.items())

    last = [r for r in results if r["scan"] == n_scans]
    good = sum(close(r) for r in last)
    lines += [
        "",
        f"Within {CLOSE['defocus']:g} Å and {CLOSE['scan_rotation']:g} degrees at scan {n_scans}: "
        f"{good} of {len(last)} seeds; of all scans after the first: "
        f"{sum(close(r) for r in results if r['scan'] > 1)} of "
        f"{sum(r['scan'] > 1 for r in results)}.",
    ]
    off = {n: np.array([r["measured"][n] for r in results]) for n in CLOSE}
    true = {n: np.array([r[n] + TARGET[n] for r in results]) for n in CLOSE}
    rms = {n: np.sqrt(np.mean((off[n][:, 0] - true[n]) ** 2)) for n in CLOSE}
    lines.append(
        f"Measured less true, root mean square: {rms['defocus']:.2f} Å, "
        f"{rms['scan_rotation']:.2f} degrees; standard errors given: "
        f"{off['defocus'][:, 1].mean():.2f} Å, {off['scan_rotation'][:, 1].mean():.2f} degrees."
    )
    scores = [[r["score"] for r in results if r["scan"] == n + 1] for n in range(n_scans)]
    lines.append(
        "Score (1 − Fourier ring correlation of halves), mean by scan: "
        + ", ".join(f"{np.mean(s):.3f}" for s in scores)
    )
    scan = results[0]["scan_seconds"]
    lines += ["", f"Seconds after the last row, against {scan:.2f} s of a scan (median, ratio):"]
    for name, what in (
        ("picture", "picture"),
        ("everything", "picture, trials, score, and a picture with what they gave"),
    ):
        for key, clock in ((name, "by the clock"), (f"{name}_cpu", "of processor time")):
            for which, some in (("first scan", 1), ("later ones", 2)):
                own = [r[key] for r in results if min(r["scan"], 2) == some]
                middle = np.median(own) if own else np.nan
                lines.append(f"  {what}, {clock}, {which}: {middle:.2f} ({middle / scan:.2f})")
    first = np.array([r["first_picture"] for r in results]) + scan
    lines.append(f"  first picture, after the scan's beginning: median {np.median(first):.2f}")
    lines.append(f"{numba.get_num_threads()} threads; {machine()}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scans", type=int, default=5)
    parser.add_argument("--side", type=int, default=64, help="positions along each axis")
    parser.add_argument("--json", type=Path, help="where the results go, a line of JSON each scan")
    options = parser.parse_args()
    # numba compiles what is not in its cache
    one_seed(1000, 24, 1)
    results = []
    for seed in range(options.seeds):
        results += one_seed(seed, options.side, options.scans)
    if options.json is not None:
        options.json.write_text("".join(json.dumps(r) + "\n" for r in results), encoding="utf-8")
    say(report(results))


if __name__ == "__main__":
    main()
