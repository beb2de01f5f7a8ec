"""Are two atoms seen as two? A test on known pairs of columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

#: Rayleigh's criterion: between two points that are just resolved, a round aperture's image dips by
#: this part of their height.
RAYLEIGH_DIP = 0.265
# part of the pixels below the zero that heights are measured from
_ZERO = 2.0
_CONTROLS = 8  # random places and directions for every pair


class Resolved(NamedTuple):
    """How many pairs are resolved.

    Attributes
    ----------
    fraction : float
        Of the pairs.
    chance : float
        The same for as distant points at random places, which an image of noise would pass as
        often as pairs of atoms.
    n_pairs : int
        Pairs within the image.
    """

    fraction: float
    chance: float
    n_pairs: int

    @property
    def beyond_chance(self) -> float:
        """Part of the pairs that chance leaves which is resolved: 0 for noise, 1 for all."""
        return (self.fraction - self.chance) / max(1 - self.chance, 1e-12)


def resolved_pairs(
    image: np.ndarray,
    pairs: np.ndarray,
    *,
    pixel: float | tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
    dip: float = RAYLEIGH_DIP,
    blur: float = 0.0,
    random_state: int = 0,
) -> Resolved:
    """How many pairs of atoms an image shows as two.

    A pair is resolved if the phase halfway between the two is lower than at the lower of the two by
    `dip` of its height. Heights are measured from the image's 2nd percentile, for the zero of a
    phase is arbitrary. Nothing is searched for: the values are those at the known places.

    Parameters
    ----------
    image
        Phase, float (Y, X).
    pairs
        (pairs, 2, 2): pair, atom, (y, x) in Å, as :func:`hs_autoptycho.data.atom_pairs` gives them.
    pixel
        In Å, a number or (y, x).
    origin
        (y, x) of pixel [0, 0] in Å.
    dip
        By default Rayleigh's.
    blur
        Standard deviation of a Gaussian that the image is convolved with first, in Å.
    random_state
        Seed of the places of the control.

    Raises
    ------
    ValueError
        If no pair lies within the image, or that has values that are not finite.
    """
    image = np.asarray(image, float)
    if not np.all(np.isfinite(image)):
        raise ValueError("the image has values that are not finite: nothing can be said of it")
    pixel = np.broadcast_to(np.asarray(pixel, float), (2,))
    if blur > 0:
        image = gaussian_filter(image, blur / pixel)
    ends = np.asarray(pairs, float) - origin
    last = (np.array(image.shape) - 1) * pixel
    ends = ends[np.all((ends >= 0) & (ends <= last), axis=(1, 2))]
    if not len(ends):
        raise ValueError("no pair of atoms lies within the image")
    generator = np.random.default_rng(random_state)
    half = np.repeat(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / 2, _CONTROLS)
    angle = generator.uniform(0, np.pi, len(half))
    arm = half[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])
    middle = half.max() + generator.random(arm.shape) * (last - 2 * half.max())
    zero = np.percentile(image, _ZERO)
    fraction = _are_two(image - zero, ends / pixel, dip).mean()
    anywhere = np.stack([middle - arm, middle + arm], axis=1)
    chance = _are_two(image - zero, anywhere / pixel, dip).mean()
    return Resolved(float(fraction), float(chance), len(ends))


def _are_two(image: np.ndarray, ends: np.ndarray, dip: float) -> np.ndarray:
    points = np.concatenate([ends[:, 0], ends[:, 1], ends.mean(axis=1)])
    first, second, between = map_coordinates(image, points.T, order=3, mode="nearest").reshape(
        3, -1
    )
    lower = np.minimum(first, second)
    return (lower > 0) & (lower - between >= dip * lower)
