"""Boundaries between clusters of a scan: which touch, how long, and the way across them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def boundary_lengths(
    labels: np.ndarray, steps: tuple[float, float] = (1.0, 1.0)
) -> dict[tuple[int, int], float]:
    """Length of the boundary between every two clusters that share one.

    Parameters
    ----------
    labels
        Integers (y, x), -1 for none.
    steps
        Distance of positions along y and x.

    Returns
    -------
    dict
        ``{(a, b): length}`` with a < b, in the units of `steps`.

    Notes
    -----
    The sides of the positions that lie between two clusters are counted along both directions;
    their sum would be the length of a staircase. A boundary's direction is therefore taken from the
    blurred images of the two clusters, which a staircase hardly disturbs.
    """
    labels = np.asarray(labels)
    faces: dict[tuple[int, int], float] = {}
    blurred: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def normals(a: int) -> tuple[np.ndarray, np.ndarray]:
        if a not in blurred:
            image = ndimage.gaussian_filter((labels == a).astype(float), 1.5, mode="nearest")
            blurred[a] = tuple(
                ndimage.correlate1d(image, [-0.5, 0, 0.5], axis=i, mode="nearest") / steps[i]
                for i in (0, 1)
            )
        return blurred[a]

    for axis in (0, 1):
        ends = [slice(None), slice(None)]
        starts = [slice(None), slice(None)]
        starts[axis], ends[axis] = slice(None, -1), slice(1, None)
        one, other = labels[tuple(starts)], labels[tuple(ends)]
        touching = (one != other) & (one >= 0) & (other >= 0)
        for a, b in np.unique(
            np.sort(np.stack([one[touching], other[touching]], axis=1), axis=1), axis=0
        ):
            here = touching & (np.minimum(one, other) == a) & (np.maximum(one, other) == b)
            normal = []
            for i in (0, 1):
                difference = normals(int(a))[i] - normals(int(b))[i]
                normal.append((difference[tuple(starts)] + difference[tuple(ends)])[here])
            size = np.hypot(*normal)
            # a side of the staircase is longer than its share by the cosine of its direction
            cosine = np.where(size > 0, np.abs(normal[axis]) / np.where(size > 0, size, 1), 1.0)
            key = (int(a), int(b))
            faces[key] = faces.get(key, 0.0) + float(cosine.sum()) * steps[1 - axis]
    return faces


def signed_distance(
    labels: np.ndarray, a: int, b: int, steps: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Distance from the boundary between two clusters: negative in a, positive in b.

    NaN elsewhere, and where the shortest way to the other cluster does not lead across their common
    boundary. The boundary lies half-way between positions.

    Parameters
    ----------
    labels
        Integers (y, x).
    a, b
        Two labels.
    steps
        Distance of positions along y and x.
    """
    labels = np.asarray(labels)
    distance = np.full(labels.shape, np.nan)
    cross = ndimage.generate_binary_structure(2, 1)
    for own, other, sign in ((a, b, -1), (b, a, 1)):
        inside, outside = labels == own, labels == other
        if not inside.any() or not outside.any():
            continue
        interface = outside & ndimage.binary_dilation(inside, cross)
        if not interface.any():
            continue
        length, nearest = ndimage.distance_transform_edt(
            ~outside, sampling=steps, return_indices=True
        )
        rows, cols = nearest[:, inside]
        # half the way between neighbours, in the direction of the shortest way
        dy = (np.nonzero(inside)[0] - rows) * steps[0]
        dx = (np.nonzero(inside)[1] - cols) * steps[1]
        size = np.maximum(length[inside], 1e-12)
        half = 0.5 * (np.abs(dy) * steps[0] + np.abs(dx) * steps[1]) / size
        value = sign * np.maximum(size - half, 0.5 * size)
        distance[inside] = np.where(interface[rows, cols], value, np.nan)
    return distance


def profile(
    values: np.ndarray,
    distance: np.ndarray,
    *,
    width: float,
    half_width: float | None = None,
    errors: np.ndarray | None = None,
    shared: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean of a map against the distance from a boundary.

    Parameters
    ----------
    values, distance, errors
        (y, x) each; where values or distance are NaN, they do not count. `errors` are used
        for the bins that hold fewer than three positions.
    width
        Of a bin; a bin's edge is at distance 0.
    half_width
        How far from the boundary; by default as far as there are values on the farther side.
    shared
        Number of positions whose values are averages of the same neighbours.

    Returns
    -------
    centers, means, standard_errors, counts
        Of the bins, NaN where a bin is empty.
    """
    good = np.isfinite(values) & np.isfinite(distance)
    values, distance = values[good].astype(float), distance[good]
    if half_width is None:
        half_width = float(np.abs(distance).max(initial=width))
    n = max(int(np.ceil(half_width / width - 1e-9)), 1)
    bins = np.floor(distance / width).astype(int) + n
    inside = (bins >= 0) & (bins < 2 * n)
    bins, values = bins[inside], values[inside]
    counts = np.bincount(bins, minlength=2 * n)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(bins, values, 2 * n) / counts
        squares = np.bincount(bins, (values - means[bins]) ** 2, 2 * n)
        standard = np.sqrt(squares / (counts - 1) / np.maximum(counts / shared, 1))
        if errors is not None:
            variance = errors[good].astype(float)[inside] ** 2
            stated = np.sqrt(np.bincount(bins, variance, 2 * n)) / counts
            standard = np.where(counts < 3, stated, standard)
    standard[counts == 0] = np.nan
    return (np.arange(2 * n) - n + 0.5) * width, means, standard, counts
