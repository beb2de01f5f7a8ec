"""How much patterns change with a parameter, against the model in complex128."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from hs_autoptycho.ptycho import curvature

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scan(make_scan):
    return make_scan(
        distances=(20.0, 35.0), tilt=(3.0, -5.0), n_modes=2, masked=True, background=True, own=True
    )


def amplitudes(scan, indices, **changes):
    """√I in the natural order of pixels, those of unused ones 0."""
    model = replace(scan.model, **changes)
    return np.stack([np.sqrt(model.intensity(n)) * model.mask for n in indices])


def check(scan, indices, change, step, plus, minus, tolerance=2e-3):
    found = scan.natural(curvature.derivative(scan.state, indices, change, step))
    expected = (plus - minus) / (2 * step)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


INDICES = np.array([1, 4, 5, 9, 13])


def test_amplitudes(scan):
    found = scan.natural(curvature.amplitudes(scan.state, INDICES))
    np.testing.assert_allclose(found, amplitudes(scan, INDICES), atol=2e-5)


def test_defocus(scan):
    ky, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in scan.window), indexing="ij")
    phase = 3 * (ky**2 + 2 * kx**2)
    sides = [
        amplitudes(
            scan, INDICES,
            modes=np.fft.ifft2(np.fft.fft2(scan.model.modes) * np.exp(1j * amount * phase)),
        )
        for amount in (0.2, -0.2)
    ]  # fmt: skip
    check(scan, INDICES, curvature.defocus(phase), 0.2, *sides)


CHANGES = {
    "distortion": curvature.distortion(np.array([[0, -1], [1, 0]])),
    "defocus": curvature.defocus(np.ones((32, 40))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_state_is_left_alone(scan, change):
    state = scan.state
    before = {
        "object": state.object, "spectra": state.spectra, "propagation": state.propagation,
        "placement": state.placement, "positions": state.positions,
    }  # fmt: skip
    copies = [state.object.copy(), state.spectra.copy(), state.placement.fractions.copy()]
    predicted = curvature.amplitudes(state, INDICES)
    curvature.derivative(state, INDICES, CHANGES[change], 0.01)
    for name, value in before.items():
        assert getattr(state, name) is value
    now = [state.object, state.spectra, state.placement.fractions]
    for old, new in zip(copies, now, strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(curvature.amplitudes(state, INDICES), predicted)


def test_distortion_of_vacuum_changes_nothing(make_scan):
    scan = make_scan(own=True)
    scan.state.object[:, 0], scan.state.object[:, 1] = 1, 0
    change = curvature.distortion(np.array([[1, 0], [0, -1]]))
    found = curvature.derivative(scan.state, INDICES, change, 0.01)
    assert np.abs(found).max() < 1e-2


def test_distortion_moves_positions_and_object_together(measure):
    scan = measure(dose=None, cycles=3.0)
    _, state = scan.run(1, step_object=0.0, step_probe=0.0, start_object=scan.truth)
    state.move(state.positions)
    generator, amount = np.array([[0.3, -1], [0.6, 0.1]]), 0.02
    rounded, center = state.positions, state.positions.mean(0)
    # the window has to stay where it is: beyond its edge the probe comes in on the other side
    way = amount * np.abs((rounded - center) @ generator.T)
    indices = np.flatnonzero(np.all(way + np.abs(rounded - np.round(rounded)) < 0.49, axis=1))
    assert len(indices) > 15
    sides, alone = [], []
    for sign in (1, -1):
        matrix = np.eye(2) + sign * amount * generator
        inverse = np.linalg.inv(matrix)
        moved = center + (rounded - center) @ matrix.T
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "positions", moved)
            warped = 1 + affine_transform(
                scan.truth[0] - 1, inverse, center - inverse @ center, mode="nearest"
            )
            for out, object_ in ((sides, warped[None]), (alone, scan.truth)):
                out.append(np.sqrt(scan.intensities(object_, scan.probe, indices)))
    expected = (sides[0] - sides[1]) / (2 * amount)
    change = curvature.distortion(generator)
    plan, scale = state.plan, np.sqrt(np.prod(scan.window) / scan.patterns.mean_total)
    found = np.empty_like(expected)
    ordered = curvature.derivative(state, indices, change, amount).reshape(-1, *plan[1::-1])
    found[:, plan.row_order[:, None], plan.column_order] = ordered.transpose(0, 2, 1)
    size = np.abs(expected).max()
    np.testing.assert_allclose(found, expected * scale, atol=0.01 * size * scale)
    # without the object it is another thing
    without = (alone[0] - alone[1]) / (2 * amount)
    assert np.abs(without - expected).max() > 0.5 * size
