"""METaQ (Minimizing Entropy Training and Quantization) with code lengths.

Notation, after the paper: φ the regulariser, ξ_b the cost of level b (here its code length in bits), v_b = s·b the levels of one
tensor with step s, β_i = ∂φ/∂w_i the multiplier of the constraint that holds w_i.

    φ(w) = min over x and ξ of  Σ_i Σ_b ξ_b x_ib   s.t.  v·x_i = w_i,  Σ_b x_ib = 1,  x >= 0,  Σ_b 2^(-ξ_b) <= 1

With x fixed the best ξ are Shannon's, ``-log2(c_b / n)``; with ξ fixed every weight is a simil-knapsack, whose multiplier is the
slope of the lower convex hull of the code lengths at w_i. So training takes ξ from a histogram of the symbols that would be
coded now, and adds strength·β to the loss gradient. The published form minimises Σ c_b log c_b instead, which spreads the
histogram and makes files larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaq.assign import nearest
from metaq.codebook import UniformCodebook
from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method
from metaq.solvers import knapsack

_PSEUDO_COUNT = 0.1  # what an empty level counts as: its code is long, not infinite
_STEP_BITS = 4  # significant bits of a step: costs nothing in accuracy, and a byte or two less in the file


@dataclass(frozen=True)
class METaQ(Method):
    """Configuration of METaQ.

    Attributes:
        strength: weight λ of φ in the training loss, per bit.
        step: distance between levels, as a fraction of each tensor's largest magnitude when training begins.
        radius: levels on either side of zero; weights beyond are clipped to the last.
        refresh_every: training steps between two histograms.
        warmup_steps: training steps over which the strength rises linearly from 0.
    """

    strength: float = 3e-5
    step: float = 0.15
    radius: int = 15
    refresh_every: int = 10
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("strength", self.strength >= 0 and math.isfinite(self.strength), "a finite number of at least 0"),
            ("step", 0 < self.step <= 1, "more than 0 and at most 1"),
            ("radius", 1 <= self.radius <= 2048, "1 to 2048"),
            ("refresh_every", self.refresh_every >= 1, "at least 1"),
            ("warmup_steps", self.warmup_steps >= 0, "at least 0"),
        ):
            if not holds:
                raise InputError(f"METaQ {name}: expected {expected}, found {getattr(self, name)!r}")

    def bind(self, parameters: Mapping[str, torch.nn.Parameter]) -> BoundMETaQ:
        """METaQ at work on these parameters, their steps fixed by their present magnitudes."""
        return BoundMETaQ(self, parameters)


class BoundMETaQ(BoundMethod):
    """METaQ's state for one model: the steps, the latent weights during a forward pass, the hull's slopes."""

    def __init__(self, config: METaQ, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        super().__init__(parameters)
        self.config = config
        self.tensors = list(self.parameters.values())
        self.sizes = [tensor.numel() for tensor in self.tensors]
        self.training_step = 0
        self.pattern: Tensor | None = None  # 1 where a weight may differ from zero, once that is settled
        self.latent: Tensor | None = None  # the optimizer's weights while the parameters hold quantized ones
        self._set_steps([_short_step(config.step * float(tensor.detach().abs().max())) for tensor in self.tensors])

    def _set_steps(self, steps: list[float]) -> None:
        device = self.tensors[0].device
        self.steps = torch.tensor(steps, dtype=torch.float32, device=device)
        sizes = torch.tensor(self.sizes, device=device)
        self.step_of_weight = torch.repeat_interleave(self.steps, sizes)
        owner = torch.repeat_interleave(torch.arange(len(steps), device=device), sizes)
        self.first_level = owner * (2 * self.config.radius + 1)
        self.first_cell = owner * (2 * self.config.radius)
        self.slopes = torch.zeros(len(steps), 2 * self.config.radius, device=device)

    @torch.no_grad()
    def on_forward(self) -> None:
        """Show the model quantized weights; the straight-through estimator is that their gradients go to the latent ones."""
        if self.latent is not None:
            return
        self.latent = torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])
        if self.pattern is not None:
            self.latent *= self.pattern
        self._show(self._symbols(self.latent) * self.step_of_weight)

    @torch.no_grad()
    def on_gradients(self) -> None:
        """Give the optimizer its weights back and add strength·β to their gradients."""
        if self.latent is None:
            self.on_forward()
        assert self.latent is not None
        if self.training_step % self.config.refresh_every == 0:
            self._refresh(self._symbols(self.latent))
        scaled = self.latent / self.step_of_weight
        radius = self.config.radius
        cell = scaled.floor().clamp_(-radius, radius - 1).to(torch.int64).add_(self.first_cell + radius)
        beta = self.slopes.view(-1)[cell]
        beta *= scaled.abs_() <= radius  # outside the levels the weight is clipped, and φ is flat
        gradient = torch.cat([_gradient(tensor).reshape(-1) for tensor in self.tensors])
        gradient += self._present_strength() * beta
        if self.pattern is not None:
            gradient *= self.pattern
        views = [part.view_as(tensor) for part, tensor in zip(gradient.split(self.sizes), self.tensors, strict=True)]
        torch._foreach_copy_([_gradient(tensor) for tensor in self.tensors], views)
        self._show(self.latent)
        self.latent = None
        self.training_step += 1

    def on_last_phase(self) -> None:
        """Weights whose symbol is zero now stay zero."""
        with torch.no_grad():
            latent = torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors]) if self.latent is None else self.latent
            self.pattern = (self._symbols(latent) != 0).to(torch.float32)

    def quantize(self, name: str, weights: Tensor) -> tuple[UniformCodebook, Tensor]:
        """Nearest multiple of the parameter's step within the radius: what the forward pass has been seeing."""
        index = list(self.parameters).index(name)
        codebook = UniformCodebook(float(self.steps[index]))
        symbols = nearest(weights.cpu(), codebook).clamp_(-self.config.radius, self.config.radius)
        if self.pattern is not None:
            symbols *= self.pattern.split(self.sizes)[index].view_as(symbols).cpu().to(torch.int32)
        return codebook, symbols

    def state_dict(self) -> dict[str, Any]:
        """Steps, slopes, pattern and the count of training steps; between two training steps nothing else is kept."""
        return {
            "training_step": self.training_step,
            "steps": self.steps,
            "slopes": self.slopes,
            "pattern": self.pattern,
            "latent": self.latent,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._set_steps(state["steps"].tolist())
        self.slopes = state["slopes"]
        self.pattern = state["pattern"]
        self.latent = state["latent"]
        self.training_step = state["training_step"]

    def _symbols(self, latent: Tensor) -> Tensor:
        """Float symbols: the nearest multiples, ties to even as in `metaq.assign.nearest`, and no negative zero."""
        return (latent / self.step_of_weight).round_().clamp_(-self.config.radius, self.config.radius).add_(0.0)

    def _show(self, weights: Tensor) -> None:
        """Put flat weights into the parameters."""
        views = [part.view_as(tensor) for part, tensor in zip(weights.split(self.sizes), self.tensors, strict=True)]
        torch._foreach_copy_([tensor.detach() for tensor in self.tensors], views)

    def _refresh(self, symbols: Tensor) -> None:
        """ξ from the histogram of each tensor's symbols, then the slopes of their lower hulls over v = s·b."""
        radius, count = self.config.radius, 2 * self.config.radius + 1
        positions = symbols.to(torch.int64) + self.first_level + radius
        counts = torch.bincount(positions, minlength=len(self.sizes) * count).view(-1, count).to(torch.float64) + _PSEUDO_COUNT
        xi = -(counts / counts.sum(dim=1, keepdim=True)).log2()
        levels = torch.arange(-radius, radius + 1, device=xi.device) * self.steps.to(torch.float64)[:, None]
        self.slopes = knapsack.hull(xi, levels).slope.to(torch.float32)

    def _present_strength(self) -> float:
        warmed = self.training_step / self.config.warmup_steps if self.config.warmup_steps else 1.0
        return self.config.strength * min(1.0, warmed)


def _gradient(tensor: torch.nn.Parameter) -> Tensor:
    """The parameter's gradient, made zero where no backward pass has reached it."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad


def _short_step(step: float) -> float:
    """A step rounded to few significant bits; 1 for a tensor of zeros, where any step serves."""
    if step == 0:
        return 1.0
    mantissa, exponent = math.frexp(step)
    return math.ldexp(round(mantissa * 2**_STEP_BITS) / 2**_STEP_BITS, exponent)
