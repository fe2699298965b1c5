"""Trellis-coded (dependent) quantization after training, on tensors alone.

Symbols are multiples r_i of one step s, but each comes from one of two quantizers, the even multiples or the odd ones
and zero; a machine of four or eight states, driven by the parities of the indices before, says which. A weight thus has
as many levels to choose from as with step 2s, while the rows as a whole have those of step s: the indices

    k = argmin  Σ_i F_i (w_i - s r_i)² + λ s² R(k_i | quantizer, scale),    r_i = 2 k_i - sign(k_i) · quantizer,

found by Viterbi's algorithm, take up to 0.17 bits less than those of `metaq.quantizers.rdoq` at equal error. The
machine starts anew with each row of a tensor (docs/format.md, "Mixing"). The mixing and the adaptive coder know of it:
with others symbols take more than rdoq's. R(k) comes from tables by quantizer and by the magnitude expected of a
weight, from its row, column, channel and kernel position.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from metaq import _native
from metaq.errors import InputError
from metaq.quantizers.weight_chunks import Codebooks, WeightChunk, check_rate_weight, fill_symbols

RATE_WEIGHT = 0.4  # the least size at equal error, at any rate between 2 and 5 bits
FINER = 1.8  # its steps are finer by this than those of `metaq.quantizers.rdoq` at the same error
STATES = (4, 8)


def quantize(
    weights: Mapping[str, Tensor],
    codebook: Codebooks,
    rate_weight: float = RATE_WEIGHT,
    importance: Mapping[str, Tensor] | None = None,
    states: int = 8,
    in_pieces: bool = True,
) -> dict[str, Tensor]:
    """Symbols of tensors that follow each other in a file.

    Args:
        weights: floating point, any shapes, finite, by name, in the file's order.
        codebook: the levels, of all tensors or of each by name.
        rate_weight: λ, at least 0; at 0 only the error counts.
        importance: F_i, at least 0, in the weights' shapes, for those that have one; 1 for the others.
        states: of the machine, 4 or 8.
        in_pieces: whether the rates R are learned anew in pieces, as long as the adaptive coder's chunks, each on a
            thread; otherwise there are as few pieces as symbols can be in (`metaq.coding.CHUNK_SYMBOLS`).

    Returns:
        int32 symbols in the weights' shapes by name.

    Raises:
        InputError: weights that are not finite or too many steps from zero, a rate weight below 0, an importance that
            is negative, not finite or of another shape, or another number of states.
    """
    check_rate_weight(rate_weight)
    if states not in STATES:
        raise InputError(f"states: expected 4 or 8, found {states}")

    def fill(chunk: WeightChunk) -> None:
        _native.quantize_by_trellis(chunk.values, chunk.importances, chunk.symbols, chunk.most, rate_weight, states)

    return fill_symbols(weights, codebook, importance, fill, "adaptive" if in_pieces else "mixing")[0]
