"""Entropies, errors and digests of weights, symbols and compressed models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metaq.compressed_model import CodedTensor, CompressedModel
from metaq.errors import InputError
from metaq.format.digest import sha256
from metaq.tensors import octets_of


def entropy_bits(symbols: Tensor) -> float:
    """Zero-order empirical entropy of a whole tensor of integers, in bits: ``n log2 n - Σ_b c_b log2 c_b``."""
    counts = torch.unique(symbols, return_counts=True)[1].to(torch.float64)
    if counts.numel() == 0:
        return 0.0
    return float(counts.sum() * counts.sum().log2() - (counts * counts.log2()).sum())


def tuple_entropy(symbols: Sequence[Tensor], order: int) -> float:
    """Ĥ_n / n: entropy of the tuples of n symbols of some tensors, over their length; in bits per weight.

        Ĥ_n = -Σ_ξ p(ξ) log2 p(ξ),    p(ξ) the share of ξ among the tuples of all tensors together

    Tuples are runs of n entries of a flattened tensor; what does not fill one at its end is left out. 0 if none is
    filled. The definition is equation (2) of HEMP, Tartaglione et al. 2021.

    Raises:
        InputError: an order below 1.
    """
    if order < 1:
        raise InputError(f"order: expected at least 1, found {order}")
    flat = [tensor.reshape(-1)[: tensor.numel() // order * order].to(torch.int64) for tensor in symbols]
    columns = torch.cat([part.reshape(-1, order) for part in flat]).unbind(1) if flat else ()
    keys = torch.zeros(1, dtype=torch.int64, device=flat[0].device if flat else None)
    for column in columns:
        numbers = torch.unique(column, return_inverse=True)[1]
        # Keys are numbered anew at every position, so that they never overflow, whatever the order.
        keys = torch.unique(keys * (1 + int(numbers.max())) + numbers, return_inverse=True)[1] if len(numbers) else keys
    return entropy_bits(keys) / (len(keys) * order)


def coded_weights(model: CompressedModel) -> dict[str, CodedTensor]:
    """The coded tensors of floating point that have entries, by name."""
    coded = {name: entry for name, entry in model.tensors.items() if isinstance(entry, CodedTensor)}
    return {name: entry for name, entry in coded.items() if entry.dtype.is_floating_point and entry.symbols.numel()}


def entropy_of_order(model: CompressedModel, order: int) -> float:
    """Ĥ_n / n of all coded weights of a compressed model, whatever method made it; see `tuple_entropy`."""
    return tuple_entropy([entry.symbols for entry in coded_weights(model).values()], order)


def relative_squared_error(weights: Tensor, reconstructed: Tensor) -> float:
    """``‖w - ŵ‖² / ‖w‖²`` over all entries; 0 where the error is, infinite where only the weights are."""
    exact = weights.to(torch.float64)
    error = float((exact - reconstructed.to(torch.float64)).square().sum())
    weight = float(exact.square().sum())
    return error / weight if weight else math.inf if error else 0.0


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of every tensor's name, dtype, shape and bytes: equal exactly when all of them are."""
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state.items()}
    return sha256((name, dtypes[name], tuple(tensor.shape), octets_of(tensor)) for name, tensor in state.items())
