"""Properties that hold for whatever shapes, chunks, units, types and text a file may bring."""

import json
import math
import tempfile
from pathlib import Path

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hs_autoptycho._units import UnitError, read_unit
from hs_autoptycho.calibration import CalibrationError, Geometry, scan_step_and_object_pixel
from hs_autoptycho.clustering.pipeline import Options, cluster
from hs_autoptycho.clustering.streaming import map_patterns, reduce_patterns, scan_blocks
from hs_autoptycho.clustering.survey import PatternError
from hs_autoptycho.ptycho.disk import DiskError, measure_disk
from hs_autoptycho.ptycho.loading import DataError, fingerprint, load_counts
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError, check_parameters
from hs_autoptycho.tuning.space import Dimension, read_space
from hs_autoptycho.tuning.study import Study, load_study
from hs_autoptycho.tuning.study_file import StudyError, make_line, read

pytestmark = pytest.mark.usefixtures("one_thread")

# the same examples on every machine, and nothing written into the checkout
settings.register_profile(
    "hs_autoptycho",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("hs_autoptycho")
few = settings(settings.get_profile("hs_autoptycho"), max_examples=8)

TYPES = ["?", "u1", "i1", "u2", ">u2", "i4", ">i4", "u8", "f2", "f4", ">f8", "g"]


def scan_shapes(least=1, most=6):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def scans(draw, least=1, most=6, detector=(2, 9), largest=60, types=TYPES):
    """Whole numbers of some type, (y, x, ky, kx)."""
    shape = draw(scan_shapes(least, most)) + draw(scan_shapes(*detector))
    seed = draw(st.integers(0, 2**16))
    dtype = np.dtype(draw(st.sampled_from(types)))
    counts = np.random.default_rng(seed).poisson(draw(st.floats(0.1, largest / 4)), shape)
    return np.minimum(counts, 1 if dtype.kind == "b" else largest).astype(dtype)


@st.composite
def chunked(draw, array):
    """The array in chunks of any sizes."""
    chunks = []
    for n in array.shape:
        cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=3))) if n > 1 else []
        chunks.append(tuple(np.diff([0, *cuts, n]).tolist()))
    return da.from_array(array, chunks=tuple(chunks))


def native(array):
    return array.astype(np.int64)


# --- reading ----------------------------------------------------------------------------------


@given(st.data(), scans())
def test_counts_are_the_same_in_any_type_and_chunks(data, scan):
    assume(scan.any())
    before = scan.tobytes()
    lazy = data.draw(chunked(scan))
    rows = []
    counts = load_counts(lazy, progress=rows.append)
    assert sum(rows) == scan.shape[0]
    assert counts.dtype.isnative and counts.dtype.kind in "uif" and counts.flags.c_contiguous
    np.testing.assert_array_equal(counts.astype(np.int64), native(scan).reshape(counts.shape))
    plain = load_counts(native(scan).astype(np.uint16))
    assert fingerprint(counts, scan.shape[:2]) == fingerprint(plain, scan.shape[:2])
    np.testing.assert_array_equal(load_counts(scan), counts)
    assert scan.tobytes() == before


@given(st.data(), scans(), st.sampled_from([np.nan, np.inf, -np.inf, -1.0]))
def test_one_bad_value_anywhere_is_named(data, scan, value):
    scan = scan.astype(np.float32)
    place = tuple(data.draw(st.integers(0, n - 1)) for n in scan.shape)
    scan[place] = value
    y, x, ky, kx = place
    with pytest.raises(DataError) as error:
        load_counts(data.draw(chunked(scan)))
    assert f"(x={x}, y={y}), detector pixel (kx={kx}, ky={ky})" in str(error.value)
    assert "1 values are" in str(error.value)


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
                  elements=st.floats(0, 1e12)))  # fmt: skip
def test_a_disk_is_on_the_detector_or_refused(pattern):
    try:
        row, column, radius = measure_disk(pattern)
    except DiskError:
        return
    assert np.isfinite([row, column, radius]).all() and radius > 0
    assert -1 < row < pattern.shape[0] and -1 < column < pattern.shape[1]


# --- streaming --------------------------------------------------------------------------------


class Sums:
    """Sum of the patterns and of their positions."""

    def __init__(self, shape):
        self.shape, self.total, self.positions = shape, np.zeros(shape, np.int64), []

    def empty(self):
        return Sums(self.shape)

    def process(self, patterns, positions):
        self.total += patterns.astype(np.int64).sum(0)
        self.positions += positions.tolist()

    def merge(self, other):
        self.total += other.total
        self.positions += other.positions


@given(st.data(), scans())
def test_blocks_cover_the_scan_once(data, scan):
    for array in (scan, data.draw(chunked(scan))):
        seen = np.zeros(scan.shape[:2], int)
        for y0, y1, x0, x1 in scan_blocks(array):
            assert y0 < y1 and x0 < x1
            seen[y0:y1, x0:x1] += 1
        assert (seen == 1).all()


@few
@given(st.data(), scans())
def test_passes_do_not_depend_on_chunks(data, scan):
    lazy = data.draw(chunked(scan))
    bars = []
    sums = reduce_patterns(lazy, Sums(scan.shape[2:]), progress=bars.append, num_workers=1)
    n = scan.shape[0] * scan.shape[1]
    assert sum(bars) == n and sorted(sums.positions) == list(range(n))
    np.testing.assert_array_equal(sums.total, native(scan).sum((0, 1)))

    def kernel(patterns, positions):
        totals = patterns.reshape(len(patterns), -1).sum(1, dtype=float)
        return np.stack([totals, positions], 1)

    values = map_patterns(lazy, kernel, 2, dtype=float, num_workers=1)
    np.testing.assert_array_equal(values[..., 0], native(scan).sum((2, 3)))
    np.testing.assert_array_equal(values[..., 1].ravel(), np.arange(n))


# --- clustering -------------------------------------------------------------------------------


@few
@given(st.data(), scans(1, 6, (9, 12), types=["u2"]), st.sampled_from([None, np.nan, -1.0, 0.0]))
def test_labels_are_whole_or_the_scan_is_refused(data, scan, bad):
    """Every position that can be used has a label, no other has; chunks do not matter."""
    usable = np.ones(scan.shape[:2], bool)
    if bad is not None:
        scan = scan.astype(np.float32)
        places = data.draw(hnp.arrays(bool, usable.shape))
        if bad == 0:
            scan[places] = 0
        else:
            scan[..., 1, 2][places] = bad
        usable[places] = False
    usable &= scan.astype(np.float64).sum((2, 3)) != 0
    try:
        result = cluster(scan, Options(smoothing=1.0, num_workers=1))
    except PatternError as error:
        # so small that nothing lies beside the beam, perhaps
        assert not usable.any() or "direct beam" in str(error)
        return
    assert usable.any()
    labels = result.leaf_labels
    np.testing.assert_array_equal(labels >= 0, usable)
    n = labels.max() + 1
    assert set(labels[usable]) == set(range(n))
    sizes = [node["size"] for node in result.nodes if not node["children"]]
    assert sum(sizes) == usable.sum() and len(sizes) == n
    assert np.isfinite(result.sums).all()
    lazily = cluster(data.draw(chunked(scan)), Options(smoothing=1.0, num_workers=1))
    np.testing.assert_array_equal(lazily.leaf_labels, labels)
    if bad is None:
        np.testing.assert_array_equal(lazily.sums, result.sums)


# --- units and calibration --------------------------------------------------------------------


@given(
    st.one_of(
        st.text(max_size=20),
        st.none(),
        st.integers(),
        st.binary(max_size=5),
        st.sampled_from(["1/", "nm", "Å", "^-1", "$", "\\mathrm", "{}", "m", "-1"]).flatmap(
            lambda start: st.text(max_size=4).map(lambda rest: start + rest)
        ),
    )
)
def test_any_text_is_a_unit_or_a_unit_error(text):
    try:
        unit = read_unit(text)
    except UnitError as error:
        assert repr(text) in str(error) or len(str(error)) > 10
        return
    assert unit.kind in ("length", "reciprocal", "angle", "none")
    assert math.isfinite(unit.factor) and unit.factor > 0


LENGTHS = {"Å": 1, "A": 1, "Angstrom": 1, "nm": 10, "pm": 0.01, "µm": 1e4, "um": 1e4, "m": 1e10}


@given(
    st.floats(0.01, 1e4),
    st.sampled_from(sorted(LENGTHS)),
    st.sampled_from(sorted(LENGTHS)),
    st.sampled_from(["1/{}", "{}^-1", "{}⁻¹", "/{}", "$\\mathrm{{{}}}^{{-1}}$", " {} ^-1 "]),
    st.floats(1e-4, 0.5),
    st.booleans(),
)
def test_any_spelling_and_scale_gives_the_same_pixels(step, length, other, style, pixel, turned):
    """Sizes in Å and 1/Å, whatever unit the axes have them in."""
    signal = hs.signals.Signal2D(np.zeros((3, 4, 6, 8), np.uint8))
    for i, axis in enumerate(signal.axes_manager._axes):
        scale = step / LENGTHS[length] if i < 2 else pixel * LENGTHS[other]
        axis.scale = -scale if turned else scale
        axis.units = length if i < 2 else style.format(other)
    found, (dy, dx) = scan_step_and_object_pixel(signal, beam_energy=80)
    assert found == pytest.approx(step)
    assert (dy, dx) == (pytest.approx(1 / (6 * pixel)), pytest.approx(1 / (8 * pixel)))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.complex_numbers() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2),
    max_leaves=4,
)  # fmt: skip


@given(st.fixed_dictionaries({}, optional={
    "beam_energy": anything, "scan_shape": st.tuples(st.integers(), st.integers()),
    "scan_step": anything, "reciprocal_pixel": anything, "convergence_angle": anything,
    "disk_radius": st.floats(), "scan_rotation": anything, "defocus": anything, "more": anything,
}))  # fmt: skip
def test_a_geometry_is_plausible_or_refused(values):
    good = {"beam_energy": 80.0, "scan_shape": (3, 4), "detector_shape": (6, 8), "scan_step": 0.5,
            "reciprocal_pixel": 0.02, "convergence_angle": 20.0, "disk_center": (3.0, 4.0),
            "disk_radius": 2.0}  # fmt: skip
    try:
        geometry = Geometry.from_dict({**good, **values})
    except CalibrationError:
        return
    again = Geometry.from_dict(json.loads(json.dumps(geometry.to_dict())))
    assert again == geometry
    assert all(math.isfinite(v) for v in (*geometry.object_pixel, geometry.mrad_per_pixel))


# --- parameters and studies -------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), anything, max_size=3))
def test_any_value_of_a_parameter_is_plain_or_refused(values):
    try:
        checked = check_parameters(values)
    except ParameterError as error:
        assert any(name in str(error) for name in values)
        return
    for name, value in checked.items():
        parameter = PARAMETERS[name]
        assert type(value) is {"number": float, "integer": int, "choice": str}[parameter.kind]
        assert parameter.kind == "choice" or parameter.low <= value <= parameter.high


@given(st.dictionaries(st.sampled_from(["defocus", "n_probe_modes", "detector_flip", "C12a"]),
                       anything | st.tuples(anything, anything), max_size=2))  # fmt: skip
def test_any_description_of_a_search_is_a_space_or_refused(values):
    try:
        dimensions, held, wanted = read_space(values)
    except ParameterError as error:
        assert any(name in str(error) for name in values)
        return
    assert {*held, *wanted, *(d.name for d in dimensions)} == set(values)
    for dimension in dimensions:
        assert isinstance(dimension, Dimension)
        for place in (0.0, 0.3, 1.0):
            assert dimension.place(dimension.value(place)) == pytest.approx(
                dimension.place(dimension.nearest(dimension.value(place)))
            )


WHOLE = b"".join(
    [
        make_line(
            {"format": "hs_autoptycho study", "version": 1, "objective": "x", "versions": {}}
        ),
        *(
            make_line(
                {
                    "number": n,
                    "parameters": {"defocus": 1.5},
                    "objective": 0.5 * n,
                    "fidelity": {"n_iterations": 3},
                    "metrics": {"a": math.nan},
                    "blocks": [1.0],
                    "curve": [[1, 2.0]],
                }
            )
            for n in range(3)
        ),
    ]
)


def check_study(content: bytes):
    """It is read or refused, and what is read can be asked; nothing is changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.jsonl"
        path.write_bytes(content)
        try:
            study = load_study(path)
            for wanted in (study.best, repr(study)):
                assert wanted is not False
        except StudyError as error:
            assert str(path) in str(error) and len(str(error)) > len(str(path)) + 15
        assert path.read_bytes() == content
        header = json.loads(WHOLE.split(b"\n")[0])
        try:
            with Study.open(path, header) as study:
                assert len(study.trials) <= 3
        except StudyError:
            assert path.read_bytes() == content  # what is refused is left as it was


@given(st.integers(0, len(WHOLE)), st.binary(max_size=8), st.integers(0, 40))
def test_a_study_with_bytes_put_in_or_taken_out(place, noise, less):
    check_study(WHOLE[:place] + noise + WHOLE[place + less :])


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["__class__", "number", "a", "n_iterations", "part"]), inner,
                      max_size=2),
    max_leaves=5,
)  # fmt: skip


@settings(settings.get_profile("hs_autoptycho"), max_examples=80)
@given(
    st.sampled_from(
        [
            "number",
            "parameters",
            "fidelity",
            "objective",
            "metrics",
            "blocks",
            "curve",
            "status",
            "seed",
            "purpose",
            "duration",
            "message",
            "attempts",
            "__class__",
        ]
    ),
    json_like,
    st.booleans(),
)
def test_a_study_of_which_an_entry_is_anything(name, value, in_header):
    lines = WHOLE.split(b"\n")
    i = 0 if in_header else 1
    lines[i] = json.dumps({**json.loads(lines[i]), name: value}).encode()
    check_study(b"\n".join(lines))


def test_what_is_read_of_a_study_is_read_again():
    content = read(WHOLE, Path("x"))
    assert [trial.number for trial in content.trials] == [0, 1, 2]
    assert math.isnan(content.trials[0].metrics["a"])
