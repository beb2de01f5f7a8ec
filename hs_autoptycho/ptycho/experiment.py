"""One scan and its geometry, reconstructed with one set of parameters or another."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from hs_autoptycho.calibration import Geometry
from hs_autoptycho.ptycho.batches import default_batch_size
from hs_autoptycho.ptycho.coherence import coherence_modes
from hs_autoptycho.ptycho.memory import MemoryPlan, check_memory, plan_for
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError
from hs_autoptycho.ptycho.parts import reduced_shape, scan_window
from hs_autoptycho.ptycho.patterns import Patterns, flip_detector, split_counts
from hs_autoptycho.ptycho.positions import GridDistortion, Placement, place, scan_positions
from hs_autoptycho.ptycho.probe import (
    ABERRATIONS,
    beam_frequencies,
    disk_aperture,
    make_modes,
    make_probe,
    measured_aperture,
)
from hs_autoptycho.ptycho.propagation import Propagation
from hs_autoptycho.ptycho.resampling import crop_patterns, detector_cutoff_for
from hs_autoptycho.ptycho.solver import Model, Reconstruction, State, reconstruct
from hs_autoptycho.ptycho.stages import (
    check_together,
    default_probe_start,
    fit_coarse_to_fine,
    make_settings,
)
from hs_autoptycho.ptycho.stored import Facts, StoredCounts
from hs_autoptycho.ptycho.stored_patterns import StoredPatterns

_logger = logging.getLogger(__name__)

# A larger object than this is a mistake in the scan step or the detector's calibration.
LARGEST_OBJECT = 400e6

UNKNOWN_DEFOCUS = (
    "The defocus is not known. Give it in the call, `defocus=300` (Å, positive for underfocus), "
    "measure it with `hs_autoptycho.estimate_geometry(signal)`, or let `autotune_ptycho` find it."
)


@dataclass
class Experiment:
    """Counts of a scan and what is known of how they were recorded.

    Attributes
    ----------
    counts : array (positions, k_y, k_x), or StoredCounts
        As they were recorded, in the order of the scan; in memory, or read when they are needed.
    geometry : Geometry
    mask : bool array (k_y, k_x) or None
        True for the detector's pixels to use.
    background : float or array (k_y, k_x)
        Counts a pixel that are there without the beam.
    exposure : float
        Counts relative to those of the experiment that this one is a part of.
    """

    counts: np.ndarray | StoredCounts
    geometry: Geometry
    mask: np.ndarray | None = None
    background: float | np.ndarray = 0.0
    exposure: float = 1.0
    _patterns: dict[tuple, tuple[str, Patterns | StoredPatterns]] = field(
        default_factory=dict, repr=False
    )

    def __getstate__(self):
        return {**self.__dict__, "_patterns": {}}  # they are made again where they are needed

    @property
    def counted(self) -> bool:
        """Whether the data are whole counts."""
        return self.counts.dtype.kind in "ui"

    @property
    def stored(self) -> bool:
        """Whether the counts are read when they are needed."""
        return isinstance(self.counts, StoredCounts)

    def _facts(self) -> Facts:
        return self.counts.facts(self.mask)

    @cached_property
    def largest(self) -> np.ndarray:
        """The largest number of each pixel, (k_y, k_x)."""
        return self._facts().largest if self.stored else self.counts.max(0)

    @cached_property
    def mean_pattern(self) -> np.ndarray:
        """Mean of all patterns without the background, (k_y, k_x).

        Pixels that are not used have the value of the nearest one that is.
        """
        if self.stored:
            mean = self._facts().total / len(self.counts)
        else:
            mean = self.counts.mean(0, dtype=float)
        mean = np.maximum(mean - self.background, 0)
        if self.mask is None:
            return mean
        nearest = ndimage.distance_transform_edt(
            ~self.mask, return_distances=False, return_indices=True
        )
        return mean[tuple(nearest)]

    @cached_property
    def totals(self) -> np.ndarray:
        """Sum of each pattern's used pixels."""
        if self.stored:
            return self._facts().totals
        used = True if self.mask is None else self.mask
        return np.array([pattern.sum(dtype=float, where=used) for pattern in self.counts])

    @cached_property
    def saturation(self) -> float:
        """The largest number that the type of the counts can hold, where it occurs; or infinity."""
        if self.counts.dtype.kind in "ui" and self.counts.dtype.itemsize <= 2:
            largest = np.iinfo(self.counts.dtype).max
            used = ... if self.mask is None else self.mask
            if self.largest[used].max() == largest:
                return float(largest)
        return math.inf

    def split(self, fraction: float, random_state: int) -> tuple[Experiment, Experiment]:
        """Two with independent parts of the counts: see :func:`.patterns.split_counts`."""
        if not self.stored:
            parts = split_counts(self.counts, fraction, random_state)
        else:
            parts = self.counts.split(fraction, random_state)
            parts[1].know(self._facts().less(parts[0].facts(self.mask)), self.mask)
        return self.with_counts(parts[0]), self.with_counts(parts[1])

    def with_counts(self, counts: np.ndarray | StoredCounts) -> Experiment:
        """The same experiment with other counts, or a part of them."""
        other = Experiment(counts, self.geometry, self.mask)
        part = other.totals.sum() / max(self.totals.sum(), 1e-30)
        other.background = np.multiply(self.background, part)
        other.exposure = self.exposure * float(part)
        return other

    def with_mask(self, mask: np.ndarray | None) -> Experiment:
        """The same counts with other pixels used."""
        return Experiment(self.counts, self.geometry, mask, self.background, self.exposure)

    def part_of_scan(self, part: float) -> Experiment:
        """The scan's centre alone: see :func:`scan_window`; all of it is this experiment itself."""
        rows, columns = scan_window(self.geometry.scan_shape, part)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if shape == self.geometry.scan_shape:
            return self
        geometry = replace(self.geometry, scan_shape=shape)
        if self.stored:
            part = self.counts.part(rows, columns)
            return Experiment(part, geometry, self.mask, self.background, self.exposure)
        scan = self.counts.reshape(*self.geometry.scan_shape, *self.counts.shape[1:])
        counts = scan[rows, columns].reshape(-1, *self.counts.shape[1:])
        return Experiment(counts, geometry, self.mask, self.background, self.exposure)

    def patterns(
        self, flip: str = "none", shape: tuple[int, int] | None = None
    ) -> Patterns | StoredPatterns:
        """The counts in the kernels' order.

        The last orientation of every `shape` is kept.

        Parameters
        ----------
        flip
            Of the detector.
        shape
            Of the central part to use, after the flip. Default: all of it.
        """
        shape = self.geometry.flipped(flip).detector_shape if shape is None else shape
        key = tuple(sorted(shape))
        if self._patterns.get(key, (None,))[0] != flip:
            self._patterns.pop(key, None)
            make = self._stored_patterns if self.stored else self.cropped_patterns
            self._patterns[key] = (flip, make(flip, shape))
        return self._patterns[key][1]

    def cropped_patterns(
        self, flip: str, shape: tuple[int, int], positions: np.ndarray | None = None
    ) -> Patterns | StoredPatterns:
        """The central part of patterns, of `shape` after the flip, in the kernels' order.

        Pixels that are not used are 0: what a hot one has counted is no part of the beam's power.

        Parameters
        ----------
        flip
            Of the detector.
        shape
            (rows, columns).
        positions
            Indices of the patterns. Default: all.
        """
        if self.stored:
            patterns = self.patterns(flip, shape)
            return patterns if positions is None else patterns.some(positions)
        some = 256  # at a time, so that no second copy of everything is made
        n = len(self.counts) if positions is None else len(positions)

        def block(start):
            which = slice(start, start + some)
            counts = self.counts[which if positions is None else positions[which]]
            if self.mask is not None:
                counts = counts * self.mask  # of the counts' own type
            return crop_patterns(flip_detector(counts, flip), shape)

        return Patterns.from_blocks((block(start) for start in range(0, n, some)), n, shape)

    def _stored_patterns(self, flip: str, shape: tuple[int, int]) -> StoredPatterns:
        return StoredPatterns(self.counts, flip, shape, self.mask)

    def pieces(self, positions: np.ndarray, size: int) -> list[np.ndarray]:
        """Places in `positions`, up to `size` together, so that no block need be read twice."""
        if not self.stored:
            return [
                np.arange(a, min(a + size, len(positions))) for a in range(0, len(positions), size)
            ]
        return [
            places[a : a + size]
            for _, places in self.counts.by_block(positions)
            for a in range(0, len(places), size)
        ]

    def on_detector(self, image: np.ndarray, flip: str, shape: tuple[int, int]) -> np.ndarray:
        """An image of the detector as :meth:`cropped_patterns` shows it."""
        return crop_patterns(flip_detector(np.asarray(image), flip)[None], shape)[0]

    def reduced_shape(self, reduction: float, flip: str = "none") -> tuple[int, int]:
        """Of the detector's central part after its flip: see :func:`.parts.reduced_shape`."""
        return reduced_shape(self.geometry.flipped(flip), reduction)

    def complete(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter: the given ones, else the geometry's, else the defaults.

        Raises
        ------
        ParameterError
            If the defocus is neither given nor in the geometry, or parameters do not fit each
            other.
        """
        geometry = self.geometry
        values: dict[str, Any] = {name: p.default for name, p in PARAMETERS.items()}
        for name in ("beam_energy", "reciprocal_pixel", "scan_step", "scan_rotation", "defocus"):
            values[name] = getattr(geometry, name)
        values["convergence_angle"] = geometry.measured_convergence_angle
        values.update(parameters)
        if values["defocus"] is None:
            raise ParameterError(UNKNOWN_DEFOCUS)
        line_search = values["algorithm"] in ("lsq-ml", "gradient")
        defaults = {
            # a convergence angle that somebody gave is meant to be used
            "aperture": "disk" if "convergence_angle" in parameters else "measured",
            "noise_model": "poisson" if self.counted else "amplitude",
            "batch_size": default_batch_size(values["algorithm"], len(self.counts)),
            "step_object": 1.0 if line_search else 0.3,
            "step_probe": 1.0 if line_search else 0.3,
            "probe_start": default_probe_start(values),
        }
        values = {k: defaults.get(k) if v is None else v for k, v in values.items()}
        check_together(values, counted=self.counted)
        return values

    def start(
        self, values: Mapping[str, Any], shape: tuple[int, int] | None = None
    ) -> tuple[Placement, np.ndarray]:
        """Positions on the object, and the modes of the initial probe.

        Parameters
        ----------
        values
            What :meth:`complete` returns.
        shape
            Of the detector's central part to use, after its flip. Default: all of it.
        """
        beam = self._beam(values, shape)
        mrad = 1e-3 / self.geometry.wavelength
        if values["aperture"] == "measured":
            mean = flip_detector(self.mean_pattern, values["detector_flip"])
            aperture = measured_aperture(
                crop_patterns(mean[None], beam.shape)[0],
                beam.k_row,
                beam.k_column,
                self.geometry.measured_convergence_angle * mrad,
            )
        else:
            radius = values["convergence_angle"] * mrad
            aperture = disk_aperture(beam.k_row, beam.k_column, radius)
        optics = beam.k_row, beam.k_column, self.geometry.wavelength
        aberrations = {name: values[name] for name in ("defocus", *ABERRATIONS)}
        n_modes = values["n_probe_modes"]
        if values["source_size"] > 0 or values["focal_spread"] > 0:
            modes = coherence_modes(
                aperture, *optics, n_modes, source_size=values["source_size"],
                focal_spread=values["focal_spread"], **aberrations,
            )  # fmt: skip
        else:
            modes = make_modes(make_probe(aperture, *optics, **aberrations), n_modes)
        positions = scan_positions(
            self.geometry.scan_shape,
            values["scan_step"],
            rotation=values["scan_rotation"],
            scale=values["scan_scale"],
            shear=values["scan_shear"],
            aspect=values["scan_aspect"],
        )
        pixel = np.array(beam.pixel)
        extent = np.ptp(positions, axis=0) / pixel + np.array(beam.shape) + 4
        if math.prod(extent) > LARGEST_OBJECT:
            raise ParameterError(
                f"The object would have {extent[0]:.0f} × {extent[1]:.0f} pixels. Are the scan "
                f"step ({values['scan_step']:g} Å) and the object pixel ({pixel[0]:.4g} Å, from "
                f"the detector's {self.geometry.reciprocal_pixel:g} 1/Å) right?"
            )
        return place(positions / pixel, beam.shape), modes

    def _beam(self, values, shape=None) -> _Beam:
        """Frequencies from the beam's centre on the detector, or its central part of `shape`."""
        geometry = self.geometry.flipped(values["detector_flip"])
        whole = geometry.detector_shape
        shape = whole if shape is None else shape
        offset = np.array(geometry.disk_center) - np.array(whole) // 2
        reduction = np.array(whole) / np.array(shape)
        pixel = tuple(float(p) for p in np.array(geometry.object_pixel) * reduction)
        k = beam_frequencies(shape, pixel, tuple(offset))
        return _Beam(shape, pixel, tuple(float(v) for v in offset), *k)

    def model(self, values: Mapping[str, Any], shape: tuple[int, int] | None = None) -> Model:
        """What the solver has to know of beam, specimen and detector; as :meth:`start`."""
        beam = self._beam(values, shape)
        propagation = None
        if values["n_slices"] > 1:
            propagation = Propagation.even(
                values["n_slices"], values["thickness"], self.geometry.wavelength, beam.pixel,
                tilt=(values["tilt_y"], values["tilt_x"]),
            )  # fmt: skip

        def seen(image):
            if image is None or np.ndim(image) == 0:
                return image
            return self.on_detector(image, values["detector_flip"], beam.shape)

        return Model(
            propagation=propagation,
            pixel_size=beam.pixel,
            beam_offset=beam.offset,
            defocus_phase=np.pi * self.geometry.wavelength * (beam.k_row**2 + beam.k_column**2),
            defocus=values["defocus"],
            detector={
                "mask": seen(self.mask),
                "background": seen(self.background),
                "saturation": values["saturation"] or self.saturation,
                "blur": values["detector_blur"],
            },
        )

    def fit(
        self,
        parameters: Mapping[str, Any],
        *,
        n_iterations: int,
        random_state: int = 0,
        subset: np.ndarray | None = None,
        callback: Callable[[int, float], None] | None = None,
        monitor: Callable[[int, State], bool | None] | None = None,
        reduction: int = 1,
    ) -> tuple[Reconstruction, State]:
        """Reconstruct with some parameters; see :func:`hs_autoptycho.ptycho.solver.reconstruct`.

        With ``coarse_iterations`` so many of the passes go over the patterns' central part, whose
        object has larger pixels. With a `reduction` all of them do: see :meth:`reduced_shape`.
        """
        values = self.complete(parameters)
        settings = make_settings(values)
        used = np.flatnonzero(self.totals > 0)
        if subset is not None:
            used = np.intersect1d(subset, used)
        common = {
            "random_state": random_state, "subset": used, "callback": callback, "monitor": monitor
        }  # fmt: skip
        coarse = self._coarse_shape(values) if reduction == 1 else None
        if coarse is None:
            flip = values["detector_flip"]
            shape = self.reduced_shape(reduction, flip)
            placement, modes = self.start(values, shape)
            return reconstruct(
                self.patterns(flip, shape), placement, modes, n_iterations=n_iterations,
                model=self.model(values, shape), settings=settings, **common,
            )  # fmt: skip
        return fit_coarse_to_fine(self, values, settings, coarse, n_iterations, common)

    def corrected(
        self, values: Mapping[str, Any], result: Reconstruction
    ) -> tuple[dict[str, Any], list[str]]:
        """The parameters as they were corrected, and a sentence on each that changed."""
        after = dict(values)
        pixel = np.array(self.geometry.flipped(values["detector_flip"]).object_pixel)
        if values["grid_correction_start"] is not None:
            given = GridDistortion(
                values["scan_rotation"], values["scan_scale"], values["scan_shear"],
                values["scan_aspect"],
            ).matrix  # fmt: skip
            found = GridDistortion.of(np.diag(pixel) @ result.grid @ np.diag(1 / pixel) @ given)
            after.update({f"scan_{name}": value for name, value in found._asdict().items()})
        for name in ("defocus", "tilt_y", "tilt_x"):
            after[name] = result.corrected.get(name, values[name])
        if "thickness_factor" in result.corrected:
            after["thickness"] = values["thickness"] * result.corrected["thickness_factor"]
        changed = [name for name in after if after[name] != values[name]]
        return after, [
            f"{name} was corrected from {values[name]:.6g} to {after[name]:.6g}"
            f"{' ' + PARAMETERS[name].unit if PARAMETERS[name].unit else ''}."
            for name in changed
        ]

    def plan_memory(self, values: Mapping[str, Any]) -> MemoryPlan:
        """What :meth:`fit` needs beside the counts."""
        beam = self._beam(values)
        return plan_for(
            values,
            self.geometry.scan_shape,
            beam.shape,
            beam.pixel,
            self.counts.dtype,
            stored=self.counts.memory if self.stored else None,
        )

    def check_memory(self, values: Mapping[str, Any]) -> None:
        """Log the plan; raise a NotEnoughMemoryError if there is not enough."""
        plan = self.plan_memory(values)
        _logger.info("Memory: %s", plan)
        check_memory(plan)

    def _coarse_shape(self, values) -> tuple[int, int] | None:
        """Of the patterns' part for the first passes; None if there are none."""
        if not values["coarse_iterations"]:
            return None
        geometry = self.geometry.flipped(values["detector_flip"])
        mean = flip_detector(self.mean_pattern, values["detector_flip"])
        return detector_cutoff_for(mean, geometry.disk_radius, center=geometry.disk_center)


class _Beam(NamedTuple):
    shape: tuple[int, int]
    pixel: tuple[float, float]
    offset: tuple[float, float]
    k_row: np.ndarray
    k_column: np.ndarray
