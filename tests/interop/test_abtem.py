"""From abTEM: simulated scans to a picture, potentials to a design."""

import hyperspy.api as hs
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from hs_autoptycho import design_experiment
from hs_autoptycho._potential import read_potential
from hs_autoptycho.data._multislice import interaction_parameter
from hs_autoptycho.data._score import correlation_with_truth
from hs_autoptycho.design.instrument import DesignError
from hs_autoptycho.interop import from_abtem

abtem = pytest.importorskip("abtem", reason="abtem is not installed")

ENERGY, EXTENT = 80.0, 24.0
DEFOCUS = 60.0


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with abtem.config.set({"diagnostics.progress_bar": False, "scheduler": "synchronous"}):
        yield


@pytest.fixture(scope="module")
def potential():
    """One smooth slice, in V Å; (slice, x, y) as abTEM has it."""
    noise = np.random.default_rng(0).normal(size=(1, 96, 96))
    values = gaussian_filter(noise, (0, 2.5, 2.5), mode="wrap")
    values *= 0.5 / values.std() / interaction_parameter(ENERGY)
    return abtem.PotentialArray(
        values.astype(np.float32), slice_thickness=2.0, extent=(EXTENT,) * 2
    )


def scan(potential):
    """13 positions along x from 4 Å on, 9 along y from 6 Å on; not computed yet."""
    probe = abtem.Probe(
        energy=1e3 * ENERGY, semiangle_cutoff=20, defocus=DEFOCUS, extent=EXTENT, gpts=96
    )
    grid = abtem.GridScan(start=(4, 6), end=(17, 15), sampling=1.0)
    return probe.scan(potential, scan=grid, detectors=abtem.PixelatedDetector())


@pytest.fixture(scope="module")
def patterns(potential):
    return scan(potential).compute(progress_bar=False)


def test_axes_and_units(potential, patterns):
    s = from_abtem(patterns)
    assert type(s) is hs.signals.Signal2D
    assert np.shares_memory(s.data, patterns.array)
    x, y, kx, ky = patterns.shape
    assert (x, y) == (13, 9)
    assert s.data.shape == (y, x, ky, kx)
    np.testing.assert_array_equal(s.data[2, 7], patterns.array[7, 2].T)
    axes = s.axes_manager
    assert [a.name for a in axes.navigation_axes + axes.signal_axes] == ["x", "y", "kx", "ky"]
    assert [(a.scale, a.offset, a.units) for a in axes.navigation_axes] == [
        (pytest.approx(1.0), 4.0, "Å"), (pytest.approx(1.0), 6.0, "Å")
    ]  # fmt: skip
    for axis in axes.signal_axes:
        assert (axis.scale, axis.units) == (pytest.approx(1 / EXTENT), "1/Å")
        assert axis.axis[axis.size // 2] == pytest.approx(0)
    tem = s.metadata.Acquisition_instrument.TEM
    assert (tem.beam_energy, tem.convergence_angle) == (80.0, 20.0)
    lazy = from_abtem(scan(potential))
    assert lazy._lazy and lazy.data.shape == s.data.shape
    np.testing.assert_allclose(lazy.inav[7, 2].data.compute(), s.data[2, 7], rtol=1e-5)


def test_picture(one_thread, potential, patterns):
    s = from_abtem(patterns.poisson_noise(dose_per_area=1e6, seed=0))
    assert s.metadata.Signal.quantity == "Counts"
    obj = s.reconstruct_ptycho(defocus=DEFOCUS, n_iterations=20)
    # the sum of a disk says what abTEM was told
    assert obj.geometry.disk_radius * obj.geometry.reciprocal_pixel == pytest.approx(
        20e-3 / 0.0417572, rel=0.03
    )
    y, x = (axis.axis for axis in obj.axes_manager.signal_axes[::-1])
    scanned = np.ix_((y > 1) & (y < 7), (x > 1) & (x < 11))
    y, x = np.meshgrid(y, x, indexing="ij")
    truth = potential.array[0].T * interaction_parameter(ENERGY)

    def score(rows, columns):
        places = np.array([rows, columns]) / potential.sampling[0]
        there = map_coordinates(truth, places, order=1, mode="grid-wrap")
        mask = np.zeros(there.shape, bool)
        mask[scanned] = True
        return correlation_with_truth(obj.data[0], there, mask=mask, max_shift=1.0)

    # zero is scan position [0, 0]
    assert score(y + 6, x + 4) > 0.95
    assert score(x + 4, y + 6) < 0.6
    assert score(15 - y, x + 4) < 0.6


def test_what_is_no_scan(patterns):
    with pytest.raises(ValueError, match=r"axes x before kx, ky.*GridScan"):
        from_abtem(patterns[:, 3])
    with pytest.raises(TypeError, match="DiffractionPatterns, Potential and PotentialArray"):
        from_abtem(patterns.array)


def test_potential_as_a_signal_and_as_a_specimen():
    values = np.random.default_rng(1).uniform(0, 9, (3, 20, 12)).astype(np.float32)
    slices = abtem.PotentialArray(values, slice_thickness=(2.0, 3.0, 5.0), extent=(5.0, 3.0))
    s = from_abtem(slices)
    assert s.data.shape == (3, 12, 20)
    assert s.axes_manager["x"].size == 20 and s.axes_manager["x"].scale == pytest.approx(0.25)
    np.testing.assert_allclose(s.axes_manager["depth"].axis, [1.0, 3.5, 7.5])
    whole = read_potential(slices, ENERGY)
    np.testing.assert_allclose(
        whole.phases, values.swapaxes(1, 2) * interaction_parameter(ENERGY), rtol=1e-6
    )
    assert whole.pixel == pytest.approx(0.25)
    assert whole.spacings == pytest.approx((2.5, 4.0))
    same = read_potential(s, ENERGY)
    np.testing.assert_allclose(same.phases, whole.phases)
    assert same.spacings == pytest.approx(whole.spacings)
    even = from_abtem(abtem.PotentialArray(values, slice_thickness=2.0, extent=(5.0, 3.0)))
    assert even.axes_manager["depth"].is_uniform and even.axes_manager["depth"].scale == 2
    one = abtem.PotentialArray(values[:1], slice_thickness=2.0, extent=(5.0, 3.0))
    assert from_abtem(one).data.shape == (12, 20)
    assert read_potential(one, ENERGY).spacings == ()


def test_potentials_that_cannot_be_used():
    values = np.ones((1, 20, 12), np.float32)
    one = abtem.PotentialArray(values, slice_thickness=2.0, extent=(5.0, 3.0))
    with pytest.raises(DesignError, match="slice_thickness is known"):
        read_potential(one, ENERGY, slice_thickness=2.0)
    oblong = abtem.PotentialArray(values, slice_thickness=2.0, extent=(5.0, 4.0))
    with pytest.raises(DesignError, match="square.*sampling"):
        read_potential(oblong, ENERGY)
    with pytest.raises(TypeError, match=r"Signal2D\(array\).*quantity="):
        read_potential(values[0], ENERGY)


def test_design(one_thread, potential):
    # what comes out is tested in tests/design; here, that abTEM's potential goes in
    design = design_experiment(
        potential, 1e4, {"scan_step": (1.0, 2.5), "defocus": 60, "convergence_angle": 20},
        beam_energy=ENERGY, reciprocal_pixel=0.1, detector_shape=(32, 32), field_of_view=12,
        n_trials=4, n_iterations=5,
    )  # fmt: skip
    assert 1.0 <= design.best_parameters[0]["scan_step"] <= 2.5


@pytest.mark.slow  # abTEM compiles
def test_potential_of_atoms_is_built():
    ase = pytest.importorskip("ase")
    atoms = ase.Atoms("MoS", positions=[(3, 5, 1), (9, 2, 2)], cell=(12, 9, 4), pbc=True)
    built = abtem.Potential(atoms, sampling=0.25, slice_thickness=2.0)
    specimen = read_potential(built, ENERGY)
    assert specimen.phases.shape == (2, 36, 48)
    row, column = np.unravel_index(specimen.phases[0].argmax(), (36, 48))
    assert (0.25 * row, 0.25 * column) == pytest.approx((5, 3), abs=0.2)
    phonons = abtem.FrozenPhonons(atoms, 2, sigmas=0.1, seed=0)
    with pytest.raises(DesignError, match="configurations"):
        read_potential(abtem.Potential(phonons, sampling=0.25, slice_thickness=2.0), ENERGY)
