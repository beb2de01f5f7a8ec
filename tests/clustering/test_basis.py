"""What the patterns are projected on."""

from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.clustering.basis import make_projection, shared_noise
from hs_autoptycho.clustering.features import from_thinned
from hs_autoptycho.clustering.node_space import node_space
from hs_autoptycho.clustering.streaming import map_patterns
from hs_autoptycho.clustering.survey import PatternError, survey
from hs_autoptycho.data import ws2_wse2_junction

OPTIONS = {"scan_shape": (26, 34), "detector_shape": (64, 72)}


def junction(**options):
    return ws2_wse2_junction(**{**OPTIONS, "electrons": 1000, **options}).data


@pytest.fixture(scope="module")
def found():
    return survey(junction())


def distances(kernel):
    row, column = (node.ravel()[kernel.selected] for node in kernel.grid.nodes())
    return np.hypot(row, column)


def test_direct_beam_is_left_out(found):
    kernel, _ = make_projection(found)
    assert kernel.halves and kernel.seed == 0
    assert kernel.basis.dtype == np.float32 and kernel.basis.shape == (len(kernel.selected), 64)
    assert distances(kernel).min() >= 1.6 * found.radius + 1
    assert kernel.n_values == 1 + 2 * 65
    # nodes that all patterns have on the detector
    row, column = (node.ravel()[kernel.selected] for node in kernel.grid.nodes())
    assert row.min() + 32 > 0.5 and row.max() + 32 < 63 and column.max() + 36 < 71


@pytest.mark.parametrize("annulus", [(8.0, 20.0), (0.0, 5.0)])
def test_annulus(found, annulus):
    kernel, _ = make_projection(found, annulus=annulus)
    away = distances(kernel)
    assert annulus[0] <= away.min() < annulus[0] + 1 and annulus[1] - 1 < away.max() <= annulus[1]


def test_descan_takes_the_rim_away():
    still, moving = (make_projection(survey(junction(descan=d)))[0] for d in ((0, 0), (8, 0)))
    rows = [np.ptp(k.grid.nodes()[0].ravel()[k.selected]) for k in (still, moving)]
    columns = [np.ptp(k.grid.nodes()[1].ravel()[k.selected]) for k in (still, moving)]
    assert rows[0] - rows[1] == pytest.approx(8, abs=3)
    assert columns[0] - columns[1] == pytest.approx(0, abs=2.5)


def test_nothing_left_is_an_error(found):
    with pytest.raises(PatternError, match="Give another `mask`"):
        make_projection(found, annulus=(500.0, 600.0))
    with pytest.raises(PatternError, match="Nothing is left"):
        make_projection(replace(found, weights=np.zeros_like(found.weights)))


def test_same_seed_same_basis(found):
    one, two = (make_projection(found, random_state=3)[0] for _ in range(2))
    np.testing.assert_array_equal(one.basis, two.basis)
    np.testing.assert_array_equal(one.selected, two.selected)
    other, _ = make_projection(found, random_state=4)
    assert other.seed == 4 and not np.array_equal(other.basis, one.basis)


def components(data, **options):
    kernel, _ = make_projection(survey(data), **options)
    values = map_patterns(data, kernel, kernel.n_values)
    features = from_thinned(values[..., 1:], values[..., 0] == 0)
    assert features.splitting == "counts"
    return node_space(features.halves[0], features.valid, 0)


@pytest.mark.parametrize("seed", range(4))
def test_noise_makes_no_component(seed):
    """The basis is made from one half of the counts, and it is the other that it is tested on."""
    space = components(junction(single_domain="WSe2 flat", random_state=seed), random_state=seed)
    assert space.strengths[0] < 1.6


def test_structure_makes_components():
    space = components(junction())
    assert space.strengths[0] > 20 and (space.strengths > 1.5).sum() >= 4


def test_components_of_intensities_come_from_one_colour():
    """The other colour of the checkerboard is to test them."""
    found = survey(junction(scan_shape=(20, 24)) * np.float32(0.37))
    assert not found.counts
    even = np.add(*np.divmod(found.positions, 24)) % 2 == 0

    def leading(order):
        kernel, _ = make_projection(replace(found, boxes=found.boxes[order]))
        return np.abs(kernel.basis[:, :3])

    # permuted within one colour, means and sums over all patterns stay as they are
    rng = np.random.default_rng(0)
    plain, permuted = np.arange(480), np.arange(480)
    permuted[even] = rng.permutation(permuted[even])
    np.testing.assert_allclose(leading(permuted), leading(plain), atol=2e-3)
    permuted = np.arange(480)
    permuted[~even] = rng.permutation(permuted[~even])
    assert np.abs(leading(permuted) - leading(plain)).max() > 0.02


def test_standard_deviation_as_in_the_paper(found):
    kernel, _ = make_projection(found, features="std")
    assert kernel.basis.shape == (len(kernel.selected), 64)
    assert (kernel.basis.sum(0) == 1).all() and (kernel.basis.sum(1) <= 1).all()
    chosen = kernel.basis.any(1)
    data = found.boxes - found.boxes.mean(0)
    # nearly the pixels whose deviation is highest, here looked for on the detector itself
    deviation = np.sqrt((data**2).mean(0))
    row, column = (node.ravel()[kernel.selected][chosen] for node in kernel.grid.nodes())
    rank = np.argsort(np.argsort(-deviation, axis=None)).reshape(deviation.shape)
    at = rank[np.rint(row + 32).astype(int), np.rint(column + 36).astype(int)]
    assert np.median(at) < 150


def test_rings_for_a_wide_disk(draw_disk):
    disk = draw_disk((40, 44), (19.4, 21.2), 12.0, 0.4)
    data = np.random.default_rng(0).poisson(3 * disk + 0.05, (12, 14, 40, 44)).astype(np.uint8)
    kernel, _ = make_projection(survey(data))
    assert (kernel.basis.sum(1) == 1).all() and set(np.unique(kernel.basis)) == {0, 1}
    away = distances(kernel)
    assert away.min() < 1  # no direct beam is left out
    ring = kernel.basis.argmax(1)
    assert (np.diff(ring[np.argsort(away)]) >= 0).all()  # rings are in order, and do not overlap
    assert kernel.basis.any(0).all() and 10 <= kernel.basis.shape[1] <= 24


@pytest.mark.parametrize("seed", range(4))
def test_noise_shared_by_the_halves(seed):
    """Of counts times f the halves share (f - 1) / (f + 1) of the noise; of Poisson counts none."""
    shape, n = (30, 37), 6
    rng = np.random.default_rng(seed)
    positions = np.flatnonzero(rng.random(shape[0] * shape[1]) > 0.1)
    for factor, expected in ((1, 0), (2, 1 / 3), (3, 0.5)):
        counts = factor * rng.poisson(np.linspace(20, 40, n), (len(positions), n))
        first = rng.binomial(counts, 0.5).astype(np.float32)
        second = counts.astype(np.float32) - first
        # which holds beside a step in one of the nodes, too
        step = np.where(positions % shape[1] > 15, 40.0, 0)[:, None] * (np.arange(n) == 2)
        for a, b in ((first, second), (first + step, second + step)):
            shared = shared_noise(a, b, positions, shape, np.ones(n, bool))
            assert shared == pytest.approx(expected, abs=0.07)
    assert shared_noise(first[:9], second[:9], positions[:9], shape, np.ones(n, bool)) == 0


def test_scaled_counts_are_to_be_split_by_position():
    data = junction()
    kernel, notes = make_projection(survey(data))
    assert kernel.halves and notes == []
    kernel, notes = make_projection(survey(data * np.uint16(3)))
    assert not kernel.halves and len(notes) == 1 and "not electrons" in notes[0]
