"""Counts from data that are counts times a gain."""

from __future__ import annotations

import numpy as np

from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.stored import Convert
from hs_autoptycho.tuning.scores import ObjectiveError

# positions looked at, each with the two beside it
_SAMPLE = 256
# classes of brightness, and pixels that one needs to say something of a variance
_CLASSES, _LEAST_PIXELS = 40, 500
# gains that are tried lie half a percent apart, over a range of at most this factor
_STEP, _LARGEST_RANGE = 1.005, 1000
# numbers of counts a pixel at which single ones are looked for, in so many pixels
_MOST_COUNTS, _MOST_PIXELS = 8, 30_000
# mean cosine of 2π counts from which on single counts are resolved: a noise of a quarter count
_RESOLVED = 0.3
# noise of pixels of a few counts, relative to that of counting; the specimen adds to it
_CONSISTENT = 0.5, 4.0


def as_counts(experiment: Experiment) -> tuple[Experiment, float | None]:
    """The experiment in whole counts, and the gain by which its data were divided.

    Parameters
    ----------
    experiment
        One with whole counts is returned as it is, with the gain None.

    Raises
    ------
    ObjectiveError
        If the data do not show that they were counted.
    """
    if experiment.counted:
        return experiment, None
    gain = estimate_gain(experiment)
    if gain is None:
        raise ObjectiveError(
            "objective='held_out' splits counts, but the data are "
            f"{experiment.counts.dtype} and no whole numbers, and no gain makes counts of them: "
            "single electrons cannot be told from the noise. Convert them to counts if you know "
            "the gain (divide by it and round, `s.change_dtype('uint16')`), or choose "
            "objective='held_out_pixels', 'frc' or 'data_error'."
        )
    used = np.float32(1) if experiment.mask is None else experiment.mask
    largest = float((experiment.largest * used).max())
    dtype = np.uint16 if largest < 65535 * gain else np.uint32
    if experiment.stored:
        rounded = experiment.counts.after(Convert(np.dtype(dtype), gain, experiment.mask), dtype)
        return experiment.with_counts(rounded), gain
    counts = np.empty(experiment.counts.shape, dtype)
    for source, target in zip(experiment.counts, counts, strict=True):
        target[:] = np.rint(source * used / gain)
    return experiment.with_counts(counts), gain


def estimate_gain(experiment: Experiment) -> float | None:
    """What one count reads, from the steps between readings and from their noise.

    Dark pixels read whole counts, if single ones are resolved: the gain is the largest divisor that
    leaves whole numbers. The noise says between which values to look for it, and has to agree:
    three neighbours along a row of the scan show nearly the same, so that their second difference
    is noise, whose variance over the mean is the gain where there are a few counts. (Where it is
    brighter the specimen adds to it, where it is darker the read noise counts.)

    Parameters
    ----------
    experiment
        Of real numbers.

    Returns
    -------
    None where single counts are not resolved, or the noise is another.
    """
    rows, columns = experiment.geometry.scan_shape
    if columns < 3:
        return None
    inner = np.arange(rows * columns).reshape(rows, columns)[:, 1:-1].ravel()
    some = inner[np.unique(np.linspace(0, len(inner) - 1, _SAMPLE).astype(int))]
    used = ... if experiment.mask is None else experiment.mask
    three = experiment.counts[np.concatenate([some - 1, some, some + 1])]
    before, middle, after = (
        part[:, used].ravel().astype(np.float64) for part in np.split(three, 3)
    )
    mean = (before + middle + after) / 3
    # the second difference of three numbers has 3/2 of the variance of one
    variance = (middle - (before + after) / 2) ** 2 / 1.5
    low, high = _range_of_ratios(variance, mean)
    if not 0 < low <= high:
        return None
    low, high = max(low / 2, 1.5 * high / _LARGEST_RANGE), 1.5 * high
    candidates = np.geomspace(high, low, int(np.log(high / low) / np.log(_STEP)) + 2)
    values = np.sort(middle[middle > 0])
    resolved = np.array([_resolution(values, gain) for gain in candidates])
    best = resolved.max()
    if not best >= _RESOLVED:
        return None
    # parts of the gain fit as well where there is no read noise: the largest that fits is right
    first = int(np.argmax(resolved >= 0.8 * best))
    gain = candidates[first + int(np.argmax(resolved[first : first + 40]))]
    for _ in range(3):
        counts = np.rint(values / gain)
        seen = (counts >= 1) & (counts <= _MOST_COUNTS)
        gain = float((values[seen] @ counts[seen]) / (counts[seen] @ counts[seen]))
    few = (mean > 0.2 * gain) & (mean < 3 * gain)
    noise = variance[few].sum() / mean[few].sum()
    return gain if _CONSISTENT[0] < noise / gain < _CONSISTENT[1] else None


def _range_of_ratios(variance: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
    """Smallest and largest variance over mean of classes of brightness; inf, 0 without any."""
    edges = np.geomspace(1e-6, 1, _CLASSES) * mean.max(initial=0)
    which = np.searchsorted(edges, mean)
    total, n = np.bincount(which, mean, _CLASSES + 1), np.bincount(which, minlength=_CLASSES + 1)
    enough = (n >= _LEAST_PIXELS) & (total > 0)
    ratios = np.bincount(which, variance, _CLASSES + 1)[enough] / total[enough]
    return float(ratios.min(initial=np.inf)), float(ratios.max(initial=0))


def _resolution(values: np.ndarray, gain: float) -> float:
    """Mean of cos(2π counts) where there is at least one count: 1 if all are whole.

    `values` are sorted.
    """
    first, last = np.searchsorted(values, [0.5 * gain, (_MOST_COUNTS + 0.5) * gain])
    if last - first < _LEAST_PIXELS:
        return 0.0
    some = values[first : last : max(1, (last - first) // _MOST_PIXELS)]
    return float(np.cos(2 * np.pi / gain * some).mean())
