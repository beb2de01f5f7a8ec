"""The parts of the corrections: step lengths, searches, curvatures, distortions of the grid."""

import numpy as np
import pytest

from hs_autoptycho.ptycho import corrections as module
from hs_autoptycho.ptycho.corrections import Corrections, GrowingSteps, Starts
from hs_autoptycho.ptycho.grid_search import DISTORTIONS

pytestmark = pytest.mark.usefixtures("one_thread")


class TestGrowingSteps:
    @pytest.mark.parametrize("response", [1.0, 0.1, 2e-3])
    def test_finds_the_zero_of_any_slope(self, response):
        steps, places = GrowingSteps(np.array([0.5, 0.5])), np.array([3.0, -2.0])
        for _ in range(60):
            places = places + steps(-response * places)
        assert np.abs(places).max() < 0.02

    def test_largest_step(self):
        steps = GrowingSteps(np.array([0.1, 2.0]))
        np.testing.assert_allclose(steps(np.array([-5.0, 5.0])), [-0.1, 2.0])

    def test_gain_grows_while_nothing_changes_and_falls_where_it_was_too_long(self):
        steps = GrowingSteps(np.array([9.0]))
        steps(np.array([1e-3]))
        before = steps.gains[0]
        steps(np.array([1e-3]))
        assert steps.gains[0] > before
        before = steps.gains[0]
        steps(np.array([-3e-3]))
        assert steps.gains[0] < before

    def test_what_is_off_stays(self):
        steps = GrowingSteps(np.array([1.0, 1.0]))
        for _ in range(3):
            assert steps(np.array([0.0, 0.1]))[0] == 0
        assert steps.gains[0] == module.FIRST_COMMON_GAIN


class TestStarts:
    def test_active(self):
        starts = Starts(grid=3, positions=0)
        assert [starts.active("grid", i) for i in (1, 3, 4)] == [False, False, True]
        assert starts.active("positions", 1)
        assert not starts.active("tilt", 1000)

    def test_ever(self):
        assert Starts(grid=0).ever("tilt", "grid")
        assert not Starts(grid=0).ever("tilt", "defocus")


def test_shift_curvature(make_scan):
    state = make_scan(n_modes=2).state
    found = module.shift_curvature(state)
    probe, step = state.probe, 1e-3
    k = np.meshgrid(*(np.fft.fftfreq(n) for n in state.shape), indexing="ij")

    def shifted(by):
        ramp = np.exp(-2j * np.pi * (by[0] * k[0] + by[1] * k[1]))
        return np.fft.ifft2(np.fft.fft2(probe) * ramp)

    derivatives = [(shifted(d) - shifted(-d)) / (2 * step) for d in step * np.eye(2)]
    # without what a constant phase explains
    norm = np.vdot(probe, probe).real
    derivatives = [d - probe * np.vdot(probe, d) / norm for d in derivatives]
    numeric = [[np.vdot(a, b).real for b in derivatives] for a in derivatives]
    np.testing.assert_allclose(np.diag(found), np.diag(numeric), rtol=0.02)


@pytest.fixture
def corrections(make_scan):
    state = make_scan(distances=(40.0,)).state
    made = Corrections(
        state, Starts(grid=0, positions=0), defocus_phase=np.ones(state.shape), defocus=120.0
    )
    made.begin_pass(1)
    return state, made


class TestGrid:
    def test_settled_offsets_have_neither_shift_nor_distortion(self, corrections):
        state, made = corrections
        offsets = np.random.default_rng(0).normal(size=state.positions.shape)
        made._offsets = offsets + [3.0, -2.0]
        made._settle_positions()
        grid = made._grid - made._grid.mean(0)
        np.testing.assert_allclose(made._offsets.mean(0), 0, atol=1e-10)
        np.testing.assert_allclose(grid.T @ made._offsets, 0, atol=1e-8)
        expected = state.placement.origin + made._grid + made._offsets
        np.testing.assert_allclose(state.positions, expected)

    def test_without_the_grid_its_distortion_stays_in_the_offsets(self, corrections):
        _, made = corrections
        made._on["grid"] = False
        turned = (made._grid - made._grid.mean(0)) @ (0.01 * DISTORTIONS[0]).T
        made._offsets = turned.copy()
        made._settle_positions()
        np.testing.assert_allclose(made._offsets, turned, atol=1e-10)

    def test_a_search_waits_for_its_passes_and_leaves_some(self, corrections):
        state, made = corrections
        asked = []

        def search(*arguments):
            asked.append(arguments)
            return np.eye(2) + 0.01 * DISTORTIONS[1], 0.01

        search.finished = False
        made._grid_search = search
        state.object[:, 0] = 2
        first, defocus = made._first_probe.copy(), made._defocus
        before = state.positions - state.positions.mean(0)
        anew = []
        for _ in range(6):
            made.begin_pass(1)
            assert not made._on["positions"]  # they wait for the grid
            anew.append(made.end_pass(probe_held=False, remaining=40))
        assert anew == [False] * 5 + [True] and len(asked) == 1
        now = state.positions - state.positions.mean(0)
        np.testing.assert_allclose(now, 1.01 * before, atol=1e-9)
        np.testing.assert_allclose(made.matrix, 1.01 * np.eye(2))
        assert made._defocus == pytest.approx(1.01 * defocus)
        assert np.all(state.object[:, 0] == 1) and np.all(state.object[:, 1] == 0)
        # the initial probe again, with the defocus that goes with the scale (phase 1 everywhere)
        turned = first * np.exp(0.01j * defocus)
        np.testing.assert_allclose(state.probe, turned, atol=1e-5 * np.abs(first).max())
        # too few passes are left for another object
        made.begin_pass(1)
        assert not made.end_pass(probe_held=False, remaining=11)
        assert made._grid_search.finished and len(asked) == 1
        made.begin_pass(1)
        assert made._on["positions"]


def test_values(make_scan):
    state = make_scan(distances=(40.0,), tilt=(2.0, -1.0)).state
    phase = np.ones(state.shape)
    assert Corrections(state, Starts()).values() == {}
    assert Corrections(state, Starts(grid=3), defocus_phase=phase, defocus=7).values() == {
        "defocus": 7.0
    }
    found = Corrections(state, Starts(thickness=1, tilt=1)).values()
    assert found == {"thickness_factor": 1.0, "tilt_y": 2.0, "tilt_x": -1.0}
