"""Is a split real? What the half of the counts that did not make it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hs_autoptycho.clustering.features import Half
from hs_autoptycho.clustering.segmentation import part_means
from hs_autoptycho.clustering.smoothing import blur

# distance in positions from the boundary, to either side, over which a step is looked for
_NEAREST, _FARTHEST = 0.75, 8.0
_LEAST_NEAR = 8
# degree of the surface through the node that a step has to stand out from
_DEGREE = 3


@dataclass(frozen=True)
class Evidence:
    """What held-out counts say of a split.

    Attributes
    ----------
    significance
        Difference of the two children along the direction in which they were found to differ, in
        standard errors.
    explained
        Difference squared times the children's sizes: the structure that the split accounts for.
    separation
        That difference in standard deviations of single positions.
    plateaus
        The same for positions that were smoothed: above 3.5 a linear gradient cannot make it.
    step, step_error
        What is left of the difference when a cubic surface over the scan is fitted with it: 1 for
        two plateaus, 0 for a gradient, however it was cut.
    local, local_error
        The same at the boundary, beside a slope across it; NaN where the children do not touch.
    """

    significance: float
    explained: float
    separation: float
    plateaus: float
    step: float
    step_error: float
    local: float
    local_error: float

    def combined(self, other: Evidence) -> Evidence:
        """Of two tests on independent counts."""
        local, local_error = self.local, self.local_error
        if np.isnan(local) or np.isnan(other.local):
            if np.isnan(local):
                local, local_error = other.local, other.local_error
        else:
            local, local_error = _mean(local, local_error, other.local, other.local_error)
        step, step_error = _mean(self.step, self.step_error, other.step, other.step_error)
        return Evidence(
            significance=(self.significance + other.significance) / np.sqrt(2),
            explained=(self.explained + other.explained) / 2,
            separation=(self.separation + other.separation) / 2,
            plateaus=min(self.plateaus, other.plateaus),
            step=step,
            step_error=step_error,
            local=local,
            local_error=local_error,
        )


def _mean(a, a_error, b, b_error) -> tuple[float, float]:
    return (a + b) / 2, float(np.hypot(a_error, b_error) / 2)


def weigh(
    labels: np.ndarray, fit: Half, test: Half, mask: np.ndarray, smoothing: float
) -> Evidence | None:
    """Test a split of a node.

    Parameters
    ----------
    labels : bool array (positions,)
        True for the second child.
    fit, test
        The half that the labels were made from, and the other, in the directions of the node.
    mask
        True for the positions of the node.
    smoothing
        Width in positions with which `fit` best predicted `test`.

    Returns
    -------
    None where a child has no counts in one of the halves.
    """
    weights = test.weights[mask].astype(float)
    group = labels.astype(int)
    fitted = part_means(fit.sums[mask], fit.weights[mask], group, 2)
    tested = part_means(test.sums[mask], weights, group, 2)
    if fitted is None or tested is None:
        return None
    direction = fitted[1] - fitted[0]
    length = float(np.sqrt(direction @ direction))
    if length == 0:
        return None
    direction = direction / length
    values = (test.sums[mask] @ direction) / np.where(weights > 0, weights, 1)
    means = tested @ direction
    difference = means[1] - means[0]
    residual = values - means[group]
    errors = [
        (weights[group == g] ** 2 * residual[group == g] ** 2).sum()
        / weights[group == g].sum() ** 2
        for g in (0, 1)
    ]
    spread = np.sqrt((weights * residual**2).sum() / weights.sum())
    n = np.bincount(group, minlength=2)
    step, step_error = _step(values, weights, group, difference, mask)
    local, local_error = _local_step(values, weights, labels, difference, mask)
    return Evidence(
        significance=float(difference / np.sqrt(max(sum(errors), 1e-300))),
        explained=float(length * difference * n[0] * n[1] / n.sum()),
        separation=float(np.sqrt(2) * difference / max(spread, 1e-300)),
        plateaus=_plateaus(test, direction, labels, mask, max(smoothing, 0.7)),
        step=step,
        step_error=step_error,
        local=local,
        local_error=local_error,
    )


def _step(values, weights, group, difference, mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    u = 2 * (rows - rows.mean()) / max(np.ptp(rows), 1)
    v = 2 * (columns - columns.mean()) / max(np.ptp(columns), 1)
    terms = [u**i * v**j for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    return _last_coefficient(np.stack([*terms, group], -1), values, weights, difference)


def _local_step(values, weights, labels, difference, mask) -> tuple[float, float]:
    image = np.full(mask.shape, -1)
    image[mask] = labels
    to_first = ndimage.distance_transform_edt(image != 0)[mask]
    to_second = ndimage.distance_transform_edt(image != 1)[mask]
    distance = np.where(labels, to_first - 0.5, 0.5 - to_second)
    near = (np.abs(distance) >= _NEAREST) & (np.abs(distance) <= _FARTHEST)
    if min(np.count_nonzero(near & labels), np.count_nonzero(near & ~labels)) < _LEAST_NEAR:
        return np.nan, np.nan
    terms = np.stack([np.ones(near.sum()), distance[near], labels[near]], -1)
    return _last_coefficient(terms, values[near], weights[near], difference)


def _last_coefficient(terms, values, weights, unit) -> tuple[float, float]:
    """The last coefficient of a weighted fit and its standard error, in units of `unit`."""
    inverse = np.linalg.pinv((terms * weights[:, None]).T @ terms)
    fit = inverse @ (terms.T @ (weights * values))
    residual = values - terms @ fit
    scatter = (terms * (weights**2 * residual**2)[:, None]).T @ terms
    variance = (inverse @ scatter @ inverse)[-1, -1]
    if unit == 0:
        return 0.0, np.inf
    return float(fit[-1] / unit), float(np.sqrt(max(variance, 0)) / abs(unit))


def _plateaus(test: Half, direction, labels, mask, width: float) -> float:
    weights = test.weights * mask
    image = blur((test.sums @ direction) * mask, width)[mask]
    values = image / np.maximum(blur(weights, width)[mask], 1e-6 * weights.max())
    first, second = values[~labels], values[labels]
    spread = np.sqrt(0.5 * (first.var() + second.var()))
    return float((second.mean() - first.mean()) / max(spread, 1e-300))
