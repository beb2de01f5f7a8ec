"""Every gradient of the kernels against finite differences of a model in float64.

Gradients point downhill, so that −dL = Re Σ conj(gradient) d along a direction d. A derivative is
the mean over several random directions: a factor of two, a sign or exchanged axes fail by far.
"""

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")

# float32 against float64; what is lost to the finite step is less
TOLERANCE = 3e-4
STEP = 1e-4

CASES = {
    "one slice": {},
    "one slice, two modes, mask": {"n_modes": 2, "masked": True, "step": 3.0},
    "one slice, any size": {"window": (30, 36), "scan": (4, 3), "blur": 0.8, "masked": True},
    "three slices": {"distances": (40.0, 15.0), "tilt": (12.0, -7.0), "rotation": 24.0},
    "three slices, two modes, all": {
        "distances": (40.0, 15.0),
        "tilt": (-9.0, 14.0),
        "n_modes": 2,
        "window": (36, 30),
        "beam_offset": (1.3, -2.6),
        "masked": True,
        "background": True,
        "blur": 0.7,
        "fluctuation": 0.1,
    },
}
OWN_CASES = {
    "one slice": {"own": True},
    "three slices": {"own": True, "distances": (40.0, 15.0), "tilt": (12.0, -7.0)},
    "three slices, two modes, variable, all": {
        **CASES["three slices, two modes, all"],
        "own": True,
        "n_variable": 2,
    },
}


@pytest.fixture(scope="module", params=CASES)
def scan(request, make_scan):
    return make_scan(**CASES[request.param])


@pytest.fixture(scope="module", params=OWN_CASES)
def own_scan(request, make_scan):
    return make_scan(**OWN_CASES[request.param])


def downhill(scan, name, direction, **options):
    """−dL along a direction of an array of the model."""
    start = getattr(scan.model, name)
    ends = [scan.loss(**{name: start + sign * STEP * direction}, **options) for sign in (1, -1)]
    return (ends[1] - ends[0]) / (2 * STEP)


def check(found, numerical):
    found, numerical = np.array(found), np.array(numerical)
    assert np.linalg.norm(numerical) > 0
    assert np.linalg.norm(found - numerical) < TOLERANCE * np.linalg.norm(numerical)


def check_along(scan, name, gradient, index=(), n_directions=4):
    """Along random directions of a part of an array, uneven from axis to axis."""
    rng = np.random.default_rng(5)
    found, numerical = [], []
    for _ in range(n_directions):
        part = rng.normal(size=gradient.shape)
        if np.iscomplexobj(gradient):
            part = part + 1j * rng.normal(size=gradient.shape)
        # half of it along the gradient: across it rounding noise alone would be left
        part += gradient * np.linalg.norm(part) / np.linalg.norm(gradient)
        direction = np.zeros(getattr(scan.model, name).shape, part.dtype)
        direction[index] = part
        found.append(np.vdot(gradient, part).real)
        numerical.append(downhill(scan, name, direction))
    check(found, numerical)
    return numerical


def test_classes_are_shared(scan):
    # else these cases would test the same as those with a class for each position
    if not scan.model.distances:
        assert len(np.unique(scan.batch.visit.classes)) < len(scan.chosen)
    assert len(scan.batch.visit.bands) > 1
    assert scan.state.object.shape[2] != scan.state.object.shape[3]


def test_object(scan):
    _, gradient, _ = scan.gradients()
    for s in range(len(gradient)):
        check_along(scan, "slices", gradient[s], s)


def test_single_pixels_of_the_object(scan):
    _, gradient, _ = scan.gradients()
    rng = np.random.default_rng(2)
    found, numerical = [], []
    for _ in range(8):
        s, y, x = (int(rng.integers(n // 4, n - n // 4 + 1)) for n in gradient.shape)
        s = min(s, len(gradient) - 1)
        for part in (1, 1j):
            direction = np.zeros(gradient.shape, complex)
            direction[s, y, x] = part
            found.append((gradient[s, y, x].conj() * part).real)
            numerical.append(downhill(scan, "slices", direction))
    check(found, numerical)


def test_probe(scan):
    _, _, gradient = scan.gradients()
    for m in range(scan.n_modes):
        check_along(scan, "modes", gradient[m], m)


def test_object_and_probe_with_a_class_each(own_scan):
    _, by_object, by_probe = own_scan.gradients()
    check_along(own_scan, "slices", by_object)
    check_along(own_scan, "modes", by_probe[: own_scan.n_modes])


def test_positions(own_scan):
    found, _, _ = own_scan.gradients()
    gradient = np.zeros(own_scan.model.shifts.shape)
    gradient[own_scan.batch.indices] = 2 * np.pi * found.positions
    for axis in (0, 1):
        check_along(own_scan, "shifts", gradient[:, axis], (slice(None), axis))
    for n in own_scan.chosen[:3]:  # one by one: none may have another's
        for axis in (0, 1):
            direction = np.zeros(gradient.shape)
            direction[n, axis] = 1
            check([gradient[n, axis]], [downhill(own_scan, "shifts", direction)])


def test_variable_modes(make_scan):
    scan = make_scan(**OWN_CASES["three slices, two modes, variable, all"])
    found, _, by_probe = scan.gradients()
    for v in range(scan.n_variable):
        check_along(scan, "variable", by_probe[scan.n_modes + v], v)
    gradient = np.zeros(scan.model.coefficients.shape)
    gradient[scan.batch.indices] = found.coefficients
    for v in range(scan.n_variable):
        check_along(scan, "coefficients", gradient[:, v], (slice(None), v))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("case", ["three slices", "three slices, two modes, all"])
def test_propagation(make_scan, case, own):
    scan = make_scan(**{**CASES[case], "own": own})
    found, _, _ = scan.gradients()
    model = scan.model
    changes = [
        lambda p: {"distances": tuple(d * (1 + p) for d in model.distances)},
        lambda p: {"tilt": (model.tilt[0] + p, model.tilt[1])},
        lambda p: {"tilt": (model.tilt[0], model.tilt[1] + p)},
    ]
    for gradient, change, step in zip(
        found.propagation.sum(0), changes, (1e-5, 1e-4, 1e-4), strict=True
    ):
        ends = [scan.loss(**change(p)) for p in (step, -step)]
        check([gradient], [(ends[1] - ends[0]) / (2 * step)])


def test_propagation_of_each_position(make_scan):
    scan = make_scan(**CASES["three slices"])
    found, _, _ = scan.gradients()
    numerical = []
    for n in scan.batch.indices:
        scan.chosen, chosen = [n], scan.chosen
        ends = [scan.loss(tilt=(12.0 + p, -7.0)) for p in (1e-4, -1e-4)]
        scan.chosen = chosen
        numerical.append((ends[1] - ends[0]) / 2e-4)
    check(found.propagation[:, 1], numerical)


@pytest.mark.parametrize("case", ["one slice", "one slice, any size", "three slices"])
def test_brightness(make_scan, case):
    # Σ Aa and Σ a² say how L changes with the brightness b, a ∝ √b: no floor there
    scan = make_scan(**{**CASES[case], "fluctuation": 0.1})
    found, _, _ = scan.gradients()
    brightness = scan.state.brightness[scan.batch.indices]
    gradient = np.zeros(len(scan.model.brightness))
    gradient[scan.batch.indices] = (found.sums[:, 1] - found.sums[:, 2]) / (2 * brightness)
    direction = np.random.default_rng(1).normal(size=len(gradient)) + np.sign(gradient)
    check([gradient @ direction], [downhill(scan, "brightness", direction, floor=0.0)])


def test_loss(scan):
    found, _, _ = scan.gradients()
    check([found.sums[:, 0].sum() / 2], [scan.loss(floor=0.0)])


def test_the_floor_takes_little(scan):
    # the kernels' gradient is that of a loss in which dark pixels fade out; here few are dark
    rng = np.random.default_rng(9)
    direction = rng.normal(size=scan.model.slices.shape) + 0j
    _, gradient, _ = scan.gradients()
    direction += gradient * np.linalg.norm(direction) / np.linalg.norm(gradient)
    found = np.vdot(gradient, direction).real
    assert found == pytest.approx(downhill(scan, "slices", direction, floor=0.0), rel=0.03)
