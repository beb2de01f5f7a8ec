"""Counts that are held out: hidden, predicted, and given back whatever happens."""

import numpy as np
import pytest

from hs_autoptycho.ptycho import solver
from hs_autoptycho.ptycho.holdout import HELD_OUT, HeldOut
from hs_autoptycho.ptycho.state import State

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def noisy(measure):
    return measure(dose=1000)


@pytest.fixture
def counts(noisy):
    """Bytes of the counts before; they have to be the same afterwards."""
    before = noisy.patterns.counts.copy()
    yield before
    np.testing.assert_array_equal(noisy.patterns.counts, before)


def test_it_stops_before_it_fits_the_noise(noisy, counts):
    whole, _ = noisy.run(100)
    seen = []
    result, state = noisy.run(100, patience=5, callback=lambda i, e: seen.append(i))
    assert result.status == "stopped"
    n = len(result.errors)
    assert 6 < n < 40 and seen == list(range(1, n + 1))
    scores = np.array(result.history["held_out"])
    assert scores.shape == (n,) and np.isfinite(scores).all()
    # the best one is the last but `patience`, within what counts for progress
    assert scores[-6] == pytest.approx(scores.min(), rel=1e-3)
    assert scores[0] > 1.01 * scores.min()
    # the many passes after it were for nothing
    assert noisy.correlation(result.object[0]) > noisy.correlation(whole.object[0]) - 0.002
    np.testing.assert_allclose(state.brightness, 1, rtol=1e-6)


def test_patience(noisy, counts):
    lengths = [len(noisy.run(60, patience=p)[0].errors) for p in (1, 4, 8)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[2] < 60


def test_it_goes_on_while_it_gets_better(measure):
    rich = measure(dose=10**5)
    result, _ = rich.run(12, patience=3)
    assert result.status == "completed" and len(result.errors) == 12
    assert np.all(np.diff(result.history["held_out"]) < 0)


def test_seed(noisy, counts):
    one, same, other = (noisy.run(5, patience=9, random_state=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one.object, same.object)
    assert one.history == same.history
    assert one.history["held_out"] != other.history["held_out"]


def test_only_positions_that_are_fitted(noisy, counts):
    subset = np.arange(0, 63, 3)
    held_out = HeldOut(noisy.patterns, subset, 3, 0)
    assert np.all(np.isin(held_out._indices, subset))
    result, _ = noisy.run(5, patience=3, subset=subset)
    assert len(result.history["held_out"]) == len(result.errors)


def test_a_tenth_is_hidden_and_given_back(noisy, counts):
    _, state = noisy.run(1)
    held_out = HeldOut(noisy.patterns, np.arange(63), 3, 0)
    held_out.hide(state)
    hidden = counts.astype(int) - noisy.patterns.counts
    assert hidden.min() == 0
    assert hidden.sum() == pytest.approx(HELD_OUT * counts.sum(), rel=0.05)
    np.testing.assert_allclose(state.brightness, 1 - HELD_OUT, rtol=1e-6)
    held_out.restore(state)
    np.testing.assert_allclose(state.brightness, 1, rtol=1e-6)


def test_given_back_after_ctrl_c(noisy, counts):
    def stop(iteration, error):
        assert np.any(noisy.patterns.counts != counts)  # hidden at this time
        if iteration == 2:
            raise KeyboardInterrupt

    result, _ = noisy.run(20, patience=5, callback=stop)
    assert result.status == "interrupted"
    assert len(result.history["held_out"]) == len(result.errors) == 2


def test_given_back_after_divergence(noisy, counts, monkeypatch):
    states, start = [], State.start

    def keep(*args, **options):
        states.append(start(*args, **options))
        return states[0]

    def spoil(iteration, error):
        if iteration == 2:
            states[0].object *= np.float32(30)

    monkeypatch.setattr(State, "start", keep)
    result, _ = noisy.run(20, patience=5, callback=spoil)
    assert result.status == "diverged" and len(result.errors) == 3
    # the pass in which it diverged has an error and no score
    np.testing.assert_array_equal(np.isnan(result.history["held_out"]), [False, False, True])


def test_given_back_after_an_error(noisy, counts, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("on purpose")

    monkeypatch.setitem(solver.UPDATES, "lsq-ml", lambda settings: fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        noisy.run(20, patience=5)


def test_an_error_of_the_callback_gives_them_back_too(noisy, counts):
    def fail(iteration, error):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        noisy.run(20, patience=5, callback=fail)


def test_with_mask_and_background(measure):
    scan = measure(dose=1000, background=1.0)
    mask = np.ones(scan.window, bool)
    mask[3:6] = False
    result, _ = scan.run(60, patience=2, detector={"mask": mask, "background": 1.0})
    assert result.status == "stopped"
    assert scan.correlation(result.object[0]) > 0.9


def test_counts_only(noisy):
    floats = noisy.ordered(noisy.data.astype(np.float32))
    with pytest.raises(TypeError, match="float32.*not whole"):
        noisy.run(3, patience=2, patterns=floats)
