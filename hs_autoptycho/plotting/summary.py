"""The picture of a reconstruction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hs_autoptycho.plotting.style import (
    BLUE,
    NOWHERE,
    STYLE,
    VERMILION,
    complex_to_rgb,
    draw_scale_bar,
    length_unit,
    robust_limits,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_MODES = 6  # shown; the powers of the others are summed up in a note
_WRAPPED = 1.8 * math.pi  # phases over a wider range are likely to be wrapped


def summary_figure(
    *,
    phase: np.ndarray,
    pixel: tuple[float, float],
    origin: tuple[float, float],
    fourier_magnitude: np.ndarray,
    probe: np.ndarray,
    probe_pixel: tuple[float, float],
    error: np.ndarray,
    status: str,
    title: str = "",
) -> Figure:
    """Draw phase, its Fourier magnitude, the probe's modes and the error by iteration.

    The phase is grey, darkest at its lowest. Where it fills most of a turn it may be wrapped: the
    colours are then matplotlib's ``twilight``, perceptually even and the same at -π and π, and the
    title says that they are cyclic. A probe's hue is its phase (the wheel shows it,
    counter-clockwise from 0 on its right), its lightness the amplitude.

    Parameters
    ----------
    phase
        Float array (y, x) in rad; nan where there is none.
    pixel, origin
        Its pixel size and the position of its first pixel, (y, x) in Å.
    fourier_magnitude
        Float array (y, x), zero frequency at ``(ny // 2, nx // 2)``, of the same field.
    probe
        Complex array (modes, y, x), strongest first.
    probe_pixel
        (y, x) in Å.
    error
        Error by iteration, from iteration 0.
    status
        How the reconstruction ended.
    title
        Written above everything.
    """
    import matplotlib.pyplot as plt

    shown = min(len(probe), _MAX_MODES)
    rows = 1 if shown <= 3 else 2
    aspect = phase.shape[1] * pixel[1] / (phase.shape[0] * pixel[0])
    # the phase as high as its spectrum, unless that leaves too little of either
    ratio = min(max(aspect, 0.7), 1.5)
    # heights in inches: 6.9 are left of the width beside labels and colour bars
    image = 6.9 / (ratio + 1) * max(ratio / aspect, pixel[1] / pixel[0])
    above, below = min(image, 5.5) + 1.0, 2.6 if rows == 1 else 3.2
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(9.6, above + below), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, hspace=0.04, wspace=0.04)
        if title:
            figure.suptitle(title, fontsize=11)
        top, bottom = figure.subfigures(2, 1, height_ratios=(above, below))
        left, right = top.subplots(1, 2, width_ratios=(ratio, 1))
        _draw_phase(left, phase, pixel, origin)
        _draw_fourier(right, fourier_magnitude, pixel)
        modes, curve = bottom.subfigures(1, 2, width_ratios=(1.25, 1))
        axes = modes.subplots(rows, math.ceil(shown / rows), squeeze=False).ravel()
        _draw_probe(modes, axes, probe, probe_pixel)
        _draw_error(curve.subplots(), error, status)
    return figure


def _draw_phase(ax: Axes, phase, pixel, origin) -> None:
    height, width = (n * d for n, d in zip(phase.shape, pixel, strict=True))
    unit, size = length_unit(max(height, width))
    y, x = ((start - step / 2) / size for start, step in zip(origin, pixel, strict=True))
    low, high = robust_limits(phase)
    cyclic = high - low > _WRAPPED
    if cyclic:
        phase, (low, high) = np.angle(np.exp(1j * phase)), (-math.pi, math.pi)
    image = ax.imshow(
        phase,
        cmap="twilight" if cyclic else "gray",
        vmin=low,
        vmax=high,
        extent=(x, x + width / size, y + height / size, y),
    )
    ax.set_facecolor("0.5" if cyclic else NOWHERE)  # neither map has it
    title = "Phase (cyclic colours)" if cyclic else "Phase"
    ax.set(title=title, xlabel=f"x ({unit})", ylabel=f"y ({unit})")
    _frame(ax)
    _colour_bar(ax, image, "phase (rad)")
    if cyclic:
        turns = ("$-\\pi$", "$-\\pi/2$", "0", "$\\pi/2$", "$\\pi$")
        ax.child_axes[0].set_yticks(np.linspace(-math.pi, math.pi, 5), turns)


def _draw_fourier(ax: Axes, magnitude, pixel) -> None:
    from matplotlib.colors import LogNorm

    steps = [1 / (n * d) for n, d in zip(magnitude.shape, pixel, strict=True)]
    y, x = (-(n // 2 + 0.5) * step for n, step in zip(magnitude.shape, steps, strict=True))
    finite = magnitude[np.isfinite(magnitude) & (magnitude > 0)]
    # the middle holds the mean, which is removed: its neighbours would set the scale alone
    low, high = np.percentile(finite, [5, 99.9]) if finite.size else (1.0, 10.0)
    image = ax.imshow(
        magnitude,
        cmap="magma",
        norm=LogNorm(low, high if high > low else 10 * low, clip=True),
        extent=(x, x + magnitude.shape[1] * steps[1], y + magnitude.shape[0] * steps[0], y),
    )
    ax.set(title="Fourier magnitude of the phase", xlabel="$k_x$ (1/Å)", ylabel="$k_y$ (1/Å)")
    _frame(ax)
    _colour_bar(ax, image, "magnitude (rad)")


def _colour_bar(ax: Axes, image, label: str) -> None:
    # an inset, because the bar is then as high as the image whatever the image's aspect
    ax.figure.colorbar(image, cax=ax.inset_axes((1.02, 0, 0.035, 1)), label=label)


def _frame(ax: Axes) -> None:
    ax.set_anchor("N")
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.6)


def _draw_probe(figure, axes, probe, pixel) -> None:
    power = (np.abs(probe) ** 2).sum(axis=(1, 2), dtype=float)
    power = power / power.sum() if np.isfinite(power.sum()) and power.sum() > 0 else power
    rest = float(power[len(axes) :].sum()) if len(probe) > len(axes) else 0.0
    for index, ax in enumerate(axes):
        ax.set_axis_off()
        ax.set_anchor("N")
        if index >= len(probe):
            continue
        # each mode to its own maximum: the weak ones would be black on a common scale
        rgb = complex_to_rgb(probe[index])
        ax.imshow(rgb, aspect=pixel[0] / pixel[1], interpolation="nearest")
        ax.set_title(f"mode {index + 1}: {100 * power[index]:.3g} %", loc="center")
    draw_scale_bar(axes[0], probe.shape[1:], pixel[1])
    _draw_colour_wheel(axes[0])
    label = "Probe (hue: phase; lightness: amplitude, each mode to its own maximum)"
    if rest:
        label += f"\n{len(probe) - len(axes)} weaker modes hold {100 * rest:.2g} %"
    figure.suptitle(label, fontsize=9, x=0.01, ha="left")


def _draw_colour_wheel(ax: Axes) -> None:
    y, x = np.mgrid[1:-1:65j, -1:1:65j]
    wheel = complex_to_rgb(np.where(np.hypot(x, y) <= 1, x + 1j * y, 0), maximum=1.0)
    opacity = (np.hypot(x, y) <= 1).astype(float)
    inset = ax.inset_axes((0.8, 0.8, 0.18, 0.18), label="colour wheel")
    inset.imshow(np.dstack([wheel, opacity]))
    inset.set_axis_off()


def _draw_error(ax: Axes, error, status: str) -> None:
    error = np.atleast_1d(np.asarray(error, dtype=float))
    colour = BLUE if status == "completed" else VERMILION
    marker = "o" if len(error) <= 30 else None
    ax.plot(np.arange(len(error)), error, color=colour, marker=marker, markersize=3, linewidth=1.4)
    finite = error[np.isfinite(error)]
    if finite.size and finite.min() > 0 and finite.max() > 3 * finite.min():
        ax.set_yscale("log")
    last = f"{finite[-1]:.4g}" if finite.size else "none"
    ax.set(title=f"Error by iteration: {status}, last {last}", xlabel="iteration", ylabel="error")
    whole_numbers(ax)
    ax.grid(alpha=0.3, linewidth=0.5)
