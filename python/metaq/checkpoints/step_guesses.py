"""What a step leads to, roughly and at once, from a few thousand weights on their nearest multiples of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from metaq.checkpoints.tensor_plan import sum_of_squares

Guess = Callable[[float], float]

_PICKED = 1 << 15
_FINEST = 2.0**-10  # of the largest weight: below, a step's entropy is that of a smooth density


def guessed_error(weights: Mapping[str, Tensor]) -> Guess:
    """From a step s to about ``Σ(w - s round(w/s))² / Σw²`` of all weights."""
    picked = _picked(weights)
    energy = sum(sum_of_squares(tensor) for tensor in weights.values())
    count = sum(tensor.numel() for tensor in weights.values())

    def guess(step: float) -> float:
        misses = picked - step * np.round(picked / step)
        return float(np.square(misses).mean()) * count / energy if energy else 0.0

    return guess


def guessed_bits(weights: Mapping[str, Tensor]) -> Guess:
    """From a step to about the entropy of a weight's nearest multiple, in bits."""
    picked = _picked(weights)
    highest = float(np.abs(picked).max(initial=0.0))

    def guess(step: float) -> float:
        if highest == 0:
            return 0.0
        coarser = max(step, _FINEST * highest)
        counts = np.bincount((np.round(picked / coarser) + 1 / _FINEST).astype(np.int64))
        shares = counts[counts > 0] / picked.size
        return float(-(shares * np.log2(shares)).sum() + np.log2(coarser / step))

    return guess


def _picked(weights: Mapping[str, Tensor]) -> np.ndarray:
    """Weights at equal distances in the whole sequence of them, as float64, at most _PICKED."""
    count = sum(tensor.numel() for tensor in weights.values())
    every, skip = -(-count // _PICKED) or 1, 0
    parts = []
    for tensor in weights.values():
        parts.append(tensor.reshape(-1)[skip::every].double())
        skip = (skip - tensor.numel()) % every
    picked: np.ndarray = torch.cat(parts).numpy() if parts else np.zeros(0)
    return picked
