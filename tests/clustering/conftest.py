"""Diffraction patterns drawn without the package."""

import numpy as np
import pytest
from scipy.special import erfc


@pytest.fixture(scope="session")
def draw_disk():
    """``draw_disk(shape, center, radius, edge, stretch=(1, 1))``: integrated over the pixels."""

    def draw(shape, center, radius, edge, stretch=(1.0, 1.0), parts=5):
        offsets = (np.arange(parts) + 0.5) / parts - 0.5
        rows, cols = ((np.arange(n)[:, None] + offsets).ravel() for n in shape)
        distance = np.hypot(
            stretch[0] * (rows[:, None] - center[0]), stretch[1] * (cols - center[1])
        )
        disk = 0.5 * erfc((distance - radius) / (np.sqrt(2) * edge))
        return disk.reshape(shape[0], parts, shape[1], parts).mean(axis=(1, 3))

    return draw


@pytest.fixture(scope="session")
def draw_lattice(draw_disk):
    """Expected counts of a pattern of a lattice, (k_y, k_x).

    ``deformation`` is F, r' = F r in (x, y) of the specimen; `basis` has rows g1 and g2, each
    (row, column) in pixels. Half of `electrons` are in the direct beam, a tenth in the background.
    """

    def draw(
        shape, center, basis, *, radius=1.8, edge=0.3, electrons=1000.0,
        deformation=((1, 0), (0, 1)), sizes=(1.0, 1.0), decay=1.5, factors=None,
    ):  # fmt: skip
        sizes = np.asarray(sizes)
        stretch = sizes / np.sqrt(np.prod(sizes))
        columns = (np.asarray(basis) * sizes)[:, ::-1].T
        deformed = np.linalg.inv(np.asarray(deformation, dtype=float)).T @ columns
        moved = deformed.T[:, ::-1] / sizes
        indices = np.mgrid[-7:8, -7:8].reshape(2, -1).T
        order = np.hypot(*(indices @ (basis * stretch)).T)
        strength = np.exp(-order / np.median(np.hypot(*(basis * stretch).T)) / decay)
        strength[order == 0] = 0
        if factors is not None:
            strength = strength * factors.reshape(-1)
        places = center + indices @ moved
        inside = np.all((places > -radius) & (places < np.array(shape) - 1 + radius), axis=1)
        strength = 0.4 * strength / strength[inside].sum() + 0.5 * (order == 0)
        area = np.pi * (radius**2 + edge**2)
        image = np.zeros(shape)
        for place, share in zip(places[inside], strength[inside], strict=True):
            low = np.maximum(np.floor(place - 2 * radius - 3).astype(int), 0)
            high = np.minimum(np.ceil(place + 2 * radius + 4).astype(int), shape)
            if np.all(high > low):
                part = draw_disk(high - low, place - low, radius, edge, stretch)
                image[low[0] : high[0], low[1] : high[1]] += share / area * part
        rows, cols = np.indices(shape)
        ground = np.exp(-np.hypot(rows - center[0], cols - center[1]) / (0.3 * min(shape)))
        return electrons * (image + 0.1 * ground / ground.sum())

    return draw
