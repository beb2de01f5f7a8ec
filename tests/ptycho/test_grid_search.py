"""The search for the scan's grid: secants, the misfit, the gradient and its standard error."""

import numpy as np
import pytest
from scipy.stats import poisson

from hs_autoptycho.ptycho import grid_search
from hs_autoptycho.ptycho.curvature import amplitudes
from hs_autoptycho.ptycho.grid_search import DISTORTIONS, GridSearch, Secants, mean_root, misfit

pytestmark = pytest.mark.usefixtures("one_thread")


class TestSecants:
    @pytest.mark.parametrize("zero", [-0.09, 0.03, 0.1])
    @pytest.mark.parametrize("slope", [1.0, 1e-3])
    def test_finds_the_zero(self, zero, slope):
        secants, place = Secants(), 0.0
        for _ in range(7):
            value = slope * np.sinh(4 * (zero - place))
            if abs(value) < 1e-4 * slope:
                break
            place += secants.step(place, value)
        assert place == pytest.approx(zero, abs=2e-3)

    def test_first_step_is_not_longer_than_what_is_seen_can_hide(self):
        assert Secants().step(0.0, 1e-5) == pytest.approx(1e-5 * grid_search.HIDDEN)
        assert Secants().step(0.0, -1.0) == pytest.approx(-grid_search.FIRST_STEP)

    def test_misleading_values_are_forgotten(self):
        secants = Secants()
        secants.step(0.0, 1.0)
        secants.step(0.02, -1e-4)  # a zero just here, it seems
        assert secants.step(0.0199, 1.0) > 0  # but the next value says: far from it
        assert len(secants.places) <= 3


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
        found = found + misfit(state, indices) / 200
    spread = np.sqrt(state.detector.scale) / 2 / np.sqrt(200)
    used = state.detector.mask > 0
    assert abs(found[:, used].mean()) < 5 * spread / np.sqrt(found[:, used].size)


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

    def test_leaves_the_state_alone(self, state):
        copies = state.object.copy(), state.spectra.copy(), state.positions.copy()
        GridSearch().measure(state)
        for old, new in zip(copies, (state.object, state.spectra, state.positions), strict=True):
            np.testing.assert_array_equal(old, new)
