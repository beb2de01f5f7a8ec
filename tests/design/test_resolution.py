"""Pairs of atoms, seen as two or as one."""

import numpy as np
import pytest

from hs_autoptycho.design.resolution import resolved_pairs

PIXEL, ORIGIN = 0.2, (3.0, -4.0)


def atoms(width: float, pixel=(PIXEL, PIXEL)) -> tuple[np.ndarray, np.ndarray]:
    """An image of pairs of Gaussians 1.75 Å apart, and where they are."""
    generator = np.random.default_rng(0)
    middles = np.stack(np.meshgrid(4 + 6 * np.arange(6), 4 + 6 * np.arange(7), indexing="ij"), -1)
    middles = middles.reshape(-1, 2) + generator.uniform(-0.3, 0.3, (42, 2))
    angle = generator.uniform(0, np.pi, 42)
    arm = 0.875 * np.column_stack([np.sin(angle), np.cos(angle)])
    pairs = np.stack([middles - arm, middles + arm], axis=1)
    y, x = (np.arange(round(n * PIXEL / p)) * p for n, p in zip((190, 220), pixel, strict=True))
    image = sum(
        np.exp(-((y[:, None] - p) ** 2 + (x - q) ** 2) / (2 * width**2))
        for p, q in pairs.reshape(-1, 2)
    )
    return image, pairs + ORIGIN


def test_narrow_atoms_are_two():
    image, pairs = atoms(0.4)
    found = resolved_pairs(image + 0.7, pairs, pixel=PIXEL, origin=ORIGIN)
    assert found.fraction == 1.0 and found.n_pairs == 42
    assert found.chance < 0.2
    assert found.beyond_chance == 1.0


def test_wide_atoms_are_one():
    # two Gaussians are one from a width of half their distance on
    image, pairs = atoms(0.9)
    assert resolved_pairs(image, pairs, pixel=PIXEL, origin=ORIGIN).fraction == 0.0
    image, pairs = atoms(0.4)
    assert resolved_pairs(image, pairs, pixel=PIXEL, origin=ORIGIN, blur=0.85).fraction == 0.0


def test_pixels_that_are_not_square():
    image, pairs = atoms(0.4, (0.2, 0.31))
    options = {"pixel": (0.2, 0.31), "origin": ORIGIN}
    found = resolved_pairs(image, pairs, **options)
    assert found.fraction == 1.0 and found.n_pairs == 42 and found.chance < 0.2
    # a blur in Å: round on the specimen
    assert resolved_pairs(image, pairs, blur=0.85, **options).fraction == 0.0
    assert resolved_pairs(image, pairs, blur=0.3, **options).fraction > 0.9


def test_an_image_that_is_not_finite():
    image, pairs = atoms(0.4)
    image[7, 5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        resolved_pairs(image, pairs, pixel=PIXEL, origin=ORIGIN)


def test_noise_is_resolved_by_chance():
    _, pairs = atoms(0.4)
    noise = np.random.default_rng(1).normal(size=(190, 220))
    found = resolved_pairs(noise, pairs, pixel=PIXEL, origin=ORIGIN)
    assert abs(found.beyond_chance) < 0.25


def test_pairs_beyond_the_image():
    image, pairs = atoms(0.4)
    inside = resolved_pairs(image[:60], pairs, pixel=PIXEL, origin=ORIGIN)
    assert 0 < inside.n_pairs < 42
    with pytest.raises(ValueError, match="no pair"):
        resolved_pairs(image, pairs + 1e3, pixel=PIXEL, origin=ORIGIN)
