"""How an object is reconstructed: everything that is no property of the measurement."""

from __future__ import annotations

from dataclasses import dataclass, field

from hs_autoptycho.ptycho.corrections import Starts

ALGORITHMS = ("lsq-ml", "gradient", "epie", "rpie")
NOISE_MODELS = ("amplitude", "poisson")
BATCH_SELECTIONS = ("sparse", "compact")
OBJECT_TYPES = ("complex", "phase")


@dataclass(frozen=True)
class Regularization:
    """Constraints that are applied after every pass; 0 switches each of them off.

    Attributes
    ----------
    depth : float
        β of the depth filter of several slices (:func:`.constraints.depth_filter`).
    positivity : float
        0 to 1: strength of the constraint on phases below vacuum's.
    total_variation : float
        Weight of the total variation.
    bandwidth : float
        Largest spatial frequency of the object in 1/Å.
    probe_support : float
        Radius of the probe as a fraction of half its window.
    """

    depth: float = 0.0
    positivity: float = 0.0
    total_variation: float = 0.0
    bandwidth: float = 0.0
    probe_support: float = 0.0


@dataclass(frozen=True)
class Settings:
    """Of :func:`~hs_autoptycho.ptycho.solver.reconstruct`.

    Attributes
    ----------
    algorithm : str
        ``"lsq-ml"``, ``"gradient"``, ``"epie"`` or ``"rpie"``; see :mod:`.updates`.
    noise_model : str
        ``"amplitude"`` or ``"poisson"``.
    batch_size : int or None
        Positions a batch; by default from the number of positions, 1 for ``"epie"`` and ``"rpie"``.
    batch_selection : str
        ``"sparse"``: positions from all over the scan. ``"compact"``: neighbours.
    step_object, step_probe : float
        Multiples of the step that the line search finds, or β (``"epie"``, ``"rpie"``). With
        ``step_probe=0`` the probe is held.
    probe_start : int
        Passes before the probe is refined.
    momentum : float
        Part of the last step that is taken again, 0 to below 1 (``"lsq-ml"``).
    object_type : str
        ``"complex"``, or ``"phase"``: of modulus 1.
    n_variable_modes : int
        Modes by which the probe differs from position to position.
    starts : Starts
        Passes before each correction begins.
    regularization : Regularization
    patience : int or None
        Stop when counts that were held out have not been predicted better for so many passes.
    """

    algorithm: str = "lsq-ml"
    noise_model: str = "amplitude"
    batch_size: int | None = None
    batch_selection: str = "sparse"
    step_object: float = 1.0
    step_probe: float = 1.0
    probe_start: int = 0
    momentum: float = 0.0
    object_type: str = "complex"
    n_variable_modes: int = 0
    starts: Starts = field(default_factory=Starts)
    regularization: Regularization = field(default_factory=Regularization)
    patience: int | None = None
