from .style import complex_to_rgb, robust_limits
from .summary import summary_figure
from .tuning import tuning_figure

__all__ = [
    "complex_to_rgb",
    "robust_limits",
    "summary_figure",
    "tuning_figure",
]
