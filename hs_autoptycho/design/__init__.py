"""Experiments designed by simulation: arrays in, arrays out."""
