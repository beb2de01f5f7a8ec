"""The geometry of scans that are coarser than the specimen's detail."""

from dataclasses import replace

import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho import data
from hs_autoptycho.ptycho.geometry_estimate import flip_matrix
from hs_autoptycho.ptycho.geometry_search import stands_out, strongest_explained
from hs_autoptycho.ptycho.sidebands import Stack, displacement_matrix

POINT = np.array([0.4, 2.1, 0.3, -0.2])
# cycles a scan pixel: as it is seen, one too many, two too few and one too many
FREQUENCIES = np.array([[0.3, 0.2], [0.3, 0.8], [-1.75, 1.15]])
SEEN = np.array([[0.3, 0.2], [-0.3, 0.2], [0.25, 0.15]])


def crystal(frequencies, noise=0.0):
    """Bright-field images (k; 40, 44) of a crystal of few frequencies, as the model has them."""
    places = np.stack(np.mgrid[-6:7, -6:7], -1).reshape(-1, 2) / 6.5
    places = places[np.hypot(*places.T) < 0.93]
    x = np.stack(np.mgrid[:40, :44], -1)
    reach = 0.45
    shifts = places @ displacement_matrix(*POINT).T
    images = noise * np.random.default_rng(0).normal(size=(len(places), 40, 44))
    turned = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    for i, f in enumerate(frequencies):
        q = reach * turned @ f
        # phase contrast: the overlaps with the disks at Q and at −Q have opposite signs
        parts = [np.hypot(*(places + sign * q).T) < 1 for sign in (-1, 1)]
        wave = np.exp(2j * np.pi * ((x @ f)[None] - (shifts @ f)[:, None, None] + 0.1 * i))
        images += ((parts[0] * 1.0 - parts[1])[:, None, None] * 1j * wave).real
    weights = np.ones(len(places))
    return Stack(images.astype(np.float32), places, weights, reach, 0.1)


def near(images, frequency):
    """The column of a frequency or its opposite."""
    apart = [np.hypot(*(images.frequencies - s * frequency).T) for s in (1, -1)]
    return int(np.argmin(np.minimum(*apart)))


def test_settled_frequencies_are_those_of_the_crystal():
    images = crystal(FREQUENCIES, 0.1).transform(folded=True)
    places = [near(images, q) for q in SEEN]
    found = images.settled(POINT).frequencies[places]
    seen = images.frequencies[places]
    np.testing.assert_allclose(np.abs(seen), np.abs(SEEN), atol=0.02)
    sign = np.sign((found * FREQUENCIES).sum(1))[:, None]
    np.testing.assert_allclose(sign * found, FREQUENCIES, atol=0.02)
    # whole numbers of cycles away
    orders = images.settled(POINT).frequencies - images.frequencies
    np.testing.assert_allclose(orders, np.round(orders), atol=1e-12)
    assert np.count_nonzero(orders.any(1)) >= 2


def test_where_nothing_is_folded_nothing_changes():
    images = crystal([[0.3, 0.2], [-0.1, 0.4]], 0.1).transform()
    settled = images.settled(POINT)
    strong = (np.abs(images.spectra) ** 2).sum(0) > 1e-2 * (np.abs(images.spectra) ** 2).sum()
    assert strong.sum() >= 2
    np.testing.assert_array_equal(settled.frequencies[strong], images.frequencies[strong])
    np.testing.assert_array_equal(images.best(np.arange(3.0)), np.arange(3.0))


def test_frequencies_of_a_crystal_stand_out_and_those_of_other_structure_do_not():
    assert stands_out(crystal(FREQUENCIES, 0.1))
    stack = crystal(FREQUENCIES)
    alike = 1.5 * np.random.default_rng(1).normal(size=stack.images.shape).astype(np.float32)
    assert not stands_out(replace(stack, images=alike))
    few = Stack(np.zeros((20, 9, 9), np.float32), np.zeros((20, 2)), np.ones(20), 0.45, 0.1)
    assert not stands_out(few)


def test_unfolded_has_every_order_once():
    images = crystal(FREQUENCIES, 0.1).transform(folded=True).strongest(7)
    unfolded = images.unfolded()
    assert len(unfolded.first) == 7 and unfolded.first[0] == 0
    which = np.repeat(np.arange(7), np.diff(np.append(unfolded.first, unfolded.spectra.shape[1])))
    orders = unfolded.frequencies - images.frequencies[which]
    np.testing.assert_allclose(orders, np.round(orders), atol=1e-12)
    np.testing.assert_array_equal(orders[unfolded.first], 0)
    assert len(np.unique(np.column_stack([which, np.round(orders)]), axis=0)) == len(which)
    # all that are below 2.6 cycles, or the limit of the disks' overlap: π 2.6² of them or so
    assert np.hypot(*unfolded.frequencies.T).max() < 2.6
    assert len(which) / 7 == pytest.approx(np.pi * 2.6**2, rel=0.1)
    np.testing.assert_array_equal(unfolded.spectra, images.spectra[:, which])
    # the best order of each counts, and is no worse than the one that is seen
    more, less = unfolded.merits(POINT), images.merits(POINT)
    assert more.shape == (7,) and np.all(more >= less - 1e-3 * less.max())
    assert more.sum() > 1.5 * less.sum()


def test_what_a_geometry_explains():
    stack = crystal(FREQUENCIES, 0.1)
    share, merit = strongest_explained(stack, POINT)
    _, wrong = strongest_explained(stack, POINT + [1.0, 0, 0, 0])
    # two of three frequencies are not what they seem, the strongest ones
    assert 0.02 < share < 0.1 and wrong < 0.4 * merit
    stack = crystal([[0.3, 0.2], [-0.1, 0.4]], 0.1)
    assert strongest_explained(stack, POINT)[0] > 0.8
    assert strongest_explained(stack, POINT + [1.0, 0, 0, 0])[0] < 0.1


@pytest.mark.parametrize(
    ("step", "shape", "dose"),
    [
        (1.41, (24, 27), 300.0),
        pytest.param(2.6, (20, 17), 1e4, marks=pytest.mark.slow),
        (3.9, (13, 14), 300.0),
    ],
)
def test_a_lattice_with_periods_below_two_steps(step, shape, dose):
    """The planes of MoS2 are 2.7 Å apart, or less."""
    settings = {"scan_shape": shape, "scan_step": step, "dose": dose}
    microscope = data.SimulatedMicroscope(settings=settings, random_state=1)
    scan = microscope.acquire({"defocus": 120.0, "scan_rotation": -20.0})
    found = hs_autoptycho.estimate_geometry(scan)
    assert found.scan_rotation == pytest.approx(microscope.offset("scan_rotation", 0) - 20, abs=0.7)
    # one slice in the middle of the bilayer has 5 Å less than its first plane of atoms
    assert found.defocus == pytest.approx(microscope.offset("defocus", 0) + 115, abs=6)
    assert abs(found.C12a) < 6 and abs(found.C12b) < 6
    assert found.detector_flip == "none" and "coarser" in found.notes[0]
    assert found.defocus_error < 10 and found.scan_rotation_error < 1


@pytest.mark.slow
def test_the_handedness_of_a_coarse_scan():
    settings = {"scan_shape": (17, 19), "scan_step": 2.6}
    scan = data.SimulatedMicroscope(settings=settings).acquire({"defocus": 150.0})
    right = hs_autoptycho.estimate_geometry(scan)
    scan.data = scan.data.swapaxes(2, 3)  # the detector is square
    found = hs_autoptycho.estimate_geometry(scan)
    assert (right.detector_flip, found.detector_flip) == ("none", "transpose")
    moved, expected = (
        displacement_matrix(np.radians(e.scan_rotation), e.defocus, e.C12a, e.C12b)
        for e in (found, right)
    )
    # images of the detector as it was turned are displaced as those of the right one
    assert np.abs(moved @ flip_matrix("transpose") - expected @ flip_matrix("none")).max() > 50
    assert np.abs(moved - expected).max() < 3
