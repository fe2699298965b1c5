"""The simil-knapsack and the lower convex hull that solves it.

For one weight w, levels v_0 < ... < v_{C-1} with costs ξ_b, and a relaxed assignment x,

    min  Σ_b ξ_b x_b   s.t.  Σ_b v_b x_b = w,  Σ_b x_b = 1,  x >= 0

is the lower convex hull of the points (v_b, ξ_b) read at w: its optimal x has mass on the two hull vertices that bracket w, and
the multiplier of the constraint that holds w, the derivative of the value with respect to w, is the slope of that edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.errors import InputError


@dataclass(frozen=True)
class Hull:
    """Lower convex hulls of T point sets over C levels, by cell: cell j lies between levels j and j + 1.

    Attributes:
        left, right: int64 (T, C - 1), the hull's vertices that bracket the cell.
        slope: float64 (T, C - 1), the slope of the edge between them.
    """

    left: Tensor
    right: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Solution:
    """Optima of one simil-knapsack for each weight, all in the weights' shape.

    Attributes:
        left, right: int64, the two levels that carry mass (the same one at the ends of the range).
        mass: float64, the mass on ``left``; the rest is on ``right``.
        multiplier: float64, ``∂value/∂w``; 0 outside the levels, where w is clipped to the nearest of them.
        value: float64, the optimal cost.
    """

    left: Tensor
    right: Tensor
    mass: Tensor
    multiplier: Tensor
    value: Tensor


def hull(xi: Tensor, levels: Tensor) -> Hull:
    """Lower convex hulls of the points ``(levels[t, b], xi[t, b])``, for all t at once.

    Every vertex's successor on a hull that starts there is the vertex of least slope to its right; the hull itself is what the
    successors reach from level 0. That is O(C^2) work for a set, in O(log C) tensor operations without a host synchronisation.

    Args:
        xi: (T, C) costs, finite.
        levels: (T, C) or (C,), strictly increasing.

    Raises:
        InputError: fewer than two levels, or shapes that do not match.
    """
    sets, count = xi.shape
    if count < 2 or levels.shape[-1] != count:
        raise InputError(f"hull: expected at least two levels, as many as costs, found {levels.shape[-1]} and {count}")
    points = levels.to(torch.float64).expand(sets, count)
    costs = xi.to(torch.float64)
    rise = costs[:, None, :] - costs[:, :, None]
    run = points[:, None, :] - points[:, :, None]
    slope = torch.where(run > 0, rise / torch.where(run > 0, run, 1.0), torch.inf)
    successor = slope.argmin(dim=2)
    successor[:, -1] = count - 1
    reached = torch.zeros(sets, count, dtype=torch.bool, device=xi.device)
    reached[:, 0] = True
    jump = successor
    for _ in range(max(1, (count - 1).bit_length())):
        # Whatever 2^k steps lead to from a reached vertex is reached; then double the stride.
        reached = reached | torch.zeros_like(costs).scatter_add(1, jump, reached.to(torch.float64)).gt(0)
        jump = jump.gather(1, jump)
    here = torch.arange(count, device=xi.device)
    left = torch.where(reached, here, -1).cummax(dim=1).values[:, :-1]
    right = successor.gather(1, left)
    edges = slope.reshape(sets, count * count).gather(1, left * count + right)
    return Hull(left, right, edges)


def solve(xi: Tensor, levels: Tensor, weights: Tensor) -> Solution:
    """Solve the simil-knapsack of every weight.

    Args:
        xi: (C,) costs of the levels, finite, in any unit.
        levels: (C,) strictly increasing.
        weights: any shape, finite.

    Raises:
        InputError: fewer than two levels, levels not strictly increasing, or shapes that do not match.
    """
    points = levels.to(torch.float64)
    if not bool((points.diff() > 0).all()):
        raise InputError("levels: expected strictly increasing values, found others")
    edges = hull(xi[None], points)
    inside = weights.to(torch.float64).clamp(points[0], points[-1])
    cell = (torch.searchsorted(points, inside, right=True) - 1).clamp(0, len(points) - 2)
    left, right = edges.left[0][cell], edges.right[0][cell]
    mass = (points[right] - inside) / (points[right] - points[left])
    costs = xi.to(torch.float64)
    value = mass * costs[left] + (1 - mass) * costs[right]
    is_outside = (weights < points[0]) | (weights > points[-1])
    multiplier = torch.where(is_outside, 0.0, edges.slope[0][cell])
    return Solution(left, right, mass, multiplier, value)
