"""Colours and limits of contrast."""

from __future__ import annotations

import math

import numpy as np

# of Okabe and Ito, told apart by colour-blind readers
BLUE, VERMILION, ORANGE, GREY = "#0072B2", "#D55E00", "#E69F00", "#8C8C8C"
# the same for whatever comes in any number, neighbours far apart
CATEGORIES = (BLUE, ORANGE, "#009E73", VERMILION, "#56B4E9", "#CC79A7", "#F0E442", "#000000")
# below a grey image, seen where it has no value
NOWHERE = "#D6E6F5"

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
}


def complex_to_rgb(field: np.ndarray, maximum: float | None = None) -> np.ndarray:
    """Colour a complex image: lightness is the amplitude, hue the phase.

    The hues are a circle of equal lightness and chroma in the Oklab space, so that phase makes
    nothing look brighter, and lightness is proportional to the amplitude.

    Parameters
    ----------
    field
        Complex array of any shape. What is not finite becomes black.
    maximum
        Amplitude of full lightness; by default the largest in `field`.

    Returns
    -------
    numpy.ndarray
        Float array of the shape of `field` with a last axis of 3, sRGB between 0 and 1.
    """
    field = np.asarray(field)
    field = np.where(np.isfinite(field), field, 0)
    amplitude, phase = np.abs(field), np.angle(field)
    if maximum is None:
        maximum = float(amplitude.max(initial=0.0))
    amplitude = np.clip(amplitude / maximum, 0, 1) if maximum > 0 else amplitude
    # 0.76 and 0.125: near the lightness at which sRGB holds the widest full circle of hues
    lightness, chroma = 0.76, 0.125
    # Oklab's coordinates are cube roots: scaling all three by t scales linear light by t ** 3
    linear = oklab_to_linear(lightness, chroma, phase) * amplitude[..., np.newaxis] ** 3
    return screen_values(np.clip(linear, 0, 1))


def oklab_to_linear(lightness, chroma, hue) -> np.ndarray:
    """Linear red, green and blue (last axis) of colours in the Oklab space; beyond 0..1 no screen
    shows them.

    References
    ----------
    B. Ottosson, A perceptual color space for image processing, 2020
    (https://bottosson.github.io/posts/oklab).
    """
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return np.stack([red, green, blue], axis=-1)


def screen_values(linear: np.ndarray) -> np.ndarray:
    """sRGB values of linear light between 0 and 1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def robust_limits(image: np.ndarray, percentile: float = 0.5) -> tuple[float, float]:
    """Limits of contrast that leave out `percentile` % at each end; (0, 1) if nothing is finite."""
    finite = np.asarray(image)[np.isfinite(image)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [percentile, 100 - percentile])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def whole_numbers(ax) -> None:
    """Tick the x axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def length_unit(extent: float) -> tuple[str, float]:
    """Unit in which a length of `extent` Å is written, and the Å in one."""
    for name, size in (("µm", 1e4), ("nm", 10.0)):
        if extent >= 10 * size:
            return name, size
    return "Å", 1.0


def draw_scale_bar(ax, shape: tuple[int, int], pixel: float) -> None:
    """Draw a bar of a round length near a quarter of the width into an image.

    Parameters
    ----------
    ax
        Axes of the image, in pixels.
    shape
        Of the image, (rows, columns).
    pixel
        Its width in Å.
    """
    from matplotlib.patheffects import withStroke

    rows, columns = shape
    width = columns * pixel
    decade = 10 ** math.floor(math.log10(width / 4))
    length = max(m * decade for m in (1, 2, 5) if m * decade <= width / 4)
    unit, size = length_unit(length)
    x, y = 0.06 * columns, 0.94 * rows
    # white with a dark rim can be seen on any image
    rim = [withStroke(linewidth=4, foreground="black")]
    ax.plot([x, x + length / pixel], [y, y], color="white", linewidth=2.5,
            solid_capstyle="butt", path_effects=rim)  # fmt: skip
    ax.text(x, y - 0.03 * rows, f"{length / size:g} {unit}", color="white", fontsize=8,
            va="bottom", path_effects=[withStroke(linewidth=1.5, foreground="black")])  # fmt: skip
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))


def hide_ticks(ax) -> None:
    """Take ticks and frame away from an image that has a scale bar."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
