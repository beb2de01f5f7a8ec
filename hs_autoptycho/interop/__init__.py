"""To py4DSTEM and back: scans without a copy, reconstructions, and what they tell the tuner."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
del lazy_loader
