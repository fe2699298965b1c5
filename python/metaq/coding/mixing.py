"""Adaptive binary coding with mixed predictions from neighbouring symbols: the smallest files."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Shape, Symbols


class Mixing(NativeCoder):
    """Adaptive binary coding with mixed predictions from neighbouring symbols: the smallest files."""

    name = "mixing"
    identifier = 3

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.mixing_encode(blocks)

    def _decode_native(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> list[Symbols]:
        return _native.mixing_decode(data, shapes)
