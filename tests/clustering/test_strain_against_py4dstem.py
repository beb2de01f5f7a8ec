"""The same scan through py4DSTEM's detection of Bragg disks and its strain map."""

import contextlib
import io
import warnings

import numpy as np
import pytest

from hs_autoptycho.clustering.strain import fit_strain

SCAN, SHAPE, CENTER = (3, 4), (96, 90), np.array([47.6, 44.3])


def with_py4dstem(py4dstem, data, probe, radius):
    """e_xx, e_yy, e_xy and rotation in this package's axes, against the scan's median."""
    from py4DSTEM.process.strain import StrainMap

    cube = py4dstem.DataCube(data=data)
    cube.calibration.set_Q_pixel_size(1.0)
    kernel = py4dstem.Probe(probe).get_kernel(
        mode="sigmoid", origin=tuple(CENTER), radii=(1.2 * radius, 2.5 * radius)
    )
    peaks = cube.find_Bragg_disks(
        template=getattr(kernel, "data", kernel), corrPower=1.0, sigma_cc=0.5, minPeakSpacing=10,
        minRelativeIntensity=0.002, minAbsoluteIntensity=0.0, edgeBoundary=8, maxNumPeaks=40,
        subpixel="multicorr", upsample_factor=32,
    )  # fmt: skip
    peaks.measure_origin(center_guess=tuple(CENTER))
    peaks.fit_origin(plot=False)
    peaks.calibrate()
    strain = StrainMap(braggvectors=peaks)
    strain.choose_basis_vectors(minSpacing=10, minRelativeIntensity=0.001, edgeBoundary=8)
    strain.set_max_peak_spacing(max_peak_spacing=4)
    strain.fit_basis_vectors()
    strain.get_strain(layout="square")
    rows, cols, shear, turn, mask = np.asarray(strain.data)[:5]
    assert mask.all()
    # its x runs along the detector's rows; its rotation is in radians
    return np.stack([cols, rows, shear, np.degrees(turn)])


def test_strain_is_that_of_py4dstem(draw_disk, draw_lattice):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        py4dstem = pytest.importorskip("py4DSTEM")
    rng = np.random.default_rng(0)
    radius, angles = 4.0, np.deg2rad(9.0 + np.array([0, 60]))
    basis = 20.0 * np.column_stack([np.sin(angles), np.cos(angles)])
    data = np.empty((*SCAN, *SHAPE), np.float32)
    truth = np.empty((4, *SCAN))
    for y, x in np.ndindex(SCAN):
        e_xx, e_yy, e_xy, turn = 0.006 * (x - 1), -0.004 * y, 0.002 * (x - y), 0.004 * (y - 1.5)
        F = [[1 + e_xx, e_xy - turn], [e_xy + turn, 1 + e_yy]]
        truth[:, y, x] = e_xx, e_yy, e_xy, np.degrees(turn)
        options = {"radius": radius, "edge": 0.4, "electrons": 1e6, "deformation": F}
        data[y, x] = rng.poisson(draw_lattice(SHAPE, CENTER, basis, **options))
    probe = draw_disk(SHAPE, CENTER, radius, 0.4)
    ours = fit_strain(data, np.zeros(SCAN, int), data.mean(axis=(0, 1))[None]).strain
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        theirs = with_py4dstem(py4dstem, data, probe, radius)
    for values, tolerance in ((ours, 7e-4), (theirs, 2e-3)):
        # each has a reference of its own
        difference = values - truth
        difference -= difference.mean(axis=(1, 2), keepdims=True)
        assert np.abs(difference[:3]).max() < tolerance
        assert np.abs(difference[3]).max() < np.degrees(tolerance)
    relative = (ours - theirs) - (ours - theirs).mean(axis=(1, 2), keepdims=True)
    assert np.abs(relative[:3]).max() < 2e-3 and np.abs(relative[3]).max() < 0.1
    assert np.ptp(theirs[:3], axis=(1, 2)).min() > 0.005  # the strain was there to be found
