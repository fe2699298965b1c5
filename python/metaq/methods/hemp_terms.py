"""HEMP's terms R = λ_H H_n + λ_E E and their gradient, added to the loss's; on the CPU by a native kernel.

E = sqrt( 1/‖W‖₀ Σ_l Σ_i (w_li - r_l(q_li))² )                                                      (25)
S_li = 1 - |∂L/∂w_li| / max_j |∂L/∂w_lj|,    ∂J/∂w = ∂L/∂w + S ∂R/∂w                                (27)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaq import _native
from metaq.solvers import tuple_entropy
from metaq.solvers.tuple_entropy import DENSE_CELLS, LEAST_MASS, Gradient
from metaq.tensors import is_plain

_MOST_NATIVE_ORDER = 4
_FEW_LEVELS = 16  # among which a weight's is found sooner by comparing with all than by a search


@dataclass(frozen=True)
class Weighting:
    """How much of each term is added.

    Attributes:
        entropy: factor of H_n's gradient, H_n in bits a tuple.
        error: factor of E's gradient.
        rule: which gradient of H_n.
        insensitivity: whether both are re-weighted by (27).
    """

    entropy: float
    error: float
    rule: Gradient
    insensitivity: bool


class Layers:
    """Tensors and their levels, ready for `add_gradient`.

    Args:
        tensors: floating point, all on one device.
        levels: for each its levels, increasing, (C,) with a C of its own.
        order: n.

    Raises:
        InputError: an order below 1, or so high that cells cannot be numbered.
    """

    def __init__(self, tensors: Sequence[Tensor], levels: Sequence[Tensor], order: int) -> None:
        self.tensors = [tensor.detach() for tensor in tensors]
        self.levels = [table.to(tensor) for table, tensor in zip(levels, self.tensors, strict=True)]
        self.order = order
        self.base = tuple_entropy.histogram_base(self.levels, order)
        self.sizes = [tensor.numel() for tensor in self.tensors]
        self.tuple_count = sum(size // order for size in self.sizes)
        self.is_native = (
            order <= _MOST_NATIVE_ORDER and self.base**order <= DENSE_CELLS and all(map(is_plain, self.tensors))
        )
        if self.is_native:
            self._prepare()

    def add_gradient(self, gradients: Sequence[Tensor], weighting: Weighting) -> tuple[float, float]:
        """Add the terms' gradient to the loss's, in place; returns H_n in bits a tuple, and E."""
        if self.is_native and all(map(is_plain, gradients)):
            return self._add_native(gradients, weighting)
        found = tuple_entropy.tuples(self.tensors, self.levels, self.order)
        bits, shares = tuple_entropy.value_and_gradient(found, weighting.rule)
        entropies = tuple_entropy.weight_gradients(shares, self.tensors, self.levels)
        errors = [
            tensor - nearest_level(tensor, table) for tensor, table in zip(self.tensors, self.levels, strict=True)
        ]
        error = self._error(sum(float(part.to(torch.float64).square().sum()) for part in errors))
        for gradient, entropy, part in zip(gradients, entropies, errors, strict=True):
            term = weighting.entropy * entropy + self._error_factor(error, weighting) * part
            greatest = gradient.abs().max() if weighting.insensitivity else gradient.new_zeros(())
            insensitivity = 1 - gradient.abs() / torch.where(greatest > 0, greatest, torch.inf)
            gradient.add_(insensitivity * term)
        return float(bits), error

    def _prepare(self) -> None:
        table = torch.zeros(2, len(self.levels), self.base)
        for row, levels in enumerate(self.levels):
            table[0, row] = levels[-1]
            table[0, row, : len(levels)] = levels
            table[1, row, : len(levels) - 1] = 1 / levels.diff()
        self._weights = [tensor.numpy() for tensor in self.tensors]
        counts, size = [len(levels) for levels in self.levels], sum(self.sizes)
        self._levels = (table.numpy(), counts, np.empty(size, np.int32), np.empty(size, np.float32), self.order)

    def _add_native(self, gradients: Sequence[Tensor], weighting: Weighting) -> tuple[float, float]:
        masses = torch.zeros(self.base**self.order, dtype=torch.float64)
        squares = _native.count_tuples(self._weights, *self._levels, masses.numpy())
        logs = masses.clamp(min=LEAST_MASS).log2_()
        count = max(1, self.tuple_count)
        bits, error = math.log2(count) - float(masses @ logs) / count, self._error(squares)
        factors = (weighting.entropy / count, self._error_factor(error, weighting))
        flags = (weighting.rule is Gradient.PRINTED, weighting.insensitivity)
        arrays = [gradient.detach().numpy() for gradient in gradients]
        _native.add_tuple_gradient(
            self._weights, arrays, *self._levels, logs.to(torch.float32).numpy(), *factors, *flags
        )
        return bits, error

    def _error(self, squares: float) -> float:
        return math.sqrt(squares / sum(self.sizes))

    def _error_factor(self, error: float, weighting: Weighting) -> float:
        """∂E/∂w = (w - r(q)) / (‖W‖₀ E); where E is 0, so is its subgradient."""
        return weighting.error / (sum(self.sizes) * error) if error else 0.0


def nearest_level(weights: Tensor, levels: Tensor) -> Tensor:
    """The level nearest to each weight, of two equally near the lower."""
    middles = (levels[1:] + levels[:-1]) / 2
    if len(levels) > _FEW_LEVELS:
        return levels[torch.searchsorted(middles, weights.contiguous())]
    positions, is_above = torch.zeros_like(weights), torch.empty_like(weights)
    for middle in middles:
        positions.add_(torch.gt(weights, middle, out=is_above))
    return levels[positions.to(torch.int64)]
