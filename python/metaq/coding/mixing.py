"""Adaptive binary coding with mixed predictions from neighbouring symbols: the smallest files."""

from collections.abc import Sequence

from metaq import _native
from metaq.coding.base import NativeCoder, Speed, Symbols


class Mixing(NativeCoder):
    """Adaptive binary coding with mixed predictions from neighbouring symbols: the smallest files."""

    name = "mixing"
    identifier = 3
    summary = "the smallest files"
    speed = Speed.SLOW
    learns_dependent_symbols = True
    plane_coders = ("mixing", "rans")  # rANS often takes less for bytes, whose values are no magnitudes

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.mixing_encode(blocks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.mixing_decode(data, blocks)
