"""The header of a `.mtq` file: its Python form, and that form to bytes and back (docs/format.md, "Header")."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from metaq.codebook import Codebook, IntegerCodebook, TableCodebook, UniformCodebook
from metaq.errors import FormatError, InputError

MAX_HEADER_BYTES = 1 << 26
MAX_ELEMENTS = 1 << 40
MAX_DIMENSIONS = 32
MAX_LEVELS = 1 << 20
MAX_CHUNK_SYMBOLS = 1 << 26
MAX_SYMBOLS_PER_BYTE = 1 << 19

CODED, KEPT, ALIAS = 0, 1, 2
UNIFORM, TABLE, INTEGER = 0, 1, 2

DTYPES: dict[int, torch.dtype] = {
    0: torch.float32,
    1: torch.float16,
    2: torch.bfloat16,
    3: torch.float64,
    4: torch.float8_e4m3fn,
    5: torch.float8_e5m2,
    16: torch.uint8,
    17: torch.int8,
    18: torch.int16,
    19: torch.int32,
    20: torch.int64,
    21: torch.bool,
}
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}
CODED_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: coded if it has a codebook, an alias of the entry at ``target`` if it has one, kept otherwise."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    codebook: Codebook | None = None
    target: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ChunkEntry:
    """One chunk: the coder's identifier, the number of symbols, the payload's size in bytes without its checksum."""

    coder: int
    symbols: int
    payload_bytes: int


@dataclass(frozen=True)
class Header:
    """All that a file says before its chunks."""

    metadata: dict[str, str]
    tensors: list[TensorEntry]
    chunks: list[ChunkEntry]


def block_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, channels and kernel positions as which coders see a tensor (docs/format.md, "Blocks")."""
    if len(shape) >= 2 and math.prod(shape[1:]) <= 1 << 20:
        return shape[0], shape[1], math.prod(shape[2:])
    return math.prod(shape), 1, 1


def varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack(header: Header) -> bytes:
    """The header's bytes, before text coding."""
    out = bytearray(b"\0")
    out += varint(len(header.metadata))
    for key, value in header.metadata.items():
        out += _string(key) + _string(value)
    out += varint(len(header.tensors))
    codebooks: dict[Codebook, int] = {}
    for entry in header.tensors:
        out += _string(entry.name) + bytes([DTYPE_CODES[entry.dtype]])
        if entry.target is not None:
            out += bytes([ALIAS]) + varint(entry.target)
            continue
        out += bytes([KEPT if entry.codebook is None else CODED, len(entry.shape)])
        out += b"".join(map(varint, entry.shape))
        if entry.codebook is not None:
            known = codebooks.get(entry.codebook)
            out += b"\0" + _pack_codebook(entry.codebook) if known is None else varint(known)
            codebooks.setdefault(entry.codebook, len(codebooks) + 1)
    out += varint(len(header.chunks))
    for position, chunk in enumerate(header.chunks):
        is_last = position == len(header.chunks) - 1
        out += bytes([chunk.coder]) + varint(0 if is_last else chunk.symbols) + varint(chunk.payload_bytes)
    return bytes(out)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return varint(len(encoded)) + encoded


def _pack_codebook(codebook: Codebook) -> bytes:
    if isinstance(codebook, UniformCodebook):
        return bytes([UNIFORM]) + struct.pack("<f", codebook.step)
    if isinstance(codebook, IntegerCodebook):
        return bytes([INTEGER])
    sizes = varint(len(codebook.levels)) + varint(codebook.origin)
    return bytes([TABLE]) + sizes + np.asarray(codebook.levels, dtype="<f4").tobytes()


Item = TypeVar("Item")


class HeaderParser:
    """Reads a header's bytes; every failed expectation is a FormatError that names the offset within the header."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0
        self.codebooks: list[Codebook] = []

    def parse(self) -> Header:
        """The whole header, used up to its last byte."""
        self.expect(self.byte() == 0, "reserved flags 0", "other bits")
        metadata = dict(self.listed("metadata entries", 2, lambda: (self.string(), self.string()), key=lambda item: item[0]))
        tensors: list[TensorEntry] = []
        for _ in range(self.count("tensors", 3)):
            tensors.append(self.tensor(tensors))
        self.expect(len({entry.name for entry in tensors}) == len(tensors), "distinct tensor names", "a name twice")
        chunks = [self.chunk() for _ in range(self.count("chunks", 3))]
        self.expect(self.offset == len(self.data), "the end of the header", f"{len(self.data) - self.offset} more bytes")
        return Header(metadata, tensors, _fill_last_count(tensors, chunks))

    def listed(self, what: str, least_bytes: int, read: Callable[[], Item], key: Callable[[Item], str]) -> list[Item]:
        """A counted list whose keys are distinct."""
        items = [read() for _ in range(self.count(what, least_bytes))]
        self.expect(len(set(map(key, items))) == len(items), f"distinct {what}", "one twice")
        return items

    def tensor(self, before: list[TensorEntry]) -> TensorEntry:
        """One tensor entry."""
        name = self.string()
        code = self.byte()
        self.expect(code in DTYPES, "a known dtype", f"{code} for tensor {name!r}")
        dtype = DTYPES[code]
        kind = self.byte()
        self.expect(kind in (CODED, KEPT, ALIAS), "kind 0, 1 or 2", f"{kind} for tensor {name!r}")
        if kind == ALIAS:
            target = self.varint()
            known = target < len(before) and before[target].target is None and before[target].dtype == dtype
            self.expect(known, "an earlier tensor of the same dtype", f"alias {name!r} of entry {target}")
            return TensorEntry(name, dtype, before[target].shape, target=target)
        dimensions = self.byte()
        self.expect(dimensions <= MAX_DIMENSIONS, f"at most {MAX_DIMENSIONS} dimensions", f"{dimensions} for tensor {name!r}")
        shape = tuple(self.varint() for _ in range(dimensions))
        # Every dimension counts as at least one here, so that no huge dimension hides behind a zero.
        elements = math.prod(max(length, 1) for length in shape)
        self.expect(elements < MAX_ELEMENTS, "fewer than 2^40 elements", f"{elements} for tensor {name!r}")
        codebook = self.codebook_reference(name, dtype) if kind == CODED else None
        return TensorEntry(name, dtype, shape, codebook)

    def codebook_reference(self, name: str, dtype: torch.dtype) -> Codebook:
        """A new codebook or an earlier one, checked against the tensor's dtype."""
        reference = self.varint()
        if reference == 0:
            self.codebooks.append(self.codebook())
            reference = len(self.codebooks)
        self.expect(reference <= len(self.codebooks), "a codebook defined before", f"reference {reference} for tensor {name!r}")
        codebook = self.codebooks[reference - 1]
        fits = not dtype.is_floating_point if isinstance(codebook, IntegerCodebook) else dtype in CODED_FLOATS
        self.expect(fits, f"a codebook for {dtype}", f"a {type(codebook).__name__} for tensor {name!r}")
        return codebook

    def codebook(self) -> Codebook:
        """One codebook's definition."""
        kind = self.byte()
        self.expect(kind in (UNIFORM, TABLE, INTEGER), "codebook kind 0, 1 or 2", str(kind))
        try:
            if kind == UNIFORM:
                return UniformCodebook(struct.unpack("<f", self.take(4))[0])
            if kind == INTEGER:
                return IntegerCodebook()
            count, origin = self.varint(), self.varint()
            self.expect(1 <= count <= MAX_LEVELS, "1 to 2^20 levels", str(count))
            return TableCodebook(tuple(np.frombuffer(self.take(4 * count), dtype="<f4").tolist()), origin)
        except InputError as error:
            raise FormatError(f"header byte {self.offset}: {error}") from None

    def chunk(self) -> ChunkEntry:
        """One chunk entry; a count of 0 is resolved once all are read."""
        return ChunkEntry(self.byte(), self.varint(), self.varint())

    def count(self, what: str, least_bytes: int) -> int:
        """A number of items, each of at least ``least_bytes``: never more than the header can hold."""
        number = self.varint()
        room = (len(self.data) - self.offset) // least_bytes
        self.expect(number <= room, f"at most {room} {what}", str(number))
        return number

    def string(self) -> str:
        """A length-prefixed UTF-8 string."""
        raw = self.take(self.varint())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"header byte {self.offset}: expected UTF-8, found {raw[:20]!r}") from None

    def varint(self) -> int:
        """Unsigned LEB128, in its shortest form."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.expect((byte > 0 or shift == 0) and value < 1 << 63, "a shortest varint below 2^63", "another")
                return value
        raise FormatError(f"header byte {self.offset}: expected a varint of at most ten bytes, found a longer one")

    def byte(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        left = len(self.data) - self.offset
        self.expect(size <= left, f"{size} more bytes", f"{left}")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def expect(self, holds: bool, expected: str, found: str) -> None:
        """Raise a FormatError unless ``holds``."""
        if not holds:
            raise FormatError(f"header byte {self.offset}: expected {expected}, found {found}")


def symbol_count(tensors: list[TensorEntry]) -> int:
    """Length of the symbol sequence: one symbol for each coded element, one for each byte of a kept one."""
    return sum(
        entry.size * (1 if entry.codebook is not None else entry.dtype.itemsize)
        for entry in tensors
        if entry.target is None
    )


def _fill_last_count(tensors: list[TensorEntry], chunks: list[ChunkEntry]) -> list[ChunkEntry]:
    """Chunks with counts that cover the symbol sequence exactly, each within its limits."""
    total = left = symbol_count(tensors)
    filled = []
    for position, chunk in enumerate(chunks):
        symbols = chunk.symbols or left
        highest = min(left, MAX_CHUNK_SYMBOLS, chunk.payload_bytes * MAX_SYMBOLS_PER_BYTE)
        if not 0 < symbols <= highest:
            raise FormatError(f"header, chunk {position}: expected 1 to {highest} symbols, found {symbols}")
        left -= symbols
        filled.append(ChunkEntry(chunk.coder, symbols, chunk.payload_bytes))
    if left:
        raise FormatError(f"header: expected chunks of {total} symbols in all, found {total - left}")
    return filled
