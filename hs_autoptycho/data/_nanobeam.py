"""Scans of a nanobeam over sheets with domains: from a specimen to a HyperSpy signal.

A specimen says which domain lies where, how it is deformed there, and what its diffraction spots
are. A pattern is the mean over the probe: of every domain that the probe covers, by its share. A
row of the scan is always worked out whole, so that blocks of any shape agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.integrate import trapezoid
from scipy.special import i0e

from ._nanobeam_kernels import draw_patterns
from ._nanobeam_options import detector_cutoff, disk_radius

if TYPE_CHECKING:
    from hyperspy.signals import Signal2D

# standard deviation in pixels of the detector's point spread: soft edges, no aliasing
_POINT_SPREAD = 0.5
_FWHM = 2 * np.sqrt(2 * np.log(2))
# the probe's intensity stands in this number of squares of points
_PROBE_SQUARES = 12
# a lazy scan has blocks of about this many bytes; larger scans than the limit are lazy
_BLOCK_BYTES = 32e6
_LAZY_BYTES = 1e9
# part of a mean pattern's electrons that a hot pixel adds
_HOT_PART = 0.05


@dataclass(frozen=True)
class Specimen:
    """What lies where.

    Attributes
    ----------
    domains
        Names of the domains, the deepest level of the truth.
    levels
        For each level of the truth the names of its labels.
    parents
        For each level the label of each domain, int (levels, domains).
    lattices
        Undeformed reciprocal vectors of each domain, columns, 1/Å; NaN without a lattice,
        (domains, 2, 2).
    spots, intensities
        For each domain the spots (k_x, k_y) in 1/Å and their relative intensities: in units of
        the Bragg part of a pattern, of which the domain that scatters most has 1 on the detector.
    diffuse
        Relative diffuse scattering of membrane and sheet in each domain, (domains, 2).
    locate
        From y and x in Å (any equal shapes) to the domain there, int, and to the matrix that
        deforms its reciprocal vectors (x, y), shape (..., 2, 2).
    reference
        The domain whose undeformed lattice strain is measured from by default.
    """

    domains: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    parents: np.ndarray
    lattices: np.ndarray
    spots: tuple[np.ndarray, ...]
    intensities: tuple[np.ndarray, ...]
    diffuse: np.ndarray
    locate: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    reference: str


def check_domain(specimen: Specimen, name: str | None) -> int | None:
    """Number of a domain by its name."""
    if name is None:
        return None
    if name not in specimen.domains:
        known = ", ".join(map(repr, specimen.domains))
        raise ValueError(f"there is no domain {name!r}; the domains are {known}")
    return specimen.domains.index(name)


def everywhere(specimen: Specimen, name: str | None) -> Specimen:
    """The specimen with one undeformed domain everywhere; itself if `name` is None."""
    index = check_domain(specimen, name)
    if index is None:
        return specimen

    def locate(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        deformation = np.broadcast_to(np.eye(2), (*y.shape, 2, 2))
        return np.full(y.shape, index), deformation

    return Specimen(**{**vars(specimen), "locate": locate})


def on_detector(parameters: dict[str, Any], spots: np.ndarray) -> np.ndarray:
    """Which spots (k_x, k_y) lie on a detector that is centred on the direct beam."""
    half = np.array(parameters["detector_shape"][::-1]) / 2 * parameters["reciprocal_pixel"]
    return np.all(np.abs(spots) <= half, axis=-1)


def probe_points(size: float) -> np.ndarray:
    """Points (y, x) in Å, all of one weight, spread as a Gaussian of this full width."""
    if size == 0:
        return np.zeros((1, 2))
    n = np.arange(_PROBE_SQUARES)
    radius = size / _FWHM * np.sqrt(-2 * np.log(1 - (n + 0.5) / _PROBE_SQUARES))
    angle = np.pi * (np.sqrt(5) - 1) / 4 * n  # the golden part of a quarter turn
    y, x = radius * np.sin(angle), radius * np.cos(angle)
    # squares of points have the Gaussian's symmetry
    return np.concatenate([np.column_stack(c) for c in ((y, x), (-x, y), (-y, -x), (x, -y))])


def mixtures(
    specimen: Specimen, probe_size: float, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each domain's share of the probe at some positions, and its mean deformation there.

    Returns float64 (n, domains) and (n, domains, 2, 2); the deformation is NaN where the share
    is zero.
    """
    points = probe_points(probe_size)
    domain, deformation = specimen.locate(y[:, None] + points[:, 0], x[:, None] + points[:, 1])
    n_domains = len(specimen.domains)
    weights = np.zeros((len(y), n_domains))
    means = np.full((len(y), n_domains, 2, 2), np.nan)
    for d in range(n_domains):
        here = domain == d
        count = here.sum(axis=1)
        weights[:, d] = count / len(points)
        some = count > 0
        total = np.where(here[some, :, None, None], deformation[some], 0).sum(axis=1)
        means[some, d] = total / count[some, None, None]
    return weights, means


def beam_centers(parameters: dict[str, Any], row: int) -> np.ndarray:
    """(row, col) of the direct beam in pixels along one row of the scan, (scan_x, 2)."""
    rows, cols = parameters["scan_shape"]
    middle = [size // 2 for size in parameters["detector_shape"]]
    across = [_across(row, rows), _across(np.arange(cols), cols)]
    return np.column_stack(
        [
            np.broadcast_to(m + s + d * a, cols)
            for m, s, d, a in zip(
                middle, parameters["beam_shift"], parameters["descan"], across, strict=True
            )
        ]
    )


def _across(index: Any, size: int) -> Any:
    """From -1/2 at one side of the scan to 1/2 at the other."""
    return index / (size - 1) - 0.5 if size > 1 else 0.0 * index


def disk_profile(radius: float) -> tuple[np.ndarray, float]:
    """A disk of sum 1 behind the detector's point spread, by squared distance; and its reach."""
    reach = radius + 5 * _POINT_SPREAD
    distance = np.sqrt(np.linspace(0, reach**2, 4097))
    nodes, weights = np.polynomial.legendre.leggauss(200)
    rho = radius * (nodes + 1) / 2
    s2 = _POINT_SPREAD**2
    kernel = i0e(np.outer(distance, rho) / s2)
    kernel *= np.exp(-((distance[:, None] - rho) ** 2) / (2 * s2)) * rho / s2
    profile = kernel @ weights * radius / 2
    profile[-1] = 0
    return profile / (np.pi * trapezoid(profile, distance**2)), reach


def diffuse_profiles(parameters: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Diffuse scattering of membrane and sheet by squared distance, each of sum 1.

    The membrane has the two halos of amorphous carbon on what falls off from the beam, the sheet
    one broad halo of thermal diffuse scattering.
    """
    p = parameters
    farthest = 2 * detector_cutoff(p) / p["reciprocal_pixel"]
    squares = np.linspace(0, farthest**2, 16384)
    k = np.sqrt(squares) * p["reciprocal_pixel"]
    membrane = 0.35 / (1 + (k / 0.12) ** 2) ** 1.5 + 0.05 * np.exp(-k)
    membrane += 0.11 * np.exp(-((k - 0.48) ** 2) / (2 * 0.055**2))
    membrane += 0.05 * np.exp(-((k - 0.84) ** 2) / (2 * 0.075**2))
    sheet = (k / 0.35) ** 2 / (1 + (k / 0.35) ** 2) ** 2.5
    table = np.stack([membrane, sheet])
    grid = [np.arange(size) - size // 2 for size in p["detector_shape"]]
    r2 = grid[0][:, None] ** 2 + grid[1] ** 2
    sums = [np.interp(r2, squares, row).sum() for row in table]
    return table / np.reshape(sums, (2, 1)), (len(squares) - 1) / farthest**2


def data_type(parameters: dict[str, Any], dtype: Any) -> np.dtype:
    """The smallest unsigned integers that surely hold the counts, or what was asked for."""
    if dtype is not None:
        dtype = np.dtype(dtype)
        if parameters["electrons"] is None and dtype.kind != "f":
            raise ValueError(f"without noise dtype must be a float type, got {dtype}")
        if dtype not in (np.uint8, np.uint16, np.uint32, np.float32, np.float64):
            raise ValueError(f"dtype must be uint8, uint16, uint32, float32 or 64, got {dtype}")
        return dtype
    if parameters["electrons"] is None:
        return np.dtype(np.float32)
    most = parameters["electrons"] * (1 + abs(parameters["intensity_ramp"]) / 2)
    brightest = most * disk_profile(disk_radius(parameters))[0].max()
    brightest += (
        10 * np.sqrt(brightest) + 20 + (parameters["hot_pixels"] > 0) * _hot_count(parameters)
    )
    return np.min_scalar_type(int(brightest))


def _hot_count(parameters: dict[str, Any]) -> float:
    if parameters["electrons"] is None:
        return _HOT_PART
    return float(max(3, np.ceil(_HOT_PART * parameters["electrons"])))


@dataclass(frozen=True)
class Simulator:
    """Draws any block of a scan. Small and picklable; `make_specimen` makes what it needs."""

    parameters: dict[str, Any]
    make_specimen: Callable[[dict[str, Any]], Specimen]
    dtype: np.dtype

    def block(self, rows: slice, cols: slice) -> np.ndarray:
        """Patterns of a block of positions, (rows, cols, k_y, k_x)."""
        p = self.parameters
        specimen = self.make_specimen(p)
        starts = np.cumsum([0, *map(len, specimen.spots)])
        bragg = 1 - p["direct_beam"] - p["diffuse"]
        intensities = [bragg * values for values in specimen.intensities]
        # two-beam: weak reflections grow as the square of the thickness, strong ones saturate
        exponents = [2 * (1 - v / max(v.max(initial=0), 1e-30)) for v in intensities]
        recorded = on_detector(p, np.concatenate(specimen.spots)).astype(float)
        profile, reach = disk_profile(disk_radius(p))
        table, per_square = diffuse_profiles(p)
        rng = np.random.default_rng((p["random_state"] & (2**63 - 1), 0x407))
        n_rows, n_cols = p["detector_shape"]
        hot = rng.choice(n_rows * n_cols, p["hot_pixels"], replace=False)
        hot = np.column_stack(np.divmod(hot, n_cols)).astype(np.int64)
        counts = np.full(len(hot), _hot_count(p))

        scan_rows, scan_cols = p["scan_shape"]
        x = np.arange(scan_cols) * p["scan_step"]
        thickness = 1 + p["thickness_ramp"] * _across(np.arange(scan_cols), scan_cols)
        mean = 1.0 if p["electrons"] is None else p["electrons"]
        out = np.empty((rows.stop - rows.start, cols.stop - cols.start, n_rows, n_cols), self.dtype)
        for i, row in enumerate(range(rows.start, rows.stop)):
            y = np.full(scan_cols, row * p["scan_step"])
            weights, deformations = mixtures(specimen, p["probe_size"], y, x)
            electrons = mean * (1 + p["intensity_ramp"] * _across(row, scan_rows))
            draw_patterns(
                out[i],
                np.arange(row * scan_cols + cols.start, row * scan_cols + cols.stop),
                np.ascontiguousarray(weights[cols]),
                np.ascontiguousarray(deformations[cols]),
                np.ascontiguousarray(beam_centers(p, row)[cols]),
                np.ascontiguousarray(thickness[cols]),
                np.full(out.shape[1], electrons),
                np.concatenate(specimen.spots),
                np.concatenate(intensities),
                np.concatenate(exponents),
                recorded,
                starts,
                p["diffuse"] * specimen.diffuse,
                profile,
                reach,
                table,
                per_square,
                p["reciprocal_pixel"],
                hot,
                counts,
                p["electrons"] is not None,
                np.uint64(p["random_state"] % 2**64),
            )
        return out

    def __call__(self, block_info: Any = None) -> np.ndarray:
        """One block of a dask array."""
        rows, cols = (slice(*edges) for edges in block_info[None]["array-location"][:2])
        return self.block(rows, cols)

    def dask_array(self, chunks: tuple[int, int] | None = None) -> Any:
        """The scan as a dask array, in blocks of `chunks` (rows, cols) positions."""
        import dask.array as da

        p = self.parameters
        if chunks is None:
            pattern = self.dtype.itemsize * int(np.prod(p["detector_shape"]))
            side = max(1, int(np.sqrt(_BLOCK_BYTES / pattern)))
            chunks = tuple(min(size, side) for size in p["scan_shape"])
        edges = da.core.normalize_chunks(
            (*chunks, *p["detector_shape"]), (*p["scan_shape"], *p["detector_shape"])
        )
        meta = np.empty((0,) * 4, self.dtype)
        return da.map_blocks(self, chunks=edges, dtype=self.dtype, meta=meta)


def simulate(
    parameters: dict[str, Any],
    make_specimen: Callable[[dict[str, Any]], Specimen],
    title: str,
    *,
    lazy: bool | None,
    dtype: Any,
) -> Signal2D:
    """The scan as a signal; a lazy one if asked for or if it is large."""
    p = parameters
    make_specimen(p)  # what is wrong with the parameters is said now, not when a block is drawn
    simulator = Simulator(p, make_specimen, data_type(p, dtype))
    size = simulator.dtype.itemsize * float(np.prod(p["scan_shape"]) * np.prod(p["detector_shape"]))
    lazy = size > _LAZY_BYTES if lazy is None else lazy
    if lazy:
        return _as_signal(simulator.dask_array(), p, title)
    data = simulator.block(*(slice(0, size) for size in p["scan_shape"]))
    return _as_signal(data, p, title)


def _as_signal(data: Any, parameters: dict[str, Any], title: str) -> Signal2D:
    from hyperspy.signals import Signal2D

    p = parameters
    dk = p["reciprocal_pixel"]
    axes = [
        {"name": name, "units": "Å", "scale": p["scan_step"], "offset": 0.0, "size": size,
         "navigate": True}
        for name, size in zip("yx", p["scan_shape"], strict=True)
    ] + [
        {"name": name, "units": "1/Å", "scale": dk, "offset": -(size // 2) * dk, "size": size,
         "navigate": False}
        for name, size in zip(("ky", "kx"), p["detector_shape"], strict=True)
    ]  # fmt: skip
    signal = Signal2D(data, axes=axes)
    if not isinstance(data, np.ndarray):
        signal = signal.as_lazy()
    signal.metadata.set_item("General.title", title)
    signal.metadata.set_item("Signal.quantity", "Counts" if p["electrons"] else "Intensity")
    microscope = "Acquisition_instrument.TEM."
    signal.metadata.set_item(microscope + "acquisition_mode", "STEM")
    signal.metadata.set_item(microscope + "beam_energy", p["beam_energy"])
    signal.metadata.set_item(microscope + "convergence_angle", p["convergence_angle"])
    signal.metadata.set_item("Simulation", dict(p))
    return signal
