"""What the engine is told of a simulated experiment."""

from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.design.simulation import Simulation
from hs_autoptycho.design.trial import SimulatedExperiment

SETTINGS = {"scan_step": 1.5, "defocus": 60.0, "convergence_angle": 25.0}


def thick(phase, *parts, spacing=20.0):
    """Slices of parts of the phase."""
    return Specimen(np.multiply.outer(parts, phase), 0.2, (spacing,) * (len(parts) - 1))


def test_the_sign_of_depth(phase, instrument):
    # what lies 20 Å below the first slice is seen with 20 Å less of underfocus
    below = Simulation(thick(phase, 0, 1), instrument).expected(SETTINGS)
    single = Simulation(thick(phase, 1), instrument)
    less, more = (
        np.abs(single.expected({**SETTINGS, "defocus": 60.0 + d}) - below).max() for d in (-20, 20)
    )
    assert less < 0.02 * below.max() < 0.1 * below.max() < more


@pytest.mark.parametrize(
    ("told", "defocus"),
    [
        ({}, 60 - 20),  # in the middle of the specimen
        ({"n_slices": 1}, 60 - 20),
        ({"n_slices": 2, "thickness": 40.0}, 60 - 20 + 10),  # slices 20 Å apart
        ({"n_slices": 4, "thickness": 40.0}, 60 - 20 + 15),
        ({"defocus": 7.0}, 7),
    ],
)
def test_the_defocus_that_is_told(phase, instrument, told, defocus):
    specimen = thick(phase, 0.2, 0.5, 0.3)  # 40 Å from the first slice to the last
    objective = SimulatedExperiment(Simulation(specimen, instrument), reconstruction=told)
    assert objective.parameters(SETTINGS)["defocus"] == pytest.approx(defocus)


def test_what_else_is_told(simulation, instrument):
    known = SimulatedExperiment(simulation).parameters(SETTINGS)
    assert known == {"convergence_angle": 25.0, "object_type": "phase", "defocus": 60.0}
    changed = replace(instrument, count_limit=200, source_size=0.5, aberrations={"C30": 1e4})
    objective = SimulatedExperiment(
        Simulation(simulation.specimen, changed), reconstruction={"object_type": "complex"}
    )
    known = objective.parameters(SETTINGS)
    assert known["saturation"] == 200 and known["object_type"] == "complex"
    assert (known["source_size"], known["focal_spread"], known["C30"]) == (0.5, 0.0, 1e4)
    assert known["n_probe_modes"] > 1
