"""One scan that is being recorded: its frames, its geometry, its picture."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hs_autoptycho._scan import Scan, read_scan, wrap_reconstruction
from hs_autoptycho.inline.frames import Frames
from hs_autoptycho.inline.offsets import Value, combined, contradict
from hs_autoptycho.inline.proposals import MEASURED, wrapped
from hs_autoptycho.ptycho.geometry_estimate import GeometryEstimate, estimate
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.signals import PtychographicObject


@dataclass
class Recording:
    """A scan, as far as it has been recorded, and what is known of it.

    Attributes
    ----------
    number : int
        From 0.
    settings : dict
        What the instrument was asked for.
    frames : Frames
        The patterns.
    calibration : Calibration or None
        Axes and metadata.
    stated : dict
        Energy and lengths, which take precedence over those.
    expected : dict
        As `actual`, before the scan; with an infinite error only the signs count.
    actual : dict
        Name to value and standard error of what is known: ``scan_rotation`` in degrees,
        ``defocus``, ``C12a``, ``C12b`` in Å.
    measured : dict
        The same without what the trials have added.
    observed : dict
        What this scan alone says, its trials too, of what is not held: without what was expected.
    learned : set of str
        Names of what the trials have added to.
    scales : dict
        What a large error of a setting is: of lengths the depth of focus λ/α², of the rotation that
        which moves the scan's edge by a step.
    detector_flip : str
    score : float or None
        Of the picture, lower is better; None where it was not judged.
    picture : PtychographicObject or None
        The last one.
    seconds : dict
        What took how long, after the last frame of it had come: ``"read"``, ``"geometry"``,
        ``"picture"``, and for ``"all"`` these three; ``"trials"``, ``"score"``.
    notes : list of str
    """

    number: int
    settings: dict[str, Any]
    frames: Frames
    calibration: Calibration | None = None
    stated: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Value] = field(default_factory=dict)
    actual: dict[str, Value] = field(default_factory=dict)
    measured: dict[str, Value] = field(default_factory=dict)
    observed: dict[str, Value] = field(default_factory=dict)
    learned: set[str] = field(default_factory=set)
    scales: dict[str, float] = field(default_factory=dict)
    detector_flip: str = "none"
    score: float | None = None
    picture: PtychographicObject | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    scan: Scan | None = None
    estimate: GeometryEstimate | None = None
    n_rows: int = 0
    shown: int = 0  # how many of the pictures that were wanted are made
    ended: bool = False  # whether no more frames will come

    def __repr__(self) -> str:
        slow, fast = self.frames.scan_shape
        found = ", ".join(f"{k}={v.value:.4g} ± {v.error:.2g}" for k, v in self.actual.items())
        return f"<Recording {self.number}: {self.frames.n_frames} of {slow * fast} frames; {found}>"

    def measure(self, options: Mapping[str, Any], held: Mapping[str, Any]) -> None:
        """Read the rows that there are, and estimate their geometry without a reconstruction.

        Parameters
        ----------
        options
            ``disk_center``, ``disk_radius``, ``detector_mask``, ``background``.
        held
            Parameters that are known, ``detector_flip`` among them if it is.
        """
        rows = self.frames.rows()
        start = time.perf_counter()
        stated = {
            **self.stated,
            **{k: v for k, v in held.items() if k in ("scan_rotation", "defocus")},
        }
        for name in ("scan_rotation", "defocus"):
            if name in self.expected:
                stated.setdefault(name, self.expected[name].value)
        self.scan = read_scan(as_signal(rows, self.calibration), stated, False, **options)
        self.seconds["read"] = time.perf_counter() - start
        start = time.perf_counter()
        found = estimate(self.scan.experiment, held=held)
        self.seconds["geometry"] = time.perf_counter() - start
        self.n_rows = len(rows)
        self.estimate = found = _as_expected(found, self.expected)
        self.notes = [*found.notes]
        self.detector_flip = found.detector_flip or held.get("detector_flip") or "none"
        seen = {name: self.seen(name) for name in MEASURED if name not in held}
        values = {name: self._known(name, seen.get(name), held) for name in MEASURED}
        self.observed = {name: value for name, value in seen.items() if value is not None}
        self.measured = {name: value for name, value in values.items() if value is not None}
        self.actual, self.learned = dict(self.measured), set()
        # kept here, since the patterns are let go as soon as another scan begins
        geometry = self.scan.experiment.geometry
        depth = geometry.wavelength / (1e-3 * geometry.convergence_angle) ** 2
        self.scales = dict.fromkeys(MEASURED, depth)
        self.scales["scan_rotation"] = math.degrees(2 / max(geometry.scan_shape))

    def release(self) -> None:
        """Let go of the patterns."""
        self.frames.release()
        self.scan = None

    @property
    def closed(self) -> bool:
        """Whether what comes next belongs to another scan."""
        return self.ended or self.frames.complete

    @property
    def can_be_shown(self) -> bool:
        """Whether rotation and defocus were measured or are held."""
        return all(
            name in self.actual and math.isfinite(self.actual[name].error)
            for name in ("scan_rotation", "defocus")
        )

    def seen(self, name: str) -> Value | None:
        """What the rows alone say, without what was expected."""
        value = getattr(self.estimate, name)
        return None if value is None else Value(value, getattr(self.estimate, f"{name}_error"))

    def _known(self, name: str, seen: Value | None, held: Mapping[str, Any]) -> Value | None:
        if name in held:
            return Value(float(held[name]), 0.0)
        expected = self.expected.get(name)
        if seen is None:
            if expected is not None and math.isfinite(expected.error):
                self.notes.append(f"{name} could not be measured; what was expected is used.")
            return expected
        if expected is None or not math.isfinite(expected.error):
            return seen
        if contradict(seen, expected):
            self.notes.append(
                f"{name} was expected at {expected.value:.4g} ± {expected.error:.2g} and measured "
                f"at {seen.value:.4g} ± {seen.error:.2g}: the measured is used."
            )
            return seen
        return combined(seen, expected)

    def parameters(self, held: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, Any]:
        """What to reconstruct with: what was found, unless something better is known.

        Raises
        ------
        ParameterError
            If the defocus or the rotation is not known.
        """
        found = {name: float(f"{v.value:.6g}") for name, v in self.actual.items()}
        out = {**found, "detector_flip": self.detector_flip, **held, **best}
        for name in ("defocus", "scan_rotation"):
            if name not in out:
                raise ParameterError(
                    f"The {name} could not be told from {self.n_rows} rows of the scan, and nobody "
                    f'has given one. Give `fixed={{"{name}": ...}}` or a range in `parameters`.'
                )
        return out

    def show(
        self, parameters: Mapping[str, Any], n_iterations: int, seed: int, tuning=None
    ) -> PtychographicObject:
        """Reconstruct the rows that were measured."""
        start = time.perf_counter()
        experiment = self.scan.experiment
        values = experiment.complete(parameters)
        experiment.check_memory(values)
        result, _ = experiment.fit(parameters, n_iterations=n_iterations, random_state=seed)
        scan = replace(self.scan, notes=[*self.scan.notes, *self.notes])
        total = self.frames.scan_shape[0]
        if self.n_rows < total:
            scan.notes.append(f"The picture is of the first {self.n_rows} of {total} rows.")
        self.picture = wrap_reconstruction(scan, values, result, seed, tuning)
        self.seconds["picture"] = time.perf_counter() - start
        self.seconds["all"] = sum(self.seconds[k] for k in ("read", "geometry", "picture"))
        return self.picture


@dataclass(frozen=True)
class Calibration:
    """Metadata and axes of a signal, without its data.

    Attributes
    ----------
    metadata : dict
    axes : tuple of dict
        As HyperSpy writes them, in the order of the array.
    """

    metadata: dict[str, Any]
    axes: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, signal: Any) -> Calibration:
        """That of a signal (scan_x, scan_y | k_x, k_y)."""
        axes = signal.axes_manager.as_dictionary().values()
        metadata = signal.metadata.as_dictionary()
        metadata.get("Signal", {}).pop("signal_type", None)
        return cls(metadata, tuple(axes))


def as_signal(rows: np.ndarray, calibration: Calibration | None):
    """Patterns (rows, fast, k_y, k_x) as a signal with the calibration of another one."""
    from hyperspy.signals import Signal2D

    if calibration is None:
        return Signal2D(rows)
    axes = [
        {**axis, "size": n} if "size" in axis else dict(axis)
        for axis, n in zip(calibration.axes, rows.shape, strict=True)
    ]
    return Signal2D(rows, axes=axes, metadata=deepcopy(calibration.metadata))


def _as_expected(found: GeometryEstimate, expected: Mapping[str, Value]) -> GeometryEstimate:
    """The estimate with its rotation in the turn, and of the two conjugates the one, expected."""
    rotation = expected.get("scan_rotation")
    if rotation is None or found.scan_rotation is None:
        return found
    away = wrapped(found.scan_rotation - rotation.value)
    turned: dict[str, Any] = {}
    if abs(away) > 90 and rotation.error < 45 and found.scan_rotation_error:
        away = wrapped(away + 180)
        for name in MEASURED[1:]:
            value = getattr(found, name)
            turned[name] = None if value is None else -value
    return replace(found, **turned, scan_rotation=rotation.value + away)
