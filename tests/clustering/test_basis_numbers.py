"""Which nodes of the grid a projection takes, and its columns, of patterns that are given."""

import numpy as np
import pytest

from hs_autoptycho.clustering import basis as module
from hs_autoptycho.clustering.basis import make_projection, shared_noise
from hs_autoptycho.clustering.smoothing import neighbour_sum
from hs_autoptycho.clustering.survey import PatternError, Survey

SCAN = (5, 7)


def surveyed(shape, *, box=1, radius=2.0, nanobeam=False, drift=(0.0, 0.0), image=None, **changed):
    """Patterns that are all alike, with a beam near the middle that moves over the scan."""
    middle = np.array([shape[0] // 2, shape[1] // 2]) * box + (box - 1) / 2
    way = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 5), np.linspace(-0.5, 0.5, 7), indexing="ij"))
    beam = np.ascontiguousarray(middle + np.moveaxis(way, 0, -1) * drift)
    image = np.ones(shape) if image is None else image
    made = {
        "box": box, "positions": np.arange(35), "counts": False, "weights": np.ones(shape),
        "boxes": np.broadcast_to(image, (35, *shape)).astype(np.float32), "center": tuple(middle),
        "radius": radius, "nanobeam": nanobeam, "beam": beam,
    }  # fmt: skip
    return Survey(**{**made, **changed})


@pytest.mark.parametrize("n, kept", [(2**19, 64), (2**19 + 1, 32), (100, 64)])
def test_numbers_that_are_kept(n, kept):
    assert module.n_features(n) == kept


@pytest.mark.parametrize(
    "shape, box, radius, nanobeam, drift, spacing, size",
    [
        ((20, 25), 1, 2.0, False, (0, 0), 1.0, 28),
        ((20, 25), 1, 1.2, True, (0, 0), 1.0, 28),
        ((20, 25), 1, 3.0, True, (0, 0), 2.0, 16),  # the radius over 1.5
        ((20, 25), 2, 6.0, True, (6, -9), 2.0, 16),
        ((100, 122), 1, 2.4, True, (3, 2), 2.0, 64),  # 61 nodes are as many as there may be
    ],
)
def test_nodes_that_are_taken(shape, box, radius, nanobeam, drift, spacing, size):
    found = surveyed(shape, box=box, radius=radius, nanobeam=nanobeam, drift=drift)
    projection, notes = make_projection(found)
    assert not projection.halves and len(notes) == 1
    assert notes[0].startswith("The patterns do not hold whole numbers")
    assert "split by position" in notes[0] and "If there are counts" in notes[0]
    assert projection.grid.spacing == pytest.approx(spacing)
    assert projection.grid.shape == (size, size) and projection.grid.box == box
    rows, cols = ((np.arange(size) - size // 2) * spacing * box for _ in range(2))
    rows, cols = np.meshgrid(rows, cols, indexing="ij")
    inside = np.hypot(rows, cols) >= (1.6 * radius + spacing * box if nanobeam else 0)
    # all positions of the beam, and one and a half nodes more, leave it on the detector
    for offset, n, moved in ((rows, shape[0], drift[0]), (cols, shape[1], drift[1])):
        place, most = offset / box + n // 2, abs(moved) / 2 / box + 1.5 * spacing
        inside &= (place - most >= -0.5) & (place + most <= n - 0.5)
    assert projection.selected.tolist() == np.flatnonzero(inside).tolist()
    assert projection.basis.dtype == np.float32 and len(projection.basis) == inside.sum()


def test_annulus_holds_its_rims():
    projection, _ = make_projection(surveyed((20, 25)), annulus=(3.0, 5.0))
    rows, cols = (node.ravel()[projection.selected] for node in projection.grid.nodes())
    squares = set(np.rint(rows**2 + cols**2).astype(int))
    assert squares == {9, 10, 13, 16, 17, 18, 20, 25}


def test_dark_nodes_are_left_out():
    """Those of less than a thousandth of the mean; a node spreads over three by three pixels."""
    image = np.ones((20, 25))
    image[7:10, 11:14], image[12:15, 8:11], image[4:7, 14:17] = 0.0009, 0.0011, 0.0
    projection, _ = make_projection(surveyed((20, 25), image=image))
    node = {place: (place[0] - 10 + 14) * 28 + place[1] - 12 + 14 for place in np.ndindex(20, 25)}
    taken = [node[place] in projection.selected for place in ((8, 12), (13, 9), (5, 15), (5, 7))]
    assert taken == [False, True, False, True]


def test_two_nodes_at_least():
    image = np.zeros((20, 25))
    image[10, 14] = 1.0  # of the five nodes within a pixel of the beam this reaches one
    with pytest.raises(PatternError, match="Nothing is left"):
        make_projection(surveyed((20, 25), image=image), annulus=(0.0, 1.0))
    image[10, 10] = 1.0
    projection, _ = make_projection(surveyed((20, 25), image=image), annulus=(0.0, 1.0))
    assert projection.selected.tolist() == [14 * 28 + 13, 14 * 28 + 15]


@pytest.mark.parametrize("shared, halves", [(0.099, True), (0.1, True), (0.101, False)])
def test_halves_that_share_noise(monkeypatch, shared, halves):
    def shared_noise(first, second, positions, scan_shape, inside):
        # the halves of each pattern, at random
        np.testing.assert_allclose(first.sum() + second.sum(), 35 * 6 * 500, rtol=1e-5)
        assert 0 < abs(first.sum() / second.sum() - 1) < 0.02
        assert scan_shape == SCAN and positions.tolist() == list(range(35))
        return shared

    monkeypatch.setattr(module, "shared_noise", shared_noise)
    image = np.full((20, 25), 6.0)
    projection, notes = make_projection(surveyed((20, 25), image=image, counts=True))
    assert projection.halves == halves and len(notes) == (not halves)
    assert halves or "10% of the noise is shared" in notes[0]


def test_only_halves_can_share_noise(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "shared_noise", lambda *arguments: asked.append(1) or 0.5)
    assert not make_projection(surveyed((20, 25)))[0].halves
    with pytest.raises(PatternError):
        make_projection(surveyed((20, 25), counts=True), annulus=(90.0, 99.0))
    assert asked == []


# --- columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("thinned", [True, False])
def test_components_are_those_of_the_covariance_with_neighbours(thinned):
    """Where there are fewer nodes than numbers to keep, all of its eigenvectors."""
    rng = np.random.default_rng(0)
    scan = (9, 11)
    mean = np.array([4.0, 9.0, 1.0, 16.0, 2.0])
    y, x = np.divmod(np.arange(99), 11)
    shape = np.stack([x > 4, y / 9, x * y / 99, x < 3, (x + y) / 20], 1)
    nodes = (mean * (1 + 0.3 * shape) + 0.1 * rng.normal(size=(99, 5))).astype(np.float32)
    positions = np.flatnonzero(rng.random(99) > 0.1)
    nodes = nodes[positions]
    found = surveyed((8, 9), positions=positions, beam=np.zeros((*scan, 2)))
    basis = module._coherent_components(nodes, mean, found, thinned, 0)
    scaled = nodes / np.sqrt(mean)
    scaled -= np.outer(nodes.sum(1) / nodes.sum(), scaled.sum(0))
    rows, cols = y[positions], x[positions]
    if not thinned:
        odd = (rows + cols) % 2 == 1
        scaled, rows, cols = scaled[odd], rows[odd], cols[odd]
    image = np.zeros((*scan, 5))
    image[rows, cols] = scaled
    covariance = scaled.T @ neighbour_sum(image, 1.5)[rows, cols]
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    wanted = vectors[:, ::-1] / np.sqrt(mean)[:, None]
    assert basis.shape == (5, 5) and (np.diff(values) > 0).all()
    np.testing.assert_allclose(np.abs(basis), np.abs(wanted), atol=2e-3)


def test_leading_components_only(monkeypatch):
    monkeypatch.setattr(module, "n_features", lambda n: 3)
    rng = np.random.default_rng(1)
    y, x = np.divmod(np.arange(99), 11)
    nodes = (5 + rng.normal(size=(99, 20))).astype(np.float32)
    nodes[:, 4] += 9 * (x > 5)
    nodes[:, 7] += 5 * (y > 4)
    found = surveyed((8, 9), positions=np.arange(99), beam=np.zeros((9, 11, 2)))
    basis = module._coherent_components(nodes, nodes.mean(0), found, True, 0)
    assert basis.shape == (20, 3)
    assert np.abs(basis[:, 0]).argmax() == 4 and np.abs(basis[:, 1]).argmax() == 7


def test_nodes_of_the_highest_deviation():
    rng = np.random.default_rng(2)
    deviation = rng.permutation(80) + 1.0
    nodes = np.array([[-1.0], [1.0]]) * deviation
    basis = module._highest_deviation(nodes, np.ones(80))
    assert basis.shape == (80, 64) and (basis.sum(0) == 1).all()
    assert np.flatnonzero(basis.any(1)).tolist() == np.flatnonzero(deviation > 16).tolist()
    assert (np.diff(basis.argmax(0)) > 0).all()  # in the order of the nodes
    assert module._highest_deviation(nodes[:, :9], np.ones(9)).tolist() == np.eye(9).tolist()


def test_rings_are_of_one_width():
    distance = np.array([0.0, 0.99, 1.01, 24.0, 22.99, 5.5])
    basis = module._rings(distance)
    # rings 0, 1, 5, 22 and 23 hold something
    assert basis.tolist() == [
        [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
    ]  # fmt: skip


# --- shared noise -----------------------------------------------------------------------------


def test_shared_noise_of_diagonal_neighbours():
    rng = np.random.default_rng(3)
    scan = (12, 9)
    first, second = rng.normal(size=(2, 108, 4))
    second += 0.5 * first
    positions = np.flatnonzero(rng.random(108) > 0.05)
    inside = np.array([True, True, False, True])
    ratios = []
    for node in (0, 1, 3):
        covariance, variance = [], []
        for y, x in np.ndindex(11, 8):
            if y * 9 + x in positions and (y + 1) * 9 + x + 1 in positions:
                a, b = ((h[(y + 1) * 9 + x + 1] - h[y * 9 + x])[node] for h in (first, second))
                covariance.append(a * b)
                variance.append((a * a + b * b) / 2)
        ratios.append(np.mean(covariance) / np.mean(variance))
    found = shared_noise(first[positions], second[positions], positions, scan, inside)
    assert found == pytest.approx(np.median(ratios))
    # nodes that never vary do not count
    first[:, :2] = second[:, :2] = 1.0
    found = shared_noise(first[positions], second[positions], positions, scan, inside)
    assert found == pytest.approx(ratios[2])
    assert shared_noise(first[:, :2], second[:, :2], np.arange(108), scan, inside[:2]) == 0


def test_shared_noise_needs_64_pairs():
    rng = np.random.default_rng(4)
    half = rng.normal(size=(81, 2))
    for n, found in ((81, 1.0), (80, 0.0)):  # eight times eight pairs, and one less
        positions = np.arange(n)
        assert shared_noise(half[:n], half[:n], positions, (9, 9), np.ones(2, bool)) == found
