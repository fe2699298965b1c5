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
from torch import Tensor

from metaq import _native
from metaq.quantizers.weight_chunks import Codebooks, WeightChunk, check_rate_weight, fill_symbols

RATE_WEIGHT = 0.1  # near the least size at equal error at 2 and at 4 bits a weight


def quantize(
    weights: Mapping[str, Tensor],
    codebook: Codebooks,
    rate_weight: float = RATE_WEIGHT,
    importance: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Symbols of tensors that follow each other in a file, and what the mixing coder takes for them.

    Args:
        weights: floating point, any shapes, finite, by name, in the file's order.
        codebook: the levels, of all tensors or of each by name.
        rate_weight: λ, at least 0; at 0 every symbol is the nearest.
        importance: F_i, at least 0, in the weights' shapes, for those that have one; 1 for the others.

    Returns:
        int32 symbols in the weights' shapes by name, and their code length in bits.

    Raises:
        InputError: weights that are not finite or too many steps from zero, a rate weight below 0, or an importance
            that is negative, not finite or of another shape.
    """
    check_rate_weight(rate_weight)

    def choose(chunk: WeightChunk) -> float:
        for values, symbols in zip(chunk.values, chunk.symbols, strict=True):
            np.rint(values, out=symbols, casting="unsafe")
        bits = _native.quantize_by_rate(chunk.values, chunk.importances, chunk.symbols, rate_weight)
        for symbols, most in zip(chunk.symbols, chunk.most, strict=True):
            np.clip(symbols, -most, most, out=symbols)
        return bits

    symbols, bits = fill_symbols(weights, codebook, importance, choose, "mixing")
    return symbols, sum(bits)
