"""Entropy of runs of quantized weights, as a differentiable function of the weights (HEMP, Tartaglione et al. 2021).

Notation, after the paper, whose equation numbers these are: w_i the weights, r(k) the N levels of a layer, n the order,
ξ a tuple of n level positions. A layer's weights, flattened, are cut into tuples w_j of n weights each; weights at a
layer's end that do not fill a tuple are left out. All layers together have J tuples, which share one histogram.

    p(w -> q-) = 1 - (w - r(q-)) / Δ,   p(w -> q+) = (w - r(q-)) / Δ,   Δ = r(q+) - r(q-)              (7)
    P(ξ) = Σ_j Π_m p(w_jm -> ξ_m),      H_n = Σ_ξ P(ξ)/J · (log2 J - log2 P(ξ))  bits a tuple           (8)
    ∂H_n/∂w_jm = 1/(J Δ_jm) · Σ_{ξ_-m} [ Π_{m'≠m} p(w_jm' -> ξ_m') ] · log2 ( P(q-, ξ_-m) / P(q+, ξ_-m) )

q- and q+ are the levels on either side of a weight; one beyond the outermost level is at that level, and the derivative
there is 0. The sum over ξ_-m has 2^(n-1) terms: at fixed P the entropy is the multilinear interpolation of -log2 P at
the corners of the cell that a tuple lies in, and this is its derivative. The printed gradient, (17), lacks the bracket.

Everything here works for any order, device and floating point dtype; `metaq.methods.hemp_terms` has a faster kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from metaq.errors import InputError

DENSE_CELLS = 1 << 22  # the largest histogram that is one array; larger ones hold only the cells that are touched
LEAST_MASS = 1e-12  # of a cell in a logarithm: one that nothing touches has a long code, not an infinite one
_MOST_CELLS = 1 << 62


class Gradient(Enum):
    """Which gradient of H_n: the exact one, or (17) as printed, which is the same only for n = 1."""

    EXACT = "exact"
    PRINTED = "printed"


class Tuples(NamedTuple):
    """J tuples of all layers: for each weight its cell, the position of q-, and p(w -> q+).

    ``cells``: int64 (J, n). ``shares``: floating (J, n), differentiable. ``base``: N, of the layer with most levels.
    """

    cells: Tensor
    shares: Tensor
    base: int


def locate(weights: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Cells, int64, and shares of the upper level, (7), of weights among increasing levels, (C,)."""
    if len(levels) == 1:
        return torch.zeros_like(weights, dtype=torch.int64), weights * 0
    cells = torch.searchsorted(levels[1:-1].contiguous(), weights.detach(), right=True)
    below = levels[cells]
    return cells, ((weights - below) / (levels[cells + 1] - below)).clamp(0, 1)


def histogram_base(levels: Sequence[Tensor], order: int, offsets: Sequence[int] = ()) -> int:
    """N, the positions that layers have together: the histogram has N^order cells.

    Raises:
        InputError: an order below 1, or so high that cells cannot be numbered.
    """
    base = max([2, *(len(table) + offset for table, offset in zip(levels, offsets or [0] * len(levels), strict=True))])
    if order < 1 or base**order > _MOST_CELLS:
        raise InputError(f"order: expected at least 1, and N^order at most 2^62 for N = {base} levels, found {order}")
    return base


def tuples(weights: Sequence[Tensor], levels: Sequence[Tensor], order: int, offsets: Sequence[int] = ()) -> Tuples:
    """The tuples of some layers, each with its own levels, whose positions begin at 0, or at the layer's offset.

    Raises:
        InputError: an order below 1, or so high that cells cannot be numbered.
    """
    base = histogram_base(levels, order, offsets)
    located = [locate(tensor.reshape(-1), table.to(tensor)) for tensor, table in zip(weights, levels, strict=True)]
    starts = offsets or [0] * len(levels)
    cells = torch.cat([_runs(cells + start, order) for (cells, _), start in zip(located, starts, strict=True)])
    return Tuples(cells, torch.cat([_runs(shares, order) for _, shares in located]), base)


def value(found: Tuples) -> Tensor:
    """H_n of (8) in bits a tuple, a differentiable scalar; 0 where there are no tuples."""
    keys, probabilities = _corners(found)
    return _entropy(_histogram(keys, probabilities, found)[1], len(found.cells))


def value_and_gradient(found: Tuples, rule: Gradient = Gradient.EXACT) -> tuple[Tensor, Tensor]:
    """H_n in bits a tuple, and its gradient with respect to the shares, (J, n), without automatic differentiation."""
    with torch.no_grad():
        keys, probabilities = _corners(found)
        positions, masses = _histogram(keys, probabilities, found)
        logs = masses.clamp(min=LEAST_MASS).log2()[positions].to(found.shares)
        return _entropy(masses, len(found.cells)), _share_gradient(logs, found.shares, rule)


def weight_gradients(share_gradient: Tensor, weights: Sequence[Tensor], levels: Sequence[Tensor]) -> list[Tensor]:
    """The gradient with respect to each layer's weights, in its shape, from that with respect to the shares, (J, n)."""
    rows = share_gradient.split([tensor.numel() // share_gradient.shape[1] for tensor in weights])
    gradients = []
    for tensor, table, part in zip(weights, levels, rows, strict=True):
        gradient = torch.zeros_like(tensor, requires_grad=False).reshape(-1)
        if len(table) > 1:
            points, flat = table.to(tensor), tensor.detach().reshape(-1)[: part.numel()]
            spacing = points.diff()[torch.searchsorted(points[1:-1].contiguous(), flat, right=True)]
            is_inside = (flat >= points[0]) & (flat <= points[-1])
            gradient[: part.numel()] = part.reshape(-1) / spacing * is_inside
        gradients.append(gradient.reshape(tensor.shape))
    return gradients


def softmax_value(weights: Sequence[Tensor], levels: Sequence[Tensor], order: int) -> Tensor:
    """H_n in bits a tuple under the full softmax (6), ``p(w -> k) ∝ exp(-|w - r(k)|)``: N^n cells for every tuple.

    A differentiable reference for small cases; (7) is what training uses. All layers have as many levels.
    """
    masses, count = torch.zeros((), dtype=torch.float64), 0
    for tensor, table in zip(weights, levels, strict=True):
        flat = tensor.reshape(-1)
        bins = torch.softmax(-(flat[:, None] - table.to(flat)).abs(), dim=1)
        bins = bins[: len(flat) // order * order].reshape(-1, order, len(table))
        joint = bins[:, 0]
        for position in range(1, order):
            joint = (joint[:, :, None] * bins[:, position, None, :]).flatten(1)
        masses, count = masses + joint.sum(dim=0).to(torch.float64), count + len(joint)
    return _entropy(masses, count)


def _runs(flat: Tensor, order: int) -> Tensor:
    return flat[: len(flat) // order * order].reshape(-1, order)


def _corners(found: Tuples) -> tuple[Tensor, Tensor]:
    """Numbers of the 2^n cells that each tuple touches, int64 (J, 2^n), and its probability in each."""
    keys = found.cells.new_zeros(len(found.cells), 1)
    probabilities = found.shares.new_ones(len(found.cells), 1)
    for cell, share in zip(found.cells.unbind(1), found.shares.unbind(1), strict=True):
        sides = torch.stack([cell, cell + 1], dim=1)
        keys = (keys[:, :, None] * found.base + sides[:, None, :]).flatten(1)
        chances = torch.stack([1 - share, share], dim=1)
        probabilities = (probabilities[:, :, None] * chances[:, None, :]).flatten(1)
    return keys, probabilities


def _histogram(keys: Tensor, probabilities: Tensor, found: Tuples) -> tuple[Tensor, Tensor]:
    """Where each key's cell lies in the histogram, like ``keys``, and the histogram P, float64."""
    cells = found.base ** found.cells.shape[1]
    positions = keys
    if cells > DENSE_CELLS:
        touched, positions = torch.unique(keys, return_inverse=True)
        cells = len(touched)
    masses = torch.zeros(cells, dtype=torch.float64, device=keys.device)
    return positions, masses.index_add(0, positions.reshape(-1), probabilities.reshape(-1).to(torch.float64))


def _entropy(masses: Tensor, count: int) -> Tensor:
    if count == 0:
        return masses.sum()
    filled = masses[masses > 0]
    return torch.tensor(float(count), dtype=torch.float64).log2() - (filled * filled.log2()).sum() / count


def _share_gradient(logs: Tensor, shares: Tensor, rule: Gradient) -> Tensor:
    """∂H_n/∂share, (J, n): each axis of the corners' log2 P differenced, the others contracted with the bracket."""
    count, order = shares.shape
    columns = []
    for axis in range(order):
        left = logs
        for share in shares.unbind(1)[:axis]:
            left = _contracted(left, share, rule)
        rest = left.reshape(count, 2, left.shape[1] // 2)
        rest = rest[:, 0] - rest[:, 1]
        for share in shares.unbind(1)[axis + 1 :]:
            rest = _contracted(rest, share, rule)
        columns.append(rest[:, 0])
    return torch.stack(columns, dim=1) / max(1, count)


def _contracted(corners: Tensor, share: Tensor, rule: Gradient) -> Tensor:
    """The first axis of corners (J, 2^k) summed, each side with its probability, or as printed with 1."""
    halves = corners.reshape(len(corners), 2, corners.shape[1] // 2)
    if rule is Gradient.PRINTED:
        return halves.sum(dim=1)
    return torch.lerp(halves[:, 0], halves[:, 1], share[:, None])
