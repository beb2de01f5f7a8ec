"""Which counts, positions and pixels are held out, and what is made of their deviances."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from hs_autoptycho.tuning import held_out
from hs_autoptycho.tuning.held_out import (
    HeldOut,
    HeldOutCounts,
    HeldOutPixels,
    HeldOutPositions,
    _evenly,
    _tiles,
    _Watch,
    _without_saturated,
)
from hs_autoptycho.tuning.scores import Score
from hs_autoptycho.tuning.trial import Fidelity


def test_evenly_spread_indices():
    assert _evenly(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert _evenly(9, 3).tolist() == [0, 4, 8]
    assert _evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert _evenly(7, 1).tolist() == [0]


def test_tiles():
    # eight along each side, or as many as there are positions
    tiles = _tiles((16, 24)).reshape(16, 24)
    assert np.array_equal(tiles[::2, ::3], np.arange(64).reshape(8, 8))
    assert np.array_equal(np.bincount(tiles.ravel()), np.full(64, 6))
    assert _tiles((2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.unique(_tiles((9, 5))).size == 40


def an_experiment(scan_shape=(20, 24), detector_shape=(22, 31), **changed):
    return SimpleNamespace(
        **{
            "geometry": SimpleNamespace(scan_shape=scan_shape, detector_shape=detector_shape),
            "mask": None,
            "counted": False,
            "saturation": math.inf,
            "largest": np.zeros(detector_shape),
            "with_mask": lambda mask: mask,
            **changed,
        }
    )


@pytest.fixture
def given(monkeypatch):
    """What the objectives give to what they share."""
    calls = []

    def init(self, *experiments, **options):
        self.notes, self._facts = [], {}
        calls.append((experiments, options))

    monkeypatch.setattr(HeldOut, "__init__", init)
    return calls


@pytest.mark.parametrize(("scan_shape", "n"), [((20, 24), 38), ((3, 4), 2), ((5, 5), 2)])
def test_positions_held_out(given, scan_shape, n):
    """One of each of so many stretches of the scan, 8 % of all."""
    experiment = an_experiment(scan_shape, counted=True)
    HeldOutPositions(experiment, random_state=3, engine="one")
    ((fitted, test), options) = given[0]
    assert fitted is test is experiment
    assert options["counted"] is True and options["engine"] == "one"
    held = options["held"]
    assert held.shape == scan_shape and held.sum() == n
    total = math.prod(scan_shape)
    edges = [int(i * total / n) for i in range(n + 1)]
    counts = [held.ravel()[a:b].sum() for a, b in zip(edges, edges[1:], strict=False)]
    assert counts == [1] * n
    everywhere = np.zeros(scan_shape, bool)
    for seed in range(200):
        HeldOutPositions(experiment, random_state=seed)
        everywhere |= given[-1][1]["held"]
    assert everywhere.all()


def test_pixels_held_out(given):
    """One of twelve blocks of four by four pixels."""
    HeldOutPixels(an_experiment(), random_state=3)
    fitted, test = given[0][0]
    assert np.array_equal(fitted, ~test) and test.shape == (22, 31)
    padded = np.zeros((24, 32), bool)
    padded[:22, :31] = test
    blocks = padded.reshape(6, 4, 8, 4).any(axis=(1, 3))
    whole = np.kron(blocks, np.ones((4, 4), bool))[:22, :31]
    assert np.array_equal(whole, test)
    assert blocks.ravel().reshape(4, 12).sum(axis=1).tolist() == [1] * 4
    # of a number that twelve does not divide the last few may have none
    HeldOutPixels(an_experiment(detector_shape=(20, 28)), random_state=1)
    test = given[-1][0][1]
    blocks = test.reshape(5, 4, 7, 4).all(axis=(1, 3)).ravel()
    assert [blocks[:12].sum(), blocks[12:24].sum()] == [1, 1] and blocks[24:].sum() <= 1
    everywhere = np.zeros((20, 28), bool)
    for seed in range(100):
        HeldOutPixels(an_experiment(detector_shape=(20, 28)), random_state=seed)
        everywhere |= given[-1][0][1]
    assert everywhere.all()


def test_pixels_that_are_not_used(given):
    mask = np.random.default_rng(0).random((22, 31)) < 0.7
    HeldOutPixels(an_experiment(mask=mask, counted=True), random_state=3)
    (fitted, test), options = given[0]
    assert np.array_equal(fitted | test, mask) and not (fitted & test).any()
    assert test.any() and options["counted"] is True


def test_counts_held_out(given, monkeypatch):
    """A tenth of them."""
    split = []
    experiment = an_experiment(split=lambda *given: split.append(given) or ("fitted", "test"))
    monkeypatch.setattr(held_out, "as_counts", lambda experiment: (experiment, None))
    assert HeldOutCounts(experiment, random_state=5).notes == []
    assert split == [(0.9, 5)] and given[0][0] == ("fitted", "test")
    monkeypatch.setattr(held_out, "as_counts", lambda experiment: (experiment, 0.0123456))
    scaled = HeldOutCounts(experiment)
    assert scaled._facts == {"gain": 0.0123456}
    assert len(scaled.notes) == 1 and "a gain of 0.012346 a count" in scaled.notes[0]


def test_saturated_pixels():
    experiment = an_experiment()
    assert _without_saturated(experiment) == (experiment, [])
    largest = np.array([[99.0, 100.0, 101.0], [3.0, 100.0, 5.0]])
    experiment = an_experiment(largest=largest, saturation=100.0)
    used, (note,) = _without_saturated(experiment)
    assert used.tolist() == [[True, False, False], [True, False, True]]
    assert note.startswith("3 pixels")
    experiment.mask = np.array([[False, True, True], [True, False, True]])
    used, _ = _without_saturated(experiment)
    assert used.tolist() == [[False, False, False], [True, False, True]]


def objective(scan_shape=(20, 24), held=None, **changed):
    """What they share, without any data."""
    one = HeldOut.__new__(HeldOut)
    one._scan_shape, one._all_fitted, one._facts = scan_shape, held is None, {}
    one._held = np.ones(scan_shape, bool) if held is None else held
    one._recorded, one._counted = np.ones(scan_shape, bool), True
    one._kept = 0, SimpleNamespace(at=lambda part: ("fitted", "test"))
    for name, value in changed.items():
        setattr(one, name, value)
    return one


@pytest.mark.parametrize(
    ("scan_shape", "n"), [((20, 24), 60), ((8, 9), 16), ((3, 4), 12), ((50, 60), 256)]
)
def test_positions_that_are_sampled(scan_shape, n):
    """An eighth, at least 16 or all of them, 256 at most."""
    part = objective(scan_shape)._part(Fidelity(1))
    assert len(part.sample) == n
    assert part.positions is None
    assert np.array_equal(part.scored, np.arange(math.prod(scan_shape)))
    assert (part.fitted, part.test) == ("fitted", "test")


def test_positions_that_are_judged():
    held = np.zeros((20, 24), bool)
    held[::5, 1::4] = True
    recorded = np.ones((20, 24), bool)
    recorded[5] = False
    part = objective(held=held, _recorded=recorded)._part(Fidelity(1))
    assert np.array_equal(part.scored, np.flatnonzero(held & recorded))
    assert np.array_equal(part.positions, np.flatnonzero(~held))
    assert len(part.sample) == 18 and part.tiles.shape == (18,)
    assert np.array_equal(np.unique(part.tiles), np.arange(part.tiles.max() + 1))


class Fit:
    """Deviances of positions that are their numbers."""

    reconstruction = "reconstruction"

    def __init__(self, scale=1.0):
        self.scale = scale

    def deviance(self, test, positions):
        assert test == "test"
        return self.scale * np.asarray(positions, float)

    def expected_deviance(self, test, positions):
        return 0.5 * np.asarray(positions, float)


def test_what_is_made_of_the_deviances():
    held = np.zeros((16, 16), bool)
    held[0, :4], held[8, 3:7] = True, True  # 0, 1, 2, 3 and 131, 132, 133, 134
    one = objective((16, 16), held)
    part = one._part(Fidelity(1))
    score = Score(math.inf, {"n_iterations": 12}, None)
    score.curve = [(3, 9.0), (6, 8.0), (12, 7.0)]
    one._judge(score, Fit(), part)
    scored = np.array([0, 1, 2, 3, 131, 132, 133, 134.0])
    assert score.value == score.metrics["held_out"] == pytest.approx(scored.mean())
    assert score.metrics["held_out_standard_error"] == pytest.approx(
        scored.std(ddof=1) / math.sqrt(8)
    )
    # tiles of two by two positions
    assert score.blocks == pytest.approx([0.5, 2.5, 131, 132.5, 134])
    assert score.curve == [(3, 9.0), (6, 8.0), (12, pytest.approx(scored.mean()))]
    assert score.metrics["noise_floor"] == pytest.approx(scored.mean() / 2)
    assert score.metrics["excess"] == pytest.approx(scored.mean() / 2)
    # neither where data are no counts nor where the engine cannot tell
    for changed, fit in (({"_counted": False}, Fit()), ({}, Fit())):
        if not changed:
            fit.expected_deviance = None
        score = Score(math.inf, {"n_iterations": 12}, None)
        objective((16, 16), held, **changed)._judge(score, fit, part)
        assert not {"noise_floor", "excess"} & set(score.metrics)


def test_when_the_objective_is_estimated():
    part = SimpleNamespace(test="test", scored=np.arange(9), sample=np.array([1, 5]))

    def looks(n_iterations, limits=(), scale=1.0):
        watch = _Watch(part, limits, n_iterations)
        stopped = [i for i in range(1, n_iterations + 1) if watch(i, Fit(scale))]
        return watch.curve, stopped[:1]

    assert looks(12) == ([(3, 3.0), (6, 3.0)], [])
    assert looks(3) == ([(1, 3.0), (2, 3.0)], [])
    assert looks(2) == ([(1, 3.0)], []) and looks(1) == ([], [])
    assert looks(12, [(5, 3.1), (12, 0.1)]) == ([(3, 3.0), (5, 3.0), (6, 3.0)], [])
    assert looks(12, [(5, 3.0)])[1] == []  # as bad as the limit
    assert looks(12, [(5, 2.9)]) == ([(3, 3.0), (5, 3.0), (6, 3.0)], [5])
    assert looks(12, [(5, 2.9)], math.inf) == ([], [])
    watch = _Watch(part, (), 12)
    assert (watch.hopeless, watch.seconds) == (False, 0.0)


@pytest.mark.parametrize(
    ("limits", "ended", "expected"),
    [
        ((), "completed", ("completed", 4.5)),
        ([(4, 2.0)], "completed", ("stopped", 4.0)),
        ([(4, 2.0)], "interrupted", ("interrupted", math.inf)),
        ((), "diverged", ("diverged", math.inf)),
    ],
)
def test_a_trial_and_its_time(monkeypatch, limits, ended, expected):
    clock = SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(held_out, "time", clock)
    monkeypatch.setattr(held_out, "metrics_of", lambda reconstruction: {"n_iterations": 8})
    monkeypatch.setattr(held_out, "status_of", lambda reconstruction: ended)

    class Slow(Fit):
        def deviance(self, test, positions):
            clock.now += 2.0
            return super().deviance(test, positions) - 0.5 * (len(watched) < 1)

    watched = []

    class Engine:
        def fit(self, fitted, parameters, *, monitor, positions, **options):
            assert (fitted, parameters, positions) == ("fitted", {"defocus": 3.0}, None)
            assert options == {"n_iterations": 8, "random_state": 6, "reduction": 2}
            clock.now += 10.0
            monitor(4, Slow())
            watched.append(4)
            return Slow()

    one = objective((2, 5), None, engine=Engine(), _facts={"gain": 2.0})
    score = one({"defocus": 3.0}, fidelity=Fidelity(8, 1.0, 2), random_state=6, limits=limits)
    assert (score.status, score.value) == expected
    assert score.metrics["gain"] == 2.0
    assert score.metrics["seconds_fit"] == 10.0
    judged = 2.0 * (expected[0] == "completed")
    assert score.metrics["seconds_score"] == 2.0 + judged
