"""The model against abTEM: one slice, the same potential and probe; signs of all that has one.

The potential and the probe are periodic in abTEM's cell, which is one window of ours, and the
object repeats the cell. abTEM's first axis is x, the column here.
"""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hs_autoptycho.calibration import electron_wavelength
from hs_autoptycho.ptycho.fft import make_plan, to_planes
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import place, scan_positions
from hs_autoptycho.ptycho.probe import beam_frequencies, make_probe
from hs_autoptycho.ptycho.state import State

abtem = pytest.importorskip("abtem")

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


def phase_of_the_specimen():
    """Smooth, so that abTEM's band limit at 2/3 of the smaller Nyquist frequency takes nothing."""
    noise = np.random.default_rng(0).normal(size=WINDOW)
    sigma = 0.05 * np.array(WINDOW)
    phase = gaussian_filter(noise, sigma, mode="wrap")
    return 0.5 * phase / phase.std()


def polar(aberrations):
    """abTEM's magnitudes in Å and angles in radians."""
    result = {"C10": -aberrations["defocus"], "C30": aberrations["C30"]}
    for order, fold in ((12, 2), (21, 1), (23, 3)):
        a, b = aberrations[f"C{order}a"], aberrations[f"C{order}b"]
        result[f"C{order}"] = np.hypot(a, b)
        result[f"phi{order}"] = np.arctan2(b, a) / fold
    return result


def abtem_probe(aberrations):
    return abtem.Probe(
        energy=ENERGY * 1e3,
        semiangle_cutoff=SEMIANGLE,
        extent=(EXTENT, EXTENT),
        gpts=WINDOW[::-1],
        aberrations=polar(aberrations),
    )


def abtem_patterns(positions, aberrations=ABERRATIONS):
    """Patterns (positions, rows, columns), zero frequency at pixel shape // 2."""
    sigma = abtem.core.energy.energy2sigma(ENERGY * 1e3)
    potential = abtem.PotentialArray(
        (phase_of_the_specimen().T[None] / sigma).astype(np.float32),
        slice_thickness=1.0,
        extent=(EXTENT, EXTENT),
    )
    scan = abtem.CustomScan(positions[:, ::-1] % EXTENT)
    exit_waves = abtem_probe(aberrations).multislice(potential, scan=scan, lazy=False)
    waves = np.asarray(exit_waves.array).reshape(-1, *WINDOW[::-1]).transpose(0, 2, 1)
    return np.fft.fftshift(np.abs(np.fft.fft2(waves.astype(complex))) ** 2, axes=(1, 2))


def aperture():
    """Amplitudes of abTEM's own aperture: those of its probe, in the order of fft2."""
    wave = abtem_probe(dict.fromkeys(ABERRATIONS, 0.0)).build(lazy=False)
    return np.abs(np.fft.fft2(np.asarray(wave.array).T.astype(complex)))


def modelled(aberrations=ABERRATIONS, rotation=ROTATION):
    """Our intensities in the order of the kernels, each pattern in counts of one electron."""
    k = beam_frequencies(WINDOW, PIXEL)
    probe = make_probe(aperture(), *k, electron_wavelength(ENERGY), **aberrations)
    positions = scan_positions(SCAN, STEP, rotation=rotation) / np.array(PIXEL)
    placement = place(positions, WINDOW)
    state = State.start(make_plan(*WINDOW), placement, probe[None])
    row, column = np.indices(placement.object_shape)
    cell = np.exp(1j * phase_of_the_specimen())
    origin = placement.origin.astype(int)
    object_ = cell[(row - origin[0]) % WINDOW[0], (column - origin[1]) % WINDOW[1]]
    state.object[:] = to_planes(object_).reshape(state.object.shape)
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
