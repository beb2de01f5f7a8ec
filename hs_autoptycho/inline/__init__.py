"""Tuning while the microscope runs: frames as they arrive, and what to ask of the next scan."""
