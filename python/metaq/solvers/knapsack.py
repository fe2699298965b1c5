"""The simil-knapsack and the lower convex hull that solves it.

For one weight w, levels v_0 < ... < v_{C-1} with costs ξ_b, and a relaxed assignment x,

    min  Σ_b ξ_b x_b   s.t.  Σ_b v_b x_b = w,  Σ_b x_b = 1,  x >= 0

is the lower convex hull of the points (v_b, ξ_b) read at w: its optimal x has mass on the two hull vertices that
bracket w, and the multiplier of the constraint that holds w, the derivative of the value with respect to w, is the
slope of that edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq import _native
from metaq.errors import InputError

_UNEVEN = 1e-2  # in steps, how far nearly equally spaced levels may be off their places; less than 1/3
_PIECE = 1 << 20  # weights at a time where the whole would take much memory
_SMALL, _SMALL_PIECE = 1 << 18, (1 << 15) - 1


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

    A level on the straight line between its neighbours is a vertex too. On the CPU a monotone chain, O(C) a set;
    elsewhere O(C^2) work a set, in O(log C) tensor operations without a host synchronisation.

    Args:
        xi: (T, C) costs, finite.
        levels: (T, C) or (C,), strictly increasing.

    Raises:
        InputError: fewer than two levels, or shapes that do not match.
    """
    sets, count = xi.shape
    if count < 2 or levels.shape[-1] != count:
        raise InputError(f"hull: expected at least two levels, as many as costs, found {levels.shape[-1]} and {count}")
    costs = xi.detach().to(torch.float64)
    points = levels.to(costs).expand(sets, count)
    return _native_hulls(costs, points) if costs.is_cpu else _hulls(costs, points)


def _native_hulls(costs: Tensor, points: Tensor) -> Hull:
    sets, count = costs.shape
    left, right = torch.empty(2, sets, count - 1, dtype=torch.int64)
    found = Hull(left, right, torch.empty(sets, count - 1, dtype=torch.float64))
    _native.find_hulls(_array(costs), _array(points), _arrays(found))
    return found


def _hulls(costs: Tensor, points: Tensor) -> Hull:
    """Every vertex's successor on a hull that starts there is the vertex of least slope to its right.

    The hull itself is what the successors reach from level 0.
    """
    sets, count = costs.shape
    rise = costs[:, None, :] - costs[:, :, None]
    run = points[:, None, :] - points[:, :, None]
    slope = torch.where(run > 0, rise / torch.where(run > 0, run, 1.0), torch.inf)
    successor = slope.argmin(dim=2)
    successor[:, -1] = count - 1
    reached = torch.zeros(sets, count, dtype=torch.bool, device=costs.device)
    reached[:, 0] = True
    jump = successor
    for _ in range(max(1, (count - 1).bit_length())):
        # Whatever 2^k steps lead to from a reached vertex is reached; then double the stride.
        reached = reached | torch.zeros_like(costs).scatter_add(1, jump, reached.to(torch.float64)).gt(0)
        jump = jump.gather(1, jump)
    positions = torch.arange(count, device=costs.device)
    left = torch.where(reached, positions, -1).cummax(dim=1).values[:, :-1]
    right = successor.gather(1, left)
    edges = slope.reshape(sets, count * count).gather(1, left * count + right)
    return Hull(left, right, edges)


def solve(xi: Tensor, levels: Tensor, weights: Tensor) -> Solution:
    """Solve the simil-knapsack of every weight.

    Args:
        xi: (C,) costs of the levels, finite, in any unit.
        levels: (C,) strictly increasing.
        weights: any shape, finite; the solution is on their device, wherever the others are.

    Raises:
        InputError: fewer than two levels, levels not strictly increasing, or shapes that do not match.
    """
    points = _checked(levels, weights)
    costs = xi.detach().to(points).contiguous()
    edges, grid = hull(costs[None], points), _Grid(points)
    kinds = torch.int64, torch.int64, torch.float64, torch.float64, torch.float64
    found = Solution(*(torch.empty(weights.shape, dtype=kind, device=weights.device) for kind in kinds))
    (_native_solve if points.is_cpu else _solve)(costs, grid, edges, weights.detach(), found)
    return found


def _native_solve(costs: Tensor, grid: _Grid, edges: Hull, weights: Tensor, found: Solution) -> None:
    weights = weights.to(torch.float32 if weights.dtype == torch.float32 else torch.float64)
    slack = _UNEVEN if grid.is_even else -1.0
    optima = found.left.numpy(), found.right.numpy(), found.mass.numpy(), found.multiplier.numpy(), found.value.numpy()
    _native.solve_knapsacks(_array(weights), _array(costs), _array(grid.points), _arrays(edges), slack, optima)


def _solve(costs: Tensor, grid: _Grid, edges: Hull, weights: Tensor, found: Solution) -> None:
    left, right, points = edges.left[0], edges.right[0], grid.points
    # Per cell first, so that a weight only reads: the right vertex's position, the run, its cost, the fall to it.
    tops, runs = points[right], points[right] - points[left]
    bottoms, falls = costs[right], costs[left] - costs[right]
    for part, *out in zip(_pieces(weights), *map(_pieces, vars(found).values()), strict=True):
        inside, cell = grid.cells(part)
        torch.index_select(left, 0, cell, out=out[0])
        torch.index_select(right, 0, cell, out=out[1])
        mass = torch.index_select(tops, 0, cell, out=out[2]).sub_(inside).div_(runs.index_select(0, cell))
        torch.index_select(edges.slope[0], 0, cell, out=out[3]).masked_fill_(inside != part, 0.0)
        torch.addcmul(bottoms.index_select(0, cell), mass, falls.index_select(0, cell), out=out[4])


def multipliers(xi: Tensor, levels: Tensor, weights: Tensor) -> Tensor:
    """Only the multipliers of `solve`, in the weights' shape and dtype, in pieces: for tensors of any size.

    Raises:
        InputError: as `solve`.
    """
    points = _checked(levels, weights)
    slope, grid = hull(xi[None].to(points), points).slope[0], _Grid(points)
    result = torch.empty_like(weights, memory_format=torch.contiguous_format)
    for part, out in zip(_pieces(weights), _pieces(result), strict=True):
        inside, cell = grid.cells(part)
        out.copy_(slope.index_select(0, cell).masked_fill_(inside != part, 0.0))
    return result


def masses(levels: Tensor, weights: Tensor) -> Tensor:
    """Masses a_b on the levels, (C,) float64, when every weight is split between its two neighbouring levels.

    The split keeps the weight: ``Σ_b a_b v_b = Σ_i w_i`` and ``Σ_b a_b = n``, weights clipped to the levels' range.
    Any hull is linear between neighbours, so ``Σ_i hull(w_i) = Σ_b a_b hull(v_b)``. Two scatter-adds, in pieces.

    Raises:
        InputError: fewer than two levels, or levels not strictly increasing.
    """
    points = _checked(levels, weights)
    tops, runs, grid = points[1:].clone(), points.diff(), _Grid(points)
    whole, on_left = torch.zeros_like(points), torch.zeros_like(points)
    for part in _pieces(weights):
        inside, cell = grid.cells(part)
        whole += torch.bincount(cell, minlength=len(points))
        on_left.scatter_add_(0, cell, tops.index_select(0, cell).sub_(inside).div_(runs.index_select(0, cell)))
    return on_left + (whole - on_left).roll(1)


def _checked(levels: Tensor, weights: Tensor) -> Tensor:
    """The levels as float64, (C,), strictly increasing, at least two, on the weights' device."""
    points = levels.detach().to(weights.device, torch.float64)
    if points.ndim != 1 or len(points) < 2:
        raise InputError(f"levels: expected at least two in one dimension, found shape {tuple(levels.shape)}")
    if not bool((points.diff() > 0).all()):
        raise InputError("levels: expected strictly increasing values, found others")
    return points


def _array(numbers: Tensor) -> NDArray[Any]:
    """Dense and aligned, as native code reads it: the memory itself, or a copy."""
    return np.require(numbers.numpy(), requirements=["C", "A"])


def _arrays(edges: Hull) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    return edges.left.numpy(), edges.right.numpy(), edges.slope.numpy()


class _Grid:
    """The cells between levels: by arithmetic where the levels are equally spaced, by a search elsewhere."""

    def __init__(self, points: Tensor) -> None:
        self.points = points
        self.first, self.last = points[[0, -1]].tolist()
        self.most = len(points) - 2
        self.step = (self.last - self.first) / (self.most + 1)
        even = torch.arange(len(points), dtype=torch.float64, device=points.device).mul_(self.step).add_(self.first)
        self.is_even = float((points - even).abs().max()) <= _UNEVEN * self.step

    def cells(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(weights clipped to the levels' range, float64; the cell j of each, int64), both (n,).

        ``v_j <= w < v_(j+1)``, but the last level is in the last cell.
        """
        inside = weights.to(torch.float64).clamp(self.first, self.last)
        if not self.is_even:
            return inside, (torch.searchsorted(self.points, inside, right=True) - 1).clamp_(0, self.most)
        # An estimate that is right or one too high, then one comparison.
        place = (inside - self.first).mul_(1 / self.step).add_(2 * _UNEVEN)
        cell = place.to(torch.int64).clamp_(max=self.most)
        return inside, cell.sub_((inside < self.points.index_select(0, cell)).to(torch.int64))


def _pieces(values: Tensor) -> Iterator[Tensor]:
    """The values, flat, a piece at a time; views where they are contiguous.

    The pieces of a small tensor are below the size from which torch uses threads, which would cost more than the work.
    """
    flat = values.detach().reshape(-1)
    yield from flat.split(_PIECE if len(flat) > _SMALL else _SMALL_PIECE)
