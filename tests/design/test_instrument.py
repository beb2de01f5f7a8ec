"""What an instrument can do, and the reasons why it cannot."""

from dataclasses import replace

import numpy as np
import pytest

from hs_autoptycho.design.instrument import DesignError, Instrument

GOOD = {"scan_step": 1.0, "defocus": 80.0, "convergence_angle": 25.0}


def test_a_possible_experiment(instrument):
    assert instrument.complaint(1e4, GOOD) is None
    assert instrument.scan_shape(1.0) == (9, 10)
    assert instrument.object_pixel == pytest.approx((0.25, 8 / 36))


@pytest.mark.parametrize(
    ("dose", "change", "message"),
    [
        (0.5, {}, r"0\.5 electrons a pattern.*smallest step.* 1\.41 Å"),
        (1e4, {"defocus": 300.0}, r"probe is 15\.\d Å wide, more than 80% of its window of 8\.0 Å"),
        (1e4, {"scan_step": 4.5}, r"no overlap of probes that are 4\.\d+ Å wide"),
        (1e4, {"convergence_angle": 83.0, "defocus": 0.0}, "bright-field disk of 83 mrad"),
    ],
)
def test_reasons(instrument, dose, change, message):
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(instrument.complaint(dose, {**GOOD, **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_data_size": 1e5}, r"9 × 10 positions .* 2\.1e\+05 bytes"),
        ({"dwell_time": 1e-3, "max_scan_time": 0.08}, r"take 0\.09 s at a dwell_time of 0\.001 s"),
        ({"field_of_view": (0.9, 9.5)}, "1 × 10 positions .* are no scan"),
    ],
)
def test_reasons_of_constraints(instrument, change, message):
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(replace(instrument, **change).complaint(1e4, GOOD))


def test_a_count_limit_makes_data_smaller(instrument):
    assert instrument.data_size(1.0) == 90 * 32 * 36 * 2
    assert replace(instrument, count_limit=255).data_size(1.0) == 90 * 32 * 36
    assert replace(instrument, count_limit=10**5).data_size(1.0) == 90 * 32 * 36 * 4


def test_arrays_agree_with_single_experiments(instrument):
    instrument = replace(
        instrument, max_data_size=5e5, dwell_time=1e-3, max_scan_time=0.15, aberrations={"C30": 1e4}
    )
    generator = np.random.default_rng(0)
    settings = {
        "scan_step": generator.uniform(0.3, 8, 300),
        "defocus": generator.uniform(-200, 200, 300),
        "convergence_angle": generator.uniform(5, 100, 300),
    }
    single = [
        instrument.complaint(3.0, {k: v[i] for k, v in settings.items()}) is None
        for i in range(300)
    ]
    assert 0 < sum(single) < 300
    np.testing.assert_array_equal(instrument.possible(3.0, settings), single)


def test_width_of_the_probe(instrument):
    # defocus alone: the disk of the rays; in focus: Airy's
    assert instrument.probe_width(20.0, 1e5) == pytest.approx(2 * 1e5 * 0.02, rel=1e-4)
    assert instrument.probe_width(20.0, -1e5) == pytest.approx(2 * 1e5 * 0.02, rel=1e-4)
    assert instrument.probe_width(20.0, 0.0) == pytest.approx(1.22 * 0.041757 / 0.02, rel=1e-3)
    # spherical aberration displaces the outermost rays by C30 α³
    round_lens = replace(instrument, aberrations={"C30": 1e7})
    assert round_lens.probe_width(20.0, 0.0) == pytest.approx(2 * 1e7 * 0.02**3, rel=1e-3)
    # and a positive defocus (C10 < 0) takes from it
    assert round_lens.probe_width(20.0, 1e3) == pytest.approx(120.0, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detector_shape": (32, 33)}, "two even numbers"),
        ({"beam_energy": 8e4}, "electronvolts"),
        ({"field_of_view": (0.0, 9.0)}, "above 0"),
        ({"source_size": -1.0}, "source_size=-1.0"),
        ({"count_limit": 0}, "count_limit=0"),
        ({"max_scan_time": 1.0}, "dwell_time"),
        ({"aberrations": {"C12": 3.0}}, "C12a"),
    ],
)
def test_what_makes_no_sense(change, message):
    values = {"beam_energy": 80.0, "detector_shape": (32, 36), "reciprocal_pixel": 0.1}
    with pytest.raises(DesignError, match=message):
        Instrument(**{**values, "field_of_view": (8.0, 9.0), **change})
