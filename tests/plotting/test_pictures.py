"""The figures as pictures, compared with those in the folder `baseline`.

Writing is left out, for every matplotlib has other letters: what is written is tested elsewhere.
After a change that is meant, look at the new pictures that
``pytest tests/plotting/test_pictures.py --mpl-generate-path=tests/plotting/baseline`` makes.
"""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.table import Table
from matplotlib.text import Text

from hs_autoptycho.plotting import design_figure, tuning_figure

# Root mean square in 255. On one version of matplotlib the pictures are equal; another one may move
# the edge of a line by a part of a pixel. Of another colour of the star alone it is 1.2 or more.
picture = pytest.mark.mpl_image_compare(
    style="default", backend="agg", tolerance=1, savefig_kwargs={"dpi": 50}
)


def bare(figure):
    """The figure without any writing and the room for it; the ticks stay where they are."""
    for ax in figure.findobj(Axes):
        ax.tick_params(which="both", labelbottom=False, labelleft=False, labelright=False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.offsetText.set_visible(False)
    cells = [cell for table in figure.findobj(Table) for cell in table.get_celld().values()]
    texts = [*figure.findobj(Text), *(cell.get_text() for cell in cells)]
    for artist in [*texts, *figure.findobj(Legend)]:
        artist.set_visible(False)
        artist.set_in_layout(False)
    return figure


@picture
def test_summary(obj):
    return bare(obj.plot_summary())


@picture
def test_summary_of_phases_that_wrap(obj):
    obj.data = obj.data**12
    return bare(obj.plot_summary())


@picture
def test_tuning(obj):
    return bare(obj.plot_tuning())


@picture
def test_tuning_against_seconds(trials):
    return bare(tuning_figure(trials, names=["defocus", "n_probe_modes"], against="seconds"))


@picture
def test_comparison(obj):
    return bare(obj.compare_trials([17, 21, 15]).plot())


@picture
def test_tree(clusters):
    return bare(clusters.plot_tree())


@picture
def test_overlay(clusters):
    return bare(clusters.plot_overlay())


@picture
def test_overlay_without_an_image(clusters):
    clusters = clusters.isig[2:, 1:]
    return bare(clusters.plot_overlay(np.ones(clusters.data.shape[-2:]), level=1, opacity=1.0))


@picture
def test_strain(strain):
    return bare(strain.plot_summary())


@picture
def test_design(design):
    return bare(design_figure(**design))
