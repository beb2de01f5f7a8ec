"""Lattices through disks: found, refused, and brought to one basis."""

import numpy as np
import pytest

from hs_autoptycho.clustering.disks import Disks
from hs_autoptycho.clustering.lattice import (
    Lattice,
    NoLattice,
    _score,
    find_lattice,
    nearest_basis,
    reduce_basis,
)

CENTER = np.array([40.3, 36.1])


def lattice_disks(basis, shape=(81, 74), error=0.03, seed=0, keep=1.0, falloff=30.0):
    """Places, with errors, and heights of the disks of a lattice on a detector."""
    rng = np.random.default_rng(seed)
    indices = np.mgrid[-9:10, -9:10].reshape(2, -1).T
    places = CENTER + indices @ basis
    inside = np.all((places > 1) & (places < np.array(shape) - 2), axis=1)
    inside &= (rng.random(len(inside)) < keep) | (indices == 0).all(axis=1)
    places = places[inside]
    heights = np.exp(-np.hypot(*(places - CENTER).T) / falloff)
    return places + error * rng.standard_normal(places.shape), heights


def as_disks(places, heights, error=0.03):
    order = np.argsort(-heights)
    return Disks(places[order], np.full(len(order), error), heights[order], 100 * heights[order])


def hexagonal(length, angle):
    angles = np.deg2rad(angle + np.array([0, 60]))
    return length * np.column_stack([np.sin(angles), np.cos(angles)])


def test_score_is_the_logarithm_of_a_density():
    """Relative to places anywhere, whose density is 1: over a cell its mean is 1."""
    basis, sigma = np.array([[9.0, 1.0], [-2.0, 14.0]]), 0.7
    grid = (np.mgrid[:60, :60].reshape(2, -1).T + 0.5) / 60 @ basis
    density = [np.exp(_score(place[None], np.ones(1), basis, sigma)) for place in grid]
    assert np.mean(density) == pytest.approx(1, rel=1e-3)
    on, beside = (_score(np.array([[x, 1.0]]), np.ones(1), basis, sigma) for x in (9.0, 9.7))
    # a standard deviation away, where strays do not matter yet
    assert on - beside == pytest.approx(0.5, abs=0.02)
    both = _score(np.array([[9.0, 1.0], [9.7, 1.0]]), np.array([2.0, 3.0]), basis, sigma)
    assert both == pytest.approx(2 * on + 3 * beside)


def same_lattice(basis, other, tolerance):
    change = basis @ np.linalg.inv(other)
    return (
        np.abs(change - np.rint(change)).max() < tolerance
        and abs(round(np.linalg.det(np.rint(change)))) == 1
    )


@pytest.mark.parametrize(
    "basis",
    [hexagonal(11.0, 8), [[9.0, 1.0], [-2.0, 14.0]], [[8.0, 0.0], [0.0, 8.0]], [[6, 3], [-4, 13]]],
)
def test_lattice_with_missing_and_stray_disks(basis):
    basis = np.array(basis, dtype=float)
    places, heights = lattice_disks(basis, keep=0.7)
    rng = np.random.default_rng(5)
    stray = rng.uniform(2, 70, (6, 2))
    disks = as_disks(np.vstack([places, stray]), np.append(heights, rng.uniform(0.05, 0.4, 6)))
    lattice = find_lattice(disks, CENTER, 2.0)
    assert isinstance(lattice, Lattice)
    assert same_lattice(lattice.basis, basis, 0.01)
    change = np.rint(lattice.basis @ np.linalg.inv(basis))
    deviation = lattice.basis - change @ basis
    assert np.abs(deviation / lattice.errors).max() < 4.5
    assert lattice.errors.max() < 0.03
    assert np.abs(lattice.origin - CENTER).max() < 0.1


def test_standard_errors_are_true():
    basis = hexagonal(12.0, 17)
    deviations, errors = [], []
    for seed in range(40):
        lattice = find_lattice(as_disks(*lattice_disks(basis, seed=seed)), CENTER, 2.0)
        change = nearest_basis(lattice.basis, basis)
        lattice = lattice.transformed(change)
        deviations.append(lattice.basis - basis)
        errors.append(lattice.errors)
    pulls = np.array(deviations) / np.array(errors)
    assert 0.8 < pulls.std() < 1.25


def test_of_two_lattices_the_stronger():
    strong, weak = hexagonal(11.0, 8), hexagonal(11.5, 27)
    one, two = lattice_disks(strong), lattice_disks(weak, seed=1)
    disks = as_disks(np.vstack([one[0], two[0][1:]]), np.append(one[1], 0.3 * two[1][1:]))
    assert same_lattice(find_lattice(disks, CENTER, 2.0).basis, strong, 0.02)


def test_oblong_pixels():
    basis = np.array([[9.0, 1.0], [-2.0, 14.0]])
    disks = as_disks(*lattice_disks(basis))
    lattice = find_lattice(disks, CENTER, 2.0, stretch=(1.5, 1 / 1.5))
    assert same_lattice(lattice.basis, basis, 0.01)


def test_no_lattice_in_disks_without_order():
    refused = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        places = np.vstack([CENTER, rng.uniform(2, 72, (14, 2))])
        found = find_lattice(as_disks(places, rng.uniform(0.1, 1, 15)), CENTER, 2.0)
        refused += isinstance(found, NoLattice)
    assert refused == 12


def test_too_few_disks_are_named():
    found = find_lattice(as_disks(np.array([CENTER, [3.0, 4.0]]), np.ones(2)), CENTER, 2.0)
    assert "1 disks were found" in found.reason


def test_reduced_basis_is_the_shortest():
    basis = np.array([[5.0, 1.0], [13.0, 9.0]])
    reduced = reduce_basis(basis)
    assert abs(np.linalg.det(reduced)) == pytest.approx(abs(np.linalg.det(basis)))
    multiples = np.mgrid[-6:7, -6:7].reshape(2, -1).T
    lengths = np.sort(np.hypot(*(multiples @ basis).T))
    assert sorted(np.hypot(*reduced.T)) == pytest.approx([lengths[1], lengths[3]])


@pytest.mark.parametrize("turn", [3.0, -20.0, 57.0, 63.0, 121.0])
def test_nearest_basis_undoes_symmetry(turn):
    reference, turned = hexagonal(10.0, 5), hexagonal(10.0, 5 + turn)
    change = nearest_basis(turned, reference)
    cosine = (change @ turned * reference).sum(axis=1) / 100
    smallest = abs((turn + 30) % 60 - 30)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) == pytest.approx([smallest] * 2, abs=1e-5)
    assert np.linalg.det(change) == pytest.approx(1)


def test_basis_of_a_skew_reference_is_reached():
    reference = np.array([[10.0, 0.0], [20.0, 11.0]])  # not reduced
    basis = np.array([[10.1, 0.1], [0.1, 11.2]])
    change = nearest_basis(basis, reference)
    assert np.abs(change @ basis - reference).max() < 0.6
