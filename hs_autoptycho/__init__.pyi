from . import data as data
from . import interop as interop
from ._design import design_experiment as design_experiment
from ._geometry import estimate_geometry as estimate_geometry
from ._memory import estimate_memory as estimate_memory
from .inline.tuner import PtychographyTuner as PtychographyTuner
from .signals import ExperimentDesign as ExperimentDesign
from .signals import HierarchicalClusters as HierarchicalClusters
from .signals import PtychographicObject as PtychographicObject
from .tuning.study import load_study as load_study

__version__: str
