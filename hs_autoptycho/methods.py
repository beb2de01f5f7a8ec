"""The methods that this package adds to HyperSpy's signals: read, call, wrap.

HyperSpy imports this file while it loads, so everything that is not in the standard library is
imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from hs_autoptycho.signals import HierarchicalClusters, PtychographicObject


def reconstruct_ptycho(
    self,
    *,
    defocus: float | None = None,
    scan_rotation: float | None = None,
    n_probe_modes: int | None = None,
    n_slices: int | None = None,
    thickness: float | None = None,
    beam_energy: float | None = None,
    convergence_angle: float | None = None,
    scan_step: float | None = None,
    reciprocal_pixel: float | None = None,
    scan_scale: float | None = None,
    scan_shear: float | None = None,
    scan_aspect: float | None = None,
    detector_flip: str | None = None,
    C12a: float | None = None,
    C12b: float | None = None,
    C21a: float | None = None,
    C21b: float | None = None,
    C23a: float | None = None,
    C23b: float | None = None,
    C30: float | None = None,
    tilt_x: float | None = None,
    tilt_y: float | None = None,
    aperture: str | None = None,
    source_size: float | None = None,
    focal_spread: float | None = None,
    n_variable_modes: int | None = None,
    object_type: str | None = None,
    algorithm: str | None = None,
    noise_model: str | None = None,
    batch_size: int | None = None,
    batch_selection: str | None = None,
    step_object: float | None = None,
    step_probe: float | None = None,
    momentum: float | None = None,
    probe_start: int | None = None,
    position_correction_start: int | None = None,
    grid_correction_start: int | None = None,
    defocus_correction_start: int | None = None,
    thickness_correction_start: int | None = None,
    tilt_correction_start: int | None = None,
    intensity_correction_start: int | None = None,
    regularization_depth: float | None = None,
    regularization_positivity: float | None = None,
    regularization_tv: float | None = None,
    regularization_bandwidth: float | None = None,
    regularization_probe_support: float | None = None,
    coarse_iterations: int | None = None,
    early_stopping: int | None = None,
    detector_blur: float | None = None,
    saturation: float | None = None,
    detector_mask: Any = None,
    background: Any = None,
    disk_center: tuple[float, float] | None = None,
    disk_radius: float | None = None,
    n_iterations: int = 50,
    random_state: int = 0,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
    **unknown: Any,
) -> PtychographicObject:
    """Reconstruct the object of a 4D-STEM scan by iterative ptychography.

    The signal is ``(x, y | kx, ky)``, lazy or not; calibration comes from its axes and metadata,
    and what is given here takes precedence. The centre and the radius of the bright-field disk are
    measured. A lazy signal that is too large for memory stays on disk and is read once in each
    iteration; the batches are then of positions that lie together in the file.

    Parameters
    ----------
    defocus
        In Å, positive for underfocus (C10 = -defocus). Default: metadata
        ``Acquisition_instrument.TEM.probe_defocus``; there has to be one.
    scan_rotation
        In degrees. In the detector's frame a position is ``(row, column) = scan_step · R · (slow,
        fast)`` with ``R = [[cos, −sin], [sin, cos]]``. Default: metadata, or 0.
    n_probe_modes
        Number of modes of a partially coherent (mixed-state) probe. Default: 1.
    n_slices, thickness
        Slices of a multislice object, and the specimen's thickness in Å: a slice stands for
        ``thickness / n_slices``, which is also the distance to the next. Default: one slice.
    beam_energy
        In keV.
    convergence_angle
        Semi-angle in mrad, for ``aperture="disk"``. Default: the measured disk's.
    scan_step
        In Å. Default: from the navigation axes.
    reciprocal_pixel
        Size of a detector pixel in 1/Å. Default: from the signal axes.
    scan_scale, scan_shear, scan_aspect
        Corrections of the scan grid: its scale, the lean of the slow axis in degrees, and the ratio
        of slow to fast step. Default: 1, 0, 1.
    detector_flip
        Orientation of the detector: ``"none"`` (default), ``"rows"``, ``"columns"``, ``"both"``,
        ``"transpose"``, ``"transpose-rows"``, ``"transpose-columns"``, ``"transpose-both"``.
    C12a, C12b, C21a, C21b, C23a, C23b, C30
        Aberrations of the initial probe in Å (Cartesian, as abTEM and py4DSTEM). Default: 0.
    tilt_x, tilt_y
        Tilt of the specimen in mrad; the slices are in its frame. Default: 0.
    aperture
        Amplitude of the initial probe in the detector's plane: ``"measured"``, the square root of
        the mean pattern in and near the bright-field disk, or ``"disk"``, a uniform disk. Default:
        ``"measured"``, but ``"disk"`` where a convergence angle is given.
    source_size, focal_spread
        Of a partially coherent beam: full width at half maximum of the effective source, and
        standard deviation of the defocus, in Å. The initial modes are then this beam's strongest
        ones. Default: 0; further modes start weak.
    n_variable_modes
        Modes by which the probe may differ from position to position (orthogonal probe relaxation
        [3]_). Default: 0. They are in the result's ``metadata.Ptychography.variable_modes``, and
        how much of each a position has in ``coefficients``.
    object_type
        ``"complex"`` (default), or ``"phase"``, an object that does not absorb.
    algorithm
        ``"lsq-ml"`` (default; least-squares maximum likelihood with line search [1]_),
        ``"gradient"`` (conjugate gradients of all positions at once), ``"epie"`` or ``"rpie"``
        (extended and regularised ptychographical iterative engine [2]_).
    noise_model
        ``"poisson"`` (default for counts) or ``"amplitude"`` (default for other data).
    batch_size
        Positions updated together. Default: from the number of positions; 1 for ``"epie"``,
        ``"rpie"``.
    batch_selection
        ``"sparse"`` (default), positions from all over the scan, or ``"compact"``, neighbours.
    step_object, step_probe
        Multiples of the step length that the line search finds, default 1; for ``"epie"`` and
        ``"rpie"`` the steps themselves, default 0.3. ``step_probe=0`` holds the probe.
    momentum
        Part of the last step that is taken again, for ``"lsq-ml"``. Default: 0.
    probe_start
        Iterations before the probe is refined. Default: 0, but 36 after the start of a correction
        of defocus or thickness, which a free probe would hide.
    position_correction_start, grid_correction_start, defocus_correction_start, \
thickness_correction_start, tilt_correction_start, intensity_correction_start
        Iterations before each correction begins; 0 corrects from the start on. Default: never.
        Single positions; the scan grid as a whole (rotation, scale, shear, aspect); the defocus
        (while the probe is held); the thickness and tilt of several slices; the beam's intensity at
        each position. Grid and thickness are searched for with new objects of six iterations each,
        up to eight of them, and other corrections wait for the grid: leave 30 iterations after
        them. The corrected values are in the result's ``parameters``, its ``positions``, and for
        the intensity in ``metadata.Ptychography.brightness``.
    regularization_depth
        β of the filter on what neighbouring slices differ in and no measurement can tell [4]_.
    regularization_positivity
        0 to 1: how much phases below vacuum's are raised.
    regularization_tv
        Weight of the total variation.
    regularization_bandwidth
        Largest spatial frequency of the object, in 1/Å.
    regularization_probe_support
        Radius beyond which the probe is damped, as a fraction of half its window. All of these
        default to 0, which is off.
    coarse_iterations
        How many of the iterations go over the patterns' central part only, with larger object
        pixels: several times faster. Default: 0.
    early_stopping
        Stop when a tenth of the counts of some positions, which were held out, has not been
        predicted better for so many iterations. Default: never.
    detector_blur
        Standard deviation of the detector's point spread, in pixels. Default: 0.
    saturation
        Counts from which on a pixel is saturated: it then tells only that there are at least so
        many. Default: the largest number of an 8 or 16 bit type, where it occurs.
    detector_mask
        Array of bool (ky, kx), True for the pixels to use: False for dead ones. Default: all.
    background
        Dark counts a pixel: a number, or an array (ky, kx). Default: 0.
    disk_center, disk_radius
        Of the bright-field disk, (row, column) and radius in detector pixels. Default: measured.
    n_iterations
        Passes over all positions.
    random_state
        Seed. The same seed gives the same object, whatever the number of threads.
    show_progressbar
        Default: ``hs.preferences.General.show_progressbar``.
    num_workers
        Number of threads. Default: all cores, or ``NUMBA_NUM_THREADS``.

    Returns
    -------
    PtychographicObject
        Complex transmission function, ``(slice | x, y)`` in Å with the origin at scan position
        [0, 0], in the detector's frame; with probe, positions, history and all parameters. Its
        ``status`` is ``"completed"``, ``"stopped"`` (early), ``"diverged"``, or ``"interrupted"``
        (after Ctrl-C).

    Raises
    ------
    CalibrationError
        If a length, angle or energy is missing or absurd; the message says which and how to set it.
    DataError
        If the patterns hold NaN, infinite or negative values, or are no real numbers.
    DiskError
        If no bright-field disk can be found.
    ParameterError, TypeError
        For a parameter of a wrong value, or an unknown one.
    NotEnoughMemoryError
        If it would need more memory than there is: see :func:`hs_autoptycho.estimate_memory`.

    References
    ----------
    .. [1] M. Odstrčil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26, 3108 (2018).
    .. [2] A. M. Maiden, J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009); A. Maiden, D. Johnson,
       P. Li, Optica 4, 736 (2017).
    .. [3] M. Odstrčil et al., Opt. Express 24, 8360 (2016).
    .. [4] Z. Chen et al., Science 372, 826 (2021).

    Examples
    --------
    >>> import hyperspy.api as hs
    >>> from hs_autoptycho.data import twisted_bilayer_mos2
    >>> s = twisted_bilayer_mos2(scan_shape=(16, 18))
    >>> obj = s.reconstruct_ptycho(defocus=200, scan_rotation=12, n_iterations=5)
    >>> obj
    <PtychographicObject, title: Twisted bilayer MoS2 (simulated), dimensions: (1|139, 134)>
    >>> obj.status
    'completed'
    """
    stated = {name: value for name, value in locals().items() if value is not None}
    from hs_autoptycho._memory import Work
    from hs_autoptycho._running import check_count, check_seed, progressbar, threads
    from hs_autoptycho._scan import read_scan, wrap_reconstruction
    from hs_autoptycho.ptycho.parameters import (
        PARAMETERS,
        RECORDING,
        check_names,
        check_parameters,
    )

    check_names(unknown)
    parameters = check_parameters({k: v for k, v in stated.items() if k in PARAMETERS})
    check_count("n_iterations", n_iterations)
    random_state = check_seed(random_state)
    recording = {name: stated.get(name) for name in RECORDING}
    with threads(num_workers):
        scan = read_scan(
            self, parameters, show_progressbar, **recording, needs_defocus=True,
            # a pass to look at them, and one for the counts that are held out
            work=Work(1 + n_iterations + (early_stopping is not None)),
        )  # fmt: skip
        parameters = scan.experiment.complete(parameters)
        scan.experiment.check_memory(parameters)
        with progressbar(n_iterations, "Reconstruct", show_progressbar) as bar:

            def update(iteration: int, error: float) -> None:
                bar.set_postfix(error=f"{error:.4g}")
                bar.update()

            reconstruction, _ = scan.experiment.fit(
                parameters, n_iterations=n_iterations, random_state=random_state, callback=update
            )
    return wrap_reconstruction(scan, parameters, reconstruction, random_state)


def autotune_ptycho(
    self,
    parameters: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    n_trials: int = 60,
    objective: str | Callable[[Any], float] = "held_out",
    strategy: str = "multifidelity",
    fixed: Mapping[str, Any] | None = None,
    study: str | PathLike | None = None,
    client: Any = None,
    engine: str = "numba",
    n_iterations: int = 50,
    n_trial_iterations: int = 12,
    callback: Callable[[dict[str, Any]], bool | None] | None = None,
    random_state: int = 0,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
    **unknown: Any,
) -> PtychographicObject:
    """Reconstruct with parameters that Bayesian optimisation finds from the data.

    A lazy signal that is too large for memory stays on disk, as in :meth:`reconstruct_ptycho`. The
    scan's geometry is measured first, without a reconstruction. Each trial then reconstructs
    the scan with one set of parameters and scores the result on counts that were held out; a
    Gaussian process proposes the next set [1]_. Most trials are short and see a part of the scan;
    what is promising is tried at full length. The simplest set within one standard error of the
    best, or what trials about it say that the optimum is, is reconstructed from all counts.

    Parameters
    ----------
    parameters
        What to tune: name to ``(low, high)``, ``(low, high, "log")``, a list of values, None (a
        range derived from the data) or ``{"range": (low, high), "scale": "log", "prior": (mean,
        standard deviation)}``; or only a list of names. Names and units are those of
        :meth:`reconstruct_ptycho`; a single value is held. By default scan rotation, defocus,
        twofold astigmatism and the number of probe modes, in ranges derived from the data.
    n_trials
        Number of reconstructions to spend, short ones and long ones together.
    objective
        ``"held_out"`` (default): Poisson deviance of 10 % of the counts, which no trial has seen;
        of scaled data the gain is estimated first. ``"held_out_positions"``,
        ``"held_out_pixels"``: of patterns or blocks of pixels left out of the fit.
        ``"data_error"``: error of the fit itself; it always prefers more freedom. ``"frc"``: one
        less the Fourier ring correlation of two halves of the data. ``"contrast"``. Or a function
        that takes a reconstruction (with ``object``, ``probe``, ``errors``, ``status``) and
        returns a number to be minimised.
    strategy
        ``"multifidelity"`` (default): a Gaussian process, mostly on short trials. ``"full"``: the
        same with all trials at full length. To compare with: ``"random"``, ``"sobol"``
        (quasi-random), and ``"default"``, one trial with what was measured or the middle of each
        range.
    fixed
        Parameters that all trials share, as for :meth:`reconstruct_ptycho`, also ``disk_center``,
        ``disk_radius``, ``detector_mask`` and ``background``.
    study
        File that remembers every trial as it ends, one line of JSON each. Where it exists already
        the tuning goes on from it, after a kill just as it would have; see
        :func:`hs_autoptycho.load_study`. Default: no file.
    client
        A ``distributed.Client``, on whose workers the trials run side by side. Default: one after
        the other in this process.
    engine
        What reconstructs: ``"numba"`` (default), this package's own, or ``"py4dstem"``.
    n_iterations
        Passes of the last reconstruction.
    n_trial_iterations
        Passes of a trial at full length.
    callback
        Called after each trial with a dictionary of it; tuning ends if it returns True.
    random_state
        Seed: of the search, of the split of the counts, and of each reconstruction.
    show_progressbar
        Default: ``hs.preferences.General.show_progressbar``.
    num_workers
        Number of threads. Default: all cores, or ``NUMBA_NUM_THREADS``.

    Returns
    -------
    PtychographicObject
        Of the best trial, with ``best_parameters``, ``parameter_intervals``,
        ``parameter_importance``, ``tuning_notes``, ``trials`` and ``plot_tuning()``. After Ctrl-C
        it is the best so far, at the length of its trial, and its status is ``"interrupted"``.

    Raises
    ------
    CalibrationError, DataError, DiskError, ParameterError, TypeError
        As :meth:`reconstruct_ptycho`.
    ObjectiveError, StrategyError
        If the objective or strategy is unknown, or the objective does not fit the data.
    StudyError
        If the file of the study is of other data or another search, or in use.
    TuningError
        If no trial succeeded.

    References
    ----------
    .. [1] M. C. Cao, Z. Chen, Y. Jiang, Y. Han, Sci. Rep. 12, 12284 (2022).

    Examples
    --------
    >>> import hyperspy.api as hs
    >>> s = hs.load("scan.zspy", lazy=True)  # doctest: +SKIP
    >>> obj = s.autotune_ptycho(
    ...     {"scan_rotation": (-180, 0), "defocus": (100, 400)}, n_trials=40
    ... )  # doctest: +SKIP
    >>> obj.best_parameters  # doctest: +SKIP
    {'scan_rotation': -121.3, 'defocus': 312.0}
    """
    from hs_autoptycho.ptycho.parameters import OPTIONS, PARAMETERS, RECORDING, closest

    if unknown:
        name = next(iter(unknown))
        hint = closest(name, [*OPTIONS, "fixed"])
        if name in (*PARAMETERS, *RECORDING) or not hint:
            hint = (
                " What to tune goes into `parameters`, what to hold into `fixed`: "
                f"fixed={{{name!r}: {unknown[name]!r}}}."
            )
        raise TypeError(f"autotune_ptycho() has no argument {name!r}.{hint}")
    from hs_autoptycho._tuning import tune_signal

    return tune_signal(
        self,
        parameters=parameters,
        n_trials=n_trials,
        objective=objective,
        strategy=strategy,
        fixed=fixed,
        study=study,
        client=client,
        engine=engine,
        n_iterations=n_iterations,
        n_trial_iterations=n_trial_iterations,
        callback=callback,
        random_state=random_state,
        show_progressbar=show_progressbar,
        num_workers=num_workers,
    )


def cluster_hierarchical(
    self,
    *,
    max_clusters: int | None = None,
    max_depth: int | None = None,
    min_cluster_size: int | None = None,
    mask: Any = None,
    scan_mask: Any = None,
    features: str | Callable[[Any], Any] = "default",
    spatial_smoothing: str | float = "auto",
    random_state: int = 0,
    show_progressbar: bool | None = None,
    num_workers: int | None = None,
    **unknown: Any,
) -> HierarchicalClusters:
    """Cluster diffraction patterns into a tree of domains, whose number is found from the data.

    Divisive clustering as in [1]_: a node is split by 2-means of its patterns' principal
    components, which are refitted in every node. Here a split has to prove itself on counts that
    were held out: it has to be significant, the same from two independent halves of the counts, a
    step and not a gradient, and a region and not the rim of one. The tree ends where no split does.

    The signal is ``(x, y | kx, ky)``, lazy or not, and of any size: two passes are made over the
    patterns, in the chunks they come in, on the cores of this machine or on a ``distributed``
    cluster whose client is active. Motion of the direct beam over the scan (descan) is measured
    and taken into account.

    Parameters
    ----------
    max_clusters, max_depth
        Limits of the tree. Default: none; the data decide.
    min_cluster_size
        Positions in a cluster, at least. Default: half the square root of the number
        of all positions, and 20 at least.
    mask
        What to use of the detector: an array of bool (ky, kx), True where it is used; a
        ``CircleROI`` (with ``r_inner`` an annulus) or ``RectangularROI``; or ``(inner, outer)``,
        an annulus about the direct beam in the units of the signal axes. Default: all but the
        direct beam; all of it, where the beam is a wide bright-field disk.
    scan_mask
        Array of bool (y, x), True for the positions to cluster. Default: all.
    features
        ``"default"``: what patterns have in common with their neighbours in the scan. ``"std"``:
        the pixels of highest standard deviation, as in [1]_. Or a function that takes patterns
        ``(n, ky, kx)`` and returns ``(n, features)``.
    spatial_smoothing
        Standard deviation in positions of the Gaussian over the scan with which a node's patterns
        are smoothed before 2-means. ``"auto"`` takes in every node the width with which one half of
        the counts best predicts the other.
    random_state
        Seed. The same seed gives the same labels, whatever chunks and workers.
    show_progressbar
        Default: ``hs.preferences.General.show_progressbar``.
    num_workers
        Number of threads. Default: all cores.

    Returns
    -------
    HierarchicalClusters
        Labels ``(level | x, y)``, with ``tree``, ``mean_patterns``, ``difference_patterns``,
        ``cut(n)``, ``plot_tree()``, ``plot_overlay()`` and ``map_strain(signal)``. Positions whose
        pattern is empty, or holds NaN or negative values, have the label -1. After Ctrl-C while
        the tree grew or its patterns were summed, it is what there was, and its status is
        ``"interrupted"``.

    Raises
    ------
    PatternError
        If the signal is no scan of patterns, or not one of them can be used.
    ValueError, TypeError
        For an option of a wrong value or an unknown one.

    References
    ----------
    .. [1] C. Shi, M. C. Cao, S. M. Rehn, S.-H. Bae, J. Kim, M. R. Jones, D. A. Muller, Y. Han,
       npj Comput. Mater. 8, 114 (2022).

    Examples
    --------
    >>> import hyperspy.api as hs
    >>> from hs_autoptycho.data import snse_domains
    >>> s = snse_domains(scan_shape=(30, 36), detector_shape=(64, 72))
    >>> clusters = s.cluster_hierarchical()
    >>> clusters
    <HierarchicalClusters, title: SnSe domains (simulated), dimensions: (2|36, 30), 4 clusters>
    >>> clusters.n_clusters
    4
    """
    stated = {name: value for name, value in locals().items() if name not in ("self", "unknown")}
    if unknown:
        known = ", ".join(stated)
        raise TypeError(
            f"cluster_hierarchical() has no argument {next(iter(unknown))!r}; it has {known}. "
            "The number of clusters is found from the data; `max_clusters` limits it."
        )
    from hs_autoptycho._clusters import cluster_signal

    return cluster_signal(self, **stated)
