"""Figures of results, drawn from arrays and dictionaries.

Every function ``…_figure`` returns a :class:`matplotlib.figure.Figure` made with
``matplotlib.pyplot.figure`` and shows nothing; :class:`LiveTuning` shows a tuning while it runs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
