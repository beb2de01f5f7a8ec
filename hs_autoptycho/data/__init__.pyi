from ._domain_truth import domain_purity, true_domains, true_lattices, true_strain
from ._microscope import SimulatedMicroscope
from ._score import correlation_with_truth
from ._snse_domains import snse_domains
from ._specimens import atom_pairs, twisted_bilayer_mos2_potential
from ._truth import ground_truth, ground_truth_probe, phase_correlation, true_positions
from ._twisted_bilayer_mos2 import twisted_bilayer_mos2
from ._ws2_wse2_junction import ws2_wse2_junction

__all__ = [
    "SimulatedMicroscope",
    "atom_pairs",
    "correlation_with_truth",
    "domain_purity",
    "ground_truth",
    "ground_truth_probe",
    "phase_correlation",
    "snse_domains",
    "true_domains",
    "true_lattices",
    "true_positions",
    "true_strain",
    "twisted_bilayer_mos2",
    "twisted_bilayer_mos2_potential",
    "ws2_wse2_junction",
]
