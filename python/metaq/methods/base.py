"""What a method is: a frozen configuration that binds to parameters and then acts at fixed points of training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metaq.codebook import Codebook


class BoundMethod(ABC):
    """A method's state for one model. Its hooks do nothing unless a method overrides them.

    Args:
        parameters: the parameters to compress, by name; trained in place by somebody else's optimizer.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.measure_every = 0  # training steps between two calls of `on_size`; 0 for none
        self.learning_rate_limit = math.inf  # the optimizer's learning rate is not to be above

    def on_forward(self, is_training: bool) -> None:
        """Before the model's forward pass: may show it other weights than those the optimizer holds.

        In evaluation it must show those of the file.
        """

    def undo_forward(self) -> None:
        """Gives the optimizer its weights back, should `on_forward` have put others into the parameters."""

    def on_gradients(self) -> None:
        """Between ``backward()`` and ``optimizer.step()``: undoes `on_forward`, adds the regulariser's gradient."""

    def on_size(self, measure: Callable[[], int]) -> None:
        """Every `measure_every` training steps, and at an epoch's end.

        Args:
            measure: the size of the whole file in bytes, were it written now.
        """

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """At the end of an epoch; ``validation_loss()`` measures the model on held-out data, as it then is."""

    def on_last_phase(self) -> None:
        """When the last phase of training begins, in which the zero pattern stays as it is."""

    def measures(self) -> dict[str, float]:
        """What to log of an epoch besides loss, accuracy, size and entropies."""
        return {}

    @abstractmethod
    def quantize(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor] | None:
        """The final codebook of a parameter, and int32 symbols in its shape; None to keep it as it is shown."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly as before, besides parameters and optimizer."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, wherever the tensors have been loaded to."""

    def here(self, value: Any) -> Any:
        """A value with the tensors in it, and in its lists and dictionaries, on the parameters' device."""
        if isinstance(value, Tensor):
            return value.to(next(iter(self.parameters.values())).device)
        if isinstance(value, dict):
            return {key: self.here(entry) for key, entry in value.items()}
        return [self.here(entry) for entry in value] if isinstance(value, list) else value


class Method(ABC):
    """A method's configuration: a frozen dataclass, checked when it is made."""

    @abstractmethod
    def bind(self, parameters: Mapping[str, torch.nn.Parameter]) -> BoundMethod:
        """The method at work on these parameters."""


def gradient_of(parameter: torch.nn.Parameter) -> Tensor:
    """The parameter's gradient, made zero where no backward pass has reached it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
