"""Quadratic programmes over the simplex, solved exactly by an active set.

    min  1/2 p·Qp + e·p   s.t.  Σ_j p_j = 1,  p >= 0

Wolfe's algorithm (1976): a corral of indices with positive p is held at the optimum of its affine hull; the index whose
gradient is least joins it, and indices that the way to the new optimum brings to zero leave it. It stops when no
gradient is below the multiplier ``p·(Qp + e)`` by more than rounding, which proves optimality.

Cuts are often affinely dependent, so that Q is singular on a corral and its optimum not unique. Hence the proximal
point method around it: ``r/2 ‖p - p'‖²`` is added, with p' the last solution and r tiny, until p is optimal without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_RIDGE = 1e-12  # r, relative to Q's mean diagonal
_ROUNDING = 1e-12  # relative to the terms of the multiplier
_NOISE = 1e-15  # relative to Q: the error of its product with p
_PASSES = 30
_PIVOTS_PER_INDEX = 10  # far more than ever seen; beyond it the feasible p at hand is taken


def minimise(quadratic: Array, linear: Array, start: Array | None = None) -> Array:
    """The optimal shares p, (B,), nonnegative with sum 1.

    Args:
        quadratic: (B, B) Q, symmetric and positive semidefinite, possibly singular.
        linear: (B,) e, finite.
        start: (B,) nonnegative shares to start from, of any positive sum; the best vertex unless given.
    """
    diagonal = np.diag(quadratic)
    if start is None:
        shares = np.zeros(len(linear))
        shares[np.argmin(0.5 * diagonal + linear)] = 1.0
    else:
        shares = start / start.sum()
    ridge = _RIDGE * float(diagonal.mean())
    regular = quadratic + ridge * np.eye(len(linear))
    noise = _NOISE * float(diagonal.max())
    for _ in range(_PASSES):
        shares = _pivot(regular, linear - ridge * shares, shares, noise)
        bent = quadratic @ shares
        terms = float(shares @ bent) + float(shares @ np.abs(linear))
        if float((bent + linear).min()) >= float(shares @ (bent + linear)) - _ROUNDING * terms - noise:
            break
    return shares


def _pivot(quadratic: Array, linear: Array, shares: Array, noise: float) -> Array:
    """Wolfe's algorithm from p, for a positive definite Q."""
    shares = _settle(quadratic, linear, shares, shares > 0)
    value = np.inf
    for _ in range(_PIVOTS_PER_INDEX * len(linear)):
        bent = quadratic @ shares
        gradient = bent + linear
        entering = int(np.argmin(gradient))
        slack = _ROUNDING * (float(shares @ bent) + float(shares @ np.abs(linear))) + noise
        present = float(0.5 * shares @ bent + shares @ linear)
        if shares[entering] > 0 or gradient[entering] >= shares @ gradient - slack or present >= value:
            break
        value = present
        corral = shares > 0
        corral[entering] = True
        shares = _settle(quadratic, linear, shares, corral)
    return shares


def _settle(quadratic: Array, linear: Array, shares: Array, corral: NDArray[np.bool_]) -> Array:
    """From p to the optimum of the corral's affine hull, or of what of the corral stays nonnegative on the way."""
    while True:
        members = np.flatnonzero(corral)
        best = _affine_optimum(quadratic[np.ix_(members, members)], linear[members])
        present = shares[members]
        falling = best <= 0
        settled = np.zeros(len(shares))
        if not falling.any():
            settled[members] = best
            settled /= settled.sum()
            return settled
        ratios = np.full(len(members), np.inf)
        ratios[falling] = present[falling] / (present[falling] - best[falling] + 1e-300)
        moved = present + min(1.0, float(ratios.min())) * (best - present)
        moved[ratios <= ratios.min()] = 0.0  # the first to reach zero leaves, whatever rounding says
        settled[members] = np.maximum(moved, 0.0)
        shares = settled / settled.sum()
        corral = shares > 0


def _affine_optimum(quadratic: Array, linear: Array) -> Array:
    """Minimiser of the quadratic over Σ p = 1, sign free; of least norm where Q is singular all the same."""
    size = len(linear)
    scale = float(np.trace(quadratic)) / size or 1.0
    system = np.ones((size + 1, size + 1))
    system[:size, :size] = quadratic / scale
    system[size, size] = 0.0
    side = np.append(-linear / scale, 1.0)
    try:
        return np.asarray(np.linalg.solve(system, side)[:size], np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(system, side, rcond=None)[0][:size])
