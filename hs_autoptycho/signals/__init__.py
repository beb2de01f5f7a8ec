"""The HyperSpy signals this package returns.

They are registered with HyperSpy in ``hyperspy_extension.yaml``, so that ``hs.load`` gives them
back with their class.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
