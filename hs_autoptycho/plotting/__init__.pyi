from .cluster_colors import leaf_colors, node_colors
from .cluster_tree import tree_figure
from .clusters import MapFrame, label_style, overlay_figure
from .design import design_figure
from .strain import strain_figure
from .style import complex_to_rgb, robust_limits
from .summary import summary_figure
from .tuning import tuning_figure

__all__ = [
    "MapFrame",
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
