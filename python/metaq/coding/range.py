"""Static range coding, one table per block: the zero-order entropy and a small table."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Shape, Symbols


class Range(NativeCoder):
    """Static range coding, one table per block: the zero-order entropy and a small table."""

    name = "range"
    identifier = 2

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.range_encode(blocks)

    def _decode_native(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> list[Symbols]:
        return _native.range_decode(data, shapes)
