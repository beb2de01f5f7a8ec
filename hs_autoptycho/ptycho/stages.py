"""From parameters to the solver's settings, and from coarse patterns to fine ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hs_autoptycho.ptycho.corrections import Starts
from hs_autoptycho.ptycho.parameters import CORRECTIONS, ParameterError
from hs_autoptycho.ptycho.positions import place
from hs_autoptycho.ptycho.resampling import refine_object, resample_waves
from hs_autoptycho.ptycho.settings import Regularization, Settings
from hs_autoptycho.ptycho.solver import Reconstruction, State, reconstruct

if TYPE_CHECKING:
    from hs_autoptycho.ptycho.experiment import Experiment

# A probe that is refined pixel by pixel adapts to a wrong defocus or thickness, and then they can
# hardly be told from it: it is held for so many passes after their correction began.
HELD_WHILE_CORRECTING = 36

# arguments of `reconstruct` that are called after every pass
CALLED = ("callback", "monitor")


def default_probe_start(values: Mapping[str, Any]) -> int:
    """Passes before the probe is refined, where nobody gave a number."""
    starts = [values[f"{name}_correction_start"] for name in ("defocus", "thickness")]
    starts = [start for start in starts if start is not None]
    return max(starts) + HELD_WHILE_CORRECTING if starts else 0


def check_together(values: Mapping[str, Any], *, counted: bool) -> None:
    """Raise a ParameterError for parameters that do not fit each other."""
    if values["n_slices"] > 1 and values["thickness"] is None:
        raise ParameterError(
            f"n_slices={values['n_slices']} needs the specimen's thickness in Å: thickness=200."
        )
    several = [f"{name}_correction_start" for name in ("thickness", "tilt")]
    off = {**dict.fromkeys(several), "regularization_depth": 0.0}  # a start of 0 is one
    for name, value in off.items():
        if values["n_slices"] == 1 and values[name] != value:
            raise ParameterError(f"{name} has a meaning for several slices only: give n_slices.")
    if values["early_stopping"] is not None and not counted:
        raise ParameterError(
            "early_stopping holds counts out, but the data are not whole numbers: convert them to "
            "counts, or choose n_iterations."
        )


def make_settings(values: Mapping[str, Any]) -> Settings:
    """The solver's settings from all parameters."""
    names = (
        "algorithm", "noise_model", "batch_size", "batch_selection", "step_object", "step_probe",
        "probe_start", "momentum", "object_type", "n_variable_modes",
    )  # fmt: skip
    starts = [values[f"{name}_correction_start"] for name in CORRECTIONS]
    return Settings(
        **{name: values[name] for name in names},
        starts=Starts(*starts),
        regularization=Regularization(
            depth=values["regularization_depth"],
            positivity=values["regularization_positivity"],
            total_variation=values["regularization_tv"],
            bandwidth=values["regularization_bandwidth"],
            probe_support=values["regularization_probe_support"],
        ),
        patience=values["early_stopping"],
    )


def fit_coarse_to_fine(
    experiment: Experiment,
    values: Mapping[str, Any],
    settings: Settings,
    shape: tuple[int, int],
    n_iterations: int,
    common: Mapping[str, Any],
) -> tuple[Reconstruction, State]:
    """First the central part of the patterns, then all of them from what came out.

    Parameters
    ----------
    experiment
        What to reconstruct.
    values
        All parameters.
    settings
        Made of them; corrections and regularisation go on in the second stage.
    shape
        Of the central part, (rows, columns), after the detector's flip.
    n_iterations
        Of both stages.
    common
        Further arguments of :func:`.solver.reconstruct`.
    """
    flip, first = values["detector_flip"], min(values["coarse_iterations"], n_iterations)
    fine_placement, fine_modes = experiment.start(values)
    window = fine_modes.shape[1:]
    placement, modes = experiment.start(values, shape)
    coarse, state = reconstruct(
        experiment.cropped_patterns(flip, shape), placement, modes,
        n_iterations=first, model=experiment.model(values, shape),
        settings=replace(settings, patience=None), **common,
    )  # fmt: skip
    factor = np.array(window) / np.array(shape)
    positions = (state.positions - coarse.placement.origin) * factor
    # the positions may have been corrected
    fine_placement = place(positions, window) if state.own else fine_placement
    object_ = refine_object(coarse.object, coarse.placement, fine_placement, tuple(factor))
    found = {name: value for name, value in coarse.corrected.items() if name in values}
    factor_found = coarse.corrected.get("thickness_factor", 1.0)
    if values["n_slices"] > 1:
        found["thickness"] = values["thickness"] * factor_found
    model = experiment.model({**values, **found})
    common = {**common, **{name: _later_passes(common.get(name), first) for name in CALLED}}
    if coarse.status != "completed":
        n_iterations = first
    result, state = reconstruct(
        experiment.patterns(flip), fine_placement, resample_waves(coarse.probe, window),
        n_iterations=n_iterations - first, model=model, start_object=object_,
        settings=_later(settings, first), **common,
    )  # fmt: skip
    if "thickness_factor" in result.corrected:  # of the thickness as it was given
        result.corrected["thickness_factor"] *= factor_found
        later = result.history.get("thickness_factor", [])
        result.history["thickness_factor"] = [value * factor_found for value in later]
    result.errors = np.concatenate([coarse.errors, result.errors])
    result.history = _joined(coarse.history, result.history, len(coarse.errors))
    if coarse.status != "completed":
        result.status = coarse.status
    result.grid = result.grid @ _in_pixels(coarse.grid, factor)
    return result, state


def _later_passes(function: Callable | None, passes: int) -> Callable | None:
    """What is called after every pass, with the passes counted from the first stage's first."""
    if function is None:
        return None
    return lambda iteration, seen: function(iteration + passes, seen)


def _later(settings: Settings, passes: int) -> Settings:
    """The settings for a run that goes on after so many passes."""

    def shifted(start):
        return None if start is None else max(0, start - passes)

    starts = Starts(*(shifted(getattr(settings.starts, f)) for f in Starts.__annotations__))
    return replace(settings, starts=starts, probe_start=max(0, settings.probe_start - passes))


def _in_pixels(matrix: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """A distortion in coarse pixels as one in fine pixels."""
    return np.diag(factor) @ matrix @ np.diag(1 / factor)


def _joined(first: dict, second: dict, n_first: int) -> dict[str, list[float]]:
    """Histories of two stages; a number that the first one has not is NaN there."""
    out = {}
    for name in {**first, **second}:
        before = first.get(name, [float("nan")] * n_first)
        out[name] = [*before, *second.get(name, [])]
    return out
