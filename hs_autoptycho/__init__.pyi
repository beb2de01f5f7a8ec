from . import data as data
from .signals import HierarchicalClusters as HierarchicalClusters
from .signals import PtychographicObject as PtychographicObject

__version__: str
