"""Two methods at once: one that quantizes, and one that prunes while the first does its work.

Their order is what makes them agree: the pruning sees the loss's gradient before the other method adds its own, and the
latent weights before the other method puts quantized ones into the parameters.
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
from metaq.methods.training import UNKNOWN_TRAINING, Training


@dataclass(frozen=True)
class Pruned(Method):
    """A method together with a pruning one.

    Attributes:
        method: decides the levels; one of them must be 0 wherever weights are pruned.
        pruning: decides which weights are zero, such as `LOBSTER`.
    """

    method: Method
    pruning: Method

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundPruned:
        """Both at work on these parameters."""
        return BoundPruned(self.method.bind(parameters, training), self.pruning.bind(parameters, training))


class BoundPruned(BoundMethod):
    """The two methods' states for one model, whose hooks are called in turn."""

    works_on_shards = True

    def __init__(self, method: BoundMethod, pruning: BoundMethod) -> None:
        super().__init__(method.parameters, Training(method.training_steps, method.ranks))
        self.method, self.pruning = method, pruning
        self.measure_every, self.is_straight_through = method.measure_every, method.is_straight_through
        self.needs_validation_loss = method.needs_validation_loss or pruning.needs_validation_loss
        self.quantizes_any_weights = method.quantizes_any_weights
        self._limit_rate()

    @property
    def holds_file_weights(self) -> bool:
        """Whether the parameters hold the weights of the file now."""
        return self.method.holds_file_weights

    def on_forward(self, is_training: bool) -> None:
        """Prune the latent weights, then put those into the parameters that the method wants the model to see.

        Raises:
            InputError: in evaluation, weights that are pruned would not be zero in the file, which has no level there.
        """
        if not self.holds_file_weights:
            self.pruning.on_forward(True)
        self.method.on_forward(is_training)
        for name, parameter in () if is_training else self.parameters.items():
            pruned = parameter.detach()[self.latent_weights(name) == 0]
            if bool(pruned.any()):
                found = float(pruned[pruned != 0][0])
                raise InputError(f"parameter {name!r}: expected a level at zero for what is pruned, found {found:g}")

    def latent_weights(self, name: str) -> Tensor:
        """The weights of a parameter that the optimizer trains."""
        return self.method.latent_weights(name)

    def restore_weights(self) -> None:
        """Put the latent weights, pruned, back into the parameters."""
        self.method.restore_weights()

    def await_step(self, awaits_step: bool) -> None:
        """Both wait for the step, or no longer."""
        self.method.await_step(awaits_step)
        self.pruning.await_step(awaits_step)

    def adopt_weights(self) -> None:
        """Take what the parameters hold now for the latent weights."""
        self.method.adopt_weights()

    def on_gradients(self) -> None:
        """The pruning sees the gradient of the loss alone; then the method adds its own."""
        self.pruning.on_gradients()
        self.method.on_gradients()
        self._limit_rate()

    def on_size(self, measure: Callable[[], int]) -> None:
        """The method may steer towards a size."""
        self.method.on_size(measure)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Both decide; the pruning tries thresholds on the latent weights, measured as the method quantizes them."""

        def loss_of_pruned() -> float:
            loss = validation_loss()
            self.restore_weights()
            return loss

        self.restore_weights()
        self.pruning.on_epoch(loss_of_pruned)
        self.method.on_epoch(validation_loss)

    def on_last_phase(self) -> None:
        """Begin it for both; what would be zero in the file is pruned, so that these zeros stay."""
        self.on_forward(False)
        zeros = [tensor.detach() == 0 for tensor in self.parameters.values()]
        self.restore_weights()
        for tensor, is_zero in zip(self.parameters.values(), zeros, strict=True):
            tensor.detach().masked_fill_(is_zero, 0.0)
        self.pruning.on_last_phase()
        self.method.on_last_phase()

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor] | None:
        """The method's levels."""
        return self.method.quantize_parameter(name, weights)

    def measures(self) -> dict[str, float]:
        """The measures of both."""
        self.restore_weights()
        return {**self.method.measures(), **self.pruning.measures()}

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"method": self.method.state_dict(), "pruning": self.pruning.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.method.load_state_dict(state["method"])
        self.pruning.load_state_dict(state["pruning"])

    def _limit_rate(self) -> None:
        self.learning_rate_limit = min(self.method.learning_rate_limit, self.pruning.learning_rate_limit)
