"""A simulated nanobeam scan of ferroelectric domains in SnSe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _crystals, _nanobeam, _nanobeam_options

if TYPE_CHECKING:
    from hyperspy.signals import Signal2D

_A, _B = 4.44, 4.15
# a layer of Pnma seen along its long axis; all layers polar along a
_SNSE = _crystals.Crystal(
    np.diag([_A, _B]),
    (
        ("Sn", 0.103, 0.25, 1.36, 1.0),
        ("Sn", 0.603, 0.75, -1.36, 1.0),
        ("Se", 0.021, 0.25, -1.06, 0.9),
        ("Se", 0.521, 0.75, 1.06, 0.9),
    ),
    layers=3,
)
# (110) twins: their a axes are not quite at right angles
TWIN_ANGLE = float(np.rad2deg(2 * np.arctan(_A / _B)) - 90)
DOMAINS = ("SnSe 0", "SnSe 180", "SnSe 90", "SnSe 270")
SUPER_DOMAINS = ("SnSe 0/180", "SnSe 90/270")
_WAVES = ((0.030, 1.4, 0.7), (0.014, 3.1, 2.3))
# normal of the twin wall, degrees from x towards y
_WALL = 28.0


def snse_domains(
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
    strain: float = 0.01,
    strain_length: float = 500.0,
    asymmetry: float = 0.3,
    orientation: float = 9.0,
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
    """Simulate a nanobeam scan of few-layer SnSe with four ferroelectric domains.

    Two super-domains are (110) twins, whose a and b axes are exchanged up to a small angle. Each
    holds two domains of opposite polarisation: the lattice is the same, and the intensities of
    Friedel's pairs are exchanged. Both are strained near the twin wall, with a smooth gradient.

    Parameters
    ----------
    scan_shape
        Numbers of positions (y, x). The picture is stretched over them.
    detector_shape
        Detector pixels (k_y, k_x).
    scan_step
        Distance between neighbouring positions, in Å.
    reciprocal_pixel
        Size of a detector pixel in 1/Å. By default 2.5 1/Å over the detector's shorter side.
    beam_energy, convergence_angle, probe_size, electrons
        See `ws2_wse2_junction`.
    direct_beam, diffuse
        Shares of the electrons in the direct disk and in the diffuse scattering. The rest is in
        Bragg disks.
    strain
        Uniaxial strain at the twin wall, perpendicular to it; real films have up to 0.04. It falls
        off exponentially into both super-domains: a gradient that is no domain of its own.
    strain_length
        Length in Å over which the strain falls off to 1/e.
    asymmetry
        How different Friedel's pairs are: reflection g has the part ``1 + asymmetry * p`` of its
        pair's mean intensity and -g ``1 - asymmetry * p``, with p the cosine between g and the
        polarisation. This is a factor put in by hand: dynamical scattering makes the pairs
        differ, by how much depends on thickness and tilt, which are not simulated here.
    orientation
        Angle of the a axis of domain "SnSe 0" in degrees, from k_x towards k_y.
    descan, beam_shift, thickness_ramp, intensity_ramp, hot_pixels
        See `ws2_wse2_junction`.
    single_domain
        Name of a domain that is to be everywhere, undeformed: a scan without structure. One of
        "SnSe 0", "SnSe 90", "SnSe 180", "SnSe 270", by the direction of the polarisation.
    random_state, lazy, dtype
        See `ws2_wse2_junction`.

    Returns
    -------
    hyperspy.signals.Signal2D
        See `ws2_wse2_junction`.

    Raises
    ------
    ValueError
        If a value makes no sense.

    References
    ----------
    C. Shi et al., npj Comput. Mater. 8, 114 (2022).

    Examples
    --------
    >>> from hs_autoptycho.data import snse_domains
    >>> snse_domains(scan_shape=(10, 12), detector_shape=(64, 72))
    <Signal2D, title: SnSe domains (simulated), dimensions: (12, 10|72, 64)>
    """
    values = dict(locals())
    lazy, dtype = values.pop("lazy"), values.pop("dtype")
    p = _nanobeam_options.check_common(values)
    for name in ("strain", "strain_length", "asymmetry", "orientation"):
        p[name] = _nanobeam_options.number(name, p[name])
    if abs(p["strain"]) > 0.2:
        raise ValueError(f"strain must be between -0.2 and 0.2, got {strain}")
    if p["strain_length"] <= 0:
        raise ValueError(f"strain_length must be above zero, got {strain_length}")
    if not 0 <= p["asymmetry"] < 1:
        raise ValueError(f"asymmetry must be from 0 to below 1, got {asymmetry}")
    p = {"specimen": "snse_domains", **p}
    title = "SnSe domains (simulated)"
    return _nanobeam.simulate(p, make_specimen, title, lazy=lazy, dtype=dtype)


def make_specimen(parameters: dict[str, Any]) -> _nanobeam.Specimen:
    """The domains that some parameters describe."""
    p = parameters
    indices, intensity = _crystals.reflections(
        _SNSE, p["beam_energy"], _nanobeam_options.detector_cutoff(p)
    )
    # Friedel's pairs get their mean before the asymmetry is put in
    place = {tuple(hk): n for n, hk in enumerate(indices.tolist())}
    partner = [place[-h, -k] for h, k in indices.tolist()]
    intensity = (intensity + intensity[partner]) / 2
    first = p["orientation"]
    recorded = _nanobeam.on_detector(p, indices @ _SNSE.lattice(first).T)
    intensity = intensity / intensity[recorded].sum()
    g = indices @ _SNSE.lattice().T
    polar = p["asymmetry"] * g[:, 0] / np.linalg.norm(g, axis=1)
    second = first + 90 - TWIN_ANGLE
    lattices = [_SNSE.lattice(first)] * 2 + [_SNSE.lattice(second)] * 2
    specimen = _nanobeam.Specimen(
        domains=DOMAINS,
        levels=(SUPER_DOMAINS, DOMAINS),
        parents=np.array([[0, 0, 1, 1], [0, 1, 2, 3]]),
        lattices=np.array(lattices),
        spots=tuple(indices @ lattice.T for lattice in lattices),
        intensities=tuple(intensity * (1 + sign * polar) for sign in (1, -1, 1, -1)),
        diffuse=np.tile([0.6, 0.4], (4, 1)),
        locate=_Twins(p),
        reference="SnSe 0",
    )
    return _nanobeam.everywhere(specimen, p["single_domain"])


class _Twins:
    """Which domain is where, and how it is strained."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.size = _nanobeam_options.field_of_view(parameters)
        self.strain, self.length = parameters["strain"], parameters["strain_length"]
        self.normal = np.array([np.cos(np.deg2rad(_WALL)), np.sin(np.deg2rad(_WALL))])
        y, x = ((np.arange(160) + 0.5) / 160 * size for size in self.size)
        wall, along = self.coordinates(*np.meshgrid(y, x, indexing="ij"))
        # the super-domains have 55 and 45 %; in each one the domains have 58 and 42 %
        self.wall = np.quantile(wall, 0.55)
        self.inner = (
            np.quantile(along[wall < self.wall], 0.58),
            np.quantile(along[wall >= self.wall], 0.42),
        )

    def coordinates(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance in Å along the twin wall's normal, and along the wall, undulating."""
        scale = np.sqrt(self.size.prod())
        v, u = (y - self.size[0] / 2) / scale, (x - self.size[1] / 2) / scale
        nx, ny = self.normal
        across, along = nx * u + ny * v, nx * v - ny * u
        wall, inner = across, along
        for amplitude, waves, phase in _WAVES:
            wall = wall + amplitude * np.sin(2 * np.pi * waves * along + phase)
            inner = inner + amplitude * np.sin(2 * np.pi * waves * across - phase)
        return wall * scale, inner * scale

    def __call__(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wall, along = self.coordinates(y, x)
        second = wall >= self.wall
        domain = np.where(
            second, 2 + (along >= self.inner[1]), (along >= self.inner[0]).astype(int)
        )
        strain = self.strain * np.exp(-np.abs(wall - self.wall) / self.length)
        shrink = strain / (1 + strain)
        return domain, np.eye(2) - shrink[..., None, None] * np.outer(self.normal, self.normal)
