"""A simulated nanobeam scan of a lateral junction of WS2 and WSe2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _crystals, _nanobeam, _nanobeam_options

if TYPE_CHECKING:
    from hyperspy.signals import Signal2D

# lattice constants and heights of the chalcogen over the metal, Å
_WS2 = _crystals.two_h_monolayer("W", "S", 3.153, 1.57)
_WSE2 = _crystals.two_h_monolayer("W", "Se", 3.282, 1.67)
DOMAINS = ("substrate", "WS2", "WSe2 strained", "WSe2 flat", "WSe2 rippled")
# shares of the scanned area: the membrane first, then the sheet's bands
_SHARES = (0.17, 0.25, 0.22, 0.20, 0.16)
# normals of the sheet's outer edge and of the interface, degrees from x towards y: two neighbouring
# sides of a hexagon
_EDGE, _INTERFACE = 85.0, 25.0
_RIPPLE_DIRECTION = 145.0
# amplitudes and wave vectors of the boundaries' undulation, in units of the field
_WAVES = ((0.030, 1.3, 0.4), (0.018, 2.9, 1.9))
_N_TILTS = 8


def ws2_wse2_junction(
    *,
    scan_shape: tuple[int, int] = (60, 72),
    detector_shape: tuple[int, int] = (128, 128),
    scan_step: float = 50.0,
    reciprocal_pixel: float | None = None,
    beam_energy: float = 80.0,
    convergence_angle: float = 1.5,
    probe_size: float = 20.0,
    electrons: float | None = 300.0,
    direct_beam: float = 0.3,
    diffuse: float = 0.3,
    strain: tuple[float, float] = (0.018, 0.012),
    strain_direction: str = "perpendicular",
    ripple: float = 12.0,
    orientation: float = 14.0,
    misorientation: float = 0.4,
    descan: tuple[float, float] = (0.0, 0.0),
    beam_shift: tuple[float, float] = (0.0, 0.0),
    thickness_ramp: float = 0.0,
    intensity_ramp: float = 0.0,
    hot_pixels: int = 0,
    single_domain: str | None = None,
    random_state: int = 0,
    lazy: bool | None = None,
    dtype: Any = None,
) -> Signal2D:
    """Simulate a nanobeam scan of a WS2-WSe2 junction on an amorphous membrane.

    The sheet is a corner of a flake: WS2, then WSe2 that is strained by the interface, then flat,
    then rippled WSe2. Beyond the flake's edge is the bare membrane, which lies under everything.
    The boundaries are smooth and undulate. Reflections have the intensities of the sheets' phase
    gratings with Debye-Waller factors, so that Friedel's pairs differ a little.

    Parameters
    ----------
    scan_shape
        Numbers of positions (y, x). The picture is stretched over them.
    detector_shape
        Detector pixels (k_y, k_x).
    scan_step
        Distance between neighbouring positions, in Å.
    reciprocal_pixel
        Size of a detector pixel in 1/Å. By default 2.5 1/Å over the detector's shorter side, so
        that third orders are on it: the first order of WSe2 is 18 pixels from the middle of 128.
    beam_energy
        In keV.
    convergence_angle
        Semi-angle in mrad: the disks' radius, 1.8 pixels by default.
    probe_size
        Full width at half maximum of the Gaussian probe in Å. A pattern at a boundary is the
        mixture of both sides by their shares of the probe.
    electrons
        Mean number of electrons in a pattern. None gives intensities without noise, as parts of
        the electrons of a mean pattern.
    direct_beam, diffuse
        Shares of the electrons in the direct disk and in the diffuse scattering, of a pattern of
        flat WSe2. The rest is in Bragg disks. Other domains scatter as much less as their structure
        factors say, and what is not scattered is in the direct disk. Of a real monolayer the
        direct disk has more than 0.9: the default is as if it were attenuated.
    strain
        Uniaxial strain of the strained WSe2 at the interface with WS2 and at the boundary with flat
        WSe2; it is linear in between, and steps to zero.
    strain_direction
        Of the strain: "perpendicular" or "parallel" to the interface. There is no contraction
        across.
    ripple
        Largest tilt in degrees of the rippled WSe2. It goes back and forth (as a sine) along one
        direction faster than the probe is wide, so that every pattern is the mean over all tilts.
    orientation
        Angle of WSe2's first lattice vector in degrees, from k_x towards k_y.
    misorientation
        Angle of WS2 against WSe2 in degrees.
    descan
        (row, col), in detector pixels: how far the pattern moves down the detector from the first
        to the last row of the scan, and to the right from its first to its last column.
    beam_shift
        (row, col), in detector pixels, of the direct beam off pixel ``detector_shape // 2`` in the
        middle of the scan. The axes still put zero in the middle.
    thickness_ramp
        Relative change of the diffuse scattering from the first to the last column of the scan.
        Weak reflections change with its square, strong ones less, the strongest not at all.
    intensity_ramp
        Relative change of the number of electrons from the first to the last row of the scan.
    hot_pixels
        Number of detector pixels to which every pattern adds the same count, 5 % of `electrons`
        (at least 3). They come on top of `electrons`.
    single_domain
        Name of a domain that is to be everywhere, undeformed: a scan without structure. One of
        "substrate", "WS2", "WSe2 strained", "WSe2 flat", "WSe2 rippled"; "WSe2" is the flat one.
    random_state
        Seed of the noise and of the hot pixels.
    lazy
        Whether the signal is lazy, each block made when it is needed. By default it is if it has
        more than 1 GB. The numbers are the same, bit by bit.
    dtype
        Of the data. By default the smallest unsigned integer that holds the counts, or float32
        without noise.

    Returns
    -------
    hyperspy.signals.Signal2D
        Axes ``(x, y | kx, ky)`` in Å and 1/Å. Beam energy and convergence angle are where
        HyperSpy's readers put them. Everything that was put in stands in ``metadata.Simulation``;
        `true_domains`, `domain_purity`, `true_strain` and `true_lattices` use it.

    Raises
    ------
    ValueError
        If a value makes no sense.

    References
    ----------
    C. Shi et al., npj Comput. Mater. 8, 114 (2022), whose specimen this is modelled on.

    Examples
    --------
    >>> from hs_autoptycho.data import ws2_wse2_junction
    >>> ws2_wse2_junction(scan_shape=(10, 12), detector_shape=(64, 72))
    <Signal2D, title: WS2-WSe2 junction (simulated), dimensions: (12, 10|72, 64)>
    """
    values = dict(locals())
    lazy, dtype = values.pop("lazy"), values.pop("dtype")
    p = _nanobeam_options.check_common(values)
    p["strain"] = _nanobeam_options.pair("strain", strain, float)
    if not np.all(np.abs(p["strain"]) <= 0.2):
        raise ValueError(f"strain must be between -0.2 and 0.2, got {p['strain']}")
    if strain_direction not in ("perpendicular", "parallel"):
        raise ValueError(
            f"strain_direction must be 'perpendicular' or 'parallel', got {strain_direction!r}"
        )
    for name in ("ripple", "orientation", "misorientation"):
        p[name] = _nanobeam_options.number(name, p[name])
    if not 0 <= p["ripple"] <= 30:
        raise ValueError(f"ripple must be between 0 and 30 degrees, got {p['ripple']}")
    if single_domain == "WSe2":
        p["single_domain"] = "WSe2 flat"
    p = {"specimen": "ws2_wse2_junction", **p}
    title = "WS2-WSe2 junction (simulated)"
    return _nanobeam.simulate(p, make_specimen, title, lazy=lazy, dtype=dtype)


def make_specimen(parameters: dict[str, Any]) -> _nanobeam.Specimen:
    """The junction that some parameters describe."""
    p = parameters
    cutoff, energy, angle = _nanobeam_options.detector_cutoff(p), p["beam_energy"], p["orientation"]
    ws2, ws2_intensity = _crystals.reflections(_WS2, energy, cutoff)
    wse2, wse2_intensity = _crystals.reflections(_WSE2, energy, cutoff)
    flat = wse2 @ _WSE2.lattice(angle).T
    direction = _unit(_RIPPLE_DIRECTION)
    tilts = p["ripple"] * np.sin(2 * np.pi * (np.arange(_N_TILTS) + 0.5) / _N_TILTS)
    ripples, ripple_intensity = _crystals.rippled(
        _WSE2, wse2, wse2_intensity, angle, direction, tilts, energy
    )
    stretched = np.mean(1 / np.cos(np.deg2rad(tilts))) - 1
    lattice = _WSE2.lattice(angle)
    scale = wse2_intensity[_nanobeam.on_detector(p, flat)].sum()
    specimen = _nanobeam.Specimen(
        domains=DOMAINS,
        levels=(("substrate", "WS2", "WSe2"), DOMAINS),
        parents=np.array([[0, 1, 2, 2, 2], [0, 1, 2, 3, 4]]),
        lattices=np.array(
            [
                np.full((2, 2), np.nan),
                _WS2.lattice(angle + p["misorientation"]),
                lattice,
                lattice,
                (np.eye(2) + stretched * np.outer(direction, direction)) @ lattice,
            ]
        ),
        spots=(
            np.zeros((0, 2)),
            ws2 @ _WS2.lattice(angle + p["misorientation"]).T,
            flat,
            flat,
            ripples,
        ),
        intensities=(
            np.zeros(0),
            ws2_intensity / scale,
            wse2_intensity / scale,
            wse2_intensity / scale,
            ripple_intensity / scale,
        ),
        # a fifth of the diffuse scattering is the sheet's own
        diffuse=np.array([[0.8, 0.0], [0.8, 0.15], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]]),
        locate=_Junction(p),
        reference="WSe2 flat",
    )
    return _nanobeam.everywhere(specimen, p["single_domain"])


class _Junction:
    """Which domain is where, and how it is strained."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        p = parameters
        self.size = _nanobeam_options.field_of_view(p)
        self.strain = p["strain"]
        normal = _unit(_INTERFACE)
        if p["strain_direction"] == "parallel":
            normal = np.array([-normal[1], normal[0]])
        self.dyad = np.outer(normal, normal)
        # the boundaries are where the domains get their shares, whatever the field's shape
        y, x = ((np.arange(160) + 0.5) / 160 * size for size in self.size)
        out, along = self.coordinates(*np.meshgrid(y, x, indexing="ij"))
        self.edge = np.quantile(out, 1 - _SHARES[0])
        bands = np.cumsum(_SHARES[1:-1]) / sum(_SHARES[1:])
        self.bounds = np.quantile(along[out < self.edge], bands)

    def coordinates(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances along the normals of the flake's edge and of the interface, undulating."""
        length = np.sqrt(self.size.prod())
        v, u = (y - self.size[0] / 2) / length, (x - self.size[1] / 2) / length
        result = []
        for angle in (_EDGE, _INTERFACE):
            nx, ny = _unit(angle)
            along, across = nx * u + ny * v, nx * v - ny * u
            for amplitude, waves, phase in _WAVES:
                along = along + amplitude * np.sin(2 * np.pi * waves * across + phase)
            result.append(along)
        return result[0], result[1]

    def __call__(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out, along = self.coordinates(y, x)
        domain = np.where(out >= self.edge, 0, 1 + np.searchsorted(self.bounds, along, "right"))
        part = (along - self.bounds[0]) / (self.bounds[1] - self.bounds[0])
        strain = self.strain[0] + (self.strain[1] - self.strain[0]) * part
        strain = np.where(domain == 2, strain, 0.0)
        # reciprocal vectors go with the inverse of the deformation
        shrink = strain / (1 + strain)
        return domain, np.eye(2) - shrink[..., None, None] * self.dyad


def _unit(angle: float) -> np.ndarray:
    return np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
