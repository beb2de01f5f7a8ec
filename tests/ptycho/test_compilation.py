"""What a process has compiled itself computes what one computes that reads it from the cache."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib, json
from hs_autoptycho.data import twisted_bilayer_mos2

signal = twisted_bilayer_mos2(
    scan_shape=(9, 11), detector_shape=(48, 64), defocus=120, scan_rotation=12, random_state=0
)
found = {}
wanted = {"defocus": 120, "scan_rotation": 12, "n_iterations": 4, "batch_size": 9}
for options in ({}, {"n_probe_modes": 2}, {"n_slices": 2, "thickness": 12}):
    result = signal.reconstruct_ptycho(show_progressbar=False, **wanted, **options)
    found[str(options)] = hashlib.sha256(result.data.tobytes()).hexdigest()
tuned = signal.autotune_ptycho(
    {"defocus": (60, 180)}, fixed={"scan_rotation": 12}, n_trials=2, n_trial_iterations=2,
    n_iterations=1, show_progressbar=False,
)
found["trials"] = [repr(trial["objective"]) for trial in tuned.trials]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_first_run_computes_what_the_next_ones_do(tmp_path):
    """Bit by bit, though code that is compiled and code that is loaded are not the same."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-2000:]
        found.append(json.loads(run.stdout.splitlines()[-1]))
    assert list(tmp_path.rglob("*.nbc"))  # it was compiled for the first one
    assert found[0] == found[1]
    assert len(set(found[0]["trials"])) == 2
