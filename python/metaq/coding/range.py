"""Static range coding, one table per block: the zero-order entropy and a small table."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Speed, Symbols


class Range(NativeCoder):
    """Static range coding, one table per block: the zero-order entropy and a small table."""

    name = "range"
    identifier = 2
    summary = "the zero-order entropy"
    speed = Speed.MEDIUM

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.range_encode(blocks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.range_decode(data, blocks)
