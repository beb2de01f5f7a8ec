"""What a reconstruction left behind, read back from a signal's metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from hyperspy.api import signals

from hs_autoptycho.ptycho.parameters import RECORDING
from hs_autoptycho.signals._plain import to_plain
from hs_autoptycho.signals._record import MissingError, RunRecord, reads

if TYPE_CHECKING:
    from hs_autoptycho.calibration import Geometry


class ReconstructionRecord(RunRecord):
    """Attributes that read ``metadata.Ptychography``; for a HyperSpy signal class to inherit.

    Everything is returned as a copy in plain Python or NumPy, whatever the file gave back.
    """

    _entry = "Ptychography"
    _made_by = "reconstruct_ptycho() or autotune_ptycho()"

    @property
    @reads("probe", "probe_axes")
    def probe(self) -> signals.ComplexSignal2D:
        """The probe as ``(mode | x, y)``, in Å, centred, strongest mode first."""
        axes = self._stored("probe_axes")
        stack = self._array("probe", 3, "fc")
        axis = {"name": "mode", "size": len(stack), "navigate": True}
        axes = [axis] + [
            {"name": key, "size": size, "navigate": False, **to_plain(axes[key])}
            for key, size in zip(("y", "x"), stack.shape[1:], strict=True)
        ]
        return signals.ComplexSignal2D(stack, axes=axes, metadata={"General": {"title": "Probe"}})

    @property
    def probe_powers(self) -> np.ndarray:
        """Share of each probe mode in the total intensity; they sum to 1."""
        power = (np.abs(self._array("probe", 3, "fc")) ** 2).sum(axis=(1, 2), dtype=float)
        return power / power.sum() if power.sum() > 0 else power

    @property
    def positions(self) -> np.ndarray:
        """Array (J, 2): (y, x) of each probe's centre in Å, in the frame of the signal axes."""
        positions = self._array("positions", 2)
        if positions.shape[1] != 2:
            raise self._damaged(("positions",), f"its shape is {positions.shape}")
        return positions

    @property
    @reads("scan_shape")
    def scan_shape(self) -> tuple[int, int]:
        """(scan_y, scan_x) of the scan."""
        scan_y, scan_x = self._stored("scan_shape")
        return int(scan_y), int(scan_x)

    @property
    @reads("history")
    def history(self) -> signals.Signal1D:
        """Error by iteration, the start included. All curves: ``metadata.Ptychography.history``."""
        error = np.atleast_1d(np.array(self._stored("history").get("error", []), dtype=float))
        axis = {"name": "iteration", "size": len(error), "scale": 1.0, "offset": 0.0}
        metadata = {"General": {"title": "Error by iteration"}, "Signal": {"quantity": "error"}}
        return signals.Signal1D(error, axes=[{**axis, "navigate": False}], metadata=metadata)

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters of the reconstruction, a copy."""
        return self._plain("parameters", dict)

    @property
    @reads("recording")
    def recording(self) -> dict[str, Any]:
        """What was said of how the data were taken, such as a ``detector_mask``; a copy.

        With it and `parameters` a reconstruction is repeated:
        ``s.reconstruct_ptycho(**obj.parameters, **obj.recording)``.
        """
        if not self.metadata.has_item("Ptychography.recording"):
            return {}
        said = self._of_kind("recording", self._stored("recording"), dict)
        unknown = [name for name in said if name not in RECORDING]
        if unknown:
            raise self._damaged(("recording",), f"it holds {unknown}")
        out = {name: np.array(value) for name, value in said.items()}
        return {name: value if value.ndim > 1 else value.tolist() for name, value in out.items()}

    @property
    @reads("geometry")
    def geometry(self) -> Geometry:
        """Calibration the reconstruction used."""
        from hs_autoptycho.calibration import Geometry

        return Geometry.from_dict(self._plain("geometry", dict))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data the object was reconstructed from."""
        return str(self._stored("fingerprint"))

    def _tuning(self) -> dict[str, Any]:
        if not self.metadata.has_item("Ptychography.tuning"):
            raise MissingError(
                "this object has no metadata.Ptychography.tuning: it was reconstructed with given "
                "parameters and not tuned; its parameters are in .parameters, and "
                "signal.autotune_ptycho() tunes them"
            )
        return self._of_kind("tuning", self._stored("tuning"), dict)

    @property
    @reads("tuning.trials_json")
    def trials(self) -> list[dict[str, Any]]:
        """Every trial of the tuning, in order: a new list of dictionaries."""
        trials = json.loads(self._tuning().get("trials_json") or "[]")
        if not all(isinstance(trial, dict) for trial in trials):
            raise self._damaged(("tuning.trials_json",), "a trial is a dictionary")
        return trials

    @property
    @reads("tuning")
    def best_parameters(self) -> dict[str, Any]:
        """The tuned parameters alone, with their best values."""
        tuning = self._tuning()
        best = tuning.get("best_trial")
        chosen = next((t["parameters"] for t in self.trials if t.get("number") == best), {})
        used = {**self.parameters, **chosen}
        return {name: used[name] for name in to_plain(tuning["parameters"]) if name in used}

    @reads("tuning.answers_json")
    def _answers(self) -> dict[str, Any]:
        answers = json.loads(self._tuning().get("answers_json") or "{}") or {}
        return self._of_kind("tuning.answers_json", answers, dict)

    @property
    @reads("tuning.answers_json")
    def parameter_intervals(self) -> dict[str, Any]:
        """How well each tuned parameter is known.

        ``(low, high)``, which holds the best value with a probability of 68 %, or, where there are
        choices, a dictionary of their probabilities. Empty if the trials were too few.
        """
        return {
            name: dict(zip(interval["choices"], interval["probabilities"], strict=True))
            if "choices" in interval
            else (interval["low"], interval["high"])
            for name, interval in self._answers().get("intervals", {}).items()
        }

    @property
    def parameter_importance(self) -> dict[str, dict[str, float]]:
        """What each tuned parameter matters: shares of the objective's variation.

        ``first`` and ``total`` over the searched space: by the parameter alone, and together with
        others. ``local_first`` and ``local_total``: the same within a tenth of each range about
        the best, where the first ones tell only what ruins a reconstruction.
        """
        return self._answers().get("importance", {})

    @property
    @reads("tuning.answers_json")
    def tuning_notes(self) -> list[str]:
        """What to doubt in the tuned parameters, a sentence each."""
        answers = self._answers()
        return [*answers.get("warnings", []), *answers.get("flat_directions", [])]
