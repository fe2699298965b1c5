"""METaQ's objectives: what φ is made of, and from that β = ∂φ/∂w for every weight.

The notation is that of `metaq.methods.metaq.method`. A *set* is the weights that share levels; there are S sets with C
levels each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from metaq.errors import InfeasibleError
from metaq.methods.metaq.config import Counts, Perspective, Slopes, Solver
from metaq.methods.metaq.float_view import FloatView
from metaq.methods.metaq.quantized_view import QuantizedView
from metaq.methods.size_control import code_lengths
from metaq.solvers import dual, knapsack, perspective

_FAR_SHARE = 2.0**-13  # of a set's weights may lie beyond the levels whose code lengths make the hull
_STEEP_BITS = 64.0  # more than two neighbouring levels' code lengths can differ by

View = QuantizedView | FloatView


_CLIMBS: dict[Solver, Any] = {
    Solver.FISTA: dual.fista,
    Solver.BUNDLE: dual.proximal_bundle,
    Solver.DIMINISHING: dual.diminishing_steps,
    Solver.NEWTON: dual.newton,
}


class BoundObjective(ABC):
    """An objective's state for one model."""

    @abstractmethod
    def refresh(self, view: View, counts: Tensor) -> None:
        """Determine ξ from the weights as they are now.

        Args:
            counts: int64 (S, C), how often each level is a weight's nearest.
        """

    @abstractmethod
    def add_gradients(self, view: View, strength: float) -> None:
        """Add ``strength·β`` to the gradients; the parameters hold the latent weights afterwards."""

    def release(self, sets: Sequence[int]) -> None:
        """Let these sets' weights go without a pull until ξ are determined again, where the objective can."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly as before."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""


class CodeLengthObjective(BoundObjective):
    """ξ are the code lengths of the present histogram, and β their slopes."""

    def __init__(self, slopes: Slopes) -> None:
        self.kind = slopes
        self.slopes = torch.empty(0)  # float32 (S, C, 2), below and above every level

    def refresh(self, view: View, counts: Tensor) -> None:
        """Shannon's code lengths of one histogram, and their slopes."""
        if isinstance(view, QuantizedView) and view.is_open:
            self.slopes = open_slope_table(self.kind, counts, view.levels())
        else:
            self.slopes = slope_table(self.kind, code_lengths(counts), view.levels())

    def release(self, sets: Sequence[int]) -> None:
        """Flat slopes."""
        self.slopes[list(sets)] = 0.0

    def add_gradients(self, view: View, strength: float) -> None:
        """β is read off the table."""
        view.add_slopes(self.slopes.to(view.parameters[0].device), strength)

    def state_dict(self) -> dict[str, Any]:
        """The table of slopes."""
        return {"slopes": self.slopes.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.slopes = torch.tensor(state["slopes"], dtype=torch.float32)


class CountsObjective(CodeLengthObjective):
    """The published objective: ξ maximise the dual. It spreads the histogram, so that files become larger."""

    def __init__(self, slopes: Slopes, options: Counts) -> None:
        super().__init__(slopes)
        self.options = options
        self.xi: list[Tensor] = []

    def refresh(self, view: View, counts: Tensor) -> None:
        """A few iterations on every set's dual, from where the last ones ended.

        A set whose weights can leave no level `Counts.least_count` has no multipliers, and keeps those that it had.
        """
        climb = _CLIMBS[self.options.solver]
        levels, options = view.levels(), self.options.dual_options()
        self.xi = self.xi or [torch.zeros(levels.shape[1], dtype=torch.float64) for _ in levels]
        for index, (weights, row) in enumerate(zip(view.latent_weights(), levels, strict=True)):
            with suppress(InfeasibleError):
                self.xi[index] = climb(weights, row, self.xi[index], options).xi
        self.slopes = slope_table(self.kind, torch.stack([xi.to(levels) for xi in self.xi]), levels)

    def add_gradients(self, view: View, strength: float) -> None:
        """β is read off the table; the gradient of ‖w‖² comes on top."""
        view.add_slopes(self.slopes.to(view.parameters[0].device), strength * (1 - self.options.alpha))
        for parameter in view.parameters if self.options.alpha else ():
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach(), alpha=2 * strength * self.options.alpha)

    def state_dict(self) -> dict[str, Any]:
        """The table of slopes, and the duals' present multipliers."""
        return super().state_dict() | {"xi": self.xi}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.xi = state["xi"]


class PerspectiveObjective(BoundObjective):
    """Zeros count as missing mass. Weights are measured in steps, so that one T1 is right for every tensor."""

    def __init__(self, options: Perspective) -> None:
        self.options = options
        self.prices: list[Tensor] = []

    def refresh(self, view: View, counts: Tensor) -> None:
        """A few iterations on every set, from where the last ones ended."""
        assert isinstance(view, QuantizedView)
        costs, levels = self.options.costs(), _without_zero(view.radius)
        starts: list[Any] = self.prices or [None] * len(view.steps)
        columns = zip(view.latent_weights(), view.steps, starts, strict=True)
        self.prices = [
            perspective.solve(weights / step, levels, costs, start, self.options.iterations).prices
            for weights, step, start in columns
        ]

    def add_gradients(self, view: View, strength: float) -> None:
        """β follows from the prices; it is divided by the step, since weights are measured in steps."""
        assert isinstance(view, QuantizedView)
        costs, levels = self.options.costs(), _without_zero(view.radius)
        columns = zip(view.latent_weights(), view.steps, self.prices, strict=True)
        betas = [
            perspective.multipliers(prices, weights / step, levels, costs).div_(step)
            for weights, step, prices in columns
        ]
        view.add_slopes(None, 0.0)
        for parameter, beta in zip(view.parameters, betas, strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(beta.reshape(parameter.shape), alpha=strength)

    def state_dict(self) -> dict[str, Any]:
        """The solvers' present prices."""
        return {"prices": self.prices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.prices = state["prices"]


def slope_table(kind: Slopes, xi: Tensor, levels: Tensor) -> Tensor:
    """Slopes of ξ below and above each of the levels: float32 (S, C, 2) from (S, C) and (S, C), contiguous."""
    cells = knapsack.hull(xi, levels).slope if kind is Slopes.HULL else xi.diff(dim=1) / levels.diff(dim=1)
    below = torch.cat([cells[:, :1], cells], dim=1)
    above = torch.cat([cells, cells[:, -1:]], dim=1)
    return torch.stack([below, above], dim=2).to(torch.float32).contiguous()


def open_slope_table(kind: Slopes, counts: Tensor, levels: Tensor) -> Tensor:
    """`slope_table` of code lengths where levels go on without end: flat beyond those that nearly all weights take.

    A few far weights are no reason to pull all others less, as the hull would have it: to the levels between, which are
    empty, it would give the slope of a line from zero to the farthest weight.

    Args:
        counts: int64 (S, 2R + 1), of the levels -R ... R.
        levels: (S, 2R + 1).
    """
    device = counts.device  # the work is the CPU's, where a hull takes O(R)
    counts, levels = counts.cpu(), levels.cpu()
    radius = counts.shape[1] // 2
    total = counts.sum(dim=1, keepdim=True)
    by_distance = counts[:, radius:].clone()
    by_distance[:, 1:] += counts[:, :radius].flip(1)
    beyond = total - by_distance.cumsum(dim=1)
    cores = (beyond > total * _FAR_SHARE).sum(dim=1, keepdim=True).clamp(min=1, max=radius)
    # Most levels are beyond the cores of all tensors. One of them on either side stands for the others.
    reach = min(radius, int(cores.max()) + 1)
    near = slice(radius - reach, radius + reach + 1)
    places = torch.arange(-reach, reach + 1)
    steep = _STEEP_BITS * (places.abs() - cores).clamp(min=0)  # so that levels beyond take no part in the hull
    inside = torch.stack([(places > -cores) & (places <= cores), (places >= -cores) & (places < cores)], dim=2)
    slopes = torch.zeros(*counts.shape, 2)
    slopes[:, near] = slope_table(kind, code_lengths(counts)[:, near] + steep, levels[:, near]).mul_(inside)
    return slopes.to(device)


def _without_zero(radius: int) -> Tensor:
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return places[places != 0]
