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
from metaq.solvers import knapsack

_PSEUDO_COUNT = 0.1  # what an empty level counts as: its code is long, not infinite
_STEP_BITS = 4  # significant bits of a step: costs nothing in accuracy, and a byte or two less in the file


class Slopes(Enum):
    """How β is read off the code lengths.

    HULL: the slope of their lower convex hull: the multiplier of the problem above, exactly. It pulls all weights to
        the cheapest levels through the expensive ones, large weights as hard as small ones.
    CHORD: the slope of the chord from the weight's nearest level to the cheapest level of its tensor. Code lengths are
        concave on either side of the cheapest level, so this linearises them where the weight is (a reweighted L1
        penalty): small weights are pulled harder than large ones, which then cost less accuracy.
    ADJACENT: the slope between the two levels around the weight (HEMP of order 1); it stops at local minima.
    """

    HULL = "hull"
    CHORD = "chord"
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
    """

    strength: float = 3e-5
    step: float = 0.15
    radius: int = 15
    refresh_every: int = 10
    warmup_steps: int = 0
    slopes: Slopes = Slopes.CHORD

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
        self.pinned: Tensor | None = None  # in the last phase, 1 where a weight stays at its tensor's commonest level
        self.commonest: Tensor | None = None  # that level's value, for every weight
        self.latent: Tensor | None = None  # the optimizer's weights while the parameters hold quantized ones
        self._set_steps([_short_step(config.step * float(tensor.detach().abs().max())) for tensor in self.tensors])

    def _set_steps(self, steps: list[float]) -> None:
        device = self.tensors[0].device
        self.steps = torch.tensor(steps, dtype=torch.float32, device=device)
        sizes = torch.tensor(self.sizes, device=device)
        self.step_of_weight = torch.repeat_interleave(self.steps, sizes)
        owner = torch.repeat_interleave(torch.arange(len(steps), device=device), sizes)
        self.zero_level = owner * (2 * self.config.radius + 1) + self.config.radius
        self.slopes = torch.zeros(len(steps), 2 * self.config.radius + 1, 2, device=device)

    @torch.no_grad()
    def on_forward(self) -> None:
        """Show the model quantized weights; straight through, their gradients go to the latent ones."""
        if self.latent is not None:
            return
        self.latent = torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])
        if self.pinned is not None and self.commonest is not None:
            self.latent = torch.where(self.pinned, self.commonest, self.latent)
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
        nearest_level = scaled.round().clamp_(-self.config.radius, self.config.radius)
        side = (self.zero_level + nearest_level.to(torch.int64)).mul_(2).add_(scaled > nearest_level)
        beta = self.slopes.view(-1)[side]
        beta *= scaled.abs_() <= self.config.radius  # outside the levels the weight is clipped, and φ is flat
        gradient = torch.cat([_gradient(tensor).reshape(-1) for tensor in self.tensors])
        gradient += self._present_strength() * beta
        if self.pinned is not None:
            gradient.masked_fill_(self.pinned, 0.0)
        views = [part.view_as(tensor) for part, tensor in zip(gradient.split(self.sizes), self.tensors, strict=True)]
        torch._foreach_copy_([_gradient(tensor) for tensor in self.tensors], views)
        self._show(self.latent)
        self.latent = None
        self.training_step += 1

    def on_last_phase(self) -> None:
        """Weights at their tensor's commonest level, nearly always zero, stay there; the others train on."""
        with torch.no_grad():
            self.on_forward()
            assert self.latent is not None
            symbols = self._symbols(self.latent)
            commonest = self._counts(symbols).argmax(dim=1) - self.config.radius
            spread = torch.repeat_interleave(commonest, torch.tensor(self.sizes, device=symbols.device))
            self.pinned = symbols == spread
            self.commonest = spread * self.step_of_weight

    def quantize(self, name: str, weights: Tensor) -> tuple[UniformCodebook, Tensor]:
        """Nearest multiple of the parameter's step within the radius: what the forward pass has been seeing."""
        index = list(self.parameters).index(name)
        codebook = UniformCodebook(float(self.steps[index]))
        return codebook, nearest(weights.cpu(), codebook).clamp_(-self.config.radius, self.config.radius)

    def state_dict(self) -> dict[str, Any]:
        """Steps, slopes, pinned weights and the count of training steps; between two training steps nothing else is kept."""
        return {
            "training_step": self.training_step,
            "steps": self.steps,
            "slopes": self.slopes,
            "pinned": self.pinned,
            "commonest": self.commonest,
            "latent": self.latent,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._set_steps(state["steps"].tolist())
        self.slopes = state["slopes"]
        self.pinned, self.commonest = state["pinned"], state["commonest"]
        self.latent = state["latent"]
        self.training_step = state["training_step"]

    def _symbols(self, latent: Tensor) -> Tensor:
        """Float symbols: the nearest multiples, ties to even as in `metaq.assign.nearest`, and no negative zero."""
        return (latent / self.step_of_weight).round_().clamp_(-self.config.radius, self.config.radius).add_(0.0)

    def _show(self, weights: Tensor) -> None:
        """Put flat weights into the parameters."""
        views = [part.view_as(tensor) for part, tensor in zip(weights.split(self.sizes), self.tensors, strict=True)]
        torch._foreach_copy_([tensor.detach() for tensor in self.tensors], views)

    def _counts(self, symbols: Tensor) -> Tensor:
        """How often each tensor has each level: (T, C)."""
        levels = 2 * self.config.radius + 1
        positions = symbols.to(torch.int64) + self.zero_level
        return torch.bincount(positions, minlength=len(self.sizes) * levels).view(-1, levels)

    def _refresh(self, symbols: Tensor) -> None:
        """ξ from the histogram of each tensor's symbols, then β below and above every level, v = s·b."""
        radius = self.config.radius
        counts = self._counts(symbols) + _PSEUDO_COUNT
        xi = -(counts / counts.sum(dim=1, keepdim=True)).log2()
        levels = torch.arange(-radius, radius + 1, device=xi.device) * self.steps[:, None]
        self.slopes = _SLOPE_TABLES[self.config.slopes](xi, levels).to(torch.float32)

    def _present_strength(self) -> float:
        warmed = self.training_step / self.config.warmup_steps if self.config.warmup_steps else 1.0
        return self.config.strength * min(1.0, warmed)


def _from_cells(cells: Tensor) -> Tensor:
    """Slopes below and above each of C levels, (T, C, 2), from those in the C - 1 cells between them."""
    below = torch.cat([cells[:, :1], cells], dim=1)
    above = torch.cat([cells, cells[:, -1:]], dim=1)
    return torch.stack([below, above], dim=2)


def _hull_slopes(xi: Tensor, levels: Tensor) -> Tensor:
    return _from_cells(knapsack.hull(xi, levels).slope)


def _adjacent_slopes(xi: Tensor, levels: Tensor) -> Tensor:
    return _from_cells(xi.diff(dim=1) / levels.diff(dim=1))


def _chord_slopes(xi: Tensor, levels: Tensor) -> Tensor:
    cheapest = xi.argmin(dim=1, keepdim=True)
    rise, run = xi - xi.gather(1, cheapest), levels - levels.gather(1, cheapest)
    chords = torch.where(run == 0, 0.0, rise / torch.where(run == 0, 1.0, run))
    # At the cheapest level itself the chords to its neighbours hold the weight there.
    last = xi.shape[1] - 1
    below = torch.where(run == 0, chords.gather(1, (cheapest - 1).clamp(min=0)), chords)
    above = torch.where(run == 0, chords.gather(1, (cheapest + 1).clamp(max=last)), chords)
    return torch.stack([below, above], dim=2)


_SLOPE_TABLES = {Slopes.HULL: _hull_slopes, Slopes.CHORD: _chord_slopes, Slopes.ADJACENT: _adjacent_slopes}


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
