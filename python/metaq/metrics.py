"""What is measured of weights, symbols and files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from metaq.planes import octets_of


def entropy_bits(symbols: Tensor) -> float:
    """Zero-order empirical entropy of a whole tensor of integers, in bits: ``n log2 n - Σ_b c_b log2 c_b``."""
    counts = torch.unique(symbols, return_counts=True)[1].to(torch.float64)
    if counts.numel() == 0:
        return 0.0
    return float(counts.sum() * counts.sum().log2() - (counts * counts.log2()).sum())


def relative_squared_error(weights: Tensor, reconstructed: Tensor) -> float:
    """``‖w - ŵ‖² / ‖w‖²`` over all entries; 0 where the error is, infinite where only the weights are."""
    exact = weights.to(torch.float64)
    error = float((exact - reconstructed.to(torch.float64)).square().sum())
    weight = float(exact.square().sum())
    return error / weight if weight else math.inf if error else 0.0


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of every tensor's name, dtype, shape and bytes: equal exactly when all of them are."""
    sha = hashlib.sha256()
    for name, tensor in state.items():
        # Escaped, so that no name holds the separator.
        sha.update(name.encode("unicode_escape") + f"\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(octets_of(tensor).data)
    return sha.hexdigest()
