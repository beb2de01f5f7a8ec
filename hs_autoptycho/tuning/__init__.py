"""Search for the parameters of a reconstruction."""
