"""From a potential to a designed experiment: the front door of `hs_autoptycho.design`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hs_autoptycho._potential import depth_note, read_potential
from hs_autoptycho._running import check_count, check_running, check_seed, progressbar, versions
from hs_autoptycho.design.final import final_images, lost_doses, notes_before, thin_doses
from hs_autoptycho.design.instrument import Instrument
from hs_autoptycho.design.options import (
    check_possible,
    check_repeats,
    choose,
    default_pixel,
    edge_margin,
    read_doses,
    read_field,
    read_instrument,
    read_reconstruction,
    read_reference,
    read_settings,
)
from hs_autoptycho.design.sample import Specimen
from hs_autoptycho.design.scores import SCORES
from hs_autoptycho.design.search import STRATEGIES, DesignStrategy
from hs_autoptycho.design.simulation import Simulation
from hs_autoptycho.design.trial import SimulatedExperiment
from hs_autoptycho.ptycho.loading import fingerprint
from hs_autoptycho.signals.experiment_design import ExperimentDesign
from hs_autoptycho.tuning.executor import Distributed, Executor, InProcess
from hs_autoptycho.tuning.space import Dimension
from hs_autoptycho.tuning.study import Study
from hs_autoptycho.tuning.trial import Fidelity
from hs_autoptycho.tuning.tuner import Tuning, tune

_logger = logging.getLogger(__name__)

_VERSIONS = ("hs_autoptycho", "hyperspy", "numpy", "scipy", "numba", "scikit-optimize")


def design_experiment(
    potential: Any,
    dose: float | Sequence[float],
    parameters: Mapping[str, Any] | None = None,
    *,
    reference: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
    quantity: str | None = None,
    slice_thickness: float | None = None,
    beam_energy: float = 80.0,
    field_of_view: float | tuple[float, float] | None = None,
    detector_shape: tuple[int, int] = (128, 128),
    reciprocal_pixel: float | None = None,
    source_size: float = 0.0,
    focal_spread: float = 0.0,
    position_jitter: float = 0.0,
    count_limit: int | None = None,
    dwell_time: float | None = None,
    max_scan_time: float | None = None,
    max_data_size: float | None = 1e9,
    score: str = "correlation",
    n_trials: int = 60,
    n_repeats: int = 3,
    strategy: str = "bayesian",
    n_iterations: int = 20,
    reconstruction: Mapping[str, Any] | None = None,
    study: Any = None,
    client: Any = None,
    callback: Callable[[dict[str, Any]], bool | None] | None = None,
    random_state: int = 0,
    show_progressbar: bool | None = None,
) -> ExperimentDesign:
    """Find the settings of the microscope that give the best reconstruction at a dose.

    Every trial simulates a scan of the specimen at the dose (multislice, partial coherence, Poisson
    noise), reconstructs it as a measured one would be, and compares the phase with the true one.
    The total dose is fixed: counts a pattern are ``dose * scan_step**2``, so that a larger step
    means fewer patterns with more electrons each. A Gaussian process proposes the settings [1]_.

    Parameters
    ----------
    potential
        The specimen. A HyperSpy ``Signal2D`` with square pixels in Å or nm, ``(| x, y)``
        projected along the beam, or ``(depth | x, y)`` with the depths of the slices on the
        navigation axis; an abTEM ``Potential``; or an ase ``Atoms``, of which abTEM makes the
        potential, in one slice if `slice_thickness` is not given. The beam goes along z; periodic
        cells have to be repeated to the size that is needed.
    dose
        Electrons per Å², one number or several. Several doses are done from the highest to the
        lowest, and each starts from what the ones before have taught.
    parameters
        What is searched: ``scan_step`` (Å), ``defocus`` (Å, positive for underfocus) and
        ``convergence_angle`` (mrad, semi-angle), each with a range ``(low, high)``,
        ``(low, high, "log")``, or a value at which it is held. Default: steps of 0.4 to 4 Å,
        defocus 0 to 800 Å, 8 to 30 mrad.
    reference
        All three settings of an experiment to compare with, for instance an expert's. It is done
        at each dose; where it lies in the ranges the search begins with it.
    fixed
        Settings that are not searched, and aberrations in Å (``C12a``, …, ``C30``).
    quantity
        ``"phase"`` (rad) or ``"potential"`` (V Å), what the values of the signal are. Default: from
        its ``metadata.Signal.quantity``, which has to name rad or V.
    slice_thickness
        Distance of the slices in Å where the navigation axis has no unit of length, and that of
        the slices that atoms are cut into.
    beam_energy
        In keV. Default: 80.
    field_of_view
        Scanned field in Å, a number or (y, x), in the middle of the potential. Default: all of the
        potential but half a window of the probe on every side. Near the rim there is less than the
        dose, for part of a wide probe falls beyond it: make the field much wider than the probe. A
        note says if best or reference give the compared area less than 95 % of the dose.
    detector_shape
        (k_y, k_x) in pixels, even. Default: (128, 128).
    reciprocal_pixel
        Size of a detector pixel in 1/Å. Its inverse is the window of the probe. Default: so small
        that the widest probe in the ranges fits the window, as far as that leaves pixels of the
        object between 0.125 and 0.25 Å.
    source_size
        Full width at half maximum of the effective source, in Å.
    focal_spread
        Standard deviation of the defocus, in Å.
    position_jitter
        Root mean square displacement of the positions along each axis, in Å, which the
        reconstruction is not told.
    count_limit
        Largest number of counts of a detector pixel in a pattern; higher ones are recorded as it.
    dwell_time, max_scan_time
        Seconds a position, and seconds that a scan may take.
    max_data_size
        Bytes that a scan may have, two a pixel if there is no `count_limit`. Default: 1e9.
    score
        ``"correlation"`` (Pearson's), ``"ssim"`` (structural similarity [2]_) or ``"frc"`` (mean
        Fourier ring correlation), each of the phase with the true one, after a shift and a ramp of
        the phase were taken out. Trials record all three.
    n_trials
        Simulated experiments a dose, the repeats included.
    n_repeats
        How often the best settings and the reference are repeated at the end with new noise.
    strategy
        ``"bayesian"``; ``"random"`` or ``"sobol"`` for comparison.
    n_iterations
        Passes of each reconstruction over a scan of 24 batches; other scans get as many updates.
        With as many passes, scans of few positions would be judged by how fast they converge.
    reconstruction
        Further parameters of `reconstruct_ptycho`, for instance ``{"object_type": "complex"}``.
        Default: a phase object of one slice, with the instrument's partial coherence.
    study
        File in which every trial is written as it ends, a line of JSON each. The same call with
        the same file goes on where it was.
    client
        ``distributed.Client`` of a cluster that runs the trials.
    callback
        Called after every trial with a dictionary of it; the design ends if it returns True.
    random_state
        Seed of everything that is random.
    show_progressbar
        Default: HyperSpy's preference.

    Returns
    -------
    ExperimentDesign
        Expected scores over the ranges by dose, with best settings, trials, repeats of best and
        reference, and their reconstructions.

    Raises
    ------
    DesignError
        If something does not fit; before anything is computed, if no experiment in the ranges is
        possible at one of the doses, or the reference is not: less than an electron a pattern, a
        probe wider than its window, a step that leaves no overlap, more data or time than allowed.
    ParameterError
        For a range or a parameter of the reconstruction that makes no sense, before anything is
        computed.
    StudyError
        If the file is of another design.
    TuningError
        If all trials failed; the message has the last reason.
    TypeError
        For unknown names, and a potential that is no signal, nor one of abTEM's, nor atoms.

    See Also
    --------
    hs_autoptycho.data.twisted_bilayer_mos2_potential : A specimen to try it with.

    Notes
    -----
    What is impossible is left out of the search and costs nothing. The probe counts as so wide as
    the disk of its outermost rays and Airy's disk, added in quadrature, and may be 80 % of the
    window. Ctrl-C ends the search and keeps what there is.

    References
    ----------
    .. [1] M. C. Cao, Z. Chen, Y. Jiang, Y. Han, Sci. Rep. 12, 12284 (2022).
    .. [2] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, IEEE Trans. Image Process. 13, 600
       (2004).

    Examples
    --------
    >>> from hs_autoptycho import data, design_experiment
    >>> potential = data.twisted_bilayer_mos2_potential()
    >>> design = design_experiment(
    ...     potential,
    ...     [1e3, 1e5],
    ...     {"scan_step": (0.5, 4), "defocus": (0, 600), "convergence_angle": (10, 30)},
    ...     reference={"scan_step": 0.85, "defocus": 550, "convergence_angle": 21.4},
    ... )  # doctest: +SKIP
    >>> design.best_parameters  # doctest: +SKIP
    """
    for name, value in (
        ("n_trials", n_trials),
        ("n_repeats", n_repeats),
        ("n_iterations", n_iterations),
    ):
        check_count(name, value)
    random_state = check_seed(random_state)
    doses = read_doses(dose)
    choose("score", score, SCORES)
    choose("strategy", strategy, STRATEGIES)
    dimensions, held, aberrations = read_settings(parameters, fixed)
    reference = read_reference(reference)
    check_repeats(n_repeats, n_trials, reference)
    check_running(callback, client)
    told = read_reconstruction(reconstruction, aberrations)
    common = read_instrument(
        beam_energy=beam_energy,
        detector_shape=detector_shape,
        aberrations=aberrations,
        source_size=source_size,
        focal_spread=focal_spread,
        position_jitter=position_jitter,
        count_limit=count_limit,
        dwell_time=dwell_time,
        max_scan_time=max_scan_time,
        max_data_size=max_data_size,
    )
    specimen = read_potential(
        potential, common["beam_energy"], quantity=quantity, slice_thickness=slice_thickness
    )
    settings = Settings(dimensions, held, reference)
    instrument, notes = _instrument(common, specimen, settings, reciprocal_pixel, field_of_view)
    check_possible(instrument, doses, dimensions, held, reference)
    objective = SimulatedExperiment(
        Simulation(specimen, instrument),
        score,
        told,
        edge_margin(dimensions, held, reference),
    )
    middle = {**held, **{d.name: d.value(0.5) for d in dimensions}}
    objective.check(middle if reference is None else reference)
    plan = DesignStrategy(
        strategy,
        dimensions,
        held,
        instrument,
        doses,
        Fidelity(n_iterations),
        n_trials,
        n_repeats,
        reference,
        random_state,
    )
    notes += notes_before(objective, plan)
    highest = {**held, **{d.name: d.high for d in dimensions}}
    notes += depth_note(potential, specimen, instrument.wavelength, highest["convergence_angle"])
    header = _header(plan, objective)
    executor = InProcess(objective, {}) if client is None else Distributed(objective, {}, client)
    found = _search(plan, executor, study, header, callback, show_progressbar)
    return _result(plan, objective, found, header, notes)


class Settings(NamedTuple):
    """What is searched, what is held, and the experiment to compare with."""

    dimensions: Sequence[Dimension]
    held: Mapping[str, float]
    reference: Mapping[str, float] | None


def _instrument(
    common: dict[str, Any],
    specimen: Specimen,
    settings: Settings,
    reciprocal_pixel: float | None,
    field_of_view: float | tuple[float, float] | None,
) -> tuple[Instrument, list[str]]:
    """The microscope, and what was chosen of it because nobody said it."""
    notes = []
    if reciprocal_pixel is None:
        reciprocal_pixel = default_pixel(common, *settings)
        notes.append(
            f"reciprocal_pixel was chosen as {reciprocal_pixel:.5g} 1/Å: a window of "
            f"{1 / reciprocal_pixel:.1f} Å."
        )
    field = read_field(field_of_view, specimen, {**common, "reciprocal_pixel": reciprocal_pixel})
    if field_of_view is None:
        notes.append(f"field_of_view was chosen as {field[0]:.4g} × {field[1]:.4g} Å (y, x).")
    pixel = float(reciprocal_pixel)
    return Instrument(reciprocal_pixel=pixel, field_of_view=field, **common), notes


def _header(plan: DesignStrategy, objective: SimulatedExperiment) -> dict[str, Any]:
    """What a study is bound to."""
    specimen = objective.simulation.specimen
    return {
        "fingerprint": fingerprint(
            np.ascontiguousarray(specimen.phases, np.float32), specimen.phases.shape[-2:]
        ),
        "specimen": {
            "pixel": float(specimen.pixel),
            "spacings": [float(v) for v in specimen.spacings],
            "origin": [float(v) for v in specimen.origin],
        },
        "objective": objective.name,
        "strategy": plan.name,
        "space": {d.name: d.to_dict() for d in plan.dimensions},
        "held": plan.held,
        "doses": list(plan.doses),
        "reference": plan.reference,
        "instrument": plan.instrument.to_dict(),
        "reconstruction": objective.reconstruction,
        "n_iterations": plan.full.n_iterations,
        "n_repeats": plan.n_repeats,
        "n_trials": plan.n_trials,
        "random_state": plan.random_state,
        "versions": versions(_VERSIONS),
    }


def _search(
    plan: DesignStrategy,
    executor: Executor,
    study: Any,
    header: Mapping[str, Any],
    callback: Callable[[dict[str, Any]], bool | None] | None,
    show_progressbar: bool | None,
) -> Tuning:
    """All trials that the study does not have yet."""
    with (
        Study.open(study, header) as journal,
        progressbar(plan.n_trials * len(plan.doses), "Design", show_progressbar) as bar,
    ):
        bar.total = len(journal.trials) + plan.missing(journal.trials)
        bar.update(len(journal.trials))

        def update(trial, best) -> bool | None:
            bar.set_postfix(dose=f"{trial.parameters['dose']:g}")
            bar.update()
            return callback(trial.to_dict()) if callback is not None else None

        return tune(plan, executor, journal, callback=update)


def _result(
    plan: DesignStrategy,
    objective: SimulatedExperiment,
    found: Tuning,
    header: Mapping[str, Any],
    notes: list[str],
) -> ExperimentDesign:
    """The best settings of each dose that was reached, their images, and what to know of them."""
    status = "completed"
    missing = plan.missing(found.trials)
    if found.interrupted or missing:
        status = "interrupted"
        n = len(found.trials)
        notes.append(f"Ended after {n} of {n + missing} trials.")
    reached = [d for d in plan.doses if plan.best_at(d, found.trials) is not None]
    notes += lost_doses(plan.doses, reached, found.trials)
    notes += thin_doses(plan, reached, found.trials, objective.margin)
    images, said, stopped = final_images(
        objective, plan, reached, found.trials, check=status == "completed"
    )
    status = "interrupted" if stopped else status
    notes += said
    for note in notes:
        _logger.info(note)
    return ExperimentDesign.from_search(
        doses=reached,
        dimensions=plan.dimensions,
        held=plan.held,
        best=[plan.best_at(d, found.trials).parameters for d in reached],
        reference=plan.reference,
        trials=[t.to_dict() for t in found.trials],
        score=objective.score,
        instrument=plan.instrument,
        images=images,
        truth=objective.truth,
        pixel=plan.instrument.object_pixel,
        origin=tuple(objective.image_origin),
        settings={k: header[k] for k in ("strategy", "n_iterations", "reconstruction")},
        status=status,
        seed=plan.random_state,
        versions=header["versions"],
        notes=notes,
    )
