"""Weighted projection onto convex sequences, by an active set of knots.

    min  1/2 Σ_b s_b (ξ_b - y_b)²   over ξ convex in the points v_b

ξ is the broken line through its knots, the positions where its slope may rise. With the knots held the problem is least squares
with a tridiagonal matrix; knots whose slope would fall are let go on the way there, and knots are taken up where raising the
line to the right of v_j pays, that is where d_j = Σ_b s_b (ξ_b - y_b) (v_b - v_j)⁺ is negative. When none is, ξ is optimal. This
is the support reduction algorithm (Groeneboom, Jongbloed and Wellner 2008), taking up one knot of every negative run at once.

O(C) a pivot, on the host: the sequences have one number a level, few enough that tensor operations would cost more than the work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROUNDING = 1e-12  # relative size below which a kink or a derivative is rounding
_PIVOTS_PER_LEVEL = 8  # far more than ever seen; beyond it the feasible sequence at hand is returned


def kinks(xi: Array, points: Array) -> Array:
    """Rises of the slope at the inner points, (C - 2,) for (C,) values at (C,) points."""
    return np.diff(np.diff(xi) / np.diff(points))


def project(target: Array, weights: Array, points: Array, start: Array) -> Array:
    """The convex sequence nearest to ``target`` in the norm that ``weights`` define.

    Args:
        target: (C,) y above, finite.
        weights: (C,) s above, positive.
        points: (C,) v above, strictly increasing.
        start: (C,) a convex sequence to start from; its kinks are the first knots.
    """
    xi = start.copy()
    rises = kinks(xi, points)
    slope_scale = _largest(np.diff(target) / np.diff(points))
    knots = {int(j) + 1 for j in np.flatnonzero(rises > _ROUNDING * max(slope_scale, _largest(np.diff(xi))))}
    takes_one = False
    for _ in range(_PIVOTS_PER_LEVEL * len(points)):
        fitted = _descend(xi, target, weights, points, knots)
        if takes_one and not np.any(np.abs(fitted - xi) > _ROUNDING * _largest(fitted)):
            return fitted
        takes_one = not np.any(np.abs(fitted - xi) > _ROUNDING * _largest(fitted)) and takes_one is False and bool(_)
        xi = fitted
        entering = _entering(xi, target, weights, points, knots)
        if not len(entering):
            return xi
        knots.update(int(j) for j in (entering[:1] if takes_one else entering))
    return xi


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0.0))


def _entering(xi: Array, target: Array, weights: Array, points: Array, knots: set[int]) -> NDArray[np.int64]:
    """Where a knot pays, the best of every negative run of d, the best of all first; empty at the optimum."""
    pull = weights * (xi - target)
    # d_j by two suffix sums: Σ_{b > j} pull_b v_b - v_j Σ_{b > j} pull_b, with positions from v_j on for accuracy.
    right = np.cumsum(pull[::-1])[::-1]
    derivative = np.zeros(len(points))
    derivative[:-1] = np.cumsum((right[1:] * np.diff(points))[::-1])[::-1]
    floor = -1e-11 * np.cumsum((np.cumsum(np.abs(pull)[::-1])[::-1][1:] * np.diff(points))[::-1])[::-1]
    inner = derivative[1:-1]
    inner[np.array(sorted(knots), dtype=np.int64) - 1] = 0.0
    negative = inner < np.minimum(floor[1:], -1e-300)
    if not negative.any():
        return np.empty(0, np.int64)
    run = np.cumsum(np.diff(negative, prepend=False) & negative)
    best: dict[int, int] = {}
    for j in np.flatnonzero(negative):
        r = int(run[j])
        if r not in best or inner[j] < inner[best[r]]:
            best[r] = int(j)
    found = np.array(list(best.values()))
    return found[np.argsort(inner[found])] + 1


def _descend(xi: Array, target: Array, weights: Array, points: Array, knots: set[int]) -> Array:
    """From ``xi`` to the best fit on these knots, letting go of the knots that the way there flattens."""
    while True:
        order = np.array([0, *sorted(knots), len(points) - 1])
        fitted = _fit(target, weights, points, order)
        inner = order[1:-1] - 1
        before, after = kinks(xi, points)[inner], kinks(fitted, points)[inner]
        falling = after < 0
        if not falling.any():
            return fitted
        share = np.where(falling, np.maximum(before, 0.0) / np.where(falling, np.maximum(before, 0.0) - after, 1.0), np.inf)
        step = share.min()
        xi = xi + step * (fitted - xi)
        knots.difference_update(int(j) for j in order[1:-1][share <= step])


def _fit(target: Array, weights: Array, points: Array, order: NDArray[np.int64]) -> Array:
    """Weighted least squares by the broken lines with knots ``order``, in the basis of their values at the knots."""
    piece = np.repeat(np.arange(len(order) - 1), np.diff(order))
    piece = np.append(piece, len(order) - 2)
    left, right = points[order[piece]], points[order[piece + 1]]
    share = (right - points) / (right - left)
    pieces = len(order) - 1
    diagonal, side = np.zeros(len(order)), np.zeros(len(order))
    diagonal[:-1] += np.bincount(piece, weights * share * share, pieces)
    diagonal[1:] += np.bincount(piece, weights * (1 - share) ** 2, pieces)
    side[:-1] += np.bincount(piece, weights * target * share, pieces)
    side[1:] += np.bincount(piece, weights * target * (1 - share), pieces)
    beside = np.bincount(piece, weights * share * (1 - share), pieces)
    at_knots = _solve_tridiagonal(diagonal.tolist(), beside.tolist(), side.tolist())
    return share * at_knots[piece] + (1 - share) * at_knots[piece + 1]


def _solve_tridiagonal(diagonal: list[float], beside: list[float], side: list[float]) -> Array:
    """Solve a symmetric positive definite tridiagonal system by elimination; overwrites its arguments."""
    for i in range(1, len(diagonal)):
        factor = beside[i - 1] / diagonal[i - 1]
        diagonal[i] -= factor * beside[i - 1]
        side[i] -= factor * side[i - 1]
    side[-1] /= diagonal[-1]
    for i in range(len(diagonal) - 2, -1, -1):
        side[i] = (side[i] - beside[i] * side[i + 1]) / diagonal[i]
    return np.array(side)
