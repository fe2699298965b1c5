"""A running average of the weights that an optimizer trains."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class RunningAverage:
    """The exponential average of parameters: of the last ``1 / (1 - decay)`` updates, one may say.

    Args:
        model: its parameters hold the weights to begin with.
        decay: what remains of the average at each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in what the parameters hold now."""
        for name, parameter in self.model.named_parameters():
            self.weights[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def put(self) -> None:
        """Put the average into the parameters."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.weights[name])

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from the ``weights`` of an earlier one."""
        for name, average in self.weights.items():
            average.copy_(weights[name])
