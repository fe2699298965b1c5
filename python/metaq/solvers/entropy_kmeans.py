"""k-means in one dimension that pays for bits: entropy-constrained scalar quantization.

For n values w, levels v with c_b members, and the price of a bit,

    min over v and the assignment of  Σ_i (w_i - v_(b_i))^2 + price · Σ_b c_b log2(n / c_b).

With the lengths l_b = log2(n / c_b) fixed, value w takes the level of least ``v_b^2 + price · l_b - 2 w v_b``. These
are lines in w. Their lower envelope is the lower hull of the points ``(v_b, v_b^2 + price · l_b)``, and its bends, half
the hull's slopes, are the boundaries between levels. Levels above the hull get no value and are dropped. With the
assignment fixed the best levels are means, and the best lengths are Shannon's. Both steps are exact, so alternating
them never raises the objective; the optimum found is a local one, since the rate is not convex in the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.solvers import knapsack
from metaq.solvers.kmeans1d import midpoints

_MOST_ITERATIONS = 200
_LEAST_FALL = 1e-9  # relative fall of the objective in one iteration that makes another follow


@dataclass(frozen=True)
class EntropyClustering:
    """Levels, float64 (k,), increasing; the boundaries between them, (k - 1,); and the value of the objective."""

    levels: Tensor
    boundaries: Tensor
    objective: float


def entropy_kmeans(values: Tensor, start: Tensor, price: float) -> EntropyClustering:
    """Alternate both steps from ``start`` until the objective falls no more.

    Args:
        values: float64 (n,), finite, at least one, on the CPU.
        start: float64 (k,), strictly increasing: the first levels, their members the values nearest to them.
        price: of one bit, in units of the squared values, at least 0.
    """
    centre = values.mean()
    ordered = values.sort().values - centre
    sums = torch.cat([torch.zeros(2, 1, dtype=torch.float64), torch.stack([ordered, ordered**2]).cumsum(1)], dim=1)
    boundaries = midpoints(start) - centre
    best = EntropyClustering(start, boundaries + centre, math.inf)
    for _ in range(_MOST_ITERATIONS):
        levels, lengths, objective = _fit(ordered, sums, boundaries, price)
        if not best.objective - objective > _LEAST_FALL * abs(objective):
            break
        boundaries = _drop_empty(ordered, boundaries)
        best = EntropyClustering(levels + centre, boundaries + centre, objective)
        boundaries = _envelope(levels, lengths, price)
    return best


def _fit(ordered: Tensor, sums: Tensor, boundaries: Tensor, price: float) -> tuple[Tensor, Tensor, float]:
    """The best levels and lengths for given boundaries, and the objective with them; empty levels are left out."""
    cuts = torch.searchsorted(ordered, boundaries, right=True)
    ends = torch.cat([torch.tensor([0]), cuts, torch.tensor([len(ordered)])])
    counts = ends.diff().to(torch.float64)
    (first, second), counts = sums[:, ends].diff(dim=1)[:, counts > 0], counts[counts > 0]
    lengths = -(counts / len(ordered)).log2()
    objective = float((second - first**2 / counts).sum() + price * (counts * lengths).sum())
    return first / counts, lengths, objective


def _drop_empty(ordered: Tensor, boundaries: Tensor) -> Tensor:
    """The boundaries without those that no value, or nothing but values on the same side, separates."""
    cuts = torch.searchsorted(ordered, boundaries, right=True)
    inside = (cuts > 0) & (cuts < len(ordered))
    inside[1:] &= cuts.diff() > 0
    return boundaries[inside]


def _envelope(levels: Tensor, lengths: Tensor, price: float) -> Tensor:
    """Boundaries between the levels that any value would take, given the lengths."""
    if len(levels) < 2:
        return levels[:0]
    hull = knapsack.hull((levels**2 + price * lengths)[None], levels)
    return hull.slope[0][torch.cat([torch.tensor([True]), hull.left[0].diff() > 0])] / 2
