"""What to ask of the next scan, what it would gain, and when it is not worth it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from hs_autoptycho.inline.offsets import Value
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError

# A setting is at its target within so many standard errors.
_CERTAIN = 2.0
# What is taken for the scatter of scores where the scans are too few to tell: this part of them,
# with the weight of so many scans.
_SCATTER, _SCATTER_SCANS = 0.01, 2.0
# Parameters of the settings that are measured, so that the difference to the target can be known.
MEASURED = ("scan_rotation", "defocus", "C12a", "C12b")


@dataclass(frozen=True)
class Proposal:
    """Settings of the next acquisition.

    Attributes
    ----------
    settings : dict
        What to ask the instrument for; degrees and Å.
    corrections : dict
        Name to by how much what is asked for changes from the last scan to the next.
    uncertainties : dict
        Name to the standard error with which the target will be met: that of the measured offset,
        and the drift from scan to scan.
    gain : float
        By how much the score is expected to fall; NaN as long as the scans cannot tell.
    gain_error : float
        Standard error of the gain; infinite as long as the scans cannot tell.
    notes : tuple of str
        What a user should know, a sentence each.
    """

    settings: dict[str, Any]
    corrections: dict[str, float] = field(default_factory=dict)
    uncertainties: dict[str, float] = field(default_factory=dict)
    gain: float = math.nan
    gain_error: float = math.inf
    notes: tuple[str, ...] = ()

    @property
    def significant(self) -> list[str]:
        """Names of the corrections that are larger than twice their uncertainty."""
        return [
            name
            for name, change in self.corrections.items()
            if abs(change) > _CERTAIN * self.uncertainties.get(name, 0.0)
        ]

    def __str__(self) -> str:
        lines = ["Settings of the next scan"]
        for name, value in self.settings.items():
            unit = PARAMETERS[name].unit if name in PARAMETERS else ""
            text = f"{value:.6g}" if isinstance(value, float) else f"{value}"
            change = self.corrections.get(name)
            by = "" if change is None else f"  ({change:+.3g} ± {self.uncertainties[name]:.2g})"
            lines.append(f"  {name:<18}{text} {unit}{by}")
        known = math.isfinite(self.gain)
        gain = f"{self.gain:.3g} ± {self.gain_error:.2g}" if known else "not known yet"
        return "\n".join([*lines, f"  expected gain     {gain}", *(f"  - {n}" for n in self.notes)])


def read_target(target: Any) -> dict[str, Any]:
    """The settings that are wanted, from a dictionary or the result of a design study.

    Raises
    ------
    ParameterError
        If there are settings for several doses, or none.
    """
    settings = getattr(target, "best_parameters", target)
    if isinstance(settings, (list, tuple)) and settings:
        if len(settings) > 1:
            raise ParameterError(
                f"The target has settings for {len(settings)} doses: choose one, "
                "`target=design.best_parameters[0]`."
            )
        settings = settings[0]
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ParameterError(
            "target: a dictionary of settings is needed, such as "
            f'{{"defocus": 300, "scan_step": 0.8}}, or a design study, not {target!r}.'
        )
    for name in MEASURED:
        value = settings.get(name, 0)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ParameterError(f"target: {name}={value!r} is not a number.")
    return dict(settings)


def read_limits(
    limits: Mapping[str, Any] | None, target: Mapping[str, Any] | None = None
) -> dict[str, tuple[float, float]]:
    """Checked limits of settings, name to (low, high)."""
    out = {}
    for name, pair in (limits or {}).items():
        if name not in PARAMETERS and name not in (target or {}):
            raise ParameterError(f"limits: there is no setting {name!r}.")
        try:
            low, high = (float(v) for v in pair)
        except (TypeError, ValueError):
            low, high = 1.0, 0.0
        if not low <= high:
            raise ParameterError(f"limits: {name}={pair!r} is not (low, high).")
        out[name] = low, high
    return out


def next_settings(
    target: Mapping[str, Any],
    asked: Mapping[str, Any],
    offsets: Mapping[str, Value],
    limits: Mapping[str, tuple[float, float]],
) -> Proposal:
    """What to ask for so that the instrument does what is wanted.

    Parameters
    ----------
    target
        What is wanted.
    asked
        What was asked for last; empty before the first scan.
    offsets
        Actual less asked-for value, as expected of the next scan.
    limits
        Of the instrument.

    Returns
    -------
    Proposal
        Without a gain.
    """
    settings, corrections, errors, notes = {**asked, **target}, {}, {}, []
    for name, wanted in target.items():
        if name in offsets:
            settings[name] = wanted - offsets[name].value
            errors[name] = offsets[name].error
            if name == "scan_rotation":
                settings[name] = wrapped(settings[name])
        if name in limits:
            low, high = limits[name]
            if name == "scan_rotation":
                turns = (settings[name] + turn for turn in (0, 360, -360))
                settings[name] = next((v for v in turns if low <= v <= high), settings[name])
            if not low <= settings[name] <= high:
                notes.append(
                    f"{name} would have to be {settings[name]:.4g}, beyond the instrument's limits "
                    f"of {low:g} to {high:g}: the nearest is proposed."
                )
                nearest = min(max(settings[name], low), high)
                if name == "scan_rotation":
                    nearest = min(
                        low, high, key=lambda v: abs(wrapped(v - settings["scan_rotation"]))
                    )
                settings[name] = nearest
        if isinstance(asked.get(name), Real):
            change = settings[name] - asked[name]
            corrections[name] = wrapped(change) if name == "scan_rotation" else float(change)
            errors.setdefault(name, 0.0)
    return Proposal(settings, corrections, errors, notes=tuple(notes))


def distance(
    actual: Mapping[str, Value], target: Mapping[str, Any], scales: Mapping[str, float]
) -> Value:
    """Squared distance from the target in units of `scales`, with its standard error."""
    total, variance = 0.0, 0.0
    for name in target:
        if name not in actual or name not in scales:
            continue
        away = actual[name].value - target[name]
        away = (wrapped(away) if name == "scan_rotation" else away) / scales[name]
        error = actual[name].error / scales[name]
        total += away**2
        variance += 4 * away**2 * error**2 + 2 * error**4
    return Value(total, math.sqrt(variance))


def expected_gain(
    distances: Sequence[Value], scores: Sequence[float], then: Value
) -> tuple[float, float]:
    """By how much the score will fall, from a straight line through scores and squared distances.

    Near its optimum a score is a parabola of the settings, so that it is linear in the square of
    the distance to it.

    Parameters
    ----------
    distances
        Squared distances of the scans from the target, in their order.
    scores
        Lower is better.
    then
        That of the next scan.

    Returns
    -------
    gain, standard_error : float
        NaN and infinity for fewer than two scans, or none that differ in their distance.
    """
    x, y = np.array([d.value for d in distances]), np.array(scores, float)
    n = len(x)
    spread = float(((x - x.mean()) ** 2).sum()) if n > 1 else 0.0
    if spread == 0.0:
        return math.nan, math.inf
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    rest = y - y.mean() - slope * (x - x.mean())
    scatter = float(rest @ rest) + _SCATTER_SCANS * (_SCATTER * float(np.abs(y).mean())) ** 2
    variance = scatter / (n - 2 + _SCATTER_SCANS) / spread
    fall = distances[-1].value - then.value
    error = math.sqrt(
        variance * fall**2 + (slope**2 + variance) * (distances[-1].error ** 2 + then.error**2)
    )
    return slope * fall, error


def reason_to_stop(proposal: Proposal, score: float | None, smallest_gain: float) -> str | None:
    """Why another scan is not worth it; None if it is.

    Parameters
    ----------
    proposal
        For the next scan.
    score
        Of the last one.
    smallest_gain
        A gain below this part of the score is not worth a scan.
    """
    if not proposal.corrections:
        return None
    if proposal.notes and not proposal.significant:
        return f"The instrument cannot come closer to the target. {proposal.notes[0]}"
    known = math.isfinite(proposal.gain)
    if known and score is not None:
        most = proposal.gain + proposal.gain_error
        if most < smallest_gain * abs(score):
            return (
                f"The expected gain, {proposal.gain:.2g} ± {proposal.gain_error:.1g}, is below "
                f"{100 * smallest_gain:g} % of the score, {score:.4g}."
            )
    if proposal.significant:
        return None
    if known and proposal.gain < proposal.gain_error:
        return (
            f"The expected gain, {proposal.gain:.2g}, is below its uncertainty, "
            f"{proposal.gain_error:.2g}, and all settings are at the target within theirs."
        )
    measured = [name for name in proposal.corrections if proposal.uncertainties[name] > 0]
    if measured and not known:
        return (
            "All settings are at the target within their uncertainty "
            f"({', '.join(f'{n} {proposal.uncertainties[n]:.2g}' for n in measured)})."
        )
    return None


def wrapped(angle: float) -> float:
    """An angle from −180 to 180 degrees."""
    return float((angle + 180) % 360 - 180)
