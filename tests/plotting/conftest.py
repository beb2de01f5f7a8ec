"""Small results made of formulas, without any reconstruction: the same on every machine."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.data import twisted_bilayer_mos2
from hs_autoptycho.signals import HierarchicalClusters, PtychographicObject, StrainMap

PIXEL = (0.25, 0.2)  # Å; y and x
SCAN = (8, 11)


def lattice(shape, pixel, period, turn=0.0):
    """Phase of a hexagonal lattice in rad, (y, x)."""
    y, x = np.mgrid[: shape[0], : shape[1]] * np.reshape(pixel, (2, 1, 1))
    angles = turn + np.array([0, np.pi / 3, 2 * np.pi / 3])
    waves = [np.cos(2 * np.pi / period * (np.cos(a) * x + np.sin(a) * y)) for a in angles]
    return 0.1 * np.sum(waves, axis=0)


def make_probe(shape=(30, 36), n_modes=2):
    """A defocused disk and weaker modes, (mode, y, x)."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    r2 = (y[:, None] * PIXEL[0]) ** 2 + (x * PIXEL[1]) ** 2
    first = np.exp(-r2 / 4) * np.exp(0.9j * r2)
    return np.stack(
        [first * (0.6j * (x * PIXEL[1])) ** mode / (1 + mode) for mode in range(n_modes)]
    )


def make_positions(turn=0.3):
    """A rotated scan, (positions, 2) in Å; its first position is the origin."""
    slow, fast = np.mgrid[: SCAN[0], : SCAN[1]] * 1.1
    rows = np.cos(turn) * slow - np.sin(turn) * fast
    columns = np.sin(turn) * slow + np.cos(turn) * fast
    return np.stack([rows, columns], axis=-1).reshape(-1, 2)


TRUTH = {"defocus": 310.0, "scan_rotation": -12.0}


def make_trials(n_short=14, n_full=9):
    """Short trials, then full ones with blocks and curves; one diverged, one was stopped early."""
    short = {"n_iterations": 3, "part": 0.25, "reduction": 1}
    full = {"n_iterations": 12, "part": 1.0, "reduction": 1}
    trials = []
    for number in range(n_short + n_full):
        is_full = number >= n_short
        near = 0.25 if is_full else 1.0
        u, v = math.modf(0.618034 * number)[0] - 0.5, math.modf(0.754878 * number)[0] - 0.5
        parameters = {
            "defocus": TRUTH["defocus"] + near * 200 * u,
            "scan_rotation": TRUTH["scan_rotation"] + near * 20 * v,
            "n_probe_modes": [1, 2, 4][number % 3],
            "detector_flip": ["none", "transpose"][number % 7 == 3],
        }
        value = 0.5 + 0.08 * (near * u) ** 2 + 0.05 * (near * v) ** 2
        value += 0.01 * abs(math.log2(parameters["n_probe_modes"]) - 1)
        value += 0.02 * (parameters["detector_flip"] != "none") + 0.01 * (not is_full)
        place = np.arange(12)
        blocks = value + 0.05 * np.sin(place) + 0.002 * np.sin(3.0 * place * (1 + number))
        blocks += value - blocks.mean()
        status = {5: "diverged", 9: "pruned"}.get(number, "completed")
        passes = np.arange(1, 1 + (full if is_full else short)["n_iterations"])
        trials.append(
            {
                "number": number, "parameters": parameters,
                "fidelity": full if is_full else short,
                "purpose": "promotion" if is_full else "search", "seed": 0,
                "objective": None if status == "diverged" else value,
                "metrics": {"held_out": value}, "blocks": blocks.tolist() if is_full else [],
                "curve": [[int(i), value + 0.06 * math.exp(-i / 3)] for i in passes],
                "status": status, "duration": 6.0 if is_full else 0.5, "message": "", "attempts": 1,
            }
        )  # fmt: skip
    trials[-1].update(parameters=trials[-2]["parameters"], purpose="repeat", seed=1)
    return trials


def make_object(slices=2, tuned=True):
    """Object of 66 x 84 pixels under a rotated scan."""
    positions = make_positions()
    low = positions.min(axis=0) - 2.0
    shape = (66, 84)
    layers = [lattice(shape, PIXEL, 2.7, 0.2 * i) for i in range(slices)]
    amplitude = 1 - 0.05 * np.array(layers)
    frame = [
        {"name": n, "scale": s, "offset": float(o), "units": "Å"}
        for n, s, o in zip("yx", PIXEL, low, strict=True)
    ]
    probe = make_probe()
    probe_axes = [
        {"name": n, "scale": s, "offset": -(size // 2) * s, "units": "Å"}
        for n, s, size in zip("yx", PIXEL, probe.shape[1:], strict=True)
    ]
    axes = [{"name": "depth", "scale": 6.0, "offset": 3.0, "units": "Å"}, *frame]
    trials = make_trials()
    tuning = {
        "objective": "held_out",
        "parameters": list(trials[0]["parameters"]),
        "best_trial": 21,
        "space": {},
        "trials": trials,
        "answers": {
            "intervals": {
                "defocus": {"low": 300.0, "high": 318.0},
                "detector_flip": {"choices": ["none", "transpose"], "probabilities": [0.99, 0.01]},
            },
            "importance": {},
            "standard_error": 0.002,
        },
    }
    geometry = Geometry(
        beam_energy=80.0, scan_shape=SCAN, detector_shape=(30, 36), scan_step=1.1,
        reciprocal_pixel=0.13, convergence_angle=21.4, disk_center=(15.0, 18.0), disk_radius=4.0,
    )  # fmt: skip
    return PtychographicObject.from_reconstruction(
        amplitude * np.exp(1j * np.array(layers)),
        axes=axes,
        probe=probe,
        probe_axes=probe_axes,
        positions=positions,
        scan_shape=SCAN,
        history={"error": 0.5 + 2 * 0.8 ** np.arange(20)},
        parameters={"n_probe_modes": 2},
        geometry=geometry.to_dict(),
        status="completed",
        seed=0,
        versions={},
        fingerprint="0" * 64,
        notes=[],
        tuning=tuning if tuned else None,
        original_metadata_general={"title": "A lattice"},
    )


#        0
#    1       2
#  3   4   5   6        leaves 0, 1, 2, 3
NODES = [
    {"index": i, "parent": p, "children": c, "depth": d, "level": d, "size": 0, "gain": g,
     "significance": 30.0 if c else None, "stability": 0.95 if c else None, "separation": 4.0,
     "stopped": "" if c else "no split is significant"}
    for i, p, c, d, g in (
        (0, None, [1, 2], 0, 0.9), (1, 0, [3, 4], 1, 0.2), (2, 0, [5, 6], 1, 0.4),
        (3, 1, [], 2, None), (4, 1, [], 2, None), (5, 2, [], 2, None), (6, 2, [], 2, None),
    )
]  # fmt: skip
MAP = (17, 23)
SCAN_AXES = [
    {"name": "y", "scale": 0.5, "offset": 1.0, "units": "nm"},
    {"name": "x", "scale": 0.4, "offset": -2.0, "units": "nm"},
]


def make_labels():
    y, x = np.mgrid[: MAP[0], : MAP[1]]
    labels = 2 * (x > 11) + (y + x // 3 > 11)
    labels[0, :3] = -1
    return labels


def make_clusters():
    labels = make_labels()
    counts = np.bincount(labels[labels >= 0], minlength=4)
    sizes = {3: counts[0], 4: counts[1], 5: counts[2], 6: counts[3]}
    sizes |= {1: sizes[3] + sizes[4], 2: sizes[5] + sizes[6], 0: counts.sum()}
    nodes = [{**node, "size": int(sizes[node["index"]])} for node in NODES]
    ky, kx = np.mgrid[-9:10, -11:12]
    patterns = []
    for leaf in range(4):
        angle = 0.2 * leaf + np.arange(6) * np.pi / 3
        spots = [(0, 0, 40.0), *((7 * np.sin(a), 7 * np.cos(a), 4.0) for a in angle)]
        patterns.append(sum(h * np.exp(-((ky - r) ** 2 + (kx - c) ** 2) / 2) for r, c, h in spots))
    sums = np.array(patterns) * counts[:, None, None]
    y, x = np.mgrid[: MAP[0], : MAP[1]]
    return HierarchicalClusters.from_clustering(
        labels,
        nodes,
        scan_axes=[{**a, "navigate": True, "size": n} for a, n in zip(SCAN_AXES, MAP, strict=True)],
        signal_axes=[
            {"name": "ky", "scale": 0.05, "offset": -0.45, "units": "1/Å"},
            {"name": "kx", "scale": 0.05, "offset": -0.55, "units": "1/Å"},
        ],
        pattern_signal_type="",
        leaf_sums=sums,
        leaf_square_sums=sums,
        settings={},
        notes=[],
        versions={},
        status="completed",
        seed=0,
        original_metadata_general={"title": "Four domains"},
        virtual_images={"annulus": 5 + np.sin(0.7 * x) + 0.3 * y},
    )


def make_strain():
    y, x = np.mgrid[: MAP[0], : MAP[1]]
    labels = make_labels()
    e_xx = 0.01 * (x - 11) / 11 * (labels > 1)
    strain = np.stack([e_xx, -0.5 * e_xx, 0.004 * np.sin(0.4 * y), 2.0 * (labels % 2) - 1.0])
    reasons = np.zeros(MAP, int)
    reasons[0, :3], reasons[12:15, 17:20] = 1, 2
    strain[:, reasons > 0] = np.nan
    errors = np.broadcast_to(1e-3 + 1e-4 * (x + y), strain.shape).copy()
    statistics = [
        {
            "cluster": leaf, "n": int((labels == leaf).sum()),
            **{
                name: {"mean": float(np.nanmean(strain[i][labels == leaf])), "standard_error": 5e-4}
                for i, name in enumerate(("e_xx", "e_yy", "e_xy"))
            },
        }
        for leaf in range(4)
    ]  # fmt: skip
    return StrainMap.from_strain(
        strain,
        scan_axes=SCAN_AXES,
        standard_errors=errors,
        reasons=reasons,
        reason_table=["", "in no cluster", "too few disks"],
        leaf_labels=labels,
        lattices=[],
        misorientations=[],
        cluster_statistics=statistics,
        reference={"description": "the mean lattice of cluster 0"},
        units="1/Å",
        settings={},
        original_metadata_general={"title": "Strain"},
    )


def make_design():
    """What `design_figure` takes."""
    doses = [500.0, 2e4]
    trials = []
    for number in range(36):
        u, v = math.modf(0.618034 * number)[0], math.modf(0.754878 * number)[0]
        dose = doses[number % 2]
        score = 0.3 + 0.12 * (number % 2) - 0.5 * (u - 0.6) ** 2 - 0.3 * (v - 0.3) ** 2
        parameters = {
            "dose": dose, "scan_step": 0.5 + 2.5 * u, "defocus": 150.0 * v,
            "convergence_angle": 25.0,
        }  # fmt: skip
        trials.append({"parameters": parameters, "objective": 1 - score, "purpose": "search"})
    settings = {"scan_step": 2.0, "defocus": 45.0, "convergence_angle": 25.0}
    truth = lattice((40, 48), PIXEL, 2.7)
    noise = lattice((40, 48), PIXEL, 1.7, 0.5)
    return {
        "doses": doses,
        "trials": trials,
        "names": ["scan_step", "defocus"],
        "units": {"scan_step": "Å", "defocus": "Å", "convergence_angle": "mrad"},
        "score": "correlation",
        "best": [settings] * 2,
        "best_scores": [{"mean": 0.3 + 0.12 * i, "std": 0.02} for i in range(2)],
        "reference": {**settings, "scan_step": 1.0},
        "reference_scores": [{"mean": 0.2 + 0.1 * i, "std": 0.03} for i in range(2)],
        "images": np.array(
            [[truth + noise * (1 + row) / (1 + i) for i in range(2)] for row in range(2)]
        ),
        "truth": truth,
        "pixel": PIXEL,
    }


@pytest.fixture(scope="session")
def scan():
    """A simulated scan of very few positions."""
    return twisted_bilayer_mos2(
        scan_shape=(7, 9), detector_shape=(48, 64), defocus=120, scan_rotation=12
    )


TUNING = {
    "parameters": {"defocus": (80, 160)},
    "fixed": {"scan_rotation": 12},
    "n_trials": 4,
    "n_trial_iterations": 2,
    "n_iterations": 2,
}


@pytest.fixture(scope="session")
def tuning_options():
    """Of a tuning of a second or two."""
    return TUNING


@pytest.fixture(scope="session")
def tuned(scan):
    """The scan, tuned; and which figures were open then."""
    return scan.autotune_ptycho(**TUNING), plt.get_fignums()


@pytest.fixture
def obj() -> PtychographicObject:
    """Two slices, two modes, tuned."""
    return make_object()


@pytest.fixture
def clusters() -> HierarchicalClusters:
    return make_clusters()


@pytest.fixture
def strain() -> StrainMap:
    return make_strain()


@pytest.fixture
def design() -> dict:
    """What `design_figure` takes."""
    return make_design()


@pytest.fixture
def trials() -> list[dict]:
    return make_trials()
