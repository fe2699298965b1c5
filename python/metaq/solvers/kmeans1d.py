"""k-means in one dimension, exact and by Lloyd's algorithm.

For n values w and k levels v,

    min over v of  Σ_i min_b (w_i - v_b)^2.

In one dimension the members of a level are an interval of the sorted values. That makes the exact optimum a dynamic
programme, O(k n log n) after sorting, and one iteration of Lloyd's two searches: O(k log n) on prefix sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaq import _native
from metaq.errors import InputError

_MOST_ITERATIONS = 300  # of Lloyd's algorithm; it nearly always stops long before


@dataclass(frozen=True)
class Clustering:
    """Levels and what belongs to them.

    Attributes:
        levels: float64 (k,), strictly increasing; fewer than asked for where there are fewer distinct values.
        indices: int64 in the values' shape, the level of each.
        squared_error: ``Σ_i (w_i - v_(indices_i))^2``.
    """

    levels: Tensor
    indices: Tensor
    squared_error: float


def kmeans(values: Tensor, k: int) -> Clustering:
    """The global optimum: no other k levels have a smaller squared error.

    Memory is 4 k + 56 bytes for each distinct value.

    Args:
        values: any shape, finite, at least one; on any device.
        k: the number of levels, at least 1.

    Raises:
        InputError: no values, values that are not finite, 2^31 distinct ones or more, or k below 1.
    """
    flat = _checked(values, k)
    distinct, counts = torch.unique(flat, return_counts=True)
    k = min(k, len(distinct))
    ends = torch.empty(k, dtype=torch.int64)
    _native.kmeans(distinct.numpy(), counts.to(torch.float64).numpy(), ends.numpy())
    return _around_means(values, flat, torch.bucketize(flat, distinct[ends[:-1] - 1]))


def lloyd(values: Tensor, start: Tensor) -> Clustering:
    """A local optimum: each level the mean of the values nearest to it; never worse than the start.

    A level that loses its last member is left out.

    Args:
        values: any shape, finite, at least one; on any device.
        start: (k,) the first levels, finite, in any order.

    Raises:
        InputError: no values or no levels, or some that are not finite.
    """
    flat = _checked(values, len(start))
    ordered = flat.sort().values
    centre = ordered.mean()
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), (ordered - centre).cumsum(0)])
    levels = torch.unique(start.detach().to("cpu", torch.float64))
    cuts = torch.empty(0, dtype=torch.int64)
    for _ in range(_MOST_ITERATIONS):
        previous, cuts = cuts, torch.searchsorted(ordered, midpoints(levels), right=True)
        if torch.equal(previous, cuts) and len(cuts):
            break
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), cuts, torch.tensor([len(ordered)])])
        sizes = ends.diff()
        levels = torch.unique(centre + (sums[ends].diff() / sizes)[sizes > 0])
    return _around_means(values, flat, torch.bucketize(flat, midpoints(levels)))


def midpoints(levels: Tensor) -> Tensor:
    """Where the nearest level changes: between each two of the increasing ``levels``, (k - 1,)."""
    return levels[:-1] + levels.diff() / 2


def _around_means(values: Tensor, flat: Tensor, indices: Tensor) -> Clustering:
    """The clustering with these members: levels from the values themselves, to the last digit."""
    members = torch.bincount(indices)
    first = flat.mean()  # from here, so that no digits are lost far from zero
    levels = first + torch.bincount(indices, weights=flat - first) / members
    # Without empty levels, and with one for those that rounding has made equal.
    levels, renumbered = torch.unique(levels[members > 0], return_inverse=True)
    indices = renumbered[(members > 0).cumsum(0)[indices] - 1]
    error = float((flat - levels[indices]).square().sum())
    return Clustering(levels.to(values.device), indices.reshape(values.shape).to(values.device), error)


def _checked(values: Tensor, k: int) -> Tensor:
    """The values on the CPU, float64, flat."""
    flat = values.detach().to("cpu", torch.float64).reshape(-1).contiguous()
    if k < 1:
        raise InputError(f"k-means: expected at least 1 level, found {k}")
    if not 1 <= len(flat) < 1 << 31 or not bool(torch.isfinite(flat).all()):
        raise InputError(f"k-means: expected finite values, at least one, found {len(flat)} or others")
    return flat
