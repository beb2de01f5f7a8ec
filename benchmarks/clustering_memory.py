"""Cluster a scan that is larger than memory: peak memory, passes over the file, time.

The scan is a simulated WS2-WSe2 junction of float32, 17 GB by default (256 × 256 positions, 256 ×
256 detector pixels), made on disk where it is not there yet: a .zspy file as HyperSpy saves a lazy
signal, in the signal's own chunks, but not compressed, so that reading is what costs.

    python benchmarks/clustering_memory.py --path DIR [--scan 256] [--detector 256] [--out FILE]

Every line of the table is a process of its own. Peak memory is its largest resident memory less
that after the imports. "Two sums" is the total of all counts by dask, twice, from the same file:
what two bare passes cost. It runs in turns with the clustering, as the file may move into the page
cache meanwhile, and times are compared with the mean of its runs. Passes are the bytes that a
process read (rchar in /proc/self/io, so Linux only) over half of those that the two sums read.
HyperSpy's own route out of core (incremental decomposition, then cluster_analysis) is told the
number of clusters, and gets a part of the scan, from its middle, of a size that it can do.

Exits with 1 if the clustering needs more than 1.5 GB, 2.2 passes, or twice the time of two sums.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from reporting import machine, say, table, versions

GOALS = {"peak_gb": 1.5, "passes": 2.2, "times_two_sums": 2.0}
TASKS = {
    "sums": "two sums",
    "cluster": "`cluster_hierarchical`",
    "hyperspy": "HyperSpy, incremental SVD + `cluster_analysis`, told k",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("."), help="where the file is, or goes")
    parser.add_argument("--scan", type=int, default=256, help="positions along a side")
    parser.add_argument("--detector", type=int, default=256, help="pixels along a side")
    parser.add_argument("--electrons", type=float, default=300.0, help="a pattern")
    parser.add_argument("--crop", type=int, default=64, help="side of the part for HyperSpy")
    parser.add_argument("--chunk", type=int, help="positions along a chunk's side; see above")
    parser.add_argument("--out", type=Path, help="where to write the table")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        return run_task(arguments.task, arguments.file, arguments.crop)

    file = make_scan(arguments)
    crop = min(arguments.crop, arguments.scan)
    rows = []
    order = [("sums", 0), ("cluster", 0), ("sums", 0), ("cluster", 0), ("sums", crop)]
    order += [("cluster", crop), ("hyperspy", crop)]
    for task, part in order:
        row = measure(task, file, part)
        rows.append(row)
        say(json.dumps(row))
    report = write_report(rows, arguments)
    missed = [row for row in rows if row.get("missed")]
    for row in missed:
        say(f"MISSED by {row['task']}: {row['missed']}")
    say(report)
    return 1 if missed else 0


def make_scan(arguments) -> Path:
    """The file; made if it is not there."""
    name = f"junction_{arguments.scan}_{arguments.detector}_{arguments.electrons:g}"
    if arguments.chunk:
        name += f"_chunks{arguments.chunk}"
    file = arguments.path / f"{name}.zspy"
    if file.exists():
        return file
    import hyperspy.api as hs
    import numcodecs

    from hs_autoptycho.data import ws2_wse2_junction

    hs.set_log_level("ERROR")
    start = time.perf_counter()
    scan = ws2_wse2_junction(
        scan_shape=(arguments.scan,) * 2,
        detector_shape=(arguments.detector,) * 2,
        electrons=arguments.electrons,
        dtype="float32",
        lazy=True,
    )
    if arguments.chunk:
        scan.rechunk((arguments.chunk, arguments.chunk, -1, -1))
    # under another name until it is whole
    unfinished = arguments.path / f"{name}_unfinished.zspy"
    arguments.path.mkdir(parents=True, exist_ok=True)
    # HyperSpy takes no compressor for its default one; this one copies
    store = numcodecs.Blosc(cname="lz4", clevel=0, shuffle=numcodecs.Blosc.NOSHUFFLE)
    scan.save(unfinished, compressor=store, overwrite=True, show_progressbar=False)
    unfinished.rename(file)
    say(f"made {file} in {time.perf_counter() - start:.0f} s")
    return file


def measure(task: str, file: Path, crop: int) -> dict:
    """Run a task in a process of its own and read what it measured."""
    command = [sys.executable, __file__, "--task", task, "--file", str(file), "--crop", str(crop)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"task": task, "crop": crop, "failed": done.returncode}
    return {"task": task, "crop": crop, **json.loads(done.stdout.splitlines()[-1])}


def run_task(task: str, file: Path, crop: int) -> int:
    import resource
    import warnings

    import hyperspy.api as hs
    import numpy as np
    import sklearn.cluster  # noqa: F401

    import hs_autoptycho._clusters  # noqa: F401
    from hs_autoptycho.data import true_domains

    hs.set_log_level("ERROR")
    hs.preferences.General.show_progressbar = False
    warnings.simplefilter("ignore")
    before, read_before = _status("VmRSS"), _bytes_read()
    start = time.perf_counter()
    scan = hs.load(file, lazy=True)
    if crop:
        first = (scan.data.shape[0] - crop) // 2
        # from the edge of a chunk: HyperSpy needs more patterns in the first than components
        first -= first % scan.data.chunks[0][0]
        scan = scan.inav[first : first + crop, first : first + crop]
    labels, result = None, {}
    if task == "sums":
        result["counts"] = [float(scan.data.sum(dtype="float64").compute()) for _ in range(2)]
    elif task == "cluster":
        clusters = scan.cluster_hierarchical(show_progressbar=False)
        labels = clusters.leaves.data
    else:
        n_clusters = len(np.unique(true_domains(scan).data[-1]))
        labels = hyperspy_labels(scan, n_clusters)
    seconds = time.perf_counter() - start
    size = scan.data.size * scan.data.dtype.itemsize
    result |= {
        "seconds": seconds,
        "gigabytes": size / 1e9,
        "gigabytes_read": (_bytes_read() - read_before) / 1e9,
        "after_import_gb": before / 1e9,
        "peak_gb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9,
        "vm_hwm_gb": _status("VmHWM") / 1e9,
        "chunks": [chunk[0] for chunk in scan.data.chunks],
    }
    if labels is not None:
        from sklearn.metrics import adjusted_rand_score

        truth = true_domains(scan).data[-1]
        result["clusters"] = int(labels.max()) + 1
        result["ari"] = float(adjusted_rand_score(truth.ravel(), labels.ravel()))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def hyperspy_labels(scan, n_clusters: int):
    """What HyperSpy's own learning makes of a lazy scan."""
    import contextlib

    import numpy as np

    with contextlib.redirect_stdout(sys.stderr):
        scan.decomposition(
            normalize_poissonian_noise=True,
            algorithm="SVD",
            svd_solver="incremental",
            output_dimension=10,
            print_info=False,
        )
        scan.cluster_analysis(
            "decomposition",
            n_clusters=n_clusters,
            number_of_components=10,
            algorithm="kmeans",
            random_state=0,
        )
        memberships = scan.learning_results.cluster_labels
    shape = scan.data.shape[:2]
    return np.argmax(np.asarray(memberships), axis=0).reshape(shape)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def write_report(rows: list[dict], arguments) -> str:
    """The table; marks what misses a goal."""
    sums = {}
    for row in rows:
        if row["task"] == "sums" and "seconds" in row:
            sums.setdefault(row["crop"], []).append(row)
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append([TASKS[row["task"]], "", f"failed ({row['failed']})", *[""] * 5])
            continue
        # in turns with the clustering, some sums read from the disk what others find in memory
        bare = sums[row["crop"]]
        mean = sum(other["seconds"] for other in bare) / len(bare)
        row["times_two_sums"] = row["seconds"] / mean
        row["passes"] = row["gigabytes_read"] / (bare[0]["gigabytes_read"] / 2)
        if row["task"] == "cluster" and row["crop"] == 0:
            row["missed"] = [
                f"{name} {row[name]:.2f} > {most}"
                for name, most in GOALS.items()
                if row[name] > most
            ]
        found = f"{row['clusters']}, {row['ari']:.3f}" if "ari" in row else ""
        lines.append(
            [
                TASKS[row["task"]],
                f"{row['gigabytes']:.2f} GB",
                f"{row['peak_gb']:.2f} GB",
                f"{row['gigabytes_read']:.2f} GB",
                f"{row['passes']:.2f}",
                f"{row['seconds']:.1f} s",
                f"{row['times_two_sums']:.2f}",
                found,
            ]
        )
    head = [
        "",
        "data",
        "peak above import",
        "read",
        "passes",
        "time",
        "of two sums",
        "clusters, ARI",
    ]
    chunks = next((row["chunks"] for row in rows if "chunks" in row), None)
    report = "\n\n".join(
        [
            table(head, lines),
            f"In the order of running; chunks {chunks}, float32, not compressed. Times are over "
            "the mean of the two sums in turns. Nothing was dropped from the page cache, which may "
            "have held the file.",
            f"{machine()}; threads: NUMBA_NUM_THREADS={os.environ.get('NUMBA_NUM_THREADS')}, "
            f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}; "
            + versions("hs_autoptycho", "hyperspy", "dask", "zarr", "numpy", "scikit-learn"),
        ]
    )
    if arguments.out:
        arguments.out.write_text(report + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"report": report, "rows": rows}, indent=1))
    return report


if __name__ == "__main__":
    sys.exit(main())
