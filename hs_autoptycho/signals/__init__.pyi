from .hierarchical_clusters import HierarchicalClusters, LazyHierarchicalClusters
from .ptychographic_object import LazyPtychographicObject, PtychographicObject
from .strain_map import LazyStrainMap, StrainMap

__all__ = [
    "HierarchicalClusters",
    "LazyHierarchicalClusters",
    "LazyPtychographicObject",
    "LazyStrainMap",
    "PtychographicObject",
    "StrainMap",
]
