"""Detector flip, scan rotation, defocus and astigmatism of a scan, without a reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hs_autoptycho.ptycho.center_of_mass import CurlFree, mass_centers, rotation_without_curl
from hs_autoptycho.ptycho.experiment import Experiment
from hs_autoptycho.ptycho.geometry_search import (
    Candidate,
    candidates,
    jackknife,
    refine_with_windows,
    stands_out,
    strongest_explained,
)
from hs_autoptycho.ptycho.parts import scan_window
from hs_autoptycho.ptycho.patterns import DETECTOR_FLIPS
from hs_autoptycho.ptycho.sidebands import MOST_IMAGES, Stack, bright_field_stack

# Differences of less than so many standard errors tell nothing
_SIGNIFICANT = 3.0
# Merits that differ by less than so many standard deviations of chance, or are at least this part
# of the best one, are as good: what the model leaves out is no chance
_MERITS, _AS_GOOD = 5.0, 0.85
# What displaces no image by more than this part of the scan can be told
_FARTHEST = 0.6
# Rotations of candidates that differ by more are no rotation, and a larger standard error neither;
# degrees
_LARGEST_ROTATION_ERROR = 20.0
# A larger part of curl in the field of centres of mass, or a larger standard error in degrees, and
# its rotation is not used
_LARGEST_CURL, _LARGEST_CURL_ERROR = 0.3, 5.0
# Errors of the model itself, measured on simulated scans: of strong objects relative to the
# defocus, and relative to the depth of focus λ/α²
_SYSTEMATIC, _SYSTEMATIC_DEPTH = 0.003, 0.01
# Where a geometry explains less of the strongest frequencies, they may be others' that were folded
# over; right ones explain 0.39 to 0.88 on simulated scans and a real one, wrong ones up to 0.31
_EXPLAINS_ENOUGH = 0.5
# Passes over stored patterns, of the part that is looked at
GEOMETRY_PASSES = 2
# Positions that are looked at, at most: 500 bright-field images of so many have 0.3 GB
_POSITIONS = 2**17
# Arrays as large as the bright-field images, while these are transformed
_COPIES = 5
_VALUES = ("scan_rotation", "defocus", "C12a", "C12b")


@dataclass(frozen=True)
class GeometryEstimate:
    """What a scan tells of its own geometry; None where it does not.

    Errors are standard errors, 0 for values that were given. All values belong together, and to
    `detector_flip`.
    """

    scan_rotation: float | None = None
    """Degrees, from −180 to 180."""
    scan_rotation_error: float | None = None
    """Degrees."""
    defocus: float | None = None
    """Å, underfocus positive."""
    defocus_error: float | None = None
    """Å."""
    C12a: float | None = None
    """Å."""
    C12a_error: float | None = None
    """Å."""
    C12b: float | None = None
    """Å."""
    C12b_error: float | None = None
    """Å."""
    detector_flip: str | None = None
    """Where none was given ``"none"`` or ``"transpose"``, as the others are these, rotated."""
    residual: float | None = None
    """Median displacement of bright-field images that is not explained, in scan pixels."""
    alternatives: tuple[dict[str, Any], ...] = ()
    """Other values and flips that explain the images as well."""
    notes: tuple[str, ...] = ()
    """What was assumed or could not be told, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types only."""
        values = asdict(self)
        return {
            **values,
            "alternatives": [dict(other) for other in self.alternatives],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = ["Geometry of the scan"]
        for name in _VALUES:
            unit = "degrees" if name == "scan_rotation" else "Å"
            value, error = getattr(self, name), getattr(self, f"{name}_error")
            lines.append(
                f"  {name:<15}{_number(value, error)}{'' if value is None else ' ' + unit}"
            )
        lines.append(f"  {'detector_flip':<15}{self.detector_flip or 'not found'}")
        if self.residual is not None:
            lines.append(f"  {'residual':<15}{self.residual:.2g} scan pixels")
        for other in self.alternatives:
            text = ", ".join(f"{k} {v:.5g}" for k, v in other.items() if k in _VALUES)
            lines.append(f"  or {text} (detector_flip {other['detector_flip']})")
        return "\n".join([*lines, *(f"  - {note}" for note in self.notes)])

    __repr__ = __str__


def _number(value, error) -> str:
    if value is None:
        return "not found"
    if not error:
        return f"{value:.6g} (given)"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


#: How often :func:`estimate` reports its progress, at most.
STEPS = 5


def estimate(
    experiment: Experiment,
    *,
    held: Mapping[str, Any] | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> GeometryEstimate:
    """Estimate the geometry of a scan from its bright-field images and centres of mass.

    A rotation of the detector by 90° is the same as one of the scan, so that of its eight
    orientations only two classes can be told apart, mirrored and not: the flip is ``"none"`` or
    ``"transpose"``, and the rotation is the one that goes with it.

    Images and centres of mass are the same for the conjugate object with the opposite defocus and
    astigmatism, the scan turned by 180°. Underfocus is taken, unless the sign is known.

    Parameters
    ----------
    experiment
        The data; of a scan of more than 131,072 positions its centre is used. Of its geometry the
        sign of the defocus is used, its rotation is not.
    held
        Parameters that are known, as for a reconstruction: scan_rotation, defocus, C12a, C12b and
        detector_flip are taken as they are, and so are the lengths and the energy. Others are
        ignored.
    progress
        Called after each step, `STEPS` times at most.
    """
    held = dict(held or {})
    experiment = experiment.part_of_scan(_part(experiment.geometry.scan_shape))
    lengths = ("beam_energy", "scan_step", "reciprocal_pixel")
    geometry = replace(experiment.geometry, **{k: held[k] for k in lengths if k in held})
    angle = geometry.measured_convergence_angle * 1e-3
    scale = np.array([np.pi / 180, *[angle / geometry.scan_step] * 3])
    known = [
        None if held.get(name) is None else held[name] * s
        for name, s in zip(_VALUES, scale, strict=True)
    ]
    free = np.array([value is None for value in known])
    flips = ("none", "transpose") if held.get("detector_flip") is None else (held["detector_flip"],)
    curls = _curls(experiment, flips)
    progress()
    stack = bright_field_stack(
        experiment.counts,
        geometry.scan_shape,
        center=geometry.disk_center,
        radius=geometry.disk_radius,
        reach=1 / (geometry.scan_step * geometry.disk_radius * geometry.reciprocal_pixel),
        mask=experiment.mask,
        background=experiment.background,
    )
    progress()
    window = 0.5 / geometry.reciprocal_pixel / geometry.scan_step
    farthest = min(window, _FARTHEST * min(geometry.scan_shape))
    stacks = {} if stack is None else {flip: _flipped(stack, flip) for flip in flips}
    found = _all_candidates(stacks, farthest, known, False)
    progress()
    likely = _likely(found, curls)
    spread = _spread(likely)
    coarse = _finer_than_the_scan(stacks, likely, spread, farthest, known)
    progress()
    if coarse:
        # the centres of mass are folded over just as well
        likely, spread, curls = coarse, _spread(coarse), {}
    if not likely or spread[0] > _LARGEST_ROTATION_ERROR:
        return _only_rotation(curls, likely, scale, held)
    best = likely[0]
    images, point = refine_with_windows(stacks[best.flip], best.point, free, folded=best.folded)
    point, covariance = jackknife(images, point, free)
    residual = float(np.median(np.linalg.norm(images.residuals(point), axis=1)))
    progress()
    errors = np.sqrt(np.diag(covariance)) / scale
    depth = geometry.wavelength / angle**2
    floor = np.hypot(_SYSTEMATIC * point[1] / scale[1], _SYSTEMATIC_DEPTH * depth)
    errors[1:] = np.where(free[1:], np.hypot(errors[1:], floor), 0.0)
    errors = np.where(free, np.maximum(errors, np.array(spread) / [1, *scale[1:]]), 0.0)
    stated = geometry.defocus if geometry.defocus and "defocus" not in held else None
    return _report(
        point, errors, residual, best, likely[1:], scale, free, curls.get(best.flip), stated
    )


def _part(scan_shape: tuple[int, int]) -> float:
    """Of a large scan the centre says enough."""
    return min(1.0, _POSITIONS / (scan_shape[0] * scan_shape[1]))


def looked_at(scan_shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a scan that :func:`estimate` looks at."""
    return scan_window(scan_shape, _part(scan_shape))


def images_memory(shape: tuple[int, ...]) -> int:
    """Bytes that :func:`estimate` needs for data of a shape, at most: it depends on the disk."""
    n_positions = min(int(np.prod(shape[:2])), _POSITIONS)
    return _COPIES * 4 * n_positions * min(MOST_IMAGES, int(np.prod(shape[2:])))


def flip_matrix(flip: str) -> np.ndarray:
    """(2, 2) matrix of what `flip_detector` does to (row, column) about the disk's centre."""
    transpose, rows, columns = DETECTOR_FLIPS[flip]
    matrix = np.eye(2)[::-1] if transpose else np.eye(2)
    return np.diag([-1.0 if rows else 1.0, -1.0 if columns else 1.0]) @ matrix


def _flipped(stack: Stack, flip: str) -> Stack:
    return stack.flipped(flip_matrix(flip))


def _curls(experiment: Experiment, flips) -> dict[str, CurlFree]:
    """What the centres of mass say of each flip."""
    geometry = experiment.geometry
    field = mass_centers(experiment.counts, geometry.disk_center, experiment.mask)
    field = field.reshape(*geometry.scan_shape, 2)
    found = {flip: rotation_without_curl(field @ flip_matrix(flip).T) for flip in flips}
    return {flip: curl for flip, curl in found.items() if curl is not None}


def _handedness(curls: Mapping[str, CurlFree]) -> str | None:
    """The flip whose curl is significantly smaller."""
    if len(curls) < 2:
        return None
    one, other = sorted(curls, key=lambda flip: curls[flip].curl.sum())
    return one if _better(curls[other].curl, curls[one].curl) else None


def _better(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a sum over blocks is significantly larger than another one."""
    difference = one - other
    error = np.sqrt(len(difference) * difference.var(ddof=1)) if len(difference) > 1 else np.inf
    return bool(difference.sum() > _SIGNIFICANT * error)


def _curl_is_clear(curl: CurlFree | None) -> bool:
    return curl is not None and curl.curl.sum() < _LARGEST_CURL and curl.error < _LARGEST_CURL_ERROR


def _apart(one: float, other: float) -> float:
    """Difference of two rotations that are the same with 180° added, in degrees."""
    return abs((one - other + 90) % 180 - 90)


def _likely(found: list[Candidate], curls: Mapping[str, CurlFree]) -> list[Candidate]:
    """The best candidate and those that are as good within the noise; none if all is noise."""
    found = sorted(found, key=lambda candidate: -candidate.merit)
    # a strong astigmatism and the other handedness displace the images as defocus does
    found = [c for c in found if not c.astigmatic] or found
    if not found or found[0].merit <= found[0].turned + _MERITS * found[0].noise:
        return []
    best = found[0]
    enough = min(_AS_GOOD * best.merit, best.merit - _MERITS * best.noise)
    likely = [candidate for candidate in found if candidate.merit >= enough]

    def agrees(candidate):
        curl = curls.get(candidate.flip)
        if _handedness(curls) not in (None, candidate.flip):
            return False
        if not _curl_is_clear(curl):
            return True
        tolerance = max(5 * curl.error, _LARGEST_ROTATION_ERROR)
        return _apart(np.degrees(candidate.point[0]), curl.rotation) < tolerance

    # the centres of mass decide between those which the images cannot tell apart
    return [c for c in likely if agrees(c)] or likely


def _all_candidates(stacks: Mapping[str, Stack], farthest, known, folded) -> list[Candidate]:
    """Of all flips."""
    return [
        candidate
        for flip, stack in stacks.items()
        for candidate in candidates(stack, farthest, known, flip, folded)
    ]


def _finer_than_the_scan(stacks, likely, spread, farthest, known) -> list[Candidate]:
    """Geometries with which frequencies are others', if these explain clearly more; else none."""
    explained = 0.0
    # a flip does not change how strong frequencies are
    if not stacks or not stands_out(next(iter(stacks.values()))):
        return []
    if likely and spread[0] <= _LARGEST_ROTATION_ERROR:
        share, explained = strongest_explained(stacks[likely[0].flip], likely[0].point)
        if share > _EXPLAINS_ENOUGH:
            return []
    folded = _likely(_all_candidates(stacks, farthest, known, True), {})
    return folded if folded and explained < _AS_GOOD * folded[0].merit else []


def _spread(likely: list[Candidate]) -> tuple[float, ...]:
    """Largest difference of each value from the best candidate's: degrees, and scan pixels."""
    if len({candidate.flip for candidate in likely}) > 1:
        return (np.inf,) * 4
    out = np.zeros(4)
    for candidate in likely[1:]:
        best, point = likely[0].point, candidate.point
        # the conjugate solution counts as the same
        same = np.cos(point[0] - best[0]) >= 0
        change = np.abs((point if same else -point) - best)
        change[0] = _apart(*np.degrees([point[0], best[0]]))
        out = np.maximum(out, change)
    return tuple(out)


def _values(point, scale, flip) -> dict[str, Any]:
    """A point in degrees and Å."""
    values = np.asarray(point) / scale
    values[0] = (values[0] + 180) % 360 - 180
    return {**dict(zip(_VALUES, values.tolist(), strict=True)), "detector_flip": flip}


def _turned(point: np.ndarray) -> np.ndarray:
    """The point of the conjugate object."""
    return np.array([point[0] + np.pi, *-point[1:]])


def _only_rotation(curls, likely, scale, held) -> GeometryEstimate:
    """Where the images do not move together, or together in several ways."""
    notes = []
    others = [
        _values(c.point if c.point[1] >= 0 else _turned(c.point), scale, c.flip) for c in likely
    ]
    if likely:
        notes.append(
            f"{len(likely)} geometries align the bright-field images equally well: defocus and "
            "astigmatism cannot be told."
        )
    else:
        notes.append(
            "The bright-field images do not show the motion of one specimen: too few counts, too "
            "little structure, or too small a disk for defocus and astigmatism to be told."
        )
    flip = held.get("detector_flip") or _handedness(curls)
    curl = curls.get(flip)
    given = {
        key: value
        for name in _VALUES[1:]
        if held.get(name) is not None
        for key, value in ((name, float(held[name])), (f"{name}_error", 0.0))
    }
    if held.get("scan_rotation") is not None:
        rotation, error = float(held["scan_rotation"]), 0.0
    elif _curl_is_clear(curl):
        rotation, error = curl.rotation, curl.error
        turned = (rotation + 360) % 360 - 180
        others.append({"scan_rotation": turned, "detector_flip": flip})
        notes.append(
            f"The rotation is that of the centres of mass, for which {turned:.1f} degrees fit as "
            "well."
        )
    else:
        rotation = error = None
        notes.append("Nor do the patterns' centres of mass tell the scan rotation.")
    return GeometryEstimate(
        rotation, error, **given, detector_flip=flip, alternatives=tuple(others), notes=tuple(notes)
    )


def _report(point, errors, residual, best, others, scale, free, curl, stated) -> GeometryEstimate:
    """The estimate from a maximum, with what there is to say of it."""
    flip, notes = best.flip, []
    if best.folded:
        notes.append(
            "The scan is coarser than the specimen's detail, which is seen at frequencies that it "
            "does not have: these were found together with the geometry."
        )
    sign_is_known = not free[:2].all()
    others = [_values(candidate.point, scale, candidate.flip) for candidate in others]
    if not sign_is_known and point[1] * (-1 if stated is not None and stated < 0 else 1) < 0:
        point = _turned(point)
    values = _values(point, scale, flip)
    if not sign_is_known:
        turned = _values(_turned(point), scale, flip)
        assumed = (
            "The metadata's sign of the defocus was taken" if stated else "Underfocus was assumed"
        )
        notes.append(
            f"{assumed}: the opposite defocus and astigmatism with a scan rotation of "
            f"{turned['scan_rotation']:.1f} degrees fit as well and give the conjugate object."
        )
        if abs(values["defocus"]) < _SIGNIFICANT * errors[1]:
            others.append(turned)
            notes.append(
                "The probe is in focus within the error: the scan rotation is known but for 180 "
                "degrees."
            )
    if others:
        notes.append("Other geometries align the images as well; the errors are their distance.")
    if _curl_is_clear(curl):
        apart = _apart(values["scan_rotation"], curl.rotation)
        tolerance = _SIGNIFICANT * np.hypot(curl.error, errors[0]) + 2
        agree = "agree" if apart < tolerance else "disagree"
        notes.append(
            f"The centres of mass {agree}: they have no curl with a scan rotation of "
            f"{curl.rotation:.1f} ± {curl.error:.1f} degrees or the opposite one."
        )
    found = {}
    for name, error in zip(_VALUES, errors.tolist(), strict=True):
        largest = _LARGEST_ROTATION_ERROR if name == "scan_rotation" else np.inf
        if error < largest:
            found |= {name: values[name], f"{name}_error": error}
        else:
            notes.append(f"{name} could not be told.")
    return GeometryEstimate(
        **found,
        detector_flip=flip,
        residual=residual,
        alternatives=tuple(others),
        notes=tuple(notes),
    )
