"""The numbers a pattern is reduced to: nodes of a coarse grid, and what they are projected on."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

from hs_autoptycho.clustering.projection import Grid, Projection, on_grid
from hs_autoptycho.clustering.smoothing import neighbour_sum
from hs_autoptycho.clustering.survey import PatternError, Survey

# nodes along a side of the coarse grid
_LARGEST_GRID = 64
# numbers a pattern: more than domains, strain and tilt need; fewer for scans of many positions,
# as all of them are kept in memory
_N_FEATURES = 64
_N_FEATURES_LARGE_SCAN = 32
_LARGE_SCAN = 2**19
_N_RINGS = 24
# noise shared by two halves of the counts, as a part of all, above which they are no electrons
_LARGEST_SHARED_NOISE = 0.1
# width in positions of the Gaussian over which patterns have to agree with their neighbours
_COHERENCE = 1.5


def n_features(n_positions: int) -> int:
    """Numbers that are kept of each half of a pattern, at most."""
    return _N_FEATURES_LARGE_SCAN if n_positions > _LARGE_SCAN else _N_FEATURES


def make_projection(
    survey: Survey,
    *,
    annulus: tuple[float, float] | None = None,
    features: str = "default",
    random_state: int = 0,
) -> tuple[Projection, list[str]]:
    """Choose what the first pass keeps of a pattern.

    Parameters
    ----------
    survey
        Of the sample.
    annulus
        (inner, outer) distance from the direct beam in detector pixels. By default all but the
        direct beam, if that is small, otherwise all.
    features
        ``"default"``: the leading components of what patterns have in common with their neighbours
        in the scan. A count's noise is not shared with the neighbours, so that noise makes no
        component. For a wide bright-field disk, in which every pattern is an image of its own,
        sums over rings about the beam: how far electrons are scattered.
        ``"std"``: the pixels whose standard deviation over the scan is highest, as in Shi et al.,
        npj Comput. Mater. 8, 114 (2022).
    random_state
        Seed of the thinning and of the randomised decomposition.

    Returns
    -------
    The projection, and what was assumed, a sentence each. Whole numbers are thinned if the two
    halves share no noise; where they do, as with a gain or a charge that spreads over pixels, the
    patterns are to be split by position.

    Raises
    ------
    PatternError
        If nothing is left of the patterns inside the mask.
    """
    box_rows, box_columns = survey.weights.shape
    spacing = max(1.0, survey.radius / survey.box / 1.5) if survey.nanobeam else 1.0
    spacing = max(spacing, max(box_rows, box_columns) / (_LARGEST_GRID - 3))
    size = int(np.ceil(max(box_rows, box_columns) / spacing)) + 3
    grid = Grid(survey.box, spacing, (size, size))

    centers = survey.centers(survey.positions)
    row, column = (node / survey.box for node in grid.nodes())
    distance = np.hypot(row, column) * survey.box
    if annulus is None:
        step = spacing * survey.box
        annulus = (1.6 * survey.radius + step, np.inf) if survey.nanobeam else (0.0, np.inf)
    inside = (distance >= annulus[0]) & (distance <= annulus[1])
    # what some patterns have and others have lost over the detector's edge tells of descan only
    everywhere = survey.centers(np.arange(survey.beam.size // 2))
    first, last = everywhere.min(0) - 1.5 * spacing, everywhere.max(0) + 1.5 * spacing
    inside &= (row + first[0] >= -0.5) & (row + last[0] <= box_rows - 0.5)
    inside &= (column + first[1] >= -0.5) & (column + last[1] <= box_columns - 0.5)

    def nodes_of(halves: bool) -> np.ndarray:
        return on_grid(
            survey.boxes, survey.weights, centers, spacing, grid.shape, survey.positions,
            random_state, halves,
        )  # fmt: skip

    notes = []
    if not survey.counts:
        notes.append(
            "The patterns do not hold whole numbers, so that they are no counts of electrons; they "
            "were split by position, as on a checkerboard, which sees less. If there are counts, "
            "not scaled and without a background taken off, cluster these."
        )
    half, thinned = nodes_of(survey.counts), survey.counts
    if thinned and inside.any():
        whole = nodes_of(False)
        shared = shared_noise(whole - half, half, survey.positions, survey.beam.shape[:2], inside)
        if shared > _LARGEST_SHARED_NOISE:
            half, thinned = whole, False
            notes.append(
                f"The patterns hold whole numbers but not electrons ({shared:.0%} of the noise is "
                "shared by two halves of the counts); they were split by position, as on a "
                "checkerboard."
            )
    mean = half.mean(0, dtype=float)
    level = mean[inside.ravel()].mean() if inside.any() else 0.0
    selected = np.flatnonzero(inside.ravel() & (mean > 1e-3 * level))
    if level == 0 or len(selected) < 2:
        raise PatternError(
            "Nothing is left of the patterns outside of the direct beam (centre row "
            f"{survey.center[0]:.1f}, column {survey.center[1]:.1f}, radius {survey.radius:.1f} "
            "pixels) and inside the mask. Give another `mask`."
        )
    half, mean = half[:, selected], mean[selected]
    if features == "std":
        basis = _highest_deviation(half, mean)
    elif survey.nanobeam:
        basis = _coherent_components(half, mean, survey, thinned, random_state)
    else:
        basis = _rings(distance.ravel()[selected])
    projection = Projection(
        grid=grid,
        weights=survey.weights,
        selected=selected,
        basis=np.ascontiguousarray(basis, np.float32),
        beam=survey.beam,
        halves=thinned,
        seed=random_state,
    )
    return projection, notes


def _coherent_components(
    nodes, mean, survey: Survey, thinned: bool, random_state: int
) -> np.ndarray:
    """Leading eigenvectors of the covariance between neighbouring positions.

    Nodes are scaled by the square root of their mean, after which Poisson noise is the same in
    all. Only one half of the counts is used, so that the other can test what is found in the basis.
    """
    scan_shape = survey.beam.shape[:2]
    scaled = nodes / np.sqrt(mean).astype(np.float32)
    total = nodes.sum(1)
    scaled -= (total / total.sum())[:, None] * scaled.sum(0)
    rows, columns = np.divmod(survey.positions, scan_shape[1])
    if not thinned:
        odd = (rows + columns) % 2 == 1  # the other half of a checkerboard tests
        scaled, rows, columns = scaled[odd], rows[odd], columns[odd]

    def covariance_with_neighbours(vectors: np.ndarray) -> np.ndarray:
        shared = scaled @ vectors
        image = np.zeros(scan_shape, np.float32)
        for k in range(vectors.shape[1]):
            image[rows, columns] = shared[:, k]
            shared[:, k] = neighbour_sum(image, _COHERENCE)[rows, columns]
        return scaled.T @ shared

    n = min(n_features(scan_shape[0] * scan_shape[1]), nodes.shape[1])
    size = min(n + 8, nodes.shape[1])
    vectors = check_random_state(random_state).standard_normal((nodes.shape[1], size))
    vectors = vectors.astype(np.float32)
    for _ in range(4):
        vectors = covariance_with_neighbours(np.linalg.qr(vectors)[0])
    vectors = np.linalg.qr(vectors)[0]
    small = vectors.T @ covariance_with_neighbours(vectors)
    values, rotation = np.linalg.eigh((small + small.T) / 2)
    chosen = vectors @ rotation[:, np.argsort(-values)[:n]]
    return chosen / np.sqrt(mean)[:, None]


def _highest_deviation(nodes, mean) -> np.ndarray:
    """One column for each of the nodes that vary most over the scan."""
    deviation = nodes.std(0)
    highest = np.sort(np.argsort(-deviation, kind="stable")[: min(_N_FEATURES, len(mean))])
    basis = np.zeros((len(mean), len(highest)))
    basis[highest, np.arange(len(highest))] = 1
    return basis


def _rings(distance: np.ndarray) -> np.ndarray:
    """One column for each ring about the beam."""
    edges = np.linspace(0, distance.max() * (1 + 1e-9), _N_RINGS + 1)
    ring = np.digitize(distance, edges) - 1
    basis = np.eye(_N_RINGS)[ring]
    return basis[:, basis.any(0)]


def shared_noise(first, second, positions, scan_shape, inside) -> float:
    """Correlation of the noise in two halves of the counts, from differences of neighbours.

    Parameters
    ----------
    first, second
        Nodes of the grid, (positions, nodes).
    positions
        Of the patterns in the scan, ``y * scan_x + x``.
    scan_shape
        (scan_y, scan_x).
    inside
        True for the nodes to look at.
    """
    index = np.full(scan_shape, -1)
    index.ravel()[positions] = np.arange(len(positions))
    above, below = index[:-1, :-1].ravel(), index[1:, 1:].ravel()
    both = (above >= 0) & (below >= 0)
    above, below = above[both], below[both]
    if len(above) < 64:
        return 0.0
    used = np.flatnonzero(inside.ravel())
    differences = [(half[below] - half[above])[:, used] for half in (first, second)]
    covariance = (differences[0] * differences[1]).mean(0)
    variance = 0.5 * ((differences[0] ** 2).mean(0) + (differences[1] ** 2).mean(0))
    seen = variance > 0
    if not seen.any():
        return 0.0
    # of the median node, which no boundary between domains moves much
    return float(np.median(covariance[seen] / variance[seen]))
