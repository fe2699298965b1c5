"""METaQ (Minimizing Entropy Training and Quantization) with code lengths.

Notation, after the paper: φ the regulariser, ξ_b the cost of level b (here its code length in bits), v_b = s·b the
levels of one tensor with step s, β_i = ∂φ/∂w_i the multiplier of the constraint that holds w_i.

    φ(w) = min over x and ξ of  Σ_i Σ_b ξ_b x_ib   s.t.  v·x_i = w_i,  Σ_b x_ib = 1,  x >= 0,  Σ_b 2^(-ξ_b) <= 1

With x fixed the best ξ are Shannon's, ``-log2(c_b / n)``; with ξ fixed every weight is a simil-knapsack, whose
multiplier is the slope of the lower convex hull of the code lengths at w_i. So training takes ξ from a histogram of the
symbols that would be coded now, and adds strength·β to the loss gradient. The published form minimises Σ c_b log c_b
instead, which spreads the histogram and makes files larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from metaq.assign import nearest
from metaq.codebook import UniformCodebook
from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method
from metaq.methods.quantized_view import QuantizedView
from metaq.solvers import knapsack

_PSEUDO_COUNT = 0.1  # what an empty level counts as: its code is long, not infinite
_MEASURE_EVERY = 50  # training steps between two measurements of the file
_STEERING_GAIN = 0.1  # the strength follows this power of the ratio of sizes, at every measurement
_STEP_BITS = 4  # significant bits of a step: costs nothing in accuracy, and a byte or two less in the file


class Slopes(Enum):
    """How β is read off the code lengths.

    HULL: the slope of their lower convex hull: the multiplier of the problem above, exactly.
    ADJACENT: the slope between the two levels around the weight (HEMP of order 1), which stops at local minima.
    """

    HULL = "hull"
    ADJACENT = "adjacent"


@dataclass(frozen=True)
class METaQ(Method):
    """Configuration of METaQ.

    Attributes:
        strength: weight λ of φ in the training loss, per bit.
        step: distance between levels, as a fraction of each tensor's largest magnitude when training begins.
        radius: levels on either side of zero; weights beyond are clipped to the last.
        refresh_every: training steps between two histograms.
        warmup_steps: training steps over which the strength rises linearly from 0.
        slopes: how β is read off the code lengths.
        target_bytes: size of the whole file to aim at: the strength, which then is only the first, is steered there.
        target_steps: training steps in which the size comes down to the target, by equal ratios; then it is held.
    """

    strength: float = 3e-5
    step: float = 0.15
    radius: int = 15
    refresh_every: int = 10
    warmup_steps: int = 0
    slopes: Slopes = Slopes.HULL
    target_bytes: int = 0
    target_steps: int = 0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("strength", self.strength >= 0 and math.isfinite(self.strength), "a finite number of at least 0"),
            ("step", 0 < self.step <= 1, "more than 0 and at most 1"),
            ("radius", 1 <= self.radius <= 2048, "1 to 2048"),
            ("refresh_every", self.refresh_every >= 1, "at least 1"),
            ("warmup_steps", self.warmup_steps >= 0, "at least 0"),
            ("target_bytes", self.target_bytes >= 0, "at least 0, which is for none"),
            ("target_steps", self.target_steps >= 1 or not self.target_bytes, "at least 1 where target_bytes is given"),
        ):
            if not holds:
                raise InputError(f"METaQ {name}: expected {expected}, found {getattr(self, name)!r}")

    def bind(self, parameters: Mapping[str, torch.nn.Parameter]) -> BoundMETaQ:
        """METaQ at work on these parameters, their steps fixed by their present magnitudes."""
        return BoundMETaQ(self, parameters)


class BoundMETaQ(BoundMethod):
    """METaQ's state for one model: the quantized view of its parameters, and β for every level."""

    def __init__(self, config: METaQ, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        super().__init__(parameters)
        self.config = config
        self.training_step = 0
        self.strength = config.strength
        self.first_bytes = 0
        self.measure_every = _MEASURE_EVERY if config.target_bytes else 0
        tensors = list(self.parameters.values())
        steps = [_short_step(config.step * float(tensor.detach().abs().max())) for tensor in tensors]
        self.view = QuantizedView(tensors, steps, config.radius)
        self.slopes = torch.zeros(len(steps), 2 * config.radius + 1, 2, device=tensors[0].device)

    def on_forward(self) -> None:
        """Show the model quantized weights; straight through, their gradients go to the latent ones."""
        if self.view.latents is None:
            counts = self.view.show(count=self.training_step % self.config.refresh_every == 0)
            if counts is not None:
                self._refresh(counts)

    def undo_forward(self) -> None:
        """Give the optimizer its weights back."""
        self.view.hide()

    def on_gradients(self) -> None:
        """Give the optimizer its weights back and add strength·β to their gradients."""
        self.on_forward()
        self.view.take_back(self.slopes, self._present_strength())
        self.training_step += 1

    def on_size(self, size_bytes: int) -> None:
        """Steer the strength: up where the file is larger than it should be by now, down where it is smaller."""
        self.first_bytes = self.first_bytes or size_bytes
        way = min(1.0, self.training_step / self.config.target_steps)
        wanted = self.first_bytes * (self.config.target_bytes / self.first_bytes) ** way
        self.strength *= (size_bytes / wanted) ** _STEERING_GAIN

    def on_last_phase(self) -> None:
        """Weights at their tensor's commonest level, nearly always zero, stay there; the others train on."""
        self.view.pin_commonest()

    def quantize(self, name: str, weights: Tensor) -> tuple[UniformCodebook, Tensor]:
        """Nearest multiple of the parameter's step within the radius: what the forward pass has been seeing."""
        codebook = UniformCodebook(self.view.steps[list(self.parameters).index(name)])
        return codebook, nearest(weights.cpu(), codebook).clamp_(-self.config.radius, self.config.radius)

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer; between two training steps there is no more."""
        return {
            "training_step": self.training_step,
            "strength": self.strength,
            "first_bytes": self.first_bytes,
            "steps": self.view.steps,
            "slopes": self.slopes,
            "latents": self.view.latents,
            "pinned": self.view.pinned,
            "pinned_values": self.view.pinned_values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.training_step = state["training_step"]
        self.strength, self.first_bytes = state["strength"], state["first_bytes"]
        self.slopes = state["slopes"]
        self.view.steps = list(state["steps"])
        self.view.pinned, self.view.pinned_values = state["pinned"], state["pinned_values"]
        self.view.restore(state["latents"])

    def _refresh(self, counts: Tensor) -> None:
        """ξ from the histogram of each tensor's symbols, then β below and above every level, v = s·b."""
        weighted = counts + _PSEUDO_COUNT
        xi = -(weighted / weighted.sum(dim=1, keepdim=True)).log2()
        steps = torch.tensor(self.view.steps, device=xi.device)
        levels = torch.arange(-self.config.radius, self.config.radius + 1, device=xi.device) * steps[:, None]
        self.slopes = _SLOPE_TABLES[self.config.slopes](xi, levels).to(torch.float32).contiguous()

    def _present_strength(self) -> float:
        warmed = self.training_step / self.config.warmup_steps if self.config.warmup_steps else 1.0
        return self.strength * min(1.0, warmed)


def _from_cells(cells: Tensor) -> Tensor:
    """Slopes below and above each of C levels, (T, C, 2), from those in the C - 1 cells between them."""
    below = torch.cat([cells[:, :1], cells], dim=1)
    above = torch.cat([cells, cells[:, -1:]], dim=1)
    return torch.stack([below, above], dim=2)


def _hull_slopes(xi: Tensor, levels: Tensor) -> Tensor:
    return _from_cells(knapsack.hull(xi, levels).slope)


def _adjacent_slopes(xi: Tensor, levels: Tensor) -> Tensor:
    return _from_cells(xi.diff(dim=1) / levels.diff(dim=1))


_SLOPE_TABLES = {Slopes.HULL: _hull_slopes, Slopes.ADJACENT: _adjacent_slopes}


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
