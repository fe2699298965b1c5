"""Adaptive rANS: tables chosen by what neighbours let expect; nearly as small as mixing, many times as fast."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Speed, Symbols

# It learns fast: two chunks of ResNet-20 take 0.4 % more than one, and are for two threads. Encoding takes some bytes a
# symbol, which bounds chunks from above.
_LEAST_SYMBOLS, _MOST_CHUNKS, _MOST_SYMBOLS = 1 << 17, 8, 1 << 20


class Adaptive(NativeCoder):
    """Adaptive rANS: tables chosen by what neighbours let expect; nearly as small as mixing, many times as fast."""

    name = "adaptive"
    identifier = 8
    summary = "nearly as small as mixing, many times as fast"
    speed = Speed.MEDIUM
    learns_dependent_symbols = True
    plane_coders = ("rans",)

    def chunk_symbols(self, symbols: int) -> int:
        """Chunks of about equal size, a power of two of them, more if need be."""
        chunks = min(1 << (max(1, symbols // _LEAST_SYMBOLS).bit_length() - 1), _MOST_CHUNKS)
        about = symbols // chunks + symbols // 64 + 1  # whole rows do not fill them exactly
        return min(super().chunk_symbols(symbols), _MOST_SYMBOLS, about)

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.adaptive_encode(blocks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.adaptive_decode(data, blocks)
