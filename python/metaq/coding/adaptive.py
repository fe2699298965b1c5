"""Adaptive rANS: tables chosen by what neighbours let expect; nearly as small as mixing, many times as fast."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Symbols


class Adaptive(NativeCoder):
    """Adaptive rANS: tables chosen by what neighbours let expect; nearly as small as mixing, many times as fast."""

    name = "adaptive"
    identifier = 8

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.adaptive_encode(blocks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.adaptive_decode(data, blocks)
