from . import data as data
from ._memory import estimate_memory as estimate_memory
from .signals import HierarchicalClusters as HierarchicalClusters
from .signals import PtychographicObject as PtychographicObject

__version__: str
