"""Rows of a checkpoint's weights that stand for all of them while a step is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq import coding
from metaq.checkpoints.chunk_encoder import Totals
from metaq.checkpoints.weight_quantizer import WeightQuantizer, squared_error
from metaq.format.sequence import block_shape
from metaq.io.source import TensorSource

SAMPLE_WEIGHTS = coding.CHUNK_SYMBOLS  # so that the coder has learned as much as in a chunk
_SAMPLED_PLACES = 4  # of a tensor


@dataclass(frozen=True)
class Sample:
    """Whole rows of each tensor.

    Attributes:
        weights: by name, each of shape (rows, channels, kernel).
        share: how many times as many weights there are in all.
    """

    weights: dict[str, Tensor]
    share: float

    @property
    def is_all(self) -> bool:
        """Whether no weight is left out."""
        return self.share == 1.0

    def measure(self, step: float, quantizer: WeightQuantizer) -> Totals:
        """What all weights would come to on this step, going by the sample, their coded bits included."""
        codebooks = dict.fromkeys(self.weights, quantizer.codebook(step))
        symbols = quantizer.quantize(self.weights, codebooks)
        payload = coding.by_name(quantizer.coder).encode([tensor.numpy() for tensor in symbols.values()])
        error = squared_error(self.weights, symbols, codebooks)
        return Totals(error * self.share, 8 * len(payload) * self.share)


def is_sampled(count: int) -> bool:
    """Whether so many weights are tried on a sample first."""
    return count > 2 * SAMPLE_WEIGHTS


def draw_sample(sources: Mapping[str, TensorSource]) -> Sample:
    """Rows at a few places of each tensor, in proportion to its size; all rows if they are few.

    Args:
        sources: of each quantized tensor, by its name.
    """
    count = sum(source.layouts[name].size for name, source in sources.items())
    share = SAMPLE_WEIGHTS / count if is_sampled(count) else 1.0
    weights = {name: _rows(source, name, share) for name, source in sources.items()}
    return Sample(weights, count / sum(tensor.numel() for tensor in weights.values()))


def _rows(source: TensorSource, name: str, share: float) -> Tensor:
    rows, channels, kernel = block_shape(source.layouts[name].shape)
    wanted = max(1, round(rows * share))
    places = min(_SAMPLED_PLACES, wanted) if wanted < rows else 1
    parts = []
    for place in range(places):
        taken = wanted * (place + 1) // places - wanted * place // places
        first = (rows - wanted) * place // max(1, places - 1) + wanted * place // places
        parts.append(source.read(name, range(first * channels * kernel, (first + taken) * channels * kernel)))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(-1, channels, kernel)
