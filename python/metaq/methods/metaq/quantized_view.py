"""Straight-through training: a network's forward passes see quantized weights, its optimizer trains latent ones.

It works in place, without a second network: `put_quantized` puts the quantized weights into the parameters and keeps
the latent ones aside; `add_slopes` puts those back once the gradients are there. On the CPU each is one pass of a
native kernel, on as many threads as torch has, elsewhere a few tensor operations that never wait for the device. Beside
the parameters there is one copy of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metaq import _native
from metaq.methods.base import gradient_of
from metaq.methods.training import Ranks
from metaq.tensors import is_plain

MOST_REACH = 1 << 22  # steps from zero beyond which float32 has no multiples of a step


class QuantizedView:
    """Quantized and latent weights of some parameters, each with its own levels: multiples of its step.

    Args:
        parameters: float32, all on one device.
        steps: distance between levels, one for each parameter.
        radius: levels on either side of zero that have counts and slopes.
        ranks: who have the parameters' other shards.
        is_open: whether the levels go on beyond, as far as the weights reach; they count as the last, and have no
            slopes. Otherwise weights beyond are clipped to the last.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        steps: Sequence[float],
        radius: int,
        ranks: Ranks | None = None,
        is_open: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        self.steps = list(steps)
        self.radius = radius
        self.ranks = ranks or Ranks()
        self.is_open = is_open
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.shadow_weights: list[Tensor] | None = None  # the latent ones, while the parameters hold the quantized
        self.pinned: list[Tensor] | None = None  # True where a weight stays at `pinned_values` of its parameter
        self.pinned_values: list[float] = []
        self._buffers = [torch.empty_like(parameter, requires_grad=False) for parameter in self.parameters]
        self._kernel: _native.QuantizedParameters | None = None
        self._addresses: list[int] = []  # of the parameters that the kernel holds

    @property
    def holds_quantized(self) -> bool:
        """Whether the parameters hold the quantized weights now."""
        return self.shadow_weights is not None

    @property
    def reach(self) -> int:
        """How many steps from zero a quantized weight is at most."""
        return MOST_REACH if self.is_open else self.radius

    def levels(self) -> Tensor:
        """Every parameter's levels that have slopes: float64 (T, 2 * radius + 1)."""
        device = self.parameters[0].device
        places = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64, device=device)
        return torch.tensor(self.steps, dtype=torch.float64, device=device)[:, None] * places

    def latent_weights(self) -> list[Tensor]:
        """The weights that the optimizer trains, each parameter's in its own shape."""
        if self.shadow_weights is not None:
            return self.shadow_weights
        return [parameter.detach() for parameter in self.parameters]

    def symbols(self, index: int, weights: Tensor) -> Tensor:
        """The levels nearest to a parameter's latent ``weights``: int32, in their shape."""
        return self._symbols(weights, self.steps[index]).to(torch.int32)

    @torch.no_grad()
    def move(self, index: int, symbols: Tensor) -> None:
        """Put a parameter's latent weights on the levels of ``symbols``, where these are not their nearest ones."""
        latent, target = self.latent_weights()[index], symbols.to(torch.float32)
        is_moved = target != self._symbols(latent, self.steps[index])
        latent.copy_(torch.where(is_moved, target * self.steps[index], latent))

    @torch.no_grad()
    def put_quantized(self, count: bool = False) -> Tensor | None:
        """Put the quantized weights into the parameters.

        Returns:
            with ``count``, how often each parameter has each symbol, in all its shards: int64 (T, 2 * radius + 1);
            those beyond the radius count as the last.
        """
        self.put_latent()
        if self.pinned is not None:
            for parameter, pinned, value in zip(self.parameters, self.pinned, self.pinned_values, strict=True):
                parameter.masked_fill_(pinned, value)
        self.shadow_weights = self._buffers
        levels = 2 * self.radius + 1
        device = self.parameters[0].device
        counts = torch.zeros(len(self.sizes), levels, dtype=torch.int64, device=device) if count else None
        if self._is_native():
            array = None if counts is None else counts.numpy()
            self._native_parameters().write_quantized(
                self.steps, self.reach, self.radius, array, torch.get_num_threads()
            )
            return None if counts is None else self.ranks.sum(counts)
        for index, (parameter, latent, step) in enumerate(
            zip(self.parameters, self.shadow_weights, self.steps, strict=True)
        ):
            latent.copy_(parameter)
            symbols = self._symbols(latent, step)
            if counts is not None:
                positions = symbols.clamp(-self.radius, self.radius).to(torch.int64).add_(self.radius).reshape(-1)
                counts[index].scatter_add_(0, positions, torch.ones_like(positions))
            torch.mul(symbols, step, out=parameter)
        return None if counts is None else self.ranks.sum(counts)

    @torch.no_grad()
    def put_latent(self) -> None:
        """Put the latent weights back into the parameters, if they are kept aside; leave the gradients alone."""
        if self.shadow_weights is not None:
            torch._foreach_copy_([parameter.detach() for parameter in self.parameters], self.shadow_weights)
            self.shadow_weights = None

    @torch.no_grad()
    def load_shadow_weights(self, weights: Sequence[Tensor] | None) -> None:
        """Go back to a saved state: the latent weights that were kept aside, or None if the parameters held them."""
        self.shadow_weights = None
        if weights is not None:
            torch._foreach_copy_(self._buffers, list(weights))
            self.shadow_weights = self._buffers

    @torch.no_grad()
    def add_slopes(self, slopes: Tensor | None, strength: float) -> None:
        """Put the latent weights back into the parameters, and add ``strength * slope`` to their gradients.

        Args:
            slopes: float32 (T, 2 * radius + 1, 2), contiguous: for every level, the slope below it and the one above.
                None adds nothing.
        """
        if self.shadow_weights is None:
            self.put_quantized()
        assert self.shadow_weights is not None
        gradients = [gradient_of(parameter) for parameter in self.parameters]
        if slopes is None:
            self.put_latent()
        elif self._is_native() and all(is_plain(gradient) and not gradient.requires_grad for gradient in gradients):
            arrays = [gradient.numpy() for gradient in gradients]
            self._native_parameters().restore_latent(
                arrays, self.steps, self.radius, slopes.numpy(), strength, torch.get_num_threads()
            )
        else:
            for index, (latent, gradient) in enumerate(zip(self.shadow_weights, gradients, strict=True)):
                scaled = latent / self.steps[index]
                symbols = self._symbols(latent, self.steps[index]).clamp_(-self.radius, self.radius)
                side = symbols.to(torch.int64).add_(self.radius).mul_(2).add_(scaled > symbols)
                beta = slopes[index].view(-1)[side].mul_(scaled.abs_() <= self.radius)
                gradient.add_(beta, alpha=strength)
            self.put_latent()
        self.shadow_weights = None
        if self.pinned is not None:
            for gradient, pinned in zip(gradients, self.pinned, strict=True):
                gradient.masked_fill_(pinned, 0.0)

    @torch.no_grad()
    def pin_commonest(self) -> None:
        """Pin the weights at their parameter's commonest level there, for good; those pinned before stay so."""
        counts = self.put_quantized(count=True)
        assert counts is not None
        self.put_latent()
        commonest = (counts.argmax(dim=1) - self.radius).tolist()
        self.pinned_values = [level * step for level, step in zip(commonest, self.steps, strict=True)]
        columns = zip(self.parameters, self.steps, commonest, strict=True)
        self.pinned = [self._symbols(parameter, step) == level for parameter, step, level in columns]

    def _symbols(self, weights: Tensor, step: float) -> Tensor:
        """Float symbols: the nearest multiples within reach, ties to even, no negative zero."""
        return (weights / step).clamp_(-self.reach, self.reach).round_().add_(0.0)

    def _is_native(self) -> bool:
        return all(map(is_plain, self.parameters))

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
