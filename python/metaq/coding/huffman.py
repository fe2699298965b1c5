"""Canonical Huffman coding, one code per block: a baseline, and the fastest to decode."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Symbols


class Huffman(NativeCoder):
    """Canonical Huffman coding, one code per block: a baseline, and the fastest to decode."""

    name = "huffman"
    identifier = 1

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.huffman_encode(blocks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.huffman_decode(data, blocks)
