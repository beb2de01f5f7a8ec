from .experiment_design import ExperimentDesign, LazyExperimentDesign
from .hierarchical_clusters import HierarchicalClusters, LazyHierarchicalClusters
from .ptychographic_object import LazyPtychographicObject, PtychographicObject
from .strain_map import LazyStrainMap, StrainMap

__all__ = [
    "ExperimentDesign",
    "HierarchicalClusters",
    "LazyExperimentDesign",
    "LazyHierarchicalClusters",
    "LazyPtychographicObject",
    "LazyStrainMap",
    "PtychographicObject",
    "StrainMap",
]
