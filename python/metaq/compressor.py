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

    In evaluation mode the model's forward passes see the weights of the file, whatever the method. In training mode
    they see them with `METaQ`, except where its levels are around the mean, and with `HEMP` where it is
    ``straight_through``; with all other methods they see the weights that the optimizer trains. `regularize` gives the
    optimizer those back, so call it once between every ``backward()`` and ``optimizer.step()``, and neither evaluate
    nor compress the model between `regularize` and ``optimizer.step()``.

    Args:
        model: on its device, in float32. All its trainable parameters are compressed; its buffers are kept exactly.
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

        Raises:
            InputError: the parameters have changed since the last forward pass.
        """
        self.training_step += 1
        if self.bound.measure_every and self.training_step % self.bound.measure_every == 0:
            self.bound.on_size(self._measure)
        self.bound.on_gradients()

    @property
    def learning_rate_limit(self) -> float:
        """The optimizer's learning rate should not be above it; it is infinite for most methods."""
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
        """Tell the method that the last phase of training begins, in which the rest settles.

        Methods that prune keep their zeros from here on, and one that aims at a size now moves weights until the file
        is no larger, every time that it measures it.
        """
        self.bound.on_last_phase()

    def compress(self) -> CompressedModel:
        """The model as it stands, quantized: exactly the weights that it has in evaluation mode.

        Training goes on afterwards as if there had been no call.

        Raises:
            InputError: a weight has become NaN or infinite.
        """
        for name in self.bound.parameters:
            _check_finite(name, self.bound.latent_weights(name))
        held_file_weights = self.bound.holds_file_weights
        try:
            self.bound.on_forward(False)
            tensors = keep(self.model.state_dict())
            for name, parameter in self.bound.parameters.items():
                quantized = self.bound.quantize_parameter(name, self.bound.latent_weights(name))
                if quantized is not None:
                    tensors[name] = CodedTensor(quantized[1].cpu(), quantized[0], parameter.dtype)
            for name, tensor in tensors.items():
                if isinstance(tensor, torch.Tensor):
                    tensors[name] = tensor.clone()  # training changes the model's own
        finally:
            if not held_file_weights:
                self.bound.restore_weights()
        return CompressedModel(tensors)

    def detach(self) -> None:
        """Leave the model with the weights of the file, and with no hook of the compressor."""
        self.bound.on_forward(False)
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, besides the state dicts of model and optimizer; like theirs, it holds no copies."""
        return {"training_step": self.training_step, "method": self.bound.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.training_step = state["training_step"]
        self.bound.load_state_dict(state["method"])

    def _measure(self) -> int:
        return len(self._encode(self.compress()))


def _check_finite(name: str, weights: torch.Tensor) -> None:
    if not bool(torch.isfinite(weights).all()):
        raise InputError(f"parameter {name!r}: expected finite weights, found NaN or infinity")
