"""Two methods at once: one that quantizes, and one that prunes while the first does its work.

Their order is what makes them agree: the pruning sees the loss's gradient before the other method adds its own, and the
optimizer's weights before the other method shows the network quantized ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaq.codebook import Codebook
from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method


@dataclass(frozen=True)
class Pruned(Method):
    """A method together with a pruning one.

    Attributes:
        method: decides the levels; one of them must be 0 wherever weights are pruned.
        pruning: decides which weights are zero, such as `LOBSTER`.
    """

    method: Method
    pruning: Method

    def bind(self, parameters: Mapping[str, torch.nn.Parameter]) -> BoundPruned:
        """Both at work on these parameters."""
        return BoundPruned(self.method.bind(parameters), self.pruning.bind(parameters))


class BoundPruned(BoundMethod):
    """The two methods' states for one model, whose hooks are called in turn."""

    def __init__(self, method: BoundMethod, pruning: BoundMethod) -> None:
        super().__init__(method.parameters)
        self.method, self.pruning = method, pruning
        self.measure_every = method.measure_every
        self._limit_rate()

    def on_forward(self, is_training: bool) -> None:
        """Prune the optimizer's weights, then show what the method shows.

        Raises:
            InputError: in evaluation, weights that are pruned would not be zero in the file, for want of a level there.
        """
        self.pruning.on_forward(True)
        zeros = {} if is_training else {name: tensor.detach() == 0 for name, tensor in self.parameters.items()}
        self.method.on_forward(is_training)
        for name, is_zero in zeros.items():
            shown = self.parameters[name].detach()[is_zero]
            if bool(shown.any()):
                found = float(shown[shown != 0][0])
                raise InputError(f"parameter {name!r}: expected a level at zero for what is pruned, found {found:g}")

    def undo_forward(self) -> None:
        """The optimizer's weights, pruned."""
        self.method.undo_forward()

    def on_gradients(self) -> None:
        """The pruning's view of the loss's gradient, then the method's regulariser."""
        self.pruning.on_gradients()
        self.method.on_gradients()
        self._limit_rate()

    def on_size(self, measure: Callable[[], int]) -> None:
        """The method's affair."""
        self.method.on_size(measure)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Both decide; the pruning tries out thresholds on the optimizer's weights, as the method then shows them."""

        def loss_of_pruned() -> float:
            loss = validation_loss()
            self.method.undo_forward()
            return loss

        self.method.undo_forward()
        self.pruning.on_epoch(loss_of_pruned)
        self.method.on_epoch(validation_loss)

    def on_last_phase(self) -> None:
        """For both; what the method shows as zero is pruned, so that the zero pattern stays as it is."""
        self.on_forward(False)
        zeros = [tensor.detach() == 0 for tensor in self.parameters.values()]
        self.undo_forward()
        for tensor, is_zero in zip(self.parameters.values(), zeros, strict=True):
            tensor.detach().masked_fill_(is_zero, 0.0)
        self.pruning.on_last_phase()
        self.method.on_last_phase()

    def quantize(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor] | None:
        """The method's levels."""
        return self.method.quantize(name, weights)

    def measures(self) -> dict[str, float]:
        """Those of both."""
        self.undo_forward()
        return {**self.method.measures(), **self.pruning.measures()}

    def state_dict(self) -> dict[str, Any]:
        """Those of both."""
        return {"method": self.method.state_dict(), "pruning": self.pruning.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.method.load_state_dict(state["method"])
        self.pruning.load_state_dict(state["pruning"])

    def _limit_rate(self) -> None:
        self.learning_rate_limit = min(self.method.learning_rate_limit, self.pruning.learning_rate_limit)
