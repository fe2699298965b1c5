"""Weighted projection onto convex sequences, by an active set of knots.

    min  1/2 Σ_b s_b (ξ_b - y_b)²   over ξ convex in the points v_b

ξ is the broken line through its knots, the positions where its slope may rise. With the knots held the problem is least
squares with a tridiagonal matrix; knots whose slope would fall are let go on the way there, and knots are taken up
where raising the line to the right of v_j pays, that is where d_j = Σ_b s_b (ξ_b - y_b) (v_b - v_j)⁺ is negative. When
none is, ξ is optimal. This is the support reduction algorithm (Groeneboom, Jongbloed and Wellner 2008), taking up one
knot of every negative run at once.

O(C) a pivot, on the host: the sequences have one number a level, few enough that tensor operations would cost more than
the work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROUNDING = 1e-12  # relative size below which a move or a derivative is rounding
_FLAT = 1e-9  # relative size below which a kink of the start is not worth a knot; one that matters comes back
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
    knots = {int(j) + 1 for j in np.flatnonzero(rises > _FLAT * _largest(np.diff(xi) / np.diff(points)))}
    is_stalled = False
    for _ in range(_PIVOTS_PER_LEVEL * len(points)):
        fitted = _descend(xi, target, weights, points, knots)
        has_moved = _largest(fitted - xi) > _ROUNDING * _largest(fitted)
        xi = fitted
        entering = _entering(xi, target, weights, points, knots)
        if not len(entering) or (is_stalled and not has_moved):
            break
        # Several knots at once may only get in each other's way; the best one alone always leads downwards.
        is_stalled = not has_moved
        knots.update(int(j) for j in (entering[:1] if is_stalled else entering))
    return xi


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0.0))


def _entering(xi: Array, target: Array, weights: Array, points: Array, knots: set[int]) -> NDArray[np.int64]:
    """Where a knot pays: the best of every negative run of d, the best of all first; none at the optimum."""
    pull = weights * (xi - target)
    derivative = _beyond(pull, points)[1:-1]
    derivative[np.array(sorted(knots), dtype=np.int64) - 1] = 0.0
    negative = derivative < -_ROUNDING * _beyond(np.abs(pull), points)[1:-1]
    starts = np.flatnonzero(negative & ~np.append(False, negative[:-1]))
    if not len(starts):
        return starts
    depths = np.where(negative, derivative, 0.0)
    best = [start + int(np.argmin(run)) for start, run in zip(starts, np.split(depths, starts)[1:], strict=True)]
    return np.array(sorted(best, key=lambda j: float(depths[j]))) + 1


def _beyond(pull: Array, points: Array) -> Array:
    """Σ_b pull_b (v_b - v_j)⁺ at every j, (C,), by two suffix sums."""
    after = np.cumsum(pull[:0:-1])[::-1]
    return np.append(np.cumsum((after * np.diff(points))[::-1])[::-1], 0.0)


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
        present = np.maximum(before, 0.0)
        share = np.full(len(inner), np.inf)
        share[falling] = present[falling] / (present[falling] - after[falling])
        xi = xi + float(share.min()) * (fitted - xi)
        knots.difference_update(int(j) for j in order[1:-1][share <= share.min()])


def _fit(target: Array, weights: Array, points: Array, order: NDArray[np.int64]) -> Array:
    """Weighted least squares by the broken lines with knots ``order``, in the basis of their values at the knots."""
    pieces = len(order) - 1
    piece = np.append(np.repeat(np.arange(pieces), np.diff(order)), pieces - 1)
    left, right = points[order[piece]], points[order[piece + 1]]
    share = (right - points) / (right - left)
    diagonal, side = np.zeros(len(order)), np.zeros(len(order))
    diagonal[:-1] += np.bincount(piece, weights * share * share, pieces)
    diagonal[1:] += np.bincount(piece, weights * (1 - share) ** 2, pieces)
    side[:-1] += np.bincount(piece, weights * target * share, pieces)
    side[1:] += np.bincount(piece, weights * target * (1 - share), pieces)
    beside = np.bincount(piece, weights * share * (1 - share), pieces)
    at_knots = _solve_tridiagonal(diagonal.tolist(), beside.tolist(), side.tolist())
    fitted: Array = share * at_knots[piece] + (1 - share) * at_knots[piece + 1]
    return fitted


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
