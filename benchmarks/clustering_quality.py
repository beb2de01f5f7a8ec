"""How well scans with a known truth are clustered, without being told the number of clusters.

    python benchmarks/clustering_quality.py [--seeds 10] [--six-grains FILE] [--out FILE]

simulates the WS2-WSe2 junction and the SnSe domains with 300, 100, 30 and 10 electrons a pattern,
and clusters them; then scans without domains (decoys), which have to stay one cluster. The seed is
that of the simulation and of the clustering. `nbed_six_grains.npz` is a simulated scan of others
(aamirmalik-dr/4d-stem-orientation-mapping, MIT licence), used if it is found.

Labels are compared with the deepest level of the truth that the dose can show. An observer says
which: it knows the true mean pattern of every domain and tells any two of them apart by the Poisson
likelihood of a single pattern, without the direct beam. A level counts if it is right in 73 % of
the patterns (odds of e to 1) of the two domains of different clusters that are hardest to tell
apart, in the mean over all seeds. Where that line is drawn decides one case: at 30 electrons the
observer is right in 74.5 % on level 2 of SnSe and in 71.7 % on level 2 of the junction. The table
therefore has the index for every level. A clustering can do better than the observer, as it looks
at a pattern's neighbours too.

Beside it, TOLD the number of clusters of that level: HyperSpy's decomposition and cluster_analysis,
on the patterns as they are and with the detector binned by 4, which suits it better; and the recipe
of Shi et al. (npj Comput. Mater. 8, 114, 2022), k-means of the pixels that vary most over the scan.

Rows are written as they come. With --resume, those that the --json file has are kept.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
import warnings
from itertools import combinations
from pathlib import Path

import hyperspy.api as hs
import numpy as np
from hyperspy.signals import Signal2D
from reporting import machine, say, table, versions
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from hs_autoptycho.data import domain_purity, snse_domains, true_domains, ws2_wse2_junction
from hs_autoptycho.data._nanobeam_options import disk_radius

SCANS = {"junction": ws2_wse2_junction, "SnSe": snse_domains}
ELECTRONS = 300, 100, 30, 10
SIX_GRAINS = Path(__file__).parents[2] / "shared" / "data" / "nbed_six_grains.npz"
DECOYS = {
    "structureless": {},
    "descan": {"descan": (3, -2)},
    "thickness ramp": {"thickness_ramp": 0.5},
    "intensity ramp": {"intensity_ramp": 0.5},
    "hot pixels": {"hot_pixels": 12},
}
N_DECOYS = 20
# the observer's part of right answers from which on a level counts as one that the dose can show
SHOWN = 0.73
INTERIOR = 0.95
PEERS = {
    "hyperspy": "HyperSpy, told k",
    "hyperspy_binned": "HyperSpy, binned ×4, told k",
    "paper": "std mask + k-means, told k",
}
# part of the pixels that the recipe of the paper keeps
DEVIATING = 0.03


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--peer-seeds", type=int, default=3, help="for what is told k")
    parser.add_argument("--decoys", type=int, default=N_DECOYS, help="seeds of each decoy")
    parser.add_argument("--six-grains", type=Path, default=SIX_GRAINS)
    parser.add_argument("--only", nargs="+", choices=[*SCANS, "grains", "decoys"])
    parser.add_argument("--out", type=Path, help="where to write the tables")
    parser.add_argument("--json", type=Path, help="where to write every number")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    hs.set_log_level("ERROR")
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    wanted = arguments.only or [*SCANS, "grains", "decoys"]
    record = Record(arguments.json, arguments.resume)
    for name in SCANS:
        if name in wanted:
            for electrons in ELECTRONS:
                run_scan(record, name, electrons, arguments)
    if "grains" in wanted and arguments.six_grains.exists():
        run_grains(record, arguments)
    if "decoys" in wanted:
        for name in DECOYS:
            run_decoy(record, name, arguments.decoys)
    report = write_report(record.rows, arguments, time.perf_counter() - start)
    say("\n" + report)
    if arguments.out:
        arguments.out.write_text(report + "\n")
    return 0


class Record:
    """Rows, written to a file as they come."""

    def __init__(self, file: Path | None, resume: bool):
        self.file = file
        self.rows: list[dict] = []
        if resume and file is not None and file.exists():
            self.rows = json.loads(file.read_text())

    def has(self, **key) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, **row) -> None:
        self.rows.append(row)
        say(json.dumps(row))
        if self.file is not None:
            self.file.write_text(json.dumps(self.rows, indent=1))


def run_scan(record: Record, name: str, electrons: float, arguments) -> None:
    """All seeds of one scan with one dose."""
    seeds = range(arguments.seeds)
    if all(record.has(scan=name, dose=electrons, seed=seed) for seed in seeds):
        return
    observer = Observer(SCANS[name](electrons=None), electrons)
    right = [
        observer.right_answers(SCANS[name](electrons=electrons, random_state=seed).data)
        for seed in seeds
    ]
    shown = np.flatnonzero(np.mean(right, axis=0) >= SHOWN)
    level = max(shown.tolist(), default=0)
    truth = observer.truth[level]
    for seed in seeds:
        if record.has(scan=name, dose=electrons, seed=seed):
            continue
        scan = SCANS[name](electrons=electrons, random_state=seed)
        row = {
            "scan": name, "dose": electrons, "seed": seed, "observer": right[seed],
            "level": level + 1, "k": len(np.unique(truth)),
        }  # fmt: skip
        row |= run_tree(scan, seed, truth, observer.interior, observer.truth)
        if seed < arguments.peer_seeds:
            row |= run_peers(scan, row["k"], ~observer.used, seed, truth, observer.interior)
        record.add(**row)


def run_grains(record: Record, arguments) -> None:
    """The scan with six grains; the seed is that of the clustering alone."""
    with np.load(arguments.six_grains) as file:
        data, truth, purity = file["data"], file["grain_id"], file["purity"]
    scan = Signal2D(data)
    interior = purity > INTERIOR
    # the direct beam of these patterns: what is above half its height, as in the other scans
    middle = data.sum((0, 1), dtype=float)
    radius = np.sqrt(np.count_nonzero(middle > 0.5 * middle.max()) / np.pi)
    beam = beam_mask(data.shape[2:], np.unravel_index(middle.argmax(), middle.shape), radius)
    for seed in range(arguments.seeds):
        if record.has(scan="six grains", seed=seed):
            continue
        row = {"scan": "six grains", "dose": 300, "seed": seed, "k": len(np.unique(truth))}
        row |= run_tree(scan, seed, truth, interior)
        if seed < arguments.peer_seeds:
            row |= run_peers(scan, row["k"], beam, seed, truth, interior)
        record.add(**row)


def run_decoy(record: Record, name: str, n_seeds: int) -> None:
    for seed in range(n_seeds):
        if record.has(scan=name, seed=seed):
            continue
        scan = ws2_wse2_junction(
            single_domain="WSe2 flat", electrons=300.0, random_state=seed, **DECOYS[name]
        )
        row = run_tree(scan, seed)
        record.add(scan=name, seed=seed, **row)


def run_tree(scan, seed: int, truth=None, interior=None, levels=()) -> dict:
    """Cluster without being told anything."""
    start = time.perf_counter()
    clusters = scan.cluster_hierarchical(random_state=seed, show_progressbar=False)
    seconds = time.perf_counter() - start
    row = {"leaves": clusters.n_clusters, "seconds": seconds}
    if truth is not None:
        labels = clusters.leaves.data
        row["tree"] = scores(truth, labels, interior)
        row["tree_by_level"] = by_level(levels, [labels] * len(levels))
    return row


def run_peers(scan, k: int, beam, seed: int, truth, interior) -> dict:
    """What others make of a scan when they are told the number of clusters."""
    result = {}
    for name in PEERS:
        start = time.perf_counter()
        if name == "paper":
            labels = paper_labels(scan.data, k, beam, seed)
        else:
            labels = hyperspy_labels(scan, k, beam, seed, 4 if name == "hyperspy_binned" else 1)
        result[name] = scores(truth, labels.reshape(truth.shape), interior)
        result[name + "_seconds"] = time.perf_counter() - start
    return result


def scores(truth: np.ndarray, labels: np.ndarray, interior: np.ndarray) -> list[float]:
    """Adjusted Rand index over all positions and over those inside a domain."""
    return [
        float(adjusted_rand_score(truth.ravel(), labels.ravel())),
        float(adjusted_rand_score(truth[interior], labels[interior])),
    ]


def by_level(truth, labels) -> list[float]:
    """Adjusted Rand index at each level."""
    pairs = zip(truth, labels, strict=True)
    return [float(adjusted_rand_score(t.ravel(), found.ravel())) for t, found in pairs]


class Observer:
    """Tells two domains apart by the likelihood of a single pattern.

    Parameters
    ----------
    noiseless
        The scan without noise, from which mean patterns of the domains are taken: means over the
        positions inside each.
    electrons
        Mean number of electrons in a pattern of the scans to look at.
    """

    def __init__(self, noiseless, electrons: float):
        domains = true_domains(noiseless)
        self.truth = domains.data
        self.interior = domain_purity(noiseless).data > INTERIOR
        p = noiseless.metadata.Simulation.as_dictionary()
        shape = noiseless.data.shape[2:]
        self.used = ~beam_mask(shape, [size // 2 for size in shape], disk_radius(p))
        patterns = noiseless.data[..., self.used]
        deepest = self.truth[-1]
        means = [
            patterns[(deepest == domain) & self.interior].mean(0, dtype=float)
            for domain in np.unique(deepest)
        ]
        self.means = np.maximum(electrons * np.array(means), 1e-12)
        # the label of each domain at every level
        places = [np.argmax(deepest == domain) for domain in np.unique(deepest)]
        self.parents = self.truth.reshape(len(self.truth), -1)[:, places]

    def right_answers(self, data: np.ndarray) -> list[float]:
        """At each level, the part of right answers for the two domains hardest to tell apart."""
        counts = data[..., self.used].reshape(-1, self.means.shape[1]).astype(np.float32)
        likelihood = counts @ np.log(self.means).T.astype(np.float32) - self.means.sum(1)
        names, true = np.unique(self.truth[-1], return_inverse=True)
        true = true.ravel()
        worst = [1.0] * len(self.truth)
        for a, b in combinations(range(len(names)), 2):
            second = likelihood[:, b] > likelihood[:, a]
            part = (np.mean(second[true == b]) + np.mean(~second[true == a])) / 2
            for level, parents in enumerate(self.parents):
                if parents[a] != parents[b]:
                    worst[level] = min(worst[level], float(part))
        return worst


def beam_mask(shape, center, radius: float) -> np.ndarray:
    """True for the direct beam and somewhat more."""
    row, column = np.indices(shape)
    return np.hypot(row - center[0], column - center[1]) < 1.6 * radius + 2


def hyperspy_labels(scan, k: int, beam: np.ndarray, seed: int, box: int) -> np.ndarray:
    """Decomposition scaled for Poisson noise, then k-means of ten components."""
    patterns = scan.deepcopy()
    patterns.change_dtype("float32")
    if box > 1:
        patterns = patterns.rebin(scale=(1, 1, box, box))
        beam = beam.reshape(beam.shape[0] // box, box, -1, box).any((1, 3))
    with contextlib.redirect_stdout(io.StringIO()):
        patterns.decomposition(
            normalize_poissonian_noise=True,
            algorithm="SVD",
            output_dimension=10,
            signal_mask=beam,
            random_state=seed,
        )
        patterns.cluster_analysis(
            "decomposition",
            n_clusters=k,
            number_of_components=10,
            algorithm="kmeans",
            n_init=10,
            random_state=seed,
        )
    return np.argmax(patterns.learning_results.cluster_labels, axis=0)


def paper_labels(data: np.ndarray, k: int, beam: np.ndarray, seed: int) -> np.ndarray:
    """k-means of the pixels outside the direct beam with the highest standard deviation."""
    counts = data[..., ~beam].reshape(-1, np.count_nonzero(~beam)).astype(np.float32)
    deviation = counts.std(0)
    chosen = deviation >= np.quantile(deviation, 1 - DEVIATING)
    return KMeans(k, n_init=10, random_state=seed).fit_predict(counts[:, chosen])


def write_report(rows: list[dict], arguments, seconds: float) -> str:
    """Tables of what was found."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["scan"], row.get("dose")), []).append(row)
    lines, decoys = [], []
    for (name, dose), group in groups.items():
        if name in DECOYS:
            single = sum(row["leaves"] == 1 for row in group)
            decoys.append([name, f"{single} of {len(group)}"])
            continue
        exact = sum(row["leaves"] == row["k"] for row in group)
        near = sum(abs(row["leaves"] - row["k"]) <= 1 for row in group)
        told = f"{group[0]['level']} " if "level" in group[0] else ""
        told += f"(k={group[0]['k']})"
        line = [name, dose, mean_by_level(group, "observer"), told]
        line += [mean_scores(group, "tree"), mean_by_level(group, "tree_by_level")]
        line += [f"{exact} and {near} of {len(group)}"]
        line += [mean_scores(group, peer) for peer in PEERS]
        line += [f"{np.mean([row['seconds'] for row in group]):.1f} s"]
        lines.append(line)
    head = ["scan", "electrons", "observer right, by level", "deepest level shown"]
    head += [
        "`cluster_hierarchical`",
        "the same by level",
        "leaves exact, within 1",
        *PEERS.values(),
        "time",
    ]
    parts = []
    if lines:
        parts.append(table(head, lines))
        peer_seeds = max(sum(peer in row for row in g) for g in groups.values() for peer in PEERS)
        parts.append(
            "Mean adjusted Rand index over all positions, and in brackets over those inside a "
            f"domain (purity above {INTERIOR}), against the deepest level for which the observer "
            f"is right in {SHOWN:.0%} of single patterns. What is told k has {peer_seeds} seeds. "
            "Time is that of `cluster_hierarchical`."
        )
    if decoys:
        parts.append(table(["decoy, 300 electrons", "one cluster"], decoys))
    threads = ", ".join(
        f"{name}={os.environ[name]}"
        for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
        if name in os.environ
    )
    parts.append(
        f"{machine()}{'; ' + threads if threads else ''}; "
        + versions("hs_autoptycho", "hyperspy", "numpy", "scikit-learn")
        + f"; {seconds:.0f} s in all."
    )
    return "\n\n".join(parts)


def mean_scores(group: list[dict], name: str) -> str:
    values = [row[name] for row in group if name in row]
    if not values:
        return ""
    everywhere, inside = np.mean(values, axis=0)
    return f"{everywhere:.3f} ({inside:.3f})"


def mean_by_level(group: list[dict], name: str) -> str:
    if not group[0].get(name):
        return ""
    return " / ".join(f"{value:.2f}" for value in np.mean([row[name] for row in group], axis=0))


if __name__ == "__main__":
    sys.exit(main())
