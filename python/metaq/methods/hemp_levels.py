"""HEMP's levels as files hold them: shortened, and without those that no symbol needs."""

from __future__ import annotations

import torch
from torch import Tensor

from metaq.codebook import TableCodebook, short_step
from metaq.methods.training import Ranks


def shortened(levels: Tensor) -> Tensor:
    """Increasing levels as float32, with 8 significant bits where that keeps them apart: they take room in the file."""
    short = levels.to(torch.bfloat16).to(torch.float32)
    return short if bool((short.diff() > 0).all()) else levels.to(torch.float32)


def symbol_range(symbols: Tensor, ranks: Ranks) -> tuple[int, int]:
    """The least symbol of a parameter and the greatest, 0 being among them, over all its shards."""
    ends = (symbols.new_zeros(1) if not symbols.numel() else symbols).aminmax()
    least, greatest = ranks.max(torch.stack([-ends.min, ends.max])[None].clamp(min=0))[0].tolist()
    return -least, greatest


def trimmed(table: TableCodebook, least: int, greatest: int) -> TableCodebook:
    """The table without the levels beyond those of these symbols, among which is 0; symbols stay as they are."""
    first, last = least + table.origin, greatest + table.origin
    return TableCodebook(table.levels[first : last + 1], table.origin - first)


def multiples(weights: Tensor, count: int, reach: float = 1.0) -> Tensor:
    """Zero, at position ``count // 2``, and multiples of one step around it that cover the weights, ``reach`` times.

    Args:
        weights: any shape, at least one.
        count: C, at least 2.
        reach: how far they go, as a multiple of the largest magnitude.

    Returns:
        float32 (C,), strictly increasing.
    """
    least, greatest = (float(value) for value in weights.detach().aminmax())
    below = count // 2
    above = count - 1 - below
    step = short_step(reach * max(-least / below, greatest / above if above else 0.0, 0.0))
    return multiples_of(step, count, weights.device)


def multiples_of(step: float, count: int, device: torch.device) -> Tensor:
    """So many multiples of a step, zero at position ``count // 2``: float32 (C,)."""
    below = count // 2
    return torch.arange(-below, count - below, dtype=torch.float32, device=device) * step
