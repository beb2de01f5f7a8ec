"""The table of parameters: names, types, limits, and what its errors say."""

import numpy as np
import pytest

from hs_autoptycho.ptycho.parameters import (
    PARAMETERS,
    ParameterError,
    check_names,
    check_parameters,
)


def test_the_names_of_the_interface_are_there():
    names = """beam_energy convergence_angle scan_step scan_rotation scan_scale scan_shear
    scan_aspect detector_flip defocus C12a C12b C21a C21b C23a C23b C30 n_probe_modes batch_size
    step_object step_probe n_slices thickness tilt_x tilt_y source_size focal_spread
    n_variable_modes object_type noise_model batch_selection momentum probe_start
    position_correction_start grid_correction_start defocus_correction_start
    thickness_correction_start tilt_correction_start intensity_correction_start
    regularization_depth regularization_positivity regularization_tv regularization_bandwidth
    regularization_probe_support coarse_iterations early_stopping detector_blur
    saturation""".split()
    assert set(names) <= set(PARAMETERS)
    assert all(name == parameter.name for name, parameter in PARAMETERS.items())


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_defaults_and_limits_are_values(parameter):
    for value in (parameter.default, *parameter.choices):
        if value is not None:
            assert parameter.check(value) == value
    if parameter.kind != "choice":
        assert np.isfinite([parameter.low, parameter.high]).all()
        assert parameter.check(parameter.low) == parameter.low
        assert parameter.check(parameter.high) == parameter.high
        for outside in (parameter.low - 1, parameter.high * 1.01, np.nan, np.inf, -np.inf):
            with pytest.raises(ParameterError, match=f"^{parameter.name}="):
                parameter.check(outside)


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize(
    "value", [True, "many", None, [1], np.array([1, 2]), 1j, {}, np.array("none")], ids=repr
)
def test_wrong_types_are_named(parameter, value):
    with pytest.raises(ParameterError, match=f"^{parameter.name}="):
        parameter.check(value)


def test_values_become_plain():
    given = {
        "defocus": np.float32(250),
        "scan_rotation": np.int16(-12),
        "n_probe_modes": np.float64(2.0),
        "algorithm": np.str_("epie"),
        "C30": None,
    }
    checked = check_parameters(given)
    assert checked == {
        "defocus": 250.0,
        "scan_rotation": -12.0,
        "n_probe_modes": 2,
        "algorithm": "epie",
    }
    assert [type(v) for v in checked.values()] == [float, float, int, str]


def test_unknown_names_are_listed_with_a_suggestion():
    with pytest.raises(TypeError, match="'n_modes'.*Did you mean 'n_probe_modes'.*Known: .*C30"):
        check_parameters({"n_modes": 2})
    with pytest.raises(TypeError, match="Unknown fixed parameter 'xyzzy'. Known"):
        check_names(["defocus", "xyzzy"], "fixed parameter")
    check_names(PARAMETERS)
