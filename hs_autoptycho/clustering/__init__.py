"""Clustering of diffraction patterns: pure functions on arrays."""
