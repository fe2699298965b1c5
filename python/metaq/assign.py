"""Weights and a codebook to symbols, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from metaq.codebook import SYMBOL_LIMIT, Codebook, IntegerCodebook, UniformCodebook
from metaq.errors import InputError


def nearest(weights: Tensor, codebook: Codebook) -> Tensor:
    """Symbol of the level nearest to each weight: ``argmin_q |w - level(q)|``.

    Args:
        weights: any real dtype, any shape, finite.
        codebook: where two levels of a table are equally near, the lower is taken; on a uniform grid, the even one.

    Returns:
        int32 symbols of the same shape.

    Raises:
        InputError: a weight is NaN or infinite, or so many steps from zero that no symbol stands for it.
    """
    if isinstance(codebook, IntegerCodebook):
        return weights.to(torch.int32)
    values = weights.detach().to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise InputError("weights: expected finite values, found NaN or infinity")
    if isinstance(codebook, UniformCodebook):
        symbols = torch.round(values / codebook.step)
        if symbols.numel() and float(symbols.abs().max()) >= SYMBOL_LIMIT:
            raise InputError(f"weights: expected less than 2^30 steps of {codebook.step:g} from zero, found more; take a larger step")
        return symbols.to(torch.int32)
    table = codebook.table.to(values)
    middles = (table[1:] + table[:-1]) / 2
    return (torch.searchsorted(middles, values) - codebook.origin).to(torch.int32)


def reconstruct(symbols: Tensor, codebook: Codebook, dtype: torch.dtype) -> Tensor:
    """The weights that ``symbols`` stand for, in ``dtype``: exactly what a decoded file holds."""
    return codebook.values(symbols).to(dtype)
