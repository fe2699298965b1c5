"""Weights and a codebook to symbols, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from metaq.codebook import Codebook, TableCodebook, UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.floats import default_floats
from metaq.matrix_layout import MatrixLayout, scales


@default_floats()
def nearest(weights: Tensor, codebook: Codebook) -> Tensor:
    """Symbol of the level nearest to each weight: ``argmin_q |w - level(q)|``.

    Args:
        weights: any real dtype, any shape, finite.
        codebook: where two levels of a table are equally near, the lower is taken; on a uniform grid or among integers,
            the even one.

    Returns:
        int32 symbols of the same shape.

    Raises:
        InputError: a weight is NaN or infinite, or so many steps from zero that no symbol stands for it.
    """
    exact = weights.detach().to(torch.float64)
    if not bool(torch.isfinite(exact).all()):
        raise InputError("weights: expected finite values, found NaN or infinity")
    if isinstance(codebook, TableCodebook):
        table = torch.from_numpy(codebook.table).to(exact)
        middles = (table[1:] + table[:-1]) / 2
        return (torch.searchsorted(middles, exact.contiguous()) - codebook.origin).to(torch.int32)
    step = codebook.step if isinstance(codebook, UniformCodebook) else 1.0
    symbols = (exact / step).round_()
    if symbols.numel() and max(map(abs, map(float, symbols.aminmax()))) >= SYMBOL_LIMIT:
        raise InputError(f"weights: expected less than 2^30 steps of {step:g} from zero, found more; use a larger step")
    return symbols.to(torch.int32)


@default_floats()
def values(symbols: Tensor, codebook: Codebook) -> Tensor:
    """The levels that ``symbols`` (any integer dtype) stand for, same shape: float32, or the symbols of integers.

    Raises:
        InputError: a symbol outside the table.
    """
    if isinstance(codebook, UniformCodebook):
        return symbols.to(torch.float32) * codebook.step
    if not isinstance(codebook, TableCodebook):
        return symbols
    positions = symbols.to(torch.int64) + codebook.origin
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < len(codebook.levels):
        least, greatest = -codebook.origin, len(codebook.levels) - 1 - codebook.origin
        raise InputError(f"symbols: expected {least} to {greatest}, found others")
    return torch.from_numpy(codebook.table).to(positions.device)[positions]


@default_floats()
def reconstruct(symbols: Tensor, codebook: Codebook, dtype: torch.dtype, matrix: MatrixLayout | None = None) -> Tensor:
    """The weights that ``symbols`` stand for, in ``dtype``: exactly what a decoded file holds.

    Args:
        matrix: if there is one, ``symbols`` are those of a whole tensor, in its shape, and the codebook is uniform.

    Raises:
        InputError: a symbol outside the table, or a layout that does not fit the tensor.
    """
    if matrix is None:
        return values(symbols, codebook).to(dtype)
    return _scaled_values(symbols, codebook, matrix).to(dtype)


def _scaled_values(symbols: Tensor, codebook: Codebook, matrix: MatrixLayout) -> Tensor:
    """``(q * s_i) * c_j`` in float32, ``s_i`` the product of the step and the row's scale."""
    shape = tuple(symbols.shape)
    check_matrix(shape, codebook, matrix)
    assert isinstance(codebook, UniformCodebook)
    row_steps = torch.from_numpy(matrix.row_steps(codebook.step)).to(symbols.device)
    found = symbols.reshape(matrix.rows(shape), -1).to(torch.float32) * row_steps[:, None]
    if matrix.column_logs is not None:
        found *= torch.from_numpy(scales(matrix.column_logs)).to(symbols.device)
    return found.reshape(shape)


def check_matrix(shape: tuple[int, ...], codebook: Codebook, matrix: MatrixLayout) -> None:
    """Raise an InputError unless a tensor of this shape and codebook may be seen so as a matrix."""
    if not isinstance(codebook, UniformCodebook):
        raise InputError(f"matrix layout: expected a UniformCodebook, found a {type(codebook).__name__}")
    matrix.check(shape, codebook.step)


def symbol_range(codebook: Codebook, dtype: torch.dtype) -> tuple[int, int]:
    """The least and the greatest symbol that a tensor of ``dtype`` may have."""
    if isinstance(codebook, TableCodebook):
        return -codebook.origin, len(codebook.levels) - 1 - codebook.origin
    least, greatest = 1 - SYMBOL_LIMIT, SYMBOL_LIMIT - 1
    if isinstance(codebook, UniformCodebook):
        return least, greatest
    if dtype == torch.bool:
        return 0, 1
    return max(least, torch.iinfo(dtype).min), min(greatest, torch.iinfo(dtype).max)


def check_symbols(symbols: Tensor, codebook: Codebook, dtype: torch.dtype) -> None:
    """Raise an InputError unless every symbol stands for a value of ``dtype``."""
    if symbols.numel() == 0:
        return
    least, greatest = map(int, symbols.aminmax())
    lowest, highest = symbol_range(codebook, dtype)
    if least < lowest or greatest > highest:
        raise InputError(f"symbols: expected {lowest} to {highest}, found {least} to {greatest}")
