"""What a reconstruction of a signal would need, without reading its data."""

from __future__ import annotations

from typing import Any

from hs_autoptycho._scan import RECORDING
from hs_autoptycho.calibration import scan_step_and_object_pixel
from hs_autoptycho.ptycho.batches import default_batch_size
from hs_autoptycho.ptycho.memory import MemoryPlan, plan_for
from hs_autoptycho.ptycho.parameters import PARAMETERS, check_names, check_parameters


def estimate_memory(signal: Any, **parameters: Any) -> MemoryPlan:
    """How much memory ``signal.reconstruct_ptycho(**parameters)`` would need.

    Nothing is read but axes and metadata. The estimate is for the present number of numba threads;
    a reconstruction logs its own plan before it starts, and refuses to start where that is more
    than there is.

    Parameters
    ----------
    signal
        HyperSpy signal ``(x, y | kx, ky)``, lazy or not.
    **parameters
        As for ``reconstruct_ptycho``.

    Returns
    -------
    MemoryPlan
        Bytes by purpose, and their ``total``; as a string, the same in GB. The signal's own data
        are not among them; a lazy signal is read into memory in its own type, which comes on top
        (``signal.data.nbytes``).

    Raises
    ------
    CalibrationError
        If a length or energy is missing.
    ParameterError, TypeError
        For a parameter of a wrong value, or an unknown one.

    Examples
    --------
    >>> import hs_autoptycho
    >>> from hs_autoptycho.data import twisted_bilayer_mos2
    >>> plan = hs_autoptycho.estimate_memory(twisted_bilayer_mos2(), n_probe_modes=4)
    >>> print(plan)  # doctest: +ELLIPSIS
    0.3... GB (patterns 0.01, object 0.00, groups 0.00, probes 0.0..., threads 0.0..., program 0.35)
    """
    for name in (*RECORDING, "n_iterations", "random_state", "show_progressbar", "num_workers"):
        parameters.pop(name, None)
    check_names(parameters)
    checked = check_parameters(parameters)
    names = ("beam_energy", "scan_step", "reciprocal_pixel")
    stated = {name: checked[name] for name in names if name in checked}
    step, pixel = scan_step_and_object_pixel(signal, **stated)
    values = {name: p.default for name, p in PARAMETERS.items()}
    values["scan_rotation"] = 0.0
    values["algorithm"] = checked.get("algorithm", values["algorithm"])
    scan_shape, window = signal.data.shape[:2], signal.data.shape[2:]
    values["batch_size"] = default_batch_size(values["algorithm"], scan_shape[0] * scan_shape[1])
    values["scan_step"] = step
    values.update(checked)
    return plan_for(values, scan_shape, window, pixel, signal.data.dtype)
