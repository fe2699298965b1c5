"""What is measured of weights, symbols and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metaq.assign import values
from metaq.errors import InputError
from metaq.format.digest import sha256
from metaq.tensors import octets_of

if TYPE_CHECKING:
    from metaq.compressed_model import CodedTensor, CompressedModel


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
    filled. HEMP, Tartaglione et al. 2021, equation (2).

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
        # Numbered anew at every position, so that keys never overflow, whatever the order.
        keys = torch.unique(keys * (1 + int(numbers.max())) + numbers, return_inverse=True)[1] if len(numbers) else keys
    return entropy_bits(keys) / (len(keys) * order)


def entropy_of_order(model: CompressedModel, order: int) -> float:
    """Ĥ_n / n of all coded weights of a compressed model, whatever method made it; see `tuple_entropy`."""
    return tuple_entropy([entry.symbols for entry in _coded_weights(model).values()], order)


def proxy_entropy(model: CompressedModel, weights: Mapping[str, Tensor], order: int) -> float:
    """H_n / n, HEMP's differentiable form of `entropy_of_order`, of the float weights that became ``model``.

    A weight between two levels counts as both, by its distance from each (Tartaglione et al. 2021, (7) and (8)), so
    that where all weights lie on levels both entropies are the same.

    Args:
        weights: for every coded tensor of floating point, by its name, what it was before quantization.

    Raises:
        InputError: an order below 1, or so high that the cells of the histogram cannot be numbered.
    """
    from metaq.solvers.tuple_entropy import tuples, value

    coded = _coded_weights(model)
    if not coded:
        return 0.0
    ranges = {name: list(map(int, entry.symbols.aminmax())) for name, entry in coded.items()}
    least = min(first for first, _ in ranges.values())
    levels, offsets = [], []
    for name, entry in coded.items():
        first, last = ranges[name]
        levels.append(values(torch.arange(first, last + 1), entry.codebook))
        offsets.append(first - least)
    found = tuples([weights[name] for name in coded], levels, order, offsets)
    return float(value(found)) / order


def _coded_weights(model: CompressedModel) -> dict[str, CodedTensor]:
    from metaq.compressed_model import CodedTensor

    coded = {name: entry for name, entry in model.tensors.items() if isinstance(entry, CodedTensor)}
    return {name: entry for name, entry in coded.items() if entry.dtype.is_floating_point and entry.symbols.numel()}


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
