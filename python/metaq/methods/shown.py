"""Parameters that show other values than the optimizer's for a while: in evaluation, and in the file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metaq.methods.base import BoundMethod


class ShownValues:
    """Some parameters, and the optimizer's weights while the parameters hold other values."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.own: dict[str, Tensor] | None = None  # the optimizer's weights, while others are shown

    @torch.no_grad()
    def show(self, values: Mapping[str, Tensor]) -> None:
        """Put ``values`` into the parameters; the optimizer's weights are kept aside, if they are not already."""
        if self.own is None:
            self.own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    @torch.no_grad()
    def take_back(self) -> None:
        """Put the optimizer's weights back where others are shown."""
        if self.own is not None:
            for name, parameter in self.parameters.items():
                parameter.copy_(self.own[name])
            self.own = None


class TrainedInFloat(BoundMethod):
    """A method whose training sees the optimizer's weights, and whose evaluation sees those of the file."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(parameters)
        self.shown = ShownValues(self.parameters)

    def undo_forward(self) -> None:
        """Give the optimizer its weights back."""
        self.shown.take_back()
