"""Weights that follow each other in a file, in units of their steps, cut into the chunks that coders see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from metaq.codebook import UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.format.sequence import RowRun, block_shape, cut_for
from metaq.threads import in_threads

Result = TypeVar("Result")
Codebooks = UniformCodebook | Mapping[str, UniformCodebook]
_PIECE = 1 << 18  # weights taken as float64 at a time, so that temporary tensors stay small


@dataclass(frozen=True)
class WeightChunk:
    """Weights that are quantized in one go: blocks of rows x channels x kernel.

    Attributes:
        values: float32 weights in units of their steps.
        importances: float32 factors of their squared errors, None for 1.
        symbols: int32, to be filled.
        most: of each block, the largest symbol that its dtype has a value for.
    """

    values: list[np.ndarray] = field(default_factory=list)
    importances: list[np.ndarray | None] = field(default_factory=list)
    symbols: list[np.ndarray] = field(default_factory=list)
    most: list[int] = field(default_factory=list)


def fill_symbols(
    weights: Mapping[str, Tensor],
    codebook: Codebooks,
    importance: Mapping[str, Tensor] | None,
    fill: Callable[[WeightChunk], Result],
    coder: str,
) -> tuple[dict[str, Tensor], list[Result]]:
    """Symbols (int32, in the weights' shapes) by name, and what ``fill``, run in threads, returned for each chunk.

    Chunks are those of ``coder``.

    Raises:
        InputError: weights that are not finite or too many steps from zero, or an importance that is
            negative, not finite or of another shape.
    """
    books = codebook if isinstance(codebook, Mapping) else dict.fromkeys(weights, codebook)
    symbols = {name: torch.zeros(tensor.shape, dtype=torch.int32) for name, tensor in weights.items()}
    names = [name for name, tensor in weights.items() if tensor.numel()]
    factors = {name: _importance(name, weights[name], importance or {}) for name in names}

    def fill_chunk(runs: list[RowRun]) -> Result:
        chunk = WeightChunk()
        for run in runs:
            name, rows = names[run.tensor], slice(run.first_row, run.first_row + run.shape[0])
            factor, step, dtype = factors[name], books[name].step, weights[name].dtype
            chunk.values.append(_in_steps(name, _block(weights[name])[rows], step))
            chunk.importances.append(None if factor is None else _block(factor)[rows].float().numpy())
            chunk.symbols.append(_block(symbols[name])[rows].numpy())
            chunk.most.append(int(min(SYMBOL_LIMIT - 1, torch.finfo(dtype).max / step)))
        return fill(chunk)

    sequence = [RowRun(index, None, 0, block_shape(tuple(weights[name].shape))) for index, name in enumerate(names)]
    return symbols, in_threads(fill_chunk, list(cut_for(coder, sequence)))


def check_rate_weight(rate_weight: float) -> None:
    """Raise an InputError unless it is finite and at least 0."""
    if not 0 <= rate_weight < np.inf:
        raise InputError(f"rate weight: expected a finite number of at least 0, found {rate_weight:g}")


def _in_steps(name: str, rows: Tensor, step: float) -> np.ndarray:
    in_steps = torch.empty(rows.shape, dtype=torch.float32)
    for first in range(0, rows.numel(), _PIECE):
        values = rows.reshape(-1)[first : first + _PIECE].double() / step
        highest = float(values.abs().max())
        if not np.isfinite(highest):
            raise InputError(f"tensor {name!r}: weights: expected finite values, found NaN or infinity")
        if highest >= SYMBOL_LIMIT - 1:
            found = f"more; use a larger step than {step:g}"
            raise InputError(f"tensor {name!r}: weights: expected less than 2^30 steps from zero, found {found}")
        in_steps.view(-1)[first : first + _PIECE] = values
    result: np.ndarray = in_steps.numpy()
    return result


def _importance(name: str, tensor: Tensor, importance: Mapping[str, Tensor]) -> Tensor | None:
    if name not in importance:
        return None
    given = importance[name]
    if given.shape != tensor.shape:
        raise InputError(f"importance of {name!r}: expected shape {tuple(tensor.shape)}, found {tuple(given.shape)}")
    if not bool((torch.isfinite(given) & (given >= 0)).all()):
        raise InputError(f"importance of {name!r}: expected finite numbers of at least 0, found others")
    return given


def _block(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(block_shape(tuple(tensor.shape)))
