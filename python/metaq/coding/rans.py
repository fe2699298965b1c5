"""Interleaved rANS with tables shared by rows of like statistics: the fastest to decode."""

from collections.abc import Sequence

import numpy as np

from metaq import _native
from metaq.coding.base import NativeCoder, Shape, Speed, Symbols

# A step, None and 0; or any number, increasing float32 levels and the origin among them.
ValueCodebook = tuple[float, np.ndarray | None, int]


class Rans(NativeCoder):
    """Interleaved rANS with tables shared by rows of like statistics: the fastest to decode."""

    name = "rans"
    identifier = 7
    summary = "the fastest to decode"
    speed = Speed.FAST

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return _native.rans_encode(blocks)

    def decode_values(
        self,
        data: bytes | memoryview,
        shapes: Sequence[Shape],
        outputs: Sequence[np.ndarray],
        codebooks: Sequence[ValueCodebook],
    ) -> None:
        """Decodes straight to what symbols stand for; symbols are never made.

        Args:
            outputs: for each block as many elements in one dimension, which are filled: int32 and int8 with the symbols
                themselves; float32, float16 and uint16 (the bits of bfloat16) with step * symbol or
                levels[symbol + origin] of the block's codebook, in float32, rounded to nearest even.

        Raises FormatError like `decode`, and for symbols that stand for nothing.
        """
        self._check_count(data, shapes)
        with self._naming(shapes):
            _native.rans_decode_values(data, shapes, outputs, codebooks)

    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None:
        _native.rans_decode(data, blocks)
