"""The transforms inside the kernels against numpy's, at double precision, for many sizes."""

import pickle

import numpy as np
import pytest
from numba.core.errors import TypingError

from hs_autoptycho.ptycho import fft
from hs_autoptycho.ptycho.butterflies import RADICES

SIZES = [
    *((n, n) for n in (*range(1, 19), 20, 30, 64, 96, 100, 122, 124, 126, 127, 128, 130, 160)),
    *((n, n) for n in (192, 256)),
    (128, 192),
    (22, 62),
    (62, 22),
    (2, 50),
    (48, 10),
    (32, 34),
    # different ways along the two axes: large primes, sizes that crowd the cache, few columns
    (61, 96),
    (130, 31),
    (64, 256),
    (256, 80),
    (12, 512),
    (514, 20),
    # odd sizes, among them powers of odd primes and primes without a butterfly of their own
    (9, 25),
    (49, 15),
    (17, 31),
    (289, 19),
    (1, 21),
    (23, 1),
]


def random_wave(shape, *, leading=(), seed=0):
    rng = np.random.default_rng(seed)
    shape = (*leading, *shape)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def scratch(plan):
    # what an earlier transform left there must not matter
    return np.full(fft.scratch_size(plan), np.nan, np.float32)


def relative_error(result, reference):
    return np.linalg.norm(result - reference) / np.linalg.norm(reference)


@pytest.mark.parametrize("shape", SIZES)
class TestTransforms:
    def test_forward(self, shape):
        plan = fft.make_plan(*shape)
        wave = random_wave(shape).astype(np.complex64)
        spectrum = np.full(2 * wave.size, np.nan, np.float32)
        fft.forward(fft.to_planes(wave), spectrum, plan, scratch(plan))
        reference = np.fft.fft2(wave.astype(complex))
        assert relative_error(fft.planes_to_spectrum(spectrum, plan), reference) < 1e-6

    def test_inverse(self, shape):
        plan = fft.make_plan(*shape)
        spectrum = random_wave(shape, seed=1).astype(np.complex64)
        wave = np.full(2 * spectrum.size, np.nan, np.float32)
        fft.inverse(fft.spectrum_to_planes(spectrum, plan), wave, plan, scratch(plan))
        reference = np.fft.ifft2(spectrum.astype(complex)) * spectrum.size
        assert relative_error(fft.from_planes(wave, shape), reference) < 1e-6

    def test_order_is_a_permutation(self, shape):
        plan = fft.make_plan(*shape)
        for size, order in zip(shape, (plan.row_order, plan.column_order), strict=True):
            np.testing.assert_array_equal(np.sort(order), np.arange(size))

    def test_stays_inside_its_arrays(self, shape):
        # the transforms work with bare pointers
        plan = fft.make_plan(*shape)
        wave = random_wave(shape).astype(np.complex64)
        lengths = (2 * wave.size, 2 * wave.size, fft.scratch_size(plan))
        guarded = [np.full(length + 64, 7, np.float32) for length in lengths]
        source, spectrum, space = (array[32:-32] for array in guarded)
        source[:] = fft.to_planes(wave)
        fft.forward(source, spectrum, plan, space)
        fft.inverse(spectrum, source, plan, space)
        for array in guarded:
            assert (array[:32] == 7).all() and (array[-32:] == 7).all()
        assert relative_error(fft.from_planes(source, shape), wave * wave.size) < 1e-6

    def test_radices(self, shape):
        for size in shape:
            radices = fft.radices(size)
            assert np.prod(radices) == size
            for radix in radices:
                prime = radix > 1 and all(radix % n for n in range(2, radix))
                assert radix in RADICES or prime


def test_same_bits_wherever_the_arrays_lie():
    for shape in ((24, 36), (35, 62), (128, 160)):
        plan = fft.make_plan(*shape)
        wave = fft.to_planes(random_wave(shape).astype(np.complex64))
        results = []
        for offset in (0, 1, 5, 16):
            arrays = [np.full(2 * 16 + n, np.nan, np.float32) for n in (
                wave.size, wave.size, fft.scratch_size(plan))]  # fmt: skip
            source, spectrum, space = (array[offset : len(array) - 32 + offset] for array in arrays)
            source[:] = wave
            fft.forward(source, spectrum, plan, space)
            results.append(spectrum.copy())
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


def test_plan_of_another_process():
    # the address of the compiled transform means nothing there
    plan = fft.make_plan(14, 6)._replace(address=1)
    again = pickle.loads(pickle.dumps(plan))
    assert again.address == fft.make_plan(14, 6).address
    assert (again.rows, again.columns) == (14, 6)


def test_refuses_numbers_of_another_kind():
    plan = fft.make_plan(4, 6)
    with pytest.raises(TypingError, match="arrays of float32"):
        fft.forward(np.zeros(48), np.zeros(48, np.float32), plan, scratch(plan))


@pytest.mark.parametrize("shape", [(12, 62), (126, 10)])
def test_one_frequency(shape):
    # a single plane wave pins the sign of the transform and which axis is which
    rows, columns = np.indices(shape)
    wave = np.exp(2j * np.pi * (3 * rows / shape[0] - 4 * columns / shape[1]))
    plan = fft.make_plan(*shape)
    spectrum = np.empty(2 * wave.size, np.float32)
    fft.forward(fft.to_planes(wave), spectrum, plan, scratch(plan))
    spectrum = fft.planes_to_spectrum(spectrum, plan)
    assert spectrum[3, -4] == pytest.approx(wave.size, rel=1e-5)
    spectrum[3, -4] = 0
    assert np.abs(spectrum).max() < 1e-5 * wave.size


@pytest.mark.parametrize("shape", [(12, 14), (22, 62), (9, 64)])
class TestOrder:
    def test_planes(self, shape):
        waves = random_wave(shape, leading=(3, 5)).astype(np.complex64)
        planes = fft.to_planes(waves)
        assert planes.dtype == np.float32 and planes.shape == (3, 5, 2 * shape[0] * shape[1])
        np.testing.assert_array_equal(planes[1, 2, : shape[1]], waves[1, 2, 0].real)
        np.testing.assert_array_equal(planes[1, 2, -shape[1] :], waves[1, 2, -1].imag)
        np.testing.assert_array_equal(fft.from_planes(planes, shape), waves)

    def test_spectrum(self, shape):
        plan = fft.make_plan(*shape)
        spectra = random_wave(shape, leading=(3, 5)).astype(np.complex64)
        planes = fft.spectrum_to_planes(spectra, plan)
        np.testing.assert_array_equal(fft.planes_to_spectrum(planes, plan), spectra)
        again = fft.spectrum_to_planes(fft.planes_to_spectrum(planes, plan), plan)
        np.testing.assert_array_equal(again, planes)
        # transposed: rows run fastest
        i, j = 2, 7
        place = j * shape[0] + i
        frequency = plan.row_order[i], plan.column_order[j]
        assert planes[1, 4, place] == spectra[1, 4][frequency].real


def test_there_and_back_many_times():
    # errors that add up would show
    plan = fft.make_plan(60, 28)
    wave = random_wave((60, 28)).astype(np.complex64)
    planes, spectrum = fft.to_planes(wave), np.empty(2 * wave.size, np.float32)
    for _ in range(50):
        fft.forward(planes, spectrum, plan, scratch(plan))
        fft.inverse(spectrum, planes, plan, scratch(plan))
        planes /= wave.size
    assert relative_error(fft.from_planes(planes, wave.shape), wave) < 5e-6
