"""METaQ's objectives: what φ is made of, and so how β = ∂φ/∂w is had for every weight.

Notation of `metaq.methods.metaq.method`. A *set* is the weights that share levels: S of them, with C levels each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from metaq.errors import InfeasibleError, InputError
from metaq.methods.metaq.float_view import FloatView
from metaq.methods.metaq.quantized_view import QuantizedView
from metaq.solvers import dual, knapsack, perspective

_PSEUDO_COUNT = 0.1  # what an empty level counts as: its code is long, not infinite

View = QuantizedView | FloatView


class Slopes(Enum):
    """How β is read off the levels' costs ξ.

    HULL: the slope of their lower convex hull: the multiplier of the simil-knapsack, exactly.
    ADJACENT: the slope between the two levels around the weight (HEMP of order 1), which stops at local minima.
    """

    HULL = "hull"
    ADJACENT = "adjacent"


class Solver(Enum):
    """Which method maximises the dual of the published objective."""

    FISTA = "fista"
    BUNDLE = "bundle"
    DIMINISHING = "diminishing"
    NEWTON = "newton"


_CLIMBS: dict[Solver, tuple[Any, Any]] = {
    Solver.FISTA: (dual.fista, dual.Fista),
    Solver.BUNDLE: (dual.proximal_bundle, dual.ProximalBundle),
    Solver.DIMINISHING: (dual.diminishing_steps, dual.DiminishingSteps),
    Solver.NEWTON: (dual.newton, dual.Newton),
}


@dataclass(frozen=True)
class Counts:
    """Options of the published objective, ``alpha ‖w‖² + (1 - alpha) φ(w)`` with φ the least Σ_b c_b log2 c_b.

    Attributes:
        alpha: the share of ‖w‖².
        solver: of the dual, warm-started from the training step before.
        rule: its steps, the thesis's or ours (`metaq.solvers.dual.Rule`); Newton's method knows only ours.
        zeta: ζ of FISTA and of the bundle, under the published rule.
        iterations: the most of them, each time.
        least_count: c_lo; the other bound, c_hi, is the number of weights.
    """

    alpha: float = 0.0
    solver: Solver = Solver.FISTA
    rule: dual.Rule = dual.Rule.CONVEX
    zeta: float = 1e5
    iterations: int = 15
    least_count: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha: expected 0 to 1, found {self.alpha!r}")
        self.dual_options()

    def dual_options(self) -> dual.Options:
        """The solver's own options."""
        found: dict[str, Any] = {"iterations": self.iterations, "least_count": self.least_count}
        if self.solver is not Solver.NEWTON:
            found["rule"] = self.rule
        if self.solver in (Solver.FISTA, Solver.BUNDLE) and self.rule is dual.Rule.PUBLISHED:
            found["zeta"] = self.zeta
        options: dual.Options = _CLIMBS[self.solver][1](**found)
        return options


@dataclass(frozen=True)
class Perspective:
    """Options of the perspective objective, ``T1 Σ w²/y + T2 Σ y + T3 Σ_{b≠0} c_b log2 c_b``.

    Attributes:
        magnitude: T1, for weights measured in steps of their levels.
        presence: T2.
        spread: T3.
        iterations: of its solver, each time, warm-started.
    """

    magnitude: float = 1.0
    presence: float = 1.0
    spread: float = 0.01
    iterations: int = 15

    def __post_init__(self) -> None:
        self.costs()
        if self.iterations < 1:
            raise InputError(f"perspective iterations: expected at least 1, found {self.iterations}")

    def costs(self) -> perspective.Costs:
        """The solver's form of them."""
        return perspective.Costs(self.magnitude, self.presence, self.spread)


class BoundObjective(ABC):
    """An objective's state for one model."""

    @abstractmethod
    def refresh(self, view: View, counts: Tensor) -> None:
        """Learn from the weights as they are.

        Args:
            counts: int64 (S, C), how often each level is a weight's nearest.
        """

    @abstractmethod
    def take_back(self, view: View, strength: float) -> None:
        """Give the optimizer its weights back and add ``strength·β`` to their gradients."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""


class CodeLengthObjective(BoundObjective):
    """ξ are the code lengths of the present histogram, and β their slopes."""

    def __init__(self, slopes: Slopes) -> None:
        self.kind = slopes
        self.slopes = torch.empty(0)  # float32 (S, C, 2), below and above every level

    def refresh(self, view: View, counts: Tensor) -> None:
        """One histogram."""
        self.slopes = slope_table(self.kind, code_lengths(counts), view.levels())

    def take_back(self, view: View, strength: float) -> None:
        """By the table."""
        view.take_back(self.slopes, strength)

    def state_dict(self) -> dict[str, Any]:
        """The table."""
        return {"slopes": self.slopes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.slopes = state["slopes"]


class CountsObjective(CodeLengthObjective):
    """As published: ξ maximise the dual. It spreads the histogram, so that files become larger."""

    def __init__(self, slopes: Slopes, options: Counts) -> None:
        super().__init__(slopes)
        self.options = options
        self.xi: list[Tensor] = []

    def refresh(self, view: View, counts: Tensor) -> None:
        """A few iterations on every set's dual, from where the last ones ended.

        A set whose weights can leave no level `Counts.least_count` has no multipliers, and keeps those that it had.
        """
        climb, _ = _CLIMBS[self.options.solver]
        levels, options = view.levels(), self.options.dual_options()
        self.xi = self.xi or [torch.zeros(levels.shape[1], dtype=torch.float64) for _ in levels]
        for index, (weights, row) in enumerate(zip(view.latent_weights(), levels, strict=True)):
            with suppress(InfeasibleError):
                self.xi[index] = climb(weights, row, self.xi[index], options).xi
        self.slopes = slope_table(self.kind, torch.stack([xi.to(levels) for xi in self.xi]), levels)

    def take_back(self, view: View, strength: float) -> None:
        """β by the table, and the gradient of ‖w‖²."""
        view.take_back(self.slopes, strength * (1 - self.options.alpha))
        for parameter in view.parameters if self.options.alpha else ():
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach(), alpha=2 * strength * self.options.alpha)

    def state_dict(self) -> dict[str, Any]:
        """The table, and where the duals stand."""
        return super().state_dict() | {"xi": self.xi}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.xi = state["xi"]


class PerspectiveObjective(BoundObjective):
    """Zeros as missing mass. Weights are measured in steps, so that one T1 is right for every tensor."""

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

    def take_back(self, view: View, strength: float) -> None:
        """β from the prices; 1/step of it, since weights are measured in steps."""
        assert isinstance(view, QuantizedView)
        costs, levels = self.options.costs(), _without_zero(view.radius)
        columns = zip(view.latent_weights(), view.steps, self.prices, strict=True)
        betas = [
            perspective.multipliers(prices, weights / step, levels, costs).div_(step)
            for weights, step, prices in columns
        ]
        view.take_back(None, 0.0)
        for parameter, beta in zip(view.parameters, betas, strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(beta.reshape(parameter.shape), alpha=strength)

    def state_dict(self) -> dict[str, Any]:
        """Where the solvers stand."""
        return {"prices": self.prices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.prices = state["prices"]


def code_lengths(counts: Tensor) -> Tensor:
    """``-log2(c_b / n)`` of every set's histogram (S, C), in bits."""
    weighted = counts + _PSEUDO_COUNT
    return -(weighted / weighted.sum(dim=1, keepdim=True)).log2()


def slope_table(kind: Slopes, xi: Tensor, levels: Tensor) -> Tensor:
    """Slopes of ξ below and above each of the levels: float32 (S, C, 2) from (S, C) and (S, C), contiguous."""
    cells = knapsack.hull(xi, levels).slope if kind is Slopes.HULL else xi.diff(dim=1) / levels.diff(dim=1)
    below = torch.cat([cells[:, :1], cells], dim=1)
    above = torch.cat([cells, cells[:, -1:]], dim=1)
    return torch.stack([below, above], dim=2).to(torch.float32).contiguous()


def _without_zero(radius: int) -> Tensor:
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return places[places != 0]
