from . import data as data
from .signals import PtychographicObject as PtychographicObject

__version__: str
