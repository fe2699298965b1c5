"""Entropies of symbols in NumPy; `metaq.metrics` has the same of torch tensors, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.signedinteger]

_MOST_CELLS = 1 << 22  # of a histogram that is counted without sorting


def counts(symbols: Symbols) -> NDArray[np.int64]:
    """How often each symbol occurs, those alone that do; in the order of the symbols."""
    if not symbols.size:
        return np.zeros(0, np.int64)
    lowest, highest = int(symbols.min()), int(symbols.max())
    if highest - lowest < min(_MOST_CELLS, 16 * symbols.size + 256):
        histogram = np.bincount(symbols.reshape(-1).astype(np.int64) - lowest)
        return histogram[histogram > 0]
    return np.unique(symbols, return_counts=True)[1]


def entropy_bits_of_counts(occurrences: NDArray[np.int64]) -> float:
    """Zero-order empirical entropy of all symbols together, in bits: ``n log2 n - Σ_b c_b log2 c_b``."""
    if not occurrences.size:
        return 0.0
    c = occurrences.astype(np.float64)
    return float(c.sum() * np.log2(c.sum()) - (c * np.log2(c)).sum())


def compact(symbols: Symbols) -> Symbols:
    """The same symbols in the narrowest integers that hold them all."""
    extremes = (int(symbols.min()), int(symbols.max())) if symbols.size else (0, 0)
    return symbols.astype(np.result_type(*(np.min_scalar_type(min(extreme, ~extreme)) for extreme in extremes)))


def tuple_entropy(symbols: Sequence[Symbols], order: int) -> float:
    """Ĥ_n / n of `metaq.metrics.tuple_entropy`: entropy of runs of n symbols over their length, in bits per weight."""
    if not symbols:
        return 0.0
    width = np.result_type(*symbols).itemsize
    # The bytes of a tuple, as a number if there are so wide ones, name it: no arithmetic could leave its range.
    tuples = np.dtype(f"u{width * order}" if width * order <= 8 else f"V{width * order}")
    names, occurrences = [], []
    for tensor in symbols:
        whole = tensor.reshape(-1)[: tensor.size // order * order].astype(f"i{width}")
        found = np.unique(whole.view(tuples), return_counts=True)
        names.append(found[0])
        occurrences.append(found[1])
    where = np.unique(np.concatenate(names), return_inverse=True)[1].reshape(-1)
    total = np.bincount(where, np.concatenate(occurrences)).astype(np.int64)
    return entropy_bits_of_counts(total) / max(1, int(total.sum()) * order)
