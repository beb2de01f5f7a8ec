"""Which parameters have to do with each other: conditions, and pairs that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """What another parameter has to be for one to matter.

    Attributes
    ----------
    name : str
        The other parameter.
    above : float
        It has to be larger than this; None where there is no such limit.
    among : tuple of str
        It has to be one of these; empty where any will do.
    """

    name: str
    above: float | None = None
    among: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value of the other parameter fulfils it."""
        if self.above is not None:
            return value > self.above
        return value in self.among

    def __str__(self) -> str:
        if self.above is not None:
            return f"{self.name} > {self.above:g}"
        return f"{self.name} = {' or '.join(self.among)}"


SLICES = Condition("n_slices", above=1)
_MODES = Condition("n_probe_modes", above=1)
_BATCHES = Condition("algorithm", among=("lsq-ml", "epie", "rpie"))

# parameters that have no effect, or are refused, unless another one has certain values
CONDITIONS = {
    "thickness": SLICES,
    "tilt_x": SLICES,
    "tilt_y": SLICES,
    "regularization_depth": SLICES,
    "thickness_correction_start": SLICES,
    "tilt_correction_start": SLICES,
    "source_size": _MODES,
    "focal_spread": _MODES,
    "convergence_angle": Condition("aperture", among=("disk",)),
    "batch_size": _BATCHES,
    "batch_selection": _BATCHES,
    "momentum": Condition("algorithm", among=("lsq-ml",)),
}

# Pairs whose effects on the data or the search are nearly the same, with the reason: the sums of
# their changes are found, the single values hardly. The second one is held unless it is asked for.
_GRID = "a scan that is larger by some factor, with a defocus larger by it, gives nearly the same"
_STEP = "what counts is mostly the step's length divided by the number of positions that share it"
_COMA = "both displace the beams of a cone against each other"
DEGENERATE_PAIRS = (
    ("scan_step", "scan_scale", "only their product is measured"),
    ("defocus", "scan_scale", _GRID),
    ("defocus", "scan_step", _GRID),
    ("C12a", "scan_aspect", "a grid stretched along an axis acts as astigmatism does"),
    ("C12b", "scan_shear", "a sheared grid acts as astigmatism does"),
    ("C21a", "tilt_x", _COMA),
    ("C21b", "tilt_y", _COMA),
    ("defocus", "C30", "over the aperture a spherical aberration is for the most part a defocus"),
    ("source_size", "focal_spread", "both make the beam less coherent"),
    ("step_object", "batch_size", _STEP),
    ("step_object", "momentum", "momentum makes a step longer over several batches"),
)
