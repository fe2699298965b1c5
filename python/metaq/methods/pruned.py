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
        self.learning_rate_limit = min(method.learning_rate_limit, pruning.learning_rate_limit)

    def on_forward(self) -> None:
        """Prune, then show what the method shows."""
        self.pruning.on_forward()
        self.method.on_forward()

    def undo_forward(self) -> None:
        """The optimizer's weights, pruned."""
        self.method.undo_forward()

    def on_gradients(self) -> None:
        """The pruning's view of the loss's gradient, then the method's regulariser."""
        self.pruning.on_gradients()
        self.method.on_gradients()

    def on_size(self, size_bytes: int) -> None:
        """The method's affair."""
        self.method.on_size(size_bytes)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Both decide; the pruning tries out thresholds on the optimizer's weights, as the method then shows them."""

        def shown_loss() -> float:
            self.method.on_forward()
            loss = validation_loss()
            self.method.undo_forward()
            return loss

        self.undo_forward()
        self.pruning.on_epoch(shown_loss)
        self.method.on_epoch(shown_loss)

    def on_last_phase(self) -> None:
        """For both."""
        self.pruning.on_last_phase()
        self.method.on_last_phase()

    def quantize(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor]:
        """The method's levels.

        Raises:
            InputError: weights that are zero would not stay so, for want of a level there.
        """
        codebook, symbols = self.method.quantize(name, weights)
        moved = codebook.values(symbols[weights.cpu() == 0])
        if bool((moved != 0).any()):
            found = float(moved[moved != 0][0])
            raise InputError(f"parameter {name!r}: expected a level at zero for what is pruned, found {found:g}")
        return codebook, symbols

    def measures(self) -> dict[str, float]:
        """Those of both."""
        return {**self.method.measures(), **self.pruning.measures()}

    def state_dict(self) -> dict[str, Any]:
        """Those of both."""
        return {"method": self.method.state_dict(), "pruning": self.pruning.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.method.load_state_dict(state["method"])
        self.pruning.load_state_dict(state["pruning"])
