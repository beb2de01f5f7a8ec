"""The bilayer to design experiments for."""

import numpy as np
import pytest

from hs_autoptycho.data import atom_pairs, twisted_bilayer_mos2_potential
from hs_autoptycho.data._multislice import projected_potential
from hs_autoptycho.data._specimens import _columns
from hs_autoptycho.data._twisted_bilayer_mos2 import load_specimen


@pytest.fixture(scope="module")
def potential():
    return twisted_bilayer_mos2_potential(field=24.0)


def test_axes_and_atoms(potential):
    assert potential.data.shape == (192, 192)
    for axis in potential.axes_manager.signal_axes:
        assert axis.units == "Å" and axis.scale == 0.125 and axis.value2index(0.0) == 96
    item = potential.metadata.Specimen
    # three atoms a cell and layer
    expected = 2 * 3 * 24**2 / (3.18**2 * np.sqrt(3) / 2)
    assert len(item.numbers) == pytest.approx(expected, rel=0.05)
    assert np.mean(np.asarray(item.numbers) == 42) == pytest.approx(1 / 3, abs=0.02)
    # what is there is where the atoms are
    x, y, _ = np.asarray(item.positions)[np.asarray(item.numbers) == 42].T
    inner = (np.abs(x) < 11) & (np.abs(y) < 11)
    at = potential.data[
        np.rint(y / 0.125 + 96).astype(int)[inner], np.rint(x / 0.125 + 96).astype(int)[inner]
    ]
    assert at.mean() > 5 * potential.data.mean()


def test_slices_add_up(potential):
    slices = twisted_bilayer_mos2_potential(field=24.0, slices=True)
    np.testing.assert_allclose(slices.data.sum(axis=0), potential.data, rtol=1e-4, atol=0.1)
    depths = slices.axes_manager.navigation_axes[0].axis
    np.testing.assert_allclose(np.diff(depths), [1.595, 1.595, 2.96, 1.595, 1.595])


def test_the_twist():
    # the transform of a layer's molybdenum has its first spots at 1 / (a √3 / 2)
    def directions(twist):
        s = twisted_bilayer_mos2_potential(field=40.0, twist=twist, vacancies=0, displacement=0)
        spectrum = np.abs(np.fft.fft2((s.data - s.data.mean()) * np.outer(*[np.hanning(320)] * 2)))
        k = np.fft.fftfreq(320, 0.125)
        radius = np.hypot(k[:, None], k)
        ring = np.where(np.abs(radius - 2 / (3.18 * np.sqrt(3))) < 0.02, spectrum, 0)
        angle = np.degrees(np.arctan2(k[:, None], k)) % 60
        return ring, angle

    ring, angle = directions(30.0)
    strong = angle[ring > 0.5 * ring.max()]
    folded = strong % 30
    assert np.ptp((folded - folded[0] + 15) % 30) < 8  # twelve spots
    assert np.ptp(strong) > 25
    ring, angle = directions(0.0)
    strong = angle[ring > 0.5 * ring.max()]
    assert np.ptp((strong - strong[0] + 30) % 60) < 8  # six


def test_pairs(potential):
    pairs = atom_pairs(potential, 1.75, tolerance=0.08)
    assert len(pairs) > 20
    length = np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=1)
    assert np.all(np.abs(length - 1.75) <= 0.08)
    # dark between them
    y, x = np.rint(pairs.mean(axis=1).T / 0.125 + 96).astype(int)
    rows, columns = np.rint(pairs.reshape(-1, 2).T / 0.125 + 96).astype(int).clip(0, 191)
    assert potential.data[y, x].mean() < 0.3 * potential.data[rows, columns].mean()
    in_nm = potential.deepcopy()
    for axis in in_nm.axes_manager.signal_axes:
        axis.units, axis.scale, axis.offset = "nm", axis.scale / 10, axis.offset / 10
    np.testing.assert_array_equal(atom_pairs(in_nm, 1.75, tolerance=0.08), pairs)
    cropped = potential.isig[96:, :96]
    fewer = atom_pairs(cropped, 1.75, tolerance=0.08)
    assert 0 < len(fewer) < len(pairs)
    assert fewer[..., 1].min() >= 0 and fewer[..., 0].max() <= 0
    del cropped.metadata.Specimen
    with pytest.raises(ValueError, match="does not|has no Specimen"):
        atom_pairs(cropped)


def test_pairs_with_nothing_between(potential):
    # neighbours of the lattice, 3.18 Å apart, have columns of the other layer between them
    pairs = atom_pairs(potential, 3.18, isolation=0.5)
    columns = _columns(np.asarray(potential.metadata.Specimen.positions)[:, 1::-1])
    for ends in pairs:
        own = np.linalg.norm(columns[:, None] - ends, axis=2).min(axis=1) < 1e-6
        assert own.sum() == 2
        assert np.linalg.norm(columns[~own] - ends.mean(axis=0), axis=1).min() >= 0.5
    # and all that have nothing closer are there
    assert len(pairs) > len(atom_pairs(potential, 3.18, isolation=1.0)) > 0


def test_it_is_the_potential_of_its_atoms():
    s = twisted_bilayer_mos2_potential(field=16.0, pixel=0.2, vacancies=0.1, random_state=3)
    item = s.metadata.Specimen
    xyz, numbers = np.asarray(item.positions), np.asarray(item.numbers)
    again = projected_potential(
        xyz[:, 1::-1], numbers, load_specimen().scattering, (160, 160), (0.2, 0.2), (-16.0, -16.0)
    )[64:96, 64:96]
    # atoms beyond the edges reach in
    np.testing.assert_allclose(s.data[24:56, 24:56], again, rtol=0.05, atol=8.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": -3.0}, "field"),
        ({"field": 1.5}, "fewer than 16 pixels"),
        ({"twist": np.inf}, "twist"),
        ({"vacancies": 1.0}, "vacancies"),
        ({"displacement": -0.1}, "displacement"),
    ],
)
def test_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        twisted_bilayer_mos2_potential(**options)
