"""Sizes as the Deep Compression paper counts them, to compare with files."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor

_LEVEL_BITS = 32


@dataclass(frozen=True)
class PublishedSize:
    """What one parameter takes, in bits. Huffman's tables, names and shapes are not counted, as in the paper.

    Attributes:
        values: Huffman code of the shared values' numbers, fillers included.
        gaps: Huffman code of the gaps between them.
        codebook: the shared values, float32.
        fillers: zeros that stand where a gap is too wide for its bits; a count.
    """

    values: int
    gaps: int
    codebook: int
    fillers: int

    @property
    def total(self) -> int:
        """All bits together."""
        return self.values + self.gaps + self.codebook


def published_size(symbols: Tensor, gap_bits: int = 5) -> PublishedSize:
    """A sparse parameter as values and gaps: each non-zero with its distance, 1 to 2^gap_bits, from the one before.

    Args:
        symbols: integers of any shape, 0 for a pruned weight.
        gap_bits: of an uncoded gap; where one is wider, zeros that are stored like values bridge it.
    """
    flat = symbols.reshape(-1)
    places = torch.nonzero(flat).reshape(-1)
    gaps = torch.cat([torch.tensor([-1]), places]).diff()
    widest = 1 << gap_bits
    bridges = (gaps - 1) // widest
    fillers = int(bridges.sum())
    values = torch.unique(flat[places], return_counts=True)[1].tolist()
    gap_counts = torch.bincount(gaps - bridges * widest, minlength=widest + 1)
    gap_counts[widest] += fillers
    value_bits = huffman_bits([*values, fillers])
    return PublishedSize(value_bits, huffman_bits(gap_counts.tolist()), _LEVEL_BITS * len(values), fillers)


def huffman_bits(counts: list[int]) -> int:
    """What an optimal prefix code of symbols with these counts takes; a single symbol takes a bit each time."""
    nodes = [count for count in counts if count]
    if len(nodes) == 1:
        return nodes[0]
    heapq.heapify(nodes)
    bits = 0
    while len(nodes) > 1:
        joined = heapq.heappop(nodes) + heapq.heappop(nodes)
        bits += joined
        heapq.heappush(nodes, joined)
    return bits
