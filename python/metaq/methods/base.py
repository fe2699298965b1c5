"""The contract of a method: a frozen configuration that binds to parameters, and then acts at fixed points of training.

The optimizer trains the *latent* weights. In evaluation the parameters hold the weights of the file instead, those that
a decoder gives back, and the latent ones are kept aside as `BoundMethod.shadow_weights` until training goes on. So what
is measured of the model is true of its file. A method that overrides nothing but `Method.bind` and
`BoundMethod.quantize_parameter` already keeps this contract; `docs/adding_a_method.md` has an example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metaq.assign import reconstruct
from metaq.codebook import Codebook
from metaq.errors import InputError
from metaq.methods.training import UNKNOWN_TRAINING, Training


class BoundMethod(ABC):
    """A method's state for one model.

    Args:
        parameters: the parameters to compress, by name: dense float32 tensors, which somebody else's optimizer trains
            in place. For parameters of other kinds the compressor makes such ones (`metaq.binding`).
        training: how long it is, and which processes share the parameters.

    Attributes:
        training_steps: the training's length in steps of the optimizer, 0 where it is not known.
        shadow_weights: the latent weights, by name, while the parameters hold those of the file; None while the
            parameters hold the latent weights themselves.
        is_straight_through: whether forward passes in training see the weights of the file too. Their gradients are
            then taken for those of the latent weights.
        measure_every: training steps between two calls of `on_size`; 0 for none.
        learning_rate_limit: the optimizer's learning rate should not be above it.
        last_phase_share: of the training's length, if that is known, which the last phase takes.
        needs_validation_loss: whether the method does nothing unless `on_epoch` is called.
        works_on_differences: of the class: whether it takes parameters that begin at zero (`Difference`).
        works_on_shards: of the class: whether it takes shards for parameters, and its statistics by `ranks`.
        quantizes_any_weights: whether `quantize_parameter` takes weights that the method has not trained itself, such
            as their moving average.
    """

    works_on_shards = False
    works_on_differences = False

    def __init__(self, parameters: Mapping[str, nn.Parameter], training: Training = UNKNOWN_TRAINING) -> None:
        self.parameters = dict(parameters)
        self.training_steps, self.ranks = training.steps, training.ranks
        if not self.works_on_shards:
            self.ranks.refuse_shards(type(self).__name__.removeprefix("Bound"))
        if training.level_distances and not self.works_on_differences:
            found = type(self).__name__.removeprefix("Bound")
            raise InputError(f"Difference method: expected one that can begin at zero, as METaQ can, found {found}")
        self.shadow_weights: dict[str, Tensor] | None = None
        self.is_straight_through = False
        self.measure_every = 0
        self.learning_rate_limit = math.inf
        self.last_phase_share = 0.2
        self.needs_validation_loss = False
        self.quantizes_any_weights = True
        self._awaits_step = False
        self._versions: list[int] | None = None

    # What a method decides.

    @abstractmethod
    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor] | None:
        """What the file holds of a parameter.

        Args:
            weights: its latent weights, float32 and finite. The same weights must always give the same result.

        Returns:
            the codebook, and int32 symbols in the shape of ``weights``, on any device; None to keep the parameter in
            floating point.
        """

    def adjust_gradients(self) -> None:
        """Between ``backward()`` and ``optimizer.step()``: may add the regulariser's gradient to the loss's.

        The parameters hold the latent weights.
        """

    def update_weights(self) -> None:
        """Before a forward pass: may change the latent weights, which the parameters hold.

        It is called again before the next step of the optimizer, and must then change nothing.
        """

    def on_size(self, measure: Callable[[], int]) -> None:
        """Is called every `measure_every` training steps, and at the end of an epoch.

        Args:
            measure: gives the size that the whole file would have now, in bytes.
        """

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Is called at the end of an epoch.

        Args:
            validation_loss: measures the model on held-out data, as it is when it is called.
        """

    def on_last_phase(self) -> None:
        """Is called when the last phase of training begins: methods that prune keep their zeros from then on."""

    def measures(self) -> dict[str, float]:
        """What to log of an epoch besides loss, accuracy, size and entropies."""
        return {}

    # What the parameters hold.

    @property
    def holds_file_weights(self) -> bool:
        """Whether the parameters hold the weights of the file now."""
        return self.shadow_weights is not None

    def on_forward(self, is_training: bool) -> None:
        """Before the model's forward pass: puts the weights that it is to see into the parameters."""
        sees_file = self.is_straight_through or not is_training
        if sees_file and self.holds_file_weights:
            self.check_unchanged()
            return
        self.restore_weights()
        if not self._awaits_step:
            self.update_weights()
        if sees_file:
            self.replace_weights(self.file_weights())

    def await_step(self, awaits_step: bool) -> None:
        """Whether the optimizer is about to make a step on gradients that `on_gradients` has adjusted.

        What `update_weights` does after a step must then wait, even if somebody evaluates the model before it.
        """
        self._awaits_step = awaits_step

    def on_gradients(self) -> None:
        """Between ``backward()`` and ``optimizer.step()``: gives the optimizer the latent weights and its gradients."""
        self.restore_weights()
        self.adjust_gradients()

    def latent_weights(self, name: str) -> Tensor:
        """The weights of a parameter that the optimizer trains, wherever they are now."""
        return self.parameters[name].detach() if self.shadow_weights is None else self.shadow_weights[name]

    def file_weights(self) -> dict[str, Tensor]:
        """The weights that a decoder of the file gives back, by name."""
        weights = {}
        for name, parameter in self.parameters.items():
            latent = self.latent_weights(name)
            quantized = self.quantize_parameter(name, latent)
            weights[name] = latent if quantized is None else reconstruct(quantized[1], quantized[0], parameter.dtype)
        return weights

    @torch.no_grad()
    def replace_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put ``weights`` into the parameters, which hold the latent ones, and keep those aside."""
        self.shadow_weights = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
        self._versions = self._present_versions()

    @torch.no_grad()
    def restore_weights(self) -> None:
        """Put the latent weights back into the parameters, if they are kept aside.

        Raises:
            InputError: somebody has changed the parameters in the meantime, which would now be lost.
        """
        if self.shadow_weights is None:
            return
        self.check_unchanged()
        for name, parameter in self.parameters.items():
            parameter.copy_(self.shadow_weights[name])
        self.shadow_weights = None

    def check_unchanged(self) -> None:
        """Raise an InputError if the parameters have changed since the weights of the file were put into them."""
        versions = self._present_versions()
        if self._versions is None or self._versions == versions:
            return
        expected = self.file_weights()  # somebody may have written the same values, as a broadcast does
        for (name, parameter), before, now in zip(self.parameters.items(), self._versions, versions, strict=True):
            if now != before and not torch.equal(parameter.detach(), expected[name]):
                raise InputError(
                    f"parameter {name!r}: expected the weights of the file, as the last forward pass saw them, found"
                    " others; call regularize() between backward() and optimizer.step(), and adopt_weights() after"
                    " loading weights"
                )
        self._versions = versions

    def adopt_weights(self) -> None:
        """Take what the parameters hold now, such as weights that somebody has loaded, for the latent weights."""
        self.shadow_weights = None

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly as before, besides parameters and optimizer.

        It has the same entries at all times, tensors of the same shapes among them, so that
        `torch.distributed.checkpoint` can load one into another; what a shard has its part of is `Ranks.spread`. What
        may change its shape is in lists of numbers.
        """
        latent = [self.latent_weights(name) for name in self.parameters]
        if not self.holds_file_weights:  # the parameters' own memory, into which others may load what they hold
            latent = [weights.clone() for weights in latent]
        return {"holds_file_weights": self.holds_file_weights, "latent_weights": self.ranks.spread(latent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the tensors in ``state`` may be on any device."""
        latent = self.on_device(self.ranks.local(state["latent_weights"]))
        with torch.no_grad():
            for parameter, weights in zip(self.parameters.values(), latent, strict=True):
                parameter.copy_(weights)
        self.shadow_weights = dict(zip(self.parameters, latent, strict=True)) if state["holds_file_weights"] else None
        self._versions = None  # the parameters may be loaded before or after

    def on_device(self, value: Any) -> Any:
        """A value with the tensors in it, and in its lists and dictionaries, on the parameters' device."""
        if isinstance(value, Tensor):
            return value.to(next(iter(self.parameters.values())).device)
        if isinstance(value, dict):
            return {key: self.on_device(entry) for key, entry in value.items()}
        return [self.on_device(entry) for entry in value] if isinstance(value, list) else value

    def _present_versions(self) -> list[int]:
        """How often each parameter has been changed in place, as torch counts it."""
        return [parameter._version for parameter in self.parameters.values()]


class Method(ABC):
    """A method's configuration: a frozen dataclass, checked when it is made."""

    @abstractmethod
    def bind(self, parameters: Mapping[str, nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundMethod:
        """The method at work on these parameters.

        Raises:
            InputError: the method needs to know more of the training, or cannot compress one of the parameters.
        """

    def bind_frozen(self, parameters: Mapping[str, nn.Parameter], training: Training) -> BoundMethod | None:
        """The method for parameters that nobody trains, which it will be asked to quantize once.

        None where quantizing without training would do harm: they are then kept.
        """
        return None


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient, made zero where no backward pass has reached it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def check_fields(configuration: object, *conditions: tuple[str, bool, str], where: str = "") -> None:
    """Raise an InputError for the first field of a configuration whose condition does not hold.

    Args:
        conditions: the name of a field, whether its value is right, and what was expected of it.
        where: what the message calls the configuration; by default the name of its class.
    """
    for name, holds, expected in conditions:
        if not holds:
            where = where or type(configuration).__name__
            raise InputError(f"{where} {name}: expected {expected}, found {getattr(configuration, name)!r}")
