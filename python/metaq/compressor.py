"""Compressor: what a training loop holds. It binds a model to a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from metaq.compressed_model import CodedTensor, CompressedModel, keep
from metaq.compressed_model import encode as encode_model
from metaq.errors import InputError
from metaq.methods.base import Method


class Compressor:
    """Trains a model towards a small file, from inside any training loop::

        compressor = metaq.Compressor(model, metaq.METaQ(strength=3e-5))
        for images, labels in loader:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            compressor.regularize()
            optimizer.step()
        metaq.save(compressor.compress(), "model.mtq")

    From its making on, the model's forward passes in evaluation mode see the quantized weights, those of the file; with
    most methods they do so in training too. `regularize` gives the optimizer back the ones it updates. So call it once
    between every ``backward()`` and ``optimizer.step()``.

    Args:
        model: on its device, in float32. All its trainable parameters are compressed, its buffers are kept exactly.
        method: what to do, and how strongly.
        encode: how the file will be written, for methods that aim at its size.

    Raises:
        InputError: a model without trainable parameters, or one whose parameters are not finite float32.
    """

    def __init__(
        self, model: nn.Module, method: Method, encode: Callable[[CompressedModel], bytes] = encode_model
    ) -> None:
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
        if not parameters:
            raise InputError("model: expected trainable parameters, found none")
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise InputError(f"parameter {name!r}: expected float32, found {parameter.dtype}")
            _check_finite(name, parameter)
        self.model = model
        self.bound = method.bind(parameters)
        self.training_step = 0
        self._encode = encode
        self._handle = model.register_forward_pre_hook(lambda module, _: self.bound.on_forward(module.training))

    def regularize(self) -> None:
        """Add the method's gradient to the loss's; call between ``backward()`` and ``optimizer.step()``.

        With a ``torch.amp.GradScaler``, call its ``unscale_(optimizer)`` before: the method's gradient is not scaled.
        """
        self.training_step += 1
        if self.bound.measure_every and self.training_step % self.bound.measure_every == 0:
            self.bound.on_size(self._measure)
        self.bound.on_gradients()

    @property
    def learning_rate_limit(self) -> float:
        """The optimizer's learning rate should not be above; infinite for most methods."""
        return self.bound.learning_rate_limit

    def end_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Tell the method that an epoch is over, for those that make decisions then.

        Args:
            validation_loss: measures the model on held-out data; called as often as the method needs it.
        """
        if self.bound.measure_every:
            self.bound.on_size(self._measure)
        self.bound.on_epoch(validation_loss)

    def begin_last_phase(self) -> None:
        """From here on the zero pattern stays as it is, and training only tunes what is left."""
        self.bound.on_last_phase()

    def compress(self) -> CompressedModel:
        """The model as it stands, quantized: exactly the weights that its forward pass sees.

        Raises:
            InputError: a weight has become NaN or infinite.
        """
        for name, parameter in self.bound.parameters.items():
            _check_finite(name, parameter)
        self.bound.on_forward(False)
        tensors = keep(self.model.state_dict())
        for name, parameter in self.bound.parameters.items():
            quantized = self.bound.quantize(name, parameter.detach())
            if quantized is not None:
                tensors[name] = CodedTensor(quantized[1], quantized[0], parameter.dtype)
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor):
                tensors[name] = tensor.clone()  # training goes on in the model's own
        return CompressedModel(tensors)

    def detach(self) -> None:
        """Leave the model with its quantized weights, and touch it no more."""
        self.bound.on_forward(False)
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, besides those of model and optimizer."""
        return {"training_step": self.training_step, "method": self.bound.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.training_step = state["training_step"]
        self.bound.load_state_dict(state["method"])

    def _measure(self) -> int:
        return len(self._encode(self.compress()))


def _check_finite(name: str, parameter: nn.Parameter) -> None:
    if not bool(torch.isfinite(parameter).all()):
        raise InputError(f"parameter {name!r}: expected finite weights, found NaN or infinity")
