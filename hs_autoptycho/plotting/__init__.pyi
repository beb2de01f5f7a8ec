from .cluster_colors import leaf_colors, node_colors
from .cluster_tree import tree_figure
from .clusters import MapFrame, label_style, overlay_figure
from .comparison import TrialComparison, compare_trials, comparison_figure
from .design import design_figure
from .live import LiveTuning
from .strain import strain_figure
from .style import complex_to_rgb, robust_limits
from .summary import summary_figure
from .tuning import tuning_figure

__all__ = [
    "LiveTuning",
    "MapFrame",
    "TrialComparison",
    "compare_trials",
    "comparison_figure",
    "complex_to_rgb",
    "design_figure",
    "label_style",
    "leaf_colors",
    "node_colors",
    "overlay_figure",
    "robust_limits",
    "strain_figure",
    "summary_figure",
    "tree_figure",
    "tuning_figure",
]
