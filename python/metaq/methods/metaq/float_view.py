"""Training in float towards levels that all parameters share, as METaQ was published."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metaq.methods.base import gradient_of


class FloatView:
    """Parameters as one set of weights on ``count`` levels, equally spaced on ``[centre - reach, centre + reach]``.

    Args:
        parameters: float32, all on one device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], centre: float, reach: float, count: int) -> None:
        self.parameters = list(parameters)
        self.first, self.count = centre - reach, count
        self.step = 2 * reach / (count - 1)

    def levels(self) -> Tensor:
        """The set's levels: float64 (1, C)."""
        device = self.parameters[0].device
        return (self.first + self.step * torch.arange(self.count, dtype=torch.float64, device=device))[None]

    def latent_weights(self) -> list[Tensor]:
        """All weights, as one flat tensor."""
        return [torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])]

    @torch.no_grad()
    def counts(self) -> Tensor:
        """How often each level is a weight's nearest: int64 (1, C)."""
        (weights,) = self.latent_weights()
        return torch.bincount(self._nearest(weights).to(torch.int64), minlength=self.count)[None]

    @torch.no_grad()
    def add_slopes(self, slopes: Tensor, strength: float) -> None:
        """Add ``strength * slope`` to the gradients.

        Args:
            slopes: float32 (1, C, 2): for every level, the slope below it and the one above.
        """
        for parameter in self.parameters:
            place = (parameter.detach() - self.first) / self.step
            index = place.round().clamp_(0, self.count - 1)
            side = index.to(torch.int64).mul_(2).add_(place > index)
            beta = slopes.view(-1)[side].mul_((place >= 0) & (place <= self.count - 1))
            gradient_of(parameter).add_(beta, alpha=strength)

    def _nearest(self, weights: Tensor) -> Tensor:
        return ((weights - self.first) / self.step).round().clamp_(0, self.count - 1)
