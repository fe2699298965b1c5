"""What is measured of weights, symbols and files."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy_bits(symbols: Tensor) -> float:
    """Zero-order empirical entropy of a whole tensor of integers, in bits: ``n log2 n - Σ_b c_b log2 c_b``."""
    counts = torch.unique(symbols, return_counts=True)[1].to(torch.float64)
    if counts.numel() == 0:
        return 0.0
    return float(counts.sum() * counts.sum().log2() - (counts * counts.log2()).sum())


def relative_squared_error(weights: Tensor, reconstructed: Tensor) -> float:
    """``‖w - ŵ‖² / ‖w‖²`` over all entries; 0 where both are zero."""
    exact = weights.to(torch.float64)
    error = float((exact - reconstructed.to(torch.float64)).square().sum())
    return error / float(exact.square().sum()) if error else 0.0
