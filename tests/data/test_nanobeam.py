"""Simulated nanobeam scans: what is drawn, how it is counted, and the truth behind it."""

import pickle

import hyperspy.api as hs
import numpy as np
import pytest
from scipy import stats

from hs_autoptycho.data import (
    _crystals,
    _nanobeam,
    _nanobeam_kernels,
    _snse_domains,
    _ws2_wse2_junction,
    domain_purity,
    snse_domains,
    true_domains,
    true_lattices,
    true_strain,
    ws2_wse2_junction,
)
from hs_autoptycho.data._multislice import electron_wavelength

# four different sizes: that is where swapped axes show
SMALL = {"scan_shape": (11, 13), "detector_shape": (96, 104)}
SPECIMENS = {ws2_wse2_junction: _ws2_wse2_junction, snse_domains: _snse_domains}


@pytest.fixture(scope="module", params=SPECIMENS, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture(scope="module")
def junction():
    return ws2_wse2_junction(**SMALL, electrons=None)


def disk_centroid(pattern, row, col, radius):
    """Centre of mass about (row, col), the level in a ring around taken off."""
    y, x = np.indices(pattern.shape)
    for _ in range(6):
        distance = np.hypot(y - row, x - col)
        ring = (distance > radius + 2.5) & (distance < radius + 4.5)
        basis = np.column_stack([np.ones(ring.sum()), y[ring] - row, x[ring] - col])
        level = np.linalg.lstsq(basis, pattern[ring], rcond=None)[0]
        # a soft window, so that no pixel jumps in or out
        window = np.clip(radius + 3 - distance, 0, 1)
        rest = pattern - (level[0] + level[1] * (y - row) + level[2] * (x - col))
        weight = window * rest
        row, col = (weight * y).sum() / weight.sum(), (weight * x).sum() / weight.sum()
    return np.array([row, col])


def measured_lattice(pattern, lattice, pixel, radius, center):
    """Reciprocal vectors fitted to the centroids of the strong disks of one pattern."""
    ks, centroids = [], []
    for h, k in ((1, 1), (-1, -1), (2, 0), (-2, 0), (0, 2), (0, -2), (1, -1), (-1, 1)):
        spot = lattice @ (h, k) / pixel
        at = (center[0] + spot[1], center[1] + spot[0])
        if min(*at, *(np.array(pattern.shape) - at)) < radius + 5:
            continue
        found = disk_centroid(pattern, *at, radius)
        ks.append((h, k))
        centroids.append(found[::-1] - center[::-1])
    assert len(ks) >= 4
    return np.linalg.lstsq(np.array(ks), np.array(centroids) * pixel, rcond=None)[0].T


class TestSignal:
    def test_axes_and_metadata(self, make):
        signal = make(**SMALL)
        assert signal.data.shape == (11, 13, 96, 104)
        axes = {axis.name: axis for axis in signal.axes_manager._axes}
        assert list(axes) == ["y", "x", "ky", "kx"]
        assert [axis.units for axis in axes.values()] == ["Å", "Å", "1/Å", "1/Å"]
        assert axes["x"].scale == axes["y"].scale == 50
        assert axes["ky"].axis[48] == axes["kx"].axis[52] == 0
        assert axes["kx"].scale == pytest.approx(2.5 / 96)
        microscope = signal.metadata.Acquisition_instrument.TEM
        assert (microscope.beam_energy, microscope.convergence_angle) == (80, 1.5)
        assert signal.data.dtype == np.uint8

    def test_defaults(self, make):
        # the first order of WSe2 is 18 pixels out, the third is on the detector
        signal = make(scan_shape=(1, 1))
        lattice = next(reversed(true_lattices(ws2_wse2_junction(scan_shape=(1, 1))).values()))
        pixel = signal.axes_manager["kx"].scale
        assert np.linalg.norm(lattice[:, 0]) / pixel == pytest.approx(18, abs=0.3)
        assert signal.data.shape == (1, 1, 128, 128)

    def test_electrons(self, make):
        exact = make(**SMALL, electrons=None)
        assert exact.data.dtype == np.float32
        np.testing.assert_allclose(exact.data.sum(axis=(2, 3)), 1, atol=0.01)
        for electrons in (7, 300, 5e4):
            total = make(**SMALL, electrons=electrons).data.sum(axis=(2, 3), dtype=float)
            error = np.sqrt(electrons / total.size) * 4 + 0.004 * electrons
            assert total.mean() == pytest.approx(electrons, abs=error)

    # few electrons are drawn one by one, many pixel by pixel, bright pixels by rejection
    @pytest.mark.parametrize("electrons", [600, 4000, 3e6])
    def test_counts_are_poisson(self, electrons):
        size = {"scan_shape": (40, 42), "detector_shape": (24, 20), "single_domain": "WSe2"}
        mean = ws2_wse2_junction(**size, electrons=None).data[0, 0].astype(float) * electrons
        counts = ws2_wse2_junction(**size, electrons=electrons, dtype=np.uint32).data
        counts = counts.reshape(-1, *mean.shape).astype(float)
        n = len(counts)
        z = (counts.mean(axis=0) - mean) / np.sqrt(mean / n)
        assert abs(z.mean()) < 0.2 and z.std() == pytest.approx(1, abs=0.12)
        variance = counts.var(axis=0, ddof=1) / mean
        assert variance.mean() == pytest.approx(1, abs=0.015)
        third = ((counts - mean) ** 3).mean(axis=0) / mean
        assert np.average(third, weights=mean**-2) == pytest.approx(1, abs=0.5)
        # pixels and positions know nothing of each other
        flat = (counts - mean) / np.sqrt(mean)
        assert abs((flat[1:] * flat[:-1]).mean()) < 5 / np.sqrt(flat.size)
        assert abs((flat[..., 1:] * flat[..., :-1]).mean()) < 5 / np.sqrt(flat.size)

    @pytest.mark.parametrize("mean", [0.3, 5, 11.9, 12.1, 40, 3000])
    def test_poisson(self, mean):
        state = np.array([12345], np.uint64)
        counts = np.array([_nanobeam_kernels._poisson(state, float(mean)) for _ in range(100_000)])
        law = stats.poisson(mean)
        edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 25)))
        expected = np.diff(law.cdf([-1, *edges, np.inf])) * counts.size
        found = np.bincount(np.searchsorted(edges, counts), minlength=len(expected))
        assert stats.chisquare(found, expected).pvalue > 1e-3

    def test_seed(self, make):
        first, again = make(**SMALL).data, make(**SMALL).data
        np.testing.assert_array_equal(first, again)
        assert np.any(make(**SMALL, random_state=1).data != first)
        assert np.any(first[0, 0] != first[0, 1])

    def test_users_random_numbers_are_left_alone(self, make):
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        make(**SMALL)
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002

    @pytest.mark.parametrize("electrons", [None, 300, 1e4])
    def test_lazy_is_the_same(self, make, electrons):
        options = {"scan_shape": (11, 13), "detector_shape": (48, 52), "electrons": electrons,
                   "descan": (2, -3), "thickness_ramp": 0.3, "intensity_ramp": 0.2,
                   "hot_pixels": 3}  # fmt: skip
        eager = make(**options)
        lazy = make(**options, lazy=True)
        assert lazy._lazy and not eager._lazy
        assert lazy.data.dtype == eager.data.dtype
        np.testing.assert_array_equal(lazy.data.compute(scheduler="threads"), eager.data)
        parameters = eager.metadata.Simulation.as_dictionary()
        specimen = SPECIMENS[make]
        simulator = _nanobeam.Simulator(parameters, specimen.make_specimen, eager.data.dtype)
        simulator = pickle.loads(pickle.dumps(simulator))
        for chunks in ((4, 5), (11, 1), (1, 13), (3, 13)):
            blocks = simulator.dask_array(chunks)
            assert blocks.chunksize[:2] == chunks
            np.testing.assert_array_equal(blocks.compute(scheduler="sync"), eager.data)

    def test_large_scans_are_lazy(self, make):
        signal = make(scan_shape=(256, 250), detector_shape=(256, 252), electrons=None)
        assert signal._lazy and signal.data.dtype == np.float32
        assert np.prod(signal.data.chunksize) * 4 < 64e6
        corner = signal.data[-1, -1].compute()
        assert corner.sum() == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"scan_shape": 5}, "scan_shape must be two numbers"),
            ({"scan_shape": (4, 0)}, "scan_shape must be at least 1"),
            ({"detector_shape": (48.5, 64)}, "detector_shape must be two whole numbers"),
            ({"detector_shape": (4, 64)}, "detector_shape must be at least 8"),
            ({"scan_step": 0}, "scan_step must be above zero"),
            ({"electrons": -3}, "electrons must be above zero"),
            ({"electrons": "many"}, "electrons must be a number"),
            ({"probe_size": -1}, "probe_size must not be negative"),
            ({"beam_energy": np.nan}, "beam_energy must be finite"),
            ({"direct_beam": 0.6, "diffuse": 0.5}, "leave nothing for Bragg"),
            ({"descan": (1, np.inf)}, "descan must be finite"),
            ({"beam_shift": (0, 51)}, "direct disk"),
            ({"convergence_angle": 100}, "direct disk"),
            ({"thickness_ramp": 2}, "thickness_ramp must be between"),
            ({"hot_pixels": 1.5}, "hot_pixels must be a whole number"),
            ({"hot_pixels": 5000}, "more than a tenth"),
            ({"random_state": None}, "random_state must be a number"),
            ({"single_domain": "MoS2"}, "no domain 'MoS2'; the domains are"),
            ({"single_domain": "MoS2", "lazy": True}, "no domain 'MoS2'"),
            ({"dtype": "int8"}, "dtype must be"),
            ({"electrons": None, "dtype": "uint8"}, "must be a float type"),
            ({"strain": "much"}, "strain must be"),
            ({"orientation": np.nan}, "orientation must be finite"),
        ],
    )
    def test_errors(self, make, change, message):
        with pytest.raises(ValueError, match=message):
            make(**{**SMALL, **change})

    @pytest.mark.parametrize(
        ("make", "change", "message"),
        [
            (ws2_wse2_junction, {"strain": 0.01}, "strain must be two numbers"),
            (ws2_wse2_junction, {"strain": (0.01, 0.5)}, "between -0.2 and 0.2"),
            (ws2_wse2_junction, {"strain_direction": "up"}, "'perpendicular' or 'parallel'"),
            (ws2_wse2_junction, {"ripple": 80}, "ripple must be between"),
            (snse_domains, {"strain": 0.5}, "between -0.2 and 0.2"),
            (snse_domains, {"strain_length": 0}, "strain_length must be above zero"),
            (snse_domains, {"asymmetry": 1}, "asymmetry must be"),
        ],
    )
    def test_errors_of_one(self, make, change, message):
        with pytest.raises(ValueError, match=message):
            make(**{**SMALL, **change})


class TestArtefacts:
    def test_one_domain(self, make):
        for name in true_domains(make(scan_shape=(1, 1))).metadata.Simulation.names[-1]:
            signal = make(**SMALL, electrons=None, single_domain=name)
            np.testing.assert_array_equal(signal.data, signal.data[:1, :1] + 0 * signal.data)
            truth = true_domains(signal)
            assert np.ptp(truth.data, axis=(1, 2)).max() == 0
            assert truth.metadata.Simulation.names[-1][truth.data[-1, 0, 0]] == name

    def test_descan_and_shift(self):
        options = {**SMALL, "electrons": None, "single_domain": "substrate", "diffuse": 0.01}
        signal = ws2_wse2_junction(**options, descan=(3, -2), beam_shift=(4, 1.5))
        for y, x in ((0, 0), (10, 0), (0, 12), (10, 12), (5, 6)):
            expected = (48 + 4 + 3 * (y / 10 - 0.5), 52 + 1.5 - 2 * (x / 12 - 0.5))
            found = disk_centroid(signal.data[y, x].astype(float), *expected, 1.4)
            np.testing.assert_allclose(found, expected, atol=0.005)

    def test_thickness(self, make):
        name = true_domains(make(scan_shape=(1, 1))).metadata.Simulation.names[-1][1]
        options = {**SMALL, "electrons": None, "single_domain": name}
        plain, ramp = make(**options).data, make(**options, thickness_ramp=0.4).data
        np.testing.assert_allclose(ramp.sum(axis=(2, 3)), 1, atol=0.01)
        np.testing.assert_array_equal(ramp[:, 6], plain[:, 6])
        np.testing.assert_array_equal(ramp[0], ramp[-1])
        # between the disks there is diffuse scattering alone
        dark = plain[0, 0] < np.quantile(plain[0, 0], 0.5)
        change = ramp[0, :, dark].sum(axis=0) / plain[0, :, dark].sum(axis=0)
        np.testing.assert_allclose(change, 1 + 0.4 * (np.arange(13) / 12 - 0.5), atol=0.02)
        assert np.abs(ramp[0, 0] - plain[0, 0]).max() > 1e-4

    def test_intensity(self, make):
        totals = make(**SMALL, electrons=None, intensity_ramp=0.5).data.sum(axis=(2, 3))
        expected = 1 + 0.5 * (np.arange(11) / 10 - 0.5)
        np.testing.assert_allclose(totals, np.tile(expected[:, None], 13), atol=0.015)

    def test_hot_pixels(self, make):
        plain, hot = make(**SMALL).data.astype(int), make(**SMALL, hot_pixels=4).data.astype(int)
        added = hot - plain
        np.testing.assert_array_equal(added, added[:1, :1] + 0 * added)
        assert sorted(added[0, 0].ravel())[-5:] == [0, 15, 15, 15, 15]

    def test_direct_beam(self):
        options = {**SMALL, "electrons": None, "single_domain": "WSe2"}
        for share in (0.05, 0.6):
            pattern = ws2_wse2_junction(**options, direct_beam=share, diffuse=0.02).data[0, 0]
            y, x = np.indices(pattern.shape)
            disk = np.hypot(y - 48, x - 52) < 5
            assert pattern[disk].sum() == pytest.approx(share, abs=0.005)


class TestPatterns:
    def test_disks_are_where_the_lattice_says(self):
        options = {**SMALL, "electrons": None, "single_domain": "WSe2", "beam_shift": (1.3, -0.4)}
        signal = ws2_wse2_junction(**options, orientation=14)
        pattern = signal.data[2, 3].astype(float)
        pixel = 2.5 / 96
        radius = 1.5e-3 / electron_wavelength(80) / pixel
        # from the lattice constant alone: x along the columns, y along the rows
        length = 2 / np.sqrt(3) / 3.282 / pixel
        for n in range(6):
            angle = np.deg2rad(14 - 30 + 60 * n)
            at = 48 + 1.3 + length * np.sin(angle), 52 - 0.4 + length * np.cos(angle)
            np.testing.assert_allclose(disk_centroid(pattern, *at, radius), at, atol=0.02)

    def test_disk_radius(self):
        options = {**SMALL, "electrons": None, "single_domain": "substrate", "diffuse": 0.0}
        pattern = ws2_wse2_junction(**options, convergence_angle=6, direct_beam=0.9).data[0, 0]
        y, x = np.indices(pattern.shape)
        # second moment of a disk, and of the point spread of half a pixel
        second = (((y - 48) ** 2 + (x - 52) ** 2) * pattern).sum() / pattern.sum()
        radius = 6e-3 / electron_wavelength(80) / (2.5 / 96)
        assert second == pytest.approx(radius**2 / 2 + 2 * 0.5**2, rel=1e-3)

    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (ws2_wse2_junction, {}),
            (ws2_wse2_junction, {"strain": (0.04, -0.02), "strain_direction": "parallel"}),
            (snse_domains, {"strain": 0.04, "strain_length": 200.0}),
        ],
    )
    def test_strain_of_the_patterns(self, make, options):
        signal = make(**SMALL, **options, electrons=None, diffuse=0.0, convergence_angle=1.0)
        labels, strain = true_domains(signal).data[-1], true_strain(signal, reference="own").data
        names = true_domains(signal).metadata.Simulation.names[-1]
        lattices = true_lattices(signal)
        pixel = signal.axes_manager["kx"].scale
        radius = 1e-3 / electron_wavelength(80) / pixel
        pure = domain_purity(signal).data == 1
        checked = set()
        for y, x in zip(*np.nonzero(pure), strict=True):
            name = names[labels[y, x]]
            if name in ("substrate", "WSe2 rippled"):
                continue
            e_xx, e_yy, e_xy, turn = strain[:, y, x].astype(float)
            turn = np.deg2rad(turn)
            f = np.eye(2) + [[e_xx, e_xy - turn], [e_xy + turn, e_yy]]
            drawn = np.linalg.inv(f).T @ lattices[name]
            pattern = signal.data[y, x].astype(float)
            found = measured_lattice(pattern, drawn, pixel, radius, (48, 52))
            np.testing.assert_allclose(found, drawn, atol=2e-4 * np.linalg.norm(drawn))
            checked.add(name)
        assert len(checked) >= 3

    def test_ripples(self):
        options = {**SMALL, "electrons": None, "diffuse": 0.0, "reciprocal_pixel": 0.018}
        ripple = {name: ws2_wse2_junction(**options, single_domain=name).data[0, 0]
                  for name in ("WSe2 flat", "WSe2 rippled")}  # fmt: skip
        lattices = true_lattices(ws2_wse2_junction(**options))
        stretch = lattices["WSe2 rippled"] @ np.linalg.inv(lattices["WSe2 flat"])
        mean = np.mean(1 / np.cos(np.deg2rad(12 * np.sin(np.linspace(0, 2 * np.pi, 1000)))))
        np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(stretch)), [1, mean], rtol=1e-3)
        widths = []
        radius = 1.5e-3 / electron_wavelength(80) / 0.018
        for name, pattern in ripple.items():
            # the (3, 0) along the direction of the ripples is streaked, not the one across
            flat = lattices["WSe2 flat"]
            spots = [flat @ hk / 0.018 for hk in ((1, 1), (2, -1), (-1, 2))]
            for k_x, k_y in spots:
                at = disk_centroid(pattern.astype(float), 48 + k_y, 52 + k_x, radius)
                y, x = np.indices(pattern.shape)
                near = np.hypot(y - at[0], x - at[1]) < radius + 3
                weight = pattern[near] / pattern[near].sum()
                along = ((y - 48) * k_y + (x - 52) * k_x)[near] / np.hypot(k_x, k_y)
                widths.append((name, (weight @ along**2 - (weight @ along) ** 2)))
        flat, wavy = (np.array([w for n, w in widths if n == name]) for name in ripple)
        assert (wavy / flat).max() > 1.02 and (wavy / flat).min() < 1.01

    def test_friedel_pairs(self):
        options = {**SMALL, "electrons": None, "diffuse": 0.0}
        up, down = (snse_domains(**options, single_domain=name).data[0, 0]
                    for name in ("SnSe 0", "SnSe 180"))  # fmt: skip
        turned = up[::-1, ::-1]  # pixel [48, 52] goes to [47, 51]
        np.testing.assert_allclose(down[1:, 1:], turned[:-1, :-1], atol=1e-6)
        assert np.abs(up - down).sum() > 0.05
        none = snse_domains(**options, single_domain="SnSe 90", asymmetry=0).data[0, 0]
        np.testing.assert_allclose(none[1:, 1:], none[::-1, ::-1][:-1, :-1], atol=1e-6)
        # the stronger one of each pair is on the side that the polarisation points to
        angle = np.deg2rad(9)
        y, x = np.indices(up.shape)
        side = (x - 52) * np.cos(angle) + (y - 48) * np.sin(angle)
        assert (up * side).sum() > 0.1 and (down * side).sum() < -0.1

    def test_probe(self):
        points = _nanobeam.probe_points(20.0)
        np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
        variance = (20 / 2.3548) ** 2
        np.testing.assert_allclose(np.cov(points.T), variance * np.eye(2), atol=0.06 * variance)
        # a straight boundary anywhere has the Gaussian's shares on its sides
        for angle in np.linspace(0, np.pi, 12):
            along = points @ (np.sin(angle), np.cos(angle)) / np.sqrt(variance)
            for edge in (-1.0, 0.3, 1.2):
                assert (along < edge).mean() == pytest.approx(stats.norm.cdf(edge), abs=0.06)

    def test_boundaries_are_mixtures(self):
        options = {**SMALL, "scan_step": 5.0, "electrons": None}
        signal = ws2_wse2_junction(**options, strain=(0, 0), probe_size=15)
        purity, labels = domain_purity(signal).data, true_domains(signal).data[1]
        # without strain the label 2 looks as 3 does
        names = {0: "substrate", 1: "WS2", 3: "WSe2 flat", 4: "WSe2 rippled"}
        pure = [ws2_wse2_junction(**options, single_domain=name).data[0, 0] for name in
                names.values()]  # fmt: skip
        basis = np.array(pure, float).reshape(4, -1).T
        patterns = signal.data.reshape(-1, len(basis)).astype(float)
        shares = np.linalg.lstsq(basis, patterns.T, rcond=None)[0].reshape(4, *labels.shape)
        np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-4)
        assert shares.min() > -1e-4
        for share, label in zip(shares, names, strict=True):
            mixed = (labels == label) & (purity < 1)
            assert mixed.any()
            if label != 3:
                np.testing.assert_allclose(share[mixed], purity[mixed], atol=1e-4)
        sharp = ws2_wse2_junction(**options, probe_size=0)
        assert domain_purity(sharp).data.min() == 1


class TestCrystals:
    def test_scattering_factors(self):
        pytest.importorskip("abtem")
        from abtem.parametrizations import LobatoParametrization

        k2 = np.linspace(0.01, 4, 30)
        for element in ("S", "Se", "Sn", "W"):
            theirs = LobatoParametrization().scattering_factor(element)(k2)
            np.testing.assert_allclose(_crystals.scattering_factor(element, k2), theirs, rtol=1e-3)

    def test_thin_limit_is_kinematic(self):
        # at a high energy and with light atoms only the first Born approximation is left
        sheet = _crystals.two_h_monolayer("S", "S", 6.0, 1.5)
        indices, grating = _crystals.reflections(sheet, 1000.0, 1.0)
        kinematic = np.abs(_crystals.structure_factor(sheet, indices)) ** 2
        strong = kinematic > 0.1 * kinematic.max()
        ratio = grating[strong] / kinematic[strong]
        assert ratio.std() / ratio.mean() < 0.1

    def test_three_fold(self):
        sheet = _crystals.two_h_monolayer("W", "S", 3.153, 1.57)
        values = dict(
            zip(*((x.tolist() if x.ndim == 1 else map(tuple, x.tolist()))
                  for x in _crystals.reflections(sheet, 80.0, 0.8)), strict=True)
        )  # fmt: skip
        one = [values[hk] for hk in ((1, 0), (-1, 1), (0, -1))]
        other = [values[hk] for hk in ((-1, 0), (1, -1), (0, 1))]
        np.testing.assert_allclose(one, one[0], rtol=1e-9)
        np.testing.assert_allclose(other, other[0], rtol=1e-9)
        assert max(one[0], other[0]) > 1.2 * min(one[0], other[0])

    def test_extinctions(self):
        pattern = snse_domains(**SMALL, electrons=None, single_domain="SnSe 0", diffuse=0.0)
        image, lattice = pattern.data[0, 0], true_lattices(pattern)["SnSe 0"] / (2.5 / 96)
        for hk, seen in (((1, 0), 0), ((0, 1), 0), ((1, 1), 1), ((2, 0), 1), ((2, 1), 0)):
            k_x, k_y = np.round(lattice @ hk).astype(int)
            assert (image[48 + k_y, 52 + k_x] > 1e-4) == bool(seen)


class TestTruth:
    @pytest.mark.parametrize("shape", [(60, 72), (40, 96), (64, 30)])
    def test_domains(self, make, shape):
        truth = true_domains(make(scan_shape=shape, detector_shape=(16, 20)))
        assert truth.data.dtype == np.int32 and truth.data.shape == (2, *shape)
        names = truth.metadata.Simulation.names
        for labels, level in zip(truth.data, names, strict=True):
            counts = np.bincount(labels.ravel())
            assert len(counts) == len(level)
            assert counts.min() >= 0.06 * labels.size
        coarse, fine = truth.data
        for label in range(len(names[1])):
            assert len(np.unique(coarse[fine == label])) == 1
        assert [axis.name for axis in truth.axes_manager.signal_axes] == ["x", "y"]
        assert truth.axes_manager.navigation_axes[0].axis[0] == 1

    def test_most_positions_are_inside_domains(self, make):
        purity = domain_purity(make(detector_shape=(16, 20)))
        assert purity.data.dtype == np.float32
        assert (purity.data == 1).mean() > 0.9 and purity.data.min() >= 0.25

    def test_junction_strain(self):
        signal = ws2_wse2_junction(detector_shape=(16, 20), misorientation=0.7)
        names = true_domains(signal).metadata.Simulation.names[1]
        labels, strain = true_domains(signal).data[1], true_strain(signal).data
        assert np.all(np.isnan(strain[:, labels == names.index("substrate")]))
        np.testing.assert_allclose(strain[:, labels == names.index("WSe2 flat")], 0, atol=1e-7)
        ws2 = strain[:, labels == names.index("WS2")].T
        # F = R(0.7°) a/a0
        ratio, turn = 3.153 / 3.282, np.deg2rad(0.7)
        expected = [ratio * np.cos(turn) - 1] * 2 + [0, np.rad2deg(ratio * np.sin(turn))]
        np.testing.assert_allclose(ws2, np.tile(expected, (len(ws2), 1)), atol=1e-6)
        e_xx, e_yy, e_xy, turn = strain[:, labels == names.index("WSe2 strained")].astype(float)
        normal = np.deg2rad(25)  # of the interface
        along = (e_xx * np.cos(normal) ** 2 + e_yy * np.sin(normal) ** 2
                 + 2 * e_xy * np.sin(normal) * np.cos(normal))  # fmt: skip
        assert 0.0118 < along.min() < 0.0125 and 0.0175 < along.max() < 0.0182
        np.testing.assert_allclose(e_xx + e_yy, along, atol=1e-7)
        np.testing.assert_allclose(turn, 0, atol=1e-6)
        # it falls towards larger x, away from WS2
        row = np.where(labels[20] == names.index("WSe2 strained"), strain[0, 20], np.nan)
        row = row[np.isfinite(row)]
        assert len(row) > 5 and np.all(np.diff(row) < 0)

    def test_parallel_strain(self):
        signal = ws2_wse2_junction(detector_shape=(16, 20), strain_direction="parallel")
        strained = true_domains(signal).data[1] == 2
        e_xx, e_yy, e_xy, _ = true_strain(signal).data[:, strained].astype(float)
        strain = np.array([[e_xx, e_xy], [e_xy, e_yy]])
        normal = np.array([np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))])
        np.testing.assert_allclose(np.einsum("abn,b->an", strain, normal), 0, atol=1e-7)
        assert (e_xx + e_yy).min() > 0.0118

    def test_snse_strain(self):
        signal = snse_domains(detector_shape=(16, 20), strain=0.04, strain_length=400.0)
        own = true_strain(signal, reference="own").data
        assert own[0].max() + own[1].max() == pytest.approx(0.04, rel=0.1)
        assert np.abs(own).min() < 1e-3
        trace = own[0] + own[1]
        # smooth: no step between neighbours, also across the walls
        assert np.abs(np.diff(trace, axis=1)).max() < 0.04 * 50 / 400
        measured = true_strain(snse_domains(detector_shape=(16, 20), strain=0, orientation=0))
        twin = measured.data[:, true_domains(signal).data[0] == 1].mean(axis=1)
        np.testing.assert_allclose(twin[:2], [4.15 / 4.44 - 1, 4.44 / 4.15 - 1], atol=0.006)
        assert twin[3] == pytest.approx(90 - 2 * np.rad2deg(np.arctan(4.44 / 4.15)), abs=0.05)

    def test_references(self, junction):
        lattice = true_lattices(junction)["WS2"]
        by_name = true_strain(junction, reference="WS2").data
        np.testing.assert_array_equal(by_name, true_strain(junction, reference=lattice).data)
        labels = true_domains(junction).data[1]
        np.testing.assert_allclose(by_name[:, labels == 1], 0, atol=1e-7)
        with pytest.raises(ValueError, match="no domain 'MoS2'"):
            true_strain(junction, reference="MoS2")
        with pytest.raises(ValueError, match="'substrate' has no lattice"):
            true_strain(junction, reference="substrate")
        with pytest.raises(ValueError, match="reference must be"):
            true_strain(junction, reference=np.eye(3))

    def test_lattices(self, junction):
        lattices = true_lattices(junction)
        assert list(lattices) == ["WS2", "WSe2 strained", "WSe2 flat", "WSe2 rippled"]
        g = lattices["WSe2 flat"]
        np.testing.assert_allclose(np.linalg.norm(g, axis=0), 2 / np.sqrt(3) / 3.282)
        np.testing.assert_allclose(np.linalg.norm(g.sum(axis=1)), 2 / 3.282)

    def test_saved_and_cropped(self, make, tmp_path):
        signal = make(**SMALL, descan=(1, 2))
        signal.save(tmp_path / "scan.zspy")
        loaded = hs.load(tmp_path / "scan.zspy", lazy=True)
        cropped = loaded.inav[3:, 2:9]  # x, y
        for truth in (true_domains, domain_purity, true_strain):
            whole = truth(signal).data
            np.testing.assert_array_equal(truth(loaded).data, whole)
            # the crop's positions are the same up to the rounding of an offset
            np.testing.assert_allclose(truth(cropped).data, whole[..., 2:9, 3:], rtol=1e-4)
            assert truth(cropped).axes_manager["y"].offset == 100
        for name, lattice in true_lattices(loaded).items():
            np.testing.assert_array_equal(lattice, true_lattices(signal)[name])
        signal.axes_manager["x"].scale /= 10
        signal.axes_manager["x"].units = "nm"
        np.testing.assert_array_equal(true_domains(signal).data, true_domains(loaded).data)

    def test_other_signals_have_no_truth(self):
        for truth in (true_domains, domain_purity, true_strain, true_lattices):
            with pytest.raises(ValueError, match="no nanobeam Simulation"):
                truth(hs.signals.Signal2D(np.zeros((2, 3, 4, 5))))
