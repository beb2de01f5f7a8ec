"""To py4DSTEM and back, and from abTEM: scans without a copy, reconstructions, start values."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
del lazy_loader
