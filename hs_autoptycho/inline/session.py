"""The scans of a session at the microscope: one is being recorded, the others are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hs_autoptycho._quantities import QUANTITIES
from hs_autoptycho.inline.frames import Frames
from hs_autoptycho.inline.improving import offsets_of
from hs_autoptycho.inline.offsets import Value, predicted
from hs_autoptycho.inline.proposals import MEASURED
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
        Of scans that come as frames.
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

    def close(self) -> None:
        """What comes next belongs to another scan."""
        if self.recordings and not self.last.closed:
            self.last.ended = True
            self.last.notes.append("The scan ended before it was complete.")

    def take(self, frames: Any, settings: Mapping[str, Any] | None) -> Any:
        """Take in frames, or a whole scan as a signal; what the scan does not need is returned."""
        if hasattr(frames, "axes_manager") and frames.axes_manager.navigation_dimension == 2:
            self._take_signal(frames, settings or {})
            return None
        if self.recordings and not self.last.closed:
            return self.last.frames.add(frames)
        shape = (settings or {}).get("scan_shape", self.scan_shape)
        if shape is None:
            raise ParameterError(
                "The shape of the scan is not known: give `scan_shape` (slow, fast)."
            )
        whole = Frames(shape)
        rest = whole.add(frames)  # a scan begins with good frames only
        self._begin(whole, settings or {})
        return rest

    def _take_signal(self, signal, settings: Mapping[str, Any]) -> None:
        shape = signal.data.shape[:2]
        frames = Frames(shape)
        frames.add(signal.data.compute() if signal._lazy else signal.data)
        noted = {
            name: value
            for name in ("defocus", "scan_rotation")
            if (value := signal.metadata.get_item(QUANTITIES[name].item)) is not None
        }
        self.calibration, self.scan_shape = Calibration.of(signal), shape
        self._begin(frames, {**noted, **settings}, whole=True)

    def _begin(self, frames, settings, *, whole: bool = False) -> None:
        asked = {**(self.recordings[-1].settings if self.recordings else {}), **settings}
        offsets, expected = self.offsets(self.measured), {}
        for name in MEASURED:
            value = asked.get(name, (self.target or {}).get(name))
            if value is not None and name in offsets:
                expected[name] = Value(value + offsets[name].value, offsets[name].error)
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
        shown[-1].metadata.Ptychography.status = "interrupted"
        return shown[-1]
