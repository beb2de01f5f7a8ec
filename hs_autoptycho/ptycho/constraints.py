"""What is known of objects and probes beforehand, as functions from one estimate to a better one.

Objects are complex (slices, rows, columns), probes complex (modes, rows, columns), centred on pixel
``shape // 2``. Nothing is changed in place, types are kept (complex64 stays complex64), and at a
strength of 0 an estimate comes back as it was.

The phase of a whole slice is not measured, only that of the product of all slices. Functions which
compare slices therefore first take each slice's mean phase out, and give the slices equal shares
of the sum of these phases afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import scipy.fft
import scipy.linalg

from hs_autoptycho.ptycho.propagation import Propagation

# pixels with less than this part of the largest illumination say little of the object
_ILLUMINATED = 0.1


def depth_filter(
    object: np.ndarray,
    distances: Sequence[float],
    pixel_size: tuple[float, float],
    strength: float,
    *,
    of: Literal["complex", "phase"] = "complex",
    illumination: np.ndarray | None = None,
) -> np.ndarray:
    """Damp what a slice differs from its neighbours in and no measurement can tell.

    Scattering by small angles passes all slices at nearly the same place: of a detail with the
    lateral frequency k_r only depth frequencies k_z below about k_r times the probe's opening angle
    are measured. The three-dimensional spectrum is multiplied by

        W = 1 − 2/π · arctan((β k_z)² / k_r²)

    with β the strength. The mean over the slices (k_z = 0) passes unchanged.

    Parameters
    ----------
    object
        Slices.
    distances
        From slice to slice in Å.
    pixel_size
        In Å (rows, columns).
    strength
        β: the weight is 1/2 where k_r = β k_z. The limit of what is measured would be at β = 1 /
        (opening semi-angle in radians), about 50; 1 is common, and acts on coarse detail alone.
        0 does nothing.
    of
        ``"complex"`` filters the transmission function and keeps the sum of the slices,
        ``"phase"`` its phase alone and keeps the sum of the phases; it is for slices whose phases
        stay within ±π of their mean.
    illumination
        Weights (rows, columns) of the slices' mean phases.

    Notes
    -----
    The filter is that of Z. Chen et al. (Science 372, 826, 2021). A Fourier transform along the
    depth would join the last slice with the first one. The slices are expanded in cosines instead,
    that is, they go on as mirror images at both faces. Where the distances differ, the place of the
    cosines is taken by the standing waves (k_z = j / (2 thickness), j = 0, 1, ...) of a string
    with a mass at each slice that is the thickness which the slice stands for, and what is filtered
    is the phase by thickness: a specimen that is the same at all depths stays so. With even
    distances both are the same.
    """
    _check_strength(strength)
    if len(distances) != len(object) - 1:
        raise ValueError(
            f"{len(object)} slices have {len(object) - 1} distances between them, not "
            f"{len(distances)}."
        )
    if of not in ("complex", "phase"):
        raise ValueError(f"`of` must be 'complex' or 'phase', not {of!r}.")
    if len(object) == 1 or strength == 0:
        return object.copy()
    masses, waves, frequencies = _standing_waves(distances, pixel_size)
    aligned, phases = _aligned(object, illumination)
    values = np.angle(aligned) if of == "phase" else aligned - 1
    masses, waves = masses.astype(values.real.dtype), waves.astype(values.real.dtype)
    parts = np.tensordot(waves.T, values, 1)
    for j in range(1, len(parts)):
        squared = (strength * frequencies[j]) ** 2

        def weight(k_row, k_column, squared=squared):
            return 1 - 2 / np.pi * np.arctan2(squared, k_row**2 + k_column**2)

        parts[j] = _filtered(parts[j], pixel_size, weight)
    values = np.tensordot(masses[:, None] * waves, parts, 1)
    if of == "phase":
        result = np.abs(object) * np.exp(1j * values)
    else:
        result = 1 + values
    shares = masses / masses.sum()
    return _turned(result, phases.sum() * shares).astype(object.dtype)


def positive_phase(
    object: np.ndarray,
    strength: float,
    *,
    illumination: np.ndarray | None = None,
    percentile: float = 10.0,
) -> np.ndarray:
    """Soften phases below those of vacuum: atoms advance the phase of electrons.

    The phase of a slice has an arbitrary constant, so that vacuum has to be found: it is the given
    percentile of the slice's phases where it is illuminated. Phases below it come nearer to it and
    the order of the phases does not change, so that the level stays where it is when the function
    acts again and again.

    Parameters
    ----------
    object
        Slices.
    strength
        Part of the way to the level: 0 does nothing, 1 lets no phase be below it.
    illumination
        (rows, columns), of any unit; by default all pixels count. Pixels where it is small neither
        define the level nor are changed.
    percentile
        Part of the illuminated pixels, in percent, which are vacuum or nearly so.
    """
    _check_strength(strength, 1)
    if strength == 0:
        return object.copy()
    seen = np.ones(object.shape[1:], bool)
    if illumination is not None:
        seen = illumination > _ILLUMINATED * illumination.max()
    result = object.copy()
    for slice_, mean in zip(result, np.exp(1j * _mean_phases(object, seen)), strict=True):
        values = slice_[seen]
        phases = np.angle(values * mean.conj().astype(values.dtype))
        level = np.percentile(phases, percentile, method="lower")
        # cut well below the level, so that the tops of strong columns are not taken for holes
        above = (phases - level + np.pi / 2) % (2 * np.pi) - np.pi / 2
        lift = -strength * np.minimum(above, 0)
        slice_[seen] = values * np.exp(1j * lift)
    return result


def total_variation(object: np.ndarray, weight: float, *, n_iterations: int = 30) -> np.ndarray:
    """Take small fluctuations out of each slice and keep its edges.

    The sum over the pixels of |u − O|² / 2 + weight · |∇u| is made small. |∇u| is the length of all
    differences to the next pixels together, real and imaginary, so that a constant phase has no
    effect and no phase needs to be unwrapped; the slice's mean stays.

    Parameters
    ----------
    object
        Slices.
    weight
        In units of the slice's root mean square amplitude, and so, where the slice is thin, of
        radians. 0 does nothing; useful are 0.1 to 1 times the noise.
    n_iterations
        Of the algorithm of A. Chambolle (J. Math. Imaging Vis. 20, 89, 2004).
    """
    _check_strength(weight)
    if weight == 0:
        return object.copy()
    return np.stack([_without_variation(slice_, weight, n_iterations) for slice_ in object])


def limit_bandwidth(
    object: np.ndarray,
    pixel_size: tuple[float, float],
    cutoff: float,
    *,
    softness: float = 0.2,
) -> np.ndarray:
    """Take high frequencies out of each slice.

    Parameters
    ----------
    object
        Slices.
    pixel_size
        In Å (rows, columns).
    cutoff
        In 1/Å, where the weight is 1/2; infinite does nothing.
    softness
        Width of the edge, in units of the cutoff. Its shape is that of half a cosine.
    """
    if not cutoff > 0:
        raise ValueError(f"The cutoff frequency must be positive (in 1/Å), not {cutoff}.")
    if not np.isfinite(cutoff):
        return object.copy()

    def weight(k_row, k_column):
        return _edge((np.hypot(k_row, k_column) / cutoff - 1) / softness + 0.5)

    return np.stack([_filtered(slice_, pixel_size, weight) for slice_ in object])


def phase_only(object: np.ndarray) -> np.ndarray:
    """An object of the same phase and of amplitude 1; zeros become 1."""
    amplitude = np.abs(object)
    zero = amplitude == 0
    return np.where(zero, 1, object / np.where(zero, 1, amplitude)).astype(object.dtype)


def probe_support(
    modes: np.ndarray, radius: float, *, edge: float = 0.2, strength: float = 1.0
) -> np.ndarray:
    """Damp a probe far from the centre of its window; the power of all modes together is kept.

    Parameters
    ----------
    modes
        Of the probe.
    radius
        As a fraction of half the window, along rows and columns: windows of any shape are square in
        Å where detector pixels are square. Inside of it the probe is left as it is.
    edge
        Width of the soft edge outside of the radius, in the same unit.
    strength
        1 removes what is outside, 0 does nothing.
    """
    _check_strength(strength, 1)
    if not (radius > 0 and edge >= 0):
        raise ValueError(f"Radius and edge must be positive, not {radius} and {edge}.")
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in modes.shape[1:])
    outside = np.hypot(y[:, None], x[None, :]) - radius
    return _supported(modes, _edge(outside / max(edge, 1e-6)), strength)


def _check_strength(value: float, largest: float = np.inf) -> None:
    if not (np.isfinite(value) and 0 <= value <= largest):
        upper = "" if largest == np.inf else f" and at most {largest}"
        raise ValueError(f"The strength of a constraint must be at least 0{upper}, not {value}.")


def _edge(place: np.ndarray) -> np.ndarray:
    """Half a cosine that falls from 1 at place 0 to 0 at place 1."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(place, 0, 1))


def _mean_phases(object: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Phase of each slice's mean."""
    if weights is None:
        means = object.mean((1, 2), dtype=np.complex128)
    else:
        means = np.tensordot(object, weights.astype(object.real.dtype), 2)
    return np.angle(means)


def _turned(object: np.ndarray, phases: np.ndarray) -> np.ndarray:
    return object * np.exp(1j * phases).astype(np.result_type(object, np.complex64))[:, None, None]


def _aligned(object: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The object with the phase of each slice's mean taken out, and these phases."""
    phases = _mean_phases(object, weights)
    return _turned(object, -phases), phases


def _standing_waves(distances, pixel_size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masses, waves (slices, waves) with V' M V = 1, and their frequencies in 1/Å."""
    masses = Propagation(tuple(distances), 1.0, pixel_size).slice_thicknesses
    springs = 1 / np.asarray(distances, float)
    stiffness = np.diag(np.append(springs, 0) + np.append(0, springs))
    stiffness -= np.diag(springs, 1) + np.diag(springs, -1)
    waves = scipy.linalg.eigh(stiffness, np.diag(masses))[1]
    # wave j crosses zero j times: j half periods fit into the thickness
    return masses, waves, np.arange(len(masses)) / (2 * masses.sum())


def _filtered(
    image: np.ndarray,
    pixel_size: tuple[float, float],
    weight: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """An image, real or complex, with its spectrum times a real even function of k in 1/Å."""
    real = not np.iscomplexobj(image)
    # objects have any size, and transforms of some sizes are slow
    shape = [scipy.fft.next_fast_len(n, real) for n in image.shape]
    padding = [(0, m - n) for m, n in zip(shape, image.shape, strict=True)]
    padded = np.pad(image, padding, mode="edge")
    k_row = scipy.fft.fftfreq(shape[0], pixel_size[0])[:, None]
    frequencies = scipy.fft.rfftfreq if real else scipy.fft.fftfreq
    k_column = frequencies(shape[1], pixel_size[1])[None, :]
    weights = weight(k_row, k_column).astype(image.real.dtype)
    if real:
        out = scipy.fft.irfft2(scipy.fft.rfft2(padded) * weights, s=shape)
    else:
        out = scipy.fft.ifft2(scipy.fft.fft2(padded) * weights)
    return out[: image.shape[0], : image.shape[1]]


def _without_variation(image: np.ndarray, weight: float, n_iterations: int) -> np.ndarray:
    """Chambolle's projection for one complex image."""
    scale = np.sqrt(np.mean(np.abs(image) ** 2, dtype=np.float64))
    step = 0.25  # the largest for which it converges in two dimensions
    dual = np.zeros((2, *image.shape), image.dtype)
    slope = np.zeros_like(dual)
    factor = step / max(weight * scale, np.finfo(np.float32).tiny)
    out = image
    for _ in range(n_iterations):
        slope[0, :-1] = np.diff(out, axis=0)
        slope[1, :, :-1] = np.diff(out, axis=1)
        length = np.sqrt((slope.real**2 + slope.imag**2).sum(0))
        dual = (dual - step * slope) / (1 + np.asarray(factor, length.dtype) * length)
        divergence = -dual.sum(0)
        divergence[1:] += dual[0, :-1]
        divergence[:, 1:] += dual[1, :, :-1]
        out = image + divergence
    return out


def _supported(modes: np.ndarray, mask: np.ndarray, strength: float) -> np.ndarray:
    """Modes times a mask, with the power that they had together."""
    if strength == 0:
        return modes.copy()
    result = modes * (1 - strength * (1 - mask))
    power = np.sum(np.abs(modes) ** 2, dtype=np.float64)
    left = np.sum(np.abs(result) ** 2, dtype=np.float64)
    # a probe that is all outside would be noise blown up
    if not left > 1e-6 * power:
        raise ValueError("Nothing of the probe lies inside of its support: enlarge the support.")
    return (result * np.sqrt(power / left)).astype(modes.dtype)
