"""From the microscope's own files to a reconstruction; what a file leaves out is asked for.

The files are written here, in the layout of each format: by RosettaSciIO where it writes it, byte
by byte where it only reads it.
"""

import json
import re
import shutil
import struct

import hyperspy.api as hs
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho._quantities import CalibrationError
from hs_autoptycho.clustering.survey import PatternError
from hs_autoptycho.ptycho.disk import DiskError
from hs_autoptycho.ptycho.loading import DataError

SCAN = (3, 4)
STATED = {
    "beam_energy": 80.0,
    "scan_step": 0.9,
    "reciprocal_pixel": 0.06,
    "scan_rotation": 0.0,
    "convergence_angle": 20.0,
}
ENERGY = "beam_energy is missing"
STEP = "scan_step is missing"
PIXEL = "reciprocal_pixel is missing"


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """What is reconstructed is tiny."""


def patterns(detector, dtype=np.uint8):
    """A disk off the middle in a scan of patterns, no two axes alike; (y, x, ky, kx)."""
    rows, columns = np.indices(detector)
    # 7.9 pixels are 20 mrad
    inside = np.hypot(rows - detector[0] // 2 - 1, columns - detector[1] // 2 + 2) < 7.9
    rng = np.random.default_rng(0)
    return np.clip(rng.poisson(40 * inside, (*SCAN, *detector)), 0, 60).astype(dtype)


def signal(detector, calibrated=True):
    s = hs.signals.Signal2D(patterns(detector))
    if calibrated:
        for axis, name, scale in zip(s.axes_manager._axes, ("y", "x", "ky", "kx"),
                                     (0.9, 0.9, 0.06, 0.06), strict=True):  # fmt: skip
            axis.name, axis.scale = name, scale
            axis.units = "Å" if axis.navigate else "1/Å"
        s.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 80.0)
    return s


def check(s, data, *missing, lazy=True):
    """The scan as it was written; what is missing is asked for, all at once; then it is enough."""
    assert s._lazy == lazy
    assert s.axes_manager.navigation_shape == SCAN[::-1]
    assert np.array_equal(np.asarray(s.data), data)
    if missing:
        with pytest.raises(CalibrationError) as error:
            s.reconstruct_ptycho(defocus=100, scan_rotation=0, n_iterations=1)
        for text in missing:
            assert text in str(error.value)
    if missing or not lazy:
        stated = STATED
    else:
        stated = {"scan_rotation": 0.0}
    obj = s.reconstruct_ptycho(defocus=100, n_iterations=1, **stated)
    assert obj.scan_shape == SCAN
    assert obj.geometry.beam_energy == 80
    assert obj.geometry.scan_step == pytest.approx(0.9)
    assert obj.geometry.reciprocal_pixel == pytest.approx(0.06)
    assert np.isfinite(obj.data).all()


def mended(error, text):
    """The line between backticks that has `text` in it, with the names it leaves to the user."""
    lines = [line for line in re.findall("`([^`]*)`", str(error.value)) if text in line]
    assert lines, str(error.value)
    return lines[0]


def run(line, s, detector):
    names = {"s": s, "hs": hs, "scan_y": SCAN[0], "scan_x": SCAN[1], "k_y": detector[0],
             "k_x": detector[1]}  # fmt: skip
    exec(line, names)
    return names["s"]


# -- HyperSpy's own, which leave nothing out --------------------------------------------------


@pytest.mark.parametrize("extension", ["hspy", "zspy"])
def test_hyperspy(tmp_path, extension):
    if extension == "zspy":
        pytest.importorskip("zarr")
    signal((24, 32)).save(tmp_path / f"scan.{extension}")
    check(hs.load(tmp_path / f"scan.{extension}", lazy=True), patterns((24, 32)))


# -- Quantum Detectors' Merlin ----------------------------------------------------------------


def write_mib(path, data, header):
    frames = data.reshape(-1, *data.shape[2:])
    rows, columns = frames.shape[1:]
    with open(path.with_suffix(".mib"), "wb") as file:
        for i, frame in enumerate(frames):
            text = (
                f"MQ1,{i + 1:06d},00384,01,{columns:04d},{rows:04d},U08,   1x1,01,"
                f"2021-03-18 15:29:18.{i:06d},0.001,0,0,0,3RX,MQ1A,"
                f"2021-03-18T14:29:18.{1000 * i:09d}Z,1000000ns,6,"
            )
            file.write(text.ljust(384).encode())
            file.write(frame[::-1].tobytes())  # a Merlin's first row is the lowest one
    if header:
        path.with_suffix(".hdr").write_text(
            "HDR,\t\n"
            f"Frames in Acquisition (Number):\t{len(frames)}\n"
            f"Frames per Trigger (Number):\t{SCAN[1]}\n"
            "End\t\n"
        )


def test_merlin(tmp_path):
    data = patterns((24, 32))
    write_mib(tmp_path / "scan", data, header=True)
    check(hs.load(tmp_path / "scan.mib", lazy=True), data, ENERGY, STEP, PIXEL)


def test_merlin_without_the_shape_of_the_scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = patterns((24, 32))
    write_mib(tmp_path / "scan", data, header=False)
    s = hs.load("scan.mib", lazy=True)
    assert s.axes_manager.navigation_shape == (12,)
    with pytest.raises(CalibrationError) as error:
        s.reconstruct_ptycho(defocus=100)
    line = mended(error, "hs.load")
    assert line == 's = hs.load("scan.mib", lazy=True, navigation_shape=(scan_x, scan_y))'
    check(run(line, s, (24, 32)), data, ENERGY, STEP, PIXEL)
    check(run(mended(error, "reshape"), s, (24, 32)), data, ENERGY, STEP, PIXEL)


# -- EMPAD ------------------------------------------------------------------------------------


def test_empad(tmp_path):
    data = patterns((128, 128), np.float32)
    raw = np.zeros((12, 130, 128), "<f4")
    raw[:, :128] = data.reshape(12, 128, 128)
    raw.tofile(tmp_path / "scan_x4_y3.raw")
    (tmp_path / "acquisition.xml").write_text(
        '<root name="acquisition"><timestamp isoformat="2019-06-06T13:30:00.164675"/>'
        "<pix_x>4</pix_x><pix_y>3</pix_y>"
        '<raw_file filename="scan_x4_y3.raw"/><exposure_time>1</exposure_time>'
        "<iom_measurements><source.get_voltage>80000.0</source.get_voltage>"
        "</iom_measurements></root>"
    )
    s = hs.load(tmp_path / "acquisition.xml", lazy=True, file_format="EMPAD")
    check(s, data, STEP, PIXEL)


# -- NanoMEGAS and TVIPS ----------------------------------------------------------------------


def test_blockfile(tmp_path):
    signal((32, 32)).save(tmp_path / "scan.blo")
    s = hs.load(tmp_path / "scan.blo", lazy=True)
    # the detector is calibrated in cm on a screen
    with pytest.raises(
        CalibrationError, match=r"0\.060024 cm, and a reciprocal length or an angle"
    ):
        s.reconstruct_ptycho(defocus=100, beam_energy=80)
    check(s, patterns((32, 32)), "reciprocal_pixel=0.02")


def test_tvips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = patterns((24, 32), np.uint16)
    s = signal((24, 32))
    s.change_dtype("uint16")
    s.save("scan_000.tvips")
    s = hs.load("scan_000.tvips", lazy=True)
    assert s.axes_manager.navigation_shape == (12,)
    with pytest.raises(CalibrationError) as error:
        s.reconstruct_ptycho(defocus=100)
    line = mended(error, "hs.load")
    assert "scan_shape=(scan_y, scan_x), scan_start_frame=..." in line
    s = run(line.replace("scan_start_frame=...", "scan_start_frame=0"), s, (24, 32))
    assert s.axes_manager.navigation_shape == SCAN[::-1]
    assert np.array_equal(np.asarray(s.data), data)
    obj = s.reconstruct_ptycho(defocus=100, n_iterations=1, **STATED)
    assert obj.scan_shape == SCAN


# -- CEOS' Panta Rhei, NumPy ------------------------------------------------------------------


def test_panta_rhei(tmp_path):
    data = patterns((24, 32))
    with open(tmp_path / "scan.prz", "wb") as file:
        np.savez(file, data=data, meta_data_json=np.array("[{}]"))
    check(hs.load(tmp_path / "scan.prz", lazy=True), data, ENERGY, STEP, PIXEL)


def test_panta_rhei_with_metadata(tmp_path):
    data = patterns((24, 32))
    calibration = [
        {"value": value, "offset": 0.0, "unit": unit}
        for value, unit in ((0.6, "1/nm"), (0.6, "1/nm"), (0.09, "nm"), (0.09, "nm"))
    ]
    meta = {
        "electron_gun.voltage": 80e3,
        "content.types": ["CameraX", "CameraY", "ScanX", "ScanY"],
        "device.calib": calibration,
        "ref_size": list(data.shape[::-1]),
    }
    with open(tmp_path / "scan.prz", "wb") as file:
        np.savez(file, data=data, meta_data_json=np.array(json.dumps([meta])))
    check(hs.load(tmp_path / "scan.prz", lazy=True), data)


def test_panta_rhei_compressed(tmp_path):
    signal((24, 32)).save(tmp_path / "scan.prz")
    # HyperSpy compresses, and pickles the metadata, which it does not read unless it is told to
    s = hs.load(tmp_path / "scan.prz")
    check(s, patterns((24, 32)), ENERGY, STEP, PIXEL, lazy=False)


def test_numpy(tmp_path):
    np.save(tmp_path / "scan.npy", patterns((24, 32)))
    s = hs.load(tmp_path / "scan.npy", lazy=True)
    s = turned(s, (24, 32))
    check(s, patterns((24, 32)), ENERGY, STEP, PIXEL)


def turned(s, detector):
    """A file without navigation axes: what the methods and the functions say of it, done."""
    assert s.axes_manager.navigation_dimension == 0
    lines = []
    for kind, ask in (
        (CalibrationError, lambda: hs_autoptycho.estimate_geometry(s)),
        (AttributeError, lambda: s.reconstruct_ptycho(defocus=100)),
        (AttributeError, lambda: s.cluster_hierarchical()),
    ):
        with pytest.raises(kind) as error:
            ask()
        lines.append(mended(error, "transpose"))
    assert set(lines) == {"s = s.transpose(signal_axes=2)"}
    return run(lines[0], s, detector)


def test_detector_first(tmp_path):
    """Units that say so are believed; without navigation axes, and with the wrong ones."""
    s = signal((24, 32)).transpose(signal_axes=(0, 1), navigation_axes=(2, 3)).transpose()
    s = hs.signals.BaseSignal(
        s.data.transpose(2, 3, 0, 1),
        axes=[s.axes_manager._axes[i].get_axis_dictionary() | {"navigate": False}
              for i in (2, 3, 0, 1)],
    )  # fmt: skip
    s.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 80.0)
    with pytest.raises(AttributeError) as error:
        s.reconstruct_ptycho(defocus=100)
    right = run(mended(error, "transpose"), s.as_lazy(), (24, 32))
    check(right, patterns((24, 32)))
    wrong = s.as_lazy().transpose(signal_axes=2)
    for ask, kind in (
        (lambda: wrong.reconstruct_ptycho(defocus=100), CalibrationError),
        (lambda: wrong.cluster_hierarchical(), PatternError),
    ):
        with pytest.raises(kind, match="those of the detector") as error:
            ask()
        check(run(mended(error, "transpose"), wrong, (24, 32)), patterns((24, 32)))


# -- HDF5: py4DSTEM, EMD (Berkeley), Arina ----------------------------------------------------


def test_py4dstem_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = patterns((24, 32))
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file.attrs.update(
            authoring_program="emdfile", emd_group_type="file", version_major=1, version_minor=0
        )
        root = file.create_group("datacube_root")
        root.attrs.update(emd_group_type="root", python_class="Root")
        cube = root.create_group("datacube")
        cube.attrs.update(emd_group_type="array", python_class="DataCube")
        cube.create_dataset("data", data=data).attrs["units"] = "pixel intensity"
        steps = ("Rx", "A", 0.9), ("Ry", "A", 0.9), ("Qx", "A^-1", 0.06), ("Qy", "A^-1", 0.06)
        for i, (name, units, step) in enumerate(steps):
            axis = cube.create_dataset(f"dim{i}", data=step * np.arange(2))
            axis.attrs.update(name=name, units=units)
        bundle = root.create_group("metadatabundle")
        bundle.attrs["emd_group_type"] = "metadatabundle"
        calibration = bundle.create_group("calibration")
        calibration.attrs.update(emd_group_type="metadata", python_class="Calibration")
        for name, value in (("R_pixel_size", 0.9), ("Q_pixel_size", 0.06),
                            ("R_pixel_units", "A"), ("Q_pixel_units", "A^-1")):  # fmt: skip
            calibration.create_dataset(name, data=value)
    s = hs.load(tmp_path / "cube.h5", lazy=True, file_format="EMD")
    check(turned(s, (24, 32)), data, ENERGY)


def test_emd_berkeley(tmp_path):
    signal((24, 32)).save(tmp_path / "scan.emd")
    s = hs.load(tmp_path / "scan.emd", lazy=True)
    check(turned(s, (24, 32)), patterns((24, 32)), ENERGY)


def test_arina(tmp_path):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("hdf5plugin", reason="RosettaSciIO reads Arina's files with hdf5plugin")
    data = patterns((32, 32), np.uint16)
    with h5py.File(tmp_path / "scan_data_000001.h5", "w") as file:
        file.create_dataset("entry/data/data", data=data.reshape(12, 32, 32))
    with h5py.File(tmp_path / "scan_master.h5", "w") as file:
        group = file.create_group("entry/data")
        group["data_000001"] = h5py.ExternalLink("scan_data_000001.h5", "/entry/data/data")
    # RosettaSciIO calls the slow axis x, and reads the whole file into memory
    s = hs.load(tmp_path / "scan_master.h5", file_format="Arina", navigation_shape=SCAN)
    s = turned(s, (32, 32))
    check(s, data, ENERGY, "scan_step", "reciprocal_pixel", lazy=False)


# -- Gatan's DigitalMicrograph -----------------------------------------------------------------


def dm4(tree):
    """A DM4 file of nested dictionaries, lists, text, numbers and arrays."""

    def tag(name, value):
        name = name.encode()
        if isinstance(value, dict | list):
            body = group(value)
            return struct.pack(">bh", 20, len(name)) + name + struct.pack(">q", len(body)) + body
        if isinstance(value, str):
            value = np.array(list(value.encode("utf-16-le")), "u1").view("<u2")
        if isinstance(value, np.ndarray):
            code = {"u2": 4, "u1": 10}[value.dtype.str[1:]]
            kind, raw = struct.pack(">4q", 3, 20, code, value.size), value.tobytes()
        else:
            code, letter = (5, "L") if isinstance(value, int) else (7, "d")
            kind, raw = struct.pack(">2q", 1, code), struct.pack("<" + letter, value)
        body = b"%%%%" + kind + raw
        return struct.pack(">bh", 21, len(name)) + name + struct.pack(">q", len(body)) + body

    def group(value):
        items = value.items() if isinstance(value, dict) else [("", v) for v in value]
        return struct.pack(">bbq", 0, 0, len(items)) + b"".join(tag(*item) for item in items)

    root = group(tree)
    return struct.pack(">iqi", 4, len(root), 1) + root


def write_dm4(path, data, axes):
    """Axes (scale, units) in the order of the array; DigitalMicrograph has the last one first."""
    dimensions = [{"Origin": 0.0, "Scale": scale, "Units": units} for scale, units in axes[::-1]]
    brightness = {"Origin": 0.0, "Scale": 1.0, "Units": ""}
    image = {
        "Calibrations": {"Brightness": brightness, "Dimension": dimensions},
        "Data": data.ravel(),
        "DataType": 10,
        "Dimensions": [int(n) for n in data.shape[::-1]],
        "PixelDepth": 2,
    }
    tags = {"Microscope Info": {"Voltage": 80e3}}
    path.write_bytes(dm4({"ImageList": [{"ImageData": image, "ImageTags": tags, "Name": "4D"}]}))


STEPS = [(0.09, "nm")] * 2
PIXELS = [(0.6, "1/nm")] * 2


def test_digital_micrograph(tmp_path):
    data = patterns((24, 32), np.uint16)
    write_dm4(tmp_path / "scan.dm4", data, STEPS + PIXELS)
    check(hs.load(tmp_path / "scan.dm4", lazy=True), data)


def test_digital_micrograph_not_calibrated(tmp_path):
    data = patterns((24, 32), np.uint16)
    write_dm4(tmp_path / "scan.dm4", data, [(1.0, "")] * 4)
    check(hs.load(tmp_path / "scan.dm4", lazy=True), data, STEP, PIXEL)


def test_digital_micrograph_with_the_detector_first(tmp_path):
    data = patterns((24, 32), np.uint16)
    write_dm4(tmp_path / "scan.dm4", data.transpose(2, 3, 0, 1).copy(), PIXELS + STEPS)
    s = hs.load(tmp_path / "scan.dm4", lazy=True)
    assert s.axes_manager.navigation_shape == (32, 24)
    with pytest.raises(CalibrationError) as error:
        s.reconstruct_ptycho(defocus=100)
    check(run(mended(error, "transpose"), s, (24, 32)), data)


def test_one_pattern(shared_data):
    s = hs.load(shared_data / "vendor_files" / "test_diffraction_pattern.dm3")
    assert s.axes_manager.navigation_dimension == 0
    for kind, method in ((CalibrationError, s.reconstruct_ptycho), (CalibrationError,
                         s.autotune_ptycho), (PatternError, s.cluster_hierarchical)):  # fmt: skip
        with pytest.raises(kind, match="One pattern or image is no scan"):
            method()


# -- Thermo Fisher's Velox --------------------------------------------------------------------


def test_velox(tmp_path):
    """A stack of camera images, which is how HyperSpy reads what Velox has of a scan."""
    h5py = pytest.importorskip("h5py")
    data = patterns((24, 32), np.uint16)
    meta = {
        "BinaryResult": {
            "PixelSize": {"width": "600000000", "height": "600000000"},
            "Offset": {"x": "0", "y": "0"}, "PixelUnitX": "1/m", "PixelUnitY": "1/m",
            "DetectorIndex": "0",
        },
        "Detectors": {"Detector-0": {"DetectorName": "BM-Ceta", "ExposureTime": "0.01"}},
        "Scan": {},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1700000000"}},
        "Optics": {"AccelerationVoltage": "80000"},
        "CustomProperties": {},
    }  # fmt: skip
    with h5py.File(tmp_path / "scan.emd", "w") as file:
        version = json.dumps({"format": "Velox", "version": "1.9"}).encode()
        file.create_dataset("Version", data=np.array([version]))
        group = file.create_group("Data/Image/0123456789abcdef")
        group.create_dataset("Data", data=np.moveaxis(data.reshape(12, 24, 32), 0, -1))
        text = np.frombuffer(json.dumps(meta).encode(), "u1")
        group.create_dataset("Metadata", data=text[:, np.newaxis])
    s = hs.load(tmp_path / "scan.emd")
    assert s.axes_manager.navigation_shape == (12,)
    assert s.metadata.Acquisition_instrument.TEM.beam_energy == 80
    with pytest.raises(CalibrationError) as error:
        s.reconstruct_ptycho(defocus=100)
    check(run(mended(error, "reshape"), s, (24, 32)), data, ENERGY, STEP, PIXEL, lazy=False)


# -- measured ones ----------------------------------------------------------------------------

REAL = [
    ("merlin/001_4x2_6bit.mib", {}, (4, 2), (256, 256)),
    ("merlin/002_4x2_6bit_roi128.mib", {}, (4, 2), (256, 128)),
    ("merlin/001_4x2_6bit.mib", {"navigation_shape": (2, 4)}, (2, 4), (256, 256)),
    ("blo/test1.blo", {}, (2, 3), (144, 144)),
    ("tvips/test_tvips_2345_000.tvips", {"scan_shape": (2, 3)}, (3, 2), (5, 4)),
    ("tia/16x16-diffraction_imagel_5x5x256x256_EDS.emi", {}, (5, 5), (256, 256)),
]


@pytest.mark.parametrize(("name", "options", "scan", "detector"), REAL)
def test_measured(shared_data, name, options, scan, detector):
    """They load as a scan, and whatever they lack is asked for by name."""
    file = shared_data / "vendor_files" / name
    if not file.is_file():
        pytest.skip(f"no {file}")
    s = hs.load(file, lazy=True, **options)
    s = s[1] if isinstance(s, list) else s  # .emi: spectra first
    assert s.axes_manager.navigation_shape == scan
    assert s.axes_manager.signal_shape == detector
    # an odd detector, no energy, no units; no disk in the pattern; negative counts
    with pytest.raises((CalibrationError, DiskError, DataError)) as error:
        s.reconstruct_ptycho(defocus=100)
    assert "`" in str(error.value)


@pytest.mark.parametrize(
    ("name", "scan", "missing"),
    [
        ("map4x4", (4, 4), [ENERGY]),
        ("EMPAD_v1.2.2_x32_y64_size0.8", (32, 64), [ENERGY, PIXEL]),
        ("06_35000x_alpha0p42", (128, 128), [ENERGY, PIXEL]),
        ("stack_images", (10,), ["reshape(scan_y, scan_x, k_y, k_x)"]),
    ],
)
def test_measured_headers_of_empad(shared_data, tmp_path, name, scan, missing):
    file = shared_data / "vendor_files" / "empad_xml" / f"{name}.xml"
    if not file.is_file():
        pytest.skip(f"no {file}")
    shutil.copy(file, tmp_path)
    raw = re.search('raw_file filename="([^"]*)"', file.read_text(encoding="utf-8"))[1]
    with open(tmp_path / raw, "wb") as data:
        data.truncate(4 * 128 * 130 * int(np.prod(scan)))
    s = hs.load(tmp_path / f"{name}.xml", lazy=True, file_format="EMPAD")
    assert s.axes_manager.navigation_shape == scan
    assert s.axes_manager.signal_shape == (128, 128)
    with pytest.raises(CalibrationError) as error:
        s.reconstruct_ptycho(defocus=100)
    for text in missing:
        assert text in str(error.value)


def test_measured_without_navigation_axes(shared_data):
    folder = shared_data / "vendor_files"
    s = hs.load(folder / "emd" / "py4DSTEM_size2x3x4x5.h5", lazy=True, file_format="EMD")
    s = turned(s, (4, 5))
    assert s.data.shape == (2, 3, 4, 5)
    with pytest.raises(CalibrationError, match=r"even.*Leave out the last"):
        s.reconstruct_ptycho(defocus=100)
    pytest.importorskip("hdf5plugin", reason="RosettaSciIO reads Arina's files with hdf5plugin")
    s = hs.load(folder / "arina" / "test_00_master.h5", file_format="Arina")
    s = turned(s, (192, 192))
    assert s.data.shape == (4, 4, 192, 192)
    with pytest.raises(CalibrationError, match="beam_energy is missing"):
        s.reconstruct_ptycho(defocus=100)  # said before what is wrong with the counts
    told = {"beam_energy": 200, "scan_step": 1, "reciprocal_pixel": 0.01, "convergence_angle": 10}
    with pytest.raises(DataError, match="not one count"):
        s.reconstruct_ptycho(defocus=100, **told)
