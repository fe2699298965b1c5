"""Rate-distortion quantization after training, on tensors alone.

Weights w_i on multiples k of one step s, each chosen in coding order for what it costs in error and in bits:

    q_i = argmin_k  F_i (w_i - s k)² + λ s² R(k | the choices before),

R the length of the mixing coder's code for k, its adaptive model run along. F_i is 1 or a given diagonal, λ the squared
steps that a bit is worth. At high rate dD/dR of a uniform quantizer is (ln 2)/6 = 0.116 squared steps a bit: with about
that λ, a coarser step and a larger λ gain alike. One λ and one s for all tensors give all of them equal slope, which is
the least size at a given total error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metaq import _native
from metaq.assign import nearest
from metaq.chunks import CHUNK_SYMBOLS, Run, cut, in_threads
from metaq.codebook import UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.header import block_shape

RATE_WEIGHT = 0.1  # near the least size at equal error at 2 and at 4 bits a weight


def quantize(
    weights: Mapping[str, Tensor],
    codebook: UniformCodebook | Mapping[str, UniformCodebook],
    rate_weight: float = RATE_WEIGHT,
    importance: Mapping[str, Tensor] | None = None,
    feedback: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Symbols of tensors that follow each other in a file, and what the mixing coder takes for them.

    Args:
        weights: floating point, any shapes, finite, by name, in the file's order.
        codebook: the levels, of all tensors or of each by name.
        rate_weight: λ, at least 0; at 0 every symbol is the nearest.
        importance: F_i, at least 0, in the weights' shapes, for those that have one; 1 for the others.
        feedback: for those that have one, of shape (d, d) for rows of d weights: the share of an error in column j by
            which the weight in column k > j moves the other way (`metaq.methods.second_order`).

    Returns:
        int32 symbols in the weights' shapes by name, and their code length in bits.

    Raises:
        InputError: weights that are not finite or too many steps from zero, a rate weight below 0, or an importance
            that is negative, not finite or of another shape, or a feedback that is not finite or of another shape.
    """
    if not 0 <= rate_weight < np.inf:
        raise InputError(f"rate weight: expected a finite number of at least 0, found {rate_weight:g}")
    books = codebook if isinstance(codebook, Mapping) else dict.fromkeys(weights, codebook)
    tensors = [(name, tensor) for name, tensor in weights.items() if tensor.numel()]
    symbols = {name: _nearest(name, tensor, books[name]) for name, tensor in weights.items()}
    importances = [_importance(name, tensor, importance or {}) for name, tensor in tensors]
    feedbacks = [_feedback(name, tensor, feedback or {}) for name, tensor in tensors]

    def choose(chunk: list[Run]) -> float:
        values, factors, chosen = [], [], []
        shares = [feedbacks[run.tensor] for run in chunk]
        for run in chunk:
            rows = slice(run.first_row, run.first_row + run.shape[0])
            name, tensor = tensors[run.tensor]
            factor = importances[run.tensor]
            values.append(_block(tensor.reshape(block_shape(tuple(tensor.shape)))[rows].double() / books[name].step))
            factors.append(None if factor is None else factor[rows])
            chosen.append(symbols[name].numpy().reshape(block_shape(tuple(tensor.shape)))[rows])
        return _native.quantize_by_rate(values, factors, shares, chosen, rate_weight)

    sequence = [Run(index, None, 0, block_shape(tuple(tensor.shape))) for index, (_, tensor) in enumerate(tensors)]
    return symbols, sum(in_threads(choose, list(cut(sequence, CHUNK_SYMBOLS))))


def _nearest(name: str, tensor: Tensor, codebook: UniformCodebook) -> Tensor:
    try:
        symbols = nearest(tensor.cpu(), codebook).contiguous()
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from None
    # A symbol may be chosen that is one further from zero.
    return symbols.clamp_(2 - SYMBOL_LIMIT, SYMBOL_LIMIT - 2)


def _importance(name: str, tensor: Tensor, importance: Mapping[str, Tensor]) -> np.ndarray | None:
    if name not in importance:
        return None
    given = importance[name]
    if given.shape != tensor.shape:
        raise InputError(f"importance of {name!r}: expected shape {tuple(tensor.shape)}, found {tuple(given.shape)}")
    if not bool((torch.isfinite(given) & (given >= 0)).all()):
        raise InputError(f"importance of {name!r}: expected finite numbers of at least 0, found others")
    return _block(given)


def _feedback(name: str, tensor: Tensor, feedback: Mapping[str, Tensor]) -> np.ndarray | None:
    if name not in feedback:
        return None
    given, (_, channels, kernel) = feedback[name], block_shape(tuple(tensor.shape))
    if given.shape != (channels * kernel, channels * kernel):
        expected = (channels * kernel, channels * kernel)
        raise InputError(f"feedback of {name!r}: expected shape {expected}, found {tuple(given.shape)}")
    if not bool(torch.isfinite(given).all()):
        raise InputError(f"feedback of {name!r}: expected finite numbers, found others")
    shares: np.ndarray = given.detach().cpu().to(torch.float32).contiguous().numpy()
    return shares


def _block(tensor: Tensor) -> np.ndarray:
    dense = tensor.detach().cpu().to(torch.float32).contiguous()
    block: np.ndarray = dense.numpy().reshape(block_shape(tuple(tensor.shape)))
    return block
