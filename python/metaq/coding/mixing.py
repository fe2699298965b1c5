"""Adaptive binary coding with mixed predictions from neighbouring symbols: the smallest files."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Symbols


class Mixing(NativeCoder):
    """Adaptive binary coding with mixed predictions from neighbouring symbols: the smallest files."""

    name = "mixing"
    identifier = 3

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.mixing_encode(blocks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.mixing_decode(data, blocks)
