"""Lloyd-Max quantization in one dimension: levels that are the means of the weights nearest to them.

    min over r  Σ_i min_k (w_i - r_k)²,    stationary where  r_k = mean { w_i : k is the level nearest to w_i }

The weights are sorted once. Then an iteration takes O(C log n) for C levels and n weights: every cell is a run of the
sorted weights, and its mean a difference of two running sums. Lloyd's iteration never raises the error, and stops at a
local minimum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metaq.solvers.kmeans1d import kmeans

_MARGIN = 2.0**-8  # spacing of the levels where all weights are equal, relative to them; its size does not matter


def spread(weights: Tensor, count: int, zero: int | None = None) -> Tensor:
    """Equally spaced levels over the weights' range, where `lloyd_max` may start.

    Args:
        weights: any shape, at least one.
        count: C, at least 1; with ``zero`` at least 2.
        zero: the position of a level that is 0; those below and above are then equally spaced on their own sides.

    Returns:
        float64 (C,), strictly increasing, on the weights' device.
    """
    least, greatest = (float(value) for value in weights.detach().aminmax())
    kind: dict[str, Any] = {"dtype": torch.float64, "device": weights.device}
    if zero is not None:
        below = -least if least < 0 else greatest or 1.0
        above = greatest if greatest > 0 else below
        lower = torch.arange(-zero, 0, **kind) * (below / max(1, zero))
        upper = torch.arange(count - zero, **kind) * (above / max(1, count - zero - 1))
        return torch.cat([lower, upper])
    if greatest - least < _MARGIN * max(abs(least), abs(greatest)) or greatest == least:
        half = _MARGIN * (max(abs(least), abs(greatest)) or 1.0) * count
        least, greatest = least - half, greatest + half
    cell = (greatest - least) / count
    return least + cell * (torch.arange(count, **kind) + 0.5)


def lloyd_max(weights: Tensor, start: Tensor, zero: int | None = None, iterations: int = 100) -> Tensor:
    """Lloyd's iteration from ``start`` until no level moves.

    Args:
        weights: floating point, any shape, finite, at least one.
        start: (C,) levels, strictly increasing.
        zero: the position of a level that stays where it is.
        iterations: the largest number of them.

    Returns:
        float64 (C,), strictly increasing; a level that no weight is nearest to stays where it is.
    """
    ordered = weights.detach().reshape(-1).sort().values.to(torch.float64)
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    levels = start.to(sums)
    for _ in range(iterations):
        inner = torch.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2, right=True)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ordered))])
        counts = edges.diff()
        # Differences of sums lose the smallest weights' digits; a mean is between its members.
        first, last = ordered[edges[:-1].clamp(max=len(ordered) - 1)], ordered[(edges[1:] - 1).clamp(min=0)]
        means = (sums[edges].diff() / counts.clamp(min=1)).maximum(first).minimum(last)
        moved = torch.where(counts > 0, means, levels)
        if zero is not None:
            moved[zero] = levels[zero]
        if torch.equal(moved, levels):
            break
        levels = moved
    return levels


def best_levels(weights: Tensor, count: int, zero: int | None = None) -> Tensor:
    """The levels of least squared error; with ``zero``, `lloyd_max` from the best levels on either side of it.

    Args:
        weights: floating point, any shape, finite, at least one.
        count: C, at least 1; with ``zero`` at least 2.
        zero: the position of a level that is 0.

    Returns:
        float64 (C,), strictly increasing; those of `spread` where, or on the side where, too few weights differ.
    """
    start = spread(weights, count, zero)
    if zero is None:
        levels = kmeans(weights, count).levels
        return levels if len(levels) == count else start
    # On either side zero takes the place of the level that is nearest to it.
    below = kmeans(weights.detach().clamp(max=0), zero + 1).levels[:-1]
    above = kmeans(weights.detach().clamp(min=0), count - zero).levels[1:]
    if len(below) == zero:
        start[:zero] = below
    if len(above) == count - zero - 1:
        start[zero + 1 :] = above
    return lloyd_max(weights, start, zero)
