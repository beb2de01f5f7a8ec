"""The model against abTEM: the same potential and probe; signs of all that has one.

The potential and the probe are periodic in abTEM's cell, which is one window of ours, and the
object repeats the cell. abTEM's first axis is x, the column here; its tilt is the beam's, ours the
specimen's.
"""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hs_autoptycho.calibration import electron_wavelength
from hs_autoptycho.ptycho.fft import make_plan, to_planes
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.probe import beam_frequencies, make_probe
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.state import State, make_detector

abtem = pytest.importorskip("abtem")

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = (72, 96)
SCAN = (3, 4)
ENERGY = 80.0  # keV
SEMIANGLE = 20.0  # mrad
DK = 0.055  # 1/Å: the probe's aperture has a radius of 8.7 pixels
EXTENT = 1 / DK
PIXEL = (EXTENT / WINDOW[0], EXTENT / WINDOW[1])
# With a 3-4-5 triangle, and pixels in the ratio of 4:3, every position is a whole number of 1/32
# pixels along both axes: what is compared is the model, not the rounding of positions
ROTATION = np.rad2deg(np.arctan2(4, 3))
STEP = 5 * EXTENT / 288 * 0.375 * 3
ABERRATIONS = {
    "defocus": 110.0,
    "C12a": 40.0,
    "C12b": -35.0,
    "C21a": 1200.0,
    "C21b": 900.0,
    "C23a": -800.0,
    "C23b": 600.0,
    "C30": 2e5,
}


# Slices: uneven, so that their order matters; abTEM has a distance behind the last one too
DISTANCES = (20.0, 35.0, 20.0)
TILT = (11.0, -17.0)  # mrad


def phase_of_the_specimen(n_slices=1):
    """Smooth, so that abTEM's band limit at 2/3 of the smaller Nyquist frequency takes nothing.

    Several slices, whose phases add up, must be smoother: with 0.05, 2e-3 of the amplitudes would
    lie beyond it. Each has content of its own, (slices, rows, columns).
    """
    noise = np.random.default_rng(0).normal(size=(n_slices, *WINDOW))
    sigma = (0.05 if n_slices == 1 else 0.07) * np.array(WINDOW)
    phase = gaussian_filter(noise, (0, *sigma), mode="wrap")
    return 0.5 * phase / phase.std(axis=(1, 2), keepdims=True)


def polar(aberrations):
    """abTEM's magnitudes in Å and angles in radians."""
    result = {"C10": -aberrations["defocus"], "C30": aberrations["C30"]}
    for order, fold in ((12, 2), (21, 1), (23, 3)):
        a, b = aberrations[f"C{order}a"], aberrations[f"C{order}b"]
        result[f"C{order}"] = np.hypot(a, b)
        result[f"phi{order}"] = np.arctan2(b, a) / fold
    return result


def abtem_probe(aberrations, tilt=(0.0, 0.0)):
    return abtem.Probe(
        energy=ENERGY * 1e3,
        semiangle_cutoff=SEMIANGLE,
        extent=(EXTENT, EXTENT),
        gpts=WINDOW[::-1],
        aberrations=polar(aberrations),
        tilt=(-tilt[1], -tilt[0]),
    )


def abtem_patterns(positions, aberrations=ABERRATIONS, distances=(), tilt=(0.0, 0.0)):
    """Patterns (positions, rows, columns), zero frequency at pixel shape // 2."""
    sigma = abtem.core.energy.energy2sigma(ENERGY * 1e3)
    phases = phase_of_the_specimen(len(distances) + 1)
    potential = abtem.PotentialArray(
        (phases.transpose(0, 2, 1) / sigma).astype(np.float32),
        slice_thickness=(*distances, 1.0),
        extent=(EXTENT, EXTENT),
    )
    scan = abtem.CustomScan(positions[:, ::-1] % EXTENT)
    probe = abtem_probe(aberrations, tilt)
    exit_waves = probe.multislice(potential, scan=scan, lazy=False)
    waves = np.asarray(exit_waves.array).reshape(-1, *WINDOW[::-1]).transpose(0, 2, 1)
    return np.fft.fftshift(np.abs(np.fft.fft2(waves.astype(complex))) ** 2, axes=(1, 2))


def aperture():
    """Amplitudes of abTEM's own aperture: those of its probe, in the order of fft2."""
    wave = abtem_probe(dict.fromkeys(ABERRATIONS, 0.0)).build(lazy=False)
    return np.abs(np.fft.fft2(np.asarray(wave.array).T.astype(complex)))


def modelled(aberrations=ABERRATIONS, rotation=ROTATION, distances=(), tilt=(0.0, 0.0), order=None):
    """Our intensities in the order of the kernels, each pattern in counts of one electron."""
    k = beam_frequencies(WINDOW, PIXEL)
    wavelength = electron_wavelength(ENERGY)
    probe = make_probe(aperture(), *k, wavelength, **aberrations)
    positions = scan_positions(SCAN, STEP, rotation=rotation) / np.array(PIXEL)
    placement = place(positions, WINDOW)
    nothing = np.ones((len(positions), *WINDOW), np.uint8)  # measured: of no account here
    detector = make_detector(Patterns.from_blocks([nothing], len(nothing), WINDOW))
    propagation = Propagation(distances, wavelength, PIXEL, tilt)
    state = State.start(
        make_plan(*WINDOW), placement, probe[None], detector, propagation=propagation
    )
    row, column = np.indices(placement.object_shape)
    origin = placement.origin.astype(int)
    phases = phase_of_the_specimen(len(distances) + 1)
    for s, phase in enumerate(phases if order is None else phases[list(order)]):
        cell = np.exp(1j * phase)
        slice_ = cell[(row - origin[0]) % WINDOW[0], (column - origin[1]) % WINDOW[1]]
        state.object[s] = to_planes(slice_).reshape(state.object.shape[1:])
    batch = state.batch(np.arange(len(positions)))
    intensities = np.empty((len(positions), WINDOW[0] * WINDOW[1]))
    intensities[batch.indices] = state.model_intensities(batch)
    return intensities / intensities.sum(1, keepdims=True)


def error_of_amplitudes(intensities, patterns):
    """Relative, after bringing the patterns into the kernels' order as a measurement is."""
    ordered = Patterns.from_blocks([patterns], len(patterns), WINDOW).counts.astype(float)
    reference = np.sqrt(ordered / ordered.sum(1, keepdims=True))
    return np.linalg.norm(np.sqrt(intensities) - reference) / np.linalg.norm(reference)


def formula(rotation=ROTATION):
    """Positions (row, column) in Å, written out."""
    cos, sin = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
    return np.array(
        [
            (STEP * (cos * slow - sin * fast), STEP * (sin * slow + cos * fast))
            for slow in range(SCAN[0])
            for fast in range(SCAN[1])
        ]
    )


@pytest.fixture(scope="module")
def reference():
    return abtem_patterns(formula())


def test_one_slice(reference):
    assert error_of_amplitudes(modelled(), reference) < 1e-3


def test_the_specimen_and_the_positions_matter(reference):
    # otherwise agreement would mean little
    assert error_of_amplitudes(modelled(), reference[::-1]) > 0.1
    vacuum = np.abs(aperture()) ** 2
    patterns = np.repeat(np.fft.fftshift(vacuum)[None], len(reference), 0)
    assert error_of_amplitudes(modelled(), patterns) > 0.1


def test_positions_need_no_rounding():
    placement = place(formula() / np.array(PIXEL), WINDOW)
    center = placement.corners + np.array(WINDOW) // 2 + placement.fractions[placement.classes]
    np.testing.assert_allclose(center - placement.origin, formula() / np.array(PIXEL), atol=1e-9)
    assert len(placement.fractions) > 5


@pytest.mark.parametrize("name", ABERRATIONS)
def test_each_aberration(name):
    # alone, with the right sign and with the other
    alone = {other: ABERRATIONS[name] * (other == name) for other in ABERRATIONS}
    patterns = abtem_patterns(formula(), alone)
    assert error_of_amplitudes(modelled(alone), patterns) < 1e-3
    flipped = {**alone, name: -alone[name]}
    assert error_of_amplitudes(modelled(flipped), patterns) > 0.03


@pytest.mark.parametrize("name", ABERRATIONS)
def test_sign_of_each_aberration_among_the_others(reference, name):
    flipped = {**ABERRATIONS, name: -ABERRATIONS[name]}
    assert error_of_amplitudes(modelled(flipped), reference) > 0.03


def test_sign_of_rotation(reference):
    assert error_of_amplitudes(modelled(rotation=-ROTATION), reference) > 0.1


def test_any_rotation():
    # positions are rounded to 1/32 pixel here
    patterns = abtem_patterns(formula(-127.3))
    assert error_of_amplitudes(modelled(rotation=-127.3), patterns) < 5e-3
    assert error_of_amplitudes(modelled(rotation=127.3), patterns) > 0.1


def test_wavelength():
    theirs = abtem.core.energy.energy2wavelength(ENERGY * 1e3)
    assert electron_wavelength(ENERGY) == pytest.approx(theirs, rel=1e-6)


class TestMultislice:
    @pytest.fixture(scope="class")
    @classmethod
    def patterns(cls):
        return abtem_patterns(formula(), distances=DISTANCES)

    @pytest.fixture(scope="class")
    @classmethod
    def tilted(cls):
        return abtem_patterns(formula(), distances=DISTANCES, tilt=TILT)

    def test_against_abtem(self, patterns):
        assert error_of_amplitudes(modelled(distances=DISTANCES), patterns) < 5e-4

    def test_propagation_matters(self, patterns):
        # a thin specimen with the same slices, other distances, and the slices in another order
        thin = tuple(1e-3 * d for d in DISTANCES)
        assert error_of_amplitudes(modelled(distances=thin), patterns) > 0.1
        longer = tuple(1.05 * d for d in DISTANCES)
        assert error_of_amplitudes(modelled(distances=longer), patterns) > 5e-3
        moved = (DISTANCES[1], DISTANCES[0], DISTANCES[2])
        assert error_of_amplitudes(modelled(distances=moved), patterns) > 0.02
        upside_down = modelled(distances=DISTANCES, order=(3, 2, 1, 0))
        assert error_of_amplitudes(upside_down, patterns) > 0.1

    def test_tilt(self, tilted):
        assert error_of_amplitudes(modelled(distances=DISTANCES, tilt=TILT), tilted) < 5e-4

    def test_sign_and_axes_of_the_tilt(self, tilted):
        others = [(0.0, 0.0), TILT[::-1], (-TILT[0], TILT[1]), (TILT[0], -TILT[1])]
        for other in others:
            intensities = modelled(distances=DISTANCES, tilt=other)
            assert error_of_amplitudes(intensities, tilted) > 0.05

    def test_slices_in_the_same_place_are_one(self, patterns):
        # their phases add up: what propagation is left out is that of no distance
        thin = modelled(distances=(1e-6,) * 3)
        whole = np.exp(1j * phase_of_the_specimen(4).sum(0))
        assert np.ptp(np.angle(whole)) > 1
        expected = modelled_single(whole)
        assert np.linalg.norm(np.sqrt(thin) - np.sqrt(expected)) < 1e-5 * np.sqrt(len(thin))


def modelled_single(cell):
    """By numpy, one slice that repeats `cell`."""
    k = beam_frequencies(WINDOW, PIXEL)
    probe = make_probe(aperture(), *k, electron_wavelength(ENERGY), **ABERRATIONS)
    spectrum = np.fft.fft2(np.fft.ifftshift(probe))
    patterns = []
    for y, x in formula() / np.array(PIXEL):
        ramp = np.exp(
            -2j * np.pi * (y * np.fft.fftfreq(WINDOW[0])[:, None] + x * np.fft.fftfreq(WINDOW[1]))
        )
        exit_wave = np.fft.ifft2(spectrum * ramp) * cell
        patterns.append(np.abs(np.fft.fft2(exit_wave)) ** 2)
    patterns = np.fft.fftshift(np.stack(patterns), axes=(1, 2)).astype(np.float32)
    ordered = Patterns.from_blocks([patterns], len(patterns), WINDOW).counts.astype(float)
    return ordered / ordered.sum(1, keepdims=True)
