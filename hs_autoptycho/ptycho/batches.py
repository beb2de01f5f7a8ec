"""Which positions are visited together."""

from __future__ import annotations

import numpy as np


def default_batch_size(algorithm: str, n_positions: int) -> int:
    """Positions a batch where nothing else was asked for."""
    if algorithm in ("epie", "rpie"):
        return 1
    return int(np.clip(n_positions // 24, 16, 256))


def sparse_batches(
    indices: np.ndarray, n_batches: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Positions from all over the scan, in a new random order each time."""
    return np.array_split(generator.permutation(indices), n_batches)


def compact_batches(
    indices: np.ndarray,
    n_batches: int,
    positions: np.ndarray,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Neighbours: the scan is halved again and again along lines of random direction.

    Parameters
    ----------
    indices
        Of the positions to visit.
    n_batches
        How many to make of them.
    positions
        Of all, (positions, 2).
    generator
        Of the directions, and of the batches' order.
    """

    def halve(part: np.ndarray, count: int) -> list[np.ndarray]:
        if count == 1:
            return [part]
        angle = generator.uniform(0, np.pi)
        along = positions[part] @ [np.cos(angle), np.sin(angle)]
        order = part[np.argsort(along, kind="stable")]
        first = count // 2
        cut = len(part) * first // count
        return halve(order[:cut], first) + halve(order[cut:], count - first)

    batches = halve(np.asarray(indices), n_batches)
    return [batches[i] for i in generator.permutation(n_batches)]
