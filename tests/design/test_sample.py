"""Phase shifts on other grids."""

import numpy as np
import pytest

from hs_autoptycho.design.sample import Specimen


def test_the_same_grid_gives_the_same_phases(specimen, phase):
    same = specimen.on_grid(phase.shape, (0.2, 0.2), specimen.origin)
    np.testing.assert_allclose(same[0], phase, atol=1e-10)


def test_between_the_pixels():
    # a cosine whose extremes are at the edges of the image is its own continuation
    n, pixel = 40, 0.25
    place = (np.arange(n) + 0.5) * pixel

    def wave(y, x):
        return np.cos(np.pi * 6 * y[:, None] / (n * pixel)) * np.cos(np.pi * 2 * x / (n * pixel))

    specimen = Specimen(wave(place, place)[None], pixel, (), (0.5 * pixel, 0.5 * pixel))
    y, x = 1.03 + 0.11 * np.arange(17), 0.71 + 0.13 * np.arange(21)
    got = specimen.on_grid((17, 21), (0.11, 0.13), (1.03, 0.71))
    np.testing.assert_allclose(got[0], wave(y, x), atol=1e-10)


def test_nothing_beyond_the_nyquist_frequency():
    generator = np.random.default_rng(0)
    specimen = Specimen(generator.normal(size=(1, 60, 64)), 0.1)
    fine = specimen.on_grid((60, 64), (0.1, 0.1), (0.0, 0.0))
    # of white noise a grid of three times the pixel holds a ninth of the power
    coarse = specimen.on_grid((20, 21), (0.3, 0.3), (0.1, 0.1))
    assert coarse.var() / fine.var() == pytest.approx(1 / 9, rel=0.15)
    # and no more when it is looked at on finer pixels again
    assert coarse.mean() == pytest.approx(fine.mean(), abs=0.05)


def test_waves_beyond_the_nyquist_frequency_are_gone():
    # cosines of number m along both axes, which are m / 12 waves an Å
    place = np.pi * (np.arange(60) + 0.5) / 60
    slow, fast = (np.outer(np.cos(m * place), np.cos(m * place)) for m in (12, 27))
    specimen = Specimen((slow + fast)[None], 0.1)
    coarse = specimen.on_grid((20, 17), (0.3, 0.3), (0.1, 0.1))[0]  # up to m = 20
    np.testing.assert_allclose(coarse, slow[1::3, 1:51:3], atol=1e-10)


def test_slices(phase):
    specimen = Specimen(np.stack([phase, 2 * phase, phase]), 0.2, (3.0, 5.0))
    assert specimen.thickness == 8.0
    np.testing.assert_allclose(specimen.sum_of_slices.phases[0], 4 * phase)
    assert specimen.extent == pytest.approx((20.0, 21.4))
    assert specimen.on_grid((5, 6), (0.2, 0.3), (1.0, 1.0)).shape == (3, 5, 6)
