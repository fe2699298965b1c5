"""HEMP's terms of order 1 where parameters are in shards: as `metaq.methods.hemp_terms`, with sums over all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metaq.methods.hemp_terms import Weighting, nearest_level
from metaq.methods.training import Ranks
from metaq.solvers.tuple_entropy import LEAST_MASS, locate


class LayersInShards:
    """Shards of tensors and the tensors' levels, ready for `add_gradient`.

    Args:
        tensors: the local shards, which may be empty.
        levels: for each tensor its levels, increasing, (C,) with a C of its own.
        ranks: of the tensors.
    """

    def __init__(self, tensors: Sequence[Tensor], levels: Sequence[Tensor], ranks: Ranks) -> None:
        self.tensors = [tensor.detach() for tensor in tensors]
        self.levels = [table.to(tensor) for table, tensor in zip(levels, self.tensors, strict=True)]
        self.ranks = ranks
        self.base = max(map(len, levels))
        sizes = torch.tensor([tensor.numel() for tensor in self.tensors])
        self.count = int(ranks.sum(sizes).sum())

    def add_gradient(self, gradients: Sequence[Tensor], weighting: Weighting) -> tuple[float, float]:
        """Add the terms' gradient to the loss's, in place; returns H_1 in bits a weight, and E."""
        columns = list(zip(self.tensors, self.levels, strict=True))
        located = [locate(tensor.reshape(-1), table) for tensor, table in columns]
        masses = self._masses(located)
        logs = masses.clamp(min=LEAST_MASS).log2()
        bits = math.log2(self.count) - float(masses @ logs) / self.count
        errors = [tensor - nearest_level(tensor, table) for tensor, table in columns]
        error = self._error(errors)
        factor = weighting.error / (self.count * error) if error else 0.0
        greatest = self._greatest(gradients) if weighting.insensitivity else [0.0] * len(gradients)
        for gradient, part, (cells, _), column, most in zip(gradients, errors, located, columns, greatest, strict=True):
            term = weighting.entropy / self.count * _slopes(logs, cells, *column) + factor * part
            gradient.add_((1 - gradient.abs() / (most or math.inf)) * term)
        return bits, error

    def _masses(self, located: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """P of every level, over all tensors: float64 (N,)."""
        rows = torch.zeros(len(located), self.base, dtype=torch.float64, device=self.tensors[0].device)
        for row, (cells, shares) in zip(rows, located, strict=True):
            above = shares.to(torch.float64)
            row.index_add_(0, cells, 1 - above)
            row.index_add_(0, (cells + 1).clamp_(max=self.base - 1), above)
        return self.ranks.sum(rows).sum(dim=0)

    def _error(self, errors: Sequence[Tensor]) -> float:
        squares = torch.stack([part.to(torch.float64).square().sum() for part in errors])
        return math.sqrt(float(self.ranks.sum(squares).sum()) / self.count)

    def _greatest(self, gradients: Sequence[Tensor]) -> list[float]:
        zero = gradients[0].new_zeros(1)
        found: list[float] = self.ranks.max(
            torch.stack([torch.cat([g.abs().reshape(-1), zero]).max() for g in gradients])
        ).tolist()
        return found


def _slopes(logs: Tensor, cells: Tensor, tensor: Tensor, levels: Tensor) -> Tensor:
    """∂(J H_1)/∂w of a tensor's weights, in its shape; 0 beyond the outermost levels."""
    if len(levels) == 1:
        return torch.zeros_like(tensor)
    steps = ((logs[:-1] - logs[1:])[: len(levels) - 1]).to(tensor) / levels.diff()
    is_inside = (tensor >= levels[0]) & (tensor <= levels[-1])
    return steps[cells].reshape(tensor.shape) * is_inside
