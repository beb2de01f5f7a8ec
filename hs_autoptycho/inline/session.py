"""The scans of a session at the microscope: one is being recorded, the others are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hs_autoptycho._quantities import QUANTITIES
from hs_autoptycho.inline.frames import Frames
from hs_autoptycho.inline.improving import gain_of, offsets_of
from hs_autoptycho.inline.offsets import Value, predicted
from hs_autoptycho.inline.proposals import MEASURED, Proposal, next_settings, wrapped
from hs_autoptycho.inline.recording import Calibration, Recording
from hs_autoptycho.ptycho.loading import DataError
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.signals import PtychographicObject

# A picture needs so many rows, if the scan has them: with fewer the bright-field images of a
# defocused probe do not overlap enough to tell the geometry.
FEWEST_ROWS = 12


@dataclass
class Session:
    """What is common to the scans, and the scans themselves.

    Attributes
    ----------
    stated : dict
        Energy and lengths that somebody gave.
    options : dict
        ``disk_center``, ``disk_radius``, ``detector_mask``, ``background``.
    held : dict
        Parameters of all reconstructions.
    target : dict or None
        Settings that are wanted; None as long as nobody has said and no scan was asked for.
    scan_shape : (int, int) or None
        Of scans that come as frames, as somebody gave it.
    found_shape : (int, int) or None
        That of the last signal or store, where nobody did.
    calibration : Calibration or None
        Axes and metadata of such scans.
    detector_flip : str or None
        Once a whole scan has told it.
    recordings : list of Recording
    """

    stated: dict[str, Any]
    options: dict[str, Any]
    held: dict[str, Any]
    target: dict[str, Any] | None = None
    scan_shape: tuple[int, int] | None = None
    calibration: Calibration | None = None
    detector_flip: str | None = None
    recordings: list[Recording] = field(default_factory=list)
    found_shape: tuple[int, int] | None = None

    @property
    def last(self) -> Recording:
        """The scan that is being recorded, or the last that was.

        Raises
        ------
        DataError
            If there is none.
        """
        if not self.recordings:
            raise DataError("There are no patterns yet: hand some over with `update` or `run`.")
        return self.recordings[-1]

    @property
    def measured(self) -> list[Recording]:
        """Scans of which something is known."""
        return [r for r in self.recordings if r.actual]

    def offsets(self, scans: Sequence[Recording]) -> dict[str, Value]:
        """Actual less asked-for values, as they are expected of the scan after some others."""
        found = {n: predicted(offsets_of(scans, n, self.target or {})) for n in MEASURED}
        return {name: value for name, value in found.items() if value is not None}

    def propose(self, limits: Mapping[str, tuple[float, float]]) -> Proposal:
        """Settings of the next scan, within limits, and what they would gain."""
        done, target = self.measured, self.target or {}
        if not done:
            return next_settings(target, {}, {}, limits)
        offsets = self.offsets(done)
        proposal = next_settings(target, done[-1].settings, offsets, limits)
        gain, error = gain_of(proposal, done, target, offsets)
        return replace(proposal, gain=gain, gain_error=error)

    def close(self) -> None:
        """What comes next belongs to another scan."""
        if self.recordings and not self.last.closed:
            self.last.ended = True
            self.last.notes.append("The scan ended before it was complete.")

    def take(self, frames: Any, settings: Mapping[str, Any] | None) -> Any:
        """Take in frames, or a whole scan as a signal; what the scan does not need is returned."""
        settings = settings or {}
        is_open = bool(self.recordings) and not self.last.closed
        shape = self.last.frames.scan_shape if is_open else self._shape(settings)
        if hasattr(frames, "axes_manager") and frames.axes_manager.navigation_dimension == 2:
            given = shape if is_open or self._is_given(settings) else None
            slow, fast = frames.data.shape[:2]
            if given is None or fast != given[1] or slow == given[0]:
                self.close()
                self._take_signal(frames, settings)
                return None
            if self.calibration is None:
                self.calibration = Calibration.of(frames)
        if is_open:
            return self.last.frames.add(frames)
        if shape is None:
            raise ParameterError(
                "The shape of the scan is not known: give `scan_shape` (slow, fast)."
            )
        whole = Frames(shape)
        rest = whole.add(frames)  # a scan begins with good frames only
        self._begin(whole, settings)
        return rest

    def _is_given(self, settings: Mapping[str, Any]) -> bool:
        return "scan_shape" in settings or self.scan_shape is not None

    def _shape(self, settings: Mapping[str, Any]) -> tuple[int, int] | None:
        """Of the next scan that comes as frames."""
        before = self.last.settings if self.recordings else {}
        shape = settings.get("scan_shape") or self.scan_shape
        return shape or self.found_shape or before.get("scan_shape")

    def _take_signal(self, signal, settings: Mapping[str, Any]) -> None:
        shape = signal.data.shape[:2]
        frames = Frames(shape)
        frames.add(signal.data.compute() if signal._lazy else signal.data)
        noted = {
            name: value
            for name in ("defocus", "scan_rotation")
            if (value := signal.metadata.get_item(QUANTITIES[name].item)) is not None
        }
        self.calibration, self.found_shape = Calibration.of(signal), shape
        self._begin(frames, {**noted, **settings}, whole=True)

    def _begin(self, frames, settings, *, whole: bool = False) -> None:
        asked = {**(self.recordings[-1].settings if self.recordings else {}), **settings}
        offsets, expected = self.offsets(self.measured), {}
        for name in MEASURED:
            value = asked.get(name, (self.target or {}).get(name))
            if value is not None and name in offsets:
                there = value + offsets[name].value
                there = wrapped(there) if name == "scan_rotation" else there
                expected[name] = Value(there, offsets[name].error)
            elif value is not None and name in ("defocus", "scan_rotation"):
                expected[name] = Value(float(value), math.inf)  # of use for the signs alone
        if self.target is None and asked:
            self.target = dict(asked)
        stated = dict(self.stated)
        for name in ("scan_step", "convergence_angle", "beam_energy"):
            if name in asked and not whole:  # a signal has what was done beside what was asked
                stated[name] = float(asked[name])
        if self.recordings:
            self.last.release()  # a session may be larger than the memory
        self.recordings.append(
            Recording(len(self.recordings), asked, frames, self.calibration, stated, expected)
        )

    def measure(self) -> None:
        """Read the rows of the last scan and estimate their geometry.

        Raises
        ------
        DataError
            If there are too few.
        """
        recording = self.last
        rows, total = recording.frames.n_rows, recording.frames.scan_shape[0]
        if rows < min(FEWEST_ROWS, total):
            raise DataError(
                f"The scan has {rows} of {total} rows so far: {min(FEWEST_ROWS, total)} are "
                "needed for a picture."
            )
        held = dict(self.held)
        if self.detector_flip is not None:
            held.setdefault("detector_flip", self.detector_flip)
        recording.measure(self.options, held)
        if recording.estimate.detector_flip and recording.frames.complete:
            self.detector_flip = recording.detector_flip

    def due(self, pictures: Sequence[float]) -> bool:
        """Whether a picture of the last scan is due, after these parts of it or at its end."""
        recording = self.last
        rows, total = recording.frames.n_rows, recording.frames.scan_shape[0]
        if recording.frames.complete:
            return recording.n_rows < total or recording.picture is None
        reached = sum(rows >= part * total for part in pictures)
        if reached <= recording.shown or rows < min(FEWEST_ROWS, total):
            return False
        recording.shown = reached
        return True

    def what_there_is(self) -> PtychographicObject:
        """The last picture, after Ctrl-C.

        Raises
        ------
        KeyboardInterrupt
            If there is none.
        """
        shown = [r.picture for r in self.recordings if r.picture is not None]
        if not shown:
            raise KeyboardInterrupt
        picture = shown[-1].deepcopy()  # that of the recording was completed
        picture.metadata.Ptychography.status = "interrupted"
        return picture
