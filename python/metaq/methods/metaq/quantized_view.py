"""Straight-through training: a network's forward passes see quantized weights, its optimizer trains latent ones.

In place, without copies of the network: `show` puts the quantized values into the parameters and keeps the latent ones
aside, `take_back` undoes it once the gradients are there. On the CPU each is one pass of a native kernel, elsewhere a
few tensor operations that never wait for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metaq import _native
from metaq.methods.base import gradient_of


class QuantizedView:
    """The two faces of some parameters, each on its own equally spaced levels ``step * (-radius ... radius)``.

    Args:
        parameters: float32, all on one device.
        steps: distance between levels, one for each parameter.
        radius: levels on either side of zero; weights beyond are shown as the last.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], steps: Sequence[float], radius: int) -> None:
        self.parameters = list(parameters)
        self.steps = list(steps)
        self.radius = radius
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.latents: list[Tensor] | None = None  # the optimizer's weights, while the network is shown others
        self.pinned: list[Tensor] | None = None  # True where a weight stays at `pinned_values` of its parameter
        self.pinned_values: list[float] = []
        self._buffers = [torch.empty_like(parameter, requires_grad=False) for parameter in self.parameters]
        self._kernel: _native.QuantizedParameters | None = None
        self._addresses: list[int] = []  # of the parameters that the kernel holds

    @property
    def is_shown(self) -> bool:
        """Whether the parameters hold the quantized values now."""
        return self.latents is not None

    def levels(self) -> Tensor:
        """Every parameter's levels: float64 (T, 2 * radius + 1)."""
        device = self.parameters[0].device
        places = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64, device=device)
        return torch.tensor(self.steps, dtype=torch.float64, device=device)[:, None] * places

    def latent_weights(self) -> list[Tensor]:
        """The weights that the optimizer trains, each parameter's in its own shape."""
        return self.latents if self.latents is not None else [parameter.detach() for parameter in self.parameters]

    def symbols(self, index: int) -> Tensor:
        """What a parameter's latent weights are shown as: float, in its shape."""
        return self._symbols(self.latent_weights()[index], self.steps[index])

    @torch.no_grad()
    def move(self, index: int, symbols: Tensor) -> None:
        """Put a parameter's latent weights on other levels, where ``symbols`` differ from what they are shown as."""
        latent, target = self.latent_weights()[index], symbols.to(torch.float32)
        is_moved = target != self.symbols(index)
        latent.copy_(torch.where(is_moved, target * self.steps[index], latent))

    @torch.no_grad()
    def show(self, count: bool = False) -> Tensor | None:
        """Put the quantized values into the parameters; if they are there already, only count.

        Returns:
            with ``count``, how often each parameter has each symbol: int64 (T, 2 * radius + 1).
        """
        if self.latents is not None:
            self.hide()
        if self.pinned is not None:
            for parameter, pinned, value in zip(self.parameters, self.pinned, self.pinned_values, strict=True):
                parameter.masked_fill_(pinned, value)
        self.latents = self._buffers
        levels = 2 * self.radius + 1
        device = self.parameters[0].device
        counts = torch.zeros(len(self.sizes), levels, dtype=torch.int64, device=device) if count else None
        if self._is_native():
            array = None if counts is None else counts.numpy()
            self._native_parameters().write_quantized(self.steps, self.radius, array)
            return counts
        for index, (parameter, latent, step) in enumerate(zip(self.parameters, self.latents, self.steps, strict=True)):
            latent.copy_(parameter)
            symbols = self._symbols(latent, step)
            if counts is not None:
                positions = symbols.to(torch.int64).add_(self.radius).reshape(-1)
                counts[index].scatter_add_(0, positions, torch.ones_like(positions))
            torch.mul(symbols, step, out=parameter)
        return counts

    @torch.no_grad()
    def hide(self) -> None:
        """Put the latent weights back, and leave the gradients alone."""
        if self.latents is not None:
            torch._foreach_copy_([parameter.detach() for parameter in self.parameters], self.latents)
            self.latents = None

    def restore(self, latents: Sequence[Tensor] | None) -> None:
        """Go back to a saved state: with latent weights aside, or None if the parameters held them."""
        self.latents = None
        if latents is not None:
            torch._foreach_copy_(self._buffers, list(latents))
            self.latents = self._buffers

    @torch.no_grad()
    def take_back(self, slopes: Tensor | None, strength: float) -> None:
        """Put the latent weights back and add ``strength * slope`` to their gradients.

        Args:
            slopes: float32 (T, 2 * radius + 1, 2), contiguous: for every level, the slope below it and the one above.
                None adds nothing.
        """
        if self.latents is None:
            self.show()
        assert self.latents is not None
        gradients = [gradient_of(parameter) for parameter in self.parameters]
        if slopes is None:
            self.hide()
        elif self._is_native() and all(_is_plain(gradient) and not gradient.requires_grad for gradient in gradients):
            arrays = [gradient.numpy() for gradient in gradients]
            self._native_parameters().restore_latent(arrays, self.steps, self.radius, slopes.numpy(), strength)
        else:
            for index, (latent, gradient) in enumerate(zip(self.latents, gradients, strict=True)):
                scaled = latent / self.steps[index]
                symbols = self._symbols(latent, self.steps[index])
                side = symbols.to(torch.int64).add_(self.radius).mul_(2).add_(scaled > symbols)
                beta = slopes[index].view(-1)[side].mul_(scaled.abs_() <= self.radius)
                gradient.add_(beta, alpha=strength)
            self.hide()
        self.latents = None
        if self.pinned is not None:
            for gradient, pinned in zip(gradients, self.pinned, strict=True):
                gradient.masked_fill_(pinned, 0.0)

    @torch.no_grad()
    def pin_commonest(self) -> None:
        """From now on, weights at their parameter's commonest level stay there; those pinned before do so anyway."""
        counts = self.show(count=True)
        assert counts is not None
        self.hide()
        commonest = (counts.argmax(dim=1) - self.radius).tolist()
        self.pinned_values = [level * step for level, step in zip(commonest, self.steps, strict=True)]
        columns = zip(self.parameters, self.steps, commonest, strict=True)
        self.pinned = [self._symbols(parameter, step) == level for parameter, step, level in columns]

    def _symbols(self, weights: Tensor, step: float) -> Tensor:
        """Float symbols: the nearest multiples within the radius, ties to even, no negative zero."""
        return (weights / step).clamp_(-self.radius, self.radius).round_().add_(0.0)

    def _is_native(self) -> bool:
        return all(map(_is_plain, self.parameters))

    def _native_parameters(self) -> _native.QuantizedParameters:
        """The kernel on the parameters and their latent weights, made anew only where a parameter has moved."""
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        if self._kernel is None or addresses != self._addresses:
            weights, latents = (
                [tensor.detach().numpy() for tensor in tensors] for tensors in (self.parameters, self._buffers)
            )
            self._kernel, self._addresses = _native.QuantizedParameters(weights, latents), addresses
        return self._kernel

    def __getstate__(self) -> dict[str, Any]:
        """All but the kernel: a copy makes one on its own parameters."""
        return {**vars(self), "_kernel": None}


def _is_plain(tensor: Tensor) -> bool:
    """Whether a native kernel takes a tensor as an array."""
    return tensor.dtype == torch.float32 and tensor.is_cpu and tensor.is_contiguous()
