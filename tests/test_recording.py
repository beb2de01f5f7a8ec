"""What a user said of how the data were taken stays with the result, and is used again."""

import hyperspy.api as hs
import numpy as np
import pytest

from hs_autoptycho.data import twisted_bilayer_mos2
from hs_autoptycho.signals._record import RecordError

pytestmark = pytest.mark.usefixtures("one_thread")

KNOWN = {"defocus": 120.0, "scan_rotation": 12.0}
RUN = {**KNOWN, "n_iterations": 3}


@pytest.fixture(scope="module")
def scan():
    """With a hot pixel, dark counts and no telling by the axes where its disk is."""
    signal = twisted_bilayer_mos2(scan_shape=(7, 9), detector_shape=(32, 40), **KNOWN)
    signal.data = signal.data.astype(np.uint16) + 2
    signal.data[:, :, 3, 5] = 30000
    return signal


@pytest.fixture(scope="module")
def said():
    mask = np.ones((32, 40), bool)
    mask[3, 5] = False
    background = np.full((32, 40), 2.0)
    background[0] = 1.5
    return {"detector_mask": mask, "background": background, "disk_radius": 8.25}


@pytest.mark.parametrize("extension", [None, "hspy", "zspy"])
def test_a_result_is_repeated_from_what_it_remembers(scan, said, extension, tmp_path):
    obj = scan.reconstruct_ptycho(**RUN, **said)
    if extension:
        obj.save(tmp_path / f"object.{extension}")
        obj = hs.load(tmp_path / f"object.{extension}")
    assert set(obj.recording) == set(said)
    assert obj.recording["disk_radius"] == 8.25
    for name in ("detector_mask", "background"):
        assert obj.recording[name].dtype == said[name].dtype
        assert np.array_equal(obj.recording[name], said[name])
    again = scan.reconstruct_ptycho(**obj.parameters, **obj.recording)
    assert np.array_equal(again.data, obj.data)
    # without it the hot pixel is fitted
    assert not np.array_equal(scan.reconstruct_ptycho(**obj.parameters).data, obj.data)
    obj.recording["detector_mask"][:] = False
    assert obj.recording["detector_mask"].any()  # a copy


def test_nothing_was_said(scan):
    obj = scan.reconstruct_ptycho(**KNOWN, n_iterations=1)
    assert obj.recording == {} and not obj.metadata.has_item("Ptychography.recording")
    obj.metadata.Ptychography.recording = {"code": "1 + 1"}
    with pytest.raises(RecordError, match=r"Ptychography\.recording is damaged .*code"):
        obj.recording  # noqa: B018


def test_a_constant_background_and_the_centre(scan):
    obj = scan.reconstruct_ptycho(**KNOWN, n_iterations=1, background=2, disk_center=(16, 20))
    assert obj.recording == {"background": 2.0, "disk_center": [16.0, 20.0]}
    again = scan.reconstruct_ptycho(**obj.parameters, **obj.recording)
    assert np.array_equal(again.data, obj.data)


def test_trials_are_compared_with_the_mask_that_they_had(scan, said):
    mask = {"detector_mask": said["detector_mask"]}
    obj = scan.autotune_ptycho(
        {"defocus": (80, 160)},
        n_trials=2,
        strategy="random",
        fixed={**mask, "scan_rotation": 12.0},
        n_iterations=2,
        n_trial_iterations=2,
    )
    compared = obj.compare_trials([0, 1], signal=scan)
    for trial, found in zip(obj.trials, compared.objects, strict=True):
        parameters = {**obj.parameters, **trial["parameters"], "n_iterations": 2}
        expected = scan.reconstruct_ptycho(**parameters, **mask, random_state=trial["seed"])
        assert np.array_equal(found.data, expected.data)
