"""Weights of a chunk to symbols on given steps, by the quantizer that suits the coder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq import coding
from metaq.assign import nearest, reconstruct
from metaq.checkpoints.tensor_plan import PIECE_ELEMENTS, sum_of_squares
from metaq.codebook import UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.quantizers import rdoq, trellis

Codebooks = Mapping[str, UniformCodebook]


@dataclass(frozen=True)
class WeightQuantizer:
    """Quantizes by error and rate; or to the nearest level, whatever it costs in bits.

    In the trellis (`metaq.quantizers.trellis`) for coders that learn dependent symbols, one by one
    (`metaq.quantizers.rdoq`) for the others.

    Attributes:
        coder: name of the coder.
        is_nearest: whether to quantize to the nearest level.
    """

    coder: str
    is_nearest: bool = False

    @property
    def uses_trellis(self) -> bool:
        """Whether symbols are those of the trellis."""
        learns = coding.by_name(self.coder).learns_dependent_symbols
        return learns and not self.is_nearest

    def codebook(self, step: float) -> UniformCodebook:
        """The levels. ``step`` is rdoq's; the trellis takes the finer one that leads to about the same error."""
        return UniformCodebook(step / (trellis.FINER if self.uses_trellis else 1.0))

    def quantize(self, weights: Mapping[str, Tensor], codebooks: Codebooks) -> dict[str, Tensor]:
        """int32 symbols of whole rows of tensors that lie in one chunk."""
        of_weights = {name: codebooks[name] for name in weights}
        if self.is_nearest:
            return {name: _nearest(name, tensor, codebooks[name]) for name, tensor in weights.items()}
        if self.uses_trellis:
            # A chunk of the adaptive coder is as long as the rates should be learned on, and there are several.
            in_pieces = coding.by_name(self.coder).speed is coding.Speed.SLOW
            return trellis.quantize(weights, of_weights, in_pieces=in_pieces)
        return rdoq.quantize(weights, of_weights)[0]


def squared_error(weights: Mapping[str, Tensor], symbols: Mapping[str, Tensor], codebooks: Codebooks) -> float:
    """``Σ(w - ŵ)²``."""
    error = 0.0
    for name, tensor in weights.items():
        exact, found = tensor.reshape(-1), symbols[name].reshape(-1)
        for first in range(0, exact.numel(), PIECE_ELEMENTS):
            part = slice(first, first + PIECE_ELEMENTS)
            missed = exact[part].double() - reconstruct(found[part], codebooks[name], tensor.dtype).double()
            error += sum_of_squares(missed)
    return error


def _nearest(name: str, weights: Tensor, codebook: UniformCodebook) -> Tensor:
    """The nearest levels within the dtype's range."""
    most = int(min(SYMBOL_LIMIT - 1, torch.finfo(weights.dtype).max / codebook.step))
    symbols = torch.empty(weights.shape, dtype=torch.int32)
    exact, found = weights.reshape(-1), symbols.view(-1)
    try:
        for first in range(0, exact.numel(), PIECE_ELEMENTS):
            part = slice(first, first + PIECE_ELEMENTS)
            found[part] = nearest(exact[part], codebook).clamp_(-most, most)
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from None
    return symbols
