"""Symbols as plain integers, and the general compressors over those: what everybody has, to compare with.

The plain form: a byte for each block, its width of 1, 2 or 4 bytes a symbol, then all symbols, signed, little-endian.
"""

import lzma
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from metaq.coding.base import SYMBOL_LIMIT, ByteSymbols, Coder, Shape, Speed, Symbols
from metaq.errors import FormatError, InputError

_LZMA_PRESET = 9 | lzma.PRESET_EXTREME
_LZMA_MAX_DICTIONARY_BYTES = 1 << 26


class Stored(Coder):
    """The plain form itself."""

    name = "stored"
    identifier = 0
    summary = "not coded at all"
    speed = Speed.FAST
    is_native = True

    def encode_bytes(self, blocks: Sequence[ByteSymbols]) -> bytes:
        """As of every coder."""
        return bytes([1] * len(blocks)) + b"".join(block.tobytes() for block in blocks)

    @staticmethod
    def size_bytes(blocks: Sequence[Symbols] | Sequence[ByteSymbols]) -> int:
        """Of what such blocks are encoded to."""
        return sum(1 + _width(block) * block.size for block in blocks)

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        widths = [_width(block) for block in blocks]
        plain = [block.astype(f"<i{width}").tobytes() for block, width in zip(blocks, widths, strict=True)]
        return bytes(widths) + b"".join(plain)

    def _plain(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> bytes | memoryview:
        """The plain form, not checked."""
        return data

    def _decode(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> list[Symbols]:
        data = self._plain(data, shapes)
        widths = bytes(data[: len(shapes)])
        if len(widths) < len(shapes) or not {1, 2, 4}.issuperset(widths):
            raise FormatError(f"{self.name} stream: expected {len(shapes)} widths of 1, 2 or 4, found {widths[:8]!r}")
        expected = len(shapes) + sum(prod(shape) * width for shape, width in zip(shapes, widths, strict=True))
        if len(data) != expected:
            raise FormatError(f"{self.name} stream: expected {expected} bytes of symbols, found {len(data)}")
        blocks = []
        offset = len(shapes)
        for shape, width in zip(shapes, widths, strict=True):
            plain = np.frombuffer(data, f"<i{width}", count=prod(shape), offset=offset)
            offset += plain.nbytes
            blocks.append(plain.astype(np.int32).reshape(shape))
            if plain.size and not (plain.min() > -SYMBOL_LIMIT and plain.max() < SYMBOL_LIMIT):
                raise FormatError(
                    f"{self.name} stream: expected symbols below 2^30, found {plain.min()}, {plain.max()}"
                )
        return blocks


class _Compressed(Stored):
    """A general compressor over the plain form."""

    is_native = False

    def encode_bytes(self, blocks: Sequence[ByteSymbols]) -> bytes:
        """As of every coder."""
        return self._compress(super().encode_bytes(blocks))

    def _encode(self, blocks: Sequence[Symbols]) -> bytes:
        return self._compress(super()._encode(blocks))

    def _plain(self, data: bytes | memoryview, shapes: Sequence[Shape]) -> bytes | memoryview:
        return self._decompress(data, len(shapes) + 4 * sum(prod(shape) for shape in shapes))

    def _error(self, found: object) -> FormatError:
        return FormatError(f"{self.name} stream: expected one whole {self.name} stream, found {found}")

    @abstractmethod
    def _compress(self, plain: bytes) -> bytes: ...

    @abstractmethod
    def _decompress(self, data: bytes | memoryview, limit_bytes: int) -> bytes:
        """At most `limit_bytes` bytes are made and returned. Raises FormatError if that is not the whole stream."""


class Gzip(_Compressed):
    """gzip's method at its best level, without gzip's header and checksum: a raw deflate stream."""

    name = "gzip"
    identifier = 4
    summary = "what everybody has"
    speed = Speed.FAST

    def _compress(self, plain: bytes) -> bytes:
        compressor = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS, memLevel=9)
        return compressor.compress(plain) + compressor.flush()

    def _decompress(self, data: bytes | memoryview, limit_bytes: int) -> bytes:
        decompressor = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            # One byte more than allowed: a limit of zero means none, and the stream's end may follow the last byte.
            plain = decompressor.decompress(data, limit_bytes + 1)
        except zlib.error as error:
            raise self._error(error) from error
        return _whole(self, plain, limit_bytes, decompressor.eof, decompressor.unused_data)


class Zstd(_Compressed):
    """Zstandard at its best level, without a checksum."""

    name = "zstd"
    identifier = 5
    summary = "a general compressor"
    speed = Speed.FAST

    def check_installed(self) -> None:
        """Look for the package zstandard."""
        _zstandard()

    def _compress(self, plain: bytes) -> bytes:
        compressed: bytes = _zstandard().ZstdCompressor(level=22, write_checksum=False).compress(plain)
        return compressed

    def _decompress(self, data: bytes | memoryview, limit_bytes: int) -> bytes:
        zstandard = _zstandard()
        try:
            # The content size is what gets allocated, so it is looked at first; our encoder always writes it.
            size = zstandard.get_frame_parameters(data).content_size
            if size > limit_bytes:
                raise self._error(f"more than {limit_bytes} bytes in it")
            if size == 0:  # where zstandard does not look further
                if data != self._compress(b""):
                    raise self._error("something behind an empty one")
                return b""
            plain: bytes = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
            return plain
        except zstandard.ZstdError as error:
            raise self._error(error) from error


class Lzma(_Compressed):
    """LZMA2 as of xz at its best level, without the container's header and checksum."""

    name = "lzma"
    identifier = 6
    summary = "a strong general compressor"
    speed = Speed.MEDIUM

    def _compress(self, plain: bytes) -> bytes:
        return lzma.compress(plain, lzma.FORMAT_RAW, filters=_lzma_filters(len(plain)))

    def _decompress(self, data: bytes | memoryview, limit_bytes: int) -> bytes:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_lzma_filters(limit_bytes))
        try:
            plain = decompressor.decompress(data, limit_bytes + 1)
        except lzma.LZMAError as error:
            raise self._error(error) from error
        return _whole(self, plain, limit_bytes, decompressor.eof, decompressor.unused_data)


def _zstandard() -> Any:
    """The library, which is not needed for anything else."""
    try:
        import zstandard
    except ImportError:
        raise InputError("zstd: expected the package zstandard, found none; pip install zstandard") from None
    return zstandard


def _width(block: Symbols | ByteSymbols) -> int:
    """The smallest of 1, 2 and 4 bytes that holds every symbol of the block, as a signed integer."""
    if block.size == 0 or block.itemsize == 1:
        return 1
    least, greatest = int(block.min()), int(block.max())
    return next(width for width in (1, 2, 4) if -(1 << 8 * width - 1) <= least and greatest < 1 << 8 * width - 1)


def _lzma_filters(plain_bytes: int) -> list[dict[str, Any]]:
    """For at most that many bytes: a larger dictionary gives the same bytes, and takes memory on both sides."""
    dictionary_bytes = min(max(4096, plain_bytes), _LZMA_MAX_DICTIONARY_BYTES)
    return [{"id": lzma.FILTER_LZMA2, "preset": _LZMA_PRESET, "dict_size": dictionary_bytes}]


def _whole(coder: _Compressed, plain: bytes, limit_bytes: int, is_ended: bool, left_over: bytes) -> bytes:
    if len(plain) > limit_bytes:
        raise coder._error(f"more than {limit_bytes} bytes in it")
    if not is_ended:
        raise coder._error("it truncated")
    if left_over:
        raise coder._error(f"{len(left_over)} bytes after it")
    return plain
