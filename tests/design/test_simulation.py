"""Counts of a simulated experiment."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.design.instrument import DesignError
from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.design.simulation import Simulation, margin
from hs_autoptycho.ptycho.coherence import coherence_modes
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.probe import beam_frequencies

SETTINGS = {"scan_step": 1.5, "defocus": 60.0, "convergence_angle": 25.0}


@pytest.mark.parametrize("scan_step", [0.9, 1.9])
def test_electrons_a_pattern(simulation, scan_step):
    settings = {**SETTINGS, "scan_step": scan_step}
    counts, positions = simulation.counts(settings, 2e3, 0)
    assert counts.shape == (len(positions), 32, 36)
    electrons = 2e3 * scan_step**2
    # a few go beyond the detector
    assert counts.sum(axis=(1, 2)).mean() == pytest.approx(electrons, rel=0.02)
    # Poisson: the variance is the mean
    expected = simulation.expected(settings, positions) * electrons
    deviation = (counts - expected) / np.sqrt(np.maximum(expected, 1e-9))
    assert deviation[expected > 0.2].var() == pytest.approx(1, rel=0.05)


def test_vacuum_gives_the_aperture(instrument):
    empty = Specimen(np.zeros((1, 101, 108)), 0.2)
    pattern = Simulation(empty, instrument).expected(SETTINGS)[0]
    k = [(np.arange(n) - n // 2) / 8 for n in (32, 36)]
    cutoff = 25e-3 / instrument.wavelength
    radius = np.hypot(k[0][:, None], k[1])
    assert pattern.sum() == pytest.approx(1, abs=1e-4)
    assert pattern[radius > cutoff + 1 / 8].max() < 1e-6
    inside = pattern[radius < cutoff - 1 / 8]
    assert inside.std() < 1e-3 * inside.mean()


def test_a_phase_ramp_moves_the_pattern(instrument):
    # exp(2πi k x) displaces the disk by k: here two pixels along the rows, three along the columns
    y, x = np.arange(101) * 0.2, np.arange(108) * 0.2
    ramp = 2 * np.pi / 8 * (2 * y[:, None] + 3 * x)
    ramped = Simulation(Specimen(ramp[None], 0.2), instrument).expected(SETTINGS)[4]
    plain = Simulation(Specimen(0 * ramp[None], 0.2), instrument).expected(SETTINGS)[4]
    assert np.corrcoef(ramped.ravel(), np.roll(plain, (2, 3), (0, 1)).ravel())[0, 1] > 0.99


def test_positions_are_centred_on_the_specimen(simulation):
    positions = simulation.positions(1.5)
    assert len(positions) == 6 * 7
    np.testing.assert_allclose(positions.mean(axis=0), (7.0, 15.7))
    np.testing.assert_allclose(positions[1] - positions[0], (0, 1.5))
    np.testing.assert_allclose(positions[7] - positions[0], (1.5, 0))


def test_jitter_and_noise_are_independent_and_repeatable(simulation, instrument):
    still = simulation.counts(SETTINGS, 1e3, 5)
    again = simulation.counts(SETTINGS, 1e3, 5)
    np.testing.assert_array_equal(still[0], again[0])
    other = simulation.counts(SETTINGS, 1e3, 6)
    assert np.any(still[0] != other[0])
    moving = Simulation(simulation.specimen, replace(instrument, position_jitter=0.2))
    moved = moving.counts(SETTINGS, 1e3, 5)[1] - still[1]
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.2, rel=0.2)


def test_count_limit(simulation, instrument):
    limited = Simulation(simulation.specimen, replace(instrument, count_limit=20))
    counts, _ = limited.counts(SETTINGS, 5e3, 0)
    free, _ = simulation.counts(SETTINGS, 5e3, 0)
    assert counts.max() == 20 < free.max()
    assert counts.dtype == np.uint8
    np.testing.assert_array_equal(counts, np.minimum(free, 20))


def test_the_largest_number_of_a_type_is_no_saturation(simulation, monkeypatch):
    def expected(self, settings, positions):
        patterns = np.zeros((len(positions), 2, 3))
        patterns[0, 0, 1] = 1.0
        return patterns

    monkeypatch.setattr(Simulation, "expected", expected)
    monkeypatch.setattr(Simulation, "positions", lambda self, step: np.zeros((2, 2)))
    dose = 255 / SETTINGS["scan_step"] ** 2
    for seed in range(1000):
        counts, _ = simulation.counts(SETTINGS, dose, seed)
        if counts.max() == 255:
            break
    assert counts.max() == 255 and counts.dtype == np.uint16
    assert Experiment(counts, simulation.geometry(SETTINGS)).saturation == np.inf


@pytest.mark.parametrize("change", [{"source_size": 0.8}, {"focal_spread": 40.0}])
def test_partial_coherence_is_that_of_the_engine(simulation, instrument, change):
    modes = Simulation(simulation.specimen, replace(instrument, **change)).probe(SETTINGS)
    assert len(modes) > 1
    powers = (np.abs(modes) ** 2).sum(axis=(1, 2))
    assert powers.sum() == pytest.approx(1)
    n = modes.shape[1]
    k = beam_frequencies((n, n), (8 / n, 8 / n))
    aperture = np.abs(simulation.probe(SETTINGS)[0])
    theirs = coherence_modes(
        aperture, *k, instrument.wavelength, len(modes), defocus=60.0, **change
    )
    np.testing.assert_allclose(powers, (np.abs(theirs) ** 2).sum(axis=(1, 2)), atol=5e-3)
    assert (np.abs(simulation.probe(SETTINGS)) ** 2).sum(axis=(1, 2)) == pytest.approx([1.0])


def test_slices_propagate(phase, instrument):
    # half the phase twice at one depth is the projected specimen; far apart it is not
    whole = Simulation(Specimen(phase[None], 0.2), instrument).expected(SETTINGS)
    near, far = (
        Simulation(Specimen(np.stack([phase, phase]) / 2, 0.2, (d,)), instrument).expected(SETTINGS)
        for d in (0.01, 60.0)
    )
    assert np.abs(near - whole).max() < 0.02 * whole.max()
    assert np.abs(far - whole).max() > 0.1 * whole.max()


def test_the_geometry_of_the_experiment(simulation):
    experiment = simulation.experiment(SETTINGS, 1e3, 0)
    assert experiment.geometry.scan_shape == (6, 7)
    assert experiment.geometry.measured_convergence_angle == pytest.approx(25.0)
    assert experiment.counted


def test_a_potential_that_is_too_small(specimen, instrument):
    assert margin(replace(instrument, position_jitter=0.3)) == pytest.approx(8 + 10 * 0.3)
    with pytest.raises(DesignError, match=r"is 20\.0 × 21\.4 Å .* need 21\.0 × 17\.5 Å"):
        Simulation(specimen, replace(instrument, field_of_view=(13.0, 9.5)))


def test_it_can_be_sent(simulation):
    simulation.expected(SETTINGS)
    sent = pickle.loads(pickle.dumps(simulation))
    assert "_transmission" not in vars(sent)
    np.testing.assert_array_equal(
        sent.counts(SETTINGS, 1e3, 0)[0], simulation.counts(SETTINGS, 1e3, 0)[0]
    )
