"""Quadratic programmes over the simplex, solved exactly by an active set.

    min  1/2 α·Qα + e·α   s.t.  Σ_j α_j = 1,  α >= 0

Wolfe's algorithm (1976): a corral of indices with positive α is held at the optimum of its affine hull; the index whose gradient
is least joins it, and indices that the way to the new optimum brings to zero leave it. It stops when no gradient is below the
multiplier ``α·(Qα + e)`` by more than rounding, which proves optimality. Finite, and quick from a good start, as between the
steps of a bundle. Deviation: a ridge of 1e-13 of Q's mean diagonal, since cuts are often affinely dependent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_RIDGE = 1e-13
_ROUNDING = 1e-12  # relative to the terms of the multiplier
_PIVOTS_PER_INDEX = 10  # far more than ever seen; beyond it the feasible α at hand is returned


def minimise(quadratic: Array, linear: Array, start: Array | None = None) -> Array:
    """The optimal α, (B,), nonnegative with sum 1.

    Args:
        quadratic: (B, B) Q, symmetric and positive semidefinite, possibly singular.
        linear: (B,) e, finite.
        start: (B,) a nonnegative α to start from, of any positive sum; the best vertex unless given.
    """
    size = len(linear)
    diagonal = np.diag(quadratic)
    if start is None:
        alpha = np.zeros(size)
        alpha[np.argmin(0.5 * diagonal + linear)] = 1.0
    else:
        alpha = start / start.sum()
    regular = quadratic + _RIDGE * float(diagonal.mean()) * np.eye(size)
    alpha = _settle(regular, linear, alpha, alpha > 0)
    value = np.inf
    for _ in range(_PIVOTS_PER_INDEX * size):
        bent = regular @ alpha
        gradient = bent + linear
        entering = int(np.argmin(gradient))
        slack = _ROUNDING * (float(alpha @ bent) + float(alpha @ np.abs(linear)))
        present = float(0.5 * alpha @ bent + alpha @ linear)
        if alpha[entering] > 0 or gradient[entering] >= alpha @ gradient - slack or present >= value:
            break
        value = present
        corral = alpha > 0
        corral[entering] = True
        alpha = _settle(regular, linear, alpha, corral)
    return alpha


def _settle(quadratic: Array, linear: Array, alpha: Array, corral: NDArray[np.bool_]) -> Array:
    """From α to the optimum of the corral's affine hull, or of as much of the corral as stays nonnegative on the way."""
    while True:
        members = np.flatnonzero(corral)
        best = _affine_optimum(quadratic[np.ix_(members, members)], linear[members])
        present = alpha[members]
        falling = best <= 0
        settled = np.zeros(len(alpha))
        if not falling.any():
            settled[members] = best
            return settled / settled.sum()
        ratios = np.full(len(members), np.inf)
        ratios[falling] = present[falling] / (present[falling] - best[falling] + 1e-300)
        moved = present + min(1.0, float(ratios.min())) * (best - present)
        moved[ratios <= ratios.min()] = 0.0  # the first to reach zero leaves, whatever rounding says
        settled[members] = np.maximum(moved, 0.0)
        alpha = settled / settled.sum()
        corral = alpha > 0


def _affine_optimum(quadratic: Array, linear: Array) -> Array:
    """argmin of the quadratic over Σ α = 1, sign free; of least norm where Q is singular all the same."""
    size = len(linear)
    scale = float(np.trace(quadratic)) / size or 1.0
    system = np.ones((size + 1, size + 1))
    system[:size, :size] = quadratic / scale
    system[size, size] = 0.0
    side = np.append(-linear / scale, 1.0)
    try:
        return np.asarray(np.linalg.solve(system, side)[:size])
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(system, side, rcond=None)[0][:size])
