"""Kelley's cutting plane method on the one-dimensional dual of the simil-knapsack, the thesis's baseline for the hull.

For one weight w, with multiplier β of the constraint that holds it, the dual is

    max over β of  ψ(β) = min_b ((w - v_b) β + ξ_b),

concave and piecewise linear. Two lines are active, one that rises and one that falls; where they meet, ψ's own line
there is found by a search over all C levels; if it is lower, it replaces the active line of the same direction. At the
optimum the two active lines are the hull's vertices around w. Every weight takes a few iterations of O(C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.solvers.ascent import Status
from metaq.solvers.knapsack import Solution

_ENTRIES = 1 << 20  # at a time, of the table of lines at weights
_ROUNDING = 1e-13  # relative to the costs: a line lower by less is not lower


@dataclass(frozen=True)
class CuttingPlaneResult:
    """The optima of all weights, and how they were found.

    Attributes:
        solution: the optima, as `metaq.solvers.knapsack.solve` gives them.
        iterations: the largest number that a weight needed.
        gap: the largest difference between the model's value and ψ, in the costs' unit.
        status: CONVERGED, or ITERATION_LIMIT after C iterations, which only rounding can lead to.
    """

    solution: Solution
    iterations: int
    gap: float
    status: Status


def solve(xi: Tensor, levels: Tensor, weights: Tensor) -> CuttingPlaneResult:
    """Solve the simil-knapsack of every weight.

    Args:
        xi: (C,) costs of the levels, finite, in any unit.
        levels: (C,) strictly increasing, at least two.
        weights: any shape, finite; clipped to the levels' range, with multiplier 0 outside.

    Raises:
        InputError: fewer than two levels, levels not strictly increasing, or shapes that do not match.
    """
    costs, points = xi.to(torch.float64), levels.to(torch.float64)
    if points.ndim != 1 or len(points) < 2 or costs.shape != points.shape or not bool((points.diff() > 0).all()):
        raise InputError("levels: expected at least two strictly increasing values, as many as costs, found others")
    flat = weights.to(torch.float64).reshape(-1)
    inside = flat.clamp(points[0], points[-1])
    pieces = [_solve_piece(costs, points, piece) for piece in inside.split(max(1, _ENTRIES // len(points)))]
    left, right, beta = (torch.cat(parts) for parts in zip(*(piece[:3] for piece in pieces), strict=True))
    iterations, gap = max(piece[3] for piece in pieces), max(piece[4] for piece in pieces)
    mass = (points[right] - inside) / (points[right] - points[left])
    value = mass * costs[left] + (1 - mass) * costs[right]
    found = left, right, mass, beta.masked_fill(inside != flat, 0.0), value
    status = Status.CONVERGED if gap <= _ROUNDING * float(costs.abs().max()) else Status.ITERATION_LIMIT
    return CuttingPlaneResult(Solution(*(part.view(weights.shape) for part in found)), iterations, gap, status)


def _solve_piece(costs: Tensor, points: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, int, float]:
    """(left, right, β, iterations, gap) of (n,) weights within the levels' range."""
    left = torch.zeros(len(inside), dtype=torch.int64, device=inside.device)
    right = torch.full_like(left, len(points) - 1)
    smallest = _ROUNDING * float(costs.abs().max())
    iterations = 0
    while True:
        iterations += 1
        beta = (costs[right] - costs[left]) / (points[right] - points[left])
        # A line's height at β less w β, which is the same for all lines of a weight.
        heights = costs - beta[:, None] * points
        lowest, cut = heights.min(dim=1)
        gap = costs[left] - beta * points[left] - lowest
        is_lower = gap > smallest
        if not bool(is_lower.any()) or iterations == len(points):
            break
        rises = points[cut] <= inside
        left = torch.where(is_lower & rises, cut, left)
        right = torch.where(is_lower & ~rises, cut, right)
    return left, right, beta, iterations, max(0.0, float(gap.max()) if len(gap) else 0.0)
