"""How one batch of positions changes object and probe: a function for each algorithm."""

from __future__ import annotations

import numpy as np

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.state import Batch, State


def least_squares_update(
    state: State, batch: Batch, probes, changes, step_object: float, step_probe: float
) -> None:
    """One step of least-squares maximum likelihood, its length from a joint line search.

    The directions are the preconditioned gradients of the batch,

        ΔO = Σ conj(P) χ / (w + 0.1 max w),   ΔP ∝ Σ conj(O) χ,

    with w the illumination that a batch of this size has on average, and the step along both solves
    min Σ ‖χ − a·ΔO·P − b·ΔP·O‖² exactly: no step size is asked for.

    References
    ----------
    M. Odstrčil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26, 3108 (2018).
    """
    direction = state.object_gradient(batch, probes, changes)
    expected = state.illumination * np.float32(len(batch.indices) / len(state.placement.corners))
    kernels.divide_by_illumination(direction, expected, np.float32(0.1 * expected.max()))
    probe_direction, probe_directions = None, np.empty((0, 1, 1), np.float32)
    if step_probe > 0:
        probe_direction = state.probe_gradient(batch, changes)
        probe_direction /= np.float32(len(batch.indices))
        probe_directions = state.shifted(probe_direction, batch, "probe directions")
    terms = np.empty((len(batch.indices), 5))
    kernels.line_search_terms(
        changes, state.object, direction, probes, probe_directions, batch.classes, batch.corners,
        state.plan, state.space.waves, terms,
    )  # fmt: skip
    oo, pp, op, o, p = terms.sum(0)
    a, b = (o / oo if oo > 0 else 0.0), 0.0
    if step_probe > 0 and pp > 0:
        # a little damping: where the two directions do the same the problem is singular
        matrix = np.array([[oo * 1.001, op], [op, pp * 1.001]])
        joint = np.linalg.lstsq(matrix, np.array([o, p]), rcond=None)[0]
        if np.all(joint > 0):
            a, b = joint
        elif o * a < p * p / pp:  # the directions fight each other: take the better one alone
            a, b = 0.0, p / pp
        state.spectra += np.float32(step_probe * b) * probe_direction
    kernels.add_scaled(state.object, direction, np.float32(step_object * a))


def epie_update(
    state: State, batch: Batch, probes, changes, step_object: float, step_probe: float
) -> None:
    """One step of the extended ptychographical iterative engine.

    ``O += β conj(P) χ / max |P|²`` and ``P += β conj(O) χ / max |O|²``; in a batch of more than one
    position (the original has one) the mean over overlapping positions.

    References
    ----------
    A. M. Maiden, J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009).
    """
    gradient = state.object_gradient(batch, probes, changes)
    brightest = (
        state.illumination.max() / state.coverage * max(1, state.overlap(len(batch.indices)))
    )
    if step_probe > 0:
        (top, left), (bottom, right) = batch.corners.min(0), batch.corners.max(0) + state.shape
        strongest = (state.object[:, top:bottom, left:right] ** 2).sum(0).max()
        step = step_probe / (strongest * len(batch.indices))
        state.spectra += np.float32(step) * state.probe_gradient(batch, changes)
    kernels.add_scaled(state.object, gradient, np.float32(step_object / brightest))


UPDATES = {"lsq-ml": least_squares_update, "epie": epie_update}
