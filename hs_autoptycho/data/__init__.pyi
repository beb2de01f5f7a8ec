from ._score import correlation_with_truth
from ._truth import ground_truth, ground_truth_probe, phase_correlation
from ._twisted_bilayer_mos2 import twisted_bilayer_mos2

__all__ = [
    "correlation_with_truth",
    "ground_truth",
    "ground_truth_probe",
    "phase_correlation",
    "twisted_bilayer_mos2",
]
