"""Parameters that are kept with as many significant bits as float16 has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metaq.methods.base import BoundMethod
from metaq.methods.training import Training
from metaq.quantizers.rounding import round_as_float16


class BoundRounding(BoundMethod):
    """Rounds norms and biases to eleven significant bits; forward passes see them so, the optimizer trains them."""

    works_on_shards = True

    def __init__(self, parameters: Mapping[str, nn.Parameter], training: Training) -> None:
        super().__init__(parameters, training)
        self.is_straight_through = True

    def quantize_parameter(self, name: str, weights: Tensor) -> None:
        """None: the file keeps them in floating point."""
        return

    def file_weights(self) -> dict[str, Tensor]:
        """The rounded weights; all in one, since they are many and small."""
        latents = {name: self.latent_weights(name) for name in self.parameters}
        rounded = round_as_float16(torch.cat([weights.reshape(-1) for weights in latents.values()]))
        pieces = rounded.split([weights.numel() for weights in latents.values()])
        return {name: piece.view_as(latents[name]) for name, piece in zip(latents, pieces, strict=True)}
