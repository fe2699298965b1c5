"""The dual of METaQ's published regulariser, by four methods: diminishing steps, FISTA, a proximal bundle, and Newton.

`metaq.solvers.dual_problem` defines φ_w(ξ), in bits, and the facts about it that the improved rules rest on. Every
method

    maximises φ_w(ξ) over ξ,   warm-started from an earlier ξ,

and reports the best value it saw, a feasible primal value Σ c_b log2 c_b that no dual value exceeds, and their
difference. The weights are read once before the iterations and once after; an iteration takes O(C), or little more,
whatever their number.

Deviations from the thesis. ``Rule.PUBLISHED`` keeps its steps, and stalls: a step that suits the level with most
weights is far too short for the others, and the supergradient jumps wherever hull vertices tie, which at the optimum
they do. The thesis also sorts ξ after every step, which parts multipliers from their levels; that is left out.
``Rule.CONVEX``, the default, keeps ξ convex, where φ_w is smooth, and measures steps by the counts, its curvature
there. Newton's method is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.solvers import knapsack
from metaq.solvers.ascent import Options, Record, Rule, Status
from metaq.solvers.bundle import ProximalBundle, climb_by_bundle
from metaq.solvers.dual_problem import Array, Problem, pose
from metaq.solvers.dual_steps import (
    DiminishingSteps,
    Fista,
    Newton,
    climb_by_diminishing_steps,
    climb_by_fista,
    climb_by_newton,
)

__all__ = [
    "DiminishingSteps",
    "DualResult",
    "Fista",
    "Newton",
    "Options",
    "ProximalBundle",
    "Rule",
    "Status",
    "diminishing_steps",
    "evaluate",
    "fista",
    "newton",
    "proximal_bundle",
]


@dataclass(frozen=True)
class DualResult:
    """The best multipliers that a method found, with the bound that proves them good.

    Attributes:
        xi: float64 (C,), the best multipliers, on the weights' device.
        value: φ_w there, in bits.
        primal: Σ_b c_b log2 c_b of ``counts``, in bits.
        gap: ``primal - value``, at least 0 but for rounding: how far ``value`` can be from the optimum.
        residual: Σ_b |c*_b(ξ) - c_b| / n, how far the counts that ξ asks for are from feasible ones.
        iterations: the number taken.
        status: why the method stopped.
        counts: float64 (C,), feasible counts.
        multipliers: β, the derivative of φ with respect to each weight, in the weights' shape and dtype; 0 outside the
            levels.
    """

    xi: Tensor
    value: float
    primal: float
    gap: float
    residual: float
    iterations: int
    status: Status
    counts: Tensor
    multipliers: Tensor


def diminishing_steps(
    weights: Tensor, levels: Tensor, start: Tensor | None = None, options: DiminishingSteps | None = None
) -> DualResult:
    """Maximise φ_w by supergradient ascent with diminishing steps.

    Args:
        weights: any shape, floating point, finite, at least one; clipped to the levels' range.
        levels: (C,) strictly increasing, at least two.
        start: (C,) finite multipliers to start from; zeros unless given.

    Raises:
        InputError: an argument is not as said above; or no feasible counts exist, since too few weights, or too many
            near one end, leave some level below the least count.
    """
    options = options or DiminishingSteps()
    problem = pose(weights, levels, options.least_count)
    return _result(climb_by_diminishing_steps(problem, _first(start, problem), options), weights, levels)


def fista(weights: Tensor, levels: Tensor, start: Tensor | None = None, options: Fista | None = None) -> DualResult:
    """Maximise φ_w by accelerated ascent. Arguments and errors are those of `diminishing_steps`."""
    options = options or Fista()
    problem = pose(weights, levels, options.least_count)
    return _result(climb_by_fista(problem, _first(start, problem), options), weights, levels)


def proximal_bundle(
    weights: Tensor, levels: Tensor, start: Tensor | None = None, options: ProximalBundle | None = None
) -> DualResult:
    """Maximise φ_w by the proximal bundle method. Arguments and errors are those of `diminishing_steps`."""
    options = options or ProximalBundle()
    problem = pose(weights, levels, options.least_count)
    return _result(climb_by_bundle(problem, _first(start, problem), options), weights, levels)


def newton(weights: Tensor, levels: Tensor, start: Tensor | None = None, options: Newton | None = None) -> DualResult:
    """Maximise φ_w by projected Newton steps. Arguments and errors are those of `diminishing_steps`."""
    options = options or Newton()
    problem = pose(weights, levels, options.least_count)
    return _result(climb_by_newton(problem, _first(start, problem), options), weights, levels)


def evaluate(xi: Tensor, weights: Tensor, levels: Tensor, least_count: float = 0.01) -> tuple[float, Tensor]:
    """(φ_w(ξ) in bits, one supergradient ``Σ_i x*_i - c*``, float64 (C,)).

    Memory beyond the arguments does not depend on the number of weights.

    Raises:
        InputError: as `diminishing_steps`.
    """
    problem = pose(weights, levels, least_count)
    at = problem.evaluate(_first(xi, problem))
    return at.value, torch.from_numpy(at.assigned - at.counts).to(weights.device)


def _first(start: Tensor | None, problem: Problem) -> Array:
    if start is None:
        return np.zeros(len(problem.points))
    if start.shape != problem.points.shape or not bool(start.isfinite().all()):
        raise InputError(
            f"dual start: expected {len(problem.points)} finite multipliers, found shape {tuple(start.shape)}"
            + ("" if start.shape != problem.points.shape else " with others")
        )
    return start.detach().to("cpu", torch.float64).numpy().copy()


def _result(record: Record, weights: Tensor, levels: Tensor) -> DualResult:
    problem = record.problem
    at = problem.evaluate(record.xi)
    record.is_proved(at.hull)  # a last bound, for methods that make none on the way
    xi = torch.from_numpy(record.xi).to(weights.device)
    return DualResult(
        xi=xi,
        value=at.value,
        primal=record.primal,
        gap=record.primal - at.value,
        residual=float(np.abs(at.counts - record.counts).sum()) / problem.size,
        iterations=record.iterations,
        status=record.status,
        counts=torch.from_numpy(record.counts).to(weights.device),
        multipliers=knapsack.multipliers(xi, levels, weights),
    )
