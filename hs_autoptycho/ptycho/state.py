"""What a solver works on: object, probe, positions, and the kernels' working memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numba
import numpy as np
import scipy.fft
from scipy.special import erf

from hs_autoptycho.ptycho import kernels
from hs_autoptycho.ptycho.detector import CHUNK, COUNT_TYPES, Detector
from hs_autoptycho.ptycho.fft import (
    Plan,
    planes_to_spectrum,
    scratch_size,
    spectrum_to_planes,
    to_planes,
)
from hs_autoptycho.ptycho.patterns import Patterns
from hs_autoptycho.ptycho.positions import Placement
from hs_autoptycho.ptycho.probe import make_modes, orthogonalize
from hs_autoptycho.ptycho.propagation import Propagation, propagator_derivatives, propagators
from hs_autoptycho.ptycho.stored_patterns import StoredPatterns

# Adding up the groups' gradients may cost about this part of a batch's work.
GROUP_COST = 0.18
MOST_GROUPS = 64


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, that start on a cache line: vector loads then never straddle two."""
    size = int(np.prod(shape))
    buffer = np.zeros(size + 16, np.float32)
    offset = (-buffer.ctypes.data) % 64 // 4
    return buffer[offset : offset + size].reshape(shape)


def group_count(batch_size: int, window: tuple[int, int], object_shape: tuple[int, int]) -> int:
    """Into how many groups a batch is shared out: as many as do not cost too much to add up."""
    work = batch_size * window[0] * window[1]
    affordable = int(GROUP_COST * work / (object_shape[0] * object_shape[1]))
    # numbers of threads are even: no group should be left over
    even = affordable - affordable % (4 if affordable >= 4 else 2)
    return max(1, min(MOST_GROUPS, max(2, even), batch_size))


def make_space(plan: Plan, n_modes: int, n_slices: int, *, passing: bool, blur: bool):
    """Working memory of :func:`kernels.visit_positions`, a part for each thread."""
    threads = numba.get_num_threads()
    pixels = plan.rows * plan.columns
    between = (threads, n_modes, n_slices - 1, 2 * pixels)
    return kernels.Space(
        waves=aligned((threads, 2 * pixels)),
        probes=aligned((threads, n_modes, 2 * pixels)),
        probe_gradients=aligned((threads, n_modes, 2 * pixels)),
        spectra=aligned((threads, n_modes, 2 * pixels)),
        incoming=aligned(between),
        passing=aligned(between if passing else (threads, n_modes, 0, 0)),
        intensities=aligned((threads, pixels)),
        spare=aligned((threads, 2 * pixels if blur else 0)),
        chunks=aligned((threads, 2, CHUNK)),
        scratch=aligned((threads, scratch_size(plan))),
    )


def make_detector(
    patterns: Patterns | StoredPatterns,
    *,
    poisson: bool = False,
    mask: np.ndarray | None = None,
    background: np.ndarray | float = 0.0,
    saturation: float = np.inf,
    blur: float = 0.0,
) -> Detector:
    """Patterns, and what the detector does to them, for the kernels.

    Parameters
    ----------
    patterns
        Measured. Those of a batch are put into their place where they are stored.
    poisson
        The noise model; else that of amplitudes.
    mask
        Bool (rows, columns), zero frequency at pixel ``shape // 2``: True where a pixel is used.
    background
        Counts a pixel that are there without the specimen: a number, or (rows, columns).
    saturation
        Counts from which on a pixel tells only that there are at least so many.
    blur
        Standard deviation of the detector's point spread in pixels.
    """
    if isinstance(patterns, StoredPatterns):
        counts = np.empty((0, patterns.plan.rows * patterns.plan.columns), patterns.dtype)
    else:
        counts = patterns.counts
    name = counts.dtype.name
    if name not in COUNT_TYPES:
        raise TypeError(f"Patterns are one of {', '.join(COUNT_TYPES)}, not {name}.")
    plan = patterns.plan
    pixels = plan.rows * plan.columns
    scale = pixels / patterns.mean_total

    def ordered(array, fill):
        full = np.broadcast_to(np.asarray(fill if array is None else array, float), patterns.shape)
        return patterns.order(full).astype(np.float32)

    if not blur >= 0:
        raise ValueError(f"blur={blur!r} pixels: it must not be negative.")
    transfer = np.zeros(0, np.float32)
    if blur > 0:
        rows, columns = (_gaussian_transfer(n, blur) for n in patterns.shape)
        transfer = (rows[:, None] * columns / pixels).ravel().astype(np.float32)
    return Detector(
        counts.view(np.uint8),
        COUNT_TYPES.index(name),
        np.float32(scale),
        ordered(mask, 1.0),
        ordered(background, 0.0) * np.float32(scale),
        np.float32(saturation * scale),
        transfer,
        poisson,
    )


def _gaussian_transfer(size: int, sigma: float) -> np.ndarray:
    """Fourier transform of a Gaussian of which every pixel gets its integral.

    Unlike a Gaussian transfer function that ends at the Nyquist frequency it belongs to a point
    spread without negative values.
    """
    pixel = np.arange(-8 * size, 8 * size)  # round the edge of the window, should it reach there
    edges = erf((pixel[:, None] + np.array([-0.5, 0.5])) / (np.sqrt(2) * sigma))
    spread = (np.diff(edges, axis=1)[:, 0] / 2).reshape(-1, size).sum(0)
    return np.fft.fft(spread).real


@dataclass
class Batch:
    """Some positions, those with the same fraction of a pixel one after the other."""

    indices: np.ndarray
    visit: kernels.Visit


@dataclass
class State:
    """Everything that a solver changes, and what it needs to do so.

    Attributes
    ----------
    placement : Placement
        Positions on the object's grid, rounded to classes.
    positions : float64 (positions, 2)
        The same in pixels of the object, not rounded.
    own : bool
        Whether each position is its own class, with derivatives and no rounding.
    object : float32 (slices, 2, Y, X)
    spectra : float32 (modes + variable modes, 2 * pixels)
    coefficients : float32 (positions, variable modes)
    brightness : float32 (positions,)
    stored : StoredPatterns or None
        Where the patterns are, if they are not in `detector`.
    """

    plan: Plan
    placement: Placement
    detector: Detector
    object: np.ndarray
    spectra: np.ndarray
    n_modes: int
    propagation: Propagation | None
    coefficients: np.ndarray
    brightness: np.ndarray
    positions: np.ndarray
    beam_offset: tuple[float, float] = (0.0, 0.0)
    own: bool = False
    passing: bool = False
    illumination: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    coverage: float = 1.0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    stored: StoredPatterns | None = None

    @classmethod
    def start(
        cls,
        plan: Plan,
        placement: Placement,
        probe: np.ndarray,
        detector: Detector,
        *,
        propagation: Propagation | None = None,
        beam_offset: tuple[float, float] = (0.0, 0.0),
        n_variable_modes: int = 0,
    ) -> State:
        """Vacuum, a probe of the power of the mean pattern, and the given positions."""
        pixels = plan.rows * plan.columns
        # what the background makes of the mean pattern, which is 1 a pixel, is not the probe's
        power = pixels * max(0.01, 1 - float((detector.background * detector.mask).mean()))
        probe = probe * np.sqrt(power / (np.abs(probe) ** 2).sum())
        n_slices = 1 if propagation is None else propagation.n_slices
        object_ = aligned((n_slices, 2, *placement.object_shape))
        object_[:, 0] = 1
        n_positions = len(placement.corners)
        state = cls(
            plan=plan,
            placement=placement,
            detector=detector,
            object=object_,
            spectra=aligned((len(probe) + n_variable_modes, 2 * pixels)),
            n_modes=len(probe),
            propagation=propagation,
            beam_offset=beam_offset,
            coefficients=np.zeros((n_positions, n_variable_modes), np.float32),
            brightness=np.ones(n_positions, np.float32),
            positions=placement.corners
            + np.array(plan[:2]) // 2
            + placement.fractions[placement.classes],
        )
        state.probe = probe
        if n_variable_modes:
            # as different from the probe as they can be at low order, and of its power
            modes = make_modes(probe[0], n_variable_modes + 1)[1:]
            norms = np.sqrt((np.abs(modes) ** 2).sum((1, 2), keepdims=True) / pixels)
            spectra = scipy.fft.fft2(modes / norms)
            state.spectra[len(probe) :] = spectrum_to_planes(spectra, plan)
        state.propagate(propagation)
        return state

    # -----------------------------------------------------------------------------------------
    # What a model is made of

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the window."""
        return self.plan.rows, self.plan.columns

    @property
    def probe(self) -> np.ndarray:
        """Complex modes, centred in the window."""
        return scipy.fft.ifft2(planes_to_spectrum(self.spectra[: self.n_modes], self.plan))

    @probe.setter
    def probe(self, probe: np.ndarray):
        self.spectra[: self.n_modes] = spectrum_to_planes(scipy.fft.fft2(probe), self.plan)

    @property
    def variable_modes(self) -> np.ndarray:
        """Complex modes by which the first mode differs from position to position."""
        return scipy.fft.ifft2(planes_to_spectrum(self.spectra[self.n_modes :], self.plan))

    def propagate(self, propagation: Propagation | None) -> None:
        """Use these distances and tilts between slices."""
        self.propagation = propagation
        pixels = self.plan.rows * self.plan.columns
        self._distances = np.zeros(0, np.int64)
        self._propagators = np.zeros((0, 2 * pixels), np.float32)
        self._factors = np.zeros((0, 3, pixels), np.float32)
        if propagation is None or propagation.n_slices == 1:
            return
        different, self._distances = np.unique(propagation.distances, return_inverse=True)
        self._distances = self._distances.ravel().astype(np.int64)
        unique = replace(propagation, distances=tuple(different))
        factors = propagators(unique, self.shape, beam_offset=self.beam_offset) / pixels
        self._propagators = np.ascontiguousarray(spectrum_to_planes(factors, self.plan))
        if self.passing:
            factors = propagator_derivatives(unique, self.shape, beam_offset=self.beam_offset)
            ordered = spectrum_to_planes(factors.astype(np.complex64), self.plan)
            self._factors = np.ascontiguousarray(ordered[..., :pixels])

    def propagation_factors(self) -> np.ndarray:
        """Σ f over all distances, for thickness and tilts, (3, pixels): see `kernels.Scene`."""
        return self._factors[self._distances].sum(0, dtype=np.float64)

    def scene(self) -> kernels.Scene:
        """The model as the kernels read it."""
        return kernels.Scene(
            self.object,
            self.spectra,
            self.n_modes,
            self._propagators,
            self._factors,
            self._distances,
            np.fft.fftfreq(self.plan.rows)[self.plan.row_order].astype(np.float32),
            np.fft.fftfreq(self.plan.columns)[self.plan.column_order].astype(np.float32),
        )

    def space(self) -> kernels.Space:
        """Working memory for the present number of threads."""
        blur = len(self.detector.transfer) > 0
        key = numba.get_num_threads(), self.passing
        if getattr(self, "_space_key", None) != key:
            self._space = make_space(
                self.plan, self.n_modes, len(self.object), passing=self.passing, blur=blur
            )
            self._space_key = key
        return self._space

    # -----------------------------------------------------------------------------------------
    # Positions

    def move(self, positions: np.ndarray) -> None:
        """Put the probe at other positions; the object grows where they leave it."""
        half = np.array(self.shape) // 2
        low = np.floor(positions.min(0)).astype(int) - half - 1
        high = np.ceil(positions.max(0)).astype(int) + (np.array(self.shape) - half) + 1
        shape = np.array(self.object.shape[2:])
        before, after = np.maximum(0, -low), np.maximum(0, high - shape)
        origin = self.placement.origin
        if before.any() or after.any():
            before, after = (n + 4 * (n > 0) for n in (before, after))
            old = self.object
            self.object = aligned((len(old), 2, *(shape + before + after)))
            self.object[:, 0] = 1
            inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
            self.object[(slice(None), slice(None), *inside)] = old
            positions = positions + before
            origin = origin + before
        self.positions = positions
        self.own = True
        corners = np.round(positions).astype(np.int64) - half
        self.placement = Placement(
            corners,
            np.arange(len(positions)),
            positions - half - corners,
            tuple(int(n) for n in self.object.shape[2:]),
            origin,
        )
        if self.illumination.size and self.illumination.shape != self.object.shape[2:]:
            self.measure_illumination()

    def batch(self, indices: np.ndarray) -> Batch:
        """Positions sorted and shared out for the kernels."""
        classes = self.placement.classes[indices]
        corners = self.placement.corners[indices]
        order = np.lexsort((corners[:, 0], classes))
        indices, corners = indices[order], np.ascontiguousarray(corners[order])
        used, local = np.unique(classes[order], return_inverse=True)
        groups = group_count(len(indices), self.shape, self.object.shape[2:])
        starts = np.arange(groups + 1) * len(indices) // groups
        bands = [
            (part[:, 0].min(), part[:, 0].max() + self.plan.rows)
            for part in (corners[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True))
        ]
        ramps = []
        for axis, (size, order_) in enumerate(
            [(self.plan.rows, self.plan.row_order), (self.plan.columns, self.plan.column_order)]
        ):
            frequency = np.fft.fftfreq(size)[order_]
            angle = -2 * np.pi * self.placement.fractions[used, axis, None] * frequency
            ramp = np.stack([np.cos(angle), np.sin(angle)], 1) / size
            ramps.append(ramp.astype(np.float32))
        visit = kernels.Visit(
            indices,
            corners,
            local.ravel().astype(np.int64),
            *ramps,
            np.ascontiguousarray(self.coefficients[indices]),
            np.ascontiguousarray(self.brightness[indices]),
            starts.astype(np.int64),
            np.array(bands, np.int64),
        )
        return Batch(indices, visit)

    # -----------------------------------------------------------------------------------------
    # Power of probe and object

    def measure_illumination(self) -> None:
        """Set `illumination`, Σ|P|² of all positions on the object's grid."""
        shape = self.object.shape[2:]
        power = np.zeros(shape, np.float32)
        power[: self.plan.rows, : self.plan.columns] = (np.abs(self.probe) ** 2).sum(0)
        visits = np.zeros(shape, np.float32)
        np.add.at(visits, tuple(self.placement.corners.T), 1)
        # windows never cross the object's edge, so that a periodic convolution is exact
        total = scipy.fft.irfft2(scipy.fft.rfft2(power) * scipy.fft.rfft2(visits), s=shape)
        self.illumination = np.maximum(total, 0)
        self.coverage = self.illumination.max() / power.max()

    def settle_probe(self) -> None:
        """Make the modes orthogonal, and undo a drift of power between probe and object.

        Only their product is measured, so that they could exchange a factor without end. Within a
        factor of two of the mean pattern's power the probe is left as it is.
        """
        modes = self.probe
        if len(self.spectra) > self.n_modes:
            # the variable modes are added to the first one, which has to stay what it is
            modes[1:] = orthogonalize(modes[1:]) if self.n_modes > 2 else modes[1:]
        else:
            modes = orthogonalize(modes)
        power = np.sum(np.abs(modes) ** 2) / (self.plan.rows * self.plan.columns)
        if np.isfinite(power) and not 0.5 < power < 2:
            modes /= np.sqrt(power)
            self.spectra[self.n_modes :] /= np.float32(np.sqrt(power))
            self.object[0] *= np.float32(np.sqrt(power))
        self.probe = modes

    def overlap(self, batch_size: int) -> float:
        """How many positions of a batch see the best seen object pixel, on average."""
        return float(self.coverage * batch_size / len(self.placement.corners))

    # -----------------------------------------------------------------------------------------
    # Kernels

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Working memory under a name, kept from batch to batch; its content is undefined."""
        size = int(np.prod(shape))
        if name not in self.arrays or self.arrays[name].size < size:
            self.arrays[name] = aligned((size,))
        return self.arrays[name][:size].reshape(shape)

    def gradients(self, batch: Batch, *, predict: bool = False) -> kernels.Gradients:
        """Visit a batch: gradients by group, or with `predict` the model's intensities."""
        visit = batch.visit
        groups, n = len(visit.bands), len(batch.indices)
        pixels = self.plan.rows * self.plan.columns
        none = np.zeros((0, 0, 0, 0, 0), np.float32)
        out = kernels.Gradients(
            object=none if predict else self.array("groups", (groups, *self.object.shape)),
            probes=self.array("probe groups", (groups, *self.spectra.shape)),
            sums=np.zeros((n, 3)),
            positions=np.zeros((n, 2)),
            coefficients=np.zeros((n, self.coefficients.shape[1])),
            propagation=np.zeros((n, 3)),
            predicted=self.array("predicted", (n if predict else 0, pixels)),
        )
        detector = self.detector
        if self.stored is not None and not predict:
            detector = detector._replace(counts=self.measured(batch.indices).view(np.uint8))
            visit = visit._replace(indices=np.arange(n))
        kernels.visit_positions(
            self.scene(), visit, detector, self.own, self.space(), self.plan, out
        )
        return out

    def measured(self, indices: np.ndarray) -> np.ndarray:
        """Patterns of some positions in the order of the spectrum, (some, pixels)."""
        if self.stored is not None:
            return self.stored.rows(indices)
        return self.detector.counts[indices].view(COUNT_TYPES[self.detector.code])

    def model_intensities(self, batch: Batch) -> np.ndarray:
        """What the model predicts for a batch, mean 1 a pixel, in the spectrum's order."""
        return self.gradients(batch, predict=True).predicted

    def probe_planes(self, spectra: np.ndarray) -> np.ndarray:
        """Real-space planes of modes from their spectra."""
        return to_planes(scipy.fft.ifft2(planes_to_spectrum(spectra, self.plan)))
