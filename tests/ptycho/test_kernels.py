"""The float32 kernels against the same formulas in complex128, and against finite differences."""

import numpy as np
import pytest

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.fft import (
    from_planes,
    make_plan,
    planes_to_spectrum,
    spectrum_to_planes,
    to_planes,
)
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.state import State

WINDOW = (24, 40)
SCAN = (5, 7)
TOLERANCE = 1e-5


def relative_error(result, reference):
    return np.linalg.norm(result - reference) / np.linalg.norm(reference)


def smooth(rng, shape, cycles):
    """Random complex numbers of standard deviation 1 with frequencies up to `cycles` a window."""
    spectrum = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij"))
    result = np.fft.ifft2(spectrum * np.exp(-((frequency / cycles) ** 2)))
    return result / result.std()


class Reference:
    """The model in complex128 and in natural order, straight from the formulas."""

    def __init__(self, placement, window):
        self.placement, self.window = placement, window
        self.pixels = window[0] * window[1]
        self.frequency = np.meshgrid(*(np.fft.fftfreq(n) for n in window), indexing="ij")

    def shifted(self, probe, position, sign=1):
        """The probe moved by the position's fraction of a pixel (back, with sign −1)."""
        dy, dx = self.placement.fractions[self.placement.classes[position]]
        ramp = np.exp(-2j * np.pi * sign * (dy * self.frequency[0] + dx * self.frequency[1]))
        return np.fft.ifft2(np.fft.fft2(probe) * ramp)

    def view(self, array, position):
        y, x = self.placement.corners[position]
        return array[y : y + self.window[0], x : x + self.window[1]]

    def spectra(self, object_, probe, position):
        return np.fft.fft2(self.shifted(probe, position) * self.view(object_, position))

    def intensity(self, object_, probe, position):
        return (np.abs(self.spectra(object_, probe, position)) ** 2).sum(0) / self.pixels

    def changes(self, object_, probe, position, amplitude, target=None):
        """χ of every mode; `target` replaces the modelled amplitude by the one asked for."""
        spectra = self.spectra(object_, probe, position)
        a = np.sqrt((np.abs(spectra) ** 2).sum(0) / self.pixels)
        target = amplitude if target is None else target(amplitude, a)
        return np.fft.ifft2(spectra * (target - a) / (a + float(kernels.AMPLITUDE_FLOOR)))

    def object_gradient(self, probe, changes):
        total = np.zeros(self.placement.object_shape, complex)
        for position, change in enumerate(changes):
            term = (self.shifted(probe, position).conj() * change).sum(0)
            self.view(total, position)[:] += term
        return total

    def probe_gradient(self, object_, changes):
        return sum(
            self.shifted(self.view(object_, position).conj() * change, position, -1)
            for position, change in enumerate(changes)
        )


class Case:
    """Object, probe modes and measured patterns, as the kernels and as the reference have them."""

    def __init__(self, n_modes=3, seed=0):
        rng = np.random.default_rng(seed)
        self.positions = scan_positions(SCAN, 2.37, rotation=21.0)
        self.placement = place(self.positions, WINDOW)
        assert len(self.placement.fractions) > 20
        shape = self.placement.object_shape
        self.object = (1 + 0.3 * smooth(rng, shape, 6)).astype(np.complex64)
        # spectra without dark places: there the model's amplitudes are far above the floor
        phases = rng.uniform(-1, 1, (n_modes, *WINDOW))
        probe = np.fft.ifft2(np.exp(3j * phases) * (1 + 0.3 * rng.uniform(-1, 1, phases.shape)))
        probe *= np.sqrt(0.5 ** np.arange(n_modes))[:, None, None]
        self.state = State.start(make_plan(*WINDOW), self.placement, probe)
        self.state.object[:] = to_planes(self.object).reshape(self.state.object.shape)
        spectra = planes_to_spectrum(self.state.spectra, self.state.plan).astype(complex)
        self.probe = np.fft.ifft2(spectra)
        self.reference = Reference(self.placement, WINDOW)
        measured = rng.uniform(0.05, 2.5, (len(self.positions), *WINDOW))
        measured = np.fft.fftshift(measured, axes=(1, 2)).astype(np.float32)
        self.patterns = Patterns.from_blocks([measured], len(measured), WINDOW)
        scaled = np.fft.ifftshift(measured, axes=(1, 2)) / measured.sum((1, 2)).mean()
        self.amplitudes = np.sqrt(scaled * measured[0].size)
        # in an order that is not that of the scan, and not all of them
        self.chosen = rng.permutation(len(self.positions))[:29]
        self.batch = self.state.batch(self.chosen)

    def natural(self, planes):
        """Real numbers (batch, pixels) in the spectrum's order to (batch, rows, columns)."""
        plan = self.state.plan
        out = np.empty((len(planes), *WINDOW), planes.dtype)
        ordered = planes.reshape(-1, plan.columns, plan.rows).transpose(0, 2, 1)
        out[:, plan.row_order[:, None], plan.column_order] = ordered
        return out

    def by_position(self, function):
        """Reference values in the order of the batch."""
        return np.stack([function(i) for i in self.batch.indices])


@pytest.fixture(scope="module", params=[1, 3])
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module", params=["amplitude", "poisson"])
def changed(request, case):
    """Case, noise model, probes and χ of the kernels, χ of the reference."""
    poisson = request.param == "poisson"
    probes, changes, error = case.state.changes(case.batch, case.patterns, poisson)
    target = proximal_target if poisson else None
    reference = case.by_position(
        lambda i: case.reference.changes(case.object, case.probe, i, case.amplitudes[i], target)
    )
    return case, probes.copy(), changes.copy(), error, reference


def proximal_target(amplitude, a0, rho=8.0):
    """The amplitude that minimises a² − 2 I_measured log a + ρ(a − a₀)², by bisection."""

    def slope(a):
        return 2 * a - 2 * amplitude**2 / a + 2 * rho * (a - a0)

    low, high = np.full_like(a0, 1e-12), amplitude + a0 + 1
    for _ in range(80):
        middle = (low + high) / 2
        above = slope(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    # the step is lengthened to be the whole one near the minimum
    return a0 + (1 + rho / 2) * (middle - a0)


class TestAgainstDoublePrecision:
    def test_shifted_probes(self, case):
        probes = case.state.shifted(case.state.spectra, case.batch, "probes")
        reference = case.by_position(lambda i: case.reference.shifted(case.probe, i))
        found = from_planes(probes, WINDOW)[case.batch.classes]
        assert relative_error(found, reference) < TOLERANCE

    def test_model_intensities(self, case):
        model = case.natural(case.state.model_intensities(case.batch))
        reference = case.by_position(lambda i: case.reference.intensity(case.object, case.probe, i))
        assert relative_error(model, reference) < TOLERANCE
        # vacuum would have the mean 1
        assert 0.8 < model.mean() < 1.6

    def test_changes(self, changed):
        _, _, changes, _, reference = changed
        assert relative_error(from_planes(changes, WINDOW), reference) < TOLERANCE

    def test_error(self, changed):
        case, _, _, error, _ = changed
        modelled = case.by_position(
            lambda i: np.sqrt(case.reference.intensity(case.object, case.probe, i))
        )
        reference = ((case.amplitudes[case.batch.indices] - modelled) ** 2).sum()
        assert error == pytest.approx(reference, rel=TOLERANCE)

    def test_object_gradient(self, changed):
        case, probes, changes, _, reference = changed
        gradient = case.state.object_gradient(case.batch, probes, changes)
        chi = np.zeros((len(case.positions), *case.probe.shape), complex)
        chi[case.batch.indices] = reference
        expected = case.reference.object_gradient(case.probe, chi)
        found = from_planes(gradient.reshape(-1), expected.shape)
        assert relative_error(found, expected) < TOLERANCE

    def test_probe_gradient(self, changed):
        case, _, changes, _, reference = changed
        spectra = case.state.probe_gradient(case.batch, changes)
        found = np.fft.ifft2(planes_to_spectrum(spectra, case.state.plan))
        chi = np.zeros((len(case.positions), *case.probe.shape), complex)
        chi[case.batch.indices] = reference
        expected = case.reference.probe_gradient(case.object, chi)
        assert relative_error(found, expected) < TOLERANCE

    @pytest.mark.parametrize("with_probe", [True, False])
    def test_line_search(self, changed, with_probe):
        case, probes, changes, _, reference = changed
        rng = np.random.default_rng(8)
        # close to the gradients: directions which are at right angles to χ leave noise only
        chi = np.zeros((len(case.positions), *case.probe.shape), complex)
        chi[case.batch.indices] = reference
        along = case.reference.object_gradient(case.probe, chi)
        along += 0.3 * along.std() * smooth(rng, along.shape, 9)
        probe_along = case.reference.probe_gradient(case.object, chi)
        directions = np.empty((0, 1, 1), np.float32)
        if with_probe:
            spectra = spectrum_to_planes(np.fft.fft2(probe_along), case.state.plan)
            directions = case.state.shifted(spectra, case.batch, "probe directions")
        terms = np.full((len(case.chosen), 5), np.nan)
        kernels.line_search_terms(
            changes, case.state.object, to_planes(along).reshape(2, *along.shape), probes,
            directions, case.batch.classes, case.batch.corners, case.state.plan,
            case.state.space.waves, terms,
        )  # fmt: skip
        for n, i in enumerate(case.batch.indices):
            u = case.reference.shifted(case.probe, i) * case.reference.view(along, i)
            v = case.reference.shifted(probe_along, i) * case.reference.view(case.object, i)
            v = v * with_probe
            pairs = [(u, u), (v, v), (u, v), (u, reference[n]), (v, reference[n])]
            for found, (a, b) in zip(terms[n], pairs, strict=True):
                size = np.linalg.norm(a) * np.linalg.norm(b)
                assert abs(found - np.vdot(a, b).real) <= TOLERANCE * size

    def test_dark_pixels_are_left_alone(self):
        case = Case(1, seed=4)
        case.state.object[:] = 0
        _, changes, error = case.state.changes(case.batch, case.patterns, False)
        assert np.isfinite(changes).all() and not changes.any()
        expected = (case.amplitudes[case.chosen] ** 2).sum()
        assert error == pytest.approx(expected, rel=TOLERANCE)

    def test_illumination(self, case):
        case.state.measure_illumination()
        expected = np.zeros(case.placement.object_shape)
        for position in range(len(case.positions)):
            # the fraction of a pixel is of no account here
            case.reference.view(expected, position)[:] += (np.abs(case.probe) ** 2).sum(0)
        assert relative_error(case.state.illumination, expected) < TOLERANCE


class TestSmallKernels:
    def test_divide_and_add(self):
        rng = np.random.default_rng(1)
        gradient = rng.normal(size=(2, 9, 14)).astype(np.float32)
        weight = rng.uniform(0, 2, (9, 14)).astype(np.float32)
        expected = gradient / (weight + 0.25)
        array = rng.normal(size=gradient.shape).astype(np.float32)
        kernels.divide_by_illumination(gradient, weight, np.float32(0.25))
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)
        moved = array.copy()
        kernels.add_scaled(moved, gradient, np.float32(-0.7))
        np.testing.assert_allclose(moved, array - 0.7 * expected, rtol=1e-4, atol=1e-5)

    def test_poisson_deviance(self):
        rng = np.random.default_rng(2)
        counts = rng.poisson(1.5, (7, 60)).astype(np.uint16)
        model = rng.uniform(0, 3, (4, 60)).astype(np.float32)
        indices = np.array([6, 0, 3, 2])
        out = np.empty(4)
        kernels.poisson_deviance(model, counts, indices, np.float32(1.5), np.float32(0.02), out)
        mean, n = model * 1.5 + 0.02, counts[indices].astype(float)
        logarithm = np.where(n > 0, n * np.log(np.where(n > 0, n, 1) / mean), 0)
        np.testing.assert_allclose(out, 2 * (logarithm - n + mean).sum(1), rtol=1e-5)


def slope(function, array, places, step=1e-4):
    """∂/∂Re + i ∂/∂Im of a real function at some places of a complex array."""
    out = []
    for index in places:
        parts = []
        for direction in (1, 1j):
            values = []
            for sign in (1, -1):
                changed = array.copy()
                changed[index] += sign * step * direction
                values.append(function(changed))
            parts.append((values[0] - values[1]) / (2 * step))
        out.append(parts[0] + 1j * parts[1])
    return np.array(out)


class TestFiniteDifferences:
    """Σ conj(P) χ is −½ of the slope of Σ(√I_measured − √I)² with respect to the object."""

    @staticmethod
    def loss(case, object_, probe, floored):
        """Sum of the squared errors; `floored` as the kernels see it.

        The kernels fade out dark pixels, dL/da = 2(a − A)·a/(a + f). That is the derivative of
        (a − A)² + 2f[(A + f) log(a + f) − a].
        """
        f = float(kernels.AMPLITUDE_FLOOR) * floored
        total = 0.0
        for i in case.chosen:
            a = np.sqrt(case.reference.intensity(object_, probe, i))
            measured = case.amplitudes[i]
            total += ((a - measured) ** 2).sum()
            if floored:
                total += 2 * f * ((measured + f) * np.log(a + f) - a).sum()
        return total

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls):
        case = Case(2, seed=3)
        probes, changes, _ = case.state.changes(case.batch, case.patterns, False)
        shape = case.placement.object_shape
        gradient = case.state.object_gradient(case.batch, probes, changes)
        case.object_gradient = from_planes(gradient.reshape(-1), shape)
        spectra = case.state.probe_gradient(case.batch, changes)
        case.probe_gradient = np.fft.ifft2(planes_to_spectrum(spectra, case.state.plan))
        rng = np.random.default_rng(6)
        case.pixels = [(int(y), int(x)) for y, x in rng.integers(8, 24, (12, 2))]
        case.probe_pixels = [(n % 2, y % 24, x) for n, (y, x) in enumerate(case.pixels)]
        case.object = case.object.astype(complex)
        return case

    @pytest.mark.parametrize(("floored", "tolerance"), [(True, 1e-4), (False, 0.03)])
    def test_object(self, case, floored, tolerance):
        numerical = slope(
            lambda object_: self.loss(case, object_, case.probe, floored), case.object, case.pixels
        )
        found = np.array([case.object_gradient[index] for index in case.pixels])
        assert relative_error(found, -numerical / 2) < tolerance

    @pytest.mark.parametrize(("floored", "tolerance"), [(True, 1e-4), (False, 0.03)])
    def test_probe(self, case, floored, tolerance):
        numerical = slope(
            lambda probe: self.loss(case, case.object, probe, floored),
            case.probe,
            case.probe_pixels,
        )
        found = np.array([case.probe_gradient[index] for index in case.probe_pixels])
        assert relative_error(found, -numerical / 2) < tolerance
