"""Canonical Huffman coding, one code for each block: a baseline."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Speed, Symbols


class Huffman(NativeCoder):
    """Canonical Huffman coding, one code for each block: a baseline."""

    name = "huffman"
    identifier = 1
    summary = "one code for each tensor"
    speed = Speed.FAST

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.huffman_encode(blocks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.huffman_decode(data, blocks)
