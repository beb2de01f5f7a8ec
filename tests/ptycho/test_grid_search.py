"""The search for the scan's grid: secants, the misfit, the gradient and its standard error."""

import numpy as np
import pytest
from scipy.stats import poisson

from hs_autoptycho.ptycho.curvature import amplitudes
from hs_autoptycho.ptycho.grid_search import (
    DISTORTIONS,
    GridSearch,
    Secants,
    mean_root,
    misfit,
    trust,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def secants():
    return Secants(first=0.02, longest=0.06, shortest=3e-4, hidden=100.0)


class TestSecants:
    @pytest.mark.parametrize("zero", [-0.09, 0.03, 0.1])
    @pytest.mark.parametrize("slope", [1.0, 1e-3])
    def test_finds_the_zero(self, zero, slope):
        search, place = secants(), 0.0
        for _ in range(7):
            value = slope * np.sinh(4 * (zero - place))
            if abs(value) < 1e-4 * slope:
                break
            place += search.step(place, value)
        assert place == pytest.approx(zero, abs=2e-3)

    def test_first_step_is_not_longer_than_what_is_seen_can_hide(self):
        assert secants().step(0.0, 1e-5) == pytest.approx(1e-3)
        assert secants().step(0.0, -1.0) == pytest.approx(-0.02)

    def test_misleading_values_are_forgotten(self):
        search = secants()
        search.step(0.0, 1.0)
        search.step(0.02, -1e-4)  # a zero just here, it seems
        assert search.step(0.0199, 1.0) > 0  # but the next value says: far from it
        assert len(search.places) <= 3

    @pytest.mark.parametrize("zero", [-0.25, 0.02, 0.22])
    def test_without_noise_every_step_is_believed(self, zero):
        search, place, step = Secants(first=0.1, longest=0.2), 0.0, 1.0
        while len(search.places) < 6 and (len(search.places) < 2 or abs(step) > 0.01):
            step = search.step(place, 1e-3 * np.sinh(2 * (zero - place)))
            place += step
        assert place == pytest.approx(zero, abs=0.01)
        assert len(search.places) <= 5


@pytest.mark.parametrize("mean", [0.0, 0.03, 0.7, 4.2, 28.0, 33.0, 700.0])
def test_mean_root(mean):
    n = np.arange(3000)
    exact = (poisson.pmf(n, mean) * np.sqrt(n)).sum()
    assert mean_root(np.array([mean]))[0] == pytest.approx(exact, abs=2e-4)


def test_misfit_has_no_bias(make_scan):
    scan = make_scan(poisson=True)
    state = scan.state
    indices = np.arange(len(state.positions))
    mean = amplitudes(state, indices) ** 2 / state.detector.scale
    generator = np.random.default_rng(0)
    found = 0.0
    for _ in range(200):
        counts = generator.poisson(mean).astype(np.float32)
        detector = state.detector._replace(counts=counts.view(np.uint8), code=3)
        state.detector = detector
        found = found + misfit(state, indices, amplitudes(state, indices)) / 200
    spread = np.sqrt(state.detector.scale) / 2 / np.sqrt(200)
    used = state.detector.mask > 0
    assert abs(found[:, used].mean()) < 5 * spread / np.sqrt(found[:, used].size)


def test_trust(make_scan):
    state = make_scan(poisson=True).state
    counts = np.array([[0.0, 1.0, 9.0]])
    expected = np.sqrt(counts * state.detector.scale)
    np.testing.assert_allclose(trust(state, expected), [[0, 0.5, 0.9]], rtol=1e-6)
    state.detector = state.detector._replace(poisson=False)
    np.testing.assert_array_equal(trust(state, expected), 1)


class TestMeasure:
    """The true object and probe, and positions that are distorted."""

    @pytest.fixture
    def state(self, make_scan):
        state = make_scan(poisson=True).state
        indices = np.arange(len(state.positions))
        exact = (amplitudes(state, indices) ** 2).astype(np.float32)
        state.detector = state.detector._replace(
            counts=exact.view(np.uint8), code=3, scale=np.float32(1), poisson=False,
            mask=np.ones_like(state.detector.mask),
        )  # fmt: skip
        state.move(state.positions)
        return state

    def test_nothing_to_correct(self, state):
        search = GridSearch()
        matrix, scale = search(state)
        np.testing.assert_array_equal(matrix, np.eye(2))
        assert scale == 0 and search.finished

    @pytest.mark.parametrize("which", range(4))
    def test_points_back_and_knows_how_far(self, state, which):
        from hs_autoptycho.ptycho import curvature

        amount = 0.3 / np.abs(state.positions - state.positions.mean(0)).max()
        curvature.distortion(DISTORTIONS[which])(state, amount)
        state.positions = (
            state.placement.corners
            + np.array(state.shape) // 2
            + state.placement.fractions[state.placement.classes]
        )
        newton, errors = GridSearch().measure(state)
        assert newton[which] == pytest.approx(-amount, rel=0.25)
        assert abs(newton[which]) > 5 * errors[which]

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_rotation_is_no_scale(self, state, which, monkeypatch):
        search, newton = GridSearch(), np.zeros(4)
        newton[which] = 0.06
        monkeypatch.setattr(search, "measure", lambda *arguments: (newton, np.full(4, 1e-3)))
        (first, scale), (second, _) = search(state), search(state)
        steps = search._places[which]
        turn = np.array([[np.cos(steps), -np.sin(steps)], [np.sin(steps), np.cos(steps)]])
        expected = turn if which == 0 else np.exp(steps) * np.eye(2)
        np.testing.assert_allclose(second @ first, expected, atol=1e-12)
        assert scale == pytest.approx(0 if which == 0 else np.linalg.norm(first, 2) - 1)

    def test_leaves_the_state_alone(self, state):
        copies = state.object.copy(), state.spectra.copy(), state.positions.copy()
        GridSearch().measure(state)
        for old, new in zip(copies, (state.object, state.spectra, state.positions), strict=True):
            np.testing.assert_array_equal(old, new)
