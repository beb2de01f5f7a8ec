"""One node: which split does it bear, if any?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hs_autoptycho.clustering.evidence import Evidence, weigh
from hs_autoptycho.clustering.features import Features, Half
from hs_autoptycho.clustering.node_space import best_smoothing, node_space
from hs_autoptycho.clustering.segmentation import Proposal, part_means, propose, segment
from hs_autoptycho.clustering.streaming import thread_pool

# Widths in positions of the Gaussian over the scan that are tried.
SMOOTHING = (0.0, 0.7, 1.0, 1.5, 2.2, 3.2)

# What a split has to show. True splits score far above, see benchmarks/clustering_quality.py.
_SIGNIFICANCE = 6.0  # standard errors, of the difference on held-out counts
_STABILITY = 0.55  # adjusted Rand index between what the two halves of the counts propose
_STEP = 0.5  # part of the difference that is a step and no gradient
_STEP_ERRORS = 3.5  # ... in its standard errors
# with three domains in a row a cut between two of them looks half like a gradient: it counts if
# there is a step at the boundary, a full one or one that both halves of the counts draw alike
_WEAK_STEP, _WEAK_ERRORS = 0.2, 1.5
_LOCAL_STEP, _LOCAL_ERRORS = 0.5, 3.5
_FULL_LOCAL_STEP, _ALIKE = 0.9, 0.75
_PLATEAUS = 5.0  # separation of smoothed positions that no gradient makes
_PLATEAU_STEP = 0.3
_THIN = 0.6  # part of a child inside its rim, below which it may be a boundary
_LINE = 0.1  # ... and below which it is no region at all
_MIXED = 0.6  # part of a thin child's difference that lies on the line between its neighbours


@dataclass(frozen=True)
class Split:
    """The best way to part a node, accepted or refused.

    Attributes
    ----------
    second : bool array (y, x) of the node's rectangle
        True for the second child.
    evidence
        On held-out counts.
    stability
        Adjusted Rand index between what the two halves of the counts propose.
    refusal
        Why it is refused; empty if it is accepted.
    """

    second: np.ndarray
    evidence: Evidence
    stability: float
    refusal: str


NOTHING = "no structure above the noise"


def try_split(
    features: Features,
    window: tuple[slice, slice],
    mask: np.ndarray,
    *,
    min_size: int,
    smoothing: float | None = None,
    random_state: int = 0,
    num_workers: int | None = None,
) -> Split | None:
    """Look for the best split of a node.

    Each half of the counts proposes splits and the other tests them; a split is what both halves
    propose.

    Parameters
    ----------
    features
        Of all positions.
    window
        Rectangle of the scan around the node.
    mask
        True for the positions of the node, in the rectangle.
    min_size
        Positions in each child, at least.
    smoothing
        Width in positions of the Gaussian over the scan; by default what predicts best.
    random_state
        Seed.
    num_workers
        1 to do with one thread; otherwise two are used, one for each half.

    Returns
    -------
    None where the node shows no structure above the noise.
    """
    halves = [Half(half.sums[window], half.weights[window]) for half in features.halves]
    space = node_space(halves[0], mask, random_state)
    if space.dimensions == 0:
        return None
    projected = [space.project(half) for half in halves]
    widths = SMOOTHING if smoothing is None else (smoothing,)
    if features.splitting == "checkerboard":
        # a position of the one colour is predicted by those of the other
        widths = [width for width in widths if width > 0] or [SMOOTHING[1]]

    def side(fit: Half, test: Half) -> list[tuple[Proposal, Evidence]]:
        width, smooth = best_smoothing(fit, test, mask, widths)
        proposals = propose(fit, smooth, mask, random_state)
        weighed = [(p, weigh(p.labels, fit, test, mask, width)) for p in proposals]
        return [(p, evidence) for p, evidence in weighed if evidence is not None]

    with thread_pool(2 if num_workers != 1 else 1) as pool:
        sides = list(pool.map(side, projected, projected[::-1]))
    if not all(sides):
        return None
    trials = []
    for proposal, evidence in sides[0]:
        labels = proposal.labels
        agreement = [_agreement(labels, p.labels) for p, _ in sides[1]]
        match = int(np.argmax(agreement))
        combined = evidence.combined(sides[1][match][1])
        trials.append((proposal, combined, float(agreement[match])))
    # in the order of what they explain as far as it is a step: the first that passes is taken
    trials.sort(key=lambda trial: -trial[1].explained * float(np.clip(trial[1].step, 0.05, 1)))
    whole = Half(projected[0].sums + projected[1].sums, projected[0].weights + projected[1].weights)
    first_refused = None
    for proposal, evidence, stability in trials:
        refusal = _refusal(evidence, stability)
        second = _settle(proposal, whole, mask) if not refusal else proposal.labels
        image = np.zeros(mask.shape, bool)
        image[mask] = second
        if not refusal:
            refusal = _shape_refusal(image, mask, min_size, features, window)
        split = Split(image, evidence, stability, refusal)
        if not refusal:
            return split
        first_refused = first_refused or split
    return first_refused


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted Rand index of two labellings in two, from their table of four counts.

    scikit-learn's looks for the distinct labels first, which here takes longer than all the rest.
    """
    table = np.bincount(2 * a.astype(np.int64) + b, minlength=4).reshape(2, 2).astype(float)

    def pairs(n):
        return float((n * (n - 1)).sum() / 2)

    together, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / max(pairs(table.sum()), 1.0)
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def _refusal(evidence: Evidence, stability: float) -> str:
    if evidence.significance < _SIGNIFICANCE:
        return "not significant on held-out counts"
    if stability < _STABILITY:
        return "not the same in two halves of the counts"
    return "" if _is_step(evidence, stability) else "a gradient, not a step"


def _is_step(e: Evidence, stability: float) -> bool:
    """Whether the children are two plateaus, and not the two ends of a gradient.

    Comparisons with NaN, where the children do not touch, are False.
    """
    if e.plateaus > _PLATEAUS and not e.local < _PLATEAU_STEP:
        return True
    if e.step > _STEP and e.step > _STEP_ERRORS * e.step_error:
        return not e.local + e.local_error < _STEP
    weak = e.step > _WEAK_STEP and e.step > _WEAK_ERRORS * e.step_error
    local = e.local > _LOCAL_STEP and e.local > _LOCAL_ERRORS * e.local_error
    return weak and local and (stability > _ALIKE or e.local > _FULL_LOCAL_STEP)


def _settle(proposal: Proposal, whole: Half, mask: np.ndarray) -> np.ndarray:
    """The proposal's labels, refined by all counts."""
    parts = segment(whole, mask, proposal.parts, len(proposal.joined))
    return proposal.labels if parts is None else proposal.joined[parts]


def _shape_refusal(second, mask, min_size: int, features: Features, window) -> str:
    """Whether a child is too small, or nothing but a boundary."""
    children = (mask & ~second, mask & second)
    sizes = [int(np.count_nonzero(child)) for child in children]
    if min(sizes) < min_size:
        return f"a child of fewer than {min_size} positions"
    for child, size in zip(children, sizes, strict=True):
        core = np.count_nonzero(ndimage.binary_erosion(child, border_value=1)) / size
        if core < _LINE:
            return "a child without an inside"
        if core < _THIN and _is_mixture(child, mask, features, window):
            return "a boundary: its patterns are mixtures of those to its two sides"
    return ""


def _is_mixture(child, mask, features: Features, window) -> bool:
    """Whether a thin child's mean lies between its sibling's and that of what is beyond it."""
    rows, columns = window
    reach = 4
    shape = features.shape
    top, left = max(rows.start - reach, 0), max(columns.start - reach, 0)
    bottom, right = min(rows.stop + reach, shape[0]), min(columns.stop + reach, shape[1])
    wide = (slice(top, bottom), slice(left, right))
    place = (
        slice(rows.start - top, rows.start - top + mask.shape[0]),
        slice(columns.start - left, columns.start - left + mask.shape[1]),
    )
    inside = np.zeros((bottom - top, right - left), bool)
    inside[place] = child
    node = np.zeros_like(inside)
    node[place] = mask
    near = ndimage.distance_transform_edt(~inside) <= reach
    sibling = node & ~inside
    beyond = near & ~node & features.valid[wide]
    # the innermost of the rim on the other side is mixed too
    beyond &= ndimage.distance_transform_edt(~node) > 1.5
    if np.count_nonzero(beyond) < 4 or np.count_nonzero(sibling) < 4:
        return False
    toward, across = [], []
    for half in features.halves:
        sums, weights = half.sums[wide], half.weights[wide]
        labels = np.full(inside.shape, -1)
        labels[sibling], labels[inside], labels[beyond] = 0, 1, 2
        used = labels >= 0
        means = part_means(sums[used], weights[used], labels[used], 3)
        if means is None:
            return False
        toward.append(means[1] - means[0])
        across.append(means[2] - means[0])
    # products of two independent halves: noise does not add to them
    child_square = toward[0] @ toward[1]
    line_square = across[0] @ across[1]
    product = 0.5 * (toward[0] @ across[1] + toward[1] @ across[0])
    if child_square <= 0 or line_square <= 0 or product <= 0:
        return False
    return product**2 / (child_square * line_square) > _MIXED and product < 0.9 * line_square
