"""The header of a `.mtq` file: its Python form, and that form to bytes and back (docs/format.md, "Header")."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from metaq.codebook import Codebook, IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import SYMBOLS_PER_BYTE
from metaq.errors import FormatError, InputError

MAGIC = b"MTQ"
VERSION = 1

MAX_HEADER_BYTES = 1 << 26
# In text coding each byte costs at least log2(65536 / 65408) bits, and the code's last 8 bytes may be implied.
HEADER_BYTES_PER_BYTE = 1 << 12
MAX_ELEMENTS = 1 << 40
MAX_DIMENSIONS = 32
MAX_LEVELS = 1 << 20
MAX_TENSORS = 1 << 20
MAX_CHUNK_SYMBOLS = 1 << 26

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


class TensorEntry(NamedTuple):
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


class ChunkEntry(NamedTuple):
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


def fits_limits(shape: tuple[int, ...]) -> bool:
    """Whether a file may hold a tensor of this shape."""
    # Every dimension counts as at least one, so that no huge dimension hides behind a zero.
    return len(shape) <= MAX_DIMENSIONS and math.prod([length or 1 for length in shape]) < MAX_ELEMENTS


def fits_dtype(codebook: Codebook, dtype: torch.dtype) -> bool:
    """Whether a codebook may belong to a tensor of this dtype."""
    return not dtype.is_floating_point if isinstance(codebook, IntegerCodebook) else dtype in CODED_FLOATS


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
    codebooks: dict[bytes, int] = {}  # by their bytes, which tell -0.0 from 0.0
    for entry in header.tensors:
        out += _string(entry.name) + bytes([DTYPE_CODES[entry.dtype]])
        if entry.target is not None:
            out += bytes([ALIAS]) + varint(entry.target)
            continue
        out += bytes([KEPT if entry.codebook is None else CODED, len(entry.shape)])
        out += b"".join(map(varint, entry.shape))
        if entry.codebook is not None:
            definition = _pack_codebook(entry.codebook)
            out += varint(codebooks[definition]) if definition in codebooks else b"\0" + definition
            codebooks.setdefault(definition, len(codebooks) + 1)
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


class HeaderParser:
    """Reads a header's bytes; every failed expectation is a FormatError that names the offset within the header."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0
        self.codebooks: list[Codebook] = []

    def parse(self) -> Header:
        """The whole header, used up to its last byte."""
        if self.byte() != 0:
            raise self.error("reserved flags 0", "other bits")
        keys: set[str] = set()
        entries = range(self.count("metadata entries", 2))
        metadata = {self.new_string("metadata keys", keys): self.string() for _ in entries}
        names: set[str] = set()
        tensors: list[TensorEntry] = []
        count = self.count("tensors", 4)
        if count > MAX_TENSORS:
            raise self.error(f"at most {MAX_TENSORS} tensors", str(count))
        for _ in range(count):
            tensors.append(self.tensor(self.new_string("tensor names", names), tensors))
        chunks = [self.chunk() for _ in range(self.count("chunks", 3))]
        left = len(self.data) - self.offset
        if left > 0:
            raise self.error("the end of the header", f"{left} more bytes")
        return Header(metadata, tensors, _fill_last_count(tensors, chunks))

    def tensor(self, name: str, before: list[TensorEntry]) -> TensorEntry:
        """One tensor entry behind its name."""
        code = self.byte()
        if code not in DTYPES:
            raise self.error("a known dtype", f"{code} for tensor {name!r}")
        dtype = DTYPES[code]
        kind = self.byte()
        if kind > ALIAS:
            raise self.error("kind 0, 1 or 2", f"{kind} for tensor {name!r}")
        if kind == KEPT and dtype == torch.bool:
            raise self.error("bool tensors to be coded", f"a kept one, {name!r}")
        if kind == ALIAS:
            target = self.varint()
            if not (target < len(before) and before[target].target is None and before[target].dtype == dtype):
                raise self.error("an earlier tensor of the same dtype", f"alias {name!r} of entry {target}")
            return TensorEntry(name, dtype, before[target].shape, target=target)
        dimensions = self.byte()
        if dimensions > MAX_DIMENSIONS:
            raise self.error(f"at most {MAX_DIMENSIONS} dimensions", f"{dimensions} for tensor {name!r}")
        shape = tuple([self.varint() for _ in range(dimensions)])
        if not fits_limits(shape):
            raise self.error("fewer than 2^40 elements", f"shape {shape} for tensor {name!r}")
        return TensorEntry(name, dtype, shape, self.codebook_reference(name, dtype) if kind == CODED else None)

    def codebook_reference(self, name: str, dtype: torch.dtype) -> Codebook:
        """A new codebook or an earlier one, checked against the tensor's dtype."""
        reference = self.varint()
        if reference == 0:
            self.codebooks.append(self.codebook())
            reference = len(self.codebooks)
        if reference > len(self.codebooks):
            raise self.error("a codebook defined before", f"reference {reference} for tensor {name!r}")
        codebook = self.codebooks[reference - 1]
        if not fits_dtype(codebook, dtype):
            raise self.error(f"a codebook for {dtype}", f"a {type(codebook).__name__} for tensor {name!r}")
        return codebook

    def codebook(self) -> Codebook:
        """One codebook's definition."""
        kind = self.byte()
        if kind > INTEGER:
            raise self.error("codebook kind 0, 1 or 2", str(kind))
        try:
            if kind == UNIFORM:
                return UniformCodebook(struct.unpack("<f", self.take(4))[0])
            if kind == INTEGER:
                return IntegerCodebook()
            count, origin = self.varint(), self.varint()
            if not 1 <= count <= MAX_LEVELS:
                raise self.error("1 to 2^20 levels", str(count))
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
        if number > room:
            raise self.error(f"at most {room} {what}", str(number))
        return number

    def new_string(self, what: str, known: set[str]) -> str:
        """A string that is not among the ``known`` ones yet, and now is."""
        text = self.string()
        if text in known:
            raise self.error(f"distinct {what}", f"{text!r} twice")
        known.add(text)
        return text

    def string(self) -> str:
        """A length-prefixed UTF-8 string."""
        raw = self.take(self.varint())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error("UTF-8", repr(raw[:20])) from None

    def varint(self) -> int:
        """Unsigned LEB128, in its shortest form."""
        data, offset = self.data, self.offset
        if offset < len(data) and data[offset] < 0x80:  # as most are
            self.offset = offset + 1
            return data[offset]
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 or value >= 1 << 63:
                    raise self.error("a shortest varint below 2^63", "another")
                return value
        raise self.error("a varint of at most ten bytes", "a longer one")

    def byte(self) -> int:
        """One byte."""
        offset = self.offset
        if offset >= len(self.data):
            raise self.error("1 more bytes", "0")
        self.offset = offset + 1
        return self.data[offset]

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        first = self.offset
        left = len(self.data) - first
        if size > left:
            raise self.error(f"{size} more bytes", f"{left}")
        self.offset = first + size
        return self.data[first : self.offset]

    def error(self, expected: str, found: str) -> FormatError:
        """What is wrong, and where."""
        return FormatError(f"header byte {self.offset}: expected {expected}, found {found[:200]}")


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
        highest = min(left, MAX_CHUNK_SYMBOLS, chunk.payload_bytes * SYMBOLS_PER_BYTE)
        if not 0 < symbols <= highest:
            raise FormatError(f"header, chunk {position}: expected 1 to {highest} symbols, found {symbols}")
        left -= symbols
        filled.append(ChunkEntry(chunk.coder, symbols, chunk.payload_bytes))
    if left:
        raise FormatError(f"header: expected chunks of {total} symbols in all, found {total - left}")
    return filled
