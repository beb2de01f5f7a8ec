"""The plan of memory against what is taken, and runs that are refused before they begin."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import psutil
import pytest

from hs_autoptycho.ptycho import memory
from hs_autoptycho.ptycho.memory import (
    MemoryPlan,
    NotEnoughMemoryError,
    available_memory,
    check_memory,
    check_reading,
    plan_memory,
)

PLAN = {
    "n_positions": 400, "window": (64, 80), "object_shape": (3, 200, 240), "n_modes": 2,
    "n_variable_modes": 0, "count_type": np.dtype(np.uint16), "batch_size": 32, "n_threads": 2,
    "derivatives": False, "copies": 3, "coarse": False, "held_out": False,
}  # fmt: skip


def plan(**changes):
    return plan_memory(**{**PLAN, **changes})


def test_total_is_the_sum_and_the_text_says_all():
    one = plan()
    names = ("patterns", "object", "groups", "probes", "threads", "program")
    assert one.total == sum(getattr(one, name) for name in names)
    assert all(isinstance(getattr(one, name), int) for name in names)
    text = str(one)
    assert text.startswith(f"{one.total / 1e9:.2f} GB (")
    assert all(name in text for name in names)


@pytest.mark.parametrize(
    "change, what",
    [
        ({"n_positions": 800}, "patterns"),
        ({"count_type": np.dtype(np.float64)}, "patterns"),
        ({"coarse": True}, "patterns"),
        ({"held_out": True}, "patterns"),
        ({"object_shape": (3, 400, 240)}, "object"),
        ({"object_shape": (12, 200, 240)}, "object groups threads"),
        ({"copies": 8}, "object"),
        ({"batch_size": 400}, "groups"),
        ({"n_modes": 6}, "probes threads"),
        ({"n_variable_modes": 4}, "probes"),
        ({"n_threads": 16}, "threads"),
        ({"derivatives": True}, "threads"),
        ({"window": (128, 80)}, "patterns probes threads"),
    ],
    ids=str,
)
def test_what_takes_more(change, what):
    before, after = plan(), plan(**change)
    for name in what.split():
        assert getattr(after, name) > getattr(before, name), name
    assert after.total > before.total


def test_type_of_the_counts():
    sizes = [plan(count_type=np.dtype(t)).patterns for t in ("u1", "u2", "u4", "i8", "f8", "f4")]
    assert sizes[1] == 2 * sizes[0] and sizes[2] == 2 * sizes[1]
    # in 32 bits, whatever they come in
    assert sizes[2] == sizes[3] == sizes[4] == sizes[5]


# A subprocess, so that nothing that other tests took counts. The first reconstruction compiles.
MEASURE = """
import dataclasses, json, sys, tracemalloc
import numpy as np
from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.experiment import Experiment

parameters, step = json.loads(sys.argv[1]), float(sys.argv[2])
shape, scan = (96, 120), (12, 15)
geometry = Geometry(
    beam_energy=80.0, scan_shape=scan, detector_shape=shape, scan_step=step,
    reciprocal_pixel=0.015, convergence_angle=17.0, scan_rotation=20.0,
    disk_center=(48, 60), disk_radius=27.0, defocus=150.0,
)
y, x = np.indices(shape)
counts = np.zeros((scan[0] * scan[1], *shape), np.uint16) + np.uint16(5) * (
    np.hypot(y - 48, x - 60) < 27
)
counts = counts.astype(np.uint16)
small = dataclasses.replace(geometry, scan_shape=(2, 2))
Experiment(counts[:4], small).fit(parameters, n_iterations=1)
experiment = Experiment(counts, geometry)
plan = experiment.plan_memory(experiment.complete(parameters))
tracemalloc.start()
experiment.fit(parameters, n_iterations=2)
print(json.dumps([tracemalloc.get_traced_memory()[1], plan.total - plan.program, str(plan)]))
"""

MID_SIZE = {
    "small object": (4.0, {}),
    "large object": (30.0, {}),
    "slices and modes": (12.0, {"n_slices": 10, "thickness": 100, "n_probe_modes": 4}),
    "full gradient": (12.0, {"n_slices": 6, "thickness": 60, "algorithm": "gradient"}),
    "momentum": (12.0, {"n_slices": 6, "thickness": 60, "momentum": 0.5}),
    "depth": (12.0, {"n_slices": 6, "thickness": 60, "regularization_depth": 1.0}),
    "variation": (12.0, {"n_slices": 6, "thickness": 60, "regularization_tv": 0.01}),
    "held out": (4.0, {"early_stopping": 3}),
    "corrected": (
        12.0,
        {
            "n_slices": 6,
            "thickness": 60,
            "position_correction_start": 0,
            "tilt_correction_start": 0,
        },
    ),
}


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "slices and modes" else pytest.mark.slow) for n in MID_SIZE],
)
def test_the_plan_is_what_is_taken(name):
    step, parameters = MID_SIZE[name]
    done = python(MEASURE, json.dumps(parameters), step)
    assert done.returncode == 0, done.stderr
    taken, planned, text = json.loads(done.stdout)
    assert 0.8 * taken < planned < 1.6 * taken, f"{taken / 1e9:.3f} GB of {text}"


# ------------------------------------------------------------------------------------ refusals


def test_free_memory_is_the_machines(monkeypatch):
    assert 0 < available_memory() <= psutil.virtual_memory().total


def test_a_plan_that_cannot_be_kept(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: int(1e9))
    fits = MemoryPlan(patterns=int(9e8), object=0, groups=0, probes=0, threads=0)
    check_memory(fits)  # the program is there already
    remedies = {
        "patterns": "crop or bin",
        "object": "fewer slices",
        "groups": "batch_size",
        "threads": "num_workers",
        "probes": "probe modes",
    }
    for name, remedy in remedies.items():
        sizes = dict.fromkeys(remedies, 0)
        sizes[name] = int(3e9)
        with pytest.raises(NotEnoughMemoryError) as error:
            check_memory(MemoryPlan(**sizes))
        message = str(error.value)
        assert "3.00 GB" in message and "1.00 GB are free" in message
        assert remedy in message.split("What would help")[1], name
    assert issubclass(NotEnoughMemoryError, MemoryError)


def test_a_lazy_signal_that_cannot_be_read(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: int(1e9))
    check_reading(int(0.99e9))
    with pytest.raises(NotEnoughMemoryError, match=r"5\.00 GB and 1\.00 GB are free.*inav.*uint16"):
        check_reading(int(5e9))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are those of Linux")
def test_under_a_limit_it_is_refused_before_anything_is_computed():
    done = python(
        """
        import resource, psutil
        import hyperspy.api as hs
        hs.preferences.General.show_progressbar = False
        from hs_autoptycho import estimate_memory
        from hs_autoptycho.data import twisted_bilayer_mos2
        from hs_autoptycho.ptycho import solver, state
        from hs_autoptycho.ptycho.memory import NotEnoughMemoryError, available_memory

        def never(*args, **options):
            raise SystemExit("it began")

        s = twisted_bilayer_mos2(scan_shape=(6, 8), detector_shape=(48, 64))
        solver._Run.__init__ = never
        taken = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (taken + 300_000_000, -1))
        assert available_memory() < 310_000_000
        options = dict(defocus=120, scan_rotation=12, n_slices=1000, thickness=1000)
        assert estimate_memory(s, **options).total > 400_000_000
        try:
            s.reconstruct_ptycho(**options)
        except NotEnoughMemoryError as error:
            print(error)
        try:
            s.reconstruct_ptycho(defocus=120, scan_rotation=12)
        except SystemExit as end:
            print(end)
        """
    )
    assert done.returncode == 0, done.stderr
    message, began = done.stdout.strip().splitlines()
    assert "needs" in message and "GB are free" in message and "slices" in message
    assert began == "it began"  # what fits is not refused
