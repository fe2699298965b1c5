"""What the file of a model holds: of every parameter its symbols and codebook, or its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metaq.binding.base_network import BaseNetwork
from metaq.binding.gathering import gather
from metaq.binding.report import Report
from metaq.binding.selection import Choice, Fate, plain_name
from metaq.binding.shards import gathered
from metaq.binding.team import Team
from metaq.codebook import Codebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, keep
from metaq.errors import InputError
from metaq.methods.base import BoundMethod
from metaq.quantizers.rounding import round_as_float16

Quantized = tuple[Codebook, Tensor] | None  # codebook and symbols, None for what is kept


class Contents:
    """Makes compressed models from a model's parameters and what is bound to them.

    Args:
        choices: what becomes of each parameter.
        bound: the methods of those that are trained, and of those that are quantized once.
        team: the processes that have the model together.
        base: the network that all choices with a method are differences from.
    """

    def __init__(
        self, choices: Sequence[Choice], bound: Sequence[BoundMethod], team: Team, base: BaseNetwork | None = None
    ) -> None:
        self.choices, self.team, self.base = list(choices), team, base
        self._methods = {name: method for method in bound for name in method.parameters}

    @property
    def weights(self) -> int:
        """The number of weights in all parameters."""
        return sum(choice.parameter.numel() for choice in self.choices)

    def of_model(self, model: nn.Module) -> CompressedModel:
        """Of the bound model, whose parameters hold the weights of the file; on the first process of several."""
        if self.team.has_shards:
            return gather(plain_state(model), self.choices, self._quantized_now, self.team.is_first)
        state = plain_state(model)
        tensors = keep(state)
        for choice in self.choices:
            self._code(tensors, choice, self._quantized_now(choice))
        for name, tensor in tensors.items():
            if isinstance(tensor, Tensor):
                tensors[name] = tensor.clone()  # training changes the model's own
        return self._model(tensors, state)

    def of_average(self, averaged: nn.Module) -> CompressedModel:
        """Of another network of the same parameters, with the levels that the methods have now.

        Raises:
            InputError: other parameters; or a method that takes no weights but its own.
        """
        if self.team.has_shards or not all(method.quantizes_any_weights for method in self._methods.values()):
            found = "shards" if self.team.has_shards else "one that has its own"
            raise InputError(f"compress(): expected a method that quantizes any weights, in one piece, found {found}")
        given = {plain_name(name): parameter for name, parameter in averaged.named_parameters()}
        state = plain_state(averaged)
        tensors = keep(state)
        for choice in self.choices:
            name, weights = choice.name, given.get(choice.name)
            if weights is None or weights.shape != choice.parameter.shape:
                found = "none" if weights is None else f"shape {tuple(weights.shape)}"
                raise InputError(f"parameter {name!r}: expected shape {tuple(choice.parameter.shape)}, found {found}")
            check_finite(name, weights)
            if choice.fate is Fate.ROUNDED:
                tensors[name] = round_as_float16(weights).cpu()
            elif method := self._methods.get(name):
                exact = weights.detach().to(method.latent_weights(name))
                if self.base is not None:
                    exact = exact - self.base.tensors[name].to(exact)
                self._code(tensors, choice, method.quantize_parameter(name, exact))
        return self._model(tensors, state)

    def report(self) -> Report:
        """What becomes of each parameter; of shards, of all of them together."""

        def quantized_whole(choice: Choice) -> Quantized:
            found = self._quantized_now(choice)
            return found and (found[0], gathered(found[1], choice.parameter))

        return Report.of((choice, quantized_whole(choice)) for choice in self.choices)

    def check_finite(self) -> None:
        """Raise an InputError, naming the parameter, if a weight that is to be quantized is NaN or infinite."""
        for name, method in self._methods.items():
            check_finite(name, method.latent_weights(name))

    def _quantized_now(self, choice: Choice) -> Quantized:
        method = self._methods.get(choice.name)
        return None if method is None else method.quantize_parameter(choice.name, method.latent_weights(choice.name))

    def _code(self, tensors: dict[str, CodedTensor | Tensor | Alias], choice: Choice, quantized: Quantized) -> None:
        if choice.name not in tensors:
            raise InputError(f"model: expected {choice.name!r} in its state_dict(), found no such tensor")
        if quantized is not None:
            codebook, symbols = quantized
            dtype = choice.dtype if self.base is None else torch.float32
            tensors[choice.name] = CodedTensor(symbols.cpu(), codebook, dtype)

    def _model(self, tensors: dict[str, CodedTensor | Tensor | Alias], state: Mapping[str, Tensor]) -> CompressedModel:
        if self.base is None:
            return CompressedModel(tensors)
        return self.base.difference(tensors, state, self._methods)


def check_finite(name: str, weights: Tensor) -> None:
    """Raise an InputError if a weight of a parameter is NaN or infinite."""
    if not bool(torch.isfinite(weights).all()):
        raise InputError(f"parameter {name!r}: expected finite weights, found NaN or infinity")


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict, with the names of the network inside of wrappers."""
    return {plain_name(name): tensor for name, tensor in model.state_dict().items()}
