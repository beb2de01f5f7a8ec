"""The engine's model in complex128, straight from the formulas, and scans to try it on."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.ndimage import convolve1d, gaussian_filter
from scipy.stats import norm

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.detector import AMPLITUDE_FLOOR
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.fft import (
    make_plan,
    planes_to_spectrum,
    spectrum_to_planes,
    to_planes,
)
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.solver import Model, reconstruct
from hs_autoptycho.ptycho.state import State, make_detector

FLOOR = float(AMPLITUDE_FLOOR)


def smooth(rng, shape, cycles):
    """Random complex numbers of standard deviation 1 with frequencies up to `cycles` a window."""
    spectrum = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij"))
    result = np.fft.ifft2(spectrum * np.exp(-((frequency / cycles) ** 2)))
    return result / result.std()


def frequencies(shape):
    """Cycles a pixel along rows and columns, in the order of fft2."""
    return np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")


def spread(image, sigma):
    """Convolve with a Gaussian of which every pixel gets its integral, round the edges."""
    reach = int(np.ceil(9 * sigma))
    weights = np.diff(norm.cdf(np.arange(-reach, reach + 2) - 0.5, scale=sigma))
    for axis in range(2):
        image = convolve1d(image, weights, axis=axis, mode="wrap")
    return image


@dataclass(frozen=True)
class NumpyModel:
    """Everything in natural order: windows as they lie on the object, spectra as of fft2.

    Attributes
    ----------
    slices : complex (slices, Y, X)
    modes, variable : complex (modes, rows, columns), (variable modes, rows, columns)
    coefficients : float (positions, variable modes)
    corners : int (positions, 2)
    shifts : float (positions, 2)
        Of the probe in its window, in pixels.
    amplitudes : float (positions, rows, columns)
        Square roots of the measured intensities.
    distances : Å; tilt : mrad
    """

    slices: np.ndarray
    modes: np.ndarray
    variable: np.ndarray
    coefficients: np.ndarray
    corners: np.ndarray
    shifts: np.ndarray
    amplitudes: np.ndarray
    brightness: np.ndarray
    mask: np.ndarray
    background: np.ndarray
    blur: float = 0.0
    distances: tuple = ()
    tilt: tuple = (0.0, 0.0)
    wavelength: float = 0.04
    pixel_size: tuple = (0.25, 0.2)
    beam_offset: tuple = (0.0, 0.0)
    poisson: bool = False

    @property
    def shape(self):
        return self.modes.shape[1:]

    def shift(self, waves, n, sign=1):
        """Waves moved by the fraction of a pixel of position n (back with sign −1)."""
        dy, dx = self.shifts[n]
        ky, kx = frequencies(self.shape)
        ramp = np.exp(-2j * np.pi * sign * (dy * ky + dx * kx))
        return np.fft.ifft2(np.fft.fft2(waves) * ramp)

    def view(self, array, n):
        (y, x), (rows, columns) = self.corners[n], self.shape
        return array[..., y : y + rows, x : x + columns]

    def propagator(self, distance):
        k = []
        for axis, (n, offset) in enumerate(zip(self.shape, self.beam_offset, strict=True)):
            pixels = frequencies(self.shape)[axis] * n - offset  # from the centre of the beam
            pixels = (pixels + n / 2) % n - n / 2
            k.append(pixels / (n * self.pixel_size[axis]))
        ky, kx = k
        tan_y, tan_x = np.tan(1e-3 * np.array(self.tilt))
        free = np.exp(-1j * np.pi * self.wavelength * distance * (ky**2 + kx**2))
        return free * np.exp(2j * np.pi * distance * (ky * tan_y + kx * tan_x))

    def waves(self, n):
        """Waves (modes, rows, columns) before each slice, and behind the last one."""
        modes = self.modes.copy()
        modes[0] += np.tensordot(self.coefficients[n], self.variable, 1)
        wave = self.shift(modes, n)
        out = []
        for s, slice_ in enumerate(self.slices):
            out.append(wave)
            wave = wave * self.view(slice_, n)
            if s < len(self.distances):
                wave = np.fft.ifft2(np.fft.fft2(wave) * self.propagator(self.distances[s]))
        return [*out, wave]

    def blurred(self, image):
        if not self.blur:
            return image
        return spread(image, self.blur)

    def intensity(self, n):
        """On the detector, of mean 1 a pixel."""
        plain = (np.abs(np.fft.fft2(self.waves(n)[-1])) ** 2).sum(0) / self.mask.size
        return self.blurred(plain) * self.brightness[n] + self.background

    def loss(self, n, floor=0.0):
        """½ Σ(A − a)² of position n.

        The kernels fade out dark pixels: dL/da = (a − A) a/(a + f). That is the derivative of
        ½(a − A)² + f[(A + f) log(a + f) − a].
        """
        a, measured = np.sqrt(self.intensity(n)), self.amplitudes[n]
        error = (a - measured) ** 2 / 2
        if floor:
            error += floor * ((measured + floor) * np.log(a + floor) - a)
        return (self.mask * error).sum()

    def changes(self, n):
        """χ of the modes behind the last slice."""
        a, measured = np.sqrt(self.intensity(n)), self.amplitudes[n]
        target = proximal_target(measured, a) if self.poisson else measured
        factor = self.mask * (target - a) / (a + FLOOR)
        factor = self.blurred(factor) * self.brightness[n]
        return np.fft.ifft2(np.fft.fft2(self.waves(n)[-1]) * factor)

    def gradients(self, positions):
        """Σ conj(wave before) χ by slice, and Σ conj(O) χ with no fraction of a pixel."""
        by_object = np.zeros(self.slices.shape, complex)
        by_probe = np.zeros(self.modes.shape, complex)
        for n in positions:
            change, waves = self.changes(n), self.waves(n)
            for s in reversed(range(len(self.slices))):
                if s < len(self.distances):
                    back = self.propagator(self.distances[s]).conj()
                    change = np.fft.ifft2(np.fft.fft2(change) * back)
                self.view(by_object[s], n)[:] += (waves[s].conj() * change).sum(0)
                change = self.view(self.slices[s], n).conj() * change
            by_probe += self.shift(change, n, -1)
        return by_object, by_probe


def proximal_target(measured, a0, rho=8.0):
    """By bisection: the amplitude that minimises a² − 2A² log a + ρ(a − a₀)²."""

    def slope(a):
        return 2 * a - 2 * measured**2 / a + 2 * rho * (a - a0)

    low, high = np.full_like(a0, 1e-12), measured + a0 + 1
    for _ in range(80):
        middle = (low + high) / 2
        above = slope(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    # the step is lengthened to be the whole one near the minimum
    return a0 + (1 + rho / 2) * (middle - a0)


@dataclass
class Scan:
    """A scan of random numbers, as the kernels have it (`state`) and as numpy does (`model`).

    `step` 2.5 without rotation has four fractions of a pixel that many positions share; with `own`
    each position has one that is not rounded.
    """

    window: tuple = (32, 40)
    scan: tuple = (3, 5)
    step: float = 2.5
    rotation: float = 0.0
    n_modes: int = 1
    n_variable: int = 0
    distances: tuple = ()
    tilt: tuple = (0.0, 0.0)
    beam_offset: tuple = (0.0, 0.0)
    own: bool = False
    fluctuation: float = 0.0
    masked: bool = False
    background: bool = False
    blur: float = 0.0
    poisson: bool = False
    seed: int = 0
    state: State = field(init=False)
    model: NumpyModel = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        window = self.window
        positions = scan_positions(self.scan, self.step, rotation=self.rotation)
        placement = place(positions, window)
        n, pixels = len(positions), window[0] * window[1]
        propagation = Propagation(self.distances, 0.04, (0.25, 0.2), self.tilt)

        # spectra without dark places: float32 noise is small against the amplitudes
        def modes(count):
            phases = rng.uniform(-1, 1, (count, *window))
            return np.fft.ifft2(np.exp(3j * phases) * (1 + 0.3 * rng.uniform(-1, 1, phases.shape)))

        probe = modes(self.n_modes) * np.sqrt(0.5 ** np.arange(self.n_modes))[:, None, None]
        measured = rng.uniform(0.05, 2.5, (n, *window)).astype(np.float32)
        mask = rng.uniform(size=window) > 0.2 if self.masked else np.ones(window, bool)
        background = rng.uniform(0, 0.4, window) * self.background
        self.patterns = Patterns.from_blocks([measured], n, window)
        detector = make_detector(
            self.patterns,
            poisson=self.poisson,
            mask=mask if self.masked else None,
            background=background if self.background else 0.0,
            blur=self.blur,
        )
        state = State.start(
            make_plan(*window),
            placement,
            probe,
            detector,
            propagation=propagation if self.distances else None,
            beam_offset=self.beam_offset,
            n_variable_modes=self.n_variable,
        )
        state.passing = True
        state.propagate(propagation if self.distances else None)
        if self.own:
            state.move(state.positions + rng.uniform(-0.6, 0.6, (n, 2)))
        for s in range(len(state.object)):
            slice_ = 1 + 0.25 * smooth(rng, state.object.shape[2:], 6)
            state.object[s] = to_planes(slice_).reshape(state.object.shape[1:])
        if self.n_variable:
            variable = modes(self.n_variable) * np.sqrt(pixels) / 3
            state.spectra[self.n_modes :] = spectrum_to_planes(np.fft.fft2(variable), state.plan)
            state.coefficients[:] = rng.normal(size=state.coefficients.shape)
        state.brightness[:] = np.exp(self.fluctuation * rng.normal(size=n))
        self.state = state
        spectra = planes_to_spectrum(state.spectra, state.plan).astype(complex)
        scale = pixels / measured.sum((1, 2)).mean(dtype=float)

        def corner(array):
            return np.fft.ifftshift(array, axes=(-2, -1))

        self.model = NumpyModel(
            slices=state.object[:, 0] + 1j * state.object[:, 1].astype(float),
            modes=np.fft.ifft2(spectra[: self.n_modes]),
            variable=np.fft.ifft2(spectra[self.n_modes :]).reshape(-1, *window),
            coefficients=state.coefficients.astype(float),
            corners=state.placement.corners,
            shifts=state.placement.fractions[state.placement.classes],
            amplitudes=np.sqrt(corner(measured.astype(float)) * scale),
            brightness=state.brightness.astype(float),
            mask=corner(mask),
            background=corner(background) * scale,
            blur=self.blur,
            distances=self.distances,
            tilt=self.tilt,
            beam_offset=self.beam_offset,
            poisson=self.poisson,
        )
        # in an order that is not that of the scan, and not all of them
        self.chosen = rng.permutation(n)[: max(1, 4 * n // 5)]
        self.batch = state.batch(self.chosen)

    def gradients(self):
        """Of the batch: the kernels', and those of object and modes as complex arrays."""
        found = self.state.gradients(self.batch)
        total = np.empty_like(self.state.object)
        kernels.add_groups(found.object, self.batch.visit.bands, total)
        by_probe = planes_to_spectrum(found.probes.sum(0), self.state.plan)
        return found, total[:, 0] + 1j * total[:, 1], np.fft.ifft2(by_probe.astype(complex))

    def loss(self, floor=FLOOR, **changes):
        """Of the batch, after changing some of the model's arrays."""
        model = replace(self.model, **changes)
        return sum(model.loss(n, floor) for n in self.chosen)

    def natural(self, ordered):
        """Real numbers (batch, pixels) in the spectrum's order to (batch, rows, columns)."""
        plan = self.state.plan
        out = np.empty((len(ordered), *self.window), ordered.dtype)
        transposed = ordered.reshape(-1, plan.columns, plan.rows).transpose(0, 2, 1)
        out[:, plan.row_order[:, None], plan.column_order] = transposed
        return out


@pytest.fixture(scope="session")
def make_scan():
    """`Scan`: parameters in, a scan of random numbers out."""
    return Scan


@pytest.fixture(scope="session")
def poisson_target():
    return proximal_target


class Measurement:
    """Counts of an object that is known, in plain numpy, and what a solver has to know of them.

    Attributes
    ----------
    data : (positions, rows, columns)
        As a detector shows them.
    phases : float (slices, Y, X), the truth on the grid of `placement`
    probe : complex (rows, columns), centred, of power 1
    """

    window, scan, rotation = (32, 40), (7, 9), 11.0

    def __init__(
        self, *, step=1.2, defocus=100.0, distance=None, dose=20000, strength=0.4, absorption=0.0,
        background=0.0, blur=0.0, cycles=1.6, seed=0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        self.geometry = Geometry(
            beam_energy=80.0, scan_shape=self.scan, detector_shape=self.window, scan_step=step,
            reciprocal_pixel=0.05, convergence_angle=17.0, scan_rotation=self.rotation,
            disk_center=tuple(n // 2 for n in self.window), disk_radius=8.0, defocus=defocus,
        )  # fmt: skip
        self.pixel = self.geometry.object_pixel
        positions = scan_positions(self.scan, step, rotation=self.rotation) / np.array(self.pixel)
        self.placement = place(positions, self.window)
        self.positions = positions + self.placement.origin
        shape = (1 if distance is None else 2, *self.placement.object_shape)
        phases = np.stack([gaussian_filter(rng.normal(size=shape[1:]), cycles) for _ in range(2)])
        self.phases = (strength * phases / phases.std((1, 2), keepdims=True))[: shape[0]]
        slices = np.exp((1j - absorption) * self.phases)
        self.propagation = None
        if distance is not None:
            self.propagation = Propagation((distance,), self.geometry.wavelength, self.pixel)
        self.probe = self.make_probe(defocus)
        intensities = self.intensities(slices, self.probe)
        self.truth = slices
        self.blur, self.background = blur, background
        if blur:
            intensities = np.stack([spread(image, blur) for image in intensities])
        data = rng.poisson(intensities * dose + background) if dose else intensities + background
        data = data.astype(np.uint16 if dose else np.float32)
        self.data = np.fft.fftshift(data, axes=(1, 2))
        self.patterns = self.ordered(self.data)

    def ordered(self, data):
        return Patterns.from_blocks([data], len(data), self.window)

    def make_probe(self, defocus, radius=8.2):
        k = [f / p for f, p in zip(frequencies(self.window), self.pixel, strict=True)]
        squared = k[0] ** 2 + k[1] ** 2
        aperture = np.clip(radius - np.sqrt(squared) / 0.05 + 0.5, 0, 1)
        spectrum = aperture * np.exp(1j * np.pi * self.geometry.wavelength * defocus * squared)
        probe = np.fft.fftshift(np.fft.ifft2(spectrum))
        return probe / np.linalg.norm(probe)

    def intensities(self, slices, probe, which=...):
        """Of the positions with the indices `which`, zero frequency first."""
        ky, kx = frequencies(self.window)
        squared = (ky / self.pixel[0]) ** 2 + (kx / self.pixel[1]) ** 2
        distance = self.propagation.distances[0] if self.propagation else 0
        free = np.exp(-1j * np.pi * self.geometry.wavelength * distance * squared)
        out = []
        for position in self.positions[which]:
            corner = position - np.array(self.window) // 2
            y, x = whole = np.floor(corner + 0.5).astype(int)
            dy, dx = corner - whole
            wave = np.fft.ifft2(np.fft.fft2(probe) * np.exp(-2j * np.pi * (dy * ky + dx * kx)))
            views = slices[:, y : y + self.window[0], x : x + self.window[1]]
            wave = wave * views[0]
            for view in views[1:]:
                wave = np.fft.ifft2(np.fft.fft2(wave) * free) * view
            out.append(np.abs(np.fft.fft2(wave)) ** 2 / np.prod(self.window))
        return np.array(out)

    def scanned(self, image, margin=0):
        """The part of an image on the object's grid that the probe's centre visited."""
        low, high = self.positions.min(0), self.positions.max(0)
        (y, x), (b, r) = low.astype(int) + margin, high.astype(int) + 1 - margin
        return image[..., y:b, x:r]

    def correlation(self, found, slice=0):
        """Of a slice's phase with the truth where the scan was, but for a constant and a ramp."""
        found = self.scanned(found)
        found, truth = np.angle(found / found.mean()), self.scanned(self.phases[slice])
        row, column = (i.ravel() for i in np.indices(truth.shape))
        plane = np.stack([np.ones(row.size), row, column], 1)
        flat = [a.ravel() - plane @ np.linalg.lstsq(plane, a.ravel(), rcond=None)[0]
                for a in (found, truth)]  # fmt: skip
        return np.corrcoef(*flat)[0, 1]

    def model(self, **detector):
        phase = sum((f / p) ** 2 for f, p in zip(frequencies(self.window), self.pixel, strict=True))
        return Model(
            propagation=self.propagation,
            pixel_size=self.pixel,
            defocus_phase=np.pi * self.geometry.wavelength * phase,
            defocus=self.geometry.defocus,
            detector=detector,
        )

    def run(self, n_iterations, *, probe=None, patterns=None, detector=None, model=None, **options):
        probe = self.probe[None] if probe is None else probe
        return reconstruct(
            patterns or self.patterns, self.placement, probe, n_iterations=n_iterations,
            model=model or self.model(**(detector or {})), **options,
        )  # fmt: skip

    def experiment(self, **changes):
        return Experiment(self.data, replace(self.geometry, **changes))


@pytest.fixture(scope="session")
def measure():
    """`Measurement`: a simulated scan of an object that is known."""
    return Measurement
