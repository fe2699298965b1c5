"""The best scale of a fixed codebook, exactly.

For n weights w and levels c that are given up to a common factor,

    min over a > 0 of  Σ_i min_b (w_i - a c_b)^2.

For a given assignment of levels to weights, ``c_i`` the level of weight i, the best scale is ``Σ w_i c_i / Σ c_i^2``,
and it lowers the error from ``Σ w_i^2`` by ``(Σ w_i c_i)^2 / Σ c_i^2``. Assignments only change where a weight is half
way between two scaled levels, so running through these scales from large to small visits all assignments that any
scale has, and the best of them is the global optimum. With c = {-1, 1} it is a = mean |w|; with c = {-1, 0, 1} the
largest k weights are not zero, ``k = argmax (1/√k) Σ_(i <= k) |w_i|``, and a is their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metaq.solvers.kmeans1d import midpoints


def best_scale(weights: Tensor, codebook: Tensor) -> float:
    """The scale a of the problem above; 0 where no scale is better than weights that are all 0.

    O(m log m) for m = n times the number of levels on one side of zero, in time and in memory.

    Args:
        weights: float64 (n,), finite.
        codebook: float64 (C,), finite and strictly increasing.
    """
    middles = midpoints(codebook)
    # Under an infinite scale every weight is at the level next to zero, on its own side if there are two.
    nearest = torch.where(weights > 0, (middles <= 0).sum(), (middles < 0).sum())
    levels = codebook[nearest]
    crossings = [_crossings(weights[weights > 0], codebook, middles > 0)]
    crossings.append(_crossings(-weights[weights < 0], -codebook.flip(0), -middles.flip(0) > 0))
    scales, products, squares = (torch.cat(part) for part in zip(*crossings, strict=True))
    order = scales.argsort(descending=True)
    product = torch.cat([(weights * levels).sum()[None], products[order]]).cumsum(0).clamp_(min=0)
    square = torch.cat([levels.square().sum()[None], squares[order]]).cumsum(0)
    gains = torch.where(square > 0, product.square() / square, 0.0)
    best = gains.argmax()
    return float(product[best] / square[best]) if gains[best] > 0 else 0.0


def _crossings(weights: Tensor, codebook: Tensor, is_above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For positive weights: the scales at which each moves on to its next level, and how the two sums then change."""
    lower, upper = codebook[:-1][is_above], codebook[1:][is_above]
    scales = weights[:, None] / (lower + (upper - lower) / 2)
    products = weights[:, None] * (upper - lower)
    squares = (upper.square() - lower.square()).expand_as(scales)
    return scales.reshape(-1), products.reshape(-1), squares.reshape(-1)
