"""What every coder is: a name, its byte in the file, symbols to bytes and back, and what it is good at."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metaq.errors import FormatError, InputError

Symbols = NDArray[np.int32]
ByteSymbols = NDArray[np.int8]
Shape = tuple[int, int, int]

# Symbols lie strictly between -SYMBOL_LIMIT and SYMBOL_LIMIT.
SYMBOL_LIMIT = 1 << 30
# No stream stands for more, so a small file cannot ask for unbounded memory.
SYMBOLS_PER_BYTE = 1 << 19
# A chunk is large enough for a coder to have learned, small enough to spread over threads. On 23 million weights at
# three bits (benchmarks/results/chunks.json) the mixing coder takes 0.9 % more in chunks of 2^20 and 0.7 % less in
# chunks of 2^24, which leave most threads idle; rANS differs by 0.1 % at most from 2^18 on.
CHUNK_SYMBOLS = 1 << 22


class Speed(Enum):
    """How many symbols a coder decodes in a second on one thread, to an order of magnitude."""

    SLOW = "millions"
    MEDIUM = "tens of millions"
    FAST = "hundreds of millions"


class Coder(ABC):
    """Codes blocks of integers, each an array of rows x channels x kernel, without loss.

    A subclass implements `_encode` and `_decode`; what goes in and out of them is checked here. All that the rest of
    the library knows of a coder is said by its attributes.

    Attributes:
        name: what users type.
        identifier: the byte in the file.
        summary: a few words, which completion in the shell shows.
        speed: of decoding.
        is_native: whether decoder.hpp decodes it, and with it programs without Python.
        learns_dependent_symbols: whether it takes less for the symbols of a trellis than for others.
        plane_coders: names of the coders to try on byte planes in its place, in order.
    """

    name: ClassVar[str]
    identifier: ClassVar[int]
    summary: ClassVar[str]
    speed: ClassVar[Speed]
    is_native: ClassVar[bool] = False
    learns_dependent_symbols: ClassVar[bool] = False
    plane_coders: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "plane_coders" not in cls.__dict__ and hasattr(cls, "name"):
            cls.plane_coders = (cls.name,)

    def check_installed(self) -> None:
        """Raise an InputError if a package that the coder needs is not there."""

    def chunk_symbols(self, symbols: int) -> int:
        """How many symbols a chunk should have at most, of a sequence of so many."""
        return CHUNK_SYMBOLS

    def encode(self, blocks: Sequence[Symbols]) -> bytes:
        """Encodes blocks: int32 arrays of three dimensions, their values strictly between -2^30 and 2^30.

        The same blocks always give the same bytes. Shapes are not part of them.
        Raises InputError for an array of another dtype, dimension or range.
        """
        return self._encode([_checked(block, index) for index, block in enumerate(blocks)])

    def encode_bytes(self, blocks: Sequence[ByteSymbols]) -> bytes:
        """Encodes int8 blocks of three dimensions, such as byte planes, as `encode` does the same numbers as int32."""
        return self.encode([block.astype(np.int32) for block in blocks])

    def decode(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> list[Symbols]:
        """Decodes what `encode` made of blocks of these shapes, exactly; returns new int32 arrays.

        Raises FormatError if the data is truncated, has bytes left over, holds what no encoder writes, or is too short
        to stand for blocks of these shapes. A damaged stream may also decode to other symbols: checksums are the
        container's.
        """
        count = sum(prod(shape) for shape in shapes)
        if count > len(data) * SYMBOLS_PER_BYTE:
            raise FormatError(f"{self.name} stream: expected {count} symbols, found only {len(data)} bytes")
        return self._decode(data, shapes)

    @abstractmethod
    def _encode(self, blocks: Sequence[Symbols]) -> bytes: ...

    @abstractmethod
    def _decode(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> list[Symbols]: ...


class NativeCoder(Coder):
    """A coder whose kernels are C++; they report a bad stream as a ValueError of one word."""

    is_native = True

    def _decode(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> list[Symbols]:
        blocks = [np.empty(shape, np.int32) for shape in shapes]
        try:
            self._fill(data, blocks)
        except ValueError as error:
            raise FormatError(
                f"{self.name} stream: expected symbols of {len(shapes)} blocks, found a {error} stream"
            ) from error
        return blocks

    @abstractmethod
    def _fill(self, data: bytes | memoryview, blocks: Sequence[Symbols]) -> None: ...


def _checked(block: Symbols, index: int) -> Symbols:
    if block.dtype != np.int32 or block.ndim != 3:
        raise InputError(
            f"block {index}: expected int32 of three dimensions, found {block.dtype} of shape {block.shape}"
        )
    if block.size and not (block.min() > -SYMBOL_LIMIT and block.max() < SYMBOL_LIMIT):
        raise InputError(
            f"block {index}: expected symbols strictly between -2^30 and 2^30, found {block.min()} to {block.max()}"
        )
    return np.require(block, requirements=["C", "A"])
