"""Ptychographic reconstruction: arrays in, arrays out."""
