"""What a design says at its end: reconstructions of best and reference, and what to doubt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hs_autoptycho.design.instrument import Instrument
from hs_autoptycho.design.search import DesignStrategy, excluded
from hs_autoptycho.design.trial import SimulatedExperiment
from hs_autoptycho.tuning.trial import Trial

_logger = logging.getLogger(__name__)

# a score that changes by more with twice the passes was not settled
_SETTLED = 0.01
# the compared area should get this part of the dose
_DELIVERED = 0.95
# radians that phases may cover before some can be taken for 2π less
_WRAPS = 4.5
# radii and azimuths of the points that stand for a probe
_RADII, _AZIMUTHS = 40, 64


def final_images(
    objective: SimulatedExperiment,
    plan: DesignStrategy,
    doses: Sequence[float],
    trials: Sequence[Trial],
    *,
    check: bool,
) -> tuple[np.ndarray, list[str], bool]:
    """Reconstructions of best and reference: the first repeats, made once more.

    One that fails is NaN, with a note; Ctrl-C leaves out those that are not made yet.

    Parameters
    ----------
    objective, plan, trials
        Of the search.
    doses
        At which there is a best trial.
    check
        Whether to go on for as many passes again, to see whether scores had settled.

    Returns
    -------
    float32 array (doses, 2, Y, X), list of str, bool
        Phases in rad; notes; whether it was interrupted.
    """
    images = np.full((len(doses), 2, *objective.image_shape), np.nan, np.float32)
    notes: list[str] = []
    passes = plan.full.n_iterations
    for i, j, name, dose, settings in _wanted(plan, doses, trials):
        repeats = plan.repeats(settings, dose, trials)
        seed = repeats[0].seed if repeats else plan.random_state
        try:
            outcome = objective.run(
                settings, dose, n_iterations=passes, random_state=seed, twice=check
            )
        except KeyboardInterrupt:
            return images, [*notes, _INTERRUPTED], True
        except Exception as error:  # the search is worth more than one of its pictures
            text = f"{type(error).__name__}: {error}"
            notes.append(f"At {dose:g} e/Å² the {name} settings have no picture: {text}.")
            _logger.warning(notes[-1])
            continue
        images[i, j] = outcome.phase
        if outcome.reconstruction.status == "interrupted":  # the solver catches Ctrl-C
            return images, [*notes, _INTERRUPTED], True
        before, after = (s.get(objective.score) for s in (outcome.scores, outcome.later))
        if before is None or after is None or abs(after - before) <= _SETTLED:
            continue
        why = "too few to compare settings" if after > before else "enough: more fit noise"
        notes.append(
            f"At {dose:g} e/Å² twice the passes change the {objective.score} of the {name} "
            f"settings from {before:.3f} to {after:.3f}: n_iterations={passes} is {why}."
        )
    return images, notes, False


_INTERRUPTED = "Interrupted: some reconstructions were not made."


def _wanted(plan, doses, trials) -> Iterator[tuple[int, int, str, float, Mapping[str, float]]]:
    for i, dose in enumerate(doses):
        yield i, 0, "best", dose, plan.best_at(dose, trials).parameters
        if plan.reference is not None:
            yield i, 1, "reference", dose, plan.reference


def notes_before(objective: SimulatedExperiment, plan: DesignStrategy) -> list[str]:
    """What is known before the search: limits that narrow the ranges, phases that may wrap."""
    notes = []
    for dose in plan.doses:
        parts = excluded(plan.dimensions, plan.held, plan.instrument, dose)
        if parts:
            text = ", ".join(f"{part:.0%} {kind}" for kind, part in parts.items())
            notes.append(f"At {dose:g} e/Å² parts of the ranges are impossible: {text}.")
    span = float(np.ptp(objective.truth))
    if span > _WRAPS:
        notes.append(
            f"The true phase covers {span:.1f} rad. Phases are known but for multiples of 2π, and "
            "some may be compared with wrong ones: reconstruct several slices (n_slices)."
        )
    return notes


def lost_doses(doses: Sequence[float], reached: Sequence[float], trials: Sequence[Trial]):
    """A sentence on each dose of which no trial gave a score."""
    notes = []
    for dose in doses:
        some = [t for t in trials if t.parameters["dose"] == dose]
        if dose in reached or not some:
            continue
        reason = next((t.message for t in reversed(some) if t.message), "no message")
        notes.append(
            f"At {dose:g} e/Å² none of {len(some)} trials gave a score, and the dose is left out. "
            f"The last reason: {reason}."
        )
    return notes


def thin_doses(
    plan: DesignStrategy, doses: Sequence[float], trials: Sequence[Trial], margin: float
) -> list[str]:
    """A sentence on settings of which the compared area gets clearly less than the dose."""
    notes = []
    for i, _, name, dose, settings in _wanted(plan, doses, trials):
        part = delivered(plan.instrument, settings, margin)
        if part >= _DELIVERED or (name == "reference" and i > 0):  # the same at all doses
            continue
        where = f"At {dose:g} e/Å² the" if name == "best" else "The"
        notes.append(
            f"{where} {name} settings give the compared area {part:.0%} of the dose: their wide "
            "probe spreads the rest beyond the rim of the field. A larger field_of_view helps."
        )
    return notes


def delivered(instrument: Instrument, settings: Mapping[str, float], margin: float) -> float:
    """Mean dose in the compared area, as a part of the nominal one.

    Of a scan with uniform disks as wide as defocus and convergence angle make the probe.

    Parameters
    ----------
    instrument
        Its field of view is scanned.
    settings
        ``scan_step`` (Å), ``defocus`` (Å) and ``convergence_angle`` (mrad).
    margin
        What the compared area leaves out along the edges of the field of view, in Å.
    """
    step = settings["scan_step"]
    radius = abs(settings["defocus"]) * settings["convergence_angle"] * 1e-3
    radii = radius * np.sqrt((np.arange(_RADII) + 0.5) / _RADII)  # of rings of the same area
    azimuths = 2 * np.pi * (np.arange(_AZIMUTHS) + 0.5) / _AZIMUTHS
    part = np.ones((_RADII, _AZIMUTHS))
    for n, size, waves in zip(
        instrument.scan_shape(step), instrument.field_of_view, (np.sin, np.cos), strict=True
    ):
        # of the area, moved by a point of the disk, what lies in the scanned field
        area, scanned = size - 2 * margin, n * step
        overlap = (area + scanned) / 2 - np.abs(radii[:, None] * waves(azimuths))
        part *= np.clip(overlap, 0, min(area, scanned)) / area
    return float(part.mean())
