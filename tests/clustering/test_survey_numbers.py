"""What a sample tells, in numbers: squares of the scan, bad boxes, the beam and its way."""

import numpy as np
import pytest

from hs_autoptycho.clustering import survey as module
from hs_autoptycho.clustering.survey import PatternError, Sample, Survey, sample_blocks, survey

# --- which positions --------------------------------------------------------------------------


def test_squares_of_a_scan():
    assert sample_blocks((100, 90)) == [
        (0, 16, 16, 32), (0, 16, 32, 48), (0, 16, 48, 64), (0, 16, 64, 80), (0, 16, 80, 90),
        (16, 32, 0, 16), (16, 32, 32, 48), (32, 48, 16, 32), (32, 48, 32, 48), (32, 48, 48, 64),
        (32, 48, 80, 90), (48, 64, 0, 16), (48, 64, 32, 48), (48, 64, 64, 80), (64, 80, 48, 64),
        (64, 80, 80, 90), (80, 96, 0, 16), (80, 96, 16, 32), (80, 96, 32, 48), (80, 96, 64, 80),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "shape, n",
    [
        ((64, 64), 16),  # all of 4096 positions
        ((241, 17), 32),  # and of 4097 as many squares as hold that many, here all
        ((64, 128), 16),
        ((256, 260), 17),  # one in sixteen positions
        ((2000, 2000), 32),  # 8192 of them at most
        ((3, 7), 1),
    ],
)
def test_number_of_squares(shape, n):
    assert len(sample_blocks(shape)) == n


@pytest.mark.parametrize("shape, box", [((128, 90), 1), ((129, 90), 2), ((90, 257), 3)])
def test_boxes_along_a_pattern(shape, box):
    assert module.box_size(shape) == box
    assert module.boxes_along(shape) == (shape[0] // box, shape[1] // box)


def test_whole_scan_is_read_along_its_own_chunks(monkeypatch):
    asked = []

    def reduce_patterns(data, statistic, *, blocks, **options):
        asked.append(blocks)
        statistic.process(data.reshape(-1, *data.shape[2:]), np.arange(20))
        return statistic

    monkeypatch.setattr(module, "reduce_patterns", reduce_patterns)
    data = np.random.default_rng(0).poisson(3.0, (4, 5, 16, 18))
    survey(data)
    monkeypatch.setattr(module, "sample_blocks", lambda shape: [(0, 4, 0, 4), (1, 3, 4, 5)])
    survey(data)
    assert asked == [None, [(0, 4, 0, 4), (1, 3, 4, 5)]]


def test_sample_of_boxes():
    data = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    sample = Sample(2)
    sample.process(data, np.array([7, 3]))
    other = sample.empty()
    assert other.box == 2 and other.whole and other.parts == []
    spoiled = np.stack([data[0] + 0.25, data[1]])
    spoiled[1, 0, 0] = np.nan
    other.process(spoiled, np.array([1, 9]))
    # four quarters make a whole number, but for what is not used
    assert sample.whole and other.whole
    other.process(data[:1] + 0.125, np.array([5]))
    assert not other.whole
    sample.merge(other)
    assert not sample.whole
    positions, boxes, flags = sample.collected()
    assert positions.tolist() == [1, 3, 5, 7, 9]
    assert boxes.shape == (5, 2, 3) and boxes.dtype == np.float32
    assert flags.dtype == np.int8 and (flags[:4] == 0).all() and flags[4] > 0
    assert boxes[3, 0].tolist() == [0 + 1 + 7 + 8, 2 + 3 + 9 + 10, 4 + 5 + 11 + 12]
    assert boxes[3, 1].tolist() == [14 + 15 + 21 + 22, 96 - 16, 18 + 19 + 25 + 26]
    np.testing.assert_allclose(boxes[0], boxes[3] + 1)
    np.testing.assert_allclose(boxes[2], boxes[3] + 0.5)
    assert not boxes[4].any()
    # a sum that was not whole remains so
    sample.merge(Sample(2))
    assert not sample.whole


# --- pixels -----------------------------------------------------------------------------------


def with_beam(level=9.0):
    """A level with a plateau in the middle, far brighter than all else."""
    total = np.full((25, 40), level)
    total[9:16, 16:23] = 1e5
    return total


def bad_at(total):
    return [tuple(place) for place in np.argwhere(module._bad_boxes(total)).tolist()]


@pytest.mark.parametrize("place", [(4, 5), (0, 0), (24, 20), (12, 39)])
def test_bad_box_stands_far_above_its_surroundings(place):
    total = with_beam()
    # four times 9, eight times its root, a fifth of the mean, and 10
    limit = 4 * 9 + 8 * 3 + 10 + 0.2 * (total.sum() - 9) / total.size
    limit /= 1 - 0.2 / total.size
    for value, bad in ((limit - 0.01, []), (limit + 0.01, [place])):
        total[place] = value
        assert bad_at(total) == bad


def test_mean_is_that_of_lit_boxes():
    total = with_beam(0.0)
    limit = (10 + 0.2 * 49e5 / 50) / (1 - 0.2 / 50)
    for value, bad in ((limit - 0.01, []), (limit + 0.01, [(4, 5)])):
        total[4, 5] = value
        assert bad_at(total) == bad


def test_one_lit_box():
    for value, bad in ((12.4, []), (12.6, [(4, 5)])):
        total = np.zeros((25, 40))
        total[4, 5] = value
        assert bad_at(total) == bad


def test_bad_box_stands_alone():
    for value, bad in ((24_990.0, []), (25_010.0, [(4, 5)])):
        total = with_beam()
        total[4, 5], total[5, 6] = value, 1e4
        assert bad_at(total) == bad


def test_brightest_box_is_the_beam_if_it_spills_over():
    # three times 9, eight times its root, and 10
    for neighbour, bad in ((60.9, [(4, 5)]), (61.1, [])):
        total = np.full((25, 40), 9.0)
        total[4, 5], total[4, 6] = 1e4, neighbour
        assert bad_at(total) == bad


def test_many_bad_boxes_are_none():
    total = with_beam()
    places = [(2, 3), (2, 30), (20, 7), (22, 33)]
    for place in places:
        total[place] = 3e4
    assert bad_at(total) == places
    total[6, 6] = 3e4  # one in two hundred
    assert bad_at(total) == []


def test_weights_of_the_neighbours_of_bad_boxes():
    bad = np.zeros((5, 6), bool)
    bad[0, 0] = bad[2, 3] = bad[2, 4] = bad[4, 5] = True
    third, seventh = 1 / 3, 1 / 7
    expected = [
        [0, 1 + third, 1, 1, 1, 1],
        [1 + third, 1 + third, 1 + seventh, 1 + 2 * seventh, 1 + 2 * seventh, 1 + seventh],
        [1, 1, 1 + seventh, 0, 0, 1 + seventh],
        [1, 1, 1 + seventh, 1 + 2 * seventh, 1 + 2 * seventh + third, 1 + seventh + third],
        [1, 1, 1, 1, 1 + third, 0],
    ]
    np.testing.assert_allclose(module._box_weights(bad), expected)
    assert not module._box_weights(np.ones((2, 3), bool)).any()


# --- the beam ---------------------------------------------------------------------------------


def test_beam_of_a_drawn_pattern():
    rows, cols = np.indices((20, 27))
    y, x = rows - 8.3, cols - 15.8
    image = 50 * np.exp(-(y**2 / 5 + x**2 / 9 + x * y / 8)) + 0.3 * rows
    image += 8 * np.exp(-((rows - 15) ** 2 + (cols - 4) ** 2))
    center, radius = module._find_beam(image)
    assert center == pytest.approx([8.31602856, 15.64160944], rel=1e-5)
    assert radius == pytest.approx(np.sqrt(24 / np.pi))
    # of a single box, the blur: itself and its four neighbours
    center, radius = module._find_beam(np.where((rows == 7) & (cols == 9), 3.0, 0.0))
    assert center == pytest.approx([7, 9]) and radius == pytest.approx(np.sqrt(5 / np.pi))


SCAN = (9, 11)


@pytest.fixture(scope="module")
def moving():
    """A spot that moves, on a ground that weighs on its place; six in seven positions."""
    scan_rows, scan_columns = np.divmod(np.arange(99), 11)
    u, v = scan_rows / 4 - 1, scan_columns / 5 - 1
    rows, cols = np.indices((20, 27))
    row = (9.5 + 0.8 * u - 0.5 * v**2 + 0.3 * u * v)[:, None, None]
    column = (13 + 0.6 * v + 0.4 * u**2)[:, None, None]
    boxes = 40 * np.exp(-((rows - row) ** 2 + (cols - column) ** 2) / 3) + 0.05 * rows
    boxes += np.sin(np.arange(99)[:, None, None] + rows * cols) ** 2
    positions = np.flatnonzero(np.arange(99) % 7 != 3)
    return positions, boxes[positions].astype(np.float32)


def test_way_of_the_beam(moving, monkeypatch):
    bad = np.zeros((20, 27), bool)
    bad[8, 14] = True
    windows, real = [], module.moments

    def moments(boxes, mask, beam, window):
        assert mask.sum() == 20 * 27 - 1 and mask[8, 14] == 0
        windows.append(window)
        return real(boxes, mask, beam, window)

    monkeypatch.setattr(module, "moments", moments)
    beam, notes = module._descan(*moving, bad, np.array([9.4, 13.2]), 2.1, SCAN)
    assert notes == [] and beam.shape == (9, 11, 2) and windows == [4.2] * 4
    at = ([0, 8, 4, 2, 8], [0, 10, 5, 9, 0])
    assert beam[at].ravel() == pytest.approx(
        [8.57394179, 12.72123818, 10.19478429, 13.99951715, 9.60009749, 12.95698965,
         8.76041669, 13.54432385, 9.5641317, 12.77100311], rel=1e-6,
    )  # fmt: skip
    module._descan(*moving, bad, np.array([9.4, 13.2]), 1.5, SCAN)
    assert windows[4:] == [3.5] * 4


def test_way_of_the_beam_needs_positions(moving):
    """Eight for each of the six terms of the surface, and not in one row."""
    bad, center = np.zeros((20, 27), bool), np.array([9.4, 13.2])
    for n, followed in ((47, False), (48, True)):
        positions, boxes = moving[0][:n], moving[1][:n]
        beam, notes = module._descan(positions, boxes, bad, center, 2.1, SCAN)
        assert (notes == []) == followed and (np.ptp(beam, axis=(0, 1)) > 0).all() == followed
    assert (
        "too few positions"
        in module._descan(moving[0][:47], moving[1][:47], bad, center, 2.1, SCAN)[1][0]
    )
    row = np.arange(60), np.repeat(moving[1][:1], 60, axis=0)
    beam, notes = module._descan(*row, bad, center, 2.1, (2, 70))
    assert "too few positions" in notes[0]
    np.testing.assert_array_equal(beam, np.broadcast_to(center, (2, 70, 2)))


def test_beam_may_move_by_a_quarter_of_the_detector(monkeypatch):
    boxes = np.ones((99, 20, 27), np.float32)
    rows, columns = np.divmod(np.arange(99), 11)
    center = np.array([9.4, 13.2])
    for last, followed in (
        ((14.39, 19.9), True), ((14.41, 19.9), False), ((14.3, 19.97), False),
        ((4.41, 6.5), True), ((4.39, 6.5), False),
    ):  # fmt: skip
        way = center + np.outer(rows / 8, np.subtract(last, center))
        monkeypatch.setattr(module, "moments", lambda *_, way=way: (way, np.ones(99)))
        beam, notes = module._descan(
            np.arange(99), boxes, np.zeros((20, 27), bool), center, 2.0, SCAN
        )
        assert (notes == []) == followed
        assert beam[8, 3] == pytest.approx(last if followed else center)


def test_surfaces_over_the_scan():
    rows, columns = np.divmod(np.arange(15), 5)
    terms = module._polynomial(rows, columns, (3, 5), 2)
    assert terms[0].tolist() == [1, -1, 1, -1, 1, 1]
    assert terms[13].tolist() == [1, 0.5, 0.25, 1, 0.5, 1]
    assert module._polynomial(rows, columns, (3, 5), 1)[11].tolist() == [1, -0.5, 1]
    line = module._polynomial(np.zeros(4), np.arange(4), (1, 4), 1)
    assert line[:, 2].tolist() == [-1] * 4


# --- all together -----------------------------------------------------------------------------


def spots(radius, shape=(40, 44), scan=(6, 9)):
    rows, cols = np.indices(shape)
    disk = np.hypot(rows - 18.0, cols - 23.0) <= radius
    expected = np.where(disk, 30.0, 0.4)
    return np.random.default_rng(2).poisson(expected, (*scan, *shape)).astype(np.uint16)


@pytest.mark.parametrize("radius, nanobeam", [(4.6, True), (5.4, False)])
def test_nanobeam_is_a_quarter_of_the_detector(radius, nanobeam):
    found = survey(spots(radius))
    assert found.radius == pytest.approx(np.sqrt((69 if nanobeam else 97) / np.pi), rel=0.02)
    assert found.nanobeam == (2 * found.radius <= 10) == nanobeam
    assert (np.ptp(found.beam, axis=(0, 1)) > 0).all() == nanobeam
    assert found.center == pytest.approx((18, 23), abs=0.05)


def test_positions_outside_of_the_mask_are_not_in_the_sample():
    data = spots(3.0)
    mask = np.ones((6, 9), bool)
    mask[:, 5:] = False
    assert survey(data, scan_mask=mask).positions.tolist() == np.flatnonzero(mask).tolist()
    data[mask] = 0  # empty: then the others have to do
    assert survey(data, scan_mask=mask).positions.tolist() == np.flatnonzero(~mask).tolist()
    assert survey(data, scan_mask=np.zeros((6, 9), bool)).positions.size == 24


def test_patterns_too_large_for_sums_are_refused():
    data = spots(3.0).astype(np.float64)
    data *= 1e300
    with pytest.raises(PatternError):
        survey(data)


def test_centers_in_boxes():
    beam = np.arange(24.0).reshape(3, 4, 2)
    found = Survey(
        4, np.arange(3), np.ones((3, 5, 6)), True, np.ones((5, 6)), (1, 2), 3, True, beam
    )
    assert found.notes == []
    assert found.centers(np.array([0, 7])).ravel() == pytest.approx(
        [-0.375, -0.125, 12.5 / 4, 13.5 / 4]
    )


def test_beam_of_a_large_detector_is_in_pixels():
    found = survey(spots(9.0, (130, 140), (4, 5)))
    assert found.box == 2 and found.weights.shape == (65, 70)
    assert found.center == pytest.approx((18, 23), abs=0.1)
    assert found.radius == pytest.approx(9, abs=0.7)
    assert found.centers(np.arange(20)).mean(0) == pytest.approx([8.75, 11.25], abs=0.05)
